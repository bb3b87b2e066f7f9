/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Formatted texts. What nearly all of ours have (texts, characters, integers, a width that is
 * filled with zeros) is done here, in a third of the C library's time; a format with anything else
 * is given to that as a whole.
 */
#include <stdio.h>
#include <string.h>

#include "core/text.h"

#define FORMAT_WIDTH_MAX 20u         /* as many digits as 2^64 - 1 has */
#define FORMAT_PRECISION_MAX 100000u /* read no further */

struct format_output {
    char *out;
    size_t capacity;
    size_t length; /* of the whole text, whether or not it fits */
};

/* What stands between a % and its letter. */
struct format_directive {
    uint32_t width; /* filled with zeros; 0: none */
    size_t precision;
    uint32_t longs; /* how many l; a size_t counts as one */
    bool has_precision;
    char letter;
};

static void format_put(struct format_output *output, const char *bytes, size_t count) {
    size_t room = output->capacity - 1;
    size_t left = output->length < room ? room - output->length : 0;
    size_t fits = count < left ? count : left;
    KELPIE_ASSERT(output->capacity > 0);
    if (fits > 0) {
        memcpy(output->out + output->length, bytes, fits);
    }
    output->length += count;
}

/* Of a % at *inout_at; false: it is none of those that are done here. */
static bool format_read(const char **inout_at, va_list *arguments, struct format_directive *out) {
    const char *at = *inout_at + 1;
    *out = (struct format_directive){0};
    if (*at == '0' && at[1] >= '1' && at[1] <= '9') {
        at += 1;
        while (*at >= '0' && *at <= '9' && out->width <= FORMAT_WIDTH_MAX) { /* bound: the width */
            out->width = out->width * 10 + (uint32_t)(*at - '0');
            at += 1;
        }
    }
    if (at[0] == '.' && at[1] == '*') {
        int precision = va_arg(*arguments, int);
        out->has_precision = precision >= 0;
        out->precision = precision >= 0 ? (size_t)precision : 0;
        at += 2;
    } else if (at[0] == '.') {
        out->has_precision = true;
        for (at += 1; *at >= '0' && *at <= '9' && out->precision < FORMAT_PRECISION_MAX; at += 1) {
            out->precision = out->precision * 10 + (size_t)(*at - '0');
        }
    }
    while ((*at == 'l' || *at == 'z') && out->longs < 2) { /* bound: two */
        out->longs += 1;
        at += 1;
    }
    out->letter = *at;
    *inout_at = at + 1;
    bool is_number = *at == 'u' || *at == 'x' || (*at == 'd' && out->width == 0);
    bool is_plain = out->width == 0 && out->longs == 0;
    return out->width <= FORMAT_WIDTH_MAX &&
           ((is_number && !out->has_precision) ||
            (is_plain && (*at == 's' || ((*at == 'c' || *at == '%') && !out->has_precision))));
}

static void format_number(struct format_output *output, const struct format_directive *directive,
                          uint64_t value) {
    static const char names[] = "0123456789abcdef";
    const uint64_t base = directive->letter == 'x' ? 16 : 10;
    char digits[FORMAT_WIDTH_MAX];
    size_t at = sizeof(digits);
    KELPIE_ASSERT(directive->width <= sizeof(digits));
    do { /* bound: the digits */
        at -= 1;
        digits[at] = names[value % base];
        value /= base;
    } while (value > 0 && at > 0);
    while (sizeof(digits) - at < directive->width) {
        at -= 1;
        digits[at] = '0';
    }
    KELPIE_ASSERT(value == 0);
    format_put(output, digits + at, sizeof(digits) - at);
}

static void format_signed(struct format_output *output, const struct format_directive *directive,
                          int64_t value) {
    if (value < 0) {
        format_put(output, "-", 1);
    }
    format_number(output, directive, value < 0 ? 0 - (uint64_t)value : (uint64_t)value);
}

static void format_text(struct format_output *output, const struct format_directive *directive,
                        const char *text) {
    text = text == NULL ? "(null)" : text; /* as the C library has it */
    size_t length = directive->has_precision ? strnlen(text, directive->precision) : strlen(text);
    format_put(output, text, length);
}

static void format_value(struct format_output *output, const struct format_directive *directive,
                         va_list *arguments) {
    char character = '%';
    static_assert(sizeof(long) == sizeof(size_t), "one l is as good as a z");
    switch (directive->letter) {
    case 's':
        format_text(output, directive, va_arg(*arguments, const char *));
        return;
    case 'd':
        format_signed(output, directive,
                      directive->longs == 0   ? va_arg(*arguments, int)
                      : directive->longs == 1 ? va_arg(*arguments, long)
                                              : va_arg(*arguments, long long));
        return;
    case 'u':
    case 'x':
        format_number(output, directive,
                      directive->longs == 0   ? va_arg(*arguments, unsigned)
                      : directive->longs == 1 ? va_arg(*arguments, unsigned long)
                                              : va_arg(*arguments, unsigned long long));
        return;
    case 'c':
        character = (char)va_arg(*arguments, int);
        break;
    default:
        KELPIE_ASSERT(directive->letter == '%');
        break;
    }
    format_put(output, &character, 1);
}

/* False: there is something in the format that is not done here. */
static bool format_all(struct format_output *output, const char *format, va_list *arguments) {
    const char *at = format;
    struct format_directive directive;
    while (*at != '\0') { /* bound: the format */
        const char *next = strchr(at, '%');
        size_t plain = next != NULL ? (size_t)(next - at) : strlen(at);
        format_put(output, at, plain);
        at += plain;
        if (next != NULL) {
            if (!format_read(&at, arguments, &directive)) {
                return false;
            }
            format_value(output, &directive, arguments);
        }
    }
    return true;
}

size_t kelpie__text_format_list(char *out, size_t capacity, const char *format, va_list arguments) {
    KELPIE_ASSERT(capacity > 0);
    struct format_output output = {.out = out, .capacity = capacity};
    va_list own;
    va_copy(own, arguments);
    bool is_done = format_all(&output, format, &own);
    va_end(own);
    if (!is_done) {
        int length = vsnprintf(out, capacity, format, arguments);
        KELPIE_ASSERT(length >= 0);
        return (size_t)length;
    }
    out[output.length < capacity ? output.length : capacity - 1] = '\0';
    return output.length;
}

bool kelpie__text_format(char *out, size_t capacity, const char *format, ...) {
    va_list arguments;
    KELPIE_ASSERT(capacity > 0);
    va_start(arguments, format);
    size_t length = kelpie__text_format_list(out, capacity, format, arguments);
    va_end(arguments);
    return length < capacity;
}
