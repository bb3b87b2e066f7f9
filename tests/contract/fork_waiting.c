/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Goal: forks that wait (docs/snapshots.md): the VMM that waited is the fork's; it is the same fork
 * as any; whatever is wrong with one that waits, the fork is made all the same; none outlives the
 * VM, its run, or whoever asked for it. Method: the pids of VMMs and monitors, and SIGKILL.
 */
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "contract.h"

#define WAITING_MAX 4u
#define WAITING_SETTLE_MS 20000u
#define WAITING_ROUNDS 8u

struct waiters {
    size_t count;
    int32_t vmm_pids[WAITING_MAX];
    int32_t monitor_pids[WAITING_MAX];
};

/* A VM from a snapshot: one that was booted lies over nothing. */
static struct kelpie_vm *waiting_source(struct contract *contract) {
    struct kelpie_vm *booted = contract_start(contract);
    contract_sh_says(booted, "echo kept >/tmp/kept", "");
    contract_take(booted, "point");
    contract_end(booted);
    struct kelpie_vm *source = contract_create_from(contract, "source", "point");
    CONTRACT_OK(kelpie_vm_start(source, 0, &broken));
    return source;
}

static void waiting_close(struct contract *contract, struct kelpie_vm *source) {
    contract_end(source);
    contract_remove_snapshot(contract, "point");
    contract_store_is_empty(contract);
    contract_close(contract);
}

/* A VM that was never started has no monitor to be told of; this one's is its VMM's parent. */
static int32_t parent_of(int32_t pid) {
    char path[64];
    char text[512] = "";
    int parent = 0;
    snprintf(path, sizeof(path), "/proc/%d/stat", pid);
    FILE *file = fopen(path, "re");
    HARNESS_CHECK(file != NULL, "open %s", path);
    bool is_read = fgets(text, sizeof(text), file) != NULL;
    fclose(file);
    char *after = is_read ? strrchr(text, ')') : NULL;
    bool is_found = after != NULL && sscanf(after, ") %*c %d", &parent) == 1 && parent > 1;
    HARNESS_CHECK(is_found, "%s: \"%s\"", path, text);
    return parent;
}

static struct waiters waiters_of(struct contract *contract) {
    struct waiters waiters = {0};
    struct kelpie_vm_info *list = NULL;
    size_t count = 0;
    CONTRACT_OK(kelpie_list(contract->kelpie, &list, &count, &broken));
    for (size_t i = 0; i < count; i += 1) {
        if (list[i].state != KELPIE_VM_CREATED || list[i].vmm_pid == 0) {
            continue;
        }
        HARNESS_CHECK(strstr(list[i].reason, "waits to be forked") != NULL, "\"%s\"",
                      list[i].reason);
        HARNESS_CHECK(waiters.count < WAITING_MAX, "too many wait");
        waiters.vmm_pids[waiters.count] = list[i].vmm_pid;
        waiters.monitor_pids[waiters.count] = parent_of(list[i].vmm_pid);
        waiters.count += 1;
    }
    kelpie_list_free(contract->kelpie, list, count);
    return waiters;
}

static void waiters_wait(struct contract *contract, size_t wanted) {
    uint64_t deadline_ms = harness_now_ms() + WAITING_SETTLE_MS;
    struct waiters found = waiters_of(contract);
    while (found.count != wanted && harness_now_ms() < deadline_ms) {
        poll(NULL, 0, 20); /* others' processes end by themselves */
        found = waiters_of(contract);
    }
    HARNESS_CHECK(found.count == wanted, "%zu wait instead of %zu", found.count, wanted);
}

static void vms_wait(struct contract *contract, size_t wanted) {
    uint64_t deadline_ms = harness_now_ms() + WAITING_SETTLE_MS;
    size_t count = wanted + 1;
    while (count != wanted && harness_now_ms() < deadline_ms) {
        struct kelpie_vm_info *list = NULL;
        poll(NULL, 0, 20);
        CONTRACT_OK(kelpie_list(contract->kelpie, &list, &count, &broken));
        kelpie_list_free(contract->kelpie, list, count);
    }
    HARNESS_CHECK(count == wanted, "%zu VMs instead of %zu", count, wanted);
}

static bool has_waited(const struct waiters *waiters, struct kelpie_vm *vm) {
    struct kelpie_vm_info info = contract_inspect(vm);
    for (size_t i = 0; i < waiters->count; i += 1) {
        if (waiters->vmm_pids[i] == info.vmm_pid) {
            return true;
        }
    }
    return false;
}

static void says_its_own(struct kelpie_vm *vm, const char *kept) {
    char expected[128];
    snprintf(expected, sizeof(expected), "%s\n%s\n", kept, kelpie_vm_name(vm));
    contract_sh_says(vm, "cat /tmp/kept; hostname", expected);
}

static void test_fork_waiting_basic(const struct harness *harness) {
    struct contract contract = contract_open(harness);
    struct kelpie_vm *source = waiting_source(&contract);
    struct kelpie_vm *forks[3];
    struct kelpie_error error = {0};
    CONTRACT_OK(kelpie_vm_prepare_forks(source, 1, &broken));
    CONTRACT_OK(kelpie_vm_prepare_forks(source, 1, &broken)); /* one more, beside the first */
    struct waiters waiters = waiters_of(&contract);
    HARNESS_CHECK(waiters.count == 2, "%zu wait", waiters.count);
    contract_fails(kelpie_vm_prepare_forks(source, 63, &error), &error, KELPIE_E_LIMIT, "2 wait");
    contract_sh_says(source, "echo more >>/tmp/kept", ""); /* after they were made */
    uint64_t begun_ms = harness_now_ms();
    CONTRACT_OK(kelpie_vm_fork(source, NULL, NULL, 3, forks, &broken));
    printf("# three forks, two of which waited, in %llu ms\n",
           (unsigned long long)(harness_now_ms() - begun_ms));
    size_t waited_count = 0;
    for (size_t i = 0; i < 3; i += 1) {
        says_its_own(forks[i], "kept\nmore");
        waited_count += has_waited(&waiters, forks[i]) ? 1 : 0;
    }
    HARNESS_CHECK(waited_count == 2, "%zu of the VMMs had waited", waited_count);
    HARNESS_CHECK(waiters_of(&contract).count == 0, "none waits any more");
    HARNESS_CHECK(contract_listed(&contract) == 1, "the snapshot between is gone");
    struct contract_result first = contract_sh(forks[0], "head -c 16 /dev/urandom | md5sum", 0);
    struct contract_result second = contract_sh(forks[1], "head -c 16 /dev/urandom | md5sum", 0);
    HARNESS_CHECK(strcmp(first.exec.stdout_bytes, second.exec.stdout_bytes) != 0,
                  "both draw the same");
    contract_release(&first);
    contract_release(&second);
    /* A fork of one that had waited. */
    struct kelpie_vm *grandchild = NULL;
    CONTRACT_OK(kelpie_vm_prepare_forks(forks[0], 1, &broken));
    waiters = waiters_of(&contract);
    CONTRACT_OK(kelpie_vm_fork(forks[0], NULL, NULL, 1, &grandchild, &broken));
    says_its_own(grandchild, "kept\nmore");
    HARNESS_CHECK(has_waited(&waiters, grandchild), "the grandchild's VMM had waited");
    contract_end(grandchild);
    for (size_t i = 0; i < 3; i += 1) {
        contract_end(forks[i]);
    }
    waiting_close(&contract, source);
}

static void test_fork_waiting_refused(const struct harness *harness) {
    struct contract contract = contract_open(harness);
    struct kelpie_error error = {0};
    struct kelpie_vm *booted = contract_boot(&contract);
    contract_fails(kelpie_vm_prepare_forks(booted, 1, &error), &error, KELPIE_E_UNSUPPORTED,
                   "was booted");
    contract_end(booted);
    struct kelpie_vm *writer = contract_start_with_disk(&contract, "writer");
    contract_take(writer, "point");
    contract_fails(kelpie_vm_prepare_forks(writer, 1, &error), &error, KELPIE_E_UNSUPPORTED,
                   "was booted");
    CONTRACT_OK(kelpie_vm_restore(writer, "point", 0, &broken));
    contract_fails(kelpie_vm_prepare_forks(writer, 1, &error), &error, KELPIE_E_UNSUPPORTED,
                   "has disks");
    contract_end(writer);
    contract_remove_snapshot(&contract, "point");
    contract_remove_root(&contract);
    struct kelpie_vm *created =
        contract_create(&contract, "created", contract_boot_config(&contract));
    contract_fails(kelpie_vm_prepare_forks(created, 1, &error), &error, KELPIE_E_STATE, "created");
    contract_fails(kelpie_vm_prepare_forks(created, 0, &error), &error, KELPIE_E_LIMIT, "1 to 64");
    contract_fails(kelpie_vm_prepare_forks(NULL, 1, &error), &error, KELPIE_E_MISUSE, "NULL");
    contract_end(created);
    contract_close(&contract);
}

/* The VMMs of both: their monitors start others when they are taken. */
static void test_fork_waiting_killed(const struct harness *harness) {
    struct contract contract = contract_open(harness);
    struct kelpie_vm *source = waiting_source(&contract);
    struct kelpie_vm *forks[2];
    CONTRACT_OK(kelpie_vm_prepare_forks(source, 2, &broken));
    struct waiters waiters = waiters_of(&contract);
    for (size_t i = 0; i < 2; i += 1) {
        HARNESS_CHECK(kill(waiters.vmm_pids[i], SIGKILL) == 0, "kill %d", waiters.vmm_pids[i]);
    }
    waiters_wait(&contract, 0);
    CONTRACT_OK(kelpie_vm_fork(source, NULL, NULL, 2, forks, &broken));
    for (size_t i = 0; i < 2; i += 1) {
        says_its_own(forks[i], "kept");
        HARNESS_CHECK(!has_waited(&waiters, forks[i]), "a dead one was taken");
        contract_end(forks[i]);
    }
    waiting_close(&contract, source);
}

/* One of two monitors, whose VMM dies with it: the other one's VMM is taken, and in the place of
 * the dead one a fork is made. The source does not notice. */
static void test_fork_waiting_monitor_killed(const struct harness *harness) {
    struct contract contract = contract_open(harness);
    struct kelpie_vm *source = waiting_source(&contract);
    struct kelpie_vm *forks[2];
    CONTRACT_OK(kelpie_vm_prepare_forks(source, 2, &broken));
    struct waiters waiters = waiters_of(&contract);
    HARNESS_CHECK(kill(waiters.monitor_pids[0], SIGKILL) == 0, "kill a monitor");
    waiters_wait(&contract, 1);
    contract_sh_says(source, "cat /tmp/kept", "kept\n");
    CONTRACT_OK(kelpie_vm_fork(source, NULL, NULL, 2, forks, &broken));
    size_t waited_count = 0;
    for (size_t i = 0; i < 2; i += 1) {
        says_its_own(forks[i], "kept");
        waited_count += has_waited(&waiters, forks[i]) ? 1 : 0;
        contract_end(forks[i]);
    }
    HARNESS_CHECK(waited_count == 1, "%zu of the VMMs had waited", waited_count);
    waiting_close(&contract, source);
}

struct forking {
    bool is_done;
    struct kelpie_error error; /* its code is 0: it worked */
};

static void on_forked(void *context, const struct kelpie_error *error) {
    struct forking *forking = context;
    forking->is_done = true;
    if (error != NULL) {
        forking->error = *error;
    }
}

static void pass_time(struct contract *contract, const struct forking *forking, uint64_t time_ms) {
    uint64_t until_ms = harness_now_ms() + time_ms;
    for (uint64_t now_ms = harness_now_ms(); now_ms < until_ms && !forking->is_done;
         now_ms = harness_now_ms()) {
        CONTRACT_OK(kelpie_wait(contract->kelpie, until_ms - now_ms, &broken));
    }
}

/* While it is being taken: the fork is whole or there is none, and who asked is told. Nothing else
 * is left, neither a VM nor the snapshot between, and the source can be forked again. */
static void test_fork_waiting_killed_meanwhile(const struct harness *harness) {
    struct contract contract = contract_open(harness);
    struct kelpie_vm *source = waiting_source(&contract);
    unsigned failed_count = 0;
    for (unsigned i = 0; i < WAITING_ROUNDS; i += 1) {
        struct forking forking = {0};
        struct kelpie_vm *fork_vm = NULL;
        CONTRACT_OK(kelpie_vm_prepare_forks(source, 1, &broken));
        struct waiters waiters = waiters_of(&contract);
        CONTRACT_OK(kelpie_vm_fork_async(source, NULL, NULL, 1, &fork_vm, on_forked, &forking, NULL,
                                         &broken));
        pass_time(&contract, &forking, i / 2 * 30);
        kill(i % 2 == 0 ? waiters.vmm_pids[0] : waiters.monitor_pids[0], SIGKILL);
        pass_time(&contract, &forking, 30000);
        HARNESS_CHECK(forking.is_done, "round %u: the fork comes to its end", i);
        printf("# round %u: %s\n", i, forking.error.code == 0 ? "forked" : forking.error.message);
        if (forking.error.code < 0) {
            failed_count += 1;
            HARNESS_CHECK(fork_vm == NULL, "nothing was given");
        } else { /* it may have been killed since */
            struct contract_result result = contract_sh(fork_vm, "cat /tmp/kept", 0);
            HARNESS_CHECK(result.status < 0 || strcmp(result.exec.stdout_bytes, "kept\n") == 0,
                          "round %u: \"%s\"", i, result.exec.stdout_bytes);
            contract_release(&result);
        }
        kelpie_vm_close(fork_vm); /* owned, and so it goes */
        vms_wait(&contract, 1);
        HARNESS_CHECK(contract_listed(&contract) == 1, "the snapshot between is gone");
        contract_sh_says(source, "cat /tmp/kept", "kept\n");
    }
    HARNESS_CHECK(failed_count < WAITING_ROUNDS, "none was forked");
    waiting_close(&contract, source);
}

/* More than a quarter of the memory has changed: the snapshot between has a base of its own. */
static void test_fork_waiting_other_base(const struct harness *harness) {
    struct contract contract = contract_open(harness);
    struct kelpie_vm *source = waiting_source(&contract);
    struct kelpie_vm *fork_vm = NULL;
    CONTRACT_OK(kelpie_vm_prepare_forks(source, 1, &broken));
    struct waiters waiters = waiters_of(&contract);
    contract_sh_says(source,
                     "head -c 8000000 /dev/urandom >/tmp/part; md5sum </tmp/part >/tmp/sum; "
                     "for i in 1 2 3 4 5 6 7 8 9; do cat /tmp/part; done >/tmp/fill",
                     "");
    CONTRACT_OK(kelpie_vm_fork(source, NULL, NULL, 1, &fork_vm, &broken));
    HARNESS_CHECK(!has_waited(&waiters, fork_vm), "one over another base was taken");
    contract_sh_says(fork_vm, "tail -c 8000000 /tmp/fill | md5sum | cmp - /tmp/sum && echo same",
                     "same\n");
    waiters_wait(&contract, 0);
    contract_end(fork_vm);
    waiting_close(&contract, source);
}

static void test_fork_waiting_source_ends(const struct harness *harness) {
    struct contract contract = contract_open(harness);
    struct kelpie_vm *source = waiting_source(&contract);
    struct kelpie_vm *fork_vm = NULL;
    CONTRACT_OK(kelpie_vm_prepare_forks(source, 2, &broken));
    CONTRACT_OK(kelpie_vm_restore(source, "point", 0, &broken)); /* another VMM */
    waiters_wait(&contract, 0);
    CONTRACT_OK(kelpie_vm_fork(source, NULL, NULL, 1, &fork_vm, &broken));
    says_its_own(fork_vm, "kept");
    contract_end(fork_vm);
    CONTRACT_OK(kelpie_vm_prepare_forks(source, 1, &broken));
    struct kelpie_vm_info info = contract_inspect(source);
    kill(info.vmm_pid, SIGKILL);
    waiters_wait(&contract, 0);
    waiting_close(&contract, source);
}

/* The process that asked for them, with SIGKILL; then a handle that is closed. */
static void test_fork_waiting_owner_ends(const struct harness *harness) {
    struct contract contract = contract_open(harness);
    struct kelpie_vm *source = waiting_source(&contract);
    fflush(stdout);
    pid_t owner = fork();
    if (owner == 0) {
        struct contract own = contract_open(harness);
        struct kelpie_vm *vm = NULL;
        CONTRACT_OK(kelpie_vm_open(own.kelpie, "source", &vm, &broken));
        CONTRACT_OK(kelpie_vm_prepare_forks(vm, 2, &broken));
        HARNESS_CHECK(waiters_of(&own).count == 2, "both wait");
        raise(SIGKILL);
    }
    int status = 0;
    HARNESS_CHECK(waitpid(owner, &status, 0) == owner && WIFSIGNALED(status), "status %x", status);
    waiters_wait(&contract, 0);
    struct kelpie_vm *other = NULL;
    CONTRACT_OK(kelpie_vm_open(contract.kelpie, "source", &other, &broken));
    CONTRACT_OK(kelpie_vm_prepare_forks(other, 1, &broken));
    kelpie_vm_close(other);
    waiters_wait(&contract, 0);
    contract_sh_says(source, "cat /tmp/kept", "kept\n");
    waiting_close(&contract, source);
}

const struct harness_test contract_tests_fork_waiting[] = {
    {"fork_waiting_basic", test_fork_waiting_basic, 90},
    {"fork_waiting_refused", test_fork_waiting_refused, 60},
    {"fork_waiting_killed", test_fork_waiting_killed, 90},
    {"fork_waiting_monitor_killed", test_fork_waiting_monitor_killed, 90},
    {"fork_waiting_killed_meanwhile", test_fork_waiting_killed_meanwhile, 120},
    {"fork_waiting_other_base", test_fork_waiting_other_base, 120},
    {"fork_waiting_source_ends", test_fork_waiting_source_ends, 90},
    {"fork_waiting_owner_ends", test_fork_waiting_owner_ends, 90},
    {0},
};
