/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * store/: snapshots as streams. Goal: what was exported comes back byte for byte, and nothing else
 * does: cut, flipped, reordered, endless, foreign, impossible ones are refused with a reason, and
 * leave nothing. Method: a tiny snapshot (tiny_snapshot.h) through memory, hurt in every way.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "core/checksum.h"
#include "core/text.h"
#include "store/transfer.h"
#include "tiny_snapshot.h"

#define STREAM_BYTES_MAX (4u << 20)

static char base[64];
static struct kelpie_os *os;
static struct kelpie_snapshot_store store;
static struct kelpie_origin origin;
static const struct kelpie_origin stranger = {.name = {1, 2, 3}};

/* A stream in memory. */
struct stream {
    uint8_t *bytes;
    size_t count;
    size_t at;
    size_t repeat_from; /* at the end it goes on from here; 0: it ends */
    size_t repeat_to;
    uint64_t read_count;
};

static struct stream whole; /* of the tiny snapshot */

static int64_t stream_read(void *context, void *out, size_t count) {
    struct stream *stream = context;
    if (stream->at >= stream->repeat_to && stream->repeat_from > 0) {
        stream->at = stream->repeat_from;
    }
    size_t end = stream->repeat_from > 0 ? stream->repeat_to : stream->count;
    size_t part = stream->at < end ? end - stream->at : 0;
    part = part < count ? part : count;
    part = part > 10000 ? 10000 : part; /* in pieces, as a pipe gives it */
    memcpy(out, stream->bytes + stream->at, part);
    stream->at += part;
    stream->read_count += part;
    return (int64_t)part;
}

static int64_t stream_write(void *context, const void *bytes, size_t count) {
    struct stream *stream = context;
    size_t part = count > 10000 ? 10000 : count;
    assert_true(stream->count + part <= STREAM_BYTES_MAX);
    memcpy(stream->bytes + stream->count, bytes, part);
    stream->count += part;
    return (int64_t)part;
}

static int run(const char *command) {
    char text[512];
    snprintf(text, sizeof(text), "cd %s && %s", base, command);
    return system(text);
}

static void export_named(const char *name, struct stream *out) {
    struct kelpie_snapshot snapshot;
    struct kelpie_error error = {0};
    const struct kelpie_parcel_output output = {.write = stream_write, .context = out};
    out->bytes = out->bytes == NULL ? malloc(STREAM_BYTES_MAX) : out->bytes;
    out->count = 0;
    assert_int_equal(kelpie__snapshot_open(&snapshot, &store, name, &error), 0);
    assert_int_equal(kelpie__snapshot_export(&snapshot, &origin, &output, &error), 0);
    kelpie__snapshot_close(&snapshot);
}

static int set_up(void **state) {
    struct kelpie_error error = {0};
    (void)state;
    const char *parent = getenv("TMPDIR");
    snprintf(base, sizeof(base), "%.40s/kelpie-transfer-XXXXXX", parent != NULL ? parent : "/tmp");
    assert_non_null(mkdtemp(base));
    os = kelpie__os_linux_create();
    assert_non_null(os);
    assert_int_equal(kelpie__snapshot_store_open(&store, os, base, "snapshots", NULL), 0);
    assert_int_equal(kelpie__origin_read(&origin, os, base, &error), 0);
    tiny_make(&store, "tiny", NULL);
    export_named("tiny", &whole);
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    free(whole.bytes);
    whole = (struct stream){0};
    kelpie__snapshot_store_close(&store);
    kelpie__os_linux_destroy(os);
    return run("rm -rf \"$PWD\"");
}

/* Names in the store, hidden ones, too. */
static uint32_t entries(void) {
    uint64_t cursor = 0;
    char name[256];
    uint32_t count = 0;
    while (kelpie__os_list(os, store.directory, &cursor, name, sizeof(name)) == 1) {
        count += 1;
    }
    return count;
}

static int import_with(struct kelpie_os *with, struct stream *stream, const char *name,
                       const struct kelpie_origin *key, struct kelpie_error *error) {
    struct kelpie_snapshot made;
    struct kelpie_snapshot_store same = store;
    const struct kelpie_parcel_input input = {.read = stream_read, .context = stream};
    const struct kelpie_snapshot_import options = {.name = name, .is_synced = true};
    same.os = with;
    stream->at = 0;
    int status = kelpie__snapshot_import(&made, &same, key, &input, &options, error);
    if (status == 0) {
        kelpie__snapshot_close(&made);
    }
    return status;
}

static void import_fails(struct stream *stream, int code, const char *text) {
    struct kelpie_error error = {0};
    int status = import_with(os, stream, "other", &origin, &error);
    if (status != code || strstr(error.message, text) == NULL) {
        print_message("%s: %s\n", kelpie_code_name(status), error.message);
    }
    assert_int_equal(status, code);
    assert_non_null(strstr(error.message, text));
    assert_int_equal(entries(), 1);
}

/* A copy that can be hurt. */
static struct stream copy_of(const struct stream *from) {
    struct stream copy = {.bytes = malloc(STREAM_BYTES_MAX), .count = from->count};
    assert_non_null(copy.bytes);
    memcpy(copy.bytes, from->bytes, from->count);
    return copy;
}

static size_t record_bytes(const struct stream *stream, size_t at) {
    uint32_t count = 0;
    memcpy(&count, stream->bytes + at + 24, sizeof(count));
    return KELPIE_PARCEL_RECORD_BYTES + count;
}

/* Where the record begins; the manifest is number 0. */
static size_t record_at(const struct stream *stream, uint32_t number) {
    size_t at = KELPIE_PARCEL_HEAD_BYTES;
    for (uint32_t i = 0; i < number; i += 1) {
        at += record_bytes(stream, at);
        assert_true(at < stream->count);
    }
    return at;
}

static void record_sum_again(const struct stream *stream, size_t at) {
    uint64_t sum = kelpie__checksum_u64(stream->bytes + at + 8, record_bytes(stream, at) - 8);
    memcpy(stream->bytes + at, &sum, sizeof(sum));
}

/* ---- whole ones ------------------------------------------------------------------------------ */

static void test_a_keyed_hash_is_that_of_its_authors(void **state) {
    static const char *const expected[] = {"a3817f04ba25a8e66df67214c7550293",
                                           "da87c1d86b99af44347659119b22fc45",
                                           "5493e99933b0a8117e08ec0f97cfc3d9"};
    static const size_t counts[] = {0, 1, 15};
    struct kelpie_keyed_hash_key key;
    uint8_t bytes[64];
    (void)state;
    for (uint8_t i = 0; i < 64; i += 1) {
        bytes[i] = i;
    }
    memcpy(key.bytes, bytes, sizeof(key.bytes));
    for (size_t i = 0; i < 3; i += 1) {
        for (size_t cut = 0; cut <= counts[i]; cut += 1) {
            struct kelpie_keyed_hash hash;
            uint8_t out[KELPIE_KEYED_HASH_BYTES];
            char text[2 * KELPIE_KEYED_HASH_BYTES + 1];
            kelpie__keyed_hash_init(&hash, &key);
            kelpie__keyed_hash_add(&hash, bytes, cut);
            kelpie__keyed_hash_add(&hash, bytes + cut, counts[i] - cut);
            kelpie__keyed_hash_finish(&hash, out);
            kelpie__text_hex(text, sizeof(text), out, sizeof(out));
            assert_string_equal(text, expected[i]);
        }
    }
}

static void test_it_comes_back_byte_for_byte(void **state) {
    struct kelpie_error error = {0};
    struct kelpie_snapshot opened;
    (void)state;
    whole.bytes[whole.count] = 'x'; /* what follows is somebody else's */
    whole.count += 1;
    assert_int_equal(import_with(os, &whole, "other", &origin, &error), 0);
    assert_int_equal(whole.at, whole.count - 1);
    assert_true(whole.count < 1u << 20); /* of 304 MiB, nearly all holes */
    for (const char *const *name =
             (const char *const[]){"config.json", "device", "memory", "map", "base", "checksums",
                                   TINY_ROOT, TINY_LAYER_0, TINY_LAYER_1, NULL};
         *name != NULL; name += 1) {
        char command[256];
        snprintf(command, sizeof(command), "cmp snapshots/tiny/%s snapshots/other/%s", *name,
                 *name);
        assert_int_equal(run(command), 0);
    }
    assert_int_equal(run("test $(du -sk snapshots/other | cut -f1) -lt 800"), 0);
    assert_int_equal(kelpie__snapshot_open(&opened, &store, "other", &error), 0);
    assert_string_equal(opened.manifest.id, TINY_ID);
    assert_string_equal(opened.manifest.name, "other");
    assert_int_equal(kelpie__snapshot_verify(&opened, true, &error), 0);
    kelpie__snapshot_close(&opened);
    assert_int_equal(import_with(os, &whole, "other", &origin, &error), KELPIE_E_EXISTS);
    assert_int_equal(import_with(os, &whole, NULL, &origin, &error), KELPIE_E_EXISTS);
    assert_int_equal(import_with(os, &whole, "../up", &origin, &error), KELPIE_E_CONFIG);
    assert_int_equal(entries(), 2);
}

static void test_a_foreign_one_needs_trust(void **state) {
    struct kelpie_snapshot made;
    struct kelpie_error error = {0};
    const struct kelpie_parcel_input input = {.read = stream_read, .context = &whole};
    const struct kelpie_snapshot_import options = {.name = "other", .is_trusted = true};
    (void)state;
    assert_int_equal(import_with(os, &whole, "other", &stranger, &error), KELPIE_E_UNTRUSTED);
    assert_non_null(strstr(error.message, "\"tiny\" was not exported by this state directory"));
    assert_non_null(strstr(error.message, "--trust"));
    assert_true(whole.at < 8192); /* told at once, not after gigabytes */
    assert_int_equal(entries(), 1);
    whole.at = 0;
    assert_int_equal(kelpie__snapshot_import(&made, &store, &stranger, &input, &options, &error),
                     0);
    kelpie__snapshot_close(&made);
}

/* Its origin is no name that anybody could write: whoever changes a byte loses it. */
static void test_changed_by_somebody_else(void **state) {
    struct stream copy = copy_of(&whole);
    (void)state;
    size_t at = record_at(&copy, 2); /* the device state */
    copy.bytes[at + KELPIE_PARCEL_RECORD_BYTES] ^= 1;
    record_sum_again(&copy, at);
    import_fails(&copy, KELPIE_E_SNAPSHOT_CORRUPTED, "changed since by somebody else");
    free(copy.bytes);
}

/* ---- damaged ones ---------------------------------------------------------------------------- */

static void test_cut_anywhere(void **state) {
    struct stream copy = copy_of(&whole);
    (void)state;
    for (size_t count = 0; count < whole.count; count += count < 512 ? 1 : 1013) {
        copy.count = count;
        import_fails(&copy, KELPIE_E_SNAPSHOT_CORRUPTED, "ends too early");
    }
    for (size_t number = 1; number < 12; number += 1) {
        copy.count = record_at(&whole, (uint32_t)number);
        import_fails(&copy, KELPIE_E_SNAPSHOT_CORRUPTED, "ends too early");
    }
    free(copy.bytes);
}

/* Whoever trusts the maker is told of damage all the same. */
static void flip(struct stream *copy, size_t place, uint32_t bit) {
    struct kelpie_error error = {0};
    struct kelpie_snapshot made;
    const struct kelpie_parcel_input input = {.read = stream_read, .context = copy};
    const struct kelpie_snapshot_import options = {.name = "other", .is_trusted = true};
    copy->bytes[place] ^= (uint8_t)(1u << bit);
    copy->at = 0;
    int status = kelpie__snapshot_import(&made, &store, &stranger, &input, &options, &error);
    if (status != KELPIE_E_SNAPSHOT_CORRUPTED && status != KELPIE_E_SNAPSHOT_INCOMPATIBLE) {
        fail_msg("bit %u of byte %zu: %s %s", bit, place, kelpie_code_name(status), error.message);
    }
    assert_true(error.message[0] != '\0');
    copy->bytes[place] ^= (uint8_t)(1u << bit);
}

static void test_a_bit_flipped_anywhere(void **state) {
    struct stream copy = copy_of(&whole);
    (void)state;
    for (size_t place = 0; place < copy.count; place += place < 256 ? 1 : 409) {
        flip(&copy, place, (uint32_t)place % 8);
    }
    for (size_t at = record_at(&copy, 0); at < copy.count; at += record_bytes(&copy, at)) {
        for (size_t i = 0; i < KELPIE_PARCEL_RECORD_BYTES; i += 1) {
            flip(&copy, at + i, (uint32_t)(at + i) % 8);
        }
    }
    assert_int_equal(entries(), 1);
    free(copy.bytes);
}

static void test_out_of_order_and_twice(void **state) {
    struct stream copy = copy_of(&whole);
    (void)state;
    size_t first = record_at(&whole, 2);
    size_t second = record_at(&whole, 3);
    size_t third = record_at(&whole, 4);
    memcpy(copy.bytes + first, whole.bytes + second, third - second);
    memcpy(copy.bytes + first + (third - second), whole.bytes + first, second - first);
    import_fails(&copy, KELPIE_E_SNAPSHOT_CORRUPTED, "out of order");
    memcpy(copy.bytes, whole.bytes, whole.count);
    memcpy(copy.bytes + second, whole.bytes + first, whole.count - first);
    copy.count = whole.count + second - first;
    import_fails(&copy, KELPIE_E_SNAPSHOT_CORRUPTED, "out of order");
    memmove(copy.bytes + first, whole.bytes + second, whole.count - second); /* one is missing */
    copy.count = whole.count - (second - first);
    import_fails(&copy, KELPIE_E_SNAPSHOT_CORRUPTED, "an end to more, or to less");
    free(copy.bytes);
}

static void test_endless_and_oversized(void **state) {
    struct stream copy = copy_of(&whole);
    (void)state;
    copy.repeat_from = record_at(&copy, 2);
    copy.repeat_to = record_at(&copy, 3);
    import_fails(&copy, KELPIE_E_SNAPSHOT_CORRUPTED, "out of order");
    assert_true(copy.read_count < whole.count);
    copy.repeat_from = 0;
    const uint64_t none = 4096; /* announced, of all that comes */
    memcpy(copy.bytes + 32, &none, sizeof(none));
    uint64_t sum = kelpie__checksum_u64(copy.bytes, 56);
    memcpy(copy.bytes + 56, &sum, sizeof(sum));
    import_fails(&copy, KELPIE_E_SNAPSHOT_CORRUPTED, "more than was announced");
    const uint64_t much = UINT64_MAX;
    memcpy(copy.bytes + 32, &much, sizeof(much));
    sum = kelpie__checksum_u64(copy.bytes, 56);
    memcpy(copy.bytes + 56, &sum, sizeof(sum));
    import_fails(&copy, KELPIE_E_LIMIT, "free some space");
    memcpy(copy.bytes, whole.bytes, whole.count);
    const uint32_t count = KELPIE_PARCEL_PAYLOAD_BYTES_MAX + 1;
    memcpy(copy.bytes + record_at(&whole, 1) + 24, &count, sizeof(count));
    import_fails(&copy, KELPIE_E_SNAPSHOT_CORRUPTED, "no known kind or size");
    memset(copy.bytes, 0, copy.count);
    import_fails(&copy, KELPIE_E_SNAPSHOT_CORRUPTED, "no stream of kelpie snapshot export");
    free(copy.bytes);
}

static void test_newer_formats_are_named(void **state) {
    struct stream copy = copy_of(&whole);
    static const char format[] = "\"format\":2,";
    (void)state;
    copy.bytes[8] = 7;
    import_fails(&copy, KELPIE_E_SNAPSHOT_INCOMPATIBLE, "has format 7, this version knows 1");
    copy.bytes[8] = 1;
    size_t at = record_at(&copy, 0);
    copy.bytes[copy.count] = 0;
    char *place = strstr((char *)copy.bytes + at + KELPIE_PARCEL_RECORD_BYTES, format);
    assert_non_null(place);
    place[strlen(format) - 2] = '3';
    record_sum_again(&copy, at);
    import_fails(&copy, KELPIE_E_SNAPSHOT_INCOMPATIBLE, "has format 3, this version knows 2");
    free(copy.bytes);
}

/* ---- a system that fails --------------------------------------------------------------------- */

static void test_nothing_is_left_whatever_fails(void **state) {
    static const char *const calls[] = {"pwrite => ENOSPC", "truncate => ENOSPC", "open => EMFILE",
                                        "sync => EIO",      "rename => ENOSPC",   "mkdir => ENOSPC",
                                        "memory => ENOMEM", "lock => EIO",        "pread => EIO"};
    (void)state;
    for (size_t i = 0; i < KELPIE_ARRAY_COUNT(calls); i += 1) {
        uint32_t nth = 1;
        int status = -1;
        for (; status != 0; nth += 1) {
            char plan[64];
            struct kelpie_error error = {0};
            size_t name = strcspn(calls[i], " ");
            snprintf(plan, sizeof(plan), "%.*s nth=%u%s", (int)name, calls[i], nth,
                     calls[i] + name);
            struct kelpie_os *faulty = kelpie__os_fault_wrap(os, "test", plan);
            assert_non_null(faulty);
            status = import_with(faulty, &whole, "other", &origin, &error);
            kelpie__os_fault_unwrap(faulty);
            if (status != 0) {
                assert_true(error.code == status && error.message[0] != '\0');
                assert_int_equal(entries(), 1);
            }
            assert_true(nth < 200);
        }
        assert_true(nth > 2); /* it failed once at least */
        assert_int_equal(kelpie__snapshot_remove(&store, "other", NULL), 0);
    }
}

int main(void) {
#define ROW(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        ROW(test_a_keyed_hash_is_that_of_its_authors),
        ROW(test_it_comes_back_byte_for_byte),
        ROW(test_a_foreign_one_needs_trust),
        ROW(test_changed_by_somebody_else),
        ROW(test_cut_anywhere),
        ROW(test_a_bit_flipped_anywhere),
        ROW(test_out_of_order_and_twice),
        ROW(test_endless_and_oversized),
        ROW(test_newer_formats_are_named),
        ROW(test_nothing_is_left_whatever_fails),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
