/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * The small userland of busybox that is the guest's root when it is given none: for the initramfs,
 * and for an image where the VMM takes no initramfs.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "pack/pack.h"

#define USERLAND_APPLETS_BYTES_MAX 65536u

static const struct kelpie_pack_entry userland_directories[] = {
    {.name = "bin", .mode = S_IFDIR | 0755},      {.name = "dev", .mode = S_IFDIR | 0755},
    {.name = "etc", .mode = S_IFDIR | 0755},      {.name = "home", .mode = S_IFDIR | 0755},
    {.name = "lib", .mode = S_IFDIR | 0755},      {.name = "mnt", .mode = S_IFDIR | 0755},
    {.name = "proc", .mode = S_IFDIR | 0555},     {.name = "root", .mode = S_IFDIR | 0700},
    {.name = "run", .mode = S_IFDIR | 0755},      {.name = "sbin", .mode = S_IFDIR | 0755},
    {.name = "sys", .mode = S_IFDIR | 0555},      {.name = "tmp", .mode = S_IFDIR | 01777},
    {.name = "usr", .mode = S_IFDIR | 0755},      {.name = "usr/bin", .mode = S_IFDIR | 0755},
    {.name = "usr/sbin", .mode = S_IFDIR | 0755}, {.name = "var", .mode = S_IFDIR | 0755},
    {.name = "var/log", .mode = S_IFDIR | 0755},  {.name = "var/tmp", .mode = S_IFDIR | 01777},
};

struct userland_text {
    const char *name;
    const char *text;
};

static const struct userland_text userland_texts[] = {
    {"etc/passwd", "root:x:0:0:root:/root:/bin/sh\n"
                   "daemon:x:1:1:daemon:/usr/sbin:/bin/false\n"
                   "nobody:x:65534:65534:nobody:/:/bin/false\n"},
    {"etc/group", "root:x:0:\n"
                  "daemon:x:1:\n"
                  "tty:x:5:\n"
                  "nogroup:x:65534:\n"},
    {"etc/hosts", "127.0.0.1 localhost\n"
                  "::1 localhost\n"},
};

static_assert(KELPIE_PACK_PROGRAM_BYTES_MAX > USERLAND_APPLETS_BYTES_MAX, "busybox with its list");

int kelpie__pack_add_program(const struct kelpie_pack_sink *sink, const char *name,
                             const char *path) {
    struct kelpie_pack_bytes file = {0};
    KELPIE_ASSERT(name[0] != '/');
    int status = kelpie__pack_read(path, KELPIE_PACK_PROGRAM_BYTES_MAX, &file);
    if (status != KELPIE_PACK_OK) {
        return status;
    }
    const struct kelpie_pack_entry entry = {
        .name = name, .mode = S_IFREG | 0755, .bytes = file.bytes, .count = file.count};
    status = sink->add(sink->context, &entry);
    free(file.bytes);
    return status;
}

/* A program that needs libraries would not run in the guest: its ELF header names an interpreter.
 */
int kelpie__pack_check_static(const char *path, const char *package) {
    struct kelpie_pack_bytes file = {0};
    int status = kelpie__pack_read(path, KELPIE_PACK_PROGRAM_BYTES_MAX, &file);
    if (status != KELPIE_PACK_OK) {
        return status;
    }
    bool is_elf = file.count > 64 && memcmp(file.bytes, "\177ELF\2\1", 6) == 0;
    bool has_interpreter = false;
    if (is_elf) {
        KELPIE_ASSERT(file.count > 64);
        uint64_t offset = 0;
        uint16_t size = 0;
        uint16_t count = 0;
        memcpy(&offset, file.bytes + 32, sizeof(offset));
        memcpy(&size, file.bytes + 54, sizeof(size));
        memcpy(&count, file.bytes + 56, sizeof(count));
        for (uint16_t i = 0; i < count && size >= 4; i += 1) {
            uint64_t at = offset + (uint64_t)i * size;
            uint32_t type = 0;
            if (at > file.count - sizeof(type)) {
                break;
            }
            memcpy(&type, file.bytes + at, sizeof(type));
            has_interpreter = has_interpreter || type == 3; /* PT_INTERP */
        }
    }
    free(file.bytes);
    if (!is_elf || has_interpreter) {
        return kelpie__pack_fail(0, "\"%s\" is not statically linked; apt install %s", path,
                                 package);
    }
    return KELPIE_PACK_OK;
}

/* Every applet as a symbolic link; busybox itself says which it has, and where they belong. */
static int userland_add_applets(const struct kelpie_pack_sink *sink, const char *busybox) {
    static const char target[] = "/bin/busybox";
    char *list = malloc(USERLAND_APPLETS_BYTES_MAX);
    const char *const argv[] = {busybox, "--list-full", NULL};
    const struct kelpie_pack_run run = {.argv = argv,
                                        .package = "busybox-static",
                                        .passed_file = -1,
                                        .output = list,
                                        .output_capacity = USERLAND_APPLETS_BYTES_MAX};
    if (list == NULL) {
        return kelpie__pack_fail(ENOMEM, "list the applets of busybox");
    }
    int status = kelpie__pack_run(&run);
    for (char *line = list; status == KELPIE_PACK_OK && *line != '\0';) { /* bound: the list */
        size_t length = strcspn(line, "\n");
        KELPIE_ASSERT((size_t)(line - list) + length < USERLAND_APPLETS_BYTES_MAX);
        bool is_last = line[length] == '\0';
        line[length] = '\0';
        bool is_path = length > 0 && line[0] != '/' && strstr(line, "..") == NULL;
        if (is_path && strcmp(line, "bin/busybox") != 0 && strcmp(line, "linuxrc") != 0) {
            const struct kelpie_pack_entry entry = {
                .name = line, .mode = S_IFLNK | 0777, .bytes = target, .count = sizeof(target) - 1};
            status = sink->add(sink->context, &entry);
        }
        line += is_last ? length : length + 1;
    }
    free(list);
    return status;
}

int kelpie__pack_userland(const struct kelpie_pack_sink *sink, const char *busybox) {
    int status = KELPIE_PACK_OK;
    KELPIE_ASSERT(sink->add != NULL);
    for (size_t i = 0; status == KELPIE_PACK_OK && i < KELPIE_ARRAY_COUNT(userland_directories);
         i += 1) {
        status = sink->add(sink->context, &userland_directories[i]);
    }
    for (size_t i = 0; status == KELPIE_PACK_OK && i < KELPIE_ARRAY_COUNT(userland_texts); i += 1) {
        const struct kelpie_pack_entry entry = {.name = userland_texts[i].name,
                                                .mode = S_IFREG | 0644,
                                                .bytes = userland_texts[i].text,
                                                .count = strlen(userland_texts[i].text)};
        KELPIE_ASSERT(entry.name[0] != '/');
        KELPIE_ASSERT(entry.count > 0);
        status = sink->add(sink->context, &entry);
    }
    if (status == KELPIE_PACK_OK) {
        status = kelpie__pack_add_program(sink, "bin/busybox", busybox);
    }
    return status == KELPIE_PACK_OK ? userland_add_applets(sink, busybox) : status;
}
