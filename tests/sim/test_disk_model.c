/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Goal: the simulated disk keeps what it is given, and through any crash what was synced. Method:
 * a random walk of 100,000 operations beside a model, and 2,000 random crashes.
 */
#include "disk_fixture.h"

#define MODEL_NAMES 24u
#define MODEL_BYTES 20000u
#define MODEL_OPERATIONS 100000u
#define MODEL_CRASH_EVERY 2500u

struct model_file {
    unsigned names;
    bool is_synced;
    uint32_t size;
    char bytes[MODEL_BYTES];
};

struct model {
    struct fixture f;
    uint64_t random;
    struct model_file files[MODEL_NAMES]; /* names 0: free */
    int of_name[MODEL_NAMES];             /* -1: none */
    bool is_name_synced[MODEL_NAMES];
    bool has_links;
    int directories[2];
};

static uint64_t draw(struct model *m, uint64_t bound) {
    m->random = m->random * 6364136223846793005u + 1442695040888963407u;
    return (m->random >> 33) % bound;
}

/* Even names are in the one directory, odd ones in the other. */
static const char *name_of(unsigned index, char out[16]) {
    snprintf(out, 16, "name%u", index);
    return out;
}

static void model_open_directories(struct model *m) {
    m->directories[0] = kelpie__os_open(m->f.os, CWD, "/work/a", READ | DIRECTORY, 0);
    m->directories[1] = kelpie__os_open(m->f.os, CWD, "/work/b", READ | DIRECTORY, 0);
    assert_true(m->directories[0] >= 0 && m->directories[1] >= 0);
}

static int model_open(struct model *m, unsigned index, uint32_t flags) {
    char name[16];
    return kelpie__os_open(m->f.os, m->directories[index % 2], name_of(index, name), flags, 0600);
}

static void model_drop(struct model *m, unsigned index) {
    m->is_name_synced[index] = false;
    if (m->of_name[index] >= 0) {
        m->files[m->of_name[index]].names -= 1;
        m->of_name[index] = -1;
    }
}

static void model_verify(struct model *m, unsigned index) {
    static char bytes[MODEL_BYTES + 1];
    int file = model_open(m, index, READ);
    if (m->of_name[index] < 0) {
        assert_int_equal(file, -ENOENT);
        return;
    }
    const struct model_file *expected = &m->files[m->of_name[index]];
    assert_true(file >= 0);
    int64_t got = kelpie__os_pread(m->f.os, file, bytes, sizeof(bytes), 0);
    assert_int_equal(got, expected->size);
    assert_memory_equal(bytes, expected->bytes, expected->size);
    kelpie__os_close(m->f.os, file);
}

static void model_write(struct model *m, unsigned index) {
    static char bytes[8192];
    int file = model_open(m, index, READ | WRITE | CREATE);
    assert_true(file >= 0);
    if (m->of_name[index] < 0) {
        unsigned slot = 0;
        while (m->files[slot].names > 0) {
            slot += 1;
        }
        m->files[slot].names = 1;
        m->is_name_synced[index] = false;
        m->files[slot].size = 0;
        memset(m->files[slot].bytes, 0, MODEL_BYTES);
        m->of_name[index] = (int)slot;
    }
    struct model_file *model = &m->files[m->of_name[index]];
    uint64_t kind = draw(m, 4);
    model->is_synced = false;
    if (kind == 0) {
        uint32_t size = (uint32_t)draw(m, MODEL_BYTES);
        assert_int_equal(kelpie__os_truncate(m->f.os, file, size), 0);
        if (size < model->size) {
            memset(model->bytes + size, 0, model->size - size);
        }
        model->size = size;
    } else {
        size_t count = 1 + (size_t)draw(m, draw(m, 3) == 0 ? sizeof(bytes) : 100);
        uint64_t offset = kind == 1 ? model->size : draw(m, MODEL_BYTES);
        if (offset + count <= MODEL_BYTES) {
            memset(bytes, (int)draw(m, 256), count);
            assert_int_equal(kelpie__os_pwrite(m->f.os, file, bytes, count, offset), count);
            memcpy(model->bytes + offset, bytes, count);
            model->size = offset + count > model->size ? (uint32_t)(offset + count) : model->size;
        }
    }
    if (draw(m, 4) == 0) {
        assert_int_equal(kelpie__os_sync(m->f.os, file), 0);
        model->is_synced = true;
    }
    kelpie__os_close(m->f.os, file);
}

static void model_rename(struct model *m, unsigned index, unsigned to) {
    char from_name[16];
    char to_name[16];
    bool may_replace = draw(m, 3) > 0;
    int status = kelpie__os_rename(m->f.os, m->directories[index % 2], name_of(index, from_name),
                                   m->directories[to % 2], name_of(to, to_name), may_replace);
    if (m->of_name[index] < 0) {
        assert_int_equal(status, -ENOENT);
    } else if (m->of_name[to] >= 0 && !may_replace) {
        assert_int_equal(status, -EEXIST);
    } else {
        assert_int_equal(status, 0);
        if (m->of_name[index] != m->of_name[to]) { /* else: two names of one file */
            model_drop(m, to);
            m->of_name[to] = m->of_name[index];
            m->of_name[index] = -1;
            m->is_name_synced[index] = false;
        }
    }
}

static void model_link(struct model *m, unsigned index, unsigned to) {
    char name[16];
    int file = model_open(m, index, READ);
    if (file < 0) {
        assert_true(m->of_name[index] < 0);
        return;
    }
    int status = kelpie__os_link(m->f.os, file, m->directories[to % 2], name_of(to, name));
    assert_int_equal(status, m->of_name[to] >= 0 ? -EEXIST : 0);
    if (status == 0) {
        m->of_name[to] = m->of_name[index];
        m->files[m->of_name[to]].names += 1;
    }
    kelpie__os_close(m->f.os, file);
}

static void model_step(struct model *m) {
    unsigned index = (unsigned)draw(m, MODEL_NAMES);
    unsigned to = (unsigned)draw(m, MODEL_NAMES);
    char name[16];
    switch (draw(m, 8)) {
    case 0:
    case 1:
    case 2:
        model_write(m, index);
        break;
    case 3:
        model_rename(m, index, to);
        break;
    case 4: {
        int status =
            kelpie__os_unlink(m->f.os, m->directories[index % 2], name_of(index, name), false);
        assert_int_equal(status, m->of_name[index] < 0 ? -ENOENT : 0);
        model_drop(m, index);
        break;
    }
    case 5:
        if (m->has_links) {
            model_link(m, index, to);
        }
        break;
    case 6:
        assert_int_equal(kelpie__os_sync(m->f.os, m->directories[index % 2]), 0);
        for (unsigned i = index % 2; i < MODEL_NAMES; i += 2) {
            m->is_name_synced[i] = true;
        }
        break;
    default:
        model_verify(m, index);
        break;
    }
}

/* All is kept, by syncing everything or by the kindest of crashes. */
static void model_crash(struct model *m) {
    kelpie__sim_disk_check(m->f.disk);
    if (draw(m, 2) == 0) {
        kelpie__sim_pending_sync_all(m->f.disk);
        kelpie__sim_disk_collect(m->f.disk);
        kelpie__sim_disk_crash_to(m->f.disk, 0, 2);
    } else {
        kelpie__sim_disk_crash_to(m->f.disk, kelpie__sim_disk_crash_count(m->f.disk, 10) - 1, 10);
    }
    kelpie__os_close(m->f.os, m->directories[0]);
    kelpie__os_close(m->f.os, m->directories[1]);
    model_open_directories(m);
    for (unsigned i = 0; i < MODEL_NAMES; i += 1) {
        model_verify(m, i);
    }
}

static void test_hundred_thousand_operations_beside_a_model(void **state) {
    static const enum sim_disk_profile profiles[] = {SIM_DISK_EXT4, SIM_DISK_POSIX};
    kelpie__ignore(state != NULL);
    for (unsigned i = 0; i < 2; i += 1) {
        struct model *m = calloc(1, sizeof(*m));
        assert_non_null(m);
        begin(&m->f, 1, profiles[i], NULL);
        m->random = 42 + i;
        m->has_links = true;
        memset(m->of_name, -1, sizeof(m->of_name));
        assert_int_equal(kelpie__os_mkdir(m->f.os, m->f.work, "a", 0700), 0);
        assert_int_equal(kelpie__os_mkdir(m->f.os, m->f.work, "b", 0700), 0);
        model_open_directories(m);
        uint64_t used = kelpie__sim_disk_used_bytes(m->f.disk);
        for (unsigned n = 0; n < MODEL_OPERATIONS / 2; n += 1) {
            model_step(m);
            if (n % MODEL_CRASH_EVERY == MODEL_CRASH_EVERY - 1) {
                model_crash(m);
            }
        }
        /* Nothing is left behind. */
        for (unsigned n = 0; n < MODEL_NAMES; n += 1) {
            char name[16];
            int status = kelpie__os_unlink(m->f.os, m->directories[n % 2], name_of(n, name), false);
            assert_int_equal(status, m->of_name[n] < 0 ? -ENOENT : 0);
            model_drop(m, n);
        }
        model_crash(m);
        assert_int_equal(kelpie__sim_disk_used_bytes(m->f.disk), used);
        end(&m->f);
        free(m);
    }
}

/* What is there becomes the model. Each name has a file of its own, for there are no links. */
static void model_reload(struct model *m) {
    memset(m->files, 0, sizeof(m->files));
    for (unsigned i = 0; i < MODEL_NAMES; i += 1) {
        int file = model_open(m, i, READ);
        m->of_name[i] = -1;
        m->is_name_synced[i] = true;
        if (file >= 0) {
            int64_t size = kelpie__os_pread(m->f.os, file, m->files[i].bytes, MODEL_BYTES, 0);
            assert_true(size >= 0);
            m->files[i].size = (uint32_t)size;
            m->files[i].names = 1;
            m->files[i].is_synced = true;
            m->of_name[i] = (int)i;
            kelpie__os_close(m->f.os, file);
        }
    }
}

/* A file that two names led to before the crash (a rename half done) gets a single one. */
static void model_separate(struct model *m) {
    struct kelpie_os_stat stats[MODEL_NAMES] = {0};
    char name[16];
    for (unsigned i = 0; i < MODEL_NAMES; i += 1) {
        kelpie__ignore(
            kelpie__os_stat(m->f.os, m->directories[i % 2], name_of(i, name), false, &stats[i]));
        for (unsigned j = 0; j < i && stats[i].inode != 0; j += 1) {
            if (stats[j].inode == stats[i].inode) {
                assert_int_equal(kelpie__os_unlink(m->f.os, m->directories[i % 2], name, false), 0);
                stats[i].inode = 0;
            }
        }
    }
    for (unsigned i = 0; i < 2; i += 1) {
        assert_int_equal(kelpie__os_sync(m->f.os, m->directories[i]), 0);
    }
}

static void test_what_was_synced_survives_any_crash(void **state) {
    static const enum sim_disk_profile profiles[] = {SIM_DISK_EXT4, SIM_DISK_POSIX};
    kelpie__ignore(state != NULL);
    for (unsigned i = 0; i < 2; i += 1) {
        struct model *m = calloc(1, sizeof(*m));
        unsigned checked = 0;
        assert_non_null(m);
        begin(&m->f, 1, profiles[i], NULL);
        m->random = 4711 + i;
        assert_int_equal(kelpie__os_mkdir(m->f.os, m->f.work, "a", 0700), 0);
        assert_int_equal(kelpie__os_mkdir(m->f.os, m->f.work, "b", 0700), 0);
        assert_int_equal(kelpie__os_sync(m->f.os, m->f.work), 0);
        model_open_directories(m);
        model_reload(m);
        for (unsigned crash = 0; crash < 1000; crash += 1) {
            for (uint64_t n = draw(m, 60); n > 0; n -= 1) {
                model_step(m);
            }
            kelpie__sim_disk_crash(m->f.disk);
            kelpie__os_close(m->f.os, m->directories[0]);
            kelpie__os_close(m->f.os, m->directories[1]);
            model_open_directories(m);
            for (unsigned n = 0; n < MODEL_NAMES; n += 1) {
                if (m->is_name_synced[n] &&
                    (m->of_name[n] < 0 || m->files[m->of_name[n]].is_synced)) {
                    model_verify(m, n);
                    checked += m->of_name[n] >= 0;
                }
            }
            model_separate(m);
            model_reload(m);
        }
        assert_true(checked > 2000);
        end(&m->f);
        free(m);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_was_synced_survives_any_crash),
        cmocka_unit_test(test_hundred_thousand_operations_beside_a_model),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
