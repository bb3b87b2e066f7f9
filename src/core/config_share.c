/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * The directories that a VM shares with its host: see config.h. Their texts stand one after another
 * in one place, as many VMs have none.
 */
#include <errno.h>
#include <string.h>

#include "core/config.h"
#include "core/json.h"
#include "core/text.h"
#include "os/os_call.h"

#define SHARE_FIELD "share"

static bool share_add_text(struct kelpie_config_values *values, const char *text, size_t length,
                           uint32_t *out_place) {
    KELPIE_ASSERT(values->share_bytes <= sizeof(values->share_texts));
    if (length >= sizeof(values->share_texts) - values->share_bytes) {
        return false;
    }
    char *place = values->share_texts + values->share_bytes;
    memcpy(place, text, length);
    place[length] = '\0';
    *out_place = values->share_bytes;
    values->share_bytes += (uint32_t)length + 1;
    KELPIE_ASSERT(values->share_bytes <= sizeof(values->share_texts));
    return true;
}

void kelpie__config_add_share(struct kelpie_config_values *values, const char *host,
                              const char *guest, const char *tag, bool is_read_only) {
    char derived[16];
    uint32_t index = values->share_count;
    if (index >= KELPIE_SHARE_COUNT_MAX) { /* the count tells */
        values->share_count += index < UINT32_MAX ? 1 : 0;
        return;
    }
    bool is_whole = kelpie__text_format(derived, sizeof(derived), "share%u", index);
    KELPIE_ASSERT(is_whole);
    const char *name = tag == NULL || tag[0] == '\0' ? derived : tag;
    size_t length = strlen(guest);
    while (length > 1 && guest[length - 1] == '/') { /* bound: the text */
        length -= 1;
    }
    struct kelpie_config_share *share = &values->shares[index];
    *share = (struct kelpie_config_share){.is_read_only = is_read_only};
    if (!share_add_text(values, host, strlen(host), &share->host) ||
        !share_add_text(values, guest, length, &share->guest) ||
        !share_add_text(values, name, strlen(name), &share->tag)) {
        values->too_long_field = SHARE_FIELD;
        return;
    }
    values->share_count += 1;
    KELPIE_ASSERT(values->share_count <= KELPIE_SHARE_COUNT_MAX);
}

const char *kelpie__config_share_text(const struct kelpie_config_values *values, uint32_t place) {
    KELPIE_ASSERT(place < values->share_bytes);
    KELPIE_ASSERT(values->share_bytes <= sizeof(values->share_texts));
    return values->share_texts + place;
}

/* ---- what is wrong --------------------------------------------------------------------------- */

static int share_fail(struct kelpie_error *error, const char *text, const char *why) {
    return kelpie__fail_field(error, KELPIE_E_CONFIG, SHARE_FIELD, SHARE_FIELD ": \"%.300s\" %s",
                              text, why);
}

/* One of them is the other, or lies in it: what is mounted later would hide it, or be made in a
 * directory of the host. */
static bool share_is_within(const char *path, const char *other) {
    size_t length = strlen(other);
    KELPIE_ASSERT(length > 0);
    return strncmp(path, other, length) == 0 && (path[length] == '\0' || path[length] == '/');
}

static int share_check_guest(const char *guest, struct kelpie_error *error) {
    static const char *const taken[] = {"/proc", "/sys", "/dev", "/.kelpie"};
    if (guest[0] != '/' || guest[1] == '\0') {
        return share_fail(error, guest,
                          "is no place in the guest; give an absolute path other than /");
    }
    if (strlen(guest) > KELPIE_SHARE_GUEST_BYTES_MAX) {
        return kelpie__fail_field(error, KELPIE_E_CONFIG, SHARE_FIELD,
                                  SHARE_FIELD ": a guest path of %zu bytes is above the maximum of "
                                              "%u; give a shorter one",
                                  strlen(guest), KELPIE_SHARE_GUEST_BYTES_MAX);
    }
    for (const char *at = guest; *at != '\0';) { /* bound: the path */
        size_t length = strcspn(at + 1, "/");
        KELPIE_ASSERT(*at == '/');
        KELPIE_ASSERT(length <= KELPIE_SHARE_GUEST_BYTES_MAX);
        bool is_dots = at[1] == '.' && (length == 1 || (length == 2 && at[2] == '.'));
        if (length == 0 || is_dots) {
            return share_fail(error, guest, "has a part that is empty, . or ..; leave it out");
        }
        at += 1 + length;
    }
    for (size_t i = 0; i < KELPIE_ARRAY_COUNT(taken); i += 1) {
        if (share_is_within(guest, taken[i])) {
            return share_fail(error, guest,
                              "is the guest's own: nothing is shared below /proc, /sys, /dev and "
                              "/.kelpie; give another path");
        }
    }
    return 0;
}

static int share_check_tag(const char *tag, struct kelpie_error *error) {
    size_t good = strspn(tag, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-");
    size_t length = strlen(tag);
    KELPIE_ASSERT(length > 0); /* else one was made */
    KELPIE_ASSERT(good <= length);
    if (length > KELPIE_SHARE_TAG_BYTES_MAX) {
        return kelpie__fail_field(error, KELPIE_E_CONFIG, SHARE_FIELD,
                                  SHARE_FIELD ": the tag \"%.40s\" has %zu bytes, the limit is %u; "
                                              "give a shorter one",
                                  tag, length, KELPIE_SHARE_TAG_BYTES_MAX);
    }
    return good == length ? 0 : share_fail(error, tag, "is no tag; use A-Z a-z 0-9 _ . - alone");
}

static int share_check_utf8(const char *path, struct kelpie_error *error) {
    size_t length = strlen(path);
    for (size_t at = 0; at < length;) { /* bound: the path */
        size_t step = kelpie__text_utf8_length(path + at, length - at);
        if (step == 0) {
            return share_fail(error, path, "is not UTF-8; give a path that is");
        }
        KELPIE_ASSERT(step <= length - at);
        at += step;
    }
    return 0;
}

static int share_check_host(const char *host, struct kelpie_error *error) {
    size_t length = strlen(host);
    if (length == 0 || length > KELPIE_PATH_BYTES_MAX) {
        return kelpie__fail_field(error, KELPIE_E_CONFIG, SHARE_FIELD,
                                  SHARE_FIELD ": a host path of %zu bytes; give 1 to %u", length,
                                  KELPIE_PATH_BYTES_MAX);
    }
    return share_check_utf8(host, error);
}

/* This one against those before it. */
static int share_check_others(const struct kelpie_config_values *values, uint32_t index,
                              struct kelpie_error *error) {
    const char *guest = kelpie__config_share_text(values, values->shares[index].guest);
    const char *tag = kelpie__config_share_text(values, values->shares[index].tag);
    KELPIE_ASSERT(index < values->share_count);
    KELPIE_ASSERT(guest[0] == '/' && tag[0] != '\0');
    for (uint32_t i = 0; i < index; i += 1) {
        const char *other = kelpie__config_share_text(values, values->shares[i].guest);
        if (share_is_within(guest, other) || share_is_within(other, guest)) {
            return kelpie__fail_field(error, KELPIE_E_CONFIG, SHARE_FIELD,
                                      SHARE_FIELD ": \"%.300s\" and \"%.300s\" in the guest are "
                                                  "one, or in one another; give separate paths",
                                      other, guest);
        }
        if (kelpie__text_equal(tag, kelpie__config_share_text(values, values->shares[i].tag))) {
            return share_fail(error, tag, "is the tag of two; give each its own");
        }
    }
    return 0;
}

static int share_check(const struct kelpie_config_values *values, uint32_t index,
                       struct kelpie_error *error) {
    const struct kelpie_config_share *share = &values->shares[index];
    const char *guest = kelpie__config_share_text(values, share->guest);
    KELPIE_ASSERT(index < values->share_count);
    KELPIE_ASSERT(share->host < share->guest && share->guest < share->tag);
    int status = share_check_host(kelpie__config_share_text(values, share->host), error);
    if (status == 0) {
        status = share_check_utf8(guest, error);
    }
    if (status == 0) {
        status = share_check_guest(guest, error);
    }
    if (status == 0) {
        status = share_check_tag(kelpie__config_share_text(values, share->tag), error);
    }
    return status == 0 ? share_check_others(values, index, error) : status;
}

int kelpie__config_check_shares(const struct kelpie_config_values *values,
                                struct kelpie_error *error) {
    int status = 0;
    KELPIE_ASSERT(values->share_bytes <= sizeof(values->share_texts));
    if (values->share_count > KELPIE_SHARE_COUNT_MAX) {
        return kelpie__fail_field(error, KELPIE_E_TOO_MANY_SHARES, SHARE_FIELD,
                                  SHARE_FIELD ": %u directories are above the maximum of %u; share "
                                              "a directory that holds several",
                                  values->share_count, KELPIE_SHARE_COUNT_MAX);
    }
    for (uint32_t i = 0; i < values->share_count && status == 0; i += 1) {
        status = share_check(values, i, error);
    }
    if (status == 0 && values->share_count > 0 && values->backend == KELPIE_BACKEND_QEMU) {
        status = kelpie__fail_field(error, KELPIE_E_UNSUPPORTED, SHARE_FIELD,
                                    SHARE_FIELD ": " KELPIE_SHARE_QEMU_REASON);
    }
    if (status == 0 && values->share_count > 0 && values->snapshot[0] != '\0') {
        status = kelpie__fail_field(error, KELPIE_E_UNSUPPORTED, SHARE_FIELD,
                                    SHARE_FIELD ": what is made from a snapshot shares no "
                                                "directory, since no snapshot holds one; give "
                                                "one of the two");
    }
    KELPIE_ASSERT(status <= 0);
    return status;
}

int kelpie__config_find_shares(const struct kelpie_config_values *values, struct kelpie_os *os,
                               struct kelpie_error *error) {
    KELPIE_ASSERT(values->share_count <= KELPIE_SHARE_COUNT_MAX);
    for (uint32_t i = 0; i < values->share_count; i += 1) {
        const char *host = kelpie__config_share_text(values, values->shares[i].host);
        KELPIE_ASSERT(host[0] != '\0');
        int file = host[0] != '/' ? -ENOENT /* a relative one that led nowhere */
                                  : kelpie__os_open(os, KELPIE_OS_CWD, host,
                                                    KELPIE_OS_OPEN_READ | KELPIE_OS_OPEN_FOLLOW |
                                                        KELPIE_OS_OPEN_DIRECTORY,
                                                    0);
        if (file >= 0) {
            kelpie__ignore(kelpie__os_close(os, file)); /* it was only looked at */
            continue;
        }
        const char *reason = file == -ENOENT    ? "does not exist; make it"
                             : file == -ENOTDIR ? "is no directory; give one"
                                                : kelpie__errno_text(-file);
        return kelpie__fail_field(error, KELPIE_E_SHARE, SHARE_FIELD,
                                  SHARE_FIELD ": \"%.1000s\" %s%s", host,
                                  file == -ENOENT || file == -ENOTDIR ? "" : "cannot be read: ",
                                  reason != NULL ? reason : "unknown error");
    }
    return 0;
}

/* ---- config.json ----------------------------------------------------------------------------- */

void kelpie__config_write_shares(const struct kelpie_config_values *values,
                                 struct kelpie_json_writer *writer) {
    KELPIE_ASSERT(values->share_count <= KELPIE_SHARE_COUNT_MAX);
    kelpie__json_array_begin(writer, "shares");
    for (uint32_t i = 0; i < values->share_count; i += 1) {
        const struct kelpie_config_share *share = &values->shares[i];
        KELPIE_ASSERT(share->host < share->guest && share->guest < share->tag);
        kelpie__json_object_begin(writer, NULL);
        kelpie__json_write_string(writer, "host", kelpie__config_share_text(values, share->host));
        kelpie__json_write_string(writer, "guest", kelpie__config_share_text(values, share->guest));
        kelpie__json_write_string(writer, "tag", kelpie__config_share_text(values, share->tag));
        kelpie__json_write_bool(writer, "read_only", share->is_read_only);
        kelpie__json_object_end(writer);
    }
    kelpie__json_array_end(writer);
}

static bool share_read(const struct kelpie_json_value *item, struct kelpie_config_values *values) {
    char host[KELPIE_PATH_BYTES_MAX + 1];
    char guest[KELPIE_SHARE_GUEST_BYTES_MAX + 1];
    char tag[KELPIE_SHARE_TAG_BYTES_MAX + 1];
    bool is_read_only = false;
    if (item->kind != KELPIE_JSON_OBJECT ||
        kelpie__json_find_string(item->text, item->length, "host", host, sizeof(host)) < 0 ||
        kelpie__json_find_string(item->text, item->length, "guest", guest, sizeof(guest)) < 0 ||
        kelpie__json_find_string(item->text, item->length, "tag", tag, sizeof(tag)) < 0 ||
        kelpie__json_find_bool(item->text, item->length, "read_only", &is_read_only) < 0) {
        return false;
    }
    uint32_t before = values->share_count;
    KELPIE_ASSERT(before <= KELPIE_SHARE_COUNT_MAX);
    kelpie__config_add_share(values, host, guest, tag, is_read_only);
    KELPIE_ASSERT(values->share_count > before || values->too_long_field != NULL);
    return true;
}

bool kelpie__config_read_shares(const struct kelpie_json_value *list,
                                struct kelpie_config_values *values) {
    struct kelpie_json_value item;
    struct kelpie_json_iterator iterator;
    KELPIE_ASSERT(values->share_count == 0);
    KELPIE_ASSERT(values->share_bytes == 0);
    if (list->text == NULL) {
        return true; /* older files have none */
    }
    if (kelpie__json_iterate(list, &iterator) < 0) {
        return false;
    }
    for (uint32_t i = 0; i <= KELPIE_SHARE_COUNT_MAX; i += 1) {
        int found = kelpie__json_next(&iterator, NULL, &item);
        if (found <= 0 || !share_read(&item, values)) {
            return found == 0;
        }
    }
    return false;
}
