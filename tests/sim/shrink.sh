#!/bin/sh
# SPDX-License-Identifier: Apache-2.0 OR MIT
#
# shrink.sh KELPIE-SIM [CANARY...]: a planted bug becomes, by itself and within a minute, a case of at most 10 faults
# and operations, with its story, trace and picture, that fails in the same way when the last line is followed. The
# program is of a build with -Dsimulation=true. 104 is a bug that an assertion ends.
set -u
sim=$(realpath "$1")
shift
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 1
status=0
for canary in ${*:-1 2 3 4 5 7 8 9 10 11 12 14 15 16 104}; do
    rm -f fail-*
    "$sim" run --quiet --canary "$canary" --seeds 0..999 >log 2>&1
    why=$(sed -n -E 's/^seed [0-9]+: ([^:]*):.*/\1/p' log | head -n 1)
    small=$(sed -n -E 's/^shrunk to ([0-9]+) faults? and ([0-9]+) oper.* ([0-9]+) ms$/\1 \2 \3/p' log)
    # shellcheck disable=SC2086 # three numbers
    set -- ${small:-99 99 0}
    story=$(grep -c -E '^ +[0-9]+\.[0-9]+ s ' log)
    plan=$(tail -n 1 log | sed -n 's/^kelpie-sim replay //p')
    again=$("$sim" replay "${plan:-none}" 2>&1 | sed -n -E 's/^seed [0-9]+: ([^:]*):.*/\1/p' | head -n 1)
    if [ "$(($1 + $2))" -le 10 ] && [ "$3" -le 60000 ] && [ "$story" -ge 1 ] && [ "$story" -le 20 ] &&
        [ -n "$why" ] && [ "$again" = "$why" ] && [ -s "${plan%plan}json" ] &&
        [ -s "${plan%plan}svg" ]; then
        echo "ok canary_$canary"
    else
        cat log
        echo "not ok canary_$canary: \"$why\", then \"$again\"; $1 faults, $2 operations, $3 ms, $story lines"
        status=1
    fi
done
exit $status
