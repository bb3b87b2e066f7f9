/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * See lasting.h.
 */
#include "sim/lasting.h"

#include <string.h>

#include "core/json.h"
#include "core/text.h"
#include "sim/disk.h"
#include "sim/fault.h"
#include "sim/install.h"
#include "sim/machine.h"
#include "store/lasting.h"
#include "store/vm_directory.h"

#define LASTING_VMS SIM_STATE_DIRECTORY "/vms/"
#define LASTING_POOLS SIM_STATE_DIRECTORY "/pools/"
#define LASTING_LIST_BYTES 8192u
#define LASTING_LAYER "disk-"
#define LASTING_FIRST_LAYER ".raw"

/* On a disk that keeps what it is told to. */
static bool can_last(struct sim_world *world) {
    return kelpie__sim_world_options(world)->disk_profile != SIM_DISK_TMPFS &&
           !kelpie__sim_faults_has_class_fired(kelpie__sim_world_faults(world), "disk");
}

static void check(struct sim_world *world, const char *directory, const char *name,
                  const char *what) {
    struct sim_disk *disk = kelpie__sim_world_disk(world);
    char path[SIM_PATH_BYTES_MAX];
    KELPIE_ASSERT(directory[0] == '/');
    if (!kelpie__text_join(path, sizeof(path), directory, name)) {
        return;
    }
    uint64_t now = kelpie__sim_disk_hash(disk, false, path);
    uint64_t later = kelpie__sim_disk_hash(disk, true, path);
    if (now != 0 && now != later) { /* what is not there is somebody else's matter */
        kelpie__sim_world_fail(world, "invariant 30: %s, and %s would %s the machine's death", what,
                               path, later == 0 ? "not survive" : "not be whole after");
    }
}

void kelpie__sim_lasting_renamed(struct sim_world *world, const char *path) {
    char text[LASTING_LIST_BYTES];
    char directory[SIM_PATH_BYTES_MAX];
    char name[256];
    struct kelpie_json_value layers;
    struct kelpie_json_value item;
    struct kelpie_json_iterator iterator;
    const char *slash = strrchr(path, '/');
    size_t length = slash == NULL ? 0 : (size_t)(slash - path);
    if (length == 0 || length >= sizeof(directory) || strcmp(slash + 1, KELPIE_LASTING_FILE) != 0 ||
        !kelpie__text_has_prefix(path, LASTING_VMS) || !can_last(world)) {
        return;
    }
    memcpy(directory, path, length);
    directory[length] = '\0';
    int64_t size =
        kelpie__sim_disk_peek(kelpie__sim_world_disk(world), false, path, text, sizeof(text));
    bool is_list = size > 0 && size <= (int64_t)sizeof(text) &&
                   kelpie__json_find(text, (size_t)size, "layers", &layers) == 0 &&
                   kelpie__json_iterate(&layers, &iterator) == 0;
    while (is_list && kelpie__json_next(&iterator, NULL, &item) == 1) { /* bound: the text */
        if (kelpie__json_string(&item, name, sizeof(name), NULL) == 0) {
            check(world, directory, name, "a list of layers is in force");
        }
    }
}

/* The file of what has been made in a store. */
static void check_made(struct sim_world *world, const char *store, const char *name,
                       const char *file, const char *what) {
    char directory[SIM_PATH_BYTES_MAX];
    bool fits = kelpie__text_format(directory, sizeof(directory), "%s%s", store, name);
    KELPIE_ASSERT(fits);
    if (can_last(world)) {
        check(world, directory, file, what);
    }
}

void kelpie__sim_lasting_vm(struct sim_world *world, const char *name) {
    check_made(world, LASTING_VMS, name, KELPIE_VM_CONFIG_FILE, "a VM has been made");
}

void kelpie__sim_lasting_pool(struct sim_world *world, const char *name) {
    check_made(world, LASTING_POOLS, name, "pool.json", "a pool has been made");
    check_made(world, LASTING_POOLS, name, KELPIE_VM_CONFIG_FILE, "a pool has been made");
}

void kelpie__sim_lasting_disk(struct sim_world *world, const char *name) {
    struct sim_disk *disk = kelpie__sim_world_disk(world);
    char directory[SIM_PATH_BYTES_MAX];
    char path[SIM_PATH_BYTES_MAX];
    char file[256];
    uint64_t cursor = 0;
    bool fits = kelpie__text_format(directory, sizeof(directory), LASTING_VMS "%s", name) &&
                kelpie__text_join(path, sizeof(path), directory, KELPIE_LASTING_FILE);
    KELPIE_ASSERT(fits);
    bool has_list = kelpie__sim_disk_peek(disk, false, path, NULL, 0) >= 0;
    while (!has_list && can_last(world) &&
           kelpie__sim_disk_walk(disk, directory, &cursor, file)) { /* bound: its files */
        size_t length = strlen(file);
        bool is_first =
            kelpie__text_has_prefix(file, LASTING_LAYER) && length > strlen(LASTING_FIRST_LAYER) &&
            strcmp(file + length - strlen(LASTING_FIRST_LAYER), LASTING_FIRST_LAYER) == 0;
        if (is_first) {
            check(world, directory, file, "a VM runs on its disk");
        }
    }
}
