/* SPDX-License-Identifier: Apache-2.0 OR MIT. The first program: a microVM, a command, its output.
 */
#include <kelpie.h>
#include <stdio.h>

int main(void) {
    struct kelpie *kelpie = NULL;
    struct kelpie_config *config = NULL;
    struct kelpie_vm *vm = NULL;
    struct kelpie_error error = {0};
    const char *const argv[] = {"uname", "-a", NULL};
    const struct kelpie_exec_options command = {.struct_size = sizeof(command), .argv = argv};
    struct kelpie_exec_result result = {.struct_size = sizeof(result)};
    if (!kelpie_open(NULL, &kelpie, &error) && !kelpie_config_create(kelpie, &config, &error)) {
        kelpie_config_set_ephemeral(config, true); /* nothing is left of it */
        if (!kelpie_vm_create(kelpie, NULL, config, &vm, &error) &&
            !kelpie_vm_start(vm, 0, &error) && !kelpie_vm_exec(vm, &command, &result, &error)) {
            fputs(result.stdout_bytes, stdout);
        }
    }
    fputs(error.message, stderr);
    kelpie_exec_result_release(&result);
    kelpie_config_destroy(config);
    kelpie_close(kelpie);
    return error.code != KELPIE_OK;
}
