/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * kelpie-krun --describe [NAME VALUE]...: what the libraries of this host can do, on stdout, for
 * kelpie doctor, for the table of docs/backends.md, and for people. libkrun does not tell its
 * version: its calls do. Nothing is made of it, and no KVM is needed.
 *
 *     version TEXT     what its calls say
 *     has|lacks NAME   a call, or "disks", which not every libkrun was built with
 *     missing TEXT     why it cannot be used: the only line then
 */
#include <stdio.h>
#include <unistd.h>

#include "krun/krun.h"

#define DESCRIBE_LIMIT_S 10u

static const char *describe_version(const struct kelpie_krun_library *library) {
    KELPIE_ASSERT(library->start_enter != NULL);
    KELPIE_ASSERT(library->add_vsock != NULL);
    return library->fs_add_overlay_file != NULL ? "1.19.0 or newer"
           : library->add_virtiofs3 != NULL     ? "1.18"
           : library->has_feature != NULL       ? "1.17.3 or newer of 1.17"
                                                : "1.17.0 to 1.17.2";
}

static void describe_line(bool is_there, const char *name) {
    printf("%s %s\n", is_there ? "has" : "lacks", name);
}

int kelpie__krun_describe(const struct kelpie_krun_options *options) {
    struct kelpie_krun_library library;
    alarm(DESCRIBE_LIMIT_S); /* nobody waits longer, or ends a library that hangs while it is loaded
                              */
    /* What a driver would be told of a library that cannot be used is the answer here. */
    if (dup2(STDOUT_FILENO, KELPIE_KRUN_STATUS) < 0 ||
        !kelpie__krun_library_load(options, &library)) {
        return KELPIE_KRUN_FAILED;
    }
    KELPIE_ASSERT(library.start_enter != NULL);
    printf("version %s\n", describe_version(&library));
    kelpie__krun_library_each_choice(&library, describe_line);
    describe_line(kelpie__krun_library_has_disks(&library), "disks");
    KELPIE_ASSERT(library.create_ctx != NULL); /* it was not called */
    return fflush(stdout) == 0 ? 0 : KELPIE_KRUN_FAILED;
}
