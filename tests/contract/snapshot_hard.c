/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Goal: what a snapshot and its restore have to bear: disks that are used without their memory,
 * damage in any file, no space, death at any step, a busy host, a guest that talks. Method: VMs
 * over a root directory with a disk, the test builds of the programs under fault plans.
 */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "contract.h"

/* ---- a disk without its memory --------------------------------------------------------------- */

/* What the guest wrote, and never synced, is on the snapshot's disk: a VM that is made from it and
 * dies at once boots with it. */
static void test_snapshot_disk_synced(const struct harness *harness) {
    struct contract contract = contract_open(harness);
    struct kelpie_vm *vm = contract_start_with_disk(&contract, "writer");
    contract_sh_says(vm,
                     "dd if=/dev/urandom of=/root/much bs=64k count=64 2>/dev/null;"
                     "md5sum </root/much >/root/sum",
                     "");
    contract_take(vm, "written");
    CONTRACT_OK(kelpie_vm_kill(vm, &broken));
    struct kelpie_vm *clone = contract_create_from(&contract, "clone", "written");
    CONTRACT_OK(kelpie_vm_start(clone, 0, &broken));
    CONTRACT_OK(kelpie_vm_kill(clone, &broken));
    CONTRACT_OK(kelpie_vm_start(clone, 0, &broken)); /* a boot */
    contract_sh_says(clone,
                     "md5sum </root/much >/tmp/sum; cat /tmp/sum /root/sum | "
                     "(read a; read b; test -n \"$a\" && test \"$a\" = \"$b\" && echo same)",
                     "same\n");
    contract_end(clone);
    contract_end(vm);
    contract_remove_snapshot(&contract, "written");
    contract_remove_root(&contract);
    contract_close(&contract);
}

const struct harness_test contract_tests_snapshot_hard[] = {
    {"snapshot_disk_synced", test_snapshot_disk_synced, 90},
    {0},
};
