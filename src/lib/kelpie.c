/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * The library's handle and its loop, for embedders and for its own blocking calls.
 */
#include <string.h>

#include "core/text.h"
#include "lib/internal.h"
#include "lib/pool.h"
#include "os/os_call.h"

#define LIB_STRUCT_BYTES_MAX 65536u /* a larger struct_size was never set */

const char *kelpie_version(void) {
    return KELPIE_VERSION;
}

static_assert(offsetof(struct kelpie_open_options, struct_size) == 0, "the size comes first");
static_assert(offsetof(struct kelpie_vm_info, struct_size) == 0, "the size comes first");
static_assert(offsetof(struct kelpie_health, struct_size) == 0, "the size comes first");
static_assert(offsetof(struct kelpie_stats, struct_size) == 0, "the size comes first");
static_assert(sizeof(struct kelpie_vm_info) <= LIB_STRUCT_BYTES_MAX, "ours is no mistake");

void kelpie__handle_check(const struct kelpie *kelpie) {
    KELPIE_ASSERT(kelpie->loop->os == kelpie->os);
    KELPIE_ASSERT(kelpie->places.os == kelpie->os);
    KELPIE_ASSERT(kelpie->places.state_vms >= 0);
    KELPIE_ASSERT(kelpie->places.runtime_vms >= 0);
}

bool kelpie__struct_is_sized(const void *out) {
    size_t struct_size = 0;
    if (out != NULL) {
        memcpy(&struct_size, out, sizeof(struct_size));
    }
    return struct_size > sizeof(struct_size) && struct_size <= LIB_STRUCT_BYTES_MAX;
}

void kelpie__struct_give(void *out, size_t struct_size, const void *from, size_t bytes) {
    KELPIE_ASSERT(struct_size > sizeof(struct_size) && struct_size <= LIB_STRUCT_BYTES_MAX);
    KELPIE_ASSERT(bytes > sizeof(struct_size));
    size_t common = (size_t)kelpie__min_u64(struct_size, bytes);
    memset(out, 0, struct_size);
    memcpy(out, from, common);
    memcpy(out, &struct_size, sizeof(struct_size));
}

/* Options may be shorter than ours (an older caller) or longer (a newer one, whose additions must
 * then be zero). */
int kelpie__open_read_options(const struct kelpie_open_options *given,
                              struct kelpie_open_options *out, struct kelpie_error *error) {
    *out = (struct kelpie_open_options){.struct_size = sizeof(*out)};
    if (given == NULL) {
        return 0;
    }
    if (!kelpie__struct_is_sized(given)) {
        return kelpie__fail(error, KELPIE_E_MISUSE, 0,
                            "kelpie_open: struct_size is %zu; set it to sizeof the options",
                            given->struct_size);
    }
    memcpy(out, given, (size_t)kelpie__min_u64(given->struct_size, sizeof(*out)));
    out->struct_size = sizeof(*out);
    KELPIE_ASSERT(out->struct_size == sizeof(*out));
    return 0;
}

int kelpie__open_with_os(struct kelpie_os *os, const struct kelpie_open_options *options,
                         struct kelpie **out, struct kelpie_error *error) {
    struct kelpie_open_options chosen;
    int status = kelpie__open_read_options(options, &chosen, error);
    if (status < 0) {
        return status;
    }
    struct kelpie *kelpie = kelpie__alloc(os, sizeof(*kelpie));
    if (kelpie == NULL) {
        return kelpie__fail(error, KELPIE_E_MEMORY, 0, "no memory for the library's handle");
    }
    kelpie->os = os;
    kelpie->log_callback = chosen.log_callback;
    kelpie->log_context = chosen.log_context;
    struct kelpie_os_identity self = {0};
    kelpie__ignore(kelpie__os_identity(os, &self)); /* then a fork is not noticed */
    kelpie->pid = self.pid;
    status = kelpie__loop_create(os, KELPIE_LIB_HANDLE_MAX, &kelpie->loop, error);
    if (status < 0) {
        goto fail_loop;
    }
    status = kelpie__places_open(&kelpie->places, os, &chosen, error);
    if (status < 0) {
        goto fail_places;
    }
    kelpie__vm_directory_recover_all(&kelpie->places, &kelpie->leftovers);
    kelpie__snapshots_prune(kelpie);
    kelpie__pools_prune(kelpie);
    KELPIE_ASSERT(kelpie->vms == NULL);
    KELPIE_ASSERT(kelpie->callback_depth == 0);
    kelpie__handle_check(kelpie);
    *out = kelpie;
    return 0;
fail_places:
    kelpie__loop_destroy(kelpie->loop);
fail_loop:
    kelpie__free(os, kelpie, sizeof(*kelpie));
    return status;
}

struct kelpie_os *kelpie__close_keeping_os(struct kelpie *kelpie) {
    struct kelpie_os *os = kelpie->os;
    kelpie__handle_check(kelpie);
    KELPIE_ASSERT(kelpie->callback_depth == 0);
    while (kelpie->pools != NULL) { /* bound: the open handles; owned ones are removed */
        kelpie_pool_close(kelpie->pools);
    }
    kelpie__forks_drop(kelpie, NULL);
    while (kelpie->vms != NULL) { /* bound: the open handles */
        kelpie_vm_close(kelpie->vms);
    }
    while (kelpie->configs != NULL) { /* bound: the list */
        kelpie_config_destroy(kelpie->configs);
    }
    KELPIE_ASSERT(kelpie->forks == NULL);
    kelpie__places_close(&kelpie->places);
    kelpie__loop_destroy(kelpie->loop);
    kelpie__free(os, kelpie, sizeof(*kelpie));
    return os;
}

void kelpie__log(struct kelpie *kelpie, enum kelpie_log_level level, const char *message) {
    if (kelpie->log_callback != NULL) {
        kelpie__callback_enter(kelpie);
        kelpie->log_callback(kelpie->log_context, level, message);
        kelpie__callback_leave(kelpie);
    }
}

void kelpie__callback_enter(struct kelpie *kelpie) {
    kelpie->callback_depth += 1;
    KELPIE_ASSERT(kelpie->callback_depth > 0); /* how deep is the embedder's affair */
}

void kelpie__callback_leave(struct kelpie *kelpie) {
    KELPIE_ASSERT(kelpie->callback_depth > 0);
    kelpie->callback_depth -= 1;
}

bool kelpie__is_inherited(const struct kelpie *kelpie) {
    struct kelpie_os_identity self = {0};
    kelpie__handle_check(kelpie);
    return kelpie->pid != 0 && kelpie__os_identity(kelpie->os, &self) == 0 &&
           self.pid != kelpie->pid;
}

int kelpie__check_process(const struct kelpie *kelpie, const char *what,
                          struct kelpie_error *error) {
    if (kelpie__is_inherited(kelpie)) {
        return kelpie__fail(error, KELPIE_E_MISUSE, 0,
                            "%s: the handle is that of process %d; after fork(2), open anew", what,
                            (int)kelpie->pid);
    }
    return 0;
}

int kelpie__check_may_block(const struct kelpie *kelpie, const char *what,
                            struct kelpie_error *error) {
    int status = kelpie__check_process(kelpie, what, error);
    if (status < 0) {
        return status;
    }
    if (kelpie->callback_depth > 0 || kelpie->loop->is_dispatching) {
        return kelpie__fail(error, KELPIE_E_MISUSE, 0,
                            "%s: a blocking call inside a callback; use its _async form", what);
    }
    return 0;
}

int kelpie__turn(struct kelpie *kelpie, int64_t deadline_ns, struct kelpie_error *error) {
    KELPIE_ASSERT(!kelpie->loop->is_dispatching);
    return kelpie__loop_step(kelpie->loop, deadline_ns, error);
}

int kelpie_fd(const struct kelpie *kelpie) {
    return kelpie__os_wait_handle(kelpie->os);
}

int kelpie_timeout_ms(const struct kelpie *kelpie) {
    int64_t deadline_ns = kelpie__loop_next_deadline(kelpie->loop);
    if (deadline_ns < 0) {
        return -1;
    }
    int64_t left_ns = deadline_ns - kelpie__os_now(kelpie->os, KELPIE_OS_CLOCK_MONOTONIC);
    if (left_ns <= 0) {
        return 0;
    }
    int64_t left_ms = (left_ns + KELPIE_NS_PER_MS - 1) / KELPIE_NS_PER_MS;
    KELPIE_ASSERT(left_ms > 0);
    return left_ms > INT32_MAX ? INT32_MAX : (int)left_ms;
}

int kelpie_dispatch(struct kelpie *kelpie, struct kelpie_error *error) {
    int status = kelpie__check_may_block(kelpie, "kelpie_dispatch", error);
    return status < 0 ? status : kelpie__turn(kelpie, 0, error);
}

int kelpie_wait(struct kelpie *kelpie, uint64_t timeout_ms, struct kelpie_error *error) {
    int status = kelpie__check_may_block(kelpie, "kelpie_wait", error);
    if (status < 0) {
        return status;
    }
    return kelpie__turn(kelpie, kelpie__loop_deadline(kelpie->loop, timeout_ms), error);
}

void kelpie__waiter_done(void *context, const struct kelpie_error *error) {
    struct kelpie_waiter *waiter = context;
    KELPIE_ASSERT(!waiter->is_done);
    waiter->is_done = true;
    if (error != NULL) {
        KELPIE_ASSERT(error->code < 0);
        waiter->status = error->code;
        waiter->error = *error;
    }
}

int kelpie__waiter_wait(struct kelpie *kelpie, struct kelpie_waiter *waiter,
                        struct kelpie_error *error) {
    while (!waiter->is_done) { /* bound: every operation has a deadline of its own */
        int status = kelpie__turn(kelpie, -1, error);
        if (status < 0) {
            return status;
        }
    }
    KELPIE_ASSERT(waiter->status == waiter->error.code);
    if (waiter->status < 0 && error != NULL) {
        *error = waiter->error;
    }
    return waiter->status;
}
