# SPDX-License-Identifier: Apache-2.0 OR MIT
"""The self test of tools/tidy: for each rule a planted violation that it has to find, and clean text that passes."""

import os
import subprocess
import tempfile

from . import binary, code, text
from .source import Source

LICENSE = "# SPDX-License-Identifier: Apache-2.0 OR MIT\n"
OPENING = "/* SPDX-License-Identifier: Apache-2.0 OR MIT\n *\n * A planted file.\n */\n"
ASSERTS = "    KELPIE_ASSERT(a);\n    KELPIE_ASSERT(b);\n"
LONG_BODY = ASSERTS + "    a = a + 1;\n" * 67
BANNED = (
    "strcpy all use kelpie__text_copy\nmalloc seam use kelpie__alloc\ntime seam use now\n"
    "errno seam only src/os has it\n"
)

# Rule, path, text after the opening comment (or the whole text when it starts with "!").
PLANTED = [
    ("line-length", "src/core/a.c", "int a" + "a" * 100 + ";\n"),
    ("tab", "src/core/a.c", "\tint a;\n"),
    ("trailing-space", "src/core/a.c", "int a; \n"),
    ("last-line", "src/core/a.c", "int a;\n\n"),
    ("file-length", "src/core/a.c", "int a;\n" * 1001),
    ("unfinished", "src/core/a.c", "/* FIX" + "ME */\n"),
    ("license", "src/core/a.c", "!/* No licence.\n */\nint a;\n"),
    ("opening", "src/core/a.c", "!/* SPDX-License-Identifier: Apache-2.0 OR MIT */\nint a;\n"),
    ("line-comment", "src/core/a.c", "int a; // why\n"),
    ("typedef", "src/core/a.c", "typedef struct a a_t;\n"),
    ("endless-loop", "src/core/a.c", "static void f(void) {\n    for (;;) {\n    }\n}\n"),
    ("layer", "src/core/a.c", '#include "monitor/monitor.h"\n'),
    ("layer", "src/monitor/a.c", '#include "vmm/qemu/qmp.h"\n'),
    ("layer", "src/cli/a.c", '#include "lib/client.h"\n'),
    ("layer", "src/lib/a.c", '#include "sim/world.h"\n'),
    ("guard", "src/core/a.h", "#ifndef A_H\n#define A_H\n#endif\n"),
    ("banned", "src/core/a.c", "static void f(void) {\n    p = malloc(3);\n}\n"),
    ("banned", "tests/unit/a.c", "static void f(void) {\n    strcpy(a, b);\n}\n"),
    ("banned", "src/sim/a.c", "static void f(void) {\n    p = time(3);\n}\n"),
    ("banned", "src/wire/a.c", "static int f(void) {\n    return -errno;\n}\n"),
    ("function-length", "src/core/a.c", "static void f(int a) {\n" + LONG_BODY + "}\n"),
    ("braces", "src/core/a.c", "static void f(int a) {\n    if (a)\n        g();\n}\n"),
    ("braces", "src/core/a.c", "static void f(int a) {\n    if (a) {\n    } else\n        g();\n}\n"),
    ("goto", "src/core/a.c", "static void f(int a) {\nagain:\n    goto again;\n}\n"),
    ("name", "src/core/a.c", "int helper(int a) {\n    return a;\n}\n"),
    ("main", "src/cli/main.c", "static void f(void) {\n}\n"),
    ("recursion", "src/core/a.c", "static void f(int a) {\n    f(a - 1);\n}\n"),
    (
        "recursion",
        "src/core/a.c",
        "void kelpie__g(void) {\n    kelpie__f();\n}\nvoid kelpie__f(void) {\n    kelpie__g();\n}\n",
    ),
    ("assertions", "src/core/a.c", "static void f(int a) {\n" + "    a = 1;\n" * 12 + "}\n"),
]

CLEAN = [
    (
        "src/core/a.c",
        '#include "core/base.h"\n#include "os/os_call.h"\n\n'
        "static const char *const text = \"for (;;) // malloc(1)\";\n\n"
        "int kelpie__a(int a, int b) {\n" + ASSERTS + "    int64_t time = value.time(a);\n"
        "    if (a) {\n        goto fail_open;\n    } else if (b) {\n        a = 1;\n    }\n"
        "    do {\n        a++;\n    } while (a < b);\n    while (a < b) {\n        a++;\n    }\n"
        "    return 0;\nfail_open:\n    return -1;\n}\n",
    ),
    ("src/core/a.h", "#ifndef KELPIE_CORE_A_H\n#define KELPIE_CORE_A_H\n#endif\n"),
    ("src/cli/main.c", "int main(void) {\n    return 0;\n}\n"),
    ("src/sim/a.c", '#include "agent/agent.h"\nstatic void f(void) {\n    p = malloc(3);\n}\n'),
]


def check_sources(sources, banned):
    for source in sources:
        for check in text.TEXT_CHECKS:
            yield from check(source)
        if source.is_c:
            for check in text.C_CHECKS + code.FUNCTION_CHECKS:
                yield from check(source)
            yield from banned.check(source)
    for check in text.TREE_CHECKS + code.TREE_CHECKS:
        yield from check(sources)


def planted_source(path, content):
    return Source(path, content[1:] if content.startswith("!") else OPENING + content)


def test_sources(report):
    banned = text.BannedNames(BANNED)
    for number, (rule, path, content) in enumerate(PLANTED, 1):
        found = {finding.rule for finding in check_sources([planted_source(path, content)], banned)}
        report(f"finds-{rule}-{number}", found == {rule}, f"found {sorted(found)}")
    pair = [planted_source("src/core/a.c", "int a;\n"), Source("src/meson.build", f"{LICENSE}'b.c'\n")]
    found = {finding.rule for finding in check_sources(pair, banned)}
    report("finds-unlisted", found == {"unlisted"}, f"found {sorted(found)}")
    for path, content in CLEAN:
        found = [str(finding) for finding in check_sources([planted_source(path, content)], banned)]
        report(f"passes-{path}", not found, "; ".join(found))


def build_archive(folder, layer, content):
    source, item = os.path.join(folder, f"{layer}.c"), os.path.join(folder, f"{layer}.o")
    os.makedirs(os.path.join(folder, "src"), exist_ok=True)
    with open(source, "w", encoding="utf-8") as file:
        file.write(content)
    subprocess.run(["gcc", "-O0", "-fPIC", "-c", source, "-o", item], check=True)
    archive = os.path.join(folder, "src", f"lib{layer}.a")
    subprocess.run(["ar", "rcs", archive, item], check=True)


def build_library(folder, name, content, *flags):
    source, path = os.path.join(folder, f"{name}.c"), os.path.join(folder, name)
    with open(source, "w", encoding="utf-8") as file:
        file.write(content)
    subprocess.run(["gcc", "-fPIC", "-shared", source, "-o", path, *flags], check=True)
    return path


def test_archives(report, folder):
    build_archive(folder, "os", "int kelpie__os(void); int kelpie__os(void) { return 0; }")
    build_archive(
        folder,
        "core",
        "int rand(void); int kelpie__monitor(void); int kelpie__core(void); static int count;\n"
        "int kelpie__core(void) { return rand() + kelpie__monitor() + ++count; }",
    )
    build_archive(
        folder,
        "monitor",
        "int kelpie__os(void); int kelpie__monitor(void);\n"
        "static const char *const name = \"x\"; int kelpie__monitor(void) { return kelpie__os() + *name; }",
    )
    found = [(finding.rule, finding.text) for finding in binary.check_undefined(folder, {})]
    report(
        "finds-seam-and-layer-link",
        [rule for rule, _ in found] == ["layer-link", "seam"],
        str(found),
    )
    allowed = binary.read_list("rand for the test\n")
    found = [finding.rule for finding in binary.check_undefined(folder, allowed)]
    report("passes-listed-symbol", found == ["layer-link"], str(found))
    found = [finding.text for finding in binary.check_statics(folder, {})]
    report("finds-mutable-static", found == ["count lives in .bss"], str(found))
    build_archive(
        folder,
        "sim",
        "void *malloc(unsigned long); long time(long *); void *kelpie__sim_a(void);\n"
        "void *kelpie__sim_a(void) { return malloc((unsigned long)time(0)); }",
    )
    found = [
        finding.text.split()[:3]
        for finding in binary.check_undefined(folder, allowed, {"malloc": "its own memory"})
        if finding.rule == "seam"
    ]
    report("finds-time-in-simulator", found == [["sim", "needs", "time,"]], str(found))
    found = [finding.rule for finding in binary.check_no_simulator([os.path.join(folder, "sim.o")])]
    report("finds-simulator-in-product", found == ["sim-in-product"], str(found))
    found = [finding.rule for finding in binary.check_no_simulator([os.path.join(folder, "os.o")])]
    report("passes-product", found == [], str(found))
    build_archive(folder, "store", 'const char *kelpie__m(void); const char *kelpie__m(void) { return "a mark"; }')
    found = [
        [finding.rule for finding in binary.check_no_marks([os.path.join(folder, name)], {"a mark"})]
        for name in ("store.o", "os.o")
    ]
    report("finds-mark-in-product", found == [["mark-in-product"], []], str(found))


def test_library(report, folder):
    script = os.path.join(folder, "map")
    with open(script, "w", encoding="utf-8") as file:
        file.write("KELPIE_0.1 { global: kelpie_a; kelpie_b; local: *; };\n")
    content = "#include <math.h>\nint kelpie_a(double x) { return (int)floor(x); }\nint kelpie_b(void) { return 0; }\n"
    library = build_library(
        folder, "libplanted.so", content, f"-Wl,--version-script={script}", "-Wl,--no-as-needed", "-lm"
    )
    header = "/* kelpie_x() */\nint kelpie_a(double x);\nint kelpie_c(void);\ntypedef void (*kelpie_d)(int a);\n"
    found = sorted(finding.text.split()[0] for finding in binary.check_exports(library, header))
    report("finds-exports", found == ["kelpie_b", "kelpie_c"], str(found))
    found = [finding.text for finding in binary.check_needed(library)]
    report("finds-needed", found == ["needs libm.so.6; libc only"], str(found))
    large = os.path.join(folder, "large")
    subprocess.run(
        ["gcc", "-x", "c", "-", "-o", large],
        input="char zero[300000] = {1}; int main(void) { return 0; }",
        text=True,
        check=True,
    )
    found = [finding.rule for finding in binary.check_agent(large)]
    report("finds-agent-size-and-agent-static", found == ["agent-size", "agent-static"], str(found))


def self_test():
    """Prints `ok NAME` or `not ok NAME`; true when all are ok."""
    failed = []

    def report(name, is_ok, detail):
        print(f"ok {name}" if is_ok else f"not ok {name}: {detail}")
        if not is_ok:
            failed.append(name)

    test_sources(report)
    with tempfile.TemporaryDirectory(prefix="kelpie-tidy.") as folder:
        test_archives(report, folder)
        test_library(report, folder)
    return not failed
