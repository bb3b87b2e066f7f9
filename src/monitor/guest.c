/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * The agent's connection: see guest.h. The phases only go forward; a second attach is a second
 * boot.
 */
#include "monitor/guest.h"

#include <string.h>

#include "core/json.h"
#include "core/text.h"
#include "monitor/monitor.h"
#include "os/os_call.h"
#include "os/os_mark.h"
#include "wire/wire.h"

/* a path and a tag, each byte escaped to six, and the keys */
#define GUEST_SHARE_BYTES (6u * (KELPIE_SHARE_GUEST_BYTES_MAX + KELPIE_SHARE_TAG_BYTES_MAX) + 128u)
#define GUEST_ENTROPY_BYTES 32u
#define GUEST_TEXT_BYTES_MAX 512u

static struct kelpie_guest *guest_of(void *context) {
    struct kelpie_guest *guest = context;
    KELPIE_ASSERT(guest->monitor != NULL);
    KELPIE_ASSERT((guest->phase == KELPIE_GUEST_NONE) == (guest->wire == NULL));
    return guest;
}

void kelpie__guest_init(struct kelpie_guest *guest, struct kelpie_monitor *monitor,
                        struct kelpie_relay *relay) {
    *guest = (struct kelpie_guest){.monitor = monitor, .relay = relay, .phase = KELPIE_GUEST_NONE};
    KELPIE_ASSERT(guest->wire == NULL);
}

struct kelpie_wire *kelpie__guest_wire(const struct kelpie_guest *guest) {
    bool is_open = guest->phase >= KELPIE_GUEST_SETTING_UP && guest->phase < KELPIE_GUEST_CLOSED;
    return is_open && !kelpie__wire_is_closed(guest->wire) ? guest->wire : NULL;
}

void kelpie__guest_break(struct kelpie_guest *guest, const char *rule) {
    KELPIE_ASSERT(guest->wire != NULL);
    kelpie__wire_break_rule(guest->wire, rule);
}

/* ---- boot: ready, hello, setup --------------------------------------------------------------- */

static void guest_live(struct kelpie_guest *guest) {
    KELPIE_ASSERT(guest->phase == KELPIE_GUEST_SETTING_UP || guest->phase == KELPIE_GUEST_TIMING);
    guest->phase = KELPIE_GUEST_LIVE;
    if (guest->monitor->template.is_wanted) {
        kelpie__template_make(&guest->monitor->template);
    } else {
        kelpie__lifecycle_guest_live(guest->monitor);
    }
}

static void guest_boot_failed(struct kelpie_guest *guest, const struct kelpie_error *error) {
    KELPIE_ASSERT(guest->phase != KELPIE_GUEST_LIVE);
    KELPIE_ASSERT(error->code < 0);
    KELPIE_REACHED(guest->monitor->os, "a boot failed by the guest");
    struct kelpie_error failure = *error;
    failure.code = KELPIE_E_BOOT; /* whatever the guest calls it: the words are kept */
    kelpie__lifecycle_fail(guest->monitor, &failure);
}

static void guest_timed(void *context, const struct kelpie_error *error, const char *result,
                        size_t length) {
    struct kelpie_guest *guest = guest_of(context);
    struct kelpie_error clock_error = {0};
    if (error != NULL) {
        guest_boot_failed(guest, error);
        return;
    }
    bool is_valid = kelpie__json_find_u64(result, length, "tsc", &guest->clock.second_tsc) == 0 &&
                    kelpie__json_find_u64(result, length, "monotonic_ns",
                                          &guest->clock.second_monotonic_ns) == 0;
    if (!is_valid) {
        kelpie__guest_break(guest, "R22: guest.clock was answered without tsc and monotonic_ns");
        return;
    }
    if (kelpie__vmm_check_clock(guest->monitor->lifecycle.vmm, &guest->clock, &clock_error) < 0) {
        guest_boot_failed(guest, &clock_error);
        return;
    }
    guest_live(guest);
}

/* Continues a boot with a request to the guest. */
static void guest_ask(struct kelpie_guest *guest, enum kelpie_guest_phase phase, const char *method,
                      const char *params, kelpie_wire_answer_callback callback) {
    struct kelpie_error error = {0};
    KELPIE_ASSERT(phase > guest->phase);
    guest->phase = phase;
    /* The boot's own deadline covers every step. */
    if (kelpie__wire_call(guest->wire, method, params, KELPIE_TIMEOUT_NONE, callback, guest, NULL,
                          &error) < 0) {
        guest_boot_failed(guest, &error);
    }
}

/* Its root and its shares are there. */
static void guest_is_furnished(struct kelpie_guest *guest) {
    KELPIE_ASSERT(guest->phase == KELPIE_GUEST_SETTING_UP);
    KELPIE_ASSERT(guest->share_next == guest->monitor->config.share_count);
    if (guest->is_clock_doubtful) {
        guest_ask(guest, KELPIE_GUEST_TIMING, "guest.clock", "{}", guest_timed);
        return;
    }
    guest_live(guest);
}

static void guest_next_share(struct kelpie_guest *guest);

/* One that could not be mounted is told with its path on the host, which the guest does not know.
 */
static void guest_shared(void *context, const struct kelpie_error *error, const char *result,
                         size_t length) {
    struct kelpie_guest *guest = guest_of(context);
    const struct kelpie_config_values *config = &guest->monitor->config;
    KELPIE_ASSERT(guest->share_next < config->share_count);
    kelpie__ignore(result != NULL && length > 0); /* it says nothing */
    if (error == NULL) {
        guest->share_next += 1;
        guest_next_share(guest);
        return;
    }
    if (error->code != KELPIE_E_SHARE) {
        guest_boot_failed(guest, error);
        return;
    }
    struct kelpie_error failure = *error;
    kelpie__ignore(kelpie__fail_prefix(
        &failure, "share \"%.300s\"",
        kelpie__config_share_text(config, config->shares[guest->share_next].host)));
    kelpie__lifecycle_fail(guest->monitor, &failure);
}

static void guest_next_share(struct kelpie_guest *guest) {
    const struct kelpie_config_values *config = &guest->monitor->config;
    KELPIE_ASSERT(guest->phase == KELPIE_GUEST_SETTING_UP);
    KELPIE_ASSERT(guest->share_next <= config->share_count);
    if (guest->share_next == config->share_count) {
        guest_is_furnished(guest);
        return;
    }
    const struct kelpie_config_share *share = &config->shares[guest->share_next];
    char params[GUEST_SHARE_BYTES];
    struct kelpie_error error = {0};
    struct kelpie_json_writer writer;
    kelpie__json_begin(&writer, params, sizeof(params));
    kelpie__json_object_begin(&writer, NULL);
    kelpie__json_write_string(&writer, "tag", kelpie__config_share_text(config, share->tag));
    kelpie__json_write_string(&writer, "path", kelpie__config_share_text(config, share->guest));
    kelpie__json_write_bool(&writer, "read_only", share->is_read_only);
    kelpie__json_object_end(&writer);
    int64_t length = kelpie__json_finish(&writer);
    KELPIE_ASSERT(length > 0);
    /* The boot's own deadline covers this, too. */
    if (kelpie__wire_call(guest->wire, "guest.mount", params, KELPIE_TIMEOUT_NONE, guest_shared,
                          guest, NULL, &error) < 0) {
        guest_boot_failed(guest, &error);
    }
}

static void guest_set_up(void *context, const struct kelpie_error *error, const char *result,
                         size_t length) {
    struct kelpie_guest *guest = guest_of(context);
    (void)result;
    (void)length;
    if (error != NULL) {
        guest_boot_failed(guest, error);
        return;
    }
    guest->share_next = 0;
    guest_next_share(guest);
}

static void guest_write_root(struct kelpie_json_writer *writer,
                             const struct kelpie_monitor *monitor) {
    const struct kelpie_prepare *prepare = &monitor->prepare;
    bool is_device = prepare->root_kind != KELPIE_PREPARE_ROOT_BUILTIN;
    const char *writable = monitor->config.is_read_only ? "none"
                           : prepare->has_upper         ? "disk"
                                                        : "tmpfs";
    kelpie__json_object_begin(writer, "root");
    kelpie__json_write_string(writer, "kind", is_device ? "device" : "builtin");
    if (is_device) {
        kelpie__json_write_string(writer, "device_serial", KELPIE_PREPARE_ROOT_SERIAL);
        kelpie__json_write_string(writer, "fs", prepare->root_type);
    }
    kelpie__json_write_bool(writer, "read_only", monitor->config.is_read_only);
    kelpie__json_write_string(writer, "writable", writable);
    kelpie__json_object_end(writer);
}

/* What is true now, and never again: the time of day and randomness. */
static int guest_write_fresh(struct kelpie_json_writer *writer, struct kelpie_os *os,
                             struct kelpie_error *error) {
    uint8_t entropy[GUEST_ENTROPY_BYTES];
    char entropy_hex[2 * GUEST_ENTROPY_BYTES + 1];
    int status = kelpie__os_random(os, entropy, sizeof(entropy));
    if (status < 0) {
        return kelpie__fail(error, KELPIE_E_IO, -status, "draw entropy for the guest");
    }
    kelpie__text_hex(entropy_hex, sizeof(entropy_hex), entropy, sizeof(entropy));
    kelpie__json_write_i64(writer, "wall_ns", kelpie__os_now(os, KELPIE_OS_CLOCK_WALL));
    kelpie__json_write_string(writer, "entropy", entropy_hex);
    return 0;
}

int kelpie__guest_write_refresh(const struct kelpie_guest *guest, char *out, size_t capacity,
                                struct kelpie_error *error) {
    struct kelpie_json_writer writer;
    kelpie__json_begin(&writer, out, capacity);
    kelpie__json_object_begin(&writer, NULL);
    int status = guest_write_fresh(&writer, guest->monitor->os, error);
    kelpie__json_object_end(&writer);
    int64_t length = kelpie__json_finish(&writer);
    KELPIE_ASSERT(length > 0);
    return status;
}

int kelpie__guest_write_setup(const struct kelpie_guest *guest, bool is_boot, char *out,
                              size_t capacity, struct kelpie_error *error) {
    struct kelpie_monitor *monitor = guest->monitor;
    struct kelpie_json_writer writer;
    kelpie__json_begin(&writer, out, capacity);
    kelpie__json_object_begin(&writer, NULL);
    if (is_boot) {
        guest_write_root(&writer, monitor);
        kelpie__json_write_bool(&writer, "modules_late",
                                monitor->prepare.root_kind != KELPIE_PREPARE_ROOT_BUILTIN);
    }
    bool is_nobody = is_boot && monitor->template.is_wanted;
    kelpie__json_write_string(&writer, "hostname",
                              is_nobody ? KELPIE_GUEST_NEUTRAL_NAME : monitor->config.name);
    kelpie__json_write_string(&writer, "machine_id",
                              is_nobody ? monitor->template.key.text : monitor->config.id);
    int status = guest_write_fresh(&writer, monitor->os, error);
    kelpie__json_object_end(&writer);
    int64_t length = kelpie__json_finish(&writer);
    KELPIE_ASSERT(length > 0);
    return status;
}

static void guest_send_setup(struct kelpie_guest *guest) {
    struct kelpie_error error = {0};
    char params[KELPIE_GUEST_SETUP_BYTES_MAX];
    if (kelpie__guest_write_setup(guest, true, params, sizeof(params), &error) < 0) {
        guest_boot_failed(guest, &error);
        return;
    }
    guest_ask(guest, KELPIE_GUEST_SETTING_UP, "setup", params, guest_set_up);
}

bool kelpie__guest_is_greeted(const struct kelpie_guest *guest, const char *result, size_t length) {
    char epoch[sizeof(guest->epoch)];
    uint64_t version = 0;
    return kelpie__json_find_u64(result, length, "version", &version) == 0 &&
           version >= KELPIE_PROTOCOL_VERSION_MIN && version <= KELPIE_PROTOCOL_VERSION &&
           kelpie__json_find_string(result, length, "epoch", epoch, sizeof(epoch)) == 0 &&
           (strcmp(epoch, guest->epoch) == 0 || KELPIE_CANARY(guest->monitor->os, 2));
}

static void guest_greeted(void *context, const struct kelpie_error *error, const char *result,
                          size_t length) {
    struct kelpie_guest *guest = guest_of(context);
    if (error != NULL) {
        guest_boot_failed(guest, error);
        return;
    }
    if (!kelpie__guest_is_greeted(guest, result, length)) {
        KELPIE_REACHED(guest->monitor->os, "hello was answered in another epoch");
        kelpie__guest_break(guest, KELPIE_GUEST_RULE_HELLO);
        return;
    }
    kelpie__stages_reach(guest->monitor, KELPIE_STAGE_HELLO);
    kelpie__lifecycle_guest_greeted(guest->monitor);
    guest_send_setup(guest);
}

int kelpie__guest_write_hello(struct kelpie_guest *guest, char *out, size_t capacity,
                              struct kelpie_error *error) {
    uint8_t epoch[KELPIE_EPOCH_BYTES];
    int status = kelpie__os_random(guest->monitor->os, epoch, sizeof(epoch));
    if (status < 0) {
        return kelpie__fail(error, KELPIE_E_IO, -status, "draw an epoch");
    }
    kelpie__text_hex(guest->epoch, sizeof(guest->epoch), epoch, sizeof(epoch));
    bool is_whole = kelpie__text_format(
        out, capacity,
        "{\"version\":%u,\"version_min\":%u,\"features\":[],\"role\":\"monitor\",\"epoch\":\"%s\"}",
        KELPIE_PROTOCOL_VERSION, KELPIE_PROTOCOL_VERSION_MIN, guest->epoch);
    KELPIE_ASSERT(is_whole);
    return 0;
}

static void guest_send_hello(struct kelpie_guest *guest) {
    struct kelpie_error error = {0};
    char params[KELPIE_GUEST_HELLO_BYTES_MAX];
    if (kelpie__guest_write_hello(guest, params, sizeof(params), &error) < 0) {
        guest_boot_failed(guest, &error);
        return;
    }
    guest_ask(guest, KELPIE_GUEST_GREETING, "hello", params, guest_greeted);
}

static void guest_ready(struct kelpie_guest *guest, const char *params, size_t length) {
    struct kelpie_json_value clock;
    struct kelpie_error error = {0};
    char text[GUEST_TEXT_BYTES_MAX];
    if (guest->phase >= KELPIE_GUEST_RESTORED) {
        kelpie__guest_ready_again(guest);
        return;
    }
    if (guest->phase != KELPIE_GUEST_WAITING) {
        KELPIE_REACHED(guest->monitor->os, "a guest was ready twice");
        kelpie__guest_break(guest, "R21: a second `ready`");
        return;
    }
    if (kelpie__json_find_string(params, length, "error", text, sizeof(text)) == 0) {
        kelpie__ignore(kelpie__fail(&error, KELPIE_E_BOOT, 0, "the guest's agent: %s", text));
        guest_boot_failed(guest, &error);
        return;
    }
    struct kelpie_vmm_guest_clock *found = &guest->clock;
    bool is_valid =
        kelpie__json_find(params, length, "clock", &clock) == 0 &&
        kelpie__json_find_u64(clock.text, clock.length, "tsc0", &found->first_tsc) == 0 &&
        kelpie__json_find_u64(clock.text, clock.length, "mono0", &found->first_monotonic_ns) == 0 &&
        kelpie__json_find_u64(clock.text, clock.length, "tsc1", &found->second_tsc) == 0 &&
        kelpie__json_find_u64(clock.text, clock.length, "mono1", &found->second_monotonic_ns) == 0;
    if (!is_valid) {
        kelpie__guest_break(guest, "R22: `ready` without the guest's clock");
        return;
    }
    /* The two readings are close together, and a busy host may have stopped the guest within one of
     * them: doubt is resolved by a third one after the set-up. */
    guest->is_clock_doubtful =
        kelpie__vmm_check_clock(guest->monitor->lifecycle.vmm, found, NULL) < 0;
    KELPIE_SOMETIMES(guest->monitor->os, "a guest's clock was doubtful", guest->is_clock_doubtful);
    kelpie__stages_ready(guest->monitor, found);
    guest_send_hello(guest);
}

/* ---- the connection -------------------------------------------------------------------------- */

static void guest_on_request(void *context, uint64_t id, const char *method, const char *params,
                             size_t length) {
    struct kelpie_guest *guest = guest_of(context);
    (void)params;
    (void)length;
    kelpie__wire_refuse_text(guest->wire, id, KELPIE_E_UNSUPPORTED,
                             "the monitor has no method \"%s\" for guests", method);
}

/* Frames of channels mean something: not while what comes may be of a saved guest's former
 * connection. */
static bool guest_has_commands(const struct kelpie_guest *guest) {
    return guest->phase != KELPIE_GUEST_RESTORED && guest->phase != KELPIE_GUEST_REGREETING;
}

/* One that is about to reset its machine may want to know that this was read. */
static void guest_said_goodbye(struct kelpie_guest *guest, const char *params, size_t length) {
    bool wants_answer = false;
    KELPIE_REACHED(guest->monitor->os, "a guest said goodbye");
    KELPIE_ASSERT(guest->wire != NULL);
    guest->has_said_goodbye = true;
    if (kelpie__json_find_bool(params, length, "answer", &wants_answer) == 0 && wants_answer) {
        kelpie__ignore(kelpie__wire_notify(guest->wire, "goodbye", "{\"reason\":\"heard\"}"));
    }
}

static void guest_on_notification(void *context, const char *method, const char *params,
                                  size_t length) {
    struct kelpie_guest *guest = guest_of(context);
    if (strcmp(method, "ready") == 0) {
        guest_ready(guest, params, length);
    } else if (strcmp(method, "goodbye") == 0) {
        guest_said_goodbye(guest, params, length);
    } else if ((guest->phase == KELPIE_GUEST_LIVE || guest->phase == KELPIE_GUEST_ADOPTING) &&
               strcmp(method, "exec.exit") == 0) {
        kelpie__relay_guest_exit(guest->relay, params, length);
    }
    /* Others are of a newer agent, and are ignored. */
}

static void guest_on_data(void *context, uint32_t stream, uint64_t offset, const void *bytes,
                          size_t count, bool is_end) {
    struct kelpie_guest *guest = guest_of(context);
    if (guest_has_commands(guest)) {
        kelpie__relay_guest_data(guest->relay, stream, offset, bytes, count, is_end);
    }
}

static void guest_on_credit(void *context, uint32_t stream, uint64_t acknowledged, uint64_t limit) {
    struct kelpie_guest *guest = guest_of(context);
    if (guest_has_commands(guest)) {
        kelpie__relay_guest_credit(guest->relay, stream, acknowledged, limit);
    }
}

static void guest_on_stop(void *context, uint32_t stream) {
    struct kelpie_guest *guest = guest_of(context);
    if (guest_has_commands(guest)) {
        kelpie__relay_guest_stop(guest->relay, stream);
    }
}

static void guest_on_drained(void *context) {
    struct kelpie_guest *guest = guest_of(context);
    kelpie__relay_guest_drained(guest->relay);
}

static void guest_on_closed(void *context, const struct kelpie_error *error) {
    struct kelpie_guest *guest = guest_of(context);
    KELPIE_ASSERT(guest->phase != KELPIE_GUEST_CLOSED);
    guest->phase = KELPIE_GUEST_CLOSED;
    if (guest == &guest->monitor->guest) {
        kelpie__lifecycle_guest_closed(guest->monitor, error);
    } else {
        kelpie__restore_guest_closed(guest->monitor, error);
    }
}

static const struct kelpie_wire_callbacks guest_callbacks = {
    .request = guest_on_request,
    .notification = guest_on_notification,
    .data = guest_on_data,
    .credit = guest_on_credit,
    .stop = guest_on_stop,
    .mark = NULL,
    .drained = guest_on_drained,
    .closed = guest_on_closed,
};

int kelpie__guest_open(struct kelpie_guest *guest, int stream, enum kelpie_guest_phase phase,
                       struct kelpie_error *error) {
    KELPIE_ASSERT(guest->phase == KELPIE_GUEST_NONE);
    KELPIE_ASSERT(stream >= 0);
    struct kelpie_wire_create create = {
        .os = guest->monitor->os,
        .loop = guest->monitor->loop,
        .handle = stream,
        .owns_handle = true,
        .callbacks = &guest_callbacks,
        .context = guest,
        .peer = "the guest's agent",
    };
    struct kelpie_wire *wire = NULL;
    int status = kelpie__wire_create(&create, &wire, error);
    if (status < 0) {
        return status;
    }
    kelpie__guest_init(guest, guest->monitor, guest->relay);
    guest->wire = wire;
    guest->phase = phase;
    return 0;
}

int kelpie__guest_attach(struct kelpie_guest *guest, int stream, struct kelpie_error *error) {
    return kelpie__guest_open(guest, stream, KELPIE_GUEST_WAITING, error);
}

/* ---- requests on behalf of clients ----------------------------------------------------------- */

struct kelpie_guest_query {
    struct kelpie_guest_query *next;
    struct kelpie_monitor *monitor;
    struct kelpie_reply reply;
    int64_t asked_ns;
    kelpie_guest_answer_callback callback;
};

/* Frees the query, then answers: the callback may ask again. */
static void guest_query_end(struct kelpie_guest_query *query, const struct kelpie_error *error,
                            const char *result, size_t length) {
    struct kelpie_monitor *monitor = query->monitor;
    struct kelpie_guest_query **link = &monitor->guest.queries;
    for (uint32_t i = 0; i < KELPIE_WIRE_CALL_COUNT_MAX && *link != query; i += 1) {
        KELPIE_ASSERT(*link != NULL);
        link = &(*link)->next;
    }
    KELPIE_ASSERT(*link == query);
    *link = query->next;
    struct kelpie_reply reply = query->reply;
    kelpie_guest_answer_callback callback = query->callback;
    int64_t took_ns = monitor->loop->now_ns - query->asked_ns;
    kelpie__free(monitor->os, query, sizeof(*query));
    callback(monitor, &reply, took_ns, error, result, length);
}

static void guest_query_answered(void *context, const struct kelpie_error *error,
                                 const char *result, size_t length) {
    struct kelpie_guest_query *query = context;
    KELPIE_ASSERT(query->monitor->guest.wire != NULL);
    KELPIE_ASSERT(error != NULL || result != NULL);
    guest_query_end(query, error, result, length);
}

void kelpie__guest_query(struct kelpie_monitor *monitor, struct kelpie_reply *reply,
                         const char *method, const char *params, uint64_t timeout_ms,
                         kelpie_guest_answer_callback callback) {
    struct kelpie_error error = {0};
    struct kelpie_wire *wire = kelpie__guest_wire(&monitor->guest);
    KELPIE_ASSERT(wire != NULL);
    KELPIE_ASSERT(reply->client != 0);
    struct kelpie_guest_query *query = kelpie__alloc(monitor->os, sizeof(*query));
    if (query == NULL) {
        kelpie__reply_refuse_text(monitor, reply, KELPIE_E_MEMORY, "allocate a request");
        return;
    }
    *query = (struct kelpie_guest_query){.next = monitor->guest.queries,
                                         .monitor = monitor,
                                         .reply = *reply,
                                         .asked_ns = monitor->loop->now_ns,
                                         .callback = callback};
    monitor->guest.queries = query;
    if (kelpie__wire_call(wire, method, params, timeout_ms, guest_query_answered, query, NULL,
                          &error) < 0) {
        guest_query_end(query, &error, NULL, 0);
    }
}

static void guest_forwarded(struct kelpie_monitor *monitor, struct kelpie_reply *reply,
                            int64_t took_ns, const struct kelpie_error *error, const char *result,
                            size_t length) {
    KELPIE_ASSERT(took_ns >= 0);
    KELPIE_ASSERT(error != NULL || result[length] == '\0');
    if (error != NULL) {
        kelpie__reply_refuse(monitor, reply, error);
    } else {
        kelpie__reply_result(monitor, reply, result);
    }
}

void kelpie__guest_forward(struct kelpie_monitor *monitor, struct kelpie_reply *reply,
                           const char *method, const char *params) {
    kelpie__guest_query(monitor, reply, method, params, KELPIE_CALL_TIMEOUT_MS, guest_forwarded);
}

void kelpie__guest_detach(struct kelpie_guest *guest, const struct kelpie_error *why) {
    KELPIE_ASSERT((guest->phase == KELPIE_GUEST_NONE) == (guest->wire == NULL));
    struct kelpie_wire *wire = guest->wire;
    for (uint32_t i = 0; i < KELPIE_WIRE_CALL_COUNT_MAX && guest->queries != NULL; i += 1) {
        KELPIE_REACHED(guest->monitor->os, "a VM ended with a request to its guest unanswered");
        guest_query_end(guest->queries, why, NULL, 0);
    }
    KELPIE_ASSERT(guest->queries == NULL);
    kelpie__guest_give_up(guest, why);
    guest->wire = NULL;
    guest->phase = KELPIE_GUEST_NONE;
    guest->quiet = KELPIE_GUEST_HEARD;
    kelpie__wire_destroy(wire); /* pending calls end without a callback */
}
