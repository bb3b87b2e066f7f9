/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Groups of processes as cgroups, or by the list of processes: see group.h.
 */
#include "agent/group.h"

#include <errno.h>
#include <signal.h>
#include <string.h>

#include "agent/files.h"
#include "agent/process_list.h"
#include "core/text.h"
#include "os/os_call.h"
#include "os/os_mark.h"

#define GROUP_NAME_BYTES 12 /* a 32-bit number */

static void group_name(const struct kelpie_agent_group *group, char *out) {
    KELPIE_ASSERT(group->number > 0);
    bool is_whole = kelpie__text_format(out, GROUP_NAME_BYTES, "%u", group->number);
    KELPIE_ASSERT(is_whole);
}

/* A cgroup with its two files, or none of the three. */
static void group_check(const struct kelpie_agent_group *group) {
    KELPIE_ASSERT((group->directory >= 0) == (group->members >= 0));
    KELPIE_ASSERT((group->directory >= 0) == (group->killer >= 0));
    KELPIE_ASSERT(group->leader == 0 || group->leader > 1);
}

static void group_close(struct kelpie_os *os, struct kelpie_agent_group *group) {
    KELPIE_ASSERT(group->directory >= 0);
    KELPIE_ASSERT(group->members >= 0);
    KELPIE_ASSERT(group->killer >= 0);
    kelpie__ignore(kelpie__os_close(os, group->members)); /* it was only read */
    kelpie__ignore(kelpie__os_close(os, group->killer));
    kelpie__ignore(kelpie__os_close(os, group->directory));
    group->members = KELPIE_OS_NO_HANDLE;
    group->killer = KELPIE_OS_NO_HANDLE;
    group->directory = KELPIE_OS_NO_HANDLE;
    group_check(group);
}

static void group_remove(struct kelpie_agent_groups *groups, struct kelpie_agent_group *group) {
    char name[GROUP_NAME_BYTES];
    group_name(group, name);
    group_close(groups->os, group);
    /* A directory that cannot be removed is in nobody's way: numbers are not used twice. */
    kelpie__ignore(kelpie__os_unlink(groups->os, groups->directory, name, true));
}

/* Both now: a guest that has run out of handles, or memory, is one whose commands have to be
 * killed. */
static int group_open_files(struct kelpie_os *os, struct kelpie_agent_group *group) {
    KELPIE_ASSERT(group->directory >= 0);
    int members = kelpie__os_open(os, group->directory, "cgroup.procs", KELPIE_OS_OPEN_READ, 0);
    if (members < 0) {
        return members;
    }
    int killer = kelpie__os_open(os, group->directory, "cgroup.kill", KELPIE_OS_OPEN_WRITE, 0);
    if (killer < 0) {
        kelpie__ignore(kelpie__os_close(os, members)); /* it was never read */
        return killer;
    }
    group->members = members;
    group->killer = killer;
    return 0;
}

static int group_create(struct kelpie_agent_groups *groups, struct kelpie_agent_group *out) {
    KELPIE_ASSERT(groups->directory >= 0);
    KELPIE_ASSERT(groups->last_number < UINT32_MAX);
    struct kelpie_agent_group group = {.members = KELPIE_OS_NO_HANDLE,
                                       .killer = KELPIE_OS_NO_HANDLE,
                                       .number = groups->last_number + 1};
    char name[GROUP_NAME_BYTES];
    group_name(&group, name);
    groups->last_number = group.number;
    int status = kelpie__os_mkdir(groups->os, groups->directory, name, 0755);
    if (status < 0 && status != -EEXIST) {
        return status;
    }
    group.directory = kelpie__os_open(groups->os, groups->directory, name,
                                      KELPIE_OS_OPEN_READ | KELPIE_OS_OPEN_DIRECTORY, 0);
    if (group.directory < 0) {
        return group.directory;
    }
    status = group_open_files(groups->os, &group);
    if (status < 0) {
        kelpie__ignore(kelpie__os_close(groups->os, group.directory));
        return status;
    }
    *out = group;
    group_check(&group);
    return 0;
}

void kelpie__agent_groups_init(struct kelpie_agent_groups *groups, struct kelpie_os *os,
                               const char *path) {
    KELPIE_ASSERT(path == NULL || path[0] == '/');
    *groups = (struct kelpie_agent_groups){.os = os, .directory = KELPIE_OS_NO_HANDLE};
    if (path == NULL || kelpie__agent_make_directory(os, path, 0755) < 0) {
        return;
    }
    int directory =
        kelpie__os_open(os, KELPIE_OS_CWD, path, KELPIE_OS_OPEN_READ | KELPIE_OS_OPEN_DIRECTORY, 0);
    if (directory < 0) {
        return;
    }
    struct kelpie_os_stat stat;
    /* A plain directory where the cgroups should be, or Linux before 5.14, whose cgroups cannot be
     * killed at once. The root of a cgroup2 has no cgroup.kill, every other group has. */
    if (kelpie__os_stat(os, directory, "cgroup.kill", false, &stat) < 0) {
        kelpie__ignore(kelpie__os_close(os, directory));
        return;
    }
    groups->directory = directory;
    struct kelpie_agent_group group;
    if (group_create(groups, &group) == 0) { /* so that the first command need not wait for it */
        groups->spares[0] = group;
        groups->spare_count = 1;
    }
}

void kelpie__agent_groups_deinit(struct kelpie_agent_groups *groups) {
    KELPIE_ASSERT(groups->spare_count <= KELPIE_AGENT_GROUP_SPARE_MAX);
    for (uint32_t i = 0; i < groups->spare_count; i += 1) {
        group_remove(groups, &groups->spares[i]);
    }
    groups->spare_count = 0;
    if (groups->directory >= 0) {
        kelpie__ignore(kelpie__os_close(groups->os, groups->directory));
        groups->directory = KELPIE_OS_NO_HANDLE;
    }
}

void kelpie__agent_group_acquire(struct kelpie_agent_groups *groups,
                                 struct kelpie_agent_group *out) {
    KELPIE_ASSERT(groups->spare_count <= KELPIE_AGENT_GROUP_SPARE_MAX);
    struct kelpie_agent_group group = {.directory = KELPIE_OS_NO_HANDLE,
                                       .members = KELPIE_OS_NO_HANDLE,
                                       .killer = KELPIE_OS_NO_HANDLE};
    if (groups->spare_count > 0) {
        groups->spare_count -= 1;
        group = groups->spares[groups->spare_count];
    } else if (groups->directory >= 0) {
        kelpie__ignore(group_create(groups, &group)); /* then the list of processes must do */
    }
    KELPIE_ASSERT(group.leader == 0);
    *out = group;
    group_check(out);
}

void kelpie__agent_group_kill(struct kelpie_agent_groups *groups, struct kelpie_agent_group *group,
                              const int32_t *leaders, uint32_t leader_count) {
    group_check(group);
    KELPIE_ASSERT(group->leader > 1);
    group->was_killed = true;
    if (group->directory >= 0 && kelpie__os_pwrite(groups->os, group->killer, "1", 1, 0) == 1) {
        return;
    }
    kelpie__ignore(kelpie__agent_process_list_signal(groups->os, group->leader, leaders,
                                                     leader_count, SIGKILL));
}

bool kelpie__agent_group_is_empty(struct kelpie_agent_groups *groups,
                                  const struct kelpie_agent_group *group, const int32_t *leaders,
                                  uint32_t leader_count) {
    group_check(group);
    KELPIE_ASSERT(group->leader > 1);
    if (group->directory >= 0) {
        char bytes[16];
        int64_t count = kelpie__os_pread(groups->os, group->members, bytes, sizeof(bytes), 0);
        KELPIE_ASSERT(count <= (int64_t)sizeof(bytes));
        return count == 0;
    }
    return kelpie__agent_process_list_signal(groups->os, group->leader, leaders, leader_count, 0) ==
           0;
}

int kelpie__agent_group_cpu_us(struct kelpie_agent_groups *groups,
                               const struct kelpie_agent_group *group, uint64_t *out) {
    group_check(group);
    if (group->directory < 0) {
        return -ENOENT;
    }
    int file = kelpie__os_open(groups->os, group->directory, "cpu.stat", KELPIE_OS_OPEN_READ, 0);
    if (file < 0) {
        return file;
    }
    char text[512];
    int64_t count = kelpie__os_pread(groups->os, file, text, sizeof(text) - 1, 0);
    kelpie__ignore(kelpie__os_close(groups->os, file)); /* it was only read */
    if (count < 0) {
        return (int)count;
    }
    KELPIE_ASSERT(count < (int64_t)sizeof(text));
    text[count] = '\0';
    const char *usage = strstr(text, "usage_usec ");
    uint64_t total = 0;
    if (usage == NULL) {
        return -ENOENT;
    }
    usage += strlen("usage_usec ");
    if (!kelpie__agent_take_number(&usage, &total)) {
        return -ENOENT;
    }
    *out = total - kelpie__min_u64(total, group->past_cpu_us);
    return 0;
}

void kelpie__agent_group_release(struct kelpie_agent_groups *groups,
                                 struct kelpie_agent_group *group, uint64_t cpu_us) {
    group_check(group);
    KELPIE_ASSERT(groups->spare_count <= KELPIE_AGENT_GROUP_SPARE_MAX);
    if (group->directory < 0) {
        return;
    }
    bool is_careless = KELPIE_CANARY(groups->os, 104);
    if ((group->was_killed && !is_careless) ||
        groups->spare_count == KELPIE_AGENT_GROUP_SPARE_MAX) {
        group_remove(groups, group);
        return;
    }
    group->leader = 0;
    group->past_cpu_us += cpu_us;
    groups->spares[groups->spare_count] = *group;
    KELPIE_ASSERT(!group->was_killed);
    groups->spare_count += 1;
    group->directory = KELPIE_OS_NO_HANDLE;
    group->members = KELPIE_OS_NO_HANDLE;
    group->killer = KELPIE_OS_NO_HANDLE;
}

void kelpie__agent_group_abandon(struct kelpie_agent_groups *groups,
                                 struct kelpie_agent_group *group) {
    group_check(group);
    KELPIE_ASSERT(group->leader > 1);
    if (group->directory >= 0) {
        group_close(groups->os, group);
    }
}
