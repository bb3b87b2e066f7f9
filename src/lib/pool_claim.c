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
#define CLAIM_TIMEOUT_MS (KELPIE_RESUME_TIMEOUT_MS + 10000u)

struct claim {
    struct kelpie_pool *pool;
    struct kelpie_claim_options options;
    char (*names)[KELPIE_NAME_BYTES_MAX + 1]; /* owned; KELPIE_POOL_SIZE_MAX of them */
    uint32_t name_count;
};

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

/* ---- one member ------------------------------------------------------------------------------ */

/* Asks it. Any failure means another one. */
static int claim_ask(struct claim *claim, struct kelpie_vm *vm) {
    char params[96];
    bool is_owned = claim->options.lifetime == KELPIE_LIFETIME_OWNED;
    bool fits = kelpie__text_format(params, sizeof(params), "{\"owned\":%s,\"lease_ms\":%llu}",
                                    is_owned ? "true" : "false",
                                    (unsigned long long)claim->options.lease_ms);
    KELPIE_ASSERT(fits);
    const struct kelpie_request request = {
        .method = "vm.claim", .params = params, .timeout_ms = CLAIM_TIMEOUT_MS};
    struct kelpie *kelpie = vm->kelpie;
    /* Deadlines count from now, not from when this program was last in the loop. */
    kelpie->loop->now_ns = kelpie__os_now(kelpie->os, KELPIE_OS_CLOCK_MONOTONIC);
    /* What is asked may follow hello at once. */
    int status = kelpie__vm_connect(vm, false, NULL, NULL);
    if (status == 0) {
        status = kelpie__operation_run(vm, &request, NULL);
    }
    if (status == 0) {
        vm->is_creator = is_owned;
        vm->config->lifetime = claim->options.lifetime;
    }
    return status;
}

/* 0, or 1: it is dead, or another's. */
static int claim_one(struct claim *claim, const char *name, struct kelpie_vm **out) {
    struct kelpie_vm *vm = NULL;
    int status = kelpie_vm_open(claim->pool->kelpie, name, &vm, NULL);
    if (status == KELPIE_E_NOT_FOUND) {
        KELPIE_REACHED(claim->pool->kelpie->os, "a member that was to be claimed was gone");
        kelpie__pool_ready_forget(&claim->pool->directory, name);
    }
    if (status < 0) {
        return 1;
    }
    status = claim_ask(claim, vm);
    KELPIE_SOMETIMES(claim->pool->kelpie->os, "a member was claimed by another first",
                     status == KELPIE_E_STATE);
    if (status < 0) {
        kelpie_vm_close(vm);
        return 1;
    }
    *out = vm;
    return 0;
}

static void claim_list(struct claim *claim) {
    uint64_t cursor = 0;
    claim->name_count = 0;
    while (claim->name_count < KELPIE_POOL_SIZE_MAX &&
           kelpie__pool_ready_list(&claim->pool->directory, &cursor,
                                   claim->names[claim->name_count]) == 1) {
        claim->name_count += 1;
    }
}

/* Each that waits, from a place of its own: two who come at once ask different ones. 0, or 1: none
 * was to be had. */
static int claim_any(struct claim *claim, struct kelpie_vm **out, struct kelpie_error *error) {
    uint32_t place = 0;
    int drawn = kelpie__os_random(claim->pool->kelpie->os, &place, sizeof(place));
    if (drawn < 0) {
        return kelpie__fail(error, KELPIE_E_IO, -drawn, "draw a number");
    }
    claim_list(claim);
    int status = 1;
    for (uint32_t i = 0; i < claim->name_count && status == 1; i += 1) {
        uint32_t index = (uint32_t)(((uint64_t)place + i) % claim->name_count);
        status = claim_one(claim, claim->names[index], out);
    }
    return status;
}

/* ---- none waits ------------------------------------------------------------------------------ */

static int claim_make(struct claim *claim, struct kelpie_vm **out, struct kelpie_error *error) {
    struct kelpie *kelpie = claim->pool->kelpie;
    struct kelpie_config *config = NULL;
    struct kelpie_vm *vm = NULL;
    KELPIE_ASSERT(claim->options.wait_ms == 0);
    KELPIE_REACHED(kelpie->os, "a claim found its pool empty");
    int status = kelpie_config_create(kelpie, &config, error);
    if (status == 0) {
        status = kelpie__pool_directory_config(&claim->pool->directory, &config->values, error);
    }
    if (status == 0) {
        kelpie_config_set_lifetime(config, claim->options.lifetime);
        status = kelpie_vm_create(kelpie, NULL, config, &vm, error);
    }
    kelpie_config_destroy(config);
    if (status == 0) {
        status = kelpie_vm_start(vm, 0, error);
    }
    if (status == 0 && claim->options.lease_ms > 0) {
        status = kelpie_vm_set_lease(vm, claim->options.lease_ms, error);
    }
    if (status == 0) {
        *out = vm;
        return 0;
    }
    if (vm != NULL) {
        kelpie__ignore(kelpie_vm_delete(vm, true, NULL)); /* the first error counts */
        kelpie_vm_close(vm);
    }
    return status;
}

static int claim_timed_out(const struct claim *claim, struct kelpie_error *error) {
    struct kelpie_pool_status status;
    kelpie__pool_directory_read_status(&claim->pool->directory, &status);
    return kelpie__fail(
        error, KELPIE_E_TIMEOUT, 0,
        "no member of pool \"%s\" was free within %llu ms; give it a larger size%s%s",
        claim->pool->directory.values.name, (unsigned long long)claim->options.wait_ms,
        status.problem[0] != '\0' ? "; the last one could not be made: " : "", status.problem);
}

static int claim_wait(struct claim *claim, struct kelpie_vm **out, struct kelpie_error *error) {
    struct kelpie_pool *pool = claim->pool;
    struct kelpie *kelpie = pool->kelpie;
    KELPIE_ASSERT(claim->options.wait_ms > 0);
    kelpie->loop->now_ns = kelpie__os_now(kelpie->os, KELPIE_OS_CLOCK_MONOTONIC);
    int64_t deadline_ns = kelpie__loop_deadline(kelpie->loop, claim->options.wait_ms);
    int status = 1;
    while (status == 1) { /* bound: the deadline, or the caller's patience */
        status = kelpie__pool_ensure_keeper(pool, error);
        int connection = status < 0 ? KELPIE_OS_NO_HANDLE : kelpie__pool_poke(&pool->directory);
        status = status < 0 ? status : claim_any(claim, out, error);
        bool is_late = deadline_ns >= 0 && kelpie->loop->now_ns >= deadline_ns;
        if (status == 1 && !is_late) {
            status = kelpie__pool_wait(kelpie, connection, deadline_ns, error);
            status = status < 0 ? status : 1;
        } else {
            kelpie__ignore(connection < 0 ? 0 : kelpie__os_close(kelpie->os, connection));
        }
        if (status == 1 && is_late) {
            return claim_timed_out(claim, error);
        }
    }
    return status;
}

static int claim_run(struct claim *claim, struct kelpie_vm **out, struct kelpie_error *error) {
    struct kelpie_pool *pool = claim->pool;
    int status = claim_any(claim, out, error);
    if (status == 0) {
        /* Who has what he wants does not wait for it, and is not told when it fails. */
        kelpie__ignore(kelpie__pool_ensure_keeper(pool, NULL));
        return 0;
    }
    if (status == 1 && !kelpie__pool_directory_is_current(&pool->directory)) {
        return kelpie__fail(error, KELPIE_E_NOT_FOUND, 0, "pool \"%s\" was removed",
                            pool->directory.values.name);
    }
    if (status == 1 && claim->options.wait_ms > 0) {
        return claim_wait(claim, out, error);
    }
    if (status == 1) {
        kelpie__ignore(kelpie__pool_ensure_keeper(pool, NULL)); /* for the next one */
        status = claim_make(claim, out, error);
    }
    return status;
}

int kelpie_pool_claim(struct kelpie_pool *pool, const struct kelpie_claim_options *options,
                      struct kelpie_vm **out, struct kelpie_error *error) {
    struct claim claim = {.pool = pool};
    struct kelpie_error kept = {0};
    int status = kelpie__pool_check_call(pool, "kelpie_pool_claim", error);
    if (status == 0 && out == NULL) {
        status = kelpie__fail(error, KELPIE_E_MISUSE, 0, "kelpie_pool_claim: out is NULL");
    }
    if (status == 0) {
        status = claim_options(options, &claim.options, error);
    }
    if (status < 0) {
        return status;
    }
    size_t bytes = KELPIE_POOL_SIZE_MAX * sizeof(*claim.names);
    claim.names = kelpie__alloc_raw(pool->kelpie->os, bytes);
    if (claim.names == NULL) {
        return kelpie__fail(error, KELPIE_E_MEMORY, 0, "no memory for the names of members");
    }
    status = claim_run(&claim, out, &kept);
    kelpie__free(pool->kelpie->os, claim.names, bytes);
    if (status < 0 && error != NULL) {
        *error = kept;
    }
    return status;
}

/* ---- leases ---------------------------------------------------------------------------------- */

struct lease_call {
    struct kelpie_request request;
    char params[48];
};

static int lease_begin(struct kelpie_vm *vm, uint64_t lease_ms, bool may_wait,
                       struct lease_call *call, struct kelpie_error *error) {
    bool fits = kelpie__text_format(call->params, sizeof(call->params), "{\"lease_ms\":%llu}",
                                    (unsigned long long)lease_ms);
    KELPIE_ASSERT(fits);
    call->request = (struct kelpie_request){
        .method = "vm.lease", .params = call->params, .timeout_ms = KELPIE_CALL_TIMEOUT_MS};
    return may_wait ? kelpie__vm_connect_wait(vm, false, NULL, error)
                    : kelpie__vm_connect(vm, false, NULL, error);
}

int kelpie_vm_set_lease(struct kelpie_vm *vm, uint64_t lease_ms, struct kelpie_error *error) {
    struct lease_call call = {0};
    if (vm == NULL) {
        return kelpie__fail(error, KELPIE_E_MISUSE, 0, "kelpie_vm_set_lease: vm is NULL");
    }
    int status = kelpie__check_may_block(vm->kelpie, "kelpie_vm_set_lease", error);
    if (status == 0) {
        status = lease_begin(vm, lease_ms, true, &call, error);
    }
    return status < 0 ? status : kelpie__operation_run(vm, &call.request, error);
}

int kelpie_vm_set_lease_async(struct kelpie_vm *vm, uint64_t lease_ms,
                              kelpie_done_callback callback, void *context,
                              struct kelpie_operation **out, struct kelpie_error *error) {
    struct lease_call call = {0};
    if (vm == NULL) {
        return kelpie__fail(error, KELPIE_E_MISUSE, 0, "kelpie_vm_set_lease_async: vm is NULL");
    }
    int status = lease_begin(vm, lease_ms, false, &call, error);
    return status < 0 ? status
                      : kelpie__operation_start(vm, &call.request, callback, context, out, error);
}
