/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Goal: the half of row 14 that takes snapshots, and what taking one promises: the VM goes on as it
 * was, what is listed is whole, and nothing else is ever left, whatever fails or dies. Method: the
 * store is looked at as files beside the API; the test builds of the programs under fault plans.
 */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "contract.h"

static void test_snapshot_basic(const struct harness *harness) {
    struct contract contract = contract_open(harness);
    struct kelpie_vm *vm = contract_boot_durable(&contract, "source");
    contract_sh_says(vm, "echo before >/tmp/file", "");
    const struct kelpie_snapshot_options options = {
        .struct_size = sizeof(options), .name = "first", .label = "a label: \"\xc3\xa4\""};
    struct kelpie_snapshot_result result = {.struct_size = sizeof(result)};
    CONTRACT_OK(kelpie_vm_snapshot(vm, &options, &result, &broken));
    contract_state_is(vm, KELPIE_VM_RUNNING);
    contract_sh_says(vm, "cat /tmp/file", "before\n");
    HARNESS_CHECK(result.pause_us > 0 && result.pause_us < 5000000, "the pause: %llu us",
                  (unsigned long long)result.pause_us);
    HARNESS_CHECK(contract_listed(&contract) == 1, "it is listed");
    struct kelpie_snapshot_info info = contract_inspect_snapshot(&contract, "first");
    HARNESS_CHECK(strcmp(info.id, result.id) == 0 && strcmp(info.vm_name, "source") == 0 &&
                      strcmp(info.vm_id, kelpie_vm_id(vm)) == 0,
                  "%s %s %s", info.id, info.vm_name, info.vm_id);
    HARNESS_CHECK(strcmp(info.label, options.label) == 0, "the label: %s", info.label);
    HARNESS_CHECK(info.memory_mib == 256 && info.cpus == 1 && !info.is_paused && !info.has_base,
                  "what it is of");
    HARNESS_CHECK(info.stored_bytes == result.stored_bytes, "%llu bytes, not %llu",
                  (unsigned long long)info.stored_bytes, (unsigned long long)result.stored_bytes);
    HARNESS_CHECK(info.stored_bytes > 20u << 20 && info.stored_bytes < 100u << 20, "%llu bytes",
                  (unsigned long long)info.stored_bytes);
    HARNESS_CHECK(strlen(info.kernel_digest) == 32 && strlen(info.checksum) == 32, "digests");
    HARNESS_CHECK(info.parent[0] == '\0', "it came from %s", info.parent);
    CONTRACT_OK(kelpie_snapshot_verify(contract.kelpie, "first", &broken));
    contract_end(vm);
    HARNESS_CHECK(contract_listed(&contract) == 1, "it outlives its VM");
    contract_remove_snapshot(&contract, "first");
    contract_store_is_empty(&contract);
    contract_close(&contract);
}

static void test_snapshot_paused(const struct harness *harness) {
    struct contract contract = contract_open(harness);
    struct kelpie_vm *vm = contract_boot_durable(&contract, "source");
    CONTRACT_OK(kelpie_vm_pause(vm, &broken));
    struct kelpie_snapshot_result one = contract_take(vm, "one");
    struct kelpie_snapshot_result two = contract_take(vm, "two");
    contract_state_is(vm, KELPIE_VM_PAUSED);
    HARNESS_CHECK(one.pause_us == 0 && two.pause_us == 0, "it stood still before");
    HARNESS_CHECK(one.stored_bytes == two.stored_bytes, "nothing ran between: %llu and %llu bytes",
                  (unsigned long long)one.stored_bytes, (unsigned long long)two.stored_bytes);
    struct kelpie_snapshot_info first = contract_inspect_snapshot(&contract, "one");
    struct kelpie_snapshot_info second = contract_inspect_snapshot(&contract, "two");
    HARNESS_CHECK(first.is_paused && second.is_paused, "its VM was paused");
    HARNESS_CHECK(first.page_count == second.page_count && first.page_count > 1000, "%llu pages",
                  (unsigned long long)first.page_count);
    HARNESS_CHECK(strcmp(second.parent, first.id) == 0, "two came after one: %s", second.parent);
    CONTRACT_OK(kelpie_snapshot_verify(contract.kelpie, "one", &broken));
    CONTRACT_OK(kelpie_snapshot_verify(contract.kelpie, "two", &broken));
    CONTRACT_OK(kelpie_vm_resume(vm, &broken));
    contract_sh_says(vm, "echo on", "on\n");
    contract_take(vm, "three");
    contract_sh_says(vm, "echo and on", "and on\n");
    contract_end(vm);
    contract_remove_snapshot(&contract, "two");
    contract_remove_snapshot(&contract, "one");
    CONTRACT_OK(kelpie_snapshot_verify(contract.kelpie, "three", &broken));
    contract_remove_snapshot(&contract, "three");
    contract_store_is_empty(&contract);
    contract_close(&contract);
}

/* ---- refused --------------------------------------------------------------------------------- */

static void refused(struct kelpie_vm *vm, const char *name, int code, const char *text) {
    const struct kelpie_snapshot_options options = {.struct_size = sizeof(options), .name = name};
    struct kelpie_error error = {0};
    contract_fails(kelpie_vm_snapshot(vm, &options, NULL, &error), &error, code, text);
}

static void test_snapshot_states(const struct harness *harness) {
    struct contract contract = contract_open(harness);
    struct kelpie_config *config = contract_config(&contract);
    struct kelpie_snapshot_info info = {.struct_size = sizeof(info)};
    struct kelpie_error error = {0};
    kelpie_config_set_ephemeral(config, false);
    struct kelpie_vm *vm = contract_create(&contract, "states", config);
    refused(vm, "early", KELPIE_E_STATE, "is created");
    CONTRACT_OK(kelpie_vm_start(vm, 0, &broken));
    refused(vm, "Not A Name", KELPIE_E_CONFIG, "name");
    contract_take(vm, "taken");
    refused(vm, "taken", KELPIE_E_EXISTS, "\"taken\" exists already");
    contract_sh_says(vm, "echo well", "well\n");
    CONTRACT_OK(kelpie_vm_stop(vm, 0, NULL, &broken));
    refused(vm, "late", KELPIE_E_STATE, "is stopped");
    refused(vm, "late", KELPIE_E_STATE, "running or paused");
    contract_fails(kelpie_snapshot_inspect(contract.kelpie, "late", &info, &error), &error,
                   KELPIE_E_NOT_FOUND, "\"late\"");
    contract_fails(kelpie_snapshot_remove(contract.kelpie, "late", &error), &error,
                   KELPIE_E_NOT_FOUND, "\"late\"");
    contract_end(vm);
    contract_remove_snapshot(&contract, "taken");
    contract_store_is_empty(&contract);
    contract_close(&contract);
}

/* One damaged byte is found, named, listed; and the snapshot can be removed. */
static void test_snapshot_damaged(const struct harness *harness) {
    static const char *const files[] = {"device", "memory", "config.json", "manifest.json"};
    struct contract contract = contract_open(harness);
    struct kelpie_vm *vm = contract_boot_durable(&contract, "source");
    struct kelpie_snapshot_info *list = NULL;
    size_t count = 0;
    char path[4200];
    CONTRACT_OK(kelpie_vm_pause(vm, &broken));
    for (size_t i = 0; i < 4; i += 1) {
        struct kelpie_error error = {0};
        contract_take(vm, "hurt");
        snprintf(path, sizeof(path), "%s/snapshots/hurt/%s", harness->state_directory, files[i]);
        int file = open(path, O_RDWR | O_CLOEXEC);
        struct stat status;
        char byte = 0;
        HARNESS_CHECK(file >= 0 && fstat(file, &status) == 0, "open %s", path);
        off_t place = (off_t)(harness_random(harness, files[i], 0) % (uint64_t)status.st_size);
        HARNESS_CHECK(pread(file, &byte, 1, place) == 1, "read a byte");
        byte ^= 4;
        HARNESS_CHECK(pwrite(file, &byte, 1, place) == 1, "hurt it");
        close(file);
        contract_fails(kelpie_snapshot_verify(contract.kelpie, "hurt", &error), &error,
                       KELPIE_E_SNAPSHOT_CORRUPTED, files[i]);
        CONTRACT_OK(kelpie_snapshot_list(contract.kelpie, &list, &count, &broken));
        HARNESS_CHECK(count == 1 && list[0].is_damaged == (i == 3), "%zu listed, %s", count,
                      list[0].problem);
        kelpie_snapshot_list_free(contract.kelpie, list, count);
        contract_remove_snapshot(&contract, "hurt");
    }
    contract_end(vm);
    contract_store_is_empty(&contract);
    contract_close(&contract);
}

/* ---- others meanwhile ------------------------------------------------------------------------ */

static void take_async(struct kelpie_vm *vm, const char *name, int *code,
                       struct kelpie_operation **out) {
    const struct kelpie_snapshot_options options = {.struct_size = sizeof(options), .name = name};
    *code = 1;
    CONTRACT_OK(
        kelpie_vm_snapshot_async(vm, &options, NULL, contract_note_code, code, out, &broken));
}

static void finish(struct contract *contract, const int *code) {
    uint64_t deadline_ms = harness_now_ms() + 60000;
    while (*code == 1 && harness_now_ms() < deadline_ms) {
        CONTRACT_OK(kelpie_wait(contract->kelpie, 1000, &broken));
    }
    HARNESS_CHECK(*code != 1, "the snapshot comes to its end");
}

/* How long a process has waited for a processor since it began. */
static uint64_t queued_us(int pid) {
    char path[64];
    unsigned long long running_ns = 0;
    unsigned long long queued_ns = 0;
    snprintf(path, sizeof(path), "/proc/%d/schedstat", pid);
    FILE *file = fopen(path, "re");
    HARNESS_CHECK(file != NULL, "open %s", path);
    int found = fscanf(file, "%llu %llu", &running_ns, &queued_ns);
    fclose(file);
    HARNESS_CHECK(found == 2, "read %s", path);
    return queued_ns / 1000;
}

/* How long an answer took that the monitor gives by itself; without what it and this program waited
 * for a processor, which is others' doing: what is left is work, and waits for the disk. */
static uint64_t ask_us(struct kelpie *kelpie, struct kelpie_vm *vm, int monitor) {
    struct kelpie_exec_info *list = NULL;
    struct timespec from;
    struct timespec to;
    size_t count = 0;
    uint64_t before_us = queued_us(monitor) + queued_us(getpid());
    clock_gettime(CLOCK_MONOTONIC, &from);
    CONTRACT_OK(kelpie_vm_exec_list(vm, &list, &count, &broken));
    clock_gettime(CLOCK_MONOTONIC, &to);
    uint64_t after_us = queued_us(monitor) + queued_us(getpid());
    kelpie_exec_list_free(kelpie, list, count);
    int64_t took_us = (to.tv_sec - from.tv_sec) * 1000000 + (to.tv_nsec - from.tv_nsec) / 1000;
    int64_t own_us = took_us - (int64_t)(after_us - before_us);
    return own_us > 0 ? (uint64_t)own_us : 0; /* both may have waited at once */
}

/* Another client asks again and again while a snapshot is taken and removed. Gives how long the
 * slowest answer took. */
static uint64_t ask_during_snapshot(struct contract *contract, struct kelpie_vm *vm,
                                    struct kelpie *other, struct kelpie_vm *same) {
    int monitor = contract_inspect(vm).monitor_pid;
    uint64_t worst_us = 0;
    unsigned asked = 0;
    int code = 1;
    take_async(vm, "large", &code, NULL);
    while (code == 1) {
        uint64_t took_us = ask_us(other, same, monitor);
        worst_us = took_us > worst_us ? took_us : worst_us;
        asked += 1;
        CONTRACT_OK(kelpie_wait(contract->kelpie, 1, &broken));
    }
    HARNESS_CHECK(code == 0, "%s", kelpie_code_name(code));
    HARNESS_CHECK(asked > 10, "asked %u times", asked);
    printf("# asked %u times during the snapshot, the slowest answer took %llu us\n", asked,
           (unsigned long long)worst_us);
    contract_remove_snapshot(contract, "large");
    return worst_us;
}

/* What the monitor answers by itself, it answers within 10 ms. Three tries, for each ends with a
 * state.json that is renamed, and a busy disk may hold that up. */
static void test_snapshot_others_served(const struct harness *harness) {
    struct contract contract = contract_open(harness);
    struct contract other = contract_open(harness);
    struct kelpie_vm *vm = contract_boot_durable(&contract, "busy");
    struct kelpie_vm *same = NULL;
    uint64_t worst_us = UINT64_MAX;
    CONTRACT_OK(kelpie_vm_open(other.kelpie, "busy", &same, &broken));
    contract_sh_says(vm, "dd if=/dev/urandom of=/tmp/much bs=1M count=80 2>/dev/null", "");
    for (unsigned i = 0; i < 3 && worst_us > 10000; i += 1) {
        worst_us = ask_during_snapshot(&contract, vm, other.kelpie, same);
    }
    HARNESS_CHECK(worst_us <= 10000, "%llu us", (unsigned long long)worst_us);
    kelpie_close(other.kelpie);
    contract_end(vm);
    contract_close(&contract);
}

/* One at a time; pause and resume have their turn; a second client sees the same. */
static void test_snapshot_busy(const struct harness *harness) {
    struct contract contract = contract_open(harness);
    struct kelpie_vm *vm = contract_boot_durable(&contract, "busy");
    int codes[3] = {1, 1, 1};
    struct kelpie_operation *operation = NULL;
    take_async(vm, "one", &codes[0], NULL);
    take_async(vm, "two", &codes[1], NULL);
    CONTRACT_OK(kelpie_vm_pause_async(vm, contract_note_code, &codes[2], NULL, &broken));
    for (size_t i = 0; i < 3; i += 1) {
        finish(&contract, &codes[i]);
    }
    HARNESS_CHECK(codes[0] == 0 && codes[1] == KELPIE_E_BUSY && codes[2] == KELPIE_E_BUSY,
                  "%d, %d, %d", codes[0], codes[1], codes[2]);
    contract_state_is(vm, KELPIE_VM_RUNNING);
    take_async(vm, "unwanted", &codes[0], &operation);
    kelpie_operation_cancel(operation);
    finish(&contract, &codes[0]);
    HARNESS_CHECK(codes[0] == KELPIE_E_CANCELLED, "%s", kelpie_code_name(codes[0]));
    contract_sh_says(vm, "echo well", "well\n");
    HARNESS_CHECK(contract_listed(&contract) == 1, "the cancelled one is not there");
    contract_end(vm);
    contract_remove_snapshot(&contract, "one");
    contract_store_is_empty(&contract);
    contract_close(&contract);
}

/* A stop and a kill in the middle: both work, and the snapshot is whole or not there. */
static void test_snapshot_stop_and_kill(const struct harness *harness) {
    struct contract contract = contract_open(harness);
    struct kelpie_vm *vm = contract_boot_durable(&contract, "ending");
    for (unsigned i = 0; i < 6; i += 1) {
        int codes[2] = {1, 1};
        take_async(vm, "maybe", &codes[0], NULL);
        uint64_t until_ms = harness_now_ms() + i * 12;
        while (harness_now_ms() < until_ms && codes[0] == 1) {
            CONTRACT_OK(kelpie_wait(contract.kelpie, until_ms - harness_now_ms(), &broken));
        }
        CONTRACT_OK(
            i % 2 == 0
                ? kelpie_vm_kill_async(vm, contract_note_code, &codes[1], NULL, &broken)
                : kelpie_vm_stop_async(vm, 0, NULL, contract_note_code, &codes[1], NULL, &broken));
        finish(&contract, &codes[1]);
        finish(&contract, &codes[0]);
        HARNESS_CHECK(codes[1] == 0, "the end: %s", kelpie_code_name(codes[1]));
        contract_state_is(vm, KELPIE_VM_STOPPED);
        bool is_there = codes[0] == 0;
        HARNESS_CHECK(is_there || codes[0] == KELPIE_E_CRASHED || codes[0] == KELPIE_E_STATE,
                      "the snapshot: %s", kelpie_code_name(codes[0]));
        HARNESS_CHECK(contract_listed(&contract) == (is_there ? 1 : 0),
                      "it is listed exactly when whole");
        if (is_there) {
            CONTRACT_OK(kelpie_snapshot_verify(contract.kelpie, "maybe", &broken));
            contract_remove_snapshot(&contract, "maybe");
        }
        contract_store_is_empty(&contract);
        CONTRACT_OK(kelpie_vm_start(vm, 0, &broken));
    }
    contract_end(vm);
    contract_close(&contract);
}

static void test_snapshot_ends_vm(const struct harness *harness) {
    struct contract contract = contract_open(harness);
    struct kelpie_vm *vm = contract_start_durable(&contract, "last");
    const struct kelpie_snapshot_options options = {
        .struct_size = sizeof(options), .name = "end", .stops_vm = true};
    struct kelpie_snapshot_result result = {.struct_size = sizeof(result)};
    CONTRACT_OK(kelpie_vm_snapshot(vm, &options, &result, &broken));
    contract_state_is(vm, KELPIE_VM_STOPPED);
    HARNESS_CHECK(result.pause_us == 0, "it did not go on");
    CONTRACT_OK(kelpie_snapshot_verify(contract.kelpie, "end", &broken));
    CONTRACT_OK(kelpie_vm_start(vm, 0, &broken));
    struct kelpie_error error = {0};
    contract_fails(kelpie_vm_snapshot(vm, &options, NULL, &error), &error, KELPIE_E_EXISTS, "end");
    contract_sh_says(vm, "echo it went on", "it went on\n");
    contract_end(vm);
    contract_remove_snapshot(&contract, "end");
    contract_store_is_empty(&contract);
    contract_close(&contract);
}

/* The client ends in the middle: what it asked for is done. */
static void test_snapshot_client_gone(const struct harness *harness) {
    struct contract contract = contract_open(harness);
    struct contract other = contract_open(harness);
    struct kelpie_config *config = contract_config(&contract);
    struct kelpie_vm *same = NULL;
    int code = 1;
    kelpie_config_set_ephemeral(config, false);
    kelpie_config_set_lifetime(config, KELPIE_LIFETIME_DETACHED);
    struct kelpie_vm *vm = contract_create(&contract, "left", config);
    CONTRACT_OK(kelpie_vm_start(vm, 0, &broken));
    CONTRACT_OK(kelpie_vm_open(other.kelpie, "left", &same, &broken));
    take_async(same, "done", &code, NULL);
    CONTRACT_OK(kelpie_wait(other.kelpie, 5, &broken));
    kelpie_close(other.kelpie);
    uint64_t deadline_ms = harness_now_ms() + 30000;
    while (contract_listed(&contract) == 0 && harness_now_ms() < deadline_ms) {
        usleep(20000); /* a file: there is nothing to wait for */
    }
    CONTRACT_OK(kelpie_snapshot_verify(contract.kelpie, "done", &broken));
    contract_sh_says(vm, "echo well", "well\n");
    contract_end(vm);
    contract_remove_snapshot(&contract, "done");
    contract_store_is_empty(&contract);
    contract_close(&contract);
}

/* ---- streams --------------------------------------------------------------------------------- */

struct stream {
    uint64_t count;
    uint64_t wrong;
    bool has_ended;
};

#define STREAM_NUMBERS 150000u

/* seq prints its numbers one a line, again and again: what comes is compared with what has to. */
struct numbers {
    char line[16];
    size_t length;
    size_t at;
    uint32_t next;
    struct stream stream;
};

static void numbers_output(void *context, struct kelpie_exec *exec, enum kelpie_stream stream,
                           const void *bytes, size_t count) {
    struct numbers *numbers = context;
    const char *text = bytes;
    HARNESS_CHECK(exec != NULL && (stream == KELPIE_STDOUT || count == 0), "only stdout has bytes");
    for (size_t i = 0; i < count; i += 1) {
        if (numbers->at == numbers->length) {
            numbers->next = numbers->next % STREAM_NUMBERS + 1;
            numbers->length =
                (size_t)snprintf(numbers->line, sizeof(numbers->line), "%u\n", numbers->next);
            numbers->at = 0;
        }
        numbers->stream.wrong += text[i] != numbers->line[numbers->at] ? 1 : 0;
        numbers->at += 1;
    }
    numbers->stream.count += count;
}

static void numbers_ended(void *context, struct kelpie_exec *exec,
                          const struct kelpie_exec_status *status,
                          const struct kelpie_error *error) {
    struct numbers *numbers = context;
    HARNESS_CHECK(exec != NULL && error == NULL && status->exit_code == 0, "%s",
                  error == NULL ? "it failed" : error->message);
    numbers->stream.has_ended = true;
}

/* 64 MiB go by while one snapshot after the other is taken. */
static void test_snapshot_streams(const struct harness *harness) {
    struct contract contract = contract_open(harness);
    struct kelpie_vm *vm = contract_start_durable(&contract, "stream");
    const char *const argv[] = {
        "sh", "-c", "seq 150000 >/tmp/f; for i in $(seq 72); do cat /tmp/f; done", NULL};
    const struct kelpie_exec_options options = {
        .struct_size = sizeof(options), .argv = argv, .timeout_ms = KELPIE_TIMEOUT_NONE};
    const struct kelpie_exec_callbacks callbacks = {
        .struct_size = sizeof(callbacks), .output = numbers_output, .ended = numbers_ended};
    struct numbers numbers = {0};
    struct kelpie_exec *exec = NULL;
    unsigned taken = 0;
    CONTRACT_OK(kelpie_vm_exec_start(vm, &options, &callbacks, &numbers, &exec, &broken));
    while (!numbers.stream.has_ended) {
        char name[32];
        int code = 1;
        if (taken < 4) {
            snprintf(name, sizeof(name), "under-%u", taken);
            take_async(vm, name, &code, NULL);
            finish(&contract, &code);
            HARNESS_CHECK(code == 0, "%s", kelpie_code_name(code));
            taken += 1;
        }
        CONTRACT_OK(kelpie_wait(contract.kelpie, 500, &broken));
    }
    HARNESS_CHECK(
        numbers.next == STREAM_NUMBERS && numbers.at == numbers.length && numbers.stream.wrong == 0,
        "%u numbers, %llu bytes, %llu of them wrong", numbers.next,
        (unsigned long long)numbers.stream.count, (unsigned long long)numbers.stream.wrong);
    HARNESS_CHECK(numbers.stream.count > 64u << 20, "as many bytes as that");
    printf("# %u snapshots while %llu bytes went by\n", taken,
           (unsigned long long)numbers.stream.count);
    kelpie_exec_close(exec);
    for (unsigned i = 0; i < taken; i += 1) {
        char name[32];
        snprintf(name, sizeof(name), "under-%u", i);
        CONTRACT_OK(kelpie_snapshot_verify(contract.kelpie, name, &broken));
        contract_remove_snapshot(&contract, name);
    }
    contract_end(vm);
    contract_store_is_empty(&contract);
    contract_close(&contract);
}

/* The first command after a snapshot becomes a process that was made before it: nobody can tell. */
static void test_snapshot_ready(const struct harness *harness) {
    struct contract contract = contract_open(harness);
    struct kelpie_vm *vm = contract_boot_durable(&contract, "source");
    static const char script[] = "readlink /proc/$$/fd/0; echo $(ls /proc/$$/fd); pwd;"
                                 "test $(cut -d' ' -f6 /proc/$$/stat) = $$ && echo leads;"
                                 "grep -E 'Sig(Blk|Ign)' /proc/$$/status | tr -d '\\t\\n'";
    /* 3 is the pipe of $(), and this shell ignores SIGQUIT. */
    static const char says[] = "/dev/null\n0 1 2 3\n/\nleads\n"
                               "SigBlk:0000000000000000SigIgn:0000000000000004";
    contract_take(vm, "one");
    contract_sh_says(vm, script, says); /* made in advance */
    contract_sh_says(vm, script, says); /* born as usual */
    contract_take(vm, "two");
    contract_sh_says(vm, "sleep 1000 & echo ends", "ends\n");
    contract_sh_says(vm, "ps | grep -c '[s]leep 1000'; ps | grep -c '[/]init'", "0\n1\n");
    contract_end(vm);
    contract_remove_snapshot(&contract, "two");
    contract_remove_snapshot(&contract, "one");
    contract_store_is_empty(&contract);
    contract_close(&contract);
}

/* Does this to it, from inside the guest: by a command with a terminal, which is born as usual. */
static void ready_suffer(struct kelpie_vm *vm, const char *signal) {
    char script[256];
    snprintf(script, sizeof(script),
             "ps | grep '[/]init' | grep -v '^ *1 ' | while read -r p rest; do kill -s %s $p; "
             "echo sent; done",
             signal);
    const char *const argv[] = {"sh", "-c", script, NULL};
    const struct kelpie_exec_options options = {
        .struct_size = sizeof(options), .argv = argv, .has_terminal = true};
    struct kelpie_exec_result result = {.struct_size = sizeof(result)};
    CONTRACT_OK(kelpie_vm_exec(vm, &options, &result, &broken));
    HARNESS_CHECK(strcmp(result.stdout_bytes, "sent\r\n") == 0, "%s", result.stdout_bytes);
    kelpie_exec_result_release(&result);
}

/* Whoever ends it or stops it harms nobody. */
static void test_snapshot_ready_gone(const struct harness *harness) {
    static const char *const signals[] = {"kill", "stop"};
    struct contract contract = contract_open(harness);
    struct kelpie_vm *vm = contract_boot_durable(&contract, "source");
    for (size_t i = 0; i < 2; i += 1) {
        contract_take(vm, signals[i]);
        ready_suffer(vm, signals[i]);
        uint64_t begun_ms = harness_now_ms();
        contract_sh_says(vm, "echo said; ps | grep -c '[/]init'", "said\n1\n");
        printf("# after %s: %llu ms\n", signals[i],
               (unsigned long long)(harness_now_ms() - begun_ms));
    }
    contract_end(vm);
    contract_remove_snapshot(&contract, signals[1]);
    contract_remove_snapshot(&contract, signals[0]);
    contract_store_is_empty(&contract);
    contract_close(&contract);
}

/* The first command of each clone has what it was given, and draws bytes of its own. */
static void test_snapshot_ready_orders(const struct harness *harness) {
    struct contract contract = contract_open(harness);
    struct kelpie_vm *vm = contract_boot_durable(&contract, "source");
    struct kelpie_vm *forks[2] = {NULL, NULL};
    static const char *const argv[] = {
        "sh", "-c", "id -u; echo $A; pwd; ulimit -n; head -c 16 /dev/urandom | md5sum", NULL};
    static const char *const environment[] = {"A=given", NULL};
    static const char says[] = "1234\ngiven\n/tmp\n77\n";
    const struct kelpie_limit limits[] = {{RLIMIT_NOFILE, 77, 77}};
    const struct kelpie_exec_options options = {.struct_size = sizeof(options),
                                                .argv = argv,
                                                .environment = environment,
                                                .working_directory = "/tmp",
                                                .user = "1234:1234",
                                                .limits = limits,
                                                .limit_count = 1};
    struct kelpie_exec_result results[2] = {{.struct_size = sizeof(results[0])},
                                            {.struct_size = sizeof(results[0])}};
    CONTRACT_OK(kelpie_vm_fork(vm, NULL, NULL, 2, forks, &broken));
    for (size_t i = 0; i < 2; i += 1) {
        CONTRACT_OK(kelpie_vm_exec(forks[i], &options, &results[i], &broken));
        HARNESS_CHECK(strncmp(results[i].stdout_bytes, says, strlen(says)) == 0, "%s",
                      results[i].stdout_bytes);
        contract_end(forks[i]);
    }
    HARNESS_CHECK(strcmp(results[0].stdout_bytes, results[1].stdout_bytes) != 0,
                  "both draw the same");
    kelpie_exec_result_release(&results[0]);
    kelpie_exec_result_release(&results[1]);
    contract_end(vm);
    contract_store_is_empty(&contract);
    contract_close(&contract);
}

const struct harness_test contract_tests_snapshot[] = {
    {"snapshot_basic", test_snapshot_basic, 60},
    {"snapshot_ready", test_snapshot_ready, 60},
    {"snapshot_ready_gone", test_snapshot_ready_gone, 60},
    {"snapshot_ready_orders", test_snapshot_ready_orders, 60},
    {"snapshot_paused", test_snapshot_paused, 60},
    {"snapshot_states", test_snapshot_states, 60},
    {"snapshot_damaged", test_snapshot_damaged, 60},
    {"snapshot_others_served", test_snapshot_others_served, 120},
    {"snapshot_busy", test_snapshot_busy, 60},
    {"snapshot_stop_and_kill", test_snapshot_stop_and_kill, 180},
    {"snapshot_ends_vm", test_snapshot_ends_vm, 90},
    {"snapshot_client_gone", test_snapshot_client_gone, 60},
    {"snapshot_streams", test_snapshot_streams, 180},
    {0},
};
