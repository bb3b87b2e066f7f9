/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * kelpie_sim.h: a world for the tests of a program that embeds Kelpie: its making, its programs,
 * checks and faults. run.c runs it, suite.c is a whole test program, open.c the world
 * behind one kelpie_open().
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/limits.h"
#include "core/text.h"
#include "os/os_call.h"
#include "sim/fault.h"
#include "sim/guest.h"
#include "sim/install.h"
#include "sim/machine.h"
#include "sim/trace.h"
#include "simlib/internal.h"

#define API_PROGRAM_DIRECTORY "/usr/local/bin"
#define API_ARGUMENT_MAX 64u
#define API_GUEST_FILE_MODE 0755u
#define API_STRUCT_BYTES_MAX 65536u

static int read_options(const struct kelpie_sim_options *given, struct kelpie_sim_options *out,
                        struct kelpie_error *error) {
    *out = (struct kelpie_sim_options){.struct_size = sizeof(*out)};
    if (given == NULL) {
        return 0;
    }
    if (given->struct_size < sizeof(size_t) || given->struct_size > API_STRUCT_BYTES_MAX) {
        return kelpie__fail(error, KELPIE_E_MISUSE, 0,
                            "kelpie_sim_create: struct_size is %zu; set it to sizeof the options",
                            given->struct_size);
    }
    size_t bytes = given->struct_size < sizeof(*out) ? given->struct_size : sizeof(*out);
    memcpy(out, given, bytes);
    if (out->trace_detail > SIM_TRACE_CALLS) {
        return kelpie__fail_field(error, KELPIE_E_CONFIG, "trace_detail",
                                  "trace_detail is %u; 0, 1 or 2 are known", out->trace_detail);
    }
    return 0;
}

/* The words that stand for a plan. A calm world has other schedules, timings and cuts of streams
 * than a quiet one, and no failure. */
static int choose_faults(const struct kelpie_sim_options *options, struct kelpie_sim *sim,
                         struct sim_options *out, struct kelpie_error *error) {
    const char *faults = options->faults == NULL ? "none" : options->faults;
    out->seed = options->seed;
    out->cost_factor = 1;
    bool is_swarm = strcmp(faults, "swarm") == 0;
    if (is_swarm || strcmp(faults, "calm") == 0) {
        out->schedule = (enum sim_schedule)(options->seed % 3);
        out->cost_factor = options->seed % 7 == 0 ? 20 : 1;
        out->preempt_billionth = 50000000;
        out->partial_billionth = 200000000;
    }
    if (is_swarm) {
        size_t length = kelpie__sim_faults_swarm(options->seed, sim->faults, sizeof(sim->faults));
        KELPIE_ASSERT(length < sizeof(sim->faults));
    } else if (strcmp(faults, "calm") != 0 && strcmp(faults, "none") != 0) {
        if (!kelpie__text_format(sim->faults, sizeof(sim->faults), "%s", faults)) {
            return kelpie__fail_field(error, KELPIE_E_LIMIT, "faults",
                                      "the plan has %zu bytes; the limit is %u", strlen(faults),
                                      SIMLIB_PLAN_BYTES_MAX - 1);
        }
    }
    out->plan = sim->faults[0] == '\0' ? NULL : sim->faults;
    return 0;
}

int kelpie_sim_create(const struct kelpie_sim_options *given, struct kelpie_sim **out,
                      struct kelpie_error *error) {
    struct kelpie_sim_options options;
    struct sim_options world = {0};
    char problem[256] = "";
    if (out == NULL) {
        return kelpie__fail(error, KELPIE_E_MISUSE, 0, "kelpie_sim_create: out is NULL");
    }
    int status = read_options(given, &options, error);
    if (status < 0) {
        return status;
    }
    struct kelpie_sim *sim = calloc(1, sizeof(*sim));
    if (sim == NULL) {
        return kelpie__fail(error, KELPIE_E_MEMORY, 0, "no memory for a simulated world");
    }
    sim->event_handle = -1;
    sim->seed = options.seed;
    sim->callback_limit_ms =
        options.callback_limit_ms > 0 ? options.callback_limit_ms : SIMLIB_CALLBACK_LIMIT_MS;
    sim->time_limit_ms = options.time_limit_ms > 0 ? options.time_limit_ms : SIMLIB_TIME_LIMIT_MS;
    status = choose_faults(&options, sim, &world, error);
    if (status < 0) {
        goto fail_options;
    }
    if (options.trace_detail > 0) {
        sim->trace = kelpie__sim_trace_create((enum sim_trace_detail)options.trace_detail);
        if (sim->trace == NULL) {
            status = kelpie__fail(error, KELPIE_E_MEMORY, 0, "no memory for a trace");
            goto fail_options;
        }
    }
    world.trace = sim->trace;
    sim->world = kelpie__sim_world_create(&world, problem);
    if (sim->world == NULL) {
        status = kelpie__fail_field(error, problem[0] != '\0' ? KELPIE_E_CONFIG : KELPIE_E_MEMORY,
                                    problem[0] != '\0' ? "faults" : "", "%s",
                                    problem[0] != '\0' ? problem : "no memory for a world");
        goto fail_world;
    }
    kelpie__sim_world_set_context(sim->world, sim);
    *out = sim;
    kelpie__simlib_check(sim);
    return 0;
fail_world:
    kelpie__sim_trace_destroy(sim->trace);
fail_options:
    free(sim);
    return status;
}

void kelpie_sim_destroy(struct kelpie_sim *sim) {
    if (sim != NULL && !kelpie__simlib_is_misplaced(sim, "kelpie_sim_destroy", true)) {
        KELPIE_ASSERT(!sim->is_running && sim->check_name == NULL);
        kelpie__sim_world_destroy(sim->world);
        kelpie__sim_trace_destroy(sim->trace);
        if (sim->event_handle >= 0) {
            kelpie__ignore(close(sim->event_handle)); /* nothing was written to it */
        }
        free(sim);
    }
}

/* ---- programs -------------------------------------------------------------------------------- */

static struct kelpie_sim *sim_of(struct kelpie_os *os) {
    struct sim_process *process = kelpie__sim_process_of(os);
    struct kelpie_sim *sim = kelpie__sim_world_context(process->machine->world);
    KELPIE_ASSERT(sim != NULL);
    return sim;
}

static struct simlib_program *find_program(struct kelpie_sim *sim, const char *name,
                                           bool is_guest) {
    kelpie__simlib_check(sim);
    for (uint32_t i = 0; i < sim->program_count; i += 1) {
        struct simlib_program *program = &sim->programs[i];
        if (program->is_guest == is_guest && strcmp(program->name, name) == 0) {
            return program;
        }
    }
    return NULL;
}

static const char *last_component(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash == NULL ? path : slash + 1;
}

/* Every program of the embedder's begins here, in its own simulated process. */
static int program_main(struct kelpie_os *os, int argc, char **argv) {
    struct sim_process *process = kelpie__sim_process_of(os);
    struct simlib_program *program = find_program(sim_of(os), last_component(process->path), false);
    KELPIE_ASSERT(argc > 0 && argv != NULL);
    KELPIE_ASSERT(program != NULL);
    struct kelpie_sim *sim = sim_of(os);
    uint32_t index = 0;
    while (index < sim->spawn_count && sim->spawned[index] != process->pid) {
        index += 1;
    }
    int code = program->callback(program->context, argc, argv);
    if (index < sim->spawn_count) { /* else another program has started it, which hears of it */
        sim->exit_codes[index] = code & 0xff; /* as of every process */
    }
    return code;
}

struct kelpie_sim_guest {
    struct kelpie_os *os;
};

static int guest_program_main(struct kelpie_os *os, int argc, char **argv) {
    struct sim_process *process = kelpie__sim_process_of(os);
    struct simlib_program *program = find_program(sim_of(os), last_component(process->path), true);
    KELPIE_ASSERT(argc > 0 && argv != NULL);
    KELPIE_ASSERT(program != NULL);
    struct kelpie_sim_guest guest = {.os = os};
    return program->guest_callback(&guest, program->context, argc, argv);
}

static bool is_file_name(const char *name) {
    static const char allowed[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._+-";
    size_t length = strlen(name);
    return length > 0 && strspn(name, allowed) == length && strcmp(name, ".") != 0 &&
           strcmp(name, "..") != 0;
}

static int add_program(struct kelpie_sim *sim, const char *name, bool is_guest,
                       struct simlib_program **out, struct kelpie_error *error) {
    if (sim == NULL || name == NULL || !is_file_name(name)) {
        return kelpie__fail(
            error, KELPIE_E_MISUSE, 0,
            "a program needs a world and the name of a file: of A-Z a-z 0-9 . _ + -, "
            "not \"%.64s\"",
            name == NULL ? "" : name);
    }
    if (strlen(name) >= SIMLIB_NAME_BYTES_MAX) {
        return kelpie__fail(error, KELPIE_E_LIMIT, 0,
                            "program \"%.64s\": the name has %zu bytes; the limit is %u", name,
                            strlen(name), SIMLIB_NAME_BYTES_MAX - 1);
    }
    if (sim->program_count == SIMLIB_PROGRAM_MAX) {
        return kelpie__fail(error, KELPIE_E_LIMIT, 0,
                            "program \"%s\": a world has at most %u programs", name,
                            SIMLIB_PROGRAM_MAX);
    }
    if (find_program(sim, name, is_guest) != NULL) {
        return kelpie__fail(error, KELPIE_E_EXISTS, 0, "there is a program \"%s\" already", name);
    }
    struct simlib_program *program = &sim->programs[sim->program_count];
    *program = (struct simlib_program){.is_guest = is_guest};
    memcpy(program->name, name, strlen(name) + 1);
    sim->program_count += 1;
    kelpie__simlib_check(sim);
    *out = program;
    return 0;
}

int kelpie_sim_program(struct kelpie_sim *sim, const char *name,
                       kelpie_sim_program_callback callback, void *context,
                       struct kelpie_error *error) {
    struct simlib_program *program = NULL;
    char path[256];
    if (callback == NULL) {
        return kelpie__fail(error, KELPIE_E_MISUSE, 0, "kelpie_sim_program: callback is NULL");
    }
    int status = add_program(sim, name, false, &program, error);
    if (status < 0) {
        return status;
    }
    program->callback = callback;
    program->context = context;
    bool fits = kelpie__text_format(path, sizeof(path), API_PROGRAM_DIRECTORY "/%s", name);
    KELPIE_ASSERT(fits);
    kelpie__sim_program_add(sim->world, false, path, name, program_main, SIM_STACK_BYTES_USER);
    return 0;
}

int kelpie_sim_guest_program(struct kelpie_sim *sim, const char *name,
                             kelpie_sim_guest_callback callback, void *context,
                             struct kelpie_error *error) {
    struct simlib_program *program = NULL;
    if (callback == NULL) {
        return kelpie__fail(error, KELPIE_E_MISUSE, 0,
                            "kelpie_sim_guest_program: callback is NULL");
    }
    int status = add_program(sim, name, true, &program, error);
    if (status < 0) {
        return status;
    }
    program->guest_callback = callback;
    program->context = context;
    kelpie__sim_guest_program(sim->world, name, guest_program_main);
    return 0;
}

/* A script runs as `script TEXT` does: the builtin program reads the text from its second argument.
 */
static int script_main(struct kelpie_os *os, int argc, char **argv) {
    struct sim_process *process = kelpie__sim_process_of(os);
    struct simlib_program *program = find_program(sim_of(os), last_component(process->path), true);
    KELPIE_ASSERT(argc > 0);
    KELPIE_ASSERT(program != NULL);
    char *arguments[] = {argv[0], program->script, NULL};
    return kelpie__sim_script_main(os, 2, arguments);
}

int kelpie_sim_guest_script(struct kelpie_sim *sim, const char *name, const char *script,
                            struct kelpie_error *error) {
    struct simlib_program *program = NULL;
    char problem[KELPIE_SIM_SCRIPT_PROBLEM_BYTES] = "";
    if (script == NULL) {
        return kelpie__fail(error, KELPIE_E_MISUSE, 0, "kelpie_sim_guest_script: script is NULL");
    }
    if (strlen(script) >= SIMLIB_SCRIPT_BYTES_MAX) {
        return kelpie__fail(error, KELPIE_E_LIMIT, 0,
                            "the script of \"%.64s\" has %zu bytes; the limit is %u",
                            name == NULL ? "" : name, strlen(script), SIMLIB_SCRIPT_BYTES_MAX - 1);
    }
    if (!kelpie__sim_script_is_good(script, problem)) {
        return kelpie__fail_field(error, KELPIE_E_CONFIG, "script", "the script of \"%.64s\": %s",
                                  name == NULL ? "" : name, problem);
    }
    int status = add_program(sim, name, true, &program, error);
    if (status < 0) {
        return status;
    }
    memcpy(program->script, script, strlen(script) + 1);
    kelpie__sim_guest_program(sim->world, name, script_main);
    return 0;
}

int kelpie_sim_spawn(struct kelpie_sim *sim, const char *name, const char *const *arguments,
                     struct kelpie_error *error) {
    const char *argv[API_ARGUMENT_MAX + 2] = {name};
    static const char *const environment[] = {"PATH=/usr/local/bin:/usr/bin:/bin", "HOME=/root",
                                              "LC_ALL=C", "KELPIE_LIBEXEC=" SIM_LIBEXEC_DIRECTORY,
                                              NULL};
    char path[256];
    if (sim == NULL || name == NULL) {
        return kelpie__fail(error, KELPIE_E_MISUSE, 0, "kelpie_sim_spawn: sim or name is NULL");
    }
    if (find_program(sim, name, false) == NULL) {
        return kelpie__fail(error, KELPIE_E_NOT_FOUND, 0,
                            "there is no program \"%.64s\"; kelpie_sim_program adds one", name);
    }
    if (kelpie__simlib_is_misplaced(sim, "kelpie_sim_spawn", false)) {
        return kelpie__fail(error, KELPIE_E_MISUSE, 0, "kelpie_sim_spawn: not from a check");
    }
    uint32_t count = 0;
    while (arguments != NULL && count < API_ARGUMENT_MAX && arguments[count] != NULL) {
        argv[count + 1] = arguments[count];
        count += 1;
    }
    bool is_whole = arguments == NULL || arguments[count] == NULL;
    if (!is_whole) {
        return kelpie__fail(error, KELPIE_E_LIMIT, 0,
                            "program \"%s\" has more than %u arguments, which is the limit", name,
                            API_ARGUMENT_MAX);
    }
    if (sim->spawn_count == SIMLIB_SPAWN_MAX) {
        return kelpie__fail(error, KELPIE_E_LIMIT, 0,
                            "program \"%s\" would be spawn %u of this world; the limit is %u", name,
                            sim->spawn_count + 1, SIMLIB_SPAWN_MAX);
    }
    bool fits = kelpie__text_format(path, sizeof(path), API_PROGRAM_DIRECTORY "/%s", name);
    KELPIE_ASSERT(fits);
    struct sim_start start = {.path = path,
                              .role = name,
                              .main = program_main,
                              .stack_bytes = SIM_STACK_BYTES_USER,
                              .argv = argv,
                              .environment = environment};
    struct sim_process *process =
        kelpie__sim_process_start(kelpie__sim_world_host(sim->world), &start);
    if (process == NULL) {
        return kelpie__fail(error, KELPIE_E_LIMIT, 0, "the simulated host takes no more processes");
    }
    sim->spawned[sim->spawn_count] = process->pid;
    sim->exit_codes[sim->spawn_count] = SIMLIB_STILL_RUNS;
    sim->spawn_count += 1;
    kelpie__simlib_check(sim);
    return 0;
}

/* ---- faults, checks, marks ------------------------------------------------------------------- */

int kelpie_sim_fault(struct kelpie_sim *sim, const char *rules, struct kelpie_error *error) {
    char problem[256] = "";
    if (sim == NULL || rules == NULL) {
        return kelpie__fail(error, KELPIE_E_MISUSE, 0, "kelpie_sim_fault: sim or rules is NULL");
    }
    if (sim->is_replay) {
        return 0; /* what fired of these is in the plan */
    }
    kelpie__simlib_check(sim);
    int status = kelpie__sim_faults_add(kelpie__sim_world_faults(sim->world), rules, problem);
    if (status < 0) {
        return kelpie__fail_field(error, KELPIE_E_CONFIG, "faults", "%s", problem);
    }
    return 0;
}

int kelpie_sim_check(struct kelpie_sim *sim, const char *name, kelpie_sim_check_callback callback,
                     void *context, struct kelpie_error *error) {
    if (sim == NULL || name == NULL || callback == NULL) {
        return kelpie__fail(error, KELPIE_E_MISUSE, 0,
                            "kelpie_sim_check: a check needs a world, a name and a callback");
    }
    if (sim->check_count == SIMLIB_CHECK_MAX || strlen(name) >= SIMLIB_NAME_BYTES_MAX) {
        return kelpie__fail(error, KELPIE_E_LIMIT, 0,
                            "check \"%s\": a world has at most %u checks, names at most %u bytes",
                            name, SIMLIB_CHECK_MAX, SIMLIB_NAME_BYTES_MAX - 1);
    }
    struct simlib_check *check = &sim->checks[sim->check_count];
    *check = (struct simlib_check){.callback = callback, .context = context};
    memcpy(check->name, name, strlen(name) + 1);
    sim->check_count += 1;
    kelpie__simlib_check(sim);
    return 0;
}

void kelpie_sim_fail(struct kelpie_sim *sim, const char *message) {
    if (sim != NULL) {
        kelpie__sim_world_fail(sim->world, "%s",
                               message == NULL ? "kelpie_sim_fail without a text" : message);
    }
}

void kelpie_sim_mark(struct kelpie_sim *sim, const char *name) {
    if (sim != NULL && name != NULL) {
        struct sim_event event = {.type = SIM_EVENT_MARK,
                                  .process = kelpie__sim_world_current(sim->world),
                                  .detail = name};
        kelpie__sim_world_emit(sim->world, &event);
    }
}

/* ---- inside a guest program ------------------------------------------------------------------ */

int64_t kelpie_sim_guest_read(struct kelpie_sim_guest *guest, void *out, size_t count) {
    if (guest == NULL || out == NULL || count > INT32_MAX) {
        return -EINVAL;
    }
    return kelpie__sim_read_wait(guest->os, 0, out, count);
}

int64_t kelpie_sim_guest_write(struct kelpie_sim_guest *guest, int descriptor, const void *bytes,
                               size_t count) {
    if (guest == NULL || bytes == NULL || count > INT32_MAX) {
        return -EINVAL;
    }
    return kelpie__sim_write_wait(guest->os, descriptor, bytes, count);
}

int64_t kelpie_sim_guest_read_file(struct kelpie_sim_guest *guest, const char *path, void *out,
                                   size_t capacity) {
    if (guest == NULL || path == NULL || path[0] == '\0' || out == NULL || capacity > INT32_MAX) {
        return -EINVAL;
    }
    int file = kelpie__os_open(guest->os, KELPIE_OS_CWD, path,
                               KELPIE_OS_OPEN_READ | KELPIE_OS_OPEN_FOLLOW, 0);
    int64_t count = file;
    size_t length = 0;
    while (file >= 0 && count != 0 && length < capacity) { /* bound: capacity */
        count = kelpie__os_pread(guest->os, file, (char *)out + length, capacity - length, length);
        if (count < 0) {
            break;
        }
        length += (size_t)count;
    }
    if (file >= 0) {
        kelpie__ignore(kelpie__os_close(guest->os, file)); /* it was only read */
    }
    return count < 0 ? count : (int64_t)length;
}

int64_t kelpie_sim_guest_write_file(struct kelpie_sim_guest *guest, const char *path,
                                    const void *bytes, size_t count) {
    if (guest == NULL || path == NULL || path[0] == '\0' || (bytes == NULL && count > 0) ||
        count > INT32_MAX) {
        return -EINVAL;
    }
    int file = kelpie__os_open(guest->os, KELPIE_OS_CWD, path,
                               KELPIE_OS_OPEN_WRITE | KELPIE_OS_OPEN_CREATE |
                                   KELPIE_OS_OPEN_TRUNCATE | KELPIE_OS_OPEN_FOLLOW,
                               API_GUEST_FILE_MODE);
    int64_t written = file;
    size_t length = 0;
    while (file >= 0 && length < count) { /* bound: count */
        written = kelpie__os_pwrite(guest->os, file, (const char *)bytes + length, count - length,
                                    length);
        if (written < 0) {
            break;
        }
        length += (size_t)written;
    }
    if (file >= 0) {
        kelpie__ignore(kelpie__os_close(guest->os, file)); /* a guest's files are memory */
    }
    return written < 0 ? written : (int64_t)length;
}

const char *kelpie_sim_guest_environment(struct kelpie_sim_guest *guest, const char *name) {
    return guest == NULL || name == NULL ? NULL : kelpie__os_environment(guest->os, name);
}

void kelpie_sim_guest_sleep_ms(struct kelpie_sim_guest *guest, uint64_t duration_ms) {
    uint64_t bounded_ms = duration_ms < UINT32_MAX ? duration_ms : UINT32_MAX;
    if (guest != NULL) {
        kelpie__sim_sleep(guest->os, (int64_t)bounded_ms * KELPIE_NS_PER_MS);
    }
}

uint64_t kelpie_sim_guest_random(struct kelpie_sim_guest *guest) {
    uint64_t value = 0;
    int status = guest == NULL ? -EINVAL : guest->os->random(guest->os, &value, sizeof(value));
    return status < 0 ? 0 : value;
}
