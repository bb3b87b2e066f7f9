/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Forks that wait: VMs with a VMM that was started in advance, over what the source's memory lies
 * over. They are owned by the handle of the source, which has a list of them; kelpie_vm_fork takes
 * from it. Whatever becomes of one, a fork can do without.
 */
#include <string.h>

#include "core/text.h"
#include "lib/fork.h"
#include "os/os_call.h"
#include "os/os_mark.h"
#include "wire/wire.h"

#define FORK_WAIT_TIMEOUT_MS 20000u
/* beyond the boot's own time: checks, and the copy of layers */
#define FORK_START_MARGIN_MS 120000u

/* ---- the source's list ----------------------------------------------------------------------- */

void kelpie__vm_stop_waiting(struct kelpie_vm *vm) {
    struct kelpie_vm *source = vm->waits_for;
    if (source == NULL) {
        return;
    }
    struct kelpie_vm **place = &source->waiting;
    while (*place != vm) { /* bound: the list has it */
        KELPIE_ASSERT(*place != NULL);
        place = &(*place)->next_waiting;
    }
    KELPIE_ASSERT(source->kelpie == vm->kelpie);
    KELPIE_ASSERT(source != vm);
    *place = vm->next_waiting;
    vm->next_waiting = NULL;
    vm->waits_for = NULL;
    KELPIE_ASSERT(source->waiting_count > 0);
    source->waiting_count -= 1;
}

void kelpie__vm_release_waiting(struct kelpie_vm *source) {
    while (source->waiting != NULL) { /* bound: the list */
        kelpie__vm_release(source->waiting);
    }
    KELPIE_ASSERT(source->waiting_count == 0);
}

struct kelpie_vm *kelpie__fork_take_waiting(struct kelpie_vm *source) {
    struct kelpie_vm *vm = source->waiting;
    while (vm != NULL && (vm->wire == NULL || kelpie__wire_is_closed(vm->wire))) {
        KELPIE_REACHED(source->kelpie->os, "a fork that waited had died");
        kelpie__vm_release(vm); /* and off the list */
        vm = source->waiting;
    }
    if (vm != NULL) {
        KELPIE_ASSERT(vm->waits_for == source);
        kelpie__vm_stop_waiting(vm);
    }
    KELPIE_ASSERT(vm == NULL || vm->waits_for == NULL);
    return vm;
}

void kelpie__fork_keep_waiting(struct kelpie_fork *fork) {
    struct kelpie_vm *source = fork->source;
    KELPIE_ASSERT(fork->is_waiting);
    KELPIE_ASSERT(source != NULL);
    for (size_t i = 0; i < fork->count; i += 1) {
        struct kelpie_vm *vm = fork->children[i].vm;
        KELPIE_ASSERT(vm != NULL);
        KELPIE_ASSERT(vm->waits_for == NULL);
        vm->waits_for = source;
        vm->next_waiting = source->waiting;
        source->waiting = vm;
        source->waiting_count += 1;
        fork->children[i].vm = NULL;
    }
    KELPIE_ASSERT(source->waiting_count <= KELPIE_FORK_COUNT_MAX);
}

/* ---- the base -------------------------------------------------------------------------------- */

static void base_read(struct kelpie_operation *operation, const char *answer, size_t length) {
    char *base = operation->result;
    KELPIE_ASSERT(base != NULL);
    bool fits = length < KELPIE_FORK_BASE_BYTES_MAX;
    memcpy(base, answer, fits ? length : 0);
    base[fits ? length : 0] = '\0'; /* "": nobody could do anything with it */
}

/* Both answers are the same: between them the source was not started anew, so that the process that
 * its forks watch is its VMM. */
static void base_answered(void *context, const struct kelpie_error *error) {
    struct kelpie_fork *fork = context;
    struct kelpie_error changed = {0};
    bool is_first = fork->base_before[0] == '\0';
    KELPIE_ASSERT(fork->is_waiting && !fork->is_confirmed && fork->pending == 0);
    KELPIE_ASSERT(is_first == (fork->made_count == 0));
    fork->taking = NULL;
    if (error == NULL && fork->base[0] == '\0') {
        kelpie__ignore(kelpie__fail(&changed, KELPIE_E_LIMIT, 0, "the path of its base is long"));
        error = &changed;
    } else if (error == NULL && !is_first && strcmp(fork->base, fork->base_before) != 0) {
        kelpie__ignore(kelpie__fail(&changed, KELPIE_E_STATE, 0,
                                    "VM \"%s\" was started anew meanwhile",
                                    fork->source->directory.name));
        error = &changed;
    }
    if (error != NULL) {
        kelpie__fork_fail(fork, error);
        kelpie__fork_started_all(fork);
    } else if (is_first) {
        memcpy(fork->base_before, fork->base, KELPIE_FORK_BASE_BYTES_MAX);
        kelpie__fork_plan(fork);
    } else {
        fork->is_confirmed = true;
        kelpie__fork_started_all(fork);
    }
}

int kelpie__fork_ask_base(struct kelpie_fork *fork, struct kelpie_error *error) {
    struct kelpie_os *os = fork->kelpie->os;
    const struct kelpie_request request = {.method = "vm.base",
                                           .params = "{}",
                                           .timeout_ms = KELPIE_CALL_TIMEOUT_MS,
                                           .read = base_read};
    struct kelpie_request ours = request;
    if (fork->base == NULL) {
        fork->base = kelpie__alloc(os, KELPIE_FORK_BASE_BYTES_MAX);
        fork->base_before = kelpie__alloc(os, KELPIE_FORK_BASE_BYTES_MAX);
    }
    if (fork->base == NULL || fork->base_before == NULL) {
        return kelpie__fail(error, KELPIE_E_MEMORY, 0, "no memory for a fork");
    }
    KELPIE_ASSERT(fork->is_waiting);
    KELPIE_ASSERT(fork->taking == NULL);
    ours.result = fork->base;
    int status = kelpie__vm_connect(fork->source, false, NULL, error);
    return status < 0 ? status
                      : kelpie__operation_start(fork->source, &ours, base_answered, fork,
                                                &fork->taking, error);
}

/* ---- one of them ----------------------------------------------------------------------------- */

int kelpie__fork_wait(struct kelpie_fork_child *child, kelpie_done_callback callback,
                      struct kelpie_error *error) {
    const struct kelpie_request request = {.method = "vm.wait",
                                           .params = child->fork->base_before,
                                           .timeout_ms = FORK_WAIT_TIMEOUT_MS};
    KELPIE_ASSERT(child->fork->is_waiting);
    KELPIE_ASSERT(request.params[0] == '{');
    return kelpie__operation_start(child->vm, &request, callback, child, &child->operation, error);
}

int kelpie__fork_start_waiting(struct kelpie_fork_child *child, kelpie_done_callback callback,
                               struct kelpie_error *error) {
    uint64_t boot_ms = child->vm->config->boot_timeout_ms;
    char params[KELPIE_NAME_BYTES_MAX + 96];
    bool fits = kelpie__text_format(params, sizeof(params),
                                    "{\"snapshot\":\"%s\",\"transient\":true,\"timeout_ms\":%llu}",
                                    child->fork->taken.name, (unsigned long long)boot_ms);
    KELPIE_ASSERT(fits);
    KELPIE_ASSERT(child->has_waited);
    const struct kelpie_request request = {
        .method = "vm.restore", .params = params, .timeout_ms = boot_ms + FORK_START_MARGIN_MS};
    return kelpie__operation_start(child->vm, &request, callback, child, &child->operation, error);
}
