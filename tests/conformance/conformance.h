/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * The simulated system answers as the real one does. A script is written against `struct kelpie_os`
 * alone and writes down what it was answered; it is run on Linux and in a simulated world, and the
 * two transcripts must be equal, line by line. Handles, pids and times never stand in a transcript:
 * only what they mean.
 */
#ifndef KELPIE_TESTS_CONFORMANCE_H
#define KELPIE_TESTS_CONFORMANCE_H

#include "os/os_call.h"

#define CONFORM_TEXT_BYTES (64u * 1024u)
#define CONFORM_WAIT_NS INT64_C(10000000000) /* the longest wait of a script */
#define CONFORM_RANDOM 1000u /* seeds of a drawn script, divided by the run's scale */
#define CONFORM_NONE KELPIE_OS_NO_HANDLE
#define CONFORM_CHILD_HANDLE 3 /* the child's end of the stream to its parent */

struct conform {
    struct kelpie_os *os;
    int directory;     /* the script's own, empty */
    const char *path;  /* its absolute path */
    const char *child; /* the program behind child_start, an absolute path */
    /* Beside the seam, for hosts: a symbolic link, and a pseudo terminal. */
    int (*make_link)(struct conform *conform, const char *target, const char *name);
    int (*open_terminal)(struct conform *conform, int *out_master, int *out_slave);
    void *context; /* of these two */
    uint64_t seed; /* of a drawn script */
    size_t length;
    char text[CONFORM_TEXT_BYTES];
};

struct conform_script {
    const char *name;
    void (*run)(struct conform *conform);
    uint32_t seeds; /* so many times, with the seeds 1, 2, ...; 0: once */
};

extern const struct conform_script conform_scripts_file[];
extern const struct conform_script conform_scripts_name[];
extern const struct conform_script conform_scripts_lock[];
extern const struct conform_script conform_scripts_stream[];
extern const struct conform_script conform_scripts_listener[];
extern const struct conform_script conform_scripts_handle[];
extern const struct conform_script conform_scripts_pipe[];
extern const struct conform_script conform_scripts_process[];
extern const struct conform_script conform_scripts_signal[];
extern const struct conform_script conform_scripts_wait[];
extern const struct conform_script conform_scripts_terminal[];
extern const struct conform_script conform_scripts_qemu[];
extern const struct conform_script conform_scripts_krun[];
extern const struct conform_script conform_scripts_random[];
extern const struct conform_script conform_scripts_random_process[];

/* ---- writing down ---------------------------------------------------------------------------- */

__attribute__((format(printf, 2, 3))) void say(struct conform *conform, const char *format, ...);
/* "WHAT: 17", or "WHAT: ENOENT". Gives the status back. */
int64_t said(struct conform *conform, int64_t status, const char *what);
/* The same, but any handle is "a handle". */
int said_handle(struct conform *conform, int handle, const char *what);

/* ---- calls that most scripts make, written down ---------------------------------------------- */

int say_open(struct conform *conform, const char *path, uint32_t flags);
/* A file with this text, made anew. */
int say_make(struct conform *conform, const char *path, const char *text);
void say_close(struct conform *conform, int handle); /* only a failure is written down */
int64_t say_write(struct conform *conform, int handle, const char *text);
/* What was read, as text when it is short. */
int64_t say_read(struct conform *conform, int handle, size_t count);
int64_t say_pread(struct conform *conform, int file, size_t count, uint64_t offset);
/* Name of the kind, size and mode of a path, or of the handle itself (""). */
void say_stat(struct conform *conform, int directory, const char *path, bool follow);
void say_pair(struct conform *conform, int out[2]);
void say_pipe(struct conform *conform, int out[2]);
/* What a wait reports at once about a handle: "ready WHAT: read write hangup". */
void say_ready(struct conform *conform, int handle, const char *what);
/* Waits until one of `bits` or a hangup is reported; says "waited WHAT: ..." as above. */
void say_wait(struct conform *conform, int handle, uint32_t bits, const char *what);
/* Moves bytes without a word per call: until EAGAIN or any other answer, at most `count`. Gives
 * their number; the last answer is written down when it is no EAGAIN. */
uint64_t pour(struct conform *conform, int handle, size_t piece, uint64_t count);
uint64_t drain(struct conform *conform, int handle, size_t piece, uint64_t count);

/* ---- children -------------------------------------------------------------------------------- */

struct conform_child {
    int process; /* CONFORM_NONE: an orphan */
    int control;
    int32_t pid;
};

/* Starts the child with the stream to it as its handle 3, and `handles` as its 4, 5, ... */
struct conform_child child_start(struct conform *conform, uint32_t flags, const int *handles,
                                 uint32_t handle_count);
/* Sends a line, waits for the answer, writes both down. */
void child_ask(struct conform *conform, const struct conform_child *child, const char *request);
/* The same without a transcript; the answer's number. */
int64_t child_number(struct conform *conform, const struct conform_child *child,
                     const char *request);
/* Waits for its end, reaps it, writes down how it ended, and closes both handles. */
void child_end(struct conform *conform, struct conform_child *child);
void child_kill(struct conform *conform, struct conform_child *child, int signal);
/* SIGSTOP, and until it has stopped (a signal that comes before is treated as any other). */
void child_stop(struct conform *conform, struct conform_child *child);

/* The program itself: does what it is told, line by line (child.c). */
int conform_child_main(struct kelpie_os *os, int argc, char **argv);

#endif
