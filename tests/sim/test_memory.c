/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Memory of the simulator itself. Goal: a campaign of any length fits into 64 MiB: what one world
 * has used is nobody's when it is over, and a guest sees no byte of another. Method: the kernel's
 * word for what is there, for a heap alone and after the same runs once and three times.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "core/base.h"
#include "sim/guest_state.h"
#include "sim/heap.h"
#include "sim/run.h"
#include "sim/world.h"

#define HEAP_BYTES (UINT64_C(256) << 20)
#define HEAP_KEPT_BYTES (1u << 20)
#define PAGE_BYTES 4096u
#define BLOCK_BYTES (256u * 1024u)
#define BLOCK_COUNT 256u
#define RUN_SEEDS 40u
#define RUN_GROWTH_KIB_MAX 512u
#define RUN_PEAK_KIB_MAX (64u * 1024u)
/* of the first 30,000, one that needs more than all but a few */
#define RUN_HUNGRY_SEED 5566u

#define KILLED_SEEDS 24u
#define KILLED_COMMANDS 6u
#define KILLED_VALUE 20u /* and more: of 158,000 bytes and more */
#define KILLED_GROWTH_BYTES_MAX (64u * 1024u)

/* What the C library has given out. */
static size_t heap_bytes(void) {
    const struct mallinfo2 info = mallinfo2();
    return info.uordblks + info.hblkhd;
}

static uint64_t status_kib(const char *name) {
    char line[256];
    uint64_t kib = 0;
    FILE *file = fopen("/proc/self/status", "r");
    assert_non_null(file);
    while (fgets(line, sizeof(line), file) != NULL) { /* bound: the file */
        if (strncmp(line, name, strlen(name)) == 0) {
            kib = strtoull(line + strlen(name), NULL, 10);
        }
    }
    fclose(file);
    assert_true(kib > 0);
    return kib;
}

static uint64_t resident_pages(void *base, size_t bytes) {
    static unsigned char pages[HEAP_BYTES / PAGE_BYTES];
    uint64_t count = 0;
    assert_int_equal(mincore(base, bytes, pages), 0);
    for (size_t i = 0; i < bytes / PAGE_BYTES; i += 1) {
        count += pages[i] & 1;
    }
    return count;
}

static void test_large_free_blocks_keep_little(void **state) {
    void *blocks[BLOCK_COUNT];
    (void)state;
    void *base = kelpie__sim_heap_reserve(HEAP_BYTES);
    struct sim_heap *heap = kelpie__sim_heap_init(base, HEAP_BYTES, HEAP_KEPT_BYTES);
    for (unsigned turn = 0; turn < 3; turn += 1) {
        for (unsigned i = 0; i < BLOCK_COUNT; i += 1) {
            blocks[i] = kelpie__sim_heap_alloc_raw(heap, BLOCK_BYTES);
            assert_non_null(blocks[i]);
            memset(blocks[i], 0xa5, BLOCK_BYTES);
        }
        assert_true(resident_pages(base, HEAP_BYTES) >= BLOCK_COUNT * BLOCK_BYTES / PAGE_BYTES);
        for (unsigned i = 0; i < BLOCK_COUNT; i += 1) {
            kelpie__sim_heap_free(heap, blocks[i], BLOCK_BYTES);
        }
        assert_true(resident_pages(base, HEAP_BYTES) <= BLOCK_COUNT * BLOCK_BYTES / PAGE_BYTES / 3);
    }
    const uint8_t *zeroed = kelpie__sim_heap_alloc(heap, BLOCK_BYTES);
    for (unsigned i = 0; i < BLOCK_BYTES; i += 1) {
        assert_int_equal(zeroed[i], 0);
    }
    kelpie__sim_heap_trim(heap, HEAP_KEPT_BYTES);
    assert_true(resident_pages(base, HEAP_BYTES) <= HEAP_KEPT_BYTES / PAGE_BYTES);
    kelpie__sim_heap_unreserve(base, HEAP_BYTES);
}

/* Its first page, which is the heap's, and nothing else up to `pages`. */
static struct sim_guest_copy copy_of_first_page(struct sim_heap *heap, const void *page,
                                                size_t pages) {
    struct sim_guest_copy copy = {.heap = heap, .page_count = 1, .line_count = 64};
    copy.extent = pages * PAGE_BYTES;
    copy.pages = kelpie__sim_heap_alloc_raw(heap, sizeof(*copy.pages) + PAGE_BYTES);
    assert_non_null(copy.pages);
    copy.pages[0] = (struct sim_guest_page){.number = 0};
    memcpy(copy.pages + 1, page, PAGE_BYTES);
    return copy;
}

/* Three guests of one range: a large one that has left its bytes, a small one that is there, and
 * one that comes, in which the first one's pages are zero. Seed 109081 of the swarm. */
static void test_a_guest_sees_nothing_of_one_before(void **state) {
    (void)state;
    void *host_base = kelpie__sim_heap_reserve(HEAP_BYTES);
    uint8_t *base = kelpie__sim_heap_reserve(HEAP_BYTES);
    struct sim_heap *host = kelpie__sim_heap_init(host_base, HEAP_BYTES, HEAP_BYTES);
    struct sim_heap *heap = kelpie__sim_heap_init(base, HEAP_BYTES, HEAP_BYTES);
    void *left = kelpie__sim_heap_alloc_raw(heap, 8 * PAGE_BYTES);
    struct sim_guest_copy small = copy_of_first_page(host, base, 1);
    struct sim_guest_copy comes = copy_of_first_page(host, base, 6);
    memset(left, 0xa5, 8 * PAGE_BYTES);
    kelpie__sim_guest_copy_restore(&comes, base, &small);
    for (size_t i = PAGE_BYTES; i < comes.extent; i += 1) {
        assert_int_equal(base[i], 0);
    }
    kelpie__sim_guest_copy_drop(&small);
    kelpie__sim_guest_copy_drop(&comes);
    kelpie__sim_heap_unreserve(base, HEAP_BYTES);
    kelpie__sim_heap_unreserve(host_base, HEAP_BYTES);
}

static void run_seed(struct sim_nursery *nursery, uint64_t seed) {
    const struct sim_run_options options = {
        .seed = seed, .faults = SIM_RUN_FAULTS_SWARM, .nursery = nursery};
    struct sim_run_result result;
    kelpie__sim_run(&options, &result);
    assert_int_equal(result.verdict, KELPIE_SIM_PASS);
    kelpie__sim_run_release(&result);
}

static void test_worlds_leave_nothing_and_fit(void **state) {
    uint64_t before_kib = 0;
    (void)state;
    struct sim_nursery *nursery = kelpie__sim_nursery_create();
    assert_non_null(nursery);
    run_seed(nursery, RUN_HUNGRY_SEED);
    for (unsigned turn = 0; turn < 3; turn += 1) {
        for (uint64_t seed = 0; seed < RUN_SEEDS; seed += 1) {
            run_seed(nursery, seed);
        }
        before_kib = turn == 0 ? status_kib("VmRSS:") : before_kib;
    }
    uint64_t after_kib = status_kib("VmRSS:");
    uint64_t peak_kib = status_kib("VmHWM:");
    print_message("resident %llu KiB, then %llu; peak %llu\n", (unsigned long long)before_kib,
                  (unsigned long long)after_kib, (unsigned long long)peak_kib);
    assert_true(after_kib <= before_kib + RUN_GROWTH_KIB_MAX);
    assert_true(peak_kib <= RUN_PEAK_KIB_MAX);
    kelpie__sim_nursery_destroy(nursery);
}

/* What a client holds belongs to its process, which may be killed at any call. */
static void test_a_killed_client_leaves_nothing(void **state) {
    struct sim_operation operations[KILLED_COMMANDS + 2] = {
        {.op = SIM_MODEL_CREATE},
        {.op = SIM_MODEL_START},
    };
    (void)state;
    for (uint32_t i = 0; i < KILLED_COMMANDS; i += 1) {
        operations[i + 2] = (struct sim_operation){
            .op = SIM_MODEL_EXEC, .kind = SIM_COMMAND_CAT, .value = KILLED_VALUE + i};
    }
    struct sim_nursery *nursery = kelpie__sim_nursery_create();
    size_t before = 0;
    uint64_t fired = 0;
    for (uint64_t seed = 0; seed < KILLED_SEEDS; seed += 1) {
        const struct sim_run_options options = {.seed = seed,
                                                .faults = SIM_RUN_FAULTS_PLAN,
                                                .plan = "* role=client p=0.02 => kill\n",
                                                .operations = operations,
                                                .operation_count = KILLED_COMMANDS + 2,
                                                .nursery = nursery};
        struct sim_run_result result;
        kelpie__sim_run(&options, &result);
        assert_int_equal(result.verdict, KELPIE_SIM_PASS);
        fired += result.faults_fired;
        kelpie__sim_run_release(&result);
        before = seed == 0 ? heap_bytes() : before;
    }
    size_t after = heap_bytes();
    print_message("%llu kills; %zu bytes, then %zu\n", (unsigned long long)fired, before, after);
    assert_true(fired >= KILLED_SEEDS / 2);
    assert_true(after <= before + KILLED_GROWTH_BYTES_MAX);
    kelpie__sim_nursery_destroy(nursery);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_worlds_leave_nothing_and_fit),
        cmocka_unit_test(test_a_killed_client_leaves_nothing),
        cmocka_unit_test(test_large_free_blocks_keep_little),
        cmocka_unit_test(test_a_guest_sees_nothing_of_one_before),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
