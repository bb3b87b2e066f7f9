/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Goal: what libkrun does in its own way, and what it cannot do, which is refused by name. Method:
 * the real library, which the environment names (KELPIE_LIBKRUN, KELPIE_LIBKRUNFW), on a KVM that
 * works: tests/nested.
 */
#define _GNU_SOURCE /* unshare */
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "contract.h"

static void test_krun_unsupported(const struct harness *harness) {
    contract_has_no_snapshots(harness, "krun");
}

/* The staged root of a library before 1.18 is the guest's to mount, and stays as it was: nothing is
 * made in it and nothing of it changed. A later one shows the guest nothing of this host. */
static void test_krun_staged_root(const struct harness *harness) {
    struct contract contract = contract_open(harness);
    struct kelpie_vm *vm = contract_start_durable(&contract, "one");
    struct contract_result result =
        contract_sh(vm,
                    "mkdir /tmp/x && mount -t virtiofs /dev/root /tmp/x && cd /tmp/x || exit 1; "
                    "ls -d agent init.krun 2>/dev/null; "
                    "touch evil && echo touched; mkdir evil && echo made; "
                    "chmod 0 . && echo changed; chmod 4777 agent && echo changed; "
                    "chown 1 agent && echo given; touch -d 2001-01-01 agent && echo dated; "
                    "rm agent && echo removed; echo x >>agent && echo written; echo end",
                    0);
    HARNESS_CHECK(result.status == 0, "%s", result.error.message);
    bool is_staged = strcmp(result.exec.stdout_bytes, "agent\nend\n") == 0;
    HARNESS_CHECK(is_staged || strcmp(result.exec.stdout_bytes, "init.krun\nend\n") == 0, "%s%s",
                  result.exec.stdout_bytes, result.exec.stderr_bytes);
    contract_release(&result);
    contract_host(
        "test $(stat -c %%a '%s/vms/one/krun-root') = 755 && cmp '%s/vms/one/krun-root/agent' "
        "'%s/kelpie-agent'",
        harness->state_directory, harness->state_directory, harness->libexec_directory);
    contract_end(vm);
    contract_close(&contract);
}

/* The VM's own process: what it may no longer become, and what stands still when it is paused. */
static void test_krun_process(const struct harness *harness) {
    struct contract contract = contract_open(harness);
    struct kelpie_vm *vm = contract_start_durable(&contract, "one");
    struct kelpie_vm_info info = contract_inspect(vm);
    contract_host(
        "grep -q '^NoNewPrivs:.1' /proc/%d/status && grep -q '^Seccomp:.2' /proc/%d/status",
        info.vmm_pid, info.vmm_pid);
    HARNESS_CHECK(strcmp(info.pause, "freezer") == 0, "it pauses by %s", info.pause);
    CONTRACT_OK(kelpie_vm_pause(vm, &broken));
    /* A stray SIGCONT, which would undo a SIGSTOP, changes nothing. */
    contract_host("kill -CONT %d && cgroup=/sys/fs/cgroup$(sed -n 's/^0:://p' /proc/%d/cgroup) && "
                  "grep -q 'frozen 1' \"$cgroup/cgroup.events\" && "
                  "before=$(cut -d ' ' -f 14,15 /proc/%d/stat) && sleep 1 && "
                  "test \"$before\" = \"$(cut -d ' ' -f 14,15 /proc/%d/stat)\"",
                  info.vmm_pid, info.vmm_pid, info.vmm_pid, info.vmm_pid);
    CONTRACT_OK(kelpie_vm_resume(vm, &broken));
    contract_sh_says(vm, "echo goes on", "goes on\n");
    contract_host(
        "! ls -d /sys/fs/cgroup/kelpie-krun-* /sys/fs/cgroup/*/kelpie-krun-* 2>/dev/null");
    contract_end(vm);
    contract_close(&contract);
}

/* Where no cgroup can be made: every thread is stopped, and goes on. */
static void test_krun_pause_by_signal(const struct harness *harness) {
    HARNESS_CHECK(unshare(CLONE_NEWNS) == 0, "a mount namespace of its own");
    contract_host("mount --make-rprivate / && mount -t tmpfs none /sys/fs/cgroup");
    struct contract contract = contract_open(harness);
    struct kelpie_vm *vm = contract_start(&contract);
    struct kelpie_vm_info info = contract_inspect(vm);
    HARNESS_CHECK(strcmp(info.pause, "stop") == 0, "it pauses by %s", info.pause);
    CONTRACT_OK(kelpie_vm_pause(vm, &broken));
    contract_host("cat /proc/%d/task/*/stat | sed 's/.*) //' | cut -c 1 | sort -u | tr -d '\n' | "
                  "grep -qx T",
                  info.vmm_pid);
    CONTRACT_OK(kelpie_vm_resume(vm, &broken));
    contract_sh_says(vm, "echo goes on", "goes on\n");
    contract_end(vm);
    contract_close(&contract);
}

/* Both guests dial the same port of the same host; each reaches its own monitor. */
static void test_krun_two(const struct harness *harness) {
    struct contract contract = contract_open(harness);
    struct kelpie_vm *one = contract_start_durable(&contract, "one");
    struct kelpie_vm *two = contract_start_durable(&contract, "two");
    contract_end_apart(one, two);
    contract_close(&contract);
}

static void on_check(void *context, const struct kelpie_check *check) {
    bool *has_proof = context;
    if (strcmp(check->name, "kvm") == 0 || strcmp(check->name, "libkrun") == 0) {
        HARNESS_CHECK(check->status == KELPIE_CHECK_OK, "%s: %s", check->name, check->detail);
        HARNESS_CHECK(strstr(check->detail, "a guest booted") != NULL, "%s", check->detail);
    }
    *has_proof = *has_proof || strstr(check->detail, "pause by freezer") != NULL;
}

/* Doctor proves both by a guest, and says how a libkrun VM is paused. */
static void test_krun_doctor(const struct harness *harness) {
    struct contract contract = contract_open(harness);
    bool has_proof = false;
    CONTRACT_OK(kelpie_doctor(contract.kelpie, true, on_check, &has_proof, &broken));
    HARNESS_CHECK(has_proof, "libkrun is told, too");
    contract_close(&contract);
}

/* A socket's path may have 107 bytes; the directory's is longer. */
static void test_krun_long_path(const struct harness *harness) {
    char state[512];
    struct harness longer = *harness;
    int length = snprintf(state, sizeof(state), "%s/%0*d", harness->root_directory, 150, 0);
    HARNESS_CHECK(length > 150, "a long path");
    HARNESS_CHECK(mkdir(state, 0700) == 0, "%s", state);
    longer.state_directory = state;
    struct contract contract = contract_open(&longer);
    struct kelpie_vm *vm = contract_start_durable(&contract, "one");
    contract_sh_says(vm, "echo up", "up\n");
    contract_end(vm);
    contract_close(&contract);
}

/* A root that is not there is told when the VM is made. One without any program boots, since the
 * agent is ours: commands are not found, and the VM goes on. */
static void test_krun_bare_root(const struct harness *harness) {
    struct contract contract = contract_open(harness);
    struct kelpie_error error = {0};
    struct kelpie_vm *vm = NULL;
    char root[512];
    int length = snprintf(root, sizeof(root), "%s/root", harness->root_directory);
    HARNESS_CHECK(length > 0 && (size_t)length < sizeof(root), "a path");
    struct kelpie_config *config = contract_boot_config(&contract);
    kelpie_config_set_root(config, root);
    contract_fails(kelpie_vm_create(contract.kelpie, NULL, config, &vm, &error), &error,
                   KELPIE_E_ROOT_NOT_FOUND, "root");
    contract_host("mkdir -p '%s/dev' '%s/proc' '%s/sys' '%s/tmp' '%s/run' '%s/etc'", root, root,
                  root, root, root, root);
    vm = contract_create(&contract, NULL, config);
    CONTRACT_OK(kelpie_vm_start(vm, 0, &broken));
    for (unsigned i = 0; i < 2; i += 1) {
        struct contract_result result = contract_sh(vm, "true", 0);
        HARNESS_CHECK(result.status == KELPIE_E_EXEC_NOT_FOUND, "%s", result.error.message);
        contract_release(&result);
    }
    contract_state_is(vm, KELPIE_VM_RUNNING);
    contract_end(vm);
    contract_host("rm -r '%s'", root);
    contract_close(&contract);
}

/* Programs as they are, but for the agent: what this command makes in its place. */
static struct harness krun_other_agent(const struct harness *harness, char path[512],
                                       const char *command) {
    struct harness other = *harness;
    int length = snprintf(path, 512, "%s/programs", harness->root_directory);
    HARNESS_CHECK(length > 0 && length < 512, "a path");
    contract_host("mkdir '%s' && cd '%s' && cp kelpie-monitor kelpie-pack kelpie-krun '%s' && "
                  "cd '%s' && %s && chmod 755 kelpie-agent",
                  path, harness->libexec_directory, path, path, command);
    other.libexec_directory = path;
    return other;
}

/* A guest that is up and never says hello is a boot timeout, with what its console said last. A
 * slow host may take longer to say anything. */
static void test_krun_silent_guest(const struct harness *harness) {
    static const uint64_t timeouts_ms[] = {12000, 60000};
    char path[512];
    bool has_tail = false;
    struct kelpie_error error = {0};
    struct harness other =
        krun_other_agent(harness, path, "cp \"$KELPIE_TEST_PROGRAMS/mute-agent\" kelpie-agent");
    struct contract contract = contract_open(&other);
    for (size_t i = 0; i < sizeof(timeouts_ms) / sizeof(timeouts_ms[0]) && !has_tail; i += 1) {
        struct kelpie_config *config = contract_boot_config(&contract);
        kelpie_config_set_boot_timeout_ms(config, timeouts_ms[i]);
        struct kelpie_vm *vm = contract_create(&contract, NULL, config);
        contract_fails(kelpie_vm_start(vm, 0, &error), &error, KELPIE_E_BOOT_TIMEOUT,
                       "the console ends with");
        has_tail = strstr(error.message, "mute: up, and silent") != NULL;
        contract_state_is(vm, KELPIE_VM_CREATED);
        contract_end(vm);
    }
    HARNESS_CHECK(has_tail, "%s", error.message);
    contract_close(&contract);
    contract_host("rm -r '%s'", path);
}

/* A first root from which nothing can be started: libkrun exits with 0, and that is a boot that
 * failed. */
static void test_krun_wrong_root(const struct harness *harness) {
    char path[512];
    struct kelpie_error error = {0};
    struct harness other = krun_other_agent(harness, path, "echo not a program >kelpie-agent");
    struct contract contract = contract_open(&other);
    struct kelpie_vm *vm = contract_create(&contract, NULL, contract_boot_config(&contract));
    contract_fails(kelpie_vm_start(vm, 0, &error), &error, KELPIE_E_BOOT,
                   "the VM ended before its agent said hello");
    HARNESS_CHECK(strstr(error.message, "exited with code 0") != NULL, "%s", error.message);
    contract_state_is(vm, KELPIE_VM_CREATED);
    contract_end(vm);
    contract_close(&contract);
    contract_host("rm -r '%s'", path);
}

/* Output that nobody takes any more fills all there is between the command and us; the VM is
 * stopped in order all the same. */
static void test_krun_unread_output(const struct harness *harness) {
    static const char *const argv[] = {"cat", "/dev/zero", NULL};
    const struct kelpie_exec_options options = {.struct_size = sizeof(options), .argv = argv};
    struct contract contract = contract_open(harness);
    struct kelpie_vm *vm = contract_start_durable(&contract, "one");
    struct kelpie_exec *exec = NULL;
    struct kelpie_stop_result stopped = {0};
    CONTRACT_OK(kelpie_vm_exec_start(vm, &options, NULL, NULL, &exec, &broken));
    kelpie_exec_pause_output(exec);
    uint64_t until_ms = harness_now_ms() + 1500;
    while (harness_now_ms() < until_ms) {
        CONTRACT_OK(kelpie_wait(contract.kelpie, 100, &broken));
    }
    CONTRACT_OK(kelpie_vm_stop(vm, 10000 * harness->limit_factor, &stopped, &broken));
    kelpie_exec_close(exec);
    contract_state_is(vm, KELPIE_VM_STOPPED);
    contract_end(vm);
    contract_close(&contract);
}

/* Without QEMU auto takes libkrun; that a guest booted with it here is known from then on. */
static void test_krun_auto(const struct harness *harness) {
    setenv("KELPIE_QEMU", "/no/such/qemu", 1);
    struct contract contract = contract_open(harness);
    bool is_proved = false;
    for (unsigned i = 0; i < 2 && !is_proved; i += 1) { /* another row may have been the first */
        struct kelpie_config *config = contract_boot_config(&contract);
        kelpie_config_set_backend(config, KELPIE_BACKEND_AUTO);
        struct kelpie_vm *vm = contract_create(&contract, NULL, config);
        CONTRACT_OK(kelpie_vm_start(vm, 0, &broken));
        struct kelpie_vm_info info = contract_inspect(vm);
        HARNESS_CHECK(strcmp(info.backend, "krun") == 0, "it runs on %s", info.backend);
        HARNESS_CHECK(strstr(info.backend_reason, "there is no QEMU") != NULL, "%s",
                      info.backend_reason);
        is_proved = strstr(info.backend_reason, "libkrun booted a guest on this host") != NULL;
        contract_end(vm);
    }
    HARNESS_CHECK(is_proved, "the second start knows of the first");
    contract_close(&contract);
}

/* A directory of the host that the guest writes to, and reads from: each sees what the other did.
 */
static void shares_writable(const struct harness *harness, const char *path) {
    struct contract contract = contract_open(harness);
    struct kelpie_error error = {0};
    struct kelpie_config *config = contract_boot_config(&contract);
    kelpie_config_add_share(config, path, "/srv/work", NULL, false);
    struct kelpie_vm *vm = contract_create(&contract, NULL, config);
    CONTRACT_OK(kelpie_vm_start(vm, 0, &broken));
    contract_sh_says(vm,
                     "cd /srv/work && cat given && mkdir one two && echo guest >one/made && "
                     "mv one/made two/moved && rmdir one && rm given && cat two/moved",
                     "host\nguest\n");
    contract_host("test \"$(cat '%s/two/moved')\" = guest && test ! -e '%s/given' && "
                  "test ! -e '%s/one' && echo later >'%s/two/moved'",
                  path, path, path, path);
    contract_sh_says(vm, "cat /srv/work/two/moved; rm -r /srv/work/two", "later\n");
    contract_fails(kelpie_vm_snapshot(vm, NULL, NULL, &error), &error, KELPIE_E_UNSUPPORTED,
                   "shares directories");
    contract_end(vm);
    contract_close(&contract);
}

/* As many as libkrun has room for beside a disk, each at its own place. */
static void shares_most(const struct harness *harness, const char *path) {
    struct contract contract = contract_open(harness);
    struct kelpie_config *config = contract_boot_config(&contract);
    char host[600];
    char guest[32];
    for (unsigned i = 0; i < 5; i += 1) {
        snprintf(host, sizeof(host), "%s/%u", path, i);
        snprintf(guest, sizeof(guest), "/srv/%u", i);
        contract_host("mkdir '%s' && echo %u >'%s/me'", host, i, host);
        kelpie_config_add_share(config, host, guest, NULL, false);
    }
    struct kelpie_vm *vm = contract_create(&contract, NULL, config);
    CONTRACT_OK(kelpie_vm_start(vm, 0, &broken));
    contract_sh_says(vm, "cat /srv/*/me", "0\n1\n2\n3\n4\n");
    contract_end(vm);
    contract_host("rm -r '%s'/[0-4]", path);
    contract_close(&contract);
}

/* A place that cannot be mounted on is known in the guest alone: the start fails, and says which.
 */
static void shares_nowhere(const struct harness *harness, const char *path) {
    struct contract contract = contract_open(harness);
    struct kelpie_error error = {0};
    struct kelpie_config *config = contract_boot_config(&contract);
    kelpie_config_add_share(config, path, "/bin/busybox/work", NULL, false);
    struct kelpie_vm *vm = contract_create(&contract, NULL, config);
    contract_fails(kelpie_vm_start(vm, 0, &error), &error, KELPIE_E_SHARE, "/bin/busybox");
    contract_state_is(vm, KELPIE_VM_CREATED);
    contract_end(vm);
    contract_close(&contract);
}

/* Read-only is enforced, or refused by a library that cannot. */
static void shares_read_only(const struct harness *harness, const char *path) {
    struct contract contract = contract_open(harness);
    struct kelpie_error error = {0};
    struct kelpie_config *config = contract_boot_config(&contract);
    kelpie_config_add_share(config, path, "/srv/work", NULL, true);
    struct kelpie_vm *vm = contract_create(&contract, NULL, config);
    int status = kelpie_vm_start(vm, 0, &error);
    if (status < 0) {
        contract_fails(status, &error, KELPIE_E_UNAVAILABLE, "no krun_add_virtiofs3");
        contract_state_is(vm, KELPIE_VM_CREATED);
    } else {
        /* A mount of the guest's own is no way around it. */
        contract_sh_says(vm,
                         "cat /srv/work/given; touch /srv/work/x 2>&1 | grep -o Read-only; "
                         "mkdir /tmp/x && mount -t virtiofs share0 /tmp/x && "
                         "{ echo evil >/tmp/x/given || rm /tmp/x/given || mkdir /tmp/x/y; } "
                         "2>/dev/null || echo refused",
                         "host\nRead-only\nrefused\n");
        contract_host("test \"$(ls '%s')\" = given && test \"$(cat '%s/given')\" = host", path,
                      path);
    }
    contract_end(vm);
    contract_close(&contract);
}

static void test_krun_shared_directory(const struct harness *harness) {
    char path[512];
    int length = snprintf(path, sizeof(path), "%s/shared", harness->root_directory);
    HARNESS_CHECK(length > 0 && (size_t)length < sizeof(path), "a path");
    contract_host("mkdir '%s' && echo host >'%s/given'", path, path);
    shares_read_only(harness, path);
    shares_nowhere(harness, path);
    shares_writable(harness, path);
    shares_most(harness, path);
    contract_host("rmdir '%s'", path);
}

static unsigned descriptors_of(int pid) {
    char command[64];
    unsigned count = 0;
    snprintf(command, sizeof(command), "ls /proc/%d/fd | wc -l", pid);
    FILE *stream = popen(command, "re");
    HARNESS_CHECK(stream != NULL, "%s", command);
    int found = fscanf(stream, "%u", &count);
    pclose(stream);
    HARNESS_CHECK(found == 1, "%s", command);
    return count;
}

/* Starts and stops in a row: neither the monitor nor the library nor the VM's directory keeps
 * anything of them; the harness looks for processes, sockets and files. */
static void test_krun_again(const struct harness *harness) {
    struct contract contract = contract_open(harness);
    struct kelpie_config *config = contract_boot_config(&contract);
    kelpie_config_set_ephemeral(config, false);
    struct kelpie_vm *vm = contract_create(&contract, "one", config);
    uint32_t count = harness_count(harness, 100);
    unsigned own = 0;
    unsigned monitor = 0;
    for (uint32_t i = 0; i < count; i += 1) {
        struct kelpie_stop_result stopped = {0};
        CONTRACT_OK(kelpie_vm_start(vm, 0, &broken));
        struct kelpie_vm_info info = contract_inspect(vm);
        unsigned now = descriptors_of(info.monitor_pid);
        HARNESS_CHECK(i == 0 || now <= monitor, "start %u: the monitor has %u descriptors", i, now);
        monitor = now;
        now = descriptors_of(getpid());
        HARNESS_CHECK(i == 0 || now <= own, "start %u: the library has %u descriptors", i, now);
        own = now;
        CONTRACT_OK(kelpie_vm_stop(vm, 0, &stopped, &broken));
        HARNESS_CHECK(stopped.was_graceful, "start %u: it went by itself", i);
    }
    contract_host("test ! -e '%s/vms/one/krun' && test ! -e '%s/vms/one/krun-root'",
                  harness->state_directory, harness->state_directory);
    contract_end(vm);
    contract_close(&contract);
}

/* Kelpie's own kernel in the place of libkrunfw's, which KELPIE_TEST_KERNEL names. */
static void test_krun_own_kernel(const struct harness *harness) {
    const char *kernel = getenv("KELPIE_TEST_KERNEL");
    HARNESS_CHECK(kernel != NULL, "KELPIE_TEST_KERNEL is not set");
    struct contract contract = contract_open(harness);
    struct kelpie_config *config = contract_boot_config(&contract);
    kelpie_config_set_kernel(config, kernel);
    kelpie_config_set_ephemeral(config, false);
    struct kelpie_vm *vm = contract_create(&contract, "one", config);
    CONTRACT_OK(kelpie_vm_start(vm, 0, &broken));
    struct kelpie_vm_info info = contract_inspect(vm);
    HARNESS_CHECK(strcmp(info.kernel, kernel) == 0, "inspect says %s", info.kernel);
    contract_sh_says(vm,
                     "grep -c '(kelpie@kelpie)' /proc/version; echo $$ >/tmp/x; cat /tmp/x | wc -l",
                     "1\n1\n");
    CONTRACT_OK(kelpie_vm_pause(vm, &broken));
    CONTRACT_OK(kelpie_vm_resume(vm, &broken));
    contract_sh_says(vm, "head -c 2000000 /dev/zero | wc -c", "2000000\n");
    contract_end(vm);
    contract_close(&contract);
}

int main(int argc, char **argv) {
    static const struct harness_test tests[] = {
        {"krun_unsupported", test_krun_unsupported, 60},
        {"krun_staged_root", test_krun_staged_root, 60},
        {"krun_process", test_krun_process, 60},
        {"krun_pause_by_signal", test_krun_pause_by_signal, 60},
        {"krun_two", test_krun_two, 60},
        {"krun_doctor", test_krun_doctor, 60},
        {"krun_long_path", test_krun_long_path, 60},
        {"krun_bare_root", test_krun_bare_root, 60},
        {"krun_silent_guest", test_krun_silent_guest, 120},
        {"krun_wrong_root", test_krun_wrong_root, 60},
        {"krun_unread_output", test_krun_unread_output, 60},
        {"krun_auto", test_krun_auto, 60},
        {"krun_shared_directory", test_krun_shared_directory, 60},
        {"krun_again", test_krun_again, 600},
        {"krun_own_kernel", test_krun_own_kernel, 60}, /* where there is one */
    };
    const size_t count = sizeof(tests) / sizeof(tests[0]);
    const struct harness_suite suite = {
        .name = "krun",
        .tests = tests,
        .test_count = getenv("KELPIE_TEST_KERNEL") != NULL ? count : count - 1,
    };
    return harness_main(argc, argv, &suite);
}
