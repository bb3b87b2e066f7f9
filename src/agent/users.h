/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Whose name a command runs under: "name|uid[:group|gid]" looked up in the guest's own /etc/passwd
 * and /etc/group. The files belong to the guest, so every line and every count is bounded; libc's
 * getpwnam would read nsswitch.conf and load libraries of a root file system that nobody has
 * vetted.
 */
#ifndef KELPIE_AGENT_USERS_H
#define KELPIE_AGENT_USERS_H

#include "core/base.h"
#include "core/error.h"
#include "os/os.h"

#define KELPIE_AGENT_USER_NAME_BYTES_MAX 64
#define KELPIE_AGENT_USER_HOME_BYTES_MAX 256
#define KELPIE_AGENT_USER_GROUP_COUNT_MAX 64

struct kelpie_agent_user {
    uint32_t uid;
    uint32_t gid;
    uint32_t groups[KELPIE_AGENT_USER_GROUP_COUNT_MAX]; /* supplementary; sorted as in /etc/group */
    uint32_t group_count;
    char
        name[KELPIE_AGENT_USER_NAME_BYTES_MAX]; /* empty: a number that /etc/passwd does not know */
    char home[KELPIE_AGENT_USER_HOME_BYTES_MAX];
};

/* Codes: EXEC for an unknown name and for a bad form, IO when a file cannot be read. A number needs
 * no entry: it then has group 0 and the home directory "/". A group after the colon replaces the
 * user's own group and all supplementary ones. */
KELPIE_MUST_CHECK int kelpie__agent_user_find(struct kelpie_os *os, const char *specification,
                                              struct kelpie_agent_user *out,
                                              struct kelpie_error *error);

#endif
