/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * See sums.h. The file is an array of 64-bit words of this host: a checksum of all that follow, the
 * format of the snapshot that they are of, then for each file device, inode, size, time of
 * modification, count and so many checksums.
 */
#include "store/sums.h"

#include <errno.h>
#include <string.h>

#include "core/checksum.h"
#include "core/small_file.h"
#include "core/text.h"
#include "os/os_call.h"
#include "store/seal.h"
#include "store/snapshot.h"

#define SUMS_HEAD_WORDS 2u  /* the checksum, and the manifests' format that all of them are of */
#define SUMS_ENTRY_WORDS 5u /* before the checksums of a file */
#define SUMS_READS_MAX 4096u
#define SUMS_WORDS_MAX                                                                             \
    (SUMS_HEAD_WORDS + KELPIE_MANIFEST_FILE_COUNT_MAX * SUMS_ENTRY_WORDS +                         \
     KELPIE_SEAL_EXTENT_COUNT_MAX)

static uint64_t sums_digest(const uint64_t *words, size_t word_count) {
    KELPIE_ASSERT(word_count >= SUMS_HEAD_WORDS);
    return kelpie__checksum_u64(words + 1, (word_count - 1) * sizeof(*words));
}

static int sums_read(struct kelpie_os *os, int file, void *out, size_t count) {
    KELPIE_ASSERT(file >= 0);
    KELPIE_ASSERT(count > 0);
    size_t done = 0;
    for (uint32_t i = 0; i < SUMS_READS_MAX && done < count; i += 1) {
        int64_t got = kelpie__os_pread(os, file, (uint8_t *)out + done, count - done, done);
        if (got == 0 || (got < 0 && got != -EINTR)) {
            break;
        }
        done += got > 0 ? (size_t)got : 0;
    }
    return done == count ? 0 : -EIO;
}

/* A whole file of words; gives NULL when there is none of that size, or no memory. */
static uint64_t *sums_read_file(struct kelpie_os *os, int directory, const char *name,
                                size_t *out_count) {
    struct kelpie_os_stat stat = {0};
    uint64_t *words = NULL;
    KELPIE_ASSERT(directory >= 0);
    int file = kelpie__os_open(os, directory, name, KELPIE_OS_OPEN_READ, 0);
    if (file < 0) {
        return NULL;
    }
    bool is_sized = kelpie__os_stat(os, file, "", false, &stat) == 0 && stat.size_bytes > 0 &&
                    stat.size_bytes % sizeof(*words) == 0 &&
                    stat.size_bytes <= SUMS_WORDS_MAX * sizeof(*words);
    if (is_sized) {
        words = kelpie__alloc_raw(os, (size_t)stat.size_bytes);
    }
    if (words != NULL && sums_read(os, file, words, (size_t)stat.size_bytes) < 0) {
        kelpie__free(os, words, (size_t)stat.size_bytes);
        words = NULL;
    }
    kelpie__ignore(kelpie__os_close(os, file)); /* it was only read */
    *out_count = (size_t)stat.size_bytes / sizeof(*words);
    return words;
}

void kelpie__sums_load(struct kelpie_sums *sums, struct kelpie_os *os, int vm_directory) {
    *sums = (struct kelpie_sums){.os = os};
    sums->words = sums_read_file(os, vm_directory, KELPIE_SUMS_FILE, &sums->word_count);
    if (sums->words == NULL) {
        sums->word_count = 0;
    } else if (sums->word_count <= SUMS_HEAD_WORDS ||
               sums_digest(sums->words, sums->word_count) != sums->words[0] ||
               sums->words[1] != KELPIE_MANIFEST_FORMAT) {
        kelpie__sums_unload(sums);
    }
    KELPIE_ASSERT((sums->words == NULL) == (sums->word_count == 0));
}

void kelpie__sums_unload(struct kelpie_sums *sums) {
    KELPIE_ASSERT((sums->words == NULL) == (sums->word_count == 0));
    kelpie__free(sums->os, sums->words, sums->word_count * sizeof(*sums->words));
    sums->words = NULL;
    sums->word_count = 0;
}

const uint64_t *kelpie__sums_find(const struct kelpie_sums *sums, const struct kelpie_os_stat *stat,
                                  uint64_t count) {
    const uint64_t wanted[SUMS_ENTRY_WORDS] = {stat->device, stat->inode, stat->size_bytes,
                                               (uint64_t)stat->modified_ns, count};
    size_t at = SUMS_HEAD_WORDS;
    KELPIE_ASSERT(sums->word_count <= SUMS_WORDS_MAX);
    KELPIE_ASSERT(count <= KELPIE_SEAL_EXTENT_COUNT_MAX);
    while (at + SUMS_ENTRY_WORDS <= sums->word_count) { /* bound: every turn goes on */
        const uint64_t *entry = &sums->words[at];
        uint64_t entry_count = entry[SUMS_ENTRY_WORDS - 1];
        at += SUMS_ENTRY_WORDS;
        if (entry_count > sums->word_count - at) {
            return NULL;
        }
        if (memcmp(entry, wanted, sizeof(wanted)) == 0) {
            return entry + SUMS_ENTRY_WORDS;
        }
        at += (size_t)entry_count;
    }
    return NULL;
}

/* Whether nobody writes to a file of a snapshot any more, whatever its VM does. A user's root image
 * is not ours to say that of. */
static bool sums_is_constant(const struct kelpie_manifest *manifest, const char *name) {
    bool is_base = strcmp(name, KELPIE_SNAPSHOT_BASE_FILE) == 0 ||
                   (!manifest->has_base && strcmp(name, KELPIE_SNAPSHOT_MEMORY_FILE) == 0);
    return is_base || kelpie__text_has_prefix(name, "disk-");
}

/* Into `out`, which has room for all; gives the words that it took. */
static size_t sums_collect(struct kelpie_os *os, int directory,
                           const struct kelpie_manifest *manifest, const uint64_t *table,
                           size_t table_count, uint64_t *out) {
    size_t next = 0;
    size_t at = SUMS_HEAD_WORDS;
    KELPIE_ASSERT(manifest->file_count <= KELPIE_MANIFEST_FILE_COUNT_MAX);
    for (uint32_t i = 0; i < manifest->file_count; i += 1) {
        const struct kelpie_manifest_file *file = &manifest->files[i];
        uint64_t count = kelpie__seal_extents(file->size_bytes);
        struct kelpie_os_stat stat;
        if (count > table_count - next) {
            break;
        }
        if (sums_is_constant(manifest, file->name) &&
            kelpie__os_stat(os, directory, file->name, false, &stat) == 0) {
            const uint64_t entry[SUMS_ENTRY_WORDS] = {stat.device, stat.inode, stat.size_bytes,
                                                      (uint64_t)stat.modified_ns, count};
            memcpy(&out[at], entry, sizeof(entry));
            memcpy(&out[at + SUMS_ENTRY_WORDS], &table[next], (size_t)count * sizeof(*table));
            at += SUMS_ENTRY_WORDS + (size_t)count;
        }
        KELPIE_ASSERT(next + (size_t)count <= table_count);
        next += (size_t)count;
    }
    return at;
}

/* Whether all that would be kept is known. */
static bool sums_has_all(struct kelpie_os *os, int vm_directory, int snapshot_directory,
                         const struct kelpie_manifest *manifest) {
    struct kelpie_sums sums;
    bool has_all = true;
    kelpie__sums_load(&sums, os, vm_directory);
    KELPIE_ASSERT(manifest->file_count <= KELPIE_MANIFEST_FILE_COUNT_MAX);
    for (uint32_t i = 0; i < manifest->file_count && has_all; i += 1) {
        const struct kelpie_manifest_file *file = &manifest->files[i];
        struct kelpie_os_stat stat;
        if (sums_is_constant(manifest, file->name)) {
            has_all =
                sums.words != NULL &&
                kelpie__os_stat(os, snapshot_directory, file->name, false, &stat) == 0 &&
                kelpie__sums_find(&sums, &stat, kelpie__seal_extents(file->size_bytes)) != NULL;
        }
    }
    kelpie__sums_unload(&sums);
    return has_all;
}

void kelpie__sums_keep(struct kelpie_os *os, int vm_directory, int snapshot_directory,
                       const struct kelpie_manifest *manifest) {
    char digest[KELPIE_CHECKSUM_TEXT_BYTES];
    size_t table_count = 0;
    KELPIE_ASSERT(vm_directory >= 0);
    KELPIE_ASSERT(snapshot_directory >= 0);
    KELPIE_ASSERT(manifest->file_count <= KELPIE_MANIFEST_FILE_COUNT_MAX);
    if (sums_has_all(os, vm_directory, snapshot_directory, manifest)) {
        return; /* as after a restore of the snapshot that was made last */
    }
    uint64_t *table = sums_read_file(os, snapshot_directory, KELPIE_SEAL_FILE, &table_count);
    if (table == NULL) {
        return;
    }
    size_t room = SUMS_HEAD_WORDS + manifest->file_count * SUMS_ENTRY_WORDS + table_count;
    uint64_t *words = kelpie__alloc_raw(os, room * sizeof(*words));
    kelpie__checksum_text(table, table_count * sizeof(*table), digest);
    if (words != NULL && strcmp(digest, manifest->checksum) == 0) {
        size_t count = sums_collect(os, snapshot_directory, manifest, table, table_count, words);
        KELPIE_ASSERT(count <= room);
        if (count > SUMS_HEAD_WORDS) {
            words[1] = manifest->format;
            words[0] = sums_digest(words, count);
            kelpie__ignore(kelpie__small_file_replace(os, vm_directory, KELPIE_SUMS_FILE,
                                                      (const char *)words, count * sizeof(*words),
                                                      NULL));
        }
    }
    kelpie__free(os, words, room * sizeof(*words));
    kelpie__free(os, table, table_count * sizeof(*table));
}
