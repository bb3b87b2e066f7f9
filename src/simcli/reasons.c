/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Lists of what need not happen, each with its reason (tests/sim/unreached-marks.txt): NAME --
 * REASON, a line each.
 */
#include <stdio.h>
#include <string.h>

#include "core/small_file.h"
#include "core/text.h"
#include "simcli/simcli.h"

#define REASONS_SEPARATOR " -- "

bool kelpie__simcli_read_reasons(const struct simcli *simcli, const char *path,
                                 char out[SIMCLI_REASONS_BYTES_MAX]) {
    int64_t length = 0;
    kelpie__simcli_check(simcli);
    if (path != NULL) {
        length = kelpie__small_file_read_start(simcli->os, path, out, SIMCLI_REASONS_BYTES_MAX - 1);
    }
    if (length < 0) {
        fprintf(stderr, "kelpie-sim: cannot read \"%s\"\n", path);
        return false;
    }
    KELPIE_ASSERT(length < (int64_t)SIMCLI_REASONS_BYTES_MAX);
    out[length] = '\0';
    return true;
}

const char *kelpie__simcli_reason(const char *list, const char *name) {
    size_t length = strlen(name);
    KELPIE_ASSERT(length > 0 && list != NULL);
    const char *line = list;
    while (line[0] != '\0') { /* bound: the list */
        if (strncmp(line, name, length) == 0 &&
            kelpie__text_has_prefix(line + length, REASONS_SEPARATOR)) {
            return line + length + strlen(REASONS_SEPARATOR);
        }
        line += strcspn(line, "\n");
        line += line[0] == '\n' ? 1 : 0;
    }
    return NULL;
}
