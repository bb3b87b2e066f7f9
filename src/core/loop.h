/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * The event loop over an os table: watched handles and timers. Handlers run to their end and never
 * wait; kelpie__loop_step is the only place that does. Time is read once a step (`now_ns`). Equal
 * deadlines fire in the order in which they were armed. A handler may watch, unwatch, arm and
 * disarm anything; an event of a handle that was unwatched in the same step is dropped.
 */
#ifndef KELPIE_CORE_LOOP_H
#define KELPIE_CORE_LOOP_H

#include "core/base.h"
#include "core/error.h"
#include "os/os.h"

#define KELPIE_LOOP_NO_SLOT UINT32_MAX

typedef void (*kelpie_loop_callback)(void *context, uint32_t bits); /* enum kelpie_os_event_bits */
typedef void (*kelpie_timer_callback)(void *context);

/* Lives in its owner, zeroed before its first use, and is disarmed before its memory goes. */
struct kelpie_timer {
    struct kelpie_timer *next; /* NULL: not armed */
    struct kelpie_timer *previous;
    int64_t deadline_ns;
    kelpie_timer_callback callback;
    void *context;
};

struct kelpie_loop_slot;

struct kelpie_loop {
    struct kelpie_os *os; /* borrowed: until destroy */
    int64_t now_ns;
    struct kelpie_loop_slot *slots; /* owned */
    uint32_t slot_count;
    uint32_t free_slot;
    bool is_dispatching;
    struct kelpie_timer timers; /* heads of rings, by deadline */
    struct kelpie_timer due;
#ifdef KELPIE_SIMULATION
    int64_t wall_base_ns; /* of canary 11 */
#endif
};

/* At most handle_max handles at once. Gives *out (destroy). Errors: MEMORY. */
KELPIE_MUST_CHECK int kelpie__loop_create(struct kelpie_os *os, uint32_t handle_max,
                                          struct kelpie_loop **out, struct kelpie_error *error);
void kelpie__loop_destroy(
    struct kelpie_loop *loop); /* takes NULL; nothing may be watched or armed any more */
void kelpie__loop_check(const struct kelpie_loop *loop);

/* Watches a handle for bits (HANGUP is always told). Gives the slot's number. Errors: LIMIT, IO,
 * MEMORY. */
KELPIE_MUST_CHECK int kelpie__loop_watch(struct kelpie_loop *loop, int handle, uint32_t bits,
                                         kelpie_loop_callback callback, void *context,
                                         uint32_t *out_slot);
/* Changes the bits; 0 keeps the slot but tells nothing at all, not even HANGUP. */
void kelpie__loop_watch_change(struct kelpie_loop *loop, uint32_t slot, uint32_t bits);
void kelpie__loop_unwatch(struct kelpie_loop *loop,
                          uint32_t slot); /* before the handle is closed */

/* Arms, or arms anew. A deadline that has passed fires in the next step, or later in this one. */
void kelpie__timer_arm(struct kelpie_loop *loop, struct kelpie_timer *timer, int64_t deadline_ns,
                       kelpie_timer_callback callback, void *context);
void kelpie__timer_disarm(struct kelpie_loop *loop,
                          struct kelpie_timer *timer); /* also of one that is not armed */
bool kelpie__timer_is_armed(const struct kelpie_timer *timer);

/* The earliest deadline, or -1. */
int64_t kelpie__loop_next_deadline(const struct kelpie_loop *loop);

/* Waits for the first event, timer or the deadline (-1: none), then handles all that is due.
 * Errors: IO. */
KELPIE_MUST_CHECK int kelpie__loop_step(struct kelpie_loop *loop, int64_t deadline_ns,
                                        struct kelpie_error *error);

/* now + a number of milliseconds, without overflow; UINT64_MAX gives -1, no deadline. Outside of a
 * step the time is read anew: who calls may have been away for long. */
int64_t kelpie__loop_deadline(struct kelpie_loop *loop, uint64_t timeout_ms);

#endif
