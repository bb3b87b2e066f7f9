/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * See cli.h: the table of verbs, what stands before a verb, and the library's handle.
 */
#include "cli/cli.h"

#include <string.h>

#include "core/text.h"
#include "os/os_call.h"
#include "os/os_sim_load.h"

#define WORDS_MANY UINT32_MAX

static const struct kelpie_cli_verb verbs[] = {
    {"run", KELPIE_CLI_RUN, 0, WORDS_MANY, true, "[OPTIONS] [--] COMMAND [ARGUMENT...]",
     "boot a VM, run a command in it, delete the VM", kelpie__cli_run},
    {"create", KELPIE_CLI_CREATE, 0, 1, false, "[OPTIONS] [NAME]", "make a VM that can be started",
     kelpie__cli_create},
    {"start", KELPIE_CLI_START, 1, WORDS_MANY, false, "NAME...", "boot VMs", kelpie__cli_start},
    {"exec", KELPIE_CLI_EXEC, 2, WORDS_MANY, true, "[OPTIONS] NAME [--] COMMAND [ARGUMENT...]",
     "run a command in a VM", kelpie__cli_exec},
    {"attach", KELPIE_CLI_ATTACH, 1, 2, false, "[OPTIONS] NAME [ID]",
     "go on with a command that runs; without an id, list them", kelpie__cli_attach},
    {"ps", KELPIE_CLI_PS, 0, 0, false, "[OPTIONS]", "list VMs", kelpie__cli_ps},
    {"inspect", KELPIE_CLI_INSPECT, 1, WORDS_MANY, false, "[OPTIONS] NAME...", "show all about VMs",
     kelpie__cli_inspect},
    {"logs", KELPIE_CLI_LOGS, 1, 1, false, "[OPTIONS] NAME", "show a VM's console",
     kelpie__cli_logs},
    {"boot-chart", KELPIE_CLI_BOOT_CHART, 1, 1, false, "[OPTIONS] NAME",
     "show where the time of a VM's start went", kelpie__cli_boot_chart},
    {"pause", KELPIE_CLI_PAUSE, 1, WORDS_MANY, false, "NAME...",
     "stop the guests of VMs where they are", kelpie__cli_pause},
    {"resume", KELPIE_CLI_RESUME, 1, WORDS_MANY, false, "NAME...", "let paused VMs go on",
     kelpie__cli_resume},
    {"snapshot", KELPIE_CLI_SNAPSHOT, 1, WORDS_MANY, false,
     "create|ls|inspect|rm|verify|tree|export|import [OPTIONS] [NAME...]",
     "save VMs as they are, and look after what was saved", kelpie__cli_snapshot},
    {"restore", KELPIE_CLI_RESTORE, 2, 2, false, "NAME SNAPSHOT",
     "make a VM what it was at a snapshot", kelpie__cli_restore},
    {"fork", KELPIE_CLI_FORK, 2, WORDS_MANY, false, "NAME|SNAPSHOT NEW...",
     "make VMs of one that runs, or of a snapshot", kelpie__cli_fork},
    {"pool", KELPIE_CLI_POOL, 1, WORDS_MANY, false,
     "create|ls|inspect|rm|claim|renew [OPTIONS] [NAME...]",
     "keep VMs that wait, and take one in milliseconds", kelpie__cli_pool},
    {"stop", KELPIE_CLI_STOP, 1, WORDS_MANY, false, "[OPTIONS] NAME...", "shut VMs down",
     kelpie__cli_stop},
    {"kill", KELPIE_CLI_KILL, 1, WORDS_MANY, false, "NAME...", "end VMs at once", kelpie__cli_kill},
    {"rm", KELPIE_CLI_RM, 1, WORDS_MANY, false, "[OPTIONS] NAME...", "delete VMs", kelpie__cli_rm},
    {"prune", KELPIE_CLI_PRUNE, 0, 0, false, "[OPTIONS]",
     "remove templates that are not used, and what dead processes left", kelpie__cli_prune},
    {"doctor", KELPIE_CLI_DOCTOR, 0, 0, false, "[OPTIONS]",
     "check what this host has, and say what mends it", kelpie__cli_doctor},
    {"version", KELPIE_CLI_VERSION, 0, 0, false, "[OPTIONS]", "show the version",
     kelpie__cli_version},
    {"help", KELPIE_CLI_HELP, 0, 1, false, "[VERB]", "show help", kelpie__cli_help},
};

static_assert(KELPIE_ARRAY_COUNT(verbs) <= 32, "every verb has its bit");

void kelpie__cli_check(const struct kelpie_cli *cli) {
    KELPIE_ASSERT(cli->output_count <= sizeof(cli->output));
    KELPIE_ASSERT(cli->output_error >= 0);
    KELPIE_ASSERT(cli->state_directory == NULL || cli->state_directory == cli->state_path);
    if (cli->loop != NULL) { /* it waits for the library */
        KELPIE_ASSERT(cli->kelpie != NULL);
    } else {
        KELPIE_ASSERT(cli->signals == KELPIE_OS_NO_HANDLE);
    }
}

const struct kelpie_cli_verb *kelpie__cli_verb_at(size_t index) {
    return index < KELPIE_ARRAY_COUNT(verbs) ? &verbs[index] : NULL;
}

const struct kelpie_cli_verb *kelpie__cli_find_verb(const char *name) {
    for (size_t i = 0; i < KELPIE_ARRAY_COUNT(verbs); i += 1) {
        if (kelpie__text_equal(verbs[i].name, name)) {
            KELPIE_ASSERT(verbs[i].words_min <= verbs[i].words_max);
            return &verbs[i];
        }
    }
    return NULL;
}

/* ---- the library ----------------------------------------------------------------------------- */

static void on_log(void *context, enum kelpie_log_level level, const char *message) {
    struct kelpie_cli *cli = context;
    KELPIE_ASSERT(message != NULL);
    if (level == KELPIE_LOG_WARNING) {
        kelpie__cli_note(cli, "%s", message);
    }
}

bool kelpie__cli_open(struct kelpie_cli *cli) {
    struct kelpie_error error = {0};
    kelpie__cli_check(cli);
    if (cli->kelpie != NULL) {
        return true;
    }
    const struct kelpie_open_options options = {
        .struct_size = sizeof(options),
        .state_directory = cli->state_directory,
        .log_callback = on_log,
        .log_context = cli,
    };
    if (kelpie_open(&options, &cli->kelpie, &error) < 0) {
        kelpie__ignore(kelpie__cli_fail_error(cli, &error)); /* every failure to open is one code */
        return false;
    }
    KELPIE_ASSERT(cli->kelpie != NULL);
    return true;
}

struct kelpie_vm *kelpie__cli_open_vm(struct kelpie_cli *cli, const char *name) {
    struct kelpie_error error = {0};
    struct kelpie_vm *vm = NULL;
    KELPIE_ASSERT(name != NULL);
    if (!kelpie__cli_open(cli)) {
        return NULL;
    }
    if (kelpie_vm_open(cli->kelpie, name, &vm, &error) < 0) {
        kelpie__ignore(
            kelpie__cli_fail_error(cli, &error)); /* never one of a command's own codes */
        return NULL;
    }
    KELPIE_ASSERT(vm != NULL);
    return vm;
}

int kelpie__cli_each_vm(struct kelpie_cli *cli,
                        int (*call)(struct kelpie_vm *vm, struct kelpie_error *error)) {
    int code = KELPIE_CLI_OK;
    KELPIE_ASSERT(cli->word_count >= 1);
    KELPIE_ASSERT(cli->words[cli->word_count] == NULL);
    for (uint32_t i = 0; i < cli->word_count; i += 1) {
        struct kelpie_error error = {0};
        struct kelpie_vm *vm = kelpie__cli_open_vm(cli, cli->words[i]);
        if (vm == NULL) {
            code = KELPIE_CLI_FAILED;
            continue;
        }
        if (call(vm, &error) < 0) {
            code = kelpie__cli_fail_error(cli, &error);
        } else {
            kelpie__cli_print(cli, "%s\n", cli->words[i]);
        }
        kelpie_vm_close(vm);
    }
    return code;
}

int kelpie__cli_inspect_each(struct kelpie_cli *cli, uint32_t first,
                             int (*inspect)(struct kelpie_cli *cli, const char *name,
                                            bool is_first)) {
    int code = KELPIE_CLI_OK;
    bool is_first = true;
    KELPIE_ASSERT(cli->words[cli->word_count] == NULL);
    KELPIE_ASSERT(cli->word_count > first);
    if (cli->options.is_json) {
        kelpie__cli_array_begin(cli);
    }
    for (uint32_t i = first; i < cli->word_count; i += 1) {
        int one = inspect(cli, cli->words[i], is_first);
        code = one != KELPIE_CLI_OK ? one : code;
        is_first = is_first && one != KELPIE_CLI_OK;
    }
    if (cli->options.is_json) {
        kelpie__cli_array_end(cli);
    }
    return code;
}

/* ---- what stands before the verb ------------------------------------------------------------- */

static bool set_state_directory(struct kelpie_cli *cli, const char *path) {
    KELPIE_ASSERT(cli->kelpie == NULL);
    if (path == NULL || path[0] == '\0') {
        kelpie__ignore(kelpie__cli_fail(cli, "--state-dir needs a directory"));
        return false;
    }
    bool is_simulated = strncmp(path, KELPIE_OS_SIM_PREFIX, strlen(KELPIE_OS_SIM_PREFIX)) == 0;
    bool fits = is_simulated
                    ? kelpie__text_copy(cli->state_path, sizeof(cli->state_path), path)
                    : kelpie__cli_absolute(cli, path, cli->state_path, sizeof(cli->state_path));
    if (!fits) {
        kelpie__ignore(kelpie__cli_fail(cli, "--state-dir: longer than %u bytes: \"%.40s...\"",
                                        KELPIE_PATH_BYTES_MAX, path));
        return false;
    }
    cli->state_directory = cli->state_path;
    return true;
}

/* Gives the index of the verb; argc: there is none; -1: it was reported. */
static int read_globals(struct kelpie_cli *cli, int argc, char **argv) {
    static const char assignment[] = "--state-dir=";
    int at = 1;
    KELPIE_ASSERT(cli->verb == NULL);
    for (; at < argc && argv[at][0] == '-'; at += 1) {
        const char *option = argv[at];
        bool has_value = kelpie__text_has_prefix(option, assignment);
        if (has_value || kelpie__text_equal(option, "--state-dir")) {
            at += has_value ? 0 : 1;
            const char *path = has_value ? option + sizeof(assignment) - 1 : argv[at];
            if (!set_state_directory(cli, path)) {
                return -1;
            }
        } else if (kelpie__text_equal(option, "--help") || kelpie__text_equal(option, "-h")) {
            cli->options.wants_help = true;
        } else if (kelpie__text_equal(option, "--version") || kelpie__text_equal(option, "-v")) {
            cli->verb = kelpie__cli_find_verb("version");
        } else {
            kelpie__ignore(kelpie__cli_fail(cli, "unknown option \"%s\"; see kelpie help", option));
            return -1;
        }
    }
    KELPIE_ASSERT(at >= 1 && at <= argc);
    return at;
}

static bool check_words(struct kelpie_cli *cli) {
    const struct kelpie_cli_verb *verb = cli->verb;
    KELPIE_ASSERT(cli->words != NULL);
    if (cli->word_count < verb->words_min) {
        kelpie__ignore(kelpie__cli_fail(cli, "too little was given; usage: kelpie %s %s",
                                        verb->name, verb->usage));
        return false;
    }
    if (cli->word_count > verb->words_max) {
        kelpie__ignore(kelpie__cli_fail(cli, "\"%s\" is too much; usage: kelpie %s %s",
                                        cli->words[verb->words_max], verb->name, verb->usage));
        return false;
    }
    return true;
}

static int run_verb(struct kelpie_cli *cli, int argc, char **argv) {
    KELPIE_ASSERT(cli->verb != NULL);
    KELPIE_ASSERT(argc >= 0);
    if (!kelpie__cli_parse(cli, argc, argv)) {
        return KELPIE_CLI_FAILED;
    }
    if (cli->options.wants_help) {
        kelpie__cli_print_help(cli, cli->verb);
        return KELPIE_CLI_OK;
    }
    return check_words(cli) ? cli->verb->run(cli) : KELPIE_CLI_FAILED;
}

static int fail_verb(struct kelpie_cli *cli, const char *name) {
    struct kelpie_cli_suggestion suggestion;
    KELPIE_ASSERT(cli->verb == NULL);
    kelpie__cli_suggest_begin(&suggestion, name, strlen(name));
    for (size_t i = 0; i < KELPIE_ARRAY_COUNT(verbs); i += 1) {
        kelpie__cli_suggest_offer(&suggestion, verbs[i].name);
    }
    if (suggestion.nearest != NULL) {
        return kelpie__cli_fail(cli, "there is no verb \"%s\"; did you mean \"%s\"?", name,
                                suggestion.nearest);
    }
    return kelpie__cli_fail(cli, "there is no verb \"%s\"; see kelpie help", name);
}

static int choose(struct kelpie_cli *cli, int argc, char **argv) {
    KELPIE_ASSERT(argc > 0);
    int at = read_globals(cli, argc, argv);
    if (at < 0) {
        return KELPIE_CLI_FAILED;
    }
    if (cli->options.wants_help) {
        cli->options.wants_help = false;
        kelpie__cli_print_help(cli, NULL);
        return KELPIE_CLI_OK;
    }
    if (cli->verb != NULL) {
        return run_verb(cli, argc - at, argv + at);
    }
    if (at == argc) {
        kelpie__cli_print_help(cli, NULL);
        return KELPIE_CLI_FAILED;
    }
    cli->verb = kelpie__cli_find_verb(argv[at]);
    if (cli->verb == NULL) {
        return fail_verb(cli, argv[at]);
    }
    return run_verb(cli, argc - at - 1, argv + at + 1);
}

int kelpie_cli_main(struct kelpie_os *os, int argc, char **argv) {
    struct kelpie_cli *cli = kelpie__alloc(os, sizeof(*cli));
    KELPIE_ASSERT(argc >= 0);
    if (cli == NULL) {
        return KELPIE_CLI_FAILED;
    }
    cli->os = os;
    cli->signals = KELPIE_OS_NO_HANDLE;
    int code = argc == 0 ? KELPIE_CLI_FAILED : choose(cli, argc, argv);
    code = kelpie__cli_finish_output(cli, code);
    KELPIE_ASSERT(cli->output_count == 0);
    kelpie__cli_check(cli);
    kelpie__cli_loop_close(cli);
    kelpie_close(cli->kelpie);
    kelpie__cli_options_deinit(cli);
    kelpie__free(os, cli, sizeof(*cli));
    KELPIE_ASSERT(code >= 0 && code <= 255);
    return code;
}
