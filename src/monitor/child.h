/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * A child of the monitor for what takes its time: started with a few handles, its output collected
 * up to a bound, ended at its deadline. It dies with its monitor.
 */
#ifndef KELPIE_MONITOR_CHILD_H
#define KELPIE_MONITOR_CHILD_H

#include "core/error.h"
#include "core/loop.h"

#define KELPIE_CHILD_TEXT_BYTES 4096u
#define KELPIE_CHILD_ARGUMENT_COUNT_MAX 24u
#define KELPIE_CHILD_HANDLE_COUNT_MAX 6u

enum kelpie_child_end {
    KELPIE_CHILD_EXITED, /* with `value` as its code */
    KELPIE_CHILD_KILLED, /* by the signal `value` */
    KELPIE_CHILD_LATE,   /* it was killed at its deadline */
};

/* Called once, from the loop. `text`: what it printed, without the last end of a line; borrowed
 * during the call. */
typedef void (*kelpie_child_callback)(void *context, enum kelpie_child_end end, int32_t value,
                                      const char *text);

struct kelpie_child {
    struct kelpie_os *os;     /* borrowed: until its end */
    struct kelpie_loop *loop; /* borrowed: until its end */
    kelpie_child_callback callback;
    void *context;
    int process; /* owned; KELPIE_OS_NO_HANDLE: none */
    int output;  /* owned */
    uint32_t process_watch;
    uint32_t output_watch;
    struct kelpie_timer timer;
    bool is_late;
    size_t text_length;
    char text[KELPIE_CHILD_TEXT_BYTES];
};

struct kelpie_child_order {
    const char *const *argv; /* borrows; NULL-terminated; the program is argv[0] */
    const int *handles;      /* borrows; its descriptors from 3 on */
    uint32_t handle_count;
    int64_t timeout_ns;
    bool keeps_environment; /* the monitor's; else a plain one */
};

void kelpie__child_init(struct kelpie_child *child, struct kelpie_os *os, struct kelpie_loop *loop);
/* Errors: UNAVAILABLE (the program), IO, LIMIT. */
KELPIE_MUST_CHECK int kelpie__child_start(struct kelpie_child *child,
                                          const struct kelpie_child_order *order,
                                          kelpie_child_callback callback, void *context,
                                          struct kelpie_error *error);
bool kelpie__child_is_running(const struct kelpie_child *child);
/* Kills it, without a callback; without effect when none runs. */
void kelpie__child_cancel(struct kelpie_child *child);

#endif
