# SPDX-License-Identifier: Apache-2.0 OR MIT
"""Commands in a shared VM: codes, streams byte for byte, environment."""

import fcntl
import os
import re
import resource
import subprocess
import tempfile
import time

from support import ALL_BYTES, case, check, check_equal, wait_for

MIB = 1024 * 1024


@case
def boot_the_shared_vm(kelpie):
    out, _ = kelpie.expect(0, "create", "--memory", "256", "--env", "FROM_VM=yes", kelpie.vm)
    check_equal(out, b"shared\n", "create")
    check_equal(kelpie.states()[kelpie.vm], "created", "state")
    check_equal(kelpie.expect(0, "start", kelpie.vm)[0], b"shared\n", "start")
    check_equal(kelpie.states()[kelpie.vm], "running", "state")
    kelpie.refuse(['"shared"', "running"], "start", kelpie.vm)


@case
def exit_codes(kelpie):
    for code in (0, 1, 7, 124, 125, 255):
        kelpie.execute(code, "sh", "-c", f"exit {code}")
    for number in (9, 15, 6):
        kelpie.execute(128 + number, "sh", "-c", f"kill -{number} $$")


@case
def commands_that_cannot_run(kelpie):
    _, err = kelpie.execute(127, "no-such-command")
    check(err.startswith("kelpie: exec: ") and "no-such-command" in err, "message", err)
    kelpie.execute(127, "/no/such/command")
    kelpie.execute(126, "/tmp")
    kelpie.execute(126, "/etc/passwd")
    kelpie.execute(0, "sh", "-c", "printf '#!/no/interpreter\\n' >/tmp/s; chmod 755 /tmp/s")
    kelpie.execute(126, "/tmp/s")
    check(kelpie.states()[kelpie.vm] == "running", "the VM does not run")


@case
def timeout_kills(kelpie):
    start = time.monotonic()
    _, err = kelpie.execute(124, "sleep", "20", options=("--timeout", "500ms"))
    check(time.monotonic() - start < 5, "it took", time.monotonic() - start)
    check("500 ms" in err, "message", err)
    kelpie.execute(
        124, "sh", "-c", "trap '' TERM INT; sleep 21 & sleep 21", options=("--timeout=1s",)
    )
    check_equal(kelpie.execute(1, "pidof", "sleep")[0], b"", "what it had started")


@case
def both_streams_byte_for_byte(kelpie):
    script = "i=0; while [ $i -lt 256 ]; do printf \"\\\\$(printf %03o $i)\"; i=$((i+1)); done"
    out, err = kelpie.execute(0, "sh", "-c", f"{script}; echo to stderr >&2")
    check_equal(out, ALL_BYTES, "standard output")
    check_equal(err, "to stderr\n", "standard error")


@case
def ten_mebibytes_both_ways(kelpie):
    sent = os.urandom(10 * MIB)
    out, _ = kelpie.execute(0, "cat", options=("-i",), stdin_bytes=sent, seconds=60)
    check(out == sent, "the bytes differ; count", len(out))


@case
def a_file_as_standard_input(kelpie):
    sent = os.urandom(2 * MIB + 1)
    with tempfile.TemporaryFile(dir=kelpie.folder) as file:
        file.write(sent)
        file.seek(1)
        with tempfile.TemporaryFile(dir=kelpie.folder) as output:
            output.write(b"before")
            output.flush()
            kelpie.execute(0, "cat", options=("-i",), stdin=file, stdout=output, seconds=60)
            check_equal(output.tell(), len(sent) - 1 + 6, "position of the output file")
            output.seek(0)
            check(output.read() == b"before" + sent[1:], "the bytes differ")


@case
def standard_input_only_with_i(kelpie):
    check_equal(kelpie.execute(0, "cat", stdin_bytes=b"ignored")[0], b"", "output")
    check_equal(kelpie.execute(0, "cat", options=("-i",), stdin_bytes=b"x")[0], b"x", "output")
    check_equal(kelpie.execute(0, "cat", options=("-i",), stdin_bytes=b"")[0], b"", "output")
    check_equal(kelpie.execute(0, "cat", options=("-i",))[0], b"", "output of /dev/null")


@case
def end_of_input_is_passed_on(kelpie):
    out, _ = kelpie.execute(
        0, "sh", "-c", "cat; echo after", options=("--interactive",), stdin_bytes=b"text\n"
    )
    check_equal(out, b"text\nafter\n", "output")


@case
def closed_descriptors(kelpie):
    command = f'"{kelpie.program}" exec -i {kelpie.vm} -- sh -c "cat; echo out; echo err >&2"'
    for closed, wanted in (("<&-", (b"out\n", b"err\n")), ("2>&- </dev/null", (b"out\n", b""))):
        result = subprocess.run(
            ["sh", "-c", f"{command} {closed}"],
            env=kelpie.environment,
            capture_output=True,
            timeout=30,
            check=False,
        )
        check_equal((result.stdout, result.stderr), wanted, closed)


@case
def a_command_may_ignore_its_input(kelpie):
    kelpie.execute(3, "sh", "-c", "exit 3", options=("-i",), stdin_bytes=bytes(MIB))


@case
def flags_of_shared_descriptors_stay(kelpie):
    for flag in (0, os.O_NONBLOCK):
        read_end, write_end = os.pipe()
        for end in (read_end, write_end):
            fcntl.fcntl(end, fcntl.F_SETFL, fcntl.fcntl(end, fcntl.F_GETFL) & ~os.O_NONBLOCK | flag)
        process = kelpie.start("exec", "-i", kelpie.vm, "cat", stdin=read_end, stdout=write_end)
        try:
            time.sleep(0.3)
            for end in (read_end, write_end):
                found = fcntl.fcntl(end, fcntl.F_GETFL) & os.O_NONBLOCK
                check_equal(found, flag, "O_NONBLOCK")
        finally:
            process.kill()
            process.wait()
            os.close(read_end)
            os.close(write_end)


def memory_kib(process):
    with open(f"/proc/{process.pid}/status", encoding="utf-8") as file:
        return int(re.search(r"VmRSS:\s+(\d+)", file.read()).group(1))


@case
def a_reader_that_does_not_read_stops_the_command(kelpie):
    process = kelpie.start("exec", kelpie.vm, "yes")
    try:
        process.stdout.read(1000)
        time.sleep(1)
        check(memory_kib(process) < 16 * 1024, "KiB of memory", memory_kib(process))
        before = cpu_ticks(process)
        time.sleep(0.5)
        check(cpu_ticks(process) - before <= 1, "it is busy, ticks", cpu_ticks(process) - before)
        for _ in range(64):
            check_equal(process.stdout.read(65536), b"y\n" * 32768, "output after a pause")
    finally:
        process.kill()
        process.communicate()
    wait_for(lambda: kelpie.run("exec", kelpie.vm, "pidof", "yes")[0] == 1, 5, "yes runs on")


def cpu_ticks(process):
    with open(f"/proc/{process.pid}/stat", encoding="utf-8") as file:
        fields = file.read().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


@case
def a_reader_that_goes_ends_the_command(kelpie):
    process = kelpie.start("exec", kelpie.vm, "yes")
    check_equal(process.stdout.read(2), b"y\n", "output")
    process.stdout.close()
    check_equal(process.wait(10), 141, "exit code")
    check_equal(process.stderr.read(), b"", "standard error")
    wait_for(lambda: kelpie.run("exec", kelpie.vm, "pidof", "yes")[0] == 1, 5, "yes runs on")


@case
def full_disks_are_told(kelpie):
    with open("/dev/full", "wb") as full:
        code, _, err = kelpie.run("exec", kelpie.vm, "echo", "x", stdout=full)
    check(code == 125 and "ENOSPC" in err, "code and message", code, err)


@case
def what_nobody_was_told_of_is_not_left(kelpie):
    before = kelpie.states()
    makers = (
        ["exec", "-d", kelpie.vm, "sleep", "4321"],
        ["create", "untold"],
        ["run", "-d", "--name", "untold"],
    )
    for words in makers:
        with open("/dev/full", "wb") as full:
            code, _, err = kelpie.run(*words, stdout=full)
        check(code == 125 and "ENOSPC" in err, "code and message", words, code, err)
        check_equal(kelpie.states(), before, f"VMs after {words[0]}")
    read_end, write_end = os.pipe()
    os.close(read_end)
    code, _, err = kelpie.run("create", stdout=write_end)
    os.close(write_end)
    check_equal((code, err), (141, ""), "a pipe without a reader")
    check_equal(kelpie.states(), before, "VMs after create")
    check_equal(kelpie.run("exec", kelpie.vm, "pidof", "sleep")[0], 1, "sleep runs on")


@case
def environment_directory_user(kelpie):
    out, _ = kelpie.execute(
        0,
        "sh",
        "-c",
        'echo "$A|$B|$FROM_VM|$HOSTS"; pwd; id -u; id -g',
        options=("-e", "A=1 =2", "--env=B=", "-eHOSTS", "-w", "/tmp", "-u", "1234:56"),
        environment={"HOSTS": "host's"},
    )
    check_equal(out, b"1 =2||yes|host's\n/tmp\n1234\n56\n", "output")
    out, _ = kelpie.execute(0, "env", options=("-e", "FROM_VM=no", "-e", "NOT_SET_HERE"))
    check(b"FROM_VM=no\n" in out and b"NOT_SET_HERE" not in out, "environment", out)
    kelpie.refuse(["no-such-user"], "exec", "-u", "no-such-user", kelpie.vm, "true")
    _, err = kelpie.execute(126, "true", options=("-w", "/no/dir"))
    check('"/no/dir"' in err, "message", err)


@case
def options_end_at_the_command(kelpie):
    check_equal(kelpie.execute(0, "echo", "-i", "--", "-t")[0], b"-i -- -t\n", "output")
    out, _ = kelpie.expect(0, "exec", kelpie.vm, "echo", "--help")
    check_equal(out, b"--help\n", "output")
    check_equal(kelpie.execute(0, "printf", "%s|", "", "a b", "*")[0], b"|a b|*|", "arguments")


def allow_more_arguments():
    """Linux takes 128 KiB in one argument and a quarter of the stack's limit in all."""
    hard = resource.getrlimit(resource.RLIMIT_STACK)[1]
    resource.setrlimit(resource.RLIMIT_STACK, (64 * MIB, hard))


@case
def arguments_up_to_two_mebibytes(kelpie):
    # With the zeros: 17 of 120,001 bytes, and 57,135 with the rest, are 2 MiB exactly.
    script = 'echo $# ${#1}'
    others = sum(len(text) + 1 for text in ("sh", "-c", script, "sh", "FROM_VM=yes"))
    large = ["x" * 120_000] * 17
    last = "y" * (2 * MIB - 17 * 120_001 - others - 1)
    out, _ = kelpie.execute(
        0, "sh", "-c", script, "sh", *large, last, preexec_fn=allow_more_arguments, seconds=60
    )
    check_equal(out, b"18 120000\n", "arguments")
    command = ["exec", kelpie.vm, "sh", "-c", script, "sh", *large, last + "y"]
    kelpie.refuse(["2097153", "2097152", "stdin"], *command, preexec_fn=allow_more_arguments)


@case
def many_at_once(kelpie):
    running = [
        kelpie.start("exec", "-i", kelpie.vm, "sh", "-c", f"cat; exit {i}", stdin=subprocess.PIPE)
        for i in range(8)
    ]
    for i, process in enumerate(running):
        out, err = process.communicate(str(i).encode() * 50_000, timeout=30)
        check_equal((process.returncode, err), (i, b""), "end")
        check(out == str(i).encode() * 50_000, "somebody else's bytes", i)


@case
def detach_and_attach(kelpie):
    out, _ = kelpie.expect(
        0, "exec", "-d", kelpie.vm, "sh", "-c", "sleep 0.5; echo out; echo err >&2; exit 5"
    )
    identity = out.decode().strip()
    check(re.fullmatch("[0-9a-f]{32}", identity), "id", identity)
    listed, _ = kelpie.expect(0, "attach", kelpie.vm)
    check(identity.encode() in listed, "attach without an id", listed)
    out, err = kelpie.expect(5, "attach", kelpie.vm, identity)
    check_equal((out, err), (b"out\n", "err\n"), "streams")
    kelpie.refuse([identity[:8]], "attach", kelpie.vm, identity)
    kelpie.refuse(['"xyz"', "32"], "attach", kelpie.vm, "xyz")
