/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Runs other people's programs (mkfs.erofs, mke2fs, busybox): never longer than this process lives.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "pack/pack.h"

#define RUN_NOT_FOUND 127

KELPIE_NORETURN static void run_child(const struct kelpie_pack_run *run, int output, pid_t parent) {
    KELPIE_ASSERT(run->argv[0] != NULL);
    KELPIE_ASSERT(output >= 0);
    KELPIE_ASSERT(parent > 0);
    int null = open("/dev/null", O_RDONLY | O_CLOEXEC);
    signal(SIGPIPE, SIG_DFL);
    if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0 || getppid() != parent || null < 0 ||
        dup2(null, STDIN_FILENO) < 0 || dup2(output, STDOUT_FILENO) < 0 ||
        dup2(output, STDERR_FILENO) < 0) {
        _exit(126);
    }
    if (run->passed_file >= 0) {
        kelpie__ignore(
            fcntl(run->passed_file, F_SETFD, 0)); /* then the program says what is missing */
    }
    execvp(run->argv[0], (char *const *)(uintptr_t)run->argv);
    _exit(errno == ENOENT ? RUN_NOT_FOUND : 126);
}

/* Keeps the first bytes and reads on to the end, so that the program is never held up. */
static void run_read(int from, char *out, size_t capacity) {
    char dropped[4096];
    size_t count = 0;
    ssize_t result = 1;
    KELPIE_ASSERT(from >= 0);
    KELPIE_ASSERT(capacity > 0);
    while (result > 0 || (result < 0 && errno == EINTR)) {
        bool is_full = count + 1 >= capacity;
        result = is_full ? read(from, dropped, sizeof(dropped))
                         : read(from, out + count, capacity - 1 - count);
        count += result > 0 && !is_full ? (size_t)result : 0;
    }
    out[count] = '\0';
    KELPIE_ASSERT(count < capacity);
}

static const char *run_last_line(char *text) {
    size_t length = strlen(text);
    while (length > 0 && text[length - 1] == '\n') {
        length -= 1;
        text[length] = '\0';
    }
    const char *newline = strrchr(text, '\n');
    KELPIE_ASSERT(newline == NULL || newline[1] != '\0');
    return newline == NULL ? text : newline + 1;
}

static int run_report(const struct kelpie_pack_run *run, int status, char *output) {
    const char *program = run->argv[0];
    KELPIE_ASSERT(!WIFEXITED(status) || WEXITSTATUS(status) != 0);
    const char *line = run_last_line(output);
    if (WIFEXITED(status) && WEXITSTATUS(status) == RUN_NOT_FOUND) {
        return kelpie__pack_fail(0, "%s is not installed; apt install %s", program, run->package);
    }
    bool is_full = strstr(output, strerror(ENOSPC)) != NULL;
    if (WIFEXITED(status)) {
        return kelpie__pack_fail(is_full ? ENOSPC : 0, "%s failed with exit code %d: %s", program,
                                 WEXITSTATUS(status), line);
    }
    return kelpie__pack_fail(0, "%s was ended by signal %d", program, WTERMSIG(status));
}

int kelpie__pack_run(const struct kelpie_pack_run *run) {
    int ends[2];
    pid_t parent = getpid();
    KELPIE_ASSERT(run->package != NULL);
    KELPIE_ASSERT(run->output != NULL);
    KELPIE_ASSERT(run->argv[0] != NULL);
    KELPIE_ASSERT(run->output_capacity > 0);
    if (pipe2(ends, O_CLOEXEC) < 0) {
        return kelpie__pack_fail(errno, "run %s", run->argv[0]);
    }
    pid_t child = fork();
    if (child == 0) {
        run_child(run, ends[1], parent);
    }
    int error_number = errno;
    close(ends[1]);
    if (child < 0) {
        close(ends[0]);
        return kelpie__pack_fail(error_number, "run %s", run->argv[0]);
    }
    run_read(ends[0], run->output, run->output_capacity);
    close(ends[0]);
    int status = 0;
    while (waitpid(child, &status, 0) < 0) {
        if (errno != EINTR) {
            return kelpie__pack_fail(errno, "wait for %s", run->argv[0]);
        }
    }
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0) {
        return KELPIE_PACK_OK;
    }
    return run_report(run, status, run->output);
}
