/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Stacks that are switched by hand: each simulated process has one. Nothing here knows of
 * processes. The scheduler runs on the stack of whoever drives the world; fibers switch to it and
 * back, never to each other. A fiber that is to be killed is never resumed again, and its stack is
 * simply given back.
 */
#ifndef KELPIE_SIM_FIBER_H
#define KELPIE_SIM_FIBER_H

#include <stdbool.h>
#include <stddef.h>

#define SIM_FIBER_RED_ZONE_BYTES 128u /* below the saved pointer: what a leaf function may use */

/* Plain data: may be copied and brought back with its stack at the same address (a guest is saved
 * so). */
struct sim_fiber {
    void *stack; /* borrowed: the lowest address */
    size_t stack_bytes;
    void *pointer; /* the saved stack pointer while it does not run */
    void *sanitizer_stack;
};

/* The first resume calls entry(context), which must not return: its last act is
 * kelpie__sim_fiber_leave. */
void kelpie__sim_fiber_init(struct sim_fiber *fiber, void *stack, size_t stack_bytes,
                            void (*entry)(void *context), void *context);
/* From the scheduler: runs the fiber until it leaves. */
void kelpie__sim_fiber_resume(struct sim_fiber *scheduler, struct sim_fiber *fiber);
/* From the fiber: back to the scheduler; returns when it is resumed. is_last: it never will be. */
void kelpie__sim_fiber_leave(struct sim_fiber *scheduler, struct sim_fiber *fiber, bool is_last);
/* A fiber on this stack will never run again: its marks for the address sanitizer go. */
void kelpie__sim_fiber_forget(void *stack, size_t stack_bytes);

#endif
