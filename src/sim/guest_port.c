/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * The virtio-serial port and the console of a guest: queues of bytes in its memory, with a device
 * file on the one side and the owner on the other. Bytes for a guest that does not listen stay in
 * the queue.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "sim/guest_state.h"

#define PORT_GREETING "\"is_set_up\":" /* stands in an answer to hello and nowhere else */
#define PORT_STOP "guest.shutdown\""   /* the method of the request to go */
#define PORT_MESSAGE_TYPE 1u
#define PORT_LINE_BYTES_MAX 512u

/* ---- queues ---------------------------------------------------------------------------------- */

bool kelpie__sim_queue_init(struct sim_queue *queue, struct sim_heap *heap, uint32_t capacity) {
    KELPIE_ASSERT(capacity > 0 && (capacity & (capacity - 1)) == 0);
    *queue = (struct sim_queue){.bytes = kelpie__sim_heap_alloc_raw(heap, capacity),
                                .capacity = capacity};
    return queue->bytes != NULL;
}

size_t kelpie__sim_queue_count(const struct sim_queue *queue) {
    KELPIE_ASSERT(queue->written - queue->taken <= queue->capacity);
    return (size_t)(queue->written - queue->taken);
}

size_t kelpie__sim_queue_room(const struct sim_queue *queue) {
    return queue->capacity - kelpie__sim_queue_count(queue);
}

size_t kelpie__sim_queue_put(struct sim_queue *queue, const void *bytes, size_t count) {
    size_t put = (size_t)kelpie__min_u64(count, kelpie__sim_queue_room(queue));
    size_t at = (size_t)(queue->written & (queue->capacity - 1));
    size_t first = (size_t)kelpie__min_u64(put, queue->capacity - at);
    if (put > 0) {
        memcpy(queue->bytes + at, bytes, first);
        memcpy(queue->bytes, (const uint8_t *)bytes + first, put - first);
        queue->written += put;
    }
    KELPIE_ASSERT(put <= count);
    return put;
}

size_t kelpie__sim_queue_take(struct sim_queue *queue, void *out, size_t capacity) {
    size_t taken = (size_t)kelpie__min_u64(capacity, kelpie__sim_queue_count(queue));
    size_t at = (size_t)(queue->taken & (queue->capacity - 1));
    size_t first = (size_t)kelpie__min_u64(taken, queue->capacity - at);
    if (taken > 0) {
        memcpy(out, queue->bytes + at, first);
        memcpy((uint8_t *)out + first, queue->bytes, taken - first);
        queue->taken += taken;
    }
    KELPIE_ASSERT(taken <= capacity);
    return taken;
}

/* ---- what the agent says, and is told -------------------------------------------------------- */

/* Gives how many of the bytes belong to the header. */
static size_t scan_header(struct sim_frame_scan *scan, const uint8_t *bytes, size_t count) {
    size_t taken = (size_t)kelpie__min_u64(sizeof(scan->header) - scan->header_count, count);
    memcpy(scan->header + scan->header_count, bytes, taken);
    scan->header_count += (uint32_t)taken;
    if (scan->header_count < sizeof(scan->header)) {
        return taken;
    }
    uint32_t length = (uint32_t)scan->header[4] | (uint32_t)scan->header[5] << 8 |
                      (uint32_t)scan->header[6] << 16 | (uint32_t)scan->header[7] << 24;
    scan->payload_left = length;
    scan->is_message = scan->header[8] == PORT_MESSAGE_TYPE;
    scan->matched = 0;
    scan->header_count = 0;
    return taken;
}

/* True when this word ends in these bytes of a message, or what came before has its beginning. */
static bool scan_word(struct sim_frame_scan *scan, const char *word, const uint8_t *bytes,
                      size_t count) {
    for (size_t i = 0; i < count; i += 1) {
        const uint8_t *first = scan->matched > 0 ? NULL : memchr(bytes + i, word[0], count - i);
        if (scan->matched == 0 && first == NULL) {
            return false;
        }
        i = first != NULL ? (size_t)(first - bytes) : i;
        char byte = (char)bytes[i];
        scan->matched = byte == word[scan->matched] ? scan->matched + 1 : byte == word[0] ? 1 : 0;
        if (word[scan->matched] == '\0') {
            return true;
        }
    }
    return false;
}

/* True when this word went by in a message, now or before (is_found). */
static bool scan_bytes(struct sim_frame_scan *scan, const char *word, bool is_found,
                       const uint8_t *bytes, size_t count) {
    size_t at = 0;
    while (at < count) {
        if (scan->payload_left == 0) {
            at += scan_header(scan, bytes + at, count - at);
            continue;
        }
        size_t step = (size_t)kelpie__min_u64(scan->payload_left, count - at);
        is_found = is_found || (scan->is_message && scan_word(scan, word, bytes + at, step));
        scan->matched = is_found ? 0 : scan->matched;
        scan->payload_left -= (uint32_t)step;
        at += step;
    }
    return is_found;
}

/* ---- the port -------------------------------------------------------------------------------- */

static uint32_t port_ready(struct sim_object *object) {
    const struct sim_kernel *kernel = object->machine->guest->kernel;
    uint32_t bits = 0;
    KELPIE_ASSERT(kernel->port == object);
    if (kernel->vsock == SIM_VSOCK_DIALLING || kernel->vsock == SIM_VSOCK_REFUSED) {
        return kernel->vsock == SIM_VSOCK_REFUSED ? KELPIE_OS_HANGUP : 0;
    }
    bits |= kelpie__sim_queue_count(&kernel->to_guest) > 0 ? (uint32_t)KELPIE_OS_READABLE : 0;
    bits |= kelpie__sim_queue_room(&kernel->to_host) > 0 ? (uint32_t)KELPIE_OS_WRITABLE : 0;
    return bits;
}

static int64_t port_read(struct sim_process *process, struct sim_object *object, void *out,
                         size_t count) {
    struct sim_guest *guest = process->machine->guest;
    KELPIE_ASSERT(guest->kernel->port == object);
    if (guest->kernel->vsock == SIM_VSOCK_REFUSED) {
        return -ECONNRESET; /* libkrun's answer */
    }
    size_t taken = kelpie__sim_queue_take(&guest->kernel->to_guest, out, count);
    if (taken == 0) {
        return -EAGAIN;
    }
    guest->was_asked_to_end =
        scan_bytes(&guest->kernel->scan_in, PORT_STOP, guest->was_asked_to_end, out, taken);
    kelpie__sim_guest_tell(guest);
    return (int64_t)taken;
}

/* The hostile guest: one bit of the last `count` bytes put is another. */
static void port_mutate(struct sim_kernel *kernel, size_t count, uint64_t hash) {
    KELPIE_ASSERT(count > 0);
    uint64_t place = kernel->to_host.written - count + hash / 8 % count;
    kernel->to_host.bytes[place & (kernel->to_host.capacity - 1)] ^= (uint8_t)(1u << hash % 8);
}

static bool port_lies(const struct sim_guest *guest, uint64_t *out_hash) {
    uint64_t hash = kelpie__sim_decide(guest->world, "guest.lie", "agent", guest->id,
                                       guest->kernel->write_count);
    *out_hash = hash / 1000000000u;
    return guest->lie_billionth > 0 && hash % 1000000000u < guest->lie_billionth;
}

static int64_t port_write(struct sim_process *process, struct sim_object *object, const void *bytes,
                          size_t count) {
    struct sim_guest *guest = process->machine->guest;
    struct sim_kernel *kernel = guest->kernel;
    uint64_t hash = 0;
    KELPIE_ASSERT(kernel->port == object);
    if (count == 0) {
        return 0;
    }
    kernel->write_count += 1;
    bool lies = port_lies(guest, &hash);
    if (kernel->is_deaf) {
        return (int64_t)count;
    }
    size_t put = kelpie__sim_queue_put(&kernel->to_host, bytes, count);
    if (put == 0) {
        return -EAGAIN;
    }
    guest->is_greeted = scan_bytes(&kernel->scan, PORT_GREETING, guest->is_greeted, bytes, put);
    if (lies) {
        port_mutate(kernel, put, hash);
    }
    kelpie__sim_guest_tell(guest);
    return (int64_t)put;
}

static void port_close(struct sim_object *object) {
    struct sim_machine *machine = object->machine;
    KELPIE_ASSERT(machine->guest->kernel->port == object);
    struct sim_kernel *kernel = machine->guest->kernel;
    kernel->port = NULL;
    kernel->vsock = kernel->vsock == SIM_VSOCK_NONE ? SIM_VSOCK_NONE : SIM_VSOCK_IDLE;
    kelpie__sim_heap_free(machine->heap, object, sizeof(*object));
}

static const struct sim_object_operations port_operations = {
    .kind = "port",
    .ready = port_ready,
    .read = port_read,
    .write = port_write,
    .close = port_close,
};

int kelpie__sim_port_open(struct sim_machine *machine, struct sim_process *opener, const char *path,
                          struct sim_object **out) {
    struct sim_kernel *kernel = machine->guest->kernel;
    KELPIE_ASSERT(opener->machine == machine && path[0] == '/');
    if (kernel->port != NULL) {
        return -EBUSY; /* virtio_console: a port is opened once */
    }
    struct sim_object *object = kelpie__sim_heap_alloc(machine->heap, sizeof(*object));
    if (object == NULL) {
        return -ENOMEM;
    }
    kelpie__sim_object_init(object, machine, &port_operations);
    kernel->port = object;
    *out = object;
    return 0;
}

int kelpie__sim_vsock_dial(struct sim_machine *machine, struct sim_object **out) {
    struct sim_kernel *kernel = machine->guest->kernel;
    if (kernel->vsock == SIM_VSOCK_NONE || kernel->port != NULL) {
        return kernel->port != NULL ? -EADDRNOTAVAIL : -ENODEV; /* the host takes one at a time */
    }
    struct sim_object *object = kelpie__sim_heap_alloc(machine->heap, sizeof(*object));
    if (object == NULL) {
        return -ENOMEM;
    }
    kelpie__sim_object_init(object, machine, &port_operations);
    kernel->port = object;
    kernel->vsock = SIM_VSOCK_DIALLING;
    kelpie__sim_guest_tell(machine->guest);
    *out = object;
    return 0;
}

bool kelpie__sim_guest_vsock_is_dialling(struct sim_guest *guest) {
    kelpie__sim_guest_enter(guest);
    KELPIE_ASSERT(guest->kernel != NULL);
    return guest->end == SIM_GUEST_LIVES && guest->kernel->vsock == SIM_VSOCK_DIALLING;
}

bool kelpie__sim_guest_vsock_answer(struct sim_guest *guest, bool is_connected) {
    if (!kelpie__sim_guest_vsock_is_dialling(guest)) {
        return false;
    }
    KELPIE_ASSERT(guest->kernel->port != NULL);
    guest->kernel->vsock = is_connected ? SIM_VSOCK_CONNECTED : SIM_VSOCK_REFUSED;
    kelpie__sim_object_changed(guest->kernel->port);
    kelpie__sim_guest_look(guest);
    kelpie__sim_guest_update(guest);
    return true;
}

/* ---- the console ----------------------------------------------------------------------------- */

static int64_t console_read(struct sim_process *process, struct sim_object *object, void *out,
                            size_t count) {
    KELPIE_ASSERT(process->machine == object->machine && (out != NULL || count == 0));
    return -EAGAIN; /* nobody types */
}

static uint32_t console_ready(struct sim_object *object) {
    const struct sim_kernel *kernel = object->machine->guest->kernel;
    return kelpie__sim_queue_room(&kernel->console) > 0 ? (uint32_t)KELPIE_OS_WRITABLE : 0;
}

static int64_t console_write(struct sim_process *process, struct sim_object *object,
                             const void *bytes, size_t count) {
    struct sim_guest *guest = process->machine->guest;
    KELPIE_ASSERT(object->machine == process->machine);
    if (count == 0) {
        return 0;
    }
    size_t put = kelpie__sim_queue_put(&guest->kernel->console, bytes, count);
    if (put == 0) {
        return -EAGAIN;
    }
    kelpie__sim_guest_tell(guest);
    return (int64_t)put;
}

static void console_close(struct sim_object *object) {
    object->machine->guest->kernel->console_object = NULL;
    kelpie__sim_heap_free(object->machine->heap, object, sizeof(*object));
}

static const struct sim_object_operations console_operations = {
    .kind = "console",
    .ready = console_ready,
    .read = console_read,
    .write = console_write,
    .close = console_close,
};

int kelpie__sim_console_open(struct sim_machine *machine, struct sim_process *opener,
                             const char *path, struct sim_object **out) {
    struct sim_kernel *kernel = machine->guest->kernel;
    KELPIE_ASSERT(path[0] == '/');
    KELPIE_ASSERT(opener == NULL || opener->machine == machine);
    struct sim_object *object = kernel->console_object;
    if (object != NULL) {
        kelpie__sim_object_ref(object);
    } else {
        object = kelpie__sim_heap_alloc(machine->heap, sizeof(*object));
        if (object == NULL) {
            return -ENOMEM;
        }
        kelpie__sim_object_init(object, machine, &console_operations);
        kernel->console_object = object;
    }
    *out = object;
    return 0;
}

void kelpie__sim_kernel_print(struct sim_guest *guest, const char *format, ...) {
    char line[PORT_LINE_BYTES_MAX];
    int64_t now_us = kelpie__sim_guest_now(guest) / 1000;
    int prefix = snprintf(line, sizeof(line), "[%5lld.%06lld] ", (long long)(now_us / 1000000),
                          (long long)(now_us % 1000000));
    KELPIE_ASSERT(prefix > 0 && (size_t)prefix < sizeof(line));
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(line + prefix, sizeof(line) - (size_t)prefix - 2, format, arguments);
    va_end(arguments);
    KELPIE_ASSERT(length >= 0);
    size_t count = strlen(line);
    memcpy(line + count, "\r\n", 2);
    kelpie__ignore((int64_t)kelpie__sim_queue_put(&guest->kernel->console, line, count + 2));
    kelpie__sim_guest_tell(guest);
}

/* ---- the owner's side ------------------------------------------------------------------------ */

size_t kelpie__sim_guest_port_put(struct sim_guest *guest, const void *bytes, size_t count) {
    struct sim_machine *machine = kelpie__sim_guest_enter(guest);
    struct sim_kernel *kernel = guest->kernel;
    if (kernel->is_deaf || guest->end != SIM_GUEST_LIVES) {
        return count;
    }
    size_t put = kelpie__sim_queue_put(&kernel->to_guest, bytes, count);
    if (put > 0 && kernel->port != NULL) {
        KELPIE_ASSERT(kernel->port->machine == machine);
        kelpie__sim_object_changed(kernel->port);
    }
    kelpie__sim_guest_look(guest);
    kelpie__sim_guest_update(guest);
    return put;
}

size_t kelpie__sim_guest_port_take(struct sim_guest *guest, void *out, size_t capacity) {
    if (kelpie__sim_guest_is_silent(guest)) {
        return 0;
    }
    struct sim_machine *machine = kelpie__sim_guest_enter(guest);
    struct sim_kernel *kernel = guest->kernel;
    size_t taken = kelpie__sim_queue_take(&kernel->to_host, out, capacity);
    if (taken > 0 && kernel->port != NULL) {
        KELPIE_ASSERT(kernel->port->machine == machine);
        kelpie__sim_object_changed(kernel->port);
    }
    kelpie__sim_guest_look(guest);
    kelpie__sim_guest_update(guest);
    return taken;
}

size_t kelpie__sim_guest_console_take(struct sim_guest *guest, void *out, size_t capacity) {
    if (kelpie__sim_guest_is_silent(guest)) {
        return 0;
    }
    struct sim_machine *machine = kelpie__sim_guest_enter(guest);
    KELPIE_ASSERT(machine->guest == guest);
    size_t taken = kelpie__sim_queue_take(&guest->kernel->console, out, capacity);
    if (taken > 0 && guest->kernel->console_object != NULL) {
        kelpie__sim_object_changed(guest->kernel->console_object);
    }
    kelpie__sim_guest_look(guest);
    kelpie__sim_guest_update(guest);
    return taken;
}
