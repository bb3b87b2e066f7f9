/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Save and restore by the driver, on real VMs. Goal: a saved VM comes back as often as wanted, each
 * one alive and itself, generations deep, while the source goes on; a state that does not fit or is
 * damaged is refused, and says why. Method: the driver as a monitor calls it, the real agent as a
 * witness. Prints what it took.
 */
#include "machine.h"

#define GENERATIONS 10

/* What the test itself made; the harness looks for what is left beyond that. */
static void clean(const struct harness *harness) {
    char command[600];
    snprintf(command, sizeof(command), "rm -rf %s/*", harness->root_directory);
    HARNESS_CHECK(system(command) == 0);
}

static double ms(int64_t ns) {
    return (double)ns / 1e6;
}

static void tell(const char *what, const struct state *state) {
    printf(
        "# %s: paused %.2f ms, saved in %.2f ms, longest turn %.2f ms, %llu pages, %llu bytes of "
        "memory, %llu of devices\n",
        what, ms(state->pause_ns), ms(state->save_ns), ms(state->step_ns_max),
        (unsigned long long)state->saved.page_count, (unsigned long long)state->saved.stored_bytes,
        (unsigned long long)state->saved.device_bytes);
}

/* What is over a base stands beside it: the same file, by a link. */
static void link_base(const struct state *from, const struct state *to) {
    char source[600];
    char target[600];
    snprintf(source, sizeof(source), "%s/%s", from->path, from->has_map ? "base" : "memory");
    snprintf(target, sizeof(target), "%s/base", to->path);
    HARNESS_CHECK(link(source, target) == 0);
}

static uint64_t digest_file(const struct state *state, const char *name) {
    char path[600];
    uint64_t digest = UINT64_C(0xcbf29ce484222325);
    static uint64_t block[8192];
    snprintf(path, sizeof(path), "%s/%s", state->path, name);
    FILE *file = fopen(path, "re");
    HARNESS_CHECK(file != NULL, "%s", path);
    size_t count = sizeof(block);
    while (count == sizeof(block)) {
        memset(block, 0, sizeof(block));
        count = fread(block, 1, sizeof(block), file);
        for (size_t i = 0; i < (count + 7) / 8; i += 1) {
            digest = (digest ^ block[i]) * UINT64_C(0x100000001b3);
        }
    }
    fclose(file);
    return digest;
}

/* Restores, wakes, and asks for what generation `number` wrote. */
static struct machine *come_back(const struct harness *harness, const struct state *state,
                                 const char *disk, int number) {
    char want[32];
    uint64_t start_ms = harness_now_ms();
    struct machine *machine = machine_restore(harness, state, disk, false);
    uint64_t loaded_ms = harness_now_ms();
    machine_wake(machine);
    uint64_t awake_ms = harness_now_ms();
    snprintf(want, sizeof(want), "generation %d", number);
    HARNESS_CHECK(strcmp(machine_shell(machine, "cat /tmp/generation"), want) == 0);
    printf("# restored: paused after %llu ms, the agent after %llu ms, a command after %llu ms\n",
           (unsigned long long)(loaded_ms - start_ms), (unsigned long long)(awake_ms - start_ms),
           (unsigned long long)(harness_now_ms() - start_ms));
    return machine;
}

static void test_restored_twice_and_source_goes_on(const struct harness *harness) {
    struct state state;
    struct machine *source = machine_boot(harness, NULL);
    machine_shell(source, "echo generation 0 > /tmp/generation");
    machine_snapshot(source, "first", &state);
    tell("booted", &state);
    uint64_t digest = digest_file(&state, "memory");
    HARNESS_CHECK(strcmp(machine_shell(source, "cat /tmp/generation"), "generation 0") == 0);
    struct machine *one = come_back(harness, &state, NULL, 0);
    struct machine *two = come_back(harness, &state, NULL, 0);
    machine_shell(one, "echo other > /tmp/generation");
    HARNESS_CHECK(strcmp(machine_shell(two, "cat /tmp/generation"), "generation 0") == 0);
    HARNESS_CHECK(strcmp(machine_shell(source, "cat /tmp/generation"), "generation 0") == 0);
    HARNESS_CHECK(strcmp(machine_shell(two, "hostname"), "again") == 0);
    HARNESS_CHECK(strcmp(machine_shell(source, "hostname"), "first") == 0);
    machine_destroy(two);
    machine_destroy(one);
    machine_destroy(source);
    HARNESS_CHECK(digest_file(&state, "memory") == digest, "somebody wrote to the base");
    clean(harness);
}

static void test_ten_generations(const struct harness *harness) {
    static struct state states[GENERATIONS + 1];
    char text[64];
    struct machine *machine = machine_boot(harness, NULL);
    machine_shell(machine, "echo generation 0 > /tmp/generation");
    machine_snapshot(machine, "g0", &states[0]);
    tell("booted", &states[0]);
    machine_destroy(machine);
    for (int i = 1; i <= GENERATIONS; i += 1) {
        machine = come_back(harness, &states[i - 1], NULL, i - 1);
        snprintf(text, sizeof(text), "echo generation %d > /tmp/generation", i);
        machine_shell(machine, text);
        snprintf(text, sizeof(text), "g%d", i);
        machine_snapshot(machine, text, &states[i]);
        link_base(&states[i - 1], &states[i]);
        tell(text, &states[i]);
        machine_destroy(machine);
        HARNESS_CHECK(states[i].saved.stored_bytes < states[0].saved.stored_bytes / 3);
    }
    machine_destroy(come_back(harness, &states[GENERATIONS], NULL, GENERATIONS));
    clean(harness);
}

static void test_saved_again_while_paused_is_the_same(const struct harness *harness) {
    struct state first;
    struct state second;
    struct machine *machine = machine_boot(harness, NULL);
    machine_shell(machine, "echo generation 0 > /tmp/generation");
    machine_quiesce(machine);
    machine_pause(machine);
    HARNESS_CHECK(machine_save(machine, "a", &first) == 0, "%s", machine->done_error.message);
    HARNESS_CHECK(machine_save(machine, "b", &second) == 0, "%s", machine->done_error.message);
    machine_resume(machine);
    machine_mark(machine);
    HARNESS_CHECK(digest_file(&first, "memory") == digest_file(&second, "memory"));
    HARNESS_CHECK(first.saved.device_bytes == second.saved.device_bytes);
    machine_shell(machine, "true");
    machine_destroy(machine);
    machine_destroy(come_back(harness, &second, NULL, 0));
    clean(harness);
}

static void make_disk(const char *path) {
    int file = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    HARNESS_CHECK(file >= 0 && ftruncate(file, 64 << 20) == 0);
    close(file);
}

static void make_layer(const char *path, const char *backing, const char *backing_name) {
    struct kelpie_os *os = kelpie__os_linux_create();
    struct kelpie_error error = {0};
    const struct kelpie_vmm_overlay overlay = {
        .file = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600),
        .backing = open(backing, O_RDONLY | O_CLOEXEC),
        .backing_format =
            strstr(backing, "qcow2") != NULL ? KELPIE_VMM_DISK_QCOW2 : KELPIE_VMM_DISK_RAW,
        .backing_name = backing_name,
    };
    HARNESS_CHECK(overlay.file >= 0 && overlay.backing >= 0);
    HARNESS_CHECK(kelpie__vmm_make_overlay(kelpie__vmm_driver(KELPIE_VMM_BACKEND_QEMU), os,
                                           &overlay, &error) == 0,
                  "%s", error.message);
    close(overlay.file);
    close(overlay.backing);
    kelpie__os_linux_destroy(os);
}

static void switch_disk(struct machine *machine, const char *path) {
    struct kelpie_error error = {0};
    machine->is_done = false;
    HARNESS_CHECK(kelpie__vmm_switch_disk(machine->vmm, 0, path, machine_done, machine, &error) ==
                      0,
                  "%s", error.message);
    machine_wait(machine, &machine->is_done);
    HARNESS_CHECK(machine->done_status == 0, "%s", machine->done_error.message);
}

#define DISK_WRITE(word) "echo " word " | dd of=/dev/vda bs=512 conv=sync,fsync 2>/dev/null"
#define DISK_READ "dd if=/dev/vda bs=4096 count=1 iflag=direct 2>/dev/null | head -n 1"

static void test_disks_keep_their_content(const struct harness *harness) {
    struct state first;
    struct state second;
    char paths[5][600];
    static const char *const names[] = {"disk.raw", "one.qcow2", "two.qcow2", "three.qcow2",
                                        "four.qcow2"};
    for (size_t i = 0; i < 5; i += 1) {
        snprintf(paths[i], sizeof(paths[i]), "%s/%s", harness->root_directory, names[i]);
    }
    make_disk(paths[0]);
    struct machine *source = machine_boot(harness, paths[0]);
    machine_shell(source, "echo generation 0 > /tmp/generation");
    machine_shell(source, DISK_WRITE("one"));
    HARNESS_CHECK(strcmp(machine_shell(source, DISK_READ), "one") == 0);
    make_layer(paths[1], paths[0], names[0]);
    machine_quiesce(source);
    machine_pause(source);
    HARNESS_CHECK(machine_save(source, "first", &first) == 0);
    switch_disk(source, paths[1]);
    machine_resume(source);
    machine_mark(source);
    HARNESS_CHECK(strcmp(machine_shell(source, DISK_READ), "one") == 0);
    machine_shell(source, DISK_WRITE("two"));
    HARNESS_CHECK(strcmp(machine_shell(source, DISK_READ), "two") == 0);
    /* Another one over the same layer, and again. */
    make_layer(paths[2], paths[0], names[0]);
    struct machine *other = come_back(harness, &first, paths[2], 0);
    HARNESS_CHECK(strcmp(machine_shell(other, DISK_READ), "one") == 0);
    machine_shell(other, DISK_WRITE("three"));
    make_layer(paths[3], paths[2], names[2]);
    machine_quiesce(other);
    machine_pause(other);
    switch_disk(other, paths[3]);
    HARNESS_CHECK(machine_save(other, "second", &second) == 0);
    machine_resume(other);
    machine_mark(other);
    link_base(&first, &second);
    machine_shell(other, DISK_WRITE("five"));
    make_layer(paths[4], paths[2], names[2]);
    struct machine *last = come_back(harness, &second, paths[4], 0);
    HARNESS_CHECK(strcmp(machine_shell(last, DISK_READ), "three") == 0);
    HARNESS_CHECK(strcmp(machine_shell(other, DISK_READ), "five") == 0);
    HARNESS_CHECK(strcmp(machine_shell(source, DISK_READ), "two") == 0);
    machine_destroy(last);
    machine_destroy(other);
    machine_destroy(source);
    for (size_t i = 1; i < 5; i += 1) { /* each is a sound image, over the one that it names */
        char command[700];
        snprintf(command, sizeof(command), "qemu-img check -qU %s", paths[i]);
        HARNESS_CHECK(system("command -v qemu-img >/dev/null") != 0 || system(command) == 0);
    }
    clean(harness);
}

/* A counter in memory and one on the disk, written as fast as the guest can. */
static void be_busy(struct machine *machine) {
    const char *const script =
        "(i=0; while :; do i=$((i+1)); echo $i > /tmp/count; done) & i=0; while :; do "
        "i=$((i+1)); echo $i | dd of=/dev/vda bs=4096 conv=sync,fsync 2>/dev/null; done";
    const char *const argv[] = {"sh", "-c", script, NULL};
    const struct client_exec exec = {.argv = argv};
    HARNESS_CHECK(client_exec_start(&machine->client, &exec) > 0);
}

/* It is rewritten all the time, and empty in between. */
static long counter(struct machine *machine, const char *script) {
    long value = 0;
    for (uint32_t i = 0; i < 100 && value == 0; i += 1) {
        value = strtol(machine_shell(machine, script), NULL, 10);
    }
    HARNESS_CHECK(value > 0);
    return value;
}

static void goes_on(struct machine *machine) {
    long memory = counter(machine, "cat /tmp/count");
    long disk = counter(machine, DISK_READ);
    uint64_t start_ms = harness_now_ms();
    bool has_moved = false;
    while (!has_moved && harness_now_ms() - start_ms < 10000) {
        has_moved =
            counter(machine, "cat /tmp/count") > memory && counter(machine, DISK_READ) > disk;
    }
    HARNESS_CHECK(has_moved, "memory stayed at %ld, disk at %ld", memory, disk);
}

static void test_busy_guest_goes_on_in_both(const struct harness *harness) {
    struct state state;
    char paths[3][600];
    static const char *const names[] = {"disk.raw", "one.qcow2", "two.qcow2"};
    for (size_t i = 0; i < 3; i += 1) {
        snprintf(paths[i], sizeof(paths[i]), "%s/%s", harness->root_directory, names[i]);
    }
    make_disk(paths[0]);
    make_layer(paths[1], paths[0], names[0]);
    make_layer(paths[2], paths[0], names[0]);
    struct machine *source = machine_boot(harness, paths[0]);
    machine_shell(source, "echo generation 0 > /tmp/generation");
    be_busy(source);
    goes_on(source);
    machine_quiesce(source);
    machine_pause(source);
    HARNESS_CHECK(machine_save(source, "first", &state) == 0, "%s", source->done_error.message);
    switch_disk(source, paths[1]);
    machine_resume(source);
    machine_mark(source);
    struct machine *copy = come_back(harness, &state, paths[2], 0);
    goes_on(copy);
    goes_on(source);
    machine_destroy(copy);
    machine_destroy(source);
    clean(harness);
}

/* ---- what does not work ---------------------------------------------------------------------- */

static void cut(const struct state *state, const char *name, off_t size) {
    char path[600];
    snprintf(path, sizeof(path), "%s/%s", state->path, name);
    HARNESS_CHECK(truncate(path, size) == 0);
}

/* A restore that ends: with this code, and these words. */
static void refused(const struct harness *harness, const struct state *state, int code,
                    const char *words) {
    struct machine *machine = machine_restore(harness, state, NULL, true);
    HARNESS_CHECK(!machine->is_started);
    int got = machine->is_ended ? machine->end_code : machine->done_error.code;
    const char *text = machine->is_ended ? machine->end_text : machine->done_error.message;
    printf("# refused: %s\n", text);
    HARNESS_CHECK(got == code, "%d: %s", got, text);
    HARNESS_CHECK(strstr(text, words) != NULL, "%s", text);
    if (machine->is_ended) {
        HARNESS_CHECK(machine->end_kind == KELPIE_VMM_END_FAILED);
    }
    machine_destroy(machine);
}

static void test_what_does_not_fit_is_refused(const struct harness *harness) {
    struct state good;
    struct state bad;
    struct machine *machine = machine_boot(harness, NULL);
    machine_shell(machine, "echo generation 0 > /tmp/generation");
    machine_snapshot(machine, "first", &good);
    machine_destroy(machine);
    bad = good;
    bad.description.tsc_khz += bad.description.tsc_khz / 1000;
    refused(harness, &bad, KELPIE_E_SNAPSHOT_INCOMPATIBLE, "kHz");
    bad = good;
    snprintf(bad.description.version, sizeof(bad.description.version), "7.1.0");
    refused(harness, &bad, KELPIE_E_SNAPSHOT_INCOMPATIBLE, "7.1.0");
    bad = good;
    snprintf(bad.description.machine, sizeof(bad.description.machine), "q35");
    refused(harness, &bad, KELPIE_E_SNAPSHOT_INCOMPATIBLE, "q35");
    bad = good;
    snprintf(bad.description.cpu, sizeof(bad.description.cpu), "486");
    refused(harness, &bad, KELPIE_E_SNAPSHOT_INCOMPATIBLE, "486");
    bad = good;
    snprintf(bad.description.vmm, sizeof(bad.description.vmm), "libkrun");
    refused(harness, &bad, KELPIE_E_SNAPSHOT_INCOMPATIBLE, "libkrun");
    struct machine *same = come_back(harness, &good, NULL, 0);
    machine_destroy(same);
    cut(&good, "device", (off_t)good.saved.device_bytes / 2);
    refused(harness, &good, KELPIE_E_RESTORE, "load of migration failed");
    cut(&good, "device", 16);
    refused(harness, &good, KELPIE_E_RESTORE, "device state");
    cut(&good, "device", 0);
    refused(harness, &good, KELPIE_E_SNAPSHOT_CORRUPTED, "device state");
    cut(&good, "memory", 4096);
    refused(harness, &good, KELPIE_E_SNAPSHOT_CORRUPTED, "device state");
    clean(harness);
}

static void test_save_that_fails_leaves_the_guest_alone(const struct harness *harness) {
    struct state state;
    struct kelpie_error error = {0};
    struct machine *machine = machine_boot(harness, NULL);
    machine_shell(machine, "echo generation 0 > /tmp/generation");
    machine_quiesce(machine);
    machine_pause(machine);
    int full = open("/dev/full", O_WRONLY | O_CLOEXEC);
    int file = open(harness->root_directory, O_RDWR | O_TMPFILE | O_CLOEXEC, 0600);
    int unwritable = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
    const struct kelpie_vmm_save saves[] = {
        {.device = full, .memory = file, .map = -1},
        {.device = open(harness->root_directory, O_WRONLY | O_TMPFILE | O_CLOEXEC, 0600),
         .memory = unwritable,
         .map = -1},
    };
    HARNESS_CHECK(full >= 0 && file >= 0 && unwritable >= 0 && saves[1].device >= 0);
    for (size_t i = 0; i < 2; i += 1) {
        struct kelpie_vmm_saved saved = {0};
        machine->is_done = false;
        HARNESS_CHECK(
            kelpie__vmm_save(machine->vmm, &saves[i], &saved, machine_done, machine, &error) == 0);
        machine_wait(machine, &machine->is_done);
        printf("# failed: %s\n", machine->done_error.message);
        HARNESS_CHECK(machine->done_status < 0 && saved.page_count == 0);
    }
    HARNESS_CHECK(machine_save(machine, "good", &state) == 0, "%s", machine->done_error.message);
    machine_resume(machine);
    machine_mark(machine);
    HARNESS_CHECK(strcmp(machine_shell(machine, "cat /tmp/generation"), "generation 0") == 0);
    /* An end in the middle: the save is answered, then the end told. */
    machine_quiesce(machine);
    machine_pause(machine);
    struct kelpie_vmm_saved saved = {0};
    const struct kelpie_vmm_save save = {
        .device = open(harness->root_directory, O_WRONLY | O_TMPFILE | O_CLOEXEC, 0600),
        .memory = file,
        .map = -1};
    machine->is_done = false;
    HARNESS_CHECK(kelpie__vmm_save(machine->vmm, &save, &saved, machine_done, machine, &error) ==
                  0);
    kelpie__vmm_kill(machine->vmm);
    machine_wait(machine, &machine->is_ended);
    HARNESS_CHECK(machine->is_done && machine->done_status < 0);
    HARNESS_CHECK(machine->end_kind == KELPIE_VMM_END_KILLED, "%s", machine->end_text);
    machine_destroy(machine);
    machine_destroy(come_back(harness, &state, NULL, 0));
    clean(harness);
}

int main(int argc, char **argv) {
    static const struct harness_test tests[] = {
        {"restored_twice_and_source_goes_on", test_restored_twice_and_source_goes_on, 60},
        {"ten_generations_deep", test_ten_generations, 120},
        {"saved_again_while_paused_is_the_same", test_saved_again_while_paused_is_the_same, 60},
        {"disks_keep_their_content", test_disks_keep_their_content, 120},
        {"busy_guest_goes_on_in_both", test_busy_guest_goes_on_in_both, 120},
        {"what_does_not_fit_is_refused", test_what_does_not_fit_is_refused, 120},
        {"save_that_fails_leaves_the_guest_alone", test_save_that_fails_leaves_the_guest_alone, 60},
    };
    const struct harness_suite suite = {
        .name = "vmm", .tests = tests, .test_count = sizeof(tests) / sizeof(tests[0])};
    return harness_main(argc, argv, &suite);
}
