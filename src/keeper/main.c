/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * kelpie-keeper: keeps one pool. Everything it does is in keeper.c, over the operating-system
 * table.
 */
#include "keeper/keeper.h"

int main(int argc, char **argv) {
    kelpie__os_linux_prepare_process();
    struct kelpie_os *linux_os = kelpie__os_linux_create();
    struct kelpie_os *os = linux_os;
#ifdef KELPIE_TEST_BUILD
    os = os == NULL ? NULL : kelpie__os_fault_from_environment(os, "keeper");
#endif
    int code = os == NULL ? 1 : kelpie_keeper_main(os, argc, argv);
    kelpie__os_linux_destroy(linux_os);
    return code;
}
