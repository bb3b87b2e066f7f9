/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Runs every script on Linux and in a simulated world, and compares the transcripts. The scripts'
 * child is this program itself on Linux, and its main as a simulated program there.
 *
 *     conformance SCRIPT...          compare; --list, and what else tests/harness knows
 *     CONFORMANCE_SHOW=linux         also print the transcript of that side (linux, simulated)
 */
#define _GNU_SOURCE
#include <ftw.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "conformance.h"
#include "harness/harness.h"
#include "sim/disk.h"
#include "sim/machine.h"
#include "sim/stream.h"

#define SCRIPTS_MAX 192u
#define SCRIPT_TIMEOUT_S 60u
#define SCRIPT_TIMEOUT_S_DRAWN 900u
#define SIM_CHILD_PATH "/usr/libexec/conformance-child"
#define SIM_DIRECTORY "/conformance"
#define SIM_TIMEOUT_NS (INT64_C(1000000000) * 3600)

static const struct conform_script *const conform_files[] = {
    conform_scripts_file,   conform_scripts_name,     conform_scripts_lock,
    conform_scripts_stream, conform_scripts_listener, conform_scripts_handle,
    conform_scripts_pipe,   conform_scripts_process,  conform_scripts_signal,
    conform_scripts_wait,   conform_scripts_terminal, conform_scripts_qemu,
    conform_scripts_krun,   conform_scripts_random,   conform_scripts_random_process,
};

static const struct conform_script *script_find(const char *name) {
    for (size_t i = 0; i < KELPIE_ARRAY_COUNT(conform_files); i += 1) {
        for (const struct conform_script *script = conform_files[i]; script->name != NULL;
             script += 1) {
            if (strcmp(script->name, name) == 0) {
                return script;
            }
        }
    }
    return NULL;
}

/* ---- on Linux -------------------------------------------------------------------------------- */

static int linux_make_link(struct conform *conform, const char *target, const char *name) {
    return symlinkat(target, conform->directory, name);
}

static int linux_open_terminal(struct conform *conform, int *out_master, int *out_slave) {
    struct kelpie_os *guest = conform->context;
    return guest->guest->open_terminal(guest, out_master, out_slave, 24, 80);
}

static int linux_remove(const char *path, const struct stat *status, int type, struct FTW *place) {
    kelpie__ignore(status != NULL && type >= 0 && place != NULL);
    return remove(path);
}

static void run_on_linux(const struct conform_script *script, const struct harness *harness,
                         uint64_t seed, struct conform *conform) {
    char path[600];
    char child[4096]; /* realpath's */
    HARNESS_CHECK(realpath(harness->root_directory, child) != NULL, "%s", harness->root_directory);
    snprintf(path, sizeof(path), "%.560s/script", child);
    HARNESS_CHECK(mkdir(path, 0700) == 0, "%s", path);
    ssize_t length = readlink("/proc/self/exe", child, sizeof(child) - 1);
    HARNESS_CHECK(length > 0, "read /proc/self/exe");
    child[length] = '\0';
    struct kelpie_os *guest = kelpie__os_linux_create_guest();
    *conform = (struct conform){
        .os = kelpie__os_linux_create(),
        .path = path,
        .child = child,
        .make_link = linux_make_link,
        .open_terminal = linux_open_terminal,
        .context = guest,
        .seed = seed,
    };
    conform->directory = kelpie__os_open(conform->os, KELPIE_OS_CWD, path,
                                         KELPIE_OS_OPEN_READ | KELPIE_OS_OPEN_DIRECTORY, 0);
    HARNESS_CHECK(conform->directory >= 0, "%d", conform->directory);
    script->run(conform);
    kelpie__ignore(kelpie__os_close(conform->os, conform->directory));
    kelpie__os_linux_destroy(conform->os);
    kelpie__os_linux_destroy(guest);
    HARNESS_CHECK(nftw(path, linux_remove, 16, FTW_DEPTH | FTW_PHYS) == 0, "%s", path);
}

/* ---- in a simulated world -------------------------------------------------------------------- */

struct simulated {
    const struct conform_script *script;
    struct conform *conform;
    bool is_done;
};

static struct simulated *simulated_of(struct kelpie_os *os) {
    return kelpie__sim_world_context(kelpie__sim_process_of(os)->machine->world);
}

static int simulated_make_link(struct conform *conform, const char *target, const char *name) {
    char path[600];
    snprintf(path, sizeof(path), "%s/%s", conform->path, name);
    return kelpie__sim_disk_put_link(kelpie__sim_process_of(conform->os)->machine->disk, path,
                                     target);
}

static int simulated_open_terminal(struct conform *conform, int *out_master, int *out_slave) {
    return kelpie__sim_terminal_open(kelpie__sim_process_of(conform->os), out_master, out_slave, 24,
                                     80);
}

static int simulated_main(struct kelpie_os *os, int argc, char **argv) {
    struct simulated *simulated = simulated_of(os);
    struct conform *conform = simulated->conform;
    kelpie__ignore(argc > 0 && argv != NULL);
    conform->os = os;
    conform->directory = kelpie__os_open(os, KELPIE_OS_CWD, SIM_DIRECTORY,
                                         KELPIE_OS_OPEN_READ | KELPIE_OS_OPEN_DIRECTORY, 0);
    HARNESS_CHECK(conform->directory >= 0, "%d", conform->directory);
    simulated->script->run(conform);
    simulated->is_done = true;
    return 0;
}

/* As kelpie__os_linux_prepare_process does it on the other side. */
static int simulated_child_main(struct kelpie_os *os, int argc, char **argv) {
    kelpie__sim_process_of(os)->signals_ignored |= UINT64_C(1) << (SIGPIPE - 1);
    return conform_child_main(os, argc, argv);
}

static bool simulated_is_done(void *context) {
    const struct simulated *simulated = context;
    return simulated->is_done;
}

/* Whatever the world is like, the answers are the same. */
static const struct sim_options worlds[] = {
    {.schedule = SIM_SCHEDULE_FIFO, .cost_factor = 1},
    {.schedule = SIM_SCHEDULE_UNIFORM, .cost_factor = 1000, .preempt_billionth = 100000000},
    {.schedule = SIM_SCHEDULE_PCT, .cost_factor = 10, .disk_profile = SIM_DISK_POSIX},
};

/* The world's seed is the drawn script's, too. */
static void run_simulated(const struct conform_script *script, struct sim_options options,
                          struct conform *conform) {
    const struct sim_start start = {.path = "/usr/bin/script",
                                    .role = "user",
                                    .main = simulated_main,
                                    .stack_bytes = SIM_STACK_BYTES_USER};
    struct simulated simulated = {.script = script, .conform = conform};
    char problem[256] = "";
    struct sim_world *world = kelpie__sim_world_create(&options, problem);
    HARNESS_CHECK(world != NULL, "%s", problem);
    struct sim_machine *host = kelpie__sim_world_host(world);
    kelpie__sim_world_set_context(world, &simulated);
    kelpie__sim_program_add(world, false, SIM_CHILD_PATH, "child", simulated_child_main,
                            SIM_STACK_BYTES);
    HARNESS_CHECK(kelpie__sim_disk_put(host->disk, SIM_CHILD_PATH, 0755, "child", 5) == 0,
                  "put the child");
    HARNESS_CHECK(kelpie__sim_disk_put_directory(host->disk, SIM_DIRECTORY, 0700) == 0,
                  "put its directory");
    *conform = (struct conform){
        .path = SIM_DIRECTORY,
        .child = SIM_CHILD_PATH,
        .make_link = simulated_make_link,
        .open_terminal = simulated_open_terminal,
        .seed = options.seed,
    };
    HARNESS_CHECK(kelpie__sim_process_start(host, &start) != NULL, "start it");
    enum sim_run_end end =
        kelpie__sim_world_run(world, simulated_is_done, &simulated, SIM_TIMEOUT_NS);
    if (end != SIM_RUN_DONE) {
        say(conform, "THE SIMULATED SCRIPT DID NOT END (%d)", (int)end);
    }
    /* Children that were told to end do so; nobody may be left. */
    end = kelpie__sim_world_run(world, NULL, NULL, SIM_TIMEOUT_NS);
    if (host->process_count != 0 || end != SIM_RUN_IDLE) {
        say(conform, "LEFT: %u SIMULATED PROCESSES (%d)", host->process_count, (int)end);
    }
    kelpie__sim_world_destroy(world);
}

/* ---- comparing ------------------------------------------------------------------------------- */

static size_t line_length(const char *text) {
    const char *end = strchr(text, '\n');
    return end == NULL ? strlen(text) : (size_t)(end - text);
}

/* Lines that differ, by their numbers: a script says the same number of lines, whatever it is
 * answered, but for a few that end early. */
static unsigned print_differences(const char *real, const char *simulated) {
    unsigned differences = 0;
    for (unsigned number = 1; *real != '\0' || *simulated != '\0'; number += 1) {
        size_t real_length = line_length(real);
        size_t simulated_length = line_length(simulated);
        if (real_length != simulated_length || memcmp(real, simulated, real_length) != 0) {
            fprintf(stderr, "# line %u\n#   linux:     %.*s\n#   simulated: %.*s\n", number,
                    (int)real_length, real, (int)simulated_length, simulated);
            differences += 1;
        }
        real += real_length + (real[real_length] == '\n' ? 1 : 0);
        simulated += simulated_length + (simulated[simulated_length] == '\n' ? 1 : 0);
    }
    return differences;
}

static void show(const char *side, const char *text) {
    const char *shown = getenv("CONFORMANCE_SHOW");
    if (shown != NULL && strcmp(shown, side) == 0) {
        fputs(text, stderr);
    }
}

static void compare(const struct conform_script *script, const struct harness *harness,
                    uint64_t seed) {
    struct conform *real = calloc(1, sizeof(*real));
    struct conform *simulated = calloc(1, sizeof(*simulated));
    HARNESS_CHECK(real != NULL && simulated != NULL, "no memory");
    run_on_linux(script, harness, seed, real);
    show("linux", real->text);
    HARNESS_CHECK(real->length > 0, "an empty transcript");
    for (size_t i = 0; i < KELPIE_ARRAY_COUNT(worlds); i += 1) {
        struct sim_options options = worlds[i];
        options.seed = seed;
        options.is_krun = strncmp(script->name, "krun_", strlen("krun_")) == 0;
        run_simulated(script, options, simulated);
        show("simulated", simulated->text);
        unsigned differences = print_differences(real->text, simulated->text);
        HARNESS_CHECK(differences == 0, "%u lines differ in world %zu, seed %llu", differences, i,
                      (unsigned long long)seed);
    }
    free(real);
    free(simulated);
}

/* CONFORMANCE_SEED: only this one, for a drawn script that failed. With --scale 1 (a campaign) the
 * run's seed says which are drawn. */
static void conformance_run(const struct harness *harness) {
    const struct conform_script *script = script_find(harness->test);
    const char *only = getenv("CONFORMANCE_SEED");
    HARNESS_CHECK(script != NULL, "%s", harness->test);
    uint32_t count = script->seeds == 0 ? 1 : harness_count(harness, script->seeds);
    if (only != NULL) {
        compare(script, harness, strtoull(only, NULL, 10));
        return;
    }
    uint64_t first = harness->scale == 1 && script->seeds > 0 ? harness->seed * 1000 : 1;
    for (uint32_t i = 0; i < count; i += 1) {
        compare(script, harness, first + i);
    }
}

int main(int argc, char **argv) {
    struct harness_test tests[SCRIPTS_MAX];
    size_t count = 0;
    if (argc >= 2 && strcmp(argv[argc - 2], "conformance-child") == 0) {
        kelpie__os_linux_prepare_process();
        struct kelpie_os *os = kelpie__os_linux_create();
        int code = conform_child_main(os, argc, argv);
        kelpie__os_linux_destroy(os);
        return code;
    }
    for (size_t i = 0; i < KELPIE_ARRAY_COUNT(conform_files); i += 1) {
        for (size_t j = 0; conform_files[i][j].name != NULL; j += 1) {
            HARNESS_CHECK(count < SCRIPTS_MAX, "more than %u scripts", SCRIPTS_MAX);
            const struct conform_script *script = &conform_files[i][j];
            uint32_t limit_s = script->seeds > 0 ? SCRIPT_TIMEOUT_S_DRAWN : SCRIPT_TIMEOUT_S;
            tests[count] = (struct harness_test){script->name, conformance_run, limit_s};
            count += 1;
        }
    }
    const struct harness_suite suite = {.name = "conformance", .tests = tests, .test_count = count};
    return harness_main(argc, argv, &suite);
}
