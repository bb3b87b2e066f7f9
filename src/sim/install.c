/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * What is on the simulated host before anybody comes: see install.h. A Debian 12 with Kelpie's
 * programs, QEMU, a cloud kernel and busybox. The programs that run are functions; the others are
 * files that are looked at only.
 */
#include "sim/install.h"

#include <errno.h>
#include <string.h>

#include "cli/cli.h"
#include "core/text.h"
#include "keeper/keeper.h"
#include "monitor/monitor.h"
#include "sim/disk.h"
#include "sim/install_proc.h"
#include "sim/machine.h"

#define INSTALL_RELEASE SIM_KERNEL_RELEASE
#define INSTALL_ELF_BYTES 4096u
#define INSTALL_KERNEL_ELF_BYTES 8192u
#define INSTALL_BZIMAGE_PAYLOAD 0xa00u /* five sectors of 512 bytes */
#define INSTALL_BZIMAGE_RELEASE 0x400u
#define INSTALL_BZIMAGE_BYTES (INSTALL_BZIMAGE_PAYLOAD + INSTALL_KERNEL_ELF_BYTES + 4u)
#define INSTALL_STACK_BYTES (512u * 1024u) /* buffers of paths and of 64 KiB reads lie on it */
#define INSTALL_STACK_BYTES_SMALL (128u * 1024u)

struct install_program {
    const char *path;
    const char *role;
    sim_main main;
    uint32_t stack_bytes;
};

static const struct install_program install_programs[] = {
    {SIM_LIBEXEC_DIRECTORY "/kelpie-monitor", "monitor", kelpie_monitor_main, INSTALL_STACK_BYTES},
    {SIM_LIBEXEC_DIRECTORY "/kelpie-keeper", "keeper", kelpie_keeper_main, INSTALL_STACK_BYTES},
    {SIM_LIBEXEC_DIRECTORY "/kelpie-pack", "pack", kelpie__sim_pack_main,
     INSTALL_STACK_BYTES_SMALL},
    {"/usr/bin/kelpie", "cli", kelpie_cli_main, INSTALL_STACK_BYTES},
};

static const struct install_program install_qemu = {
    "/usr/bin/qemu-system-x86_64", "qemu", kelpie__sim_qemu_main, INSTALL_STACK_BYTES_SMALL};
static const struct install_program install_krun = {
    SIM_LIBEXEC_DIRECTORY "/kelpie-krun", "krun", kelpie__sim_krun_main, INSTALL_STACK_BYTES_SMALL};

/* Looked at, never run. */
static const char *const install_others[] = {
    SIM_LIBEXEC_DIRECTORY "/kelpie-agent",
    "/usr/bin/busybox",
    "/usr/bin/mkfs.erofs",
    "/usr/sbin/mke2fs",
    "/usr/bin/qemu-img",
};

struct install_directory {
    const char *path;
    uint32_t mode;
};

static const struct install_directory install_directories[] = {
    {"/root", 0700},      {"/home", 0755},      {"/var/lib", 0755}, {"/var/cache", 0755},
    {"/usr/local", 0755}, {"/usr/share", 0755}, {"/etc", 0755},     {"/opt", 0755},
    {"/proc", 0555},      {"/srv", 0755},       {"/mnt", 0755},
};

struct install_text {
    const char *path;
    const char *text;
};

static const struct install_text install_texts[] = {
    {"/etc/passwd", "root:x:0:0:root:/root:/bin/bash\nnobody:x:65534:65534::/:/bin/false\n"},
    {"/etc/group", "root:x:0:\nkvm:x:108:\nnogroup:x:65534:\n"},
    {"/etc/hostname", "sim\n"},
    {"/etc/machine-id", "00000000000000000000000000000051\n"},
    {"/lib/modules/" INSTALL_RELEASE "/modules.dep",
     "kernel/drivers/virtio/virtio.ko: kernel/drivers/virtio/virtio_ring.ko\n"
     "kernel/drivers/virtio/virtio_ring.ko:\n"
     "kernel/drivers/virtio/virtio_mmio.ko: kernel/drivers/virtio/virtio.ko "
     "kernel/drivers/virtio/virtio_ring.ko\n"
     "kernel/drivers/char/virtio_console.ko: kernel/drivers/virtio/virtio.ko "
     "kernel/drivers/virtio/virtio_ring.ko\n"
     "kernel/drivers/block/virtio_blk.ko: kernel/drivers/virtio/virtio.ko "
     "kernel/drivers/virtio/virtio_ring.ko\n"
     "kernel/fs/erofs/erofs.ko:\n"
     "kernel/fs/overlayfs/overlay.ko:\n"},
    {"/lib/modules/" INSTALL_RELEASE "/modules.builtin", "kernel/fs/ext4/ext4.ko\n"},
};

static void install_store(uint8_t *bytes, uint64_t value, size_t count) {
    for (size_t i = 0; i < count; i += 1) {
        bytes[i] = (uint8_t)(value >> (8 * i));
    }
}

/* A static program for x86-64 with one segment, and a kernel's PVH note in another. */
static void install_make_elf(uint8_t *out, size_t count) {
    KELPIE_ASSERT(count >= 512 && out[0] == 0);
    memcpy(out, "\177ELF\2\1\1", 7);
    install_store(out + 16, 2, 2);  /* an executable */
    install_store(out + 18, 62, 2); /* for x86-64 */
    install_store(out + 32, 64, 8); /* the segments follow */
    install_store(out + 54, 56, 2); /* each so long */
    install_store(out + 56, 2, 2);  /* two */
    install_store(out + 64, 1, 4);  /* loaded: all of it */
    install_store(out + 64 + 32, count, 8);
    install_store(out + 120, 4, 4); /* notes */
    install_store(out + 120 + 8, 256, 8);
    install_store(out + 120 + 32, 20, 8);
    install_store(out + 256, 4, 4);
    install_store(out + 260, 4, 4);
    install_store(out + 264, 18, 4);
    memcpy(out + 268, "Xen", 4);
    install_store(out + 272, 0x1000000, 4);
}

/* As kelpie-pack's counterpart reads it (pack.c): what is in it is not compressed. */
static void install_make_bzimage(uint8_t *out) {
    static const char release[] = INSTALL_RELEASE " (debian-kernel@lists.debian.org) #1 SMP";
    KELPIE_ASSERT(out[0] == 0);
    out[0x1f1] = 4;
    memcpy(out + 0x202, "HdrS", 4);
    install_store(out + 0x206, 0x20f, 2);
    install_store(out + 0x20e, INSTALL_BZIMAGE_RELEASE - 0x200, 2);
    out[0x236] = 1; /* 64 bits */
    install_store(out + 0x248, 0, 4);
    install_store(out + 0x24c, INSTALL_KERNEL_ELF_BYTES + 4, 4);
    memcpy(out + INSTALL_BZIMAGE_RELEASE, release, sizeof(release));
    install_make_elf(out + INSTALL_BZIMAGE_PAYLOAD, INSTALL_KERNEL_ELF_BYTES);
    install_store(out + INSTALL_BZIMAGE_PAYLOAD + INSTALL_KERNEL_ELF_BYTES,
                  INSTALL_KERNEL_ELF_BYTES, 4);
}

static int install_files(struct sim_world *world, struct sim_disk *disk) {
    uint8_t elf[INSTALL_ELF_BYTES] = {0};
    uint8_t kernel[INSTALL_BZIMAGE_BYTES] = {0};
    int status = 0;
    install_make_elf(elf, sizeof(elf));
    install_make_bzimage(kernel);
    for (size_t i = 0; i < KELPIE_ARRAY_COUNT(install_directories) && status == 0; i += 1) {
        status = kelpie__sim_disk_put_directory(disk, install_directories[i].path,
                                                install_directories[i].mode);
    }
    bool is_krun = kelpie__sim_world_options(world)->is_krun;
    for (size_t i = 0; i <= KELPIE_ARRAY_COUNT(install_programs) && status == 0; i += 1) {
        const struct install_program *program = i < KELPIE_ARRAY_COUNT(install_programs)
                                                    ? &install_programs[i]
                                                : is_krun ? &install_krun
                                                          : &install_qemu;
        status = kelpie__sim_disk_put(disk, program->path, 0755, elf, sizeof(elf));
        kelpie__sim_program_add(world, false, program->path, program->role, program->main,
                                program->stack_bytes);
    }
    if (status == 0 && is_krun) {
        status = kelpie__sim_disk_put(disk, "/usr/lib/x86_64-linux-gnu/libkrun.so.1", 0644, elf,
                                      sizeof(elf));
    }
    for (size_t i = 0; i < KELPIE_ARRAY_COUNT(install_others) && status == 0; i += 1) {
        status = kelpie__sim_disk_put(disk, install_others[i], 0755, elf, sizeof(elf));
    }
    for (size_t i = 0; i < KELPIE_ARRAY_COUNT(install_texts) && status == 0; i += 1) {
        status = kelpie__sim_disk_put(disk, install_texts[i].path, 0644, install_texts[i].text,
                                      strlen(install_texts[i].text));
    }
    if (status == 0) {
        status = kelpie__sim_disk_put(disk, "/boot/vmlinuz-" INSTALL_RELEASE, 0644, kernel,
                                      sizeof(kernel));
    }
    return status;
}

static int install_open_null(struct sim_machine *machine, struct sim_process *opener,
                             const char *path, struct sim_object **out) {
    KELPIE_ASSERT(opener != NULL && path[0] == '/');
    *out = kelpie__sim_object_null(machine);
    return *out == NULL ? -ENOMEM : 0;
}

static int install_devices(struct sim_world *world, struct sim_disk *disk) {
    static const char *const memory[] = {"/run", "/tmp", "/dev/shm"};
    int status = 0;
    for (size_t i = 0; i < KELPIE_ARRAY_COUNT(memory) && status == 0; i += 1) {
        status = kelpie__sim_disk_put_directory(disk, memory[i],
                                                strcmp(memory[i], "/run") == 0 ? 0755u : 01777u);
        status = status == 0 ? kelpie__sim_disk_put_tmpfs(disk, memory[i]) : status;
    }
    if (status == 0) {
        status = kelpie__sim_disk_put_device(disk, "/dev/null", install_open_null);
    }
    /* What answers there is QEMU's matter: the product opens it and closes it. */
    const struct sim_options *options = kelpie__sim_world_options(world);
    if (status == 0 && (options->has_kvm || options->is_krun)) {
        status = kelpie__sim_disk_put_device(disk, "/dev/kvm", install_open_null);
    }
    return status;
}

int kelpie__sim_install(struct sim_world *world) {
    struct sim_disk *disk = kelpie__sim_world_disk(world);
    KELPIE_ASSERT(disk != NULL);
    int status = install_files(world, disk);
    if (status == 0) {
        status = install_devices(world, disk);
    }
    if (status == 0) {
        status = kelpie__sim_install_proc(disk, kelpie__sim_world_options(world)->is_krun);
    }
    if (status == 0) {
        status = kelpie__sim_install_guest_programs(world);
    }
    KELPIE_ASSERT(status <= 0);
    return status;
}
