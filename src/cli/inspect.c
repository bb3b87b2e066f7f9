/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * kelpie inspect: all that is known of a VM, for people or as JSON.
 */
#include "cli/cli.h"
#include "core/json.h"
#include "core/text.h"
#include "os/os_call.h"

/* all their texts, each byte escaped to six, and the keys */
#define INSPECT_SHARE_BYTES (6u * KELPIE_SHARE_BYTES_MAX + KELPIE_SHARE_COUNT_MAX * 80u)

static const char *lifetime_name(enum kelpie_lifetime lifetime) {
    return lifetime == KELPIE_LIFETIME_OWNED ? "owned" : "detached";
}

static void write_shares(struct kelpie_json_writer *writer, const struct kelpie_vm *vm) {
    struct kelpie_share share = {.struct_size = sizeof(share)};
    kelpie__json_array_begin(writer, "shares");
    for (size_t i = 0; i < KELPIE_SHARE_COUNT_MAX && kelpie_vm_share(vm, i, &share); i += 1) {
        KELPIE_ASSERT(share.tag[0] != '\0');
        kelpie__json_object_begin(writer, NULL);
        kelpie__json_write_string(writer, "host_path", share.host_path);
        kelpie__json_write_string(writer, "guest_path", share.guest_path);
        kelpie__json_write_string(writer, "tag", share.tag);
        kelpie__json_write_bool(writer, "read_only", share.is_read_only);
        kelpie__json_object_end(writer);
    }
    kelpie__json_array_end(writer);
}

int64_t kelpie__cli_write_info(const struct kelpie_vm_info *info, const struct kelpie_vm *vm,
                               char *out, size_t capacity) {
    struct kelpie_json_writer writer;
    KELPIE_ASSERT(info->struct_size > 0);
    KELPIE_ASSERT(capacity >= KELPIE_CLI_INFO_BYTES + (vm == NULL ? 0 : INSPECT_SHARE_BYTES));
    kelpie__json_begin(&writer, out, capacity);
    kelpie__json_object_begin(&writer, NULL);
    kelpie__json_write_string(&writer, "id", info->id);
    kelpie__json_write_string(&writer, "name", info->name);
    kelpie__json_write_string(&writer, "state", kelpie_vm_state_name(info->state));
    kelpie__json_write_string(&writer, "reason", info->reason);
    kelpie__json_write_string(&writer, "backend", info->backend);
    kelpie__json_write_string(&writer, "backend_reason", info->backend_reason);
    kelpie__json_write_string(&writer, "pause", info->pause);
    kelpie__json_write_string(&writer, "accelerator", info->accelerator);
    kelpie__json_write_string(&writer, "accelerator_reason", info->accelerator_reason);
    kelpie__json_write_string(&writer, "origin", info->origin);
    kelpie__json_write_string(&writer, "parent", info->parent);
    kelpie__json_write_string(&writer, "pool", info->pool);
    kelpie__json_write_i64(&writer, "lease_end_ms", info->lease_end_ms);
    kelpie__json_write_string(&writer, "root", info->root);
    kelpie__json_write_string(&writer, "kernel", info->kernel);
    kelpie__json_write_u64(&writer, "cpus", info->cpus);
    kelpie__json_write_u64(&writer, "memory_mib", info->memory_mib);
    kelpie__json_write_u64(&writer, "disk_size_mib", info->disk_size_mib);
    if (vm != NULL) {
        write_shares(&writer, vm);
    }
    kelpie__json_write_bool(&writer, "read_only", info->is_read_only);
    kelpie__json_write_bool(&writer, "ephemeral", info->is_ephemeral);
    kelpie__json_write_string(&writer, "lifetime", lifetime_name(info->lifetime));
    kelpie__json_write_i64(&writer, "created_ms", info->created_ms);
    kelpie__json_write_i64(&writer, "changed_ms", info->changed_ms);
    kelpie__json_write_u64(&writer, "boot_us", info->boot_us);
    kelpie__json_write_i64(&writer, "monitor_pid", info->monitor_pid);
    kelpie__json_write_i64(&writer, "vmm_pid", info->vmm_pid);
    kelpie__json_object_end(&writer);
    return kelpie__json_finish(&writer);
}

static void print_shares(struct kelpie_cli *cli, const struct kelpie_vm *vm) {
    struct kelpie_share share = {.struct_size = sizeof(share)};
    KELPIE_ASSERT(vm != NULL);
    for (size_t i = 0; i < KELPIE_SHARE_COUNT_MAX && kelpie_vm_share(vm, i, &share); i += 1) {
        KELPIE_ASSERT(share.guest_path[0] == '/');
        kelpie__cli_print(cli, "%-14s %s: the host's %s%s\n", "share", share.guest_path,
                          share.host_path, share.is_read_only ? ", read-only" : "");
    }
}

static void print_info(struct kelpie_cli *cli, const struct kelpie_vm_info *info,
                       const struct kelpie_vm *vm) {
    kelpie__cli_print(cli, "%-14s %s\n", "name", info->name);
    kelpie__cli_print(cli, "%-14s %s\n", "id", info->id);
    kelpie__cli_print(cli, "%-14s %s\n", "state", kelpie_vm_state_name(info->state));
    kelpie__cli_print_field(cli, "reason", info->reason);
    kelpie__cli_print(cli, "%-14s %u\n", "cpus", info->cpus);
    kelpie__cli_print(cli, "%-14s %u MiB\n", "memory", info->memory_mib);
    kelpie__cli_print(cli, "%-14s %s%s\n", "root",
                      info->root[0] == '\0' ? "(built-in)" : info->root,
                      info->is_read_only ? ", read-only" : "");
    if (info->disk_size_mib > 0) {
        kelpie__cli_print(cli, "%-14s %llu MiB\n", "disk", (unsigned long long)info->disk_size_mib);
    }
    print_shares(cli, vm);
    kelpie__cli_print_field(cli, "kernel", info->kernel);
    kelpie__cli_print_field(cli, "snapshot", info->parent);
    kelpie__cli_print_field(cli, "pool", info->pool);
    kelpie__cli_print_field(cli, "backend", info->backend);
    kelpie__cli_print_field(cli, "", info->backend_reason);
    kelpie__cli_print_field(cli, "pause", info->pause);
    kelpie__cli_print_field(cli, "accelerator", info->accelerator);
    kelpie__cli_print_field(cli, "", info->accelerator_reason);
    kelpie__cli_print(cli, "%-14s %s%s\n", "lifetime", lifetime_name(info->lifetime),
                      info->is_ephemeral ? ", ephemeral" : "");
    if (info->boot_us > 0) {
        kelpie__cli_print(cli, "%-14s %llu ms\n", "boot took",
                          (unsigned long long)(info->boot_us / 1000));
    }
    if (info->monitor_pid > 0) {
        kelpie__cli_print(cli, "%-14s monitor %d, VMM %d\n", "processes", info->monitor_pid,
                          info->vmm_pid);
    }
}

static int show_info(struct kelpie_cli *cli, const struct kelpie_vm_info *info,
                     const struct kelpie_vm *vm, bool is_first) {
    const size_t capacity = KELPIE_CLI_INFO_BYTES + INSPECT_SHARE_BYTES;
    if (!cli->options.is_json) {
        kelpie__cli_print(cli, is_first ? "" : "\n");
        print_info(cli, info, vm);
        return KELPIE_CLI_OK;
    }
    char *text = kelpie__alloc(cli->os, capacity);
    if (text == NULL) {
        return kelpie__cli_fail(cli, "no memory");
    }
    int64_t length = kelpie__cli_write_info(info, vm, text, capacity);
    KELPIE_ASSERT(length > 0);
    kelpie__cli_array_add(cli, text, (size_t)length);
    kelpie__free(cli->os, text, capacity);
    return KELPIE_CLI_OK;
}

/* 0, or the exit code. */
static int inspect_one(struct kelpie_cli *cli, const char *name, bool is_first) {
    struct kelpie_error error = {0};
    struct kelpie_vm_info info = {.struct_size = sizeof(info)};
    struct kelpie_vm *vm = kelpie__cli_open_vm(cli, name);
    if (vm == NULL) {
        return KELPIE_CLI_FAILED;
    }
    int code = kelpie_vm_inspect(vm, &info, &error) < 0 ? kelpie__cli_fail_error(cli, &error)
                                                        : show_info(cli, &info, vm, is_first);
    kelpie_vm_close(vm);
    KELPIE_ASSERT(error.code == 0 || code != KELPIE_CLI_OK);
    return code;
}

int kelpie__cli_inspect(struct kelpie_cli *cli) {
    return kelpie__cli_inspect_each(cli, 0, inspect_one);
}
