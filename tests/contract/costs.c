/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Goal: what a monitor costs stays small: its memory, nothing at all while it is idle, few system
 * calls for each command, and no allocation for one. Method: proc(5), strace(1) and a counting
 * allocator, on real VMs. The budgets are what was measured and a little air: who needs more has to
 * say why here.
 */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "contract.h"

#define COSTS_PSS_KIB_MAX 2048u
#define COSTS_IDLE_S 2u
#define COSTS_IDLE_LOOKS 6u
#define COSTS_EXECS 40u
#define COSTS_SYSCALLS_MAX 16u /* for each command; 9 were seen */
#define COSTS_STREAM_BYTES (2u << 20)

/* A number of a file of proc(5), behind this word. */
static uint64_t costs_of(int32_t pid, const char *file, const char *word) {
    char path[64];
    char line[256];
    uint64_t found = UINT64_MAX;
    snprintf(path, sizeof(path), "/proc/%d/%s", pid, file);
    FILE *stream = fopen(path, "r");
    HARNESS_CHECK(stream != NULL, "%s", path);
    while (found == UINT64_MAX && fgets(line, sizeof(line), stream) != NULL) {
        if (strncmp(line, word, strlen(word)) == 0) {
            found = strtoull(line + strlen(word), NULL, 10);
        }
    }
    fclose(stream);
    HARNESS_CHECK(found != UINT64_MAX, "%s has no %s", path, word);
    return found;
}

static uint64_t costs_wakeups(int32_t pid) {
    return costs_of(pid, "status", "voluntary_ctxt_switches:") +
           costs_of(pid, "status", "nonvoluntary_ctxt_switches:");
}

static void costs_run(struct kelpie_vm *vm, uint32_t count) {
    for (uint32_t i = 0; i < count; i += 1) {
        contract_sh_says(vm, "echo hello", "hello\n");
    }
}

/* ---- memory and wake-ups --------------------------------------------------------------------- */

static void test_monitor_idle(const struct harness *harness) {
    struct contract contract = contract_open(harness);
    struct kelpie_vm *vm = contract_start(&contract);
    costs_run(vm, 5);
    int32_t monitor = contract_inspect(vm).monitor_pid;
    uint64_t pss_kib = costs_of(monitor, "smaps_rollup", "Pss:");
    printf("# %llu KiB\n", (unsigned long long)pss_kib);
    HARNESS_CHECK(pss_kib <= COSTS_PSS_KIB_MAX, "%llu KiB", (unsigned long long)pss_kib);
    /* What the start and the last command left to do is done within one of the first looks. */
    uint64_t woken = UINT64_MAX;
    for (uint32_t i = 0; i < COSTS_IDLE_LOOKS && woken != 0; i += 1) {
        uint64_t before = costs_wakeups(monitor);
        sleep(COSTS_IDLE_S);
        woken = costs_wakeups(monitor) - before;
    }
    HARNESS_CHECK(woken == 0, "%llu wake-ups in %u s", (unsigned long long)woken, COSTS_IDLE_S);
    contract_end(vm);
    contract_close(&contract);
}

/* ---- system calls ---------------------------------------------------------------------------- */

static pid_t costs_trace(int32_t monitor, const char *report) {
    char text[16];
    int pipes[2];
    char word[256] = "";
    snprintf(text, sizeof(text), "%d", monitor);
    HARNESS_CHECK(pipe(pipes) == 0, "pipe");
    pid_t tracer = fork();
    HARNESS_CHECK(tracer >= 0, "fork");
    if (tracer == 0) {
        dup2(pipes[1], STDERR_FILENO);
        close(pipes[0]);
        execlp("strace", "strace", "-c", "-o", report, "-p", text, (char *)NULL);
        _exit(127);
    }
    close(pipes[1]);
    ssize_t count = read(pipes[0], word, sizeof(word) - 1); /* "strace: Process .. attached" */
    close(pipes[0]);
    word[strcspn(word, "\n")] = '\0';
    if (count <= 0) {
        waitpid(tracer, NULL, 0);
        harness_skip("strace: it is not installed");
    }
    if (strstr(word, "not permitted") != NULL) {
        waitpid(tracer, NULL, 0);
        harness_skip("ptrace: %s", word);
    }
    HARNESS_CHECK(strstr(word, "attached") != NULL, "%s", word);
    return tracer;
}

/* The calls of "100.00 0.001234 3 1234 5 total": the fourth number. */
static uint64_t costs_total(const char *report) {
    char line[256];
    char last[256] = "";
    unsigned long long calls = 0;
    FILE *stream = fopen(report, "r");
    HARNESS_CHECK(stream != NULL, "%s", report);
    while (fgets(line, sizeof(line), stream) != NULL) {
        if (strstr(line, "total") != NULL) {
            memcpy(last, line, sizeof(last));
        }
    }
    fclose(stream);
    bool is_read = sscanf(last, "%*s %*s %*s %llu", &calls) == 1;
    HARNESS_CHECK(is_read, "\"%s\"", last);
    return calls;
}

static void test_exec_system_calls(const struct harness *harness) {
    struct contract contract = contract_open(harness);
    struct kelpie_vm *vm = contract_start(&contract);
    char report[512];
    snprintf(report, sizeof(report), "%s/strace", harness->root_directory);
    costs_run(vm, 5);
    pid_t tracer = costs_trace(contract_inspect(vm).monitor_pid, report);
    costs_run(vm, COSTS_EXECS);
    kill(tracer, SIGINT);
    waitpid(tracer, NULL, 0);
    uint64_t calls = costs_total(report);
    HARNESS_CHECK(unlink(report) == 0, "%s", report);
    printf("# %llu system calls for each command\n", (unsigned long long)calls / COSTS_EXECS);
    HARNESS_CHECK(calls >= COSTS_EXECS && calls <= COSTS_EXECS * COSTS_SYSCALLS_MAX,
                  "%llu calls for %u commands", (unsigned long long)calls, COSTS_EXECS);
    contract_end(vm);
    contract_close(&contract);
}

/* ---- allocations ----------------------------------------------------------------------------- */

static void costs_stream(struct kelpie_vm *vm) {
    struct contract_result result = contract_sh(vm, "head -c 2097152 /dev/zero", 0);
    HARNESS_CHECK(result.status == 0 && result.exec.stdout_count == COSTS_STREAM_BYTES, "%s",
                  result.error.message);
    contract_release(&result);
}

/* Of a warm monitor: none, whether a command says a word or streams. */
static void test_exec_allocations(const struct harness *harness) {
    char path[512];
    char library[512];
    const char *programs = getenv("KELPIE_TEST_PROGRAMS");
    HARNESS_CHECK(programs != NULL, "KELPIE_TEST_PROGRAMS is not set");
    snprintf(path, sizeof(path), "%s/count", harness->root_directory);
    snprintf(library, sizeof(library), "%s/count-malloc.so", programs);
    int file = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    HARNESS_CHECK(file >= 0 && ftruncate(file, sizeof(uint64_t)) == 0, "%s", path);
    const volatile uint64_t *counter = mmap(NULL, sizeof(uint64_t), PROT_READ, MAP_SHARED, file, 0);
    HARNESS_CHECK(counter != MAP_FAILED, "mmap");
    close(file);
    setenv("LD_PRELOAD", library, 1);
    setenv("KELPIE_TEST_COUNT", path, 1);
    struct contract contract = contract_open(harness);
    struct kelpie_vm *vm = contract_start(&contract);
    unsetenv("LD_PRELOAD");
    HARNESS_CHECK(*counter > 0, "nothing is counted");
    costs_run(vm, 5);
    costs_stream(vm);
    uint64_t before = *counter;
    costs_run(vm, COSTS_EXECS);
    uint64_t few = *counter - before;
    printf("# %llu allocations for %u commands\n", (unsigned long long)few, COSTS_EXECS);
    HARNESS_CHECK(few == 0, "%llu allocations for %u commands", (unsigned long long)few,
                  COSTS_EXECS);
    before = *counter;
    costs_stream(vm);
    uint64_t streamed = *counter - before;
    printf("# %llu allocations for a command of 2 MiB\n", (unsigned long long)streamed);
    HARNESS_CHECK(streamed == 0, "%llu allocations for 2 MiB", (unsigned long long)streamed);
    contract_end(vm);
    contract_close(&contract);
    HARNESS_CHECK(unlink(path) == 0, "%s", path);
}

const struct harness_test contract_tests_costs[] = {
    {"monitor_idle", test_monitor_idle, 60},
    {"exec_system_calls", test_exec_system_calls, 60},
    {"exec_allocations", test_exec_allocations, 60},
    {0},
};
