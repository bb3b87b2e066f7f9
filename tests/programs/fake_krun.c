/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * A libkrun.so.1 that goes wrong on purpose. Its file's name says how: "CALL.ACTION.so", where the
 * action of that call is fail (-EINVAL), abort (a panic), kill, hang, or exit (with 0, of
 * krun_start_enter); all other calls succeed. With FAKE_IS_OLD it lacks a call, as versions before
 * 1.17.0 do. The same file serves as libkrunfw.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int32_t act(const char *call) {
    Dl_info info;
    char wanted[96] = "";
    if (dladdr((void *)(uintptr_t)&act, &info) == 0 || info.dli_fname == NULL) {
        return 0;
    }
    const char *slash = strrchr(info.dli_fname, '/');
    snprintf(wanted, sizeof(wanted), "%s", slash != NULL ? slash + 1 : info.dli_fname);
    char *action = strchr(wanted, '.');
    if (action == NULL) {
        return 0;
    }
    *action = '\0';
    action += 1;
    if (strcmp(wanted, call) != 0) {
        return 0;
    }
    if (strcmp(action, "abort.so") == 0) {
        abort();
    } else if (strcmp(action, "kill.so") == 0) {
        raise(SIGKILL);
    } else if (strcmp(action, "hang.so") == 0) {
        sleep(3600);
    } else if (strcmp(action, "exit.so") == 0) {
        _exit(0);
    }
    return -EINVAL;
}

#define CALL(name, ...)                                                                            \
    __attribute__((visibility("default"))) int32_t name(__VA_ARGS__);                              \
    int32_t name(__VA_ARGS__)

CALL(krun_create_ctx, void) {
    return act("krun_create_ctx");
}
CALL(krun_init_log, int file, uint32_t level, uint32_t style, uint32_t options) {
    (void)file, (void)level, (void)style, (void)options;
    return act("krun_init_log");
}
CALL(krun_set_vm_config, uint32_t ctx, uint8_t cpu_count, uint32_t memory_mib) {
    (void)ctx, (void)cpu_count, (void)memory_mib;
    return act("krun_set_vm_config");
}
CALL(krun_set_root, uint32_t ctx, const char *path) {
    (void)ctx, (void)path;
    return act("krun_set_root");
}
CALL(krun_set_exec, uint32_t ctx, const char *path, const char *const *argv,
     const char *const *environment) {
    (void)ctx, (void)path, (void)argv, (void)environment;
    return act("krun_set_exec");
}
CALL(krun_set_console_output, uint32_t ctx, const char *path) {
    (void)ctx, (void)path;
    return act("krun_set_console_output");
}
CALL(krun_disable_implicit_vsock, uint32_t ctx) {
    (void)ctx;
    return act("krun_disable_implicit_vsock");
}
#ifndef FAKE_IS_OLD
CALL(krun_add_vsock, uint32_t ctx, uint32_t tsi_features) {
    (void)ctx, (void)tsi_features;
    return act("krun_add_vsock");
}
#endif
CALL(krun_add_vsock_port2, uint32_t ctx, uint32_t port, const char *path, bool is_listening) {
    (void)ctx, (void)port, (void)path, (void)is_listening;
    return act("krun_add_vsock_port2");
}
CALL(krun_add_disk2, uint32_t ctx, const char *id, const char *path, uint32_t format,
     bool is_read_only) {
    (void)ctx, (void)id, (void)path, (void)format, (void)is_read_only;
    return act("krun_add_disk2");
}
CALL(krun_start_enter, uint32_t ctx) {
    (void)ctx;
    return act("krun_start_enter");
}
