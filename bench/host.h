/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * What all sections of bench-vm use: the run's settings, time, values for the report, and an end
 * with a reason. A bench that cannot go on says why and exits: there is nobody to return to.
 */
#ifndef KELPIE_BENCH_HOST_H
#define KELPIE_BENCH_HOST_H

#include <kelpie.h>
#include <stdbool.h>
#include <stdint.h>

#define BENCH_PATH_BYTES_MAX 512u
#define BENCH_TEXT_BYTES_MAX 2048u

struct bench_recipe {
    char program[BENCH_PATH_BYTES_MAX];
    char kernel[BENCH_PATH_BYTES_MAX];
    char initramfs[BENCH_PATH_BYTES_MAX]; /* Kelpie's with the raw agent behind it */
    char append[BENCH_TEXT_BYTES_MAX];
    char machine[128];
    char cpu[128];
    bool has_kvm;
};

struct bench_host {
    const char *directory;   /* of this run; goes with it */
    const char *programs;    /* where kelpie, bench-agent and bench-ticker were built */
    const char *guest_agent; /* an archive of qemu-ga and its libraries; NULL: it is not here */
    enum kelpie_accelerator accelerator; /* of Kelpie's VMs, and so of the raw side's */
    uint32_t rounds;
    uint32_t memory_mib;
    uint32_t fill_mib;       /* of a guest with much in use */
    uint32_t stream_mib;     /* what a stream carries */
    uint32_t limit_s;        /* for the rounds of a section; 0: none */
    double section_begun_ms; /* its first round, or its preparation */
    struct kelpie *kelpie;
    struct bench_recipe recipe; /* of the raw side: taken from a VM of Kelpie's */
};

__attribute__((format(printf, 1, 2), noreturn)) void kelpie__bench_die(const char *format, ...);
/* Dies with the error's message when `status` is negative. */
void kelpie__bench_must(int status, const struct kelpie_error *error, const char *what);

struct kelpie *kelpie__bench_open(const struct bench_host *host); /* of the run's directory */
/* Whether a section's round `round` is to be: not when there were enough of them, and, once two are
 * there, not when the section's time is over. */
bool kelpie__bench_goes_on(const struct bench_host *host, uint32_t round);
double kelpie__bench_now_ms(void); /* the monotonic clock */
/* Processor time of a process, all its threads: a busy machine disturbs it little. */
double kelpie__bench_cpu_ms(int32_t pid);
/* One value of one round, on stdout for the report: "value SERIES UNIT NUMBER". */
void kelpie__bench_tell(const char *series, const char *unit, double value);

void kelpie__bench_path(char *out, const char *directory, const char *name);
/* The whole file; gives memory (free). */
char *kelpie__bench_read(const char *path, size_t *out_count);
/* Runs a program to its end, its output thrown away; dies unless it exits with 0. */
void kelpie__bench_spawn(const char *const *argv);

#endif
