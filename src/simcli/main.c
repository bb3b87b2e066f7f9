/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * kelpie-sim's main: its own files and clock are the real system's; what it runs is not.
 */
#include <malloc.h>
#include <stdio.h>

#include "os/os.h"
#include "simcli/simcli.h"

/* A campaign is a million runs in one process. What a run allocates in large pieces goes back at
 * its end: left to itself the C library raises its threshold with each such piece, and keeps them.
 */
#define MAIN_MMAP_BYTES_MIN (64 * 1024)
#define MAIN_FREE_BYTES_MAX (512 * 1024)

int main(int argc, char **argv) {
#if defined(M_MMAP_THRESHOLD) && defined(M_TRIM_THRESHOLD)
    kelpie__ignore(mallopt(M_MMAP_THRESHOLD, MAIN_MMAP_BYTES_MIN) == 1);
    kelpie__ignore(mallopt(M_TRIM_THRESHOLD, MAIN_FREE_BYTES_MAX) == 1);
#endif
    kelpie__os_linux_prepare_process();
    /* What a campaign of hours has found is in its log when somebody ends it. */
    kelpie__ignore(setvbuf(stdout, NULL, _IOLBF, 0) == 0);
    struct kelpie_os *os = kelpie__os_linux_create();
    int code = os == NULL ? KELPIE_SIM_USAGE : kelpie_simcli_main(os, argc, argv);
    kelpie__os_linux_destroy(os);
    return code;
}
