# SPDX-License-Identifier: Apache-2.0 OR MIT
"""kelpie snapshot: taking, listing, looking at, checking and removing; the tree in both forms."""

import json
import os
import xml.etree.ElementTree

from support import case, check, check_equal


def listed(kelpie):
    return json.loads(kelpie.expect(0, "snapshot", "ls", "--json")[0])


@case
def snapshot_life(kelpie):
    check_equal(listed(kelpie), [], "before")
    label = 'with "quotes" & <more>'
    out, _ = kelpie.expect(0, "snapshot", "create", "--label", label, kelpie.vm, "one")
    check_equal(out, b"one\n", "its name")
    name = kelpie.expect(0, "snapshot", "create", kelpie.vm)[0].decode().strip()
    check(name.startswith("shared-"), "a name that was made", name)
    kelpie.execute(0, "true")
    found = listed(kelpie)
    check_equal([info["name"] for info in found], ["one", name], "names, the oldest first")
    check_equal([info["vm"] for info in found], ["shared"] * 2, "of the VM")
    check_equal(found[0]["label"], label, "label")
    check_equal(found[1]["parent"], found[0]["id"], "who came after whom")
    check(0 < found[0]["stored_bytes"] < 100 << 20, "size", found[0])
    text, _ = kelpie.expect(0, "snapshot", "ls")
    check(label.encode() in text and b"MiB" in text, "ls", text)
    text, _ = kelpie.expect(0, "snapshot", "inspect", "one")
    check(found[0]["id"].encode() in text and b"x86_64" in text, "inspect", text)
    found = json.loads(kelpie.expect(0, "snapshot", "inspect", "--json", name, "one")[0])
    check_equal([info["name"] for info in found], [name, "one"], "inspect --json")
    check_equal(kelpie.expect(0, "snapshot", "rm", name, "one")[0].split(), [name.encode(), b"one"], "rm")
    check_equal(listed(kelpie), [], "after")
    check_equal(os.listdir(os.path.join(kelpie.state, "snapshots")), [], "files")


@case
def snapshot_of_a_killed_fork_is_pruned(kelpie):
    def prune():
        kelpie.expect(0, "prune")
        return [info["name"] for info in listed(kelpie)]

    name = "fork-0123456789abcdef"  # as one that `kelpie fork` made, and did not come to use
    kelpie.expect(0, "snapshot", "create", "--label", "made by fork", kelpie.vm, name)
    check_equal(prune(), [name], "a fork that may be under way")
    manifest = os.path.join(kelpie.state, "snapshots", name, "manifest.json")
    os.utime(manifest, (os.stat(manifest).st_mtime - 100,) * 2)
    kelpie.expect(0, "create", "--from", name, "wanted")
    check_equal(prune(), [name], "a VM is to be made from it")
    kelpie.expect(0, "rm", "wanted")
    check_equal(prune(), [], "nobody wants it")
    check_equal(os.listdir(os.path.join(kelpie.state, "snapshots")), [], "files")


@case
def snapshot_verify_finds_damage(kelpie):
    kelpie.expect(0, "snapshot", "create", kelpie.vm, "hurt")
    check(b"hurt" in kelpie.expect(0, "snapshot", "verify", "hurt")[0], "it is whole")
    with open(os.path.join(kelpie.state, "snapshots", "hurt", "memory"), "r+b") as file:
        file.seek(5 << 20)
        file.write(b"damage")
    kelpie.refuse(["hurt", "memory", "MiB 5"], "snapshot", "verify", "hurt")
    with open(os.path.join(kelpie.state, "snapshots", "hurt", "manifest.json"), "r+b") as file:
        file.truncate(100)
    check_equal([info["damaged"] for info in listed(kelpie)], [True], "it is listed as damaged")
    check(b"damaged" in kelpie.expect(0, "snapshot", "ls")[0], "ls says so")
    check(b"damaged" in kelpie.expect(0, "snapshot", "tree")[0], "tree says so")
    kelpie.refuse(["hurt", "damaged"], "snapshot", "inspect", "hurt")
    kelpie.expect(0, "snapshot", "rm", "hurt")


@case
def snapshot_tree(kelpie):
    _, err = kelpie.expect(0, "snapshot", "tree")
    check("no snapshots" in err, "an empty tree", err)
    for name in ("root", "child"):
        kelpie.expect(0, "snapshot", "create", "--label=<&\">", kelpie.vm, name)
    text = kelpie.expect(0, "snapshot", "tree")[0].decode()
    lines = text.splitlines()
    check(lines[0].startswith("root ") and lines[1].startswith("\u2514\u2500 child "), "tree", text)
    check("\u25cf shared" in lines[2] and "running" in lines[2], "the VM", text)
    picture, _ = kelpie.expect(0, "snapshot", "tree", "--svg", "-")
    path = os.path.join(kelpie.folder, "tree.svg")
    kelpie.expect(0, "snapshot", "tree", "--svg", path)
    with open(path, "rb") as file:
        check_equal(len(file.read()), len(picture), "the file is what is printed")
    root = xml.etree.ElementTree.fromstring(picture)
    texts = [node.text for node in root.iter("{http://www.w3.org/2000/svg}text")]
    check("root" in texts and "child" in texts and '<&">' in texts, "the picture", texts)
    check(b"http" not in picture.replace(b"http://www.w3.org/2000/svg", b""), "it needs nothing else")
    kelpie.refuse(["tree.svg"], "snapshot", "tree", "--svg", "/nowhere/tree.svg")
    os.unlink(path)
    kelpie.expect(0, "snapshot", "rm", "root", "child")


@case
def snapshot_words(kelpie):
    kelpie.refuse(["too little"], "snapshot")
    kelpie.refuse(["did you mean", "verify"], "snapshot", "verfy", "x")
    kelpie.refuse(["no \"dance\"", "--help"], "snapshot", "dance")
    kelpie.refuse(["usage: kelpie snapshot create"], "snapshot", "create")
    kelpie.refuse(["ls takes no --stop"], "snapshot", "ls", "--stop")
    kelpie.refuse(["too much", "usage: kelpie snapshot tree"], "snapshot", "tree", "x")
    kelpie.refuse(["--lable", "did you mean --label"], "snapshot", "create", "--lable=x", kelpie.vm)
    kelpie.refuse(["label", "255"], "snapshot", "create", "--label", "x" * 256, kelpie.vm)
    kelpie.refuse(["Bad Name"], "snapshot", "create", kelpie.vm, "Bad Name")
    kelpie.refuse(["nobody"], "snapshot", "create", "nobody")
    kelpie.refuse(["nothing"], "snapshot", "inspect", "nothing")
    kelpie.refuse(["nothing"], "snapshot", "verify", "nothing")
    kelpie.refuse(["nothing"], "snapshot", "rm", "nothing")
    out, _ = kelpie.expect(0, "snapshot", "--help")
    check(b"kelpie snapshot verify SNAPSHOT" in out and b"--svg" in out, "help", out)
    check_equal(listed(kelpie), [], "nothing was made")


@case
def snapshot_stop(kelpie):
    kelpie.expect(0, "create", "--cpus=1", "--memory=256", "ending")
    kelpie.refuse(["is created", "running or paused"], "snapshot", "create", "ending", "end")
    kelpie.expect(0, "start", "ending")
    kelpie.expect(0, "snapshot", "create", "--stop", "ending", "end")
    check_equal(kelpie.states()["ending"], "stopped", "state")
    kelpie.expect(0, "rm", "ending")
    kelpie.expect(0, "snapshot", "verify", "end")
    kelpie.expect(0, "snapshot", "rm", "end")


@case
def snapshot_export_import(kelpie):
    before = set(os.listdir(kelpie.folder))
    path = os.path.join(kelpie.folder, "stream")
    kelpie.execute(0, "sh", "-c", "echo carried >/tmp/carried")
    kelpie.expect(0, "snapshot", "create", kelpie.vm, "sent")
    export = kelpie.start("snapshot", "export", "sent")
    out, _ = kelpie.expect(0, "snapshot", "import", "-", "--name", "came", stdin=export.stdout)
    export.stdout.close()
    check_equal((out, export.wait()), (b"came\n", 0), "through a pipe")
    check(b"came" in kelpie.expect(0, "snapshot", "verify", "came")[0], "it is whole")
    sent, came = json.loads(kelpie.expect(0, "snapshot", "inspect", "--json", "sent", "came")[0])
    for key in ("id", "vm", "pages", "checksum"):
        check_equal(came[key], sent[key], key)
    kelpie.expect(0, "snapshot", "export", "sent", path)
    check(os.path.getsize(path) < sent["stored_bytes"] + (1 << 20), "holes are not sent", os.path.getsize(path))
    kelpie.refuse(["sent", "exists"], "snapshot", "import", path)
    kelpie.refuse(["Not"], "snapshot", "import", "--name", "Not", path)
    kelpie.refuse(["nothing"], "snapshot", "export", "nothing", path + ".2")
    kelpie.refuse(["nowhere"], "snapshot", "import", os.path.join(kelpie.folder, "nowhere"))
    other = {"KELPIE_STATE_DIR": os.path.join(kelpie.folder, "other")}
    kelpie.refuse(["not exported by this state directory", "--trust"], "snapshot", "import", path, environment=other)
    out, _ = kelpie.expect(0, "snapshot", "import", "--trust", path, environment=other)
    check_equal(out, b"sent\n", "with its own name")
    out, _ = kelpie.expect(0, "run", "--from", "sent", "--", "cat", "/tmp/carried", environment=other)
    check_equal(out, b"carried\n", "it runs in another state directory")
    kelpie.expect(0, "snapshot", "rm", "sent", environment=other)
    kelpie.expect(0, "snapshot", "rm", "sent", "came")
    made = set(os.listdir(kelpie.folder)) - before
    check_equal(sorted(made - {"state", "other"}), ["stream"], "files")
    os.remove(path)


@case
def snapshot_import_refuses_rubbish(kelpie):
    path = os.path.join(kelpie.folder, "stream")
    kelpie.expect(0, "snapshot", "create", kelpie.vm, "sent")
    kelpie.expect(0, "snapshot", "export", "sent", path)
    with open(path, "r+b") as file:
        whole = file.read()
        file.seek(1 << 20)
        file.write(bytes([whole[1 << 20] ^ 1]))
    kelpie.refuse(["damaged", "checksum"], "snapshot", "import", "--name", "hurt", path)
    kelpie.refuse(["too early"], "snapshot", "import", "--name", "hurt", stdin_bytes=whole[:1 << 20])
    kelpie.refuse(["no stream"], "snapshot", "import", "--name", "hurt", stdin_bytes=b"rubbish" * 100)
    kelpie.refuse(["too early"], "snapshot", "import", "--name", "hurt", stdin_bytes=b"")
    check_equal(os.listdir(os.path.join(kelpie.state, "snapshots")), ["sent"], "nothing is left")
    reader = kelpie.start("snapshot", "export", "sent")
    reader.stdout.read(1000)
    reader.stdout.close()
    check_equal(reader.wait(), 125, "a reader that goes away")
    reader.stderr.close()
    kelpie.expect(0, "snapshot", "rm", "sent")
    os.remove(path)
