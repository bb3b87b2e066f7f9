/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Pipes as Linux's fs/pipe.c has them: 16 slots of a page each. A write of at most a page goes in
 * whole or not at all; a small one is merged into the last page when all of it fits.
 */
#include <errno.h>
#include <string.h>

#include "sim/heap.h"
#include "sim/stream.h"

#define PIPE_SLOTS 16u
#define PIPE_PAGE_BYTES 4096u

struct pipe_slot {
    uint8_t *page;
    uint32_t offset;
    uint32_t length;
};

/* Lives until both ends are closed. */
struct sim_pipe {
    struct sim_object reader;
    struct sim_object writer;
    bool has_reader;
    bool has_writer;
    struct pipe_slot slots[PIPE_SLOTS]; /* ring */
    uint32_t first;
    uint32_t count;
    uint8_t *spare[PIPE_SLOTS]; /* pages that were in use: a pipe keeps what it has grown to */
    uint32_t spare_count;
};

static struct sim_pipe *pipe_of_reader(struct sim_object *object) {
    return KELPIE_CONTAINER_OF(object, struct sim_pipe, reader);
}

static struct sim_pipe *pipe_of_writer(struct sim_object *object) {
    return KELPIE_CONTAINER_OF(object, struct sim_pipe, writer);
}

static uint32_t pipe_reader_ready(struct sim_object *object) {
    const struct sim_pipe *pipe = pipe_of_reader(object);
    return (pipe->count > 0 ? (uint32_t)KELPIE_OS_READABLE : 0) |
           (pipe->has_writer ? 0 : (uint32_t)KELPIE_OS_HANGUP);
}

static uint32_t pipe_writer_ready(struct sim_object *object) {
    const struct sim_pipe *pipe = pipe_of_writer(object);
    return (pipe->count < PIPE_SLOTS ? (uint32_t)KELPIE_OS_WRITABLE : 0) |
           (pipe->has_reader ? 0 : (uint32_t)KELPIE_OS_HANGUP);
}

/* ---- bytes ----------------------------------------------------------------------------------- */

static uint8_t *pipe_page(struct sim_pipe *pipe) {
    if (pipe->spare_count > 0) {
        pipe->spare_count -= 1;
        return pipe->spare[pipe->spare_count];
    }
    return kelpie__sim_heap_alloc(pipe->reader.machine->heap, PIPE_PAGE_BYTES);
}

/* How many bytes of the beginning went into the last page: those that leave whole pages behind
 * them. */
static size_t pipe_merge(struct sim_pipe *pipe, const uint8_t *bytes, size_t count) {
    size_t odd = count % PIPE_PAGE_BYTES;
    if (odd == 0 || pipe->count == 0) {
        return 0;
    }
    struct pipe_slot *last = &pipe->slots[(pipe->first + pipe->count - 1) % PIPE_SLOTS];
    size_t end = last->offset + last->length;
    KELPIE_ASSERT(end <= PIPE_PAGE_BYTES);
    if (end + odd > PIPE_PAGE_BYTES) {
        return 0;
    }
    memcpy(last->page + end, bytes, odd);
    last->length += (uint32_t)odd;
    return odd;
}

static int64_t pipe_write(struct sim_process *process, struct sim_object *object, const void *bytes,
                          size_t count) {
    struct sim_pipe *pipe = pipe_of_writer(object);
    KELPIE_ASSERT(process->machine == object->machine);
    if (!pipe->has_reader) {
        return -EPIPE;
    }
    bool was_empty = pipe->count == 0;
    size_t done = pipe_merge(pipe, bytes, count);
    bool has_memory = true;
    while (done < count && pipe->count < PIPE_SLOTS && has_memory) {
        struct pipe_slot *slot = &pipe->slots[(pipe->first + pipe->count) % PIPE_SLOTS];
        size_t left = count - done;
        uint32_t piece = left < PIPE_PAGE_BYTES ? (uint32_t)left : PIPE_PAGE_BYTES;
        *slot = (struct pipe_slot){.page = pipe_page(pipe), .length = piece};
        has_memory = slot->page != NULL;
        if (has_memory) {
            memcpy(slot->page, (const uint8_t *)bytes + done, piece);
            pipe->count += 1;
            done += piece;
        }
    }
    if (was_empty && pipe->count > 0) {
        kelpie__sim_object_changed(&pipe->reader);
    }
    return done > 0 ? (int64_t)done : has_memory ? -EAGAIN : -ENOMEM;
}

static int64_t pipe_read(struct sim_process *process, struct sim_object *object, void *out,
                         size_t count) {
    struct sim_pipe *pipe = pipe_of_reader(object);
    KELPIE_ASSERT(process->machine == object->machine);
    bool was_full = pipe->count == PIPE_SLOTS;
    size_t done = 0;
    while (done < count && pipe->count > 0) {
        struct pipe_slot *slot = &pipe->slots[pipe->first];
        size_t left = count - done;
        uint32_t piece = left < slot->length ? (uint32_t)left : slot->length;
        memcpy((uint8_t *)out + done, slot->page + slot->offset, piece);
        slot->offset += piece;
        slot->length -= piece;
        done += piece;
        if (slot->length == 0) {
            KELPIE_ASSERT(pipe->spare_count < PIPE_SLOTS);
            pipe->spare[pipe->spare_count] = slot->page;
            pipe->spare_count += 1;
            pipe->first = (pipe->first + 1) % PIPE_SLOTS;
            pipe->count -= 1;
        }
    }
    if (was_full && pipe->count < PIPE_SLOTS && pipe->has_writer) {
        kelpie__sim_object_changed(&pipe->writer);
    }
    return done > 0 ? (int64_t)done : pipe->has_writer ? -EAGAIN : 0;
}

/* ---- life ------------------------------------------------------------------------------------ */

static void pipe_free(struct sim_pipe *pipe) {
    struct sim_heap *heap = pipe->reader.machine->heap;
    KELPIE_ASSERT(!pipe->has_reader && !pipe->has_writer);
    KELPIE_ASSERT(pipe->count + pipe->spare_count <= PIPE_SLOTS);
    for (uint32_t i = 0; i < pipe->count; i += 1) {
        kelpie__sim_heap_free(heap, pipe->slots[(pipe->first + i) % PIPE_SLOTS].page,
                              PIPE_PAGE_BYTES);
    }
    for (uint32_t i = 0; i < pipe->spare_count; i += 1) {
        kelpie__sim_heap_free(heap, pipe->spare[i], PIPE_PAGE_BYTES);
    }
    kelpie__sim_heap_free(heap, pipe, sizeof(*pipe));
}

static void pipe_close_reader(struct sim_object *object) {
    struct sim_pipe *pipe = pipe_of_reader(object);
    KELPIE_ASSERT(pipe->has_reader);
    pipe->has_reader = false;
    if (pipe->has_writer) {
        kelpie__sim_object_changed(&pipe->writer);
    } else {
        pipe_free(pipe);
    }
}

static void pipe_close_writer(struct sim_object *object) {
    struct sim_pipe *pipe = pipe_of_writer(object);
    KELPIE_ASSERT(pipe->has_writer);
    pipe->has_writer = false;
    if (pipe->has_reader) {
        kelpie__sim_object_changed(&pipe->reader);
    } else {
        pipe_free(pipe);
    }
}

static const struct sim_object_operations pipe_reader_operations = {
    .kind = "pipe",
    .ready = pipe_reader_ready,
    .read = pipe_read,
    .close = pipe_close_reader,
};

static const struct sim_object_operations pipe_writer_operations = {
    .kind = "pipe",
    .ready = pipe_writer_ready,
    .write = pipe_write,
    .close = pipe_close_writer,
};

int kelpie__sim_pipe_create(struct sim_machine *machine, struct sim_object *out[2]) {
    struct sim_pipe *pipe = kelpie__sim_heap_alloc(machine->heap, sizeof(*pipe));
    if (pipe == NULL) {
        return -ENOMEM;
    }
    kelpie__sim_object_init(&pipe->reader, machine, &pipe_reader_operations);
    kelpie__sim_object_init(&pipe->writer, machine, &pipe_writer_operations);
    pipe->has_reader = true;
    pipe->has_writer = true;
    out[0] = &pipe->reader;
    out[1] = &pipe->writer;
    KELPIE_ASSERT(pipe->count == 0);
    return 0;
}
