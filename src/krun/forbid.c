/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * System calls that no VM needs, refused with EPERM by a filter of seccomp (seccomp(2)): what
 * Landlock has no right for, above all the owner, mode, times and attributes of files, which a
 * guest of a libkrun before 1.18 could change in its staged root; then the ways from one process
 * into another, into a new program, or into the kernel.
 */
#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "krun/krun.h"

#if defined(__x86_64__)
#define FORBID_MACHINE AUDIT_ARCH_X86_64
#define FORBID_FOREIGN_BIT 0x40000000u /* the x32 calls, under numbers of their own */
#elif defined(__aarch64__)
#define FORBID_MACHINE AUDIT_ARCH_AARCH64
#define FORBID_FOREIGN_BIT 0x80000000u /* none has it */
#else
#error "which machine is this?"
#endif

#define FORBID_FCHMODAT2 452u /* of Linux 6.6: younger than our headers */
#define FORBID_SETXATTRAT 463u
#define FORBID_REMOVEXATTRAT 466u

static const uint32_t forbid_calls[] = {
    /* of files, by whatever name */
    SYS_fchmod,
    SYS_fchmodat,
    FORBID_FCHMODAT2,
    SYS_fchown,
    SYS_fchownat,
    SYS_utimensat,
    SYS_setxattr,
    SYS_lsetxattr,
    SYS_fsetxattr,
    FORBID_SETXATTRAT,
    SYS_removexattr,
    SYS_lremovexattr,
    SYS_fremovexattr,
    FORBID_REMOVEXATTRAT,
    SYS_linkat,
#if defined(__x86_64__)
    SYS_chmod,
    SYS_chown,
    SYS_lchown,
    SYS_utime,
    SYS_utimes,
    SYS_futimesat,
    SYS_link,
#endif
    /* of processes and the system */
    SYS_execve,
    SYS_execveat,
    SYS_ptrace,
    SYS_process_vm_readv,
    SYS_process_vm_writev,
    SYS_mount,
    SYS_umount2,
    SYS_pivot_root,
    SYS_setns,
    SYS_bpf,
    SYS_perf_event_open,
    SYS_init_module,
    SYS_finit_module,
    SYS_kexec_load,
    SYS_keyctl,
    SYS_add_key,
};

#define FORBID_HEAD 6u
#define FORBID_COUNT (FORBID_HEAD + 2u * KELPIE_ARRAY_COUNT(forbid_calls) + 1u)

#define FORBID_LOAD(member)                                                                        \
    BPF_STMT(BPF_LD | BPF_W | BPF_ABS, (uint32_t)offsetof(struct seccomp_data, member))
#define FORBID_RETURN(value) BPF_STMT(BPF_RET | BPF_K, (value))

/* Each call is a comparison of its own with a return of its own: a list of a few dozen is walked
 * faster than any of these calls is made, and nothing has to jump far. */
static void forbid_build(struct sock_filter out[FORBID_COUNT]) {
    const struct sock_filter head[FORBID_HEAD] = {
        FORBID_LOAD(arch),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, FORBID_MACHINE, 1, 0),
        FORBID_RETURN(SECCOMP_RET_KILL_PROCESS), /* calls of another machine: their own numbers */
        FORBID_LOAD(nr),
        BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, FORBID_FOREIGN_BIT, 0, 1),
        FORBID_RETURN(SECCOMP_RET_KILL_PROCESS),
    };
    size_t used = FORBID_HEAD;
    memcpy(out, head, sizeof(head));
    for (size_t i = 0; i < KELPIE_ARRAY_COUNT(forbid_calls); i += 1) {
        out[used] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, forbid_calls[i], 0, 1);
        out[used + 1] = (struct sock_filter)FORBID_RETURN(SECCOMP_RET_ERRNO | EPERM);
        used += 2;
    }
    out[used] = (struct sock_filter)FORBID_RETURN(SECCOMP_RET_ALLOW);
    KELPIE_ASSERT(used + 1 == FORBID_COUNT);
}

bool kelpie__krun_forbid(void) {
    struct sock_filter filter[FORBID_COUNT];
    const struct sock_fprog program = {.len = FORBID_COUNT, .filter = filter};
    static_assert(FORBID_COUNT <= BPF_MAXINSNS, "one program holds them");
    forbid_build(filter);
    KELPIE_ASSERT(program.len == FORBID_COUNT);
    /* The driver sets it, too; by hand nobody did, and a filter may not be set without. */
    bool is_good = prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
                   prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0;
    if (!is_good) {
        kelpie__krun_tell_error("forbid system calls by seccomp: %s", strerror(errno));
    }
    return is_good;
}
