# SPDX-License-Identifier: Apache-2.0 OR MIT
"""Runs the programs that measure, and takes what they tell.

A series is {"unit", "values"} under its name, "SECTION/WHAT-SIDE".
"""
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
SIM_TIMEOUT_S = 1200
REMOVE_TRIES = 50
REMOVE_PAUSE_S = 0.1


def take(line, prefix, series):
    """A line of bench-vm's: "value SERIES UNIT NUMBER"."""
    _, name, unit, number = line.split()
    entry = series.setdefault(prefix + name, {"unit": unit, "values": []})
    entry["values"].append(float(number))


def guest_agent(directory):
    """The options that name an archive of qemu-ga and its libraries; none where the package is not installed."""
    program = shutil.which("qemu-ga", path=os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin")))
    if program is None:
        return ()
    shown = subprocess.run(("ldd", program), capture_output=True, text=True, check=True).stdout
    path = os.path.join(directory, "qemu-ga.tar")
    with tarfile.open(path, "w", dereference=True) as archive:
        for name in (program, *re.findall(r"(/\S+) \(0x", shown)):
            archive.add(name, os.path.basename(name))
    return ("--guest-agent", path)


def remove(directory):
    """The monitors of a run that was interrupted need a moment to end, and write meanwhile."""
    for _ in range(REMOVE_TRIES):
        shutil.rmtree(directory, ignore_errors=True)
        if not os.path.exists(directory):
            return
        time.sleep(REMOVE_PAUSE_S)
    print(f"bench: {directory} could not be removed", file=sys.stderr)


def run_vm(build, sections, prefix, rounds, more, series):
    """Adds the series of bench-vm's sections to `series`, their names behind `prefix`; ends the program on failure."""
    directory = tempfile.mkdtemp(prefix="kelpie-bench-")
    programs = os.path.join(build, "bench")
    command = [os.path.join(programs, "bench-vm"), "--directory", directory, "--programs", programs]
    command += ["--rounds", str(rounds), *more, *(guest_agent(directory) if "peer" in sections else ()), *sections]
    environment = {**os.environ, "KELPIE_LIBEXEC": os.path.join(build, "src")}
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
            try:
                for line in process.stdout:
                    take(line, prefix, series)
            finally:
                # Where this program is interrupted; what it has started ends with it.
                if process.poll() is None and sys.exc_info()[0] is not None:
                    process.kill()
        if process.returncode != 0:
            sys.exit(f"bench: {' '.join(command)} ended with {process.returncode}")
    finally:
        remove(directory)


def run_sim(build, rounds, series):
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        program = os.path.join(build, "bench", "bench-sim")
        command = [program, "--rounds", str(rounds), "--json", file.name]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=SIM_TIMEOUT_S)
        for name, entry in json.load(file).items():
            series["sim/" + name] = {"unit": entry["unit"], "values": entry["values"]}
