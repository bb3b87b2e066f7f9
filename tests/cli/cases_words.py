# SPDX-License-Identifier: Apache-2.0 OR MIT
"""Options, words and texts: no guest is needed."""

import json
import os
import re
import shutil
import subprocess

from support import Skip, case, check, check_equal

MANUAL = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../man/kelpie.1")


def verbs(kelpie):
    out, _ = kelpie.expect(0, "help")
    return re.findall(r"^  ([a-z-]+) +\S", out.decode(), re.MULTILINE)


def options(text):
    return set(re.findall(r"(?:^|[\s,])--([a-z][a-z-]*)", text))


@case
def help_lists_all_verbs(kelpie):
    wanted = (
        "run create start exec attach ps inspect logs boot-chart pause resume snapshot restore fork pool stop kill rm "
        "prune doctor version help".split()
    )
    check_equal(verbs(kelpie), wanted, "verbs")
    code, out, err = kelpie.run()
    check(code == 125 and b"usage: kelpie" in out + err.encode(), "kelpie alone", code)


@case
def help_of_each_verb(kelpie):
    for verb in verbs(kelpie):
        text, _ = kelpie.expect(0, verb, "--help")
        check(text.startswith(f"usage: kelpie {verb}".encode()), verb, text)
        check_equal(kelpie.expect(0, "help", verb)[0], text, f"help {verb}")
        check_equal(kelpie.expect(0, verb, "-h")[0], text, f"{verb} -h")


@case
def help_comes_before_other_mistakes(kelpie):
    kelpie.expect(0, "exec", "--help")
    kelpie.expect(0, "run", "--memory", "64", "--help")


@case
def manual_lists_all_options(kelpie):
    with open(MANUAL, encoding="utf-8") as file:
        manual = file.read()
    in_manual = set(re.findall(r"Fl -([a-z][a-z-]*)", manual))
    in_help = options(kelpie.expect(0, "help")[0].decode())
    for verb in verbs(kelpie):
        check(re.search(rf"^\.(Ss|It Cm|Nm|Ic|It) .*\b{verb}\b", manual, re.MULTILINE), verb)
        in_help |= options(kelpie.expect(0, verb, "--help")[0].decode())
    check_equal(in_manual - {"version"}, in_help - {"version"}, "options of the manual")


@case
def manual_is_clean(_):
    if shutil.which("mandoc") is None:
        raise Skip("mandoc", "mandoc is not installed")
    result = subprocess.run(
        ["mandoc", "-Tlint", "-Wstyle", MANUAL], capture_output=True, text=True, check=False
    )
    lines = [line for line in result.stdout.splitlines() if "referenced manual not found" not in line]
    check(lines == [], "mandoc:", lines)


@case
def version_in_both_forms(kelpie):
    out, _ = kelpie.expect(0, "version")
    check(re.fullmatch(rb"kelpie \d+\.\d+\.\d+\n", out), "version", out)
    found = json.loads(kelpie.expect(0, "version", "--json")[0])
    check(found["version"] in out.decode(), "version --json", found)
    check_equal(kelpie.expect(0, "--version")[0], out, "--version")


@case
def unknown_words_get_a_suggestion(kelpie):
    kelpie.refuse(['"exce"', '"exec"'], "exce", "vm", "true")
    kelpie.refuse(['"--memry"', "--memory"], "run", "--memry", "512", "true")
    kelpie.refuse(['"--frobnicate"', "run --help"], "run", "--frobnicate", "true")
    kelpie.refuse(['"-iz"'], "exec", "-iz", "vm", "true")
    kelpie.refuse(['"--stat-dir"'], "--stat-dir", "/x", "ps")


@case
def options_need_their_values(kelpie):
    kelpie.refuse(["--memory", "value"], "create", "--memory")
    kelpie.refuse(["--read-only", "no value"], "create", "--read-only=yes", "x")
    kelpie.refuse(["--cpus", '"two"', "number"], "create", "--cpus", "two", "x")
    kelpie.refuse(["--memory", '"5q"', "512m"], "create", "--memory=5q", "x")
    kelpie.refuse(["--timeout", '"soon"', "5s"], "exec", "--timeout", "soon", "vm", "true")
    kelpie.refuse(["--timeout", '"0"', "1ms"], "exec", "--timeout=0", "vm", "true")
    kelpie.refuse(["--accel", '"hax"', "tcg"], "create", "--accel=hax", "x")
    kelpie.refuse(["--env", '"=x"', "NAME=VALUE"], "create", "--env", "=x", "x")
    kelpie.refuse(["too little"], "exec", "vm")
    kelpie.refuse(['"c"', "too much"], "create", "b", "c")
    kelpie.refuse(["two names"], "create", "--name", "a", "b")
    kelpie.refuse(["no command", "-d"], "run")
    kelpie.refuse(["-d and -i"], "run", "-di", "cat")


@case
def empty_values_are_refused(kelpie):
    for words in (
        ("run", "--user", "", "--", "true"),
        ("exec", "-u", "", "x", "true"),
        ("run", "--workdir=", "--", "true"),
        ("create", "--from", ""),
        ("create", "--root", ""),
        ("run", "--pool", "", "--", "true"),
    ):
        _, err = kelpie.expect(125, *words)
        check("it is empty; give" in str(err), words, err)
    check_equal(kelpie.expect(0, "ps", "-a")[0].count(b"\n"), 1, "VMs")


@case
def numbers_that_are_too_large_are_told_so(kelpie):
    for words in (
        ("create", "--cpus", "99999999999999999999999"),
        ("create", "--memory", "99999999999999999999g"),
        ("prune", "--older-than", "9999999999999999999d"),
        ("run", "--timeout", "366d", "--", "true"),  # before a VM is booted for it
    ):
        _, err = kelpie.expect(125, *words)
        check("is too large" in str(err), words, err)
    _, err = kelpie.expect(125, "create", "--cpus", "1.5")
    check("is not a whole number" in str(err), err)


@case
def values_in_every_form(kelpie):
    forms = {"1G": 1024, "512": 512, "256m": 256, "1024MiB": 1024}
    for text, wanted in forms.items():
        kelpie.expect(0, "create", "--memory", text, f"--boot-timeout={'2m'}", "form")
        (found,) = json.loads(kelpie.expect(0, "inspect", "--json", "form")[0])
        check_equal(found["memory_mib"], wanted, text)
        kelpie.expect(0, "rm", "form")
    for text in ("500ms", "5s", "2m", "7"):
        kelpie.expect(0, "create", "--boot-timeout", text, "form")
        kelpie.expect(0, "rm", "form")


@case
def terminal_is_needed_for_t(kelpie):
    kelpie.refuse(["-t", "terminal"], "run", "-it", "true")
    kelpie.refuse(["-t", "terminal"], "exec", "-t", "vm", "true")


@case
def every_option_that_help_shows_is_taken(kelpie):
    values = {"N": "1", "SIZE": "512m", "TIME": "1s"}
    for verb, parts in (
        ("pool", ("create", "ls", "inspect", "rm", "claim", "renew")),
        ("snapshot", ("create", "ls", "inspect", "rm", "verify", "tree", "export", "import")),
    ):
        text = kelpie.expect(0, verb, "--help")[0].decode()
        options = re.findall(r"--([a-z-]+)(?: ([A-Z]+))?[^\n]*  ", text)
        check(len(options) > 3, "options in the help", text)
        for name, value in options:
            if name in ("help", "size"):  # with a size a pool is made
                continue
            option = f"--{name}={values.get(value, 'x')}" if value else f"--{name}"
            errors = [kelpie.run(verb, part, option, "nobody")[2] for part in parts]
            check(any(f"takes no --{name}" not in err for err in errors), verb, option, errors[0])


@case
def output_that_cannot_be_written_is_told(kelpie):
    with open("/dev/full", "wb") as full:
        code, _, err = kelpie.run("version", stdout=full)
    check(code == 125 and "ENOSPC" in err, "/dev/full", code, err)
    read_end, write_end = os.pipe()
    os.close(read_end)
    code, _, err = kelpie.run("help", stdout=write_end)
    os.close(write_end)
    check(code == 141 and err == "", "a pipe without a reader", code, err)


@case
def state_that_cannot_be_told_is_unknown(kelpie):
    kelpie.expect(0, "create", "untold")
    with open(os.path.join(kelpie.state, "vms", "untold", "config.json"), "w") as file:
        file.write("{")
    for words in (["ps"], ["ps", "-a"]):
        line = [line for line in kelpie.expect(0, *words)[0].decode().splitlines() if line.startswith("untold ")]
        check(line and line[0].split()[1:3] == ["unknown", "-"], "its line", words, line)
    kelpie.refuse(["untold", "damaged"], "inspect", "untold")
    kelpie.expect(0, "rm", "-f", "untold")


@case
def state_directory_before_the_verb(kelpie):
    other = os.path.join(kelpie.folder, "other")
    kelpie.expect(0, "--state-dir", other, "create", "there")
    kelpie.expect(0, f"--state-dir={other}", "inspect", "there")
    check("there" not in kelpie.states(), "it is in the first directory, too")
    found, _ = kelpie.expect(0, "--state-dir", other, "ps", "-a")
    check(b"there" in found, "ps", found)
    kelpie.expect(0, "--state-dir", other, "rm", "there")
