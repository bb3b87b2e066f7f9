/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * See channel.h.
 */
#include "sim/channel.h"

#include <string.h>

#include "sim/heap.h"

#define CHANNEL_SEGMENTS_FIRST 16u

/* ---- bytes ----------------------------------------------------------------------------------- */

bool kelpie__sim_bytes_reserve(struct sim_bytes *bytes, struct sim_heap *heap, size_t count) {
    size_t wanted = bytes->count + count;
    KELPIE_ASSERT(wanted >= count);
    if (wanted <= bytes->capacity) {
        return true;
    }
    size_t capacity = bytes->capacity == 0 ? SIM_BYTES_FIRST : bytes->capacity;
    while (capacity < wanted) { /* bound: doubles */
        capacity *= 2;
    }
    uint8_t *grown = kelpie__sim_heap_alloc_raw(heap, capacity);
    if (grown == NULL) {
        return false;
    }
    size_t left = bytes->count;
    kelpie__sim_bytes_take(bytes, grown, left);
    kelpie__sim_heap_free(heap, bytes->bytes, bytes->capacity);
    *bytes = (struct sim_bytes){.bytes = grown, .capacity = capacity, .count = left};
    KELPIE_ASSERT(bytes->capacity - bytes->count >= count);
    return true;
}

void kelpie__sim_bytes_put(struct sim_bytes *bytes, const void *from, size_t count) {
    KELPIE_ASSERT(count <= bytes->capacity - bytes->count);
    if (count == 0) {
        return;
    }
    size_t end = (bytes->first + bytes->count) & (bytes->capacity - 1);
    size_t straight = bytes->capacity - end;
    straight = straight < count ? straight : count;
    memcpy(bytes->bytes + end, from, straight);
    memcpy(bytes->bytes, (const uint8_t *)from + straight, count - straight);
    bytes->count += count;
}

void kelpie__sim_bytes_take(struct sim_bytes *bytes, void *out, size_t count) {
    KELPIE_ASSERT(count <= bytes->count);
    if (count == 0) {
        return;
    }
    if (out != NULL) {
        size_t straight = bytes->capacity - bytes->first;
        straight = straight < count ? straight : count;
        memcpy(out, bytes->bytes + bytes->first, straight);
        memcpy((uint8_t *)out + straight, bytes->bytes, count - straight);
    }
    bytes->count -= count;
    /* From the start again when empty: a queue that is kept short stays in few cache lines. */
    bytes->first = bytes->count == 0 ? 0 : (bytes->first + count) & (bytes->capacity - 1);
}

void kelpie__sim_bytes_deinit(struct sim_bytes *bytes, struct sim_heap *heap) {
    KELPIE_ASSERT(bytes->count <= bytes->capacity);
    kelpie__sim_heap_free(heap, bytes->bytes, bytes->capacity);
    *bytes = (struct sim_bytes){0};
}

/* ---- segments -------------------------------------------------------------------------------- */

static struct sim_segment *channel_at(struct sim_channel *channel, uint32_t index) {
    KELPIE_ASSERT(index < channel->segment_count);
    uint32_t mask = channel->segment_capacity - 1;
    return &channel->segments[(channel->segment_first + index) & mask];
}

static bool channel_grow(struct sim_channel *channel, struct sim_heap *heap) {
    uint32_t before = channel->segment_capacity;
    uint32_t capacity = before == 0 ? CHANNEL_SEGMENTS_FIRST : before * 2;
    struct sim_segment *grown = kelpie__sim_heap_alloc(heap, capacity * sizeof(*grown));
    if (grown == NULL) {
        return false;
    }
    for (uint32_t i = 0; i < channel->segment_count; i += 1) {
        grown[i] = *channel_at(channel, i);
    }
    kelpie__sim_heap_free(heap, channel->segments, before * sizeof(*grown));
    channel->segments = grown;
    channel->segment_capacity = capacity;
    channel->segment_first = 0;
    KELPIE_ASSERT(channel->segment_count < capacity);
    return true;
}

bool kelpie__sim_channel_put(struct sim_channel *channel, struct sim_heap *heap, const void *bytes,
                             uint32_t count, uint32_t charge) {
    KELPIE_ASSERT(channel->charge + charge >= charge);
    if (!kelpie__sim_bytes_reserve(&channel->bytes, heap, count)) {
        return false;
    }
    if (channel->segment_count == channel->segment_capacity && !channel_grow(channel, heap)) {
        return false;
    }
    kelpie__sim_bytes_put(&channel->bytes, bytes, count);
    channel->segment_count += 1;
    *channel_at(channel, channel->segment_count - 1) =
        (struct sim_segment){.length = count, .charge = charge};
    channel->charge += charge;
    return true;
}

bool kelpie__sim_channel_attach(struct sim_channel *channel, struct sim_heap *heap,
                                struct sim_object *const *objects, uint32_t count) {
    KELPIE_ASSERT(count > 0 && count <= SIM_SEGMENT_OBJECTS_MAX);
    struct sim_segment *segment = channel_at(channel, channel->segment_count - 1);
    KELPIE_ASSERT(segment->objects == NULL);
    segment->objects = kelpie__sim_heap_alloc(heap, count * sizeof(*segment->objects));
    if (segment->objects == NULL) {
        return false;
    }
    memcpy(segment->objects, objects, count * sizeof(*segment->objects));
    segment->object_count = count;
    return true;
}

void kelpie__sim_channel_drop_last(struct sim_channel *channel) {
    struct sim_segment *segment = channel_at(channel, channel->segment_count - 1);
    KELPIE_ASSERT(segment->objects == NULL);
    KELPIE_ASSERT(segment->length <= channel->bytes.count);
    channel->bytes.count -= segment->length;
    channel->charge -= segment->charge;
    channel->segment_count -= 1;
}

struct sim_segment *kelpie__sim_channel_first(struct sim_channel *channel) {
    return channel->segment_count == 0 ? NULL : channel_at(channel, 0);
}

void kelpie__sim_channel_take(struct sim_channel *channel, void *out, uint32_t count) {
    struct sim_segment *segment = channel_at(channel, 0);
    KELPIE_ASSERT(segment->objects == NULL);
    KELPIE_ASSERT(count <= segment->length);
    kelpie__sim_bytes_take(&channel->bytes, out, count);
    segment->length -= count;
    if (segment->length == 0) {
        channel->charge -= segment->charge;
        channel->segment_count -= 1;
        channel->segment_first = channel->segment_count == 0 ? 0 : channel->segment_first + 1;
    }
}

uint32_t kelpie__sim_segment_detach(struct sim_segment *segment, struct sim_heap *heap,
                                    struct sim_object *out[SIM_SEGMENT_OBJECTS_MAX]) {
    struct sim_object **objects = segment->objects;
    uint32_t count = segment->object_count;
    KELPIE_ASSERT((objects == NULL) == (count == 0));
    KELPIE_ASSERT(count <= SIM_SEGMENT_OBJECTS_MAX);
    segment->objects = NULL;
    segment->object_count = 0;
    for (uint32_t i = 0; i < count; i += 1) {
        if (out != NULL) {
            out[i] = objects[i];
        } else {
            kelpie__sim_object_unref(objects[i]);
        }
    }
    kelpie__sim_heap_free(heap, objects, count * sizeof(*objects));
    return count;
}

void kelpie__sim_channel_deinit(struct sim_channel *channel, struct sim_heap *heap) {
    for (uint32_t i = 0; i < channel->segment_count; i += 1) {
        kelpie__ignore(kelpie__sim_segment_detach(channel_at(channel, i), heap, NULL));
    }
    kelpie__sim_heap_free(heap, channel->segments,
                          channel->segment_capacity * sizeof(*channel->segments));
    kelpie__sim_bytes_deinit(&channel->bytes, heap);
    *channel = (struct sim_channel){0};
}

void kelpie__sim_channel_check(const struct sim_channel *channel) {
    uint64_t length = 0;
    uint64_t charge = 0;
    KELPIE_ASSERT(channel->segment_count <= channel->segment_capacity);
    KELPIE_ASSERT(channel->bytes.count <= channel->bytes.capacity);
    for (uint32_t i = 0; i < channel->segment_count; i += 1) {
        uint32_t mask = channel->segment_capacity - 1;
        length += channel->segments[(channel->segment_first + i) & mask].length;
        charge += channel->segments[(channel->segment_first + i) & mask].charge;
    }
    KELPIE_ASSERT(length == channel->bytes.count);
    KELPIE_ASSERT(charge == channel->charge);
}
