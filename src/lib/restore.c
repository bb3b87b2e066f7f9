/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * kelpie_vm_restore: asked of the VM's monitor, which is started for it where none runs.
 */
#include "core/text.h"
#include "lib/internal.h"
#include "os/os_call.h"

/* the monitor's answer may come this long after its own deadlines */
#define RESTORE_MARGIN_MS 30000u

static int restore(struct kelpie_vm *vm, const char *snapshot, uint64_t timeout_ms,
                   const struct kelpie_call_form *form, struct kelpie_error *error) {
    char params[KELPIE_NAME_BYTES_MAX + 96];
    if (vm == NULL || snapshot == NULL) {
        return kelpie__fail(error, KELPIE_E_MISUSE, 0, "%s: an argument is NULL", form->function);
    }
    int status = kelpie__vm_check_damage(vm, error);
    if (status == 0) {
        status = kelpie__call_check(vm, form, error);
    }
    if (status == 0) {
        status = kelpie__config_check_name(snapshot, error);
    }
    if (status < 0) {
        return status;
    }
    uint64_t chosen_ms = timeout_ms == 0 ? vm->config->boot_timeout_ms : timeout_ms;
    chosen_ms = kelpie__min_u64(chosen_ms, KELPIE_BOOT_TIMEOUT_MS_MAX);
    bool fits =
        kelpie__text_format(params, sizeof(params), "{\"snapshot\":\"%s\",\"timeout_ms\":%llu}",
                            snapshot, (unsigned long long)chosen_ms);
    KELPIE_ASSERT(fits); /* a name has nothing to escape */
    KELPIE_ASSERT(chosen_ms > 0);
    const struct kelpie_request request = {
        .method = "vm.restore",
        .params = params,
        .timeout_ms = chosen_ms + KELPIE_RESTORE_CHECK_TIMEOUT_MS + RESTORE_MARGIN_MS};
    status = kelpie__call_connect(vm, form, true, NULL, error);
    return status < 0 ? status : kelpie__call_send(vm, form, &request, error);
}

int kelpie_vm_restore(struct kelpie_vm *vm, const char *snapshot, uint64_t timeout_ms,
                      struct kelpie_error *error) {
    const struct kelpie_call_form form = kelpie__form_blocking("kelpie_vm_restore");
    return restore(vm, snapshot, timeout_ms, &form, error);
}

int kelpie_vm_restore_async(struct kelpie_vm *vm, const char *snapshot, uint64_t timeout_ms,
                            kelpie_done_callback callback, void *context,
                            struct kelpie_operation **out, struct kelpie_error *error) {
    const struct kelpie_call_form form =
        kelpie__form_async("kelpie_vm_restore_async", callback, context, out);
    return restore(vm, snapshot, timeout_ms, &form, error);
}
