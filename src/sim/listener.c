/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Listening sockets. The file system knows them by a number only (disk.h), so that a name outlives
 * its listener, as on Linux: whoever connects to it then is refused.
 */
#include <errno.h>

#include "sim/heap.h"
#include "sim/stream.h"

#define LISTENER_BACKLOG_MAX 4096u /* net.core.somaxconn */

struct sim_listener {
    struct sim_object object;
    struct sim_listener *next; /* of the machine */
    uint64_t socket;
    struct kelpie_os_peer owner;
    uint32_t backlog;
    /* Connections that wait: a ring with a reference to each. */
    struct sim_object **waiting;
    uint32_t first;
    uint32_t count;
};

static struct sim_listener *listener_of(struct sim_object *object) {
    return KELPIE_CONTAINER_OF(object, struct sim_listener, object);
}

/* unix(7): one more than the backlog. */
static uint32_t listener_room(const struct sim_listener *listener) {
    return listener->backlog + 1;
}

static uint32_t listener_ready(struct sim_object *object) {
    return listener_of(object)->count > 0 ? KELPIE_OS_READABLE : 0;
}

static int64_t listener_read(struct sim_process *process, struct sim_object *object, void *out,
                             size_t count) {
    kelpie__ignore(process != NULL && object != NULL && out != NULL && count > 0);
    return -EINVAL;
}

static int64_t listener_write(struct sim_process *process, struct sim_object *object,
                              const void *bytes, size_t count) {
    kelpie__ignore(process != NULL && object != NULL && bytes != NULL && count > 0);
    return -ENOTCONN;
}

static int64_t listener_send(struct sim_process *process, struct sim_object *object,
                             const void *bytes, size_t count, const int *handles, uint32_t n) {
    kelpie__ignore(handles != NULL || n == 0);
    return listener_write(process, object, bytes, count);
}

static int64_t listener_receive(struct sim_process *process, struct sim_object *object, void *out,
                                size_t count, int *handles, uint32_t *inout_n) {
    kelpie__ignore(handles != NULL);
    *inout_n = 0;
    return listener_read(process, object, out, count);
}

static void listener_close(struct sim_object *object) {
    struct sim_listener *listener = listener_of(object);
    struct sim_heap *heap = object->machine->heap;
    struct sim_listener **link = &object->machine->listeners;
    while (*link != listener) { /* bound: the machine's listeners, of which it is one */
        link = &(*link)->next;
    }
    *link = listener->next;
    for (uint32_t i = 0; i < listener->count; i += 1) {
        kelpie__sim_stream_refuse(
            listener->waiting[(listener->first + i) % listener_room(listener)]);
    }
    kelpie__sim_heap_free(heap, listener->waiting,
                          listener_room(listener) * sizeof(struct sim_object *));
    kelpie__sim_heap_free(heap, listener, sizeof(*listener));
}

static const struct sim_object_operations listener_operations = {
    .kind = "listener",
    .ready = listener_ready,
    .read = listener_read,
    .write = listener_write,
    .send = listener_send,
    .receive = listener_receive,
    .close = listener_close,
};

struct sim_listener *kelpie__sim_listener_of(struct sim_object *object) {
    return object->operations == &listener_operations ? listener_of(object) : NULL;
}

uint64_t kelpie__sim_listener_socket(const struct sim_listener *listener) {
    KELPIE_ASSERT(listener->socket > 0);
    return listener->socket;
}

const struct kelpie_os_peer *kelpie__sim_listener_owner(const struct sim_listener *listener) {
    return &listener->owner;
}

int kelpie__sim_listener_create(struct sim_process *process, uint32_t backlog,
                                struct sim_object **out) {
    struct sim_machine *machine = process->machine;
    struct sim_listener *listener = kelpie__sim_heap_alloc(machine->heap, sizeof(*listener));
    if (listener == NULL) {
        return -ENOMEM;
    }
    listener->backlog = backlog < LISTENER_BACKLOG_MAX ? backlog : LISTENER_BACKLOG_MAX;
    listener->waiting =
        kelpie__sim_heap_alloc(machine->heap, listener_room(listener) * sizeof(*listener->waiting));
    if (listener->waiting == NULL) {
        kelpie__sim_heap_free(machine->heap, listener, sizeof(*listener));
        return -ENOMEM;
    }
    kelpie__sim_object_init(&listener->object, machine, &listener_operations);
    machine->socket_next += 1;
    listener->socket = machine->socket_next; /* 0 is nobody's */
    listener->owner = (struct kelpie_os_peer){process->pid, process->uid, process->gid};
    listener->next = machine->listeners;
    machine->listeners = listener;
    KELPIE_ASSERT(listener->socket > 0);
    *out = &listener->object;
    return 0;
}

int kelpie__sim_listener_connect(struct sim_process *process, uint64_t socket,
                                 struct sim_socket *stream) {
    const struct kelpie_os_peer client = {process->pid, process->uid, process->gid};
    struct sim_listener *listener = process->machine->listeners;
    while (listener != NULL && listener->socket != socket) { /* bound: the machine's listeners */
        listener = listener->next;
    }
    if (listener == NULL) {
        return -ECONNREFUSED;
    }
    if (listener->count == listener_room(listener)) {
        return -EAGAIN;
    }
    uint32_t place = (listener->first + listener->count) % listener_room(listener);
    int status =
        kelpie__sim_stream_join(stream, &listener->owner, &client, &listener->waiting[place]);
    if (status < 0) {
        return status;
    }
    listener->count += 1;
    KELPIE_ASSERT(listener->count <= listener_room(listener));
    kelpie__sim_object_changed(&listener->object);
    return 0;
}

int kelpie__sim_listener_first(struct sim_listener *listener, struct sim_object **out) {
    if (listener->count == 0) {
        return -EAGAIN;
    }
    *out = listener->waiting[listener->first];
    KELPIE_ASSERT(kelpie__sim_stream_of(*out) != NULL);
    return 0;
}

void kelpie__sim_listener_drop_first(struct sim_listener *listener) {
    KELPIE_ASSERT(listener->count > 0);
    struct sim_object *object = listener->waiting[listener->first];
    listener->waiting[listener->first] = NULL;
    listener->first = (listener->first + 1) % listener_room(listener);
    listener->count -= 1;
    kelpie__sim_object_unref(object);
}
