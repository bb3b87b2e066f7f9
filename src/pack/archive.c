/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Writes the cpio format "newc" (Documentation/driver-api/early-userspace/buffer-format.rst).
 * Owners are root and times are 0, so that the same input makes the same archive on every host.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "pack/pack.h"

#define ARCHIVE_HEADER_BYTES 110u
#define ARCHIVE_ALIGNMENT 4u

static_assert((ARCHIVE_ALIGNMENT & (ARCHIVE_ALIGNMENT - 1u)) == 0, "a power of two");
static_assert(KELPIE_PACK_PROGRAM_BYTES_MAX <= UINT32_MAX, "a program's size has eight digits");

/* Entries begin at a border, and what was not written is counted all the same. */
static void archive_check(const struct kelpie_pack_archive *archive) {
    KELPIE_ASSERT(archive->file >= 0);
    KELPIE_ASSERT(archive->offset % ARCHIVE_ALIGNMENT == 0);
    KELPIE_ASSERT(archive->offset >= (uint64_t)archive->entry_count * ARCHIVE_HEADER_BYTES);
    KELPIE_ASSERT(archive->error_number >= 0);
}

void kelpie__pack_archive_begin(struct kelpie_pack_archive *archive, int file) {
    KELPIE_ASSERT(file >= 0);
    *archive = (struct kelpie_pack_archive){.file = file};
    archive_check(archive);
}

static void archive_write(struct kelpie_pack_archive *archive, const void *bytes, size_t count) {
    KELPIE_ASSERT(bytes != NULL || count == 0);
    if (archive->error_number == 0 && count > 0 &&
        !kelpie__pack_write(archive->file, bytes, count)) {
        archive->error_number = errno;
    }
    archive->offset += count;
}

static void archive_align(struct kelpie_pack_archive *archive) {
    static const char zeros[ARCHIVE_ALIGNMENT] = "";
    size_t past = (size_t)(archive->offset % ARCHIVE_ALIGNMENT);
    archive_write(archive, zeros, past == 0 ? 0 : ARCHIVE_ALIGNMENT - past);
    KELPIE_ASSERT(archive->offset % ARCHIVE_ALIGNMENT == 0);
}

void kelpie__pack_archive_add(struct kelpie_pack_archive *archive,
                              const struct kelpie_pack_entry *entry) {
    char header[ARCHIVE_HEADER_BYTES + 1];
    size_t name_bytes = strlen(entry->name) + 1;
    archive_check(archive);
    KELPIE_ASSERT(entry->name[0] != '\0');
    KELPIE_ASSERT(entry->bytes != NULL || entry->count == 0);
    KELPIE_ASSERT(entry->name[0] != '/');
    KELPIE_ASSERT(entry->count <= UINT32_MAX);
    archive->entry_count += 1;
    int length = snprintf(
        header, sizeof(header), "070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X",
        archive->entry_count, entry->mode, 0U, 0U, 1U, 0U, (unsigned)entry->count, 0U, 0U,
        entry->device_major, entry->device_minor, (unsigned)name_bytes, 0U);
    KELPIE_ASSERT(length == (int)ARCHIVE_HEADER_BYTES);
    archive_write(archive, header, ARCHIVE_HEADER_BYTES);
    archive_write(archive, entry->name, name_bytes);
    archive_align(archive);
    archive_write(archive, entry->bytes, entry->count);
    archive_align(archive);
    archive_check(archive);
}

void kelpie__pack_archive_end(struct kelpie_pack_archive *archive) {
    const struct kelpie_pack_entry trailer = {.name = "TRAILER!!!"};
    KELPIE_ASSERT(archive->entry_count > 0);
    kelpie__pack_archive_add(archive, &trailer);
    KELPIE_ASSERT(archive->offset > 0);
}
