/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Machines and their processes: birth, signals, death. A process that ends gives up its handles in
 * order, then its memory and its stack; then its children learn of it, then whoever holds a handle
 * of it, then its parent: Linux' order. Deaths that follow from a death wait in the machine's list
 * until their turn comes, so that nothing here is called within itself.
 */
#include <errno.h>
#include <string.h>

#include "sim/core.h"
#include "sim/heap.h"
#include "sim/install.h"

#define PROCESS_SALT UINT64_C(0x70726f63) /* of the random streams */
#define PRIORITY_OF_BIRTH (UINT64_C(1) << 63)
#define PID_MAX 4194304
#define PID_AGAIN 300 /* where Linux goes on after the last */

struct sim_memory_block {
    struct sim_memory_block *next;
    struct sim_memory_block *previous;
    size_t bytes; /* as the program knows it */
    size_t unused;
};

struct sim_process_object {
    struct sim_object object; /* first */
    struct sim_process *subject;
};

static_assert(sizeof(struct sim_memory_block) % 16 == 0, "blocks are aligned");

/* ---- machines -------------------------------------------------------------------------------- */

struct sim_machine *kelpie__sim_machine_create(struct sim_world *world, struct sim_heap *heap) {
    struct sim_machine *machine = kelpie__sim_heap_alloc(heap, sizeof(*machine));
    if (machine != NULL) {
        machine->world = world;
        machine->heap = heap;
        machine->pid_next = 1;
    }
    return machine;
}

int64_t kelpie__sim_machine_now(const struct sim_machine *machine) {
    return machine->world->now_ns + machine->monotonic_offset_ns;
}

struct sim_process *kelpie__sim_machine_init(struct sim_machine *machine) {
    bool is_there = machine->guest != NULL && machine->processes != NULL &&
                    machine->processes->pid == 1 && machine->processes->state < SIM_PROCESS_ZOMBIE;
    return is_there ? machine->processes : NULL;
}

struct sim_process *kelpie__sim_process_find(struct sim_machine *machine, int32_t pid) {
    struct sim_process *process = machine->processes_last;
    while (process != NULL && process->pid != pid) { /* bound: SIM_PROCESS_MAX */
        process = process->previous;
    }
    return process;
}

/* ---- lists ----------------------------------------------------------------------------------- */

static void process_list(struct sim_process *process) {
    struct sim_machine *machine = process->machine;
    struct sim_process *before = machine->processes_last;
    while (before != NULL && before->pid > process->pid) { /* bound: numbers that began anew */
        before = before->previous;
    }
    process->previous = before;
    process->next = before == NULL ? machine->processes : before->next;
    if (before != NULL) {
        before->next = process;
    } else {
        machine->processes = process;
    }
    if (process->next != NULL) {
        process->next->previous = process;
    } else {
        machine->processes_last = process;
    }
    machine->process_count += 1;
}

void kelpie__sim_process_unlist(struct sim_process *process) {
    struct sim_machine *machine = process->machine;
    KELPIE_ASSERT(machine->process_count > 0);
    if (process->previous != NULL) {
        process->previous->next = process->next;
    } else {
        machine->processes = process->next;
    }
    if (process->next != NULL) {
        process->next->previous = process->previous;
    } else {
        machine->processes_last = process->previous;
    }
    process->next = NULL;
    process->previous = NULL;
    machine->process_count -= 1;
}

void kelpie__sim_child_add(struct sim_process *parent, struct sim_process *child) {
    child->parent = parent;
    child->sibling_previous = NULL;
    child->sibling_next = NULL;
    if (parent != NULL) {
        child->sibling_next = parent->children;
        if (parent->children != NULL) {
            parent->children->sibling_previous = child;
        }
        parent->children = child;
    }
}

void kelpie__sim_child_remove(struct sim_process *child) {
    if (child->parent == NULL) {
        return;
    }
    if (child->sibling_previous != NULL) {
        child->sibling_previous->sibling_next = child->sibling_next;
    } else {
        KELPIE_ASSERT(child->parent->children == child);
        child->parent->children = child->sibling_next;
    }
    if (child->sibling_next != NULL) {
        child->sibling_next->sibling_previous = child->sibling_previous;
    }
    child->parent = NULL;
}

/* ---- birth ----------------------------------------------------------------------------------- */

static void text_copy(char *out, size_t capacity, const char *text) {
    size_t length = strlen(text);
    length = length < capacity ? length : capacity - 1;
    memcpy(out, text, length);
    out[length] = '\0';
}

static int32_t pid_take(struct sim_machine *machine) {
    int32_t pid = machine->pid_next;
    bool is_new = machine->processes_last == NULL || machine->processes_last->pid < pid;
    for (unsigned budget = SIM_PROCESS_MAX;
         !is_new && budget > 0 && kelpie__sim_process_find(machine, pid) != NULL; budget -= 1) {
        pid = pid + 1 < PID_MAX ? pid + 1 : PID_AGAIN;
    }
    machine->pid_next = pid + 1 < PID_MAX ? pid + 1 : PID_AGAIN;
    return pid;
}

struct sim_process *kelpie__sim_process_new(struct sim_machine *machine, struct sim_process *parent,
                                            const char *path, const char *role) {
    struct sim_world *world = machine->world;
    struct sim_process *process = NULL;
    if (machine->process_count < SIM_PROCESS_MAX) {
        process = kelpie__sim_heap_alloc(machine->heap, sizeof(*process));
    }
    if (process == NULL) {
        return NULL;
    }
    world->births += 1;
    process->os = machine->guest == NULL ? world->table_host : world->table_guest;
    process->os.context = process;
    process->machine = machine;
    process->birth = world->births;
    process->pid = pid_take(machine);
    process->group = parent != NULL ? parent->group : process->pid;
    process->session = parent != NULL ? parent->session : process->pid;
    process->uid = parent != NULL ? parent->uid : 0;
    process->gid = parent != NULL ? parent->gid : 0;
    process->signals_ignored = parent != NULL ? parent->signals_ignored : 0;
    text_copy(process->path, sizeof(process->path), path);
    text_copy(process->role, sizeof(process->role), role);
    text_copy(process->directory, sizeof(process->directory),
              parent != NULL ? parent->directory : "/");
    process->state = SIM_PROCESS_WAITING;
    process->deadline_ns = -1;
    process->timer_index = UINT32_MAX;
    kelpie__sim_random_seed(process->random_state, world->options.seed,
                            PROCESS_SALT + process->birth);
    process->priority = kelpie__sim_random_next(process->random_state) | PRIORITY_OF_BIRTH;
    process_list(process);
    kelpie__sim_child_add(parent, process);
    return process;
}

/* One block: the pointers, then the strings. */
static char **strings_copy(struct sim_heap *heap, const char *const *strings, int *out_count,
                           size_t *out_bytes) {
    size_t count = 0;
    size_t bytes = sizeof(char *);
    while (strings[count] != NULL) { /* bound: the list ends with NULL */
        bytes += sizeof(char *) + strlen(strings[count]) + 1;
        count += 1;
    }
    char **copy = kelpie__sim_heap_alloc(heap, bytes);
    if (copy == NULL) {
        return NULL;
    }
    char *text = (char *)(copy + count + 1);
    for (size_t i = 0; i < count; i += 1) {
        size_t length = strlen(strings[i]) + 1;
        memcpy(text, strings[i], length);
        copy[i] = text;
        text += length;
    }
    copy[count] = NULL;
    *out_count = (int)count;
    *out_bytes = bytes;
    return copy;
}

bool kelpie__sim_process_arguments(struct sim_process *process, const char *const *argv,
                                   const char *const *environment) {
    static const char *const none[] = {NULL};
    struct sim_heap *heap = process->machine->heap;
    int unused = 0;
    kelpie__sim_heap_free(heap, process->argv, process->argument_bytes);
    kelpie__sim_heap_free(heap, process->environment, process->environment_bytes);
    process->argv = strings_copy(heap, argv, &process->argc, &process->argument_bytes);
    process->environment = strings_copy(heap, environment != NULL ? environment : none, &unused,
                                        &process->environment_bytes);
    return process->argv != NULL && process->environment != NULL;
}

bool kelpie__sim_process_replace_argv(struct sim_process *process, const char *const *argv) {
    struct sim_heap *heap = process->machine->heap;
    int count = 0;
    size_t bytes = 0;
    char **copy = strings_copy(heap, argv, &count, &bytes);
    if (copy == NULL) {
        return false;
    }
    kelpie__sim_heap_free(heap, process->argv, process->argument_bytes);
    process->argv = copy;
    process->argc = count;
    process->argument_bytes = bytes;
    return true;
}

static void process_main(void *context) {
    struct sim_process *process = context;
    int code = process->main(&process->os, process->argc, process->argv);
    kelpie__sim_process_exit(process, code);
}

void kelpie__sim_process_emit(struct sim_process *process, enum sim_event_type type,
                              const char *detail) {
    const struct sim_event event = {
        .type = type, .process = process, .guest = process->machine->guest, .detail = detail};
    kelpie__sim_world_emit(process->machine->world, &event);
}

bool kelpie__sim_process_begin(struct sim_process *process, sim_main main, uint32_t stack_bytes) {
    struct sim_machine *machine = process->machine;
    size_t bytes = stack_bytes == 0 ? SIM_STACK_BYTES : stack_bytes;
    void *stack = machine->guest == NULL
                      ? kelpie__sim_stack_take(machine->world->nursery, bytes, &bytes)
                      : kelpie__sim_heap_alloc_raw(machine->heap, bytes);
    if (stack == NULL) {
        return false;
    }
    process->main = main;
    process->handles_inherited = process->handle_count;
    kelpie__sim_fiber_init(&process->fiber, stack, bytes, process_main, process);
    process->state = SIM_PROCESS_READY;
    kelpie__sim_ready_push(process);
    kelpie__sim_process_emit(process, SIM_EVENT_PROCESS_STARTED, process->path);
    return true;
}

static bool standard_handles(struct sim_process *process) {
    struct sim_object *null = kelpie__sim_object_null(process->machine);
    bool is_open = null != NULL;
    for (int i = 0; is_open && i < 3; i += 1) {
        is_open = kelpie__sim_handle_install(process, null) == i;
    }
    if (null != NULL) {
        kelpie__sim_object_unref(null);
    }
    return is_open;
}

struct sim_process *kelpie__sim_process_start(struct sim_machine *machine,
                                              const struct sim_start *start) {
    static const char *const no_arguments[] = {"program", NULL};
    struct sim_process *process = kelpie__sim_process_new(machine, NULL, start->path, start->role);
    if (process == NULL) {
        return NULL;
    }
    process->uid = start->uid;
    process->gid = start->gid;
    if (!standard_handles(process) ||
        !kelpie__sim_process_arguments(process, start->argv != NULL ? start->argv : no_arguments,
                                       start->environment) ||
        !kelpie__sim_process_begin(process, start->main, start->stack_bytes)) {
        kelpie__sim_process_drop(process);
        return NULL;
    }
    return process;
}

struct sim_process *kelpie__sim_process_adopt(struct sim_world *world, const char *role) {
    static const char *const arguments[] = {"embedder", NULL};
    static const char *const environment[] = {"HOME=/root", "PATH=/usr/bin:/bin", "LC_ALL=C",
                                              "KELPIE_LIBEXEC=" SIM_LIBEXEC_DIRECTORY, NULL};
    KELPIE_ASSERT(world->embedder == NULL && world->current == NULL);
    struct sim_process *process = kelpie__sim_process_new(world->host, NULL, "embedder", role);
    if (process == NULL) {
        return NULL;
    }
    if (!standard_handles(process) ||
        !kelpie__sim_process_arguments(process, arguments, environment)) {
        kelpie__sim_process_drop(process);
        return NULL;
    }
    process->is_embedder = true;
    process->state = SIM_PROCESS_RUNNING;
    world->embedder = process;
    world->current = process;
    kelpie__sim_process_emit(process, SIM_EVENT_PROCESS_STARTED, process->path);
    return process;
}

/* ---- what a process has ---------------------------------------------------------------------- */

/* Invariant 25: what a process of the product may hold at a time. A monitor keeps 1 MiB of each
 * stream whose client is away: few runs of the swarm need more than 10 MiB for these, seed 12631
 * needs 20.6. An agent holds the 64 ends of commands that nobody has asked for.
 */
static void memory_note_peak(struct sim_process *process) {
    static const struct {
        const char *role;
        uint64_t bytes_max;
    } bounds[] = {{"monitor", 32u << 20}, {"agent", 8u << 20}, {"keeper", 6u << 20}};
    if (process->memory_bytes <= process->memory_bytes_peak) {
        return;
    }
    process->memory_bytes_peak = process->memory_bytes;
    for (size_t i = 0; i < KELPIE_ARRAY_COUNT(bounds); i += 1) {
        if (process->memory_bytes > bounds[i].bytes_max &&
            strcmp(process->role, bounds[i].role) == 0) {
            kelpie__sim_world_fail(
                process->machine->world, "invariant 25: the %s (pid %d) holds %llu bytes of memory",
                process->role, process->pid, (unsigned long long)process->memory_bytes);
        }
    }
}

void *kelpie__sim_process_memory(struct sim_process *process, void *old, size_t old_bytes,
                                 size_t new_bytes) {
    struct sim_heap *heap = process->machine->heap;
    struct sim_memory_block *block = old == NULL ? NULL : (struct sim_memory_block *)old - 1;
    const size_t head = sizeof(*block);
    if (block != NULL) {
        KELPIE_ASSERT(block->bytes == old_bytes);
        if (new_bytes > 0 && kelpie__sim_heap_block_bytes(head + old_bytes) ==
                                 kelpie__sim_heap_block_bytes(head + new_bytes)) {
            process->memory_bytes += new_bytes - old_bytes;
            block->bytes = new_bytes;
            memory_note_peak(process);
            return old;
        }
    }
    struct sim_memory_block *fresh = NULL;
    if (new_bytes > 0) {
        fresh = kelpie__sim_heap_alloc_raw(heap, head + new_bytes);
        if (fresh == NULL) {
            return NULL;
        }
        fresh->bytes = new_bytes;
        fresh->previous = NULL;
        fresh->next = process->memory_blocks;
        if (fresh->next != NULL) {
            fresh->next->previous = fresh;
        }
        process->memory_blocks = fresh;
        process->memory_bytes += new_bytes;
        memory_note_peak(process);
    }
    if (block != NULL) {
        if (fresh != NULL) {
            memcpy(fresh + 1, old, old_bytes < new_bytes ? old_bytes : new_bytes);
        }
        if (block->previous != NULL) {
            block->previous->next = block->next;
        } else {
            process->memory_blocks = block->next;
        }
        if (block->next != NULL) {
            block->next->previous = block->previous;
        }
        process->memory_bytes -= old_bytes;
        kelpie__sim_heap_free(heap, block, head + old_bytes);
    }
    return fresh == NULL ? NULL : fresh + 1;
}

static void memory_drop(struct sim_process *process) {
    struct sim_heap *heap = process->machine->heap;
    while (process->memory_blocks != NULL) { /* bound: the list */
        struct sim_memory_block *block = process->memory_blocks;
        process->memory_blocks = block->next;
        kelpie__sim_heap_free(heap, block, sizeof(*block) + block->bytes);
    }
    process->memory_bytes = 0;
}

/* All but its entry in the process table, and its handles. */
void kelpie__sim_process_release(struct sim_process *process) {
    struct sim_machine *machine = process->machine;
    kelpie__sim_tables_drop(process);
    memory_drop(process);
    kelpie__sim_heap_free(machine->heap, process->argv, process->argument_bytes);
    kelpie__sim_heap_free(machine->heap, process->environment, process->environment_bytes);
    process->argv = NULL;
    process->environment = NULL;
    if (process->fiber.stack != NULL && machine->guest == NULL) {
        kelpie__sim_stack_give(machine->world->nursery, process->fiber.stack,
                               process->fiber.stack_bytes);
    } else if (process->fiber.stack != NULL) {
        kelpie__sim_fiber_forget(process->fiber.stack, process->fiber.stack_bytes);
        kelpie__sim_heap_free(machine->heap, process->fiber.stack, process->fiber.stack_bytes);
    }
    process->fiber = (struct sim_fiber){0};
}

/* ---- process handles ------------------------------------------------------------------------- */

void kelpie__sim_process_free(struct sim_process *process) {
    KELPIE_ASSERT(process->state == SIM_PROCESS_GONE && process->exit_watchers == NULL);
    KELPIE_ASSERT(process->children == NULL && process->parent == NULL);
    kelpie__sim_heap_free(process->machine->heap, process, sizeof(*process));
}

static uint32_t handle_ready(struct sim_object *object) {
    const struct sim_process *subject = ((struct sim_process_object *)(void *)object)->subject;
    return subject->state >= SIM_PROCESS_ZOMBIE ? (uint32_t)KELPIE_OS_READABLE : 0;
}

static void handle_close(struct sim_object *object) {
    struct sim_process_object *self = (struct sim_process_object *)(void *)object;
    struct sim_process *subject = self->subject;
    KELPIE_ASSERT(subject->exit_watchers == self);
    subject->exit_watchers = NULL;
    kelpie__sim_heap_free(object->machine->heap, self, sizeof(*self));
    if (subject->state == SIM_PROCESS_GONE) {
        kelpie__sim_process_free(subject);
    }
}

static const struct sim_object_operations process_operations = {
    .kind = "process",
    .ready = handle_ready,
    .close = handle_close,
};

int kelpie__sim_process_handle(struct sim_process *process, struct sim_process *subject) {
    KELPIE_ASSERT(process->machine == subject->machine);
    struct sim_process_object *self = subject->exit_watchers;
    if (self != NULL) {
        return kelpie__sim_handle_install(process, &self->object);
    }
    self = kelpie__sim_heap_alloc(process->machine->heap, sizeof(*self));
    if (self == NULL) {
        return -ENOMEM;
    }
    kelpie__sim_object_init(&self->object, process->machine, &process_operations);
    self->subject = subject;
    subject->exit_watchers = self;
    int handle = kelpie__sim_handle_install(process, &self->object);
    kelpie__sim_object_unref(&self->object);
    return handle;
}

void kelpie__sim_process_tell(struct sim_process *process) {
    KELPIE_ASSERT(process->state == SIM_PROCESS_ZOMBIE);
    if (process->exit_watchers != NULL) {
        kelpie__sim_object_changed(&process->exit_watchers->object);
    }
}

struct sim_process *kelpie__sim_process_subject(struct sim_object *object) {
    return object != NULL && object->operations == &process_operations
               ? ((struct sim_process_object *)(void *)object)->subject
               : NULL;
}
