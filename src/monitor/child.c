/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * See child.h.
 */
#include "monitor/child.h"

#include <errno.h>
#include <string.h>

#include "os/os_call.h"

#define CHILD_SIGNAL_KILL 9
#define CHILD_FIRST_HANDLE 3u
#define CHILD_READS_MAX 64u

static void child_check(const struct kelpie_child *child) {
    KELPIE_ASSERT(child->os != NULL && child->loop != NULL);
    KELPIE_ASSERT((child->process >= 0) == (child->output >= 0));
}

void kelpie__child_init(struct kelpie_child *child, struct kelpie_os *os,
                        struct kelpie_loop *loop) {
    *child = (struct kelpie_child){
        .os = os, .loop = loop, .process = KELPIE_OS_NO_HANDLE, .output = KELPIE_OS_NO_HANDLE};
    child_check(child);
}

bool kelpie__child_is_running(const struct kelpie_child *child) {
    child_check(child);
    return child->process >= 0;
}

static void child_close(struct kelpie_child *child) {
    child_check(child);
    kelpie__timer_disarm(child->loop, &child->timer);
    kelpie__loop_unwatch(child->loop, child->process_watch);
    kelpie__loop_unwatch(child->loop, child->output_watch);
    kelpie__ignore(kelpie__os_close(child->os, child->process)); /* it was reaped or killed */
    kelpie__ignore(kelpie__os_close(child->os, child->output));  /* it was only read */
    child->process = KELPIE_OS_NO_HANDLE;
    child->output = KELPIE_OS_NO_HANDLE;
}

/* What is beyond the room is thrown away: the child must not wait for us. */
static void child_read(struct kelpie_child *child) {
    char scrap[512];
    int64_t count = 1;
    for (uint32_t i = 0; i < CHILD_READS_MAX && count > 0; i += 1) {
        size_t room = sizeof(child->text) - 1 - child->text_length;
        char *place = room > 0 ? child->text + child->text_length : scrap;
        count = kelpie__os_read(child->os, child->output, place, room > 0 ? room : sizeof(scrap));
        child->text_length += count > 0 && room > 0 ? (size_t)count : 0;
    }
    KELPIE_ASSERT(child->text_length < sizeof(child->text));
    if (count == 0) {
        kelpie__loop_watch_change(child->loop, child->output_watch, 0);
    }
}

static void child_readable(void *context, uint32_t bits) {
    KELPIE_ASSERT(bits != 0);
    child_read(context);
}

static void child_ended(void *context, uint32_t bits) {
    struct kelpie_child *child = context;
    struct kelpie_os_exit exit = {0};
    char text[KELPIE_CHILD_TEXT_BYTES];
    KELPIE_ASSERT(bits != 0);
    int status = kelpie__os_reap(child->os, child->process, &exit);
    if (status == -EAGAIN || status == -EINTR) {
        return;
    }
    child_read(child);
    size_t length = child->text_length;
    while (length > 0 && child->text[length - 1] == '\n') {
        length -= 1;
    }
    memcpy(text, child->text, length);
    text[length] = '\0';
    enum kelpie_child_end end = child->is_late                    ? KELPIE_CHILD_LATE
                                : status < 0 || exit.is_signalled ? KELPIE_CHILD_KILLED
                                                                  : KELPIE_CHILD_EXITED;
    child_close(child);
    child->callback(child->context, end, status < 0 ? CHILD_SIGNAL_KILL : exit.value, text);
}

static void child_overdue(void *context) {
    struct kelpie_child *child = context;
    child_check(child);
    child->is_late = true;
    /* Its end is on the way then, or has come already. */
    kelpie__ignore(kelpie__os_signal(child->os, child->process, CHILD_SIGNAL_KILL));
}

static int child_watch(struct kelpie_child *child, struct kelpie_error *error) {
    int status = kelpie__loop_watch(child->loop, child->process, KELPIE_OS_READABLE, child_ended,
                                    child, &child->process_watch);
    if (status == 0) {
        status = kelpie__loop_watch(child->loop, child->output, KELPIE_OS_READABLE, child_readable,
                                    child, &child->output_watch);
        if (status < 0) {
            kelpie__loop_unwatch(child->loop, child->process_watch);
        }
    }
    if (status == 0) {
        return 0;
    }
    kelpie__ignore(kelpie__os_signal(child->os, child->process, CHILD_SIGNAL_KILL));
    kelpie__ignore(kelpie__os_close(child->os, child->process)); /* nobody waits for it */
    kelpie__ignore(kelpie__os_close(child->os, child->output));
    child->process = KELPIE_OS_NO_HANDLE;
    child->output = KELPIE_OS_NO_HANDLE;
    return kelpie__fail(error, status, 0, "watch a child");
}

int kelpie__child_start(struct kelpie_child *child, const struct kelpie_child_order *order,
                        kelpie_child_callback callback, void *context, struct kelpie_error *error) {
    static const char *const environment[] = {"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C",
                                              NULL};
    int handles[CHILD_FIRST_HANDLE + KELPIE_CHILD_HANDLE_COUNT_MAX];
    const char *step = "";
    int pipe[2];
    child_check(child);
    KELPIE_ASSERT(child->process < 0 && order->handle_count <= KELPIE_CHILD_HANDLE_COUNT_MAX);
    int status = kelpie__os_pipe(child->os, pipe);
    if (status < 0) {
        return kelpie__fail(error, KELPIE_E_IO, -status, "make a pipe");
    }
    handles[0] = KELPIE_OS_NO_HANDLE;
    handles[1] = pipe[1];
    handles[2] = pipe[1];
    for (uint32_t i = 0; i < order->handle_count; i += 1) {
        handles[CHILD_FIRST_HANDLE + i] = order->handles[i];
    }
    const struct kelpie_os_spawn spawn = {.path = order->argv[0],
                                          .argv = order->argv,
                                          .environment =
                                              order->keeps_environment ? NULL : environment,
                                          .directory = "/",
                                          .handles = handles,
                                          .handle_count = CHILD_FIRST_HANDLE + order->handle_count,
                                          .flags = KELPIE_OS_SPAWN_DIE_WITH_PARENT,
                                          .cgroup = KELPIE_OS_NO_HANDLE};
    status = kelpie__os_spawn(child->os, &spawn, &child->process, NULL, &step);
    kelpie__ignore(kelpie__os_close(child->os, pipe[1])); /* the child's */
    if (status < 0) {
        kelpie__ignore(kelpie__os_close(child->os, pipe[0]));
        child->process = KELPIE_OS_NO_HANDLE;
        return kelpie__fail(error, KELPIE_E_UNAVAILABLE, -status, "start \"%s\" (%s)",
                            order->argv[0], step);
    }
    child->output = pipe[0];
    child->text_length = 0;
    child->is_late = false;
    child->callback = callback;
    child->context = context;
    status = child_watch(child, error);
    if (status == 0) {
        kelpie__timer_arm(child->loop, &child->timer, child->loop->now_ns + order->timeout_ns,
                          child_overdue, child);
    }
    return status;
}

void kelpie__child_cancel(struct kelpie_child *child) {
    struct kelpie_os_exit exit;
    child_check(child);
    if (child->process < 0) {
        return;
    }
    /* It may have ended by itself; one that is not reaped here is reaped at our own end. */
    kelpie__ignore(kelpie__os_signal(child->os, child->process, CHILD_SIGNAL_KILL));
    kelpie__ignore(kelpie__os_reap(child->os, child->process, &exit));
    child_close(child);
}
