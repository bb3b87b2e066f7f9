/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * A VM's boot that Ctrl-C ends: the start is cancelled and the VM is what it was before.
 */
#include <signal.h>

#include "cli/cli.h"
#include "core/text.h"
#include "os/os_call.h"

struct boot {
    struct kelpie_cli *cli;
    struct kelpie_operation *operation; /* borrowed: until on_done */
    int signal;                         /* that cancelled it; 0: none */
    bool is_done;
    struct kelpie_error error; /* code 0: it runs */
};

static void on_done(void *context, const struct kelpie_error *error) {
    struct boot *boot = context;
    KELPIE_ASSERT(boot->cli->kelpie != NULL);
    KELPIE_ASSERT(!boot->is_done);
    boot->is_done = true;
    boot->operation = NULL;
    if (error != NULL) {
        KELPIE_ASSERT(error->code < 0);
        boot->error = *error;
    }
}

static void on_signal(void *context, int number) {
    struct boot *boot = context;
    bool is_end = number == SIGINT || number == SIGTERM || number == SIGHUP || number == SIGQUIT;
    KELPIE_ASSERT(number > 0);
    if (is_end && boot->signal == 0 && boot->operation != NULL) {
        boot->signal = number;
        kelpie_operation_cancel(boot->operation);
    }
}

static void on_event(void *context, const struct kelpie_event *event) {
    struct boot *boot = context;
    KELPIE_ASSERT(event->type != NULL);
    KELPIE_ASSERT(event->detail != NULL);
    if (kelpie__text_equal(event->type, "notice")) {
        kelpie__cli_note(boot->cli, "%s", event->detail);
    }
}

static int boot_drive(struct boot *boot, struct kelpie_vm *vm, struct kelpie_error *error) {
    struct kelpie_cli *cli = boot->cli;
    KELPIE_ASSERT(boot->operation == NULL);
    KELPIE_ASSERT(!boot->is_done);
    cli->signal_callback = on_signal;
    cli->signal_context = boot;
    int status = kelpie__cli_loop_open(cli, error);
    if (status == 0) {
        status = kelpie__cli_signals_open(cli, error);
    }
    if (status < 0) {
        return status;
    }
    /* Without a monitor yet there is nobody to subscribe to; the notices are in its event log. */
    kelpie__ignore(kelpie_vm_subscribe(vm, on_event, boot, NULL));
    status = kelpie_vm_start_async(vm, 0, on_done, boot, &boot->operation, error);
    if (status == KELPIE_E_BUSY) { /* somebody looks at it: only the blocking call waits for them */
        status = kelpie_vm_start(vm, 0, error);
        boot->is_done = true;
    }
    while (status == 0 && !boot->is_done) { /* bound: the boot's timeout */
        status = kelpie__cli_step(cli, false, error);
    }
    kelpie__ignore(kelpie_vm_subscribe(vm, NULL, NULL, NULL)); /* ending one cannot fail */
    KELPIE_ASSERT(status < 0 || boot->is_done);
    return status;
}

int kelpie__cli_boot(struct kelpie_cli *cli, struct kelpie_vm *vm) {
    struct kelpie_error error = {0};
    struct boot boot = {.cli = cli};
    KELPIE_ASSERT(cli->kelpie != NULL);
    cli->timings.started_ns = kelpie__os_now(cli->os, KELPIE_OS_CLOCK_MONOTONIC);
    int status = boot_drive(&boot, vm, &error);
    cli->timings.booted_ns = kelpie__os_now(cli->os, KELPIE_OS_CLOCK_MONOTONIC);
    cli->signal_callback = kelpie__cli_ignore_signal;
    if (status < 0) {
        return kelpie__cli_fail_error(cli, &error);
    }
    if (boot.signal != 0) { /* also when the boot was done before the cancel arrived */
        KELPIE_ASSERT(boot.signal <= 64);
        return KELPIE_CLI_SIGNALLED + boot.signal;
    }
    KELPIE_ASSERT(boot.is_done);
    return boot.error.code < 0 ? kelpie__cli_fail_error(cli, &boot.error) : KELPIE_CLI_OK;
}
