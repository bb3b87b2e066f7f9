/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * What kelpie-krun tells of its launch: see launch.h. After `start` libkrun has the process, and
 * what runs in it may be a guest's: a line that is unknown is passed over, one that is too long is
 * cut.
 */
#include <errno.h>
#include <string.h>

#include "core/text.h"
#include "os/os_call.h"
#include "vmm/krun/instance.h"

#define STATUS_READS_MAX 64u

static void status_take(struct kelpie_krun_status *status, const char *line) {
    KELPIE_ASSERT(strchr(line, '\n') == NULL);
    if (strcmp(line, "start") == 0) {
        status->is_started = true;
    } else if (kelpie__text_has_prefix(line, "call ") && !status->is_started) {
        status->call_count += 1;
        kelpie__ignore(kelpie__text_copy(status->last_call, sizeof(status->last_call), line + 5));
    } else if (kelpie__text_has_prefix(line, "error ") && !status->is_started) {
        kelpie__ignore(kelpie__text_copy(status->error, sizeof(status->error), line + 6));
    } else if (kelpie__text_has_prefix(line, "missing ") && !status->is_started) {
        status->is_missing = true;
        kelpie__ignore(kelpie__text_copy(status->error, sizeof(status->error), line + 8));
    } else if (kelpie__text_has_prefix(line, "returned ") && status->is_started) {
        uint64_t number = 0;
        status->has_returned = kelpie__text_u64(line + 9, &number) && number <= INT32_MAX;
        status->returned = status->has_returned ? (int32_t)number : 0;
    }
    KELPIE_ASSERT(!status->has_returned || status->is_started);
}

static void status_bytes(struct kelpie_krun_status *status, const char *bytes, size_t count) {
    for (size_t i = 0; i < count; i += 1) {
        KELPIE_ASSERT(status->length < sizeof(status->line));
        if (bytes[i] == '\n') {
            status->line[status->length] = '\0';
            status_take(status, status->line);
            status->length = 0;
        } else if (status->length < sizeof(status->line) - 1) {
            status->line[status->length] = bytes[i];
            status->length += 1;
        }
    }
}

void kelpie__krun_status_close(struct kelpie_krun *krun) {
    struct kelpie_krun_status *status = &krun->status;
    if (status->is_watched) {
        kelpie__loop_unwatch(krun->loop, status->watch);
        status->is_watched = false;
    }
    if (status->pipe != KELPIE_OS_NO_HANDLE) {
        kelpie__ignore(kelpie__os_close(krun->os, status->pipe)); /* it was only read */
        status->pipe = KELPIE_OS_NO_HANDLE;
    }
    KELPIE_ASSERT(!status->is_watched);
}

void kelpie__krun_status_drain(struct kelpie_krun *krun) {
    struct kelpie_krun_status *status = &krun->status;
    for (uint32_t i = 0; i < STATUS_READS_MAX && status->pipe != KELPIE_OS_NO_HANDLE; i += 1) {
        char bytes[1024];
        int64_t count = kelpie__os_read(krun->os, status->pipe, bytes, sizeof(bytes));
        if (count > 0) {
            KELPIE_ASSERT((uint64_t)count <= sizeof(bytes));
            status_bytes(status, bytes, (size_t)count);
        } else if (count == -EAGAIN || count == -EINTR) {
            return;
        } else {
            kelpie__krun_status_close(krun);
        }
    }
}

static void status_ready(void *context, uint32_t bits) {
    struct kelpie_krun *krun = context;
    KELPIE_ASSERT(bits != 0);
    KELPIE_ASSERT(krun->status.is_watched);
    kelpie__krun_status_drain(krun);
}

int kelpie__krun_status_watch(struct kelpie_krun *krun, int pipe, struct kelpie_error *error) {
    struct kelpie_krun_status *status = &krun->status;
    KELPIE_ASSERT(status->pipe == KELPIE_OS_NO_HANDLE && !status->is_watched);
    int result = kelpie__loop_watch(krun->loop, pipe, KELPIE_OS_READABLE, status_ready, krun,
                                    &status->watch);
    if (result < 0) {
        return kelpie__fail(error, result, 0, "watch what kelpie-krun tells");
    }
    status->pipe = pipe;
    status->is_watched = true;
    return 0;
}
