/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * See memory.h. What is copied are the pages that are private to QEMU (page_map of os.h).
 */
#include "vmm/qemu/memory.h"

#include <errno.h>
#include <string.h>

#include "core/checksum.h"
#include "core/limits.h"
#include "core/text.h"
#include "os/os_call.h"

#define LOCATE_TIMEOUT_MS 5000u
#define LOCATE_TEXT_BYTES_MAX 160u
/* microvm's memory is one block, seen by the guest in two parts: up to 3 GiB, and from 4 GiB. */
#define LOCATE_LOW_BYTES (UINT64_C(3) << 30)
#define LOCATE_HIGH_ADDRESS (UINT64_C(4) << 30)
#define LOCATE_ADDRESS_MAX (UINT64_C(1) << 56) /* of a process, with five levels of page tables */

/* Whose bits are looked at together, 64 MiB of the guest's memory: where all are present, the
 * kernel takes 1.4 ms to tell. */
#define COPY_UNIT_PAGES 16384u
#define COPY_RUN_PAGES 64u                      /* copied at once */
#define COPY_SLICE_NS (2500 * KELPIE_NS_PER_US) /* and what was begun: 4 ms at most */
#define COPY_SLICE_STEPS 256u
#define COPY_WRITES_MAX 16u

struct kelpie_qemu_copy_buffers {
    _Alignas(uint64_t) uint8_t bits[COPY_UNIT_PAGES / 8];
    uint8_t data[COPY_RUN_PAGES * KELPIE_QEMU_PAGE_BYTES];
};

static_assert(COPY_UNIT_PAGES % 64 == 0, "a unit is whole words of the map");

/* ---- where it is ----------------------------------------------------------------------------- */

/* "Host virtual address for 0x0 (memory) is 0x7f24efe00000": false for any other text. */
static bool locate_parse(const char *text, uint64_t *out) {
    static const char digits[] = "0123456789abcdef";
    const char *place = strstr(text, " is 0x");
    uint64_t value = 0;
    if (place == NULL) {
        return false;
    }
    place += strlen(" is 0x");
    size_t length = strspn(place, digits);
    if (length == 0 || length > 16) {
        return false;
    }
    for (size_t i = 0; i < length; i += 1) {
        const char *digit = strchr(digits, place[i]);
        KELPIE_ASSERT(digit != NULL);
        value = value << 4 | (uint64_t)(digit - digits);
    }
    *out = value;
    return true;
}

static uint64_t locate_guest_address(const struct kelpie_qemu_locate *locate) {
    uint64_t last = locate->memory_bytes - KELPIE_QEMU_PAGE_BYTES;
    if (!locate->is_last) {
        return 0;
    }
    return last < LOCATE_LOW_BYTES ? last : last - LOCATE_LOW_BYTES + LOCATE_HIGH_ADDRESS;
}

static void locate_answer(void *context, int status, const struct kelpie_json_value *result,
                          const struct kelpie_error *error);

static int locate_ask(struct kelpie_qemu_locate *locate, struct kelpie_error *error) {
    char arguments[96];
    bool is_whole =
        kelpie__text_format(arguments, sizeof(arguments), "{\"command-line\":\"gpa2hva 0x%llx\"}",
                            (unsigned long long)locate_guest_address(locate));
    KELPIE_ASSERT(is_whole);
    const struct kelpie_qmp_command command = {.name = "human-monitor-command",
                                               .arguments = arguments,
                                               .handle = KELPIE_OS_NO_HANDLE,
                                               .timeout_ms = LOCATE_TIMEOUT_MS};
    return kelpie__qmp_execute(locate->qmp, &command, locate_answer, locate, error);
}

/* Its address, whatever it is, is used on QEMU's own process alone. */
static int locate_take(struct kelpie_qemu_locate *locate, const struct kelpie_json_value *result,
                       struct kelpie_error *error) {
    KELPIE_ASSERT(locate->memory_bytes >= KELPIE_QEMU_PAGE_BYTES);
    char text[LOCATE_TEXT_BYTES_MAX] = "";
    uint64_t address = 0;
    bool is_known =
        kelpie__json_string(result, text, sizeof(text), NULL) == 0 && locate_parse(text, &address);
    text[strcspn(text, "\r\n")] = '\0';
    if (!is_known) {
        return kelpie__fail(error, KELPIE_E_INTERNAL, 0,
                            "QEMU does not say where the guest's memory is: \"%s\"", text);
    }
    if (!locate->is_last) {
        locate->address = address;
    }
    bool is_right = address % KELPIE_QEMU_PAGE_BYTES == 0 && address > 0 &&
                    address < LOCATE_ADDRESS_MAX &&
                    (!locate->is_last ||
                     address - locate->address == locate->memory_bytes - KELPIE_QEMU_PAGE_BYTES);
    if (!is_right) {
        return kelpie__fail(error, KELPIE_E_INTERNAL, 0,
                            "QEMU's %llu bytes of guest memory are not in one piece: \"%s\"",
                            (unsigned long long)locate->memory_bytes, text);
    }
    return 0;
}

static void locate_answer(void *context, int status, const struct kelpie_json_value *result,
                          const struct kelpie_error *error) {
    KELPIE_ASSERT(status <= 0);
    struct kelpie_qemu_locate *locate = context;
    struct kelpie_error own = {0};
    if (status == 0) {
        error = &own;
        status = locate_take(locate, result, &own);
    }
    if (status == 0 && !locate->is_last) {
        locate->is_last = true;
        status = locate_ask(locate, &own);
        if (status == 0) {
            return;
        }
    }
    if (status < 0) {
        locate->address = 0; /* nothing that was not proved is kept */
    }
    locate->callback(locate->context, status, status < 0 ? error : NULL);
}

int kelpie__qemu_locate(struct kelpie_qemu_locate *locate, struct kelpie_qmp *qmp,
                        uint64_t memory_bytes, kelpie_qemu_memory_callback callback, void *context,
                        struct kelpie_error *error) {
    KELPIE_ASSERT(callback != NULL);
    KELPIE_ASSERT(memory_bytes > 0 && memory_bytes % KELPIE_QEMU_PAGE_BYTES == 0);
    *locate = (struct kelpie_qemu_locate){
        .qmp = qmp, .memory_bytes = memory_bytes, .callback = callback, .context = context};
    return locate_ask(locate, error);
}

/* ---- copying it ------------------------------------------------------------------------------ */

static void copy_check(const struct kelpie_qemu_copy *copy) {
    KELPIE_ASSERT(copy->buffers != NULL);
    KELPIE_ASSERT(copy->unit_page + copy->unit_count <=
                  copy->order.memory_bytes / KELPIE_QEMU_PAGE_BYTES);
    KELPIE_ASSERT(copy->unit_next <= copy->unit_count);
    KELPIE_ASSERT(copy->stored_bytes <= copy->page_count * KELPIE_QEMU_PAGE_BYTES);
}

static bool copy_bit(const struct kelpie_qemu_copy *copy, uint64_t index) {
    KELPIE_ASSERT(index < COPY_UNIT_PAGES);
    return (copy->buffers->bits[index / 8] >> (index % 8) & 1) != 0;
}

/* The first page from that one on whose bit is set, or the unit's end: most of a unit has none, and
 * is passed by words. */
static uint64_t copy_next(const struct kelpie_qemu_copy *copy, uint64_t from) {
    uint64_t next = from;
    uint64_t word = 0;
    while (next < copy->unit_count && word == 0) { /* bound: the unit */
        memcpy(&word, &copy->buffers->bits[next / 64 * 8], sizeof(word));
        word >>= next % 64; /* little-endian, as the seam's bits are */
        next = word != 0 ? next + (uint64_t)__builtin_ctzll(word) : (next / 64 + 1) * 64;
    }
    KELPIE_ASSERT(next >= from);
    return kelpie__min_u64(next, copy->unit_count);
}

static bool bytes_are_zero(const uint8_t *bytes, size_t count) {
    KELPIE_ASSERT(count > 0);
    return bytes[0] == 0 && memcmp(bytes, bytes + 1, count - 1) == 0;
}

static int copy_code(const struct kelpie_qemu_copy *copy, int os_error) {
    if (copy->order.kind == KELPIE_QEMU_COPY_LOAD) {
        return KELPIE_E_RESTORE;
    }
    return os_error == ESRCH ? KELPIE_E_CRASHED : KELPIE_E_SNAPSHOT; /* QEMU has just died */
}

static int copy_fail(const struct kelpie_qemu_copy *copy, int64_t status, const char *what,
                     uint64_t offset, struct kelpie_error *error) {
    int os_error = status < 0 ? (int)-status : EIO; /* a part of what was asked for */
    kelpie__ignore(kelpie__fail(error, copy_code(copy, os_error), os_error,
                                "%s of the guest's memory, at %llu of %llu bytes", what,
                                (unsigned long long)offset,
                                (unsigned long long)copy->order.memory_bytes));
    if (os_error == EPERM || os_error == EACCES) {
        kelpie__fail_append(error, "; QEMU's memory is closed to us: look at "
                                   "kernel.yama.ptrace_scope, 1 at most");
    } else if (os_error == ENOSPC || os_error == EDQUOT) {
        kelpie__fail_append(error, "; make room, or delete snapshots");
    }
    return copy_code(copy, os_error);
}

/* A file system may write a part, and only then say that it is full. */
static int64_t copy_write(struct kelpie_qemu_copy *copy, int file, const uint8_t *bytes,
                          size_t count, uint64_t offset) {
    KELPIE_ASSERT(count > 0);
    KELPIE_ASSERT(offset + count <= copy->order.memory_bytes);
    size_t done = 0;
    for (uint32_t budget = COPY_WRITES_MAX; done < count && budget > 0; budget -= 1) {
        int64_t written =
            kelpie__os_pwrite(copy->os, file, bytes + done, count - done, offset + done);
        if (written < 0 && written != -EINTR) {
            return written;
        }
        done += written > 0 ? (size_t)written : 0;
    }
    return (int64_t)done;
}

static bool copy_is_ahead(const struct kelpie_qemu_copy *copy, uint64_t page) {
    const uint8_t *bits = copy->order.ahead.bits;
    return bits != NULL && (bits[page / 8] >> (page % 8) & 1) != 0;
}

/* A page that was written in advance and is the VM's no more: QEMU gave it back. What the file has
 * of it would come back with a restore. */
static int copy_take_back(struct kelpie_qemu_copy *copy, uint64_t page,
                          struct kelpie_error *error) {
    uint64_t offset = page * KELPIE_QEMU_PAGE_BYTES;
    uint8_t *zeros = copy->buffers->data;
    KELPIE_ASSERT(copy->order.kind == KELPIE_QEMU_COPY_SAVE && copy_is_ahead(copy, page));
    memset(zeros, 0, KELPIE_QEMU_PAGE_BYTES);
    int64_t written = copy_write(copy, copy->order.memory, zeros, KELPIE_QEMU_PAGE_BYTES, offset);
    return written == (int64_t)KELPIE_QEMU_PAGE_BYTES
               ? 0
               : copy_fail(copy, written, "take back a part", offset, error);
}

/* The same for a word of the unit's bits, from this byte of them on. */
static uint64_t copy_gone(const struct kelpie_qemu_copy *copy, const uint8_t *ahead, size_t at) {
    uint64_t was = 0;
    uint64_t is = 0;
    KELPIE_ASSERT(at + sizeof(is) <= sizeof(copy->buffers->bits));
    memcpy(&was, ahead, sizeof(was));
    memcpy(&is, &copy->buffers->bits[at], sizeof(is));
    return was & ~is;
}

/* Those of the unit that were written in advance, and are not private any more. */
static int copy_take_back_unit(struct kelpie_qemu_copy *copy, struct kelpie_error *error) {
    const uint8_t *ahead = &copy->order.ahead.bits[copy->unit_page / 8];
    size_t bytes = (size_t)(copy->unit_count + 7) / 8;
    int status = 0;
    KELPIE_ASSERT(copy->unit_page % 8 == 0);
    KELPIE_ASSERT(copy->order.ahead.bits != NULL);
    for (size_t i = 0; i < bytes && status == 0; i += 1) {
        while (bytes - i > sizeof(uint64_t) && copy_gone(copy, &ahead[i], i) == 0) {
            i += sizeof(uint64_t); /* bound: the unit; of most words none is gone */
        }
        unsigned gone = ahead[i] & ~(unsigned)copy->buffers->bits[i];
        for (unsigned bit = 0; bit < 8 && gone >> bit != 0 && status == 0; bit += 1) {
            if ((gone >> bit & 1) != 0) {
                status = copy_take_back(copy, copy->unit_page + i * 8 + bit, error);
            }
        }
    }
    return status;
}

/* Which pages of the unit are private: from QEMU's page map, and into the map. */
static int copy_unit_look(struct kelpie_qemu_copy *copy, struct kelpie_error *error) {
    uint8_t *bits = copy->buffers->bits;
    size_t bytes = (size_t)(copy->unit_count + 7) / 8;
    uint64_t offset = copy->unit_page * KELPIE_QEMU_PAGE_BYTES;
    bool is_second = copy->order.kind == KELPIE_QEMU_COPY_SAVE && copy->order.ahead.bits != NULL;
    KELPIE_ASSERT(copy->order.kind != KELPIE_QEMU_COPY_LOAD);
    int status = kelpie__os_page_map(copy->os, copy->order.pid, copy->order.address + offset, bits,
                                     (size_t)copy->unit_count);
    if (status < 0) {
        return copy_fail(copy, status, "read the page map", offset, error);
    }
    if (is_second) {
        status = copy_take_back_unit(copy, error);
    }
    if (status == 0 && bytes_are_zero(bits, bytes)) {
        copy->unit_next = copy->unit_count; /* of most units no page is private */
        return 0;
    }
    if (status < 0 || copy->order.map == KELPIE_OS_NO_HANDLE ||
        copy->order.kind == KELPIE_QEMU_COPY_AHEAD) {
        return status;
    }
    int64_t written = copy_write(copy, copy->order.map, bits, bytes, copy->unit_page / 8);
    return written == (int64_t)bytes
               ? 0
               : copy_fail(copy, written, "write the map of changes", offset, error);
}

/* Which pages of the unit have to be laid: from the map. */
static int copy_unit_read(struct kelpie_qemu_copy *copy, struct kelpie_error *error) {
    KELPIE_ASSERT(copy->order.kind == KELPIE_QEMU_COPY_LOAD);
    KELPIE_ASSERT(copy->order.map >= 0);
    size_t bytes = (size_t)(copy->unit_count + 7) / 8;
    int64_t got = kelpie__os_pread(copy->os, copy->order.map, copy->buffers->bits, bytes,
                                   copy->unit_page / 8);
    if (got != (int64_t)bytes) {
        return copy_fail(copy, got, "read the map of changes",
                         copy->unit_page * KELPIE_QEMU_PAGE_BYTES, error);
    }
    return 0;
}

static int copy_unit_begin(struct kelpie_qemu_copy *copy, struct kelpie_error *error) {
    uint64_t left = copy->order.memory_bytes / KELPIE_QEMU_PAGE_BYTES - copy->unit_page;
    KELPIE_ASSERT(copy->unit_count == 0 && left > 0);
    copy->unit_count = left < COPY_UNIT_PAGES ? left : COPY_UNIT_PAGES;
    copy->unit_next = 0;
    memset(copy->buffers->bits, 0, sizeof(copy->buffers->bits));
    return copy->order.kind == KELPIE_QEMU_COPY_LOAD ? copy_unit_read(copy, error)
                                                     : copy_unit_look(copy, error);
}

/* Whether a page has to be written: those of zeros are holes, but over what was written in advance.
 */
static bool copy_wants(struct kelpie_qemu_copy *copy, uint64_t page, const uint8_t *bytes) {
    const struct kelpie_qemu_ahead *ahead = &copy->order.ahead;
    if (copy->order.kind == KELPIE_QEMU_COPY_SAVE && copy_is_ahead(copy, page)) {
        copy->stored_bytes += KELPIE_QEMU_PAGE_BYTES; /* it is there, as it is or anew */
        return kelpie__checksum_seeded(bytes, KELPIE_QEMU_PAGE_BYTES, ahead->seed) !=
               ahead->sums[page];
    }
    if (bytes_are_zero(bytes, KELPIE_QEMU_PAGE_BYTES)) {
        return false;
    }
    if (copy->order.kind == KELPIE_QEMU_COPY_AHEAD) {
        ahead->bits[page / 8] = (uint8_t)(ahead->bits[page / 8] | 1u << page % 8);
        ahead->sums[page] = kelpie__checksum_seeded(bytes, KELPIE_QEMU_PAGE_BYTES, ahead->seed);
    }
    copy->stored_bytes += KELPIE_QEMU_PAGE_BYTES;
    return true;
}

/* Writes what has to be, in pieces as long as possible. */
static int copy_store(struct kelpie_qemu_copy *copy, uint64_t page, size_t page_count,
                      struct kelpie_error *error) {
    KELPIE_ASSERT(page_count <= COPY_RUN_PAGES);
    KELPIE_ASSERT(copy->order.kind != KELPIE_QEMU_COPY_LOAD);
    const uint8_t *data = copy->buffers->data;
    size_t first = 0;
    for (size_t i = 0; i <= page_count; i += 1) {
        if (i < page_count && copy_wants(copy, page + i, data + i * KELPIE_QEMU_PAGE_BYTES)) {
            continue;
        }
        size_t bytes = (i - first) * KELPIE_QEMU_PAGE_BYTES;
        uint64_t at = (page + first) * KELPIE_QEMU_PAGE_BYTES;
        if (bytes > 0) {
            int64_t written = copy_write(copy, copy->order.memory,
                                         data + first * KELPIE_QEMU_PAGE_BYTES, bytes, at);
            if (written != (int64_t)bytes) {
                return copy_fail(copy, written, "write a part", at, error);
            }
        }
        first = i + 1;
    }
    return 0;
}

static int copy_run(struct kelpie_qemu_copy *copy, uint64_t page, size_t page_count,
                    struct kelpie_error *error) {
    KELPIE_ASSERT(page_count > 0 && page_count <= COPY_RUN_PAGES);
    uint8_t *data = copy->buffers->data;
    size_t bytes = page_count * KELPIE_QEMU_PAGE_BYTES;
    uint64_t offset = page * KELPIE_QEMU_PAGE_BYTES;
    uint64_t address = copy->order.address + offset;
    KELPIE_ASSERT(offset + bytes <= copy->order.memory_bytes);
    copy->page_count += page_count;
    if (copy->order.kind != KELPIE_QEMU_COPY_LOAD) {
        int64_t got = kelpie__os_read_memory(copy->os, copy->order.pid, address, data, bytes);
        return got == (int64_t)bytes ? copy_store(copy, page, page_count, error)
                                     : copy_fail(copy, got, "read a part", offset, error);
    }
    int64_t got = kelpie__os_pread(copy->os, copy->order.memory, data, bytes, offset);
    if (got != (int64_t)bytes) {
        return copy_fail(copy, got, "read a part", offset, error);
    }
    got = kelpie__os_write_memory(copy->os, copy->order.pid, address, data, bytes);
    if (got != (int64_t)bytes) {
        return copy_fail(copy, got, "lay a part", offset, error);
    }
    copy->stored_bytes += bytes;
    return 0;
}

/* The next of its pages that are there, as many as follow each other: there are some. */
static int copy_unit_run(struct kelpie_qemu_copy *copy, struct kelpie_error *error) {
    uint64_t next = copy_next(copy, copy->unit_next);
    uint64_t end = next;
    KELPIE_ASSERT(next < copy->unit_count);
    while (end < copy->unit_count && end - next < COPY_RUN_PAGES && copy_bit(copy, end)) {
        end += 1;
    }
    copy->unit_next = end;
    return copy_run(copy, copy->unit_page + next, (size_t)(end - next), error);
}

/* One unit's bits, or one run of its pages; where that was its last, the unit is over. */
static int copy_step(struct kelpie_qemu_copy *copy, struct kelpie_error *error) {
    copy_check(copy);
    int status = copy->unit_count == 0 ? copy_unit_begin(copy, error) : copy_unit_run(copy, error);
    if (status == 0 && copy_next(copy, copy->unit_next) == copy->unit_count) {
        copy->unit_page += copy->unit_count;
        copy->unit_count = 0;
        copy->unit_next = 0;
    }
    return status;
}

static void copy_finish(struct kelpie_qemu_copy *copy, int status,
                        const struct kelpie_error *error) {
    kelpie__qemu_copy_cancel(copy);
    KELPIE_ASSERT(copy->buffers == NULL);
    copy->callback(copy->context, status, error);
}

static void copy_slice(void *context) {
    struct kelpie_qemu_copy *copy = context;
    struct kelpie_error error = {0};
    const int64_t start_ns = copy->loop->now_ns;
    uint64_t page_count = copy->order.memory_bytes / KELPIE_QEMU_PAGE_BYTES;
    copy_check(copy);
    for (uint32_t budget = COPY_SLICE_STEPS; budget > 0; budget -= 1) {
        int status = copy_step(copy, &error);
        if (status < 0) {
            copy_finish(copy, status, &error);
            return;
        }
        if (copy->unit_page == page_count) {
            copy_finish(copy, 0, NULL);
            return;
        }
        if (kelpie__os_now(copy->os, KELPIE_OS_CLOCK_MONOTONIC) - start_ns >= COPY_SLICE_NS) {
            break;
        }
    }
    kelpie__timer_arm(copy->loop, &copy->timer, copy->loop->now_ns, copy_slice, copy);
}

int kelpie__qemu_copy_start(struct kelpie_qemu_copy *copy, struct kelpie_os *os,
                            struct kelpie_loop *loop, const struct kelpie_qemu_copy_order *order,
                            kelpie_qemu_memory_callback callback, void *context,
                            struct kelpie_error *error) {
    KELPIE_ASSERT(copy->buffers == NULL && callback != NULL);
    KELPIE_ASSERT(order->memory_bytes % KELPIE_QEMU_PAGE_BYTES == 0 && order->memory_bytes > 0);
    KELPIE_ASSERT(order->kind != KELPIE_QEMU_COPY_LOAD || order->map >= 0);
    KELPIE_ASSERT(order->kind != KELPIE_QEMU_COPY_AHEAD || order->ahead.bits != NULL);
    struct kelpie_qemu_copy_buffers *buffers = kelpie__alloc_raw(os, sizeof(*buffers));
    if (buffers == NULL) {
        return kelpie__fail(error, KELPIE_E_MEMORY, 0, "allocate %zu bytes to copy memory",
                            sizeof(*buffers));
    }
    *copy = (struct kelpie_qemu_copy){.os = os,
                                      .loop = loop,
                                      .order = *order,
                                      .buffers = buffers,
                                      .callback = callback,
                                      .context = context};
    copy_check(copy);
    kelpie__timer_arm(loop, &copy->timer, loop->now_ns, copy_slice, copy);
    return 0;
}

void kelpie__qemu_copy_cancel(struct kelpie_qemu_copy *copy) {
    if (copy->buffers == NULL) {
        return;
    }
    kelpie__timer_disarm(copy->loop, &copy->timer);
    kelpie__free(copy->os, copy->buffers, sizeof(*copy->buffers));
    copy->buffers = NULL;
    KELPIE_ASSERT(!kelpie__timer_is_armed(&copy->timer));
}
