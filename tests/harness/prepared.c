/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * See prepared.h. Names in the test's own store are hard links to the files of the shared one: a
 * template never changes, and a test that damages files has to do without.
 */
#define _GNU_SOURCE
#include "prepared.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "kelpie.h"

enum { PATH_BYTES = 1024 };

/* The name of the template in this store, if there is one. */
static bool template_find(const char *store, char name[256]) {
    DIR *directory = opendir(store);
    bool is_found = false;
    if (directory == NULL) {
        return false;
    }
    for (struct dirent *entry = readdir(directory); entry != NULL; entry = readdir(directory)) {
        if (entry->d_name[0] != '.') {
            snprintf(name, 256, "%s", entry->d_name);
            is_found = true;
        }
    }
    closedir(directory);
    return is_found;
}

/* A boot, by the product itself: what it leaves is the template. */
static void template_make(const struct harness *harness, const char *state, const char *runtime) {
    const struct kelpie_open_options options = {
        .struct_size = sizeof(options),
        .state_directory = state,
        .runtime_directory = runtime,
        .cache_directory = harness->cache_directory,
        .libexec_directory = harness->libexec_directory,
    };
    struct kelpie *kelpie = NULL;
    struct kelpie_config *config = NULL;
    struct kelpie_vm *vm = NULL;
    struct kelpie_error error = {0};
    HARNESS_CHECK(kelpie_open(&options, &kelpie, &error) == 0, "%s", error.message);
    HARNESS_CHECK(kelpie_config_create(kelpie, &config, &error) == 0, "%s", error.message);
    kelpie_config_set_cpus(config, HARNESS_TEMPLATE_CPUS);
    kelpie_config_set_memory_mib(config, HARNESS_TEMPLATE_MIB);
    kelpie_config_set_ephemeral(config, true);
    kelpie_config_set_boot_timeout_ms(config, 60000);
    HARNESS_CHECK(kelpie_vm_create(kelpie, NULL, config, &vm, &error) == 0, "%s", error.message);
    kelpie_config_destroy(config);
    HARNESS_CHECK(kelpie_vm_start(vm, 0, &error) == 0, "%s", error.message);
    HARNESS_CHECK(kelpie_vm_delete(vm, true, &error) == 0, "%s", error.message);
    kelpie_vm_close(vm);
    kelpie_close(kelpie);
}

static void directory_make(const char *path) {
    HARNESS_CHECK(mkdir(path, 0700) == 0 || errno == EEXIST, "make %s: %s", path, strerror(errno));
}

/* Each file of it under a second name. */
static void template_link(const char *from, const char *to) {
    char old_path[2 * PATH_BYTES];
    char new_path[2 * PATH_BYTES];
    DIR *directory = opendir(from);
    HARNESS_CHECK(directory != NULL, "open %s", from);
    directory_make(to);
    for (struct dirent *entry = readdir(directory); entry != NULL; entry = readdir(directory)) {
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0) {
            snprintf(old_path, sizeof(old_path), "%s/%s", from, entry->d_name);
            snprintf(new_path, sizeof(new_path), "%s/%s", to, entry->d_name);
            HARNESS_CHECK(link(old_path, new_path) == 0, "link %s: %s", new_path, strerror(errno));
        }
    }
    closedir(directory);
}

void harness_take_template(const struct harness *harness) {
    char path[PATH_BYTES];
    char runtime[PATH_BYTES];
    char store[PATH_BYTES + 16];
    char from[PATH_BYTES + 288];
    char to[PATH_BYTES + 288];
    char name[256] = "";
    int lock = open(harness->shared_directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    HARNESS_CHECK(lock >= 0 && flock(lock, LOCK_EX) == 0, "lock %s", harness->shared_directory);
    snprintf(path, sizeof(path), "%s/state", harness->shared_directory);
    snprintf(runtime, sizeof(runtime), "%s/run", harness->shared_directory);
    snprintf(store, sizeof(store), "%s/templates", path);
    if (!template_find(store, name)) {
        template_make(harness, path, runtime);
        HARNESS_CHECK(template_find(store, name), "a boot left no template in %s", store);
    }
    snprintf(from, sizeof(from), "%s/%s", store, name);
    directory_make(harness->state_directory);
    snprintf(to, sizeof(to), "%s/templates", harness->state_directory);
    directory_make(to);
    snprintf(to, sizeof(to), "%s/templates/%s", harness->state_directory, name);
    if (access(to, F_OK) != 0) {
        template_link(from, to);
    }
    close(lock);
}
