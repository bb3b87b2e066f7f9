/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * See workload.h. An operation is drawn by its number alone, whatever the ones before gave: a call
 * that is refused is compared, too.
 */
#include "workload.h"

#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#define WORKLOAD_OPERATIONS 14u
#define WORKLOAD_MEMORY_MIB 256u
#define WORKLOAD_BOOT_MS 60000u
#define WORKLOAD_COMMAND_MS 20000u
#define WORKLOAD_SHORT_MS 300u /* a timeout that a command runs into */
#define WORKLOAD_WAIT_MS 50u
#define WORKLOAD_WAITS_MAX 400u
#define WORKLOAD_OUTPUT_SHOWN 60

enum operation {
    OPERATION_CREATE,
    OPERATION_START,
    OPERATION_STOP,
    OPERATION_KILL,
    OPERATION_PAUSE,
    OPERATION_RESUME,
    OPERATION_COMMAND,
    OPERATION_DELETE,
    OPERATION_FORCE_DELETE,
    OPERATION_VMM_DIES,
    OPERATION_GUEST_PANICS,
    OPERATION_GUEST_RESETS,
    OPERATION_COUNT,
};

/* How often each is drawn. */
static const uint32_t weights[OPERATION_COUNT] = {
    [OPERATION_CREATE] = 2,   [OPERATION_START] = 5,        [OPERATION_STOP] = 2,
    [OPERATION_KILL] = 1,     [OPERATION_PAUSE] = 3,        [OPERATION_RESUME] = 3,
    [OPERATION_COMMAND] = 12, [OPERATION_DELETE] = 1,       [OPERATION_FORCE_DELETE] = 1,
    [OPERATION_VMM_DIES] = 2, [OPERATION_GUEST_PANICS] = 1, [OPERATION_GUEST_RESETS] = 1,
};

/* What is run; where the output depends on what was run before, so much the better. */
static const char *const commands[] = {
    "echo word",
    "exit 7",
    "echo out; echo err >&2; exit 3",
    "cat /tmp/kept 2>/dev/null || echo none",
    "echo more >>/tmp/kept; wc -l </tmp/kept",
    "kill -9 $$",
    "sleep 100",
    "x=0; while [ $x -lt 300 ]; do echo line $x; x=$((x+1)); done",
    "pwd; id -u",
    "/no/such/program",
};

#define COMMAND_SLEEPS 6u
#define COMMAND_COUNT (sizeof(commands) / sizeof(commands[0]))

static uint64_t draw(const struct workload *workload, uint32_t index, uint32_t question,
                     uint64_t bound) {
    uint64_t hash = workload->seed * UINT64_C(0x9e3779b97f4a7c15) + index * 64u + question;
    hash = (hash ^ hash >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    hash = (hash ^ hash >> 27) * UINT64_C(0x94d049bb133111eb);
    return (hash ^ hash >> 31) % bound;
}

__attribute__((format(printf, 2, 3))) static void say(struct workload *workload, const char *format,
                                                      ...) {
    va_list arguments;
    va_start(arguments, format);
    size_t room = sizeof(workload->text) - workload->length;
    int length = vsnprintf(workload->text + workload->length, room, format, arguments);
    va_end(arguments);
    workload->length += length > 0 && (size_t)length < room ? (size_t)length : 0;
}

/* ---- states ---------------------------------------------------------------------------------- */

static void say_state(struct workload *workload, uint32_t index) {
    struct kelpie_vm_info info = {.struct_size = sizeof(info)};
    if (workload->vms[index] == NULL) {
        say(workload, "    there is no vm-%u\n", index);
        return;
    }
    int status = kelpie_vm_inspect(workload->vms[index], &info, NULL);
    say(workload, "    vm-%u: %s\n", index,
        status < 0 ? kelpie_code_name(status) : kelpie_vm_state_name(info.state));
}

/* A death is noticed in a moment. */
static void wait_until_dead(struct workload *workload, struct kelpie_vm *vm) {
    for (uint32_t i = 0; i < WORKLOAD_WAITS_MAX; i += 1) {
        struct kelpie_vm_info info = {.struct_size = sizeof(info)};
        int status = kelpie_vm_inspect(vm, &info, NULL);
        if (status < 0 || (info.state != KELPIE_VM_RUNNING && info.state != KELPIE_VM_PAUSED)) {
            return;
        }
        workload->sleep_ms(workload, WORKLOAD_WAIT_MS);
    }
    say(workload, "    it lives on\n");
}

/* ---- operations ------------------------------------------------------------------------------ */

static int create(struct workload *workload, uint32_t index) {
    struct kelpie_config *config = NULL;
    struct kelpie_vm *vm = NULL;
    char name[16];
    snprintf(name, sizeof(name), "vm-%u", index);
    int status = kelpie_config_create(workload->kelpie, &config, NULL);
    if (status < 0) {
        return status;
    }
    kelpie_config_set_cpus(config, 1);
    kelpie_config_set_memory_mib(config, WORKLOAD_MEMORY_MIB);
    kelpie_config_set_ephemeral(config, index == 1);
    kelpie_config_set_boot_timeout_ms(config, WORKLOAD_BOOT_MS);
    kelpie_config_set_template(config, true); /* the first start boots, the others are restored */
    status = kelpie_vm_create(workload->kelpie, name, config, &vm, NULL);
    kelpie_config_destroy(config);
    if (status == 0) {
        workload->vms[index] = vm;
    }
    return status;
}

static int command(struct workload *workload, struct kelpie_vm *vm, const char *script,
                   uint64_t timeout_ms) {
    const char *const argv[] = {"sh", "-c", script, NULL};
    struct kelpie_exec_options options = {
        .struct_size = sizeof(options), .argv = argv, .timeout_ms = timeout_ms};
    struct kelpie_exec_result result = {.struct_size = sizeof(result)};
    int status = kelpie_vm_exec(vm, &options, &result, NULL);
    if (status == 0) {
        say(workload, "    code %d signal %d out %zu \"%.*s\" err %zu\n", result.status.exit_code,
            result.status.signal, result.stdout_count, WORKLOAD_OUTPUT_SHOWN, result.stdout_bytes,
            result.stderr_count);
    }
    kelpie_exec_result_release(&result);
    return status;
}

static int remove_vm(struct workload *workload, uint32_t index, bool by_force) {
    int status = kelpie_vm_delete(workload->vms[index], by_force, NULL);
    if (status == 0) {
        kelpie_vm_close(workload->vms[index]);
        workload->vms[index] = NULL;
    }
    return status;
}

static int vmm_dies(struct workload *workload, struct kelpie_vm *vm) {
    struct kelpie_vm_info info = {.struct_size = sizeof(info)};
    int status = kelpie_vm_inspect(vm, &info, NULL);
    if (status == 0 && info.vmm_pid > 0) {
        workload->kill_process(workload, info.vmm_pid);
        wait_until_dead(workload, vm);
        say(workload, "    killed\n");
    }
    return status;
}

static int guest_dies(struct workload *workload, struct kelpie_vm *vm, const char *key) {
    char script[64];
    snprintf(script, sizeof(script), "echo %s >/proc/sysrq-trigger; sleep 100", key);
    int status = command(workload, vm, script, WORKLOAD_COMMAND_MS);
    if (status == KELPIE_E_CRASHED) {
        wait_until_dead(workload, vm);
    }
    return status;
}

static int stop(struct workload *workload, struct kelpie_vm *vm) {
    struct kelpie_stop_result result = {0};
    int status = kelpie_vm_stop(vm, 0, &result, NULL);
    if (status == 0) {
        say(workload, "    %s\n", result.was_graceful ? "graceful" : "killed");
    }
    return status;
}

static int perform(struct workload *workload, uint32_t number, enum operation operation,
                   uint32_t index) {
    struct kelpie_vm *vm = workload->vms[index];
    size_t script = (size_t)draw(workload, number, 3, COMMAND_COUNT);
    switch (operation) {
    case OPERATION_CREATE:
        return create(workload, index);
    case OPERATION_START:
        return kelpie_vm_start(vm, 0, NULL);
    case OPERATION_STOP:
        return stop(workload, vm);
    case OPERATION_KILL:
        return kelpie_vm_kill(vm, NULL);
    case OPERATION_PAUSE:
        return kelpie_vm_pause(vm, NULL);
    case OPERATION_RESUME:
        return kelpie_vm_resume(vm, NULL);
    case OPERATION_COMMAND:
        say(workload, "    %s\n", commands[script]);
        return command(workload, vm, commands[script],
                       script == COMMAND_SLEEPS ? WORKLOAD_SHORT_MS : WORKLOAD_COMMAND_MS);
    case OPERATION_DELETE:
        return remove_vm(workload, index, false);
    case OPERATION_FORCE_DELETE:
        return remove_vm(workload, index, true);
    case OPERATION_VMM_DIES:
        return vmm_dies(workload, vm);
    case OPERATION_GUEST_PANICS:
        return guest_dies(workload, vm, "c");
    case OPERATION_GUEST_RESETS:
        return guest_dies(workload, vm, "b");
    case OPERATION_COUNT:
        break;
    }
    return KELPIE_E_MISUSE;
}

static enum operation draw_operation(const struct workload *workload, uint32_t number) {
    uint64_t total = 0;
    uint32_t operation = 0;
    for (uint32_t i = 0; i < OPERATION_COUNT; i += 1) {
        total += weights[i];
    }
    uint64_t at = draw(workload, number, 1, total);
    while (at >= weights[operation]) { /* bound: the sum of the weights is above `at` */
        at -= weights[operation];
        operation += 1;
    }
    return (enum operation)operation;
}

static void say_list(struct workload *workload) {
    struct kelpie_vm_info *list = NULL;
    size_t count = 0;
    int status = kelpie_list(workload->kelpie, &list, &count, NULL);
    say(workload, "list: %s, %zu\n", kelpie_code_name(status), count);
    kelpie_list_free(workload->kelpie, list, count);
}

void workload_run(struct workload *workload, struct kelpie *library) {
    static const char *const names[OPERATION_COUNT] = {
        "create", "start",  "stop",         "kill",     "pause",        "resume",
        "exec",   "delete", "force-delete", "VMM dies", "guest panics", "guest resets"};
    workload->kelpie = library;
    for (uint32_t number = 0; number < WORKLOAD_OPERATIONS; number += 1) {
        /* A life begins with a VM that runs. */
        enum operation operation = number == 0   ? OPERATION_CREATE
                                   : number == 1 ? OPERATION_START
                                                 : draw_operation(workload, number);
        uint32_t index = number < 2 ? 0 : (uint32_t)(draw(workload, number, 2, 5) == 0 ? 1 : 0);
        if (workload->vms[index] == NULL && operation != OPERATION_CREATE) {
            operation = OPERATION_CREATE;
        }
        say(workload, "%u: %s of vm-%u\n", number, names[operation], index);
        int status = perform(workload, number, operation, index);
        say(workload, "    %s\n", kelpie_code_name(status));
        say_state(workload, index);
    }
    say_list(workload);
    for (uint32_t index = 0; index < WORKLOAD_VM_MAX; index += 1) {
        if (workload->vms[index] != NULL) {
            say(workload, "end of vm-%u: %s\n", index,
                kelpie_code_name(remove_vm(workload, index, true)));
        }
        if (workload->vms[index] != NULL) {
            kelpie_vm_close(workload->vms[index]);
            workload->vms[index] = NULL;
        }
    }
    say_list(workload);
}
