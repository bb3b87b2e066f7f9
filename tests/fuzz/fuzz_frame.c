/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Any 24 bytes as a frame's header, as they are and with the right check. What is accepted is
 * within the limits and encodes to the same bytes; what is refused has a rule.
 */
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "core/limits.h"
#include "wire/frame.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void set_check(uint8_t *bytes) {
    uint32_t check = UINT32_C(0x811c9dc5);
    for (unsigned i = 4; i < KELPIE_FRAME_HEADER_BYTES; i += 1) {
        check = (check ^ bytes[i]) * UINT32_C(0x01000193);
    }
    for (unsigned i = 0; i < 4; i += 1) {
        bytes[i] = (uint8_t)(check >> (8 * i));
    }
}

static void check_header(const uint8_t bytes[KELPIE_FRAME_HEADER_BYTES], bool is_check_right) {
    struct kelpie_frame frame;
    uint8_t again[KELPIE_FRAME_HEADER_BYTES];
    const char *rule = kelpie__frame_decode(bytes, &frame);
    if (rule != NULL) {
        KELPIE_ASSERT(rule[0] == 'R' && strstr(rule, ": ") != NULL);
        KELPIE_ASSERT(!is_check_right || strncmp(rule, "R1:", 3) != 0);
        return;
    }
    KELPIE_ASSERT(frame.length <= KELPIE_FRAME_PAYLOAD_BYTES_MAX);
    kelpie__frame_encode(&frame, again);
    KELPIE_ASSERT(memcmp(bytes, again, sizeof(again)) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    uint8_t bytes[KELPIE_FRAME_HEADER_BYTES];
    for (size_t at = 0; at + sizeof(bytes) <= size; at += sizeof(bytes)) {
        memcpy(bytes, data + at, sizeof(bytes));
        check_header(bytes, false);
        set_check(bytes);
        check_header(bytes, true);
    }
    return 0;
}
