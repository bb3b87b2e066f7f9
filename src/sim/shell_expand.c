/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Words of a guest's shell: quotes, variables, arithmetic, command substitution, field splitting.
 */
#include <stdio.h>
#include <string.h>

#include "sim/shell.h"

struct expand {
    struct shell *shell;
    const struct shell_text *text;
    uint32_t at;
    uint32_t end;
    bool splits;
    bool is_quoted; /* inside of double quotes */
    bool has_field; /* even an empty one */
    struct shell_string field;
    struct shell_fields *out;
    uint32_t skips[SHELL_DEPTH_MAX]; /* where ${NAME:-words} end: those braces are none of ours */
    uint32_t skip_count;
};

static void expand_flush(struct expand *expand) {
    if (!expand->has_field) {
        return;
    }
    kelpie__sim_shell_string_add(expand->shell, &expand->field, "", 0);
    kelpie__sim_shell_field_add(expand->shell, expand->out, expand->field.bytes);
    expand->field = (struct shell_string){0};
    expand->has_field = false;
}

static void expand_literal(struct expand *expand, const char *bytes, size_t count) {
    kelpie__sim_shell_string_add(expand->shell, &expand->field, bytes, count);
    expand->has_field = true;
}

/* The value of a variable: outside of quotes white space in it parts fields. */
static void expand_value(struct expand *expand, const char *value) {
    if (expand->is_quoted || !expand->splits) {
        expand_literal(expand, value, strlen(value));
        return;
    }
    const char *at = value;
    while (*at != '\0') {
        size_t blanks = strspn(at, " \t\n");
        if (blanks > 0) {
            expand_flush(expand);
            at += blanks;
        }
        size_t length = strcspn(at, " \t\n");
        if (length > 0) {
            expand_literal(expand, at, length);
        }
        at += length;
    }
}

static void expand_number(struct expand *expand, int64_t value) {
    char number[24];
    kelpie__ignore(snprintf(number, sizeof(number), "%lld", (long long)value)); /* it fits */
    expand_value(expand, number);
}

/* $@ and $*. */
static void expand_all(struct expand *expand, char kind) {
    const struct shell *shell = expand->shell;
    for (int i = 0; i < shell->positional_count; i += 1) {
        if (i > 0 && kind == '@' && expand->splits) {
            expand_flush(expand);
        } else if (i > 0) {
            expand_value(expand, " ");
        }
        expand_value(expand, shell->positional[i]);
        expand->has_field = expand->has_field || expand->is_quoted;
    }
}

/* The value of a name, a number, or one of $ ? ! # - 0; NULL: not set. */
static const char *expand_lookup(struct expand *expand, const char *name, size_t length) {
    struct shell *shell = expand->shell;
    char *number = kelpie__sim_shell_alloc(shell, 24);
    int64_t value = 0;
    if (kelpie__sim_shell_is_name(name, length)) {
        return kelpie__sim_shell_get(shell, name, length);
    }
    if (name[0] >= '0' && name[0] <= '9') {
        int index = 0;
        for (size_t i = 0; i < length && index < 100000; i += 1) {
            index = index * 10 + (name[i] - '0');
        }
        return index == 0                         ? shell->name
               : index <= shell->positional_count ? shell->positional[index - 1]
                                                  : NULL;
    }
    switch (name[0]) {
    case '$':
        value = shell->pid;
        break;
    case '?':
        value = shell->status;
        break;
    case '!':
        value = shell->last_pid;
        break;
    case '#':
        value = shell->positional_count;
        break;
    default:
        return "";
    }
    kelpie__ignore(snprintf(number, 24, "%lld", (long long)value)); /* it fits */
    return number;
}

/* How long the name at `at` is: letters, digits, or one special byte. */
static size_t expand_name_length(const struct expand *expand, uint32_t at) {
    const char *bytes = expand->text->bytes;
    uint32_t end = at;
    while (end < expand->end && kelpie__sim_shell_is_name(bytes + at, end - at + 1)) {
        end += 1;
    }
    if (end > at) {
        return end - at;
    }
    bool is_special = at < expand->end && strchr("0123456789$?!#@*-", bytes[at]) != NULL;
    return is_special ? 1 : 0;
}

static void expand_command(struct expand *expand, uint32_t begin, uint32_t end) {
    struct shell_string output = {0};
    const struct shell_text text = {expand->text->bytes + begin, end - begin};
    kelpie__sim_shell_capture(expand->shell, text, &output);
    expand_value(expand, output.count == 0 ? "" : output.bytes);
}

/* ${NAME}, ${#NAME}, ${NAME:-words}, ${NAME-words}, ${NAME:+words}; `at` is behind the brace. */
static void expand_braces(struct expand *expand) {
    const char *bytes = expand->text->bytes;
    uint32_t begin = expand->at;
    uint32_t close = kelpie__sim_shell_close(expand->text, begin, '}');
    if (close == UINT32_MAX || close >= expand->end) {
        expand->at = expand->end;
        return;
    }
    bool is_length = bytes[begin] == '#' && close > begin + 1;
    begin += is_length ? 1 : 0;
    size_t length = expand_name_length(expand, begin);
    while (begin + length < close && bytes[begin] >= '0' && bytes[begin] <= '9' &&
           bytes[begin + length] >= '0' && bytes[begin + length] <= '9') {
        length += 1;
    }
    uint32_t rest = begin + (uint32_t)length;
    if (length == 1 && (bytes[begin] == '@' || bytes[begin] == '*')) {
        expand_all(expand, bytes[begin]);
        expand->at = close + 1;
        return;
    }
    const char *value = length == 0 ? NULL : expand_lookup(expand, bytes + begin, length);
    bool ignores_empty = rest < close && bytes[rest] == ':';
    char kind =
        rest + (ignores_empty ? 1 : 0) < close ? bytes[rest + (ignores_empty ? 1 : 0)] : '\0';
    bool is_set = value != NULL && !(ignores_empty && value[0] == '\0');
    bool takes_words = (kind == '-' && !is_set) || (kind == '+' && is_set);
    if (takes_words && expand->skip_count < SHELL_DEPTH_MAX) {
        expand->skips[expand->skip_count] = close;
        expand->skip_count += 1;
        expand->at = rest + (ignores_empty ? 2 : 1);
        return;
    }
    expand->at = close + 1;
    if (is_length) {
        expand_number(expand, value == NULL ? 0 : (int64_t)strlen(value));
    } else if (kind != '+' && value != NULL) {
        expand_value(expand, value);
    }
}

/* $((EXPRESSION)); false: it is none. `at` is behind the first parenthesis. */
static bool expand_arithmetic(struct expand *expand) {
    const char *bytes = expand->text->bytes;
    uint32_t begin = expand->at;
    if (begin >= expand->end || bytes[begin] != '(') {
        return false;
    }
    uint32_t close = kelpie__sim_shell_close(expand->text, begin + 1, ')');
    if (close == UINT32_MAX || close + 1 >= expand->end || bytes[close + 1] != ')') {
        return false;
    }
    expand->at = close + 2;
    expand_number(
        expand, kelpie__sim_shell_arithmetic(expand->shell, bytes + begin + 1, close - begin - 1));
    return true;
}

/* `at` is behind the dollar. */
static void expand_dollar(struct expand *expand) {
    const char *bytes = expand->text->bytes;
    char byte = expand->at < expand->end ? bytes[expand->at] : '\0';
    if (byte == '(') {
        expand->at += 1;
        if (expand_arithmetic(expand)) {
            return;
        }
        uint32_t close = kelpie__sim_shell_close(expand->text, expand->at, ')');
        close = close == UINT32_MAX ? expand->end : close;
        uint32_t begin = expand->at;
        expand->at = close < expand->end ? close + 1 : expand->end;
        expand_command(expand, begin, close);
        return;
    }
    if (byte == '{') {
        expand->at += 1;
        expand_braces(expand);
        return;
    }
    size_t length = expand_name_length(expand, expand->at);
    if (length == 0) {
        expand_literal(expand, "$", 1);
        return;
    }
    uint32_t begin = expand->at;
    expand->at += (uint32_t)length;
    if (byte == '@' || byte == '*') {
        expand_all(expand, byte);
        return;
    }
    const char *value = expand_lookup(expand, bytes + begin, length);
    if (value != NULL) {
        expand_value(expand, value);
    }
}

/* A quote, a dollar, a backslash: what is not as it stands. */
static void expand_special(struct expand *expand, char byte) {
    const char *bytes = expand->text->bytes;
    char next = expand->at < expand->end ? bytes[expand->at] : '\0';
    switch (byte) {
    case '"':
        expand->is_quoted = !expand->is_quoted;
        expand->has_field = true;
        break;
    case '\'': {
        const char *close = memchr(bytes + expand->at, '\'', expand->end - expand->at);
        uint32_t end = close == NULL ? expand->end : (uint32_t)(close - bytes);
        expand_literal(expand, bytes + expand->at, end - expand->at);
        expand->at = end < expand->end ? end + 1 : end;
        break;
    }
    case '\\':
        if (next == '\n') {
            expand->at += 1;
        } else if (next != '\0' && (!expand->is_quoted || strchr("$`\"\\", next) != NULL)) {
            expand_literal(expand, &bytes[expand->at], 1);
            expand->at += 1;
        } else {
            expand_literal(expand, "\\", 1);
        }
        break;
    case '`': {
        uint32_t close = kelpie__sim_shell_close(expand->text, expand->at, '`');
        close = close == UINT32_MAX ? expand->end : close;
        uint32_t begin = expand->at;
        expand->at = close < expand->end ? close + 1 : expand->end;
        expand_command(expand, begin, close);
        break;
    }
    default:
        expand_dollar(expand);
        break;
    }
}

void kelpie__sim_shell_expand(struct shell *shell, const struct shell_text *text,
                              struct shell_range range, bool splits, struct shell_fields *out) {
    struct expand expand = {.shell = shell,
                            .text = text,
                            .at = range.begin,
                            .end = range.end,
                            .splits = splits,
                            .out = out};
    KELPIE_ASSERT(range.begin <= range.end && range.end <= text->length);
    if (expand.at < expand.end && text->bytes[expand.at] == '~' &&
        (expand.at + 1 == expand.end || text->bytes[expand.at + 1] == '/')) {
        const char *home = kelpie__sim_shell_get(shell, "HOME", 4);
        expand_literal(&expand, home == NULL ? "/" : home, home == NULL ? 1 : strlen(home));
        expand.at += 1;
    }
    while (expand.at < expand.end) {
        char byte = text->bytes[expand.at];
        if (expand.skip_count > 0 && expand.at == expand.skips[expand.skip_count - 1]) {
            expand.skip_count -= 1;
            expand.at += 1;
            continue;
        }
        expand.at += 1;
        bool is_special = byte == '"' || byte == '\\' || byte == '$' || byte == '`' ||
                          (byte == '\'' && !expand.is_quoted);
        if (is_special) {
            expand_special(&expand, byte);
        } else {
            expand_literal(&expand, &text->bytes[expand.at - 1], 1);
        }
    }
    expand_flush(&expand);
}

char *kelpie__sim_shell_expand_one(struct shell *shell, const struct shell_text *text,
                                   struct shell_range range) {
    struct shell_fields fields = {0};
    kelpie__sim_shell_expand(shell, text, range, false, &fields);
    if (fields.count == 0) {
        char *empty = kelpie__sim_shell_alloc(shell, 1);
        empty[0] = '\0';
        return empty;
    }
    KELPIE_ASSERT(fields.count == 1);
    return fields.items[0];
}
