/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * See options.h.
 */
#include "monitor/options.h"

#include "core/text.h"

int kelpie__monitor_options_read(struct kelpie_monitor_options *options, int argc, char **argv,
                                 struct kelpie_error *error) {
    *options = (struct kelpie_monitor_options){0};
    const struct {
        const char *name;
        const char **value;
    } known[] = {
        {"--run-dir", &options->run_directory},         {"--vm-dir", &options->vm_directory},
        {"--state-dir", &options->state_directory},     {"--cache-dir", &options->cache_directory},
        {"--libexec-dir", &options->libexec_directory}, {"--name", &options->name},
    };
    for (int i = 1; i + 1 < argc; i += 2) {
        bool is_known = false;
        for (size_t j = 0; j < KELPIE_ARRAY_COUNT(known); j += 1) {
            if (kelpie__text_equal(argv[i], known[j].name)) {
                *known[j].value = argv[i + 1];
                is_known = true;
            }
        }
        if (!is_known) {
            return kelpie__fail(error, KELPIE_E_MISUSE, 0, "unknown argument \"%s\"", argv[i]);
        }
    }
    for (size_t j = 0; j < KELPIE_ARRAY_COUNT(known); j += 1) {
        if (*known[j].value == NULL || (*known[j].value)[0] == '\0') {
            return kelpie__fail(error, KELPIE_E_MISUSE, 0,
                                "%s is missing; monitors are started by libkelpie, not by hand",
                                known[j].name);
        }
    }
    return 0;
}
