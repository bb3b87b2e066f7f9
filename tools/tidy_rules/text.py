# SPDX-License-Identifier: Apache-2.0 OR MIT
"""Rules that need no more than the text of one file."""

import os
import re

LINE_COLUMNS_MAX = 100
SCRIPT_COLUMNS_MAX = 120
FILE_LINES_LONG = 600
FILE_LINES_MAX = 1000

# A folder may include itself and what stands here (docs/architecture.md, "Layers"). Every one may include kelpie.h for
# the error codes. A trailing slash names a folder; a name without one is that header alone.
INCLUDES = {
    "os": ["os/", "core/base.h"],
    "core": ["core/", "os/"],
    "wire": ["wire/", "core/", "os/"],
    "store": ["store/", "core/", "os/"],
    "vmm": ["vmm/", "core/", "os/"],
    "monitor": ["monitor/", "vmm/vmm.h", "store/", "wire/", "core/", "os/"],
    "lib": ["lib/", "store/", "wire/", "core/", "os/"],
    "keeper": ["keeper/", "lib/", "store/", "wire/", "core/", "os/"],
    "agent": ["agent/", "wire/", "core/", "os/"],
    "cli": ["cli/", "core/", "os/"],
    "pack": ["pack/", "store/", "core/", "os/"],
    # kelpie-krun shares with its driver what passes between them.
    "krun": ["krun/", "vmm/krun/launch.h", "core/", "os/"],
    # The simulated system is under and around all the others.
    "sim": ["sim/", "agent/", "cli/", "keeper/", "lib/", "monitor/", "pack/", "vmm/", "store/", "wire/", "core/", "os/"]
    + ["kelpie_sim.h"],
    # libkelpie-sim: what kelpie_sim.h declares.
    "simlib": ["simlib/", "sim/", "core/", "os/", "kelpie_sim.h"],
    # kelpie-sim, the command.
    "simcli": ["simcli/", "sim/", "core/", "os/", "kelpie_sim.h"],
}

# The simulator's own memory may come from libc; in everything else it is bound as the layers above the seam are.
SIM_MAY = {"malloc", "calloc", "realloc", "free"}


def check_line_length(source):
    limit = LINE_COLUMNS_MAX if source.is_c else SCRIPT_COLUMNS_MAX
    for number, line in enumerate(source.lines, 1):
        if len(line) > limit:
            yield source.finding("line-length", number, f"{len(line)} columns, at most {limit}")


def check_white_space(source):
    for number, line in enumerate(source.lines, 1):
        if "\t" in line and not source.path.endswith(".map"):
            yield source.finding("tab", number, "a tab; indent with 4 spaces")
        if line != line.rstrip() and not source.path.endswith(".md"):
            yield source.finding("trailing-space", number, "white space at the end of the line")
    if source.text and (not source.text.endswith("\n") or source.text.endswith("\n\n")):
        yield source.finding("last-line", len(source.lines), "the file must end with one newline")


def check_file_length(source):
    count = len(source.lines)
    if source.is_c and count > FILE_LINES_MAX:
        yield source.finding("file-length", 1, f"{count} lines, at most {FILE_LINES_MAX}")


def check_line_comment(source):
    for line in source.line_comments:
        yield source.finding("line-comment", line, "a // comment; write /* */")


def check_unfinished(source):
    for number, line in enumerate(source.lines, 1):
        if re.search(r"\b(FIX" + r"ME|TO" + r"DO|XX" + r"X|HA" + r"CK)\b", line):
            yield source.finding("unfinished", number, "a note of unfinished work cannot be merged")


def check_license(source):
    if "SPDX-License-Identifier: Apache-2.0 OR MIT" not in "\n".join(source.lines[:3]):
        yield source.finding("license", 1, "no SPDX line in the first three lines")


def check_opening_comment(source):
    if not source.path.startswith("src/") or not source.is_c:
        return
    match = re.match(r"/\*.*?\*/", source.text, re.S)
    count = match.group(0).count("\n") + 1 if match else 0
    if count < 2:
        yield source.finding("opening", 1, "no opening comment that says what the file does")
    elif count > 16:
        yield source.finding("opening", 1, f"opening comment of {count} lines, at most ten")


def check_typedef(source):
    for match in re.finditer(r"\btypedef\s+(struct|union|enum)\b", source.code):
        yield source.finding("typedef", source.line_of(match.start()), "no typedef for structs")


def check_endless_loop(source):
    for match in re.finditer(r"\bfor\s*\(\s*;\s*;|\bwhile\s*\(\s*(1|true)\s*\)", source.code):
        yield source.finding(
            "endless-loop", source.line_of(match.start()), "a loop without a bound in its head"
        )


def check_includes(source):
    if source.layer not in INCLUDES:
        return
    for match in re.finditer(r'^\s*#\s*include\s+"([^"]+)"', source.text, re.M):
        name = match.group(1)
        line = source.text.count("\n", 0, match.start()) + 1
        allowed = name == "kelpie.h" or any(
            name.startswith(entry) if entry.endswith("/") else name == entry
            for entry in INCLUDES[source.layer]
        )
        if not allowed:
            yield source.finding("layer", line, f"src/{source.layer} may not include {name}")


def check_guard(source):
    if not source.path.endswith(".h") or not source.path.startswith(("src/", "include/")):
        return
    path = re.sub(r"^(src|include)/", "", source.path)
    guard = re.sub(r"\W", "_", path).upper()
    guard = guard if guard.startswith("KELPIE_") else "KELPIE_" + guard
    if f"#ifndef {guard}\n#define {guard}\n" not in source.text:
        yield source.finding("guard", 1, f"the include guard must be {guard}")


def check_listed(sources):
    """Every C file of src, tests and examples stands in a meson.build: a forgotten test would pass for ever."""
    text = "\n".join(source.text for source in sources if source.path.endswith("meson.build"))
    listed = {os.path.basename(word) for word in re.findall(r"'([\w./-]+)'", text)}
    for source in sources:
        name = os.path.basename(source.path)
        if not source.path.endswith(".c") or source.path.startswith("tests/warnings/"):
            continue
        if name not in listed and name[:-2] not in listed and listed:
            yield source.finding("unlisted", 1, "no meson.build names this file")


class BannedNames:
    """tools/banned.txt: NAME SCOPE REASON. Scope `all` is the whole tree, `seam` src without os, pack, krun."""

    def __init__(self, text):
        self.entries = {}
        for line in text.splitlines():
            fields = line.split("#", 1)[0].split(None, 2)
            if fields:
                self.entries[fields[0]] = (fields[1], fields[2])
        words = "|".join(re.escape(name) for name in self.entries)
        self.pattern = re.compile(rf"(?<![\w.>])({words})\b(?!\.h)" if words else r"(?!)")

    def check(self, source):
        outside = (None, "os", "pack", "krun", "simlib", "simcli")
        is_seam = source.layer not in outside and not source.path.endswith("/main.c")
        for match in self.pattern.finditer(source.code):
            scope, reason = self.entries[match.group(1)]
            if match.group(1) != "errno" and not source.code[match.end() :].lstrip().startswith("("):
                continue
            if source.layer in ("sim", "simlib", "simcli") and match.group(1) in SIM_MAY:
                continue
            if scope == "all" or (scope == "src" and source.layer) or is_seam:
                line = source.line_of(match.start())
                yield source.finding("banned", line, f"{match.group(1)} is banned: {reason}")


C_CHECKS = [
    check_line_comment,
    check_opening_comment,
    check_typedef,
    check_endless_loop,
    check_includes,
    check_guard,
]
TEXT_CHECKS = [
    check_line_length,
    check_white_space,
    check_file_length,
    check_unfinished,
    check_license,
]
TREE_CHECKS = [check_listed]
