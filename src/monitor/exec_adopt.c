/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Commands that a restored guest brings along: the answer to hello lists them, each is attached to
 * where its output was acknowledged, and from then on is a command that was kept for whoever comes.
 */
#include <string.h>

#include "core/json.h"
#include "core/text.h"
#include "monitor/exec.h"
#include "monitor/monitor.h"
#include "os/os_call.h"
#include "wire/wire.h"

/* what stands for argv[0]: the guest does not know it any more */
#define ADOPT_COMMAND "(restored)"
/* Beyond this no stream has got: sums with a window stay far from the end of their type. */
#define ADOPT_OFFSET_MAX (UINT64_C(1) << 62)

static bool adopt_id_is_valid(const char *id) {
    return strlen(id) == KELPIE_EXEC_ID_CHARACTERS &&
           strspn(id, "0123456789abcdef") == KELPIE_EXEC_ID_CHARACTERS;
}

static struct kelpie_relay_exec *adopt_add(struct kelpie_relay *relay, const char *id) {
    struct kelpie_relay_exec *exec = kelpie__relay_exec_create(relay);
    if (exec == NULL) {
        return NULL;
    }
    exec->keeps_on_disconnect = true;
    kelpie__ignore(kelpie__text_copy(exec->restored_id, sizeof(exec->restored_id), id));
    kelpie__ignore(kelpie__text_copy(exec->command, sizeof(exec->command), ADOPT_COMMAND));
    exec->command_length = strlen(exec->command);
    exec->is_command_known = true;
    kelpie__exec_check(exec);
    return exec;
}

int kelpie__relay_adopt_list(struct kelpie_relay *relay, const char *result, size_t length,
                             struct kelpie_error *error) {
    struct kelpie_json_value list;
    struct kelpie_json_value entry;
    struct kelpie_json_iterator iterator;
    char id[KELPIE_EXEC_ID_CHARACTERS + 1];
    KELPIE_ASSERT(relay->live_count == 0);
    relay->guest_channel_last = 0;
    relay->adopting_count = 0;
    if (kelpie__json_find(result, length, "execs", &list) < 0 ||
        kelpie__json_iterate(&list, &iterator) < 0) {
        return 0; /* it has none */
    }
    while (kelpie__json_next(&iterator, NULL, &entry) == 1) { /* bound: the text */
        bool is_valid =
            kelpie__json_find_string(entry.text, entry.length, "id", id, sizeof(id)) == 0 &&
            adopt_id_is_valid(id);
        if (!is_valid || relay->live_count == KELPIE_EXEC_COUNT_MAX) {
            return kelpie__fail(error, KELPIE_E_PROTOCOL, 0,
                                "the guest lists a command without an id, or more than %u",
                                KELPIE_EXEC_COUNT_MAX);
        }
        if (adopt_add(relay, id) == NULL) {
            return kelpie__fail(error, KELPIE_E_MEMORY, 0, "allocate a command");
        }
    }
    return 0;
}

static void adopt_one_less(struct kelpie_relay *relay, const struct kelpie_error *error) {
    KELPIE_ASSERT(relay->adopting_count > 0);
    relay->adopting_count -= 1;
    if (relay->adopting_count == 0 || error != NULL) {
        relay->adopting_count = 0;
        kelpie__guest_adopted(relay->guest, error);
    }
}

/* The guest says where its streams go on, and is not believed. */
static bool adopt_read_place(const char *result, size_t length, struct kelpie_exec_place *out) {
    return kelpie__json_find_u64(result, length, "stdout_offset", &out->stdout_offset) == 0 &&
           kelpie__json_find_u64(result, length, "stderr_offset", &out->stderr_offset) == 0 &&
           kelpie__json_find_u64(result, length, "stdin_offset", &out->stdin_offset) == 0 &&
           kelpie__json_find_bool(result, length, "stdin_ended", &out->is_stdin_ended) == 0 &&
           out->stdout_offset <= ADOPT_OFFSET_MAX && out->stderr_offset <= ADOPT_OFFSET_MAX &&
           out->stdin_offset <= ADOPT_OFFSET_MAX;
}

static void adopt_attached(void *context, const struct kelpie_error *error, const char *result,
                           size_t length) {
    struct kelpie_relay_exec *exec = context;
    struct kelpie_relay *relay = exec->relay;
    struct kelpie_exec_place place = {0};
    KELPIE_ASSERT(exec->phase == KELPIE_RELAY_STARTING);
    exec->adopt_call = 0;
    if (error != NULL && error->code != KELPIE_E_NOT_FOUND) {
        adopt_one_less(relay, error);
        return;
    }
    if (error != NULL) { /* it has ended, and was forgotten, since the list was made */
        kelpie__exec_free(exec);
        adopt_one_less(relay, NULL);
        return;
    }
    if (!adopt_read_place(result, length, &place)) {
        kelpie__guest_break(relay->guest, "R22: exec.attach was answered without offsets");
        return;
    }
    memcpy(exec->id, exec->restored_id, sizeof(exec->id));
    exec->phase = KELPIE_RELAY_LIVE;
    if (!kelpie__exec_place(exec, &place)) {
        struct kelpie_error memory = {0};
        kelpie__ignore(kelpie__fail(&memory, KELPIE_E_MEMORY, 0, "allocate a command's streams"));
        adopt_one_less(relay, &memory);
        return;
    }
    kelpie__exec_check(exec);
    adopt_one_less(relay, NULL);
}

void kelpie__relay_adopt(struct kelpie_relay *relay) {
    struct kelpie_wire *wire = kelpie__guest_wire(relay->guest);
    struct kelpie_error error = {0};
    int status = wire == NULL ? kelpie__fail(&error, KELPIE_E_IO, 0, "the connection ended") : 0;
    for (uint32_t i = 0; i < KELPIE_RELAY_SLOT_COUNT && status == 0; i += 1) {
        struct kelpie_relay_exec *exec = relay->execs[i];
        char params[128];
        if (exec == NULL || exec->phase != KELPIE_RELAY_STARTING) {
            continue;
        }
        /* No offsets: from the oldest byte that is kept, which is where it was acknowledged. */
        bool is_whole =
            kelpie__text_format(params, sizeof(params), "{\"id\":\"%s\",\"channel\":%u}",
                                exec->restored_id, exec->guest_channel);
        KELPIE_ASSERT(is_whole);
        status = kelpie__wire_call(wire, "exec.attach", params, KELPIE_RESUME_TIMEOUT_MS,
                                   adopt_attached, exec, &exec->adopt_call, &error);
        relay->adopting_count += status == 0 ? 1 : 0;
    }
    if (status < 0 || relay->adopting_count == 0) {
        kelpie__guest_adopted(relay->guest, status < 0 ? &error : NULL);
    }
}

void kelpie__relay_forget_adopted(struct kelpie_relay *relay) {
    struct kelpie_wire *wire = relay->guest->wire; /* also one that has just closed */
    for (uint32_t i = 0; i < KELPIE_RELAY_SLOT_COUNT; i += 1) {
        struct kelpie_relay_exec *exec = relay->execs[i];
        if (exec == NULL || exec->restored_id[0] == '\0' || exec->phase == KELPIE_RELAY_ENDED) {
            continue;
        }
        if (exec->adopt_call != 0 && wire != NULL) {
            kelpie__wire_forget(wire, exec->adopt_call);
        }
        kelpie__exec_free(exec);
    }
    relay->adopting_count = 0;
    KELPIE_ASSERT(relay->live_count == 0);
}
