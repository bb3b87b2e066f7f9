/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Reads /proc/PID/stat of every process: see process_list.h. A race is inherent (a process may fork
 * between two reads), so callers repeat until nothing is left.
 */
#include "agent/process_list.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "agent/files.h"
#include "core/limits.h"
#include "os/os_call.h"

#define PROCESS_COUNT_MAX 4096

static_assert(KELPIE_EXEC_COUNT_MAX < PROCESS_COUNT_MAX,
              "every command's leader may be in the list");

struct process {
    int32_t pid;
    int32_t parent;
    int32_t session;
    bool is_alive;
    bool is_member;
};

/* The number that stands at *inout_at, which moves behind it. False when there is none. */
static bool process_parse_number(const char **inout_at, int32_t *out) {
    uint64_t value = 0;
    if (!kelpie__agent_take_number(inout_at, &value) || value > INT32_MAX) {
        return false;
    }
    *out = (int32_t)value;
    return true;
}

/* "PID (name) STATE PARENT GROUP SESSION ..."; the name may hold anything, so its end is the last
 * parenthesis. */
static bool process_parse(const char *text, struct process *out) {
    KELPIE_ASSERT(text[0] != '\0');
    const char *at = strrchr(text, ')');
    if (at == NULL || at[1] != ' ' || at[2] == '\0') {
        return false;
    }
    char state = at[2];
    at += 3;
    int32_t group = 0;
    out->is_alive = state != 'Z' && state != 'X';
    out->is_member = false;
    return process_parse_number(&at, &out->parent) && process_parse_number(&at, &group) &&
           process_parse_number(&at, &out->session);
}

/* The next pid in /proc: 1, 0 at the end, or a negative errno value. */
static int process_next(struct kelpie_os *os, int directory, uint64_t *inout_cursor, int32_t *out) {
    char name[256];
    int status = 1;
    uint32_t budget = 2 * PROCESS_COUNT_MAX;
    KELPIE_ASSERT(directory >= 0);
    while (status > 0 && budget > 0) {
        budget -= 1;
        status = kelpie__os_list(os, directory, inout_cursor, name, sizeof(name));
        const char *at = name;
        if (status > 0 && process_parse_number(&at, out) && *at == '\0') {
            return 1;
        }
    }
    return status < 0 ? status : 0;
}

static int process_open_list(struct kelpie_os *os) {
    return kelpie__os_open(os, KELPIE_OS_CWD, "/proc",
                           KELPIE_OS_OPEN_READ | KELPIE_OS_OPEN_DIRECTORY, 0);
}

static uint32_t process_read_all(struct kelpie_os *os, struct process *out, uint32_t capacity) {
    KELPIE_ASSERT(capacity > 0);
    int directory = process_open_list(os);
    if (directory < 0) {
        return 0;
    }
    uint32_t count = 0;
    uint64_t cursor = 0;
    int32_t pid = 0;
    while (count < capacity && process_next(os, directory, &cursor, &pid) > 0) {
        char path[32];
        char text[512];
        kelpie__ignore(snprintf(path, sizeof(path), "/proc/%d/stat", pid)); /* it always fits */
        int status = kelpie__agent_read_text(os, path, text, sizeof(text));
        out[count].pid = pid;
        if (status > 0 && process_parse(text, &out[count])) { /* else it has just ended */
            count += 1;
        }
    }
    kelpie__ignore(kelpie__os_close(os, directory)); /* it was only read */
    KELPIE_ASSERT(count <= capacity);
    return count;
}

static bool process_is_leader(int32_t pid, const int32_t *leaders, uint32_t leader_count) {
    KELPIE_ASSERT(pid > 0);
    for (uint32_t i = 0; i < leader_count; i += 1) {
        if (leaders[i] == pid) {
            return true;
        }
    }
    return false;
}

static const struct process *process_find(const struct process *list, uint32_t count, int32_t pid) {
    for (uint32_t i = 0; i < count; i += 1) {
        if (list[i].pid == pid) {
            return &list[i];
        }
    }
    return NULL;
}

/* Marks children of members until a pass finds none. */
static void process_mark_descendants(struct process *list, uint32_t count) {
    KELPIE_ASSERT(count <= PROCESS_COUNT_MAX);
    bool has_changed = true;
    for (uint32_t pass = 0; pass < count && has_changed; pass += 1) {
        has_changed = false;
        for (uint32_t i = 0; i < count; i += 1) {
            if (list[i].is_member) {
                continue;
            }
            const struct process *parent = process_find(list, count, list[i].parent);
            if (parent != NULL && parent->is_member) {
                list[i].is_member = true;
                has_changed = true;
            }
        }
    }
}

int kelpie__agent_process_count(struct kelpie_os *os) {
    int directory = process_open_list(os);
    if (directory < 0) {
        return directory;
    }
    int count = 0;
    uint64_t cursor = 0;
    int32_t pid = 0;
    int status = 1;
    while (status > 0 && count < PROCESS_COUNT_MAX) {
        status = process_next(os, directory, &cursor, &pid);
        count += status > 0 ? 1 : 0;
    }
    kelpie__ignore(kelpie__os_close(os, directory)); /* it was only read */
    KELPIE_ASSERT(count <= PROCESS_COUNT_MAX);
    return status < 0 ? status : count;
}

uint32_t kelpie__agent_process_list_signal(struct kelpie_os *os, int32_t leader,
                                           const int32_t *leaders, uint32_t leader_count,
                                           int signal) {
    KELPIE_ASSERT(leader > 1);
    KELPIE_ASSERT(signal >= 0);
    KELPIE_ASSERT(leader_count == 0 || leaders != NULL);
    struct kelpie_os_identity self;
    size_t bytes = sizeof(struct process) * PROCESS_COUNT_MAX;
    struct process *list = kelpie__alloc(os, bytes);
    if (list == NULL || kelpie__os_identity(os, &self) < 0) {
        kelpie__free(os, list, bytes);
        return 0;
    }
    uint32_t count = process_read_all(os, list, PROCESS_COUNT_MAX);
    bool is_alone = leader_count == 0 || (leader_count == 1 && leaders[0] == leader);
    for (uint32_t i = 0; i < count; i += 1) {
        bool is_orphan = list[i].parent == self.pid && list[i].session != 0 &&
                         list[i].session != self.pid &&
                         !process_is_leader(list[i].pid, leaders, leader_count);
        list[i].is_member =
            list[i].pid == leader || list[i].session == leader || (is_alone && is_orphan);
    }
    process_mark_descendants(list, count);
    uint32_t member_count = 0;
    for (uint32_t i = 0; i < count; i += 1) {
        if (list[i].is_member && list[i].is_alive && list[i].pid != self.pid) {
            member_count += 1;
            if (signal != 0) { /* it may have ended by itself meanwhile */
                kelpie__ignore(kelpie__os_kill_pid(os, list[i].pid, signal));
            }
        }
    }
    kelpie__free(os, list, bytes);
    KELPIE_ASSERT(member_count <= count);
    return member_count;
}
