#!/usr/bin/env python3
"""full.py DIR ROUNDS SEED: fills the filesystem of DIR in different ways, tries every operation on it, empties it again."""

import errno
import os
import random
import sys
import time

root, rounds, seed = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
MAY = (errno.ENOSPC, errno.EDQUOT)


def attempt(what, call, *args):
    """The call's result, or None where there is no room. Everything else ends the test."""
    try:
        return call(*args)
    except OSError as e:
        if e.errno not in MAY:
            raise SystemExit(f"full.py: {what}: {e}")
        return None


def put(path, data, sync):
    """True, or False where there was no room, at whatever step."""
    done = False

    def write():
        nonlocal done
        with open(path, "wb", buffering=0) as f:
            at = 0
            while at < len(data):
                at += f.write(data[at:])
            if sync:
                os.fsync(f.fileno())
        done = True

    attempt("write " + path, write)
    return done


def fill(rng, how, base):
    """Files until nothing more fits; returns those that were written whole. The directory is there."""
    held, misses, number = {}, 0, 0
    while misses < 8:
        number += 1
        size = {"large": 1 << 20, "small": rng.randrange(6000), "empty": 0, "mixed": 1 << rng.randrange(20)}[how]
        path = f"{base}/{'long-name-' * (20 if how == 'empty' else 1)}{number}"
        data = rng.randbytes(size)
        if put(path, data, number % 16 == 0):
            held[path] = data
            misses = 0
        else:
            misses += 1
            if how in ("large", "mixed"):
                # What does not fit whole may fit in part: the last blocks go too.
                put(path, data[: size // 64], False)
        if number >= (6000 if how == "empty" else 20000):
            break
    return held


def every_operation(rng, base, held):
    names = list(held)
    for path in rng.sample(names, min(20, len(names))):
        d = path + ".d"
        attempt("mkdir", os.mkdir, d)
        attempt("symlink", os.symlink, "x" * 200, path + ".s")
        attempt("link", os.link, path, path + ".l")
        attempt("mknod", os.mkfifo, path + ".p")
        attempt("setxattr", os.setxattr, path, "user.a", b"v" * 3000)
        attempt("chmod", os.chmod, path, 0o600)
        attempt("utime", os.utime, path, (1, 1))
        for made in (path + ".l", path + ".s"):
            if os.path.lexists(made):
                attempt("rename", os.rename, made, path + ".m")
        with open(path, "r+b", buffering=0) as f:
            # Overwriting in place needs new blocks here.
            attempt("overwrite", f.write, held[path][:100])
            attempt("fallocate", os.posix_fallocate, f.fileno(), 0, 1 << 28)
            # That may have left it longer where there is no room for all of it; the content is the same.
            os.ftruncate(f.fileno(), len(held[path]))
            attempt("fsync", os.fsync, f.fileno())
    for path, data in held.items():
        with open(path, "rb") as f:
            got = f.read()
        if got != data:
            raise SystemExit(f"full.py: {path} has changed: {len(got)} bytes of {len(data)}")
    for name in os.listdir(base):
        os.lstat(os.path.join(base, name))


def empty(rng, base):
    """Nothing here may fail: a full filesystem can always be emptied."""
    names = os.listdir(base)
    rng.shuffle(names)
    for name in names:
        path = os.path.join(base, name)
        if os.path.isdir(path) and not os.path.islink(path):
            os.rmdir(path)
            continue
        if rng.randrange(4) == 0 and os.path.isfile(path) and not os.path.islink(path):
            os.truncate(path, 0)
        os.unlink(path)
    os.rmdir(base)


def free_now(want):
    """Blocks free, once it is as much as wanted or does not come back in time."""
    end = time.monotonic() + 20
    while True:
        free = os.statvfs(root).f_bfree
        if free >= want or time.monotonic() > end:
            return free
        time.sleep(0.1)


def main():
    rng = random.Random(seed)
    first, begin = None, time.monotonic()

    def say(what):
        print(f"{time.monotonic() - begin:7.2f} s: {what}", flush=True)

    for r in range(rounds):
        how = ("large", "small", "mixed", "empty")[r % 4]
        base = f"{root}/{how}{r}"
        start = free_now(first - first // 8 if first else 0)
        first = first or start
        os.mkdir(base)
        held = fill(rng, how, base)
        full = os.statvfs(root)
        say(f"round {r} ({how}): {len(held)} files, {full.f_bavail} blocks left")
        every_operation(rng, base, held)
        # Twice full without being emptied in between: a little room is made and taken. What lies between small files may be
        # too scattered for nodes of the tree, so it may have to be a little more; but never half of all.
        whole = len(held)
        while True:
            for path in rng.sample(list(held), whole // 10):
                os.unlink(path)
                del held[path]
            try:
                os.mkdir(base + "/again")
                break
            except OSError as e:
                say(f"after removing {whole - len(held)} of {whole} files: {e.strerror}")
                if e.errno not in MAY or len(held) * 2 < whole:
                    raise
        held.update(fill(rng, "mixed", base + "/again"))
        every_operation(rng, base + "/again", {p: d for p, d in held.items() if "/again/" in p})
        say("full again")
        empty(rng, base + "/again")
        empty(rng, base)
        # Nodes of the tree that was come back with the next checkpoint.
        back = free_now(first - first // 8)
        say(f"empty again: {back} blocks of {first}")
        if back < first - first // 8:
            raise SystemExit(f"full.py: {first - back} blocks of {first} did not come back")


main()
