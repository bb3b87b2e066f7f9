#!/bin/sh
# SPDX-License-Identifier: Apache-2.0 OR MIT
#
# swarm.sh KELPIE-SIM CORPUS A..B: plans of bugs that were mended, then seeds with faults of all classes.
set -u
sim=$(realpath "$1")
corpus=$(realpath "$2")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 1
status=0
for plan in "$corpus"/*.plan; do
    name=$(basename "$plan" .plan)
    if "$sim" replay "$plan" >log 2>&1; then
        echo "ok corpus_$name"
    else
        cat log
        echo "not ok corpus_$name: kelpie-sim replay $plan"
        status=1
    fi
done
if "$sim" run --quiet --no-shrink --keep-going --seeds "$3" >log 2>&1; then
    echo "ok swarm_seeds"
else
    grep -E '^(seed|class)' log
    echo "not ok swarm_seeds: kelpie-sim run --seeds $3"
    status=1
fi
exit $status
