/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * kelpie run --timings: what the boot and the command took, on standard error.
 */
#include "cli/cli.h"
#include "core/json.h"
#include "os/os_call.h"

#define TIMINGS_TEXT_BYTES 512u

static_assert(TIMINGS_TEXT_BYTES > 6u * (sizeof(((struct kelpie_vm_info *)0)->origin) +
                                         sizeof(((struct kelpie_vm_info *)0)->accelerator)) +
                                       sizeof(((struct kelpie_vm_info *)0)->name) + 200u,
              "texts of state files are escaped, a name needs no escapes");

static uint64_t between_us(int64_t from_ns, int64_t to_ns) {
    KELPIE_ASSERT(to_ns >= from_ns);
    return (uint64_t)((to_ns - from_ns) / KELPIE_NS_PER_US);
}

static void print_json(struct kelpie_cli *cli, const struct kelpie_vm_info *info, uint64_t boot_us,
                       uint64_t exec_us) {
    char text[TIMINGS_TEXT_BYTES];
    struct kelpie_json_writer writer;
    kelpie__json_begin(&writer, text, sizeof(text) - 1);
    kelpie__json_object_begin(&writer, NULL);
    kelpie__json_write_string(&writer, "name", info->name);
    kelpie__json_write_string(&writer, "origin", info->origin);
    kelpie__json_write_string(&writer, "accelerator", info->accelerator);
    kelpie__json_write_u64(&writer, "boot_us", boot_us);
    kelpie__json_write_u64(&writer, "exec_us", exec_us);
    kelpie__json_object_end(&writer);
    int64_t length = kelpie__json_finish(&writer);
    KELPIE_ASSERT(length > 0);
    KELPIE_ASSERT((size_t)length < sizeof(text));
    text[length] = '\n';
    kelpie__cli_flush(cli);
    kelpie__ignore(kelpie__cli_write(cli, KELPIE_CLI_STDERR, text, (size_t)length + 1));
}

void kelpie__cli_print_timings(struct kelpie_cli *cli, const struct kelpie_vm_info *info) {
    const struct kelpie_cli_timings *timings = &cli->timings;
    KELPIE_ASSERT(timings->booted_ns >= timings->started_ns);
    uint64_t boot_us = between_us(timings->started_ns, timings->booted_ns);
    uint64_t exec_us = between_us(timings->exec_started_ns, timings->exec_ended_ns);
    KELPIE_ASSERT(timings->exec_started_ns >= timings->booted_ns || timings->exec_started_ns == 0);
    if (cli->options.is_json) {
        print_json(cli, info, boot_us, exec_us);
        return;
    }
    kelpie__cli_note(cli, "%s (%s) %llu.%03llu ms, command %llu.%03llu ms", info->origin,
                     info->accelerator, (unsigned long long)(boot_us / 1000),
                     (unsigned long long)(boot_us % 1000), (unsigned long long)(exec_us / 1000),
                     (unsigned long long)(exec_us % 1000));
}
