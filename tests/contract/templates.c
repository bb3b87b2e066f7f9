/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Goal: templates (docs/templates.md). The second VM of a kind does not boot, is another VM all the
 * same, and knows nothing of the first; whatever else goes into a boot is another kind; and no VM
 * fails because of a template, whatever is wrong with that. Method: VMs that say where they came
 * from, files of templates that are looked at, changed and removed, and the test builds of the
 * programs under fault plans.
 */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "contract.h"

#define PATH_BYTES 4400u

static struct kelpie_config *template_config(struct contract *contract) {
    struct kelpie_config *config = contract_boot_config(contract);
    kelpie_config_set_template(config, true);
    return config;
}

static struct kelpie_vm *start(struct contract *contract, const char *name,
                               struct kelpie_config *config, const char *origin) {
    struct kelpie_vm *vm = contract_create(contract, name, config);
    CONTRACT_OK(kelpie_vm_start(vm, 0, &broken));
    struct kelpie_vm_info info = contract_inspect(vm);
    HARNESS_CHECK(strcmp(info.origin, origin) == 0, "it comes from \"%s\", not \"%s\" (%s)",
                  info.origin, origin, info.reason);
    return vm;
}

/* Starts one, lets it answer, and ends it. */
static void start_and_end(struct contract *contract, struct kelpie_config *config,
                          const char *origin) {
    struct kelpie_vm *vm = start(contract, NULL, config, origin);
    contract_sh_says(vm, "echo here", "here\n");
    contract_end(vm);
}

static void pass(struct contract *contract, const char *origin) {
    start_and_end(contract, template_config(contract), origin);
}

static void shell(const char *command) {
    HARNESS_CHECK(system(command) == 0, "%s", command);
}

/* The entries of the store whose names begin so; the last one's name. */
static unsigned entries(const struct contract *contract, const char *prefix, char out[256]) {
    char path[PATH_BYTES];
    unsigned count = 0;
    snprintf(path, sizeof(path), "%s/templates", contract->harness->state_directory);
    DIR *directory = opendir(path);
    if (directory == NULL) {
        return 0;
    }
    for (struct dirent *entry = readdir(directory); entry != NULL; entry = readdir(directory)) {
        bool is_found = strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0 &&
                        strncmp(entry->d_name, prefix, strlen(prefix)) == 0;
        if (is_found && out != NULL) {
            snprintf(out, 256, "%s", entry->d_name);
        }
        count += is_found ? 1 : 0;
    }
    closedir(directory);
    return count;
}

/* The directory of the only template. */
static void the_template(const struct contract *contract, char out[PATH_BYTES]) {
    char name[256] = "";
    unsigned count = entries(contract, "", name);
    HARNESS_CHECK(count == 1 && name[0] != '.', "%u templates, one is \"%s\"", count, name);
    snprintf(out, PATH_BYTES, "%s/templates/%s", contract->harness->state_directory, name);
}

static void ask(struct kelpie_vm *vm, const char *script, char *out, size_t capacity) {
    struct contract_result result = contract_sh(vm, script, 0);
    HARNESS_CHECK(result.status == 0, "%s: %s", script, result.error.message);
    snprintf(out, capacity, "%s", result.exec.stdout_bytes);
    out[strcspn(out, "\n")] = '\0';
    contract_release(&result);
}

/* Nothing stays that a prune does not remove. */
static void finish(struct contract *contract) {
    struct kelpie_prune_options all = {.struct_size = sizeof(all), .is_all = true};
    CONTRACT_OK(kelpie_prune(contract->kelpie, &all, NULL, &broken));
    HARNESS_CHECK(entries(contract, "", NULL) == 0, "something is left");
    contract_close(contract);
}

/* ---- what it is for -------------------------------------------------------------------------- */

static void test_template_identity(const struct harness *harness) {
    struct contract contract = contract_open(harness);
    static const char *const names[] = {"zebra-one", "zebra-two", "zebra-three"};
    static const char *const asked[] = {"hostname", "cat /etc/machine-id",
                                        "head -c 32 /dev/urandom | md5sum",
                                        "cat /proc/sys/kernel/random/uuid"};
    char answers[3][4][128];
    for (size_t i = 0; i < 3; i += 1) {
        struct kelpie_vm *vm =
            start(&contract, names[i], template_config(&contract), i == 0 ? "boot" : "template");
        for (size_t j = 0; j < 4; j += 1) {
            ask(vm, asked[j], answers[i][j], sizeof(answers[i][j]));
        }
        HARNESS_CHECK(strcmp(answers[i][0], names[i]) == 0, "host name %s", answers[i][0]);
        HARNESS_CHECK(strcmp(answers[i][1], kelpie_vm_id(vm)) == 0, "machine id %s of %s",
                      answers[i][1], kelpie_vm_id(vm));
        HARNESS_CHECK(contract_inspect(vm).parent[0] == '\0', "it has no parent");
        contract_sh_says(vm, "d=$(date +%s); test $d -gt 1700000000 && echo right", "right\n");
        contract_end(vm);
    }
    for (size_t j = 0; j < 4; j += 1) {
        HARNESS_CHECK(strcmp(answers[0][j], answers[1][j]) != 0 &&
                          strcmp(answers[0][j], answers[2][j]) != 0 &&
                          strcmp(answers[1][j], answers[2][j]) != 0,
                      "%s: %s, %s and %s", asked[j], answers[0][j], answers[1][j], answers[2][j]);
    }
    finish(&contract);
}

/* Nothing of the VM that it was made of is in it, in no file. */
static void test_template_is_nobody(const struct harness *harness) {
    struct contract contract = contract_open(harness);
    struct kelpie_config *config = template_config(&contract);
    char directory[PATH_BYTES];
    char command[4 * PATH_BYTES];
    kelpie_config_add_environment(config, "SECRET=quagga-word");
    kelpie_config_set_working_directory(config, "/tmp/../quagga-place");
    struct kelpie_vm *vm = start(&contract, "quagga-name", config, "boot");
    char id[33];
    snprintf(id, sizeof(id), "%s", kelpie_vm_id(vm));
    contract_end(vm);
    the_template(&contract, directory);
    snprintf(command, sizeof(command), "! grep -rlae quagga -e %s '%s'", id, directory);
    shell(command);
    snprintf(command, sizeof(command),
             "test \"$(stat -c %%a '%s' '%s'/memory '%s'/.. | tr '\\n' ' ')\" = '700 600 700 '",
             directory, directory, directory);
    shell(command);
    pass(&contract, "template");
    finish(&contract);
}

/* What is saved of a VM from a template is small, and lies over it. */
static void test_template_snapshot(const struct harness *harness) {
    struct contract contract = contract_open(harness);
    struct kelpie_config *config = template_config(&contract);
    pass(&contract, "boot");
    kelpie_config_set_ephemeral(config, false);
    struct kelpie_vm *vm = start(&contract, "source", config, "template");
    contract_sh_says(vm, "echo kept >/tmp/file", "");
    contract_take(vm, "point");
    struct kelpie_snapshot_info info = contract_inspect_snapshot(&contract, "point");
    HARNESS_CHECK(info.has_base && info.stored_bytes < (20u << 20), "%llu bytes",
                  (unsigned long long)info.stored_bytes);
    CONTRACT_OK(kelpie_vm_stop(vm, 0, NULL, &broken));
    CONTRACT_OK(kelpie_vm_start(vm, 0, &broken));
    HARNESS_CHECK(strcmp(contract_inspect(vm).origin, "template") == 0, "started again");
    contract_sh_says(vm, "ls /tmp", "");
    CONTRACT_OK(kelpie_vm_restore(vm, "point", 0, &broken));
    contract_sh_says(vm, "cat /tmp/file", "kept\n");
    contract_end(vm);
    struct kelpie_prune_options all = {.struct_size = sizeof(all), .is_all = true};
    CONTRACT_OK(kelpie_prune(contract.kelpie, &all, NULL, &broken));
    HARNESS_CHECK(entries(&contract, "", NULL) == 0, "the template is gone, the snapshot is not");
    vm = contract_create_from(&contract, "again", "point");
    CONTRACT_OK(kelpie_vm_start(vm, 0, &broken));
    contract_sh_says(vm, "cat /tmp/file", "kept\n");
    contract_end(vm);
    contract_remove_snapshot(&contract, "point");
    finish(&contract);
}

/* Each start after a boot of one kind, and none that was asked to boot. */
static void test_template_choice(const struct harness *harness) {
    struct contract contract = contract_open(harness);
    char directory[PATH_BYTES];
    char command[3 * PATH_BYTES];
    start_and_end(&contract, contract_boot_config(&contract), "boot");
    HARNESS_CHECK(entries(&contract, "", NULL) == 0, "a boot that was asked for leaves none");
    pass(&contract, "boot");
    pass(&contract, "template");
    the_template(&contract, directory);
    snprintf(command, sizeof(command), "touch -d '3 days ago' '%s'/manifest.json", directory);
    shell(command);
    pass(&contract, "template");
    snprintf(command, sizeof(command), "test '%s'/used -nt '%s'/manifest.json", directory,
             directory);
    shell(command); /* its use is noted */
    start_and_end(&contract, contract_boot_config(&contract), "boot");
    struct kelpie_config *config = template_config(&contract);
    kelpie_config_set_disk_size_mib(config, 64);
    char root[512];
    snprintf(root, sizeof(root), "%s/tree", harness->root_directory);
    snprintf(command, sizeof(command),
             "mkdir -p '%s' && cd '%s' && mkdir -p bin etc dev proc sys tmp run root && "
             "cp /usr/bin/busybox bin/ && ln -sf busybox bin/sh && ln -sf busybox bin/echo",
             root, root);
    shell(command);
    kelpie_config_set_root(config, root);
    start_and_end(&contract, config, "boot"); /* over a disk of its own */
    HARNESS_CHECK(entries(&contract, "", NULL) == 1, "and leaves none");
    finish(&contract);
    snprintf(command, sizeof(command), "rm -rf '%s'", root);
    shell(command);
}

/* ---- the key --------------------------------------------------------------------------------- */

/* With this in the environment, or another libexec directory, it boots, and then comes from the
 * template of that. */
static void boots_once(struct contract *contract, struct kelpie_config *(*make)(struct contract *),
                       const char *what) {
    printf("# %s\n", what);
    start_and_end(contract, make(contract), "boot");
    start_and_end(contract, make(contract), "template");
}

static struct kelpie_config *with_memory(struct contract *contract) {
    struct kelpie_config *config = template_config(contract);
    kelpie_config_set_memory_mib(config, 192);
    return config;
}

static struct kelpie_config *with_cpus(struct contract *contract) {
    struct kelpie_config *config = template_config(contract);
    kelpie_config_set_cpus(config, 2);
    return config;
}

static struct kelpie_config *with_root(struct contract *contract) {
    struct kelpie_config *config = template_config(contract);
    char root[512];
    snprintf(root, sizeof(root), "%s/tree", contract->harness->root_directory);
    kelpie_config_set_root(config, root);
    return config;
}

static struct kelpie_config *with_read_only(struct contract *contract) {
    struct kelpie_config *config = with_root(contract);
    kelpie_config_set_read_only(config, true);
    return config;
}

static void test_template_key(const struct harness *harness) {
    struct contract contract = contract_open(harness);
    char command[3000];
    boots_once(&contract, template_config, "the first");
    boots_once(&contract, with_memory, "memory");
    boots_once(&contract, with_cpus, "cpus");
    snprintf(command, sizeof(command),
             "mkdir -p '%s'/tree && cd '%s'/tree && mkdir -p bin etc dev proc sys tmp run root && "
             "cp /usr/bin/busybox bin/ && ln -sf busybox bin/sh && ln -sf busybox bin/echo",
             harness->root_directory, harness->root_directory);
    shell(command);
    boots_once(&contract, with_root, "root");
    boots_once(&contract, with_read_only, "read-only");
    snprintf(command, sizeof(command), "echo more >'%s'/tree/etc/more", harness->root_directory);
    shell(command);
    boots_once(&contract, with_root, "content of the root");
    pass(&contract, "template"); /* still there */
    snprintf(command, sizeof(command), "rm -rf '%s'/tree", harness->root_directory);
    shell(command);
    finish(&contract);
}

/* Boots of another kernel, then goes on with the one of before. */
static void boots_with_kernel(struct contract *contract, const char *path) {
    char before[PATH_BYTES] = "";
    const char *chosen = getenv("KELPIE_KERNEL"); /* scripts/campaign kernel */
    snprintf(before, sizeof(before), "%s", chosen != NULL ? chosen : "");
    setenv("KELPIE_KERNEL", path, 1);
    boots_once(contract, template_config, "kernel");
    if (before[0] != '\0') {
        setenv("KELPIE_KERNEL", before, 1);
    } else {
        unsetenv("KELPIE_KERNEL");
    }
}

/* What is installed: kernel, QEMU, and what the initramfs is made of. With a cache of its own: what
 * is known of accelerators is of one kernel and one QEMU, and rows beside this one want theirs. */
static void test_template_key_programs(const struct harness *harness) {
    struct harness own = *harness;
    char cache[PATH_BYTES];
    char command[3000];
    char path[PATH_BYTES];
    snprintf(cache, sizeof(cache), "%s/cache", harness->root_directory);
    own.cache_directory = cache;
    struct contract contract = contract_open(&own);
    boots_once(&contract, template_config, "the first");
    snprintf(command, sizeof(command),
             "mkdir -p '%s'/programs/bin && cd '%s'/programs && ln -s /usr/lib /usr/share . && "
             "cp \"$(command -v qemu-system-x86_64)\" bin/qemu && "
             "cp \"$(ls /boot/vmlinuz-*cloud* | tail -1)\" kernel",
             harness->root_directory, harness->root_directory);
    shell(command);
    snprintf(path, sizeof(path), "%s/programs/bin/qemu", harness->root_directory);
    setenv("KELPIE_QEMU", path, 1);
    boots_once(&contract, template_config, "QEMU");
    unsetenv("KELPIE_QEMU");
    snprintf(path, sizeof(path), "%s/programs/kernel", harness->root_directory);
    boots_with_kernel(&contract, path);
    contract_close(&contract);
    struct harness other = own;
    const char *libexec =
        harness->libexec_directory != NULL ? harness->libexec_directory : getenv("KELPIE_LIBEXEC");
    snprintf(command, sizeof(command),
             "cd '%s' && cp kelpie-monitor kelpie-pack kelpie-agent '%s'/programs", libexec,
             harness->root_directory);
    shell(command);
    snprintf(path, sizeof(path), "%s/programs", harness->root_directory);
    other.libexec_directory = path;
    contract = contract_open(&other);
    boots_once(&contract, template_config, "agent");
    contract_close(&contract);
    contract = contract_open(&own);
    pass(&contract, "template");
    finish(&contract);
    snprintf(command, sizeof(command), "cd '%s' && rm -rf programs cache", harness->root_directory);
    shell(command);
}

/* ---- one that fails -------------------------------------------------------------------------- */

static void damage(const struct contract *contract, const char *file, const char *how) {
    char directory[PATH_BYTES];
    char command[3 * PATH_BYTES];
    the_template(contract, directory);
    printf("# %s: %s\n", how, file);
    if (strcmp(how, "removed") == 0) {
        snprintf(command, sizeof(command), "rm '%s'/%s", directory, file);
    } else if (strcmp(how, "cut") == 0) {
        snprintf(command, sizeof(command), "truncate -s -1 '%s'/%s", directory, file);
    } else { /* a bit in the middle */
        snprintf(command, sizeof(command),
                 "cd '%s' && at=$(( $(stat -c %%s %s) / 2 )) && "
                 "old=$(od -An -tu1 -j $at -N 1 %s) && "
                 "printf \"\\\\$(printf %%o $(( old ^ 16 )))\" | "
                 "dd of=%s bs=1 seek=$at conv=notrunc status=none",
                 directory, file, file, file);
    }
    shell(command);
}

/* The VM boots, and the template is made anew. */
static void test_template_damaged(const struct harness *harness) {
    static const char *const files[] = {"manifest.json", "checksums", "config.json", "device",
                                        "memory"};
    static const char *const ways[] = {"flipped", "removed", "cut"};
    struct contract contract = contract_open(harness);
    pass(&contract, "boot");
    for (size_t i = 0; i < 5; i += 1) {
        for (size_t j = 0; j < 3; j += 1) {
            damage(&contract, files[i], ways[j]);
            pass(&contract, "boot");
        }
        pass(&contract, "template");
    }
    finish(&contract);
}

/* It goes while a VM lives on it: by hand, and by another VM that finds it damaged. */
static void test_template_gone_in_use(const struct harness *harness) {
    struct contract contract = contract_open(harness);
    pass(&contract, "boot");
    struct kelpie_vm *vm = start(&contract, "first", template_config(&contract), "template");
    struct kelpie_prune_options all = {.struct_size = sizeof(all), .is_all = true};
    struct kelpie_prune_result pruned = {.struct_size = sizeof(pruned)};
    CONTRACT_OK(kelpie_prune(contract.kelpie, &all, &pruned, &broken));
    HARNESS_CHECK(pruned.template_count == 0, "one in use stays");
    damage(&contract, "checksums", "flipped");
    pass(&contract, "boot");
    HARNESS_CHECK(entries(&contract, ".gone-", NULL) == 1, "the first VM still has the old one");
    contract_sh_says(vm, "echo alive", "alive\n");
    contract_end(vm);
    CONTRACT_OK(kelpie_prune(contract.kelpie, NULL, &pruned, &broken));
    HARNESS_CHECK(pruned.leftover_count == 1 && pruned.template_count == 0, "and then it goes");
    pass(&contract, "template");
    finish(&contract);
}

static void test_template_removed_in_use(const struct harness *harness) {
    struct contract contract = contract_open(harness);
    char command[2 * PATH_BYTES];
    pass(&contract, "boot");
    struct kelpie_vm *vm = start(&contract, "first", template_config(&contract), "template");
    snprintf(command, sizeof(command), "rm -rf '%s'/templates/*", harness->state_directory);
    shell(command);
    contract_sh_says(vm, "echo alive", "alive\n");
    contract_take(vm, "point");
    CONTRACT_OK(kelpie_snapshot_verify(contract.kelpie, "point", &broken));
    CONTRACT_OK(kelpie_vm_restore(vm, "point", 0, &broken));
    contract_sh_says(vm, "echo alive", "alive\n");
    pass(&contract, "boot");
    pass(&contract, "template");
    contract_end(vm);
    contract_remove_snapshot(&contract, "point");
    finish(&contract);
}

static void on_started(void *context, const struct kelpie_error *error) {
    unsigned *pending = context;
    HARNESS_CHECK(error == NULL, "%s", error == NULL ? "" : error->message);
    *pending -= 1;
}

/* Two first VMs of a kind: both boot, one template is left. */
static void test_template_two_at_once(const struct harness *harness) {
    struct contract contract = contract_open(harness);
    struct kelpie_vm *vms[2];
    unsigned pending = 2;
    for (size_t i = 0; i < 2; i += 1) {
        vms[i] = contract_create(&contract, NULL, template_config(&contract));
        CONTRACT_OK(kelpie_vm_start_async(vms[i], 0, on_started, &pending, NULL, &broken));
    }
    while (pending > 0) {
        CONTRACT_OK(kelpie_wait(contract.kelpie, 60000, &broken));
    }
    for (size_t i = 0; i < 2; i += 1) {
        contract_sh_says(vms[i], "echo here", "here\n");
        contract_end(vms[i]);
    }
    char directory[PATH_BYTES];
    the_template(&contract, directory);
    pass(&contract, "template");
    finish(&contract);
}

/* ---- making it fails ------------------------------------------------------------------------- */

/* The VM does not notice, and the next one makes it. */
static void test_template_making_fails(const struct harness *harness) {
    static const char *const plans[] = {
        "mkdir role=monitor path=.new-* nth=1 => ENOSPC",
        "open role=monitor path=memory nth=1 => ENOSPC",
        "pwrite role=monitor nth=9 => ENOSPC",
        "rename role=monitor path=config.json* nth=1 => ENOSPC",
        "rename role=monitor path=manifest.json* nth=1 => ENOSPC",
        "pwrite role=worker nth=1 => ENOSPC",
        "rename role=worker path=manifest.json* nth=1 => EIO",
        "* role=worker nth=3 => kill",
        "rename role=worker path=manifest.json* nth=1 => kill",
    };
    for (size_t i = 0; i < sizeof(plans) / sizeof(plans[0]); i += 1) {
        printf("# %s\n", plans[i]);
        struct contract contract = contract_open_faulty(harness, plans[i]);
        pass(&contract, "boot");
        /* Where the child dies that should remove it, its maker's end leaves it to prune. */
        HARNESS_CHECK(entries(&contract, "", NULL) == entries(&contract, ".new-", NULL),
                      "there is no template");
        CONTRACT_OK(kelpie_prune(contract.kelpie, NULL, NULL, &broken));
        HARNESS_CHECK(entries(&contract, "", NULL) == 0, "nothing is left");
        finish(&contract);
    }
    struct contract contract = contract_open_faulty(harness, "wait role=none nth=1 => EIO");
    pass(&contract, "boot");
    pass(&contract, "template");
    finish(&contract);
}

/* QEMU dies of it: the VM boots once more, and leaves none. */
static void test_template_kills_vmm(const struct harness *harness) {
    static const char *const plans[] = {
        "truncate role=monitor nth=1 path=*qemu* max=1 => kill-child",
        "pwrite role=monitor nth=9 path=*qemu* max=1 => kill-child",
        "qmp.write role=monitor nth=3 path=*qemu* max=1 => kill-child",
    };
    for (size_t i = 0; i < sizeof(plans) / sizeof(plans[0]); i += 1) {
        printf("# %s\n", plans[i]);
        struct contract contract = contract_open_faulty(harness, plans[i]);
        pass(&contract, "boot");
        HARNESS_CHECK(entries(&contract, "", NULL) == 0, "nothing is left");
        finish(&contract);
    }
}

/* The maker dies: what it left is never found, and goes with kelpie_prune. */
static void test_template_maker_killed(const struct harness *harness) {
    static const char *const points[] = {
        "mkdir role=monitor path=.new-* nth=1",
        "pwrite role=monitor nth=9",
        "rename role=monitor path=manifest.json* nth=1",
    };
    for (size_t i = 0; i < sizeof(points) / sizeof(points[0]); i += 1) {
        char plan[128];
        struct kelpie_error error = {0};
        struct kelpie_prune_result pruned = {.struct_size = sizeof(pruned)};
        snprintf(plan, sizeof(plan), "%s => kill", points[i]);
        printf("# %s\n", plan);
        struct contract contract = contract_open_faulty(harness, plan);
        struct kelpie_vm *vm = contract_create(&contract, NULL, template_config(&contract));
        int status = kelpie_vm_start(vm, 0, &error);
        HARNESS_CHECK(status == KELPIE_E_CRASHED || status == 0, "%s", error.message);
        kelpie_vm_close(vm);
        kelpie_close(contract.kelpie);
        contract = contract_open_faulty(harness, "wait role=none nth=1 => EIO");
        CONTRACT_OK(kelpie_prune(contract.kelpie, NULL, &pruned, &broken));
        bool has_directory = i > 0;
        HARNESS_CHECK(pruned.leftover_count >= (has_directory ? 1 : 0) &&
                          pruned.template_count == 0,
                      "%u went", pruned.leftover_count);
        HARNESS_CHECK(entries(&contract, "", NULL) == 0, "nothing is left");
        pass(&contract, "boot");
        pass(&contract, "template");
        struct kelpie_prune_options all = {.struct_size = sizeof(all), .is_all = true};
        CONTRACT_OK(kelpie_prune(contract.kelpie, &all, &pruned, &broken));
        HARNESS_CHECK(pruned.template_count == 1 && pruned.template_bytes > (20u << 20),
                      "%u templates of %llu bytes", pruned.template_count,
                      (unsigned long long)pruned.template_bytes);
        finish(&contract);
    }
}

const struct harness_test contract_tests_templates[] = {
    {"template_identity", test_template_identity, 60},
    {"template_is_nobody", test_template_is_nobody, 60},
    {"template_snapshot", test_template_snapshot, 90},
    {"template_choice", test_template_choice, 90},
    {"template_key", test_template_key, 180},
    {"template_key_programs", test_template_key_programs, 180},
    {"template_damaged", test_template_damaged, 240},
    {"template_gone_in_use", test_template_gone_in_use, 90},
    {"template_removed_in_use", test_template_removed_in_use, 90},
    {"template_two_at_once", test_template_two_at_once, 90},
    {"template_making_fails", test_template_making_fails, 180},
    {"template_kills_vmm", test_template_kills_vmm, 120},
    {"template_maker_killed", test_template_maker_killed, 180},
    {0},
};
