#!/bin/sh
# SPDX-License-Identifier: Apache-2.0 OR MIT
#
# orphans.sh KELPIE-SIM: a campaign in several processes whose first process is killed leaves none of the others.
set -u
sim=$(realpath "$1")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 1

# living PID...: how many of them run; one that only its parent has not asked for yet does not.
living() {
    for pid in "$@"; do
        grep -q -s -E '^State:[[:space:]]+[^ZX]' "/proc/$pid/status" && echo "$pid"
    done | wc -l
}

status=0
for verb in "run --seeds 0..99999" crash-states "sweep start"; do
    # shellcheck disable=SC2086 # words
    "$sim" $verb --quiet --jobs 2 >log 2>&1 &
    first=$!
    children=
    for _ in $(seq 100); do
        children=$(cat "/proc/$first/task/$first/children" 2>/dev/null)
        [ "$(echo "$children" | wc -w)" -eq 2 ] && break
        sleep 0.05
    done
    kill -9 "$first"
    wait "$first" 2>/dev/null
    for _ in $(seq 100); do
        # shellcheck disable=SC2086 # words
        [ "$(living $children)" -eq 0 ] && break
        sleep 0.05
    done
    name=$(echo "$verb" | sed 's/ .*//')
    # shellcheck disable=SC2086 # words
    if [ "$(echo "$children" | wc -w)" -eq 2 ] && [ "$(living $children)" -eq 0 ]; then
        echo "ok orphans_of_$name"
    else
        cat log
        echo "not ok orphans_of_$name: its processes: $children"
        status=1
    fi
done
exit $status
