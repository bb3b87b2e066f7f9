/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * The loop of this process: the library's descriptor, signals, and what a session watches besides.
 * Handlers only note what is due and the driver acts, so that no callback of the library runs
 * inside another.
 */
#include <signal.h>

#include "cli/cli.h"
#include "os/os_call.h"

#define LOOP_HANDLE_COUNT 8u

/* SIGTSTP is not among them: it stops this process as it stops any other. */
static const int caught[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2, SIGWINCH, SIGCONT};

static void on_library(void *context, uint32_t bits) {
    struct kelpie_cli *cli = context;
    kelpie__cli_check(cli);
    KELPIE_ASSERT(bits != 0);
    KELPIE_ASSERT(cli->kelpie != NULL);
    cli->is_library_due = true;
}

static void on_signal(void *context, uint32_t bits) {
    struct kelpie_cli *cli = context;
    KELPIE_ASSERT(cli->signals != KELPIE_OS_NO_HANDLE);
    KELPIE_ASSERT(bits != 0);
    KELPIE_ASSERT(cli->signal_callback != NULL);
    int number = kelpie__os_take_signal(cli->os, cli->signals);
    if (number > 0) {
        cli->signal_callback(cli->signal_context, number);
    }
}

void kelpie__cli_ignore_signal(void *context, int number) {
    KELPIE_ASSERT(number > 0);
    kelpie__ignore(context != NULL);
}

int kelpie__cli_loop_open(struct kelpie_cli *cli, struct kelpie_error *error) {
    kelpie__cli_check(cli);
    KELPIE_ASSERT(cli->kelpie != NULL);
    if (cli->loop != NULL) {
        return 0;
    }
    int status = kelpie__loop_create(cli->os, LOOP_HANDLE_COUNT, &cli->loop, error);
    if (status == 0) {
        status = kelpie__loop_watch(cli->loop, kelpie_fd(cli->kelpie), KELPIE_OS_READABLE,
                                    on_library, cli, &cli->library_slot);
        if (status < 0) {
            kelpie__loop_destroy(cli->loop);
            cli->loop = NULL;
            status = kelpie__fail(error, status, 0, "watch the library's events");
        }
    }
    KELPIE_ASSERT((status == 0) == (cli->loop != NULL));
    return status;
}

int kelpie__cli_signals_open(struct kelpie_cli *cli, struct kelpie_error *error) {
    KELPIE_ASSERT(cli->signal_callback != NULL);
    KELPIE_ASSERT(cli->loop != NULL);
    if (cli->signals != KELPIE_OS_NO_HANDLE) {
        return 0;
    }
    int signals = kelpie__os_open_signals(cli->os, caught, KELPIE_ARRAY_COUNT(caught));
    if (signals < 0) {
        return kelpie__fail(error, KELPIE_E_IO, -signals, "receive signals");
    }
    int status = kelpie__loop_watch(cli->loop, signals, KELPIE_OS_READABLE, on_signal, cli,
                                    &cli->signals_slot);
    if (status < 0) {
        kelpie__ignore(kelpie__os_close(cli->os, signals)); /* the first error counts */
        return kelpie__fail(error, status, 0, "watch for signals");
    }
    cli->signals = signals;
    return 0;
}

int kelpie__cli_step(struct kelpie_cli *cli, bool is_due, struct kelpie_error *error) {
    kelpie__cli_check(cli);
    int timeout_ms = kelpie_timeout_ms(cli->kelpie);
    int64_t deadline_ns = -1;
    KELPIE_ASSERT(cli->loop != NULL);
    if (is_due || timeout_ms == 0) {
        deadline_ns = 0;
    } else if (timeout_ms > 0) {
        deadline_ns =
            kelpie__os_now(cli->os, KELPIE_OS_CLOCK_MONOTONIC) + timeout_ms * KELPIE_NS_PER_MS;
    }
    int status = kelpie__loop_step(cli->loop, deadline_ns, error);
    if (status == 0 && (cli->is_library_due || kelpie_timeout_ms(cli->kelpie) == 0)) {
        cli->is_library_due = false;
        status = kelpie_dispatch(cli->kelpie, error);
    }
    return status;
}

void kelpie__cli_loop_close(struct kelpie_cli *cli) {
    if (cli->loop == NULL) {
        return;
    }
    if (cli->signals != KELPIE_OS_NO_HANDLE) {
        kelpie__loop_unwatch(cli->loop, cli->signals_slot);
        kelpie__ignore(kelpie__os_close(cli->os, cli->signals)); /* nothing is written to it */
        cli->signals = KELPIE_OS_NO_HANDLE;
    }
    kelpie__loop_unwatch(cli->loop, cli->library_slot);
    kelpie__loop_destroy(cli->loop);
    cli->loop = NULL;
    KELPIE_ASSERT(cli->signals == KELPIE_OS_NO_HANDLE);
}
