/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Signals as something to wait for. What is pending belongs to the process (process.c sets it); the
 * handle only knows which of them it shows.
 */
#include <errno.h>

#include "sim/heap.h"
#include "sim/stream.h"

struct sim_signals {
    struct sim_object object;
    struct sim_process *process; /* borrowed: it holds the handle */
    uint64_t shown;              /* bit n - 1: signal n */
};

static struct sim_signals *signals_of(struct sim_object *object) {
    return KELPIE_CONTAINER_OF(object, struct sim_signals, object);
}

static uint32_t signals_ready(struct sim_object *object) {
    const struct sim_signals *signals = signals_of(object);
    return (signals->process->signals_pending & signals->shown) != 0 ? KELPIE_OS_READABLE : 0;
}

static void signals_close(struct sim_object *object) {
    struct sim_signals *signals = signals_of(object);
    if (signals->process->signals == object) {
        signals->process->signals = NULL;
    }
    kelpie__sim_heap_free(object->machine->heap, signals, sizeof(*signals));
}

static const struct sim_object_operations signals_operations = {
    .kind = "signals",
    .ready = signals_ready,
    .close = signals_close,
};

int kelpie__sim_signals_create(struct sim_process *process, uint64_t signals,
                               struct sim_object **out) {
    struct sim_machine *machine = process->machine;
    struct sim_signals *made = kelpie__sim_heap_alloc(machine->heap, sizeof(*made));
    if (made == NULL) {
        return -ENOMEM;
    }
    kelpie__sim_object_init(&made->object, machine, &signals_operations);
    made->process = process;
    made->shown = signals & ~process->signals_ignored;
    process->signals_blocked |= made->shown;
    process->signals = &made->object;
    KELPIE_ASSERT((made->shown & ~process->signals_blocked) == 0);
    *out = &made->object;
    return 0;
}

int kelpie__sim_signals_take(struct sim_object *object) {
    if (object->operations != &signals_operations) {
        return -EINVAL;
    }
    struct sim_signals *signals = signals_of(object);
    uint64_t pending = signals->process->signals_pending & signals->shown;
    if (pending == 0) {
        return -EAGAIN;
    }
    int number = __builtin_ctzll(pending) + 1;
    signals->process->signals_pending &= ~(UINT64_C(1) << (number - 1));
    KELPIE_ASSERT(number > 0 && number <= 64);
    return number;
}
