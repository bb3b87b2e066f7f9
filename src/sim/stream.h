/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * What streams, listeners, pipes, signal handles and terminals are to the rest of the simulated
 * kernel. Every `create` gives objects with one reference each, which the caller gives up once they
 * are installed; -ENOMEM when the machine's heap is full, and then nothing is made.
 */
#ifndef KELPIE_SIM_STREAM_H
#define KELPIE_SIM_STREAM_H

#include "sim/machine.h"

/* ---- unix streams (stream.c) ----------------------------------------------------------------- */

struct sim_socket;

/* `process`: whose credentials both ends see. */
int kelpie__sim_stream_pair(struct sim_process *process, struct sim_object *out[2]);
/* An end without a peer; connect gives it one. */
int kelpie__sim_stream_create(struct sim_machine *machine, struct sim_object **out);
/* NULL: the object is no stream. */
struct sim_socket *kelpie__sim_stream_of(struct sim_object *object);
/* Makes the other end, which knows `client` as its peer, while the end itself knows `server`. */
int kelpie__sim_stream_join(struct sim_socket *stream, const struct kelpie_os_peer *server,
                            const struct kelpie_os_peer *client, struct sim_object **out);
/* The end was never accepted: its peer is told (ECONNRESET). Gives up the reference. */
void kelpie__sim_stream_refuse(struct sim_object *object);
int kelpie__sim_stream_shut_write(struct sim_object *object);
/* As `peer`; -ENOTSOCK. Also of listeners. */
int kelpie__sim_stream_peer(struct sim_object *object, struct kelpie_os_peer *out);
/* For checks only: the last request of the other end that this end has answered, by the id that the
 * other end gave it; and the other end's look at that. 0: none, or no stream. */
void kelpie__sim_stream_answer(struct sim_object *object, uint64_t id);
uint64_t kelpie__sim_stream_answered(struct sim_object *object);

/* ---- listeners (listener.c) ------------------------------------------------------------------ */

struct sim_listener;

int kelpie__sim_listener_create(struct sim_process *process, uint32_t backlog,
                                struct sim_object **out);
/* NULL: the object is no listener. */
struct sim_listener *kelpie__sim_listener_of(struct sim_object *object);
/* The number that its name in the file system carries. */
uint64_t kelpie__sim_listener_socket(const struct sim_listener *listener);
const struct kelpie_os_peer *kelpie__sim_listener_owner(const struct sim_listener *listener);
/* -ECONNREFUSED: nobody listens there; -EAGAIN: the queue is full. */
int kelpie__sim_listener_connect(struct sim_process *process, uint64_t socket,
                                 struct sim_socket *stream);
/* The oldest connection, which stays until it is dropped from the queue; -EAGAIN. */
int kelpie__sim_listener_first(struct sim_listener *listener, struct sim_object **out);
void kelpie__sim_listener_drop_first(struct sim_listener *listener);

/* ---- pipes (pipe.c) -------------------------------------------------------------------------- */

/* [0] the read end, [1] the write end. */
int kelpie__sim_pipe_create(struct sim_machine *machine, struct sim_object *out[2]);

/* ---- signals (signal_handle.c) --------------------------------------------------------------- */

/* Blocks those of `signals` (bit n - 1 is signal n) that the process does not ignore. */
int kelpie__sim_signals_create(struct sim_process *process, uint64_t signals,
                               struct sim_object **out);
/* The lowest that is pending; -EAGAIN; -EINVAL for another kind of object. */
int kelpie__sim_signals_take(struct sim_object *object);

/* ---- terminals (terminal.c) ------------------------------------------------------------------ */

/* out[0] the master, out[1] the slave: echoing, by lines, as Linux's are at first. */
int kelpie__sim_terminal_create(struct sim_machine *machine, uint16_t rows, uint16_t columns,
                                struct sim_object *out[2]);
/* The same as two handles, for a guest's open_terminal. */
int kelpie__sim_terminal_open(struct sim_process *process, int *out_master, int *out_slave,
                              uint16_t rows, uint16_t columns);
/* The slave becomes the terminal of the leader's session: -ENOTTY, -EPERM. */
int kelpie__sim_terminal_control(struct sim_object *object, struct sim_process *leader);
/* Not when it is hung up. */
bool kelpie__sim_terminal_is(struct sim_object *object);
/* These answer -ENOTTY to anything else. */
int kelpie__sim_terminal_size(struct sim_object *object, uint16_t *out_rows, uint16_t *out_columns);
int kelpie__sim_terminal_resize(struct sim_object *object, uint16_t rows, uint16_t columns);
int kelpie__sim_terminal_set_raw(struct sim_object *object, bool is_raw);

#endif
