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
    KELPIE_ASSERT(qemu->guest != NULL);
    kelpie__sim_guest_halt(qemu->guest);
    qemu->state = SIM_QEMU_PAUSED;
    kelpie__sim_qemu_event(qemu, "STOP", NULL);
    return true;
}

void kelpie__sim_qemu_cont(struct sim_qemu *qemu) {
    bool is_stopped = qemu->state == SIM_QEMU_PAUSED || qemu->state == SIM_QEMU_PRELAUNCH;
    if (!is_stopped) {
        return; /* running, or waiting for its state: QEMU says yes and does nothing */
    }
    KELPIE_ASSERT(qemu->guest != NULL);
    qemu->state = SIM_QEMU_RUNNING;
    kelpie__sim_guest_run(qemu->guest);
    kelpie__sim_qemu_event(qemu, "RESUME", NULL);
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

static const struct sim_qemu_command commands[] = {
    {"cont", 300 * COMMAND_US, run_cont},
    {"qmp_capabilities", 100 * COMMAND_US, run_capabilities},
    {"query-kvm", 100 * COMMAND_US, run_query_kvm},
    {"query-name", 100 * COMMAND_US, run_query_name},
    {"query-status", 100 * COMMAND_US, run_query_status},
    {"query-version", 100 * COMMAND_US, run_query_version},
    {"quit", 300 * COMMAND_US, run_quit},
    {"stop", 1000 * COMMAND_US, run_stop},
};

const struct sim_qemu_command *kelpie__sim_qemu_command(const char *name) {
    for (size_t i = 0; i < KELPIE_ARRAY_COUNT(commands); i += 1) {
        if (strcmp(commands[i].name, name) == 0) {
            return &commands[i];
        }
    }
    return NULL;
}
