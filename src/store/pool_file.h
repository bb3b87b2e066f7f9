/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * The files of a pool's directory: pool.json, config.json, keeper.json. For pool.c.
 */
#ifndef KELPIE_STORE_POOL_FILE_H
#define KELPIE_STORE_POOL_FILE_H

#include "store/pool.h"

/* pool.json and config.json, synced but for the directory. Errors: IO, MEMORY. */
KELPIE_MUST_CHECK int kelpie__pool_file_write(struct kelpie_os *os, int directory,
                                              const struct kelpie_pool_values *values,
                                              const struct kelpie_config_values *config,
                                              struct kelpie_error *error);
/* pool.json. Errors: NOT_FOUND (it is being removed), IO, UNSUPPORTED. */
KELPIE_MUST_CHECK int kelpie__pool_file_read(struct kelpie_os *os, int directory,
                                             struct kelpie_pool_values *out,
                                             struct kelpie_error *error);

#endif
