/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * The first program: a microVM, a command in it, its output.
 */
#include <kelpie.h>
#include <stdio.h>

int main(void) {
    struct kelpie *host = NULL;
    struct kelpie_config *config = NULL;
    struct kelpie_vm *vm = NULL;
    const char *const argv[] = {"uname", "-a", NULL};
    const struct kelpie_exec_options command = {.struct_size = sizeof(command), .argv = argv};
    struct kelpie_exec_result result = {.struct_size = sizeof(result)};
    struct kelpie_error error = {0};
    int code = kelpie_open(NULL, &host, &error) || kelpie_config_create(host, &config, &error) ||
               kelpie_vm_create(host, NULL, config, &vm, &error) ||
               kelpie_vm_start(vm, 0, &error) || kelpie_vm_exec(vm, &command, &result, &error);
    fputs(code == 0 ? result.stdout_bytes : error.message, code == 0 ? stdout : stderr);
    kelpie_exec_result_release(&result);
    kelpie_close(host);
    return code;
}
