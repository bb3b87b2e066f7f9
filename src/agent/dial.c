/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * The way to the host where a VMM gives a vsock device instead of a port (libkrun): the agent
 * dials, and the first connection of a boot is its own, since nothing else runs in the guest before
 * hello. It is dialled once: the host takes no second one.
 */
#include "agent/agent.h"

#include "agent/boot.h"
#include "core/text.h"
#include "os/os_call.h"

#define DIAL_VARIABLE "KELPIE_PORT" /* of the kernel's command line */
#define DIAL_RETRY_NS (20 * KELPIE_NS_PER_MS)
#define DIAL_COUNT_MAX 256 /* a port that nobody listens on takes two seconds to say so */

static void dial_retry_callback(void *context) {
    struct kelpie_agent *agent = context;
    KELPIE_ASSERT(!agent->is_dialling);
    kelpie__agent_dial(agent, kelpie__agent_dial_port(agent->os));
}

static void dial_failed(struct kelpie_agent *agent, const char *why) {
    KELPIE_ASSERT(!agent->is_dialling);
    KELPIE_ASSERT(why[0] != '\0');
    agent->attempt_count += 1;
    if (agent->attempt_count > DIAL_COUNT_MAX) {
        kelpie__agent_log(agent->os, "the host cannot be dialled: %s", why);
        kelpie__agent_stop(agent, 0);
        return;
    }
    kelpie__timer_arm(agent->loop, &agent->attempt_timer, agent->loop->now_ns + DIAL_RETRY_NS,
                      dial_retry_callback, agent);
}

/* What a read of a stream that is not connected answers. */
static const char *dial_reason(struct kelpie_agent *agent) {
    char byte = 0;
    int64_t status = kelpie__os_read(agent->os, agent->port, &byte, sizeof(byte));
    const char *text = status < 0 ? kelpie__errno_text((int)-status) : NULL;
    KELPIE_ASSERT(status <= (int64_t)sizeof(byte));
    return text != NULL ? text : "it hung up";
}

static void dial_ready_callback(void *context, uint32_t bits) {
    struct kelpie_agent *agent = context;
    KELPIE_ASSERT(agent->is_dialling);
    KELPIE_ASSERT(agent->port >= 0);
    KELPIE_ASSERT(bits != 0);
    kelpie__loop_unwatch(agent->loop, agent->dial_slot);
    agent->is_dialling = false;
    /* Where a connect failed, the stream's error is set, and epoll tells of that: it is never
     * writable alone. */
    if ((bits & KELPIE_OS_HANGUP) != 0) {
        const char *why = dial_reason(agent);
        kelpie__ignore(kelpie__os_close(agent->os, agent->port));
        agent->port = KELPIE_OS_NO_HANDLE;
        dial_failed(agent, why);
        return;
    }
    agent->attempt_count = 0;
    agent->is_dialled = true;
    kelpie__agent_connect(agent);
}

uint32_t kelpie__agent_dial_port(struct kelpie_os *os) {
    uint64_t port = 0;
    const char *text = kelpie__os_environment(os, DIAL_VARIABLE);
    bool is_port = text != NULL && kelpie__text_u64(text, &port) && port > 0 && port < UINT32_MAX;
    KELPIE_ASSERT(!is_port || port != 0);
    return is_port ? (uint32_t)port : 0;
}

void kelpie__agent_dial(struct kelpie_agent *agent, uint32_t port) {
    KELPIE_ASSERT(agent->phase == KELPIE_AGENT_SEARCHING);
    KELPIE_ASSERT(agent->port < 0 && !agent->is_dialling && port != 0);
    int handle = kelpie__os_dial_host(agent->os, port);
    if (handle < 0) {
        dial_failed(agent, kelpie__errno_text(-handle));
        return;
    }
    if (kelpie__loop_watch(agent->loop, handle, KELPIE_OS_WRITABLE, dial_ready_callback, agent,
                           &agent->dial_slot) < 0) {
        kelpie__ignore(kelpie__os_close(agent->os, handle));
        dial_failed(agent, "it cannot be watched");
        return;
    }
    agent->port = handle;
    agent->is_dialling = true;
}
