/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * See raw.h: the process, QMP, and commands.
 */
#include "raw.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "guest/wire.h"

#define RAW_QMP_HANDLE 3
#define RAW_AGENT_HANDLE 4
#define RAW_STATE_HANDLE 5
#define RAW_ARGUMENT_COUNT_MAX 64u
#define RAW_ANSWER_BYTES_MAX 8192u
#define RAW_PATIENCE_MS 60000

static void raw_wait(int file, const char *what) {
    struct pollfd polled = {.fd = file, .events = POLLIN};
    if (poll(&polled, 1, RAW_PATIENCE_MS) <= 0) {
        kelpie__bench_die("%s: no answer within %d s", what, RAW_PATIENCE_MS / 1000);
    }
}

static void raw_read(int file, void *bytes, size_t count, const char *what) {
    char *next = bytes;
    while (count > 0) {
        raw_wait(file, what);
        ssize_t got = read(file, next, count);
        if (got <= 0) {
            kelpie__bench_die("%s: %s", what, got == 0 ? "it ended" : strerror(errno));
        }
        next += got;
        count -= (size_t)got;
    }
}

static void raw_write(int file, const void *bytes, size_t count, const char *what) {
    const char *next = bytes;
    while (count > 0) {
        ssize_t put = write(file, next, count);
        if (put < 0) {
            kelpie__bench_die("%s: %s", what, strerror(errno));
        }
        next += put;
        count -= (size_t)put;
    }
}

/* ---- QMP ------------------------------------------------------------------------------------- */

static void qmp_send(int socket, const char *command, int handle) {
    struct iovec piece = {.iov_len = strlen(command)};
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control = {0};
    union { /* an iovec is for both directions */
        const char *in;
        void *out;
    } cast = {.in = command};
    piece.iov_base = cast.out;
    struct msghdr message = {.msg_iov = &piece, .msg_iovlen = 1};
    if (handle >= 0) {
        message.msg_control = control.bytes;
        message.msg_controllen = sizeof(control.bytes);
        control.header.cmsg_level = SOL_SOCKET;
        control.header.cmsg_type = SCM_RIGHTS;
        control.header.cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(&control.header), &handle, sizeof(handle));
    }
    if (sendmsg(socket, &message, 0) != (ssize_t)piece.iov_len) {
        kelpie__bench_die("QMP: %s", strerror(errno));
    }
}

/* Reads lines until one has `wanted`: an answer, or an event that something waits for. */
static void qmp_await(int socket, const char *wanted, char *out, size_t capacity) {
    char line[RAW_ANSWER_BYTES_MAX];
    size_t count = 0;
    bool is_found = false;
    while (!is_found) { /* bound: the patience of raw_read */
        raw_read(socket, line + count, 1, "QMP");
        count += 1;
        if (line[count - 1] != '\n' && count < sizeof(line) - 1) {
            continue;
        }
        line[count] = '\0';
        count = 0;
        if (strncmp(line, "{\"error\"", 8) == 0) {
            kelpie__bench_die("QMP: %s", line);
        }
        is_found = strstr(line, wanted) != NULL;
    }
    snprintf(out, capacity, "%s", line);
}

void kelpie__bench_raw_qmp(struct bench_raw *raw, const char *command, int handle, char *out,
                           size_t capacity) {
    char answer[RAW_ANSWER_BYTES_MAX];
    qmp_send(raw->qmp, command, handle);
    qmp_await(raw->qmp, "{\"return\"", answer, sizeof(answer));
    if (out != NULL) {
        snprintf(out, capacity, "%s", answer);
    }
}

static void raw_greet(struct bench_raw *raw) {
    char text[RAW_ANSWER_BYTES_MAX];
    qmp_await(raw->qmp, "{\"QMP\"", text, sizeof(text));
    kelpie__bench_raw_qmp(raw, "{\"execute\":\"qmp_capabilities\"}", -1, NULL, 0);
}

/* ---- the process ----------------------------------------------------------------------------- */

/* The value of an option in the bytes of /proc/PID/cmdline. */
static void learn_option(const char *bytes, size_t count, const char *option, char *out,
                         size_t capacity) {
    for (size_t at = 0; at < count; at += strlen(bytes + at) + 1) {
        if (strcmp(bytes + at, option) == 0) {
            snprintf(out, capacity, "%s", bytes + at + strlen(option) + 1);
            return;
        }
    }
    kelpie__bench_die("Kelpie's QEMU has no option %s", option);
}

static void cpio_add(FILE *out, const char *name, const char *bytes, size_t count, unsigned mode) {
    size_t name_bytes = strlen(name) + 1;
    fprintf(out, "070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X", 0u, mode, 0u, 0u,
            mode == 0 ? 0u : 1u, 0u, (unsigned)count, 0u, 0u, 0u, 0u, (unsigned)name_bytes, 0u);
    fwrite(name, 1, name_bytes, out);
    fwrite("\0\0\0", 1, (4 - (110 + name_bytes) % 4) % 4, out);
    fwrite(bytes, 1, count, out);
    fwrite("\0\0\0", 1, (4 - count % 4) % 4, out);
}

/* The kernel unpacks one archive after the other. */
static void learn_initramfs(struct bench_host *host, const char *initramfs) {
    static const char *const added[] = {"bench-agent", "bench-ticker"};
    char path[BENCH_PATH_BYTES_MAX];
    size_t count = 0;
    char *bytes = kelpie__bench_read(initramfs, &count);
    kelpie__bench_path(host->recipe.initramfs, host->directory, "raw.cpio");
    FILE *out = fopen(host->recipe.initramfs, "we");
    if (out == NULL) {
        kelpie__bench_die("make \"%s\": %s", host->recipe.initramfs, strerror(errno));
    }
    fwrite(bytes, 1, count, out);
    fwrite("\0\0\0", 1, (4 - count % 4) % 4, out);
    free(bytes);
    for (size_t i = 0; i < sizeof(added) / sizeof(added[0]); i += 1) {
        kelpie__bench_path(path, host->programs, added[i]);
        bytes = kelpie__bench_read(path, &count);
        cpio_add(out, added[i], bytes, count, S_IFREG | 0755);
        free(bytes);
    }
    cpio_add(out, "TRAILER!!!", "", 0, 0);
    if (fclose(out) != 0) {
        kelpie__bench_die("write \"%s\": %s", host->recipe.initramfs, strerror(errno));
    }
}

void kelpie__bench_raw_learn(struct bench_host *host, pid_t vmm) {
    char path[BENCH_PATH_BYTES_MAX];
    char initramfs[BENCH_PATH_BYTES_MAX];
    char append[BENCH_TEXT_BYTES_MAX - 32];
    struct bench_recipe *recipe = &host->recipe;
    size_t count = 0;
    snprintf(path, sizeof(path), "/proc/%d/cmdline", vmm);
    char *bytes = kelpie__bench_read(path, &count);
    snprintf(recipe->program, sizeof(recipe->program), "%s", bytes);
    learn_option(bytes, count, "-kernel", recipe->kernel, sizeof(recipe->kernel));
    learn_option(bytes, count, "-initrd", initramfs, sizeof(initramfs));
    learn_option(bytes, count, "-append", append, sizeof(append));
    learn_option(bytes, count, "-M", recipe->machine, sizeof(recipe->machine));
    learn_option(bytes, count, "-cpu", recipe->cpu, sizeof(recipe->cpu));
    learn_option(bytes, count, "-accel", path, sizeof(path));
    recipe->has_kvm = strcmp(path, "kvm") == 0;
    free(bytes);
    char *own = strstr(recipe->machine, ",memory-backend"); /* what raw_run adds itself */
    if (own != NULL) {
        *own = '\0';
    }
    snprintf(recipe->append, sizeof(recipe->append), "%s rdinit=/bench-agent", append);
    learn_initramfs(host, initramfs);
}

struct raw_arguments {
    uint32_t count;
    const char *values[RAW_ARGUMENT_COUNT_MAX];
};

static void add(struct raw_arguments *arguments, const char *option, const char *value) {
    arguments->values[arguments->count] = option;
    arguments->values[arguments->count + 1] = value;
    arguments->count += 2;
}

/* In the child. */
static void raw_run(const struct bench_host *host, const struct bench_raw_order *order) {
    const struct bench_recipe *recipe = &host->recipe;
    struct raw_arguments arguments = {.count = 1, .values = {recipe->program}};
    char machine[192];
    char memory[BENCH_TEXT_BYTES_MAX];
    char size[32];
    char disk[BENCH_TEXT_BYTES_MAX];
    snprintf(size, sizeof(size), "%uM", host->memory_mib);
    snprintf(machine, sizeof(machine), "%s,memory-backend=memory%s", recipe->machine,
             order->state != NULL ? ",suppress-vmdesc=on" : "");
    if (order->state != NULL) {
        snprintf(memory, sizeof(memory),
                 "memory-backend-file,id=memory,size=%s,mem-path=%s,share=off", size,
                 order->state->base != NULL ? order->state->base : order->state->memory);
        add(&arguments, "-incoming", "defer");
        add(&arguments, "-global", "migration.send-configuration=off");
    } else {
        snprintf(memory, sizeof(memory), "memory-backend-ram,id=memory,size=%s", size);
        add(&arguments, "-kernel", recipe->kernel);
        add(&arguments, "-initrd", recipe->initramfs);
        add(&arguments, "-append", recipe->append);
    }
    add(&arguments, "-nodefaults", "-no-user-config");
    add(&arguments, "-no-reboot", order->state != NULL ? "-S" : "-no-user-config");
    add(&arguments, "-display", "none");
    add(&arguments, "-M", machine);
    add(&arguments, "-object", memory);
    add(&arguments, "-m", size);
    add(&arguments, "-smp", "1");
    add(&arguments, "-global", "virtio-mmio.force-legacy=false");
    add(&arguments, "-accel", recipe->has_kvm ? "kvm" : "tcg,thread=multi");
    add(&arguments, "-cpu", recipe->cpu);
    add(&arguments, "-chardev", "socket,id=qmp,fd=3");
    add(&arguments, "-mon", "chardev=qmp,mode=control");
    add(&arguments, "-chardev", "socket,id=agent,fd=4");
    add(&arguments, "-serial", "null");
    add(&arguments, "-device", "virtio-serial-device,max_ports=2");
    add(&arguments, "-device", "virtserialport,chardev=agent,name=" BENCH_PORT_NAME);
    if (order->disk != NULL) {
        snprintf(disk, sizeof(disk), "file=%s,format=qcow2,if=none,id=disk", order->disk);
        add(&arguments, "-drive", disk);
        add(&arguments, "-device", "virtio-blk-device,drive=disk");
    }
    union { /* execv takes what it does not write to without const */
        const char **in;
        char **out;
    } cast = {.in = arguments.values};
    execv(recipe->program, cast.out);
    _exit(127);
}

void kelpie__bench_raw_load(struct bench_raw *raw, const struct bench_raw_state *state) {
    char text[RAW_ANSWER_BYTES_MAX];
    int device = open(state->device, O_RDONLY | O_CLOEXEC);
    if (state->base != NULL) {
        kelpie__bench_raw_lay(raw, state);
    }
    kelpie__bench_raw_qmp(raw,
                          "{\"execute\":\"migrate-set-capabilities\",\"arguments\":{"
                          "\"capabilities\":[{\"capability\":\"events\",\"state\":true}]}}",
                          -1, NULL, 0);
    kelpie__bench_raw_qmp(raw, "{\"execute\":\"getfd\",\"arguments\":{\"fdname\":\"state\"}}",
                          device, NULL, 0);
    close(device);
    qmp_send(raw->qmp, "{\"execute\":\"migrate-incoming\",\"arguments\":{\"uri\":\"fd:state\"}}",
             -1);
    qmp_await(raw->qmp, "\"completed\"", text, sizeof(text));
    kelpie__bench_raw_qmp(raw, "{\"execute\":\"cont\"}", -1, NULL, 0);
}

void kelpie__bench_raw_start(const struct bench_host *host, const struct bench_raw_order *order,
                             struct bench_raw *out) {
    int qmp[2];
    int agent[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, qmp) < 0 ||
        socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, agent) < 0) {
        kelpie__bench_die("socketpair: %s", strerror(errno));
    }
    pid_t pid = vfork();
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        int qmp_copy = fcntl(qmp[1], F_DUPFD, RAW_STATE_HANDLE); /* clear of where they belong */
        int agent_copy = fcntl(agent[1], F_DUPFD, RAW_STATE_HANDLE);
        dup2(qmp_copy, RAW_QMP_HANDLE);
        dup2(agent_copy, RAW_AGENT_HANDLE);
        close(qmp_copy);
        close(agent_copy);
        raw_run(host, order);
    }
    close(qmp[1]);
    close(agent[1]);
    if (pid < 0) {
        kelpie__bench_die("vfork: %s", strerror(errno));
    }
    *out = (struct bench_raw){.pid = pid,
                              .qmp = qmp[0],
                              .agent = agent[0],
                              .memory_bytes = (uint64_t)host->memory_mib << 20};
    raw_greet(out);
    if (order->state != NULL && !order->is_waiting) {
        kelpie__bench_raw_load(out, order->state);
    }
    if (order->state != NULL) {
        return;
    }
    struct bench_reply ready;
    raw_read(out->agent, &ready, sizeof(ready), "the raw guest");
}

void kelpie__bench_raw_kill(struct bench_raw *raw) {
    if (raw->pid > 0) {
        kill(raw->pid, SIGKILL);
        waitpid(raw->pid, NULL, 0);
        close(raw->qmp);
        close(raw->agent);
        raw->pid = 0;
    }
}

/* ---- commands -------------------------------------------------------------------------------- */

/* What it reads is written while its output may come: neither side has room for all. */
static size_t exec_write(struct bench_raw *raw, const char *bytes, size_t count) {
    ssize_t put = send(raw->agent, bytes, count, MSG_DONTWAIT);
    if (put < 0 && errno != EAGAIN) {
        kelpie__bench_die("the raw guest: %s", strerror(errno));
    }
    return put > 0 ? (size_t)put : 0;
}

static void exec_request(struct bench_raw *raw, const struct bench_raw_command *command) {
    char bytes[sizeof(struct bench_request) + BENCH_ARGUMENT_BYTES_MAX];
    struct bench_request request = {.stdin_bytes = command->input_bytes,
                                    .is_left_alone = command->is_left_alone,
                                    .is_echo = command->is_echo};
    size_t at = sizeof(request);
    for (uint32_t i = 0; !command->is_echo && command->argv[i] != NULL; i += 1) {
        size_t length = strlen(command->argv[i]) + 1;
        if (at + length > sizeof(bytes)) {
            kelpie__bench_die("the arguments are too long");
        }
        memcpy(bytes + at, command->argv[i], length);
        at += length;
    }
    request.argument_bytes = (uint32_t)(at - sizeof(request));
    memcpy(bytes, &request, sizeof(request));
    raw_write(raw->agent, bytes, at, "the raw guest");
}

/* Takes one reply; true: the command has ended. */
static bool exec_reply(struct bench_raw *raw, uint64_t *inout_output_bytes) {
    char bytes[BENCH_PIECE_BYTES];
    struct bench_reply reply;
    int32_t status = 0;
    raw_read(raw->agent, &reply, sizeof(reply), "the raw guest");
    if (reply.count > sizeof(bytes)) {
        kelpie__bench_die("the raw guest sent %u bytes at once", reply.count);
    }
    raw_read(raw->agent, bytes, reply.count, "the raw guest");
    *inout_output_bytes += reply.type == BENCH_REPLY_STDOUT ? reply.count : 0;
    if (reply.type != BENCH_REPLY_END) {
        return false;
    }
    memcpy(&status, bytes, sizeof(status));
    if (status != 0) {
        kelpie__bench_die("a raw command ended with %d", status);
    }
    return true;
}

uint64_t kelpie__bench_raw_exec(struct bench_raw *raw, const struct bench_raw_command *command) {
    uint64_t output_bytes = 0;
    size_t written = 0;
    bool has_ended = false;
    exec_request(raw, command);
    while (!has_ended) { /* bound: the patience of raw_read */
        bool has_input = written < command->input_bytes;
        struct pollfd polled = {.fd = raw->agent,
                                .events = (short)(has_input ? POLLIN | POLLOUT : POLLIN)};
        poll(&polled, 1, RAW_PATIENCE_MS);
        if ((polled.revents & POLLOUT) != 0) {
            written += exec_write(raw, (const char *)command->input + written,
                                  command->input_bytes - written);
        }
        if ((polled.revents & POLLIN) != 0 || !has_input) {
            has_ended = exec_reply(raw, &output_bytes);
        }
    }
    return output_bytes;
}
