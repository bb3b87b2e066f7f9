/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Objects, handles and watches. A watch works as epoll does: whatever may have something to report
 * stands in its process's ready list, and `wait` looks only there. A watch that was reported goes
 * to the end of the list, so that many busy handles take turns.
 */
#include <errno.h>
#include <string.h>

#include "sim/core.h"
#include "sim/heap.h"

#define HANDLES_FIRST 16u

/* ---- objects --------------------------------------------------------------------------------- */

void kelpie__sim_object_init(struct sim_object *object, struct sim_machine *machine,
                             const struct sim_object_operations *operations) {
    KELPIE_ASSERT(operations->kind != NULL && operations->close != NULL);
    *object = (struct sim_object){.operations = operations, .machine = machine, .references = 1};
}

void kelpie__sim_object_ref(struct sim_object *object) {
    KELPIE_ASSERT(object->references > 0);
    object->references += 1;
}

void kelpie__sim_object_unref(struct sim_object *object) {
    KELPIE_ASSERT(object->references > 0);
    object->references -= 1;
    if (object->references == 0) {
        KELPIE_ASSERT(object->watches == NULL);
        object->operations->close(object);
    }
}

static void watch_list(struct sim_watch *watch) {
    struct sim_watch_set *set = watch->set;
    KELPIE_ASSERT(!watch->is_listed);
    watch->is_listed = true;
    watch->ready_next = NULL;
    watch->ready_previous = set->ready_last;
    if (set->ready_last != NULL) {
        set->ready_last->ready_next = watch;
    } else {
        set->ready_first = watch;
    }
    set->ready_last = watch;
}

static void watch_unlist(struct sim_watch *watch) {
    struct sim_watch_set *set = watch->set;
    KELPIE_ASSERT(watch->is_listed);
    if (watch->ready_previous != NULL) {
        watch->ready_previous->ready_next = watch->ready_next;
    } else {
        set->ready_first = watch->ready_next;
    }
    if (watch->ready_next != NULL) {
        watch->ready_next->ready_previous = watch->ready_previous;
    } else {
        set->ready_last = watch->ready_previous;
    }
    watch->is_listed = false;
}

static uint32_t watch_bits(const struct sim_watch *watch, uint32_t ready) {
    return ready & (watch->bits | (uint32_t)KELPIE_OS_HANGUP);
}

void kelpie__sim_object_changed(struct sim_object *object) {
    if (object == NULL || object->watches == NULL) {
        return;
    }
    uint32_t ready = object->operations->ready(object);
    for (struct sim_watch *watch = object->watches; watch != NULL; watch = watch->object_next) {
        if (!watch->is_listed && watch_bits(watch, ready) != 0) {
            watch_list(watch);
            if (watch->process->waits_for == watch->set) {
                kelpie__sim_process_wake(watch->process);
            }
        }
    }
}

/* ---- /dev/null ------------------------------------------------------------------------------- */

static int64_t null_read(struct sim_process *process, struct sim_object *object, void *out,
                         size_t count) {
    kelpie__ignore(process != NULL && object != NULL && out != NULL && count > 0);
    return 0;
}

static int64_t null_write(struct sim_process *process, struct sim_object *object, const void *bytes,
                          size_t count) {
    kelpie__ignore(process != NULL && object != NULL && bytes != NULL);
    return (int64_t)count;
}

static void null_close(struct sim_object *object) {
    KELPIE_ASSERT(object->machine->null == object);
    object->machine->null = NULL;
    kelpie__sim_heap_free(object->machine->heap, object, sizeof(*object));
}

static const struct sim_object_operations null_operations = {
    .kind = "null",
    .read = null_read,
    .write = null_write,
    .close = null_close,
};

struct sim_object *kelpie__sim_object_null(struct sim_machine *machine) {
    if (machine->null != NULL) {
        kelpie__sim_object_ref(machine->null);
        return machine->null;
    }
    struct sim_object *object = kelpie__sim_heap_alloc(machine->heap, sizeof(*object));
    if (object != NULL) {
        kelpie__sim_object_init(object, machine, &null_operations);
        machine->null = object;
    }
    return object;
}

/* ---- handles --------------------------------------------------------------------------------- */

bool kelpie__sim_handles_grow(struct sim_process *process, uint32_t count) {
    uint32_t capacity = process->handle_capacity == 0 ? HANDLES_FIRST : process->handle_capacity;
    KELPIE_ASSERT(count <= SIM_HANDLE_MAX);
    while (capacity < count) { /* bound: doublings */
        capacity *= 2;
    }
    if (capacity == process->handle_capacity) {
        return true;
    }
    struct sim_heap *heap = process->machine->heap;
    size_t old_bytes = process->handle_capacity * sizeof(*process->handles);
    struct sim_handle *handles = kelpie__sim_heap_alloc(heap, capacity * sizeof(*handles));
    if (handles == NULL) {
        return false;
    }
    if (old_bytes > 0) {
        memcpy(handles, process->handles, old_bytes);
        kelpie__sim_heap_free(heap, process->handles, old_bytes);
    }
    process->handles = handles;
    process->handle_capacity = capacity;
    return true;
}

int kelpie__sim_handle_install(struct sim_process *process, struct sim_object *object) {
    uint32_t place = process->handle_free;
    while (place < process->handle_count && process->handles[place].object != NULL) {
        place += 1;
    }
    if (place >= SIM_HANDLE_MAX) {
        return -EMFILE;
    }
    if (place >= process->handle_capacity && !kelpie__sim_handles_grow(process, place + 1)) {
        return -ENOMEM;
    }
    kelpie__sim_object_ref(object);
    process->handles[place].object = object;
    process->handle_free = place + 1;
    if (place >= process->handle_count) {
        process->handle_count = place + 1;
    }
    return (int)place;
}

/* ---- watches --------------------------------------------------------------------------------- */

static void watch_remove(struct sim_watch *watch) {
    struct sim_process *process = watch->process;
    if (watch->is_listed) {
        watch_unlist(watch);
    }
    if (watch->object_previous != NULL) {
        watch->object_previous->object_next = watch->object_next;
    } else {
        KELPIE_ASSERT(watch->object->watches == watch);
        watch->object->watches = watch->object_next;
    }
    if (watch->object_next != NULL) {
        watch->object_next->object_previous = watch->object_previous;
    }
    process->handles[watch->handle].watch = NULL;
    kelpie__sim_heap_free(process->machine->heap, watch, sizeof(*watch));
}

/* At the end of the object's list: those who watched first are woken first. */
static struct sim_watch *watch_add(struct sim_process *process, struct sim_watch_set *set,
                                   struct sim_object *object, int handle) {
    struct sim_watch *watch = kelpie__sim_heap_alloc(process->machine->heap, sizeof(*watch));
    if (watch == NULL) {
        return NULL;
    }
    watch->process = process;
    watch->set = set;
    watch->object = object;
    watch->handle = handle;
    struct sim_watch *last = object->watches;
    while (last != NULL && last->object_next != NULL) { /* bound: whoever watches it; mostly one */
        last = last->object_next;
    }
    watch->object_previous = last;
    if (last != NULL) {
        last->object_next = watch;
    } else {
        object->watches = watch;
    }
    process->handles[handle].watch = watch;
    return watch;
}

bool kelpie__sim_watch_is_known(struct sim_process *process, int handle) {
    return kelpie__sim_handle_object(process, handle) != NULL &&
           process->handles[handle].watch != NULL;
}

int kelpie__sim_watch_put(struct sim_process *process, struct sim_watch_set *set, int handle,
                          uint32_t bits, uint64_t cookie) {
    struct sim_object *object = kelpie__sim_handle_object(process, handle);
    if (object == NULL) {
        return -EBADF;
    }
    struct sim_watch *watch = process->handles[handle].watch;
    if (bits == 0) {
        if (watch == NULL) {
            return -ENOENT;
        }
        watch_remove(watch);
        return 0;
    }
    if (object->operations->ready == NULL) {
        return -EPERM; /* epoll_ctl(2): files, directories */
    }
    watch = watch != NULL ? watch : watch_add(process, set, object, handle);
    if (watch == NULL) {
        return -ENOMEM;
    }
    KELPIE_ASSERT(watch->set == set); /* a handle is of one event loop */
    watch->bits = bits;
    watch->cookie = cookie;
    if (!watch->is_listed && watch_bits(watch, object->operations->ready(object)) != 0) {
        watch_list(watch);
    }
    return 0;
}

uint32_t kelpie__sim_watch_collect(struct sim_watch_set *set, struct kelpie_os_event *out,
                                   uint32_t max) {
    uint32_t count = 0;
    const struct sim_watch *last = set->ready_last;
    bool is_last = last == NULL;
    while (!is_last && count < max) { /* bound: the list */
        struct sim_watch *watch = set->ready_first;
        uint32_t bits = watch_bits(watch, watch->object->operations->ready(watch->object));
        is_last = watch == last;
        watch_unlist(watch);
        if (bits != 0) {
            watch_list(watch);
            out[count].cookie = watch->cookie;
            out[count].bits = bits;
            count += 1;
        }
    }
    KELPIE_ASSERT(count <= max);
    return count;
}

int kelpie__sim_handle_close(struct sim_process *process, int handle) {
    struct sim_object *object = kelpie__sim_handle_object(process, handle);
    if (object == NULL) {
        return -EBADF;
    }
    struct sim_handle *entry = &process->handles[handle];
    if (entry->watch != NULL) {
        watch_remove(entry->watch);
    }
    KELPIE_ASSERT(entry->watch == NULL);
    entry->object = NULL;
    if ((uint32_t)handle < process->handle_free) {
        process->handle_free = (uint32_t)handle;
    }
    kelpie__sim_object_unref(object);
    return 0;
}

void kelpie__sim_watches_drop(struct sim_process *process, const struct sim_watch_set *set) {
    for (uint32_t i = 0; i < process->handle_count; i += 1) {
        struct sim_watch *watch = process->handles[i].watch;
        if (watch != NULL && watch->set == set) {
            watch_remove(watch);
        }
    }
    KELPIE_ASSERT(set->ready_first == NULL);
}

uint32_t kelpie__sim_handles_own(const struct sim_process *process) {
    uint32_t count = 0;
    for (uint32_t i = process->handles_inherited; i < process->handle_count; i += 1) {
        count += process->handles[i].object != NULL ? 1 : 0;
    }
    return count;
}

void kelpie__sim_handles_close(struct sim_process *process) {
    for (uint32_t i = 0; i < process->handle_count; i += 1) {
        if (process->handles[i].object != NULL) {
            kelpie__ignore(kelpie__sim_handle_close(process, (int)i));
        }
    }
    KELPIE_ASSERT(process->watches.ready_first == NULL);
    process->handle_count = 0;
    process->handle_free = 0;
    kelpie__sim_heap_free(process->machine->heap, process->handles,
                          process->handle_capacity * sizeof(*process->handles));
    process->handles = NULL;
    process->handle_capacity = 0;
}
