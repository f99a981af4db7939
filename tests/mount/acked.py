#!/usr/bin/env python3
"""Programs that are told that something is durable, and remember it somewhere else.

    acked.py files run DIR LOG SEED       files made, grown, overwritten, replaced, each change ended by fsync
    acked.py files check DIR LOG          what LOG says was acknowledged is in DIR
    acked.py sqlite run DB LOG MODE       rows, each committed with synchronous=extra
    acked.py sqlite check DB LOG
    acked.py git run REPO LOG             commits
    acked.py git check REPO LOG
    acked.py tar run DIR LOG TARBALL      trees unpacked, then synced by one fsync; older ones removed
    acked.py tar check DIR LOG TARBALL
    acked.py order run DIR SEED [LOG]     changes that are not synced, each naming its number
    acked.py order check DIR              they are there up to one of them, and nothing after it

"run" goes on until the filesystem goes away; before that, whoever takes it away makes the file $KILLED, and an error before
that is one. LOG is on another filesystem, which outlives the daemon: it has a line "begin" before a change and a line "done"
once fsync has answered, both ending with the time (CLOCK_MONOTONIC, nanoseconds). The check of a state that stood at some time
(powercut.py) goes by the lines before it.
"""

import functools
import math
import os
import random
import sqlite3
import subprocess
import sys
import tarfile
import time

FILES = 40
ORDER_KEPT = 1000


@functools.lru_cache(maxsize=2000)
def body(name, version):
    """A file's content says what it is: a header, and bytes that follow from it."""
    rng = random.Random(f"{name} {version}")
    size = rng.choice((0, 10, 100, 3000, 5000, 20000, 200000))
    return f"{name} {version}\n".encode() + rng.randbytes(size)


def note(log, *words):
    log.write(" ".join(str(word) for word in words) + f" {time.monotonic_ns()}\n")


def noted(log_path, before=math.inf):
    """The words of each line from before that time, without the time."""
    for line in open(log_path):
        word = line.split()
        # The last line may have been cut off.
        if line.endswith("\n") and int(word[-1]) < before:
            yield word[:-1]


def write_all(fd, data, at=0):
    done = 0
    while done < len(data):
        done += os.pwrite(fd, data[done:], at + done)


def files_run(directory, log_path, seed, changes=math.inf):
    # The process may come again in the next round: what it says then must differ from what was there.
    rng = random.Random(f"{seed} {os.path.getsize(log_path) if os.path.exists(log_path) else 0}")
    log = open(log_path, "a", buffering=1)
    number = sum(1 for line in open(log_path) if line.startswith("begin"))
    last = number + changes
    while number < last:
        number += 1
        name = f"f{rng.randrange(FILES)}"
        path = os.path.join(directory, name)
        how = rng.choice(("rewrite", "replace", "replace", "remove", "rename-dir"))
        data = body(name, number)
        note(log, "begin", number, how, name)
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
        note(log, "done", number)


def read_or_none(path):
    try:
        with open(path, "rb") as f:
            return f.read()
    except FileNotFoundError:
        return None


def files_check(directory, log_path, before=math.inf):
    # For each name what it may be: what the last acknowledged change made of it, or what a change made that a kill cut off
    # since then, whole or in part.
    may, pending, counted = {}, None, 0

    def cut_off(change):
        number, how, name = change
        wants = may.setdefault(name, [("whole", None)])
        wants.append(("whole", None if how == "remove" else body(name, number)))
        if how == "rewrite":
            wants.append(("part", body(name, number)))

    for word in noted(log_path, before):
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
        note(log, "done", number)


def sqlite_check(path, log_path, before=math.inf):
    acked = max((int(word[1]) for word in noted(log_path, before)), default=0)
    db = sqlite3.connect(path, isolation_level=None)
    integrity = db.execute("pragma integrity_check").fetchone()[0]
    if acked == 0:
        return integrity == "ok"
    count, last, distinct = db.execute("select count(*), max(n), count(distinct n) from t").fetchone()
    print(f"acked.py: {acked} rows acknowledged, {count} there, integrity {integrity}")
    # At a known time there can be at most the one that was being committed.
    limit = math.inf if before == math.inf else acked + 1
    return integrity == "ok" and acked <= last <= limit and count == last == distinct


def git(repo, *args):
    return subprocess.run(["git", "-C", repo, *args], check=True, capture_output=True, text=True).stdout.strip()


def git_run(repo, log_path):
    """Git syncs what a commit consists of, not the directory with the branch's name."""
    log = open(log_path, "a", buffering=1)
    heads = os.path.join(repo, ".git", "refs", "heads")
    number = 0
    while True:
        number += 1
        with open(os.path.join(repo, f"file{number % 20}"), "w") as f:
            f.write(f"{number}\n" * (number * 37 % 500))
        git(repo, "add", "-A")
        git(repo, "commit", "-q", "-m", str(number))
        head = git(repo, "rev-parse", "HEAD")
        fd = os.open(heads, os.O_DIRECTORY)
        os.fsync(fd)
        os.close(fd)
        note(log, "done", head)


def git_check(repo, log_path, before=math.inf):
    acked = [word[1] for word in noted(log_path, before)]
    if not acked:
        return True
    # Locks of a git that was cut off are its own affair.
    for folder, _, names in os.walk(os.path.join(repo, ".git")):
        for name in names:
            if name.endswith(".lock"):
                os.unlink(os.path.join(folder, name))
    try:
        git(repo, "fsck", "--no-progress", "--no-dangling")
        git(repo, "merge-base", "--is-ancestor", acked[-1], "HEAD")
    except subprocess.CalledProcessError as e:
        print(f"acked.py: {' '.join(e.cmd)}: {e.stdout}{e.stderr}")
        return False
    print(f"acked.py: {len(acked)} commits acknowledged")
    return True


def tar_run(directory, log_path, tarball):
    log = open(log_path, "a", buffering=1)
    number = 0
    while True:
        number += 1
        tree = os.path.join(directory, str(number))
        os.mkdir(tree)
        subprocess.run(["tar", "-xf", tarball, "-C", tree], check=True)
        # Of a directory, which here is everything: syncfs does not reach a FUSE filesystem that is no block device.
        fd = os.open(tree, os.O_DIRECTORY)
        os.fsync(fd)
        os.close(fd)
        note(log, "done", number)
        if number > 1:
            note(log, "gone", number - 1)
            subprocess.run(["rm", "-rf", os.path.join(directory, str(number - 1))], check=True)


def tar_check(directory, log_path, tarball, before=math.inf):
    there = {"done": 0, "gone": 0}
    for what, number in noted(log_path, before):
        there[what] = int(number)
    number = there["done"]
    if not number:
        return True
    with tarfile.open(tarball) as tar:
        for member in tar:
            path = os.path.join(directory, str(number), member.name)
            if member.isfile() and read_or_none(path) != tar.extractfile(member).read():
                print(f"acked.py: {path} is not what was unpacked")
                return False
            if not os.path.lexists(path):
                print(f"acked.py: {path} is not there")
                return False
    print(f"acked.py: tree {number} is whole")
    return True


def order_run(directory, seed, log_path=os.devnull):
    rng = random.Random(seed)
    log = open(log_path, "a", buffering=1)
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
        note(log, "done", number)
        if number >= ORDER_KEPT:
            os.unlink(os.path.join(directory, str(number - ORDER_KEPT)))


def order_check(directory, least=-1, most=math.inf):
    """least, most: bounds of the newest, where they are known."""
    names = os.listdir(directory)
    numbers = sorted(int(x) for x in names if not x.endswith(".tmp"))
    if not least <= max(numbers, default=-1) <= most:
        print(f"acked.py: the newest is {max(numbers, default=-1)}, but should be one of {least} to {most}")
        return False
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
