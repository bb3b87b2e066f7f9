/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Other processes of a guest's shell: programs, and pieces of the script that a real shell would
 * fork for.
 */
#include <errno.h>
#include <string.h>

#include "sim/shell.h"

#define START_COOKIE_SIGNALS 1u
#define START_COOKIE_HANDLE 2u
#define START_ROUNDS_MAX 1000000u
#define START_SHELL_PATH "/bin/sh"

static int start_spawn(struct shell *shell, const struct kelpie_os_spawn *spawn,
                       struct shell_job *out) {
    KELPIE_ASSERT(spawn->handle_count == 3);
    out->process = KELPIE_OS_NO_HANDLE;
    int status = kelpie__os_spawn(shell->os, spawn, &out->process, &out->pid, NULL);
    KELPIE_ASSERT(status < 0 || out->pid > 1);
    return status;
}

int kelpie__sim_shell_start_text(struct shell *shell, struct shell_text text, const int io[3],
                                 struct shell_job *out) {
    struct shell_fields arguments = {0};
    struct shell_string script = {0};
    kelpie__sim_shell_string_add(shell, &script, text.bytes, text.length);
    kelpie__sim_shell_field_add(shell, &arguments, kelpie__sim_shell_alloc_text(shell, "sh"));
    kelpie__sim_shell_field_add(shell, &arguments, kelpie__sim_shell_alloc_text(shell, "-c"));
    kelpie__sim_shell_field_add(shell, &arguments, script.bytes);
    kelpie__sim_shell_field_add(shell, &arguments,
                                kelpie__sim_shell_alloc_text(shell, shell->name));
    for (int i = 0; i < shell->positional_count; i += 1) {
        kelpie__sim_shell_field_add(shell, &arguments, shell->positional[i]);
    }
    const struct kelpie_os_spawn spawn = {
        .path = START_SHELL_PATH,
        .argv = (const char *const *)arguments.items,
        .environment = (const char *const *)kelpie__sim_shell_environment(shell, true),
        .handles = io,
        .handle_count = 3,
        .cgroup = KELPIE_OS_NO_HANDLE,
    };
    return start_spawn(shell, &spawn, out);
}

int kelpie__sim_shell_start_program(struct shell *shell, char **argv, const int io[3],
                                    uint32_t flags, struct shell_job *out) {
    char *path = kelpie__sim_shell_alloc(shell, SIM_PATH_BYTES_MAX);
    int status = kelpie__sim_find_program(shell->os, kelpie__sim_shell_get(shell, "PATH", 4),
                                          argv[0], path, SIM_PATH_BYTES_MAX);
    if (status < 0) {
        return status;
    }
    const struct kelpie_os_spawn spawn = {
        .path = path,
        .argv = (const char *const *)argv,
        .environment = (const char *const *)kelpie__sim_shell_environment(shell, false),
        .handles = io,
        .handle_count = 3,
        .flags = flags,
        .cgroup = KELPIE_OS_NO_HANDLE,
    };
    return start_spawn(shell, &spawn, out);
}

int kelpie__sim_shell_wait(struct shell *shell, struct shell_job job) {
    struct kelpie_os_exit exit;
    kelpie__sim_wait_child(shell->os, job.process, &exit);
    KELPIE_ASSERT(exit.value >= 0);
    return exit.is_signalled ? 128 + exit.value : exit.value;
}

bool kelpie__sim_shell_await(struct shell *shell, int handle, uint32_t bits) {
    bool has_signals = shell->signals >= 0;
    bool is_ready = false;
    bool is_signal = false;
    if (kelpie__os_watch(shell->os, handle, bits, START_COOKIE_HANDLE) < 0) {
        return true; /* always ready, as files are */
    }
    if (has_signals) {
        kelpie__ignore(kelpie__os_watch(shell->os, shell->signals, KELPIE_OS_READABLE,
                                        START_COOKIE_SIGNALS)); /* else only the handle tells */
    }
    for (uint32_t i = 0; i < START_ROUNDS_MAX && !is_ready && !is_signal; i += 1) {
        struct kelpie_os_event events[2];
        int count = kelpie__os_wait(shell->os, events, 2, -1);
        for (int j = 0; j < count; j += 1) {
            is_ready = is_ready || events[j].cookie == START_COOKIE_HANDLE;
            is_signal = is_signal || events[j].cookie == START_COOKIE_SIGNALS;
        }
        is_ready = is_ready || count < 0;
    }
    kelpie__ignore(kelpie__os_watch(shell->os, handle, 0, 0)); /* it was watched */
    if (has_signals) {
        kelpie__ignore(kelpie__os_watch(shell->os, shell->signals, 0, 0)); /* likewise */
    }
    return !is_signal || is_ready;
}

void kelpie__sim_shell_capture(struct shell *shell, struct shell_text text,
                               struct shell_string *out) {
    int ends[2];
    struct shell_job job;
    char bytes[1024];
    int status = kelpie__os_pipe(shell->os, ends);
    if (status < 0) {
        kelpie__sim_shell_complain(shell, "pipe: %s", kelpie__sim_errno_text(status));
        return;
    }
    const int io[3] = {shell->io[0], ends[1], shell->io[2]};
    status = kelpie__sim_shell_start_text(shell, text, io, &job);
    kelpie__ignore(kelpie__os_close(shell->os, ends[1])); /* the child has its own */
    int64_t count = status < 0 ? 0 : 1;
    while (count > 0) {
        count = kelpie__sim_read_wait(shell->os, ends[0], bytes, sizeof(bytes));
        if (count > 0) {
            kelpie__sim_shell_string_add(shell, out, bytes, (size_t)count);
        }
    }
    kelpie__ignore(kelpie__os_close(shell->os, ends[0])); /* it was only read */
    while (out->count > 0 && out->bytes[out->count - 1] == '\n') {
        out->count -= 1;
        out->bytes[out->count] = '\0';
    }
    shell->status = status < 0 ? 126 : kelpie__sim_shell_wait(shell, job);
}
