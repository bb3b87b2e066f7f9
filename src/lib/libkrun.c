/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * See libkrun.h. kelpie-krun is started without becoming a child of the embedder's, and ends by
 * itself; its lines come through a pipe.
 */
#include "lib/libkrun.h"

#include <errno.h>
#include <string.h>

#include "core/text.h"
#include "os/os_call.h"

#define LIBKRUN_TEXT_BYTES_MAX 2048u
#define LIBKRUN_LINE_COUNT_MAX 64u

struct libkrun_ask {
    struct kelpie *kelpie; /* borrowed: the call */
    struct kelpie_waiter waiter;
    struct kelpie_timer timer;
    int pipe; /* owned */
    uint32_t watch;
    char text[LIBKRUN_TEXT_BYTES_MAX + 1];
    size_t length;
};

static void ask_end(struct libkrun_ask *ask, const struct kelpie_error *error) {
    KELPIE_ASSERT(!ask->waiter.is_done);
    KELPIE_ASSERT(ask->pipe != KELPIE_OS_NO_HANDLE);
    kelpie__loop_unwatch(ask->kelpie->loop, ask->watch);
    kelpie__timer_disarm(ask->kelpie->loop, &ask->timer);
    kelpie__waiter_done(&ask->waiter, error);
}

static void ask_timed_out(void *context) {
    struct kelpie_error error = {0};
    kelpie__ignore(kelpie__fail(&error, KELPIE_E_TIMEOUT, 0,
                                "kelpie-krun did not describe libkrun within %u ms",
                                KELPIE_CALL_TIMEOUT_MS));
    ask_end(context, &error);
}

static void ask_ready(void *context, uint32_t bits) {
    struct libkrun_ask *ask = context;
    struct kelpie_error error = {0};
    size_t room = LIBKRUN_TEXT_BYTES_MAX - ask->length;
    KELPIE_ASSERT(bits != 0);
    KELPIE_ASSERT(ask->length <= LIBKRUN_TEXT_BYTES_MAX);
    int64_t count =
        room == 0 ? 0 /* more than it ever tells: what came is enough */
                  : kelpie__os_read(ask->kelpie->os, ask->pipe, ask->text + ask->length, room);
    if (count > 0) {
        ask->length += (size_t)count;
        KELPIE_ASSERT(ask->length <= LIBKRUN_TEXT_BYTES_MAX);
    } else if (count == 0) {
        ask_end(ask, NULL);
    } else if (count != -EAGAIN && count != -EINTR) {
        kelpie__ignore(
            kelpie__fail(&error, KELPIE_E_IO, (int)-count, "read what kelpie-krun tells"));
        ask_end(ask, &error);
    }
}

static int ask_spawn(struct kelpie *kelpie, int pipe, struct kelpie_error *error) {
    char program[KELPIE_PATH_BYTES_MAX];
    const char *argv[] = {"kelpie-krun", "--describe", NULL, NULL, NULL, NULL, NULL};
    const char *library = kelpie__os_environment(kelpie->os, "KELPIE_LIBKRUN");
    const char *firmware = kelpie__os_environment(kelpie->os, "KELPIE_LIBKRUNFW");
    const int handles[] = {KELPIE_OS_NO_HANDLE, pipe, KELPIE_OS_NO_HANDLE};
    size_t count = 2;
    if (library != NULL && library[0] != '\0') {
        argv[count] = "--library";
        argv[count + 1] = library;
        count += 2;
    }
    if (firmware != NULL && firmware[0] != '\0') {
        argv[count] = "--firmware";
        argv[count + 1] = firmware;
        count += 2;
    }
    KELPIE_ASSERT(pipe != KELPIE_OS_NO_HANDLE);
    KELPIE_ASSERT(count < KELPIE_ARRAY_COUNT(argv));
    KELPIE_ASSERT(argv[count] == NULL);
    int status = kelpie__places_program(&kelpie->places, argv[0], program, sizeof(program), error);
    return status < 0 ? status
                      : kelpie__program_start(kelpie->os, program, argv, handles,
                                              KELPIE_ARRAY_COUNT(handles), error);
}

static void ask_line(struct kelpie_libkrun *out, const char *line) {
    size_t used = strlen(out->lacks);
    KELPIE_ASSERT(used < sizeof(out->lacks));
    if (kelpie__text_has_prefix(line, "version ")) {
        kelpie__ignore(kelpie__text_copy(out->version, sizeof(out->version), line + 8));
    } else if (kelpie__text_has_prefix(line, "missing ")) {
        kelpie__ignore(kelpie__text_copy(out->missing, sizeof(out->missing), line + 8));
    } else if (kelpie__text_has_prefix(line, "lacks ")) {
        kelpie__ignore(kelpie__text_format(out->lacks + used, sizeof(out->lacks) - used, "%s%s",
                                           used > 0 ? ", " : ", without ", line + 6));
    }
}

static void ask_read(struct libkrun_ask *ask, struct kelpie_libkrun *out) {
    char *line = ask->text;
    KELPIE_ASSERT(ask->waiter.is_done);
    KELPIE_ASSERT(ask->length <= LIBKRUN_TEXT_BYTES_MAX);
    ask->text[ask->length] = '\0';
    for (uint32_t i = 0; i < LIBKRUN_LINE_COUNT_MAX && line != NULL; i += 1) {
        char *end = strchr(line, '\n');
        if (end != NULL) {
            *end = '\0';
        }
        ask_line(out, line);
        line = end != NULL ? end + 1 : NULL;
    }
    if (out->version[0] == '\0' && out->missing[0] == '\0') {
        kelpie__ignore(kelpie__text_copy(out->missing, sizeof(out->missing),
                                         "kelpie-krun ended without a word"));
    }
    KELPIE_ASSERT(out->version[0] != '\0' || out->missing[0] != '\0');
}

static int ask_wait(struct libkrun_ask *ask, struct kelpie_error *error) {
    struct kelpie *kelpie = ask->kelpie;
    KELPIE_ASSERT(!ask->waiter.is_done);
    KELPIE_ASSERT(ask->length == 0);
    int status = kelpie__loop_watch(kelpie->loop, ask->pipe, KELPIE_OS_READABLE, ask_ready, ask,
                                    &ask->watch);
    if (status < 0) {
        return kelpie__fail(error, status, 0, "wait for kelpie-krun");
    }
    kelpie__timer_arm(kelpie->loop, &ask->timer,
                      kelpie__loop_deadline(kelpie->loop, KELPIE_CALL_TIMEOUT_MS), ask_timed_out,
                      ask);
    status = kelpie__waiter_wait(kelpie, &ask->waiter, error);
    if (!ask->waiter.is_done) { /* the loop itself failed */
        kelpie__loop_unwatch(kelpie->loop, ask->watch);
        kelpie__timer_disarm(kelpie->loop, &ask->timer);
    }
    return status;
}

int kelpie__libkrun_ask(struct kelpie *kelpie, struct kelpie_libkrun *out,
                        struct kelpie_error *error) {
    int pipe[2];
    struct libkrun_ask *ask = kelpie__alloc(kelpie->os, sizeof(*ask));
    if (ask == NULL) {
        return kelpie__fail(error, KELPIE_E_MEMORY, 0, "allocate %zu bytes", sizeof(*ask));
    }
    int status = kelpie__os_pipe(kelpie->os, pipe);
    if (status < 0) {
        status = kelpie__fail(error, KELPIE_E_IO, -status, "make a pipe for kelpie-krun");
        goto fail_pipe;
    }
    ask->kelpie = kelpie;
    ask->pipe = pipe[0];
    status = ask_spawn(kelpie, pipe[1], error);
    kelpie__ignore(kelpie__os_close(kelpie->os, pipe[1])); /* it has its own */
    if (status == 0) {
        status = ask_wait(ask, error);
    }
    kelpie__ignore(kelpie__os_close(kelpie->os, pipe[0])); /* it was read only */
    if (status == 0) {
        *out = (struct kelpie_libkrun){0};
        ask_read(ask, out);
    }
fail_pipe:
    kelpie__free(kelpie->os, ask, sizeof(*ask));
    return status;
}
