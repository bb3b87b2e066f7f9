/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * What the files of the library share. A handle owns one connection to a VM's monitor, made when it
 * is first needed and made again when that monitor has gone. Everything lives on one loop; a
 * blocking call is an asynchronous one and a loop driven until it has ended.
 */
#ifndef KELPIE_LIB_INTERNAL_H
#define KELPIE_LIB_INTERNAL_H

#include "core/config.h"
#include "core/loop.h"
#include "core/state.h"
#include "os/os.h"
#include "store/vm_directory.h"
#include "wire/stream.h"

#define KELPIE_LIB_HANDLE_MAX 1024u /* connections of one struct kelpie */

static_assert(KELPIE_FORK_COUNT_MAX + KELPIE_POOL_WAITER_COUNT_MAX < KELPIE_LIB_HANDLE_MAX,
              "forks and claims that wait do not use up a handle's connections");

struct kelpie {
    struct kelpie_os *os;     /* owned */
    struct kelpie_loop *loop; /* owned */
    struct kelpie_places places;
    struct kelpie_leftovers leftovers; /* that it removed when it was opened, or later */
    kelpie_log_callback log_callback;
    void *log_context;
    bool is_simulated;             /* `os` came from kelpie__os_sim_open */
    int32_t pid;                   /* of the process that opened it; 0: the system did not say */
    uint32_t callback_depth;       /* above 0: inside a callback of the embedder's */
    struct kelpie_vm *vms;         /* list of open handles */
    struct kelpie_pool *pools;     /* list of open handles */
    struct kelpie_fork *forks;     /* list: those that are under way */
    struct kelpie_config *configs; /* list */
};

struct kelpie_config {
    struct kelpie *kelpie; /* borrowed: until destroy */
    struct kelpie_config *next;
    struct kelpie_config_values values;
    uint32_t problem_count;
    struct kelpie_error problems[KELPIE_CONFIG_PROBLEM_MAX];
};

struct kelpie_vm {
    struct kelpie *kelpie; /* borrowed: until close */
    struct kelpie_vm *next;
    struct kelpie_vm_directory directory;
    struct kelpie_config_values *config; /* owned */
    struct kelpie_wire *wire;            /* owned; NULL: not connected */
    struct kelpie_vm *waiting;           /* list: forks that wait for this one; owned */
    struct kelpie_vm *next_waiting;
    struct kelpie_vm *waits_for; /* whose list it is in; NULL: none's */
    size_t waiting_count;
    bool is_creator;            /* of an owned VM: its connection is what keeps it */
    struct kelpie_error damage; /* code 0: none; else its files cannot be read, only deleted */
    bool is_greeted;            /* this connection's hello was answered */
    bool has_goodbye;           /* its monitor ended in order */
    struct kelpie_error loss;   /* why the last connection ended */
    uint32_t channel_last;
    struct kelpie_exec *execs; /* list */
    struct kelpie_operation *operations;
    kelpie_event_callback event_callback;
    void *event_context;
};

/* One request that waits for its answer. */
struct kelpie_operation {
    struct kelpie_vm *vm; /* borrowed: until its end */
    struct kelpie_operation *next;
    uint64_t request;
    /* Reads the answer into `result` (borrowed: the caller keeps it); may be NULL. */
    void (*read)(struct kelpie_operation *operation, const char *answer, size_t length);
    void *result;
    size_t result_bytes;  /* its struct_size, if it has one */
    size_t *result_count; /* of a list */
    kelpie_done_callback callback;
    void *context;
    struct kelpie_timer timer; /* armed: nothing was asked, it ends in the loop's next step */
    /* Of several requests in one, which is no other's: how it is cancelled; else NULL. */
    void (*cancel)(struct kelpie_operation *operation);
};

enum kelpie_exec_phase { KELPIE_EXEC_IS_STARTING, KELPIE_EXEC_IS_RUNNING, KELPIE_EXEC_HAS_ENDED };

/* Output that waits for its reader; its memory is made when it is first needed. */
struct kelpie_exec_output {
    struct kelpie_stream_receiver receiver;
    struct kelpie_ring ring;
    bool has_ring;
    bool is_end_told;
};

struct kelpie_exec {
    struct kelpie *kelpie; /* borrowed: until kelpie_close */
    struct kelpie_vm *vm;  /* borrowed: until it is destroyed */
    struct kelpie_exec *next;
    uint32_t channel; /* of the VM's connection; 0: that one is gone */
    enum kelpie_exec_phase phase;
    char id[KELPIE_EXEC_ID_CHARACTERS + 1];
    uint64_t start_request; /* 0: answered */
    bool keeps_on_disconnect;
    bool has_terminal;
    bool is_paused;
    bool is_held;        /* nothing is told before the starting call has returned */
    bool is_stdin_short; /* `writable` is owed */
    bool is_stdin_open;
    bool is_ended_told;
    bool is_delivering;
    bool is_destroyed; /* inside its own callback */
    struct kelpie_exec_callbacks callbacks;
    void *context;
    kelpie_done_callback start_callback;
    struct kelpie_stream_sender arguments;
    struct kelpie_stream_sender input;
    struct kelpie_exec_output outputs[2]; /* stdout, stderr */
    struct kelpie_exec_status status;
    struct kelpie_error error; /* code 0: status holds */
    uint64_t timeout_ms;
    struct kelpie_timer deliver_timer;
    struct kelpie_timer backstop_timer; /* for a monitor that does not report the end */
    int64_t backstop_armed_ms;          /* Unix time */
    /* Instead of kelpie_exec_close when the VM's handle is closed; NULL: none. */
    void (*drop)(void *context);
};

/* ---- kelpie.c -------------------------------------------------------------------------------- */

/* What holds of a handle whenever the embedder may call. */
void kelpie__handle_check(const struct kelpie *kelpie);

/* A copy of the caller's options, whatever their size; NULL: the defaults. */
KELPIE_MUST_CHECK int kelpie__open_read_options(const struct kelpie_open_options *given,
                                                struct kelpie_open_options *out,
                                                struct kelpie_error *error);
KELPIE_MUST_CHECK int kelpie__open_with_os(struct kelpie_os *os,
                                           const struct kelpie_open_options *options,
                                           struct kelpie **out, struct kelpie_error *error);
/* Closes all but the system, which it returns. */
struct kelpie_os *kelpie__close_keeping_os(struct kelpie *kelpie);
void kelpie__log(struct kelpie *kelpie, enum kelpie_log_level level, const char *message);
/* Around every callback of the embedder's. */
void kelpie__callback_enter(struct kelpie *kelpie);
void kelpie__callback_leave(struct kelpie *kelpie);
/* This process is a child that the embedder has forked: what it has of the handle's descriptors,
 * the event loop's among them, is its parent's as well, and is left alone. */
bool kelpie__is_inherited(const struct kelpie *kelpie);
/* MISUSE in such a child. */
KELPIE_MUST_CHECK int kelpie__check_process(const struct kelpie *kelpie, const char *what,
                                            struct kelpie_error *error);
/* The same, and inside a callback. */
KELPIE_MUST_CHECK int kelpie__check_may_block(const struct kelpie *kelpie, const char *what,
                                              struct kelpie_error *error);
/* One turn of the loop, for blocking calls; deadline -1: none. */
KELPIE_MUST_CHECK int kelpie__turn(struct kelpie *kelpie, int64_t deadline_ns,
                                   struct kelpie_error *error);

/* A blocking call's end. */
struct kelpie_waiter {
    bool is_done;
    int status;
    struct kelpie_error error;
};
void kelpie__waiter_done(void *context, const struct kelpie_error *error);
KELPIE_MUST_CHECK int kelpie__waiter_wait(struct kelpie *kelpie, struct kelpie_waiter *waiter,
                                          struct kelpie_error *error);

/* Structures of the caller's that begin with struct_size: an older caller's is shorter, a newer
 * one's longer. What both sides know is written, the rest zeroed. */
KELPIE_MUST_CHECK bool kelpie__struct_is_sized(const void *out);
/* struct_size is the one that the call began with: what the caller wrote over it meanwhile moves no
 * bound. */
void kelpie__struct_give(void *out, size_t struct_size, const void *from, size_t bytes);

/* ---- connect.c ------------------------------------------------------------------------------- */

/* Connects to the VM's monitor if there is one, or starts one if `may_start`. STATE or NOT_FOUND
 * otherwise: *out_record then says what the VM is (may be NULL). BUSY: somebody holds the lock for
 * a moment; try again. */
KELPIE_MUST_CHECK int kelpie__vm_connect(struct kelpie_vm *vm, bool may_start,
                                         struct kelpie_vm_record *out_record,
                                         struct kelpie_error *error);
/* With the lock held, which it hands to the monitor: starts one and connects. */
KELPIE_MUST_CHECK int kelpie__vm_spawn_monitor(struct kelpie_vm *vm, struct kelpie_error *error);
void kelpie__vm_disconnect(struct kelpie_vm *vm);
/* The monitor is gone: what its directory says about the VM, and its last words. */
void kelpie__vm_explain_loss(struct kelpie_vm *vm, struct kelpie_error *out);
/* As connect, but waits while BUSY, up to the call's default timeout. */
KELPIE_MUST_CHECK int kelpie__vm_connect_wait(struct kelpie_vm *vm, bool may_start,
                                              struct kelpie_vm_record *out_record,
                                              struct kelpie_error *error);

/* ---- operation.c ----------------------------------------------------------------------------- */

struct kelpie_request {
    const char *method;
    const char *params;
    uint64_t timeout_ms; /* of the answer */
    void (*read)(struct kelpie_operation *operation, const char *answer, size_t length);
    void *result;
    size_t result_bytes;
    size_t *result_count;
    bool is_answered; /* there was nobody to ask, and the result is there: nothing is sent */
};

void kelpie__request_check(const struct kelpie_request *request);
/* Sends a request over the open connection. out may be NULL. */
KELPIE_MUST_CHECK int kelpie__operation_start(struct kelpie_vm *vm,
                                              const struct kelpie_request *request,
                                              kelpie_done_callback callback, void *context,
                                              struct kelpie_operation **out,
                                              struct kelpie_error *error);
/* The same, waiting for its end. */
KELPIE_MUST_CHECK int kelpie__operation_run(struct kelpie_vm *vm,
                                            const struct kelpie_request *request,
                                            struct kelpie_error *error);
/* All operations of a handle end without a callback. */
void kelpie__operations_drop(struct kelpie_vm *vm);

/* How a function of the API was called: it blocks, or a callback tells its end. */
struct kelpie_call_form {
    const char *function; /* for errors */
    bool is_blocking;
    kelpie_done_callback callback;
    void *context;
    struct kelpie_operation **out; /* may be NULL */
};

struct kelpie_call_form kelpie__form_blocking(const char *function);
struct kelpie_call_form kelpie__form_async(const char *function, kelpie_done_callback callback,
                                           void *context, struct kelpie_operation **out);
/* There is a VM, and a call that blocks is not made in a callback. */
KELPIE_MUST_CHECK int kelpie__call_check(const struct kelpie_vm *vm,
                                         const struct kelpie_call_form *form,
                                         struct kelpie_error *error);
/* As kelpie__vm_connect; only a call that blocks may wait for somebody who holds the lock for a
 * moment. */
KELPIE_MUST_CHECK int kelpie__call_connect(struct kelpie_vm *vm,
                                           const struct kelpie_call_form *form, bool may_start,
                                           struct kelpie_vm_record *out_record,
                                           struct kelpie_error *error);
/* Connects for a call that needs a VM that lives: where none does, the state table refuses it. */
KELPIE_MUST_CHECK int kelpie__call_connect_live(struct kelpie_vm *vm,
                                                const struct kelpie_call_form *form,
                                                enum kelpie_vm_verb verb,
                                                struct kelpie_error *error);
/* Sends the request over the open connection; a call that blocks waits for its end. */
KELPIE_MUST_CHECK int kelpie__call_send(struct kelpie_vm *vm, const struct kelpie_call_form *form,
                                        const struct kelpie_request *request,
                                        struct kelpie_error *error);

/* ---- vm_log.c -------------------------------------------------------------------------------- */

/* Asks the open connection for events, as there is somebody who wants them. */
KELPIE_MUST_CHECK int kelpie__vm_ask_events(struct kelpie_vm *vm, struct kelpie_error *error);

/* ---- from_snapshot.c ------------------------------------------------------------------------- */

/* Takes what a VM made from its snapshot has from that; what was given otherwise is refused. */
KELPIE_MUST_CHECK int kelpie__config_from_snapshot(struct kelpie *kelpie,
                                                   struct kelpie_config_values *values,
                                                   struct kelpie_error *error);

/* ---- fork.c ---------------------------------------------------------------------------------- */

/* Those of this VM, or all, end without a callback, and let go of what they have. */
void kelpie__forks_drop(struct kelpie *kelpie, const struct kelpie_vm *source);
/* fork_waiting.c: it is on nobody's list any more; and those on its own list go. */
void kelpie__vm_stop_waiting(struct kelpie_vm *vm);
void kelpie__vm_release_waiting(struct kelpie_vm *source);

/* ---- vm.c ------------------------------------------------------------------------------------ */

/* What holds of a VM's handle from its opening to its closing. */
void kelpie__vm_check(const struct kelpie_vm *vm);
/* As kelpie_vm_create, for a call that may not block: BUSY, where that waits. */
KELPIE_MUST_CHECK int kelpie__vm_create_now(struct kelpie *kelpie, const char *name,
                                            struct kelpie_config *config, struct kelpie_vm **out,
                                            struct kelpie_error *error);
/* Closes a handle that nothing is forked of; takes NULL. */
void kelpie__vm_release(struct kelpie_vm *vm);
/* The error of a VM whose files cannot be read. */
KELPIE_MUST_CHECK int kelpie__vm_check_damage(const struct kelpie_vm *vm,
                                              struct kelpie_error *error);
/* The state as the directory says, recovered when nobody owns the VM. */
KELPIE_MUST_CHECK int kelpie__vm_record(struct kelpie_vm *vm, struct kelpie_vm_record *out,
                                        struct kelpie_error *error);

/* Whether it is gone, or on its way: its connections may end before its lock is free. */
bool kelpie__vm_monitor_is_dying(const struct kelpie_vm *vm, int32_t monitor_pid);

/* ---- program.c ------------------------------------------------------------------------------- */

/* Starts one of our programs, which lives on its own. `handles` as in struct kelpie_os_spawn; they
 * stay the caller's. Errors: UNAVAILABLE, with the step that failed. */
KELPIE_MUST_CHECK int kelpie__program_start(struct kelpie_os *os, const char *path,
                                            const char *const *argv, const int *handles,
                                            uint32_t handle_count, struct kelpie_error *error);

/* ---- snapshot.c ------------------------------------------------------------------------------ */

/* Removes what dead processes left of snapshots. */
void kelpie__snapshots_prune(struct kelpie *kelpie);
struct kelpie_manifest;
void kelpie__snapshot_describe(const struct kelpie_manifest *manifest,
                               struct kelpie_snapshot_info *out);

/* ---- exec_stream.c: what the connection brings ----------------------------------------------- */

void kelpie__execs_data(struct kelpie_vm *vm, uint32_t stream, uint64_t offset, const void *bytes,
                        size_t count, bool is_end);
void kelpie__execs_credit(struct kelpie_vm *vm, uint32_t stream, uint64_t acknowledged,
                          uint64_t limit);
void kelpie__execs_stop(struct kelpie_vm *vm, uint32_t stream);
void kelpie__execs_drained(struct kelpie_vm *vm);
void kelpie__execs_exit(struct kelpie_vm *vm, const char *params, size_t length);
/* The connection is gone: every command of this handle ends with the error. */
void kelpie__execs_fail(struct kelpie_vm *vm, const struct kelpie_error *why);
void kelpie__exec_plan_delivery(struct kelpie_exec *exec);
void kelpie__exec_end(struct kelpie_exec *exec, const struct kelpie_error *why);

/* snapshot.c: kelpie_vm_snapshot for VMs that are made of it at once: it goes with the last of
 * them, and nobody else knows of it. Its maker's word that it is whole counts. */
KELPIE_MUST_CHECK int kelpie__vm_snapshot_transient(struct kelpie_vm *vm,
                                                    const struct kelpie_snapshot_options *options,
                                                    struct kelpie_snapshot_result *out,
                                                    struct kelpie_error *error);

#endif
