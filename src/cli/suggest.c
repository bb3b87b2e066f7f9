/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * The nearest of some words to one that was mistyped.
 */
#include <string.h>

#include "cli/cli.h"

#define SUGGEST_BYTES_MAX 32u
#define SUGGEST_DISTANCE_MAX 2u

static uint32_t smaller(uint32_t a, uint32_t b) {
    return a < b ? a : b;
}

/* Letters to add, drop or change, or neighbours to swap, until a is b. */
static uint32_t distance(const char *a, size_t a_count, const char *b, size_t b_count) {
    uint32_t rows[3][SUGGEST_BYTES_MAX + 1] = {{0}};
    KELPIE_ASSERT(a_count <= SUGGEST_BYTES_MAX);
    KELPIE_ASSERT(b_count <= SUGGEST_BYTES_MAX);
    for (size_t j = 0; j <= b_count; j += 1) {
        rows[0][j] = (uint32_t)j;
    }
    for (size_t i = 1; i <= a_count; i += 1) {
        uint32_t *row = rows[i % 3];
        const uint32_t *last = rows[(i + 2) % 3];
        const uint32_t *before = rows[(i + 1) % 3];
        row[0] = (uint32_t)i;
        for (size_t j = 1; j <= b_count; j += 1) {
            uint32_t change = last[j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1);
            row[j] = smaller(smaller(last[j] + 1, row[j - 1] + 1), change);
            bool is_swap = i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1];
            if (is_swap) {
                row[j] = smaller(row[j], before[j - 2] + 1);
            }
        }
    }
    KELPIE_ASSERT(a_count > 0 || rows[0][b_count] == b_count);
    uint32_t result = rows[a_count % 3][b_count];
    KELPIE_ASSERT(result <= SUGGEST_BYTES_MAX);
    return result;
}

void kelpie__cli_suggest_begin(struct kelpie_cli_suggestion *suggestion, const char *word,
                               size_t count) {
    KELPIE_ASSERT(word != NULL);
    *suggestion = (struct kelpie_cli_suggestion){
        .word = word,
        .count = count,
        .distance = SUGGEST_DISTANCE_MAX + 1,
    };
}

void kelpie__cli_suggest_offer(struct kelpie_cli_suggestion *suggestion, const char *candidate) {
    KELPIE_ASSERT(suggestion->distance <= SUGGEST_DISTANCE_MAX + 1);
    size_t count = strlen(candidate);
    if (suggestion->count > SUGGEST_BYTES_MAX || count > SUGGEST_BYTES_MAX) {
        return;
    }
    bool is_beginning = suggestion->count >= 3 && suggestion->count < count &&
                        memcmp(candidate, suggestion->word, suggestion->count) == 0;
    uint32_t found =
        is_beginning ? 1 : distance(suggestion->word, suggestion->count, candidate, count);
    if (found < suggestion->distance && found < suggestion->count) {
        suggestion->distance = found;
        suggestion->nearest = candidate;
    }
    KELPIE_ASSERT(suggestion->distance <= SUGGEST_DISTANCE_MAX + 1);
}
