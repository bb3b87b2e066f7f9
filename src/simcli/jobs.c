/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * See jobs.h.
 */
#include "simcli/jobs.h"

#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "core/limits.h"
#include "os/os_call.h"
#include "simcli/crew.h"
#include "simcli/simcli.h"

#define JOBS_PROGRESS_NS (2 * KELPIE_NS_PER_S)
#define JOBS_CRASHES_MAX 100u
#define JOBS_POLL_NS (5 * KELPIE_NS_PER_MS)
#define JOBS_CODE_DONE 0
#define JOBS_CODE_NO_MEMORY 9

/* What all processes see. */
struct shared {
    _Atomic uint64_t next;
    _Atomic uint64_t done;
    _Atomic uint64_t failed;
    _Atomic uint32_t failure_count;
    uint64_t current[SIMCLI_JOBS_MAX]; /* what each is at */
    struct simcli_failure failures[SIMCLI_FAILURES_MAX];
    struct simcli_note notes[];
};

struct worker {
    pid_t pid; /* 0: it is through */
};

static int64_t real_now(const struct simcli *simcli) {
    return kelpie__os_now(simcli->os, KELPIE_OS_CLOCK_MONOTONIC);
}

static void add_failure(struct shared *shared, uint64_t index,
                        const struct simcli_outcome *outcome) {
    KELPIE_ASSERT(outcome->reason[0] != '\0');
    KELPIE_ASSERT(outcome->verdict != KELPIE_SIM_PASS);
    uint32_t place = atomic_fetch_add(&shared->failure_count, 1);
    atomic_fetch_add(&shared->failed, 1);
    if (place < SIMCLI_FAILURES_MAX) {
        shared->failures[place].index = index;
        shared->failures[place].outcome = *outcome;
    }
}

/* A worker's whole life. */
static int work(const struct simcli *simcli, const struct simcli_campaign *campaign,
                struct shared *shared, uint32_t job) {
    struct sim_nursery *nursery = kelpie__sim_nursery_create();
    kelpie__simcli_check(simcli);
    if (nursery == NULL) {
        return JOBS_CODE_NO_MEMORY;
    }
    KELPIE_ASSERT(job < SIMCLI_JOBS_MAX);
    uint64_t index = atomic_fetch_add(&shared->next, 1);
    while (index < campaign->count) { /* bound: every turn takes one */
        if (campaign->end_ns > 0 && real_now(simcli) >= campaign->end_ns) {
            break;
        }
        struct simcli_outcome outcome = {0};
        KELPIE_ASSERT((shared->notes[index].flags & SIMCLI_RUN_DONE) == 0);
        shared->current[job] = index;
        campaign->work(campaign->context, index, nursery, &outcome);
        shared->notes[index].value = outcome.value;
        memcpy(shared->notes[index].pairs, outcome.pairs, sizeof(outcome.pairs));
        shared->notes[index].flags = outcome.flags | SIMCLI_RUN_DONE;
        if (outcome.verdict != KELPIE_SIM_PASS) {
            add_failure(shared, index, &outcome);
        }
        atomic_fetch_add(&shared->done, 1);
        index = atomic_fetch_add(&shared->next, 1);
    }
    kelpie__sim_nursery_destroy(nursery);
    return JOBS_CODE_DONE;
}

static bool start(const struct simcli *simcli, const struct simcli_campaign *campaign,
                  struct shared *shared, uint32_t job, struct worker *out) {
    kelpie__simcli_check(simcli);
    KELPIE_ASSERT(job < simcli->jobs);
    pid_t pid = kelpie__simcli_fork();
    if (pid < 0) {
        return false;
    }
    if (pid == 0) {
        _exit(work(simcli, campaign, shared, job));
    }
    out->pid = pid;
    return true;
}

/* A worker has ended. True: another one has to take its place. */
static bool has_crashed(struct shared *shared, uint32_t job, int status) {
    struct simcli_outcome outcome = {.verdict = KELPIE_SIM_CRASHED, .flags = SIMCLI_RUN_FIRED};
    KELPIE_ASSERT(job < SIMCLI_JOBS_MAX);
    if (WIFEXITED(status) && WEXITSTATUS(status) == JOBS_CODE_DONE) {
        return false;
    }
    kelpie__ignore(snprintf(outcome.reason, sizeof(outcome.reason), "crash: %s %d",
                            WIFSIGNALED(status) ? "signal" : "exit code",
                            WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status)));
    shared->notes[shared->current[job]].flags =
        SIMCLI_RUN_FIRED | SIMCLI_RUN_DONE | SIMCLI_RUN_CRASHED;
    add_failure(shared, shared->current[job], &outcome);
    atomic_fetch_add(&shared->done, 1);
    return true;
}

static void progress(const struct simcli *simcli, const struct simcli_campaign *campaign,
                     const struct shared *shared, int64_t *inout_told_ns) {
    int64_t now_ns = real_now(simcli);
    KELPIE_ASSERT(atomic_load(&shared->failed) <= atomic_load(&shared->done) + simcli->jobs);
    kelpie__simcli_check(simcli);
    if (!simcli->is_quiet && now_ns - *inout_told_ns >= JOBS_PROGRESS_NS) {
        *inout_told_ns = now_ns;
        fprintf(stderr, "%s: %llu of %llu runs, %llu failed\n", campaign->name,
                (unsigned long long)atomic_load(&shared->done), (unsigned long long)campaign->count,
                (unsigned long long)atomic_load(&shared->failed));
    }
}

/* Until all are through. */
static bool supervise(const struct simcli *simcli, const struct simcli_campaign *campaign,
                      struct shared *shared, struct worker *workers) {
    int64_t told_ns = real_now(simcli);
    uint32_t crashes = 0;
    uint32_t living = simcli->jobs;
    const struct timespec rest = {.tv_nsec = JOBS_POLL_NS};
    kelpie__simcli_check(simcli);
    while (living > 0) { /* bound: the workers' runs */
        int status = 0;
        pid_t pid = waitpid(-1, &status, WNOHANG);
        if (pid == 0) {
            progress(simcli, campaign, shared, &told_ns);
            nanosleep(&rest, NULL);
            continue;
        }
        uint32_t job = 0;
        while (job < simcli->jobs && workers[job].pid != pid) {
            job += 1;
        }
        if (pid < 0 || job == simcli->jobs) {
            return false;
        }
        bool goes_on = has_crashed(shared, job, status) && crashes < JOBS_CRASHES_MAX;
        crashes += goes_on ? 1 : 0;
        if (!goes_on || !start(simcli, campaign, shared, job, &workers[job])) {
            workers[job].pid = 0;
            living -= 1;
        }
    }
    return true;
}

static size_t shared_bytes(const struct simcli_campaign *campaign) {
    return sizeof(struct shared) + (campaign->count + 1) * sizeof(struct simcli_note);
}

static int by_index(const void *first, const void *second) {
    uint64_t a = ((const struct simcli_failure *)first)->index;
    uint64_t b = ((const struct simcli_failure *)second)->index;
    return a < b ? -1 : a > b;
}

bool kelpie__simcli_campaign_run(struct simcli *simcli, struct simcli_campaign *campaign) {
    struct worker workers[SIMCLI_JOBS_MAX] = {0};
    KELPIE_ASSERT(campaign->name != NULL);
    kelpie__simcli_check(simcli);
    KELPIE_ASSERT(campaign->work != NULL && campaign->notes == NULL);
    KELPIE_ASSERT(simcli->jobs > 0 && simcli->jobs <= SIMCLI_JOBS_MAX);
    size_t bytes = shared_bytes(campaign);
    struct shared *shared =
        mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    bool is_good = shared != MAP_FAILED;
    for (uint32_t job = 0; is_good && job < simcli->jobs; job += 1) {
        is_good = start(simcli, campaign, shared, job, &workers[job]);
    }
    is_good = is_good && supervise(simcli, campaign, shared, workers);
    if (!is_good) {
        fprintf(stderr, "kelpie-sim: no process or memory for %u jobs: %s\n", simcli->jobs,
                strerror(errno));
        return false;
    }
    KELPIE_ASSERT(atomic_load(&shared->done) <= campaign->count);
    campaign->done = atomic_load(&shared->done);
    campaign->failed = atomic_load(&shared->failed);
    campaign->notes = shared->notes;
    campaign->failure_count =
        (uint32_t)kelpie__min_u64(atomic_load(&shared->failure_count), SIMCLI_FAILURES_MAX);
    qsort(shared->failures, campaign->failure_count, sizeof(shared->failures[0]), by_index);
    campaign->failures = shared->failures;
    return true;
}

void kelpie__simcli_campaign_release(struct simcli_campaign *campaign) {
    if (campaign->notes != NULL) {
        munmap((char *)campaign->notes - offsetof(struct shared, notes), shared_bytes(campaign));
        campaign->notes = NULL;
    }
}

/* ---- telling --------------------------------------------------------------------------------- */

bool kelpie__simcli_is_same_kind(const char *first, const char *second) {
    static const char digits[] = "0123456789";
    KELPIE_ASSERT(first != NULL && second != NULL);
    while (*first != '\0' && *second != '\0') { /* bound: the texts */
        size_t a = strspn(first, digits);
        size_t b = strspn(second, digits);
        if ((a == 0) != (b == 0) || (a == 0 && *first != *second)) {
            return false;
        }
        first += a > 0 ? a : 1;
        second += b > 0 ? b : 1;
    }
    return *first == *second;
}

int kelpie__simcli_campaign_tell(const struct simcli_campaign *campaign, simcli_tell_one tell,
                                 void *context) {
    bool *is_told = calloc(campaign->failure_count + 1, sizeof(*is_told));
    KELPIE_ASSERT(tell != NULL);
    KELPIE_ASSERT(campaign->failure_count <= SIMCLI_FAILURES_MAX);
    if (is_told == NULL) {
        return KELPIE_SIM_CRASHED;
    }
    for (uint32_t i = 0; i < campaign->failure_count; i += 1) {
        uint32_t count = 0;
        for (uint32_t j = i; !is_told[i] && j < campaign->failure_count; j += 1) {
            if (kelpie__simcli_is_same_kind(campaign->failures[i].outcome.reason,
                                            campaign->failures[j].outcome.reason)) {
                is_told[j] = j > i;
                count += 1;
            }
        }
        if (count > 0) {
            tell(context, &campaign->failures[i], count);
        }
    }
    free(is_told);
    return campaign->failure_count > 0 ? (int)campaign->failures[0].outcome.verdict : 0;
}
