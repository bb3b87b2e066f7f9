/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Machines and their processes: birth, signals, death. A process that ends gives up its handles in
 * order, then its memory and its stack; then its children learn of it, then whoever holds a handle
 * of it, then its parent: Linux' order. Deaths that follow from a death wait in the machine's list
 * until their turn comes, so that nothing here is called within itself.
 */
#include <errno.h>
#include <signal.h>
#include <string.h>

#include "sim/core.h"
#include "sim/guest.h"
#include "sim/heap.h"

#define PROCESS_SALT UINT64_C(0x70726f63) /* of the random streams */
#define PRIORITY_OF_BIRTH (UINT64_C(1) << 63)
#define PID_MAX 4194304
#define DEATHS_MAX (2 * SIM_PROCESS_MAX)

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

struct sim_process *kelpie__sim_process_of(struct kelpie_os *os) {
    struct sim_process *process = os->context;
    KELPIE_ASSERT(process != NULL && &process->os == os);
    return process;
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

static void process_unlist(struct sim_process *process) {
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

static void child_add(struct sim_process *parent, struct sim_process *child) {
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

static void child_remove(struct sim_process *child) {
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
    for (unsigned budget = SIM_PROCESS_MAX;
         budget > 0 && kelpie__sim_process_find(machine, pid) != NULL; budget -= 1) {
        pid = pid + 1 < PID_MAX ? pid + 1 : 300;
    }
    machine->pid_next = pid + 1 < PID_MAX ? pid + 1 : 300;
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
    child_add(parent, process);
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

static void emit(struct sim_process *process, enum sim_event_type type, const char *detail) {
    const struct sim_event event = {
        .type = type, .process = process, .guest = process->machine->guest, .detail = detail};
    kelpie__sim_world_emit(process->machine->world, &event);
}

bool kelpie__sim_process_begin(struct sim_process *process, sim_main main, uint32_t stack_bytes) {
    struct sim_machine *machine = process->machine;
    size_t bytes = stack_bytes == 0 ? SIM_STACK_BYTES : stack_bytes;
    void *stack = machine->guest == NULL ? kelpie__sim_stack_take(machine->world, bytes, &bytes)
                                         : kelpie__sim_heap_alloc(machine->heap, bytes);
    if (stack == NULL) {
        return false;
    }
    process->main = main;
    kelpie__sim_fiber_init(&process->fiber, stack, bytes, process_main, process);
    process->state = SIM_PROCESS_READY;
    kelpie__sim_ready_push(process);
    emit(process, SIM_EVENT_PROCESS_STARTED, process->path);
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
    static const char *const no_arguments[] = {"embedder", NULL};
    KELPIE_ASSERT(world->embedder == NULL && world->current == NULL);
    struct sim_process *process = kelpie__sim_process_new(world->host, NULL, "embedder", role);
    if (process == NULL) {
        return NULL;
    }
    if (!standard_handles(process) || !kelpie__sim_process_arguments(process, no_arguments, NULL)) {
        kelpie__sim_process_drop(process);
        return NULL;
    }
    process->is_embedder = true;
    process->state = SIM_PROCESS_RUNNING;
    world->embedder = process;
    world->current = process;
    emit(process, SIM_EVENT_PROCESS_STARTED, process->path);
    return process;
}

/* ---- what a process has ---------------------------------------------------------------------- */

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
            return old;
        }
    }
    struct sim_memory_block *fresh = NULL;
    if (new_bytes > 0) {
        fresh = kelpie__sim_heap_alloc(heap, head + new_bytes);
        if (fresh == NULL) {
            return NULL;
        }
        fresh->bytes = new_bytes;
        fresh->next = process->memory_blocks;
        if (fresh->next != NULL) {
            fresh->next->previous = fresh;
        }
        process->memory_blocks = fresh;
        process->memory_bytes += new_bytes;
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
static void process_release(struct sim_process *process) {
    struct sim_machine *machine = process->machine;
    memory_drop(process);
    kelpie__sim_heap_free(machine->heap, process->argv, process->argument_bytes);
    kelpie__sim_heap_free(machine->heap, process->environment, process->environment_bytes);
    process->argv = NULL;
    process->environment = NULL;
    if (process->fiber.stack != NULL && machine->guest == NULL) {
        kelpie__sim_stack_give(machine->world, process->fiber.stack, process->fiber.stack_bytes);
    } else if (process->fiber.stack != NULL) {
        kelpie__sim_fiber_forget(process->fiber.stack, process->fiber.stack_bytes);
        kelpie__sim_heap_free(machine->heap, process->fiber.stack, process->fiber.stack_bytes);
    }
    process->fiber = (struct sim_fiber){0};
}

/* ---- process handles ------------------------------------------------------------------------- */

static void process_free(struct sim_process *process) {
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
        process_free(subject);
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

struct sim_process *kelpie__sim_process_subject(struct sim_object *object) {
    return object != NULL && object->operations == &process_operations
               ? ((struct sim_process_object *)(void *)object)->subject
               : NULL;
}

/* ---- death ----------------------------------------------------------------------------------- */

void kelpie__sim_process_collect(struct sim_process *zombie) {
    KELPIE_ASSERT(zombie->state == SIM_PROCESS_ZOMBIE);
    child_remove(zombie);
    process_unlist(zombie);
    zombie->state = SIM_PROCESS_GONE;
    if (zombie->exit_watchers == NULL) {
        process_free(zombie);
    }
}

void kelpie__sim_process_orphan(struct sim_process *process) {
    struct sim_machine *machine = process->machine;
    KELPIE_ASSERT(process->state < SIM_PROCESS_ZOMBIE);
    child_remove(process);
    child_add(machine->guest != NULL ? kelpie__sim_process_find(machine, 1) : NULL, process);
    process->is_orphan = true;
}

void kelpie__sim_process_drop(struct sim_process *process) {
    kelpie__sim_ready_remove(process);
    kelpie__sim_handles_close(process);
    process_release(process);
    process->state = SIM_PROCESS_ZOMBIE;
    kelpie__sim_process_collect(process);
}

static void process_doom(struct sim_process *process, bool is_signalled, int value) {
    KELPIE_ASSERT(!process->is_ending);
    kelpie__sim_ready_remove(process);
    kelpie__sim_timer_remove(process);
    process->exit.is_signalled = is_signalled;
    process->exit.value = value;
    process->is_ending = true;
    if (process->machine->world->current != process) {
        process->ready_next = process->machine->dying;
        process->machine->dying = process;
    } /* else it goes when it leaves its stack */
}

/* It stays in the order of its list: the first to be doomed is the first to go. */
static struct sim_process *dying_take(struct sim_machine *machine) {
    struct sim_process *before = NULL;
    struct sim_process *last = machine->dying;
    while (last != NULL && last->ready_next != NULL) { /* bound: the list */
        before = last;
        last = last->ready_next;
    }
    if (before != NULL) {
        before->ready_next = NULL;
    } else {
        machine->dying = NULL;
    }
    return last;
}

/* The parent learns of a death; by a handle of signals, or not at all. */
static void tell_parent(struct sim_process *parent) {
    const uint64_t bit = UINT64_C(1) << (SIGCHLD - 1);
    if ((parent->signals_blocked & bit) != 0 && parent->state < SIM_PROCESS_ZOMBIE) {
        parent->signals_pending |= bit;
        kelpie__sim_object_changed(parent->signals);
    }
}

static void leave_children(struct sim_process *process) {
    struct sim_machine *machine = process->machine;
    struct sim_process *heir = machine->guest != NULL ? kelpie__sim_process_find(machine, 1) : NULL;
    heir = heir == process || (heir != NULL && heir->state >= SIM_PROCESS_ZOMBIE) ? NULL : heir;
    while (process->children != NULL) { /* bound: the list */
        struct sim_process *child = process->children;
        child_remove(child);
        child_add(heir, child);
        if (child->state == SIM_PROCESS_ZOMBIE) {
            if (heir == NULL) {
                kelpie__sim_process_collect(child);
            } else {
                tell_parent(heir);
            }
        } else if (child->dies_with_parent && !child->is_ending) {
            process_doom(child, true, SIGKILL);
        }
    }
}

static void bury(struct sim_process *process) {
    struct sim_machine *machine = process->machine;
    char detail[32];
    KELPIE_ASSERT(process->is_ending && process->state < SIM_PROCESS_ZOMBIE);
    kelpie__sim_handles_close(process);
    process->signals = NULL;
    process_release(process);
    process->state = SIM_PROCESS_ZOMBIE;
    process->is_ending = false;
    if (machine->guest != NULL) {
        kelpie__sim_guest_ended(process);
    }
    size_t length = process->exit.is_signalled ? 7 : 5;
    memcpy(detail, process->exit.is_signalled ? "signal " : "code ", length);
    detail[length] = (char)('0' + process->exit.value / 100);
    detail[length + 1] = (char)('0' + process->exit.value / 10 % 10);
    detail[length + 2] = (char)('0' + process->exit.value % 10);
    detail[length + 3] = '\0';
    emit(process, SIM_EVENT_PROCESS_ENDED, detail);
    leave_children(process);
    if (process->exit_watchers != NULL) {
        kelpie__sim_object_changed(&process->exit_watchers->object);
    }
    if (process->parent == NULL) {
        kelpie__sim_process_collect(process);
    } else {
        tell_parent(process->parent);
    }
}

void kelpie__sim_machine_bury(struct sim_machine *machine) {
    if (machine->is_burying || machine->dying == NULL) {
        return;
    }
    machine->is_burying = true;
    for (unsigned budget = DEATHS_MAX; machine->dying != NULL && budget > 0; budget -= 1) {
        bury(dying_take(machine));
    }
    KELPIE_ASSERT(machine->dying == NULL);
    machine->is_burying = false;
}

void kelpie__sim_process_end(struct sim_process *process, bool is_signalled, int value) {
    const struct sim_process *current = process->machine->world->current;
    if (process->is_embedder || process->is_ending || process->state >= SIM_PROCESS_ZOMBIE) {
        return;
    }
    process_doom(process, is_signalled, value);
    /* A guest's process runs on memory that the end of its host's process may take away: then the
     * scheduler does it. */
    if (current == NULL || current->machine == process->machine ||
        current->machine->guest == NULL) {
        kelpie__sim_machine_bury(process->machine);
    }
}

static void process_vanish(struct sim_process *process) {
    kelpie__sim_ready_remove(process);
    kelpie__sim_timer_remove(process);
    process->is_ending = !process->is_embedder;
    process->signals_blocked = 0;
    process->wait_handle = 0;
}

void kelpie__sim_machine_clear(struct sim_machine *machine) {
    KELPIE_ASSERT(machine->world->current == NULL || machine->world->current->is_embedder ||
                  machine->world->current->machine != machine);
    KELPIE_ASSERT(!machine->is_burying);
    machine->is_burying = true; /* nobody outlives this */
    machine->dying = NULL;
    for (struct sim_process *each = machine->processes; each != NULL; each = each->next) {
        process_vanish(each);
    }
    for (struct sim_process *each = machine->processes; each != NULL; each = each->next) {
        if (each->state < SIM_PROCESS_ZOMBIE) {
            kelpie__sim_handles_close(each);
        }
    }
    for (struct sim_process *each = machine->processes; each != NULL; each = each->next) {
        while (each->children != NULL) { /* bound: the list */
            child_remove(each->children);
        }
    }
    struct sim_process *process = machine->processes;
    while (process != NULL) { /* bound: the list */
        struct sim_process *next = process->next;
        if (!process->is_embedder) {
            process_release(process);
            process->is_ending = false;
            process->state = SIM_PROCESS_ZOMBIE;
            kelpie__sim_process_collect(process);
        }
        process = next;
    }
    machine->is_burying = false;
}

/* ---- signals --------------------------------------------------------------------------------- */

static void process_stop(struct sim_process *process) {
    if (!process->is_stopped) {
        process->is_stopped = true;
        kelpie__sim_ready_remove(process);
        emit(process, SIM_EVENT_PROCESS_STOPPED, process->path);
        kelpie__sim_world_guests_refresh(process->machine->world);
    }
}

static void process_continue(struct sim_process *process) {
    if (process->is_stopped) {
        process->is_stopped = false;
        emit(process, SIM_EVENT_PROCESS_CONTINUED, process->path);
        if (process->state == SIM_PROCESS_READY) {
            kelpie__sim_ready_push(process);
        }
        kelpie__sim_world_guests_refresh(process->machine->world);
    }
}

static void signal_default(struct sim_process *process, int signal) {
    bool is_init = process->machine->guest != NULL && process->pid == 1;
    switch (signal) {
    case SIGCHLD:
    case SIGCONT:
    case SIGURG:
    case SIGWINCH:
        break;
    case SIGTSTP:
    case SIGTTIN:
    case SIGTTOU:
        if (!is_init) {
            process_stop(process);
        }
        break;
    default:
        if (!is_init) { /* the kernel spares process 1 */
            kelpie__sim_process_end(process, true, signal);
        }
        break;
    }
}

void kelpie__sim_process_signal(struct sim_process *process, int signal) {
    KELPIE_ASSERT(signal > 0 && signal <= 64);
    const uint64_t bit = UINT64_C(1) << (signal - 1);
    if (process->state >= SIM_PROCESS_ZOMBIE || process->is_ending || process->is_embedder) {
        return;
    }
    if (signal == SIGKILL) {
        kelpie__sim_process_end(process, true, SIGKILL);
        return;
    }
    if (signal == SIGSTOP) {
        process_stop(process);
        return;
    }
    if (signal == SIGCONT) {
        process_continue(process);
    }
    if ((process->signals_blocked & bit) != 0) {
        process->signals_pending |= bit;
        kelpie__sim_object_changed(process->signals);
    } else if ((process->signals_ignored & bit) == 0) {
        signal_default(process, signal);
    }
}

_Noreturn void kelpie__sim_process_exit(struct sim_process *process, int code) {
    struct sim_call call;
    KELPIE_ASSERT(process->machine->world->current == process && !process->is_embedder);
    kelpie__ignore(kelpie__sim_enter(&call, &process->os, SIM_OP_exit, KELPIE_OS_NO_HANDLE, NULL));
    kelpie__ignore(kelpie__sim_leave(&call, code, NULL, 0));
    if (!process->is_ending) {
        kelpie__sim_process_end(process, false, code & 0xff);
    }
    kelpie__sim_process_leave(process);
    kelpie__assert_failed("a process that has ended runs", __FILE__, __LINE__, __func__);
}
