/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Goal: rows 16 and 17, and everything that a collected command promises. Method: one VM a test,
 * many commands.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "contract.h"

struct concurrent {
    unsigned done;
    struct kelpie_exec_result results[100];
    int codes[100];
};

struct concurrent_slot {
    struct concurrent *all;
    unsigned index;
};

static void concurrent_done(void *context, const struct kelpie_error *error) {
    struct concurrent_slot *slot = context;
    slot->all->codes[slot->index] = error == NULL ? 0 : error->code;
    slot->all->done += 1;
}

/* Row 16: all end, every output is the caller's own. */
static void test_concurrent_exec(const struct harness *harness) {
    struct contract contract = contract_open(harness);
    struct kelpie_vm *vm = contract_start(&contract);
    static struct concurrent all;
    static struct concurrent_slot slots[100];
    const unsigned task_count = 5;
    const unsigned rounds = harness_count(harness, 20);
    for (unsigned round = 0; round < rounds; round += 1) {
        char scripts[5][64];
        unsigned first = round * task_count;
        all.done = 0;
        for (unsigned i = 0; i < task_count; i += 1) {
            snprintf(scripts[i], sizeof(scripts[i]), "echo out %u; echo err %u >&2; exit %u",
                     first + i, first + i, i);
            const char *const argv[] = {"sh", "-c", scripts[i], NULL};
            const struct kelpie_exec_options options = {.struct_size = sizeof(options),
                                                        .argv = argv};
            slots[first + i] = (struct concurrent_slot){&all, first + i};
            all.results[first + i].struct_size = sizeof(all.results[0]);
            CONTRACT_OK(kelpie_vm_exec_async(vm, &options, &all.results[first + i], concurrent_done,
                                             &slots[first + i], NULL, &broken));
            HARNESS_CHECK(all.done == 0, "no callback before the loop");
        }
        while (all.done < task_count) {
            CONTRACT_OK(kelpie_wait(contract.kelpie, 60000, &broken));
        }
        for (unsigned i = first; i < first + task_count; i += 1) {
            char wanted[64];
            struct kelpie_exec_result *result = &all.results[i];
            HARNESS_CHECK(all.codes[i] == 0, "%s", kelpie_code_name(all.codes[i]));
            snprintf(wanted, sizeof(wanted), "out %u\n", i);
            HARNESS_CHECK(strcmp(result->stdout_bytes, wanted) == 0, "%s", result->stdout_bytes);
            snprintf(wanted, sizeof(wanted), "err %u\n", i);
            HARNESS_CHECK(strcmp(result->stderr_bytes, wanted) == 0, "%s", result->stderr_bytes);
            HARNESS_CHECK(result->status.exit_code == (int)(i - first), "%d",
                          result->status.exit_code);
            kelpie_exec_result_release(result);
        }
    }
    contract_end(vm);
    contract_close(&contract);
}

/* Row 17: an argument of 100 KiB comes back byte for byte; arguments of 2 MiB work, more is
 * refused. */
static void test_large_exec_output(const struct harness *harness) {
    struct contract contract = contract_open(harness);
    struct kelpie_vm *vm = contract_start(&contract);
    const size_t size = 100 * 1024;
    char *text = malloc(size + 1);
    HARNESS_CHECK(text != NULL, "memory");
    for (size_t i = 0; i < size; i += 1) {
        text[i] = (char)('!' + harness_random(harness, "large", i) % 90);
    }
    text[size] = '\0';
    const char *const argv[] = {"printf", "%s", text, NULL};
    struct kelpie_exec_options options = {.struct_size = sizeof(options), .argv = argv};
    struct kelpie_exec_result result = {.struct_size = sizeof(result)};
    CONTRACT_OK(kelpie_vm_exec(vm, &options, &result, &broken));
    HARNESS_CHECK(result.stdout_count == size && memcmp(result.stdout_bytes, text, size) == 0,
                  "%zu bytes came back", result.stdout_count);
    kelpie_exec_result_release(&result);
    free(text);
    contract_end(vm);
    contract_close(&contract);
}

/* argv of `count` texts of 100,000 bytes each. */
static char **large_argv(size_t count) {
    char **argv = calloc(count + 4, sizeof(*argv));
    HARNESS_CHECK(argv != NULL, "memory");
    argv[0] = strdup("sh");
    argv[1] = strdup("-c");
    argv[2] = strdup("echo $#; echo ${#1}");
    for (size_t i = 0; i < count; i += 1) {
        argv[3 + i] = malloc(100001);
        HARNESS_CHECK(argv[3 + i] != NULL, "memory");
        memset(argv[3 + i], 'x', 100000);
        argv[3 + i][100000] = '\0';
    }
    return argv;
}

static void test_exec_argument_limit(const struct harness *harness) {
    struct contract contract = contract_open(harness);
    struct kelpie_vm *vm = contract_start(&contract);
    char **argv = large_argv(20); /* 2,000,000 bytes */
    struct kelpie_exec_options options = {.struct_size = sizeof(options),
                                          .argv = (const char *const *)argv};
    struct kelpie_exec_result result = {.struct_size = sizeof(result)};
    struct kelpie_error error = {0};
    CONTRACT_OK(kelpie_vm_exec(vm, &options, &result, &broken));
    HARNESS_CHECK(strcmp(result.stdout_bytes, "19\n100000\n") == 0, "%s%s", result.stdout_bytes,
                  result.stderr_bytes);
    kelpie_exec_result_release(&result);
    char **more = large_argv(22);
    options.argv = (const char *const *)more;
    contract_fails(kelpie_vm_exec(vm, &options, &result, &error), &error, KELPIE_E_LIMIT,
                   "2097152");
    contract_end(vm);
    contract_close(&contract);
}

static void test_exec_environment(const struct harness *harness) {
    struct contract contract = contract_open(harness);
    struct kelpie_config *config = contract_boot_config(&contract);
    kelpie_config_add_environment(config, "FROM_VM=vm");
    kelpie_config_add_environment(config, "BOTH=vm");
    kelpie_config_set_working_directory(config, "/tmp");
    struct kelpie_vm *vm = contract_create(&contract, NULL, config);
    CONTRACT_OK(kelpie_vm_start(vm, 0, &broken));
    contract_sh_says(vm, "pwd; echo $FROM_VM $BOTH; id -u; echo $HOME", "/tmp\nvm vm\n0\n/root\n");
    const char *const argv[] = {"sh", "-c", "pwd; echo $FROM_VM $BOTH; ulimit -n; id -u; id -g",
                                NULL};
    const char *const environment[] = {"BOTH=exec", NULL};
    const struct kelpie_limit limits[] = {{RLIMIT_NOFILE, 33, 44}};
    const struct kelpie_exec_options options = {
        .struct_size = sizeof(options),
        .argv = argv,
        .environment = environment,
        .working_directory = "/proc",
        .user = "12:34",
        .limits = limits,
        .limit_count = 1,
    };
    struct kelpie_exec_result result = {.struct_size = sizeof(result)};
    CONTRACT_OK(kelpie_vm_exec(vm, &options, &result, &broken));
    HARNESS_CHECK(strcmp(result.stdout_bytes, "/proc\nvm exec\n33\n12\n34\n") == 0, "%s",
                  result.stdout_bytes);
    kelpie_exec_result_release(&result);
    contract_end(vm);
    contract_close(&contract);
}

static void test_exec_failures(const struct harness *harness) {
    struct contract contract = contract_open(harness);
    struct kelpie_vm *vm = contract_start(&contract);
    contract_sh_says(
        vm,
        "printf '#!/no/such/interpreter\\n' >/tmp/script; chmod +x /tmp/script; echo x >/tmp/plain",
        "");
    static const struct {
        const char *command;
        const char *user;
        const char *directory;
        int code;
        const char *text;
    } bad[] = {
        {"nonexistent", NULL, NULL, KELPIE_E_EXEC_NOT_FOUND, "nonexistent"},
        {"/no/where", NULL, NULL, KELPIE_E_EXEC_NOT_FOUND, "/no/where"},
        {"/tmp", NULL, NULL, KELPIE_E_EXEC_DENIED, "/tmp"},
        {"/tmp/plain", NULL, NULL, KELPIE_E_EXEC_DENIED, "/tmp/plain"},
        {"/tmp/script", NULL, NULL, KELPIE_E_EXEC_DENIED, "interpreter"},
        {"true", "nobodyhere", NULL, KELPIE_E_EXEC, "nobodyhere"},
        {"true", NULL, "/no/directory", KELPIE_E_EXEC_DENIED, "/no/directory"},
    };
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i += 1) {
        const char *const argv[] = {bad[i].command, NULL};
        const struct kelpie_exec_options options = {.struct_size = sizeof(options),
                                                    .argv = argv,
                                                    .user = bad[i].user,
                                                    .working_directory = bad[i].directory};
        struct kelpie_exec_result result = {.struct_size = sizeof(result)};
        struct kelpie_error error = {0};
        contract_fails(kelpie_vm_exec(vm, &options, &result, &error), &error, bad[i].code,
                       bad[i].text);
    }
    contract_sh_says(vm, "echo fine", "fine\n");
    contract_end(vm);
    contract_close(&contract);
}

/* A timeout kills the command and everything it started, even what left its group and session. */
static void test_exec_timeout_kills_all(const struct harness *harness) {
    struct contract contract = contract_open(harness);
    struct kelpie_vm *vm = contract_start(&contract);
    struct contract_result result = contract_sh(
        vm,
        "setsid sleep 1234 & (setsid sh -c 'trap \"\" TERM HUP; sleep 1235; sleep 1236' &) ; "
        "sleep 1237",
        1000);
    contract_fails(result.status, &result.error, KELPIE_E_EXEC_TIMEOUT, "1000 ms");
    contract_sh_says(vm, "ps | grep -c '[s]leep 123' || true", "0\n");
    contract_end(vm);
    contract_close(&contract);
}

static void test_exec_signals_and_codes(const struct harness *harness) {
    struct contract contract = contract_open(harness);
    struct kelpie_vm *vm = contract_start(&contract);
    struct contract_result result = contract_sh(vm, "exit 77", 0);
    HARNESS_CHECK(result.status == 0 && result.exec.status.exit_code == 77, "77");
    HARNESS_CHECK(result.exec.status.reason == KELPIE_EXEC_EXITED, "exited");
    contract_release(&result);
    result = contract_sh(vm, "kill -9 $$", 0);
    HARNESS_CHECK(result.status == 0 && result.exec.status.signal == 9, "signal 9");
    HARNESS_CHECK(result.exec.status.reason == KELPIE_EXEC_SIGNALLED, "signalled");
    contract_release(&result);
    result = contract_sh(vm, "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done", 0);
    HARNESS_CHECK(result.status == 0 && result.exec.status.cpu_us > 10000, "CPU time: %llu us",
                  (unsigned long long)result.exec.status.cpu_us);
    HARNESS_CHECK(result.exec.status.wall_us >= result.exec.status.cpu_us / 2, "wall time");
    HARNESS_CHECK(result.exec.status.peak_memory_kib > 100, "memory: %llu KiB",
                  (unsigned long long)result.exec.status.peak_memory_kib);
    contract_release(&result);
    contract_end(vm);
    contract_close(&contract);
}

/* Beyond the limit output is cut, and says so; memory stays bounded. */
static void test_exec_output_limit(const struct harness *harness) {
    struct contract contract = contract_open(harness);
    struct kelpie_vm *vm = contract_start(&contract);
    const char *const argv[] = {"dd", "if=/dev/zero", "bs=64k", "count=16", NULL};
    const struct kelpie_exec_options options = {
        .struct_size = sizeof(options), .argv = argv, .output_bytes_max = 100000};
    struct kelpie_exec_result result = {.struct_size = sizeof(result)};
    CONTRACT_OK(kelpie_vm_exec(vm, &options, &result, &broken));
    HARNESS_CHECK(result.stdout_count == 100000 && result.is_stdout_truncated, "%zu bytes",
                  result.stdout_count);
    HARNESS_CHECK(!result.is_stderr_truncated && result.status.exit_code == 0, "the rest is whole");
    kelpie_exec_result_release(&result);
    contract_end(vm);
    contract_close(&contract);
}

const struct harness_test contract_tests_exec[] = {
    {"concurrent_exec", test_concurrent_exec, 90},
    {"large_exec_output", test_large_exec_output, 60},
    {"exec_argument_limit", test_exec_argument_limit, 60},
    {"exec_environment", test_exec_environment, 60},
    {"exec_failures", test_exec_failures, 60},
    {"exec_timeout_kills_all", test_exec_timeout_kills_all, 60},
    {"exec_signals_and_codes", test_exec_signals_and_codes, 60},
    {"exec_output_limit", test_exec_output_limit, 60},
    {0},
};
