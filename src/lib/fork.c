/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Several VMs from one: a snapshot that nobody misses afterwards, VMs made from it, all started at
 * once. The snapshot is held until they live; it is removed here, or, when one of them needs it
 * longer, by the last of them. All steps happen in the loop; the blocking calls wait for the end.
 */
#include <string.h>

#include "core/text.h"
#include "lib/fork.h"
#include "os/os_call.h"
#include "os/os_mark.h"

#define FORK_BUSY_NS (5 * KELPIE_NS_PER_MS) /* somebody holds a lock for a moment */

static void fork_state_check(const struct kelpie_fork *fork) {
    KELPIE_ASSERT(fork->count > 0 && fork->count <= KELPIE_FORK_COUNT_MAX);
    KELPIE_ASSERT(fork->made_count <= fork->count);
    KELPIE_ASSERT(fork->started_count <= fork->made_count);
    KELPIE_ASSERT(fork->pending <= fork->count);
    KELPIE_ASSERT((fork->out == NULL) == fork->is_waiting);
    KELPIE_ASSERT(fork->status == fork->error.code);
    if (fork->is_held) { /* what was taken of it */
        KELPIE_ASSERT(fork->source != NULL);
    }
}

void kelpie__fork_fail(struct kelpie_fork *fork, const struct kelpie_error *error) {
    KELPIE_ASSERT(error->code < 0);
    if (fork->status == 0) {
        fork->status = error->code;
        fork->error = *error;
    }
    KELPIE_ASSERT(fork->status == fork->error.code);
}

/* ---- its end --------------------------------------------------------------------------------- */

static void fork_let_go(struct kelpie_fork *fork) {
    if (!fork->is_held) {
        return;
    }
    KELPIE_ASSERT(fork->taken.name[0] != '\0');
    fork->is_held = false;
    kelpie__snapshot_close(&fork->held);
    /* BUSY: one of the VMs needs it while it lives, and the last of these removes it. */
    kelpie__ignore(kelpie__snapshot_remove(&fork->store, fork->taken.name, NULL));
    kelpie__snapshot_store_close(&fork->store);
}

/* With all that it still has. */
static void fork_destroy(struct kelpie_fork *fork) {
    struct kelpie *kelpie = fork->kelpie;
    struct kelpie_fork **place = &kelpie->forks;
    while (*place != fork) { /* bound: the list has it */
        KELPIE_ASSERT(*place != NULL);
        place = &(*place)->next;
    }
    *place = fork->next;
    kelpie__timer_disarm(kelpie->loop, &fork->timer);
    for (size_t i = 0; i < fork->count; i += 1) {
        kelpie__vm_release(fork->children[i].vm);
    }
    fork_let_go(fork);
    kelpie_config_destroy(fork->config);
    kelpie__free(kelpie->os, fork->base, KELPIE_FORK_BASE_BYTES_MAX);
    kelpie__free(kelpie->os, fork->base_before, KELPIE_FORK_BASE_BYTES_MAX);
    kelpie__free(kelpie->os, fork->children, fork->count * sizeof(*fork->children));
    kelpie__free(kelpie->os, fork, sizeof(*fork));
}

static void fork_finish(struct kelpie_fork *fork) {
    struct kelpie *kelpie = fork->kelpie;
    kelpie_done_callback callback = fork->callback;
    void *context = fork->context;
    struct kelpie_error error = fork->error;
    bool is_good = fork->status == 0;
    fork_state_check(fork);
    KELPIE_ASSERT(fork->pending == 0);
    KELPIE_ASSERT(fork->taking == NULL);
    if (is_good && fork->is_waiting) {
        kelpie__fork_keep_waiting(fork);
    }
    for (size_t i = 0; i < fork->count && is_good && !fork->is_waiting; i += 1) {
        KELPIE_ASSERT(fork->children[i].vm != NULL);
        fork->out[i] = fork->children[i].vm;
        fork->children[i].vm = NULL;
    }
    fork_destroy(fork);
    kelpie__callback_enter(kelpie);
    callback(context, is_good ? NULL : &error);
    kelpie__callback_leave(kelpie);
}

/* ---- what was made goes again ---------------------------------------------------------------- */

static void fork_delete_all(void *context);

/* In a moment, unless it is too late. */
static bool fork_delete_later(struct kelpie_fork *fork) {
    struct kelpie_loop *loop = fork->kelpie->loop;
    if (!kelpie__timer_is_armed(&fork->timer) && loop->now_ns < fork->delete_deadline_ns) {
        kelpie__timer_arm(loop, &fork->timer, loop->now_ns + FORK_BUSY_NS, fork_delete_all, fork);
    }
    return kelpie__timer_is_armed(&fork->timer);
}

static void fork_deleted(void *context, const struct kelpie_error *error) {
    struct kelpie_fork_child *child = context;
    struct kelpie_fork *fork = child->fork;
    fork_state_check(fork);
    KELPIE_ASSERT(fork->pending > 0);
    KELPIE_ASSERT(child->is_deleting);
    fork->pending -= 1;
    child->is_deleting = false;
    child->is_gone = error == NULL || error->code == KELPIE_E_NOT_FOUND;
    bool goes_on = !child->is_gone && fork_delete_later(fork);
    if (fork->pending == 0 && !goes_on && !kelpie__timer_is_armed(&fork->timer)) {
        fork_finish(fork);
    }
}

/* Tried again while somebody holds a VM, as a monitor that is dying does. The first error of the
 * fork counts, and what cannot be deleted is closed: an owned VM goes with that. */
static void fork_delete_all(void *context) {
    struct kelpie_fork *fork = context;
    bool is_done = true;
    fork_state_check(fork);
    KELPIE_ASSERT(fork->status < 0);
    for (size_t i = 0; i < fork->count; i += 1) {
        struct kelpie_fork_child *child = &fork->children[i];
        if (child->vm == NULL || child->is_gone || child->is_deleting) {
            continue;
        }
        int status = kelpie_vm_delete_async(child->vm, true, fork_deleted, child, NULL, NULL);
        fork->pending += status == 0 ? 1 : 0;
        child->is_deleting = status == 0;
        child->is_gone = status == KELPIE_E_NOT_FOUND;
        is_done = is_done && (child->is_gone || child->is_deleting);
    }
    bool goes_on = !is_done && fork_delete_later(fork);
    if (fork->pending == 0 && !goes_on) {
        fork_finish(fork);
    }
}

/* Those that wait are kept when the source is still what it was. */
static bool fork_is_confirming(struct kelpie_fork *fork) {
    struct kelpie_error error = {0};
    if (!fork->is_waiting || fork->is_confirmed || fork->status < 0) {
        return false;
    }
    if (kelpie__fork_ask_base(fork, &error) < 0) {
        kelpie__fork_fail(fork, &error);
        return false;
    }
    return true;
}

void kelpie__fork_started_all(struct kelpie_fork *fork) {
    KELPIE_ASSERT(fork->pending == 0);
    KELPIE_ASSERT(!kelpie__timer_is_armed(&fork->timer));
    KELPIE_ASSERT(fork->taking == NULL);
    KELPIE_ASSERT(fork->started_count <= fork->made_count);
    if (fork_is_confirming(fork)) {
        return;
    }
    if (fork->status == 0) {
        fork_finish(fork);
        return;
    }
    fork->delete_deadline_ns = kelpie__loop_deadline(fork->kelpie->loop, KELPIE_CALL_TIMEOUT_MS);
    fork_delete_all(fork);
}

/* ---- its steps ------------------------------------------------------------------------------- */

static void fork_started(void *context, const struct kelpie_error *error) {
    struct kelpie_fork_child *child = context;
    struct kelpie_fork *fork = child->fork;
    fork_state_check(fork);
    KELPIE_ASSERT(fork->pending > 0);
    child->operation = NULL;
    fork->pending -= 1;
    if (error != NULL) {
        kelpie__fork_fail(fork, error);
    }
    bool is_last = fork->started_count == fork->count || fork->status < 0;
    if (fork->pending == 0 && is_last && !kelpie__timer_is_armed(&fork->timer)) {
        kelpie__fork_started_all(fork);
    }
}

static int fork_make_one(struct kelpie_fork *fork, struct kelpie_error *error) {
    struct kelpie_fork_child *child = &fork->children[fork->made_count];
    KELPIE_ASSERT(child->vm == NULL);
    KELPIE_ASSERT(fork->made_count < fork->count);
    if (fork->may_take_waiting && child->name[0] == '\0') {
        child->vm = kelpie__fork_take_waiting(fork->source);
        child->has_waited = child->vm != NULL;
    }
    if (child->has_waited) {
        fork->made_count += 1;
        return 0;
    }
    int status = kelpie__vm_create_now(fork->kelpie, child->name[0] == '\0' ? NULL : child->name,
                                       fork->config, &child->vm, error);
    fork->made_count += status == 0 ? 1 : 0;
    return status;
}

static int fork_start_one(struct kelpie_fork *fork, struct kelpie_error *error) {
    struct kelpie_fork_child *child = &fork->children[fork->started_count];
    KELPIE_ASSERT(fork->made_count == fork->count);
    KELPIE_ASSERT(fork->started_count < fork->count);
    KELPIE_ASSERT(child->vm != NULL);
    KELPIE_ASSERT(child->operation == NULL);
    int status = fork->is_waiting    ? kelpie__fork_wait(child, fork_started, error)
                 : child->has_waited ? kelpie__fork_start_waiting(child, fork_started, error)
                                     : kelpie_vm_start_async(child->vm, 0, fork_started, child,
                                                             &child->operation, error);
    fork->started_count += status == 0 ? 1 : 0;
    fork->pending += status == 0 ? 1 : 0;
    return status;
}

static int fork_hold(struct kelpie_fork *fork, struct kelpie_error *error) {
    struct kelpie *kelpie = fork->kelpie;
    if (fork->source == NULL || fork->is_held || fork->is_waiting) {
        return 0;
    }
    int status = kelpie__snapshot_store_open(&fork->store, kelpie->os, kelpie->places.state_path,
                                             KELPIE_SNAPSHOTS_DIRECTORY, error);
    if (status < 0) {
        return status;
    }
    status = kelpie__snapshot_open(&fork->held, &fork->store, fork->taken.name, error);
    if (status < 0) {
        kelpie__snapshot_store_close(&fork->store);
        return status;
    }
    fork->is_held = true;
    return 0;
}

/* All are made, then all are started; a lock that somebody holds for a moment is waited for. */
static void fork_go_on(void *context) {
    struct kelpie_fork *fork = context;
    struct kelpie_loop *loop = fork->kelpie->loop;
    struct kelpie_error error = {0};
    int status = fork->status;
    fork_state_check(fork);
    if (status == 0) {
        status = fork_hold(fork, &error);
    }
    while (status == 0 && fork->started_count < fork->count) { /* bound: each twice */
        status = fork->made_count < fork->count ? fork_make_one(fork, &error)
                                                : fork_start_one(fork, &error);
    }
    if (status == KELPIE_E_BUSY && loop->now_ns < fork->busy_deadline_ns) {
        kelpie__timer_arm(loop, &fork->timer, loop->now_ns + FORK_BUSY_NS, fork_go_on, fork);
        return;
    }
    if (status < 0 && fork->status == 0) {
        kelpie__fork_fail(fork, &error);
    }
    if (fork->pending == 0) {
        kelpie__fork_started_all(fork);
    }
}

void kelpie__fork_plan(struct kelpie_fork *fork) {
    struct kelpie_loop *loop = fork->kelpie->loop;
    KELPIE_ASSERT(!kelpie__timer_is_armed(&fork->timer));
    loop->now_ns = kelpie__os_now(fork->kelpie->os, KELPIE_OS_CLOCK_MONOTONIC);
    fork->busy_deadline_ns = kelpie__loop_deadline(loop, KELPIE_CALL_TIMEOUT_MS);
    kelpie__timer_arm(loop, &fork->timer, loop->now_ns, fork_go_on, fork);
}

static void fork_taken(void *context, const struct kelpie_error *error) {
    struct kelpie_fork *fork = context;
    fork_state_check(fork);
    fork->taking = NULL;
    KELPIE_ASSERT(fork->made_count == 0);
    if (error != NULL) {
        kelpie__fork_fail(fork, error);
        fork_finish(fork);
        return;
    }
    kelpie_config_set_snapshot(fork->config, fork->taken.name);
    fork->config->values.is_snapshot_transient = true;
    kelpie__fork_plan(fork);
}

static int fork_take(struct kelpie_fork *fork, struct kelpie_error *error) {
    uint8_t bytes[KELPIE_FORK_NAME_BYTES];
    char digits[2 * KELPIE_FORK_NAME_BYTES + 1];
    char name[32];
    int status = kelpie__os_random(fork->kelpie->os, bytes, sizeof(bytes));
    if (status < 0) {
        return kelpie__fail(error, KELPIE_E_IO, -status, "draw the name of a snapshot");
    }
    kelpie__text_hex(digits, sizeof(digits), bytes, sizeof(bytes));
    bool fits = kelpie__text_format(name, sizeof(name), KELPIE_FORK_PREFIX "%s", digits);
    KELPIE_ASSERT(fits);
    const struct kelpie_snapshot_options options = {.struct_size = sizeof(options),
                                                    .name = name,
                                                    .label = KELPIE_FORK_LABEL,
                                                    .is_unsynced = true};
    fork->taken = (struct kelpie_snapshot_result){.struct_size = sizeof(fork->taken)};
    return kelpie_vm_snapshot_async(fork->source, &options, &fork->taken, fork_taken, fork,
                                    &fork->taking, error);
}

static void fork_cancel(struct kelpie_operation *operation) {
    struct kelpie_fork *fork = KELPIE_CONTAINER_OF(operation, struct kelpie_fork, operation);
    struct kelpie_error error = {0};
    fork_state_check(fork);
    KELPIE_ASSERT(fork->kelpie != NULL);
    if (fork->taking != NULL) {
        kelpie_operation_cancel(fork->taking);
        return;
    }
    if (kelpie__timer_is_armed(&fork->timer)) { /* between two steps */
        kelpie__ignore(kelpie__fail(&error, KELPIE_E_CANCELLED, 0, "the fork was cancelled"));
        kelpie__fork_fail(fork, &error);
    }
    for (size_t i = 0; i < fork->count; i += 1) {
        kelpie_operation_cancel(fork->children[i].operation);
    }
}

/* ---- its beginning --------------------------------------------------------------------------- */

struct fork_order {
    const char *what;
    struct kelpie *kelpie;
    struct kelpie_vm *source; /* or */
    const char *snapshot;
    const struct kelpie_config *config;
    const char *const *names;
    size_t count;
    struct kelpie_vm **out; /* NULL: they are to wait */
    bool is_waiting;
    kelpie_done_callback callback;
    void *context;
};

static int fork_check(const struct fork_order *order, struct kelpie_error *error) {
    if (order->kelpie == NULL || (order->out == NULL) != order->is_waiting ||
        (order->source == NULL && order->snapshot == NULL)) {
        return kelpie__fail(error, KELPIE_E_MISUSE, 0, "%s: an argument is NULL", order->what);
    }
    if (order->callback == NULL) {
        return kelpie__fail(error, KELPIE_E_MISUSE, 0, "%s: callback is NULL", order->what);
    }
    size_t before = order->is_waiting ? order->source->waiting_count : 0;
    if (order->count == 0 || order->count > KELPIE_FORK_COUNT_MAX - before) {
        return kelpie__fail(error, KELPIE_E_LIMIT, 0,
                            "%s: %zu VMs were asked for, and %zu wait; ask for 1 to %u in all",
                            order->what, order->count, before, KELPIE_FORK_COUNT_MAX);
    }
    if (order->config != NULL && order->config->kelpie != order->kelpie) {
        return kelpie__fail(error, KELPIE_E_MISUSE, 0,
                            "%s: the configuration belongs to another handle", order->what);
    }
    for (size_t i = 0; i < order->count && order->names != NULL; i += 1) {
        int status =
            order->names[i] == NULL ? 0 : kelpie__config_check_name(order->names[i], error);
        if (status < 0) {
            return status;
        }
    }
    return 0;
}

/* What a fork has from its source when nothing is said: as if it came from a snapshot of it. */
static void fork_copy_values(const struct kelpie_config_values *source,
                             struct kelpie_config_values *out) {
    KELPIE_ASSERT(source->cpus > 0);
    KELPIE_ASSERT(source->memory_mib > 0);
    out->cpus = source->cpus;
    out->memory_mib = source->memory_mib;
    out->disk_size_mib = source->disk_size_mib;
    out->is_read_only = source->is_read_only;
    out->accelerator = source->accelerator;
    out->environment_bytes = source->environment_bytes;
    out->environment_count = source->environment_count;
    memcpy(out->root, source->root, sizeof(out->root));
    memcpy(out->kernel, source->kernel, sizeof(out->kernel));
    memcpy(out->working_directory, source->working_directory, sizeof(out->working_directory));
    memcpy(out->environment, source->environment, sizeof(out->environment));
}

/* With the caller's configuration, or the defaults, and the names. */
static int fork_create(const struct fork_order *order, struct kelpie_fork **out,
                       struct kelpie_error *error) {
    struct kelpie_os *os = order->kelpie->os;
    struct kelpie_fork *fork = kelpie__alloc(os, sizeof(*fork));
    struct kelpie_fork_child *children = kelpie__alloc(os, order->count * sizeof(*children));
    struct kelpie_config *config = NULL;
    int status = fork == NULL || children == NULL
                     ? kelpie__fail(error, KELPIE_E_MEMORY, 0, "no memory for a fork")
                     : kelpie_config_create(order->kelpie, &config, error);
    if (status < 0) {
        kelpie__free(os, fork, sizeof(*fork));
        kelpie__free(os, children, order->count * sizeof(*children));
        return status;
    }
    if (order->config != NULL) {
        config->values = order->config->values;
    } else if (order->is_waiting) {
        fork_copy_values(order->source->config, &config->values);
    }
    *fork = (struct kelpie_fork){.operation = {.cancel = fork_cancel},
                                 .kelpie = order->kelpie,
                                 .next = order->kelpie->forks,
                                 .source = order->source,
                                 .config = config,
                                 .children = children,
                                 .count = order->count,
                                 .may_take_waiting = order->source != NULL &&
                                                     order->config == NULL && !order->is_waiting,
                                 .is_waiting = order->is_waiting,
                                 .out = order->out,
                                 .callback = order->callback,
                                 .context = order->context};
    for (size_t i = 0; i < order->count; i += 1) {
        const char *name = order->names != NULL ? order->names[i] : NULL;
        children[i].fork = fork;
        bool fits =
            kelpie__text_copy(children[i].name, sizeof(children[i].name), name == NULL ? "" : name);
        KELPIE_ASSERT(fits); /* it was checked */
    }
    order->kelpie->forks = fork;
    *out = fork;
    return 0;
}

static int fork_begin(const struct fork_order *order, struct kelpie_fork **out,
                      struct kelpie_error *error) {
    struct kelpie_fork *fork = NULL;
    int status = fork_check(order, error);
    if (status == 0) {
        status = fork_create(order, &fork, error);
    }
    if (status < 0) {
        return status;
    }
    if (order->is_waiting) {
        status = kelpie__fork_ask_base(fork, error);
    } else if (order->source != NULL) {
        status = fork_take(fork, error);
    } else {
        kelpie_config_set_snapshot(fork->config, order->snapshot);
        kelpie__fork_plan(fork);
    }
    if (status < 0) {
        fork_destroy(fork);
        return status;
    }
    *out = fork;
    return 0;
}

void kelpie__forks_drop(struct kelpie *kelpie, const struct kelpie_vm *source) {
    struct kelpie_fork *fork = kelpie->forks;
    while (fork != NULL) { /* bound: the list */
        struct kelpie_fork *next = fork->next;
        if (source == NULL || fork->source == source) {
            fork_destroy(fork);
        }
        fork = next;
    }
}

/* ---- the calls ------------------------------------------------------------------------------- */

static struct fork_order order_of(struct kelpie *kelpie, const struct kelpie_config *config,
                                  const char *const *names, size_t count, struct kelpie_vm **out) {
    return (struct fork_order){
        .kelpie = kelpie, .config = config, .names = names, .count = count, .out = out};
}

static struct fork_order order_of_snapshot(struct fork_order order, const char *snapshot) {
    order.what = "kelpie_snapshot_fork";
    order.snapshot = snapshot;
    return order;
}

static struct fork_order order_of_vm(struct fork_order order, struct kelpie_vm *vm) {
    order.what = "kelpie_vm_fork";
    order.kelpie = vm == NULL ? NULL : vm->kelpie;
    order.source = vm;
    return order;
}

static struct fork_order order_of_waiting(struct kelpie_vm *vm, size_t count) {
    struct fork_order order = order_of_vm(order_of(NULL, NULL, NULL, count, NULL), vm);
    order.what = "kelpie_vm_prepare_forks";
    order.is_waiting = true;
    return order;
}

/* A lock that somebody holds for a look at a VM that does not live is waited for. */
static int fork_begin_wait(const struct fork_order *order, struct kelpie_fork **out,
                           struct kelpie_error *error) {
    struct kelpie_loop *loop = order->kelpie->loop;
    struct kelpie_error kept = {0};
    int64_t deadline_ns = kelpie__loop_deadline(loop, KELPIE_CALL_TIMEOUT_MS);
    KELPIE_ASSERT(order->kelpie->callback_depth == 0);
    int status = fork_begin(order, out, &kept);
    while (status == KELPIE_E_BUSY && loop->now_ns < deadline_ns) { /* bound: the deadline */
        KELPIE_REACHED(order->kelpie->os, "a fork waited for another's look");
        status = kelpie__turn(order->kelpie, loop->now_ns + FORK_BUSY_NS, &kept);
        status = status < 0 ? status : fork_begin(order, out, &kept);
    }
    KELPIE_ASSERT(status == 0 || kept.code == status);
    if (status < 0 && error != NULL) {
        *error = kept;
    }
    return status;
}

static int fork_run(struct fork_order order, struct kelpie_error *error) {
    struct kelpie_waiter waiter = {0};
    struct kelpie_fork *fork = NULL;
    order.callback = kelpie__waiter_done;
    order.context = &waiter;
    int status = fork_check(&order, error);
    if (status == 0) {
        status = kelpie__check_may_block(order.kelpie, order.what, error);
    }
    if (status == 0 && order.source != NULL) { /* why it is not there, the next request says */
        kelpie__ignore(kelpie__vm_connect_wait(order.source, false, NULL, NULL));
    }
    if (status == 0) {
        status = fork_begin_wait(&order, &fork, error);
    }
    if (status < 0) {
        return status;
    }
    status = kelpie__waiter_wait(order.kelpie, &waiter, error);
    if (!waiter.is_done) { /* the loop itself failed */
        fork_destroy(fork);
    }
    return status;
}

static int fork_run_async(struct fork_order order, kelpie_done_callback callback, void *context,
                          struct kelpie_operation **out, struct kelpie_error *error) {
    struct kelpie_fork *fork = NULL;
    order.callback = callback;
    order.context = context;
    int status = fork_begin(&order, &fork, error);
    if (status == 0 && out != NULL) {
        *out = &fork->operation;
    }
    return status;
}

int kelpie_snapshot_fork(struct kelpie *kelpie, const char *snapshot,
                         const struct kelpie_config *config, const char *const *names, size_t count,
                         struct kelpie_vm **out, struct kelpie_error *error) {
    return fork_run(order_of_snapshot(order_of(kelpie, config, names, count, out), snapshot),
                    error);
}

int kelpie_snapshot_fork_async(struct kelpie *kelpie, const char *snapshot,
                               const struct kelpie_config *config, const char *const *names,
                               size_t count, struct kelpie_vm **out_vms,
                               kelpie_done_callback callback, void *context,
                               struct kelpie_operation **out, struct kelpie_error *error) {
    return fork_run_async(
        order_of_snapshot(order_of(kelpie, config, names, count, out_vms), snapshot), callback,
        context, out, error);
}

int kelpie_vm_fork(struct kelpie_vm *vm, const struct kelpie_config *config,
                   const char *const *names, size_t count, struct kelpie_vm **out,
                   struct kelpie_error *error) {
    return fork_run(order_of_vm(order_of(NULL, config, names, count, out), vm), error);
}

int kelpie_vm_fork_async(struct kelpie_vm *vm, const struct kelpie_config *config,
                         const char *const *names, size_t count, struct kelpie_vm **out_vms,
                         kelpie_done_callback callback, void *context,
                         struct kelpie_operation **out, struct kelpie_error *error) {
    return fork_run_async(order_of_vm(order_of(NULL, config, names, count, out_vms), vm), callback,
                          context, out, error);
}

int kelpie_vm_prepare_forks(struct kelpie_vm *vm, size_t count, struct kelpie_error *error) {
    return fork_run(order_of_waiting(vm, count), error);
}

int kelpie_vm_prepare_forks_async(struct kelpie_vm *vm, size_t count, kelpie_done_callback callback,
                                  void *context, struct kelpie_operation **out,
                                  struct kelpie_error *error) {
    return fork_run_async(order_of_waiting(vm, count), callback, context, out, error);
}
