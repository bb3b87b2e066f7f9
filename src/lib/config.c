/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * The configuration's builder: values in, all problems out.
 */
#include <errno.h>

#include "core/text.h"
#include "lib/internal.h"
#include "os/os_call.h"

int kelpie_config_create(struct kelpie *kelpie, struct kelpie_config **out,
                         struct kelpie_error *error) {
    if (kelpie == NULL || out == NULL) {
        return kelpie__fail(error, KELPIE_E_MISUSE, 0, "kelpie_config_create: an argument is NULL");
    }
    struct kelpie_config *config = kelpie__alloc_raw(kelpie->os, sizeof(*config));
    if (config == NULL) {
        return kelpie__fail(error, KELPIE_E_MEMORY, 0, "no memory for a configuration");
    }
    config->kelpie = kelpie;
    config->next = kelpie->configs;
    config->problem_count = 0; /* without one, none is read */
    kelpie->configs = config;
    kelpie__config_defaults(&config->values);
    *out = config;
    return 0;
}

void kelpie_config_destroy(struct kelpie_config *config) {
    if (config == NULL) {
        return;
    }
    struct kelpie_config **place = &config->kelpie->configs;
    while (*place != config) { /* bound: the list has it */
        KELPIE_ASSERT(*place != NULL);
        place = &(*place)->next;
    }
    *place = config->next;
    kelpie__free(config->kelpie->os, config, sizeof(*config));
}

void kelpie_config_set_cpus(struct kelpie_config *config, uint64_t cpus) {
    config->values.cpus = cpus;
    config->values.given |= KELPIE_GIVEN_CPUS;
}

void kelpie_config_set_memory_mib(struct kelpie_config *config, uint64_t memory_mib) {
    config->values.memory_mib = memory_mib;
    config->values.given |= KELPIE_GIVEN_MEMORY;
}

/* Relative paths mean the caller's directory, which the monitor's is not. */
static void set_path(struct kelpie_config *config, char *field, const char *field_name,
                     const char *path) {
    char absolute[KELPIE_PATH_BYTES_MAX + 1];
    struct kelpie_os *os = config->kelpie->os;
    bool is_relative = path != NULL && path[0] != '\0' && path[0] != '/';
    bool is_found = is_relative && kelpie__os_real_path(os, path, absolute, sizeof(absolute)) == 0;
    KELPIE_ASSERT(field == config->values.root || field == config->values.kernel);
    kelpie__config_set_text(&config->values, field, KELPIE_PATH_BYTES_MAX + 1, field_name,
                            is_found ? absolute : path);
}

void kelpie_config_set_root(struct kelpie_config *config, const char *path) {
    set_path(config, config->values.root, "root", path);
    config->values.given |= KELPIE_GIVEN_ROOT;
}

void kelpie_config_set_read_only(struct kelpie_config *config, bool is_read_only) {
    config->values.is_read_only = is_read_only;
    config->values.given |= is_read_only ? KELPIE_GIVEN_READ_ONLY : 0u;
}

void kelpie_config_set_disk_size_mib(struct kelpie_config *config, uint64_t disk_size_mib) {
    config->values.disk_size_mib = disk_size_mib;
    config->values.given |= KELPIE_GIVEN_DISK;
}

void kelpie_config_add_environment(struct kelpie_config *config, const char *assignment) {
    if (assignment != NULL) {
        kelpie__config_add_environment(&config->values, assignment);
    }
}

void kelpie_config_set_working_directory(struct kelpie_config *config, const char *path) {
    kelpie__config_set_text(&config->values, config->values.working_directory,
                            sizeof(config->values.working_directory), "working_directory", path);
    config->values.given |= KELPIE_GIVEN_WORKING_DIRECTORY;
}

void kelpie_config_set_kernel(struct kelpie_config *config, const char *path) {
    set_path(config, config->values.kernel, "kernel", path);
    config->values.given |= KELPIE_GIVEN_KERNEL;
}

void kelpie_config_set_backend(struct kelpie_config *config, enum kelpie_backend backend) {
    config->values.backend = backend;
}

void kelpie_config_set_channel(struct kelpie_config *config, enum kelpie_channel channel) {
    config->values.channel = channel;
}

void kelpie_config_set_accelerator(struct kelpie_config *config,
                                   enum kelpie_accelerator accelerator) {
    config->values.accelerator = accelerator;
    config->values.given |= accelerator != KELPIE_ACCELERATOR_AUTO ? KELPIE_GIVEN_ACCELERATOR : 0u;
}

void kelpie_config_set_boot_timeout_ms(struct kelpie_config *config, uint64_t ms) {
    config->values.boot_timeout_ms = ms == 0 ? KELPIE_BOOT_TIMEOUT_MS_DEFAULT : ms;
}

void kelpie_config_set_lifetime(struct kelpie_config *config, enum kelpie_lifetime lifetime) {
    config->values.lifetime = lifetime;
}

void kelpie_config_set_snapshot(struct kelpie_config *config, const char *name) {
    kelpie__config_set_text(&config->values, config->values.snapshot,
                            sizeof(config->values.snapshot), "snapshot", name);
}

void kelpie_config_set_ephemeral(struct kelpie_config *config, bool is_ephemeral) {
    config->values.is_ephemeral = is_ephemeral;
}

void kelpie_config_set_overcommit(struct kelpie_config *config, bool allows_overcommit) {
    config->values.allows_overcommit = allows_overcommit;
}

void kelpie_config_set_template(struct kelpie_config *config, bool uses_template) {
    config->values.uses_template = uses_template;
}

/* ---- checks that ask the system -------------------------------------------------------------- */

static struct kelpie_error *problem_add(struct kelpie_config *config) {
    KELPIE_ASSERT(config->problem_count < KELPIE_CONFIG_PROBLEM_MAX);
    struct kelpie_error *problem = &config->problems[config->problem_count];
    *problem = (struct kelpie_error){0};
    config->problem_count += 1;
    KELPIE_ASSERT(config->problem_count <= KELPIE_CONFIG_PROBLEM_MAX);
    return problem;
}

static const char *kind_name(enum kelpie_os_kind kind) {
    return kind == KELPIE_OS_KIND_DIRECTORY ? "a directory"
           : kind == KELPIE_OS_KIND_SOCKET  ? "a socket"
           : kind == KELPIE_OS_KIND_FILE    ? "a file"
                                            : "neither a file nor a directory";
}

/* A path that has to be readable, and a file, or a directory where that is allowed. */
static void check_path(struct kelpie_config *config, const char *field, const char *path,
                       bool may_be_directory, int not_found_code, int access_code) {
    struct kelpie_os *os = config->kelpie->os;
    struct kelpie_os_stat status;
    int result = kelpie__os_stat(os, KELPIE_OS_CWD, path, true, &status);
    bool is_directory = result == 0 && status.kind == KELPIE_OS_KIND_DIRECTORY;
    KELPIE_ASSERT(path[0] != '\0');
    KELPIE_ASSERT(not_found_code < 0);
    KELPIE_ASSERT(access_code < 0);
    if (result == -ENOENT || result == -ENOTDIR) {
        kelpie__ignore(kelpie__fail_field(problem_add(config), not_found_code, field,
                                          "%s: \"%s\" does not exist", field, path));
        return;
    }
    if (result == 0 && status.kind != KELPIE_OS_KIND_FILE && !(is_directory && may_be_directory)) {
        kelpie__ignore(kelpie__fail_field(
            problem_add(config), access_code, field, "%s: \"%s\" is %s; give a %s", field, path,
            kind_name(status.kind), may_be_directory ? "directory or a disk image" : "file"));
        return;
    }
    if (result == 0) {
        result = kelpie__os_open(os, KELPIE_OS_CWD, path,
                                 KELPIE_OS_OPEN_READ | KELPIE_OS_OPEN_FOLLOW |
                                     (is_directory ? KELPIE_OS_OPEN_DIRECTORY : 0),
                                 0);
    }
    if (result < 0) {
        kelpie__ignore(kelpie__fail_field(
            problem_add(config), access_code, field, "%s: \"%s\" cannot be read: %s", field, path,
            kelpie__errno_text(-result) != NULL ? kelpie__errno_text(-result) : "unknown error"));
        return;
    }
    kelpie__ignore(kelpie__os_close(os, result));
}

int kelpie_config_check(struct kelpie_config *config, struct kelpie_error *error) {
    if (config == NULL) {
        return kelpie__fail(error, KELPIE_E_MISUSE, 0, "kelpie_config_check: config is NULL");
    }
    config->problem_count = kelpie__config_problems(&config->values, config->problems);
    KELPIE_ASSERT(config->problem_count + 3 <= KELPIE_CONFIG_PROBLEM_MAX);
    if (config->values.root[0] != '\0') {
        check_path(config, "root", config->values.root, true, KELPIE_E_ROOT_NOT_FOUND,
                   KELPIE_E_ROOT_ACCESS);
    }
    if (config->values.kernel[0] != '\0') {
        check_path(config, "kernel", config->values.kernel, false, KELPIE_E_CONFIG,
                   KELPIE_E_CONFIG);
    }
    struct kelpie_error share = {0};
    if (kelpie__config_check_shares(&config->values, NULL) == 0 &&
        kelpie__config_find_shares(&config->values, config->kelpie->os, &share) < 0) {
        *problem_add(config) = share;
    }
    if (config->problem_count == 0) {
        return 0;
    }
    KELPIE_ASSERT(config->problems[0].code < 0);
    if (error != NULL) {
        *error = config->problems[0];
    }
    return config->problem_count == 1 ? config->problems[0].code : KELPIE_E_CONFIG;
}

size_t kelpie_config_problem_count(const struct kelpie_config *config) {
    return config->problem_count;
}

const struct kelpie_error *kelpie_config_problem(const struct kelpie_config *config, size_t index) {
    return index < config->problem_count ? &config->problems[index] : NULL;
}
