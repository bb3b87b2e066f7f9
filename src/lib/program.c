/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * One of our programs is started as a process that lives on its own: no child of the embedder,
 * whose wait() must not meet it, and in a session that no terminal's signals reach.
 */
#include "lib/internal.h"
#include "os/os_call.h"

int kelpie__program_start(struct kelpie_os *os, const char *path, const char *const *argv,
                          const int *handles, uint32_t handle_count, struct kelpie_error *error) {
    const char *step = "";
    const struct kelpie_os_spawn spawn = {
        .path = path,
        .argv = argv,
        .directory = "/",
        .handles = handles,
        .handle_count = handle_count,
        .flags = KELPIE_OS_SPAWN_ORPHAN | KELPIE_OS_SPAWN_NEW_SESSION,
        .cgroup = KELPIE_OS_NO_HANDLE,
    };
    KELPIE_ASSERT(path[0] != '\0');
    KELPIE_ASSERT(argv[0] != NULL);
    KELPIE_ASSERT(handle_count >= 3);
    int status = kelpie__os_spawn(os, &spawn, NULL, NULL, &step);
    return status < 0
               ? kelpie__fail(error, KELPIE_E_UNAVAILABLE, -status, "start \"%s\" (%s)", path, step)
               : 0;
}
