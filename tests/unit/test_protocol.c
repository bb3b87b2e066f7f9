/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * docs/protocol.md against the code: its table of maxima against limits.h, its examples in hex
 * against the encoder, its table of rules against the texts in the code.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/limits.h"
#include "core/text.h"
#include "wire/frame.h"

#define DOCUMENT_BYTES_MAX 65536u
#define RULE_COUNT 23

#define LIMIT(name)                                                                                \
    { #name, (uint64_t)(name) }

static const struct {
    const char *name;
    uint64_t value;
} limits[] = {
    LIMIT(KELPIE_PROTOCOL_VERSION),
    LIMIT(KELPIE_PROTOCOL_VERSION_MIN),
    LIMIT(KELPIE_FRAME_HEADER_BYTES),
    LIMIT(KELPIE_FRAME_BYTES_MAX),
    LIMIT(KELPIE_FRAME_PAYLOAD_BYTES_MAX),
    LIMIT(KELPIE_MESSAGE_BYTES_MAX),
    LIMIT(KELPIE_JSON_DEPTH_MAX),
    LIMIT(KELPIE_METHOD_BYTES_MAX),
    LIMIT(KELPIE_FEATURE_COUNT_MAX),
    LIMIT(KELPIE_WIRE_OUTPUT_BYTES),
    LIMIT(KELPIE_WIRE_RESERVE_BYTES),
    LIMIT(KELPIE_WIRE_CALL_COUNT_MAX),
    LIMIT(KELPIE_STREAM_CREDIT_INITIAL_BYTES),
    LIMIT(KELPIE_CHANNEL_MAX),
    LIMIT(KELPIE_MARK_BYTES),
    LIMIT(KELPIE_TOKEN_BYTES),
    LIMIT(KELPIE_EPOCH_BYTES),
    LIMIT(KELPIE_EXEC_ID_CHARACTERS),
    LIMIT(KELPIE_EXEC_COUNT_MAX),
    LIMIT(KELPIE_EXEC_FINISHED_MAX),
    LIMIT(KELPIE_EXEC_ARGUMENT_BYTES_MAX),
    LIMIT(KELPIE_EXEC_ARGUMENT_COUNT_MAX),
    LIMIT(KELPIE_EXEC_LIMIT_COUNT_MAX),
    LIMIT(KELPIE_EXEC_OUTPUT_BYTES),
    LIMIT(KELPIE_EXEC_INPUT_BYTES),
    LIMIT(KELPIE_EXEC_STREAM_BYTES),
    LIMIT(KELPIE_EXEC_TIMEOUT_MS_MAX),
    LIMIT(KELPIE_EXEC_BACKSTOP_MS),
    LIMIT(KELPIE_CLIENT_COUNT_MAX),
    LIMIT(KELPIE_HELLO_TIMEOUT_MS),
    LIMIT(KELPIE_CALL_TIMEOUT_MS),
    LIMIT(KELPIE_RESUME_TIMEOUT_MS),
    LIMIT(KELPIE_QUIESCE_TIMEOUT_MS),
    LIMIT(KELPIE_GUEST_SYNC_TIMEOUT_MS),
};

/* The examples of section 10, in their order, and what each begins with there. */
static const struct {
    struct kelpie_frame frame;
    const char *payload;
} examples[] = {
    {{.type = KELPIE_FRAME_MESSAGE, .length = 63},
     "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"ping\",\"params\":{\"nonce\":\"7\"}}"},
    {{.type = KELPIE_FRAME_DATA, .flags = 1, .length = 8, .stream = 4}, "echo\0hi\0"},
    {{.type = KELPIE_FRAME_DATA, .length = 3, .stream = 6}, "hi\n"},
    {{.type = KELPIE_FRAME_DATA, .flags = 1, .stream = 6, .offset = 3}, ""},
    {{.type = KELPIE_FRAME_CREDIT, .length = 8, .stream = 6, .offset = 0x8000},
     "\0\x80\1\0\0\0\0\0"},
    {{.type = KELPIE_FRAME_STOP, .stream = 6}, ""},
    {{.type = KELPIE_FRAME_MARK, .length = 16}, "0123456789abcdef"},
};

static char document[DOCUMENT_BYTES_MAX];

static int read_document(void **state) {
    (void)state;
    FILE *file = fopen(KELPIE_SOURCE_DIR "/docs/protocol.md", "rb");
    if (file == NULL) {
        return -1;
    }
    size_t length = fread(document, 1, sizeof(document) - 1, file);
    document[length] = '\0';
    return fclose(file) == 0 && length < sizeof(document) - 1 ? 0 : -1;
}

static void test_every_documented_maximum_is_the_constant(void **state) {
    (void)state;
    static const char begin[] = "\n| `KELPIE_";
    size_t count = 0;
    for (const char *row = strstr(document, begin); row != NULL; row = strstr(row + 1, begin)) {
        const char *name = row + 4;
        size_t length = strcspn(name, "`");
        size_t found = 0;
        while (found < KELPIE_ARRAY_COUNT(limits) &&
               (strlen(limits[found].name) != length ||
                memcmp(limits[found].name, name, length) != 0)) {
            found += 1;
        }
        if (found == KELPIE_ARRAY_COUNT(limits)) {
            fail_msg("%.*s is not in this test's table", (int)length, name);
        }
        char value[32];
        kelpie__text_format(value, sizeof(value), "` | %llu |",
                            (unsigned long long)limits[found].value);
        if (memcmp(name + length, value, strlen(value)) != 0) {
            fail_msg("%s is %llu", limits[found].name, (unsigned long long)limits[found].value);
        }
        count += 1;
    }
    assert_int_equal(count, KELPIE_ARRAY_COUNT(limits));
}

/* "5b a0 6d d8 ..." of some bytes; the page groups them with a second space, which is skipped. */
static void expect_hex(const char **at, const uint8_t *bytes, size_t count, size_t example) {
    for (size_t i = 0; i < count; i += 1) {
        char expected[3];
        kelpie__text_hex(expected, sizeof(expected), bytes + i, 1);
        *at += strspn(*at, " \n");
        if (strncmp(*at, "...", 3) == 0) {
            return;
        }
        if (strncmp(*at, expected, 2) != 0) {
            fail_msg("example %zu, byte %zu: %s, not %.2s", example, i, expected, *at);
        }
        *at += 2;
    }
}

static void test_hex_examples_are_what_the_encoder_makes(void **state) {
    (void)state;
    const char *at = strstr(document, "## 10. Examples");
    assert_non_null(at);
    for (size_t i = 0; i < KELPIE_ARRAY_COUNT(examples); i += 1) {
        uint8_t header[KELPIE_FRAME_HEADER_BYTES];
        char first[12];
        kelpie__frame_encode(&examples[i].frame, header);
        kelpie__text_format(first, sizeof(first), "%02x %02x %02x %02x", header[0], header[1],
                            header[2], header[3]);
        at = strstr(at, first);
        if (at == NULL) {
            fail_msg("example %zu (%s) is not there", i, first);
        }
        expect_hex(&at, header, sizeof(header), i);
        expect_hex(&at, (const uint8_t *)examples[i].payload, examples[i].frame.length, i);
    }
}

static void test_rules_are_numbered_without_a_gap(void **state) {
    (void)state;
    const char *at = strstr(document, "## 7. Rules");
    assert_non_null(at);
    for (int i = 1; i <= RULE_COUNT; i += 1) {
        char row[16];
        kelpie__text_format(row, sizeof(row), "\n| R%d | ", i);
        at = strstr(at, row);
        assert_non_null(at);
    }
    assert_null(strstr(at + 1, "\n| R"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_documented_maximum_is_the_constant),
        cmocka_unit_test(test_hex_examples_are_what_the_encoder_makes),
        cmocka_unit_test(test_rules_are_numbered_without_a_gap),
    };
    return cmocka_run_group_tests(tests, read_document, NULL);
}
