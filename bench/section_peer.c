/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * peer: a command by Kelpie against one by qemu-guest-agent, in the same guest: Kelpie's own, whose
 * QEMU is started by a script that adds a port for the other agent. A command of that one is
 * guest-exec, then guest-exec-status until it has ended: without a pause between, as fast as it can
 * be, and with pauses of 10 and 100 ms, as clients do.
 */
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "side.h"

#define PEER_BLOCK 20u /* commands of a round */
#define PEER_PORT_NAME "org.qemu.guest_agent.0"
#define PEER_ANSWER_BYTES_MAX 4096u
#define PEER_PATIENCE_MS 30000
#define PEER_POLLS_MAX 100000u
#define PEER_FEW 3u           /* of those with a long pause */
#define PEER_TRIES_MAX 600u   /* while it starts: a minute */
#define PEER_HELLO "aGVsbG8K" /* "hello\n" in base64 */

struct peer {
    const struct bench_host *host;
    struct kelpie_vm *vm;
    int socket;
};

/* ---- the guest ------------------------------------------------------------------------------- */

/* Kelpie starts this instead of QEMU: the same, and one device more. */
static void peer_wrap(const struct bench_host *host, char *out_socket) {
    char path[BENCH_PATH_BYTES_MAX];
    kelpie__bench_path(out_socket, host->directory, "peer.sock");
    kelpie__bench_path(path, host->directory, "qemu-with-a-port");
    FILE *file = fopen(path, "we");
    if (file == NULL) {
        kelpie__bench_die("make \"%s\"", path);
    }
    fprintf(file,
            "#!/bin/sh\nexec %s \"$@\" -chardev socket,id=peer,path=%s,server=on,wait=off"
            " -device virtio-serial-device,id=peer,max_ports=2"
            " -device virtserialport,bus=peer.0,chardev=peer,name=" PEER_PORT_NAME "\n",
            host->recipe.program, out_socket);
    if (fclose(file) != 0 || chmod(path, 0700) < 0 || setenv("KELPIE_QEMU", path, 1) < 0) {
        kelpie__bench_die("make \"%s\"", path);
    }
}

static void peer_run(struct kelpie_vm *vm, const struct kelpie_exec_options *options) {
    struct kelpie_exec_result result = {.struct_size = sizeof(result)};
    struct kelpie_error error = {0};
    kelpie__bench_must(kelpie_vm_exec(vm, options, &result, &error), &error, "prepare the peer");
    if (result.status.exit_code != 0) {
        kelpie__bench_die("prepare the peer: %s", result.stderr_bytes);
    }
    kelpie_exec_result_release(&result);
}

/* Its program and libraries, and the agent itself, which lives as long as the VM. */
static void peer_start(const struct bench_host *host, struct kelpie_vm *vm) {
    static const char unpack[] = "mkdir /run/peer && tar -x -C /run/peer";
    static const char serve[] =
        "for port in /sys/class/virtio-ports/*; do"
        "    grep -q " PEER_PORT_NAME " $port/name && break; "
        "done; cd /run/peer && exec ./ld-linux-x86-64.so.2 --library-path /run/peer ./qemu-ga "
        "-m virtio-serial -p /dev/${port##*/} -t /run/peer";
    size_t count = 0;
    char *bytes = kelpie__bench_read(host->guest_agent, &count);
    const char *const put[] = {"/bin/sh", "-c", unpack, NULL};
    peer_run(vm, &(struct kelpie_exec_options){.struct_size = sizeof(struct kelpie_exec_options),
                                               .argv = put,
                                               .stdin_bytes = bytes,
                                               .stdin_count = count});
    free(bytes);
    const char *const run[] = {"/bin/sh", "-c", serve, NULL};
    const struct kelpie_exec_options options = {.struct_size = sizeof(options),
                                                .argv = run,
                                                .timeout_ms = KELPIE_TIMEOUT_NONE,
                                                .keep_on_disconnect = true};
    struct kelpie_exec *exec = NULL;
    struct kelpie_error error = {0};
    kelpie__bench_must(kelpie_vm_exec_start(vm, &options, NULL, NULL, &exec, &error), &error,
                       "start qemu-ga");
    kelpie__bench_must(kelpie_exec_detach(exec, &error), &error, "detach qemu-ga");
}

/* ---- its protocol ---------------------------------------------------------------------------- */

static int peer_connect(const char *path) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int handle = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    size_t count = strlen(path) + 1;
    if (count > sizeof(address.sun_path)) {
        kelpie__bench_die("the path of the peer's socket is too long");
    }
    memcpy(address.sun_path, path, count);
    if (handle < 0 || connect(handle, (const struct sockaddr *)&address, sizeof(address)) < 0) {
        kelpie__bench_die("connect to \"%s\"", path);
    }
    return handle;
}

/* One line; false: none within this time. */
static bool peer_read(struct peer *peer, char *out, int patience_ms) {
    size_t count = 0;
    while (count == 0 || out[count - 1] != '\n') { /* bound: the patience, the size */
        struct pollfd polled = {.fd = peer->socket, .events = POLLIN};
        if (poll(&polled, 1, patience_ms) <= 0) {
            return false;
        }
        ssize_t got = read(peer->socket, out + count, PEER_ANSWER_BYTES_MAX - 1 - count);
        if (got <= 0) {
            kelpie__bench_die("the peer's connection ended");
        }
        count += (size_t)got;
    }
    out[count] = '\0';
    return true;
}

static void peer_ask(struct peer *peer, const char *command, char *out) {
    size_t count = strlen(command);
    if (write(peer->socket, command, count) != (ssize_t)count ||
        !peer_read(peer, out, PEER_PATIENCE_MS)) {
        kelpie__bench_die("the peer does not answer \"%s\"", command);
    }
    if (strstr(out, "\"return\"") == NULL) {
        kelpie__bench_die("the peer said %s", out);
    }
}

/* Until it has started; what was asked before is answered late, or never. */
static void peer_synchronise(struct peer *peer) {
    char command[96];
    char answer[PEER_ANSWER_BYTES_MAX];
    char wanted[32];
    for (uint32_t i = 1; i <= PEER_TRIES_MAX; i += 1) {
        int count = snprintf(command, sizeof(command),
                             "{\"execute\":\"guest-sync\",\"arguments\":{\"id\":%u}}\n", i);
        snprintf(wanted, sizeof(wanted), "\"return\": %u}", i);
        if (write(peer->socket, command, (size_t)count) != count) {
            kelpie__bench_die("the peer's connection ended");
        }
        while (peer_read(peer, answer, 100)) { /* bound: what was asked */
            if (strstr(answer, wanted) != NULL) {
                return;
            }
        }
    }
    kelpie__bench_die("qemu-ga did not answer");
}

static void peer_hello(struct peer *peer, uint32_t pause_us) {
    static const char start[] = "{\"execute\":\"guest-exec\",\"arguments\":{\"path\":\"/bin/echo\","
                                "\"arg\":[\"hello\"],\"capture-output\":true}}\n";
    char command[96];
    char answer[PEER_ANSWER_BYTES_MAX];
    peer_ask(peer, start, answer);
    const char *pid = strstr(answer, "\"pid\": ");
    if (pid == NULL) {
        kelpie__bench_die("the peer said %s", answer);
    }
    snprintf(command, sizeof(command),
             "{\"execute\":\"guest-exec-status\",\"arguments\":{\"pid\":%ld}}\n",
             strtol(pid + 7, NULL, 10));
    for (uint32_t i = 0; i < PEER_POLLS_MAX; i += 1) {
        peer_ask(peer, command, answer);
        if (strstr(answer, "\"exited\": true") != NULL) {
            break;
        }
        if (pause_us > 0) {
            usleep(pause_us);
        }
    }
    if (strstr(answer, PEER_HELLO) == NULL) {
        kelpie__bench_die("the peer's command said %s", answer);
    }
}

/* ---- rounds ---------------------------------------------------------------------------------- */

static void peer_mine(void *context) {
    struct peer *peer = context;
    double begun_ms = kelpie__bench_now_ms();
    for (uint32_t i = 0; i < PEER_BLOCK; i += 1) {
        kelpie__bench_side_hello(peer->vm);
    }
    kelpie__bench_tell("peer/kelpie", "ms", (kelpie__bench_now_ms() - begun_ms) / PEER_BLOCK);
}

static void peer_other(void *context) {
    static const struct {
        const char *series;
        uint32_t commands;
        uint32_t pause_us;
    } ways[] = {{"peer/guest-agent", PEER_BLOCK, 0},
                {"peer/guest-agent-10ms", PEER_BLOCK, 10000},
                {"peer/guest-agent-100ms", PEER_FEW, 100000}};
    struct peer *peer = context;
    for (size_t i = 0; i < sizeof(ways) / sizeof(ways[0]); i += 1) {
        double begun_ms = kelpie__bench_now_ms();
        for (uint32_t k = 0; k < ways[i].commands; k += 1) {
            peer_hello(peer, ways[i].pause_us);
        }
        kelpie__bench_tell(ways[i].series, "ms",
                           (kelpie__bench_now_ms() - begun_ms) / ways[i].commands);
    }
}

void kelpie__bench_peer(const struct bench_host *host) {
    char path[BENCH_PATH_BYTES_MAX];
    struct peer peer = {.host = host};
    if (host->guest_agent == NULL) {
        fputs("bench-vm: peer is left out: the package qemu-guest-agent is not installed\n",
              stderr);
        return;
    }
    peer_wrap(host, path);
    peer.vm = kelpie__bench_side_start(host, &(struct bench_side_order){0});
    unsetenv("KELPIE_QEMU");
    peer_start(host, peer.vm);
    peer.socket = peer_connect(path);
    peer_synchronise(&peer);
    for (uint32_t i = 0; i < PEER_BLOCK; i += 1) { /* warm */
        kelpie__bench_side_hello(peer.vm);
        peer_hello(&peer, 0);
    }
    for (uint32_t i = 0; kelpie__bench_goes_on(host, i); i += 1) {
        kelpie__bench_both(i, peer_mine, peer_other, &peer);
    }
    close(peer.socket);
    kelpie__bench_side_end(peer.vm);
}
