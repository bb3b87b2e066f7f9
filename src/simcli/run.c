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
#include "core/small_file.h"
#include "core/text.h"
#include "os/os_call.h"
#include "sim/fault.h"
#include "simcli/crew.h"
#include "simcli/jobs.h"
#include "simcli/simcli.h"

/* A campaign of so many seeds of the swarm has to meet every class of faults in so many of them. */
#define RUN_CLASSES_RUNS_MIN 400u
#define RUN_CLASS_PERCENT_MIN 5u
#define RUN_STATUS_BYTES_MAX 4096u
#define RUN_NUMBER_BYTES 24u
#define RUN_SETTLE_RUNS 64u
#define RUN_PROGRESS_NS (2 * KELPIE_NS_PER_S)

struct totals {
    uint64_t runs;
    uint64_t calls;
    int64_t virtual_ns;
    uint64_t commands;
    uint64_t swarm_runs;
    uint64_t class_runs[SIM_RUN_CLASS_MAX]; /* in which a fault of the class fired */
    int64_t begun_ns;
    int64_t told_ns;
};

static int64_t real_now(const struct simcli *simcli) {
    return kelpie__os_now(simcli->os, KELPIE_OS_CLOCK_MONOTONIC);
}

/* A bit for each class of which a fault fired. */
static uint32_t classes_of(const struct sim_run_result *result) {
    uint32_t classes = 0;
    _Static_assert(SIM_RUN_CLASS_MAX <= 32, "a bit each");
    for (uint32_t i = 0; i < SIM_RUN_CLASS_MAX; i += 1) {
        classes |= result->class_fired[i] > 0 ? 1u << i : 0;
    }
    return classes;
}

static void add_classes(struct totals *totals, uint32_t classes) {
    totals->runs += 1;
    for (uint32_t i = 0; i < SIM_RUN_CLASS_MAX; i += 1) {
        totals->class_runs[i] += classes >> i & 1;
    }
}

static void add(struct totals *totals, const struct sim_run_result *result) {
    totals->calls += result->calls;
    totals->virtual_ns += result->virtual_ns;
    totals->commands += result->counts.commands;
    add_classes(totals, classes_of(result));
}

/* ---- memory ---------------------------------------------------------------------------------- */

struct memory {
    uint64_t peak_kib;
    uint64_t resident_kib;
};

/* "VmHWM:      1234 kB" */
static uint64_t memory_value(const char *status, const char *name) {
    const char *at = strstr(status, name);
    uint64_t kib = 0;
    at = at == NULL ? "" : at + strlen(name);
    at += strspn(at, ": \t");
    size_t digits = strspn(at, "0123456789");
    KELPIE_ASSERT(digits < RUN_NUMBER_BYTES);
    char text[RUN_NUMBER_BYTES] = "";
    memcpy(text, at, digits);
    return kelpie__text_u64(text, &kib) ? kib : 0;
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

/* Of this process; zeros where the system does not tell. */
static void memory_look(const struct simcli *simcli, struct memory *out) {
    char status[RUN_STATUS_BYTES_MAX] = "";
    int64_t length =
        kelpie__small_file_read_start(simcli->os, "/proc/self/status", status, sizeof(status));
    status[length > 0 ? length : 0] = '\0';
    *out = (struct memory){memory_value(status, "VmHWM"), memory_value(status, "VmRSS")};
    KELPIE_ASSERT(out->peak_kib >= out->resident_kib || out->peak_kib == 0);
}

/* ---- what is told ---------------------------------------------------------------------------- */

static void progress(const struct simcli *simcli, struct totals *totals) {
    int64_t now_ns = real_now(simcli);
    if (simcli->is_quiet || now_ns - totals->told_ns < RUN_PROGRESS_NS) {
        return;
    }
    totals->told_ns = now_ns;
    struct memory memory;
    memory_look(simcli, &memory);
    fprintf(stderr, "%llu of %llu runs, %llu calls, %llu commands, resident %llu KiB, peak %llu\n",
            (unsigned long long)totals->runs, (unsigned long long)simcli->seed_count,
            (unsigned long long)totals->calls, (unsigned long long)totals->commands,
            (unsigned long long)memory.resident_kib, (unsigned long long)memory.peak_kib);
}

static void tell_classes(const struct simcli *simcli, const struct totals *totals) {
    for (uint32_t i = 0; !simcli->is_quiet && i < kelpie__sim_faults_class_count(); i += 1) {
        printf("  faults of class %-10s in %llu %% of the runs\n", kelpie__sim_faults_class_name(i),
               (unsigned long long)(totals->class_runs[i] * 100 / totals->runs));
    }
}

static void summary(const struct simcli *simcli, const struct totals *totals) {
    int64_t real_ns = real_now(simcli) - totals->begun_ns;
    if (simcli->is_quiet || totals->runs < 2) {
        return;
    }
    printf("%llu runs in %lld ms: %lld times real time, %llu ns a call\n",
           (unsigned long long)totals->runs, (long long)(real_ns / KELPIE_NS_PER_MS),
           (long long)(totals->virtual_ns / (real_ns > 0 ? real_ns : 1)),
           (unsigned long long)real_ns / (totals->calls > 0 ? totals->calls : 1));
    struct memory memory;
    memory_look(simcli, &memory);
    printf("memory: %llu KiB between two runs, %llu at the peak\n",
           (unsigned long long)memory.resident_kib, (unsigned long long)memory.peak_kib);
    tell_classes(simcli, totals);
}

/* A class that hardly fires tests nothing: as bad as a run that checked nothing. */
static int check_classes(const struct simcli *simcli, const struct totals *totals) {
    int code = 0;
    if (simcli->faults != SIM_RUN_FAULTS_SWARM || totals->runs < RUN_CLASSES_RUNS_MIN) {
        return 0;
    }
    KELPIE_ASSERT(kelpie__sim_faults_class_count() <= SIM_RUN_CLASS_MAX);
    for (uint32_t i = 0; i < kelpie__sim_faults_class_count(); i += 1) {
        if (totals->class_runs[i] * 100 < totals->runs * RUN_CLASS_PERCENT_MIN) {
            printf("class %s fired in %llu of %llu runs, at least %u %% are wanted\n",
                   kelpie__sim_faults_class_name(i), (unsigned long long)totals->class_runs[i],
                   (unsigned long long)totals->runs, RUN_CLASS_PERCENT_MIN);
            code = KELPIE_SIM_VACUOUS;
        }
    }
    return code;
}

static int run_seed(struct simcli *simcli, uint64_t seed, bool is_last, struct totals *totals) {
    struct sim_run_options options;
    struct sim_run_result result;
    kelpie__simcli_run_options(simcli, seed, &options);
    bool is_traced = is_last && (simcli->trace_path != NULL || simcli->svg_path != NULL);
    options.trace = is_last ? kelpie__simcli_log_begin(simcli) : NULL;
    if (is_traced && options.trace == NULL) {
        options.trace = kelpie__sim_trace_create(SIM_TRACE_EVENTS);
    }
    kelpie__sim_run(&options, &result);
    int code = (int)result.verdict;
    kelpie__simcli_log_end(simcli, options.trace);
    add(totals, &result);
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
        summary(simcli, totals);
        printf("seed %llu: pass hash %016llx\n", (unsigned long long)seed,
               (unsigned long long)result.hash);
    }
    kelpie__sim_run_release(&result);
    memory_settle(seed);
    return code;
}

static void report_crash(struct simcli *simcli, uint64_t seed) {
    const struct sim_run_result result = {.verdict = KELPIE_SIM_CRASHED, .reason = "crash"};
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
    out->value = classes_of(&result);
    memcpy(out->reason, result.reason, sizeof(out->reason));
    kelpie__sim_run_release(&result);
    memory_settle(options.seed);
}

/* The first seed that failed is run again, here, to be told as one that was run alone. */
static int run_many(struct simcli *simcli, int64_t end_ns) {
    struct totals totals = {.begun_ns = real_now(simcli), .told_ns = real_now(simcli)};
    struct simcli_campaign campaign = {.name = "run",
                                       .count = simcli->seed_count,
                                       .end_ns = end_ns,
                                       .work = run_one_of_many,
                                       .context = simcli};
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
            add_classes(&totals, campaign.notes[i].value);
        }
    }
    kelpie__simcli_campaign_release(&campaign);
    if (code == 0) {
        tell_classes(simcli, &totals);
        code = check_classes(simcli, &totals);
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
    struct totals totals = {.begun_ns = real_now(simcli), .told_ns = real_now(simcli)};
    int code = 0;
    bool goes_on = true;
    while (goes_on && place->index < simcli->seed_count) { /* bound: the seeds */
        bool is_late = simcli->minutes > 0 && real_now(simcli) >= end_ns;
        bool is_last = place->index + 1 == simcli->seed_count || is_late;
        int one = run_seed(simcli, simcli->seed_first + place->index, is_last, &totals);
        place->index += 1;
        code = code == 0 ? one : code;
        goes_on = (code == 0 || simcli->goes_on) && !is_late;
        progress(simcli, &totals);
    }
    return code == 0 ? check_classes(simcli, &totals) : code;
}

/* In a process of their own: a seed that crashes can be told as any other. */
static int run_watched(struct simcli *simcli, int64_t end_ns) {
    struct place *place = kelpie__simcli_crew_memory(sizeof(*place));
    int code = 0;
    bool goes_on = place != NULL;
    while (goes_on) { /* bound: each turn but the last is a crash, which is a seed */
        int status = 0;
        pid_t pid = kelpie__simcli_fork();
        if (pid == 0) {
            int own = run_in_turn(simcli, end_ns, place);
            fflush(stdout);
            _exit(own);
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
    int64_t end_ns = real_now(simcli) + (int64_t)(simcli->minutes * 60) * KELPIE_NS_PER_S;
    printf("seed %llu, %llu run%s\n", (unsigned long long)simcli->seed_first,
           (unsigned long long)simcli->seed_count, simcli->seed_count == 1 ? "" : "s");
    if (simcli->jobs > 1 && !simcli->is_check) {
        return run_many(simcli, simcli->minutes > 0 ? end_ns : 0);
    }
    return run_watched(simcli, end_ns);
}
