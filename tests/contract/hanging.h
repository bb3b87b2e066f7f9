/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * A device that hangs: whoever opens it waits until it is taken away. In a mount namespace of the
 * test's own.
 */
#ifndef KELPIE_TESTS_HANGING_H
#define KELPIE_TESTS_HANGING_H

void hanging_device_begin(const char *path);
void hanging_device_end(void);

#endif
