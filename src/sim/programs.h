/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Programs of simulated guests: ordinary functions of a `struct kelpie_os` that may wait. Builtin
 * ones stand in tables by file; the shell runs some of them in its own process, over handles of its
 * choice.
 */
#ifndef KELPIE_SIM_PROGRAMS_H
#define KELPIE_SIM_PROGRAMS_H

#include "core/base.h"
#include "core/limits.h"
#include "os/os_call.h"
#include "sim/guest.h"

#define SIM_PROGRAM_BUFFER_BYTES 4096u
#define SIM_PROGRAM_PATH_DEFAULT "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

/* What a program reads from and writes to. */
struct sim_stdio {
    struct kelpie_os *os;
    int in;
    int out;
    int err;
    const char *name; /* argv[0], for messages */
};

typedef int (*sim_program_function)(const struct sim_stdio *io, int argc, char **argv);

struct sim_program_entry {
    const char *name;
    sim_program_function function;
};

/* Each ends with a NULL name. */
extern const struct sim_program_entry kelpie__sim_programs_text[];    /* program_text.c */
extern const struct sim_program_entry kelpie__sim_programs_bytes[];   /* program_bytes.c */
extern const struct sim_program_entry kelpie__sim_programs_file[];    /* program_file.c */
extern const struct sim_program_entry kelpie__sim_programs_process[]; /* program_process.c */
extern const struct sim_program_entry kelpie__sim_programs_script[];  /* script.c */
extern const struct sim_program_entry kelpie__sim_programs_shell[];   /* shell.c */

/* The names of all programs of a world's guests, builtin ones first; NULL after the last. */
const char *kelpie__sim_program_name(struct sim_world *world, uint32_t index);
/* A builtin one; NULL: there is none of this name. */
sim_program_function kelpie__sim_program_builtin(const char *name);

/* What the seam has no operation for: chmod(2), sysconf(3). */
int kelpie__sim_program_chmod(struct kelpie_os *os, const char *path, uint32_t mode);
uint32_t kelpie__sim_program_cpu_count(struct kelpie_os *os);

/* ---- program_io.c ---------------------------------------------------------------------------- */

/* Text to a handle, as it is; false when it cannot be written. A broken pipe ends the process. */
bool kelpie__sim_put(const struct sim_stdio *io, const char *text);
KELPIE_PRINTF(2, 3)
bool kelpie__sim_print(const struct sim_stdio *io, const char *format, ...);
/* "NAME: text" to the error output. */
KELPIE_PRINTF(2, 3)
void kelpie__sim_complain(const struct sim_stdio *io, const char *format, ...);
/* All of it; 0 or -errno. */
int kelpie__sim_write_all(struct kelpie_os *os, int handle, const void *bytes, size_t count);
/* Time that the processor is busy with this process. */
void kelpie__sim_work(struct kelpie_os *os, int64_t duration_ns);
/* "1.5", "2s", "100ms", "3m": nanoseconds, or -1. */
int64_t kelpie__sim_parse_duration(const char *text);
/* "10", "64k", "1M": or -1. */
int64_t kelpie__sim_parse_bytes(const char *text);
/* "9", "KILL", "SIGKILL": or -1. */
int kelpie__sim_parse_signal(const char *text);
/* The name of a signal without SIG, or NULL. */
const char *kelpie__sim_signal_name(int signal);
const char *kelpie__sim_errno_text(int status);
/* Waits for the end of a child by its handle, closes it. */
void kelpie__sim_wait_child(struct kelpie_os *os, int process, struct kelpie_os_exit *out);
/* Where PATH of this environment leads: 0, -ENOENT, -EACCES. */
int kelpie__sim_find_program(struct kelpie_os *os, const char *path_variable, const char *name,
                             char *out, size_t capacity);

#endif
