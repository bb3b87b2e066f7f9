/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Goal: pools (docs/pools.md): a claim gives a fresh VM of its own at once; each member goes to one
 * claimer; whatever dies, the pool goes on; leases and owners end what is theirs; what is wrong
 * with a configuration is told at create; nothing is left (which the harness proves). Method:
 * claims from several processes, and SIGKILL of keepers, monitors, VMMs and owners.
 */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "contract.h"

#define POOL_SETTLE_MS 60000u
#define CLAIMER_COUNT 4u

static struct kelpie_config *pool_config(struct contract *contract) {
    struct kelpie_config *config = contract_config(contract);
    kelpie_config_set_template(config, true); /* the first member leaves one */
    return config;
}

static struct kelpie_pool *pool_create(struct contract *contract, const char *name, uint32_t size,
                                       enum kelpie_lifetime lifetime) {
    struct kelpie_config *config = pool_config(contract);
    struct kelpie_pool *pool = NULL;
    const struct kelpie_pool_options options = {
        .struct_size = sizeof(options), .size = size, .lifetime = lifetime};
    CONTRACT_OK(kelpie_pool_create(contract->kelpie, name, config, &options, &pool, &broken));
    kelpie_config_destroy(config);
    return pool;
}

static struct kelpie_pool_info pool_inspect(struct kelpie_pool *pool) {
    struct kelpie_pool_info info = {.struct_size = sizeof(info)};
    CONTRACT_OK(kelpie_pool_inspect(pool, &info, &broken));
    return info;
}

/* Until all of its members wait. */
static struct kelpie_pool_info pool_wait_full(struct kelpie_pool *pool) {
    uint64_t deadline_ms = harness_now_ms() + POOL_SETTLE_MS;
    struct kelpie_pool_info info = pool_inspect(pool);
    while ((info.ready_count != info.size || info.making_count > 0) &&
           harness_now_ms() < deadline_ms) {
        poll(NULL, 0, 20); /* its state is files: there is nothing to wait for */
        info = pool_inspect(pool);
    }
    HARNESS_CHECK(info.ready_count == info.size, "%u of %u wait, %u are being made: %s",
                  info.ready_count, info.size, info.making_count, info.problem);
    return info;
}

static struct kelpie_vm *pool_claim(struct kelpie_pool *pool, enum kelpie_lifetime lifetime,
                                    uint64_t lease_ms, uint64_t wait_ms) {
    const struct kelpie_claim_options options = {.struct_size = sizeof(options),
                                                 .lifetime = lifetime,
                                                 .lease_ms = lease_ms,
                                                 .wait_ms = wait_ms};
    struct kelpie_vm *vm = NULL;
    CONTRACT_OK(kelpie_pool_claim(pool, &options, &vm, &broken));
    return vm;
}

static void pool_origin_is(struct kelpie_vm *vm, const char *origin) {
    struct kelpie_vm_info info = contract_inspect(vm);
    HARNESS_CHECK(strcmp(info.origin, origin) == 0, "the VM came from \"%s\"", info.origin);
}

/* Any member that waits, or all zero. */
static struct kelpie_vm_info pool_member(struct contract *contract) {
    struct kelpie_vm_info *list = NULL;
    struct kelpie_vm_info found = {.struct_size = 0};
    size_t count = 0;
    CONTRACT_OK(kelpie_list(contract->kelpie, &list, &count, &broken));
    for (size_t i = 0; i < count; i += 1) {
        if (list[i].state == KELPIE_VM_PAUSED && list[i].pool[0] != '\0') {
            found = list[i];
        }
    }
    kelpie_list_free(contract->kelpie, list, count);
    return found;
}

static size_t vm_count(struct contract *contract) {
    struct kelpie_vm_info *list = NULL;
    size_t count = 0;
    CONTRACT_OK(kelpie_list(contract->kelpie, &list, &count, &broken));
    kelpie_list_free(contract->kelpie, list, count);
    return count;
}

/* Until neither a VM nor a pool is there. */
static void wait_empty(struct contract *contract) {
    uint64_t deadline_ms = harness_now_ms() + POOL_SETTLE_MS;
    struct kelpie_pool_info *pools = NULL;
    size_t pool_count = 1;
    size_t count = 1;
    while (count + pool_count > 0 && harness_now_ms() < deadline_ms) {
        poll(NULL, 0, 20);
        count = vm_count(contract);
        CONTRACT_OK(kelpie_pool_list(contract->kelpie, &pools, &pool_count, &broken));
        kelpie_pool_list_free(contract->kelpie, pools, pool_count);
    }
    HARNESS_CHECK(count + pool_count == 0, "%zu VMs and %zu pools are left", count, pool_count);
}

/* Nothing else is left: the template that members are made from is dropped, too. */
static void end_contract(struct contract *contract) {
    char command[600];
    snprintf(command, sizeof(command), "rm -rf '%s/templates'", contract->harness->state_directory);
    HARNESS_CHECK(system(command) == 0, "%s", command);
    contract_close(contract);
}

static void pool_end(struct kelpie_pool *pool) {
    CONTRACT_OK(kelpie_pool_remove(pool, &broken));
    kelpie_pool_close(pool);
}

/* ---- claims ---------------------------------------------------------------------------------- */

/* What a guest says about itself. */
static void identity_of(struct kelpie_vm *vm, char out[512]) {
    struct kelpie_vm_info info = contract_inspect(vm);
    struct contract_result result = contract_sh(
        vm, "hostname; cat /etc/machine-id; date +%s; head -c 32 /dev/urandom | md5sum", 0);
    char name[80] = "";
    char machine_id[80] = "";
    long long seconds = 0;
    HARNESS_CHECK(result.status == 0, "%s", result.error.message);
    int found = sscanf(result.exec.stdout_bytes, "%79s %79s %lld", name, machine_id, &seconds);
    HARNESS_CHECK(found == 3, "%s", result.exec.stdout_bytes);
    long long off = seconds - (long long)time(NULL);
    HARNESS_CHECK(strcmp(name, info.name) == 0 && strcmp(machine_id, info.id) == 0, "%s",
                  result.exec.stdout_bytes);
    HARNESS_CHECK(off >= -2 && off <= 2, "the guest's clock is off by %lld s", off);
    snprintf(out, 512, "%s", result.exec.stdout_bytes);
    contract_release(&result);
}

static void test_pool_claim(const struct harness *harness) {
    struct contract contract = contract_open(harness);
    struct kelpie_pool *pool = pool_create(&contract, "web", 2, KELPIE_LIFETIME_DETACHED);
    char first[512];
    char second[512];
    pool_wait_full(pool);
    poll(NULL, 0, 1500); /* they stand still: their clocks fall behind */
    struct kelpie_vm *one = pool_claim(pool, KELPIE_LIFETIME_OWNED, 0, 0);
    struct kelpie_vm *two = pool_claim(pool, KELPIE_LIFETIME_OWNED, 0, 0);
    contract_state_is(one, KELPIE_VM_RUNNING);
    pool_origin_is(one, "pool");
    pool_origin_is(two, "pool");
    identity_of(one, first);
    identity_of(two, second);
    HARNESS_CHECK(strcmp(kelpie_vm_id(one), kelpie_vm_id(two)) != 0, "two VMs have one id");
    HARNESS_CHECK(strcmp(strchr(first, '\n'), strchr(second, '\n')) != 0, "two are one: %s", first);
    struct kelpie_vm_info info = contract_inspect(one);
    HARNESS_CHECK(strcmp(info.pool, "web") == 0 && info.is_ephemeral && info.lease_end_ms == 0,
                  "pool \"%s\"", info.pool);
    HARNESS_CHECK(info.lifetime == KELPIE_LIFETIME_OWNED, "it is its claimer's");
    kelpie_vm_close(one);
    contract_end(two);
    struct kelpie_pool_info full = pool_wait_full(pool);
    HARNESS_CHECK(full.made_count >= 4 && full.failure_count == 0, "%llu made",
                  (unsigned long long)full.made_count);
    pool_end(pool);
    wait_empty(&contract);
    end_contract(&contract);
}

/* What waits is looked at, and not used. */
static void test_pool_member_waits(const struct harness *harness) {
    struct contract contract = contract_open(harness);
    struct kelpie_pool *pool = pool_create(&contract, "idle", 1, KELPIE_LIFETIME_DETACHED);
    struct kelpie_error error = {0};
    struct kelpie_vm *vm = NULL;
    struct kelpie_health health = {.struct_size = sizeof(health)};
    struct kelpie_vm_info member = pool_member(&contract);
    HARNESS_CHECK(strcmp(member.pool, "idle") == 0, "the member is listed");
    CONTRACT_OK(kelpie_vm_open(contract.kelpie, member.name, &vm, &broken));
    contract_fails(kelpie_vm_resume(vm, &error), &error, KELPIE_E_STATE, "pool \"idle\"");
    contract_fails(kelpie_vm_stop(vm, 0, NULL, &error), &error, KELPIE_E_STATE, "pool \"idle\"");
    contract_fails(kelpie_vm_snapshot(vm, NULL, NULL, &error), &error, KELPIE_E_STATE, "idle");
    CONTRACT_OK(kelpie_vm_health(vm, 0, &health, &broken));
    contract_state_is(vm, KELPIE_VM_PAUSED);
    kelpie_vm_close(vm);
    pool_end(pool);
    end_contract(&contract);
}

static void claimer(const struct harness *harness, int out) {
    struct contract contract = contract_open(harness);
    struct kelpie_pool *pool = NULL;
    CONTRACT_OK(kelpie_pool_open(contract.kelpie, "many", &pool, &broken));
    struct kelpie_vm *vm = pool_claim(pool, KELPIE_LIFETIME_OWNED, 0, POOL_SETTLE_MS);
    pool_origin_is(vm, "pool");
    contract_sh_says(vm, "test ! -e /tmp/used; echo $?; touch /tmp/used", "0\n");
    ssize_t written = write(out, kelpie_vm_id(vm), 32);
    HARNESS_CHECK(written == 32, "tell the id");
    contract_end(vm);
    kelpie_pool_close(pool);
    contract_close(&contract);
    _exit(0);
}

static void test_pool_claimers_at_once(const struct harness *harness) {
    struct contract contract = contract_open(harness);
    struct kelpie_pool *pool = pool_create(&contract, "many", 2, KELPIE_LIFETIME_DETACHED);
    char ids[CLAIMER_COUNT][33] = {{0}};
    int pipes[2];
    pool_wait_full(pool);
    HARNESS_CHECK(pipe(pipes) == 0, "pipe");
    for (uint32_t i = 0; i < CLAIMER_COUNT; i += 1) {
        pid_t child = fork();
        HARNESS_CHECK(child >= 0, "fork");
        if (child == 0) {
            claimer(harness, pipes[1]);
        }
    }
    for (uint32_t i = 0; i < CLAIMER_COUNT; i += 1) {
        int status = 0;
        HARNESS_CHECK(wait(&status) > 0 && status == 0, "a claimer failed");
        HARNESS_CHECK(read(pipes[0], ids[i], 32) == 32, "an id is missing");
        for (uint32_t j = 0; j < i; j += 1) {
            HARNESS_CHECK(strcmp(ids[i], ids[j]) != 0, "two have %s", ids[i]);
        }
    }
    close(pipes[0]);
    close(pipes[1]);
    pool_wait_full(pool);
    pool_end(pool);
    end_contract(&contract);
}

/* More than wait: a deadline, then one in time, then one that is made here. */
static void test_pool_empty(const struct harness *harness) {
    struct contract contract = contract_open(harness);
    struct kelpie_pool *pool = pool_create(&contract, "small", 1, KELPIE_LIFETIME_DETACHED);
    struct kelpie_error error = {0};
    struct kelpie_vm *none = NULL;
    const struct kelpie_claim_options hurry = {.struct_size = sizeof(hurry), .wait_ms = 1};
    pool_wait_full(pool);
    struct kelpie_vm *one = pool_claim(pool, KELPIE_LIFETIME_OWNED, 0, 0);
    contract_fails(kelpie_pool_claim(pool, &hurry, &none, &error), &error, KELPIE_E_TIMEOUT,
                   "larger size");
    struct kelpie_vm *two = pool_claim(pool, KELPIE_LIFETIME_OWNED, 0, POOL_SETTLE_MS);
    pool_origin_is(two, "pool");
    struct kelpie_vm *three = pool_claim(pool, KELPIE_LIFETIME_OWNED, 0, 0);
    pool_origin_is(three, "template");
    contract_sh_says(three, "echo made", "made\n");
    contract_end(one);
    contract_end(two);
    contract_end(three);
    pool_end(pool);
    end_contract(&contract);
}

/* ---- create ---------------------------------------------------------------------------------- */

static void create_fails(struct contract *contract, const char *name, struct kelpie_config *config,
                         uint32_t size, int code, const char *text) {
    const struct kelpie_pool_options options = {.struct_size = sizeof(options), .size = size};
    struct kelpie_pool *pool = NULL;
    struct kelpie_error error = {0};
    contract_fails(kelpie_pool_create(contract->kelpie, name, config, &options, &pool, &error),
                   &error, code, text);
    HARNESS_CHECK(pool == NULL, "nothing was given");
    kelpie_config_destroy(config);
}

static void test_pool_create_refused(const struct harness *harness) {
    struct contract contract = contract_open(harness);
    struct kelpie_config *config = pool_config(&contract);
    create_fails(&contract, "p", pool_config(&contract), 0, KELPIE_E_LIMIT, "1 to 256");
    create_fails(&contract, "p", pool_config(&contract), 257, KELPIE_E_LIMIT, "257");
    create_fails(&contract, "P/", pool_config(&contract), 1, KELPIE_E_CONFIG, "name");
    kelpie_config_set_memory_mib(config, 16384);
    create_fails(&contract, "p", config, 256, KELPIE_E_LIMIT, "--overcommit");
    config = pool_config(&contract);
    kelpie_config_set_root(config, "/nonexistent/root");
    create_fails(&contract, "p", config, 1, KELPIE_E_ROOT_NOT_FOUND, "/nonexistent/root");
    config = pool_config(&contract);
    kelpie_config_set_snapshot(config, "none-such");
    create_fails(&contract, "p", config, 1, KELPIE_E_NOT_FOUND, "none-such");
    config = contract_boot_config(&contract); /* only a member that is made can know it */
    kelpie_config_set_boot_timeout_ms(config, 1);
    create_fails(&contract, "p", config, 1, KELPIE_E_BOOT_TIMEOUT, "1 ms");
    wait_empty(&contract);
    struct kelpie_pool *pool = pool_create(&contract, "p", 1, KELPIE_LIFETIME_DETACHED);
    create_fails(&contract, "p", pool_config(&contract), 1, KELPIE_E_EXISTS, "\"p\"");
    pool_end(pool);
    end_contract(&contract);
}

static void test_pool_from_snapshot(const struct harness *harness) {
    struct contract contract = contract_open(harness);
    struct kelpie_config *config = NULL;
    struct kelpie_pool *pool = NULL;
    const struct kelpie_pool_options options = {.struct_size = sizeof(options), .size = 1};
    struct kelpie_vm *vm = contract_start(&contract);
    contract_sh_says(vm, "echo kept >/tmp/file", "");
    CONTRACT_OK(kelpie_vm_pause(vm, &broken)); /* members wake up before they are warmed */
    contract_take(vm, "base");
    contract_end(vm);
    CONTRACT_OK(kelpie_config_create(contract.kelpie, &config, &broken));
    kelpie_config_set_snapshot(config, "base");
    CONTRACT_OK(kelpie_pool_create(contract.kelpie, NULL, config, &options, &pool, &broken));
    kelpie_config_destroy(config);
    struct kelpie_vm *one = pool_claim(pool, KELPIE_LIFETIME_OWNED, 0, 0);
    pool_origin_is(one, "pool");
    contract_sh_says(one, "cat /tmp/file", "kept\n");
    contract_end(one);
    kelpie_pool_close(
        pool); /* it is owned: its keeper ends it, and its members hold the snapshot */
    wait_empty(&contract);
    contract_remove_snapshot(&contract, "base");
    end_contract(&contract);
}

/* ---- deaths ---------------------------------------------------------------------------------- */

static void test_pool_member_killed(const struct harness *harness) {
    struct contract contract = contract_open(harness);
    struct kelpie_pool *pool = pool_create(&contract, "hurt", 2, KELPIE_LIFETIME_DETACHED);
    for (uint32_t round = 0; round < 2; round += 1) {
        pool_wait_full(pool);
        struct kelpie_vm_info member = pool_member(&contract);
        HARNESS_CHECK(member.vmm_pid > 0 && member.monitor_pid > 0, "its processes are known");
        kill(round == 0 ? member.vmm_pid : member.monitor_pid, SIGKILL);
        struct kelpie_vm *vm = pool_claim(pool, KELPIE_LIFETIME_OWNED, 0, 0);
        pool_origin_is(vm, "pool");
        contract_sh_says(vm, "echo well", "well\n");
        HARNESS_CHECK(strcmp(kelpie_vm_name(vm), member.name) != 0, "a dead one was claimed");
        contract_end(vm);
    }
    pool_wait_full(pool);
    pool_end(pool);
    wait_empty(&contract);
    end_contract(&contract);
}

static void test_pool_keeper_killed(const struct harness *harness) {
    struct contract contract = contract_open(harness);
    struct kelpie_pool *pool = pool_create(&contract, "kept", 2, KELPIE_LIFETIME_DETACHED);
    struct kelpie_pool_info before = pool_wait_full(pool);
    HARNESS_CHECK(kill(before.keeper_pid, SIGKILL) == 0, "the keeper is %d", before.keeper_pid);
    poll(NULL, 0, 100);
    struct kelpie_vm *vm = pool_claim(pool, KELPIE_LIFETIME_OWNED, 0, 0); /* nobody keeps it now */
    pool_origin_is(vm, "pool");
    contract_sh_says(vm, "echo well", "well\n");
    struct kelpie_pool_info after = pool_wait_full(pool);
    HARNESS_CHECK(after.keeper_pid != before.keeper_pid, "another one keeps it");
    HARNESS_CHECK(after.made_count == 1, "%llu were made, and one was missing",
                  (unsigned long long)after.made_count);
    /* Now in the middle of making one. */
    contract_end(vm);
    vm = pool_claim(pool, KELPIE_LIFETIME_OWNED, 0, 0);
    poll(NULL, 0, 50);
    kill(after.keeper_pid, SIGKILL);
    contract_end(vm);
    pool_wait_full(pool);
    HARNESS_CHECK(vm_count(&contract) == 2, "%zu VMs are there", vm_count(&contract));
    pool_end(pool);
    wait_empty(&contract);
    end_contract(&contract);
}

/* A process that makes a pool of its own, claims from it, and is killed. */
static void test_pool_owner_killed(const struct harness *harness) {
    int pipes[2];
    char byte = 0;
    HARNESS_CHECK(pipe(pipes) == 0, "pipe");
    pid_t child = fork();
    HARNESS_CHECK(child >= 0, "fork");
    if (child == 0) {
        struct contract own = contract_open(harness);
        struct kelpie_pool *pool = pool_create(&own, NULL, 2, KELPIE_LIFETIME_OWNED);
        pool_claim(pool, KELPIE_LIFETIME_OWNED, 0, 0);
        HARNESS_CHECK(write(pipes[1], "x", 1) == 1, "tell");
        pause();
        _exit(1);
    }
    close(pipes[1]);
    HARNESS_CHECK(read(pipes[0], &byte, 1) == 1, "it has its pool");
    struct contract contract = contract_open(harness);
    HARNESS_CHECK(vm_count(&contract) >= 1, "its VM is there");
    kill(child, SIGKILL);
    HARNESS_CHECK(waitpid(child, NULL, 0) == child, "it is dead");
    wait_empty(&contract);
    end_contract(&contract);
    close(pipes[0]);
}

/* ---- leases ---------------------------------------------------------------------------------- */

static void wait_gone(struct contract *contract, const char *name, uint64_t timeout_ms) {
    uint64_t deadline_ms = harness_now_ms() + timeout_ms;
    struct kelpie_vm *vm = NULL;
    while (kelpie_vm_open(contract->kelpie, name, &vm, NULL) == 0 &&
           harness_now_ms() < deadline_ms) {
        kelpie_vm_close(vm);
        vm = NULL;
        poll(NULL, 0, 20);
    }
    HARNESS_CHECK(vm == NULL, "\"%s\" is still there", name);
}

static void test_pool_lease(const struct harness *harness) {
    struct contract contract = contract_open(harness);
    struct kelpie_pool *pool = pool_create(&contract, "lent", 1, KELPIE_LIFETIME_DETACHED);
    struct kelpie_error error = {0};
    char name[65];
    struct kelpie_vm *vm = pool_claim(pool, KELPIE_LIFETIME_DETACHED, 1500, 0);
    snprintf(name, sizeof(name), "%s", kelpie_vm_name(vm));
    struct kelpie_vm_info info = contract_inspect(vm);
    HARNESS_CHECK(info.lease_end_ms > 0 && info.lifetime == KELPIE_LIFETIME_DETACHED, "its lease");
    contract_fails(kelpie_vm_set_lease(vm, 5, &error), &error, KELPIE_E_LIMIT, "100");
    CONTRACT_OK(kelpie_vm_set_lease(vm, 4000, &broken));
    kelpie_vm_close(vm);
    poll(NULL, 0, 2500); /* beyond the first lease, within the second */
    CONTRACT_OK(kelpie_vm_open(contract.kelpie, name, &vm, &broken));
    contract_state_is(vm, KELPIE_VM_RUNNING);
    kelpie_vm_close(vm);
    wait_gone(&contract, name, 10000);
    vm = pool_claim(pool, KELPIE_LIFETIME_DETACHED, 1000, POOL_SETTLE_MS);
    CONTRACT_OK(kelpie_vm_set_lease(vm, 0, &broken));
    poll(NULL, 0, 1500);
    contract_sh_says(vm, "echo for ever", "for ever\n");
    contract_end(vm);
    pool_end(pool);
    end_contract(&contract);
}

/* ---- many ------------------------------------------------------------------------------------ */

/* One of: nothing, a VMM, a monitor, the keeper. */
static void hurt_something(struct contract *contract, struct kelpie_pool *pool, uint64_t draw) {
    struct kelpie_vm_info member = pool_member(contract);
    if (draw % 8 == 0 && member.vmm_pid > 0) {
        kill(member.vmm_pid, SIGKILL);
    } else if (draw % 8 == 1 && member.monitor_pid > 0) {
        kill(member.monitor_pid, SIGKILL);
    } else if (draw % 16 == 2) {
        int32_t pid = pool_inspect(pool).keeper_pid;
        if (pid > 0) {
            kill(pid, SIGKILL);
        }
    }
}

static void test_pool_many_claims(const struct harness *harness) {
    struct contract contract = contract_open(harness);
    struct kelpie_pool *pool = pool_create(&contract, "busy", 3, KELPIE_LIFETIME_DETACHED);
    uint32_t count = harness->scale == 1 ? 1000 : harness_count(harness, 200);
    uint32_t pool_count = 0;
    for (uint32_t i = 0; i < count; i += 1) {
        hurt_something(&contract, pool, harness_random(harness, "hurt", i));
        struct kelpie_vm *vm = pool_claim(pool, KELPIE_LIFETIME_OWNED, 0, POOL_SETTLE_MS);
        struct kelpie_vm_info info = contract_inspect(vm);
        pool_count += strcmp(info.origin, "pool") == 0 ? 1 : 0;
        contract_sh_says(vm, "test -e /tmp/used || echo new; touch /tmp/used", "new\n");
        contract_end(vm);
    }
    HARNESS_CHECK(pool_count == count, "%u of %u came from the pool", pool_count, count);
    pool_wait_full(pool);
    HARNESS_CHECK(vm_count(&contract) == 3, "%zu VMs are there", vm_count(&contract));
    pool_end(pool);
    wait_empty(&contract);
    end_contract(&contract);
}

static void claim_done(void *context, const struct kelpie_error *error) {
    int *code = context;
    *code = error == NULL ? 0 : error->code;
}

static void claim_turn(struct contract *contract, const int *code) {
    uint64_t deadline_ms = harness_now_ms() + POOL_SETTLE_MS;
    while (*code == 1 && harness_now_ms() < deadline_ms) {
        CONTRACT_OK(kelpie_wait(contract->kelpie, 1000, &broken));
    }
}

/* From the loop: more claims at once than there are members, one of which is given up, and one
 * whose pool is closed. */
static void test_pool_claim_async(const struct harness *harness) {
    struct contract contract = contract_open(harness);
    struct kelpie_pool *pool = pool_create(&contract, "loop", 2, KELPIE_LIFETIME_OWNED);
    const struct kelpie_claim_options patient = {.struct_size = sizeof(patient),
                                                 .wait_ms = KELPIE_TIMEOUT_NONE};
    struct kelpie_operation *operations[3] = {NULL};
    struct kelpie_vm *vms[3] = {NULL};
    int codes[3] = {1, 1, 1};
    pool_wait_full(pool);
    for (size_t i = 0; i < 3; i += 1) {
        CONTRACT_OK(kelpie_pool_claim_async(pool, &patient, &vms[i], claim_done, &codes[i],
                                            &operations[i], &broken));
        HARNESS_CHECK(codes[i] == 1, "no callback before it has returned");
    }
    for (size_t i = 0; i < 3; i += 1) {
        claim_turn(&contract, &codes[i]);
        HARNESS_CHECK(codes[i] == 0, "%s", kelpie_code_name(codes[i]));
        pool_origin_is(vms[i], "pool");
        contract_sh_says(vms[i], "echo well", "well\n");
        contract_end(vms[i]);
    }
    /* An empty pool: those that wait are given up, one by its operation, one with the handle. */
    pool_wait_full(pool);
    for (size_t i = 0; i < 2; i += 1) {
        vms[i] = pool_claim(pool, KELPIE_LIFETIME_OWNED, 0, 0);
    }
    struct kelpie_vm *never = NULL;
    codes[0] = 1;
    codes[1] = 1;
    CONTRACT_OK(kelpie_pool_claim_async(pool, &patient, &never, claim_done, &codes[0],
                                        &operations[0], &broken));
    kelpie_operation_cancel(operations[0]);
    claim_turn(&contract, &codes[0]);
    HARNESS_CHECK(codes[0] == KELPIE_E_CANCELLED, "%s", kelpie_code_name(codes[0]));
    CONTRACT_OK(
        kelpie_pool_claim_async(pool, &patient, &never, claim_done, &codes[1], NULL, &broken));
    kelpie_pool_close(pool);
    contract_end(vms[0]);
    contract_end(vms[1]);
    HARNESS_CHECK(codes[1] == 1 && never == NULL, "no callback after the pool was closed");
    wait_empty(&contract);
    end_contract(&contract);
}

const struct harness_test contract_tests_pool[] = {
    {"pool_claim", test_pool_claim, 180},
    {"pool_member_waits", test_pool_member_waits, 120},
    {"pool_claimers_at_once", test_pool_claimers_at_once, 180},
    {"pool_empty", test_pool_empty, 180},
    {"pool_create_refused", test_pool_create_refused, 180},
    {"pool_from_snapshot", test_pool_from_snapshot, 180},
    {"pool_member_killed", test_pool_member_killed, 180},
    {"pool_keeper_killed", test_pool_keeper_killed, 180},
    {"pool_owner_killed", test_pool_owner_killed, 180},
    {"pool_lease", test_pool_lease, 180},
    {"pool_claim_async", test_pool_claim_async, 180},
    {"pool_many_claims", test_pool_many_claims, 3000},
    {NULL, NULL, 0},
};
