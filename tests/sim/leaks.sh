#!/bin/sh
# SPDX-License-Identifier: Apache-2.0 OR MIT
#
# leaks.sh KELPIE-SIM: real time, an address and the size of the environment, leaked on purpose into what a simulated
# clock says, are found by --check, which names the first call that differs; without them the same seeds are the same.
# The program is of a build with -Dsimulation=true.
set -u
sim=$(realpath "$1")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 1
status=0
if "$sim" run --check --quiet --seeds 0..19 >log 2>&1; then
    echo "ok without_leak"
else
    cat log
    echo "not ok without_leak: kelpie-sim run --check --seeds 0..19"
    status=1
fi
for leak in time:101 address:102 environment:103; do
    "$sim" run --check --quiet --faults none --seed 1 --canary "${leak#*:}" >log 2>&1
    code=$?
    if [ $code -eq 13 ] && grep -q '^first: .* now' log && grep -q '^second: .* now' log; then
        echo "ok leak_of_${leak%:*}"
    else
        cat log
        echo "not ok leak_of_${leak%:*}: exit code $code, or another call than \"now\" is named"
        status=1
    fi
done
exit $status
