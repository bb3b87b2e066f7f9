/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Goal: what QEMU does in its own way where the agent's channel is the kernel's vsock, and what it
 * cannot do then, which is refused by name. Method: a real /dev/vhost-vsock and a KVM that works:
 * tests/nested.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "contract.h"

/* The CID that a VM's QEMU was started with. */
static unsigned long long guest_cid(struct kelpie_vm *vm) {
    struct kelpie_vm_info info = contract_inspect(vm);
    char command[128];
    unsigned long long cid = 0;
    snprintf(command, sizeof(command),
             "tr '\\0' '\\n' </proc/%d/cmdline | sed -n 's/.*guest-cid=\\([0-9]*\\).*/\\1/p'",
             info.vmm_pid);
    FILE *stream = popen(command, "re");
    HARNESS_CHECK(stream != NULL, "%s", command);
    int found = fscanf(stream, "%llu", &cid);
    pclose(stream);
    HARNESS_CHECK(found == 1 && cid > 2, "%s", command);
    return cid;
}

/* The guest's state is in the host's kernel, too: said by name, and the VM goes on. */
static void test_vsock_unsupported(const struct harness *harness) {
    contract_has_no_snapshots(harness, "channel");
}

/* Each guest has an address of its own, and there is no port of QEMU's besides. */
static void test_vsock_two(const struct harness *harness) {
    struct contract contract = contract_open(harness);
    struct kelpie_vm *one = contract_start_durable(&contract, "one");
    struct kelpie_vm *two = contract_start_durable(&contract, "two");
    HARNESS_CHECK(guest_cid(one) != guest_cid(two), "both have %llu", guest_cid(one));
    contract_sh_says(one, "ls /dev/vport* 2>/dev/null; true", "");
    contract_end_apart(one, two);
    contract_close(&contract);
}

static void on_check(void *context, const struct kelpie_check *check) {
    bool *opens = context;
    bool is_vsock = strcmp(check->name, "vsock") == 0;
    *opens = *opens || (is_vsock && strstr(check->detail, "/dev/vhost-vsock opens") != NULL);
}

/* Doctor says so where the device opens, as it does here. */
static void test_vsock_doctor(const struct harness *harness) {
    struct contract contract = contract_open(harness);
    bool opens = false;
    CONTRACT_OK(kelpie_doctor(contract.kelpie, false, on_check, &opens, &broken));
    HARNESS_CHECK(opens, "doctor says that the device opens");
    contract_close(&contract);
}

int main(int argc, char **argv) {
    static const struct harness_test tests[] = {
        {"vsock_unsupported", test_vsock_unsupported, 60},
        {"vsock_two", test_vsock_two, 60},
        {"vsock_doctor", test_vsock_doctor, 60},
    };
    const struct harness_suite suite = {
        .name = "vsock", .tests = tests, .test_count = sizeof(tests) / sizeof(tests[0])};
    return harness_main(argc, argv, &suite);
}
