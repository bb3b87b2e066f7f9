/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Pause and resume of a libkrun VM. No libkrun.so.1 has a call for it (docs/backends.md), so that
 * the whole process stands still: virtual processors, devices, vsock. By the freezer of a cgroup of
 * its own where we may make one (Documentation/admin-guide/cgroup-v2.rst), which a stray SIGCONT
 * does not undo; by SIGSTOP elsewhere. Either is looked at until it is true. The guest's clocks go
 * on: its timers fire at once afterwards.
 *
 * The cgroup lives as long as the pause, so that a monitor that is killed leaves one only then; the
 * next pause on this host removes it.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "core/small_file.h"
#include "core/text.h"
#include "os/os_call.h"
#include "vmm/krun/instance.h"

#define FREEZE_TIMEOUT_NS (2000 * KELPIE_NS_PER_MS)
#define FREEZE_LOOK_NS (1 * KELPIE_NS_PER_MS)
#define FREEZE_SIGNAL_CONT 18
#define FREEZE_SIGNAL_STOP 19
#define FREEZE_PREFIX "kelpie-krun-"
#define FREEZE_MOUNT "/sys/fs/cgroup"
#define FREEZE_LEFT_MAX 4096u
#define FREEZE_THREAD_MAX 4096u

static int freeze_write(struct kelpie_os *os, const char *directory, const char *name,
                        const char *text) {
    KELPIE_ASSERT(directory[0] == '/');
    char path[KELPIE_KRUN_CGROUP_BYTES_MAX + 32];
    if (!kelpie__text_format(path, sizeof(path), "%s/%s", directory, name)) {
        return -ENAMETOOLONG;
    }
    int file = kelpie__os_open(os, KELPIE_OS_CWD, path, KELPIE_OS_OPEN_WRITE, 0);
    if (file < 0) {
        return file;
    }
    size_t length = strlen(text);
    int64_t count = kelpie__os_write(os, file, text, length);
    kelpie__ignore(kelpie__os_close(os, file)); /* the write told */
    KELPIE_ASSERT(count <= (int64_t)length);
    return count < 0 ? (int)count : 0;
}

/* The monitor's cgroup: "0::/path" of /proc/self/cgroup. */
static bool freeze_find_own(struct kelpie_krun *krun) {
    char text[KELPIE_KRUN_CGROUP_BYTES_MAX];
    struct kelpie_krun_freeze *freeze = &krun->freeze;
    if (kelpie__small_file_read_start(krun->os, "/proc/self/cgroup", text, sizeof(text)) <= 0) {
        return false;
    }
    const char *place = kelpie__text_has_prefix(text, "0::") ? text : strstr(text, "\n0::");
    if (place == NULL) {
        return false; /* cgroup v1 alone */
    }
    place = strchr(place, '/');
    size_t length = place == NULL ? 0 : strcspn(place, "\n");
    while (length > 0 && place[length - 1] == '/') {
        length -= 1;
    }
    KELPIE_ASSERT(length < sizeof(text));
    return place != NULL && kelpie__text_format(freeze->own, sizeof(freeze->own),
                                                FREEZE_MOUNT "%.*s", (int)length, place);
}

/* "kelpie-krun-PID" of a monitor that has ended. */
static bool freeze_is_left(struct kelpie_os *os, const char *name) {
    uint64_t pid = 0;
    if (!kelpie__text_has_prefix(name, FREEZE_PREFIX) ||
        !kelpie__text_u64(name + strlen(FREEZE_PREFIX), &pid) || pid == 0 || pid > INT32_MAX) {
        return false;
    }
    int process = kelpie__os_open_process(os, (int32_t)pid);
    if (process >= 0) {
        kelpie__ignore(kelpie__os_close(os, process)); /* it lives, or its number was given anew */
    }
    KELPIE_ASSERT(pid != 0);
    return process == -ESRCH;
}

/* Those of monitors that were killed during a pause. */
static void freeze_remove_left(struct kelpie_krun *krun) {
    char name[256];
    uint64_t cursor = 0;
    KELPIE_ASSERT(krun->freeze.own[0] == '/');
    int directory = kelpie__os_open(krun->os, KELPIE_OS_CWD, krun->freeze.own,
                                    KELPIE_OS_OPEN_READ | KELPIE_OS_OPEN_DIRECTORY, 0);
    if (directory < 0) {
        return;
    }
    for (uint32_t i = 0; i < FREEZE_LEFT_MAX; i += 1) {
        if (kelpie__os_list(krun->os, directory, &cursor, name, sizeof(name)) <= 0) {
            break;
        }
        if (freeze_is_left(krun->os, name)) {
            kelpie__ignore(kelpie__os_unlink(krun->os, directory, name, true));
        }
    }
    kelpie__ignore(kelpie__os_close(krun->os, directory));
}

/* Makes the cgroup that this monitor's VM is frozen in, and looks that it is one; -errno where we
 * may not. */
static int freeze_make(struct kelpie_krun *krun, char *out, size_t capacity) {
    struct kelpie_os_identity identity = {0};
    struct kelpie_os_stat stat;
    char file[KELPIE_KRUN_CGROUP_BYTES_MAX + 32];
    KELPIE_ASSERT(krun->freeze.own[0] == '/');
    KELPIE_ASSERT(capacity == KELPIE_KRUN_CGROUP_BYTES_MAX);
    int status = kelpie__os_identity(krun->os, &identity);
    if (status < 0 ||
        !kelpie__text_format(out, capacity, "%s/" FREEZE_PREFIX "%d", krun->freeze.own,
                             identity.pid) ||
        !kelpie__text_format(file, sizeof(file), "%s/cgroup.freeze", out)) {
        return status < 0 ? status : -ENAMETOOLONG;
    }
    status = kelpie__os_mkdir(krun->os, KELPIE_OS_CWD, out, 0755);
    if (status < 0 && status != -EEXIST) { /* a resume may have left it */
        return status;
    }
    status = kelpie__os_stat(krun->os, KELPIE_OS_CWD, file, false, &stat);
    if (status < 0) {
        kelpie__ignore(kelpie__os_unlink(krun->os, KELPIE_OS_CWD, out, true));
    }
    return status;
}

const char *kelpie__krun_freeze_probe(struct kelpie_krun *krun) {
    struct kelpie_krun_freeze *freeze = &krun->freeze;
    char tried[KELPIE_KRUN_CGROUP_BYTES_MAX];
    KELPIE_ASSERT(freeze->frozen[0] == '\0');
    KELPIE_ASSERT(!kelpie__timer_is_armed(&freeze->timer));
    freeze->has_cgroup = false;
    if (freeze_find_own(krun)) {
        freeze_remove_left(krun);
        freeze->has_cgroup = freeze_make(krun, tried, sizeof(tried)) == 0;
        if (freeze->has_cgroup) {
            kelpie__ignore(kelpie__os_unlink(krun->os, KELPIE_OS_CWD, tried, true));
        }
    }
    return freeze->has_cgroup ? "freezer" : "stop";
}

/* Back to where it was, and the cgroup away. */
static void freeze_leave(struct kelpie_krun *krun) {
    struct kelpie_krun_freeze *freeze = &krun->freeze;
    char pid[16];
    KELPIE_ASSERT(freeze->frozen[0] != '\0');
    KELPIE_ASSERT(freeze->has_cgroup);
    KELPIE_ASSERT(krun->process.pid > 0);
    kelpie__ignore(kelpie__text_format(pid, sizeof(pid), "%d", krun->process.pid));
    kelpie__ignore(freeze_write(krun->os, freeze->own, "cgroup.procs", pid));
    kelpie__ignore(kelpie__os_unlink(krun->os, KELPIE_OS_CWD, freeze->frozen, true));
    freeze->frozen[0] = '\0';
}

static int freeze_begin(struct kelpie_krun *krun) {
    KELPIE_ASSERT(krun->process.pid > 0);
    struct kelpie_krun_freeze *freeze = &krun->freeze;
    char pid[16];
    if (!freeze->has_cgroup) {
        return kelpie__os_signal(krun->os, krun->process.handle,
                                 freeze->is_wanted ? FREEZE_SIGNAL_STOP : FREEZE_SIGNAL_CONT);
    }
    if (!freeze->is_wanted) {
        return freeze_write(krun->os, freeze->frozen, "cgroup.freeze", "0");
    }
    KELPIE_ASSERT(freeze->frozen[0] == '\0');
    int status = freeze_make(krun, freeze->frozen, sizeof(freeze->frozen));
    if (status < 0) {
        freeze->frozen[0] = '\0';
        return status;
    }
    kelpie__ignore(kelpie__text_format(pid, sizeof(pid), "%d", krun->process.pid));
    status = freeze_write(krun->os, freeze->frozen, "cgroup.procs", pid);
    if (status == 0) {
        status = freeze_write(krun->os, freeze->frozen, "cgroup.freeze", "1");
    }
    if (status < 0) {
        freeze_leave(krun);
    }
    return status;
}

/* proc(5): the state is the word behind the last parenthesis of the name. */
static bool freeze_thread_is_stopped(struct kelpie_krun *krun, const char *thread) {
    char path[64];
    char text[512];
    bool fits = kelpie__text_format(path, sizeof(path), "/proc/%d/task/%.16s/stat",
                                    krun->process.pid, thread);
    KELPIE_ASSERT(fits);
    if (kelpie__small_file_read_start(krun->os, path, text, sizeof(text)) <= 0) {
        return true; /* it has ended */
    }
    const char *name_end = strrchr(text, ')');
    return name_end != NULL && (name_end[2] == 'T' || name_end[2] == 'Z' || name_end[2] == 'X');
}

/* How many threads are stopped is told by each; one that runs is enough to say no. */
static bool freeze_is_stopped(struct kelpie_krun *krun) {
    char path[64];
    char name[32];
    uint64_t cursor = 0;
    KELPIE_ASSERT(krun->process.pid > 0);
    bool fits = kelpie__text_format(path, sizeof(path), "/proc/%d/task", krun->process.pid);
    KELPIE_ASSERT(fits);
    int directory = kelpie__os_open(krun->os, KELPIE_OS_CWD, path,
                                    KELPIE_OS_OPEN_READ | KELPIE_OS_OPEN_DIRECTORY, 0);
    bool is_stopped = directory >= 0;
    for (uint32_t i = 0; is_stopped && i < FREEZE_THREAD_MAX; i += 1) {
        if (kelpie__os_list(krun->os, directory, &cursor, name, sizeof(name)) <= 0) {
            break;
        }
        is_stopped = freeze_thread_is_stopped(krun, name);
    }
    if (directory >= 0) {
        kelpie__ignore(kelpie__os_close(krun->os, directory));
    }
    return is_stopped;
}

static bool freeze_is_done(struct kelpie_krun *krun) {
    KELPIE_ASSERT(krun->vmm.is_changing);
    struct kelpie_krun_freeze *freeze = &krun->freeze;
    char path[KELPIE_KRUN_CGROUP_BYTES_MAX + 32];
    char text[256];
    if (!freeze->has_cgroup) {
        return freeze_is_stopped(krun) == freeze->is_wanted;
    }
    KELPIE_ASSERT(freeze->frozen[0] != '\0');
    return kelpie__text_format(path, sizeof(path), "%s/cgroup.events", freeze->frozen) &&
           kelpie__small_file_read_start(krun->os, path, text, sizeof(text)) > 0 &&
           strstr(text, freeze->is_wanted ? "frozen 1" : "frozen 0") != NULL;
}

static void freeze_finish(struct kelpie_krun *krun) {
    KELPIE_ASSERT(krun->vmm.is_changing);
    struct kelpie_krun_freeze *freeze = &krun->freeze;
    if (!freeze->is_wanted && freeze->has_cgroup) {
        freeze_leave(krun);
    }
    kelpie__vmm_emit(&krun->vmm, &(struct kelpie_vmm_event){
                                     .type = freeze->is_wanted ? KELPIE_VMM_EVENT_PAUSED
                                                               : KELPIE_VMM_EVENT_RESUMED});
    kelpie__vmm_emit_done(&krun->vmm, 0, NULL);
}

/* Undone: a VM that would not stand still goes on; one that would not go on stays frozen. */
static void freeze_fail(struct kelpie_krun *krun) {
    struct kelpie_krun_freeze *freeze = &krun->freeze;
    struct kelpie_error error = {0};
    KELPIE_ASSERT(krun->vmm.is_changing);
    KELPIE_ASSERT(!freeze->has_cgroup || freeze->frozen[0] != '\0');
    int status = kelpie__fail(&error, KELPIE_E_TIMEOUT, 0,
                              "the VM's process did not %s within "
                              "%lld ms",
                              freeze->is_wanted ? "stand still" : "go on",
                              (long long)(FREEZE_TIMEOUT_NS / KELPIE_NS_PER_MS));
    if (freeze->is_wanted && freeze->has_cgroup) {
        kelpie__ignore(freeze_write(krun->os, freeze->frozen, "cgroup.freeze", "0"));
        freeze_leave(krun);
    } else if (freeze->has_cgroup) {
        kelpie__ignore(freeze_write(krun->os, freeze->frozen, "cgroup.freeze", "1"));
    } else {
        kelpie__ignore(
            kelpie__os_signal(krun->os, krun->process.handle,
                              freeze->is_wanted ? FREEZE_SIGNAL_CONT : FREEZE_SIGNAL_STOP));
    }
    kelpie__vmm_emit_done(&krun->vmm, status, &error);
}

static void freeze_look(void *context) {
    struct kelpie_krun *krun = context;
    struct kelpie_krun_freeze *freeze = &krun->freeze;
    KELPIE_ASSERT(krun->vmm.is_changing);
    if (freeze_is_done(krun)) {
        freeze_finish(krun);
    } else if (krun->loop->now_ns >= freeze->deadline_ns) {
        freeze_fail(krun);
    } else {
        kelpie__timer_arm(krun->loop, &freeze->timer, krun->loop->now_ns + FREEZE_LOOK_NS,
                          freeze_look, krun);
    }
}

static int freeze_change(struct kelpie_krun *krun, bool is_wanted, struct kelpie_error *error) {
    KELPIE_ASSERT(!kelpie__timer_is_armed(&krun->freeze.timer));
    KELPIE_ASSERT(krun->process.handle >= 0);
    struct kelpie_krun_freeze *freeze = &krun->freeze;
    freeze->is_wanted = is_wanted;
    int status = freeze_begin(krun);
    if (status < 0 && is_wanted && freeze->has_cgroup) { /* it may not move there: by signal */
        freeze->has_cgroup = false;
        status = freeze_begin(krun);
    }
    if (status < 0) {
        return kelpie__fail(error, KELPIE_E_IO, -status, "%s the VM's process by %s",
                            is_wanted ? "stop" : "continue",
                            freeze->has_cgroup ? "its cgroup" : "signal");
    }
    freeze->deadline_ns = krun->loop->now_ns + FREEZE_TIMEOUT_NS;
    kelpie__timer_arm(krun->loop, &freeze->timer, krun->loop->now_ns, freeze_look, krun);
    return 0;
}

int kelpie__krun_pause(struct kelpie_vmm *vmm, struct kelpie_error *error) {
    return freeze_change(kelpie__krun_of(vmm), true, error);
}

int kelpie__krun_resume(struct kelpie_vmm *vmm, struct kelpie_error *error) {
    return freeze_change(kelpie__krun_of(vmm), false, error);
}

void kelpie__krun_freeze_end(struct kelpie_krun *krun) {
    kelpie__timer_disarm(krun->loop, &krun->freeze.timer);
    if (krun->freeze.frozen[0] != '\0') {
        kelpie__ignore(kelpie__os_unlink(krun->os, KELPIE_OS_CWD, krun->freeze.frozen, true));
        krun->freeze.frozen[0] = '\0';
    }
    KELPIE_ASSERT(!kelpie__timer_is_armed(&krun->freeze.timer));
}
