/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * The real system: terminals and signals. A terminal that was made raw is put back as it was found,
 * exactly.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "os/os_linux.h"

/* What the parent made us ignore (nohup, a script's background job) stays ignored: once blocked, it
 * would be queued and read all the same. */
static bool signal_is_ignored(int number) {
    struct sigaction action;
    return sigaction(number, NULL, &action) == 0 && action.sa_handler == SIG_IGN;
}

static int linux_open_signals(struct kelpie_os *os, const int *signals, uint32_t count) {
    KELPIE_ASSERT(count > 0);
    sigset_t set;
    kelpie__ignore(os != NULL);
    sigemptyset(&set);
    for (uint32_t i = 0; i < count; i += 1) {
        KELPIE_ASSERT(signals[i] > 0 && signals[i] < _NSIG);
        if (!signal_is_ignored(signals[i])) {
            sigaddset(&set, signals[i]);
        }
    }
    if (sigprocmask(SIG_BLOCK, &set, NULL) < 0) {
        return -errno;
    }
    return kelpie__os_linux_result(signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
}

static int linux_take_signal(struct kelpie_os *os, int handle) {
    struct signalfd_siginfo info;
    kelpie__ignore(os != NULL);
    ssize_t got = read(handle, &info, sizeof(info));
    if (got != (ssize_t)sizeof(info)) {
        return got < 0 && errno != EINTR ? -errno : -EAGAIN;
    }
    return (int)info.ssi_signo;
}

static int linux_is_terminal(struct kelpie_os *os, int handle) {
    struct termios unused;
    kelpie__ignore(os != NULL);
    return tcgetattr(handle, &unused) == 0 ? 1 : 0;
}

static int linux_terminal_size(struct kelpie_os *os, int handle, uint16_t *out_rows,
                               uint16_t *out_columns) {
    struct winsize size;
    KELPIE_ASSERT(handle >= 0);
    kelpie__ignore(os != NULL);
    if (ioctl(handle, TIOCGWINSZ, &size) < 0) {
        return -errno;
    }
    *out_rows = size.ws_row;
    *out_columns = size.ws_col;
    return 0;
}

static int linux_set_terminal_size(struct kelpie_os *os, int handle, uint16_t rows,
                                   uint16_t columns) {
    struct winsize size = {.ws_row = rows, .ws_col = columns};
    kelpie__ignore(os != NULL);
    return kelpie__os_linux_result(ioctl(handle, TIOCSWINSZ, &size));
}

static int linux_set_terminal_raw(struct kelpie_os *os, int handle, bool is_raw) {
    struct kelpie_os_linux *linux_os = kelpie__os_linux_of(os);
    struct termios mode;
    if (!is_raw) {
        if (!linux_os->has_saved_terminal) {
            return 0;
        }
        linux_os->has_saved_terminal = false;
        return kelpie__os_linux_result(tcsetattr(handle, TCSADRAIN, &linux_os->saved_terminal));
    }
    KELPIE_ASSERT(!linux_os->has_saved_terminal);
    if (tcgetattr(handle, &mode) < 0) {
        return -errno;
    }
    linux_os->saved_terminal = mode;
    cfmakeraw(&mode);
    if (tcsetattr(handle, TCSADRAIN, &mode) < 0) {
        return -errno;
    }
    linux_os->has_saved_terminal = true;
    return 0;
}

void kelpie__os_linux_fill_terminal(struct kelpie_os *os) {
    os->open_signals = linux_open_signals;
    os->take_signal = linux_take_signal;
    os->is_terminal = linux_is_terminal;
    os->terminal_size = linux_terminal_size;
    os->set_terminal_size = linux_set_terminal_size;
    os->set_terminal_raw = linux_set_terminal_raw;
}
