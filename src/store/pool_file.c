/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * See pool_file.h.
 */
#include "store/pool_file.h"

#include <errno.h>
#include <string.h>

#include "core/json.h"
#include "core/small_file.h"
#include "core/text.h"
#include "os/os_call.h"

#define POOL_FORMAT 1u
#define POOL_FILE "pool.json"
#define POOL_CONFIG_FILE "config.json"
#define POOL_STATUS_FILE "keeper.json"
#define POOL_JSON_BYTES 1024u
/* the problem, every byte escaped to six */
#define POOL_STATUS_BYTES (6u * 1024u + 512u)

static int write_values(struct kelpie_os *os, int directory,
                        const struct kelpie_pool_values *values, struct kelpie_error *error) {
    KELPIE_ASSERT(values->size <= KELPIE_POOL_SIZE_MAX);
    KELPIE_ASSERT(values->concurrency <= KELPIE_POOL_CONCURRENCY_MAX);
    KELPIE_ASSERT(values->owner_pid >= 0);
    char text[POOL_JSON_BYTES];
    struct kelpie_json_writer writer;
    kelpie__json_begin(&writer, text, sizeof(text));
    kelpie__json_object_begin(&writer, NULL);
    kelpie__json_write_u64(&writer, "format", POOL_FORMAT);
    kelpie__json_write_string(&writer, "id", values->id);
    kelpie__json_write_string(&writer, "name", values->name);
    kelpie__json_write_i64(&writer, "created_ms", values->created_ms);
    kelpie__json_write_u64(&writer, "size", values->size);
    kelpie__json_write_u64(&writer, "concurrency", values->concurrency);
    kelpie__json_write_i64(&writer, "owner_pid", values->owner_pid);
    kelpie__json_object_end(&writer);
    int64_t length = kelpie__json_finish(&writer);
    KELPIE_ASSERT(length > 0); /* every field is bounded */
    return kelpie__small_file_replace_synced(os, directory, POOL_FILE, text, (size_t)length, error);
}

int kelpie__pool_file_write(struct kelpie_os *os, int directory,
                            const struct kelpie_pool_values *values,
                            const struct kelpie_config_values *config, struct kelpie_error *error) {
    KELPIE_ASSERT(directory >= 0);
    int status = write_values(os, directory, values, error);
    if (status < 0) {
        return status;
    }
    char *text = kelpie__alloc_raw(os, KELPIE_CONFIG_JSON_BYTES_MAX);
    if (text == NULL) {
        return kelpie__fail(error, KELPIE_E_MEMORY, 0, "no memory for a configuration");
    }
    int64_t length = kelpie__config_write(config, text, KELPIE_CONFIG_JSON_BYTES_MAX);
    KELPIE_ASSERT(length > 0); /* the buffer is made for the largest one */
    status = kelpie__small_file_replace_synced(os, directory, POOL_CONFIG_FILE, text,
                                               (size_t)length, error);
    kelpie__free(os, text, KELPIE_CONFIG_JSON_BYTES_MAX);
    return status;
}

static bool read_number(const char *text, size_t length, const char *key, uint64_t max,
                        uint64_t *out) {
    return kelpie__json_find_u64(text, length, key, out) == 0 && *out <= max;
}

int kelpie__pool_file_read(struct kelpie_os *os, int directory, struct kelpie_pool_values *out,
                           struct kelpie_error *error) {
    char text[POOL_JSON_BYTES];
    struct kelpie_pool_values values = {0};
    uint64_t format = 0;
    uint64_t size = 0;
    uint64_t concurrency = 0;
    uint64_t owner_pid = 0;
    uint8_t id[sizeof(values.id) / 2];
    int64_t count = kelpie__small_file_read_at(os, directory, POOL_FILE, text, sizeof(text));
    if (count == -ENOENT) {
        return kelpie__fail(error, KELPIE_E_NOT_FOUND, 0, "the pool is being removed");
    }
    if (count < 0) {
        return kelpie__fail(error, KELPIE_E_IO, (int)-count, "read " POOL_FILE);
    }
    size_t length = (size_t)count;
    if (kelpie__json_find_u64(text, length, "format", &format) == 0 && format != POOL_FORMAT) {
        return kelpie__fail(error, KELPIE_E_UNSUPPORTED, 0,
                            POOL_FILE " has format %llu, this version knows %u; use a newer Kelpie",
                            (unsigned long long)format, POOL_FORMAT);
    }
    bool is_valid =
        kelpie__json_validate(text, length) == 0 && format == POOL_FORMAT &&
        kelpie__json_find_string(text, length, "id", values.id, sizeof(values.id)) == 0 &&
        kelpie__json_find_string(text, length, "name", values.name, sizeof(values.name)) == 0 &&
        kelpie__json_find_i64(text, length, "created_ms", &values.created_ms) == 0 &&
        read_number(text, length, "size", KELPIE_POOL_SIZE_MAX, &size) &&
        read_number(text, length, "concurrency", KELPIE_POOL_CONCURRENCY_MAX, &concurrency) &&
        read_number(text, length, "owner_pid", INT32_MAX, &owner_pid) &&
        kelpie__text_unhex(values.id, id, sizeof(id)) && size > 0 && concurrency > 0;
    if (!is_valid) {
        return kelpie__fail(error, KELPIE_E_IO, 0,
                            POOL_FILE " is damaged; remove the pool's directory");
    }
    values.size = (uint32_t)size;
    values.concurrency = (uint32_t)concurrency;
    values.owner_pid = (int32_t)owner_pid;
    KELPIE_ASSERT(strlen(values.id) == 2 * sizeof(id));
    *out = values;
    return 0;
}

int kelpie__pool_directory_config(const struct kelpie_pool_directory *pool,
                                  struct kelpie_config_values *out, struct kelpie_error *error) {
    struct kelpie_os *os = pool->store->os;
    kelpie__pool_directory_check(pool);
    char *text = kelpie__alloc_raw(os, KELPIE_CONFIG_JSON_BYTES_MAX);
    if (text == NULL) {
        return kelpie__fail(error, KELPIE_E_MEMORY, 0, "no memory for a configuration");
    }
    int64_t length = kelpie__small_file_read_at(os, pool->directory, POOL_CONFIG_FILE, text,
                                                KELPIE_CONFIG_JSON_BYTES_MAX);
    int status = length < 0
                     ? kelpie__fail(error, KELPIE_E_IO, (int)-length,
                                    "read the configuration of pool \"%s\"", pool->values.name)
                     : kelpie__config_read(text, (size_t)length, out, error);
    kelpie__free(os, text, KELPIE_CONFIG_JSON_BYTES_MAX);
    return status;
}

int kelpie__pool_directory_write_status(const struct kelpie_pool_directory *pool,
                                        const struct kelpie_pool_status *status,
                                        struct kelpie_error *error) {
    char text[POOL_STATUS_BYTES];
    struct kelpie_json_writer writer;
    kelpie__pool_directory_check(pool);
    static_assert(6 * sizeof(status->problem) + 256u <= POOL_STATUS_BYTES, "every status fits");
    KELPIE_ASSERT(status->making_count <= KELPIE_POOL_SIZE_MAX);
    KELPIE_ASSERT(status->problem_code <= 0);
    kelpie__json_begin(&writer, text, sizeof(text));
    kelpie__json_object_begin(&writer, NULL);
    kelpie__json_write_i64(&writer, "keeper_pid", status->keeper_pid);
    kelpie__json_write_u64(&writer, "making", status->making_count);
    kelpie__json_write_u64(&writer, "made", status->made_count);
    kelpie__json_write_u64(&writer, "failures", status->failure_count);
    kelpie__json_write_i64(&writer, "problem_code", status->problem_code);
    kelpie__json_write_string(&writer, "problem", status->problem);
    kelpie__json_object_end(&writer);
    int64_t length = kelpie__json_finish(&writer);
    KELPIE_ASSERT(length > 0); /* every field is bounded */
    return kelpie__small_file_replace(pool->store->os, pool->directory, POOL_STATUS_FILE, text,
                                      (size_t)length, error);
}

void kelpie__pool_directory_read_status(const struct kelpie_pool_directory *pool,
                                        struct kelpie_pool_status *out) {
    kelpie__pool_directory_check(pool);
    char text[POOL_STATUS_BYTES];
    int64_t pid = 0;
    int64_t code = 0;
    uint64_t making = 0;
    *out = (struct kelpie_pool_status){0};
    int64_t count = kelpie__small_file_read_at(pool->store->os, pool->directory, POOL_STATUS_FILE,
                                               text, sizeof(text));
    if (count <= 0) {
        return; /* no keeper has written yet */
    }
    size_t length = (size_t)count;
    kelpie__ignore(kelpie__json_find_i64(text, length, "keeper_pid", &pid));
    kelpie__ignore(kelpie__json_find_u64(text, length, "making", &making));
    kelpie__ignore(kelpie__json_find_u64(text, length, "made", &out->made_count));
    kelpie__ignore(kelpie__json_find_u64(text, length, "failures", &out->failure_count));
    kelpie__ignore(kelpie__json_find_i64(text, length, "problem_code", &code));
    kelpie__ignore(
        kelpie__json_find_string(text, length, "problem", out->problem, sizeof(out->problem)));
    out->keeper_pid = pid > 0 && pid <= INT32_MAX ? (int32_t)pid : 0;
    out->problem_code = code < 0 && code >= KELPIE_CODE_LAST ? (int)code : 0;
    out->making_count = making <= KELPIE_POOL_SIZE_MAX ? (uint32_t)making : 0;
}
