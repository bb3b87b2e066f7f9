/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Embedding: Kelpie as one descriptor among others in a program's own poll(2) loop. Nothing blocks:
 * the VM boots, two commands run at the same time, and it stops, while the loop also serves a timer
 * of the program's own.
 */
#include <kelpie.h>
#include <poll.h>
#include <stdio.h>

#define TICK_MS 200

enum { COMMAND_COUNT = 2 };

struct program {
    struct kelpie *kelpie;
    struct kelpie_vm *vm;
    struct kelpie_exec_result results[COMMAND_COUNT];
    struct kelpie_stop_result stopped;
    int left; /* commands that run */
    int tick_count;
    int status;
    bool is_done;
};

static void finish(struct program *program, int status, const char *message) {
    program->status = status;
    program->is_done = true;
    if (status != 0) {
        fprintf(stderr, "%s: %s\n", kelpie_code_name(status), message);
    }
}

static void on_stopped(void *context, const struct kelpie_error *error) {
    struct program *program = context;
    if (error == NULL) {
        printf("stopped %s\n", program->stopped.was_graceful ? "gracefully" : "by force");
    }
    finish(program, error != NULL ? error->code : 0, error != NULL ? error->message : "");
}

static void on_command(void *context, const struct kelpie_error *error) {
    struct program *program = context;
    struct kelpie_error start_error = {0};
    program->left -= 1;
    if (error != NULL) {
        finish(program, error->code, error->message);
        return;
    }
    if (program->left > 0 || program->is_done) {
        return;
    }
    for (int i = 0; i < COMMAND_COUNT; i += 1) {
        printf("command %d: %s", i, program->results[i].stdout_bytes);
    }
    int status = kelpie_vm_stop_async(program->vm, 0, &program->stopped, on_stopped, program, NULL,
                                      &start_error);
    if (status < 0) {
        finish(program, status, start_error.message);
    }
}

static void on_started(void *context, const struct kelpie_error *error) {
    static const char *const commands[COMMAND_COUNT][4] = {
        {"sh", "-c", "sleep 0.3; echo slow", NULL},
        {"sh", "-c", "echo quick", NULL},
    };
    struct program *program = context;
    struct kelpie_error start_error = {0};
    if (error != NULL) {
        finish(program, error->code, error->message);
        return;
    }
    for (int i = 0; i < COMMAND_COUNT; i += 1) {
        const struct kelpie_exec_options options = {.struct_size = sizeof(options),
                                                    .argv = commands[i]};
        program->results[i].struct_size = sizeof(program->results[i]);
        int status = kelpie_vm_exec_async(program->vm, &options, &program->results[i], on_command,
                                          program, NULL, &start_error);
        if (status < 0) {
            finish(program, status, start_error.message);
            return;
        }
        program->left += 1;
    }
}

/* The earlier of what Kelpie needs and the program's own tick. */
static int poll_timeout_ms(const struct program *program) {
    int kelpie_ms = kelpie_timeout_ms(program->kelpie);
    return kelpie_ms >= 0 && kelpie_ms < TICK_MS ? kelpie_ms : TICK_MS;
}

static void run(struct program *program) {
    struct kelpie_error error = {0};
    int status = kelpie_vm_start_async(program->vm, 0, on_started, program, NULL, &error);
    if (status < 0) {
        finish(program, status, error.message);
    }
    while (!program->is_done) {
        struct pollfd handles[] = {{.fd = kelpie_fd(program->kelpie), .events = POLLIN}};
        if (poll(handles, 1, poll_timeout_ms(program)) == 0) {
            program->tick_count += 1; /* here the program does what else it has to do */
        }
        status = kelpie_dispatch(program->kelpie, &error);
        if (status < 0) {
            finish(program, status, error.message);
        }
    }
}

int main(void) {
    struct program program = {0};
    struct kelpie_config *config = NULL;
    struct kelpie_error error = {0};
    int status = kelpie_open(NULL, &program.kelpie, &error);
    if (status == 0) {
        status = kelpie_config_create(program.kelpie, &config, &error);
    }
    if (status == 0) {
        kelpie_config_set_ephemeral(config, true);
        kelpie_config_set_memory_mib(config, 256);
        status = kelpie_vm_create(program.kelpie, NULL, config, &program.vm, &error);
    }
    if (status < 0) {
        finish(&program, status, error.message);
    } else {
        run(&program);
    }
    for (int i = 0; i < COMMAND_COUNT; i += 1) {
        kelpie_exec_result_release(&program.results[i]);
    }
    kelpie_config_destroy(config);
    kelpie_close(program.kelpie);
    return program.status == 0 ? 0 : 1;
}
