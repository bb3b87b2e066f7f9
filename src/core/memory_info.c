/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * See memory_info.h.
 */
#include "core/memory_info.h"

#include <string.h>

#include "core/small_file.h"
#include "core/text.h"

/* proc(5): "MemAvailable:   12345 kB". Where it cannot be read, nothing is refused. */
uint64_t kelpie__memory_available_mib(struct kelpie_os *os) {
    char text[4096];
    char digits[24];
    uint64_t kib = 0;
    if (kelpie__small_file_read_start(os, "/proc/meminfo", text, sizeof(text)) <= 0) {
        return UINT64_MAX;
    }
    const char *place = strstr(text, "MemAvailable:");
    if (place == NULL) {
        return UINT64_MAX;
    }
    place += strlen("MemAvailable:");
    place += strspn(place, " ");
    size_t length = strspn(place, "0123456789");
    if (length == 0 || length >= sizeof(digits)) {
        return UINT64_MAX;
    }
    memcpy(digits, place, length);
    KELPIE_ASSERT(length < sizeof(digits));
    digits[length] = '\0';
    return kelpie__text_u64(digits, &kib) ? kib / 1024 : UINT64_MAX;
}
