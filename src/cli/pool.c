/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * kelpie pool: create, ls, inspect, rm, claim, renew.
 */
#include "cli/cli.h"
#include "cli/part.h"
#include "core/json.h"
#include "core/text.h"
#include "os/os_call.h"

#define POOL_JSON_BYTES KELPIE_CLI_JSON_BYTES(struct kelpie_pool_info)
#define POOL_CONFIG_OPTIONS                                                                        \
    "accel backend boot-timeout cpus disk-size env from kernel memory no-template overcommit "     \
    "read-only root workdir"

/* NULL: it was reported. */
static struct kelpie_pool *open_pool(struct kelpie_cli *cli, const char *name) {
    struct kelpie_error error = {0};
    struct kelpie_pool *pool = NULL;
    if (!kelpie__cli_open(cli)) {
        return NULL;
    }
    if (kelpie_pool_open(cli->kelpie, name, &pool, &error) < 0) {
        kelpie__ignore(kelpie__cli_fail_error(cli, &error)); /* never a command's own code */
        return NULL;
    }
    KELPIE_ASSERT(pool != NULL);
    return pool;
}

/* ---- create ---------------------------------------------------------------------------------- */

static int run_create(struct kelpie_cli *cli) {
    const struct kelpie_cli_options *options = &cli->options;
    struct kelpie_error error = {0};
    struct kelpie_config *config = NULL;
    struct kelpie_pool *pool = NULL;
    KELPIE_ASSERT(cli->word_count == 2);
    if (options->size == KELPIE_CLI_UNSET) {
        return kelpie__cli_fail(cli, "create needs --size: how many VMs are to wait");
    }
    if (options->size > UINT32_MAX ||
        (options->concurrency != KELPIE_CLI_UNSET && options->concurrency > UINT32_MAX)) {
        return kelpie__cli_fail(cli, "--size or --concurrency: the number is too large");
    }
    int code = kelpie__cli_make_config(cli, &config);
    if (code != KELPIE_CLI_OK) {
        return code;
    }
    KELPIE_ASSERT(config != NULL);
    const struct kelpie_pool_options create = {
        .struct_size = sizeof(create),
        .size = (uint32_t)options->size,
        .concurrency =
            options->concurrency == KELPIE_CLI_UNSET ? 0 : (uint32_t)options->concurrency,
        .lifetime = KELPIE_LIFETIME_DETACHED,
    };
    int status = kelpie_pool_create(cli->kelpie, cli->words[1], config, &create, &pool, &error);
    kelpie_config_destroy(config);
    if (status < 0) {
        return kelpie__cli_fail_error(cli, &error);
    }
    kelpie__cli_print(cli, "%s\n", kelpie_pool_name(pool));
    kelpie_pool_close(pool);
    return KELPIE_CLI_OK;
}

/* ---- ls, inspect ----------------------------------------------------------------------------- */

static const char *lifetime_name(enum kelpie_lifetime lifetime) {
    return lifetime == KELPIE_LIFETIME_OWNED ? "owned" : "detached";
}

static void print_json(struct kelpie_cli *cli, const struct kelpie_pool_info *info) {
    char text[POOL_JSON_BYTES];
    struct kelpie_json_writer writer;
    kelpie__json_begin(&writer, text, sizeof(text));
    kelpie__json_object_begin(&writer, NULL);
    kelpie__json_write_string(&writer, "name", info->name);
    kelpie__json_write_string(&writer, "id", info->id);
    kelpie__json_write_string(&writer, "lifetime", lifetime_name(info->lifetime));
    kelpie__json_write_u64(&writer, "size", info->size);
    kelpie__json_write_u64(&writer, "ready", info->ready_count);
    kelpie__json_write_u64(&writer, "making", info->making_count);
    kelpie__json_write_u64(&writer, "concurrency", info->concurrency);
    kelpie__json_write_u64(&writer, "cpus", info->cpus);
    kelpie__json_write_u64(&writer, "memory_mib", info->memory_mib);
    kelpie__json_write_string(&writer, "root", info->root);
    kelpie__json_write_string(&writer, "snapshot", info->snapshot);
    kelpie__json_write_i64(&writer, "created_ms", info->created_ms);
    kelpie__json_write_i64(&writer, "keeper_pid", info->keeper_pid);
    kelpie__json_write_u64(&writer, "made", info->made_count);
    kelpie__json_write_u64(&writer, "failures", info->failure_count);
    kelpie__json_write_string(&writer, "problem", info->problem);
    kelpie__json_object_end(&writer);
    int64_t length = kelpie__json_finish(&writer);
    KELPIE_ASSERT(length > 0); /* every field is bounded far below the buffer */
    KELPIE_ASSERT((size_t)length < sizeof(text));
    kelpie__cli_array_add(cli, text, (size_t)length);
}

static void print_row(struct kelpie_cli *cli, const struct kelpie_pool_info *info, int64_t now_ms) {
    char age[32];
    KELPIE_ASSERT(info->name[0] != '\0');
    kelpie__cli_age(now_ms - info->created_ms, age, sizeof(age));
    kelpie__cli_print(cli, "%-24s  %5u  %5u  %6u  %6u MiB  %-8s  %s\n", info->name,
                      info->ready_count, info->size, info->making_count, info->memory_mib, age,
                      info->problem);
}

static int run_ls(struct kelpie_cli *cli) {
    struct kelpie_error error = {0};
    struct kelpie_pool_info *list = NULL;
    size_t count = 0;
    KELPIE_ASSERT(cli->word_count == 1);
    if (!kelpie__cli_open(cli)) {
        return KELPIE_CLI_FAILED;
    }
    if (kelpie_pool_list(cli->kelpie, &list, &count, &error) < 0) {
        KELPIE_ASSERT(list == NULL);
        return kelpie__cli_fail_error(cli, &error);
    }
    int64_t now_ms = kelpie__os_now(cli->os, KELPIE_OS_CLOCK_WALL) / KELPIE_NS_PER_MS;
    if (cli->options.is_json) {
        kelpie__cli_array_begin(cli);
    } else {
        kelpie__cli_print(cli, "%-24s  %5s  %5s  %6s  %10s  %-8s  %s\n", "NAME", "READY", "SIZE",
                          "MAKING", "MEMORY", "AGE", "PROBLEM");
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
    kelpie_pool_list_free(cli->kelpie, list, count);
    return KELPIE_CLI_OK;
}

static void print_pool(struct kelpie_cli *cli, const struct kelpie_pool_info *info) {
    KELPIE_ASSERT(info->size > 0);
    KELPIE_ASSERT(info->concurrency > 0);
    kelpie__cli_print_field(cli, "name", info->name);
    kelpie__cli_print_field(cli, "id", info->id);
    kelpie__cli_print(cli, "%-14s %u of %u wait, %u being made (%u at once)\n", "members",
                      info->ready_count, info->size, info->making_count, info->concurrency);
    kelpie__cli_print(cli, "%-14s %u\n", "cpus", info->cpus);
    kelpie__cli_print(cli, "%-14s %u MiB each\n", "memory", info->memory_mib);
    kelpie__cli_print_field(cli, "root", info->root);
    kelpie__cli_print_field(cli, "snapshot", info->snapshot);
    kelpie__cli_print_field(cli, "lifetime", lifetime_name(info->lifetime));
    kelpie__cli_print(cli, "%-14s %d: %llu made, %llu failed\n", "keeper", info->keeper_pid,
                      (unsigned long long)info->made_count,
                      (unsigned long long)info->failure_count);
    kelpie__cli_print_field(cli, "problem", info->problem);
}

/* 0, or the exit code. */
static int inspect_one(struct kelpie_cli *cli, const char *name, bool is_first) {
    struct kelpie_error error = {0};
    struct kelpie_pool_info info = {.struct_size = sizeof(info)};
    struct kelpie_pool *pool = open_pool(cli, name);
    if (pool == NULL) {
        return KELPIE_CLI_FAILED;
    }
    int status = kelpie_pool_inspect(pool, &info, &error);
    kelpie_pool_close(pool);
    if (status < 0) {
        return kelpie__cli_fail_error(cli, &error);
    }
    if (cli->options.is_json) {
        print_json(cli, &info);
    } else {
        kelpie__cli_print(cli, is_first ? "" : "\n");
        print_pool(cli, &info);
    }
    return KELPIE_CLI_OK;
}

static int run_inspect(struct kelpie_cli *cli) {
    return kelpie__cli_inspect_each(cli, 1, inspect_one);
}

/* ---- rm -------------------------------------------------------------------------------------- */

static int run_rm(struct kelpie_cli *cli) {
    int code = KELPIE_CLI_OK;
    KELPIE_ASSERT(cli->words[cli->word_count] == NULL);
    KELPIE_ASSERT(cli->word_count >= 2);
    for (uint32_t i = 1; i < cli->word_count; i += 1) {
        struct kelpie_error error = {0};
        struct kelpie_pool *pool = open_pool(cli, cli->words[i]);
        if (pool == NULL) {
            code = KELPIE_CLI_FAILED;
            continue;
        }
        if (kelpie_pool_remove(pool, &error) < 0) {
            code = kelpie__cli_fail_error(cli, &error);
        } else {
            kelpie__cli_print(cli, "%s\n", cli->words[i]);
        }
        kelpie_pool_close(pool);
    }
    return code;
}

/* ---- claim, renew ---------------------------------------------------------------------------- */

int kelpie__cli_claim(struct kelpie_cli *cli, const char *name, enum kelpie_lifetime lifetime,
                      struct kelpie_vm **out) {
    const struct kelpie_cli_options *options = &cli->options;
    struct kelpie_error error = {0};
    KELPIE_ASSERT(*out == NULL);
    struct kelpie_pool *pool = open_pool(cli, name);
    if (pool == NULL) {
        return KELPIE_CLI_FAILED;
    }
    const struct kelpie_claim_options claim = {
        .struct_size = sizeof(claim),
        .lifetime = lifetime,
        .lease_ms = options->lease_ms == KELPIE_CLI_UNSET ? 0 : options->lease_ms,
        .wait_ms = options->wait_ms == KELPIE_CLI_UNSET ? 0 : options->wait_ms,
    };
    cli->timings.started_ns = kelpie__os_now(cli->os, KELPIE_OS_CLOCK_MONOTONIC);
    int status = kelpie_pool_claim(pool, &claim, out, &error);
    cli->timings.booted_ns = kelpie__os_now(cli->os, KELPIE_OS_CLOCK_MONOTONIC);
    kelpie_pool_close(pool);
    KELPIE_ASSERT((status == 0) == (*out != NULL));
    return status < 0 ? kelpie__cli_fail_error(cli, &error) : KELPIE_CLI_OK;
}

static int run_claim(struct kelpie_cli *cli) {
    struct kelpie_vm *vm = NULL;
    KELPIE_ASSERT(cli->word_count == 2);
    int code = kelpie__cli_claim(cli, cli->words[1], KELPIE_LIFETIME_DETACHED, &vm);
    KELPIE_ASSERT((code == KELPIE_CLI_OK) == (vm != NULL));
    return code == KELPIE_CLI_OK ? kelpie__cli_give_vm(cli, vm) : code;
}

static int run_renew(struct kelpie_cli *cli) {
    int code = KELPIE_CLI_OK;
    KELPIE_ASSERT(cli->words[cli->word_count] == NULL);
    KELPIE_ASSERT(cli->word_count >= 2);
    if (cli->options.lease_ms == KELPIE_CLI_UNSET) {
        return kelpie__cli_fail(cli, "renew needs --lease: how long from now, or 0 for no end");
    }
    for (uint32_t i = 1; i < cli->word_count; i += 1) {
        struct kelpie_error error = {0};
        struct kelpie_vm *vm = kelpie__cli_open_vm(cli, cli->words[i]);
        if (vm == NULL) {
            code = KELPIE_CLI_FAILED;
            continue;
        }
        if (kelpie_vm_set_lease(vm, cli->options.lease_ms, &error) < 0) {
            code = kelpie__cli_fail_error(cli, &error);
        } else {
            kelpie__cli_print(cli, "%s\n", cli->words[i]);
        }
        kelpie_vm_close(vm);
    }
    return code;
}

/* ---- the verb -------------------------------------------------------------------------------- */

static const struct kelpie_cli_part parts[] = {
    {"create", 1, 1, POOL_CONFIG_OPTIONS " size concurrency", "create --size N [OPTIONS] NAME",
     "keep N VMs started, warm and waiting; returns when the first one waits", run_create},
    {"ls", 0, 0, "json", "ls [--json]", "list the pools", run_ls},
    {"inspect", 1, KELPIE_CLI_WORDS_MANY, "json", "inspect [--json] NAME...", "show all about them",
     run_inspect},
    {"rm", 1, KELPIE_CLI_WORDS_MANY, "", "rm NAME...",
     "end what waits in them; VMs that were claimed live on", run_rm},
    {"claim", 1, 1, "lease wait", "claim [--lease TIME] [--wait TIME] NAME",
     "take a VM and leave it running; print its name", run_claim},
    {"renew", 1, KELPIE_CLI_WORDS_MANY, "lease", "renew --lease TIME VM...",
     "let VMs live so long from now", run_renew},
};

void kelpie__cli_print_pool_parts(struct kelpie_cli *cli) {
    kelpie__cli_print_parts(cli, "pool", parts, KELPIE_ARRAY_COUNT(parts));
}

int kelpie__cli_pool(struct kelpie_cli *cli) {
    return kelpie__cli_run_part(cli, parts, KELPIE_ARRAY_COUNT(parts));
}
