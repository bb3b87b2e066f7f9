/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * What the raw side's host and guest say to each other: as little as the contract of a command
 * allows. One command at a time; both ends are little-endian, and believe each other.
 */
#ifndef KELPIE_BENCH_WIRE_H
#define KELPIE_BENCH_WIRE_H

#include <stdint.h>

#define BENCH_PORT_NAME "org.kelpie.agent"
#define BENCH_ARGUMENT_BYTES_MAX 4096u
#define BENCH_PIECE_BYTES 32768u

/* Host to guest; the arguments follow, each ended by a zero, then what the command reads. */
struct bench_request {
    uint32_t argument_bytes;
    uint32_t stdin_bytes;
    uint32_t is_left_alone; /* it is not waited for: answered as soon as it runs */
    uint32_t is_echo;       /* nothing runs: the answer comes at once */
};

enum bench_reply_type {
    BENCH_REPLY_READY,
    BENCH_REPLY_STDOUT,
    BENCH_REPLY_STDERR,
    BENCH_REPLY_END, /* 4 bytes: the status of wait4 */
};

/* Guest to host; `count` bytes follow. */
struct bench_reply {
    uint32_t type;
    uint32_t count;
};

#endif
