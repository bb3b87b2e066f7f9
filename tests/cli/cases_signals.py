# SPDX-License-Identifier: Apache-2.0 OR MIT
"""Signals and terminals, in the shared VM."""

import os
import signal
import subprocess
import time

from support import Terminal, case, check, check_equal, interrupt, wait_for

TRAPS = 'for s in INT TERM HUP QUIT USR1; do trap "echo $s; exit 9" $s; done; echo ready; '
WAIT = "while :; do sleep 0.05; done"


def started(kelpie, script, **options):
    """A shell in the guest that has said that it is ready."""
    process = kelpie.start("exec", kelpie.vm, "sh", "-c", script, **options)
    check_equal(process.stdout.read(6), b"ready\n", "beginning")
    return process


@case
def signals_go_to_the_command(kelpie):
    for name in ("INT", "TERM", "HUP", "QUIT", "USR1"):
        process = started(kelpie, TRAPS + WAIT)
        interrupt(process, getattr(signal, f"SIG{name}"))
        out, _ = process.communicate(timeout=10)
        check_equal((out, process.returncode), (name.encode() + b"\n", 9), name)


@case
def the_third_interrupt_kills(kelpie):
    process = started(kelpie, "trap '' INT TERM; echo ready; sleep 77 & " + WAIT)
    for _ in range(2):
        interrupt(process)
        time.sleep(0.2)
        check(process.poll() is None, "it ended early", process.returncode)
    interrupt(process)
    process.communicate(timeout=5)
    check_equal(process.returncode, 130, "exit code")
    wait_for(lambda: kelpie.run("exec", kelpie.vm, "pidof", "sleep")[0] == 1, 5, "it runs on")


@case
def signals_arrive_though_nobody_reads(kelpie):
    process = kelpie.start("exec", kelpie.vm, "yes")
    process.stdout.read(10)
    time.sleep(0.5)
    interrupt(process)
    time.sleep(0.3)
    process.stdout.close()
    check(process.wait(5) in (130, 141), "exit code", process.returncode)


@case
def signals_ignored_by_the_parent_stay_ignored(kelpie):
    process = kelpie.start(
        "exec",
        kelpie.vm,
        "sh",
        "-c",
        TRAPS + WAIT,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),
    )
    process.stdout.read(6)
    interrupt(process, signal.SIGHUP)
    time.sleep(0.3)
    check(process.poll() is None, "nohup has no effect")
    interrupt(process, signal.SIGTERM)
    check_equal(process.communicate(timeout=10)[0], b"TERM\n", "output")


@case
def terminal_in_the_guest(kelpie):
    terminal = Terminal(kelpie, "exec", "-it", kelpie.vm, "sh", "-c", "tty; stty size; read x; exit 4")
    try:
        terminal.read_until(b"30 100")
        check(b"/dev/pts/" in terminal.seen, "no terminal", terminal.seen)
        check(terminal.is_raw(), "the terminal is not raw")
        terminal.write(b"\r")
        check_equal(terminal.wait(), 4, "exit code")
        terminal.check_restored()
    finally:
        terminal.close()


@case
def window_size_is_followed(kelpie):
    script = "trap 'stty size; exit' WINCH; echo ready; " + WAIT
    terminal = Terminal(kelpie, "exec", "-it", kelpie.vm, "sh", "-c", script)
    try:
        terminal.read_until(b"ready")
        terminal.resize(41, 121)
        terminal.read_until(b"41 121")
        check_equal(terminal.wait(), 0, "exit code")
    finally:
        terminal.close()


@case
def ctrl_c_on_the_terminal(kelpie):
    terminal = Terminal(kelpie, "exec", "-it", kelpie.vm, "sh", "-c", TRAPS + WAIT)
    try:
        terminal.read_until(b"ready")
        terminal.write(b"\x03")
        terminal.read_until(b"INT")
        check_equal(terminal.wait(), 9, "exit code")
        terminal.check_restored()
    finally:
        terminal.close()


@case
def ctrl_c_without_a_guest_terminal(kelpie):
    terminal = Terminal(kelpie, "exec", kelpie.vm, "sh", "-c", TRAPS + WAIT)
    try:
        terminal.read_until(b"ready")
        check(not terminal.is_raw(), "the terminal is raw")
        terminal.write(b"\x03")
        terminal.read_until(b"INT")
        check_equal(terminal.wait(), 9, "exit code")
    finally:
        terminal.close()


@case
def ctrl_d_on_the_terminal(kelpie):
    terminal = Terminal(kelpie, "exec", "-it", kelpie.vm, "sh", "-c", "echo ready; cat; echo end")
    try:
        terminal.read_until(b"ready")
        terminal.write(b"text\r\x04")
        terminal.read_until(b"end")
        check_equal(terminal.wait(), 0, "exit code")
    finally:
        terminal.close()


@case
def terminal_is_restored_after_signals(kelpie):
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        terminal = Terminal(kelpie, "exec", "-it", kelpie.vm, "sh", "-c", "echo ready; sleep 30")
        try:
            terminal.read_until(b"ready")
            interrupt(terminal.process, number)
            check_equal(terminal.wait(5), 128 + number, "exit code")
            terminal.check_restored()
        finally:
            terminal.close()


@case
def terminal_is_raw_again_after_a_stop(kelpie):
    terminal = Terminal(kelpie, "exec", "-it", kelpie.vm, "sh", "-c", "echo ready; read x; exit 6")
    try:
        terminal.read_until(b"ready")
        interrupt(terminal.process, signal.SIGSTOP)
        os.waitpid(terminal.process.pid, os.WUNTRACED)
        subprocess.run(["stty", "sane"], stdin=terminal.slave, check=True)
        check(not terminal.is_raw(), "stty had no effect")
        interrupt(terminal.process, signal.SIGCONT)
        wait_for(terminal.is_raw, 5, "the terminal is not raw again")
        terminal.write(b"\r")
        check_equal(terminal.wait(), 6, "exit code")
    finally:
        terminal.close()
