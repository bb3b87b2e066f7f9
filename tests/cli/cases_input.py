# SPDX-License-Identifier: Apache-2.0 OR MIT
"""Bad input: a message with the value, the limit and the way out, exit code 125, and nothing left behind."""

import os
import socket
import struct
import subprocess

from support import Skip, case, check, check_equal, wait_for

NOBODY = 65534


def path_of(kelpie, name, content=None):
    path = os.path.join(kelpie.folder, name)
    if content is not None:
        with open(path, "wb") as file:
            file.write(content)
    return path


@case
def memory_and_cpus_out_of_range(kelpie):
    for verb in (("create",), ("run",)):
        rest = ("x",) if verb == ("create",) else ("true",)
        kelpie.refuse(["memory_mib: 64 is below", "128"], *verb, "--memory", "64", *rest)
        kelpie.refuse(["memory_mib: 99999999 is above", "16384"], *verb, "--memory=99999999", *rest)
        kelpie.refuse(["cpus: 0 is below", "1 to 32"], *verb, "--cpus", "0", *rest)
        kelpie.refuse(["cpus: 33 is above", "1 to 32"], *verb, "--cpus", "33", *rest)


@case
def shares_that_cannot_be(kelpie):
    file = path_of(kelpie, "file", b"x")
    folder = kelpie.folder
    for words, share in (
        (['"nothing"', "HOST:GUEST:ro"], "nothing"),
        ([":data", "absolute path"], f"{folder}:data"),
        (["HOST:GUEST:rw"], f"{folder}:/data:xx"),
        (["/no/folder", "does not exist", "make it"], "/no/folder:/data"),
        (["no directory"], f"{file}:/data"),
        (["/proc/x", "another path"], f"{folder}:/proc/x"),
    ):
        kelpie.refuse(words, "create", "--share", share, "x")
    kelpie.refuse(["/a/b", "separate paths"], "create", "--share", f"{folder}:/a", "--share", f"{folder}:/a/b", "x")
    kelpie.refuse(["qemu", "virtiofsd", "--root"], "create", "--backend", "qemu", "--share", f"{folder}:/data:ro", "x")
    many = [word for i in range(17) for word in ("--share", f"{folder}:/data{i}")]
    kelpie.refuse(["one more than", "16"], "create", *many, "x")


@case
def all_problems_at_once(kelpie):
    err = kelpie.refuse(
        ["kelpie: memory_mib: 64 ", "kelpie: cpus: 33 ", 'kelpie: root: "/no/root"', '"hax"'],
        *"create --memory 64 --cpus 33 --root /no/root --accel hax x".split(),
    )
    check_equal(len(err.splitlines()), 4, "lines")


@case
def names_that_are_none(kelpie):
    kelpie.refuse(["name", "empty", "64"], "create", "")
    kelpie.refuse(["name", "65", "64"], "create", "a" * 65)
    kelpie.refuse(['"a/b"', "a-z"], "create", "a/b")
    kelpie.refuse(['"Upper"', "a-z"], "run", "--name", "Upper", "true")
    kelpie.expect(0, "create", "taken")
    kelpie.refuse(['"taken"', "exists"], "create", "taken")
    kelpie.refuse(['"taken"', "exists"], "run", "--name", "taken", "true")
    kelpie.expect(0, "rm", "taken")
    kelpie.refuse(['"taken"', "no VM"], "inspect", "taken")


@case
def root_that_cannot_be_used(kelpie):
    kelpie.refuse(["root", "does not exist"], "create", "--root", "/no/where", "x")
    at = path_of(kelpie, "socket")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(at)
        kelpie.refuse(["root", at, "socket", "directory"], "create", "--root", at, "x")
    garbage = path_of(kelpie, "garbage", b"no file system " * 4096)
    kelpie.refuse([garbage, "ext4"], "run", "--root", garbage, "true")


def become_nobody():
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)


@case
def root_that_cannot_be_read(kelpie):
    if os.geteuid() != 0:
        raise Skip("root", "only root can become somebody else")
    secret = path_of(kelpie, "secret", b"")
    os.chmod(secret, 0)
    os.chmod(kelpie.folder, 0o755)
    theirs = path_of(kelpie, "theirs")
    os.mkdir(theirs, 0o700)
    os.chown(theirs, NOBODY, NOBODY)
    command = ["--state-dir", theirs, "create", "--root", secret, "x"]
    try:
        kelpie.refuse(["root", secret, "permission denied"], *command, preexec_fn=become_nobody)
        kelpie.refuse(["EACCES", "--state-dir"], "ps", preexec_fn=become_nobody)
    except PermissionError:
        raise Skip("path", "the program is out of nobody's reach") from None
    finally:
        os.chmod(kelpie.folder, 0o700)


@case
def kernel_that_cannot_be_used(kelpie):
    kelpie.refuse(["kernel", "does not exist"], "run", "--kernel", "/no/kernel", "true")
    text = path_of(kelpie, "text", b"this is no kernel\n" * 100)
    kelpie.refuse([text, "kernel"], "run", "--kernel", text, "true")
    header = b"\x7fELF\x02\x01\x01" + bytes(9) + struct.pack("<HHI", 2, 183, 1) + bytes(4096)
    foreign = path_of(kelpie, "foreign", header)
    kelpie.refuse([foreign, "x86"], "run", "--kernel", foreign, "true")


@case
def qemu_missing_or_dying(kelpie):
    folder = path_of(kelpie, "empty")
    os.mkdir(folder)
    kelpie.refuse(["qemu-system-x86"], "run", "true", environment={"PATH": folder})
    dying = path_of(kelpie, "dying", b"#!/bin/sh\necho it hurts >&2\nexit 3\n")
    os.chmod(dying, 0o755)
    kelpie.refuse(["it hurts"], "run", "--accel=tcg", "true", environment={"KELPIE_QEMU": dying})


@case
def state_directory_that_cannot_be_used(kelpie):
    newer = path_of(kelpie, "newer")
    os.mkdir(newer, 0o700)
    with open(os.path.join(newer, "format"), "w", encoding="utf-8") as file:
        file.write("99\n")
    kelpie.refuse([newer, "99", "newer"], "--state-dir", newer, "ps")
    kelpie.refuse(["/proc/kelpie"], "--state-dir", "/proc/kelpie", "create", "x")
    at = path_of(kelpie, "file", b"")
    kelpie.refuse([at], "--state-dir", at, "ps")
    open_to_all = path_of(kelpie, "open")
    os.mkdir(open_to_all)
    os.chmod(open_to_all, 0o777)
    kelpie.refuse([open_to_all], "--state-dir", open_to_all, "ps")


@case
def state_directory_that_is_full_or_read_only(kelpie):
    at = path_of(kelpie, "mount")
    os.mkdir(at, 0o700)
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16k,mode=0700", "kelpie", at],
        capture_output=True,
        check=False,
    )
    if mount.returncode != 0:
        raise Skip("mount", "may not mount a tmpfs")
    try:
        with open(os.path.join(at, "filler"), "wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(4096))
            except OSError:
                pass
        kelpie.refuse(["ENOSPC"], "--state-dir", at, "create", "x")
        subprocess.run(["mount", "-o", "remount,ro", at], check=True)
        kelpie.refuse(["EROFS"], "--state-dir", at, "create", "x")
    finally:
        subprocess.run(["umount", at], check=False)


@case
def a_vm_that_does_not_run(kelpie):
    kelpie.expect(0, "create", "idle")
    kelpie.refuse(['"idle"', "created", "running"], "exec", "idle", "true")
    kelpie.refuse(['"idle"', "created"], "stop", "idle")
    kelpie.refuse(['"nobody"', "no VM"], "exec", "nobody", "true")
    kelpie.refuse(['"nobody"', "no VM"], "start", "nobody")
    kelpie.expect(0, "kill", "idle")
    kelpie.expect(0, "rm", "idle")


@case
def a_guest_that_never_says_hello(kelpie):
    err = kelpie.refuse(["300 ms"], "run", "--boot-timeout", "300ms", "--accel=tcg", "true")
    check("Linux version" in err or "console" in err, "the console's tail is missing:", err)
    wait_for(lambda: kelpie.processes() == [], 2, "processes are left")
