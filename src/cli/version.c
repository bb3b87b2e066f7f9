/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * kelpie version.
 */
#include "cli/cli.h"

int kelpie__cli_version(struct kelpie_cli *cli) {
    if (cli->options.is_json) {
        kelpie__cli_print(cli, "{\"version\":\"%s\",\"protocol\":%u}\n", kelpie_version(),
                          KELPIE_PROTOCOL_VERSION);
    } else {
        kelpie__cli_print(cli, "kelpie %s\n", kelpie_version());
    }
    return KELPIE_CLI_OK;
}
