/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * See backend.h.
 */
#include "backend.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

void backend_path(const struct harness *harness, const char *name, char *out, size_t capacity) {
    int length = snprintf(out, capacity, "%s/%s", harness->root_directory, name);
    HARNESS_CHECK(length > 0 && (size_t)length < capacity, "the path of %s", name);
}

void backend_needs_kvm(void) {
    int device = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    if (device < 0) {
        harness_skip("kvm: /dev/kvm cannot be opened");
    }
    close(device);
}

/* A copy of a library of tests/programs, under a name that says what it does. */
void backend_fake_copy(const struct harness *harness, const char *from, const char *name,
                       const char *variable) {
    char path[512];
    const char *programs = getenv("KELPIE_TEST_PROGRAMS");
    HARNESS_CHECK(programs != NULL, "KELPIE_TEST_PROGRAMS is not set");
    backend_path(harness, name, path, sizeof(path));
    contract_host("cp '%s/%s.so' '%s'", programs, from, path);
    setenv(variable, path, 1);
}

/* Both libraries; libkrun is this one, of that name. */
void backend_fake(const struct harness *harness, const char *from, const char *name) {
    backend_fake_copy(harness, from, name, "KELPIE_LIBKRUN");
    backend_fake_copy(harness, "fake-krunfw", "firmware.so", "KELPIE_LIBKRUNFW");
}

void backend_fake_remove(void) {
    HARNESS_CHECK(unlink(getenv("KELPIE_LIBKRUN")) == 0, "%s", getenv("KELPIE_LIBKRUN"));
    HARNESS_CHECK(unlink(getenv("KELPIE_LIBKRUNFW")) == 0, "%s", getenv("KELPIE_LIBKRUNFW"));
}

struct kelpie_config *backend_krun_config(struct contract *contract) {
    struct kelpie_config *config = contract_boot_config(contract);
    kelpie_config_set_backend(config, KELPIE_BACKEND_KRUN);
    return config;
}

/* A start that fails with this code and these words, and leaves the VM as it was. Takes config. */
void backend_start_fails(struct contract *contract, struct kelpie_config *config, int code,
                         const char *text) {
    struct kelpie_error error = {0};
    struct kelpie_vm *vm = contract_create(contract, NULL, config);
    contract_fails(kelpie_vm_start(vm, 0, &error), &error, code, text);
    contract_state_is(vm, KELPIE_VM_CREATED);
    contract_end(vm);
}

void backend_krun_fails(const struct harness *harness, uint64_t timeout_ms, int code,
                        const char *text) {
    struct contract contract = contract_open(harness);
    struct kelpie_config *config = backend_krun_config(&contract);
    if (timeout_ms > 0) {
        kelpie_config_set_boot_timeout_ms(config, timeout_ms);
    }
    backend_start_fails(&contract, config, code, text);
    contract_close(&contract);
}

void backend_on_check(void *context, const struct kelpie_check *check) {
    struct backend_told *told = context;
    if (strcmp(check->name, told->name != NULL ? told->name : "libkrun") == 0) {
        told->status = check->status;
        snprintf(told->detail, sizeof(told->detail), "%s", check->detail);
    }
}
