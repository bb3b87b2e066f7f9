/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * See config.h.
 */
#include "core/config.h"

#include <string.h>

#include "core/json.h"
#include "core/text.h"

static const char *const accelerator_names[] = {"auto", "kvm", "tcg"};
static const char *const backend_names[] = {"auto", "qemu", "krun"};
static const char *const channel_names[] = {"serial", "vsock"};
static const char *const lifetime_names[] = {"owned", "detached"};

static_assert(KELPIE_ARRAY_COUNT(accelerator_names) == KELPIE_ACCELERATOR_TCG + 1,
              "all have names");
static_assert(KELPIE_ARRAY_COUNT(backend_names) == KELPIE_BACKEND_KRUN + 1, "all have names");
static_assert(KELPIE_ARRAY_COUNT(lifetime_names) == KELPIE_LIFETIME_DETACHED + 1, "all have names");
static_assert(KELPIE_ENVIRONMENT_BYTES_MAX <= UINT32_MAX, "its bytes are counted in 32 bits");

void kelpie__config_defaults(struct kelpie_config_values *values) {
    memset(values, 0, offsetof(struct kelpie_config_values, root));
    values->cpus = KELPIE_CPUS_DEFAULT;
    values->memory_mib = KELPIE_MEMORY_MIB_DEFAULT;
    values->boot_timeout_ms = KELPIE_BOOT_TIMEOUT_MS_DEFAULT;
    values->uses_template = true;
    values->accelerator = KELPIE_ACCELERATOR_AUTO;
    values->lifetime = KELPIE_LIFETIME_OWNED;
    values->root[0] = '\0';
    values->kernel[0] = '\0';
    values->working_directory[0] = '\0';
    values->environment[0] = '\0';
}

static void copy_text(char *out, size_t capacity, const char *text) {
    bool is_whole = kelpie__text_copy(out, capacity, text);
    KELPIE_ASSERT(is_whole); /* it stood in a field of the same size */
}

void kelpie__config_copy(struct kelpie_config_values *out,
                         const struct kelpie_config_values *from) {
    KELPIE_ASSERT(from->environment_bytes <= sizeof(from->environment));
    KELPIE_ASSERT(from->share_bytes <= sizeof(from->share_texts));
    memcpy(out, from, offsetof(struct kelpie_config_values, root));
    copy_text(out->root, sizeof(out->root), from->root);
    copy_text(out->kernel, sizeof(out->kernel), from->kernel);
    copy_text(out->working_directory, sizeof(out->working_directory), from->working_directory);
    memcpy(out->environment, from->environment, from->environment_bytes);
    memcpy(out->share_texts, from->share_texts, from->share_bytes);
}

void kelpie__config_set_text(struct kelpie_config_values *values, char *field, size_t capacity,
                             const char *field_name, const char *text) {
    KELPIE_ASSERT(capacity > 1);
    KELPIE_ASSERT(field_name != NULL);
    if (!kelpie__text_copy(field, capacity, text == NULL ? "" : text)) {
        values->too_long_field = field_name;
    }
}

void kelpie__config_add_environment(struct kelpie_config_values *values, const char *assignment) {
    size_t needed = strlen(assignment) + 1;
    KELPIE_ASSERT(values->environment_bytes <= sizeof(values->environment));
    KELPIE_ASSERT(values->environment_count <= KELPIE_ENVIRONMENT_MAX);
    if (needed > sizeof(values->environment) - values->environment_bytes ||
        values->environment_count == KELPIE_ENVIRONMENT_MAX) {
        values->too_long_field = "environment";
        return;
    }
    memcpy(values->environment + values->environment_bytes, assignment, needed);
    values->environment_bytes += (uint32_t)needed;
    values->environment_count += 1;
}

/* ---- what is wrong --------------------------------------------------------------------------- */

struct problem_list {
    struct kelpie_error *problems;
    uint32_t count;
};

static struct kelpie_error *problem_add(struct problem_list *list) {
    KELPIE_ASSERT(list->count < KELPIE_CONFIG_PROBLEM_MAX);
    struct kelpie_error *problem = &list->problems[list->count];
    *problem = (struct kelpie_error){0};
    list->count += 1;
    KELPIE_ASSERT(list->count <= KELPIE_CONFIG_PROBLEM_MAX);
    return problem;
}

static void check_range(struct problem_list *list, const char *field, const char *unit,
                        uint64_t value, uint64_t least, uint64_t most) {
    KELPIE_ASSERT(least <= most);
    if (value >= least && value <= most) {
        return;
    }
    bool is_below = value < least;
    kelpie__ignore(kelpie__fail_field(problem_add(list), KELPIE_E_CONFIG, field,
                                      "%s: %llu is %s the %s of %llu%s; give %llu to %llu", field,
                                      (unsigned long long)value, is_below ? "below" : "above",
                                      is_below ? "minimum" : "maximum",
                                      (unsigned long long)(is_below ? least : most), unit,
                                      (unsigned long long)least, (unsigned long long)most));
}

static void check_absolute(struct problem_list *list, const char *field, const char *path) {
    if (path[0] != '\0' && path[0] != '/') {
        kelpie__ignore(kelpie__fail_field(problem_add(list), KELPIE_E_CONFIG, field,
                                          "%s: \"%s\" is not an absolute path; begin it with /",
                                          field, path));
    }
}

/* config.json is UTF-8: another text would come back changed. */
static void check_utf8(struct problem_list *list, const char *field, const char *text,
                       size_t length) {
    size_t at = 0;
    while (at < length) { /* bound: the text */
        size_t step = text[at] == '\0' ? 1 : kelpie__text_utf8_length(text + at, length - at);
        KELPIE_ASSERT(step <= length - at);
        if (step == 0) {
            kelpie__ignore(kelpie__fail_field(
                problem_add(list), KELPIE_E_CONFIG, field,
                "%s: byte %zu (0x%02x) is not UTF-8; give a text or path that is", field, at,
                (unsigned)(unsigned char)text[at]));
            return;
        }
        at += step;
    }
    KELPIE_ASSERT(at == length);
}

static void check_texts(struct problem_list *list, const struct kelpie_config_values *values) {
    KELPIE_ASSERT(values->environment_bytes <= sizeof(values->environment));
    check_utf8(list, "root", values->root, strlen(values->root));
    check_utf8(list, "kernel", values->kernel, strlen(values->kernel));
    check_utf8(list, "working_directory", values->working_directory,
               strlen(values->working_directory));
    check_utf8(list, "environment", values->environment, values->environment_bytes);
    check_absolute(list, "working_directory", values->working_directory);
}

/* An embedder may have cast anything into the enumerations. */
static void check_choice(struct problem_list *list, const char *field, const char *const *names,
                         size_t name_count, int value) {
    KELPIE_ASSERT(name_count > 1);
    if (value < 0 || (size_t)value >= name_count) {
        kelpie__ignore(kelpie__fail_field(problem_add(list), KELPIE_E_CONFIG, field,
                                          "%s: %d is no choice; give 0 (%s) to %zu (%s)", field,
                                          value, names[0], name_count - 1, names[name_count - 1]));
    }
}

static void check_disk(struct problem_list *list, const struct kelpie_config_values *values) {
    if (values->disk_size_mib != 0) {
        check_range(list, "disk_size_mib", " MiB", values->disk_size_mib, KELPIE_DISK_SIZE_MIB_MIN,
                    KELPIE_DISK_SIZE_MIB_MAX);
    }
    if (values->disk_size_mib != 0 && values->is_read_only) {
        kelpie__ignore(kelpie__fail_field(
            problem_add(list), KELPIE_E_CONFIG, "read_only",
            "read_only: a read-only VM has no writable disk, and disk_size_mib is %llu; give one "
            "of them only",
            (unsigned long long)values->disk_size_mib));
    }
}

static void check_environment(struct problem_list *list,
                              const struct kelpie_config_values *values) {
    const char *next = values->environment;
    const char *end = values->environment + values->environment_bytes;
    while (next < end) { /* bound: the buffer */
        const char *equals = strchr(next, '=');
        if (equals == NULL || equals == next) {
            kelpie__ignore(kelpie__fail_field(
                problem_add(list), KELPIE_E_CONFIG, "environment",
                "environment: \"%.64s\" has no name and value; write NAME=value", next));
            return;
        }
        next += strlen(next) + 1;
    }
}

/* field NULL: none was. */
static void check_too_long(struct problem_list *list, const char *field) {
    if (field == NULL) {
        return;
    }
    bool is_environment = kelpie__text_equal(field, "environment");
    bool is_share = kelpie__text_equal(field, "share");
    KELPIE_ASSERT(!(is_environment && is_share));
    kelpie__ignore(kelpie__fail_field(
        problem_add(list), KELPIE_E_CONFIG, field, "%s: longer than the limit of %u bytes%s", field,
        is_environment ? KELPIE_ENVIRONMENT_BYTES_MAX
        : is_share     ? KELPIE_SHARE_BYTES_MAX
                       : KELPIE_PATH_BYTES_MAX,
        is_environment ? " or 256 entries; give the rest to the command itself"
        : is_share     ? ", all paths and tags together; give shorter ones"
                       : ""));
}

static void check_snapshot(struct problem_list *list, const struct kelpie_config_values *values) {
    struct kelpie_error name = {0};
    if (values->snapshot[0] == '\0') {
        return;
    }
    if (kelpie__config_check_name(values->snapshot, &name) < 0) {
        kelpie__ignore(kelpie__fail_field(problem_add(list), KELPIE_E_CONFIG, "snapshot",
                                          "snapshot: %s", name.message));
    }
    if (values->channel == KELPIE_CHANNEL_VSOCK) {
        kelpie__ignore(kelpie__fail_field(
            problem_add(list), KELPIE_E_UNSUPPORTED, "channel",
            "channel: what is made from a snapshot has the channel serial, not vsock"));
    }
}

uint32_t kelpie__config_problems(const struct kelpie_config_values *values,
                                 struct kelpie_error problems[KELPIE_CONFIG_PROBLEM_MAX]) {
    struct problem_list list = {problems, 0};
    check_range(&list, "cpus", "", values->cpus, KELPIE_CPUS_MIN, KELPIE_CPUS_MAX);
    check_range(&list, "memory_mib", " MiB", values->memory_mib, KELPIE_MEMORY_MIB_MIN,
                KELPIE_MEMORY_MIB_MAX);
    check_range(&list, "boot_timeout_ms", " ms", values->boot_timeout_ms, 1,
                KELPIE_BOOT_TIMEOUT_MS_MAX);
    check_choice(&list, "accelerator", accelerator_names, KELPIE_ARRAY_COUNT(accelerator_names),
                 (int)values->accelerator);
    check_choice(&list, "backend", backend_names, KELPIE_ARRAY_COUNT(backend_names),
                 (int)values->backend);
    check_choice(&list, "channel", channel_names, KELPIE_ARRAY_COUNT(channel_names),
                 (int)values->channel);
    check_choice(&list, "lifetime", lifetime_names, KELPIE_ARRAY_COUNT(lifetime_names),
                 (int)values->lifetime);
    check_disk(&list, values);
    check_texts(&list, values);
    check_environment(&list, values);
    check_snapshot(&list, values);
    struct kelpie_error share = {0};
    if (kelpie__config_check_shares(values, &share) < 0) {
        *problem_add(&list) = share;
    }
    check_too_long(&list, values->too_long_field);
    KELPIE_ASSERT(list.count <= KELPIE_CONFIG_PROBLEM_MAX);
    return list.count;
}

static bool name_character_is_good(char character, bool is_first) {
    bool is_plain =
        (character >= 'a' && character <= 'z') || (character >= '0' && character <= '9');
    return is_plain || (!is_first && (character == '_' || character == '.' || character == '-'));
}

int kelpie__config_check_name(const char *name, struct kelpie_error *error) {
    size_t length = strlen(name);
    if (length == 0) {
        return kelpie__fail_field(error, KELPIE_E_CONFIG, "name",
                                  "name: it is empty; give 1 to %u characters",
                                  KELPIE_NAME_BYTES_MAX);
    }
    if (length > KELPIE_NAME_BYTES_MAX) {
        return kelpie__fail_field(error, KELPIE_E_CONFIG, "name",
                                  "name: \"%.16s...\" has %zu characters, the limit is %u; "
                                  "give a shorter one",
                                  name, length, KELPIE_NAME_BYTES_MAX);
    }
    for (size_t i = 0; i < length; i += 1) {
        if (!name_character_is_good(name[i], i == 0)) {
            return kelpie__fail_field(
                error, KELPIE_E_CONFIG, "name",
                "name: \"%s\" has '%c' at position %zu; use a-z 0-9 _ . - and begin with a letter "
                "or digit",
                name, name[i], i + 1);
        }
    }
    return 0;
}

/* ---- config.json ----------------------------------------------------------------------------- */

const char *kelpie__accelerator_name(enum kelpie_accelerator accelerator) {
    KELPIE_ASSERT((size_t)accelerator < KELPIE_ARRAY_COUNT(accelerator_names));
    return accelerator_names[accelerator];
}

int64_t kelpie__config_write(const struct kelpie_config_values *values, char *out,
                             size_t capacity) {
    struct kelpie_json_writer writer;
    KELPIE_ASSERT((size_t)values->lifetime < KELPIE_ARRAY_COUNT(lifetime_names));
    kelpie__json_begin(&writer, out, capacity);
    kelpie__json_object_begin(&writer, NULL);
    kelpie__json_write_u64(&writer, "format", KELPIE_CONFIG_FORMAT);
    kelpie__json_write_string(&writer, "id", values->id);
    kelpie__json_write_string(&writer, "name", values->name);
    kelpie__json_write_i64(&writer, "created_ms", values->created_ms);
    kelpie__json_write_u64(&writer, "cpus", values->cpus);
    kelpie__json_write_u64(&writer, "memory_mib", values->memory_mib);
    kelpie__json_write_u64(&writer, "disk_size_mib", values->disk_size_mib);
    kelpie__json_write_u64(&writer, "boot_timeout_ms", values->boot_timeout_ms);
    kelpie__json_write_bool(&writer, "read_only", values->is_read_only);
    kelpie__json_write_bool(&writer, "is_ephemeral", values->is_ephemeral);
    kelpie__json_write_bool(&writer, "overcommit", values->allows_overcommit);
    kelpie__json_write_bool(&writer, "template", values->uses_template);
    kelpie__json_write_string(&writer, "accel", accelerator_names[values->accelerator]);
    kelpie__json_write_string(&writer, "backend", backend_names[values->backend]);
    kelpie__json_write_string(&writer, "channel", channel_names[values->channel]);
    kelpie__json_write_string(&writer, "lifetime", lifetime_names[values->lifetime]);
    kelpie__json_write_string(&writer, "root", values->root);
    kelpie__json_write_string(&writer, "kernel", values->kernel);
    kelpie__json_write_string(&writer, "working_directory", values->working_directory);
    kelpie__json_write_string(&writer, "snapshot", values->snapshot);
    kelpie__json_write_bool(&writer, "snapshot_transient", values->is_snapshot_transient);
    kelpie__json_array_begin(&writer, "environment");
    const char *next = values->environment;
    for (uint32_t i = 0; i < values->environment_count; i += 1) {
        kelpie__json_write_string(&writer, NULL, next);
        next += strlen(next) + 1;
    }
    kelpie__json_array_end(&writer);
    kelpie__config_write_shares(values, &writer);
    kelpie__json_object_end(&writer);
    return kelpie__json_finish(&writer);
}

/* The index of a text in a list of names; -1: none. */
static int name_find(const char *text, const char *const *names, size_t count) {
    for (size_t i = 0; i < count; i += 1) {
        if (kelpie__text_equal(text, names[i])) {
            return (int)i;
        }
    }
    return -1;
}

#define CONFIG_MEMBERS(M)                                                                          \
    M(format)                                                                                      \
    M(id)                                                                                          \
    M(name)                                                                                        \
    M(created_ms)                                                                                  \
    M(cpus)                                                                                        \
    M(memory_mib)                                                                                  \
    M(disk_size_mib)                                                                               \
    M(boot_timeout_ms)                                                                             \
    M(read_only)                                                                                   \
    M(is_ephemeral)                                                                                \
    M(overcommit)                                                                                  \
    M(template)                                                                                    \
    M(accel)                                                                                       \
    M(backend)                                                                                     \
    M(channel)                                                                                     \
    M(lifetime)                                                                                    \
    M(root)                                                                                        \
    M(kernel)                                                                                      \
    M(working_directory)                                                                           \
    M(snapshot)                                                                                    \
    M(snapshot_transient)                                                                          \
    M(environment)                                                                                 \
    M(shares)

/* As kelpie__config_write writes them. */
enum config_member {
#define MEMBER_INDEX(name) CONFIG_##name,
    CONFIG_MEMBERS(MEMBER_INDEX)
#undef MEMBER_INDEX
        CONFIG_MEMBER_COUNT,
};

/* Of a member that older files do not have: the first name is what they mean. -1: unknown. */
static int read_later_enum(const struct kelpie_json_member *member, const char *const *names,
                           size_t count) {
    char word[16];
    KELPIE_ASSERT(count > 0);
    if (member->value.text == NULL) {
        return 0;
    }
    return kelpie__json_string(&member->value, word, sizeof(word), NULL) == 0
               ? name_find(word, names, count)
               : -1;
}

static bool read_enums(const struct kelpie_json_member *members,
                       struct kelpie_config_values *values) {
    char word[16];
    int accelerator = -1;
    int lifetime = -1;
    if (kelpie__json_string(&members[CONFIG_accel].value, word, sizeof(word), NULL) == 0) {
        accelerator = name_find(word, accelerator_names, KELPIE_ARRAY_COUNT(accelerator_names));
    }
    if (kelpie__json_string(&members[CONFIG_lifetime].value, word, sizeof(word), NULL) == 0) {
        lifetime = name_find(word, lifetime_names, KELPIE_ARRAY_COUNT(lifetime_names));
    }
    if (accelerator < 0 || lifetime < 0) {
        return false;
    }
    int backend =
        read_later_enum(&members[CONFIG_backend], backend_names, KELPIE_ARRAY_COUNT(backend_names));
    int channel =
        read_later_enum(&members[CONFIG_channel], channel_names, KELPIE_ARRAY_COUNT(channel_names));
    if (backend < 0 || channel < 0) {
        return false;
    }
    values->backend = (enum kelpie_backend)backend;
    values->channel = (enum kelpie_channel)channel;
    values->accelerator = (enum kelpie_accelerator)accelerator;
    values->lifetime = (enum kelpie_lifetime)lifetime;
    return true;
}

static bool read_environment(const struct kelpie_json_value *list,
                             struct kelpie_config_values *values) {
    struct kelpie_json_value item;
    struct kelpie_json_iterator iterator;
    if (kelpie__json_iterate(list, &iterator) < 0) {
        return false;
    }
    for (uint32_t i = 0; i <= KELPIE_ENVIRONMENT_MAX; i += 1) {
        int found = kelpie__json_next(&iterator, NULL, &item);
        if (found <= 0) {
            return found == 0;
        }
        size_t room = sizeof(values->environment) - values->environment_bytes;
        char *place = values->environment + values->environment_bytes;
        if (room == 0 || kelpie__json_string(&item, place, room, NULL) < 0) {
            return false;
        }
        values->environment_bytes += (uint32_t)strlen(place) + 1;
        values->environment_count += 1;
    }
    return false;
}

static bool read_values(const struct kelpie_json_member *members,
                        struct kelpie_config_values *values) {
#define READ_TEXT(key)                                                                             \
    (kelpie__json_string(&members[CONFIG_##key].value, values->key, sizeof(values->key), NULL) == 0)
#define READ_U64(key) (kelpie__json_u64(&members[CONFIG_##key].value, &values->key) == 0)
#define READ_BOOL(key, field) (kelpie__json_bool(&members[CONFIG_##key].value, &values->field) == 0)
    bool has_numbers =
        kelpie__json_i64(&members[CONFIG_created_ms].value, &values->created_ms) == 0 &&
        READ_U64(cpus) && READ_U64(memory_mib) && READ_U64(disk_size_mib) &&
        READ_U64(boot_timeout_ms);
    bool has_flags = READ_BOOL(read_only, is_read_only) && READ_BOOL(is_ephemeral, is_ephemeral) &&
                     READ_BOOL(overcommit, allows_overcommit);
    bool has_texts = READ_TEXT(id) && READ_TEXT(name) && READ_TEXT(root) && READ_TEXT(kernel) &&
                     READ_TEXT(working_directory);
    kelpie__ignore(READ_TEXT(snapshot)); /* older files have none of these */
    kelpie__ignore(READ_BOOL(template, uses_template));
    kelpie__ignore(READ_BOOL(snapshot_transient, is_snapshot_transient));
#undef READ_TEXT
#undef READ_U64
#undef READ_BOOL
    return has_numbers && has_flags && has_texts && read_enums(members, values) &&
           read_environment(&members[CONFIG_environment].value, values) &&
           kelpie__config_read_shares(&members[CONFIG_shares].value, values);
}

int kelpie__config_read(const char *text, size_t length, struct kelpie_config_values *out,
                        struct kelpie_error *error) {
    uint64_t format = 0;
    struct kelpie_json_member members[] = {
#define MEMBER_KEY(name) {.key = #name},
        CONFIG_MEMBERS(MEMBER_KEY)
#undef MEMBER_KEY
    };
    bool is_whole = kelpie__json_members(text, length, members, CONFIG_MEMBER_COUNT) == 0;
    if (kelpie__json_u64(&members[CONFIG_format].value, &format) < 0) {
        return kelpie__fail(error, KELPIE_E_IO, 0,
                            "config.json is damaged: it has no format; delete the VM");
    }
    if (format != KELPIE_CONFIG_FORMAT) {
        return kelpie__fail(
            error, KELPIE_E_UNSUPPORTED, 0,
            "config.json has format %llu, this version knows %u; use a newer Kelpie",
            (unsigned long long)format, KELPIE_CONFIG_FORMAT);
    }
    kelpie__config_defaults(out);
    struct kelpie_error problems[KELPIE_CONFIG_PROBLEM_MAX];
    if (!is_whole || !read_values(members, out)) {
        return kelpie__fail(error, KELPIE_E_IO, 0, "config.json is damaged; delete the VM");
    }
    if (kelpie__config_problems(out, problems) > 0) {
        return kelpie__fail(error, KELPIE_E_IO, 0, "config.json: %s", problems[0].message);
    }
    return 0;
}
