/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * kelpie-monitor: owns one VM. Everything it does is in monitor.c, over the operating-system table.
 */
#include <string.h>

#include "monitor/monitor.h"
#include "monitor/worker.h"
#include "os/os.h"

int main(int argc, char **argv) {
    kelpie__os_linux_prepare_process();
    struct kelpie_os *linux_os = kelpie__os_linux_create();
    struct kelpie_os *os = linux_os;
#ifdef KELPIE_TEST_BUILD
    bool is_worker = argc > 1 && strcmp(argv[1], KELPIE_WORKER_OPTION) == 0;
    os =
        os == NULL ? NULL : kelpie__os_fault_from_environment(os, is_worker ? "worker" : "monitor");
#endif
    int code = os == NULL ? 1 : kelpie_monitor_main(os, argc, argv);
    kelpie__os_linux_destroy(linux_os);
    return code;
}
