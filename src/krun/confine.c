/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Landlock (Documentation/userspace-api/landlock.rst) around the process that runs the guest: it
 * reads what the user may read, and writes nothing but the VM's own disks and KVM. Descriptors that
 * are open already are not concerned.
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

/* glibc has no functions for these. */
static int confine_create(void) {
    const struct landlock_ruleset_attr attributes = {.handled_access_fs = CONFINE_WRITES};
    return (int)syscall(SYS_landlock_create_ruleset, &attributes, sizeof(attributes), 0);
}

/* A file that is not there needs no rule. */
static bool confine_allow(int rules, const char *path) {
    int file = open(path, O_PATH | O_CLOEXEC);
    KELPIE_ASSERT(rules >= 0 && path[0] == '/');
    if (file < 0) {
        return errno == ENOENT;
    }
    const struct landlock_path_beneath_attr rule = {.allowed_access = LANDLOCK_ACCESS_FS_WRITE_FILE,
                                                    .parent_fd = file};
    long status = syscall(SYS_landlock_add_rule, rules, LANDLOCK_RULE_PATH_BENEATH, &rule, 0);
    int error_number = errno;
    close(file);
    errno = error_number;
    return status == 0;
}

static bool confine_apply(int rules, const struct kelpie_krun_options *options) {
    static const char *const devices[] = {"/dev/kvm", "/dev/null"};
    bool is_good = true;
    for (size_t i = 0; is_good && i < KELPIE_ARRAY_COUNT(devices); i += 1) {
        is_good = confine_allow(rules, devices[i]);
    }
    for (uint32_t i = 0; is_good && i < options->disk_count; i += 1) {
        const struct kelpie_krun_disk *disk = &options->disks[i];
        is_good = disk->is_read_only || confine_allow(rules, disk->path);
    }
    KELPIE_ASSERT(options->disk_count <= KELPIE_ARRAY_COUNT(options->disks));
    return is_good && syscall(SYS_landlock_restrict_self, rules, 0) == 0;
}

bool kelpie__krun_confine(const struct kelpie_krun_options *options) {
    int rules = confine_create();
    if (rules < 0 && (errno == ENOSYS || errno == EOPNOTSUPP)) {
        kelpie__krun_tell("has no-landlock");
        return true;
    }
    KELPIE_ASSERT(options->staging != NULL);
    bool is_good = rules >= 0 && confine_apply(rules, options);
    if (!is_good) {
        kelpie__krun_tell_error("confine the VM by Landlock: %s", strerror(errno));
    }
    if (rules >= 0) {
        close(rules);
    }
    return is_good;
}
