/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Goal: a restore that fails leaves the VM as it was, whatever fails and when; the disk of a clone
 * is its own and outlives the snapshot. Method: the new QEMU and the monitor killed, stops and
 * kills in the middle, a token that is not the guest's; files on a disk before and after.
 */
#include <dirent.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "contract.h"

/* ---- disks ----------------------------------------------------------------------------------- */

static void test_restore_disk(const struct harness *harness) {
    struct contract contract = contract_open(harness);
    struct kelpie_vm *vm = contract_start_with_disk(&contract, "writer");
    contract_sh_says(vm, "echo one >/root/one", "");
    contract_take(vm, "first");
    contract_sh_says(vm, "echo two >/root/two; rm /root/one; sync", "");
    contract_take(vm, "second");
    contract_sh_says(vm, "echo three >/root/three; sync", "");
    CONTRACT_OK(kelpie_vm_restore(vm, "first", 0, &broken));
    contract_sh_says(vm, "cd /root; ls; cat one", "one\none\n");
    contract_sh_says(vm, "echo four >/root/four; sync", "");
    CONTRACT_OK(kelpie_vm_restore(vm, "second", 0, &broken));
    contract_sh_says(vm, "cd /root; ls; cat two", "two\ntwo\n");
    /* A clone, writing beside it; then both boot from what they have on their disks. */
    struct kelpie_vm *clone = contract_create_from(&contract, "clone", "first");
    CONTRACT_OK(kelpie_vm_start(clone, 0, &broken));
    contract_sh_says(clone, "cd /root; ls; echo mine >mine; sync", "one\n");
    contract_sh_says(vm, "cd /root; ls; echo ours >ours; sync", "two\n");
    CONTRACT_OK(kelpie_vm_stop(clone, 0, NULL, &broken));
    CONTRACT_OK(kelpie_vm_stop(vm, 0, NULL, &broken));
    contract_remove_snapshot(&contract, "first");
    contract_remove_snapshot(&contract, "second");
    CONTRACT_OK(kelpie_vm_start(clone, 0, &broken));
    contract_sh_says(clone, "cd /root; ls; cat one mine", "mine\none\none\nmine\n");
    CONTRACT_OK(kelpie_vm_start(vm, 0, &broken));
    contract_sh_says(vm, "cd /root; ls; cat two ours", "ours\ntwo\ntwo\nours\n");
    /* The clone of the clone's next life. */
    contract_take(clone, "third");
    contract_sh_says(clone, "rm /root/mine", "");
    CONTRACT_OK(kelpie_vm_restore(clone, "third", 0, &broken));
    contract_sh_says(clone, "cat /root/mine", "mine\n");
    contract_end(clone);
    contract_end(vm);
    contract_remove_snapshot(&contract, "third");
    contract_remove_root(&contract);
    contract_close(&contract);
}

/* The snapshot's directory goes behind everybody's back while a clone runs. */
static void test_restore_snapshot_deleted(const struct harness *harness) {
    struct contract contract = contract_open(harness);
    struct kelpie_vm *vm = contract_start_with_disk(&contract, "source");
    char command[4300];
    contract_sh_says(vm, "echo one >/root/one; sync", "");
    contract_take(vm, "point");
    contract_end(vm);
    struct kelpie_vm *clone = contract_create_from(&contract, "clone", "point");
    CONTRACT_OK(kelpie_vm_start(clone, 0, &broken));
    snprintf(command, sizeof(command), "rm -r %s/snapshots/point",
             contract.harness->state_directory);
    HARNESS_CHECK(system(command) == 0, "%s", command);
    contract_sh_says(clone, "echo 3 >/proc/sys/vm/drop_caches; cat /root/one; echo two >/root/two",
                     "one\n");
    contract_take(clone, "after");
    contract_sh_says(clone, "sync; cat /root/two", "two\n");
    CONTRACT_OK(kelpie_vm_stop(clone, 0, NULL, &broken));
    CONTRACT_OK(kelpie_vm_start(clone, 0, &broken));
    contract_sh_says(clone, "cat /root/one /root/two", "one\ntwo\n");
    contract_end(clone);
    struct kelpie_vm *late = contract_create_from(&contract, "late", "after");
    CONTRACT_OK(kelpie_vm_start(late, 0, &broken));
    contract_sh_says(late, "cat /root/one /root/two", "one\ntwo\n");
    contract_end(late);
    contract_remove_snapshot(&contract, "after");
    contract_remove_root(&contract);
    contract_close(&contract);
}

/* ---- what fails in the middle ---------------------------------------------------------------- */

struct waiting {
    bool is_done;
    int status;
    struct kelpie_error error;
};

static void on_done(void *context, const struct kelpie_error *error) {
    struct waiting *waiting = context;
    waiting->is_done = true;
    waiting->status = error == NULL ? 0 : error->code;
    if (error != NULL) {
        waiting->error = *error;
    }
}

static void wait_done(struct contract *contract, struct waiting *waiting) {
    uint64_t deadline_ms = harness_now_ms() + 60000;
    while (!waiting->is_done) {
        HARNESS_CHECK(harness_now_ms() < deadline_ms, "it has ended");
        CONTRACT_OK(kelpie_wait(contract->kelpie, 1000, &broken));
    }
}

/* A child of the monitor that is not the VM's QEMU but one; 0: there is none yet. */
static pid_t find_new_qemu(int32_t monitor, int32_t old) {
    char path[64];
    char text[512];
    pid_t found = 0;
    DIR *directory = opendir("/proc");
    HARNESS_CHECK(directory != NULL);
    for (struct dirent *entry = readdir(directory); entry != NULL; entry = readdir(directory)) {
        pid_t pid = (pid_t)strtol(entry->d_name, NULL, 10);
        int parent = 0;
        if (pid <= 1 || pid == old) {
            continue;
        }
        snprintf(path, sizeof(path), "/proc/%d/stat", pid);
        FILE *file = fopen(path, "re");
        if (file == NULL) {
            continue;
        }
        bool is_read = fgets(text, sizeof(text), file) != NULL;
        fclose(file);
        char *after = is_read ? strrchr(text, ')') : NULL;
        if (after != NULL && strstr(text, "(qemu") != NULL &&
            sscanf(after, ") %*c %d", &parent) == 1 && parent == monitor) {
            found = pid;
        }
    }
    closedir(directory);
    return found;
}

/* `pid` of the new QEMU, once it is there. */
static pid_t wait_new_qemu(struct contract *contract, const struct kelpie_vm_info *info,
                           const struct waiting *waiting) {
    pid_t pid = 0;
    while (pid == 0 && !waiting->is_done) {
        pid = find_new_qemu(info->monitor_pid, info->vmm_pid);
        CONTRACT_OK(kelpie_wait(contract->kelpie, 1, &broken));
    }
    return pid;
}

static void test_restore_survived(const struct harness *harness) {
    struct contract contract = contract_open(harness);
    struct kelpie_vm *vm = contract_start_durable(&contract, "source");
    uint32_t rounds = harness_count(harness, 50);
    uint32_t survived = 0;
    contract_sh_says(vm, "echo saved >/tmp/file", "");
    contract_take(vm, "point");
    contract_sh_says(vm, "echo later >/tmp/file", "");
    for (uint32_t i = 0; i < rounds; i += 1) {
        struct kelpie_vm_info before = contract_inspect(vm);
        struct waiting waiting = {0};
        CONTRACT_OK(kelpie_vm_restore_async(vm, "point", 0, on_done, &waiting, NULL, &broken));
        pid_t pid = wait_new_qemu(&contract, &before, &waiting);
        if (i > 0) { /* the first dies as soon as it is seen, so that one restore fails at least */
            usleep((useconds_t)(harness_random(harness, "delay", i) % 100000));
        }
        if (pid != 0 && contract_inspect(vm).vmm_pid == before.vmm_pid) {
            kill(pid, SIGKILL);
        }
        wait_done(&contract, &waiting);
        if (waiting.status == 0) { /* it was quicker, or died right after */
            CONTRACT_OK(kelpie_vm_kill(vm, &broken));
            CONTRACT_OK(kelpie_vm_restore(vm, "point", 0, &broken));
            contract_sh_says(vm, "cat /tmp/file; echo later >/tmp/file", "saved\n");
            continue;
        }
        HARNESS_CHECK(waiting.status == KELPIE_E_RESTORE, "%s", waiting.error.message);
        contract_state_is(vm, KELPIE_VM_RUNNING);
        contract_sh_says(vm, "cat /tmp/file", "later\n");
        HARNESS_CHECK(contract_inspect(vm).vmm_pid == before.vmm_pid, "the same VMM");
        survived += 1;
    }
    printf("# %u of %u restores failed, and their VM lived on\n", survived, rounds);
    HARNESS_CHECK(survived > 0, "some failed");
    contract_end(vm);
    contract_remove_snapshot(&contract, "point");
    contract_close(&contract);
}

static void test_restore_given_up(const struct harness *harness) {
    struct contract contract = contract_open(harness);
    struct kelpie_vm *vm = contract_start_durable(&contract, "source");
    struct kelpie_operation *operation = NULL;
    contract_sh_says(vm, "echo later >/tmp/file", "");
    contract_take(vm, "point");
    for (uint32_t i = 0; i < 6; i += 1) {
        struct waiting waiting = {0};
        struct kelpie_vm_info before = contract_inspect(vm);
        CONTRACT_OK(
            kelpie_vm_restore_async(vm, "point", 0, on_done, &waiting, &operation, &broken));
        wait_new_qemu(&contract, &before, &waiting);
        usleep((useconds_t)(i % 3) * 30000);
        if (i < 3) {
            if (!waiting.is_done) {
                kelpie_operation_cancel(operation);
            }
            wait_done(&contract, &waiting);
            HARNESS_CHECK(waiting.status == 0 || waiting.status == KELPIE_E_CANCELLED, "%s",
                          waiting.error.message);
            contract_state_is(vm, KELPIE_VM_RUNNING);
            contract_sh_says(vm, "cat /tmp/file", "later\n");
            continue;
        }
        CONTRACT_OK(i == 4 ? kelpie_vm_kill(vm, &broken) : kelpie_vm_stop(vm, 0, NULL, &broken));
        wait_done(&contract, &waiting);
        contract_state_is(vm, KELPIE_VM_STOPPED);
        CONTRACT_OK(kelpie_vm_start(vm, 0, &broken));
        contract_sh_says(vm, "echo later >/tmp/file", "");
    }
    contract_end(vm);
    contract_remove_snapshot(&contract, "point");
    contract_close(&contract);
}

/* The monitor dies somewhere in it: the VM is Crashed, its disk is one of the two. */
static void test_restore_monitor_killed(const struct harness *harness) {
    struct contract contract = contract_open(harness);
    struct kelpie_vm *vm = contract_start_with_disk(&contract, "source");
    uint32_t rounds = harness_count(harness, 50);
    uint32_t old_count = 0;
    contract_sh_says(vm, "echo saved >/root/file; sync", "");
    contract_take(vm, "point");
    for (uint32_t i = 0; i < rounds; i += 1) {
        struct waiting waiting = {0};
        contract_sh_says(vm, "echo later >/root/file; sync", "");
        struct kelpie_vm_info before = contract_inspect(vm);
        CONTRACT_OK(kelpie_vm_restore_async(vm, "point", 0, on_done, &waiting, NULL, &broken));
        uint64_t until_ms = harness_now_ms() + harness_random(harness, "delay", i) % 700;
        for (uint64_t now_ms = harness_now_ms(); now_ms < until_ms; now_ms = harness_now_ms()) {
            CONTRACT_OK(kelpie_wait(contract.kelpie, until_ms - now_ms, &broken));
        }
        HARNESS_CHECK(kill(before.monitor_pid, SIGKILL) == 0);
        wait_done(&contract, &waiting);
        contract_wait_state(vm, KELPIE_VM_CRASHED);
        CONTRACT_OK(kelpie_wait(contract.kelpie, 100, &broken)); /* the connection's end is seen */
        CONTRACT_OK(kelpie_vm_start(vm, 0, &broken));
        struct contract_result result = contract_sh(vm, "cat /root/file", 0);
        bool is_old = strcmp(result.exec.stdout_bytes, "later\n") == 0;
        HARNESS_CHECK(is_old || strcmp(result.exec.stdout_bytes, "saved\n") == 0,
                      "round %u: \"%s\"", i, result.exec.stdout_bytes);
        HARNESS_CHECK(!is_old || waiting.status < 0, "round %u: it was answered, and is not there",
                      i);
        old_count += is_old ? 1 : 0;
        contract_release(&result);
        CONTRACT_OK(kelpie_snapshot_verify(contract.kelpie, "point", &broken));
    }
    printf("# %u of %u monitors died before the switch\n", old_count, rounds);
    contract_end(vm);
    contract_remove_snapshot(&contract, "point");
    contract_remove_root(&contract);
    contract_close(&contract);
}

const struct harness_test contract_tests_restore_ends[] = {
    {"restore_disk", test_restore_disk, 120},
    {"restore_snapshot_deleted", test_restore_snapshot_deleted, 90},
    {"restore_survived", test_restore_survived, 180},
    {"restore_given_up", test_restore_given_up, 120},
    {"restore_monitor_killed", test_restore_monitor_killed, 300},
    {0},
};
