/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * See case.h.
 */
#include "sim/case.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/text.h"
#include "os/os_fault_plan.h"

#define CASE_LINE_BYTES_MAX 512u
#define CASE_WORD_BYTES_MAX 48u
#define CASE_OPERATION_WORD "do "
#define CASE_HEADER_WORD "kelpie-plan"

/* Numbers of an operation; a line leaves out those that are 0. */
static const struct {
    const char *name;
    size_t offset;
    size_t bytes;
    uint64_t end; /* the least that is too much; 0: anything fits */
} fields[] = {
    {"client", offsetof(struct sim_operation, client), sizeof(uint8_t), SIM_SWARM_CLIENT_MAX},
    {"vm", offsetof(struct sim_operation, vm), sizeof(uint8_t), SIM_SWARM_VM_MAX},
    {"target", offsetof(struct sim_operation, target), sizeof(uint8_t), SIM_SWARM_VM_MAX},
    {"snapshot", offsetof(struct sim_operation, snapshot), sizeof(uint32_t), UINT32_MAX},
    {"rest", offsetof(struct sim_operation, rest_ms), sizeof(uint16_t), UINT16_MAX + 1u},
    {"at", offsetof(struct sim_operation, at_ns), sizeof(int64_t), UINT64_C(1) << 62},
    {"herd", offsetof(struct sim_operation, herd), sizeof(uint32_t), SIM_HERD_MAX},
    {"value", offsetof(struct sim_operation, value), sizeof(uint64_t), 0},
};

static uint64_t field_get(const struct sim_operation *operation, size_t index) {
    const char *at = (const char *)operation + fields[index].offset;
    uint8_t byte = 0;
    uint16_t half = 0;
    uint32_t word = 0;
    uint64_t number = 0;
    switch (fields[index].bytes) {
    case sizeof(byte):
        memcpy(&byte, at, sizeof(byte));
        return byte;
    case sizeof(half):
        memcpy(&half, at, sizeof(half));
        return half;
    case sizeof(word):
        memcpy(&word, at, sizeof(word));
        return word;
    default:
        KELPIE_ASSERT(fields[index].bytes == sizeof(number));
        memcpy(&number, at, sizeof(number));
        return number;
    }
}

static void field_set(struct sim_operation *operation, size_t index, uint64_t value) {
    char *at = (char *)operation + fields[index].offset;
    const uint8_t byte = (uint8_t)value;
    const uint16_t half = (uint16_t)value;
    const uint32_t word = (uint32_t)value;
    const void *from = fields[index].bytes == sizeof(byte)   ? (const void *)&byte
                       : fields[index].bytes == sizeof(half) ? (const void *)&half
                       : fields[index].bytes == sizeof(word) ? (const void *)&word
                                                             : (const void *)&value;
    KELPIE_ASSERT(fields[index].end == 0 || value < fields[index].end);
    memcpy(at, from, fields[index].bytes);
    KELPIE_ASSERT(field_get(operation, index) == value);
}

/* ---- reading --------------------------------------------------------------------------------- */

struct case_reader {
    const char *text;
    char *problem;
};

/* Gives false. */
KELPIE_PRINTF(3, 4)
static bool problem(const struct case_reader *reader, const char *where, const char *format, ...) {
    char expected[SIM_CASE_PROBLEM_MAX / 2];
    uint32_t line = 1;
    uint32_t column = 1;
    KELPIE_ASSERT(where >= reader->text);
    for (const char *at = reader->text; at < where; at += 1) {
        line += *at == '\n' ? 1 : 0;
        column = *at == '\n' ? 1 : column + 1;
    }
    va_list arguments;
    va_start(arguments, format);
    kelpie__ignore(vsnprintf(expected, sizeof(expected), format, arguments));
    va_end(arguments);
    kelpie__ignore(kelpie__text_format(reader->problem, SIM_CASE_PROBLEM_MAX,
                                       "line %u, column %u: %s, not "
                                       "\"%.*s\"",
                                       line, column, expected, (int)strcspn(where, " \t\n,"),
                                       where));
    return false;
}

/* "op=exec": the word behind `name` and '='; false: it is another name. */
static bool take_value(const char *word, size_t length, const char *name,
                       char out[CASE_WORD_BYTES_MAX]) {
    size_t skipped = strlen(name) + 1;
    KELPIE_ASSERT(skipped > 1 && skipped < CASE_WORD_BYTES_MAX);
    if (length < skipped || length - skipped >= CASE_WORD_BYTES_MAX || word[skipped - 1] != '=' ||
        strncmp(word, name, skipped - 1) != 0) {
        return false;
    }
    memcpy(out, word + skipped, length - skipped);
    out[length - skipped] = '\0';
    return true;
}

static bool take_name(const char *value, const char *(*name_of)(uint32_t), uint32_t count,
                      uint32_t *out) {
    for (uint32_t i = 0; i < count; i += 1) {
        if (strcmp(value, name_of(i)) == 0) {
            *out = i;
            return true;
        }
    }
    return false;
}

static const char *op_name(uint32_t op) {
    KELPIE_ASSERT(op < SIM_MODEL_OP_COUNT);
    return kelpie__sim_model_op_name((enum sim_model_op)op);
}

static bool read_operation_word(const struct case_reader *reader, const char *word, size_t length,
                                struct sim_operation *operation) {
    char value[CASE_WORD_BYTES_MAX];
    uint32_t index = 0;
    if (take_value(word, length, "op", value)) {
        bool is_known = take_name(value, op_name, SIM_MODEL_OP_COUNT, &index);
        operation->op = (enum sim_model_op)index;
        return is_known || problem(reader, word, "expected the name of an operation");
    }
    if (take_value(word, length, "look", value)) {
        bool is_known = take_name(value, kelpie__sim_look_name, SIM_LOOK_COUNT, &index);
        operation->is_look = true;
        operation->kind = (uint8_t)index;
        return is_known || problem(reader, word, "expected the name of a look");
    }
    if (take_value(word, length, "kind", value)) {
        bool is_known = take_name(value, kelpie__sim_command_name, SIM_COMMAND_COUNT, &index);
        operation->kind = (uint8_t)index;
        return is_known || problem(reader, word, "expected the name of a command");
    }
    for (size_t i = 0; i < KELPIE_ARRAY_COUNT(fields); i += 1) {
        uint64_t number = 0;
        if (!take_value(word, length, fields[i].name, value)) {
            continue;
        }
        if (!kelpie__text_u64(value, &number) || (fields[i].end > 0 && number >= fields[i].end)) {
            return problem(reader, word, "expected %s= and a number that fits", fields[i].name);
        }
        field_set(operation, i, number);
        return true;
    }
    return problem(
        reader, word,
        "expected op=, look=, kind=, client=, vm=, target=, snapshot=, rest=, at=, herd= "
        "or value=");
}

static bool read_operation(const struct case_reader *reader, const char *line, const char *end,
                           struct sim_operation *out) {
    const char *at = line + strlen(CASE_OPERATION_WORD);
    KELPIE_ASSERT(at <= end && reader->problem != NULL);
    *out = (struct sim_operation){0};
    while (at < end) { /* bound: the line */
        size_t length = strcspn(at, " \t\n");
        if (length > 0 && !read_operation_word(reader, at, length, out)) {
            return false;
        }
        at += length + 1;
    }
    if (!out->is_look && kelpie__sim_model_is_of_snapshot(out->op) && out->snapshot == 0) {
        return problem(reader, line, "expected a snapshot= for this operation");
    }
    if (!out->is_look && kelpie__sim_model_makes_from(out->op) && out->target == out->vm) {
        return problem(reader, line, "expected a target= that is another VM");
    }
    return true;
}

/* The `do` lines, which are blanked: what is left is a plan with the same line numbers. */
static bool read_operations(const struct case_reader *reader, struct sim_case *out) {
    char *line = out->plan;
    KELPIE_ASSERT(line != NULL && out->operations == NULL);
    out->operations = calloc(SIM_OPERATION_MAX, sizeof(*out->operations));
    if (out->operations == NULL) {
        kelpie__ignore(kelpie__text_copy(reader->problem, SIM_CASE_PROBLEM_MAX, "no memory"));
        return false;
    }
    while (*line != '\0') { /* bound: the text */
        const char *where = reader->text + (line - out->plan);
        size_t length = strcspn(line, "\n");
        if (kelpie__text_has_prefix(line, CASE_OPERATION_WORD)) {
            if (out->operation_count == SIM_OPERATION_MAX) {
                return problem(reader, where, "expected at most %u operations", SIM_OPERATION_MAX);
            }
            struct sim_operation *operation = &out->operations[out->operation_count];
            if (!read_operation(reader, where, where + length, operation)) {
                return false;
            }
            out->operation_count += 1;
            memset(line, ' ', length);
        }
        line += length + (line[length] == '\n' ? 1 : 0);
    }
    if (out->operation_count == 0) {
        free(out->operations);
        out->operations = NULL;
    }
    return true;
}

/* `word` is a copy of what stands at `where`. */
static bool read_option(const struct case_reader *reader, const char *where, const char *word,
                        size_t length, struct sim_case *out) {
    static const char *const names[] = {[SIM_RUN_FAULTS_NONE] = "none",
                                        [SIM_RUN_FAULTS_CALM] = "calm",
                                        [SIM_RUN_FAULTS_SWARM] = "swarm",
                                        [SIM_RUN_FAULTS_PLAN] = "plan"};
    char value[CASE_WORD_BYTES_MAX];
    uint64_t number = 0;
    if (take_value(word, length, "faults", value)) {
        for (uint32_t i = 0; i < KELPIE_ARRAY_COUNT(names); i += 1) {
            if (strcmp(names[i], value) == 0) {
                out->faults = (enum sim_run_faults)i;
                return true;
            }
        }
        return problem(reader, where, "expected faults=none, calm, swarm or plan");
    }
    if (take_value(word, length, "canary", value)) {
        bool is_number = kelpie__text_u64(value, &number) && number <= UINT32_MAX;
        out->canary = (uint32_t)number;
        return is_number || problem(reader, where, "expected canary=NUMBER");
    }
    bool is_plain = length == strlen("plain") && strncmp(word, "plain", length) == 0;
    bool is_krun = length == strlen("krun") && strncmp(word, "krun", length) == 0;
    out->is_plain = out->is_plain || is_plain;
    out->is_krun = out->is_krun || is_krun;
    return is_plain || is_krun ||
           problem(reader, where, "expected an option of faults=, canary=, plain and krun");
}

static bool read_header(const struct case_reader *reader, struct sim_case *out) {
    struct kelpie_fault_reader header;
    if (!kelpie__fault_reader_open(&header, reader->text)) {
        return kelpie__text_copy(reader->problem, SIM_CASE_PROBLEM_MAX, header.problem) && false;
    }
    if (!header.header.has_seed) {
        return problem(reader, reader->text,
                       "expected a first line that begins with \"" CASE_HEADER_WORD
                       " 1\" and names a seed=N");
    }
    out->seed = header.header.seed;
    const char *at = header.header.options;
    const char *first = strstr(reader->text, at);
    while (*at != '\0') { /* bound: the options */
        size_t length = strcspn(at, ",");
        const char *where = first == NULL ? reader->text : first + (at - header.header.options);
        if (!read_option(reader, where, at, length, out)) {
            return false;
        }
        at += length + (at[length] == ',' ? 1 : 0);
    }
    return true;
}

bool kelpie__sim_case_read(const char *text, struct sim_case *out,
                           char out_problem[SIM_CASE_PROBLEM_MAX]) {
    const struct case_reader reader = {.text = text, .problem = out_problem};
    struct sim_case read = {.faults = SIM_RUN_FAULTS_PLAN};
    size_t bytes = strlen(text) + 1;
    read.plan = malloc(bytes);
    if (read.plan == NULL) {
        kelpie__ignore(kelpie__text_copy(out_problem, SIM_CASE_PROBLEM_MAX, "no memory"));
        return false;
    }
    memcpy(read.plan, text, bytes);
    if (!read_header(&reader, &read) || !read_operations(&reader, &read)) {
        kelpie__sim_case_release(&read);
        return false;
    }
    *out = read;
    return true;
}

void kelpie__sim_case_release(struct sim_case *released) {
    free(released->plan);
    free(released->operations);
    *released = (struct sim_case){0};
}

/* ---- writing --------------------------------------------------------------------------------- */

/* A text that is cut at its end; the longest line fits. */
struct case_line {
    size_t length;
    char text[CASE_LINE_BYTES_MAX];
};

KELPIE_PRINTF(2, 3) static void line_add(struct case_line *line, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    size_t room = sizeof(line->text) - line->length;
    int length = vsnprintf(line->text + line->length, room, format, arguments);
    va_end(arguments);
    KELPIE_ASSERT(length >= 0 && (size_t)length < room);
    line->length += (size_t)length;
}

static void write_header(const struct sim_case *written, sim_trace_write out, void *context) {
    static const char *const names[] = {"none", "calm", "swarm", "plan"};
    struct case_line line = {0};
    KELPIE_ASSERT((size_t)written->faults < KELPIE_ARRAY_COUNT(names));
    line_add(&line, CASE_HEADER_WORD " %u seed=%llu options=faults=%s", KELPIE_FAULT_PLAN_VERSION,
             (unsigned long long)written->seed, names[written->faults]);
    if (written->canary > 0) {
        line_add(&line, ",canary=%u", written->canary);
    }
    line_add(&line, "%s%s\n", written->is_plain ? ",plain" : "", written->is_krun ? ",krun" : "");
    out(context, line.text, line.length);
}

static void write_operation(const struct sim_operation *operation, sim_trace_write out,
                            void *context) {
    struct case_line line = {0};
    KELPIE_ASSERT(operation->client < SIM_SWARM_CLIENT_MAX && operation->vm < SIM_SWARM_VM_MAX);
    if (operation->is_look) {
        line_add(&line, CASE_OPERATION_WORD "look=%s", kelpie__sim_look_name(operation->kind));
    } else {
        line_add(&line, CASE_OPERATION_WORD "op=%s", op_name(operation->op));
    }
    if (!operation->is_look && operation->op == SIM_MODEL_EXEC) {
        line_add(&line, " kind=%s", kelpie__sim_command_name(operation->kind));
    }
    for (size_t i = 0; i < KELPIE_ARRAY_COUNT(fields); i += 1) {
        uint64_t value = field_get(operation, i);
        if (value > 0) {
            line_add(&line, " %s=%llu", fields[i].name, (unsigned long long)value);
        }
    }
    line_add(&line, "\n");
    out(context, line.text, line.length);
}

void kelpie__sim_case_write(const struct sim_case *written, sim_trace_write out, void *context) {
    const char *line = written->plan;
    KELPIE_ASSERT(written->operation_count <= SIM_OPERATION_MAX);
    write_header(written, out, context);
    while (*line != '\0') { /* bound: the text */
        size_t length = strcspn(line, "\n");
        bool is_blank = strspn(line, " \t") >= length;
        if (!is_blank && !kelpie__text_has_prefix(line, CASE_HEADER_WORD)) {
            out(context, line, length);
            out(context, "\n", 1);
        }
        line += length + (line[length] == '\n' ? 1 : 0);
    }
    for (uint32_t i = 0; i < written->operation_count; i += 1) {
        write_operation(&written->operations[i], out, context);
    }
}

/* ---- running --------------------------------------------------------------------------------- */

void kelpie__sim_case_options(const struct sim_case *run, struct sim_run_options *out) {
    bool has_rules = run->faults == SIM_RUN_FAULTS_PLAN || run->faults == SIM_RUN_FAULTS_SWARM;
    KELPIE_ASSERT(run->plan != NULL);
    *out = (struct sim_run_options){.seed = run->seed,
                                    .faults = has_rules ? SIM_RUN_FAULTS_PLAN : run->faults,
                                    .plan = has_rules ? run->plan : NULL,
                                    .is_swarm = run->faults == SIM_RUN_FAULTS_SWARM,
                                    .is_plain = run->is_plain,
                                    .is_krun = run->is_krun,
                                    .operations = run->operations,
                                    .operation_count = run->operation_count,
                                    .canary = run->canary};
}
