/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * See sync.h. A call that syncs waits for the disk, which the agent must not: this program is
 * started again, from where the kernel keeps it, for the root that it came from is hidden.
 */
#include "agent/sync.h"

#include <errno.h>
#include <string.h>

#include "agent/agent.h"
#include "os/os_call.h"
#include "os/os_mark.h"

#define SYNC_PROGRAM "/proc/self/exe"

int kelpie__agent_sync_main(struct kelpie_os *os) {
    KELPIE_ASSERT(os->guest != NULL);
    return kelpie__os_sync_all(os) < 0 ? 1 : 0;
}

static int sync_start(struct kelpie_agent *agent) {
    static const char *const argv[] = {"kelpie-agent", KELPIE_AGENT_SYNC_OPTION, NULL};
    static const char *const environment[] = {NULL};
    const int handles[] = {KELPIE_OS_NO_HANDLE, KELPIE_OS_NO_HANDLE, KELPIE_OS_NO_HANDLE};
    /* In the agent's own session: what looks for strays of commands leaves it alone. */
    const struct kelpie_os_spawn spawn = {
        .path = SYNC_PROGRAM,
        .argv = argv,
        .environment = environment,
        .directory = "/",
        .handles = handles,
        .handle_count = KELPIE_ARRAY_COUNT(handles),
        .cgroup = KELPIE_OS_NO_HANDLE,
    };
    int process = KELPIE_OS_NO_HANDLE;
    int32_t pid = 0;
    int status = kelpie__os_spawn(agent->os, &spawn, &process, &pid, NULL);
    if (status < 0) {
        return status;
    }
    KELPIE_ASSERT(pid > 1);
    kelpie__ignore(kelpie__os_close(agent->os, process)); /* it is collected by its number */
    agent->sync.pid = pid;
    return 0;
}

void kelpie__agent_sync_request(struct kelpie_agent *agent, uint64_t id,
                                const struct kelpie_agent_params *params) {
    KELPIE_ASSERT(params->length > 0);
    KELPIE_ASSERT(agent->phase != KELPIE_AGENT_QUIESCED);
    if (agent->phase == KELPIE_AGENT_STOPPING) {
        kelpie__wire_refuse_text(agent->wire, id, KELPIE_E_STATE, "the guest is shutting down");
        return;
    }
    if (agent->sync.pid != 0) {
        KELPIE_REACHED(agent->os, "a guest was asked to sync while it does");
        kelpie__wire_refuse_text(agent->wire, id, KELPIE_E_BUSY, "the guest is syncing already");
        return;
    }
    int status = agent->is_guest ? sync_start(agent) : -ENOSYS;
    if (status < 0) {
        kelpie__wire_refuse_text(agent->wire, id, KELPIE_E_UNSUPPORTED, "the guest cannot sync: %s",
                                 kelpie__errno_name(-status));
        return;
    }
    agent->sync.request_id = id;
}

bool kelpie__agent_sync_reaped(struct kelpie_agent *agent, int32_t pid,
                               const struct kelpie_os_exit *exit) {
    if (agent->sync.pid == 0 || agent->sync.pid != pid) {
        return false;
    }
    uint64_t id = agent->sync.request_id;
    agent->sync = (struct kelpie_agent_sync){0};
    if (id == 0) {
        return true;
    }
    KELPIE_ASSERT(agent->wire != NULL);
    KELPIE_ASSERT(agent->phase != KELPIE_AGENT_QUIESCED);
    if (exit->is_signalled || exit->value != 0) {
        kelpie__wire_refuse_text(agent->wire, id, KELPIE_E_IO, "the guest could not sync");
    } else {
        kelpie__wire_result(agent->wire, id, "{}");
    }
    return true;
}

void kelpie__agent_sync_give_up(struct kelpie_agent *agent) {
    uint64_t id = agent->sync.request_id;
    KELPIE_ASSERT(id == 0 || agent->wire != NULL);
    agent->sync.request_id = 0;
    if (id != 0) {
        kelpie__wire_refuse_text(agent->wire, id, KELPIE_E_TIMEOUT, "the guest is still syncing");
    }
}

void kelpie__agent_sync_forget(struct kelpie_agent *agent) {
    agent->sync.request_id = 0;
}
