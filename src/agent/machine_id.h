/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * /etc/machine-id: whose machine this is, to whatever in the guest asks (machine-id(5)). A VM that
 * was made from another one's saved state has to have its own.
 */
#ifndef KELPIE_AGENT_MACHINE_ID_H
#define KELPIE_AGENT_MACHINE_ID_H

#include "os/os.h"

#define KELPIE_AGENT_MACHINE_ID_BYTES 33 /* hexadecimal digits and a NUL */

/* Writes it; "": nothing is done. Any number of times. A root that cannot be written gets it laid
 * over the file it has; one without such a file goes without, which is told on the console. */
void kelpie__agent_machine_id_write(struct kelpie_os *os, const char *machine_id);

#endif
