/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * A real VM through the driver alone: what a monitor does, without a monitor. Boots Kelpie's own
 * initramfs, speaks to the agent, keeps a saved state as a directory of files. Everything waits,
 * and every failure ends the test.
 */
#ifndef KELPIE_TESTS_VMM_MACHINE_H
#define KELPIE_TESTS_VMM_MACHINE_H

#define _GNU_SOURCE
#include <sys/stat.h>

#include "harness/harness.h"
#include "unit/agent_client.h"
#include "vmm/vmm.h"

#define MACHINE_MEMORY_MIB 256u
#define MACHINE_TOKEN "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"
#define MACHINE_MARK "0f0e0d0c0b0a09080706050403020100"

struct machine {
    struct client client; /* the agent's; first */
    const struct harness *harness;
    struct kelpie_vmm *vmm; /* NULL: it has ended */
    struct kelpie_vmm_spec spec;
    struct kelpie_vmm_restore restore;
    struct kelpie_vmm_disk disk;
    int files[4]; /* of the restore, until it has started */
    int console;
    uint32_t console_watch;
    bool is_started;
    bool is_ended;
    enum kelpie_vmm_end_kind end_kind;
    int end_code;
    char end_text[KELPIE_VMM_TEXT_BYTES_MAX];
    bool is_done;
    int done_status;
    struct kelpie_error done_error;
};

/* What is in a directory: device, memory, map (not of a booted VM), base (a link). */
struct state {
    char path[512];
    bool has_map;
    struct kelpie_vmm_description description;
    struct kelpie_vmm_saved saved;
    int64_t pause_ns; /* from the pause asked for to the guest running again */
    int64_t save_ns;
    int64_t step_ns_max; /* the longest turn of the loop meanwhile */
};

struct machine *machine_create(const struct harness *harness);
/* Boots to a shell. `disk` is a path of a raw image, or NULL. */
struct machine *machine_boot(const struct harness *harness, const char *disk);
/* Restores to Paused; with is_expected_to_fail the machine may have ended instead, or `start`
 * itself have failed: then the error is in done_error. */
struct machine *machine_restore(const struct harness *harness, const struct state *state,
                                const char *disk, bool is_expected_to_fail);
void machine_destroy(struct machine *machine);

/* Lets the loop run until the flag is set. */
void machine_wait(struct machine *machine, const bool *flag);
void machine_done(void *context, int status, const struct kelpie_error *error);

void machine_quiesce(struct machine *machine);
void machine_mark(struct machine *machine);
void machine_pause(struct machine *machine);
void machine_resume(struct machine *machine);
/* Of a paused one: into the directory NAME of the test's. Gives the status. */
int machine_save(struct machine *machine, const char *name, struct state *out);
/* Quiesces, pauses, saves, lets it run on. */
void machine_snapshot(struct machine *machine, const char *name, struct state *out);
/* After machine_restore: resume, mark, hello with the token, setup. */
void machine_wake(struct machine *machine);

/* A shell command's first line of output. */
const char *machine_shell(struct machine *machine, const char *script);

#endif
