/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Tokens of a guest's shell. Quoting nests: a stack of open quotes says what ends which.
 */
#include <string.h>

#include "sim/shell.h"

/* What is open, innermost last: a double quote, a parenthesis, a brace, a backquote. */
struct token_nesting {
    char open[SHELL_DEPTH_MAX];
    uint32_t depth;
};

static char nesting_top(const struct token_nesting *nesting) {
    return nesting->depth == 0 ? '\0' : nesting->open[nesting->depth - 1];
}

static void nesting_push(struct token_nesting *nesting, char close) {
    if (nesting->depth < SHELL_DEPTH_MAX) {
        nesting->open[nesting->depth] = close;
        nesting->depth += 1;
    }
}

/* Behind a single-quoted text that begins at `at`. */
static uint32_t skip_single(const struct shell_text *text, uint32_t at) {
    const char *end = memchr(text->bytes + at + 1, '\'', text->length - at - 1);
    return end == NULL ? text->length : (uint32_t)(end - text->bytes) + 1;
}

/* One step over the byte at `at`, with whatever it opens or closes. */
static uint32_t nesting_step(struct token_nesting *nesting, const struct shell_text *text,
                             uint32_t at) {
    char byte = text->bytes[at];
    char next = at + 1 < text->length ? text->bytes[at + 1] : '\0';
    char top = nesting_top(nesting);
    if (byte == '\\') {
        return at + 2 <= text->length ? at + 2 : text->length;
    }
    if (byte == '\'' && top != '"') {
        return skip_single(text, at);
    }
    if (byte == top && top != '\0') {
        nesting->depth -= 1;
        return at + 1;
    }
    if (byte == '"' || byte == '`') {
        nesting_push(nesting, byte);
        return at + 1;
    }
    if (byte == '$' && (next == '(' || next == '{')) {
        nesting_push(nesting, next == '(' ? ')' : '}');
        return at + 2;
    }
    if (byte == '(' && top == ')') {
        nesting_push(nesting, ')');
    }
    return at + 1;
}

uint32_t kelpie__sim_shell_close(const struct shell_text *text, uint32_t at, char close) {
    struct token_nesting nesting = {0};
    nesting_push(&nesting, close);
    while (at < text->length) {
        uint32_t next = nesting_step(&nesting, text, at);
        if (nesting.depth == 0) {
            return at;
        }
        KELPIE_ASSERT(next > at);
        at = next;
    }
    return UINT32_MAX;
}

static bool token_is_break(char byte) {
    return byte == '\0' || strchr(" \t\n;&|()<>", byte) != NULL;
}

static uint32_t token_word_end(const struct shell_text *text, uint32_t at) {
    struct token_nesting nesting = {0};
    while (at < text->length && (nesting.depth > 0 || !token_is_break(text->bytes[at]))) {
        at = nesting_step(&nesting, text, at);
    }
    return at < text->length ? at : text->length;
}

static uint32_t token_skip_blanks(const struct shell_text *text, uint32_t at) {
    bool goes_on = true;
    while (at < text->length && goes_on) {
        char byte = text->bytes[at];
        if (byte == '#') {
            while (at < text->length && text->bytes[at] != '\n') {
                at += 1;
            }
        }
        goes_on = at < text->length && (text->bytes[at] == ' ' || text->bytes[at] == '\t');
        at += goes_on ? 1 : 0;
    }
    return at;
}

/* A redirection at `at`, behind its number; length 0: it is none. */
static uint32_t token_redirect(const struct shell_text *text, uint32_t at,
                               struct shell_token *out) {
    char byte = at < text->length ? text->bytes[at] : '\0';
    char next = at + 1 < text->length ? text->bytes[at + 1] : '\0';
    if (byte != '<' && byte != '>') {
        return 0;
    }
    out->kind = SHELL_TOKEN_REDIRECT;
    out->number = out->number >= 0 ? out->number : byte == '<' ? 0 : 1;
    if (next == '&') {
        out->redirect = SHELL_REDIRECT_COPY;
        return 2;
    }
    if (byte == '>' && next == '>') {
        out->redirect = SHELL_REDIRECT_APPEND;
        return 2;
    }
    if (byte == '<' && next == '<') {
        out->kind = SHELL_TOKEN_BAD; /* here documents are not among what tests say */
        return 2;
    }
    out->redirect = byte == '<' ? SHELL_REDIRECT_READ : SHELL_REDIRECT_WRITE;
    return byte == '>' && next == '|' ? 2 : 1;
}

static enum shell_token_kind token_operator(const struct shell_text *text, uint32_t at,
                                            uint32_t *out_length) {
    char byte = text->bytes[at];
    char next = at + 1 < text->length ? text->bytes[at + 1] : '\0';
    bool is_double = next == byte;
    *out_length = 1;
    switch (byte) {
    case '\n':
        return SHELL_TOKEN_NEWLINE;
    case '(':
        return SHELL_TOKEN_OPEN;
    case ')':
        return SHELL_TOKEN_CLOSE;
    case ';':
        *out_length = is_double ? 2 : 1;
        return is_double ? SHELL_TOKEN_CASE_END : SHELL_TOKEN_SEMICOLON;
    case '&':
        *out_length = is_double ? 2 : 1;
        return is_double ? SHELL_TOKEN_AND : SHELL_TOKEN_AMPERSAND;
    case '|':
        *out_length = is_double ? 2 : 1;
        return is_double ? SHELL_TOKEN_OR : SHELL_TOKEN_PIPE;
    default:
        return SHELL_TOKEN_WORD;
    }
}

struct shell_token kelpie__sim_shell_token(const struct shell_text *text, uint32_t *inout_at) {
    uint32_t at = token_skip_blanks(text, *inout_at);
    struct shell_token token = {.kind = SHELL_TOKEN_END, .range = {at, at}, .number = -1};
    if (at >= text->length) {
        *inout_at = at;
        return token;
    }
    bool has_number = at + 1 < text->length && text->bytes[at] >= '0' && text->bytes[at] <= '9' &&
                      (text->bytes[at + 1] == '<' || text->bytes[at + 1] == '>');
    token.number = has_number ? text->bytes[at] - '0' : -1;
    uint32_t length = token_redirect(text, at + (has_number ? 1 : 0), &token);
    if (length > 0) {
        length += has_number ? 1 : 0;
    } else {
        token.kind = token_operator(text, at, &length);
        if (token.kind == SHELL_TOKEN_WORD) {
            length = token_word_end(text, at) - at;
        }
    }
    KELPIE_ASSERT(length > 0 && at + length <= text->length);
    token.range.end = at + length;
    *inout_at = at + length;
    return token;
}

bool kelpie__sim_shell_is_word(const struct shell_text *text, struct shell_range range,
                               const char *word) {
    size_t length = strlen(word);
    KELPIE_ASSERT(range.begin <= range.end && range.end <= text->length);
    return range.end - range.begin == length &&
           memcmp(text->bytes + range.begin, word, length) == 0;
}
