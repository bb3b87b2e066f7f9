/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Series of measurements and what is said of them: the median of rounds, and how far they lie
 * apart. Time is this process's CPU time, not the clock on the wall: a machine that others use at
 * the same moment still disturbs it through its caches, which is why each round of a series is
 * measured beside a round of `kelpie__bench_reference`, a fixed piece of work.
 */
#ifndef KELPIE_BENCH_MEASURE_H
#define KELPIE_BENCH_MEASURE_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#define BENCH_ROUNDS_MAX 256u
#define BENCH_SERIES_MAX 40u

struct bench_series {
    const char *name; /* a word, for JSON */
    const char *unit;
    const char *meaning;
    uint32_t count;
    double values[BENCH_ROUNDS_MAX];
};

struct bench_summary {
    double median;
    double low; /* of the middle 80 % */
    double high;
    double spread; /* (high - low) / median */
};

struct bench_table {
    uint32_t count;
    struct bench_series series[BENCH_SERIES_MAX];
};

int64_t kelpie__bench_cpu_ns(void);
/* CPU time in ns of a fixed piece of work: hashing, copying and following pointers, as a
 * simulator's day is. */
double kelpie__bench_reference(void);

/* A new series; the names are borrowed for the table's life. */
struct bench_series *kelpie__bench_series(struct bench_table *table, const char *name,
                                          const char *unit, const char *meaning);
const struct bench_series *kelpie__bench_find(const struct bench_table *table, const char *name);
void kelpie__bench_add(struct bench_series *series, double value);
struct bench_summary kelpie__bench_summarise(const struct bench_series *series);

void kelpie__bench_print(const struct bench_table *table, FILE *out);
/* One object: a member for each series with its summary and all its values. */
void kelpie__bench_print_json(const struct bench_table *table, FILE *out);

#endif
