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

/* of files, by whatever name */
static const uint32_t forbid_file_calls[] = {
    SYS_fchmod,       SYS_fchmodat,
    FORBID_FCHMODAT2, SYS_fchown,
    SYS_fchownat,     SYS_utimensat,
    SYS_setxattr,     SYS_lsetxattr,
    SYS_fsetxattr,    FORBID_SETXATTRAT,
    SYS_removexattr,  SYS_lremovexattr,
    SYS_fremovexattr, FORBID_REMOVEXATTRAT,
    SYS_linkat,
#if defined(__x86_64__)
    SYS_chmod,        SYS_chown,
    SYS_lchown,       SYS_utime,
    SYS_utimes,       SYS_futimesat,
    SYS_link,
#endif
};

/* of processes and the system */
static const uint32_t forbid_other_calls[] = {
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
#define FORBID_COUNT                                                                               \
    (FORBID_HEAD +                                                                                 \
     2u * (KELPIE_ARRAY_COUNT(forbid_file_calls) + KELPIE_ARRAY_COUNT(forbid_other_calls)) + 1u)

#define FORBID_LOAD(member)                                                                        \
    BPF_STMT(BPF_LD | BPF_W | BPF_ABS, (uint32_t)offsetof(struct seccomp_data, member))
#define FORBID_RETURN(value) BPF_STMT(BPF_RET | BPF_K, (value))

/* Each call is a comparison of its own with a return of its own: a list of a few dozen is walked
 * faster than any of these calls is made, and nothing has to jump far. */
static size_t forbid_add(struct sock_filter *out, const uint32_t *calls, size_t count) {
    KELPIE_ASSERT(count > 0);
    for (size_t i = 0; i < count; i += 1) {
        out[2 * i] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, calls[i], 0, 1);
        out[2 * i + 1] = (struct sock_filter)FORBID_RETURN(SECCOMP_RET_ERRNO | EPERM);
    }
    return 2 * count;
}

/* The count of instructions. */
static size_t forbid_build(bool has_file_calls, struct sock_filter out[FORBID_COUNT]) {
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
    if (!has_file_calls) {
        used += forbid_add(out + used, forbid_file_calls, KELPIE_ARRAY_COUNT(forbid_file_calls));
    }
    used += forbid_add(out + used, forbid_other_calls, KELPIE_ARRAY_COUNT(forbid_other_calls));
    out[used] = (struct sock_filter)FORBID_RETURN(SECCOMP_RET_ALLOW);
    KELPIE_ASSERT(used + 1 <= FORBID_COUNT);
    return used + 1;
}

/* A guest that may write to a share sets modes and times there as well, as any program does that
 * unpacks files. A library that cannot keep it from its staged root leaves that to the filter. */
static bool forbid_leaves_files(const struct kelpie_krun_library *library,
                                const struct kelpie_krun_options *options) {
    bool has_writable_share = false;
    KELPIE_ASSERT(options->share_count <= KELPIE_KRUN_SHARE_COUNT_MAX);
    for (uint32_t i = 0; i < options->share_count; i += 1) {
        has_writable_share = has_writable_share || !options->shares[i].is_read_only;
    }
    return has_writable_share && library->add_virtiofs3 != NULL;
}

bool kelpie__krun_forbid(const struct kelpie_krun_library *library,
                         const struct kelpie_krun_options *options) {
    struct sock_filter filter[FORBID_COUNT];
    static_assert(FORBID_COUNT <= BPF_MAXINSNS, "one program holds them");
    size_t count = forbid_build(forbid_leaves_files(library, options), filter);
    const struct sock_fprog program = {.len = (unsigned short)count, .filter = filter};
    KELPIE_ASSERT(program.len == count);
    /* The driver sets it, too; by hand nobody did, and a filter may not be set without. */
    bool is_good = prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
                   prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0;
    if (!is_good) {
        kelpie__krun_tell_error("forbid system calls by seccomp: %s", strerror(errno));
    }
    return is_good;
}
