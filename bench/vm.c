/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * bench-vm: measures Kelpie and, between its rounds, the same done by hand. It is run by bench/run,
 * which makes a directory for it and a report of what it tells.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "side.h"

#define VM_ROUNDS_DEFAULT 10u
#define VM_MEMORY_DEFAULT_MIB 256u
#define VM_FILL_DEFAULT_MIB 30u /* about 100 MB are in use then */
#define VM_STREAM_DEFAULT_MIB 16u

static const struct {
    const char *name;
    void (*run)(const struct bench_host *host);
} vm_sections[] = {
    {"boot", kelpie__bench_boot},       {"exec", kelpie__bench_exec},
    {"stream", kelpie__bench_stream},   {"snapshot", kelpie__bench_snapshot},
    {"restore", kelpie__bench_restore}, {"fork", kelpie__bench_fork},
    {"pool", kelpie__bench_pool},       {"density", kelpie__bench_density},
    {"tail", kelpie__bench_tail},       {"parallel", kelpie__bench_parallel},
    {"queue", kelpie__bench_queue},     {"idle", kelpie__bench_idle},
    {"peer", kelpie__bench_peer},
};

static const char vm_usage[] =
    "usage: bench-vm --directory PATH --programs PATH [--guest-agent FILE] [--rounds N] "
    "[--memory MIB] [--fill MIB] [--stream MIB] [--limit SECONDS] [--accel kvm|tcg] SECTION..\n";

static uint32_t number(const char *text) {
    unsigned long value = strtoul(text, NULL, 10);
    if (value == 0 || value > 100000) {
        kelpie__bench_die("\"%s\" is no number that fits", text);
    }
    return (uint32_t)value;
}

/* Gives the index of the first section. */
static int read_options(struct bench_host *host, int argc, char **argv) {
    int at = 1;
    for (; at + 1 < argc && argv[at][0] == '-'; at += 2) {
        const char *name = argv[at];
        const char *value = argv[at + 1];
        if (strcmp(name, "--directory") == 0) {
            host->directory = value;
        } else if (strcmp(name, "--programs") == 0) {
            host->programs = value;
        } else if (strcmp(name, "--guest-agent") == 0) {
            host->guest_agent = value;
        } else if (strcmp(name, "--accel") == 0) {
            host->accelerator =
                strcmp(value, "kvm") == 0 ? KELPIE_ACCELERATOR_KVM : KELPIE_ACCELERATOR_TCG;
        } else if (strcmp(name, "--rounds") == 0) {
            host->rounds = number(value);
        } else if (strcmp(name, "--memory") == 0) {
            host->memory_mib = number(value);
        } else if (strcmp(name, "--fill") == 0) {
            host->fill_mib = number(value);
        } else if (strcmp(name, "--stream") == 0) {
            host->stream_mib = number(value);
        } else if (strcmp(name, "--limit") == 0) {
            host->limit_s = number(value);
        } else {
            kelpie__bench_die("there is no option \"%s\"", name);
        }
    }
    if (host->directory == NULL || host->programs == NULL || at == argc) {
        fputs(vm_usage, stderr);
        exit(2);
    }
    return at;
}

/* A first VM fills the caches, and its VMM says what the raw side is made of. */
static void warm_up(struct bench_host *host) {
    struct kelpie_vm *vm = kelpie__bench_side_start(host, &(struct bench_side_order){0});
    kelpie__bench_side_hello(vm);
    kelpie__bench_raw_learn(host, kelpie__bench_side_vmm(vm));
    kelpie__bench_side_end(vm);
}

static void run_section(struct bench_host *host, const char *name) {
    for (size_t i = 0; i < sizeof(vm_sections) / sizeof(vm_sections[0]); i += 1) {
        if (strcmp(vm_sections[i].name, name) == 0) {
            fprintf(stderr, "bench-vm: %s\n", name);
            host->section_begun_ms = kelpie__bench_now_ms();
            vm_sections[i].run(host);
            return;
        }
    }
    kelpie__bench_die("there is no section \"%s\"", name);
}

int main(int argc, char **argv) {
    struct bench_host host = {.rounds = VM_ROUNDS_DEFAULT,
                              .memory_mib = VM_MEMORY_DEFAULT_MIB,
                              .fill_mib = VM_FILL_DEFAULT_MIB,
                              .stream_mib = VM_STREAM_DEFAULT_MIB};
    int first = read_options(&host, argc, argv);
    host.kelpie = kelpie__bench_open(&host);
    warm_up(&host);
    for (int i = first; i < argc; i += 1) {
        run_section(&host, argv[i]);
    }
    kelpie_close(host.kelpie);
    return 0;
}
