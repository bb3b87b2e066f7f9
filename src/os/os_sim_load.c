/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * See os_sim_load.h.
 */
#define _GNU_SOURCE
#include "os/os_sim_load.h"

#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define OS_SIM_LIBRARY "libkelpie-sim.so.0"

/* A build tree, or a test of another build, names the library itself; never in a program with more
 * rights than its user. */
static const char *library_name(void) {
    const char *named = secure_getenv("KELPIE_SIM_LIBRARY");
    return named != NULL && named[0] != '\0' ? named : OS_SIM_LIBRARY;
}

/* The library stays loaded once it was used: its code may be on the stack of whoever closes it
 * last. */
static bool load_symbol(const char *name, int flags, void *out_function, size_t function_bytes) {
    void *library = dlopen(library_name(), RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE | flags);
    if (library == NULL) {
        return false;
    }
    void *symbol = dlsym(library, name);
    kelpie__ignore(dlclose(library)); /* only the count: RTLD_NODELETE keeps it */
    KELPIE_ASSERT(function_bytes == sizeof(symbol));
    memcpy(out_function, &symbol, sizeof(symbol)); /* ISO C knows no cast between them */
    return symbol != NULL;
}

int kelpie__os_sim_open(const char *options, struct kelpie_os **out,
                        char out_problem[KELPIE_OS_SIM_PROBLEM_BYTES]) {
    KELPIE_ASSERT(options != NULL);
    kelpie_os_sim_open open = NULL;
    if (!load_symbol(KELPIE_OS_SIM_OPEN, 0, &open, sizeof(open))) {
        int length = snprintf(out_problem, KELPIE_OS_SIM_PROBLEM_BYTES,
                              "the simulator is not available: cannot load \"%s\"; install "
                              "libkelpie-sim, or set KELPIE_SIM_LIBRARY to its path",
                              library_name());
        KELPIE_ASSERT(length > 0);
        return -ENOENT;
    }
    return open(options, KELPIE_VERSION, sizeof(struct kelpie_os), out, out_problem);
}

void kelpie__os_sim_close(struct kelpie_os *os) {
    kelpie_os_sim_close close = NULL;
    KELPIE_ASSERT(os != NULL);
    bool is_there = load_symbol(KELPIE_OS_SIM_CLOSE, 0, &close, sizeof(close));
    KELPIE_ASSERT(is_there); /* it came from there, and is never unloaded */
    close(os);
}

bool kelpie__os_sim_is_inside(void) {
    kelpie_os_sim_is_inside is_inside = NULL;
    return load_symbol(KELPIE_OS_SIM_IS_INSIDE, RTLD_NOLOAD, &is_inside, sizeof(is_inside)) &&
           is_inside();
}
