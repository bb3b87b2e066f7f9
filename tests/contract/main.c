/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * The contract of a VM (docs/testing.md) as a test program: all files' tests, or the ones named.
 */
#include "contract.h"

/* They measure, or keep every core busy by themselves. */
static const char *const alone[] = {
    "boot_under_load", "restore_under_load", "console_flood", "snapshot_others_served", NULL,
};

int main(int argc, char **argv) {
    static const struct harness_test *const files[] = {
        contract_tests_lifecycle,       contract_tests_exec,
        contract_tests_streams,         contract_tests_ends,
        contract_tests_roots,           contract_tests_load,
        contract_tests_faults,          contract_tests_pause,
        contract_tests_snapshot,        contract_tests_restore,
        contract_tests_snapshot_faults, contract_tests_snapshot_hard,
        contract_tests_restore_ends,    contract_tests_pool,
        contract_tests_templates,       contract_tests_fork_waiting,
        contract_tests_costs,
    };
    struct harness_suite suite = {.name = "contract", .alone = alone};
    return contract_main(argc, argv, &suite, files, sizeof(files) / sizeof(files[0]));
}
