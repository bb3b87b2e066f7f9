/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * A member for a claimer, and leases. The notes in the pool's directory say where to ask; the
 * member's monitor says yes to one.
 */
#include <string.h>

#include "core/text.h"
#include "lib/pool.h"
#include "os/os_call.h"
#include "os/os_mark.h"

/* the guest has its own deadline to answer */
#define CLAIM_RETRY_NS (50 * KELPIE_NS_PER_MS) /* nobody keeps the pool for a moment */
#define CLAIM_TIMEOUT_MS (KELPIE_RESUME_TIMEOUT_MS + 10000u)

enum claim_step {
    CLAIM_LOOKING, /* the next step lists those that wait, and asks one after the other */
    CLAIM_ASKING,
    CLAIM_STARTING, /* one that was made here, for none waits */
    CLAIM_LEASING,
    CLAIM_DELETING, /* it was of no use */
    CLAIM_ENDING,
};

struct kelpie_claim {
    struct kelpie_operation operation; /* what its caller has to cancel it */
    struct kelpie_pool *pool;          /* borrowed: until it ends */
    struct kelpie_claim *next;
    struct kelpie_claim_options options;
    enum claim_step step;
    char (*names)[KELPIE_NAME_BYTES_MAX + 1]; /* owned; KELPIE_POOL_SIZE_MAX of them */
    uint32_t name_count;
    uint32_t asked_count;
    uint32_t place;                 /* the first that is asked: not everybody's */
    struct kelpie_vm *vm;           /* owned until it is given; NULL: none */
    struct kelpie_operation *asked; /* of it, while that is under way */
    int connection;                 /* to the keeper, owned: its end says that something changed */
    uint32_t connection_watch;
    bool has_called; /* since it last waited */
    int64_t deadline_ns;
    struct kelpie_timer timer; /* of the next step, or of the end of waiting */
    int status;
    struct kelpie_error error;
    struct kelpie_vm **out; /* borrowed: until it ends */
    kelpie_done_callback callback;
    void *context;
};

static_assert(CLAIM_TIMEOUT_MS > KELPIE_RESUME_TIMEOUT_MS, "the guest's deadline comes first");

static void claim_state_check(const struct kelpie_claim *claim) {
    KELPIE_ASSERT(claim->name_count <= KELPIE_POOL_SIZE_MAX);
    KELPIE_ASSERT(claim->asked_count <= claim->name_count);
    KELPIE_ASSERT(claim->status == claim->error.code);
    KELPIE_ASSERT(claim->connection >= KELPIE_OS_NO_HANDLE);
    KELPIE_ASSERT(claim->callback != NULL);
    KELPIE_ASSERT(claim->out != NULL);
    if (claim->asked != NULL) {
        KELPIE_ASSERT(claim->vm != NULL);
        KELPIE_ASSERT(claim->step != CLAIM_LOOKING && claim->step != CLAIM_ENDING);
    }
}

static int claim_options(const struct kelpie_claim_options *given, struct kelpie_claim_options *out,
                         struct kelpie_error *error) {
    *out = (struct kelpie_claim_options){0};
    if (given == NULL) {
        return 0;
    }
    if (!kelpie__struct_is_sized(given)) {
        return kelpie__fail(error, KELPIE_E_MISUSE, 0, "kelpie_pool_claim: struct_size is not set");
    }
    memcpy(out, given, (size_t)kelpie__min_u64(given->struct_size, sizeof(*out)));
    if (out->lease_ms != 0 &&
        (out->lease_ms < KELPIE_LEASE_MS_MIN || out->lease_ms > KELPIE_LEASE_MS_MAX)) {
        return kelpie__fail_field(error, KELPIE_E_LIMIT, "lease_ms",
                                  "lease_ms: %llu, and it has to be %u to %llu, or 0 for none",
                                  (unsigned long long)out->lease_ms, KELPIE_LEASE_MS_MIN,
                                  (unsigned long long)KELPIE_LEASE_MS_MAX);
    }
    return 0;
}

/* ---- its end --------------------------------------------------------------------------------- */

static void claim_hang_up(struct kelpie_claim *claim) {
    if (claim->connection >= 0) {
        kelpie__loop_unwatch(claim->pool->kelpie->loop, claim->connection_watch);
        kelpie__ignore(kelpie__os_close(claim->pool->kelpie->os, claim->connection));
        claim->connection = KELPIE_OS_NO_HANDLE;
    }
}

static void claim_destroy(struct kelpie_claim *claim) {
    struct kelpie *kelpie = claim->pool->kelpie;
    struct kelpie_claim **place = &claim->pool->claims;
    while (*place != claim) { /* bound: the list has it */
        KELPIE_ASSERT(*place != NULL);
        place = &(*place)->next;
    }
    *place = claim->next;
    kelpie__timer_disarm(kelpie->loop, &claim->timer);
    claim_hang_up(claim);
    kelpie_vm_close(claim->vm);
    kelpie__free(kelpie->os, claim->names, KELPIE_POOL_SIZE_MAX * sizeof(*claim->names));
    kelpie__free(kelpie->os, claim, sizeof(*claim));
}

void kelpie__claims_drop(struct kelpie_pool *pool) {
    while (pool->claims != NULL) { /* bound: the list */
        claim_destroy(pool->claims);
    }
}

static void claim_finish(struct kelpie_claim *claim) {
    struct kelpie *kelpie = claim->pool->kelpie;
    kelpie_done_callback callback = claim->callback;
    void *context = claim->context;
    struct kelpie_error error = claim->error;
    bool is_good = claim->status == 0;
    claim_state_check(claim);
    KELPIE_ASSERT(claim->asked == NULL);
    KELPIE_ASSERT(is_good == (claim->vm != NULL));
    if (is_good) {
        *claim->out = claim->vm;
        claim->vm = NULL;
        /* Who has what he wants does not wait for it, and is not told when it fails. */
        kelpie__ignore(kelpie__pool_ensure_keeper(claim->pool, NULL));
    }
    claim_destroy(claim);
    kelpie__callback_enter(kelpie);
    callback(context, is_good ? NULL : &error);
    kelpie__callback_leave(kelpie);
}

static void claim_fail(struct kelpie_claim *claim, const struct kelpie_error *why) {
    KELPIE_ASSERT(why->code < 0);
    if (claim->status == 0) { /* the first error counts */
        claim->status = why->code;
        claim->error = *why;
    }
    KELPIE_ASSERT(claim->status < 0);
}

static void claim_take_step(void *context);

/* Not inside a callback of the VM's own, where that cannot be closed. */
static void claim_plan(struct kelpie_claim *claim, enum claim_step step) {
    struct kelpie_loop *loop = claim->pool->kelpie->loop;
    KELPIE_ASSERT(claim->asked == NULL);
    claim->step = step;
    kelpie__timer_arm(loop, &claim->timer, loop->now_ns, claim_take_step, claim);
}

static void claim_answered(void *context, const struct kelpie_error *error);

static int claim_request(struct kelpie_claim *claim, const struct kelpie_request *request,
                         struct kelpie_error *error) {
    KELPIE_ASSERT(claim->asked == NULL);
    return kelpie__operation_start(claim->vm, request, claim_answered, claim, &claim->asked, error);
}

/* ---- one member ------------------------------------------------------------------------------ */

/* Asks it; what is asked may follow hello at once. */
static int claim_ask(struct kelpie_claim *claim) {
    char params[96];
    bool is_owned = claim->options.lifetime == KELPIE_LIFETIME_OWNED;
    KELPIE_ASSERT(claim->vm != NULL);
    bool fits = kelpie__text_format(params, sizeof(params), "{\"owned\":%s,\"lease_ms\":%llu}",
                                    is_owned ? "true" : "false",
                                    (unsigned long long)claim->options.lease_ms);
    KELPIE_ASSERT(fits);
    const struct kelpie_request request = {
        .method = "vm.claim", .params = params, .timeout_ms = CLAIM_TIMEOUT_MS};
    int status = kelpie__vm_connect(claim->vm, false, NULL, NULL);
    return status < 0 ? status : claim_request(claim, &request, NULL);
}

/* Whether it was asked. */
static bool claim_one(struct kelpie_claim *claim, const char *name) {
    struct kelpie *kelpie = claim->pool->kelpie;
    KELPIE_ASSERT(claim->vm == NULL);
    int status = kelpie_vm_open(kelpie, name, &claim->vm, NULL);
    if (status == KELPIE_E_NOT_FOUND) {
        KELPIE_REACHED(kelpie->os, "a member that was to be claimed was gone");
        kelpie__ignore(kelpie__pool_ready_forget(&claim->pool->directory, name));
    }
    if (status < 0) {
        claim->vm = NULL;
        return false;
    }
    if (claim_ask(claim) < 0) {
        kelpie_vm_close(claim->vm);
        claim->vm = NULL;
        return false;
    }
    KELPIE_ASSERT(claim->asked != NULL);
    claim->step = CLAIM_ASKING;
    return true;
}

static int claim_list(struct kelpie_claim *claim, struct kelpie_error *error) {
    uint64_t cursor = 0;
    KELPIE_ASSERT(claim->vm == NULL);
    KELPIE_ASSERT(claim->asked == NULL);
    int drawn = kelpie__os_random(claim->pool->kelpie->os, &claim->place, sizeof(claim->place));
    if (drawn < 0) {
        return kelpie__fail(error, KELPIE_E_IO, -drawn, "draw a number");
    }
    claim->asked_count = 0;
    claim->name_count = 0;
    while (claim->name_count < KELPIE_POOL_SIZE_MAX &&
           kelpie__pool_ready_list(&claim->pool->directory, &cursor,
                                   claim->names[claim->name_count]) == 1) {
        claim->name_count += 1;
    }
    return 0;
}

/* The next of those that were listed, from a place of its own: two who come at once ask different
 * ones. False: none is left. */
static bool claim_next(struct kelpie_claim *claim) {
    KELPIE_ASSERT(claim->vm == NULL);
    while (claim->asked_count < claim->name_count) { /* bound: each once */
        uint32_t index =
            (uint32_t)(((uint64_t)claim->place + claim->asked_count) % claim->name_count);
        claim->asked_count += 1;
        if (claim_one(claim, claim->names[index])) {
            return true;
        }
    }
    return false;
}

/* ---- none waits ------------------------------------------------------------------------------ */

static int claim_make(struct kelpie_claim *claim, struct kelpie_error *error) {
    struct kelpie *kelpie = claim->pool->kelpie;
    struct kelpie_config *config = NULL;
    KELPIE_ASSERT(claim->options.wait_ms == 0);
    KELPIE_ASSERT(claim->vm == NULL);
    KELPIE_REACHED(kelpie->os, "a claim found its pool empty");
    kelpie__ignore(kelpie__pool_ensure_keeper(claim->pool, NULL)); /* for the next one */
    int status = kelpie_config_create(kelpie, &config, error);
    if (status == 0) {
        status = kelpie__pool_directory_config(&claim->pool->directory, &config->values, error);
    }
    if (status == 0) {
        kelpie_config_set_lifetime(config, claim->options.lifetime);
        status = kelpie__vm_create_now(kelpie, NULL, config, &claim->vm, error);
    }
    kelpie_config_destroy(config);
    if (status == 0) {
        claim->step = CLAIM_STARTING;
        status = kelpie_vm_start_async(claim->vm, 0, claim_answered, claim, &claim->asked, error);
    }
    return status;
}

static void claim_timed_out(struct kelpie_claim *claim) {
    struct kelpie_pool_status status;
    struct kelpie_error error = {0};
    KELPIE_ASSERT(claim->options.wait_ms > 0);
    kelpie__pool_directory_read_status(&claim->pool->directory, &status);
    kelpie__ignore(kelpie__fail(
        &error, KELPIE_E_TIMEOUT, 0,
        "no member of pool \"%s\" was free within %llu ms; give it a larger size%s%s",
        claim->pool->directory.values.name, (unsigned long long)claim->options.wait_ms,
        status.problem[0] != '\0' ? "; the last one could not be made: " : "", status.problem));
    claim_fail(claim, &error);
}

/* Something has changed, or it is too late: look again, for the last time then. */
static void claim_changed(void *context, uint32_t bits) {
    struct kelpie_claim *claim = context;
    claim_state_check(claim);
    KELPIE_ASSERT(bits != 0);
    KELPIE_ASSERT(claim->connection >= 0);
    claim_hang_up(claim);
    if (claim->step == CLAIM_LOOKING) { /* not while a member is asked: its answer comes first */
        claim_plan(claim, CLAIM_LOOKING);
    }
}

/* The connection was made before the pool was looked at: no change is missed. */
static void claim_wait(struct kelpie_claim *claim) {
    struct kelpie_loop *loop = claim->pool->kelpie->loop;
    bool is_late = claim->deadline_ns >= 0 && loop->now_ns >= claim->deadline_ns;
    KELPIE_ASSERT(claim->options.wait_ms > 0);
    KELPIE_ASSERT(claim->vm == NULL);
    if (is_late) {
        claim_timed_out(claim);
        claim_plan(claim, CLAIM_ENDING);
        return;
    }
    claim->step = CLAIM_LOOKING;
    /* Without a connection its keeper has no time, or has just died. */
    int64_t again_ns = claim->connection >= 0 ? claim->deadline_ns : loop->now_ns + CLAIM_RETRY_NS;
    if (again_ns >= 0) {
        kelpie__timer_arm(loop, &claim->timer, again_ns, claim_take_step, claim);
    }
}

/* Before the pool is looked at, by who may wait. */
static int claim_call(struct kelpie_claim *claim, struct kelpie_error *error) {
    struct kelpie_pool *pool = claim->pool;
    KELPIE_ASSERT(claim->options.wait_ms > 0);
    KELPIE_ASSERT(claim->step == CLAIM_LOOKING);
    claim_hang_up(claim);
    int status = kelpie__pool_ensure_keeper(pool, error);
    int connection = status < 0 ? KELPIE_OS_NO_HANDLE : kelpie__pool_poke(&pool->directory);
    if (connection < 0) {
        return status;
    }
    status = kelpie__loop_watch(pool->kelpie->loop, connection, KELPIE_OS_READABLE, claim_changed,
                                claim, &claim->connection_watch);
    if (status < 0) {
        kelpie__ignore(kelpie__os_close(pool->kelpie->os, connection));
        return kelpie__fail(error, status, 0, "watch the keeper of the pool");
    }
    claim->connection = connection;
    KELPIE_ASSERT(claim->connection >= 0);
    return 0;
}

static int claim_none(struct kelpie_claim *claim, struct kelpie_error *error) {
    struct kelpie_pool *pool = claim->pool;
    claim_state_check(claim);
    KELPIE_ASSERT(claim->asked_count == claim->name_count);
    KELPIE_ASSERT(claim->vm == NULL);
    if (!kelpie__pool_directory_is_current(&pool->directory)) {
        return kelpie__fail(error, KELPIE_E_NOT_FOUND, 0, "pool \"%s\" was removed",
                            pool->directory.values.name);
    }
    if (claim->options.wait_ms == 0) {
        return claim_make(claim, error);
    }
    if (claim->connection < 0 && !claim->has_called) { /* then once more, with an ear open */
        claim->has_called = true;
        int status = claim_call(claim, error);
        claim_plan(claim, CLAIM_LOOKING);
        return status;
    }
    claim->has_called = false;
    claim_wait(claim);
    return 0;
}

/* ---- its steps ------------------------------------------------------------------------------- */

static void claim_look(struct kelpie_claim *claim) {
    struct kelpie_error error = {0};
    KELPIE_ASSERT(claim->vm == NULL);
    int status = claim->asked_count < claim->name_count ? 0 : claim_list(claim, &error);
    if (status == 0 && !claim_next(claim)) {
        status = claim_none(claim, &error);
    }
    if (status < 0) {
        claim_fail(claim, &error);
        claim_plan(claim, CLAIM_DELETING);
    }
}

/* What was made here, and is of no use. */
static void claim_delete(struct kelpie_claim *claim) {
    if (claim->vm == NULL ||
        kelpie_vm_delete_async(claim->vm, true, claim_answered, claim, &claim->asked, NULL) < 0) {
        claim_plan(claim, CLAIM_ENDING);
    }
}

static void claim_take_step(void *context) {
    struct kelpie_claim *claim = context;
    claim_state_check(claim);
    KELPIE_ASSERT(claim->asked == NULL);
    switch (claim->step) {
    case CLAIM_LOOKING:
        kelpie_vm_close(claim->vm); /* one that another was quicker to get, or that is dead */
        claim->vm = NULL;
        claim_look(claim);
        break;
    case CLAIM_DELETING:
        claim_delete(claim);
        break;
    case CLAIM_ENDING:
        kelpie_vm_close(claim->vm);
        claim->vm = NULL;
        claim_finish(claim);
        break;
    case CLAIM_ASKING:
    case CLAIM_STARTING:
    case CLAIM_LEASING:
        claim_finish(claim);
        break;
    }
}

static void claim_lease(struct kelpie_claim *claim) {
    struct kelpie_error error = {0};
    KELPIE_ASSERT(claim->options.lease_ms >= KELPIE_LEASE_MS_MIN);
    claim->step = CLAIM_LEASING;
    if (kelpie_vm_set_lease_async(claim->vm, claim->options.lease_ms, claim_answered, claim,
                                  &claim->asked, &error) < 0) {
        claim_fail(claim, &error);
        claim_plan(claim, CLAIM_DELETING);
    }
}

static void claim_answered(void *context, const struct kelpie_error *error) {
    struct kelpie_claim *claim = context;
    claim_state_check(claim);
    KELPIE_ASSERT(claim->vm != NULL);
    KELPIE_ASSERT(claim->asked != NULL);
    KELPIE_ASSERT(!kelpie__timer_is_armed(&claim->timer));
    claim->asked = NULL;
    KELPIE_SOMETIMES(claim->pool->kelpie->os, "a member was claimed by another first",
                     error != NULL && error->code == KELPIE_E_STATE);
    if (claim->step == CLAIM_DELETING) {
        claim_plan(claim, CLAIM_ENDING);
    } else if (claim->step == CLAIM_ASKING && error != NULL && error->code != KELPIE_E_CANCELLED) {
        claim_plan(claim, CLAIM_LOOKING);
    } else if (error != NULL) {
        claim_fail(claim, error);
        claim_plan(claim, CLAIM_DELETING);
    } else if (claim->step == CLAIM_STARTING && claim->options.lease_ms > 0) {
        claim_lease(claim);
    } else {
        claim->vm->is_creator = claim->options.lifetime == KELPIE_LIFETIME_OWNED;
        claim->vm->config->lifetime = claim->options.lifetime;
        claim_plan(claim, claim->step);
    }
}

/* ---- the calls ------------------------------------------------------------------------------- */

static void claim_cancel(struct kelpie_operation *operation) {
    struct kelpie_claim *claim = KELPIE_CONTAINER_OF(operation, struct kelpie_claim, operation);
    struct kelpie_error error = {0};
    claim_state_check(claim);
    if (claim->asked != NULL) { /* which may be too late */
        kelpie_operation_cancel(claim->asked);
    } else if (claim->step == CLAIM_LOOKING) {
        kelpie__ignore(kelpie__fail(&error, KELPIE_E_CANCELLED, 0, "the claim was cancelled"));
        claim_fail(claim, &error);
        claim_plan(claim, CLAIM_ENDING);
    }
}

static int claim_begin(struct kelpie_pool *pool, const struct kelpie_claim_options *options,
                       struct kelpie_vm **out, struct kelpie_claim **out_claim,
                       struct kelpie_error *error) {
    struct kelpie_claim_options own;
    if (pool == NULL || out == NULL) {
        return kelpie__fail(error, KELPIE_E_MISUSE, 0, "kelpie_pool_claim: %s is NULL",
                            pool == NULL ? "pool" : "out");
    }
    int status = claim_options(options, &own, error);
    if (status < 0) {
        return status;
    }
    struct kelpie_os *os = pool->kelpie->os;
    struct kelpie_loop *loop = pool->kelpie->loop;
    size_t bytes = KELPIE_POOL_SIZE_MAX * sizeof(*(*out_claim)->names);
    struct kelpie_claim *claim = kelpie__alloc(os, sizeof(*claim));
    char(*names)[KELPIE_NAME_BYTES_MAX + 1] = kelpie__alloc_raw(os, bytes);
    if (claim == NULL || names == NULL) {
        kelpie__free(os, claim, sizeof(*claim));
        kelpie__free(os, names, bytes);
        return kelpie__fail(error, KELPIE_E_MEMORY, 0, "no memory for a claim");
    }
    loop->now_ns = kelpie__os_now(os, KELPIE_OS_CLOCK_MONOTONIC);
    *claim = (struct kelpie_claim){.operation = {.cancel = claim_cancel},
                                   .pool = pool,
                                   .next = pool->claims,
                                   .options = own,
                                   .names = names,
                                   .connection = KELPIE_OS_NO_HANDLE,
                                   .deadline_ns = kelpie__loop_deadline(loop, own.wait_ms),
                                   .out = out};
    pool->claims = claim;
    claim_plan(claim, CLAIM_LOOKING);
    *out_claim = claim;
    return 0;
}

int kelpie_pool_claim(struct kelpie_pool *pool, const struct kelpie_claim_options *options,
                      struct kelpie_vm **out, struct kelpie_error *error) {
    struct kelpie_waiter waiter = {0};
    struct kelpie_claim *claim = NULL;
    int status = kelpie__pool_check_call(pool, "kelpie_pool_claim", error);
    if (status == 0) {
        status = claim_begin(pool, options, out, &claim, error);
    }
    if (status < 0) {
        return status;
    }
    claim->callback = kelpie__waiter_done;
    claim->context = &waiter;
    status = kelpie__waiter_wait(pool->kelpie, &waiter, error);
    if (!waiter.is_done) { /* the loop itself failed */
        claim_destroy(claim);
    }
    return status;
}

int kelpie_pool_claim_async(struct kelpie_pool *pool, const struct kelpie_claim_options *options,
                            struct kelpie_vm **out_vm, kelpie_done_callback callback, void *context,
                            struct kelpie_operation **out, struct kelpie_error *error) {
    struct kelpie_claim *claim = NULL;
    if (callback == NULL) {
        return kelpie__fail(error, KELPIE_E_MISUSE, 0, "kelpie_pool_claim_async: callback is NULL");
    }
    int status = claim_begin(pool, options, out_vm, &claim, error);
    if (status < 0) {
        return status;
    }
    claim->callback = callback;
    claim->context = context;
    if (out != NULL) {
        *out = &claim->operation;
    }
    return 0;
}

/* ---- leases ---------------------------------------------------------------------------------- */

static int set_lease(struct kelpie_vm *vm, uint64_t lease_ms, const struct kelpie_call_form *form,
                     struct kelpie_error *error) {
    char params[48];
    int status = kelpie__call_check(vm, form, error);
    if (status < 0) {
        return status;
    }
    bool fits = kelpie__text_format(params, sizeof(params), "{\"lease_ms\":%llu}",
                                    (unsigned long long)lease_ms);
    KELPIE_ASSERT(fits);
    const struct kelpie_request request = {
        .method = "vm.lease", .params = params, .timeout_ms = KELPIE_CALL_TIMEOUT_MS};
    status = kelpie__call_connect(vm, form, false, NULL, error);
    return status < 0 ? status : kelpie__call_send(vm, form, &request, error);
}

int kelpie_vm_set_lease(struct kelpie_vm *vm, uint64_t lease_ms, struct kelpie_error *error) {
    const struct kelpie_call_form form = kelpie__form_blocking("kelpie_vm_set_lease");
    return set_lease(vm, lease_ms, &form, error);
}

int kelpie_vm_set_lease_async(struct kelpie_vm *vm, uint64_t lease_ms,
                              kelpie_done_callback callback, void *context,
                              struct kelpie_operation **out, struct kelpie_error *error) {
    const struct kelpie_call_form form =
        kelpie__form_async("kelpie_vm_set_lease_async", callback, context, out);
    return set_lease(vm, lease_ms, &form, error);
}
