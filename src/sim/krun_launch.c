/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * The simulated kelpie-krun before libkrun has the process: its arguments, and the sequence of
 * calls, as a library of 1.17.0 takes it. Faults are asked for by the call's name
 * ("krun.start_enter"): fail, die (a panic of libkrun's: SIGABRT), hang.
 */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/limits.h"
#include "core/text.h"
#include "os/os_call.h"
#include "sim/fault.h"
#include "sim/krun.h"

#define LAUNCH_SIGNAL_ABORT 6
#define LAUNCH_SIGNAL_KILL 9
#define LAUNCH_CPU_COUNT_MAX 16u
#define LAUNCH_MEMORY_MIB_MIN 128u

const char *kelpie__sim_krun_fault(struct sim_krun *krun, const char *point,
                                   uint64_t *out_argument) {
    struct sim_faults *faults = kelpie__sim_world_faults(krun->process->machine->world);
    KELPIE_ASSERT(point[0] != '\0');
    return faults == NULL ? NULL
                          : kelpie__sim_faults_point(faults, krun->process, point, out_argument);
}

void kelpie__sim_krun_tell(struct sim_krun *krun, const char *format, ...) {
    char line[KELPIE_KRUN_LINE_BYTES_MAX];
    va_list list;
    va_start(list, format);
    int length = vsnprintf(line, sizeof(line) - 1, format, list);
    va_end(list);
    KELPIE_ASSERT(length > 0 && (size_t)length < sizeof(line) - 1);
    line[length] = '\n';
    kelpie__ignore(kelpie__os_write(krun->os, KELPIE_KRUN_STATUS, line, (size_t)length + 1));
}

/* What was told is known; a context that was made is given back. */
static bool launch_end(struct sim_krun *krun) {
    KELPIE_ASSERT(krun->guest == NULL);
    if (krun->has_context) {
        kelpie__sim_krun_tell(krun, "call krun_free_ctx");
        krun->has_context = false;
    }
    kelpie__sim_krun_exit(krun, KELPIE_KRUN_FAILED);
    return false;
}

static bool launch_give_up(struct sim_krun *krun, const char *text) {
    KELPIE_ASSERT(text[0] != '\0');
    kelpie__sim_krun_tell(krun, "error %s", text);
    return launch_end(krun);
}

/* ---- arguments ------------------------------------------------------------------------------- */

/* NAME:ro|rw:raw|qcow2:PATH */
static bool launch_disk(struct sim_krun_options *options, const char *text) {
    uint32_t index = options->disk_count;
    size_t name = strcspn(text, ":");
    const char *format = index < KELPIE_KRUN_DISK_COUNT_MAX && strlen(text) > name + 4
                             ? strchr(text + name + 4, ':')
                             : NULL;
    if (format == NULL || name == 0 || name >= sizeof(options->serials[0])) {
        return false;
    }
    memcpy(options->serials[index], text, name);
    options->disks[index] =
        (struct sim_guest_disk){.serial = options->serials[index],
                                .path = format + 1,
                                .is_read_only = strncmp(text + name + 1, "ro:", 3) == 0};
    options->disk_count += 1;
    return format[1] == '/';
}

static bool launch_options(struct sim_krun *krun) {
    struct sim_krun_options *options = &krun->options;
    bool is_good = true;
    for (int i = 1; i + 1 < krun->argc && is_good; i += 2) {
        const char *name = krun->argv[i];
        const char *value = krun->argv[i + 1];
        uint64_t number = 0;
        bool is_number = kelpie__text_u64(value, &number) && number <= UINT32_MAX;
        if (strcmp(name, "--cpus") == 0) {
            options->cpu_count = (uint32_t)number;
            is_good = is_number;
        } else if (strcmp(name, "--memory-mib") == 0) {
            options->memory_mib = (uint32_t)number;
            is_good = is_number;
        } else if (strcmp(name, "--library") == 0) {
            options->library = value;
        } else if (strcmp(name, "--agent") == 0) {
            options->agent = value;
        } else if (strcmp(name, "--staging") == 0) {
            options->staging = value;
        } else if (strcmp(name, "--disk") == 0) {
            is_good = launch_disk(options, value);
        } else if (strcmp(name, "--share") == 0) {
            is_good = options->share_count < KELPIE_KRUN_SHARE_COUNT_MAX;
            options->shares[options->share_count] = value;
            options->share_count += is_good ? 1 : 0;
        }
    }
    return is_good && options->cpu_count > 0 && options->memory_mib > 0 && options->agent != NULL &&
           options->staging != NULL;
}

static bool launch_limits(struct sim_krun *krun) {
    char text[128];
    const struct sim_krun_options *options = &krun->options;
    bool fits = true;
    if (options->cpu_count > LAUNCH_CPU_COUNT_MAX) {
        fits = kelpie__text_format(text, sizeof(text),
                                   "%u CPUs; libkrun takes at most %u on this host",
                                   options->cpu_count, LAUNCH_CPU_COUNT_MAX);
    } else if (options->memory_mib < LAUNCH_MEMORY_MIB_MIN) {
        fits =
            kelpie__text_format(text, sizeof(text), "%u MiB of memory; libkrun wants at least %u",
                                options->memory_mib, LAUNCH_MEMORY_MIB_MIN);
    } else {
        return true;
    }
    KELPIE_ASSERT(fits);
    return launch_give_up(krun, text);
}

/* ---- calls ----------------------------------------------------------------------------------- */

/* A library whose file is named "krun_CALL.ACTION.so" goes wrong so, as tests/programs/fake_krun.c
 * does; "": this call does not. */
static void launch_wish(const struct sim_krun *krun, const char *call, char out[16]) {
    const char *library = krun->options.library == NULL ? "" : krun->options.library;
    const char *slash = strrchr(library, '/');
    const char *name = slash == NULL ? library : slash + 1;
    size_t length = strlen(call);
    out[0] = '\0';
    if (strncmp(name, "krun_", 5) == 0 && strncmp(name + 5, call, length) == 0 &&
        name[5 + length] == '.') {
        const char *action = name + 5 + length + 1;
        kelpie__ignore(kelpie__text_format(out, 16, "%.*s", (int)strcspn(action, "."), action));
    }
    KELPIE_ASSERT(length > 0);
}

/* False: the call did not come back well. */
static bool launch_act(struct sim_krun *krun, const char *call) {
    char point[64];
    char text[128];
    uint64_t argument = 0;
    bool fits = kelpie__text_format(point, sizeof(point), "krun.%s", call);
    KELPIE_ASSERT(fits);
    const char *fault = kelpie__sim_krun_fault(krun, point, &argument);
    char wish[16];
    launch_wish(krun, call, wish);
    fault = fault == NULL ? wish : fault;
    if (fault[0] == '\0') {
        return true;
    }
    if (strcmp(fault, "hang") == 0) {
        krun->is_hung = true;
    } else if (strcmp(fault, "die") == 0 || strcmp(fault, "abort") == 0) {
        kelpie__sim_process_signal(krun->process, LAUNCH_SIGNAL_ABORT);
    } else if (strcmp(fault, "kill") == 0) {
        kelpie__sim_process_signal(krun->process, LAUNCH_SIGNAL_KILL);
    } else if (strcmp(fault, "exit") == 0) {
        kelpie__sim_krun_exit(krun, 0);
    } else if (strcmp(call, "start_enter") == 0) {
        kelpie__sim_krun_tell(krun, "returned 22"); /* EINVAL */
        kelpie__sim_krun_exit(krun, KELPIE_KRUN_RETURNED);
    } else {
        fits =
            kelpie__text_format(text, sizeof(text), "krun_%s failed: Invalid argument (-22)", call);
        KELPIE_ASSERT(fits);
        kelpie__ignore(launch_give_up(krun, text));
    }
    return false;
}

static bool launch_call(struct sim_krun *krun, const char *call) {
    kelpie__sim_krun_tell(krun, "call krun_%s", call);
    return launch_act(krun, call);
}

/* A step that is no call of libkrun's. */
static void launch_step(struct sim_krun *krun, const char *name) {
    KELPIE_ASSERT(name[0] != '\0');
    kelpie__sim_krun_tell(krun, "call %s", name);
}

static bool launch_disks(struct sim_krun *krun) {
    bool is_good = true;
    char text[128 + 256];
    for (uint32_t i = 0; i < krun->options.disk_count && is_good; i += 1) {
        const struct sim_guest_disk *disk = &krun->options.disks[i];
        int file = kelpie__os_open(krun->os, KELPIE_OS_CWD, disk->path,
                                   KELPIE_OS_OPEN_READ | KELPIE_OS_OPEN_FOLLOW, 0);
        if (file < 0) {
            const char *why = kelpie__errno_text(-file); /* strerror begins with a capital */
            bool fits = kelpie__text_format(text, sizeof(text), "open disk \"%.256s\": %c%s",
                                            disk->path, why[0] - 'a' + 'A', why + 1);
            KELPIE_ASSERT(fits);
            return launch_give_up(krun, text);
        }
        kelpie__ignore(kelpie__os_close(krun->os, file)); /* nothing was done with it */
        is_good = launch_call(krun, "add_disk2");
    }
    return is_good;
}

/* This library is older than the call by which one is read-only. */
static bool launch_shares(struct sim_krun *krun) {
    bool is_good = true;
    KELPIE_ASSERT(krun->options.share_count <= KELPIE_KRUN_SHARE_COUNT_MAX);
    for (uint32_t i = 0; i < krun->options.share_count && is_good; i += 1) {
        const char *access = strchr(krun->options.shares[i], ':');
        KELPIE_ASSERT(access != NULL); /* the driver gave it */
        if (strncmp(access, ":ro:", 4) == 0) {
            kelpie__sim_krun_tell(krun,
                                  "missing share \"%.256s\" is to be read-only, and this "
                                  "libkrun has no krun_add_virtiofs3",
                                  access + 4);
            return launch_end(krun);
        }
        is_good = launch_call(krun, "add_virtiofs");
    }
    return is_good;
}

bool kelpie__sim_krun_launch(struct sim_krun *krun) {
    KELPIE_ASSERT(krun->guest == NULL);
    if (!launch_options(krun)) {
        return launch_give_up(krun, "--agent, --staging, --cpus and --memory-mib have to be given");
    }
    launch_step(krun, "dlopen");
    if (!launch_call(krun, "init_log") || !launch_call(krun, "create_ctx")) {
        return false;
    }
    krun->has_context = true;
    if (!launch_limits(krun) || !launch_call(krun, "set_vm_config") ||
        !launch_call(krun, "set_root") || !launch_call(krun, "set_exec") || !launch_disks(krun) ||
        !launch_shares(krun) || !launch_call(krun, "disable_implicit_vsock") ||
        !launch_call(krun, "add_vsock") || !launch_call(krun, "add_vsock_port2") ||
        !launch_call(krun, "set_console_output")) {
        return false;
    }
    launch_step(krun, "landlock_restrict_self");
    launch_step(krun, "seccomp");
    krun->has_context = false; /* libkrun takes it, whatever becomes of it */
    kelpie__sim_krun_tell(krun, "start");
    return launch_act(krun, "start_enter");
}
