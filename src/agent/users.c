/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * A bounded reader of /etc/passwd and /etc/group: see users.h. Lines that are too long or malformed
 * are passed over, as libc does; a file that is too long is read up to the limit.
 */
#include "agent/users.h"

#include <errno.h>
#include <string.h>

#include "core/text.h"
#include "os/os_call.h"

#define USERS_LINE_BYTES_MAX 4096 /* a group with 400 members fits */
#define USERS_FILE_BYTES_MAX (1024 * 1024)
#define USERS_FIELD_COUNT_MAX 7 /* passwd: name, password, uid, gid, comment, home, shell */

struct users_file {
    struct kelpie_os *os;
    int handle;
    uint64_t offset; /* of the first byte that is not in `bytes` yet */
    size_t begin;
    size_t end;
    char bytes[USERS_LINE_BYTES_MAX];
};

struct users_fields {
    const char *text[USERS_FIELD_COUNT_MAX]; /* borrowed: until the next line is read */
    uint32_t count;
};

static_assert(USERS_LINE_BYTES_MAX < USERS_FILE_BYTES_MAX, "a file has lines");

static void users_check(const struct users_file *file) {
    KELPIE_ASSERT(file->begin <= file->end);
    KELPIE_ASSERT(file->end <= sizeof(file->bytes));
}

static int users_open(struct kelpie_os *os, const char *path, struct users_file *out,
                      struct kelpie_error *error) {
    KELPIE_ASSERT(path[0] == '/');
    out->os = os;
    out->offset = 0;
    out->begin = 0;
    out->end = 0;
    out->handle =
        kelpie__os_open(os, KELPIE_OS_CWD, path, KELPIE_OS_OPEN_READ | KELPIE_OS_OPEN_FOLLOW, 0);
    if (out->handle < 0 && out->handle != -ENOENT) {
        return kelpie__fail(error, KELPIE_E_IO, -out->handle, "open \"%s\"", path);
    }
    return 0; /* a root file system without the file knows no names */
}

static void users_close(struct users_file *file) {
    if (file->handle >= 0) {
        kelpie__ignore(kelpie__os_close(file->os, file->handle)); /* it was only read */
    }
}

/* Moves what is left to the front and reads more behind it. False when nothing came. */
static bool users_fill(struct users_file *file) {
    users_check(file);
    KELPIE_ASSERT(file->handle >= 0);
    memmove(file->bytes, file->bytes + file->begin, file->end - file->begin);
    file->end -= file->begin;
    file->begin = 0;
    if (file->end == sizeof(file->bytes)) {
        file->end =
            0; /* a line longer than the buffer: its head goes, its tail parses as nothing */
    }
    if (file->offset >= USERS_FILE_BYTES_MAX) {
        return false;
    }
    int64_t count = kelpie__os_pread(file->os, file->handle, file->bytes + file->end,
                                     sizeof(file->bytes) - file->end, file->offset);
    if (count <= 0) {
        return false;
    }
    file->end += (size_t)count;
    file->offset += (uint64_t)count;
    users_check(file);
    return true;
}

/* The next line, cut into its fields in place. False at the end of the file; a last line without
 * newline is given. */
static bool users_next(struct users_file *file, struct users_fields *out) {
    if (file->handle < 0) {
        return false;
    }
    char *newline = memchr(file->bytes + file->begin, '\n', file->end - file->begin);
    while (newline == NULL && users_fill(file)) {
        newline = memchr(file->bytes, '\n', file->end);
    }
    if (newline == NULL) {
        if (file->begin == file->end || file->end == sizeof(file->bytes)) {
            return false;
        }
        newline = file->bytes + file->end;
        file->end += 1;
    }
    char *at = file->bytes + file->begin;
    file->begin = (size_t)(newline - file->bytes) + 1;
    KELPIE_ASSERT(file->begin <= file->end);
    *newline = '\0';
    out->count = 0;
    while (at != NULL && out->count < USERS_FIELD_COUNT_MAX) {
        out->text[out->count] = at;
        out->count += 1;
        at = strchr(at, ':');
        if (at != NULL) {
            *at = '\0';
            at += 1;
        }
    }
    KELPIE_ASSERT(out->count >= 1);
    return true;
}

static bool users_parse_number(const char *text, uint32_t *out) {
    uint64_t value = 0;
    if (!kelpie__text_u64(text, &value) || value >= UINT32_MAX) {
        return false; /* (uid_t)-1 means "unchanged" to the kernel */
    }
    *out = (uint32_t)value;
    return true;
}

/* Finds the user by name or number in /etc/passwd. 1 found, 0 not, or an error. */
static int users_find_user(struct kelpie_os *os, const char *name, struct kelpie_agent_user *out,
                           struct kelpie_error *error) {
    KELPIE_ASSERT(out->group_count == 0);
    KELPIE_ASSERT(name[0] != '\0');
    uint32_t number = 0;
    bool is_number = users_parse_number(name, &number);
    struct users_file file;
    int status = users_open(os, "/etc/passwd", &file, error);
    if (status < 0) {
        return status;
    }
    struct users_fields fields;
    bool is_found = false;
    while (!is_found && users_next(&file, &fields)) {
        uint32_t uid = 0;
        uint32_t gid = 0;
        bool is_valid = fields.count >= 6 && users_parse_number(fields.text[2], &uid) &&
                        users_parse_number(fields.text[3], &gid);
        bool is_match = strcmp(fields.text[0], name) == 0 || (is_number && uid == number);
        if (is_valid && is_match) {
            const char *home = fields.text[5][0] == '/' ? fields.text[5] : "/";
            out->uid = uid;
            out->gid = gid;
            is_found = kelpie__text_copy(out->name, sizeof(out->name), fields.text[0]) &&
                       kelpie__text_copy(out->home, sizeof(out->home), home);
        }
    }
    users_close(&file);
    if (!is_found && is_number) {
        out->uid = number;
        out->gid = 0;
        out->name[0] = '\0';
        is_found = kelpie__text_copy(out->home, sizeof(out->home), "/");
    }
    return is_found ? 1 : 0;
}

static int users_find_group(struct kelpie_os *os, const char *name, uint32_t *out,
                            struct kelpie_error *error) {
    KELPIE_ASSERT(name[0] != '\0');
    if (users_parse_number(name, out)) {
        return 1;
    }
    struct users_file file;
    int status = users_open(os, "/etc/group", &file, error);
    if (status < 0) {
        return status;
    }
    struct users_fields fields;
    bool is_found = false;
    while (!is_found && users_next(&file, &fields)) {
        is_found = fields.count >= 3 && strcmp(fields.text[0], name) == 0 &&
                   users_parse_number(fields.text[2], out);
    }
    users_close(&file);
    return is_found ? 1 : 0;
}

static bool users_is_member(const char *members, const char *name) {
    KELPIE_ASSERT(name[0] != '\0');
    size_t length = strlen(name);
    const char *at = members;
    while (at != NULL) {
        const char *comma = strchr(at, ',');
        size_t size = comma == NULL ? strlen(at) : (size_t)(comma - at);
        if (size == length && memcmp(at, name, length) == 0) {
            return true;
        }
        at = comma == NULL ? NULL : comma + 1;
    }
    return false;
}

static int users_find_supplementary(struct kelpie_os *os, struct kelpie_agent_user *inout,
                                    struct kelpie_error *error) {
    KELPIE_ASSERT(inout->name[0] != '\0');
    KELPIE_ASSERT(inout->group_count == 0);
    struct users_file file;
    int status = users_open(os, "/etc/group", &file, error);
    if (status < 0) {
        return status;
    }
    struct users_fields fields;
    while (inout->group_count < KELPIE_AGENT_USER_GROUP_COUNT_MAX && users_next(&file, &fields)) {
        uint32_t gid = 0;
        if (fields.count >= 4 && users_parse_number(fields.text[2], &gid) &&
            users_is_member(fields.text[3], inout->name)) {
            inout->groups[inout->group_count] = gid;
            inout->group_count += 1;
        }
    }
    users_close(&file);
    KELPIE_ASSERT(inout->group_count <= KELPIE_AGENT_USER_GROUP_COUNT_MAX);
    return 0;
}

int kelpie__agent_user_find(struct kelpie_os *os, const char *specification,
                            struct kelpie_agent_user *out, struct kelpie_error *error) {
    char name[KELPIE_AGENT_USER_NAME_BYTES_MAX];
    const char *colon = strchr(specification, ':');
    size_t length = colon == NULL ? strlen(specification) : (size_t)(colon - specification);
    if (length == 0 || length >= sizeof(name) || (colon != NULL && colon[1] == '\0')) {
        return kelpie__fail(error, KELPIE_E_EXEC, 0,
                            "user \"%.100s\" has not the form name|uid[:group|gid]", specification);
    }
    memcpy(name, specification, length);
    name[length] = '\0';
    struct kelpie_agent_user user = {0};
    int status = users_find_user(os, name, &user, error);
    if (status == 0) {
        return kelpie__fail(error, KELPIE_E_EXEC, 0,
                            "user \"%s\" is not in the guest's /etc/passwd", name);
    }
    if (status > 0 && colon != NULL) {
        status = users_find_group(os, colon + 1, &user.gid, error);
        if (status == 0) {
            return kelpie__fail(error, KELPIE_E_EXEC, 0,
                                "group \"%.100s\" is not in the guest's /etc/group", colon + 1);
        }
    } else if (status > 0 && user.name[0] != '\0') {
        status = users_find_supplementary(os, &user, error);
    }
    if (status < 0) {
        return status;
    }
    KELPIE_ASSERT(user.home[0] == '/');
    KELPIE_ASSERT(user.group_count <= KELPIE_AGENT_USER_GROUP_COUNT_MAX);
    *out = user;
    return 0;
}
