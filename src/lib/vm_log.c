/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * What a VM tells: its events as they come, and its logs, which are files.
 */
#include "core/text.h"
#include "lib/internal.h"
#include "os/os_call.h"
#include "wire/wire.h"

#define LOG_CHUNK_BYTES 65536u

/* ---- events ---------------------------------------------------------------------------------- */

static void subscribe_answer(void *context, const struct kelpie_error *error, const char *result,
                             size_t length) {
    struct kelpie_vm *vm = context;
    kelpie__vm_check(vm);
    kelpie__ignore(result != NULL && length > 0); /* it says nothing */
    if (error != NULL && vm->wire != NULL && !kelpie__wire_is_closed(vm->wire)) {
        kelpie__log(vm->kelpie, KELPIE_LOG_WARNING, error->message);
    }
}

int kelpie__vm_ask_events(struct kelpie_vm *vm, struct kelpie_error *error) {
    KELPIE_ASSERT(vm->wire != NULL);
    KELPIE_ASSERT(vm->damage.code == 0);
    KELPIE_ASSERT(vm->event_callback != NULL);
    int status = kelpie__wire_call(vm->wire, "vm.subscribe", "{}", KELPIE_CALL_TIMEOUT_MS,
                                   subscribe_answer, vm, NULL, error);
    if (status == 0) {
        kelpie__wire_flush(vm->wire);
    }
    return status;
}

int kelpie_vm_subscribe(struct kelpie_vm *vm, kelpie_event_callback callback, void *context,
                        struct kelpie_error *error) {
    struct kelpie_error kept = {0};
    if (vm == NULL) {
        return kelpie__fail(error, KELPIE_E_MISUSE, 0, "kelpie_vm_subscribe: vm is NULL");
    }
    kelpie__vm_check(vm);
    kelpie_event_callback old_callback = vm->event_callback;
    void *old_context = vm->event_context;
    vm->event_callback = callback;
    vm->event_context = context;
    bool is_new = callback != NULL && old_callback == NULL;
    if (!is_new) {
        return 0;
    }
    int status = vm->wire != NULL && !kelpie__wire_is_closed(vm->wire)
                     ? kelpie__vm_ask_events(vm, &kept)
                     : kelpie__vm_connect(vm, false, NULL, &kept); /* which asks */
    if (status == KELPIE_E_STATE || status == KELPIE_E_BUSY) {
        status = 0; /* nothing runs that could tell: the next connection asks */
    }
    if (status < 0) {
        vm->event_callback = old_callback;
        vm->event_context = old_context;
        if (error != NULL) {
            *error = kept;
        }
    }
    return status;
}

/* ---- logs ------------------------------------------------------------------------------------ */

static int read_log_file(struct kelpie_vm *vm, const char *name, uint8_t *buffer,
                         kelpie_bytes_callback callback, void *context,
                         struct kelpie_error *error) {
    struct kelpie_os *os = vm->kelpie->os;
    KELPIE_ASSERT(callback != NULL);
    int file = kelpie__os_open(os, vm->directory.vm, name, KELPIE_OS_OPEN_READ, 0);
    if (file < 0) {
        return 0; /* not written yet */
    }
    int64_t count = 1;
    /* A log is bounded; the budget is for one that is written while it is read. */
    for (uint64_t offset = 0; count > 0 && offset < 4u * KELPIE_CONSOLE_LOG_BYTES;
         offset += (uint64_t)count) {
        count = kelpie__os_pread(os, file, buffer, LOG_CHUNK_BYTES, offset);
        if (count > 0) {
            kelpie__callback_enter(vm->kelpie);
            callback(context, buffer, (size_t)count);
            kelpie__callback_leave(vm->kelpie);
        }
    }
    kelpie__ignore(kelpie__os_close(os, file));
    return count < 0 ? kelpie__fail(error, KELPIE_E_IO, (int)-count, "read %s of VM \"%s\"", name,
                                    vm->directory.name)
                     : 0;
}

int kelpie_vm_read_log(struct kelpie_vm *vm, enum kelpie_log_kind kind,
                       kelpie_bytes_callback callback, void *context, struct kelpie_error *error) {
    static const char *const files[][2] = {
        [KELPIE_LOG_CONSOLE] = {"console.log.1", "console.log"},
        [KELPIE_LOG_EVENTS] = {KELPIE_VM_EVENTS_FILE ".1", KELPIE_VM_EVENTS_FILE},
    };
    if (vm == NULL || callback == NULL || (size_t)kind >= KELPIE_ARRAY_COUNT(files)) {
        return kelpie__fail(error, KELPIE_E_MISUSE, 0,
                            "kelpie_vm_read_log: an argument is not valid");
    }
    uint8_t *buffer = kelpie__alloc_raw(vm->kelpie->os, LOG_CHUNK_BYTES);
    if (buffer == NULL) {
        return kelpie__fail(error, KELPIE_E_MEMORY, 0, "no memory to read a log");
    }
    int status = read_log_file(vm, files[kind][0], buffer, callback, context, error);
    if (status == 0) {
        status = read_log_file(vm, files[kind][1], buffer, callback, context, error);
    }
    kelpie__free(vm->kelpie->os, buffer, LOG_CHUNK_BYTES);
    return status;
}
