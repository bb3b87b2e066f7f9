/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * The kernel's modules that a guest needs, with those that they depend on, in groups, and in the
 * order in which they load. Each goes into the archive decompressed and without its signature: the
 * guest's kernel would check it with 4096-bit arithmetic, which takes 10 ms for each module on an
 * emulated processor, and nobody but us made this initramfs.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "pack/pack.h"

#define MODULES_LIST_BYTES_MAX (8u * 1024u * 1024u)
#define MODULES_FILE_BYTES_MAX (32u * 1024u * 1024u)
#define MODULES_COUNT_MAX 64u
#define MODULES_PATH_BYTES 4096u
#define MODULES_ORDER_BYTES 8192u
#define MODULES_NAME_BYTES 64u
#define MODULES_SIGNATURE_MAGIC "~Module signature appended~\n"
#define MODULES_SIGNATURE_BYTES                                                                    \
    12u /* struct module_signature, whose last 4 are the length, big-endian */

struct modules_wanted {
    const char *name;
    const char *group;
    bool is_required;
};

/* The agent loads "early" always, "vsock" when it has to dial, "disk" for a root on a disk, then
 * the group of its file system, and "overlay" when there is a writable layer. */
static const struct modules_wanted modules_wanted[] = {
    {"virtio_mmio", "early", true},
    {"virtio_console", "early", true},
    {"vmw_vsock_virtio_transport", "vsock", false},
    {"virtio_blk", "disk", true},
    /* Nothing depends on it by symbols: file systems ask for a checksum by name. */
    {"crc32c_intel", "disk", false},
    {"crc32c_generic", "disk", false},
    {"erofs", "erofs", true},
    {"ext4", "ext4", false},
    {"overlay", "overlay", true},
};

/* a group, its name, ".ko" and what stands between them */
static_assert(MODULES_COUNT_MAX * (MODULES_NAME_BYTES + 16u) <= MODULES_ORDER_BYTES,
              "the list has room for every module");
static_assert(KELPIE_ARRAY_COUNT(modules_wanted) <= MODULES_COUNT_MAX, "those that are wanted fit");

struct modules {
    struct kelpie_pack_archive *archive; /* borrowed */
    const char *directory;
    char *dependencies; /* modules.dep */
    char *built_in;     /* modules.builtin; empty when there is none */
    struct modules_added {
        const char *line; /* of modules.dep */
        const char *group;
    } added[MODULES_COUNT_MAX];
    uint32_t added_count;
    char order[MODULES_ORDER_BYTES]; /* modules.list */
    size_t order_length;
};

static void modules_check(const struct modules *modules) {
    KELPIE_ASSERT(modules->dependencies != NULL);
    KELPIE_ASSERT(modules->built_in != NULL);
    KELPIE_ASSERT(modules->added_count <= MODULES_COUNT_MAX);
    KELPIE_ASSERT(modules->order_length < sizeof(modules->order));
    KELPIE_ASSERT((modules->added_count == 0) == (modules->order_length == 0));
}

/* "kernel/fs/erofs/erofs.ko.xz" is "erofs"; a dash and an underscore are the same. */
static void modules_name(const char *path, size_t length, char *out) {
    size_t begin = length;
    while (begin > 0 && path[begin - 1] != '/') {
        begin -= 1;
    }
    size_t count = 0;
    while (begin + count < length && path[begin + count] != '.' && count < MODULES_NAME_BYTES - 1) {
        char character = path[begin + count];
        out[count] = character == '-' ? '_' : character;
        count += 1;
    }
    out[count] = '\0';
    KELPIE_ASSERT(begin + count <= length);
    KELPIE_ASSERT(count < MODULES_NAME_BYTES);
}

/* The line of a list whose path has this name; NULL: there is none. */
static const char *modules_find(const char *list, const char *name) {
    char found[MODULES_NAME_BYTES];
    for (const char *line = list; *line != '\0';) { /* bound: the list */
        size_t length = strcspn(line, ":\n");
        modules_name(line, length, found);
        if (strcmp(found, name) == 0) {
            return line;
        }
        line += strcspn(line, "\n");
        line += *line == '\n' ? 1 : 0;
    }
    return NULL;
}

static size_t modules_without_signature(const struct kelpie_pack_bytes *module) {
    const size_t magic = strlen(MODULES_SIGNATURE_MAGIC);
    const size_t tail = magic + MODULES_SIGNATURE_BYTES;
    size_t count = module->count;
    KELPIE_ASSERT(module->bytes != NULL);
    if (count < tail ||
        memcmp(module->bytes + count - magic, MODULES_SIGNATURE_MAGIC, magic) != 0) {
        return count;
    }
    const uint8_t *length = module->bytes + count - magic - 4;
    size_t signature = (size_t)length[0] << 24 | (size_t)length[1] << 16 | (size_t)length[2] << 8 |
                       (size_t)length[3];
    KELPIE_ASSERT(count >= tail);
    return signature <= count - tail ? count - tail - signature : count;
}

/* Adds one file to the archive. */
static int modules_add_file(struct modules *modules, const char *path, size_t length,
                            const char *name) {
    char file[MODULES_PATH_BYTES];
    char entry_name[MODULES_NAME_BYTES + 32];
    struct kelpie_pack_bytes module = {0};
    KELPIE_ASSERT(strlen(name) < MODULES_NAME_BYTES);
    int file_length =
        snprintf(file, sizeof(file), "%s/%.*s", modules->directory, (int)length, path);
    if (file_length < 0 || (size_t)file_length >= sizeof(file)) {
        return kelpie__pack_fail(ENAMETOOLONG, "module \"%s\"", name);
    }
    int status = kelpie__pack_read(file, MODULES_FILE_BYTES_MAX, &module);
    if (status != KELPIE_PACK_OK) {
        return status;
    }
    int entry_length = snprintf(entry_name, sizeof(entry_name), ".kelpie/modules/%s.ko", name);
    KELPIE_ASSERT(entry_length > 0);
    KELPIE_ASSERT((size_t)entry_length < sizeof(entry_name));
    const struct kelpie_pack_entry entry = {.name = entry_name,
                                            .mode = S_IFREG | 0600,
                                            .bytes = module.bytes,
                                            .count = modules_without_signature(&module)};
    KELPIE_ASSERT(entry.count <= module.count);
    kelpie__pack_archive_add(modules->archive, &entry);
    free(module.bytes);
    return KELPIE_PACK_OK;
}

/* Whether a module is in the archive, and whether it is loaded by the time that a group is: by that
 * group itself, or by one that always comes before. */
static bool modules_has(const struct modules *modules, const char *line, const char *group,
                        bool *out_is_loaded) {
    bool has_file = false;
    KELPIE_ASSERT(group[0] != '\0');
    *out_is_loaded = false;
    for (uint32_t i = 0; i < modules->added_count; i += 1) {
        const struct modules_added *added = &modules->added[i];
        if (added->line == line) {
            has_file = true;
            *out_is_loaded = *out_is_loaded || strcmp(added->group, group) == 0 ||
                             strcmp(added->group, "early") == 0 ||
                             strcmp(added->group, "disk") == 0;
        }
    }
    KELPIE_ASSERT(has_file || !*out_is_loaded);
    return has_file;
}

/* Adds the module of a path to a group. */
static int modules_add_once(struct modules *modules, const char *path, size_t length,
                            const char *group) {
    char name[MODULES_NAME_BYTES];
    bool is_loaded = false;
    modules_check(modules);
    modules_name(path, length, name);
    const char *line = modules_find(modules->dependencies, name);
    bool has_file = line != NULL && modules_has(modules, line, group, &is_loaded);
    if (line == NULL || is_loaded) {
        return KELPIE_PACK_OK;
    }
    if (modules->added_count == MODULES_COUNT_MAX) {
        return kelpie__pack_fail(0, "more than %u modules are needed", MODULES_COUNT_MAX);
    }
    modules->added[modules->added_count] = (struct modules_added){.line = line, .group = group};
    modules->added_count += 1;
    size_t room = sizeof(modules->order) - modules->order_length;
    int added = snprintf(modules->order + modules->order_length, room, "%s %s.ko\n", group, name);
    KELPIE_ASSERT(added > 0);
    KELPIE_ASSERT((size_t)added < room); /* 64 lines of less than 80 bytes */
    modules->order_length += (size_t)added;
    KELPIE_ASSERT(modules->order_length < sizeof(modules->order));
    return has_file ? KELPIE_PACK_OK : modules_add_file(modules, path, length, name);
}

/* "MODULE: FIRST SECOND ...": all that it needs, directly or not; the last one loads first
 * (modules.dep(5)). */
static int modules_add_line(struct modules *modules, const char *line, const char *group) {
    size_t end = strcspn(line, "\n");
    size_t colon = strcspn(line, ":\n");
    int status = KELPIE_PACK_OK;
    KELPIE_ASSERT(colon <= end);
    while (end > colon + 1 && status == KELPIE_PACK_OK) { /* bound: the line */
        size_t begin = end;
        while (begin > colon + 1 && line[begin - 1] != ' ') {
            begin -= 1;
        }
        if (end > begin) {
            status = modules_add_once(modules, line + begin, end - begin, group);
        }
        end = begin > colon + 1 ? begin - 1 : colon + 1;
    }
    return status == KELPIE_PACK_OK ? modules_add_once(modules, line, colon, group) : status;
}

static int modules_add_wanted(struct modules *modules, const struct modules_wanted *wanted) {
    modules_check(modules);
    KELPIE_ASSERT(strlen(wanted->name) < MODULES_NAME_BYTES);
    const char *line = modules_find(modules->dependencies, wanted->name);
    if (line != NULL) {
        return modules_add_line(modules, line, wanted->group);
    }
    if (!wanted->is_required || modules_find(modules->built_in, wanted->name) != NULL) {
        return KELPIE_PACK_OK;
    }
    return kelpie__pack_fail(0, "the kernel of \"%s\" has no module %s, neither built in",
                             modules->directory, wanted->name);
}

/* A list as text; a missing one is empty. */
static int modules_read_list(const char *directory, const char *name, bool is_required,
                             char **out) {
    char path[MODULES_PATH_BYTES];
    struct stat stat_result;
    struct kelpie_pack_bytes list = {0};
    int length = snprintf(path, sizeof(path), "%s/%s", directory, name);
    KELPIE_ASSERT(name[0] != '/');
    if (length < 0 || (size_t)length >= sizeof(path)) {
        return kelpie__pack_fail(ENAMETOOLONG, "\"%s\"", directory);
    }
    if (!is_required && stat(path, &stat_result) < 0) {
        *out = calloc(1, 1);
        return *out == NULL ? kelpie__pack_fail(ENOMEM, "read \"%s\"", path) : KELPIE_PACK_OK;
    }
    int status = kelpie__pack_read(path, MODULES_LIST_BYTES_MAX, &list);
    if (status == KELPIE_PACK_OK) {
        list.bytes[list.count] = '\0'; /* read leaves room for it */
        *out = (char *)list.bytes;
        KELPIE_ASSERT(strlen(*out) <= list.count);
    }
    return status;
}

int kelpie__pack_modules(struct kelpie_pack_archive *archive, const char *modules_directory) {
    struct modules modules = {.archive = archive, .directory = modules_directory};
    KELPIE_ASSERT(archive->file >= 0);
    int status = modules_read_list(modules_directory, "modules.dep", true, &modules.dependencies);
    if (status == KELPIE_PACK_OK) {
        status = modules_read_list(modules_directory, "modules.builtin", false, &modules.built_in);
    }
    for (size_t i = 0; i < KELPIE_ARRAY_COUNT(modules_wanted) && status == KELPIE_PACK_OK; i += 1) {
        status = modules_add_wanted(&modules, &modules_wanted[i]);
    }
    if (status == KELPIE_PACK_OK) {
        modules_check(&modules);
        const struct kelpie_pack_entry entry = {.name = ".kelpie/modules.list",
                                                .mode = S_IFREG | 0600,
                                                .bytes = modules.order,
                                                .count = modules.order_length};
        kelpie__pack_archive_add(archive, &entry);
    }
    free(modules.dependencies);
    free(modules.built_in);
    return status;
}
