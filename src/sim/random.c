/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Chance: one generator (xoshiro256**, Blackman and Vigna) for each stream, seeded from the world's
 * seed and the stream's number, so that a draw added to one moves no other. Integers only: every
 * compiler gives the same.
 */
#include "sim/core.h"

#define ABOUT_DRAWS 4u       /* 16-bit numbers whose sum is nearly normal */
#define ABOUT_SCALE_SHIFT 16 /* exponents are multiples of 2^-16 */
#define BILLION 1000000000u

static uint64_t split_mix(uint64_t *state) {
    *state += UINT64_C(0x9e3779b97f4a7c15);
    uint64_t mixed = *state;
    mixed = (mixed ^ (mixed >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    mixed = (mixed ^ (mixed >> 27)) * UINT64_C(0x94d049bb133111eb);
    return mixed ^ (mixed >> 31);
}

void kelpie__sim_random_seed(uint64_t state[4], uint64_t seed, uint64_t salt) {
    uint64_t mixed = salt * UINT64_C(0xd1342543de82ef95) + 1;
    mixed = seed ^ split_mix(&mixed);
    for (unsigned i = 0; i < 4; i += 1) {
        state[i] = split_mix(&mixed);
    }
    KELPIE_ASSERT((state[0] | state[1] | state[2] | state[3]) != 0);
}

uint64_t kelpie__sim_draw(struct sim_world *world, enum sim_stream stream) {
    KELPIE_ASSERT((unsigned)stream < SIM_STREAM_COUNT);
    return kelpie__sim_random_next(world->streams[stream]);
}

uint64_t kelpie__sim_below(struct sim_world *world, enum sim_stream stream, uint64_t bound) {
    KELPIE_ASSERT(bound > 0);
    __extension__ typedef unsigned __int128 wide;
    return (uint64_t)((wide)kelpie__sim_draw(world, stream) * bound >> 64);
}

bool kelpie__sim_chance(struct sim_world *world, enum sim_stream stream, uint32_t billionth) {
    KELPIE_ASSERT(billionth <= BILLION);
    return billionth > 0 && kelpie__sim_below(world, stream, BILLION) < billionth;
}

/* 2^(exponent / 65536) times `value`; the fraction by a parabola, 0.3 % off at most. */
static int64_t scale(int64_t value, int64_t exponent) {
    int64_t whole = exponent >> ABOUT_SCALE_SHIFT;
    int64_t fraction = exponent & ((1 << ABOUT_SCALE_SHIFT) - 1);
    int64_t factor =
        (1 << ABOUT_SCALE_SHIFT) +
        ((fraction * (43025 + ((22511 * fraction) >> ABOUT_SCALE_SHIFT))) >> ABOUT_SCALE_SHIFT);
    __extension__ typedef __int128 wide;
    wide product = (wide)value * factor >> ABOUT_SCALE_SHIFT;
    return (int64_t)(whole >= 0 ? product << whole : product >> -whole);
}

int64_t kelpie__sim_about(struct sim_world *world, enum sim_stream stream, int64_t median) {
    KELPIE_ASSERT(median >= 0 && median <= INT64_MAX / 16);
    uint64_t draw = kelpie__sim_draw(world, stream);
    int64_t sum = 0;
    for (unsigned i = 0; i < ABOUT_DRAWS; i += 1) {
        sum += (int64_t)((draw >> (16 * i)) & 0xffff) - 0x7fff;
    }
    /* the sum's deviation is 37,837; that of the exponent becomes half a power of two */
    int64_t value = scale(median, sum * 7 / 8);
    int64_t low = median / 4;
    int64_t high = median * 8;
    value = value < low ? low : value;
    return value > high ? high : value;
}
