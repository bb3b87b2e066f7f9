/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * A guest that is saved, and one that goes on elsewhere: docs/protocol.md, 6. The part of guest.h
 * of that name.
 */
#include <string.h>

#include "core/json.h"
#include "core/text.h"
#include "monitor/monitor.h"
#include "os/os_call.h"
#include "wire/wire.h"

/* the two frames that a quiesce takes */
#define ACROSS_QUIESCE_BYTES 1024u
/* an agent that takes up the connection anew says `ready`, and may have missed hello */
#define ACROSS_HELLO_COUNT_MAX 8u
#define ACROSS_ID_BITS                                                                             \
    16u /* of a number of 32 bits: requests of one connection, as good as never                    \
         * those of another */

static struct kelpie_guest *across_guest(void *context) {
    struct kelpie_guest *guest = context;
    KELPIE_ASSERT(guest->wire != NULL);
    KELPIE_ASSERT(guest->quiet == KELPIE_GUEST_HEARD || guest->continuity.token[0] != '\0');
    return guest;
}

/* What a greeting has asked is nobody's question any more, in whichever order it is answered. */
static void greet_forget(struct kelpie_guest *guest) {
    const uint64_t calls[] = {guest->call, guest->setup_call};
    for (size_t i = 0; i < KELPIE_ARRAY_COUNT(calls); i += 1) {
        if (calls[i] != 0 && guest->wire != NULL) {
            kelpie__wire_forget(guest->wire, calls[i]);
        }
    }
    guest->call = 0;
    guest->setup_call = 0;
}

/* Tells whoever waits, once. */
static void across_done(struct kelpie_guest *guest, const struct kelpie_error *error) {
    kelpie_guest_done_callback done = guest->done;
    KELPIE_ASSERT(done != NULL);
    KELPIE_ASSERT(error == NULL || error->code < 0);
    guest->done = NULL;
    guest->call = 0;
    done(guest->done_context, error);
}

/* ---- quiesce --------------------------------------------------------------------------------- */

static int across_draw(struct kelpie_guest *guest, uint8_t mark[KELPIE_MARK_BYTES],
                       struct kelpie_error *error) {
    struct kelpie_os *os = guest->monitor->os;
    uint8_t token[KELPIE_TOKEN_BYTES];
    int status = kelpie__os_random(os, mark, KELPIE_MARK_BYTES);
    if (status == 0) {
        status = kelpie__os_random(os, token, sizeof(token));
    }
    if (status < 0) {
        return kelpie__fail(error, KELPIE_E_IO, -status, "draw a mark and a token");
    }
    kelpie__text_hex(guest->continuity.mark, sizeof(guest->continuity.mark), mark,
                     KELPIE_MARK_BYTES);
    kelpie__text_hex(guest->continuity.token, sizeof(guest->continuity.token), token,
                     sizeof(token));
    return 0;
}

static void across_quiesced(void *context, const struct kelpie_error *error, const char *result,
                            size_t length) {
    struct kelpie_guest *guest = across_guest(context);
    KELPIE_ASSERT(guest->quiet == KELPIE_GUEST_QUIESCING);
    KELPIE_ASSERT(error != NULL || result[length] == '\0');
    if (error == NULL) {
        guest->quiet = KELPIE_GUEST_IS_QUIET;
    } else { /* should it be carried out late, the mark is behind it */
        guest->quiet = KELPIE_GUEST_HEARD;
        kelpie__wire_uncork(guest->wire);
    }
    across_done(guest, error);
}

int kelpie__guest_quiesce(struct kelpie_guest *guest, kelpie_guest_done_callback callback,
                          void *context, struct kelpie_error *error) {
    struct kelpie_wire *wire = kelpie__guest_wire(guest);
    uint8_t mark[KELPIE_MARK_BYTES];
    char params[192];
    KELPIE_ASSERT(callback != NULL);
    bool is_gone =
        guest->phase == KELPIE_GUEST_CLOSED || (guest->phase == KELPIE_GUEST_LIVE && wire == NULL);
    if (is_gone) { /* its VM is about to be found dead, or is ended for it */
        return kelpie__fail(error, KELPIE_E_CRASHED, 0, "the guest's agent is gone");
    }
    if (wire == NULL || guest->phase != KELPIE_GUEST_LIVE) {
        return kelpie__fail(error, KELPIE_E_STATE, 0, "the guest's agent is not there");
    }
    if (guest->quiet != KELPIE_GUEST_HEARD || guest->done != NULL) {
        return kelpie__fail(error, KELPIE_E_BUSY, 0, "the guest is quiet already, or about to be");
    }
    if (!kelpie__wire_has_room(wire, ACROSS_QUIESCE_BYTES)) {
        return kelpie__fail(error, KELPIE_E_LIMIT, 0, "the guest's agent does not read");
    }
    int status = across_draw(guest, mark, error);
    if (status < 0) {
        return status;
    }
    bool is_whole =
        kelpie__text_format(params, sizeof(params), "{\"mark\":\"%s\",\"token\":\"%s\"}",
                            guest->continuity.mark, guest->continuity.token);
    KELPIE_ASSERT(is_whole);
    status = kelpie__wire_call(wire, "quiesce", params, KELPIE_QUIESCE_TIMEOUT_MS, across_quiesced,
                               guest, &guest->call, error);
    if (status < 0) {
        return status;
    }
    status = kelpie__wire_cork(wire, mark);
    KELPIE_ASSERT(status == 0); /* there was room, and a call was taken just now */
    guest->quiet = KELPIE_GUEST_QUIESCING;
    guest->done = callback;
    guest->done_context = context;
    return 0;
}

void kelpie__guest_unquiesce(struct kelpie_guest *guest) {
    if (guest->quiet == KELPIE_GUEST_HEARD) {
        return;
    }
    across_guest(guest);
    if (guest->quiet == KELPIE_GUEST_QUIESCING) {
        kelpie__wire_forget(guest->wire, guest->call);
        guest->done = NULL;
        guest->call = 0;
    }
    guest->quiet = KELPIE_GUEST_HEARD;
    kelpie__wire_uncork(guest->wire);
    KELPIE_ASSERT(guest->done == NULL);
}

/* ---- sync ------------------------------------------------------------------------------------ */

static void across_synced(void *context, const struct kelpie_error *error, const char *result,
                          size_t length) {
    struct kelpie_guest *guest = across_guest(context);
    KELPIE_ASSERT(guest->quiet == KELPIE_GUEST_HEARD);
    KELPIE_ASSERT(error != NULL || result[length] == '\0');
    across_done(guest, error);
}

int kelpie__guest_sync(struct kelpie_guest *guest, kelpie_guest_done_callback callback,
                       void *context, struct kelpie_error *error) {
    struct kelpie_wire *wire = kelpie__guest_wire(guest);
    KELPIE_ASSERT(callback != NULL);
    if (wire == NULL || guest->phase != KELPIE_GUEST_LIVE) {
        return kelpie__fail(error, KELPIE_E_STATE, 0, "the guest's agent is not there");
    }
    if (guest->quiet != KELPIE_GUEST_HEARD || guest->done != NULL) {
        return kelpie__fail(error, KELPIE_E_BUSY, 0, "the guest is quiet already, or about to be");
    }
    int status = kelpie__wire_call(wire, "guest.sync", "{}", KELPIE_GUEST_SYNC_TIMEOUT_MS,
                                   across_synced, guest, &guest->call, error);
    if (status == 0) {
        guest->done = callback;
        guest->done_context = context;
    }
    return status;
}

void kelpie__guest_stop_sync(struct kelpie_guest *guest) {
    across_guest(guest);
    KELPIE_ASSERT(guest->quiet == KELPIE_GUEST_HEARD && guest->call != 0);
    kelpie__wire_forget(guest->wire, guest->call);
    guest->done = NULL;
    guest->call = 0;
}

/* ---- a guest that goes on elsewhere ---------------------------------------------------------- */

int kelpie__guest_attach_restored(struct kelpie_guest *guest, int stream,
                                  const struct kelpie_guest_continuity *continuity,
                                  struct kelpie_error *error) {
    uint8_t mark[KELPIE_MARK_BYTES];
    uint32_t drawn = 0;
    struct kelpie_guest_continuity kept = *continuity; /* it may be the guest's own */
    if (!kelpie__text_unhex(kept.mark, mark, sizeof(mark)) ||
        strlen(kept.token) != 2 * KELPIE_TOKEN_BYTES) {
        return kelpie__fail(error, KELPIE_E_SNAPSHOT_CORRUPTED, 0,
                            "the snapshot's mark and token are none");
    }
    int status = kelpie__os_random(guest->monitor->os, &drawn, sizeof(drawn));
    if (status < 0) {
        return kelpie__fail(error, KELPIE_E_IO, -status, "draw the first id of a connection");
    }
    status = kelpie__guest_open(guest, stream, KELPIE_GUEST_RESTORED, error);
    if (status < 0) {
        return status;
    }
    /* What the guest was asked before it was saved, it answers now. */
    kelpie__wire_continue(guest->wire, ((uint64_t)drawn + 1) << ACROSS_ID_BITS);
    guest->continuity = kept;
    guest->quiet = KELPIE_GUEST_IS_QUIET;
    status = kelpie__wire_cork(guest->wire, mark);
    KELPIE_ASSERT(status == 0); /* a new connection has room */
    return 0;
}

/* The greeting has failed: what it made is undone, so that another one can be tried. */
static void greet_failed(struct kelpie_guest *guest, const struct kelpie_error *why) {
    KELPIE_ASSERT(why->code < 0);
    greet_forget(guest);
    if (guest->phase != KELPIE_GUEST_CLOSED) {
        guest->phase = KELPIE_GUEST_RESTORED;
    }
    kelpie__relay_forget_adopted(guest->relay);
    across_done(guest, why);
}

static int greet_ask(struct kelpie_guest *guest, const char *method, const char *params,
                     kelpie_wire_answer_callback callback, uint64_t *out_call,
                     struct kelpie_error *error) {
    int64_t left_ms = (guest->deadline_ns - guest->monitor->loop->now_ns) / KELPIE_NS_PER_MS;
    KELPIE_ASSERT(guest->phase >= KELPIE_GUEST_RESTORED);
    return kelpie__wire_call(guest->wire, method, params, left_ms > 0 ? (uint64_t)left_ms : 1,
                             callback, guest, out_call, error);
}

void kelpie__guest_adopted(struct kelpie_guest *guest, const struct kelpie_error *error) {
    across_guest(guest);
    if (guest->phase != KELPIE_GUEST_ADOPTING) {
        return; /* the greeting was given up */
    }
    if (error != NULL) {
        greet_failed(guest, error);
        return;
    }
    guest->phase = KELPIE_GUEST_LIVE;
    across_done(guest, NULL);
}

static void greet_identified(void *context, const struct kelpie_error *error, const char *result,
                             size_t length) {
    struct kelpie_guest *guest = across_guest(context);
    KELPIE_ASSERT(error != NULL || result[length] == '\0');
    guest->setup_call = 0;
    if (error != NULL) {
        greet_failed(guest, error);
        return;
    }
    if (guest->phase != KELPIE_GUEST_IDENTIFYING) {
        kelpie__guest_break(guest, "R22: setup was answered before hello");
        return;
    }
    guest->phase = KELPIE_GUEST_ADOPTING;
    kelpie__relay_adopt(guest->relay);
}

/* The same guest as the one that was saved, or none at all. */
static int greet_check(struct kelpie_guest *guest, const char *result, size_t length,
                       struct kelpie_error *error) {
    char token[sizeof(guest->continuity.token)] = "";
    bool is_set_up = false;
    kelpie__ignore(kelpie__json_find_string(result, length, "token", token, sizeof(token)));
    kelpie__ignore(kelpie__json_find_bool(result, length, "is_set_up", &is_set_up));
    if (strcmp(token, guest->continuity.token) != 0 || !is_set_up) {
        return kelpie__fail(error, KELPIE_E_RESTORE, 0,
                            "the guest is not the one that was saved: it gives %s",
                            token[0] == '\0' ? "no continuity token" : "another continuity token");
    }
    return kelpie__relay_adopt_list(guest->relay, result, length, error);
}

static void greet_answered(void *context, const struct kelpie_error *error, const char *result,
                           size_t length) {
    struct kelpie_guest *guest = across_guest(context);
    struct kelpie_error failure = {0};
    KELPIE_ASSERT(guest->phase == KELPIE_GUEST_REGREETING);
    guest->call = 0;
    if (error != NULL) {
        failure = *error;
        kelpie__fail_prefix(&failure, "the guest runs, but its agent does not answer");
        greet_failed(guest, &failure);
        return;
    }
    if (!kelpie__guest_is_greeted(guest, result, length)) {
        kelpie__guest_break(guest, KELPIE_GUEST_RULE_HELLO);
        return; /* the VM's end tells whoever waits */
    }
    kelpie__wire_is_known(guest->wire);
    if (greet_check(guest, result, length, &failure) < 0) {
        greet_failed(guest, &failure);
        return;
    }
    kelpie__stages_reach(guest->monitor, KELPIE_STAGE_HELLO);
    guest->phase = KELPIE_GUEST_IDENTIFYING; /* setup was sent with hello */
}

/* Both at once: under TCG a guest that goes to sleep between them costs a millisecond. The agent
 * answers in order, and one that turns out to be another guest is not used, whatever it is called.
 */
static void greet_hello(struct kelpie_guest *guest) {
    struct kelpie_error error = {0};
    char hello[KELPIE_GUEST_HELLO_BYTES_MAX];
    char setup[KELPIE_GUEST_SETUP_BYTES_MAX];
    guest->hello_count += 1;
    greet_forget(guest);
    int status = kelpie__guest_write_hello(guest, hello, sizeof(hello), &error);
    if (status == 0) {
        status = kelpie__guest_write_setup(guest, false, setup, sizeof(setup), &error);
    }
    if (status == 0) {
        guest->phase = KELPIE_GUEST_REGREETING;
        status = greet_ask(guest, "hello", hello, greet_answered, &guest->call, &error);
    }
    if (status == 0) {
        status = greet_ask(guest, "setup", setup, greet_identified, &guest->setup_call, &error);
    }
    if (status < 0) {
        greet_failed(guest, &error);
    }
}

void kelpie__guest_greet(struct kelpie_guest *guest, kelpie_guest_done_callback callback,
                         void *context) {
    across_guest(guest);
    KELPIE_ASSERT(guest->phase == KELPIE_GUEST_RESTORED);
    KELPIE_ASSERT(guest->done == NULL && guest->call == 0);
    guest->done = callback;
    guest->done_context = context;
    guest->hello_count = 0;
    guest->deadline_ns = kelpie__loop_deadline(guest->monitor->loop, KELPIE_RESUME_TIMEOUT_MS);
    if (guest->quiet == KELPIE_GUEST_IS_QUIET) { /* else this is another try */
        guest->quiet = KELPIE_GUEST_HEARD;
        kelpie__wire_uncork(guest->wire);
    }
    greet_hello(guest);
}

void kelpie__guest_take(struct kelpie_guest *guest, struct kelpie_guest *from) {
    struct kelpie_relay *relay = guest->relay;
    KELPIE_ASSERT(guest->phase == KELPIE_GUEST_NONE && guest->queries == NULL);
    KELPIE_ASSERT(from->phase == KELPIE_GUEST_LIVE && from->queries == NULL);
    KELPIE_ASSERT(from->done == NULL && from->call == 0);
    *guest = *from;
    guest->relay = relay;
    kelpie__wire_set_context(guest->wire, guest);
    kelpie__guest_init(from, from->monitor, from->relay);
}

void kelpie__guest_stop_greeting(struct kelpie_guest *guest) {
    bool is_greeting = guest->phase > KELPIE_GUEST_RESTORED && guest->phase < KELPIE_GUEST_CLOSED;
    if (!is_greeting) {
        return;
    }
    across_guest(guest);
    greet_forget(guest);
    guest->done = NULL;
    guest->phase = KELPIE_GUEST_RESTORED;
    kelpie__relay_forget_adopted(guest->relay);
}

void kelpie__guest_ready_again(struct kelpie_guest *guest) {
    across_guest(guest);
    if (guest->phase != KELPIE_GUEST_REGREETING) {
        return; /* hello is still to come */
    }
    if (guest->hello_count == ACROSS_HELLO_COUNT_MAX) {
        kelpie__guest_break(guest, "R21: `ready` again and again");
        return;
    }
    greet_hello(guest);
}

void kelpie__guest_give_up(struct kelpie_guest *guest, const struct kelpie_error *why) {
    KELPIE_ASSERT(why->code < 0);
    if (guest->done != NULL) {
        across_done(guest, why);
    }
}
