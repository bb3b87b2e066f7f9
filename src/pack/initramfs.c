/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * The initramfs: the agent as /init, the modules that it loads, and the built-in userland.
 */
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "pack/pack.h"

struct initramfs_options {
    const char *agent;
    const char *busybox;
    const char *modules; /* NULL: the kernel has none */
    const char *out;
};

/* Besides the userland. */
static const struct kelpie_pack_entry initramfs_entries[] = {
    {.name = ".kelpie", .mode = S_IFDIR | 0700},
    {.name = ".kelpie/modules", .mode = S_IFDIR | 0700},
    /* The kernel opens it for process 1 before anything is mounted. */
    {.name = "dev/console", .mode = S_IFCHR | 0600, .device_major = 5, .device_minor = 1},
};

static int initramfs_add(void *context, const struct kelpie_pack_entry *entry) {
    KELPIE_ASSERT(context != NULL);
    kelpie__pack_archive_add(context, entry); /* its errors are looked at once, at the end */
    return KELPIE_PACK_OK;
}

static int initramfs_fill(struct kelpie_pack_archive *archive,
                          const struct initramfs_options *options) {
    const struct kelpie_pack_sink sink = {.add = initramfs_add, .context = archive};
    KELPIE_ASSERT(options->agent != NULL);
    KELPIE_ASSERT(options->busybox != NULL);
    KELPIE_ASSERT(archive->entry_count == 0);
    int status = kelpie__pack_userland(&sink, options->busybox);
    for (size_t i = 0; i < KELPIE_ARRAY_COUNT(initramfs_entries); i += 1) {
        kelpie__pack_archive_add(archive, &initramfs_entries[i]);
    }
    if (status == KELPIE_PACK_OK) {
        status = kelpie__pack_add_program(&sink, "init", options->agent);
    }
    if (status == KELPIE_PACK_OK && options->modules != NULL) {
        status = kelpie__pack_modules(archive, options->modules);
    }
    kelpie__pack_archive_end(archive);
    KELPIE_ASSERT(archive->entry_count > KELPIE_ARRAY_COUNT(initramfs_entries));
    if (status == KELPIE_PACK_OK && archive->error_number != 0) {
        status = kelpie__pack_fail(archive->error_number, "write \"%s\"", options->out);
    }
    return status;
}

static bool initramfs_read_options(int argc, char **argv, struct initramfs_options *out) {
    int i = 1;
    KELPIE_ASSERT(argc >= 1);
    for (; i + 1 < argc; i += 2) {
        if (strcmp(argv[i], "--agent") == 0) {
            out->agent = argv[i + 1];
        } else if (strcmp(argv[i], "--busybox") == 0) {
            out->busybox = argv[i + 1];
        } else if (strcmp(argv[i], "--modules-dir") == 0) {
            out->modules = argv[i + 1];
        } else {
            return false;
        }
    }
    out->out = i < argc ? argv[i] : NULL;
    KELPIE_ASSERT(i <= argc);
    return out->out != NULL && out->agent != NULL && out->busybox != NULL;
}

int kelpie__pack_initramfs(int argc, char **argv) {
    struct initramfs_options options = {0};
    if (!initramfs_read_options(argc, argv, &options)) {
        return KELPIE_PACK_USAGE;
    }
    int status = kelpie__pack_check_static(options.busybox, "busybox-static");
    if (status == KELPIE_PACK_OK) {
        status = kelpie__pack_check_static(options.agent, "kelpie");
    }
    if (status != KELPIE_PACK_OK) {
        return status;
    }
    struct kelpie_pack_output output;
    struct kelpie_pack_archive archive;
    status = kelpie__pack_output_open(&output, options.out);
    if (status == KELPIE_PACK_OK) {
        kelpie__pack_archive_begin(&archive, output.file);
        KELPIE_ASSERT(output.file >= 0);
        status = initramfs_fill(&archive, &options);
    }
    if (status == KELPIE_PACK_OK) {
        status = kelpie__pack_output_commit(&output);
    }
    kelpie__pack_output_close(&output);
    KELPIE_ASSERT(output.file < 0);
    return status;
}
