/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * A VMM's process, from spawn to reap: its end is told once, by the loop, and the last lines of
 * what it wrote to stderr are kept to say why.
 */
#ifndef KELPIE_VMM_PROCESS_H
#define KELPIE_VMM_PROCESS_H

#include "core/loop.h"
#include "core/tail.h"
#include "os/os.h"

/* `process_exit` is NULL when the system did not say how it ended. The process may be destroyed
 * inside the call. */
typedef void (*kelpie_vmm_process_callback)(void *context,
                                            const struct kelpie_os_exit *process_exit);

struct kelpie_vmm_process {
    struct kelpie_os *os;     /* borrowed: until deinit */
    struct kelpie_loop *loop; /* borrowed: until deinit */
    kelpie_vmm_process_callback callback;
    void *context;
    struct kelpie_timer timer; /* of its overdue end */
    int handle;                /* owned; KELPIE_OS_NO_HANDLE before the spawn and after the reap */
    int errors;                /* owned: what it writes to stderr */
    int32_t pid;
    uint32_t process_watch;
    uint32_t errors_watch;
    bool is_process_watched;
    bool is_errors_watched;
    struct kelpie_tail tail;
};

void kelpie__vmm_process_init(struct kelpie_vmm_process *process, struct kelpie_os *os,
                              struct kelpie_loop *loop, kelpie_vmm_process_callback callback,
                              void *context);

/* Spawns it with descriptor 2 as a pipe of ours; the other handles stay the caller's. On failure
 * nothing runs, or what runs has to be ended (its handle tells). Errors: BOOT, MEMORY, LIMIT, IO.
 */
KELPIE_MUST_CHECK int kelpie__vmm_process_start(struct kelpie_vmm_process *process,
                                                const struct kelpie_os_spawn *spawn,
                                                struct kelpie_error *error);

/* Ends it after this time, if it has not ended by itself; 0: now. What was asked for earlier is not
 * put off. Without effect on one that does not run. */
void kelpie__vmm_process_end(struct kelpie_vmm_process *process, int64_t grace_ns);

/* "NAME exited with code 1: its last words" */
void kelpie__vmm_process_describe(const struct kelpie_vmm_process *process, const char *name,
                                  const struct kelpie_os_exit *process_exit, char *out,
                                  size_t capacity);

/* Kills what lives, without a callback. */
void kelpie__vmm_process_deinit(struct kelpie_vmm_process *process);

#endif
