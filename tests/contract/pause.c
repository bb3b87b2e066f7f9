/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Goal: rows 4 and 13 of the contract, and what pause and resume promise beyond them: commands go
 * on without a byte lost, their timeouts stand still with them, the clock is right afterwards, stop
 * and kill work, and everything that has to answer does. Method: bytes whose value follows from
 * their place, host and guest clocks side by side.
 */
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "contract.h"

static void pause_and_resume(struct kelpie_vm *vm) {
    CONTRACT_OK(kelpie_vm_pause(vm, &broken));
    CONTRACT_OK(kelpie_vm_resume(vm, &broken));
}

/* Time that passes for the host while the test's handles are served. */
static void pass_time(struct contract *contract, uint64_t time_ms) {
    uint64_t until_ms = harness_now_ms() + time_ms;
    for (uint64_t now_ms = harness_now_ms(); now_ms < until_ms; now_ms = harness_now_ms()) {
        CONTRACT_OK(kelpie_wait(contract->kelpie, until_ms - now_ms, &broken));
    }
}

static void test_pause_resume_basic(const struct harness *harness) {
    struct contract contract = contract_open(harness);
    struct kelpie_vm *vm = contract_start(&contract);
    contract_sh_says(vm, "echo before >/tmp/file", "");
    CONTRACT_OK(kelpie_vm_pause(vm, &broken));
    contract_state_is(vm, KELPIE_VM_PAUSED);
    struct kelpie_vm_info info = contract_inspect(vm);
    bool is_krun = strcmp(harness->backend, "krun") == 0; /* which has no pause of its own */
    HARNESS_CHECK((strcmp(info.pause, "vmm") == 0) == !is_krun, "it pauses by \"%s\"", info.pause);
    CONTRACT_OK(kelpie_vm_resume(vm, &broken));
    contract_state_is(vm, KELPIE_VM_RUNNING);
    contract_sh_says(vm, "cat /tmp/file; echo after", "before\nafter\n");
    contract_end(vm);
    contract_close(&contract);
}

/* Neither is possible where nothing runs; `state` is in each message. */
static void refused_when_down(struct kelpie_vm *vm, const char *state) {
    struct kelpie_error error = {0};
    contract_fails(kelpie_vm_pause(vm, &error), &error, KELPIE_E_STATE, state);
    HARNESS_CHECK(strstr(error.message, "running") != NULL, "%s", error.message);
    contract_fails(kelpie_vm_resume(vm, &error), &error, KELPIE_E_STATE, state);
    HARNESS_CHECK(strstr(error.message, "paused") != NULL, "%s", error.message);
}

static void test_pause_invalid_transitions(const struct harness *harness) {
    struct contract contract = contract_open(harness);
    struct kelpie_config *config = contract_config(&contract);
    struct kelpie_error error = {0};
    kelpie_config_set_ephemeral(config, false);
    struct kelpie_vm *vm = contract_create(&contract, "transitions", config);
    refused_when_down(vm, "created");
    contract_state_is(vm, KELPIE_VM_CREATED);
    CONTRACT_OK(kelpie_vm_start(vm, 0, &broken));
    contract_fails(kelpie_vm_resume(vm, &error), &error, KELPIE_E_STATE, "running");
    contract_state_is(vm, KELPIE_VM_RUNNING);
    CONTRACT_OK(kelpie_vm_pause(vm, &broken));
    contract_fails(kelpie_vm_pause(vm, &error), &error, KELPIE_E_STATE, "paused");
    contract_fails(kelpie_vm_start(vm, 0, &error), &error, KELPIE_E_ALREADY_RUNNING, "paused");
    contract_fails(kelpie_vm_delete(vm, false, &error), &error, KELPIE_E_STATE, "paused");
    struct contract_result result = contract_sh(vm, "true", 0);
    contract_fails(result.status, &result.error, KELPIE_E_STATE, "resume it first");
    contract_state_is(vm, KELPIE_VM_PAUSED);
    CONTRACT_OK(kelpie_vm_resume(vm, &broken));
    contract_sh_says(vm, "echo still here", "still here\n");
    CONTRACT_OK(kelpie_vm_kill(vm, &broken));
    refused_when_down(vm, "stopped");
    contract_end(vm);
    contract_close(&contract);
}

static void test_paused_is_looked_at(const struct harness *harness) {
    struct contract contract = contract_open(harness);
    struct kelpie_vm *vm = contract_start(&contract);
    struct kelpie_health health = {.struct_size = sizeof(health)};
    struct kelpie_stats stats = {.struct_size = sizeof(stats)};
    const char *const argv[] = {"sleep", "1000", NULL};
    const struct kelpie_exec_options options = {.struct_size = sizeof(options), .argv = argv};
    struct kelpie_exec *exec = NULL;
    struct kelpie_exec_info *list = NULL;
    struct kelpie_error error = {0};
    size_t count = 0;
    CONTRACT_OK(kelpie_vm_exec_start(vm, &options, NULL, NULL, &exec, &broken));
    CONTRACT_OK(kelpie_vm_pause(vm, &broken));
    uint64_t started_ms = harness_now_ms();
    CONTRACT_OK(kelpie_vm_health(vm, 0, &health, &broken));
    CONTRACT_OK(kelpie_vm_stats(vm, &stats, &broken));
    CONTRACT_OK(kelpie_vm_exec_list(vm, &list, &count, &broken));
    HARNESS_CHECK(harness_now_ms() - started_ms < 1000, "they did not wait for the guest");
    HARNESS_CHECK(!health.is_healthy && health.state == KELPIE_VM_PAUSED, "%s", health.detail);
    HARNESS_CHECK(strstr(health.detail, "paused") != NULL, "%s", health.detail);
    HARNESS_CHECK(!stats.has_guest && stats.guest_uptime_ms == 0, "the guest was not asked");
    HARNESS_CHECK(stats.host_memory_kib > 50000 && stats.exec_count == 1, "the host's figures");
    HARNESS_CHECK(count == 1 && list[0].is_running, "the command is listed");
    kelpie_exec_list_free(contract.kelpie, list, count);
    uint64_t cpu_ms = stats.host_cpu_ms;
    pass_time(&contract, 300);
    CONTRACT_OK(kelpie_vm_stats(vm, &stats, &broken));
    HARNESS_CHECK(stats.host_cpu_ms <= cpu_ms + 20, "a paused VM took %llu ms of the CPU",
                  (unsigned long long)(stats.host_cpu_ms - cpu_ms));
    CONTRACT_OK(kelpie_vm_resume(vm, &broken));
    CONTRACT_OK(kelpie_vm_health(vm, 0, &health, &broken));
    HARNESS_CHECK(health.is_healthy, "%s", health.detail);
    CONTRACT_OK(kelpie_exec_kill(exec, &error));
    kelpie_exec_close(exec);
    contract_end(vm);
    contract_close(&contract);
}

/* ---- streams --------------------------------------------------------------------------------- */

/* A command that echoes what it is sent; every byte is checked on its way back. */
struct echo {
    struct kelpie_exec *exec;
    uint64_t in_bytes;
    uint64_t out_bytes;
    uint64_t total;
    bool is_closed;
    bool has_ended;
    int exit_code;
};

static uint8_t byte_at(uint64_t offset) {
    return (uint8_t)(offset * 131 + (offset >> 8) * 17);
}

static void echo_feed(struct echo *echo) {
    uint8_t chunk[16384];
    while (echo->in_bytes < echo->total) {
        uint64_t left = echo->total - echo->in_bytes;
        size_t count = left < sizeof(chunk) ? (size_t)left : sizeof(chunk);
        size_t written = 0;
        for (size_t i = 0; i < count; i += 1) {
            chunk[i] = byte_at(echo->in_bytes + i);
        }
        CONTRACT_OK(kelpie_exec_write(echo->exec, chunk, count, &written, &broken));
        echo->in_bytes += written;
        if (written < count) {
            return; /* `writable` comes */
        }
    }
    if (!echo->is_closed) {
        echo->is_closed = true;
        CONTRACT_OK(kelpie_exec_close_stdin(echo->exec, &broken));
    }
}

static void echo_output(void *context, struct kelpie_exec *exec, enum kelpie_stream kind,
                        const void *bytes, size_t count) {
    struct echo *echo = context;
    (void)exec;
    HARNESS_CHECK(kind == KELPIE_STDOUT || count == 0, "nothing on stderr");
    for (size_t i = 0; kind == KELPIE_STDOUT && i < count; i += 1) {
        HARNESS_CHECK(((const uint8_t *)bytes)[i] == byte_at(echo->out_bytes + i),
                      "byte %llu is wrong", (unsigned long long)(echo->out_bytes + i));
    }
    echo->out_bytes += kind == KELPIE_STDOUT ? count : 0;
}

static void echo_writable(void *context, struct kelpie_exec *exec) {
    struct echo *echo = context;
    (void)exec;
    echo_feed(echo);
}

static void echo_ended(void *context, struct kelpie_exec *exec,
                       const struct kelpie_exec_status *status, const struct kelpie_error *error) {
    struct echo *echo = context;
    (void)exec;
    HARNESS_CHECK(error == NULL, "%s", error->message);
    echo->has_ended = true;
    echo->exit_code = status->exit_code;
}

static void echo_start(struct echo *echo, struct kelpie_vm *vm, uint64_t total) {
    static const struct kelpie_exec_callbacks callbacks = {.struct_size = sizeof(callbacks),
                                                           .output = echo_output,
                                                           .writable = echo_writable,
                                                           .ended = echo_ended};
    const char *const argv[] = {"cat", NULL};
    const struct kelpie_exec_options options = {
        .struct_size = sizeof(options), .argv = argv, .has_stdin = true, .timeout_ms = 600000};
    *echo = (struct echo){.total = total};
    CONTRACT_OK(kelpie_vm_exec_start(vm, &options, &callbacks, echo, &echo->exec, &broken));
    echo_feed(echo);
}

static void echo_finish(struct contract *contract, struct echo *echo) {
    uint64_t deadline_ms = harness_now_ms() + 120000;
    while (!echo->has_ended) {
        HARNESS_CHECK(harness_now_ms() < deadline_ms, "no end after %llu of %llu bytes",
                      (unsigned long long)echo->out_bytes, (unsigned long long)echo->total);
        CONTRACT_OK(kelpie_wait(contract->kelpie, 1000, &broken));
    }
    HARNESS_CHECK(echo->out_bytes == echo->total, "%llu of %llu bytes came back",
                  (unsigned long long)echo->out_bytes, (unsigned long long)echo->total);
    HARNESS_CHECK(echo->exit_code == 0, "exit code %d", echo->exit_code);
    kelpie_exec_close(echo->exec);
}

/* Nothing moves while paused, and then all of it comes, in both directions. */
static void test_pause_streams(const struct harness *harness) {
    struct contract contract = contract_open(harness);
    struct kelpie_vm *vm = contract_start(&contract);
    struct echo echo;
    echo_start(&echo, vm, 6u * 1024 * 1024 + 4321);
    while (echo.out_bytes < 1024u * 1024) {
        CONTRACT_OK(kelpie_wait(contract.kelpie, 5000, &broken));
    }
    CONTRACT_OK(kelpie_vm_pause(vm, &broken));
    pass_time(&contract, 500); /* what was under way on the host arrives */
    uint64_t before = echo.out_bytes;
    pass_time(&contract, 1500);
    HARNESS_CHECK(echo.out_bytes == before, "%llu bytes came from a paused guest",
                  (unsigned long long)(echo.out_bytes - before));
    HARNESS_CHECK(echo.out_bytes < echo.total, "some are still to come");
    CONTRACT_OK(kelpie_vm_resume(vm, &broken));
    echo_finish(&contract, &echo);
    contract_end(vm);
    contract_close(&contract);
}

/* Pause after pause with traffic in both directions, and commands between them. */
static void test_pause_cycles(const struct harness *harness) {
    struct contract contract = contract_open(harness);
    struct kelpie_vm *vm = contract_start(&contract);
    uint32_t cycles = harness_count(harness, 1000);
    struct echo echo;
    uint64_t longest_ms = 0;
    echo_start(&echo, vm, UINT64_MAX);
    for (uint32_t i = 0; i < cycles; i += 1) {
        pass_time(&contract, harness_random(harness, "running", i) % 20);
        CONTRACT_OK(kelpie_vm_pause(vm, &broken));
        pass_time(&contract, harness_random(harness, "paused", i) % 5);
        uint64_t started_ms = harness_now_ms();
        CONTRACT_OK(kelpie_vm_resume(vm, &broken));
        uint64_t took_ms = harness_now_ms() - started_ms;
        longest_ms = took_ms > longest_ms ? took_ms : longest_ms;
        if (i % 10 == 0) {
            contract_sh_says(vm, "echo between", "between\n");
        }
    }
    HARNESS_CHECK(echo.out_bytes > cycles * 1000ull, "traffic: %llu bytes",
                  (unsigned long long)echo.out_bytes);
    echo.total = echo.in_bytes;
    echo_feed(&echo);
    echo_finish(&contract, &echo);
    printf("# %u cycles, %llu bytes echoed, the longest resume took %llu ms\n", cycles,
           (unsigned long long)echo.out_bytes, (unsigned long long)longest_ms);
    contract_end(vm);
    contract_close(&contract);
}

/* ---- time ------------------------------------------------------------------------------------ */

struct end {
    bool has_ended;
    bool has_failed;
    struct kelpie_exec_status status;
};

static void note_end(void *context, struct kelpie_exec *exec,
                     const struct kelpie_exec_status *status, const struct kelpie_error *error) {
    struct end *end = context;
    (void)exec;
    end->has_ended = true;
    end->has_failed = error != NULL;
    if (status != NULL) {
        end->status = *status;
    }
}

static struct kelpie_exec *start_script(struct kelpie_vm *vm, const char *script,
                                        uint64_t timeout_ms, struct end *end) {
    static const struct kelpie_exec_callbacks callbacks = {.struct_size = sizeof(callbacks),
                                                           .ended = note_end};
    const char *const argv[] = {"sh", "-c", script, NULL};
    const struct kelpie_exec_options options = {
        .struct_size = sizeof(options), .argv = argv, .timeout_ms = timeout_ms};
    struct kelpie_exec *exec = NULL;
    *end = (struct end){0};
    CONTRACT_OK(kelpie_vm_exec_start(vm, &options, &callbacks, end, &exec, &broken));
    return exec;
}

static void wait_end(struct contract *contract, const struct end *end) {
    uint64_t deadline_ms = harness_now_ms() + 30000;
    while (!end->has_ended) {
        HARNESS_CHECK(harness_now_ms() < deadline_ms, "the command does not end");
        CONTRACT_OK(kelpie_wait(contract->kelpie, 1000, &broken));
    }
    HARNESS_CHECK(!end->has_failed, "its end is known");
}

/* Longer than the timeout and the monitor's patience together: neither counted. The second command
 * shows that both count again afterwards. */
static void test_pause_stops_deadlines(const struct harness *harness) {
    struct contract contract = contract_open(harness);
    struct kelpie_vm *vm = contract_start(&contract);
    struct end good;
    struct end late;
    struct kelpie_error error = {0};
    struct kelpie_exec *quick = start_script(vm, "sleep 1; exit 7", 3000, &good);
    struct kelpie_exec *slow = start_script(vm, "sleep 1000", 3000, &late);
    CONTRACT_OK(kelpie_vm_pause(vm, &broken));
    pass_time(&contract, 8500);           /* 3,000 and 5,000 ms, and some more */
    uint64_t asked_ms = harness_now_ms(); /* the client's own deadline is not put off */
    contract_fails(kelpie_exec_wait(slow, 500, NULL, &error), &error, KELPIE_E_TIMEOUT, "500 ms");
    HARNESS_CHECK(harness_now_ms() - asked_ms < 2500, "it waited for %llu ms",
                  (unsigned long long)(harness_now_ms() - asked_ms));
    HARNESS_CHECK(!good.has_ended && !late.has_ended, "both stand still");
    contract_state_is(vm, KELPIE_VM_PAUSED);
    CONTRACT_OK(kelpie_vm_resume(vm, &broken));
    uint64_t resumed_ms = harness_now_ms();
    wait_end(&contract, &good);
    HARNESS_CHECK(good.status.reason == KELPIE_EXEC_EXITED && good.status.exit_code == 7,
                  "reason %d, exit code %d", (int)good.status.reason, good.status.exit_code);
    wait_end(&contract, &late);
    HARNESS_CHECK(late.status.reason == KELPIE_EXEC_TIMED_OUT, "reason %d",
                  (int)late.status.reason);
    HARNESS_CHECK(harness_now_ms() - resumed_ms > 1500, "it had %llu ms more",
                  (unsigned long long)(harness_now_ms() - resumed_ms));
    contract_state_is(vm, KELPIE_VM_RUNNING);
    kelpie_exec_close(quick);
    kelpie_exec_close(slow);
    contract_end(vm);
    contract_close(&contract);
}

static long long guest_time_ms(struct kelpie_vm *vm) {
    struct contract_result result = contract_sh(vm, "date +%s", 0);
    HARNESS_CHECK(result.status == 0, "%s", result.error.message);
    long long time_s = strtoll(result.exec.stdout_bytes, NULL, 10);
    contract_release(&result);
    return time_s * 1000;
}

static void test_pause_clock(const struct harness *harness) {
    struct contract contract = contract_open(harness);
    struct kelpie_vm *vm = contract_start(&contract);
    CONTRACT_OK(kelpie_vm_pause(vm, &broken));
    pass_time(&contract, 3000);
    CONTRACT_OK(kelpie_vm_resume(vm, &broken));
    long long before_ms = (long long)time(NULL) * 1000;
    long long guest_ms = guest_time_ms(vm);
    long long after_ms = (long long)time(NULL) * 1000;
    HARNESS_CHECK(guest_ms >= before_ms - 1000 && guest_ms <= after_ms + 1000,
                  "the guest says %lld, the host %lld to %lld", guest_ms, before_ms, after_ms);
    contract_end(vm);
    contract_close(&contract);
}

/* ---- ends ------------------------------------------------------------------------------------ */

static void test_paused_stop_and_kill(const struct harness *harness) {
    struct contract contract = contract_open(harness);
    struct kelpie_vm *vm = contract_start_durable(&contract, "ends");
    struct kelpie_stop_result stopped = {0};
    CONTRACT_OK(kelpie_vm_pause(vm, &broken));
    uint64_t started_ms = harness_now_ms();
    CONTRACT_OK(kelpie_vm_stop(vm, 8000, &stopped, &broken));
    HARNESS_CHECK(stopped.was_graceful, "the guest was woken, and went by itself");
    HARNESS_CHECK(harness_now_ms() - started_ms < 8000, "within its time");
    contract_state_is(vm, KELPIE_VM_STOPPED);
    CONTRACT_OK(kelpie_vm_start(vm, 0, &broken));
    CONTRACT_OK(kelpie_vm_pause(vm, &broken));
    CONTRACT_OK(kelpie_vm_kill(vm, &broken));
    contract_state_is(vm, KELPIE_VM_STOPPED);
    CONTRACT_OK(kelpie_vm_start(vm, 0, &broken)); /* nothing of the pause is left */
    contract_sh_says(vm, "echo again", "again\n");
    pause_and_resume(vm);
    contract_end(vm);
    contract_close(&contract);
}

static void test_paused_vmm_killed(const struct harness *harness) {
    struct contract contract = contract_open(harness);
    struct kelpie_vm *vm = contract_start_durable(&contract, "crashes");
    struct kelpie_error error = {0};
    CONTRACT_OK(kelpie_vm_pause(vm, &broken));
    kill(contract_inspect(vm).vmm_pid, SIGKILL);
    contract_wait_state(vm, KELPIE_VM_CRASHED);
    HARNESS_CHECK(kelpie_vm_resume(vm, &error) == KELPIE_E_STATE, "%s", error.message);
    CONTRACT_OK(kelpie_vm_start(vm, 0, &broken));
    pause_and_resume(vm);
    CONTRACT_OK(kelpie_vm_pause(vm, &broken));
    contract_close(&contract); /* owned: it ends with its owner, paused or not */
    contract = contract_open(harness);
    CONTRACT_OK(kelpie_vm_open(contract.kelpie, "crashes", &vm, &broken));
    contract_wait_state(vm, KELPIE_VM_STOPPED);
    contract_end(vm);
    contract_close(&contract);
}

/* A VMM that stands still confirms nothing: the request fails and is undone, so that the state is
 * the one before when the VMM comes back. */
static void test_pause_unconfirmed(const struct harness *harness) {
    struct contract contract = contract_open(harness);
    struct kelpie_vm *vm = contract_start_durable(&contract, "unconfirmed");
    struct kelpie_error error = {0};
    int pid = contract_inspect(vm).vmm_pid;
    kill(pid, SIGSTOP);
    contract_fails(kelpie_vm_pause(vm, &error), &error, KELPIE_E_PAUSE, "did not answer");
    HARNESS_CHECK(strstr(error.message, "VM \"unconfirmed\"") != NULL &&
                      strstr(error.message, "kill the VM") != NULL,
                  "%s", error.message);
    contract_state_is(vm, KELPIE_VM_RUNNING);
    kill(pid, SIGCONT);
    contract_sh_says(vm, "echo runs", "runs\n");
    contract_wait_state(vm, KELPIE_VM_RUNNING);
    CONTRACT_OK(kelpie_vm_pause(vm, &broken));
    kill(pid, SIGSTOP);
    contract_fails(kelpie_vm_resume(vm, &error), &error, KELPIE_E_RESUME, "did not answer");
    contract_state_is(vm, KELPIE_VM_PAUSED);
    kill(pid, SIGCONT);
    poll(NULL, 0, 300); /* both commands are carried out, one after the other */
    contract_state_is(vm, KELPIE_VM_PAUSED);
    CONTRACT_OK(kelpie_vm_resume(vm, &broken));
    contract_sh_says(vm, "echo again", "again\n");
    contract_end(vm);
    contract_close(&contract);
}

/* Two at once: one does it, the other is told so. */
static void test_pause_async(const struct harness *harness) {
    struct contract contract = contract_open(harness);
    struct contract other = contract_open(harness);
    struct kelpie_vm *vm = contract_start_durable(&contract, "twice");
    struct kelpie_vm *same = NULL;
    int codes[2] = {1, 1};
    CONTRACT_OK(kelpie_vm_open(other.kelpie, "twice", &same, &broken));
    CONTRACT_OK(kelpie_vm_pause_async(vm, contract_note_code, &codes[0], NULL, &broken));
    CONTRACT_OK(kelpie_vm_pause_async(same, contract_note_code, &codes[1], NULL, &broken));
    for (unsigned i = 0; i < 100 && (codes[0] == 1 || codes[1] == 1); i += 1) {
        CONTRACT_OK(kelpie_wait(contract.kelpie, 50, &broken));
        CONTRACT_OK(kelpie_wait(other.kelpie, 50, &broken));
    }
    int lost = codes[0] == 0 ? codes[1] : codes[0];
    HARNESS_CHECK(codes[0] == 0 || codes[1] == 0, "one succeeds: %d, %d", codes[0], codes[1]);
    HARNESS_CHECK(lost == KELPIE_E_BUSY || lost == KELPIE_E_STATE, "the other: %s",
                  kelpie_code_name(lost));
    contract_state_is(vm, KELPIE_VM_PAUSED);
    int resumed = 1;
    CONTRACT_OK(kelpie_vm_resume_async(vm, contract_note_code, &resumed, NULL, &broken));
    while (resumed == 1) {
        CONTRACT_OK(kelpie_wait(contract.kelpie, 5000, &broken));
    }
    HARNESS_CHECK(resumed == 0, "%s", kelpie_code_name(resumed));
    kelpie_close(other.kelpie);
    contract_end(vm);
    contract_close(&contract);
}

const struct harness_test contract_tests_pause[] = {
    {"pause_resume_basic", test_pause_resume_basic, 60},
    {"pause_invalid_transitions", test_pause_invalid_transitions, 60},
    {"paused_is_looked_at", test_paused_is_looked_at, 60},
    {"pause_streams", test_pause_streams, 120},
    {"pause_cycles", test_pause_cycles, 600},
    {"pause_stops_deadlines", test_pause_stops_deadlines, 90},
    {"pause_clock", test_pause_clock, 60},
    {"paused_stop_and_kill", test_paused_stop_and_kill, 90},
    {"paused_vmm_killed", test_paused_vmm_killed, 90},
    {"pause_unconfirmed", test_pause_unconfirmed, 90},
    {"pause_async", test_pause_async, 60},
    {0},
};
