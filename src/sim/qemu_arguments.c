/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * QEMU's argv: see qemu.h. An option is known by its name, and its value is checked to the letter:
 * what this does not know the driver has never sent to a real QEMU. The words of refusals are
 * QEMU's, tried on 7.2.22.
 */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "core/text.h"
#include "sim/qemu.h"

#define ARGUMENTS_KEY_BYTES 64u
#define ARGUMENTS_ITEMS_MAX 16u

/* A value of QEMU's key=value syntax, as any option may have it. */
struct arguments_item {
    const char *first; /* the value without a key: "microvm", "socket", "tcg" */
    const char *id;
    const char *fd;
    const char *chardev;
    const char *name;
    const char *size;
    const char *path;
    const char *driver;
    const char *node;
    const char *file;
    const char *drive;
    const char *serial;
    const char *memory;
    bool is_read_only;
    bool is_share;
    bool has_acpi;
    bool has_suppress;
};

enum arguments_kind {
    ARGUMENTS_TEXT,   /* any; kept */
    ARGUMENTS_SWITCH, /* on or off; kept */
    ARGUMENTS_ONE_OF, /* one of the words; not kept */
    ARGUMENTS_NUMBER, /* digits; not kept */
};

struct arguments_key {
    const char *option;
    const char *key; /* "": the value without one */
    enum arguments_kind kind;
    size_t offset;
    const char *words; /* "|" around each */
};

#define ITEM(field) offsetof(struct arguments_item, field)

static const struct arguments_key arguments_keys[] = {
    {"-display", "", ARGUMENTS_ONE_OF, 0, "|none|"},
    {"-sandbox", "", ARGUMENTS_ONE_OF, 0, "|on|off|"},
    {"-sandbox", "obsolete", ARGUMENTS_ONE_OF, 0, "|allow|deny|"},
    {"-sandbox", "elevateprivileges", ARGUMENTS_ONE_OF, 0, "|allow|deny|children|"},
    {"-sandbox", "spawn", ARGUMENTS_ONE_OF, 0, "|allow|deny|"},
    {"-sandbox", "resourcecontrol", ARGUMENTS_ONE_OF, 0, "|allow|deny|"},
    {"-name", "guest", ARGUMENTS_TEXT, ITEM(name), NULL},
    {"-M", "", ARGUMENTS_ONE_OF, 0, "|microvm|"},
    {"-M", "acpi", ARGUMENTS_SWITCH, ITEM(has_acpi), NULL},
    {"-M", "rtc", ARGUMENTS_ONE_OF, 0, "|on|off|auto|"},
    {"-M", "pit", ARGUMENTS_ONE_OF, 0, "|on|off|auto|"},
    {"-M", "pic", ARGUMENTS_ONE_OF, 0, "|on|off|auto|"},
    {"-M", "memory-backend", ARGUMENTS_TEXT, ITEM(memory), NULL},
    {"-M", "suppress-vmdesc", ARGUMENTS_SWITCH, ITEM(has_suppress), NULL},
    {"-object", "", ARGUMENTS_TEXT, ITEM(first), NULL},
    {"-object", "id", ARGUMENTS_TEXT, ITEM(id), NULL},
    {"-object", "size", ARGUMENTS_TEXT, ITEM(size), NULL},
    {"-object", "mem-path", ARGUMENTS_TEXT, ITEM(path), NULL},
    {"-object", "share", ARGUMENTS_SWITCH, ITEM(is_share), NULL},
    {"-object", "readonly", ARGUMENTS_ONE_OF, 0, "|on|off|"},
    {"-object", "merge", ARGUMENTS_ONE_OF, 0, "|on|off|"},
    {"-object", "dump", ARGUMENTS_ONE_OF, 0, "|on|off|"},
    {"-object", "prealloc", ARGUMENTS_ONE_OF, 0, "|on|off|"},
    {"-object", "reserve", ARGUMENTS_ONE_OF, 0, "|on|off|"},
    {"-object", "discard-data", ARGUMENTS_ONE_OF, 0, "|on|off|"},
    {"-accel", "", ARGUMENTS_TEXT, ITEM(first), NULL},
    {"-accel", "thread", ARGUMENTS_ONE_OF, 0, "|multi|single|"},
    {"-accel", "tb-size", ARGUMENTS_NUMBER, 0, NULL},
    {"-chardev", "", ARGUMENTS_ONE_OF, 0, "|socket|"},
    {"-chardev", "id", ARGUMENTS_TEXT, ITEM(id), NULL},
    {"-chardev", "fd", ARGUMENTS_TEXT, ITEM(fd), NULL},
    {"-mon", "chardev", ARGUMENTS_TEXT, ITEM(chardev), NULL},
    {"-mon", "mode", ARGUMENTS_ONE_OF, 0, "|control|"},
    {"-device", "", ARGUMENTS_TEXT, ITEM(first), NULL},
    {"-device", "max_ports", ARGUMENTS_NUMBER, 0, NULL},
    {"-device", "chardev", ARGUMENTS_TEXT, ITEM(chardev), NULL},
    {"-device", "name", ARGUMENTS_TEXT, ITEM(name), NULL},
    {"-device", "drive", ARGUMENTS_TEXT, ITEM(drive), NULL},
    {"-device", "serial", ARGUMENTS_TEXT, ITEM(serial), NULL},
    {"-device", "werror", ARGUMENTS_ONE_OF, 0, "|report|ignore|stop|enospc|auto|"},
    {"-device", "rerror", ARGUMENTS_ONE_OF, 0, "|report|ignore|stop|auto|"},
    {"-blockdev", "driver", ARGUMENTS_TEXT, ITEM(driver), NULL},
    {"-blockdev", "node-name", ARGUMENTS_TEXT, ITEM(node), NULL},
    {"-blockdev", "filename", ARGUMENTS_TEXT, ITEM(path), NULL},
    {"-blockdev", "file", ARGUMENTS_TEXT, ITEM(file), NULL},
    {"-blockdev", "read-only", ARGUMENTS_SWITCH, ITEM(is_read_only), NULL},
    {"-blockdev", "auto-read-only", ARGUMENTS_ONE_OF, 0, "|on|off|"},
    {"-blockdev", "discard", ARGUMENTS_ONE_OF, 0, "|unmap|ignore|"},
    {"-blockdev", "locking", ARGUMENTS_ONE_OF, 0, "|on|off|auto|"},
};

struct arguments {
    struct sim_qemu_options *options;
    const char *option;
    const char *value;
    char *problem; /* SIM_QEMU_PROBLEM_BYTES */
};

/* "qemu-system-x86_64: -object memory-backend-ram,zork=1: Invalid parameter 'zork'" */
KELPIE_PRINTF(2, 3)
static bool arguments_refuse(const struct arguments *arguments, const char *format, ...) {
    char what[SIM_QEMU_PROBLEM_BYTES / 2];
    va_list list;
    KELPIE_ASSERT(arguments->option[0] != '\0');
    va_start(list, format);
    kelpie__ignore(vsnprintf(what, sizeof(what), format, list)); /* a cut text will do */
    va_end(list);
    kelpie__text_format(arguments->problem, SIM_QEMU_PROBLEM_BYTES, "%s: %s %s: %s\n",
                        SIM_QEMU_PROGRAM, arguments->option, arguments->value, what);
    return false;
}

/* The next item of a value, with its commas undoubled, in the options' text. NULL: it is too long.
 */
static char *arguments_take(struct sim_qemu_options *options, const char **inout_at) {
    const char *at = *inout_at;
    char *place = options->text + options->text_bytes;
    size_t room = sizeof(options->text) - options->text_bytes;
    size_t count = 0;
    while (*at != '\0' && (at[0] != ',' || at[1] == ',') && count + 1 < room) {
        place[count] = *at;
        count += 1;
        at += at[0] == ',' ? 2 : 1;
    }
    if (count + 1 >= room) {
        return NULL;
    }
    place[count] = '\0';
    options->text_bytes += count + 1;
    *inout_at = *at == ',' ? at + 1 : at;
    KELPIE_ASSERT(options->text_bytes <= sizeof(options->text));
    return place;
}

/* The first key of an option, which the others follow; NULL: it has none. */
static const struct arguments_key *arguments_first(const char *option) {
    for (size_t i = 0; i < KELPIE_ARRAY_COUNT(arguments_keys); i += 1) {
        const struct arguments_key *known = &arguments_keys[i];
        if (known->option[1] == option[1] && strcmp(known->option, option) == 0) {
            return known;
        }
    }
    return NULL;
}

/* `first`: of the option. */
static const struct arguments_key *arguments_find(const struct arguments_key *first,
                                                  const char *key) {
    const struct arguments_key *end = arguments_keys + KELPIE_ARRAY_COUNT(arguments_keys);
    for (const struct arguments_key *known = first; known != NULL && known < end; known += 1) {
        bool may_be = known->key[0] == key[0] && strcmp(known->key, key) == 0;
        if (may_be && strcmp(known->option, first->option) == 0) {
            return known;
        }
    }
    return NULL;
}

static bool arguments_is_one_of(const char *words, const char *value) {
    size_t length = strlen(value);
    const char *found = length == 0 ? NULL : strstr(words, value);
    KELPIE_ASSERT(words[0] == '|');
    while (found != NULL && (found == words || found[-1] != '|' || found[length] != '|')) {
        found = strstr(found + 1, value); /* bound: the words */
    }
    return found != NULL;
}

static bool arguments_set(const struct arguments *arguments, const struct arguments_key *key,
                          const char *value, struct arguments_item *item) {
    char *place = (char *)item + key->offset;
    bool is_on = strcmp(value, "on") == 0;
    uint64_t number = 0;
    switch (key->kind) {
    case ARGUMENTS_TEXT:
        memcpy(place, &value, sizeof(value));
        return true;
    case ARGUMENTS_SWITCH:
        if (!is_on && strcmp(value, "off") != 0) {
            return arguments_refuse(arguments, "Parameter '%s' expects 'on' or 'off'", key->key);
        }
        memcpy(place, &is_on, sizeof(is_on));
        return true;
    case ARGUMENTS_ONE_OF:
        return arguments_is_one_of(key->words, value) ||
               arguments_refuse(arguments, "Invalid parameter '%s'", value);
    case ARGUMENTS_NUMBER:
        return kelpie__text_u64(value, &number) ||
               arguments_refuse(arguments, "Parameter '%s' expects a number", key->key);
    }
    KELPIE_ASSERT(false);
    return false;
}

static bool arguments_read_item(const struct arguments *arguments, struct arguments_item *item) {
    const char *at = arguments->value;
    const struct arguments_key *first = arguments_first(arguments->option);
    for (uint32_t i = 0; i < ARGUMENTS_ITEMS_MAX && *at != '\0'; i += 1) {
        char *text = arguments_take(arguments->options, &at);
        if (text == NULL) {
            return arguments_refuse(arguments, "too long");
        }
        char *equals = strchr(text, '=');
        const char *value = equals != NULL ? equals + 1 : text;
        if (equals != NULL) {
            *equals = '\0';
        }
        const struct arguments_key *key = arguments_find(first, equals != NULL ? text : "");
        if (key == NULL) {
            return arguments_refuse(arguments, "Invalid parameter '%s'", text);
        }
        if (!arguments_set(arguments, key, value, item)) {
            return false;
        }
    }
    return *at == '\0' || arguments_refuse(arguments, "too many parameters");
}

/* ---- options --------------------------------------------------------------------------------- */

static bool option_machine(const struct arguments *arguments, const struct arguments_item *item) {
    arguments->options->machine_memory = item->memory;
    arguments->options->has_acpi = item->has_acpi;
    arguments->options->has_description = !item->has_suppress;
    return true;
}

static bool option_name(const struct arguments *arguments, const struct arguments_item *item) {
    arguments->options->name = item->name;
    return true;
}

static bool option_object(const struct arguments *arguments, const struct arguments_item *item) {
    struct sim_qemu_options *options = arguments->options;
    char digits[24];
    uint64_t mib = 0;
    bool is_file = item->first != NULL && strcmp(item->first, "memory-backend-file") == 0;
    if (!is_file && (item->first == NULL || strcmp(item->first, "memory-backend-ram") != 0)) {
        return arguments_refuse(arguments, "Invalid parameter '%s'",
                                item->first == NULL ? "" : item->first);
    }
    if (item->id == NULL) {
        return arguments_refuse(arguments, "Parameter 'id' is missing");
    }
    if (is_file && item->path == NULL) {
        return arguments_refuse(arguments, "mem-path property not set");
    }
    size_t length = item->size == NULL ? 0 : strspn(item->size, "0123456789");
    if (length == 0 || length >= sizeof(digits) || strcmp(item->size + length, "M") != 0) {
        return arguments_refuse(arguments, "Parameter 'size' expects a size");
    }
    memcpy(digits, item->size, length);
    digits[length] = '\0';
    if (!kelpie__text_u64(digits, &mib) || mib > UINT64_MAX >> 20) {
        return arguments_refuse(arguments, "Parameter 'size' expects a size");
    }
    options->memory_id = item->id;
    options->memory_path = item->path;
    options->memory_object_bytes = mib << 20;
    options->is_share = item->is_share;
    return true;
}

static bool option_accel(const struct arguments *arguments, const struct arguments_item *item) {
    bool is_kvm = item->first != NULL && strcmp(item->first, "kvm") == 0;
    if (!is_kvm && (item->first == NULL || strcmp(item->first, "tcg") != 0)) {
        kelpie__text_format(arguments->problem, SIM_QEMU_PROBLEM_BYTES,
                            "%s: invalid accelerator %s\n", SIM_QEMU_PROGRAM,
                            item->first == NULL ? "" : item->first);
        return false;
    }
    arguments->options->is_kvm = is_kvm;
    return true;
}

static bool option_chardev(const struct arguments *arguments, const struct arguments_item *item) {
    struct sim_qemu_options *options = arguments->options;
    uint64_t number = 0;
    if (item->id == NULL || item->fd == NULL) {
        return arguments_refuse(arguments, "chardev: socket: no fd or id given");
    }
    if (!kelpie__text_u64(item->fd, &number) || number >= SIM_HANDLE_MAX) {
        return arguments_refuse(arguments, "File descriptor '%s' is not a socket", item->fd);
    }
    if (kelpie__sim_qemu_chardev(options, item->id) != NULL) {
        return arguments_refuse(arguments, "Duplicate ID '%s' for chardev", item->id);
    }
    if (options->chardev_count == SIM_QEMU_CHARDEVS_MAX) {
        return arguments_refuse(arguments, "too many character devices");
    }
    options->chardevs[options->chardev_count] =
        (struct sim_qemu_chardev){.id = item->id, .handle = (int)number};
    options->chardev_count += 1;
    return true;
}

static bool option_monitor(const struct arguments *arguments, const struct arguments_item *item) {
    if (item->chardev == NULL) {
        return arguments_refuse(arguments, "Parameter 'chardev' is missing");
    }
    arguments->options->monitor = item->chardev;
    return true;
}

static bool option_device(const struct arguments *arguments, const struct arguments_item *item) {
    struct sim_qemu_options *options = arguments->options;
    const char *model = item->first == NULL ? "" : item->first;
    if (strcmp(model, "virtio-serial-device") == 0) {
        options->has_serial_bus = true;
        return true;
    }
    if (strcmp(model, "virtserialport") == 0 && item->chardev != NULL && item->name != NULL) {
        options->port = item->chardev;
        options->port_name = item->name;
        options->port_argument = arguments->value;
        return true;
    }
    if (strcmp(model, "virtio-blk-device") == 0 && item->drive != NULL &&
        options->disk_count < SIM_QEMU_DISKS_MAX) {
        options->disks[options->disk_count] =
            (struct sim_qemu_disk){.argument = arguments->value,
                                   .drive = item->drive,
                                   .serial = item->serial == NULL ? "" : item->serial};
        options->disk_count += 1;
        return true;
    }
    return arguments_refuse(arguments, "'%s' is not a valid device model name", model);
}

static bool option_blockdev(const struct arguments *arguments, const struct arguments_item *item) {
    struct sim_qemu_options *options = arguments->options;
    bool is_file = item->driver != NULL && strcmp(item->driver, "file") == 0;
    bool is_format = item->driver != NULL &&
                     (strcmp(item->driver, "raw") == 0 || strcmp(item->driver, "qcow2") == 0);
    if (!is_file && !is_format) {
        return arguments_refuse(arguments, "Invalid parameter '%s'",
                                item->driver == NULL ? "driver" : item->driver);
    }
    if (item->node == NULL || (is_file ? item->path : item->file) == NULL) {
        return arguments_refuse(arguments, "Parameter '%s' is missing",
                                item->node == NULL ? "node-name"
                                : is_file          ? "filename"
                                                   : "file");
    }
    if (options->block_count == SIM_QEMU_BLOCKS_MAX) {
        return arguments_refuse(arguments, "too many block devices");
    }
    options->blocks[options->block_count] =
        (struct sim_qemu_block){.argument = arguments->value,
                                .driver = item->driver,
                                .node = item->node,
                                .path = is_file ? item->path : NULL,
                                .file = item->file,
                                .is_read_only = item->is_read_only};
    options->block_count += 1;
    return true;
}

static bool option_nothing(const struct arguments *arguments, const struct arguments_item *item) {
    KELPIE_ASSERT(item->first == NULL);
    KELPIE_ASSERT(arguments->option[0] == '-');
    return true;
}

struct arguments_structured {
    const char *option;
    bool (*take)(const struct arguments *arguments, const struct arguments_item *item);
};

static const struct arguments_structured arguments_structured[] = {
    {"-display", option_nothing},   {"-sandbox", option_nothing}, {"-name", option_name},
    {"-M", option_machine},         {"-object", option_object},   {"-accel", option_accel},
    {"-chardev", option_chardev},   {"-mon", option_monitor},     {"-device", option_device},
    {"-blockdev", option_blockdev},
};

/* ---- options whose value is one word --------------------------------------------------------- */

static bool plain_number(const struct arguments *arguments, const char *what, uint64_t *out) {
    if (!kelpie__text_u64(arguments->value, out)) {
        kelpie__text_format(arguments->problem, SIM_QEMU_PROBLEM_BYTES,
                            "%s: Parameter '%s' expects integer\n", SIM_QEMU_PROGRAM, what);
        return false;
    }
    return true;
}

static bool plain_serial(const struct arguments *arguments) {
    if (!kelpie__text_has_prefix(arguments->value, "chardev:")) {
        return arguments_refuse(arguments,
                                "could not connect serial device to character backend '%s'",
                                arguments->value);
    }
    arguments->options->serial = arguments->value + strlen("chardev:");
    return true;
}

static bool plain_global(const struct arguments *arguments) {
    if (strchr(arguments->value, '=') == NULL) {
        return arguments_refuse(arguments, "Invalid parameter '%s'", arguments->value);
    }
    if (strcmp(arguments->value, "migration.send-configuration=off") == 0) {
        arguments->options->has_configuration = false;
    }
    if (strcmp(arguments->value, "migration.x-events=on") == 0) {
        arguments->options->has_events = true;
    }
    return true; /* QEMU takes properties of drivers that it does not have */
}

static bool plain_incoming(const struct arguments *arguments) {
    if (strcmp(arguments->value, "defer") != 0) {
        return arguments_refuse(arguments, "unknown migration protocol: %s", arguments->value);
    }
    arguments->options->is_incoming = true;
    return true;
}

/* *out_is_known is false for an option that is none of these. */
static bool arguments_plain(const struct arguments *arguments, bool *out_is_known) {
    struct sim_qemu_options *options = arguments->options;
    const char *option = arguments->option;
    *out_is_known = true;
    if (strcmp(option, "-m") == 0) {
        return plain_number(arguments, "size", &options->memory_mib);
    }
    if (strcmp(option, "-smp") == 0) {
        return plain_number(arguments, "smp.cpus", &options->cpu_count);
    }
    if (strcmp(option, "-serial") == 0) {
        return plain_serial(arguments);
    }
    if (strcmp(option, "-global") == 0) {
        return plain_global(arguments);
    }
    if (strcmp(option, "-incoming") == 0) {
        return plain_incoming(arguments);
    }
    if (strcmp(option, "-cpu") == 0) {
        options->cpu = arguments->value;
    } else if (strcmp(option, "-kernel") == 0) {
        options->kernel = arguments->value;
    } else if (strcmp(option, "-initrd") == 0) {
        options->initrd = arguments->value;
    } else if (strcmp(option, "-append") == 0) {
        options->append = arguments->value;
    } else {
        *out_is_known = false;
    }
    return true;
}

/* Options without a value. */
static bool arguments_flag(struct sim_qemu_options *options, const char *option) {
    if (strcmp(option, "-no-reboot") == 0) {
        options->is_no_reboot = true;
    } else if (strcmp(option, "-S") == 0) {
        options->is_stopped = true;
    } else {
        return strcmp(option, "-nodefaults") == 0 || strcmp(option, "-no-user-config") == 0;
    }
    return true;
}

/* ---- the vector ------------------------------------------------------------------------------ */

const struct sim_qemu_chardev *kelpie__sim_qemu_chardev(const struct sim_qemu_options *options,
                                                        const char *id) {
    for (uint32_t i = 0; id != NULL && i < options->chardev_count; i += 1) {
        if (strcmp(options->chardevs[i].id, id) == 0) {
            return &options->chardevs[i];
        }
    }
    return NULL;
}

const struct sim_qemu_block *kelpie__sim_qemu_block(const struct sim_qemu_options *options,
                                                    const char *node) {
    for (uint32_t i = 0; node != NULL && i < options->block_count; i += 1) {
        if (strcmp(options->blocks[i].node, node) == 0) {
            return &options->blocks[i];
        }
    }
    return NULL;
}

/* Its place among those whose value has a structure; their count: it is none of them. */
static size_t arguments_structured_find(const char *option) {
    size_t i = 0;
    KELPIE_ASSERT(option[0] == '-');
    while (i < KELPIE_ARRAY_COUNT(arguments_structured) && /* mostly the first letter differs */
           (arguments_structured[i].option[1] != option[1] ||
            strcmp(arguments_structured[i].option, option) != 0)) {
        i += 1;
    }
    return i;
}

static bool arguments_take_value(const struct arguments *arguments) {
    size_t i = arguments_structured_find(arguments->option);
    if (i < KELPIE_ARRAY_COUNT(arguments_structured)) {
        struct arguments_item item = {0};
        return arguments_read_item(arguments, &item) &&
               arguments_structured[i].take(arguments, &item);
    }
    bool is_known = false;
    bool is_good = arguments_plain(arguments, &is_known);
    if (!is_known) {
        kelpie__text_format(arguments->problem, SIM_QEMU_PROBLEM_BYTES, "%s: %s: invalid option\n",
                            SIM_QEMU_PROGRAM, arguments->option);
        return false;
    }
    return is_good;
}

/* Whether an option takes a value, so that a missing one is told as QEMU does. */
static bool arguments_is_known(const char *option) {
    static const char plain[] = "|-m|-smp|-serial|-global|-incoming|-cpu|-kernel|-initrd|-append|";
    return arguments_structured_find(option) < KELPIE_ARRAY_COUNT(arguments_structured) ||
           arguments_is_one_of(plain, option);
}

bool kelpie__sim_qemu_arguments(struct sim_qemu_options *options, int argc, char **argv,
                                char out_problem[SIM_QEMU_PROBLEM_BYTES]) {
    KELPIE_ASSERT(options->text_bytes == 0);
    options->has_configuration = true;
    options->has_description = true;
    options->memory_mib = 128;
    options->cpu_count = 1;
    for (int i = 1; i < argc; i += 1) {
        struct arguments arguments = {
            .options = options, .option = argv[i], .value = "", .problem = out_problem};
        if (arguments_flag(options, argv[i])) {
            continue;
        }
        if (argv[i][0] != '-') {
            kelpie__text_format(out_problem, SIM_QEMU_PROBLEM_BYTES,
                                "%s: %s: Could not open '%s': No such file or directory\n",
                                SIM_QEMU_PROGRAM, argv[i], argv[i]);
            return false;
        }
        if (!arguments_is_known(argv[i]) || i + 1 == argc) {
            kelpie__text_format(
                out_problem, SIM_QEMU_PROBLEM_BYTES, "%s: %s: %s\n", SIM_QEMU_PROGRAM, argv[i],
                arguments_is_known(argv[i]) ? "requires an argument" : "invalid option");
            return false;
        }
        i += 1;
        arguments.value = argv[i];
        if (!arguments_take_value(&arguments)) {
            return false;
        }
    }
    if (options->kernel == NULL && (options->append != NULL || options->initrd != NULL)) {
        kelpie__text_format(out_problem, SIM_QEMU_PROBLEM_BYTES,
                            "%s: %s only allowed with -kernel option\n", SIM_QEMU_PROGRAM,
                            options->append != NULL ? "-append" : "-initrd");
        return false;
    }
    return true;
}
