# SPDX-License-Identifier: Apache-2.0 OR MIT
"""VMs with a life of their own, and what is left of them: nothing."""

import errno
import json
import os
import signal
import time
import xml.etree.ElementTree

from support import Terminal, case, check, check_equal, interrupt, wait_for


@case
def ps_and_inspect(kelpie):
    kelpie.expect(0, "create", "--cpus=1", "idle")
    running, _ = kelpie.expect(0, "ps")
    check(b"shared" in running and b"idle" not in running, "ps", running)
    everything, _ = kelpie.expect(0, "ps", "--all")
    check(b"shared" in everything and b"idle" in everything, "ps -a", everything)
    found = json.loads(kelpie.expect(0, "inspect", "--json", "idle", kelpie.vm)[0])
    check_equal([info["name"] for info in found], ["idle", "shared"], "names")
    check_equal([info["state"] for info in found], ["created", "running"], "states")
    check_equal([info["cpus"] for info in found], [1, 2], "cpus")
    check(found[1]["boot_us"] > 0 and found[1]["vmm_pid"] > 0, "running", found[1])
    check(found[1]["accelerator"] in ("kvm", "tcg"), "accelerator", found[1])
    text, _ = kelpie.expect(0, "inspect", kelpie.vm)
    check(b"256 MiB" in text and b"running" in text, "inspect", text)
    code, out, err = kelpie.run("inspect", "--json", "idle", "nobody")
    check(code == 125 and len(json.loads(out)) == 1 and '"nobody"' in err, "one of two", out, err)
    kelpie.expect(0, "rm", "idle")


@case
def logs_of_both_kinds(kelpie):
    console, _ = kelpie.expect(0, "logs", kelpie.vm)
    check(console != b"", "the console is empty")
    events, _ = kelpie.expect(0, "logs", "--events", kelpie.vm)
    for line in events.splitlines():
        json.loads(line)
    check(b"running" in events, "events", events[-300:])


@case
def pause_and_resume(kelpie):
    kelpie.refuse(["running", "paused"], "resume", kelpie.vm)
    check_equal(kelpie.expect(0, "pause", kelpie.vm)[0], b"shared\n", "pause")
    check_equal(kelpie.states()[kelpie.vm], "paused", "state")
    info = json.loads(kelpie.expect(0, "inspect", "--json", kelpie.vm)[0])[0]
    check_equal((info["state"], info["pause"]), ("paused", "vmm"), "inspect")
    kelpie.refuse(["is paused", "there is nothing to do"], "pause", kelpie.vm)
    kelpie.refuse(["is paused", "resume it first"], "exec", kelpie.vm, "true")
    check_equal(kelpie.expect(0, "resume", kelpie.vm)[0], b"shared\n", "resume")
    kelpie.execute(0, "true")
    code, out, err = kelpie.run("pause", "nobody", kelpie.vm)
    check(code == 125 and out == b"shared\n" and '"nobody"' in err, "one of two", out, err)
    kelpie.expect(0, "resume", kelpie.vm)
    kelpie.refuse(["pause"], "pause")


@case
def stop_and_start_again(kelpie):
    kelpie.refuse(["running", "rm -f"], "rm", kelpie.vm)
    check_equal(kelpie.expect(0, "stop", kelpie.vm)[0], b"shared\n", "stop")
    check_equal(kelpie.states()[kelpie.vm], "stopped", "state")
    kelpie.refuse(["stopped"], "exec", kelpie.vm, "true")
    kelpie.expect(0, "start", kelpie.vm)
    kelpie.execute(0, "true")
    kelpie.expect(0, "kill", kelpie.vm)
    check_equal(kelpie.states()[kelpie.vm], "stopped", "state")
    kelpie.expect(0, "rm", kelpie.vm)
    check(kelpie.vm not in kelpie.states(), "it is listed")


@case
def run_leaves_nothing(kelpie):
    before = kelpie.files()
    out, err = kelpie.expect(
        3, "run", "-i", "-e", "A=b", "-w", "/tmp", "--", "sh", "-c", "cat; echo $A; pwd; exit 3",
        stdin_bytes=b"in\n",
    )
    check_equal((out, err), (b"in\nb\n/tmp\n", ""), "streams")
    check_equal(kelpie.files(), before, "files afterwards")
    wait_for(lambda: kelpie.processes() == [], 2, "processes are left")


@case
def run_of_a_missing_command_leaves_nothing(kelpie):
    before = kelpie.files()
    kelpie.expect(127, "run", "no-such-command")
    check_equal(kelpie.files(), before, "files afterwards")
    wait_for(lambda: kelpie.processes() == [], 2, "processes are left")


@case
def run_detached(kelpie):
    out, err = kelpie.expect(0, "run", "-d", "--name", "left", "--timings", "--json", "sleep", "60")
    check_equal(out, b"left\n", "name")
    timings = json.loads(err)
    check(timings["boot_us"] > 1000 and timings["origin"] == "template", "timings", timings)
    wait_for(lambda: kelpie.run("exec", "left", "pidof", "sleep")[0] == 0, 5, "sleep is not there")
    os.kill(json.loads(kelpie.expect(0, "inspect", "--json", "left")[0])[0]["vmm_pid"], 9)
    wait_for(lambda: kelpie.states()["left"] == "crashed", 10, "the state is not crashed")
    kelpie.refuse(["crashed"], "exec", "left", "true")
    kelpie.expect(0, "rm", "-f", "left")
    kelpie.wait_until_gone("left")


def chart_of(kelpie, *options):
    """Runs `true` in a new VM, and gives what is told of its start."""
    kelpie.expect(0, "run", "-d", "--name", "chart", *options)
    kelpie.expect(0, "exec", "chart", "true")
    return json.loads(kelpie.expect(0, "boot-chart", "--json", "chart")[0])


@case
def boot_chart_of_a_boot_and_a_restore(kelpie):
    kelpie.expect(0, "run", "true")  # leaves a template
    chart = chart_of(kelpie, "--no-template")
    booted = ["vmm_us", "machine_us", "kernel_us", "initramfs_us", "unpacked_us", "agent_us", "ready_us", "hello_us"]
    later = ["running_us", "exec_us", "exec_started_us", "exec_ended_us"]
    times = [chart[key] for key in booted + later]
    check(times == sorted(times) and times[0] > 0 and chart["origin"] == "boot", "a boot's stages", chart)
    text = kelpie.expect(0, "boot-chart", "chart")[0].decode()
    check("chart: boot" in text and "  kernel  " in text and "first command: run" in text, "as text", text)
    picture, _ = kelpie.expect(0, "boot-chart", "--svg", "-", "chart")
    texts = [node.text for node in xml.etree.ElementTree.fromstring(picture).iter("{http://www.w3.org/2000/svg}text")]
    check("kernel" in texts and " initramfs" in texts and "set-up" in texts, "as a picture", texts)
    kelpie.refuse(["exclude"], "boot-chart", "--svg", "-", "--json", "chart")
    kelpie.expect(0, "rm", "-f", "chart")
    chart = chart_of(kelpie)
    check(chart["origin"] == "template" and chart["kernel_us"] == 0 and chart["agent_us"] == 0, "a restore", chart)
    times = [chart[key] for key in ("vmm_us", "machine_us", "running_us", "exec_us", "exec_ended_us")]
    check(times == sorted(times) and times[0] > 0, "its stages", chart)
    kelpie.expect(0, "stop", "chart")
    kelpie.refuse(["while it lives"], "boot-chart", "chart")
    kelpie.expect(0, "rm", "chart")


@case
def template_is_used_and_pruned(kelpie):
    def origin(*arguments):
        return json.loads(kelpie.expect(0, "run", "--timings", "--json", *arguments, "true")[1])["origin"]

    kelpie.expect(0, "run", "true")
    check_equal(origin(), "template", "the second of a kind")
    check_equal(origin("--no-template"), "boot", "with --no-template")
    trial = json.loads(kelpie.expect(0, "prune", "--all", "--dry-run", "--json")[0])
    check(trial["template_count"] >= 1 and trial["template_bytes"] > 1 << 20, "a trial", trial)
    check_equal(kelpie.expect(0, "prune", "--older-than", "1h")[0].split()[:2], [b"templates", b"0"], "young ones")
    pruned = json.loads(kelpie.expect(0, "prune", "-a", "--json")[0])
    check(0 < pruned["template_count"] <= trial["template_count"], "pruned", pruned)


@case
def kill_of_run_leaves_nothing(kelpie):
    before = kelpie.files()
    for wait_s in (0.02, 0.3, 0.9):
        process = kelpie.start("run", "--name", "victim", "sleep", "60")
        time.sleep(wait_s)
        process.kill()
        process.communicate()
        kelpie.wait_until_gone("victim")
        check_equal(kelpie.files(), before, "files afterwards")
    process = kelpie.start("run", "--name", "victim", "sh", "-c", "echo ready; sleep 60")
    process.stdout.read(6)
    process.kill()
    process.communicate()
    kelpie.wait_until_gone("victim")
    check_equal(kelpie.states(), {}, "VMs afterwards")


@case
def ctrl_c_ends_a_boot(kelpie):
    before = kelpie.files()
    for number in (signal.SIGINT, signal.SIGTERM):
        process = kelpie.start("run", "--no-template", "--name", "victim", "true")
        wait_for(lambda: kelpie.states().get("victim") == "starting", 5, "it does not start")
        time.sleep(0.2)
        start = time.monotonic()
        interrupt(process, number)
        process.communicate(timeout=10)
        check(time.monotonic() - start < 3, "seconds until its end", time.monotonic() - start)
        check_equal(process.returncode, 128 + number, "exit code")
        check_equal(kelpie.files(), before, "files afterwards")


@case
def a_vm_that_dies_restores_the_terminal(kelpie):
    terminal = Terminal(kelpie, "run", "-it", "--name", "victim", "sh", "-c", "echo ready; sleep 60")
    try:
        terminal.read_until(b"ready", 30)
        (info,) = json.loads(kelpie.expect(0, "inspect", "--json", "victim")[0])
        os.kill(info["vmm_pid"], signal.SIGKILL)
        check_equal(terminal.wait(), 125, "exit code")
        check(b"kelpie: run: " in terminal.seen, "message", terminal.seen)
        terminal.check_restored()
    finally:
        terminal.close()
    kelpie.wait_until_gone("victim")


@case
def a_guest_that_panics_or_powers_off(kelpie):
    for script in ("echo c >/proc/sysrq-trigger", "poweroff -f"):
        _, err = kelpie.expect(125, "run", "--name", "victim", "sh", "-c", f"{script}; sleep 60")
        check(err.startswith("kelpie: run: "), "message", err)
        kelpie.wait_until_gone("victim")


@case
def doctor_in_both_forms(kelpie):
    code, out, _ = kelpie.run("doctor", "--json", seconds=60)
    found = json.loads(out)
    check(code in (0, 1), "exit code", code)
    names = {one["name"] for one in found}
    check({"qemu", "kernel", "kvm", "vsock", "libkrun", "directories"} <= names, "checks", names)
    vsock = next(one["detail"] for one in found if one["name"] == "vsock")
    try:
        os.close(os.open("/dev/vhost-vsock", os.O_RDWR))
        check("opens" in vsock, "vsock", vsock)
    except OSError as error:
        check("open /dev/vhost-vsock: " in vsock, "vsock", vsock)
        check(f"({errno.errorcode[error.errno]})" in vsock, "vsock", vsock)
    for one in found:
        check(one["status"] in ("ok", "warning", "failed") and one["detail"], "check", one)
        check(one["status"] != "failed" or one["remedy"], "no remedy", one)
    code, out, _ = kelpie.run("doctor", environment={"PATH": "/nowhere"}, seconds=60)
    check(code == 1 and b"qemu-system-x86" in out, "without QEMU", code, out)


@case
def nothing_is_left(kelpie):
    check_equal(kelpie.states(), {}, "VMs")
    wait_for(lambda: kelpie.processes() == [], 5, "processes are left")
    check_equal(kelpie.files(), set(), "files")
    with open("/proc/net/unix", encoding="utf-8") as file:
        check(kelpie.state not in file.read(), "a socket is left")
    with open("/proc/mounts", encoding="utf-8") as file:
        check(kelpie.folder not in file.read(), "a mount is left")
