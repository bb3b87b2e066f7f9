/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Unix streams as Linux's net/unix/af_unix.c has them: a write becomes segments in the peer's
 * queue, each charged to the sender for the memory that it takes; more is taken while the charge is
 * below the buffer's size, and the sender counts as writable below a quarter of it. Handles travel
 * with the first segment of their message, and a read ends after the segment that brought some.
 */
#include "sim/stream.h"

#include <errno.h>
#include <string.h>

#include "sim/channel.h"
#include "sim/heap.h"

#define STREAM_BUFFER_BYTES 212992u  /* net.core.wmem_default */
#define STREAM_HEAD_BYTES 3776u      /* SKB_MAX_HEAD(0) */
#define STREAM_FRAGMENT_BYTES 32768u /* UNIX_SKB_FRAGS_SZ */
#define STREAM_SEGMENT_BYTES (STREAM_HEAD_BYTES + STREAM_FRAGMENT_BYTES)
#define STREAM_SEGMENT_OVERHEAD 256u /* struct sk_buff */
#define STREAM_SHARED_INFO 320u      /* struct skb_shared_info */
#define STREAM_PAGE_BYTES 4096u

struct sim_socket {
    struct sim_object object;
    struct sim_socket *other; /* borrowed; NULL: it was never there, or is closed */
    struct sim_channel input;
    struct kelpie_os_peer peer;
    bool is_read_shut;
    bool is_write_shut;
    bool has_reset;    /* a pending ECONNRESET: told once */
    uint64_t answered; /* see kelpie__sim_stream_answer */
};

static struct sim_socket *stream_of(struct sim_object *object) {
    return KELPIE_CONTAINER_OF(object, struct sim_socket, object);
}

static bool stream_is_writable(const struct sim_socket *stream) {
    return stream->other == NULL || stream->other->input.charge * 4 <= STREAM_BUFFER_BYTES;
}

static uint32_t stream_ready(struct sim_object *object) {
    const struct sim_socket *stream = stream_of(object);
    uint32_t bits = 0;
    if (stream->input.segment_count > 0 || stream->is_read_shut) {
        bits |= KELPIE_OS_READABLE;
    }
    if (stream_is_writable(stream)) {
        bits |= KELPIE_OS_WRITABLE;
    }
    if (stream->has_reset || (stream->is_read_shut && stream->is_write_shut)) {
        bits |= KELPIE_OS_HANGUP;
    }
    return bits;
}

/* What a segment of so many bytes takes: the head in a block of the kernel's sizes, the rest in
 * pages. */
static uint32_t stream_charge(uint32_t count) {
    uint32_t paged = count > STREAM_HEAD_BYTES ? count - STREAM_HEAD_BYTES : 0;
    paged = (paged + STREAM_PAGE_BYTES - 1) / STREAM_PAGE_BYTES * STREAM_PAGE_BYTES;
    uint32_t head = (count > paged ? count - paged : 0) + STREAM_SHARED_INFO;
    uint32_t block = 512;
    while (block < head) { /* bound: doubles */
        block *= 2;
    }
    return STREAM_SEGMENT_OVERHEAD + block + paged;
}

/* ---- writing --------------------------------------------------------------------------------- */

static int64_t stream_put(struct sim_socket *stream, const void *bytes, size_t count,
                          struct sim_object *const *objects, uint32_t object_count) {
    struct sim_socket *other = stream->other;
    if (stream->is_write_shut) {
        return -EPIPE;
    }
    if (other == NULL) {
        return -ENOTCONN;
    }
    struct sim_heap *heap = stream->object.machine->heap;
    bool was_empty = other->input.segment_count == 0;
    size_t done = 0;
    while (done < count && other->input.charge < STREAM_BUFFER_BYTES) {
        size_t left = count - done;
        uint32_t piece = left < STREAM_SEGMENT_BYTES ? (uint32_t)left : STREAM_SEGMENT_BYTES;
        if (!kelpie__sim_channel_put(&other->input, heap, (const uint8_t *)bytes + done, piece,
                                     stream_charge(piece))) {
            break;
        }
        if (done == 0 && object_count > 0 &&
            !kelpie__sim_channel_attach(&other->input, heap, objects, object_count)) {
            kelpie__sim_channel_drop_last(&other->input);
            break;
        }
        done += piece;
    }
    if (done == 0) {
        return other->input.charge < STREAM_BUFFER_BYTES ? -ENOBUFS : -EAGAIN;
    }
    if (was_empty) {
        kelpie__sim_object_changed(&other->object);
    }
    KELPIE_ASSERT(done <= count);
    return (int64_t)done;
}

static int64_t stream_write(struct sim_process *process, struct sim_object *object,
                            const void *bytes, size_t count) {
    KELPIE_ASSERT(process->machine == object->machine);
    return stream_put(stream_of(object), bytes, count, NULL, 0);
}

static int64_t stream_send(struct sim_process *process, struct sim_object *object,
                           const void *bytes, size_t count, const int *handles, uint32_t n) {
    struct sim_object *objects[SIM_SEGMENT_OBJECTS_MAX] = {NULL};
    KELPIE_ASSERT(process->machine == object->machine);
    KELPIE_ASSERT(n <= SIM_SEGMENT_OBJECTS_MAX);
    for (uint32_t i = 0; i < n; i += 1) {
        objects[i] = kelpie__sim_handle_object(process, handles[i]);
        if (objects[i] == NULL) {
            return -EBADF;
        }
    }
    for (uint32_t i = 0; i < n; i += 1) {
        kelpie__sim_object_ref(objects[i]);
    }
    int64_t sent = stream_put(stream_of(object), bytes, count, objects, n);
    for (uint32_t i = 0; i < n && sent < 0; i += 1) {
        kelpie__sim_object_unref(objects[i]);
    }
    return sent;
}

/* ---- reading --------------------------------------------------------------------------------- */

/* Objects that are found are given to `out_objects`; the read ends after their segment. */
static int64_t stream_take(struct sim_socket *stream, void *out, size_t count,
                           struct sim_object **out_objects, uint32_t *out_object_count) {
    struct sim_heap *heap = stream->object.machine->heap;
    bool was_writable = stream->other == NULL || stream_is_writable(stream->other);
    size_t done = 0;
    *out_object_count = 0;
    /* bound: the segments */
    while (done < count && stream->input.segment_count > 0 && *out_object_count == 0) {
        struct sim_segment *segment = kelpie__sim_channel_first(&stream->input);
        size_t left = count - done;
        uint32_t piece = left < segment->length ? (uint32_t)left : segment->length;
        if (segment->objects != NULL) {
            *out_object_count = kelpie__sim_segment_detach(segment, heap, out_objects);
        }
        kelpie__sim_channel_take(&stream->input, (uint8_t *)out + done, piece);
        done += piece;
    }
    if (!was_writable && stream->other != NULL && stream_is_writable(stream->other)) {
        kelpie__sim_object_changed(&stream->other->object);
    }
    if (done > 0) {
        return (int64_t)done;
    }
    if (stream->has_reset) {
        stream->has_reset = false;
        return -ECONNRESET;
    }
    if (stream->is_read_shut) {
        return 0;
    }
    return stream->other == NULL ? -EINVAL : -EAGAIN;
}

static int64_t stream_read(struct sim_process *process, struct sim_object *object, void *out,
                           size_t count) {
    uint32_t dropped = 0;
    KELPIE_ASSERT(process->machine == object->machine);
    return stream_take(stream_of(object), out, count, NULL, &dropped);
}

/* Handles for which there is no room, with the caller or in its table, are closed. */
static int64_t stream_receive(struct sim_process *process, struct sim_object *object, void *out,
                              size_t count, int *handles, uint32_t *inout_n) {
    struct sim_object *objects[SIM_SEGMENT_OBJECTS_MAX] = {NULL};
    uint32_t object_count = 0;
    uint32_t room = *inout_n;
    KELPIE_ASSERT(process->machine == object->machine);
    *inout_n = 0;
    int64_t got = stream_take(stream_of(object), out, count, objects, &object_count);
    for (uint32_t i = 0; i < object_count; i += 1) {
        int handle = *inout_n < room ? kelpie__sim_handle_install(process, objects[i]) : -EMFILE;
        if (handle >= 0) {
            handles[*inout_n] = handle;
            *inout_n += 1;
        }
        kelpie__sim_object_unref(objects[i]);
    }
    return got;
}

/* ---- life ------------------------------------------------------------------------------------ */

static void stream_close(struct sim_object *object) {
    struct sim_socket *stream = stream_of(object);
    struct sim_socket *other = stream->other;
    struct sim_heap *heap = object->machine->heap;
    KELPIE_ASSERT(object->references == 0);
    if (other != NULL) {
        KELPIE_ASSERT(other->other == stream);
        other->other = NULL;
        other->is_read_shut = true;
        other->is_write_shut = true;
        other->has_reset = other->has_reset || stream->input.segment_count > 0;
        kelpie__sim_object_changed(&other->object);
    }
    kelpie__sim_channel_deinit(&stream->input, heap);
    kelpie__sim_heap_free(heap, stream, sizeof(*stream));
}

static const struct sim_object_operations stream_operations = {
    .kind = "stream",
    .ready = stream_ready,
    .read = stream_read,
    .write = stream_write,
    .send = stream_send,
    .receive = stream_receive,
    .close = stream_close,
};

struct sim_socket *kelpie__sim_stream_of(struct sim_object *object) {
    return object->operations == &stream_operations ? stream_of(object) : NULL;
}

int kelpie__sim_stream_create(struct sim_machine *machine, struct sim_object **out) {
    struct sim_socket *stream = kelpie__sim_heap_alloc(machine->heap, sizeof(*stream));
    if (stream == NULL) {
        return -ENOMEM;
    }
    kelpie__sim_object_init(&stream->object, machine, &stream_operations);
    KELPIE_ASSERT(stream->object.references == 1);
    *out = &stream->object;
    return 0;
}

int kelpie__sim_stream_join(struct sim_socket *stream, const struct kelpie_os_peer *server,
                            const struct kelpie_os_peer *client, struct sim_object **out) {
    struct sim_object *object = NULL;
    KELPIE_ASSERT(stream->other == NULL && !stream->is_write_shut);
    int status = kelpie__sim_stream_create(stream->object.machine, &object);
    if (status < 0) {
        return status;
    }
    struct sim_socket *other = stream_of(object);
    stream->other = other;
    stream->peer = *server;
    other->other = stream;
    other->peer = *client;
    *out = object;
    return 0;
}

int kelpie__sim_stream_pair(struct sim_process *process, struct sim_object *out[2]) {
    const struct kelpie_os_peer self = {process->pid, process->uid, process->gid};
    struct sim_object *first = NULL;
    int status = kelpie__sim_stream_create(process->machine, &first);
    if (status < 0) {
        return status;
    }
    status = kelpie__sim_stream_join(stream_of(first), &self, &self, &out[1]);
    if (status < 0) {
        kelpie__sim_object_unref(first);
        return status;
    }
    KELPIE_ASSERT(stream_of(first)->other == stream_of(out[1]));
    out[0] = first;
    return 0;
}

void kelpie__sim_stream_refuse(struct sim_object *object) {
    struct sim_socket *stream = stream_of(object);
    KELPIE_ASSERT(object->operations == &stream_operations);
    KELPIE_ASSERT(object->references == 1);
    if (stream->other != NULL) {
        stream->other->has_reset = true;
    }
    kelpie__sim_object_unref(object);
}

int kelpie__sim_stream_shut_write(struct sim_object *object) {
    if (kelpie__sim_listener_of(object) != NULL) {
        return 0;
    }
    struct sim_socket *stream = kelpie__sim_stream_of(object);
    if (stream == NULL) {
        return -ENOTSOCK;
    }
    stream->is_write_shut = true;
    if (stream->other != NULL) {
        stream->other->is_read_shut = true;
        kelpie__sim_object_changed(&stream->other->object);
    }
    kelpie__sim_object_changed(object);
    return 0;
}

void kelpie__sim_stream_answer(struct sim_object *object, uint64_t id) {
    struct sim_socket *stream = kelpie__sim_stream_of(object);
    if (stream != NULL && stream->other != NULL) {
        stream->other->answered = id;
    }
}

uint64_t kelpie__sim_stream_answered(struct sim_object *object) {
    struct sim_socket *stream = kelpie__sim_stream_of(object);
    return stream == NULL ? 0 : stream->answered;
}

int kelpie__sim_stream_peer(struct sim_object *object, struct kelpie_os_peer *out) {
    struct sim_listener *listener = kelpie__sim_listener_of(object);
    if (listener != NULL) {
        *out = *kelpie__sim_listener_owner(listener);
        return 0;
    }
    struct sim_socket *stream = kelpie__sim_stream_of(object);
    if (stream == NULL) {
        return -ENOTSOCK;
    }
    KELPIE_ASSERT(stream->peer.pid > 0);
    *out = stream->peer;
    return 0;
}
