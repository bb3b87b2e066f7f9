/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Mounts what the host shares: see share.h. What lies in such a directory is the host's, and it is
 * no reason to give a guest devices or programs with another user's rights.
 */
#include "agent/share.h"

#include <errno.h>
#include <linux/mount.h>
#include <string.h>

#include "agent/files.h"
#include "os/os_call.h"

struct share {
    char tag[KELPIE_SHARE_TAG_BYTES_MAX + 1];
    char path[KELPIE_SHARE_GUEST_BYTES_MAX + 1];
    bool is_read_only;
};

/* With all above it. A root that is read-only has to have them. */
static int share_make_place(struct kelpie_os *os, const struct share *share,
                            struct kelpie_error *error) {
    char place[sizeof(share->path)];
    size_t length = strlen(share->path);
    KELPIE_ASSERT(share->path[0] == '/');
    for (size_t i = 1; i <= length; i += 1) {
        if (share->path[i] != '/' && share->path[i] != '\0') {
            continue;
        }
        memcpy(place, share->path, i);
        place[i] = '\0';
        int status = kelpie__agent_make_directory(os, place, 0755);
        if (status < 0) {
            return kelpie__fail(error, KELPIE_E_SHARE, -status, "make \"%s\" in the guest%s", place,
                                status == -EROFS ? ", whose root has no such directory" : "");
        }
    }
    return 0;
}

static int share_mount(struct kelpie_os *os, const struct share *share,
                       struct kelpie_error *error) {
    KELPIE_ASSERT(os->guest != NULL);
    int status = share_make_place(os, share, error);
    if (status < 0) {
        return status;
    }
    uint64_t flags = MS_NODEV | MS_NOSUID | (share->is_read_only ? MS_RDONLY : 0);
    status = kelpie__os_mount(os, share->tag, share->path, "virtiofs", flags, NULL);
    if (status < 0) {
        return kelpie__fail(error, KELPIE_E_SHARE, -status,
                            "mount the tag \"%s\" at \"%s\" in the guest", share->tag, share->path);
    }
    return 0;
}

static int share_read(const struct kelpie_agent_params *params, struct share *out,
                      struct kelpie_error *error) {
    int status = kelpie__agent_params_text(params, "tag", out->tag, sizeof(out->tag), error);
    if (status == 0) {
        status = kelpie__agent_params_text(params, "path", out->path, sizeof(out->path), error);
    }
    if (status == 0) {
        status = kelpie__agent_params_flag(params, "read_only", &out->is_read_only, error);
    }
    if (status == 0 && (out->tag[0] == '\0' || out->path[0] != '/')) {
        status =
            kelpie__fail(error, KELPIE_E_PROTOCOL, 0, "a mount has a tag and an absolute path");
    }
    KELPIE_ASSERT(status <= 0);
    return status;
}

void kelpie__agent_share_request(struct kelpie_agent *agent, uint64_t id,
                                 const struct kelpie_agent_params *params) {
    struct share share = {0};
    struct kelpie_error error = {0};
    KELPIE_ASSERT(agent->is_set_up); /* else the new root would hide it */
    int status = share_read(params, &share, &error);
    if (status == 0 && agent->is_guest) {
        status = share_mount(agent->os, &share, &error);
    }
    if (status < 0) {
        kelpie__wire_refuse(agent->wire, id, &error);
        return;
    }
    kelpie__wire_result(agent->wire, id, "{}");
}
