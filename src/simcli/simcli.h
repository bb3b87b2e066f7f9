/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * kelpie-sim: the simulator as a command. Each verb is a file; what they share is here.
 */
#ifndef KELPIE_SIMCLI_SIMCLI_H
#define KELPIE_SIMCLI_SIMCLI_H

#include "os/os.h"
#include "sim/case.h"
#include "sim/run.h"
#include "sim/text_file.h"

#define SIMCLI_PLAN_BYTES_MAX (8u * 1024u * 1024u)
#define SIMCLI_JOBS_MAX 64u
#define SIMCLI_REASONS_BYTES_MAX 65536u

enum simcli_log {
    SIMCLI_LOG_NONE,  /* the story of a run that fails */
    SIMCLI_LOG_SHORT, /* every event, a line each */
    SIMCLI_LOG_FULL,  /* and every call */
};

enum simcli_backend {
    SIMCLI_BACKEND_QEMU,
    SIMCLI_BACKEND_KRUN,
    SIMCLI_BACKEND_MIX, /* one seed in four on libkrun */
};

struct simcli {
    struct kelpie_os *os; /* the real system: clocks, files; borrowed */
    uint64_t seed_first;
    uint64_t seed_count;
    uint64_t minutes; /* 0: no limit but seed_count */
    enum sim_run_faults faults;
    const char *plan; /* owned by main.c: a file's text */
    const char *plan_path;
    uint32_t canary;
    enum simcli_backend backend;
    struct sim_nursery *nursery; /* owned: memory for all runs, one after the other */
    uint32_t jobs;
    bool has_seeds; /* asked for, not the default */
    bool is_all;
    bool is_check;
    bool is_quiet;
    bool is_shrunk;
    enum simcli_log log;
    bool goes_on; /* after a seed that fails */
    const char *trace_path;
    const char *svg_path;
    const char *at;             /* a plan, for one run of a scenario; NULL: none */
    const char *unreached_path; /* sites that need not be hit, with reasons; NULL: none */
    const char *unfired_path;   /* pairs that need not fire, with reasons; NULL: nobody asks */
    const char *word;           /* the verb's argument; NULL: none */
    bool has_lost_output;       /* --trace or --svg could not be written */
};

/* What is true of it from the first verb on. */
static inline void kelpie__simcli_check(const struct simcli *simcli) {
    KELPIE_ASSERT(simcli->os != NULL);
    KELPIE_ASSERT(simcli->jobs > 0 && simcli->jobs <= SIMCLI_JOBS_MAX);
    KELPIE_ASSERT(simcli->plan != NULL || simcli->faults != SIM_RUN_FAULTS_PLAN);
    KELPIE_ASSERT(simcli->backend <= SIMCLI_BACKEND_MIX);
}

struct simcli_verb {
    const char *name;
    const char *summary;
    int (*run)(struct simcli *simcli);
};

/* All of them; the last has no name. */
extern const struct simcli_verb kelpie__simcli_verbs[];

/* Options of a run of this seed as the command line says. */
void kelpie__simcli_run_options(const struct simcli *simcli, uint64_t seed,
                                struct sim_run_options *out);
/* Whether this seed runs on libkrun, by --backend. */
bool kelpie__simcli_is_krun(const struct simcli *simcli, uint64_t seed);
/* report.c: tells about a run that did not pass: reason, story, plan, trace, picture, and the line
 * that replays it. Shrinks it first. */
void kelpie__simcli_report(struct simcli *simcli, uint64_t seed,
                           const struct sim_run_result *result);
/* The same of a case, without the reason; makes it small. False: it does not fail so by itself, and
 * nothing was told. */
KELPIE_MUST_CHECK bool kelpie__simcli_report_case(struct simcli *simcli, struct sim_case *failing,
                                                  const struct sim_run_result *result);
/* A whole file; gives it: free(). NULL: told. */
char *kelpie__simcli_read_plan(const struct simcli *simcli, const char *path);
/* "kelpie-sim: WHERE: PROBLEM", which may quote any bytes. */
void kelpie__simcli_complain(const char *where, const char *problem);
/* False: told. 0 is no canary, and always there. */
KELPIE_MUST_CHECK bool kelpie__simcli_has_canary(uint32_t number);
/* Of --trace and --svg. */
void kelpie__simcli_write_traces(struct simcli *simcli, const struct sim_trace *trace);

/* check.c: whether this seed, which passed with this hash, does the same again. 0 or
 * KELPIE_SIM_NOT_THE_SAME: told. */
KELPIE_MUST_CHECK int kelpie__simcli_check_seed(struct simcli *simcli, uint64_t seed,
                                                uint64_t hash);

struct simcli_shrunk {
    uint32_t faults;
    uint32_t operations;
    uint32_t runs;
    int64_t real_ns;
};

/* shrinking.c: makes a case that fails as `failed` does as small as it gets within
 * SIM_SHRINK_RUNS_MAX runs and SIM_SHRINK_TIME_NS. False: it does not fail so. */
KELPIE_MUST_CHECK bool kelpie__simcli_shrink_case(struct simcli *simcli, struct sim_case *inout,
                                                  const struct sim_run_result *failed,
                                                  struct simcli_shrunk *out);
/* reasons.c: a list of what need not happen; path NULL: an empty one. False: told. */
KELPIE_MUST_CHECK bool kelpie__simcli_read_reasons(const struct simcli *simcli, const char *path,
                                                   char out[SIMCLI_REASONS_BYTES_MAX]);
/* Up to the line's end; NULL: none is given. */
const char *kelpie__simcli_reason(const char *list, const char *name);
/* A trace for a run whose log is asked for; NULL: none is. And the log, to stdout. */
struct sim_trace *kelpie__simcli_log_begin(const struct simcli *simcli);
void kelpie__simcli_log_end(const struct simcli *simcli, struct sim_trace *trace);
int kelpie__simcli_run(struct simcli *simcli);      /* run.c */
int kelpie__simcli_replay(struct simcli *simcli);   /* replay.c */
int kelpie__simcli_shrink(struct simcli *simcli);   /* replay.c */
int kelpie__simcli_contract(struct simcli *simcli); /* contract.c */
int kelpie__simcli_canaries(struct simcli *simcli); /* canaries.c */
int kelpie__simcli_sweep(struct simcli *simcli);    /* sweep.c */
int kelpie__simcli_pairs(struct simcli *simcli);    /* sweep.c */
int kelpie__simcli_crash_states(struct simcli *simcli);
int kelpie__simcli_blame(struct simcli *simcli);
int kelpie__simcli_explore(struct simcli *simcli);
int kelpie__simcli_marks(struct simcli *simcli); /* marks.c */

/* The program; gives its exit code (enum kelpie_sim_verdict). */
int kelpie_simcli_main(struct kelpie_os *os, int argc, char **argv);

#endif
