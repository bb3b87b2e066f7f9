/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * What the files of the lifecycle share: lifecycle.c (state, record, start), lifecycle_stop.c
 * (stop, kill, delete), lifecycle_end.c (ends), pause.c (pause, resume). Nobody else includes this.
 */
#ifndef KELPIE_MONITOR_LIFECYCLE_INTERNAL_H
#define KELPIE_MONITOR_LIFECYCLE_INTERNAL_H

#include "monitor/lifecycle.h"

struct kelpie_lifecycle *kelpie__lifecycle_of(struct kelpie_monitor *monitor);

void kelpie__lifecycle_check(const struct kelpie_lifecycle *lifecycle);

/* Changes the state by the table, writes the record, then tells everybody. While the record cannot
 * be written, it is tried again, and nobody is told anything for some seconds: who reads the file
 * must not see an older state than who was answered. A disk that stays broken is not fatal: the
 * file then still says that the VM lives, and whoever finds the lock free makes it Crashed. */
void kelpie__lifecycle_change(struct kelpie_lifecycle *lifecycle, enum kelpie_vm_state next,
                              const char *reason);

/* Writes the record as it is. */
KELPIE_MUST_CHECK int kelpie__lifecycle_save(struct kelpie_lifecycle *lifecycle,
                                             struct kelpie_error *error);

/* After the list of its disk's layers has changed, before it matters: of a durable VM that outlives
 * the machine's death. The files of the lowest `known_count` were in the list before. */
KELPIE_MUST_CHECK int kelpie__lifecycle_save_layers(struct kelpie_lifecycle *lifecycle,
                                                    uint32_t known_count,
                                                    struct kelpie_error *error);

/* The record could not be written: as in kelpie__lifecycle_change. */
void kelpie__lifecycle_unsaved(struct kelpie_lifecycle *lifecycle);

void kelpie__lifecycle_disarm(struct kelpie_lifecycle *lifecycle);

/* lifecycle.c: what the VM needs is there: boots it, in all of the boot's time. */
void kelpie__lifecycle_boot(struct kelpie_lifecycle *lifecycle);

/* lifecycle.c: its guest is there; the boot's time is over. */
void kelpie__lifecycle_booted(struct kelpie_lifecycle *lifecycle);

/* lifecycle.c: the one that the configuration asks for. */
enum kelpie_vmm_accelerator kelpie__lifecycle_accelerator(const struct kelpie_monitor *monitor);

/* lifecycle.c: one attempt of a start. */
void kelpie__lifecycle_launch(struct kelpie_lifecycle *lifecycle,
                              enum kelpie_vmm_accelerator accelerator);

/* lifecycle.c: a VMM that a restore made is the VM's from here on; it has none. */
void kelpie__lifecycle_take_machine(struct kelpie_lifecycle *lifecycle, struct kelpie_vmm *vmm,
                                    const struct kelpie_vmm_spec *spec);

/* lifecycle.c: the record says it already; whoever waits is told. */
void kelpie__lifecycle_arrived(struct kelpie_lifecycle *lifecycle, enum kelpie_vm_state next);

/* lifecycle_end.c: the VMM and all that lives in it end, and the VM does not. */
void kelpie__lifecycle_end_machine(struct kelpie_lifecycle *lifecycle,
                                   const struct kelpie_error *why);

/* lifecycle_end.c: Starting -> the state before it. */
void kelpie__lifecycle_start_failed(struct kelpie_lifecycle *lifecycle,
                                    const struct kelpie_error *error);

/* lifecycle_end.c: the VMM has ended. */
void kelpie__lifecycle_ended(struct kelpie_lifecycle *lifecycle, const struct kelpie_vmm_end *end);

/* lifecycle_stop.c: ends the VMM, or the start before there is one. */
void kelpie__lifecycle_kill_now(struct kelpie_lifecycle *lifecycle);

/* lifecycle_stop.c: is_stopping, and the guest runs: asks it to shut down in what is left of the
 * time. */
void kelpie__lifecycle_ask_to_go(struct kelpie_lifecycle *lifecycle);

/* lifecycle_stop.c: STATE when the VM is being stopped or killed, or has lost its agent. */
KELPIE_MUST_CHECK int kelpie__lifecycle_check_ending(const struct kelpie_monitor *monitor,
                                                     const char *operation,
                                                     struct kelpie_error *error);

#endif
