/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Where everything is: the directories of design.md, "Places and people", found, made, and refused
 * when somebody else could change what is in them.
 */
#ifndef KELPIE_STORE_PLACES_H
#define KELPIE_STORE_PLACES_H

#include "core/error.h"
#include "core/limits.h"
#include "os/os.h"

#define KELPIE_STORE_FORMAT 1u

struct kelpie_places {
    struct kelpie_os *os; /* borrowed: until close */
    char state_path[KELPIE_PATH_BYTES_MAX];
    char runtime_path[KELPIE_PATH_BYTES_MAX];
    char cache_path[KELPIE_PATH_BYTES_MAX];
    char libexec_path[KELPIE_PATH_BYTES_MAX];
    int state_vms;   /* handle of STATE/vms, owned */
    int runtime_vms; /* handle of RUNTIME/vms, owned */
};

/* The options are those of kelpie_open; any may be NULL. Errors: IO, UNSUPPORTED (a newer format),
 * CONFIG (a path that is too long or that another user may write). */
KELPIE_MUST_CHECK int kelpie__places_open(struct kelpie_places *places, struct kelpie_os *os,
                                          const struct kelpie_open_options *options,
                                          struct kelpie_error *error);
void kelpie__places_close(struct kelpie_places *places);

/* The path of one of our programs ("kelpie-monitor"). Errors: UNAVAILABLE. */
KELPIE_MUST_CHECK int kelpie__places_program(const struct kelpie_places *places, const char *name,
                                             char *out, size_t capacity,
                                             struct kelpie_error *error);

#endif
