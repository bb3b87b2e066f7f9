/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Bounded reading of request parameters: see params.h.
 */
#include "agent/params.h"

#include <string.h>

void kelpie__agent_params_init(struct kelpie_agent_params *params, const char *text,
                               size_t length) {
    const struct kelpie_json_value object = {
        .text = text, .length = length, .kind = KELPIE_JSON_OBJECT};
    struct kelpie_json_iterator iterator;
    struct kelpie_json_value key;
    struct kelpie_json_value value;
    KELPIE_ASSERT(length >= 2);
    KELPIE_ASSERT(text[0] == '{');
    params->text = text;
    params->length = length;
    params->member_count = 0;
    int found = kelpie__json_iterate(&object, &iterator) < 0 ? -1 : 1;
    bool has_escapes = false;
    while (found == 1 && params->member_count < KELPIE_AGENT_PARAMS_MEMBER_MAX) {
        found = kelpie__json_next(&iterator, &key, &value);
        if (found == 1) {
            struct kelpie_agent_member *member = &params->members[params->member_count];
            KELPIE_ASSERT(key.length >= 2); /* its quotes */
            member->name = key.text + 1;
            member->name_length = key.length - 2;
            member->value = value;
            has_escapes = has_escapes || memchr(key.text, '\\', key.length) != NULL;
            params->member_count += 1;
        }
    }
    params->is_complete = found == 0 && !has_escapes;
    KELPIE_ASSERT(!params->is_complete || found == 0);
}

static void params_check(const struct kelpie_agent_params *params) {
    KELPIE_ASSERT(params->member_count <= KELPIE_AGENT_PARAMS_MEMBER_MAX);
    KELPIE_ASSERT(params->text != NULL);
    KELPIE_ASSERT(params->length > 0 || params->member_count == 0);
}

static int params_search(const struct kelpie_agent_params *params, const char *name,
                         struct kelpie_json_value *out) {
    params_check(params);
    size_t length = strlen(name);
    if (!params->is_complete) {
        return params->length == 0 ? -1
                                   : kelpie__json_find(params->text, params->length, name, out);
    }
    for (uint32_t i = 0; i < params->member_count; i += 1) { /* of equal names the first counts */
        const struct kelpie_agent_member *member = &params->members[i];
        if (member->name_length == length && memcmp(member->name, name, length) == 0) {
            *out = member->value;
            return 0;
        }
    }
    return -1;
}

/* True when the field is there and not null. */
static bool params_find(const struct kelpie_agent_params *params, const char *name,
                        struct kelpie_json_value *out) {
    KELPIE_ASSERT(name[0] != '\0');
    struct kelpie_json_value value;
    if (params_search(params, name, &value) < 0 || value.kind == KELPIE_JSON_NULL) {
        return false;
    }
    KELPIE_ASSERT(value.length > 0);
    *out = value;
    return true;
}

int kelpie__agent_params_number(const struct kelpie_agent_params *params, const char *name,
                                struct kelpie_agent_range range, uint64_t *inout,
                                struct kelpie_error *error) {
    KELPIE_ASSERT(range.minimum <= range.maximum);
    struct kelpie_json_value value;
    if (!params_find(params, name, &value)) {
        return 0;
    }
    uint64_t number = 0;
    if (kelpie__json_u64(&value, &number) < 0) {
        return kelpie__fail(error, KELPIE_E_PROTOCOL, 0, "\"%s\" is not a whole number >= 0", name);
    }
    if (number < range.minimum || number > range.maximum) {
        return kelpie__fail(error, KELPIE_E_LIMIT, 0, "\"%s\" is %llu, not within %llu to %llu",
                            name, (unsigned long long)number, (unsigned long long)range.minimum,
                            (unsigned long long)range.maximum);
    }
    *inout = number;
    return 0;
}

int kelpie__agent_params_flag(const struct kelpie_agent_params *params, const char *name,
                              bool *inout, struct kelpie_error *error) {
    struct kelpie_json_value value;
    KELPIE_ASSERT(name[0] != '\0');
    if (!params_find(params, name, &value)) {
        return 0;
    }
    bool flag = false;
    if (kelpie__json_bool(&value, &flag) < 0) {
        return kelpie__fail(error, KELPIE_E_PROTOCOL, 0, "\"%s\" is neither true nor false", name);
    }
    *inout = flag;
    return 0;
}

int kelpie__agent_params_text(const struct kelpie_agent_params *params, const char *name,
                              char *inout, size_t capacity, struct kelpie_error *error) {
    KELPIE_ASSERT(capacity > 1);
    struct kelpie_json_value value;
    if (!params_find(params, name, &value)) {
        return 0;
    }
    if (value.kind != KELPIE_JSON_STRING) {
        return kelpie__fail(error, KELPIE_E_PROTOCOL, 0, "\"%s\" is not a string", name);
    }
    if (kelpie__json_string(&value, inout, capacity, NULL) < 0) {
        return kelpie__fail(error, KELPIE_E_LIMIT, 0, "\"%s\" holds a NUL or more than %zu bytes",
                            name, capacity - 1);
    }
    KELPIE_ASSERT(memchr(inout, '\0', capacity) != NULL);
    return 0;
}

int kelpie__agent_params_hex(const struct kelpie_agent_params *params, const char *name,
                             size_t digit_count, char *out, struct kelpie_error *error) {
    KELPIE_ASSERT(digit_count > 0 && digit_count % 2 == 0);
    struct kelpie_json_value value;
    /* The quotes and nothing but digits between them: no escape can be in there. */
    bool is_hex = params_find(params, name, &value) && value.kind == KELPIE_JSON_STRING &&
                  value.length == digit_count + 2;
    for (size_t i = 0; is_hex && i < digit_count; i += 1) {
        char digit = value.text[i + 1];
        is_hex = (digit >= '0' && digit <= '9') || (digit >= 'a' && digit <= 'f');
    }
    if (!is_hex) {
        return kelpie__fail(error, KELPIE_E_PROTOCOL, 0,
                            "\"%s\" is not a string of %zu lower-case hexadecimal digits", name,
                            digit_count);
    }
    memcpy(out, value.text + 1, digit_count);
    out[digit_count] = '\0';
    return 0;
}

int kelpie__agent_params_object(const struct kelpie_agent_params *params, const char *name,
                                struct kelpie_agent_params *out, struct kelpie_error *error) {
    struct kelpie_json_value value;
    out->text = "";
    out->length = 0;
    out->member_count = 0;
    out->is_complete = true;
    if (!params_find(params, name, &value)) {
        return 0;
    }
    if (value.kind != KELPIE_JSON_OBJECT) {
        return kelpie__fail(error, KELPIE_E_PROTOCOL, 0, "\"%s\" is not an object", name);
    }
    kelpie__agent_params_init(out, value.text, value.length);
    params_check(out);
    return 0;
}

int kelpie__agent_params_array(const struct kelpie_agent_params *params, const char *name,
                               struct kelpie_json_iterator *out, bool *out_is_there,
                               struct kelpie_error *error) {
    struct kelpie_json_value value;
    *out_is_there = false;
    if (!params_find(params, name, &value)) {
        return 0;
    }
    if (value.kind != KELPIE_JSON_ARRAY || kelpie__json_iterate(&value, out) < 0) {
        return kelpie__fail(error, KELPIE_E_PROTOCOL, 0, "\"%s\" is not an array", name);
    }
    *out_is_there = true;
    return 0;
}
