/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * See part.h.
 */
#include "cli/part.h"

#include <string.h>

#include "core/text.h"

void kelpie__cli_print_parts(struct kelpie_cli *cli, const char *verb,
                             const struct kelpie_cli_part *parts, size_t count) {
    KELPIE_ASSERT(cli->verb != NULL);
    KELPIE_ASSERT(count > 0);
    for (size_t i = 0; i < count; i += 1) {
        kelpie__cli_print(cli, "  kelpie %s %s\n      %s\n", verb, parts[i].usage,
                          parts[i].summary);
    }
    kelpie__cli_print(cli, "\n");
}

static const struct kelpie_cli_part *find_part(struct kelpie_cli *cli,
                                               const struct kelpie_cli_part *parts, size_t count) {
    struct kelpie_cli_suggestion suggestion;
    const char *name = cli->words[0];
    KELPIE_ASSERT(count > 0);
    kelpie__cli_suggest_begin(&suggestion, name, strlen(name));
    for (size_t i = 0; i < count; i += 1) {
        if (kelpie__text_equal(parts[i].name, name)) {
            KELPIE_ASSERT(parts[i].words_min <= parts[i].words_max);
            return &parts[i];
        }
        kelpie__cli_suggest_offer(&suggestion, parts[i].name);
    }
    if (suggestion.nearest != NULL) {
        kelpie__ignore(kelpie__cli_fail(cli, "there is no \"%s\"; did you mean \"%s %s\"?", name,
                                        cli->verb->name, suggestion.nearest));
    } else {
        kelpie__ignore(kelpie__cli_fail(cli, "there is no \"%s\"; see kelpie %s --help", name,
                                        cli->verb->name));
    }
    return NULL;
}

int kelpie__cli_run_part(struct kelpie_cli *cli, const struct kelpie_cli_part *parts,
                         size_t count) {
    KELPIE_ASSERT(cli->word_count >= 1);
    const struct kelpie_cli_part *part = find_part(cli, parts, count);
    if (part == NULL) {
        return KELPIE_CLI_FAILED;
    }
    const char *foreign = kelpie__cli_foreign_option(cli, part->options);
    uint32_t given = cli->word_count - 1;
    KELPIE_ASSERT(part->run != NULL);
    KELPIE_ASSERT(part->options != NULL);
    if (foreign != NULL) {
        return kelpie__cli_fail(cli, "%s takes no --%s; usage: kelpie %s %s", part->name, foreign,
                                cli->verb->name, part->usage);
    }
    if (given < part->words_min || given > part->words_max) {
        return kelpie__cli_fail(cli, "%s; usage: kelpie %s %s",
                                given < part->words_min ? "too little was given"
                                                        : "too much was given",
                                cli->verb->name, part->usage);
    }
    return part->run(cli);
}
