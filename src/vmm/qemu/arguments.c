/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Builds QEMU's argument vector: see arguments.h. No system call, no allocation. The order of the
 * -device arguments is part of the format of later snapshots: append, never insert.
 */
#include "vmm/qemu/arguments.h"

#include <stdarg.h>
#include <string.h>

#include "core/text.h"

/* TCG's buffer of translated code. The default is an eighth of the guest's memory at most 1 GiB;
 * translated code is private memory of each VM, and a shell's working set stays far below this. */
#define ARGUMENTS_TCG_BUFFER_MIB 128u

/* CONFIG_HZ of the distribution's kernels and of ours: turns kHz into loops per jiffy. */
#define ARGUMENTS_GUEST_HZ 250u

static void arguments_check(const struct kelpie_qemu_arguments *arguments) {
    KELPIE_ASSERT(arguments->count <= KELPIE_QEMU_ARGUMENT_COUNT_MAX);
    KELPIE_ASSERT(arguments->used_bytes <= sizeof(arguments->text));
    KELPIE_ASSERT(arguments->values[arguments->count] == NULL);
}

static size_t arguments_room(const struct kelpie_qemu_arguments *arguments) {
    arguments_check(arguments);
    return sizeof(arguments->text) - arguments->used_bytes;
}

/* Adds what stands at the end of the text, if it fitted there. A vector that is full stays full;
 * the end of the build reports it. */
static void arguments_take(struct kelpie_qemu_arguments *arguments, size_t length) {
    if (length >= arguments_room(arguments) || arguments->count == KELPIE_QEMU_ARGUMENT_COUNT_MAX) {
        arguments->is_full = true;
        return;
    }
    arguments->values[arguments->count] = arguments->text + arguments->used_bytes;
    arguments->count += 1;
    arguments->used_bytes += length + 1;
    arguments_check(arguments);
}

static void arguments_add_word(struct kelpie_qemu_arguments *arguments, const char *word) {
    size_t length = strlen(word);
    if (length < arguments_room(arguments)) {
        memcpy(arguments->text + arguments->used_bytes, word, length + 1);
    }
    arguments_take(arguments, length);
}

KELPIE_PRINTF(2, 3)
static void arguments_add(struct kelpie_qemu_arguments *arguments, const char *format, ...) {
    char *place = arguments->text + arguments->used_bytes;
    va_list list;
    va_start(list, format);
    size_t length = kelpie__text_format_list(place, arguments_room(arguments), format, list);
    va_end(list);
    arguments_take(arguments, length);
}

/* Continues the last argument with a value of QEMU's key=value syntax, where a comma is written
 * twice. */
static void arguments_append_value(struct kelpie_qemu_arguments *arguments, const char *value) {
    KELPIE_ASSERT(arguments->count > 0 || arguments->is_full);
    if (arguments->is_full) {
        return;
    }
    size_t at = arguments->used_bytes - 1; /* over the last argument's terminator */
    KELPIE_ASSERT(arguments->text[at] == '\0');
    for (const char *next = value; *next != '\0'; next += 1) {
        size_t needed = *next == ',' ? 2 : 1;
        if (at + needed + 1 > sizeof(arguments->text)) {
            arguments->is_full = true;
            return;
        }
        arguments->text[at] = *next;
        arguments->text[at + needed - 1] = *next;
        at += needed;
    }
    arguments->text[at] = '\0';
    arguments->used_bytes = at + 1;
}

const char *kelpie__qemu_machine_name(enum kelpie_vmm_kernel kernel_kind) {
    return kernel_kind == KELPIE_VMM_KERNEL_OWN ? "microvm,acpi=off,rtc=on"
                                                : "microvm,acpi=on,rtc=on";
}

/* A booted VM's private memory lies over nothing at all: anonymous pages are found in the page map
 * as well as a file's private ones, and there is no file in which reading a hole would allocate a
 * page. The saved device state holds no memory section, so a restore lays a private mapping of the
 * base in its place. QEMU opens that for writing, and would punch holes into it for a balloon:
 * never add one to a machine over a base. */
static void arguments_add_memory(struct kelpie_qemu_arguments *arguments,
                                 const struct kelpie_qemu_arguments_input *input) {
    arguments_add_word(arguments, "-object");
    if (input->base == KELPIE_OS_NO_HANDLE) {
        arguments_add(arguments, "memory-backend-ram,id=memory,size=%uM", input->spec->memory_mib);
    } else {
        KELPIE_ASSERT(input->base > 2);
        arguments_add(arguments,
                      "memory-backend-file,id=memory,size=%uM,mem-path=/proc/self/fd/%d,share=off",
                      input->spec->memory_mib, input->base);
    }
}

/* The state of xen-save-devices-state has neither a section of the configuration nor a description
 * at its end. -S: it arrives paused, whatever it was. The kernel is in the guest's memory. */
static void arguments_add_incoming(struct kelpie_qemu_arguments *arguments) {
    KELPIE_ASSERT(arguments->count > 0);
    arguments_add_word(arguments, "-S");
    arguments_add_word(arguments, "-incoming");
    arguments_add_word(arguments, "defer");
    arguments_add_word(arguments, "-global");
    arguments_add_word(arguments, "migration.send-configuration=off");
    /* A word when all is loaded: a property, so that QMP need not be asked for it. */
    arguments_add_word(arguments, "-global");
    arguments_add_word(arguments, "migration.x-events=on");
}

static void arguments_add_machine(struct kelpie_qemu_arguments *arguments,
                                  const struct kelpie_qemu_arguments_input *input) {
    const struct kelpie_vmm_spec *spec = input->spec;
    arguments_add_word(arguments, "-nodefaults");
    arguments_add_word(arguments, "-no-user-config");
    arguments_add_word(arguments, "-display");
    arguments_add_word(arguments, "none");
    /* A reset ends the VM: the SHUTDOWN event tells it from a power-off. */
    arguments_add_word(arguments, "-no-reboot");
    arguments_add_word(arguments, "-sandbox");
    arguments_add(arguments, "on,obsolete=deny,elevateprivileges=deny,spawn=deny,"
                             "resourcecontrol=deny");
    arguments_add_word(arguments, "-name");
    arguments_add_word(arguments, "guest=");
    arguments_append_value(arguments, spec->vm_directory);
    arguments_add_word(arguments, "-M");
    arguments_add(arguments, "%s,memory-backend=memory%s",
                  kelpie__qemu_machine_name(input->kernel_kind),
                  input->base != KELPIE_OS_NO_HANDLE ? ",suppress-vmdesc=on" : "");
    arguments_add_memory(arguments, input);
    arguments_add_word(arguments, "-m");
    arguments_add(arguments, "%u", spec->memory_mib);
    arguments_add_word(arguments, "-smp");
    arguments_add(arguments, "%u", spec->cpu_count);
    /* Modern virtio: vhost-user devices need it, and it is part of the saved state's format. */
    arguments_add_word(arguments, "-global");
    arguments_add_word(arguments, "virtio-mmio.force-legacy=false");
    arguments_add_word(arguments, "-accel");
    if (input->accelerator == KELPIE_VMM_ACCELERATOR_KVM) {
        arguments_add_word(arguments, "kvm");
    } else {
        arguments_add(arguments, "tcg,thread=multi,tb-size=%u", ARGUMENTS_TCG_BUFFER_MIB);
    }
    arguments_add_word(arguments, "-cpu");
    arguments_add(arguments, "%s",
                  input->accelerator == KELPIE_VMM_ACCELERATOR_KVM ? "host" : "max");
}

/* What makes the boot short (findings.md, "Boot"). mitigations=off and nokaslr stay with TCG, which
 * runs no guest instruction speculatively, so that they cost without protecting; under KVM the
 * guest's own choice stands. */
static void arguments_add_kernel(struct kelpie_qemu_arguments *arguments,
                                 const struct kelpie_qemu_arguments_input *input) {
    arguments_add_word(arguments, "-kernel");
    arguments_add(arguments, "%s", input->spec->kernel);
    arguments_add_word(arguments, "-initrd");
    arguments_add(arguments, "%s", input->spec->initramfs);
    arguments_add_word(arguments, "-append");
    const char *common = "console=ttyS0 quiet panic=-1 reboot=t no_timer_check random.trust_cpu=on "
                         "noreplace-smp cryptomgr.notests pci=off";
    if (input->guest_cid != 0) { /* process 1 finds it in its environment */
        arguments_add(arguments, "%s KELPIE_PORT=%u", common, input->agent_port);
        return;
    }
    if (input->accelerator == KELPIE_VMM_ACCELERATOR_KVM) {
        arguments_add(arguments, "%s", common);
        return;
    }
    /* lapic_timer_hz is known to our own kernel (kernel/lapic-timer-hz.patch): QEMU's timer is
     * always as fast, and measuring it takes a third of the boot. The bits are ERMS and FSRM: with
     * them a kernel clears a page by "rep stosb", which TCG does byte by byte; that was a fifth of
     * what a short command executes. */
    const char *tcg = input->kernel_kind == KELPIE_VMM_KERNEL_OWN
                          ? "tsc=reliable mitigations=off nokaslr lapic_timer_hz=1000000000"
                          : "tsc=reliable mitigations=off nokaslr clearcpuid=297,580";
    if (input->tsc_khz == 0) {
        arguments_add(arguments, "%s %s", common, tcg);
        return;
    }
    uint64_t loops_per_jiffy = input->tsc_khz * 1000u / ARGUMENTS_GUEST_HZ;
    arguments_add(arguments, "%s %s tsc_early_khz=%llu lpj=%llu", common, tcg,
                  (unsigned long long)input->tsc_khz, (unsigned long long)loops_per_jiffy);
}

static void arguments_add_agent(struct kelpie_qemu_arguments *arguments,
                                const struct kelpie_qemu_arguments_input *input) {
    if (input->guest_cid != 0) { /* of KVM alone: QEMU's transport gives a vhost no doorbell else */
        KELPIE_ASSERT(input->accelerator == KELPIE_VMM_ACCELERATOR_KVM);
        arguments_add_word(arguments, "-device");
        arguments_add(arguments, "vhost-vsock-device,guest-cid=%u,vhostfd=%d", input->guest_cid,
                      input->agent);
        return;
    }
    arguments_add_word(arguments, "-chardev");
    arguments_add(arguments, "socket,id=agent,fd=%d", input->agent);
    arguments_add_word(arguments, "-device");
    arguments_add_word(arguments, "virtio-serial-device,max_ports=2");
    arguments_add_word(arguments, "-device");
    arguments_add_word(arguments, "virtserialport,chardev=agent,name=org.kelpie.agent");
}

static void arguments_add_channels(struct kelpie_qemu_arguments *arguments,
                                   const struct kelpie_qemu_arguments_input *input) {
    KELPIE_ASSERT(input->qmp > 2 && input->agent > 2 && input->console > 2);
    KELPIE_ASSERT(input->qmp != input->agent && input->agent != input->console);
    arguments_add_word(arguments, "-chardev");
    arguments_add(arguments, "socket,id=qmp,fd=%d", input->qmp);
    arguments_add_word(arguments, "-mon");
    arguments_add_word(arguments, "chardev=qmp,mode=control");
    arguments_add_word(arguments, "-chardev");
    arguments_add(arguments, "socket,id=console,fd=%d", input->console);
    arguments_add_word(arguments, "-serial");
    arguments_add_word(arguments, "chardev:console");
    arguments_add_agent(arguments, input);
}

static void arguments_add_disk(struct kelpie_qemu_arguments *arguments,
                               const struct kelpie_vmm_disk *disk, uint32_t index) {
    KELPIE_ASSERT(disk->path[0] == '/');
    KELPIE_ASSERT(disk->serial[0] != '\0');
    /* discard on both nodes, so that what the guest trims is given back to the host.
     * auto-read-only=off: an image that cannot be written is an error now, not in the guest later.
     */
    const char *access =
        disk->is_read_only ? "read-only=on" : "read-only=off,auto-read-only=off,discard=unmap";
    arguments_add_word(arguments, "-blockdev");
    arguments_add(arguments, "driver=file,node-name=file%u,%s,filename=", index, access);
    arguments_append_value(arguments, disk->path);
    arguments_add_word(arguments, "-blockdev");
    arguments_add(arguments, "driver=%s,node-name=disk%u,%s,file=file%u",
                  disk->format == KELPIE_VMM_DISK_QCOW2 ? "qcow2" : "raw", index, access, index);
    /* report: a full or failing host disk is an error in the guest. The default would stop the
     * whole VM. */
    arguments_add_word(arguments, "-device");
    arguments_add(arguments, "virtio-blk-device,drive=disk%u,serial=%s,werror=report,rerror=report",
                  index, disk->serial);
}

int kelpie__qemu_arguments_build(struct kelpie_qemu_arguments *arguments,
                                 const struct kelpie_qemu_arguments_input *input,
                                 struct kelpie_error *error) {
    KELPIE_ASSERT(input->accelerator != KELPIE_VMM_ACCELERATOR_AUTO);
    KELPIE_ASSERT(input->spec->disk_count <= KELPIE_VMM_DISK_COUNT_MAX);
    memset(arguments->values, 0, sizeof(arguments->values));
    arguments->count = 0;
    arguments->used_bytes = 0;
    arguments->is_full = false;
    arguments_add(arguments, "%s", input->program);
    arguments_add_machine(arguments, input);
    if (input->base == KELPIE_OS_NO_HANDLE) {
        arguments_add_kernel(arguments, input);
    } else {
        arguments_add_incoming(arguments);
    }
    arguments_add_channels(arguments, input);
    for (uint32_t i = 0; i < input->spec->disk_count; i += 1) {
        arguments_add_disk(arguments, &input->spec->disks[i], i);
    }
    arguments_check(arguments);
    if (arguments->is_full) {
        return kelpie__fail(error, KELPIE_E_LIMIT, 0,
                            "the arguments of QEMU exceed %u bytes; use shorter paths",
                            KELPIE_QEMU_ARGUMENT_BYTES_MAX);
    }
    return 0;
}
