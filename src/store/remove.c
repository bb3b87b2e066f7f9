/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * See remove.h.
 */
#include "store/remove.h"

#include <errno.h>
#include <string.h>

#include "os/os_call.h"

#define REMOVE_ENTRIES_MAX 100000u
#define REMOVE_NAME_BYTES 256u

static int remove_open(struct kelpie_os *os, int parent, const char *name) {
    return kelpie__os_open(os, parent, name, KELPIE_OS_OPEN_READ | KELPIE_OS_OPEN_DIRECTORY, 0);
}

/* The first entry of a directory, which is being emptied: 1, or 0 when it is empty. */
static int remove_first(struct kelpie_os *os, int directory, char name[REMOVE_NAME_BYTES]) {
    uint64_t cursor = 0;
    return kelpie__os_list(os, directory, &cursor, name, REMOVE_NAME_BYTES);
}

typedef int (*remove_child)(struct kelpie_os *os, int parent, const char *name);

static int remove_empty(struct kelpie_os *os, int parent, const char *name) {
    KELPIE_ASSERT(name[0] != '\0');
    return kelpie__os_unlink(os, parent, name, true);
}

/* Files, and directories as `child` removes them. */
static int remove_entries(struct kelpie_os *os, int directory, remove_child child) {
    KELPIE_ASSERT(directory >= 0);
    char name[REMOVE_NAME_BYTES];
    int found = remove_first(os, directory, name);
    for (uint32_t budget = REMOVE_ENTRIES_MAX; found == 1 && budget > 0; budget -= 1) {
        int status = kelpie__os_unlink(os, directory, name, false);
        if (status == -EISDIR || status == -EPERM) {
            status = child(os, directory, name);
        }
        if (status < 0 && status != -ENOENT) {
            return status;
        }
        found = remove_first(os, directory, name);
    }
    KELPIE_ASSERT(found <= 1);
    return found == 1 ? -ENOTEMPTY : found;
}

/* One level below: what is a directory in it has to be empty. */
static int remove_subdirectory(struct kelpie_os *os, int parent, const char *name) {
    KELPIE_ASSERT(name[0] != '\0');
    int directory = remove_open(os, parent, name);
    if (directory < 0) {
        return directory;
    }
    int status = remove_entries(os, directory, remove_empty);
    kelpie__ignore(kelpie__os_close(os, directory));
    return status < 0 ? status : kelpie__os_unlink(os, parent, name, true);
}

int kelpie__remove_directory(struct kelpie_os *os, int parent, const char *name) {
    KELPIE_ASSERT(name[0] != '\0');
    KELPIE_ASSERT(strchr(name, '/') == NULL);
    int directory = remove_open(os, parent, name);
    if (directory < 0) {
        return directory == -ENOENT ? 0 : directory;
    }
    int status = remove_entries(os, directory, remove_subdirectory);
    kelpie__ignore(kelpie__os_close(os, directory));
    if (status == 0) {
        status = kelpie__os_unlink(os, parent, name, true);
    }
    return status == -ENOENT ? 0 : status;
}

uint64_t kelpie__directory_bytes(struct kelpie_os *os, int directory) {
    char name[REMOVE_NAME_BYTES];
    struct kelpie_os_stat stat;
    uint64_t cursor = 0;
    uint64_t sum = 0;
    KELPIE_ASSERT(directory >= 0);
    for (uint32_t budget = REMOVE_ENTRIES_MAX; budget > 0; budget -= 1) {
        if (kelpie__os_list(os, directory, &cursor, name, sizeof(name)) != 1) {
            break;
        }
        bool is_file = kelpie__os_stat(os, directory, name, false, &stat) == 0 &&
                       stat.kind == KELPIE_OS_KIND_FILE;
        sum += is_file ? stat.allocated_bytes : 0;
    }
    return sum;
}

void kelpie__remove_leftover(struct kelpie_os *os, int parent, const char *name,
                             struct kelpie_leftovers *inout) {
    KELPIE_ASSERT(name[0] == '.');
    uint64_t bytes = 0;
    int directory = inout != NULL ? remove_open(os, parent, name) : KELPIE_OS_NO_HANDLE;
    if (directory >= 0) {
        bytes = kelpie__directory_bytes(os, directory);
        kelpie__ignore(kelpie__os_close(os, directory)); /* it was only read */
    }
    KELPIE_ASSERT(name[0] != '\0');
    if (kelpie__remove_directory(os, parent, name) == 0 && inout != NULL) {
        inout->count += 1;
        inout->bytes += bytes;
    }
}
