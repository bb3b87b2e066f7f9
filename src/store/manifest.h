/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * manifest.json of a snapshot (contract.md, 4): what it is, what it needs, which files it has. It
 * is written last, so that a directory with a readable one is whole. Unknown fields are ignored; a
 * newer format is refused by name.
 */
#ifndef KELPIE_STORE_MANIFEST_H
#define KELPIE_STORE_MANIFEST_H

#include "core/error.h"
#include "core/limits.h"
#include "os/os.h"

/* 1: a checksum was of all bytes of an extent; 2: of its blocks that are not zeros (seal.h) */
#define KELPIE_MANIFEST_FORMAT 2u
#define KELPIE_MANIFEST_FILE "manifest.json"
#define KELPIE_MANIFEST_BYTES_MAX 32768u
#define KELPIE_MANIFEST_FILE_COUNT_MAX 32u
#define KELPIE_MANIFEST_DISK_COUNT_MAX 4u
#define KELPIE_MANIFEST_NAME_BYTES_MAX 96u
#define KELPIE_MANIFEST_LABEL_BYTES_MAX 256u

struct kelpie_manifest_file {
    char name[KELPIE_MANIFEST_NAME_BYTES_MAX];
    uint64_t size_bytes; /* apparent: holes count */
};

/* A disk of the VM, in the order of the machine's devices. */
struct kelpie_manifest_disk {
    char serial[16];
    char format[8]; /* "raw" or "qcow2" */
    char
        file[KELPIE_MANIFEST_NAME_BYTES_MAX]; /* its uppermost layer, in the snapshot's directory */
    bool is_read_only;
};

struct kelpie_manifest {
    uint32_t format; /* 0: of one that is being made, KELPIE_MANIFEST_FORMAT */
    char id[33];
    char name[KELPIE_NAME_BYTES_MAX + 1];
    char label[KELPIE_MANIFEST_LABEL_BYTES_MAX];
    char vm_id[33];
    char vm_name[KELPIE_NAME_BYTES_MAX + 1];
    /* Id of the snapshot before it: the last one of its VM since that was started, else the one
     * that its VM was made from, or "". */
    char parent[33];
    int64_t created_ms;
    char kind[16];         /* "full" */
    char architecture[16]; /* "x86_64" */
    char backend[16];      /* the driver, "qemu" */
    char vmm_version[32];
    char machine[64];
    char cpu[64];
    char accelerator[8];
    uint64_t tsc_khz;
    uint32_t cpu_count;
    uint32_t memory_mib;
    char kernel_digest[33]; /* of the kernel that it was booted with */
    /* What its guest waits for, and what it must answer: of kelpie__guest_continuity. */
    char mark[2 * KELPIE_MARK_BYTES + 1];
    char token[2 * KELPIE_TOKEN_BYTES + 1];
    bool is_paused;        /* its VM was; so is what is made from it */
    bool has_base;         /* `memory` and `map` lie over `base` */
    uint64_t page_count;   /* in `memory` */
    uint64_t stored_bytes; /* what it takes on the disk, without what it shares */
    uint32_t disk_count;
    struct kelpie_manifest_disk disks[KELPIE_MANIFEST_DISK_COUNT_MAX];
    /* Every file but the manifest itself and `checksums`, in the order of that. */
    uint32_t file_count;
    struct kelpie_manifest_file files[KELPIE_MANIFEST_FILE_COUNT_MAX];
    char checksum[33]; /* of the file `checksums` */
};

/* LIMIT when it has more than its maximum of bytes; IO. Synced if asked: the file, not its
 * directory. */
KELPIE_MUST_CHECK int kelpie__manifest_write(struct kelpie_os *os, int directory,
                                             const struct kelpie_manifest *manifest, bool is_synced,
                                             struct kelpie_error *error);
/* SNAPSHOT_CORRUPTED (also when there is none), SNAPSHOT_INCOMPATIBLE (a newer format), IO. */
KELPIE_MUST_CHECK int kelpie__manifest_read(struct kelpie_os *os, int directory,
                                            struct kelpie_manifest *out,
                                            struct kelpie_error *error);
/* The same of its text, which may come from anywhere; of fewer bytes than the maximum. */
KELPIE_MUST_CHECK int kelpie__manifest_parse(const char *text, size_t length,
                                             struct kelpie_manifest *out,
                                             struct kelpie_error *error);

/* A name of a file in a snapshot's directory: no slash, no leading dot, printable. What comes from
 * outside is checked so. */
KELPIE_MUST_CHECK bool kelpie__manifest_is_file_name(const char *name);

#endif
