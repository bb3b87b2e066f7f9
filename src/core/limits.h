/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Every limit and default of Kelpie: the unit in the name, why in one line, and how they depend on
 * each other.
 */
#ifndef KELPIE_CORE_LIMITS_H
#define KELPIE_CORE_LIMITS_H

#include <assert.h>
#include <stdint.h>

#define KELPIE_NS_PER_US INT64_C(1000)
#define KELPIE_NS_PER_MS INT64_C(1000000)
#define KELPIE_NS_PER_S INT64_C(1000000000)

/* ---- a VM's configuration (contract.md, 2) --------------------------------------------------- */
#define KELPIE_CPUS_MIN 1u
#define KELPIE_CPUS_MAX 32u
#define KELPIE_CPUS_DEFAULT 2u
#define KELPIE_MEMORY_MIB_MIN 128u
#define KELPIE_MEMORY_MIB_MAX 16384u
#define KELPIE_MEMORY_MIB_DEFAULT 512u
#define KELPIE_DISK_SIZE_MIB_MIN 16u      /* the smallest ext4 with a journal */
#define KELPIE_DISK_SIZE_MIB_MAX 1048576u /* 1 TiB */
#define KELPIE_NAME_BYTES_MAX 64u
#define KELPIE_PATH_BYTES_MAX 4096u         /* PATH_MAX */
#define KELPIE_ENVIRONMENT_MAX 256u         /* of a VM's configuration, entries */
#define KELPIE_ENVIRONMENT_BYTES_MAX 32768u /* of a VM's configuration, in all */

/* Directories that a VM shares with its host. A tag is virtio's (36 bytes); the paths and tags of
 * all stand in one place, and a request to the agent holds a guest path six times as long. */
#define KELPIE_SHARE_COUNT_MAX 16u
#define KELPIE_SHARE_TAG_BYTES_MAX 36u
#define KELPIE_SHARE_GUEST_BYTES_MAX 1024u
#define KELPIE_SHARE_BYTES_MAX 12288u

/* ---- times ----------------------------------------------------------------------------------- */
#define KELPIE_BOOT_TIMEOUT_MS_DEFAULT 30000u
#define KELPIE_BOOT_TIMEOUT_MS_MAX 3600000u
#define KELPIE_EXEC_TIMEOUT_MS_DEFAULT 60000u
#define KELPIE_EXEC_TIMEOUT_MS_MAX UINT64_C(31536000000) /* a year; beyond, say none */
#define KELPIE_EXEC_BACKSTOP_MS 5000u /* the monitor's patience beyond a command's timeout */
#define KELPIE_STOP_TIMEOUT_MS_DEFAULT 10000u
#define KELPIE_STOP_TIMEOUT_MS_MAX 3600000u
#define KELPIE_HEALTH_TIMEOUT_MS_DEFAULT 5000u
#define KELPIE_HELLO_TIMEOUT_MS 5000u      /* of a monitor to its client */
#define KELPIE_CALL_TIMEOUT_MS 10000u      /* of any request without one of its own */
#define KELPIE_RESUME_TIMEOUT_MS 5000u     /* of a guest that runs again, to prove that it lives */
#define KELPIE_QUIESCE_TIMEOUT_MS 1000u    /* design.md, "Across time" */
#define KELPIE_GUEST_SYNC_TIMEOUT_MS 1000u /* before a snapshot, which is taken all the same */
#define KELPIE_KVM_OPEN_MS 1000u           /* an open of /dev/kvm; then it counts as hanging */
#define KELPIE_KVM_TRIAL_MS 4500u          /* a first boot on an unproved KVM; TCG within 5 s */

/* ---- snapshots ------------------------------------------------------------------------------- */
#define KELPIE_DEVICE_STATE_BYTES_MAX (UINT64_C(1) << 30) /* contract.md, 2 */
#define KELPIE_SNAPSHOT_TIMEOUT_MS 600000u /* 16 GiB to a disk of 30 MiB/s, checksums included */
#define KELPIE_RESTORE_CHECK_TIMEOUT_MS 600000u /* to compare as many bytes */
#define KELPIE_FORK_COUNT_MAX 64u /* at once: their monitors, and this program's connections */
#define KELPIE_SNAPSHOT_LABEL_BYTES_MAX 255u
/* Layers of a VM's writable disk, one more with each snapshot of a VM that has run since. */
#define KELPIE_DISK_LAYER_COUNT_MAX 26u
/* From so many on a snapshot gets one image of them all, and its VM goes on over that. What is left
 * until the limit is for snapshots in which that failed, and for those that nobody keeps: */
#define KELPIE_DISK_MERGE_LAYER_COUNT 16u
#define KELPIE_DISK_MERGE_LAYER_COUNT_TRANSIENT 22u

/* ---- templates (docs/templates.md) ----------------------------------------------------------- */
#define KELPIE_TEMPLATE_TIMEOUT_MS 10000u /* to start from one; then the VM is booted */
#define KELPIE_TEMPLATE_SEAL_MS 60000u    /* to make one whole, beside the VM that it was made of */
#define KELPIE_TEMPLATE_WAIT_MS 2000u     /* for that, of a VM that is to be deleted */
#define KELPIE_TEMPLATE_AGE_MS_MAX (UINT64_C(30) * 24u * 3600u * 1000u) /* unused */
#define KELPIE_TEMPLATE_COUNT_MAX 32u
#define KELPIE_TEMPLATE_BYTES_MAX (UINT64_C(8) << 30) /* on the disk, of all */

/* ---- pools ----------------------------------------------------------------------------------- */
/* Members that wait: three handles each in the keeper, whose limit is often 1,024. */
#define KELPIE_POOL_SIZE_MAX 256u
#define KELPIE_POOL_CONCURRENCY_MAX 16u
#define KELPIE_POOL_WAITER_COUNT_MAX 64u /* claims that wait for a member */
#define KELPIE_LEASE_MS_MIN 100u         /* a shorter one would end before it is answered */
#define KELPIE_LEASE_MS_MAX UINT64_C(31536000000) /* a year; beyond, say none */

/* ---- the wire (docs/protocol.md) ---- */
#define KELPIE_PROTOCOL_VERSION 1u
#define KELPIE_PROTOCOL_VERSION_MIN 1u
#define KELPIE_FRAME_HEADER_BYTES 24u
#define KELPIE_FRAME_BYTES_MAX 32768u /* one write over vsock (krun.md, 4) */
#define KELPIE_FRAME_PAYLOAD_BYTES_MAX (KELPIE_FRAME_BYTES_MAX - KELPIE_FRAME_HEADER_BYTES)
#define KELPIE_MESSAGE_BYTES_MAX KELPIE_FRAME_PAYLOAD_BYTES_MAX /* a message is one frame */
#define KELPIE_WIRE_OUTPUT_BYTES (256u * 1024u)
#define KELPIE_WIRE_RESERVE_BYTES (2u * KELPIE_FRAME_BYTES_MAX) /* of it for messages only */
#define KELPIE_WIRE_CALL_COUNT_MAX 64u                          /* requests without an answer yet */
#define KELPIE_STREAM_CREDIT_INITIAL_BYTES (64u * 1024u)
#define KELPIE_STREAM_KIND_BITS 2u
#define KELPIE_CHANNEL_MAX (UINT32_MAX >> KELPIE_STREAM_KIND_BITS)
#define KELPIE_MARK_BYTES 16u
#define KELPIE_TOKEN_BYTES 32u
#define KELPIE_EPOCH_BYTES 16u
#define KELPIE_METHOD_BYTES_MAX 64u
#define KELPIE_FEATURE_COUNT_MAX 16u

/* ---- commands -------------------------------------------------------------------------------- */
#define KELPIE_EXEC_ID_CHARACTERS 32u
#define KELPIE_EXEC_COUNT_MAX 64u    /* alive in one VM */
#define KELPIE_EXEC_FINISHED_MAX 64u /* whose end nobody has seen yet */
#define KELPIE_EXEC_ARGUMENT_BYTES_MAX                                                             \
    (2u * 1024u * 1024u) /* argv and environment with their zeros */
#define KELPIE_EXEC_ARGUMENT_COUNT_MAX 65536u
#define KELPIE_EXEC_LIMIT_COUNT_MAX 16u
#define KELPIE_EXEC_OUTPUT_BYTES (1024u * 1024u) /* kept for a client that is away, each stream */
#define KELPIE_EXEC_INPUT_BYTES (64u * 1024u)
/* Of a stream that flows, on each hop: less than a turn of all credit takes would stop it. */
#define KELPIE_EXEC_STREAM_BYTES (256u * 1024u)
#define KELPIE_EXEC_COLLECT_BYTES_DEFAULT (16u * 1024u * 1024u)

/* ---- a monitor ------------------------------------------------------------------------------- */
#define KELPIE_CLIENT_COUNT_MAX 64u
#define KELPIE_CONSOLE_LOG_BYTES (2u * 1024u * 1024u) /* each of two files */
#define KELPIE_EVENT_LOG_BYTES (2u * 1024u * 1024u)

/* ---- JSON ------------------------------------------------------------------------------------ */
#define KELPIE_JSON_DEPTH_MAX 16u

static_assert(KELPIE_WIRE_RESERVE_BYTES >= KELPIE_FRAME_BYTES_MAX, "a message always fits");
static_assert(KELPIE_WIRE_OUTPUT_BYTES >= 2u * KELPIE_WIRE_RESERVE_BYTES, "data has half at least");
static_assert(KELPIE_STREAM_CREDIT_INITIAL_BYTES <= KELPIE_EXEC_INPUT_BYTES,
              "credit is never above the buffer");
static_assert(KELPIE_STREAM_CREDIT_INITIAL_BYTES <= KELPIE_EXEC_OUTPUT_BYTES,
              "credit is never above the buffer");
static_assert(KELPIE_EXEC_STREAM_BYTES > KELPIE_EXEC_INPUT_BYTES &&
                  KELPIE_EXEC_STREAM_BYTES <= KELPIE_EXEC_OUTPUT_BYTES,
              "a stream that flows has more");
static_assert(KELPIE_HELLO_TIMEOUT_MS <= KELPIE_BOOT_TIMEOUT_MS_DEFAULT, "hello is part of a boot");
static_assert(KELPIE_MEMORY_MIB_DEFAULT >= KELPIE_MEMORY_MIB_MIN, "defaults are valid");
static_assert(KELPIE_EXEC_COUNT_MAX < KELPIE_CHANNEL_MAX, "every command has a channel");

#endif
