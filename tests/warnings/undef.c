/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Must not compile: the warning that the file is named after has to be on, and an error. */
#if KELPIE_NOT_DEFINED
#endif
int kelpie_warning(void);
