/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * kelpie-sim replay, shrink: cases that failed runs left (sim/case.h), and plans by hand whose
 * first line names a seed.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "simcli/attempt.h"
#include "simcli/simcli.h"

static bool read_case(struct simcli *simcli, struct sim_case *out) {
    char problem[SIM_CASE_PROBLEM_MAX] = "";
    kelpie__simcli_check(simcli);
    if (simcli->word == NULL) {
        fprintf(stderr, "kelpie-sim: which plan? Name its FILE\n");
        return false;
    }
    char *text = kelpie__simcli_read_plan(simcli, simcli->word);
    bool is_read = text != NULL && kelpie__sim_case_read(text, out, problem);
    if (text != NULL && !is_read) {
        kelpie__simcli_complain(simcli->word, problem);
    }
    free(text);
    return is_read;
}

struct log {
    struct simcli *simcli;
    struct sim_trace *trace;
};

static void write_log(void *context) {
    const struct log *log = context;
    KELPIE_ASSERT(log->simcli != NULL);
    kelpie__simcli_log_end(log->simcli, log->trace);
}

/* In a process of its own, for it may crash. False: there was none (told). */
static bool run_apart(struct simcli *simcli, const struct sim_run_options *options,
                      struct sim_run_result *out) {
    struct log log = {simcli, kelpie__simcli_log_begin(simcli)};
    struct simcli_attempt attempt = {.options = *options, .at_end = write_log, .context = &log};
    struct simcli_attempts attempts;
    kelpie__simcli_check(simcli);
    attempt.options.trace = log.trace;
    bool is_open = kelpie__simcli_attempts_open(&attempts);
    if (is_open) {
        kelpie__simcli_attempt(&attempts, &attempt, out);
        kelpie__simcli_attempts_close(&attempts);
    } else {
        fprintf(stderr, "kelpie-sim: no memory for a run\n");
    }
    kelpie__sim_trace_destroy(log.trace);
    return is_open;
}

/* A run that has passed once more, for --trace and --svg. */
static void draw(struct simcli *simcli, const struct sim_run_options *run) {
    struct sim_run_options options = *run;
    struct sim_run_result result;
    if (simcli->trace_path == NULL && simcli->svg_path == NULL) {
        return;
    }
    options.trace = kelpie__sim_trace_create(SIM_TRACE_EVENTS);
    if (options.trace == NULL) {
        fprintf(stderr, "kelpie-sim: no memory for a trace\n");
        simcli->has_lost_output = true;
        return;
    }
    kelpie__sim_run(&options, &result);
    kelpie__sim_run_release(&result);
    kelpie__simcli_write_traces(simcli, options.trace);
    kelpie__sim_trace_destroy(options.trace);
}

static int run_case(struct simcli *simcli, bool is_shrunk) {
    struct sim_run_options options;
    struct sim_run_result result;
    struct sim_case own;
    kelpie__simcli_check(simcli);
    if (!read_case(simcli, &own)) {
        return KELPIE_SIM_USAGE;
    }
    own.canary = simcli->canary > 0 ? simcli->canary : own.canary;
    if (!kelpie__simcli_has_canary(own.canary)) {
        kelpie__sim_case_release(&own);
        return KELPIE_SIM_USAGE;
    }
    kelpie__sim_case_options(&own, &options);
    options.nursery = simcli->nursery;
    if (!run_apart(simcli, &options, &result)) {
        kelpie__sim_case_release(&own);
        return KELPIE_SIM_CRASHED;
    }
    int code = (int)result.verdict;
    if (code == KELPIE_SIM_PASS) {
        draw(simcli, &options);
        printf("seed %llu: pass hash %016llx\n", (unsigned long long)own.seed,
               (unsigned long long)result.hash);
    } else if (code == KELPIE_SIM_USAGE) {
        kelpie__simcli_complain(simcli->word, result.reason);
    } else {
        fprintf(stderr, "seed %llu: %s (verdict %d)\n", (unsigned long long)own.seed, result.reason,
                code);
        simcli->is_shrunk = is_shrunk;
        if (!kelpie__simcli_report_case(simcli, &own, &result)) {
            fprintf(stderr, "kelpie-sim: it did not fail so a second time\n");
        }
    }
    kelpie__sim_run_release(&result);
    kelpie__sim_case_release(&own);
    return code;
}

int kelpie__simcli_replay(struct simcli *simcli) {
    return run_case(simcli, false);
}

int kelpie__simcli_shrink(struct simcli *simcli) {
    return run_case(simcli, true);
}
