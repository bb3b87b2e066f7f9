/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * See leftovers.h. A process counts as left when it is a child of this subreaper after the settling
 * time; its command line is printed. Only such children, which the test started, are ever killed.
 */
#define _GNU_SOURCE
#include "leftovers.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "harness.h"

__attribute__((format(printf, 3, 4))) static void note(char *out, size_t capacity,
                                                       const char *format, ...) {
    size_t used = strlen(out);
    va_list arguments;
    va_start(arguments, format);
    if (used + 1 < capacity) {
        vsnprintf(out + used, capacity - used, format, arguments);
    }
    va_end(arguments);
}

static void reap_ended(void) {
    while (waitpid(-1, NULL, WNOHANG | __WALL) > 0) {
    }
}

/* The first living child, from the kernel's own list; 0 when there is none. */
static pid_t child_find(void) {
    char path[64];
    snprintf(path, sizeof(path), "/proc/self/task/%d/children", (int)getpid());
    FILE *children = fopen(path, "re");
    int pid = 0;
    if (children == NULL) {
        return 0;
    }
    if (fscanf(children, "%d", &pid) != 1) {
        pid = 0;
    }
    fclose(children);
    return pid;
}

static bool child_wait(pid_t child, uint64_t deadline_ms) {
    int process = (int)syscall(SYS_pidfd_open, child, 0);
    if (process < 0) {
        return errno == ESRCH;
    }
    uint64_t now_ms = harness_now_ms();
    struct pollfd poll_process = {.fd = process, .events = POLLIN};
    int ready = poll(&poll_process, 1, now_ms < deadline_ms ? (int)(deadline_ms - now_ms) : 0);
    close(process);
    return ready > 0;
}

static void children_settle(uint32_t settle_ms, char *out, size_t capacity) {
    uint64_t deadline_ms = harness_now_ms() + settle_ms;
    for (unsigned budget = 0; budget < 10000; budget++) {
        reap_ended();
        pid_t child = child_find();
        if (child == 0) {
            return;
        }
        if (!child_wait(child, deadline_ms)) {
            char path[64];
            char command[200] = "";
            snprintf(path, sizeof(path), "/proc/%d/cmdline", (int)child);
            int file = open(path, O_RDONLY | O_CLOEXEC);
            ssize_t count = file < 0 ? 0 : read(file, command, sizeof(command) - 1);
            for (ssize_t i = 0; i + 1 < count; i++) {
                command[i] = command[i] == '\0' ? ' ' : command[i];
            }
            if (file >= 0) {
                close(file);
            }
            note(out, capacity, "process %d \"%s\"; ", (int)child, command);
            kill(child, SIGKILL);
            waitpid(child, NULL, __WALL);
        }
    }
    note(out, capacity, "more processes than can be waited for; ");
}

/* Lines of a /proc file that name the test's directory. `detach` is set for the mount table. */
static void lines_find(const char *table, const char *what, const char *root, char *out,
                       size_t capacity) {
    FILE *file = fopen(table, "re");
    char line[4096];
    if (file == NULL) {
        note(out, capacity, "cannot read %s; ", table);
        return;
    }
    while (fgets(line, sizeof(line), file) != NULL) {
        char *place = strstr(line, root);
        if (place != NULL) {
            place[strcspn(place, " \n")] = '\0';
            note(out, capacity, "%s %s; ", what, place);
        }
    }
    fclose(file);
}

/* A state directory that was emptied keeps its skeleton: directories and the format's version file.
 */
static void files_find(const char *directory, unsigned depth, char *out, size_t capacity) {
    DIR *stream = opendir(directory);
    if (stream == NULL || depth > 16) {
        return;
    }
    for (struct dirent *entry = readdir(stream); entry != NULL; entry = readdir(stream)) {
        char path[4096];
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) {
            continue;
        }
        snprintf(path, sizeof(path), "%s/%s", directory, entry->d_name);
        if (entry->d_type == DT_DIR) {
            files_find(path, depth + 1, out, capacity);
        } else if (strcmp(entry->d_name, "format") != 0) {
            note(out, capacity, "file %s; ", path);
        }
    }
    closedir(stream);
}

static int remove_visit(const char *path, const struct stat *status, int kind, struct FTW *place) {
    (void)status;
    (void)kind;
    (void)place;
    return remove(path);
}

void leftovers_remove(const char *root) {
    nftw(root, remove_visit, 32, FTW_DEPTH | FTW_PHYS);
}

/* What was lent to the test (prepared.h) is none of what it left. */
static void lent_remove(const char *root, const char *shared) {
    char path[4096];
    snprintf(path, sizeof(path), "%s/state/templates", shared);
    DIR *stream = opendir(path);
    if (stream == NULL) {
        return;
    }
    for (struct dirent *entry = readdir(stream); entry != NULL; entry = readdir(stream)) {
        if (entry->d_name[0] != '.') {
            snprintf(path, sizeof(path), "%s/state/templates/%s", root, entry->d_name);
            leftovers_remove(path);
        }
    }
    closedir(stream);
}

void leftovers_settle(const char *root, const char *shared, uint32_t settle_ms, char *out,
                      size_t capacity) {
    children_settle(settle_ms, out, capacity);
    lent_remove(root, shared);
    lines_find("/proc/self/mountinfo", "mount", root, out, capacity);
    lines_find("/proc/net/unix", "socket", root, out, capacity);
    files_find(root, 0, out, capacity);
}
