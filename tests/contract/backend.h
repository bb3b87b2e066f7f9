/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * What the files of contract-backend share: libraries in the place of libkrun, and starts that
 * fail.
 */
#ifndef KELPIE_TESTS_CONTRACT_BACKEND_H
#define KELPIE_TESTS_CONTRACT_BACKEND_H

#include "contract.h"

/* A path of the test's own. */
void backend_path(const struct harness *harness, const char *name, char *out, size_t capacity);
/* Skips the test where /dev/kvm does not open. */
void backend_needs_kvm(void);

/* A copy of a library of tests/programs, under a name that says what it does. */
void backend_fake_copy(const struct harness *harness, const char *from, const char *name,
                       const char *variable);
/* Both libraries; libkrun is this one, of that name. */
void backend_fake(const struct harness *harness, const char *from, const char *name);
void backend_fake_remove(void);

struct kelpie_config *backend_krun_config(struct contract *contract);
/* A start that fails with this code and these words, and leaves the VM as it was. Takes config. */
void backend_start_fails(struct contract *contract, struct kelpie_config *config, int code,
                         const char *text);
/* The same of a VM on libkrun; timeout_ms: of its boot, 0: the usual. */
void backend_krun_fails(const struct harness *harness, uint64_t timeout_ms, int code,
                        const char *text);

/* What doctor says of one thing: backend_on_check is the callback, this its context. */
struct backend_told {
    const char *name; /* NULL: "libkrun" */
    enum kelpie_check_status status;
    char detail[1024];
};

void backend_on_check(void *context, const struct kelpie_check *check);

/* The files' rows; {0} is the last one. */
extern const struct harness_test backend_tests_calls[]; /* kelpie-krun's way to its VM */
extern const struct harness_test backend_tests_kvm[];   /* a /dev/kvm that is of no use */

#endif
