/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * A libkrun.so.1 that goes wrong on purpose. Its file's name says how: "CALL.ACTION.so", where the
 * action of that call is fail (-EINVAL), abort (a panic), kill, hang, exit (with 0, of
 * krun_start_enter), or probe, which tells on the console what this process may do at that moment;
 * all other calls succeed. A process that exits with a context that it neither freed nor started
 * ends with EXIT_CONTEXT_LEFT. "load.ACTION.so" goes wrong while it is loaded, "STEP.step.so" has
 * the process killed (SIGSYS) where it comes to that step of its own. FAKE_VERSION says what it
 * has: 16 lacks calls that are needed, 17 has these alone, 19 has all.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#define CPUS_OF_KVM 64
#define CONTEXT 7
#define EXIT_CONTEXT_LEFT 99
#define STATUS 3 /* vmm/krun/launch.h */
#define CONSOLE 4

static char writable_disk[512];
static char writable_share[512];
static bool has_context;

/* ---- what this process may do ---------------------------------------------------------------- */

static void tell(const char *what, bool is_good) {
    dprintf(CONSOLE, "%s=%s ", what, is_good ? "ok" : strerrorname_np(errno));
}

static void tell_open(const char *what, const char *path, int flags) {
    int file = open(path, flags | O_CLOEXEC, 0600);
    tell(what, file >= 0);
    if (file >= 0) {
        close(file);
    }
}

static void tell_exec(void) {
    int status = 0;
    pid_t child = fork();
    if (child == 0) {
        execl("/bin/true", "true", NULL);
        _exit(errno);
    }
    waitpid(child, &status, 0);
    errno = WEXITSTATUS(status);
    tell("exec", errno == 0);
}

/* Of a byte that is at no address: who may look is told so, who may not is told that. */
static void tell_other_process(void) {
    char byte;
    struct iovec here = {.iov_base = &byte, .iov_len = 1};
    struct iovec there = {.iov_base = NULL, .iov_len = 1};
    tell("other", process_vm_readv(getppid(), &here, 1, &there, 1, 0) == 1);
}

/* In the directory that the library lies in; nothing is left there. */
static void probe(const char *library) {
    char path[512];
    char folder[512];
    const char *slash = strrchr(library, '/');
    snprintf(folder, sizeof(folder), "%.*s", slash != NULL ? (int)(slash - library) : 0, library);
    snprintf(path, sizeof(path), "%.480s/probe", folder);
    tell_open("create", path, O_WRONLY | O_CREAT | O_EXCL);
    unlink(path);
    tell("mkdir", mkdir(path, 0700) == 0);
    rmdir(path);
    tell_open("write", library, O_WRONLY | O_APPEND);
    tell("chmod", chmod(library, 0755) == 0);
    tell_exec();
    tell_other_process();
    tell_open("kvm", "/dev/kvm", O_RDWR);
    tell_open("disk", writable_disk, O_RDWR);
    if (writable_share[0] != '\0') {
        snprintf(path, sizeof(path), "%.480s/probe", writable_share);
        tell_open("share", path, O_WRONLY | O_CREAT | O_EXCL);
        tell("mode", chmod(path, 0755) == 0);
        unlink(path);
    }
}

/* ---- the calls ------------------------------------------------------------------------------- */

/* The answer of a call that is not to go wrong. */
static int32_t act_or(const char *call, int32_t good) {
    Dl_info info;
    char wanted[96] = "";
    if (dladdr((void *)(uintptr_t)&act_or, &info) == 0 || info.dli_fname == NULL) {
        return good;
    }
    const char *slash = strrchr(info.dli_fname, '/');
    snprintf(wanted, sizeof(wanted), "%s", slash != NULL ? slash + 1 : info.dli_fname);
    char *action = strchr(wanted, '.');
    if (action == NULL) {
        return good;
    }
    *action = '\0';
    action += 1;
    if (strcmp(wanted, call) != 0) {
        return good;
    }
    if (strcmp(action, "abort.so") == 0) {
        abort();
    } else if (strcmp(action, "kill.so") == 0) {
        raise(SIGKILL);
    } else if (strcmp(action, "hang.so") == 0) {
        sleep(3600);
    } else if (strcmp(action, "exit.so") == 0) {
        _exit(0);
    } else if (strcmp(action, "probe.so") == 0) {
        probe(info.dli_fname);
        return good;
    }
    return -EINVAL;
}

static int32_t act(const char *call) {
    return act_or(call, 0);
}

/* ---- the launcher's own steps ---------------------------------------------------------------- */

/* A system call that is made at this step alone, with an argument that tells it from others. */
static const struct step {
    const char *name;
    uint32_t call;
    uint32_t argument;
    uint32_t value;
} steps[] = {
    {"tell", SYS_write, 0, STATUS},
    {"rules", SYS_landlock_create_ruleset, 1, sizeof(uint64_t)},
    {"rule", SYS_landlock_add_rule, 3, 0},
    {"confine", SYS_landlock_restrict_self, 1, 0},
    {"privileges", SYS_prctl, 0, PR_SET_NO_NEW_PRIVS},
    {"forbid", SYS_prctl, 0, PR_SET_SECCOMP},
    {"start", SYS_write, 2, sizeof("start\n") - 1},
};

/* Killed by the kernel at that call: nobody has to find the moment. */
static void step_kills(const struct step *step) {
    const uint32_t number = (uint32_t)offsetof(struct seccomp_data, nr);
    const uint32_t argument = (uint32_t)offsetof(struct seccomp_data, args) + 8 * step->argument;
    const struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, number),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, step->call, 0, 3),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, argument),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, step->value, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    const struct sock_fprog program = {.len = sizeof(filter) / sizeof(filter[0]),
                                       .filter = (struct sock_filter *)(uintptr_t)filter};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 ||
        prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) != 0) {
        abort();
    }
}

__attribute__((constructor)) static void loaded(void) {
    Dl_info info;
    char wanted[96];
    act("load");
    if (dladdr((void *)(uintptr_t)&act_or, &info) == 0 || info.dli_fname == NULL) {
        return;
    }
    const char *slash = strrchr(info.dli_fname, '/');
    for (size_t i = 0; i < sizeof(steps) / sizeof(steps[0]); i += 1) {
        snprintf(wanted, sizeof(wanted), "%s.step.so", steps[i].name);
        if (strcmp(slash != NULL ? slash + 1 : info.dli_fname, wanted) == 0) {
            step_kills(&steps[i]);
        }
    }
}

/* A directory of the host for the guest, told on the console; the first root is none. */
static void share(const char *tag, const char *path, bool is_read_only) {
    if (path != NULL && strcmp(tag, "/dev/root") != 0) {
        dprintf(CONSOLE, "share %s %s %s\n", tag, is_read_only ? "ro" : "rw", path);
        snprintf(writable_share, sizeof(writable_share), "%s", is_read_only ? "" : path);
    }
}

#define CALL(name, ...)                                                                            \
    __attribute__((visibility("default"))) int32_t name(__VA_ARGS__);                              \
    int32_t name(__VA_ARGS__)

CALL(krun_create_ctx, void) {
    int32_t result = act_or("krun_create_ctx", CONTEXT);
    has_context = result >= 0;
    return result;
}
CALL(krun_free_ctx, uint32_t ctx) {
    bool is_known = has_context && ctx == CONTEXT;
    has_context = has_context && !is_known;
    return is_known ? act("krun_free_ctx") : -ENOENT;
}
__attribute__((destructor)) static void look_for_context(void) {
    if (has_context) {
        _exit(EXIT_CONTEXT_LEFT);
    }
}
CALL(krun_init_log, int file, uint32_t level, uint32_t style, uint32_t options) {
    (void)file, (void)level, (void)style, (void)options;
    return act("krun_init_log");
}
CALL(krun_set_vm_config, uint32_t ctx, uint8_t cpu_count, uint32_t memory_mib) {
    (void)ctx, (void)cpu_count, (void)memory_mib;
    return act("krun_set_vm_config");
}
CALL(krun_set_root, uint32_t ctx, const char *path) {
    (void)ctx, (void)path;
    return act("krun_set_root");
}
CALL(krun_add_virtiofs, uint32_t ctx, const char *tag, const char *path) {
    (void)ctx;
    share(tag, path, false);
    return act("krun_add_virtiofs");
}
CALL(krun_set_exec, uint32_t ctx, const char *path, const char *const *argv,
     const char *const *environment) {
    (void)ctx, (void)path, (void)argv, (void)environment;
    return act("krun_set_exec");
}
CALL(krun_set_console_output, uint32_t ctx, const char *path) {
    (void)ctx, (void)path;
    return act("krun_set_console_output");
}
CALL(krun_disable_implicit_vsock, uint32_t ctx) {
    (void)ctx;
    return act("krun_disable_implicit_vsock");
}
CALL(krun_add_vsock_port2, uint32_t ctx, uint32_t port, const char *path, bool is_listening) {
    (void)ctx, (void)port, (void)path, (void)is_listening;
    return act("krun_add_vsock_port2");
}
CALL(krun_add_disk2, uint32_t ctx, const char *id, const char *path, uint32_t format,
     bool is_read_only) {
    (void)ctx, (void)id, (void)format;
    if (!is_read_only) {
        snprintf(writable_disk, sizeof(writable_disk), "%s", path);
    }
    return act("krun_add_disk2");
}
CALL(krun_start_enter, uint32_t ctx) {
    if (ctx != CONTEXT || !has_context) {
        return -ENOENT;
    }
    has_context = false;
    return act("krun_start_enter");
}

#if FAKE_VERSION >= 17
CALL(krun_add_vsock, uint32_t ctx, uint32_t tsi_features) {
    (void)ctx, (void)tsi_features;
    return act("krun_add_vsock");
}
#endif

#if FAKE_VERSION >= 19
CALL(krun_get_max_vcpus, void) {
    return act_or("krun_get_max_vcpus", CPUS_OF_KVM);
}
CALL(krun_set_kernel, uint32_t ctx, const char *path, uint32_t format, const char *initramfs,
     const char *command_line) {
    (void)ctx, (void)path, (void)format, (void)initramfs, (void)command_line;
    return act("krun_set_kernel");
}
CALL(krun_has_feature, uint64_t feature) {
    (void)feature;
    return act_or("krun_has_feature", 1);
}
CALL(krun_add_virtiofs3, uint32_t ctx, const char *tag, const char *path, uint64_t dax_bytes,
     bool is_read_only) {
    (void)ctx, (void)dax_bytes;
    share(tag, path, is_read_only);
    return act("krun_add_virtiofs3");
}
CALL(krun_disable_implicit_init, uint32_t ctx) {
    (void)ctx;
    return act("krun_disable_implicit_init");
}
CALL(krun_fs_add_overlay_file, uint32_t ctx, const char *tag, const char *path,
     const uint8_t *bytes, size_t count, uint32_t mode, bool is_one_shot) {
    (void)ctx, (void)tag, (void)path, (void)bytes, (void)count, (void)mode, (void)is_one_shot;
    return act("krun_fs_add_overlay_file");
}
CALL(krun_fs_add_overlay_dir, uint32_t ctx, const char *tag, const char *path, uint32_t mode) {
    (void)ctx, (void)tag, (void)path, (void)mode;
    return act("krun_fs_add_overlay_dir");
}
#endif
