/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * The contract's 21 rows (src/sim/contract.c), which the simulator runs with faults, on real VMs:
 * the same source behind another table. On libkrun (--backend krun, in tests/nested) those about
 * snapshots assert that these are refused. What a real backend cannot do on demand (let a boot, a
 * pause, a command or a snapshot fail) it refuses; the row then checks the same calls where they
 * succeed.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "harness/harness.h"
#include "harness/leftovers.h"
#include "lib/internal.h"
#include "os/os_call.h"
#include "sim/contract.h"
#include "store/manifest.h"

#define ROW_TIMEOUT_S 300u
#define ROW_PATH_BYTES_MAX 4096u

struct row_run {
    const struct harness *harness;
    uint64_t drawn; /* numbers so far */
};

static uint64_t row_random(struct sim_contract *contract) {
    struct row_run *run = contract->context;
    run->drawn += 1;
    return harness_random(run->harness, "row", run->drawn);
}

/* Faults on demand are the simulator's; tests/contract/faults.c has those that real programs can be
 * given. */
static bool row_fault(struct sim_contract *contract, const char *name, uint32_t thousandth) {
    HARNESS_CHECK(contract->context != NULL && name[0] != '\0' && thousandth < 1000);
    return false;
}

static void row_fail(struct sim_contract *contract, const char *text) {
    HARNESS_CHECK(contract->has_failed || text != NULL);
    harness_fail(__FILE__, __LINE__, "%s", text);
}

static void snapshot_path(const struct sim_contract *contract, const char *snapshot,
                          const char *file, char out[ROW_PATH_BYTES_MAX]) {
    const struct row_run *run = contract->context;
    int length = snprintf(out, ROW_PATH_BYTES_MAX, "%s/snapshots/%s/%s",
                          run->harness->state_directory, snapshot, file);
    HARNESS_CHECK(length > 0 && (size_t)length < ROW_PATH_BYTES_MAX);
}

/* A bit of one of its files, whichever the seed says. */
static bool row_damage(struct sim_contract *contract, const char *snapshot) {
    static const char *const files[] = {"manifest.json", "checksums", "device", "memory"};
    char path[ROW_PATH_BYTES_MAX];
    char byte = 0;
    uint64_t hash = row_random(contract);
    snapshot_path(contract, snapshot, files[hash % KELPIE_ARRAY_COUNT(files)], path);
    int file = open(path, O_RDWR | O_CLOEXEC);
    HARNESS_CHECK(file >= 0, "open %s", path);
    off_t end = lseek(file, 0, SEEK_END);
    off_t at = end > 0 ? (off_t)((hash >> 8) % (uint64_t)end) : 0;
    bool is_read = pread(file, &byte, 1, at) == 1;
    byte = (char)(byte ^ 1 << (hash >> 2) % 8);
    bool is_changed = is_read && pwrite(file, &byte, 1, at) == 1;
    close(file);
    return is_changed;
}

static bool row_relabel(struct sim_contract *contract, const char *snapshot,
                        const char *architecture) {
    struct kelpie_os *os = contract->kelpie->os;
    struct kelpie_manifest manifest;
    char path[ROW_PATH_BYTES_MAX];
    snapshot_path(contract, snapshot, "", path);
    int directory =
        kelpie__os_open(os, KELPIE_OS_CWD, path, KELPIE_OS_OPEN_READ | KELPIE_OS_OPEN_DIRECTORY, 0);
    HARNESS_CHECK(directory >= 0, "open %s", path);
    bool is_done = kelpie__manifest_read(os, directory, &manifest, NULL) == 0;
    if (is_done) {
        snprintf(manifest.architecture, sizeof(manifest.architecture), "%s", architecture);
        is_done = kelpie__manifest_write(os, directory, &manifest, false, NULL) == 0;
    }
    kelpie__ignore(kelpie__os_close(os, directory));
    return is_done;
}

static bool is_about_boots(const struct sim_contract_row *row) {
    return strncmp(row->name, "lifecycle", strlen("lifecycle")) == 0;
}

/* The first row that boots leaves a template; it is lent from one row to the next. */
static void borrow_templates(const struct harness *harness, bool gives_back) {
    char own[ROW_PATH_BYTES_MAX];
    char lent[ROW_PATH_BYTES_MAX];
    int length = snprintf(own, sizeof(own), "%s/templates", harness->state_directory);
    HARNESS_CHECK(length > 0 && (size_t)length < sizeof(own));
    length = snprintf(lent, sizeof(lent), "%s/templates", harness->shared_directory);
    HARNESS_CHECK(length > 0 && (size_t)length < sizeof(lent));
    if (gives_back) {
        leftovers_remove(lent); /* that of a row that failed */
    }
    int status = gives_back ? rename(own, lent) : rename(lent, own);
    HARNESS_CHECK(status == 0 || errno == ENOENT, "rename of templates: %s", strerror(errno));
}

static void remove_snapshots(const struct harness *harness) {
    char path[ROW_PATH_BYTES_MAX];
    int length = snprintf(path, sizeof(path), "%s/snapshots", harness->state_directory);
    HARNESS_CHECK(length > 0 && (size_t)length < sizeof(path));
    leftovers_remove(path);
}

static void run_row(const struct harness *harness, const struct sim_contract_row *row,
                    struct sim_contract *contract) {
    const struct kelpie_open_options options = {
        .struct_size = sizeof(options),
        .state_directory = harness->state_directory,
        .runtime_directory = harness->runtime_directory,
        .cache_directory = harness->cache_directory,
        .libexec_directory = harness->libexec_directory,
    };
    struct row_run run = {.harness = harness};
    bool is_krun = strcmp(harness->backend, "krun") == 0;
    struct kelpie_error error = {0};
    *contract =
        (struct sim_contract){.seed = harness->seed,
                              .scale = harness->scale,
                              .boot_timeout_factor = harness->limit_factor,
                              .has_templates = !is_about_boots(row),
                              .fault = row_fault,
                              .fail = row_fail,
                              .random = row_random,
                              .damage = row_damage,
                              .relabel = row_relabel,
                              .context = &run,
                              .backend = is_krun ? KELPIE_BACKEND_KRUN : KELPIE_BACKEND_AUTO,
                              .lacks_snapshots = is_krun};
    int status = kelpie_open(&options, &contract->kelpie, &error);
    HARNESS_CHECK(status == 0, "open: %s", error.message);
    borrow_templates(harness, false);
    row->run(contract);
    kelpie_close(contract->kelpie);
    borrow_templates(harness, true);
    remove_snapshots(harness); /* in the simulator they go with their world */
}

/* The row of the test's name. Row 10 is about two runs of one seed: what the calls gave is
 * compared. */
static void run_named(const struct harness *harness) {
    static struct sim_contract first;
    static struct sim_contract second;
    for (uint32_t i = 0; i < SIM_CONTRACT_ROW_COUNT; i += 1) {
        const struct sim_contract_row *row = &kelpie__sim_contract_rows[i];
        if (strcmp(row->name, harness->test) != 0) {
            continue;
        }
        run_row(harness, row, &first);
        if (strcmp(row->name, "determinism") == 0) {
            run_row(harness, row, &second);
            HARNESS_CHECK(first.outcome_count == second.outcome_count &&
                              memcmp(first.outcomes, second.outcomes,
                                     first.outcome_count * sizeof(first.outcomes[0])) == 0,
                          "the same seed gave other outcomes");
        }
        return;
    }
    harness_fail(__FILE__, __LINE__, "no row %s", harness->test);
}

int main(int argc, char **argv) {
    struct harness_test tests[SIM_CONTRACT_ROW_COUNT];
    for (uint32_t i = 0; i < SIM_CONTRACT_ROW_COUNT; i += 1) {
        tests[i] =
            (struct harness_test){kelpie__sim_contract_rows[i].name, run_named, ROW_TIMEOUT_S};
    }
    const struct harness_suite suite = {
        .name = "contract-rows", .tests = tests, .test_count = SIM_CONTRACT_ROW_COUNT};
    return harness_main(argc, argv, &suite);
}
