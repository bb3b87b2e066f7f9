/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * The raw side's agent, process 1 of its guest: what the contract demands of a command and no more.
 * A session, three pipes, a cgroup made and removed, wait4, and the end of whatever it left behind.
 * It has one command at a time, no terminals, users, limits, timeouts or reconnection.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "wire.h"

#define AGENT_MODULES "/.kelpie/modules"
#define AGENT_CGROUP "/sys/fs/cgroup/bench"
#define AGENT_ARGUMENT_COUNT_MAX 64u
#define AGENT_LIST_BYTES_MAX 4096u
#define AGENT_PORT_TRIES 5000u

struct command {
    pid_t pid;
    int process; /* a pidfd */
    int input;
    int output[2]; /* stdout, stderr; -1: at its end */
    uint32_t input_left;
};

static void fail(const char *what) {
    fprintf(stderr, "bench-agent: %s: %s\n", what, strerror(errno));
    while (getpid() == 1) { /* bound: the host's patience; the end of process 1 would be a panic */
        pause();
    }
    _exit(1);
}

static void write_all(int file, const void *bytes, size_t count) {
    const char *next = bytes;
    while (count > 0) {
        ssize_t put = write(file, next, count);
        if (put < 0 && errno != EINTR) {
            fail("write");
        }
        next += put > 0 ? put : 0;
        count -= put > 0 ? (size_t)put : 0;
    }
}

static void read_all(int file, void *bytes, size_t count) {
    char *next = bytes;
    while (count > 0) {
        ssize_t got = read(file, next, count);
        if (got == 0 || (got < 0 && errno != EINTR)) {
            fail("read");
        }
        next += got > 0 ? got : 0;
        count -= got > 0 ? (size_t)got : 0;
    }
}

/* The header and the bytes in one write: a write is an exit of the guest. */
static void reply(int port, uint32_t type, const void *bytes, uint32_t count) {
    char frame[sizeof(struct bench_reply) + BENCH_PIECE_BYTES];
    struct bench_reply head = {.type = type, .count = count};
    memcpy(frame, &head, sizeof(head));
    memcpy(frame + sizeof(head), bytes, count);
    write_all(port, frame, sizeof(head) + count);
}

/* ---- boot ------------------------------------------------------------------------------------ */

static void load_modules(void) {
    char list[AGENT_LIST_BYTES_MAX] = "";
    char path[256];
    int file = open(AGENT_MODULES ".list", O_RDONLY);
    ssize_t count = file < 0 ? 0 : read(file, list, sizeof(list) - 1);
    char *rest = NULL;
    close(file);
    for (char *line = count > 0 ? strtok_r(list, "\n", &rest) : NULL; line != NULL;
         line = strtok_r(NULL, "\n", &rest)) {
        if (strncmp(line, "early ", 6) != 0) {
            continue;
        }
        snprintf(path, sizeof(path), AGENT_MODULES "/%s", line + 6);
        int module = open(path, O_RDONLY | O_CLOEXEC);
        if (module < 0 || (syscall(SYS_finit_module, module, "", 0) < 0 && errno != EEXIST)) {
            fail(path);
        }
        close(module);
    }
}

static int find_port(void) {
    static const char folder[] = "/sys/class/virtio-ports";
    char path[512];
    char name[64];
    DIR *ports = opendir(folder);
    int port = -1;
    for (struct dirent *entry = ports == NULL ? NULL : readdir(ports); entry != NULL && port < 0;
         entry = readdir(ports)) {
        snprintf(path, sizeof(path), "%s/%s/name", folder, entry->d_name);
        int file = open(path, O_RDONLY);
        ssize_t count = file < 0 ? -1 : read(file, name, sizeof(name) - 1);
        if (file >= 0) {
            close(file);
        }
        if (count > 0 && strncmp(name, BENCH_PORT_NAME, strlen(BENCH_PORT_NAME)) == 0) {
            snprintf(path, sizeof(path), "/dev/%s", entry->d_name);
            port = open(path, O_RDWR | O_CLOEXEC);
        }
    }
    if (ports != NULL) {
        closedir(ports);
    }
    return port;
}

/* Its name arrives some time after the driver. */
static int open_port(void) {
    int port = find_port();
    for (uint32_t i = 0; i < AGENT_PORT_TRIES && port < 0; i += 1) {
        usleep(1000);
        port = find_port();
    }
    if (port < 0) {
        fail("open the port");
    }
    return port;
}

static int boot(void) {
    if (mount("devtmpfs", "/dev", "devtmpfs", MS_NOSUID, "mode=755") < 0 ||
        mount("sysfs", "/sys", "sysfs", 0, NULL) < 0 ||
        mount("proc", "/proc", "proc", 0, NULL) < 0) {
        fail("mount");
    }
    load_modules();
    int port = open_port();
    if (mount("cgroup2", "/sys/fs/cgroup", "cgroup2", 0, NULL) < 0) {
        fail("mount cgroup2");
    }
    return port;
}

/* ---- a command ------------------------------------------------------------------------------- */

/* In the child, which shares our memory until it is another program. */
static void run(char *const *argv, const int *pipes, int group) {
    setsid();
    for (int i = 0; i < 3; i += 1) {
        dup2(pipes[i], i);
    }
    if (group >= 0 && write(group, "0", 1) != 1) {
        _exit(126);
    }
    execv(argv[0], argv);
    _exit(127);
}

static pid_t start(char *const *argv, const int *pipes, int group) {
    pid_t pid = vfork();
    if (pid == 0) {
        run(argv, pipes, group);
    }
    if (pid < 0) {
        fail("vfork");
    }
    return pid;
}

static void start_alone(char *const *argv) {
    int nothing = open("/dev/null", O_RDWR | O_CLOEXEC);
    const int pipes[3] = {nothing, nothing, nothing};
    start(argv, pipes, -1);
    close(nothing);
}

static void start_command(struct command *command, char *const *argv, uint32_t stdin_bytes) {
    int ends[3][2];
    for (int i = 0; i < 3; i += 1) {
        if (pipe2(ends[i], O_CLOEXEC) < 0) {
            fail("pipe2");
        }
    }
    int group = open(AGENT_CGROUP "/cgroup.procs", O_WRONLY | O_CLOEXEC);
    const int pipes[3] = {ends[0][0], ends[1][1], ends[2][1]};
    command->pid = start(argv, pipes, group);
    command->process = (int)syscall(SYS_pidfd_open, command->pid, 0);
    command->input = ends[0][1];
    command->output[0] = ends[1][0];
    command->output[1] = ends[2][0];
    command->input_left = stdin_bytes;
    close(group);
    for (int i = 0; i < 3; i += 1) {
        close(pipes[i]);
    }
    if (stdin_bytes == 0) {
        close(command->input);
    }
}

static void feed(struct command *command, int port) {
    char bytes[BENCH_PIECE_BYTES];
    size_t count = command->input_left < sizeof(bytes) ? command->input_left : sizeof(bytes);
    ssize_t got = read(port, bytes, count);
    if (got <= 0) {
        fail("read what the command reads");
    }
    write_all(command->input, bytes, (size_t)got);
    command->input_left -= (uint32_t)got;
    if (command->input_left == 0) {
        close(command->input);
    }
}

static void drain(struct command *command, int port, int index) {
    char bytes[BENCH_PIECE_BYTES];
    ssize_t got = read(command->output[index], bytes, sizeof(bytes));
    if (got > 0) {
        reply(port, BENCH_REPLY_STDOUT + (uint32_t)index, bytes, (uint32_t)got);
        return;
    }
    close(command->output[index]);
    command->output[index] = -1;
}

static void end_command(struct command *command, int port) {
    int32_t status = 0;
    int group = open(AGENT_CGROUP "/cgroup.kill", O_WRONLY | O_CLOEXEC);
    if (wait4(command->pid, &status, 0, NULL) != command->pid || write(group, "1", 1) != 1) {
        fail("end a command");
    }
    close(group);
    close(command->process);
    for (int i = 0; i < 2; i += 1) {
        while (command->output[i] >= 0) { /* bound: all who could write are dead */
            drain(command, port, i);
        }
    }
    reply(port, BENCH_REPLY_END, &status, sizeof(status));
    /* After the answer, so that nobody waits for it. */
    rmdir(AGENT_CGROUP);
    mkdir(AGENT_CGROUP, 0755);
}

static void serve(struct command *command, int port) {
    while (command->pid > 0) { /* bound: the command's life */
        struct pollfd polled[4] = {
            {.fd = command->process, .events = POLLIN},
            {.fd = command->output[0], .events = POLLIN},
            {.fd = command->output[1], .events = POLLIN},
            {.fd = command->input_left > 0 ? port : -1, .events = POLLIN},
        };
        if (poll(polled, 4, -1) < 0) {
            fail("poll");
        }
        for (int i = 0; i < 2; i += 1) {
            if (polled[1 + i].revents != 0) {
                drain(command, port, i);
            }
        }
        if (polled[3].revents != 0) {
            feed(command, port);
        }
        if (polled[0].revents != 0) {
            end_command(command, port);
            command->pid = 0;
        }
    }
}

static void split(char *bytes, uint32_t count, char **out) {
    uint32_t words = 0;
    for (uint32_t at = 0; at < count && words + 1 < AGENT_ARGUMENT_COUNT_MAX;) {
        out[words] = bytes + at;
        words += 1;
        at += (uint32_t)strlen(bytes + at) + 1;
    }
    out[words] = NULL;
}

static void take_request(int port) {
    struct bench_request request;
    char arguments[BENCH_ARGUMENT_BYTES_MAX + 1] = "";
    char *argv[AGENT_ARGUMENT_COUNT_MAX];
    struct command command = {0};
    int32_t status = 0;
    read_all(port, &request, sizeof(request));
    if (request.argument_bytes > BENCH_ARGUMENT_BYTES_MAX) {
        fail("arguments");
    }
    read_all(port, arguments, request.argument_bytes);
    split(arguments, request.argument_bytes, argv);
    if (request.is_echo != 0 || request.is_left_alone != 0) {
        if (request.is_left_alone != 0) {
            start_alone(argv);
        }
        reply(port, BENCH_REPLY_END, &status, sizeof(status));
        return;
    }
    start_command(&command, argv, request.stdin_bytes);
    serve(&command, port);
}

int main(void) {
    int port = boot();
    mkdir(AGENT_CGROUP, 0755);
    reply(port, BENCH_REPLY_READY, "", 0);
    while (port >= 0) { /* bound: the VM's life */
        take_request(port);
    }
    return 0;
}
