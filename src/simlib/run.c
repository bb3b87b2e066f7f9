/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Running an embedder's world: until its programs have ended, under its checks; then whether
 * everything comes to rest.
 */
#include <signal.h>
#include <stdio.h>

#include "core/limits.h"
#include "os/os.h"
#include "sim/core.h"
#include "sim/fault.h"
#include "sim/liveness.h"
#include "sim/machine.h"
#include "sim/text_file.h"
#include "sim/trace.h"
#include "simlib/watch.h"

/* Where a program that calls kelpie_open("sim:") finds its world: it has nothing else to say which.
 * One world of a thread runs at a time, for the functions below return before another is entered.
 */
static _Thread_local struct kelpie_sim *api_running;

struct kelpie_sim *kelpie__simlib_inside(void) {
    struct kelpie_sim *sim = api_running;
    return sim != NULL && kelpie__sim_world_current(sim->world) != NULL ? sim : NULL;
}

bool kelpie__simlib_is_misplaced(struct kelpie_sim *sim, const char *function, bool runs_worlds) {
    const struct kelpie_sim *inside = api_running != NULL ? api_running : sim;
    kelpie__simlib_check(inside);
    KELPIE_ASSERT(function != NULL);
    kelpie__simlib_watch_call(inside);
    bool is_misplaced = inside->check_name != NULL || (runs_worlds && inside->is_running);
    if (is_misplaced) {
        struct simlib_caller caller = kelpie__simlib_caller(inside);
        kelpie__sim_world_fail(inside->world, "%s \"%s\" called %s() inside a run", caller.kind,
                               caller.name, function);
    }
    return is_misplaced;
}

/* True: the run goes on. */
static bool check_one(struct kelpie_sim *sim, const struct simlib_check *check) {
    uint64_t calls = kelpie__sim_world_calls(sim->world);
    kelpie__simlib_check(sim);
    KELPIE_ASSERT(sim->check_name == NULL);
    sim->check_name = check->name;
    bool holds = check->callback(check->context);
    sim->check_name = NULL;
    sim->callback_count += 1;
    if (kelpie__sim_world_failure(sim->world) != NULL) {
        return false;
    }
    if (kelpie__sim_world_calls(sim->world) != calls) {
        kelpie__sim_world_fail(sim->world, "check \"%s\" called Kelpie; it may only look",
                               check->name);
    } else if (!holds) {
        kelpie__sim_world_fail(sim->world, "check \"%s\" does not hold", check->name);
    }
    return kelpie__sim_world_failure(sim->world) == NULL;
}

static void check_all(void *context, struct sim_world *world, const struct sim_event *event) {
    struct kelpie_sim *sim = context;
    kelpie__simlib_check(sim);
    KELPIE_ASSERT(event->detail != NULL && world == sim->world);
    bool goes_on = sim->check_name == NULL; /* else a check makes the world move, and sees itself */
    for (uint32_t i = 0; i < sim->check_count && goes_on; i += 1) {
        goes_on = kelpie__sim_world_failure(world) == NULL && check_one(sim, &sim->checks[i]);
    }
}

static enum kelpie_sim_verdict give_up(struct kelpie_sim *sim, enum kelpie_sim_verdict verdict,
                                       const char *why) {
    kelpie__simlib_check(sim);
    KELPIE_ASSERT(verdict != KELPIE_SIM_PASS);
    int length = snprintf(sim->reason, sizeof(sim->reason), "%s", why);
    KELPIE_ASSERT(length >= 0); /* a cut text is still good for people */
    sim->verdict = verdict;
    return verdict;
}

enum kelpie_sim_verdict kelpie__simlib_run(struct kelpie_sim *sim, bool (*is_done)(void *context),
                                           void *context, int64_t deadline_ns) {
    struct kelpie_sim *before = api_running;
    kelpie__simlib_check(sim);
    KELPIE_ASSERT(!sim->is_running);
    sim->is_running = true;
    api_running = sim;
    kelpie__simlib_watch_begin(sim);
    enum sim_run_end end = kelpie__sim_world_run(sim->world, is_done, context, deadline_ns);
    kelpie__simlib_watch_end(sim);
    KELPIE_ASSERT(api_running == sim && sim->is_running);
    api_running = before;
    sim->is_running = false;
    if (sim->check_name != NULL) {
        char reason[128];
        kelpie__ignore(snprintf(reason, sizeof(reason),
                                "check \"%s\" called Kelpie, and never returned", sim->check_name));
        sim->check_name = NULL;
        return give_up(sim, KELPIE_SIM_BROKEN, reason);
    }
    switch (end) {
    case SIM_RUN_DONE:
        return KELPIE_SIM_PASS;
    case SIM_RUN_IDLE:
        return give_up(sim, KELPIE_SIM_NO_LIVENESS,
                       "nothing can ever happen again, and a program has not ended");
    case SIM_RUN_DEADLINE:
        return give_up(sim, KELPIE_SIM_NO_LIVENESS, "the limit of virtual time has passed");
    case SIM_RUN_SPIN:
        return give_up(sim, KELPIE_SIM_NO_LIVENESS,
                       "1,000,000 calls without a millisecond of progress: somebody spins");
    case SIM_RUN_FAILED:
        return give_up(sim, KELPIE_SIM_BROKEN, kelpie__sim_world_failure(sim->world));
    }
    return KELPIE_SIM_CRASHED;
}

static bool programs_have_ended(void *context) {
    struct kelpie_sim *sim = context;
    struct sim_machine *host = kelpie__sim_world_host(sim->world);
    KELPIE_ASSERT(sim->is_running);
    kelpie__simlib_check(sim);
    for (uint32_t i = 0; i < sim->spawn_count; i += 1) {
        const struct sim_process *process = kelpie__sim_process_find(host, sim->spawned[i]);
        if (process != NULL && process->state != SIM_PROCESS_ZOMBIE) {
            return false;
        }
    }
    return true;
}

enum kelpie_sim_verdict kelpie_sim_run(struct kelpie_sim *sim) {
    if (sim == NULL || kelpie__simlib_is_misplaced(sim, "kelpie_sim_run", true)) {
        return KELPIE_SIM_USAGE;
    }
    kelpie__simlib_check(sim);
    KELPIE_ASSERT(!sim->is_running && sim->check_name == NULL);
    sim->reason[0] = '\0';
    sim->verdict = KELPIE_SIM_PASS;
    if (!sim->is_observed) {
        kelpie__sim_world_observe(sim->world, check_all, sim);
        sim->is_observed = true;
    }
    if (sim->spawn_count == 0) {
        return give_up(sim, KELPIE_SIM_VACUOUS, "no program was spawned: nothing was checked");
    }
    uint64_t limit_ms = kelpie__min_u64(sim->time_limit_ms, SIMLIB_TIME_LIMIT_MS_MAX);
    int64_t deadline_ns = kelpie__sim_now(sim->world) + (int64_t)limit_ms * KELPIE_NS_PER_MS;
    return kelpie__simlib_run(sim, programs_have_ended, sim, deadline_ns);
}

enum kelpie_sim_verdict kelpie_sim_liveness(struct kelpie_sim *sim) {
    if (sim == NULL || kelpie__simlib_is_misplaced(sim, "kelpie_sim_liveness", true)) {
        return KELPIE_SIM_USAGE;
    }
    char pending[SIM_PENDING_BYTES_MAX] = "";
    kelpie__simlib_check(sim);
    KELPIE_ASSERT(!sim->is_running && sim->check_name == NULL);
    struct kelpie_sim *before = api_running;
    api_running = sim;
    sim->is_running = true;
    kelpie__simlib_watch_begin(sim);
    bool is_alive = kelpie__sim_liveness(sim->world, SIM_SWARM_DAMAGE_NONE, pending);
    kelpie__simlib_watch_end(sim);
    sim->is_running = false;
    api_running = before;
    return is_alive ? KELPIE_SIM_PASS : give_up(sim, KELPIE_SIM_NO_LIVENESS, pending);
}

const char *kelpie_sim_reason(const struct kelpie_sim *sim) {
    return sim == NULL ? "there is no world" : sim->reason;
}

uint64_t kelpie_sim_hash(const struct kelpie_sim *sim) {
    return sim == NULL ? 0 : kelpie__sim_world_hash(sim->world);
}

size_t kelpie_sim_plan(const struct kelpie_sim *sim, char *out, size_t capacity) {
    if (sim == NULL) {
        return 0;
    }
    return kelpie__sim_faults_concrete(kelpie__sim_world_faults(sim->world), out,
                                       out == NULL ? 0 : capacity);
}

/* ---- time, inside and outside ---------------------------------------------------------------- */

int64_t kelpie_sim_now_ns(struct kelpie_sim *sim) {
    return sim == NULL ? 0 : kelpie__sim_now(sim->world);
}

uint64_t kelpie_sim_random(struct kelpie_sim *sim) {
    return sim == NULL ? 0 : kelpie__sim_draw(sim->world, SIM_STREAM_USER);
}

void kelpie_sim_sleep_ms(struct kelpie_sim *sim, uint64_t duration_ms) {
    uint64_t bounded_ms = duration_ms < UINT32_MAX ? duration_ms : UINT32_MAX;
    int64_t duration_ns = (int64_t)bounded_ms * KELPIE_NS_PER_MS;
    if (sim == NULL || kelpie__simlib_is_misplaced(sim, "kelpie_sim_sleep_ms", false)) {
        return;
    }
    struct sim_process *process = kelpie__sim_world_current(sim->world);
    KELPIE_ASSERT(process == NULL || sim->is_running || process->is_embedder);
    if (process != NULL) {
        kelpie__sim_process_sleep(process, duration_ns);
    } else if (!sim->is_running) {
        enum kelpie_sim_verdict verdict =
            kelpie__simlib_run(sim, NULL, NULL, kelpie__sim_now(sim->world) + duration_ns);
        sim->verdict = verdict == KELPIE_SIM_NO_LIVENESS ? KELPIE_SIM_PASS : verdict;
    }
}

void kelpie_sim_kill(struct kelpie_sim *sim, uint32_t index) {
    if (sim == NULL || index >= sim->spawn_count ||
        kelpie__simlib_is_misplaced(sim, "kelpie_sim_kill", false)) {
        return;
    }
    kelpie__simlib_check(sim);
    struct sim_process *process =
        kelpie__sim_process_find(kelpie__sim_world_host(sim->world), sim->spawned[index]);
    if (process != NULL && process->state != SIM_PROCESS_ZOMBIE) {
        kelpie__sim_process_signal(process, SIGKILL);
        if (process == kelpie__sim_world_current(sim->world)) {
            kelpie__sim_process_leave(process); /* itself: this was its last call */
        }
    }
}

int kelpie_sim_exit_code(const struct kelpie_sim *sim, uint32_t index) {
    return sim == NULL || index >= sim->spawn_count ? SIMLIB_STILL_RUNS : sim->exit_codes[index];
}

/* ---- traces ---------------------------------------------------------------------------------- */

static void write_format(const struct kelpie_sim *sim, enum kelpie_sim_trace_format format,
                         struct sim_text_file *file) {
    KELPIE_ASSERT(sim->trace != NULL);
    KELPIE_ASSERT((unsigned)format <= KELPIE_SIM_TRACE_STORY);
    kelpie__simlib_check(sim);
    switch (format) {
    case KELPIE_SIM_TRACE_JSON:
        kelpie__sim_trace_json(sim->trace, kelpie__sim_text_file_write, file);
        break;
    case KELPIE_SIM_TRACE_SVG:
        kelpie__sim_trace_svg(sim->trace, kelpie__sim_text_file_write, file);
        break;
    case KELPIE_SIM_TRACE_STORY:
        kelpie__sim_trace_story(sim->trace, kelpie__sim_text_file_write, file);
        break;
    }
}

int kelpie_sim_write_trace(const struct kelpie_sim *sim, const char *path,
                           enum kelpie_sim_trace_format format, struct kelpie_error *error) {
    if (sim == NULL || path == NULL || path[0] == '\0') {
        return kelpie__fail(error, KELPIE_E_MISUSE, 0,
                            "kelpie_sim_write_trace: a trace needs a world and a path");
    }
    if (sim->trace == NULL) {
        return kelpie__fail(error, KELPIE_E_MISUSE, 0,
                            "kelpie_sim_write_trace: nothing was traced; set trace_detail");
    }
    if ((unsigned)format > KELPIE_SIM_TRACE_STORY) {
        return kelpie__fail(error, KELPIE_E_MISUSE, 0,
                            "kelpie_sim_write_trace: format %d; 0 to %d are known", (int)format,
                            (int)KELPIE_SIM_TRACE_STORY);
    }
    /* The only file of the real system in this library. */
    struct kelpie_os *os = kelpie__os_linux_create();
    if (os == NULL) {
        return kelpie__fail(error, KELPIE_E_MEMORY, 0, "no memory to write \"%s\"", path);
    }
    struct sim_text_file file;
    kelpie__sim_text_file_open(&file, os, path);
    write_format(sim, format, &file);
    int status = kelpie__sim_text_file_close(&file);
    KELPIE_ASSERT(status <= 0);
    kelpie__os_linux_destroy(os);
    return status < 0 ? kelpie__fail(error, KELPIE_E_IO, -status, "write \"%s\"", path) : 0;
}
