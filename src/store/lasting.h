/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * lasting.json: what of a durable VM has to outlive the machine's death, and is not settled when it
 * is made: the layers of its disk, and whether the snapshot that it was made from has been used.
 * Everything else in state.json is of a run, and dies with it: so that a start, a pause and a stop
 * wait for no disk. Where this file is, it is right, and what state.json says of the same is for
 * people; where it is not, nothing has ever changed that has to last. One rename of it decides a
 * restore.
 */
#ifndef KELPIE_STORE_LASTING_H
#define KELPIE_STORE_LASTING_H

#include "store/record.h"

#define KELPIE_LASTING_FILE "lasting.json"

/* Whether it would say something else. */
bool kelpie__lasting_differs(const struct kelpie_vm_record *a, const struct kelpie_vm_record *b);
/* The files of its layers but the lowest `known_count` are synced first, and all their names. After
 * a failure readers may see the old or the new: write what is to count again. */
KELPIE_MUST_CHECK int kelpie__lasting_write(struct kelpie_os *os, int directory,
                                            const struct kelpie_vm_record *record,
                                            uint32_t known_count, struct kelpie_error *error);
/* Replaces those members of the record; leaves them when there is no such file. */
KELPIE_MUST_CHECK int kelpie__lasting_read(struct kelpie_os *os, int directory,
                                           struct kelpie_vm_record *inout,
                                           struct kelpie_error *error);

#endif
