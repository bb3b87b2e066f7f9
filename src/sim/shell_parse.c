/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Compiles a script of a guest's shell: one pass, with a stack of the constructs that are open. A
 * pipeline, or a list that goes to the background, is known for what it is only when it is over:
 * then the code that was made of it is taken back, and an instruction that names its text takes its
 * place.
 */
#include <errno.h>
#include <string.h>

#include "sim/shell.h"

#define PARSE_PATCHES_MAX 24u
#define PARSE_NONE UINT32_MAX

enum parse_kind {
    PARSE_TOP,
    PARSE_IF_CONDITION,
    PARSE_IF_BODY,
    PARSE_ELSE_BODY,
    PARSE_LOOP_CONDITION,
    PARSE_LOOP_BODY,
    PARSE_BRACE,
    PARSE_CASE,
};

struct parse_frame {
    enum parse_kind kind;
    bool is_until;
    bool is_for;
    uint32_t redirect_code; /* of this construct: its REDIRECT */
    uint32_t loop_code;
    uint32_t else_patch; /* or PARSE_NONE */
    uint32_t ends[PARSE_PATCHES_MAX];
    uint32_t end_count;
    /* of the and-or list, the pipeline and the command that are being read in it */
    uint32_t list_text;
    uint32_t list_code;
    uint32_t pipe_text;
    uint32_t pipe_code;
    struct shell_range stages[SHELL_STAGES_MAX];
    uint32_t stage_count;
    uint32_t patch; /* of && or ||: the jump over what comes next */
    bool is_negated;
    bool is_fresh; /* no command of the list was read yet */
};

struct parse {
    struct shell *shell;
    struct shell_code *code;
    const struct shell_text *text;
    uint32_t at;
    struct parse_frame frames[SHELL_DEPTH_MAX];
    uint32_t depth;
    const char *problem; /* NULL: none */
};

static struct parse_frame *parse_top(struct parse *parse) {
    KELPIE_ASSERT(parse->depth > 0);
    return &parse->frames[parse->depth - 1];
}

static uint32_t parse_emit(struct parse *parse, enum shell_op op, struct shell_range range,
                           uint32_t target) {
    struct shell_code *code = parse->code;
    if (code->count == code->capacity) {
        uint32_t capacity = code->capacity * 2 + 32;
        struct shell_instruction *bigger =
            kelpie__alloc(parse->shell->os, capacity * sizeof(*bigger));
        if (bigger == NULL) {
            parse->problem = "out of memory";
            return 0;
        }
        if (code->count > 0) {
            memcpy(bigger, code->instructions, code->count * sizeof(*bigger));
        }
        kelpie__free(parse->shell->os, code->instructions, code->capacity * sizeof(*bigger));
        code->instructions = bigger;
        code->capacity = capacity;
    }
    code->instructions[code->count] =
        (struct shell_instruction){.op = op, .range = range, .target = target};
    code->count += 1;
    return code->count - 1;
}

static uint32_t parse_emit_plain(struct parse *parse, enum shell_op op) {
    return parse_emit(parse, op, (struct shell_range){0, 0}, 0);
}

static void parse_patch(struct parse *parse, uint32_t at) {
    /* Code that was taken back since (`break &`) has nothing to patch. */
    if (at < parse->code->count && parse->problem == NULL) {
        parse->code->instructions[at].target = parse->code->count;
    }
}

static void parse_patch_ends(struct parse *parse, const struct parse_frame *frame) {
    for (uint32_t i = 0; i < frame->end_count; i += 1) {
        parse_patch(parse, frame->ends[i]);
    }
}

static void parse_add_end(struct parse *parse, struct parse_frame *frame, uint32_t at) {
    if (frame->end_count == PARSE_PATCHES_MAX) {
        parse->problem = "too many branches";
        return;
    }
    frame->ends[frame->end_count] = at;
    frame->end_count += 1;
}

/* A new and-or list may begin at the next token. */
static void parse_begin_list(struct parse *parse, struct parse_frame *frame) {
    frame->list_text = parse->at;
    frame->list_code = parse->code->count;
    frame->pipe_text = parse->at;
    frame->pipe_code = parse->code->count;
    frame->stage_count = 0;
    frame->patch = PARSE_NONE;
    frame->is_negated = false;
    frame->is_fresh = true;
}

static struct parse_frame *parse_push(struct parse *parse, enum parse_kind kind) {
    if (parse->depth == SHELL_DEPTH_MAX) {
        parse->problem = "nested too deeply";
        return parse_top(parse);
    }
    struct parse_frame *frame = &parse->frames[parse->depth];
    parse->depth += 1;
    *frame = (struct parse_frame){.kind = kind, .else_patch = PARSE_NONE};
    frame->redirect_code = parse_emit_plain(parse, SHELL_OP_REDIRECT);
    frame->loop_code = parse->code->count;
    parse_begin_list(parse, frame);
    return frame;
}

/* ---- after a command ------------------------------------------------------------------------- */

/* Redirections behind a compound command hold for all of it. */
static void parse_redirections(struct parse *parse, uint32_t redirect_code) {
    uint32_t begin = parse->at;
    uint32_t end = begin;
    bool goes_on = true;
    while (goes_on && parse->problem == NULL) {
        uint32_t at = parse->at;
        struct shell_token token = kelpie__sim_shell_token(parse->text, &at);
        goes_on = token.kind == SHELL_TOKEN_REDIRECT;
        if (goes_on) {
            struct shell_token word = kelpie__sim_shell_token(parse->text, &at);
            parse->problem = word.kind == SHELL_TOKEN_WORD ? NULL : "a redirection to nowhere";
            end = word.range.end;
            parse->at = at;
        }
    }
    parse->code->instructions[redirect_code].range = (struct shell_range){begin, end};
    parse->code->instructions[redirect_code].target = parse->code->count; /* when one fails */
    parse_emit_plain(parse, SHELL_OP_RESTORE);
}

/* The construct on top is complete. */
static void parse_pop(struct parse *parse) {
    const struct parse_frame *frame = parse_top(parse);
    uint32_t redirect_code = frame->redirect_code;
    parse->depth -= 1;
    parse_redirections(parse, redirect_code);
}

static void parse_end_pipeline(struct parse *parse, struct parse_frame *frame, uint32_t end) {
    if (frame->stage_count > 0) {
        uint32_t count = frame->stage_count;
        frame->stages[count] = (struct shell_range){frame->pipe_text, end};
        parse->code->count = frame->pipe_code;
        parse_emit(parse, SHELL_OP_PIPELINE, (struct shell_range){0, 0}, count + 1);
        for (uint32_t i = 0; i <= count; i += 1) {
            parse_emit(parse, SHELL_OP_STAGE, frame->stages[i], 0);
        }
        frame->stage_count = 0;
    }
    if (frame->is_negated) {
        parse_emit_plain(parse, SHELL_OP_NOT);
        frame->is_negated = false;
    }
    parse_patch(parse, frame->patch);
    frame->patch = PARSE_NONE;
}

/* What follows a command, simple or compound. */
static void parse_after_command(struct parse *parse) {
    struct parse_frame *frame = parse_top(parse);
    uint32_t end = parse->at;
    uint32_t at = parse->at;
    struct shell_token token = kelpie__sim_shell_token(parse->text, &at);
    if (token.kind == SHELL_TOKEN_PIPE) {
        if (frame->stage_count + 1 == SHELL_STAGES_MAX) {
            parse->problem = "too many stages";
            return;
        }
        frame->stages[frame->stage_count] = (struct shell_range){frame->pipe_text, end};
        frame->stage_count += 1;
        parse->code->count = frame->pipe_code;
        parse->at = at;
        frame->pipe_text = at;
        return;
    }
    parse_end_pipeline(parse, frame, end);
    switch (token.kind) {
    case SHELL_TOKEN_AND:
    case SHELL_TOKEN_OR:
        frame->patch = parse_emit_plain(parse, token.kind == SHELL_TOKEN_AND ? SHELL_OP_IF_FAILED
                                                                             : SHELL_OP_IF_GOOD);
        parse->at = at;
        frame->pipe_text = at;
        frame->pipe_code = parse->code->count;
        break;
    case SHELL_TOKEN_AMPERSAND:
        parse->code->count = frame->list_code;
        parse_emit(parse, SHELL_OP_BACKGROUND, (struct shell_range){frame->list_text, end}, 0);
        parse->at = at;
        parse_begin_list(parse, frame);
        break;
    case SHELL_TOKEN_SEMICOLON:
    case SHELL_TOKEN_NEWLINE:
        parse->at = at;
        parse_begin_list(parse, frame);
        break;
    case SHELL_TOKEN_END:
    case SHELL_TOKEN_CASE_END:
        parse_begin_list(parse, frame);
        break;
    case SHELL_TOKEN_WORD:
    case SHELL_TOKEN_OPEN:
    case SHELL_TOKEN_CLOSE:
    case SHELL_TOKEN_PIPE:
    case SHELL_TOKEN_REDIRECT:
    case SHELL_TOKEN_BAD:
        parse->problem = "unexpected word or operator";
        break;
    }
}

/* ---- the constructs -------------------------------------------------------------------------- */

static struct shell_token parse_next(struct parse *parse) {
    return kelpie__sim_shell_token(parse->text, &parse->at);
}

/* Over newlines and one semicolon, to this word. */
static void parse_expect(struct parse *parse, const char *word) {
    struct shell_token token = parse_next(parse);
    while (token.kind == SHELL_TOKEN_NEWLINE || token.kind == SHELL_TOKEN_SEMICOLON) {
        token = parse_next(parse);
    }
    if (token.kind != SHELL_TOKEN_WORD ||
        !kelpie__sim_shell_is_word(parse->text, token.range, word)) {
        parse->problem = "a word of the construct is missing";
    }
}

/* "for NAME in WORDS; do": the range is "NAME in WORDS". */
static void parse_for(struct parse *parse) {
    struct parse_frame *frame = parse_push(parse, PARSE_LOOP_BODY);
    uint32_t begin = parse->at;
    uint32_t end = begin;
    uint32_t at = begin;
    struct shell_token token = kelpie__sim_shell_token(parse->text, &at);
    while (token.kind == SHELL_TOKEN_WORD) {
        end = token.range.end;
        parse->at = at;
        token = kelpie__sim_shell_token(parse->text, &at);
    }
    parse_expect(parse, "do");
    frame->is_for = true;
    parse_emit(parse, SHELL_OP_FOR, (struct shell_range){begin, end}, 0);
    frame->loop_code = parse_emit_plain(parse, SHELL_OP_NEXT);
    parse_add_end(parse, frame, frame->loop_code);
    parse_begin_list(parse, frame);
}

static void parse_subshell(struct parse *parse) {
    uint32_t begin = parse->at;
    uint32_t end = kelpie__sim_shell_close(parse->text, begin, ')');
    if (end == UINT32_MAX) {
        parse->problem = "no closing parenthesis";
        return;
    }
    uint32_t redirect_code = parse_emit_plain(parse, SHELL_OP_REDIRECT);
    parse_emit(parse, SHELL_OP_SUBSHELL, (struct shell_range){begin, end}, 0);
    parse->at = end + 1;
    parse_redirections(parse, redirect_code);
    parse_after_command(parse);
}

/* "PATTERN | PATTERN )" of a case; or its end. */
static void parse_case_clause(struct parse *parse) {
    struct parse_frame *frame = parse_top(parse);
    KELPIE_ASSERT(frame->kind == PARSE_CASE);
    struct shell_token token = parse_next(parse);
    while (token.kind == SHELL_TOKEN_NEWLINE) {
        token = parse_next(parse);
    }
    if (token.kind == SHELL_TOKEN_WORD &&
        kelpie__sim_shell_is_word(parse->text, token.range, "esac")) {
        parse_patch(parse, frame->else_patch);
        parse_emit_plain(parse, SHELL_OP_OK);
        parse_patch_ends(parse, frame);
        parse_pop(parse);
        parse_after_command(parse);
        return;
    }
    if (token.kind == SHELL_TOKEN_OPEN) {
        token = parse_next(parse);
    }
    uint32_t begin = token.range.begin;
    while (token.kind == SHELL_TOKEN_WORD || token.kind == SHELL_TOKEN_PIPE) {
        token = parse_next(parse);
    }
    if (token.kind != SHELL_TOKEN_CLOSE) {
        parse->problem = "a pattern of case has no end";
        return;
    }
    parse_patch(parse, frame->else_patch);
    frame->else_patch =
        parse_emit(parse, SHELL_OP_MATCH, (struct shell_range){begin, token.range.begin}, 0);
    parse_emit_plain(parse, SHELL_OP_OK);
    parse_begin_list(parse, frame);
}

static void parse_case(struct parse *parse) {
    struct shell_token word = parse_next(parse);
    kelpie__ignore(parse_push(parse, PARSE_CASE)->kind);
    parse_emit(parse, SHELL_OP_CASE, word.range, 0);
    parse_expect(parse, "in");
    if (parse->problem == NULL) {
        parse_case_clause(parse);
    }
}

/* break or continue: known when the script is compiled. */
static void parse_leave(struct parse *parse, bool is_break) {
    uint32_t depth = parse->depth;
    while (depth > 0 && parse->frames[depth - 1].kind != PARSE_LOOP_BODY &&
           parse->frames[depth - 1].kind != PARSE_LOOP_CONDITION) {
        depth -= 1;
    }
    if (depth == 0) {
        return; /* outside of a loop they do nothing */
    }
    struct parse_frame *loop = &parse->frames[depth - 1];
    for (uint32_t i = depth; i < parse->depth; i += 1) { /* what is between */
        parse_emit_plain(parse, SHELL_OP_RESTORE);
    }
    if (!is_break) {
        parse_emit(parse, SHELL_OP_JUMP, (struct shell_range){0, 0}, loop->loop_code);
        return;
    }
    if (loop->is_for) {
        parse_emit_plain(parse, SHELL_OP_POP);
    }
    parse_add_end(parse, loop, parse_emit_plain(parse, SHELL_OP_JUMP));
}

/* ---- words that end constructs --------------------------------------------------------------- */

static void parse_then(struct parse *parse, struct parse_frame *frame) {
    frame->else_patch = parse_emit_plain(parse, SHELL_OP_IF_FAILED);
    frame->kind = PARSE_IF_BODY;
    parse_begin_list(parse, frame);
}

/* else, elif */
static void parse_else(struct parse *parse, struct parse_frame *frame, bool is_elif) {
    parse_add_end(parse, frame, parse_emit_plain(parse, SHELL_OP_JUMP));
    parse_patch(parse, frame->else_patch);
    frame->else_patch = PARSE_NONE;
    frame->kind = is_elif ? PARSE_IF_CONDITION : PARSE_ELSE_BODY;
    parse_begin_list(parse, frame);
}

static void parse_fi(struct parse *parse, struct parse_frame *frame) {
    if (frame->kind == PARSE_IF_BODY) {
        parse_else(parse, frame, false);
        parse_emit_plain(parse, SHELL_OP_OK);
    }
    parse_patch_ends(parse, frame);
    parse_pop(parse);
    parse_after_command(parse);
}

static void parse_do(struct parse *parse, struct parse_frame *frame) {
    parse_add_end(parse, frame,
                  parse_emit_plain(parse, frame->is_until ? SHELL_OP_IF_GOOD : SHELL_OP_IF_FAILED));
    frame->kind = PARSE_LOOP_BODY;
    parse_begin_list(parse, frame);
}

static void parse_done(struct parse *parse, struct parse_frame *frame) {
    parse_emit(parse, SHELL_OP_JUMP, (struct shell_range){0, 0}, frame->loop_code);
    parse_patch_ends(parse, frame);
    parse_emit_plain(parse, SHELL_OP_OK);
    parse_pop(parse);
    parse_after_command(parse);
}

/* True: the word ended a part of the construct on top. */
static bool parse_closer(struct parse *parse, struct shell_range word) {
    struct parse_frame *frame = parse_top(parse);
    const struct shell_text *text = parse->text;
    if (frame->kind == PARSE_IF_CONDITION && kelpie__sim_shell_is_word(text, word, "then")) {
        parse_then(parse, frame);
    } else if (frame->kind == PARSE_IF_BODY && kelpie__sim_shell_is_word(text, word, "elif")) {
        parse_else(parse, frame, true);
    } else if (frame->kind == PARSE_IF_BODY && kelpie__sim_shell_is_word(text, word, "else")) {
        parse_else(parse, frame, false);
    } else if ((frame->kind == PARSE_IF_BODY || frame->kind == PARSE_ELSE_BODY) &&
               kelpie__sim_shell_is_word(text, word, "fi")) {
        parse_fi(parse, frame);
    } else if (frame->kind == PARSE_LOOP_CONDITION && kelpie__sim_shell_is_word(text, word, "do")) {
        parse_do(parse, frame);
    } else if (frame->kind == PARSE_LOOP_BODY && kelpie__sim_shell_is_word(text, word, "done")) {
        parse_done(parse, frame);
    } else if (frame->kind == PARSE_BRACE && kelpie__sim_shell_is_word(text, word, "}")) {
        parse_pop(parse);
        parse_after_command(parse);
    } else if (frame->kind == PARSE_CASE && kelpie__sim_shell_is_word(text, word, "esac")) {
        parse->at = word.begin;
        parse_add_end(parse, frame, parse_emit_plain(parse, SHELL_OP_JUMP));
        parse_case_clause(parse);
    } else {
        return false;
    }
    return true;
}

/* True: the word begins a construct. */
static bool parse_opener(struct parse *parse, struct shell_range word) {
    const struct shell_text *text = parse->text;
    if (kelpie__sim_shell_is_word(text, word, "if")) {
        kelpie__ignore(parse_push(parse, PARSE_IF_CONDITION)->kind);
    } else if (kelpie__sim_shell_is_word(text, word, "while")) {
        kelpie__ignore(parse_push(parse, PARSE_LOOP_CONDITION)->kind);
    } else if (kelpie__sim_shell_is_word(text, word, "until")) {
        parse_push(parse, PARSE_LOOP_CONDITION)->is_until = true;
    } else if (kelpie__sim_shell_is_word(text, word, "{")) {
        kelpie__ignore(parse_push(parse, PARSE_BRACE)->kind);
    } else if (kelpie__sim_shell_is_word(text, word, "for")) {
        parse_for(parse);
    } else if (kelpie__sim_shell_is_word(text, word, "case")) {
        parse_case(parse);
    } else if (kelpie__sim_shell_is_word(text, word, "!")) {
        parse_top(parse)->is_negated = !parse_top(parse)->is_negated;
    } else {
        return false;
    }
    return true;
}

/* From its first token on; parse->at is behind that. */
static void parse_simple(struct parse *parse, const struct shell_token *first) {
    uint32_t end = first->range.end;
    uint32_t at = first->kind == SHELL_TOKEN_REDIRECT ? first->range.begin : parse->at;
    bool goes_on = true;
    while (goes_on) {
        uint32_t next = at;
        struct shell_token token = kelpie__sim_shell_token(parse->text, &next);
        goes_on = token.kind == SHELL_TOKEN_WORD || token.kind == SHELL_TOKEN_REDIRECT;
        if (goes_on) {
            end = token.range.end;
            at = next;
        }
    }
    parse->at = at;
    struct shell_range range = {first->range.begin, end};
    if (kelpie__sim_shell_is_word(parse->text, range, "break")) {
        parse_leave(parse, true);
    } else if (kelpie__sim_shell_is_word(parse->text, range, "continue")) {
        parse_leave(parse, false);
    } else {
        parse_emit(parse, SHELL_OP_COMMAND, range, 0);
    }
    parse_after_command(parse);
}

/* ---- all of it ------------------------------------------------------------------------------- */

static void parse_step(struct parse *parse, const struct shell_token *token) {
    struct parse_frame *frame = parse_top(parse);
    bool was_fresh = frame->is_fresh;
    if (was_fresh) { /* the list begins where its first token does */
        frame->list_text = token->range.begin;
        frame->pipe_text = token->range.begin;
    }
    switch (token->kind) {
    case SHELL_TOKEN_NEWLINE:
        break; /* also after && and | */
    case SHELL_TOKEN_SEMICOLON:
        parse->problem = "unexpected \";\"";
        break;
    case SHELL_TOKEN_OPEN:
        frame->is_fresh = false;
        parse_subshell(parse);
        break;
    case SHELL_TOKEN_CASE_END:
        if (frame->kind != PARSE_CASE) {
            parse->problem = "unexpected \";;\"";
            break;
        }
        parse_add_end(parse, frame, parse_emit_plain(parse, SHELL_OP_JUMP));
        parse_case_clause(parse);
        break;
    case SHELL_TOKEN_WORD:
        if (was_fresh && parse_closer(parse, token->range)) {
            break;
        }
        frame->is_fresh = false;
        if (!parse_opener(parse, token->range)) {
            parse_simple(parse, token);
        }
        break;
    case SHELL_TOKEN_REDIRECT:
        frame->is_fresh = false;
        parse_simple(parse, token);
        break;
    case SHELL_TOKEN_END:
    case SHELL_TOKEN_AMPERSAND:
    case SHELL_TOKEN_AND:
    case SHELL_TOKEN_OR:
    case SHELL_TOKEN_PIPE:
    case SHELL_TOKEN_CLOSE:
    case SHELL_TOKEN_BAD:
        parse->problem = "unexpected operator";
        break;
    }
}

int kelpie__sim_shell_compile(struct shell *shell, struct shell_code *code) {
    struct parse *parse = kelpie__sim_shell_alloc(shell, sizeof(*parse));
    memset(parse, 0, sizeof(*parse));
    parse->shell = shell;
    parse->code = code;
    parse->text = &code->text;
    KELPIE_ASSERT(code->count == 0);
    kelpie__ignore(parse_push(parse, PARSE_TOP)->kind);
    struct shell_token token = parse_next(parse);
    while (token.kind != SHELL_TOKEN_END && parse->problem == NULL) { /* bound: the text */
        parse_step(parse, &token);
        token = parse_next(parse);
    }
    if (parse->problem == NULL && parse->depth != 1) {
        parse->problem = "unexpected end of the script";
    }
    parse_emit_plain(parse, SHELL_OP_RESTORE);
    parse_emit_plain(parse, SHELL_OP_END);
    if (parse->problem != NULL) {
        kelpie__sim_shell_complain(shell, "syntax error near byte %u: %s", parse->at,
                                   parse->problem);
        return -EINVAL;
    }
    return 0;
}

void kelpie__sim_shell_code_free(struct shell *shell, struct shell_code *code) {
    kelpie__free(shell->os, code->instructions, code->capacity * sizeof(*code->instructions));
    kelpie__sim_shell_drop(shell, code->bytes);
    kelpie__free(shell->os, code, sizeof(*code));
}
