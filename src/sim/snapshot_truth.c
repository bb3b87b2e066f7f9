/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * See snapshot_truth.h.
 */
#include "sim/snapshot_truth.h"

#include <stdlib.h>
#include <string.h>

#include "core/json.h"
#include "core/text.h"
#include "sim/disk.h"
#include "sim/fault.h"
#include "sim/guest.h"
#include "sim/install.h"
#include "sim/machine.h"
#include "sim/qemu_saved.h"
#include "sim/truth.h"
#include "store/manifest.h"
#include "store/snapshot.h"
#include "store/vm_directory.h"

#define TRUTH_STORE SIM_STATE_DIRECTORY "/" KELPIE_SNAPSHOTS_DIRECTORY
#define TRUTH_COUNT_MAX 512u
#define TRUTH_POOL_MAX 1024u /* of a run: guests that were saved, and that arrived */
#define TRUTH_GUEST_MAX 1024u
#define TRUTH_CLOCK_NS KELPIE_NS_PER_S /* and as long as it may have been under way */
#define TRUTH_VERIFIED "verified"      /* comes and goes, and is no part of a snapshot */

struct truth {
    char name[KELPIE_NAME_BYTES_MAX + 1];
    char id[33];
    bool is_there; /* by its name */
    bool is_whole;
    bool is_durable;   /* and acknowledged */
    uint32_t removals; /* that were asked for, and may have been made or be made yet */
    uint64_t hash;
    struct sim_guest_truth guest; /* of one that is whole */
};

/* Entropy that no other guest may have as its own. */
struct pool {
    uint64_t entropy;
    uint64_t guest; /* who may: the one that was saved with it, or was published; 0: nobody */
};

struct sim_snapshots {
    struct sim_world *world; /* borrowed */
    uint64_t compared;
    bool has_rot;
    bool has_rotten_manifest;
    uint32_t count;
    struct truth truths[TRUTH_COUNT_MAX];
    uint32_t pool_count;
    struct pool pools[TRUTH_POOL_MAX];
    int64_t come_ns[TRUTH_GUEST_MAX]; /* by a guest's id: when it was created, or loaded */
};

struct sim_snapshots *kelpie__sim_snapshots_create(struct sim_world *world) {
    struct sim_snapshots *snapshots = calloc(1, sizeof(*snapshots));
    if (snapshots != NULL) {
        snapshots->world = world;
    }
    return snapshots;
}

void kelpie__sim_snapshots_destroy(struct sim_snapshots *snapshots) {
    free(snapshots);
}

uint64_t kelpie__sim_snapshots_compared(const struct sim_snapshots *snapshots) {
    return snapshots->compared;
}

static struct truth *find(struct sim_snapshots *snapshots, const char *name) {
    for (uint32_t i = snapshots->count; i > 0; i -= 1) { /* names may come again */
        if (strcmp(snapshots->truths[i - 1].name, name) == 0) {
            return &snapshots->truths[i - 1];
        }
    }
    return NULL;
}

static const struct truth *find_id(const struct sim_snapshots *snapshots, const char *id) {
    for (uint32_t i = 0; i < snapshots->count; i += 1) {
        if (strcmp(snapshots->truths[i].id, id) == 0) {
            return &snapshots->truths[i];
        }
    }
    return NULL;
}

/* ---- files ----------------------------------------------------------------------------------- */

static bool path_of(const char *name, const char *file, char out[SIM_PATH_BYTES_MAX]) {
    return kelpie__text_format(out, SIM_PATH_BYTES_MAX, TRUTH_STORE "/%s/%s", name, file);
}

/* Of all its files with their names; the sum, so that their order does not matter. 0: it has none.
 */
static uint64_t hash_of(struct sim_disk *disk, const char *name, bool is_durable) {
    char directory[SIM_PATH_BYTES_MAX];
    char path[SIM_PATH_BYTES_MAX];
    char file[256];
    uint64_t cursor = 0;
    uint64_t sum = 0;
    bool fits = kelpie__text_format(directory, sizeof(directory), TRUTH_STORE "/%s", name);
    KELPIE_ASSERT(fits);
    while (kelpie__sim_disk_walk(disk, directory, &cursor, file)) { /* bound: its files */
        if (strcmp(file, TRUTH_VERIFIED) == 0 || file[0] == '.' || !path_of(name, file, path) ||
            strncmp(file, TRUTH_VERIFIED ".", strlen(TRUTH_VERIFIED ".")) == 0) {
            continue;
        }
        uint64_t hash = kelpie__sim_disk_hash(disk, is_durable, path);
        sum += kelpie__sim_fault_hash(hash, file, "", 0, hash == 0 ? 0 : 1);
    }
    return sum;
}

static bool read_id(struct sim_disk *disk, const char *name, char out[33]) {
    char path[SIM_PATH_BYTES_MAX];
    char *text = malloc(KELPIE_MANIFEST_BYTES_MAX);
    bool is_read = false;
    if (text != NULL && path_of(name, KELPIE_MANIFEST_FILE, path)) {
        int64_t size = kelpie__sim_disk_peek(disk, false, path, text, KELPIE_MANIFEST_BYTES_MAX);
        is_read = size > 0 && size <= (int64_t)KELPIE_MANIFEST_BYTES_MAX &&
                  kelpie__json_find_string(text, (size_t)size, "id", out, 33) == 0;
    }
    free(text);
    return is_read;
}

static bool is_there(struct sim_disk *disk, const char *name) {
    char path[SIM_PATH_BYTES_MAX];
    bool fits = path_of(name, KELPIE_MANIFEST_FILE, path);
    return fits && kelpie__sim_disk_peek(disk, false, path, NULL, 0) >= 0;
}

/* ---- 16, 22: it stays what it was ------------------------------------------------------------ */

void kelpie__sim_snapshots_renamed(struct sim_snapshots *snapshots, const char *path) {
    struct sim_disk *disk = kelpie__sim_world_disk(snapshots->world);
    size_t length = strlen(TRUTH_STORE);
    char directory[SIM_PATH_BYTES_MAX];
    if (strncmp(path, TRUTH_STORE "/", length + 1) != 0 || path[length + 1] == '.' ||
        strchr(path + length + 1, '/') != NULL || snapshots->count == TRUTH_COUNT_MAX) {
        return;
    }
    const struct truth *before = find(snapshots, path + length + 1);
    bool is_awaited = before != NULL && before->id[0] == '\0'; /* it never was */
    struct truth *truth = &snapshots->truths[snapshots->count];
    *truth = (struct truth){.is_there = true, .removals = is_awaited ? before->removals : 0};
    bool fits = kelpie__text_copy(truth->name, sizeof(truth->name), path + length + 1) &&
                kelpie__text_copy(directory, sizeof(directory), path);
    KELPIE_ASSERT(fits);
    snapshots->count += 1;
    truth->hash = hash_of(disk, truth->name, false);
    truth->is_whole = kelpie__sim_qemu_saved(disk, directory, &truth->guest);
    if (!read_id(disk, truth->name, truth->id)) {
        truth->is_whole = false;
    }
}

void kelpie__sim_snapshots_rotted(struct sim_snapshots *snapshots, const char *text) {
    const char *name = strrchr(text, '/');
    snapshots->has_rot = true;
    if (name != NULL && strcmp(name + 1, KELPIE_MANIFEST_FILE) == 0) {
        snapshots->has_rotten_manifest = true;
    }
}

bool kelpie__sim_snapshots_may_look_newer(const struct sim_snapshots *snapshots) {
    KELPIE_ASSERT(snapshots->has_rot || !snapshots->has_rotten_manifest);
    return snapshots->has_rotten_manifest;
}

void kelpie__sim_snapshots_taken(struct sim_snapshots *snapshots, const char *name,
                                 bool is_durable) {
    struct truth *truth = find(snapshots, name);
    struct sim_disk *disk = kelpie__sim_world_disk(snapshots->world);
    const struct sim_options *options = kelpie__sim_world_options(snapshots->world);
    bool can_last = is_durable && options->disk_profile != SIM_DISK_TMPFS;
    if (snapshots->count == TRUTH_COUNT_MAX || (truth != NULL && truth->removals > 0)) {
        return;
    }
    snapshots->compared += 1;
    if (truth == NULL || !is_there(disk, name)) {
        kelpie__sim_world_fail(snapshots->world, "invariant 16: %s is acknowledged, and not there",
                               name);
    } else if (!truth->is_whole && !snapshots->has_rot) {
        kelpie__sim_world_fail(snapshots->world,
                               "invariant 16: %s is acknowledged, and its files are not the guest "
                               "that was saved",
                               name);
    } else if (can_last && hash_of(disk, name, true) != truth->hash && !snapshots->has_rot) {
        kelpie__sim_world_fail(snapshots->world,
                               "invariant 16: %s is acknowledged, and would not survive the "
                               "machine's death",
                               name);
    } else {
        truth->is_durable = can_last;
    }
}

void kelpie__sim_snapshots_forgotten(struct sim_snapshots *snapshots, const char *name) {
    struct truth *truth = find(snapshots, name);
    if (truth == NULL && snapshots->count < TRUTH_COUNT_MAX) { /* it may get its name meanwhile */
        truth = &snapshots->truths[snapshots->count];
        *truth = (struct truth){0};
        bool fits = kelpie__text_copy(truth->name, sizeof(truth->name), name);
        KELPIE_ASSERT(fits);
        snapshots->count += 1;
    }
    if (truth != NULL) {
        truth->removals += 1;
    }
}

void kelpie__sim_snapshots_kept(struct sim_snapshots *snapshots, const char *name) {
    struct truth *truth = find(snapshots, name);
    KELPIE_ASSERT(name[0] != '\0');
    if (truth != NULL && truth->removals > 0) {
        truth->removals -= 1;
    }
}

static void compare(struct sim_snapshots *snapshots, struct truth *truth, unsigned invariant) {
    struct sim_disk *disk = kelpie__sim_world_disk(snapshots->world);
    if (!truth->is_there || find(snapshots, truth->name) != truth) {
        return; /* another one has its name now */
    }
    truth->is_there = is_there(disk, truth->name);
    snapshots->compared += 1;
    bool is_lost = !truth->is_there && truth->is_durable && truth->removals == 0;
    bool is_other =
        truth->is_there && !snapshots->has_rot && hash_of(disk, truth->name, false) != truth->hash;
    if (is_lost || is_other) {
        kelpie__sim_world_fail(snapshots->world, "invariant %u: %s was acknowledged, and %s",
                               invariant, truth->name,
                               is_lost ? "is not there any more" : "has other bytes now");
    }
}

void kelpie__sim_snapshots_compare(struct sim_snapshots *snapshots) {
    for (uint32_t i = 0; i < snapshots->count; i += 1) {
        compare(snapshots, &snapshots->truths[i], 22);
    }
}

/* What was not durable may be there or not, or in part: only what is there whole is followed. */
void kelpie__sim_snapshots_power_loss(struct sim_snapshots *snapshots) {
    struct sim_disk *disk = kelpie__sim_world_disk(snapshots->world);
    snapshots->pool_count = 0; /* nobody of that time lives */
    for (uint32_t i = 0; i < snapshots->count; i += 1) {
        struct truth *truth = &snapshots->truths[i];
        if (truth->is_durable) {
            compare(snapshots, truth, 16);
        } else if (truth->is_there) {
            truth->is_there = hash_of(disk, truth->name, false) == truth->hash;
        }
    }
}

/* ---- 17, 18, 21: what comes of it ------------------------------------------------------------ */

/* Whether another guest had all of this, and nothing more, in its pool. A guest may be saved before
 * it is published: its record could not be written at once. */
static bool is_pool_known(const struct sim_snapshots *snapshots, uint64_t entropy, uint64_t guest) {
    KELPIE_ASSERT(guest > 0);
    for (uint32_t i = 0; i < snapshots->pool_count; i += 1) {
        if (snapshots->pools[i].entropy == entropy && snapshots->pools[i].guest != guest) {
            return true;
        }
    }
    return false;
}

/* `guest`: whose own it is; 0: it came with what was loaded. */
static void note_pool(struct sim_snapshots *snapshots, uint64_t entropy, uint64_t guest) {
    for (uint32_t i = 0; i < snapshots->pool_count; i += 1) {
        if (snapshots->pools[i].entropy == entropy) {
            return; /* who had it first */
        }
    }
    if (snapshots->pool_count < TRUTH_POOL_MAX) {
        snapshots->pools[snapshots->pool_count] = (struct pool){entropy, guest};
        snapshots->pool_count += 1;
    }
}

void kelpie__sim_snapshots_guest(struct sim_snapshots *snapshots, struct sim_guest *guest,
                                 const char *what) {
    struct sim_guest_truth truth;
    bool is_loaded = strcmp(what, "loaded") == 0;
    bool has_come = strcmp(what, "created") == 0 || is_loaded;
    if (strcmp(what, "saved") != 0 && !has_come) {
        return;
    }
    kelpie__sim_guest_truth(guest, &truth);
    if (has_come) {
        snapshots->come_ns[truth.id % TRUTH_GUEST_MAX] = kelpie__sim_now(snapshots->world);
    }
    if (strcmp(what, "created") == 0) {
        return;
    }
    note_pool(snapshots, truth.entropy, is_loaded ? 0 : truth.id);
    if (truth.is_damaged && is_loaded) {
        kelpie__sim_world_fail(snapshots->world,
                               "invariant 17: a state that is not whole is loaded into a VMM");
    }
}

/* What /etc/machine-id of the guest says is the id in its VM's configuration. */
static void check_machine_id(struct sim_snapshots *snapshots, struct sim_guest *guest,
                             const char *path) {
    char config_path[SIM_PATH_BYTES_MAX];
    char id[33] = "";
    char line[33] = "";
    char *text = malloc(KELPIE_CONFIG_JSON_BYTES_MAX);
    bool fits =
        kelpie__text_format(config_path, sizeof(config_path), "%s" KELPIE_VM_CONFIG_FILE, path);
    int64_t size = !fits || text == NULL
                       ? -1
                       : kelpie__sim_disk_peek(kelpie__sim_world_disk(snapshots->world), false,
                                               config_path, text, KELPIE_CONFIG_JSON_BYTES_MAX);
    bool is_read = size > 0 && size <= (int64_t)KELPIE_CONFIG_JSON_BYTES_MAX &&
                   kelpie__json_find_string(text, (size_t)size, "id", id, sizeof(id)) == 0;
    free(text);
    int64_t got = kelpie__sim_disk_peek(kelpie__sim_guest_machine(guest)->disk, false,
                                        "/etc/machine-id", line, sizeof(line) - 1);
    if (is_read && (got < 0 || strcmp(line, id) != 0)) {
        kelpie__sim_world_fail(snapshots->world,
                               "invariant 21: the machine id of %s is \"%s\", not \"%s\"", path,
                               line, id);
    }
}

static void check_identity(struct sim_snapshots *snapshots, struct sim_guest *guest,
                           const char *path) {
    struct sim_guest_truth truth;
    struct sim_machine *host = kelpie__sim_world_host(snapshots->world);
    char name[KELPIE_NAME_BYTES_MAX + 1] = "";
    const char *found = strstr(path, SIM_TRUTH_VMS) + strlen(SIM_TRUTH_VMS);
    size_t length = strcspn(found, "/");
    KELPIE_ASSERT(length < sizeof(name));
    memcpy(name, found, length);
    kelpie__sim_guest_truth(guest, &truth);
    int64_t wall_ns = kelpie__sim_now(snapshots->world) + host->wall_offset_ns;
    int64_t off_ns = truth.wall_ns > wall_ns ? truth.wall_ns - wall_ns : wall_ns - truth.wall_ns;
    const struct sim_faults *faults = kelpie__sim_world_faults(snapshots->world);
    /* Who tells it the time is slow, and so is the guest: not before it came. */
    int64_t way_ns =
        kelpie__sim_now(snapshots->world) - snapshots->come_ns[truth.id % TRUTH_GUEST_MAX];
    if (is_pool_known(snapshots, truth.entropy, truth.id)) {
        kelpie__sim_world_fail(snapshots->world,
                               "invariant 21: %s draws what another guest draws: nothing was "
                               "added to its pool",
                               path);
    } else if (strcmp(truth.hostname, name) != 0) {
        kelpie__sim_world_fail(snapshots->world, "invariant 21: the host name of %s is \"%s\"",
                               path, truth.hostname);
    } else if (off_ns > TRUTH_CLOCK_NS + way_ns && kelpie__sim_faults_fired(faults) == 0) {
        kelpie__sim_world_fail(snapshots->world, "invariant 21: the clock of %s is %lld ms off",
                               path, (long long)(off_ns / KELPIE_NS_PER_MS));
    }
    if (kelpie__sim_faults_fired(faults) == 0) { /* an agent that cannot write it goes on without */
        check_machine_id(snapshots, guest, path);
    }
    note_pool(snapshots, truth.entropy, truth.id);
}

void kelpie__sim_snapshots_arrived(struct sim_snapshots *snapshots, struct sim_guest *guest,
                                   const char *path, const char *parent) {
    struct sim_guest_truth truth;
    const struct truth *from = parent[0] == '\0' ? NULL : find_id(snapshots, parent);
    check_identity(snapshots, guest, path);
    if (from == NULL) { /* of a template, or it was booted */
        return;
    }
    kelpie__sim_guest_truth(guest, &truth);
    snapshots->compared += 1;
    if (truth.is_damaged || truth.lineage != from->guest.lineage ||
        memcmp(truth.nonce, from->guest.nonce, SIM_GUEST_NONCE_BYTES) != 0 ||
        truth.ticks < from->guest.ticks) {
        kelpie__sim_world_fail(snapshots->world,
                               "invariant 18: %s is restored, and is not the guest of %s", path,
                               from->name);
    }
}
