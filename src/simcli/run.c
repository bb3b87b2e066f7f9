/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * kelpie-sim run: seeds one after the other, up to the first that fails.
 */
#include <malloc.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/limits.h"
#include "os/os_call.h"
#include "simcli/crew.h"
#include "simcli/jobs.h"
#include "simcli/simcli.h"
#include "simcli/totals.h"

#define RUN_SETTLE_RUNS 64u

static int64_t real_now(const struct simcli *simcli) {
    return kelpie__os_now(simcli->os, KELPIE_OS_CLOCK_MONOTONIC);
}

/* Pieces that live on between runs keep the C library's heap from shrinking at its end: the free
 * pages within it go back, now and then. */
static void memory_settle(uint64_t seed) {
#if defined(__GLIBC__)
    if (seed % RUN_SETTLE_RUNS == 0) {
        kelpie__ignore(malloc_trim(0) != 0);
    }
#else
    kelpie__ignore(seed % RUN_SETTLE_RUNS == 0);
#endif
}

static int run_seed(struct simcli *simcli, uint64_t seed, bool is_last,
                    struct simcli_totals *totals) {
    struct sim_run_options options;
    struct sim_run_result result;
    KELPIE_ASSERT(seed >= simcli->seed_first);
    kelpie__simcli_check(simcli);
    kelpie__simcli_run_options(simcli, seed, &options);
    bool is_traced = is_last && (simcli->trace_path != NULL || simcli->svg_path != NULL);
    options.trace = is_last ? kelpie__simcli_log_begin(simcli) : NULL;
    if (is_traced && options.trace == NULL) {
        options.trace = kelpie__sim_trace_create(SIM_TRACE_EVENTS);
    }
    kelpie__sim_run(&options, &result);
    int code = (int)result.verdict;
    kelpie__simcli_log_end(simcli, options.trace);
    kelpie__simcli_totals_add(totals, &result);
    if (code != 0) {
        kelpie__simcli_report(simcli, seed, &result);
    } else if (simcli->is_check) {
        code = kelpie__simcli_check_seed(simcli, seed, result.hash);
    }
    if (options.trace != NULL) {
        kelpie__simcli_write_traces(simcli, options.trace);
        kelpie__sim_trace_destroy(options.trace);
    }
    if (code == 0 && is_last) {
        kelpie__simcli_totals_summary(simcli, totals);
        printf("seed %llu: pass hash %016llx\n", (unsigned long long)seed,
               (unsigned long long)result.hash);
    }
    kelpie__sim_run_release(&result);
    memory_settle(seed);
    return code;
}

static void report_crash(struct simcli *simcli, uint64_t seed) {
    const struct sim_run_result result = {.verdict = KELPIE_SIM_CRASHED, .reason = "crash"};
    kelpie__simcli_check(simcli);
    KELPIE_ASSERT(seed >= simcli->seed_first);
    kelpie__simcli_report(simcli, seed, &result);
}

/* ---- in several processes -------------------------------------------------------------------- */

static void run_one_of_many(void *context, uint64_t index, struct sim_nursery *nursery,
                            struct simcli_outcome *out) {
    const struct simcli *simcli = context;
    struct sim_run_options options;
    struct sim_run_result result;
    KELPIE_ASSERT(index < simcli->seed_count);
    kelpie__simcli_run_options(simcli, simcli->seed_first + index, &options);
    options.nursery = nursery;
    kelpie__sim_run(&options, &result);
    out->verdict = result.verdict;
    out->flags = result.faults_fired > 0 ? SIMCLI_RUN_FIRED : 0u;
    out->value = kelpie__simcli_totals_classes(&result);
    memcpy(out->pairs, result.pairs_fired, sizeof(out->pairs));
    memcpy(out->reason, result.reason, sizeof(out->reason));
    kelpie__sim_run_release(&result);
    memory_settle(options.seed);
}

/* The first seed that failed is run again, here, to be told as one that was run alone. */
static int run_many(struct simcli *simcli, int64_t end_ns) {
    struct simcli_totals totals = {.begun_ns = real_now(simcli), .told_ns = real_now(simcli)};
    struct simcli_campaign campaign = {.name = "run",
                                       .count = simcli->seed_count,
                                       .end_ns = end_ns,
                                       .work = run_one_of_many,
                                       .context = simcli};
    kelpie__simcli_check(simcli);
    if (!kelpie__simcli_campaign_run(simcli, &campaign)) {
        return KELPIE_SIM_CRASHED;
    }
    for (uint32_t i = 0; i < campaign.failure_count; i += 1) {
        const struct simcli_failure *failure = &campaign.failures[i];
        printf("seed %llu: %s (verdict %d)\n",
               (unsigned long long)(simcli->seed_first + failure->index), failure->outcome.reason,
               (int)failure->outcome.verdict);
    }
    printf("%llu runs, %llu failed\n", (unsigned long long)campaign.done,
           (unsigned long long)campaign.failed);
    int code = campaign.failure_count > 0 ? (int)campaign.failures[0].outcome.verdict : 0;
    uint64_t first = campaign.failure_count > 0 ? campaign.failures[0].index : 0;
    for (uint64_t i = 0; i < simcli->seed_count; i += 1) {
        if ((campaign.notes[i].flags & SIMCLI_RUN_DONE) != 0) {
            kelpie__simcli_totals_add_note(&totals, &campaign.notes[i]);
        }
    }
    kelpie__simcli_campaign_release(&campaign);
    if (code == 0) {
        kelpie__simcli_totals_tell(simcli, &totals);
        code = kelpie__simcli_totals_check(simcli, &totals);
    }
    if (code == KELPIE_SIM_CRASHED && !simcli->goes_on) {
        report_crash(simcli, simcli->seed_first + first);
    } else if (code != 0 && !simcli->goes_on) {
        code = run_seed(simcli, simcli->seed_first + first, false, &totals);
    }
    return code;
}

/* ---- one after the other --------------------------------------------------------------------- */

/* What the process that runs them and the one that waits for it see. */
struct place {
    uint64_t index;
};

static int run_in_turn(struct simcli *simcli, int64_t end_ns, struct place *place) {
    struct simcli_totals totals = {.begun_ns = real_now(simcli), .told_ns = real_now(simcli)};
    int code = 0;
    bool goes_on = true;
    KELPIE_ASSERT(place->index <= simcli->seed_count);
    kelpie__simcli_check(simcli);
    while (goes_on && place->index < simcli->seed_count) { /* bound: the seeds */
        bool is_late = simcli->minutes > 0 && real_now(simcli) >= end_ns;
        bool is_last = place->index + 1 == simcli->seed_count || is_late;
        int one = run_seed(simcli, simcli->seed_first + place->index, is_last, &totals);
        place->index += 1;
        code = code == 0 ? one : code;
        goes_on = (code == 0 || simcli->goes_on) && !is_late;
        kelpie__simcli_totals_progress(simcli, &totals);
    }
    return code == 0 ? kelpie__simcli_totals_check(simcli, &totals) : code;
}

/* In a process of their own: a seed that crashes can be told as any other. */
static int run_watched(struct simcli *simcli, int64_t end_ns) {
    struct place *place = kelpie__simcli_crew_memory(sizeof(*place));
    int code = 0;
    bool goes_on = place != NULL;
    kelpie__simcli_check(simcli);
    while (goes_on) { /* bound: each turn but the last is a crash, which is a seed */
        int status = 0;
        pid_t pid = kelpie__simcli_fork();
        if (pid == 0) {
            int own = run_in_turn(simcli, end_ns, place);
            bool is_lost = fflush(stdout) != 0 || ferror(stdout) != 0 || simcli->has_lost_output;
            _exit(own == 0 && is_lost ? KELPIE_SIM_USAGE : own);
        }
        bool has_ended = pid > 0 && waitpid(pid, &status, 0) == pid;
        bool has_crashed = has_ended && WIFSIGNALED(status);
        int one = has_ended && !has_crashed ? WEXITSTATUS(status) : KELPIE_SIM_CRASHED;
        code = code == 0 ? one : code;
        if (has_crashed) {
            KELPIE_ASSERT(place->index < simcli->seed_count);
            report_crash(simcli, simcli->seed_first + place->index);
            place->index += 1;
        }
        goes_on = has_crashed && simcli->goes_on && place->index < simcli->seed_count;
    }
    if (place != NULL) {
        munmap(place, sizeof(*place));
    }
    return place == NULL ? KELPIE_SIM_CRASHED : code;
}

int kelpie__simcli_run(struct simcli *simcli) {
    char list[SIMCLI_REASONS_BYTES_MAX];
    kelpie__simcli_check(simcli);
    if (!kelpie__simcli_read_reasons(simcli, simcli->unfired_path, list)) {
        return KELPIE_SIM_USAGE; /* now rather than behind all seeds */
    }
    int64_t end_ns = real_now(simcli) + (int64_t)(simcli->minutes * 60) * KELPIE_NS_PER_S;
    printf("seed %llu, %llu run%s\n", (unsigned long long)simcli->seed_first,
           (unsigned long long)simcli->seed_count, simcli->seed_count == 1 ? "" : "s");
    if (simcli->jobs > 1 && !simcli->is_check) {
        return run_many(simcli, simcli->minutes > 0 ? end_ns : 0);
    }
    return run_watched(simcli, end_ns);
}
