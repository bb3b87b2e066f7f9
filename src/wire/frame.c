/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * See frame.h. Pure functions over bytes.
 */
#include "wire/frame.h"

#define FRAME_CREDIT_PAYLOAD_BYTES 8u

static uint32_t load_u32(const uint8_t *bytes) {
    return (uint32_t)bytes[0] | (uint32_t)bytes[1] << 8 | (uint32_t)bytes[2] << 16 |
           (uint32_t)bytes[3] << 24;
}

static void store_u32(uint8_t *bytes, uint32_t value) {
    for (unsigned i = 0; i < 4; i += 1) {
        bytes[i] = (uint8_t)(value >> (8 * i));
    }
}

uint64_t kelpie__frame_load_u64(const uint8_t *bytes) {
    return (uint64_t)load_u32(bytes) | (uint64_t)load_u32(bytes + 4) << 32;
}

void kelpie__frame_store_u64(uint8_t *bytes, uint64_t value) {
    store_u32(bytes, (uint32_t)value);
    store_u32(bytes + 4, (uint32_t)(value >> 32));
}

static uint32_t frame_check(const uint8_t *bytes) {
    uint32_t check = UINT32_C(0x811c9dc5);
    for (unsigned i = 4; i < KELPIE_FRAME_HEADER_BYTES; i += 1) {
        check = (check ^ bytes[i]) * UINT32_C(0x01000193);
    }
    return check;
}

void kelpie__frame_encode(const struct kelpie_frame *frame,
                          uint8_t out[KELPIE_FRAME_HEADER_BYTES]) {
    KELPIE_ASSERT(frame->length <= KELPIE_FRAME_PAYLOAD_BYTES_MAX);
    KELPIE_ASSERT(frame->type >= KELPIE_FRAME_MESSAGE && frame->type <= KELPIE_FRAME_MARK);
    store_u32(out + 4, frame->length);
    out[8] = (uint8_t)frame->type;
    out[9] = frame->flags;
    out[10] = 0;
    out[11] = 0;
    store_u32(out + 12, frame->stream);
    kelpie__frame_store_u64(out + 16, frame->offset);
    store_u32(out, frame_check(out));
}

static const char *frame_type_rule(const struct kelpie_frame *frame) {
    bool is_data = frame->type == KELPIE_FRAME_DATA;
    if (frame->flags != 0 && !(is_data && frame->flags == KELPIE_FRAME_FLAG_END)) {
        return "R4: unknown flags";
    }
    switch (frame->type) {
    case KELPIE_FRAME_MESSAGE:
        return frame->stream == 0 && frame->offset == 0 && frame->length > 0
                   ? NULL
                   : "R5: a message has stream 0, offset 0 and a text";
    case KELPIE_FRAME_DATA:
        return frame->length > 0 || frame->flags != 0 ? NULL : "R6: data without bytes or end";
    case KELPIE_FRAME_CREDIT:
        return frame->length == FRAME_CREDIT_PAYLOAD_BYTES ? NULL : "R7: credit is 8 bytes";
    case KELPIE_FRAME_STOP:
        return frame->length == 0 && frame->offset == 0 ? NULL : "R8: stop has no bytes";
    case KELPIE_FRAME_MARK:
        return frame->length == KELPIE_MARK_BYTES && frame->stream == 0 && frame->offset == 0
                   ? NULL
                   : "R9: a mark is 16 bytes on stream 0";
    default:
        return "R3: unknown frame type";
    }
}

const char *kelpie__frame_decode(const uint8_t bytes[KELPIE_FRAME_HEADER_BYTES],
                                 struct kelpie_frame *out) {
    if (load_u32(bytes) != frame_check(bytes)) {
        return "R1: a frame's check is wrong";
    }
    struct kelpie_frame frame = {
        .length = load_u32(bytes + 4),
        .type = (enum kelpie_frame_type)bytes[8],
        .flags = bytes[9],
        .stream = load_u32(bytes + 12),
        .offset = kelpie__frame_load_u64(bytes + 16),
    };
    if (frame.length > KELPIE_FRAME_PAYLOAD_BYTES_MAX || bytes[10] != 0 || bytes[11] != 0) {
        return "R2: a frame is longer than 32,768 bytes, or its reserved bytes are not zero";
    }
    const char *rule = frame_type_rule(&frame);
    if (rule == NULL) {
        *out = frame;
    }
    return rule;
}
