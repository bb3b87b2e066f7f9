#!/bin/sh
# SPDX-License-Identifier: Apache-2.0 OR MIT
#
# bad_input.sh KELPIE-SIM: what is not understood ends with 125, before any run, and says which word, where, and
# what was expected.
set -u
sim=$(realpath "$1")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 1
status=0

# row NAME WORDS ARGUMENT...
row() {
    name=$1
    words=$2
    shift 2
    "$sim" "$@" >out 2>log
    code=$?
    if [ "$code" -eq 125 ] && grep -q -F -- "$words" log && ! grep -q '^seed' out; then
        echo "ok $name"
    else
        cat out log
        echo "not ok $name: code $code, no \"$words\": kelpie-sim $*"
        status=1
    fi
}

# plan NAME TEXT WORDS: as faults of a run.
plan() {
    printf '%b' "$2" >"$1"
    row "plan_$1" "$1: $3" run --seed 1 --faults "$1"
}

# case NAME TEXT WORDS: as what a failed run left.
case_() {
    printf '%b' "$2" >"$1"
    row "case_$1" "$1: $3" replay "$1"
}

row verb_unknown '"fly" is not understood; expected a verb' fly
row word_of_run '"fast" is not understood' run fast
row option_unknown '"--fast" is not understood' run --fast
row option_without_value '"--seed" is not understood; expected its value' run --seed
row option_unknown_with_value '"--fast" is not understood; expected an option of the list' run --fast 5
row option_of_another_verb '"--svg" is not understood; expected an option that this verb knows' contract --svg x
row word_is_one_too_many '"again" is not understood; expected one word' replay plan again
row word_empty '"" is not understood; expected one word' replay ''
row seed_no_number '"abc" is not understood; expected a seed' run --seed abc
row seed_negative '"-1" is not understood; expected a seed' run --seed -1
row seed_too_large 'expected a seed from 0 to 2^64-1' run --seed 18446744073709551616
row seeds_backwards '"5..2" is not understood; expected N, or A..B' run --seeds 5..2
row seeds_too_many 'is not understood; expected N, or A..B' run --seeds 0..18446744073709551615
row minutes_none '"0" is not understood; expected 1 to 525600 minutes' run --minutes 0
row svg_empty "expected a file's name" run --svg ''
row svg_on_a_full_disk 'cannot write "/dev/full": no space left on device' run --seed 1 --svg /dev/full
row trace_without_directory 'cannot write "no/x": no such file or directory' run --seed 1 --trace no/x
row at_empty '"" is not understood; expected rules of a plan' sweep open --at ''
row row_unknown 'there is no row "fly"; there are lifecycle_basic' contract fly
row jobs_none '"0" is not understood; expected 1 to 64' run --jobs 0
mkdir directory
printf 'sync nth=1 => EIO\0rubbish\n' >zero
row faults_empty 'cannot read the plan "": no such file or directory' run --faults ''
row faults_directory 'cannot read the plan "directory": is a directory' run --faults directory
row faults_without_end 'the plan "/dev/zero" has more than 8388607 bytes, which is the limit' run --faults /dev/zero
row faults_with_zero 'zero: byte 18 is zero; a plan is a text' run --faults zero
row replay_with_zero 'zero: byte 18 is zero; a plan is a text' replay zero
row faults_no_file 'expected none, calm, swarm, or a file with a plan' run --faults no-such-file
row scenario_unknown 'there is no scenario "fly"; there are open' sweep fly
row replay_no_file 'cannot read the plan "no-such-file": no such file or directory' replay no-such-file
row blame_no_seed 'Expected the number of a seed' blame abc
plan point_unknown 'fly nth=1 => EIO\n' 'line 1, column 1: expected an operation, a point or an alias, not "fly"'
plan option_unknown 'sync fly=3 nth=1 => EIO\n' 'line 1, column 6: expected p=, nth='
plan action_missing 'sync nth=1 =>\n' 'line 1, column 14: expected an action'
plan action_unknown 'sync nth=1 => FLY\n' 'line 1, column 15: expected'
plan probability_above '# x\n\n  sync p=1.5 => EIO\n' \
    'line 3, column 10: expected a probability from 0 to 1, not "1.5"'
plan probability_below 'sync p=-1 => EIO\n' 'line 1, column 8: expected a probability from 0 to 1'
plan version_other 'kelpie-plan 2 seed=1\nsync nth=1 => EIO\n' \
    'line 1, column 13: expected a plan of version 1, not "2"'
case_ version_other 'kelpie-plan 2 seed=1\n' 'line 1, column 13: expected a plan of version 1, not "2"'
case_ header_missing 'sync nth=1 => EIO\n' 'line 1, column 1: expected a first line that begins with "kelpie-plan 1"'
case_ operation_unknown 'kelpie-plan 1 seed=1 options=faults=swarm\ndo op=fly vm=1\n' \
    'line 2, column 4: expected the name of an operation, not "op=fly"'
case_ rule_wrong 'kelpie-plan 1 seed=1 options=faults=plan\nsync p=2 => EIO\n' \
    'line 2, column 8: expected a probability from 0 to 1'
case_ option_unknown 'kelpie-plan 1 seed=1 options=faults=swarm,fly\n' \
    'line 1, column 43: expected an option of faults=, canary=, plain and krun, not "fly"'
printf '\001\377\033[31m\n' >rubbish
row plan_rubbish 'rubbish: line 1, column 1: expected an operation, a point or an alias, not "' run --faults rubbish
if LC_ALL=C grep -q '[^[:print:][:space:]]' log; then
    echo "not ok plan_rubbish_is_not_shown"
    status=1
else
    echo "ok plan_rubbish_is_not_shown"
fi
"$sim" run --seed 1 --quiet >/dev/full 2>log
if [ $? -eq 125 ] && grep -q 'could not be written' log; then
    echo "ok output_on_a_full_disk"
else
    echo "not ok output_on_a_full_disk"
    status=1
fi
exit $status
