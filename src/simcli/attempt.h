/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * A run in a process of its own (fork(2)): one that ends its process, by an assertion or a signal,
 * is a result like any other, with the assertion as its reason, and can be made small and told.
 */
#ifndef KELPIE_SIMCLI_ATTEMPT_H
#define KELPIE_SIMCLI_ATTEMPT_H

#include "sim/run.h"

struct simcli_attempt_shared;

/* Where such runs leave what they found; one at a time. */
struct simcli_attempts {
    struct simcli_attempt_shared *shared; /* owned */
    int words;                            /* owned: what a run says on standard error */
};

struct simcli_attempt {
    struct sim_run_options options; /* the nursery is left as it is; `begun` is taken */
    uint64_t calls_max;             /* the run is cut after so many; 0: it ends by itself */
    uint64_t events_max;            /* likewise */
    int64_t *begun_ns;              /* as of the options; NULL: nobody asks */
    bool has_plan; /* the faults that fired are wanted, also of a run that crashes */
    void (*at_end)(void *context); /* in the run's process, behind the run; NULL: none */
    void *context;
};

KELPIE_MUST_CHECK bool kelpie__simcli_attempts_open(struct simcli_attempts *out);
void kelpie__simcli_attempts_close(struct simcli_attempts *attempts);

/* Gives a result as kelpie__sim_run does; of a crash only the verdict, the reason and the plan. One
 * that was cut is VACUOUS. */
void kelpie__simcli_attempt(struct simcli_attempts *attempts, const struct simcli_attempt *attempt,
                            struct sim_run_result *out);
/* The events that the last one has seen. */
uint64_t kelpie__simcli_attempt_events(const struct simcli_attempts *attempts);

#endif
