/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * The life of process 1: boot, the search for the port, the loop, the orderly end.
 */
#include "agent/agent.h"

#include <errno.h>
#include <signal.h>
#include <string.h>

#include "agent/boot.h"
#include "agent/root.h"
#include "core/text.h"
#include "os/os_call.h"
#include "os/os_mark.h"

#define AGENT_PORT_NAME "org.kelpie.agent"
#define AGENT_CGROUP "/sys/fs/cgroup/kelpie"
#define AGENT_WATCH_MAX (3 * KELPIE_AGENT_EXEC_MAX + 4)
#define AGENT_RETRY_MIN_NS (2 * KELPIE_NS_PER_MS) /* a look takes a quarter of a millisecond */
#define AGENT_RETRY_SHORT_COUNT 64 /* looks for the port after 2 ms each; then after 32 */
#define AGENT_RETRY_COUNT_MAX 1024 /* half a minute */
#define AGENT_STOP_KILL_MS 2000    /* what is left to processes after SIGKILL */
#define AGENT_STOP_HEARD_MS 1000   /* what is left to the host to have read the last word */
#define AGENT_STOP_SIGNAL_MS 5000  /* for "poweroff" typed in the guest */
#define AGENT_SIGNAL_COUNT_MAX 64  /* taken in one go */
#define AGENT_FLUSH_STEP_MAX 64
#define AGENT_CLOCK_TRIES 3
#define AGENT_CLOCK_TRIES_MAX 64
#define AGENT_CLOCK_SPAN_GOOD 200000u /* cycles: some 100 us, under TCG a hundred times enough */

struct agent_arguments {
    int channel; /* KELPIE_OS_NO_HANDLE: none was given */
    const char *cgroup;
};

void kelpie__agent_check(const struct kelpie_agent *agent) {
    bool is_served = agent->phase == KELPIE_AGENT_GREETED || agent->phase == KELPIE_AGENT_QUIESCED;
    KELPIE_ASSERT(agent->phase <= KELPIE_AGENT_STOPPED);
    KELPIE_ASSERT(agent->wire == NULL || agent->port >= 0);
    KELPIE_ASSERT(!is_served || agent->wire != NULL);
    KELPIE_ASSERT(!is_served || agent->epoch[0] != '\0');
    KELPIE_ASSERT(agent->phase != KELPIE_AGENT_SEARCHING || agent->wire == NULL);
    KELPIE_ASSERT(agent->execs.slot_count <= KELPIE_AGENT_EXEC_MAX);
}

struct kelpie_agent_clock_sample kelpie__agent_sample_clock(struct kelpie_agent *agent) {
    /* The shortest of three tries: an interrupt between the two readings would look like a wrong
     * clock. So would a processor that its host takes away in each of them, as a host with many
     * more processes than cores does: then there are more tries. */
    struct kelpie_agent_clock_sample best = {0};
    uint64_t best_span = UINT64_MAX;
    for (int i = 0;
         i < AGENT_CLOCK_TRIES || (best_span > AGENT_CLOCK_SPAN_GOOD && i < AGENT_CLOCK_TRIES_MAX);
         i += 1) {
        uint64_t before = kelpie__os_cycles(agent->os);
        int64_t now_ns = kelpie__os_now(agent->os, KELPIE_OS_CLOCK_MONOTONIC);
        uint64_t span = kelpie__os_cycles(agent->os) - before;
        if (span < best_span) {
            best_span = span;
            best.cycles = before + span / 2;
            best.monotonic_ns = now_ns;
        }
    }
    KELPIE_ASSERT(best_span != UINT64_MAX);
    return best;
}

/* --- The end. --- */

static void agent_stop_timer_callback(void *context);

static void agent_signal_all(struct kelpie_agent *agent, int signal) {
    if (agent->is_guest) {
        kelpie__ignore(kelpie__os_kill_pid(agent->os, -1, signal)); /* nobody may be left */
        return;
    }
    int32_t leaders[KELPIE_AGENT_EXEC_MAX];
    uint32_t count = kelpie__agent_exec_leaders(agent, leaders);
    for (uint32_t i = 0; i < count; i += 1) {
        KELPIE_ASSERT(leaders[i] > 1);
        kelpie__ignore(kelpie__os_kill_pid(agent->os, -leaders[i], signal));
    }
}

/* A vsock loses what the host's kernel has not taken when the machine is reset: the host answers
 * that it has read the last word. One that does not is not waited for. */
static bool agent_is_heard_first(struct kelpie_agent *agent) {
    KELPIE_ASSERT(agent->phase == KELPIE_AGENT_STOPPING);
    if (agent->is_leaving || !agent->is_dialled || !kelpie__agent_may_send(agent) ||
        kelpie__wire_notify(agent->wire, "goodbye", "{\"reason\":\"end\",\"answer\":true}") < 0) {
        return false;
    }
    agent->is_leaving = true;
    kelpie__timer_arm(agent->loop, &agent->stop_timer,
                      kelpie__loop_deadline(agent->loop, AGENT_STOP_HEARD_MS),
                      agent_stop_timer_callback, agent);
    return true;
}

static void agent_finish_stop(struct kelpie_agent *agent) {
    KELPIE_ASSERT(agent->phase == KELPIE_AGENT_STOPPING);
    if (agent_is_heard_first(agent)) {
        return;
    }
    kelpie__timer_disarm(agent->loop, &agent->stop_timer);
    /* The last words of commands are still on their way; a peer that does not read them is not
     * waited for. */
    for (int i = 0; i < AGENT_FLUSH_STEP_MAX; i += 1) {
        if (agent->wire == NULL || kelpie__wire_is_flushed(agent->wire)) {
            break;
        }
        kelpie__wire_flush(agent->wire);
    }
    agent->phase = KELPIE_AGENT_STOPPED;
}

static void agent_stop_timer_callback(void *context) {
    struct kelpie_agent *agent = context;
    KELPIE_ASSERT(agent->phase == KELPIE_AGENT_STOPPING);
    if (agent->was_kill_sent || agent->is_leaving) {
        agent_finish_stop(agent);
        return;
    }
    KELPIE_REACHED(agent->os, "processes outlived the request to go");
    agent->was_kill_sent = true;
    agent_signal_all(agent, SIGKILL);
    kelpie__timer_arm(agent->loop, &agent->stop_timer,
                      kelpie__loop_deadline(agent->loop, AGENT_STOP_KILL_MS),
                      agent_stop_timer_callback, agent);
}

/* Collects who has ended; when that was the last one of all, the end can go on. */
static void agent_reap(struct kelpie_agent *agent) {
    kelpie__agent_check(agent);
    bool is_somebody_left = kelpie__agent_exec_reap(agent);
    if (!is_somebody_left && agent->phase == KELPIE_AGENT_STOPPING && !agent->is_leaving) {
        agent_finish_stop(agent);
    }
}

void kelpie__agent_heard(struct kelpie_agent *agent) {
    if (agent->phase == KELPIE_AGENT_STOPPING && agent->is_leaving) {
        agent_finish_stop(agent);
    }
}

void kelpie__agent_stop(struct kelpie_agent *agent, uint64_t timeout_ms) {
    kelpie__agent_check(agent);
    if (agent->phase >= KELPIE_AGENT_STOPPING) {
        return;
    }
    if (kelpie__agent_may_send(agent)) {
        kelpie__ignore(kelpie__wire_notify(agent->wire, "goodbye", "{\"reason\":\"shutdown\"}"));
    }
    agent->phase = KELPIE_AGENT_STOPPING;
    agent_signal_all(agent, SIGTERM);
    agent_signal_all(agent, SIGCONT); /* a stopped process does not see its SIGTERM */
    kelpie__timer_arm(agent->loop, &agent->stop_timer,
                      kelpie__loop_deadline(agent->loop, timeout_ms), agent_stop_timer_callback,
                      agent);
    agent_reap(agent);
}

/* --- Signals. --- */

static void agent_signal_callback(void *context, uint32_t bits) {
    struct kelpie_agent *agent = context;
    KELPIE_ASSERT(bits != 0);
    for (int i = 0; i < AGENT_SIGNAL_COUNT_MAX; i += 1) {
        int signal = kelpie__os_take_signal(agent->os, agent->signals);
        if (signal < 0) {
            break;
        }
        if (signal == SIGCHLD) {
            agent_reap(agent);
            break; /* equal signals are one; another kind waits for the next step */
        }
        kelpie__agent_stop(agent, AGENT_STOP_SIGNAL_MS);
    }
}

static int agent_watch_signals(struct kelpie_agent *agent, struct kelpie_error *error) {
    KELPIE_ASSERT(agent->loop != NULL);
    KELPIE_ASSERT(agent->signals <= 0);
    /* What tools of a userland send to process 1 for halt, power off and reboot. */
    static const int signals[] = {SIGCHLD, SIGTERM, SIGINT, SIGUSR1, SIGUSR2, SIGPWR};
    uint32_t count = agent->is_guest ? (uint32_t)KELPIE_ARRAY_COUNT(signals) : 1;
    agent->signals = kelpie__os_open_signals(agent->os, signals, count);
    if (agent->signals < 0) {
        return kelpie__fail(error, KELPIE_E_BOOT, -agent->signals, "receive signals");
    }
    return kelpie__loop_watch(agent->loop, agent->signals, KELPIE_OS_READABLE,
                              agent_signal_callback, agent, &agent->signals_slot);
}

/* --- The beginning. --- */

static void agent_search_callback(void *context) {
    struct kelpie_agent *agent = context;
    KELPIE_ASSERT(agent->phase == KELPIE_AGENT_SEARCHING);
    KELPIE_ASSERT(agent->port < 0);
    int port = kelpie__agent_open_port(agent->os, AGENT_PORT_NAME);
    if (port >= 0) {
        agent->port = port;
        agent->attempt_count = 0;
        kelpie__agent_connect(agent);
        return;
    }
    /* The host tells the port's name in a message of its own, some time after the driver is there;
     * nothing in sysfs can be waited on. */
    agent->attempt_count += 1;
    if (agent->attempt_count > AGENT_RETRY_COUNT_MAX) {
        kelpie__agent_log(agent->os, "there is no port \"%s\"%s%s", AGENT_PORT_NAME,
                          agent->boot_error.code == 0 ? "" : "; ", agent->boot_error.message);
        kelpie__agent_stop(agent, 0);
        return;
    }
    int64_t pause_ns =
        AGENT_RETRY_MIN_NS * (agent->attempt_count > AGENT_RETRY_SHORT_COUNT ? 16 : 1);
    kelpie__timer_arm(agent->loop, &agent->attempt_timer, agent->loop->now_ns + pause_ns,
                      agent_search_callback, agent);
}

/* What must be there to be heard; a failure is told to the peer, should one be found nevertheless.
 */
static void agent_boot(struct kelpie_agent *agent) {
    KELPIE_ASSERT(agent->is_guest);
    KELPIE_ASSERT(agent->phase == KELPIE_AGENT_SEARCHING);
    if (kelpie__agent_boot_early(agent->os, &agent->boot_error) < 0 ||
        kelpie__agent_load_modules(agent->os, "early", &agent->boot_error) < 0) {
        kelpie__agent_log(agent->os, "%s", agent->boot_error.message);
    }
    uint32_t host_port = kelpie__agent_dial_port(agent->os);
    if (host_port != 0) {
        if (kelpie__agent_load_modules(agent->os, "vsock", &agent->boot_error) < 0) {
            kelpie__agent_log(agent->os, "%s", agent->boot_error.message);
        }
        kelpie__agent_dial(agent, host_port);
    } else {
        agent_search_callback(agent);
    }
    kelpie__agent_boot_late(agent->os); /* while hello is on its way */
}

static bool agent_read_arguments(int argc, char **argv, struct agent_arguments *out) {
    KELPIE_ASSERT(argv != NULL);
    KELPIE_ASSERT(out->channel == KELPIE_OS_NO_HANDLE);
    for (int i = 1; i + 1 < argc; i += 2) {
        uint64_t number = 0;
        if (strcmp(argv[i], "--channel-fd") == 0 && kelpie__text_u64(argv[i + 1], &number) &&
            number <= INT32_MAX) {
            out->channel = (int)number;
        } else if (strcmp(argv[i], "--cgroup") == 0) {
            out->cgroup = argv[i + 1];
        } else {
            return false;
        }
    }
    return true;
}

static int agent_init(struct kelpie_agent *agent, const struct agent_arguments *arguments,
                      struct kelpie_error *error) {
    KELPIE_ASSERT(agent->loop == NULL);
    KELPIE_ASSERT(agent->is_guest || arguments->channel >= 0);
    int status = kelpie__loop_create(agent->os, AGENT_WATCH_MAX, &agent->loop, error);
    if (status == 0) {
        status = agent_watch_signals(agent, error);
    }
    if (status < 0) {
        return status;
    }
    if (agent->is_guest) {
        agent_boot(agent);
        kelpie__agent_groups_init(&agent->groups, agent->os, AGENT_CGROUP);
    } else {
        kelpie__agent_groups_init(&agent->groups, agent->os, arguments->cgroup);
        agent->port = arguments->channel;
        kelpie__agent_connect(agent);
    }
    kelpie__agent_exec_prepare(agent);
    return 0;
}

/* Tests only: a guest ends with its machine. */
static void agent_deinit(struct kelpie_agent *agent) {
    if (agent->loop != NULL) {
        kelpie__agent_disconnect(agent);
        kelpie__agent_exec_destroy_all(agent);
        kelpie__agent_groups_deinit(&agent->groups);
        kelpie__timer_disarm(agent->loop, &agent->attempt_timer);
        kelpie__timer_disarm(agent->loop, &agent->stop_timer);
        kelpie__loop_unwatch(agent->loop, agent->signals_slot);
        kelpie__ignore(kelpie__os_close(agent->os, agent->signals));
        kelpie__loop_destroy(agent->loop);
    }
}

/* A reset ends every machine monitor that we run under, when it is told not to reboot. Power off
 * does not: without ACPI (a kernel without it, libkrun) the processor just halts. */
static void agent_halt(struct kelpie_agent *agent) {
    KELPIE_ASSERT(agent->is_guest);
    kelpie__agent_root_leave(agent->os);
    kelpie__ignore(kelpie__os_halt(agent->os, false));
    kelpie__ignore(kelpie__os_halt(agent->os, true));
    kelpie__agent_log(agent->os, "neither a reset nor power off ends this machine");
}

int kelpie_agent_main(struct kelpie_os *os, int argc, char **argv) {
    struct agent_arguments arguments = {.channel = KELPIE_OS_NO_HANDLE};
    struct kelpie_os_identity identity = {0};
    struct kelpie_error error = {0};
    KELPIE_ASSERT(os->guest != NULL);
    struct kelpie_agent agent = {.os = os, .port = KELPIE_OS_NO_HANDLE};
    agent.start = kelpie__agent_sample_clock(&agent);
    agent.is_guest = kelpie__os_identity(os, &identity) == 0 && identity.pid == 1;
    if (!agent.is_guest && argc == 2 && strcmp(argv[1], KELPIE_AGENT_SYNC_OPTION) == 0) {
        return kelpie__agent_sync_main(os);
    }
    /* The kernel passes on to process 1 what it does not know of its command line: not ours to
     * judge. */
    if (!agent.is_guest &&
        (!agent_read_arguments(argc, argv, &arguments) || arguments.channel < 0)) {
        kelpie__agent_log(os, "it is process 1 of a guest; tests give --channel-fd N "
                              "[--cgroup DIRECTORY]");
        return 2;
    }
    int status = agent_init(&agent, &arguments, &error);
    while (status == 0 && agent.phase != KELPIE_AGENT_STOPPED) {
        status = kelpie__loop_step(agent.loop, -1, &error);
    }
    if (status < 0) {
        kelpie__agent_log(os, "%s", error.message);
    }
    if (agent.is_guest) {
        agent_halt(&agent);
    }
    agent_deinit(&agent);
    return status == 0 ? 0 : 1;
}
