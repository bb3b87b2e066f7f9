/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * kelpie-sim: what becomes of a run that failed. It is shrunk; its case, its trace and its picture
 * are written beside each other as fail-SEED.plan, .json and .svg; its story is told; and the last
 * line replays it.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/error.h"
#include "core/limits.h"
#include "core/text.h"
#include "simcli/attempt.h"
#include "simcli/simcli.h"

#define REPORT_PATH_BYTES_MAX 64u
#define REPORT_CUTS_MAX 50u /* where a run that crashes may be cut */

static void tell(void *context, const char *text, size_t length) {
    fwrite(text, 1, length, context);
}

typedef void (*report_writer)(const struct sim_trace *trace, sim_trace_write write, void *context);

static void write_trace(struct simcli *simcli, const struct sim_trace *trace, const char *path,
                        report_writer writer) {
    struct sim_text_file file;
    KELPIE_ASSERT(trace != NULL && path[0] != '\0');
    kelpie__sim_text_file_open(&file, simcli->os, path);
    if (file.status == 0) {
        writer(trace, kelpie__sim_text_file_write, &file);
    }
    int status = kelpie__sim_text_file_close(&file);
    if (status < 0) {
        fprintf(stderr, "kelpie-sim: cannot write \"%s\": %s\n", path, kelpie__errno_text(-status));
        simcli->has_lost_output = true;
    }
}

void kelpie__simcli_write_traces(struct simcli *simcli, const struct sim_trace *trace) {
    if (simcli->trace_path != NULL) {
        write_trace(simcli, trace, simcli->trace_path, kelpie__sim_trace_json);
    }
    if (simcli->svg_path != NULL) {
        write_trace(simcli, trace, simcli->svg_path, kelpie__sim_trace_svg);
    }
}

/* The file of a kind beside the plan. */
static void report_path(char out[REPORT_PATH_BYTES_MAX], uint64_t seed, const char *kind) {
    bool fits = kelpie__text_format(out, REPORT_PATH_BYTES_MAX, "fail-%llu.%s",
                                    (unsigned long long)seed, kind);
    KELPIE_ASSERT(fits);
}

struct story {
    struct simcli *simcli;
    struct sim_trace *trace;
    uint64_t seed;
};

static void write_story(void *context) {
    const struct story *story = context;
    char path[REPORT_PATH_BYTES_MAX];
    KELPIE_ASSERT(story->trace != NULL);
    kelpie__sim_trace_story(story->trace, tell, stderr);
    report_path(path, story->seed, "json");
    write_trace(story->simcli, story->trace, path, kelpie__sim_trace_json);
    report_path(path, story->seed, "svg");
    write_trace(story->simcli, story->trace, path, kelpie__sim_trace_svg);
    kelpie__simcli_write_traces(story->simcli, story->trace);
}

/* The run once more, with a trace. One that crashes is cut where it still lives, as late as that
 * is: what it did in its last turn nobody hears of but from its reason. */
static void tell_story(struct simcli *simcli, const struct sim_run_options *run) {
    struct story story = {simcli, kelpie__sim_trace_create(SIM_TRACE_EVENTS), run->seed};
    struct simcli_attempts attempts;
    struct sim_run_result result = {.verdict = KELPIE_SIM_CRASHED};
    char title[REPORT_PATH_BYTES_MAX];
    bool fits =
        kelpie__text_format(title, sizeof(title), "seed %llu", (unsigned long long)run->seed);
    kelpie__simcli_check(simcli);
    KELPIE_ASSERT(fits);
    bool is_open = kelpie__simcli_attempts_open(&attempts);
    if (story.trace != NULL && is_open) {
        struct simcli_attempt attempt = {.options = *run, .at_end = write_story, .context = &story};
        kelpie__sim_trace_title(story.trace, title);
        attempt.options.trace = story.trace;
        attempt.options.nursery = simcli->nursery;
        for (uint32_t i = 0; i < REPORT_CUTS_MAX && result.verdict == KELPIE_SIM_CRASHED; i += 1) {
            kelpie__simcli_attempt(&attempts, &attempt, &result);
            uint64_t events = kelpie__simcli_attempt_events(&attempts);
            attempt.events_max = i == 0 ? events : attempt.events_max - 1;
            attempt.events_max += attempt.events_max == 0 ? 1 : 0;
        }
    }
    kelpie__simcli_attempts_close(&attempts);
    kelpie__sim_trace_destroy(story.trace);
}

static bool write_case(struct simcli *simcli, const struct sim_case *written, const char *path) {
    struct sim_text_file file;
    KELPIE_ASSERT(written->plan != NULL && path[0] != '\0');
    kelpie__sim_text_file_open(&file, simcli->os, path);
    if (file.status == 0) {
        kelpie__sim_case_write(written, kelpie__sim_text_file_write, &file);
    }
    return kelpie__sim_text_file_close(&file) == 0;
}

/* How a run that its own case does not replay is run again. */
static void tell_command(const struct simcli *simcli, uint64_t seed) {
    static const char *const faults[] = {[SIM_RUN_FAULTS_NONE] = " --faults none",
                                         [SIM_RUN_FAULTS_CALM] = " --faults calm",
                                         [SIM_RUN_FAULTS_SWARM] = "",
                                         [SIM_RUN_FAULTS_PLAN] = " --faults FILE"};
    kelpie__simcli_check(simcli);
    KELPIE_ASSERT((size_t)simcli->faults < KELPIE_ARRAY_COUNT(faults));
    fprintf(stderr, "kelpie-sim run --seed %llu%s", (unsigned long long)seed,
            faults[simcli->faults]);
    if (kelpie__simcli_is_krun(simcli, seed)) {
        fprintf(stderr, " --backend krun");
    }
    if (simcli->canary > 0) {
        fprintf(stderr, " --canary %u", simcli->canary);
    }
    fprintf(stderr, "\n");
}

bool kelpie__simcli_report_case(struct simcli *simcli, struct sim_case *failing,
                                const struct sim_run_result *result) {
    char path[REPORT_PATH_BYTES_MAX];
    struct simcli_shrunk shrunk;
    struct sim_run_options options;
    kelpie__simcli_check(simcli);
    KELPIE_ASSERT(result->verdict != KELPIE_SIM_PASS && failing->plan != NULL);
    if (simcli->is_shrunk) {
        if (!kelpie__simcli_shrink_case(simcli, failing, result, &shrunk)) {
            return false;
        }
        fprintf(stderr, "shrunk to %u fault%s and %u operation%s in %u runs, %lld ms\n",
                shrunk.faults, shrunk.faults == 1 ? "" : "s", shrunk.operations,
                shrunk.operations == 1 ? "" : "s", shrunk.runs,
                (long long)(shrunk.real_ns / KELPIE_NS_PER_MS));
    }
    kelpie__sim_case_options(failing, &options);
    tell_story(simcli, &options);
    report_path(path, failing->seed, "plan");
    if (!write_case(simcli, failing, path)) {
        fprintf(stderr, "kelpie-sim: cannot write \"%s\"; this is the plan:\n", path);
        kelpie__sim_case_write(failing, tell, stderr);
        return true;
    }
    fprintf(stderr, "kelpie-sim replay %s\n", path);
    return true;
}

/* A run that crashed could neither say why, nor what had fired: it crashes once more. The plan is
 * the caller's. */
static char *crash_again(struct simcli *simcli, uint64_t seed, struct sim_run_result *inout) {
    struct simcli_attempts attempts;
    struct simcli_attempt attempt = {.has_plan = true};
    struct sim_run_result result = {0};
    kelpie__simcli_check(simcli);
    KELPIE_ASSERT(inout->verdict == KELPIE_SIM_CRASHED);
    if (kelpie__simcli_attempts_open(&attempts)) {
        kelpie__simcli_run_options(simcli, seed, &attempt.options);
        kelpie__simcli_attempt(&attempts, &attempt, &result);
        kelpie__simcli_attempts_close(&attempts);
    }
    if (result.verdict == KELPIE_SIM_CRASHED) {
        memcpy(inout->reason, result.reason, sizeof(inout->reason));
    }
    return result.plan;
}

static char *copy_plan(const char *plan) {
    const char *text = plan == NULL ? "" : plan;
    char *copy = malloc(strlen(text) + 1);
    if (copy != NULL) {
        memcpy(copy, text, strlen(text) + 1);
    }
    return copy;
}

void kelpie__simcli_report(struct simcli *simcli, uint64_t seed,
                           const struct sim_run_result *result) {
    struct sim_run_options options;
    struct sim_run_result told = *result;
    struct sim_case failing = {.seed = seed,
                               .faults = simcli->faults,
                               .is_krun = kelpie__simcli_is_krun(simcli, seed),
                               .canary = simcli->canary};
    kelpie__simcli_check(simcli);
    KELPIE_ASSERT(result->verdict != KELPIE_SIM_PASS);
    bool has_crashed = result->verdict == KELPIE_SIM_CRASHED && !simcli->goes_on;
    failing.plan = has_crashed ? crash_again(simcli, seed, &told) : copy_plan(result->plan);
    fprintf(stderr, "seed %llu: %s (verdict %d)\n", (unsigned long long)seed, told.reason,
            (int)told.verdict);
    bool is_told = simcli->goes_on ||
                   (failing.plan != NULL && kelpie__simcli_report_case(simcli, &failing, &told));
    if (!is_told) {
        kelpie__simcli_run_options(simcli, seed, &options);
        tell_story(simcli, &options);
        tell_command(simcli, seed);
    }
    kelpie__sim_case_release(&failing);
}
