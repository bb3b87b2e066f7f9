/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * From the bytes of an `args` stream to what spawn wants: argument vector, environment with its
 * defaults, and the program's path, looked up in the PATH of the command and not of the agent.
 */
#ifndef KELPIE_AGENT_COMMAND_H
#define KELPIE_AGENT_COMMAND_H

#include "core/base.h"
#include "core/error.h"
#include "os/os.h"

#define KELPIE_AGENT_PATH_BYTES_MAX 4096 /* PATH_MAX */
#define KELPIE_AGENT_COMMAND_FEW 64      /* pointers that most vectors need at most */

struct kelpie_agent_command_options {
    const char
        *bytes; /* argument_count strings, then environment_count strings, each ended by a NUL */
    size_t length;
    uint32_t argument_count;
    uint32_t environment_count;
    const char *directory; /* in which the command will start; NULL: the root */
    const char *home;      /* defaults for what the environment does not set */
    const char *user;      /* empty: no USER */
    bool is_terminal;
};

struct kelpie_agent_command {
    const char **vector; /* owned, unless it is `few`: arguments, NULL, environment, NULL */
    size_t vector_bytes;
    const char *few[KELPIE_AGENT_COMMAND_FEW];
    const char **environment; /* inside vector */
    char home[KELPIE_AGENT_PATH_BYTES_MAX / 8];
    char user[128];
    char path[KELPIE_AGENT_PATH_BYTES_MAX]; /* as given when it holds a slash, else as found */
};

/* Keeps options->bytes until deinit. Codes: PROTOCOL for counts that do not fit the bytes, MEMORY,
 * EXEC_NOT_FOUND (a shell's 127), EXEC_DENIED (126). */
KELPIE_MUST_CHECK int kelpie__agent_command_init(struct kelpie_agent_command *command,
                                                 struct kelpie_os *os,
                                                 const struct kelpie_agent_command_options *options,
                                                 struct kelpie_error *error);

void kelpie__agent_command_deinit(struct kelpie_agent_command *command, struct kelpie_os *os);

/* The value of NAME among "NAME=value" strings ended by NULL, or NULL. */
const char *kelpie__agent_command_variable(const char *const *environment, const char *name);

/* Turns the failure of spawn (its negative errno value and step) into an error of code
 * EXEC_NOT_FOUND, EXEC_DENIED, or, when the guest has no room for another process, EXEC. */
int kelpie__agent_command_explain(struct kelpie_os *os, const char *path, const char *directory,
                                  int status, const char *step, struct kelpie_error *error);

#endif
