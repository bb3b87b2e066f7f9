/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * See client_told.h.
 */
#include "sim/client_told.h"

#include <signal.h>
#include <string.h>

#include "core/error.h"
#include "core/text.h"
#include "kelpie.h"
#include "lib/internal.h"
#include "sim/fault.h"
#include "sim/truth.h"
#include "sim/world.h"

#define TOLD_OF 4u
#define TOLD_SLEEP_S 2000u /* for ever; with its value added, which tells it from all others */
#define TOLD_OTHER_RESULT 99u
#define TOLD_TEXT_BYTES 96u

bool kelpie__sim_told_is_one(const struct sim_operation *operation) {
    return operation->op == SIM_MODEL_EXEC && operation->kind == SIM_COMMAND_SLEEP &&
           operation->value % TOLD_OF == 3;
}

enum told {
    TOLD_KILL,
    TOLD_SIGNAL,
    TOLD_INPUT_ENDS, /* after all else that it was told: the end goes alone */
    TOLD_COUNT,
};

static enum told told_of(const struct sim_operation *operation) {
    KELPIE_ASSERT(kelpie__sim_told_is_one(operation));
    return (enum told)(operation->value / TOLD_OF % TOLD_COUNT);
}

/* Nothing has gone wrong in this world: what a command is told reaches it. */
static bool is_quiet(struct sim_world *world) {
    return kelpie__sim_faults_fired(kelpie__sim_world_faults(world)) == 0;
}

/* One that runs is in the list, as one that runs and has its client. */
static void check_listed(struct sim_world *world, struct kelpie_vm *vm, struct kelpie_exec *exec) {
    struct kelpie_exec_info *list = NULL;
    size_t count = 0;
    bool is_found = false;
    if (kelpie_vm_exec_list(vm, &list, &count, NULL) < 0) {
        return;
    }
    for (size_t i = 0; i < count; i += 1) {
        bool is_it = strcmp(list[i].id, kelpie_exec_id(exec)) == 0;
        is_found = is_found || (is_it && list[i].is_running && list[i].is_attached);
    }
    kelpie_exec_list_free(vm->kelpie, list, count);
    if (!is_found && is_quiet(world) && kelpie_exec_wait(exec, 1, NULL, NULL) == KELPIE_E_TIMEOUT) {
        kelpie__sim_world_fail(world, "contract: command %.32s runs, and is not in the list",
                               kelpie_exec_id(exec));
    }
}

/* It is over, and nobody of it lives. */
static void check_dead(struct sim_world *world, const struct sim_operation *operation,
                       const char *needle) {
    char path[32];
    bool fits = kelpie__text_format(path, sizeof(path), SIM_TRUTH_VMS "vm-%u/", operation->vm);
    KELPIE_ASSERT(fits);
    uint32_t count = kelpie__sim_truth_commands(world, path, needle);
    if (count > 0) {
        kelpie__sim_world_fail(
            world, "invariant 12: a command was killed (value %llu), and %u processes of it live",
            (unsigned long long)operation->value, count);
    }
}

/* A signal ends it by that; who kills it kills all that it has started. */
static bool is_as_told(const struct sim_operation *operation,
                       const struct kelpie_exec_status *status) {
    switch (told_of(operation)) {
    case TOLD_KILL:
        return status->reason == KELPIE_EXEC_CANCELLED;
    case TOLD_SIGNAL:
        return status->reason == KELPIE_EXEC_SIGNALLED && status->signal == SIGUSR1;
    case TOLD_INPUT_ENDS:
        return status->reason == KELPIE_EXEC_EXITED && status->exit_code == 0;
    case TOLD_COUNT:
        break;
    }
    KELPIE_ASSERT(false);
    return false;
}

static int tell(struct kelpie_exec *exec, enum told told, struct kelpie_error *error) {
    return told == TOLD_KILL     ? kelpie_exec_kill(exec, error)
           : told == TOLD_SIGNAL ? kelpie_exec_signal(exec, SIGUSR1, error)
                                 : kelpie_exec_close_stdin(exec, error);
}

static int told_tell(struct sim_world *world, struct kelpie_exec *exec,
                     const struct sim_operation *operation, const char *needle,
                     uint64_t *out_result, struct kelpie_error *error) {
    struct kelpie_exec_status ended = {0};
    int status = tell(exec, told_of(operation), error);
    if (status == 0) {
        status = kelpie_exec_wait(exec, 0, &ended, error);
    }
    if (status < 0) {
        return status;
    }
    if (ended.reason == KELPIE_EXEC_TIMED_OUT) { /* it was not told: the guest was deaf */
        return kelpie__fail(error, KELPIE_E_EXEC_TIMEOUT, 0, "a command that was not told");
    }
    *out_result = is_as_told(operation, &ended) ? 0 : TOLD_OTHER_RESULT;
    if (ended.reason == KELPIE_EXEC_CANCELLED) {
        check_dead(world, operation, needle);
    }
    bool is_ended = ended.reason == KELPIE_EXEC_SIGNALLED &&
                    (ended.signal == SIGKILL || ended.signal == SIGTERM);
    return is_ended ? kelpie__fail(error, KELPIE_E_CANCELLED, 0,
                                   "the command was ended by signal %d", ended.signal)
                    : 0;
}

int kelpie__sim_told_run(struct sim_world *world, struct kelpie_vm *vm,
                         const struct sim_operation *operation, uint64_t *out_result,
                         struct kelpie_error *error) {
    static const struct kelpie_exec_callbacks none = {.struct_size = sizeof(none)};
    char script[TOLD_TEXT_BYTES];
    char needle[32];
    bool has_input = told_of(operation) == TOLD_INPUT_ENDS;
    struct kelpie_exec *exec = NULL;
    bool fits = kelpie__text_format(needle, sizeof(needle), "sleep %llus",
                                    TOLD_SLEEP_S + (unsigned long long)operation->value) &&
                kelpie__text_format(
                    script, sizeof(script), "%s%s",
                    told_of(operation) == TOLD_KILL ? "fork 2; setsid; ignore TERM; " : "", needle);
    const char *const sleeps[] = {"script", script, NULL};
    const char *const reads[] = {"cat", NULL};
    const struct kelpie_exec_options options = {
        .struct_size = sizeof(options), .argv = has_input ? reads : sleeps, .has_stdin = has_input};
    KELPIE_ASSERT(fits && kelpie__sim_told_is_one(operation));
    int status = kelpie_vm_exec_start(vm, &options, &none, NULL, &exec, error);
    if (status < 0) {
        return status;
    }
    check_listed(world, vm, exec);
    status = told_tell(world, exec, operation, needle, out_result, error);
    kelpie_exec_close(exec);
    return status;
}
