/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * The library against monitors that behave as their VM's name says. The monitor is this program
 * under another name, spawned by the library as it spawns the real one.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>
#include <kelpie.h>

#include "core/json.h"
#include "core/loop.h"
#include "os/os_call.h"
#include "wire/wire.h"

/* ---- the monitor ----------------------------------------------------------------------------- */

#define FAKE_CONNECTION 5
#define FAKE_EXEC_ID "0123456789abcdef0123456789abcdef"
#define FAKE_FAR_OFFSETS "{\"stdout_offset\":18446744073709551000,\"stdin_offset\":0}"

static struct {
    struct kelpie_wire *wire;
    const char *name;
    bool is_over;
} fake;

static bool is_named(const char *name) {
    return strcmp(fake.name, name) == 0;
}

static void fake_exit(uint32_t channel) {
    char text[256];
    snprintf(text, sizeof(text),
             "{\"channel\":%u,\"id\":\"" FAKE_EXEC_ID "\",\"%s,\"reason\":\"exited\","
             "\"wall_us\":7,\"cpu_us\":5,\"peak_memory_kib\":9}",
             (unsigned)channel, is_named("loud") ? "signal\":200" : "code\":3");
    kelpie__ignore(kelpie__wire_notify(fake.wire, "exec.exit", text));
}

static void fake_exec(const char *params, size_t length) {
    uint64_t channel = 0;
    kelpie__ignore(kelpie__json_find_u64(params, length, "channel", &channel));
    uint32_t stdout_number = kelpie__stream_number((uint32_t)channel, KELPIE_STREAM_STDOUT);
    uint32_t stderr_number = kelpie__stream_number((uint32_t)channel, KELPIE_STREAM_STDERR);
    kelpie__ignore(kelpie__wire_data(fake.wire, stdout_number, 0, "hello\n", 6, true));
    kelpie__ignore(kelpie__wire_data(fake.wire, stderr_number, 0, "", 0, true));
    fake_exit((uint32_t)channel);
}

static void fake_hello(uint64_t id) {
    if (is_named("early")) {
        _exit(1);
    }
    kelpie__wire_result(fake.wire, id,
                        is_named("newer") ? "{\"version\":99}" : "{\"version\":1,\"features\":[]}");
}

static void fake_request(void *context, uint64_t id, const char *method, const char *params,
                         size_t length) {
    kelpie__ignore(context == NULL && params != NULL && length > 0);
    if (strcmp(method, "hello") == 0) {
        fake_hello(id);
    } else if (is_named("dies")) {
        kelpie__ignore(dprintf(STDERR_FILENO, "no ink left\n"));
        _exit(1);
    } else if (is_named("hangs")) {
        return;
    } else if (strcmp(method, "vm.stop") == 0) {
        kelpie__wire_result(fake.wire, id, "{\"graceful\":true,\"unknown\":[1]}");
    } else if (strcmp(method, "vm.health") == 0) {
        kelpie__wire_result(fake.wire, id,
                            "{\"is_healthy\":true,\"state\":\"running\",\"answer_us\":12}");
    } else if (is_named("reborn") && strcmp(method, "vm.pause") == 0) {
        _exit(1);
    } else if (strcmp(method, "exec.attach") == 0) {
        kelpie__wire_result(fake.wire, id, FAKE_FAR_OFFSETS);
    } else if (strcmp(method, "exec.start") == 0) {
        if (is_named("hasty")) {
            fake_exit(1);
        }
        kelpie__wire_result(fake.wire, id, "{\"id\":\"" FAKE_EXEC_ID "\",\"pid\":1}");
        if (!is_named("reborn")) { /* there, a command ends with its input */
            fake_exec(params, length);
        }
    } else if (strcmp(method, "exec.list") == 0) {
        kelpie__wire_result(fake.wire, id,
                            "{\"execs\":[{\"id\":\"" FAKE_EXEC_ID "\",\"is_running\":true}]}");
    } else {
        kelpie__wire_result(fake.wire, id, "{}");
    }
}

static void fake_notification(void *context, const char *method, const char *params,
                              size_t length) {
    kelpie__ignore(context == NULL && method != NULL && params != NULL && length > 0);
}

static void fake_data(void *context, uint32_t stream, uint64_t offset, const void *bytes,
                      size_t count, bool is_end) {
    kelpie__ignore(context == NULL && offset + count > 0 && bytes != NULL);
    uint32_t channel = stream >> KELPIE_STREAM_KIND_BITS;
    bool is_input = stream == kelpie__stream_number(channel, KELPIE_STREAM_STDIN);
    if (is_named("reborn") && is_input && is_end) {
        fake_exit(channel);
    }
}

static void fake_credit(void *context, uint32_t stream, uint64_t acknowledged, uint64_t limit) {
    kelpie__ignore(context == NULL && stream + acknowledged + limit > 0);
}

static void fake_stop(void *context, uint32_t stream) {
    kelpie__ignore(context == NULL && stream > 0);
}

static void fake_drained(void *context) {
    kelpie__ignore(context == NULL);
}

static void fake_closed(void *context, const struct kelpie_error *error) {
    kelpie__ignore(context == NULL && error != NULL);
    fake.is_over = true;
}

static const struct kelpie_wire_callbacks fake_callbacks = {
    .request = fake_request,
    .notification = fake_notification,
    .data = fake_data,
    .credit = fake_credit,
    .stop = fake_stop,
    .drained = fake_drained,
    .closed = fake_closed,
};

static int fake_monitor(const char *name) {
    struct kelpie_os *os = kelpie__os_linux_create();
    struct kelpie_loop *loop = NULL;
    fake.name = name;
    if (os == NULL || kelpie__loop_create(os, 8, &loop, NULL) < 0) {
        return 1;
    }
    const struct kelpie_wire_create create = {.os = os,
                                              .loop = loop,
                                              .handle = FAKE_CONNECTION,
                                              .owns_handle = true,
                                              .callbacks = &fake_callbacks};
    int status = kelpie__wire_create(&create, &fake.wire, NULL);
    while (status == 0 && !fake.is_over) {
        status = kelpie__loop_step(loop, -1, NULL);
    }
    kelpie__wire_destroy(fake.wire);
    kelpie__loop_destroy(loop);
    kelpie__os_linux_destroy(os);
    return status;
}

/* ---- the tests ------------------------------------------------------------------------------- */

static char base[64];
static struct kelpie *library;

static int set_up(void **state) {
    char link[128];
    char self[256] = "";
    assert_non_null(state);
    snprintf(base, sizeof(base), "/tmp/kelpie-test-lib-XXXXXX");
    assert_non_null(mkdtemp(base));
    assert_true(readlink("/proc/self/exe", self, sizeof(self) - 1) > 0);
    snprintf(link, sizeof(link), "%s/kelpie-monitor", base);
    assert_int_equal(symlink(self, link), 0);
    const struct kelpie_open_options options = {
        .struct_size = sizeof(options), .state_directory = base, .libexec_directory = base};
    assert_int_equal(kelpie_open(&options, &library, NULL), 0);
    return 0;
}

static int tear_down(void **state) {
    char command[128];
    assert_non_null(state);
    kelpie_close(library);
    snprintf(command, sizeof(command), "rm -rf %s", base);
    return system(command);
}

static struct kelpie_vm *create(const char *name, enum kelpie_lifetime lifetime) {
    struct kelpie_config *config = NULL;
    struct kelpie_vm *vm = NULL;
    struct kelpie_error error = {0};
    assert_int_equal(kelpie_config_create(library, &config, NULL), 0);
    kelpie_config_set_lifetime(config, lifetime);
    if (kelpie_vm_create(library, name, config, &vm, &error) < 0) {
        fail_msg("%s", error.message);
    }
    kelpie_config_destroy(config);
    return vm;
}

static void assert_says(const struct kelpie_error *error, const char *says) {
    if (strstr(error->message, says) == NULL) {
        fail_msg("\"%s\" does not say \"%s\"", error->message, says);
    }
}

static void test_misuse_is_an_error(void **state) {
    struct kelpie_vm *vm = NULL;
    struct kelpie_vm_info info = {0};
    struct kelpie_health health = {0};
    struct kelpie_exec_result result = {0};
    struct kelpie_error error = {0};
    assert_non_null(state);
    assert_int_equal(kelpie_open(NULL, NULL, &error), KELPIE_E_MISUSE);
    assert_int_equal(kelpie_vm_create(NULL, NULL, NULL, &vm, &error), KELPIE_E_MISUSE);
    assert_int_equal(kelpie_vm_open(library, NULL, &vm, &error), KELPIE_E_MISUSE);
    assert_int_equal(kelpie_vm_start(NULL, 0, &error), KELPIE_E_MISUSE);
    assert_int_equal(kelpie_exec_wait(NULL, 0, NULL, &error), KELPIE_E_MISUSE);
    assert_null(vm);
    vm = create("box", KELPIE_LIFETIME_DETACHED);
    assert_int_equal(kelpie_vm_inspect(vm, &info, &error), KELPIE_E_MISUSE);
    assert_int_equal(kelpie_vm_health(vm, 0, &health, &error), KELPIE_E_MISUSE);
    const struct kelpie_exec_options options = {.struct_size = sizeof(options)};
    assert_int_equal(kelpie_vm_exec(vm, &options, &result, &error), KELPIE_E_MISUSE);
    assert_int_equal(kelpie_vm_start_async(vm, 0, NULL, NULL, NULL, &error), KELPIE_E_MISUSE);
}

static void test_counts_and_pointers_that_disagree_are_misuse(void **state) {
    const char *const argv[] = {"true", NULL};
    struct kelpie_vm_info *list = NULL;
    struct kelpie_exec_result result = {.struct_size = sizeof(result)};
    struct kelpie_error error = {0};
    size_t count = 0;
    assert_non_null(state);
    struct kelpie_vm *vm = create("box", KELPIE_LIFETIME_DETACHED);
    struct kelpie_exec_options options = {
        .struct_size = sizeof(options), .argv = argv, .limit_count = 1};
    assert_int_equal(kelpie_vm_exec(vm, &options, &result, &error), KELPIE_E_MISUSE);
    assert_says(&error, "limits is NULL");
    options.limit_count = 0;
    options.stdin_count = 1;
    assert_int_equal(kelpie_vm_exec(vm, &options, &result, &error), KELPIE_E_MISUSE);
    assert_says(&error, "stdin_bytes is NULL");
    assert_int_equal(kelpie_list(library, &list, &count, NULL), 0);
    kelpie_list_free(library, list, 0); /* nothing of it is known */
    kelpie_list_free(library, list, count);
    kelpie_exec_list_free(library, NULL, 1);
}

static void test_configuration_tells_all_problems(void **state) {
    struct kelpie_config *config = NULL;
    struct kelpie_error error = {0};
    assert_non_null(state);
    assert_int_equal(kelpie_config_create(library, &config, NULL), 0);
    kelpie_config_set_root(config, "/no/such/root");
    assert_int_equal(kelpie_config_check(config, &error), KELPIE_E_ROOT_NOT_FOUND);
    kelpie_config_set_cpus(config, 33);
    kelpie_config_add_environment(config, NULL);
    assert_int_equal(kelpie_config_check(config, &error), KELPIE_E_CONFIG);
    assert_int_equal(kelpie_config_problem_count(config), 2);
    assert_string_equal(kelpie_config_problem(config, 0)->field, "cpus");
    assert_string_equal(kelpie_config_problem(config, 1)->field, "root");
    assert_null(kelpie_config_problem(config, 2));
}

static void test_shorter_and_longer_structures_are_filled_as_far_as_known(void **state) {
    struct {
        struct kelpie_vm_info info;
        uint64_t newer;
    } longer = {.newer = 1};
    struct kelpie_vm_info shorter;
    assert_non_null(state);
    struct kelpie_vm *vm = create("box", KELPIE_LIFETIME_DETACHED);
    longer.info.struct_size = sizeof(longer);
    assert_int_equal(kelpie_vm_inspect(vm, &longer.info, NULL), 0);
    assert_int_equal(longer.info.struct_size, sizeof(longer));
    assert_int_equal(longer.newer, 0);
    assert_string_equal(longer.info.name, "box");
    memset(&shorter, 0x5a, sizeof(shorter));
    shorter.struct_size = offsetof(struct kelpie_vm_info, state);
    assert_int_equal(kelpie_vm_inspect(vm, &shorter, NULL), 0);
    assert_string_equal(shorter.name, "box");
    assert_int_equal(shorter.vmm_pid, 0x5a5a5a5a);
}

static void test_a_vm_that_does_not_run_is_looked_at_without_a_monitor(void **state) {
    struct kelpie_health health = {.struct_size = sizeof(health)};
    struct kelpie_stats stats = {.struct_size = sizeof(stats)};
    struct kelpie_error error = {0};
    struct kelpie_vm_info *list = NULL;
    size_t count = 0;
    assert_non_null(state);
    struct kelpie_vm *vm = create("box", KELPIE_LIFETIME_DETACHED);
    assert_int_equal(kelpie_vm_health(vm, 0, &health, NULL), 0);
    assert_false(health.is_healthy);
    assert_int_equal(health.state, KELPIE_VM_CREATED);
    assert_int_equal(kelpie_vm_stats(vm, &stats, NULL), 0);
    assert_int_equal(kelpie_vm_kill(vm, NULL), 0);
    assert_int_equal(kelpie_vm_stop(vm, 0, NULL, &error), KELPIE_E_STATE);
    assert_says(&error, "created");
    assert_int_equal(kelpie_list(library, &list, &count, NULL), 0);
    assert_int_equal(count, 1);
    kelpie_list_free(library, list, count);
    assert_int_equal(kelpie_vm_delete(vm, false, NULL), 0);
    assert_int_equal(kelpie_vm_delete(vm, false, NULL), 0); /* a second one finishes the first */
    assert_int_equal(kelpie_vm_open(library, "box", &vm, &error), KELPIE_E_NOT_FOUND);
}

static void test_a_damaged_vm_can_be_deleted_and_nothing_else(void **state) {
    char command[160];
    struct kelpie_vm_info info = {.struct_size = sizeof(info)};
    struct kelpie_vm *again = NULL;
    struct kelpie_error error = {0};
    assert_non_null(state);
    kelpie_vm_close(create("box", KELPIE_LIFETIME_DETACHED));
    snprintf(command, sizeof(command), "echo nonsense > %s/vms/box/config.json", base);
    assert_int_equal(system(command), 0);
    assert_int_equal(kelpie_vm_open(library, "box", &again, &error), 0);
    assert_int_equal(kelpie_vm_inspect(again, &info, &error), KELPIE_E_IO);
    assert_says(&error, "damaged");
    assert_int_equal(kelpie_vm_start(again, 0, &error), KELPIE_E_IO);
    assert_int_equal(kelpie_vm_delete(again, false, NULL), 0);
    kelpie_vm_close(again);
    assert_int_equal(kelpie_vm_open(library, "box", &again, NULL), KELPIE_E_NOT_FOUND);
}

static const char *const command_argv[] = {"echo", "hello", NULL};
static const struct kelpie_exec_options command = {.struct_size = sizeof(command),
                                                   .argv = command_argv};

static void test_commands_are_collected(void **state) {
    struct kelpie_exec_result result = {.struct_size = sizeof(result)};
    struct kelpie_stop_result stopped = {0};
    struct kelpie_exec_info *list = NULL;
    struct kelpie_error error = {0};
    size_t count = 0;
    assert_non_null(state);
    struct kelpie_vm *vm = create("good", KELPIE_LIFETIME_OWNED);
    assert_int_equal(kelpie_vm_start(vm, 0, NULL), 0);
    if (kelpie_vm_exec(vm, &command, &result, &error) < 0) {
        fail_msg("%s", error.message);
    }
    assert_string_equal(result.stdout_bytes, "hello\n");
    assert_string_equal(result.stderr_bytes, "");
    assert_int_equal(result.status.exit_code, 3);
    assert_int_equal(result.status.peak_memory_kib, 9);
    kelpie_exec_result_release(&result);
    assert_null(result.stdout_bytes);
    assert_int_equal(kelpie_vm_exec_list(vm, &list, &count, NULL), 0);
    assert_int_equal(count, 1);
    assert_string_equal(list[0].id, FAKE_EXEC_ID);
    kelpie_exec_list_free(library, list, count);
    assert_int_equal(kelpie_vm_stop(vm, 0, &stopped, NULL), 0);
    assert_true(stopped.was_graceful);
    assert_int_equal(error.code, 0);
}

struct seen {
    unsigned count;
    int code;
    int blocking_code; /* of a blocking call inside the callback */
    struct kelpie_vm *vm;
    bool closes_vm;
};

static void on_done(void *context, const struct kelpie_error *error) {
    struct seen *seen = context;
    seen->count += 1;
    seen->code = error == NULL ? 0 : error->code;
    seen->blocking_code = kelpie_vm_kill(seen->vm, NULL);
    kelpie_close(library); /* without effect here */
    if (seen->closes_vm) {
        kelpie_vm_close(seen->vm);
    }
}

static void on_log(void *context, const void *bytes, size_t count) {
    struct seen *seen = context;
    assert_memory_equal(bytes, "x", count);
    seen->count += 1;
    if (seen->count < 40) { /* how deep callbacks are within each other is the embedder's affair */
        assert_int_equal(kelpie_vm_read_log(seen->vm, KELPIE_LOG_CONSOLE, on_log, seen, NULL), 0);
    }
}

static void test_a_log_is_read_within_the_callback_of_another(void **state) {
    char text[160];
    assert_non_null(state);
    struct seen seen = {.vm = create("box", KELPIE_LIFETIME_DETACHED)};
    snprintf(text, sizeof(text), "printf x > %s/vms/box/console.log", base);
    assert_int_equal(system(text), 0);
    assert_int_equal(kelpie_vm_read_log(seen.vm, KELPIE_LOG_CONSOLE, on_log, &seen, NULL), 0);
    assert_int_equal(seen.count, 40);
}

static void wait_for(const struct seen *seen, unsigned count) {
    for (unsigned i = 0; i < 20 && seen->count < count; i += 1) {
        assert_int_equal(kelpie_wait(library, 1000, NULL), 0);
    }
    assert_int_equal(seen->count, count);
}

static void test_callbacks_come_once_and_later(void **state) {
    struct kelpie_exec_result result = {.struct_size = sizeof(result)};
    struct kelpie_health health = {.struct_size = sizeof(health)};
    assert_non_null(state);
    struct kelpie_vm *created = create("box", KELPIE_LIFETIME_DETACHED);
    struct seen seen = {.vm = created};
    assert_int_equal(kelpie_vm_health_async(created, 0, &health, on_done, &seen, NULL, NULL), 0);
    assert_int_equal(seen.count, 0); /* though the answer was known at once */
    assert_int_equal(kelpie_timeout_ms(library), 0);
    wait_for(&seen, 1);
    assert_int_equal(seen.blocking_code, KELPIE_E_MISUSE);
    struct kelpie_vm *vm = create("good", KELPIE_LIFETIME_OWNED);
    seen = (struct seen){.vm = vm};
    assert_int_equal(kelpie_vm_start_async(vm, 0, on_done, &seen, NULL, NULL), 0);
    assert_int_equal(seen.count, 0);
    wait_for(&seen, 1);
    assert_int_equal(kelpie_vm_exec_async(vm, &command, &result, on_done, &seen, NULL, NULL), 0);
    wait_for(&seen, 2);
    assert_int_equal(result.stdout_count, 6);
    kelpie_exec_result_release(&result);
    seen.closes_vm = true;
    assert_int_equal(kelpie_vm_exec_async(vm, &command, &result, on_done, &seen, NULL, NULL), 0);
    wait_for(&seen, 3);
    kelpie_exec_result_release(&result);
}

static void test_closing_ends_operations_without_a_callback(void **state) {
    struct kelpie_exec_result result = {.struct_size = sizeof(result)};
    struct kelpie_health health = {.struct_size = sizeof(health)};
    struct kelpie_vm *vm = create("hangs", KELPIE_LIFETIME_OWNED);
    struct seen seen = {.vm = vm};
    assert_non_null(state);
    assert_int_equal(kelpie_vm_exec_async(vm, &command, &result, on_done, &seen, NULL, NULL), 0);
    assert_int_equal(kelpie_vm_health_async(vm, 0, &health, on_done, &seen, NULL, NULL), 0);
    assert_int_equal(kelpie_wait(library, 10, NULL), 0);
    kelpie_vm_close(vm);
    assert_int_equal(kelpie_wait(library, 10, NULL), 0);
    assert_int_equal(seen.count, 0);
}

static void test_monitors_that_fail_are_explained(void **state) {
    struct kelpie_health health = {.struct_size = sizeof(health)};
    struct kelpie_error error = {0};
    assert_non_null(state);
    struct kelpie_vm *vm = create("dies", KELPIE_LIFETIME_DETACHED);
    assert_int_equal(kelpie_vm_start(vm, 0, &error), KELPIE_E_CRASHED);
    assert_says(&error, "the monitor of VM \"dies\" ended");
    assert_says(&error, "no ink left");
    vm = create("early", KELPIE_LIFETIME_DETACHED);
    assert_int_equal(kelpie_vm_start(vm, 0, &error), KELPIE_E_CRASHED);
    vm = create("newer", KELPIE_LIFETIME_DETACHED);
    assert_int_equal(kelpie_vm_start(vm, 0, &error), KELPIE_E_PROTOCOL);
    assert_says(&error, "version 99, this library 1 to 1");
    vm = create("hangs", KELPIE_LIFETIME_OWNED);
    assert_int_equal(kelpie_vm_health(vm, 1, &health, &error), KELPIE_E_TIMEOUT);
}

/* A monitor that tells of a command before it has answered its start, or of offsets that cannot be,
 * costs its own VM only. */
static void test_monitors_that_break_the_order_are_left(void **state) {
    struct kelpie_exec_result result = {.struct_size = sizeof(result)};
    struct kelpie_exec *exec = NULL;
    struct kelpie_error error = {0};
    assert_non_null(state);
    struct kelpie_vm *vm = create("hasty", KELPIE_LIFETIME_OWNED);
    assert_int_equal(kelpie_vm_exec(vm, &command, &result, &error), KELPIE_E_PROTOCOL);
    assert_says(&error, "before the answer");
    vm = create("loud", KELPIE_LIFETIME_OWNED); /* 128 and this is no exit code */
    assert_int_equal(kelpie_vm_exec(vm, &command, &result, &error), KELPIE_E_PROTOCOL);
    vm = create("far", KELPIE_LIFETIME_OWNED);
    assert_int_equal(
        kelpie_vm_exec_attach(vm, FAKE_EXEC_ID, 0, UINT64_MAX, NULL, NULL, &exec, &error),
        KELPIE_E_MISUSE);
    assert_int_equal(kelpie_vm_exec_attach(vm, FAKE_EXEC_ID, 0, 0, NULL, NULL, &exec, &error),
                     KELPIE_E_PROTOCOL);
    assert_says(&error, "offsets it never had");
    assert_null(exec);
}

static void test_a_handle_that_waits_for_its_answer_is_not_detached(void **state) {
    struct kelpie_exec *exec = NULL;
    assert_non_null(state);
    struct kelpie_vm *vm = create("good", KELPIE_LIFETIME_OWNED);
    struct seen seen = {.vm = vm};
    assert_int_equal(
        kelpie_vm_exec_attach_async(vm, FAKE_EXEC_ID, 0, 0, NULL, &seen, on_done, &exec, NULL), 0);
    assert_int_equal(kelpie_exec_detach(exec, NULL), KELPIE_E_MISUSE);
    wait_for(&seen, 1); /* the handle was still there for it */
    assert_int_equal(seen.code, KELPIE_E_PROTOCOL);
    kelpie_exec_close(exec);
}

static void on_ended(void *context, struct kelpie_exec *exec,
                     const struct kelpie_exec_status *status, const struct kelpie_error *error) {
    struct seen *seen = context;
    assert_true(exec != NULL && (status == NULL) == (error != NULL));
    seen->count += 1;
    seen->code = error == NULL ? 0 : error->code;
}

/* The channels of a new connection have the numbers of the last one's. */
static void test_a_command_of_a_lost_connection_touches_no_other(void **state) {
    const char *const argv[] = {"cat", NULL};
    const struct kelpie_exec_callbacks callbacks = {.struct_size = sizeof(callbacks),
                                                    .ended = on_ended};
    const struct kelpie_exec_options options = {
        .struct_size = sizeof(options), .argv = argv, .has_stdin = true};
    struct kelpie_health health = {.struct_size = sizeof(health)};
    struct kelpie_exec *execs[2] = {NULL, NULL};
    struct seen seen[2] = {{0}, {0}};
    assert_non_null(state);
    struct kelpie_vm *vm = create("reborn", KELPIE_LIFETIME_DETACHED);
    for (unsigned i = 0; i < 2; i += 1) {
        assert_int_equal(kelpie_vm_start(vm, 0, NULL), 0);
        assert_int_equal(kelpie_vm_exec_start(vm, &options, &callbacks, &seen[i], &execs[i], NULL),
                         0);
        if (i == 0) {
            assert_int_equal(kelpie_vm_pause(vm, NULL), KELPIE_E_CRASHED);
            wait_for(&seen[0], 1);
        }
    }
    assert_int_equal(kelpie_exec_close_stdin(execs[0], NULL), 0);
    kelpie_exec_pause_output(execs[0]);
    kelpie_exec_resume_output(execs[0]);
    assert_int_equal(kelpie_vm_health(vm, 0, &health, NULL), 0);
    assert_int_equal(kelpie_vm_health(vm, 0, &health, NULL), 0); /* what came before is here */
    assert_int_equal(seen[1].count, 0);
}

static void test_a_missing_monitor_leaves_nothing(void **state) {
    char path[128];
    struct kelpie_vm *vm = NULL;
    struct kelpie_vm_info *list = NULL;
    struct kelpie_error error = {0};
    size_t count = 1;
    assert_non_null(state);
    snprintf(path, sizeof(path), "%s/kelpie-monitor", base);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(kelpie_vm_create(library, "box", NULL, &vm, &error), KELPIE_E_UNAVAILABLE);
    assert_says(&error, "KELPIE_LIBEXEC");
    assert_int_equal(kelpie_list(library, &list, &count, NULL), 0);
    assert_int_equal(count, 0);
}

/* The simulator is a library of its own; where it is not, the way out is named. */
static void test_a_missing_simulator_is_unavailable(void **state) {
    struct kelpie_open_options options = {.struct_size = sizeof(options),
                                          .state_directory = "sim:seed=1"};
    struct kelpie *kelpie = NULL;
    struct kelpie_error error = {0};
    (void)state;
    assert_int_equal(setenv("KELPIE_SIM_LIBRARY", "/nonexistent/libkelpie-sim.so", 1), 0);
    assert_int_equal(kelpie_open(&options, &kelpie, &error), KELPIE_E_UNAVAILABLE);
    assert_null(kelpie);
    assert_non_null(strstr(error.message, "/nonexistent/libkelpie-sim.so"));
    assert_non_null(strstr(error.message, "install libkelpie-sim"));
    assert_string_equal(error.field, "state_directory");
    assert_int_equal(setenv("KELPIE_STATE_DIR", "sim:", 1), 0);
    assert_int_equal(kelpie_open(NULL, &kelpie, &error), KELPIE_E_UNAVAILABLE);
    assert_int_equal(unsetenv("KELPIE_STATE_DIR"), 0);
    assert_int_equal(unsetenv("KELPIE_SIM_LIBRARY"), 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(int argc, char **argv) {
    if (argc > 2 && strcmp(argv[0], "kelpie-monitor") == 0) {
        return fake_monitor(argv[argc - 1]);
    }
    const struct CMUnitTest tests[] = {
        TEST(test_misuse_is_an_error),
        TEST(test_counts_and_pointers_that_disagree_are_misuse),
        TEST(test_a_log_is_read_within_the_callback_of_another),
        TEST(test_configuration_tells_all_problems),
        TEST(test_shorter_and_longer_structures_are_filled_as_far_as_known),
        TEST(test_a_vm_that_does_not_run_is_looked_at_without_a_monitor),
        TEST(test_a_damaged_vm_can_be_deleted_and_nothing_else),
        TEST(test_commands_are_collected),
        TEST(test_callbacks_come_once_and_later),
        TEST(test_closing_ends_operations_without_a_callback),
        TEST(test_monitors_that_fail_are_explained),
        TEST(test_monitors_that_break_the_order_are_left),
        TEST(test_a_handle_that_waits_for_its_answer_is_not_detached),
        TEST(test_a_command_of_a_lost_connection_touches_no_other),
        TEST(test_a_missing_monitor_leaves_nothing),
        TEST(test_a_missing_simulator_is_unavailable),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
