/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * See contract.h.
 */
#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "contract.h"
#include "harness/prepared.h"

#define CONTRACT_TESTS_MAX 192

void contract_host(const char *format, ...) {
    char command[4096];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(command, sizeof(command), format, arguments);
    va_end(arguments);
    HARNESS_CHECK(system(command) == 0, "%s", command);
}

int contract_main(int argc, char **argv, struct harness_suite *suite,
                  const struct harness_test *const *files, size_t file_count) {
    struct harness_test tests[CONTRACT_TESTS_MAX];
    size_t count = 0;
    for (size_t i = 0; i < file_count; i += 1) {
        for (const struct harness_test *test = files[i]; test->name != NULL; test += 1) {
            if (count == CONTRACT_TESTS_MAX) {
                abort();
            }
            tests[count] = *test;
            count += 1;
        }
    }
    suite->tests = tests;
    suite->test_count = count;
    return harness_main(argc, argv, suite);
}

struct contract contract_open(const struct harness *harness) {
    const struct kelpie_open_options options = {
        .struct_size = sizeof(options),
        .state_directory = harness->state_directory,
        .runtime_directory = harness->runtime_directory,
        .cache_directory = harness->cache_directory,
        .libexec_directory = harness->libexec_directory,
    };
    struct contract contract = {.harness = harness};
    bool is_known = strcmp(harness->backend, "qemu") == 0 ||
                    strcmp(harness->backend, "vsock") == 0 || strcmp(harness->backend, "krun") == 0;
    HARNESS_CHECK(is_known, "unknown backend %s", harness->backend);
    CONTRACT_OK(kelpie_open(&options, &contract.kelpie, &broken));
    return contract;
}

struct contract contract_open_faulty(const struct harness *harness, const char *plan) {
    struct harness faulty = *harness;
    faulty.libexec_directory = getenv("KELPIE_TEST_PROGRAMS");
    if (faulty.libexec_directory == NULL) {
        harness_skip("programs: KELPIE_TEST_PROGRAMS is not set");
    }
    char seed[32];
    snprintf(seed, sizeof(seed), "%llu", (unsigned long long)harness->seed);
    setenv("KELPIE_FAULT_PLAN", plan, 1);
    setenv("KELPIE_FAULT_SEED", seed, 1);
    struct contract contract = contract_open(&faulty);
    contract.harness = harness;
    contract.is_faulty = true;
    return contract;
}

void contract_close(struct contract *contract) {
    kelpie_close(contract->kelpie);
}

struct kelpie_config *contract_config(struct contract *contract) {
    /* In tests/nested boots are what KVM has to show. */
    bool has_template = strcmp(contract->harness->backend, "qemu") == 0 && !contract->is_faulty &&
                        getenv("KELPIE_TEST_ACCELERATOR") == NULL;
    struct kelpie_config *config = contract_boot_config(contract);
    if (has_template) {
        harness_take_template(contract->harness);
    }
    kelpie_config_set_template(config, has_template);
    return config;
}

struct kelpie_config *contract_boot_config(struct contract *contract) {
    struct kelpie_config *config = NULL;
    CONTRACT_OK(kelpie_config_create(contract->kelpie, &config, &broken));
    kelpie_config_set_cpus(config, HARNESS_TEMPLATE_CPUS);
    kelpie_config_set_memory_mib(config, HARNESS_TEMPLATE_MIB);
    kelpie_config_set_ephemeral(config, true);
    kelpie_config_set_boot_timeout_ms(config, 60000);
    kelpie_config_set_template(config, false);
    if (strcmp(contract->harness->backend, "krun") == 0) {
        kelpie_config_set_backend(config, KELPIE_BACKEND_KRUN);
    } else if (strcmp(contract->harness->backend, "vsock") == 0) { /* QEMU's other channel */
        kelpie_config_set_backend(config, KELPIE_BACKEND_QEMU);
        kelpie_config_set_channel(config, KELPIE_CHANNEL_VSOCK);
        kelpie_config_set_accelerator(config, KELPIE_ACCELERATOR_KVM);
    }
    return config;
}

struct kelpie_vm *contract_create(struct contract *contract, const char *name,
                                  struct kelpie_config *config) {
    struct kelpie_vm *vm = NULL;
    CONTRACT_OK(kelpie_vm_create(contract->kelpie, name, config, &vm, &broken));
    kelpie_config_destroy(config);
    return vm;
}

static struct kelpie_vm *start(struct contract *contract, const char *name,
                               struct kelpie_config *config) {
    struct kelpie_vm *vm = contract_create(contract, name, config);
    CONTRACT_OK(kelpie_vm_start(vm, 0, &broken));
    return vm;
}

struct kelpie_vm *contract_start(struct contract *contract) {
    return start(contract, NULL, contract_config(contract));
}

struct kelpie_vm *contract_boot(struct contract *contract) {
    return start(contract, NULL, contract_boot_config(contract));
}

struct kelpie_vm *contract_start_durable(struct contract *contract, const char *name) {
    struct kelpie_config *config = contract_config(contract);
    kelpie_config_set_ephemeral(config, false);
    return start(contract, name, config);
}

struct kelpie_vm *contract_boot_durable(struct contract *contract, const char *name) {
    struct kelpie_config *config = contract_boot_config(contract);
    kelpie_config_set_ephemeral(config, false);
    return start(contract, name, config);
}

static void root_path(const struct contract *contract, char *out, size_t capacity) {
    snprintf(out, capacity, "%s/root", contract->harness->root_directory);
}

struct kelpie_vm *contract_start_with_disk(struct contract *contract, const char *name) {
    struct kelpie_config *config = contract_boot_config(contract);
    char root[512];
    char command[4096];
    root_path(contract, root, sizeof(root));
    snprintf(command, sizeof(command),
             "mkdir -p '%s' && cd '%s' && mkdir -p bin etc dev proc sys tmp run root && "
             "cp /usr/bin/busybox bin/ && for a in sh cat dd echo head ls md5sum rm sync; do "
             "ln -sf busybox bin/$a; done",
             root, root);
    HARNESS_CHECK(system(command) == 0, "%s", command);
    kelpie_config_set_root(config, root);
    kelpie_config_set_ephemeral(config, false);
    kelpie_config_set_disk_size_mib(config, 64);
    struct kelpie_vm *vm = contract_create(contract, name, config);
    CONTRACT_OK(kelpie_vm_start(vm, 0, &broken));
    return vm;
}

void contract_remove_root(const struct contract *contract) {
    char root[512];
    char command[600];
    root_path(contract, root, sizeof(root));
    snprintf(command, sizeof(command), "rm -r '%s'", root);
    HARNESS_CHECK(system(command) == 0, "%s", command);
}

struct kelpie_vm *contract_create_from(struct contract *contract, const char *name,
                                       const char *snapshot) {
    struct kelpie_config *config = NULL;
    CONTRACT_OK(kelpie_config_create(contract->kelpie, &config, &broken));
    kelpie_config_set_snapshot(config, snapshot);
    kelpie_config_set_template(config, false); /* of later starts, which boot */
    return contract_create(contract, name, config);
}

/* In tests/nested, where a row that fell back to TCG would prove nothing. */
static void accelerator_is_wanted(struct kelpie_vm *vm) {
    const char *wanted = getenv("KELPIE_TEST_ACCELERATOR");
    if (wanted == NULL) {
        return;
    }
    struct kelpie_vm_info info = contract_inspect(vm);
    bool has_started = info.accelerator[0] != '\0';
    HARNESS_CHECK(!has_started || strcmp(info.accelerator, wanted) == 0, "on %s, not %s: %s",
                  info.accelerator, wanted, info.accelerator_reason);
}

void contract_end(struct kelpie_vm *vm) {
    accelerator_is_wanted(vm);
    CONTRACT_OK(kelpie_vm_delete(vm, true, &broken));
    kelpie_vm_close(vm);
}

struct contract_result contract_sh(struct kelpie_vm *vm, const char *script, uint64_t timeout_ms) {
    const char *const argv[] = {"sh", "-c", script, NULL};
    const struct kelpie_exec_options options = {
        .struct_size = sizeof(options), .argv = argv, .timeout_ms = timeout_ms};
    struct contract_result result = {.exec.struct_size = sizeof(result.exec)};
    result.status = kelpie_vm_exec(vm, &options, &result.exec, &result.error);
    return result;
}

void contract_release(struct contract_result *result) {
    kelpie_exec_result_release(&result->exec);
}

void contract_sh_says(struct kelpie_vm *vm, const char *script, const char *output) {
    struct contract_result result = contract_sh(vm, script, 0);
    HARNESS_CHECK(result.status == 0, "%s: %s", script, result.error.message);
    HARNESS_CHECK(result.exec.status.exit_code == 0, "%s: exit code %d: %s", script,
                  result.exec.status.exit_code, result.exec.stderr_bytes);
    HARNESS_CHECK(strcmp(result.exec.stdout_bytes, output) == 0, "%s: said \"%s\", not \"%s\"",
                  script, result.exec.stdout_bytes, output);
    contract_release(&result);
}

struct kelpie_vm_info contract_inspect(struct kelpie_vm *vm) {
    struct kelpie_vm_info info = {.struct_size = sizeof(info)};
    CONTRACT_OK(kelpie_vm_inspect(vm, &info, &broken));
    return info;
}

void contract_end_apart(struct kelpie_vm *one, struct kelpie_vm *two) {
    contract_sh_says(one, "echo 1 >/tmp/me; cat /tmp/me", "1\n");
    contract_sh_says(two, "test ! -e /tmp/me && echo 2 >/tmp/me; cat /tmp/me", "2\n");
    CONTRACT_OK(kelpie_vm_kill(two, &broken));
    contract_sh_says(one, "cat /tmp/me", "1\n");
    contract_end(two);
    contract_end(one);
}

void contract_state_is(struct kelpie_vm *vm, enum kelpie_vm_state state) {
    struct kelpie_vm_info info = contract_inspect(vm);
    HARNESS_CHECK(info.state == state, "the VM is %s, not %s (%s)",
                  kelpie_vm_state_name(info.state), kelpie_vm_state_name(state), info.reason);
}

void contract_wait_state(struct kelpie_vm *vm, enum kelpie_vm_state state) {
    uint64_t deadline_ms = harness_now_ms() + 20000;
    struct kelpie_vm_info info = contract_inspect(vm);
    while (info.state != state && harness_now_ms() < deadline_ms) {
        poll(NULL, 0, 20); /* the state is a file: there is nothing to wait for */
        info = contract_inspect(vm);
    }
    HARNESS_CHECK(info.state == state, "the VM stays %s and does not become %s (%s)",
                  kelpie_vm_state_name(info.state), kelpie_vm_state_name(state), info.reason);
}

void contract_fails(int status, const struct kelpie_error *error, int code, const char *text) {
    HARNESS_CHECK(status == code, "%s, not %s: %s", kelpie_code_name(status),
                  kelpie_code_name(code), error->message);
    HARNESS_CHECK(error->code == code, "the error holds %s", kelpie_code_name(error->code));
    HARNESS_CHECK(strstr(error->message, text) != NULL, "\"%s\" is not in \"%s\"", text,
                  error->message);
}

void contract_note_code(void *context, const struct kelpie_error *error) {
    *(int *)context = error == NULL ? 0 : error->code;
}

void contract_boot_id(char out[64]) {
    int file = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
    ssize_t count = file < 0 ? -1 : read(file, out, 63);
    HARNESS_CHECK(count > 30, "read this host's boot id");
    out[count] = '\0';
    close(file);
}

/* ---- snapshots ------------------------------------------------------------------------------- */

struct kelpie_snapshot_result contract_take(struct kelpie_vm *vm, const char *name) {
    const struct kelpie_snapshot_options options = {.struct_size = sizeof(options), .name = name};
    struct kelpie_snapshot_result result = {.struct_size = sizeof(result)};
    CONTRACT_OK(kelpie_vm_snapshot(vm, &options, &result, &broken));
    HARNESS_CHECK(strcmp(result.name, name) == 0, "its name is %s", result.name);
    HARNESS_CHECK(strlen(result.id) == 32, "its id is \"%s\"", result.id);
    return result;
}

struct kelpie_snapshot_info contract_inspect_snapshot(struct contract *contract, const char *name) {
    struct kelpie_snapshot_info info = {.struct_size = sizeof(info)};
    CONTRACT_OK(kelpie_snapshot_inspect(contract->kelpie, name, &info, &broken));
    return info;
}

void contract_remove_snapshot(struct contract *contract, const char *name) {
    CONTRACT_OK(kelpie_snapshot_remove(contract->kelpie, name, &broken));
}

size_t contract_listed(struct contract *contract) {
    struct kelpie_snapshot_info *list = NULL;
    size_t count = 0;
    CONTRACT_OK(kelpie_snapshot_list(contract->kelpie, &list, &count, &broken));
    kelpie_snapshot_list_free(contract->kelpie, list, count);
    return count;
}

void contract_store_is_empty(const struct contract *contract) {
    char path[4200];
    char one[256] = "";
    unsigned count = 0;
    snprintf(path, sizeof(path), "%s/snapshots", contract->harness->state_directory);
    DIR *directory = opendir(path);
    HARNESS_CHECK(directory != NULL, "open %s", path);
    for (struct dirent *entry = readdir(directory); entry != NULL; entry = readdir(directory)) {
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0) {
            snprintf(one, sizeof(one), "%s", entry->d_name);
            count += 1;
        }
    }
    closedir(directory);
    HARNESS_CHECK(count == 0, "%u entries are left in the store, one is \"%s\"", count, one);
}

void contract_has_no_snapshots(const struct harness *harness, const char *reason) {
    struct contract contract = contract_open(harness);
    struct kelpie_error error = {0};
    const char *const names[] = {"child", NULL};
    struct kelpie_vm *vm = contract_start_durable(&contract, "one");
    struct kelpie_snapshot_options options = {.struct_size = sizeof(options), .name = "s"};
    contract_fails(kelpie_vm_snapshot(vm, &options, NULL, &error), &error, KELPIE_E_UNSUPPORTED,
                   reason);
    struct kelpie_vm *child = NULL;
    contract_fails(kelpie_vm_fork(vm, NULL, names, 1, &child, &error), &error, KELPIE_E_UNSUPPORTED,
                   reason);
    contract_sh_says(vm, "echo goes on", "goes on\n");
    contract_store_is_empty(&contract);
    contract_end(vm);
    contract_close(&contract);
}
