/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * One member on its way: see keeper.h. Callbacks only note what has happened; what follows from it
 * is done by kelpie__keeper_slot_look, where handles may be closed and VMs made.
 */
#include <errno.h>

#include "core/text.h"
#include "keeper/keeper.h"
#include "os/os_call.h"
#include "os/os_mark.h"
#include "wire/wire.h"

/* Its life is rehearsed so often, from waking up to standing still. Under TCG a guest's first
 * command costs 100 ms, and whatever is first run after that costs as much for its length: what a
 * claimer does has to have been done. */
#define SLOT_ROUND_COUNT 2u
#define SLOT_COMMAND_COUNT 2u /* of a round */
#define SLOT_WARM_TIMEOUT_MS 30000u
/* the machine's priority may be given back ten times a second, by all unprivileged users together
 */
#define SLOT_OFFER_COUNT_MAX 50u
#define SLOT_OFFER_RETRY_NS (120 * KELPIE_NS_PER_MS)
/* beyond the boot's own time: the packing of a root directory, once */
#define SLOT_START_MARGIN_MS 120000u
/* who stands back behind a busy host takes longer */
#define SLOT_BACKGROUND_FACTOR 4u

void kelpie__keeper_slot_check(const struct kelpie_keeper_slot *slot) {
    KELPIE_ASSERT((slot->vm == NULL) == (slot->phase == KELPIE_KEEPER_EMPTY));
    KELPIE_ASSERT(!slot->is_done || kelpie__keeper_slot_is_making(slot));
    KELPIE_ASSERT(slot->round_count <= SLOT_ROUND_COUNT);
    KELPIE_ASSERT(slot->warm_count <= SLOT_COMMAND_COUNT);
    KELPIE_ASSERT(slot->offer_count <= SLOT_OFFER_COUNT_MAX);
}

bool kelpie__keeper_slot_is_making(const struct kelpie_keeper_slot *slot) {
    KELPIE_ASSERT(slot->phase < KELPIE_KEEPER_PHASE_COUNT);
    return slot->phase != KELPIE_KEEPER_EMPTY && slot->phase != KELPIE_KEEPER_READY;
}

void kelpie__keeper_slot_empty(struct kelpie_keeper_slot *slot) {
    struct kelpie_keeper *keeper = slot->keeper;
    kelpie__keeper_slot_check(slot);
    kelpie__timer_disarm(keeper->kelpie->loop, &slot->offer_timer);
    kelpie_vm_close(slot->vm); /* the owner's connection, until it was offered */
    kelpie_exec_result_release(&slot->result);
    *slot = (struct kelpie_keeper_slot){.keeper = keeper};
    kelpie__keeper_slot_check(slot);
}

static void slot_failed(struct kelpie_keeper_slot *slot, const struct kelpie_error *why) {
    struct kelpie_error kept = *why;
    KELPIE_ASSERT(why->code < 0);
    KELPIE_REACHED(slot->keeper->os, "a member could not be made");
    kelpie__keeper_slot_empty(slot);
    kelpie__keeper_failed(slot->keeper, &kept);
}

static void slot_done(void *context, const struct kelpie_error *error) {
    struct kelpie_keeper_slot *slot = context;
    KELPIE_ASSERT(!slot->is_done);
    slot->is_done = true;
    slot->error = error != NULL ? *error : (struct kelpie_error){0};
}

/* ---- what each phase asks for ---------------------------------------------------------------- */

/* While none waits, somebody may be waiting for this one. */
static int begin_starting(struct kelpie_keeper_slot *slot, struct kelpie_error *error) {
    char params[96];
    KELPIE_ASSERT(slot->round_count == 0);
    bool is_background = kelpie__keeper_ready_count(slot->keeper) > 0;
    uint64_t boot_ms = slot->keeper->config->values.boot_timeout_ms;
    boot_ms = is_background ? boot_ms * SLOT_BACKGROUND_FACTOR : boot_ms;
    boot_ms = kelpie__min_u64(boot_ms, KELPIE_BOOT_TIMEOUT_MS_MAX);
    bool fits =
        kelpie__text_format(params, sizeof(params), "{\"timeout_ms\":%llu,\"background\":%s}",
                            (unsigned long long)boot_ms, is_background ? "true" : "false");
    KELPIE_ASSERT(fits);
    const struct kelpie_request request = {
        .method = "vm.start", .params = params, .timeout_ms = boot_ms + SLOT_START_MARGIN_MS};
    return kelpie__operation_start(slot->vm, &request, slot_done, slot, NULL, error);
}

static int begin_waking(struct kelpie_keeper_slot *slot, struct kelpie_error *error) {
    struct kelpie_vm_record record;
    int status = kelpie__vm_record(slot->vm, &record, error);
    if (status == 0 && record.state != KELPIE_VM_PAUSED) {
        slot_done(slot, NULL);
        return 0;
    }
    return status < 0 ? status : kelpie_vm_resume_async(slot->vm, slot_done, slot, NULL, error);
}

/* Whatever it ends with, the agent and what it needs have run: all streams in one, then the usual
 * command with nothing to read. */
static int begin_warming(struct kelpie_keeper_slot *slot, struct kelpie_error *error) {
    static const char *const commands[SLOT_COMMAND_COUNT][4] = {
        {"/bin/sh", "-c", "cat; echo x >&2", NULL}, {"echo", "x", NULL}};
    bool has_input = slot->warm_count == 0;
    const struct kelpie_exec_options options = {.struct_size = sizeof(options),
                                                .argv = commands[slot->warm_count],
                                                .stdin_bytes = has_input ? "x\n" : NULL,
                                                .stdin_count = has_input ? 2 : 0,
                                                .timeout_ms = SLOT_WARM_TIMEOUT_MS};
    KELPIE_ASSERT(slot->warm_count < SLOT_COMMAND_COUNT);
    kelpie_exec_result_release(&slot->result);
    slot->result = (struct kelpie_exec_result){.struct_size = sizeof(slot->result)};
    slot->warm_count += 1;
    return kelpie_vm_exec_async(slot->vm, &options, &slot->result, slot_done, slot, NULL, error);
}

static int begin_pausing(struct kelpie_keeper_slot *slot, struct kelpie_error *error) {
    slot->round_count += 1;
    KELPIE_ASSERT(slot->round_count <= SLOT_ROUND_COUNT);
    slot->warm_count = 0;
    return kelpie_vm_pause_async(slot->vm, slot_done, slot, NULL, error);
}

/* Only wakes the loop: what has become of it is looked at. */
static void slot_event(void *context, const struct kelpie_event *event) {
    struct kelpie_keeper_slot *slot = context;
    KELPIE_ASSERT(slot->vm != NULL);
    KELPIE_ASSERT(event->type != NULL);
}

static int begin_offering(struct kelpie_keeper_slot *slot, struct kelpie_error *error) {
    const struct kelpie_pool_values *values = &slot->keeper->pool.values;
    char params[160];
    bool fits = kelpie__text_format(params, sizeof(params), "{\"pool\":\"%s\",\"pool_id\":\"%s\"}",
                                    values->name, values->id);
    KELPIE_ASSERT(fits);
    const struct kelpie_request request = {
        .method = "vm.offer", .params = params, .timeout_ms = KELPIE_CALL_TIMEOUT_MS};
    slot->offer_count += 1;
    int status = kelpie_vm_subscribe(slot->vm, slot_event, slot, error); /* before it can go */
    return status < 0 ? status
                      : kelpie__operation_start(slot->vm, &request, slot_done, slot, NULL, error);
}

struct slot_step {
    enum kelpie_keeper_phase next;
    int (*begin)(struct kelpie_keeper_slot *slot, struct kelpie_error *error); /* of this phase */
};

static const struct slot_step slot_steps[KELPIE_KEEPER_PHASE_COUNT] = {
    [KELPIE_KEEPER_STARTING] = {KELPIE_KEEPER_WAKING, begin_starting},
    [KELPIE_KEEPER_WAKING] = {KELPIE_KEEPER_WARMING, begin_waking},
    [KELPIE_KEEPER_WARMING] = {KELPIE_KEEPER_PAUSING, begin_warming},
    [KELPIE_KEEPER_PAUSING] = {KELPIE_KEEPER_OFFERING, begin_pausing},
    [KELPIE_KEEPER_OFFERING] = {KELPIE_KEEPER_READY, begin_offering},
};

static void slot_enter(struct kelpie_keeper_slot *slot, enum kelpie_keeper_phase phase) {
    struct kelpie_error error = {0};
    KELPIE_ASSERT(phase < KELPIE_KEEPER_PHASE_COUNT && phase != KELPIE_KEEPER_EMPTY);
    KELPIE_ASSERT(slot->vm != NULL);
    slot->phase = phase;
    slot->is_done = false;
    if (slot_steps[phase].begin != NULL && slot_steps[phase].begin(slot, &error) < 0) {
        slot_failed(slot, &error);
    }
}

/* ---- begin, adopt ---------------------------------------------------------------------------- */

void kelpie__keeper_slot_begin(struct kelpie_keeper_slot *slot) {
    struct kelpie_keeper *keeper = slot->keeper;
    struct kelpie_error error = {0};
    KELPIE_ASSERT(slot->phase == KELPIE_KEEPER_EMPTY);
    if (kelpie_vm_create(keeper->kelpie, NULL, keeper->config, &slot->vm, &error) < 0) {
        slot->vm = NULL;
        kelpie__keeper_failed(keeper, &error);
        return;
    }
    slot_enter(slot, KELPIE_KEEPER_STARTING);
}

bool kelpie__keeper_slot_adopt(struct kelpie_keeper_slot *slot, const char *name) {
    struct kelpie_vm *vm = NULL;
    KELPIE_ASSERT(slot->phase == KELPIE_KEEPER_EMPTY);
    int status = kelpie_vm_open(slot->keeper->kelpie, name, &vm, NULL);
    if (status == KELPIE_E_NOT_FOUND) {
        kelpie__ignore(kelpie__pool_ready_forget(&slot->keeper->pool, name));
    }
    if (status < 0) {
        return false;
    }
    slot->vm = vm;
    slot->phase = KELPIE_KEEPER_READY;
    if (kelpie_vm_subscribe(vm, slot_event, slot, NULL) < 0 || vm->wire == NULL) {
        kelpie__keeper_slot_empty(slot);
        return false;
    }
    KELPIE_REACHED(slot->keeper->os, "a keeper took over a member of the one before");
    return true;
}

/* ---- look ------------------------------------------------------------------------------------ */

static void slot_offer_again(void *context) {
    struct kelpie_keeper_slot *slot = context;
    KELPIE_ASSERT(slot->phase == KELPIE_KEEPER_OFFERING);
    slot_done(slot, NULL);
    slot->error.code = KELPIE_E_BUSY;
}

static void slot_retry_offer(struct kelpie_keeper_slot *slot) {
    struct kelpie_loop *loop = slot->keeper->kelpie->loop;
    bool was_waiting = slot->error.message[0] == '\0';
    KELPIE_ASSERT(slot->phase == KELPIE_KEEPER_OFFERING);
    slot->is_done = false;
    if (was_waiting) {
        slot_enter(slot, KELPIE_KEEPER_OFFERING);
    } else {
        kelpie__timer_arm(loop, &slot->offer_timer, loop->now_ns + SLOT_OFFER_RETRY_NS,
                          slot_offer_again, slot);
    }
}

static void slot_advance(struct kelpie_keeper_slot *slot) {
    enum kelpie_keeper_phase phase = slot->phase;
    int code = slot->error.code;
    bool is_warm = phase == KELPIE_KEEPER_WARMING &&
                   (code == KELPIE_E_EXEC_NOT_FOUND || code == KELPIE_E_EXEC_DENIED);
    KELPIE_ASSERT(slot->is_done);
    KELPIE_ASSERT(kelpie__keeper_slot_is_making(slot));
    if (phase == KELPIE_KEEPER_OFFERING && code == KELPIE_E_BUSY &&
        slot->offer_count < SLOT_OFFER_COUNT_MAX) {
        slot_retry_offer(slot);
    } else if (code < 0 && !is_warm) {
        struct kelpie_error why = slot->error;
        slot_failed(slot, &why);
    } else if (phase == KELPIE_KEEPER_WARMING && slot->warm_count < SLOT_COMMAND_COUNT) {
        slot_enter(slot, KELPIE_KEEPER_WARMING);
    } else if (phase == KELPIE_KEEPER_PAUSING && slot->round_count < SLOT_ROUND_COUNT) {
        slot_enter(slot, KELPIE_KEEPER_WAKING);
    } else {
        slot_enter(slot, slot_steps[phase].next);
        if (slot->phase == KELPIE_KEEPER_READY) {
            kelpie__keeper_made(slot->keeper);
        }
    }
}

/* Its note says whether it waits: its monitor takes that away with the claim. */
static bool slot_has_note(const struct kelpie_keeper_slot *slot) {
    struct kelpie_os_stat stat;
    return kelpie__os_stat(slot->keeper->os, slot->keeper->pool.ready, slot->vm->directory.name,
                           false, &stat) == 0;
}

/* Its connection has ended. A killed monitor leaves its VM and its note behind: to open it is to
 * find out, and to clean up. */
static void slot_look_again(struct kelpie_keeper_slot *slot) {
    char name[KELPIE_NAME_BYTES_MAX + 1];
    bool fits = kelpie__text_copy(name, sizeof(name), slot->vm->directory.name);
    KELPIE_ASSERT(fits);
    kelpie__keeper_slot_empty(slot);
    if (kelpie__keeper_slot_adopt(slot, name)) {
        return; /* it lives */
    }
    KELPIE_REACHED(slot->keeper->os, "a member died while it waited");
}

static void slot_look_ready(struct kelpie_keeper_slot *slot) {
    struct kelpie_keeper *keeper = slot->keeper;
    KELPIE_ASSERT(slot->phase == KELPIE_KEEPER_READY);
    bool is_dead = slot->vm->wire == NULL || kelpie__wire_is_closed(slot->vm->wire);
    if (!is_dead && slot_has_note(slot)) {
        return;
    }
    if (is_dead) {
        slot_look_again(slot);
    } else {
        kelpie__keeper_slot_empty(slot);
    }
    kelpie__keeper_stand_back(keeper);
    keeper->is_changed = true;
}

void kelpie__keeper_slot_look(struct kelpie_keeper_slot *slot) {
    kelpie__keeper_slot_check(slot);
    if (slot->phase == KELPIE_KEEPER_READY) {
        slot_look_ready(slot);
        return;
    }
    /* A phase may be done as soon as it is begun. */
    for (uint32_t i = 0; i < KELPIE_KEEPER_PHASE_COUNT && slot->is_done; i += 1) {
        slot_advance(slot);
    }
    kelpie__keeper_slot_check(slot);
}
