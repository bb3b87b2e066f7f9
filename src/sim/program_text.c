/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Programs of guests that make text: echo, printf, seq, yes, true, false, env, and the shell's
 * test.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "core/text.h"
#include "sim/machine.h"
#include "sim/programs.h"
#include "sim/text_buffer.h"

#define TEXT_ROUNDS_MAX 100000000u

static int text_true(const struct sim_stdio *io, int argc, char **argv) {
    KELPIE_ASSERT(io->os != NULL && argc >= 1 && argv != NULL);
    return 0;
}

static int text_false(const struct sim_stdio *io, int argc, char **argv) {
    KELPIE_ASSERT(io->os != NULL && argc >= 1 && argv != NULL);
    return 1;
}

static int text_echo(const struct sim_stdio *io, int argc, char **argv) {
    struct sim_text_buffer buffer;
    int first = 1;
    bool has_newline = true;
    kelpie__sim_text_begin(&buffer, io);
    if (argc > 1 && strcmp(argv[1], "-n") == 0) {
        has_newline = false;
        first = 2;
    }
    for (int i = first; i < argc; i += 1) {
        if (i > first) {
            kelpie__sim_text_byte(&buffer, ' ');
        }
        kelpie__sim_text_add(&buffer, argv[i], strlen(argv[i]));
    }
    if (has_newline) {
        kelpie__sim_text_byte(&buffer, '\n');
    }
    return kelpie__sim_text_end(&buffer) ? 0 : 1;
}

/* ---- printf ---------------------------------------------------------------------------------- */

/* The byte that an escape stands for; moves *inout behind it. */
static char printf_escape(const char **inout) {
    static const char names[] = "abfnrtv\\\"'";
    static const char bytes[] = "\a\b\f\n\r\t\v\\\"'";
    const char *at = *inout;
    const char *name = *at == '\0' ? NULL : strchr(names, *at);
    if (*at >= '0' && *at <= '7') {
        unsigned value = 0;
        for (int i = 0; i < 3 && *at >= '0' && *at <= '7'; i += 1) {
            value = value * 8 + (unsigned)(*at - '0');
            at += 1;
        }
        *inout = at;
        return (char)value;
    }
    if (name == NULL) {
        return '\\'; /* as it stands: the byte behind it follows */
    }
    *inout = at + 1;
    return bytes[name - names];
}

static int64_t printf_number(const char *text) {
    bool is_negative = text[0] == '-';
    uint64_t value = 0;
    if (text[0] == '\'' || text[0] == '"') {
        return (uint8_t)text[1];
    }
    return kelpie__text_u64(text + (is_negative ? 1 : 0), &value) && value <= INT64_MAX
               ? (is_negative ? -(int64_t)value : (int64_t)value)
               : 0;
}

static void printf_unsigned(uint64_t value, unsigned base, char out[32]) {
    char digits[32];
    size_t count = 0;
    do {
        digits[count] = "0123456789abcdef"[value % base];
        value /= base;
        count += 1;
    } while (value > 0 && count < sizeof(digits)); /* bound: 64 bits */
    for (size_t i = 0; i < count; i += 1) {
        out[i] = digits[count - 1 - i];
    }
    out[count] = '\0';
}

struct printf_directive {
    bool is_left;
    bool has_zeros;
    size_t width;
    char kind;
};

/* Reads what stands behind a percent sign. */
static struct printf_directive printf_read(const char **inout) {
    struct printf_directive directive = {0};
    const char *at = *inout;
    for (; *at == '-' || *at == '0' || *at == '+' || *at == ' '; at += 1) {
        directive.is_left = directive.is_left || *at == '-';
        directive.has_zeros = directive.has_zeros || *at == '0';
    }
    for (; *at >= '0' && *at <= '9' && directive.width < 4096; at += 1) {
        directive.width = directive.width * 10 + (size_t)(*at - '0');
    }
    directive.kind = *at;
    *inout = at + (*at == '\0' ? 0 : 1);
    return directive;
}

static void printf_pad(struct sim_text_buffer *buffer, size_t count, char byte) {
    KELPIE_ASSERT(count <= 65536);
    for (size_t i = 0; i < count; i += 1) {
        kelpie__sim_text_byte(buffer, byte);
    }
}

static void printf_write(struct sim_text_buffer *buffer, const struct printf_directive *directive,
                         const char *argument) {
    char number[33];
    const char *text = argument;
    char single[2] = {argument[0], '\0'};
    switch (directive->kind) {
    case 's':
    case 'b':
        break;
    case 'c':
        text = single;
        break;
    case 'd':
    case 'i': {
        int64_t value = printf_number(argument);
        number[0] = '-';
        printf_unsigned(value < 0 ? (uint64_t)0 - (uint64_t)value : (uint64_t)value, 10,
                        number + 1);
        text = value < 0 ? number : number + 1;
        break;
    }
    default:
        printf_unsigned((uint64_t)printf_number(argument),
                        directive->kind == 'o'   ? 8
                        : directive->kind == 'x' ? 16
                                                 : 10,
                        number);
        text = number;
        break;
    }
    size_t length = strlen(text);
    size_t pad = directive->width > length ? directive->width - length : 0;
    if (!directive->is_left) {
        printf_pad(buffer, pad, directive->has_zeros && directive->kind != 's' ? '0' : ' ');
    }
    kelpie__sim_text_add(buffer, text, length);
    if (directive->is_left) {
        printf_pad(buffer, pad, ' ');
    }
}

/* The format once, with the arguments from *inout_next. */
static void printf_once(struct sim_text_buffer *buffer, const char *format, int argc, char **argv,
                        int *inout_next) {
    const char *at = format;
    while (*at != '\0') {
        char byte = *at;
        at += 1;
        if (byte == '\\') {
            kelpie__sim_text_byte(buffer, printf_escape(&at));
        } else if (byte == '%' && *at == '%') {
            kelpie__sim_text_byte(buffer, '%');
            at += 1;
        } else if (byte == '%') {
            struct printf_directive directive = printf_read(&at);
            printf_write(buffer, &directive, *inout_next < argc ? argv[*inout_next] : "");
            *inout_next += 1;
        } else {
            kelpie__sim_text_byte(buffer, byte);
        }
    }
}

static int text_printf(const struct sim_stdio *io, int argc, char **argv) {
    struct sim_text_buffer buffer;
    if (argc < 2) {
        kelpie__sim_complain(io, "usage: printf FORMAT [ARGUMENT]...");
        return 1;
    }
    kelpie__sim_text_begin(&buffer, io);
    int next = 2;
    int before = 0;
    while (before != next && (before == 0 || next < argc)) { /* bound: the arguments */
        before = next;
        printf_once(&buffer, argv[1], argc, argv, &next);
    }
    return kelpie__sim_text_end(&buffer) ? 0 : 1;
}

/* ---- the others ------------------------------------------------------------------------------ */

static int text_seq(const struct sim_stdio *io, int argc, char **argv) {
    struct sim_text_buffer buffer;
    uint64_t first = 1;
    uint64_t last = 0;
    bool is_good = argc >= 2 && kelpie__text_u64(argv[argc - 1], &last) &&
                   (argc == 2 || kelpie__text_u64(argv[1], &first));
    if (!is_good || last > TEXT_ROUNDS_MAX) {
        kelpie__sim_complain(io, "usage: seq [FIRST] LAST");
        return 1;
    }
    kelpie__sim_text_begin(&buffer, io);
    for (uint64_t i = first; i <= last; i += 1) {
        char number[32];
        printf_unsigned(i, 10, number);
        kelpie__sim_text_add(&buffer, number, strlen(number));
        kelpie__sim_text_byte(&buffer, '\n');
    }
    return kelpie__sim_text_end(&buffer) ? 0 : 1;
}

static int text_yes(const struct sim_stdio *io, int argc, char **argv) {
    struct sim_text_buffer buffer;
    const char *text = argc > 1 ? argv[1] : "y";
    kelpie__sim_text_begin(&buffer, io);
    for (uint32_t i = 0; i < TEXT_ROUNDS_MAX && !buffer.has_failed; i += 1) {
        kelpie__sim_text_add(&buffer, text, strlen(text));
        kelpie__sim_text_byte(&buffer, '\n');
    }
    return 1;
}

static int text_env(const struct sim_stdio *io, int argc, char **argv) {
    struct sim_text_buffer buffer;
    char **environment = kelpie__sim_process_of(io->os)->environment;
    KELPIE_ASSERT(argc >= 1 && argv != NULL);
    kelpie__sim_text_begin(&buffer, io);
    for (size_t i = 0; environment != NULL && environment[i] != NULL; i += 1) {
        kelpie__sim_text_add(&buffer, environment[i], strlen(environment[i]));
        kelpie__sim_text_byte(&buffer, '\n');
    }
    return kelpie__sim_text_end(&buffer) ? 0 : 1;
}

/* ---- test ------------------------------------------------------------------------------------ */

static bool test_file(const struct sim_stdio *io, char kind, const char *path) {
    struct kelpie_os_stat stat;
    if (kind == 't') {
        uint64_t handle = 0;
        bool is_number = kelpie__text_u64(path, &handle) && handle <= 2;
        int place = handle == 0 ? io->in : handle == 1 ? io->out : io->err;
        return is_number && kelpie__os_is_terminal(io->os, place) == 1;
    }
    if (path[0] == '\0' || kelpie__os_stat(io->os, KELPIE_OS_CWD, path, true, &stat) < 0) {
        return false;
    }
    switch (kind) {
    case 'f':
        return stat.kind == KELPIE_OS_KIND_FILE;
    case 'd':
        return stat.kind == KELPIE_OS_KIND_DIRECTORY;
    case 's':
        return stat.size_bytes > 0;
    case 'x':
        return (stat.mode & 0111) != 0;
    default:
        return true; /* e, r, w */
    }
}

static bool test_unary(const struct sim_stdio *io, const char *operator, const char * operand) {
    if (strcmp(operator, "-n") == 0) {
        return operand[0] != '\0';
    }
    if (strcmp(operator, "-z") == 0) {
        return operand[0] == '\0';
    }
    bool is_flag = operator[0] == '-' && operator[1] != '\0' && operator[2] == '\0';
    return is_flag && strchr("efdsxrwt", operator[1]) != NULL &&
           test_file(io, operator[1], operand);
}

static bool test_binary(const char *left, const char *operator, const char * right) {
    if (strcmp(operator, "=") == 0 || strcmp(operator, "==") == 0) {
        return strcmp(left, right) == 0;
    }
    if (strcmp(operator, "!=") == 0) {
        return strcmp(left, right) != 0;
    }
    int64_t a = printf_number(left);
    int64_t b = printf_number(right);
    static const char *const names[] = {"-eq", "-ne", "-lt", "-le", "-gt", "-ge"};
    const bool results[] = {a == b, a != b, a<b, a <= b, a> b, a >= b};
    for (size_t i = 0; i < KELPIE_ARRAY_COUNT(names); i += 1) {
        if (strcmp(operator, names[i]) == 0) {
            return results[i];
        }
    }
    return false;
}

/* test and [: one primary, perhaps negated. */
static int text_test(const struct sim_stdio *io, int argc, char **argv) {
    if (strcmp(argv[0], "[") == 0 || strcmp(argv[0], "/bin/[") == 0) {
        if (strcmp(argv[argc - 1], "]") != 0) {
            kelpie__sim_complain(io, "missing ]");
            return 2;
        }
        argc -= 1;
    }
    int first = 1;
    bool is_negated = false;
    while (argc - first > 1 && strcmp(argv[first], "!") == 0) {
        is_negated = !is_negated;
        first += 1;
    }
    bool result = false;
    switch (argc - first) {
    case 0:
        break;
    case 1:
        result = argv[first][0] != '\0';
        break;
    case 2:
        result = test_unary(io, argv[first], argv[first + 1]);
        break;
    case 3:
        result = test_binary(argv[first], argv[first + 1], argv[first + 2]);
        break;
    default:
        kelpie__sim_complain(io, "too many arguments");
        return 2;
    }
    return result != is_negated ? 0 : 1;
}

const struct sim_program_entry kelpie__sim_programs_text[] = {
    {"true", text_true}, {"false", text_false}, {"echo", text_echo}, {"printf", text_printf},
    {"seq", text_seq},   {"yes", text_yes},     {"env", text_env},   {"printenv", text_env},
    {"test", text_test}, {"[", text_test},      {NULL, NULL},
};
