/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * What the two ways to a child share (os_linux_process.c, os_linux_ready.c): what is done in the
 * child, with the memory of its parent and a stack of its own, by system calls alone.
 */
#ifndef KELPIE_OS_OS_LINUX_SPAWN_H
#define KELPIE_OS_OS_LINUX_SPAWN_H

#include <linux/sched.h>
#include <sched.h>
#include <sys/types.h>

#include "os/os_linux.h"

#define SPAWN_STACK_BYTES (24u * 1024u)
#ifndef CLONE_CLEAR_SIGHAND
#define CLONE_CLEAR_SIGHAND 0x100000000ULL
#endif
#ifndef CLONE_INTO_CGROUP
#define CLONE_INTO_CGROUP 0x200000000ULL
#endif

/* The child runs on a stack that no sanitizer knows. */
#define SPAWN_CHILD __attribute__((no_sanitize("address", "undefined")))

/* What parent and child share. The child writes, then ends or replaces itself; only then the parent
 * goes on. */
struct spawn_plan {
    const struct kelpie_os_spawn *spawn;
    pid_t parent;
    bool has_cleared_handlers; /* by clone3 */
    bool is_in_cgroup;         /* by clone3 */
    const char *step;
    int error; /* 0: the child replaced itself */
    pid_t orphan;
    uint8_t *orphan_stack;
};

/* In the child: what can be done before its program is known. -1: the plan says what failed. */
int kelpie__os_linux_child_begin(struct spawn_plan *plan);
/* Likewise: all the rest, and the program. Does not return. */
void kelpie__os_linux_child_become(struct spawn_plan *plan);

#if defined(__x86_64__)
/* clone3(2) with a stack of the child's own. libc has no wrapper; the child must not return into
 * this frame. */
long kelpie__os_linux_clone3(struct clone_args *arguments, int (*function)(void *), void *context);
#endif

#endif
