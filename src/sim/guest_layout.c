/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * The files of a guest that has just been made: what kelpie-pack's initramfs holds (initramfs.c of
 * src/pack), and what the kernel's own file systems show once they are mounted. They are laid out
 * by the first guest that boots in a slot, and copied for the others.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "core/text.h"
#include "sim/guest_state.h"
#include "sim/programs.h"

struct layout_directory {
    const char *path;
    uint32_t mode;
};

static const struct layout_directory layout_directories[] = {
    {"/.kelpie", 0700},  {"/bin", 0755},      {"/dev", 0755},  {"/dev/pts", 0755},
    {"/dev/shm", 01777}, {"/etc", 0755},      {"/home", 0755}, {"/mnt", 0755},
    {"/proc", 0555},     {"/root", 0700},     {"/run", 0755},  {"/sbin", 0755},
    {"/sys", 0555},      {"/tmp", 01777},     {"/usr", 0755},  {"/usr/bin", 0755},
    {"/var", 0755},      {"/var/tmp", 01777},
};

struct layout_text {
    const char *path;
    const char *text;
};

static const struct layout_text layout_texts[] = {
    {"/etc/passwd", "root:x:0:0:root:/root:/bin/sh\n"
                    "daemon:x:1:1:daemon:/usr/sbin:/bin/false\n"
                    "nobody:x:65534:65534:nobody:/:/bin/false\n"},
    {"/etc/group", "root:x:0:\ndaemon:x:1:\ntty:x:5:\nnogroup:x:65534:\n"},
    {"/etc/hosts", "127.0.0.1 localhost\n::1 localhost\n"},
};

static const char *const layout_devices[] = {
    "/dev/null", "/dev/zero", "/dev/full", "/dev/urandom", "/dev/random",
};

static int layout_put_devices(struct sim_guest *guest) {
    struct sim_disk *disk = guest->machine->disk;
    char port[64];
    int length = snprintf(port, sizeof(port), "/dev/vport%up1", guest->kernel->disk_count);
    KELPIE_ASSERT(length > 0 && (size_t)length < sizeof(port));
    int status = kelpie__sim_disk_put_device(disk, port, kelpie__sim_port_open);
    if (status == 0) {
        status = kelpie__sim_disk_put_device(disk, "/dev/console", kelpie__sim_console_open);
    }
    if (status == 0) {
        status = kelpie__sim_disk_put_device(disk, "/dev/ttyS0", kelpie__sim_console_open);
    }
    for (size_t i = 0; status == 0 && i < KELPIE_ARRAY_COUNT(layout_devices); i += 1) {
        status = kelpie__sim_disk_put_device(disk, layout_devices[i], kelpie__sim_device_open);
    }
    return status;
}

static int layout_put_programs(struct sim_guest *guest) {
    struct sim_disk *disk = guest->machine->disk;
    static const char file[] = "\177ELF";
    int status = kelpie__sim_disk_put(disk, "/init", 0755, file, sizeof(file) - 1);
    const char *name = kelpie__sim_program_name(guest->world, 0);
    for (uint32_t i = 0; status == 0 && name != NULL; i += 1) {
        char path[128];
        bool fits = kelpie__text_join(path, sizeof(path), "/bin", name);
        KELPIE_ASSERT(fits);
        status = kelpie__sim_disk_put(disk, path, 0755, file, sizeof(file) - 1);
        name = kelpie__sim_program_name(guest->world, i + 1);
    }
    return status;
}

static int layout_put(struct sim_guest *guest) {
    struct sim_disk *disk = guest->machine->disk;
    int status = 0;
    kelpie__sim_disk_layout_begin(disk);
    for (size_t i = 0; status == 0 && i < KELPIE_ARRAY_COUNT(layout_directories); i += 1) {
        status = kelpie__sim_disk_put_directory(disk, layout_directories[i].path,
                                                layout_directories[i].mode);
    }
    for (size_t i = 0; status == 0 && i < KELPIE_ARRAY_COUNT(layout_texts); i += 1) {
        status = kelpie__sim_disk_put(disk, layout_texts[i].path, 0644, layout_texts[i].text,
                                      strlen(layout_texts[i].text));
    }
    status = status == 0 ? layout_put_devices(guest) : status;
    status = status == 0 ? layout_put_programs(guest) : status;
    status = status == 0 ? kelpie__sim_guest_lay_out_proc(disk) : status;
    status = status == 0 ? kelpie__sim_guest_lay_out_sys(guest) : status;
    status = status == 0 ? kelpie__sim_guest_lay_out_groups(disk) : status;
    kelpie__sim_disk_layout_end(disk);
    return status;
}

/* ---- once for each slot ---------------------------------------------------------------------- */

/* Names are hashed with the world's seed, files have the date of the image, and all stand at
 * addresses of the slot: what depends on the guest is here. */
static bool layout_fits(const struct sim_guest_layout *layout, const struct sim_guest *guest,
                        uint64_t capacity_bytes) {
    return layout->piece != NULL && layout->capacity_bytes == capacity_bytes &&
           layout->disk_count == guest->kernel->disk_count &&
           layout->programs == kelpie__sim_guest_user_programs(guest->world) &&
           layout->from == kelpie__sim_heap_extent(guest->machine->heap);
}

/* Without memory for it, the next one lays out its files itself. */
static void layout_keep(const struct sim_guest *guest, uint64_t capacity_bytes, size_t from) {
    const struct sim_heap *own = guest->machine->heap;
    struct sim_heap *heap = kelpie__sim_world_host(guest->world)->heap;
    size_t bytes = kelpie__sim_heap_piece_bytes(own, from);
    kelpie__sim_guest_layout_drop(&guest->slot->layout);
    guest->slot->layout = (struct sim_guest_layout){
        .heap = heap,
        .piece = kelpie__sim_heap_alloc_raw(heap, bytes),
        .piece_bytes = bytes,
        .from = from,
        .disk = guest->machine->disk,
        .capacity_bytes = capacity_bytes,
        .disk_count = guest->kernel->disk_count,
        .programs = kelpie__sim_guest_user_programs(guest->world),
    };
    if (guest->slot->layout.piece != NULL) {
        kelpie__sim_heap_piece_save(own, from, guest->slot->layout.piece);
    }
}

void kelpie__sim_guest_layout_drop(struct sim_guest_layout *layout) {
    if (layout->piece != NULL) {
        kelpie__sim_heap_free(layout->heap, layout->piece, layout->piece_bytes);
    }
    *layout = (struct sim_guest_layout){0};
}

int kelpie__sim_guest_lay_out(struct sim_guest *guest, uint64_t capacity_bytes) {
    struct sim_machine *machine = guest->machine;
    const size_t from = kelpie__sim_heap_extent(machine->heap);
    KELPIE_ASSERT(machine->disk == NULL && machine->heap == guest->slot->base);
    KELPIE_ASSERT(kelpie__sim_heap_is_packed(machine->heap));
    if (layout_fits(&guest->slot->layout, guest, capacity_bytes)) {
        kelpie__sim_heap_piece_load(machine->heap, guest->slot->layout.piece);
        machine->disk = guest->slot->layout.disk;
        return 0;
    }
    machine->disk = kelpie__sim_disk_create(machine, SIM_DISK_TMPFS, capacity_bytes);
    int status = machine->disk == NULL ? -ENOMEM : layout_put(guest);
    if (status == 0) {
        kelpie__sim_disk_layout_date(machine->disk, machine->wall_offset_ns);
        layout_keep(guest, capacity_bytes, from);
    }
    return status;
}
