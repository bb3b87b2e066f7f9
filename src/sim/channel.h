/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Bytes under way: a ring that grows by doubling, and on top of it a queue of segments as Linux's
 * sockets have (one for each write, with the memory it is charged for and the handles that travel
 * with it). All memory is the machine's heap's; what a queue has grown to, it keeps.
 */
#ifndef KELPIE_SIM_CHANNEL_H
#define KELPIE_SIM_CHANNEL_H

#include "sim/machine.h"

#define SIM_BYTES_FIRST 4096u

struct sim_bytes {
    uint8_t *bytes;
    size_t capacity; /* 0 or a power of two */
    size_t first;    /* index of the oldest byte */
    size_t count;
};

/* Room for `count` more; false without memory. */
bool kelpie__sim_bytes_reserve(struct sim_bytes *bytes, struct sim_heap *heap, size_t count);
/* There must be room. */
void kelpie__sim_bytes_put(struct sim_bytes *bytes, const void *from, size_t count);
/* There must be as many; out NULL: they are dropped. */
void kelpie__sim_bytes_take(struct sim_bytes *bytes, void *out, size_t count);
void kelpie__sim_bytes_deinit(struct sim_bytes *bytes, struct sim_heap *heap);

#define SIM_SEGMENT_OBJECTS_MAX 16u

struct sim_segment {
    uint32_t length; /* what is left of it */
    uint32_t charge;
    uint32_t object_count;
    struct sim_object **objects; /* owned, each with a reference; NULL: none */
};

struct sim_channel {
    struct sim_bytes bytes;
    struct sim_segment *segments; /* ring */
    uint32_t segment_capacity;    /* 0 or a power of two */
    uint32_t segment_first;
    uint32_t segment_count;
    uint32_t charge; /* of all segments */
};

/* Appends a segment. False without memory, and nothing is changed. */
bool kelpie__sim_channel_put(struct sim_channel *channel, struct sim_heap *heap, const void *bytes,
                             uint32_t count, uint32_t charge);
/* The references become the last segment's. False without memory. */
bool kelpie__sim_channel_attach(struct sim_channel *channel, struct sim_heap *heap,
                                struct sim_object *const *objects, uint32_t count);
/* The segment that was put last, which has no objects and of which nothing was taken, goes. */
void kelpie__sim_channel_drop_last(struct sim_channel *channel);
/* The oldest; NULL when it is empty. */
struct sim_segment *kelpie__sim_channel_first(struct sim_channel *channel);
/* Takes bytes out of the oldest segment, which goes away with its last byte. Its objects must have
 * been detached. */
void kelpie__sim_channel_take(struct sim_channel *channel, void *out, uint32_t count);
/* Gives up a segment's objects: copies them to `out` (NULL: drops them) and gives their number. */
uint32_t kelpie__sim_segment_detach(struct sim_segment *segment, struct sim_heap *heap,
                                    struct sim_object *out[SIM_SEGMENT_OBJECTS_MAX]);
void kelpie__sim_channel_deinit(struct sim_channel *channel, struct sim_heap *heap);
void kelpie__sim_channel_check(const struct sim_channel *channel);

#endif
