/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * kelpie-pack makes the files that a boot needs: kernel, initramfs, root file system, disk. A
 * program of its own, outside of the operating-system seam, so that neither the library nor a
 * monitor links a decompressor or runs mkfs. It is told all it needs by its arguments, prints at
 * most one line, and on failure one line on stderr, which becomes somebody's error message.
 */
#ifndef KELPIE_PACK_PACK_H
#define KELPIE_PACK_PACK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "core/base.h"

enum kelpie_pack_exit {
    KELPIE_PACK_OK = 0,
    KELPIE_PACK_FAILED = 1,
    KELPIE_PACK_USAGE = 2,
    KELPIE_PACK_NO_SPACE = 3,
    KELPIE_PACK_SYSTEM = 4, /* the host failed, nothing is wrong with what was given */
};

/* The program: an enum kelpie_pack_exit. */
int kelpie_pack_main(int argc, char **argv);

/* Verbs; argv[0] is the verb. Each is in the file of its name. */
int kelpie__pack_kernel(int argc, char **argv);
int kelpie__pack_initramfs(int argc, char **argv);
int kelpie__pack_root(int argc, char **argv);
int kelpie__pack_builtin(int argc, char **argv);
int kelpie__pack_identify(int argc, char **argv);
int kelpie__pack_disk(int argc, char **argv);

/* ---- report.c ---- */

/* Prints the one line and gives the exit code: NO_SPACE or SYSTEM when `error_number` says so. 0:
 * there is none to add. */
KELPIE_PRINTF(2, 3)
int kelpie__pack_fail(int error_number, const char *format, ...);

/* ---- output.c: a file that is there whole or not at all, whenever this process dies ---- */

struct kelpie_pack_output {
    int file;      /* owned */
    int directory; /* owned */
    bool is_named; /* the file system has no files without a name: it has `temporary` */
    char name[256];
    char temporary[288];
    char path[64]; /* by which a program that is run can write it */
};

/* Makes the directories above it, too, with mode 0700. An enum kelpie_pack_exit. */
int kelpie__pack_output_open(struct kelpie_pack_output *output, const char *path);
/* Gives the file its name, over an older one. */
int kelpie__pack_output_commit(struct kelpie_pack_output *output);
/* After open, also after commit: closes, and removes what has no name. */
void kelpie__pack_output_close(struct kelpie_pack_output *output);
/* All of it, or false with errno. Runs of zeros at block borders stay holes. */
bool kelpie__pack_write(int file, const void *bytes, size_t count);

/* ---- prune.c ---- */

/* After `made` came into a folder of the cache: removes what is over the folder's limits, the files
 * longest unused first, never one used within the last hour. */
void kelpie__pack_prune(int directory, const char *made);

/* ---- input.c ---- */

struct kelpie_pack_bytes {
    uint8_t *bytes; /* owned; free */
    size_t count;
};

/* The whole file, decompressed when it is a gzip, xz, zstd or lz4 file. */
int kelpie__pack_read(const char *path, size_t bytes_max, struct kelpie_pack_bytes *out);
/* Decompresses bytes into a file; they have to become exactly `bytes_expected`. */
int kelpie__pack_decompress(const uint8_t *bytes, size_t count, uint64_t bytes_expected, int to,
                            const char *what);

/* ---- elf.c ---- */

/* A whole kernel for x86-64 with a PVH entry. `from` names it in messages. */
int kelpie__pack_check_elf(const struct kelpie_pack_bytes *image, const char *from);

/* ---- run.c ---- */

struct kelpie_pack_run {
    const char *const *argv;
    const char *package; /* to install when the program is missing */
    int passed_file;     /* stays open in the program under its number; -1: none */
    char *output;        /* stdout and stderr, cut, ended by a NUL */
    size_t output_capacity;
};

/* Runs a program to its end; it dies with this process. Its failure is reported with its last line.
 */
int kelpie__pack_run(const struct kelpie_pack_run *run);

/* ---- archive.c: the cpio format "newc" that kernels unpack ---- */

struct kelpie_pack_archive {
    int file; /* borrowed */
    uint32_t entry_count;
    uint64_t offset;
    int error_number; /* of the first write that failed */
};

struct kelpie_pack_entry {
    const char *name;
    uint32_t mode; /* with the type */
    const void *bytes;
    size_t count;
    uint32_t device_major; /* of a node */
    uint32_t device_minor;
};

void kelpie__pack_archive_begin(struct kelpie_pack_archive *archive, int file);
void kelpie__pack_archive_add(struct kelpie_pack_archive *archive,
                              const struct kelpie_pack_entry *entry);
void kelpie__pack_archive_end(struct kelpie_pack_archive *archive);

/* ---- userland.c ---- */

#define KELPIE_PACK_PROGRAM_BYTES_MAX (64u * 1024u * 1024u)

/* Where entries go; `add` gives an enum kelpie_pack_exit, and borrows the entry. */
struct kelpie_pack_sink {
    int (*add)(void *context, const struct kelpie_pack_entry *entry);
    void *context;
};

/* Directories, the files of /etc, busybox and a link for each of its applets; parents first. */
int kelpie__pack_userland(const struct kelpie_pack_sink *sink, const char *busybox);
/* An executable file of the host, under this name. */
int kelpie__pack_add_program(const struct kelpie_pack_sink *sink, const char *name,
                             const char *path);
/* A program that needs libraries would not run in the guest. */
int kelpie__pack_check_static(const char *path, const char *package);

/* ---- root.c ---- */

/* The directory as an EROFS image at `path`. */
int kelpie__pack_root_make(const char *directory, const char *path);

/* ---- modules.c ---- */

/* Adds the modules that the guest needs, and the list of their order, to the archive. */
int kelpie__pack_modules(struct kelpie_pack_archive *archive, const char *modules_directory);

#endif
