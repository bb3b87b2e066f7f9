/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * See judge.h.
 */
#include "sim/judge.h"

#include <stdlib.h>
#include <string.h>

#include "core/error.h"
#include "core/limits.h"
#include "core/text.h"
#include "sim/client_command.h"
#include "sim/client_snapshot.h"
#include "sim/ending.h"
#include "sim/fault.h"
#include "sim/guest.h"
#include "sim/lasting.h"
#include "sim/machine.h"
#include "sim/snapshot_truth.h"
#include "sim/truth.h"

#define JUDGE_GRACE_MS 1000u /* beyond a call's own deadline, on a machine that is not loaded */

/* a command's time stands still while its VM is paused: somebody, or the one that resumes, may fail
 * to resume it for long */
#define JUDGE_SLOW_COST 100u
#define JUDGE_PROMPT_COST 10u /* up to that a timeout comes within so long: */
#define JUDGE_PROMPT_MS 1400u
#define JUDGE_STOP_MS 1000u /* what a guest needs to go */
#define JUDGE_PAUSED_NS (600 * KELPIE_NS_PER_S)
/* what a start may wait for kelpie-pack, which a fault can make hang */
#define JUDGE_PREPARE_NS (120 * KELPIE_NS_PER_S)

/* The machine that a VM had when a restore or a snapshot of it began. */
struct judge_machine {
    int32_t vmm_pid; /* 0: it did not live, or nothing is known */
    bool was_running;
    uint32_t activity; /* of the VM, with the restore itself */
    uint32_t faults;   /* that had fired */
    struct sim_guest_truth guest;
};

struct judge_call {
    struct judge_machine before; /* of a RESTORE or SNAPSHOT */
    bool is_open;
    uint32_t activity; /* of the VM, with this call's own begin */
    uint64_t ticket;   /* 0: the model does not know this operation */
    struct sim_operation operation;
    int64_t begun_ns;
    int64_t stop_ns;  /* when the first stop since the VM was started began; 0: none */
    int64_t asked_ns; /* of a STOP: when it was asked for */
    int64_t limit_ns;
    int64_t wall_offset_ns; /* the host's, when it began */
};

struct sim_judge {
    struct sim_world *world;         /* borrowed */
    struct sim_model *model;         /* owned */
    struct sim_snapshots *snapshots; /* borrowed; NULL: nobody knows of them */
    const struct sim_swarm *swarm;   /* borrowed */
    uint32_t timeout_tenths;
    struct sim_judge_counts counts;
    bool is_faulty; /* not calm */
    struct judge_call calls[SIM_JUDGE_CLIENT_MAX];
    uint64_t owned[SIM_JUDGE_CLIENT_MAX]; /* bits of VMs */
    uint64_t orphaned;                    /* bits: their owner is gone, and they are going */
    uint64_t tampered;                    /* likewise */
    struct sim_endings endings;
    int64_t stop_ns[SIM_MODEL_VM_MAX]; /* the first stop since a start that succeeded; 0: none */
    int64_t
        killed_ns[SIM_MODEL_VM_MAX]; /* when a call ended that kills the VM, or its owner went */
    uint32_t activity[SIM_MODEL_VM_MAX]; /* begins and ends of calls that change something */
};

struct sim_judge *kelpie__sim_judge_create(struct sim_world *world, const struct sim_swarm *swarm) {
    struct sim_judge *judge = calloc(1, sizeof(*judge));
    if (judge == NULL) {
        return NULL;
    }
    judge->world = world;
    judge->is_faulty = !swarm->is_calm;
    judge->swarm = swarm;
    judge->timeout_tenths = swarm->timeout_tenths;
    judge->model = kelpie__sim_model_create(swarm->is_calm);
    if (judge->model == NULL) {
        free(judge);
        return NULL;
    }
    kelpie__sim_endings_observe(&judge->endings, world);
    for (uint32_t vm = 0; vm < SIM_SWARM_VM_MAX; vm += 1) {
        kelpie__sim_model_configure(judge->model, vm, kelpie__sim_workload_is_owned(swarm, vm),
                                    swarm->has_disks);
    }
    return judge;
}

void kelpie__sim_judge_destroy(struct sim_judge *judge) {
    if (judge != NULL) {
        kelpie__sim_model_destroy(judge->model);
        free(judge);
    }
}

const struct sim_judge_counts *kelpie__sim_judge_counts(const struct sim_judge *judge) {
    return &judge->counts;
}

void kelpie__sim_judge_watch(struct sim_judge *judge, struct sim_snapshots *snapshots) {
    judge->snapshots = snapshots;
}

static int64_t wall_offset_ns(struct sim_world *world) {
    return kelpie__sim_world_host(world)->wall_offset_ns;
}

/* Whether a fault of this class has fired. */
static bool judge_has_fault(const struct sim_judge *judge, const char *class) {
    return kelpie__sim_faults_has_class_fired(kelpie__sim_world_faults(judge->world), class);
}

/* ---- 19: a restore that fails leaves the machine that there was ----------------------------- */

static bool changes_vm(const struct sim_operation *operation) {
    return !operation->is_look && operation->op != SIM_MODEL_EXEC &&
           operation->op != SIM_MODEL_PUT && operation->op != SIM_MODEL_GET &&
           operation->op != SIM_MODEL_FORGET && operation->op != SIM_MODEL_PREPARE;
}

static void note_activity(struct sim_judge *judge, const struct sim_operation *operation) {
    if (changes_vm(operation)) {
        judge->activity[operation->vm] += 1;
    }
}

/* Whether another call that changes the VM is under way. */
static bool others_change(const struct sim_judge *judge, const struct judge_call *call) {
    bool is_found = false;
    KELPIE_ASSERT(call->operation.vm < SIM_MODEL_VM_MAX);
    for (uint32_t i = 0; i < SIM_JUDGE_CLIENT_MAX; i += 1) {
        const struct judge_call *other = &judge->calls[i];
        is_found = is_found || (other != call && other->is_open && changes_vm(&other->operation) &&
                                other->operation.vm == call->operation.vm);
    }
    return is_found;
}

static void note_machine(struct sim_judge *judge, struct judge_call *call) {
    char path[32];
    uint32_t vm = call->operation.vm;
    const struct sim_faults *faults = kelpie__sim_world_faults(judge->world);
    bool fits = kelpie__text_format(path, sizeof(path), SIM_TRUTH_VMS "vm-%u/", vm);
    KELPIE_ASSERT(fits);
    struct sim_guest *guest = kelpie__sim_truth_guest(judge->world, path);
    if (guest != NULL) {
        call->before = (struct judge_machine){
            .vmm_pid = kelpie__sim_guest_owner(guest)->pid,
            .was_running = kelpie__sim_guest_is_running(guest),
            .activity = judge->activity[vm],
            .faults = kelpie__sim_faults_fired(faults),
        };
        kelpie__sim_guest_truth(guest, &call->before.guest);
    }
    if (others_change(judge, call)) {
        call->before.vmm_pid = 0; /* whose work it would be, nobody knows */
    }
}

/* 20: who was saved goes on as it was, and is the same. */
static void check_source(struct sim_judge *judge, const struct judge_call *call) {
    struct sim_guest_truth now;
    const struct judge_machine *before = &call->before;
    struct sim_guest *guest =
        before->vmm_pid == 0 ? NULL : kelpie__sim_truth_guest_of(judge->world, before->vmm_pid);
    if (guest == NULL || judge->activity[call->operation.vm] != before->activity ||
        kelpie__sim_guest_end(guest) != SIM_GUEST_LIVES || kelpie__sim_truth_is_mute(guest)) {
        return; /* it ended, or somebody else did something with it */
    }
    kelpie__sim_guest_truth(guest, &now);
    if (now.id != before->guest.id || now.ticks < before->guest.ticks ||
        memcmp(now.nonce, before->guest.nonce, sizeof(now.nonce)) != 0 ||
        kelpie__sim_guest_is_running(guest) != before->was_running) {
        char text[128];
        kelpie__sim_operation_text(&call->operation, text, sizeof(text));
        kelpie__sim_world_fail(judge->world, "invariant 20: %s: the guest that was saved %s", text,
                               before->was_running ? "does not go on" : "does not stand any more");
    }
}

/* Only where nobody and nothing else can have ended it. */
static void check_machine(struct sim_judge *judge, const struct judge_call *call, int status) {
    struct sim_guest_truth now;
    const struct judge_machine *before = &call->before;
    const struct sim_faults *faults = kelpie__sim_world_faults(judge->world);
    if (status == 0 || before->vmm_pid == 0 ||
        judge->activity[call->operation.vm] != before->activity ||
        (judge->orphaned >> call->operation.vm & 1) != 0 ||
        kelpie__sim_faults_fired(faults) != before->faults || judge_has_fault(judge, "qmp") ||
        judge_has_fault(judge, "qemu") || judge_has_fault(judge, "guest") ||
        judge_has_fault(judge, "agent") || /* a frame that was spoilt ends a VM, seconds later */
        judge_has_fault(judge, "kill") || judge_has_fault(judge, "power")) {
        return;
    }
    struct sim_guest *guest = kelpie__sim_truth_guest_of(judge->world, before->vmm_pid);
    if (guest != NULL) {
        kelpie__sim_guest_truth(guest, &now);
    }
    if (guest == NULL || now.id != before->guest.id || now.ticks < before->guest.ticks ||
        memcmp(now.nonce, before->guest.nonce, sizeof(now.nonce)) != 0 ||
        (before->was_running && !kelpie__sim_guest_is_running(guest))) {
        char text[128];
        kelpie__sim_operation_text(&call->operation, text, sizeof(text));
        kelpie__sim_world_fail(
            judge->world, "invariant 19: %s answered %s, and %s", text, kelpie_code_name(status),
            guest == NULL ? "what ran is not there any more" : "what ran does not go on");
    }
}

/* 15: a resume that failed leaves the guest standing, unless somebody else lets it run. */
static void check_stands(struct sim_judge *judge, const struct judge_call *call) {
    char path[32];
    uint32_t vm = call->operation.vm;
    bool fits = kelpie__text_format(path, sizeof(path), SIM_TRUTH_VMS "vm-%u/", vm);
    KELPIE_ASSERT(fits && call->operation.op == SIM_MODEL_RESUME);
    struct sim_guest *guest = kelpie__sim_truth_guest(judge->world, path);
    bool is_alone = judge->activity[vm] == call->activity && !others_change(judge, call);
    if (guest != NULL && is_alone && kelpie__sim_guest_is_running(guest) &&
        !kelpie__sim_truth_is_mute(guest)) {
        char text[128];
        kelpie__sim_operation_text(&call->operation, text, sizeof(text));
        kelpie__sim_world_fail(judge->world, "invariant 15: %s has failed, and the guest runs",
                               text);
    }
}

/* What is asked of snapshots, and what was answered. */
static void judge_tell_begin(struct sim_judge *judge, const struct sim_operation *operation) {
    char name[SIM_SNAPSHOT_NAME_BYTES];
    if (judge->snapshots != NULL && !operation->is_look && operation->op == SIM_MODEL_FORGET) {
        kelpie__sim_snapshot_name(operation->snapshot, name);
        kelpie__sim_snapshots_forgotten(judge->snapshots, name);
    }
}

static void judge_tell_end(struct sim_judge *judge, const struct judge_call *call, int status) {
    char name[SIM_SNAPSHOT_NAME_BYTES];
    const struct sim_operation *operation = &call->operation;
    bool is_of_snapshot = !operation->is_look && kelpie__sim_model_is_of_snapshot(operation->op);
    if (is_of_snapshot && operation->op == SIM_MODEL_RESTORE) {
        check_machine(judge, call, status);
    } else if (!operation->is_look && status == 0 &&
               (operation->op == SIM_MODEL_SNAPSHOT || operation->op == SIM_MODEL_CLONE)) {
        check_source(judge, call);
    } else if (!operation->is_look && status == KELPIE_E_RESUME &&
               operation->op == SIM_MODEL_RESUME) {
        check_stands(judge, call);
    }
    note_activity(judge, operation);
    if (judge->snapshots == NULL || !is_of_snapshot) {
        return;
    }
    kelpie__sim_snapshot_name(operation->snapshot, name);
    if (operation->op == SIM_MODEL_FORGET &&
        (status == KELPIE_E_NOT_FOUND || status == KELPIE_E_BUSY)) {
        kelpie__sim_snapshots_kept(judge->snapshots, name);
    }
    if (status != 0) {
        return;
    }
    judge->counts.snapshots += 1;
    if (operation->op == SIM_MODEL_SNAPSHOT) {
        bool is_durable = !kelpie__sim_workload_is_owned(judge->swarm, operation->vm) ||
                          kelpie__sim_snapshot_is_synced(operation);
        kelpie__sim_snapshots_taken(judge->snapshots, name, is_durable);
    } else {
        kelpie__sim_snapshots_compare(judge->snapshots);
    }
}

/* A stop joins one that is under way, whose client may be dead: the guest may have gone before it
 * came. */
static int64_t stop_began_ns(struct sim_judge *judge, const struct judge_call *call) {
    const struct sim_operation *operation = &call->operation;
    int64_t *first_ns = &judge->stop_ns[operation->vm];
    bool is_stop = operation->op == SIM_MODEL_STOP && !operation->is_look;
    KELPIE_ASSERT(*first_ns <= call->begun_ns);
    if (is_stop && *first_ns == 0) {
        *first_ns = call->begun_ns;
    }
    return *first_ns;
}

void kelpie__sim_judge_begin(struct sim_judge *judge, const struct sim_operation *operation,
                             uint64_t deadline_ms) {
    struct judge_call *call = &judge->calls[operation->client];
    KELPIE_ASSERT(operation->client < SIM_JUDGE_CLIENT_MAX);
    KELPIE_ASSERT(!call->is_open);
    KELPIE_ASSERT(!operation->is_look || operation->kind == SIM_LOOK_INSPECT);
    bool is_file = operation->op == SIM_MODEL_PUT || operation->op == SIM_MODEL_GET;
    const struct sim_model_call asked = {
        .op = operation->is_look ? SIM_MODEL_OBSERVE : operation->op,
        .vm = operation->vm,
        .client = operation->client,
        .file = !operation->is_look && is_file ? operation->kind : 0,
        .value = operation->op == SIM_MODEL_EXEC ? kelpie__sim_command_code(operation)
                                                 : operation->value,
        .snapshot = operation->is_look ? 0 : operation->snapshot,
        .target = operation->is_look ? 0 : operation->target,
        .is_synced = !operation->is_look && kelpie__sim_command_is_synced(operation),
        .must_fail = kelpie__sim_command_must_fail(operation),
    };
    uint64_t factor = kelpie__sim_world_options(judge->world)->cost_factor;
    *call = (struct judge_call){.is_open = true, .operation = *operation};
    call->begun_ns = kelpie__sim_now(judge->world);
    call->stop_ns = stop_began_ns(judge, call);
    call->wall_offset_ns = wall_offset_ns(judge->world);
    call->limit_ns =
        (int64_t)(deadline_ms + JUDGE_GRACE_MS * (factor > 0 ? factor : 1)) * KELPIE_NS_PER_MS;
    bool makes_ready = operation->op == SIM_MODEL_START || operation->op == SIM_MODEL_RESTORE ||
                       operation->op == SIM_MODEL_FORK;
    if (makes_ready && !operation->is_look && judge->is_faulty) {
        call->limit_ns += JUDGE_PREPARE_NS;
    }
    bool is_command =
        !operation->is_look && (operation->op == SIM_MODEL_EXEC || operation->op == SIM_MODEL_PUT ||
                                operation->op == SIM_MODEL_GET);
    if (is_command && judge->is_faulty) {
        call->limit_ns += JUDGE_PAUSED_NS;
    }
    judge_tell_begin(judge, operation);
    note_activity(judge, operation);
    call->activity = judge->activity[operation->vm];
    if (!operation->is_look &&
        (operation->op == SIM_MODEL_RESTORE || operation->op == SIM_MODEL_SNAPSHOT ||
         operation->op == SIM_MODEL_CLONE)) {
        note_machine(judge, call);
    }
    call->ticket = kelpie__sim_model_begin(judge->model, &asked);
    KELPIE_ASSERT(call->ticket != 0);
    judge->counts.calls += 1;
}

static void blame(struct sim_judge *judge, const struct sim_operation *operation, int status,
                  const struct kelpie_error *error, const char *why) {
    char text[128];
    kelpie__sim_operation_text(operation, text, sizeof(text));
    /* What only a calm run forbids is the promise that nothing goes wrong by itself. */
    bool is_calm = strstr(why, "in a calm run") != NULL;
    kelpie__sim_world_fail(judge->world, "%s: %s answered %s%s%.160s: %.200s",
                           is_calm ? "invariant 28" : "model", text, kelpie_code_name(status),
                           status < 0 ? ", " : "", status < 0 ? error->message : "", why);
}

/* What a timeout that was reported stands for, at least. */
static uint64_t earliest_ms(const struct sim_judge *judge, const struct sim_operation *operation,
                            int status) {
    uint64_t own_ms = kelpie__sim_command_timeout_ms(operation);
    if (status == KELPIE_E_EXEC_TIMEOUT) {
        return own_ms > 0 ? own_ms : KELPIE_EXEC_TIMEOUT_MS_DEFAULT;
    }
    if (status == KELPIE_E_BOOT_TIMEOUT) {
        return KELPIE_BOOT_TIMEOUT_MS_DEFAULT * (uint64_t)judge->timeout_tenths / 10;
    }
    /* Who was stopped himself may find that a time has passed before he could ask; and on a slow
     * host the answer to hello is waited for since an earlier call opened the connection. */
    bool was_away = judge_has_fault(judge, "stop") || judge_has_fault(judge, "delay") ||
                    judge->swarm->options.cost_factor > JUDGE_SLOW_COST;
    return status == KELPIE_E_TIMEOUT && !was_away ? KELPIE_QUIESCE_TIMEOUT_MS : 0;
}

/* Deadlines are those of the monotonic clock, whatever the other one does. */
static void check_early(struct sim_judge *judge, const struct judge_call *call, int status) {
    char text[128];
    int64_t took_ns = kelpie__sim_now(judge->world) - call->begun_ns;
    uint64_t wanted_ms = earliest_ms(judge, &call->operation, status);
    if (!call->operation.is_look && took_ns < (int64_t)wanted_ms * KELPIE_NS_PER_MS) {
        kelpie__sim_operation_text(&call->operation, text, sizeof(text));
        kelpie__sim_world_fail(
            judge->world, "invariant 27: %s answered %s after %lld ms, its timeout is %llu ms",
            text, kelpie_code_name(status), (long long)(took_ns / KELPIE_NS_PER_MS),
            (unsigned long long)wanted_ms);
    }
}

/* Neither the host nor anybody on it was slow, and nothing else was done with the VM. */
static bool is_prompt(const struct sim_judge *judge, const struct judge_call *call) {
    static const char *const hindrances[] = {"stop", "delay", "power", "pack", "disk"};
    bool is_slow = judge->swarm->options.cost_factor > JUDGE_PROMPT_COST ||
                   judge->activity[call->operation.vm] != call->activity ||
                   others_change(judge, call);
    for (size_t i = 0; i < KELPIE_ARRAY_COUNT(hindrances); i += 1) {
        is_slow = is_slow || judge_has_fault(judge, hindrances[i]);
    }
    return !is_slow;
}

/* A timeout that has come has come in time. */
static void check_timeout(struct sim_judge *judge, const struct judge_call *call, int status) {
    char text[128];
    int64_t took_ns = kelpie__sim_now(judge->world) - call->begun_ns;
    uint64_t wanted_ms = earliest_ms(judge, &call->operation, status);
    bool is_one = status == KELPIE_E_EXEC_TIMEOUT || status == KELPIE_E_BOOT_TIMEOUT;
    if (is_one && !call->operation.is_look && call->operation.op != SIM_MODEL_CLONE &&
        took_ns > (int64_t)(wanted_ms + JUDGE_PROMPT_MS) * KELPIE_NS_PER_MS &&
        is_prompt(judge, call)) {
        kelpie__sim_operation_text(&call->operation, text, sizeof(text));
        kelpie__sim_world_fail(
            judge->world, "invariant 27: %s answered %s after %lld ms, its timeout is %llu ms",
            text, kelpie_code_name(status), (long long)(took_ns / KELPIE_NS_PER_MS),
            (unsigned long long)wanted_ms);
    }
}

/* Who is stopped or delayed in the midst of it cannot keep a deadline. */
static void check_time(struct sim_judge *judge, const struct judge_call *call) {
    int64_t took_ns = kelpie__sim_now(judge->world) - call->begun_ns;
    bool is_slowed = judge_has_fault(judge, "stop") || judge_has_fault(judge, "delay");
    bool has_jumped = wall_offset_ns(judge->world) != call->wall_offset_ns;
    if (took_ns > call->limit_ns && !is_slowed) {
        char text[128];
        kelpie__sim_operation_text(&call->operation, text, sizeof(text));
        kelpie__sim_world_fail(judge->world,
                               "invariant %u: %s took %lld ms, its deadlines allow %lld ms",
                               has_jumped ? 27 : 8, text, (long long)(took_ns / KELPIE_NS_PER_MS),
                               (long long)(call->limit_ns / KELPIE_NS_PER_MS));
    }
}

/* ---- 7: "graceful" iff the guest saw the request, and went by itself ------------------------- */

static bool is_killing(const struct sim_operation *operation) {
    return !operation->is_look &&
           (operation->op == SIM_MODEL_KILL || operation->op == SIM_MODEL_DELETE_FORCE);
}

/* Somebody else has killed the VM, or tries to, since this call began. */
static bool is_killed_meanwhile(const struct sim_judge *judge, const struct judge_call *call) {
    bool is_killed = judge->killed_ns[call->operation.vm] >= call->begun_ns;
    for (uint32_t i = 0; i < SIM_JUDGE_CLIENT_MAX; i += 1) {
        const struct judge_call *other = &judge->calls[i];
        is_killed = is_killed || (other->is_open && other->operation.vm == call->operation.vm &&
                                  is_killing(&other->operation));
    }
    return is_killed;
}

/* That a guest went in time and counts as killed is wrong only where nothing was in its way. */
static void check_graceful(struct sim_judge *judge, const struct judge_call *call,
                           bool was_killed) {
    const struct sim_ending *ending = &judge->endings.vms[call->operation.vm];
    char text[128];
    KELPIE_ASSERT(call->operation.op == SIM_MODEL_STOP && !call->operation.is_look);
    /* who was killed as it was about to switch off has said goodbye */
    bool was_going = ending->was_asked && judge_has_fault(judge, "kill");
    bool has_gone = ending->is_over && ending->was_asked && (ending->went || was_going);
    /* who was stopped himself may hear of it when the VM has another guest */
    bool had_gone = ending->went_ns >= call->stop_ns;
    int64_t in_time_ns =
        (int64_t)(kelpie__sim_workload_stop_ms(judge->swarm, &call->operation) / 2) *
        KELPIE_NS_PER_MS;
    bool is_undisturbed = kelpie__sim_faults_fired(kelpie__sim_world_faults(judge->world)) == 0 &&
                          ending->time_ns - call->begun_ns < in_time_ns &&
                          !is_killed_meanwhile(judge, call);
    kelpie__sim_operation_text(&call->operation, text, sizeof(text));
    if (!was_killed && !has_gone && !had_gone) {
        kelpie__sim_world_fail(judge->world, "invariant 7: %s was graceful, and its guest %s", text,
                               !ending->is_over    ? "lives"
                               : ending->was_asked ? "did not go by itself"
                                                   : "never saw the request");
    } else if (was_killed && has_gone && is_undisturbed) { /* no fault fired */
        kelpie__sim_world_fail(
            judge->world, "invariant 7: %s counts as a kill, and its guest went by itself", text);
    }
}

/* A guest that takes its time is given what was asked for, and no more; one that nothing is in the
 * way of ends what runs in it before that. */
static void check_stop(struct sim_judge *judge, const struct judge_call *call, bool was_killed) {
    uint64_t timeout_ms = kelpie__sim_workload_stop_ms(judge->swarm, &call->operation);
    int64_t took_ms = (kelpie__sim_now(judge->world) - call->asked_ns) / KELPIE_NS_PER_MS;
    bool is_undisturbed = kelpie__sim_faults_fired(kelpie__sim_world_faults(judge->world)) == 0;
    char text[128];
    KELPIE_ASSERT(call->operation.op == SIM_MODEL_STOP && !call->operation.is_look);
    bool was_heard =
        !judge_has_fault(judge, "stream"); /* a write may have had no memory for good */
    if (!is_prompt(judge, call) || !was_heard || (judge->orphaned >> call->operation.vm & 1) != 0) {
        return;
    }
    kelpie__sim_operation_text(&call->operation, text, sizeof(text));
    if (took_ms > (int64_t)(timeout_ms + JUDGE_PROMPT_MS)) {
        kelpie__sim_world_fail(judge->world,
                               "invariant 27: %s took %lld ms, its timeout is %llu ms", text,
                               (long long)took_ms, (unsigned long long)timeout_ms);
    } else if (was_killed && is_undisturbed && timeout_ms >= JUDGE_STOP_MS) {
        kelpie__sim_world_fail(judge->world,
                               "invariant 7: %s killed the guest after %lld ms, and nothing was in "
                               "its way",
                               text, (long long)took_ms);
    }
}

/* The status as the model knows it. */
static int judge_known(const struct sim_judge *judge, const struct sim_operation *operation,
                       int status) {
    /* One who could not see has seen nothing; in a calm run everybody sees. */
    bool is_blind = operation->is_look && status != 0 && status != KELPIE_E_NOT_FOUND;
    bool is_command =
        !operation->is_look && (operation->op == SIM_MODEL_EXEC || operation->op == SIM_MODEL_PUT ||
                                operation->op == SIM_MODEL_GET);
    bool is_lie = is_command && kelpie__sim_judge_is_tampered(judge, operation->vm) &&
                  (status == 0 || kelpie__sim_command_is_end(status));
    /* A disk that loses bytes, or lets them rot, is under what guests have written. */
    bool is_lost = judge->swarm->has_disks && !operation->is_look &&
                   operation->op == SIM_MODEL_GET && status == 0 && judge_has_fault(judge, "disk");
    if (is_blind || is_lie || is_lost) {
        return SIM_MODEL_NO_ANSWER;
    }
    /* What such a disk leaves of a VM after a power loss may hold files, and stays for people.
     */
    bool is_left = !operation->is_look && status == KELPIE_E_EXISTS &&
                   judge_has_fault(judge, "disk") && judge_has_fault(judge, "power");
    if (is_left) {
        return KELPIE_E_BUSY;
    }
    /* in the workload all is of one version, on one host */
    bool looks_newer = status == KELPIE_E_SNAPSHOT_INCOMPATIBLE && judge->snapshots != NULL &&
                       kelpie__sim_snapshots_may_look_newer(judge->snapshots);
    return looks_newer ? KELPIE_E_SNAPSHOT_CORRUPTED : status;
}

/* ---- 30: what has been made stays ------------------------------------------------------------ */

/* No call is under way that has to do with this VM. */
static bool is_left_alone(const struct sim_judge *judge, uint32_t vm) {
    bool is_alone = true;
    KELPIE_ASSERT(vm < SIM_MODEL_VM_MAX);
    for (uint32_t i = 0; i < SIM_JUDGE_CLIENT_MAX; i += 1) {
        const struct sim_operation *other = &judge->calls[i].operation;
        bool is_one = judge->calls[i].is_open && !other->is_look;
        is_alone = is_alone &&
                   !(is_one && (other->vm == vm ||
                                (kelpie__sim_model_makes_from(other->op) && other->target == vm)));
    }
    return is_alone;
}

/* Of a call that has succeeded. */
static void check_lasting(struct sim_judge *judge, const struct sim_operation *operation) {
    bool is_from = kelpie__sim_model_makes_from(operation->op);
    uint32_t vm = is_from ? operation->target : operation->vm;
    char name[16];
    bool fits = kelpie__text_format(name, sizeof(name), "vm-%u", vm);
    KELPIE_ASSERT(fits);
    if (operation->is_look || kelpie__sim_workload_is_owned(judge->swarm, vm) ||
        !is_left_alone(judge, vm)) {
        return;
    }
    if (operation->op == SIM_MODEL_CREATE || is_from) {
        kelpie__sim_lasting_vm(judge->world, name);
    } else if (operation->op == SIM_MODEL_START) {
        kelpie__sim_lasting_disk(judge->world, name);
    }
}

void kelpie__sim_judge_stops(struct sim_judge *judge, uint32_t client) {
    struct judge_call *call = &judge->calls[client];
    KELPIE_ASSERT(client < SIM_JUDGE_CLIENT_MAX && call->is_open);
    KELPIE_ASSERT(call->operation.op == SIM_MODEL_STOP);
    call->asked_ns = kelpie__sim_now(judge->world);
}

void kelpie__sim_judge_end(struct sim_judge *judge, uint32_t client, int status, uint64_t result,
                           const struct kelpie_error *error) {
    char why[SIM_MODEL_TEXT_MAX] = "";
    struct judge_call *call = &judge->calls[client];
    KELPIE_ASSERT(client < SIM_JUDGE_CLIENT_MAX);
    KELPIE_ASSERT(call->is_open);
    call->is_open = false;
    check_time(judge, call);
    check_early(judge, call, status);
    check_timeout(judge, call, status);
    if (is_killing(&call->operation)) {
        judge->killed_ns[call->operation.vm] = kelpie__sim_now(judge->world);
    }
    if (status == 0 && !call->operation.is_look && call->operation.op == SIM_MODEL_STOP) {
        check_graceful(judge, call, result != 0);
        check_stop(judge, call, result != 0);
    }
    judge_tell_end(judge, call, status);
    if (status == 0) {
        check_lasting(judge, &call->operation);
    }
    if (status == 0 && call->operation.op == SIM_MODEL_START && !call->operation.is_look) {
        judge->stop_ns[call->operation.vm] = 0;
    }
    if (status == 0) {
        judge->counts.succeeded += 1;
        judge->counts.commands += call->operation.op == SIM_MODEL_EXEC;
    } else {
        judge->counts.failed += 1;
    }
    int known = judge_known(judge, &call->operation, status);
    if (!kelpie__sim_model_end(judge->model, call->ticket, known, result, why)) {
        blame(judge, &call->operation, status, error, why);
    }
}

bool kelpie__sim_judge_waits_for_command(const struct sim_judge *judge, uint32_t client,
                                         uint32_t *out_vm) {
    KELPIE_ASSERT(client < SIM_SWARM_CLIENT_MAX);
    const struct judge_call *call = &judge->calls[client];
    if (!call->is_open || call->operation.is_look ||
        (call->operation.op != SIM_MODEL_EXEC && call->operation.op != SIM_MODEL_PUT &&
         call->operation.op != SIM_MODEL_GET)) {
        return false;
    }
    *out_vm = call->operation.vm;
    return true;
}

bool kelpie__sim_judge_is_resuming(const struct sim_judge *judge, uint32_t vm) {
    bool is_resuming = false;
    KELPIE_ASSERT(vm < SIM_MODEL_VM_MAX);
    for (uint32_t i = 0; i < SIM_JUDGE_CLIENT_MAX; i += 1) {
        const struct judge_call *call = &judge->calls[i];
        is_resuming =
            is_resuming || (call->is_open && !call->operation.is_look &&
                            call->operation.op == SIM_MODEL_RESUME && call->operation.vm == vm);
    }
    return is_resuming;
}

void kelpie__sim_judge_tamper(struct sim_judge *judge, uint32_t vm) {
    KELPIE_ASSERT(vm < SIM_MODEL_VM_MAX);
    judge->tampered |= UINT64_C(1) << vm;
}

bool kelpie__sim_judge_is_tampered(const struct sim_judge *judge, uint32_t vm) {
    KELPIE_ASSERT(vm < SIM_MODEL_VM_MAX);
    return (judge->tampered >> vm & 1) != 0;
}

void kelpie__sim_judge_owns(struct sim_judge *judge, uint32_t client, uint32_t vm) {
    KELPIE_ASSERT(client < SIM_JUDGE_CLIENT_MAX);
    KELPIE_ASSERT(vm < SIM_MODEL_VM_MAX);
    judge->owned[client] |= UINT64_C(1) << vm;
    judge->orphaned &= ~(UINT64_C(1) << vm);
}

void kelpie__sim_judge_client_gone(struct sim_judge *judge, uint32_t client) {
    char why[SIM_MODEL_TEXT_MAX] = "";
    struct judge_call *call = &judge->calls[client];
    KELPIE_ASSERT(client < SIM_JUDGE_CLIENT_MAX);
    if (call->is_open) {
        call->is_open = false;
        if (!kelpie__sim_model_end(judge->model, call->ticket, SIM_MODEL_NO_ANSWER, 0, why)) {
            blame(judge, &call->operation, 0, NULL, why);
        }
    }
    for (uint32_t vm = 0; vm < SIM_MODEL_VM_MAX; vm += 1) {
        if ((judge->owned[client] >> vm & 1) != 0) {
            judge->killed_ns[vm] = kelpie__sim_now(judge->world);
            judge->orphaned |= UINT64_C(1) << vm;
            judge->activity[vm] += 1;
            kelpie__sim_model_owner_gone(judge->model, vm);
        }
    }
    judge->owned[client] = 0;
}

void kelpie__sim_judge_power_loss(struct sim_judge *judge) {
    const struct sim_options *options = kelpie__sim_world_options(judge->world);
    for (uint32_t client = 0; client < SIM_JUDGE_CLIENT_MAX; client += 1) {
        kelpie__sim_judge_client_gone(judge, client);
    }
    bool is_volatile = options->disk_profile == SIM_DISK_TMPFS;
    kelpie__sim_model_power_loss(judge->model, is_volatile ? SIM_MODEL_DISK_LOST
                                               : judge_has_fault(judge, "disk")
                                                   ? SIM_MODEL_DISK_LIES
                                                   : SIM_MODEL_DISK_SOUND);
}
