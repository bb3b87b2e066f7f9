/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * The baseline: a QEMU started by hand with the kernel, initramfs and memory that Kelpie uses, QMP
 * spoken plainly, guest/agent.c in the guest. Everything waits for its answer; nothing is checked
 * that a careful script would not check.
 */
#ifndef KELPIE_BENCH_RAW_H
#define KELPIE_BENCH_RAW_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "host.h"

struct bench_raw {
    pid_t pid; /* 0: none */
    int qmp;
    int agent;
    uint64_t memory_bytes;
    uint64_t address; /* of the guest's memory in QEMU; 0: not asked yet */
};

#define BENCH_RAW_MAP_BYTES 65536u /* a bit for each page of 2 GiB */

/* A saved state: files below the run's directory. */
struct bench_raw_state {
    char device[BENCH_PATH_BYTES_MAX];
    char memory[BENCH_PATH_BYTES_MAX];
    const char *base; /* NULL, or the memory that the saved VM was restored over */
    uint64_t copied_bytes;
    uint8_t map[BENCH_RAW_MAP_BYTES]; /* which pages `memory` has */
};

/* What else the VM is given: NULL or 0 for nothing. */
struct bench_raw_order {
    const struct bench_raw_state *state; /* restored from this instead of booted */
    const char *disk;                    /* a qcow2 image */
    bool is_waiting;                     /* the state comes later: kelpie__bench_raw_load */
};

/* Takes kernel, initramfs, command line and machine from the VMM of a VM of Kelpie's. */
void kelpie__bench_raw_learn(struct bench_host *host, pid_t vmm);

/* Starts one; booted: returns when its agent is ready; restored: when the guest runs. */
void kelpie__bench_raw_start(const struct bench_host *host, const struct bench_raw_order *order,
                             struct bench_raw *out);
/* What one that waits loads; returns when the guest runs. */
void kelpie__bench_raw_load(struct bench_raw *raw, const struct bench_raw_state *state);
void kelpie__bench_raw_kill(struct bench_raw *raw);

/* QMP: sends a command, as text, with a descriptor or -1, and waits for its answer. */
void kelpie__bench_raw_qmp(struct bench_raw *raw, const char *command, int handle, char *out,
                           size_t capacity);

struct bench_raw_command {
    const char *const *argv; /* NULL-terminated, the first an absolute path */
    const void *input;
    uint32_t input_bytes;
    bool is_left_alone;
    bool is_echo;
};
/* Runs it to its end; dies unless it exits with 0. Gives the bytes of its output. */
uint64_t kelpie__bench_raw_exec(struct bench_raw *raw, const struct bench_raw_command *command);

/* Stop, device state, private pages, cont. */
void kelpie__bench_raw_save(struct bench_raw *raw, struct bench_raw_state *out);
/* Writes the pages of a state over a base into a QEMU that was started over that. */
void kelpie__bench_raw_lay(struct bench_raw *raw, const struct bench_raw_state *state);

#endif
