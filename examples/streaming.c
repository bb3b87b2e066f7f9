/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Streaming: a command's input is written while its output is read, with back-pressure both ways.
 * Twenty thousand lines go through `sort -rn` in a microVM; what comes back is counted, never kept.
 */
#include <kelpie.h>
#include <stdio.h>
#include <string.h>

#define LINE_COUNT 20000u

struct pipeline {
    unsigned written; /* lines that the guest has taken */
    char line[32];    /* the one that is on its way */
    size_t line_offset;
    uint64_t output_count;
    int exit_code;
    bool has_ended;
};

/* Writes until stdin takes no more; `writable` then calls again. */
static void feed(struct pipeline *pipeline, struct kelpie_exec *exec) {
    while (pipeline->written < LINE_COUNT) {
        size_t length =
            (size_t)snprintf(pipeline->line, sizeof(pipeline->line), "%u\n", pipeline->written);
        size_t taken = 0;
        if (kelpie_exec_write(exec, pipeline->line + pipeline->line_offset,
                              length - pipeline->line_offset, &taken, NULL) < 0) {
            return; /* it has ended without reading all: `ended` says how */
        }
        pipeline->line_offset += taken;
        if (pipeline->line_offset < length) {
            return;
        }
        pipeline->line_offset = 0;
        pipeline->written += 1;
    }
    if (kelpie_exec_close_stdin(exec, NULL) < 0) {
        return; /* it has ended already */
    }
}

static void on_writable(void *context, struct kelpie_exec *exec) {
    feed(context, exec);
}

static void on_output(void *context, struct kelpie_exec *exec, enum kelpie_stream stream,
                      const void *bytes, size_t count) {
    struct pipeline *pipeline = context;
    (void)exec;
    if (stream == KELPIE_STDERR) {
        fwrite(bytes, 1, count, stderr);
    } else {
        pipeline->output_count += count;
    }
}

static void on_ended(void *context, struct kelpie_exec *exec,
                     const struct kelpie_exec_status *status, const struct kelpie_error *error) {
    struct pipeline *pipeline = context;
    (void)exec;
    pipeline->has_ended = true;
    pipeline->exit_code = status != NULL ? status->exit_code : 1;
    if (error != NULL) {
        fprintf(stderr, "%s\n", error->message);
    }
}

static int stream(struct kelpie_vm *vm, struct pipeline *pipeline, struct kelpie_error *error) {
    const char *const argv[] = {"sort", "-rn", NULL};
    const struct kelpie_exec_options options = {
        .struct_size = sizeof(options), .argv = argv, .has_stdin = true};
    const struct kelpie_exec_callbacks callbacks = {.struct_size = sizeof(callbacks),
                                                    .output = on_output,
                                                    .writable = on_writable,
                                                    .ended = on_ended};
    struct kelpie_exec *exec = NULL;
    int status = kelpie_vm_exec_start(vm, &options, &callbacks, pipeline, &exec, error);
    if (status < 0) {
        return status;
    }
    feed(pipeline, exec);
    status = kelpie_exec_wait(exec, 0, NULL, error); /* the callbacks are called in here */
    kelpie_exec_close(exec);
    return status;
}

int main(void) {
    struct kelpie *kelpie = NULL;
    struct kelpie_config *config = NULL;
    struct kelpie_vm *vm = NULL;
    struct kelpie_error error = {0};
    struct pipeline pipeline = {0};
    int status = kelpie_open(NULL, &kelpie, &error);
    if (status == 0) {
        status = kelpie_config_create(kelpie, &config, &error);
    }
    if (status == 0) {
        kelpie_config_set_ephemeral(config, true);
        status = kelpie_vm_create(kelpie, NULL, config, &vm, &error);
    }
    if (status == 0) {
        status = kelpie_vm_start(vm, 0, &error);
    }
    if (status == 0) {
        status = stream(vm, &pipeline, &error);
    }
    if (status == 0) {
        printf("%u lines in, %llu bytes out, exit code %d\n", pipeline.written,
               (unsigned long long)pipeline.output_count, pipeline.exit_code);
    } else {
        fprintf(stderr, "%s: %s\n", kelpie_code_name(status), error.message);
    }
    kelpie_config_destroy(config);
    kelpie_close(kelpie);
    return status == 0 && pipeline.has_ended ? pipeline.exit_code : 1;
}
