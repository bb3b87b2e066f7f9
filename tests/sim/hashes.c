/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Goal: the same seed gives the same world, whatever compiler, optimisation or sanitizer built it.
 * Method: prints the hashes of many worlds, with schedules, load and swarms of faults;
 * tools/check-hashes compares what several builds print.
 */
#include "life.h"

#include "sim/fault.h"

#define SEEDS 60u
#define PLAN_BYTES 16384u

int main(void) {
    static char plan[PLAN_BYTES];
    struct sim_nursery *nursery = kelpie__sim_nursery_create();
    for (uint64_t seed = 1; seed <= SEEDS; seed += 1) {
        bool has_faults = seed % 2 == 0;
        if (has_faults) {
            kelpie__ignore((int64_t)kelpie__sim_faults_swarm(seed, plan, sizeof(plan)));
        }
        const struct sim_options options = {.seed = seed,
                                            .schedule = (enum sim_schedule)(seed % 3),
                                            .cost_factor = seed % 5 == 0 ? 100 : 1,
                                            .preempt_billionth = seed % 7 == 0 ? 10000000 : 0,
                                            .partial_billionth = seed % 4 == 0 ? 100000000 : 0,
                                            .has_kvm = seed % 8 != 0,
                                            .plan = has_faults ? plan : NULL,
                                            .nursery = nursery};
        struct life life = {.role = "client"};
        struct sim_world *world = life_world(&options, &life);
        enum sim_run_end end = kelpie__sim_world_run(world, NULL, NULL, 300 * SECOND);
        printf("seed %llu: end %d at %lld ns, %llu calls, hash %016llx\n", (unsigned long long)seed,
               (int)end, (long long)kelpie__sim_now(world),
               (unsigned long long)kelpie__sim_world_calls(world),
               (unsigned long long)kelpie__sim_world_hash(world));
        kelpie__sim_world_destroy(world);
    }
    kelpie__sim_nursery_destroy(nursery);
    return 0;
}
