/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * The table of a simulated process: what every call passes on its way in and out, and the
 * operations of time, memory, identity and waiting. What a call costs, whether others run first,
 * whether it fails or is the process's last is decided at its entry; at its end it becomes part of
 * the rolling hash. The hash holds no address: handles, counts, bytes.
 */
#include <errno.h>
#include <string.h>

#include "core/checksum.h"
#include "core/text.h"
#include "sim/core.h"
#include "sim/fault.h"
#include "sim/heap.h"
#include "sim/trace.h"

#define CHEAP_NS 25 /* a call that is no system call */
#define NS_PER_MS 1000000u
#define WAKES_MAX 1000000000u

static const char *const op_names[] = {
#define SIM_OP_NAME(name) [SIM_OP_##name] = #name,
    SIM_OPS(SIM_OP_NAME)
#undef SIM_OP_NAME
};

static_assert(KELPIE_ARRAY_COUNT(op_names) == SIM_OP_COUNT, "each operation has a name");

const char *kelpie__sim_op_name(enum sim_op op) {
    KELPIE_ASSERT((unsigned)op < SIM_OP_COUNT);
    return op_names[op];
}

/* A table beyond the first. */
struct sim_table {
    struct kelpie_os os; /* first */
    struct sim_watch_set watches;
    struct sim_table *next;
    struct sim_table *previous;
};

static struct sim_table *table_of(struct kelpie_os *os) {
    KELPIE_ASSERT(&kelpie__sim_process_of(os)->os != os);
    return (struct sim_table *)(void *)os;
}

static struct sim_watch_set *watches_of(struct kelpie_os *os) {
    struct sim_process *process = kelpie__sim_process_of(os);
    return os == &process->os ? &process->watches : &table_of(os)->watches;
}

struct kelpie_os *kelpie__sim_table_create(struct sim_process *process) {
    struct sim_table *table = kelpie__sim_heap_alloc(process->machine->heap, sizeof(*table));
    if (table == NULL) {
        return NULL;
    }
    table->os = process->os;
    table->next = process->tables;
    if (table->next != NULL) {
        table->next->previous = table;
    }
    process->tables = table;
    KELPIE_ASSERT(kelpie__sim_process_of(&table->os) == process);
    return &table->os;
}

void kelpie__sim_table_destroy(struct kelpie_os *os) {
    if (os == NULL) {
        return;
    }
    struct sim_process *process = kelpie__sim_process_of(os);
    struct sim_table *table = table_of(os);
    kelpie__sim_watches_drop(process, &table->watches);
    if (table->previous != NULL) {
        table->previous->next = table->next;
    } else {
        process->tables = table->next;
    }
    if (table->next != NULL) {
        table->next->previous = table->previous;
    }
    kelpie__sim_heap_free(process->machine->heap, table, sizeof(*table));
}

void kelpie__sim_tables_drop(struct sim_process *process) {
    while (process->tables != NULL) { /* bound: the list */
        kelpie__sim_table_destroy(&process->tables->os);
    }
}

/* ---- every call ------------------------------------------------------------------------------ */

/* Those that Linux answers without entering the kernel. */
static bool op_is_cheap(enum sim_op op) {
    const uint64_t cheap = UINT64_C(1) << SIM_OP_now | UINT64_C(1) << SIM_OP_cycles |
                           UINT64_C(1) << SIM_OP_memory | UINT64_C(1) << SIM_OP_environment |
                           UINT64_C(1) << SIM_OP_identity | UINT64_C(1) << SIM_OP_label |
                           UINT64_C(1) << SIM_OP_wait_handle;
    return op < 64 && (cheap >> op & 1) != 0;
}

/* Whoever is killed stays here for ever; whoever is stopped, until he is continued. */
static void process_pause(struct sim_process *process) {
    while (process->is_ending || (process->is_stopped && !process->is_embedder)) {
        process->state = process->is_ending ? process->state : SIM_PROCESS_READY;
        kelpie__sim_process_leave(process); /* bound: a kill or a SIGCONT */
    }
}

static void call_cost(struct sim_world *world, struct sim_process *process, enum sim_op op) {
    uint64_t cost_ns = CHEAP_NS;
    if (!op_is_cheap(op)) {
        __extension__ typedef unsigned __int128 wide;
        uint64_t draw = kelpie__sim_random_next(world->streams[SIM_STREAM_COST]);
        cost_ns = (uint64_t)((wide)draw * world->cost_span >> 64);
    } else if (world->cost_span == 0) {
        cost_ns = 0;
    }
    world->now_ns += (int64_t)cost_ns;
    process->cpu_ns += cost_ns;
}

/* Field by field: as a whole, the compiler would clear it first, for longer than all the rest of
 * most calls takes. */
static inline void call_begin(struct sim_call *call, struct sim_process *process, enum sim_op op,
                              int handle) {
    call->process = process;
    call->op = op;
    call->handle = handle;
    call->number = process->machine->world->calls;
    call->nth = process->call_count;
    call->argument = 0;
    call->fault_errno = 0;
    call->fault_short = 0;
    call->fault_mutate = 0;
    call->fault_drop = false;
    call->fault_lie = false;
}

bool kelpie__sim_enter(struct sim_call *call, struct kelpie_os *os, enum sim_op op, int handle,
                       const char *path) {
    struct sim_process *process = kelpie__sim_process_of(os);
    struct sim_world *world = process->machine->world;
    KELPIE_ASSERT(world->current == process && process->state == SIM_PROCESS_RUNNING);
    world->calls += 1;
    process->call_count += 1;
    const struct sim_object *object =
        handle < 0 ? NULL : kelpie__sim_handle_object(process, handle);
    call_begin(call, process, op, handle);
    call->label = object != NULL ? object->label : NULL;
    call->path = path;
    call_cost(world, process, op);
    if (world->calls - world->spin_calls > SIM_SPIN_CALLS_MAX && !process->is_embedder) {
        world->is_spinning = true;
    }
    bool yields = world->is_spinning || (world->options.preempt_billionth > 0 && !op_is_cheap(op) &&
                                         kelpie__sim_chance(world, SIM_STREAM_SCHEDULER,
                                                            world->options.preempt_billionth));
    if (yields && (!process->is_embedder || kelpie__sim_world_is_busy(world))) {
        kelpie__sim_process_yield(process);
    }
    call->time_ns = world->now_ns;
    kelpie__sim_faults_call(world->faults, call);
    process_pause(process);
    return call->fault_errno <= 0;
}

static inline uint64_t hash_pair(uint64_t a, uint64_t b) {
    __extension__ typedef unsigned __int128 wide;
    wide product = (wide)(a ^ UINT64_C(0x9e3779b97f4a7c15)) * (b ^ UINT64_C(0xd6e8feb86659fd93));
    return (uint64_t)product ^ (uint64_t)(product >> 64);
}

#define HASH_SHORT_BYTES_MAX 64u

/* Of a path, or of the data of a call: most have few bytes, and are hashed here in a few products,
 * the last of which may take some bytes once more. */
static inline uint64_t hash_bytes(const char *bytes, size_t count) {
    uint64_t hash = count * UINT64_C(0x9e3779b97f4a7c15) + 1; /* none are not 0 */
    if (count > HASH_SHORT_BYTES_MAX) {
        return kelpie__checksum_u64(bytes, count);
    }
    if (count <= 8) {
        return hash_pair(hash, kelpie__text_word(bytes, count));
    }
    for (size_t at = 16; at < count; at += 16) {
        hash = hash_pair(hash ^ kelpie__text_word(bytes + at - 16, 8),
                         kelpie__text_word(bytes + at - 8, 8));
    }
    const char *last = bytes + count - 8;
    const char *before = count < 16 ? bytes : last - 8;
    return hash_pair(hash ^ kelpie__text_word(before, 8), kelpie__text_word(last, 8));
}

static inline uint64_t hash_moved(const char *path, const void *data, size_t count) {
    uint64_t of_path = path != NULL ? hash_bytes(path, strlen(path)) : 0;
    return hash_pair(of_path, count > 0 ? hash_bytes(data, count) : 0);
}

/* Products of pairs, each with salts of its own, and then of these. `before`: the hash up to this
 * call, and its time; `moved`: the path and the data, or 0. */
static inline uint64_t hash_call(const struct sim_call *call, uint64_t before, int64_t result,
                                 uint64_t moved) {
    uint64_t what = (uint64_t)call->op << 32 | (uint32_t)call->handle;
    uint64_t who = call->process->birth * UINT64_C(0x1cad21f72c81017d);
    uint64_t first = hash_pair(before, what ^ who);
    uint64_t second = hash_pair((uint64_t)result + UINT64_C(0xdb979083e96dd4de), call->argument);
    return hash_pair(first + moved, second ^ (moved << 32 | moved >> 32));
}

int64_t kelpie__sim_leave(struct sim_call *call, int64_t result, const void *data, size_t count) {
    struct sim_process *process = call->process;
    struct sim_world *world = process->machine->world;
    KELPIE_ASSERT(world->current == process);
    world->hash =
        hash_call(call, world->hash ^ (uint64_t)world->now_ns, result,
                  call->path != NULL || count > 0 ? hash_moved(call->path, data, count) : 0);
    if (world->options.trace != NULL) {
        kelpie__sim_trace_call(world->options.trace, call, result, world->hash);
    }
    process_pause(process);
    return result;
}

/* ---- time, memory, identity ------------------------------------------------------------------ */

#if defined(KELPIE_SIMULATION) && defined(__x86_64__)
#define SIM_LEAK_TIME 101u
#define SIM_LEAK_ADDRESS 102u
#define SIM_LEAK_ENVIRONMENT 103u

extern char **environ; /* the real one; the C library has it */

/* Planted leaks of what is not of the world: `kelpie-sim run --check` has to find each of them
 * (tests/sim/leaks.sh). */
static int64_t leaked_ns(const struct kelpie_os *os) {
    int64_t count = 0;
    while (environ[count] != NULL) { /* bound: the environment */
        count += 1;
    }
    return os->canary == SIM_LEAK_TIME          ? (int64_t)(__builtin_ia32_rdtsc() & 1023)
           : os->canary == SIM_LEAK_ADDRESS     ? (int64_t)((uintptr_t)os >> 21 & 1023)
           : os->canary == SIM_LEAK_ENVIRONMENT ? count
                                                : 0;
}
#else
static int64_t leaked_ns(const struct kelpie_os *os) {
    KELPIE_ASSERT(os != NULL);
    return 0;
}
#endif

static int64_t sim_now(struct kelpie_os *os, enum kelpie_os_clock clock) {
    struct sim_call call;
    const struct sim_machine *machine = kelpie__sim_process_of(os)->machine;
    kelpie__ignore(
        kelpie__sim_enter(&call, os, SIM_OP_now, KELPIE_OS_NO_HANDLE, NULL)); /* it cannot fail */
    int64_t now_ns = kelpie__sim_machine_now(machine);
    now_ns += clock == KELPIE_OS_CLOCK_WALL ? machine->wall_offset_ns : 0;
    now_ns += leaked_ns(os);
    return kelpie__sim_leave(&call, now_ns < 0 ? 0 : now_ns, NULL, 0);
}

static uint64_t sim_cycles(struct kelpie_os *os) {
    struct sim_call call;
    const struct sim_machine *machine = kelpie__sim_process_of(os)->machine;
    kelpie__ignore(kelpie__sim_enter(&call, os, SIM_OP_cycles, KELPIE_OS_NO_HANDLE, NULL));
    uint64_t now_ns = (uint64_t)kelpie__sim_machine_now(machine);
    uint64_t cycles =
        now_ns / NS_PER_MS * machine->tsc_khz + now_ns % NS_PER_MS * machine->tsc_khz / NS_PER_MS;
    return (uint64_t)kelpie__sim_leave(&call, (int64_t)cycles, NULL, 0);
}

static int sim_random(struct kelpie_os *os, void *out, size_t count) {
    struct sim_call call;
    struct sim_process *process = kelpie__sim_process_of(os);
    if (!kelpie__sim_enter(&call, os, SIM_OP_random, KELPIE_OS_NO_HANDLE, NULL)) {
        return (int)kelpie__sim_leave(&call, -call.fault_errno, NULL, 0);
    }
    uint64_t *state =
        process->machine->guest != NULL ? process->machine->random_state : process->random_state;
    for (size_t done = 0; done < count; done += sizeof(uint64_t)) {
        uint64_t word = kelpie__sim_random_next(state);
        size_t left = count - done;
        memcpy((char *)out + done, &word, left < sizeof(word) ? left : sizeof(word));
    }
    return (int)kelpie__sim_leave(&call, 0, out, count);
}

static void *sim_memory(struct kelpie_os *os, void *old, size_t old_bytes, size_t new_bytes) {
    struct sim_call call;
    struct sim_process *process = kelpie__sim_process_of(os);
    bool may = kelpie__sim_enter(&call, os, SIM_OP_memory, KELPIE_OS_NO_HANDLE, NULL);
    void *block = may || new_bytes == 0
                      ? kelpie__sim_process_memory(process, old, old_bytes, new_bytes)
                      : NULL;
    call.argument = (uint64_t)old_bytes << 32 ^ new_bytes;
    kelpie__ignore(kelpie__sim_leave(&call, block != NULL ? 1 : 0, NULL, 0));
    return block;
}

static int sim_identity(struct kelpie_os *os, struct kelpie_os_identity *out) {
    struct sim_call call;
    const struct sim_process *process = kelpie__sim_process_of(os);
    if (!kelpie__sim_enter(&call, os, SIM_OP_identity, KELPIE_OS_NO_HANDLE, NULL)) {
        return (int)kelpie__sim_leave(&call, -call.fault_errno, NULL, 0);
    }
    *out = (struct kelpie_os_identity){process->pid, process->uid, process->gid};
    return (int)kelpie__sim_leave(&call, 0, out, sizeof(*out));
}

static const char *sim_environment(struct kelpie_os *os, const char *name) {
    struct sim_call call;
    const struct sim_process *process = kelpie__sim_process_of(os);
    size_t length = strlen(name);
    const char *value = NULL;
    kelpie__ignore(kelpie__sim_enter(&call, os, SIM_OP_environment, KELPIE_OS_NO_HANDLE, name));
    for (size_t i = 0; value == NULL && process->environment[i] != NULL; i += 1) {
        if (strncmp(process->environment[i], name, length) == 0 &&
            process->environment[i][length] == '=') {
            value = process->environment[i] + length + 1;
        }
    }
    kelpie__ignore(
        kelpie__sim_leave(&call, value != NULL ? 1 : 0, value, value != NULL ? strlen(value) : 0));
    return value;
}

/* ---- waiting --------------------------------------------------------------------------------- */

static int sim_watch(struct kelpie_os *os, int handle, uint32_t bits, uint64_t cookie) {
    struct sim_call call;
    struct sim_process *process = kelpie__sim_process_of(os);
    bool may = kelpie__sim_enter(&call, os, SIM_OP_watch, handle, NULL);
    /* epoll_ctl(2) needs memory for what it does not watch yet, and only for that. */
    bool is_new = bits != 0 && !kelpie__sim_watch_is_known(process, handle);
    int status = may || !is_new
                     ? kelpie__sim_watch_put(process, watches_of(os), handle, bits, cookie)
                     : -call.fault_errno;
    call.argument = cookie << 2 ^ bits;
    return (int)kelpie__sim_leave(&call, status, NULL, 0);
}

static bool is_over(const struct sim_process *process, int64_t deadline_ns) {
    return deadline_ns >= 0 && kelpie__sim_machine_now(process->machine) >= deadline_ns;
}

/* Until something is ready or the time is over. */
static int wait_block(struct sim_process *process, struct sim_watch_set *watches,
                      struct kelpie_os_event *out, uint32_t max, int64_t deadline_ns) {
    uint32_t count = 0;
    process->waits_for = watches;
    for (uint32_t budget = WAKES_MAX; budget > 0 && count == 0 && !is_over(process, deadline_ns);
         budget -= 1) {
        process->deadline_ns = deadline_ns;
        if (deadline_ns >= 0 && !kelpie__sim_timer_add(process)) {
            return -ENOMEM;
        }
        process->state = SIM_PROCESS_WAITING;
        if (!process->is_embedder) {
            kelpie__sim_process_leave(process);
        } else if (!kelpie__sim_embedder_wait(process)) {
            return -EDEADLK; /* the world has ended, and nobody is left to wake it */
        }
        count = kelpie__sim_watch_collect(watches, out, max);
    }
    return (int)count;
}

static int sim_wait(struct kelpie_os *os, struct kelpie_os_event *out, uint32_t max,
                    int64_t deadline_ns) {
    struct sim_call call;
    struct sim_process *process = kelpie__sim_process_of(os);
    KELPIE_ASSERT(max > 0);
    if (!kelpie__sim_enter(&call, os, SIM_OP_wait, KELPIE_OS_NO_HANDLE, NULL)) {
        return (int)kelpie__sim_leave(&call, -call.fault_errno, NULL, 0);
    }
    if (process->is_embedder && is_over(process, deadline_ns)) {
        kelpie__sim_embedder_step(process); /* an event loop of its own: the world must go on */
    } else if (kelpie__sim_world_is_busy(process->machine->world)) {
        kelpie__sim_process_yield(process);
    }
    struct sim_watch_set *watches = watches_of(os);
    int count = (int)kelpie__sim_watch_collect(watches, out, max);
    if (count == 0) {
        count = wait_block(process, watches, out, max, deadline_ns);
    }
    for (int i = 0; i < count; i += 1) {
        call.argument = call.argument * 31 + (out[i].cookie << 3 ^ out[i].bits);
    }
    return (int)kelpie__sim_leave(&call, count, NULL, 0);
}

static uint32_t wait_object_ready(struct sim_object *object) {
    kelpie__ignore(object != NULL);
    return 0; /* whoever drives a world from outside is not told by a handle */
}

static void wait_object_close(struct sim_object *object) {
    kelpie__sim_heap_free(object->machine->heap, object, sizeof(*object));
}

static const struct sim_object_operations wait_operations = {
    .kind = "wait",
    .ready = wait_object_ready,
    .close = wait_object_close,
};

static int sim_wait_handle(struct kelpie_os *os) {
    struct sim_call call;
    struct sim_process *process = kelpie__sim_process_of(os);
    struct sim_watch_set *watches = watches_of(os);
    kelpie__ignore(kelpie__sim_enter(&call, os, SIM_OP_wait_handle, KELPIE_OS_NO_HANDLE, NULL));
    if (watches->wait_handle == 0) {
        struct sim_object *object = kelpie__sim_heap_alloc(process->machine->heap, sizeof(*object));
        KELPIE_ASSERT(object != NULL);
        kelpie__sim_object_init(object, process->machine, &wait_operations);
        watches->wait_handle = kelpie__sim_handle_install(process, object) + 1;
        kelpie__sim_object_unref(object);
        KELPIE_ASSERT(watches->wait_handle > 0);
    }
    return (int)kelpie__sim_leave(&call, watches->wait_handle - 1, NULL, 0);
}

/* ---- memory of others ------------------------------------------------------------------------ */

static int memory_owner(struct sim_process *process, int32_t pid, struct sim_process **out) {
    struct sim_process *owner = kelpie__sim_process_find(process->machine, pid);
    if (owner == NULL || owner->state >= SIM_PROCESS_ZOMBIE) {
        return -ESRCH;
    }
    if (process->uid != 0 && process->uid != owner->uid) {
        return -EPERM;
    }
    *out = owner;
    return owner->memory_operations == NULL ? -EFAULT : 0;
}

static int sim_page_map(struct kelpie_os *os, int32_t pid, uint64_t address, uint8_t *out_bits,
                        size_t page_count) {
    const size_t bytes = (page_count + 7) / 8;
    struct sim_call call;
    struct sim_process *owner = NULL;
    if (!kelpie__sim_enter(&call, os, SIM_OP_page_map, KELPIE_OS_NO_HANDLE, NULL)) {
        return (int)kelpie__sim_leave(&call, -call.fault_errno, NULL, 0);
    }
    int status = memory_owner(kelpie__sim_process_of(os), pid, &owner);
    if (status == 0) {
        memset(out_bits, 0, bytes);
        status = owner->memory_operations->page_map(owner, address, out_bits, page_count);
    } else if (status == -EFAULT) { /* nothing is mapped there: a map can say so */
        memset(out_bits, 0, bytes);
        status = 0;
    } else { /* on Linux it is a file of the process */
        status = status == -ESRCH ? -ENOENT : status;
    }
    call.argument = page_count;
    return (int)kelpie__sim_leave(&call, status, out_bits, status < 0 ? 0 : bytes);
}

static int64_t sim_read_memory(struct kelpie_os *os, int32_t pid, uint64_t address, void *out,
                               size_t count) {
    struct sim_call call;
    struct sim_process *owner = NULL;
    if (!kelpie__sim_enter(&call, os, SIM_OP_read_memory, KELPIE_OS_NO_HANDLE, NULL)) {
        return kelpie__sim_leave(&call, -call.fault_errno, NULL, 0);
    }
    int64_t status = memory_owner(kelpie__sim_process_of(os), pid, &owner);
    status = status < 0 ? status : owner->memory_operations->read(owner, address, out, count);
    call.argument = count;
    return kelpie__sim_leave(&call, status, out, status > 0 ? (size_t)status : 0);
}

static int64_t sim_write_memory(struct kelpie_os *os, int32_t pid, uint64_t address,
                                const void *bytes, size_t count) {
    struct sim_call call;
    struct sim_process *owner = NULL;
    if (!kelpie__sim_enter(&call, os, SIM_OP_write_memory, KELPIE_OS_NO_HANDLE, NULL)) {
        return kelpie__sim_leave(&call, -call.fault_errno, NULL, 0);
    }
    int64_t status = memory_owner(kelpie__sim_process_of(os), pid, &owner);
    status = status < 0 ? status : owner->memory_operations->write(owner, address, bytes, count);
    call.argument = count;
    return kelpie__sim_leave(&call, status, bytes, status > 0 ? (size_t)status : 0);
}

void kelpie__sim_os_fill(struct kelpie_os *os) {
    os->now = sim_now;
    os->cycles = sim_cycles;
    os->random = sim_random;
    os->memory = sim_memory;
    os->identity = sim_identity;
    os->environment = sim_environment;
    os->watch = sim_watch;
    os->wait = sim_wait;
    os->wait_handle = sim_wait_handle;
    os->spawn = kelpie__sim_os_spawn;
    os->open_process = kelpie__sim_os_open_process;
    os->signal = kelpie__sim_os_signal;
    os->reap = kelpie__sim_os_reap;
    os->page_map = sim_page_map;
    os->read_memory = sim_read_memory;
    os->write_memory = sim_write_memory;
}
