/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * The life of one VM in a simulated world: a client opens the library, makes a VM, starts it, runs
 * a command, kills and deletes it.
 */
#ifndef KELPIE_TESTS_SIM_LIFE_H
#define KELPIE_TESTS_SIM_LIFE_H

#include "small_world.h"

#include <kelpie.h>

#include "lib/internal.h"

#define CLIENT_STACK_BYTES (1024u * 1024u)
#define CLIENT_SECONDS_MAX 300 /* boot times out after 60 s, and may be tried again without KVM */

/* What the client has to remember: notes first. */
struct life {
    struct notes notes;
    bool has_ended;
    bool has_succeeded;
    const char *role;
    uint64_t calls; /* of the process of that role that made most */
};

static inline int client_live(struct life *life, struct kelpie *host, struct kelpie_error *error) {
    static const char *const argv[] = {"echo", "hello", NULL};
    const struct kelpie_exec_options command = {.struct_size = sizeof(command), .argv = argv};
    struct kelpie_exec_result result = {.struct_size = sizeof(result)};
    struct kelpie_config *config = NULL;
    struct kelpie_vm *vm = NULL;
    if (kelpie_config_create(host, &config, error) < 0) {
        return 1;
    }
    kelpie_config_set_template(config, false);
    int status = kelpie_vm_create(host, NULL, config, &vm, error);
    kelpie_config_destroy(config);
    if (status < 0 || kelpie_vm_start(vm, 0, error) < 0) {
        return 1;
    }
    if (kelpie_vm_exec(vm, &command, &result, error) < 0) {
        return 1;
    }
    /* a stream may be cut short, which is told; it never lies */
    if (!result.is_stdout_truncated) {
        assert_string_equal(result.stdout_bytes, "hello\n");
    }
    kelpie_exec_result_release(&result);
    if (kelpie_vm_kill(vm, error) < 0 || kelpie_vm_delete(vm, 0, error) < 0) {
        return 1;
    }
    life->has_succeeded = true;
    return 0;
}

static inline int client_main(struct kelpie_os *os, int argc, char **argv) {
    struct life *life = (struct life *)(void *)notes_of(os);
    struct kelpie_open_options options = {.struct_size = sizeof(options)};
    struct kelpie_error error = {0};
    struct kelpie *host = NULL;
    kelpie__ignore(argc > 0 && argv != NULL);
    if (kelpie__open_with_os(os, &options, &host, &error) < 0) {
        return 1;
    }
    int code = client_live(life, host, &error);
    kelpie__ignore(kelpie__close_keeping_os(host) != NULL);
    return code;
}

static inline void observe_client(void *context, struct sim_world *world,
                                  const struct sim_event *event) {
    struct life *life = context;
    kelpie__ignore(world != NULL);
    if (event->type == SIM_EVENT_PROCESS_ENDED && strcmp(event->process->role, "client") == 0) {
        life->has_ended = true;
    }
    if (event->type == SIM_EVENT_PROCESS_ENDED && strcmp(event->process->role, life->role) == 0) {
        uint64_t calls = event->process->call_count;
        life->calls = calls > life->calls ? calls : life->calls;
    }
}

static inline bool client_has_ended(void *context) {
    return ((struct life *)context)->has_ended;
}

/* A world with a client in it; out->role is set. */
static inline struct sim_world *life_world(const struct sim_options *options, struct life *out) {
    static const char *const environment[] = {"PATH=/usr/bin:/bin", "HOME=/root",
                                              "KELPIE_LIBEXEC=/usr/libexec/kelpie", NULL};
    const struct sim_start start = {.path = "/usr/bin/client",
                                    .role = "client",
                                    .main = client_main,
                                    .environment = environment,
                                    .stack_bytes = CLIENT_STACK_BYTES};
    char problem[256];
    const char *role = out->role;
    struct sim_world *world = kelpie__sim_world_create(options, problem);
    assert_non_null(world);
    *out = (struct life){.role = role};
    kelpie__sim_world_set_context(world, out);
    kelpie__sim_world_observe(world, observe_client, out);
    assert_non_null(kelpie__sim_process_start(kelpie__sim_world_host(world), &start));
    return world;
}

#endif
