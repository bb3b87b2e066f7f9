/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * tail: 10,000 commands one after the other: how late the latest are, and whether the last thousand
 * cost more than the first. parallel: 16 commands at once, against the guest's own rate of fork and
 * exec, in a shell's loop. queue: 1 to 1,000 commands asked for together, 16 of them at once.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "side.h"

#define TAIL_COMMANDS 10000u
#define TAIL_PART 1000u
#define TAIL_COLD 100u
#define PARALLEL_COUNT 16u
#define PARALLEL_COMMANDS 160u
#define QUEUE_COMMANDS_MAX 1000u
#define QUEUE_ROUNDS_MAX 5u

static int compare(const void *a, const void *b) {
    double left = *(const double *)a;
    double right = *(const double *)b;
    return (left > right) - (left < right);
}

/* Sorts them. */
static double quantile(double *values, uint32_t count, uint32_t percent) {
    qsort(values, count, sizeof(values[0]), compare);
    return values[(uint64_t)count * percent / 100];
}

void kelpie__bench_tail(const struct bench_host *host) {
    double *took_ms = malloc(TAIL_COMMANDS * sizeof(*took_ms));
    if (took_ms == NULL) {
        kelpie__bench_die("no memory");
    }
    struct kelpie_vm *vm = kelpie__bench_side_start(host, &(struct bench_side_order){0});
    /* Behind those that are cold, for QEMU translates; a part later; before the last part. */
    static const uint32_t looks[3] = {TAIL_COLD, TAIL_COLD + TAIL_PART, TAIL_COMMANDS - TAIL_PART};
    double cpu_ms[3] = {0};
    for (uint32_t i = 0, look = 0; i < TAIL_COMMANDS; i += 1) {
        if (look < 3 && i == looks[look]) {
            cpu_ms[look] = kelpie__bench_side_cpu_ms(vm);
            look += 1;
        }
        double begun_ms = kelpie__bench_now_ms();
        kelpie__bench_side_hello(vm);
        took_ms[i] = kelpie__bench_now_ms() - begun_ms;
    }
    double end_ms = kelpie__bench_side_cpu_ms(vm);
    kelpie__bench_side_end(vm);
    kelpie__bench_tell("tail/first-cpu", "ms", (cpu_ms[1] - cpu_ms[0]) / TAIL_PART);
    kelpie__bench_tell("tail/last-cpu", "ms", (end_ms - cpu_ms[2]) / TAIL_PART);
    kelpie__bench_tell("tail/first", "ms", quantile(took_ms + TAIL_COLD, TAIL_PART, 50));
    kelpie__bench_tell("tail/last", "ms",
                       quantile(took_ms + TAIL_COMMANDS - TAIL_PART, TAIL_PART, 50));
    kelpie__bench_tell("tail/p99", "ms", quantile(took_ms, TAIL_COMMANDS, 99));
    kelpie__bench_tell("tail/p50", "ms", quantile(took_ms, TAIL_COMMANDS, 50));
    free(took_ms);
}

/* ---- parallel -------------------------------------------------------------------------------- */

struct parallel {
    const struct bench_host *host;
    struct kelpie_vm *vm;
    struct bench_raw raw;
    struct kelpie_exec_result results[PARALLEL_COUNT];
    uint32_t command_count; /* of all that are to run */
    uint32_t started_count;
    uint32_t ended_count;
};

/* One of the commands that are under way. */
struct place {
    struct parallel *parallel;
    uint32_t index;
};

static void parallel_start(struct place *place);

static void parallel_ended(void *context, const struct kelpie_error *error) {
    struct place *place = context;
    struct parallel *parallel = place->parallel;
    struct kelpie_exec_result *result = &parallel->results[place->index];
    if (error != NULL || result->status.exit_code != 0) {
        kelpie__bench_die("true: %s", error != NULL ? error->message : "it failed");
    }
    kelpie_exec_result_release(result);
    parallel->ended_count += 1;
    if (parallel->started_count < parallel->command_count) {
        parallel_start(place);
    }
}

static void parallel_start(struct place *place) {
    static const char *const argv[] = {"/bin/true", NULL};
    const struct kelpie_exec_options options = {.struct_size = sizeof(options), .argv = argv};
    struct parallel *parallel = place->parallel;
    struct kelpie_exec_result *result = &parallel->results[place->index];
    struct kelpie_error error = {0};
    *result = (struct kelpie_exec_result){.struct_size = sizeof(*result)};
    parallel->started_count += 1;
    kelpie__bench_must(
        kelpie_vm_exec_async(parallel->vm, &options, result, parallel_ended, place, NULL, &error),
        &error, "true");
}

/* Gives the time that they took. */
static double parallel_run(struct parallel *parallel, uint32_t command_count) {
    struct place places[PARALLEL_COUNT];
    struct kelpie_error error = {0};
    parallel->command_count = command_count;
    parallel->started_count = 0;
    parallel->ended_count = 0;
    double begun_ms = kelpie__bench_now_ms();
    for (uint32_t i = 0; i < PARALLEL_COUNT && i < command_count; i += 1) {
        places[i] = (struct place){.parallel = parallel, .index = i};
        parallel_start(&places[i]);
    }
    while (parallel->ended_count < command_count) { /* bound: the commands */
        kelpie__bench_must(kelpie_wait(parallel->host->kelpie, KELPIE_TIMEOUT_NONE, &error), &error,
                           "wait");
    }
    return kelpie__bench_now_ms() - begun_ms;
}

static void parallel_mine(void *context) {
    double took_ms = parallel_run(context, PARALLEL_COMMANDS);
    kelpie__bench_tell("parallel/kelpie", "1/s", PARALLEL_COMMANDS * 1e3 / took_ms);
}

static void parallel_raw(void *context) {
    struct parallel *parallel = context;
    char script[128];
    snprintf(script, sizeof(script), "i=0; while [ $i -lt %u ]; do /bin/true; i=$((i+1)); done",
             PARALLEL_COMMANDS);
    const char *const argv[] = {"/bin/sh", "-c", script, NULL};
    double begun_ms = kelpie__bench_now_ms();
    kelpie__bench_raw_exec(&parallel->raw, &(struct bench_raw_command){.argv = argv});
    double took_ms = kelpie__bench_now_ms() - begun_ms;
    kelpie__bench_tell("parallel/raw", "1/s", PARALLEL_COMMANDS * 1e3 / took_ms);
}

void kelpie__bench_parallel(const struct bench_host *host) {
    struct parallel parallel = {.host = host};
    parallel.vm = kelpie__bench_side_start(host, &(struct bench_side_order){0});
    kelpie__bench_raw_start(host, &(struct bench_raw_order){0}, &parallel.raw);
    for (uint32_t i = 0; kelpie__bench_goes_on(host, i); i += 1) {
        kelpie__bench_both(i, parallel_mine, parallel_raw, &parallel);
    }
    kelpie__bench_side_end(parallel.vm);
    kelpie__bench_raw_kill(&parallel.raw);
}

/* ---- queue ----------------------------------------------------------------------------------- */

/* What one of so many costs; as many are run of each, so that they are measured as well. */
static void queue_round(struct parallel *parallel, uint32_t count) {
    char series[32];
    double took_ms = 0;
    snprintf(series, sizeof(series), "queue/%u", count);
    for (uint32_t i = 0; i < QUEUE_COMMANDS_MAX / 10; i += count) {
        took_ms += parallel_run(parallel, count);
    }
    uint32_t run_count = count < QUEUE_COMMANDS_MAX / 10 ? QUEUE_COMMANDS_MAX / 10 : count;
    kelpie__bench_tell(series, "ms", took_ms / run_count);
}

void kelpie__bench_queue(const struct bench_host *host) {
    struct parallel parallel = {.host = host};
    parallel.vm = kelpie__bench_side_start(host, &(struct bench_side_order){0});
    parallel_run(&parallel, PARALLEL_COMMANDS); /* warm */
    for (uint32_t i = 0; i < QUEUE_ROUNDS_MAX && kelpie__bench_goes_on(host, i); i += 1) {
        for (uint32_t count = 1; count <= QUEUE_COMMANDS_MAX; count *= 10) {
            queue_round(&parallel, count);
        }
    }
    kelpie__bench_side_end(parallel.vm);
}
