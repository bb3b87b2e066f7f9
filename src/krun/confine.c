/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Landlock (Documentation/userspace-api/landlock.rst) around the process that runs the guest: it
 * reads what the user may read, and writes nothing but the VM's own disks, its writable shares and
 * KVM. Descriptors that are open already are not concerned.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/landlock.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "krun/krun.h"

#define CONFINE_WRITES                                                                             \
    (LANDLOCK_ACCESS_FS_WRITE_FILE | LANDLOCK_ACCESS_FS_REMOVE_DIR |                               \
     LANDLOCK_ACCESS_FS_REMOVE_FILE | LANDLOCK_ACCESS_FS_MAKE_CHAR | LANDLOCK_ACCESS_FS_MAKE_DIR | \
     LANDLOCK_ACCESS_FS_MAKE_REG | LANDLOCK_ACCESS_FS_MAKE_SOCK | LANDLOCK_ACCESS_FS_MAKE_FIFO |   \
     LANDLOCK_ACCESS_FS_MAKE_BLOCK | LANDLOCK_ACCESS_FS_MAKE_SYM)

#define CONFINE_TRUNCATE (UINT64_C(1) << 14) /* LANDLOCK_ACCESS_FS_TRUNCATE, of Linux 6.2 */
#define CONFINE_TRUNCATE_VERSION 3

/* LANDLOCK_ACCESS_FS_REFER, of Linux 5.19: from one directory into another; before, that fails. */
#define CONFINE_REFER (UINT64_C(1) << 13)
#define CONFINE_REFER_VERSION 2
/* In a share: all but devices, which whoever uses the directory on the host could open. */
#define CONFINE_SHARE_WRITES                                                                       \
    (CONFINE_WRITES & ~(uint64_t)(LANDLOCK_ACCESS_FS_MAKE_CHAR | LANDLOCK_ACCESS_FS_MAKE_BLOCK))

static_assert((CONFINE_WRITES & LANDLOCK_ACCESS_FS_READ_FILE) == 0, "reading stays allowed");
static_assert((CONFINE_WRITES & CONFINE_TRUNCATE) == 0, "that right is asked for by version");

/* glibc has no functions for these. 0: the kernel knows nothing of it. */
static long confine_version(void) {
    long version = syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);
    KELPIE_ASSERT(version >= -1);
    return version < 0 ? 0 : version;
}

/* The right to cut a file, where the kernel knows one. */
static uint64_t confine_truncate(long version) {
    KELPIE_ASSERT(version > 0);
    return version >= CONFINE_TRUNCATE_VERSION ? CONFINE_TRUNCATE : 0;
}

static uint64_t confine_refer(long version) {
    KELPIE_ASSERT(version > 0);
    return version >= CONFINE_REFER_VERSION ? CONFINE_REFER : 0;
}

static int confine_create(long version) {
    const struct landlock_ruleset_attr attributes = {
        .handled_access_fs = CONFINE_WRITES | confine_truncate(version) | confine_refer(version)};
    return (int)syscall(SYS_landlock_create_ruleset, &attributes, sizeof(attributes), 0);
}

/* A file that is not there needs no rule. */
static bool confine_allow(int rules, const char *path, uint64_t rights) {
    int file = open(path, O_PATH | O_CLOEXEC);
    KELPIE_ASSERT(rules >= 0);
    KELPIE_ASSERT(path[0] == '/');
    if (file < 0) {
        return errno == ENOENT;
    }
    const struct landlock_path_beneath_attr rule = {.allowed_access = rights, .parent_fd = file};
    long status = syscall(SYS_landlock_add_rule, rules, LANDLOCK_RULE_PATH_BENEATH, &rule, 0);
    int error_number = errno;
    close(file);
    errno = error_number;
    return status == 0;
}

static bool confine_apply(int rules, long version, const struct kelpie_krun_options *options) {
    static const char *const devices[] = {"/dev/kvm", "/dev/null"};
    const uint64_t file_rights = LANDLOCK_ACCESS_FS_WRITE_FILE | confine_truncate(version);
    const uint64_t share_rights =
        CONFINE_SHARE_WRITES | confine_truncate(version) | confine_refer(version);
    bool is_good = true;
    for (size_t i = 0; is_good && i < KELPIE_ARRAY_COUNT(devices); i += 1) {
        is_good = confine_allow(rules, devices[i], file_rights);
    }
    for (uint32_t i = 0; is_good && i < options->disk_count; i += 1) {
        const struct kelpie_krun_disk *disk = &options->disks[i];
        is_good = disk->is_read_only || confine_allow(rules, disk->path, file_rights);
    }
    for (uint32_t i = 0; is_good && i < options->share_count; i += 1) {
        const struct kelpie_krun_share *share = &options->shares[i];
        is_good = share->is_read_only || confine_allow(rules, share->path, share_rights);
    }
    KELPIE_ASSERT(options->disk_count <= KELPIE_ARRAY_COUNT(options->disks));
    return is_good && syscall(SYS_landlock_restrict_self, rules, 0) == 0;
}

bool kelpie__krun_confine(const struct kelpie_krun_library *library,
                          const struct kelpie_krun_options *options) {
    long version = confine_version();
    if (version == 0) {
        if (library->add_virtiofs3 == NULL) {
            kelpie__krun_tell_missing("this libkrun lets a guest write to a directory of the host, "
                                      "and this kernel has no Landlock to keep it from that; "
                                      "install libkrun 1.18.0 or newer");
        }
        return library->add_virtiofs3 != NULL;
    }
    KELPIE_ASSERT(options->staging != NULL);
    int rules = confine_create(version);
    bool is_good = rules >= 0 && confine_apply(rules, version, options);
    if (!is_good) {
        kelpie__krun_tell_error("confine the VM by Landlock: %s", strerror(errno));
    }
    if (rules >= 0) {
        close(rules);
    }
    return is_good;
}
