/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * kelpie_sim_main: a whole test program over a scenario. Runs seeds, the first of them that fails
 * again and again with fewer faults, and ends with the line that replays what is left.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/limits.h"
#include "core/small_file.h"
#include "core/text.h"
#include "os/os_call.h"
#include "sim/seeds.h"
#include "sim/shrink.h"
#include "sim/trace.h"
#include "simlib/watch.h"

#define MAIN_SEEDS_DEFAULT 100u
#define MAIN_SHRINK_RUNS_MAX 2000u
#define MAIN_SHRINK_NS (60 * KELPIE_NS_PER_S)
#define MAIN_PATH_BYTES_MAX 4096u

struct main_options {
    const char *program;
    uint64_t seed_first;
    uint64_t seed_last;
    const char *faults; /* NULL: none but the scenario's own */
    const char *plan_path;
    const char *trace_path;
    const char *svg_path;
    uint32_t trace_detail;
    bool is_check;
    bool is_shrunk;
    char replay[MAIN_PATH_BYTES_MAX]; /* the command that runs the seed again */
    kelpie_sim_scenario_callback scenario;
    void *context;
};

static void options_check(const struct main_options *options) {
    KELPIE_ASSERT(options->program != NULL && options->scenario != NULL);
    KELPIE_ASSERT(options->seed_first <= options->seed_last);
    KELPIE_ASSERT(options->trace_detail <= SIM_TRACE_CALLS);
    KELPIE_ASSERT(strlen(options->replay) < sizeof(options->replay));
}

static void print_usage(FILE *out, const char *program) {
    KELPIE_ASSERT(out != NULL && program != NULL);
    fprintf(
        out,
        "usage: %s [--seed N | --seeds A..B] [--faults none|calm|swarm] [--plan FILE]\n"
        "       [--check] [--trace FILE] [--svg FILE] [--no-shrink]\n"
        "  --seed, --seeds  which runs; default: DST_SEED, else 0..%u\n"
        "  --faults         beside the scenario's own\n"
        "  --plan           the faults of a run that failed, instead of all others\n"
        "  --check          every seed twice: the same seed has to do the same\n"
        "  --trace, --svg   of the last run: Chrome's trace format, a picture\n"
        "  --no-shrink      a run that fails is told as it is\n"
        "exit code: 0 all passed, 10 a check, 11 an answer, 12 something never ended, 13 not the\n"
        "same twice, 14 nothing was checked, 15 a crash, 125 usage\n",
        program, MAIN_SEEDS_DEFAULT - 1);
}

static int usage(const struct main_options *options, const char *word) {
    fprintf(stderr, "%s: \"%s\" is not understood\n", options->program, word);
    print_usage(stderr, options->program);
    return KELPIE_SIM_USAGE;
}

/* ---- one run --------------------------------------------------------------------------------- */

struct main_run {
    enum kelpie_sim_verdict verdict;
    uint64_t hash;
    char reason[512];
};

static bool set_up(const struct main_options *options, struct kelpie_sim *sim) {
    options_check(options);
    kelpie__simlib_check(sim);
    KELPIE_ASSERT(!sim->is_setting_up && !sim->is_running);
    sim->is_setting_up = true;
    kelpie__simlib_watch_begin(sim);
    int status = options->scenario(sim, options->context);
    kelpie__simlib_watch_end(sim);
    sim->is_setting_up = false;
    return status == 0;
}

static struct kelpie_sim *run_begin(const struct main_options *options, uint64_t seed,
                                    const char *faults, bool is_replay, struct main_run *out) {
    struct kelpie_sim_options world = {.struct_size = sizeof(world),
                                       .seed = seed,
                                       .faults = faults,
                                       .trace_detail = options->trace_detail};
    struct kelpie_error error = {0};
    struct kelpie_sim *sim = NULL;
    options_check(options);
    if (kelpie_sim_create(&world, &sim, &error) < 0) {
        kelpie__ignore(snprintf(out->reason, sizeof(out->reason), "%.500s", error.message));
        out->verdict = KELPIE_SIM_USAGE;
        return NULL;
    }
    sim->is_replay = is_replay;
    sim->replay = options->replay;
    if (!set_up(options, sim)) {
        kelpie__ignore(snprintf(out->reason, sizeof(out->reason), "the scenario's set-up failed"));
        out->verdict = KELPIE_SIM_USAGE;
        kelpie_sim_destroy(sim);
        return NULL;
    }
    return sim;
}

/* The world stays for whoever wants to look at it: kelpie_sim_destroy. NULL: it was never made. */
static struct kelpie_sim *run_once(const struct main_options *options, uint64_t seed,
                                   const char *faults, bool is_replay, struct main_run *out) {
    options_check(options);
    *out = (struct main_run){0};
    struct kelpie_sim *sim = run_begin(options, seed, faults, is_replay, out);
    if (sim == NULL) {
        return NULL;
    }
    out->verdict = kelpie_sim_run(sim);
    if (out->verdict == KELPIE_SIM_PASS) {
        out->verdict = kelpie_sim_liveness(sim);
    }
    out->hash = kelpie_sim_hash(sim);
    kelpie__ignore(snprintf(out->reason, sizeof(out->reason), "%.500s", kelpie_sim_reason(sim)));
    return sim;
}

static bool write_traces(const struct main_options *options, const struct kelpie_sim *sim) {
    struct kelpie_error error = {0};
    int status = 0;
    KELPIE_ASSERT(sim->world != NULL);
    options_check(options);
    if (options->trace_path != NULL) {
        status = kelpie_sim_write_trace(sim, options->trace_path, KELPIE_SIM_TRACE_JSON, &error);
    }
    if (options->svg_path != NULL && status == 0) {
        status = kelpie_sim_write_trace(sim, options->svg_path, KELPIE_SIM_TRACE_SVG, &error);
    }
    if (status < 0) {
        fprintf(stderr, "%s: %s\n", options->program, error.message);
    }
    return status == 0;
}

/* ---- a run that failed ----------------------------------------------------------------------- */

struct main_shrink {
    const struct main_options *options;
    uint64_t seed;
    enum kelpie_sim_verdict verdict;
    char reason[512];
};

/* The same failure: the same verdict for the same reason. */
static bool fails_the_same(void *context, const char *plan) {
    struct main_shrink *shrink = context;
    struct main_run run;
    struct kelpie_sim *sim = run_once(shrink->options, shrink->seed, plan, true, &run);
    kelpie_sim_destroy(sim);
    return run.verdict == shrink->verdict && strcmp(run.reason, shrink->reason) == 0;
}

static char *read_plan(const struct kelpie_sim *sim) {
    size_t length = kelpie_sim_plan(sim, NULL, 0);
    char *plan = malloc(length + 1);
    if (plan != NULL) {
        size_t again = kelpie_sim_plan(sim, plan, length + 1);
        KELPIE_ASSERT(again == length);
    }
    return plan;
}

static void shrink_plan(const struct main_options *options, uint64_t seed,
                        const struct main_run *run, char *plan) {
    struct main_shrink shrink = {.options = options, .seed = seed, .verdict = run->verdict};
    struct kelpie_os *os = kelpie__os_linux_create();
    options_check(options);
    memcpy(shrink.reason, run->reason, sizeof(shrink.reason));
    if (os == NULL || !options->is_shrunk || !fails_the_same(&shrink, plan)) {
        kelpie__os_linux_destroy(os);
        return;
    }
    const struct sim_shrink_budget budget = {
        .runs_max = MAIN_SHRINK_RUNS_MAX,
        .os = os,
        .deadline_ns = kelpie__os_now(os, KELPIE_OS_CLOCK_MONOTONIC) + MAIN_SHRINK_NS};
    uint32_t rules = kelpie__sim_shrink_plan(plan, fails_the_same, &shrink, &budget);
    fprintf(stderr, "shrunk to %u fault%s\n", rules, rules == 1 ? "" : "s");
    kelpie__os_linux_destroy(os);
}

static void tell(void *context, const char *text, size_t length) {
    fwrite(text, 1, length, context);
}

static void report(const struct main_options *options, uint64_t seed, const struct main_run *run,
                   struct kelpie_sim *sim) {
    char path[MAIN_PATH_BYTES_MAX];
    struct main_run last;
    struct kelpie_error error = {0};
    KELPIE_ASSERT(run->verdict != KELPIE_SIM_PASS);
    KELPIE_ASSERT(sim != NULL);
    options_check(options);
    fprintf(stderr, "seed %llu: %s (verdict %d)\n", (unsigned long long)seed, run->reason,
            (int)run->verdict);
    char *plan = read_plan(sim);
    if (plan == NULL) {
        return;
    }
    shrink_plan(options, seed, run, plan);
    struct kelpie_sim *replay = run_once(options, seed, plan, true, &last);
    bool is_same = replay != NULL && last.verdict == run->verdict;
    kelpie__sim_trace_story(is_same ? replay->trace : sim->trace, tell, stderr);
    kelpie__ignore(write_traces(options, is_same ? replay : sim)); /* the verdict says more */
    kelpie__ignore(snprintf(path, sizeof(path), "fail-%llu.plan", (unsigned long long)seed));
    struct kelpie_os *os = kelpie__os_linux_create();
    if (os == NULL ||
        kelpie__small_file_replace(os, KELPIE_OS_CWD, path, plan, strlen(plan), &error) < 0) {
        fprintf(stderr, "%s: %s\n%s", options->program, error.message, plan);
    } else {
        fprintf(stderr, "replay: %s --seed %llu --plan %s\n", options->program,
                (unsigned long long)seed, path);
    }
    kelpie__os_linux_destroy(os);
    kelpie_sim_destroy(replay);
    free(plan);
}

/* ---- all runs -------------------------------------------------------------------------------- */

/* For a callback that never returns: nobody can say it then. */
static void name_replay(struct main_options *options, uint64_t seed) {
    const char *word = options->plan_path != NULL ? " --plan "
                       : options->faults != NULL  ? " --faults "
                                                  : "";
    const char *value = options->plan_path != NULL ? options->plan_path
                        : options->faults != NULL  ? options->faults
                                                   : "";
    options_check(options);
    kelpie__ignore(snprintf(options->replay, sizeof(options->replay), "%s --seed %llu%s%s",
                            options->program, (unsigned long long)seed, word, value));
}

/* Both once more, with every call recorded. */
static void tell_difference(const struct main_options *given, uint64_t seed, const char *faults) {
    struct main_options options = *given;
    struct main_run run;
    char lines[2][256] = {"", ""};
    options_check(given);
    KELPIE_ASSERT(given->is_check);
    options.trace_detail = SIM_TRACE_CALLS;
    bool is_replay = options.plan_path != NULL;
    struct kelpie_sim *first = run_once(&options, seed, faults, is_replay, &run);
    struct kelpie_sim *second = run_once(&options, seed, faults, is_replay, &run);
    bool is_different =
        first != NULL && second != NULL &&
        kelpie__sim_trace_compare(first->trace, second->trace, lines[0], lines[1], NULL);
    if (is_different) {
        fprintf(stderr, "the first call that differs\nfirst:  %s\nsecond: %s\n", lines[0],
                lines[1]);
    } else {
        fprintf(stderr, "they did the same when they were recorded\n");
    }
    fprintf(stderr,
            "a program of yours asks for something that is not of the seed: time, rand(), "
            "addresses, what an earlier run has left\nreplay: %s --check\n",
            options.replay);
    kelpie_sim_destroy(first);
    kelpie_sim_destroy(second);
}

static int run_seed(struct main_options *options, uint64_t seed, const char *faults,
                    uint64_t *out_hash) {
    struct main_run run;
    struct main_run again;
    options_check(options);
    name_replay(options, seed);
    struct kelpie_sim *sim = run_once(options, seed, faults, options->plan_path != NULL, &run);
    if (sim == NULL) {
        fprintf(stderr, "%s: %s\n", options->program, run.reason);
        return (int)run.verdict;
    }
    if (run.verdict == KELPIE_SIM_PASS && options->is_check) {
        struct kelpie_sim *second =
            run_once(options, seed, faults, options->plan_path != NULL, &again);
        kelpie_sim_destroy(second);
        if (again.hash != run.hash) {
            run.verdict = KELPIE_SIM_NOT_THE_SAME;
            fprintf(stderr, "seed %llu: hash %016llx, then %016llx (verdict %d)\n",
                    (unsigned long long)seed, (unsigned long long)run.hash,
                    (unsigned long long)again.hash, KELPIE_SIM_NOT_THE_SAME);
            tell_difference(options, seed, faults);
        }
    } else if (run.verdict != KELPIE_SIM_PASS) {
        report(options, seed, &run, sim);
    }
    if (run.verdict == KELPIE_SIM_PASS && seed == options->seed_last &&
        !write_traces(options, sim)) {
        run.verdict = KELPIE_SIM_USAGE;
    }
    *out_hash = run.hash;
    kelpie_sim_destroy(sim);
    return (int)run.verdict;
}

/* Gives it: free(). NULL: told. */
static char *read_plan_file(const struct main_options *options) {
    struct kelpie_os *os = kelpie__os_linux_create();
    char *plan = malloc(SIMLIB_PLAN_BYTES_MAX);
    int64_t length =
        os == NULL || plan == NULL ? -ENOMEM
        : options->plan_path[0] == '\0'
            ? -ENOENT
            : kelpie__small_file_read(os, options->plan_path, plan, SIMLIB_PLAN_BYTES_MAX);
    kelpie__os_linux_destroy(os);
    if (length < 0) {
        fprintf(stderr, "%s: cannot read the plan \"%s\": %s (at most %u bytes)\n",
                options->program, options->plan_path, kelpie__errno_text((int)-length),
                SIMLIB_PLAN_BYTES_MAX - 1);
    } else if (strlen(plan) < (size_t)length) {
        fprintf(stderr, "%s: %s: byte %zu is zero; a plan is a text\n", options->program,
                options->plan_path, strlen(plan) + 1);
        length = -EINVAL;
    }
    if (length < 0) {
        free(plan);
        return NULL;
    }
    return plan;
}

static int run_all(struct main_options *options) {
    char *plan = NULL;
    uint64_t hash = 0;
    const char *faults = options->faults;
    options_check(options);
    if (options->plan_path != NULL) {
        plan = read_plan_file(options);
        if (plan == NULL) {
            return KELPIE_SIM_USAGE;
        }
        faults = plan;
    }
    int verdict = KELPIE_SIM_PASS;
    for (uint64_t seed = options->seed_first; verdict == KELPIE_SIM_PASS; seed += 1) {
        verdict = run_seed(options, seed, faults, &hash);
        if (verdict == KELPIE_SIM_PASS && seed == options->seed_last) {
            printf("seed %llu: pass hash %016llx\n", (unsigned long long)seed,
                   (unsigned long long)hash);
            break;
        }
    }
    free(plan);
    return verdict;
}

/* ---- arguments ------------------------------------------------------------------------------- */

static bool parse_value(struct main_options *options, const char *name, const char *value) {
    if (strcmp(name, "--seed") == 0) {
        bool is_number = kelpie__text_u64(value, &options->seed_first);
        options->seed_last = options->seed_first;
        return is_number;
    }
    if (strcmp(name, "--seeds") == 0) {
        return kelpie__sim_seeds_parse(value, &options->seed_first, &options->seed_last);
    }
    if (strcmp(name, "--faults") == 0) {
        options->faults = value;
    } else if (strcmp(name, "--plan") == 0) {
        options->plan_path = value;
    } else if (strcmp(name, "--trace") == 0) {
        options->trace_path = value;
    } else if (strcmp(name, "--svg") == 0) {
        options->svg_path = value;
    } else {
        return false;
    }
    return true;
}

int kelpie_sim_main(int argc, char **argv, kelpie_sim_scenario_callback scenario, void *context) {
    struct main_options options = {.program = argc > 0 && argv != NULL ? argv[0] : "test",
                                   .seed_last = MAIN_SEEDS_DEFAULT - 1,
                                   .trace_detail = SIM_TRACE_EVENTS,
                                   .is_shrunk = true,
                                   .scenario = scenario,
                                   .context = context};
    struct kelpie_os *os = kelpie__os_linux_create();
    const char *seed = os == NULL ? NULL : kelpie__os_environment(os, "DST_SEED");
    if (seed != NULL && !parse_value(&options, "--seed", seed)) {
        kelpie__os_linux_destroy(os);
        return usage(&options, seed);
    }
    kelpie__os_linux_destroy(os);
    for (int i = 1; i < argc && argv != NULL; i += 1) {
        if (strcmp(argv[i], "--help") == 0) {
            print_usage(stdout, options.program);
            return KELPIE_SIM_PASS;
        }
        if (strcmp(argv[i], "--check") == 0) {
            options.is_check = true;
        } else if (strcmp(argv[i], "--no-shrink") == 0) {
            options.is_shrunk = false;
        } else if (i + 1 < argc && parse_value(&options, argv[i], argv[i + 1])) {
            i += 1;
        } else {
            return usage(&options, argv[i]);
        }
    }
    if (scenario == NULL) {
        fprintf(stderr, "%s: kelpie_sim_main: scenario is NULL\n", options.program);
        return KELPIE_SIM_USAGE;
    }
    return run_all(&options);
}
