#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0 OR MIT
"""The kelpie command on real guests, from the outside.

tests/cli/test_cli.py PROGRAM [CASE...]

Most cases share one VM. Everything lies below one temporary directory; the last case proves that nothing is left.
"""

import os
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

# Cases run in this order: those without a guest, those in a shared VM, those with a life of their own.
import cases_words  # noqa: E402, F401
import cases_input  # noqa: E402, F401
import cases_streams  # noqa: E402, F401
import cases_signals  # noqa: E402, F401
import cases_snapshot  # noqa: E402, F401
import cases_pool  # noqa: E402, F401
import cases_restore  # noqa: E402, F401
import cases_life  # noqa: E402, F401
from support import Kelpie, run_cases  # noqa: E402


def main():
    if len(sys.argv) < 2:
        print("usage: test_cli.py PROGRAM [CASE...]", file=sys.stderr)
        return 2
    kelpie = Kelpie(sys.argv[1])
    try:
        return run_cases(kelpie, sys.argv[2:])
    finally:
        if kelpie.processes():
            for name in kelpie.states():
                kelpie.run("rm", "-f", name)
        kelpie.remove()


if __name__ == "__main__":
    sys.exit(main())
