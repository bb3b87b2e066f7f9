/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * A world whose disk is under test, with an embedder's process that works in /work.
 */
#ifndef KELPIE_TESTS_SIM_DISK_FIXTURE_H
#define KELPIE_TESTS_SIM_DISK_FIXTURE_H

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "os/os_call.h"
#include "sim/disk_internal.h"
#include "sim/machine.h"

#define READ KELPIE_OS_OPEN_READ
#define WRITE KELPIE_OS_OPEN_WRITE
#define CREATE KELPIE_OS_OPEN_CREATE
#define TRUNCATE KELPIE_OS_OPEN_TRUNCATE
#define DIRECTORY KELPIE_OS_OPEN_DIRECTORY
#define CWD KELPIE_OS_CWD
#define LIMIT 100000u

struct fixture {
    struct sim_world *world;
    struct kelpie_os *os;
    struct sim_disk *disk;
    int work; /* /work */
};

static inline void begin(struct fixture *f, uint64_t seed, enum sim_disk_profile profile,
                         const char *plan) {
    const struct sim_options options = {.seed = seed, .disk_profile = profile, .plan = plan};
    char problem[256] = "";
    f->world = kelpie__sim_world_create(&options, problem);
    assert_string_equal(problem, "");
    f->os = &kelpie__sim_process_adopt(f->world, "test")->os;
    f->disk = kelpie__sim_world_disk(f->world);
    assert_int_equal(kelpie__sim_disk_put_directory(f->disk, "/work", 0755), 0);
    f->work = kelpie__os_open(f->os, CWD, "/work", READ | DIRECTORY, 0);
    assert_true(f->work >= 0);
}

static inline void end(struct fixture *f) {
    kelpie__sim_disk_check(f->disk);
    kelpie__sim_world_destroy(f->world);
}

#endif
