/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * The guest's memory inside QEMU's process: where it is, and copies of its private pages out of it
 * and back, in slices of at most 4 ms for each turn of the loop. Knows processes and files, not
 * QEMU's state.
 */
#ifndef KELPIE_VMM_QEMU_MEMORY_H
#define KELPIE_VMM_QEMU_MEMORY_H

#include "core/error.h"
#include "core/loop.h"
#include "os/os.h"
#include "vmm/qemu/qmp.h"

#define KELPIE_QEMU_PAGE_BYTES 4096u

/* `error` is NULL when status is 0. */
typedef void (*kelpie_qemu_memory_callback)(void *context, int status,
                                            const struct kelpie_error *error);

/* ---- where it is ----------------------------------------------------------------------------- */

struct kelpie_qemu_locate {
    struct kelpie_qmp *qmp; /* borrowed: until the callback, or its end */
    uint64_t memory_bytes;
    uint64_t address; /* the result: of the guest's first page in QEMU's process; else 0 */
    bool is_last;     /* the last page is being asked for */
    kelpie_qemu_memory_callback callback;
    void *context;
};

/* Asks QEMU for the first and the last page. Its map of memory cannot tell: neighbouring anonymous
 * mappings are one to the kernel. Errors: what QMP says, KELPIE_E_INTERNAL. */
KELPIE_MUST_CHECK int kelpie__qemu_locate(struct kelpie_qemu_locate *locate, struct kelpie_qmp *qmp,
                                          uint64_t memory_bytes,
                                          kelpie_qemu_memory_callback callback, void *context,
                                          struct kelpie_error *error);

/* ---- copying it ------------------------------------------------------------------------------ */

enum kelpie_qemu_copy_kind {
    KELPIE_QEMU_COPY_SAVE,  /* from QEMU to the files: every private page */
    KELPIE_QEMU_COPY_AHEAD, /* the same of a guest that runs, without the map, for a SAVE to come */
    KELPIE_QEMU_COPY_LOAD,  /* from the files to QEMU: every page whose bit is set */
};

/* What a file has already of a guest's memory. */
struct kelpie_qemu_ahead {
    uint8_t *bits;  /* of each page one, zeros at first; NULL: nothing is in advance */
    uint64_t *sums; /* of a page whose bit is set: the checksum of what the file has */
    /* 64 bits: one page in 10^19 that changed would be taken for the same. Drawn for each save, so
     * that no guest can change a page unseen: */
    uint64_t seed;
};

struct kelpie_qemu_copy_order {
    int32_t pid;
    uint64_t address;
    uint64_t memory_bytes;
    int memory; /* file: pages at their offsets */
    int map;    /* file: one bit a page; KELPIE_OS_NO_HANDLE: not written */
    /* Filled by AHEAD; a SAVE leaves out what is as it was. Without it nothing is. Borrowed: until
     * the callback. */
    struct kelpie_qemu_ahead ahead;
    enum kelpie_qemu_copy_kind kind;
};

struct kelpie_qemu_copy_buffers;

struct kelpie_qemu_copy {
    struct kelpie_os *os;     /* borrowed: until the callback or cancel */
    struct kelpie_loop *loop; /* same */
    struct kelpie_qemu_copy_order order;
    struct kelpie_qemu_copy_buffers *buffers; /* owned; NULL: not at work */
    struct kelpie_timer timer;
    uint64_t unit_page;  /* the first of the unit at hand */
    uint64_t unit_count; /* its pages; 0: the next one has not been read */
    uint64_t unit_next;  /* in the unit */
    uint64_t page_count; /* results */
    uint64_t stored_bytes;
    kelpie_qemu_memory_callback callback;
    void *context;
};

/* Begins. The callback comes once, from the loop. Errors of the callback: KELPIE_E_SNAPSHOT, or
 * KELPIE_E_RESTORE of a load. */
KELPIE_MUST_CHECK int kelpie__qemu_copy_start(struct kelpie_qemu_copy *copy, struct kelpie_os *os,
                                              struct kelpie_loop *loop,
                                              const struct kelpie_qemu_copy_order *order,
                                              kelpie_qemu_memory_callback callback, void *context,
                                              struct kelpie_error *error);
void kelpie__qemu_copy_cancel(struct kelpie_qemu_copy *copy); /* no callback comes any more */

#endif
