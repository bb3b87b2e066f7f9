#!/bin/sh
# SPDX-License-Identifier: Apache-2.0 OR MIT
#
# First program of the nested harness inside the outer guest: loads the modules that make it a host, then becomes
# the command.
while read -r module; do
    insmod "$module" 2>/dev/null
done </nested-modules
[ -c /dev/kvm ] || { echo "nested: no /dev/kvm; the processor has no SVM?" >&2; exit 125; }
# Without the harness's bytes a lost interrupt stops this guest for good (`run` says why): have they come?
# shellcheck disable=SC3045 # sh is bash here
read -r -t 30 _ || { echo "nested: no byte of input came" >&2; exit 125; }
mkdir -p /dev/shm
exec "$@"
