/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * See cache.h. A key is made from identities of files (device, inode, size, times), not from their
 * content: hashing 60 MB at each start would cost more than the start. A package update changes at
 * least one of them.
 */
#include "store/cache.h"

#include <errno.h>
#include <string.h>

#include "core/hash.h"
#include "core/text.h"
#include "os/os_call.h"

#define CACHE_FORMAT 3u /* of what kelpie-pack makes; part of every key */
#define CACHE_NUMBER_DIGITS 24u

/* ---- items ----------------------------------------------------------------------------------- */

static_assert(sizeof("initramfs/.cpio") + KELPIE_HASH_CHARACTERS <= 64u, "the longest name fits");

/* Appends a text to the item's storage and, as one more argument, to its vector. NULL when it does
 * not fit. */
static const char *item_add(struct kelpie_cache_item *item, const char *text) {
    KELPIE_ASSERT(item->storage_used <= sizeof(item->storage));
    KELPIE_ASSERT(item->arguments[KELPIE_CACHE_ARGUMENT_MAX - 1] == NULL);
    size_t length = strlen(text) + 1;
    uint32_t count = 0;
    while (item->arguments[count] != NULL) { /* bound: the vector, whose last one is NULL */
        count += 1;
    }
    if (count + 1 >= KELPIE_CACHE_ARGUMENT_MAX ||
        length > sizeof(item->storage) - item->storage_used) {
        return NULL;
    }
    char *place = item->storage + item->storage_used;
    memcpy(place, text, length);
    item->storage_used += length;
    item->arguments[count] = place;
    KELPIE_ASSERT(item->storage_used <= sizeof(item->storage));
    return place;
}

static int item_fail_long(struct kelpie_error *error) {
    return kelpie__fail(error, KELPIE_E_LIMIT, 0, "a path has more than the limit of %u bytes",
                        KELPIE_PATH_BYTES_MAX);
}

static int cache_stat(const struct kelpie_cache *cache, const char *path,
                      struct kelpie_os_stat *out) {
    return kelpie__os_stat(cache->os, KELPIE_OS_CWD, path, true, out);
}

/* One of our programs, which must be there. */
static int cache_program(const struct kelpie_cache *cache, const char *name, char *out,
                         struct kelpie_error *error) {
    KELPIE_ASSERT(name[0] != '\0');
    struct kelpie_os_stat stat;
    if (!kelpie__text_join(out, KELPIE_PATH_BYTES_MAX, cache->libexec_path, name)) {
        return item_fail_long(error);
    }
    if (cache_stat(cache, out, &stat) < 0) {
        return kelpie__fail(error, KELPIE_E_UNAVAILABLE, 0,
                            "%s is not in \"%s\"; install Kelpie's programs, or set "
                            "KELPIE_LIBEXEC to their directory",
                            name, cache->libexec_path);
    }
    return 0;
}

/* Begins the vector: kelpie-pack and its verb. */
static int item_begin(const struct kelpie_cache *cache, struct kelpie_cache_item *item,
                      const char *verb, struct kelpie_error *error) {
    char program[KELPIE_PATH_BYTES_MAX];
    memset(item, 0, offsetof(struct kelpie_cache_item, storage));
    item->storage_used = 0;
    item->path[0] = '\0';
    int status = cache_program(cache, "kelpie-pack", program, error);
    if (status < 0) {
        return status;
    }
    if (item_add(item, program) == NULL || item_add(item, verb) == NULL) {
        return item_fail_long(error);
    }
    KELPIE_ASSERT(item->arguments[0] != NULL);
    KELPIE_ASSERT(item->arguments[2] == NULL);
    KELPIE_ASSERT(!item->is_ready);
    return 0;
}

/* What tells one state of a file from another. A file that is missing has an identity, too. */
static void key_add_file(const struct kelpie_cache *cache, struct kelpie_hash *hash,
                         const char *path) {
    KELPIE_ASSERT(path[0] != '\0');
    struct kelpie_os_stat stat = {0};
    int status = cache_stat(cache, path, &stat);
    kelpie__hash_text(hash, path);
    kelpie__hash_u64(hash, status == 0 ? 1 : 0);
    if (status == 0) {
        kelpie__hash_u64(hash, stat.device);
        kelpie__hash_u64(hash, stat.inode);
        kelpie__hash_u64(hash, stat.size_bytes);
        kelpie__hash_u64(hash, (uint64_t)stat.modified_ns);
        kelpie__hash_u64(hash, (uint64_t)stat.changed_ns);
    }
}

static void key_begin(const struct kelpie_cache *cache, struct kelpie_hash *hash,
                      const struct kelpie_cache_kernel *kernel,
                      const struct kelpie_cache_item *item) {
    KELPIE_ASSERT(item->arguments[0] != NULL);
    KELPIE_ASSERT(kernel->path[0] != '\0');
    kelpie__hash_init(hash);
    kelpie__hash_u64(hash, CACHE_FORMAT);
    key_add_file(cache, hash, item->arguments[0]);
    key_add_file(cache, hash, kernel->path);
}

/* CACHE/FOLDER/KEY.SUFFIX into item->path, and whether it is there. */
static int item_place(const struct kelpie_cache *cache, struct kelpie_cache_item *item,
                      const struct kelpie_hash *hash, const char *format,
                      struct kelpie_error *error) {
    char key[KELPIE_HASH_CHARACTERS + 1];
    char name[64];
    struct kelpie_os_stat stat;
    KELPIE_ASSERT(item->path[0] == '\0');
    kelpie__hash_hex(hash, key);
    size_t stem = strcspn(format, "*");
    KELPIE_ASSERT(format[stem] == '*');
    bool is_whole = kelpie__text_format(name, sizeof(name), "%.*s%s%s", (int)stem, format, key,
                                        format + stem + 1);
    KELPIE_ASSERT(is_whole);
    if (!kelpie__text_join(item->path, sizeof(item->path), cache->cache_path, name)) {
        return item_fail_long(error);
    }
    item->is_ready = cache_stat(cache, item->path, &stat) == 0 && stat.kind == KELPIE_OS_KIND_FILE;
    return 0;
}

int kelpie__cache_plan_kernel(const struct kelpie_cache *cache,
                              const struct kelpie_cache_kernel *kernel,
                              struct kelpie_cache_item *out, struct kelpie_error *error) {
    struct kelpie_hash hash;
    KELPIE_ASSERT(kernel->path[0] != '\0');
    int status = item_begin(cache, out, "kernel", error);
    if (status < 0) {
        return status;
    }
    if (kernel->is_elf) {
        out->is_ready = true;
        return kelpie__text_copy(out->path, sizeof(out->path), kernel->path)
                   ? 0
                   : item_fail_long(error);
    }
    KELPIE_ASSERT(!out->is_ready);
    key_begin(cache, &hash, kernel, out);
    status = item_place(cache, out, &hash, "kernels/*.vmlinux", error);
    if (status == 0 && (item_add(out, kernel->path) == NULL || item_add(out, out->path) == NULL)) {
        status = item_fail_long(error);
    }
    return status;
}

/* ---- the initramfs --------------------------------------------------------------------------- */

static int initramfs_find_busybox(const struct kelpie_cache *cache, const char **out,
                                  struct kelpie_error *error) {
    static const char *const places[] = {"/usr/bin/busybox", "/bin/busybox", "/sbin/busybox"};
    for (size_t i = 0; i < KELPIE_ARRAY_COUNT(places); i += 1) {
        struct kelpie_os_stat stat;
        if (cache_stat(cache, places[i], &stat) == 0 && stat.kind == KELPIE_OS_KIND_FILE) {
            *out = places[i];
            return 0;
        }
    }
    return kelpie__fail(error, KELPIE_E_UNAVAILABLE, 0,
                        "busybox is not installed, which the guest's built-in root is made of; "
                        "apt install busybox-static");
}

/* The directory of the kernel's modules; empty for a kernel that has all it needs built in. */
static int initramfs_find_modules(const struct kelpie_cache *cache,
                                  const struct kelpie_cache_kernel *kernel, char *out,
                                  size_t capacity, struct kelpie_error *error) {
    KELPIE_ASSERT(capacity > 0);
    static const char *const places[] = {"/lib/modules/%s", "/usr/lib/modules/%s"};
    struct kelpie_os_stat stat;
    out[0] = '\0';
    if (kernel->is_own || kernel->release[0] == '\0') {
        return 0;
    }
    for (size_t i = 0; i < KELPIE_ARRAY_COUNT(places); i += 1) {
        size_t stem = strcspn(places[i], "%");
        if (kelpie__text_format(out, capacity, "%.*s%s", (int)stem, places[i], kernel->release) &&
            cache_stat(cache, out, &stat) == 0) {
            return 0;
        }
    }
    out[0] = '\0';
    if (kernel->is_elf) {
        return 0; /* somebody's own build: it may need none, and says so itself if it does */
    }
    return kelpie__fail(error, KELPIE_E_UNAVAILABLE, 0,
                        "the modules of kernel \"%s\" are not in /lib/modules/%s; install the "
                        "package that the kernel came from",
                        kernel->path, kernel->release);
}

int kelpie__cache_plan_initramfs(const struct kelpie_cache *cache,
                                 const struct kelpie_cache_kernel *kernel,
                                 struct kelpie_cache_item *out, struct kelpie_error *error) {
    char agent[KELPIE_PATH_BYTES_MAX];
    char modules[KELPIE_PATH_BYTES_MAX];
    char modules_list[KELPIE_PATH_BYTES_MAX];
    const char *busybox = NULL;
    struct kelpie_hash hash;
    KELPIE_ASSERT(kernel->path[0] != '\0');
    int status = item_begin(cache, out, "initramfs", error);
    if (status == 0) {
        status = cache_program(cache, "kelpie-agent", agent, error);
    }
    if (status == 0) {
        status = initramfs_find_busybox(cache, &busybox, error);
    }
    if (status == 0) {
        status = initramfs_find_modules(cache, kernel, modules, sizeof(modules), error);
    }
    if (status < 0) {
        return status;
    }
    key_begin(cache, &hash, kernel, out);
    key_add_file(cache, &hash, agent);
    key_add_file(cache, &hash, busybox);
    bool fits = item_add(out, "--agent") != NULL && item_add(out, agent) != NULL &&
                item_add(out, "--busybox") != NULL && item_add(out, busybox) != NULL;
    if (modules[0] != '\0') {
        /* depmod writes it anew whenever a module comes or goes. */
        fits = fits &&
               kelpie__text_join(modules_list, sizeof(modules_list), modules, "modules.dep") &&
               item_add(out, "--modules-dir") != NULL && item_add(out, modules) != NULL;
        if (fits) {
            key_add_file(cache, &hash, modules_list);
        }
    }
    if (!fits) {
        return item_fail_long(error);
    }
    status = item_place(cache, out, &hash, "initramfs/*.cpio", error);
    if (status == 0 && item_add(out, out->path) == NULL) {
        status = item_fail_long(error);
    }
    KELPIE_ASSERT(status < 0 || out->path[0] != '\0');
    return status;
}

int kelpie__cache_plan_builtin(const struct kelpie_cache *cache, struct kelpie_cache_item *out,
                               struct kelpie_error *error) {
    const char *busybox = NULL;
    struct kelpie_hash hash;
    int status = item_begin(cache, out, "builtin", error);
    if (status == 0) {
        status = initramfs_find_busybox(cache, &busybox, error);
    }
    if (status < 0) {
        return status;
    }
    KELPIE_ASSERT(busybox != NULL);
    kelpie__hash_init(&hash);
    key_add_file(cache, &hash, out->arguments[0]);
    key_add_file(cache, &hash, busybox);
    status = item_place(cache, out, &hash, "builtin/*.erofs", error);
    if (status == 0 && (item_add(out, busybox) == NULL || item_add(out, out->path) == NULL)) {
        status = item_fail_long(error);
    }
    KELPIE_ASSERT(status < 0 || out->path[0] != '\0');
    return status;
}

/* ---- roots and disks ------------------------------------------------------------------------- */

int kelpie__cache_plan_root(const struct kelpie_cache *cache, const char *directory,
                            struct kelpie_cache_item *out, struct kelpie_error *error) {
    char roots[KELPIE_PATH_BYTES_MAX];
    KELPIE_ASSERT(directory[0] != '\0');
    int status = item_begin(cache, out, "root", error);
    if (status < 0) {
        return status;
    }
    if (!kelpie__text_join(roots, sizeof(roots), cache->cache_path, "roots") ||
        item_add(out, directory) == NULL || item_add(out, roots) == NULL) {
        return item_fail_long(error);
    }
    KELPIE_ASSERT(!out->is_ready);
    KELPIE_ASSERT(out->path[0] == '\0');
    return 0;
}

int kelpie__cache_plan_identify(const struct kelpie_cache *cache, const char *image,
                                struct kelpie_cache_item *out, struct kelpie_error *error) {
    KELPIE_ASSERT(image[0] != '\0');
    int status = item_begin(cache, out, "identify", error);
    if (status < 0) {
        return status;
    }
    if (!kelpie__text_copy(out->path, sizeof(out->path), image) || item_add(out, image) == NULL) {
        return item_fail_long(error);
    }
    KELPIE_ASSERT(!out->is_ready);
    return 0;
}

int kelpie__cache_plan_disk(const struct kelpie_cache *cache, uint64_t size_mib, const char *path,
                            struct kelpie_cache_item *out, struct kelpie_error *error) {
    char number[CACHE_NUMBER_DIGITS];
    struct kelpie_os_stat stat;
    KELPIE_ASSERT(size_mib >= KELPIE_DISK_SIZE_MIB_MIN);
    KELPIE_ASSERT(size_mib <= KELPIE_DISK_SIZE_MIB_MAX);
    KELPIE_ASSERT(path[0] != '\0');
    int status = item_begin(cache, out, "disk", error);
    if (status < 0) {
        return status;
    }
    bool is_whole =
        kelpie__text_format(number, sizeof(number), "%llu", (unsigned long long)size_mib);
    KELPIE_ASSERT(is_whole);
    if (!kelpie__text_copy(out->path, sizeof(out->path), path) || item_add(out, number) == NULL ||
        item_add(out, path) == NULL) {
        return item_fail_long(error);
    }
    out->is_ready = cache_stat(cache, path, &stat) == 0 && stat.kind == KELPIE_OS_KIND_FILE;
    return 0;
}
