/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * kelpie_vm_restore: asked of the VM's monitor, which is started for it where none runs.
 */
#include "core/text.h"
#include "lib/internal.h"
#include "os/os_call.h"

/* the monitor's answer may come this long after its own deadlines */
#define RESTORE_MARGIN_MS 30000u

struct restore_call {
    struct kelpie_request request;
    char params[KELPIE_NAME_BYTES_MAX + 96];
};

static int restore_begin(struct kelpie_vm *vm, const char *snapshot, uint64_t timeout_ms,
                         bool may_wait, struct restore_call *call, struct kelpie_error *error) {
    uint64_t chosen_ms = timeout_ms == 0 ? vm->config->boot_timeout_ms : timeout_ms;
    kelpie__vm_check(vm);
    int status = kelpie__config_check_name(snapshot, error);
    chosen_ms = kelpie__min_u64(chosen_ms, KELPIE_BOOT_TIMEOUT_MS_MAX);
    if (status < 0) {
        return status;
    }
    bool fits = kelpie__text_format(call->params, sizeof(call->params),
                                    "{\"snapshot\":\"%s\",\"timeout_ms\":%llu}", snapshot,
                                    (unsigned long long)chosen_ms);
    KELPIE_ASSERT(fits); /* a name has nothing to escape */
    KELPIE_ASSERT(chosen_ms > 0);
    call->request = (struct kelpie_request){
        .method = "vm.restore",
        .params = call->params,
        .timeout_ms = chosen_ms + KELPIE_RESTORE_CHECK_TIMEOUT_MS + RESTORE_MARGIN_MS};
    return may_wait ? kelpie__vm_connect_wait(vm, true, NULL, error)
                    : kelpie__vm_connect(vm, true, NULL, error);
}

static int restore_check(const struct kelpie_vm *vm, const char *snapshot, const char *what,
                         struct kelpie_error *error) {
    if (vm == NULL || snapshot == NULL) {
        return kelpie__fail(error, KELPIE_E_MISUSE, 0, "%s: an argument is NULL", what);
    }
    return kelpie__vm_check_damage(vm, error);
}

int kelpie_vm_restore(struct kelpie_vm *vm, const char *snapshot, uint64_t timeout_ms,
                      struct kelpie_error *error) {
    struct restore_call call = {0};
    int status = restore_check(vm, snapshot, "kelpie_vm_restore", error);
    if (status == 0) {
        status = kelpie__check_may_block(vm->kelpie, "kelpie_vm_restore", error);
    }
    if (status == 0) {
        status = restore_begin(vm, snapshot, timeout_ms, true, &call, error);
    }
    return status < 0 ? status : kelpie__operation_run(vm, &call.request, error);
}

int kelpie_vm_restore_async(struct kelpie_vm *vm, const char *snapshot, uint64_t timeout_ms,
                            kelpie_done_callback callback, void *context,
                            struct kelpie_operation **out, struct kelpie_error *error) {
    struct restore_call call = {0};
    int status = restore_check(vm, snapshot, "kelpie_vm_restore_async", error);
    if (status == 0) {
        status = restore_begin(vm, snapshot, timeout_ms, false, &call, error);
    }
    return status < 0 ? status
                      : kelpie__operation_start(vm, &call.request, callback, context, out, error);
}
