/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Goal: the half of row 14 that takes snapshots, and what taking one promises: the VM goes on as it
 * was, what is listed is whole, and nothing else is ever left, whatever fails or dies. Method: the
 * store is looked at as files beside the API; the test builds of the programs under fault plans.
 */
#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "contract.h"

static struct kelpie_vm *start_durable(struct contract *contract, const char *name) {
    struct kelpie_config *config = contract_config(contract);
    kelpie_config_set_ephemeral(config, false);
    struct kelpie_vm *vm = contract_create(contract, name, config);
    CONTRACT_OK(kelpie_vm_start(vm, 0, &broken));
    return vm;
}

static struct kelpie_snapshot_result take(struct kelpie_vm *vm, const char *name) {
    const struct kelpie_snapshot_options options = {.struct_size = sizeof(options), .name = name};
    struct kelpie_snapshot_result result = {.struct_size = sizeof(result)};
    CONTRACT_OK(kelpie_vm_snapshot(vm, &options, &result, &broken));
    HARNESS_CHECK(strcmp(result.name, name) == 0, "its name is %s", result.name);
    HARNESS_CHECK(strlen(result.id) == 32, "its id is \"%s\"", result.id);
    return result;
}

static struct kelpie_snapshot_info inspect(struct contract *contract, const char *name) {
    struct kelpie_snapshot_info info = {.struct_size = sizeof(info)};
    CONTRACT_OK(kelpie_snapshot_inspect(contract->kelpie, name, &info, &broken));
    return info;
}

static size_t listed(struct contract *contract) {
    struct kelpie_snapshot_info *list = NULL;
    size_t count = 0;
    CONTRACT_OK(kelpie_snapshot_list(contract->kelpie, &list, &count, &broken));
    kelpie_snapshot_list_free(contract->kelpie, list, count);
    return count;
}

/* Entries of the store, hidden ones too; and one of them, for the message. */
static unsigned entries(const struct contract *contract, char out_one[256]) {
    char path[4200];
    unsigned count = 0;
    snprintf(path, sizeof(path), "%s/snapshots", contract->harness->state_directory);
    DIR *directory = opendir(path);
    HARNESS_CHECK(directory != NULL, "open %s", path);
    for (struct dirent *entry = readdir(directory); entry != NULL; entry = readdir(directory)) {
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0) {
            snprintf(out_one, 256, "%s", entry->d_name);
            count += 1;
        }
    }
    closedir(directory);
    return count;
}

static void nothing_is_left(const struct contract *contract) {
    char one[256] = "";
    unsigned count = entries(contract, one);
    HARNESS_CHECK(count == 0, "%u entries are left in the store, one is \"%s\"", count, one);
}

static void remove_one(struct contract *contract, const char *name) {
    CONTRACT_OK(kelpie_snapshot_remove(contract->kelpie, name, &broken));
}

static void test_snapshot_basic(const struct harness *harness) {
    struct contract contract = contract_open(harness);
    struct kelpie_vm *vm = start_durable(&contract, "source");
    contract_sh_says(vm, "echo before >/tmp/file", "");
    const struct kelpie_snapshot_options options = {
        .struct_size = sizeof(options), .name = "first", .label = "a label: \"\xc3\xa4\""};
    struct kelpie_snapshot_result result = {.struct_size = sizeof(result)};
    CONTRACT_OK(kelpie_vm_snapshot(vm, &options, &result, &broken));
    contract_state_is(vm, KELPIE_VM_RUNNING);
    contract_sh_says(vm, "cat /tmp/file", "before\n");
    HARNESS_CHECK(result.pause_us > 0 && result.pause_us < 5000000, "the pause: %llu us",
                  (unsigned long long)result.pause_us);
    HARNESS_CHECK(listed(&contract) == 1, "it is listed");
    struct kelpie_snapshot_info info = inspect(&contract, "first");
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
    HARNESS_CHECK(listed(&contract) == 1, "it outlives its VM");
    remove_one(&contract, "first");
    nothing_is_left(&contract);
    contract_close(&contract);
}

static void test_snapshot_paused(const struct harness *harness) {
    struct contract contract = contract_open(harness);
    struct kelpie_vm *vm = start_durable(&contract, "source");
    CONTRACT_OK(kelpie_vm_pause(vm, &broken));
    struct kelpie_snapshot_result one = take(vm, "one");
    struct kelpie_snapshot_result two = take(vm, "two");
    contract_state_is(vm, KELPIE_VM_PAUSED);
    HARNESS_CHECK(one.pause_us == 0 && two.pause_us == 0, "it stood still before");
    HARNESS_CHECK(one.stored_bytes == two.stored_bytes, "nothing ran between: %llu and %llu bytes",
                  (unsigned long long)one.stored_bytes, (unsigned long long)two.stored_bytes);
    struct kelpie_snapshot_info first = inspect(&contract, "one");
    struct kelpie_snapshot_info second = inspect(&contract, "two");
    HARNESS_CHECK(first.is_paused && second.is_paused, "its VM was paused");
    HARNESS_CHECK(first.page_count == second.page_count && first.page_count > 1000, "%llu pages",
                  (unsigned long long)first.page_count);
    HARNESS_CHECK(strcmp(second.parent, first.id) == 0, "two came after one: %s", second.parent);
    CONTRACT_OK(kelpie_snapshot_verify(contract.kelpie, "one", &broken));
    CONTRACT_OK(kelpie_snapshot_verify(contract.kelpie, "two", &broken));
    CONTRACT_OK(kelpie_vm_resume(vm, &broken));
    contract_sh_says(vm, "echo on", "on\n");
    take(vm, "three");
    contract_sh_says(vm, "echo and on", "and on\n");
    contract_end(vm);
    remove_one(&contract, "two");
    remove_one(&contract, "one");
    CONTRACT_OK(kelpie_snapshot_verify(contract.kelpie, "three", &broken));
    remove_one(&contract, "three");
    nothing_is_left(&contract);
    contract_close(&contract);
}

const struct harness_test contract_tests_snapshot[] = {
    {"snapshot_basic", test_snapshot_basic, 60},
    {"snapshot_paused", test_snapshot_paused, 60},
    {0},
};
