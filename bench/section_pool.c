/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * pool: from the claim of a member that waits to the output of its first command, and the claim
 * alone. Each round begins with a full pool of which no member is being made. There is no raw side:
 * by hand one would keep stopped VMs, too, and what is left is `cont` and a command.
 */
#include <stdio.h>
#include <time.h>

#include "side.h"

#define POOL_SIZE 2u
#define POOL_LOOK_NS 20000000L
#define POOL_LOOKS_MAX 3000u

static struct kelpie_pool *pool_create(const struct bench_host *host) {
    struct kelpie_config *config = NULL;
    struct kelpie_pool *pool = NULL;
    struct kelpie_error error = {0};
    const struct kelpie_pool_options options = {
        .struct_size = sizeof(options), .size = POOL_SIZE, .lifetime = KELPIE_LIFETIME_OWNED};
    kelpie__bench_must(kelpie_config_create(host->kelpie, &config, &error), &error, "configure");
    kelpie_config_set_memory_mib(config, host->memory_mib);
    kelpie__bench_must(
        kelpie_pool_create(host->kelpie, "bench-pool", config, &options, &pool, &error), &error,
        "create a pool");
    kelpie_config_destroy(config);
    return pool;
}

static void pool_wait_full(struct kelpie_pool *pool) {
    struct kelpie_pool_info info = {.struct_size = sizeof(info)};
    struct kelpie_error error = {0};
    for (uint32_t i = 0; i < POOL_LOOKS_MAX; i += 1) {
        kelpie__bench_must(kelpie_pool_inspect(pool, &info, &error), &error, "inspect the pool");
        if (info.ready_count == POOL_SIZE && info.making_count == 0) {
            return;
        }
        nanosleep(&(struct timespec){.tv_nsec = POOL_LOOK_NS}, NULL);
    }
    kelpie__bench_die("the pool is never full: %s", info.problem);
}

static void pool_round(struct kelpie_pool *pool) {
    struct kelpie_error error = {0};
    struct kelpie_vm *vm = NULL;
    pool_wait_full(pool);
    double begun_ms = kelpie__bench_now_ms();
    kelpie__bench_must(kelpie_pool_claim(pool, NULL, &vm, &error), &error, "claim");
    double claimed_ms = kelpie__bench_now_ms();
    kelpie__bench_side_hello(vm);
    kelpie__bench_tell("pool/first", "ms", kelpie__bench_now_ms() - begun_ms);
    kelpie__bench_tell("pool/claim", "ms", claimed_ms - begun_ms);
    kelpie__bench_side_end(vm);
}

void kelpie__bench_pool(const struct bench_host *host) {
    struct kelpie_pool *pool = pool_create(host);
    for (uint32_t i = 0; kelpie__bench_goes_on(host, i); i += 1) {
        pool_round(pool);
    }
    kelpie_pool_close(pool);
}
