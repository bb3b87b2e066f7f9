/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Requests to a monitor as operations of the API: one callback each, a cancel, and the blocking
 * form.
 */
#include "lib/internal.h"
#include "os/os_call.h"
#include "os/os_mark.h"
#include "wire/wire.h"

/* It waits for an answer, for the loop's next step, or for a function of its own. */
static void operation_check(const struct kelpie_operation *operation) {
    KELPIE_ASSERT(operation->callback != NULL);
    KELPIE_ASSERT(operation->vm->kelpie != NULL);
    if (operation->request != 0) {
        KELPIE_ASSERT(!kelpie__timer_is_armed(&operation->timer));
        KELPIE_ASSERT(operation->cancel == NULL);
    }
}

void kelpie__request_check(const struct kelpie_request *request) {
    KELPIE_ASSERT(request->method != NULL);
    KELPIE_ASSERT(request->method[0] != '\0');
    KELPIE_ASSERT(request->timeout_ms > 0);
    KELPIE_ASSERT(request->params != NULL);
    KELPIE_ASSERT(request->params[0] == '{');
    if (request->result_count != NULL) {
        KELPIE_ASSERT(request->result != NULL);
    }
}

static void operation_unlink(struct kelpie_operation *operation) {
    struct kelpie_operation **place = &operation->vm->operations;
    while (*place != operation) { /* bound: the list has it */
        KELPIE_ASSERT(*place != NULL);
        place = &(*place)->next;
    }
    *place = operation->next;
}

/* Its callback may do anything, even close the VM: nothing of it is used afterwards. */
static void operation_end(struct kelpie_operation *operation, const struct kelpie_error *error) {
    struct kelpie *kelpie = operation->vm->kelpie;
    kelpie_done_callback callback = operation->callback;
    void *context = operation->context;
    operation_check(operation);
    KELPIE_ASSERT(!kelpie__timer_is_armed(&operation->timer));
    operation_unlink(operation);
    kelpie__free(kelpie->os, operation, sizeof(*operation));
    kelpie__callback_enter(kelpie);
    callback(context, error);
    kelpie__callback_leave(kelpie);
}

static void operation_answer(void *context, const struct kelpie_error *error, const char *result,
                             size_t length) {
    struct kelpie_operation *operation = context;
    struct kelpie_vm *vm = operation->vm;
    struct kelpie_error lost;
    operation_check(operation);
    KELPIE_ASSERT(vm->wire != NULL);
    KELPIE_ASSERT(operation->request != 0);
    if (error == NULL && operation->read != NULL && operation->result != NULL) {
        operation->read(operation, result, length);
    }
    if (error != NULL && error->code == KELPIE_E_IO && kelpie__wire_is_closed(vm->wire)) {
        KELPIE_REACHED(vm->kelpie->os, "a monitor died over a request");
        kelpie__vm_explain_loss(vm, &lost);
        KELPIE_ASSERT(lost.code < 0);
        error = &lost;
    }
    operation_end(operation, error);
}

static void operation_answered_before(void *context) {
    operation_end(context, NULL);
}

int kelpie__operation_start(struct kelpie_vm *vm, const struct kelpie_request *request,
                            kelpie_done_callback callback, void *context,
                            struct kelpie_operation **out, struct kelpie_error *error) {
    KELPIE_ASSERT(vm->wire != NULL || request->is_answered);
    kelpie__vm_check(vm);
    kelpie__request_check(request);
    if (callback == NULL) {
        return kelpie__fail(error, KELPIE_E_MISUSE, 0, "%s: callback is NULL", request->method);
    }
    struct kelpie_operation *operation = kelpie__alloc(vm->kelpie->os, sizeof(*operation));
    if (operation == NULL) {
        return kelpie__fail(error, KELPIE_E_MEMORY, 0, "no memory for a request");
    }
    *operation = (struct kelpie_operation){.vm = vm,
                                           .next = vm->operations,
                                           .read = request->read,
                                           .result = request->result,
                                           .result_bytes = request->result_bytes,
                                           .result_count = request->result_count,
                                           .callback = callback,
                                           .context = context};
    vm->kelpie->loop->now_ns = kelpie__os_now(vm->kelpie->os, KELPIE_OS_CLOCK_MONOTONIC);
    if (request->is_answered) {
        kelpie__timer_arm(vm->kelpie->loop, &operation->timer, vm->kelpie->loop->now_ns,
                          operation_answered_before, operation);
    } else {
        int status =
            kelpie__wire_call(vm->wire, request->method, request->params, request->timeout_ms,
                              operation_answer, operation, &operation->request, error);
        if (status < 0) {
            kelpie__free(vm->kelpie->os, operation, sizeof(*operation));
            return status;
        }
        kelpie__wire_flush(vm->wire);
        KELPIE_ASSERT(operation->request != 0);
    }
    KELPIE_ASSERT(operation->next == vm->operations);
    vm->operations = operation;
    if (out != NULL) {
        *out = operation;
    }
    return 0;
}

void kelpie_operation_cancel(struct kelpie_operation *operation) {
    if (operation != NULL && operation->cancel != NULL) {
        operation->cancel(operation);
        return;
    }
    if (operation == NULL || operation->vm->wire == NULL || operation->request == 0) {
        return; /* there is nothing to end early */
    }
    kelpie__wire_cancel(operation->vm->wire, operation->request);
    kelpie__wire_flush(operation->vm->wire);
}

static void operation_drop(struct kelpie_operation *operation) {
    operation_check(operation);
    kelpie__timer_disarm(operation->vm->kelpie->loop, &operation->timer);
    if (operation->vm->wire != NULL && operation->request != 0) {
        kelpie__wire_forget(operation->vm->wire, operation->request);
    }
    operation_unlink(operation);
    kelpie__free(operation->vm->kelpie->os, operation, sizeof(*operation));
}

void kelpie__operations_drop(struct kelpie_vm *vm) {
    while (vm->operations != NULL) { /* bound: the list */
        operation_drop(vm->operations);
    }
}

int kelpie__operation_run(struct kelpie_vm *vm, const struct kelpie_request *request,
                          struct kelpie_error *error) {
    struct kelpie_waiter waiter = {0};
    struct kelpie_operation *operation = NULL;
    KELPIE_ASSERT(vm->kelpie->callback_depth == 0);
    kelpie__request_check(request);
    if (request->is_answered) {
        return 0;
    }
    int status =
        kelpie__operation_start(vm, request, kelpie__waiter_done, &waiter, &operation, error);
    if (status < 0) {
        return status;
    }
    status = kelpie__waiter_wait(vm->kelpie, &waiter, error);
    if (!waiter.is_done) { /* the loop itself failed */
        operation_drop(operation);
    }
    return status;
}

/* ---- a function of the API in either form ---------------------------------------------------- */

struct kelpie_call_form kelpie__form_blocking(const char *function) {
    KELPIE_ASSERT(function != NULL);
    return (struct kelpie_call_form){.function = function, .is_blocking = true};
}

struct kelpie_call_form kelpie__form_async(const char *function, kelpie_done_callback callback,
                                           void *context, struct kelpie_operation **out) {
    KELPIE_ASSERT(function != NULL);
    return (struct kelpie_call_form){
        .function = function, .callback = callback, .context = context, .out = out};
}

int kelpie__call_check(const struct kelpie_vm *vm, const struct kelpie_call_form *form,
                       struct kelpie_error *error) {
    KELPIE_ASSERT(!form->is_blocking || form->callback == NULL);
    if (vm == NULL) {
        return kelpie__fail(error, KELPIE_E_MISUSE, 0, "%s: vm is NULL", form->function);
    }
    kelpie__vm_check(vm);
    return form->is_blocking ? kelpie__check_may_block(vm->kelpie, form->function, error)
                             : kelpie__check_process(vm->kelpie, form->function, error);
}

int kelpie__call_connect(struct kelpie_vm *vm, const struct kelpie_call_form *form, bool may_start,
                         struct kelpie_vm_record *out_record, struct kelpie_error *error) {
    KELPIE_ASSERT(!form->is_blocking || vm->kelpie->callback_depth == 0);
    return form->is_blocking ? kelpie__vm_connect_wait(vm, may_start, out_record, error)
                             : kelpie__vm_connect(vm, may_start, out_record, error);
}

int kelpie__call_connect_live(struct kelpie_vm *vm, const struct kelpie_call_form *form,
                              enum kelpie_vm_verb verb, struct kelpie_error *error) {
    struct kelpie_vm_record record = {0};
    struct kelpie_error kept = {0};
    int status = kelpie__call_connect(vm, form, false, &record, &kept);
    if (status == KELPIE_E_STATE) {
        KELPIE_ASSERT(!kelpie__state_is_live(record.state));
        status = kelpie__state_allow(record.state, verb, vm->directory.name, error);
        KELPIE_ASSERT(status < 0);
    } else if (status < 0 && error != NULL) {
        *error = kept;
    }
    return status;
}

int kelpie__call_send(struct kelpie_vm *vm, const struct kelpie_call_form *form,
                      const struct kelpie_request *request, struct kelpie_error *error) {
    KELPIE_ASSERT(vm->wire != NULL || request->is_answered);
    return form->is_blocking ? kelpie__operation_run(vm, request, error)
                             : kelpie__operation_start(vm, request, form->callback, form->context,
                                                       form->out, error);
}
