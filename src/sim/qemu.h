/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * The simulated QEMU, inside: shared by qemu*.c only. It is a process of the host like a product's,
 * with a loop, and an inhabitant: it owns a guest (guest.h) and asks the fault plan. What it knows
 * of the real one was measured (docs/simulation.md): argv as arguments.c builds it, QMP as QEMU
 * 7.2.22 speaks it, its words on stderr.
 */
#ifndef KELPIE_SIM_QEMU_H
#define KELPIE_SIM_QEMU_H

#include "core/json.h"
#include "core/loop.h"
#include "sim/guest.h"
#include "sim/install.h"
#include "sim/qemu_credit.h"

#define SIM_QEMU_PROGRAM "qemu-system-x86_64"
#define SIM_QEMU_CHARDEVS_MAX 4u
#define SIM_QEMU_BLOCKS_MAX 24u
#define SIM_QEMU_DISKS_MAX 4u
#define SIM_QEMU_FDS_MAX 4u
#define SIM_QEMU_PROBLEM_BYTES 1024u
#define SIM_QEMU_INPUT_BYTES 2048u
#define SIM_QEMU_OUTPUT_BYTES 16384u
#define SIM_QEMU_COMMAND_BYTES 4096u
#define SIM_QEMU_PIECE_BYTES 4096u
#define SIM_QEMU_STATE_BYTES 3061u      /* a twentieth of the real one's */
#define SIM_QEMU_STATE_DISK_BYTES 1368u /* more, for each disk */
#define SIM_QEMU_STATE_BYTES_MAX                                                                   \
    (SIM_QEMU_STATE_BYTES + SIM_QEMU_DISKS_MAX * SIM_QEMU_STATE_DISK_BYTES)

/* ---- argv ------------------------------------------------------------------------------------ */

struct sim_qemu_chardev {
    const char *id;
    int handle;
};

struct sim_qemu_block { /* of -blockdev */
    const char *argument;
    const char *driver;
    const char *node;
    const char *path; /* of driver=file; else NULL */
    const char *file; /* the node below; or NULL */
    bool is_read_only;
};

struct sim_qemu_disk { /* of -device virtio-blk-device */
    const char *argument;
    const char *drive;
    const char *serial;
};

/* All texts are the arguments themselves, or in `text`. NULL and 0: not given. */
struct sim_qemu_options {
    const char *name;
    const char *machine_memory; /* memory-backend=ID */
    const char *memory_id;      /* of -object */
    const char *memory_path;    /* of memory-backend-file */
    uint64_t memory_object_bytes;
    uint64_t memory_mib;
    uint64_t cpu_count;
    const char *cpu;
    const char *kernel;
    const char *initrd;
    const char *append;
    const char *monitor; /* a chardev's id, as the two below */
    const char *serial;
    const char *port;
    const char *port_argument;
    const char *port_name;
    struct sim_qemu_chardev chardevs[SIM_QEMU_CHARDEVS_MAX];
    uint32_t chardev_count;
    struct sim_qemu_block blocks[SIM_QEMU_BLOCKS_MAX];
    uint32_t block_count;
    struct sim_qemu_disk disks[SIM_QEMU_DISKS_MAX];
    uint32_t disk_count;
    bool is_kvm;
    bool is_no_reboot;
    bool is_stopped; /* -S */
    bool is_incoming;
    bool has_serial_bus;
    bool is_share;
    bool has_acpi;
    bool has_description;   /* a section at the end of the state; suppress-vmdesc=off */
    bool has_configuration; /* a section at its beginning; migration.send-configuration=on */
    bool has_events;        /* migration.x-events=on */
    size_t text_bytes;
    char text[8192];
};

/* False: an argument is not known, or malformed; out_problem is what QEMU says of it, a whole line.
 */
KELPIE_MUST_CHECK bool kelpie__sim_qemu_arguments(struct sim_qemu_options *options, int argc,
                                                  char **argv,
                                                  char out_problem[SIM_QEMU_PROBLEM_BYTES]);
const struct sim_qemu_chardev *kelpie__sim_qemu_chardev(const struct sim_qemu_options *options,
                                                        const char *id);
const struct sim_qemu_block *kelpie__sim_qemu_block(const struct sim_qemu_options *options,
                                                    const char *node);

/* ---- the process ----------------------------------------------------------------------------- */

enum sim_qemu_state {
    SIM_QEMU_STARTING, /* until the main loop runs */
    SIM_QEMU_PRELAUNCH,
    SIM_QEMU_INMIGRATE,
    SIM_QEMU_RUNNING,
    SIM_QEMU_PAUSED,
    SIM_QEMU_SHUTDOWN,
};

/* A byte stream between the guest and a handle. */
struct sim_qemu_channel {
    int handle; /* KELPIE_OS_NO_HANDLE: not there, or its peer has gone */
    uint32_t watch;
    bool is_watched;
    int64_t held_until_ns; /* nothing is written before */
    size_t out_start;      /* from the guest, not written yet */
    size_t out_count;
    size_t in_start; /* for the guest, not taken yet */
    size_t in_count;
    char out[SIM_QEMU_PIECE_BYTES];
    char in[SIM_QEMU_PIECE_BYTES];
};

struct sim_qemu;

struct sim_qemu_command {
    const char *name;
    int64_t median_ns;
    void (*run)(struct sim_qemu *qemu);
};

struct sim_qemu_fd { /* handed over SCM_RIGHTS, and named */
    int handle;      /* KELPIE_OS_NO_HANDLE: free */
    uint64_t set;    /* of add-fd */
    char name[32];   /* of getfd; "": of add-fd */
};

/* The guest's memory, as another process finds it in this one. A guest's image (guest.h) lies in a
 * few of its pages; others hold a pattern, or nothing. What a restore has written, and what the
 * guest has dirtied since, are the private ones. */
#define SIM_QEMU_PAGE_BYTES 4096u
#define SIM_QEMU_IMAGE_PAGES (SIM_GUEST_IMAGE_BYTES / SIM_QEMU_PAGE_BYTES)
#define SIM_QEMU_WRITTEN_MAX 192u /* pages that a restore lays over the base */

struct sim_qemu_written {
    uint32_t pages[SIM_QEMU_WRITTEN_MAX]; /* in the order of writing */
    uint8_t bytes[SIM_QEMU_WRITTEN_MAX][SIM_QEMU_PAGE_BYTES];
};

struct sim_qemu_memory {
    uint64_t bytes;
    int base;                         /* KELPIE_OS_NO_HANDLE: anonymous */
    bool has_image;                   /* `image` is the guest as it stands */
    bool is_running;                  /* the guest, when somebody last looked */
    bool is_restored;                 /* few of its pages are private */
    uint64_t lineage;                 /* gives the pattern, and the places of the image */
    struct sim_qemu_written *written; /* NULL: none can be written */
    uint32_t written_count;
    uint8_t image[SIM_GUEST_IMAGE_BYTES];
};

/* What cuts the bytes that come into texts, as QEMU's lexer does. */
struct sim_qemu_streamer {
    int braces; /* open ones */
    int brackets;
    char quote;         /* inside of a string: the character that ends it; else 0 */
    bool is_escaped;    /* after a backslash in it */
    bool is_word;       /* inside of a word that stands alone */
    bool is_recovering; /* after an error: skips up to something that it knows */
    bool is_long;       /* more than `text` takes */
    char last;
    size_t count;
    char text[SIM_QEMU_COMMAND_BYTES];
};

struct sim_qemu_qmp {
    int handle;
    uint32_t watch;
    bool is_watched;
    bool is_reading; /* as far as its watch says */
    bool is_serving; /* commands are executed */
    bool is_negotiated;
    bool has_events;           /* capability "events" */
    bool is_busy;              /* a command is under way */
    bool is_answered;          /* it has been answered */
    int passed;                /* the last handle that came; KELPIE_OS_NO_HANDLE: none */
    int64_t held_until_ns;     /* nothing is written before */
    struct kelpie_timer timer; /* the command's end */
    struct kelpie_timer hold_timer;
    const char *fault; /* of the command under way, or NULL */
    uint64_t fault_argument;
    const struct sim_qemu_command *command;
    size_t input_start;
    size_t input_count;
    size_t output_count;
    size_t late_count;
    struct sim_qemu_streamer streamer;
    char input[SIM_QEMU_INPUT_BYTES];
    char id[512];                           /* as JSON; "": none */
    char arguments[SIM_QEMU_COMMAND_BYTES]; /* an object */
    char output[SIM_QEMU_OUTPUT_BYTES];
    char late[1024]; /* events that come after the answer, or later */
};

struct sim_qemu {
    struct kelpie_os *os; /* borrowed */
    int argc;
    char **argv; /* borrowed */
    struct kelpie_loop *loop;
    struct sim_process *process;
    struct sim_guest *guest;
    struct kelpie_timer start_timer;
    struct kelpie_timer end_timer;
    struct kelpie_timer fault_timer; /* what happens to the guest later */
    struct kelpie_timer pump_timer;
    const char *fault; /* what the timer above brings */
    const char *kvm_fault;
    enum sim_qemu_state state;
    int guest_handle;
    uint32_t guest_watch;
    bool is_guest_watched;
    int signals;
    uint32_t signals_watch;
    bool is_signals_watched;
    bool is_hung; /* the main loop stands: nothing is read, nothing written */
    bool is_ended;
    bool is_closing; /* the first half of the end is done */
    int exit_code;
    uint64_t flood_bytes; /* of nonsense, still to come on stderr */
    uint32_t stderr_watch;
    bool is_stderr_watched;
    struct sim_qemu_fd fds[SIM_QEMU_FDS_MAX];
    struct sim_qemu_memory memory;
    struct kelpie_timer load_timer;
    int load; /* the state to be loaded; KELPIE_OS_NO_HANDLE: none */
    const char *incoming_fault;
    const char *load_fault; /* what happens to the loaded guest when it runs */
    struct sim_qemu_channel agent;
    struct sim_credit credit; /* of what passes there */
    struct sim_qemu_channel console;
    struct sim_qemu_qmp qmp;
    struct sim_qemu_options options;
};

/* qemu.c */
KELPIE_PRINTF(2, 3) void kelpie__sim_qemu_say(struct sim_qemu *qemu, const char *format, ...);
void kelpie__sim_qemu_exit(struct sim_qemu *qemu, int code); /* at once, after this step */
/* SHUTDOWN with its reason, the end of QMP, exit code 0: as QEMU goes when it goes by itself. */
void kelpie__sim_qemu_shutdown(struct sim_qemu *qemu, bool is_guest, const char *reason);
void kelpie__sim_qemu_hang(struct sim_qemu *qemu);
void kelpie__sim_qemu_die(struct sim_qemu *qemu, int signal); /* of it, by the next call */
int64_t kelpie__sim_qemu_about(struct sim_qemu *qemu, int64_t median_ns);

/* qemu_guest.c */
bool kelpie__sim_qemu_guest_start(struct sim_qemu *qemu);
struct sim_guest *kelpie__sim_qemu_guest_create(struct sim_qemu *qemu);
bool kelpie__sim_qemu_guest_attach(struct sim_qemu *qemu, struct sim_guest *guest);
/* A guest that was brought back has its disks where this QEMU has them. */
void kelpie__sim_qemu_guest_move_disks(struct sim_qemu *qemu, struct sim_guest *guest);
void kelpie__sim_qemu_guest_unwatch(struct sim_qemu *qemu); /* nothing moves any more */
void kelpie__sim_qemu_guest_stop(struct sim_qemu *qemu);    /* at the process's end */
void kelpie__sim_qemu_pump(struct sim_qemu *qemu);

/* qemu_fault.c: the fault plan's word for a point, or NULL; and what happens by it. */
const char *kelpie__sim_qemu_fault(struct sim_qemu *qemu, const char *point,
                                   uint64_t *out_argument);
bool kelpie__sim_qemu_fault_is(const char *action, const char *name);
int64_t kelpie__sim_qemu_fault_delay(uint64_t argument); /* of "late", in ns */
void kelpie__sim_qemu_fault_start(struct sim_qemu *qemu);
void kelpie__sim_qemu_fault_guest(struct sim_qemu *qemu, const char *fault); /* now */
bool kelpie__sim_qemu_fault_boot(struct sim_qemu *qemu); /* false: the guest runs later */
/* Of a piece that has come out of the agent's port. */
void kelpie__sim_qemu_fault_frame(struct sim_qemu *qemu, struct sim_qemu_channel *channel);

/* qemu_json.c: takes one byte. */
enum sim_qemu_streamed {
    SIM_QEMU_STREAMED_NOTHING,
    SIM_QEMU_STREAMED_TEXT,  /* streamer->text is a whole one; the byte is taken */
    SIM_QEMU_STREAMED_WORD,  /* streamer->text is a word that stood alone; the byte is not taken */
    SIM_QEMU_STREAMED_STRAY, /* streamer->text ends with what it does not know; taken */
};
enum sim_qemu_streamed kelpie__sim_qemu_stream(struct sim_qemu_streamer *streamer, char byte);
/* Takes those of the first bytes that change nothing but the text. Gives their count. */
size_t kelpie__sim_qemu_stream_plain(struct sim_qemu_streamer *streamer, const char *bytes,
                                     size_t count);
void kelpie__sim_qemu_stream_reset(struct sim_qemu_streamer *streamer);

/* qemu_qmp.c */
void kelpie__sim_qemu_qmp_open(struct sim_qemu *qemu);  /* greets */
void kelpie__sim_qemu_qmp_serve(struct sim_qemu *qemu); /* from now on commands are executed */
void kelpie__sim_qemu_qmp_close(struct sim_qemu *qemu);
KELPIE_PRINTF(3, 4)
void kelpie__sim_qemu_event(struct sim_qemu *qemu, const char *name, const char *format, ...);
void kelpie__sim_qemu_return(struct sim_qemu *qemu, const char *json);
KELPIE_PRINTF(3, 4)
void kelpie__sim_qemu_refuse(struct sim_qemu *qemu, const char *class_name, const char *format,
                             ...);

/* The command's argument, as a string or a number. False: there is none such; it is refused. */
bool kelpie__sim_qemu_argument(struct sim_qemu *qemu, const char *name, char *out, size_t capacity);
bool kelpie__sim_qemu_argument_u64(struct sim_qemu *qemu, const char *name, uint64_t *out);

/* qemu_memory.c */
bool kelpie__sim_qemu_memory_open(struct sim_qemu *qemu);   /* false: no memory for it */
bool kelpie__sim_qemu_memory_freeze(struct sim_qemu *qemu); /* the image is the guest's of now */
void kelpie__sim_qemu_memory_thaw(struct sim_qemu *qemu);   /* the guest runs on */
/* The page of memory in which the index-th part of a guest's image lies. The first lies in page 0,
 * of whatever lineage the guest is. */
uint32_t kelpie__sim_qemu_memory_page(uint64_t lineage, uint32_t part);
/* The one device state that fits this image and this machine. */
void kelpie__sim_qemu_state_make(uint64_t memory_mib, uint32_t disk_count, const uint8_t *image,
                                 uint8_t out[SIM_QEMU_STATE_BYTES_MAX]);
/* The image that lies in the memory now. False: the base cannot be read. */
bool kelpie__sim_qemu_memory_image(struct sim_qemu *qemu, uint8_t out[SIM_GUEST_IMAGE_BYTES]);
void kelpie__sim_qemu_memory_locate(struct sim_qemu *qemu); /* answers gpa2hva */

/* qemu_state.c: answers its commands. */
void kelpie__sim_qemu_add_fd(struct sim_qemu *qemu);
void kelpie__sim_qemu_remove_fd(struct sim_qemu *qemu);
void kelpie__sim_qemu_getfd(struct sim_qemu *qemu);
void kelpie__sim_qemu_closefd(struct sim_qemu *qemu);
void kelpie__sim_qemu_save(struct sim_qemu *qemu);
void kelpie__sim_qemu_incoming(struct sim_qemu *qemu);

/* qemu_block.c: answers its commands. */
void kelpie__sim_qemu_blockdev_add(struct sim_qemu *qemu);
void kelpie__sim_qemu_blockdev_del(struct sim_qemu *qemu);
void kelpie__sim_qemu_blockdev_snapshot(struct sim_qemu *qemu);

/* qemu_command.c */
const struct sim_qemu_command *kelpie__sim_qemu_command(const char *name);
bool kelpie__sim_qemu_stop(struct sim_qemu *qemu); /* true: it ran */
void kelpie__sim_qemu_cont(struct sim_qemu *qemu);

#endif
