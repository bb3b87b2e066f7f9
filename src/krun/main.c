/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * kelpie-krun: see krun.h.
 */
#include "krun/krun.h"

int main(int argc, char **argv) {
    return kelpie_krun_main(argc, argv);
}
