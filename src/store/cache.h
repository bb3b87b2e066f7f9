/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * What a boot needs besides the VM's own files: a kernel as an ELF image, and an initramfs for it.
 * Both are made once by kelpie-pack and kept under a key of everything that goes into them, so that
 * a newer kernel, agent or busybox is another file. This finds the inputs, says where the result
 * is, or how to make it; it runs nothing. The caller runs kelpie-pack with the arguments and then
 * uses the path.
 */
#ifndef KELPIE_STORE_CACHE_H
#define KELPIE_STORE_CACHE_H

#include "core/error.h"
#include "core/limits.h"
#include "os/os.h"

#define KELPIE_CACHE_ARGUMENT_MAX 16u

struct kelpie_cache {
    struct kelpie_os *os;     /* borrowed */
    const char *cache_path;   /* borrowed */
    const char *libexec_path; /* borrowed: where kelpie-pack and kelpie-agent are */
};

struct kelpie_cache_kernel {
    char path[KELPIE_PATH_BYTES_MAX]; /* as it was found: an ELF vmlinux or a bzImage */
    bool is_elf;
    /* Kelpie's own kernel, or another ELF image that finds its devices on the command line: the
     * machine has no ACPI (KELPIE_VMM_KERNEL_OWN). */
    bool is_own;
    char release[128]; /* "6.1.0-56-cloud-amd64"; empty: it does not say */
};

/* A file of the cache. */
struct kelpie_cache_item {
    char path[KELPIE_PATH_BYTES_MAX];
    bool is_ready; /* false: run kelpie-pack with `arguments`, then it is there */
    /* argv, ended by NULL; [0] is the path of kelpie-pack. Points into this item: it is not copied.
     */
    const char *arguments[KELPIE_CACHE_ARGUMENT_MAX];
    char storage[4 * KELPIE_PATH_BYTES_MAX];
    size_t storage_used;
};

/* Explicit path, else KELPIE_KERNEL, else Kelpie's own (LIBEXEC/vmlinux, /usr/lib/kelpie/vmlinux),
 * else the newest /boot/vmlinuz-*-cloud-amd64, else the newest /boot/vmlinuz-*. `explicit_path` may
 * be NULL or empty. Errors: UNAVAILABLE when there is none, CONFIG (field "kernel") for a path that
 * is missing, unreadable, no kernel, or for another machine. */
KELPIE_MUST_CHECK int kelpie__cache_find_kernel(const struct kelpie_cache *cache,
                                                const char *explicit_path,
                                                struct kelpie_cache_kernel *out,
                                                struct kelpie_error *error);

/* CACHE/kernels/KEY.vmlinux; an ELF kernel is used where it is. Errors: UNAVAILABLE (kelpie-pack),
 * IO. */
KELPIE_MUST_CHECK int kelpie__cache_plan_kernel(const struct kelpie_cache *cache,
                                                const struct kelpie_cache_kernel *kernel,
                                                struct kelpie_cache_item *out,
                                                struct kelpie_error *error);

/* CACHE/initramfs/KEY.cpio. Errors: UNAVAILABLE (busybox-static, the kernel's modules, a program of
 * ours), IO. */
KELPIE_MUST_CHECK int kelpie__cache_plan_initramfs(const struct kelpie_cache *cache,
                                                   const struct kelpie_cache_kernel *kernel,
                                                   struct kelpie_cache_item *out,
                                                   struct kelpie_error *error);

/* `kelpie-pack builtin BUSYBOX OUT`: the built-in root as an EROFS image. */
KELPIE_MUST_CHECK int kelpie__cache_plan_builtin(const struct kelpie_cache *cache,
                                                 struct kelpie_cache_item *out,
                                                 struct kelpie_error *error);

/* `kelpie-pack root DIRECTORY CACHE/roots`: always to be run, since only reading the directory
 * tells whether it has changed. Its output is one line, the path of the EROFS image; out->path is
 * empty. */
KELPIE_MUST_CHECK int kelpie__cache_plan_root(const struct kelpie_cache *cache,
                                              const char *directory, struct kelpie_cache_item *out,
                                              struct kelpie_error *error);

/* `kelpie-pack identify IMAGE`: its output is one line, "FORMAT FILESYSTEM": raw or qcow2, ext4 or
 * erofs. It fails with a message for anything else. out->path is the image's. */
KELPIE_MUST_CHECK int kelpie__cache_plan_identify(const struct kelpie_cache *cache,
                                                  const char *image, struct kelpie_cache_item *out,
                                                  struct kelpie_error *error);

/* `kelpie-pack disk SIZE_MIB PATH`: the VM's writable layer, an ext4 in a sparse raw file. is_ready
 * when the path exists. */
KELPIE_MUST_CHECK int kelpie__cache_plan_disk(const struct kelpie_cache *cache, uint64_t size_mib,
                                              const char *path, struct kelpie_cache_item *out,
                                              struct kelpie_error *error);

#endif
