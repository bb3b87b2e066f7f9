/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * The one place where the library chooses its system: the real one.
 */
#include "lib/internal.h"

int kelpie_open(const struct kelpie_open_options *options, struct kelpie **out,
                struct kelpie_error *error) {
    if (out == NULL) {
        return kelpie__fail(error, KELPIE_E_MISUSE, 0, "kelpie_open: out is NULL");
    }
    struct kelpie_os *os = kelpie__os_linux_create();
    if (os == NULL) {
        return kelpie__fail(error, KELPIE_E_MEMORY, 0,
                            "no memory or no file descriptor for an event loop");
    }
    int status = kelpie__open_with_os(os, options, out, error);
    if (status < 0) {
        kelpie__os_linux_destroy(os);
    }
    return status;
}

void kelpie_close(struct kelpie *kelpie) {
    if (kelpie != NULL && kelpie__check_may_block(kelpie, "kelpie_close", NULL) == 0) {
        struct kelpie_os *os = kelpie__close_keeping_os(kelpie);
        kelpie__os_linux_destroy(os);
    }
}
