/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * A template (docs/templates.md) for tests that are not about a boot: made once in a run, by the
 * product itself, and lent to each test that asks for it.
 */
#ifndef KELPIE_TESTS_PREPARED_H
#define KELPIE_TESTS_PREPARED_H

#include "harness.h"

#define HARNESS_TEMPLATE_CPUS 1
#define HARNESS_TEMPLATE_MIB 256

/* From now on a VM of so many CPUs and so much memory, with nothing else set that goes into a boot,
 * starts from that template in the test's state directory. What was lent is no leftover. The first
 * caller of a run waits for a boot. On QEMU alone, with the programs of the harness, and without a
 * fault plan: others have a template of their own, or none. */
void harness_take_template(const struct harness *harness);

#endif
