/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * See origin.h.
 */
#include "store/origin.h"

#include <errno.h>
#include <string.h>

#include "core/limits.h"
#include "core/small_file.h"
#include "core/text.h"
#include "os/os_call.h"

#define ORIGIN_DIGITS (2u * KELPIE_KEYED_HASH_BYTES)
#define ORIGIN_NAMED "kelpie origin"
#define ORIGIN_MADE_PREFIX KELPIE_ORIGIN_FILE ".new-"

static int origin_load(struct kelpie_origin *out, struct kelpie_os *os, const char *state_path,
                       struct kelpie_error *error) {
    KELPIE_ASSERT(state_path[0] == '/');
    char text[ORIGIN_DIGITS + 8];
    struct kelpie_keyed_hash hash;
    int64_t length =
        kelpie__small_file_read_in(os, state_path, KELPIE_ORIGIN_FILE, text, sizeof(text));
    static_assert(sizeof(out->key.bytes) * 2 == ORIGIN_DIGITS, "the file has the key");
    if (length == -ENOENT) {
        return kelpie__fail(error, KELPIE_E_NOT_FOUND, 0,
                            "there is no \"%s/" KELPIE_ORIGIN_FILE "\"", state_path);
    }
    text[length > 0 ? strcspn(text, "\n") : 0] = '\0';
    if (length < 0 || !kelpie__text_unhex(text, out->key.bytes, sizeof(out->key.bytes))) {
        return kelpie__fail(error, KELPIE_E_IO, length < 0 ? (int)-length : 0,
                            "\"%s/" KELPIE_ORIGIN_FILE "\" cannot be read, or is damaged; without "
                            "it all streams count as foreign: remove it, and a new one is made",
                            state_path);
    }
    kelpie__keyed_hash_init(&hash, &out->key);
    kelpie__keyed_hash_add(&hash, ORIGIN_NAMED, strlen(ORIGIN_NAMED));
    kelpie__keyed_hash_finish(&hash, out->name);
    return 0;
}

/* Of several that make one at a time, the first counts for all. */
static int origin_put(struct kelpie_os *os, int directory, const char *name, const char *text) {
    KELPIE_ASSERT(kelpie__text_has_prefix(name, ORIGIN_MADE_PREFIX));
    int file = kelpie__os_open(
        os, directory, name,
        KELPIE_OS_OPEN_WRITE | KELPIE_OS_OPEN_CREATE | KELPIE_OS_OPEN_EXCLUSIVE, 0600);
    if (file < 0) {
        return file;
    }
    KELPIE_ASSERT(strlen(text) == ORIGIN_DIGITS + 1);
    int64_t put = kelpie__os_pwrite(os, file, text, strlen(text), 0);
    int status = put < 0 ? (int)put : put < (int64_t)strlen(text) ? -ENOSPC : 0;
    if (status == 0) {
        status = kelpie__os_sync(os, file);
    }
    int closed = kelpie__os_close(os, file);
    status = status < 0 ? status : closed;
    if (status == 0) {
        status = kelpie__os_rename(os, directory, name, directory, KELPIE_ORIGIN_FILE, false);
    }
    if (status < 0) {
        kelpie__ignore(kelpie__os_unlink(os, directory, name, false));
    }
    return status == -EEXIST ? 0 : status;
}

static int origin_make(struct kelpie_os *os, const char *state_path, struct kelpie_error *error) {
    KELPIE_ASSERT(state_path[0] == '/');
    uint8_t bytes[2 * KELPIE_KEYED_HASH_BYTES]; /* the key, and a name for the file */
    char digits[2 * ORIGIN_DIGITS + 1];
    char name[sizeof(ORIGIN_MADE_PREFIX) + ORIGIN_DIGITS];
    char text[ORIGIN_DIGITS + 2];
    int status = kelpie__os_random(os, bytes, sizeof(bytes));
    kelpie__text_hex(digits, sizeof(digits), bytes, sizeof(bytes));
    bool fits =
        kelpie__text_format(text, sizeof(text), "%.*s\n", (int)ORIGIN_DIGITS, digits) &&
        kelpie__text_format(name, sizeof(name), ORIGIN_MADE_PREFIX "%s", digits + ORIGIN_DIGITS);
    KELPIE_ASSERT(fits);
    int directory = kelpie__os_open(os, KELPIE_OS_CWD, state_path,
                                    KELPIE_OS_OPEN_READ | KELPIE_OS_OPEN_DIRECTORY, 0);
    if (status == 0) {
        status = directory < 0 ? directory : origin_put(os, directory, name, text);
    }
    if (status == 0) {
        status = kelpie__os_sync(os, directory);
    }
    if (directory >= 0) {
        kelpie__ignore(kelpie__os_close(os, directory));
    }
    return status < 0 ? kelpie__fail(error, KELPIE_E_IO, -status,
                                     "make \"%s/" KELPIE_ORIGIN_FILE "\"", state_path)
                      : 0;
}

int kelpie__origin_read(struct kelpie_origin *out, struct kelpie_os *os, const char *state_path,
                        struct kelpie_error *error) {
    struct kelpie_error first = {0};
    struct kelpie_origin origin = {0};
    int status = origin_load(&origin, os, state_path, &first);
    if (status == KELPIE_E_NOT_FOUND) {
        status = origin_make(os, state_path, error);
        if (status < 0) {
            return status;
        }
        status = origin_load(&origin, os, state_path, &first);
    }
    if (status == 0) {
        KELPIE_ASSERT(first.code == 0 || first.code == KELPIE_E_NOT_FOUND);
        *out = origin;
    } else if (error != NULL) {
        *error = first;
    }
    return status;
}
