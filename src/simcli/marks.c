/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * kelpie-sim marks: do the runs get to where it matters? Each mark of the build (os/os_mark.h) with
 * the number of runs that reached it. One that none reached has to stand in a list, with the
 * reason.
 */
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include "sim/marks.h"
#include "simcli/crew.h"
#include "simcli/simcli.h"

struct marks_tally {
    struct simcli *simcli;
    atomic_uint runs;
    atomic_uint failed;
    atomic_uint reached[SIM_MARK_MAX];
};

static void tally_work(void *context, uint64_t task) {
    struct marks_tally *tally = context;
    struct sim_run_options options;
    struct sim_run_result result;
    kelpie__simcli_check(tally->simcli);
    kelpie__simcli_run_options(tally->simcli, tally->simcli->seed_first + task, &options);
    kelpie__sim_run(&options, &result);
    KELPIE_ASSERT(task < tally->simcli->seed_count);
    atomic_fetch_add(&tally->runs, 1);
    atomic_fetch_add(&tally->failed, result.verdict != KELPIE_SIM_PASS ? 1 : 0);
    for (uint32_t i = 0; i < kelpie__sim_marks_count(); i += 1) {
        if (kelpie__sim_marks_has(&result.marks, i)) {
            atomic_fetch_add(&tally->reached[i], 1);
        }
    }
    kelpie__sim_run_release(&result);
}

static void tally_crashed(void *context, uint64_t task) {
    struct marks_tally *tally = context;
    atomic_fetch_add(&tally->failed, 1);
    KELPIE_ASSERT(task < tally->simcli->seed_count);
    printf("seed %llu crashed\n", (unsigned long long)(tally->simcli->seed_first + task));
}

static uint32_t print_reached(struct marks_tally *tally) {
    uint32_t reached = 0;
    KELPIE_ASSERT(kelpie__sim_marks_count() <= SIM_MARK_MAX);
    for (uint32_t i = 0; i < kelpie__sim_marks_count(); i += 1) {
        uint32_t count = atomic_load(&tally->reached[i]);
        if (count > 0) {
            printf("%6u  %s\n", count, kelpie__sim_marks_name(i));
            reached += 1;
        }
    }
    return reached;
}

/* Gives how many have no reason. */
static uint32_t print_unreached(struct marks_tally *tally, const char *list) {
    uint32_t missing = 0;
    KELPIE_ASSERT(kelpie__sim_marks_count() <= SIM_MARK_MAX);
    KELPIE_ASSERT(list != NULL);
    for (uint32_t i = 0; i < kelpie__sim_marks_count(); i += 1) {
        const char *name = kelpie__sim_marks_name(i);
        if (atomic_load(&tally->reached[i]) > 0) {
            continue;
        }
        const char *reason = kelpie__simcli_reason(list, name);
        int length = reason != NULL ? (int)strcspn(reason, "\n") : 0;
        printf("  none  %s%s%.*s\n", name, reason != NULL ? " -- " : "", length,
               reason != NULL ? reason : "");
        missing += reason == NULL;
    }
    return missing;
}

int kelpie__simcli_marks(struct simcli *simcli) {
    char list[SIMCLI_REASONS_BYTES_MAX] = "";
    struct marks_tally *tally = kelpie__simcli_crew_memory(sizeof(*tally));
    kelpie__simcli_check(simcli);
    if (kelpie__sim_marks_count() == 0) {
        fprintf(stderr, "kelpie-sim: this build has no marks; build with -Dsimulation=true\n");
        return KELPIE_SIM_USAGE;
    }
    if (!kelpie__simcli_read_reasons(simcli, simcli->word, list)) {
        return KELPIE_SIM_USAGE;
    }
    if (tally == NULL) {
        fprintf(stderr, "kelpie-sim: no memory\n");
        return KELPIE_SIM_USAGE;
    }
    tally->simcli = simcli;
    const struct simcli_crew crew = {.jobs = simcli->jobs,
                                     .task_count = simcli->seed_count,
                                     .context = tally,
                                     .work = tally_work,
                                     .crashed = tally_crashed};
    if (!kelpie__simcli_crew_run(&crew)) {
        fprintf(stderr, "kelpie-sim: no processes\n");
        return KELPIE_SIM_USAGE;
    }
    uint32_t reached = print_reached(tally);
    uint32_t missing = print_unreached(tally, list);
    printf("%u of %u marks reached in %u runs (%u of them failed), %u neither reached nor listed\n",
           reached, kelpie__sim_marks_count(), atomic_load(&tally->runs),
           atomic_load(&tally->failed), missing);
    return missing == 0 ? 0 : KELPIE_SIM_BROKEN;
}
