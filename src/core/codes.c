/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * What kelpie.h says of error codes. No state, no system.
 */
#include "core/base.h"
#include "kelpie.h"

static const char *const code_names[] = {
    "KELPIE_OK",
    "KELPIE_E_CONFIG",
    "KELPIE_E_ROOT_NOT_FOUND",
    "KELPIE_E_ROOT_ACCESS",
    "KELPIE_E_CREATE",
    "KELPIE_E_BOOT",
    "KELPIE_E_BOOT_TIMEOUT",
    "KELPIE_E_STATE",
    "KELPIE_E_ALREADY_RUNNING",
    "KELPIE_E_CRASHED",
    "KELPIE_E_EXEC",
    "KELPIE_E_EXEC_TIMEOUT",
    "KELPIE_E_PAUSE",
    "KELPIE_E_RESUME",
    "KELPIE_E_SNAPSHOT",
    "KELPIE_E_SNAPSHOT_TOO_LARGE",
    "KELPIE_E_RESTORE",
    "KELPIE_E_SNAPSHOT_CORRUPTED",
    "KELPIE_E_SNAPSHOT_INCOMPATIBLE",
    "KELPIE_E_SHARE",
    "KELPIE_E_TOO_MANY_SHARES",
    "KELPIE_E_UNAVAILABLE",
    "KELPIE_E_UNSUPPORTED",
    "KELPIE_E_CANCELLED",
    "KELPIE_E_NOT_FOUND",
    "KELPIE_E_EXISTS",
    "KELPIE_E_LIMIT",
    "KELPIE_E_INTERNAL",
    "KELPIE_E_IO",
    "KELPIE_E_PROTOCOL",
    "KELPIE_E_MISUSE",
    "KELPIE_E_MEMORY",
    "KELPIE_E_BUSY",
    "KELPIE_E_TIMEOUT",
    "KELPIE_E_EXEC_NOT_FOUND",
    "KELPIE_E_EXEC_DENIED",
    "KELPIE_E_UNTRUSTED",
};

static_assert(KELPIE_ARRAY_COUNT(code_names) == 1 - KELPIE_CODE_LAST, "a name for every code");

const char *kelpie_code_name(int code) {
    return code <= 0 && code >= KELPIE_CODE_LAST ? code_names[-code] : "KELPIE_E_UNKNOWN";
}

bool kelpie_code_is_retriable(int code) {
    return code == KELPIE_E_BOOT_TIMEOUT || code == KELPIE_E_EXEC_TIMEOUT ||
           code == KELPIE_E_CRASHED || code == KELPIE_E_BUSY;
}

bool kelpie_code_requires_restart(int code) {
    return code == KELPIE_E_CRASHED;
}

bool kelpie_code_requires_recreate(int code) {
    return code == KELPIE_E_SNAPSHOT_CORRUPTED || code == KELPIE_E_INTERNAL;
}
