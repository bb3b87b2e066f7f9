/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * See qemu_credit.h. Frames are followed as they were meant: before a fault spoils what the guest
 * has sent.
 */
#include "sim/qemu_credit.h"

#include <string.h>

#include "core/limits.h"
#include "sim/truth.h"
#include "wire/frame.h"

#define CREDIT_LIMIT_BYTES sizeof(uint64_t)

static struct sim_credit_stream *stream_of(struct sim_credit *credit, bool is_out, uint32_t stream,
                                           uint64_t offset) {
    struct sim_credit_stream *free_one = NULL;
    for (uint32_t i = 0; i < SIM_CREDIT_STREAM_MAX; i += 1) {
        struct sim_credit_stream *one = &credit->streams[i];
        if (one->is_used && one->is_out == is_out && one->stream == stream) {
            return one;
        }
        free_one = free_one == NULL && !one->is_used ? one : free_one;
    }
    if (free_one != NULL) {
        *free_one =
            (struct sim_credit_stream){.is_used = true,
                                       .is_out = is_out,
                                       .stream = stream,
                                       .limit = offset + KELPIE_STREAM_CREDIT_INITIAL_BYTES};
    }
    return free_one; /* NULL: there are many, and this one is not followed */
}

static void data_seen(struct sim_credit *credit, struct sim_world *world, bool is_out,
                      const struct kelpie_frame *frame) {
    struct sim_credit_stream *stream = stream_of(credit, is_out, frame->stream, frame->offset);
    if (stream == NULL) {
        return;
    }
    uint64_t end = frame->offset + frame->length;
    if (end > stream->limit && !kelpie__sim_truth_has_lied(world)) {
        kelpie__sim_world_fail(world,
                               "invariant 25: the %s sends byte %llu of stream %u, and has credit "
                               "up to %llu",
                               is_out ? "agent" : "monitor", (unsigned long long)end, frame->stream,
                               (unsigned long long)stream->limit);
    }
    if ((frame->flags & KELPIE_FRAME_FLAG_END) != 0) {
        stream->is_used = false;
    }
}

/* Whoever grants it keeps the bytes until the next one takes them. */
static void credit_seen(struct sim_credit *credit, struct sim_world *world, bool is_out,
                        const struct kelpie_frame *frame, uint64_t limit) {
    struct sim_credit_stream *stream = stream_of(credit, !is_out, frame->stream, 0);
    uint64_t window = is_out ? KELPIE_EXEC_STREAM_BYTES : KELPIE_EXEC_OUTPUT_BYTES;
    if (stream == NULL) {
        return;
    }
    /* After a resumption what was granted before may stand beyond the window. */
    bool is_much = limit > frame->offset + window + KELPIE_STREAM_CREDIT_INITIAL_BYTES;
    if (is_much && !kelpie__sim_truth_has_lied(world)) {
        kelpie__sim_world_fail(world,
                               "invariant 25: the %s has taken %llu bytes of stream %u, and grants "
                               "up to %llu: it may have to keep more than %llu",
                               is_out ? "agent" : "monitor", (unsigned long long)frame->offset,
                               frame->stream, (unsigned long long)limit,
                               (unsigned long long)window);
    }
    stream->limit = kelpie__max_u64(stream->limit, limit);
}

static void frame_seen(struct sim_credit *credit, struct sim_world *world, bool is_out,
                       struct sim_credit_parser *parser) {
    struct kelpie_frame frame;
    if (kelpie__frame_decode(parser->header, &frame) != NULL) {
        parser->is_lost = true;
        return;
    }
    KELPIE_ASSERT(frame.length <= KELPIE_FRAME_PAYLOAD_BYTES_MAX);
    parser->payload_bytes = frame.length;
    if (frame.type == KELPIE_FRAME_DATA) {
        data_seen(credit, world, is_out, &frame);
    } else if (frame.type == KELPIE_FRAME_CREDIT && frame.length == CREDIT_LIMIT_BYTES) {
        parser->credit = frame;
        parser->is_credit = true;
    }
}

/* Gives how many of the bytes it took: at least one. */
static size_t parse(struct sim_credit *credit, struct sim_world *world, bool is_out,
                    const uint8_t *bytes, size_t count) {
    struct sim_credit_parser *parser = &credit->parsers[is_out ? 1 : 0];
    bool is_header = parser->payload_bytes == 0;
    size_t wanted =
        is_header ? sizeof(parser->header) - parser->header_count : parser->payload_bytes;
    size_t taken = count < wanted ? count : wanted;
    if (is_header) {
        memcpy(parser->header + parser->header_count, bytes, taken);
        parser->header_count += (uint32_t)taken;
        if (parser->header_count == sizeof(parser->header)) {
            parser->header_count = 0;
            frame_seen(credit, world, is_out, parser);
        }
        return taken;
    }
    if (parser->is_credit) {
        size_t at = CREDIT_LIMIT_BYTES - parser->payload_bytes;
        memcpy(parser->limit + at, bytes, taken);
    }
    parser->payload_bytes -= (uint32_t)taken;
    if (parser->is_credit && parser->payload_bytes == 0) {
        parser->is_credit = false;
        credit_seen(credit, world, is_out, &parser->credit, kelpie__frame_load_u64(parser->limit));
    }
    return taken;
}

void kelpie__sim_credit_look(struct sim_credit *credit, struct sim_world *world, bool is_out,
                             const void *bytes, size_t count) {
    size_t at = 0;
    KELPIE_ASSERT(bytes != NULL);
    while (at < count && !credit->parsers[is_out ? 1 : 0].is_lost) { /* bound: the bytes */
        at += parse(credit, world, is_out, (const uint8_t *)bytes + at, count - at);
    }
}
