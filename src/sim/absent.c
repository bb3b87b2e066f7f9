/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * What the core asks of parts that are still being written, answered as by a world without them.
 * Each part deletes its block when it lands; with the last one this file goes.
 */
#include <errno.h>
#include <string.h>

#include "sim/core.h"
#include "sim/disk.h"
#include "sim/guest.h"
#include "sim/install.h"

/* ---- S3: disk.c, disk_os.c ------------------------------------------------------------------- */

void kelpie__sim_os_fill_files(struct kelpie_os *os) {
    kelpie__ignore(os != NULL);
}

struct sim_disk *kelpie__sim_disk_create(struct sim_machine *machine, enum sim_disk_profile profile,
                                         uint64_t capacity_bytes) {
    kelpie__ignore((unsigned)profile + capacity_bytes > 0);
    return (struct sim_disk *)(void *)machine;
}

void kelpie__sim_disk_crash(struct sim_disk *disk) {
    kelpie__ignore(disk != NULL);
}

uint32_t kelpie__sim_disk_pending(const struct sim_disk *disk) {
    return disk == NULL ? 1 : 0;
}

void kelpie__sim_disk_set_quota(struct sim_disk *disk, uint64_t capacity_bytes) {
    kelpie__ignore(disk != NULL && capacity_bytes > 0);
}

void kelpie__sim_disk_set_read_only(struct sim_disk *disk, bool is_read_only) {
    kelpie__ignore(disk != NULL && is_read_only);
}

bool kelpie__sim_disk_walk(struct sim_disk *disk, const char *path, uint64_t *inout_cursor,
                           char out_name[256]) {
    kelpie__ignore(disk != NULL && path != NULL && out_name != NULL && *inout_cursor > 0);
    return false;
}

int kelpie__sim_disk_rot(struct sim_disk *disk, const char *path, uint64_t hash) {
    kelpie__ignore(disk != NULL && path != NULL && hash > 0);
    return -ENOENT;
}

uint64_t kelpie__sim_disk_used_bytes(const struct sim_disk *disk) {
    return disk == NULL ? 1 : 0;
}

int64_t kelpie__sim_disk_peek(struct sim_disk *disk, bool is_durable, const char *path, void *out,
                              size_t capacity) {
    kelpie__ignore(disk != NULL && is_durable && path != NULL && out != NULL && capacity > 0);
    return -ENOENT;
}

int kelpie__sim_disk_bind(struct sim_process *process, int directory, const char *name,
                          uint64_t socket) {
    kelpie__ignore(process != NULL && directory >= 0 && name != NULL && socket > 0);
    return -ENOENT;
}

int kelpie__sim_disk_socket(struct sim_process *process, int directory, const char *name,
                            uint64_t *out_socket) {
    kelpie__ignore(process != NULL && directory >= 0 && name != NULL && out_socket != NULL);
    return -ENOENT;
}

int kelpie__sim_disk_executable(struct sim_process *process, const char *path,
                                char out_real[SIM_PATH_BYTES_MAX]) {
    bool is_guest = process->machine->guest != NULL;
    memcpy(out_real, path, strlen(path) + 1);
    return kelpie__sim_program_find(process->machine->world, is_guest, path) != NULL ? 0 : -ENOENT;
}

int kelpie__sim_disk_directory(struct sim_process *process, const char *path) {
    kelpie__ignore(process != NULL && path != NULL);
    return 0;
}

int kelpie__sim_disk_put(struct sim_disk *disk, const char *path, uint32_t mode, const void *bytes,
                         size_t count) {
    kelpie__ignore(disk != NULL && path != NULL && bytes != NULL && mode + count > 0);
    return 0;
}

int kelpie__sim_disk_put_directory(struct sim_disk *disk, const char *path, uint32_t mode) {
    kelpie__ignore(disk != NULL && path != NULL && mode > 0);
    return 0;
}

int kelpie__sim_disk_put_tmpfs(struct sim_disk *disk, const char *path) {
    kelpie__ignore(disk != NULL && path != NULL);
    return 0;
}

int kelpie__sim_disk_put_synthetic(struct sim_disk *disk, const char *pattern,
                                   sim_synthetic content) {
    kelpie__ignore(disk != NULL && pattern != NULL && content != NULL);
    return 0;
}

int kelpie__sim_disk_put_device(struct sim_disk *disk, const char *path, sim_device_open open) {
    kelpie__ignore(disk != NULL && path != NULL && open != NULL);
    return 0;
}

/* ---- S5: guest*.c ---------------------------------------------------------------------------- */

void kelpie__sim_os_fill_guest(struct kelpie_os *os) {
    kelpie__ignore(os != NULL);
}

void kelpie__sim_guest_destroy(struct sim_guest *guest) {
    kelpie__ignore(guest != NULL);
}

struct sim_process *kelpie__sim_guest_owner(const struct sim_guest *guest) {
    kelpie__ignore(guest != NULL);
    return NULL;
}

void kelpie__sim_guest_slots_destroy(struct sim_world *world) {
    kelpie__ignore(world != NULL);
}

bool kelpie__sim_guest_is_ready(const struct sim_guest *guest) {
    return guest == NULL;
}

int64_t kelpie__sim_guest_deadline(const struct sim_guest *guest) {
    return guest == NULL ? 0 : -1;
}

struct sim_machine *kelpie__sim_guest_enter(struct sim_guest *guest) {
    kelpie__ignore(guest != NULL);
    return NULL;
}

void kelpie__sim_guest_update(struct sim_guest *guest) {
    kelpie__ignore(guest != NULL);
}

int kelpie__sim_guest_spawned(struct sim_process *parent, struct sim_process *child,
                              const struct kelpie_os_spawn *spawn, const char **out_step) {
    kelpie__ignore(parent != NULL && child != NULL && spawn != NULL && out_step != NULL);
    return 0;
}

void kelpie__sim_guest_ended(struct sim_process *process) {
    kelpie__ignore(process != NULL);
}

int kelpie__sim_install_guest_programs(struct sim_world *world) {
    kelpie__ignore(world != NULL);
    return 0;
}

struct sim_guest *kelpie__sim_guest_create(struct sim_process *owner,
                                           const struct sim_guest_config *config) {
    kelpie__ignore(owner != NULL && config != NULL);
    return NULL;
}

void kelpie__sim_guest_run(struct sim_guest *guest) {
    kelpie__ignore(guest != NULL);
}

void kelpie__sim_guest_halt(struct sim_guest *guest) {
    kelpie__ignore(guest != NULL);
}

enum sim_guest_end kelpie__sim_guest_end(const struct sim_guest *guest) {
    kelpie__ignore(guest != NULL);
    return SIM_GUEST_LIVES;
}

struct sim_object *kelpie__sim_guest_events(struct sim_guest *guest) {
    kelpie__ignore(guest != NULL);
    return NULL;
}

size_t kelpie__sim_guest_port_put(struct sim_guest *guest, const void *bytes, size_t count) {
    kelpie__ignore(guest != NULL && bytes != NULL);
    return count;
}

size_t kelpie__sim_guest_port_take(struct sim_guest *guest, void *out, size_t capacity) {
    kelpie__ignore(guest != NULL && out != NULL && capacity > 0);
    return 0;
}

size_t kelpie__sim_guest_console_take(struct sim_guest *guest, void *out, size_t capacity) {
    kelpie__ignore(guest != NULL && out != NULL && capacity > 0);
    return 0;
}

void kelpie__sim_guest_panic(struct sim_guest *guest, const char *why) {
    kelpie__ignore(guest != NULL && why != NULL);
}

void kelpie__sim_guest_hang(struct sim_guest *guest) {
    kelpie__ignore(guest != NULL);
}

void kelpie__sim_guest_deafen(struct sim_guest *guest) {
    kelpie__ignore(guest != NULL);
}

void kelpie__sim_guest_truth(struct sim_guest *guest, struct sim_guest_truth *out) {
    kelpie__ignore(guest != NULL);
    *out = (struct sim_guest_truth){0};
}
