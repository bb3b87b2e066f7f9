/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Which programs a guest has, and how one begins: the kernel has loaded it, which takes a while on
 * an emulated processor.
 */
#include <stdio.h>
#include <string.h>

#include "agent/agent.h"
#include "sim/guest_state.h"
#include "sim/install.h"
#include "sim/programs.h"

#define PROGRAM_LOAD_NS 1800000 /* fork, exec, relocation */
#define PROGRAM_USER_MAX 64u
#define PROGRAM_PATH_BYTES 128u

static const struct sim_program_entry *const program_tables[] = {
    kelpie__sim_programs_shell, kelpie__sim_programs_text,    kelpie__sim_programs_bytes,
    kelpie__sim_programs_file,  kelpie__sim_programs_process, kelpie__sim_programs_script,
};

static const char *program_base_name(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash == NULL ? path : slash + 1;
}

sim_program_function kelpie__sim_program_builtin(const char *name) {
    for (size_t i = 0; i < KELPIE_ARRAY_COUNT(program_tables); i += 1) {
        for (const struct sim_program_entry *entry = program_tables[i]; entry->name != NULL;
             entry += 1) {
            if (strcmp(entry->name, name) == 0) {
                return entry->function;
            }
        }
    }
    return NULL;
}

const char *kelpie__sim_program_name(struct sim_world *world, uint32_t index) {
    for (size_t i = 0; i < KELPIE_ARRAY_COUNT(program_tables); i += 1) {
        for (const struct sim_program_entry *entry = program_tables[i]; entry->name != NULL;
             entry += 1) {
            if (index == 0) {
                return entry->name;
            }
            index -= 1;
        }
    }
    sim_main main = NULL;
    return kelpie__sim_guest_user_program(world, index, &main);
}

static sim_main program_user(struct sim_world *world, const char *name) {
    sim_main main = NULL;
    for (uint32_t i = 0; i < PROGRAM_USER_MAX; i += 1) {
        const char *found = kelpie__sim_guest_user_program(world, i, &main);
        if (found == NULL) {
            return NULL;
        }
        if (strcmp(found, name) == 0) {
            return main;
        }
    }
    return NULL;
}

/* Every program of a guest begins here. */
static int program_begin(struct kelpie_os *os, int argc, char **argv) {
    struct sim_process *process = kelpie__sim_process_of(os);
    struct sim_world *world = process->machine->world;
    const char *name = program_base_name(process->path);
    kelpie__sim_work(os, kelpie__sim_about(world, SIM_STREAM_GUEST, PROGRAM_LOAD_NS));
    sim_main main = program_user(process->machine->world, name);
    if (main != NULL) {
        return main(os, argc, argv);
    }
    sim_program_function function = kelpie__sim_program_builtin(name);
    if (function == NULL && argc > 0) { /* a script: its interpreter is argv[0] */
        function = kelpie__sim_program_builtin(program_base_name(argv[0]));
    }
    KELPIE_ASSERT(function != NULL);
    const struct sim_stdio io = {
        .os = os, .in = 0, .out = 1, .err = 2, .name = argc > 0 ? argv[0] : name};
    return function(&io, argc, argv);
}

static void program_register(struct sim_world *world, const char *name) {
    static const char *const places[] = {"/bin", "/usr/bin"};
    for (size_t i = 0; i < KELPIE_ARRAY_COUNT(places); i += 1) {
        char path[PROGRAM_PATH_BYTES];
        int length = snprintf(path, sizeof(path), "%s/%s", places[i], name);
        KELPIE_ASSERT(length > 0 && (size_t)length < sizeof(path));
        kelpie__sim_program_add(world, true, path, "guest", program_begin, SIM_STACK_BYTES);
    }
}

void kelpie__sim_guest_program(struct sim_world *world, const char *name, sim_main main) {
    KELPIE_ASSERT(name[0] != '\0' && strchr(name, '/') == NULL);
    if (kelpie__sim_guest_add_user_program(world, name, main)) {
        program_register(world, name);
    }
}

int kelpie__sim_install_guest_programs(struct sim_world *world) {
    const char *name = kelpie__sim_program_name(world, 0);
    for (uint32_t i = 1; name != NULL; i += 1) {
        program_register(world, name);
        name = kelpie__sim_program_name(world, i);
    }
    return 0;
}

int kelpie__sim_program_chmod(struct kelpie_os *os, const char *path, uint32_t mode) {
    struct sim_machine *machine = kelpie__sim_process_of(os)->machine;
    char absolute[SIM_PATH_BYTES_MAX];
    int status = kelpie__os_real_path(os, path, absolute, sizeof(absolute));
    KELPIE_ASSERT(mode <= 07777);
    return status < 0 ? status : kelpie__sim_disk_chmod(machine->disk, absolute, mode);
}

uint32_t kelpie__sim_program_cpu_count(struct kelpie_os *os) {
    const struct sim_machine *machine = kelpie__sim_process_of(os)->machine;
    KELPIE_ASSERT(machine->guest != NULL);
    return machine->guest->kernel->cpu_count;
}
