/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * The life of commands: slots, ends, and what follows an end. A command is over in three steps that
 * come in any order but are answered in this one: its process is collected, whatever it started is
 * killed and gone, its output is read to the end. Only then does exec.exit follow the last byte.
 */
#include "agent/exec.h"

#include <errno.h>
#include <signal.h>
#include <string.h>

#include "agent/agent.h"
#include "agent/boot.h"
#include "agent/process_list.h"
#include "core/json.h"
#include "core/text.h"
#include "os/os_call.h"
#include "os/os_mark.h"

#define EXEC_KILL_INTERVAL_NS (100 * KELPIE_NS_PER_MS)
#define EXEC_KILL_ATTEMPT_MAX 50  /* 5 s: then a member hangs in the kernel and is given up */
#define EXEC_REAP_COUNT_MAX 65536 /* more zombies than a guest can hold */

static void exec_check(const struct kelpie_agent_exec *exec) {
    KELPIE_ASSERT(exec->state <= KELPIE_AGENT_EXEC_FINISHED);
    KELPIE_ASSERT((exec->state == KELPIE_AGENT_EXEC_FREE) == (exec->id[0] == '\0'));
    KELPIE_ASSERT(exec->state != KELPIE_AGENT_EXEC_FREE || exec->channel == 0);
    KELPIE_ASSERT(exec->arguments_bytes <= exec->arguments_capacity);
    KELPIE_ASSERT(exec->state == KELPIE_AGENT_EXEC_RUNNING || exec->request_id == 0 ||
                  exec->channel != 0);
    if (exec->state == KELPIE_AGENT_EXEC_RUNNING || exec->state == KELPIE_AGENT_EXEC_ENDING) {
        KELPIE_ASSERT(exec->pid > 1);
    }
    if (exec->state == KELPIE_AGENT_EXEC_FINISHED) {
        KELPIE_ASSERT(exec->is_group_gone);
        KELPIE_ASSERT(exec->outputs[0].handle < 0);
        KELPIE_ASSERT(exec->outputs[1].handle < 0);
    }
}

uint32_t kelpie__agent_exec_leaders(struct kelpie_agent *agent, int32_t *out) {
    uint32_t count = 0;
    for (uint32_t i = 0; i < agent->execs.slot_count; i += 1) {
        const struct kelpie_agent_exec *exec = agent->execs.slots[i];
        if (exec->state == KELPIE_AGENT_EXEC_RUNNING) {
            out[count] = exec->pid;
            count += 1;
        }
    }
    KELPIE_ASSERT(count <= KELPIE_AGENT_EXEC_MAX);
    return count;
}

void kelpie__agent_exec_forget_told(struct kelpie_agent *agent) {
    kelpie__agent_check(agent);
    for (uint32_t i = 0; i < agent->execs.slot_count; i += 1) {
        struct kelpie_agent_exec *exec = agent->execs.slots[i];
        if (exec->state == KELPIE_AGENT_EXEC_FINISHED && exec->is_exit_sent) {
            kelpie__agent_exec_release(exec);
            KELPIE_ASSERT(exec->state == KELPIE_AGENT_EXEC_FREE);
        }
    }
}

static int exec_create(struct kelpie_agent *agent, struct kelpie_agent_exec **out,
                       struct kelpie_error *error) {
    KELPIE_ASSERT(agent->execs.slot_count < KELPIE_AGENT_EXEC_MAX);
    struct kelpie_agent_exec *exec = kelpie__alloc(agent->os, sizeof(*exec));
    if (exec == NULL) {
        return kelpie__fail(error, KELPIE_E_MEMORY, 0, "%zu bytes for a command", sizeof(*exec));
    }
    exec->agent = agent;
    exec->terminal = KELPIE_OS_NO_HANDLE;
    int status = kelpie__agent_exec_arguments_reserve(exec, KELPIE_AGENT_EXEC_ARGUMENTS_MIN, error);
    if (status == 0) {
        status = kelpie__agent_exec_streams_init(exec, error);
    }
    if (status < 0) {
        kelpie__free(agent->os, exec->arguments, exec->arguments_capacity);
        kelpie__free(agent->os, exec, sizeof(*exec));
        return status;
    }
    agent->execs.slots[agent->execs.slot_count] = exec;
    agent->execs.slot_count += 1;
    *out = exec;
    return 0;
}

void kelpie__agent_exec_prepare(struct kelpie_agent *agent) {
    struct kelpie_agent_exec *exec = NULL;
    KELPIE_ASSERT(agent->execs.slot_count == 0);
    kelpie__agent_exec_rings_init(agent);
    if (exec_create(agent, &exec, NULL) == 0) { /* else it is made when it is needed */
        KELPIE_ASSERT(exec->state == KELPIE_AGENT_EXEC_FREE);
    }
}

/* How ready a command is to be forgotten; 0: not at all. */
static int exec_oblivion(const struct kelpie_agent_exec *exec) {
    exec_check(exec);
    if (exec->state == KELPIE_AGENT_EXEC_FINISHED) {
        return exec->is_exit_sent ? 3 : 2;
    }
    /* Its last output does not fit the ring, and nobody is there to take it. */
    bool is_stuck = exec->state == KELPIE_AGENT_EXEC_ENDING && exec->is_group_gone;
    return is_stuck && exec->channel == 0 ? 1 : 0;
}

/* Half of the epoch, and the number in as many digits. */
static void exec_name(struct kelpie_agent_exec *exec, const char *epoch, uint64_t number) {
    uint8_t bytes[sizeof(number)];
    size_t half = sizeof(exec->id) / 2;
    static_assert(sizeof(exec->id) == 4 * sizeof(bytes) + 1, "two halves and a NUL");
    KELPIE_ASSERT(strlen(epoch) >= half);
    for (size_t i = 0; i < sizeof(bytes); i += 1) {
        bytes[i] = (uint8_t)(number >> (8 * (sizeof(bytes) - 1 - i)));
    }
    memcpy(exec->id, epoch, half);
    kelpie__text_hex(exec->id + half, sizeof(exec->id) - half, bytes, sizeof(bytes));
}

int kelpie__agent_exec_acquire(struct kelpie_agent *agent, struct kelpie_agent_exec **out,
                               struct kelpie_error *error) {
    struct kelpie_agent_execs *execs = &agent->execs;
    struct kelpie_agent_exec *chosen = NULL;
    struct kelpie_agent_exec *oldest = NULL;
    uint32_t finished_count = 0;
    for (uint32_t i = 0; i < execs->slot_count; i += 1) {
        struct kelpie_agent_exec *exec = execs->slots[i];
        if (exec->state == KELPIE_AGENT_EXEC_FREE && chosen == NULL) {
            chosen = exec;
        }
        int oblivion = exec_oblivion(exec);
        finished_count += oblivion > 1 ? 1 : 0;
        bool is_older = oldest == NULL || oblivion > exec_oblivion(oldest) ||
                        (oblivion == exec_oblivion(oldest) && exec->order < oldest->order);
        if (oblivion > 0 && is_older) {
            oldest = exec;
        }
    }
    bool is_full = chosen == NULL && execs->slot_count == KELPIE_AGENT_EXEC_MAX;
    if (oldest != NULL && (is_full || finished_count >= KELPIE_AGENT_EXEC_FINISHED_MAX)) {
        kelpie__agent_exec_release(oldest);
        chosen = oldest;
    } else if (is_full) {
        return kelpie__fail(error, KELPIE_E_LIMIT, 0, "%d commands run already, the limit is %d",
                            KELPIE_AGENT_EXEC_MAX, KELPIE_AGENT_EXEC_MAX);
    } else if (chosen == NULL) {
        int status = exec_create(agent, &chosen, error);
        if (status < 0) {
            return status;
        }
    }
    KELPIE_ASSERT(chosen->state == KELPIE_AGENT_EXEC_FREE);
    execs->id_counter += 1;
    execs->order_counter += 1;
    exec_name(chosen, agent->epoch, execs->id_counter);
    chosen->order = execs->order_counter;
    chosen->state = KELPIE_AGENT_EXEC_RECEIVING;
    *out = chosen;
    return 0;
}

void kelpie__agent_exec_release(struct kelpie_agent_exec *exec) {
    KELPIE_ASSERT(exec->state != KELPIE_AGENT_EXEC_FREE);
    KELPIE_ASSERT(exec->state != KELPIE_AGENT_EXEC_RUNNING);
    struct kelpie_agent *agent = exec->agent;
    kelpie__timer_disarm(agent->loop, &exec->timer);
    kelpie__timer_disarm(agent->loop, &exec->answer_timer);
    kelpie__agent_exec_streams_reset(exec);
    if (exec->terminal >= 0) {
        kelpie__ignore(kelpie__os_close(agent->os, exec->terminal));
        exec->terminal = KELPIE_OS_NO_HANDLE;
    }
    exec->state = KELPIE_AGENT_EXEC_FREE;
    exec->reason = KELPIE_AGENT_EXEC_BY_ITSELF;
    exec->id[0] = '\0';
    exec->channel = 0;
    exec->request_id = 0;
    exec->arguments_bytes = 0;
    exec->arguments_bytes_announced = 0;
    exec->pid = 0;
    exec->is_group_gone = false;
    exec->is_exit_sent = false;
    exec->kill_attempt_count = 0;
    memset(&exec->options, 0, offsetof(struct kelpie_agent_exec_options, limits));
    exec->options.directory[0] = '\0';
    exec->options.user[0] = '\0';
    exec_check(exec);
}

struct kelpie_agent_exec *kelpie__agent_exec_find(struct kelpie_agent *agent, const char *id) {
    KELPIE_ASSERT(strlen(id) == KELPIE_AGENT_EXEC_ID_BYTES - 1);
    for (uint32_t i = 0; i < agent->execs.slot_count; i += 1) {
        struct kelpie_agent_exec *exec = agent->execs.slots[i];
        if (strcmp(exec->id, id) == 0) {
            KELPIE_ASSERT(exec->state != KELPIE_AGENT_EXEC_FREE);
            return exec;
        }
    }
    return NULL;
}

struct kelpie_agent_exec *kelpie__agent_exec_find_channel(struct kelpie_agent *agent,
                                                          uint32_t channel) {
    KELPIE_ASSERT(channel != 0);
    for (uint32_t i = 0; i < agent->execs.slot_count; i += 1) {
        struct kelpie_agent_exec *exec = agent->execs.slots[i];
        if (exec->channel == channel) {
            KELPIE_ASSERT(exec->state != KELPIE_AGENT_EXEC_FREE);
            return exec;
        }
    }
    return NULL;
}

static void exec_kill_group(struct kelpie_agent_exec *exec) {
    int32_t leaders[KELPIE_AGENT_EXEC_MAX];
    uint32_t count = kelpie__agent_exec_leaders(exec->agent, leaders);
    kelpie__agent_group_kill(&exec->agent->groups, &exec->group, leaders, count);
}

void kelpie__agent_exec_kill(struct kelpie_agent_exec *exec, enum kelpie_agent_exec_reason reason) {
    KELPIE_ASSERT(reason != KELPIE_AGENT_EXEC_BY_ITSELF);
    exec_check(exec);
    if (exec->state != KELPIE_AGENT_EXEC_RUNNING) {
        KELPIE_REACHED(exec->agent->os, "a command that ends was to be killed");
        return; /* its end is under way, and with it everybody's */
    }
    if (exec->reason == KELPIE_AGENT_EXEC_BY_ITSELF) {
        exec->reason = reason;
    }
    if (!KELPIE_CANARY(exec->agent->os, 7)) {
        exec_kill_group(exec);
    }
    /* A command of root's may have moved itself to another cgroup. */
    kelpie__ignore(kelpie__os_kill_pid(exec->agent->os, exec->pid, SIGKILL)); /* it may be dead */
}

/* Nobody is left of the group: accounts for it and gives it back. */
static void exec_close_group(struct kelpie_agent_exec *exec) {
    KELPIE_ASSERT(!exec->is_group_gone);
    struct kelpie_agent *agent = exec->agent;
    uint64_t own_us = exec->exit.cpu_user_us + exec->exit.cpu_system_us;
    uint64_t all_us = 0;
    /* The kernel's figure for the command has the children that it waited for. Only when there were
     * others, which process 1 inherited, is the cgroup asked: it saves three system calls in nearly
     * every case. */
    bool has_others =
        exec->kill_attempt_count > 0 || exec->orphan_count_at_start != agent->execs.orphan_count;
    if (has_others && kelpie__agent_group_cpu_us(&agent->groups, &exec->group, &all_us) == 0 &&
        all_us > own_us) {
        exec->exit.cpu_user_us += all_us - own_us;
        own_us = all_us;
    }
    kelpie__agent_group_release(&agent->groups, &exec->group, own_us);
    kelpie__timer_disarm(agent->loop, &exec->timer);
    exec->is_group_gone = true;
}

static void exec_patience_callback(void *context);

/* Kills what moved to another cgroup, which root in the guest may do: when no command runs, every
 * process that process 1 inherited is a stray. True: there were some. The list of processes is read
 * only when there is a child that should not be. */
static bool exec_kill_strays(struct kelpie_agent_exec *exec, uint32_t leader_count) {
    struct kelpie_agent *agent = exec->agent;
    KELPIE_ASSERT(exec->state == KELPIE_AGENT_EXEC_ENDING);
    if (!agent->execs.has_children || leader_count > 0) {
        return false;
    }
    return kelpie__agent_process_list_signal(agent->os, exec->pid, NULL, 0, SIGKILL) > 0;
}

/* Sees to it that nobody of the group is left: at each look, those that are get killed, and another
 * look is due. */
static void exec_clear_group(struct kelpie_agent_exec *exec) {
    KELPIE_ASSERT(exec->state == KELPIE_AGENT_EXEC_ENDING);
    KELPIE_ASSERT(!exec->is_group_gone);
    struct kelpie_agent *agent = exec->agent;
    int32_t leaders[KELPIE_AGENT_EXEC_MAX];
    uint32_t count = kelpie__agent_exec_leaders(agent, leaders);
    bool is_empty = kelpie__agent_group_is_empty(&agent->groups, &exec->group, leaders, count);
    bool is_forgotten = KELPIE_CANARY(agent->os, 7) && exec->reason == KELPIE_AGENT_EXEC_BY_TIMEOUT;
    if (is_forgotten || (is_empty && !exec_kill_strays(exec, count))) {
        exec_close_group(exec);
        return;
    }
    if (exec->kill_attempt_count == 0) {
        exec->kill_attempt_count = 1;
        KELPIE_SOMETIMES(agent->os, "a command left processes behind", !is_empty);
        if (!is_empty) {
            exec_kill_group(exec);
        }
        kelpie__timer_arm(agent->loop, &exec->timer, agent->loop->now_ns + EXEC_KILL_INTERVAL_NS,
                          exec_patience_callback, exec);
    }
}

static void exec_patience_callback(void *context) {
    struct kelpie_agent_exec *exec = context;
    KELPIE_ASSERT(exec->state == KELPIE_AGENT_EXEC_ENDING);
    KELPIE_ASSERT(!exec->is_group_gone);
    struct kelpie_agent *agent = exec->agent;
    exec->kill_attempt_count += 1;
    if (exec->kill_attempt_count > EXEC_KILL_ATTEMPT_MAX) {
        KELPIE_REACHED(agent->os, "processes do not die");
        kelpie__agent_log(agent->os, "processes of command %s do not die", exec->id);
        kelpie__agent_group_abandon(&agent->groups, &exec->group);
        exec->is_group_gone = true;
    } else {
        exec_kill_group(exec);
        kelpie__timer_arm(agent->loop, &exec->timer, agent->loop->now_ns + EXEC_KILL_INTERVAL_NS,
                          exec_patience_callback, exec);
    }
    kelpie__agent_exec_advance(exec);
}

static const char *exec_reason_name(const struct kelpie_agent_exec *exec) {
    KELPIE_ASSERT(exec->state == KELPIE_AGENT_EXEC_FINISHED);
    KELPIE_ASSERT(exec->exit.value >= 0);
    switch (exec->reason) {
    case KELPIE_AGENT_EXEC_BY_TIMEOUT:
        return "timeout";
    case KELPIE_AGENT_EXEC_BY_CANCEL:
        return "cancelled";
    case KELPIE_AGENT_EXEC_BY_ITSELF:
        break;
    }
    return exec->exit.is_signalled ? "signalled" : "exited";
}

static void exec_send_exit(struct kelpie_agent_exec *exec) {
    KELPIE_ASSERT(exec->state == KELPIE_AGENT_EXEC_FINISHED);
    KELPIE_ASSERT(exec->channel != 0);
    KELPIE_ASSERT(exec->end_ns >= exec->start_ns);
    char params[320];
    struct kelpie_json_writer writer;
    const struct kelpie_os_exit *exit = &exec->exit;
    kelpie__json_begin(&writer, params, sizeof(params));
    kelpie__json_object_begin(&writer, NULL);
    kelpie__json_write_u64(&writer, "channel", exec->channel);
    kelpie__json_write_string(&writer, "id", exec->id);
    kelpie__json_write_i64(&writer, exit->is_signalled ? "signal" : "code", exit->value);
    kelpie__json_write_string(&writer, "reason", exec_reason_name(exec));
    kelpie__json_write_u64(&writer, "wall_us", (uint64_t)(exec->end_ns - exec->start_ns) / 1000);
    kelpie__json_write_u64(&writer, "cpu_us", exit->cpu_user_us + exit->cpu_system_us);
    kelpie__json_write_u64(&writer, "peak_memory_kib", exit->peak_memory_kib);
    kelpie__json_object_end(&writer);
    int64_t length = kelpie__json_finish(&writer);
    KELPIE_ASSERT(length > 0); /* numbers and words */
    exec->is_exit_sent = kelpie__wire_notify(exec->agent->wire, "exec.exit", params) == 0;
}

/* Nobody waits for it any more: memory that it will not need is given back. */
static void exec_rest_callback(void *context) {
    struct kelpie_agent_exec *exec = context;
    KELPIE_ASSERT(exec->state == KELPIE_AGENT_EXEC_FINISHED);
    kelpie__agent_exec_streams_shrink(exec);
}

void kelpie__agent_exec_advance(struct kelpie_agent_exec *exec) {
    exec_check(exec);
    if (exec->state < KELPIE_AGENT_EXEC_RUNNING) {
        return;
    }
    if (exec->state == KELPIE_AGENT_EXEC_ENDING && !exec->is_group_gone) {
        exec_clear_group(exec);
    }
    kelpie__agent_exec_answer(exec); /* it comes before what it announces */
    bool is_delivered = kelpie__agent_exec_streams_advance(exec);
    bool is_read = exec->outputs[0].handle < 0 && exec->outputs[1].handle < 0;
    if (exec->state == KELPIE_AGENT_EXEC_ENDING && exec->is_group_gone && is_read) {
        exec->agent->execs.order_counter += 1;
        exec->order = exec->agent->execs.order_counter;
        exec->state = KELPIE_AGENT_EXEC_FINISHED;
    }
    bool is_due = exec->state == KELPIE_AGENT_EXEC_FINISHED && is_delivered && exec->channel != 0;
    if (is_due && !exec->is_exit_sent && kelpie__agent_may_send(exec->agent)) {
        exec_send_exit(exec);
    }
    if (exec->state == KELPIE_AGENT_EXEC_FINISHED) { /* behind the write, which is planned before */
        kelpie__timer_arm(exec->agent->loop, &exec->timer, exec->agent->loop->now_ns,
                          exec_rest_callback, exec);
    }
    exec_check(exec);
}

static void exec_end(struct kelpie_agent_exec *exec, const struct kelpie_os_exit *exit) {
    KELPIE_ASSERT(exec->state == KELPIE_AGENT_EXEC_RUNNING);
    kelpie__timer_disarm(exec->agent->loop, &exec->timer);
    exec->exit = *exit;
    exec->end_ns = exec->agent->loop->now_ns;
    exec->end_ns = exec->end_ns < exec->start_ns ? exec->start_ns : exec->end_ns;
    exec->state = KELPIE_AGENT_EXEC_ENDING;
    exec_check(exec);
}

bool kelpie__agent_exec_reap(struct kelpie_agent *agent) {
    kelpie__agent_check(agent);
    struct kelpie_agent_execs *execs = &agent->execs;
    bool is_somebody_left = true;
    for (uint32_t i = 0; i < EXEC_REAP_COUNT_MAX; i += 1) {
        int32_t pid = 0;
        struct kelpie_os_exit exit;
        int status = kelpie__os_reap_any(agent->os, &pid, &exit);
        if (status < 0) {
            is_somebody_left = status != -ECHILD;
            execs->has_children = is_somebody_left;
            break;
        }
        struct kelpie_agent_exec *found = NULL;
        for (uint32_t j = 0; j < execs->slot_count && found == NULL; j += 1) {
            struct kelpie_agent_exec *exec = execs->slots[j];
            found = exec->state == KELPIE_AGENT_EXEC_RUNNING && exec->pid == pid ? exec : NULL;
        }
        if (found != NULL) {
            exec_end(found, &exit);
        } else if (!kelpie__agent_sync_reaped(agent, pid, &exit) &&
                   !kelpie__agent_ready_reaped(agent, pid)) {
            KELPIE_REACHED(agent->os, "an orphan was collected");
            execs->orphan_count += 1;
        }
    }
    /* Only now: an orphan that was collected may have been the last of a group. */
    for (uint32_t i = 0; i < execs->slot_count; i += 1) {
        if (execs->slots[i]->state == KELPIE_AGENT_EXEC_ENDING) {
            kelpie__agent_exec_advance(execs->slots[i]);
        }
    }
    return is_somebody_left;
}

void kelpie__agent_exec_detach_all(struct kelpie_agent *agent) {
    KELPIE_ASSERT(agent->execs.slot_count <= KELPIE_AGENT_EXEC_MAX);
    for (uint32_t i = 0; i < agent->execs.slot_count; i += 1) {
        struct kelpie_agent_exec *exec = agent->execs.slots[i];
        if (exec->state == KELPIE_AGENT_EXEC_FREE) {
            continue;
        }
        if (exec->state == KELPIE_AGENT_EXEC_RECEIVING) {
            KELPIE_REACHED(agent->os, "a peer went while arguments came");
            kelpie__agent_exec_release(exec);
            continue;
        }
        exec->channel = 0;
        exec->request_id = 0;
        kelpie__timer_disarm(agent->loop, &exec->answer_timer);
        exec->is_exit_sent = false; /* whether it arrived is not known */
        exec_check(exec);
    }
}

void kelpie__agent_exec_destroy_all(struct kelpie_agent *agent) {
    KELPIE_ASSERT(agent->wire == NULL);
    KELPIE_ASSERT(!agent->is_guest);
    struct kelpie_agent_execs *execs = &agent->execs;
    for (uint32_t i = 0; i < execs->slot_count; i += 1) {
        struct kelpie_agent_exec *exec = execs->slots[i];
        if (exec->state == KELPIE_AGENT_EXEC_RUNNING) {
            exec_kill_group(exec);
            exec->state = KELPIE_AGENT_EXEC_ENDING;
        }
        if (exec->state == KELPIE_AGENT_EXEC_ENDING && !exec->is_group_gone) {
            kelpie__agent_group_abandon(&agent->groups, &exec->group);
        }
        if (exec->state != KELPIE_AGENT_EXEC_FREE) {
            kelpie__agent_exec_release(exec);
        }
        kelpie__agent_exec_streams_deinit(exec);
        kelpie__free(agent->os, exec->arguments, exec->arguments_capacity);
        kelpie__free(agent->os, exec, sizeof(*exec));
        execs->slots[i] = NULL;
    }
    execs->slot_count = 0;
    kelpie__ring_pool_deinit(&execs->rings);
}
