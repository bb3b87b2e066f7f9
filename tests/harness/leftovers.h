/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Finds, names and removes what a test left: processes, mounts, unix sockets and files under its
 * directory.
 */
#ifndef KELPIE_TESTS_LEFTOVERS_H
#define KELPIE_TESTS_LEFTOVERS_H

#include <stddef.h>
#include <stdint.h>

/* Waits up to `settle_ms` for this process's remaining children (it is their subreaper) to end,
 * then kills them. Writes what was found, for a person to read, or an empty text. Templates that
 * the test has from `shared`, by name, are removed first. */
void leftovers_settle(const char *root, const char *shared, uint32_t settle_ms, char *out,
                      size_t capacity);

/* Removes the directory and all in it. */
void leftovers_remove(const char *root);

#endif
