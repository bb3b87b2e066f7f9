/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Preloaded into a kelpie-monitor by the contract's exec_allocations: counts what is asked of the
 * allocator, in a file that the test maps. Other programs are left alone.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

void *__libc_malloc(size_t size);
void *__libc_calloc(size_t count, size_t size);
void *__libc_realloc(void *memory, size_t size);
void *malloc(size_t size);
void *calloc(size_t count, size_t size);
void *realloc(void *memory, size_t size);

static uint64_t *counter; /* NULL: nobody asked */

__attribute__((constructor)) static void count_open(void) {
    const char *path = getenv("KELPIE_TEST_COUNT");
    if (path == NULL || strcmp(program_invocation_short_name, "kelpie-monitor") != 0) {
        return;
    }
    int file = open(path, O_RDWR | O_CLOEXEC);
    void *page = file < 0
                     ? MAP_FAILED
                     : mmap(NULL, sizeof(*counter), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (file >= 0) {
        close(file);
    }
    counter = page == MAP_FAILED ? NULL : page;
}

static void count(void) {
    if (counter != NULL) {
        *counter += 1;
    }
}

void *malloc(size_t size) {
    count();
    return __libc_malloc(size);
}

void *calloc(size_t number, size_t size) {
    count();
    return __libc_calloc(number, size);
}

void *realloc(void *memory, size_t size) {
    count();
    return __libc_realloc(memory, size);
}
