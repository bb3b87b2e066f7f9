/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * kelpie-pack: see pack.h.
 */
#include "pack/pack.h"

int main(int argc, char **argv) {
    return kelpie_pack_main(argc, argv);
}
