/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * A paused QEMU's state into files. The device state comes from xen-save-devices-state, which in
 * spite of its name is in every QEMU: it writes no memory, leaves the run state alone and may be
 * repeated, none of which `migrate` does. It gets its file as a descriptor. Then the private pages
 * are copied: most of them in advance, while the guest runs, so that only those that are others by
 * then are written while it stands.
 */
#include <string.h>

#include "core/limits.h"
#include "core/text.h"
#include "os/os_call.h"
#include "os/os_mark.h"
#include "vmm/qemu/instance.h"

/* of a device state: QEMU_VM_SECTION_FOOTER, the section's number, QEMU_VM_EOF */
#define SAVE_SECTION_FOOTER 0x7e
#define SAVE_END 0x00
#define SAVE_TAIL_BYTES 6u

static void save_ignore(void *context, int status, const struct kelpie_json_value *result,
                        const struct kelpie_error *error) {
    kelpie__ignore(context != NULL && status == 0 && result != NULL && error == NULL);
}

/* QEMU would keep the file open. Nobody waits for the answer: the guest stands still meanwhile, and
 * a QEMU that does not listen any more ends. */
static void save_remove_handle(struct kelpie_qemu *qemu) {
    char arguments[48];
    bool is_whole = kelpie__text_format(arguments, sizeof(arguments), "{\"fdset-id\":%u}",
                                        qemu->save.handle_set);
    KELPIE_ASSERT(is_whole);
    kelpie__ignore(kelpie__qemu_execute(qemu, "remove-fd", arguments, save_ignore, NULL));
}

static size_t save_page_count(const struct kelpie_qemu *qemu) {
    KELPIE_ASSERT(qemu->memory_bytes > 0 && qemu->memory_bytes % KELPIE_QEMU_PAGE_BYTES == 0);
    return (size_t)(qemu->memory_bytes / KELPIE_QEMU_PAGE_BYTES);
}

static size_t save_bits_bytes(const struct kelpie_qemu *qemu) {
    return (save_page_count(qemu) + 7) / 8;
}

static size_t save_sums_bytes(const struct kelpie_qemu *qemu) {
    return save_page_count(qemu) * sizeof(*qemu->save.ahead.sums);
}

void kelpie__qemu_save_forget(struct kelpie_qemu *qemu) {
    struct kelpie_qemu_ahead *ahead = &qemu->save.ahead;
    KELPIE_ASSERT(qemu->save.step == KELPIE_QEMU_SAVE_NONE);
    if (ahead->bits != NULL) {
        kelpie__free(qemu->os, ahead->bits, save_bits_bytes(qemu));
        kelpie__free(qemu->os, ahead->sums, save_sums_bytes(qemu));
        *ahead = (struct kelpie_qemu_ahead){0};
    }
}

static void save_end_step(struct kelpie_qemu *qemu) {
    kelpie__qemu_copy_cancel(&qemu->copy);
    qemu->save.step = KELPIE_QEMU_SAVE_NONE;
}

void kelpie__qemu_save_cancel(struct kelpie_qemu *qemu) {
    save_end_step(qemu);
    kelpie__qemu_save_forget(qemu);
}

static void save_finish(struct kelpie_qemu *qemu, int status, const struct kelpie_error *error) {
    struct kelpie_qemu_save *save = &qemu->save;
    struct kelpie_error own = {0};
    KELPIE_ASSERT(save->step != KELPIE_QEMU_SAVE_NONE);
    KELPIE_ASSERT(qemu->vmm.is_changing);
    KELPIE_ASSERT(status <= 0);
    if (save->step == KELPIE_QEMU_SAVE_DEVICES) {
        save_remove_handle(qemu);
    }
    if (save->step == KELPIE_QEMU_SAVE_AHEAD && status == 0) { /* the save itself comes next */
        save_end_step(qemu);
        kelpie__vmm_emit_done(&qemu->vmm, 0, NULL);
        return;
    }
    if (status == 0 && save->has_run) {
        error = &own;
        status = kelpie__fail(&own, KELPIE_E_SNAPSHOT, 0, "the guest ran while it was saved");
    }
    kelpie__qemu_save_cancel(qemu);
    if (status == 0) {
        KELPIE_ASSERT(save->out != NULL);
        *save->out = save->saved;
    }
    kelpie__vmm_emit_done(&qemu->vmm, status, error);
}

static void save_memory_copied(void *context, int status, const struct kelpie_error *error) {
    struct kelpie_qemu *qemu = context;
    KELPIE_ASSERT(qemu->save.step == KELPIE_QEMU_SAVE_MEMORY ||
                  qemu->save.step == KELPIE_QEMU_SAVE_AHEAD);
    qemu->save.saved.page_count = qemu->copy.page_count;
    qemu->save.saved.stored_bytes = qemu->copy.stored_bytes;
    save_finish(qemu, status, error);
}

/* Both files get their whole size first: what is not written is a hole. */
static int save_size_files(struct kelpie_qemu *qemu, struct kelpie_error *error) {
    const struct kelpie_vmm_save *order = &qemu->save.order;
    uint64_t page_count = qemu->memory_bytes / KELPIE_QEMU_PAGE_BYTES;
    KELPIE_ASSERT(!order->is_ahead);
    KELPIE_ASSERT(page_count % 8 == 0);
    int status = kelpie__os_truncate(qemu->os, order->memory, qemu->memory_bytes);
    if (status >= 0 && order->map != KELPIE_OS_NO_HANDLE) {
        status = kelpie__os_truncate(qemu->os, order->map, page_count / 8);
    }
    if (status < 0) {
        return kelpie__fail(error, KELPIE_E_SNAPSHOT, -status,
                            "make the file of the guest's memory %llu bytes long",
                            (unsigned long long)qemu->memory_bytes);
    }
    return 0;
}

static int save_memory(struct kelpie_qemu *qemu, enum kelpie_qemu_save_step step,
                       struct kelpie_error *error) {
    KELPIE_ASSERT(qemu->locate.address != 0);
    KELPIE_ASSERT(step == KELPIE_QEMU_SAVE_AHEAD || step == KELPIE_QEMU_SAVE_MEMORY);
    const struct kelpie_vmm_save *order = &qemu->save.order;
    const struct kelpie_qemu_copy_order copy = {
        .pid = qemu->vmm.pid,
        .address = qemu->locate.address,
        .memory_bytes = qemu->memory_bytes,
        .memory = order->memory,
        .map = order->map,
        .ahead = qemu->save.ahead,
        .kind = step == KELPIE_QEMU_SAVE_AHEAD ? KELPIE_QEMU_COPY_AHEAD : KELPIE_QEMU_COPY_SAVE,
    };
    qemu->save.step = step;
    int status = order->is_ahead ? 0 : save_size_files(qemu, error);
    if (status < 0) {
        return status;
    }
    return kelpie__qemu_copy_start(&qemu->copy, qemu->os, qemu->loop, &copy, save_memory_copied,
                                   qemu, error);
}

/* QEMU's word alone is not enough: an empty state makes a restore hang or die. */
static int save_check_devices(struct kelpie_qemu *qemu, struct kelpie_error *error) {
    KELPIE_ASSERT(qemu->save.step == KELPIE_QEMU_SAVE_DEVICES);
    struct kelpie_os_stat stat = {0};
    int status = kelpie__os_stat(qemu->os, qemu->save.order.device, "", false, &stat);
    if (status < 0) {
        return kelpie__fail(error, KELPIE_E_SNAPSHOT, -status, "look at the device state");
    }
    if (stat.size_bytes == 0) {
        return kelpie__fail(error, KELPIE_E_SNAPSHOT, 0,
                            "QEMU wrote no device state, and says that it did");
    }
    if (stat.size_bytes > KELPIE_DEVICE_STATE_BYTES_MAX) {
        return kelpie__fail(
            error, KELPIE_E_SNAPSHOT_TOO_LARGE, 0, "the device state has %llu bytes, at most %llu",
            (unsigned long long)stat.size_bytes, (unsigned long long)KELPIE_DEVICE_STATE_BYTES_MAX);
    }
    qemu->save.saved.device_bytes = stat.size_bytes;
    return 0;
}

/* A state begins with a magic word and a version; it ends with the footer of its last section,
 * which is a byte and the section's number, and the byte that ends all. QEMU loads one that was cut
 * off without a word: this is the only place where that is seen. */
int kelpie__qemu_check_devices(struct kelpie_os *os, int file, struct kelpie_error *error) {
    static const uint8_t head[] = {'Q', 'E', 'V', 'M', 0, 0, 0, 3};
    uint8_t bytes[sizeof(head)] = {0};
    uint8_t tail[SAVE_TAIL_BYTES] = {0};
    struct kelpie_os_stat stat = {0};
    int status = kelpie__os_stat(os, file, "", false, &stat);
    bool is_long = status == 0 && stat.size_bytes >= sizeof(head) + sizeof(tail);
    bool is_read = is_long &&
                   kelpie__os_pread(os, file, bytes, sizeof(bytes), 0) == sizeof(bytes) &&
                   kelpie__os_pread(os, file, tail, sizeof(tail), stat.size_bytes - sizeof(tail)) ==
                       sizeof(tail);
    if (KELPIE_CANARY(os, 5)) {
        return 0;
    }
    if (!is_read || memcmp(bytes, head, sizeof(head)) != 0 || tail[0] != SAVE_SECTION_FOOTER ||
        tail[sizeof(tail) - 1] != SAVE_END) {
        return kelpie__fail(error, KELPIE_E_SNAPSHOT, 0,
                            "QEMU wrote a device state of %llu bytes that is cut off, and says "
                            "that it is whole",
                            (unsigned long long)stat.size_bytes);
    }
    return 0;
}

static void save_answer(void *context, int status, const struct kelpie_json_value *result,
                        const struct kelpie_error *error);

static int save_add_handle(struct kelpie_qemu *qemu, struct kelpie_error *error) {
    char arguments[48];
    qemu->save.handle_set += 1;
    bool is_whole = kelpie__text_format(arguments, sizeof(arguments), "{\"fdset-id\":%u}",
                                        qemu->save.handle_set);
    KELPIE_ASSERT(is_whole);
    const struct kelpie_qmp_command command = {.name = "add-fd",
                                               .arguments = arguments,
                                               .handle = qemu->save.order.device,
                                               .timeout_ms = KELPIE_QEMU_TIMEOUT_MS};
    return kelpie__qmp_execute(qemu->qmp, &command, save_ignore, qemu, error);
}

/* Both at once: QEMU takes one after the other, and the guest stands still meanwhile. Without the
 * file the second one fails, and says so. */
static int save_devices(struct kelpie_qemu *qemu, struct kelpie_error *error) {
    KELPIE_ASSERT(qemu->save.out != NULL);
    char arguments[96];
    qemu->save.step = KELPIE_QEMU_SAVE_DEVICES;
    int status = save_add_handle(qemu, error);
    if (status < 0) {
        return status;
    }
    bool is_whole = kelpie__text_format(arguments, sizeof(arguments),
                                        "{\"filename\":\"/dev/fdset/%u\",\"live\":false}",
                                        qemu->save.handle_set);
    KELPIE_ASSERT(is_whole);
    return kelpie__qemu_execute(qemu, "xen-save-devices-state", arguments, save_answer, error);
}

/* Where the memory is, is known. */
static int save_begin(struct kelpie_qemu *qemu, struct kelpie_error *error) {
    KELPIE_ASSERT(qemu->locate.address != 0);
    return qemu->save.out == NULL ? save_memory(qemu, KELPIE_QEMU_SAVE_AHEAD, error)
                                  : save_devices(qemu, error);
}

/* What comes after the step that has just succeeded. */
static int save_next(struct kelpie_qemu *qemu, struct kelpie_error *error) {
    int status = 0;
    switch (qemu->save.step) {
    case KELPIE_QEMU_SAVE_LOCATE:
        return save_begin(qemu, error);
    case KELPIE_QEMU_SAVE_DEVICES:
        status = save_check_devices(qemu, error);
        if (status < 0) {
            return status;
        }
        save_remove_handle(qemu);
        return save_memory(qemu, KELPIE_QEMU_SAVE_MEMORY, error);
    case KELPIE_QEMU_SAVE_AHEAD:
    case KELPIE_QEMU_SAVE_MEMORY:
    case KELPIE_QEMU_SAVE_NONE:
        break;
    }
    KELPIE_ASSERT(false);
    return KELPIE_E_INTERNAL;
}

static void save_go_on(struct kelpie_qemu *qemu, int status, const struct kelpie_error *error) {
    struct kelpie_error own = {0};
    if (qemu->save.step == KELPIE_QEMU_SAVE_NONE) {
        return; /* cancelled meanwhile */
    }
    if (status == 0) {
        error = &own;
        status = save_next(qemu, &own);
    }
    if (status < 0) {
        save_finish(qemu, status, error);
    }
}

static void save_answer(void *context, int status, const struct kelpie_json_value *result,
                        const struct kelpie_error *error) {
    KELPIE_ASSERT(status < 0 || result != NULL);
    save_go_on(context, status, error);
}

static void save_located(void *context, int status, const struct kelpie_error *error) {
    save_go_on(context, status, error);
}

/* `out` NULL: in advance. */
static int save_start(struct kelpie_qemu *qemu, const struct kelpie_vmm_save *order,
                      struct kelpie_vmm_saved *out, struct kelpie_error *error) {
    struct kelpie_qemu_save *save = &qemu->save;
    KELPIE_ASSERT(save->step == KELPIE_QEMU_SAVE_NONE);
    KELPIE_ASSERT(qemu->qmp != NULL);
    KELPIE_ASSERT(order->device >= 0);
    KELPIE_ASSERT(order->memory >= 0);
    save->order = *order;
    save->out = out;
    save->saved = (struct kelpie_vmm_saved){0};
    save->has_run = false;
    save->step = KELPIE_QEMU_SAVE_LOCATE;
    /* It cannot move: asked for once. */
    int status = qemu->locate.address != 0
                     ? save_begin(qemu, error)
                     : kelpie__qemu_locate(&qemu->locate, qemu->qmp, qemu->memory_bytes,
                                           save_located, qemu, error);
    if (status < 0) {
        kelpie__qemu_save_cancel(qemu);
    }
    return status;
}

int kelpie__qemu_save_ahead(struct kelpie_vmm *vmm, const struct kelpie_vmm_save *order,
                            struct kelpie_error *error) {
    struct kelpie_qemu *qemu = kelpie__qemu_of(vmm);
    KELPIE_ASSERT(!order->is_ahead);
    int status = kelpie__qemu_check_settled(qemu, error);
    if (status < 0) {
        return status;
    }
    kelpie__qemu_save_forget(qemu);
    uint64_t seed = 0;
    status = kelpie__os_random(qemu->os, &seed, sizeof(seed));
    if (status < 0) {
        return kelpie__fail(error, KELPIE_E_IO, -status, "draw a seed to save memory");
    }
    uint8_t *bits = kelpie__alloc(qemu->os, save_bits_bytes(qemu));
    uint64_t *sums = bits == NULL ? NULL : kelpie__alloc_raw(qemu->os, save_sums_bytes(qemu));
    if (sums == NULL) {
        kelpie__free(qemu->os, bits, save_bits_bytes(qemu));
        return kelpie__fail(error, KELPIE_E_MEMORY, 0, "allocate %zu bytes to save memory",
                            save_bits_bytes(qemu) + save_sums_bytes(qemu));
    }
    qemu->save.ahead = (struct kelpie_qemu_ahead){.bits = bits, .sums = sums, .seed = seed};
    return save_start(qemu, order, NULL, error);
}

int kelpie__qemu_save(struct kelpie_vmm *vmm, const struct kelpie_vmm_save *order,
                      struct kelpie_vmm_saved *out, struct kelpie_error *error) {
    struct kelpie_qemu *qemu = kelpie__qemu_of(vmm);
    KELPIE_ASSERT(out != NULL);
    int status = kelpie__qemu_check_settled(qemu, error);
    if (status < 0) {
        return status;
    }
    if (!order->is_ahead) {
        kelpie__qemu_save_forget(qemu); /* it is of other files */
    }
    KELPIE_ASSERT(order->is_ahead == (qemu->save.ahead.bits != NULL));
    return save_start(qemu, order, out, error);
}
