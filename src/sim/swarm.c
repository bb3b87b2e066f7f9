/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * See swarm.h. Draws are integers only, and each group of knobs has a stream of its own, so that a
 * new knob changes no other.
 */
#include "sim/swarm.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "os/os_fault_plan.h"
#include "sim/fault.h"

#define CALM_ONE_IN 10u
/* of the runs that are not calm */
#define LYING_DISK_ONE_IN 16u
#define KNOB_TEXT_MAX 192
#define HOSTILE_FIRST 2u /* two draws were a knob that is no more: the others keep theirs */

struct swarm_random {
    uint64_t seed;
    const char *stream;
    uint64_t count;
};

static uint64_t draw(struct swarm_random *random) {
    random->count += 1;
    return kelpie__sim_fault_hash(random->seed, "swarm", random->stream, 0, random->count);
}

/* first .. last */
static uint32_t between(struct swarm_random *random, uint32_t first, uint32_t last) {
    KELPIE_ASSERT(first <= last);
    return first + (uint32_t)(draw(random) % (last - first + 1));
}

static bool is_one_in(struct swarm_random *random, uint32_t n) {
    return draw(random) % n == 0;
}

/* Log-uniform within [2^-rarest, 2^-commonest], in billionths: an octave, and a place in it. */
static uint64_t chance(struct swarm_random *random, uint32_t commonest, uint32_t rarest) {
    uint32_t octave = between(random, commonest + 1, rarest);
    uint64_t low = KELPIE_FAULT_PER_ONE >> octave;
    uint64_t value = low + draw(random) % (low + 1);
    KELPIE_ASSERT(value <= KELPIE_FAULT_PER_ONE);
    return value > 0 ? value : 1;
}

static bool is_calm(uint64_t seed) {
    struct swarm_random random = {.seed = seed, .stream = "calm"};
    return is_one_in(&random, CALM_ONE_IN);
}

/* ---- faults ---------------------------------------------------------------------------------- */

/* How common: of each call (a VM's life has some hundreds), of each operation, of what is done a
 * few times in a run (its answer is kept), or at a time. */
enum knob_scale { SCALE_CALL, SCALE_RARE, SCALE_OPERATION, SCALE_SELDOM, SCALE_TIME };

struct knob {
    const char *class;
    enum knob_scale scale;
    const char *before; /* of the trigger */
    const char *after;
};

/* Classes stand together. */
static const struct knob knobs[] = {
    {"kill", SCALE_RARE, "* role=monitor", "kill"},
    {"kill", SCALE_CALL, "* role=monitor while=pending", "kill"},
    {"kill", SCALE_RARE, "* role=qemu", "kill"},
    {"kill", SCALE_RARE, "* role=cli", "kill"},
    {"kill", SCALE_RARE, "* role=client", "kill"},
    {"kill", SCALE_RARE, "* role=agent", "kill"},
    {"kill", SCALE_CALL, "* role=pack", "kill"},
    {"kill", SCALE_CALL, "* role=keeper", "kill"},
    {"kill", SCALE_RARE, "wait role=monitor path=*qemu*", "kill-child"},
    {"stop", SCALE_RARE, "wait role=monitor", "stop:4s"},
    {"stop", SCALE_RARE, "* role=qemu", "stop:2s"},
    {"stop", SCALE_RARE, "* role=client", "stop:20s"},
    {"stop", SCALE_RARE, "* role=keeper", "stop:3s"},
    {"stop", SCALE_TIME, "host", "swizzle:3s"},
    {"delay", SCALE_CALL, "*", "delay:5"},
    {"delay", SCALE_RARE, "sync", "delay:1500"},
    {"power", SCALE_OPERATION, "disk after=mark:* max=2", "power-loss"},
    {"power", SCALE_TIME, "host", "power-loss"},
    {"memory", SCALE_CALL, "memory role=monitor", "ENOMEM"},
    {"memory", SCALE_CALL, "memory role=client", "ENOMEM"},
    {"memory", SCALE_CALL, "memory role=agent", "ENOMEM"},
    {"memory", SCALE_CALL, "memory role=keeper", "ENOMEM"},
    {"disk", SCALE_OPERATION, "pwrite", "ENOSPC"},
    {"disk", SCALE_OPERATION, "sync", "EIO:lie"},
    {"disk", SCALE_OPERATION, "rename", "EIO"},
    {"disk", SCALE_CALL, "open", "EMFILE"},
    {"disk", SCALE_OPERATION, "pwrite", "short:7"},
    {"disk", SCALE_TIME, "disk", "full:3s"},
    {"disk", SCALE_TIME, "disk", "read-only:3s"},
    {"disk", SCALE_SELDOM, "disk after=mark:*/snapshots/*", "rot"},
    {"stream", SCALE_OPERATION, "read", "short"},
    {"stream", SCALE_OPERATION, "write", "short"},
    {"stream", SCALE_CALL, "write", "EAGAIN"},
    {"stream", SCALE_RARE, "client.read", "ECONNRESET"},
    {"stream", SCALE_RARE, "client.write", "EPIPE"},
    {"stream", SCALE_OPERATION, "connect", "EAGAIN"},
    {"stream", SCALE_OPERATION, "accept", "EMFILE"},
    {"process", SCALE_OPERATION, "spawn", "EAGAIN"},
    {"process", SCALE_OPERATION, "spawn", "ENOMEM"},
    {"process", SCALE_CALL, "watch", "ENOMEM"},
    {"qemu", SCALE_OPERATION, "qemu.start", "fail"},
    {"qemu", SCALE_OPERATION, "qemu.start", "hang"},
    {"qemu", SCALE_OPERATION, "qemu.start", "die"},
    {"qemu", SCALE_OPERATION, "qemu.start", "flood"},
    {"qmp", SCALE_OPERATION, "qmp.stop", "fail"},
    {"qmp", SCALE_OPERATION, "qmp.cont", "fail"},
    {"qmp", SCALE_OPERATION, "qmp.stop", "late:900"},
    {"qmp", SCALE_OPERATION, "qmp.cont", "swap"},
    {"qmp", SCALE_OPERATION, "qmp.stop", "late:6000000"}, /* later than anybody waits */
    {"qmp", SCALE_OPERATION, "qmp.cont", "late:7000000"},
    {"qmp", SCALE_OPERATION, "qmp.stop", "hang"},
    {"qmp", SCALE_OPERATION, "qmp.cont", "drop"},
    {"qmp", SCALE_OPERATION, "qmp.event", "drop"},
    {"qmp", SCALE_OPERATION, "qmp.event", "late:200"},
    {"qmp", SCALE_OPERATION, "qmp.greeting", "hang"},
    {"qmp", SCALE_OPERATION, "qmp.xen-save-devices-state", "fail"},
    {"qmp", SCALE_OPERATION, "qmp.xen-save-devices-state", "short"},
    {"qmp", SCALE_OPERATION, "qmp.migrate-incoming", "fail"},
    {"guest", SCALE_OPERATION, "guest.boot", "panic"},
    {"guest", SCALE_OPERATION, "guest.boot", "hang"},
    {"guest", SCALE_OPERATION, "guest.boot", "deaf"},
    {"guest", SCALE_OPERATION, "guest.exec", "fail"},
    {"guest", SCALE_OPERATION, "guest.exec", "hang"},
    {"guest", SCALE_OPERATION, "guest.exec", "panic"},
    {"guest", SCALE_OPERATION, "guest.exec", "deaf"},
    {"guest", SCALE_OPERATION, "guest.load", "deaf"},
    {"guest", SCALE_OPERATION, "guest.load", "panic"},
    {"agent", SCALE_OPERATION, "agent.frame", "mutate"},
    {"agent", SCALE_OPERATION, "agent.frame", "torn"},
    {"agent", SCALE_OPERATION, "agent.frame", "duplicate"},
    {"agent", SCALE_OPERATION, "agent.frame", "drop"},
    {"agent", SCALE_OPERATION, "agent.frame", "late:700"},
    {"pack", SCALE_SELDOM, "pack.run", "fail"},
    {"pack", SCALE_SELDOM, "pack.run", "hang"},
    {"pack", SCALE_SELDOM, "pack.run", "die"},
    {"clock", SCALE_TIME, "clock", "jump:-86400s"},
    {"clock", SCALE_TIME, "clock", "jump:86400s"},
    {"clock", SCALE_TIME, "clock", "jump:-3s"},
    {"ready", SCALE_OPERATION, "make_ready", "EAGAIN"},
    {"ready", SCALE_OPERATION, "guest.ready", "die"},
    {"ready", SCALE_OPERATION, "guest.ready", "hang"},
};

/* A disk that says of one sync in ten that it could not write, and forgets the bytes: nobody who
 * tries again may believe it. As one of the knobs above it meets a snapshot in one run of some
 * thousand. A worker's role, too. */
static const struct knob lying_disk = {"lying disk", SCALE_CALL, "sync role=monitor max=8",
                                       "EIO:lie"};

/* A text that grows at its end; its whole length counts, even what does not fit. */
struct swarm_text {
    char *out;
    size_t capacity;
    size_t length;
};

KELPIE_PRINTF(2, 3) static void text_add(struct swarm_text *text, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    size_t room = text->length < text->capacity ? text->capacity - text->length : 0;
    int length = vsnprintf(room == 0 ? NULL : text->out + text->length, room, format, arguments);
    va_end(arguments);
    KELPIE_ASSERT(length >= 0 && length < KNOB_TEXT_MAX);
    text->length += (size_t)length;
}

static void add_knob(struct swarm_text *text, const struct knob *knob,
                     struct swarm_random *random) {
    if (knob->scale == SCALE_TIME) {
        uint32_t begin_ms = between(random, 1000, 60000);
        text_add(text, "%s window=%ums..%ums => %s\n", knob->before, begin_ms, begin_ms + 1000,
                 knob->after);
        return;
    }
    /* some 10^-4..10^-1, 10^-2..10^-0.5, 10^-5..10^-2.5 and 10^-5.5..10^-3 */
    uint64_t billionth = knob->scale == SCALE_OPERATION ? chance(random, 3, 13)
                         : knob->scale == SCALE_SELDOM  ? chance(random, 1, 7)
                         : knob->scale == SCALE_CALL    ? chance(random, 8, 17)
                                                        : chance(random, 10, 18);
    text_add(text, "%s p=0.%09llu => %s\n", knob->before, (unsigned long long)billionth,
             knob->after);
}

/* The rules of the class that begins at `first`, unless `text` is NULL; gives the next class's
 * first. */
static size_t add_class(struct swarm_text *text, size_t first, uint64_t seed) {
    const char *class = knobs[first].class;
    struct swarm_random random = {.seed = seed, .stream = class};
    size_t end = first;
    while (end < KELPIE_ARRAY_COUNT(knobs) && strcmp(knobs[end].class, class) == 0) {
        end += 1;
    }
    bool is_on = is_one_in(&random, 2);
    size_t chosen = first + draw(&random) % (end - first);
    for (size_t i = first; i < end; i += 1) {
        struct swarm_random own = {
            .seed = kelpie__sim_fault_hash(seed, knobs[i].before, knobs[i].after, 0, 0),
            .stream = "knob"};
        if (text != NULL && is_on && (i == chosen || is_one_in(&own, 3))) {
            add_knob(text, &knobs[i], &own);
        }
    }
    return end;
}

static void add_lying_disk(struct swarm_text *text, uint64_t seed) {
    struct swarm_random random = {.seed = seed, .stream = lying_disk.class};
    if (is_one_in(&random, LYING_DISK_ONE_IN)) {
        text_add(text, "%s p=0.1 => %s\n", lying_disk.before, lying_disk.after);
    }
}

size_t kelpie__sim_faults_swarm(uint64_t seed, char *out, size_t capacity) {
    struct swarm_text text = {.out = out, .capacity = capacity};
    text_add(&text, "kelpie-plan %u seed=%llu\n", KELPIE_FAULT_PLAN_VERSION,
             (unsigned long long)seed);
    /* Calm is also a run whose wall clock jumps: nothing may depend on it. */
    for (size_t at = 0; at < KELPIE_ARRAY_COUNT(knobs);) {
        bool is_harmless = strcmp(knobs[at].class, "clock") == 0;
        at = add_class(is_calm(seed) && !is_harmless ? NULL : &text, at, seed);
    }
    if (!is_calm(seed)) {
        add_lying_disk(&text, seed);
    }
    KELPIE_ASSERT(capacity == 0 || text.length < capacity);
    return text.length;
}

/* ---- pairs of a point and an action -----------------------------------------------------------
 */

static const struct knob *pair(uint32_t index) {
    KELPIE_ASSERT(index <= KELPIE_ARRAY_COUNT(knobs));
    return index < KELPIE_ARRAY_COUNT(knobs) ? &knobs[index] : &lying_disk;
}

uint32_t kelpie__sim_swarm_pair_count(void) {
    _Static_assert(KELPIE_ARRAY_COUNT(knobs) + 1 <= SIM_SWARM_PAIR_MAX, "a bit each");
    return (uint32_t)KELPIE_ARRAY_COUNT(knobs) + 1;
}

void kelpie__sim_swarm_pair_name(uint32_t index, char out[SIM_SWARM_PAIR_BYTES]) {
    int length =
        snprintf(out, SIM_SWARM_PAIR_BYTES, "%s => %s", pair(index)->before, pair(index)->after);
    KELPIE_ASSERT(length > 0 && length < (int)SIM_SWARM_PAIR_BYTES);
}

static bool is_of_pair(const struct kelpie_fault_rule *rule, uint32_t index) {
    struct kelpie_fault_reader reader;
    struct kelpie_fault_rule own;
    char text[KNOB_TEXT_MAX];
    bool is_timed = pair(index)->scale == SCALE_TIME;
    int length = snprintf(text, sizeof(text), "%s %s => %s", pair(index)->before,
                          is_timed ? "window=1s..2s" : "p=1", pair(index)->after);
    KELPIE_ASSERT(length > 0 && length < (int)sizeof(text));
    bool is_read =
        kelpie__fault_reader_open(&reader, text) && kelpie__fault_reader_next(&reader, &own) == 1;
    KELPIE_ASSERT(is_read);
    return strcmp(rule->point, own.point) == 0 && strcmp(rule->role, own.role) == 0 &&
           strcmp(rule->path, own.path) == 0 && strcmp(rule->mark, own.mark) == 0 &&
           rule->needs_pending == own.needs_pending && rule->action_index == own.action_index &&
           rule->argument == own.argument && rule->is_lie == own.is_lie;
}

/* Rules stand in the order of their knobs. */
void kelpie__sim_swarm_pairs_fired(const struct sim_faults *faults,
                                   uint64_t out[SIM_SWARM_PAIR_WORDS]) {
    uint32_t next = 0;
    memset(out, 0, SIM_SWARM_PAIR_WORDS * sizeof(out[0]));
    for (uint32_t i = 0; i < kelpie__sim_faults_rule_count(faults); i += 1) {
        const struct kelpie_fault_rule *rule = kelpie__sim_faults_rule(faults, i);
        if (rule->fired == 0) {
            continue;
        }
        uint32_t found = next;
        while (found < kelpie__sim_swarm_pair_count() && !is_of_pair(rule, found)) {
            found += 1;
        }
        if (found < kelpie__sim_swarm_pair_count()) { /* else it is of a plan by hand */
            out[found / 64] |= UINT64_C(1) << found % 64;
            next = found + 1;
        }
    }
}

/* ---- the rest -------------------------------------------------------------------------------- */

static void draw_options(struct sim_swarm *swarm) {
    struct swarm_random random = {.seed = swarm->seed, .stream = "options"};
    static const uint32_t costs[] = {1, 1, 1, 10, 100, 1000};
    static const uint32_t rates[] = {0, 1000000, 10000000, 100000000, 500000000};
    struct sim_options *options = &swarm->options;
    *options = (struct sim_options){.seed = swarm->seed};
    options->schedule = (enum sim_schedule)between(&random, SIM_SCHEDULE_FIFO, SIM_SCHEDULE_PCT);
    uint32_t profile = between(&random, 0, 9);
    options->disk_profile = profile < 5   ? SIM_DISK_EXT4
                            : profile < 9 ? SIM_DISK_POSIX
                                          : SIM_DISK_TMPFS;
    uint32_t cost = costs[between(&random, 0, KELPIE_ARRAY_COUNT(costs) - 1)];
    uint32_t preempt = rates[between(&random, 0, KELPIE_ARRAY_COUNT(rates) - 1)];
    uint32_t partial = rates[between(&random, 0, KELPIE_ARRAY_COUNT(rates) - 1)];
    options->cost_factor = swarm->is_calm ? 1 : cost;
    options->preempt_billionth = preempt;
    options->partial_billionth = partial;
    options->has_kvm = is_one_in(&random, 2);
}

static void draw_workload(struct sim_swarm *swarm) {
    struct swarm_random random = {.seed = swarm->seed, .stream = "workload"};
    swarm->vm_count = between(&random, 1, SIM_SWARM_VM_MAX);
    swarm->client_count = between(&random, 1, SIM_SWARM_CLIENT_MAX);
    swarm->owner_count = between(&random, 1, swarm->client_count < 2 ? swarm->client_count : 2);
    swarm->operation_count = between(&random, 20, 200);
    for (uint32_t op = 0; op < SIM_MODEL_CLONE; op += 1) {
        bool is_needed = op == SIM_MODEL_CREATE || op == SIM_MODEL_START || op == SIM_MODEL_EXEC;
        bool is_off = is_one_in(&random, 3);
        uint32_t weight = between(&random, 1, 100);
        swarm->weights[op] = is_off && !is_needed ? 0 : weight;
    }
    swarm->weights[SIM_MODEL_CLONE] = 0; /* has_clones */
    swarm->weights[SIM_MODEL_PREPARE] = 0;
    swarm->pool_size = between(&random, 0, 5);
    bool is_damaged = is_one_in(&random, 3);
    uint32_t damage = between(&random, 1, SIM_SWARM_DAMAGE_COUNT - 1);
    swarm->damage =
        is_damaged && !swarm->is_calm ? (enum sim_swarm_damage)damage : SIM_SWARM_DAMAGE_NONE;
}

static void draw_clones(struct sim_swarm *swarm) {
    struct swarm_random random = {.seed = swarm->seed, .stream = "clones"};
    swarm->has_clones = !is_one_in(&random, 3);
}

static void draw_disks(struct sim_swarm *swarm) {
    struct swarm_random random = {.seed = swarm->seed, .stream = "disks"};
    swarm->has_disks = is_one_in(&random, 3);
}

/* Powers of two, so that the small ones come as often as the large ones. */
static void draw_hostile(struct sim_swarm *swarm) {
    struct swarm_random random = {.seed = swarm->seed, .stream = "hostile"};
    static const uint32_t tenths[] = {1, 2, 5, 20, 50, 100};
    random.count = HOSTILE_FIRST;
    bool has_buffer = is_one_in(&random, 2);
    uint32_t buffer = 1u << between(&random, 0, 16);
    bool has_timeouts = is_one_in(&random, 3);
    uint32_t tenth = tenths[between(&random, 0, KELPIE_ARRAY_COUNT(tenths) - 1)];
    swarm->buffer_bytes = has_buffer ? buffer : 0;
    swarm->timeout_tenths = has_timeouts && !swarm->is_calm ? tenth : 10;
}

void kelpie__sim_swarm_draw(uint64_t seed, struct sim_swarm *out) {
    *out = (struct sim_swarm){.seed = seed, .is_calm = is_calm(seed)};
    draw_options(out);
    draw_workload(out);
    draw_clones(out);
    draw_disks(out);
    draw_hostile(out);
    size_t length = kelpie__sim_faults_swarm(seed, out->plan, sizeof(out->plan));
    KELPIE_ASSERT(length < sizeof(out->plan));
    KELPIE_ASSERT(out->owner_count <= out->client_count && out->vm_count >= 1);
}
