#!/usr/bin/env python3
"""What of the style a machine can check. Prints TAP, one test a rule.

    tests/tidy.py              check everything
    tests/tidy.py --ratchet    write the sizes of today to tests/tidy.ratchet

Files over 750 lines and functions over 100 are listed in tests/tidy.ratchet with their size, and may shrink but not
grow; a new one needs a line there, which is a decision someone makes and others see. Below these sizes nobody counts.
"""

import os
import re
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
RATCHET = "tests/tidy.ratchet"
FILE_LINES = 750
FUNCTION_LINES = 100

# What each folder may include from; calls follow, because the unit tests link each layer with those to its left only.
LAYERS = {
    "btree": ("btree/",),
    "wal": ("btree/", "wal/"),
    "fs": ("btree/", "wal/", "fs/"),
    "tools": ("btree/", "wal/", "fs/", "tools/"),
    "tests": ("btree/", "wal/", "fs/", "tools/", "tests/"),
}

# The log's own files know the device and nothing else of the layer below.
LOG_FILE = re.compile(r"^wal/log(_\w+)?\.[ch]$")
LOG_MAY = re.compile(r"^(btree/dev/\w+\.h|btree/(endian|err|types|mem)\.h|wal/.*)$")

# The FUSE adapter is the only one to speak to FUSE.
FUSE_MAY = re.compile(r"^fs/(fuse_\w+|main)\.[ch]$")

BANNED = re.compile(r"(?<![\w.>])(strcpy|strcat|sprintf|vsprintf)\s*\(")
HEAP = re.compile(r"(?<![\w.>])(malloc|calloc|realloc|reallocarray|free|strdup|strndup|posix_memalign|aligned_alloc)\s*\(")
LEFTOVER = re.compile(r"\b(FIX" r"ME|XX" r"X|TO" r"DO|HA" r"CK)\b")
ABSOLUTE = re.compile(r"(?<![\w.\-])/(wo" r"rk|ro" r"ot|ho" r"me)(?![\w\-])")
INCLUDE = re.compile(r'^\s*#\s*include\s*(<[^>]+>|"[^"]+")')

SKIP_DIRS = re.compile(r"^(\.git|build|build-.*|__pycache__|subprojects)$")


def text_files():
    for folder, dirs, names in os.walk(ROOT):
        dirs[:] = sorted(d for d in dirs if not SKIP_DIRS.match(d))
        for name in sorted(names):
            path = os.path.relpath(os.path.join(folder, name), ROOT)
            if not os.path.isfile(os.path.join(ROOT, path)):
                continue
            with open(os.path.join(ROOT, path), "rb") as f:
                data = f.read()
            if b"\0" in data:
                continue
            try:
                yield path, data.decode()
            except UnicodeDecodeError:
                continue


def blank(match):
    return re.sub(r"[^\n]", " ", match.group(0))


def code_of(text):
    """The text without comments and without what stands in quotes, lines kept."""
    token = re.compile(r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'', re.S)

    def cut(match):
        s = match.group(0)
        return '""' if s[0] == '"' else "' '" if s[0] == "'" else blank(match)

    return token.sub(cut, text)


def includes(text):
    for number, line in enumerate(text.split("\n"), 1):
        match = INCLUDE.match(line)
        if match:
            yield number, match.group(1)


def functions(code):
    """Name, first line and length of each function: a brace alone in column 0 up to the one that closes it."""
    lines = code.split("\n")
    start = None
    for i, line in enumerate(lines):
        if line.rstrip() == "{":
            head = i - 1
            while head > 0 and (not lines[head].strip() or lines[head][0] in " \t"):
                head -= 1
            match = re.search(r"(\w+)\s*\(", lines[head])
            start = (match.group(1), head + 1) if match else None
        elif line.rstrip() == "}" and start:
            yield start[0], start[1], i + 2 - start[1]
            start = None


class Tidy:
    def __init__(self):
        self.files = dict(text_files())
        self.c = {p: t for p, t in self.files.items() if p.endswith((".c", ".h"))}
        self.code = {p: code_of(t) for p, t in self.c.items()}

    def lines_matching(self, texts, pattern, why):
        for path, text in texts.items():
            for number, line in enumerate(text.split("\n"), 1):
                for match in pattern.finditer(line):
                    yield f"{path}:{number}: {why}: {match.group(0).strip()}"

    def includes_go_left_only(self):
        for path, text in self.c.items():
            may = LAYERS.get(path.split("/")[0])
            if may is None:
                yield f"{path}: belongs to no layer"
                continue
            for number, what in includes(text):
                if what[0] == '"' and not what.strip('"').startswith(may):
                    yield f"{path}:{number}: may not include {what}"

    def the_log_knows_only_the_device(self):
        for path, text in self.c.items():
            if not LOG_FILE.match(path):
                continue
            for number, what in includes(text):
                if what[0] == '"' and not LOG_MAY.match(what.strip('"')):
                    yield f"{path}:{number}: the log may not include {what}"

    def only_the_adapter_includes_fuse(self):
        for path, text in self.c.items():
            for number, what in includes(text):
                if "fuse_lowlevel.h" in what and not FUSE_MAY.match(path):
                    yield f"{path}:{number}: may not include {what}"

    def no_other_block_size_comes_in(self):
        """These headers define BLOCK_SIZE as 1024, silently where they come after ours."""
        for path, text in self.c.items():
            if re.search(r"^#include <(liburing|linux/fs|sys/mount)\.h>", text, re.M):
                undone = re.search(r"^#undef BLOCK_SIZE", text, re.M)
                ours = re.search(r'^#include "', text, re.M)
                if not undone or (ours and ours.start() < undone.start()):
                    yield f"{path}: #undef BLOCK_SIZE between the system's headers and ours"

    def formats_are_plain_and_asserted(self):
        for path, text in self.c.items():
            if not path.endswith("_format.h"):
                continue
            for number, what in includes(text):
                if what not in ("<assert.h>", '"btree/endian.h"'):
                    yield f"{path}:{number}: a disk format may not include {what}"
            code = self.code[path]
            for match in re.finditer(r"^struct\s+(\w+)\s*\{", code, re.M):
                if not re.search(rf"static_assert\s*\(\s*sizeof\s*\(\s*struct\s+{match.group(1)}\s*\)", code):
                    number = code.count("\n", 0, match.start()) + 1
                    yield f"{path}:{number}: no static_assert of the size of struct {match.group(1)}"

    def headers_are_guarded_by_their_path(self):
        for path, text in self.c.items():
            if path.endswith(".h"):
                guard = "ARBOR_" + re.sub(r"\W", "_", path).upper()
                if f"#ifndef {guard}\n#define {guard}\n" not in text:
                    yield f"{path}: no guard {guard}"

    def no_banned_calls(self):
        yield from self.lines_matching(self.code, BANNED, "banned call")

    def the_heap_has_one_door(self):
        code = {p: t for p, t in self.code.items() if p != "btree/mem.c" and not p.startswith("tests/")}
        yield from self.lines_matching(code, HEAP, "use mem.h")

    def nothing_is_left_over(self):
        yield from self.lines_matching(self.files, LEFTOVER, "left over")

    def no_path_of_one_machine(self):
        yield from self.lines_matching(self.files, ABSOLUTE, "absolute path")

    def no_trailing_whitespace(self):
        for path, text in self.files.items():
            for number, line in enumerate(text.split("\n"), 1):
                if line != line.rstrip():
                    yield f"{path}:{number}: trailing whitespace"
            if text and (not text.endswith("\n") or text.endswith("\n\n")):
                yield f"{path}: does not end with one newline"

    def sizes(self):
        """The sizes that count: (kind, name) -> lines."""
        files = {("file", p): t.count("\n") for p, t in self.c.items()}
        funcs = {}
        for path, code in self.code.items():
            for name, _, lines in functions(code):
                key = ("function", f"{path}:{name}")
                funcs[key] = max(lines, funcs.get(key, 0))
        return files, funcs

    def nothing_grows_too_long(self):
        files, funcs = self.sizes()
        for what, unit in ((files, "file"), (funcs, "function")):
            longest = sorted(what.items(), key=lambda x: -x[1])[:5]
            for (_, name), lines in longest:
                print(f"# long {unit}: {lines:5} {name}")
        allowed = read_ratchet()
        for key, lines in sorted({**files, **funcs}.items()):
            limit = max(allowed.get(key, 0), FILE_LINES if key[0] == "file" else FUNCTION_LINES)
            if lines > limit:
                yield f"{key[1]}: {key[0]} of {lines} lines, {limit} allowed; split it, or run tests/tidy.py --ratchet"

    def write_ratchet(self):
        files, funcs = self.sizes()
        long = {k: n for k, n in files.items() if n > FILE_LINES} | {k: n for k, n in funcs.items() if n > FUNCTION_LINES}
        with open(os.path.join(ROOT, RATCHET), "w") as f:
            for (kind, name), lines in sorted(long.items()):
                f.write(f"{kind} {name} {lines}\n")


def read_ratchet():
    allowed = {}
    try:
        with open(os.path.join(ROOT, RATCHET)) as f:
            for line in f:
                kind, name, lines = line.split()
                allowed[kind, name] = int(lines)
    except FileNotFoundError:
        pass
    return allowed


RULES = (
    "includes_go_left_only",
    "the_log_knows_only_the_device",
    "only_the_adapter_includes_fuse",
    "no_other_block_size_comes_in",
    "formats_are_plain_and_asserted",
    "headers_are_guarded_by_their_path",
    "no_banned_calls",
    "the_heap_has_one_door",
    "nothing_is_left_over",
    "no_path_of_one_machine",
    "no_trailing_whitespace",
    "nothing_grows_too_long",
)


def main():
    tidy = Tidy()
    if sys.argv[1:] == ["--ratchet"]:
        tidy.write_ratchet()
        return 0
    failed = 0
    print(f"1..{len(RULES)}")
    for number, rule in enumerate(RULES, 1):
        problems = list(getattr(tidy, rule)())
        for problem in problems:
            print(f"# {problem}")
        print(f"{'not ok' if problems else 'ok'} {number} - {rule}")
        failed += bool(problems)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
