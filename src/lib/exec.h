/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * What the files about commands share.
 */
#ifndef KELPIE_LIB_EXEC_H
#define KELPIE_LIB_EXEC_H

#include "lib/internal.h"

/* credit of a stream, and the most that waits for its reader */
#define KELPIE_LIB_OUTPUT_BYTES (256u * 1024u)

static_assert(KELPIE_LIB_OUTPUT_BYTES >= KELPIE_STREAM_CREDIT_INITIAL_BYTES,
              "what a monitor may send before it is given credit has room");
static_assert(KELPIE_STREAM_STDOUT + 1 == KELPIE_STREAM_STDERR, "outputs are numbered in turn");

/* What holds of a command's handle until it is destroyed. */
void kelpie__exec_handle_check(const struct kelpie_exec *exec);
/* Makes one on the next channel, held, in Starting. */
KELPIE_MUST_CHECK int kelpie__exec_create(struct kelpie_vm *vm,
                                          const struct kelpie_exec_callbacks *callbacks,
                                          void *context, uint64_t stdout_offset,
                                          uint64_t stderr_offset, struct kelpie_exec **out,
                                          struct kelpie_error *error);
/* Most commands are given none, and no memory for it. */
KELPIE_MUST_CHECK int kelpie__exec_open_stdin(struct kelpie_exec *exec, struct kelpie_error *error);
/* Unlinks it; freed now, or when its callback has returned. Nothing is said to the monitor. */
void kelpie__exec_destroy(struct kelpie_exec *exec);
/* After a callback: frees what was destroyed inside it. */
void kelpie__exec_leave(struct kelpie_exec *exec);

/* From its start on; without effect for a command without a timeout. */
void kelpie__exec_arm_backstop(struct kelpie_exec *exec);

/* By channel; NULL: closed here, or never opened. */
struct kelpie_exec *kelpie__exec_find(struct kelpie_vm *vm, uint64_t channel);

/* Moves what waits: arguments and stdin to the wire. */
void kelpie__exec_pump(struct kelpie_exec *exec);

#endif
