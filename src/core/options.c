/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * See options.h.
 */
#include "core/options.h"

#include "core/text.h"

static const struct kelpie_option *option_find(const struct kelpie_option *known, size_t count,
                                               const char *name) {
    KELPIE_ASSERT(count > 0);
    for (size_t i = 0; i < count; i += 1) {
        KELPIE_ASSERT(known[i].value != NULL);
        if (kelpie__text_equal(name, known[i].name)) {
            return &known[i];
        }
    }
    return NULL;
}

static int option_check(const struct kelpie_option *option, const char *starter,
                        struct kelpie_error *error) {
    const char *value = *option->value;
    bool is_empty = value == NULL || value[0] == '\0';
    KELPIE_ASSERT(option->kind <= KELPIE_OPTION_PATH);
    if (value == NULL || (is_empty && option->kind != KELPIE_OPTION_TEXT)) {
        return kelpie__fail(error, KELPIE_E_MISUSE, 0,
                            "%s is missing; this program is started by %s, not by hand",
                            option->name, starter);
    }
    if (option->kind == KELPIE_OPTION_PATH && value[0] != '/') {
        return kelpie__fail(error, KELPIE_E_MISUSE, 0,
                            "%s is \"%s\", which is no absolute path; this program is started by "
                            "%s, not by hand",
                            option->name, value, starter);
    }
    return 0;
}

int kelpie__options_read(const struct kelpie_option *known, size_t count, int argc, char **argv,
                         const char *starter, struct kelpie_error *error) {
    KELPIE_ASSERT(starter != NULL);
    for (int i = 1; i < argc; i += 2) {
        const struct kelpie_option *option = option_find(known, count, argv[i]);
        if (option == NULL || i + 1 == argc) {
            return kelpie__fail(error, KELPIE_E_MISUSE, 0, "%s \"%s\"",
                                option == NULL ? "unknown argument" : "there is no value for",
                                argv[i]);
        }
        *option->value = argv[i + 1];
    }
    for (size_t i = 0; i < count; i += 1) {
        int status = option_check(&known[i], starter, error);
        if (status < 0) {
            return status;
        }
    }
    return 0;
}
