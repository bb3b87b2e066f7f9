/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Whole files of a few kilobytes: read at once, replaced at once. A reader sees the old text or the
 * new one, never a part. Unless it is said otherwise nothing is synced: what is kept this way is
 * either worthless after the host's next boot or written again.
 */
#ifndef KELPIE_CORE_SMALL_FILE_H
#define KELPIE_CORE_SMALL_FILE_H

#include <stddef.h>

#include "core/error.h"
#include "os/os.h"

/* The file's bytes and a terminator into `out`. Gives the length, or a negative errno value; -EFBIG
 * when the file does not fit. Links are followed: for files of the system and of our own
 * directories. */
KELPIE_MUST_CHECK int64_t kelpie__small_file_read(struct kelpie_os *os, const char *path, char *out,
                                                  size_t capacity);
KELPIE_MUST_CHECK int64_t kelpie__small_file_read_at(struct kelpie_os *os, int directory,
                                                     const char *name, char *out, size_t capacity);
KELPIE_MUST_CHECK int64_t kelpie__small_file_read_in(struct kelpie_os *os, const char *directory,
                                                     const char *name, char *out, size_t capacity);

/* As above, but gives what fits when the file is longer. */
KELPIE_MUST_CHECK int64_t kelpie__small_file_read_start(struct kelpie_os *os, const char *path,
                                                        char *out, size_t capacity);

/* Writes NAME.new beside it, with mode 0600, and renames it over NAME. On failure NAME is as
 * before. */
KELPIE_MUST_CHECK int kelpie__small_file_replace(struct kelpie_os *os, int directory,
                                                 const char *name, const char *text, size_t length,
                                                 struct kelpie_error *error);
/* The same, and what is behind the name survives the machine's death whole, as soon as the name
 * does (the directory is the caller's to sync). */
KELPIE_MUST_CHECK int kelpie__small_file_replace_synced(struct kelpie_os *os, int directory,
                                                        const char *name, const char *text,
                                                        size_t length, struct kelpie_error *error);
/* The same, and survives the machine's death: the directory is synced, too, before the rename and
 * after it. Where a rename is no single step for the disk, NAME or NAME.new is there, whole, once
 * NAME has been. */
KELPIE_MUST_CHECK int kelpie__small_file_replace_lasting(struct kelpie_os *os, int directory,
                                                         const char *name, const char *text,
                                                         size_t length, struct kelpie_error *error);
KELPIE_MUST_CHECK int kelpie__small_file_replace_in(struct kelpie_os *os, const char *directory,
                                                    const char *name, const char *text,
                                                    size_t length, struct kelpie_error *error);

#endif
