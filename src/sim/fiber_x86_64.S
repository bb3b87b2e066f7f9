/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * kelpie__sim_fiber_switch(void **out_pointer, void *pointer): leaves one stack for another. What the
 * calling convention lets a function keep is on the stacks. kelpie__sim_fiber_begin is where a new
 * stack begins: its entry is in r13, its argument in r12.
 */
    .text
    .globl kelpie__sim_fiber_switch
    .hidden kelpie__sim_fiber_switch
    .type kelpie__sim_fiber_switch, @function
kelpie__sim_fiber_switch:
    push %rbp
    push %rbx
    push %r12
    push %r13
    push %r14
    push %r15
    mov %rsp, (%rdi)
    mov %rsi, %rsp
    pop %r15
    pop %r14
    pop %r13
    pop %r12
    pop %rbx
    pop %rbp
    ret
    .size kelpie__sim_fiber_switch, . - kelpie__sim_fiber_switch

    .globl kelpie__sim_fiber_begin
    .hidden kelpie__sim_fiber_begin
    .type kelpie__sim_fiber_begin, @function
kelpie__sim_fiber_begin:
    mov %r12, %rdi
    xor %ebp, %ebp
    call *%r13
    ud2
    .size kelpie__sim_fiber_begin, . - kelpie__sim_fiber_begin
    .section .note.GNU-stack, "", @progbits
