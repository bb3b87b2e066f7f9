/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Pseudo terminals with the line discipline that Linux gives them at first: input by lines with
 * echo, erase (^?), kill (^U) and end of file (^D), ^C ^\ ^Z as signals, output with CR before LF;
 * or raw. Not here: flow control (^S and ^Q are taken and do nothing), word erase, literal next.
 */
#include <errno.h>
#include <signal.h>
#include <string.h>

#include "sim/channel.h"
#include "sim/heap.h"
#include "sim/stream.h"

#define TERMINAL_LINE_BYTES 4096u /* N_TTY_BUF_SIZE */
#define TERMINAL_OUTPUT_BYTES 65536u
#define TERMINAL_CONTROL_BIT 0x40

enum {
    TERMINAL_INTERRUPT = 3,
    TERMINAL_END = 4,
    TERMINAL_START = 17,
    TERMINAL_STOP = 19,
    TERMINAL_KILL = 21,
    TERMINAL_SUSPEND = 26,
    TERMINAL_QUIT = 28,
    TERMINAL_ERASE = 127,
};

/* Lives until both ends are closed. */
struct sim_terminal {
    struct sim_object master;
    struct sim_object slave;
    bool has_master;
    bool has_slave;
    struct sim_channel
        input; /* to the slave: a segment is a line; an empty one is an end of file */
    uint8_t line[TERMINAL_LINE_BYTES]; /* being typed */
    uint32_t line_length;
    struct sim_bytes output; /* to the master */
    uint16_t rows;
    uint16_t columns;
    int32_t session; /* 0: of none */
    int32_t group;   /* in the foreground */
    bool is_raw;
    bool has_saved;
    bool was_raw; /* what set_terminal_raw(false) goes back to */
};

static struct sim_terminal *terminal_of_master(struct sim_object *object) {
    return KELPIE_CONTAINER_OF(object, struct sim_terminal, master);
}

static struct sim_terminal *terminal_of_slave(struct sim_object *object) {
    return KELPIE_CONTAINER_OF(object, struct sim_terminal, slave);
}

static size_t terminal_room(const struct sim_terminal *terminal) {
    return TERMINAL_OUTPUT_BYTES - terminal->output.count;
}

static void terminal_signal(struct sim_terminal *terminal, int number) {
    struct sim_process *next = terminal->session == 0 ? NULL : terminal->master.machine->processes;
    while (next != NULL) { /* bound: processes of the machine */
        struct sim_process *process = next;
        next = process->next;
        if (process->group == terminal->group && process->session == terminal->session) {
            kelpie__sim_process_signal(process, number);
        }
    }
}

/* ---- output ---------------------------------------------------------------------------------- */

/* Bytes that the master will read; what does not fit is lost (an echo), or was looked at before. */
static void terminal_emit(struct sim_terminal *terminal, const char *bytes, size_t count) {
    if (count <= terminal_room(terminal) &&
        kelpie__sim_bytes_reserve(&terminal->output, terminal->master.machine->heap, count)) {
        kelpie__sim_bytes_put(&terminal->output, bytes, count);
    }
}

static int64_t slave_write(struct sim_process *process, struct sim_object *object,
                           const void *bytes, size_t count) {
    struct sim_terminal *terminal = terminal_of_slave(object);
    const char *from = bytes;
    size_t done = 0;
    KELPIE_ASSERT(process->machine == object->machine);
    if (!terminal->has_master) {
        return -EIO;
    }
    size_t before = terminal->output.count;
    while (done < count) {
        const char *end = terminal->is_raw ? NULL : memchr(from + done, '\n', count - done);
        size_t plain = (end == NULL ? count : (size_t)(end - from)) - done;
        size_t room = terminal_room(terminal);
        plain = plain < room ? plain : room;
        terminal_emit(terminal, from + done, plain);
        done += plain;
        bool is_line = end != NULL && from + done == end && terminal_room(terminal) >= 2;
        if (is_line) {
            terminal_emit(terminal, "\r\n", 2);
            done += 1;
        } else if (plain == 0 || end != NULL) {
            break;
        }
    }
    if (before == 0 && terminal->output.count > 0) {
        kelpie__sim_object_changed(&terminal->master);
    }
    return done > 0 ? (int64_t)done : -EAGAIN;
}

static int64_t master_read(struct sim_process *process, struct sim_object *object, void *out,
                           size_t count) {
    struct sim_terminal *terminal = terminal_of_master(object);
    size_t got = terminal->output.count < count ? terminal->output.count : count;
    KELPIE_ASSERT(process->machine == object->machine);
    if (got == 0) {
        return terminal->has_slave ? -EAGAIN : -EIO;
    }
    kelpie__sim_bytes_take(&terminal->output, out, got);
    if (terminal->has_slave) {
        kelpie__sim_object_changed(&terminal->slave);
    }
    return (int64_t)got;
}

/* ---- input ----------------------------------------------------------------------------------- */

static void terminal_echo(struct sim_terminal *terminal, uint8_t byte) {
    const char shown[2] = {'^', (char)(byte ^ TERMINAL_CONTROL_BIT)};
    if (byte == '\n') {
        terminal_emit(terminal, "\r\n", 2);
    } else if ((byte < ' ' && byte != '\t') || byte == TERMINAL_ERASE) {
        terminal_emit(terminal, shown, 2);
    } else {
        terminal_emit(terminal, (const char *)&byte, 1);
    }
}

/* The line goes to whoever reads; without memory it is lost. */
static void terminal_push(struct sim_terminal *terminal) {
    kelpie__ignore(kelpie__sim_channel_put(&terminal->input, terminal->master.machine->heap,
                                           terminal->line, terminal->line_length, 0));
    terminal->line_length = 0;
    kelpie__sim_object_changed(&terminal->slave);
}

static void terminal_erase(struct sim_terminal *terminal) {
    KELPIE_ASSERT(terminal->line_length > 0);
    uint8_t byte = terminal->line[terminal->line_length - 1];
    terminal->line_length -= 1;
    if (byte < ' ' && byte != '\t') {
        terminal_emit(terminal, "\b \b", 3);
    }
    terminal_emit(terminal, "\b \b", 3);
}

/* False: the byte is an ordinary one. */
static bool terminal_interrupt(struct sim_terminal *terminal, uint8_t byte) {
    int number = byte == TERMINAL_INTERRUPT ? SIGINT
                 : byte == TERMINAL_QUIT    ? SIGQUIT
                 : byte == TERMINAL_SUSPEND ? SIGTSTP
                                            : 0;
    if (number == 0) {
        return false;
    }
    kelpie__sim_channel_deinit(&terminal->input, terminal->master.machine->heap);
    terminal->line_length = 0;
    terminal_echo(terminal, byte);
    terminal_signal(terminal, number);
    return true;
}

/* One byte for a terminal that is not raw. */
static void terminal_type(struct sim_terminal *terminal, uint8_t typed) {
    uint8_t byte = typed == '\r' ? '\n' : typed;
    KELPIE_ASSERT(!terminal->is_raw);
    if (terminal_interrupt(terminal, byte) || byte == TERMINAL_START || byte == TERMINAL_STOP) {
        return;
    }
    if (byte == TERMINAL_ERASE) {
        if (terminal->line_length > 0) {
            terminal_erase(terminal);
        }
    } else if (byte == TERMINAL_KILL) {
        while (terminal->line_length > 0) { /* bound: the line */
            terminal_erase(terminal);
        }
    } else if (byte == TERMINAL_END) {
        terminal_push(terminal);
    } else if (byte == '\n' || terminal->line_length < TERMINAL_LINE_BYTES - 1) {
        terminal->line[terminal->line_length] = byte;
        terminal->line_length += 1;
        terminal_echo(terminal, byte);
        if (byte == '\n') {
            terminal_push(terminal);
        }
    }
}

static int64_t master_write(struct sim_process *process, struct sim_object *object,
                            const void *bytes, size_t count) {
    struct sim_terminal *terminal = terminal_of_master(object);
    KELPIE_ASSERT(process->machine == object->machine);
    /* Also when no slave is left: Linux takes it, and echoes. */
    size_t queued = terminal->input.bytes.count;
    size_t room = queued < TERMINAL_OUTPUT_BYTES ? TERMINAL_OUTPUT_BYTES - queued : 0;
    size_t taken = count < room ? count : room;
    if (taken == 0) {
        return -EAGAIN;
    }
    size_t before = terminal->output.count;
    if (terminal->is_raw) {
        if (!kelpie__sim_channel_put(&terminal->input, object->machine->heap, bytes,
                                     (uint32_t)taken, 0)) {
            return -ENOMEM;
        }
        kelpie__sim_object_changed(&terminal->slave);
    }
    for (size_t i = 0; i < taken && !terminal->is_raw; i += 1) {
        terminal_type(terminal, ((const uint8_t *)bytes)[i]);
    }
    if (before == 0 && terminal->output.count > 0) {
        kelpie__sim_object_changed(object);
    }
    return (int64_t)taken;
}

static int64_t slave_read(struct sim_process *process, struct sim_object *object, void *out,
                          size_t count) {
    struct sim_terminal *terminal = terminal_of_slave(object);
    struct sim_channel *input = &terminal->input;
    size_t done = 0;
    KELPIE_ASSERT(process->machine == object->machine);
    if (!terminal->has_master) {
        return 0;
    }
    if (input->segment_count == 0) {
        return -EAGAIN;
    }
    do { /* bound: the segments; by lines, one of them */
        struct sim_segment *segment = kelpie__sim_channel_first(input);
        size_t left = count - done;
        uint32_t piece = left < segment->length ? (uint32_t)left : segment->length;
        kelpie__sim_channel_take(input, (uint8_t *)out + done, piece);
        done += piece;
    } while (terminal->is_raw && done < count && input->segment_count > 0);
    kelpie__sim_object_changed(&terminal->master);
    return (int64_t)done;
}

/* ---- readiness and life ---------------------------------------------------------------------- */

static uint32_t master_ready(struct sim_object *object) {
    const struct sim_terminal *terminal = terminal_of_master(object);
    uint32_t bits = terminal->output.count > 0 ? KELPIE_OS_READABLE : 0;
    if (!terminal->has_slave) {
        bits |= KELPIE_OS_HANGUP;
    }
    return terminal->input.bytes.count < TERMINAL_OUTPUT_BYTES ? bits | KELPIE_OS_WRITABLE : bits;
}

static uint32_t slave_ready(struct sim_object *object) {
    const struct sim_terminal *terminal = terminal_of_slave(object);
    uint32_t bits = terminal->input.segment_count > 0 ? KELPIE_OS_READABLE : 0;
    if (!terminal->has_master) {
        return KELPIE_OS_READABLE | KELPIE_OS_WRITABLE | KELPIE_OS_HANGUP;
    }
    return terminal_room(terminal) > 1 ? bits | KELPIE_OS_WRITABLE : bits;
}

static void terminal_free(struct sim_terminal *terminal) {
    struct sim_heap *heap = terminal->master.machine->heap;
    KELPIE_ASSERT(!terminal->has_master && !terminal->has_slave);
    kelpie__sim_channel_deinit(&terminal->input, heap);
    kelpie__sim_bytes_deinit(&terminal->output, heap);
    kelpie__sim_heap_free(heap, terminal, sizeof(*terminal));
}

/* The line is gone: the session is told, and the slave answers the end of everything. */
static void master_close(struct sim_object *object) {
    struct sim_terminal *terminal = terminal_of_master(object);
    KELPIE_ASSERT(terminal->has_master);
    terminal->has_master = false;
    if (!terminal->has_slave) {
        terminal_free(terminal);
        return;
    }
    kelpie__sim_object_ref(&terminal->slave); /* the signals may end whoever holds it */
    kelpie__sim_object_changed(&terminal->slave);
    terminal_signal(terminal, SIGHUP);
    terminal_signal(terminal, SIGCONT);
    kelpie__sim_object_unref(&terminal->slave);
}

static void slave_close(struct sim_object *object) {
    struct sim_terminal *terminal = terminal_of_slave(object);
    KELPIE_ASSERT(terminal->has_slave);
    terminal->has_slave = false;
    if (terminal->has_master) {
        kelpie__sim_object_changed(&terminal->master);
    } else {
        terminal_free(terminal);
    }
}

static const struct sim_object_operations master_operations = {
    .kind = "terminal",
    .ready = master_ready,
    .read = master_read,
    .write = master_write,
    .close = master_close,
};

static const struct sim_object_operations slave_operations = {
    .kind = "terminal",
    .ready = slave_ready,
    .read = slave_read,
    .write = slave_write,
    .close = slave_close,
};

int kelpie__sim_terminal_create(struct sim_machine *machine, uint16_t rows, uint16_t columns,
                                struct sim_object *out[2]) {
    struct sim_terminal *terminal = kelpie__sim_heap_alloc(machine->heap, sizeof(*terminal));
    if (terminal == NULL) {
        return -ENOMEM;
    }
    kelpie__sim_object_init(&terminal->master, machine, &master_operations);
    kelpie__sim_object_init(&terminal->slave, machine, &slave_operations);
    terminal->has_master = true;
    terminal->has_slave = true;
    terminal->rows = rows;
    terminal->columns = columns;
    KELPIE_ASSERT(terminal->session == 0);
    out[0] = &terminal->master;
    out[1] = &terminal->slave;
    return 0;
}

int kelpie__sim_terminal_open(struct sim_process *process, int *out_master, int *out_slave,
                              uint16_t rows, uint16_t columns) {
    struct sim_object *ends[2];
    int status = kelpie__sim_terminal_create(process->machine, rows, columns, ends);
    if (status < 0) {
        return status;
    }
    int master = kelpie__sim_handle_install(process, ends[0]);
    int slave = master < 0 ? master : kelpie__sim_handle_install(process, ends[1]);
    kelpie__sim_object_unref(ends[1]);
    kelpie__sim_object_unref(ends[0]);
    if (slave < 0) {
        if (master >= 0) {
            kelpie__ignore(kelpie__sim_handle_close(process, master));
        }
        return slave;
    }
    KELPIE_ASSERT(master != slave);
    *out_master = master;
    *out_slave = slave;
    return 0;
}

/* ---- terminal operations --------------------------------------------------------------------- */

static struct sim_terminal *terminal_of(struct sim_object *object) {
    return object->operations == &master_operations  ? terminal_of_master(object)
           : object->operations == &slave_operations ? terminal_of_slave(object)
                                                     : NULL;
}

bool kelpie__sim_terminal_is(struct sim_object *object) {
    struct sim_terminal *terminal = terminal_of(object);
    return terminal != NULL && terminal->has_master;
}

int kelpie__sim_terminal_control(struct sim_object *object, struct sim_process *leader) {
    if (object->operations != &slave_operations) {
        return -ENOTTY;
    }
    struct sim_terminal *terminal = terminal_of_slave(object);
    if (leader->session != leader->pid || terminal->session != 0) {
        return -EPERM;
    }
    terminal->session = leader->session;
    terminal->group = leader->group;
    KELPIE_ASSERT(terminal->session > 0);
    return 0;
}

/* A slave whose master is closed answers EIO to everything. */
static int terminal_find(struct sim_object *object, struct sim_terminal **out) {
    struct sim_terminal *terminal = terminal_of(object);
    if (terminal == NULL) {
        return -ENOTTY;
    }
    KELPIE_ASSERT(terminal->has_master || terminal->has_slave);
    *out = terminal;
    return terminal->has_master ? 0 : -EIO;
}

int kelpie__sim_terminal_size(struct sim_object *object, uint16_t *out_rows,
                              uint16_t *out_columns) {
    struct sim_terminal *terminal = NULL;
    int status = terminal_find(object, &terminal);
    if (status == 0) {
        *out_rows = terminal->rows;
        *out_columns = terminal->columns;
    }
    return status;
}

int kelpie__sim_terminal_resize(struct sim_object *object, uint16_t rows, uint16_t columns) {
    struct sim_terminal *terminal = NULL;
    int status = terminal_find(object, &terminal);
    if (status == 0 && (terminal->rows != rows || terminal->columns != columns)) {
        terminal->rows = rows;
        terminal->columns = columns;
        terminal_signal(terminal, SIGWINCH);
    }
    return status;
}

int kelpie__sim_terminal_set_raw(struct sim_object *object, bool is_raw) {
    struct sim_terminal *terminal = NULL;
    int status = terminal_find(object, &terminal);
    if (status < 0 || (!is_raw && !terminal->has_saved)) {
        return !is_raw && status == -ENOTTY ? 0 : status;
    }
    if (is_raw) {
        KELPIE_ASSERT(!terminal->has_saved);
        terminal->was_raw = terminal->is_raw;
    }
    terminal->has_saved = is_raw;
    terminal->is_raw = is_raw || terminal->was_raw;
    if (terminal->is_raw && terminal->line_length > 0) {
        terminal_push(terminal);
    }
    return 0;
}
