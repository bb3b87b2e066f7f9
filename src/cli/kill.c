/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * kelpie kill: ends VMs at once.
 */
#include "cli/cli.h"

int kelpie__cli_kill(struct kelpie_cli *cli) {
    return kelpie__cli_each_vm(cli, kelpie_vm_kill);
}
