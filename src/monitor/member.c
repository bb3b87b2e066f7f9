/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * See member.h.
 */
#include "monitor/member.h"

#include <errno.h>
#include <string.h>

#include "core/json.h"
#include "core/text.h"
#include "monitor/lifecycle_internal.h"
#include "monitor/monitor.h"
#include "os/os_call.h"
#include "os/os_mark.h"
#include "store/pool.h"
#include "wire/wire.h"

/* sched(7), autogroups: of a session. Unlike nice(2) it can be taken back without a privilege. */
#define MEMBER_NICE_BACKGROUND "5" /* a third of the others' share */
#define MEMBER_NICE_USUAL "0"

static void member_check(const struct kelpie_member *member) {
    const struct kelpie_monitor *monitor = member->monitor;
    KELPIE_ASSERT(member->phase <= KELPIE_MEMBER_CLAIMED);
    /* the note is there exactly while it waits */
    KELPIE_ASSERT((member->phase == KELPIE_MEMBER_OFFERED) == (member->ready >= 0));
    if (member->phase != KELPIE_MEMBER_NONE) {
        KELPIE_ASSERT(member->eased_pid == 0);
        KELPIE_ASSERT(monitor->lifecycle.vmm != NULL);
    }
    if (member->phase != KELPIE_MEMBER_CLAIMING) {
        KELPIE_ASSERT(member->call == 0);
        KELPIE_ASSERT(member->reply.client == 0);
    }
}

/* From a row's phase to those after it; the end of its VMM makes it a VM like any other. */
static void member_change(struct kelpie_member *member, enum kelpie_member_phase next) {
    static const enum kelpie_member_phase after[] = {
        [KELPIE_MEMBER_NONE] = KELPIE_MEMBER_OFFERED,
        [KELPIE_MEMBER_OFFERED] = KELPIE_MEMBER_CLAIMING,
        [KELPIE_MEMBER_CLAIMING] = KELPIE_MEMBER_CLAIMED,
        [KELPIE_MEMBER_CLAIMED] = KELPIE_MEMBER_NONE,
    };
    static_assert(KELPIE_ARRAY_COUNT(after) == KELPIE_MEMBER_CLAIMED + 1, "a row for each");
    KELPIE_ASSERT(next == KELPIE_MEMBER_NONE || next == after[member->phase]);
    member->phase = next;
}

void kelpie__member_init(struct kelpie_member *member, struct kelpie_monitor *monitor) {
    *member = (struct kelpie_member){.monitor = monitor, .ready = KELPIE_OS_NO_HANDLE};
    member_check(member);
}

/* Nobody needs to ask here any more. */
static void member_forget_note(struct kelpie_member *member) {
    struct kelpie_monitor *monitor = member->monitor;
    if (member->ready >= 0) {
        kelpie__ignore(kelpie__os_unlink(monitor->os, member->ready, monitor->config.name, false));
        kelpie__ignore(kelpie__os_close(monitor->os, member->ready));
        member->ready = KELPIE_OS_NO_HANDLE;
    }
}

void kelpie__member_deinit(struct kelpie_member *member) {
    member_forget_note(member);
    kelpie__timer_disarm(member->monitor->loop, &member->lease_timer);
}

/* ---- standing back --------------------------------------------------------------------------- */

/* 0, or a negative errno value; -EAGAIN: too often for an unprivileged user, try again. */
static int member_set_nice(struct kelpie_os *os, int32_t pid, const char *nice) {
    char path[64];
    kelpie__ignore(kelpie__text_format(path, sizeof(path), "/proc/%d/autogroup", pid));
    int file = kelpie__os_open(os, KELPIE_OS_CWD, path, KELPIE_OS_OPEN_WRITE, 0);
    if (file < 0) {
        return file; /* this kernel has none */
    }
    int64_t written = kelpie__os_write(os, file, nice, strlen(nice)); /* pwrite(2) is refused */
    kelpie__ignore(kelpie__os_close(os, file));
    return written < 0 ? (int)written : 0;
}

void kelpie__member_ease(struct kelpie_member *member, int32_t vmm_pid) {
    KELPIE_ASSERT(member->phase == KELPIE_MEMBER_NONE || member->phase == KELPIE_MEMBER_CLAIMED);
    bool is_eased = member->is_background && member->phase == KELPIE_MEMBER_NONE && vmm_pid > 0 &&
                    member_set_nice(member->monitor->os, vmm_pid, MEMBER_NICE_BACKGROUND) == 0;
    member->eased_pid = is_eased ? vmm_pid : 0;
}

static int member_unease(struct kelpie_member *member, struct kelpie_error *error) {
    if (member->eased_pid == 0) {
        return 0;
    }
    int status = member_set_nice(member->monitor->os, member->eased_pid, MEMBER_NICE_USUAL);
    if (status < 0) {
        return kelpie__fail(error, KELPIE_E_BUSY, -status, "give the VM its usual priority");
    }
    member->eased_pid = 0;
    return 0;
}

/* ---- leases ---------------------------------------------------------------------------------- */

static void member_lease_ended(void *context) {
    struct kelpie_member *member = context;
    KELPIE_ASSERT(member->monitor->member.monitor == member->monitor);
    KELPIE_REACHED(member->monitor->os, "a lease ended");
    kelpie__lifecycle_owner_gone(member->monitor, "its lease ended");
}

/* 0: it has none from here on. */
static void member_set_lease(struct kelpie_member *member, uint64_t lease_ms) {
    struct kelpie_monitor *monitor = member->monitor;
    struct kelpie_vm_record *record = &monitor->lifecycle.record;
    KELPIE_ASSERT(lease_ms <= KELPIE_LEASE_MS_MAX);
    kelpie__timer_disarm(monitor->loop, &member->lease_timer);
    record->lease_end_ms = 0;
    if (lease_ms > 0) {
        int64_t now_ms = kelpie__os_now(monitor->os, KELPIE_OS_CLOCK_WALL) / KELPIE_NS_PER_MS;
        record->lease_end_ms = now_ms + (int64_t)lease_ms;
        kelpie__timer_arm(monitor->loop, &member->lease_timer,
                          kelpie__loop_deadline(monitor->loop, lease_ms), member_lease_ended,
                          member);
    }
}

static int member_check_lease(uint64_t lease_ms, struct kelpie_error *error) {
    if (lease_ms != 0 && (lease_ms < KELPIE_LEASE_MS_MIN || lease_ms > KELPIE_LEASE_MS_MAX)) {
        return kelpie__fail_field(error, KELPIE_E_LIMIT, "lease_ms",
                                  "lease_ms: %llu, and it has to be %u to %llu, or none",
                                  (unsigned long long)lease_ms, KELPIE_LEASE_MS_MIN,
                                  (unsigned long long)KELPIE_LEASE_MS_MAX);
    }
    return 0;
}

void kelpie__member_lease(struct kelpie_monitor *monitor, struct kelpie_reply reply,
                          const char *params, size_t length) {
    struct kelpie_lifecycle *lifecycle = kelpie__lifecycle_of(monitor);
    struct kelpie_error error = {0};
    uint64_t lease_ms = 0;
    kelpie__ignore(kelpie__json_find_u64(params, length, "lease_ms", &lease_ms)); /* 0: none */
    int status = member_check_lease(lease_ms, &error);
    if (status == 0 && (!kelpie__state_is_live(lifecycle->state) || lifecycle->is_ending)) {
        status = kelpie__fail(
            &error, KELPIE_E_STATE, 0, "lease: VM \"%s\" is %s, and has to be running or paused",
            monitor->config.name,
            lifecycle->is_ending ? "ending" : kelpie_vm_state_name(lifecycle->state));
    }
    if (status < 0) {
        kelpie__reply_refuse(monitor, &reply, &error);
        return;
    }
    member_set_lease(&monitor->member, lease_ms);
    kelpie__ignore(kelpie__lifecycle_save(lifecycle, NULL)); /* for people; the timer counts */
    kelpie__reply_result(monitor, &reply, "{}");
}

/* ---- offer ----------------------------------------------------------------------------------- */

static int member_check_offer(struct kelpie_monitor *monitor, const struct kelpie_reply *reply,
                              struct kelpie_error *error) {
    const struct kelpie_lifecycle *lifecycle = kelpie__lifecycle_of(monitor);
    if (lifecycle->state != KELPIE_VM_PAUSED || monitor->member.phase != KELPIE_MEMBER_NONE ||
        !kelpie__client_is_owner(monitor, reply->client)) {
        return kelpie__fail(error, KELPIE_E_STATE, 0,
                            "offer: VM \"%s\" is %s%s, and has to be paused and the caller's own",
                            monitor->config.name, kelpie_vm_state_name(lifecycle->state),
                            monitor->member.phase != KELPIE_MEMBER_NONE ? " and of a pool" : "");
    }
    if (kelpie__relay_live_count(&monitor->relay) > 0 || !monitor->config.is_ephemeral) {
        return kelpie__fail(error, KELPIE_E_STATE, 0,
                            "offer: VM \"%s\" has commands that run, or is not ephemeral",
                            monitor->config.name);
    }
    return kelpie__lifecycle_check_ending(monitor, "offer", error);
}

static int member_enter(struct kelpie_member *member, const char *pool, const char *id,
                        struct kelpie_error *error) {
    struct kelpie_monitor *monitor = member->monitor;
    struct kelpie_vm_record *record = &monitor->lifecycle.record;
    int status = member_unease(member, error);
    if (status == 0) {
        status = kelpie__pool_ready_write(monitor->os, monitor->options.state_directory, pool, id,
                                          monitor->config.name, &member->ready, error);
    }
    if (status < 0) {
        return status;
    }
    kelpie__ignore(kelpie__text_copy(record->pool, sizeof(record->pool), pool));
    kelpie__ignore(kelpie__text_copy(record->origin, sizeof(record->origin), "pool"));
    kelpie__ignore(kelpie__text_copy(record->lifetime, sizeof(record->lifetime), "detached"));
    kelpie__ignore(
        kelpie__text_format(record->reason, sizeof(record->reason), "waits in pool \"%s\"", pool));
    kelpie__ignore(kelpie__lifecycle_save(&monitor->lifecycle, NULL)); /* for people */
    member_change(member, KELPIE_MEMBER_OFFERED);
    return 0;
}

void kelpie__member_offer(struct kelpie_monitor *monitor, struct kelpie_reply reply,
                          const char *params, size_t length) {
    struct kelpie_member *member = &monitor->member;
    struct kelpie_error error = {0};
    char pool[KELPIE_NAME_BYTES_MAX + 1] = "";
    char id[33] = "";
    member_check(member);
    kelpie__ignore(kelpie__json_find_string(params, length, "pool", pool, sizeof(pool)));
    kelpie__ignore(kelpie__json_find_string(params, length, "pool_id", id, sizeof(id)));
    int status = member_check_offer(monitor, &reply, &error);
    if (status == 0) {
        status = member_enter(member, pool, id, &error);
    }
    if (status < 0) {
        kelpie__reply_refuse(monitor, &reply, &error);
        return;
    }
    kelpie__ignore(kelpie__client_set_owner(monitor, reply.client, false, NULL)); /* never fails */
    monitor->config.lifetime = KELPIE_LIFETIME_DETACHED;
    kelpie__event_log_write(monitor, "state", "%s", monitor->lifecycle.record.reason);
    kelpie__reply_result(monitor, &reply, "{}");
    member_check(member);
}

bool kelpie__member_refuses(struct kelpie_monitor *monitor, struct kelpie_reply *reply,
                            const char *method) {
    static const char *const allowed[] = {"hello",        "ping",      "cancel",    "vm.inspect",
                                          "vm.stats",     "vm.health", "vm.claim",  "vm.kill",
                                          "vm.subscribe", "vm.delete", "exec.list", "vm.stages"};
    if (monitor->member.phase != KELPIE_MEMBER_OFFERED) {
        return false;
    }
    for (size_t i = 0; i < KELPIE_ARRAY_COUNT(allowed); i += 1) {
        if (strcmp(allowed[i], method) == 0) {
            return false;
        }
    }
    KELPIE_REACHED(monitor->os, "something else than a claim was asked of one that waits");
    kelpie__reply_refuse_text(monitor, reply, KELPIE_E_STATE,
                              "%s: VM \"%s\" waits in pool \"%s\"; claim it from there", method,
                              monitor->config.name, monitor->lifecycle.record.pool);
    return true;
}

/* ---- claim ----------------------------------------------------------------------------------- */

/* It has begun to run, and may be anything: it is nobody's, and ends. */
static void member_spoiled(struct kelpie_member *member, const struct kelpie_error *why) {
    struct kelpie_error error = *why;
    KELPIE_ASSERT(why->code < 0);
    KELPIE_REACHED(member->monitor->os, "a claim failed");
    error.code = KELPIE_E_CRASHED; /* the VM's end refuses the claim with this */
    kelpie__fail_prefix(&error, "claim");
    kelpie__lifecycle_fail(member->monitor, &error);
}

/* It runs and has answered, in whatever order that was heard. */
static void member_claimed(struct kelpie_member *member) {
    struct kelpie_monitor *monitor = member->monitor;
    char text[128];
    KELPIE_ASSERT(member->is_awake && member->is_refreshed);
    bool is_there = kelpie__client_wire(monitor, member->reply.client) != NULL;
    member_change(member, KELPIE_MEMBER_CLAIMED);
    kelpie__pause_give_back(&monitor->pause);
    bool fits = kelpie__text_format(text, sizeof(text), "{\"id\":\"%s\"}", monitor->config.id);
    KELPIE_ASSERT(fits);
    kelpie__reply_result(monitor, &member->reply, text);
    if (!is_there) { /* nobody knows that it is his */
        KELPIE_REACHED(monitor->os, "a claimer went before he had his VM");
        kelpie__lifecycle_owner_gone(monitor, "whoever claimed it went before he had it");
    }
    member_check(member);
}

static void member_refreshed(void *context, const struct kelpie_error *error, const char *result,
                             size_t length) {
    struct kelpie_member *member = context;
    KELPIE_ASSERT(member->phase == KELPIE_MEMBER_CLAIMING && !member->is_refreshed);
    KELPIE_ASSERT(error != NULL || result[length] == '\0');
    member->call = 0;
    if (error != NULL) {
        member_spoiled(member, error);
        return;
    }
    member->is_refreshed = true;
    if (member->is_awake) {
        member_claimed(member);
    }
}

/* While the guest is at it: the state, and for how long. */
static void member_record(struct kelpie_member *member) {
    struct kelpie_lifecycle *lifecycle = kelpie__lifecycle_of(member->monitor);
    char reason[sizeof(lifecycle->record.reason)];
    KELPIE_ASSERT(member->phase == KELPIE_MEMBER_CLAIMING);
    member_set_lease(member, member->lease_ms);
    kelpie__ignore(kelpie__text_format(reason, sizeof(reason), "claimed from pool \"%s\"",
                                       lifecycle->record.pool));
    kelpie__lifecycle_change(lifecycle, KELPIE_VM_RUNNING, reason);
}

static void member_woken(void *context, int status, const struct kelpie_error *why) {
    struct kelpie_member *member = context;
    KELPIE_ASSERT(member->phase == KELPIE_MEMBER_CLAIMING && !member->is_awake);
    if (status < 0) {
        member_spoiled(member, why);
        return;
    }
    member->is_awake = true;
    member_record(member);
    if (member->is_refreshed) {
        member_claimed(member);
    }
}

/* Its id, host name and machine id are its own since it was made, and nobody has seen them. What it
 * lacks is the time and randomness of now. The connection was kept, so that one round trip brings
 * both and proves that the guest lives: the agent answers in order, and starts no command before.
 * What is written before the guest runs is there when it does: half a millisecond is won. */
static void member_wake(struct kelpie_member *member) {
    struct kelpie_monitor *monitor = member->monitor;
    struct kelpie_wire *wire = kelpie__guest_wire(&monitor->guest);
    struct kelpie_error error = {0};
    char params[KELPIE_GUEST_SETUP_BYTES_MAX];
    KELPIE_ASSERT(wire != NULL); /* pause_take has seen it */
    kelpie__guest_unquiesce(&monitor->guest);
    int status = kelpie__guest_write_refresh(&monitor->guest, params, sizeof(params), &error);
    if (status == 0) {
        status = kelpie__wire_call(wire, "setup", params, KELPIE_RESUME_TIMEOUT_MS,
                                   member_refreshed, member, &member->call, &error);
    }
    if (status == 0) {
        kelpie__wire_flush(wire);
        status = kelpie__vmm_resume(monitor->lifecycle.vmm, member_woken, member, &error);
    }
    if (status < 0) {
        member_spoiled(member, &error);
    }
}

/* From the first step on it is the claimer's: his end is its end. */
static int member_take(struct kelpie_member *member, const struct kelpie_reply *reply,
                       bool is_owned, struct kelpie_error *error) {
    struct kelpie_monitor *monitor = member->monitor;
    struct kelpie_vm_record *record = &monitor->lifecycle.record;
    int status = kelpie__pause_take(monitor, "claim", error);
    if (status < 0) {
        return status;
    }
    status = is_owned ? kelpie__client_set_owner(monitor, reply->client, true, error) : 0;
    if (status < 0) {
        kelpie__pause_give_back(&monitor->pause);
        return status;
    }
    monitor->config.lifetime = is_owned ? KELPIE_LIFETIME_OWNED : KELPIE_LIFETIME_DETACHED;
    kelpie__ignore(kelpie__text_copy(record->lifetime, sizeof(record->lifetime),
                                     is_owned ? "owned" : "detached"));
    member->reply = *reply;
    member->is_awake = false;
    member->is_refreshed = false;
    member_change(member, KELPIE_MEMBER_CLAIMING);
    return 0;
}

void kelpie__member_claim(struct kelpie_monitor *monitor, struct kelpie_reply reply,
                          const char *params, size_t length) {
    struct kelpie_member *member = &monitor->member;
    struct kelpie_error error = {0};
    bool is_owned = false;
    uint64_t lease_ms = 0;
    member_check(member);
    kelpie__ignore(kelpie__json_find_bool(params, length, "owned", &is_owned));   /* optional */
    kelpie__ignore(kelpie__json_find_u64(params, length, "lease_ms", &lease_ms)); /* 0: none */
    int status = member_check_lease(lease_ms, &error);
    if (status == 0 && member->phase != KELPIE_MEMBER_OFFERED) {
        KELPIE_REACHED(monitor->os, "two claimed one member");
        status = kelpie__fail(&error, KELPIE_E_STATE, 0, "claim: VM \"%s\" does not wait in a pool",
                              monitor->config.name);
    }
    if (status == 0) {
        status = member_take(member, &reply, is_owned, &error);
    }
    if (status < 0) {
        kelpie__reply_refuse(monitor, &reply, &error);
        return;
    }
    member_forget_note(member);
    member->lease_ms = lease_ms;
    kelpie__event_log_write(monitor, "claimed", "%s", monitor->lifecycle.record.pool);
    member_wake(member);
    member_check(member);
}

/* ---- the end --------------------------------------------------------------------------------- */

void kelpie__member_vmm_gone(struct kelpie_member *member, const struct kelpie_error *why) {
    struct kelpie_error error = *why;
    struct kelpie_wire *wire = member->monitor->guest.wire;
    KELPIE_ASSERT(why->code < 0);
    member_forget_note(member);
    if (member->call != 0 && wire != NULL) {
        kelpie__wire_forget(wire, member->call);
    }
    member->call = 0;
    member_change(member, KELPIE_MEMBER_NONE);
    error.code = KELPIE_E_CRASHED;
    kelpie__reply_refuse(member->monitor, &member->reply, &error);
    member_check(member);
}
