/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * kelpie resume: lets the guests of paused VMs go on.
 */
#include "cli/cli.h"

int kelpie__cli_resume(struct kelpie_cli *cli) {
    return kelpie__cli_each_vm(cli, kelpie_vm_resume);
}
