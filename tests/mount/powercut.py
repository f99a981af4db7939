#!/usr/bin/env python3
"""Power cuts of a daemon that was recorded while programs worked on it.

    powercut.py replay BASE TRACE CHECK...    many states, in memory
    powercut.py mounted DIR BEFORE CHECK...   one, which is mounted at DIR and stood at the time BEFORE

BASE is the image before the recording, TRACE what mount.arbor-test recorded. For points of the trace by chance the disk is made as
a power cut there may have left it, with writes that no flush had covered kept, dropped or torn; the filesystem recovers, all of it
is checked (mount_replay), and then each CHECK looks at its directory: what programs were told to be durable before that moment must
be there, and what they only did must be there up to some moment and not beyond. Some states are cut off again while they
recover.

CHECK is KIND:NAME:LOG, a directory below the root and what acked.py noted while it ran there:

    files:NAME:LOG   sqlite:NAME/FILE:LOG   git:NAME:LOG   tar:NAME:LOG:TARBALL   order:NAME:LOG

--saved PREFIX leaves a few of the states as PREFIX.N.img, with the time in PREFIX.N.before, to be mounted for real.
"""

import argparse
import contextlib
import io
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time

import acked


STATES_MIN = 10  # also where time is up


class Bad(Exception):
    """What was found is not what must be there."""


def stamps(log_path, what="done"):
    """(number or name, time) of the lines of a log."""
    with open(log_path) as f:
        for line in f:
            word = line.split()
            if line.endswith("\n") and word[0] == what:
                yield word[1], int(word[-1])


class Check:
    def __init__(self, text):
        self.kind, self.path, self.log, *self.more = text.split(":")
        self.name = self.path.split("/")[0]
        self.done = list(stamps(self.log))

    def synced(self, before):
        """A time for which everything was durable before then: an fsync that began after it had returned. Each began after the
        one before it had returned."""
        times = [t for _, t in self.done if t < before]
        return times[-2] if self.kind != "order" and len(times) > 1 else 0

    def run(self, directory, before, synced):
        path = os.path.join(directory, self.path)
        if self.kind == "order":
            if not os.path.exists(path):
                return not synced
            least = max((int(n) for n, t in self.done if t < synced), default=-1)
            most = max((int(n) for n, t in self.done if t < before), default=-1) + 1
            return acked.order_check(path, least, most)
        if not os.path.exists(path):
            return not any(t < before for _, t in self.done)
        return getattr(acked, self.kind + "_check")(path, self.log, *self.more, before=before)

    def lost_ms(self, directory, before):
        """How old the oldest change is that is not there."""
        numbers = [int(x) for x in os.listdir(os.path.join(directory, self.path)) if not x.endswith(".tmp")]
        newest = max(numbers, default=-1)
        lost = [t for n, t in self.done if t < before and int(n) > newest]
        return (before - min(lost)) // 1000000 if lost else 0


def run_checks(checks, directory, before):
    synced = max(check.synced(before) for check in checks)
    for check in checks:
        said = io.StringIO()
        try:
            with contextlib.redirect_stdout(said):
                good = check.run(directory, before, synced)
        except Exception as e:  # sqlite says so, too, where it does not like what it finds
            raise Bad(f"{check.kind} of {check.path}: {type(e).__name__}: {e}") from e
        if not good:
            raise Bad(f"{check.kind} of {check.path}: {said.getvalue().strip()}")


class Replay:
    def __init__(self, base, trace, seed=1):
        program = os.path.join(os.environ["ARBOR_BUILD"], "tests", "mount_replay")
        self.process = subprocess.Popen([program, base, trace, str(seed)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        text=True)
        self.asked = []

    def ask(self, *words):
        line = " ".join(str(word) for word in words)
        # What leads here: the last state, and those that were cut off again in it.
        if words[0] == "state":
            self.asked = []
        if words[0] in ("state", "again"):
            self.asked.append(line)
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline().split()
        if not answer:
            raise Bad(f"mount_replay ended with status {self.process.wait()}")
        if answer[0] != "ok":
            raise Bad(" ".join(answer))
        return answer[1:]

    def end(self):
        self.process.stdin.close()
        return self.process.wait()


def check_state(replay, checks, before):
    """Looks at the present state; returns how old the oldest lost change is."""
    directory = tempfile.mkdtemp(prefix="powercut-", dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None)
    try:
        for name in sorted({check.name for check in checks}):
            replay.ask("extract", name, os.path.join(directory, name))
        lost = [c.lost_ms(directory, before) for c in checks if c.kind == "order" and
                os.path.exists(os.path.join(directory, c.path))]
        run_checks(checks, directory, before)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    return max(lost, default=0)


def points(replay, rng):
    """Where to cut, without end: anywhere, right before a flush ends, where most is open, and right behind it."""
    ops, failed = (int(x) for x in replay.ask("ops"))
    flushes = [int(x) for x in replay.ask("flushes")]
    print(f"# {ops} operations, {len(flushes)} flushes, {failed} failed")
    yield ops
    while True:
        how = rng.randrange(3)
        yield rng.randrange(ops + 1) if how == 0 or not flushes else rng.choice(flushes) + how - 1


def replay_main(args):
    rng = random.Random(args.seed)
    checks = [Check(text) for text in args.check]
    replay = Replay(args.base, args.trace, args.seed)
    end = time.monotonic() + args.seconds
    states = nested = saved = lost = 0
    try:
        for n in points(replay, rng):
            if states >= args.states or (time.monotonic() > end and states >= STATES_MIN):
                break
            before = int(replay.ask("stamp", n)[0])
            writes = int(replay.ask("state", n, rng.choice(("drop", "keep", "last", "seed", "seed", "seed")),
                                    rng.randrange(1 << 30))[0])
            states += 1
            lost = max(lost, check_state(replay, checks, before))
            while rng.randrange(3) == 0 and writes:
                writes = int(replay.ask("again", rng.randrange(writes + 1), rng.choice(("drop", "last", "seed", "seed")),
                                        rng.randrange(1 << 30))[0])
                nested += 1
                check_state(replay, checks, before)
            if args.saved and saved < args.save and rng.randrange(8) == 0:
                replay.ask("save", f"{args.saved}.{saved}.img")
                with open(f"{args.saved}.{saved}.before", "w") as f:
                    print(before, file=f)
                saved += 1
    except Bad as e:
        print(f"powercut.py: {e}")
        print(f"reproduce with: printf '%s\\n' {' '.join(repr(x) for x in replay.asked)} | "
              f"mount_replay {args.base} {args.trace} {args.seed}")
        return 1
    status = replay.end()
    print(f"# {states} states, {nested} cut off again, oldest lost change {lost} ms old")
    return status


def mounted_main(args):
    try:
        run_checks([Check(text) for text in args.check], args.dir, int(args.before))
    except Bad as e:
        print(f"powercut.py: {args.dir}: {e}")
        return 1
    return 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sub = parser.add_subparsers(required=True)
    replay = sub.add_parser("replay")
    replay.add_argument("base")
    replay.add_argument("trace")
    replay.add_argument("--states", type=int, default=1 << 30)
    replay.add_argument("--seconds", type=float, default=10)
    replay.add_argument("--seed", type=int, default=int(os.environ.get("SEED", "1")))
    replay.add_argument("--saved", metavar="PREFIX")
    replay.add_argument("--save", type=int, default=2)
    replay.set_defaults(call=replay_main)
    mounted = sub.add_parser("mounted")
    mounted.add_argument("dir")
    mounted.add_argument("before")
    mounted.set_defaults(call=mounted_main)
    for p in (replay, mounted):
        p.add_argument("check", nargs="+")
    args = parser.parse_args()
    return args.call(args)


if __name__ == "__main__":
    sys.exit(main())
