/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Measuring the time-stamp counter: see tsc.h.
 */
#include "vmm/qemu/tsc.h"

#include <stdio.h>
#include <string.h>

#include "core/json.h"
#include "core/limits.h"
#include "core/small_file.h"
#include "os/os_call.h"

#define TSC_FILE "tsc.json"
#define TSC_SPAN_NS (20 * KELPIE_NS_PER_MS)
#define TSC_AGREE_PPM_MAX 200u
#define TSC_GUEST_PPM_MAX 1000u
#define TSC_ROUND_COUNT_MAX 8u
#define TSC_TRIES_PER_READING 8u
#define TSC_KHZ_MIN 100000u   /* 100 MHz */
#define TSC_KHZ_MAX 20000000u /* 20 GHz */
#define TSC_BOOT_ID_BYTES_MAX 64u

/* One reading, as close together as the scheduler lets us: the best of a few. */
static struct kelpie_tsc_reading tsc_read(struct kelpie_os *os) {
    struct kelpie_tsc_reading best = {0};
    int64_t best_gap_ns = INT64_MAX;
    for (uint32_t i = 0; i < TSC_TRIES_PER_READING; i += 1) {
        int64_t before_ns = kelpie__os_now(os, KELPIE_OS_CLOCK_RAW);
        uint64_t cycles = kelpie__os_cycles(os);
        int64_t after_ns = kelpie__os_now(os, KELPIE_OS_CLOCK_RAW);
        KELPIE_ASSERT(after_ns >= before_ns);
        if (after_ns - before_ns < best_gap_ns) {
            best_gap_ns = after_ns - before_ns;
            best.cycles = cycles;
            best.raw_ns = before_ns + best_gap_ns / 2;
        }
    }
    KELPIE_ASSERT(best_gap_ns < INT64_MAX);
    return best;
}

/* 0 when the two readings make no sense together. */
static uint64_t tsc_khz(uint64_t cycles, uint64_t elapsed_ns) {
    uint64_t scaled = 0;
    if (elapsed_ns == 0 || __builtin_mul_overflow(cycles, UINT64_C(1000000), &scaled)) {
        return 0;
    }
    uint64_t khz = scaled / elapsed_ns;
    return khz >= TSC_KHZ_MIN && khz <= TSC_KHZ_MAX ? khz : 0;
}

static uint64_t tsc_khz_between(const struct kelpie_tsc_reading *from,
                                const struct kelpie_tsc_reading *to) {
    if (to->raw_ns <= from->raw_ns || to->cycles <= from->cycles) {
        return 0;
    }
    return tsc_khz(to->cycles - from->cycles, (uint64_t)(to->raw_ns - from->raw_ns));
}

static uint64_t tsc_difference_ppm(uint64_t a_khz, uint64_t b_khz) {
    KELPIE_ASSERT(a_khz > 0 && b_khz > 0);
    uint64_t difference = a_khz > b_khz ? a_khz - b_khz : b_khz - a_khz;
    KELPIE_ASSERT(difference <= TSC_KHZ_MAX);
    return difference * 1000000u / b_khz;
}

static bool tsc_boot_id(struct kelpie_os *os, char *out, size_t capacity) {
    int64_t length = kelpie__small_file_read(os, "/proc/sys/kernel/random/boot_id", out, capacity);
    while (length > 0 && out[length - 1] == '\n') {
        length -= 1;
        out[length] = '\0';
    }
    return length > 0;
}

bool kelpie__tsc_recall(struct kelpie_os *os, const char *cache_directory, uint64_t *out_khz) {
    KELPIE_ASSERT(cache_directory[0] != '\0');
    char text[512];
    char boot_id[TSC_BOOT_ID_BYTES_MAX];
    char found_id[TSC_BOOT_ID_BYTES_MAX];
    struct kelpie_json_value value;
    uint64_t khz = 0;
    int64_t length = kelpie__small_file_read_in(os, cache_directory, TSC_FILE, text, sizeof(text));
    if (length <= 0 || !tsc_boot_id(os, boot_id, sizeof(boot_id))) {
        return false;
    }
    bool is_ours = kelpie__json_find(text, (size_t)length, "boot_id", &value) == 0 &&
                   kelpie__json_string(&value, found_id, sizeof(found_id), NULL) == 0 &&
                   strcmp(found_id, boot_id) == 0 &&
                   kelpie__json_find(text, (size_t)length, "khz", &value) == 0 &&
                   kelpie__json_u64(&value, &khz) == 0;
    if (!is_ours || khz < TSC_KHZ_MIN || khz > TSC_KHZ_MAX) {
        return false;
    }
    *out_khz = khz;
    return true;
}

static void tsc_remember(struct kelpie_tsc *tsc, uint64_t khz) {
    KELPIE_ASSERT(khz >= TSC_KHZ_MIN && khz <= TSC_KHZ_MAX);
    char text[512];
    char boot_id[TSC_BOOT_ID_BYTES_MAX];
    if (!tsc_boot_id(tsc->os, boot_id, sizeof(boot_id))) {
        return;
    }
    int length = snprintf(text, sizeof(text), "{\"format\":1,\"boot_id\":\"%s\",\"khz\":%llu}\n",
                          boot_id, (unsigned long long)khz);
    KELPIE_ASSERT(length > 0 && (size_t)length < sizeof(text));
    /* A cache that cannot be written costs the next start 40 ms. */
    kelpie__ignore(kelpie__small_file_replace_in(tsc->os, tsc->cache_directory, TSC_FILE, text,
                                                 (size_t)length, NULL));
}

static void tsc_finish(struct kelpie_tsc *tsc, int status, uint64_t khz,
                       const struct kelpie_error *error) {
    KELPIE_ASSERT(tsc->callback != NULL);
    KELPIE_ASSERT(status == 0 || error != NULL);
    kelpie_tsc_callback callback = tsc->callback;
    tsc->callback = NULL;
    callback(tsc->context, status, khz, error);
}

static void tsc_step(void *context) {
    struct kelpie_tsc *tsc = context;
    KELPIE_ASSERT(tsc->reading_count < KELPIE_ARRAY_COUNT(tsc->readings));
    tsc->readings[tsc->reading_count] = tsc_read(tsc->os);
    tsc->reading_count += 1;
    if (tsc->readings[0].cycles == 0) {
        tsc_finish(tsc, 0, 0, NULL); /* no counter at all */
        return;
    }
    if (tsc->reading_count < KELPIE_ARRAY_COUNT(tsc->readings)) {
        kelpie__timer_arm(tsc->loop, &tsc->timer, tsc->loop->now_ns + TSC_SPAN_NS, tsc_step, tsc);
        return;
    }
    uint64_t first_khz = tsc_khz_between(&tsc->readings[0], &tsc->readings[1]);
    uint64_t second_khz = tsc_khz_between(&tsc->readings[1], &tsc->readings[2]);
    if (first_khz > 0 && second_khz > 0 &&
        tsc_difference_ppm(first_khz, second_khz) <= TSC_AGREE_PPM_MAX) {
        uint64_t khz = tsc_khz_between(&tsc->readings[0], &tsc->readings[2]);
        tsc_remember(tsc, khz);
        tsc_finish(tsc, 0, khz, NULL);
        return;
    }
    tsc->round_count += 1;
    if (tsc->round_count < TSC_ROUND_COUNT_MAX) {
        tsc->readings[0] = tsc->readings[2];
        tsc->reading_count = 1;
        kelpie__timer_arm(tsc->loop, &tsc->timer, tsc->loop->now_ns + TSC_SPAN_NS, tsc_step, tsc);
        return;
    }
    struct kelpie_error error = {0};
    int status = kelpie__fail(
        &error, KELPIE_E_BOOT, 0,
        "the host's time-stamp counter is not steady: %llu kHz, then %llu kHz, %u times",
        (unsigned long long)first_khz, (unsigned long long)second_khz, TSC_ROUND_COUNT_MAX);
    tsc_finish(tsc, status, 0, &error);
}

void kelpie__tsc_measure(struct kelpie_tsc *tsc, struct kelpie_os *os, struct kelpie_loop *loop,
                         const char *cache_directory, kelpie_tsc_callback callback, void *context) {
    KELPIE_ASSERT(callback != NULL);
    KELPIE_ASSERT(tsc->callback == NULL);
    *tsc = (struct kelpie_tsc){.os = os,
                               .loop = loop,
                               .cache_directory = cache_directory,
                               .callback = callback,
                               .context = context};
    kelpie__timer_arm(loop, &tsc->timer, loop->now_ns, tsc_step, tsc);
}

void kelpie__tsc_cancel(struct kelpie_tsc *tsc) {
    if (tsc->callback != NULL) {
        kelpie__timer_disarm(tsc->loop, &tsc->timer);
        tsc->callback = NULL;
    }
}

int kelpie__tsc_compare(uint64_t host_khz, const struct kelpie_vmm_guest_clock *clock,
                        struct kelpie_error *error) {
    KELPIE_ASSERT(host_khz >= TSC_KHZ_MIN && host_khz <= TSC_KHZ_MAX);
    uint64_t guest_khz = 0;
    if (clock->second_tsc > clock->first_tsc &&
        clock->second_monotonic_ns > clock->first_monotonic_ns) {
        guest_khz = tsc_khz(clock->second_tsc - clock->first_tsc,
                            clock->second_monotonic_ns - clock->first_monotonic_ns);
    }
    if (guest_khz == 0) {
        return kelpie__fail(error, KELPIE_E_BOOT, 0, "the guest's clock readings make no sense");
    }
    uint64_t difference_ppm = tsc_difference_ppm(guest_khz, host_khz);
    if (difference_ppm > TSC_GUEST_PPM_MAX) {
        return kelpie__fail(
            error, KELPIE_E_BOOT, 0,
            "the guest's clock counts %llu kHz, the host's %llu kHz: %llu ppm apart,"
            " at most %u",
            (unsigned long long)guest_khz, (unsigned long long)host_khz,
            (unsigned long long)difference_ppm, TSC_GUEST_PPM_MAX);
    }
    return 0;
}
