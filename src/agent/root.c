/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * The root file system: see root.h. A read-only base (EROFS, or ext4) gets its writable layer from
 * overlayfs, on a tmpfs or on a disk of the VM's own. A writable ext4 disk without a layer is the
 * root itself.
 */
#include "agent/root.h"

#include <errno.h>
#include <linux/mount.h>
#include <stdio.h>
#include <string.h>

#include "agent/boot.h"
#include "agent/files.h"
#include "os/os_call.h"

#define ROOT_PLACES "/.kelpie"
#define ROOT_NEW "/.kelpie/root"
#define ROOT_LOWER "/.kelpie/lower"
#define ROOT_LAYER "/.kelpie/layer"
#define ROOT_DISK_COUNT_MAX 64
#define ROOT_PATH_BYTES_MAX 320
#define ROOT_UPPER_SERIAL "upper"
#define ROOT_DISKS_VARIABLE "KELPIE_DISKS" /* of the kernel's command line */
#define ROOT_NAMED_COUNT_MAX 8

/* libkrun gives its disks serial numbers of its own. The names that its VM's owner gave stand in
 * this variable, in the order of the devices, separated by commas. False: it has none of this name.
 */
static bool root_find_named(struct kelpie_os *os, const char *name, char *out, size_t capacity) {
    const char *names = kelpie__os_environment(os, ROOT_DISKS_VARIABLE);
    size_t name_length = strlen(name);
    KELPIE_ASSERT(name_length > 0);
    for (int i = 0; names != NULL && i < ROOT_NAMED_COUNT_MAX; i += 1) {
        size_t length = strcspn(names, ",");
        if (length == name_length && strncmp(names, name, length) == 0) {
            int written = snprintf(out, capacity, "/dev/vd%c", 'a' + i);
            KELPIE_ASSERT(written > 0);
            KELPIE_ASSERT((size_t)written < capacity);
            return true;
        }
        names = names[length] == ',' ? names + length + 1 : NULL;
    }
    return false;
}

/* Finds the disk with this serial number: its path under /dev. Disks are named in order of
 * discovery, which is no promise. */
static int root_find_disk(struct kelpie_os *os, const char *serial, char *out, size_t capacity,
                          struct kelpie_error *error) {
    KELPIE_ASSERT(serial[0] != '\0');
    if (root_find_named(os, serial, out, capacity)) {
        return 0;
    }
    int directory = kelpie__os_open(os, KELPIE_OS_CWD, "/sys/block",
                                    KELPIE_OS_OPEN_READ | KELPIE_OS_OPEN_DIRECTORY, 0);
    if (directory < 0) {
        return kelpie__fail(error, KELPIE_E_BOOT, -directory, "open \"/sys/block\"");
    }
    uint64_t cursor = 0;
    int status = 1;
    bool is_found = false;
    for (uint32_t i = 0; i < ROOT_DISK_COUNT_MAX && status > 0 && !is_found; i += 1) {
        char entry[256];
        char path[ROOT_PATH_BYTES_MAX];
        char found[32];
        status = kelpie__os_list(os, directory, &cursor, entry, sizeof(entry));
        if (status <= 0 || strncmp(entry, "vd", 2) != 0) {
            continue;
        }
        int length = snprintf(path, sizeof(path), "/sys/block/%s/serial", entry);
        KELPIE_ASSERT(length > 0);
        KELPIE_ASSERT((size_t)length < sizeof(path));
        is_found = kelpie__agent_read_text(os, path, found, sizeof(found)) > 0 &&
                   strcmp(found, serial) == 0;
        if (is_found) {
            length = snprintf(out, capacity, "/dev/%s", entry);
            KELPIE_ASSERT(length > 0);
            KELPIE_ASSERT((size_t)length < capacity);
        }
    }
    kelpie__ignore(kelpie__os_close(os, directory)); /* it was only read */
    if (status < 0) {
        return kelpie__fail(error, KELPIE_E_BOOT, -status, "list \"/sys/block\"");
    }
    if (!is_found) {
        return kelpie__fail(error, KELPIE_E_BOOT, 0, "the guest has no disk with serial \"%s\"",
                            serial);
    }
    return 0;
}

static int root_mount(struct kelpie_os *os, const struct kelpie_agent_root *root,
                      const char *target, bool is_read_only, struct kelpie_error *error) {
    KELPIE_ASSERT(target[0] == '/');
    KELPIE_ASSERT(root->type[0] != '\0');
    char device[ROOT_PATH_BYTES_MAX];
    int status = root_find_disk(os, root->serial, device, sizeof(device), error);
    if (status < 0) {
        return status;
    }
    uint64_t flags = is_read_only ? MS_RDONLY : 0;
    status = kelpie__os_mount(os, device, target, root->type, flags, NULL);
    if (status < 0) {
        return kelpie__fail(error, KELPIE_E_BOOT, -status, "mount disk \"%s\" (%s) as %s%s",
                            root->serial, device, root->type, is_read_only ? " read-only" : "");
    }
    return 0;
}

/* Mounts the place of the writable layer, and makes the two directories that overlayfs wants on it.
 */
static int root_mount_layer(struct kelpie_os *os, const struct kelpie_agent_root *root,
                            struct kelpie_error *error) {
    KELPIE_ASSERT(root->writable != KELPIE_AGENT_ROOT_WRITABLE_NONE);
    if (root->writable == KELPIE_AGENT_ROOT_WRITABLE_DISK) {
        struct kelpie_agent_root disk = {.type = "ext4", .serial = ROOT_UPPER_SERIAL};
        int status = root_mount(os, &disk, ROOT_LAYER, false, error);
        if (status < 0) {
            return status;
        }
    } else {
        int status = kelpie__os_mount(os, "tmpfs", ROOT_LAYER, "tmpfs", 0, "mode=755");
        if (status < 0) {
            return kelpie__fail(error, KELPIE_E_BOOT, -status, "mount tmpfs on %s", ROOT_LAYER);
        }
    }
    static const char *const paths[] = {ROOT_LAYER "/upper", ROOT_LAYER "/work"};
    for (size_t i = 0; i < KELPIE_ARRAY_COUNT(paths); i += 1) {
        int status = kelpie__agent_make_directory(os, paths[i], 0755);
        if (status < 0) {
            return kelpie__fail(error, KELPIE_E_BOOT, -status, "make directory \"%s\"", paths[i]);
        }
    }
    return 0;
}

static int root_mount_overlay(struct kelpie_os *os, const struct kelpie_agent_root *root,
                              struct kelpie_error *error) {
    KELPIE_ASSERT(root->is_device);
    KELPIE_ASSERT(root->writable != KELPIE_AGENT_ROOT_WRITABLE_NONE);
    int status = root_mount(os, root, ROOT_LOWER, true, error);
    if (status < 0) {
        return status;
    }
    status = root_mount_layer(os, root, error);
    if (status < 0) {
        return status;
    }
    status = kelpie__os_mount(os, "overlay", ROOT_NEW, "overlay", 0,
                              "lowerdir=" ROOT_LOWER ",upperdir=" ROOT_LAYER
                              "/upper,workdir=" ROOT_LAYER "/work");
    if (status < 0) {
        return kelpie__fail(error, KELPIE_E_BOOT, -status, "mount overlay of \"%s\" and its layer",
                            root->serial);
    }
    return 0;
}

/* Moves dev, proc and sys, with all that is mounted in them, into the new root, then the new root
 * over the old one. */
static int root_switch(struct kelpie_os *os, struct kelpie_error *error) {
    static const char *const places[] = {"/dev", "/proc", "/sys"};
    for (size_t i = 0; i < KELPIE_ARRAY_COUNT(places); i += 1) {
        char target[ROOT_PATH_BYTES_MAX];
        int length = snprintf(target, sizeof(target), "%s%s", ROOT_NEW, places[i]);
        KELPIE_ASSERT(length > 0);
        KELPIE_ASSERT((size_t)length < sizeof(target));
        int status = kelpie__os_mount(os, places[i], target, NULL, MS_MOVE, NULL);
        if (status == -ENOENT) {
            status = kelpie__agent_make_directory(os, target, 0755);
            if (status < 0) {
                return kelpie__fail(error, KELPIE_E_BOOT, -status,
                                    "the root file system has no directory \"%s\"; make it",
                                    places[i]);
            }
            status = kelpie__os_mount(os, places[i], target, NULL, MS_MOVE, NULL);
        }
        if (status < 0) {
            return kelpie__fail(error, KELPIE_E_BOOT, -status, "move \"%s\" into the new root",
                                places[i]);
        }
    }
    int status = kelpie__os_enter_root(os, ROOT_NEW);
    if (status < 0) {
        return kelpie__fail(error, KELPIE_E_BOOT, -status, "change the root to \"%s\"", ROOT_NEW);
    }
    return 0;
}

/* /run and /tmp. A root that cannot be written gets file systems in memory there; elsewhere /tmp is
 * part of the root, where the user gave it room. A failure is told on the console: many root file
 * systems do without. */
static void root_mount_scratch(struct kelpie_os *os, bool is_read_only) {
    static const char *const places[] = {"/run", "/tmp"};
    static const char *const modes[] = {"mode=755", "mode=1777"};
    for (size_t i = 0; i < KELPIE_ARRAY_COUNT(places); i += 1) {
        bool is_mounted = i == 0 || is_read_only;
        int status = 0;
        if (!is_read_only) {
            status = kelpie__agent_make_directory(os, places[i], i == 0 ? 0755 : 01777);
        }
        if (is_mounted && status == 0) {
            status =
                kelpie__os_mount(os, "tmpfs", places[i], "tmpfs", MS_NOSUID | MS_NODEV, modes[i]);
        }
        if (status < 0) {
            kelpie__agent_log(os, "prepare %s: %s", places[i], kelpie__errno_text(-status));
        }
    }
}

/* Only what this root needs: a module takes 5 to 20 ms on an emulated processor. */
static int root_load_modules(struct kelpie_os *os, const struct kelpie_agent_root *root,
                             struct kelpie_error *error) {
    KELPIE_ASSERT(root->is_device);
    KELPIE_ASSERT(root->type[0] != '\0');
    bool has_layer = root->writable != KELPIE_AGENT_ROOT_WRITABLE_NONE;
    bool has_disk_layer = root->writable == KELPIE_AGENT_ROOT_WRITABLE_DISK;
    const char *const groups[] = {
        "disk",
        root->type,
        has_layer ? "overlay" : NULL,
        has_disk_layer && strcmp(root->type, "ext4") != 0 ? "ext4" : NULL,
    };
    for (size_t i = 0; i < KELPIE_ARRAY_COUNT(groups); i += 1) {
        if (groups[i] != NULL) {
            int status = kelpie__agent_load_modules(os, groups[i], error);
            if (status < 0) {
                return status;
            }
        }
    }
    return 0;
}

/* libkrun starts us on a root that is the host's to write, and its init makes that one shared, out
 * of which no mount can be moved. */
static int root_leave_first(struct kelpie_os *os, struct kelpie_error *error) {
    int status = kelpie__os_mount(os, NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL);
    if (status == 0) {
        status = kelpie__os_mount(os, "tmpfs", ROOT_PLACES, "tmpfs", 0, "mode=755");
    }
    KELPIE_ASSERT(status <= 0);
    return status < 0 ? kelpie__fail(error, KELPIE_E_BOOT, -status, "leave the first root") : 0;
}

static int root_make_places(struct kelpie_os *os, struct kelpie_error *error) {
    static const char *const paths[] = {ROOT_PLACES, ROOT_NEW, ROOT_LOWER, ROOT_LAYER};
    for (size_t i = 0; i < KELPIE_ARRAY_COUNT(paths); i += 1) {
        int status = kelpie__agent_make_directory(os, paths[i], 0755);
        if (status < 0) {
            return kelpie__fail(error, KELPIE_E_BOOT, -status, "make directory \"%s\"", paths[i]);
        }
        if (i == 0 && kelpie__os_environment(os, ROOT_DISKS_VARIABLE) != NULL) {
            status = root_leave_first(os, error);
            if (status < 0) {
                return status;
            }
        }
    }
    KELPIE_ASSERT(os->guest != NULL);
    return 0;
}

static int root_enter_device(struct kelpie_os *os, const struct kelpie_agent_root *root,
                             struct kelpie_error *error) {
    KELPIE_ASSERT(root->serial[0] != '\0');
    KELPIE_ASSERT(root->type[0] != '\0');
    int status = root_make_places(os, error);
    if (status == 0) {
        status = root_load_modules(os, root, error);
    }
    if (status < 0) {
        return status;
    }
    if (root->writable == KELPIE_AGENT_ROOT_WRITABLE_NONE) {
        status = root_mount(os, root, ROOT_NEW, root->is_read_only, error);
    } else {
        status = root_mount_overlay(os, root, error);
    }
    return status < 0 ? status : root_switch(os, error);
}

int kelpie__agent_root_enter(struct kelpie_os *os, const struct kelpie_agent_root *root,
                             struct kelpie_error *error) {
    bool is_read_only = root->is_read_only && root->writable == KELPIE_AGENT_ROOT_WRITABLE_NONE;
    if (root->is_device) {
        int status = root_enter_device(os, root, error);
        if (status < 0) {
            return status;
        }
    }
    root_mount_scratch(os, is_read_only);
    if (!root->is_device && is_read_only) {
        /* The initramfs is one mount: it is read-only for everybody from here on, which the agent
         * does not mind. */
        int status = kelpie__os_mount(os, NULL, "/", NULL, MS_BIND | MS_REMOUNT | MS_RDONLY, NULL);
        if (status < 0) {
            return kelpie__fail(error, KELPIE_E_BOOT, -status, "make the root read-only");
        }
    }
    return 0;
}

void kelpie__agent_root_leave(struct kelpie_os *os) {
    kelpie__ignore(kelpie__os_sync_all(os)); /* nothing better can be done at this point */
    /* Fails for the initramfs and for overlays, which have nothing to clean. */
    kelpie__ignore(kelpie__os_mount(os, NULL, "/", NULL, MS_REMOUNT | MS_RDONLY, NULL));
}
