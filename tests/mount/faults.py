#!/usr/bin/env python3
"""Faults under a mounted filesystem: a round is a filesystem, a daemon on the test device, some work, and one fault.

    faults.py work  [--seconds S] [--all]     reads, writes, flushes, discards that fail while work goes on
    faults.py mount [--seconds S] [--all]     the same, and allocations, while the daemon mounts
    faults.py memory [--seconds S] [--all]    allocations that fail while work goes on

What must hold (contract G and H):

  - the daemon does not die, but for refusing to mount; every request is answered in time; what is read is right or an error
  - after a write or flush that failed it is read-only: changes say EROFS, fsync fails, status names the reason, reads go on
  - after anything else it goes on as if nothing had been once the fault is over
  - then, without faults: fsck finds nothing, and what an fsync had acknowledged is there. That, too, if the power goes at the
    end: what the device was told is taken from the trace, with what a failed flush should have covered lost

The n-th operation is chosen by chance, n as far as a round without a fault has got; --all goes through all n, or
a thousand where there are more. --fault "memory 44 0" is one of those that the program prints, again and again.
"""

import argparse
import errno
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time

import acked
import powercut

BUILD, MNT, SCRATCH = os.environ["ARBOR_BUILD"], os.environ["MNT"], os.environ["SCRATCH"]
SLOWER = int(os.environ.get("SLOWER", "1"))
ANSWER_SECONDS = 40 * SLOWER  # longer than this, and a request counts as never answered
OPTIONS = "commit=0.2,cache_size=4M"
OLD_FILES = 30
ALL = 1000  # as many of a kind are all
# What an operation may say that met a fault, or what a fault has left.
FAULTS = {errno.EIO, errno.EROFS, errno.ENOSPC, errno.ENOMEM, errno.ETIMEDOUT}


class Bad(Exception):
    """Something that must hold does not."""


# ---- the work: a process of its own, so that one that hangs can be told ----

class Work:
    def __init__(self, log, seed):
        self.log, self.seed = log, seed
        self.rng = random.Random(seed)
        self.errors = {}

    def attempt(self, what, allowed=()):
        try:
            return what()
        except OSError as e:
            if e.errno not in FAULTS and e.errno not in allowed:
                raise Bad(f"{what.__name__}: {e}") from e
            name = errno.errorcode[e.errno]
            self.errors[name] = self.errors.get(name, 0) + 1
            return None

    def read_old(self):
        for n in self.rng.sample(range(OLD_FILES), 8):
            with open(f"{MNT}/old/f{n}", "rb") as f:
                data = f.read()
            if data != acked.body(f"f{n}", 0):
                raise Bad(f"old/f{n}: {len(data)} bytes, which are not its own")

    def change_synced(self):
        acked.files_run(f"{MNT}/files", self.log, self.seed, 1)

    def move_about(self):
        n = self.rng.randrange(1 << 30)
        os.mkdir(f"{MNT}/d{n}")
        with open(f"{MNT}/d{n}/a", "wb") as f:
            f.write(self.rng.randbytes(self.rng.choice((10, 5000, 70000))))
        os.link(f"{MNT}/d{n}/a", f"{MNT}/d{n}/b")
        os.symlink("a", f"{MNT}/d{n}/l")
        os.rename(f"{MNT}/d{n}/a", f"{MNT}/d{n}/c")
        os.setxattr(f"{MNT}/d{n}/b", "user.x", b"x" * 3000)
        os.rename(f"{MNT}/d{n}", f"{MNT}/e{n}")
        if sorted(os.listdir(f"{MNT}/e{n}")) != ["b", "c", "l"]:
            raise Bad("names are not what they were made")

    def shape(self):
        fd = os.open(f"{MNT}/shape", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            data = self.rng.randbytes(300000)
            acked.write_all(fd, data, 4096)
            os.ftruncate(fd, 200000)
            os.posix_fallocate(fd, 1 << 20, 1 << 16)
            if os.pread(fd, 5000, 8192) != data[4096:9096]:
                raise Bad("shape: what is read is not what was written")
        finally:
            os.close(fd)

    def many(self):
        """Much that goes into the log, for the next checkpoint, and blocks that it frees."""
        for n in range(60):
            with open(f"{MNT}/m{n}", "wb") as f:
                f.write(self.rng.randbytes(2000 if n % 8 else 20000))
        for n in range(60):
            os.unlink(f"{MNT}/m{n}")

    def remove(self):
        for name in sorted(os.listdir(MNT)):
            if name.startswith("e"):
                shutil.rmtree(f"{MNT}/{name}")
                break

    def look(self):
        os.statvfs(MNT)
        os.listdir(f"{MNT}/old")
        os.stat(f"{MNT}/old/f{self.rng.randrange(OLD_FILES)}")

    def run(self):
        steps = [self.read_old, self.change_synced, self.change_synced, self.move_about, self.shape, self.many, self.remove,
                 self.look]
        # An operation that a fault cut off leaves what the next one trips over.
        leftovers = (errno.ENOENT, errno.EEXIST, errno.ENOTEMPTY, errno.ENODATA)
        for _ in range(8):
            self.rng.shuffle(steps)
            for step in steps:
                self.attempt(step, leftovers if self.errors else ())
        self.attempt(sync)


def sync():
    fd = os.open(MNT, os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def one_work(log, seed):
    work = Work(log, int(seed))
    try:
        work.run()
    except Bad as e:
        print(json.dumps({"bad": str(e)}))
        return
    print(json.dumps({"errors": work.errors}))


def probe():
    """What the filesystem is now: whether it changes, syncs, and can be read."""
    found = {}

    def note(name, call):
        try:
            call()
            found[name] = "ok"
        except OSError as e:
            found[name] = errno.errorcode[e.errno]

    note("create", lambda: os.close(os.open(f"{MNT}/probe", os.O_CREAT | os.O_RDWR, 0o644)))
    note("mkdir", lambda: os.makedirs(f"{MNT}/probe.d", exist_ok=True))
    note("fsync", sync)
    note("read", Work(os.devnull, 1).read_old)
    note("list", lambda: os.listdir(f"{MNT}/old"))
    with open(f"{MNT}/.arbor/status") as f:
        status = json.load(f)
    found["state"], found["error"] = status["state"], status["error"]
    print(json.dumps(found))


def in_time(*args):
    """Runs a part of this program as a process; what it prints."""
    process = subprocess.Popen([sys.executable, __file__, *args], stdout=subprocess.PIPE, text=True)
    try:
        out, _ = process.communicate(timeout=ANSWER_SECONDS)
    except subprocess.TimeoutExpired:
        where = ""
        try:
            with open(f"/proc/{process.pid}/wchan") as f:
                where = f.read()
        except OSError:
            pass
        process.kill()
        raise Bad(f"{args[0]}: no answer after {ANSWER_SECONDS} s, waits in {where}")
    if process.returncode:
        raise Bad(f"{args[0]}: ended with status {process.returncode}")
    return json.loads(out)


# ---- the daemon ----

class Daemon:
    def __init__(self, image, first=None, trace=None, test=True, options=OPTIONS):
        self.socket = f"{SCRATCH}/testdev"
        env = dict(os.environ)
        if test:
            env["ARBOR_TESTDEV_SOCKET"] = self.socket
        if first:
            env["ARBOR_TESTDEV_FIRST"] = first
        if trace:
            env["ARBOR_TESTDEV_TRACE"] = trace
        self.log = open(f"{SCRATCH}/daemon.out", "w+")
        program = f"{BUILD}/tests/mount.arbor-test" if test else f"{BUILD}/mount.arbor"
        self.process = subprocess.Popen([program, "-f", "-o", options, image, MNT], env=env, stdout=self.log, stderr=self.log,
                                        cwd="/")
        end = time.monotonic() + ANSWER_SECONDS
        while self.process.poll() is None and not self.mounted():
            if time.monotonic() > end:
                raise Bad("neither mounts nor ends")
            time.sleep(0.005)
        if self.process.poll() is None:
            try:
                # Answered once it serves.
                os.statvfs(MNT)
            except OSError as e:
                if e.errno in (errno.ENOTCONN, errno.ECONNABORTED, errno.ECONNREFUSED):
                    self.wait()

    def mounted(self):
        with open("/proc/self/mountinfo") as f:
            return any(line.split()[4] == MNT for line in f)

    def said(self):
        self.log.flush()
        with open(self.log.name) as f:
            return f.read().strip()

    def last_words(self):
        time.sleep(0.1)
        status = self.process.poll()
        lives = "lives" if status is None else f"ended with status {status}"
        return f"the daemon {lives}, and said: {self.said()[-2000:]}"

    def command(self, line):
        with socket.socket(socket.AF_UNIX) as s:
            s.connect(self.socket)
            s.sendall(line.encode() + b"\n")
            answer = s.makefile().readline().strip()
        if not answer.startswith("ok"):
            raise Bad(f"{line}: {answer}")
        return answer[3:]

    def counts(self):
        words = self.command("counts").split()
        return {words[i]: int(words[i + 1]) for i in range(0, len(words), 2)}

    def alive(self):
        return self.process.poll() is None

    def wait(self):
        try:
            return self.process.wait(timeout=ANSWER_SECONDS)
        except subprocess.TimeoutExpired:
            raise Bad("does not end") from None

    def umount(self):
        """The daemon's exit status."""
        end = time.monotonic() + ANSWER_SECONDS
        while subprocess.run(["umount", MNT], capture_output=True).returncode:
            if time.monotonic() > end:
                raise Bad("cannot be unmounted")
            time.sleep(0.02)
        return self.wait()

    def kill(self):
        """However it is: gone afterwards."""
        if self.alive():
            self.process.kill()
            self.process.wait()
        subprocess.run(["umount", "-l", MNT], capture_output=True)


def mkfs(image, size):
    if os.path.exists(image):
        os.unlink(image)
    with open(image, "w") as f:
        os.truncate(f.fileno(), size)
    # A small log, so that there are checkpoints.
    subprocess.run([f"{BUILD}/mkfs.arbor", "--log-size=2M", image], check=True, capture_output=True)


def make_base(path, size=192 << 20):
    """A filesystem with something in it, unmounted."""
    mkfs(path, size)
    daemon = Daemon(path, test=False)
    try:
        os.mkdir(f"{MNT}/old")
        os.mkdir(f"{MNT}/files")
        for n in range(OLD_FILES):
            with open(f"{MNT}/old/f{n}", "wb") as f:
                f.write(acked.body(f"f{n}", 0))
        if daemon.umount():
            raise Bad("cannot make a filesystem: " + daemon.said())
    finally:
        daemon.kill()


def copy_image(from_path, to):
    subprocess.run(["cp", "--sparse=always", from_path, to], check=True)


def fsck(image, how="-n"):
    """(status, what it said)"""
    done = subprocess.run([f"{BUILD}/fsck.arbor", how, "--data", image], capture_output=True, text=True,
                          timeout=ANSWER_SECONDS)
    return done.returncode, done.stdout + done.stderr


# ---- rounds ----

class Fault:
    @staticmethod
    def parse(command):
        word = command.split()
        if word[0] == "memory":
            return Fault("memory", int(word[1]), times=int(word[2]))
        return Fault(word[1], int(word[2]), word[3], int(word[4]), word[5])

    def __init__(self, kind, n, err="EIO", times=1, effect="none"):
        self.kind, self.n, self.err, self.times, self.effect = kind, n, err, times, effect

    def command(self):
        if self.kind == "memory":
            return f"memory {self.n} {self.times}"
        return f"fail {self.kind} {self.n} {self.err} {self.times} {self.effect}"

    def sticks(self):
        return self.kind in ("write", "flush")


class Rounds:
    def __init__(self, args):
        self.args = args
        self.rng = random.Random(args.seed)
        self.base, self.image, self.trace, self.log = (f"{SCRATCH}/{x}" for x in ("base", "round.img", "trace", "log"))
        make_base(self.base)
        self.rounds = self.met = 0

    def begin(self):
        copy_image(self.base, self.image)
        open(self.log, "w").close()
        self.rounds += 1

    def look(self, daemon, fault, full_ok=False):
        """What state it is in behind the work; whether it failed for good. full_ok: what could not be read of the space map is
        not used until the next mount."""
        found = in_time("probe")
        if not daemon.alive():
            raise Bad(f"the daemon has ended with status {daemon.process.returncode}")
        failed = found["state"] == "failed"
        if fault.sticks() and not failed:
            raise Bad(f"a failed {fault.kind} has no consequences: {found}")
        if failed:
            if not found["error"] or not found["error"]["text"]:
                raise Bad(f"no reason in status: {found}")
            if (found["create"], found["mkdir"]) != ("EROFS", "EROFS"):
                raise Bad(f"failed, but changes say {found}")
            if found["fsync"] == "ok":
                raise Bad(f"failed, but fsync does not say so: {found}")
            if (found["read"], found["list"]) != ("ok", "ok"):
                raise Bad(f"failed, and cannot be read either: {found}")
        elif found["error"] or any(found[x] != "ok" and not (full_ok and found[x] == "ENOSPC")
                                   for x in ("create", "mkdir", "fsync", "read", "list")):
            raise Bad(f"the fault is over, but {found}")
        return failed

    def check_after(self, failed_device, map_lost=False):
        """Without faults: fsck, power cuts at the end, sometimes a mount. map_lost: a page of the space map that could not be
        read is given up, and the space with it: the image is sound otherwise."""
        status, said = fsck(self.image)
        if status and map_lost and "space" in said:
            status, said = fsck(self.image, "-y")
            if status <= 1:
                status, said = fsck(self.image)
        if status:
            raise Bad(f"fsck ended with status {status}: {said}")
        check = powercut.Check(f"files:files:{self.log}")
        replay = powercut.Replay(self.base, self.trace)
        try:
            ops = int(replay.ask("ops")[0])
            before = 1 << 62
            for how in ("drop", "keep", "seed") if failed_device else ("keep",):
                replay.ask("state", ops, how, self.rng.randrange(1 << 30))
                powercut.check_state(replay, [check], before)
        except powercut.Bad as e:
            raise Bad(f"a power cut afterwards: {e}; {replay.asked}") from e
        finally:
            replay.end()
        if self.rng.randrange(4) and not self.args.all:
            return
        daemon = Daemon(self.image, test=False)
        try:
            if not daemon.alive():
                raise Bad("does not mount again: " + daemon.said())
            powercut.run_checks([check], MNT, before)
            for n in range(OLD_FILES):
                if acked.read_or_none(f"{MNT}/old/f{n}") != acked.body(f"f{n}", 0):
                    raise Bad(f"old/f{n} is not what it was")
            if daemon.umount():
                raise Bad("the mount behind the fault ends badly: " + daemon.said())
        except powercut.Bad as e:
            raise Bad(f"mounted again: {e}") from e
        finally:
            daemon.kill()

    def working(self, fault):
        """The counts behind it, and whether the fault was met."""
        self.begin()
        daemon = Daemon(self.image, trace=self.trace, options=OPTIONS + ",discard")
        try:
            if not daemon.alive():
                raise Bad("does not mount: " + daemon.said())
            at_first = daemon.counts()
            if fault:
                daemon.command(fault.command())
            result = in_time("do", self.log, str(self.args.seed))
            if "bad" in result:
                raise Bad(result["bad"])
            # A checkpoint may meet it only now.
            counts = daemon.counts()
            for _ in range(10):
                if not fault or counts["failed-" + fault.kind]:
                    break
                time.sleep(0.03)
                counts = daemon.counts()
            met = bool(fault and counts["failed-" + fault.kind])
            if result["errors"] and not met:
                raise Bad(f"errors without a fault: {result['errors']}")
            daemon.command("clear")
            failed = self.look(daemon, fault) if met else False
            status = daemon.umount()
            if status != (32 if failed else 0):
                raise Bad(f"ends with status {status}: {daemon.said()}")
        except (Bad, OSError) as e:
            raise Bad(f"{e}\n{daemon.last_words()}") from e
        finally:
            daemon.kill()
        self.check_after(met and fault.sticks())
        return {k: counts[k] - at_first[k] for k in counts}, met

    def mounting(self, fault):
        self.begin()
        daemon = Daemon(self.image, first=fault.command() if fault else None, trace=self.trace)
        counts, met = {}, False
        try:
            if daemon.alive():
                counts = daemon.counts()
                met = bool(fault and counts["failed-" + fault.kind])
                daemon.command("clear")
                if met:
                    self.look(daemon, Fault("any", 1), fault.kind == "read")
                status = daemon.umount()
                if status not in (0, 32):
                    raise Bad(f"ends with status {status}: {daemon.said()}")
            else:
                met = True
                if not fault or daemon.process.returncode not in (1, 32):
                    raise Bad(f"does not mount, with status {daemon.process.returncode}")
                # One for what failed, one for what that means, one for the mount.
                if not 0 < len(daemon.said().split("\n")) <= 3:
                    raise Bad("refuses to mount with more than three lines")
        except (Bad, OSError) as e:
            raise Bad(f"{e}\n{daemon.last_words()}") from e
        finally:
            daemon.kill()
        self.check_after(met, fault and fault.kind == "read")
        return counts, met

    def run(self, one, kinds):
        """Rounds until time is up, or until all faults have been tried."""
        counts, _ = one(None)
        print("# operations without a fault:", {k: n for k, n in counts.items() if not k.startswith("failed")}, flush=True)
        end = time.monotonic() + self.args.seconds
        tried = {kind: 0 for kind in kinds if counts[kind] and not self.args.fault}
        for fault in self.faults(counts, kinds):
            if time.monotonic() > end and all(tried.values()):
                break
            print("#", fault.command(), flush=True)
            try:
                _, met = one(fault)
            except Bad as e:
                print(f"faults.py: {fault.command()}: {e}")
                return 1
            tried[fault.kind] = tried.get(fault.kind, 0) + met
        print("# faults met:", tried, "in", self.rounds, "rounds")
        return 0 if all(tried.values()) else 1

    def faults(self, counts, kinds):
        errors = ("EIO", "EIO", "ENOSPC", "ETIMEDOUT")

        def one(kind, n):
            err = "EIO" if kind in ("read", "discard") else self.rng.choice(errors)
            effect = self.rng.choice(("none", "torn", "done")) if kind == "write" else "none"
            return Fault(kind, n, err, self.rng.randrange(2), effect)

        while self.args.fault:
            yield Fault.parse(self.args.fault)
        if self.args.all:
            for kind in kinds:
                step = max(1, counts[kind] // ALL)
                yield from (one(kind, n) for n in range(1 + self.rng.randrange(step), counts[kind] + 1, step))
            return
        while True:
            # Early ones more often: what comes first is of more kinds.
            for kind in kinds:
                if counts[kind]:
                    yield one(kind, 1 + int(counts[kind] * self.rng.random() ** 2))


def main():
    if sys.argv[1] == "do":
        one_work(*sys.argv[2:])
        return 0
    if sys.argv[1] == "probe":
        probe()
        return 0
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["work", "mount", "memory"])
    parser.add_argument("--seconds", type=float, default=15)
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--fault")
    parser.add_argument("--seed", type=int, default=int(os.environ.get("SEED", "1")))
    args = parser.parse_args()
    if args.all:
        args.seconds = 1e9
    rounds = Rounds(args)
    if args.what == "work":
        return rounds.run(rounds.working, ("write", "flush", "read", "discard"))
    if args.what == "memory":
        return rounds.run(rounds.working, ("memory",))
    return rounds.run(rounds.mounting, ("read", "write", "flush", "memory"))


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    sys.exit(main())
