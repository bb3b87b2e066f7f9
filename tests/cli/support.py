# SPDX-License-Identifier: Apache-2.0 OR MIT
"""What the tests of the command share: how it is run, what it may leave behind, which rows there are.

A case is a function with @case. It raises Failure, or returns. Rows are printed as tools/run-tests reads them.
"""

import fcntl
import json
import os
import pty
import select
import shutil
import signal
import struct
import subprocess
import tempfile
import termios
import time
import traceback

CASES = []
CASE_SECONDS = 120
ALL_BYTES = bytes(range(256))


class Failure(Exception):
    pass


class Skip(Exception):
    """The first argument is the need, the second why it is not met."""


def case(function):
    CASES.append(function)
    return function


def check(condition, why, *details):
    if not condition:
        raise Failure(" ".join([why, *(repr(detail)[:400] for detail in details)]))


def check_equal(found, wanted, what):
    if found != wanted:
        raise Failure(f"{what}: {found!r:.400} instead of {wanted!r:.400}")


class Kelpie:
    """The command, its state directory, and a VM that most cases share."""

    def __init__(self, program):
        self.program = os.path.abspath(program)
        self.folder = tempfile.mkdtemp(prefix="kelpie-cli-")
        self.state = os.path.join(self.folder, "state")
        self.environment = {
            key: value for key, value in os.environ.items() if not key.startswith("KELPIE_STATE")
        }
        self.environment["KELPIE_STATE_DIR"] = self.state
        self.vm = "shared"

    def start(self, *arguments, **options):
        options.setdefault("stdin", subprocess.DEVNULL)
        options.setdefault("stdout", subprocess.PIPE)
        options.setdefault("stderr", subprocess.PIPE)
        environment = dict(self.environment, **options.pop("environment", {}))
        return subprocess.Popen([self.program, *arguments], env=environment, **options)

    def run(self, *arguments, stdin_bytes=None, seconds=60, **options):
        """Runs it to its end. Gives (exit code, standard output, standard error as text)."""
        if stdin_bytes is not None:
            options["stdin"] = subprocess.PIPE
        process = self.start(*arguments, **options)
        try:
            out, err = process.communicate(stdin_bytes, timeout=seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            raise Failure(f"no end after {seconds} s: {' '.join(arguments)[:200]}") from None
        return process.returncode, out, (err or b"").decode("utf-8", "replace")

    def expect(self, code, *arguments, **options):
        found, out, err = self.run(*arguments, **options)
        if found != code:
            raise Failure(
                f"{' '.join(arguments)[:200]}: exit code {found} instead of {code}; {err[-600:]!r}"
            )
        return out, err

    def execute(self, code, *command, options=(), **more):
        """A command in the shared VM."""
        return self.expect(code, "exec", *options, self.vm, "--", *command, **more)

    def refuse(self, texts, *arguments, **options):
        """Kelpie's own failure: code 125, a message with all texts, nothing left behind."""
        before = self.files()
        out, err = self.expect(125, *arguments, **options)
        check(err.startswith("kelpie: "), "the message does not begin with kelpie:", err)
        for text in texts:
            check(text in err, f"the message lacks {text!r}:", err)
        check_equal(self.files() - before, set(), "new files")
        return err

    def states(self):
        out, _ = self.expect(0, "ps", "-a", "--json")
        return {info["name"]: info["state"] for info in json.loads(out)}

    def files(self):
        found = set()
        for part in ("run/vms", "vms"):
            for folder, folders, names in os.walk(os.path.join(self.state, part)):
                found.update(os.path.join(folder, name) for name in folders + names)
        return {path for path in found if not path.endswith((".log", "state.json"))}

    def processes(self):
        """Those whose command line names the state directory."""
        found = []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{pid}/cmdline", "rb") as file:
                    line = file.read()
            except OSError:
                continue
            if self.state.encode() in line and int(pid) != os.getpid():
                found.append((int(pid), line.replace(b"\0", b" ")[:100]))
        return found

    def wait_until_gone(self, name, seconds=10):
        """Until neither processes nor files name the VM."""
        wait_for(
            lambda: not any(f"/{name}".encode() in line for _, line in self.processes())
            and not any(f"/{name}/" in path or path.endswith(f"/{name}") for path in self.files()),
            seconds,
            f"VM {name} is not gone",
        )

    def remove(self):
        shutil.rmtree(self.folder, ignore_errors=True)


def wait_for(condition, seconds, why):
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise Failure(f"{why} after {seconds} s")
        time.sleep(0.02)


class Terminal:
    """A pseudo-terminal with the command on it."""

    def __init__(self, kelpie, *arguments, rows=30, columns=100):
        self.master, self.slave = pty.openpty()
        self.resize(rows, columns)
        self.before = termios.tcgetattr(self.slave)
        self.seen = b""
        slave = self.slave

        def become_foreground():
            os.setsid()
            fcntl.ioctl(slave, termios.TIOCSCTTY, 0)

        self.process = kelpie.start(
            *arguments,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            preexec_fn=become_foreground,
        )

    def resize(self, rows, columns):
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def read_until(self, text, seconds=15):
        end = time.monotonic() + seconds
        while text not in self.seen:
            left = end - time.monotonic()
            if left <= 0 or not select.select([self.master], [], [], left)[0]:
                raise Failure(f"{text!r} did not appear: {self.seen[-300:]!r}")
            self.seen += os.read(self.master, 65536)

    def write(self, text):
        os.write(self.master, text)

    def wait(self, seconds=15):
        """Its exit code; what it still prints is read, so that it can."""
        end = time.monotonic() + seconds
        while self.process.poll() is None:
            if time.monotonic() > end:
                self.process.kill()
                self.process.wait()
                raise Failure(f"no end after {seconds} s: {self.seen[-300:]!r}")
            if select.select([self.master], [], [], 0.02)[0]:
                self.seen += os.read(self.master, 65536)
        while select.select([self.master], [], [], 0)[0]:
            self.seen += os.read(self.master, 65536)
        return self.process.returncode

    def is_raw(self):
        return termios.tcgetattr(self.slave)[3] & termios.ICANON == 0

    def check_restored(self):
        check_equal(termios.tcgetattr(self.slave), self.before, "the terminal's modes afterwards")

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self.master)
        os.close(self.slave)


def out_of_time(_number, _frame):
    raise Failure(f"no end after {CASE_SECONDS} s")


def run_cases(kelpie, wanted):
    """0: all of them passed."""
    failed = 0
    signal.signal(signal.SIGALRM, out_of_time)
    for function in CASES:
        name = function.__name__
        if wanted and name not in wanted:
            continue
        signal.alarm(CASE_SECONDS)
        try:
            function(kelpie)
            print(f"ok {name}", flush=True)
        except Skip as skip:
            print(f"skip {name} {skip.args[0]}: {skip.args[1]}", flush=True)
        except Exception as failure:  # a bug of a case is a failure of it, not the end of all
            failed += 1
            why = str(failure).replace("\n", " | ")
            if not isinstance(failure, Failure):
                traceback.print_exc()
                why = f"{type(failure).__name__}: {why}"
            print(f"not ok {name} {why}", flush=True)
        finally:
            signal.alarm(0)
    return 1 if failed > 0 else 0


def interrupt(process, number=signal.SIGINT):
    os.kill(process.pid, number)
