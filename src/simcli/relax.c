/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * See relax.h.
 */
#include "simcli/relax.h"

#include <stdlib.h>
#include <string.h>

#include "core/limits.h"
#include "core/text.h"

#define RELAX_COMMENT_WORD " # "
#define RELAX_VM_WORD " for "
#define RELAX_NUMBER_BYTES_MAX 24u
#define RELAX_AFTER_MS 1000u /* a call that would have come is awaited for so long */
#define RELAX_NEAR_MS 2000u  /* and one with a number is looked for so far around its time */

/* What a comment says, " # 7.204 s in read() for vm-3". */
struct comment {
    uint64_t time_ms;
    char vm[KELPIE_FAULT_TEXT_MAX]; /* "": of none */
};

static bool read_comment(const char *text, struct comment *out) {
    char number[RELAX_NUMBER_BYTES_MAX] = "";
    const char *at = text + strlen(RELAX_COMMENT_WORD);
    size_t seconds = strspn(at, "0123456789");
    KELPIE_ASSERT(strncmp(text, RELAX_COMMENT_WORD, strlen(RELAX_COMMENT_WORD)) == 0);
    *out = (struct comment){0};
    if (seconds + 4 >= sizeof(number) || at[seconds] != '.') {
        return false;
    }
    memcpy(number, at, seconds);
    memcpy(number + seconds, at + seconds + 1, 3);
    for (const char *word = strstr(at, RELAX_VM_WORD); word != NULL;
         word = strstr(word + 1, RELAX_VM_WORD)) { /* bound: the text; the last one counts */
        kelpie__ignore(kelpie__text_copy(out->vm, sizeof(out->vm), word + strlen(RELAX_VM_WORD)));
    }
    KELPIE_ASSERT(strlen(number) == seconds + 3);
    return kelpie__text_u64(number, &out->time_ms);
}

/* False: it has no such form. */
static bool relax_rule(struct kelpie_fault_rule *rule, const struct comment *comment,
                       enum simcli_relaxed how) {
    bool is_of_vm = how == SIMCLI_RELAXED_TIME_OF_VM || how == SIMCLI_RELAXED_NUMBER_OF_VM ||
                    how == SIMCLI_RELAXED_NEAR_OF_VM;
    bool has_window = how != SIMCLI_RELAXED_NUMBER && how != SIMCLI_RELAXED_NUMBER_OF_VM;
    bool is_by_time = how == SIMCLI_RELAXED_TIME_OF_VM || how == SIMCLI_RELAXED_TIME;
    KELPIE_ASSERT(how < SIMCLI_RELAXED_COUNT);
    KELPIE_ASSERT(rule->birth != 0 && rule->trigger == KELPIE_FAULT_NTH);
    rule->birth = 0;
    if (is_of_vm) {
        memcpy(rule->vm, comment->vm, sizeof(rule->vm));
    }
    rule->max = how == SIMCLI_RELAXED_NUMBER ? 0 : 1;
    if (has_window) {
        uint64_t before_ms = is_by_time ? 0 : kelpie__min_u64(RELAX_NEAR_MS, comment->time_ms);
        uint64_t after_ms = is_by_time ? RELAX_AFTER_MS : RELAX_NEAR_MS;
        rule->has_window = true;
        rule->window_begin_ns = (comment->time_ms - before_ms) * KELPIE_NS_PER_MS;
        rule->window_end_ns = (comment->time_ms + after_ms) * KELPIE_NS_PER_MS;
    }
    rule->trigger = is_by_time ? KELPIE_FAULT_ALWAYS : KELPIE_FAULT_NTH;
    KELPIE_ASSERT(!rule->has_window || rule->window_begin_ns < rule->window_end_ns);
    return !is_of_vm || comment->vm[0] != '\0';
}

/* One that is about a number near a time, or the n-th mark of the world, becomes one about the
 * time. */
static bool loosen_rule(struct kelpie_fault_rule *rule, const struct comment *comment) {
    bool is_near = rule->has_window && rule->max == 1;
    bool is_of_mark = rule->kind == KELPIE_FAULT_POINT_WORLD && rule->mark[0] != '\0';
    KELPIE_ASSERT(rule->birth == 0);
    if (rule->trigger != KELPIE_FAULT_NTH || (!is_near && !is_of_mark)) {
        return false;
    }
    rule->trigger = KELPIE_FAULT_ALWAYS;
    rule->has_window = true;
    rule->max = 1;
    rule->window_begin_ns = comment->time_ms * KELPIE_NS_PER_MS;
    rule->window_end_ns = (comment->time_ms + RELAX_AFTER_MS) * KELPIE_NS_PER_MS;
    KELPIE_ASSERT(rule->window_begin_ns < rule->window_end_ns);
    return true;
}

/* False: it is no rule with a comment. *out_behind: the comment. */
static bool read_line(const char *line, size_t length, char text[SIMCLI_RELAX_LINE_MAX],
                      struct kelpie_fault_rule *out, const char **out_behind) {
    struct kelpie_fault_reader reader;
    if (length >= SIMCLI_RELAX_LINE_MAX) {
        return false;
    }
    memcpy(text, line, length);
    text[length] = '\0';
    *out_behind = strstr(text, RELAX_COMMENT_WORD);
    KELPIE_ASSERT(strlen(text) == length);
    return *out_behind != NULL && kelpie__fault_reader_open(&reader, text) &&
           kelpie__fault_reader_next(&reader, out) == 1;
}

static bool write_line(const struct kelpie_fault_rule *rule, const char *behind,
                       char out[SIMCLI_RELAX_LINE_MAX]) {
    size_t written = kelpie__fault_rule_format(rule, out);
    KELPIE_ASSERT(strncmp(behind, RELAX_COMMENT_WORD, strlen(RELAX_COMMENT_WORD)) == 0);
    KELPIE_ASSERT(written < KELPIE_FAULT_LINE_MAX);
    return kelpie__text_copy(out + written, SIMCLI_RELAX_LINE_MAX - written, behind);
}

bool kelpie__simcli_relax_line(const char *line, size_t length, enum simcli_relaxed how,
                               char out[SIMCLI_RELAX_LINE_MAX]) {
    struct kelpie_fault_rule rule;
    struct comment comment;
    char text[SIMCLI_RELAX_LINE_MAX];
    const char *behind = NULL;
    KELPIE_ASSERT(how < SIMCLI_RELAXED_COUNT);
    if (!read_line(line, length, text, &rule, &behind) || !read_comment(behind, &comment)) {
        return false;
    }
    bool is_exact = rule.birth != 0 && rule.trigger == KELPIE_FAULT_NTH;
    bool is_relaxed =
        is_exact ? relax_rule(&rule, &comment, how)
                 : rule.birth == 0 && how == SIMCLI_RELAXED_TIME && loosen_rule(&rule, &comment);
    return is_relaxed && write_line(&rule, behind, out);
}

uint64_t kelpie__simcli_line_number(const char *line, size_t length) {
    struct kelpie_fault_rule rule;
    char text[SIMCLI_RELAX_LINE_MAX];
    const char *behind = NULL;
    bool has_number = read_line(line, length, text, &rule, &behind) && rule.birth == 0 &&
                      rule.trigger == KELPIE_FAULT_NTH;
    KELPIE_ASSERT(!has_number || rule.value > 0);
    return has_number ? rule.value : 0;
}

bool kelpie__simcli_renumber_line(const char *line, size_t length, uint64_t number,
                                  char out[SIMCLI_RELAX_LINE_MAX]) {
    struct kelpie_fault_rule rule;
    char text[SIMCLI_RELAX_LINE_MAX];
    const char *behind = NULL;
    KELPIE_ASSERT(number > 0);
    if (!read_line(line, length, text, &rule, &behind) || rule.trigger != KELPIE_FAULT_NTH) {
        return false;
    }
    rule.value = number;
    return write_line(&rule, behind, out);
}

char *kelpie__simcli_relax_plan(const char *plan, enum simcli_relaxed how) {
    size_t lines = 1;
    size_t length = 0;
    bool has_changed = false;
    KELPIE_ASSERT(how < SIMCLI_RELAXED_COUNT);
    for (const char *at = plan; *at != '\0'; at += 1) {
        lines += *at == '\n' ? 1 : 0;
    }
    char *relaxed = malloc(strlen(plan) + lines * KELPIE_FAULT_TEXT_MAX * 2 + 1);
    const char *line = plan;
    while (relaxed != NULL && *line != '\0') { /* bound: the text */
        char changed[SIMCLI_RELAX_LINE_MAX];
        size_t taken = strcspn(line, "\n");
        bool is_changed = kelpie__simcli_relax_line(line, taken, how, changed);
        size_t added = is_changed ? strlen(changed) : taken;
        KELPIE_ASSERT(added <= taken + KELPIE_FAULT_TEXT_MAX * 2);
        memcpy(relaxed + length, is_changed ? changed : line, added);
        relaxed[length + added] = '\n';
        length += added + 1;
        has_changed = has_changed || is_changed;
        line += taken + (line[taken] == '\n' ? 1 : 0);
    }
    if (relaxed != NULL) {
        relaxed[length] = '\0';
    }
    if (!has_changed) {
        free(relaxed);
    }
    return has_changed ? relaxed : NULL;
}
