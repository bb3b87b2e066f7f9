/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Must not compile: the warning that the file is named after has to be on, and an error. */
void *kelpie_warning(void *pointer);

void *kelpie_warning(void *pointer) {
    return pointer + 1;
}
