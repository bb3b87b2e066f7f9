/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * kelpie_sim.h as an embedder uses it, and misuses it. Goal: a callback that never returns, ends
 * the process, or calls the simulator where it must not, is named and ends the run; who only takes
 * long is left alone; what is not understood is said. Method: worlds with one such program, guest
 * program, check or scenario each; what hangs runs in a child, whose exit code and words are read.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "kelpie_sim.h"

#define LIMIT_MS 150u
#define WORDS_BYTES_MAX 2048

struct world {
    struct kelpie_sim *sim;
    int runs;
};

static struct kelpie_sim *make_world(uint32_t limit_ms) {
    const struct kelpie_sim_options options = {
        .struct_size = sizeof(options), .seed = 7, .callback_limit_ms = limit_ms};
    struct kelpie_sim *sim = NULL;
    assert_int_equal(kelpie_sim_create(&options, &sim, NULL), 0);
    return sim;
}

/* A world with one program, which runs. */
static enum kelpie_sim_verdict run_program(struct world *world,
                                           kelpie_sim_program_callback callback) {
    assert_int_equal(kelpie_sim_program(world->sim, "tested", callback, world, NULL), 0);
    assert_int_equal(kelpie_sim_spawn(world->sim, "tested", NULL, NULL), 0);
    return kelpie_sim_run(world->sim);
}

static int open_inside(struct kelpie **out) {
    const struct kelpie_open_options options = {.struct_size = sizeof(options),
                                                .state_directory = "sim:"};
    return kelpie_open(&options, out, NULL);
}

static int64_t real_ms(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* A VM that runs, or NULL. *out: the caller's to close. */
static struct kelpie_vm *start_inside(struct kelpie **out) {
    struct kelpie_config *config = NULL;
    struct kelpie_vm *vm = NULL;
    bool is_good = open_inside(out) == 0 && kelpie_config_create(*out, &config, NULL) == 0 &&
                   kelpie_vm_create(*out, NULL, config, &vm, NULL) == 0 &&
                   kelpie_vm_start(vm, 0, NULL) == 0;
    kelpie_config_destroy(config);
    return is_good ? vm : NULL;
}

static _Noreturn void hang(void) {
    volatile uint64_t turns = 0;
    while (turns < UINT64_MAX) {
        turns += 1;
    }
    abort();
}

/* ---- callbacks that never return ------------------------------------------------------------- */

static int program_hangs(void *context, int argc, char **argv) {
    (void)context;
    (void)argc;
    (void)argv;
    hang();
}

static int program_lives(void *context, int argc, char **argv) {
    struct world *world = context;
    (void)argc;
    (void)argv;
    kelpie_sim_sleep_ms(world->sim, 1000);
    return 0;
}

static bool check_hangs(void *context) {
    (void)context;
    hang();
}

static int guest_hangs(struct kelpie_sim_guest *guest, void *context, int argc, char **argv) {
    (void)guest;
    (void)context;
    (void)argc;
    (void)argv;
    hang();
}

static int program_executes(void *context, int argc, char **argv) {
    static const char *const command[] = {"looper", NULL};
    struct kelpie_exec_options options = {.struct_size = sizeof(options), .argv = command};
    struct kelpie_exec_result result = {.struct_size = sizeof(result)};
    struct kelpie *kelpie = NULL;
    (void)context;
    (void)argc;
    (void)argv;
    struct kelpie_vm *vm = start_inside(&kelpie);
    return vm != NULL && kelpie_vm_exec(vm, &options, &result, NULL) == 0 ? 0 : 1;
}

static void hang_in_a_program(void) {
    struct world world = {.sim = make_world(LIMIT_MS)};
    run_program(&world, program_hangs);
}

static void hang_in_a_check(void) {
    struct world world = {.sim = make_world(LIMIT_MS)};
    assert_int_equal(kelpie_sim_check(world.sim, "all is well", check_hangs, NULL, NULL), 0);
    run_program(&world, program_lives);
}

static void hang_in_a_guest(void) {
    struct world world = {.sim = make_world(LIMIT_MS)};
    assert_int_equal(kelpie_sim_guest_program(world.sim, "looper", guest_hangs, NULL, NULL), 0);
    run_program(&world, program_executes);
}

static int scenario_hangs(struct kelpie_sim *sim, void *context) {
    (void)sim;
    (void)context;
    hang();
}

static void hang_in_a_scenario(void) {
    char name[] = "grader";
    char option[] = "--seed";
    char seed[] = "23";
    char *argv[] = {name, option, seed, NULL};
    kelpie_sim_main(3, argv, scenario_hangs, NULL);
}

/* Runs it in a child; gives its exit code. */
static int words_of(void (*run)(void), char out[WORDS_BYTES_MAX]) {
    int pipes[2];
    int status = 0;
    size_t length = 0;
    assert_int_equal(pipe(pipes), 0);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        dup2(pipes[1], STDERR_FILENO);
        close(pipes[0]);
        run();
        _exit(0);
    }
    close(pipes[1]);
    ssize_t count = 1;
    while (count > 0 && length < WORDS_BYTES_MAX - 1) {
        count = read(pipes[0], out + length, WORDS_BYTES_MAX - 1 - length);
        length += count > 0 ? (size_t)count : 0;
    }
    out[length] = '\0';
    close(pipes[0]);
    assert_int_equal(waitpid(child, &status, 0), child);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void assert_hangs_as(void (*run)(void), const char *who, const char *seed) {
    char words[WORDS_BYTES_MAX];
    assert_int_equal(words_of(run, words), KELPIE_SIM_CRASHED);
    if (strstr(words, who) == NULL || strstr(words, seed) == NULL ||
        strstr(words, "has neither returned nor called Kelpie") == NULL) {
        fail_msg("\"%s\" does not name %s", words, who);
    }
}

static void test_program_that_never_returns_is_named(void **state) {
    (void)state;
    assert_hangs_as(hang_in_a_program, "program \"tested\"", "seed 7");
}

static void test_check_that_never_returns_is_named(void **state) {
    (void)state;
    assert_hangs_as(hang_in_a_check, "check \"all is well\"", "seed 7");
}

static void test_guest_program_that_never_returns_is_named(void **state) {
    (void)state;
    assert_hangs_as(hang_in_a_guest, "guest program \"looper\"", "seed 7");
}

/* With the limit that is not set: 10 s. */
static void test_scenario_that_never_returns_ends_with_its_replay(void **state) {
    (void)state;
    assert_hangs_as(hang_in_a_scenario, "the scenario \"set-up\"", "replay: grader --seed 23\n");
}

/* ---- who only takes long --------------------------------------------------------------------- */

static int program_is_busy(void *context, int argc, char **argv) {
    struct world *world = context;
    int64_t end_ms = real_ms() + 6 * LIMIT_MS;
    (void)argc;
    (void)argv;
    while (real_ms() < end_ms) {
        int64_t call_ms = real_ms() + LIMIT_MS / 4;
        while (real_ms() < call_ms) { /* few calls: a world has a limit of steps, too */
        }
        kelpie_sim_sleep_ms(world->sim, 1);
        world->runs += 1;
    }
    return 0;
}

static int program_thinks(void *context, int argc, char **argv) {
    int64_t end_ms = real_ms() + 4 * LIMIT_MS;
    (void)context;
    (void)argc;
    (void)argv;
    while (real_ms() < end_ms) {
    }
    return 0;
}

static void test_who_calls_kelpie_may_take_its_time(void **state) {
    struct world world = {.sim = make_world(LIMIT_MS)};
    (void)state;
    assert_int_equal(run_program(&world, program_is_busy), KELPIE_SIM_PASS);
    assert_true(world.runs > 0);
    kelpie_sim_destroy(world.sim);
}

static void test_without_a_limit_all_may(void **state) {
    struct world world = {.sim = make_world(UINT32_MAX)};
    (void)state;
    assert_int_equal(run_program(&world, program_thinks), KELPIE_SIM_PASS);
    kelpie_sim_destroy(world.sim);
}

/* ---- calls where they must not be ------------------------------------------------------------ */

static int program_runs_its_world(void *context, int argc, char **argv) {
    struct world *world = context;
    (void)argc;
    (void)argv;
    world->runs += kelpie_sim_run(world->sim) == KELPIE_SIM_USAGE ? 1 : 0;
    kelpie_sim_sleep_ms(world->sim, 1000000);
    return 0;
}

static int program_asks_for_liveness(void *context, int argc, char **argv) {
    struct world *world = context;
    (void)argc;
    (void)argv;
    world->runs += kelpie_sim_liveness(world->sim) == KELPIE_SIM_USAGE ? 1 : 0;
    return 0;
}

static int program_destroys_its_world(void *context, int argc, char **argv) {
    struct world *world = context;
    (void)argc;
    (void)argv;
    world->runs += 1;
    kelpie_sim_destroy(world->sim);
    return 0;
}

static int program_runs_another_world(void *context, int argc, char **argv) {
    struct world *world = context;
    struct kelpie_sim *other = make_world(0);
    (void)argc;
    (void)argv;
    world->runs += kelpie_sim_run(other) == KELPIE_SIM_USAGE ? 1 : 0;
    return 0;
}

static void test_run_inside_a_run_is_told(void **state) {
    static const struct {
        kelpie_sim_program_callback callback;
        const char *function;
    } cases[] = {
        {program_runs_its_world, "kelpie_sim_run()"},
        {program_asks_for_liveness, "kelpie_sim_liveness()"},
        {program_destroys_its_world, "kelpie_sim_destroy()"},
        {program_runs_another_world, "kelpie_sim_run()"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i += 1) {
        char expected[128];
        struct world world = {.sim = make_world(0)};
        snprintf(expected, sizeof(expected), "program \"tested\" called %s inside a run",
                 cases[i].function);
        assert_int_equal(run_program(&world, cases[i].callback), KELPIE_SIM_BROKEN);
        assert_string_equal(kelpie_sim_reason(world.sim), expected);
        assert_int_equal(world.runs, 1);
        kelpie_sim_destroy(world.sim);
    }
}

static bool check_sleeps(void *context) {
    struct world *world = context;
    kelpie_sim_sleep_ms(world->sim, 10);
    return true;
}

static bool check_kills(void *context) {
    struct world *world = context;
    kelpie_sim_kill(world->sim, 0);
    return true;
}

static bool check_spawns(void *context) {
    struct world *world = context;
    world->runs += kelpie_sim_spawn(world->sim, "tested", NULL, NULL) == KELPIE_E_MISUSE ? 1 : 0;
    return true;
}

static bool check_opens(void *context) {
    struct world *world = context;
    struct kelpie *kelpie = NULL;
    struct kelpie_vm_info *list = NULL;
    size_t count = 0;
    world->runs += 1;
    if (open_inside(&kelpie) == 0) {
        (void)!kelpie_list(kelpie, &list, &count, NULL);
    }
    return true;
}

static void test_check_that_calls_is_told(void **state) {
    static const struct {
        kelpie_sim_check_callback callback;
        const char *reason;
    } cases[] = {
        {check_sleeps, "check \"looks\" called kelpie_sim_sleep_ms() inside a run"},
        {check_kills, "check \"looks\" called kelpie_sim_kill() inside a run"},
        {check_spawns, "check \"looks\" called kelpie_sim_spawn() inside a run"},
        {check_opens, "check \"looks\" called Kelpie; it may only look"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i += 1) {
        struct world world = {.sim = make_world(0)};
        assert_int_equal(kelpie_sim_check(world.sim, "looks", cases[i].callback, &world, NULL), 0);
        assert_int_equal(run_program(&world, program_executes), KELPIE_SIM_BROKEN);
        assert_string_equal(kelpie_sim_reason(world.sim), cases[i].reason);
        kelpie_sim_destroy(world.sim);
    }
}

/* ---- callbacks that end the process, or would ------------------------------------------------ */

static int program_exits(void *context, int argc, char **argv) {
    (void)context;
    (void)argc;
    (void)argv;
    exit(0); /* the test would pass */
}

static int program_aborts(void *context, int argc, char **argv) {
    (void)context;
    (void)argc;
    (void)argv;
    abort();
}

static int program_faults(void *context, int argc, char **argv) {
    static volatile int *volatile nowhere;
    (void)context;
    (void)argc;
    (void)argv;
    return *nowhere;
}

static jmp_buf jump_out;

static int program_leaves(void *context, int argc, char **argv) {
    (void)context;
    (void)argc;
    (void)argv;
    longjmp(jump_out, 1);
}

static bool check_exits(void *context) {
    (void)context;
    exit(0);
}

static void exit_in_a_program(void) {
    struct world world = {.sim = make_world(0)};
    run_program(&world, program_exits);
}

static void abort_in_a_program(void) {
    struct world world = {.sim = make_world(0)};
    run_program(&world, program_aborts);
}

/* With the system's own action, which cmocka and the sanitizers replace. */
static void fault_in_a_program(void) {
    struct world world = {.sim = make_world(0)};
    signal(SIGSEGV, SIG_DFL);
    run_program(&world, program_faults);
}

static void leave_a_program(void) {
    struct kelpie_sim *sim = make_world(0);
    struct world world = {.sim = sim};
    if (setjmp(jump_out) == 0) {
        run_program(&world, program_leaves);
    } else {
        kelpie_sim_destroy(sim);
    }
}

static void exit_in_a_check(void) {
    struct world world = {.sim = make_world(0)};
    assert_int_equal(kelpie_sim_check(world.sim, "all is well", check_exits, NULL, NULL), 0);
    run_program(&world, program_lives);
}

static void test_callback_that_ends_the_process_is_named(void **state) {
    static const struct {
        void (*run)(void);
        const char *words;
    } cases[] = {
        {exit_in_a_program, "program \"tested\" has called exit()"},
        {abort_in_a_program, "program \"tested\" has aborted (SIGABRT"},
        {fault_in_a_program, "program \"tested\" has crashed (SIGSEGV"},
        {leave_a_program, "program \"tested\" has left by longjmp"},
        {exit_in_a_check, "check \"all is well\" has called exit()"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i += 1) {
        char words[WORDS_BYTES_MAX];
        assert_int_equal(words_of(cases[i].run, words), KELPIE_SIM_CRASHED);
        if (strstr(words, cases[i].words) == NULL || strstr(words, "(seed 7, ") == NULL) {
            fail_msg("\"%s\" does not say %s", words, cases[i].words);
        }
    }
}

/* ---- programs, and what they leave ----------------------------------------------------------- */

static int program_returns_seven(void *context, int argc, char **argv) {
    (void)context;
    (void)argc;
    (void)argv;
    return 7;
}

static int program_kills_itself(void *context, int argc, char **argv) {
    struct world *world = context;
    (void)argc;
    (void)argv;
    kelpie_sim_kill(world->sim, 0);
    world->runs += 1; /* nobody gets here */
    return 0;
}

static int program_opens_others(void *context, int argc, char **argv) {
    static const char *const others[] = {"sim:seed=3", "/nowhere", NULL};
    struct world *world = context;
    (void)argc;
    (void)argv;
    for (size_t i = 0; i < 3; i += 1) {
        const struct kelpie_open_options options = {.struct_size = sizeof(options),
                                                    .state_directory = others[i]};
        struct kelpie *kelpie = NULL;
        world->runs += kelpie_open(&options, &kelpie, NULL) == KELPIE_E_CONFIG ? 1 : 0;
    }
    return 0;
}

static void test_exit_code_is_of_the_one_who_returned(void **state) {
    struct world world = {.sim = make_world(0)};
    (void)state;
    assert_int_equal(kelpie_sim_run(world.sim), KELPIE_SIM_VACUOUS);
    assert_int_equal(run_program(&world, program_returns_seven), KELPIE_SIM_PASS);
    assert_int_equal(kelpie_sim_exit_code(world.sim, 0), 7);
    assert_int_equal(kelpie_sim_exit_code(world.sim, 1), -1);
    kelpie_sim_destroy(world.sim);
    world.sim = make_world(0);
    assert_int_equal(run_program(&world, program_kills_itself), KELPIE_SIM_PASS);
    assert_int_equal(kelpie_sim_exit_code(world.sim, 0), -1);
    assert_int_equal(world.runs, 0);
    kelpie_sim_destroy(world.sim);
}

static void test_program_has_no_other_kelpie(void **state) {
    struct world world = {.sim = make_world(0)};
    (void)state;
    assert_int_equal(run_program(&world, program_opens_others), KELPIE_SIM_PASS);
    assert_int_equal(world.runs, 3);
    kelpie_sim_destroy(world.sim);
}

/* A note that grows in a file of the guest, by what the command's environment says. */
static int guest_notes(struct kelpie_sim_guest *guest, void *context, int argc, char **argv) {
    char note[16] = "";
    const char *word = kelpie_sim_guest_environment(guest, "WORD");
    struct world *world = context;
    (void)argc;
    (void)argv;
    int64_t length = kelpie_sim_guest_read_file(guest, "/tmp/note", note, sizeof(note) - 4);
    world->runs += length == -ENOENT ? 1 : 0;
    length = length < 0 ? 0 : length;
    size_t count = word == NULL ? 0 : strlen(word);
    memcpy(note + length, word, count);
    int64_t written = kelpie_sim_guest_write_file(guest, "/tmp/note", note, (size_t)length + count);
    return kelpie_sim_guest_write(guest, 1, note, (size_t)written) == written ? 0 : 1;
}

static int program_notes(void *context, int argc, char **argv) {
    static const char *const command[] = {"note", NULL};
    static const char *const environment[] = {"WORD=ab", NULL};
    const struct kelpie_exec_options options = {
        .struct_size = sizeof(options), .argv = command, .environment = environment};
    struct kelpie_exec_result result = {.struct_size = sizeof(result)};
    struct kelpie *kelpie = NULL;
    (void)context;
    (void)argc;
    (void)argv;
    struct kelpie_vm *vm = start_inside(&kelpie);
    bool is_good = vm != NULL;
    for (int i = 0; i < 2 && is_good; i += 1) {
        kelpie_exec_result_release(&result);
        result = (struct kelpie_exec_result){.struct_size = sizeof(result)};
        is_good = kelpie_vm_exec(vm, &options, &result, NULL) == 0;
    }
    is_good = is_good && result.stdout_count == 4 && memcmp(result.stdout_bytes, "abab", 4) == 0;
    kelpie_exec_result_release(&result);
    kelpie_close(kelpie);
    return is_good ? 0 : 1;
}

static void test_guest_program_has_files_and_an_environment(void **state) {
    struct world world = {.sim = make_world(0)};
    (void)state;
    assert_int_equal(kelpie_sim_guest_program(world.sim, "note", guest_notes, &world, NULL), 0);
    assert_int_equal(run_program(&world, program_notes), KELPIE_SIM_PASS);
    assert_int_equal(kelpie_sim_exit_code(world.sim, 0), 0);
    assert_int_equal(world.runs, 1);
    kelpie_sim_destroy(world.sim);
}

/* ---- what is not understood ------------------------------------------------------------------ */

static void test_nothing_is_no_world(void **state) {
    struct kelpie_error error = {0};
    char byte = 'x';
    (void)state;
    kelpie_sim_destroy(NULL);
    kelpie_sim_fail(NULL, "text");
    kelpie_sim_mark(NULL, "mark");
    kelpie_sim_sleep_ms(NULL, 1);
    kelpie_sim_kill(NULL, 0);
    kelpie_sim_guest_sleep_ms(NULL, 1);
    assert_int_equal(kelpie_sim_now_ns(NULL), 0);
    assert_int_equal(kelpie_sim_random(NULL), 0);
    assert_int_equal(kelpie_sim_hash(NULL), 0);
    assert_int_equal(kelpie_sim_plan(NULL, &byte, 1), 0);
    assert_int_equal(kelpie_sim_exit_code(NULL, 0), -1);
    assert_int_equal(kelpie_sim_run(NULL), KELPIE_SIM_USAGE);
    assert_int_equal(kelpie_sim_liveness(NULL), KELPIE_SIM_USAGE);
    assert_string_equal(kelpie_sim_reason(NULL), "there is no world");
    assert_int_equal(kelpie_sim_guest_read(NULL, &byte, 1), -EINVAL);
    assert_int_equal(kelpie_sim_guest_write(NULL, 1, &byte, 1), -EINVAL);
    assert_int_equal(kelpie_sim_guest_random(NULL), 0);
    assert_null(kelpie_sim_guest_environment(NULL, "PATH"));
    assert_int_equal(kelpie_sim_spawn(NULL, "x", NULL, &error), KELPIE_E_MISUSE);
    assert_int_equal(kelpie_sim_main(1, NULL, NULL, NULL), KELPIE_SIM_USAGE);
}

static void test_what_is_not_understood_is_said(void **state) {
    struct kelpie_error error = {0};
    struct world world = {.sim = make_world(0)};
    (void)state;
    assert_true(kelpie_sim_plan(world.sim, NULL, 100) > 0);
    assert_int_equal(kelpie_sim_program(world.sim, "a/b", program_lives, NULL, NULL),
                     KELPIE_E_MISUSE);
    assert_int_equal(kelpie_sim_program(world.sim, "..", program_lives, NULL, NULL),
                     KELPIE_E_MISUSE);
    assert_int_equal(kelpie_sim_guest_script(world.sim, "s", "print 1; fly away", &error),
                     KELPIE_E_CONFIG);
    assert_non_null(strstr(error.message, "there is no command \"fly\""));
    assert_int_equal(kelpie_sim_guest_script(world.sim, "s", "sleep fast", &error),
                     KELPIE_E_CONFIG);
    assert_non_null(strstr(error.message, "after \"sleep\" comes a time as 2s or 250ms"));
    assert_int_equal(kelpie_sim_write_trace(world.sim, "", KELPIE_SIM_TRACE_SVG, &error),
                     KELPIE_E_MISUSE);
    kelpie_sim_destroy(world.sim);
    const struct kelpie_sim_options for_ever = {
        .struct_size = sizeof(for_ever), .trace_detail = 1, .time_limit_ms = UINT64_MAX};
    assert_int_equal(kelpie_sim_create(&for_ever, &world.sim, NULL), 0);
    assert_int_equal(run_program(&world, program_lives), KELPIE_SIM_PASS);
    assert_int_equal(
        kelpie_sim_write_trace(world.sim, "/dev/null", (enum kelpie_sim_trace_format)99, &error),
        KELPIE_E_MISUSE);
    kelpie_sim_destroy(world.sim);
}

static void test_one_word_draws_its_world(void **state) {
    char path[] = "/tmp/kelpie-simlib-XXXXXX";
    char word[128];
    char text[256] = "";
    struct kelpie *kelpie = NULL;
    struct kelpie_error error = {0};
    struct kelpie_open_options options = {.struct_size = sizeof(options), .state_directory = word};
    (void)state;
    int file = mkstemp(path);
    assert_true(file >= 0);
    snprintf(word, sizeof(word), "sim:seed=4,svg=/nowhere/at/all.svg");
    assert_int_equal(kelpie_open(&options, &kelpie, &error), KELPIE_E_CONFIG);
    assert_non_null(strstr(error.message, "write \"/nowhere/at/all.svg\""));
    snprintf(word, sizeof(word), "sim:seed=4,svg=%s", path);
    assert_int_equal(kelpie_open(&options, &kelpie, &error), 0);
    kelpie_close(kelpie);
    assert_true(read(file, text, sizeof(text) - 1) > 0);
    assert_non_null(strstr(text, "<svg"));
    close(file);
    unlink(path);
}

/* ---- the same seed --------------------------------------------------------------------------- */

static int program_has_a_memory(void *context, int argc, char **argv) {
    struct world *world = context;
    (void)argc;
    (void)argv;
    world->runs += 1;
    kelpie_sim_sleep_ms(world->sim, (uint64_t)world->runs);
    return 0;
}

static int scenario_has_a_memory(struct kelpie_sim *sim, void *context) {
    struct world *world = context;
    world->sim = sim;
    int status = kelpie_sim_program(sim, "rememberer", program_has_a_memory, world, NULL);
    return status < 0 ? status : kelpie_sim_spawn(sim, "rememberer", NULL, NULL);
}

static void check_a_memory(void) {
    struct world world = {0};
    char name[] = "grader";
    char option[] = "--check";
    char *argv[] = {name, option, NULL};
    _exit(kelpie_sim_main(2, argv, scenario_has_a_memory, &world));
}

static void test_check_names_the_first_call_that_differs(void **state) {
    char words[WORDS_BYTES_MAX];
    (void)state;
    assert_int_equal(words_of(check_a_memory, words), KELPIE_SIM_NOT_THE_SAME);
    assert_non_null(strstr(words, "the first call that differs\nfirst:  call"));
    assert_non_null(strstr(words, "remember (birth 1) exit"));
    assert_non_null(strstr(words, "replay: grader --seed 0 --check"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_program_that_never_returns_is_named),
        cmocka_unit_test(test_check_that_never_returns_is_named),
        cmocka_unit_test(test_guest_program_that_never_returns_is_named),
        cmocka_unit_test(test_scenario_that_never_returns_ends_with_its_replay),
        cmocka_unit_test(test_who_calls_kelpie_may_take_its_time),
        cmocka_unit_test(test_without_a_limit_all_may),
        cmocka_unit_test(test_run_inside_a_run_is_told),
        cmocka_unit_test(test_check_that_calls_is_told),
        cmocka_unit_test(test_callback_that_ends_the_process_is_named),
        cmocka_unit_test(test_exit_code_is_of_the_one_who_returned),
        cmocka_unit_test(test_program_has_no_other_kelpie),
        cmocka_unit_test(test_guest_program_has_files_and_an_environment),
        cmocka_unit_test(test_nothing_is_no_world),
        cmocka_unit_test(test_what_is_not_understood_is_said),
        cmocka_unit_test(test_one_word_draws_its_world),
        cmocka_unit_test(test_check_names_the_first_call_that_differs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
