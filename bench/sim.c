/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * How fast the simulator is: full lives of VMs for each second of one core, virtual time against
 * real time, what a call through the seam costs, a run of the swarm, memory. See README.md.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/limits.h"
#include "core/text.h"
#include "life.h"
#include "measure.h"
#include "sim/run.h"

#define ROUNDS_DEFAULT 15u
#define LIVES_PER_ROUND 100u
#define CROWD 20u
#define LIVES_OF_CROWD 4u
#define SWARM_SEEDS 40u /* of a round */
#define MEMORY_RUNS_DEFAULT 10000u
#define MEMORY_LOOKS 200u /* at what is resident, evenly over the runs */
#define MEMORY_MIB_MAX 64
#define FLOOR_LINES_MAX 64u
#define STABLE_SPREAD 0.3      /* of the middle 80 % of rounds, in parts of the median */
#define REGRESSION_FACTOR 1.5  /* worse than the floor file's figure by more than half */
#define MEASUREMENT_NOISE 1e-9 /* never divide by 0 */

struct bench {
    struct bench_table table;
    uint32_t rounds;
    uint32_t memory_runs;
    const char *json_path;
    const char *floor_path;
    const char *only; /* the name of a section, or NULL: all */
    struct sim_nursery *nursery;
    bool has_failed;
};

/* What a child process tells: it writes, we read when it is gone. */
struct told {
    bool is_done;
    uint32_t failed_runs; /* verdicts other than passed, */
    uint64_t failed_seed; /* and the last seed of them */
    double run_ms[SWARM_SEEDS * 4];
    uint32_t run_count;
    double virtual_ms; /* of all runs */
    double resident_kib[MEMORY_LOOKS];
    double peak_kib;
};

/* ---- sections -------------------------------------------------------------------------------- */

static struct bench_series *series_of(struct bench *bench, const char *name, const char *unit,
                                      const char *meaning) {
    struct bench_series *series = NULL;
    for (uint32_t i = 0; i < bench->table.count && series == NULL; i += 1) {
        bool is_it = strcmp(bench->table.series[i].name, name) == 0;
        series = is_it ? &bench->table.series[i] : NULL;
    }
    return series != NULL ? series : kelpie__bench_series(&bench->table, name, unit, meaning);
}

static bool live(struct bench *bench, const struct bench_life *life, struct bench_lived *out) {
    if (!kelpie__bench_live(life, bench->nursery, out)) {
        bench->has_failed = true;
    }
    return !bench->has_failed;
}

static void measure_lives(struct bench *bench, uint32_t round) {
    struct bench_lived lived;
    const struct bench_life life = {.seed = round, .clients = 1, .rounds = LIVES_PER_ROUND};
    double reference_ns = kelpie__bench_reference();
    if (!live(bench, &life, &lived)) {
        return;
    }
    reference_ns = (reference_ns + kelpie__bench_reference()) / 2;
    double each_ns = (double)lived.cpu_ns / LIVES_PER_ROUND;
    kelpie__bench_add(series_of(bench, "lifecycles", "1/s", "full lives per CPU second, one VM"),
                      1e9 / each_ns);
    kelpie__bench_add(series_of(bench, "lifecycle", "us", "CPU time of one full life"),
                      each_ns / 1e3);
    kelpie__bench_add(
        series_of(bench, "lifecycle_relative", "ref", "one life, in reference pieces of work"),
        each_ns / (reference_ns + MEASUREMENT_NOISE));
    kelpie__bench_add(series_of(bench, "reference", "us", "CPU time of the reference work"),
                      reference_ns / 1e3);
    kelpie__bench_add(series_of(bench, "calls", "calls", "calls through the seam in one life"),
                      (double)lived.calls / LIVES_PER_ROUND);
    kelpie__bench_add(
        series_of(bench, "call", "ns", "CPU time of a life by its calls, product code included"),
        (double)lived.cpu_ns / (double)lived.calls);
}

static void measure_worlds(struct bench *bench, uint32_t round) {
    struct bench_lived lived;
    int64_t begun_ns = kelpie__bench_cpu_ns();
    for (uint32_t i = 0; i < LIVES_PER_ROUND; i += 1) {
        const struct bench_life life = {
            .seed = round * LIVES_PER_ROUND + i, .clients = 1, .rounds = 1};
        if (!live(bench, &life, &lived)) {
            return;
        }
    }
    double each_ns = (double)(kelpie__bench_cpu_ns() - begun_ns) / LIVES_PER_ROUND;
    kelpie__bench_add(
        series_of(bench, "worlds", "1/s", "full lives per CPU second, each in a world of its own"),
        1e9 / each_ns);
}

static void measure_crowd(struct bench *bench, uint32_t round) {
    struct bench_lived lived;
    const struct bench_life life = {.seed = round, .clients = CROWD, .rounds = LIVES_OF_CROWD};
    if (!live(bench, &life, &lived)) {
        return;
    }
    double cpu_ns = (double)lived.cpu_ns;
    kelpie__bench_add(
        series_of(bench, "crowd_lifecycles", "1/s", "full lives per CPU second, 20 VMs at once"),
        1e9 * CROWD * LIVES_OF_CROWD / cpu_ns);
    kelpie__bench_add(series_of(bench, "crowd_time", "x", "virtual time by CPU time, 20 VMs"),
                      (double)lived.virtual_ns / cpu_ns);
    kelpie__bench_add(series_of(bench, "crowd_vm_time", "x", "VMs' virtual run time by CPU time"),
                      (double)lived.vm_run_ns / cpu_ns);
}

static void measure_work(struct bench *bench, uint32_t round) {
    struct bench_lived lived;
    const struct bench_life life = {
        .seed = round, .clients = CROWD, .rounds = LIVES_OF_CROWD, .is_at_work = true};
    if (live(bench, &life, &lived)) {
        kelpie__bench_add(
            series_of(bench, "work_time", "x", "virtual time by CPU time, 20 VMs at work"),
            (double)lived.virtual_ns / (double)lived.cpu_ns);
    }
}

static void measure_steps(struct bench *bench, uint32_t round) {
    struct bench_lived lived;
    const struct bench_life life = {
        .seed = round, .clients = 1, .rounds = LIVES_PER_ROUND, .is_timed = true};
    if (!live(bench, &life, &lived)) {
        return;
    }
    for (uint32_t i = 0; i < BENCH_STEP_COUNT; i += 1) {
        kelpie__bench_add(series_of(bench, kelpie__bench_step_name((enum bench_step)i), "us",
                                    "CPU time of this step in a life"),
                          (double)lived.step_ns[i] / 1e3 / LIVES_PER_ROUND);
    }
}

static void measure_seam(struct bench *bench, uint32_t round) {
    double now_ns = 0;
    double read_ns = 0;
    kelpie__ignore(round > 0);
    if (!kelpie__bench_seam(bench->nursery, &now_ns, &read_ns)) {
        bench->has_failed = true;
        return;
    }
    kelpie__bench_add(series_of(bench, "seam_now", "ns", "a call that asks for the time"), now_ns);
    kelpie__bench_add(series_of(bench, "seam_read", "ns", "a call that reads 64 bytes of a file"),
                      read_ns);
}

/* ---- runs of the swarm, in a child ----------------------------------------------------------- */

static double resident_kib(void) {
    unsigned long pages = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    if (file == NULL || fscanf(file, "%*u %lu", &pages) != 1) {
        pages = 0;
    }
    if (file != NULL) {
        fclose(file);
    }
    return (double)pages * (double)sysconf(_SC_PAGESIZE) / 1024;
}

static void swarm_run(uint64_t seed, struct sim_nursery *nursery, struct told *told) {
    const struct sim_run_options options = {
        .seed = seed, .faults = SIM_RUN_FAULTS_SWARM, .nursery = nursery};
    struct sim_run_result result;
    int64_t begun_ns = kelpie__bench_cpu_ns();
    kelpie__sim_run(&options, &result);
    if (told->run_count < KELPIE_ARRAY_COUNT(told->run_ms)) {
        told->run_ms[told->run_count] = (double)(kelpie__bench_cpu_ns() - begun_ns) / 1e6;
        told->run_count += 1;
    }
    if (result.verdict != KELPIE_SIM_PASS) {
        told->failed_runs += 1;
        told->failed_seed = seed;
    }
    told->virtual_ms += (double)result.virtual_ns / 1e6;
    kelpie__sim_run_release(&result);
}

static void swarm_round(struct told *told, uint32_t round) {
    struct sim_nursery *nursery = kelpie__sim_nursery_create();
    for (uint32_t i = 0; i < SWARM_SEEDS; i += 1) {
        swarm_run((uint64_t)round * SWARM_SEEDS + i, nursery, told);
    }
    kelpie__sim_nursery_destroy(nursery);
}

/* All seeds are different ones: what a rare one leaves behind counts, too. */
static void swarm_memory(struct told *told, uint32_t runs) {
    struct rusage usage;
    struct sim_nursery *nursery = kelpie__sim_nursery_create();
    for (uint32_t i = 0; i < runs; i += 1) {
        swarm_run(i, nursery, told);
        uint32_t looks = (uint32_t)((uint64_t)(i + 1) * MEMORY_LOOKS / runs);
        if (looks > (uint64_t)i * MEMORY_LOOKS / runs) {
            told->resident_kib[looks - 1] = resident_kib();
            kelpie__ignore(getrusage(RUSAGE_SELF, &usage) == 0);
            told->peak_kib = (double)usage.ru_maxrss;
            /* a million runs take hours: what was seen so far is told, wherever they end */
            fprintf(stderr, "%u runs: %.2f MiB, at the peak %.1f MiB; %u failed, last %llu\n",
                    i + 1, told->resident_kib[looks - 1] / 1024, told->peak_kib / 1024,
                    told->failed_runs, (unsigned long long)told->failed_seed);
        }
    }
    kelpie__sim_nursery_destroy(nursery);
}

/* Of the line through all looks but the first tenth, by least squares: in KiB for 1,000 runs. What
 * is resident goes up and down by a few MiB with what the last run was, so that two looks say
 * little. */
static double memory_slope(const double *resident_kib, uint32_t runs) {
    const uint32_t first = MEMORY_LOOKS / 10;
    const double count = MEMORY_LOOKS - first;
    double mean_look = 0;
    double mean_kib = 0;
    double products = 0;
    double squares = 0;
    for (uint32_t i = first; i < MEMORY_LOOKS; i += 1) {
        mean_look += i / count;
        mean_kib += resident_kib[i] / count;
    }
    for (uint32_t i = first; i < MEMORY_LOOKS; i += 1) {
        products += (i - mean_look) * (resident_kib[i] - mean_kib);
        squares += (i - mean_look) * (i - mean_look);
    }
    return products / squares / ((double)runs / MEMORY_LOOKS) * 1000;
}

/* In a process of its own, whose memory is that of the runs alone. */
static bool in_child(struct bench *bench, void (*work)(struct told *told, uint32_t argument),
                     uint32_t argument, struct told *out) {
    int status = 0;
    struct told *told =
        mmap(NULL, sizeof(*told), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    KELPIE_ASSERT(told != MAP_FAILED);
    fflush(NULL);
    pid_t child = fork();
    KELPIE_ASSERT(child >= 0);
    if (child == 0) {
        work(told, argument);
        told->is_done = true;
        _exit(0);
    }
    kelpie__ignore(waitpid(child, &status, 0) == child);
    *out = *told;
    kelpie__ignore(munmap(told, sizeof(*told)));
    if (!out->is_done) {
        fprintf(stderr, "bench-sim: the runs of the swarm died after %u\n", out->run_count);
        bench->has_failed = true;
    }
    return out->is_done;
}

static void measure_swarm(struct bench *bench, uint32_t round) {
    struct told told = {0};
    if (!in_child(bench, swarm_round, round, &told)) {
        return;
    }
    double sum = 0;
    double most = 0;
    for (uint32_t i = 0; i < told.run_count; i += 1) {
        sum += told.run_ms[i];
        most = told.run_ms[i] > most ? told.run_ms[i] : most;
    }
    kelpie__bench_add(series_of(bench, "swarm_run", "ms", "CPU time of a run: mean of 40 seeds"),
                      sum / told.run_count);
    kelpie__bench_add(series_of(bench, "swarm_run_longest", "ms", "the longest of these"), most);
    kelpie__bench_add(series_of(bench, "swarm_time", "x", "virtual time by CPU time of these"),
                      told.virtual_ms / sum);
    kelpie__bench_add(series_of(bench, "swarm_failures", "runs", "of 40 that did not pass"),
                      told.failed_runs);
}

static void measure_memory(struct bench *bench) {
    struct told told = {0};
    if (bench->memory_runs < MEMORY_LOOKS ||
        !in_child(bench, swarm_memory, bench->memory_runs, &told)) {
        return;
    }
    kelpie__bench_add(series_of(bench, "memory_peak", "MiB", "of a process that runs swarm seeds"),
                      told.peak_kib / 1024);
    struct bench_series *resident =
        series_of(bench, "memory", "MiB", "resident after each 200th of the runs");
    for (uint32_t i = 0; i < MEMORY_LOOKS; i += 1) {
        kelpie__bench_add(resident, told.resident_kib[i] / 1024);
    }
    kelpie__bench_add(series_of(bench, "memory_growth", "MiB", "from the first look to the last"),
                      (told.resident_kib[MEMORY_LOOKS - 1] - told.resident_kib[0]) / 1024);
    kelpie__bench_add(
        series_of(bench, "memory_slope", "KiB", "by which the looks grow with 1,000 runs"),
        memory_slope(told.resident_kib, bench->memory_runs));
    kelpie__bench_add(series_of(bench, "memory_failures", "runs", "that did not pass"),
                      told.failed_runs);
    if (told.peak_kib / 1024 > MEMORY_MIB_MAX || told.failed_runs > 0) {
        fprintf(stderr, "bench-sim: %u of %u runs failed; %.0f MiB at the peak, %d are allowed\n",
                told.failed_runs, bench->memory_runs, told.peak_kib / 1024, MEMORY_MIB_MAX);
        bench->has_failed = true;
    }
}

/* ---- against the floor ----------------------------------------------------------------------- */

/* A line is a series' name and its figure, smaller being better; '#' begins a comment. */
static void judge_line(struct bench *bench, const char *name, double floor) {
    const struct bench_series *series = kelpie__bench_find(&bench->table, name);
    if (series == NULL) {
        printf("%s is in the floor file and was not measured\nnot ok %s\n", name, name);
        bench->has_failed = true;
        return;
    }
    struct bench_summary summary = kelpie__bench_summarise(series);
    struct bench_summary reference =
        kelpie__bench_summarise(kelpie__bench_find(&bench->table, "reference"));
    bool is_counted = strcmp(series->unit, "calls") == 0; /* a function of the seeds */
    bool is_stable =
        is_counted || (summary.spread <= STABLE_SPREAD && reference.spread <= STABLE_SPREAD);
    bool is_slow = summary.median > floor * REGRESSION_FACTOR;
    printf("%s: %.2f %s, the floor file says %.2f", name, summary.median, series->unit, floor);
    if (is_slow && !is_stable) {
        printf("; not judged, the rounds lie too far apart (%.0f %%, reference %.0f %%)",
               summary.spread * 100, reference.spread * 100);
    }
    printf("\n%s %s\n", is_slow && is_stable ? "not ok" : "ok", name);
    bench->has_failed = bench->has_failed || (is_slow && is_stable);
}

static void judge(struct bench *bench) {
    char line[256];
    char name[64];
    double floor = 0;
    FILE *file = fopen(bench->floor_path, "r");
    if (file == NULL) {
        fprintf(stderr, "bench-sim: cannot read \"%s\"\n", bench->floor_path);
        bench->has_failed = true;
        return;
    }
    for (uint32_t i = 0; i < FLOOR_LINES_MAX && fgets(line, sizeof(line), file) != NULL; i += 1) {
        if (line[0] != '#' && sscanf(line, "%63s %lf", name, &floor) == 2) {
            judge_line(bench, name, floor);
        }
    }
    fclose(file);
}

/* ---- all ------------------------------------------------------------------------------------- */

static const struct {
    const char *name;
    void (*measure)(struct bench *bench, uint32_t round);
} sections[] = {
    {"lives", measure_lives}, {"steps", measure_steps}, {"worlds", measure_worlds},
    {"crowd", measure_crowd}, {"work", measure_work},   {"seam", measure_seam},
    {"swarm", measure_swarm},
};

/* Round by round through all sections, so that what disturbs the machine disturbs all alike. */
static void measure(struct bench *bench) {
    for (uint32_t round = 0; round <= bench->rounds && !bench->has_failed; round += 1) {
        for (size_t i = 0; i < KELPIE_ARRAY_COUNT(sections) && !bench->has_failed; i += 1) {
            if (bench->only == NULL || strcmp(bench->only, sections[i].name) == 0) {
                sections[i].measure(bench, round);
            }
        }
        if (round == 0) {
            bench->table.count = 0; /* the first warms the caches, and is thrown away */
        }
    }
    if (!bench->has_failed && (bench->only == NULL || strcmp(bench->only, "memory") == 0)) {
        measure_memory(bench);
    }
}

static int usage(void) {
    fputs("usage: bench-sim [--rounds N] [--runs N] [--json FILE] [--floor FILE] [--only SECTION]\n"
          "  --rounds N      of each section, 1 to 256; default 15\n"
          "  --runs N        of seeds of the swarm, for its memory; default 10000; 0: none\n"
          "  --json FILE     all values\n"
          "  --floor FILE    fails if a figure is worse than this file's by more than half\n"
          "  --only SECTION  lives, steps, worlds, crowd, work, seam, swarm or memory\n",
          stderr);
    return 125;
}

static bool parse(struct bench *bench, int argc, char **argv) {
    uint64_t number = 0;
    for (int i = 1; i + 1 < argc; i += 2) {
        bool is_number = kelpie__text_u64(argv[i + 1], &number) && number <= UINT32_MAX;
        if (strcmp(argv[i], "--rounds") == 0 && is_number) {
            bench->rounds = (uint32_t)number;
        } else if (strcmp(argv[i], "--runs") == 0 && is_number) {
            bench->memory_runs = (uint32_t)number;
        } else if (strcmp(argv[i], "--json") == 0) {
            bench->json_path = argv[i + 1];
        } else if (strcmp(argv[i], "--floor") == 0) {
            bench->floor_path = argv[i + 1];
        } else if (strcmp(argv[i], "--only") == 0) {
            bench->only = argv[i + 1];
        } else {
            return false;
        }
    }
    return argc % 2 == 1 && bench->rounds >= 1 && bench->rounds <= BENCH_ROUNDS_MAX;
}

static void print_json(struct bench *bench) {
    FILE *file = fopen(bench->json_path, "w");
    if (file == NULL) {
        fprintf(stderr, "bench-sim: cannot write \"%s\"\n", bench->json_path);
        bench->has_failed = true;
        return;
    }
    kelpie__bench_print_json(&bench->table, file);
    bench->has_failed = fclose(file) != 0 || bench->has_failed;
}

int main(int argc, char **argv) {
    struct bench *bench = calloc(1, sizeof(*bench));
    KELPIE_ASSERT(bench != NULL);
    bench->rounds = ROUNDS_DEFAULT;
    bench->memory_runs = MEMORY_RUNS_DEFAULT;
    if (!parse(bench, argc, argv)) {
        free(bench);
        return usage();
    }
    bench->nursery = kelpie__sim_nursery_create();
    KELPIE_ASSERT(bench->nursery != NULL);
    measure(bench);
    kelpie__bench_print(&bench->table, stdout);
    if (bench->json_path != NULL) {
        print_json(bench);
    }
    if (bench->floor_path != NULL && !bench->has_failed) {
        judge(bench);
    }
    kelpie__sim_nursery_destroy(bench->nursery);
    bool is_good = !bench->has_failed;
    free(bench);
    return is_good ? 0 : 1;
}
