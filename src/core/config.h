/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * What a VM is made of: the values of a configuration, what is wrong with them, and their form in
 * config.json.
 */
#ifndef KELPIE_CORE_CONFIG_H
#define KELPIE_CORE_CONFIG_H

#include "core/base.h"
#include "core/error.h"
#include "core/limits.h"

#define KELPIE_CONFIG_FORMAT 1u
/* 32 KiB of environment and three paths, every byte escaped to six, and the rest */
#define KELPIE_CONFIG_JSON_BYTES_MAX (320u * 1024u)
/* every check once, and the two of the file system */
#define KELPIE_CONFIG_PROBLEM_MAX 24u

static_assert(6u * (KELPIE_ENVIRONMENT_BYTES_MAX + 3u * KELPIE_PATH_BYTES_MAX) + 16u * 1024u <=
                  KELPIE_CONFIG_JSON_BYTES_MAX,
              "the largest configuration fits its file");

enum kelpie_config_given {
    KELPIE_GIVEN_CPUS = 1,
    KELPIE_GIVEN_MEMORY = 2,
    KELPIE_GIVEN_ROOT = 4,
    KELPIE_GIVEN_READ_ONLY = 8,
    KELPIE_GIVEN_DISK = 16,
    KELPIE_GIVEN_KERNEL = 32,
    KELPIE_GIVEN_ACCELERATOR = 64,
    KELPIE_GIVEN_WORKING_DIRECTORY = 128,
};

struct kelpie_config_values {
    char id[33];
    char name[KELPIE_NAME_BYTES_MAX + 1];
    int64_t created_ms;
    uint64_t cpus;
    uint64_t memory_mib;
    uint64_t disk_size_mib;
    uint64_t boot_timeout_ms;
    bool is_read_only;
    bool is_ephemeral;
    bool allows_overcommit;
    bool uses_template; /* a start that would boot may come from a template instead */
    enum kelpie_accelerator accelerator;
    enum kelpie_backend backend;
    enum kelpie_channel channel;
    enum kelpie_lifetime lifetime;
    char snapshot[KELPIE_NAME_BYTES_MAX + 1]; /* that its first start is made from; "": it boots */
    uint32_t environment_count;
    uint32_t environment_bytes;
    /* It was made for this VM and others like it: nobody misses it once they live. */
    bool is_snapshot_transient;
    uint32_t given; /* bits of enum kelpie_config_given: set by the caller, not by default */
    /* A text that was too long to be kept, by the field's name; NULL: none. */
    const char *too_long_field;
    /* Long texts, of which kelpie__config_defaults touches the first byte only. */
    char root[KELPIE_PATH_BYTES_MAX + 1]; /* "": the built-in one */
    char kernel[KELPIE_PATH_BYTES_MAX + 1];
    char working_directory[KELPIE_PATH_BYTES_MAX + 1];
    char environment[KELPIE_ENVIRONMENT_BYTES_MAX]; /* "A=1\0B=2\0" */
};

void kelpie__config_defaults(struct kelpie_config_values *values);

/* Copies into one of the text fields; what does not fit is remembered as a problem. */
void kelpie__config_set_text(struct kelpie_config_values *values, char *field, size_t capacity,
                             const char *field_name, const char *text);
void kelpie__config_add_environment(struct kelpie_config_values *values, const char *assignment);

/* All that is wrong, each with its field; the count. Asks nothing of the system. */
uint32_t kelpie__config_problems(const struct kelpie_config_values *values,
                                 struct kelpie_error problems[KELPIE_CONFIG_PROBLEM_MAX]);

KELPIE_MUST_CHECK int kelpie__config_check_name(const char *name, struct kelpie_error *error);

/* config.json. The length, or -1: it does not fit. */
KELPIE_MUST_CHECK int64_t kelpie__config_write(const struct kelpie_config_values *values, char *out,
                                               size_t capacity);
/* Errors: IO for a text that is no configuration, UNSUPPORTED for a newer format. */
KELPIE_MUST_CHECK int kelpie__config_read(const char *text, size_t length,
                                          struct kelpie_config_values *out,
                                          struct kelpie_error *error);

const char *kelpie__accelerator_name(enum kelpie_accelerator accelerator);

#endif
