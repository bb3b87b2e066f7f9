/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * See cache.h: which kernel a guest is booted with, and whether it can be.
 */
#define _GNU_SOURCE /* memmem */
#include "store/cache.h"

#include <errno.h>
#include <string.h>

#include "core/text.h"
#include "os/os_call.h"

#define CACHE_BOOT_DIRECTORY "/boot"
#define CACHE_KERNEL_PREFIX "vmlinuz-"
#define CACHE_KERNEL_CLOUD "-cloud-amd64"
#define CACHE_OWN_KERNEL "/usr/lib/kelpie/vmlinux"
#define CACHE_LIST_MAX 4096u /* entries of /boot that are looked at */
#define CACHE_HEAD_BYTES 0x400u
#define CACHE_RELEASE_HEAD_BYTES 128u
#define CACHE_KERNEL_BYTES_MAX (256u << 20) /* what is looked through of an ELF kernel */
/* The name of the driver's parent device: in an image exactly when it was built with
 * CONFIG_VIRTIO_MMIO_CMDLINE_DEVICES (drivers/virtio/virtio_mmio.c). */
#define CACHE_KERNEL_MARK "virtio-mmio-cmdline"

/* The boot protocol of x86, Documentation/arch/x86/boot.rst. */
#define BZIMAGE_MAGIC_OFFSET 0x202u
#define BZIMAGE_RELEASE_OFFSET 0x20eu
#define BZIMAGE_LOADFLAGS_OFFSET 0x236u
#define BZIMAGE_LOADFLAG_64 1u
#define ELF_MACHINE_OFFSET 18u
#define ELF_SEGMENTS_OFFSET 32u
#define ELF_SEGMENT_COUNT_OFFSET 56u
#define ELF_SEGMENT_BYTES 56u
#define ELF_MACHINE_X86_64 62u
#define ELF_MACHINE_I386 3u
#define ELF_MACHINE_AARCH64 183u

static uint32_t load_u16(const uint8_t *bytes) {
    return (uint32_t)bytes[0] | (uint32_t)bytes[1] << 8;
}

static int kernel_fail(struct kelpie_error *error, const char *path, const char *what) {
    return kelpie__fail_field(error, KELPIE_E_CONFIG, "kernel", "kernel \"%s\": %s", path, what);
}

static int kernel_fail_open(struct kelpie_error *error, const char *path, int status) {
    KELPIE_ASSERT(status < 0);
    bool is_ours = status == -EMFILE || status == -ENFILE || status == -ENOMEM || status == -EIO;
    return is_ours ? kelpie__fail(error, KELPIE_E_IO, -status, "kernel \"%s\"", path)
                   : kernel_fail(error, path, kelpie__errno_text(-status));
}

/* "6.1.0-56-cloud-amd64 (debian-kernel@...) #1 SMP ...": its first word. */
static void kernel_read_release(struct kelpie_os *os, int file, const uint8_t *head,
                                struct kelpie_cache_kernel *out) {
    static_assert(sizeof(out->release) >= CACHE_RELEASE_HEAD_BYTES, "what was read fits");
    static_assert(BZIMAGE_LOADFLAGS_OFFSET + 2 <= CACHE_HEAD_BYTES,
                  "the head has all that is looked at");
    uint64_t offset = load_u16(head + BZIMAGE_RELEASE_OFFSET);
    char text[CACHE_RELEASE_HEAD_BYTES] = "";
    if (offset == 0 || kelpie__os_pread(os, file, text, sizeof(text) - 1, offset + 0x200) <= 0) {
        return;
    }
    text[strcspn(text, " \n")] = '\0';
    kelpie__ignore(kelpie__text_copy(out->release, sizeof(out->release), text)); /* it is as long */
}

/* "it is for another machine (aarch64) than x86-64", by the number in an ELF header. */
static int kernel_fail_machine(struct kelpie_error *error, const char *path, uint32_t machine) {
    static const struct {
        uint32_t number;
        const char *name;
    } machines[] = {{ELF_MACHINE_I386, "i386"},
                    {8, "mips"},
                    {20, "powerpc"},
                    {21, "powerpc64"},
                    {22, "s390x"},
                    {40, "arm"},
                    {ELF_MACHINE_AARCH64, "aarch64"},
                    {243, "riscv"},
                    {258, "loongarch"}};
    const char *name = "unknown";
    char what[CACHE_RELEASE_HEAD_BYTES];
    KELPIE_ASSERT(machine != ELF_MACHINE_X86_64);
    for (size_t i = 0; i < KELPIE_ARRAY_COUNT(machines); i += 1) {
        name = machines[i].number == machine ? machines[i].name : name;
    }
    bool is_whole =
        kelpie__text_format(what, sizeof(what), "it is for another machine (%s) than x86-64", name);
    KELPIE_ASSERT(is_whole);
    return kernel_fail(error, path, what);
}

static uint64_t load_u64(const uint8_t *bytes) {
    uint64_t value = 0;
    for (size_t i = sizeof(value); i > 0; i -= 1) {
        value = value << 8 | bytes[i - 1];
    }
    return value;
}

/* Whether all segments of an ELF image are in the file; QEMU's own message would name neither file
 * nor reason. Segment headers beyond the bytes that were read are QEMU's to check. */
static bool kernel_is_whole(const uint8_t *head, uint64_t size_bytes) {
    uint64_t at = load_u64(head + ELF_SEGMENTS_OFFSET);
    uint32_t count = load_u16(head + ELF_SEGMENT_COUNT_OFFSET);
    static_assert(ELF_SEGMENT_COUNT_OFFSET + 2 <= CACHE_HEAD_BYTES, "the head has the count");
    bool is_whole = true;
    for (uint32_t i = 0; i < count && at <= CACHE_HEAD_BYTES - ELF_SEGMENT_BYTES; i += 1) {
        uint64_t end = 0;
        is_whole = is_whole &&
                   kelpie__add_u64(load_u64(head + at + 8), load_u64(head + at + 32), &end) &&
                   end <= size_bytes;
        at += ELF_SEGMENT_BYTES;
    }
    return is_whole;
}

/* Whether the kernel finds its devices on the command line: such a one needs no ACPI, and the
 * machine is then started without. -errno when it cannot be read. */
static int kernel_find_mark(struct kelpie_os *os, int file, uint64_t size_bytes, bool *out) {
    const size_t mark_bytes = sizeof(CACHE_KERNEL_MARK) - 1;
    uint64_t end = size_bytes < CACHE_KERNEL_BYTES_MAX ? size_bytes : CACHE_KERNEL_BYTES_MAX;
    uint8_t piece[0x2000];
    KELPIE_ASSERT(mark_bytes < sizeof(piece));
    KELPIE_ASSERT(file >= 0);
    *out = false;
    for (uint64_t at = 0; at + mark_bytes <= end && !*out;) { /* bound: the file */
        int64_t count = kelpie__os_pread(os, file, piece, sizeof(piece), at);
        if (count < (int64_t)mark_bytes) {
            return count < 0 ? (int)count : 0; /* it has become shorter */
        }
        *out = memmem(piece, (size_t)count, CACHE_KERNEL_MARK, mark_bytes) != NULL;
        at += (uint64_t)count - mark_bytes + 1;
    }
    return 0;
}

static int kernel_read_elf(struct kelpie_os *os, int file, const uint8_t *head, uint64_t size_bytes,
                           struct kelpie_cache_kernel *inout, struct kelpie_error *error) {
    KELPIE_ASSERT(inout->is_elf);
    KELPIE_ASSERT(inout->path[0] != '\0');
    if (load_u16(head + ELF_MACHINE_OFFSET) != ELF_MACHINE_X86_64) {
        return kernel_fail_machine(error, inout->path, load_u16(head + ELF_MACHINE_OFFSET));
    }
    if (!kernel_is_whole(head, size_bytes)) {
        return kernel_fail(error, inout->path, "it is cut off");
    }
    const char *name = strstr(inout->path, "/vmlinux-");
    if (name != NULL &&
        !kelpie__text_copy(inout->release, sizeof(inout->release), name + strlen("/vmlinux-"))) {
        inout->release[0] = '\0';
    }
    /* The one that we installed is not looked through at each start. */
    int status = inout->is_own ? 0 : kernel_find_mark(os, file, size_bytes, &inout->is_own);
    return status < 0 ? kernel_fail_open(error, inout->path, status) : 0;
}

static int kernel_read_bzimage(struct kelpie_os *os, int file, const uint8_t *head,
                               struct kelpie_cache_kernel *inout, struct kelpie_error *error) {
    KELPIE_ASSERT(!inout->is_elf);
    KELPIE_ASSERT(inout->release[0] == '\0');
    if (memcmp(head + BZIMAGE_MAGIC_OFFSET, "HdrS", 4) != 0) {
        if (memcmp(head + 56, "ARM\x64", 4) == 0) {
            return kernel_fail_machine(error, inout->path, ELF_MACHINE_AARCH64);
        }
        bool is_other = memcmp(head, "MZ", 2) == 0; /* an EFI program */
        return kernel_fail(error, inout->path,
                           is_other ? "it is for another machine than x86-64"
                                    : "it is no Linux kernel (neither an ELF file nor a bzImage)");
    }
    if ((load_u16(head + BZIMAGE_LOADFLAGS_OFFSET) & BZIMAGE_LOADFLAG_64) == 0) {
        return kernel_fail_machine(error, inout->path, ELF_MACHINE_I386);
    }
    kernel_read_release(os, file, head, inout);
    return 0;
}

static int kernel_read_head(struct kelpie_os *os, int file, uint64_t size_bytes,
                            struct kelpie_cache_kernel *inout, struct kelpie_error *error) {
    KELPIE_ASSERT(file >= 0);
    KELPIE_ASSERT(!inout->is_elf);
    uint8_t head[CACHE_HEAD_BYTES];
    int64_t count = kelpie__os_pread(os, file, head, sizeof(head), 0);
    if (count < 0) {
        return kelpie__fail(error, KELPIE_E_IO, (int)-count, "read \"%s\"", inout->path);
    }
    if (count < (int64_t)sizeof(head)) {
        return kernel_fail(error, inout->path, "it is too short for a kernel");
    }
    inout->is_elf = memcmp(head, "\177ELF", 4) == 0;
    return inout->is_elf ? kernel_read_elf(os, file, head, size_bytes, inout, error)
                         : kernel_read_bzimage(os, file, head, inout, error);
}

static int kernel_open(const struct kelpie_cache *cache, struct kelpie_cache_kernel *inout,
                       struct kelpie_error *error) {
    KELPIE_ASSERT(inout->path[0] != '\0');
    struct kelpie_os_stat stat;
    int status = kelpie__os_stat(cache->os, KELPIE_OS_CWD, inout->path, true, &stat);
    if (status < 0) {
        return kernel_fail_open(error, inout->path, status);
    }
    if (stat.kind != KELPIE_OS_KIND_FILE) {
        return kernel_fail(error, inout->path, "it is not a file");
    }
    int file = kelpie__os_open(cache->os, KELPIE_OS_CWD, inout->path,
                               KELPIE_OS_OPEN_READ | KELPIE_OS_OPEN_FOLLOW, 0);
    if (file < 0) {
        return kernel_fail_open(error, inout->path, file);
    }
    status = kernel_read_head(cache->os, file, stat.size_bytes, inout, error);
    kelpie__ignore(kelpie__os_close(cache->os, file)); /* it was only read */
    return status;
}

static bool is_digit(char character) {
    return character >= '0' && character <= '9';
}

/* Numbers inside names by value: 6.1.0-56 is after 6.1.0-9. */
static bool release_is_newer(const char *a, const char *b) {
    while (*a != '\0' && *b != '\0') { /* bound: the texts */
        size_t a_digits = strspn(a, "0123456789");
        size_t b_digits = strspn(b, "0123456789");
        if (a_digits != b_digits) {
            return a_digits > b_digits;
        }
        size_t count = a_digits > 0 ? a_digits : 1;
        int order = strncmp(a, b, count);
        if (order != 0) {
            return order > 0;
        }
        a += count;
        b += count;
    }
    KELPIE_ASSERT(!is_digit(*a) || *b == '\0');
    return *a != '\0';
}

static bool text_ends_with(const char *text, const char *end) {
    size_t length = strlen(text);
    size_t end_length = strlen(end);
    return length >= end_length && strcmp(text + length - end_length, end) == 0;
}

/* The newest kernel of the distribution, a cloud kernel before all others: it is smaller and boots
 * faster. */
static bool kernel_find_distribution(const struct kelpie_cache *cache,
                                     struct kelpie_cache_kernel *out) {
    char best[256] = "";
    bool is_best_cloud = false;
    KELPIE_ASSERT(!out->is_own);
    int directory = kelpie__os_open(cache->os, KELPIE_OS_CWD, CACHE_BOOT_DIRECTORY,
                                    KELPIE_OS_OPEN_READ | KELPIE_OS_OPEN_DIRECTORY, 0);
    if (directory < 0) {
        return false;
    }
    uint64_t cursor = 0;
    char name[256];
    for (uint32_t i = 0; i < CACHE_LIST_MAX; i += 1) {
        if (kelpie__os_list(cache->os, directory, &cursor, name, sizeof(name)) <= 0) {
            break;
        }
        if (!kelpie__text_has_prefix(name, CACHE_KERNEL_PREFIX)) {
            continue;
        }
        bool is_cloud = text_ends_with(name, CACHE_KERNEL_CLOUD);
        bool is_better = best[0] == '\0' || (is_cloud && !is_best_cloud) ||
                         (is_cloud == is_best_cloud && release_is_newer(name, best));
        if (is_better) {
            is_best_cloud = is_cloud;
            bool is_whole = kelpie__text_copy(best, sizeof(best), name);
            KELPIE_ASSERT(is_whole);
        }
    }
    kelpie__ignore(kelpie__os_close(cache->os, directory)); /* it was only read */
    return best[0] != '\0' &&
           kelpie__text_join(out->path, sizeof(out->path), CACHE_BOOT_DIRECTORY, best);
}

static bool kernel_find_own(const struct kelpie_cache *cache, struct kelpie_cache_kernel *out) {
    struct kelpie_os_stat stat;
    bool is_found =
        kelpie__text_join(out->path, sizeof(out->path), cache->libexec_path, "vmlinux") &&
        kelpie__os_stat(cache->os, KELPIE_OS_CWD, out->path, true, &stat) == 0;
    if (!is_found) {
        is_found = kelpie__text_copy(out->path, sizeof(out->path), CACHE_OWN_KERNEL) &&
                   kelpie__os_stat(cache->os, KELPIE_OS_CWD, out->path, true, &stat) == 0;
    }
    out->is_own = is_found;
    return is_found;
}

int kelpie__cache_find_kernel(const struct kelpie_cache *cache, const char *explicit_path,
                              struct kelpie_cache_kernel *out, struct kelpie_error *error) {
    struct kelpie_cache_kernel kernel = {0};
    const char *path = explicit_path;
    if (path == NULL || path[0] == '\0') {
        path = kelpie__os_environment(cache->os, "KELPIE_KERNEL");
    }
    if (path != NULL && path[0] != '\0') {
        if (!kelpie__text_copy(kernel.path, sizeof(kernel.path), path)) {
            return kernel_fail(error, "...", "its path is too long");
        }
    } else if (!kernel_find_own(cache, &kernel) && !kernel_find_distribution(cache, &kernel)) {
        return kelpie__fail(error, KELPIE_E_UNAVAILABLE, 0,
                            "no kernel for the guest: there is no %s/%s*; "
                            "apt install linux-image-cloud-amd64, or name one with --kernel",
                            CACHE_BOOT_DIRECTORY, CACHE_KERNEL_PREFIX);
    }
    int status = kernel_open(cache, &kernel, error);
    if (status == 0) {
        KELPIE_ASSERT(kernel.path[0] != '\0');
        *out = kernel;
    }
    return status;
}
