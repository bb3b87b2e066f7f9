/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * See loop.h. A slot's generation is part of its cookie, so that an event which was fetched before
 * its slot was freed, and perhaps taken again, is known for stale. Timers are a ring sorted by
 * deadline: a VM has a handful of them, new ones mostly belong at its end, where the search begins.
 */
#include "core/loop.h"

#include "core/limits.h"
#include "os/os_call.h"
#include "os/os_mark.h"

#define LOOP_EVENTS_PER_STEP 32u
#define LOOP_TIMERS_PER_STEP 1024u /* one that arms itself for now fires in the next step */

struct kelpie_loop_slot {
    kelpie_loop_callback callback; /* NULL: free */
    void *context;
    int handle;
    uint32_t bits;
    uint32_t generation;
    uint32_t next_free;
};

static uint64_t slot_cookie(const struct kelpie_loop *loop, uint32_t slot) {
    return (uint64_t)loop->slots[slot].generation << 32 | slot;
}

static void timer_ring_init(struct kelpie_timer *head) {
    head->next = head;
    head->previous = head;
}

static void timer_insert_before(struct kelpie_timer *place, struct kelpie_timer *timer) {
    timer->previous = place->previous;
    timer->next = place;
    place->previous->next = timer;
    place->previous = timer;
}

static void timer_remove(struct kelpie_timer *timer) {
    KELPIE_ASSERT(timer->next->previous == timer);
    KELPIE_ASSERT(timer->previous->next == timer);
    timer->previous->next = timer->next;
    timer->next->previous = timer->previous;
    timer->next = NULL;
    timer->previous = NULL;
}

void kelpie__loop_check(const struct kelpie_loop *loop) {
    KELPIE_ASSERT(loop->os != NULL);
    KELPIE_ASSERT(loop->slots != NULL);
    KELPIE_ASSERT(loop->free_slot <= loop->slot_count || loop->free_slot == KELPIE_LOOP_NO_SLOT);
    KELPIE_ASSERT(loop->timers.next != NULL);
    KELPIE_ASSERT(loop->timers.previous != NULL);
    KELPIE_ASSERT(loop->due.next != NULL);
    KELPIE_ASSERT(loop->due.previous != NULL);
}

/* What deadlines are measured by. */
static int64_t loop_clock(const struct kelpie_loop *loop) {
    int64_t now_ns = kelpie__os_now(loop->os, KELPIE_OS_CLOCK_MONOTONIC);
#ifdef KELPIE_SIMULATION
    if (KELPIE_CANARY(loop->os, 11)) {
        now_ns = kelpie__os_now(loop->os, KELPIE_OS_CLOCK_WALL) - loop->wall_base_ns;
    }
#endif
    return now_ns > 0 ? now_ns : 0;
}

int kelpie__loop_create(struct kelpie_os *os, uint32_t handle_max, struct kelpie_loop **out,
                        struct kelpie_error *error) {
    KELPIE_ASSERT(handle_max > 0 && handle_max < KELPIE_LOOP_NO_SLOT);
    struct kelpie_loop *loop = kelpie__alloc(os, sizeof(*loop));
    struct kelpie_loop_slot *slots = kelpie__alloc(os, handle_max * sizeof(*slots));
    if (loop == NULL || slots == NULL) {
        kelpie__free(os, loop, sizeof(*loop));
        kelpie__free(os, slots, handle_max * sizeof(*slots));
        return kelpie__fail(error, KELPIE_E_MEMORY, 0, "no memory for an event loop");
    }
    loop->os = os;
    loop->slots = slots;
    loop->slot_count = handle_max;
    for (uint32_t i = 0; i < handle_max; i += 1) {
        slots[i].next_free = i + 1 < handle_max ? i + 1 : KELPIE_LOOP_NO_SLOT;
    }
    timer_ring_init(&loop->timers);
    timer_ring_init(&loop->due);
    loop->now_ns = kelpie__os_now(os, KELPIE_OS_CLOCK_MONOTONIC);
#ifdef KELPIE_SIMULATION
    if (KELPIE_CANARY(os, 11)) {
        loop->wall_base_ns = kelpie__os_now(os, KELPIE_OS_CLOCK_WALL) - loop->now_ns;
    }
#endif
    kelpie__loop_check(loop);
    *out = loop;
    return 0;
}

void kelpie__loop_destroy(struct kelpie_loop *loop) {
    if (loop == NULL) {
        return;
    }
    kelpie__loop_check(loop);
    KELPIE_ASSERT(!loop->is_dispatching);
    KELPIE_ASSERT(loop->timers.next == &loop->timers);
    KELPIE_ASSERT(loop->due.next == &loop->due);
    struct kelpie_os *os = loop->os;
    kelpie__free(os, loop->slots, loop->slot_count * sizeof(*loop->slots));
    kelpie__free(os, loop, sizeof(*loop));
}

int kelpie__loop_watch(struct kelpie_loop *loop, int handle, uint32_t bits,
                       kelpie_loop_callback callback, void *context, uint32_t *out_slot) {
    kelpie__loop_check(loop);
    KELPIE_ASSERT(handle >= 0);
    KELPIE_ASSERT(callback != NULL);
    uint32_t slot = loop->free_slot;
    if (slot == KELPIE_LOOP_NO_SLOT) {
        return KELPIE_E_LIMIT;
    }
    struct kelpie_loop_slot *entry = &loop->slots[slot];
    KELPIE_ASSERT(entry->callback == NULL);
    int status = bits == 0 ? 0 : kelpie__os_watch(loop->os, handle, bits, slot_cookie(loop, slot));
    if (status < 0) {
        return KELPIE_E_IO;
    }
    loop->free_slot = entry->next_free;
    entry->callback = callback;
    entry->context = context;
    entry->handle = handle;
    entry->bits = bits;
    *out_slot = slot;
    return 0;
}

void kelpie__loop_watch_change(struct kelpie_loop *loop, uint32_t slot, uint32_t bits) {
    KELPIE_ASSERT(slot < loop->slot_count);
    struct kelpie_loop_slot *entry = &loop->slots[slot];
    KELPIE_ASSERT(entry->callback != NULL);
    if (entry->bits == bits) {
        return;
    }
    /* A change of a handle that is watched cannot fail; one that is watched anew may, for want of
     * memory: then the owner's deadline tells, since nothing will come. */
    kelpie__ignore(kelpie__os_watch(loop->os, entry->handle, bits, slot_cookie(loop, slot)));
    entry->bits = bits;
}

void kelpie__loop_unwatch(struct kelpie_loop *loop, uint32_t slot) {
    KELPIE_ASSERT(slot < loop->slot_count);
    struct kelpie_loop_slot *entry = &loop->slots[slot];
    KELPIE_ASSERT(entry->callback != NULL);
    if (entry->bits != 0) {
        kelpie__ignore(kelpie__os_watch(loop->os, entry->handle, 0,
                                        0)); /* a closed handle is gone by itself */
    }
    entry->callback = NULL;
    entry->context = NULL;
    entry->bits = 0;
    entry->generation += 1;
    entry->next_free = loop->free_slot;
    loop->free_slot = slot;
}

bool kelpie__timer_is_armed(const struct kelpie_timer *timer) {
    return timer->next != NULL;
}

void kelpie__timer_disarm(struct kelpie_loop *loop, struct kelpie_timer *timer) {
    kelpie__loop_check(loop);
    if (kelpie__timer_is_armed(timer)) {
        timer_remove(timer);
    }
    KELPIE_ASSERT(!kelpie__timer_is_armed(timer));
}

void kelpie__timer_arm(struct kelpie_loop *loop, struct kelpie_timer *timer, int64_t deadline_ns,
                       kelpie_timer_callback callback, void *context) {
    KELPIE_ASSERT(deadline_ns >= 0);
    KELPIE_ASSERT(callback != NULL);
    kelpie__timer_disarm(loop, timer);
    timer->deadline_ns = deadline_ns;
    timer->callback = callback;
    timer->context = context;
    struct kelpie_timer *place = loop->timers.previous;
    while (place != &loop->timers &&
           place->deadline_ns > deadline_ns) { /* bound: the armed timers */
        place = place->previous;
    }
    timer_insert_before(place->next, timer);
    KELPIE_ASSERT(kelpie__timer_is_armed(timer));
}

int64_t kelpie__loop_next_deadline(const struct kelpie_loop *loop) {
    kelpie__loop_check(loop);
    if (loop->due.next != &loop->due) {
        return loop->now_ns;
    }
    return loop->timers.next != &loop->timers ? loop->timers.next->deadline_ns : -1;
}

static void loop_dispatch_events(struct kelpie_loop *loop, const struct kelpie_os_event *events,
                                 uint32_t count) {
    KELPIE_ASSERT(count <= LOOP_EVENTS_PER_STEP);
    KELPIE_ASSERT(loop->is_dispatching);
    for (uint32_t i = 0; i < count; i += 1) {
        uint32_t slot = (uint32_t)events[i].cookie;
        KELPIE_ASSERT(slot < loop->slot_count);
        const struct kelpie_loop_slot *entry = &loop->slots[slot];
        bool is_stale = entry->callback == NULL || slot_cookie(loop, slot) != events[i].cookie;
        uint32_t bits = events[i].bits & (entry->bits | KELPIE_OS_HANGUP);
        if (!is_stale && entry->bits != 0 && bits != 0) {
            entry->callback(entry->context, bits);
        }
    }
}

/* Due timers go to a ring of their own first: what a handler arms for now waits for the next step.
 */
static void loop_fire_timers(struct kelpie_loop *loop) {
    KELPIE_ASSERT(loop->is_dispatching);
    for (uint32_t budget = LOOP_TIMERS_PER_STEP; budget > 0; budget -= 1) {
        struct kelpie_timer *timer = loop->timers.next;
        if (timer == &loop->timers || timer->deadline_ns > loop->now_ns) {
            break;
        }
        timer_remove(timer);
        timer_insert_before(&loop->due, timer);
    }
    for (uint32_t budget = LOOP_TIMERS_PER_STEP; budget > 0; budget -= 1) {
        struct kelpie_timer *timer = loop->due.next;
        if (timer == &loop->due) {
            break;
        }
        timer_remove(timer);
        timer->callback(timer->context);
    }
    KELPIE_ASSERT(loop->due.next == &loop->due);
}

int kelpie__loop_step(struct kelpie_loop *loop, int64_t deadline_ns, struct kelpie_error *error) {
    kelpie__loop_check(loop);
    KELPIE_ASSERT(!loop->is_dispatching);
    struct kelpie_os_event events[LOOP_EVENTS_PER_STEP];
    int64_t timer_ns = kelpie__loop_next_deadline(loop);
    bool timer_is_first = timer_ns >= 0 && (deadline_ns < 0 || timer_ns < deadline_ns);
    int count = kelpie__os_wait(loop->os, events, LOOP_EVENTS_PER_STEP,
                                timer_is_first ? timer_ns : deadline_ns);
    if (count < 0) {
        return kelpie__fail(error, KELPIE_E_IO, -count, "wait for events");
    }
    loop->now_ns = loop_clock(loop);
    loop->is_dispatching = true;
    loop_dispatch_events(loop, events, (uint32_t)count);
    loop_fire_timers(loop);
    loop->is_dispatching = false;
    kelpie__loop_check(loop);
    return 0;
}

int64_t kelpie__loop_deadline(struct kelpie_loop *loop, uint64_t timeout_ms) {
    kelpie__loop_check(loop);
    if (!loop->is_dispatching) {
        loop->now_ns = loop_clock(loop);
    }
    if (timeout_ms == UINT64_MAX) {
        return -1;
    }
    int64_t timeout_ns = 0;
    int64_t deadline_ns = 0;
    bool fits = timeout_ms <= INT64_MAX / KELPIE_NS_PER_MS &&
                !__builtin_mul_overflow((int64_t)timeout_ms, KELPIE_NS_PER_MS, &timeout_ns) &&
                !__builtin_add_overflow(loop->now_ns, timeout_ns, &deadline_ns);
    return fits ? deadline_ns : INT64_MAX;
}
