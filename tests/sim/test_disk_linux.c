/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Goal: the simulated file system answers as the real one. Method: the same random calls go to both
 * through their os tables, as root and as another user, and every answer, every byte and every
 * error is compared; then the two trees.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "os/os_call.h"
#include "sim/disk.h"
#include "sim/machine.h"

#define HANDLES 8u
#define STEPS 15000u
#define BYTES_MAX 6000u
#define USER 65534u

struct side {
    struct kelpie_os *os;
    int base;
    int handles[HANDLES]; /* -1: free; the same ones on both sides */
};

struct pair {
    uint64_t random;
    struct sim_world *world;
    struct sim_process *process;
    struct side real;
    struct side sim;
    char root[64]; /* of the real side */
    unsigned step;
};

static uint64_t draw(struct pair *p, uint64_t bound) {
    p->random = p->random * 6364136223846793005u + 1442695040888963407u;
    return (p->random >> 33) % bound;
}

static const char *draw_path(struct pair *p) {
    static const char *const paths[] = {
        "a",          "b",          "c",          "dir",       "dir/a",    "dir/b",
        "dir/sub",    "dir/sub/x",  "dir2",       "dir2/",     "dir2/a",   "dir/sub/",
        "a/",         "a/x",        "none/x",     "./a",       "dir/../b", ".",
        "dir/.",      "dir/sub/..", "link",       "link-dir",  "dangling", "loop",
        "link-dir/a", "link/x",     "dangling/x", "link-dir/", "closed/a", "closed",
    };
    return paths[draw(p, KELPIE_ARRAY_COUNT(paths))];
}

static void same(struct pair *p, const char *what, const char *path, int64_t real, int64_t sim) {
    if (real != sim) {
        fail_msg("step %u, %s \"%s\": Linux answers %lld, the simulator %lld", p->step, what, path,
                 (long long)real, (long long)sim);
    }
}

/* ---- calls with names ------------------------------------------------------------------------ */

static void step_open(struct pair *p, unsigned slot) {
    static const uint32_t access[] = {KELPIE_OS_OPEN_READ, KELPIE_OS_OPEN_WRITE,
                                      KELPIE_OS_OPEN_READ | KELPIE_OS_OPEN_WRITE};
    const char *path = draw_path(p);
    uint32_t flags = access[draw(p, 3)];
    flags |= draw(p, 2) == 0 ? KELPIE_OS_OPEN_CREATE : 0;
    flags |= draw(p, 2) == 0 ? KELPIE_OS_OPEN_FOLLOW : 0;
    flags |= draw(p, 8) == 0 ? KELPIE_OS_OPEN_EXCLUSIVE : 0;
    flags |= draw(p, 8) == 0 ? KELPIE_OS_OPEN_APPEND : 0;
    flags |= draw(p, 8) == 0 && (flags & KELPIE_OS_OPEN_WRITE) != 0 ? KELPIE_OS_OPEN_TRUNCATE : 0;
    /* with CREATE it is refused by new kernels and taken by old ones */
    flags |= draw(p, 6) == 0 && (flags & KELPIE_OS_OPEN_CREATE) == 0 ? KELPIE_OS_OPEN_DIRECTORY : 0;
    if ((flags & KELPIE_OS_OPEN_CREATE) == 0) {
        flags &= ~(uint32_t)KELPIE_OS_OPEN_EXCLUSIVE;
    }
    static const uint32_t modes[] = {0600, 0666, 0400, 0644};
    uint32_t mode = modes[draw(p, 4)];
    int real = kelpie__os_open(p->real.os, p->real.base, path, flags, mode);
    int sim = kelpie__os_open(p->sim.os, p->sim.base, path, flags, mode);
    if (real < 0 || sim < 0) {
        char what[32];
        snprintf(what, sizeof(what), "open %x", flags);
        same(p, what, path, real < 0 ? real : 0, sim < 0 ? sim : 0);
        return;
    }
    p->real.handles[slot] = real;
    p->sim.handles[slot] = sim;
}

static void step_close(struct pair *p, unsigned slot) {
    same(p, "close", "", kelpie__os_close(p->real.os, p->real.handles[slot]),
         kelpie__os_close(p->sim.os, p->sim.handles[slot]));
    p->real.handles[slot] = -1;
    p->sim.handles[slot] = -1;
}

static void step_names(struct pair *p) {
    const char *path = draw_path(p);
    const char *to = draw_path(p);
    char what[80];
    bool is_yes = draw(p, 2) == 0;
    switch (draw(p, 3)) {
    case 0:
        same(p, "mkdir", path, kelpie__os_mkdir(p->real.os, p->real.base, path, 0755),
             kelpie__os_mkdir(p->sim.os, p->sim.base, path, 0755));
        break;
    case 1:
        same(p, is_yes ? "rmdir" : "unlink", path,
             kelpie__os_unlink(p->real.os, p->real.base, path, is_yes),
             kelpie__os_unlink(p->sim.os, p->sim.base, path, is_yes));
        break;
    default:
        snprintf(what, sizeof(what), "rename(%d) to \"%s\" of", is_yes, to);
        same(p, what, path,
             kelpie__os_rename(p->real.os, p->real.base, path, p->real.base, to, is_yes),
             kelpie__os_rename(p->sim.os, p->sim.base, path, p->sim.base, to, is_yes));
        break;
    }
}

static void same_stat(struct pair *p, const char *path, int real, int sim,
                      const struct kelpie_os_stat *real_stat,
                      const struct kelpie_os_stat *sim_stat) {
    same(p, "stat", path, real, sim);
    if (real < 0) {
        return;
    }
    same(p, "kind of", path, real_stat->kind, sim_stat->kind);
    same(p, "mode of", path, real_stat->mode, sim_stat->mode);
    same(p, "uid of", path, real_stat->uid, sim_stat->uid);
    if (real_stat->kind != KELPIE_OS_KIND_DIRECTORY) {
        same(p, "size of", path, (int64_t)real_stat->size_bytes, (int64_t)sim_stat->size_bytes);
    }
}

static void step_stat(struct pair *p, unsigned slot) {
    struct kelpie_os_stat real_stat;
    struct kelpie_os_stat sim_stat;
    const char *path = draw_path(p);
    bool follow = draw(p, 2) == 0;
    int real = kelpie__os_stat(p->real.os, p->real.base, path, follow, &real_stat);
    int sim = kelpie__os_stat(p->sim.os, p->sim.base, path, follow, &sim_stat);
    same_stat(p, path, real, sim, &real_stat, &sim_stat);
    real = kelpie__os_stat(p->real.os, p->real.handles[slot], "", false, &real_stat);
    sim = kelpie__os_stat(p->sim.os, p->sim.handles[slot], "", false, &sim_stat);
    same_stat(p, "(handle)", real, sim, &real_stat, &sim_stat);
    /* relative to whatever the handle is */
    real = kelpie__os_stat(p->real.os, p->real.handles[slot], "a", follow, &real_stat);
    sim = kelpie__os_stat(p->sim.os, p->sim.handles[slot], "a", follow, &sim_stat);
    same_stat(p, "(handle)/a", real, sim, &real_stat, &sim_stat);
}

/* ---- calls with handles ---------------------------------------------------------------------- */

static bool is_directory(struct pair *p, unsigned slot) {
    struct kelpie_os_stat stat;
    assert_int_equal(kelpie__os_stat(p->real.os, p->real.handles[slot], "", false, &stat), 0);
    return stat.kind == KELPIE_OS_KIND_DIRECTORY;
}

static void step_read(struct pair *p, unsigned slot) {
    static char real_bytes[BYTES_MAX];
    static char sim_bytes[BYTES_MAX];
    size_t count = 1 + (size_t)draw(p, BYTES_MAX);
    uint64_t offset = draw(p, 20000);
    /* list moves the real directory's position far away */
    bool is_positioned = draw(p, 3) > 0 || is_directory(p, slot);
    int real_handle = p->real.handles[slot];
    int sim_handle = p->sim.handles[slot];
    int64_t real = is_positioned
                       ? kelpie__os_pread(p->real.os, real_handle, real_bytes, count, offset)
                       : kelpie__os_read(p->real.os, real_handle, real_bytes, count);
    int64_t sim = is_positioned ? kelpie__os_pread(p->sim.os, sim_handle, sim_bytes, count, offset)
                                : kelpie__os_read(p->sim.os, sim_handle, sim_bytes, count);
    same(p, is_positioned ? "pread" : "read", "", real, sim);
    if (real > 0) {
        assert_memory_equal(real_bytes, sim_bytes, (size_t)real);
    }
}

static void step_write(struct pair *p, unsigned slot) {
    static char bytes[BYTES_MAX];
    size_t count = 1 + (size_t)draw(p, draw(p, 2) == 0 ? 64 : BYTES_MAX);
    uint64_t offset = draw(p, 20000);
    bool is_positioned = draw(p, 3) > 0;
    memset(bytes, (int)(1 + draw(p, 255)), count);
    int real_handle = p->real.handles[slot];
    int sim_handle = p->sim.handles[slot];
    int64_t real = is_positioned ? kelpie__os_pwrite(p->real.os, real_handle, bytes, count, offset)
                                 : kelpie__os_write(p->real.os, real_handle, bytes, count);
    int64_t sim = is_positioned ? kelpie__os_pwrite(p->sim.os, sim_handle, bytes, count, offset)
                                : kelpie__os_write(p->sim.os, sim_handle, bytes, count);
    same(p, is_positioned ? "pwrite" : "write", "", real, sim);
}

static void step_truncate(struct pair *p, unsigned slot) {
    uint64_t size = draw(p, 30000);
    same(p, "truncate", "", kelpie__os_truncate(p->real.os, p->real.handles[slot], size),
         kelpie__os_truncate(p->sim.os, p->sim.handles[slot], size));
}

static void step_lock(struct pair *p, unsigned slot) {
    if (draw(p, 2) == 0) {
        same(p, "lock", "", kelpie__os_lock(p->real.os, p->real.handles[slot]),
             kelpie__os_lock(p->sim.os, p->sim.handles[slot]));
    } else {
        same(p, "lock_shared", "", kelpie__os_lock_shared(p->real.os, p->real.handles[slot]),
             kelpie__os_lock_shared(p->sim.os, p->sim.handles[slot]));
    }
}

static void step_link(struct pair *p, unsigned slot) {
    const char *path = draw_path(p);
    if (!is_directory(p, slot)) {
        same(p, "link", path,
             kelpie__os_link(p->real.os, p->real.handles[slot], p->real.base, path),
             kelpie__os_link(p->sim.os, p->sim.handles[slot], p->sim.base, path));
    }
}

static void step_clone(struct pair *p, unsigned slot) {
    unsigned other = (unsigned)draw(p, HANDLES);
    if (p->real.handles[other] < 0) {
        return;
    }
    bool is_aligned = draw(p, 2) == 0;
    uint64_t from = draw(p, 5) * 4096 + (is_aligned ? 0 : draw(p, 100));
    uint64_t to = draw(p, 5) * 4096 + (is_aligned ? 0 : draw(p, 100));
    uint64_t count = 1 + draw(p, 9000);
    int real = kelpie__os_clone_range(p->real.os, p->real.handles[slot], from,
                                      p->real.handles[other], to, count);
    int sim = kelpie__os_clone_range(p->sim.os, p->sim.handles[slot], from, p->sim.handles[other],
                                     to, count);
    same(p, "clone_range", "", real, sim);
}

static unsigned list_all(struct pair *p, struct side *side, int handle, char names[64][32],
                         int *out_status) {
    uint64_t cursor = 0;
    unsigned count = 0;
    char name[32];
    kelpie__ignore(p != NULL);
    *out_status = kelpie__os_list(side->os, handle, &cursor, name, sizeof(name));
    while (*out_status == 1) {
        assert_true(count < 64);
        unsigned at = count;
        while (at > 0 && strcmp(names[at - 1], name) > 0) { /* sorted */
            memcpy(names[at], names[at - 1], sizeof(names[at]));
            at -= 1;
        }
        memcpy(names[at], name, sizeof(name));
        count += 1;
        *out_status = kelpie__os_list(side->os, handle, &cursor, name, sizeof(name));
    }
    return count;
}

static void step_list(struct pair *p, unsigned slot) {
    char real_names[64][32];
    char sim_names[64][32];
    int real = 0;
    int sim = 0;
    bool is_base = draw(p, 4) == 0 || !is_directory(p, slot); /* it would move a file's position */
    unsigned real_count =
        list_all(p, &p->real, is_base ? p->real.base : p->real.handles[slot], real_names, &real);
    unsigned sim_count =
        list_all(p, &p->sim, is_base ? p->sim.base : p->sim.handles[slot], sim_names, &sim);
    same(p, "list", "", real, sim);
    same(p, "names in list", "", real_count, sim_count);
    for (unsigned i = 0; i < real_count; i += 1) {
        assert_string_equal(real_names[i], sim_names[i]);
    }
}

static void step(struct pair *p) {
    unsigned slot = (unsigned)draw(p, HANDLES);
    if (p->real.handles[slot] < 0) {
        step_open(p, slot);
        return;
    }
    switch (draw(p, 14)) {
    case 0:
    case 1:
        step_close(p, slot);
        break;
    case 2:
    case 3:
    case 4:
        step_names(p);
        break;
    case 5:
        step_stat(p, slot);
        break;
    case 6:
    case 7:
        step_read(p, slot);
        break;
    case 8:
    case 9:
        step_write(p, slot);
        break;
    case 10:
        step_truncate(p, slot);
        break;
    case 11:
        step_lock(p, slot);
        break;
    case 12:
        step_link(p, slot);
        break;
    default:
        step_list(p, slot);
        step_clone(p, slot);
        break;
    }
}

/* ---- both sides ------------------------------------------------------------------------------ */

static const struct {
    const char *name;
    const char *target;
} links[] = {{"link", "a"}, {"link-dir", "dir"}, {"dangling", "nowhere"}, {"loop", "loop"}};

static void begin(struct pair *p, uint64_t seed, uint32_t uid) {
    const struct sim_options options = {.seed = seed};
    p->random = seed;
    p->world = kelpie__sim_world_create(&options, NULL);
    assert_non_null(p->world);
    struct sim_disk *disk = kelpie__sim_world_disk(p->world);
    char path[128];
    umask(022);
    assert_int_equal(chmod(p->root, 0777), 0);
    assert_int_equal(kelpie__sim_disk_put_directory(disk, "/work", 0777), 0);
    snprintf(path, sizeof(path), "%s/closed", p->root);
    assert_int_equal(mkdir(path, 0700), 0);
    assert_int_equal(kelpie__sim_disk_put_directory(disk, "/work/closed", 0700), 0);
    for (size_t i = 0; i < KELPIE_ARRAY_COUNT(links); i += 1) {
        snprintf(path, sizeof(path), "%s/%s", p->root, links[i].name);
        assert_int_equal(symlink(links[i].target, path), 0);
        snprintf(path, sizeof(path), "/work/%s", links[i].name);
        assert_int_equal(kelpie__sim_disk_put_link(disk, path, links[i].target), 0);
    }
    p->process = kelpie__sim_process_adopt(p->world, "test");
    p->process->uid = uid;
    p->process->gid = uid;
    p->sim.os = &p->process->os;
    p->real.os = kelpie__os_linux_create();
    if (uid != 0) {
        assert_int_equal(setgid(uid), 0);
        assert_int_equal(setuid(uid), 0);
    }
    uint32_t flags = KELPIE_OS_OPEN_READ | KELPIE_OS_OPEN_DIRECTORY;
    p->real.base = kelpie__os_open(p->real.os, KELPIE_OS_CWD, p->root, flags, 0);
    p->sim.base = kelpie__os_open(p->sim.os, KELPIE_OS_CWD, "/work", flags, 0);
    assert_true(p->real.base >= 0 && p->sim.base >= 0);
    for (unsigned i = 0; i < HANDLES; i += 1) {
        p->real.handles[i] = -1;
        p->sim.handles[i] = -1;
    }
}

static void end(struct pair *p) {
    for (unsigned i = 0; i < HANDLES; i += 1) {
        if (p->real.handles[i] >= 0) {
            step_close(p, i);
        }
    }
    kelpie__os_close(p->real.os, p->real.base);
    kelpie__os_linux_destroy(p->real.os);
    kelpie__sim_disk_check(kelpie__sim_world_disk(p->world));
    kelpie__sim_world_destroy(p->world);
}

static void make_root(struct pair *p) {
    memset(p, 0, sizeof(*p));
    snprintf(p->root, sizeof(p->root), "/tmp/kelpie-disk-XXXXXX");
    assert_non_null(mkdtemp(p->root));
}

static void remove_root(const struct pair *p) {
    char command[128];
    snprintf(command, sizeof(command), "rm -rf %s", p->root);
    assert_int_equal(system(command), 0);
}

static void test_root_gets_the_same_answers(void **state) {
    static struct pair p;
    kelpie__ignore(state != NULL);
    for (uint64_t seed = 1; seed <= 3; seed += 1) {
        make_root(&p);
        begin(&p, seed, 0);
        for (p.step = 0; p.step < STEPS; p.step += 1) {
            step(&p);
        }
        end(&p);
        remove_root(&p);
    }
}

static void test_a_user_gets_the_same_answers(void **state) {
    kelpie__ignore(state != NULL);
    if (getuid() != 0) {
        skip();
    }
    static struct pair p;
    int status = 0;
    make_root(&p);
    pid_t child = fork();
    if (child == 0) {
        begin(&p, 77, USER);
        for (p.step = 0; p.step < STEPS; p.step += 1) {
            step(&p);
        }
        end(&p);
        _exit(0);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    remove_root(&p);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_root_gets_the_same_answers),
        cmocka_unit_test(test_a_user_gets_the_same_answers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
