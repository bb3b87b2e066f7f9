/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * The end of a text that somebody else writes (QEMU's stderr, a console): bounded memory, and a
 * printable form for error messages. What it holds is hostile; nothing but printable ASCII leaves
 * it.
 */
#ifndef KELPIE_CORE_TAIL_H
#define KELPIE_CORE_TAIL_H

#include <stddef.h>
#include <stdint.h>

#define KELPIE_TAIL_BYTES 1024u

struct kelpie_tail {
    uint64_t total_bytes; /* ever appended */
    char bytes[KELPIE_TAIL_BYTES];
};

void kelpie__tail_append(struct kelpie_tail *tail, const void *bytes, size_t count);

/* Writes the last complete lines that fit, joined by " | ", always terminated; "" when nothing was
 * ever written. */
void kelpie__tail_text(const struct kelpie_tail *tail, char *out, size_t capacity);

#endif
