/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Requests about commands, and their end: see exec_relay.h. Their beginning is exec_start.c's,
 * bytes are exec_stream.c's.
 */
#include "monitor/exec_relay.h"

#include <string.h>

#include "core/json.h"
#include "core/text.h"
#include "monitor/exec.h"
#include "monitor/monitor.h"
#include "os/os_call.h"
#include "os/os_mark.h"
#include "wire/wire.h"

#define RELAY_PARAMS_BYTES_MAX KELPIE_MESSAGE_BYTES_MAX
#define RELAY_SPARE_WIDE_RINGS 2u /* 1 MiB with the others at most, touched only if used */
#define RELAY_LIST_COMMAND_BYTES_MAX 48u

void kelpie__exec_check(const struct kelpie_relay_exec *exec) {
    KELPIE_ASSERT(exec->relay != NULL);
    KELPIE_ASSERT(exec->guest_channel != 0);
    KELPIE_ASSERT((exec->client == 0) == (exec->client_channel == 0));
    if (exec->phase == KELPIE_RELAY_LIVE) {
        KELPIE_ASSERT(exec->id[0] != '\0');
    }
    if (exec->is_abandoned) {
        KELPIE_ASSERT(exec->client == 0);
    }
}

void kelpie__relay_check(const struct kelpie_relay *relay) {
    KELPIE_ASSERT(relay->live_count <= KELPIE_EXEC_COUNT_MAX);
    KELPIE_ASSERT(relay->finished_count <= KELPIE_EXEC_FINISHED_MAX);
}

void kelpie__relay_init(struct kelpie_relay *relay, struct kelpie_monitor *monitor,
                        struct kelpie_guest *guest) {
    *relay = (struct kelpie_relay){.monitor = monitor, .guest = guest, .order_next = 1};
    kelpie__relay_check(relay);
}

void kelpie__relay_begin(struct kelpie_relay *relay) {
    kelpie__relay_check(relay);
    KELPIE_ASSERT(relay->live_count == 0);
    relay->guest_channel_last = 0;
    relay->is_frozen = false;
}

uint32_t kelpie__relay_live_count(const struct kelpie_relay *relay) {
    kelpie__relay_check(relay);
    return relay->live_count;
}

void kelpie__relay_spares_init(struct kelpie_relay_spares *spares, struct kelpie_os *os) {
    *spares = (struct kelpie_relay_spares){.os = os};
    kelpie__ring_pool_init(&spares->rings, os);
    kelpie__ring_pool_keep(&spares->rings, KELPIE_EXEC_INPUT_BYTES, KELPIE_RING_POOL_SPARE_COUNT);
    kelpie__ring_pool_keep(&spares->rings, KELPIE_EXEC_STREAM_BYTES, RELAY_SPARE_WIDE_RINGS);
}

void kelpie__relay_spares_deinit(struct kelpie_relay_spares *spares) {
    for (uint32_t i = 0; i < spares->exec_count; i += 1) {
        kelpie__free(spares->os, spares->execs[i], sizeof(*spares->execs[i]));
    }
    kelpie__ring_pool_deinit(&spares->rings);
    *spares = (struct kelpie_relay_spares){0};
}

/* Zeroed. NULL: no memory. */
static struct kelpie_relay_exec *spares_take(struct kelpie_relay_spares *spares) {
    KELPIE_ASSERT(spares->exec_count <= KELPIE_RELAY_SPARE_EXECS);
    if (spares->exec_count == 0) {
        return kelpie__alloc(spares->os, sizeof(struct kelpie_relay_exec));
    }
    spares->exec_count -= 1;
    struct kelpie_relay_exec *exec = spares->execs[spares->exec_count];
    KELPIE_ASSERT(exec->relay == NULL);
    return exec;
}

static void spares_give(struct kelpie_relay_spares *spares, struct kelpie_relay_exec *exec) {
    KELPIE_ASSERT(!kelpie__timer_is_armed(&exec->backstop));
    *exec = (struct kelpie_relay_exec){0};
    if (spares->exec_count == KELPIE_RELAY_SPARE_EXECS) {
        kelpie__free(spares->os, exec, sizeof(*exec));
        return;
    }
    spares->execs[spares->exec_count] = exec;
    spares->exec_count += 1;
}

void kelpie__exec_free(struct kelpie_relay_exec *exec) {
    struct kelpie_relay *relay = exec->relay;
    struct kelpie_os *os = relay->monitor->os;
    if (exec->phase == KELPIE_RELAY_ENDED) {
        KELPIE_ASSERT(relay->finished_count > 0);
        relay->finished_count -= 1;
    } else {
        KELPIE_ASSERT(relay->live_count > 0);
        relay->live_count -= 1;
    }
    for (uint32_t i = 0; i < KELPIE_RELAY_SLOT_COUNT; i += 1) {
        if (relay->execs[i] == exec) {
            relay->execs[i] = NULL;
        }
    }
    kelpie__timer_disarm(relay->monitor->loop, &exec->backstop);
    for (uint32_t kind = 0; kind < KELPIE_EXEC_STREAM_COUNT; kind += 1) {
        if (exec->streams[kind].has_ring) {
            kelpie__stream_sender_deinit(&exec->streams[kind].sender);
        }
    }
    if (exec->end.error != NULL) {
        kelpie__free(os, exec->end.error, sizeof(*exec->end.error));
    }
    spares_give(&relay->monitor->spares, exec);
    kelpie__relay_check(relay);
}

struct kelpie_relay_exec *kelpie__relay_find(const struct kelpie_relay *relay, const char *id) {
    struct kelpie_relay_exec *found = NULL;
    for (uint32_t i = 0; i < KELPIE_RELAY_SLOT_COUNT && id[0] != '\0'; i += 1) {
        struct kelpie_relay_exec *exec = relay->execs[i];
        if (exec == NULL || strcmp(exec->id, id) != 0) {
            continue;
        }
        /* One that a restore ended may wait for its client beside the same one, brought back. */
        if (found == NULL || exec->phase == KELPIE_RELAY_LIVE) {
            found = exec;
        }
    }
    return found;
}

/* Room for one more whose end nobody has seen: the oldest of those goes, one that nobody is
 * attached to if there is any. */
static void relay_forget_oldest(struct kelpie_relay *relay) {
    struct kelpie_relay_exec *oldest = NULL;
    for (uint32_t i = 0; i < KELPIE_RELAY_SLOT_COUNT; i += 1) {
        struct kelpie_relay_exec *exec = relay->execs[i];
        if (exec == NULL || exec->phase != KELPIE_RELAY_ENDED) {
            continue;
        }
        bool is_attached = exec->client != 0;
        bool is_better = oldest == NULL || (!is_attached && oldest->client != 0) ||
                         (is_attached == (oldest->client != 0) && exec->order < oldest->order);
        oldest = is_better ? exec : oldest;
    }
    if (relay->finished_count == KELPIE_EXEC_FINISHED_MAX) {
        KELPIE_ASSERT(oldest != NULL);
        KELPIE_REACHED(relay->monitor->os, "the end of a command was forgotten");
        kelpie__exec_free(oldest);
    }
    KELPIE_ASSERT(relay->finished_count < KELPIE_EXEC_FINISHED_MAX);
}

/* Live -> Ended, whoever said so. The exec may be gone when this returns. */
static void exec_ended(struct kelpie_relay_exec *exec, const char *how) {
    struct kelpie_relay *relay = exec->relay;
    kelpie__exec_check(exec);
    KELPIE_ASSERT(exec->phase == KELPIE_RELAY_LIVE);
    relay_forget_oldest(relay);
    exec->phase = KELPIE_RELAY_ENDED;
    exec->order = relay->order_next;
    relay->order_next += 1;
    relay->live_count -= 1;
    relay->finished_count += 1;
    kelpie__timer_disarm(relay->monitor->loop, &exec->backstop);
    kelpie__event_log_write(relay->monitor, "exec_exited", "%s %s", exec->id, how);
    kelpie__ignore(kelpie__relay_exec_pump(exec)); /* freed or not: this was the last use */
    kelpie__relay_check(relay);
}

/* The guest's answer to a request that needs none: what happens to a command is told by its end. */
static void exec_ignore_answer(void *context, const struct kelpie_error *error, const char *result,
                               size_t length) {
    (void)context;
    (void)error;
    (void)result;
    (void)length;
}

void kelpie__exec_kill(struct kelpie_relay_exec *exec) {
    kelpie__exec_check(exec);
    KELPIE_ASSERT(exec->phase != KELPIE_RELAY_ENDED);
    exec->is_kill_wanted = true;
    struct kelpie_wire *guest = kelpie__guest_wire(exec->relay->guest);
    if (exec->phase != KELPIE_RELAY_LIVE || guest == NULL) {
        KELPIE_REACHED(exec->relay->monitor->os, "a command was to be killed before it had an id");
        return; /* when its id is known; or the VM's end ends it too */
    }
    char params[64];
    bool is_whole = kelpie__text_format(params, sizeof(params), "{\"id\":\"%s\"}", exec->id);
    KELPIE_ASSERT(is_whole);
    /* A guest with so many requests unanswered meets the backstop. */
    kelpie__ignore(kelpie__wire_call(guest, "exec.kill", params, KELPIE_TIMEOUT_NONE,
                                     exec_ignore_answer, NULL, NULL, NULL));
}

/* ---- room for one ---------------------------------------------------------------------------- */

/* A member that may be missing. */
static uint64_t relay_u64(const char *params, size_t length, const char *key, uint64_t otherwise) {
    uint64_t value = 0;
    return kelpie__json_find_u64(params, length, key, &value) == 0 ? value : otherwise;
}

struct kelpie_relay_exec *kelpie__relay_exec_create(struct kelpie_relay *relay) {
    struct kelpie_os *os = relay->monitor->os;
    uint32_t slot = 0;
    while (slot < KELPIE_RELAY_SLOT_COUNT && relay->execs[slot] != NULL) {
        slot += 1;
    }
    KELPIE_ASSERT(slot < KELPIE_RELAY_SLOT_COUNT);
    struct kelpie_relay_exec *exec = spares_take(&relay->monitor->spares);
    if (exec == NULL) {
        return NULL;
    }
    relay->guest_channel_last += 1;
    exec->relay = relay;
    exec->phase = KELPIE_RELAY_STARTING;
    exec->guest_channel = relay->guest_channel_last;
    exec->started_ms = kelpie__os_now(os, KELPIE_OS_CLOCK_WALL) / KELPIE_NS_PER_MS;
    relay->execs[slot] = exec;
    relay->live_count += 1;
    return exec;
}

int kelpie__relay_check_running(const struct kelpie_relay *relay, const char *operation,
                                struct kelpie_error *error) {
    KELPIE_ASSERT(operation[0] != '\0');
    int status = kelpie__lifecycle_check_exec(relay->monitor, operation, error);
    if (status == 0) {
        KELPIE_ASSERT(kelpie__guest_wire(relay->guest) != NULL);
    }
    return status;
}

/* ---- attach, detach, list, control ----------------------------------------------------------- */

static struct kelpie_relay_exec *relay_find_params(struct kelpie_relay *relay,
                                                   struct kelpie_reply *reply, const char *params,
                                                   size_t length) {
    char id[KELPIE_EXEC_ID_CHARACTERS + 1] = "";
    struct kelpie_relay_exec *exec = NULL;
    if (kelpie__json_find_string(params, length, "id", id, sizeof(id)) == 0) {
        exec = kelpie__relay_find(relay, id);
    }
    if (exec == NULL) {
        kelpie__reply_refuse_text(relay->monitor, reply, KELPIE_E_NOT_FOUND,
                                  "there is no command \"%s\" in this VM", id);
    }
    KELPIE_ASSERT(exec == NULL || exec->phase != KELPIE_RELAY_STARTING);
    return exec;
}

void kelpie__relay_attach(struct kelpie_relay *relay, struct kelpie_reply reply, const char *params,
                          size_t length) {
    kelpie__relay_check(relay);
    struct kelpie_error error = {0};
    struct kelpie_relay_exec *exec = relay_find_params(relay, &reply, params, length);
    if (exec == NULL) {
        return;
    }
    if (exec->client != 0 || exec->is_abandoned) {
        KELPIE_REACHED(relay->monitor->os, "an attach to a command that was attached");
        kelpie__reply_refuse_text(relay->monitor, &reply, KELPIE_E_BUSY,
                                  "command \"%s\" is attached elsewhere", exec->id);
        return;
    }
    uint64_t channel = relay_u64(params, length, "channel", 0);
    const uint64_t offsets[2] = {relay_u64(params, length, "stdout_offset", 0),
                                 relay_u64(params, length, "stderr_offset", 0)};
    int status = kelpie__client_open_channel(relay->monitor, reply.client, channel, &error);
    if (status == 0) {
        status =
            kelpie__exec_take_over(exec, reply.client, kelpie__to_u32(channel), offsets, &error);
    }
    if (status < 0) {
        kelpie__reply_refuse(relay->monitor, &reply, &error);
        return;
    }
    KELPIE_SOMETIMES(relay->monitor->os, "an attach after the end",
                     exec->phase == KELPIE_RELAY_ENDED);
    KELPIE_SOMETIMES(relay->monitor->os, "an attach to a command that runs",
                     exec->phase == KELPIE_RELAY_LIVE);
    char text[160];
    bool is_whole = kelpie__text_format(
        text, sizeof(text), "{\"stdout_offset\":%llu,\"stderr_offset\":%llu,\"stdin_offset\":%llu}",
        (unsigned long long)exec->streams[KELPIE_STREAM_STDOUT].sender.ring.sent,
        (unsigned long long)exec->streams[KELPIE_STREAM_STDERR].sender.ring.sent,
        (unsigned long long)exec->streams[KELPIE_STREAM_STDIN].receiver.received);
    KELPIE_ASSERT(is_whole);
    kelpie__reply_result(relay->monitor, &reply, text);
    kelpie__exec_taken_over(exec);
}

void kelpie__relay_detach(struct kelpie_relay *relay, struct kelpie_reply reply, const char *params,
                          size_t length) {
    kelpie__relay_check(relay);
    struct kelpie_relay_exec *exec = relay_find_params(relay, &reply, params, length);
    if (exec == NULL) {
        return;
    }
    if (exec->client != reply.client) {
        kelpie__reply_refuse_text(relay->monitor, &reply, KELPIE_E_STATE,
                                  "command \"%s\" is not attached to this client", exec->id);
        return;
    }
    KELPIE_REACHED(relay->monitor->os, "a client let go of a command");
    kelpie__exec_let_go(exec, true);
    kelpie__reply_result(relay->monitor, &reply, "{}");
    KELPIE_ASSERT(exec->client == 0);
}

void kelpie__relay_list(struct kelpie_relay *relay, struct kelpie_reply reply) {
    kelpie__relay_check(relay);
    char text[RELAY_PARAMS_BYTES_MAX];
    struct kelpie_json_writer writer;
    kelpie__json_begin(&writer, text, sizeof(text));
    kelpie__json_object_begin(&writer, NULL);
    kelpie__json_array_begin(&writer, "execs");
    for (uint32_t i = 0; i < KELPIE_RELAY_SLOT_COUNT; i += 1) {
        const struct kelpie_relay_exec *exec = relay->execs[i];
        if (exec == NULL || exec->id[0] == '\0' || exec->is_abandoned) {
            continue;
        }
        size_t command_length = exec->command_length < RELAY_LIST_COMMAND_BYTES_MAX
                                    ? exec->command_length
                                    : RELAY_LIST_COMMAND_BYTES_MAX;
        kelpie__json_object_begin(&writer, NULL);
        kelpie__json_write_string(&writer, "id", exec->id);
        kelpie__json_write_bool(&writer, "is_running", exec->phase == KELPIE_RELAY_LIVE);
        kelpie__json_write_bool(&writer, "is_attached", exec->client != 0);
        kelpie__json_write_bytes(&writer, "command", exec->command, command_length);
        kelpie__json_write_i64(&writer, "started_ms", exec->started_ms);
        kelpie__json_object_end(&writer);
    }
    kelpie__json_array_end(&writer);
    kelpie__json_object_end(&writer);
    int64_t length = kelpie__json_finish(&writer);
    static_assert(KELPIE_RELAY_SLOT_COUNT * (RELAY_LIST_COMMAND_BYTES_MAX + 160u) <
                      RELAY_PARAMS_BYTES_MAX,
                  "a full list fits one message: commands are kept without characters to escape");
    KELPIE_ASSERT(length > 0);
    kelpie__reply_result(relay->monitor, &reply, text);
}

void kelpie__relay_control(struct kelpie_relay *relay, struct kelpie_reply reply,
                           const char *method, const char *params, size_t length) {
    kelpie__relay_check(relay);
    struct kelpie_relay_exec *exec = relay_find_params(relay, &reply, params, length);
    if (exec == NULL) {
        return;
    }
    struct kelpie_error error = {0};
    if (exec->phase == KELPIE_RELAY_ENDED) {
        KELPIE_REACHED(relay->monitor->os, "a command was controlled after its end");
        kelpie__reply_result(relay->monitor, &reply, "{}"); /* too late is no error */
        return;
    }
    if (kelpie__relay_check_running(relay, method, &error) < 0) {
        kelpie__reply_refuse(relay->monitor, &reply, &error);
        return;
    }
    kelpie__guest_forward(relay->monitor, &reply, method, params);
}

/* ---- ends ------------------------------------------------------------------------------------ */

void kelpie__relay_guest_exit(struct kelpie_relay *relay, const char *params, size_t length) {
    kelpie__relay_check(relay);
    enum { CHANNEL, CODE, SIGNAL, REASON, WALL_US, CPU_US, PEAK_MEMORY_KIB, COUNT };
    struct kelpie_json_member members[COUNT] = {
        [CHANNEL] = {.key = "channel"},
        [CODE] = {.key = "code"},
        [SIGNAL] = {.key = "signal"},
        [REASON] = {.key = "reason"},
        [WALL_US] = {.key = "wall_us"},
        [CPU_US] = {.key = "cpu_us"},
        [PEAK_MEMORY_KIB] = {.key = "peak_memory_kib"},
    };
    kelpie__ignore(kelpie__json_members(params, length, members, COUNT)); /* none: not valid */
    uint64_t channel = kelpie__json_member_u64(&members[CHANNEL], 0);
    struct kelpie_relay_exec *exec = NULL;
    for (uint32_t i = 0; i < KELPIE_RELAY_SLOT_COUNT && exec == NULL; i += 1) {
        struct kelpie_relay_exec *candidate = relay->execs[i];
        if (candidate != NULL && candidate->phase == KELPIE_RELAY_LIVE &&
            candidate->guest_channel == channel) {
            exec = candidate;
        }
    }
    struct kelpie_exec_end end = {
        .wall_us = kelpie__json_member_u64(&members[WALL_US], 0),
        .cpu_us = kelpie__json_member_u64(&members[CPU_US], 0),
        .peak_memory_kib = kelpie__json_member_u64(&members[PEAK_MEMORY_KIB], 0),
    };
    end.has_code = kelpie__json_member_i64(&members[CODE], &end.code);
    end.has_signal = kelpie__json_member_i64(&members[SIGNAL], &end.signal);
    bool has_end = end.has_code ? end.code >= 0 && end.code <= 255
                                : end.has_signal && end.signal >= 1 && end.signal <= 64;
    bool is_valid = exec != NULL && has_end &&
                    kelpie__json_member_string(&members[REASON], end.reason, sizeof(end.reason));
    if (!is_valid) {
        kelpie__guest_break(relay->guest,
                            "R22: exec.exit of no living command, or without code and reason");
        return;
    }
    bool is_drained = exec->streams[KELPIE_STREAM_STDOUT].receiver.is_ended &&
                      exec->streams[KELPIE_STREAM_STDERR].receiver.is_ended;
    if (!is_drained) {
        kelpie__guest_break(relay->guest, "R22: exec.exit before the end of its output");
        return;
    }
    end.lost_code = exec->end.lost_code;
    exec->end = end;
    kelpie__stages_reach(relay->monitor, KELPIE_STAGE_EXEC_ENDED);
    char how[64];
    kelpie__text_format(how, sizeof(how), "%s %lld", end.has_code ? "code" : "signal",
                        (long long)(end.has_code ? end.code : end.signal));
    exec_ended(exec, how);
}

static void exec_fail(struct kelpie_relay_exec *exec, const struct kelpie_error *why) {
    struct kelpie_monitor *monitor = exec->relay->monitor;
    KELPIE_ASSERT(exec->phase != KELPIE_RELAY_ENDED);
    if (exec->phase == KELPIE_RELAY_STARTING) {
        KELPIE_REACHED(monitor->os, "a VM ended with a command starting");
        kelpie__reply_refuse(monitor, &exec->start_reply, why);
        kelpie__exec_free(exec);
        return;
    }
    KELPIE_REACHED(monitor->os, "a VM ended with a command running");
    exec->end.error = kelpie__alloc(monitor->os, sizeof(*why));
    if (exec->end.error != NULL) {
        *exec->end.error = *why;
    } else {
        KELPIE_REACHED(monitor->os, "there was no memory to say why a command ended");
        exec->end.lost_code = why->code;
    }
    exec_ended(exec, kelpie_code_name(why->code));
}

void kelpie__relay_fail_all(struct kelpie_relay *relay, const struct kelpie_error *why) {
    kelpie__relay_check(relay);
    KELPIE_ASSERT(why->code < 0);
    for (uint32_t i = 0; i < KELPIE_RELAY_SLOT_COUNT; i += 1) {
        if (relay->execs[i] != NULL && relay->execs[i]->phase != KELPIE_RELAY_ENDED) {
            exec_fail(relay->execs[i], why);
        }
    }
    KELPIE_ASSERT(relay->live_count == 0);
}

void kelpie__relay_client_gone(struct kelpie_relay *relay, uint64_t client) {
    kelpie__relay_check(relay);
    KELPIE_ASSERT(client != 0);
    for (uint32_t i = 0; i < KELPIE_RELAY_SLOT_COUNT; i += 1) {
        struct kelpie_relay_exec *exec = relay->execs[i];
        if (exec == NULL || exec->client != client) {
            continue;
        }
        bool is_kept = exec->keeps_on_disconnect;
        KELPIE_SOMETIMES(relay->monitor->os, "a client went and its command stayed", is_kept);
        KELPIE_SOMETIMES(relay->monitor->os, "a client went while its command started",
                         exec->phase == KELPIE_RELAY_STARTING);
        kelpie__exec_let_go(exec, is_kept);
        if (!is_kept && exec->phase != KELPIE_RELAY_ENDED) {
            kelpie__exec_kill(exec);
        } else if (!is_kept) {
            kelpie__exec_free(exec);
        }
    }
}

void kelpie__relay_take(struct kelpie_relay *relay, struct kelpie_relay *from) {
    kelpie__relay_check(relay);
    KELPIE_ASSERT(relay->live_count == 0 && from->adopting_count == 0);
    relay->guest_channel_last = from->guest_channel_last;
    relay->is_frozen = from->is_frozen;
    for (uint32_t i = 0; i < KELPIE_RELAY_SLOT_COUNT; i += 1) {
        struct kelpie_relay_exec *exec = from->execs[i];
        uint32_t slot = 0;
        if (exec == NULL) {
            continue;
        }
        if (exec->phase == KELPIE_RELAY_ENDED) {
            relay_forget_oldest(relay);
            relay->finished_count += 1;
            exec->order = relay->order_next;
            relay->order_next += 1;
        } else {
            relay->live_count += 1;
        }
        while (slot < KELPIE_RELAY_SLOT_COUNT && relay->execs[slot] != NULL) {
            slot += 1;
        }
        KELPIE_ASSERT(slot < KELPIE_RELAY_SLOT_COUNT); /* both kinds have their own maximum */
        relay->execs[slot] = exec;
        exec->relay = relay;
        from->execs[i] = NULL;
    }
    kelpie__relay_init(from, from->monitor, from->guest);
    kelpie__relay_check(relay);
}

void kelpie__relay_deinit(struct kelpie_relay *relay) {
    for (uint32_t i = 0; i < KELPIE_RELAY_SLOT_COUNT; i += 1) {
        if (relay->execs[i] != NULL) {
            kelpie__exec_free(relay->execs[i]);
        }
    }
    KELPIE_ASSERT(relay->live_count == 0);
    KELPIE_ASSERT(relay->finished_count == 0);
}
