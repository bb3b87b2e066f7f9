/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * See seeds.h.
 */
#include "sim/seeds.h"

#include <string.h>

#include "core/text.h"

bool kelpie__sim_seeds_parse(const char *text, uint64_t *out_first, uint64_t *out_last) {
    const char *dots = strstr(text, "..");
    char digits[24];
    uint64_t first = 0;
    uint64_t last = 0;
    if (dots == NULL) {
        if (!kelpie__text_u64(text, &last) || last == 0) {
            return false;
        }
        last -= 1;
    } else {
        size_t length = (size_t)(dots - text);
        if (length == 0 || length >= sizeof(digits)) {
            return false;
        }
        memcpy(digits, text, length);
        digits[length] = '\0';
        if (!kelpie__text_u64(digits, &first) || !kelpie__text_u64(dots + 2, &last) ||
            first > last) {
            return false;
        }
    }
    KELPIE_ASSERT(first <= last);
    *out_first = first;
    *out_last = last;
    return true;
}
