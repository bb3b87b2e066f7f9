/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * The world behind kelpie_open() with state_directory "sim:OPTIONS": the caller's own thread
 * becomes a process of the simulated host, and the world moves inside its waits. Inside a program
 * of kelpie_sim_run() it is that program's world instead. libkelpie finds the two functions by name
 * (os/os_sim_load.h).
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>

#include "core/text.h"
#include "os/os_sim_load.h"
#include "sim/machine.h"
#include "sim/trace.h"
#include "simlib/internal.h"

#define API_OPTION_BYTES_MAX 4096u

struct api_parse {
    struct kelpie_sim_options options;
    char text[API_OPTION_BYTES_MAX];
    const char *scripts[SIMLIB_PROGRAM_MAX]; /* "NAME:SCRIPT", into text */
    uint32_t script_count;
    const char *trace_path; /* into text; or NULL */
    const char *svg_path;
};

static int refuse(char out_problem[KELPIE_OS_SIM_PROBLEM_BYTES], const char *word,
                  const char *expected) {
    int length = snprintf(out_problem, KELPIE_OS_SIM_PROBLEM_BYTES,
                          "sim: \"%.80s\" is not understood; expected %s", word, expected);
    KELPIE_ASSERT(word != NULL && expected[0] != '\0');
    KELPIE_ASSERT(length > 0);
    return -EINVAL;
}

static int parse_word(struct api_parse *parse, char *word,
                      char out_problem[KELPIE_OS_SIM_PROBLEM_BYTES]) {
    char *value = strchr(word, '=');
    KELPIE_ASSERT(parse->script_count <= SIMLIB_PROGRAM_MAX);
    if (value == NULL) {
        return refuse(out_problem, word, "NAME=VALUE");
    }
    value += 1;
    size_t name_length = (size_t)(value - word) - 1;
    if (name_length == 4 && strncmp(word, "seed", 4) == 0) {
        if (!kelpie__text_u64(value, &parse->options.seed)) {
            return refuse(out_problem, word, "a seed from 0 to 18446744073709551615");
        }
    } else if (name_length == 6 && strncmp(word, "faults", 6) == 0) {
        parse->options.faults = value;
    } else if (name_length == 5 && strncmp(word, "guest", 5) == 0) {
        if (strchr(value, ':') == NULL || parse->script_count == SIMLIB_PROGRAM_MAX) {
            return refuse(out_problem, word, "guest=NAME:SCRIPT, at most 64 times");
        }
        parse->scripts[parse->script_count] = value;
        parse->script_count += 1;
    } else if (value[0] != '\0' && strlen(value) < SIMLIB_PATH_BYTES_MAX && name_length == 5 &&
               strncmp(word, "trace", 5) == 0) {
        parse->trace_path = value;
    } else if (value[0] != '\0' && strlen(value) < SIMLIB_PATH_BYTES_MAX && name_length == 3 &&
               strncmp(word, "svg", 3) == 0) {
        parse->svg_path = value;
    } else {
        return refuse(out_problem, word,
                      "seed=, faults= or guest=, or a file after trace= or svg=");
    }
    return 0;
}

/* Words are separated by commas; a script or a plan holds none. */
static int parse_options(struct api_parse *parse, const char *options,
                         char out_problem[KELPIE_OS_SIM_PROBLEM_BYTES]) {
    KELPIE_ASSERT(parse->script_count == 0);
    if (!kelpie__text_format(parse->text, sizeof(parse->text), "%s", options)) {
        return refuse(out_problem, options, "at most 4,095 bytes");
    }
    char *word = parse->text;
    int status = 0;
    while (status == 0 && word != NULL && word[0] != '\0') { /* bound: the text */
        char *next = strchr(word, ',');
        if (next != NULL) {
            *next = '\0';
            next += 1;
        }
        status = parse_word(parse, word, out_problem);
        word = next;
    }
    return status;
}

static int add_scripts(struct kelpie_sim *sim, struct api_parse *parse,
                       char out_problem[KELPIE_OS_SIM_PROBLEM_BYTES]) {
    kelpie__simlib_check(sim);
    for (uint32_t i = 0; i < parse->script_count; i += 1) {
        char name[SIMLIB_NAME_BYTES_MAX];
        struct kelpie_error error = {0};
        const char *colon = strchr(parse->scripts[i], ':');
        KELPIE_ASSERT(colon != NULL); /* parse_word has looked */
        size_t length = (size_t)(colon - parse->scripts[i]);
        if (length == 0 || length >= sizeof(name)) {
            return refuse(out_problem, parse->scripts[i], "a name of 1 to 31 bytes");
        }
        memcpy(name, parse->scripts[i], length);
        name[length] = '\0';
        if (kelpie_sim_guest_script(sim, name, colon + 1, &error) < 0) {
            int said = snprintf(out_problem, KELPIE_OS_SIM_PROBLEM_BYTES, "sim: guest=: %.240s",
                                error.message);
            KELPIE_ASSERT(said > 0);
            return -EINVAL;
        }
    }
    return 0;
}

/* What the world did, for people; false: a file cannot be written. */
static bool write_traces(const struct kelpie_sim *sim,
                         char out_problem[KELPIE_OS_SIM_PROBLEM_BYTES]) {
    struct kelpie_error error = {0};
    int status = 0;
    if (sim->trace_path[0] != '\0') {
        status = kelpie_sim_write_trace(sim, sim->trace_path, KELPIE_SIM_TRACE_JSON, &error);
    }
    if (sim->svg_path[0] != '\0' && status == 0) {
        status = kelpie_sim_write_trace(sim, sim->svg_path, KELPIE_SIM_TRACE_SVG, &error);
    }
    if (status < 0) {
        int length =
            snprintf(out_problem, KELPIE_OS_SIM_PROBLEM_BYTES, "sim: %.240s", error.message);
        KELPIE_ASSERT(length > 0);
    }
    return status == 0;
}

/* Tried at once: at the world's end there is nobody to tell. */
static int begin_traces(struct kelpie_sim *sim, const struct api_parse *parse,
                        char out_problem[KELPIE_OS_SIM_PROBLEM_BYTES]) {
    bool fits = kelpie__text_copy(sim->trace_path, sizeof(sim->trace_path),
                                  parse->trace_path == NULL ? "" : parse->trace_path) &&
                kelpie__text_copy(sim->svg_path, sizeof(sim->svg_path),
                                  parse->svg_path == NULL ? "" : parse->svg_path);
    KELPIE_ASSERT(fits);
    return write_traces(sim, out_problem) ? 0 : -EINVAL;
}

/* For an embedder's own event loop: a handle of the real system that is readable for ever, since
 * the world can always move; each dispatch then lets it. */
static int embedder_wait_handle(struct kelpie_os *os) {
    const struct kelpie_sim *sim =
        kelpie__sim_world_context(kelpie__sim_process_of(os)->machine->world);
    kelpie__simlib_check(sim);
    KELPIE_ASSERT(sim->event_handle >= 0);
    return sim->event_handle;
}

static int open_world(const char *options, struct kelpie_os **out,
                      char out_problem[KELPIE_OS_SIM_PROBLEM_BYTES]) {
    struct api_parse *parse = calloc(1, sizeof(*parse));
    struct kelpie_sim *sim = NULL;
    struct kelpie_error error = {0};
    if (parse == NULL) {
        return refuse(out_problem, options, "more memory");
    }
    parse->options.struct_size = sizeof(parse->options);
    parse->options.callback_limit_ms = UINT32_MAX; /* no signal in a process that is not a test's */
    int status = parse_options(parse, options, out_problem);
    bool is_traced = parse->trace_path != NULL || parse->svg_path != NULL;
    parse->options.trace_detail = is_traced ? SIM_TRACE_EVENTS : 0;
    if (status == 0 && kelpie_sim_create(&parse->options, &sim, &error) < 0) {
        int length =
            snprintf(out_problem, KELPIE_OS_SIM_PROBLEM_BYTES, "sim: %.240s", error.message);
        KELPIE_ASSERT(length > 0);
        status = -EINVAL;
    }
    if (status == 0) {
        status = add_scripts(sim, parse, out_problem);
    }
    if (status == 0) {
        status = begin_traces(sim, parse, out_problem);
    }
    struct sim_process *embedder = NULL;
    if (status == 0) {
        embedder = kelpie__sim_process_adopt(sim->world, "embedder");
        sim->event_handle = eventfd(1, EFD_CLOEXEC | EFD_NONBLOCK);
        bool is_whole = embedder != NULL && sim->event_handle >= 0;
        status = is_whole ? 0 : refuse(out_problem, options, "more memory, or a descriptor");
    }
    free(parse);
    if (status < 0) {
        kelpie_sim_destroy(sim);
        return status;
    }
    KELPIE_ASSERT(embedder->is_embedder && embedder->machine->world == sim->world);
    embedder->os.wait_handle = embedder_wait_handle;
    *out = &embedder->os;
    return 0;
}

/* A table of its own for each handle: a program may have several, each with its loop. */
static int open_inside(struct kelpie_sim *sim, const char *options, struct kelpie_os **out,
                       char out_problem[KELPIE_OS_SIM_PROBLEM_BYTES]) {
    struct sim_process *process = kelpie__sim_world_current(sim->world);
    kelpie__simlib_check(sim);
    KELPIE_ASSERT(process != NULL);
    if (options[0] != '\0') {
        return refuse(out_problem, options,
                      "nothing after \"sim:\" inside a run, which has a world");
    }
    if (process->machine->guest != NULL) {
        int length = snprintf(out_problem, KELPIE_OS_SIM_PROBLEM_BYTES,
                              "sim: a guest's program has no Kelpie");
        KELPIE_ASSERT(length > 0);
        return -EINVAL;
    }
    struct kelpie_os *os = kelpie__sim_table_create(process);
    if (os == NULL) {
        return refuse(out_problem, "sim:", "more memory");
    }
    *out = os;
    return 0;
}

__attribute__((visibility("default"))) int kelpie_sim_os_open(
    const char *options, const char *version, size_t table_bytes, struct kelpie_os **out,
    char out_problem[KELPIE_OS_SIM_PROBLEM_BYTES]);
__attribute__((visibility("default"))) void kelpie_sim_os_close(struct kelpie_os *os);
__attribute__((visibility("default"))) bool kelpie_sim_os_is_inside(void);

int kelpie_sim_os_open(const char *options, const char *version, size_t table_bytes,
                       struct kelpie_os **out, char out_problem[KELPIE_OS_SIM_PROBLEM_BYTES]) {
    if (strcmp(version, KELPIE_VERSION) != 0 || table_bytes != sizeof(struct kelpie_os)) {
        int length = snprintf(out_problem, KELPIE_OS_SIM_PROBLEM_BYTES,
                              "sim: libkelpie is %s, libkelpie-sim %s; install two of one build",
                              version, KELPIE_VERSION);
        KELPIE_ASSERT(length > 0);
        return -EINVAL;
    }
    struct kelpie_sim *inside = kelpie__simlib_inside();
    return inside != NULL ? open_inside(inside, options, out, out_problem)
                          : open_world(options, out, out_problem);
}

void kelpie_sim_os_close(struct kelpie_os *os) {
    struct sim_process *process = kelpie__sim_process_of(os);
    struct sim_world *world = process->machine->world;
    if (process->is_embedder) {
        char problem[KELPIE_OS_SIM_PROBLEM_BYTES];
        struct kelpie_sim *sim = kelpie__sim_world_context(world);
        kelpie__ignore(write_traces(sim, problem)); /* they could be written when it began */
        kelpie_sim_destroy(sim);
    } else {
        kelpie__sim_table_destroy(os);
    }
}

bool kelpie_sim_os_is_inside(void) {
    return kelpie__simlib_inside() != NULL;
}
