#!/usr/bin/env python3
"""Programs that are told that something is durable, and remember it somewhere else.

    acked.py files run DIR LOG SEED       files made, grown, overwritten, replaced, each change ended by fsync
    acked.py files check DIR LOG          what LOG says was acknowledged is in DIR
    acked.py sqlite run DB LOG MODE       rows, each committed with synchronous=extra
    acked.py sqlite check DB LOG
    acked.py order run DIR SEED           changes that are not synced, each naming its number
    acked.py order check DIR              they are there up to one of them, and nothing after it

"run" goes on until the filesystem goes away; before that, whoever takes it away makes the file $KILLED, and an error before
that is one. LOG is on another filesystem, which outlives the daemon: it has a line "begin"
before a change and a line "done" once fsync has answered.
"""

import os
import random
import sqlite3
import sys

FILES = 40
ORDER_KEPT = 1000


def body(name, version):
    """A file's content says what it is: a header, and bytes that follow from it."""
    rng = random.Random(f"{name} {version}")
    size = rng.choice((0, 10, 100, 3000, 5000, 20000, 200000))
    return f"{name} {version}\n".encode() + rng.randbytes(size)


def write_all(fd, data, at=0):
    done = 0
    while done < len(data):
        done += os.pwrite(fd, data[done:], at + done)


def files_run(directory, log_path, seed):
    # The process may come again in the next round: what it says then must differ from what was there.
    rng = random.Random(f"{seed} {os.path.getsize(log_path) if os.path.exists(log_path) else 0}")
    log = open(log_path, "a", buffering=1)
    number = sum(1 for line in open(log_path) if line.startswith("begin"))
    while True:
        number += 1
        name = f"f{rng.randrange(FILES)}"
        path = os.path.join(directory, name)
        how = rng.choice(("rewrite", "replace", "replace", "remove", "rename-dir"))
        data = body(name, number)
        log.write(f"begin {number} {how} {name}\n")
        if how == "rewrite":
            fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
            os.ftruncate(fd, 0)
            write_all(fd, data)
            rng.choice((os.fsync, os.fdatasync))(fd)
            os.close(fd)
        elif how == "replace":
            fd = os.open(path + ".tmp", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
            write_all(fd, data)
            os.rename(path + ".tmp", path)
            os.fsync(fd)
            os.close(fd)
        elif how == "remove":
            try:
                os.unlink(path)
            except FileNotFoundError:
                pass
            dirfd = os.open(directory, os.O_RDONLY)
            os.fsync(dirfd)
            os.close(dirfd)
        else:
            # Written under another name in another directory, moved here, and only the directory synced.
            side = os.path.join(directory, "side")
            os.makedirs(side, exist_ok=True)
            fd = os.open(os.path.join(side, name), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
            write_all(fd, data)
            os.close(fd)
            os.rename(os.path.join(side, name), path)
            dirfd = os.open(directory, os.O_RDONLY)
            os.fsync(dirfd)
            os.close(dirfd)
        log.write(f"done {number}\n")


def read_or_none(path):
    try:
        with open(path, "rb") as f:
            return f.read()
    except FileNotFoundError:
        return None


def files_check(directory, log_path):
    # For each name what it may be: what the last acknowledged change made of it, or what a change made that a kill cut off
    # since then, whole or in part.
    may, pending, counted = {}, None, 0

    def cut_off(change):
        number, how, name = change
        wants = may.setdefault(name, [("whole", None)])
        wants.append(("whole", None if how == "remove" else body(name, number)))
        if how == "rewrite":
            wants.append(("part", body(name, number)))

    for line in open(log_path):
        word = line.split()
        if word[0] == "begin":
            if pending:
                cut_off(pending)
            pending = (int(word[1]), word[2], word[3])
        elif pending and int(word[1]) == pending[0]:
            number, how, name = pending
            may[name] = [("whole", None if how == "remove" else body(name, number))]
            pending = None
            counted += 1
    if pending:
        cut_off(pending)
    bad = 0
    for name, wants in sorted(may.items()):
        got = read_or_none(os.path.join(directory, name))
        if not any(got == want if kind == "whole" else got is not None and want.startswith(got) for kind, want in wants):
            bad += 1
            print(f"acked.py: {name}: {describe(got)}, but should be one of {[describe(want) for _, want in wants]}")
    print(f"acked.py: {counted} changes of {len(may)} files acknowledged, {bad} files wrong")
    return bad == 0


def describe(got):
    if got is None:
        return "missing"
    return f"{len(got)} bytes, {got[:20]!r}"


def sqlite_run(path, log_path, mode):
    log = open(log_path, "a", buffering=1)
    db = sqlite3.connect(path, isolation_level=None, timeout=30)
    db.execute(f"pragma journal_mode={mode}")
    # "full" does not sync the directory after the journal is unlinked, which is the commit.
    db.execute("pragma synchronous=extra")
    db.execute("create table if not exists t(id integer primary key, n integer, filler blob)")
    number = (db.execute("select max(n) from t").fetchone()[0] or 0)
    directory = os.open(os.path.dirname(os.path.abspath(path)), os.O_DIRECTORY)
    while True:
        number += 1
        db.execute("begin immediate")
        db.execute("insert into t(n, filler) values (?, zeroblob(?))", (number, number * 37 % 3000))
        if number % 5 == 0:
            db.execute("update t set filler = zeroblob(10) where n = ?", (number - 3,))
        db.execute("commit")
        # Where sqlite cannot open the directory to sync it, because the daemon has just ended, it calls the commit done all
        # the same (unixDelete in os_unix.c). Then this fails, too.
        os.close(os.open(".", os.O_DIRECTORY, dir_fd=directory))
        log.write(f"done {number}\n")


def sqlite_check(path, log_path):
    acked = max((int(line.split()[1]) for line in open(log_path) if line.endswith("\n")), default=0)
    db = sqlite3.connect(path, isolation_level=None)
    integrity = db.execute("pragma integrity_check").fetchone()[0]
    if acked == 0:
        return integrity == "ok"
    count, last, distinct = db.execute("select count(*), max(n), count(distinct n) from t").fetchone()
    print(f"acked.py: {acked} rows acknowledged, {count} there, integrity {integrity}")
    return integrity == "ok" and last >= acked and count == last == distinct


def order_run(directory, seed):
    rng = random.Random(seed)
    number = max([int(x) for x in os.listdir(directory)], default=-1)
    # What the last run was about to do.
    if os.path.exists(os.path.join(directory, str(number - ORDER_KEPT))):
        os.unlink(os.path.join(directory, str(number - ORDER_KEPT)))
    while True:
        number += 1
        path = os.path.join(directory, str(number))
        with open(path + ".tmp", "wb", buffering=0) as f:
            f.write(str(number).encode() * rng.randrange(1, 2000))
        os.rename(path + ".tmp", path)
        if number >= ORDER_KEPT:
            os.unlink(os.path.join(directory, str(number - ORDER_KEPT)))


def order_check(directory):
    names = os.listdir(directory)
    numbers = sorted(int(x) for x in names if not x.endswith(".tmp"))
    if not numbers:
        return True
    first, last = numbers[0], numbers[-1]
    if numbers != list(range(first, last + 1)):
        print(f"acked.py: numbers are missing among {len(numbers)} from {first} to {last}")
        return False
    if last - first not in (ORDER_KEPT - 1, ORDER_KEPT) if last >= ORDER_KEPT else first != 0:
        print(f"acked.py: {first} to {last} were never there together")
        return False
    for number in numbers:
        with open(os.path.join(directory, str(number)), "rb") as f:
            data = f.read()
        if not data or data != str(number).encode() * (len(data) // len(str(number))):
            print(f"acked.py: file {number} has {len(data)} bytes, not its own")
            return False
    for name in [x for x in names if x.endswith(".tmp")]:
        if int(name[:-4]) != last + 1 or last - first == ORDER_KEPT:
            print(f"acked.py: {name} beside {first} to {last}")
            return False
        os.unlink(os.path.join(directory, name))
    print(f"acked.py: {last + 1} unsynced changes kept in order")
    return True


def main():
    what, how, args = sys.argv[1], sys.argv[2], sys.argv[3:]
    call = globals()[f"{what}_{how}"]
    if how == "run":
        try:
            call(*args)
        except (OSError, sqlite3.Error):
            if not os.path.exists(os.environ["KILLED"]):
                raise
        return 0
    return 0 if call(*args) else 1


if __name__ == "__main__":
    sys.exit(main())
