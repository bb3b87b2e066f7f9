/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * kelpie-sim's main: its own files and clock are the real system's; what it runs is not.
 */
#include "os/os.h"
#include "simcli/simcli.h"

int main(int argc, char **argv) {
    kelpie__os_linux_prepare_process();
    struct kelpie_os *os = kelpie__os_linux_create();
    int code = os == NULL ? KELPIE_SIM_USAGE : kelpie_simcli_main(os, argc, argv);
    kelpie__os_linux_destroy(os);
    return code;
}
