/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Goal: VMs made from snapshots: rows 6, 18, 19 and the rest of 14; a clone is the guest that was
 * saved with an identity of its own, what does not fit or is damaged is refused, and nothing is
 * left of what failed. Method: files in the guest's memory and on its disk before and after; the
 * store's own files changed behind its back.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "contract.h"

static struct kelpie_config *from_config(struct contract *contract, const char *snapshot) {
    struct kelpie_config *config = NULL;
    CONTRACT_OK(kelpie_config_create(contract->kelpie, &config, &broken));
    kelpie_config_set_snapshot(config, snapshot);
    return config;
}

static struct kelpie_vm *start_from(struct contract *contract, const char *name,
                                    const char *snapshot) {
    struct kelpie_vm *vm = contract_create_from(contract, name, snapshot);
    uint64_t started_ms = harness_now_ms();
    CONTRACT_OK(kelpie_vm_start(vm, 0, &broken));
    uint64_t running_ms = harness_now_ms();
    if (contract_inspect(vm).state == KELPIE_VM_RUNNING) {
        contract_sh_says(vm, "echo here", "here\n");
    }
    printf("# restored in %llu ms, first result after %llu ms\n",
           (unsigned long long)(running_ms - started_ms),
           (unsigned long long)(harness_now_ms() - started_ms));
    return vm;
}

/* The output of a script, without its last end of line. */
static void ask(struct kelpie_vm *vm, const char *script, char *out, size_t capacity) {
    struct contract_result result = contract_sh(vm, script, 0);
    HARNESS_CHECK(result.status == 0, "%s: %s", script, result.error.message);
    snprintf(out, capacity, "%s", result.exec.stdout_bytes);
    out[strcspn(out, "\n")] = '\0';
    contract_release(&result);
}

/* ---- rows of the contract -------------------------------------------------------------------- */

static void test_restore_basic(const struct harness *harness) {
    struct contract contract = contract_open(harness);
    struct kelpie_vm *vm = contract_boot_durable(&contract, "rewound");
    contract_sh_says(vm, "echo before >/tmp/before", "");
    contract_take(vm, "point");
    contract_sh_says(vm, "echo after >/tmp/after", "");
    uint64_t started_ms = harness_now_ms();
    CONTRACT_OK(kelpie_vm_restore(vm, "point", 0, &broken));
    printf("# restored in place in %llu ms\n", (unsigned long long)(harness_now_ms() - started_ms));
    contract_state_is(vm, KELPIE_VM_RUNNING);
    contract_sh_says(vm, "cat /tmp/before; ls /tmp", "before\nbefore\n");
    struct kelpie_vm_info info = contract_inspect(vm);
    HARNESS_CHECK(strcmp(info.origin, "snapshot") == 0, "origin \"%s\"", info.origin);
    CONTRACT_OK(kelpie_vm_restore(vm, "point", 0, &broken));
    contract_sh_says(vm, "cat /tmp/before; ls /tmp", "before\nbefore\n");
    contract_end(vm);
    contract_remove_snapshot(&contract, "point");
    contract_close(&contract);
}

static void test_restore_new_vm(const struct harness *harness) {
    struct contract contract = contract_open(harness);
    struct kelpie_vm *source = contract_start_durable(&contract, "source");
    contract_sh_says(source, "echo before >/tmp/before", "");
    contract_take(source, "point");
    contract_sh_says(source, "echo after >/tmp/after", "");
    struct kelpie_vm *clone = start_from(&contract, "clone", "point");
    contract_sh_says(clone, "cat /tmp/before; ls /tmp; hostname", "before\nbefore\nclone\n");
    struct kelpie_vm_info info = contract_inspect(clone);
    HARNESS_CHECK(info.memory_mib == 256 && info.cpus == 1, "the snapshot's size");
    HARNESS_CHECK(strcmp(info.origin, "snapshot") == 0, "origin \"%s\"", info.origin);
    struct kelpie_error error = {0};
    contract_fails(kelpie_snapshot_remove(contract.kelpie, "point", &error), &error, KELPIE_E_BUSY,
                   "in use");
    contract_end(source);
    contract_sh_says(clone, "cat /tmp/before", "before\n");
    contract_end(clone);
    contract_remove_snapshot(&contract, "point");
    contract_close(&contract);
}

/* ---- identity -------------------------------------------------------------------------------- */

static void test_restore_identity(const struct harness *harness) {
    struct contract contract = contract_open(harness);
    struct kelpie_vm *source = contract_start_durable(&contract, "source");
    static const char *const asked[] = {
        "hostname",
        "cat /etc/machine-id",
        "head -c 32 /dev/urandom | md5sum",
        "cat /proc/sys/kernel/random/uuid",
        "mktemp -u", /* getrandom(2) */
        "cat /proc/sys/kernel/random/boot_id",
    };
    enum { ASKED = sizeof(asked) / sizeof(asked[0]) };
    char answers[3][ASKED][128];
    contract_take(source, "point");
    struct kelpie_vm *vms[3] = {source, start_from(&contract, "one", "point"),
                                start_from(&contract, "two", "point")};
    for (size_t vm = 0; vm < 3; vm += 1) {
        for (size_t i = 0; i < ASKED; i += 1) {
            ask(vms[vm], asked[i], answers[vm][i], sizeof(answers[vm][i]));
        }
        HARNESS_CHECK(strcmp(answers[vm][1], kelpie_vm_id(vms[vm])) == 0, "machine id %s of %s",
                      answers[vm][1], kelpie_vm_id(vms[vm]));
        HARNESS_CHECK(strcmp(answers[vm][0], kelpie_vm_name(vms[vm])) == 0, "host name %s",
                      answers[vm][0]);
    }
    for (size_t i = 0; i + 1 < ASKED; i += 1) {
        HARNESS_CHECK(strcmp(answers[0][i], answers[1][i]) != 0 &&
                          strcmp(answers[0][i], answers[2][i]) != 0 &&
                          strcmp(answers[1][i], answers[2][i]) != 0,
                      "%s: %s, %s and %s", asked[i], answers[0][i], answers[1][i], answers[2][i]);
    }
    HARNESS_CHECK(strcmp(answers[0][ASKED - 1], answers[1][ASKED - 1]) == 0 &&
                      strcmp(answers[0][ASKED - 1], answers[2][ASKED - 1]) == 0,
                  "they are one boot");
    for (size_t vm = 0; vm < 3; vm += 1) {
        contract_end(vms[vm]);
    }
    contract_remove_snapshot(&contract, "point");
    contract_close(&contract);
}

/* The time of day is the host's, also when the snapshot is older. */
static void test_restore_clock(const struct harness *harness) {
    struct contract contract = contract_open(harness);
    struct kelpie_vm *source = contract_start_durable(&contract, "source");
    char text[64];
    contract_take(source, "point");
    contract_end(source);
    sleep(3);
    struct kelpie_vm *vm = start_from(&contract, "late", "point");
    struct timespec before;
    struct timespec after;
    clock_gettime(CLOCK_REALTIME, &before);
    ask(vm, "date +%s", text, sizeof(text));
    clock_gettime(CLOCK_REALTIME, &after);
    long long guest_s = strtoll(text, NULL, 10);
    HARNESS_CHECK(guest_s >= before.tv_sec - 1 && guest_s <= after.tv_sec + 1,
                  "the guest's clock: %lld, the host's %lld", guest_s, (long long)before.tv_sec);
    contract_end(vm);
    contract_remove_snapshot(&contract, "point");
    contract_close(&contract);
}

/* ---- what is refused ------------------------------------------------------------------------- */

static void test_restore_memory_mismatch(const struct harness *harness) {
    struct contract contract = contract_open(harness);
    struct kelpie_error error = {0};
    struct kelpie_vm *other = NULL;
    struct kelpie_vm *source = contract_start_durable(&contract, "source");
    contract_take(source, "point");
    struct kelpie_config *config = from_config(&contract, "point");
    kelpie_config_set_memory_mib(config, 512);
    contract_fails(kelpie_vm_create(contract.kelpie, "larger", config, &other, &error), &error,
                   KELPIE_E_SNAPSHOT_INCOMPATIBLE, "\"256\"");
    HARNESS_CHECK(strstr(error.message, "\"512\"") != NULL, "%s", error.message);
    kelpie_config_destroy(config);
    config = from_config(&contract, "point");
    kelpie_config_set_cpus(config, 4);
    contract_fails(kelpie_vm_create(contract.kelpie, "more", config, &other, &error), &error,
                   KELPIE_E_SNAPSHOT_INCOMPATIBLE, "cpus");
    kelpie_config_destroy(config);
    /* In place, into one that runs, which goes on, and into one that does not. */
    config = contract_boot_config(&contract);
    kelpie_config_set_memory_mib(config, 192);
    kelpie_config_set_ephemeral(config, false);
    other = contract_create(&contract, "smaller", config);
    contract_fails(kelpie_vm_restore(other, "point", 0, &error), &error,
                   KELPIE_E_SNAPSHOT_INCOMPATIBLE, "256 MiB, the VM of 192 MiB");
    contract_state_is(other, KELPIE_VM_CREATED);
    CONTRACT_OK(kelpie_vm_start(other, 0, &broken));
    contract_sh_says(other, "echo mine >/tmp/mine", "");
    contract_fails(kelpie_vm_restore(other, "point", 0, &error), &error,
                   KELPIE_E_SNAPSHOT_INCOMPATIBLE, "256 MiB, the VM of 192 MiB");
    contract_state_is(other, KELPIE_VM_RUNNING);
    contract_sh_says(other, "cat /tmp/mine", "mine\n");
    contract_fails(kelpie_vm_restore(other, "nothing", 0, &error), &error, KELPIE_E_NOT_FOUND,
                   "nothing");
    contract_end(other);
    /* An accelerator that is not the snapshot's. */
    bool is_kvm = strcmp(contract_inspect(source).accelerator, "kvm") == 0;
    config = from_config(&contract, "point");
    kelpie_config_set_accelerator(config, is_kvm ? KELPIE_ACCELERATOR_TCG : KELPIE_ACCELERATOR_KVM);
    contract_fails(kelpie_vm_create(contract.kelpie, "elsewhere", config, &other, &error), &error,
                   KELPIE_E_SNAPSHOT_INCOMPATIBLE,
                   is_kvm ? "has \"kvm\", and \"tcg\"" : "has \"tcg\", and \"kvm\"");
    kelpie_config_destroy(config);
    contract_end(source);
    contract_remove_snapshot(&contract, "point");
    contract_close(&contract);
}

static size_t read_manifest(const struct contract *contract, const char *snapshot, char *out,
                            size_t capacity) {
    char path[4200];
    snprintf(path, sizeof(path), "%s/snapshots/%s/manifest.json",
             contract->harness->state_directory, snapshot);
    FILE *file = fopen(path, "re");
    HARNESS_CHECK(file != NULL, "%s", path);
    size_t length = fread(out, 1, capacity - 1, file);
    fclose(file);
    out[length] = '\0';
    return length;
}

static bool manifest_has(const struct contract *contract, const char *snapshot, const char *text) {
    static char manifest[65536];
    read_manifest(contract, snapshot, manifest, sizeof(manifest));
    return strstr(manifest, text) != NULL;
}

/* A snapshot with another field in its manifest, whole in itself: what another machine, or another
 * version, would have made. */
static void change_manifest(const struct contract *contract, const char *snapshot, const char *from,
                            const char *to) {
    enum { SELF_BYTES = 9, SUM_BYTES = 32 }; /* {"self":"..." */
    char path[4200];
    static char text[65536];
    static char changed[65536];
    char sum[SUM_BYTES + 1];
    snprintf(path, sizeof(path), "%s/snapshots/%s/manifest.json",
             contract->harness->state_directory, snapshot);
    read_manifest(contract, snapshot, text, sizeof(text));
    char *place = strstr(text, from);
    HARNESS_CHECK(place != NULL, "%s in %s", from, text);
    int written = snprintf(changed, sizeof(changed), "%.*s%s%s", (int)(place - text), text, to,
                           place + strlen(from));
    HARNESS_CHECK(written > SELF_BYTES + SUM_BYTES && (size_t)written < sizeof(changed));
    XXH128_hash_t hash =
        XXH3_128bits(changed + SELF_BYTES + SUM_BYTES, (size_t)written - SELF_BYTES - SUM_BYTES);
    snprintf(sum, sizeof(sum), "%016llx%016llx", (unsigned long long)hash.high64,
             (unsigned long long)hash.low64);
    memcpy(changed + SELF_BYTES, sum, SUM_BYTES);
    FILE *file = fopen(path, "we");
    HARNESS_CHECK(file != NULL && fwrite(changed, 1, (size_t)written, file) == (size_t)written);
    HARNESS_CHECK(fclose(file) == 0);
}

static void test_restore_other_machines(const struct harness *harness) {
    static const struct {
        const char *from;
        const char *to;
        const char *message;
        const char *here;
    } changes[] = {
        {"\"architecture\":\"x86_64\"", "\"architecture\":\"aarch64\"", "aarch64", "x86_64"},
        {"\"vmm_version\":\"", "\"vmm_version\":\"99", "QEMU \"99", "installed"},
        {"\"machine\":\"microvm", "\"machine\":\"macrovm", "macrovm", "microvm"},
        {"\"cpu\":\"", "\"cpu\":\"other-", "processor", "other-"},
        {"\"tsc_khz\":", "\"tsc_khz\":1", "kHz", "apart"},
        {"\"backend\":\"qemu\"", "\"backend\":\"bochs\"", "bochs", "qemu"},
        {"\"format\":2", "\"format\":3", "format 3", "newer"},
    };
    struct contract contract = contract_open(harness);
    struct kelpie_error error = {0};
    struct kelpie_vm *vm = contract_start_durable(&contract, "source");
    contract_sh_says(vm, "echo mine >/tmp/mine", "");
    contract_take(vm, "point");
    for (size_t i = 0; i < sizeof(changes) / sizeof(changes[0]); i += 1) {
        change_manifest(&contract, "point", changes[i].from, changes[i].to);
        contract_fails(kelpie_vm_restore(vm, "point", 0, &error), &error,
                       KELPIE_E_SNAPSHOT_INCOMPATIBLE, changes[i].message);
        HARNESS_CHECK(strstr(error.message, changes[i].here) != NULL, "%s", error.message);
        contract_state_is(vm, KELPIE_VM_RUNNING);
        contract_sh_says(vm, "cat /tmp/mine", "mine\n");
        change_manifest(&contract, "point", changes[i].to, changes[i].from);
    }
    CONTRACT_OK(kelpie_vm_restore(vm, "point", 0, &broken));
    contract_end(vm);
    contract_remove_snapshot(&contract, "point");
    contract_close(&contract);
}

/* A guest that does not give back the token is not the one that was saved, however it answers. */
static void test_restore_wrong_token(const struct harness *harness) {
    struct contract contract = contract_open(harness);
    struct kelpie_error error = {0};
    struct kelpie_vm *vm = contract_start_durable(&contract, "source");
    contract_sh_says(vm, "echo mine >/tmp/mine", "");
    contract_take(vm, "point");
    change_manifest(&contract, "point", "\"token\":\"", "\"token\":\"00000000\",\"was\":\"");
    contract_fails(kelpie_vm_restore(vm, "point", 0, &error), &error, KELPIE_E_SNAPSHOT_CORRUPTED,
                   "token");
    change_manifest(&contract, "point", "\"token\":\"00000000\",\"was\":\"", "\"token\":\"");
    static const char *const digits = "0123456789abcdef";
    char from[16];
    char to[16];
    bool is_changed = false;
    for (size_t i = 0; i < 16 && !is_changed; i += 1) {
        snprintf(from, sizeof(from), "\"token\":\"%c", digits[i]);
        snprintf(to, sizeof(to), "\"token\":\"%c", digits[15 - i]);
        is_changed = manifest_has(&contract, "point", from);
    }
    change_manifest(&contract, "point", from, to);
    contract_fails(kelpie_vm_restore(vm, "point", 0, &error), &error, KELPIE_E_RESTORE,
                   "another continuity token");
    contract_state_is(vm, KELPIE_VM_RUNNING);
    contract_sh_says(vm, "cat /tmp/mine", "mine\n");
    struct kelpie_vm *other = contract_create_from(&contract, "other", "point");
    contract_fails(kelpie_vm_start(other, 0, &error), &error, KELPIE_E_RESTORE,
                   "another continuity token");
    contract_state_is(other, KELPIE_VM_CREATED);
    contract_end(other);
    contract_end(vm);
    contract_remove_snapshot(&contract, "point");
    contract_close(&contract);
}

/* ---- damage ---------------------------------------------------------------------------------- */

/* One bit of one byte of a file, in place and with the same times. */
static void flip(const struct contract *contract, const char *snapshot, const char *name,
                 off_t offset) {
    char path[4600];
    struct stat status;
    uint8_t byte = 0;
    snprintf(path, sizeof(path), "%s/snapshots/%s/%s", contract->harness->state_directory, snapshot,
             name);
    int file = open(path, O_RDWR | O_CLOEXEC);
    HARNESS_CHECK(file >= 0 && fstat(file, &status) == 0, "%s", path);
    offset = offset < 0 ? status.st_size + offset : offset;
    HARNESS_CHECK(pread(file, &byte, 1, offset) == 1);
    byte ^= 0x10;
    HARNESS_CHECK(pwrite(file, &byte, 1, offset) == 1);
    close(file);
}

static void test_restore_damaged(const struct harness *harness) {
    static const struct {
        const char *file;
        off_t offset;
    } places[] = {
        {"manifest.json", 100}, {"manifest.json", -20}, {"checksums", 7},
        {"config.json", 30},    {"device", 5000},       {"device", -1},
        {"memory", 1048576},    {"memory", 40000000},   {"memory", -4096},
    };
    struct contract contract = contract_open(harness);
    struct kelpie_error error = {0};
    struct kelpie_vm *vm = contract_boot_durable(&contract, "source");
    contract_sh_says(vm, "echo mine >/tmp/mine", "");
    contract_take(vm, "point");
    struct kelpie_vm *other = contract_create_from(&contract, "other", "point");
    for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i += 1) {
        flip(&contract, "point", places[i].file, places[i].offset);
        contract_fails(kelpie_vm_restore(vm, "point", 0, &error), &error,
                       KELPIE_E_SNAPSHOT_CORRUPTED, places[i].file);
        contract_sh_says(vm, "cat /tmp/mine", "mine\n");
        contract_fails(kelpie_vm_start(other, 0, &error), &error, KELPIE_E_SNAPSHOT_CORRUPTED,
                       places[i].file);
        contract_state_is(other, KELPIE_VM_CREATED);
        flip(&contract, "point", places[i].file, places[i].offset);
    }
    CONTRACT_OK(kelpie_vm_start(other, 0, &broken));
    contract_sh_says(other, "cat /tmp/mine", "mine\n");
    contract_end(other);
    contract_end(vm);
    contract_remove_snapshot(&contract, "point");
    contract_close(&contract);
}

/* ---- paused, stopped, in use ----------------------------------------------------------------- */

static void test_restore_states(const struct harness *harness) {
    struct contract contract = contract_open(harness);
    struct kelpie_vm *vm = contract_boot_durable(&contract, "source");
    contract_sh_says(vm, "echo mine >/tmp/mine", "");
    CONTRACT_OK(kelpie_vm_pause(vm, &broken));
    contract_take(vm, "paused");
    CONTRACT_OK(kelpie_vm_resume(vm, &broken));
    contract_take(vm, "running");
    /* Running -> Paused, Paused -> Running, Paused -> Paused. */
    CONTRACT_OK(kelpie_vm_restore(vm, "paused", 0, &broken));
    contract_state_is(vm, KELPIE_VM_PAUSED);
    CONTRACT_OK(kelpie_vm_restore(vm, "running", 0, &broken));
    contract_state_is(vm, KELPIE_VM_RUNNING);
    contract_sh_says(vm, "cat /tmp/mine", "mine\n");
    CONTRACT_OK(kelpie_vm_pause(vm, &broken));
    CONTRACT_OK(kelpie_vm_restore(vm, "paused", 0, &broken));
    contract_state_is(vm, KELPIE_VM_PAUSED);
    CONTRACT_OK(kelpie_vm_resume(vm, &broken));
    contract_sh_says(vm, "cat /tmp/mine; rm /tmp/mine", "mine\n");
    /* Stopped, and a later start boots. */
    CONTRACT_OK(kelpie_vm_stop(vm, 0, NULL, &broken));
    CONTRACT_OK(kelpie_vm_restore(vm, "running", 0, &broken));
    contract_sh_says(vm, "cat /tmp/mine", "mine\n");
    CONTRACT_OK(kelpie_vm_kill(vm, &broken));
    CONTRACT_OK(kelpie_vm_start(vm, 0, &broken));
    contract_sh_says(vm, "ls /tmp", "");
    struct kelpie_vm_info info = contract_inspect(vm);
    HARNESS_CHECK(strcmp(info.origin, "boot") == 0, "origin \"%s\"", info.origin);
    contract_end(vm);
    /* A new one of the paused one is Paused, and only its first start is a restore. */
    vm = start_from(&contract, "sleeper", "paused");
    contract_state_is(vm, KELPIE_VM_PAUSED);
    CONTRACT_OK(kelpie_vm_resume(vm, &broken));
    contract_sh_says(vm, "hostname; cat /tmp/mine", "sleeper\nmine\n");
    CONTRACT_OK(kelpie_vm_stop(vm, 0, NULL, &broken));
    contract_remove_snapshot(&contract, "paused");
    CONTRACT_OK(kelpie_vm_start(vm, 0, &broken));
    contract_sh_says(vm, "hostname; ls /tmp", "sleeper\n");
    contract_end(vm);
    contract_remove_snapshot(&contract, "running");
    contract_close(&contract);
}

/* ---- forks ----------------------------------------------------------------------------------- */

static size_t snapshot_count(struct contract *contract) {
    struct kelpie_snapshot_info *list = NULL;
    size_t count = 0;
    CONTRACT_OK(kelpie_snapshot_list(contract->kelpie, &list, &count, &broken));
    kelpie_snapshot_list_free(contract->kelpie, list, count);
    return count;
}

/* A counter that runs in the guest, one line for each number. */
#define COUNTER "i=0; while true; do i=$((i+1)); echo $i; echo $i >/tmp/count; done"

static struct kelpie_exec *start_counter(struct kelpie_vm *vm) {
    const char *const argv[] = {"sh", "-c", COUNTER, NULL};
    const struct kelpie_exec_options options = {.struct_size = sizeof(options),
                                                .argv = argv,
                                                .timeout_ms = KELPIE_TIMEOUT_NONE,
                                                .keep_on_disconnect = true};
    struct kelpie_exec *exec = NULL;
    CONTRACT_OK(kelpie_vm_exec_start(vm, &options, NULL, NULL, &exec, &broken));
    return exec;
}

static void test_fork_basic(const struct harness *harness) {
    static const char *const names[] = {"fork-a", "fork-b", "fork-c"};
    struct contract contract = contract_open(harness);
    struct kelpie_vm *source = contract_start_durable(&contract, "source");
    struct kelpie_vm *forks[3];
    struct kelpie_config *config = NULL;
    contract_sh_says(source, "echo mine >/tmp/mine", "");
    CONTRACT_OK(kelpie_config_create(contract.kelpie, &config, &broken));
    kelpie_config_set_lifetime(config, KELPIE_LIFETIME_DETACHED);
    uint64_t started_ms = harness_now_ms();
    CONTRACT_OK(kelpie_vm_fork(source, config, names, 3, forks, &broken));
    printf("# three forks in %llu ms\n", (unsigned long long)(harness_now_ms() - started_ms));
    HARNESS_CHECK(snapshot_count(&contract) == 0, "the snapshot between is gone");
    contract_sh_says(source, "cat /tmp/mine; hostname", "mine\nsource\n");
    for (size_t i = 0; i < 3; i += 1) {
        char expected[64];
        snprintf(expected, sizeof(expected), "mine\n%s\n", names[i]);
        contract_sh_says(forks[i], "cat /tmp/mine; hostname", expected);
    }
    /* Forks of forks, and a snapshot of one. */
    struct kelpie_vm *grandchild = NULL;
    static const char *const grand[] = {"grandchild"};
    contract_sh_says(forks[1], "echo more >>/tmp/mine", "");
    CONTRACT_OK(kelpie_vm_fork(forks[1], config, grand, 1, &grandchild, &broken));
    contract_sh_says(grandchild, "cat /tmp/mine; hostname", "mine\nmore\ngrandchild\n");
    contract_take(grandchild, "point");
    kelpie_config_destroy(config);
    contract_end(source);
    for (size_t i = 0; i < 3; i += 1) {
        contract_end(forks[i]);
    }
    contract_end(grandchild);
    struct kelpie_vm *late = start_from(&contract, "late", "point");
    contract_sh_says(late, "cat /tmp/mine; hostname", "mine\nmore\nlate\n");
    contract_end(late);
    contract_remove_snapshot(&contract, "point");
    contract_close(&contract);
}

static void test_fork_ephemeral(const struct harness *harness) {
    struct contract contract = contract_open(harness);
    struct kelpie_vm *source = contract_start(&contract);
    struct kelpie_vm *forks[2];
    CONTRACT_OK(kelpie_vm_fork(source, NULL, NULL, 2, forks, &broken));
    contract_sh_says(forks[0], "echo here", "here\n");
    contract_sh_says(forks[1], "echo here", "here\n");
    contract_end(forks[0]);
    contract_end(source);
    contract_sh_says(forks[1], "echo here", "here\n");
    contract_end(forks[1]);
    HARNESS_CHECK(snapshot_count(&contract) == 0, "the snapshot between is gone");
    contract_close(&contract);
}

/* ---- commands that ran ----------------------------------------------------------------------- */

/* What a counter printed, in order and without a gap. */
struct counted {
    uint64_t next;
    size_t length;
    uint64_t lines;
    char line[32];
    bool has_ended;
};

static void counted_output(void *context, struct kelpie_exec *exec, enum kelpie_stream kind,
                           const void *bytes, size_t count) {
    struct counted *counted = context;
    (void)exec;
    (void)kind;
    for (size_t i = 0; i < count; i += 1) {
        char byte = ((const char *)bytes)[i];
        if (byte != '\n') {
            HARNESS_CHECK(counted->length + 1 < sizeof(counted->line), "a long line");
            counted->line[counted->length] = byte;
            counted->length += 1;
            continue;
        }
        counted->line[counted->length] = '\0';
        uint64_t value = strtoull(counted->line, NULL, 10);
        HARNESS_CHECK(counted->next == 0 || value == counted->next, "%llu instead of %llu",
                      (unsigned long long)value, (unsigned long long)counted->next);
        counted->next = value + 1;
        counted->lines += 1;
        counted->length = 0;
    }
}

static void counted_ended(void *context, struct kelpie_exec *exec,
                          const struct kelpie_exec_status *status,
                          const struct kelpie_error *error) {
    struct counted *counted = context;
    (void)exec;
    (void)status;
    (void)error;
    counted->has_ended = true;
}

static void count_lines(struct contract *contract, struct counted *counted, uint64_t more) {
    uint64_t goal = counted->lines + more;
    uint64_t deadline_ms = harness_now_ms() + 30000;
    while (counted->lines < goal) {
        HARNESS_CHECK(harness_now_ms() < deadline_ms, "%llu lines came",
                      (unsigned long long)counted->lines);
        CONTRACT_OK(kelpie_wait(contract->kelpie, 1000, &broken));
    }
}

static const struct kelpie_exec_callbacks counted_callbacks = {
    .struct_size = sizeof(counted_callbacks), .output = counted_output, .ended = counted_ended};

/* Attaches to the one command of a VM. */
static struct kelpie_exec *attach(struct contract *contract, struct kelpie_vm *vm,
                                  struct counted *counted) {
    struct kelpie_exec_info *list = NULL;
    struct kelpie_exec *exec = NULL;
    size_t count = 0;
    *counted = (struct counted){0};
    CONTRACT_OK(kelpie_vm_exec_list(vm, &list, &count, &broken));
    HARNESS_CHECK(count == 1 && list[0].is_running && !list[0].is_attached, "%zu commands", count);
    CONTRACT_OK(
        kelpie_vm_exec_attach(vm, list[0].id, 0, 0, &counted_callbacks, counted, &exec, &broken));
    kelpie_exec_list_free(contract->kelpie, list, count);
    return exec;
}

static void kill_and_wait(struct contract *contract, struct kelpie_exec *exec,
                          struct counted *counted) {
    uint64_t deadline_ms = harness_now_ms() + 10000;
    CONTRACT_OK(kelpie_exec_kill(exec, &broken));
    while (!counted->has_ended && harness_now_ms() < deadline_ms) {
        CONTRACT_OK(kelpie_wait(contract->kelpie, 1000, &broken));
    }
    HARNESS_CHECK(counted->has_ended, "it was killed");
    kelpie_exec_close(exec);
}

static void test_restore_commands(const struct harness *harness) {
    struct contract contract = contract_open(harness);
    struct kelpie_vm *source = contract_start_durable(&contract, "source");
    struct counted ours = {0};
    const char *const argv[] = {"sh", "-c", COUNTER, NULL};
    const struct kelpie_exec_options options = {
        .struct_size = sizeof(options), .argv = argv, .timeout_ms = KELPIE_TIMEOUT_NONE};
    struct kelpie_exec *exec = NULL;
    CONTRACT_OK(kelpie_vm_exec_start(source, &options, &counted_callbacks, &ours, &exec, &broken));
    count_lines(&contract, &ours, 2000);
    contract_take(source, "busy");
    count_lines(&contract, &ours, 2000);
    struct kelpie_vm *one = contract_create_from(&contract, "one", "busy");
    CONTRACT_OK(kelpie_vm_start(one, 0, &broken));
    struct counted first;
    struct kelpie_exec *theirs = attach(&contract, one, &first);
    count_lines(&contract, &first, 4000);
    count_lines(&contract, &ours, 2000);
    kill_and_wait(&contract, theirs, &first);
    contract_sh_says(one, "echo alive", "alive\n");
    contract_end(one);
    /* In place: ours is told at once, and the one that was saved goes on. */
    CONTRACT_OK(kelpie_vm_restore(source, "busy", 0, &broken));
    uint64_t told_ms = harness_now_ms();
    while (!ours.has_ended) {
        HARNESS_CHECK(harness_now_ms() < told_ms + 1000, "it was told");
        CONTRACT_OK(kelpie_wait(contract.kelpie, 100, &broken));
    }
    struct kelpie_exec_status status;
    struct kelpie_error error = {0};
    contract_fails(kelpie_exec_wait(exec, 0, &status, &error), &error, KELPIE_E_CANCELLED, "busy");
    kelpie_exec_close(exec);
    struct counted again;
    theirs = attach(&contract, source, &again);
    count_lines(&contract, &again, 4000);
    kill_and_wait(&contract, theirs, &again);
    contract_end(source);
    contract_remove_snapshot(&contract, "busy");
    contract_close(&contract);
}

static void fork_done(void *context, const struct kelpie_error *error) {
    *(int *)context = error == NULL ? 0 : error->code;
}

static void fork_and_wait(struct contract *contract, struct kelpie_vm *source, size_t count,
                          struct kelpie_vm **out) {
    int code = 1;
    uint64_t deadline_ms = harness_now_ms() + 60000;
    CONTRACT_OK(
        kelpie_vm_fork_async(source, NULL, NULL, count, out, fork_done, &code, NULL, &broken));
    HARNESS_CHECK(code == 1, "no callback before it has returned");
    while (code == 1 && harness_now_ms() < deadline_ms) {
        CONTRACT_OK(kelpie_wait(contract->kelpie, 1000, &broken));
    }
    HARNESS_CHECK(code == 0, "%s", kelpie_code_name(code));
}

/* Given up at once, and later: no VM is left, nor the snapshot between. */
static void test_fork_given_up(const struct harness *harness) {
    struct contract contract = contract_open(harness);
    struct kelpie_vm *source = contract_start_durable(&contract, "source");
    static const char *const names[] = {"child-a", "child-b"};
    struct kelpie_vm *forks[2] = {0};
    for (unsigned i = 0; i < 4; i += 1) {
        int code = 1;
        struct kelpie_operation *operation = NULL;
        CONTRACT_OK(kelpie_vm_fork_async(source, NULL, names, 2, forks, fork_done, &code,
                                         &operation, &broken));
        uint64_t until_ms = harness_now_ms() + 150 * i;
        for (uint64_t now_ms = harness_now_ms(); now_ms < until_ms && code == 1;
             now_ms = harness_now_ms()) {
            CONTRACT_OK(kelpie_wait(contract.kelpie, until_ms - now_ms, &broken));
        }
        if (code == 1) {
            kelpie_operation_cancel(operation);
        }
        uint64_t deadline_ms = harness_now_ms() + 60000;
        while (code == 1 && harness_now_ms() < deadline_ms) {
            CONTRACT_OK(kelpie_wait(contract.kelpie, 1000, &broken));
        }
        HARNESS_CHECK(code == 0 || code == KELPIE_E_CANCELLED, "%s", kelpie_code_name(code));
        for (size_t j = 0; j < 2 && code == 0; j += 1) { /* it was quicker */
            contract_end(forks[j]);
        }
        /* Who gives up does not wait for what the monitor has under way. */
        deadline_ms = harness_now_ms() + 10000;
        while (snapshot_count(&contract) > 0 && harness_now_ms() < deadline_ms) {
            CONTRACT_OK(kelpie_wait(contract.kelpie, 50, &broken));
        }
        HARNESS_CHECK(snapshot_count(&contract) == 0, "the snapshot between is gone");
        contract_sh_says(source, "echo well", "well\n");
    }
    /* The names are free, and a handle may be closed with one under way. */
    int code = 1;
    CONTRACT_OK(kelpie_vm_fork(source, NULL, names, 2, forks, &broken));
    struct kelpie_vm *never = NULL;
    CONTRACT_OK(
        kelpie_vm_fork_async(forks[0], NULL, NULL, 1, &never, fork_done, &code, NULL, &broken));
    kelpie_vm_close(forks[0]);
    contract_sh_says(forks[1], "echo well", "well\n");
    HARNESS_CHECK(code == 1 && never == NULL, "no callback after the handle was closed");
    contract_end(forks[1]);
    CONTRACT_OK(kelpie_vm_open(contract.kelpie, "child-a", &forks[0], &broken)); /* it has ended */
    contract_end(forks[0]);
    contract_end(source);
    contract_close(&contract);
}

static void test_fork_busy(const struct harness *harness) {
    struct contract contract = contract_open(harness);
    struct kelpie_vm *source = contract_start_durable(&contract, "source");
    struct kelpie_exec *exec = start_counter(source);
    uint32_t rounds = harness_count(harness, 10);
    rounds = rounds < 5 ? 5 : rounds;
    struct kelpie_vm *forks[10];
    CONTRACT_OK(kelpie_exec_detach(exec, &broken));
    CONTRACT_OK(kelpie_vm_fork(source, NULL, NULL, 1, &forks[0], &broken));
    /* The others at once, with this program's own loop going on; two of them are forks of a fork.
     */
    fork_and_wait(&contract, source, rounds - 3, &forks[1]);
    fork_and_wait(&contract, forks[0], 2, &forks[rounds - 2]);
    for (uint32_t i = 0; i < rounds; i += 1) {
        struct counted counted;
        struct kelpie_exec *theirs = attach(&contract, forks[i], &counted);
        count_lines(&contract, &counted, 1000);
        kill_and_wait(&contract, theirs, &counted);
        contract_end(forks[i]);
    }
    struct counted counted;
    exec = attach(&contract, source, &counted);
    count_lines(&contract, &counted, 1000);
    kill_and_wait(&contract, exec, &counted);
    contract_end(source);
    HARNESS_CHECK(snapshot_count(&contract) == 0, "the snapshots between are gone");
    contract_close(&contract);
}

/* A restore of a restore of a .., each with what all before it did; and the first one still. */
static void test_restore_generations(const struct harness *harness) {
    enum { GENERATIONS = 10 };
    struct contract contract = contract_open(harness);
    struct kelpie_vm *vm = contract_boot_durable(&contract, "ancestor");
    char name[32];
    char script[64];
    char expected[256] = "";
    for (int i = 0; i < GENERATIONS; i += 1) {
        snprintf(script, sizeof(script), "echo %d >>/tmp/generations", i);
        contract_sh_says(vm, script, "");
        snprintf(expected + strlen(expected), sizeof(expected) - strlen(expected), "%d\n", i);
        snprintf(name, sizeof(name), "point-%d", i);
        contract_take(vm, name);
        contract_end(vm);
        char next[32];
        snprintf(next, sizeof(next), "child-%d", i);
        vm = contract_create_from(&contract, next, name);
        CONTRACT_OK(kelpie_vm_start(vm, 0, &broken));
        contract_sh_says(vm, "cat /tmp/generations", expected);
    }
    struct kelpie_snapshot_info info = {.struct_size = sizeof(info)};
    CONTRACT_OK(kelpie_snapshot_inspect(contract.kelpie, "point-9", &info, &broken));
    HARNESS_CHECK(info.stored_bytes < 64u << 20, "the tenth takes %llu bytes",
                  (unsigned long long)info.stored_bytes);
    CONTRACT_OK(kelpie_vm_restore(vm, "point-0", 0, &broken));
    contract_sh_says(vm, "cat /tmp/generations", "0\n");
    CONTRACT_OK(kelpie_vm_restore(vm, "point-9", 0, &broken));
    contract_sh_says(vm, "cat /tmp/generations", expected);
    contract_end(vm);
    for (int i = 0; i < GENERATIONS; i += 1) {
        snprintf(name, sizeof(name), "point-%d", i);
        contract_remove_snapshot(&contract, name);
    }
    contract_close(&contract);
}

const struct harness_test contract_tests_restore[] = {
    {"snapshot_restore_basic", test_restore_basic, 60},
    {"snapshot_memory_mismatch", test_restore_memory_mismatch, 60},
    {"snapshot_arch_mismatch", test_restore_other_machines, 60},
    {"restore_wrong_token", test_restore_wrong_token, 60},
    {"restore_damaged", test_restore_damaged, 90},
    {"restore_states", test_restore_states, 90},
    {"restore_new_vm", test_restore_new_vm, 60},
    {"restore_identity", test_restore_identity, 60},
    {"restore_clock", test_restore_clock, 60},
    {"restore_commands", test_restore_commands, 90},
    {"restore_generations", test_restore_generations, 120},
    {"fork_basic", test_fork_basic, 90},
    {"fork_ephemeral", test_fork_ephemeral, 60},
    {"fork_busy", test_fork_busy, 180},
    {"fork_given_up", test_fork_given_up, 90},
    {0},
};
