/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * See ending.h. A guest that goes is told of twice: when it resets or switches off its machine, and
 * when its VMM lets go of it; one that is killed only then.
 */
#include "sim/ending.h"

#include <string.h>

#include "sim/guest.h"
#include "sim/truth.h"

/* A VM that is restored in place has two guests for a moment: the younger one is its own, unless it
 * is given up. */
static void on_event(void *context, struct sim_world *world, const struct sim_event *event) {
    struct sim_endings *endings = context;
    struct sim_guest_truth truth;
    uint32_t index = 0;
    if (event->type != SIM_EVENT_GUEST || event->process == NULL ||
        !kelpie__sim_truth_vm_index(event->process, &index)) {
        return;
    }
    KELPIE_ASSERT(index < SIM_SWARM_VM_MAX && event->guest != NULL);
    struct sim_ending *ending = &endings->vms[index];
    kelpie__sim_guest_truth(event->guest, &truth);
    int64_t now_ns = kelpie__sim_now(world);
    bool is_graceful = truth.went_by_itself && truth.was_asked_to_end;
    bool is_former = truth.id < ending->guest && !ending->is_over;
    ending->went_ns =
        is_graceful ? now_ns : ending->went_ns; /* perhaps after one that never moved in */
    if (is_former || (truth.id == ending->guest && ending->is_over)) {
        return;
    }
    bool is_over = truth.went_by_itself || strcmp(event->detail, "destroyed") == 0;
    *ending = (struct sim_ending){.guest = truth.id,
                                  .is_over = is_over,
                                  .was_asked = truth.was_asked_to_end,
                                  .went = truth.went_by_itself,
                                  .time_ns = now_ns,
                                  .went_ns = ending->went_ns};
}

void kelpie__sim_endings_observe(struct sim_endings *endings, struct sim_world *world) {
    *endings = (struct sim_endings){0};
    kelpie__sim_world_observe(world, on_event, endings);
}
