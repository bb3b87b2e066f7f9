/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * The directory of a libkrun VM, below the VM's own: the socket that its agent dials, and the root
 * that libraries before 1.19 need to start the agent from. The user's root file system is a disk,
 * and never this one.
 */
#include <errno.h>
#include <string.h>

#include "core/text.h"
#include "os/os_call.h"
#include "vmm/krun/instance.h"

#define PLACE_ROOT "krun-root" /* beside the other: directories of a VM are two deep at most */
#define PLACE_AGENT "agent"
#define PLACE_COPY_BYTES (64u * 1024u)
#define PLACE_AGENT_BYTES_MAX (UINT64_C(64) << 20)
#define PLACE_BACKLOG 4

/* Where the agent mounts what a kernel and a user's root file system give. */
static const char *const place_directories[] = {"dev", "proc", "sys", "run", "tmp", ".kelpie"};

static int place_open(struct kelpie_os *os, int parent, const char *name) {
    return kelpie__os_open(os, parent, name, KELPIE_OS_OPEN_READ | KELPIE_OS_OPEN_DIRECTORY, 0);
}

static int place_copy_bytes(struct kelpie_os *os, int from, int to) {
    KELPIE_ASSERT(from >= 0);
    KELPIE_ASSERT(to >= 0);
    static_assert(PLACE_AGENT_BYTES_MAX % PLACE_COPY_BYTES == 0, "whole pieces");
    char *bytes = kelpie__alloc_raw(os, PLACE_COPY_BYTES);
    int64_t count = bytes == NULL ? -ENOMEM : 1;
    for (uint64_t offset = 0; count > 0 && offset < PLACE_AGENT_BYTES_MAX;) {
        count = kelpie__os_pread(os, from, bytes, PLACE_COPY_BYTES, offset);
        if (count > 0) {
            count = kelpie__os_pwrite(os, to, bytes, (size_t)count, offset);
            offset += count > 0 ? (uint64_t)count : 0;
        }
    }
    kelpie__free(os, bytes, PLACE_COPY_BYTES);
    return count > 0 ? -EFBIG : (int)count;
}

/* A copy: the guest may write what its own VM has, never what others start from. */
static int place_copy_agent(struct kelpie_os *os, const char *agent, int directory) {
    KELPIE_ASSERT(directory >= 0);
    int from = kelpie__os_open(os, KELPIE_OS_CWD, agent, KELPIE_OS_OPEN_READ, 0);
    if (from < 0) {
        return from;
    }
    int to = kelpie__os_open(
        os, directory, PLACE_AGENT,
        KELPIE_OS_OPEN_WRITE | KELPIE_OS_OPEN_CREATE | KELPIE_OS_OPEN_EXCLUSIVE, 0755);
    int status = to < 0 ? to : place_copy_bytes(os, from, to);
    kelpie__ignore(kelpie__os_close(os, from)); /* it was only read */
    if (to >= 0) {
        int closed = kelpie__os_close(os, to);
        status = status < 0 ? status : closed;
    }
    return status;
}

static int place_make_root(struct kelpie_krun *krun) {
    KELPIE_ASSERT(krun->vm_directory >= 0);
    int status = kelpie__os_mkdir(krun->os, krun->vm_directory, PLACE_ROOT, 0755);
    int root = status < 0 ? status : place_open(krun->os, krun->vm_directory, PLACE_ROOT);
    if (root < 0) {
        return root;
    }
    status = place_copy_agent(krun->os, krun->agent, root);
    for (size_t i = 0; status >= 0 && i < KELPIE_ARRAY_COUNT(place_directories); i += 1) {
        status = kelpie__os_mkdir(krun->os, root, place_directories[i], 0755);
    }
    kelpie__ignore(kelpie__os_close(krun->os, root));
    KELPIE_ASSERT(status <= 0);
    return status;
}

static void place_empty_root(struct kelpie_krun *krun) {
    KELPIE_ASSERT(krun->vm_directory >= 0);
    int root = place_open(krun->os, krun->vm_directory, PLACE_ROOT);
    if (root < 0) {
        return;
    }
    for (size_t i = 0; i < KELPIE_ARRAY_COUNT(place_directories); i += 1) {
        kelpie__ignore(kelpie__os_unlink(krun->os, root, place_directories[i], true));
    }
    kelpie__ignore(kelpie__os_unlink(krun->os, root, PLACE_AGENT, false));
    kelpie__ignore(kelpie__os_close(krun->os, root));
    kelpie__ignore(kelpie__os_unlink(krun->os, krun->vm_directory, PLACE_ROOT, true));
}

/* What stays in spite of this goes with the VM's directory. */
void kelpie__krun_place_remove(struct kelpie_krun *krun) {
    if (krun->place != KELPIE_OS_NO_HANDLE) {
        kelpie__ignore(kelpie__os_unlink(krun->os, krun->place, KELPIE_KRUN_SOCKET_NAME, false));
        kelpie__ignore(kelpie__os_close(krun->os, krun->place));
        krun->place = KELPIE_OS_NO_HANDLE;
    }
    if (krun->vm_directory != KELPIE_OS_NO_HANDLE) {
        place_empty_root(krun);
        kelpie__ignore(
            kelpie__os_unlink(krun->os, krun->vm_directory, KELPIE_KRUN_PLACE_NAME, true));
        kelpie__ignore(kelpie__os_close(krun->os, krun->vm_directory));
        krun->vm_directory = KELPIE_OS_NO_HANDLE;
    }
    KELPIE_ASSERT(krun->vm_directory == KELPIE_OS_NO_HANDLE);
    KELPIE_ASSERT(krun->place == KELPIE_OS_NO_HANDLE);
}

/* Opens it, made or found: a monitor that was killed left its own. */
static int place_open_all(struct kelpie_krun *krun, const char *vm_directory) {
    KELPIE_ASSERT(krun->place == KELPIE_OS_NO_HANDLE);
    KELPIE_ASSERT(krun->vm_directory == KELPIE_OS_NO_HANDLE);
    krun->vm_directory = place_open(krun->os, KELPIE_OS_CWD, vm_directory);
    if (krun->vm_directory < 0) {
        int status = krun->vm_directory;
        krun->vm_directory = KELPIE_OS_NO_HANDLE;
        return status;
    }
    int status = kelpie__os_mkdir(krun->os, krun->vm_directory, KELPIE_KRUN_PLACE_NAME, 0700);
    if (status < 0 && status != -EEXIST) {
        return status;
    }
    int place = place_open(krun->os, krun->vm_directory, KELPIE_KRUN_PLACE_NAME);
    if (place < 0) {
        return place;
    }
    krun->place = place;
    place_empty_root(krun);
    kelpie__ignore(kelpie__os_unlink(krun->os, krun->place, KELPIE_KRUN_SOCKET_NAME, false));
    return 0;
}

int kelpie__krun_place_make(struct kelpie_krun *krun, const struct kelpie_vmm_spec *spec,
                            struct kelpie_error *error) {
    KELPIE_ASSERT(krun->place == KELPIE_OS_NO_HANDLE);
    KELPIE_ASSERT(krun->listener == KELPIE_OS_NO_HANDLE);
    if (!kelpie__text_format(krun->staging, sizeof(krun->staging), "%s/%s", spec->vm_directory,
                             PLACE_ROOT) ||
        !kelpie__text_join(krun->program, sizeof(krun->program), spec->libexec_directory,
                           "kelpie-krun") ||
        !kelpie__text_join(krun->agent, sizeof(krun->agent), spec->libexec_directory,
                           "kelpie-agent")) {
        return kelpie__fail(error, KELPIE_E_LIMIT, 0, "the path of the VM's directory is too long");
    }
    int status = place_open_all(krun, spec->vm_directory);
    if (status == 0) {
        status = place_make_root(krun);
    }
    if (status == 0) {
        status = kelpie__os_listen(krun->os, krun->place, KELPIE_KRUN_SOCKET_NAME, PLACE_BACKLOG);
    }
    if (status < 0) {
        return kelpie__fail(error, KELPIE_E_BOOT, -status, "make \"%s/%s\" for libkrun",
                            spec->vm_directory, KELPIE_KRUN_PLACE_NAME);
    }
    krun->listener = status;
    return 0;
}
