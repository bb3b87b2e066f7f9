/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * See machine.h.
 */
#include "machine.h"

#include <spawn.h>

#include "store/cache.h"

#define MACHINE_STEPS_MAX 4000000

static void machine_event(void *context, const struct kelpie_vmm_event *event) {
    struct machine *machine = context;
    if (event->type == KELPIE_VMM_EVENT_STARTED) {
        machine->is_started = true;
    }
    if (event->type == KELPIE_VMM_EVENT_ENDED) {
        machine->is_ended = true;
        machine->end_kind = event->end->kind;
        machine->end_code = event->end->code;
        snprintf(machine->end_text, sizeof(machine->end_text), "%s", event->end->text);
        kelpie__vmm_destroy(machine->vmm);
        machine->vmm = NULL;
    }
}

static void machine_console(void *context, uint32_t bits) {
    struct machine *machine = context;
    char bytes[4096];
    ssize_t count = read(machine->console, bytes, sizeof(bytes));
    if (getenv("KELPIE_TEST_CONSOLE") != NULL && count > 0) {
        fprintf(stderr, "%.*s", (int)count, bytes);
    }
    if (count == 0 || (bits & KELPIE_OS_HANGUP) != 0) {
        kelpie__loop_watch_change(machine->client.loop, machine->console_watch, 0);
    }
}

void machine_done(void *context, int status, const struct kelpie_error *error) {
    struct machine *machine = context;
    HARNESS_CHECK(!machine->is_done);
    machine->is_done = true;
    machine->done_status = status;
    machine->done_error = error != NULL ? *error : (struct kelpie_error){0};
}

void machine_wait(struct machine *machine, const bool *flag) {
    for (uint32_t i = 0; i < MACHINE_STEPS_MAX && !*flag; i += 1) {
        HARNESS_CHECK(!machine->is_ended || flag == &machine->is_ended, "it ended: %s",
                      machine->end_text);
        client_step(&machine->client);
    }
    HARNESS_CHECK(*flag);
}

/* ---- start ----------------------------------------------------------------------------------- */

/* Makes what is not in the cache yet. */
static const char *prepared(const struct kelpie_cache_item *item) {
    static char path[] = "PATH=/usr/sbin:/usr/bin:/sbin:/bin";
    static char *const environment[] = {path, NULL};
    pid_t child = 0;
    int status = -1;
    if (!item->is_ready) {
        HARNESS_CHECK(posix_spawn(&child, item->arguments[0], NULL, NULL,
                                  (char *const *)(uintptr_t)item->arguments, environment) == 0);
        HARNESS_CHECK(waitpid(child, &status, 0) == child && status == 0, "kelpie-pack: %d",
                      status);
    }
    return strdup(item->path);
}

static void prepare(struct machine *machine) {
    const struct harness *harness = machine->harness;
    struct kelpie_cache cache = {.os = machine->client.os,
                                 .cache_path = harness->cache_directory,
                                 .libexec_path = harness->libexec_directory};
    struct kelpie_cache_kernel *kernel = calloc(1, sizeof(*kernel));
    struct kelpie_cache_item *item = calloc(1, sizeof(*item));
    struct kelpie_error error = {0};
    HARNESS_CHECK(mkdir(harness->cache_directory, 0700) == 0 || errno == EEXIST);
    HARNESS_CHECK(kelpie__cache_find_kernel(&cache, NULL, kernel, &error) == 0, "%s",
                  error.message);
    HARNESS_CHECK(kelpie__cache_plan_kernel(&cache, kernel, item, &error) == 0, "%s",
                  error.message);
    machine->spec.kernel = prepared(item);
    HARNESS_CHECK(kelpie__cache_plan_initramfs(&cache, kernel, item, &error) == 0, "%s",
                  error.message);
    machine->spec.initramfs = prepared(item);
    machine->spec.kernel_kind = kernel->is_own ? KELPIE_VMM_KERNEL_OWN : KELPIE_VMM_KERNEL_GENERIC;
    free(item);
    free(kernel);
}

struct machine *machine_create(const struct harness *harness) {
    struct machine *machine = calloc(1, sizeof(*machine));
    struct kelpie_error error = {0};
    HARNESS_CHECK(machine != NULL && harness->cache_directory != NULL);
    machine->harness = harness;
    machine->client.gives_credit = true;
    machine->client.os = kelpie__os_linux_create();
    machine->console = -1;
    for (size_t i = 0; i < 4; i += 1) {
        machine->files[i] = -1;
    }
    HARNESS_CHECK(kelpie__loop_create(machine->client.os, 32, &machine->client.loop, &error) == 0);
    const struct kelpie_vmm_create create = {.os = machine->client.os,
                                             .loop = machine->client.loop,
                                             .callback = machine_event,
                                             .context = machine};
    HARNESS_CHECK(kelpie__vmm_create(kelpie__vmm_driver(KELPIE_VMM_BACKEND_QEMU), &create,
                                     &machine->vmm, &error) == 0,
                  "%s", error.message);
    machine->spec.vm_directory = harness->root_directory;
    machine->spec.cache_directory = harness->cache_directory;
    machine->spec.cpu_count = 2;
    machine->spec.memory_mib = MACHINE_MEMORY_MIB;
    machine->spec.accelerator = KELPIE_VMM_ACCELERATOR_TCG;
    return machine;
}

static int machine_start(struct machine *machine, const char *disk) {
    struct kelpie_vmm_started started;
    if (disk != NULL) {
        machine->disk = (struct kelpie_vmm_disk){
            .path = disk,
            .serial = "upper",
            .format = strstr(disk, "qcow2") != NULL ? KELPIE_VMM_DISK_QCOW2 : KELPIE_VMM_DISK_RAW};
        machine->spec.disks = &machine->disk;
        machine->spec.disk_count = 1;
    }
    int status = kelpie__vmm_start(machine->vmm, &machine->spec, &started, &machine->done_error);
    if (status < 0) {
        return status;
    }
    machine->client.socket = started.agent;
    machine->console = started.console;
    HARNESS_CHECK(kelpie__loop_watch(machine->client.loop, machine->console, KELPIE_OS_READABLE,
                                     machine_console, machine, &machine->console_watch) == 0);
    client_connect(&machine->client);
    return 0;
}

struct machine *machine_boot(const struct harness *harness, const char *disk) {
    struct machine *machine = machine_create(harness);
    prepare(machine);
    HARNESS_CHECK(machine_start(machine, disk) == 0, "%s", machine->done_error.message);
    while (machine->client.ready_count == 0) {
        HARNESS_CHECK(!machine->is_ended, "%s", machine->end_text);
        client_step(&machine->client);
    }
    HARNESS_CHECK(machine->is_started);
    client_greet(&machine->client, CLIENT_EPOCH);
    HARNESS_CHECK(client_call(&machine->client, "setup",
                              "{\"hostname\":\"first\",\"modules_late\":true}") == 0,
                  "%s", machine->client.error.message);
    return machine;
}

static int open_in(const struct state *state, const char *name, int flags) {
    char path[600];
    snprintf(path, sizeof(path), "%s/%s", state->path, name);
    int file = open(path, flags | O_CLOEXEC, 0600);
    HARNESS_CHECK(file >= 0, "open %s: %s", path, strerror(errno));
    return file;
}

static void close_files(struct machine *machine) {
    for (size_t i = 0; i < 4; i += 1) {
        if (machine->files[i] >= 0) {
            close(machine->files[i]);
        }
        machine->files[i] = -1;
    }
}

struct machine *machine_restore(const struct harness *harness, const struct state *state,
                                const char *disk, bool is_expected_to_fail) {
    struct machine *machine = machine_create(harness);
    machine->files[0] = open_in(state, "device", O_RDONLY);
    machine->files[1] = open_in(state, state->has_map ? "base" : "memory", O_RDONLY);
    machine->files[2] = state->has_map ? open_in(state, "memory", O_RDONLY) : -1;
    machine->files[3] = state->has_map ? open_in(state, "map", O_RDONLY) : -1;
    machine->restore = (struct kelpie_vmm_restore){.device = machine->files[0],
                                                   .base = machine->files[1],
                                                   .memory = machine->files[2],
                                                   .map = machine->files[3],
                                                   .description = &state->description};
    machine->spec.restore = &machine->restore;
    int status = machine_start(machine, disk);
    if (status < 0) {
        HARNESS_CHECK(is_expected_to_fail, "%s", machine->done_error.message);
        close_files(machine);
        return machine;
    }
    for (uint32_t i = 0; i < MACHINE_STEPS_MAX && !machine->is_started && !machine->is_ended;
         i += 1) {
        client_step(&machine->client);
    }
    HARNESS_CHECK(machine->is_started || is_expected_to_fail, "%s", machine->end_text);
    close_files(machine);
    return machine;
}

void machine_destroy(struct machine *machine) {
    kelpie__vmm_destroy(machine->vmm);
    if (machine->client.wire != NULL) {
        kelpie__wire_destroy(machine->client.wire);
        close(machine->client.socket);
    }
    if (machine->console >= 0) {
        kelpie__loop_unwatch(machine->client.loop, machine->console_watch);
        close(machine->console);
    }
    for (size_t i = 0; i < CLIENT_CHANNEL_MAX; i += 1) {
        free(machine->client.exits[i]);
        free(machine->client.outputs[i][0].bytes);
        free(machine->client.outputs[i][1].bytes);
    }
    kelpie__loop_destroy(machine->client.loop);
    kelpie__os_linux_destroy(machine->client.os);
    free((void *)(uintptr_t)machine->spec.kernel);
    free((void *)(uintptr_t)machine->spec.initramfs);
    free(machine);
}

/* ---- across time ----------------------------------------------------------------------------- */

void machine_quiesce(struct machine *machine) {
    HARNESS_CHECK(client_call(&machine->client, "quiesce",
                              "{\"mark\":\"" MACHINE_MARK "\",\"token\":\"" MACHINE_TOKEN
                              "\"}") == 0,
                  "%s", machine->client.error.message);
}

void machine_mark(struct machine *machine) {
    uint8_t mark[KELPIE_MARK_BYTES];
    HARNESS_CHECK(kelpie__text_unhex(MACHINE_MARK, mark, sizeof(mark)));
    HARNESS_CHECK(kelpie__wire_mark(machine->client.wire, mark) == 0);
}

void machine_pause(struct machine *machine) {
    struct kelpie_error error = {0};
    machine->is_done = false;
    HARNESS_CHECK(kelpie__vmm_pause(machine->vmm, machine_done, machine, &error) == 0, "%s",
                  error.message);
    machine_wait(machine, &machine->is_done);
    HARNESS_CHECK(machine->done_status == 0, "%s", machine->done_error.message);
}

void machine_resume(struct machine *machine) {
    struct kelpie_error error = {0};
    machine->is_done = false;
    HARNESS_CHECK(kelpie__vmm_resume(machine->vmm, machine_done, machine, &error) == 0, "%s",
                  error.message);
    machine_wait(machine, &machine->is_done);
    HARNESS_CHECK(machine->done_status == 0, "%s", machine->done_error.message);
}

static int64_t now_ns(const struct machine *machine) {
    return kelpie__os_now(machine->client.os, KELPIE_OS_CLOCK_MONOTONIC);
}

static void state_begin(struct machine *machine, const char *name, struct state *out) {
    *out = (struct state){.has_map = machine->spec.restore != NULL};
    snprintf(out->path, sizeof(out->path), "%s/%s", machine->harness->root_directory, name);
    HARNESS_CHECK(mkdir(out->path, 0700) == 0);
    HARNESS_CHECK(kelpie__vmm_describe(machine->vmm, &out->description, NULL) == 0);
}

int machine_save(struct machine *machine, const char *name, struct state *out) {
    struct kelpie_error error = {0};
    state_begin(machine, name, out);
    struct kelpie_vmm_save save = {
        .device = open_in(out, "device", O_WRONLY | O_CREAT | O_EXCL),
        .memory = open_in(out, "memory", O_RDWR | O_CREAT | O_EXCL),
        .map = out->has_map ? open_in(out, "map", O_RDWR | O_CREAT | O_EXCL) : -1,
    };
    int64_t start_ns = now_ns(machine);
    machine->is_done = false;
    HARNESS_CHECK(
        kelpie__vmm_save(machine->vmm, &save, &out->saved, machine_done, machine, &error) == 0,
        "%s", error.message);
    while (!machine->is_done) {
        int64_t step_ns = now_ns(machine);
        client_step(&machine->client);
        step_ns = now_ns(machine) - step_ns;
        out->step_ns_max = step_ns > out->step_ns_max ? step_ns : out->step_ns_max;
    }
    out->save_ns = now_ns(machine) - start_ns;
    close(save.device);
    close(save.memory);
    if (save.map >= 0) {
        close(save.map);
    }
    return machine->done_status;
}

void machine_snapshot(struct machine *machine, const char *name, struct state *out) {
    machine_quiesce(machine);
    int64_t start_ns = now_ns(machine);
    machine_pause(machine);
    HARNESS_CHECK(machine_save(machine, name, out) == 0, "%s", machine->done_error.message);
    machine_resume(machine);
    out->pause_ns = now_ns(machine) - start_ns;
    machine_mark(machine);
}

void machine_wake(struct machine *machine) {
    machine_resume(machine);
    machine_mark(machine);
    client_greet(&machine->client, "ffeeddccbbaa99887766554433221100");
    HARNESS_CHECK(strstr(machine->client.result, MACHINE_TOKEN) != NULL, "%s",
                  machine->client.result);
    HARNESS_CHECK(client_call(&machine->client, "setup", "{\"hostname\":\"again\"}") == 0, "%s",
                  machine->client.error.message);
}

const char *machine_shell(struct machine *machine, const char *script) {
    static char line[256];
    int channel = client_shell(&machine->client, script, NULL);
    snprintf(line, sizeof(line), "%s", client_text(&machine->client, channel, 0));
    line[strcspn(line, "\n")] = '\0';
    return line;
}
