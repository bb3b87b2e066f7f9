#!/bin/sh
# SPDX-License-Identifier: Apache-2.0 OR MIT
#
# First program of the nested harness inside the outer guest: loads the modules that make it a host, then becomes
# the command.
while read -r module; do
    insmod "$module" 2>/dev/null
done </nested-modules
[ -c /dev/kvm ] || { echo "nested: no /dev/kvm; the processor has no SVM?" >&2; exit 125; }
mkdir -p /dev/shm
exec "$@"
