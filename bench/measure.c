/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * See measure.h.
 */
#include "measure.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "core/base.h"

#define REFERENCE_WORDS 4096u /* 32 KiB: what a first-level cache holds */
#define REFERENCE_TURNS 64u

int64_t kelpie__bench_cpu_ns(void) {
    struct timespec time;
    int status = clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
    KELPIE_ASSERT(status == 0);
    return (int64_t)time.tv_sec * 1000000000 + time.tv_nsec;
}

double kelpie__bench_reference(void) {
    uint64_t words[REFERENCE_WORDS];
    uint64_t other[REFERENCE_WORDS];
    volatile uint64_t sink = 0; /* or the compiler leaves the work out */
    int64_t begun_ns = kelpie__bench_cpu_ns();
    for (uint64_t i = 0; i < REFERENCE_WORDS; i += 1) {
        words[i] = i * UINT64_C(0x9e3779b97f4a7c15);
    }
    for (uint32_t turn = 0; turn < REFERENCE_TURNS; turn += 1) {
        uint64_t at = turn;
        for (uint32_t i = 0; i < REFERENCE_WORDS; i += 1) {
            at = (words[at % REFERENCE_WORDS] ^ at) * UINT64_C(0xff51afd7ed558ccd);
            at ^= at >> 33;
        }
        words[turn] = at;
        memcpy(other, words, sizeof(words));
        sink ^= other[at % REFERENCE_WORDS];
    }
    KELPIE_ASSERT((sink | 1) != 0); /* read, for compilers that ask */
    return (double)(kelpie__bench_cpu_ns() - begun_ns);
}

struct bench_series *kelpie__bench_series(struct bench_table *table, const char *name,
                                          const char *unit, const char *meaning) {
    KELPIE_ASSERT(table->count < BENCH_SERIES_MAX);
    struct bench_series *series = &table->series[table->count];
    table->count += 1;
    series->name = name;
    series->unit = unit;
    series->meaning = meaning;
    series->count = 0;
    return series;
}

const struct bench_series *kelpie__bench_find(const struct bench_table *table, const char *name) {
    for (uint32_t i = 0; i < table->count; i += 1) {
        if (strcmp(table->series[i].name, name) == 0) {
            return &table->series[i];
        }
    }
    return NULL;
}

void kelpie__bench_add(struct bench_series *series, double value) {
    KELPIE_ASSERT(series->count < BENCH_ROUNDS_MAX);
    series->values[series->count] = value;
    series->count += 1;
}

static int compare(const void *a, const void *b) {
    double left = *(const double *)a;
    double right = *(const double *)b;
    return (left > right) - (left < right);
}

struct bench_summary kelpie__bench_summarise(const struct bench_series *series) {
    double sorted[BENCH_ROUNDS_MAX];
    KELPIE_ASSERT(series->count > 0);
    memcpy(sorted, series->values, series->count * sizeof(sorted[0]));
    qsort(sorted, series->count, sizeof(sorted[0]), compare);
    uint32_t last = series->count - 1;
    struct bench_summary summary = {
        .median = (sorted[last / 2] + sorted[(last + 1) / 2]) / 2,
        .low = sorted[last / 10],
        .high = sorted[last - last / 10],
    };
    summary.spread = summary.median > 0 ? (summary.high - summary.low) / summary.median : 0;
    return summary;
}

void kelpie__bench_print(const struct bench_table *table, FILE *out) {
    fprintf(out, "%-28s %12s %12s %12s  %-8s %s\n", "", "median", "p10", "p90", "unit", "rounds");
    for (uint32_t i = 0; i < table->count; i += 1) {
        const struct bench_series *series = &table->series[i];
        struct bench_summary summary = kelpie__bench_summarise(series);
        int digits = summary.median < 100 ? 2 : 0;
        fprintf(out, "%-28s %12.*f %12.*f %12.*f  %-8s %u\n", series->name, digits, summary.median,
                digits, summary.low, digits, summary.high, series->unit, series->count);
    }
}

void kelpie__bench_print_json(const struct bench_table *table, FILE *out) {
    fputs("{\n", out);
    for (uint32_t i = 0; i < table->count; i += 1) {
        const struct bench_series *series = &table->series[i];
        struct bench_summary summary = kelpie__bench_summarise(series);
        fprintf(out,
                "  \"%s\": {\"unit\": \"%s\", \"meaning\": \"%s\", \"median\": %.6g, "
                "\"p10\": %.6g, \"p90\": %.6g,\n    \"values\": [",
                series->name, series->unit, series->meaning, summary.median, summary.low,
                summary.high);
        for (uint32_t k = 0; k < series->count; k += 1) {
            fprintf(out, "%s%.6g", k == 0 ? "" : ", ", series->values[k]);
        }
        fprintf(out, "]}%s\n", i + 1 < table->count ? "," : "");
    }
    fputs("}\n", out);
}
