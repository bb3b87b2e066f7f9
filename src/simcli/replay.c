/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * kelpie-sim replay, shrink: plans that failed runs left. A plan's first line names its seed.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/small_file.h"
#include "core/text.h"
#include "simcli/simcli.h"

bool kelpie__simcli_read_plan(struct simcli *simcli, const char *path, char **out_plan,
                              uint64_t *out_seed) {
    char number[24] = "";
    char *plan = malloc(SIMCLI_PLAN_BYTES_MAX);
    int64_t length =
        plan == NULL ? -1 : kelpie__small_file_read(simcli->os, path, plan, SIMCLI_PLAN_BYTES_MAX);
    if (length < 0) {
        fprintf(stderr, "kelpie-sim: cannot read the plan \"%s\"\n", path);
        free(plan);
        return false;
    }
    const char *seed = strstr(plan, "seed=");
    const char *line_end = strchr(plan, '\n');
    bool is_found = seed != NULL && (line_end == NULL || seed < line_end);
    size_t digits = is_found ? strspn(seed + 5, "0123456789") : 0;
    if (digits > 0 && digits < sizeof(number)) {
        memcpy(number, seed + 5, digits);
    }
    if (!kelpie__text_u64(number, out_seed)) {
        fprintf(stderr,
                "kelpie-sim: \"%s\" is no plan of a run: its first line has to begin with "
                "\"kelpie-plan\" and to name a seed=N\n",
                path);
        free(plan);
        return false;
    }
    *out_plan = plan;
    return true;
}

static int run_plan(struct simcli *simcli, bool is_shrunk) {
    struct sim_run_options options;
    struct sim_run_result result;
    uint64_t seed = 0;
    char *plan = NULL;
    if (simcli->word == NULL) {
        fprintf(stderr, "kelpie-sim: which plan? Name its FILE\n");
        return KELPIE_SIM_USAGE;
    }
    if (!kelpie__simcli_read_plan(simcli, simcli->word, &plan, &seed)) {
        return KELPIE_SIM_USAGE;
    }
    kelpie__simcli_run_options(simcli, seed, &options);
    options.faults = SIM_RUN_FAULTS_PLAN;
    options.plan = plan;
    options.trace = kelpie__simcli_log_begin(simcli);
    kelpie__sim_run(&options, &result);
    kelpie__simcli_log_end(simcli, options.trace);
    kelpie__sim_trace_destroy(options.trace);
    int code = (int)result.verdict;
    if (code == KELPIE_SIM_PASS) {
        printf("seed %llu: pass hash %016llx\n", (unsigned long long)seed,
               (unsigned long long)result.hash);
    } else if (code == KELPIE_SIM_USAGE) {
        fprintf(stderr, "kelpie-sim: %s: %s\n", simcli->word, result.reason);
    } else {
        simcli->is_shrunk = is_shrunk;
        kelpie__simcli_report(simcli, seed, &result);
    }
    kelpie__sim_run_release(&result);
    free(plan);
    return code;
}

int kelpie__simcli_replay(struct simcli *simcli) {
    return run_plan(simcli, false);
}

int kelpie__simcli_shrink(struct simcli *simcli) {
    return run_plan(simcli, true);
}
