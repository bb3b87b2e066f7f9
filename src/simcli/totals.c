/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * See totals.h.
 */
#include "simcli/totals.h"

#include <stdio.h>
#include <string.h>

#include "core/limits.h"
#include "core/small_file.h"
#include "core/text.h"
#include "os/os_call.h"
#include "sim/fault.h"

/* A campaign of so many seeds of the swarm has to meet every class of faults in so many of them. */
#define TOTALS_CLASSES_RUNS_MIN 400u
#define TOTALS_CLASS_PERCENT_MIN 5u
#define TOTALS_PAIRS_RUNS_MIN 400u /* fewer say little about what fires seldom */
#define TOTALS_STATUS_BYTES_MAX 4096u
#define TOTALS_NUMBER_BYTES 24u
#define TOTALS_PROGRESS_NS (2 * KELPIE_NS_PER_S)

static void totals_check(const struct simcli_totals *totals) {
    for (uint32_t i = 0; i < SIM_RUN_CLASS_MAX; i += 1) {
        KELPIE_ASSERT(totals->class_runs[i] <= totals->runs);
    }
    for (uint32_t i = 0; i < SIM_SWARM_PAIR_MAX; i += 1) {
        KELPIE_ASSERT(totals->pair_runs[i] <= totals->runs);
    }
}

static int64_t real_now(const struct simcli *simcli) {
    return kelpie__os_now(simcli->os, KELPIE_OS_CLOCK_MONOTONIC);
}

uint32_t kelpie__simcli_totals_classes(const struct sim_run_result *result) {
    uint32_t classes = 0;
    _Static_assert(SIM_RUN_CLASS_MAX <= 32, "a bit each");
    for (uint32_t i = 0; i < SIM_RUN_CLASS_MAX; i += 1) {
        classes |= result->class_fired[i] > 0 ? 1u << i : 0;
    }
    return classes;
}

static void add_classes(struct simcli_totals *totals, uint32_t classes) {
    totals->runs += 1;
    for (uint32_t i = 0; i < SIM_RUN_CLASS_MAX; i += 1) {
        totals->class_runs[i] += classes >> i & 1;
    }
}

static void add_pairs(struct simcli_totals *totals, const uint64_t pairs[SIM_SWARM_PAIR_WORDS]) {
    for (uint32_t i = 0; i < SIM_SWARM_PAIR_MAX; i += 1) {
        totals->pair_runs[i] += pairs[i / 64] >> i % 64 & 1;
    }
}

void kelpie__simcli_totals_add_note(struct simcli_totals *totals, const struct simcli_note *note) {
    KELPIE_ASSERT((note->flags & SIMCLI_RUN_DONE) != 0);
    add_classes(totals, note->value);
    add_pairs(totals, note->pairs);
}

void kelpie__simcli_totals_add(struct simcli_totals *totals, const struct sim_run_result *result) {
    totals->calls += result->calls;
    totals->virtual_ns += result->virtual_ns;
    totals->commands += result->counts.commands;
    add_classes(totals, kelpie__simcli_totals_classes(result));
    add_pairs(totals, result->pairs_fired);
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
    KELPIE_ASSERT(digits < TOTALS_NUMBER_BYTES);
    char text[TOTALS_NUMBER_BYTES] = "";
    memcpy(text, at, digits);
    return kelpie__text_u64(text, &kib) ? kib : 0;
}

/* Of this process; zeros where the system does not tell. */
static void memory_look(const struct simcli *simcli, struct memory *out) {
    char status[TOTALS_STATUS_BYTES_MAX] = "";
    int64_t length =
        kelpie__small_file_read_start(simcli->os, "/proc/self/status", status, sizeof(status));
    kelpie__simcli_check(simcli);
    status[length > 0 ? length : 0] = '\0';
    *out = (struct memory){memory_value(status, "VmHWM"), memory_value(status, "VmRSS")};
    KELPIE_ASSERT(out->peak_kib >= out->resident_kib || out->peak_kib == 0);
}

/* ---- what is told ---------------------------------------------------------------------------- */

void kelpie__simcli_totals_progress(const struct simcli *simcli, struct simcli_totals *totals) {
    int64_t now_ns = real_now(simcli);
    kelpie__simcli_check(simcli);
    if (simcli->is_quiet || now_ns - totals->told_ns < TOTALS_PROGRESS_NS) {
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

static void tell_pairs(const struct simcli_totals *totals) {
    uint32_t fired = 0;
    totals_check(totals);
    for (uint32_t i = 0; i < kelpie__sim_swarm_pair_count(); i += 1) {
        fired += totals->pair_runs[i] > 0 ? 1 : 0;
    }
    printf("  %u of the swarm's %u pairs of point and action have fired; in runs:\n", fired,
           kelpie__sim_swarm_pair_count());
    for (uint32_t i = 0; i < kelpie__sim_swarm_pair_count(); i += 1) {
        char name[SIM_SWARM_PAIR_BYTES];
        kelpie__sim_swarm_pair_name(i, name);
        printf("%7llu  %-48s%s", (unsigned long long)totals->pair_runs[i], name,
               i % 2 == 1 ? "\n" : "");
    }
    printf("%s", kelpie__sim_swarm_pair_count() % 2 == 1 ? "\n" : "");
}

void kelpie__simcli_totals_tell(const struct simcli *simcli, const struct simcli_totals *totals) {
    totals_check(totals);
    kelpie__simcli_check(simcli);
    KELPIE_ASSERT(kelpie__sim_faults_class_count() <= SIM_RUN_CLASS_MAX);
    if (simcli->is_quiet || totals->runs == 0) {
        return;
    }
    for (uint32_t i = 0; i < kelpie__sim_faults_class_count(); i += 1) {
        printf("  faults of class %-10s in %llu %% of the runs\n", kelpie__sim_faults_class_name(i),
               (unsigned long long)(totals->class_runs[i] * 100 / totals->runs));
    }
    if (simcli->faults == SIM_RUN_FAULTS_SWARM && totals->runs >= TOTALS_PAIRS_RUNS_MIN) {
        tell_pairs(totals);
    }
}

void kelpie__simcli_totals_summary(const struct simcli *simcli,
                                   const struct simcli_totals *totals) {
    int64_t real_ns = real_now(simcli) - totals->begun_ns;
    totals_check(totals);
    kelpie__simcli_check(simcli);
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
    kelpie__simcli_totals_tell(simcli, totals);
}

/* On libkrun there is no QEMU, nobody between guest and monitor, and no other host. */
static bool is_met_on(const struct simcli *simcli, const char *name) {
    bool is_of_qemu =
        strcmp(name, "qemu") == 0 || strcmp(name, "qmp") == 0 || strcmp(name, "agent") == 0;
    KELPIE_ASSERT(name[0] != '\0');
    return simcli->backend != SIMCLI_BACKEND_KRUN || !is_of_qemu;
}

/* A class that hardly fires tests nothing: as bad as a run that checked nothing. */
static int check_classes(const struct simcli *simcli, const struct simcli_totals *totals) {
    int code = 0;
    totals_check(totals);
    kelpie__simcli_check(simcli);
    if (simcli->faults != SIM_RUN_FAULTS_SWARM || totals->runs < TOTALS_CLASSES_RUNS_MIN) {
        return 0;
    }
    KELPIE_ASSERT(kelpie__sim_faults_class_count() <= SIM_RUN_CLASS_MAX);
    for (uint32_t i = 0; i < kelpie__sim_faults_class_count(); i += 1) {
        const char *name = kelpie__sim_faults_class_name(i);
        if (is_met_on(simcli, name) &&
            totals->class_runs[i] * 100 < totals->runs * TOTALS_CLASS_PERCENT_MIN) {
            printf("class %s fired in %llu of %llu runs, at least %u %% are wanted\n", name,
                   (unsigned long long)totals->class_runs[i], (unsigned long long)totals->runs,
                   TOTALS_CLASS_PERCENT_MIN);
            code = KELPIE_SIM_VACUOUS;
        }
    }
    return code;
}

/* Each pair that never fired, with its reason. One without: a way to go wrong that nobody tests. */
static int check_pairs(const struct simcli *simcli, const struct simcli_totals *totals) {
    char list[SIMCLI_REASONS_BYTES_MAX];
    int code = 0;
    totals_check(totals);
    kelpie__simcli_check(simcli);
    if (simcli->unfired_path == NULL || simcli->faults != SIM_RUN_FAULTS_SWARM) {
        return 0;
    }
    if (!kelpie__simcli_read_reasons(simcli, simcli->unfired_path, list)) {
        return KELPIE_SIM_USAGE;
    }
    for (uint32_t i = 0; i < kelpie__sim_swarm_pair_count(); i += 1) {
        char name[SIM_SWARM_PAIR_BYTES];
        kelpie__sim_swarm_pair_name(i, name);
        const char *reason = kelpie__simcli_reason(list, name);
        if (totals->pair_runs[i] > 0) {
            continue;
        }
        printf("never fired: %s%s%.*s\n", name, reason == NULL ? "" : " -- ",
               reason == NULL ? 0 : (int)strcspn(reason, "\n"), reason == NULL ? "" : reason);
        code = reason == NULL ? KELPIE_SIM_VACUOUS : code;
    }
    KELPIE_ASSERT(code == 0 || code == KELPIE_SIM_VACUOUS);
    return code;
}

int kelpie__simcli_totals_check(const struct simcli *simcli, const struct simcli_totals *totals) {
    int classes = check_classes(simcli, totals);
    int pairs = check_pairs(simcli, totals);
    KELPIE_ASSERT(classes == 0 || classes == KELPIE_SIM_VACUOUS);
    return classes != 0 ? classes : pairs;
}
