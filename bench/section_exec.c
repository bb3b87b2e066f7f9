/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * exec: one command after another in a VM that is warm. stream: what a command writes and reads.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "side.h"

#define EXEC_BLOCK 50u /* commands of a round */
#define EXEC_ROUNDS_MAX 200u
#define EXEC_COMMANDS 3u

struct exec {
    const struct bench_host *host;
    struct kelpie_vm *vm;
    struct bench_raw raw;
    char *bytes; /* what goes into a command */
    size_t stream_bytes;
    char stream_count[24]; /* dd's option: its pieces */
    uint64_t output_bytes;
    bool has_ended;
    uint32_t count;
    double mine_ms; /* of the last round, through the library */
    double all_ms[EXEC_ROUNDS_MAX * EXEC_BLOCK];
};

static int compare(const void *a, const void *b) {
    double left = *(const double *)a;
    double right = *(const double *)b;
    return (left > right) - (left < right);
}

static double median(const double *values, uint32_t count) {
    double sorted[EXEC_BLOCK];
    memcpy(sorted, values, count * sizeof(sorted[0]));
    qsort(sorted, count, sizeof(sorted[0]), compare);
    return sorted[count / 2];
}

static void exec_mine(void *context) {
    struct exec *exec = context;
    double *block = &exec->all_ms[exec->count];
    for (uint32_t i = 0; i < EXEC_BLOCK; i += 1) {
        double begun_ms = kelpie__bench_now_ms();
        kelpie__bench_side_hello(exec->vm);
        block[i] = kelpie__bench_now_ms() - begun_ms;
    }
    exec->count += EXEC_BLOCK;
    exec->mine_ms = median(block, EXEC_BLOCK);
    kelpie__bench_tell("exec/kelpie", "ms", exec->mine_ms);
}

static void exec_raw(void *context) {
    struct exec *exec = context;
    double block[EXEC_BLOCK];
    for (uint32_t i = 0; i < EXEC_BLOCK; i += 1) {
        double begun_ms = kelpie__bench_now_ms();
        kelpie__bench_raw_hello(&exec->raw);
        block[i] = kelpie__bench_now_ms() - begun_ms;
    }
    kelpie__bench_tell("exec/raw", "ms", median(block, EXEC_BLOCK));
}

static void exec_echo(struct exec *exec) {
    double block[EXEC_BLOCK];
    for (uint32_t i = 0; i < EXEC_BLOCK; i += 1) {
        double begun_ms = kelpie__bench_now_ms();
        kelpie__bench_raw_exec(&exec->raw, &(struct bench_raw_command){.is_echo = true});
        block[i] = kelpie__bench_now_ms() - begun_ms;
    }
    kelpie__bench_tell("exec/echo", "ms", median(block, EXEC_BLOCK));
}

static void exec_command(struct exec *exec) {
    char program[BENCH_PATH_BYTES_MAX];
    kelpie__bench_path(program, exec->host->programs, "../src/kelpie");
    const char *const argv[] = {program,
                                "--state-dir",
                                exec->host->directory,
                                "exec",
                                kelpie_vm_name(exec->vm),
                                "--",
                                "/bin/echo",
                                "hello",
                                NULL};
    double block[EXEC_COMMANDS];
    for (uint32_t i = 0; i < EXEC_COMMANDS; i += 1) {
        double begun_ms = kelpie__bench_now_ms();
        kelpie__bench_spawn(argv);
        block[i] = kelpie__bench_now_ms() - begun_ms;
    }
    double command_ms = median(block, EXEC_COMMANDS);
    kelpie__bench_tell("exec/command", "ms", command_ms);
    kelpie__bench_tell("exec/beyond-library", "ms", command_ms - exec->mine_ms);
}

static void exec_begin(struct exec *exec, const struct bench_host *host) {
    *exec = (struct exec){.host = host};
    exec->vm = kelpie__bench_side_start(host, &(struct bench_side_order){0});
    kelpie__bench_raw_start(host, &(struct bench_raw_order){0}, &exec->raw);
    for (uint32_t i = 0; i < EXEC_BLOCK; i += 1) { /* warm */
        kelpie__bench_side_hello(exec->vm);
        kelpie__bench_raw_hello(&exec->raw);
    }
}

static void exec_end(struct exec *exec) {
    kelpie__bench_side_end(exec->vm);
    kelpie__bench_raw_kill(&exec->raw);
}

void kelpie__bench_exec(const struct bench_host *host) {
    struct exec *exec = malloc(sizeof(*exec));
    if (exec == NULL) {
        kelpie__bench_die("no memory");
    }
    exec_begin(exec, host);
    for (uint32_t i = 0; i < EXEC_ROUNDS_MAX && kelpie__bench_goes_on(host, i); i += 1) {
        kelpie__bench_both(i, exec_mine, exec_raw, exec);
        exec_echo(exec);
        exec_command(exec);
    }
    qsort(exec->all_ms, exec->count, sizeof(exec->all_ms[0]), compare);
    kelpie__bench_tell("exec/p99", "ms", exec->all_ms[exec->count - 1 - exec->count / 100]);
    kelpie__bench_tell("exec/p50", "ms", exec->all_ms[exec->count / 2]);
    exec_end(exec);
    free(exec);
}

/* ---- stream ---------------------------------------------------------------------------------- */

static void stream_output(void *context, struct kelpie_exec *handle, enum kelpie_stream stream,
                          const void *bytes, size_t count) {
    struct exec *exec = context;
    (void)handle;
    (void)bytes;
    exec->output_bytes += stream == KELPIE_STDOUT ? count : 0;
}

static void stream_ended(void *context, struct kelpie_exec *handle,
                         const struct kelpie_exec_status *status,
                         const struct kelpie_error *error) {
    struct exec *exec = context;
    (void)handle;
    (void)error;
    exec->has_ended = status != NULL && status->exit_code == 0;
}

static double mib_per_second(const struct exec *exec, double begun_ms) {
    return (double)exec->stream_bytes / (1 << 20) / (kelpie__bench_now_ms() - begun_ms) * 1e3;
}

/* Programs that do next to nothing for each byte (busybox' head goes byte by byte, which takes
 * longer under TCG than all the way to the client), in pieces of a pipe's size. */
#define STREAM_PIECE "65536"
#define STREAM_PIECES_PER_MIB 16u
static const char *const stream_reader[] = {"/bin/dd", "of=/dev/null", "bs=" STREAM_PIECE,
                                            "status=none", NULL};

static void stream_mine(void *context) {
    struct exec *exec = context;
    struct kelpie_exec *handle = NULL;
    struct kelpie_error error = {0};
    const char *const writer[] = {"/bin/dd",          "if=/dev/zero", "bs=" STREAM_PIECE,
                                  exec->stream_count, "status=none",  NULL};
    const struct kelpie_exec_options options = {.struct_size = sizeof(options), .argv = writer};
    const struct kelpie_exec_callbacks callbacks = {
        .struct_size = sizeof(callbacks), .output = stream_output, .ended = stream_ended};
    exec->output_bytes = 0;
    exec->has_ended = false;
    double begun_ms = kelpie__bench_now_ms();
    kelpie__bench_must(kelpie_vm_exec_start(exec->vm, &options, &callbacks, exec, &handle, &error),
                       &error, "dd");
    kelpie__bench_must(kelpie_exec_wait(handle, 0, NULL, &error), &error, "dd");
    kelpie__bench_tell("stream/out-kelpie", "MiB/s", mib_per_second(exec, begun_ms));
    kelpie_exec_close(handle);
    if (exec->output_bytes != exec->stream_bytes || !exec->has_ended) {
        kelpie__bench_die("%llu bytes of output", (unsigned long long)exec->output_bytes);
    }
    struct kelpie_exec_result result = {.struct_size = sizeof(result)};
    const struct kelpie_exec_options reading = {.struct_size = sizeof(reading),
                                                .argv = stream_reader,
                                                .stdin_bytes = exec->bytes,
                                                .stdin_count = exec->stream_bytes};
    begun_ms = kelpie__bench_now_ms();
    kelpie__bench_must(kelpie_vm_exec(exec->vm, &reading, &result, &error), &error, "dd");
    kelpie__bench_tell("stream/in-kelpie", "MiB/s", mib_per_second(exec, begun_ms));
    kelpie_exec_result_release(&result);
}

static void stream_raw(void *context) {
    struct exec *exec = context;
    double begun_ms = kelpie__bench_now_ms();
    const char *const writer[] = {"/bin/dd",          "if=/dev/zero", "bs=" STREAM_PIECE,
                                  exec->stream_count, "status=none",  NULL};
    uint64_t count =
        kelpie__bench_raw_exec(&exec->raw, &(struct bench_raw_command){.argv = writer});
    kelpie__bench_tell("stream/out-raw", "MiB/s", mib_per_second(exec, begun_ms));
    if (count != exec->stream_bytes) {
        kelpie__bench_die("%llu bytes of raw output", (unsigned long long)count);
    }
    begun_ms = kelpie__bench_now_ms();
    kelpie__bench_raw_exec(
        &exec->raw, &(struct bench_raw_command){.argv = stream_reader,
                                                .input = exec->bytes,
                                                .input_bytes = (uint32_t)exec->stream_bytes});
    kelpie__bench_tell("stream/in-raw", "MiB/s", mib_per_second(exec, begun_ms));
}

void kelpie__bench_stream(const struct bench_host *host) {
    struct exec *exec = malloc(sizeof(*exec));
    if (exec == NULL) {
        kelpie__bench_die("no memory");
    }
    exec_begin(exec, host);
    exec->stream_bytes = (size_t)host->stream_mib << 20;
    snprintf(exec->stream_count, sizeof(exec->stream_count), "count=%u",
             host->stream_mib * STREAM_PIECES_PER_MIB);
    exec->bytes = calloc(1, exec->stream_bytes);
    if (exec->bytes == NULL) {
        kelpie__bench_die("no memory");
    }
    for (uint32_t i = 0; kelpie__bench_goes_on(host, i); i += 1) {
        kelpie__bench_both(i, stream_mine, stream_raw, exec);
    }
    exec_end(exec);
    free(exec->bytes);
    free(exec);
}
