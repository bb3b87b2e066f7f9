/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * The configuration of a VM that is made from a snapshot: what the guest's memory depends on is the
 * snapshot's, and what the caller says otherwise is refused with both values.
 */
#include <string.h>

#include "core/text.h"
#include "lib/internal.h"
#include "os/os_call.h"
#include "store/snapshot.h"

#define FROM_KIND "full"
#define FROM_ARCHITECTURE "x86_64"

static int from_differs(struct kelpie_error *error, const char *field, const char *saved,
                        const char *given) {
    KELPIE_ASSERT(strcmp(saved, given) != 0);
    KELPIE_ASSERT(field[0] != '\0');
    return kelpie__fail_field(error, KELPIE_E_SNAPSHOT_INCOMPATIBLE, field,
                              "%s: the snapshot has \"%s\", and \"%s\" was given; leave it out",
                              field, saved, given);
}

static int from_number(struct kelpie_error *error, const char *field, uint64_t saved,
                       uint64_t given) {
    char saved_text[24];
    char given_text[24];
    if (saved == given) {
        return 0;
    }
    bool fits =
        kelpie__text_format(saved_text, sizeof(saved_text), "%llu", (unsigned long long)saved);
    KELPIE_ASSERT(fits);
    fits = kelpie__text_format(given_text, sizeof(given_text), "%llu", (unsigned long long)given);
    KELPIE_ASSERT(fits);
    return from_differs(error, field, saved_text, given_text);
}

static int from_text(struct kelpie_error *error, const char *field, const char *saved,
                     const char *given) {
    return strcmp(saved, given) == 0 ? 0 : from_differs(error, field, saved, given);
}

/* Each thing that was given must be the snapshot's. */
static int from_compare(const struct kelpie_config_values *given,
                        const struct kelpie_config_values *saved,
                        const struct kelpie_manifest *manifest, struct kelpie_error *error) {
    uint32_t bits = given->given;
    int status = from_text(error, "architecture", manifest->architecture, FROM_ARCHITECTURE);
    if (status == 0) {
        status = from_text(error, "kind", manifest->kind, FROM_KIND);
    }
    if (status == 0 && (bits & KELPIE_GIVEN_CPUS) != 0) {
        status = from_number(error, "cpus", manifest->cpu_count, given->cpus);
    }
    if (status == 0 && (bits & KELPIE_GIVEN_MEMORY) != 0) {
        status = from_number(error, "memory_mib", manifest->memory_mib, given->memory_mib);
    }
    if (status == 0 && (bits & KELPIE_GIVEN_DISK) != 0) {
        status = from_number(error, "disk_size_mib", saved->disk_size_mib, given->disk_size_mib);
    }
    if (status == 0 && (bits & KELPIE_GIVEN_ROOT) != 0) {
        status = from_text(error, "root", saved->root, given->root);
    }
    if (status == 0 && (bits & KELPIE_GIVEN_KERNEL) != 0) {
        status = from_text(error, "kernel", saved->kernel, given->kernel);
    }
    if (status == 0 && (bits & KELPIE_GIVEN_READ_ONLY) != 0) {
        status = from_text(error, "read_only", saved->is_read_only ? "yes" : "no", "yes");
    }
    if (status == 0 && (bits & KELPIE_GIVEN_ACCELERATOR) != 0) {
        status = from_text(error, "accelerator", manifest->accelerator,
                           kelpie__accelerator_name(given->accelerator));
    }
    return status;
}

/* The snapshot's environment first: of equal names the last counts. */
static int from_environment(struct kelpie_config_values *values, struct kelpie_config_values *saved,
                            struct kelpie_error *error) {
    const char *next = values->environment;
    for (uint32_t i = 0; i < values->environment_count; i += 1) {
        kelpie__config_add_environment(saved, next);
        next += strlen(next) + 1;
        KELPIE_ASSERT(next <= values->environment + values->environment_bytes);
    }
    if (saved->too_long_field != NULL) {
        return kelpie__fail_field(error, KELPIE_E_CONFIG, "environment",
                                  "environment: with the snapshot's own it is longer than %u "
                                  "bytes or 256 entries",
                                  KELPIE_ENVIRONMENT_BYTES_MAX);
    }
    memcpy(values->environment, saved->environment, sizeof(values->environment));
    values->environment_bytes = saved->environment_bytes;
    values->environment_count = saved->environment_count;
    KELPIE_ASSERT(values->environment_bytes <= sizeof(values->environment));
    KELPIE_ASSERT(values->environment_count <= KELPIE_ENVIRONMENT_MAX);
    return 0;
}

static int from_take(const struct kelpie_snapshot *snapshot, struct kelpie_config_values *values,
                     struct kelpie_config_values *saved, struct kelpie_error *error) {
    const struct kelpie_manifest *manifest = &snapshot->manifest;
    KELPIE_ASSERT(values != saved);
    int status = kelpie__snapshot_config(snapshot, saved, error);
    if (status == 0) {
        status = from_compare(values, saved, manifest, error);
    }
    if (status == 0) {
        status = from_environment(values, saved, error);
    }
    if (status < 0) {
        return status;
    }
    values->cpus = manifest->cpu_count;
    values->memory_mib = manifest->memory_mib;
    values->disk_size_mib = saved->disk_size_mib;
    values->is_read_only = saved->is_read_only;
    values->accelerator = saved->accelerator;
    memcpy(values->root, saved->root, sizeof(values->root));
    memcpy(values->kernel, saved->kernel, sizeof(values->kernel));
    if ((values->given & KELPIE_GIVEN_WORKING_DIRECTORY) == 0) {
        memcpy(values->working_directory, saved->working_directory,
               sizeof(values->working_directory));
    }
    return 0;
}

int kelpie__config_from_snapshot(struct kelpie *kelpie, struct kelpie_config_values *values,
                                 struct kelpie_error *error) {
    struct kelpie_snapshot_store store;
    struct kelpie_snapshot snapshot;
    KELPIE_ASSERT(values->snapshot[0] != '\0');
    struct kelpie_config_values *saved = kelpie__alloc(kelpie->os, sizeof(*saved));
    if (saved == NULL) {
        return kelpie__fail(error, KELPIE_E_MEMORY, 0, "no memory for a configuration");
    }
    int status = kelpie__snapshot_store_open(&store, kelpie->os, kelpie->places.state_path,
                                             KELPIE_SNAPSHOTS_DIRECTORY, error);
    if (status == 0) {
        status = kelpie__snapshot_open(&snapshot, &store, values->snapshot, error);
        if (status == 0) {
            status = from_take(&snapshot, values, saved, error);
            kelpie__snapshot_close(&snapshot);
        }
        kelpie__snapshot_store_close(&store);
    }
    kelpie__free(kelpie->os, saved, sizeof(*saved));
    return status;
}
