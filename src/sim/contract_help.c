/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * See contract_help.h.
 */
#include "sim/contract_help.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define CONTRACT_MEMORY_MIB 256u
#define CONTRACT_BOOT_MS 60000u

/* ---- helpers --------------------------------------------------------------------------------- */

void kelpie__row_fail(struct sim_contract *contract, const char *format, ...) {
    char text[512];
    va_list arguments;
    if (contract->has_failed) {
        return;
    }
    contract->has_failed = true;
    va_start(arguments, format);
    int length = vsnprintf(text, sizeof(text), format, arguments);
    va_end(arguments);
    KELPIE_ASSERT(length > 0);
    contract->fail(contract, text);
}

bool kelpie__row_is_ok(struct sim_contract *contract, const char *what, int status,
                       const struct kelpie_error *error) {
    if (status < 0) {
        kelpie__row_fail(contract, "%s: %s: %.300s", what, kelpie_code_name(status),
                         error->message);
    }
    return status == 0;
}

bool kelpie__row_is_code(struct sim_contract *contract, const char *what, int status, int code) {
    if (status != code) {
        kelpie__row_fail(contract, "%s: %s, not %s", what, kelpie_code_name(status),
                         kelpie_code_name(code));
    }
    return status == code;
}

uint32_t kelpie__row_scaled(const struct sim_contract *contract, uint32_t full) {
    uint32_t count = full / (contract->scale > 0 ? contract->scale : 1);
    uint32_t least = full < 3 ? full : 3;
    return count < least ? least : count;
}

void kelpie__row_note(struct sim_contract *contract, int status) {
    if (contract->outcome_count < SIM_CONTRACT_OUTCOME_MAX) {
        contract->outcomes[contract->outcome_count] = (int16_t)status;
        contract->outcome_count += 1;
    }
}

struct kelpie_vm *kelpie__row_make(struct sim_contract *contract) {
    struct kelpie_config *config = NULL;
    struct kelpie_vm *vm = NULL;
    struct kelpie_error error = {0};
    if (contract->has_failed ||
        !kelpie__row_is_ok(contract, "config",
                           kelpie_config_create(contract->kelpie, &config, &error), &error)) {
        return NULL;
    }
    kelpie_config_set_cpus(config, 1);
    kelpie_config_set_memory_mib(config, CONTRACT_MEMORY_MIB);
    kelpie_config_set_boot_timeout_ms(
        config, CONTRACT_BOOT_MS * kelpie__max_u64(1, contract->boot_timeout_factor));
    kelpie_config_set_template(config, contract->has_templates);
    kelpie_config_set_backend(config, contract->backend);
    int status = kelpie_vm_create(contract->kelpie, NULL, config, &vm, &error);
    kelpie_config_destroy(config);
    return kelpie__row_is_ok(contract, "create", status, &error) ? vm : NULL;
}

struct kelpie_vm *kelpie__row_make_running(struct sim_contract *contract) {
    struct kelpie_error error = {0};
    struct kelpie_vm *vm = kelpie__row_make(contract);
    if (vm != NULL &&
        !kelpie__row_is_ok(contract, "start", kelpie_vm_start(vm, 0, &error), &error)) {
        return NULL;
    }
    return vm;
}

void kelpie__row_end(struct sim_contract *contract, struct kelpie_vm *vm) {
    struct kelpie_error error = {0};
    if (vm != NULL) {
        kelpie__ignore(
            kelpie__row_is_ok(contract, "delete", kelpie_vm_delete(vm, true, &error), &error));
        kelpie_vm_close(vm);
    }
}

bool kelpie__row_state_is(struct sim_contract *contract, struct kelpie_vm *vm,
                          enum kelpie_vm_state state) {
    struct kelpie_vm_info info = {.struct_size = sizeof(info)};
    struct kelpie_error error = {0};
    if (!kelpie__row_is_ok(contract, "inspect", kelpie_vm_inspect(vm, &info, &error), &error)) {
        return false;
    }
    if (info.state != state) {
        kelpie__row_fail(contract, "the VM is %s, not %s (%.200s)",
                         kelpie_vm_state_name(info.state), kelpie_vm_state_name(state),
                         info.reason);
    }
    return info.state == state;
}

/* Runs `sh -c script`; with status 0 *out_code is the exit code and `out` holds the output. */
int kelpie__row_sh(struct kelpie_vm *vm, const char *script, uint64_t timeout_ms, int *out_code,
                   char out[256], struct kelpie_error *error) {
    const char *const argv[] = {"sh", "-c", script, NULL};
    const struct kelpie_exec_options options = {
        .struct_size = sizeof(options), .argv = argv, .timeout_ms = timeout_ms};
    struct kelpie_exec_result result = {.struct_size = sizeof(result)};
    int status = kelpie_vm_exec(vm, &options, &result, error);
    if (status == 0) {
        *out_code = result.status.exit_code;
        int length = snprintf(out, 256, "%s", result.stdout_bytes);
        KELPIE_ASSERT(length >= 0);
    }
    kelpie_exec_result_release(&result);
    return status;
}

void kelpie__row_says(struct sim_contract *contract, struct kelpie_vm *vm, const char *script,
                      const char *output) {
    struct kelpie_error error = {0};
    char out[256] = "";
    int code = -1;
    if (contract->has_failed ||
        !kelpie__row_is_ok(contract, script, kelpie__row_sh(vm, script, 0, &code, out, &error),
                           &error)) {
        return;
    }
    if (code != 0 || strcmp(out, output) != 0) {
        kelpie__row_fail(contract, "%s: code %d, \"%s\", not \"%s\"", script, code, out, output);
    }
}
