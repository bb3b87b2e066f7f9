/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * What a peer may ask of the agent, one function per method (docs/protocol.md). Nothing but hello
 * and ping is answered before hello, and no command starts before setup: it would see a wrong root,
 * clock and entropy.
 */
#include "agent/request.h"

#include <errno.h>
#include <string.h>

#include "agent/agent.h"
#include "agent/boot.h"
#include "agent/machine_id.h"
#include "agent/params.h"
#include "agent/root.h"
#include "agent/share.h"
#include "agent/stats.h"
#include "core/json.h"
#include "core/text.h"
#include "os/os_call.h"
#include "os/os_mark.h"

#define REQUEST_STOP_MS_MAX (60 * 60 * 1000)
#define REQUEST_ENTROPY_BYTES_MAX 256
#define REQUEST_HOST_NAME_BYTES 65 /* the kernel takes 64 */
#define REQUEST_RESULT_BYTES_MAX 512
#define REQUEST_WALL_NS_MAX 9000000000000000000ULL /* the year 2255 */

static void request_refuse(struct kelpie_agent *agent, uint64_t id,
                           const struct kelpie_error *error) {
    KELPIE_ASSERT(error->code < 0);
    kelpie__wire_refuse(agent->wire, id, error);
}

/* --- hello --- */

static int hello_read(const struct kelpie_agent_params *params, char *epoch,
                      struct kelpie_error *error) {
    uint64_t version = KELPIE_PROTOCOL_VERSION;
    uint64_t version_min = KELPIE_PROTOCOL_VERSION_MIN;
    const struct kelpie_agent_range range = {1, UINT32_MAX};
    int status = kelpie__agent_params_number(params, "version", range, &version, error);
    if (status == 0) {
        status = kelpie__agent_params_number(params, "version_min", range, &version_min, error);
    }
    if (status == 0) {
        status =
            kelpie__agent_params_hex(params, "epoch", KELPIE_AGENT_EPOCH_BYTES - 1, epoch, error);
    }
    if (status < 0) {
        return status;
    }
    if (version < KELPIE_PROTOCOL_VERSION_MIN || version_min > KELPIE_PROTOCOL_VERSION) {
        return kelpie__fail(error, KELPIE_E_UNSUPPORTED, 0,
                            "the peer speaks protocol versions %llu to %llu, the agent %u to %u",
                            (unsigned long long)version_min, (unsigned long long)version,
                            KELPIE_PROTOCOL_VERSION_MIN, KELPIE_PROTOCOL_VERSION);
    }
    return 0;
}

static void request_hello(struct kelpie_agent *agent, uint64_t id,
                          const struct kelpie_agent_params *params) {
    kelpie__agent_check(agent);
    struct kelpie_error error = {0};
    char epoch[KELPIE_AGENT_EPOCH_BYTES];
    if (hello_read(params, epoch, &error) < 0) {
        request_refuse(agent, id, &error);
        return;
    }
    kelpie__agent_greet(agent, epoch);
    char text[KELPIE_MESSAGE_BYTES_MAX - REQUEST_RESULT_BYTES_MAX];
    struct kelpie_json_writer writer;
    kelpie__json_begin(&writer, text, sizeof(text));
    kelpie__json_object_begin(&writer, NULL);
    kelpie__json_write_u64(&writer, "version", KELPIE_PROTOCOL_VERSION);
    kelpie__json_array_begin(&writer, "features");
    kelpie__json_array_end(&writer);
    kelpie__json_write_string(&writer, "epoch", agent->epoch);
    if (agent->token[0] != '\0') {
        kelpie__json_write_string(&writer, "token", agent->token);
    }
    kelpie__json_write_bool(&writer, "is_set_up", agent->is_set_up);
    kelpie__agent_exec_write_list(agent, &writer);
    kelpie__json_object_end(&writer);
    int64_t length = kelpie__json_finish(&writer);
    KELPIE_ASSERT(length > 0); /* the table of commands is bounded, and so is a line of it */
    kelpie__wire_result(agent->wire, id, text);
}

/* --- setup --- */

struct setup {
    struct kelpie_agent_root root;
    char host_name[REQUEST_HOST_NAME_BYTES];
    char machine_id[KELPIE_AGENT_MACHINE_ID_BYTES]; /* "": as it is */
    uint64_t wall_ns;
    uint8_t entropy[REQUEST_ENTROPY_BYTES_MAX];
    size_t entropy_bytes;
    bool loads_late_modules;
};

static int setup_read_root(const struct kelpie_agent_params *params, struct kelpie_agent_root *out,
                           struct kelpie_error *error) {
    struct kelpie_agent_params root;
    char kind[16] = "builtin";
    char writable[16] = "none";
    int status = kelpie__agent_params_object(params, "root", &root, error);
    if (status == 0) {
        status = kelpie__agent_params_text(&root, "kind", kind, sizeof(kind), error);
    }
    if (status == 0) {
        status = kelpie__agent_params_text(&root, "device_serial", out->serial, sizeof(out->serial),
                                           error);
    }
    if (status == 0) {
        status = kelpie__agent_params_text(&root, "fs", out->type, sizeof(out->type), error);
    }
    if (status == 0) {
        status = kelpie__agent_params_flag(&root, "read_only", &out->is_read_only, error);
    }
    if (status == 0) {
        status = kelpie__agent_params_text(&root, "writable", writable, sizeof(writable), error);
    }
    if (status < 0) {
        return status;
    }
    out->is_device = strcmp(kind, "device") == 0;
    if (!out->is_device && strcmp(kind, "builtin") != 0) {
        return kelpie__fail(error, KELPIE_E_PROTOCOL, 0, "root kind \"%s\" is unknown", kind);
    }
    if (out->is_device && (out->serial[0] == '\0' || out->type[0] == '\0')) {
        return kelpie__fail(error, KELPIE_E_PROTOCOL, 0,
                            "a root on a device has a serial and an fs");
    }
    if (strcmp(writable, "tmpfs") == 0) {
        out->writable = KELPIE_AGENT_ROOT_WRITABLE_TMPFS;
    } else if (strcmp(writable, "disk") == 0) {
        out->writable = KELPIE_AGENT_ROOT_WRITABLE_DISK;
    } else if (strcmp(writable, "none") != 0) {
        return kelpie__fail(error, KELPIE_E_PROTOCOL, 0, "writable \"%s\" is unknown", writable);
    }
    return 0;
}

static int setup_read_entropy(const struct kelpie_agent_params *params, struct setup *out,
                              struct kelpie_error *error) {
    char text[2 * REQUEST_ENTROPY_BYTES_MAX + 1] = "";
    int status = kelpie__agent_params_text(params, "entropy", text, sizeof(text), error);
    if (status < 0) {
        return status;
    }
    size_t length = strlen(text);
    if (length % 2 != 0 || !kelpie__text_unhex(text, out->entropy, length / 2)) {
        return kelpie__fail(error, KELPIE_E_PROTOCOL, 0, "\"entropy\" is not hexadecimal");
    }
    out->entropy_bytes = length / 2;
    return 0;
}

static int setup_read_machine_id(const struct kelpie_agent_params *params,
                                 char out[KELPIE_AGENT_MACHINE_ID_BYTES],
                                 struct kelpie_error *error) {
    char text[KELPIE_AGENT_MACHINE_ID_BYTES] = "";
    int status = kelpie__agent_params_text(params, "machine_id", text, sizeof(text), error);
    if (status < 0 || text[0] == '\0') {
        return status; /* it may be left out */
    }
    return kelpie__agent_params_hex(params, "machine_id", KELPIE_AGENT_MACHINE_ID_BYTES - 1, out,
                                    error);
}

static int setup_read(const struct kelpie_agent_params *params, struct setup *out,
                      struct kelpie_error *error) {
    const struct kelpie_agent_range range = {1, REQUEST_WALL_NS_MAX};
    int status = setup_read_root(params, &out->root, error);
    if (status == 0) {
        status = kelpie__agent_params_text(params, "hostname", out->host_name,
                                           sizeof(out->host_name), error);
    }
    if (status == 0) {
        status = setup_read_machine_id(params, out->machine_id, error);
    }
    if (status == 0) {
        status = kelpie__agent_params_number(params, "wall_ns", range, &out->wall_ns, error);
    }
    if (status == 0) {
        status = setup_read_entropy(params, out, error);
    }
    if (status == 0) {
        status = kelpie__agent_params_flag(params, "modules_late", &out->loads_late_modules, error);
    }
    return status;
}

/* What may be done any number of times: at boot, and again after a restore or a fork. */
static int setup_identity(struct kelpie_agent *agent, const struct setup *setup,
                          struct kelpie_error *error) {
    KELPIE_ASSERT(setup->entropy_bytes <= sizeof(setup->entropy));
    KELPIE_ASSERT(agent->is_guest);
    bool is_careless = KELPIE_CANARY(agent->os, 15) && agent->is_set_up;
    if (setup->entropy_bytes > 0 && !is_careless) {
        int status = kelpie__os_add_entropy(agent->os, setup->entropy, setup->entropy_bytes);
        if (status < 0) {
            return kelpie__fail(error, KELPIE_E_BOOT, -status, "add %zu bytes of entropy",
                                setup->entropy_bytes);
        }
    }
    if (setup->wall_ns > 0) {
        int status = kelpie__os_set_wall_clock(agent->os, (int64_t)setup->wall_ns);
        if (status < 0) {
            return kelpie__fail(error, KELPIE_E_BOOT, -status, "set the wall clock");
        }
    }
    if (setup->host_name[0] != '\0') {
        int status = kelpie__os_set_hostname(agent->os, setup->host_name);
        if (status < 0) {
            return kelpie__fail(error, KELPIE_E_BOOT, -status, "set the host name \"%s\"",
                                setup->host_name);
        }
    }
    return 0;
}

static int setup_apply(struct kelpie_agent *agent, const struct setup *setup,
                       struct kelpie_error *error) {
    KELPIE_ASSERT(agent->is_guest);
    int status = setup_identity(agent, setup, error);
    if (status < 0) {
        return status;
    }
    /* The built-in root may become read-only below; another one is there only then. */
    if (agent->is_set_up || !setup->root.is_device) {
        kelpie__agent_machine_id_write(agent->os, setup->machine_id);
    }
    if (agent->is_set_up) {
        return 0; /* the root is entered once */
    }
    if (setup->loads_late_modules && !setup->root.is_device) {
        status = kelpie__agent_load_modules(agent->os, "disk", error);
    }
    if (status == 0) {
        status = kelpie__agent_root_enter(agent->os, &setup->root, error);
    }
    if (status == 0 && setup->root.is_device) {
        kelpie__agent_machine_id_write(agent->os, setup->machine_id);
    }
    return status;
}

static void request_setup(struct kelpie_agent *agent, uint64_t id,
                          const struct kelpie_agent_params *params) {
    kelpie__agent_check(agent);
    struct setup setup = {0};
    struct kelpie_error error = {0};
    int status = setup_read(params, &setup, &error);
    if (status == 0 && agent->is_guest) {
        status = setup_apply(agent, &setup, &error);
    }
    if (status < 0) {
        request_refuse(agent, id, &error);
        return;
    }
    agent->is_set_up = true;
    kelpie__wire_result(agent->wire, id, "{}");
}

/* --- ping, cancel, quiesce --- */

static void request_ping(struct kelpie_agent *agent, uint64_t id,
                         const struct kelpie_agent_params *params) {
    char nonce[65] = "";
    struct kelpie_error error = {0};
    if (kelpie__agent_params_text(params, "nonce", nonce, sizeof(nonce), &error) < 0) {
        request_refuse(agent, id, &error);
        return;
    }
    char text[REQUEST_RESULT_BYTES_MAX];
    struct kelpie_json_writer writer;
    kelpie__json_begin(&writer, text, sizeof(text));
    kelpie__json_object_begin(&writer, NULL);
    kelpie__json_write_string(&writer, "nonce", nonce);
    kelpie__json_object_end(&writer);
    int64_t length = kelpie__json_finish(&writer);
    KELPIE_ASSERT(length > 0); /* six characters for each of 64 fit */
    kelpie__wire_result(agent->wire, id, text);
}

/* Both sides have ended their frame when this is answered. What the next connection sends before
 * the mark belongs to nobody: it may be half a frame of one that is gone. */
static void request_quiesce(struct kelpie_agent *agent, uint64_t id,
                            const struct kelpie_agent_params *params) {
    KELPIE_ASSERT(agent->phase != KELPIE_AGENT_QUIESCED); /* then nothing is heard */
    char mark_text[2 * KELPIE_MARK_BYTES + 1];
    char token[KELPIE_AGENT_TOKEN_BYTES];
    uint8_t mark[KELPIE_MARK_BYTES];
    struct kelpie_error error = {0};
    int status = kelpie__agent_params_hex(params, "mark", sizeof(mark_text) - 1, mark_text, &error);
    if (status == 0) {
        status = kelpie__agent_params_hex(params, "token", sizeof(token) - 1, token, &error);
    }
    if (status == 0 && agent->phase == KELPIE_AGENT_STOPPING) {
        status = kelpie__fail(&error, KELPIE_E_STATE, 0, "the guest is shutting down");
    }
    if (status < 0) {
        request_refuse(agent, id, &error);
        return;
    }
    bool is_hex = kelpie__text_unhex(mark_text, mark, sizeof(mark));
    KELPIE_ASSERT(is_hex);
    memcpy(agent->token, token, sizeof(token));
    kelpie__agent_sync_give_up(agent);
    kelpie__agent_ready_make(agent); /* for the first command after a restore */
    kelpie__wire_result(agent->wire, id, "{}");
    /* What was told before this answer has arrived with it. */
    kelpie__agent_exec_forget_told(agent);
    kelpie__agent_quiesce(agent, mark);
}

/* --- guest --- */

static void request_guest_stats(struct kelpie_agent *agent, uint64_t id,
                                const struct kelpie_agent_params *params) {
    KELPIE_ASSERT(params->length > 0);
    struct kelpie_agent_stats stats;
    kelpie__agent_stats_read(agent->os, &stats);
    char text[REQUEST_RESULT_BYTES_MAX];
    struct kelpie_json_writer writer;
    kelpie__json_begin(&writer, text, sizeof(text));
    kelpie__json_object_begin(&writer, NULL);
    kelpie__json_write_u64(&writer, "uptime_ms", stats.uptime_ms);
    kelpie__json_write_u64(&writer, "load1_milli", stats.load1_milli);
    kelpie__json_write_u64(&writer, "memory_total_kib", stats.memory_total_kib);
    kelpie__json_write_u64(&writer, "memory_available_kib", stats.memory_available_kib);
    uint64_t own_count = agent->ready.pid == 0 ? 0 : 1; /* nobody has asked for it */
    kelpie__json_write_u64(&writer, "process_count",
                           stats.process_count - kelpie__min_u64(own_count, stats.process_count));
    kelpie__json_write_u64(&writer, "disk_total_kib", stats.disk_total_kib);
    kelpie__json_write_u64(&writer, "disk_used_kib", stats.disk_used_kib);
    kelpie__json_write_u64(&writer, "cpu_ms", stats.cpu_ms);
    kelpie__json_object_end(&writer);
    int64_t length = kelpie__json_finish(&writer);
    KELPIE_ASSERT(length > 0);
    kelpie__wire_result(agent->wire, id, text);
}

static void request_guest_clock(struct kelpie_agent *agent, uint64_t id,
                                const struct kelpie_agent_params *params) {
    const struct kelpie_agent_range range = {1, REQUEST_WALL_NS_MAX};
    uint64_t wall_ns = 0;
    struct kelpie_error error = {0};
    int status = kelpie__agent_params_number(params, "wall_ns", range, &wall_ns, &error);
    if (status == 0 && wall_ns > 0 && agent->is_guest) {
        int result = kelpie__os_set_wall_clock(agent->os, (int64_t)wall_ns);
        if (result < 0) {
            status = kelpie__fail(&error, KELPIE_E_IO, -result, "set the wall clock");
        }
    }
    if (status < 0) {
        request_refuse(agent, id, &error);
        return;
    }
    struct kelpie_agent_clock_sample sample = kelpie__agent_sample_clock(agent);
    char text[REQUEST_RESULT_BYTES_MAX];
    bool is_whole =
        kelpie__text_format(text, sizeof(text), "{\"monotonic_ns\":%lld,\"tsc\":%llu}",
                            (long long)sample.monotonic_ns, (unsigned long long)sample.cycles);
    KELPIE_ASSERT(is_whole);
    kelpie__wire_result(agent->wire, id, text);
}

static void request_guest_shutdown(struct kelpie_agent *agent, uint64_t id,
                                   const struct kelpie_agent_params *params) {
    kelpie__agent_check(agent);
    const struct kelpie_agent_range range = {0, REQUEST_STOP_MS_MAX};
    uint64_t timeout_ms = KELPIE_STOP_TIMEOUT_MS_DEFAULT;
    struct kelpie_error error = {0};
    if (kelpie__agent_params_number(params, "timeout_ms", range, &timeout_ms, &error) < 0) {
        request_refuse(agent, id, &error);
        return;
    }
    kelpie__wire_result(agent->wire, id, "{}");
    kelpie__agent_stop(agent, timeout_ms);
}

/* --- All of them. --- */

enum request_needs {
    REQUEST_NEEDS_NOTHING,
    REQUEST_NEEDS_HELLO,
    REQUEST_NEEDS_SETUP,
};

struct request_method {
    const char *name;
    enum request_needs needs;
    void (*handle)(struct kelpie_agent *agent, uint64_t id,
                   const struct kelpie_agent_params *params);
};

static const struct request_method request_methods[] = {
    {"hello", REQUEST_NEEDS_NOTHING, request_hello},
    {"ping", REQUEST_NEEDS_NOTHING, request_ping},
    {"setup", REQUEST_NEEDS_HELLO, request_setup},
    {"quiesce", REQUEST_NEEDS_HELLO, request_quiesce},
    {"guest.stats", REQUEST_NEEDS_HELLO, request_guest_stats},
    {"guest.clock", REQUEST_NEEDS_HELLO, request_guest_clock},
    {"guest.mount", REQUEST_NEEDS_SETUP, kelpie__agent_share_request},
    {"guest.sync", REQUEST_NEEDS_SETUP, kelpie__agent_sync_request},
    {"guest.shutdown", REQUEST_NEEDS_HELLO, request_guest_shutdown},
    {"exec.start", REQUEST_NEEDS_SETUP, kelpie__agent_request_exec_start},
    {"exec.attach", REQUEST_NEEDS_SETUP, kelpie__agent_request_exec_attach},
    {"exec.signal", REQUEST_NEEDS_SETUP, kelpie__agent_request_exec_signal},
    {"exec.resize", REQUEST_NEEDS_SETUP, kelpie__agent_request_exec_resize},
    {"exec.kill", REQUEST_NEEDS_SETUP, kelpie__agent_request_exec_kill},
    {"exec.list", REQUEST_NEEDS_SETUP, kelpie__agent_request_exec_list},
};

void kelpie__agent_request(struct kelpie_agent *agent, uint64_t id, const char *method,
                           const char *params, size_t length) {
    KELPIE_ASSERT(agent->wire != NULL);
    KELPIE_ASSERT(length >= 2);
    KELPIE_ASSERT(params[0] == '{');
    const struct request_method *found = NULL;
    for (size_t i = 0; i < KELPIE_ARRAY_COUNT(request_methods) && found == NULL; i += 1) {
        found = strcmp(request_methods[i].name, method) == 0 ? &request_methods[i] : NULL;
    }
    if (found == NULL) {
        kelpie__wire_refuse_text(agent->wire, id, KELPIE_E_UNSUPPORTED,
                                 "the agent does not know the method \"%s\"", method);
        return;
    }
    if (found->needs > REQUEST_NEEDS_NOTHING && agent->phase == KELPIE_AGENT_WAITING) {
        kelpie__wire_refuse_text(agent->wire, id, KELPIE_E_STATE, "\"%s\" before \"hello\"",
                                 method);
        return;
    }
    if (found->needs == REQUEST_NEEDS_SETUP && !agent->is_set_up) {
        kelpie__wire_refuse_text(agent->wire, id, KELPIE_E_STATE, "\"%s\" before \"setup\"",
                                 method);
        return;
    }
    struct kelpie_agent_params object;
    kelpie__agent_params_init(&object, params, length);
    found->handle(agent, id, &object);
}
