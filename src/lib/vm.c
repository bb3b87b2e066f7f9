/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * VMs by name: create, open, close, delete, look at.
 */
#include <errno.h>
#include <string.h>

#include "core/json.h"
#include "core/small_file.h"
#include "core/text.h"
#include "lib/internal.h"
#include "os/os_call.h"
#include "os/os_mark.h"
#include "wire/wire.h"

#define VM_NAME_TRIES 8u
#define VM_STAT_FIELD_FLAGS 9u
#define VM_PF_EXITING 4u /* linux/sched.h */
#define VM_DYING_TURNS 100u
#define VM_DYING_TURN_NS (2 * KELPIE_NS_PER_MS)
#define VM_BUSY_TURN_NS (5 * KELPIE_NS_PER_MS)

static struct kelpie_vm *vm_allocate(struct kelpie *kelpie, struct kelpie_error *error) {
    struct kelpie_vm *vm = kelpie__alloc(kelpie->os, sizeof(*vm));
    struct kelpie_config_values *values = kelpie__alloc_raw(kelpie->os, sizeof(*values));
    if (vm == NULL || values == NULL) {
        kelpie__free(kelpie->os, vm, sizeof(*vm));
        kelpie__free(kelpie->os, values, sizeof(*values));
        kelpie__ignore(kelpie__fail(error, KELPIE_E_MEMORY, 0, "no memory for a VM's handle"));
        return NULL;
    }
    vm->kelpie = kelpie;
    vm->config = values;
    kelpie__config_defaults(values);
    return vm;
}

static void vm_free(struct kelpie_vm *vm) {
    struct kelpie_os *os = vm->kelpie->os;
    KELPIE_ASSERT(vm->wire == NULL);
    KELPIE_ASSERT(vm->execs == NULL);
    KELPIE_ASSERT(vm->operations == NULL);
    KELPIE_ASSERT(vm->waiting == NULL);
    KELPIE_ASSERT(vm->waits_for == NULL);
    kelpie__free(os, vm->config, sizeof(*vm->config));
    kelpie__free(os, vm, sizeof(*vm));
}

void kelpie__vm_check(const struct kelpie_vm *vm) {
    kelpie__vm_directory_check(&vm->directory);
    KELPIE_ASSERT(vm->directory.places == &vm->kelpie->places);
    KELPIE_ASSERT(vm->directory.vm >= 0);
    KELPIE_ASSERT(vm->directory.run >= 0);
    KELPIE_ASSERT(vm->config != NULL);
    KELPIE_ASSERT(vm->channel_last <= KELPIE_CHANNEL_MAX);
    KELPIE_ASSERT((vm->waiting == NULL) == (vm->waiting_count == 0));
    KELPIE_ASSERT(vm->waits_for != vm);
    KELPIE_ASSERT(vm->damage.code <= 0);
    KELPIE_ASSERT(vm->loss.code <= 0);
    if (vm->damage.code < 0) { /* it is deleted, or left alone */
        KELPIE_ASSERT(vm->wire == NULL);
    }
}

int kelpie__vm_check_damage(const struct kelpie_vm *vm, struct kelpie_error *error) {
    kelpie__vm_check(vm);
    if (vm->damage.code < 0 && error != NULL) {
        *error = vm->damage;
    }
    return vm->damage.code;
}

static void vm_link(struct kelpie_vm *vm) {
    kelpie__vm_check(vm);
    KELPIE_ASSERT(vm->directory.lock == KELPIE_OS_NO_HANDLE);
    vm->next = vm->kelpie->vms;
    vm->kelpie->vms = vm;
}

static void vm_unlink(struct kelpie_vm *vm) {
    struct kelpie_vm **place = &vm->kelpie->vms;
    while (*place != vm) { /* bound: the list has it */
        KELPIE_ASSERT(*place != NULL);
        place = &(*place)->next;
    }
    *place = vm->next;
}

/* ---- create ---------------------------------------------------------------------------------- */

static int draw_id(struct kelpie *kelpie, struct kelpie_config_values *values,
                   struct kelpie_error *error) {
    uint8_t bytes[(sizeof(values->id) - 1) / 2];
    int status = kelpie__os_random(kelpie->os, bytes, sizeof(bytes));
    if (status < 0) {
        return kelpie__fail(error, KELPIE_E_IO, -status, "draw random bytes");
    }
    kelpie__text_hex(values->id, sizeof(values->id), bytes, sizeof(bytes));
    values->created_ms = kelpie__os_now(kelpie->os, KELPIE_OS_CLOCK_WALL) / KELPIE_NS_PER_MS;
    KELPIE_ASSERT(values->id[sizeof(values->id) - 2] != '\0');
    return 0;
}

/* Somebody who makes or deletes one of that name needs milliseconds, and is waited for. */
static int make_directory(struct kelpie_vm *vm, bool may_wait, struct kelpie_error *error) {
    struct kelpie *kelpie = vm->kelpie;
    struct kelpie_error kept = {0};
    int64_t deadline_ns = kelpie__loop_deadline(kelpie->loop, KELPIE_CALL_TIMEOUT_MS);
    KELPIE_ASSERT(vm->config->name[0] != '\0');
    KELPIE_ASSERT(!may_wait || kelpie->callback_depth == 0);
    int status = kelpie__vm_directory_create(&vm->directory, &kelpie->places, vm->config, &kept);
    while (may_wait && status == KELPIE_E_BUSY &&
           kelpie->loop->now_ns < deadline_ns) { /* bound: in its head */
        int turned = kelpie__turn(kelpie, kelpie->loop->now_ns + VM_BUSY_TURN_NS, &kept);
        status = turned < 0 ? turned
                            : kelpie__vm_directory_create(&vm->directory, &kelpie->places,
                                                          vm->config, &kept);
    }
    if (status < 0 && error != NULL) {
        *error = kept;
    }
    KELPIE_ASSERT(status != 0 || vm->directory.lock >= 0);
    return status;
}

/* A drawn name is "vm-" and the beginning of the id; a collision draws again. */
static int create_directory(struct kelpie_vm *vm, const char *name, bool may_wait,
                            struct kelpie_error *error) {
    struct kelpie *kelpie = vm->kelpie;
    int status = KELPIE_E_EXISTS;
    for (unsigned i = 0; i < VM_NAME_TRIES && status == KELPIE_E_EXISTS; i += 1) {
        status = draw_id(kelpie, vm->config, error);
        if (status < 0) {
            return status;
        }
        bool fits = name != NULL
                        ? kelpie__text_copy(vm->config->name, sizeof(vm->config->name), name)
                        : kelpie__text_format(vm->config->name, sizeof(vm->config->name),
                                              "vm-%.12s", vm->config->id);
        KELPIE_ASSERT(fits); /* a given name has been checked */
        status = make_directory(vm, may_wait, error);
        if (name != NULL) {
            return status;
        }
    }
    return status;
}

static int create_checks(struct kelpie *kelpie, const char *name, struct kelpie_config *config,
                         bool may_wait, struct kelpie_error *error) {
    if (config != NULL && config->kelpie != kelpie) {
        return kelpie__fail(error, KELPIE_E_MISUSE, 0,
                            "kelpie_vm_create: the configuration belongs to another handle");
    }
    int status = may_wait ? kelpie__check_may_block(kelpie, "kelpie_vm_create", error)
                          : kelpie__check_process(kelpie, "kelpie_vm_create", error);
    if (status == 0 && name != NULL) {
        status = kelpie__config_check_name(name, error);
    }
    if (status == 0 && config != NULL) {
        status = kelpie_config_check(config, error);
    }
    return status;
}

static int create(struct kelpie *kelpie, const char *name, struct kelpie_config *config,
                  bool may_wait, struct kelpie_vm **out, struct kelpie_error *error) {
    int status = create_checks(kelpie, name, config, may_wait, error);
    if (status < 0) {
        return status;
    }
    struct kelpie_vm *vm = vm_allocate(kelpie, error);
    if (vm == NULL) {
        return KELPIE_E_MEMORY;
    }
    if (config != NULL) {
        kelpie__config_copy(vm->config, &config->values);
    }
    if (vm->config->snapshot[0] != '\0') {
        status = kelpie__config_from_snapshot(kelpie, vm->config, error);
        if (status < 0) {
            vm_free(vm);
            return status;
        }
    }
    if (name == NULL && vm->config->lifetime == KELPIE_LIFETIME_OWNED) {
        vm->config->is_ephemeral = true; /* nobody could ask for it by name later */
    }
    status = create_directory(vm, name, may_wait, error);
    if (status < 0) {
        vm_free(vm);
        return status;
    }
    /* A monitor keeps what has no other keeper: an owned VM, and an ephemeral one. */
    if (vm->config->lifetime == KELPIE_LIFETIME_OWNED || vm->config->is_ephemeral) {
        status = kelpie__vm_spawn_monitor(vm, error);
        if (status < 0) {
            KELPIE_REACHED(kelpie->os, "a VM was given up for want of a monitor");
            kelpie__ignore(kelpie__vm_directory_delete(&vm->directory, NULL));
            kelpie__vm_directory_close(&vm->directory);
            vm_free(vm);
            return status;
        }
    }
    kelpie__vm_directory_unlock(&vm->directory);
    KELPIE_ASSERT(vm->is_creator == (vm->config->lifetime == KELPIE_LIFETIME_OWNED));
    vm_link(vm);
    *out = vm;
    return 0;
}

int kelpie_vm_create(struct kelpie *kelpie, const char *name, struct kelpie_config *config,
                     struct kelpie_vm **out, struct kelpie_error *error) {
    if (kelpie == NULL || out == NULL) {
        return kelpie__fail(error, KELPIE_E_MISUSE, 0, "kelpie_vm_create: an argument is NULL");
    }
    return create(kelpie, name, config, true, out, error);
}

int kelpie__vm_create_now(struct kelpie *kelpie, const char *name, struct kelpie_config *config,
                          struct kelpie_vm **out, struct kelpie_error *error) {
    KELPIE_ASSERT(kelpie != NULL);
    KELPIE_ASSERT(out != NULL);
    return create(kelpie, name, config, false, out, error);
}

/* ---- open and close -------------------------------------------------------------------------- */

/* The lock is held, but by whom? A killed process lets go of its descriptors one by one, in an
 * order of the kernel's: its connection may have ended, or even still be accepted, before its lock
 * is free. The kernel's own word is the flag PF_EXITING in proc_pid_stat(5). */
bool kelpie__vm_monitor_is_dying(const struct kelpie_vm *vm, int32_t monitor_pid) {
    char path[64];
    char text[1024];
    uint64_t flags = 0;
    struct kelpie_os *os = vm->kelpie->os;
    if (monitor_pid <= 0) {
        return false;
    }
    kelpie__ignore(kelpie__text_format(path, sizeof(path), "/proc/%d/stat", monitor_pid));
    if (kelpie__small_file_read_start(os, path, text, sizeof(text)) <= 0) {
        KELPIE_REACHED(os, "a lock is held by one who recovers");
        return true; /* gone: somebody else holds the lock, to recover it */
    }
    char *next = strrchr(text, ')'); /* the name may hold anything */
    for (unsigned field = 2; next != NULL && field < VM_STAT_FIELD_FLAGS; field += 1) {
        next = strchr(next + 1, ' ');
    }
    if (next == NULL) {
        return false;
    }
    KELPIE_ASSERT(*next == ' ');
    next[1 + strspn(next + 1, "0123456789")] = '\0';
    return kelpie__text_u64(next + 1, &flags) && (flags & VM_PF_EXITING) != 0;
}

static int fail_deleted(const struct kelpie_vm *vm, struct kelpie_error *error) {
    kelpie__vm_directory_check(&vm->directory);
    KELPIE_ASSERT(vm->directory.name[0] != '\0');
    return kelpie__fail(error, KELPIE_E_NOT_FOUND, 0,
                        "there is no VM \"%s\"; it was deleted meanwhile", vm->directory.name);
}

/* Its monitor is dead, or has been since the host went down. */
static bool is_for_recovery(const struct kelpie_vm *vm, const struct kelpie_vm_record *record) {
    return record->is_lost || kelpie__vm_monitor_is_dying(vm, record->monitor_pid);
}

/* Somebody holds the lock of a VM whose monitor is dead: whoever recovers it has no time (he may be
 * stopped). What he is to write is told now, since nobody may see the VM alive any more. */
static int vm_tell_recovered(struct kelpie_vm *vm, struct kelpie_vm_record *record,
                             struct kelpie_error *error) {
    struct kelpie_os *os = vm->kelpie->os;
    int status = kelpie__record_read_remains(os, vm->directory.vm, record, error);
    if (status < 0 || !is_for_recovery(vm, record)) {
        return status; /* of a new monitor, too */
    }
    KELPIE_REACHED(os, "a VM was seen whose recovery had no time");
    if (vm->directory.is_ephemeral) {
        return fail_deleted(vm, error);
    }
    if (kelpie__state_is_live(record->state)) {
        kelpie__vm_record_bury(os, record);
    }
    KELPIE_ASSERT(!kelpie__state_is_live(record->state));
    return 0;
}

/* Nobody owns it but its directory says that it lives: its monitor died. */
static int vm_recover_if_free(struct kelpie_vm *vm, struct kelpie_vm_record *record,
                              struct kelpie_error *error) {
    struct kelpie *kelpie = vm->kelpie;
    KELPIE_ASSERT(kelpie__state_is_live(record->state) || vm->directory.is_ephemeral);
    KELPIE_ASSERT(vm->directory.lock == KELPIE_OS_NO_HANDLE);
    int status = kelpie__vm_directory_lock(&vm->directory, NULL);
    for (unsigned i = 0; status == KELPIE_E_BUSY && i < VM_DYING_TURNS; i += 1) {
        if (!is_for_recovery(vm, record)) {
            return 0;
        }
        if (kelpie->loop->is_dispatching) { /* no time for turns */
            return record->is_lost ? vm_tell_recovered(vm, record, error) : 0;
        }
        KELPIE_REACHED(kelpie->os, "a monitor was dying");
        status = kelpie__turn(
            kelpie, kelpie__os_now(kelpie->os, KELPIE_OS_CLOCK_MONOTONIC) + VM_DYING_TURN_NS, NULL);
        status = status < 0 ? status : kelpie__vm_directory_lock(&vm->directory, NULL);
    }
    if (status == KELPIE_E_BUSY) {
        return vm_tell_recovered(vm, record, error);
    }
    if (status == 0) {
        status = kelpie__vm_directory_recover(&vm->directory, record, error);
        kelpie__vm_directory_unlock(&vm->directory);
        KELPIE_ASSERT(vm->directory.lock == KELPIE_OS_NO_HANDLE);
        return status;
    }
    return status == KELPIE_E_NOT_FOUND
               ? fail_deleted(vm, error)
               : kelpie__fail(error, status, 0, "lock VM \"%s\"", vm->directory.name);
}

int kelpie__vm_record(struct kelpie_vm *vm, struct kelpie_vm_record *out,
                      struct kelpie_error *error) {
    struct kelpie_error kept = {0};
    KELPIE_ASSERT(vm->directory.vm >= 0);
    int status = kelpie__record_read_remains(vm->kelpie->os, vm->directory.vm, out, &kept);
    if (!kelpie__vm_directory_is_current(&vm->directory)) { /* its files may be going, too */
        KELPIE_REACHED(vm->kelpie->os, "a VM was deleted by another");
        return fail_deleted(vm, error);
    }
    if (status < 0) {
        if (error != NULL) {
            *error = kept;
        }
        return status;
    }
    bool may_be_stale = kelpie__state_is_live(out->state) || vm->directory.is_ephemeral;
    KELPIE_ASSERT(!out->is_lost || kelpie__state_is_live(out->state));
    return may_be_stale ? vm_recover_if_free(vm, out, error) : 0;
}

/* Reads what the directory says. A VM whose files cannot be read is opened all the same, so that it
 * can be deleted; every other call then gives this error. */
static int open_read(struct kelpie_vm *vm, struct kelpie_error *error) {
    struct kelpie_vm_record record;
    struct kelpie_error kept = {0};
    KELPIE_ASSERT(vm->damage.code == 0);
    KELPIE_ASSERT(vm->wire == NULL);
    int status = kelpie__vm_directory_config(&vm->directory, vm->config, &kept);
    if (status == 0) {
        status = kelpie__vm_record(vm, &record, &kept);
    }
    bool is_there = kelpie__vm_directory_is_current(&vm->directory);
    if (status == KELPIE_E_IO && is_there) {
        KELPIE_ASSERT(kept.code == KELPIE_E_IO);
        KELPIE_REACHED(vm->kelpie->os, "a VM with damaged files was opened");
        kelpie__fail_prefix(&kept, "VM \"%s\"", vm->directory.name);
        vm->damage = kept;
        kelpie__config_defaults(vm->config);
        return 0;
    }
    if (status == KELPIE_E_IO) { /* a file of it was gone already */
        return fail_deleted(vm, error);
    }
    if (status < 0 && error != NULL) {
        *error = kept;
    }
    return status;
}

int kelpie_vm_open(struct kelpie *kelpie, const char *name, struct kelpie_vm **out,
                   struct kelpie_error *error) {
    if (kelpie == NULL || name == NULL || out == NULL) {
        return kelpie__fail(error, KELPIE_E_MISUSE, 0, "kelpie_vm_open: an argument is NULL");
    }
    struct kelpie_vm *vm = vm_allocate(kelpie, error);
    if (vm == NULL) {
        return KELPIE_E_MEMORY;
    }
    int status = kelpie__vm_directory_open(&vm->directory, &kelpie->places, name, error);
    if (status < 0) {
        goto fail_directory;
    }
    status = open_read(vm, error);
    if (status < 0) {
        goto fail_read;
    }
    vm_link(vm);
    *out = vm;
    return 0;
fail_read:
    kelpie__vm_directory_close(&vm->directory);
fail_directory:
    vm_free(vm);
    return status;
}

void kelpie__vm_release(struct kelpie_vm *vm) {
    if (vm == NULL) {
        return;
    }
    while (vm->execs != NULL) { /* bound: the list */
        struct kelpie_exec *exec = vm->execs;
        if (exec->drop != NULL) {
            exec->drop(exec->context);
        } else {
            kelpie_exec_close(exec);
        }
        KELPIE_ASSERT(vm->execs != exec);
    }
    kelpie__vm_stop_waiting(vm);
    KELPIE_ASSERT(vm->waiting == NULL);
    kelpie__operations_drop(vm);
    kelpie__vm_disconnect(vm);
    kelpie__vm_directory_close(&vm->directory);
    vm_unlink(vm);
    vm_free(vm);
}

void kelpie_vm_close(struct kelpie_vm *vm) {
    if (vm == NULL || kelpie__is_inherited(vm->kelpie)) {
        return;
    }
    kelpie__forks_drop(vm->kelpie, vm);
    kelpie__vm_release_waiting(vm);
    kelpie__vm_release(vm);
}

const char *kelpie_vm_name(const struct kelpie_vm *vm) {
    return vm->directory.name;
}

const char *kelpie_vm_id(const struct kelpie_vm *vm) {
    return vm->config->id;
}

/* ---- look at --------------------------------------------------------------------------------- */

static void fill_info(const struct kelpie_config_values *config,
                      const struct kelpie_vm_record *record, struct kelpie_vm_info *out) {
    out->state = record->state;
    out->cpus = (uint32_t)config->cpus;
    out->memory_mib = (uint32_t)config->memory_mib;
    out->disk_size_mib = config->disk_size_mib;
    out->is_read_only = config->is_read_only;
    out->is_ephemeral = config->is_ephemeral;
    out->lifetime = record->lifetime[0] == '\0'                        ? config->lifetime
                    : kelpie__text_equal(record->lifetime, "detached") ? KELPIE_LIFETIME_DETACHED
                                                                       : KELPIE_LIFETIME_OWNED;
    out->lease_end_ms = record->lease_end_ms;
    out->created_ms = config->created_ms;
    out->changed_ms = record->changed_ms;
    out->boot_us = record->boot_us;
    out->monitor_pid = record->monitor_pid;
    out->vmm_pid = record->vmm_pid;
#define COPY(field, from) kelpie__ignore(kelpie__text_copy(out->field, sizeof(out->field), from))
    COPY(id, config->id);
    COPY(name, config->name);
    COPY(reason, record->reason);
    COPY(backend, record->backend);
    COPY(backend_reason, record->backend_reason);
    COPY(pause, record->pause);
    COPY(accelerator, record->accelerator);
    COPY(accelerator_reason, record->accelerator_reason);
    COPY(origin, record->origin);
    COPY(parent, record->parent);
    COPY(pool, record->pool);
    COPY(root, config->root);
    COPY(kernel, record->kernel[0] != '\0' ? record->kernel : config->kernel);
#undef COPY
}

/* The VM of this record lives, and its monitor has more to say than it can write. */
static bool record_is_old(const struct kelpie_vm *vm, const struct kelpie_vm_record *record) {
    KELPIE_ASSERT(vm->directory.vm >= 0);
    return kelpie__state_is_live(record->state) && kelpie__vm_directory_is_doubted(&vm->directory);
}

int kelpie_vm_inspect(struct kelpie_vm *vm, struct kelpie_vm_info *out,
                      struct kelpie_error *error) {
    struct kelpie_vm_record record;
    if (vm == NULL || !kelpie__struct_is_sized(out)) {
        return kelpie__fail(error, KELPIE_E_MISUSE, 0,
                            "kelpie_vm_inspect: an argument is NULL, or struct_size is not set");
    }
    int status = kelpie__vm_check_damage(vm, error);
    if (status == 0) {
        status = kelpie__vm_record(vm, &record, error);
    }
    if (status == 0 && record_is_old(vm, &record)) {
        KELPIE_REACHED(vm->kelpie->os, "a state that is old was not told");
        status = kelpie__fail(error, KELPIE_E_IO, 0,
                              "%s/" KELPIE_RECORD_FILE " cannot be written by the monitor of VM "
                              "\"%s\", and is old (it says %s); see that the disk has room",
                              vm->directory.vm_path, vm->directory.name,
                              kelpie_vm_state_name(record.state));
    }
    if (status < 0) {
        return status;
    }
    struct kelpie_vm_info *info = kelpie__alloc(vm->kelpie->os, sizeof(*info));
    if (info == NULL) {
        return kelpie__fail(error, KELPIE_E_MEMORY, 0, "no memory to describe a VM");
    }
    info->struct_size = sizeof(*info);
    fill_info(vm->config, &record, info);
    kelpie__struct_give(out, out->struct_size, info, sizeof(*info));
    kelpie__free(vm->kelpie->os, info, sizeof(*info));
    return 0;
}

static int compare_names(const void *a, const void *b) {
    return strcmp(((const struct kelpie_vm_info *)a)->name,
                  ((const struct kelpie_vm_info *)b)->name);
}

/* Insertion keeps the list sorted: VMs are few, and qsort may allocate. */
static void list_insert(struct kelpie_vm_info *list, size_t count,
                        const struct kelpie_vm_info *info) {
    size_t place = count;
    while (place > 0 && compare_names(&list[place - 1], info) > 0) {
        list[place] = list[place - 1];
        place -= 1;
    }
    list[place] = *info;
    KELPIE_ASSERT(place <= count);
}

static int list_add(struct kelpie *kelpie, const char *name, struct kelpie_vm_info **inout_list,
                    size_t *inout_count, struct kelpie_error *error) {
    struct kelpie_vm *vm = NULL;
    struct kelpie_vm_info info = {.struct_size = sizeof(info)};
    struct kelpie_error why = {0};
    KELPIE_ASSERT((*inout_list == NULL) == (*inout_count == 0));
    int status = kelpie_vm_open(kelpie, name, &vm, &why);
    if (status == 0) {
        status = kelpie_vm_inspect(vm, &info, &why);
        kelpie_vm_close(vm);
    }
    if (status == KELPIE_E_NOT_FOUND) {
        return 0; /* deleted meanwhile */
    }
    if (status < 0) { /* one whose state cannot be told is listed, so that it can be deleted */
        info = (struct kelpie_vm_info){.struct_size = sizeof(info), .state = KELPIE_VM_CRASHED};
        kelpie__ignore(kelpie__text_copy(info.name, sizeof(info.name), name));
        kelpie__ignore(kelpie__text_format(info.reason, sizeof(info.reason),
                                           "its state cannot be told: %s", why.message));
    }
    size_t old_bytes = *inout_count * sizeof(info);
    struct kelpie_vm_info *larger =
        kelpie__resize(kelpie->os, *inout_list, old_bytes, old_bytes + sizeof(info));
    if (larger == NULL) {
        return kelpie__fail(error, KELPIE_E_MEMORY, 0, "no memory for the list of VMs");
    }
    list_insert(larger, *inout_count, &info);
    *inout_list = larger;
    *inout_count += 1;
    return 0;
}

int kelpie_list(struct kelpie *kelpie, struct kelpie_vm_info **out, size_t *out_count,
                struct kelpie_error *error) {
    struct kelpie_vm_directory_cursor cursor = {0};
    char name[KELPIE_NAME_BYTES_MAX + 1];
    struct kelpie_vm_info *list = NULL;
    size_t count = 0;
    if (kelpie == NULL || out == NULL || out_count == NULL) {
        return kelpie__fail(error, KELPIE_E_MISUSE, 0, "kelpie_list: an argument is NULL");
    }
    kelpie__vm_directory_prune(&kelpie->places, NULL);
    int status = kelpie__vm_directory_list(&kelpie->places, &cursor, name, error);
    while (status == 1) { /* bound: the directory */
        status = list_add(kelpie, name, &list, &count, error);
        if (status == 0) {
            status = kelpie__vm_directory_list(&kelpie->places, &cursor, name, error);
        }
    }
    if (status < 0) {
        kelpie_list_free(kelpie, list, count);
        return status;
    }
    KELPIE_ASSERT((list == NULL) == (count == 0));
    *out = list;
    *out_count = count;
    return 0;
}

void kelpie_list_free(struct kelpie *kelpie, struct kelpie_vm_info *list, size_t count) {
    if (count > 0) { /* another count than the list's is the embedder's mistake */
        kelpie__free(kelpie->os, list, count * sizeof(*list));
    }
}
