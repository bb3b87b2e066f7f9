# SPDX-License-Identifier: Apache-2.0 OR MIT
"""VMs made from others: fork, restore, create --from."""

import json
import os

from support import case, check, check_equal


def snapshots(kelpie):
    folder = os.path.join(kelpie.state, "snapshots")
    return sorted(os.listdir(folder)) if os.path.isdir(folder) else []


@case
def fork_of_a_vm_that_runs(kelpie):
    kelpie.execute(0, "sh", "-c", "echo kept >/tmp/kept")
    out, _ = kelpie.expect(0, "fork", kelpie.vm, "left", "right")
    check_equal(out, b"left\nright\n", "names")
    check_equal(snapshots(kelpie), [], "what is left of the snapshot between")
    kelpie.execute(0, "rm", "/tmp/kept")
    for name in ("left", "right"):
        found, _ = kelpie.expect(0, "exec", name, "--", "sh", "-c", "cat /tmp/kept; hostname")
        check_equal(found, f"kept\n{name}\n".encode(), "a fork")
    info = json.loads(kelpie.expect(0, "inspect", "--json", "left")[0])[0]
    check_equal((info["state"], info["origin"]), ("running", "snapshot"), "inspect")
    kelpie.refuse(["left", "exists"], "fork", kelpie.vm, "left")
    kelpie.refuse(["nobody"], "fork", "nobody", "new")
    check_equal(snapshots(kelpie), [], "what is left of a fork that failed")
    kelpie.expect(0, "rm", "-f", "left", "right")


@case
def create_from_nothing(kelpie):
    kelpie.refuse(["nothing"], "create", "--from", "nothing", "new")
    kelpie.refuse(["nothing"], "run", "--from=nothing", "--", "true")
    kelpie.refuse(["snapshot", "position 1"], "create", "--from", "../else", "new")
    kelpie.refuse(["nothing"], "restore", kelpie.vm, "nothing")
    kelpie.execute(0, "true")
    kelpie.refuse(["restore"], "restore", kelpie.vm)


@case
def restore_and_create_from(kelpie):
    kelpie.execute(0, "sh", "-c", "echo one >/tmp/number")
    kelpie.expect(0, "snapshot", "create", kelpie.vm, "point")
    kelpie.execute(0, "sh", "-c", "echo two >/tmp/number")
    check_equal(kelpie.expect(0, "restore", kelpie.vm, "point")[0], b"shared\n", "restore")
    check_equal(kelpie.execute(0, "cat", "/tmp/number")[0], b"one\n", "the file")
    kelpie.refuse(["memory_mib", '"256"', '"512"'], "create", "--from=point", "--memory=512", "new")
    kelpie.refuse(["cpus"], "create", "--from=point", "--cpus=4", "new")
    kelpie.expect(0, "create", "--from", "point", "new")
    check_equal(kelpie.states()["new"], "created", "state")
    kelpie.expect(0, "start", "new")
    found, _ = kelpie.expect(0, "exec", "new", "--", "sh", "-c", "cat /tmp/number; hostname")
    check_equal(found, b"one\nnew\n", "the clone")
    kelpie.refuse(["in use"], "snapshot", "rm", "point")
    kelpie.expect(0, "rm", "-f", "new")
    found, _ = kelpie.expect(0, "run", "--from=point", "--", "cat", "/tmp/number")
    check_equal(found, b"one\n", "run")
    check_equal(kelpie.expect(0, "fork", "point", "left", "right")[0], b"left\nright\n", "fork")
    kelpie.expect(0, "rm", "-f", "left", "right")
    kelpie.refuse(["in use"], "snapshot", "rm", "point")
    kelpie.expect(0, "stop", kelpie.vm)
    kelpie.expect(0, "snapshot", "rm", "point")
    kelpie.expect(0, "start", kelpie.vm)
