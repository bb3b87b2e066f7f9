/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Finds QEMU: see program.h. The full qemu-system-x86_64 only: the package's microvm build has no
 * TCG.
 */
#include "vmm/qemu/program.h"

#include <errno.h>
#include <string.h>

#include "core/text.h"
#include "os/os_call.h"

#define PROGRAM_NAME "qemu-system-x86_64"
#define PROGRAM_SEARCH_COUNT_MAX 64u
#define PROGRAM_EXECUTABLE_BITS 0111u
#define PROGRAM_DEFAULT_PATH "/usr/local/bin:/usr/bin:/bin"
#define PROGRAM_PATH_BYTES_MAX 4096u

/* 1 or 0; -errno when nobody can tell. */
static int program_is_there(struct kelpie_os *os, const char *path) {
    KELPIE_ASSERT(path[0] != '\0');
    struct kelpie_os_stat stat;
    int status = kelpie__os_stat(os, KELPIE_OS_CWD, path, true, &stat);
    if (status == -ENOENT || status == -ENOTDIR || status == -EACCES) {
        return 0;
    }
    bool is_program = status == 0 && stat.kind == KELPIE_OS_KIND_FILE &&
                      (stat.mode & PROGRAM_EXECUTABLE_BITS) != 0;
    return status < 0 ? status : is_program;
}

/* Tries each directory of `list`, a value of PATH. Relative ones are passed over: the monitor's
 * directory is nobody's. As program_is_there. */
static int program_search(struct kelpie_os *os, const char *list, char *out, size_t capacity) {
    const char *next = list;
    int found = 0;
    for (uint32_t i = 0; i < PROGRAM_SEARCH_COUNT_MAX && next != NULL && found == 0; i += 1) {
        const char *end = strchr(next, ':');
        size_t length = end != NULL ? (size_t)(end - next) : strlen(next);
        if (length > 0 && next[0] == '/' && length < capacity) {
            bool fits =
                kelpie__text_format(out, capacity, "%.*s/%s", (int)length, next, PROGRAM_NAME);
            found = fits ? program_is_there(os, out) : 0;
        }
        next = end != NULL ? end + 1 : NULL;
    }
    KELPIE_ASSERT(found <= 1);
    return found;
}

int kelpie__qemu_program_find(struct kelpie_os *os, char *out, size_t capacity,
                              struct kelpie_error *error) {
    KELPIE_ASSERT(capacity >= PROGRAM_PATH_BYTES_MAX);
    char found[PROGRAM_PATH_BYTES_MAX];
    const char *chosen = kelpie__os_environment(os, "KELPIE_QEMU");
    if (chosen != NULL && chosen[0] != '\0') {
        if (chosen[0] != '/' || strlen(chosen) >= sizeof(found) ||
            program_is_there(os, chosen) != 1) {
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
        int is_found = program_search(os, list, found, sizeof(found));
        if (is_found < 0) {
            return kelpie__fail(error, KELPIE_E_IO, -is_found, "look for QEMU: \"%s\"", found);
        }
        if (is_found == 0) {
            return kelpie__fail(
                error, KELPIE_E_UNAVAILABLE, 0,
                "QEMU is not installed: no qemu-system-x86_64 in \"%s\"; install it "
                "with: apt install qemu-system-x86",
                list);
        }
    }
    int status = kelpie__os_real_path(os, found, out, capacity);
    if (status < 0) {
        return kelpie__fail(error, KELPIE_E_IO, -status, "resolve \"%s\"", found);
    }
    KELPIE_ASSERT(out[0] == '/');
    return 0;
}
