/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * See os_fault_plan.h.
 */
#include "os/os_fault_plan.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define NS_PER_S UINT64_C(1000000000)
#define NS_PER_MS UINT64_C(1000000)
#define NS_PER_US UINT64_C(1000)
#define TIME_MAX_NS (UINT64_C(1000000000) * NS_PER_S) /* some 30 years */
#define HEADER_WORD "kelpie-plan"
#define FOUND_CHARACTERS 40

static_assert(KELPIE_FAULT_PROBLEM_MAX / 2 > FOUND_CHARACTERS + 40, "what stands there fits, too");
static_assert(TIME_MAX_NS <= INT64_MAX, "a time is one of the loop's");

const char *kelpie__fault_action_name(const struct kelpie_fault_rule *rule) {
    KELPIE_ASSERT(rule->action_index < kelpie__fault_word_count());
    return kelpie__fault_word(rule->action_index)->name;
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

/* ---- problems -------------------------------------------------------------------------------- */

static size_t word_length(const char *text) {
    return strcspn(text, " \t\n;");
}

/* Where, what was expected, what stands there. Gives false. */
KELPIE_PRINTF(3, 4)
static bool problem(struct kelpie_fault_reader *reader, const char *where, const char *format,
                    ...) {
    uint32_t line = 1;
    uint32_t column = 1;
    KELPIE_ASSERT(where >= reader->text);
    for (const char *at = reader->text; at < where; at += 1) {
        column = *at == '\n' ? 1 : column + 1;
        line += *at == '\n' ? 1 : 0;
    }
    size_t length = word_length(where);
    int shown = length > FOUND_CHARACTERS ? FOUND_CHARACTERS : (int)length;
    char expected[KELPIE_FAULT_PROBLEM_MAX / 2];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(expected, sizeof(expected), format, arguments);
    va_end(arguments);
    if (shown == 0) {
        snprintf(reader->problem, sizeof(reader->problem), "line %u, column %u: %s", line, column,
                 expected);
    } else {
        snprintf(reader->problem, sizeof(reader->problem), "line %u, column %u: %s, not \"%.*s\"",
                 line, column, expected, shown, where);
    }
    KELPIE_ASSERT(reader->problem[0] != '\0');
    return false;
}

/* ---- values ---------------------------------------------------------------------------------- */

static bool copy_word(struct kelpie_fault_reader *reader, char out[KELPIE_FAULT_TEXT_MAX],
                      const char *word, size_t length) {
    if (length == 0 || length >= KELPIE_FAULT_TEXT_MAX) {
        return problem(reader, word, "expected a text of 1 to %u bytes", KELPIE_FAULT_TEXT_MAX - 1);
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
    KELPIE_ASSERT(value < UINT64_C(1000000000000000000));
    *text += digits;
    *out = value;
    return true;
}

/* A number of up to 20 digits, or hexadecimal: seeds. */
static bool take_seed(const char **text, uint64_t *out) {
    bool is_hex = strncmp(*text, "0x", 2) == 0;
    const char *at = *text + (is_hex ? 2 : 0);
    uint64_t base = is_hex ? 16 : 10;
    uint64_t value = 0;
    static const char digits[] = "0123456789abcdef";
    const char *first = at;
    for (; *at != '\0' && at - first < 20; at += 1) {
        const char *digit = strchr(digits, *at);
        if (digit == NULL || (uint64_t)(digit - digits) >= base) {
            break;
        }
        if (__builtin_mul_overflow(value, base, &value) ||
            __builtin_add_overflow(value, (uint64_t)(digit - digits), &value)) {
            return false;
        }
    }
    *text = at;
    *out = value;
    KELPIE_ASSERT(at >= first);
    return at != first;
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
    KELPIE_ASSERT(part < KELPIE_FAULT_PER_ONE);
    *out = whole * KELPIE_FAULT_PER_ONE + part;
    return *out <= KELPIE_FAULT_PER_ONE;
}

/* "10s", "250ms", "7us", "1ns", in ns; a bare number has the default's unit (0: it is refused). */
static bool take_time(const char **text, uint64_t default_unit, uint64_t *out) {
    KELPIE_ASSERT(default_unit <= NS_PER_S);
    static const struct {
        const char *name;
        uint64_t unit;
    } units[] = {{"ms", NS_PER_MS}, {"us", NS_PER_US}, {"ns", 1}, {"s", NS_PER_S}};
    uint64_t value = 0;
    uint64_t unit = default_unit;
    if (!take_number(text, &value)) {
        return false;
    }
    for (size_t i = 0; i < KELPIE_ARRAY_COUNT(units); i += 1) {
        size_t length = strlen(units[i].name);
        if (strncmp(*text, units[i].name, length) == 0) {
            unit = units[i].unit;
            *text += length;
            break;
        }
    }
    return unit != 0 && !__builtin_mul_overflow(value, unit, out) && *out <= TIME_MAX_NS;
}

/* ---- conditions ------------------------------------------------------------------------------ */

/* A value that has to end with its word. */
static bool ends(const char *value, const char *end) {
    return value == end;
}

static bool parse_trigger(struct kelpie_fault_reader *reader, struct kelpie_fault_rule *rule,
                          const char *value, const char *end, enum kelpie_fault_trigger trigger) {
    const char *start = value;
    KELPIE_ASSERT(trigger != KELPIE_FAULT_ALWAYS);
    KELPIE_ASSERT(value <= end);
    if (rule->trigger != KELPIE_FAULT_ALWAYS) {
        return problem(reader, start, "expected one of p=, nth=, every= only");
    }
    rule->trigger = trigger;
    if (trigger == KELPIE_FAULT_PROBABILITY) {
        return (take_probability(&value, &rule->value) && ends(value, end)) ||
               problem(reader, start, "expected a probability from 0 to 1");
    }
    return (take_number(&value, &rule->value) && rule->value > 0 && ends(value, end)) ||
           problem(reader, start, "expected a number from 1");
}

static bool parse_window(struct kelpie_fault_reader *reader, struct kelpie_fault_rule *rule,
                         const char *value, const char *end) {
    const char *start = value;
    KELPIE_ASSERT(value <= end);
    rule->has_window = true;
    bool is_good = take_time(&value, 0, &rule->window_begin_ns) && strncmp(value, "..", 2) == 0;
    value += is_good ? 2 : 0;
    is_good = is_good && take_time(&value, 0, &rule->window_end_ns) && ends(value, end) &&
              rule->window_end_ns > rule->window_begin_ns;
    return is_good || problem(reader, start, "expected a window as 10s..12s");
}

static bool parse_number(struct kelpie_fault_reader *reader, uint64_t *out, const char *value,
                         const char *end) {
    const char *start = value;
    return (take_number(&value, out) && ends(value, end)) ||
           problem(reader, start, "expected a number");
}

static bool parse_mark(struct kelpie_fault_reader *reader, struct kelpie_fault_rule *rule,
                       const char *value, const char *end) {
    if (strncmp(value, "mark:", 5) != 0) {
        return problem(reader, value, "expected after=mark:NAME");
    }
    return copy_word(reader, rule->mark, value + 5, (size_t)(end - value) - 5);
}

static bool parse_while(struct kelpie_fault_reader *reader, struct kelpie_fault_rule *rule,
                        const char *value, const char *end) {
    rule->needs_pending = end - value == 7 && memcmp(value, "pending", 7) == 0;
    return rule->needs_pending || problem(reader, value, "expected while=pending");
}

/* One "key=value" before the arrow. */
static bool parse_condition(struct kelpie_fault_reader *reader, struct kelpie_fault_rule *rule,
                            const char *word, size_t length) {
    static const char *const keys[] = {"p",  "nth",   "every", "window", "role", "path",
                                       "vm", "birth", "max",   "after",  "while"};
    KELPIE_ASSERT(length > 0);
    const char *equals = memchr(word, '=', length);
    size_t key_length = equals == NULL ? 0 : (size_t)(equals - word);
    size_t key = 0;
    while (key < KELPIE_ARRAY_COUNT(keys) &&
           (strlen(keys[key]) != key_length || memcmp(keys[key], word, key_length) != 0)) {
        key += 1;
    }
    const char *value = equals == NULL ? word : equals + 1;
    const char *end = word + length;
    size_t value_length = (size_t)(end - value);
    KELPIE_ASSERT(value <= end);
    switch (key) {
    case 0:
        return parse_trigger(reader, rule, value, end, KELPIE_FAULT_PROBABILITY);
    case 1:
        return parse_trigger(reader, rule, value, end, KELPIE_FAULT_NTH);
    case 2:
        return parse_trigger(reader, rule, value, end, KELPIE_FAULT_EVERY);
    case 3:
        return parse_window(reader, rule, value, end);
    case 4:
        return copy_word(reader, rule->role, value, value_length);
    case 5:
        return copy_word(reader, rule->path, value, value_length);
    case 6:
        return copy_word(reader, rule->vm, value, value_length);
    case 7:
        return parse_number(reader, &rule->birth, value, end);
    case 8:
        return parse_number(reader, &rule->max, value, end);
    case 9:
        return parse_mark(reader, rule, value, end);
    case 10:
        return parse_while(reader, rule, value, end);
    default:
        return problem(reader, word,
                       "expected p=, nth=, every=, window=, after=, role=, path=, vm=, birth=, "
                       "while=, max= or \"=>\"");
    }
}

/* ---- actions --------------------------------------------------------------------------------- */

static bool take_profile(const char **value, const char *end, uint64_t *out) {
    size_t length = (size_t)(end - *value);
    KELPIE_ASSERT(*value <= end);
    if (length == 4 && memcmp(*value, "ext4", 4) == 0) {
        *out = KELPIE_FAULT_PROFILE_EXT4;
    } else if (length == 5 && memcmp(*value, "posix", 5) == 0) {
        *out = KELPIE_FAULT_PROFILE_POSIX;
    } else {
        return false;
    }
    *value = end;
    return true;
}

static bool take_lie(struct kelpie_fault_rule *rule, const char **value, const char *end) {
    if (end - *value == 3 && memcmp(*value, "lie", 3) == 0) {
        rule->is_lie = true;
        *value = end;
        return true;
    }
    uint64_t number = 0; /* as a log of os_fault spelled it: EIO:5 */
    return take_number(value, &number) && number == rule->argument;
}

static bool take_jump(const char **value, uint64_t *out) {
    bool is_negative = **value == '-';
    *value += is_negative || **value == '+' ? 1 : 0;
    uint64_t length = 0;
    if (!take_time(value, NS_PER_S, &length)) {
        return false;
    }
    *out = is_negative ? 0 - length : length;
    return true;
}

static bool parse_argument(struct kelpie_fault_reader *reader, struct kelpie_fault_rule *rule,
                           const struct kelpie_fault_word *word, const char *value,
                           const char *end) {
    const char *start = value;
    bool is_good = false;
    const char *expected = "no argument of this action";
    KELPIE_ASSERT(value <= end);
    switch (word->takes) {
    case KELPIE_FAULT_ARGUMENT_NONE:
        break;
    case KELPIE_FAULT_ARGUMENT_NUMBER:
        expected = "a number";
        is_good = take_number(&value, &rule->argument);
        break;
    case KELPIE_FAULT_ARGUMENT_LIE:
        expected = "\"lie\"";
        is_good = take_lie(rule, &value, end);
        break;
    case KELPIE_FAULT_ARGUMENT_TIME:
        expected = "a time as 10s or 250ms";
        is_good = take_time(&value, NS_PER_MS, &rule->argument);
        break;
    case KELPIE_FAULT_ARGUMENT_JUMP:
        expected = "a time as -86400s";
        is_good = take_jump(&value, &rule->argument);
        break;
    case KELPIE_FAULT_ARGUMENT_PROFILE:
        expected = "ext4 or posix";
        is_good = take_profile(&value, end, &rule->argument);
        break;
    }
    return (is_good && ends(value, end)) || problem(reader, start, "expected %s", expected);
}

static bool parse_action(struct kelpie_fault_reader *reader, struct kelpie_fault_rule *rule,
                         const char *word, size_t length) {
    const char *colon = memchr(word, ':', length);
    size_t name_length = colon == NULL ? length : (size_t)(colon - word);
    for (uint32_t i = 0; i < kelpie__fault_word_count(); i += 1) {
        const struct kelpie_fault_word *known = kelpie__fault_word(i);
        KELPIE_ASSERT(known != NULL);
        KELPIE_ASSERT(known->name[0] != '\0');
        if (strlen(known->name) != name_length || memcmp(known->name, word, name_length) != 0) {
            continue;
        }
        if (!kelpie__fault_point_knows(rule->point, rule->kind, known)) {
            return problem(reader, word, "expected an action that \"%s\" knows", rule->point);
        }
        rule->action = known->action;
        rule->action_index = i;
        rule->argument = known->argument;
        return colon == NULL || parse_argument(reader, rule, known, colon + 1, word + length);
    }
    return problem(reader, word, "expected an action");
}

/* ---- rules ----------------------------------------------------------------------------------- */

/* Whether an alias stands here; its length, or 0. */
static size_t parse_alias(struct kelpie_fault_rule *rule, const char *text) {
    size_t found = 0;
    for (uint32_t i = 0; kelpie__fault_alias(i) != NULL; i += 1) {
        const struct kelpie_fault_alias *alias = kelpie__fault_alias(i);
        size_t length = strlen(alias->name);
        KELPIE_ASSERT(length > 0);
        if (strncmp(text, alias->name, length) != 0 ||
            (text[length] != '\0' && strchr(" \t\n;", text[length]) == NULL)) {
            continue;
        }
        found = length;
        snprintf(rule->point, sizeof(rule->point), "%s", alias->point);
        snprintf(rule->mark, sizeof(rule->mark), "%s", alias->mark);
        for (uint32_t j = 0; j < kelpie__fault_word_count(); j += 1) {
            const struct kelpie_fault_word *word = kelpie__fault_word(j);
            if (strcmp(word->name, alias->action) == 0) {
                rule->action = word->action;
                rule->action_index = j;
                rule->argument = word->argument;
            }
        }
    }
    KELPIE_ASSERT(found == 0 || rule->point[0] != '\0');
    return found;
}

/* What can be said only of a whole rule. */
static bool finish_rule(struct kelpie_fault_reader *reader, struct kelpie_fault_rule *rule,
                        const char *start) {
    bool is_errno = rule->action == KELPIE_FAULT_ERRNO;
    KELPIE_ASSERT(rule->kind != KELPIE_FAULT_POINT_UNKNOWN);
    const struct kelpie_fault_word *word = kelpie__fault_word(rule->action_index);
    KELPIE_ASSERT(rule->action == word->action);
    KELPIE_ASSERT(rule->point[0] != '\0');
    if (rule->trigger == KELPIE_FAULT_ALWAYS && !rule->has_window && rule->mark[0] == '\0') {
        return problem(reader, start, "expected p=, nth=, every=, window= or after= for this rule");
    }
    if (rule->kind == KELPIE_FAULT_POINT_WORLD && rule->mark[0] == '\0' && !rule->has_window) {
        return problem(reader, start, "expected window= or after= for this point");
    }
    if (rule->action == KELPIE_FAULT_ROT && rule->mark[0] == '\0') {
        return problem(reader, start, "expected after=, whose file rots,");
    }
    rule->is_simulated = !word->is_real || rule->kind == KELPIE_FAULT_POINT_NAMED ||
                         rule->kind == KELPIE_FAULT_POINT_WORLD || rule->vm[0] != '\0' ||
                         rule->birth != 0 || rule->mark[0] != '\0' || rule->needs_pending ||
                         (is_errno && rule->is_lie) ||
                         (rule->action == KELPIE_FAULT_STOP && rule->argument != 0);
    return true;
}

/* From the first condition to the rule's end. */
static bool parse_rest(struct kelpie_fault_reader *reader, struct kelpie_fault_rule *rule,
                       const char *start, const char *text, bool is_alias) {
    bool is_done = false;
    while (!is_done) { /* bound: the text */
        text += strspn(text, " \t");
        size_t length = word_length(text);
        bool is_arrow = length == 2 && strncmp(text, "=>", 2) == 0;
        if ((length == 0 || *text == '#') && is_alias) {
            is_done = true;
        } else if (length == 0) {
            return problem(reader, text, "expected \"=> ACTION\" at the rule's end");
        } else if (is_arrow && is_alias) {
            return problem(reader, text, "expected no action for an alias");
        } else if (is_arrow) {
            text += 2;
            text += strspn(text, " \t");
            length = word_length(text);
            if (!parse_action(reader, rule, text, length)) {
                return false;
            }
            text += length;
            is_done = true;
        } else if (!parse_condition(reader, rule, text, length)) {
            return false;
        } else {
            text += length;
        }
    }
    text += strspn(text, " \t");
    if (*text == '#') { /* a comment, up to the line's end */
        text += strcspn(text, "\n");
    }
    if (*text != '\0' && *text != ';' && *text != '\n') {
        return problem(reader, text, "expected the rule's end");
    }
    KELPIE_ASSERT(text >= start);
    reader->at = text;
    return finish_rule(reader, rule, start);
}

int kelpie__fault_reader_next(struct kelpie_fault_reader *reader, struct kelpie_fault_rule *out) {
    struct kelpie_fault_rule rule = {0};
    KELPIE_ASSERT(reader->at >= reader->text);
    const char *text = reader->at + strspn(reader->at, " \t\n;");
    while (*text == '#') { /* bound: the text. A comment, up to its line's end. */
        text += strcspn(text, "\n");
        text += strspn(text, " \t\n;");
    }
    reader->at = text;
    if (*text == '\0') {
        return 0;
    }
    const char *start = text;
    size_t length = parse_alias(&rule, text);
    bool is_alias = length > 0;
    if (!is_alias) {
        length = word_length(text);
        if (!copy_word(reader, rule.point, text, length)) {
            return -1;
        }
    }
    rule.kind = kelpie__fault_point_kind(rule.point);
    if (rule.kind == KELPIE_FAULT_POINT_UNKNOWN) {
        kelpie__ignore(problem(reader, start, "expected an operation, a point or an alias"));
        return -1;
    }
    if (!parse_rest(reader, &rule, start, text + length, is_alias)) {
        return -1;
    }
    KELPIE_ASSERT(reader->at > start);
    *out = rule;
    return 1;
}

/* ---- header ---------------------------------------------------------------------------------- */

static bool parse_header_word(struct kelpie_fault_reader *reader, const char *word, size_t length) {
    struct kelpie_fault_header *header = &reader->header;
    const char *end = word + length;
    KELPIE_ASSERT(length > 0);
    if (strncmp(word, "seed=", 5) == 0) {
        const char *value = word + 5;
        header->has_seed = take_seed(&value, &header->seed) && ends(value, end);
        return header->has_seed || problem(reader, word + 5, "expected a seed, a number");
    }
    if (strncmp(word, "commit=", 7) == 0) {
        return copy_word(reader, header->commit, word + 7, length - 7);
    }
    if (strncmp(word, "options=", 8) == 0 && length - 8 < sizeof(header->options)) {
        memcpy(header->options, word + 8, length - 8);
        header->options[length - 8] = '\0';
        return true;
    }
    return problem(reader, word, "expected seed=, commit= or options=");
}

bool kelpie__fault_reader_open(struct kelpie_fault_reader *reader, const char *text) {
    *reader = (struct kelpie_fault_reader){.text = text, .at = text + strspn(text, " \t\n;")};
    const char *at = reader->at;
    size_t length = word_length(at);
    if (length != strlen(HEADER_WORD) || strncmp(at, HEADER_WORD, length) != 0) {
        return true;
    }
    at += length;
    at += strspn(at, " \t");
    const char *version_text = at;
    uint64_t version = 0;
    if (!take_number(&at, &version) || word_length(at) != 0) {
        return problem(reader, version_text, "expected the plan's version, a number");
    }
    if (version != KELPIE_FAULT_PLAN_VERSION) {
        return problem(reader, version_text, "expected a plan of version %u",
                       KELPIE_FAULT_PLAN_VERSION);
    }
    reader->header.is_given = true;
    at += strspn(at, " \t");
    while (*at != '\0' && *at != '\n' && *at != ';') { /* bound: the text */
        length = word_length(at);
        if (!parse_header_word(reader, at, length)) {
            return false;
        }
        at += length;
        at += strspn(at, " \t");
    }
    reader->at = at;
    KELPIE_ASSERT(reader->at >= reader->text);
    return true;
}

/* ---- whole plans ----------------------------------------------------------------------------- */

bool kelpie__fault_plan_parse(const char *text, struct kelpie_fault_plan *out,
                              char out_problem[KELPIE_FAULT_PROBLEM_MAX]) {
    struct kelpie_fault_reader reader;
    struct kelpie_fault_rule rule;
    bool is_good = kelpie__fault_reader_open(&reader, text);
    *out = (struct kelpie_fault_plan){.header = reader.header};
    int status = is_good ? 1 : -1;
    while (status == 1) { /* bound: the text */
        const char *start = reader.at + strspn(reader.at, " \t\n;");
        status = kelpie__fault_reader_next(&reader, &rule);
        if (status == 1 && rule.is_simulated) {
            kelpie__ignore(problem(&reader, start,
                                   "expected no rule that needs the simulator (point \"%s\", "
                                   "action \"%s\")",
                                   rule.point, kelpie__fault_action_name(&rule)));
            status = -1;
        } else if (status == 1 && out->count == KELPIE_FAULT_RULE_MAX) {
            kelpie__ignore(
                problem(&reader, start, "expected at most %u rules", KELPIE_FAULT_RULE_MAX));
            status = -1;
        } else if (status == 1) {
            out->rules[out->count] = rule;
            out->count += 1;
        }
    }
    if (status < 0) {
        memcpy(out_problem, reader.problem, KELPIE_FAULT_PROBLEM_MAX);
    }
    KELPIE_ASSERT(out->count <= KELPIE_FAULT_RULE_MAX);
    return status == 0;
}
