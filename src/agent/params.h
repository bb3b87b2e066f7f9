/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Parameters of a request, read with their bounds; an error names the field, its value and the
 * limit. A field that is missing leaves the caller's default; unknown fields are nobody's business.
 */
#ifndef KELPIE_AGENT_PARAMS_H
#define KELPIE_AGENT_PARAMS_H

#include "core/base.h"
#include "core/error.h"
#include "core/json.h"

#define KELPIE_AGENT_PARAMS_MEMBER_MAX 24

/* An object, read once: looking for each of a dozen fields in its text would read it a dozen times.
 */
struct kelpie_agent_params {
    const char *text; /* borrowed: a JSON object, or empty */
    size_t length;
    uint32_t member_count;
    bool is_complete; /* every member is below, by a name without escapes; else the text is searched
                       */
    struct kelpie_agent_member {
        const char *name; /* in the text, without its quotes */
        size_t name_length;
        struct kelpie_json_value value;
    } members[KELPIE_AGENT_PARAMS_MEMBER_MAX];
};

void kelpie__agent_params_init(struct kelpie_agent_params *params, const char *text, size_t length);

struct kelpie_agent_range {
    uint64_t minimum;
    uint64_t maximum;
};

/* Codes: PROTOCOL. */
KELPIE_MUST_CHECK int kelpie__agent_params_number(const struct kelpie_agent_params *params,
                                                  const char *name, struct kelpie_agent_range range,
                                                  uint64_t *inout, struct kelpie_error *error);
KELPIE_MUST_CHECK int kelpie__agent_params_flag(const struct kelpie_agent_params *params,
                                                const char *name, bool *inout,
                                                struct kelpie_error *error);
/* A string without NUL that fits `capacity` with its end. */
KELPIE_MUST_CHECK int kelpie__agent_params_text(const struct kelpie_agent_params *params,
                                                const char *name, char *inout, size_t capacity,
                                                struct kelpie_error *error);
/* Exactly `digit_count` lower-case hexadecimal digits, and it must be there. */
KELPIE_MUST_CHECK int kelpie__agent_params_hex(const struct kelpie_agent_params *params,
                                               const char *name, size_t digit_count, char *out,
                                               struct kelpie_error *error);
/* The object in a field; empty when it is missing or null. */
KELPIE_MUST_CHECK int kelpie__agent_params_object(const struct kelpie_agent_params *params,
                                                  const char *name, struct kelpie_agent_params *out,
                                                  struct kelpie_error *error);

/* The items of an array, for kelpie__json_next. */
KELPIE_MUST_CHECK int kelpie__agent_params_array(const struct kelpie_agent_params *params,
                                                 const char *name, struct kelpie_json_iterator *out,
                                                 bool *out_is_there, struct kelpie_error *error);

#endif
