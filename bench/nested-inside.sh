#!/bin/bash
# SPDX-License-Identifier: Apache-2.0 OR MIT
#
# What bench/nested runs where /dev/kvm is: nested-inside.sh BUILD ROUNDS [SECTION..]. Prints lines
# "value SERIES UNIT NUMBER".
#
# microsandbox keeps a guest's owners and modes in extended attributes of the host's files: its home and the root
# directory that it is given lie on an ext4 of their own. It gets no network, and no registry to ask.
set -euo pipefail
build=$1 rounds=$2
shift 2
disk=/tmp/nested-disk
kelpie=$build/src/kelpie
size=(--cpus 1 --memory 256 --boot-timeout 3m)
export HOME=$disk/home KELPIE_LIBEXEC=$build/src KELPIE_STATE_DIR=/tmp/nested-kelpie

prepare() {
    local root=$disk/root applet
    truncate -s 1G "$disk.img"
    mke2fs -q -F -t ext4 "$disk.img"
    mkdir -p "$disk"
    mount -o loop "$disk.img" "$disk"
    mkdir -p "$HOME" "$root"/{bin,dev,etc,proc,root,run,sys,tmp}
    echo root:x:0:0:root:/root:/bin/sh >"$root/etc/passwd"
    echo root:x:0: >"$root/etc/group"
    cp "$(command -v busybox)" "$root/bin/busybox"
    for applet in sh echo; do ln -s busybox "$root/bin/$applet"; done
}

# timed SERIES COMMAND..: it has to say hello.
timed() {
    local series=$1 begun=${EPOCHREALTIME/./} said took
    shift
    said=$("$@" 2>&1 </dev/null) || { echo "nested: $*: $said" >&2; exit 1; }
    took=$((${EPOCHREALTIME/./} - begun))
    [ "$said" = hello ] || { echo "nested: $*: $said" >&2; exit 1; }
    printf 'value %s ms %d.%03d\n' "$series" $((took / 1000)) $((took % 1000))
}

msb_new=(--quiet --no-net --pull never -c 1 -m 256M)
run_kelpie() { timed nested/run-booted "$kelpie" run --accel kvm "${size[@]}" --no-template -- /bin/echo hello; }
run_default() { timed nested/run-kelpie "$kelpie" run --accel kvm "${size[@]}" -- /bin/echo hello; }
run_krun() { timed nested/run-krun "$kelpie" run --backend krun "${size[@]}" --no-template -- /bin/echo hello; }
run_msb() { timed nested/run-msb /msb/bin/msb run "${msb_new[@]}" "$disk/root" -- /bin/echo hello; }
exec_kelpie() { timed nested/exec-kelpie "$kelpie" exec qemu -- /bin/echo hello; }
exec_krun() { timed nested/exec-krun "$kelpie" exec krun -- /bin/echo hello; }
exec_msb() { timed nested/exec-msb /msb/bin/msb exec --quiet warm -- /bin/echo hello; }

# Each round begins with another one.
turns() {
    local count=$1 i k
    shift
    for ((i = 0; i < count; i++)); do
        for ((k = 0; k < $#; k++)); do
            "${@:1 + (i + k) % $#:1}"
        done
    done
}

# The template that later starts use: the VM that leaves it stays until it is whole. That takes seconds here.
template() {
    local i
    "$kelpie" create --accel kvm "${size[@]}" first >/dev/null
    "$kelpie" start first >/dev/null
    for ((i = 0; i < 60; i++)); do
        if compgen -G "$KELPIE_STATE_DIR/templates/????????????????????????????????/manifest.json" >/dev/null; then
            break
        fi
        sleep 1
    done
    "$kelpie" rm --force first >/dev/null
}

prepare
if [ "$rounds" -gt 0 ]; then
    template
    turns "$rounds" run_msb run_kelpie run_default run_krun
    "$kelpie" create --accel kvm "${size[@]}" qemu >/dev/null
    "$kelpie" create --backend krun "${size[@]}" krun >/dev/null
    "$kelpie" start qemu krun >/dev/null
    /msb/bin/msb create "${msb_new[@]}" -n warm "$disk/root" >/dev/null </dev/null
    for ((i = 0; i < 3; i++)); do turns 1 exec_msb exec_kelpie exec_krun >/dev/null; done # warm
    turns $((rounds * 2)) exec_msb exec_kelpie exec_krun
    "$kelpie" rm --force qemu krun >/dev/null
    /msb/bin/msb stop warm >/dev/null 2>&1 </dev/null || true
fi
if [ $# -gt 0 ]; then
    mkdir -p /tmp/nested-bench
    "$build/bench/bench-vm" --accel kvm --directory /tmp/nested-bench --programs "$build/bench" \
        --rounds "${KELPIE_NESTED_ROUNDS:-5}" --limit "${KELPIE_NESTED_LIMIT:-240}" --stream 4 "$@" </dev/null
fi
