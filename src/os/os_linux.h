/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * What the files of the real system share. Each file fills in its part of the table.
 */
#ifndef KELPIE_OS_OS_LINUX_H
#define KELPIE_OS_OS_LINUX_H

#include <termios.h>

#include "core/base.h"
#include "os/os.h"

/* clone(2), waitid(2): for the headers of older libraries, which come before this one. */
#ifndef P_PIDFD
#define P_PIDFD 3
#endif
#ifndef CLONE_PIDFD
#define CLONE_PIDFD 0x00001000
#endif

#define KELPIE_OS_LINUX_HANDLE_MAX 4096u /* whose kind is remembered */

struct spawn_ready;
struct kelpie_os_linux {
    struct kelpie_os os; /* first: the table's context is this */
    int epoll;
    int entropy; /* /dev/urandom of a guest, once it was asked for; else -1 */
    bool has_saved_terminal;
    struct termios saved_terminal;
    struct spawn_ready *ready; /* os_linux_ready.c; NULL: none was ever made */
    uint64_t is_no_socket[KELPIE_OS_LINUX_HANDLE_MAX / 64];
};

static inline struct kelpie_os_linux *kelpie__os_linux_of(struct kelpie_os *os) {
    KELPIE_ASSERT(os->context != NULL);
    return os->context;
}

void kelpie__os_linux_fill_process(struct kelpie_os *os);
void kelpie__os_linux_fill_stream(struct kelpie_os *os);
void kelpie__os_linux_fill_file(struct kelpie_os *os);
void kelpie__os_linux_fill_terminal(struct kelpie_os *os);
void kelpie__os_linux_fill_host(struct kelpie_os *os);

/* `make_ready` and `run_ready` of a guest's table. */
int kelpie__os_linux_make_ready(struct kelpie_os *os, const struct kelpie_os_spawn *spawn,
                                int32_t *out_pid);
int kelpie__os_linux_run_ready(struct kelpie_os *os, int32_t pid,
                               const struct kelpie_os_spawn *spawn, const char **out_step);

/* 0 or more, or -errno. */
int kelpie__os_linux_result(long result);

#endif
