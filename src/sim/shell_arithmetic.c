/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * $(( )) and patterns of a guest's shell. Expressions are evaluated with two stacks, by precedence.
 */
#include <string.h>

#include "core/text.h"
#include "sim/shell.h"

#define ARITHMETIC_DEPTH_MAX 32u

struct arithmetic {
    struct shell *shell;
    const char *at;
    const char *end;
    int64_t values[ARITHMETIC_DEPTH_MAX];
    uint32_t value_count;
    char operators[ARITHMETIC_DEPTH_MAX]; /* two-byte ones by a letter */
    uint32_t operator_count;
    bool is_bad;
};

static const struct {
    const char *text;
    char code;
    int precedence;
} arithmetic_operators[] = {
    {"==", 'e', 3}, {"!=", 'n', 3}, {"<=", 'l', 4}, {">=", 'g', 4}, {"&&", 'a', 2},
    {"||", 'o', 1}, {"<", '<', 4},  {">", '>', 4},  {"+", '+', 5},  {"-", '-', 5},
    {"*", '*', 6},  {"/", '/', 6},  {"%", '%', 6},
};

static int arithmetic_precedence(char code) {
    for (size_t i = 0; i < KELPIE_ARRAY_COUNT(arithmetic_operators); i += 1) {
        if (arithmetic_operators[i].code == code) {
            return arithmetic_operators[i].precedence;
        }
    }
    return code == '~' || code == '!' ? 7 : 0; /* ~: a minus of one operand; (: nothing */
}

static int64_t arithmetic_binary(struct arithmetic *arithmetic, char code, int64_t a, int64_t b) {
    uint64_t x = (uint64_t)a;
    uint64_t y = (uint64_t)b;
    if ((code == '/' || code == '%') && (b == 0 || (a == INT64_MIN && b == -1))) {
        arithmetic->is_bad = true;
        return 0;
    }
    switch (code) {
    case '+':
        return (int64_t)(x + y);
    case '-':
        return (int64_t)(x - y);
    case '*':
        return (int64_t)(x * y);
    case '/':
        return a / b;
    case '%':
        return a % b;
    case '<':
        return a < b;
    case '>':
        return a > b;
    case 'l':
        return a <= b;
    case 'g':
        return a >= b;
    case 'e':
        return a == b;
    case 'n':
        return a != b;
    case 'a':
        return a != 0 && b != 0;
    default:
        return a != 0 || b != 0;
    }
}

static void arithmetic_apply(struct arithmetic *arithmetic) {
    KELPIE_ASSERT(arithmetic->operator_count > 0);
    arithmetic->operator_count -= 1;
    char code = arithmetic->operators[arithmetic->operator_count];
    bool is_unary = code == '~' || code == '!';
    if (code == '(' || arithmetic->value_count < (is_unary ? 1u : 2u)) {
        arithmetic->is_bad = true;
        return;
    }
    int64_t *last = &arithmetic->values[arithmetic->value_count - 1];
    if (is_unary) {
        *last = code == '!' ? *last == 0 : (int64_t)(0 - (uint64_t)*last);
        return;
    }
    last[-1] = arithmetic_binary(arithmetic, code, last[-1], last[0]);
    arithmetic->value_count -= 1;
}

static void arithmetic_push_operator(struct arithmetic *arithmetic, char code) {
    if (arithmetic->operator_count == ARITHMETIC_DEPTH_MAX) {
        arithmetic->is_bad = true;
        return;
    }
    arithmetic->operators[arithmetic->operator_count] = code;
    arithmetic->operator_count += 1;
}

static int64_t arithmetic_parse(const char *text) {
    bool is_negative = text[0] == '-';
    uint64_t value = 0;
    bool is_number = kelpie__text_u64(text + (is_negative ? 1 : 0), &value) && value <= INT64_MAX;
    return !is_number ? 0 : is_negative ? -(int64_t)value : (int64_t)value;
}

/* A number or a variable's value. */
static void arithmetic_operand(struct arithmetic *arithmetic) {
    const char *begin = arithmetic->at;
    char word[64];
    while (arithmetic->at < arithmetic->end) {
        char byte = *arithmetic->at;
        bool is_part = (byte >= '0' && byte <= '9') || (byte >= 'a' && byte <= 'z') ||
                       (byte >= 'A' && byte <= 'Z') || byte == '_';
        if (!is_part) {
            break;
        }
        arithmetic->at += 1;
    }
    size_t length = (size_t)(arithmetic->at - begin);
    if (length == 0 || length >= sizeof(word) || arithmetic->value_count == ARITHMETIC_DEPTH_MAX) {
        arithmetic->is_bad = true;
        return;
    }
    memcpy(word, begin, length);
    word[length] = '\0';
    const char *text = word;
    if (word[0] < '0' || word[0] > '9') {
        const char *value = kelpie__sim_shell_get(arithmetic->shell, word, length);
        text = value == NULL ? "0" : value;
    }
    arithmetic->values[arithmetic->value_count] = arithmetic_parse(text);
    arithmetic->value_count += 1;
}

/* An operator behind an operand; false: there is none. */
static bool arithmetic_operator(struct arithmetic *arithmetic) {
    size_t left = (size_t)(arithmetic->end - arithmetic->at);
    for (size_t i = 0; i < KELPIE_ARRAY_COUNT(arithmetic_operators); i += 1) {
        size_t length = strlen(arithmetic_operators[i].text);
        if (left < length || memcmp(arithmetic->at, arithmetic_operators[i].text, length) != 0) {
            continue;
        }
        while (arithmetic->operator_count > 0 && !arithmetic->is_bad &&
               arithmetic_precedence(arithmetic->operators[arithmetic->operator_count - 1]) >=
                   arithmetic_operators[i].precedence) {
            arithmetic_apply(arithmetic);
        }
        arithmetic_push_operator(arithmetic, arithmetic_operators[i].code);
        arithmetic->at += length;
        return true;
    }
    return false;
}

static void arithmetic_close(struct arithmetic *arithmetic) {
    while (arithmetic->operator_count > 0 && !arithmetic->is_bad &&
           arithmetic->operators[arithmetic->operator_count - 1] != '(') {
        arithmetic_apply(arithmetic);
    }
    arithmetic->is_bad = arithmetic->is_bad || arithmetic->operator_count == 0;
    arithmetic->operator_count -= arithmetic->operator_count > 0 ? 1 : 0;
}

int64_t kelpie__sim_shell_arithmetic(struct shell *shell, const char *bytes, size_t count) {
    struct arithmetic arithmetic = {.shell = shell, .at = bytes, .end = bytes + count};
    bool wants_operand = true;
    while (arithmetic.at < arithmetic.end && !arithmetic.is_bad) {
        char byte = *arithmetic.at;
        if (strchr(" \t\n$", byte) != NULL) {
            arithmetic.at += 1;
        } else if (wants_operand && strchr("(-!+", byte) != NULL) {
            if (byte != '+') {
                arithmetic_push_operator(&arithmetic, byte == '-' ? '~' : byte);
            }
            arithmetic.at += 1;
        } else if (wants_operand) {
            arithmetic_operand(&arithmetic);
            wants_operand = false;
        } else if (byte == ')') {
            arithmetic_close(&arithmetic);
            arithmetic.at += 1;
        } else {
            arithmetic.is_bad = !arithmetic_operator(&arithmetic);
            wants_operand = true;
        }
    }
    while (arithmetic.operator_count > 0 && !arithmetic.is_bad) {
        arithmetic_apply(&arithmetic);
    }
    if (arithmetic.is_bad || arithmetic.value_count != 1) {
        kelpie__sim_shell_complain(shell, "arithmetic: \"%.*s\" is no expression", (int)count,
                                   bytes);
        return 0;
    }
    return arithmetic.values[0];
}

/* ---- patterns -------------------------------------------------------------------------------- */

/* The element at *inout and this byte; moves behind the element. */
static bool match_element(const char **inout, char byte) {
    const char *at = *inout;
    if (*at == '[') {
        const char *end = strchr(at + 1, ']');
        if (end != NULL) {
            bool is_negated = at[1] == '!';
            bool is_found = false;
            for (const char *each = at + (is_negated ? 2 : 1); each < end; each += 1) {
                bool is_range = each + 2 < end && each[1] == '-';
                is_found =
                    is_found || (is_range ? byte >= each[0] && byte <= each[2] : byte == *each);
                each += is_range ? 2 : 0;
            }
            *inout = end + 1;
            return is_found != is_negated;
        }
    }
    *inout = at + 1;
    return *at == '?' || *at == byte;
}

/* Back to the last star when it does not go on: no recursion is needed for one text. */
bool kelpie__sim_shell_match(const char *pattern, const char *text) {
    const char *star = NULL;
    const char *resume = NULL;
    while (*text != '\0') {
        if (*pattern == '*') {
            star = pattern;
            resume = text;
            pattern += 1;
            continue;
        }
        const char *next = pattern;
        if (*pattern != '\0' && match_element(&next, *text)) {
            pattern = next;
            text += 1;
        } else if (star != NULL) {
            resume += 1;
            text = resume;
            pattern = star + 1;
        } else {
            return false;
        }
    }
    pattern += strspn(pattern, "*");
    return *pattern == '\0';
}
