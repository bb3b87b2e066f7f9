/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * The root file system that commands see: the initramfs itself, or a disk, with a writable layer or
 * without.
 */
#ifndef KELPIE_AGENT_ROOT_H
#define KELPIE_AGENT_ROOT_H

#include "core/base.h"
#include "core/error.h"
#include "os/os.h"

enum kelpie_agent_root_writable {
    KELPIE_AGENT_ROOT_WRITABLE_NONE,
    KELPIE_AGENT_ROOT_WRITABLE_TMPFS,
    KELPIE_AGENT_ROOT_WRITABLE_DISK, /* the ext4 disk whose serial is "upper" */
};

struct kelpie_agent_root {
    bool is_device; /* false: stay in the initramfs */
    bool is_read_only;
    enum kelpie_agent_root_writable writable;
    char serial[24]; /* of the disk; virtio allows 20 bytes */
    char type[16];   /* "erofs", "ext4" */
};

/* Mounts the root and makes it ours, with the kernel's file systems in it. It can be done once; on
 * failure the guest stays in the initramfs. Codes: BOOT, with what failed on what. */
KELPIE_MUST_CHECK int kelpie__agent_root_enter(struct kelpie_os *os,
                                               const struct kelpie_agent_root *root,
                                               struct kelpie_error *error);

/* At shutdown: writes everything out, and leaves a root that is a plain disk clean. */
void kelpie__agent_root_leave(struct kelpie_os *os);

#endif
