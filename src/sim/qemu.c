/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * The simulated QEMU's life: see qemu.h. Timings (medians, drawn log-normal) are those of the real
 * one: the greeting 18 ms after the start, commands 9 ms later, 3 ms from the end of QMP to that of
 * the process. What goes wrong with the devices is found out between the greeting and the first
 * command, as in the real one.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "core/limits.h"
#include "core/text.h"
#include "os/os_call.h"
#include "sim/qemu.h"

#define QEMU_STDERR 2
#define QEMU_LOOP_HANDLES 16u
#define QEMU_ARGUMENTS_NS (5 * KELPIE_NS_PER_MS)
#define QEMU_GREETING_NS (13 * KELPIE_NS_PER_MS)
#define QEMU_DEVICES_NS (9 * KELPIE_NS_PER_MS)
#define QEMU_CLOSE_NS (KELPIE_NS_PER_MS / 3)
#define QEMU_EXIT_NS (3 * KELPIE_NS_PER_MS)
#define QEMU_FLUSH_NS (20 * KELPIE_NS_PER_MS)
#define QEMU_SIGNAL_HANGUP 1
#define QEMU_SIGNAL_INTERRUPT 2
#define QEMU_SIGNAL_TERM 15

static void qemu_check(const struct sim_qemu *qemu) {
    KELPIE_ASSERT(qemu->os != NULL && qemu->loop != NULL);
    KELPIE_ASSERT(qemu->qmp.output_count <= sizeof(qemu->qmp.output));
    if (qemu->state == SIM_QEMU_STARTING && !qemu->is_ended) {
        KELPIE_ASSERT(qemu->guest == NULL);
    }
    if (qemu->is_guest_watched) {
        KELPIE_ASSERT(qemu->guest != NULL && !qemu->is_hung);
    }
}

int64_t kelpie__sim_qemu_about(struct sim_qemu *qemu, int64_t median_ns) {
    KELPIE_ASSERT(median_ns > 0);
    return kelpie__sim_about(qemu->process->machine->world, SIM_STREAM_QEMU, median_ns);
}

/* A reader that is slow loses the end of it; the real one would wait. */
void kelpie__sim_qemu_say(struct sim_qemu *qemu, const char *format, ...) {
    char text[SIM_QEMU_PROBLEM_BYTES];
    va_list list;
    va_start(list, format);
    int length = vsnprintf(text, sizeof(text), format, list);
    va_end(list);
    KELPIE_ASSERT(length > 0);
    size_t count = (size_t)length < sizeof(text) ? (size_t)length : sizeof(text) - 1;
    kelpie__ignore(kelpie__os_write(qemu->os, QEMU_STDERR, text, count)); /* nobody may listen */
}

void kelpie__sim_qemu_exit(struct sim_qemu *qemu, int code) {
    KELPIE_ASSERT(code >= 0 && code <= 255);
    qemu->exit_code = code;
    qemu->is_ended = true;
}

void kelpie__sim_qemu_hang(struct sim_qemu *qemu) {
    struct kelpie_loop *loop = qemu->loop;
    qemu->is_hung = true;
    kelpie__timer_disarm(loop, &qemu->qmp.timer);
    kelpie__timer_disarm(loop, &qemu->qmp.hold_timer);
    kelpie__timer_disarm(loop, &qemu->start_timer);
    kelpie__timer_disarm(loop, &qemu->load_timer);
    kelpie__timer_disarm(loop, &qemu->end_timer);
    kelpie__sim_qemu_guest_unwatch(qemu);
    if (qemu->qmp.is_watched) {
        kelpie__loop_watch_change(loop, qemu->qmp.watch, 0);
    }
    if (qemu->is_signals_watched) {
        kelpie__loop_watch_change(loop, qemu->signals_watch, 0);
    }
    qemu_check(qemu);
}

/* ---- the end --------------------------------------------------------------------------------- */

static void qemu_end_due(void *context) {
    struct sim_qemu *qemu = context;
    KELPIE_ASSERT(qemu->state == SIM_QEMU_SHUTDOWN);
    if (!qemu->is_closing) {
        qemu->is_closing = true;
        kelpie__sim_qemu_qmp_close(qemu);
        kelpie__timer_arm(qemu->loop, &qemu->end_timer,
                          qemu->loop->now_ns + kelpie__sim_qemu_about(qemu, QEMU_EXIT_NS),
                          qemu_end_due, qemu);
        return;
    }
    kelpie__sim_qemu_exit(qemu, 0);
}

void kelpie__sim_qemu_shutdown(struct sim_qemu *qemu, bool is_guest, const char *reason) {
    if (qemu->state == SIM_QEMU_SHUTDOWN) {
        return;
    }
    KELPIE_ASSERT(reason[0] != '\0');
    qemu->state = SIM_QEMU_SHUTDOWN;
    if (qemu->guest != NULL) {
        kelpie__sim_guest_halt(qemu->guest);
    }
    kelpie__sim_qemu_guest_unwatch(qemu);
    kelpie__sim_qemu_event(qemu, "SHUTDOWN", "{\"guest\": %s, \"reason\": \"%s\"}",
                           is_guest ? "true" : "false", reason);
    /* What is held back by a fault still has its time to come. */
    int64_t from_ns =
        qemu->qmp.held_until_ns > qemu->loop->now_ns ? qemu->qmp.held_until_ns : qemu->loop->now_ns;
    kelpie__timer_arm(qemu->loop, &qemu->end_timer,
                      from_ns + kelpie__sim_qemu_about(qemu, QEMU_CLOSE_NS), qemu_end_due, qemu);
}

static void qemu_signal(void *context, uint32_t bits) {
    struct sim_qemu *qemu = context;
    KELPIE_ASSERT(bits != 0 && qemu->is_signals_watched);
    int signal = kelpie__os_take_signal(qemu->os, qemu->signals);
    if (signal > 0) {
        kelpie__sim_qemu_say(qemu, "%s: terminating on signal %d\n", SIM_QEMU_PROGRAM, signal);
        kelpie__sim_qemu_shutdown(qemu, false, "host-signal");
    }
}

/* ---- the start ------------------------------------------------------------------------------- */

static bool qemu_fail(struct sim_qemu *qemu, const char *format, ...) KELPIE_PRINTF(2, 3);
static bool qemu_fail(struct sim_qemu *qemu, const char *format, ...) {
    char text[SIM_QEMU_PROBLEM_BYTES];
    va_list list;
    va_start(list, format);
    kelpie__ignore(vsnprintf(text, sizeof(text), format, list)); /* a cut text will do */
    va_end(list);
    kelpie__sim_qemu_say(qemu, "%s\n", text);
    kelpie__sim_qemu_exit(qemu, 1);
    KELPIE_ASSERT(qemu->is_ended);
    return false;
}

static const char *qemu_errno_text(int status) {
    switch (-status) {
    case ENOENT:
        return "No such file or directory";
    case EACCES:
        return "Permission denied";
    case EISDIR:
        return "Is a directory";
    case EMFILE:
        return "Too many open files";
    case ENOMEM:
        return "Cannot allocate memory";
    case EIO:
        return "Input/output error";
    case EROFS:
        return "Read-only file system";
    default:
        return "Invalid argument";
    }
}

/* An open file, kept until the end of the process as QEMU keeps it. "/proc/self/fd/N" is one that
 * came with the process. */
static int qemu_open(struct sim_qemu *qemu, const char *path, bool is_read_only) {
    static const char inherited[] = "/proc/self/fd/";
    uint64_t number = 0;
    if (kelpie__text_has_prefix(path, inherited)) {
        bool is_there = kelpie__text_u64(path + sizeof(inherited) - 1, &number) &&
                        number < SIM_HANDLE_MAX &&
                        kelpie__sim_handle_object(qemu->process, (int)number) != NULL;
        return is_there ? (int)number : -ENOENT;
    }
    uint32_t flags = KELPIE_OS_OPEN_READ | KELPIE_OS_OPEN_FOLLOW |
                     (is_read_only ? 0u : (uint32_t)KELPIE_OS_OPEN_WRITE);
    return kelpie__os_open(qemu->os, KELPIE_OS_CWD, path, flags, 0);
}

/* What stops QEMU before it greets. */
static bool qemu_check_early(struct sim_qemu *qemu) {
    const struct sim_qemu_options *options = &qemu->options;
    for (uint32_t i = 0; i < options->chardev_count; i += 1) {
        const struct sim_object *object =
            kelpie__sim_handle_object(qemu->process, options->chardevs[i].handle);
        if (object == NULL || object->operations->send == NULL) {
            return qemu_fail(qemu,
                             "%s: -chardev socket,id=%s,fd=%d: File descriptor '%d' is not a "
                             "socket",
                             SIM_QEMU_PROGRAM, options->chardevs[i].id, options->chardevs[i].handle,
                             options->chardevs[i].handle);
        }
    }
    for (uint32_t i = 0; i < options->block_count; i += 1) {
        const struct sim_qemu_block *block = &options->blocks[i];
        if (block->path == NULL && kelpie__sim_qemu_block(options, block->file) == NULL) {
            return qemu_fail(qemu, "%s: -blockdev %s: Cannot find device='%s' nor node-name='%s'",
                             SIM_QEMU_PROGRAM, block->argument, block->file, block->file);
        }
        int status = block->path == NULL ? 0 : qemu_open(qemu, block->path, block->is_read_only);
        if (status < 0) {
            return qemu_fail(qemu, "%s: -blockdev %s: Could not open '%s': %s", SIM_QEMU_PROGRAM,
                             block->argument, block->path, qemu_errno_text(status));
        }
    }
    int status = options->memory_path == NULL
                     ? 0
                     : qemu_open(qemu, options->memory_path, !options->is_share);
    if (status < 0) {
        return qemu_fail(qemu, "%s: can't open backing store %s for guest RAM: %s",
                         SIM_QEMU_PROGRAM, options->memory_path, qemu_errno_text(status));
    }
    qemu->memory.base = options->memory_path == NULL ? KELPIE_OS_NO_HANDLE : status;
    if (options->is_kvm) {
        int device = qemu_open(qemu, "/dev/kvm", false);
        if (device < 0) {
            return qemu_fail(qemu,
                             "Could not access KVM kernel module: %s\n"
                             "%s: failed to initialize kvm: %s",
                             qemu_errno_text(device), SIM_QEMU_PROGRAM, qemu_errno_text(device));
        }
    }
    return true;
}

static bool qemu_check_memory(struct sim_qemu *qemu) {
    const struct sim_qemu_options *options = &qemu->options;
    if (options->machine_memory == NULL) {
        return true;
    }
    if (options->memory_id == NULL || strcmp(options->memory_id, options->machine_memory) != 0) {
        return qemu_fail(qemu, "%s: Memory backend '%s' not found", SIM_QEMU_PROGRAM,
                         options->machine_memory);
    }
    if (options->memory_object_bytes != options->memory_mib << 20) {
        return qemu_fail(qemu,
                         "%s: Machine memory size does not match the size of the memory backend",
                         SIM_QEMU_PROGRAM);
    }
    return kelpie__sim_qemu_memory_open(qemu) ||
           qemu_fail(qemu, "%s: cannot set up guest memory '%s': Cannot allocate memory",
                     SIM_QEMU_PROGRAM, options->memory_id);
}

/* What stops it after it has greeted: processors, kernel, devices. */
static bool qemu_check_late(struct sim_qemu *qemu) {
    const struct sim_qemu_options *options = &qemu->options;
    const char *cpu = options->cpu == NULL ? "max" : options->cpu;
    if (strcmp(cpu, "max") != 0 && strcmp(cpu, "host") != 0) {
        return qemu_fail(qemu, "%s: unable to find CPU model '%s'", SIM_QEMU_PROGRAM, cpu);
    }
    if (strcmp(cpu, "host") == 0 && !options->is_kvm) {
        return qemu_fail(qemu, "%s: CPU model 'host' requires KVM or HVF", SIM_QEMU_PROGRAM);
    }
    if (options->kernel != NULL) {
        int status = qemu_open(qemu, options->kernel, true);
        if (status < 0) {
            return qemu_fail(qemu, "qemu: could not open kernel file '%s': %s", options->kernel,
                             qemu_errno_text(status));
        }
        char head[4] = "";
        int64_t count = kelpie__os_pread(qemu->os, status, head, sizeof(head), 0);
        kelpie__ignore(kelpie__os_close(qemu->os, status));
        if (count < (int64_t)sizeof(head) || memcmp(head, "\177ELF", sizeof(head)) != 0) {
            return qemu_fail(qemu, "qemu: invalid kernel header");
        }
    }
    if (options->serial != NULL && kelpie__sim_qemu_chardev(options, options->serial) == NULL) {
        return qemu_fail(qemu,
                         "%s: -serial chardev:%s: could not connect serial device to character "
                         "backend 'chardev:%s'",
                         SIM_QEMU_PROGRAM, options->serial, options->serial);
    }
    for (uint32_t i = 0; i < options->disk_count; i += 1) {
        if (kelpie__sim_qemu_block(options, options->disks[i].drive) == NULL) {
            return qemu_fail(qemu,
                             "%s: -device %s: Property 'virtio-blk-device.drive' can't find value "
                             "'%s'",
                             SIM_QEMU_PROGRAM, options->disks[i].argument, options->disks[i].drive);
        }
    }
    if (options->port != NULL && !options->has_serial_bus) {
        return qemu_fail(qemu,
                         "%s: -device %s: No 'virtio-serial-bus' bus found for device "
                         "'virtserialport'",
                         SIM_QEMU_PROGRAM, options->port_argument);
    }
    if (options->port != NULL && kelpie__sim_qemu_chardev(options, options->port) == NULL) {
        return qemu_fail(qemu,
                         "%s: -device %s: Property 'virtserialport.chardev' can't find value '%s'",
                         SIM_QEMU_PROGRAM, options->port_argument, options->port);
    }
    return true;
}

static void qemu_devices_due(void *context) {
    struct sim_qemu *qemu = context;
    KELPIE_ASSERT(qemu->state == SIM_QEMU_STARTING);
    if (!qemu_check_late(qemu) || !kelpie__sim_qemu_guest_start(qemu)) {
        KELPIE_ASSERT(qemu->is_ended);
        return;
    }
    qemu->qmp.has_events = qemu->options.has_events;
    qemu->state = qemu->options.is_incoming ? SIM_QEMU_INMIGRATE : SIM_QEMU_PRELAUNCH;
    kelpie__sim_qemu_qmp_serve(qemu);
    if (!qemu->options.is_stopped && !qemu->options.is_incoming) {
        qemu->state = SIM_QEMU_RUNNING;
        if (kelpie__sim_qemu_fault_boot(qemu)) {
            kelpie__sim_guest_run(qemu->guest);
        }
        kelpie__sim_qemu_pump(qemu);
    }
    qemu_check(qemu);
}

static void qemu_greeting_due(void *context) {
    struct sim_qemu *qemu = context;
    const struct sim_qemu_options *options = &qemu->options;
    KELPIE_ASSERT(qemu->state == SIM_QEMU_STARTING);
    if (!qemu_check_early(qemu) || !qemu_check_memory(qemu)) {
        return;
    }
    if (options->monitor != NULL && kelpie__sim_qemu_chardev(options, options->monitor) == NULL) {
        kelpie__ignore(qemu_fail(qemu, "%s: -mon chardev=%s,mode=control: chardev \"%s\" not found",
                                 SIM_QEMU_PROGRAM, options->monitor, options->monitor));
        return;
    }
    kelpie__sim_qemu_qmp_open(qemu);
    if (qemu->is_hung || qemu->is_ended) { /* over its greeting, by a fault */
        return;
    }
    kelpie__timer_arm(qemu->loop, &qemu->start_timer,
                      qemu->loop->now_ns + kelpie__sim_qemu_about(qemu, QEMU_DEVICES_NS),
                      qemu_devices_due, qemu);
}

static bool qemu_open_signals(struct sim_qemu *qemu) {
    static const int signals[] = {QEMU_SIGNAL_HANGUP, QEMU_SIGNAL_INTERRUPT, QEMU_SIGNAL_TERM};
    qemu->signals = kelpie__os_open_signals(qemu->os, signals, KELPIE_ARRAY_COUNT(signals));
    if (qemu->signals < 0 || kelpie__loop_watch(qemu->loop, qemu->signals, KELPIE_OS_READABLE,
                                                qemu_signal, qemu, &qemu->signals_watch) < 0) {
        return false;
    }
    qemu->is_signals_watched = true;
    KELPIE_ASSERT(qemu->signals > QEMU_STDERR);
    return true;
}

static void qemu_arguments_due(void *context) {
    struct sim_qemu *qemu = context;
    char problem[SIM_QEMU_PROBLEM_BYTES];
    KELPIE_ASSERT(qemu->state == SIM_QEMU_STARTING);
    if (!kelpie__sim_qemu_arguments(&qemu->options, qemu->argc, qemu->argv, problem)) {
        kelpie__sim_qemu_say(qemu, "%s", problem);
        kelpie__sim_qemu_exit(qemu, 1);
        return;
    }
    if (!qemu_open_signals(qemu)) {
        kelpie__ignore(qemu_fail(qemu, "%s: failed to initialize the main loop", SIM_QEMU_PROGRAM));
        return;
    }
    kelpie__timer_arm(qemu->loop, &qemu->start_timer,
                      qemu->loop->now_ns + kelpie__sim_qemu_about(qemu, QEMU_GREETING_NS),
                      qemu_greeting_due, qemu);
    kelpie__sim_qemu_fault_start(qemu);
}

/* Nothing is freed one by one: the end of a process takes its memory and its handles. */
static int qemu_run(struct sim_qemu *qemu) {
    qemu->loop->now_ns = kelpie__os_now(qemu->os, KELPIE_OS_CLOCK_MONOTONIC);
    kelpie__timer_arm(qemu->loop, &qemu->start_timer,
                      qemu->loop->now_ns + kelpie__sim_qemu_about(qemu, QEMU_ARGUMENTS_NS),
                      qemu_arguments_due, qemu);
    int status = 0;
    while (status == 0 && !qemu->is_ended) { /* bound: the process's life */
        status = kelpie__loop_step(qemu->loop, -1, NULL);
        qemu_check(qemu);
    }
    kelpie__sim_qemu_guest_stop(qemu);
    return status < 0 ? 1 : qemu->exit_code;
}

/* What is written before it is read: most of the structure, and each life has two. In its order. */
static const struct {
    size_t at;
    size_t bytes;
} qemu_buffers[] = {
#define QEMU_BUFFER(member)                                                                        \
    { offsetof(struct sim_qemu, member), sizeof(((struct sim_qemu *)NULL)->member) }
    QEMU_BUFFER(memory.image), QEMU_BUFFER(agent.out),    QEMU_BUFFER(agent.in),
    QEMU_BUFFER(console.out),  QEMU_BUFFER(console.in),   QEMU_BUFFER(qmp.input),
    QEMU_BUFFER(qmp.output),   QEMU_BUFFER(options.text),
#undef QEMU_BUFFER
};

static void qemu_clear(struct sim_qemu *qemu) {
    size_t at = 0;
    for (size_t i = 0; i < KELPIE_ARRAY_COUNT(qemu_buffers); i += 1) {
        KELPIE_ASSERT(qemu_buffers[i].at >= at);
        memset((char *)qemu + at, 0, qemu_buffers[i].at - at);
        at = qemu_buffers[i].at + qemu_buffers[i].bytes;
    }
    KELPIE_ASSERT(at <= sizeof(*qemu));
    memset((char *)qemu + at, 0, sizeof(*qemu) - at);
}

int kelpie__sim_qemu_main(struct kelpie_os *os, int argc, char **argv) {
    KELPIE_ASSERT(argc >= 1 && argv[0] != NULL);
    struct sim_qemu *qemu = kelpie__alloc_raw(os, sizeof(*qemu));
    if (qemu == NULL) {
        return 1;
    }
    qemu_clear(qemu);
    qemu->os = os;
    qemu->argc = argc;
    qemu->argv = argv;
    qemu->process = kelpie__sim_process_of(os);
    qemu->guest_handle = KELPIE_OS_NO_HANDLE;
    qemu->agent.handle = KELPIE_OS_NO_HANDLE;
    qemu->console.handle = KELPIE_OS_NO_HANDLE;
    qemu->qmp.handle = KELPIE_OS_NO_HANDLE;
    qemu->qmp.passed = KELPIE_OS_NO_HANDLE;
    qemu->memory.base = KELPIE_OS_NO_HANDLE;
    qemu->load = KELPIE_OS_NO_HANDLE;
    for (uint32_t i = 0; i < SIM_QEMU_FDS_MAX; i += 1) {
        qemu->fds[i].handle = KELPIE_OS_NO_HANDLE;
    }
    if (kelpie__loop_create(os, QEMU_LOOP_HANDLES, &qemu->loop, NULL) < 0) {
        return 1;
    }
    return qemu_run(qemu);
}
