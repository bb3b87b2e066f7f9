/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * See told.h.
 */
#include "sim/told.h"

#ifdef KELPIE_SIMULATION

#include <string.h>

#include "sim/stream.h"

/* QEMU answers in the order of the requests, whose ids only grow: what it has answered last is the
 * highest that may have an answer. */
static void told_answer(struct sim_process *process, const struct kelpie_told *told) {
    struct sim_object *stream = kelpie__sim_handle_object(process, told->handle);
    KELPIE_ASSERT(stream != NULL);
    uint64_t answered = kelpie__sim_stream_answered(stream);
    if (told->number > answered) {
        kelpie__sim_world_fail(
            process->machine->world,
            "invariant 29: monitor (pid %d) takes an answer for that of request %llu "
            "of QMP, and QEMU has answered none after %llu",
            (int)process->pid, (unsigned long long)told->number, (unsigned long long)answered);
    }
}

void kelpie__sim_told(struct sim_process *process, const struct kelpie_mark *mark) {
    KELPIE_ASSERT(mark->told != NULL);
    if (strcmp(mark->name, "qmp-answer") == 0) {
        told_answer(process, mark->told);
    }
}

#endif
