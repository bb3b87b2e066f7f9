/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * See copy.h.
 */
#include "store/copy.h"

#include <errno.h>

#include "os/os_call.h"

#define COPY_BUFFER_BYTES (256u * 1024u)

static int copy_piece(struct kelpie_os *os, int from, int to, uint64_t offset, uint8_t *buffer,
                      size_t count) {
    KELPIE_ASSERT(count > 0);
    KELPIE_ASSERT(count <= COPY_BUFFER_BYTES);
    int64_t got = kelpie__os_pread(os, from, buffer, count, offset);
    int64_t done = 0;
    while (got > 0 && done < got) { /* bound: every turn writes a byte at least */
        int64_t put =
            kelpie__os_pwrite(os, to, buffer + done, (size_t)(got - done), offset + (uint64_t)done);
        if (put < 0 && put != -EINTR) {
            return (int)put;
        }
        done += put > 0 ? put : 0;
    }
    if (got == -EINTR) {
        return 0;
    }
    return got == 0 ? -EIO : (int)got; /* it has become shorter */
}

static int copy_range(struct kelpie_os *os, int from, int to, uint64_t start, uint64_t end,
                      uint8_t *buffer) {
    KELPIE_ASSERT(start < end);
    if (kelpie__os_clone_range(os, from, start, to, start, end - start) == 0) {
        return 0;
    }
    while (start < end) { /* bound: every turn moves a byte at least, or is interrupted */
        uint64_t count = kelpie__min_u64(end - start, COPY_BUFFER_BYTES);
        int moved = copy_piece(os, from, to, start, buffer, (size_t)count);
        if (moved < 0) {
            return moved;
        }
        start += (uint64_t)moved;
    }
    return 0;
}

int kelpie__copy_file(struct kelpie_os *os, int from, int to) {
    struct kelpie_os_stat stat;
    uint64_t offset = 0;
    uint64_t start = 0;
    uint64_t end = 0;
    KELPIE_ASSERT(from >= 0);
    KELPIE_ASSERT(to >= 0);
    KELPIE_ASSERT(from != to);
    int status = kelpie__os_stat(os, from, "", false, &stat);
    if (status == 0) {
        status = kelpie__os_truncate(os, to, stat.size_bytes);
    }
    uint8_t *buffer = status < 0 ? NULL : kelpie__alloc_raw(os, COPY_BUFFER_BYTES);
    if (status == 0 && buffer == NULL) {
        status = -ENOMEM;
    }
    while (status == 0 && offset < stat.size_bytes) { /* bound: the file's ranges of data */
        int found = kelpie__os_next_data(os, from, offset, &start, &end);
        if (found <= 0) {
            status = found;
            break;
        }
        if (start >= stat.size_bytes) {
            break; /* it has grown meanwhile: what was there is copied */
        }
        KELPIE_ASSERT(start >= offset);
        KELPIE_ASSERT(start < end);
        end = kelpie__min_u64(end, stat.size_bytes);
        status = copy_range(os, from, to, start, end, buffer);
        offset = end;
    }
    kelpie__free(os, buffer, COPY_BUFFER_BYTES);
    return status;
}
