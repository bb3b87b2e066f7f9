/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Must not compile: the warning that the file is named after has to be on, and an error. */
int kelpie_warning(int value);

int kelpie_warning(int value) {
    signed char narrow = value;
    return narrow;
}
