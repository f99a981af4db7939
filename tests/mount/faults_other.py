#!/usr/bin/env python3
"""Faults that are no I/O error: a daemon that stands still, a device that is slow, an image that is cut off, replaced or removed
under the mount, a host without space. What must hold is what faults.py says, as far as the fault leaves an image to keep it on.

    faults_other.py [NAME...]      stopped slow cut replaced removed host_full
"""

import errno
import hashlib
import os
import signal
import subprocess
import sys
import threading
import time

import acked
import faults
import powercut
from faults import MNT, SCRATCH, SLOWER, Bad, Daemon

BASE, IMAGE, LOG, TRACE = (f"{SCRATCH}/{x}" for x in ("base", "round.img", "log", "trace"))


def digest(path):
    h = hashlib.blake2b()
    with open(path, "rb") as f:
        while data := f.read(1 << 20):
            h.update(data)
    return h.hexdigest()


def work(allowed=()):
    result = faults.in_time("do", LOG, "1")
    if "bad" in result:
        raise Bad(result["bad"])
    if set(result["errors"]) - set(allowed):
        raise Bad(f"errors: {result['errors']}")
    return result["errors"]


def all_well(found):
    if found["state"] != "read-write" or any(found[x] != "ok" for x in ("create", "mkdir", "fsync", "read", "list")):
        raise Bad(f"not all well: {found}")


def end(daemon, statuses=(0,)):
    status = daemon.umount()
    if status not in statuses:
        raise Bad(f"ends with status {status}: {daemon.said()}")


def check(image):
    """It is sound, and what was acknowledged is there."""
    status, said = faults.fsck(image)
    if status:
        raise Bad(f"fsck ended with status {status}: {said}")
    daemon = Daemon(image, test=False)
    try:
        if not daemon.alive():
            raise Bad("does not mount again: " + daemon.said())
        powercut.run_checks([powercut.Check(f"files:files:{LOG}")], MNT, 1 << 62)
        end(daemon)
    except powercut.Bad as e:
        raise Bad(str(e)) from e
    finally:
        daemon.kill()


def stopped():
    """The daemon stands still for longer than it may lose: nobody notices but by waiting."""
    with running() as daemon:
        for seconds in (0.5, 3):
            timer = threading.Timer(0.1, daemon.process.send_signal, [signal.SIGSTOP])
            goes_on = threading.Timer(0.1 + seconds, daemon.process.send_signal, [signal.SIGCONT])
            timer.start()
            goes_on.start()
            work()
            goes_on.join()
        all_well(faults.in_time("probe"))
        end(daemon)
    check(IMAGE)


def slow():
    """Every transfer takes its time; who needs none does not wait for who does."""
    with running() as daemon:
        daemon.command("delay read 5")
        daemon.command("delay write 5")
        daemon.command("delay flush 100")
        work()
        daemon.command("clear")
        with open(f"{MNT}/slow", "wb") as f:
            f.write(b"x" * 5000)
            daemon.command("delay flush 4000")
            begin = time.monotonic()
            syncing = subprocess.Popen(["sync", f"{MNT}/slow"])
            time.sleep(0.3)
            for _ in range(20):
                os.statvfs(MNT)
                os.stat(f"{MNT}/old/f1")
                os.listdir(f"{MNT}/old")
            took = time.monotonic() - begin
            if syncing.poll() is not None or took > 3 * SLOWER:
                raise Bad(f"looking at names took {took:.1f} s while an fsync was under way")
            if syncing.wait():
                raise Bad("the slow fsync failed")
        daemon.command("clear")
        all_well(faults.in_time("probe"))
        end(daemon)
    check(IMAGE)


def cut():
    """Two thirds of the image are gone: errors, but no wrong data and no end; then fsck says what it finds."""
    with running() as daemon:
        work()
        os.truncate(IMAGE, os.path.getsize(IMAGE) // 3)
        work(errno.errorcode.values())
        with open(f"{MNT}/.arbor/status") as f:
            f.read()
        if not daemon.alive():
            raise Bad(f"the daemon has ended with status {daemon.process.returncode}")
        end(daemon, (0, 32))
    status, said = faults.fsck(IMAGE)
    if not 0 < status < 32:
        raise Bad(f"fsck of what is left ends with status {status}: {said}")


def replaced():
    """Another image takes the place of this one: the daemon keeps to its own, and does not touch the other."""
    with running() as daemon:
        faults.copy_image(BASE, IMAGE + ".new")
        wanted = digest(IMAGE + ".new")
        os.rename(IMAGE + ".new", IMAGE)
        work()
        all_well(faults.in_time("probe"))
        end(daemon)
    if digest(IMAGE) != wanted:
        raise Bad("the image that took the place was written to")
    status, said = faults.fsck(IMAGE)
    if status:
        raise Bad(f"fsck of it ended with status {status}: {said}")


def removed():
    with running() as daemon:
        os.unlink(IMAGE)
        work()
        all_well(faults.in_time("probe"))
        end(daemon)


def host_full():
    """The image grows into a host filesystem that has no more room: read-only from then on, and nothing promised is lost."""
    small = f"{SCRATCH}/small"
    os.makedirs(small, exist_ok=True)
    room = os.stat(BASE).st_blocks * 512 + (6 << 20)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={room}", "tmpfs", small], check=True)
    try:
        with running(f"{small}/image") as daemon:
            try:
                for n in range(64):
                    acked.files_run(f"{MNT}/files", LOG, n, 1)
                    with open(f"{MNT}/big", "ab") as f:
                        f.write(os.urandom(1 << 20))
                        os.fsync(f.fileno())
                raise Bad("64 MiB fit into 6")
            except OSError as e:
                if e.errno not in faults.FAULTS:
                    raise Bad(str(e)) from e
            found = faults.in_time("probe")
            if found["state"] != "failed" or found["create"] != "EROFS" or found["fsync"] == "ok" or found["read"] != "ok":
                raise Bad(f"no room below: {found}")
            if "space" not in found["error"]["text"]:
                raise Bad(f"the reason is not said: {found}")
            end(daemon, (32,))
        faults.copy_image(f"{small}/image", IMAGE)
        check(IMAGE)
    finally:
        subprocess.run(["umount", "-l", small], check=False)


class running:
    """A fresh copy of the base, mounted; gone afterwards, whatever happens."""

    def __init__(self, image=IMAGE):
        self.image = image

    def __enter__(self):
        faults.copy_image(BASE, self.image)
        open(LOG, "w").close()
        self.daemon = Daemon(self.image)
        if not self.daemon.alive():
            raise Bad("does not mount: " + self.daemon.said())
        return self.daemon

    def __exit__(self, kind, error, trace):
        words = self.daemon.last_words() if error else None
        self.daemon.kill()
        if error:
            print(words)


def main():
    faults.make_base(BASE)
    for name in sys.argv[1:] or ("stopped", "slow", "cut", "replaced", "removed", "host_full"):
        begin = time.monotonic()
        try:
            globals()[name]()
        except Bad as e:
            print(f"faults_other.py: {name}: {e}")
            return 1
        print(f"# {name}: {time.monotonic() - begin:.1f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
