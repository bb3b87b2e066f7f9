/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * The verbs of kelpie-pack: see pack.h.
 */
#include "pack/pack.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

struct pack_verb {
    const char *name;
    const char *arguments;
    int (*run)(int argc, char **argv);
};

static const struct pack_verb pack_verbs[] = {
    {"kernel", "BZIMAGE OUT", kelpie__pack_kernel},
    {"initramfs", "--agent FILE --busybox FILE [--modules-dir DIRECTORY] OUT",
     kelpie__pack_initramfs},
    {"builtin", "BUSYBOX OUT", kelpie__pack_builtin},
    {"root", "DIRECTORY CACHE_DIRECTORY", kelpie__pack_root},
    {"identify", "IMAGE", kelpie__pack_identify},
    {"disk", "SIZE_MIB OUT", kelpie__pack_disk},
};

static_assert(KELPIE_PACK_OK == 0, "what a program ends with when all is well");
static_assert(KELPIE_PACK_SYSTEM < 126, "the codes beyond belong to those who start programs");

static int pack_usage(FILE *stream) {
    for (size_t i = 0; i < KELPIE_ARRAY_COUNT(pack_verbs); i += 1) {
        fprintf(stream, "%s kelpie-pack %s %s\n", i == 0 ? "usage:" : "      ", pack_verbs[i].name,
                pack_verbs[i].arguments);
    }
    return KELPIE_PACK_USAGE;
}

int kelpie_pack_main(int argc, char **argv) {
    if (argc == 2 && strcmp(argv[1], "--version") == 0) {
        printf("kelpie-pack %s\n", KELPIE_VERSION);
        return KELPIE_PACK_OK;
    }
    if (argc == 2 && strcmp(argv[1], "--help") == 0) {
        kelpie__ignore(pack_usage(stdout));
        return KELPIE_PACK_OK;
    }
    umask(0077);
    signal(SIGPIPE, SIG_IGN); /* of a program that stops reading: an error, no death */
    signal(SIGXFSZ, SIG_IGN); /* of a limit of file size: likewise */
    for (size_t i = 0; argc > 1 && i < KELPIE_ARRAY_COUNT(pack_verbs); i += 1) {
        if (strcmp(argv[1], pack_verbs[i].name) == 0) {
            KELPIE_ASSERT(pack_verbs[i].run != NULL);
            int status = pack_verbs[i].run(argc - 1, argv + 1);
            KELPIE_ASSERT(status >= KELPIE_PACK_OK && status <= KELPIE_PACK_SYSTEM);
            return status == KELPIE_PACK_USAGE ? pack_usage(stderr) : status;
        }
    }
    return pack_usage(stderr);
}
