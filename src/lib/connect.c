/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * The connection of a handle to its VM's monitor: found, or started. Whoever starts a monitor holds
 * the VM's lock and gives it away with the process: there is no instant at which a second one could
 * start.
 */
#include <errno.h>
#include <string.h>

#include "core/json.h"
#include "core/tail.h"
#include "core/text.h"
#include "lib/internal.h"
#include "os/os_call.h"
#include "os/os_mark.h"
#include "wire/wire.h"

/* the lock's holder needs about a millisecond */
#define CONNECT_RETRY_NS (5 * KELPIE_NS_PER_MS)
#define CONNECT_BACKLOG 64
#define CONNECT_LOG_MODE 0600u
#define CONNECT_LOG_FILE "monitor.log"
#define CONNECT_HANDLE_COUNT 7u
#define CONNECT_LAST_WORDS_BYTES 400u
#define CONNECT_LOSSES_MAX 3u

/* ---- what the connection brings -------------------------------------------------------------- */

static void connection_request(void *context, uint64_t id, const char *method, const char *params,
                               size_t length) {
    struct kelpie_vm *vm = context;
    KELPIE_ASSERT(vm->wire != NULL);
    KELPIE_ASSERT(id > 0);
    kelpie__ignore(params != NULL && length > 0); /* whatever it asks */
    kelpie__wire_refuse_text(vm->wire, id, KELPIE_E_UNSUPPORTED, "a client has no method \"%s\"",
                             method);
}

static void connection_event(struct kelpie_vm *vm, const char *params, size_t length) {
    char type[32] = "";
    char state[16] = "";
    char detail[512] = "";
    struct kelpie_event event = {.type = type, .detail = detail};
    struct kelpie *kelpie = vm->kelpie; /* the callback may close the VM */
    KELPIE_ASSERT(length > 0);
    if (vm->event_callback == NULL) {
        return;
    }
    kelpie__ignore(kelpie__json_find_string(params, length, "type", type, sizeof(type)));
    kelpie__ignore(kelpie__json_find_string(params, length, "detail", detail, sizeof(detail)));
    kelpie__ignore(kelpie__json_find_i64(params, length, "time_ms", &event.time_ms));
    if (kelpie__json_find_string(params, length, "state", state, sizeof(state)) == 0) {
        kelpie__ignore(kelpie__state_parse(state, &event.state));
    }
    kelpie__callback_enter(kelpie);
    vm->event_callback(vm->event_context, &event);
    kelpie__callback_leave(kelpie);
}

static void connection_notification(void *context, const char *method, const char *params,
                                    size_t length) {
    struct kelpie_vm *vm = context;
    KELPIE_ASSERT(vm->wire != NULL);
    if (kelpie__text_equal(method, "exec.exit")) {
        kelpie__execs_exit(vm, params, length);
    } else if (kelpie__text_equal(method, "event")) {
        connection_event(vm, params, length);
    } else if (kelpie__text_equal(method, "goodbye")) {
        vm->has_goodbye = true; /* the end follows */
    }                           /* what is unknown is ignored */
}

static void connection_data(void *context, uint32_t stream, uint64_t offset, const void *bytes,
                            size_t count, bool is_end) {
    kelpie__execs_data(context, stream, offset, bytes, count, is_end);
}

static void connection_credit(void *context, uint32_t stream, uint64_t acknowledged,
                              uint64_t limit) {
    kelpie__execs_credit(context, stream, acknowledged, limit);
}

static void connection_stop(void *context, uint32_t stream) {
    kelpie__execs_stop(context, stream);
}

static void connection_drained(void *context) {
    kelpie__execs_drained(context);
}

/* Appends the last line that the monitor wrote before it died, if it wrote any. */
static void append_last_words(struct kelpie_vm *vm, struct kelpie_error *out) {
    struct kelpie_os *os = vm->kelpie->os;
    struct kelpie_os_stat status;
    struct kelpie_tail tail = {0};
    char bytes[KELPIE_TAIL_BYTES];
    char text[CONNECT_LAST_WORDS_BYTES];
    KELPIE_ASSERT(out->code < 0);
    int log = kelpie__os_open(os, vm->directory.vm, CONNECT_LOG_FILE, KELPIE_OS_OPEN_READ, 0);
    if (log < 0) {
        return;
    }
    int64_t count = 0;
    if (kelpie__os_stat(os, log, "", false, &status) == 0) {
        uint64_t skipped =
            status.size_bytes > sizeof(bytes) ? status.size_bytes - sizeof(bytes) : 0;
        count = kelpie__os_pread(os, log, bytes, sizeof(bytes), skipped);
    }
    kelpie__ignore(kelpie__os_close(os, log)); /* it was only read */
    if (count > 0) {
        KELPIE_ASSERT((uint64_t)count <= sizeof(bytes));
        kelpie__tail_append(&tail, bytes, (size_t)count);
        kelpie__tail_text(&tail, text, sizeof(text));
        kelpie__fail_append(out, "; its last words: %s", text);
    }
}

void kelpie__vm_explain_loss(struct kelpie_vm *vm, struct kelpie_error *out) {
    struct kelpie_vm_record record = {0};
    const char *name = vm->directory.name;
    kelpie__vm_check(vm);
    int status = kelpie__vm_record(vm, &record, NULL);
    if (!vm->is_greeted) { /* it was ending when we came, and has done nothing that was asked */
        KELPIE_REACHED(vm->kelpie->os, "a monitor ended before it answered hello");
        kelpie__ignore(kelpie__fail(out, KELPIE_E_BUSY, 0,
                                    "the monitor of VM \"%s\" ended before it answered; try again",
                                    name));
        append_last_words(vm, out);
        return;
    }
    if (status == KELPIE_E_NOT_FOUND) {
        /* Deleted by somebody; but an ephemeral one goes with a monitor that dies, too. */
        bool has_crashed = vm->directory.is_ephemeral && !vm->has_goodbye;
        KELPIE_REACHED(vm->kelpie->os, "a monitor ended and its VM was deleted");
        kelpie__ignore(kelpie__fail(out, has_crashed ? KELPIE_E_CRASHED : KELPIE_E_NOT_FOUND, 0,
                                    "the monitor of VM \"%s\" ended, and the VM is deleted", name));
        return;
    }
    bool is_alive = status == 0 && kelpie__state_is_live(record.state);
    if (is_alive && !kelpie__vm_monitor_is_dying(vm, record.monitor_pid)) {
        KELPIE_REACHED(vm->kelpie->os, "a connection was lost and its monitor lives");
        kelpie__ignore(kelpie__fail(out, KELPIE_E_IO, 0,
                                    "the connection to the monitor of VM \"%s\" was lost; the VM "
                                    "is %s",
                                    name, kelpie_vm_state_name(record.state)));
        return;
    }
    if (status < 0 || is_alive) { /* not known yet */
        KELPIE_REACHED(vm->kelpie->os, "a monitor ended and what became of its VM is not known");
        kelpie__ignore(kelpie__fail(out, KELPIE_E_CRASHED, 0,
                                    "the monitor of VM \"%s\" ended, and what ran in it is lost",
                                    name));
    } else {
        KELPIE_REACHED(vm->kelpie->os, "a monitor ended and its VM was recovered");
        kelpie__ignore(kelpie__fail(out, KELPIE_E_CRASHED, 0,
                                    "the monitor of VM \"%s\" ended, and the VM is %s%s%s", name,
                                    kelpie_vm_state_name(record.state),
                                    record.reason[0] != '\0' ? ": " : "", record.reason));
    }
    append_last_words(vm, out);
    KELPIE_ASSERT(out->code == KELPIE_E_CRASHED);
}

/* The monitor is gone, and the VM with it unless it was stopped before. */
static void connection_closed(void *context, const struct kelpie_error *error) {
    struct kelpie_vm *vm = context;
    struct kelpie_error why = *error;
    KELPIE_ASSERT(vm->wire != NULL);
    KELPIE_ASSERT(kelpie__wire_is_closed(vm->wire));
    KELPIE_ASSERT(error->code < 0);
    if (error->code == KELPIE_E_IO) {
        kelpie__vm_explain_loss(vm, &why);
    }
    KELPIE_ASSERT(why.code < 0);
    vm->loss = why;
    kelpie__wire_destroy(vm->wire);
    vm->wire = NULL;
    kelpie__execs_fail(vm, &why);
}

static const struct kelpie_wire_callbacks connection_callbacks = {
    .request = connection_request,
    .notification = connection_notification,
    .data = connection_data,
    .credit = connection_credit,
    .stop = connection_stop,
    .drained = connection_drained,
    .closed = connection_closed,
};

/* ---- making it ------------------------------------------------------------------------------- */

static void hello_answer(void *context, const struct kelpie_error *error, const char *result,
                         size_t length) {
    struct kelpie_vm *vm = context;
    uint64_t version = 0;
    KELPIE_ASSERT(!vm->is_greeted);
    KELPIE_ASSERT(vm->wire != NULL);
    if (error != NULL && error->code == KELPIE_E_TIMEOUT) { /* it has no time, and breaks no rule */
        struct kelpie_error late;
        kelpie__ignore(
            kelpie__fail(&late, KELPIE_E_TIMEOUT, 0,
                         "the monitor of VM \"%s\" did not answer within %u ms; try again, "
                         "or end it with its VM: kill -9 the process that inspect names",
                         vm->directory.name, KELPIE_HELLO_TIMEOUT_MS));
        kelpie__wire_close(vm->wire, &late);
        return;
    }
    if (error != NULL) { /* without effect when it is the connection's end */
        KELPIE_REACHED(vm->kelpie->os, "a monitor did not answer hello");
        kelpie__wire_break(vm->wire, "R21", "hello was not answered: %s", error->message);
        return;
    }
    if (kelpie__json_find_u64(result, length, "version", &version) < 0 ||
        version < KELPIE_PROTOCOL_VERSION_MIN || version > KELPIE_PROTOCOL_VERSION) {
        kelpie__wire_break(
            vm->wire, "R21", "the monitor speaks version %llu, this library %u to %u",
            (unsigned long long)version, KELPIE_PROTOCOL_VERSION_MIN, KELPIE_PROTOCOL_VERSION);
        return;
    }
    vm->is_greeted = true;
}

/* Takes the stream in any case. Hello goes first; requests may follow it at once. */
static int connection_open(struct kelpie_vm *vm, int stream, struct kelpie_error *error) {
    char params[160];
    char peer[KELPIE_WIRE_PEER_BYTES];
    bool fits =
        kelpie__text_format(peer, sizeof(peer), "the monitor of VM \"%s\"", vm->directory.name);
    const struct kelpie_wire_create create = {
        .os = vm->kelpie->os,
        .loop = vm->kelpie->loop,
        .handle = stream,
        .owns_handle = true,
        .callbacks = &connection_callbacks,
        .context = vm,
        .peer = peer,
    };
    KELPIE_ASSERT(fits && vm->wire == NULL);
    KELPIE_ASSERT(stream >= 0);
    KELPIE_ASSERT(vm->operations == NULL || vm->operations->request == 0);
    for (const struct kelpie_exec *exec = vm->execs; exec != NULL; exec = exec->next) {
        KELPIE_ASSERT(exec->channel == 0); /* none of theirs is a channel of this one */
    }
    int status = kelpie__wire_create(&create, &vm->wire, error);
    if (status < 0) {
        kelpie__ignore(kelpie__os_close(vm->kelpie->os, stream));
        return status;
    }
    vm->channel_last = 0;
    vm->is_greeted = false;
    vm->has_goodbye = false;
    fits = kelpie__text_format(
        params, sizeof(params),
        "{\"version\":%u,\"version_min\":%u,\"features\":[],\"role\":\"%s\"}",
        KELPIE_PROTOCOL_VERSION, KELPIE_PROTOCOL_VERSION_MIN, vm->is_creator ? "owner" : "client");
    KELPIE_ASSERT(fits);
    status = kelpie__wire_call(vm->wire, "hello", params, KELPIE_HELLO_TIMEOUT_MS, hello_answer, vm,
                               NULL, error);
    if (status == 0 && vm->event_callback != NULL) {
        status = kelpie__vm_ask_events(vm, error);
    }
    if (status < 0) {
        kelpie__vm_disconnect(vm);
        return status;
    }
    /* Now, and not in the next turn of the loop: a program that creates a VM and does something
     * else for longer than hello may take would find it sent and late in the same turn. */
    kelpie__wire_flush(vm->wire);
    return 0;
}

void kelpie__vm_disconnect(struct kelpie_vm *vm) {
    if (vm->is_creator && vm->wire != NULL) {
        kelpie__wire_end(vm->wire);
    }
    kelpie__wire_destroy(vm->wire);
    vm->wire = NULL;
}

static int spawn_process(struct kelpie_vm *vm, int listener, int stream, int owner,
                         struct kelpie_error *error) {
    const struct kelpie_places *places = &vm->kelpie->places;
    char program[KELPIE_PATH_BYTES_MAX];
    struct kelpie_os *os = vm->kelpie->os;
    int status = kelpie__places_program(places, "kelpie-monitor", program, sizeof(program), error);
    KELPIE_ASSERT(listener >= 0);
    KELPIE_ASSERT(stream >= 0);
    KELPIE_ASSERT(owner >= KELPIE_OS_NO_HANDLE);
    if (status < 0) {
        return status;
    }
    int log = kelpie__os_open(
        os, vm->directory.vm, CONNECT_LOG_FILE,
        KELPIE_OS_OPEN_WRITE | KELPIE_OS_OPEN_CREATE | KELPIE_OS_OPEN_TRUNCATE, CONNECT_LOG_MODE);
    if (log < 0) {
        return kelpie__fail(error, KELPIE_E_IO, -log, "open %s of VM \"%s\"", CONNECT_LOG_FILE,
                            vm->directory.name);
    }
    const char *const argv[] = {"kelpie-monitor",       "--run-dir",
                                vm->directory.run_path, "--vm-dir",
                                vm->directory.vm_path,  "--state-dir",
                                places->state_path,     "--cache-dir",
                                places->cache_path,     "--libexec-dir",
                                places->libexec_path,   "--name",
                                vm->directory.name,     NULL};
    const int handles[CONNECT_HANDLE_COUNT] = {
        KELPIE_OS_NO_HANDLE, KELPIE_OS_NO_HANDLE, log, vm->directory.lock, listener, stream, owner};
    uint32_t handle_count = owner >= 0 ? CONNECT_HANDLE_COUNT : CONNECT_HANDLE_COUNT - 1;
    status = kelpie__program_start(os, program, argv, handles, handle_count, error);
    kelpie__ignore(kelpie__os_close(os, log));
    return status;
}

/* A process handle of our own, by which the monitor of an owned VM sees us end even if our
 * connection does not. */
static int owner_handle(struct kelpie_vm *vm, struct kelpie_error *error) {
    struct kelpie_os_identity identity;
    KELPIE_ASSERT(vm->directory.lock >= 0);
    if (vm->config->lifetime != KELPIE_LIFETIME_OWNED) {
        return KELPIE_OS_NO_HANDLE;
    }
    int status = kelpie__os_identity(vm->kelpie->os, &identity);
    int owner = status < 0 ? status : kelpie__os_open_process(vm->kelpie->os, identity.pid);
    return owner < 0 ? kelpie__fail(error, KELPIE_E_IO, -owner, "open a handle of this process")
                     : owner;
}

int kelpie__vm_spawn_monitor(struct kelpie_vm *vm, struct kelpie_error *error) {
    struct kelpie_os *os = vm->kelpie->os;
    int pair[2];
    KELPIE_ASSERT(vm->directory.lock >= 0);
    kelpie__vm_check(vm);
    KELPIE_ASSERT(vm->wire == NULL);
    int owner = owner_handle(vm, error);
    if (owner < KELPIE_OS_NO_HANDLE) {
        return owner;
    }
    if (KELPIE_CANARY(os, 13)) { /* it was seen to be free; it is taken for good below */
        kelpie__vm_directory_unlock(&vm->directory);
        vm->directory.lock = kelpie__os_open(os, vm->directory.run, KELPIE_VM_LOCK_FILE,
                                             KELPIE_OS_OPEN_READ | KELPIE_OS_OPEN_WRITE, 0);
    }
    kelpie__ignore(kelpie__os_unlink(os, vm->directory.run, KELPIE_VM_SOCKET_FILE, false));
    int listener = kelpie__os_listen(os, vm->directory.run, KELPIE_VM_SOCKET_FILE, CONNECT_BACKLOG);
    int status = listener < 0 ? listener : kelpie__os_pair(os, pair);
    if (status < 0) {
        status = kelpie__fail(error, KELPIE_E_IO, -status, "make the sockets of VM \"%s\"",
                              vm->directory.name);
        goto fail_sockets;
    }
    vm->is_creator = vm->config->lifetime == KELPIE_LIFETIME_OWNED;
    /* The connection first: after the spawn nothing may fail any more, since a monitor that runs
     * holds the lock, and whoever gives the VM up would delete it under its feet. */
    status = connection_open(vm, pair[0], error);
    if (status == 0) {
        status = spawn_process(vm, listener, pair[1], owner, error);
        if (status < 0) {
            KELPIE_REACHED(os, "a monitor could not be started");
            kelpie__vm_disconnect(vm);
        }
    }
    kelpie__ignore(kelpie__os_close(os, pair[1]));
    if (status < 0) {
        kelpie__ignore(kelpie__os_unlink(os, vm->directory.run, KELPIE_VM_SOCKET_FILE, false));
    }
    if (status == 0) {
        kelpie__ignore(KELPIE_CANARY(os, 13) ? kelpie__os_lock(os, vm->directory.lock) : 0);
        kelpie__vm_directory_unlock(&vm->directory); /* the monitor holds its own copy */
        KELPIE_ASSERT(vm->wire != NULL);
    }
fail_sockets:
    if (listener >= 0) {
        kelpie__ignore(kelpie__os_close(os, listener));
    }
    if (owner >= 0) {
        kelpie__ignore(kelpie__os_close(os, owner));
    }
    return status;
}

int kelpie__vm_connect(struct kelpie_vm *vm, bool may_start, struct kelpie_vm_record *out_record,
                       struct kelpie_error *error) {
    struct kelpie_vm_record record;
    int status = kelpie__vm_check_damage(vm, error);
    if (status < 0) {
        return status;
    }
    if (vm->wire != NULL && !kelpie__wire_is_closed(vm->wire)) {
        return 0;
    }
    if (vm->wire != NULL) {
        KELPIE_REACHED(vm->kelpie->os, "a call came while its monitor was ending");
        return kelpie__fail(error, KELPIE_E_BUSY, 0, "the monitor of VM \"%s\" is ending",
                            vm->directory.name);
    }
    int stream = kelpie__os_connect(vm->kelpie->os, vm->directory.run, KELPIE_VM_SOCKET_FILE);
    if (stream >= 0) {
        return connection_open(vm, stream, error);
    }
    if (stream == -EAGAIN) {
        KELPIE_REACHED(vm->kelpie->os, "a monitor had no time for a connection");
        return kelpie__fail(error, KELPIE_E_BUSY, 0, "the monitor of VM \"%s\" has no time",
                            vm->directory.name);
    }
    status = kelpie__vm_directory_lock(&vm->directory, error);
    if (status < 0) {
        return status;
    }
    status = kelpie__vm_directory_recover(&vm->directory, &record, error);
    if (status == 0 && may_start) {
        status = kelpie__state_allow(record.state, KELPIE_VERB_START, vm->directory.name, error);
    }
    if (status == 0 && may_start) {
        status = kelpie__vm_spawn_monitor(vm, error);
    } else if (status == 0) {
        status = kelpie__fail(error, KELPIE_E_STATE, 0, "VM \"%s\" is %s", vm->directory.name,
                              kelpie_vm_state_name(record.state));
        if (out_record != NULL) {
            *out_record = record;
        }
    }
    kelpie__vm_directory_unlock(&vm->directory);
    KELPIE_ASSERT(status < 0 || vm->wire != NULL);
    KELPIE_ASSERT(vm->directory.lock == KELPIE_OS_NO_HANDLE);
    return status;
}

/* Waits until the monitor has answered hello. BUSY: it ended before, as one does whose VM has just
 * stopped. */
static int wait_greeted(struct kelpie_vm *vm, struct kelpie_error *error) {
    int status = 0;
    KELPIE_ASSERT(vm->kelpie->callback_depth == 0);
    while (status == 0 && vm->wire != NULL && !vm->is_greeted) { /* bound: hello's deadline */
        status = kelpie__turn(vm->kelpie, -1, error);
    }
    KELPIE_SOMETIMES(vm->kelpie->os, "a connection ended before its hello",
                     status == 0 && vm->wire == NULL);
    if (status == 0 && vm->wire == NULL) {
        KELPIE_ASSERT(vm->loss.code < 0);
        status = vm->loss.code;
        *error = vm->loss;
    }
    if (status == 0 && kelpie__wire_is_closed(vm->wire)) { /* its last words came with its hello */
        status = kelpie__fail(error, KELPIE_E_BUSY, 0, "the monitor of VM \"%s\" is ending",
                              vm->directory.name);
    }
    KELPIE_ASSERT(status != 0 || vm->is_greeted);
    return status;
}

/* Every connection ended before its hello. So it is when each monitor that is started dies at once;
 * but one that lives says otherwise. */
static int fail_losses(struct kelpie_vm *vm, struct kelpie_error *kept) {
    struct kelpie_vm_record record = {0};
    bool is_alive = kelpie__vm_record(vm, &record, NULL) == 0 &&
                    kelpie__state_is_live(record.state) &&
                    !kelpie__vm_monitor_is_dying(vm, record.monitor_pid);
    KELPIE_ASSERT(kept->code == KELPIE_E_BUSY);
    if (is_alive) {
        return kelpie__fail(kept, KELPIE_E_IO, 0,
                            "%u connections to the monitor of VM \"%s\" were lost before it "
                            "answered, and it lives; try again",
                            CONNECT_LOSSES_MAX, vm->directory.name);
    }
    KELPIE_REACHED(vm->kelpie->os, "every monitor that was started died at once");
    kept->code = KELPIE_E_CRASHED;
    return KELPIE_E_CRASHED;
}

int kelpie__vm_connect_wait(struct kelpie_vm *vm, bool may_start,
                            struct kelpie_vm_record *out_record, struct kelpie_error *error) {
    struct kelpie *kelpie = vm->kelpie;
    struct kelpie_error kept = {0};
    unsigned loss_count = 0;
    int64_t deadline_ns = kelpie__loop_deadline(kelpie->loop, KELPIE_CALL_TIMEOUT_MS);
    int status = KELPIE_E_BUSY;
    KELPIE_ASSERT(kelpie->callback_depth == 0);
    while (status == KELPIE_E_BUSY && loss_count < CONNECT_LOSSES_MAX) { /* and the deadline */
        status = kelpie__vm_connect(vm, may_start, out_record, &kept);
        if (status == 0) {
            status = wait_greeted(vm, &kept);
            loss_count += status == KELPIE_E_BUSY ? 1 : 0;
        }
        if (status == KELPIE_E_BUSY && kelpie->loop->now_ns >= deadline_ns) {
            break;
        }
        if (status == KELPIE_E_BUSY) {
            int turned = kelpie__turn(kelpie, kelpie->loop->now_ns + CONNECT_RETRY_NS, &kept);
            status = turned < 0 ? turned : status;
        }
    }
    if (loss_count == CONNECT_LOSSES_MAX) {
        status = fail_losses(vm, &kept);
    }
    KELPIE_ASSERT(loss_count <= CONNECT_LOSSES_MAX);
    KELPIE_ASSERT(status == 0 || kept.code == status);
    if (status < 0 && error != NULL) {
        *error = kept;
    }
    return status;
}
