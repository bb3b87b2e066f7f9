/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Many runs in several processes: each takes the next task until there is none. A task that ends
 * its process (a failed assertion) costs itself only.
 */
#ifndef KELPIE_SIMCLI_CREW_H
#define KELPIE_SIMCLI_CREW_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct simcli_crew {
    uint32_t jobs;
    uint64_t task_count;
    void *context; /* of kelpie__simcli_crew_memory: what workers write there is seen */
    void (*work)(void *context, uint64_t task);
    void (*crashed)(void *context, uint64_t task); /* in the caller's process */
    bool (*is_enough)(const void *context);        /* no more tasks are taken; NULL: never */
};

/* Zeroed, and shared with the workers; never given back. NULL: none. */
void *kelpie__simcli_crew_memory(size_t bytes);
/* Tasks are taken in their order. False: no processes, no memory. */
bool kelpie__simcli_crew_run(const struct simcli_crew *crew);
/* fork(2): what it makes ends with this process, however that ends. What was printed before is not
 * printed twice. */
pid_t kelpie__simcli_fork(void);

#endif
