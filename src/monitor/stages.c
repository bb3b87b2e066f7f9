/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * See stages.h.
 */
#include "monitor/stages.h"

#include "core/json.h"
#include "monitor/monitor.h"
#include "os/os_call.h"

#define STAGES_TEXT_BYTES 1024u

void kelpie__stages_begin(struct kelpie_monitor *monitor) {
    KELPIE_ASSERT(monitor->loop->now_ns > 0);
    monitor->stages = (struct kelpie_stage_times){.begun_ns = monitor->loop->now_ns};
}

void kelpie__stages_reach(struct kelpie_monitor *monitor, enum kelpie_stage stage) {
    struct kelpie_stage_times *stages = &monitor->stages;
    KELPIE_ASSERT(stage < KELPIE_STAGE_COUNT);
    if (stages->begun_ns == 0 || (stages->at_ns[KELPIE_STAGE_RUNNING] != 0 &&
                                  (stage <= KELPIE_STAGE_RUNNING || stages->at_ns[stage] != 0))) {
        return;
    }
    for (uint32_t i = stage; i < KELPIE_STAGE_COUNT; i += 1) {
        stages->at_ns[i] = 0;
    }
    stages->at_ns[stage] = monitor->loop->now_ns;
}

/* What the guest says is not believed: its moments lie between the VMM's start and now. */
static int64_t stages_within(const struct kelpie_stage_times *stages, int64_t now_ns,
                             uint64_t age_ns) {
    int64_t longest_ns = now_ns - stages->begun_ns;
    KELPIE_ASSERT(longest_ns >= 0);
    return age_ns < (uint64_t)longest_ns ? now_ns - (int64_t)age_ns : stages->begun_ns;
}

void kelpie__stages_ready(struct kelpie_monitor *monitor,
                          const struct kelpie_vmm_guest_clock *clock) {
    struct kelpie_stage_times *stages = &monitor->stages;
    int64_t now_ns = monitor->loop->now_ns;
    uint64_t age_ns = clock->second_monotonic_ns;
    if (stages->begun_ns == 0 || stages->at_ns[KELPIE_STAGE_RUNNING] != 0) {
        return;
    }
    uint64_t agent_ns =
        age_ns >= clock->first_monotonic_ns ? age_ns - clock->first_monotonic_ns : 0;
    stages->at_ns[KELPIE_STAGE_KERNEL] = stages_within(stages, now_ns, age_ns);
    stages->at_ns[KELPIE_STAGE_AGENT] = stages_within(stages, now_ns, agent_ns);
    KELPIE_ASSERT(stages->at_ns[KELPIE_STAGE_KERNEL] <= stages->at_ns[KELPIE_STAGE_AGENT]);
    kelpie__stages_reach(monitor, KELPIE_STAGE_READY);
    /* A kernel on KVM is up before its VMM answers. */
    int64_t *machine_ns = &stages->at_ns[KELPIE_STAGE_MACHINE];
    if (*machine_ns == 0 || *machine_ns > stages->at_ns[KELPIE_STAGE_KERNEL]) {
        *machine_ns = stages->at_ns[KELPIE_STAGE_KERNEL];
    }
}

void kelpie__stages_tell(struct kelpie_monitor *monitor, struct kelpie_reply reply) {
    static const char *const names[KELPIE_STAGE_COUNT] = {
        "vmm_us",   "machine_us", "kernel_us", "agent_us",        "ready_us",
        "hello_us", "running_us", "exec_us",   "exec_started_us", "exec_ended_us"};
    const struct kelpie_stage_times *stages = &monitor->stages;
    char text[STAGES_TEXT_BYTES];
    struct kelpie_json_writer writer;
    enum kelpie_vm_state state = monitor->lifecycle.state;
    if (!kelpie__state_is_live(state)) { /* as the library says when we are gone, soon */
        kelpie__reply_refuse_text(monitor, &reply, KELPIE_E_STATE,
                                  "VM \"%s\" is %s: the stages of a start are known while it lives",
                                  monitor->config.name, kelpie_vm_state_name(state));
        return;
    }
    kelpie__json_begin(&writer, text, sizeof(text));
    kelpie__json_object_begin(&writer, NULL);
    for (uint32_t i = 0; i < KELPIE_STAGE_COUNT; i += 1) {
        if (stages->at_ns[i] != 0) {
            int64_t since_us = (stages->at_ns[i] - stages->begun_ns) / KELPIE_NS_PER_US;
            KELPIE_ASSERT(since_us >= 0);
            /* 0 is for what was not reached. */
            kelpie__json_write_i64(&writer, names[i], since_us > 0 ? since_us : 1);
        }
    }
    kelpie__json_object_end(&writer);
    int64_t length = kelpie__json_finish(&writer);
    KELPIE_ASSERT(length > 0);
    kelpie__reply_result(monitor, &reply, text);
}
