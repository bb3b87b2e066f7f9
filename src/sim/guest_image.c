/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * What can be done to a guest from outside: saved and loaded, looked at, and hurt. An image is a
 * ticket for a copy of the guest's memory (guest.h); its bytes follow from the guest and from
 * nothing of the process that simulates it.
 */
#include <stdlib.h>
#include <string.h>

#include "sim/guest_state.h"

#define IMAGE_MAGIC "KELPIESIMGUEST1" /* with its zero: 16 bytes */
#define IMAGE_HEADER_BYTES 128u

/* Numbers are written byte by byte, so that an image is the same on every machine. */
enum image_field {
    IMAGE_MAGIC_AT = 0,
    IMAGE_COPY_AT = 16,
    IMAGE_ID_AT = 24,
    IMAGE_LINEAGE_AT = 32,
    IMAGE_TICKS_AT = 40,
    IMAGE_STARTS_AT = 48,
    IMAGE_NOW_AT = 56,
    IMAGE_PROCESSES_AT = 64,
    IMAGE_NONCE_AT = 72,
    IMAGE_CHECK_AT = 120,
};

static_assert(IMAGE_NONCE_AT + SIM_GUEST_NONCE_BYTES <= IMAGE_CHECK_AT, "fields do not overlap");
static_assert(SIM_GUEST_IMAGE_BYTES % 8 == 0, "the pattern is made of words");

static void image_write(uint8_t *image, enum image_field at, uint64_t value) {
    for (unsigned i = 0; i < 8; i += 1) {
        image[(size_t)at + i] = (uint8_t)(value >> (8 * i));
    }
}

static uint64_t image_read(const uint8_t *image, size_t at) {
    uint64_t value = 0;
    for (unsigned i = 0; i < 8; i += 1) {
        value |= (uint64_t)image[at + i] << (8 * i);
    }
    return value;
}

static uint64_t image_mix(uint64_t value) {
    value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9u;
    value = (value ^ (value >> 27)) * 0x94d049bb133111ebu;
    return value ^ (value >> 31);
}

/* What lies behind the header, at any place of it: cheap, for it is looked at often. From one word
 * to the next it grows by as much. */
#define IMAGE_WORD_FACTOR UINT64_C(0x9e3779b97f4a7c15)
#define IMAGE_WORD_STEP (8 * IMAGE_WORD_FACTOR)

static uint64_t image_word(uint64_t check, size_t at) {
    return check + at * IMAGE_WORD_FACTOR;
}

static uint64_t image_check(const uint8_t *image) {
    uint64_t check = 0;
    for (size_t at = 0; at < IMAGE_CHECK_AT; at += 8) {
        check = image_mix(check + image_read(image, at) + at);
    }
    return check;
}

size_t kelpie__sim_guest_save(struct sim_guest *guest, uint8_t out[SIM_GUEST_IMAGE_BYTES]) {
    struct sim_guest_truth truth;
    KELPIE_ASSERT(!guest->is_running);
    kelpie__sim_guest_truth(guest, &truth);
    uint64_t copy = kelpie__sim_guest_copy_keep(guest);
    if (copy == 0) {
        return 0;
    }
    memset(out, 0, IMAGE_HEADER_BYTES);
    memcpy(out, IMAGE_MAGIC, sizeof(IMAGE_MAGIC));
    image_write(out, IMAGE_COPY_AT, copy);
    image_write(out, IMAGE_ID_AT, truth.id);
    image_write(out, IMAGE_LINEAGE_AT, truth.lineage);
    image_write(out, IMAGE_TICKS_AT, truth.ticks);
    image_write(out, IMAGE_STARTS_AT, truth.command_starts);
    image_write(out, IMAGE_NOW_AT, (uint64_t)guest->frozen_ns);
    image_write(out, IMAGE_PROCESSES_AT, truth.process_count);
    memcpy(out + IMAGE_NONCE_AT, truth.nonce, SIM_GUEST_NONCE_BYTES);
    uint64_t check = image_check(out);
    image_write(out, IMAGE_CHECK_AT, check);
    uint64_t word = image_word(check, IMAGE_HEADER_BYTES);
    for (size_t at = IMAGE_HEADER_BYTES; at < SIM_GUEST_IMAGE_BYTES; at += 8) {
        memcpy(out + at, &word, sizeof(word));
        word += IMAGE_WORD_STEP;
    }
    const struct sim_event event = {
        .type = SIM_EVENT_GUEST, .process = guest->owner, .guest = guest, .detail = "saved"};
    kelpie__sim_world_emit(guest->world, &event);
    return SIM_GUEST_IMAGE_BYTES;
}

static bool image_is_one(const uint8_t *image, size_t count) {
    return count >= IMAGE_HEADER_BYTES && memcmp(image, IMAGE_MAGIC, sizeof(IMAGE_MAGIC)) == 0 &&
           image_read(image, IMAGE_CHECK_AT) == image_check(image);
}

uint64_t kelpie__sim_guest_image_lineage(const uint8_t *image) {
    static_assert(IMAGE_LINEAGE_AT + 8 <= IMAGE_HEADER_BYTES, "it is in the header");
    return image_read(image, IMAGE_LINEAGE_AT);
}

static bool image_is_whole(const uint8_t *image, uint64_t check) {
    uint64_t wrong = 0;
    uint64_t word = image_word(check, IMAGE_HEADER_BYTES);
    static_assert((SIM_GUEST_IMAGE_BYTES - IMAGE_HEADER_BYTES) % 32 == 0, "four words at a time");
    for (size_t at = IMAGE_HEADER_BYTES; at < SIM_GUEST_IMAGE_BYTES; at += 32) {
        uint64_t found[4];
        memcpy(found, image + at, sizeof(found));
        wrong |= (found[0] ^ word) | (found[1] ^ (word + IMAGE_WORD_STEP)) |
                 (found[2] ^ (word + 2 * IMAGE_WORD_STEP)) |
                 (found[3] ^ (word + 3 * IMAGE_WORD_STEP));
        word += 4 * IMAGE_WORD_STEP;
    }
    return wrong == 0;
}

/* A hash of what is wrong behind the header; 0: nothing. */
static uint64_t image_damage(const uint8_t *image, size_t count) {
    uint64_t check = image_read(image, IMAGE_CHECK_AT);
    uint64_t damage = 0;
    if (count == SIM_GUEST_IMAGE_BYTES && image_is_whole(image, check)) {
        return 0; /* nearly all are */
    }
    for (size_t at = IMAGE_HEADER_BYTES; at + 8 <= count && at < SIM_GUEST_IMAGE_BYTES; at += 8) {
        const uint64_t wanted = image_word(check, at);
        uint64_t found;
        memcpy(&found, image + at, sizeof(found));
        damage = found == wanted ? damage : image_mix(damage + (found ^ wanted) + at) | 1;
    }
    return count == SIM_GUEST_IMAGE_BYTES ? damage : image_mix(damage + count) | 1;
}

bool kelpie__sim_guest_image_truth(const void *image, size_t count, struct sim_guest_truth *out) {
    const uint8_t *bytes = image;
    if (!image_is_one(bytes, count) || image_damage(bytes, count) != 0) {
        return false;
    }
    *out = (struct sim_guest_truth){
        .id = image_read(bytes, IMAGE_ID_AT),
        .lineage = image_read(bytes, IMAGE_LINEAGE_AT),
        .ticks = image_read(bytes, IMAGE_TICKS_AT),
        .command_starts = image_read(bytes, IMAGE_STARTS_AT),
        .process_count = (uint32_t)image_read(bytes, IMAGE_PROCESSES_AT),
    };
    memcpy(out->nonce, bytes + IMAGE_NONCE_AT, SIM_GUEST_NONCE_BYTES);
    return true;
}

bool kelpie__sim_guest_image_apply(struct sim_guest *guest, const void *image, size_t count) {
    const uint8_t *bytes = image;
    if (!image_is_one(bytes, count) ||
        !kelpie__sim_guest_copy_use(guest, image_read(bytes, IMAGE_COPY_AT))) {
        return false;
    }
    guest->lineage = image_read(bytes, IMAGE_LINEAGE_AT);
    guest->frozen_ns = (int64_t)image_read(bytes, IMAGE_NOW_AT);
    uint64_t damage = image_damage(bytes, count);
    guest->is_damaged = damage != 0;
    guest->machine->world = guest->world;
    guest->machine->guest = guest;
    guest->kernel->damage = damage;
    KELPIE_ASSERT(guest->kernel->lineage == guest->lineage);
    return true;
}

/* ---- the truth ------------------------------------------------------------------------------- */

/* The agent's ready process is a part of the agent, while it lives. */
static uint32_t image_process_count(const struct sim_machine *machine) {
    uint32_t count = 0;
    const struct sim_process *process = machine->processes;
    for (; process != NULL; process = process->next) { /* bound: the list */
        bool is_part = process->awaits_program && process->state < SIM_PROCESS_ZOMBIE;
        count += is_part ? 0 : 1;
    }
    KELPIE_ASSERT(count <= machine->process_count);
    return count;
}

void kelpie__sim_guest_look_inside(struct sim_guest *guest, struct sim_guest_inside *out) {
    const struct sim_kernel *kernel = guest->kernel;
    const struct sim_machine *machine = guest->machine;
    KELPIE_ASSERT(guest->slot->resident == guest);
    const struct sim_process *init = kelpie__sim_process_find(guest->machine, 1);
    *out = (struct sim_guest_inside){
        .command_starts = kernel->command_starts,
        .entropy = kernel->entropy,
        .wall_offset_ns = machine->wall_offset_ns,
        .has_init = init != NULL && init->state != SIM_PROCESS_ZOMBIE,
        .process_count = image_process_count(machine),
    };
    memcpy(out->nonce, kernel->nonce, sizeof(out->nonce));
    memcpy(out->boot_id, machine->boot_id, sizeof(out->boot_id));
    memcpy(out->hostname, machine->hostname, sizeof(out->hostname));
}

void kelpie__sim_guest_truth(struct sim_guest *guest, struct sim_guest_truth *out) {
    struct sim_guest_inside inside = guest->away;
    if (guest->slot->resident == guest) {
        kelpie__sim_guest_look_inside(guest, &inside);
    }
    *out = (struct sim_guest_truth){
        .id = guest->id,
        .lineage = guest->lineage,
        .ticks = (uint64_t)(kelpie__sim_guest_now(guest) / KELPIE_NS_PER_MS),
        .command_starts = inside.command_starts,
        .entropy = inside.entropy,
        .wall_ns = kelpie__sim_guest_now(guest) + inside.wall_offset_ns,
        .has_agent = inside.has_init && guest->end == SIM_GUEST_LIVES,
        .is_greeted = guest->is_greeted,
        .is_damaged = guest->is_damaged,
        .was_asked_to_end = guest->was_asked_to_end,
        .went_by_itself = guest->end != SIM_GUEST_LIVES && !guest->has_panicked,
        .process_count = inside.process_count,
    };
    memcpy(out->nonce, inside.nonce, sizeof(out->nonce));
    memcpy(out->boot_id, inside.boot_id, sizeof(out->boot_id));
    memcpy(out->hostname, inside.hostname, sizeof(out->hostname));
}

uint64_t kelpie__sim_guest_lineage(const struct sim_guest *guest) {
    return guest->lineage;
}

struct sim_process *kelpie__sim_guest_owner(const struct sim_guest *guest) {
    return guest->owner;
}

struct sim_machine *kelpie__sim_guest_machine(struct sim_guest *guest) {
    kelpie__sim_guest_slot_enter(guest);
    KELPIE_ASSERT(guest->machine->guest == guest);
    return guest->machine;
}

/* ---- what goes wrong ------------------------------------------------------------------------- */

void kelpie__sim_guest_panic(struct sim_guest *guest, const char *why) {
    if (guest->end != SIM_GUEST_LIVES) {
        return;
    }
    kelpie__sim_guest_slot_enter(guest);
    kelpie__sim_kernel_print(guest, "Kernel panic - not syncing: %s", why);
    guest->has_panicked = true;
    if (guest->kernel->reboots_on_panic) {
        kelpie__sim_guest_finish(guest, SIM_GUEST_RESET);
    } else {
        guest->kernel->is_hung = true;
        kelpie__sim_guest_update(guest);
    }
}

void kelpie__sim_guest_hang(struct sim_guest *guest) {
    kelpie__sim_guest_slot_enter(guest);
    guest->kernel->is_hung = true;
    kelpie__sim_guest_update(guest);
}

void kelpie__sim_guest_deafen(struct sim_guest *guest) {
    kelpie__sim_guest_slot_enter(guest);
    guest->kernel->is_deaf = true;
    kelpie__sim_guest_tell(guest);
}

void kelpie__sim_guest_ungreet(struct sim_guest *guest) {
    guest->is_greeted = false;
}

void kelpie__sim_guest_lie(struct sim_guest *guest, uint32_t billionth) {
    KELPIE_ASSERT(billionth <= 1000000000u);
    guest->lie_billionth = billionth;
}
