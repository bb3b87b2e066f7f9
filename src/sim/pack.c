/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * The simulated kelpie-pack: see pack.h. Its verbs take about as long as the real ones.
 */
#include "sim/pack.h"

#include <errno.h>
#include <string.h>

#include "core/limits.h"
#include "core/text.h"
#include "os/os_call.h"
#include "sim/fault.h"

#define PACK_SIGNAL_ABORT 6
#define PACK_MIB (UINT64_C(1) << 20)
#define PACK_HEADER_BYTES 0x260u
#define PACK_SECTOR_BYTES 512u
#define PACK_ELF_HEADER_BYTES 64u
#define PACK_ELF_SEGMENT_BYTES 56u
#define PACK_ELF_SEGMENTS_MAX 64u
#define PACK_IDENTIFY_BYTES (72u * 1024u)
#define PACK_LIST_BYTES_MAX 4096u

static uint64_t pack_load(const uint8_t *bytes, size_t count) {
    uint64_t value = 0;
    for (size_t i = count; i > 0; i -= 1) {
        value = value << 8 | bytes[i - 1];
    }
    return value;
}

/* ---- kernel ---------------------------------------------------------------------------------- */

/* A program for x86-64, whole; `interpreter`: whether one is wanted by it. */
static bool pack_is_elf(const uint8_t *bytes, size_t count, bool *out_has_interpreter) {
    *out_has_interpreter = false;
    if (count < PACK_ELF_HEADER_BYTES || memcmp(bytes, "\177ELF\2\1", 6) != 0 ||
        pack_load(bytes + 18, 2) != 62) {
        return false;
    }
    uint64_t at = pack_load(bytes + 32, 8);
    uint64_t segments = pack_load(bytes + 56, 2);
    for (uint64_t i = 0; i < segments && i < PACK_ELF_SEGMENTS_MAX; i += 1) {
        if (at > count - PACK_ELF_SEGMENT_BYTES) {
            return false;
        }
        uint64_t offset = pack_load(bytes + at + 8, 8);
        uint64_t size = pack_load(bytes + at + 32, 8);
        if (offset > count || size > count - offset) {
            return false;
        }
        *out_has_interpreter = *out_has_interpreter || pack_load(bytes + at, 4) == 3;
        at += PACK_ELF_SEGMENT_BYTES;
    }
    return segments > 0;
}

/* What is in a bzImage. In the simulator it is not compressed. */
static bool pack_find_payload(const uint8_t *image, size_t count, const uint8_t **out,
                              size_t *out_count) {
    if (count < PACK_HEADER_BYTES || memcmp(image + 0x202, "HdrS", 4) != 0 ||
        pack_load(image + 0x206, 2) < 0x208) {
        return false;
    }
    uint64_t sectors = image[0x1f1] == 0 ? 4 : image[0x1f1];
    uint64_t begin = (sectors + 1) * PACK_SECTOR_BYTES + pack_load(image + 0x248, 4);
    uint64_t length = pack_load(image + 0x24c, 4);
    if (length < 8 || begin > count || length > count - begin) {
        return false;
    }
    *out = image + begin;
    *out_count = (size_t)length - 4;
    return pack_load(*out + *out_count, 4) == *out_count;
}

static int pack_put(struct kelpie_os *os, const char *path, const uint8_t *bytes, size_t count) {
    struct sim_pack_output output;
    int status = kelpie__sim_pack_open(&output, os, path);
    if (status == SIM_PACK_OK) {
        status = kelpie__sim_pack_write(&output, bytes, count);
    }
    if (status == SIM_PACK_OK) {
        status = kelpie__sim_pack_commit(&output);
    }
    kelpie__sim_pack_close(&output);
    return status;
}

static int pack_kernel(struct kelpie_os *os, int argc, char **argv) {
    uint8_t *image = NULL;
    size_t image_count = 0;
    const uint8_t *payload = NULL;
    size_t count = 0;
    bool has_interpreter = false;
    if (argc != 3) {
        return SIM_PACK_USAGE;
    }
    int status = kelpie__sim_pack_read(os, argv[1], &image, &image_count);
    if (status != SIM_PACK_OK) {
        return status;
    }
    bool is_elf = image_count >= 4 && memcmp(image, "\177ELF", 4) == 0;
    payload = image;
    count = image_count;
    if (!is_elf && !pack_find_payload(image, image_count, &payload, &count)) {
        status = kelpie__sim_pack_fail(os, 0, "\"%s\" is no bzImage with a compressed kernel in it",
                                       argv[1]);
    } else if (!pack_is_elf(payload, count, &has_interpreter)) {
        status = kelpie__sim_pack_fail(os, 0, "kernel \"%s\" is cut off or no program", argv[1]);
    } else {
        status = pack_put(os, argv[2], payload, count);
    }
    kelpie__free(os, image, image_count + 1);
    return status;
}

/* ---- initramfs ------------------------------------------------------------------------------- */

struct pack_initramfs {
    const char *agent;
    const char *busybox;
    const char *modules;
    const char *out;
};

static bool pack_read_initramfs(int argc, char **argv, struct pack_initramfs *out) {
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

/* One entry of a cpio archive in the format "newc". */
static int pack_entry(struct sim_pack_output *output, const char *name, const uint8_t *bytes,
                      size_t count) {
    static const uint8_t zeros[4] = {0};
    char header[128];
    size_t name_bytes = strlen(name) + 1;
    bool is_whole = kelpie__text_format(
        header, sizeof(header), "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x", 1u,
        0100755u, 0u, 0u, 1u, 0u, kelpie__to_u32(count), 0u, 0u, 0u, 0u, kelpie__to_u32(name_bytes),
        0u);
    KELPIE_ASSERT(is_whole && strlen(header) == 110);
    int status = kelpie__sim_pack_write(output, header, 110);
    if (status == SIM_PACK_OK) {
        status = kelpie__sim_pack_write(output, name, name_bytes);
    }
    if (status == SIM_PACK_OK && count > 0) { /* the trailer is the file's very end */
        status = kelpie__sim_pack_write(output, zeros, (size_t)(-output->size_bytes & 3u));
    }
    if (status == SIM_PACK_OK) {
        status = kelpie__sim_pack_write(output, bytes, count);
    }
    if (status == SIM_PACK_OK && count > 0) {
        status = kelpie__sim_pack_write(output, zeros, (size_t)(-output->size_bytes & 3u));
    }
    return status;
}

static int pack_add_program(struct sim_pack_output *output, const char *name, const char *path,
                            const char *package) {
    uint8_t *bytes = NULL;
    size_t count = 0;
    bool has_interpreter = false;
    struct kelpie_os *os = output->os;
    int status = kelpie__sim_pack_read(os, path, &bytes, &count);
    if (status != SIM_PACK_OK) {
        return status;
    }
    if (!pack_is_elf(bytes, count, &has_interpreter) || has_interpreter) {
        status = kelpie__sim_pack_fail(os, 0, "\"%s\" is not statically linked; apt install %s",
                                       path, package);
    } else {
        status = pack_entry(output, name, bytes, count);
    }
    kelpie__free(os, bytes, count + 1);
    return status;
}

static int pack_add_modules(struct sim_pack_output *output, const char *directory) {
    static const char *const wanted[] = {"virtio_mmio", "virtio_console", "virtio_blk", "erofs",
                                         "overlay"};
    char path[SIM_PATH_BYTES_MAX];
    uint8_t *list = NULL;
    size_t count = 0;
    struct kelpie_os *os = output->os;
    if (!kelpie__text_join(path, sizeof(path), directory, "modules.dep")) {
        return kelpie__sim_pack_fail(os, -ENAMETOOLONG, "\"%s\"", directory);
    }
    int status = kelpie__sim_pack_read(os, path, &list, &count);
    if (status != SIM_PACK_OK) {
        return status;
    }
    for (size_t i = 0; i < KELPIE_ARRAY_COUNT(wanted) && status == SIM_PACK_OK; i += 1) {
        if (strstr((const char *)list, wanted[i]) == NULL) {
            status = kelpie__sim_pack_fail(
                os, 0, "the kernel of \"%s\" has no module %s, neither built in", directory,
                wanted[i]);
        }
    }
    if (status == SIM_PACK_OK) {
        status = pack_entry(output, ".kelpie/modules.list", list, count);
    }
    kelpie__free(os, list, count + 1);
    return status;
}

static int pack_initramfs(struct kelpie_os *os, int argc, char **argv) {
    struct pack_initramfs options = {0};
    struct sim_pack_output output;
    if (!pack_read_initramfs(argc, argv, &options)) {
        return SIM_PACK_USAGE;
    }
    int status = kelpie__sim_pack_open(&output, os, options.out);
    if (status == SIM_PACK_OK) {
        status = pack_add_program(&output, "init", options.agent, "kelpie");
    }
    if (status == SIM_PACK_OK) {
        status = pack_add_program(&output, "bin/busybox", options.busybox, "busybox-static");
    }
    if (status == SIM_PACK_OK && options.modules != NULL) {
        status = pack_add_modules(&output, options.modules);
    }
    if (status == SIM_PACK_OK) {
        status = pack_entry(&output, "TRAILER!!!", NULL, 0);
    }
    if (status == SIM_PACK_OK) {
        status = kelpie__sim_pack_commit(&output);
    }
    kelpie__sim_pack_close(&output);
    return status;
}

/* ---- identify and disk ----------------------------------------------------------------------- */

struct pack_magic {
    size_t offset;
    const char *bytes;
    size_t length;
    const char *name;
    bool is_supported;
};

static const struct pack_magic pack_magics[] = {
    {0, SIM_PACK_ROOT_MAGIC, sizeof(SIM_PACK_ROOT_MAGIC) - 1, "erofs", true},
    {1024, "\xe2\xe1\xf5\xe0", 4, "erofs", true},
    {1024 + 56, "\x53\xef", 2, "ext4", true},
    {0, "hsqs", 4, "squashfs", false},
    {0, "XFSB", 4, "xfs", false},
    {0x10040, "_BHRfS_M", 8, "btrfs", false},
    {0x8001, "CD001", 5, "ISO 9660", false},
    {512, "EFI PART", 8, "a partition table", false},
    {510, "\x55\xaa", 2, "a partition table or boot sector", false},
};

static int pack_identify_file(struct kelpie_os *os, int file, const char *path, uint8_t *head) {
    struct kelpie_os_stat stat;
    int status = kelpie__os_stat(os, file, "", false, &stat);
    if (status < 0) {
        return kelpie__sim_pack_fail(os, status, "look at \"%s\"", path);
    }
    if (stat.kind != KELPIE_OS_KIND_FILE) {
        return kelpie__sim_pack_fail(os, 0, "\"%s\" is neither a directory nor a disk image", path);
    }
    int64_t count = kelpie__os_pread(os, file, head, PACK_IDENTIFY_BYTES, 0);
    if (count < 0) {
        return kelpie__sim_pack_fail(os, (int)count, "read \"%s\"", path);
    }
    for (size_t i = 0; i < KELPIE_ARRAY_COUNT(pack_magics); i += 1) {
        const struct pack_magic *magic = &pack_magics[i];
        KELPIE_ASSERT(magic->offset + magic->length <= PACK_IDENTIFY_BYTES);
        if (memcmp(head + magic->offset, magic->bytes, magic->length) != 0) {
            continue;
        }
        if (magic->is_supported) {
            kelpie__sim_pack_print(os, "raw %s\n", magic->name);
            return SIM_PACK_OK;
        }
        return kelpie__sim_pack_fail(os, 0,
                                     "\"%s\" holds %s; Kelpie takes an image with an ext4 or "
                                     "EROFS file system and nothing around it",
                                     path, magic->name);
    }
    return kelpie__sim_pack_fail(
        os, 0, "\"%s\" holds an unknown file system; Kelpie takes ext4 and EROFS", path);
}

static int pack_identify(struct kelpie_os *os, int argc, char **argv) {
    if (argc != 2) {
        return SIM_PACK_USAGE;
    }
    int file =
        kelpie__os_open(os, KELPIE_OS_CWD, argv[1], KELPIE_OS_OPEN_READ | KELPIE_OS_OPEN_FOLLOW, 0);
    if (file < 0) {
        return kelpie__sim_pack_fail(os, file, "open \"%s\"", argv[1]);
    }
    uint8_t *head = kelpie__alloc(os, PACK_IDENTIFY_BYTES);
    int status = head == NULL ? kelpie__sim_pack_fail(os, -ENOMEM, "read \"%s\"", argv[1])
                              : pack_identify_file(os, file, argv[1], head);
    kelpie__free(os, head, PACK_IDENTIFY_BYTES);
    kelpie__ignore(kelpie__os_close(os, file)); /* it was only read */
    return status;
}

static int pack_disk(struct kelpie_os *os, int argc, char **argv) {
    uint64_t size_mib = 0;
    uint8_t head[1024 + 64] = {0};
    struct sim_pack_output output;
    if (argc != 3) {
        return SIM_PACK_USAGE;
    }
    if (!kelpie__text_u64(argv[1], &size_mib) || size_mib < KELPIE_DISK_SIZE_MIB_MIN ||
        size_mib > KELPIE_DISK_SIZE_MIB_MAX) {
        return kelpie__sim_pack_fail(os, 0, "disk size \"%s\" is not within %u to %u MiB", argv[1],
                                     KELPIE_DISK_SIZE_MIB_MIN, KELPIE_DISK_SIZE_MIB_MAX);
    }
    memcpy(head + 1024 + 56, "\x53\xef", 2);
    int status = kelpie__sim_pack_open(&output, os, argv[2]);
    if (status == SIM_PACK_OK) {
        int result = kelpie__os_truncate(os, output.file, size_mib * PACK_MIB);
        status = result < 0 ? kelpie__sim_pack_fail(os, result, "make \"%s\" %llu MiB long",
                                                    argv[2], (unsigned long long)size_mib)
                            : SIM_PACK_OK;
    }
    if (status == SIM_PACK_OK) {
        status = kelpie__sim_pack_write(&output, head, sizeof(head));
    }
    if (status == SIM_PACK_OK) {
        status = kelpie__sim_pack_commit(&output);
    }
    kelpie__sim_pack_close(&output);
    return status;
}

/* ---- the program ----------------------------------------------------------------------------- */

struct pack_verb {
    const char *name;
    const char *arguments;
    int64_t median_ns;
    int (*run)(struct kelpie_os *os, int argc, char **argv);
};

/* The built-in root as an image. Each guest has its programs anyway. */
static int pack_builtin(struct kelpie_os *os, int argc, char **argv) {
    static const char text[] = SIM_PACK_ROOT_MAGIC "d 755 0 /etc\n";
    uint8_t *program = NULL;
    size_t count = 0;
    bool has_interpreter = true;
    if (argc != 3) {
        return SIM_PACK_USAGE;
    }
    int status = kelpie__sim_pack_read(os, argv[1], &program, &count);
    if (status != SIM_PACK_OK) {
        return status;
    }
    bool is_good = pack_is_elf(program, count, &has_interpreter) && !has_interpreter;
    kelpie__free(os, program, count + 1);
    return is_good
               ? pack_put(os, argv[2], (const uint8_t *)text, sizeof(text) - 1)
               : kelpie__sim_pack_fail(
                     os, 0, "\"%s\" is not statically linked; apt install busybox-static", argv[1]);
}

static const struct pack_verb pack_verbs[] = {
    {"kernel", "BZIMAGE OUT", 500 * KELPIE_NS_PER_MS, pack_kernel},
    {"initramfs", "--agent FILE --busybox FILE [--modules-dir DIRECTORY] OUT",
     60 * KELPIE_NS_PER_MS, pack_initramfs},
    {"builtin", "BUSYBOX OUT", 60 * KELPIE_NS_PER_MS, pack_builtin},
    {"root", "DIRECTORY CACHE_DIRECTORY", 40 * KELPIE_NS_PER_MS, kelpie__sim_pack_root},
    {"identify", "IMAGE", 2 * KELPIE_NS_PER_MS, pack_identify},
    {"disk", "SIZE_MIB OUT", 15 * KELPIE_NS_PER_MS, pack_disk},
};

static int pack_usage(struct kelpie_os *os) {
    for (size_t i = 0; i < KELPIE_ARRAY_COUNT(pack_verbs); i += 1) {
        kelpie__ignore(kelpie__sim_pack_fail(os, 0, "%s kelpie-pack %s %s",
                                             i == 0 ? "usage:" : "      ", pack_verbs[i].name,
                                             pack_verbs[i].arguments));
    }
    return SIM_PACK_USAGE;
}

static void pack_sleep(struct kelpie_os *os, int64_t duration_ns) {
    struct kelpie_os_event event;
    int64_t until_ns =
        duration_ns < 0 ? -1 : kelpie__os_now(os, KELPIE_OS_CLOCK_MONOTONIC) + duration_ns;
    kelpie__ignore(kelpie__os_wait(os, &event, 1, until_ns)); /* nothing is watched */
}

/* pack.run of the fault plan: fail, hang, die; late comes before the work. True: end with *out. */
static bool pack_fault(struct sim_process *process, const char *verb, int *out) {
    struct sim_faults *faults = kelpie__sim_world_faults(process->machine->world);
    uint64_t argument = 0;
    const char *fault =
        faults == NULL ? NULL : kelpie__sim_faults_point(faults, process, "pack.run", &argument);
    if (fault == NULL) {
        return false;
    }
    KELPIE_ASSERT(fault[0] != '\0');
    if (strcmp(fault, "fail") == 0) {
        *out = kelpie__sim_pack_fail(&process->os, -EIO, "%s", verb);
        return true;
    }
    if (strcmp(fault, "die") == 0) {
        kelpie__sim_process_signal(process, PACK_SIGNAL_ABORT);
    }
    pack_sleep(&process->os,
               strcmp(fault, "late") == 0 ? (int64_t)(argument % 1000000000u) * 1000 : -1);
    return false;
}

int kelpie__sim_pack_main(struct kelpie_os *os, int argc, char **argv) {
    struct sim_process *process = kelpie__sim_process_of(os);
    int status = SIM_PACK_OK;
    if (argc == 2 && strcmp(argv[1], "--version") == 0) {
        kelpie__sim_pack_print(os, "kelpie-pack %s\n", KELPIE_VERSION);
        return SIM_PACK_OK;
    }
    for (size_t i = 0; argc > 1 && i < KELPIE_ARRAY_COUNT(pack_verbs); i += 1) {
        if (strcmp(argv[1], pack_verbs[i].name) != 0) {
            continue;
        }
        if (pack_fault(process, argv[1], &status)) {
            return status;
        }
        pack_sleep(os, kelpie__sim_about(process->machine->world, SIM_STREAM_QEMU,
                                         pack_verbs[i].median_ns));
        status = pack_verbs[i].run(os, argc - 1, argv + 1);
        KELPIE_ASSERT(status >= SIM_PACK_OK && status <= SIM_PACK_SYSTEM);
        return status == SIM_PACK_USAGE ? pack_usage(os) : status;
    }
    return pack_usage(os);
}
