/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Options of all verbs, as one table. Long ones with a value in the same word or the next; short
 * ones may stand together
 * ("-it", "-t5s"). `--` ends them; so does the first word where a command follows.
 */
#include <string.h>

#include "cli/cli.h"
#include "core/limits.h"
#include "core/text.h"
#include "os/os_call.h"

enum option_kind {
    OPTION_FLAG,
    OPTION_TEXT,
    OPTION_NUMBER,
    OPTION_SIZE_MIB,
    OPTION_DURATION,
    OPTION_ENVIRONMENT,
    OPTION_SHARE,
};

struct option {
    const char *name;
    char letter; /* 0: none */
    enum option_kind kind;
    unsigned verbs;
    size_t place; /* in struct kelpie_cli_options */
    const char *value;
    const char *help;
};

#define PLACE(member) offsetof(struct kelpie_cli_options, member)
#define MAKES_VM (KELPIE_CLI_CREATE | KELPIE_CLI_RUN)
#define CONFIGURES (MAKES_VM | KELPIE_CLI_POOL)
#define RUNS_COMMAND (KELPIE_CLI_RUN | KELPIE_CLI_EXEC)

static const struct option table[] = {
    {"accel", 0, OPTION_TEXT, CONFIGURES, PLACE(accelerator), "HOW",
     "auto, kvm or tcg (auto: KVM where it works)"},
    {"all", 'a', OPTION_FLAG, KELPIE_CLI_PRUNE, PLACE(shows_all), NULL,
     "every template that no VM uses"},
    {"all", 'a', OPTION_FLAG, KELPIE_CLI_PS, PLACE(shows_all), NULL, "also VMs that do not run"},
    {"backend", 0, OPTION_TEXT, CONFIGURES, PLACE(backend), "NAME",
     "auto, qemu or krun (auto: QEMU where it is installed)"},
    {"boot-timeout", 0, OPTION_DURATION, CONFIGURES, PLACE(boot_timeout_ms), "TIME",
     "how long a boot may take (30s)"},
    {"channel", 0, OPTION_TEXT, MAKES_VM, PLACE(channel), "NAME",
     "serial or vsock (QEMU's; vsock: no snapshots)"},
    {"concurrency", 0, OPTION_NUMBER, KELPIE_CLI_POOL, PLACE(concurrency), "N",
     "create: how many are made at once, 1 to 16 (1)"},
    {"cpus", 0, OPTION_NUMBER, CONFIGURES, PLACE(cpus), "N", "virtual CPUs, 1 to 32 (2)"},
    {"detach", 'd', OPTION_FLAG, RUNS_COMMAND, PLACE(is_detached), NULL,
     "leave it running; print the VM's name (run) or the command's id (exec)"},
    {"disk-size", 0, OPTION_SIZE_MIB, CONFIGURES, PLACE(disk_size_mib), "SIZE",
     "writable layer on disk, for example 2g (none: in memory)"},
    {"dry-run", 0, OPTION_FLAG, KELPIE_CLI_PRUNE, PLACE(is_trial), NULL,
     "remove no template, only say what would go"},
    {"env", 'e', OPTION_ENVIRONMENT, CONFIGURES | RUNS_COMMAND, 0, "NAME=VALUE",
     "environment; NAME alone takes this environment's value"},
    {"events", 0, OPTION_FLAG, KELPIE_CLI_LOGS, PLACE(shows_events), NULL,
     "the event log instead of the console"},
    {"force", 'f', OPTION_FLAG, KELPIE_CLI_RM, PLACE(is_forced), NULL, "kill it first if it runs"},
    {"from", 0, OPTION_TEXT, CONFIGURES, PLACE(snapshot), "SNAPSHOT",
     "make it from a snapshot instead of booting it"},
    {"interactive", 'i', OPTION_FLAG, RUNS_COMMAND | KELPIE_CLI_ATTACH, PLACE(is_interactive), NULL,
     "pass standard input on"},
    {"json", 0, OPTION_FLAG,
     KELPIE_CLI_PS | KELPIE_CLI_INSPECT | KELPIE_CLI_DOCTOR | KELPIE_CLI_VERSION | KELPIE_CLI_RUN |
         KELPIE_CLI_SNAPSHOT | KELPIE_CLI_POOL | KELPIE_CLI_PRUNE | KELPIE_CLI_BOOT_CHART,
     PLACE(is_json), NULL, "JSON"},
    {"kernel", 0, OPTION_TEXT, CONFIGURES, PLACE(kernel), "FILE", "a bzImage or vmlinux"},
    {"label", 0, OPTION_TEXT, KELPIE_CLI_SNAPSHOT, PLACE(label), "TEXT",
     "create: a note for people, at most 255 bytes"},
    {"lease", 0, OPTION_DURATION, KELPIE_CLI_RUN | KELPIE_CLI_POOL, PLACE(lease_ms), "TIME",
     "from a pool: the VM ends after this time unless it is renewed (none)"},
    {"memory", 0, OPTION_SIZE_MIB, CONFIGURES, PLACE(memory_mib), "SIZE",
     "MiB, or with a unit: 1g; 128 to 16,384 MiB (512)"},
    {"name", 0, OPTION_TEXT, MAKES_VM, PLACE(name), "NAME", "the VM's name (drawn)"},
    {"no-template", 0, OPTION_FLAG, CONFIGURES, PLACE(avoids_template), NULL,
     "boot it, even where a template of such a boot is there"},
    {"name", 0, OPTION_TEXT, KELPIE_CLI_SNAPSHOT, PLACE(name), "NAME",
     "import: another name than the one that it had"},
    {"older-than", 0, OPTION_DURATION, KELPIE_CLI_PRUNE, PLACE(age_ms), "TIME",
     "templates that were not used for so long (30d)"},
    {"overcommit", 0, OPTION_FLAG, CONFIGURES, PLACE(allows_overcommit), NULL,
     "start with more memory than the host has available"},
    {"pool", 0, OPTION_TEXT, KELPIE_CLI_RUN, PLACE(pool), "NAME",
     "take a VM that waits in this pool instead of booting one"},
    {"read-only", 0, OPTION_FLAG, CONFIGURES, PLACE(is_read_only), NULL,
     "no writable layer over the root file system"},
    {"root", 0, OPTION_TEXT, CONFIGURES, PLACE(root), "PATH",
     "root file system: a directory or a disk image (built-in busybox)"},
    {"share", 0, OPTION_SHARE, MAKES_VM, 0, "HOST:GUEST[:ro]",
     "show a directory of the host to the guest (libkrun's)"},
    {"size", 0, OPTION_NUMBER, KELPIE_CLI_POOL, PLACE(size), "N",
     "create: how many VMs are to wait, 1 to 256"},
    {"stop", 0, OPTION_FLAG, KELPIE_CLI_SNAPSHOT, PLACE(stops_vm), NULL,
     "create: end the VM once it is saved"},
    {"svg", 0, OPTION_TEXT, KELPIE_CLI_SNAPSHOT, PLACE(svg), "FILE",
     "tree: a picture instead of text; -: on standard output"},
    {"svg", 0, OPTION_TEXT, KELPIE_CLI_BOOT_CHART, PLACE(svg), "FILE",
     "a picture instead of text; -: on standard output"},
    {"timeout", 0, OPTION_DURATION, RUNS_COMMAND, PLACE(timeout_ms), "TIME",
     "kill the command and all it started after this time (none)"},
    {"timeout", 't', OPTION_DURATION, KELPIE_CLI_STOP, PLACE(timeout_ms), "TIME",
     "then kill the VM (10s); 0: at once"},
    {"timings", 0, OPTION_FLAG, KELPIE_CLI_RUN, PLACE(shows_timings), NULL,
     "say on standard error what boot and command took (--json: as JSON)"},
    {"trust", 0, OPTION_FLAG, KELPIE_CLI_SNAPSHOT, PLACE(is_trusted), NULL,
     "import: take a snapshot that others made, with what runs in it"},
    {"tty", 't', OPTION_FLAG, RUNS_COMMAND | KELPIE_CLI_ATTACH, PLACE(has_terminal), NULL,
     "with a terminal"},
    {"user", 'u', OPTION_TEXT, RUNS_COMMAND, PLACE(user), "USER[:GROUP]",
     "names or numbers (root)"},
    {"wait", 0, OPTION_DURATION, KELPIE_CLI_RUN | KELPIE_CLI_POOL, PLACE(wait_ms), "TIME",
     "from a pool: wait so long for a member when none does (0: make a VM now)"},
    {"workdir", 'w', OPTION_TEXT, CONFIGURES | RUNS_COMMAND, PLACE(working_directory), "DIR",
     "directory in the guest"},
    {"help", 'h', OPTION_FLAG, ~0u, PLACE(wants_help), NULL, "this help"},
};

/* A bit of `given` each. */
static_assert(KELPIE_ARRAY_COUNT(table) <= 64, "every option has its bit");

static const struct option *find_name(const struct kelpie_cli_verb *verb, const char *name,
                                      size_t length) {
    KELPIE_ASSERT(verb->bit != 0);
    for (size_t i = 0; i < KELPIE_ARRAY_COUNT(table); i += 1) {
        if ((table[i].verbs & verb->bit) != 0 && strlen(table[i].name) == length &&
            memcmp(table[i].name, name, length) == 0) {
            return &table[i];
        }
    }
    return NULL;
}

static const struct option *find_letter(const struct kelpie_cli_verb *verb, char letter) {
    KELPIE_ASSERT(verb->bit != 0);
    for (size_t i = 0; i < KELPIE_ARRAY_COUNT(table); i += 1) {
        if ((table[i].verbs & verb->bit) != 0 && table[i].letter == letter && letter != '\0') {
            return &table[i];
        }
    }
    return NULL;
}

static bool add_inherited(struct kelpie_cli *cli, const char *name, const char *value) {
    struct kelpie_cli_options *options = &cli->options;
    KELPIE_ASSERT(strchr(name, '=') == NULL);
    size_t bytes = strlen(name) + strlen(value) + 2;
    struct kelpie_cli_text *text = kelpie__alloc(cli->os, sizeof(*text) + bytes);
    if (text == NULL) {
        kelpie__ignore(kelpie__cli_fail(cli, "no memory"));
        return false;
    }
    text->next = cli->texts;
    KELPIE_ASSERT(bytes >= 2);
    text->bytes = bytes;
    cli->texts = text;
    bool is_whole = kelpie__text_format(text->text, bytes, "%s=%s", name, value);
    KELPIE_ASSERT(is_whole);
    options->environment[options->environment_count] = text->text;
    options->environment_count += 1;
    return true;
}

/* NAME alone takes the value of this process's environment, and is left out when there is none. */
static bool add_environment(struct kelpie_cli *cli, const char *value) {
    struct kelpie_cli_options *options = &cli->options;
    KELPIE_ASSERT((options->environment_count + 2) * sizeof(*options->environment) <=
                  cli->list_bytes);
    if (value[0] == '\0' || value[0] == '=') {
        kelpie__ignore(kelpie__cli_fail(cli, "--env: \"%s\" has no name; write NAME=VALUE", value));
        return false;
    }
    if (strchr(value, '=') != NULL) {
        options->environment[options->environment_count] = value;
        options->environment_count += 1;
        return true;
    }
    const char *found = kelpie__os_environment(cli->os, value);
    return found == NULL || add_inherited(cli, value, found);
}

static bool add_share(struct kelpie_cli *cli, const char *value) {
    struct kelpie_cli_options *options = &cli->options;
    KELPIE_ASSERT(options->share_count <= KELPIE_SHARE_COUNT_MAX);
    if (options->share_count == KELPIE_SHARE_COUNT_MAX) {
        kelpie__ignore(kelpie__cli_fail(cli, "--share: \"%s\" is one more than the maximum of %u",
                                        value, KELPIE_SHARE_COUNT_MAX));
        return false;
    }
    options->shares[options->share_count] = value;
    options->share_count += 1;
    return true;
}

/* An empty value is most often a script's variable that was not set. Passed over in silence it
 * would run a command as root (--user), or boot a VM where a snapshot was meant (--from). */
static bool set_text(struct kelpie_cli *cli, const struct option *option, const char *value,
                     const char **out) {
    KELPIE_ASSERT(option->kind == OPTION_TEXT);
    KELPIE_ASSERT(option->value != NULL);
    if (value[0] == '\0' && !kelpie__text_equal(option->name, "label")) {
        kelpie__ignore(kelpie__cli_fail(cli, "--%s: it is empty; give %s, or leave it out",
                                        option->name, option->value));
        return false;
    }
    *out = value;
    return true;
}

/* What a time may be, here: before anything is started that it would be refused for. */
static bool check_duration(struct kelpie_cli *cli, const struct option *option, const char *value,
                           uint64_t duration_ms) {
    bool may_be_zero = cli->verb->bit == KELPIE_CLI_STOP; /* at once */
    KELPIE_ASSERT(option->kind == OPTION_DURATION);
    KELPIE_ASSERT(value[0] != '\0');
    if (duration_ms == 0 && !may_be_zero) {
        kelpie__ignore(kelpie__cli_fail(cli, "--%s: \"%s\": at least 1ms", option->name, value));
        return false;
    }
    if (option->verbs == RUNS_COMMAND && duration_ms != KELPIE_CLI_UNSET &&
        duration_ms > KELPIE_EXEC_TIMEOUT_MS_MAX) {
        kelpie__ignore(kelpie__cli_fail(cli, "--%s: \"%s\" is too large; at most 365d, or none",
                                        option->name, value));
        return false;
    }
    return true;
}

static bool set_number(struct kelpie_cli *cli, const struct option *option, const char *value,
                       uint64_t *out) {
    enum kelpie_cli_value found = KELPIE_CLI_VALUE_NONE;
    const char *form = "a whole number";
    KELPIE_ASSERT(option->kind != OPTION_FLAG && option->kind != OPTION_TEXT);
    KELPIE_ASSERT(option->kind != OPTION_ENVIRONMENT && option->kind != OPTION_SHARE);
    if (option->kind == OPTION_NUMBER) {
        found = kelpie__cli_number(value, out);
    } else if (option->kind == OPTION_SIZE_MIB) {
        found = kelpie__cli_size_mib(value, out);
        form = "a size in MiB such as 512, 512m or 2g";
    } else {
        found = kelpie__cli_duration(value, out);
        form = "a time such as 5s, 1500ms or 2m";
    }
    if (found == KELPIE_CLI_VALUE_TOO_LARGE) {
        kelpie__ignore(kelpie__cli_fail(cli, "--%s: \"%s\" is too large", option->name, value));
    } else if (found == KELPIE_CLI_VALUE_NONE) {
        kelpie__ignore(kelpie__cli_fail(cli, "--%s: \"%s\" is not %s", option->name, value, form));
    }
    return found == KELPIE_CLI_VALUE_GOOD &&
           (option->kind != OPTION_DURATION || check_duration(cli, option, value, *out));
}

static bool apply(struct kelpie_cli *cli, const struct option *option, const char *value) {
    char *place = (char *)&cli->options + option->place;
    KELPIE_ASSERT((option->kind == OPTION_FLAG) == (value == NULL));
    KELPIE_ASSERT(option->place < sizeof(cli->options));
    KELPIE_ASSERT(option >= table && option < table + KELPIE_ARRAY_COUNT(table));
    cli->options.given |= UINT64_C(1) << (option - table);
    switch (option->kind) {
    case OPTION_FLAG:
        *(bool *)(void *)place = true;
        return true;
    case OPTION_TEXT:
        return set_text(cli, option, value, (const char **)(void *)place);
    case OPTION_ENVIRONMENT:
        return add_environment(cli, value);
    case OPTION_SHARE:
        return add_share(cli, value);
    case OPTION_NUMBER:
    case OPTION_SIZE_MIB:
    case OPTION_DURATION:
        return set_number(cli, option, value, (uint64_t *)(void *)place);
    }
    return false;
}

static bool fail_unknown(struct kelpie_cli *cli, const char *word) {
    struct kelpie_cli_suggestion suggestion;
    KELPIE_ASSERT(word[0] == '-');
    bool is_long = kelpie__text_has_prefix(word, "--");
    kelpie__cli_suggest_begin(&suggestion, is_long ? word + 2 : "",
                              is_long ? strcspn(word + 2, "=") : 0);
    for (size_t i = 0; i < KELPIE_ARRAY_COUNT(table); i += 1) {
        if ((table[i].verbs & cli->verb->bit) != 0) {
            kelpie__cli_suggest_offer(&suggestion, table[i].name);
        }
    }
    if (suggestion.nearest != NULL) {
        kelpie__ignore(kelpie__cli_fail(cli, "unknown option \"%s\"; did you mean --%s?", word,
                                        suggestion.nearest));
    } else {
        kelpie__ignore(kelpie__cli_fail(cli, "unknown option \"%s\"; see kelpie %s --help", word,
                                        cli->verb->name));
    }
    return false;
}

static bool fail_value(struct kelpie_cli *cli, const struct option *option) {
    KELPIE_ASSERT(option->value != NULL);
    kelpie__ignore(kelpie__cli_fail(cli, "--%s needs a value: %s", option->name, option->value));
    return false;
}

/* Takes one long option and its value from argv. */
static bool parse_long(struct kelpie_cli *cli, int argc, char **argv, int *inout_at) {
    const char *name = argv[*inout_at] + 2;
    KELPIE_ASSERT(*inout_at < argc);
    const char *equals = strchr(name, '=');
    size_t length = equals == NULL ? strlen(name) : (size_t)(equals - name);
    const struct option *option = find_name(cli->verb, name, length);
    KELPIE_ASSERT(length <= strlen(name));
    if (option == NULL) {
        return fail_unknown(cli, argv[*inout_at]);
    }
    if (option->kind == OPTION_FLAG) {
        if (equals != NULL) {
            kelpie__ignore(kelpie__cli_fail(cli, "--%s takes no value", option->name));
            return false;
        }
        return apply(cli, option, NULL);
    }
    if (equals == NULL) {
        *inout_at += 1;
    }
    const char *value = equals != NULL ? equals + 1 : *inout_at < argc ? argv[*inout_at] : NULL;
    return value == NULL ? fail_value(cli, option) : apply(cli, option, value);
}

/* Takes one word of short options, the last of which may have a value. */
static bool parse_short(struct kelpie_cli *cli, int argc, char **argv, int *inout_at) {
    const char *word = argv[*inout_at];
    KELPIE_ASSERT(*inout_at < argc);
    KELPIE_ASSERT(word[0] == '-');
    KELPIE_ASSERT(word[1] != '\0');
    for (const char *next = word + 1; *next != '\0'; next += 1) {
        const struct option *option = find_letter(cli->verb, *next);
        if (option == NULL) {
            return fail_unknown(cli, word);
        }
        if (option->kind == OPTION_FLAG) {
            if (!apply(cli, option, NULL)) {
                return false;
            }
            continue;
        }
        if (next[1] != '\0') {
            return apply(cli, option, next + 1);
        }
        *inout_at += 1;
        return *inout_at < argc ? apply(cli, option, argv[*inout_at]) : fail_value(cli, option);
    }
    return true;
}

static bool parse_words(struct kelpie_cli *cli, int argc, char **argv) {
    int word_count = 0;
    bool is_over = false;
    for (int at = 0; at < argc; at += 1) {
        const char *word = argv[at];
        bool is_option = !is_over && word[0] == '-' && word[1] != '\0';
        if (!is_option) {
            argv[word_count] = argv[at]; /* words move to the front, options are left behind */
            KELPIE_ASSERT(word_count <= at);
            word_count += 1;
            /* `exec NAME -- COMMAND`: the dashes after the name are the parser's, later ones are
             * the command's. */
            if (cli->verb->takes_command && !is_over) {
                is_over = true;
                bool is_name = cli->verb->bit == KELPIE_CLI_EXEC;
                at += is_name && at + 1 < argc && kelpie__text_equal(argv[at + 1], "--") ? 1 : 0;
            }
            continue;
        }
        if (kelpie__text_equal(word, "--")) {
            is_over = true;
            continue;
        }
        bool is_long = word[1] == '-';
        if (!(is_long ? parse_long : parse_short)(cli, argc, argv, &at)) {
            return false;
        }
    }
    KELPIE_ASSERT(word_count <= argc);
    cli->words = argv;
    cli->word_count = (uint32_t)word_count;
    argv[word_count] = NULL; /* argv itself ends with one, so that there is room */
    return true;
}

bool kelpie__cli_parse(struct kelpie_cli *cli, int argc, char **argv) {
    struct kelpie_cli_options *options = &cli->options;
    KELPIE_ASSERT(options->environment_count == 0);
    KELPIE_ASSERT(options->given == 0);
    KELPIE_ASSERT(argc >= 0);
    KELPIE_ASSERT(cli->verb != NULL);
    KELPIE_ASSERT(options->environment == NULL);
    options->cpus = KELPIE_CLI_UNSET;
    options->memory_mib = KELPIE_CLI_UNSET;
    options->disk_size_mib = KELPIE_CLI_UNSET;
    options->boot_timeout_ms = KELPIE_CLI_UNSET;
    options->timeout_ms = KELPIE_CLI_UNSET;
    options->size = KELPIE_CLI_UNSET;
    options->concurrency = KELPIE_CLI_UNSET;
    options->lease_ms = KELPIE_CLI_UNSET;
    options->wait_ms = KELPIE_CLI_UNSET;
    options->age_ms = KELPIE_CLI_UNSET;
    cli->list_bytes = ((size_t)argc + 1) * sizeof(*options->environment);
    options->environment = kelpie__alloc(cli->os, cli->list_bytes);
    if (options->environment == NULL) {
        kelpie__ignore(kelpie__cli_fail(cli, "no memory"));
        return false;
    }
    KELPIE_ASSERT(cli->list_bytes > 0);
    return parse_words(cli, argc, argv);
}

static bool is_listed(const char *list, const char *name) {
    KELPIE_ASSERT(list != NULL);
    size_t length = strlen(name);
    KELPIE_ASSERT(length > 0);
    for (const char *at = list; *at != '\0'; at += strcspn(at, " "), at += strspn(at, " ")) {
        if (strcspn(at, " ") == length && memcmp(at, name, length) == 0) {
            return true;
        }
    }
    return false;
}

const char *kelpie__cli_foreign_option(const struct kelpie_cli *cli, const char *allowed) {
    for (size_t i = 0; i < KELPIE_ARRAY_COUNT(table); i += 1) {
        if ((cli->options.given & (UINT64_C(1) << i)) != 0 && !is_listed(allowed, table[i].name)) {
            return table[i].name;
        }
    }
    return NULL;
}

void kelpie__cli_options_deinit(struct kelpie_cli *cli) {
    while (cli->texts != NULL) { /* bound: the words of argv */
        struct kelpie_cli_text *text = cli->texts;
        KELPIE_ASSERT(text->bytes > 0);
        cli->texts = text->next;
        kelpie__free(cli->os, text, sizeof(*text) + text->bytes);
    }
    if (cli->options.environment != NULL) {
        KELPIE_ASSERT(cli->list_bytes > 0);
        kelpie__free(cli->os, (void *)cli->options.environment, cli->list_bytes);
        cli->options.environment = NULL;
    }
}

void kelpie__cli_print_options(struct kelpie_cli *cli, const struct kelpie_cli_verb *verb) {
    KELPIE_ASSERT(verb != NULL);
    for (size_t i = 0; i < KELPIE_ARRAY_COUNT(table); i += 1) {
        const struct option *option = &table[i];
        char name[48];
        KELPIE_ASSERT((option->kind == OPTION_FLAG) == (option->value == NULL));
        if ((option->verbs & verb->bit) == 0) {
            continue;
        }
        kelpie__text_format(name, sizeof(name), "--%s%s%s", option->name,
                            option->value == NULL ? "" : " ",
                            option->value == NULL ? "" : option->value);
        kelpie__cli_print(cli, "  %s%c%s %-24s %s\n", option->letter == 0 ? " " : "-",
                          option->letter == 0 ? ' ' : option->letter,
                          option->letter == 0 ? " " : ",", name, option->help);
    }
}
