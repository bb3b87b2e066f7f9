/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * The arguments that the driver gives: NAME VALUE, in any order, or --describe first. They come
 * from our own program; what is wrong is told all the same, since people try programs by hand.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "krun/krun.h"

#define OPTIONS_PORT 1024u

static_assert(sizeof(((struct kelpie_krun_disk *)0)->name) == 16, "as the scan below has it");
static_assert(sizeof(((struct kelpie_krun_share *)0)->tag) == 37, "likewise");

static bool options_number(const char *name, const char *text, uint32_t *out) {
    char *end = NULL;
    unsigned long value = strtoul(text, &end, 10);
    KELPIE_ASSERT(end != NULL);
    if (end == text || *end != '\0' || value == 0 || value > UINT32_MAX) {
        kelpie__krun_tell_error("%s is \"%s\", not a number above 0", name, text);
        return false;
    }
    *out = (uint32_t)value;
    return true;
}

static bool options_access(const char *access, bool *out_is_read_only) {
    *out_is_read_only = strcmp(access, "ro") == 0;
    KELPIE_ASSERT(strlen(access) <= 2);
    return *out_is_read_only || strcmp(access, "rw") == 0;
}

/* NAME:ro|rw:raw|qcow2:PATH */
static bool options_disk(const char *text, struct kelpie_krun_options *out) {
    if (out->disk_count == KELPIE_KRUN_DISK_COUNT_MAX) {
        kelpie__krun_tell_error("more than %u disks", KELPIE_KRUN_DISK_COUNT_MAX);
        return false;
    }
    struct kelpie_krun_disk *disk = &out->disks[out->disk_count];
    char access[3] = "";
    char format[6] = "";
    int used = 0;
    int found =
        sscanf(text, "%15[a-z0-9]:%2[a-z]:%5[a-z0-9]:%n", disk->name, access, format, &used);
    bool is_good = found == 3 && used > 0 && text[used] == '/' &&
                   options_access(access, &disk->is_read_only) &&
                   (strcmp(format, "raw") == 0 || strcmp(format, "qcow2") == 0);
    if (!is_good) {
        kelpie__krun_tell_error("--disk is \"%s\", not NAME:ro|rw:raw|qcow2:/PATH", text);
        return false;
    }
    KELPIE_ASSERT(disk->name[0] != '\0');
    disk->path = text + used;
    disk->is_qcow2 = format[0] == 'q';
    out->disk_count += 1;
    KELPIE_ASSERT(out->disk_count <= KELPIE_KRUN_DISK_COUNT_MAX);
    return true;
}

/* TAG:ro|rw:PATH */
static bool options_share(const char *text, struct kelpie_krun_options *out) {
    if (out->share_count == KELPIE_KRUN_SHARE_COUNT_MAX) {
        kelpie__krun_tell_error("more than %u shares", KELPIE_KRUN_SHARE_COUNT_MAX);
        return false;
    }
    struct kelpie_krun_share *share = &out->shares[out->share_count];
    char access[3] = "";
    int used = 0;
    int found = sscanf(text, "%36[A-Za-z0-9_.-]:%2[a-z]:%n", share->tag, access, &used);
    bool is_good =
        found == 2 && used > 0 && text[used] == '/' && options_access(access, &share->is_read_only);
    if (!is_good) {
        kelpie__krun_tell_error("--share is \"%s\", not TAG:ro|rw:/PATH", text);
        return false;
    }
    KELPIE_ASSERT(share->tag[0] != '\0');
    share->path = text + used;
    out->share_count += 1;
    KELPIE_ASSERT(out->share_count <= KELPIE_KRUN_SHARE_COUNT_MAX);
    return true;
}

static bool options_take(const char *name, const char *value, struct kelpie_krun_options *out) {
    const struct {
        const char *name;
        const char **place;
    } texts[] = {
        {"--library", &out->library}, {"--firmware", &out->firmware}, {"--agent", &out->agent},
        {"--kernel", &out->kernel},   {"--staging", &out->staging},
    };
    for (size_t i = 0; i < KELPIE_ARRAY_COUNT(texts); i += 1) {
        if (strcmp(name, texts[i].name) == 0) {
            *texts[i].place = value;
            return true;
        }
    }
    if (strcmp(name, "--cpus") == 0) {
        return options_number(name, value, &out->cpu_count);
    }
    if (strcmp(name, "--memory-mib") == 0) {
        return options_number(name, value, &out->memory_mib);
    }
    if (strcmp(name, "--port") == 0) {
        return options_number(name, value, &out->port);
    }
    if (strcmp(name, "--disk") == 0) {
        return options_disk(value, out);
    }
    if (strcmp(name, "--share") == 0) {
        return options_share(value, out);
    }
    kelpie__krun_tell_error("unknown argument \"%s\"; kelpie-krun is started by kelpie-monitor",
                            name);
    return false;
}

bool kelpie__krun_options_read(int argc, char **argv, struct kelpie_krun_options *out) {
    *out = (struct kelpie_krun_options){
        .library = KELPIE_KRUN_LIBRARY_NAME,
        .firmware = KELPIE_KRUN_FIRMWARE_NAME,
        .port = OPTIONS_PORT,
    };
    KELPIE_ASSERT(argc >= 1);
    out->is_description = argc > 1 && strcmp(argv[1], "--describe") == 0;
    for (int i = out->is_description ? 2 : 1; i < argc; i += 2) {
        if (i + 1 == argc) {
            kelpie__krun_tell_error("%s needs a value", argv[i]);
            return false;
        }
        if (!options_take(argv[i], argv[i + 1], out)) {
            return false;
        }
    }
    bool is_whole =
        out->agent != NULL && out->staging != NULL && out->cpu_count > 0 && out->memory_mib > 0;
    if (!is_whole && !out->is_description) {
        kelpie__krun_tell_error("--agent, --staging, --cpus and --memory-mib have to be given");
        return false;
    }
    return true;
}
