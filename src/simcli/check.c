/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * kelpie-sim run --check: the same seed has to do the same, again in this process, and in another
 * one whose addresses, environment, stack and fresh memory are others. When it does not, the first
 * call in which the two runs differ is named.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/text.h"
#include "simcli/crew.h"
#include "simcli/simcli.h"

#define CHECK_PROGRAM "/proc/self/exe"
#define CHECK_PERTURB "MALLOC_PERTURB_=165" /* what malloc gives is not zero */
#define CHECK_PADDING "KELPIE_PADDING="
#define CHECK_PADDING_BYTES 4321u
#define CHECK_ENVIRONMENT_MAX 1024u
#define CHECK_LOG_BYTES_MAX (64u * 1024u * 1024u)
#define CHECK_READ_BYTES 65536u
#define CHECK_HASH_WORD "hash "

extern char **environ; /* the C library has it */

/* ---- texts that grow ------------------------------------------------------------------------- */

struct check_text {
    char *bytes; /* owned; terminated; NULL: empty */
    size_t length;
    size_t capacity;
    bool is_cut;
};

static void text_add(void *context, const char *bytes, size_t length) {
    struct check_text *text = context;
    if (text->length + length + 1 > text->capacity) {
        size_t capacity = 2 * (text->length + length + CHECK_READ_BYTES);
        char *larger = capacity > CHECK_LOG_BYTES_MAX ? NULL : realloc(text->bytes, capacity);
        if (larger == NULL) {
            text->is_cut = true;
            return;
        }
        text->bytes = larger;
        text->capacity = capacity;
    }
    memcpy(text->bytes + text->length, bytes, length);
    text->length += length;
    text->bytes[text->length] = '\0';
    KELPIE_ASSERT(text->length < text->capacity);
}

static void text_free(struct check_text *text) {
    KELPIE_ASSERT(text->length <= text->capacity);
    free(text->bytes);
    *text = (struct check_text){0};
}

/* ---- another process ------------------------------------------------------------------------- */

static const char *faults_word(const struct simcli *simcli) {
    static const char *const words[] = {[SIM_RUN_FAULTS_NONE] = "none",
                                        [SIM_RUN_FAULTS_CALM] = "calm",
                                        [SIM_RUN_FAULTS_SWARM] = "swarm"};
    KELPIE_ASSERT(simcli->faults != SIM_RUN_FAULTS_PLAN);
    return words[simcli->faults];
}

/* The child's life: everything is another one but the seed. */
static void become_other(const struct simcli *simcli, uint64_t seed, bool has_log, int output) {
    char numbers[2][24];
    char padding[CHECK_PADDING_BYTES] = CHECK_PADDING;
    char *environment[CHECK_ENVIRONMENT_MAX + 3];
    uint32_t count = 0;
    bool fits =
        kelpie__text_format(numbers[0], sizeof(numbers[0]), "%llu", (unsigned long long)seed) &&
        kelpie__text_format(numbers[1], sizeof(numbers[1]), "%u", simcli->canary);
    kelpie__simcli_check(simcli);
    KELPIE_ASSERT(fits);
    const char *arguments[] = {"kelpie-sim",
                               "run",
                               "--quiet",
                               "--no-shrink",
                               "--seed",
                               numbers[0],
                               "--canary",
                               numbers[1],
                               "--faults",
                               faults_word(simcli),
                               "--backend",
                               kelpie__simcli_is_krun(simcli, seed) ? "krun" : "qemu",
                               has_log ? "--log" : NULL,
                               "full",
                               NULL};
    memset(padding + strlen(CHECK_PADDING), 'x', sizeof(padding) - strlen(CHECK_PADDING) - 1);
    padding[sizeof(padding) - 1] = '\0';
    while (count < CHECK_ENVIRONMENT_MAX && environ[count] != NULL) {
        environment[count] = environ[count];
        count += 1;
    }
    char perturb[] = CHECK_PERTURB;
    environment[count] = perturb;
    environment[count + 1] = padding;
    environment[count + 2] = NULL;
    if (dup2(output, STDOUT_FILENO) >= 0) {
        execve(CHECK_PROGRAM, (char *const *)(uintptr_t)arguments, environment);
    }
    _exit(KELPIE_SIM_CRASHED);
}

/* What another process prints of this seed. False: there is none. */
static bool run_other(const struct simcli *simcli, uint64_t seed, bool has_log,
                      struct check_text *out) {
    char bytes[CHECK_READ_BYTES];
    int pipes[2];
    int status = 0;
    if (pipe(pipes) < 0) {
        return false;
    }
    pid_t child = kelpie__simcli_fork();
    if (child == 0) {
        close(pipes[0]);
        become_other(simcli, seed, has_log, pipes[1]);
    }
    close(pipes[1]);
    ssize_t count = child < 0 ? 0 : 1;
    while (count > 0) { /* bound: the child's life */
        count = read(pipes[0], bytes, sizeof(bytes));
        text_add(out, bytes, count > 0 ? (size_t)count : 0);
        count = count < 0 && errno == EINTR ? 1 : count;
    }
    close(pipes[0]);
    return child > 0 && waitpid(child, &status, 0) == child && WIFEXITED(status);
}

/* ---- the first difference -------------------------------------------------------------------- */

static void tell_lines(const char *first, const char *second) {
    uint64_t line = 1;
    KELPIE_ASSERT(first != NULL && second != NULL);
    while (*first != '\0' && *second != '\0') { /* bound: the texts */
        size_t lengths[2] = {strcspn(first, "\n"), strcspn(second, "\n")};
        if (lengths[0] != lengths[1] || memcmp(first, second, lengths[0]) != 0) {
            break;
        }
        first += lengths[0] + (first[lengths[0]] == '\n' ? 1 : 0);
        second += lengths[1] + (second[lengths[1]] == '\n' ? 1 : 0);
        line += 1;
    }
    fprintf(stderr,
            "the first call that differs (line %llu of --log full)\nfirst:  %.*s\nsecond: %.*s\n",
            (unsigned long long)line, (int)strcspn(first, "\n"), first, (int)strcspn(second, "\n"),
            second);
}

/* Before its log another process names its seed. */
static const char *log_of_other(const char *text) {
    size_t length = strcspn(text, "\n");
    return text + length + (text[length] == '\n' ? 1 : 0);
}

/* What the trace of this process says, as --log full prints it. */
static void log_own(struct simcli *simcli, uint64_t seed, struct check_text *out) {
    struct sim_run_options options;
    struct sim_run_result result;
    struct sim_trace *trace = kelpie__sim_trace_create(SIM_TRACE_CALLS);
    kelpie__simcli_check(simcli);
    kelpie__simcli_run_options(simcli, seed, &options);
    options.trace = trace;
    if (trace != NULL) {
        kelpie__sim_run(&options, &result);
        kelpie__sim_run_release(&result);
        kelpie__sim_trace_log_calls(trace, text_add, out);
    }
    kelpie__sim_trace_destroy(trace);
}

static int differs(struct simcli *simcli, uint64_t seed, uint64_t hash, const char *other,
                   bool is_same_process) {
    struct check_text logs[2] = {0};
    fprintf(stderr, "seed %llu: hash %016llx, then %.16s%s (verdict %d)\n",
            (unsigned long long)seed, (unsigned long long)hash, other,
            is_same_process ? "" : " with other addresses, environment and memory",
            KELPIE_SIM_NOT_THE_SAME);
    log_own(simcli, seed, &logs[0]);
    if (is_same_process) {
        log_own(simcli, seed, &logs[1]);
    } else {
        kelpie__ignore(run_other(simcli, seed, true, &logs[1])); /* what it said is all there is */
    }
    if (logs[0].bytes != NULL && logs[1].bytes != NULL) {
        tell_lines(logs[0].bytes, is_same_process ? logs[1].bytes : log_of_other(logs[1].bytes));
    }
    text_free(&logs[0]);
    text_free(&logs[1]);
    return KELPIE_SIM_NOT_THE_SAME;
}

int kelpie__simcli_check_seed(struct simcli *simcli, uint64_t seed, uint64_t hash) {
    struct sim_run_options options;
    struct sim_run_result result;
    struct check_text other = {0};
    char text[24];
    kelpie__simcli_check(simcli);
    kelpie__simcli_run_options(simcli, seed, &options);
    kelpie__sim_run(&options, &result);
    bool fits = kelpie__text_format(text, sizeof(text), "%016llx", (unsigned long long)result.hash);
    KELPIE_ASSERT(fits);
    kelpie__sim_run_release(&result);
    if (result.hash != hash) {
        return differs(simcli, seed, hash, text, true);
    }
    if (simcli->faults == SIM_RUN_FAULTS_PLAN) {
        return 0; /* its file has no name any more */
    }
    bool has_run = run_other(simcli, seed, false, &other);
    const char *found =
        has_run && other.bytes != NULL ? strstr(other.bytes, CHECK_HASH_WORD) : NULL;
    const char *word = found == NULL ? "a failure" : found + strlen(CHECK_HASH_WORD);
    int code =
        strncmp(word, text, strlen(text)) == 0 ? 0 : differs(simcli, seed, hash, word, false);
    text_free(&other);
    return code;
}
