/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * See qcow2.h. The format is QEMU's docs/interop/qcow2.txt. What is looked at is the header with
 * its extensions and the name behind it, all in the first cluster; the tables after it can only
 * point into the image itself.
 */
#include "store/qcow2.h"

#include <errno.h>
#include <string.h>

#include "core/text.h"
#include "os/os_call.h"

#define QCOW2_MAGIC 0x514649fbu
#define QCOW2_HEAD_BYTES 4096u /* header, extensions and name of all images that are taken */
#define QCOW2_HEADER_2_BYTES 72u
#define QCOW2_HEADER_3_BYTES 104u
#define QCOW2_NAME_BYTES_MAX 1023u
#define QCOW2_EXTENSION_COUNT_MAX 16u
/* All that changes how the image is read, but for the kind of compression and the size of table
 * entries. */
#define QCOW2_FEATURES_TAKEN 0x18u

/* Kinds of extensions. */
#define QCOW2_EXTENSION_END 0u
#define QCOW2_EXTENSION_FORMAT 0xe2792acau
#define QCOW2_EXTENSION_NAMES 0x6803f857u

static uint64_t load(const uint8_t *bytes, size_t count) {
    static_assert(QCOW2_HEADER_2_BYTES < QCOW2_HEADER_3_BYTES, "the second is an extension");
    static_assert(QCOW2_HEADER_3_BYTES + QCOW2_NAME_BYTES_MAX < QCOW2_HEAD_BYTES,
                  "a header and the longest name are in what is read");
    uint64_t value = 0;
    for (size_t i = 0; i < count; i += 1) {
        value = value << 8 | bytes[i];
    }
    return value;
}

static int fail_image(struct kelpie_error *error, const char *name, const char *what) {
    return kelpie__fail(error, KELPIE_E_SNAPSHOT_CORRUPTED, 0, "the disk image \"%s\" %s", name,
                        what);
}

static int check_header(const uint8_t *head, const char *name, struct kelpie_error *error) {
    uint64_t version = load(head + 4, 4);
    KELPIE_ASSERT(name[0] != '\0');
    if (load(head, 4) != QCOW2_MAGIC || version < 2 || version > 3) {
        return fail_image(error, name, "is no qcow2 image, or of an unknown version");
    }
    if (load(head + 32, 4) != 0) {
        return fail_image(error, name, "is encrypted");
    }
    if (load(head + 60, 4) != 0) {
        return fail_image(error, name, "has snapshots of its own");
    }
    uint64_t features = version == 3 ? load(head + 72, 8) : 0;
    if ((features & ~(uint64_t)QCOW2_FEATURES_TAKEN) != 0) {
        return fail_image(error, name,
                          "is damaged, has its data elsewhere, or features that are not known");
    }
    return 0;
}

static int check_backing_name(const uint8_t *head, size_t count, const char *name,
                              const char *expected, struct kelpie_error *error) {
    uint64_t offset = load(head + 8, 8);
    uint64_t length = load(head + 16, 4);
    KELPIE_ASSERT(count >= QCOW2_HEADER_3_BYTES && count <= QCOW2_HEAD_BYTES);
    if (expected[0] == '\0') {
        return offset == 0 && length == 0
                   ? 0
                   : fail_image(error, name, "depends on another file, and must not");
    }
    if (length > QCOW2_NAME_BYTES_MAX || offset > count || length > count - offset ||
        length != strlen(expected) || memcmp(head + offset, expected, (size_t)length) != 0) {
        return fail_image(error, name, "depends on another file than the layer below it");
    }
    return 0;
}

/* The format of what is below must be said: a VMM that guesses reads a raw image as the guest has
 * written it. */
static int check_extensions(const uint8_t *head, size_t count, const char *name,
                            const char *expected, struct kelpie_error *error) {
    uint64_t version = load(head + 4, 4);
    uint64_t at = version == 3 ? load(head + 100, 4) : QCOW2_HEADER_2_BYTES;
    bool has_format = false;
    bool has_ended = false;
    KELPIE_ASSERT(version == 2 || version == 3);
    KELPIE_ASSERT(count <= QCOW2_HEAD_BYTES);
    if (version == 3 && at < QCOW2_HEADER_3_BYTES) {
        return fail_image(error, name, "has a header that is too short");
    }
    for (uint32_t i = 0; i < QCOW2_EXTENSION_COUNT_MAX && !has_ended; i += 1) {
        if (at > count || count - at < 8) {
            return fail_image(error, name, "has extensions that are too long");
        }
        uint64_t kind = load(head + at, 4);
        uint64_t length = load(head + at + 4, 4);
        at += 8;
        if (length > count - at) {
            return fail_image(error, name, "has extensions that are too long");
        }
        if (kind == QCOW2_EXTENSION_FORMAT) {
            has_format =
                length == strlen(expected) && memcmp(head + at, expected, (size_t)length) == 0;
        } else if (kind != QCOW2_EXTENSION_END && kind != QCOW2_EXTENSION_NAMES) {
            return fail_image(error, name, "has an extension that is not known");
        }
        has_ended = kind == QCOW2_EXTENSION_END;
        at += (length + 7) / 8 * 8;
        KELPIE_ASSERT(at < 2u * QCOW2_HEAD_BYTES); /* no sum runs over */
    }
    if (!has_ended || has_format != (expected[0] != '\0')) {
        return fail_image(error, name, "says another format of what is below it");
    }
    return 0;
}

int kelpie__qcow2_check(struct kelpie_os *os, int file, const char *name, const char *backing_name,
                        const char *backing_format, struct kelpie_error *error) {
    uint8_t head[QCOW2_HEAD_BYTES] = {0};
    KELPIE_ASSERT((backing_name[0] == '\0') == (backing_format[0] == '\0'));
    KELPIE_ASSERT(file >= 0);
    int64_t got = kelpie__os_pread(os, file, head, sizeof(head), 0);
    if (got < 0) {
        return kelpie__fail(error, KELPIE_E_IO, (int)-got, "read the disk image \"%s\"", name);
    }
    if (got < (int64_t)QCOW2_HEADER_3_BYTES) {
        return fail_image(error, name, "is no qcow2 image");
    }
    int status = check_header(head, name, error);
    if (status == 0) {
        status = check_backing_name(head, (size_t)got, name, backing_name, error);
    }
    return status < 0 ? status : check_extensions(head, (size_t)got, name, backing_format, error);
}

/* ---- what it says ---------------------------------------------------------------------------- */

static void store(uint8_t *bytes, size_t count, uint64_t value) {
    for (size_t i = 0; i < count; i += 1) {
        bytes[i] = (uint8_t)(value >> (8 * (count - 1 - i)));
    }
}

/* The place of the extension that names the format, of `*out_bytes` with its padding; 0: none. */
static uint64_t find_format(const uint8_t *head, uint64_t *out_bytes) {
    KELPIE_ASSERT(load(head + 4, 4) == 3);
    uint64_t at = load(head + 100, 4);
    for (uint32_t i = 0; i < QCOW2_EXTENSION_COUNT_MAX && at + 8 <= QCOW2_HEAD_BYTES; i += 1) {
        uint64_t kind = load(head + at, 4);
        uint64_t length = (load(head + at + 4, 4) + 7) / 8 * 8;
        if (kind == QCOW2_EXTENSION_END || length > QCOW2_HEAD_BYTES - at - 8) {
            return 0;
        }
        if (kind == QCOW2_EXTENSION_FORMAT) {
            *out_bytes = length;
            return at;
        }
        at += 8 + length;
    }
    return 0;
}

/* Into the header of a layer that was made here, whose name stands behind all else. */
static bool change_backing(uint8_t *head, const char *backing_name, const char *backing_format) {
    uint64_t format_bytes = 0;
    uint64_t place = load(head + 8, 8);
    size_t name_bytes = strlen(backing_name);
    size_t length = strlen(backing_format);
    uint64_t format = find_format(head, &format_bytes);
    KELPIE_ASSERT(format == 0 || format + 8 + format_bytes <= QCOW2_HEAD_BYTES);
    if (format == 0 || length > format_bytes || place < format + 8 + format_bytes ||
        place > QCOW2_HEAD_BYTES - QCOW2_NAME_BYTES_MAX || name_bytes > QCOW2_NAME_BYTES_MAX) {
        return false;
    }
    store(head + 16, 4, name_bytes);
    memcpy(head + place, backing_name, name_bytes);
    store(head + format + 4, 4, length);
    memset(head + format + 8, 0, (size_t)format_bytes);
    memcpy(head + format + 8, backing_format, length);
    return true;
}

int kelpie__qcow2_rebase(struct kelpie_os *os, int file, const char *name, const char *backing_name,
                         const char *backing_format, struct kelpie_error *error) {
    uint8_t head[QCOW2_HEAD_BYTES] = {0};
    KELPIE_ASSERT(backing_name[0] != '\0');
    KELPIE_ASSERT(backing_format[0] != '\0');
    if (kelpie__qcow2_check(os, file, name, backing_name, backing_format, NULL) == 0) {
        return 0;
    }
    int64_t got = kelpie__os_pread(os, file, head, sizeof(head), 0);
    if (got < 0) {
        return kelpie__fail(error, KELPIE_E_IO, (int)-got, "read the disk image \"%s\"", name);
    }
    if (got < (int64_t)sizeof(head)) {
        return fail_image(error, name, "is no qcow2 image");
    }
    int status = check_header(head, name, error);
    if (status < 0) {
        return status;
    }
    if (load(head + 4, 4) != 3 || !change_backing(head, backing_name, backing_format)) {
        return fail_image(error, name, "has a header in which nothing can be changed");
    }
    int64_t put = kelpie__os_pwrite(os, file, head, sizeof(head), 0);
    int result = put == (int64_t)sizeof(head) ? 0 : put < 0 ? (int)put : -EIO;
    return result < 0
               ? kelpie__fail(error, KELPIE_E_IO, -result, "write the disk image \"%s\"", name)
               : 0;
}
