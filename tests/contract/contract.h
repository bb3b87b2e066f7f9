/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * What the contract's tests share. Every helper fails the test by itself: a test reads as what
 * should happen.
 */
#ifndef KELPIE_TESTS_CONTRACT_H
#define KELPIE_TESTS_CONTRACT_H

#include "harness/harness.h"
#include "kelpie.h"

struct contract {
    const struct harness *harness;
    struct kelpie *kelpie;
    bool is_faulty; /* contract_open_faulty */
};

struct contract_result {
    struct kelpie_exec_result exec;
    int status; /* of kelpie_vm_exec */
    struct kelpie_error error;
};

/* harness_main with the rows of these files, {0} the last one of each: `suite` gets them. */
int contract_main(int argc, char **argv, struct harness_suite *suite,
                  const struct harness_test *const *files, size_t file_count);

struct contract contract_open(const struct harness *harness);
/* With the test builds, and this plan for the monitors it starts; its probabilities are drawn from
 * the run's seed. */
struct contract contract_open_faulty(const struct harness *harness, const char *plan);
void contract_close(struct contract *contract);

/* A small VM (1 CPU, 256 MiB), owned and ephemeral unless changed. It starts from the run's own
 * template (harness/prepared.h): such a row is not about a boot. What goes into a boot must not be
 * changed then, or the VM would leave a template of its own. */
struct kelpie_config *contract_config(struct contract *contract);
/* The same, booted. */
struct kelpie_config *contract_boot_config(struct contract *contract);
/* Runs a command line of the test's own on this host; it has to succeed. */
__attribute__((format(printf, 1, 2))) void contract_host(const char *format, ...);
/* Takes the configuration. */
struct kelpie_vm *contract_create(struct contract *contract, const char *name,
                                  struct kelpie_config *config);
struct kelpie_vm *contract_start(struct contract *contract);
struct kelpie_vm *contract_boot(struct contract *contract);
/* The same, owned and durable. */
struct kelpie_vm *contract_start_durable(struct contract *contract, const char *name);
struct kelpie_vm *contract_boot_durable(struct contract *contract, const char *name);
/* Booted, with a disk of 64 MiB over a root directory of a busybox, made once and in use until
 * removed: what it writes outlives boots. */
struct kelpie_vm *contract_start_with_disk(struct contract *contract, const char *name);
void contract_remove_root(const struct contract *contract);
/* A VM in Created, made from this snapshot. */
struct kelpie_vm *contract_create_from(struct contract *contract, const char *name,
                                       const char *snapshot);
/* Stops, deletes and closes. */
void contract_end(struct kelpie_vm *vm);
/* Ends two that run: each was told its own commands, and one goes on when the other is killed. */
void contract_end_apart(struct kelpie_vm *one, struct kelpie_vm *two);

/* Snapshots, by name. */
struct kelpie_snapshot_result contract_take(struct kelpie_vm *vm, const char *name);
struct kelpie_snapshot_info contract_inspect_snapshot(struct contract *contract, const char *name);
void contract_remove_snapshot(struct contract *contract, const char *name);
size_t contract_listed(struct contract *contract);
/* Nothing is in their store, not even hidden or half made. */
void contract_store_is_empty(const struct contract *contract);
/* A VM of this backend refuses snapshots and forks, says this of why, and goes on. */
void contract_has_no_snapshots(const struct harness *harness, const char *reason);

/* Runs `sh -c script`; released by contract_release. */
struct contract_result contract_sh(struct kelpie_vm *vm, const char *script, uint64_t timeout_ms);
void contract_release(struct contract_result *result);
/* The same, with this output and exit code 0, or the test fails. */
void contract_sh_says(struct kelpie_vm *vm, const char *script, const char *output);

void contract_state_is(struct kelpie_vm *vm, enum kelpie_vm_state state);
struct kelpie_vm_info contract_inspect(struct kelpie_vm *vm);
/* Waits until the state is there, driven by the VM's own record; the test fails after 20 s. */
void contract_wait_state(struct kelpie_vm *vm, enum kelpie_vm_state state);

/* The call fails with this code and its message has the text. */
void contract_fails(int status, const struct kelpie_error *error, int code, const char *text);
/* A callback whose context is an int: the operation's code. */
void contract_note_code(void *context, const struct kelpie_error *error);

/* This kernel's boot id, as /proc says it. */
void contract_boot_id(char out[64]);

#define CONTRACT_OK(call)                                                                          \
    do {                                                                                           \
        struct kelpie_error broken = {0};                                                          \
        int contract_status = (call);                                                              \
        HARNESS_CHECK(contract_status == 0, "%s: %s", kelpie_code_name(contract_status),           \
                      broken.message);                                                             \
    } while (0)

/* The tests, by file. */
extern const struct harness_test contract_tests_lifecycle[];
extern const struct harness_test contract_tests_exec[];
extern const struct harness_test contract_tests_streams[];
extern const struct harness_test contract_tests_ends[];
extern const struct harness_test contract_tests_roots[];
extern const struct harness_test contract_tests_load[];
extern const struct harness_test contract_tests_pause[];
extern const struct harness_test contract_tests_snapshot[];
extern const struct harness_test contract_tests_restore[];
extern const struct harness_test contract_tests_snapshot_faults[];
extern const struct harness_test contract_tests_snapshot_hard[];
extern const struct harness_test contract_tests_restore_ends[];
extern const struct harness_test contract_tests_pool[];
extern const struct harness_test contract_tests_fork_waiting[];
extern const struct harness_test contract_tests_faults[];
extern const struct harness_test contract_tests_templates[];
extern const struct harness_test contract_tests_costs[];

#endif
