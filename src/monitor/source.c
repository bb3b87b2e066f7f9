/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * See source.h: opening, and whether a snapshot fits. source_files.c has its disk and memory.
 */
#include "monitor/source.h"

#include <string.h>

#include "core/config.h"
#include "core/text.h"
#include "monitor/monitor.h"
#include "os/os_call.h"
#include "store/template.h"

#define SOURCE_KIND "full"
#define SOURCE_ARCHITECTURE "x86_64"

void kelpie__source_check(const struct kelpie_source *source) {
    KELPIE_ASSERT(source->monitor != NULL);
    KELPIE_ASSERT(source->layer_count <= KELPIE_DISK_LAYER_COUNT_MAX);
    if (source->snapshot.directory >= 0) {
        KELPIE_ASSERT(source->snapshot.store == &source->store);
        KELPIE_ASSERT(!source->snapshot.is_temporary);
    }
    if (source->map >= 0) {
        KELPIE_ASSERT(source->memory >= 0);
    }
    if (source->memory >= 0) { /* it lies over a base, else it is one */
        KELPIE_ASSERT(source->base >= 0);
        KELPIE_ASSERT(source->device >= 0);
    }
}

/* ---- whether it fits ------------------------------------------------------------------------- */

static int source_differs(struct kelpie_error *error, const char *what, const char *saved,
                          const char *here) {
    KELPIE_ASSERT(strcmp(saved, here) != 0);
    return kelpie__fail(error, KELPIE_E_SNAPSHOT_INCOMPATIBLE, 0,
                        "the snapshot's %s is \"%s\", the VM's \"%s\"", what, saved, here);
}

static int source_check_text(struct kelpie_error *error, const char *what, const char *saved,
                             const char *here) {
    return strcmp(saved, here) == 0 ? 0 : source_differs(error, what, saved, here);
}

static int source_check_number(struct kelpie_error *error, const char *what, const char *unit,
                               uint64_t saved, uint64_t here) {
    if (saved == here) {
        return 0;
    }
    return kelpie__fail(error, KELPIE_E_SNAPSHOT_INCOMPATIBLE, 0,
                        "the snapshot has %s of %llu%s, the VM of %llu%s", what,
                        (unsigned long long)saved, unit, (unsigned long long)here, unit);
}

/* The accelerator of a VM is auto, or has to be the snapshot's. */
static int source_check_accelerator(const struct kelpie_source *source,
                                    struct kelpie_error *error) {
    enum kelpie_accelerator wanted = source->monitor->config.accelerator;
    if (wanted == KELPIE_ACCELERATOR_AUTO) {
        return 0;
    }
    return source_check_text(error, "accelerator", source->snapshot.manifest.accelerator,
                             kelpie__accelerator_name(wanted));
}

static int source_check_manifest(const struct kelpie_source *source, struct kelpie_error *error) {
    const struct kelpie_manifest *manifest = &source->snapshot.manifest;
    const struct kelpie_config_values *config = &source->monitor->config;
    int status =
        source_check_text(error, "architecture", manifest->architecture, SOURCE_ARCHITECTURE);
    if (status == 0) {
        status = source_check_text(error, "kind", manifest->kind, SOURCE_KIND);
    }
    if (status == 0) {
        status = source_check_number(error, "a memory", " MiB", manifest->memory_mib,
                                     config->memory_mib);
    }
    if (status == 0) {
        status =
            source_check_number(error, "a count of CPUs", "", manifest->cpu_count, config->cpus);
    }
    return status == 0 ? source_check_accelerator(source, error) : status;
}

/* What a later boot of this VM would find under its disk must be what the guest knows. */
static int source_check_config(const struct kelpie_source *source, struct kelpie_error *error) {
    const struct kelpie_config_values *here = &source->monitor->config;
    struct kelpie_os *os = source->monitor->os;
    struct kelpie_config_values *saved = kelpie__alloc_raw(os, sizeof(*saved));
    if (saved == NULL) {
        return kelpie__fail(error, KELPIE_E_MEMORY, 0, "no memory for a configuration");
    }
    KELPIE_ASSERT(source->snapshot.directory >= 0);
    int status = kelpie__snapshot_config(&source->snapshot, saved, error);
    if (status == 0) {
        status = source_check_text(error, "root", saved->root, here->root);
    }
    if (status == 0) {
        status =
            source_check_number(error, "a disk", " MiB", saved->disk_size_mib, here->disk_size_mib);
    }
    if (status == 0) {
        status = source_check_text(error, "root", saved->is_read_only ? "read-only" : "writable",
                                   here->is_read_only ? "read-only" : "writable");
    }
    kelpie__free(os, saved, sizeof(*saved));
    return status;
}

/* ---- what the manifest says, in the driver's words ------------------------------------------- */

static bool source_read_accelerator(const char *text, enum kelpie_vmm_accelerator *out) {
    static const enum kelpie_vmm_accelerator known[] = {KELPIE_VMM_ACCELERATOR_KVM,
                                                        KELPIE_VMM_ACCELERATOR_TCG};
    for (size_t i = 0; i < KELPIE_ARRAY_COUNT(known); i += 1) {
        if (kelpie__text_equal(text, kelpie__vmm_accelerator_name(known[i]))) {
            *out = known[i];
            return true;
        }
    }
    return false;
}

static int source_describe(struct kelpie_source *source, struct kelpie_error *error) {
    const struct kelpie_manifest *manifest = &source->snapshot.manifest;
    struct kelpie_vmm_description *description = &source->description;
    struct kelpie_guest_continuity *continuity = &source->continuity;
    static_assert(sizeof(description->version) == sizeof(manifest->vmm_version), "copied whole");
    static_assert(sizeof(description->machine) == sizeof(manifest->machine), "copied whole");
    static_assert(sizeof(description->cpu) == sizeof(manifest->cpu), "copied whole");
#define COPY(to, from) kelpie__text_copy(to, sizeof(to), from)
    bool is_good =
        COPY(description->vmm, manifest->backend) &&
        COPY(description->version, manifest->vmm_version) &&
        COPY(description->machine, manifest->machine) && COPY(description->cpu, manifest->cpu) &&
        COPY(continuity->mark, manifest->mark) && COPY(continuity->token, manifest->token);
#undef COPY
    description->tsc_khz = manifest->tsc_khz;
    if (!is_good || !source_read_accelerator(manifest->accelerator, &description->accelerator)) {
        return kelpie__fail(error, KELPIE_E_SNAPSHOT_INCOMPATIBLE, 0,
                            "the snapshot's backend \"%s\" or its accelerator \"%s\" is not known "
                            "here",
                            manifest->backend, manifest->accelerator);
    }
    return 0;
}

/* ---- open and close -------------------------------------------------------------------------- */

int kelpie__source_open(struct kelpie_source *source, struct kelpie_monitor *monitor,
                        const char *name, bool is_template, struct kelpie_error *error) {
    *source = (struct kelpie_source){.monitor = monitor,
                                     .is_template = is_template,
                                     .snapshot = {.directory = KELPIE_OS_NO_HANDLE},
                                     .device = KELPIE_OS_NO_HANDLE,
                                     .memory = KELPIE_OS_NO_HANDLE,
                                     .map = KELPIE_OS_NO_HANDLE,
                                     .base = KELPIE_OS_NO_HANDLE};
    int status = kelpie__snapshot_store_open(
        &source->store, monitor->os, monitor->options.state_directory,
        is_template ? KELPIE_TEMPLATES_DIRECTORY : KELPIE_SNAPSHOTS_DIRECTORY, error);
    if (status < 0) {
        return status;
    }
    status = kelpie__snapshot_open(&source->snapshot, &source->store, name, error);
    if (status < 0) {
        return status;
    }
    status = source_check_manifest(source, error);
    if (status == 0) {
        status = source_check_config(source, error);
    }
    if (status == 0) {
        status = source_describe(source, error);
    }
    if (status == 0 && is_template) {
        kelpie__template_touch(&source->snapshot);
    }
    kelpie__source_check(source);
    return status;
}

static void source_close_handle(struct kelpie_source *source, int *handle) {
    if (*handle >= 0) {
        kelpie__ignore(kelpie__os_close(source->monitor->os, *handle)); /* it was only read */
        *handle = KELPIE_OS_NO_HANDLE;
    }
}

void kelpie__source_release(struct kelpie_source *source) {
    kelpie__source_check(source);
    source_close_handle(source, &source->device);
    source_close_handle(source, &source->memory);
    source_close_handle(source, &source->map);
    source->restore = (struct kelpie_vmm_restore){.device = KELPIE_OS_NO_HANDLE};
}

void kelpie__source_let_go(struct kelpie_source *source) {
    char name[KELPIE_NAME_BYTES_MAX + 1];
    const struct kelpie_config_values *config = &source->monitor->config;
    if (source->snapshot.directory < 0) {
        return;
    }
    kelpie__ignore(kelpie__text_copy(name, sizeof(name), source->snapshot.manifest.name));
    KELPIE_ASSERT(source->snapshot.store == &source->store);
    kelpie__snapshot_close(&source->snapshot);
    source->snapshot.directory = KELPIE_OS_NO_HANDLE;
    if (!source->is_template && config->is_snapshot_transient &&
        strcmp(name, config->snapshot) == 0) {
        /* BUSY while others are on their way: the last of them does it. */
        kelpie__ignore(kelpie__snapshot_remove(&source->store, name, NULL));
    }
}

void kelpie__source_close(struct kelpie_source *source) {
    if (source->monitor == NULL) {
        return;
    }
    kelpie__source_release(source);
    KELPIE_ASSERT(source->device == KELPIE_OS_NO_HANDLE);
    source_close_handle(source, &source->base);
    kelpie__source_let_go(source);
    if (source->store.os != NULL) {
        kelpie__snapshot_store_close(&source->store);
        source->store = (struct kelpie_snapshot_store){0};
    }
    source->monitor = NULL;
}
