/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Programs of guests about processes and the machine: sleep, kill, ps, pidof, setsid, id, hostname,
 * date, pwd, tty, stty, poweroff and their like.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "core/text.h"
#include "sim/machine.h"
#include "sim/text_buffer.h"

#define PROCESS_LINE_BYTES 1024u

static int process_sleep(const struct sim_stdio *io, int argc, char **argv) {
    int64_t duration_ns = 0;
    for (int i = 1; i < argc; i += 1) {
        int64_t each_ns = kelpie__sim_parse_duration(argv[i]);
        if (each_ns < 0) {
            kelpie__sim_complain(io, "invalid number '%s'", argv[i]);
            return 1;
        }
        duration_ns += each_ns;
    }
    kelpie__sim_sleep(io->os, duration_ns);
    return 0;
}

static int process_kill(const struct sim_stdio *io, int argc, char **argv) {
    int signal = SIGTERM;
    int first = 1;
    int code = 0;
    if (argc > 2 && strcmp(argv[1], "-s") == 0) {
        signal = kelpie__sim_parse_signal(argv[2]);
        first = 3;
    } else if (argc > 2 && argv[1][0] == '-') {
        signal = kelpie__sim_parse_signal(argv[1] + 1);
        first = strcmp(argv[2], "--") == 0 ? 3 : 2;
    }
    if (signal < 0 || first >= argc) {
        kelpie__sim_complain(io, "usage: kill [-SIGNAL] PID...");
        return 1;
    }
    for (int i = first; i < argc; i += 1) {
        bool is_group = argv[i][0] == '-';
        uint64_t pid = 0;
        int status = -EINVAL;
        if (kelpie__text_u64(argv[i] + (is_group ? 1 : 0), &pid) && pid <= INT32_MAX) {
            /* not by the wrapper, which is for the agent: signal 0 and group 0 are allowed */
            status =
                io->os->guest->kill_pid(io->os, is_group ? -(int32_t)pid : (int32_t)pid, signal);
        }
        if (status < 0) {
            kelpie__sim_complain(io, "(%s): %s", argv[i], kelpie__sim_errno_text(status));
            code = 1;
        }
    }
    return code;
}

/* ---- ps, pidof ------------------------------------------------------------------------------- */

/* The whole of a small file with a terminating zero; its length or negative. */
static int process_read_file(const struct sim_stdio *io, const char *path, char *out,
                             size_t capacity) {
    int handle = kelpie__os_open(io->os, KELPIE_OS_CWD, path,
                                 KELPIE_OS_OPEN_READ | KELPIE_OS_OPEN_FOLLOW, 0);
    if (handle < 0) {
        return handle;
    }
    int64_t count = kelpie__os_read(io->os, handle, out, capacity - 1);
    kelpie__ignore(kelpie__os_close(io->os, handle)); /* it was only read */
    out[count > 0 ? count : 0] = '\0';
    return (int)count;
}

/* "PID USER TIME COMMAND" of one process; false when it is gone. */
static bool ps_line(const struct sim_stdio *io, struct sim_text_buffer *buffer, const char *pid) {
    char path[64];
    char arguments[PROCESS_LINE_BYTES];
    char name[64];
    int length = snprintf(path, sizeof(path), "/proc/%.16s/cmdline", pid);
    KELPIE_ASSERT(length > 0 && (size_t)length < sizeof(path));
    int count = process_read_file(io, path, arguments, sizeof(arguments));
    if (count < 0) {
        return false;
    }
    for (int i = 0; i + 1 < count; i += 1) {
        arguments[i] = arguments[i] == '\0' ? ' ' : arguments[i];
    }
    length = snprintf(path, sizeof(path), "/proc/%.16s/comm", pid);
    KELPIE_ASSERT(length > 0 && (size_t)length < sizeof(path));
    if (count == 0 && process_read_file(io, path, name, sizeof(name)) > 0) {
        name[strcspn(name, "\n")] = '\0';
        kelpie__ignore(snprintf(arguments, sizeof(arguments), "[%s]", name));
    }
    char line[PROCESS_LINE_BYTES + 64];
    length = snprintf(line, sizeof(line), "%5.10s root      0:00 %s\n", pid, arguments);
    KELPIE_ASSERT(length > 0 && (size_t)length < sizeof(line));
    kelpie__sim_text_add(buffer, line, (size_t)length);
    return true;
}

static bool process_is_pid(const char *name) {
    return name[0] != '\0' && strspn(name, "0123456789") == strlen(name);
}

static int process_ps(const struct sim_stdio *io, int argc, char **argv) {
    struct sim_text_buffer buffer;
    char name[256];
    uint64_t cursor = 0;
    KELPIE_ASSERT(argc >= 1 && argv != NULL);
    int directory = kelpie__os_open(io->os, KELPIE_OS_CWD, "/proc",
                                    KELPIE_OS_OPEN_READ | KELPIE_OS_OPEN_DIRECTORY, 0);
    if (directory < 0) {
        kelpie__sim_complain(io, "/proc: %s", kelpie__sim_errno_text(directory));
        return 1;
    }
    kelpie__sim_text_begin(&buffer, io);
    static const char title[] = "PID   USER     TIME  COMMAND\n";
    kelpie__sim_text_add(&buffer, title, strlen(title));
    while (kelpie__os_list(io->os, directory, &cursor, name, sizeof(name)) > 0) {
        if (process_is_pid(name)) {
            kelpie__ignore(ps_line(io, &buffer, name)); /* it may have ended */
        }
    }
    kelpie__ignore(kelpie__os_close(io->os, directory)); /* it was only read */
    return kelpie__sim_text_end(&buffer) ? 0 : 1;
}

static int process_pidof(const struct sim_stdio *io, int argc, char **argv) {
    char name[256];
    char path[64];
    char comm[64];
    char found[512] = "";
    size_t count = 0;
    uint64_t cursor = 0;
    int directory = kelpie__os_open(io->os, KELPIE_OS_CWD, "/proc",
                                    KELPIE_OS_OPEN_READ | KELPIE_OS_OPEN_DIRECTORY, 0);
    if (directory < 0 || argc != 2) {
        return 1;
    }
    while (kelpie__os_list(io->os, directory, &cursor, name, sizeof(name)) > 0) {
        if (!process_is_pid(name)) {
            continue;
        }
        int length = snprintf(path, sizeof(path), "/proc/%.16s/comm", name);
        KELPIE_ASSERT(length > 0 && (size_t)length < sizeof(path));
        if (process_read_file(io, path, comm, sizeof(comm)) < 0) {
            continue;
        }
        comm[strcspn(comm, "\n")] = '\0';
        if (strcmp(comm, argv[1]) == 0 && count + strlen(name) + 2 < sizeof(found)) {
            count += (size_t)snprintf(found + count, sizeof(found) - count, "%s%s",
                                      count > 0 ? " " : "", name);
        }
    }
    kelpie__ignore(kelpie__os_close(io->os, directory)); /* it was only read */
    return count > 0 && kelpie__sim_print(io, "%s\n", found) ? 0 : 1;
}

/* ---- programs that start others -------------------------------------------------------------- */

static int process_start(const struct sim_stdio *io, char **argv, uint32_t flags) {
    char path[512];
    const int handles[3] = {io->in, io->out, io->err};
    int status = kelpie__sim_find_program(io->os, kelpie__os_environment(io->os, "PATH"), argv[0],
                                          path, sizeof(path));
    int child = KELPIE_OS_NO_HANDLE;
    if (status == 0) {
        const struct kelpie_os_spawn spawn = {
            .path = path,
            .argv = (const char *const *)argv,
            .handles = handles,
            .handle_count = 3,
            .flags = flags,
            .cgroup = KELPIE_OS_NO_HANDLE,
        };
        status = kelpie__os_spawn(io->os, &spawn, &child, NULL, NULL);
    }
    if (status < 0) {
        kelpie__sim_complain(io, "can't execute '%s': %s", argv[0], kelpie__sim_errno_text(status));
        return status == -ENOENT ? 127 : 126;
    }
    struct kelpie_os_exit exit;
    kelpie__sim_wait_child(io->os, child, &exit);
    return exit.is_signalled ? 128 + exit.value : exit.value;
}

static int process_setsid(const struct sim_stdio *io, int argc, char **argv) {
    if (argc < 2) {
        kelpie__sim_complain(io, "usage: setsid PROGRAM [ARGUMENT]...");
        return 1;
    }
    return process_start(io, argv + 1, KELPIE_OS_SPAWN_NEW_SESSION);
}

static int process_nohup(const struct sim_stdio *io, int argc, char **argv) {
    if (argc < 2) {
        kelpie__sim_complain(io, "usage: nohup PROGRAM [ARGUMENT]...");
        return 1;
    }
    kelpie__sim_process_of(io->os)->signals_ignored |= 1u << (SIGHUP - 1);
    return process_start(io, argv + 1, 0);
}

/* ---- who and where --------------------------------------------------------------------------- */

static int process_id(const struct sim_stdio *io, int argc, char **argv) {
    struct kelpie_os_identity identity = {0};
    if (kelpie__os_identity(io->os, &identity) < 0) {
        return 1;
    }
    const char *option = argc > 1 ? argv[1] : "";
    bool is_good = false;
    if (strcmp(option, "-u") == 0) {
        is_good = kelpie__sim_print(io, "%u\n", identity.uid);
    } else if (strcmp(option, "-g") == 0) {
        is_good = kelpie__sim_print(io, "%u\n", identity.gid);
    } else {
        is_good = kelpie__sim_print(io, "uid=%u gid=%u\n", identity.uid, identity.gid);
    }
    return is_good ? 0 : 1;
}

static int process_pwd(const struct sim_stdio *io, int argc, char **argv) {
    KELPIE_ASSERT(argc >= 1 && argv != NULL);
    return kelpie__sim_print(io, "%s\n", kelpie__sim_process_of(io->os)->directory) ? 0 : 1;
}

static int process_hostname(const struct sim_stdio *io, int argc, char **argv) {
    if (argc > 1) {
        int status = kelpie__os_set_hostname(io->os, argv[1]);
        if (status < 0) {
            kelpie__sim_complain(io, "%s", kelpie__sim_errno_text(status));
        }
        return status < 0 ? 1 : 0;
    }
    return kelpie__sim_print(io, "%s\n", kelpie__sim_process_of(io->os)->machine->hostname) ? 0 : 1;
}

static int process_uname(const struct sim_stdio *io, int argc, char **argv) {
    bool is_release = argc > 1 && strcmp(argv[1], "-r") == 0;
    return kelpie__sim_put(io, is_release ? "6.1.0-kelpie-sim\n" : "Linux\n") ? 0 : 1;
}

/* Seconds, or with %N nanoseconds, since 1970. */
static int process_date(const struct sim_stdio *io, int argc, char **argv) {
    long long wall_ns = kelpie__os_now(io->os, KELPIE_OS_CLOCK_WALL);
    bool is_fine = argc > 1 && strstr(argv[1], "%N") != NULL;
    bool is_good =
        is_fine ? kelpie__sim_print(io, "%lld%09lld\n", wall_ns / 1000000000, wall_ns % 1000000000)
                : kelpie__sim_print(io, "%lld\n", wall_ns / 1000000000);
    return is_good ? 0 : 1;
}

static int process_nproc(const struct sim_stdio *io, int argc, char **argv) {
    KELPIE_ASSERT(argc >= 1 && argv != NULL);
    return kelpie__sim_print(io, "%u\n", kelpie__sim_program_cpu_count(io->os)) ? 0 : 1;
}

static int process_tty(const struct sim_stdio *io, int argc, char **argv) {
    KELPIE_ASSERT(argc >= 1 && argv != NULL);
    bool is_terminal = kelpie__os_is_terminal(io->os, io->in) == 1;
    kelpie__ignore(kelpie__sim_put(io, is_terminal ? "/dev/pts/0\n" : "not a tty\n"));
    return is_terminal ? 0 : 1;
}

static int process_stty(const struct sim_stdio *io, int argc, char **argv) {
    uint16_t rows = 0;
    uint16_t columns = 0;
    if (argc == 2 && strcmp(argv[1], "size") == 0) {
        int status = kelpie__os_terminal_size(io->os, io->in, &rows, &columns);
        if (status < 0) {
            kelpie__sim_complain(io, "standard input: %s", kelpie__sim_errno_text(status));
            return 1;
        }
        return kelpie__sim_print(io, "%u %u\n", rows, columns) ? 0 : 1;
    }
    bool is_raw = argc == 2 && strcmp(argv[1], "raw") == 0;
    return kelpie__os_set_terminal_raw(io->os, io->in, is_raw) < 0 ? 1 : 0;
}

/* ---- the end --------------------------------------------------------------------------------- */

/* With -f at once; else process 1 is asked, as busybox does. */
static int process_halt(const struct sim_stdio *io, int argc, char **argv, bool is_power_off) {
    bool is_forced = argc > 1 && strcmp(argv[1], "-f") == 0;
    int status = is_forced ? kelpie__os_halt(io->os, is_power_off)
                           : kelpie__os_kill_pid(io->os, 1, is_power_off ? SIGUSR2 : SIGTERM);
    if (status < 0) {
        kelpie__sim_complain(io, "%s", kelpie__sim_errno_text(status));
    }
    return status < 0 ? 1 : 0;
}

static int process_poweroff(const struct sim_stdio *io, int argc, char **argv) {
    return process_halt(io, argc, argv, true);
}

static int process_reboot(const struct sim_stdio *io, int argc, char **argv) {
    return process_halt(io, argc, argv, false);
}

const struct sim_program_entry kelpie__sim_programs_process[] = {
    {"sleep", process_sleep},   {"kill", process_kill},     {"ps", process_ps},
    {"pidof", process_pidof},   {"setsid", process_setsid}, {"nohup", process_nohup},
    {"id", process_id},         {"pwd", process_pwd},       {"hostname", process_hostname},
    {"uname", process_uname},   {"date", process_date},     {"nproc", process_nproc},
    {"tty", process_tty},       {"stty", process_stty},     {"poweroff", process_poweroff},
    {"halt", process_poweroff}, {"reboot", process_reboot}, {NULL, NULL},
};
