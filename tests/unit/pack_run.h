/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Runs kelpie-pack, the real program, in a child process, with a directory of the test's own.
 */
#ifndef KELPIE_TESTS_PACK_RUN_H
#define KELPIE_TESTS_PACK_RUN_H

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "pack/pack.h"

#define TEST_TEXT_BYTES 65536

static char test_directory[] = "/tmp/kelpie-test-pack-XXXXXX";
static char test_output[TEST_TEXT_BYTES]; /* stdout and stderr of the last run */

static inline const char *in_test(const char *name) {
    static char paths[8][256];
    static unsigned turn;
    turn = (turn + 1) % 8;
    snprintf(paths[turn], sizeof(paths[turn]), "%s/%s", test_directory, name);
    return paths[turn];
}

static inline void write_file(const char *path, const void *bytes, size_t count) {
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    assert_int_equal(fwrite(bytes, 1, count, file), count);
    assert_int_equal(fclose(file), 0);
}

static inline size_t read_file(const char *path, uint8_t *out, size_t capacity) {
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    size_t count = fread(out, 1, capacity, file);
    fclose(file);
    return count;
}

static inline void shell(const char *format, ...) {
    char command[1024];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(command, sizeof(command), format, arguments);
    va_end(arguments);
    assert_int_equal(system(command), 0);
}

static inline bool has_tool(const char *name) {
    char command[128];
    snprintf(command, sizeof(command), "command -v %s >/dev/null", name);
    return system(command) == 0;
}

static uid_t test_user; /* who runs it; 0: this user */

/* Runs kelpie-pack with up to eight arguments. */
static inline int run_pack(const char *first, ...) {
    char *argv[12] = {(char *)"kelpie-pack", (char *)(uintptr_t)first};
    int argc = 2;
    va_list arguments;
    va_start(arguments, first);
    for (; argc < 10 && (argv[argc] = va_arg(arguments, char *)) != NULL; argc += 1) {
    }
    va_end(arguments);
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    pid_t child = fork();
    if (child == 0) {
        if (test_user != 0 && (setgid(test_user) < 0 || setuid(test_user) < 0)) {
            _exit(126);
        }
        dup2(ends[1], 1);
        dup2(ends[1], 2);
        close(ends[0]);
        close(ends[1]);
        int status = kelpie_pack_main(argc, argv);
        fflush(stdout);
        _exit(status);
    }
    close(ends[1]);
    size_t count = 0;
    ssize_t result = 1;
    while (result > 0) {
        result = read(ends[0], test_output + count, sizeof(test_output) - 1 - count);
        count += result > 0 ? (size_t)result : 0;
    }
    test_output[count] = '\0';
    close(ends[0]);
    int status = 0;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static inline void assert_says(const char *text) {
    if (strstr(test_output, text) == NULL) {
        fail_msg("\"%s\" is not in: %s", text, test_output);
    }
}

/* Not a trace of a failed run, named or temporary; and one line said why. */
static inline void assert_nothing_made(const char *directory) {
    DIR *list = opendir(directory);
    assert_non_null(strchr(test_output, '\n'));
    assert_ptr_equal(strchr(test_output, '\n') + 1, test_output + strlen(test_output));
    for (struct dirent *entry = list == NULL ? NULL : readdir(list); entry != NULL;
         entry = readdir(list)) {
        if (entry->d_name[0] != '.' || strlen(entry->d_name) > 2) {
            fail_msg("left behind: %s/%s", directory, entry->d_name);
        }
    }
    if (list != NULL) {
        closedir(list);
    }
}

/* A statically linked program: an ELF header without program headers will do. */
static inline void make_static_program(const char *path) {
    uint8_t elf[128] = {0x7f, 'E', 'L', 'F', 2, 1, 1};
    write_file(path, elf, sizeof(elf));
}

static inline int pack_setup(void **state) {
    static int unused;
    *state = &unused;
    return mkdtemp(test_directory) == NULL ? -1 : 0;
}

static inline int pack_teardown(void **state) {
    assert_non_null(state);
    shell("rm -rf %s", test_directory);
    return 0;
}

#endif
