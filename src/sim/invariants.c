/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * See invariants.h. Each check is one function with its number; the clients' own comparisons
 * (client_command.c: 11, 13), the judge (3, 28) and liveness (8) are the others.
 */
#include "sim/invariants.h"

#include <stdlib.h>
#include <string.h>

#include "core/json.h"
#include "core/state.h"
#include "core/text.h"
#include "monitor/options.h"
#include "sim/belongings.h"
#include "sim/client.h"
#include "sim/disk.h"
#include "sim/fault.h"
#include "sim/guest.h"
#include "sim/keepers.h"
#include "sim/lasting.h"
#include "sim/machine.h"
#include "sim/snapshot_truth.h"
#include "sim/trace.h"
#include "sim/truth.h"
#include "store/record.h"

#define INVARIANT_VM_MAX 128u
#define INVARIANT_LEAVER_MAX 64u
#define INVARIANT_DELETED "/.deleted-" /* what a VM is renamed to when it is deleted */
#define INVARIANT_REASON_BYTES 520u
#define INVARIANT_STATE_TAIL "/" KELPIE_RECORD_FILE
#define INVARIANT_MONITOR_DIED "its monitor died"
#define INVARIANT_FRAME "agent.frame "

struct invariant_vm {
    char path[256]; /* of its directory, with a slash at the end */
    bool is_known;  /* `state` holds */
    enum kelpie_vm_state state;
    bool has_paused;       /* what follows is of the guest that was published as paused */
    uint64_t paused_guest; /* its number; one that was restored since is another */
    uint8_t paused_nonce[SIM_GUEST_NONCE_BYTES];
    uint64_t paused_ticks;
    int64_t runs_ns;        /* since when its guest runs */
    uint64_t halted_guest;  /* the number of the guest that stood still last, since it was published
                               as running; 0: none has */
    int32_t vmm_pid;        /* of the VMM that it was last published with */
    int32_t arrived;        /* of the VMM whose guest was published last */
    int32_t monitor_pid;    /* that it was published with last */
    bool has_monitor_ended; /* since the host went down last */
    bool has_vmm_ended;     /* and how: */
    struct kelpie_os_exit vmm_exit;
};

/* Of a state file. */
struct invariant_record {
    enum kelpie_vm_state state;
    int32_t vmm_pid;     /* 0: none */
    int32_t monitor_pid; /* likewise */
    char reason[INVARIANT_REASON_BYTES];
    char parent[33];
};

struct sim_invariants {
    struct sim_snapshots *snapshots; /* owned */
    struct sim_world *world;         /* borrowed */
    struct sim_judge *judge;         /* borrowed */
    uint32_t vm_count;
    struct invariant_vm vms[INVARIANT_VM_MAX];
    struct sim_keepers keepers;
    uint32_t leaver_count;
    int32_t leavers[INVARIANT_LEAVER_MAX];      /* pids of the last that deleted a VM: a ring */
    uint8_t started[SIM_OPERATION_MAX / 8 + 1]; /* bits: operations whose command has started */
};

/* ---- looking --------------------------------------------------------------------------------- */

static struct invariant_vm *vm_of(struct sim_invariants *invariants, const char *path,
                                  size_t length) {
    for (uint32_t i = 0; i < invariants->vm_count; i += 1) {
        struct invariant_vm *vm = &invariants->vms[i];
        if (strlen(vm->path) == length && strncmp(vm->path, path, length) == 0) {
            return vm;
        }
    }
    if (invariants->vm_count == INVARIANT_VM_MAX || length >= sizeof(invariants->vms[0].path)) {
        return NULL;
    }
    struct invariant_vm *vm = &invariants->vms[invariants->vm_count];
    invariants->vm_count += 1;
    *vm = (struct invariant_vm){0};
    memcpy(vm->path, path, length);
    return vm;
}

/* ---- 1, 15: what is published is true -------------------------------------------------------- */

/* Its clock stood, too: it was told the time before anybody was told that it runs. Not one of a
 * pool, which is told with the claim's answer. */
static void check_clock(struct sim_invariants *invariants, const struct invariant_vm *vm,
                        struct sim_guest *guest, const struct sim_guest_truth *truth) {
    struct sim_world *world = invariants->world;
    uint32_t index = 0;
    if (!kelpie__sim_truth_vm_index(kelpie__sim_guest_owner(guest), &index) ||
        index >= SIM_SWARM_VM_MAX) {
        return;
    }
    int64_t now_ns = kelpie__sim_now(world);
    int64_t wall_ns = now_ns + kelpie__sim_world_host(world)->wall_offset_ns;
    int64_t off_ns = truth->wall_ns > wall_ns ? truth->wall_ns - wall_ns : wall_ns - truth->wall_ns;
    KELPIE_ASSERT(vm->runs_ns <= now_ns);
    if (off_ns > KELPIE_NS_PER_S + now_ns - vm->runs_ns &&
        kelpie__sim_faults_fired(kelpie__sim_world_faults(world)) == 0) {
        kelpie__sim_world_fail(world, "invariant 15: %s was resumed, and its clock is %lld ms off",
                               vm->path, (long long)(off_ns / KELPIE_NS_PER_MS));
    }
}

/* Between the two its processor stood still, and it is still the same guest. */
static void check_resumed(struct sim_invariants *invariants, struct invariant_vm *vm,
                          struct sim_guest *guest, enum kelpie_vm_state before) {
    struct sim_guest_truth truth;
    KELPIE_ASSERT(vm->is_known);
    if (guest == NULL) {
        vm->has_paused = false;
        return;
    }
    kelpie__sim_guest_truth(guest, &truth);
    bool is_resumed = vm->state == KELPIE_VM_RUNNING && before == KELPIE_VM_PAUSED;
    if (is_resumed && vm->has_paused && truth.id == vm->paused_guest &&
        (memcmp(truth.nonce, vm->paused_nonce, SIM_GUEST_NONCE_BYTES) != 0 ||
         truth.ticks < vm->paused_ticks)) {
        kelpie__sim_world_fail(invariants->world,
                               "invariant 15: %s was resumed, and is another guest", vm->path);
    }
    if (is_resumed) {
        check_clock(invariants, vm, guest, &truth);
    }
    vm->has_paused = vm->state == KELPIE_VM_PAUSED;
    vm->paused_guest = truth.id;
    vm->paused_ticks = truth.ticks;
    memcpy(vm->paused_nonce, truth.nonce, SIM_GUEST_NONCE_BYTES);
}

/* A pause that is written again, or late for a full disk, may be about to be undone: the guest has
 * stood still by then, and somebody waits for it to go on. */
static bool is_resuming(const struct sim_invariants *invariants, const struct invariant_vm *vm,
                        const struct invariant_record *record, struct sim_guest *guest) {
    struct sim_guest_truth truth;
    uint32_t index = 0;
    const struct sim_process *vmm =
        kelpie__sim_process_find(kelpie__sim_world_host(invariants->world), record->vmm_pid);
    KELPIE_ASSERT(invariants->judge != NULL && guest != NULL);
    kelpie__sim_guest_truth(guest, &truth);
    return vmm != NULL && truth.id == vm->halted_guest && kelpie__sim_truth_is_alive(vmm) &&
           kelpie__sim_truth_vm_index(vmm, &index) &&
           kelpie__sim_judge_is_resuming(invariants->judge, index);
}

static void check_published(struct sim_invariants *invariants, struct invariant_vm *vm,
                            enum kelpie_vm_state before, const struct invariant_record *record) {
    struct sim_guest_truth truth;
    struct sim_guest *guest = kelpie__sim_truth_guest_of(invariants->world, record->vmm_pid);
    if (vm->state == KELPIE_VM_RUNNING && before == KELPIE_VM_STARTING) {
        if (guest != NULL) {
            kelpie__sim_guest_truth(guest, &truth);
        }
        /* one whose QEMU was killed since cannot be asked any more */
        if (guest != NULL && !truth.is_greeted) {
            kelpie__sim_world_fail(invariants->world,
                                   "invariant 1: %s is published as running, and its guest has "
                                   "not said hello",
                                   vm->path);
        }
    }
    bool is_new = vm->state == KELPIE_VM_PAUSED && before != KELPIE_VM_PAUSED;
    if (is_new && guest != NULL && kelpie__sim_guest_is_running(guest) &&
        !kelpie__sim_truth_is_mute(guest) && !is_resuming(invariants, vm, record, guest)) {
        kelpie__sim_world_fail(invariants->world,
                               "invariant 15: %s is published as paused, and its guest runs",
                               vm->path);
    }
    if (vm->state == KELPIE_VM_RUNNING) {
        vm->halted_guest = 0;
    }
    check_resumed(invariants, vm, guest, before);
    bool is_live = vm->state == KELPIE_VM_RUNNING || vm->state == KELPIE_VM_PAUSED;
    if (is_live && guest != NULL && vm->arrived != record->vmm_pid) {
        vm->arrived = record->vmm_pid;
        kelpie__sim_snapshots_arrived(invariants->snapshots, guest, vm->path, record->parent);
    }
}

/* ---- 2: only the table's transitions, and a state file that is whole ------------------------- */

static bool is_transition(enum kelpie_vm_state from, enum kelpie_vm_state to) {
    static const uint8_t allowed[] = {
        [KELPIE_VM_CREATED] = 1u << KELPIE_VM_STARTING,
        [KELPIE_VM_STARTING] = 1u << KELPIE_VM_RUNNING | 1u << KELPIE_VM_PAUSED |
                               1u << KELPIE_VM_CREATED | 1u << KELPIE_VM_STOPPED |
                               1u << KELPIE_VM_CRASHED,
        [KELPIE_VM_RUNNING] =
            1u << KELPIE_VM_PAUSED | 1u << KELPIE_VM_STOPPED | 1u << KELPIE_VM_CRASHED,
        [KELPIE_VM_PAUSED] =
            1u << KELPIE_VM_RUNNING | 1u << KELPIE_VM_STOPPED | 1u << KELPIE_VM_CRASHED,
        [KELPIE_VM_STOPPED] = 1u << KELPIE_VM_STARTING,
        [KELPIE_VM_CRASHED] = 1u << KELPIE_VM_STARTING,
    };
    return from == to || (allowed[from] & 1u << to) != 0;
}

/* What is read of it, in the order in which it is written: then each is found at once. */
enum record_member {
    RECORD_STATE,
    RECORD_REASON,
    RECORD_ORIGIN,
    RECORD_PARENT,
    RECORD_MONITOR,
    RECORD_VMM,
};

/* 0: none, or not a number. */
static int32_t member_pid(const struct kelpie_json_member *member) {
    int64_t pid = 0;
    return member->is_there && kelpie__json_i64(&member->value, &pid) == 0 ? (int32_t)pid : 0;
}

static bool read_state(struct sim_world *world, const char *path, struct invariant_record *out) {
    char text[KELPIE_RECORD_JSON_BYTES_MAX];
    char name[16];
    char origin[16];
    struct kelpie_json_member members[] = {
        [RECORD_STATE] = {.key = "state"},         [RECORD_REASON] = {.key = "reason"},
        [RECORD_ORIGIN] = {.key = "origin"},       [RECORD_PARENT] = {.key = "parent"},
        [RECORD_MONITOR] = {.key = "monitor_pid"}, [RECORD_VMM] = {.key = "vmm_pid"}};
    int64_t size =
        kelpie__sim_disk_peek(kelpie__sim_world_disk(world), false, path, text, sizeof(text));
    *out = (struct invariant_record){0};
    if (size <= 0 || (uint64_t)size > sizeof(text) ||
        kelpie__json_members(text, (size_t)size, members, KELPIE_ARRAY_COUNT(members)) < 0) {
        return false;
    }
    out->vmm_pid = member_pid(&members[RECORD_VMM]);
    out->monitor_pid = member_pid(&members[RECORD_MONITOR]);
    bool is_of_snapshot =
        members[RECORD_ORIGIN].is_there &&
        kelpie__json_member_string(&members[RECORD_ORIGIN], origin, sizeof(origin)) &&
        strcmp(origin, "snapshot") == 0;
    /* what is not there is empty; else it is only the last that was taken of it */
    if (!is_of_snapshot ||
        !kelpie__json_member_string(&members[RECORD_PARENT], out->parent, sizeof(out->parent))) {
        out->parent[0] = '\0';
    }
    return kelpie__json_member_string(&members[RECORD_STATE], name, sizeof(name)) &&
           kelpie__json_member_string(&members[RECORD_REASON], out->reason, sizeof(out->reason)) &&
           kelpie__state_parse(name, &out->state);
}

/* ---- 9: the cause of death is the true one --------------------------------------------------- */

/* The number behind these words, or -1. */
static int64_t number_after(const char *text, const char *words) {
    const char *found = strstr(text, words);
    char digits[8] = "";
    uint64_t value = 0;
    if (found == NULL) {
        return -1;
    }
    found += strlen(words);
    size_t length = strspn(found, "0123456789");
    if (length == 0 || length >= sizeof(digits)) {
        return -1;
    }
    memcpy(digits, found, length);
    return kelpie__text_u64(digits, &value) ? (int64_t)value : -1;
}

static void check_cause(struct sim_invariants *invariants, const struct invariant_vm *vm,
                        const char *reason) {
    const struct kelpie_os_exit *truth = &vm->vmm_exit;
    KELPIE_ASSERT(vm->has_vmm_ended);
    int64_t signal = number_after(reason, "QEMU was killed by signal ");
    int64_t code = number_after(reason, "QEMU exited with code ");
    bool is_wrong = (signal >= 0 && !(truth->is_signalled && truth->value == signal)) ||
                    (code >= 0 && !(!truth->is_signalled && truth->value == code));
    if (is_wrong) {
        kelpie__sim_world_fail(invariants->world,
                               "invariant 9: %s: \"%.100s\", and in truth it was %s %d", vm->path,
                               reason, truth->is_signalled ? "signal" : "code", truth->value);
    }
}

/* The one of a live state: not yet the one that is on its way to take its place. */
static void note_vmm(struct invariant_vm *vm, const struct invariant_record *record) {
    bool is_live = record->state == KELPIE_VM_RUNNING || record->state == KELPIE_VM_PAUSED;
    if (is_live && record->vmm_pid > 0 && vm->vmm_pid != record->vmm_pid) {
        vm->vmm_pid = record->vmm_pid;
        vm->has_vmm_ended = false;
    }
}

static void note_vmm_ended(struct sim_invariants *invariants, const struct sim_process *process) {
    for (uint32_t i = 0; i < invariants->vm_count; i += 1) {
        struct invariant_vm *vm = &invariants->vms[i];
        if (vm->vmm_pid == process->pid) {
            vm->has_vmm_ended = true;
            vm->vmm_exit = process->exit;
        }
    }
}

static void note_monitor_ended(struct sim_invariants *invariants,
                               const struct sim_process *process) {
    for (uint32_t i = 0; i < invariants->vm_count; i += 1) {
        struct invariant_vm *vm = &invariants->vms[i];
        vm->has_monitor_ended = vm->has_monitor_ended || vm->monitor_pid == process->pid;
    }
}

/* Who recovers a VM tells a monitor that died from a host that went down: by its boot id, which no
 * fault may have kept from being read. */
static void check_recovered(struct sim_invariants *invariants, const struct invariant_vm *vm,
                            const char *reason) {
    const struct sim_faults *faults = kelpie__sim_world_faults(invariants->world);
    KELPIE_ASSERT(vm->is_known);
    if (kelpie__sim_faults_has_class_fired(faults, "disk") ||
        kelpie__sim_faults_has_class_fired(faults, "stream")) {
        return;
    }
    if (strncmp(reason, INVARIANT_MONITOR_DIED, strlen(INVARIANT_MONITOR_DIED)) == 0 &&
        !vm->has_monitor_ended) {
        kelpie__sim_world_fail(invariants->world,
                               "invariant 9: %s: \"%.100s\", and no monitor of it has died since "
                               "the host went down",
                               vm->path, reason);
    }
}

static bool is_vmm(const struct sim_process *process) {
    return strcmp(process->role, "qemu") == 0 || strcmp(process->role, "krun") == 0;
}

/* ---- 10: a command starts once --------------------------------------------------------------- */

/* Each of the workload's `echo word-N` has a number of its own. */
static void check_started_once(struct sim_invariants *invariants,
                               const struct sim_process *started) {
    static const char word[] = "word-";
    uint64_t value = 0;
    bool is_known = started->argc == 2 && strncmp(started->argv[1], word, strlen(word)) == 0 &&
                    kelpie__text_u64(started->argv[1] + strlen(word), &value) &&
                    value < SIM_OPERATION_MAX;
    if (!is_known) {
        return;
    }
    uint8_t bit = (uint8_t)(1u << value % 8);
    if ((invariants->started[value / 8] & bit) != 0) {
        kelpie__sim_world_fail(invariants->world, "invariant 10: command %llu starts twice",
                               (unsigned long long)value);
    }
    invariants->started[value / 8] |= bit;
}

/* ---- 26: what a guest has broken is named ---------------------------------------------------- */

static void check_rule(struct sim_invariants *invariants, const struct invariant_vm *vm,
                       const char *reason) {
    const char *peer = strstr(reason, "the guest's agent");
    if (peer != NULL && strstr(peer, " broke ") != NULL && number_after(peer, " rule R") < 0) {
        kelpie__sim_world_fail(invariants->world, "invariant 26: %s: no rule is named: %.200s",
                               vm->path, reason);
    }
}

/* ---- 2, 9: the state file -------------------------------------------------------------------- */

static void check_state_file(struct sim_invariants *invariants, const char *path) {
    const char *name = strstr(path, SIM_TRUTH_VMS);
    if (name == NULL || name[strlen(SIM_TRUTH_VMS)] == '.') {
        return; /* still under its temporary name */
    }
    size_t length = strlen(path) - strlen(KELPIE_RECORD_FILE);
    struct invariant_vm *vm = vm_of(invariants, path, length);
    struct invariant_record record;
    if (vm == NULL) {
        return; /* more than are known */
    }
    if (!read_state(invariants->world, path, &record)) {
        kelpie__sim_world_fail(invariants->world, "invariant 2: %s is not whole", path);
        return;
    }
    enum kelpie_vm_state before = vm->state;
    enum kelpie_vm_state state = record.state;
    if (vm->is_known && !is_transition(before, state)) {
        kelpie__sim_world_fail(invariants->world, "invariant 2: %s goes from %s to %s", vm->path,
                               kelpie_vm_state_name(before), kelpie_vm_state_name(state));
    }
    bool was_known = vm->is_known;
    vm->state = state;
    vm->is_known = true;
    struct sim_trace *trace = kelpie__sim_world_trace(invariants->world);
    if (trace != NULL) {
        kelpie__sim_trace_band(trace, kelpie__sim_now(invariants->world), vm->path,
                               kelpie_vm_state_name(state));
    }
    note_vmm(vm, &record);
    check_published(invariants, vm, was_known ? before : KELPIE_VM_CREATED, &record);
    check_recovered(invariants, vm, record.reason);
    vm->monitor_pid = record.monitor_pid > 0 ? record.monitor_pid : vm->monitor_pid;
    if (state == KELPIE_VM_CRASHED) {
        check_rule(invariants, vm, record.reason);
    }
    if (state == KELPIE_VM_CRASHED && vm->has_vmm_ended) {
        check_cause(invariants, vm, record.reason);
    }
    vm->has_vmm_ended = vm->has_vmm_ended && state != KELPIE_VM_STARTING;
}

/* A directory that gets a VM's name is a new VM, whatever was known of one of that name. */
static void forget_former(struct sim_invariants *invariants, const char *path) {
    char whole[256];
    const char *name = strstr(path, SIM_TRUTH_VMS);
    if (name == NULL || strchr(name + strlen(SIM_TRUTH_VMS), '/') != NULL ||
        name[strlen(SIM_TRUTH_VMS)] == '.' ||
        !kelpie__text_format(whole, sizeof(whole), "%s/", path)) {
        return;
    }
    struct invariant_vm *vm = vm_of(invariants, whole, strlen(whole));
    if (vm != NULL) {
        vm->is_known = false;
    }
}

/* ---- 4, 6: who may live ---------------------------------------------------------------------- */

/* A VMM whose parent is gone dies with it, in the same instant. */
static void check_orphans(struct sim_invariants *invariants) {
    struct sim_machine *host = kelpie__sim_world_host(invariants->world);
    for (const struct sim_process *process = host->processes; process != NULL;
         process = process->next) { /* bound: the list */
        if (process->parent == NULL && is_vmm(process) && kelpie__sim_truth_is_alive(process)) {
            kelpie__sim_world_fail(invariants->world,
                                   "invariant 4: QEMU (pid %d) lives, its monitor is dead",
                                   process->pid);
        }
    }
}

/* Its VM is deleted, and the name free for another one; or it has closed its lock, and only its
 * exit is left. One that never held the lock has the handle, too. */
static bool is_leaving(const struct sim_invariants *invariants, struct sim_process *process) {
    if (strcmp(process->role, "monitor") == 0 &&
        kelpie__sim_handle_object(process, KELPIE_MONITOR_HANDLE_LOCK) == NULL) {
        return true;
    }
    for (uint32_t i = 0; i < INVARIANT_LEAVER_MAX; i += 1) {
        if (invariants->leavers[i] == process->pid) {
            return true;
        }
    }
    return false;
}

static void note_leaver(struct sim_invariants *invariants, const struct sim_event *event) {
    if (event->process != NULL && strstr(event->detail, INVARIANT_DELETED) != NULL) {
        invariants->leavers[invariants->leaver_count % INVARIANT_LEAVER_MAX] = event->process->pid;
        invariants->leaver_count += 1;
    }
}

/* A VMM that waits for a saved state comes up beside the one that its guest will replace. */
static bool is_candidate(const struct sim_process *process) {
    for (int i = 0; i < process->argc; i += 1) {
        if (strcmp(process->argv[i], "-incoming") == 0) {
            return true;
        }
    }
    return false;
}

static void check_only_one(struct sim_invariants *invariants, const struct sim_process *started) {
    struct sim_machine *host = kelpie__sim_world_host(invariants->world);
    char path[256];
    uint32_t allowed = is_candidate(started) ? 1 : 0;
    bool has_vm = kelpie__sim_truth_vm_path(started, path);
    for (struct sim_process *process = host->processes; has_vm && process != NULL;
         process = process->next) {                                       /* bound: the list */
        bool is_other = process != started && process != started->parent; /* a monitor's worker */
        if (!is_other || strcmp(process->role, started->role) != 0 ||
            !kelpie__sim_truth_is_alive(process) || !kelpie__sim_truth_is_of_vm(process, path) ||
            is_leaving(invariants, process)) {
            continue;
        }
        if (allowed == 0) {
            kelpie__sim_world_fail(invariants->world,
                                   "invariant 6: two of %s for %s, pids %d and %d", started->role,
                                   path, process->pid, started->pid);
            return;
        }
        allowed -= 1;
    }
}

/* It runs, or stands still; of whichever VM it is the guest. */
static void note_guest(struct sim_invariants *invariants, struct sim_guest *guest, bool runs) {
    struct sim_guest_truth truth;
    const struct sim_process *owner = kelpie__sim_guest_owner(guest);
    for (uint32_t i = 0; owner != NULL && i < invariants->vm_count; i += 1) {
        struct invariant_vm *vm = &invariants->vms[i];
        if (vm->vmm_pid == owner->pid) {
            kelpie__sim_guest_truth(guest, &truth);
            vm->halted_guest = runs ? vm->halted_guest : truth.id;
            vm->runs_ns = kelpie__sim_now(invariants->world);
        }
    }
}

/* A guest of libkrun stands still with its process. */
static void note_stopped(struct sim_invariants *invariants, const struct sim_process *process) {
    struct sim_guest *guest = strcmp(process->role, "krun") != 0
                                  ? NULL
                                  : kelpie__sim_truth_guest_of(invariants->world, process->pid);
    if (guest != NULL) {
        note_guest(invariants, guest, false);
    }
}

/* Of all VMMs of a VM, one at most has a guest that runs. */
static void check_runs_alone(struct sim_invariants *invariants, struct sim_guest *started) {
    const struct sim_process *owner = kelpie__sim_guest_owner(started);
    char path[256];
    bool has_vm = owner != NULL && kelpie__sim_truth_vm_path(owner, path);
    struct sim_guest *guest = kelpie__sim_world_guest(invariants->world, 0);
    for (uint32_t i = 0; has_vm && guest != NULL; i += 1) { /* bound: the guests */
        const struct sim_process *other = kelpie__sim_guest_owner(guest);
        if (guest != started && other != NULL && kelpie__sim_truth_is_alive(other) &&
            kelpie__sim_guest_is_running(guest) && kelpie__sim_truth_is_of_vm(other, path)) {
            kelpie__sim_world_fail(invariants->world,
                                   "invariant 6: two guests of %s run, of QEMUs %d and %d", path,
                                   other->pid, owner->pid);
        }
        guest = kelpie__sim_world_guest(invariants->world, i + 1);
    }
}

/* ---- what the judge has to know -------------------------------------------------------------- */

static void tell_judge(struct sim_invariants *invariants, const struct sim_process *ended) {
    uint64_t client = 0;
    size_t prefix = strlen(SIM_CLIENT_PATH);
    if (strncmp(ended->path, SIM_CLIENT_PATH, prefix) == 0 &&
        kelpie__text_u64(ended->path + prefix, &client) && client < SIM_JUDGE_CLIENT_MAX) {
        kelpie__sim_judge_client_gone(invariants->judge, (uint32_t)client);
    }
}

/* Bytes on the way from a guest were changed, or a program in it met a fault. */
static void tell_tampering(struct sim_invariants *invariants, const struct sim_event *event) {
    const struct sim_process *process = event->process;
    if (process == NULL) {
        return;
    }
    struct sim_guest *guest = process->machine->guest;
    bool is_program = guest != NULL && strcmp(process->role, "agent") != 0;
    bool is_frame = strncmp(event->detail, INVARIANT_FRAME, strlen(INVARIANT_FRAME)) == 0;
    const struct sim_process *owner = is_program ? kelpie__sim_guest_owner(guest) : process;
    uint32_t vm = 0;
    if ((is_program || is_frame) && owner != NULL && kelpie__sim_truth_vm_index(owner, &vm)) {
        kelpie__sim_judge_tamper(invariants->judge, vm);
    }
}

/* ---- all ------------------------------------------------------------------------------------- */

static bool ends_with(const char *text, const char *tail) {
    size_t length = strlen(text);
    size_t tail_length = strlen(tail);
    return length > tail_length && strcmp(text + length - tail_length, tail) == 0;
}

static void on_event(void *context, struct sim_world *world, const struct sim_event *event) {
    struct sim_invariants *invariants = context;
    KELPIE_ASSERT(invariants->world == world);
    switch (event->type) {
    case SIM_EVENT_PROCESS_STARTED:
        check_orphans(invariants);
        if (event->process->machine == kelpie__sim_world_host(world)) {
            check_only_one(invariants, event->process);
        } else {
            check_started_once(invariants, event->process);
        }
        break;
    case SIM_EVENT_PROCESS_ENDED:
        kelpie__sim_belongings_at_end(world, event->process);
        if (is_vmm(event->process)) {
            note_vmm_ended(invariants, event->process);
        } else if (strcmp(event->process->role, "monitor") == 0) {
            note_monitor_ended(invariants, event->process);
        }
        tell_judge(invariants, event->process);
        break;
    case SIM_EVENT_RENAME:
        check_orphans(invariants);
        note_leaver(invariants, event);
        forget_former(invariants, event->detail);
        kelpie__sim_snapshots_renamed(invariants->snapshots, event->detail);
        kelpie__sim_lasting_renamed(world, event->detail);
        kelpie__sim_keepers_renamed(&invariants->keepers, world, event->process, event->detail);
        if (ends_with(event->detail, INVARIANT_STATE_TAIL)) {
            check_state_file(invariants, event->detail);
        }
        break;
    case SIM_EVENT_POWER_LOSS:
        invariants->vm_count = 0;
        kelpie__sim_snapshots_power_loss(invariants->snapshots);
        kelpie__sim_judge_power_loss(invariants->judge);
        break;
    case SIM_EVENT_FAULT:
        tell_tampering(invariants, event);
        break;
    case SIM_EVENT_NOTE:
        if (strncmp(event->detail, SIM_FAULT_ROTTED, strlen(SIM_FAULT_ROTTED)) == 0) {
            kelpie__sim_snapshots_rotted(invariants->snapshots, event->detail);
        }
        check_orphans(invariants);
        break;
    case SIM_EVENT_GUEST:
        kelpie__sim_snapshots_guest(invariants->snapshots, event->guest, event->detail);
        if (strcmp(event->detail, "runs") == 0) {
            check_runs_alone(invariants, event->guest);
            note_guest(invariants, event->guest, true);
        } else if (strcmp(event->detail, "halted") == 0) {
            note_guest(invariants, event->guest, false);
        }
        break;
    case SIM_EVENT_PROCESS_STOPPED:
        note_stopped(invariants, event->process);
        break;
    case SIM_EVENT_PROCESS_CONTINUED:
    case SIM_EVENT_MARK:
        break;
    }
}

struct sim_invariants *kelpie__sim_invariants_create(struct sim_world *world,
                                                     struct sim_judge *judge) {
    struct sim_invariants *invariants = calloc(1, sizeof(*invariants));
    struct sim_snapshots *snapshots = kelpie__sim_snapshots_create(world);
    if (invariants == NULL || snapshots == NULL) {
        free(invariants);
        kelpie__sim_snapshots_destroy(snapshots);
        return NULL;
    }
    invariants->snapshots = snapshots;
    invariants->world = world;
    invariants->judge = judge;
    kelpie__sim_judge_watch(judge, snapshots);
    kelpie__sim_world_observe(world, on_event, invariants);
    return invariants;
}

bool kelpie__sim_invariants_is_paused(const struct sim_invariants *invariants, uint32_t index) {
    char tail[32];
    bool fits = kelpie__text_format(tail, sizeof(tail), SIM_TRUTH_VMS "vm-%u/", index);
    KELPIE_ASSERT(fits);
    for (uint32_t i = 0; i < invariants->vm_count; i += 1) {
        const struct invariant_vm *vm = &invariants->vms[i];
        const char *found = strstr(vm->path, tail);
        if (found != NULL && strcmp(found, tail) == 0 && vm->is_known &&
            vm->state == KELPIE_VM_PAUSED) {
            return true;
        }
    }
    return false;
}

void kelpie__sim_invariants_destroy(struct sim_invariants *invariants) {
    if (invariants != NULL) {
        kelpie__sim_snapshots_destroy(invariants->snapshots);
    }
    free(invariants);
}
