/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * What the core asks of parts that are still being written, answered as by a world without them.
 * Each part deletes its block when it lands; with the last one this file goes.
 */

#include "sim/core.h"
#include "sim/guest.h"
#include "sim/install.h"
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
