# SPDX-License-Identifier: Apache-2.0 OR MIT
"""Runs the programs that measure, and takes what they tell.

A series is {"unit", "values"} under its name, "SECTION/WHAT-SIDE".
"""
import json
import os
import shutil
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
SIM_TIMEOUT_S = 1200


def take(line, prefix, series):
    """A line of bench-vm's: "value SERIES UNIT NUMBER"."""
    _, name, unit, number = line.split()
    entry = series.setdefault(prefix + name, {"unit": unit, "values": []})
    entry["values"].append(float(number))


def run_vm(build, sections, prefix, rounds, more, series):
    """Adds the series of bench-vm's sections to `series`, their names behind `prefix`; ends the program on failure."""
    directory = tempfile.mkdtemp(prefix="kelpie-bench-")
    programs = os.path.join(build, "bench")
    command = [os.path.join(programs, "bench-vm"), "--directory", directory, "--programs", programs]
    command += ["--rounds", str(rounds), *more, *sections]
    environment = {**os.environ, "KELPIE_LIBEXEC": os.path.join(build, "src")}
    try:
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
            for line in process.stdout:
                take(line, prefix, series)
        if process.returncode != 0:
            sys.exit(f"bench: {' '.join(command)} ended with {process.returncode}")
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def run_sim(build, rounds, series):
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        program = os.path.join(build, "bench", "bench-sim")
        command = [program, "--rounds", str(rounds), "--json", file.name]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=SIM_TIMEOUT_S)
        for name, entry in json.load(file).items():
            series["sim/" + name] = {"unit": entry["unit"], "values": entry["values"]}
