/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * The content of files, as processes see it: read, write, cut, copy. What changes is told to
 * disk_pending.c, and pages are counted against the space of the file system.
 */
#include <errno.h>
#include <string.h>

#include "sim/disk_internal.h"

/* The pages of a file changed in number. */
static void data_account(struct sim_inode *inode, uint64_t count_before) {
    struct sim_mount *mount = inode->mount;
    mount->used_bytes += (inode->pages.count - count_before) * SIM_PAGE_BYTES; /* modulo 2^64 */
    KELPIE_ASSERT(mount->used_bytes <= INT64_MAX);
}

static bool data_has_room(const struct sim_inode *inode, uint64_t page) {
    const struct sim_mount *mount = inode->mount;
    return mount->used_bytes + SIM_PAGE_BYTES <= mount->capacity_bytes ||
           kelpie__sim_pages_get(&inode->pages, page) != NULL;
}

/* A part within one page. 0 or -ENOSPC. */
static int data_write_page(struct sim_inode *inode, const void *bytes, uint32_t count,
                           uint64_t offset) {
    struct sim_heap *heap = inode->mount->disk->heap;
    uint64_t page = offset / SIM_PAGE_BYTES;
    uint32_t within = (uint32_t)(offset % SIM_PAGE_BYTES);
    uint64_t count_before = inode->pages.count;
    KELPIE_ASSERT(count > 0 && within + count <= SIM_PAGE_BYTES);
    if (!data_has_room(inode, page)) {
        return -ENOSPC;
    }
    struct sim_buffer *buffer =
        kelpie__sim_pages_own(heap, &inode->pages, page, within, within + count);
    if (buffer == NULL) {
        return -ENOSPC;
    }
    memcpy(buffer->bytes + within, bytes, count);
    data_account(inode, count_before);
    if (kelpie__sim_inode_is_recorded(inode)) {
        kelpie__sim_pending_data(inode, page, buffer, within, count);
    }
    return 0;
}

static void data_set_size(struct sim_inode *inode, uint64_t size) {
    bool is_shrink = size < inode->size;
    KELPIE_ASSERT(size <= SIM_FILE_BYTES_MAX);
    if (size != inode->size && kelpie__sim_inode_is_recorded(inode)) {
        kelpie__sim_pending_size(inode, size, is_shrink);
    }
    inode->size = size;
}

int64_t kelpie__sim_inode_write(struct sim_inode *inode, const void *bytes, size_t count,
                                uint64_t offset) {
    const uint8_t *from = bytes;
    size_t done = 0;
    int status = 0;
    KELPIE_ASSERT(inode->kind == KELPIE_OS_KIND_FILE);
    if (count == 0) {
        return 0;
    }
    if (offset >= SIM_FILE_BYTES_MAX) {
        return -EFBIG;
    }
    count = (size_t)kelpie__min_u64(count, SIM_FILE_BYTES_MAX - offset);
    while (done < count && status == 0) { /* a page each turn */
        uint64_t at = offset + done;
        uint64_t part = kelpie__min_u64(SIM_PAGE_BYTES - at % SIM_PAGE_BYTES, count - done);
        status = data_write_page(inode, from + done, (uint32_t)part, at);
        done += status == 0 ? (size_t)part : 0;
    }
    if (done == 0) {
        return status;
    }
    if (offset + done > inode->size) {
        data_set_size(inode, offset + done);
    }
    kelpie__sim_inode_touch(inode);
    return (int64_t)done;
}

int64_t kelpie__sim_inode_read(struct sim_inode *inode, void *out, size_t count, uint64_t offset) {
    if (offset >= inode->size) {
        return 0;
    }
    count = (size_t)kelpie__min_u64(count, inode->size - offset);
    KELPIE_ASSERT(count <= INT64_MAX);
    kelpie__sim_pages_read(&inode->pages, out, count, offset);
    return (int64_t)count;
}

int kelpie__sim_inode_truncate(struct sim_inode *inode, uint64_t size) {
    uint64_t count_before = inode->pages.count;
    KELPIE_ASSERT(inode->kind == KELPIE_OS_KIND_FILE);
    if (size > SIM_FILE_BYTES_MAX) {
        return -EFBIG;
    }
    if (size < inode->size &&
        !kelpie__sim_pages_trim(inode->mount->disk->heap, &inode->pages, size)) {
        return -ENOSPC;
    }
    data_account(inode, count_before);
    data_set_size(inode, size);
    kelpie__sim_inode_touch(inode);
    return 0;
}

/* Whole pages: shared until one side writes. 0 or -ENOSPC. */
static int data_share_page(struct sim_inode *from, uint64_t from_page, struct sim_inode *to,
                           uint64_t to_page) {
    struct sim_heap *heap = to->mount->disk->heap;
    struct sim_buffer *buffer = kelpie__sim_pages_get(&from->pages, from_page);
    uint64_t count_before = to->pages.count;
    KELPIE_ASSERT(buffer != NULL);
    if (!data_has_room(to, to_page) || !kelpie__sim_pages_set(heap, &to->pages, to_page, buffer)) {
        return -ENOSPC;
    }
    data_account(to, count_before);
    if (kelpie__sim_inode_is_recorded(to)) {
        kelpie__sim_pending_data(to, to_page, buffer, 0, SIM_PAGE_BYTES);
    }
    return 0;
}

static int data_copy_bytes(struct sim_inode *from, uint64_t from_offset, struct sim_inode *to,
                           uint64_t to_offset, uint64_t count) {
    uint8_t bytes[SIM_PAGE_BYTES];
    for (uint64_t done = 0; done < count;) { /* a byte at least, each turn */
        uint64_t part = kelpie__min_u64(sizeof(bytes), count - done);
        int64_t got = kelpie__sim_inode_read(from, bytes, (size_t)part, from_offset + done);
        KELPIE_ASSERT(got == (int64_t)part); /* it was compared with the size */
        int64_t put = kelpie__sim_inode_write(to, bytes, (size_t)got, to_offset + done);
        if (put < got) {
            return put < 0 ? (int)put : -ENOSPC;
        }
        done += (uint64_t)got;
    }
    return 0;
}

/* Pages that the source does not have become zeros where the target has one. */
static int data_share(struct sim_inode *from, uint64_t from_offset, struct sim_inode *to,
                      uint64_t to_offset, uint64_t count) {
    static const uint8_t zeros[SIM_PAGE_BYTES];
    uint64_t first = from_offset / SIM_PAGE_BYTES;
    uint64_t shift = to_offset / SIM_PAGE_BYTES - first; /* modulo 2^64 */
    uint64_t end = first + count / SIM_PAGE_BYTES;
    for (uint64_t page = first; page < end;) { /* goes on by one at least */
        uint64_t data = kelpie__min_u64(kelpie__sim_pages_next(&from->pages, page), end);
        uint64_t stale = kelpie__sim_pages_next(&to->pages, page + shift);
        if (stale != UINT64_MAX && stale - shift < data) { /* before the source's next */
            int64_t put = kelpie__sim_inode_write(to, zeros, sizeof(zeros), stale * SIM_PAGE_BYTES);
            if (put < (int64_t)sizeof(zeros)) {
                return -ENOSPC;
            }
            page = stale - shift + 1;
            continue;
        }
        if (data == end) {
            break;
        }
        int status = data_share_page(from, data, to, data + shift);
        if (status < 0) {
            return status;
        }
        page = data + 1;
    }
    if (to_offset + count > to->size) {
        data_set_size(to, to_offset + count);
    }
    return 0;
}

int kelpie__sim_inode_clone(struct sim_inode *from, uint64_t from_offset, struct sim_inode *to,
                            uint64_t to_offset, uint64_t count) {
    KELPIE_ASSERT(from_offset + count <= from->size);
    if (to_offset + count > SIM_FILE_BYTES_MAX) {
        return -EFBIG;
    }
    bool is_aligned = from_offset % SIM_PAGE_BYTES == 0 && to_offset % SIM_PAGE_BYTES == 0;
    uint64_t whole = is_aligned ? count - count % SIM_PAGE_BYTES : 0;
    int status = whole == 0 ? 0 : data_share(from, from_offset, to, to_offset, whole);
    if (status == 0 && whole < count) {
        status = data_copy_bytes(from, from_offset + whole, to, to_offset + whole, count - whole);
    }
    kelpie__sim_inode_touch(to);
    return status;
}
