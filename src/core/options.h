/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * How our own programs are told what to do: NAME VALUE, in any order, each of them given. They are
 * started by one another; what is wrong is told all the same, since people try programs by hand.
 */
#ifndef KELPIE_CORE_OPTIONS_H
#define KELPIE_CORE_OPTIONS_H

#include "core/error.h"

enum kelpie_option_kind {
    KELPIE_OPTION_TEXT, /* may be empty */
    KELPIE_OPTION_NAME,
    KELPIE_OPTION_PATH, /* absolute */
};

struct kelpie_option {
    const char *name;
    const char **value; /* borrowed from argv; what it holds before is the default, NULL for none */
    enum kelpie_option_kind kind;
};

/* `starter` is the program that starts this one, for people who do it by hand. */
KELPIE_MUST_CHECK int kelpie__options_read(const struct kelpie_option *known, size_t count,
                                           int argc, char **argv, const char *starter,
                                           struct kelpie_error *error);

#endif
