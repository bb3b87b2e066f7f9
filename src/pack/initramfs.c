/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * The initramfs: the agent as /init, the modules that it loads, and a small userland of busybox,
 * which is the guest's root when it is given none.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "pack/pack.h"

#define INITRAMFS_PROGRAM_BYTES_MAX (64u * 1024u * 1024u)
#define INITRAMFS_APPLETS_BYTES_MAX 65536u

struct initramfs_options {
    const char *agent;
    const char *busybox;
    const char *modules; /* NULL: the kernel has none */
    const char *out;
};

static const struct kelpie_pack_entry initramfs_directories[] = {
    {.name = ".kelpie", .mode = S_IFDIR | 0700},
    {.name = ".kelpie/modules", .mode = S_IFDIR | 0700},
    {.name = "bin", .mode = S_IFDIR | 0755},
    {.name = "dev", .mode = S_IFDIR | 0755},
    {.name = "etc", .mode = S_IFDIR | 0755},
    {.name = "home", .mode = S_IFDIR | 0755},
    {.name = "lib", .mode = S_IFDIR | 0755},
    {.name = "mnt", .mode = S_IFDIR | 0755},
    {.name = "proc", .mode = S_IFDIR | 0555},
    {.name = "root", .mode = S_IFDIR | 0700},
    {.name = "run", .mode = S_IFDIR | 0755},
    {.name = "sbin", .mode = S_IFDIR | 0755},
    {.name = "sys", .mode = S_IFDIR | 0555},
    {.name = "tmp", .mode = S_IFDIR | 01777},
    {.name = "usr", .mode = S_IFDIR | 0755},
    {.name = "usr/bin", .mode = S_IFDIR | 0755},
    {.name = "usr/sbin", .mode = S_IFDIR | 0755},
    {.name = "var", .mode = S_IFDIR | 0755},
    {.name = "var/log", .mode = S_IFDIR | 0755},
    {.name = "var/tmp", .mode = S_IFDIR | 01777},
    /* The kernel opens it for process 1 before anything is mounted. */
    {.name = "dev/console", .mode = S_IFCHR | 0600, .device_major = 5, .device_minor = 1},
};

struct initramfs_text {
    const char *name;
    const char *text;
};

static const struct initramfs_text initramfs_texts[] = {
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

static int initramfs_add_file(struct kelpie_pack_archive *archive, const char *name,
                              const char *path) {
    struct kelpie_pack_bytes file = {0};
    int status = kelpie__pack_read(path, INITRAMFS_PROGRAM_BYTES_MAX, &file);
    if (status != KELPIE_PACK_OK) {
        return status;
    }
    const struct kelpie_pack_entry entry = {
        .name = name, .mode = S_IFREG | 0755, .bytes = file.bytes, .count = file.count};
    kelpie__pack_archive_add(archive, &entry);
    free(file.bytes);
    return KELPIE_PACK_OK;
}

/* A program that needs libraries would not run in the guest: its ELF header names an interpreter.
 */
static int initramfs_check_static(const char *path, const char *package) {
    struct kelpie_pack_bytes file = {0};
    int status = kelpie__pack_read(path, INITRAMFS_PROGRAM_BYTES_MAX, &file);
    if (status != KELPIE_PACK_OK) {
        return status;
    }
    bool is_elf = file.count > 64 && memcmp(file.bytes, "\177ELF\2\1", 6) == 0;
    bool has_interpreter = false;
    if (is_elf) {
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
static int initramfs_add_applets(struct kelpie_pack_archive *archive, const char *busybox) {
    static const char target[] = "/bin/busybox";
    char *list = malloc(INITRAMFS_APPLETS_BYTES_MAX);
    const char *const argv[] = {busybox, "--list-full", NULL};
    const struct kelpie_pack_run run = {.argv = argv,
                                        .package = "busybox-static",
                                        .passed_file = -1,
                                        .output = list,
                                        .output_capacity = INITRAMFS_APPLETS_BYTES_MAX};
    if (list == NULL) {
        return kelpie__pack_fail(ENOMEM, "list the applets of busybox");
    }
    int status = kelpie__pack_run(&run);
    for (char *line = list; status == KELPIE_PACK_OK && *line != '\0';) { /* bound: the list */
        size_t length = strcspn(line, "\n");
        bool is_last = line[length] == '\0';
        line[length] = '\0';
        bool is_path = length > 0 && line[0] != '/' && strstr(line, "..") == NULL;
        if (is_path && strcmp(line, "bin/busybox") != 0 && strcmp(line, "linuxrc") != 0) {
            const struct kelpie_pack_entry entry = {
                .name = line, .mode = S_IFLNK | 0777, .bytes = target, .count = sizeof(target) - 1};
            kelpie__pack_archive_add(archive, &entry);
        }
        line += is_last ? length : length + 1;
    }
    free(list);
    return status;
}

static int initramfs_fill(struct kelpie_pack_archive *archive,
                          const struct initramfs_options *options) {
    for (size_t i = 0; i < KELPIE_ARRAY_COUNT(initramfs_directories); i += 1) {
        kelpie__pack_archive_add(archive, &initramfs_directories[i]);
    }
    for (size_t i = 0; i < KELPIE_ARRAY_COUNT(initramfs_texts); i += 1) {
        const struct kelpie_pack_entry entry = {.name = initramfs_texts[i].name,
                                                .mode = S_IFREG | 0644,
                                                .bytes = initramfs_texts[i].text,
                                                .count = strlen(initramfs_texts[i].text)};
        kelpie__pack_archive_add(archive, &entry);
    }
    int status = initramfs_add_file(archive, "init", options->agent);
    if (status == KELPIE_PACK_OK) {
        status = initramfs_add_file(archive, "bin/busybox", options->busybox);
    }
    if (status == KELPIE_PACK_OK) {
        status = initramfs_add_applets(archive, options->busybox);
    }
    if (status == KELPIE_PACK_OK && options->modules != NULL) {
        status = kelpie__pack_modules(archive, options->modules);
    }
    kelpie__pack_archive_end(archive);
    if (status == KELPIE_PACK_OK && archive->error_number != 0) {
        status = kelpie__pack_fail(archive->error_number, "write \"%s\"", options->out);
    }
    return status;
}

static bool initramfs_read_options(int argc, char **argv, struct initramfs_options *out) {
    int i = 1;
    for (; i + 1 < argc; i += 2) {
        if (strcmp(argv[i], "--agent") == 0) {
            out->agent = argv[i + 1];
        } else if (strcmp(argv[i], "--busybox") == 0) {
            out->busybox = argv[i + 1];
        } else if (strcmp(argv[i], "--modules-dir") == 0) {
            out->modules = argv[i + 1];
        } else {
            return false;
        }
    }
    out->out = i < argc ? argv[i] : NULL;
    return out->out != NULL && out->agent != NULL && out->busybox != NULL;
}

int kelpie__pack_initramfs(int argc, char **argv) {
    struct initramfs_options options = {0};
    if (!initramfs_read_options(argc, argv, &options)) {
        return KELPIE_PACK_USAGE;
    }
    int status = initramfs_check_static(options.busybox, "busybox-static");
    if (status == KELPIE_PACK_OK) {
        status = initramfs_check_static(options.agent, "kelpie");
    }
    if (status != KELPIE_PACK_OK) {
        return status;
    }
    struct kelpie_pack_output output;
    struct kelpie_pack_archive archive;
    status = kelpie__pack_output_open(&output, options.out);
    if (status == KELPIE_PACK_OK) {
        kelpie__pack_archive_begin(&archive, output.file);
        status = initramfs_fill(&archive, &options);
    }
    if (status == KELPIE_PACK_OK) {
        status = kelpie__pack_output_commit(&output);
    }
    kelpie__pack_output_close(&output);
    return status;
}
