/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * What the fake VMM can do wrong, and what has to be said about it. The lie is chosen by the VM's
 * name: "lie-" and the lie's name; any other name gets an honest guest.
 */
#ifndef KELPIE_TESTS_LIES_H
#define KELPIE_TESTS_LIES_H

#include <stdint.h>

#define LIE_PREFIX "lie-"

/* Frames that break a rule by themselves, whenever they come and on either hop. */
struct lie_frame {
    const char *name;
    const char *rule;
    uint8_t type;
    uint8_t flags;
    uint16_t reserved;
    uint32_t stream;
    uint64_t offset;
    uint32_t length; /* of the payload, as the header says it */
    const char *payload;
};

#define LIE_TEXT(text) sizeof(text) - 1, text
#define LIE_PAYLOAD(text) .length = sizeof(text) - 1, .payload = text

static const struct lie_frame lie_frames[] = {
    {"length", "R2", 1, 0, 0, 0, 0, 40000, ""},
    {"length-huge", "R2", 2, 0, 0, 4, 0, UINT32_MAX, ""},
    {"reserved", "R2", 1, 0, 1, 0, 0, LIE_TEXT("{}")},
    {"type-0", "R3", 0, 0, 0, 0, 0, LIE_TEXT("{}")},
    {"type-6", "R3", 6, 0, 0, 0, 0, LIE_TEXT("{}")},
    {"flags", "R4", 2, 3, 0, 4, 0, LIE_TEXT("x")},
    {"message-stream", "R5", 1, 0, 0, 4, 0, LIE_TEXT("{}")},
    {"message-empty", "R5", 1, 0, 0, 0, 0, 0, ""},
    {"data-empty", "R6", 2, 0, 0, 4, 0, 0, ""},
    {"credit-short", "R7", 3, 0, 0, 4, 0, LIE_TEXT("1234")},
    {"stop-long", "R8", 4, 0, 0, 4, 0, LIE_TEXT("1")},
    {"mark-short", "R9", 5, 0, 0, 0, 0, LIE_TEXT("1")},
    {"no-json", "R10", 1, 0, 0, 0, 0, LIE_TEXT("{")},
    {"deep", "R10", 1, 0, 0, 0, 0,
     LIE_TEXT("{\"jsonrpc\":\"2.0\",\"method\":\"x\",\"params\":{\"a\":"
              "[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]}}")},
    {"no-version", "R10", 1, 0, 0, 0, 0, LIE_TEXT("{\"method\":\"x\"}")},
    {"id-text", "R10", 1, 0, 0, 0, 0,
     LIE_TEXT("{\"jsonrpc\":\"2.0\",\"id\":\"1\",\"method\":\"x\"}")},
    {"params-array", "R11", 1, 0, 0, 0, 0,
     LIE_TEXT("{\"jsonrpc\":\"2.0\",\"method\":\"x\",\"params\":[]}")},
    {"answer-unasked", "R12", 1, 0, 0, 0, 0,
     LIE_TEXT("{\"jsonrpc\":\"2.0\",\"id\":4711,\"result\":{}}")},
};

#define LIE_FRAME_COUNT (sizeof(lie_frames) / sizeof(lie_frames[0]))

/* The header of a frame, right check included, whatever it says. */
static inline void lie_encode(const struct lie_frame *frame, uint8_t out[24]) {
    const uint64_t fields[][2] = {{frame->length, 4},   {frame->type, 1},   {frame->flags, 1},
                                  {frame->reserved, 2}, {frame->stream, 4}, {frame->offset, 8}};
    unsigned at = 4;
    for (unsigned field = 0; field < sizeof(fields) / sizeof(fields[0]); field += 1) {
        for (unsigned i = 0; i < fields[field][1]; i += 1) {
            out[at] = (uint8_t)(fields[field][0] >> (8 * i));
            at += 1;
        }
    }
    uint32_t check = UINT32_C(0x811c9dc5);
    for (unsigned i = 4; i < 24; i += 1) {
        check = (check ^ out[i]) * UINT32_C(0x01000193);
    }
    for (unsigned i = 0; i < 4; i += 1) {
        out[i] = (uint8_t)(check >> (8 * i));
    }
}

#endif
