/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * See krun.h. The order matters: limits and signals first, then the libraries, then the VM's
 * context, then the confinement, then libkrun has the process.
 */
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "krun/krun.h"

/* A guest's output to a pipe that nobody reads must not end the VM; virtiofs and vsock hold a
 * descriptor for each file and connection; a core file would hold the guest's memory. */
static void launcher_prepare(void) {
    struct rlimit files;
    const struct rlimit core = {0};
    kelpie__ignore(signal(SIGPIPE, SIG_IGN) == SIG_ERR); /* it fails for unknown numbers only */
    kelpie__ignore(setrlimit(RLIMIT_CORE, &core));
    if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
        files.rlim_cur = files.rlim_max;
        kelpie__ignore(setrlimit(RLIMIT_NOFILE, &files));
    }
    KELPIE_ASSERT(core.rlim_max == 0);
}

static bool launcher_confine(const struct kelpie_krun_library *library,
                             const struct kelpie_krun_options *options) {
    KELPIE_ASSERT(library->start_enter != NULL);
    kelpie__krun_tell_call("landlock_restrict_self");
    if (!kelpie__krun_confine(library, options)) {
        return false;
    }
    kelpie__krun_tell_call("seccomp");
    return kelpie__krun_forbid(library, options);
}

int kelpie_krun_main(int argc, char **argv) {
    struct kelpie_krun_options options;
    struct kelpie_krun_library library;
    if (fcntl(KELPIE_KRUN_STATUS, F_GETFD) < 0) { /* by hand: for people */
        kelpie__ignore(dup2(STDERR_FILENO, KELPIE_KRUN_STATUS));
    }
    if (!kelpie__krun_options_read(argc, argv, &options)) {
        return KELPIE_KRUN_FAILED;
    }
    if (options.is_description) {
        return kelpie__krun_describe(&options);
    }
    launcher_prepare();
    kelpie__krun_tell_call("dlopen");
    if (!kelpie__krun_library_load(&options, &library)) {
        return KELPIE_KRUN_FAILED;
    }
    KELPIE_ASSERT(library.start_enter != NULL && options.agent != NULL);
    int64_t ctx = kelpie__krun_configure(&library, &options);
    if (ctx < 0) {
        return KELPIE_KRUN_FAILED;
    }
    KELPIE_ASSERT(ctx <= UINT32_MAX);
    if (!launcher_confine(&library, &options)) {
        kelpie__krun_release(&library, (uint32_t)ctx);
        return KELPIE_KRUN_FAILED;
    }
    kelpie__krun_tell("start"); /* start_enter takes the context, whatever becomes of it */
    int32_t result = library.start_enter((uint32_t)ctx);
    kelpie__krun_tell("returned %d", result < 0 ? -result : 0);
    return KELPIE_KRUN_RETURNED;
}
