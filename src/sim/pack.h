/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * The simulated kelpie-pack, inside: shared by pack*.c only. The same arguments, exit codes and
 * words as the real one, which works outside of the seam; its files are small and true in what the
 * product, QEMU and guests look at.
 *
 * A root image is text and bytes: SIM_PACK_ROOT_MAGIC, then for each entry of the directory
 * "KIND MODE SIZE PATH\n" (KIND d or f, MODE octal, PATH absolute) and SIZE bytes. guest_disk.c
 * mounts it.
 */
#ifndef KELPIE_SIM_PACK_H
#define KELPIE_SIM_PACK_H

#include "sim/install.h"
#include "sim/machine.h"

#define SIM_PACK_OK 0
#define SIM_PACK_FAILED 1
#define SIM_PACK_USAGE 2
#define SIM_PACK_NO_SPACE 3
#define SIM_PACK_SYSTEM 4

#define SIM_PACK_ROOT_MAGIC "KELPIE-SIM-ROOT\n"
#define SIM_PACK_FILE_BYTES_MAX (1024u * 1024u)

struct sim_pack_output {
    struct kelpie_os *os;
    int file;
    int directory;
    uint64_t size_bytes; /* written so far */
    char name[256];
    char temporary[288];
};

/* Prints the one line on stderr and gives the exit code. status: 0, or a negative errno value. */
KELPIE_PRINTF(3, 4)
int kelpie__sim_pack_fail(struct kelpie_os *os, int status, const char *format, ...);
KELPIE_PRINTF(2, 3) void kelpie__sim_pack_print(struct kelpie_os *os, const char *format, ...);

/* A file that is there whole or not at all, but for a temporary name when this process is killed.
 */
int kelpie__sim_pack_open(struct sim_pack_output *output, struct kelpie_os *os, const char *path);
int kelpie__sim_pack_write(struct sim_pack_output *output, const void *bytes, size_t count);
int kelpie__sim_pack_commit(struct sim_pack_output *output);
void kelpie__sim_pack_close(struct sim_pack_output *output);

/* The whole file into new memory (kelpie__free with *out_count + 1). An exit code. */
int kelpie__sim_pack_read(struct kelpie_os *os, const char *path, uint8_t **out, size_t *out_count);

int kelpie__sim_pack_root(struct kelpie_os *os, int argc, char **argv);

#endif
