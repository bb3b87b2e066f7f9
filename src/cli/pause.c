/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * kelpie pause: stops the guests of VMs where they are.
 */
#include "cli/cli.h"

int kelpie__cli_pause(struct kelpie_cli *cli) {
    return kelpie__cli_each_vm(cli, kelpie_vm_pause);
}
