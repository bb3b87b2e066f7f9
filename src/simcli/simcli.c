/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * The arguments of kelpie-sim, and what its verbs share.
 */
#include "simcli/simcli.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/small_file.h"
#include "core/text.h"
#include "os/os_call.h"
#include "os/os_fault_plan.h"
#include "sim/seeds.h"

#define SIMCLI_SEEDS_DEFAULT 100u
#define SIMCLI_MINUTES_MAX 525600u /* a year */
#define SIMCLI_CANARY_MAX 999u
#define SIMCLI_VERB_BYTES_MAX 32u

const struct simcli_verb kelpie__simcli_verbs[] = {
    {"run", "runs seeds; the first that fails is shrunk, told and kept as a plan",
     kelpie__simcli_run},
    {"replay", "FILE: runs a plan that a failed run left", kelpie__simcli_replay},
    {"shrink", "FILE: makes such a plan as small as it gets", kelpie__simcli_shrink},
    {"contract", "[ROW]: the 21 tests of the contract; --all counts pending ones as failed",
     kelpie__simcli_contract},
    {"canaries", "switches on each planted bug in turn: the swarm has to find them all",
     kelpie__simcli_canaries},
    {"sweep", "[SCENARIO]: every call of every public operation with every fault that fits it",
     kelpie__simcli_sweep},
    {"pairs", "[SCENARIO]: all pairs of kills, then all pairs of failures", kelpie__simcli_pairs},
    {"crash-states", "[SCENARIO]: every disk that a power loss may leave, and again in recovery",
     kelpie__simcli_crash_states},
    {"explore", "[RECIPE]: forks where a mark is first reached; replays how one was",
     kelpie__simcli_explore},
    {"blame", "SEED: from when on do other draws save a seed that fails?", kelpie__simcli_blame},
    {"marks", "[FILE]: the marks that runs reached; the others have to stand in FILE",
     kelpie__simcli_marks},
    {0},
};

/* ---- help ------------------------------------------------------------------------------------ */

static void print_help(FILE *out) {
    fputs("kelpie-sim: all of Kelpie in a simulated world, from a seed\n\n"
          "usage: kelpie-sim [VERB] [OPTIONS]\n\n",
          out);
    for (const struct simcli_verb *verb = kelpie__simcli_verbs; verb->name != NULL; verb += 1) {
        fprintf(out, "  %-12s %s\n", verb->name, verb->summary);
    }
    fputs("\noptions\n"
          "  --seed N          one run; --seeds N: runs 0 to N-1; --seeds A..B: runs A to B\n"
          "                    default: DST_SEED, else 100 runs\n"
          "  --minutes M       stop after so much real time\n"
          "  --faults WHAT     none: a quiet world; calm: other schedules and timings;\n"
          "                    swarm (default): drawn from the seed; else a FILE, a plan\n"
          "  --check           every run three times, the last in another process, with other\n"
          "                    addresses, environment and memory: all have to do the same\n"
          "  --jobs J          so many processes; default 1\n"
          "  --trace FILE      of the last run, for ui.perfetto.dev\n"
          "  --svg FILE        of the last run, a picture for every browser\n"
          "  --backend NAME    qemu (default), krun, or mix: one seed in four on krun\n"
          "  --canary N        with this planted bug (only in a build with -Dsimulation=true)\n"
          "  --log short|full  of the last run every event, a line each; full: and every call\n"
          "  --at PLAN         sweep SCENARIO: only the run with these faults, and its story;\n"
          "                    crash-states SCENARIO: 'ext4 STATE: PLAN', as a failure says it\n"
          "  --unreached FILE  sweep: sites that need not be hit, each with its reason\n"
          "  --unfired FILE    run: fails when a pair of point and action of the swarm never\n"
          "                    fired and is not in FILE with its reason\n"
          "  --keep-going      past seeds that fail, naming each: nothing is shrunk or told\n"
          "  --no-shrink       do not make a failing run smaller\n"
          "  --quiet           no progress\n"
          "\nexit code: 0 all passed, 10 something is broken, 11 an answer that the contract\n"
          "does not allow, 12 something never ended, 13 not the same twice, 14 nothing was\n"
          "checked, 15 crash, 125 usage. A failing run ends with the line that replays it.\n",
          out);
}

static int refuse(const char *word, const char *expected) {
    fprintf(stderr, "kelpie-sim: \"%s\" is not understood; expected %s (see kelpie-sim --help)\n",
            word, expected);
    return KELPIE_SIM_USAGE;
}

/* ---- files ----------------------------------------------------------------------------------- */

void kelpie__simcli_complain(const char *where, const char *problem) {
    fputs("kelpie-sim: ", stderr);
    fputs(where, stderr);
    fputs(": ", stderr);
    for (const char *at = problem; *at != '\0'; at += 1) { /* what a file holds may be anything */
        bool is_text = (unsigned char)*at >= ' ' && (unsigned char)*at < 127;
        fputc(is_text ? *at : '?', stderr);
    }
    fputc('\n', stderr);
}

char *kelpie__simcli_read_plan(const struct simcli *simcli, const char *path) {
    char *plan = malloc(SIMCLI_PLAN_BYTES_MAX);
    int64_t length = plan == NULL ? -ENOMEM
                     : path[0] == '\0'
                         ? -ENOENT
                         : kelpie__small_file_read(simcli->os, path, plan, SIMCLI_PLAN_BYTES_MAX);
    if (length == -EFBIG) {
        fprintf(stderr, "kelpie-sim: the plan \"%s\" has more than %u bytes, which is the limit\n",
                path, SIMCLI_PLAN_BYTES_MAX - 1);
    } else if (length < 0) {
        fprintf(stderr, "kelpie-sim: cannot read the plan \"%s\": %s\n", path,
                kelpie__errno_text((int)-length));
    } else if (strlen(plan) < (size_t)length) {
        fprintf(stderr, "kelpie-sim: %s: byte %zu is zero; a plan is a text\n", path,
                strlen(plan) + 1);
        length = -EINVAL;
    }
    if (length < 0) {
        free(plan);
        return NULL;
    }
    return plan;
}

/* Before any run: hours of work for a file that cannot be written would be in vain. It is there
 * then, and empty. */
static bool check_output(const struct simcli *simcli, const char *path) {
    struct sim_text_file file;
    if (path == NULL) {
        return true;
    }
    kelpie__sim_text_file_open(&file, simcli->os, path);
    kelpie__sim_text_file_write(&file, "\n", file.status == 0 ? 1 : 0);
    int status = kelpie__sim_text_file_close(&file);
    if (status < 0) {
        fprintf(stderr, "kelpie-sim: cannot write \"%s\": %s\n", path, kelpie__errno_text(-status));
    }
    return status == 0;
}

/* ---- options --------------------------------------------------------------------------------- */

/* The verbs that an option means something to, by name; NULL: all of them. One that would be
 * ignored is refused. */
static const struct {
    const char *name;
    const char *verbs;
} option_verbs[] = {
    {"--seed", " run contract sweep pairs crash-states explore marks canaries "},
    {"--seeds", " run contract sweep pairs crash-states explore marks canaries "},
    {"--minutes", " run pairs explore "},
    {"--faults", " run explore marks blame "},
    {"--check", " run "},
    {"--jobs", " run canaries sweep pairs crash-states blame marks "},
    {"--trace", " run replay shrink "},
    {"--svg", " run replay shrink "},
    {"--backend", " run contract explore marks blame "},
    {"--canary", " run replay shrink canaries explore marks blame "},
    {"--log", " run replay shrink sweep "},
    {"--at", " sweep crash-states "},
    {"--unreached", " sweep "},
    {"--unfired", " run "},
    {"--keep-going", " run "},
    {"--no-shrink", " run "},
    {"--all", " contract "},
    {"--quiet", NULL},
};

/* NULL: it is one of this verb's; else what was expected. */
static const char *check_option(const struct simcli_verb *verb, const char *name) {
    char word[SIMCLI_VERB_BYTES_MAX];
    bool fits = kelpie__text_format(word, sizeof(word), " %s ", verb->name);
    KELPIE_ASSERT(fits);
    for (size_t i = 0; i < KELPIE_ARRAY_COUNT(option_verbs); i += 1) {
        if (strcmp(option_verbs[i].name, name) == 0) {
            bool is_known =
                option_verbs[i].verbs == NULL || strstr(option_verbs[i].verbs, word) != NULL;
            return is_known ? NULL : "an option that this verb knows";
        }
    }
    return "an option of the list";
}

static bool parse_seeds(struct simcli *simcli, const char *text) {
    uint64_t last = 0;
    if (!kelpie__sim_seeds_parse(text, &simcli->seed_first, &last)) {
        return false;
    }
    simcli->seed_count = last - simcli->seed_first + 1;
    return simcli->seed_count > 0; /* all of 2^64 are one too many */
}

/* What is wrong with a file is told by whoever reads it. */
static bool parse_faults(struct simcli *simcli, const char *text) {
    static const struct {
        const char *name;
        enum sim_run_faults faults;
    } words[] = {{"none", SIM_RUN_FAULTS_NONE},
                 {"calm", SIM_RUN_FAULTS_CALM},
                 {"swarm", SIM_RUN_FAULTS_SWARM}};
    for (size_t i = 0; i < KELPIE_ARRAY_COUNT(words); i += 1) {
        if (strcmp(words[i].name, text) == 0) {
            simcli->faults = words[i].faults;
            return true;
        }
    }
    char *plan = kelpie__simcli_read_plan(simcli, text);
    if (plan == NULL) {
        return false;
    }
    free((void *)(uintptr_t)simcli->plan);
    simcli->plan = plan;
    simcli->plan_path = text;
    simcli->faults = SIM_RUN_FAULTS_PLAN;
    return true;
}

static bool parse_backend(struct simcli *simcli, const char *text) {
    static const char *const names[] = {[SIMCLI_BACKEND_QEMU] = "qemu",
                                        [SIMCLI_BACKEND_KRUN] = "krun",
                                        [SIMCLI_BACKEND_MIX] = "mix"};
    for (size_t i = 0; i < KELPIE_ARRAY_COUNT(names); i += 1) {
        if (strcmp(names[i], text) == 0) {
            simcli->backend = (enum simcli_backend)i;
            return true;
        }
    }
    return false;
}

/* Before any run: what is wrong with a plan is wrong with all of them. */
static bool check_plan(const struct simcli *simcli) {
    struct kelpie_fault_reader reader;
    struct kelpie_fault_rule rule;
    KELPIE_ASSERT(simcli->plan != NULL && simcli->plan_path != NULL);
    int found = kelpie__fault_reader_open(&reader, simcli->plan) ? 1 : -1;
    while (found == 1) { /* bound: the text */
        found = kelpie__fault_reader_next(&reader, &rule);
    }
    if (found < 0) {
        kelpie__simcli_complain(simcli->plan_path, reader.problem);
    }
    return found == 0;
}

static bool parse_minutes(struct simcli *simcli, const char *text) {
    return kelpie__text_u64(text, &simcli->minutes) && simcli->minutes > 0 &&
           simcli->minutes <= SIMCLI_MINUTES_MAX;
}

static bool parse_path(const char **out, const char *text) {
    *out = text;
    return text[0] != '\0';
}

static bool parse_u32(const char *text, uint32_t maximum, uint32_t *out) {
    uint64_t value = 0;
    if (!kelpie__text_u64(text, &value) || value > maximum) {
        return false;
    }
    *out = (uint32_t)value;
    return true;
}

/* NULL: understood; else what was expected. */
static const char *parse_value(struct simcli *simcli, const char *name, const char *value) {
    if (strcmp(name, "--seed") == 0) {
        simcli->seed_count = 1;
        simcli->has_seeds = true;
        return kelpie__text_u64(value, &simcli->seed_first) ? NULL : "a seed from 0 to 2^64-1";
    }
    if (strcmp(name, "--seeds") == 0) {
        simcli->has_seeds = true;
        return parse_seeds(simcli, value) ? NULL : "N, or A..B with A <= B";
    }
    if (strcmp(name, "--minutes") == 0) {
        return parse_minutes(simcli, value) ? NULL : "1 to 525600 minutes";
    }
    if (strcmp(name, "--faults") == 0) {
        return parse_faults(simcli, value) ? NULL : "none, calm, swarm, or a file with a plan";
    }
    if (strcmp(name, "--jobs") == 0) {
        return parse_u32(value, SIMCLI_JOBS_MAX, &simcli->jobs) && simcli->jobs > 0 ? NULL
                                                                                    : "1 to 64";
    }
    if (strcmp(name, "--backend") == 0) {
        return parse_backend(simcli, value) ? NULL : "qemu, krun or mix";
    }
    if (strcmp(name, "--canary") == 0) {
        return parse_u32(value, SIMCLI_CANARY_MAX, &simcli->canary) ? NULL : "a canary's number";
    }
    if (strcmp(name, "--log") == 0) {
        simcli->log = strcmp(value, "full") == 0 ? SIMCLI_LOG_FULL : SIMCLI_LOG_SHORT;
        return strcmp(value, "full") == 0 || strcmp(value, "short") == 0 ? NULL : "short or full";
    }
    if (strcmp(name, "--at") == 0) {
        return parse_path(&simcli->at, value) ? NULL : "rules of a plan";
    }
    if (strcmp(name, "--unreached") == 0) {
        return parse_path(&simcli->unreached_path, value) ? NULL : "a file's name";
    }
    if (strcmp(name, "--unfired") == 0) {
        return parse_path(&simcli->unfired_path, value) ? NULL : "a file's name";
    }
    if (strcmp(name, "--trace") == 0) {
        return parse_path(&simcli->trace_path, value) ? NULL : "a file's name";
    }
    if (strcmp(name, "--svg") == 0) {
        return parse_path(&simcli->svg_path, value) ? NULL : "a file's name";
    }
    return "an option of the list";
}

static bool parse_flag(struct simcli *simcli, const char *name) {
    if (strcmp(name, "--check") == 0) {
        simcli->is_check = true;
    } else if (strcmp(name, "--all") == 0) {
        simcli->is_all = true;
    } else if (strcmp(name, "--quiet") == 0) {
        simcli->is_quiet = true;
    } else if (strcmp(name, "--keep-going") == 0) {
        simcli->goes_on = true;
    } else if (strcmp(name, "--no-shrink") == 0) {
        simcli->is_shrunk = false;
    } else {
        return false;
    }
    return true;
}

static int parse(struct simcli *simcli, int argc, char **argv, const struct simcli_verb **out) {
    for (int i = 1; i < argc; i += 1) {
        const struct simcli_verb *verb = kelpie__simcli_verbs;
        while (verb->name != NULL && strcmp(verb->name, argv[i]) != 0) { /* bound: the list */
            verb += 1;
        }
        if (verb->name != NULL && i == 1) {
            *out = verb;
            continue;
        }
        if (argv[i][0] != '-' && i == 1) {
            return refuse(argv[i], "a verb, or an option of run");
        }
        if (argv[i][0] != '-' && simcli->word == NULL && argv[i][0] != '\0') {
            simcli->word = argv[i];
            continue;
        }
        if (argv[i][0] != '-') {
            return refuse(argv[i], "one word, and options");
        }
        const char *expected = check_option(*out, argv[i]);
        if (expected != NULL) {
            return refuse(argv[i], expected);
        }
        if (parse_flag(simcli, argv[i])) {
            continue;
        }
        expected = i + 1 < argc ? parse_value(simcli, argv[i], argv[i + 1]) : "its value, too";
        if (expected != NULL) {
            return refuse(i + 1 < argc ? argv[i + 1] : argv[i], expected);
        }
        i += 1;
    }
    return 0;
}

static int run_arguments(struct kelpie_os *os, int argc, char **argv) {
    struct simcli simcli = {.os = os,
                            .seed_count = SIMCLI_SEEDS_DEFAULT,
                            .faults = SIM_RUN_FAULTS_SWARM,
                            .jobs = 1,
                            .is_shrunk = true};
    const struct simcli_verb *verb = kelpie__simcli_verbs;
    const char *seed = kelpie__os_environment(os, "DST_SEED");
    for (int i = 1; i < argc; i += 1) {
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0 ||
            strcmp(argv[i], "help") == 0) {
            print_help(stdout);
            return 0;
        }
        if (strcmp(argv[i], "--version") == 0) {
            printf("kelpie-sim %s\n", KELPIE_VERSION);
            return 0;
        }
    }
    if (seed != NULL && parse_value(&simcli, "--seed", seed) != NULL) {
        return refuse(seed, "a number in DST_SEED");
    }
    int code = parse(&simcli, argc, argv, &verb);
    if (code == 0 && simcli.word != NULL && verb->run == kelpie__simcli_run) {
        code = refuse(simcli.word, "an option");
    }
    bool is_good = code == 0 && (simcli.plan == NULL || check_plan(&simcli)) &&
                   kelpie__simcli_has_canary(simcli.canary) &&
                   check_output(&simcli, simcli.trace_path) &&
                   check_output(&simcli, simcli.svg_path);
    code = is_good ? 0 : KELPIE_SIM_USAGE;
    if (code == 0) {
        simcli.nursery = kelpie__sim_nursery_create(); /* without one it is only slower */
        code = verb->run(&simcli);
        kelpie__sim_nursery_destroy(simcli.nursery);
        code = code == 0 && simcli.has_lost_output ? KELPIE_SIM_USAGE : code;
    }
    free((void *)(uintptr_t)simcli.plan);
    return code;
}

int kelpie_simcli_main(struct kelpie_os *os, int argc, char **argv) {
    int code = run_arguments(os, argc, argv);
    if (fflush(stdout) != 0 || ferror(stdout) != 0) { /* a full disk, or nobody there */
        fprintf(stderr, "kelpie-sim: what it had to say could not be written\n");
        code = code == 0 ? KELPIE_SIM_USAGE : code;
    }
    return code;
}

bool kelpie__simcli_has_canary(uint32_t number) {
#ifdef KELPIE_SIMULATION
    kelpie__ignore(number > 0); /* one that nobody knows plants nothing */
    return true;
#else
    if (number > 0) {
        fprintf(stderr,
                "kelpie-sim: canary %u: this build has no canaries; build with -Dsimulation=true\n",
                number);
    }
    return number == 0;
#endif
}

/* ---- shared ---------------------------------------------------------------------------------- */

bool kelpie__simcli_is_krun(const struct simcli *simcli, uint64_t seed) {
    return simcli->backend == SIMCLI_BACKEND_KRUN ||
           (simcli->backend == SIMCLI_BACKEND_MIX && seed % 4 == 3);
}

void kelpie__simcli_run_options(const struct simcli *simcli, uint64_t seed,
                                struct sim_run_options *out) {
    kelpie__simcli_check(simcli);
    *out = (struct sim_run_options){.seed = seed,
                                    .faults = simcli->faults,
                                    .plan = simcli->plan,
                                    .canary = simcli->canary,
                                    .is_krun = kelpie__simcli_is_krun(simcli, seed),
                                    .nursery = simcli->nursery};
}

/* ---- logs --------------------------------------------------------------------------------- */

static void tell(void *context, const char *text, size_t length) {
    fwrite(text, 1, length, context);
}

struct sim_trace *kelpie__simcli_log_begin(const struct simcli *simcli) {
    return simcli->log == SIMCLI_LOG_NONE
               ? NULL
               : kelpie__sim_trace_create(simcli->log == SIMCLI_LOG_FULL ? SIM_TRACE_CALLS
                                                                         : SIM_TRACE_EVENTS);
}

void kelpie__simcli_log_end(const struct simcli *simcli, struct sim_trace *trace) {
    if (trace != NULL && simcli->log == SIMCLI_LOG_FULL) {
        kelpie__sim_trace_log_calls(trace, tell, stdout);
    } else if (trace != NULL && simcli->log == SIMCLI_LOG_SHORT) {
        kelpie__sim_trace_log(trace, tell, stdout);
    }
    fflush(stdout);
}
