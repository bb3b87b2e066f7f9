/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * See crew.h. The workers are forks of this process, which has no threads; what they share is one
 * mapping.
 */
#include "simcli/crew.h"

#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/base.h"
#include "simcli/simcli.h"

struct crew_shared {
    atomic_uint_least64_t next;
    uint64_t current[SIMCLI_JOBS_MAX]; /* task of each worker */
};

void *kelpie__simcli_crew_memory(size_t bytes) {
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    KELPIE_ASSERT(bytes > 0);
    return memory == MAP_FAILED ? NULL : memory;
}

pid_t kelpie__simcli_fork(void) {
    pid_t parent = getpid();
    fflush(stdout);
    fflush(stderr);
    pid_t pid = fork();
    bool is_orphan = pid == 0 && (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0 || getppid() != parent);
    if (is_orphan) {
        _exit(KELPIE_SIM_CRASHED);
    }
    return pid;
}

static void crew_work(const struct simcli_crew *crew, struct crew_shared *shared, uint32_t worker) {
    KELPIE_ASSERT(crew->context != NULL);
    while (crew->is_enough == NULL || !crew->is_enough(crew->context)) { /* bound: the tasks */
        uint64_t task = atomic_fetch_add(&shared->next, 1);
        if (task >= crew->task_count) {
            break;
        }
        KELPIE_ASSERT(worker < SIMCLI_JOBS_MAX);
        shared->current[worker] = task;
        crew->work(crew->context, task);
    }
}

static pid_t crew_fork(const struct simcli_crew *crew, struct crew_shared *shared,
                       uint32_t worker) {
    KELPIE_ASSERT(worker < crew->jobs);
    pid_t pid = kelpie__simcli_fork();
    if (pid == 0) {
        int null = open("/dev/null", O_WRONLY | O_CLOEXEC); /* for the last words of assertions */
        if (null >= 0) {
            kelpie__ignore(dup2(null, STDERR_FILENO));
        }
        crew_work(crew, shared, worker);
        _exit(0);
    }
    return pid;
}

bool kelpie__simcli_crew_run(const struct simcli_crew *crew) {
    struct crew_shared *shared = kelpie__simcli_crew_memory(sizeof(*shared));
    pid_t pids[SIMCLI_JOBS_MAX] = {0};
    uint32_t alive = 0;
    KELPIE_ASSERT(crew->work != NULL && crew->crashed != NULL);
    KELPIE_ASSERT(crew->context != NULL);
    KELPIE_ASSERT(crew->jobs > 0 && crew->jobs <= SIMCLI_JOBS_MAX);
    for (uint32_t i = 0; shared != NULL && i < crew->jobs; i += 1) {
        pids[i] = crew_fork(crew, shared, i);
        alive += pids[i] > 0;
    }
    bool is_begun = alive > 0;
    while (alive > 0) { /* bound: each turn is the end of a worker, which ended a task */
        int status = 0;
        pid_t pid = wait(&status);
        uint32_t worker = 0;
        while (worker < crew->jobs && pids[worker] != pid) {
            worker += 1;
        }
        if (pid < 0 || worker == crew->jobs) {
            return false;
        }
        alive -= 1;
        pids[worker] = 0;
        if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
            crew->crashed(crew->context, shared->current[worker]);
            pids[worker] = crew_fork(crew, shared, worker);
            alive += pids[worker] > 0;
        }
    }
    if (shared != NULL) {
        munmap(shared, sizeof(*shared));
    }
    return is_begun;
}
