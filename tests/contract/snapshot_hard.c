/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Goal: what a snapshot and its restore have to bear: disks that are used without their memory,
 * damage in any file, no space, death at any step, a busy host, a guest that talks. Method: VMs
 * over a root directory with a disk, the test builds of the programs under fault plans.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "contract.h"

/* ---- a disk without its memory --------------------------------------------------------------- */

/* What the guest wrote, and never synced, is on the snapshot's disk: a VM that is made from it and
 * dies at once boots with it. */
static void test_snapshot_disk_synced(const struct harness *harness) {
    struct contract contract = contract_open(harness);
    struct kelpie_vm *vm = contract_start_with_disk(&contract, "writer");
    contract_sh_says(vm,
                     "dd if=/dev/urandom of=/root/much bs=64k count=64 2>/dev/null;"
                     "md5sum </root/much >/root/sum",
                     "");
    contract_take(vm, "written");
    CONTRACT_OK(kelpie_vm_kill(vm, &broken));
    struct kelpie_vm *clone = contract_create_from(&contract, "clone", "written");
    CONTRACT_OK(kelpie_vm_start(clone, 0, &broken));
    CONTRACT_OK(kelpie_vm_kill(clone, &broken));
    CONTRACT_OK(kelpie_vm_start(clone, 0, &broken)); /* a boot */
    contract_sh_says(clone,
                     "md5sum </root/much >/tmp/sum; cat /tmp/sum /root/sum | "
                     "(read a; read b; test -n \"$a\" && test \"$a\" = \"$b\" && echo same)",
                     "same\n");
    contract_end(clone);
    contract_end(vm);
    contract_remove_snapshot(&contract, "written");
    contract_remove_root(&contract);
    contract_close(&contract);
}

/* ---- damage ---------------------------------------------------------------------------------- */

static void host(const char *command) {
    HARNESS_CHECK(system(command) == 0, "%s", command);
}

/* A file of its own, where it was another name of one that others use. */
static void make_own(const struct harness *harness, const char *snapshot, const char *name,
                     char *out, size_t capacity) {
    char command[20000];
    snprintf(out, capacity, "%s/snapshots/%s/%s", harness->state_directory, snapshot, name);
    snprintf(command, sizeof(command), "cp --sparse=always '%s' '%s.own' && mv '%s.own' '%s'", out,
             out, out, out);
    host(command);
}

static void flip_bit(const char *path, uint64_t place, int bit) {
    int file = open(path, O_RDWR | O_CLOEXEC);
    char byte = 0;
    HARNESS_CHECK(file >= 0 && pread(file, &byte, 1, (off_t)place) == 1, "read %s", path);
    byte = (char)(byte ^ 1 << bit);
    HARNESS_CHECK(pwrite(file, &byte, 1, (off_t)place) == 1, "write %s", path);
    close(file);
}

static uint64_t size_of(const char *path) {
    struct stat status;
    HARNESS_CHECK(stat(path, &status) == 0, "look at %s", path);
    return (uint64_t)status.st_size;
}

/* Each file of a snapshot that has all kinds of them: no guest is ever started on it, and when the
 * bit is right again, one is. */
static void test_snapshot_damaged_everywhere(const struct harness *harness) {
    struct contract contract = contract_open(harness);
    struct kelpie_snapshot_info info;
    char name[256];
    char listing[4200];
    uint32_t file_count = 0;
    struct kelpie_vm *vm = contract_start_with_disk(&contract, "source");
    contract_sh_says(vm, "echo kept >/root/file", "");
    contract_take(vm, "first");
    contract_end(vm);
    struct kelpie_vm *middle = contract_create_from(&contract, "middle", "first");
    CONTRACT_OK(kelpie_vm_start(middle, 0, &broken));
    contract_take(middle, "whole"); /* over a base */
    contract_end(middle);
    info = contract_inspect_snapshot(&contract, "whole");
    HARNESS_CHECK(info.has_base && info.file_count == 8, "%u files", info.file_count);
    struct kelpie_vm *clone = contract_create_from(&contract, "clone", "whole");
    snprintf(listing, sizeof(listing),
             "rm -f '%s/snapshots/whole/verified' && ls '%s/snapshots/whole'",
             harness->state_directory, harness->state_directory);
    FILE *names = popen(listing, "re");
    HARNESS_CHECK(names != NULL, "list the files");
    while (fgets(name, sizeof(name), names) != NULL) {
        char path[4500];
        struct kelpie_error error = {0};
        name[strcspn(name, "\n")] = '\0';
        make_own(harness, "whole", name, path, sizeof(path));
        uint64_t place = harness_random(harness, name, 0) % size_of(path);
        int bit = (int)(harness_random(harness, name, 1) % 8);
        flip_bit(path, place, bit);
        int status = kelpie_vm_start(clone, 0, &error);
        HARNESS_CHECK(status == KELPIE_E_SNAPSHOT_CORRUPTED ||
                          status == KELPIE_E_SNAPSHOT_INCOMPATIBLE,
                      "bit %d of byte %llu of %s: %s: %s", bit, (unsigned long long)place, name,
                      kelpie_code_name(status), error.message);
        contract_state_is(clone, KELPIE_VM_CREATED);
        flip_bit(path, place, bit);
        file_count += 1;
    }
    pclose(names);
    HARNESS_CHECK(file_count == 10, "%u files were hurt", file_count); /* and two lists */
    CONTRACT_OK(kelpie_vm_start(clone, 0, &broken));
    contract_sh_says(clone, "cat /root/file", "kept\n");
    contract_end(clone);
    contract_remove_snapshot(&contract, "whole");
    contract_remove_snapshot(&contract, "first");
    contract_remove_root(&contract);
    contract_close(&contract);
}

/* ---- no space -------------------------------------------------------------------------------- */

/* One try, in which the nth call of a kind finds the disk full. True: it did not come so far. */
static bool restore_full(const struct harness *harness, const char *call, unsigned nth) {
    char plan[128];
    char listing[4200];
    struct kelpie_error error = {0};
    snprintf(plan, sizeof(plan), "%s role=monitor nth=%u => ENOSPC", call, nth);
    struct contract contract = contract_open_faulty(harness, plan);
    struct kelpie_vm *vm = contract_create_from(&contract, "full", "point");
    int status = kelpie_vm_start(vm, 0, &error);
    if (status < 0) {
        printf("# %s: %s\n", plan, error.message);
        struct kelpie_vm_info info = contract_inspect(vm);
        HARNESS_CHECK(info.state == KELPIE_VM_CREATED || info.state == KELPIE_VM_CRASHED,
                      "state %d", (int)info.state);
    } else {
        contract_sh_says(vm, "cat /root/file", "saved\n");
    }
    contract_end(vm);
    contract_close(&contract);
    setenv("KELPIE_FAULT_PLAN", "wait role=none nth=1 => EIO", 1);
    snprintf(listing, sizeof(listing), "test ! -e '%s/vms/full'", harness->state_directory);
    host(listing);
    return status == 0;
}

/* At any write of a restore: no VM and nothing of it is left, the snapshot is whole, and with space
 * it works. */
static void test_restore_no_space(const struct harness *harness) {
    static const char *const calls[] = {"pwrite", "mkdir", "link", "rename", "truncate"};
    struct contract contract = contract_open_faulty(harness, "wait role=none nth=1 => EIO");
    struct kelpie_vm *vm = contract_start_with_disk(&contract, "source");
    contract_sh_says(vm, "echo saved >/root/file", "");
    contract_take(vm, "point");
    contract_end(vm);
    for (size_t i = 0; i < sizeof(calls) / sizeof(calls[0]); i += 1) {
        bool is_past = false;
        unsigned limit = harness->scale == 1 ? 64 : 4;
        for (unsigned nth = 1; nth <= limit && !is_past; nth += 1) {
            is_past = restore_full(harness, calls[i], nth);
        }
    }
    CONTRACT_OK(kelpie_snapshot_verify(contract.kelpie, "point", &broken));
    contract_remove_snapshot(&contract, "point");
    contract_store_is_empty(&contract);
    contract_remove_root(&contract);
    contract_close(&contract);
}

/* ---- death at any step ----------------------------------------------------------------------- */

/* What is listed is whole; the rest is gone once somebody has looked. */
static void listed_is_whole(struct contract *contract) {
    struct kelpie_snapshot_info *list = NULL;
    size_t count = 0;
    CONTRACT_OK(kelpie_snapshot_list(contract->kelpie, &list, &count, &broken));
    for (size_t i = 0; i < count; i += 1) {
        HARNESS_CHECK(!list[i].is_damaged, "\"%s\" is damaged: %s", list[i].name, list[i].problem);
        CONTRACT_OK(kelpie_snapshot_verify(contract->kelpie, list[i].name, &broken));
        if (strcmp(list[i].name, "seed") != 0) {
            contract_remove_snapshot(contract, list[i].name);
        }
    }
    kelpie_snapshot_list_free(contract->kelpie, list, count);
}

/* A VM made from a snapshot, saved, and restored in place; at a drawn call a process of it dies. */
static bool killed_round(const struct harness *harness, uint32_t round) {
    static const char *const victims[][2] = {
        {"monitor", "=> kill"},
        {"worker", "=> kill"},
        {"monitor", "path=*qemu* max=1 => kill-child"},
    };
    char plan[128];
    struct kelpie_error error = {0};
    unsigned victim = (unsigned)(harness_random(harness, "victim", round) % 3);
    unsigned range = victim == 1 ? 200 : 2500;
    unsigned call = 1 + (unsigned)(harness_random(harness, "call", round) % range);
    snprintf(plan, sizeof(plan), "* role=%s nth=%u %s", victims[victim][0], call,
             victims[victim][1]);
    struct contract contract = contract_open_faulty(harness, plan);
    struct kelpie_vm *vm = contract_create_from(&contract, "victim", "seed");
    const struct kelpie_snapshot_options options = {.struct_size = sizeof(options),
                                                    .name = "taken"};
    int status = kelpie_vm_start(vm, 0, &error);
    status = status < 0 ? status : kelpie_vm_snapshot(vm, &options, NULL, &error);
    status = status < 0 ? status : kelpie_vm_restore(vm, "taken", 0, &error);
    if (status == 0) { /* it may still die now */
        struct contract_result result = contract_sh(vm, "cat /root/file", 0);
        HARNESS_CHECK(result.status < 0 || strcmp(result.exec.stdout_bytes, "seed\n") == 0,
                      "another file: \"%s\"", result.exec.stdout_bytes);
        status = result.status;
        error = result.error;
        contract_release(&result);
    }
    if (status < 0) {
        printf("# %s: %s: %.100s\n", plan, kelpie_code_name(status), error.message);
    }
    kelpie_close(contract.kelpie); /* the VM was owned */
    setenv("KELPIE_FAULT_PLAN", "wait role=none nth=1 => EIO", 1);
    contract = contract_open(harness);
    struct kelpie_vm *left = NULL;
    if (kelpie_vm_open(contract.kelpie, "victim", &left, NULL) == 0) {
        contract_end(left);
    }
    listed_is_whole(&contract);
    HARNESS_CHECK(contract_listed(&contract) == 1, "the seed is there");
    contract_close(&contract);
    return status < 0;
}

static void test_snapshot_killed_anywhere(const struct harness *harness) {
    struct contract contract = contract_open_faulty(harness, "wait role=none nth=1 => EIO");
    struct kelpie_vm *vm = contract_start_with_disk(&contract, "source");
    uint32_t rounds = harness_count(harness, 100);
    uint32_t died = 0;
    contract_sh_says(vm, "echo seed >/root/file", "");
    contract_take(vm, "seed");
    contract_end(vm);
    for (uint32_t i = 0; i < rounds; i += 1) {
        died += killed_round(harness, i) ? 1 : 0;
    }
    printf("# somebody died in %u of %u rounds\n", died, rounds);
    contract_remove_snapshot(&contract, "seed");
    contract_store_is_empty(&contract);
    contract_remove_root(&contract);
    contract_close(&contract);
}

/* ---- a busy host ----------------------------------------------------------------------------- */

#define SPINNERS_MAX 8

static pid_t spin(void) {
    pid_t child = fork();
    HARNESS_CHECK(child >= 0, "fork");
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        volatile unsigned turn = 0;
        while (turn < UINT_MAX) { /* killed long before; it never gets there */
            turn = (turn + 1) / 2;
        }
    }
    return child;
}

/* Two spinning processes a core; the same snapshot again and again, in place and as new VMs. */
static void test_restore_under_load(const struct harness *harness) {
    pid_t spinners[SPINNERS_MAX];
    int cores = (int)sysconf(_SC_NPROCESSORS_ONLN);
    int count = cores * 2 < SPINNERS_MAX ? cores * 2 : SPINNERS_MAX;
    struct contract contract = contract_open(harness);
    struct kelpie_vm *vm = contract_boot_durable(&contract, "busy");
    contract_sh_says(vm, "echo saved >/tmp/file", "");
    contract_take(vm, "point");
    for (int i = 0; i < count; i += 1) {
        spinners[i] = spin();
    }
    for (uint32_t i = 0; i < harness_count(harness, 20); i += 1) {
        contract_sh_says(vm, "echo later >/tmp/file", "");
        CONTRACT_OK(kelpie_vm_restore(vm, "point", 0, &broken));
        contract_sh_says(vm, "cat /tmp/file", "saved\n");
        struct kelpie_vm *clone = contract_create_from(&contract, "clone", "point");
        CONTRACT_OK(kelpie_vm_start(clone, 0, &broken));
        contract_sh_says(clone, "cat /tmp/file", "saved\n");
        contract_end(clone);
    }
    for (int i = 0; i < count; i += 1) {
        HARNESS_CHECK(waitpid(spinners[i], NULL, WNOHANG) == 0, "spinner %d is alive", i);
        kill(spinners[i], SIGKILL);
        waitpid(spinners[i], NULL, 0);
    }
    contract_end(vm);
    contract_remove_snapshot(&contract, "point");
    contract_close(&contract);
}

/* ---- a guest that talks ---------------------------------------------------------------------- */

#define FLOW_LINES 200000u
#define FLOW_CYCLE_BYTES (UINT64_C(10) * FLOW_LINES) /* nine digits and a newline each */
#define FLOW_FIRST 100000000u

/* Output whose every byte follows from its place. */
struct flow {
    uint64_t count;
    uint64_t place; /* in the cycle, of the next byte; known from the first whole line on */
    bool is_placed;
    char head[20];
    uint64_t wrong;
    bool has_ended;
};

static char flow_byte(uint64_t place) {
    char line[16];
    snprintf(line, sizeof(line), "%u\n", FLOW_FIRST + (unsigned)(place / 10));
    return line[place % 10];
}

/* Where in the cycle the first of these 19 bytes lies. */
static uint64_t flow_find(const char *head) {
    unsigned skipped = 0;
    while (head[skipped] != '\n' && skipped < 9) {
        skipped += 1;
    }
    skipped += 1;
    uint64_t line = strtoull(head + skipped, NULL, 10) - FLOW_FIRST;
    return (line * 10 + FLOW_CYCLE_BYTES - skipped) % FLOW_CYCLE_BYTES;
}

static void flow_take(struct flow *flow, char byte) {
    flow->wrong += byte != flow_byte(flow->place) ? 1 : 0;
    flow->place = (flow->place + 1) % FLOW_CYCLE_BYTES;
}

static void flow_output(void *context, struct kelpie_exec *exec, enum kelpie_stream kind,
                        const void *bytes, size_t count) {
    struct flow *flow = context;
    const char *text = bytes;
    HARNESS_CHECK(exec != NULL && (kind == KELPIE_STDOUT || count == 0), "only stdout has bytes");
    for (size_t i = 0; i < count; i += 1) {
        flow->count += 1;
        if (flow->is_placed) {
            flow_take(flow, text[i]);
            continue;
        }
        flow->head[flow->count - 1] = text[i];
        if (flow->count == 19) {
            flow->is_placed = true;
            flow->place = flow_find(flow->head);
            for (size_t j = 0; j < 19; j += 1) {
                flow_take(flow, flow->head[j]);
            }
        }
    }
}

static void flow_ended(void *context, struct kelpie_exec *exec,
                       const struct kelpie_exec_status *status, const struct kelpie_error *error) {
    struct flow *flow = context;
    HARNESS_CHECK(exec != NULL && error == NULL && status->exit_code == 0, "%s",
                  error == NULL ? "it failed" : error->message);
    flow->has_ended = true;
}

static const struct kelpie_exec_callbacks flow_callbacks = {
    .struct_size = sizeof(flow_callbacks), .output = flow_output, .ended = flow_ended};

/* To its end, every byte right; gives how many there were. */
static void flow_finish(struct contract *contract, struct flow *flow, uint64_t timeout_ms) {
    uint64_t deadline_ms = harness_now_ms() + timeout_ms;
    while (!flow->has_ended) {
        HARNESS_CHECK(harness_now_ms() < deadline_ms, "%llu bytes came in time",
                      (unsigned long long)flow->count);
        CONTRACT_OK(kelpie_wait(contract->kelpie, 1000, &broken));
    }
    HARNESS_CHECK(flow->wrong == 0 && flow->place == 0, "%llu of %llu bytes wrong",
                  (unsigned long long)flow->wrong, (unsigned long long)flow->count);
}

/* A snapshot in the middle of a stream: the source's goes on without a byte lost, and so does the
 * same command's in a VM that is made from it, from the oldest byte that was kept. */
static void test_snapshot_stream_restored(const struct harness *harness) {
    struct contract contract = contract_open(harness);
    struct kelpie_vm *vm = contract_start_durable(&contract, "stream");
    unsigned cycles = harness->scale == 1 ? 540 : 8; /* of 2 MB */
    uint64_t all_bytes = cycles * FLOW_CYCLE_BYTES;
    uint64_t timeout_ms = harness->scale == 1 ? 1500000 : 120000;
    char script[200];
    snprintf(script, sizeof(script),
             "seq %u %u >/tmp/f; i=0; while [ $i -lt %u ]; do cat /tmp/f; i=$((i+1)); done",
             FLOW_FIRST, FLOW_FIRST + FLOW_LINES - 1, cycles);
    const char *const argv[] = {"sh", "-c", script, NULL};
    const struct kelpie_exec_options options = {
        .struct_size = sizeof(options), .argv = argv, .timeout_ms = KELPIE_TIMEOUT_NONE};
    struct flow ours = {0};
    struct flow theirs = {0};
    struct kelpie_exec *exec = NULL;
    struct kelpie_exec *copy = NULL;
    struct kelpie_exec_info *list = NULL;
    size_t count = 0;
    CONTRACT_OK(kelpie_vm_exec_start(vm, &options, &flow_callbacks, &ours, &exec, &broken));
    uint64_t deadline_ms = harness_now_ms() + timeout_ms;
    while (ours.count < all_bytes / 4) {
        HARNESS_CHECK(harness_now_ms() < deadline_ms, "a quarter came in time");
        CONTRACT_OK(kelpie_wait(contract.kelpie, 1000, &broken));
    }
    contract_take(vm, "middle");
    uint64_t seen_bytes = ours.count;
    HARNESS_CHECK(!ours.has_ended, "it was taken in the middle");
    struct kelpie_vm *clone = contract_create_from(&contract, "clone", "middle");
    CONTRACT_OK(kelpie_vm_start(clone, 0, &broken));
    CONTRACT_OK(kelpie_vm_exec_list(clone, &list, &count, &broken));
    HARNESS_CHECK(count == 1 && list[0].is_running, "%zu commands", count);
    CONTRACT_OK(
        kelpie_vm_exec_attach(clone, list[0].id, 0, 0, &flow_callbacks, &theirs, &copy, &broken));
    kelpie_exec_list_free(contract.kelpie, list, count);
    flow_finish(&contract, &ours, timeout_ms);
    flow_finish(&contract, &theirs, timeout_ms);
    HARNESS_CHECK(ours.count == all_bytes, "%llu bytes", (unsigned long long)ours.count);
    uint64_t begin = all_bytes - theirs.count;
    HARNESS_CHECK(begin > 0 && begin <= seen_bytes, "the clone's began at %llu of %llu",
                  (unsigned long long)begin, (unsigned long long)seen_bytes);
    bool is_its_place = begin % FLOW_CYCLE_BYTES == flow_find(theirs.head);
    HARNESS_CHECK(is_its_place, "the clone's began elsewhere than its bytes say");
    kelpie_exec_close(copy);
    kelpie_exec_close(exec);
    contract_end(clone);
    contract_end(vm);
    contract_remove_snapshot(&contract, "middle");
    contract_close(&contract);
}

const struct harness_test contract_tests_snapshot_hard[] = {
    {"snapshot_disk_synced", test_snapshot_disk_synced, 90},
    {"snapshot_damaged_everywhere", test_snapshot_damaged_everywhere, 120},
    {"snapshot_killed_anywhere", test_snapshot_killed_anywhere, 1200},
    {"snapshot_stream_restored", test_snapshot_stream_restored, 3000},
    {"restore_no_space", test_restore_no_space, 600},
    {"restore_under_load", test_restore_under_load, 600},
    {0},
};
