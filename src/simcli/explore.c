/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * kelpie-sim explore: where a mark (os/os_mark.h) is reached for the first time, the run is forked,
 * world and all, and each child goes on with other draws from there. So what is rare is reached
 * from what is rare. A recipe says how a mark was reached: SEED@DRAW:SEED@DRAW..., run the first
 * seed, at its DRAW-th call go on with the next one; the last DRAW is the mark itself.
 */
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/limits.h"
#include "core/text.h"
#include "os/os_call.h"
#include "sim/world.h"
#include "simcli/crew.h"
#include "simcli/simcli.h"

#define EXPLORE_MARKS_MAX 1024u
#define EXPLORE_NAME_BYTES 64u
#define EXPLORE_RECIPE_BYTES 512u
#define EXPLORE_DEPTH_MAX 8u
#define EXPLORE_CHILDREN 4u
#define EXPLORE_FORKS_MAX 4096u
#define EXPLORE_SEED_STEP UINT64_C(0x9e3779b97f4a7c15)

struct explored {
    char name[EXPLORE_NAME_BYTES];
    char recipe[EXPLORE_RECIPE_BYTES];
    _Atomic uint64_t hits;
};

/* What all forks see. One of them runs at a time, so it needs no lock. */
struct map {
    _Atomic uint32_t mark_count;
    _Atomic uint32_t forks;
    _Atomic uint64_t runs;
    _Atomic uint32_t failed;
    char failure[SIM_RUN_REASON_BYTES_MAX];
    char failure_recipe[EXPLORE_RECIPE_BYTES];
    struct explored marks[EXPLORE_MARKS_MAX];
};

struct explore {
    struct map *map;
    uint64_t seed; /* of the draws now */
    uint32_t depth;
    char recipe[EXPLORE_RECIPE_BYTES]; /* "12@3456:" of the forks so far */
    /* of a replay: */
    uint64_t seeds[EXPLORE_DEPTH_MAX + 2];
    uint64_t draws[EXPLORE_DEPTH_MAX + 2];
    uint32_t step;
    uint32_t step_count; /* 0: no replay */
    char reached[EXPLORE_NAME_BYTES];
};

static void explore_check(const struct explore *explore) {
    KELPIE_ASSERT(explore->map != NULL || explore->step_count > 0);
    KELPIE_ASSERT(explore->depth <= EXPLORE_DEPTH_MAX);
    KELPIE_ASSERT(explore->step <= explore->step_count);
    KELPIE_ASSERT(explore->step_count <= KELPIE_ARRAY_COUNT(explore->seeds));
}

/* The mark's place in the map; NULL: it is full. *out_is_new: nobody was here before. */
static struct explored *mark_of(struct map *map, const char *name, bool *out_is_new) {
    uint32_t count = atomic_load(&map->mark_count);
    KELPIE_ASSERT(count <= EXPLORE_MARKS_MAX);
    *out_is_new = false;
    for (uint32_t i = 0; i < count; i += 1) {
        if (strncmp(map->marks[i].name, name, EXPLORE_NAME_BYTES - 1) == 0) {
            return &map->marks[i];
        }
    }
    if (count == EXPLORE_MARKS_MAX) {
        return NULL;
    }
    kelpie__ignore(snprintf(map->marks[count].name, EXPLORE_NAME_BYTES, "%.63s", name));
    atomic_store(&map->mark_count, count + 1);
    *out_is_new = true;
    return &map->marks[count];
}

static void note_failure(struct map *map, const char *reason, const char *recipe, uint64_t seed,
                         uint64_t draw) {
    KELPIE_ASSERT(reason[0] != '\0');
    if (atomic_fetch_add(&map->failed, 1) == 0) {
        kelpie__ignore(snprintf(map->failure, sizeof(map->failure), "%s", reason));
        kelpie__ignore(kelpie__text_format(map->failure_recipe, sizeof(map->failure_recipe),
                                           "%s%llu@%llu", recipe, (unsigned long long)seed,
                                           (unsigned long long)draw));
    }
}

/* A child that an assertion ended cannot say it itself. */
static void note_crash(const struct explore *explore, const struct sim_world *world, uint64_t seed,
                       int signal) {
    char recipe[EXPLORE_RECIPE_BYTES];
    char reason[64];
    bool fits = kelpie__text_format(recipe, sizeof(recipe), "%s%llu@%llu:", explore->recipe,
                                    (unsigned long long)explore->seed,
                                    (unsigned long long)kelpie__sim_world_calls(world)) &&
                kelpie__text_format(reason, sizeof(reason), "crash: signal %d", signal);
    explore_check(explore);
    KELPIE_ASSERT(fits);
    note_failure(explore->map, reason, recipe, seed, 0);
}

/* Children go on from here, one after the other; the parent then does what it would have done. */
static void fork_children(struct explore *explore, struct sim_world *world) {
    explore_check(explore);
    KELPIE_ASSERT(explore->depth < EXPLORE_DEPTH_MAX && explore->step_count == 0);
    for (uint32_t i = 0; i < EXPLORE_CHILDREN; i += 1) {
        if (atomic_fetch_add(&explore->map->forks, 1) >= EXPLORE_FORKS_MAX) {
            return;
        }
        uint64_t seed = (explore->seed + i + 1) * EXPLORE_SEED_STEP;
        pid_t pid = kelpie__simcli_fork();
        if (pid == 0) {
            char recipe[EXPLORE_RECIPE_BYTES];
            bool fits = kelpie__text_format(recipe, sizeof(recipe), "%s%llu@%llu:", explore->recipe,
                                            (unsigned long long)explore->seed,
                                            (unsigned long long)kelpie__sim_world_calls(world));
            KELPIE_ASSERT(fits);
            memcpy(explore->recipe, recipe, sizeof(explore->recipe));
            explore->seed = seed;
            explore->depth += 1;
            kelpie__sim_world_reseed(world, seed);
            return;
        }
        int status = 0;
        if (pid > 0 && waitpid(pid, &status, 0) == pid && !WIFEXITED(status)) {
            note_crash(explore, world, seed, WTERMSIG(status));
        }
    }
}

static void on_replayed_mark(struct explore *explore, struct sim_world *world, const char *name) {
    bool is_there = explore->step < explore->step_count &&
                    kelpie__sim_world_calls(world) == explore->draws[explore->step];
    explore_check(explore);
    if (!is_there) {
        return;
    }
    explore->step += 1;
    if (explore->step < explore->step_count) {
        kelpie__sim_world_reseed(world, explore->seeds[explore->step]);
    } else {
        kelpie__ignore(snprintf(explore->reached, sizeof(explore->reached), "%.63s", name));
    }
}

static void on_event(void *context, struct sim_world *world, const struct sim_event *event) {
    struct explore *explore = context;
    bool is_new = false;
    explore_check(explore);
    if (event->type != SIM_EVENT_MARK) {
        return;
    }
    if (explore->step_count > 0) {
        on_replayed_mark(explore, world, event->detail);
        return;
    }
    struct explored *mark = mark_of(explore->map, event->detail, &is_new);
    if (mark == NULL) {
        return;
    }
    atomic_fetch_add(&mark->hits, 1);
    if (is_new) {
        kelpie__ignore(kelpie__text_format(mark->recipe, sizeof(mark->recipe), "%s%llu@%llu",
                                           explore->recipe, (unsigned long long)explore->seed,
                                           (unsigned long long)kelpie__sim_world_calls(world)));
        if (explore->depth < EXPLORE_DEPTH_MAX) {
            fork_children(explore, world);
        }
    }
}

static void begun(void *context, struct sim_world *world) {
    kelpie__sim_world_observe(world, on_event, context);
}

/* One run, and in forks of it the rest of one. */
static void explore_run(struct simcli *simcli, struct explore *explore,
                        struct sim_run_result *out) {
    struct sim_run_options options;
    explore_check(explore);
    kelpie__simcli_check(simcli);
    kelpie__simcli_run_options(simcli, explore->seed, &options);
    options.begun = begun;
    options.begun_context = explore;
    kelpie__sim_run(&options, out);
}

static void explore_seed(struct simcli *simcli, struct map *map, uint64_t seed) {
    struct explore explore = {.map = map, .seed = seed};
    struct sim_run_result result;
    kelpie__simcli_check(simcli);
    explore_run(simcli, &explore, &result);
    atomic_fetch_add(&map->runs, 1);
    if (result.verdict != KELPIE_SIM_PASS) {
        note_failure(map, result.reason, explore.recipe, explore.seed, result.calls);
    }
    kelpie__sim_run_release(&result);
    if (explore.depth > 0) {
        _exit(0);
    }
}

/* "1@20:7@99": false: it is none. */
static bool parse_recipe(const char *text, struct explore *out) {
    const char *at = text;
    KELPIE_ASSERT(out->step_count == 0);
    while (*at != '\0' && out->step_count < KELPIE_ARRAY_COUNT(out->seeds)) { /* bound: the text */
        char part[64];
        size_t length = strcspn(at, ":");
        const char *sign = memchr(at, '@', length);
        if (sign == NULL || length >= sizeof(part)) {
            return false;
        }
        memcpy(part, at, length);
        part[length] = '\0';
        part[sign - at] = '\0';
        if (!kelpie__text_u64(part, &out->seeds[out->step_count]) ||
            !kelpie__text_u64(part + (sign - at) + 1, &out->draws[out->step_count])) {
            return false;
        }
        out->step_count += 1;
        at += at[length] == ':' ? length + 1 : length;
    }
    return out->step_count > 0 && *at == '\0';
}

static int replay(struct simcli *simcli) {
    struct explore explore = {0};
    struct sim_run_result result;
    kelpie__simcli_check(simcli);
    if (!parse_recipe(simcli->word, &explore)) {
        fprintf(stderr, "kelpie-sim: \"%s\" is no recipe; expected SEED@DRAW:SEED@DRAW...\n",
                simcli->word);
        return KELPIE_SIM_USAGE;
    }
    explore.seed = explore.seeds[0];
    explore_run(simcli, &explore, &result);
    printf("%s: %s%s; %s %s, hash %016llx\n", simcli->word,
           explore.reached[0] != '\0' ? "reaches " : "reaches no mark at its end", explore.reached,
           result.verdict == KELPIE_SIM_PASS ? "pass" : "FAIL:", result.reason,
           (unsigned long long)result.hash);
    int code = (int)result.verdict;
    kelpie__sim_run_release(&result);
    return code;
}

static void tell(const struct map *map) {
    uint32_t count = atomic_load(&map->mark_count);
    KELPIE_ASSERT(map->mark_count <= EXPLORE_MARKS_MAX);
    for (uint32_t i = 0; i < count; i += 1) {
        printf("%8llu  %-48s %s\n", (unsigned long long)atomic_load(&map->marks[i].hits),
               map->marks[i].name, map->marks[i].recipe);
    }
    printf("%llu runs, %u marks, %u failed\n", (unsigned long long)atomic_load(&map->runs), count,
           atomic_load(&map->failed));
    if (atomic_load(&map->failed) > 0) {
        printf("  FAIL %s (%u runs)\n    kelpie-sim explore %s\n", map->failure,
               atomic_load(&map->failed), map->failure_recipe);
    }
}

int kelpie__simcli_explore(struct simcli *simcli) {
    kelpie__simcli_check(simcli);
#ifndef KELPIE_SIMULATION
    fprintf(stderr, "kelpie-sim: this build has no marks; build with -Dsimulation=true\n");
    return KELPIE_SIM_USAGE;
#endif
    if (simcli->word != NULL) {
        return replay(simcli);
    }
    struct map *map =
        mmap(NULL, sizeof(*map), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (map == MAP_FAILED) {
        fprintf(stderr, "kelpie-sim: no memory for the marks\n");
        return KELPIE_SIM_CRASHED;
    }
    int64_t end_ns = kelpie__os_now(simcli->os, KELPIE_OS_CLOCK_MONOTONIC) +
                     (int64_t)simcli->minutes * 60 * KELPIE_NS_PER_S;
    for (uint64_t i = 0; i < simcli->seed_count; i += 1) {
        if (simcli->minutes > 0 &&
            kelpie__os_now(simcli->os, KELPIE_OS_CLOCK_MONOTONIC) >= end_ns) {
            break;
        }
        explore_seed(simcli, map, simcli->seed_first + i);
    }
    tell(map);
    int code = atomic_load(&map->failed) > 0 ? KELPIE_SIM_BROKEN : 0;
    munmap(map, sizeof(*map));
    return code;
}
