/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Finds QEMU: see program.h. The full qemu-system-x86_64 only: the package's microvm build has no
 * TCG.
 */
#include "vmm/qemu/program.h"

#include <stdio.h>
#include <string.h>

#include "os/os_call.h"

#define PROGRAM_NAME "qemu-system-x86_64"
#define PROGRAM_SEARCH_COUNT_MAX 64u
#define PROGRAM_EXECUTABLE_BITS 0111u
#define PROGRAM_DEFAULT_PATH "/usr/local/bin:/usr/bin:/bin"
#define PROGRAM_PATH_BYTES_MAX 4096u

static bool program_is_there(struct kelpie_os *os, const char *path) {
    KELPIE_ASSERT(path[0] != '\0');
    struct kelpie_os_stat stat;
    return kelpie__os_stat(os, KELPIE_OS_CWD, path, true, &stat) == 0 &&
           stat.kind == KELPIE_OS_KIND_FILE && (stat.mode & PROGRAM_EXECUTABLE_BITS) != 0;
}

/* Tries each directory of `list`, a value of PATH. Relative ones are passed over: the monitor's
 * directory is nobody's. */
static bool program_search(struct kelpie_os *os, const char *list, char *out, size_t capacity) {
    const char *next = list;
    for (uint32_t i = 0; i < PROGRAM_SEARCH_COUNT_MAX && next != NULL; i += 1) {
        const char *end = strchr(next, ':');
        size_t length = end != NULL ? (size_t)(end - next) : strlen(next);
        if (length > 0 && next[0] == '/' && length < capacity) {
            int written = snprintf(out, capacity, "%.*s/%s", (int)length, next, PROGRAM_NAME);
            KELPIE_ASSERT(written > 0);
            if ((size_t)written < capacity && program_is_there(os, out)) {
                return true;
            }
        }
        next = end != NULL ? end + 1 : NULL;
    }
    return false;
}

int kelpie__qemu_program_find(struct kelpie_os *os, char *out, size_t capacity,
                              struct kelpie_error *error) {
    KELPIE_ASSERT(capacity >= PROGRAM_PATH_BYTES_MAX);
    char found[PROGRAM_PATH_BYTES_MAX];
    const char *chosen = kelpie__os_environment(os, "KELPIE_QEMU");
    if (chosen != NULL && chosen[0] != '\0') {
        if (chosen[0] != '/' || strlen(chosen) >= sizeof(found) || !program_is_there(os, chosen)) {
            return kelpie__fail(error, KELPIE_E_UNAVAILABLE, 0,
                                "KELPIE_QEMU names no program: \"%s\"; give the absolute path of "
                                "qemu-system-x86_64",
                                chosen);
        }
        memcpy(found, chosen, strlen(chosen) + 1);
    } else {
        const char *list = kelpie__os_environment(os, "PATH");
        if (list == NULL || list[0] == '\0') {
            list = PROGRAM_DEFAULT_PATH;
        }
        if (!program_search(os, list, found, sizeof(found))) {
            return kelpie__fail(
                error, KELPIE_E_UNAVAILABLE, 0,
                "QEMU is not installed: no qemu-system-x86_64 in \"%s\"; install it "
                "with: apt install qemu-system-x86",
                list);
        }
    }
    int status = kelpie__os_real_path(os, found, out, capacity);
    if (status < 0) {
        return kelpie__fail(error, KELPIE_E_UNAVAILABLE, -status, "resolve \"%s\"", found);
    }
    KELPIE_ASSERT(out[0] == '/');
    return 0;
}
