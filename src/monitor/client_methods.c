/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * What clients ask for: see client.h. A method is a row of a table; what it means is the business
 * of the module that it calls.
 */
#include "monitor/client.h"

#include <string.h>

#include "core/json.h"
#include "core/text.h"
#include "monitor/inspect.h"
#include "monitor/monitor.h"
#include "os/os_call.h"

static void client_hello(struct kelpie_client *client, struct kelpie_reply reply,
                         const char *params, size_t length) {
    struct kelpie_monitor *monitor = client->monitor;
    uint64_t version = 0;
    uint64_t version_min = 0;
    char text[1024];
    uint8_t epoch[KELPIE_EPOCH_BYTES];
    char epoch_hex[2 * KELPIE_EPOCH_BYTES + 1];
    if (kelpie__json_find_u64(params, length, "version", &version) < 0 ||
        kelpie__json_find_u64(params, length, "version_min", &version_min) < 0 ||
        version < KELPIE_PROTOCOL_VERSION_MIN || version_min > KELPIE_PROTOCOL_VERSION) {
        kelpie__reply_refuse_text(monitor, &reply, KELPIE_E_UNSUPPORTED,
                                  "this monitor speaks protocol versions %u to %u, the client %llu "
                                  "to %llu",
                                  KELPIE_PROTOCOL_VERSION_MIN, KELPIE_PROTOCOL_VERSION,
                                  (unsigned long long)version_min, (unsigned long long)version);
        return;
    }
    int status = kelpie__os_random(monitor->os, epoch, sizeof(epoch));
    if (status < 0) {
        kelpie__reply_refuse_text(monitor, &reply, KELPIE_E_IO, "draw an epoch: %s",
                                  kelpie__errno_text(-status));
        return;
    }
    client->has_said_hello = true;
    kelpie__text_hex(epoch_hex, sizeof(epoch_hex), epoch, sizeof(epoch));
    struct kelpie_json_writer writer;
    kelpie__json_begin(&writer, text, sizeof(text));
    kelpie__json_object_begin(&writer, NULL);
    kelpie__json_write_u64(&writer, "version", kelpie__min_u64(version, KELPIE_PROTOCOL_VERSION));
    kelpie__json_array_begin(&writer, "features");
    kelpie__json_array_end(&writer);
    kelpie__json_write_string(&writer, "epoch", epoch_hex);
    kelpie__json_array_begin(&writer, "execs"); /* a client's connection begins without any */
    kelpie__json_array_end(&writer);
    kelpie__json_object_begin(&writer, "vm");
    kelpie__json_write_string(&writer, "id", monitor->config.id);
    kelpie__json_write_string(&writer, "name", monitor->config.name);
    kelpie__json_write_string(&writer, "state", kelpie_vm_state_name(monitor->lifecycle.state));
    kelpie__json_object_end(&writer);
    kelpie__json_object_end(&writer);
    int64_t written = kelpie__json_finish(&writer);
    KELPIE_ASSERT(written > 0);
    kelpie__reply_result(monitor, &reply, text);
}

static void client_ping(struct kelpie_client *client, struct kelpie_reply reply, const char *params,
                        size_t length) {
    struct kelpie_json_value nonce;
    char text[256];
    struct kelpie_json_writer writer;
    kelpie__json_begin(&writer, text, sizeof(text));
    kelpie__json_object_begin(&writer, NULL);
    if (kelpie__json_find(params, length, "nonce", &nonce) == 0) {
        kelpie__json_write_raw(&writer, "nonce", nonce.text, nonce.length);
    }
    kelpie__json_object_end(&writer);
    if (kelpie__json_finish(&writer) < 0) {
        kelpie__reply_refuse_text(client->monitor, &reply, KELPIE_E_LIMIT,
                                  "a nonce takes at most 200 bytes");
        return;
    }
    kelpie__reply_result(client->monitor, &reply, text);
}

void kelpie__client_cancel_request(struct kelpie_client *client, uint64_t request) {
    KELPIE_ASSERT(client->serial != 0);
    kelpie__relay_cancel(&client->monitor->relay, client->serial, request);
    kelpie__lifecycle_cancel(client->monitor, client->serial, request);
    kelpie__capture_cancel(client->monitor, client->serial, request);
    kelpie__restore_cancel(client->monitor, client->serial, request);
}

static void client_cancel(struct kelpie_client *client, struct kelpie_reply reply,
                          const char *params, size_t length) {
    uint64_t request = 0;
    if (kelpie__json_find_u64(params, length, "request", &request) == 0) {
        kelpie__client_cancel_request(client, request);
    }
    kelpie__reply_result(client->monitor, &reply, "{}");
}

static void client_subscribe(struct kelpie_client *client, struct kelpie_reply reply,
                             const char *params, size_t length) {
    (void)params;
    (void)length;
    client->is_subscribed = true;
    kelpie__reply_result(client->monitor, &reply, "{}");
}

static void client_start(struct kelpie_client *client, struct kelpie_reply reply,
                         const char *params, size_t length) {
    uint64_t timeout_ms = 0;
    struct kelpie_member *member = &client->monitor->member;
    kelpie__ignore(kelpie__json_find_u64(params, length, "timeout_ms", &timeout_ms)); /* optional */
    member->is_background = false;
    kelpie__ignore(kelpie__json_find_bool(params, length, "background", &member->is_background));
    kelpie__lifecycle_start(client->monitor, reply, timeout_ms);
}

static void client_stop(struct kelpie_client *client, struct kelpie_reply reply, const char *params,
                        size_t length) {
    uint64_t timeout_ms = 0;
    kelpie__ignore(kelpie__json_find_u64(params, length, "timeout_ms", &timeout_ms)); /* optional */
    kelpie__lifecycle_stop(client->monitor, reply, timeout_ms);
}

static void client_kill(struct kelpie_client *client, struct kelpie_reply reply, const char *params,
                        size_t length) {
    (void)params;
    (void)length;
    kelpie__lifecycle_kill(client->monitor, reply);
}

static void client_pause(struct kelpie_client *client, struct kelpie_reply reply,
                         const char *params, size_t length) {
    (void)params;
    (void)length;
    kelpie__pause_pause(client->monitor, reply);
}

static void client_resume(struct kelpie_client *client, struct kelpie_reply reply,
                          const char *params, size_t length) {
    (void)params;
    (void)length;
    kelpie__pause_resume(client->monitor, reply);
}

static void client_snapshot(struct kelpie_client *client, struct kelpie_reply reply,
                            const char *params, size_t length) {
    kelpie__capture_request(client->monitor, reply, params, length);
}

static void client_restore(struct kelpie_client *client, struct kelpie_reply reply,
                           const char *params, size_t length) {
    kelpie__restore_request(client->monitor, reply, params, length);
}

static void client_base(struct kelpie_client *client, struct kelpie_reply reply, const char *params,
                        size_t length) {
    (void)params;
    (void)length;
    kelpie__waiting_tell_base(client->monitor, reply);
}

static void client_wait(struct kelpie_client *client, struct kelpie_reply reply, const char *params,
                        size_t length) {
    kelpie__waiting_request(client->monitor, reply, params, length);
}

static void client_delete(struct kelpie_client *client, struct kelpie_reply reply,
                          const char *params, size_t length) {
    bool is_forced = false;
    bool is_conditional = false;
    kelpie__ignore(kelpie__json_find_bool(params, length, "force", &is_forced)); /* optional */
    kelpie__ignore(kelpie__json_find_bool(params, length, "offered", &is_conditional));
    if (is_conditional && client->monitor->member.phase != KELPIE_MEMBER_OFFERED) {
        kelpie__reply_refuse_text(client->monitor, &reply, KELPIE_E_STATE,
                                  "delete: VM \"%s\" does not wait in a pool",
                                  client->monitor->config.name);
        return;
    }
    kelpie__lifecycle_delete(client->monitor, reply, is_forced);
}

static void client_offer(struct kelpie_client *client, struct kelpie_reply reply,
                         const char *params, size_t length) {
    kelpie__member_offer(client->monitor, reply, params, length);
}

static void client_claim(struct kelpie_client *client, struct kelpie_reply reply,
                         const char *params, size_t length) {
    kelpie__member_claim(client->monitor, reply, params, length);
}

static void client_lease(struct kelpie_client *client, struct kelpie_reply reply,
                         const char *params, size_t length) {
    kelpie__member_lease(client->monitor, reply, params, length);
}

static void client_inspect(struct kelpie_client *client, struct kelpie_reply reply,
                           const char *params, size_t length) {
    (void)params;
    (void)length;
    kelpie__inspect_state(client->monitor, reply);
}

static void client_stats(struct kelpie_client *client, struct kelpie_reply reply,
                         const char *params, size_t length) {
    (void)params;
    (void)length;
    kelpie__inspect_stats(client->monitor, reply);
}

static void client_stages(struct kelpie_client *client, struct kelpie_reply reply,
                          const char *params, size_t length) {
    (void)params;
    (void)length;
    kelpie__stages_tell(client->monitor, reply);
}

static void client_health(struct kelpie_client *client, struct kelpie_reply reply,
                          const char *params, size_t length) {
    uint64_t timeout_ms = 0;
    kelpie__ignore(kelpie__json_find_u64(params, length, "timeout_ms", &timeout_ms)); /* optional */
    kelpie__inspect_health(client->monitor, reply, timeout_ms);
}

static void client_exec_start(struct kelpie_client *client, struct kelpie_reply reply,
                              const char *params, size_t length) {
    kelpie__relay_start(&client->monitor->relay, reply, params, length);
}

static void client_exec_attach(struct kelpie_client *client, struct kelpie_reply reply,
                               const char *params, size_t length) {
    kelpie__relay_attach(&client->monitor->relay, reply, params, length);
}

static void client_exec_detach(struct kelpie_client *client, struct kelpie_reply reply,
                               const char *params, size_t length) {
    kelpie__relay_detach(&client->monitor->relay, reply, params, length);
}

static void client_exec_list(struct kelpie_client *client, struct kelpie_reply reply,
                             const char *params, size_t length) {
    (void)params;
    (void)length;
    kelpie__relay_list(&client->monitor->relay, reply);
}

static void client_exec_signal(struct kelpie_client *client, struct kelpie_reply reply,
                               const char *params, size_t length) {
    kelpie__relay_control(&client->monitor->relay, reply, "exec.signal", params, length);
}

static void client_exec_resize(struct kelpie_client *client, struct kelpie_reply reply,
                               const char *params, size_t length) {
    kelpie__relay_control(&client->monitor->relay, reply, "exec.resize", params, length);
}

static void client_exec_kill(struct kelpie_client *client, struct kelpie_reply reply,
                             const char *params, size_t length) {
    kelpie__relay_control(&client->monitor->relay, reply, "exec.kill", params, length);
}

struct client_method {
    const char *name;
    void (*handler)(struct kelpie_client *client, struct kelpie_reply reply, const char *params,
                    size_t length);
};

static const struct client_method client_methods[] = {
    {"exec.start", client_exec_start},
    {"exec.attach", client_exec_attach},
    {"exec.detach", client_exec_detach},
    {"exec.list", client_exec_list},
    {"exec.signal", client_exec_signal},
    {"exec.resize", client_exec_resize},
    {"exec.kill", client_exec_kill},
    {"hello", client_hello},
    {"ping", client_ping},
    {"cancel", client_cancel},
    {"vm.start", client_start},
    {"vm.stop", client_stop},
    {"vm.kill", client_kill},
    {"vm.pause", client_pause},
    {"vm.resume", client_resume},
    {"vm.snapshot", client_snapshot},
    {"vm.restore", client_restore},
    {"vm.base", client_base},
    {"vm.wait", client_wait},
    {"vm.delete", client_delete},
    {"vm.offer", client_offer},
    {"vm.claim", client_claim},
    {"vm.lease", client_lease},
    {"vm.inspect", client_inspect},
    {"vm.stats", client_stats},
    {"vm.health", client_health},
    {"vm.stages", client_stages},
    {"vm.subscribe", client_subscribe},
};

void kelpie__client_serve(struct kelpie_client *client, struct kelpie_reply reply,
                          const char *method, const char *params, size_t length) {
    KELPIE_ASSERT(client->serial != 0);
    KELPIE_ASSERT(reply.client == client->serial);
    for (size_t i = 0; i < KELPIE_ARRAY_COUNT(client_methods); i += 1) {
        if (strcmp(client_methods[i].name, method) == 0) {
            client_methods[i].handler(client, reply, params, length);
            return;
        }
    }
    kelpie__reply_refuse_text(client->monitor, &reply, KELPIE_E_UNSUPPORTED,
                              "this monitor has no method \"%s\"", method);
}
