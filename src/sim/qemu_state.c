/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Saving and loading in the simulated QEMU: see qemu.h. The device state fits one image in the
 * guest's memory; the image is the guest (guest.h). As the real one, this one loads a state that is
 * damaged or cut off a little, says that all went well, and has a guest that is not right in the
 * head.
 */
#include <errno.h>
#include <string.h>

#include "core/checksum.h"
#include "core/limits.h"
#include "core/text.h"
#include "os/os_call.h"
#include "sim/qemu.h"

#define STATE_TAIL_BYTES 6u /* a footer, the number of a section, the end */
#define STATE_SECTION_FOOTER 0x7e
#define STATE_HUGE_BYTES (UINT64_C(1) << 33)
#define STATE_LOAD_NS (6 * KELPIE_NS_PER_MS)
#define STATE_SIGNAL_BUS 7
#define STATE_WRITES_MAX 64u
#define STATE_NO_HANDLE "No file descriptor supplied via SCM_RIGHTS"

static const uint8_t state_magic[8] = {'Q', 'E', 'V', 'M', 0, 0, 0, 3};

/* ---- handles --------------------------------------------------------------------------------- */

static struct sim_qemu_fd *state_fd(struct sim_qemu *qemu, uint64_t set, const char *name) {
    for (uint32_t i = 0; i < SIM_QEMU_FDS_MAX; i += 1) {
        struct sim_qemu_fd *fd = &qemu->fds[i];
        if (fd->handle != KELPIE_OS_NO_HANDLE && fd->set == set && strcmp(fd->name, name) == 0) {
            return fd;
        }
    }
    return NULL;
}

/* The handle that came with the command, in a free place. NULL: refused. */
static struct sim_qemu_fd *state_take_fd(struct sim_qemu *qemu) {
    if (qemu->qmp.passed == KELPIE_OS_NO_HANDLE) {
        kelpie__sim_qemu_refuse(qemu, "GenericError", STATE_NO_HANDLE);
        return NULL;
    }
    for (uint32_t i = 0; i < SIM_QEMU_FDS_MAX; i += 1) {
        struct sim_qemu_fd *fd = &qemu->fds[i];
        if (fd->handle == KELPIE_OS_NO_HANDLE) {
            *fd = (struct sim_qemu_fd){.handle = qemu->qmp.passed};
            qemu->qmp.passed = KELPIE_OS_NO_HANDLE;
            return fd;
        }
    }
    kelpie__sim_qemu_refuse(qemu, "GenericError", "too many file descriptors");
    return NULL;
}

static void state_drop_fd(struct sim_qemu *qemu, struct sim_qemu_fd *fd) {
    KELPIE_ASSERT(fd->handle != KELPIE_OS_NO_HANDLE);
    kelpie__ignore(kelpie__os_close(qemu->os, fd->handle));
    fd->handle = KELPIE_OS_NO_HANDLE;
}

void kelpie__sim_qemu_add_fd(struct sim_qemu *qemu) {
    uint64_t set = 0;
    char text[64];
    if (!kelpie__sim_qemu_argument_u64(qemu, "fdset-id", &set)) {
        return;
    }
    struct sim_qemu_fd *fd = state_take_fd(qemu);
    if (fd != NULL) {
        fd->set = set;
        bool is_whole = kelpie__text_format(text, sizeof(text), "{\"fd\": %d, \"fdset-id\": %llu}",
                                            fd->handle, (unsigned long long)set);
        KELPIE_ASSERT(is_whole && fd->name[0] == '\0');
        kelpie__sim_qemu_return(qemu, text);
    }
}

void kelpie__sim_qemu_remove_fd(struct sim_qemu *qemu) {
    uint64_t set = 0;
    if (!kelpie__sim_qemu_argument_u64(qemu, "fdset-id", &set)) {
        return;
    }
    struct sim_qemu_fd *fd = state_fd(qemu, set, "");
    if (fd == NULL) {
        kelpie__sim_qemu_refuse(qemu, "GenericError",
                                "File descriptor named 'fdset-id:%llu' not found",
                                (unsigned long long)set);
        return;
    }
    state_drop_fd(qemu, fd);
    kelpie__sim_qemu_return(qemu, "{}");
}

void kelpie__sim_qemu_getfd(struct sim_qemu *qemu) {
    char name[sizeof(qemu->fds[0].name)];
    if (!kelpie__sim_qemu_argument(qemu, "fdname", name, sizeof(name))) {
        return;
    }
    struct sim_qemu_fd *old = state_fd(qemu, 0, name);
    struct sim_qemu_fd *fd = state_take_fd(qemu);
    if (fd != NULL) {
        if (old != NULL) {
            state_drop_fd(qemu, old);
        }
        memcpy(fd->name, name, sizeof(name));
        KELPIE_ASSERT(fd->set == 0);
        kelpie__sim_qemu_return(qemu, "{}");
    }
}

void kelpie__sim_qemu_closefd(struct sim_qemu *qemu) {
    char name[sizeof(qemu->fds[0].name)];
    if (!kelpie__sim_qemu_argument(qemu, "fdname", name, sizeof(name))) {
        return;
    }
    struct sim_qemu_fd *fd = state_fd(qemu, 0, name);
    if (fd == NULL) {
        kelpie__sim_qemu_refuse(qemu, "GenericError", "File descriptor named '%s' not found", name);
        return;
    }
    state_drop_fd(qemu, fd);
    kelpie__sim_qemu_return(qemu, "{}");
}

/* ---- the device state ------------------------------------------------------------------------ */

static uint64_t state_mix(uint64_t value) {
    value = (value ^ (value >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    value = (value ^ (value >> 27)) * UINT64_C(0x94d049bb133111eb);
    return value ^ (value >> 31);
}

static size_t state_size(const struct sim_qemu *qemu) {
    return SIM_QEMU_STATE_BYTES + (size_t)qemu->options.disk_count * SIM_QEMU_STATE_DISK_BYTES;
}

void kelpie__sim_qemu_state_make(uint64_t memory_mib, uint32_t disk_count, const uint8_t *image,
                                 uint8_t out[SIM_QEMU_STATE_BYTES_MAX]) {
    uint64_t key = state_mix(memory_mib * 64 + disk_count) ^
                   kelpie__checksum_u64(image, SIM_GUEST_IMAGE_BYTES);
    size_t size = SIM_QEMU_STATE_BYTES + (size_t)disk_count * SIM_QEMU_STATE_DISK_BYTES;
    KELPIE_ASSERT(size <= SIM_QEMU_STATE_BYTES_MAX);
    memset(out, 0, SIM_QEMU_STATE_BYTES_MAX);
    memcpy(out, state_magic, sizeof(state_magic));
    for (size_t at = sizeof(state_magic); at + 8 <= size; at += 8) {
        const uint64_t word = state_mix(key + at);
        memcpy(out + at, &word, sizeof(word));
    }
    out[size - STATE_TAIL_BYTES] = STATE_SECTION_FOOTER;
    memset(out + size - STATE_TAIL_BYTES + 1, 0, STATE_TAIL_BYTES - 1);
}

static int state_write(struct sim_qemu *qemu, int file, const uint8_t *bytes, size_t count) {
    size_t done = 0;
    for (uint32_t i = 0; i < STATE_WRITES_MAX && done < count; i += 1) {
        int64_t written = kelpie__os_pwrite(qemu->os, file, bytes + done, count - done, done);
        if (written <= 0) {
            return written < 0 ? (int)written : -EIO;
        }
        done += (size_t)written;
    }
    return done == count ? 0 : -EIO;
}

/* The words of xen-save-devices-state when anything of it fails are these. */
static void state_save_to(struct sim_qemu *qemu, int file) {
    uint8_t state[SIM_QEMU_STATE_BYTES_MAX];
    size_t count = state_size(qemu);
    const char *fault = qemu->qmp.fault;
    if (!kelpie__sim_qemu_memory_freeze(qemu)) {
        kelpie__sim_qemu_refuse(qemu, "GenericError", "An IO error has occurred");
        return;
    }
    kelpie__sim_qemu_state_make(qemu->options.memory_mib, qemu->options.disk_count,
                                qemu->memory.image, state);
    if (kelpie__sim_qemu_fault_is(fault, "corrupt")) {
        uint64_t drawn = kelpie__sim_draw(qemu->process->machine->world, SIM_STREAM_QEMU);
        state[8 + drawn % (count - 8)] ^= (uint8_t)(1u << (drawn >> 61));
    }
    if (kelpie__sim_qemu_fault_is(fault, "short")) {
        count -=
            1 + (size_t)kelpie__sim_below(qemu->process->machine->world, SIM_STREAM_QEMU, count);
    }
    int status = state_write(qemu, file, state, count);
    if (status == 0 && kelpie__sim_qemu_fault_is(fault, "huge")) {
        status = kelpie__os_truncate(qemu->os, file, STATE_HUGE_BYTES);
    }
    if (status < 0) {
        kelpie__sim_qemu_refuse(qemu, "GenericError", "An IO error has occurred");
        return;
    }
    kelpie__sim_qemu_return(qemu, "{}");
}

void kelpie__sim_qemu_save(struct sim_qemu *qemu) {
    static const char prefix[] = "/dev/fdset/";
    char path[SIM_QEMU_PROBLEM_BYTES];
    uint64_t set = 0;
    if (!kelpie__sim_qemu_argument(qemu, "filename", path, sizeof(path))) {
        return;
    }
    const struct sim_qemu_fd *fd =
        kelpie__text_has_prefix(path, prefix) && kelpie__text_u64(path + sizeof(prefix) - 1, &set)
            ? state_fd(qemu, set, "")
            : NULL;
    if (fd == NULL) {
        kelpie__sim_qemu_refuse(qemu, "GenericError",
                                "Unable to open %s: No such file or directory", path);
        return;
    }
    /* One that runs stands still for so long, and says so. */
    bool was_running = kelpie__sim_qemu_stop(qemu);
    KELPIE_ASSERT(fd->handle >= 0);
    state_save_to(qemu, fd->handle);
    if (was_running) {
        kelpie__sim_qemu_cont(qemu);
    }
}

/* ---- loading --------------------------------------------------------------------------------- */

static void state_event(struct sim_qemu *qemu, const char *status) {
    if (qemu->qmp.has_events) {
        kelpie__sim_qemu_event(qemu, "MIGRATION", "{\"status\": \"%s\"}", status);
    }
}

/* As QEMU goes when it cannot make sense of a state: its reason is on stderr only. */
static void state_load_failed(struct sim_qemu *qemu, const char *first, const char *why) {
    state_event(qemu, "failed");
    if (first[0] != '\0') {
        kelpie__sim_qemu_say(qemu, "%s: %s\n", SIM_QEMU_PROGRAM, first);
    }
    kelpie__sim_qemu_say(qemu, "%s: load of migration failed: %s\n", SIM_QEMU_PROGRAM, why);
    kelpie__sim_qemu_exit(qemu, 1);
}

/* Damage that QEMU does not notice: the guest will. */
static void state_damage(struct sim_qemu *qemu, uint8_t *image) {
    uint64_t drawn = kelpie__sim_draw(qemu->process->machine->world, SIM_STREAM_QEMU);
    size_t at = 128 + (size_t)(drawn % (SIM_GUEST_IMAGE_BYTES - 128));
    image[at] ^= (uint8_t)(1u << (drawn >> 61));
}

static void state_load_guest(struct sim_qemu *qemu, uint8_t *image, bool is_good) {
    uint64_t argument = 0;
    KELPIE_ASSERT(qemu->guest == NULL);
    qemu->load_fault = kelpie__sim_qemu_fault(qemu, "guest.load", &argument);
    if (!is_good || kelpie__sim_qemu_fault_is(qemu->load_fault, "corrupt") ||
        kelpie__sim_qemu_fault_is(qemu->incoming_fault, "corrupt")) {
        state_damage(qemu, image);
    }
    struct sim_guest *guest =
        kelpie__sim_qemu_fault_is(qemu->incoming_fault, "short")
            ? kelpie__sim_qemu_guest_create(qemu)
            : kelpie__sim_guest_load(qemu->process, image, SIM_GUEST_IMAGE_BYTES);
    if (guest != NULL) { /* what it had written since lies in layers that are not its own */
        kelpie__sim_qemu_guest_move_disks(qemu, guest);
    }
    if (guest != NULL && !kelpie__sim_qemu_guest_attach(qemu, guest)) {
        kelpie__sim_qemu_exit(qemu, 1);
    }
}

struct state_buffers {
    uint8_t image[SIM_GUEST_IMAGE_BYTES];
    uint8_t wanted[SIM_QEMU_STATE_BYTES_MAX];
    uint8_t found[SIM_QEMU_STATE_BYTES_MAX + 1];
};

/* False: QEMU ends. */
static bool state_load(struct sim_qemu *qemu, struct state_buffers *buffers) {
    size_t size = state_size(qemu);
    int64_t count =
        kelpie__os_pread(qemu->os, qemu->load, buffers->found, sizeof(buffers->found), 0);
    state_event(qemu, "active");
    if (count < 4 || memcmp(buffers->found, state_magic, 4) != 0) {
        state_load_failed(qemu, "Not a migration stream", "Invalid argument");
        return false;
    }
    if (count < (int64_t)sizeof(state_magic) ||
        memcmp(buffers->found, state_magic, sizeof(state_magic)) != 0) {
        state_load_failed(qemu, "Unsupported migration stream version", "Operation not supported");
        return false;
    }
    if (qemu->options.has_configuration) { /* xen-save-devices-state writes none */
        state_load_failed(qemu, "Configuration section missing", "Invalid argument");
        return false;
    }
    if ((size_t)count <= size * 6 / 10) {
        state_load_failed(qemu, "", "Input/output error");
        return false;
    }
    if (!kelpie__sim_qemu_memory_image(qemu, buffers->image)) {
        kelpie__sim_qemu_die(qemu, STATE_SIGNAL_BUS);
        return false;
    }
    kelpie__sim_qemu_state_make(qemu->options.memory_mib, qemu->options.disk_count, buffers->image,
                                buffers->wanted);
    bool is_good = (size_t)count == size && memcmp(buffers->found, buffers->wanted, size) == 0;
    state_load_guest(qemu, buffers->image, is_good);
    return !qemu->is_ended;
}

static void state_load_due(void *context) {
    struct sim_qemu *qemu = context;
    KELPIE_ASSERT(qemu->state == SIM_QEMU_INMIGRATE && qemu->load != KELPIE_OS_NO_HANDLE);
    struct state_buffers *buffers = kelpie__alloc_raw(qemu->os, sizeof(*buffers));
    if (buffers == NULL) {
        kelpie__sim_qemu_exit(qemu, 1);
        return;
    }
    bool is_loaded = state_load(qemu, buffers);
    kelpie__free(qemu->os, buffers, sizeof(*buffers));
    if (is_loaded) {
        qemu->state = SIM_QEMU_PAUSED;
        state_event(qemu, "completed");
        if (!qemu->options.is_stopped) {
            kelpie__sim_qemu_cont(qemu);
        }
    }
}

void kelpie__sim_qemu_incoming(struct sim_qemu *qemu) {
    static const char prefix[] = "fd:";
    char uri[64];
    if (!kelpie__sim_qemu_argument(qemu, "uri", uri, sizeof(uri))) {
        return;
    }
    if (qemu->state != SIM_QEMU_INMIGRATE || qemu->load != KELPIE_OS_NO_HANDLE) {
        kelpie__sim_qemu_refuse(qemu, "GenericError",
                                qemu->options.is_incoming
                                    ? "The incoming migration has already been started"
                                    : "'-incoming' was not specified on the command line");
        return;
    }
    /* This one whoever asked for events or not, and before the handle is looked for. */
    kelpie__sim_qemu_event(qemu, "MIGRATION", "{\"status\": \"setup\"}");
    struct sim_qemu_fd *fd =
        kelpie__text_has_prefix(uri, prefix) ? state_fd(qemu, 0, uri + sizeof(prefix) - 1) : NULL;
    if (fd == NULL) {
        kelpie__sim_qemu_refuse(qemu, "GenericError",
                                "File descriptor named '%s' has not been "
                                "found",
                                uri + strcspn(uri, ":") + (strchr(uri, ':') != NULL ? 1 : 0));
        return;
    }
    qemu->load = fd->handle;
    fd->handle = KELPIE_OS_NO_HANDLE;
    qemu->incoming_fault = qemu->qmp.fault;
    kelpie__timer_arm(qemu->loop, &qemu->load_timer,
                      qemu->loop->now_ns + kelpie__sim_qemu_about(qemu, STATE_LOAD_NS),
                      state_load_due, qemu);
    kelpie__sim_qemu_return(qemu, "{}");
}
