/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * The boot phase: see boot.h. Order is by need, for the time from the kernel's start of /init to
 * `hello` is what a user waits for; nothing is logged on the way, since a byte on an emulated
 * serial line costs as much as a system call.
 */
#include "agent/boot.h"

#include <errno.h>
#include <linux/mount.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "agent/files.h"
#include "core/text.h"
#include "os/os_call.h"

#define BOOT_MODULES_LIST "/.kelpie/modules.list"
#define BOOT_MODULES_DIRECTORY "/.kelpie/modules"
#define BOOT_MODULES_LIST_BYTES_MAX 4096
#define BOOT_PATH_BYTES_MAX 320 /* a name of 255 bytes and a directory of ours */
#define BOOT_PORTS_DIRECTORY "/sys/class/virtio-ports"
#define BOOT_PORT_COUNT_MAX 64
#define BOOT_LOG_LINE_BYTES_MAX 512

struct boot_mount {
    const char *type;
    const char *target;
    uint64_t flags;
    const char *data;
};

struct boot_link {
    const char *path;
    const char *target;
};

static const struct boot_mount boot_mounts_early[] = {
    {"devtmpfs", "/dev", MS_NOSUID, "mode=755"},
    {"sysfs", "/sys", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL},
    {"proc", "/proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL},
};

static const struct boot_mount boot_mounts_late[] = {
    {"devpts", "/dev/pts", MS_NOSUID | MS_NOEXEC, "mode=620,ptmxmode=666,gid=5"},
    {"tmpfs", "/dev/shm", MS_NOSUID | MS_NODEV, "mode=1777"},
    {"cgroup2", "/sys/fs/cgroup", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL},
};

static const struct boot_link boot_links[] = {
    {"/dev/fd", "/proc/self/fd"},
    {"/dev/stdin", "/proc/self/fd/0"},
    {"/dev/stdout", "/proc/self/fd/1"},
    {"/dev/stderr", "/proc/self/fd/2"},
};

void kelpie__agent_log(struct kelpie_os *os, const char *format, ...) {
    char line[BOOT_LOG_LINE_BYTES_MAX] = "kelpie-agent: ";
    size_t prefix = strlen(line);
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(line + prefix, sizeof(line) - prefix - 1, format, arguments);
    va_end(arguments);
    if (length < 0) {
        return;
    }
    size_t count = prefix + (size_t)length;
    count = count < sizeof(line) - 2 ? count : sizeof(line) - 2;
    line[count] = '\n';
    /* The console may be missing or slow: a lost line is better than a stuck process 1. */
    kelpie__ignore(kelpie__os_write(os, 2, line, count + 1));
}

/* Mounts over a directory that is made when it is missing. What is mounted already (libkrun's init
 * does) is left alone. */
static int boot_mount(struct kelpie_os *os, const struct boot_mount *mount) {
    KELPIE_ASSERT(mount->target[0] == '/');
    int status =
        kelpie__os_mount(os, mount->type, mount->target, mount->type, mount->flags, mount->data);
    if (status == -ENOENT) {
        status = kelpie__agent_make_directory(os, mount->target, 0755);
        if (status == 0) {
            status = kelpie__os_mount(os, mount->type, mount->target, mount->type, mount->flags,
                                      mount->data);
        }
    }
    return status == -EBUSY ? 0 : status;
}

int kelpie__agent_boot_early(struct kelpie_os *os, struct kelpie_error *error) {
    KELPIE_ASSERT(os->guest != NULL);
    for (size_t i = 0; i < KELPIE_ARRAY_COUNT(boot_mounts_early); i += 1) {
        const struct boot_mount *mount = &boot_mounts_early[i];
        int status = boot_mount(os, mount);
        if (status < 0) {
            return kelpie__fail(error, KELPIE_E_BOOT, -status, "mount %s on %s", mount->type,
                                mount->target);
        }
    }
    /* A kernel that found no /dev/console started us without the first three descriptors. Handles
     * that we open later must not land there: spawned commands get them. */
    int handle = 0;
    for (int i = 0; i < 4 && handle >= 0 && handle <= 2; i += 1) {
        handle =
            kelpie__os_open(os, KELPIE_OS_CWD, "/dev/console",
                            KELPIE_OS_OPEN_READ | KELPIE_OS_OPEN_WRITE | KELPIE_OS_OPEN_NO_TTY, 0);
        if (handle < 0) {
            handle = kelpie__os_open(os, KELPIE_OS_CWD, "/dev/null",
                                     KELPIE_OS_OPEN_READ | KELPIE_OS_OPEN_WRITE, 0);
        }
    }
    if (handle < 0) {
        return kelpie__fail(error, KELPIE_E_BOOT, -handle, "open \"/dev/null\"");
    }
    KELPIE_ASSERT(handle > 2);
    kelpie__ignore(
        kelpie__os_close(os, handle)); /* the one above 2 only showed that they are taken */
    return 0;
}

void kelpie__agent_boot_late(struct kelpie_os *os) {
    KELPIE_ASSERT(os->guest != NULL);
    for (size_t i = 0; i < KELPIE_ARRAY_COUNT(boot_mounts_late); i += 1) {
        const struct boot_mount *mount = &boot_mounts_late[i];
        int status = boot_mount(os, mount);
        if (status < 0) {
            kelpie__agent_log(os, "mount %s on %s: %s", mount->type, mount->target,
                              kelpie__errno_text(-status));
        }
    }
    for (size_t i = 0; i < KELPIE_ARRAY_COUNT(boot_links); i += 1) {
        int status = kelpie__os_make_link(os, boot_links[i].target, boot_links[i].path);
        if (status < 0 && status != -EEXIST) {
            kelpie__agent_log(os, "make link %s: %s", boot_links[i].path,
                              kelpie__errno_text(-status));
        }
    }
    int status = kelpie__os_link_up(os, "lo");
    if (status < 0 && status != -ENODEV) { /* a kernel without networking has no loopback */
        kelpie__agent_log(os, "set lo up: %s", kelpie__errno_text(-status));
    }
}

static int boot_load_module(struct kelpie_os *os, const char *name, const char *parameters,
                            struct kelpie_error *error) {
    KELPIE_ASSERT(name[0] != '\0');
    KELPIE_ASSERT(parameters != NULL);
    char path[BOOT_PATH_BYTES_MAX];
    if (!kelpie__text_format(path, sizeof(path), "%s/%s", BOOT_MODULES_DIRECTORY, name)) {
        return kelpie__fail(error, KELPIE_E_BOOT, 0, "module name \"%.40s...\" is too long", name);
    }
    int file = kelpie__os_open(os, KELPIE_OS_CWD, path, KELPIE_OS_OPEN_READ, 0);
    if (file < 0) {
        return kelpie__fail(error, KELPIE_E_BOOT, -file, "open \"%s\"", path);
    }
    int status = kelpie__os_load_module(os, file, parameters);
    kelpie__ignore(kelpie__os_close(os, file)); /* it was only read */
    if (status < 0 && status != -EEXIST) {      /* loaded already, or built in */
        return kelpie__fail(error, KELPIE_E_BOOT, -status, "load module \"%s\"", path);
    }
    return 0;
}

/* Cuts the next word off the line: NULL when there is none. */
static char *boot_next_word(char **inout_at) {
    KELPIE_ASSERT(*inout_at != NULL);
    char *word = *inout_at + strspn(*inout_at, " \t");
    char *end = word + strcspn(word, " \t");
    *inout_at = end;
    if (*end != '\0') {
        *end = '\0';
        *inout_at = end + 1;
    }
    return end == word ? NULL : word;
}

int kelpie__agent_load_modules(struct kelpie_os *os, const char *group,
                               struct kelpie_error *error) {
    KELPIE_ASSERT(group[0] != '\0');
    char text[BOOT_MODULES_LIST_BYTES_MAX];
    int length = kelpie__agent_read_text(os, BOOT_MODULES_LIST, text, sizeof(text));
    if (length == -ENOENT) {
        return 0;
    }
    if (length < 0) {
        return kelpie__fail(error, KELPIE_E_BOOT, -length, "read \"%s\"", BOOT_MODULES_LIST);
    }
    KELPIE_ASSERT((size_t)length < sizeof(text));
    char *line = text;
    while (line != NULL) {
        char *next = strchr(line, '\n');
        if (next != NULL) {
            *next = '\0';
            next += 1;
        }
        char *at = line;
        char *word = boot_next_word(&at);
        char *name = boot_next_word(&at);
        if (word != NULL && name != NULL && strcmp(word, group) == 0) {
            int status = boot_load_module(os, name, at, error);
            if (status < 0) {
                return status;
            }
        }
        line = next;
    }
    return 0;
}

int kelpie__agent_open_port(struct kelpie_os *os, const char *name) {
    KELPIE_ASSERT(name[0] != '\0');
    int directory = kelpie__os_open(os, KELPIE_OS_CWD, BOOT_PORTS_DIRECTORY,
                                    KELPIE_OS_OPEN_READ | KELPIE_OS_OPEN_DIRECTORY, 0);
    if (directory < 0) {
        return directory;
    }
    uint64_t cursor = 0;
    int status = 1;
    int port = -ENOENT;
    for (uint32_t i = 0; i < BOOT_PORT_COUNT_MAX && status > 0 && port == -ENOENT; i += 1) {
        char entry[256];
        char path[BOOT_PATH_BYTES_MAX];
        char found[128];
        status = kelpie__os_list(os, directory, &cursor, entry, sizeof(entry));
        if (status <= 0) {
            continue;
        }
        bool is_whole =
            kelpie__text_format(path, sizeof(path), "%s/%s/name", BOOT_PORTS_DIRECTORY, entry);
        KELPIE_ASSERT(is_whole);
        if (kelpie__agent_read_text(os, path, found, sizeof(found)) < 0 ||
            strcmp(found, name) != 0) {
            continue; /* another port, or one whose name has not arrived yet */
        }
        is_whole = kelpie__text_format(path, sizeof(path), "/dev/%s", entry);
        KELPIE_ASSERT(is_whole);
        port =
            kelpie__os_open(os, KELPIE_OS_CWD, path, KELPIE_OS_OPEN_READ | KELPIE_OS_OPEN_WRITE, 0);
    }
    kelpie__ignore(kelpie__os_close(os, directory)); /* it was only read */
    return status < 0 ? status : port;
}
