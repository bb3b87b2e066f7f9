/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * kelpie-agent: the process 1 of a Kelpie guest. Everything it does is in agent.c, over the
 * operating-system table.
 */
#include "agent/agent.h"
#include "os/os.h"

int main(int argc, char **argv) {
    kelpie__os_linux_prepare_process();
    struct kelpie_os *os = kelpie__os_linux_create_guest();
#ifdef KELPIE_TEST_BUILD
    os = os == NULL ? NULL : kelpie__os_fault_from_environment(os, "agent");
#endif
    return os == NULL ? 1 : kelpie_agent_main(os, argc, argv);
}
