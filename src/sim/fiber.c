/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * See fiber.h. The address sanitizer is told of every switch: it keeps the bounds of the stack in
 * use, and marks on stacks that are left for good.
 */
#include "sim/fiber.h"

#include <stdint.h>
#include <string.h>

#include "core/base.h"

#if defined(__SANITIZE_ADDRESS__)
#define FIBER_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define FIBER_ASAN 1
#endif
#endif
#if !defined(FIBER_ASAN)
#define FIBER_ASAN 0
#endif

#if FIBER_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

#define FIBER_SAVED_WORDS 6u /* as fiber_x86_64.S pushes them: r15 r14 r13 r12 rbx rbp */
#define FIBER_FRAME_WORDS (FIBER_SAVED_WORDS + 1u) /* and where to go on */

/* fiber_x86_64.S */
void kelpie__sim_fiber_switch(void **out_pointer, void *pointer);
void kelpie__sim_fiber_begin(void);

/* What a fiber's first stack frame needs; at the top of its stack. */
struct fiber_start {
    void (*entry)(void *context);
    void *context;
    struct sim_fiber *fiber;
    struct sim_fiber *scheduler; /* set by the first resume */
};

static void fiber_arrived(void *fake_stack, struct sim_fiber *from) {
#if FIBER_ASAN
    const void *bottom = NULL;
    size_t bytes = 0;
    __sanitizer_finish_switch_fiber(fake_stack, &bottom, &bytes);
    if (from != NULL) { /* the scheduler's own stack, which nobody else knows */
        from->stack = (void *)(uintptr_t)bottom;
        from->stack_bytes = bytes;
    }
#else
    kelpie__ignore(fake_stack != NULL && from != NULL);
#endif
}

static void fiber_departs(void **out_fake_stack, const struct sim_fiber *to) {
#if FIBER_ASAN
    __sanitizer_start_switch_fiber(out_fake_stack, to->stack, to->stack_bytes);
#else
    kelpie__ignore(out_fake_stack != NULL && to != NULL);
#endif
}

static void fiber_main(void *context) {
    struct fiber_start start = *(struct fiber_start *)context;
    fiber_arrived(NULL, start.scheduler);
    start.entry(start.context);
    KELPIE_ASSERT(start.entry == NULL); /* it must not return */
}

static struct fiber_start *fiber_start_of(const struct sim_fiber *fiber) {
    char *top = (char *)fiber->stack + fiber->stack_bytes;
    return (struct fiber_start *)(void *)(top - sizeof(struct fiber_start));
}

void kelpie__sim_fiber_forget(void *stack, size_t stack_bytes) {
    KELPIE_ASSERT(stack_bytes > 0);
#if FIBER_ASAN
    ASAN_UNPOISON_MEMORY_REGION(stack, stack_bytes);
#else
    kelpie__ignore(stack != NULL);
#endif
}

void kelpie__sim_fiber_init(struct sim_fiber *fiber, void *stack, size_t stack_bytes,
                            void (*entry)(void *context), void *context) {
    KELPIE_ASSERT((uintptr_t)stack % 16 == 0 && stack_bytes % 16 == 0);
    KELPIE_ASSERT(stack_bytes >= 4096);
    kelpie__sim_fiber_forget(stack, stack_bytes);
    *fiber = (struct sim_fiber){.stack = stack, .stack_bytes = stack_bytes};
    struct fiber_start *start = fiber_start_of(fiber);
    *start = (struct fiber_start){.entry = entry, .context = context, .fiber = fiber};
    /* after the pops and the return into fiber_begin, the pointer is a multiple of 16 */
    void **words = (void **)(void *)start - FIBER_FRAME_WORDS;
    memset(words, 0, FIBER_FRAME_WORDS * sizeof(*words));
    void (*main_function)(void *) = fiber_main;
    void (*begin)(void) = kelpie__sim_fiber_begin;
    words[3] = start;
    memcpy(&words[2], &main_function, sizeof(void *));
    memcpy(&words[FIBER_SAVED_WORDS], &begin, sizeof(void *));
    fiber->pointer = words;
}

void kelpie__sim_fiber_resume(struct sim_fiber *scheduler, struct sim_fiber *fiber) {
    KELPIE_ASSERT(fiber->pointer != NULL);
    void *pointer = fiber->pointer;
    void *start_words = (char *)(void *)fiber_start_of(fiber) - FIBER_FRAME_WORDS * sizeof(void *);
    if (pointer == start_words) {
        fiber_start_of(fiber)->scheduler = scheduler;
    }
    fiber->pointer = NULL; /* it runs */
    fiber_departs(&scheduler->sanitizer_stack, fiber);
    kelpie__sim_fiber_switch(&scheduler->pointer, pointer);
    fiber_arrived(scheduler->sanitizer_stack, NULL);
    scheduler->pointer = NULL;
}

void kelpie__sim_fiber_leave(struct sim_fiber *scheduler, struct sim_fiber *fiber, bool is_last) {
    KELPIE_ASSERT(scheduler->pointer != NULL);
    KELPIE_ASSERT(fiber->pointer == NULL);
    fiber_departs(is_last ? NULL : &fiber->sanitizer_stack, scheduler);
    kelpie__sim_fiber_switch(&fiber->pointer, scheduler->pointer);
    fiber_arrived(fiber->sanitizer_stack, scheduler);
}
