/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Any bytes as a plan of faults, and as a case of the simulator. Half of the inputs choose words of
 * the language, a byte each, so that what is nearly right is met, too. A rule that was read and
 * written again reads the same; nothing is read beyond the end; a refusal says where.
 */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "os/os_fault_plan.h"
#include "sim/case.h"

#define PLAN_BYTES_MAX 16384u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char *const words[] = {
    "sync ",
    "* ",
    "read ",
    "qmp.migrate ",
    "disk ",
    "clock ",
    "host ",
    "boot ",
    "fails ",
    "exec ",
    "times ",
    "out ",
    "snapshot ",
    "krun.fly ",
    "p=0.5 ",
    "p=1 ",
    "p=1e ",
    "nth=3 ",
    "nth=0 ",
    "every=2 ",
    "max=4 ",
    "role=a ",
    "path=/",
    "vm=v ",
    "birth=12 ",
    "after=m ",
    "after=mark:x ",
    "while=pending ",
    "window=",
    "1s..2s ",
    "5ms..",
    "=> ",
    "=>",
    "EIO",
    "EIO:lie ",
    "kill",
    "stop:10s ",
    "late:1h",
    "jump:-86400s ",
    "power-loss ",
    "short ",
    "mutate:0 ",
    "\n",
    ";",
    "# ",
    "\t",
    "\"",
    "kelpie-plan ",
    "1 ",
    "2 ",
    "seed=",
    "commit=ab ",
    "options=",
    "faults=swarm",
    ",",
    "canary=2",
    "plain",
    "krun",
    "do ",
    "op=",
    "create ",
    "restore ",
    "snapshot=1 ",
    "value=5 ",
    "18446744073709551615",
    "99999999999999999999 ",
    "at=1 ",
    "target=2 ",
    "look=",
    "kind=",
    "-1",
    "0 ",
    " ",
    "\xff",
    "state ",
    "client=1 ",
    "rest=9 ",
};

static size_t compose(const uint8_t *data, size_t size, char out[PLAN_BYTES_MAX]) {
    size_t length = 0;
    for (size_t i = 0; i < size; i += 1) {
        const char *word = words[data[i] % (sizeof(words) / sizeof(words[0]))];
        size_t bytes = strlen(word);
        if (length + bytes + 1 >= PLAN_BYTES_MAX) {
            break;
        }
        memcpy(out + length, word, bytes);
        length += bytes;
    }
    out[length] = '\0';
    return length;
}

static void check_rule(const struct kelpie_fault_rule *rule) {
    char line[KELPIE_FAULT_LINE_MAX];
    char again[KELPIE_FAULT_LINE_MAX];
    struct kelpie_fault_reader reader;
    struct kelpie_fault_rule read;
    size_t length = kelpie__fault_rule_format(rule, line);
    KELPIE_ASSERT(length < sizeof(line) && line[length] == '\0');
    bool is_open = kelpie__fault_reader_open(&reader, line);
    KELPIE_ASSERT(is_open);
    int found = kelpie__fault_reader_next(&reader, &read);
    KELPIE_ASSERT(found == 1);
    kelpie__ignore(kelpie__fault_rule_format(&read, again) > 0); /* it is compared */
    KELPIE_ASSERT(strcmp(line, again) == 0);
}

static void check_plan(const char *text) {
    struct kelpie_fault_reader reader;
    struct kelpie_fault_rule rule;
    int found = kelpie__fault_reader_open(&reader, text) ? 1 : -1;
    size_t count = 0;
    while (found == 1) { /* bound: the text */
        found = kelpie__fault_reader_next(&reader, &rule);
        if (found == 1) {
            check_rule(&rule);
            count += 1;
        }
        KELPIE_ASSERT(count <= strlen(text));
    }
    if (found < 0) {
        KELPIE_ASSERT(strncmp(reader.problem, "line ", 5) == 0);
        KELPIE_ASSERT(strstr(reader.problem, "expected ") != NULL);
    }
}

static void check_case(const char *text) {
    char problem[SIM_CASE_PROBLEM_MAX] = "";
    struct sim_case read = {0};
    if (kelpie__sim_case_read(text, &read, problem)) {
        KELPIE_ASSERT(read.plan != NULL && problem[0] == '\0');
        kelpie__sim_case_release(&read);
    } else {
        KELPIE_ASSERT(read.plan == NULL && problem[0] != '\0');
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    char composed[PLAN_BYTES_MAX];
    bool is_composed = size > 0 && data[0] % 2 == 0;
    size_t length = is_composed ? compose(data + 1, size - 1, composed) : size;
    char *text = malloc(length + 1); /* of its own, so that a sanitizer sees its end */
    if (text == NULL) {
        return 0;
    }
    if (length > 0) {
        memcpy(text, is_composed ? composed : (const char *)data, length);
    }
    text[length] = '\0';
    check_plan(text);
    check_case(text);
    free(text);
    return 0;
}
