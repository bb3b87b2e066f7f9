/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * The device files that scripts in a guest use: zero, full, urandom. null is the machine's own.
 */
#include <errno.h>
#include <string.h>

#include "sim/guest_state.h"

static int64_t device_read_zero(struct sim_process *process, struct sim_object *object, void *out,
                                size_t count) {
    KELPIE_ASSERT(process->machine == object->machine);
    if (count > 0) {
        memset(out, 0, count);
    }
    return (int64_t)count;
}

static int64_t device_write_all(struct sim_process *process, struct sim_object *object,
                                const void *bytes, size_t count) {
    KELPIE_ASSERT(process->machine == object->machine);
    KELPIE_ASSERT(bytes != NULL || count == 0);
    return (int64_t)count;
}

static int64_t device_write_none(struct sim_process *process, struct sim_object *object,
                                 const void *bytes, size_t count) {
    KELPIE_ASSERT(process->machine == object->machine);
    KELPIE_ASSERT(bytes != NULL || count == 0);
    return -ENOSPC;
}

static int64_t device_read_random(struct sim_process *process, struct sim_object *object, void *out,
                                  size_t count) {
    KELPIE_ASSERT(process->machine == object->machine);
    kelpie__sim_kernel_random(process->machine, out, count);
    return (int64_t)count;
}

static void device_close(struct sim_object *object) {
    kelpie__sim_heap_free(object->machine->heap, object, sizeof(*object));
}

static const struct sim_object_operations device_zero = {
    .kind = "zero", .read = device_read_zero, .write = device_write_all, .close = device_close};
static const struct sim_object_operations device_full = {
    .kind = "full", .read = device_read_zero, .write = device_write_none, .close = device_close};
static const struct sim_object_operations device_random = {
    .kind = "random", .read = device_read_random, .write = device_write_all, .close = device_close};

struct device {
    const char *path;
    const struct sim_object_operations *operations;
};

static const struct device devices[] = {
    {"/dev/zero", &device_zero},
    {"/dev/full", &device_full},
    {"/dev/urandom", &device_random},
    {"/dev/random", &device_random},
};

int kelpie__sim_device_open(struct sim_machine *machine, struct sim_process *opener,
                            const char *path, struct sim_object **out) {
    KELPIE_ASSERT(opener == NULL || opener->machine == machine);
    if (strcmp(path, "/dev/null") == 0) {
        *out = kelpie__sim_object_null(machine);
        return *out == NULL ? -ENOMEM : 0;
    }
    const struct sim_object_operations *operations = NULL;
    for (size_t i = 0; i < KELPIE_ARRAY_COUNT(devices); i += 1) {
        operations = strcmp(devices[i].path, path) == 0 ? devices[i].operations : operations;
    }
    KELPIE_ASSERT(operations != NULL);
    struct sim_object *object = kelpie__sim_heap_alloc(machine->heap, sizeof(*object));
    if (object == NULL) {
        return -ENOMEM;
    }
    kelpie__sim_object_init(object, machine, operations);
    *out = object;
    return 0;
}
