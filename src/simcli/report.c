/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * kelpie-sim: what becomes of a run that failed. It is shrunk; its case, its trace and its picture
 * are written beside each other as fail-SEED.plan, .json and .svg; its story is told; and the last
 * line replays it.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/limits.h"
#include "core/text.h"
#include "simcli/simcli.h"

#define REPORT_PATH_BYTES_MAX 64u

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
    if (kelpie__sim_text_file_close(&file) < 0) {
        fprintf(stderr, "kelpie-sim: cannot write \"%s\"\n", path);
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

/* The run once more, with a trace. */
static void tell_story(struct simcli *simcli, const struct sim_run_options *run) {
    struct sim_run_options options = *run;
    struct sim_run_result result;
    char path[REPORT_PATH_BYTES_MAX];
    char title[REPORT_PATH_BYTES_MAX];
    struct sim_trace *trace = kelpie__sim_trace_create(SIM_TRACE_EVENTS);
    if (trace == NULL) {
        return;
    }
    bool fits =
        kelpie__text_format(title, sizeof(title), "seed %llu", (unsigned long long)run->seed);
    KELPIE_ASSERT(fits);
    kelpie__sim_trace_title(trace, title);
    options.trace = trace;
    options.nursery = simcli->nursery;
    kelpie__sim_run(&options, &result);
    kelpie__sim_run_release(&result);
    kelpie__sim_trace_story(trace, tell, stderr);
    report_path(path, run->seed, "json");
    write_trace(simcli, trace, path, kelpie__sim_trace_json);
    report_path(path, run->seed, "svg");
    write_trace(simcli, trace, path, kelpie__sim_trace_svg);
    kelpie__simcli_write_traces(simcli, trace);
    kelpie__sim_trace_destroy(trace);
}

static bool write_case(struct simcli *simcli, const struct sim_case *written, const char *path) {
    struct sim_text_file file;
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

void kelpie__simcli_report(struct simcli *simcli, uint64_t seed,
                           const struct sim_run_result *result) {
    struct sim_run_options options;
    struct sim_case failing = {.seed = seed,
                               .faults = simcli->faults,
                               .is_krun = kelpie__simcli_is_krun(simcli, seed),
                               .canary = simcli->canary};
    fprintf(stderr, "seed %llu: %s (verdict %d)\n", (unsigned long long)seed, result->reason,
            (int)result->verdict);
    if (simcli->goes_on) {
        return;
    }
    KELPIE_ASSERT(result->verdict != KELPIE_SIM_PASS);
    const char *plan = result->plan == NULL ? "" : result->plan;
    failing.plan = malloc(strlen(plan) + 1);
    bool is_told = false;
    if (failing.plan != NULL) {
        memcpy(failing.plan, plan, strlen(plan) + 1);
        is_told = kelpie__simcli_report_case(simcli, &failing, result);
    }
    if (!is_told) {
        kelpie__simcli_run_options(simcli, seed, &options);
        tell_story(simcli, &options);
        tell_command(simcli, seed);
    }
    kelpie__sim_case_release(&failing);
}
