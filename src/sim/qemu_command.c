/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * What a simulated QEMU does for each QMP command: see qemu.h. The times are the real one's; the
 * words, too.
 */
#include <string.h>

#include "core/limits.h"
#include "core/text.h"
#include "os/os_call.h"
#include "sim/qemu.h"

#define COMMAND_US (KELPIE_NS_PER_MS / 1000)

static const char *const command_states[] = {
    [SIM_QEMU_STARTING] = "prelaunch",  [SIM_QEMU_PRELAUNCH] = "prelaunch",
    [SIM_QEMU_INMIGRATE] = "inmigrate", [SIM_QEMU_RUNNING] = "running",
    [SIM_QEMU_PAUSED] = "paused",       [SIM_QEMU_SHUTDOWN] = "shutdown",
};

bool kelpie__sim_qemu_stop(struct sim_qemu *qemu) {
    if (qemu->state != SIM_QEMU_RUNNING) {
        return false;
    }
    if (qemu->guest != NULL) {
        kelpie__sim_guest_halt(qemu->guest);
    }
    qemu->state = SIM_QEMU_PAUSED;
    kelpie__sim_qemu_pump(qemu);
    kelpie__sim_qemu_event(qemu, "STOP", NULL);
    return true;
}

void kelpie__sim_qemu_cont(struct sim_qemu *qemu) {
    bool is_stopped = qemu->state == SIM_QEMU_PAUSED || qemu->state == SIM_QEMU_PRELAUNCH;
    if (!is_stopped) {
        return; /* running, or waiting for its state: QEMU says yes and does nothing */
    }
    kelpie__sim_qemu_memory_thaw(qemu);
    qemu->state = SIM_QEMU_RUNNING;
    kelpie__sim_qemu_event(qemu, "RESUME", NULL);
    if (qemu->guest == NULL) { /* a memory that holds no guest: the processor finds nonsense */
        kelpie__sim_qemu_shutdown(qemu, true, "guest-reset");
        return;
    }
    kelpie__sim_guest_run(qemu->guest);
    if (qemu->load_fault != NULL) {
        kelpie__sim_qemu_fault_guest(qemu, qemu->load_fault);
        qemu->load_fault = NULL;
    }
    KELPIE_ASSERT(qemu->load_fault == NULL);
    kelpie__sim_qemu_pump(qemu);
}

bool kelpie__sim_qemu_argument(struct sim_qemu *qemu, const char *name, char *out,
                               size_t capacity) {
    const char *text = qemu->qmp.arguments;
    struct kelpie_json_value value;
    if (kelpie__json_find(text, strlen(text), name, &value) < 0) {
        kelpie__sim_qemu_refuse(qemu, "GenericError", "Parameter '%s' is missing", name);
        return false;
    }
    if (kelpie__json_string(&value, out, capacity, NULL) < 0) {
        kelpie__sim_qemu_refuse(qemu, "GenericError",
                                "Invalid parameter type for '%s', expected: string", name);
        return false;
    }
    return true;
}

bool kelpie__sim_qemu_argument_u64(struct sim_qemu *qemu, const char *name, uint64_t *out) {
    const char *text = qemu->qmp.arguments;
    if (kelpie__json_find_u64(text, strlen(text), name, out) == 0) {
        return true;
    }
    kelpie__sim_qemu_refuse(qemu, "GenericError", "Parameter '%s' is missing", name);
    return false;
}

/* The first argument that a command does not have; false: there is none. Answers. */
static bool command_refuse_arguments(struct sim_qemu *qemu) {
    struct kelpie_json_value value;
    struct kelpie_json_value key;
    struct kelpie_json_iterator iterator;
    char name[64] = "";
    const char *text = qemu->qmp.arguments;
    bool has_one = kelpie__json_parse(text, strlen(text), &value) == 0 &&
                   kelpie__json_iterate(&value, &iterator) == 0 &&
                   kelpie__json_next(&iterator, &key, &value) == 1 &&
                   kelpie__json_string(&key, name, sizeof(name), NULL) == 0;
    if (has_one) {
        kelpie__sim_qemu_refuse(qemu, "GenericError", "Parameter '%s' is unexpected", name);
    }
    return has_one;
}

static void run_capabilities(struct sim_qemu *qemu) {
    qemu->qmp.is_negotiated = true;
    kelpie__sim_qemu_return(qemu, "{}");
}

static void run_stop(struct sim_qemu *qemu) {
    if (command_refuse_arguments(qemu)) {
        return;
    }
    kelpie__ignore(kelpie__sim_qemu_stop(qemu)); /* a yes, whether it ran or not */
    KELPIE_ASSERT(qemu->state != SIM_QEMU_RUNNING);
    kelpie__sim_qemu_return(qemu, "{}");
}

static void run_cont(struct sim_qemu *qemu) {
    if (command_refuse_arguments(qemu)) {
        return;
    }
    kelpie__sim_qemu_cont(qemu);
    kelpie__sim_qemu_return(qemu, "{}");
}

static void run_quit(struct sim_qemu *qemu) {
    kelpie__sim_qemu_shutdown(qemu, false, "host-qmp-quit");
    KELPIE_ASSERT(qemu->state == SIM_QEMU_SHUTDOWN);
    kelpie__sim_qemu_return(qemu, "{}");
}

static void run_query_status(struct sim_qemu *qemu) {
    char text[128];
    bool is_running = qemu->state == SIM_QEMU_RUNNING;
    if (command_refuse_arguments(qemu)) {
        return;
    }
    bool is_whole = kelpie__text_format(
        text, sizeof(text), "{\"status\": \"%s\", \"singlestep\": false, \"running\": %s}",
        command_states[qemu->state], is_running ? "true" : "false");
    KELPIE_ASSERT(is_whole);
    kelpie__sim_qemu_return(qemu, text);
}

static void run_query_version(struct sim_qemu *qemu) {
    kelpie__sim_qemu_return(qemu, "{\"qemu\": {\"micro\": 22, \"minor\": 2, \"major\": 7}, "
                                  "\"package\": \"Debian 1:7.2+dfsg-7+deb12u18+b3\"}");
}

static void run_query_name(struct sim_qemu *qemu) {
    char quoted[SIM_QEMU_PROBLEM_BYTES];
    char text[SIM_QEMU_PROBLEM_BYTES + 16];
    struct kelpie_json_writer writer;
    if (qemu->options.name == NULL) {
        kelpie__sim_qemu_return(qemu, "{}");
        return;
    }
    kelpie__json_begin(&writer, quoted, sizeof(quoted));
    kelpie__json_write_string(&writer, NULL, qemu->options.name);
    bool is_whole = kelpie__json_finish(&writer) > 0 &&
                    kelpie__text_format(text, sizeof(text), "{\"name\": %s}", quoted);
    kelpie__sim_qemu_return(qemu, is_whole ? text : "{}");
}

static void run_query_kvm(struct sim_qemu *qemu) {
    kelpie__sim_qemu_return(qemu, qemu->options.is_kvm ? "{\"enabled\": true, \"present\": true}"
                                                       : "{\"enabled\": false, \"present\": true}");
}

/* One command of the monitor for people is known: where the guest's memory is. */
static void run_human(struct sim_qemu *qemu) {
    char line[128];
    char text[192];
    if (!kelpie__sim_qemu_argument(qemu, "command-line", line, sizeof(line))) {
        return;
    }
    if (kelpie__text_has_prefix(line, "gpa2hva ")) {
        kelpie__sim_qemu_memory_locate(qemu);
        return;
    }
    line[strcspn(line, " \"\\")] = '\0';
    bool is_whole =
        kelpie__text_format(text, sizeof(text), "\"unknown command: '%s'\\r\\n\"", line);
    KELPIE_ASSERT(is_whole);
    kelpie__sim_qemu_return(qemu, text);
}

static void run_set_capabilities(struct sim_qemu *qemu) {
    const char *text = qemu->qmp.arguments;
    struct kelpie_json_value list;
    struct kelpie_json_iterator iterator;
    struct kelpie_json_value item;
    if (kelpie__json_find(text, strlen(text), "capabilities", &list) < 0 ||
        kelpie__json_iterate(&list, &iterator) < 0) {
        kelpie__sim_qemu_refuse(qemu, "GenericError", "Parameter 'capabilities' is missing");
        return;
    }
    while (kelpie__json_next(&iterator, NULL, &item) == 1) { /* bound: the text */
        char name[64] = "";
        bool is_on = false;
        bool is_one = kelpie__json_find_string(item.text, item.length, "capability", name,
                                               sizeof(name)) == 0 &&
                      kelpie__json_find_bool(item.text, item.length, "state", &is_on) == 0;
        if (!is_one) {
            kelpie__sim_qemu_refuse(qemu, "GenericError", "Parameter 'capability' is missing");
            return;
        }
        qemu->qmp.has_events = strcmp(name, "events") == 0 ? is_on : qemu->qmp.has_events;
    }
    kelpie__sim_qemu_return(qemu, "{}");
}

static void run_query_migrate(struct sim_qemu *qemu) {
    kelpie__sim_qemu_return(qemu, "{}");
}

static const struct sim_qemu_command commands[] = {
    {"add-fd", 200 * COMMAND_US, kelpie__sim_qemu_add_fd},
    {"blockdev-add", 500 * COMMAND_US, kelpie__sim_qemu_blockdev_add},
    {"blockdev-del", 200 * COMMAND_US, kelpie__sim_qemu_blockdev_del},
    {"blockdev-snapshot", 800 * COMMAND_US, kelpie__sim_qemu_blockdev_snapshot},
    {"closefd", 100 * COMMAND_US, kelpie__sim_qemu_closefd},
    {"cont", 300 * COMMAND_US, run_cont},
    {"getfd", 200 * COMMAND_US, kelpie__sim_qemu_getfd},
    {"human-monitor-command", 300 * COMMAND_US, run_human},
    {"migrate-incoming", 300 * COMMAND_US, kelpie__sim_qemu_incoming},
    {"migrate-set-capabilities", 200 * COMMAND_US, run_set_capabilities},
    {"qmp_capabilities", 100 * COMMAND_US, run_capabilities},
    {"query-kvm", 100 * COMMAND_US, run_query_kvm},
    {"query-migrate", 100 * COMMAND_US, run_query_migrate},
    {"query-name", 100 * COMMAND_US, run_query_name},
    {"query-status", 100 * COMMAND_US, run_query_status},
    {"query-version", 100 * COMMAND_US, run_query_version},
    {"quit", 300 * COMMAND_US, run_quit},
    {"remove-fd", 200 * COMMAND_US, kelpie__sim_qemu_remove_fd},
    {"stop", 1000 * COMMAND_US, run_stop},
    {"xen-save-devices-state", 800 * COMMAND_US, kelpie__sim_qemu_save},
};

const struct sim_qemu_command *kelpie__sim_qemu_command(const char *name) {
    for (size_t i = 0; i < KELPIE_ARRAY_COUNT(commands); i += 1) {
        if (strcmp(commands[i].name, name) == 0) {
            return &commands[i];
        }
    }
    return NULL;
}
