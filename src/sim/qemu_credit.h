/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Invariant 25, of what passes between a monitor and its guest's agent: nobody sends more than it
 * has credit for, and nobody grants more than it is to keep. So what either has buffered of a
 * stream is within its credit, whatever it says itself. Of guests that were booted: what one that
 * was saved had been granted, nobody has seen.
 */
#ifndef KELPIE_SIM_QEMU_CREDIT_H
#define KELPIE_SIM_QEMU_CREDIT_H

#include "core/base.h"
#include "core/limits.h"
#include "wire/frame.h"

#define SIM_CREDIT_STREAM_MAX 64u

struct sim_world;

struct sim_credit_stream {
    bool is_used;
    bool is_out; /* from the guest */
    uint32_t stream;
    uint64_t limit;
};

struct sim_credit_parser {
    uint8_t header[KELPIE_FRAME_HEADER_BYTES];
    uint32_t header_count;
    uint32_t payload_bytes; /* still to come */
    bool is_credit;         /* and they are the limit of this: */
    struct kelpie_frame credit;
    uint8_t limit[sizeof(uint64_t)];
    bool is_lost; /* these are no frames: nothing more is said of them */
};

struct sim_credit {
    struct sim_credit_parser parsers[2]; /* to the guest, from it */
    struct sim_credit_stream streams[SIM_CREDIT_STREAM_MAX];
};

/* The next bytes, in the order in which they were sent. What is wrong fails the world. */
void kelpie__sim_credit_look(struct sim_credit *credit, struct sim_world *world, bool is_out,
                             const void *bytes, size_t count);

#endif
