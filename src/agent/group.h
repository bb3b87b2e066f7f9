/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Everything that a command started, as one thing that can be killed and seen to be gone, whatever
 * session or process group its processes moved to. It is a cgroup (version 2) where the kernel has
 * them. Otherwise it is found in the list of processes: by session, by descent, and, while one
 * command runs alone, by being an orphan that process 1 inherited.
 *
 * Groups are kept and used again: a new cgroup costs a directory with twenty files, which is a
 * tenth of a short command's time on an emulated processor. One that was killed is not: Linux of
 * 6.12.16 and later kills whoever is born into it by CLONE_INTO_CGROUP.
 */
#ifndef KELPIE_AGENT_GROUP_H
#define KELPIE_AGENT_GROUP_H

#include "core/base.h"
#include "core/error.h"
#include "os/os.h"

#define KELPIE_AGENT_GROUP_SPARE_MAX 8

struct kelpie_agent_group {
    /* owned; KELPIE_OS_NO_HANDLE: there are no cgroups, `leader` tells the members */
    int directory;
    int members;          /* owned; its cgroup.procs */
    int killer;           /* owned; its cgroup.kill */
    uint32_t number;      /* its directory's name */
    int32_t leader;       /* pid of the command, from spawn on; its session has the same number */
    uint64_t past_cpu_us; /* what earlier commands in this cgroup used */
    bool was_killed;
};

struct kelpie_agent_groups {
    struct kelpie_os *os;
    int directory; /* owned; the parent of all; KELPIE_OS_NO_HANDLE: no cgroups here */
    uint32_t last_number;
    uint32_t spare_count;
    struct kelpie_agent_group spares[KELPIE_AGENT_GROUP_SPARE_MAX];
};

/* `path` is a directory in a mounted cgroup2, made if it is missing. That there are no cgroups is
 * no error. */
void kelpie__agent_groups_init(struct kelpie_agent_groups *groups, struct kelpie_os *os,
                               const char *path);

/* Removes what is left of the groups. */
void kelpie__agent_groups_deinit(struct kelpie_agent_groups *groups);

/* An empty group for a command that is about to be spawned; the caller releases or abandons it.
 * Never fails: without a new cgroup the group works by the list of processes. */
void kelpie__agent_group_acquire(struct kelpie_agent_groups *groups,
                                 struct kelpie_agent_group *out);

/* Kills all members, who then end one after another. `leaders` are the live commands, whose
 * processes are not touched. */
void kelpie__agent_group_kill(struct kelpie_agent_groups *groups, struct kelpie_agent_group *group,
                              const int32_t *leaders, uint32_t leader_count);

/* Whether no member lives; zombies do not. */
bool kelpie__agent_group_is_empty(struct kelpie_agent_groups *groups,
                                  const struct kelpie_agent_group *group, const int32_t *leaders,
                                  uint32_t leader_count);

/* The processor time of all who were ever in the group since it was acquired, or -ENOENT where only
 * the command's own figure is known. */
KELPIE_MUST_CHECK int kelpie__agent_group_cpu_us(struct kelpie_agent_groups *groups,
                                                 const struct kelpie_agent_group *group,
                                                 uint64_t *out);

/* Takes an empty group back; `cpu_us` is what its command used. */
void kelpie__agent_group_release(struct kelpie_agent_groups *groups,
                                 struct kelpie_agent_group *group, uint64_t cpu_us);

/* Gives up on a group whose members do not die (a process may hang in the kernel): its directory
 * stays. */
void kelpie__agent_group_abandon(struct kelpie_agent_groups *groups,
                                 struct kelpie_agent_group *group);

#endif
