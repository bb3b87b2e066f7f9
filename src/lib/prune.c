/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * kelpie_prune: what is of no use any more goes.
 */
#include <string.h>

#include "lib/internal.h"
#include "store/template.h"

static struct kelpie_template_bounds prune_bounds(const struct kelpie_prune_options *options) {
    struct kelpie_template_bounds bounds = kelpie__template_bounds_default();
    if (options->is_all) {
        bounds.age_ms = 0;
    } else if (options->template_age_ms != 0) {
        bounds.age_ms = options->template_age_ms;
    }
    KELPIE_ASSERT(options->is_all == (bounds.age_ms == 0));
    return bounds;
}

static int prune_templates(struct kelpie *kelpie, const struct kelpie_prune_options *options,
                           struct kelpie_leftovers *out, struct kelpie_error *error) {
    struct kelpie_snapshot_store store;
    kelpie__handle_check(kelpie);
    struct kelpie_template_bounds bounds = prune_bounds(options);
    int status = kelpie__snapshot_store_open(&store, kelpie->os, kelpie->places.state_path,
                                             KELPIE_TEMPLATES_DIRECTORY, error);
    if (status < 0) {
        return status;
    }
    kelpie__snapshot_prune(&store, &kelpie->leftovers);
    kelpie__template_prune(&store, &bounds, NULL, options->is_trial, out);
    kelpie__snapshot_store_close(&store);
    return 0;
}

int kelpie_prune(struct kelpie *kelpie, const struct kelpie_prune_options *options,
                 struct kelpie_prune_result *out, struct kelpie_error *error) {
    struct kelpie_prune_options chosen = {.struct_size = sizeof(chosen)};
    struct kelpie_prune_result result = {.struct_size = sizeof(result)};
    struct kelpie_leftovers templates;
    bool is_sized = (options == NULL || kelpie__struct_is_sized(options)) &&
                    (out == NULL || kelpie__struct_is_sized(out));
    if (kelpie == NULL || !is_sized) {
        return kelpie__fail(error, KELPIE_E_MISUSE, 0,
                            "kelpie_prune: an argument is NULL, or struct_size is not set");
    }
    if (options != NULL) {
        memcpy(&chosen, options, (size_t)kelpie__min_u64(options->struct_size, sizeof(chosen)));
    }
    kelpie__vm_directory_recover_all(&kelpie->places, &kelpie->leftovers);
    kelpie__snapshots_prune(kelpie);
    int status = prune_templates(kelpie, &chosen, &templates, error);
    if (status < 0) {
        return status;
    }
    KELPIE_ASSERT(result.struct_size == sizeof(result));
    result.template_count = templates.count;
    result.template_bytes = templates.bytes;
    result.leftover_count = kelpie->leftovers.count;
    result.leftover_bytes = kelpie->leftovers.bytes;
    kelpie->leftovers = (struct kelpie_leftovers){0};
    if (out != NULL) {
        kelpie__struct_give(out, out->struct_size, &result, sizeof(result));
    }
    return 0;
}
