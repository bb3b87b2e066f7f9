/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Where guests' memory lies: slots are fixed ranges of addresses, reserved when first needed. A
 * guest that boots takes an empty one; one that is loaded takes that of its image, since memory
 * holds addresses. Of several guests in a slot one is resident, the others are copies beside it.
 * Also keeps the copies that images stand for.
 */
#include <stdlib.h>
#include <string.h>

#include "sim/guest_state.h"

#define SLOT_COUNT_MAX 64u
#define SLOT_COPIES_STEP 64u
#define SLOT_PROGRAM_MAX 64u

struct slot_copy {
    struct sim_guest_copy copy;
    uint32_t slot;
    struct sim_machine *machine; /* within, at their addresses in the slot */
    struct sim_kernel *kernel;
};

/* A user's program: kelpie__sim_guest_program. */
struct slot_program {
    char name[SIM_NAME_BYTES_MAX];
    sim_main main;
};

struct guest_slots {
    struct slot_program programs[SLOT_PROGRAM_MAX];
    uint32_t program_count;
    struct sim_guest_slot slots[SLOT_COUNT_MAX];
    uint32_t slot_count;
    uint64_t guest_count;
    struct slot_copy *copies;
    uint64_t copy_count;
    uint64_t copy_capacity;
    struct sim_guest_copy_scratch scratch;
};

/* NULL: no memory. */
static struct guest_slots *slots_of(struct sim_world *world) {
    void **place = kelpie__sim_world_guest_slots(world);
    if (*place == NULL) {
        *place = calloc(1, sizeof(struct guest_slots));
    }
    return *place;
}

/* The empty one, a new one, or that with the fewest guests. */
static struct sim_guest_slot *slot_choose(struct sim_world *world, struct guest_slots *slots) {
    struct sim_guest_slot *best = NULL;
    for (uint32_t i = 0; i < slots->slot_count; i += 1) {
        struct sim_guest_slot *slot = &slots->slots[i];
        best = best == NULL || slot->guest_count < best->guest_count ? slot : best;
    }
    bool wants_new = best == NULL || best->guest_count > 0;
    if (wants_new && slots->slot_count < SLOT_COUNT_MAX) {
        void *base = kelpie__sim_world_range(world, slots->slot_count, SIM_GUEST_SLOT_BYTES);
        if (base != NULL) {
            best = &slots->slots[slots->slot_count];
            *best = (struct sim_guest_slot){.base = base};
            slots->slot_count += 1;
        }
    }
    return best;
}

/* `model`: without a page, the copy is whole. */
static bool slot_copy(struct sim_guest *guest, const struct sim_guest_copy *model,
                      struct sim_guest_copy *out) {
    struct guest_slots *slots = slots_of(guest->world);
    struct sim_heap *heap = kelpie__sim_world_host(guest->world)->heap;
    KELPIE_ASSERT(guest->slot->resident == guest && slots != NULL);
    KELPIE_ASSERT(guest->machine->heap == guest->slot->base);
    return kelpie__sim_guest_copy_fill(out, heap, &slots->scratch, model, guest->machine);
}

static bool slot_swap_out(struct sim_guest *guest) {
    kelpie__sim_guest_look_inside(guest, &guest->away);
    kelpie__sim_guest_look(guest);
    if (!slot_copy(guest, &guest->slot->model, &guest->swapped)) {
        return false;
    }
    guest->slot->resident = NULL;
    return true;
}

bool kelpie__sim_guest_slot_take(struct sim_guest *guest) {
    KELPIE_ASSERT(guest->slot == NULL);
    struct guest_slots *slots = slots_of(guest->world);
    struct sim_guest_slot *slot = slots == NULL ? NULL : slot_choose(guest->world, slots);
    if (slot == NULL || (slot->resident != NULL && !slot_swap_out(slot->resident))) {
        return false;
    }
    guest->slot = slot;
    slot->guest_count += 1;
    slot->resident = guest;
    return true;
}

uint32_t kelpie__sim_guest_slot_index(const struct sim_guest *guest) {
    const struct guest_slots *slots = slots_of(guest->world);
    KELPIE_ASSERT(slots != NULL && guest->slot != NULL);
    return (uint32_t)(guest->slot - slots->slots);
}

void kelpie__sim_guest_slot_leave(struct sim_guest *guest) {
    KELPIE_ASSERT(guest->slot != NULL);
    KELPIE_ASSERT(guest->slot->guest_count > 0);
    guest->slot->guest_count -= 1;
    if (guest->slot->resident == guest) {
        guest->slot->resident = NULL;
    }
    guest->slot = NULL;
    kelpie__sim_guest_copy_drop(&guest->swapped);
}

/* Puts a copy where whoever is there now has to go. Without memory for that one's own copy nothing
 * can be simulated any more. */
static void slot_put(struct sim_guest_slot *slot, const struct sim_guest_copy *copy) {
    const struct sim_guest *away = slot->resident;
    if (away != NULL) {
        bool is_swapped = slot_swap_out(slot->resident);
        KELPIE_ASSERT(is_swapped);
    }
    kelpie__sim_guest_copy_restore(copy, slot->base, away == NULL ? NULL : &away->swapped);
    KELPIE_ASSERT(slot->resident == NULL);
}

void kelpie__sim_guest_slot_enter(struct sim_guest *guest) {
    struct sim_guest_slot *slot = guest->slot;
    KELPIE_ASSERT(slot != NULL);
    if (slot->resident == guest) {
        return;
    }
    KELPIE_ASSERT(guest->swapped.page_count > 0);
    slot_put(slot, &guest->swapped);
    kelpie__sim_guest_copy_drop(&guest->swapped);
    slot->resident = guest;
}

/* What an image has is a difference from the slot's model, or whole, and then the next model. */
static bool slot_keep(struct sim_guest *guest, struct sim_guest_copy *out) {
    const struct sim_guest_copy whole = {0};
    struct sim_guest_copy *model = &guest->slot->model;
    if (model->pages != NULL) {
        if (!slot_copy(guest, model, out)) {
            return false;
        }
        if (out->line_count <= model->line_count / 2) {
            return true;
        }
        kelpie__sim_guest_copy_drop(out);
    }
    if (!slot_copy(guest, &whole, out)) {
        return false;
    }
    *model = *out;
    return true;
}

uint64_t kelpie__sim_guest_copy_keep(struct sim_guest *guest) {
    struct guest_slots *slots = slots_of(guest->world);
    KELPIE_ASSERT(slots != NULL);
    kelpie__sim_guest_slot_enter(guest);
    if (slots->copy_count == slots->copy_capacity) {
        uint64_t capacity = slots->copy_capacity + SLOT_COPIES_STEP;
        struct slot_copy *copies = realloc(slots->copies, capacity * sizeof(*copies));
        if (copies == NULL) {
            return 0;
        }
        slots->copies = copies;
        slots->copy_capacity = capacity;
    }
    struct slot_copy *kept = &slots->copies[slots->copy_count];
    *kept = (struct slot_copy){
        .slot = kelpie__sim_guest_slot_index(guest),
        .machine = guest->machine,
        .kernel = guest->kernel,
    };
    if (!slot_keep(guest, &kept->copy)) {
        return 0;
    }
    slots->copy_count += 1;
    return slots->copy_count;
}

bool kelpie__sim_guest_copy_use(struct sim_guest *guest, uint64_t number) {
    struct guest_slots *slots = slots_of(guest->world);
    if (slots == NULL || number == 0 || number > slots->copy_count) {
        return false;
    }
    const struct slot_copy *copy = &slots->copies[number - 1];
    KELPIE_ASSERT(guest->slot == NULL && copy->slot < slots->slot_count);
    guest->slot = &slots->slots[copy->slot];
    slot_put(guest->slot, &copy->copy);
    guest->slot->guest_count += 1;
    guest->slot->resident = guest;
    guest->machine = copy->machine;
    guest->kernel = copy->kernel;
    return true;
}

uint64_t kelpie__sim_guest_number(struct sim_world *world) {
    struct guest_slots *slots = slots_of(world);
    if (slots == NULL) {
        return 0;
    }
    slots->guest_count += 1;
    return slots->guest_count;
}

bool kelpie__sim_guest_add_user_program(struct sim_world *world, const char *name, sim_main main) {
    struct guest_slots *slots = slots_of(world);
    KELPIE_ASSERT(main != NULL);
    if (slots == NULL || strlen(name) >= sizeof(slots->programs[0].name)) {
        return false;
    }
    uint32_t at = 0;
    while (at < slots->program_count && strcmp(slots->programs[at].name, name) != 0) {
        at += 1;
    }
    if (at == SLOT_PROGRAM_MAX) {
        return false;
    }
    struct slot_program *program = &slots->programs[at];
    memcpy(program->name, name, strlen(name) + 1);
    program->main = main;
    slots->program_count = at == slots->program_count ? at + 1 : slots->program_count;
    return true;
}

uint32_t kelpie__sim_guest_user_programs(struct sim_world *world) {
    const struct guest_slots *slots = slots_of(world);
    return slots == NULL ? 0 : slots->program_count;
}

const char *kelpie__sim_guest_user_program(struct sim_world *world, uint32_t index,
                                           sim_main *out_main) {
    const struct guest_slots *slots = slots_of(world);
    if (slots == NULL || index >= slots->program_count) {
        return NULL;
    }
    *out_main = slots->programs[index].main;
    return slots->programs[index].name;
}

void kelpie__sim_guest_slots_destroy(struct sim_world *world) {
    void **place = kelpie__sim_world_guest_slots(world);
    struct guest_slots *slots = *place;
    if (slots == NULL) {
        return;
    }
    for (uint32_t i = 0; i < slots->slot_count; i += 1) {
        KELPIE_ASSERT(slots->slots[i].guest_count == 0);
        kelpie__sim_guest_layout_drop(&slots->slots[i].layout);
    }
    for (uint64_t i = 0; i < slots->copy_count; i += 1) {
        kelpie__sim_guest_copy_drop(&slots->copies[i].copy);
    }
    free(slots->copies);
    free(slots);
    *place = NULL;
}
