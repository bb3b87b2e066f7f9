/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * kelpie prune: removes what is of no use any more, and says what that was.
 */
#include "cli/cli.h"
#include "core/json.h"
#include "os/os_call.h"

#define PRUNE_TEXT_BYTES 512u

static void print_json(struct kelpie_cli *cli, const struct kelpie_prune_result *result) {
    char text[PRUNE_TEXT_BYTES];
    struct kelpie_json_writer writer;
    kelpie__json_begin(&writer, text, sizeof(text));
    kelpie__json_object_begin(&writer, NULL);
    kelpie__json_write_u64(&writer, "template_count", result->template_count);
    kelpie__json_write_u64(&writer, "template_bytes", result->template_bytes);
    kelpie__json_write_u64(&writer, "leftover_count", result->leftover_count);
    kelpie__json_write_u64(&writer, "leftover_bytes", result->leftover_bytes);
    kelpie__json_object_end(&writer);
    int64_t length = kelpie__json_finish(&writer);
    KELPIE_ASSERT(length > 0);
    KELPIE_ASSERT((size_t)length < sizeof(text));
    kelpie__cli_print(cli, "%s\n", text);
}

static void print_row(struct kelpie_cli *cli, const char *what, uint32_t count, uint64_t bytes) {
    kelpie__cli_print(cli, "%-10s  %4u  %10llu KiB\n", what, count,
                      (unsigned long long)(bytes / 1024));
}

int kelpie__cli_prune(struct kelpie_cli *cli) {
    struct kelpie_error error = {0};
    struct kelpie_prune_result result = {.struct_size = sizeof(result)};
    const struct kelpie_prune_options options = {
        .struct_size = sizeof(options),
        .template_age_ms = cli->options.age_ms != KELPIE_CLI_UNSET ? cli->options.age_ms : 0,
        .is_all = cli->options.shows_all,
        .is_trial = cli->options.is_trial,
    };
    KELPIE_ASSERT(cli->word_count == 0);
    if (!kelpie__cli_open(cli)) {
        return KELPIE_CLI_FAILED;
    }
    if (kelpie_prune(cli->kelpie, &options, &result, &error) < 0) {
        return kelpie__cli_fail_error(cli, &error);
    }
    if (cli->options.is_json) {
        print_json(cli, &result);
    } else {
        print_row(cli, "templates", result.template_count, result.template_bytes);
        print_row(cli, "left over", result.leftover_count, result.leftover_bytes);
    }
    return KELPIE_CLI_OK;
}
