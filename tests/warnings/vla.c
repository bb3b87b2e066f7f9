/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Must not compile: the warning that the file is named after has to be on, and an error. */
int kelpie_warning(int count);

int kelpie_warning(int count) {
    int values[count];
    values[0] = count;
    return values[0];
}
