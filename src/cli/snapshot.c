/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * kelpie snapshot: create, ls, inspect, rm, verify, tree, export, import.
 */
#include "cli/snapshot.h"

#include "cli/part.h"
#include "core/json.h"
#include "core/text.h"
#include "os/os_call.h"

#define SNAPSHOT_JSON_BYTES KELPIE_CLI_JSON_BYTES(struct kelpie_snapshot_info)

void kelpie__cli_bytes(uint64_t bytes, char *out, size_t capacity) {
    const char *unit = bytes < 10u << 20 ? "KiB" : "MiB";
    uint64_t value = bytes < 10u << 20 ? (bytes + 1023) >> 10 : bytes >> 20;
    KELPIE_ASSERT(capacity >= 16);
    kelpie__text_format(out, capacity, "%llu %s", (unsigned long long)value, unit);
}

/* ---- create ---------------------------------------------------------------------------------- */

static int run_create(struct kelpie_cli *cli) {
    struct kelpie_error error = {0};
    struct kelpie_snapshot_result result = {.struct_size = sizeof(result)};
    const struct kelpie_snapshot_options options = {
        .struct_size = sizeof(options),
        .name = cli->word_count > 2 ? cli->words[2] : NULL,
        .label = cli->options.label,
        .stops_vm = cli->options.stops_vm,
    };
    KELPIE_ASSERT(cli->word_count >= 2 && cli->word_count <= 3);
    struct kelpie_vm *vm = kelpie__cli_open_vm(cli, cli->words[1]);
    if (vm == NULL) {
        return KELPIE_CLI_FAILED;
    }
    int status = kelpie_vm_snapshot(vm, &options, &result, &error);
    kelpie_vm_close(vm);
    if (status < 0) {
        return kelpie__cli_fail_error(cli, &error);
    }
    kelpie__cli_print(cli, "%s\n", result.name);
    return KELPIE_CLI_OK;
}

/* ---- ls, inspect ----------------------------------------------------------------------------- */

static int64_t write_snapshot(const struct kelpie_snapshot_info *info, char *out, size_t capacity) {
    struct kelpie_json_writer writer;
    KELPIE_ASSERT(capacity >= SNAPSHOT_JSON_BYTES);
    kelpie__json_begin(&writer, out, capacity);
    kelpie__json_object_begin(&writer, NULL);
    kelpie__json_write_string(&writer, "name", info->name);
    kelpie__json_write_bool(&writer, "damaged", info->is_damaged);
    kelpie__json_write_string(&writer, "problem", info->problem);
    kelpie__json_write_string(&writer, "id", info->id);
    kelpie__json_write_string(&writer, "label", info->label);
    kelpie__json_write_string(&writer, "vm", info->vm_name);
    kelpie__json_write_string(&writer, "vm_id", info->vm_id);
    kelpie__json_write_string(&writer, "parent", info->parent);
    kelpie__json_write_i64(&writer, "created_ms", info->created_ms);
    kelpie__json_write_u64(&writer, "format", info->format);
    kelpie__json_write_string(&writer, "kind", info->kind);
    kelpie__json_write_string(&writer, "architecture", info->architecture);
    kelpie__json_write_string(&writer, "backend", info->backend);
    kelpie__json_write_string(&writer, "vmm_version", info->vmm_version);
    kelpie__json_write_string(&writer, "machine", info->machine);
    kelpie__json_write_string(&writer, "cpu", info->cpu);
    kelpie__json_write_string(&writer, "accelerator", info->accelerator);
    kelpie__json_write_u64(&writer, "tsc_khz", info->tsc_khz);
    kelpie__json_write_string(&writer, "kernel_digest", info->kernel_digest);
    kelpie__json_write_string(&writer, "checksum", info->checksum);
    kelpie__json_write_u64(&writer, "cpus", info->cpus);
    kelpie__json_write_u64(&writer, "memory_mib", info->memory_mib);
    kelpie__json_write_u64(&writer, "disks", info->disk_count);
    kelpie__json_write_u64(&writer, "files", info->file_count);
    kelpie__json_write_u64(&writer, "pages", info->page_count);
    kelpie__json_write_u64(&writer, "size_bytes", info->size_bytes);
    kelpie__json_write_u64(&writer, "stored_bytes", info->stored_bytes);
    kelpie__json_write_bool(&writer, "paused", info->is_paused);
    kelpie__json_write_bool(&writer, "has_base", info->has_base);
    kelpie__json_object_end(&writer);
    return kelpie__json_finish(&writer);
}

static void print_json(struct kelpie_cli *cli, const struct kelpie_snapshot_info *info) {
    char text[SNAPSHOT_JSON_BYTES];
    int64_t length = write_snapshot(info, text, sizeof(text));
    KELPIE_ASSERT(length > 0); /* every field is bounded far below the buffer */
    KELPIE_ASSERT((size_t)length < sizeof(text));
    kelpie__cli_array_add(cli, text, (size_t)length);
}

static void print_row(struct kelpie_cli *cli, const struct kelpie_snapshot_info *info,
                      int64_t now_ms) {
    char age[32];
    char size[32];
    if (info->is_damaged) {
        kelpie__cli_print(cli, "%-24s  (damaged: kelpie snapshot inspect says how)\n", info->name);
        return;
    }
    kelpie__cli_age(now_ms - info->created_ms, age, sizeof(age));
    kelpie__cli_bytes(info->stored_bytes, size, sizeof(size));
    kelpie__cli_print(cli, "%-24s  %-20s  %-8s  %10s  %6u MiB  %s\n", info->name, info->vm_name,
                      age, size, info->memory_mib, info->label);
}

static int run_ls(struct kelpie_cli *cli) {
    struct kelpie_error error = {0};
    struct kelpie_snapshot_info *list = NULL;
    size_t count = 0;
    KELPIE_ASSERT(cli->word_count == 1);
    if (!kelpie__cli_open(cli)) {
        return KELPIE_CLI_FAILED;
    }
    if (kelpie_snapshot_list(cli->kelpie, &list, &count, &error) < 0) {
        return kelpie__cli_fail_error(cli, &error);
    }
    int64_t now_ms = kelpie__os_now(cli->os, KELPIE_OS_CLOCK_WALL) / KELPIE_NS_PER_MS;
    if (cli->options.is_json) {
        kelpie__cli_array_begin(cli);
    } else {
        kelpie__cli_print(cli, "%-24s  %-20s  %-8s  %10s  %10s  %s\n", "NAME", "VM", "AGE", "SIZE",
                          "MEMORY", "LABEL");
    }
    for (size_t i = 0; i < count; i += 1) {
        if (cli->options.is_json) {
            print_json(cli, &list[i]);
        } else {
            print_row(cli, &list[i], now_ms);
        }
    }
    if (cli->options.is_json) {
        kelpie__cli_array_end(cli);
    }
    kelpie_snapshot_list_free(cli->kelpie, list, count);
    return KELPIE_CLI_OK;
}

static void print_snapshot(struct kelpie_cli *cli, const struct kelpie_snapshot_info *info) {
    char text[128];
    char size[32];
    int64_t now_ms = kelpie__os_now(cli->os, KELPIE_OS_CLOCK_WALL) / KELPIE_NS_PER_MS;
    kelpie__cli_print_field(cli, "name", info->name);
    kelpie__cli_print_field(cli, "id", info->id);
    kelpie__cli_print_field(cli, "label", info->label);
    kelpie__cli_print(cli, "%-14s %s (%s)%s\n", "vm", info->vm_name, info->vm_id,
                      info->is_paused ? ", paused" : "");
    kelpie__cli_print_field(cli, "parent", info->parent);
    kelpie__cli_age(now_ms - info->created_ms, text, sizeof(text));
    kelpie__cli_print(cli, "%-14s %s ago\n", "created", text);
    kelpie__cli_bytes(info->stored_bytes, size, sizeof(size));
    kelpie__cli_print(cli, "%-14s %s on the disk%s, in %u files\n", "size", size,
                      info->has_base ? ", over a base that it shares" : "", info->file_count);
    kelpie__cli_print(cli, "%-14s %u\n", "cpus", info->cpus);
    kelpie__cli_print(cli, "%-14s %u MiB, %llu pages saved\n", "memory", info->memory_mib,
                      (unsigned long long)info->page_count);
    if (info->disk_count > 0) {
        kelpie__cli_print(cli, "%-14s %u\n", "disks", info->disk_count);
    }
    kelpie__cli_print(cli, "%-14s %s %s, %s, %s, %s\n", "needs", info->backend, info->vmm_version,
                      info->architecture, info->machine, info->cpu);
    kelpie__cli_print_field(cli, "accelerator", info->accelerator);
    kelpie__cli_print_field(cli, "kernel", info->kernel_digest);
    kelpie__cli_print_field(cli, "checksum", info->checksum);
}

static int inspect_one(struct kelpie_cli *cli, const char *name, bool is_first) {
    struct kelpie_error error = {0};
    struct kelpie_snapshot_info info = {.struct_size = sizeof(info)};
    KELPIE_ASSERT(cli->word_count >= 2);
    KELPIE_ASSERT(cli->kelpie != NULL);
    if (kelpie_snapshot_inspect(cli->kelpie, name, &info, &error) < 0) {
        return kelpie__cli_fail_error(cli, &error);
    }
    if (cli->options.is_json) {
        print_json(cli, &info);
    } else {
        kelpie__cli_print(cli, is_first ? "" : "\n");
        print_snapshot(cli, &info);
    }
    return KELPIE_CLI_OK;
}

static int run_inspect(struct kelpie_cli *cli) {
    if (!kelpie__cli_open(cli)) {
        return KELPIE_CLI_FAILED;
    }
    return kelpie__cli_inspect_each(cli, 1, inspect_one);
}

/* ---- rm, verify ------------------------------------------------------------------------------ */

static int each(struct kelpie_cli *cli,
                int (*act)(struct kelpie *kelpie, const char *name, struct kelpie_error *error),
                const char *said) {
    int code = KELPIE_CLI_OK;
    KELPIE_ASSERT(cli->word_count >= 2);
    if (!kelpie__cli_open(cli)) {
        return KELPIE_CLI_FAILED;
    }
    for (uint32_t i = 1; i < cli->word_count; i += 1) {
        struct kelpie_error error = {0};
        if (act(cli->kelpie, cli->words[i], &error) < 0) {
            code = kelpie__cli_fail_error(cli, &error);
        } else {
            kelpie__cli_print(cli, "%s%s\n", cli->words[i], said);
        }
    }
    return code;
}

static int run_rm(struct kelpie_cli *cli) {
    return each(cli, kelpie_snapshot_remove, "");
}

static int run_verify(struct kelpie_cli *cli) {
    return each(cli, kelpie_snapshot_verify, ": every byte is as it was written");
}

/* ---- tree ------------------------------------------------------------------------------------ */

static int run_tree(struct kelpie_cli *cli) {
    struct kelpie_cli_forest forest = {0};
    KELPIE_ASSERT(cli->word_count == 1);
    int code = kelpie__cli_forest_open(cli, &forest);
    if (code != KELPIE_CLI_OK) {
        return code;
    }
    if (cli->options.svg == NULL) {
        kelpie__cli_forest_print(cli, &forest);
    } else {
        code = kelpie__cli_forest_draw(cli, &forest, cli->options.svg);
    }
    kelpie__cli_forest_close(cli, &forest);
    return code;
}

/* ---- the verb -------------------------------------------------------------------------------- */

static const struct kelpie_cli_part parts[] = {
    {"create", 1, 2, "stop label", "create [--stop] [--label TEXT] NAME [SNAPSHOT]",
     "save a VM that runs or is paused; it goes on", run_create},
    {"ls", 0, 0, "json", "ls [--json]", "list what was saved, the oldest first", run_ls},
    {"inspect", 1, KELPIE_CLI_WORDS_MANY, "json", "inspect [--json] SNAPSHOT...",
     "show all about it", run_inspect},
    {"rm", 1, KELPIE_CLI_WORDS_MANY, "", "rm SNAPSHOT...", "remove it", run_rm},
    {"verify", 1, KELPIE_CLI_WORDS_MANY, "", "verify SNAPSHOT...",
     "compare every byte with its checksums", run_verify},
    {"tree", 0, 0, "svg", "tree [--svg FILE]", "show who came from whom, as text or a picture",
     run_tree},
    {"export", 1, 2, "", "export SNAPSHOT [FILE|-]", "write it as one stream, for another machine",
     kelpie__cli_snapshot_export},
    {"import", 0, 1, "name trust", "import [--name NAME] [--trust] [FILE|-]",
     "make a snapshot of such a stream, once all of it was looked at", kelpie__cli_snapshot_import},
};

void kelpie__cli_print_snapshot_parts(struct kelpie_cli *cli) {
    kelpie__cli_print_parts(cli, "snapshot", parts, KELPIE_ARRAY_COUNT(parts));
}

int kelpie__cli_snapshot(struct kelpie_cli *cli) {
    return kelpie__cli_run_part(cli, parts, KELPIE_ARRAY_COUNT(parts));
}
