/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * See attempt.h. The run's process shares one mapping with ours, where it notes what a crash would
 * take with it.
 */
#define _GNU_SOURCE
#include "simcli/attempt.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "sim/world.h"
#include "simcli/crew.h"

#define ATTEMPT_PLAN_BYTES_MAX (4u * 1024u * 1024u)
#define ATTEMPT_SECONDS_MAX 60u /* of real time: a run that makes no calls has no other end */
#define ATTEMPT_WORDS_BYTES_MAX 256u

struct simcli_attempt_shared {
    bool is_done;
    bool is_cut;
    uint64_t events;
    uint64_t calls;               /* at the last event */
    struct sim_run_result result; /* its plan is below */
    int64_t begun_ns[SIM_OPERATION_MAX];
    size_t plan_length;
    char plan[ATTEMPT_PLAN_BYTES_MAX];
};

struct attempt_run {
    const struct simcli_attempt *attempt;
    struct simcli_attempt_shared *shared;
};

bool kelpie__simcli_attempts_open(struct simcli_attempts *out) {
    *out = (struct simcli_attempts){
        .shared = kelpie__simcli_crew_memory(sizeof(*out->shared)),
        .words = memfd_create("words", MFD_CLOEXEC),
    };
    if (out->shared == NULL || out->words < 0) {
        kelpie__simcli_attempts_close(out);
        return false;
    }
    KELPIE_ASSERT(!out->shared->is_done);
    return true;
}

void kelpie__simcli_attempts_close(struct simcli_attempts *attempts) {
    if (attempts->shared != NULL) {
        munmap(attempts->shared, sizeof(*attempts->shared));
    }
    if (attempts->words >= 0) {
        close(attempts->words);
    }
    *attempts = (struct simcli_attempts){.words = -1};
}

/* ---- in the run's process -------------------------------------------------------------------- */

static void note_fault(struct simcli_attempt_shared *shared, const char *line) {
    size_t length = strlen(line);
    KELPIE_ASSERT(shared->plan_length < sizeof(shared->plan));
    if (shared->plan_length + length + 2 <= sizeof(shared->plan)) {
        memcpy(shared->plan + shared->plan_length, line, length);
        shared->plan[shared->plan_length + length] = '\n';
        shared->plan_length += length + 1;
    }
}

/* Faults are noted as they fire: a run that crashes has no time for it. */
static void on_event(void *context, struct sim_world *world, const struct sim_event *event) {
    const struct attempt_run *run = context;
    const struct simcli_attempt *attempt = run->attempt;
    KELPIE_ASSERT(run->shared->calls <= kelpie__sim_world_calls(world));
    KELPIE_ASSERT(!run->shared->is_done);
    run->shared->events += 1;
    run->shared->calls = kelpie__sim_world_calls(world);
    if (attempt->has_plan && event->type == SIM_EVENT_FAULT) {
        note_fault(run->shared, event->detail);
    }
    bool is_cut = (attempt->calls_max > 0 && run->shared->calls > attempt->calls_max) ||
                  (attempt->events_max > 0 && run->shared->events >= attempt->events_max);
    if (is_cut && !run->shared->is_cut) {
        run->shared->is_cut = true;
        kelpie__sim_world_fail(world, "cut");
    }
}

static void on_begin(void *context, struct sim_world *world) {
    kelpie__sim_world_observe(world, on_event, context);
}

/* Never returns. What it says goes to `words`: the last word of an assertion is its reason. */
static void run_here(const struct attempt_run *run, int words) {
    struct sim_run_options options = run->attempt->options;
    struct sim_run_result result;
    int saved = dup(STDERR_FILENO);
    KELPIE_ASSERT(words >= 0);
    kelpie__ignore(dup2(words, STDERR_FILENO));
    kelpie__ignore(alarm(ATTEMPT_SECONDS_MAX));
    options.begun = on_begin;
    options.begun_context = (void *)(uintptr_t)run; /* only read */
    options.begun_ns = run->attempt->begun_ns == NULL ? NULL : run->shared->begun_ns;
    kelpie__sim_run(&options, &result);
    KELPIE_ASSERT(!run->shared->is_done);
    run->shared->result = result;
    run->shared->is_done = true;
    kelpie__ignore(dup2(saved, STDERR_FILENO));
    if (run->attempt->at_end != NULL) {
        run->attempt->at_end(run->attempt->context);
    }
    fflush(stdout);
    fflush(stderr);
    _exit(0);
}

/* ---- in ours --------------------------------------------------------------------------------- */

/* "crash: assertion failed: ...", else by which signal. */
static void crash_reason(int words, int status, char *out, size_t capacity) {
    char text[ATTEMPT_WORDS_BYTES_MAX];
    static const char prefix[] = "kelpie: ";
    ssize_t length = pread(words, text, sizeof(text) - 1, 0);
    text[length > 0 ? length : 0] = '\0';
    text[strcspn(text, "\n;")] = '\0';
    KELPIE_ASSERT(capacity > sizeof(text));
    if (strncmp(text, prefix, sizeof(prefix) - 1) == 0) {
        kelpie__ignore(snprintf(out, capacity, "crash: %s", text + sizeof(prefix) - 1));
    } else {
        kelpie__ignore(snprintf(out, capacity, "crash: %s %d",
                                WIFSIGNALED(status) ? "signal" : "exit code",
                                WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status)));
    }
}

static char *copy_plan(const struct simcli_attempt_shared *shared) {
    char *plan = malloc(shared->plan_length + 1);
    KELPIE_ASSERT(shared != NULL);
    KELPIE_ASSERT(shared->plan_length < sizeof(shared->plan));
    if (plan != NULL) {
        memcpy(plan, shared->plan, shared->plan_length);
        plan[shared->plan_length] = '\0';
    }
    return plan;
}

void kelpie__simcli_attempt(struct simcli_attempts *attempts, const struct simcli_attempt *attempt,
                            struct sim_run_result *out) {
    struct simcli_attempt_shared *shared = attempts->shared;
    const struct attempt_run run = {attempt, shared};
    int status = 0;
    size_t begun_bytes = attempt->options.operation_count * sizeof(shared->begun_ns[0]);
    KELPIE_ASSERT(attempts->words >= 0);
    KELPIE_ASSERT(!attempt->options.is_swarm || attempt->options.faults == SIM_RUN_FAULTS_PLAN);
    KELPIE_ASSERT(shared != NULL && attempt->options.operation_count <= SIM_OPERATION_MAX);
    shared->is_done = false;
    shared->is_cut = false;
    shared->events = 0;
    shared->calls = 0;
    shared->plan_length = 0;
    memset(shared->begun_ns, 0, begun_bytes);
    kelpie__ignore(ftruncate(attempts->words, 0));
    kelpie__ignore(lseek(attempts->words, 0, SEEK_SET) == 0);
    *out = (struct sim_run_result){.verdict = KELPIE_SIM_CRASHED};
    pid_t pid = kelpie__simcli_fork();
    if (pid == 0) {
        run_here(&run, attempts->words);
    }
    bool has_ended = pid > 0 && waitpid(pid, &status, 0) == pid;
    if (has_ended && shared->is_done) {
        *out = shared->result;
        out->verdict = shared->is_cut ? KELPIE_SIM_VACUOUS : out->verdict;
    } else {
        out->calls = shared->calls;
        crash_reason(attempts->words, status, out->reason, sizeof(out->reason));
    }
    out->plan = attempt->has_plan ? copy_plan(shared) : NULL; /* the run's own is in its memory */
    if (attempt->begun_ns != NULL) {
        memcpy(attempt->begun_ns, shared->begun_ns, begun_bytes);
    }
}

uint64_t kelpie__simcli_attempt_events(const struct simcli_attempts *attempts) {
    KELPIE_ASSERT(attempts->shared != NULL);
    return attempts->shared->events;
}
