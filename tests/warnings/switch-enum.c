/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Must not compile: the warning that the file is named after has to be on, and an error. */
enum kelpie_warning { KELPIE_ONE, KELPIE_TWO };
int kelpie_warning(enum kelpie_warning value);

int kelpie_warning(enum kelpie_warning value) {
    switch (value) {
    case KELPIE_ONE:
        return 1;
    default:
        return 2;
    }
}
