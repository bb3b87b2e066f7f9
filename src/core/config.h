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

struct kelpie_json_value;
struct kelpie_json_writer;
struct kelpie_os;

#define KELPIE_CONFIG_FORMAT 1u
/* 32 KiB of environment, three paths and the shares, every byte escaped to six, and the rest */
#define KELPIE_CONFIG_JSON_BYTES_MAX (360u * 1024u)
/* every check once, and the three of the file system */
#define KELPIE_CONFIG_PROBLEM_MAX 24u

static_assert(6u * (KELPIE_ENVIRONMENT_BYTES_MAX + 3u * KELPIE_PATH_BYTES_MAX +
                    KELPIE_SHARE_BYTES_MAX) +
                      16u * 1024u <=
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

/* A directory of the host that the guest sees: where its texts begin in `share_texts`. */
struct kelpie_config_share {
    uint32_t host;
    uint32_t guest;
    uint32_t tag;
    bool is_read_only;
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
    uint32_t share_count; /* given; those beyond KELPIE_SHARE_COUNT_MAX are not kept */
    uint32_t share_bytes;
    struct kelpie_config_share shares[KELPIE_SHARE_COUNT_MAX];
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
    char share_texts[KELPIE_SHARE_BYTES_MAX];
};

void kelpie__config_defaults(struct kelpie_config_values *values);
/* As assignment does, but of the long texts only what there is. */
void kelpie__config_copy(struct kelpie_config_values *out, const struct kelpie_config_values *from);

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

/* ---- config_share.c ---- */

/* Why QEMU has none (devices.md, 2). */
#define KELPIE_SHARE_QEMU_REASON                                                                   \
    "the backend \"qemu\" shares no directory: it would need virtiofsd and memory that is shared " \
    "with it, and such a VM could not be saved; use the backend krun, or give a copy with --root"

/* Slashes at the end of `guest` are left out; `tag` NULL or "": "share" and its number. */
void kelpie__config_add_share(struct kelpie_config_values *values, const char *host,
                              const char *guest, const char *tag, bool is_read_only);
const char *kelpie__config_share_text(const struct kelpie_config_values *values, uint32_t place);
/* The first thing that is wrong with them; 0: nothing. Asks nothing of the system. */
KELPIE_MUST_CHECK int kelpie__config_check_shares(const struct kelpie_config_values *values,
                                                  struct kelpie_error *error);
/* Whether each is a directory that can be read. Errors: SHARE. */
KELPIE_MUST_CHECK int kelpie__config_find_shares(const struct kelpie_config_values *values,
                                                 struct kelpie_os *os, struct kelpie_error *error);
void kelpie__config_write_shares(const struct kelpie_config_values *values,
                                 struct kelpie_json_writer *writer);
/* False: the list is damaged. One that is not there is empty. */
KELPIE_MUST_CHECK bool kelpie__config_read_shares(const struct kelpie_json_value *list,
                                                  struct kelpie_config_values *values);

const char *kelpie__accelerator_name(enum kelpie_accelerator accelerator);

#endif
