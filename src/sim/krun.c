/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * The simulated kelpie-krun's life: see krun.h. krun_start_enter does not come back: the process is
 * the VM from then on, and ends with 0 when its guest resets the machine, panics, or never found
 * its root. A guest that switches itself off just stands still, as there is no ACPI.
 */
#include "sim/krun.h"

#include <string.h>

#include "core/limits.h"
#include "os/os_call.h"

#define KRUN_LOOP_HANDLES 8u
#define KRUN_LIBRARIES_NS (6 * KELPIE_NS_PER_MS) /* both are loaded */
#define KRUN_ENTER_NS (25 * KELPIE_NS_PER_MS)    /* memory, devices, threads */
#define KRUN_BOOT_FAULT_NS (20 * KELPIE_NS_PER_MS)
#define KRUN_DELAY_US_MAX INT64_C(3600000000)

static void krun_check(const struct sim_krun *krun) {
    KELPIE_ASSERT(krun->os != NULL && krun->loop != NULL);
    if (krun->is_guest_watched) {
        KELPIE_ASSERT(krun->guest != NULL && !krun->is_hung);
    }
    KELPIE_ASSERT(krun->stream == KELPIE_OS_NO_HANDLE || krun->has_dialled);
}

int64_t kelpie__sim_krun_about(struct sim_krun *krun, int64_t median_ns) {
    KELPIE_ASSERT(median_ns > 0);
    return kelpie__sim_about(krun->process->machine->world, SIM_STREAM_QEMU, median_ns);
}

void kelpie__sim_krun_exit(struct sim_krun *krun, int code) {
    KELPIE_ASSERT(code >= 0 && code <= 255);
    krun->exit_code = code;
    krun->is_ended = true;
}

/* ---- the guest's boot ------------------------------------------------------------------------ */

static void krun_boot_fault_due(void *context) {
    struct sim_krun *krun = context;
    KELPIE_ASSERT(krun->fault != NULL && krun->guest != NULL);
    if (strcmp(krun->fault, "hang") == 0) {
        kelpie__sim_guest_hang(krun->guest);
    } else if (strcmp(krun->fault, "panic") == 0) {
        kelpie__sim_guest_panic(krun->guest, "Fatal exception in interrupt");
    } else if (strcmp(krun->fault, "deaf") == 0) {
        kelpie__sim_guest_deafen(krun->guest);
    } else if (strcmp(krun->fault, "reset") == 0) {
        kelpie__sim_krun_exit(krun, 0);
    } else {
        kelpie__sim_guest_run(krun->guest); /* late */
    }
}

static void krun_boot(struct sim_krun *krun) {
    uint64_t argument = 0;
    const char *fault = kelpie__sim_krun_fault(krun, "guest.boot", &argument);
    bool is_late = fault != NULL && strcmp(fault, "late") == 0;
    KELPIE_ASSERT(krun->guest != NULL);
    if (fault != NULL) {
        int64_t late_ns = (int64_t)kelpie__min_u64(argument, KRUN_DELAY_US_MAX) * 1000;
        krun->fault = fault;
        kelpie__timer_arm(
            krun->loop, &krun->timer,
            krun->loop->now_ns +
                (is_late ? late_ns : kelpie__sim_krun_about(krun, KRUN_BOOT_FAULT_NS)),
            krun_boot_fault_due, krun);
    }
    if (!is_late) {
        kelpie__sim_guest_run(krun->guest);
    }
}

/* ---- the start ------------------------------------------------------------------------------- */

static void krun_enter_due(void *context) {
    struct sim_krun *krun = context;
    KELPIE_ASSERT(krun->guest == NULL);
    if (!kelpie__sim_krun_guest_start(krun)) {
        kelpie__sim_krun_tell(krun, "returned 12"); /* ENOMEM */
        kelpie__sim_krun_exit(krun, KELPIE_KRUN_RETURNED);
        return;
    }
    krun_boot(krun);
    kelpie__sim_krun_pump(krun);
}

static void krun_libraries_due(void *context) {
    struct sim_krun *krun = context;
    KELPIE_ASSERT(krun->guest == NULL);
    if (kelpie__sim_krun_launch(krun)) {
        kelpie__timer_arm(krun->loop, &krun->timer,
                          krun->loop->now_ns + kelpie__sim_krun_about(krun, KRUN_ENTER_NS),
                          krun_enter_due, krun);
    }
}

/* Nothing is freed one by one: the end of a process takes its memory and its handles. */
static int krun_run(struct sim_krun *krun) {
    krun->loop->now_ns = kelpie__os_now(krun->os, KELPIE_OS_CLOCK_MONOTONIC);
    kelpie__timer_arm(krun->loop, &krun->timer,
                      krun->loop->now_ns + kelpie__sim_krun_about(krun, KRUN_LIBRARIES_NS),
                      krun_libraries_due, krun);
    int status = 0;
    while (status == 0 && !krun->is_ended) { /* bound: the process's life */
        status = kelpie__loop_step(krun->loop, -1, NULL);
        krun_check(krun);
    }
    kelpie__sim_krun_guest_stop(krun);
    return status < 0 ? 1 : krun->exit_code;
}

int kelpie__sim_krun_main(struct kelpie_os *os, int argc, char **argv) {
    KELPIE_ASSERT(argc >= 1 && argv[0] != NULL);
    struct sim_krun *krun = kelpie__alloc(os, sizeof(*krun));
    if (krun == NULL) {
        return KELPIE_KRUN_FAILED;
    }
    krun->os = os;
    krun->argc = argc;
    krun->argv = argv;
    krun->process = kelpie__sim_process_of(os);
    krun->guest_handle = KELPIE_OS_NO_HANDLE;
    krun->stream = KELPIE_OS_NO_HANDLE;
    if (kelpie__loop_create(os, KRUN_LOOP_HANDLES, &krun->loop, NULL) < 0) {
        return KELPIE_KRUN_FAILED;
    }
    return krun_run(krun);
}
