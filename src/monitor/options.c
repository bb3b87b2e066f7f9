/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * See options.h.
 */
#include "monitor/options.h"

#include "core/options.h"

int kelpie__monitor_options_read(struct kelpie_monitor_options *options, int argc, char **argv,
                                 struct kelpie_error *error) {
    *options = (struct kelpie_monitor_options){0};
    const struct kelpie_option known[] = {
        {"--run-dir", &options->run_directory, KELPIE_OPTION_PATH},
        {"--vm-dir", &options->vm_directory, KELPIE_OPTION_PATH},
        {"--state-dir", &options->state_directory, KELPIE_OPTION_PATH},
        {"--cache-dir", &options->cache_directory, KELPIE_OPTION_PATH},
        {"--libexec-dir", &options->libexec_directory, KELPIE_OPTION_PATH},
        {"--name", &options->name, KELPIE_OPTION_NAME},
    };
    return kelpie__options_read(known, KELPIE_ARRAY_COUNT(known), argc, argv, "libkelpie", error);
}
