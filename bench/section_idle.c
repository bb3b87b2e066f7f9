/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * idle: what QEMU has of memory for itself alone while a guest of 128 MiB rests, and what of it is
 * what: Kelpie's as it makes a VM by default, Kelpie's booted, and a QEMU as a user would start it.
 * Two of each kind are alive at once: what they share is no one's own.
 */
#include <errno.h>
#include <glob.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "side.h"

#define IDLE_MEMORY_MIB 128u
#define IDLE_COUNT 2u
#define IDLE_ROUNDS_MAX 5u
#define IDLE_REST_US 1000000u
#define IDLE_PATIENCE_MS 60000
#define IDLE_TEXT_BYTES_MAX 65536u

/* ---- memory ---------------------------------------------------------------------------------- */

struct idle_memory {
    double guest_mib;      /* the guest's memory */
    double translated_mib; /* TCG's buffer of translated code */
    double rest_mib;       /* QEMU's heap, data, tables of translations, files that nobody shares */
};

/* The guest's is the mapping of its size, or the file that a restored one lies over; TCG's is
 * the only one that is written and executed. */
static double *idle_part(struct idle_memory *memory, const char *line) {
    unsigned long long begin = 0;
    unsigned long long end = 0;
    char access[8] = "";
    if (sscanf(line, "%llx-%llx %7s", &begin, &end, access) != 3) {
        return NULL;
    }
    if (strcmp(access, "rwxp") == 0) {
        return &memory->translated_mib;
    }
    return access[1] == 'w' && end - begin == (unsigned long long)IDLE_MEMORY_MIB << 20
               ? &memory->guest_mib
               : &memory->rest_mib;
}

static void idle_measure(const char *kind, pid_t pid) {
    char path[64];
    char series[64];
    size_t count = 0;
    char *rest = NULL;
    struct idle_memory memory = {0};
    double *part = &memory.rest_mib;
    snprintf(path, sizeof(path), "/proc/%d/smaps", pid);
    char *text = kelpie__bench_read(path, &count);
    for (char *line = strtok_r(text, "\n", &rest); line != NULL;
         line = strtok_r(NULL, "\n", &rest)) {
        double *next = strstr(line, " kB") == NULL ? idle_part(&memory, line) : NULL;
        part = next != NULL ? next : part;
        if (strncmp(line, "Private_", 8) == 0) {
            *part += strtod(line + strcspn(line, " "), NULL) / 1024;
        }
    }
    free(text);
    snprintf(series, sizeof(series), "idle/%s", kind);
    kelpie__bench_tell(series, "MiB", memory.guest_mib + memory.translated_mib + memory.rest_mib);
    snprintf(series, sizeof(series), "idle/%s-guest", kind);
    kelpie__bench_tell(series, "MiB", memory.guest_mib);
    snprintf(series, sizeof(series), "idle/%s-code", kind);
    kelpie__bench_tell(series, "MiB", memory.translated_mib);
    snprintf(series, sizeof(series), "idle/%s-rest", kind);
    kelpie__bench_tell(series, "MiB", memory.rest_mib);
}

/* ---- as a user would ------------------------------------------------------------------------- */

struct idle_naive {
    pid_t pid;
    int console;
};

static void naive_kernel(char *out) {
    glob_t found = {0};
    if (glob("/boot/vmlinuz-*-cloud-amd64", 0, NULL, &found) != 0 || found.gl_pathc == 0) {
        kelpie__bench_die("there is no kernel in /boot (package linux-image-cloud-amd64)");
    }
    snprintf(out, BENCH_PATH_BYTES_MAX, "%s", found.gl_pathv[found.gl_pathc - 1]);
    globfree(&found);
}

/* In the child. The machine is QEMU's default; a shell is the guest's first program. */
static void naive_run(const struct bench_host *host, const char *kernel, int console) {
    char size[16];
    snprintf(size, sizeof(size), "%u", IDLE_MEMORY_MIB);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    dup2(console, 0);
    dup2(console, 1);
    execl(host->recipe.program, host->recipe.program, "-m", size, "-kernel", kernel, "-initrd",
          host->recipe.initramfs, "-append", "console=ttyS0 rdinit=/bin/sh", "-nographic",
          (char *)NULL);
    _exit(127);
}

static void naive_await(struct idle_naive *naive, const char *wanted) {
    char *text = calloc(1, IDLE_TEXT_BYTES_MAX);
    size_t count = 0;
    if (text == NULL) {
        kelpie__bench_die("no memory");
    }
    while (strstr(text, wanted) == NULL) { /* bound: the patience, the size */
        struct pollfd polled = {.fd = naive->console, .events = POLLIN};
        ssize_t got = poll(&polled, 1, IDLE_PATIENCE_MS) > 0
                          ? read(naive->console, text + count, IDLE_TEXT_BYTES_MAX - 1 - count)
                          : 0;
        if (got <= 0) {
            kelpie__bench_die("the naive guest did not say \"%s\"", wanted);
        }
        for (ssize_t i = 0; i < got; i += 1) { /* strstr ends at a zero */
            text[count + (size_t)i] =
                text[count + (size_t)i] == '\0' ? ' ' : text[count + (size_t)i];
        }
        count += (size_t)got;
    }
    free(text);
}

static void naive_start(const struct bench_host *host, struct idle_naive *out) {
    char kernel[BENCH_PATH_BYTES_MAX];
    int ends[2];
    static const char hello[] = "echo hel''lo\n";
    naive_kernel(kernel);
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) < 0) {
        kelpie__bench_die("socketpair: %s", strerror(errno));
    }
    out->pid = fork();
    if (out->pid == 0) {
        naive_run(host, kernel, ends[1]);
    }
    close(ends[1]);
    out->console = ends[0];
    naive_await(out, "# ");
    if (write(out->console, hello, sizeof(hello) - 1) != (ssize_t)sizeof(hello) - 1) {
        kelpie__bench_die("the naive guest: %s", strerror(errno));
    }
    naive_await(out, "\nhello");
}

static void naive_end(struct idle_naive *naive) {
    kill(naive->pid, SIGKILL);
    waitpid(naive->pid, NULL, 0);
    close(naive->console);
}

/* ---- rounds ---------------------------------------------------------------------------------- */

static void idle_mine(const struct bench_host *host, const char *kind, bool is_from_template) {
    struct kelpie_vm *vms[IDLE_COUNT];
    for (uint32_t i = 0; i < IDLE_COUNT; i += 1) {
        vms[i] = kelpie__bench_side_start(
            host, &(struct bench_side_order){.is_from_template = is_from_template});
        kelpie__bench_side_hello(vms[i]);
    }
    usleep(IDLE_REST_US);
    for (uint32_t i = 0; i < IDLE_COUNT; i += 1) {
        idle_measure(kind, kelpie__bench_side_vmm(vms[i]));
    }
    for (uint32_t i = 0; i < IDLE_COUNT; i += 1) {
        kelpie__bench_side_end(vms[i]);
    }
}

static void idle_naive(const struct bench_host *host) {
    struct idle_naive naive[IDLE_COUNT];
    for (uint32_t i = 0; i < IDLE_COUNT; i += 1) {
        naive_start(host, &naive[i]);
    }
    usleep(IDLE_REST_US);
    for (uint32_t i = 0; i < IDLE_COUNT; i += 1) {
        idle_measure("naive", naive[i].pid);
    }
    for (uint32_t i = 0; i < IDLE_COUNT; i += 1) {
        naive_end(&naive[i]);
    }
}

void kelpie__bench_idle(const struct bench_host *host) {
    struct bench_host small = *host;
    small.memory_mib = IDLE_MEMORY_MIB;
    /* The first leaves the template that the others are made from. */
    kelpie__bench_side_end(
        kelpie__bench_side_start(&small, &(struct bench_side_order){.is_from_template = true}));
    for (uint32_t i = 0; i < IDLE_ROUNDS_MAX && kelpie__bench_goes_on(host, i); i += 1) {
        idle_mine(&small, "kelpie", true);
        idle_mine(&small, "booted", false);
        idle_naive(&small);
    }
}
