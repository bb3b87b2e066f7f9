/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * See os_fault_plan.h.
 */
#include "os/os_fault_plan.h"

#include <errno.h>
#include <string.h>

#define NS_PER_S UINT64_C(1000000000)
#define NS_PER_MS UINT64_C(1000000)

static const struct {
    const char *name;
    enum kelpie_fault_action action;
    uint64_t argument; /* default */
} actions[] = {
    {"EIO", KELPIE_FAULT_ERRNO, EIO},
    {"ENOSPC", KELPIE_FAULT_ERRNO, ENOSPC},
    {"ENOMEM", KELPIE_FAULT_ERRNO, ENOMEM},
    {"EMFILE", KELPIE_FAULT_ERRNO, EMFILE},
    {"EACCES", KELPIE_FAULT_ERRNO, EACCES},
    {"EROFS", KELPIE_FAULT_ERRNO, EROFS},
    {"EAGAIN", KELPIE_FAULT_ERRNO, EAGAIN},
    {"EPIPE", KELPIE_FAULT_ERRNO, EPIPE},
    {"ECONNRESET", KELPIE_FAULT_ERRNO, ECONNRESET},
    {"kill", KELPIE_FAULT_KILL, 0},
    {"stop", KELPIE_FAULT_STOP, 0},
    {"kill-child", KELPIE_FAULT_KILL_CHILD, 0},
    {"stop-child", KELPIE_FAULT_STOP_CHILD, 0},
    {"delay", KELPIE_FAULT_DELAY, 1000},
    {"short", KELPIE_FAULT_SHORT, 1},
    {"mutate", KELPIE_FAULT_MUTATE, 0},
    {"drop", KELPIE_FAULT_DROP, 0},
};

const char *kelpie__fault_action_name(const struct kelpie_fault_rule *rule) {
    for (size_t i = 0; i < KELPIE_ARRAY_COUNT(actions); i += 1) {
        bool is_same_errno =
            rule->action != KELPIE_FAULT_ERRNO || actions[i].argument == rule->argument;
        if (actions[i].action == rule->action && is_same_errno) {
            return actions[i].name;
        }
    }
    return "unknown";
}

bool kelpie__fault_glob(const char *pattern, const char *text) {
    const char *star = NULL;
    const char *retry = NULL;
    while (*text != '\0') { /* bound: |text| for each byte of it */
        if (*pattern == '*') {
            star = pattern;
            pattern += 1;
            retry = text;
        } else if (*pattern == *text) {
            pattern += 1;
            text += 1;
        } else if (star != NULL) {
            retry += 1;
            text = retry;
            pattern = star + 1;
        } else {
            return false;
        }
    }
    while (*pattern == '*') {
        pattern += 1;
    }
    return *pattern == '\0';
}

/* ---- parsing --------------------------------------------------------------------------------- */

static size_t word_length(const char *text) {
    return strcspn(text, " \t\n;");
}

static bool copy_word(char out[KELPIE_FAULT_TEXT_MAX], const char *word, size_t length) {
    if (length == 0 || length >= KELPIE_FAULT_TEXT_MAX) {
        return false;
    }
    memcpy(out, word, length);
    out[length] = '\0';
    return true;
}

static bool take_number(const char **text, uint64_t *out) {
    uint64_t value = 0;
    size_t digits = strspn(*text, "0123456789");
    if (digits == 0 || digits > 18) {
        return false;
    }
    for (size_t i = 0; i < digits; i += 1) {
        value = value * 10 + (uint64_t)((*text)[i] - '0');
    }
    *text += digits;
    *out = value;
    return true;
}

/* "0.02" in billionths; no floating point decides anything here. */
static bool take_probability(const char **text, uint64_t *out) {
    uint64_t whole = 0;
    uint64_t part = 0;
    if (!take_number(text, &whole) || whole > 1) {
        return false;
    }
    if (**text == '.') {
        *text += 1;
        uint64_t unit = KELPIE_FAULT_PER_ONE / 10;
        for (; **text >= '0' && **text <= '9'; *text += 1) {
            part += (uint64_t)(**text - '0') * unit;
            unit /= 10;
        }
    }
    *out = whole * KELPIE_FAULT_PER_ONE + part;
    return *out <= KELPIE_FAULT_PER_ONE;
}

/* "10s" or "250ms", in ns. */
static bool take_time(const char **text, uint64_t *out) {
    uint64_t value = 0;
    if (!take_number(text, &value) || value > UINT64_C(1000000)) {
        return false;
    }
    if (strncmp(*text, "ms", 2) == 0) {
        *text += 2;
        *out = value * NS_PER_MS;
        return true;
    }
    if (**text != 's') {
        return false;
    }
    *text += 1;
    *out = value * NS_PER_S;
    return true;
}

static bool parse_trigger(struct kelpie_fault_rule *rule, const char *word, const char **value) {
    if (strncmp(word, "p=", 2) == 0) {
        rule->trigger = KELPIE_FAULT_PROBABILITY;
        return take_probability(value, &rule->value);
    }
    if (strncmp(word, "nth=", 4) == 0) {
        rule->trigger = KELPIE_FAULT_NTH;
        return take_number(value, &rule->value) && rule->value > 0;
    }
    if (strncmp(word, "every=", 6) == 0) {
        rule->trigger = KELPIE_FAULT_EVERY;
        return take_number(value, &rule->value) && rule->value > 0;
    }
    if (strncmp(word, "window=", 7) == 0) {
        rule->trigger = KELPIE_FAULT_WINDOW;
        if (!take_time(value, &rule->value) || strncmp(*value, "..", 2) != 0) {
            return false;
        }
        *value += 2;
        return take_time(value, &rule->end) && rule->end > rule->value;
    }
    return false;
}

/* One "key=value" before the arrow. */
static bool parse_condition(struct kelpie_fault_rule *rule, const char *word, size_t length,
                            bool *inout_has_trigger) {
    const char *equals = memchr(word, '=', length);
    if (equals == NULL) {
        return false;
    }
    const char *value = equals + 1;
    size_t value_length = length - (size_t)(value - word);
    if (strncmp(word, "role=", 5) == 0) {
        return copy_word(rule->role, value, value_length);
    }
    if (strncmp(word, "path=", 5) == 0) {
        return copy_word(rule->path, value, value_length);
    }
    if (strncmp(word, "max=", 4) == 0) {
        return take_number(&value, &rule->max) && value == word + length;
    }
    *inout_has_trigger = true;
    return parse_trigger(rule, word, &value) && value == word + length;
}

static bool parse_action(struct kelpie_fault_rule *rule, const char *word, size_t length) {
    const char *colon = memchr(word, ':', length);
    size_t name_length = colon == NULL ? length : (size_t)(colon - word);
    for (size_t i = 0; i < KELPIE_ARRAY_COUNT(actions); i += 1) {
        if (strlen(actions[i].name) == name_length &&
            strncmp(actions[i].name, word, name_length) == 0) {
            rule->action = actions[i].action;
            rule->argument = actions[i].argument;
            const char *value = colon == NULL ? NULL : colon + 1;
            return value == NULL ||
                   (take_number(&value, &rule->argument) && value == word + length);
        }
    }
    return false;
}

/* Parses one rule, up to its end; *inout_text then stands at the separator, or at the word that is
 * wrong. */
static bool parse_rule(const char **inout_text, struct kelpie_fault_rule *rule) {
    const char *text = *inout_text;
    bool has_trigger = false;
    bool is_good = copy_word(rule->point, text, word_length(text));
    text += is_good ? word_length(text) : 0;
    while (is_good) { /* bound: the text */
        text += strspn(text, " \t");
        *inout_text = text;
        size_t length = word_length(text);
        if (length == 2 && strncmp(text, "=>", 2) == 0) {
            text += 2;
            text += strspn(text, " \t");
            *inout_text = text;
            length = word_length(text);
            is_good = has_trigger && length > 0 && parse_action(rule, text, length);
            text += length;
            break;
        }
        is_good = length > 0 && parse_condition(rule, text, length, &has_trigger);
        text += length;
    }
    if (is_good) {
        *inout_text = text;
    }
    return is_good;
}

bool kelpie__fault_plan_parse(const char *text, struct kelpie_fault_plan *out,
                              const char **out_problem) {
    *out = (struct kelpie_fault_plan){0};
    text += strspn(text, " \t\n;");
    while (*text != '\0') { /* bound: the text */
        struct kelpie_fault_rule rule = {0};
        if (out->count == KELPIE_FAULT_RULE_MAX || !parse_rule(&text, &rule)) {
            *out_problem = text;
            return false;
        }
        out->rules[out->count] = rule;
        out->count += 1;
        text += strspn(text, " \t");
        if (*text != '\0' && *text != ';' && *text != '\n') {
            *out_problem = text;
            return false;
        }
        text += strspn(text, " \t\n;");
    }
    return true;
}
