/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Signals and deaths. A process that ends gives up its handles in order, then its memory and its
 * stack; then its children learn of it, then whoever holds a handle of it, then its parent: Linux'
 * order. Deaths that follow from a death wait in the machine's list until their turn comes, so that
 * nothing here is called within itself.
 */
#include <signal.h>
#include <string.h>

#include "sim/core.h"
#include "sim/guest.h"

#define PROGRAM_BYTES (1024u * 1024u) /* that a program has before it allocates any */
#define DEATHS_MAX (2 * SIM_PROCESS_MAX)

/* ---- death ----------------------------------------------------------------------------------- */

void kelpie__sim_process_collect(struct sim_process *zombie) {
    KELPIE_ASSERT(zombie->state == SIM_PROCESS_ZOMBIE);
    kelpie__sim_child_remove(zombie);
    kelpie__sim_process_unlist(zombie);
    zombie->state = SIM_PROCESS_GONE;
    if (zombie->exit_watchers == NULL) {
        kelpie__sim_process_free(zombie);
    }
}

void kelpie__sim_process_orphan(struct sim_process *process) {
    struct sim_machine *machine = process->machine;
    KELPIE_ASSERT(process->state < SIM_PROCESS_ZOMBIE);
    kelpie__sim_child_remove(process);
    kelpie__sim_child_add(kelpie__sim_machine_init(machine), process);
    process->is_orphan = true;
}

void kelpie__sim_process_drop(struct sim_process *process) {
    kelpie__sim_ready_remove(process);
    kelpie__sim_handles_close(process);
    kelpie__sim_process_release(process);
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
    struct sim_process *heir = kelpie__sim_machine_init(machine);
    KELPIE_ASSERT(heir != process);
    while (process->children != NULL) { /* bound: the list */
        struct sim_process *child = process->children;
        kelpie__sim_child_remove(child);
        kelpie__sim_child_add(heir, child);
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
    process->memory_bytes_left = process->memory_bytes;
    process->handles_left = kelpie__sim_handles_own(process);
    kelpie__sim_handles_close(process);
    process->signals = NULL;
    kelpie__sim_process_release(process);
    process->state = SIM_PROCESS_ZOMBIE;
    process->is_ending = false;
    if (machine->guest != NULL) {
        kelpie__sim_guest_ended(process);
    } else {
        process->exit.cpu_user_us = process->cpu_ns / 1000;
        process->exit.peak_memory_kib = (process->memory_bytes_peak + PROGRAM_BYTES) / 1024;
    }
    size_t length = process->exit.is_signalled ? 7 : 5;
    memcpy(detail, process->exit.is_signalled ? "signal " : "code ", length);
    detail[length] = (char)('0' + process->exit.value / 100);
    detail[length + 1] = (char)('0' + process->exit.value / 10 % 10);
    detail[length + 2] = (char)('0' + process->exit.value % 10);
    detail[length + 3] = '\0';
    kelpie__sim_process_emit(process, SIM_EVENT_PROCESS_ENDED, detail);
    leave_children(process);
    kelpie__sim_process_tell(process);
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
    process->watches.wait_handle = 0;
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
            kelpie__sim_child_remove(each->children);
        }
    }
    struct sim_process *process = machine->processes;
    while (process != NULL) { /* bound: the list */
        struct sim_process *next = process->next;
        if (!process->is_embedder) {
            kelpie__sim_process_release(process);
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
        kelpie__sim_process_emit(process, SIM_EVENT_PROCESS_STOPPED, process->path);
        kelpie__sim_world_guests_refresh(process->machine->world);
    }
}

static void process_continue(struct sim_process *process) {
    if (process->is_stopped) {
        process->is_stopped = false;
        kelpie__sim_process_emit(process, SIM_EVENT_PROCESS_CONTINUED, process->path);
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

/* What came while it was stopped: the lowest first, of which mostly one is enough. */
static void signal_deliver(struct sim_process *process) {
    uint64_t due = process->signals_pending & ~process->signals_blocked;
    while (due != 0 && process->state < SIM_PROCESS_ZOMBIE && !process->is_ending) {
        int signal = __builtin_ctzll(due) + 1;
        due &= due - 1;
        process->signals_pending &= ~(UINT64_C(1) << (signal - 1));
        signal_default(process, signal);
    }
}

static bool signal_is_lethal(int signal) {
    return signal != SIGCHLD && signal != SIGCONT && signal != SIGURG && signal != SIGWINCH &&
           signal != SIGTSTP && signal != SIGTTIN && signal != SIGTTOU;
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
        signal_deliver(process);
    }
    if ((process->signals_blocked & bit) != 0) {
        process->signals_pending |= bit;
        kelpie__sim_object_changed(process->signals);
    } else if ((process->signals_ignored & bit) == 0) {
        if (process->is_stopped && signal_is_lethal(signal)) {
            process->signals_pending |= bit; /* it dies when it goes on */
        } else {
            signal_default(process, signal);
        }
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
