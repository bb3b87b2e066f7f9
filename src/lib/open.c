/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * The one place where the library chooses its system: the real one, or the simulated one that
 * state_directory "sim:..." asks for.
 */
#include <errno.h>
#include <string.h>

#include "lib/internal.h"
#include "os/os_call.h"
#include "os/os_sim_load.h"

static const char *simulated_part(const char *state_directory) {
    size_t length = strlen(KELPIE_OS_SIM_PREFIX);
    if (state_directory == NULL || strncmp(state_directory, KELPIE_OS_SIM_PREFIX, length) != 0) {
        return NULL;
    }
    return state_directory + length;
}

static int open_simulated(const char *simulated, const struct kelpie_open_options *options,
                          struct kelpie **out, struct kelpie_error *error) {
    struct kelpie_open_options inside = *options;
    struct kelpie_os *os = NULL;
    char problem[KELPIE_OS_SIM_PROBLEM_BYTES] = "";
    KELPIE_ASSERT(simulated != NULL);
    int status = kelpie__os_sim_open(simulated, &os, problem);
    if (status < 0) {
        return kelpie__fail_field(error, status == -ENOENT ? KELPIE_E_UNAVAILABLE : KELPIE_E_CONFIG,
                                  "state_directory", "%s", problem);
    }
    inside.state_directory = NULL; /* that world's own */
    status = kelpie__open_with_os(os, &inside, out, error);
    if (status < 0) {
        kelpie__os_sim_close(os);
        return status;
    }
    (*out)->is_simulated = true;
    return 0;
}

int kelpie_open(const struct kelpie_open_options *options, struct kelpie **out,
                struct kelpie_error *error) {
    if (out == NULL) {
        return kelpie__fail(error, KELPIE_E_MISUSE, 0, "kelpie_open: out is NULL");
    }
    struct kelpie_open_options chosen;
    int status = kelpie__open_read_options(options, &chosen, error);
    if (status < 0) {
        return status;
    }
    KELPIE_ASSERT(chosen.struct_size == sizeof(chosen));
    struct kelpie_os *os = kelpie__os_linux_create();
    if (os == NULL) {
        return kelpie__fail(error, KELPIE_E_MEMORY, 0,
                            "no memory or no file descriptor for an event loop");
    }
    bool is_given = chosen.state_directory != NULL && chosen.state_directory[0] != '\0';
    const char *simulated = simulated_part(
        is_given ? chosen.state_directory : kelpie__os_environment(os, "KELPIE_STATE_DIR"));
    if (simulated != NULL) {
        kelpie__os_linux_destroy(os);
        return open_simulated(simulated, &chosen, out, error);
    }
    if (kelpie__os_sim_is_inside()) {
        kelpie__os_linux_destroy(os);
        return kelpie__fail_field(error, KELPIE_E_CONFIG, "state_directory",
                                  "a program of a simulated world opens \"sim:\", its own Kelpie; "
                                  "the real one is outside");
    }
    status = kelpie__open_with_os(os, &chosen, out, error);
    if (status < 0) {
        kelpie__os_linux_destroy(os);
    }
    return status;
}

void kelpie_close(struct kelpie *kelpie) {
    if (kelpie != NULL && kelpie__check_may_block(kelpie, "kelpie_close", NULL) == 0) {
        bool is_simulated = kelpie->is_simulated;
        struct kelpie_os *os = kelpie__close_keeping_os(kelpie);
        if (is_simulated) {
            kelpie__os_sim_close(os);
        } else {
            kelpie__os_linux_destroy(os);
        }
    }
}
