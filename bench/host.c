/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * See host.h.
 */
#include "host.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define HOST_ROUNDS_MIN 2u /* whatever time they take */

extern char **environ;

void kelpie__bench_die(const char *format, ...) {
    va_list list;
    va_start(list, format);
    fputs("bench-vm: ", stderr);
    vfprintf(stderr, format, list);
    fputs("\n", stderr);
    va_end(list);
    exit(1); /* owned VMs and raw QEMUs die with this process */
}

void kelpie__bench_must(int status, const struct kelpie_error *error, const char *what) {
    if (status < 0) {
        kelpie__bench_die("%s: %s", what, error->message);
    }
}

struct kelpie *kelpie__bench_open(const struct bench_host *host) {
    const struct kelpie_open_options options = {.struct_size = sizeof(options),
                                                .state_directory = host->directory};
    struct kelpie *kelpie = NULL;
    struct kelpie_error error = {0};
    kelpie__bench_must(kelpie_open(&options, &kelpie, &error), &error, "open the library");
    return kelpie;
}

double kelpie__bench_now_ms(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec * 1e3 + (double)time.tv_nsec / 1e6;
}

bool kelpie__bench_goes_on(const struct bench_host *host, uint32_t round) {
    if (round < HOST_ROUNDS_MIN || host->limit_s == 0) {
        return round < host->rounds;
    }
    double passed_ms = kelpie__bench_now_ms() - host->section_begun_ms;
    return round < host->rounds && passed_ms < host->limit_s * 1e3;
}

double kelpie__bench_cpu_ms(int32_t pid) {
    char path[BENCH_PATH_BYTES_MAX];
    double sum_ns = 0;
    snprintf(path, sizeof(path), "/proc/%d/task", pid);
    DIR *threads = opendir(path);
    for (struct dirent *entry = threads == NULL ? NULL : readdir(threads); entry != NULL;
         entry = readdir(threads)) {
        snprintf(path, sizeof(path), "/proc/%d/task/%.20s/schedstat", pid, entry->d_name);
        FILE *file = fopen(path, "re");
        char text[64] = "";
        if (file != NULL && fgets(text, sizeof(text), file) != NULL) {
            sum_ns += strtod(text, NULL);
        }
        if (file != NULL) {
            fclose(file);
        }
    }
    if (threads != NULL) {
        closedir(threads);
    }
    return sum_ns / 1e6;
}

void kelpie__bench_tell(const char *series, const char *unit, double value) {
    printf("value %s %s %.6g\n", series, unit, value);
    fflush(stdout);
}

void kelpie__bench_path(char *out, const char *directory, const char *name) {
    int length = snprintf(out, BENCH_PATH_BYTES_MAX, "%s/%s", directory, name);
    if (length < 0 || (size_t)length >= BENCH_PATH_BYTES_MAX) {
        kelpie__bench_die("the path of \"%s\" is too long", name);
    }
}

char *kelpie__bench_read(const char *path, size_t *out_count) {
    FILE *file = fopen(path, "re");
    size_t capacity = 65536;
    size_t count = 0;
    char *bytes = malloc(capacity + 1);
    if (file == NULL || bytes == NULL) {
        kelpie__bench_die("read \"%s\": %s", path, strerror(errno));
    }
    for (size_t got = 1; got > 0;) { /* bound: the file; those of /proc have no size */
        if (count == capacity) {
            capacity *= 2;
            bytes = realloc(bytes, capacity + 1);
            if (bytes == NULL) {
                kelpie__bench_die("no memory for \"%s\"", path);
            }
        }
        got = fread(bytes + count, 1, capacity - count, file);
        count += got;
    }
    fclose(file);
    bytes[count] = '\0';
    *out_count = count;
    return bytes;
}

void kelpie__bench_spawn(const char *const *argv) {
    posix_spawn_file_actions_t actions;
    pid_t pid = 0;
    int status = 0;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, 1, "/dev/null", O_WRONLY, 0);
    union { /* posix_spawn takes what it does not write to without const */
        const char *const *in;
        char *const *out;
    } cast = {.in = argv};
    if (posix_spawn(&pid, argv[0], &actions, NULL, cast.out, environ) != 0 ||
        waitpid(pid, &status, 0) != pid || !WIFEXITED(status) || WEXITSTATUS(status) != 0) {
        kelpie__bench_die("\"%s %s\" failed", argv[0], argv[1]);
    }
    posix_spawn_file_actions_destroy(&actions);
}
