/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * See identify.h. The argument vector itself is hashed, so that no option can be forgotten.
 */
#include "vmm/qemu/identify.h"

#include "core/hash.h"
#include "core/limits.h"
#include "os/os_call.h"
#include "vmm/accel.h"
#include "vmm/qemu/arguments.h"
#include "vmm/qemu/program.h"

#define IDENTIFY_HANDLE 3 /* of the first stream; which one is of no importance */

/* An update of the package changes at least one of these. */
static int identify_program(struct kelpie_os *os, const char *path, struct kelpie_hash *hash,
                            struct kelpie_error *error) {
    struct kelpie_os_stat stat;
    int status = kelpie__os_stat(os, KELPIE_OS_CWD, path, true, &stat);
    KELPIE_ASSERT(path[0] == '/');
    if (status < 0) {
        return kelpie__fail(error, KELPIE_E_UNAVAILABLE, -status, "look at \"%s\"", path);
    }
    kelpie__hash_u64(hash, stat.device);
    kelpie__hash_u64(hash, stat.inode);
    kelpie__hash_u64(hash, stat.size_bytes);
    kelpie__hash_u64(hash, (uint64_t)stat.modified_ns);
    kelpie__hash_u64(hash, (uint64_t)stat.changed_ns);
    return 0;
}

/* The rate of the time-stamp counter is left out: it is measured anew on each boot of the host, and
 * a restore compares it with some tolerance. */
static int identify_arguments(struct kelpie_os *os, const struct kelpie_vmm_spec *spec,
                              const char *program, enum kelpie_vmm_accelerator accelerator,
                              struct kelpie_hash *hash, struct kelpie_error *error) {
    KELPIE_ASSERT(accelerator != KELPIE_VMM_ACCELERATOR_AUTO);
    KELPIE_ASSERT(program[0] == '/');
    struct kelpie_vmm_spec neutral = *spec;
    struct kelpie_qemu_arguments *arguments = kelpie__alloc(os, sizeof(*arguments));
    if (arguments == NULL) {
        return kelpie__fail(error, KELPIE_E_MEMORY, 0, "no memory for QEMU's arguments");
    }
    neutral.vm_directory = "/";
    const struct kelpie_qemu_arguments_input input = {.spec = &neutral,
                                                      .program = program,
                                                      .accelerator = accelerator,
                                                      .kernel_kind = spec->kernel_kind,
                                                      .base = KELPIE_OS_NO_HANDLE,
                                                      .qmp = IDENTIFY_HANDLE,
                                                      .agent = IDENTIFY_HANDLE + 1,
                                                      .console = IDENTIFY_HANDLE + 2};
    int status = kelpie__qemu_arguments_build(arguments, &input, error);
    for (uint32_t i = 0; i < arguments->count && status == 0; i += 1) {
        kelpie__hash_text(hash, arguments->values[i]);
    }
    kelpie__free(os, arguments, sizeof(*arguments));
    return status;
}

int kelpie__qemu_identify(struct kelpie_os *os, const struct kelpie_vmm_spec *spec,
                          struct kelpie_hash *hash, struct kelpie_error *error) {
    char program[KELPIE_PATH_BYTES_MAX];
    char cpu[sizeof(((struct kelpie_vmm_description *)NULL)->cpu)];
    struct kelpie_accel accel;
    KELPIE_ASSERT(spec->restore == NULL);
    KELPIE_ASSERT(spec->cpu_count > 0);
    int status = kelpie__qemu_program_find(os, program, sizeof(program), error);
    if (status == 0) {
        status = identify_program(os, program, hash, error);
    }
    if (status == 0) {
        status = kelpie__accel_choose(os, spec->cache_directory, program, spec->accelerator, &accel,
                                      error);
    }
    if (status < 0) {
        return status;
    }
    kelpie__ignore(kelpie__accel_cpu(os, accel.accelerator, cpu, sizeof(cpu)));
    kelpie__hash_text(hash, cpu);
    return identify_arguments(os, spec, program, accel.accelerator, hash, error);
}
