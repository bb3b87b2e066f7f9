/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Values as people write them.
 */
#include <string.h>

#include "cli/cli.h"
#include "core/text.h"
#include "os/os_call.h"

struct unit {
    const char *name;
    uint64_t factor;
};

/* False: it is more than a number holds. */
static bool read_digits(const char *text, size_t length, uint64_t *out) {
    uint64_t number = 0;
    bool fits = true;
    KELPIE_ASSERT(length > 0);
    for (size_t i = 0; i < length && fits; i += 1) {
        KELPIE_ASSERT(text[i] >= '0' && text[i] <= '9');
        fits = !__builtin_mul_overflow(number, UINT64_C(10), &number) &&
               !__builtin_add_overflow(number, (uint64_t)(text[i] - '0'), &number);
    }
    *out = number;
    return fits;
}

/* Digits, then a unit of the list; the first unit is for none. */
static enum kelpie_cli_value read_value(const char *text, const struct unit *units,
                                        size_t unit_count, uint64_t *out) {
    uint64_t value = 0;
    size_t length = strspn(text, "0123456789");
    const struct unit *unit = NULL;
    KELPIE_ASSERT(unit_count > 0);
    KELPIE_ASSERT(units[0].name[0] == '\0');
    for (size_t i = 0; i < unit_count && unit == NULL; i += 1) {
        unit = kelpie__text_equal(text + length, units[i].name) ? &units[i] : NULL;
    }
    if (length == 0 || unit == NULL) {
        return KELPIE_CLI_VALUE_NONE;
    }
    KELPIE_ASSERT(unit->factor > 0);
    if (!read_digits(text, length, &value) || __builtin_mul_overflow(value, unit->factor, &value) ||
        value >= KELPIE_CLI_UNSET - 1) {
        return KELPIE_CLI_VALUE_TOO_LARGE;
    }
    *out = value;
    return KELPIE_CLI_VALUE_GOOD;
}

enum kelpie_cli_value kelpie__cli_number(const char *text, uint64_t *out) {
    static const struct unit units[] = {{"", 1}};
    return read_value(text, units, KELPIE_ARRAY_COUNT(units), out);
}

enum kelpie_cli_value kelpie__cli_duration(const char *text, uint64_t *out_ms) {
    static const struct unit units[] = {{"", 1000},   {"ms", 1},      {"s", 1000},
                                        {"m", 60000}, {"h", 3600000}, {"d", 86400000}};
    if (kelpie__text_equal(text, "none")) {
        *out_ms = KELPIE_TIMEOUT_NONE;
        return KELPIE_CLI_VALUE_GOOD;
    }
    return read_value(text, units, KELPIE_ARRAY_COUNT(units), out_ms);
}

enum kelpie_cli_value kelpie__cli_size_mib(const char *text, uint64_t *out_mib) {
    static const struct unit units[] = {
        {"", 1},     {"m", 1},      {"M", 1},       {"MiB", 1},     {"g", 1024},
        {"G", 1024}, {"GiB", 1024}, {"t", 1048576}, {"T", 1048576}, {"TiB", 1048576}};
    return read_value(text, units, KELPIE_ARRAY_COUNT(units), out_mib);
}

bool kelpie__cli_absolute(struct kelpie_cli *cli, const char *path, char *out, size_t capacity) {
    char here[KELPIE_PATH_BYTES_MAX + 1];
    KELPIE_ASSERT(capacity > 1);
    KELPIE_ASSERT(path[0] != '\0');
    if (path[0] == '/') {
        return kelpie__text_copy(out, capacity, path);
    }
    return kelpie__os_real_path(cli->os, ".", here, sizeof(here)) >= 0 &&
           kelpie__text_join(out, capacity, here, path);
}

void kelpie__cli_age(int64_t age_ms, char *out, size_t capacity) {
    KELPIE_ASSERT(capacity >= 32);
    static const struct {
        int64_t ms;
        const char *name;
    } steps[] = {{86400000, "d"}, {3600000, "h"}, {60000, "min"}, {1000, "s"}};
    for (size_t i = 0; i < KELPIE_ARRAY_COUNT(steps); i += 1) {
        if (age_ms >= steps[i].ms) {
            kelpie__text_format(out, capacity, "%lld %s", (long long)(age_ms / steps[i].ms),
                                steps[i].name);
            return;
        }
    }
    kelpie__ignore(kelpie__text_copy(out, capacity, "0 s"));
}
