/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Frames: 24 bytes of header, little-endian, then the payload.
 *     0 check u32 | 4 length u32 | 8 type u8 | 9 flags u8 | 10 zero u16 | 12 stream u32 | 16 offset
 * u64 `check` is FNV-1a (32 bits) of bytes 4 to 23: it tells a torn or displaced frame from a real
 * one.
 */
#ifndef KELPIE_WIRE_FRAME_H
#define KELPIE_WIRE_FRAME_H

#include "core/base.h"
#include "core/limits.h"

enum kelpie_frame_type {
    KELPIE_FRAME_MESSAGE = 1, /* one JSON-RPC 2.0 text */
    KELPIE_FRAME_DATA = 2,    /* bytes of a stream at an offset */
    KELPIE_FRAME_CREDIT = 3,  /* offset: acknowledged; payload: u64, the limit */
    KELPIE_FRAME_STOP = 4,    /* the receiver reads this stream no further */
    KELPIE_FRAME_MARK = 5,    /* 16 bytes */
};

#define KELPIE_FRAME_FLAG_END 1u /* of DATA: the stream ends after these bytes */

struct kelpie_frame {
    enum kelpie_frame_type type;
    uint8_t flags;
    uint32_t length;
    uint32_t stream;
    uint64_t offset;
};

void kelpie__frame_encode(const struct kelpie_frame *frame, uint8_t out[KELPIE_FRAME_HEADER_BYTES]);

/* NULL: *out is the frame, every rule about headers holds. Else the rule that is broken, a static
 * text "R2: ...". */
KELPIE_MUST_CHECK const char *kelpie__frame_decode(const uint8_t bytes[KELPIE_FRAME_HEADER_BYTES],
                                                   struct kelpie_frame *out);

uint64_t kelpie__frame_load_u64(const uint8_t *bytes);
void kelpie__frame_store_u64(uint8_t *bytes, uint64_t value);

#endif
