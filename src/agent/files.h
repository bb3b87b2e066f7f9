/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Small files of /proc, /sys and /etc, read whole into the caller's buffer and written in one
 * piece.
 */
#ifndef KELPIE_AGENT_FILES_H
#define KELPIE_AGENT_FILES_H

#include "core/base.h"
#include "os/os.h"

/* Reads at most capacity - 1 bytes of the file and ends them with a NUL; a final newline is taken
 * off. Symbolic links are followed. The count of bytes, or a negative errno value; -EFBIG when the
 * file is longer, and then nothing is given. */
KELPIE_MUST_CHECK int kelpie__agent_read_text(struct kelpie_os *os, const char *path, char *out,
                                              size_t capacity);

/* Writes the text in one call into an existing file, as control files of the kernel want it. 0 or
 * -errno. */
KELPIE_MUST_CHECK int kelpie__agent_write_text(struct kelpie_os *os, int directory,
                                               const char *path, const char *text);

/* Makes a directory that may be there already. 0 or -errno. */
KELPIE_MUST_CHECK int kelpie__agent_make_directory(struct kelpie_os *os, const char *path,
                                                   uint32_t mode);

/* Takes the decimal number at *inout_at, behind any spaces, and moves on. False, and nothing moves:
 * there is none, or it is too large. */
KELPIE_MUST_CHECK bool kelpie__agent_take_number(const char **inout_at, uint64_t *out);

#endif
