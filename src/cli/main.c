/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * kelpie: microVMs from the command line. Everything it does is in cli.c, over the operating-system
 * table.
 */
#include "cli/cli.h"
#include "os/os.h"

int main(int argc, char **argv) {
    kelpie__os_linux_prepare_process();
    struct kelpie_os *os = kelpie__os_linux_create();
#ifdef KELPIE_TEST_BUILD
    os = os == NULL ? NULL : kelpie__os_fault_from_environment(os, "cli");
#endif
    return os == NULL ? KELPIE_CLI_FAILED : kelpie_cli_main(os, argc, argv);
}
