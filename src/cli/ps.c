/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * kelpie ps: the VMs, those that live or all of them.
 */
#include "cli/cli.h"
#include "core/text.h"
#include "os/os_call.h"

/* Its files are damaged, or its monitor cannot write them: the library lists it as Crashed, but for
 * all that is known it runs. */
static bool is_untold(const struct kelpie_vm_info *info) {
    return info->changed_ms == 0;
}

static bool is_live(const struct kelpie_vm_info *info) {
    return info->state == KELPIE_VM_STARTING || info->state == KELPIE_VM_RUNNING ||
           info->state == KELPIE_VM_PAUSED || is_untold(info);
}

static void print_row(struct kelpie_cli *cli, const struct kelpie_vm_info *info, int64_t now_ms) {
    char age[32];
    char memory[32];
    kelpie__cli_age(now_ms - info->changed_ms, age, sizeof(age));
    if (is_untold(info)) {
        kelpie__ignore(kelpie__text_copy(age, sizeof(age), "-"));
    }
    kelpie__text_format(memory, sizeof(memory), "%u MiB", info->memory_mib);
    kelpie__cli_print(cli, "%-20s  %-8s  %-8s  %4u  %10s  %-5s  %s\n", info->name,
                      is_untold(info) ? "unknown" : kelpie_vm_state_name(info->state), age,
                      info->cpus, memory, info->accelerator[0] == '\0' ? "-" : info->accelerator,
                      info->root[0] == '\0' ? "(built-in)" : info->root);
}

static void print_json(struct kelpie_cli *cli, const struct kelpie_vm_info *info) {
    char text[KELPIE_CLI_INFO_BYTES];
    int64_t length = kelpie__cli_write_info(info, NULL, text, sizeof(text));
    KELPIE_ASSERT(length > 0);
    KELPIE_ASSERT((size_t)length < sizeof(text));
    kelpie__cli_array_add(cli, text, (size_t)length);
}

int kelpie__cli_ps(struct kelpie_cli *cli) {
    struct kelpie_error error = {0};
    struct kelpie_vm_info *list = NULL;
    size_t count = 0;
    KELPIE_ASSERT(cli->word_count == 0);
    if (!kelpie__cli_open(cli)) {
        return KELPIE_CLI_FAILED;
    }
    if (kelpie_list(cli->kelpie, &list, &count, &error) < 0) {
        return kelpie__cli_fail_error(cli, &error);
    }
    int64_t now_ms = kelpie__os_now(cli->os, KELPIE_OS_CLOCK_WALL) / KELPIE_NS_PER_MS;
    if (cli->options.is_json) {
        kelpie__cli_array_begin(cli);
    } else {
        kelpie__cli_print(cli, "%-20s  %-8s  %-8s  %4s  %10s  %-5s  %s\n", "NAME", "STATE", "SINCE",
                          "CPUS", "MEMORY", "ACCEL", "ROOT");
    }
    for (size_t i = 0; i < count; i += 1) {
        if (!cli->options.shows_all && !is_live(&list[i])) {
            continue;
        }
        if (cli->options.is_json) {
            print_json(cli, &list[i]);
        } else {
            print_row(cli, &list[i], now_ms);
        }
    }
    if (cli->options.is_json) {
        kelpie__cli_array_end(cli);
    }
    kelpie_list_free(cli->kelpie, list, count);
    return KELPIE_CLI_OK;
}
