/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Traces. Goal: what was recorded is what is written; the JSON is valid for our own reader and for
 * Python's; the picture is well-formed and says what happened; two recordings differ where they
 * differ. Method: a small history made by hand. KELPIE_TRACE_KEEP=DIR keeps the texts, to look at.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "core/json.h"
#include "fake_world.h"
#include "sim/trace.h"

#define MS INT64_C(1000000)

void kelpie__sim_guest_truth(struct sim_guest *guest, struct sim_guest_truth *out) {
    *out = (struct sim_guest_truth){.id = (uint64_t)(uintptr_t)(void *)guest};
}

struct text {
    char *bytes;
    size_t length;
    size_t capacity;
};

static void text_write(void *context, const char *piece, size_t length) {
    struct text *text = context;
    if (text->length + length + 1 > text->capacity) {
        text->capacity = (text->length + length + 1) * 2;
        text->bytes = realloc(text->bytes, text->capacity);
        assert_non_null(text->bytes);
    }
    memcpy(text->bytes + text->length, piece, length);
    text->length += length;
    text->bytes[text->length] = '\0';
}

static void keep(const struct text *text, const char *name) {
    const char *directory = getenv("KELPIE_TRACE_KEEP");
    char path[512];
    if (directory != NULL) {
        snprintf(path, sizeof(path), "%s/%s", directory, name);
        FILE *file = fopen(path, "we");
        assert_non_null(file);
        assert_int_equal(fwrite(text->bytes, 1, text->length, file), text->length);
        fclose(file);
    }
}

static void event(struct sim_trace *trace, int64_t ms, enum sim_event_type type,
                  struct sim_process *process, uintptr_t guest, const char *detail) {
    struct sim_event made = {.type = type,
                             .process = process,
                             .guest = (struct sim_guest *)(void *)guest,
                             .detail = detail};
    kelpie__sim_trace_event(trace, ms * MS, &made);
}

static struct sim_process *process(uint64_t birth, const char *role) {
    static struct sim_process processes[200];
    processes[birth] = (struct sim_process){.birth = birth, .pid = (int32_t)birth + 1000};
    snprintf(processes[birth].role, sizeof(processes[birth].role), "%s", role);
    return &processes[birth];
}

/* A monitor is killed in the middle of a snapshot, and the VM recovers. */
static struct sim_trace *record(void) {
    struct sim_trace *trace = kelpie__sim_trace_create(SIM_TRACE_CALLS);
    assert_non_null(trace);
    kelpie__sim_trace_title(trace, "seed 42 <swarm> & \"friends\"");
    struct sim_process *client = process(1, "client");
    struct sim_process *monitor = process(2, "monitor");
    struct sim_process *qemu = process(3, "qemu");
    struct sim_process *again = process(4, "monitor");
    struct sim_process *pack = process(5, "pack");
    event(trace, 1000, SIM_EVENT_PROCESS_STARTED, client, 0, "client");
    event(trace, 1010, SIM_EVENT_PROCESS_STARTED, monitor, 0, "kelpie-monitor");
    kelpie__sim_trace_band(trace, 1012 * MS, "vm a1", "created");
    kelpie__sim_trace_band(trace, 1020 * MS, "vm a1", "starting");
    event(trace, 1022, SIM_EVENT_PROCESS_STARTED, pack, 0, "kelpie-pack");
    event(trace, 1322, SIM_EVENT_PROCESS_ENDED, pack, 0, "code 000");
    event(trace, 1330, SIM_EVENT_PROCESS_STARTED, qemu, 0, "qemu");
    event(trace, 1360, SIM_EVENT_GUEST, NULL, 1, "booted");
    event(trace, 2500, SIM_EVENT_MARK, monitor, 0, "hello_seen");
    kelpie__sim_trace_band(trace, 2510 * MS, "vm a1", "running");
    event(trace, 3000, SIM_EVENT_FAULT, qemu, 0,
          "* role=qemu birth=3 nth=99 => stop:2s # 3.000 s in wait()");
    event(trace, 3000, SIM_EVENT_PROCESS_STOPPED, qemu, 0, "");
    event(trace, 5000, SIM_EVENT_PROCESS_CONTINUED, qemu, 0, "");
    kelpie__sim_trace_band(trace, 5100 * MS, "vm a1", "paused");
    event(trace, 5200, SIM_EVENT_RENAME, monitor, 0, "/var/lib/kelpie/snapshots/s1");
    event(trace, 5203, SIM_EVENT_FAULT, monitor, 0,
          "* role=monitor birth=2 nth=217 => kill # 5.203 s in rename(/var/lib/kelpie/a)");
    event(trace, 5203, SIM_EVENT_PROCESS_ENDED, monitor, 0, "signal 009");
    event(trace, 5204, SIM_EVENT_PROCESS_ENDED, qemu, 0, "signal 009");
    event(trace, 5204, SIM_EVENT_GUEST, NULL, 1, "ended");
    kelpie__sim_trace_band(trace, 5204 * MS, "vm a1", "crashed");
    event(trace, 5400, SIM_EVENT_PROCESS_STARTED, again, 0, "kelpie-monitor");
    event(trace, 5600, SIM_EVENT_FAULT, NULL, 0,
          "clock window=5s..6s => jump:-86400s # 5.600 s in its window");
    event(trace, 5900, SIM_EVENT_NOTE, client, 0, "snapshot s1 is listed, and was never sealed");
    event(trace, 6500, SIM_EVENT_POWER_LOSS, NULL, 0, "");
    for (uint64_t i = 1; i <= 20; i += 1) {
        struct sim_call call = {.process = monitor,
                                .op = SIM_OP_rename,
                                .handle = 5,
                                .path = "/var/lib/kelpie/vms/a1/state.json",
                                .time_ns = 1100 * MS + (int64_t)i * 1000};
        kelpie__sim_trace_call(trace, &call, i == 7 ? -5 : 0, i * 1000);
    }
    return trace;
}

/* Python must agree that it is JSON. False: there is no Python. */
static bool python_reads(const struct text *text) {
    FILE *python = popen("python3 -c 'import json,sys; t = json.load(sys.stdin); "
                         "sys.exit(0 if len(t[\"traceEvents\"]) > 40 else 1)'",
                         "w");
    assert_non_null(python);
    assert_int_equal(fwrite(text->bytes, 1, text->length, python), text->length);
    int status = pclose(python);
    return status == 0;
}

static void test_json_is_valid_and_complete(void **state) {
    struct sim_trace *trace = record();
    struct text text = {0};
    struct kelpie_json_value whole;
    struct kelpie_json_value events;
    struct kelpie_json_value other;
    struct kelpie_json_value one;
    struct kelpie_json_iterator iterator;
    char title[128];
    uint32_t phases[128] = {0};
    (void)state;
    kelpie__sim_trace_json(trace, text_write, &text);
    keep(&text, "trace.json");
    assert_int_equal(kelpie__json_parse(text.bytes, text.length, &whole), 0);
    assert_int_equal(kelpie__json_find(text.bytes, text.length, "otherData", &other), 0);
    assert_int_equal(
        kelpie__json_find_string(other.text, other.length, "title", title, sizeof(title)), 0);
    assert_string_equal(title, "seed 42 <swarm> & \"friends\"");
    assert_int_equal(kelpie__json_find(text.bytes, text.length, "traceEvents", &events), 0);
    assert_int_equal(kelpie__json_iterate(&events, &iterator), 0);
    while (kelpie__json_next(&iterator, NULL, &one) == 1) {
        char phase[8];
        uint64_t lane = 0;
        assert_int_equal(kelpie__json_find_string(one.text, one.length, "ph", phase, sizeof(phase)),
                         0);
        assert_int_equal(kelpie__json_find_u64(one.text, one.length, "tid", &lane), 0);
        phases[(unsigned char)phase[0]] += 1;
    }
    assert_int_equal(phases['M'], 3 + 7);
    assert_int_equal(phases['X'], 5 + 5 + 20); /* lives of processes, bands, calls */
    assert_int_equal(phases['i'], 19);
    assert_true(python_reads(&text));
    free(text.bytes);
    kelpie__sim_trace_destroy(trace);
}

static uint32_t count(const char *text, const char *what) {
    uint32_t found = 0;
    for (const char *at = strstr(text, what); at != NULL; at = strstr(at + 1, what)) {
        found += 1;
    }
    return found;
}

static void test_svg_says_what_happened(void **state) {
    struct sim_trace *trace = record();
    struct text text = {0};
    (void)state;
    kelpie__sim_trace_svg(trace, text_write, &text);
    keep(&text, "trace.svg");
    assert_int_equal(count(text.bytes, "<svg "), 1);
    assert_int_equal(count(text.bytes, "</svg>\n"), 1);
    assert_non_null(strstr(text.bytes, "seed 42 &lt;swarm&gt; &amp; &quot;friends&quot;"));
    assert_non_null(strstr(text.bytes, ">vm a1</text>"));
    assert_non_null(strstr(text.bytes, ">monitor-2</text>"));
    assert_non_null(strstr(text.bytes, ">guest-1</text>"));
    assert_non_null(strstr(text.bytes, "vm a1: running\n2.510 s, for 2.590 s</title>"));
    assert_non_null(strstr(text.bytes, "<title>5.203 s fault, monitor-1\n* role=monitor birth=2 "
                                       "nth=217 =&gt; kill # 5.203 s in rename("));
    assert_non_null(strstr(text.bytes, "stopped\n3.000 s, for 2.000 s</title>"));
    assert_int_equal(count(text.bytes, "class=\"fault\" d=\"M3,-10"), 1); /* legend */
    assert_int_equal(count(text.bytes, "<path class=\"fault\""), 1 + 3 + 1);
    assert_int_equal(count(text.bytes, "<title>"), count(text.bytes, "</title>"));
    assert_null(strstr(text.bytes, "http://www.w3.org/1999/xlink")); /* nothing from outside */
    FILE *python = popen("python3 -c 'import sys, xml.dom.minidom as m; m.parse(sys.stdin)'", "w");
    assert_non_null(python);
    assert_int_equal(fwrite(text.bytes, 1, text.length, python), text.length);
    assert_int_equal(pclose(python), 0);
    free(text.bytes);
    kelpie__sim_trace_destroy(trace);
}

static void test_story_is_short_and_tells_the_faults(void **state) {
    struct sim_trace *trace = record();
    struct text text = {0};
    (void)state;
    kelpie__sim_trace_story(trace, text_write, &text);
    keep(&text, "story.txt");
    assert_int_equal(count(text.bytes, "\n"), 20);
    assert_non_null(
        strstr(text.bytes, "    5.203 s  monitor-1 killed in rename(/var/lib/kelpie/a)\n"));
    assert_non_null(strstr(text.bytes, "    3.000 s  qemu-1 stopped for 2s in wait()\n"));
    assert_non_null(strstr(text.bytes, "    5.600 s  fault jump:-86400s in its window\n"));
    assert_non_null(strstr(text.bytes, "    5.204 s  vm a1 is crashed\n"));
    assert_non_null(strstr(text.bytes, "    6.500 s  the machine loses its power\n"));
    assert_non_null(
        strstr(text.bytes, "    5.900 s  client-1 snapshot s1 is listed, and was never sealed\n"));
    free(text.bytes);
    kelpie__sim_trace_destroy(trace);
}

/* Of a thousand faults the last ones are told, in 20 lines. */
static void test_story_of_much_is_its_end(void **state) {
    struct sim_trace *trace = kelpie__sim_trace_create(SIM_TRACE_EVENTS);
    struct text text = {0};
    (void)state;
    for (int64_t i = 0; i < 1000; i += 1) {
        char detail[64];
        snprintf(detail, sizeof(detail), "sync role=monitor birth=2 nth=%d => EIO", (int)i);
        event(trace, 1000 + i, SIM_EVENT_FAULT, process(2, "monitor"), 0, detail);
        kelpie__sim_trace_band(trace, (1000 + i) * MS, "vm b", i % 2 == 0 ? "running" : "paused");
    }
    kelpie__sim_trace_story(trace, text_write, &text);
    assert_int_equal(count(text.bytes, "\n"), 20);
    assert_int_equal(count(text.bytes, "monitor-1: fault EIO"), 19);
    assert_non_null(strstr(text.bytes, "    1.999 s  monitor-1: fault EIO"));
    free(text.bytes);
    kelpie__sim_trace_destroy(trace);
}

/* More lanes than a picture should have: processes of one role share, one after the other. */
static void test_svg_packs_many_processes(void **state) {
    struct sim_trace *trace = kelpie__sim_trace_create(SIM_TRACE_EVENTS);
    struct text text = {0};
    (void)state;
    for (uint64_t i = 1; i < 200; i += 1) {
        struct sim_process *one = process(i, i % 2 == 0 ? "cli" : "pack");
        event(trace, (int64_t)i * 100, SIM_EVENT_PROCESS_STARTED, one, 0, "x");
        event(trace, (int64_t)i * 100 + 150, SIM_EVENT_PROCESS_ENDED, one, 0, "code 000");
    }
    kelpie__sim_trace_svg(trace, text_write, &text);
    keep(&text, "many.svg");
    assert_int_equal(count(text.bytes, "class=\"label\""), 2);
    assert_int_equal(count(text.bytes, "<rect class=\"process\""), 199 + 1);
    free(text.bytes);
    kelpie__sim_trace_destroy(trace);
}

static void calls(struct sim_trace *trace, uint64_t total, uint64_t differs_from) {
    struct sim_process *monitor = process(2, "monitor");
    uint64_t hash = 1;
    for (uint64_t i = 1; i <= total; i += 1) {
        struct sim_call call = {
            .process = monitor, .op = SIM_OP_read, .handle = 3, .time_ns = (int64_t)i * 1000};
        hash = hash * 31 + (i >= differs_from ? 2 : 1);
        kelpie__sim_trace_call(trace, &call, i >= differs_from ? 9 : 8, hash);
    }
}

static void test_compare_names_the_first_difference(void **state) {
    static const struct {
        uint64_t total;
        uint64_t differs;
        bool is_kept;
    } cases[] = {{100, 100, true},    {5000, 4097, true},     {70000, 69999, true},
                 {200000, 10, false}, {200000, 199990, true}, {4096, 1, true}};
    char one[256];
    char other[256];
    uint64_t number = 0;
    (void)state;
    for (size_t i = 0; i < KELPIE_ARRAY_COUNT(cases); i += 1) {
        struct sim_trace *first = kelpie__sim_trace_create(SIM_TRACE_CALLS);
        struct sim_trace *second = kelpie__sim_trace_create(SIM_TRACE_CALLS);
        calls(first, cases[i].total, UINT64_MAX);
        calls(second, cases[i].total, cases[i].differs);
        assert_false(kelpie__sim_trace_compare(first, first, one, other, NULL));
        assert_true(kelpie__sim_trace_compare(first, second, one, other, &number));
        if (cases[i].is_kept) {
            char expected[64];
            snprintf(expected, sizeof(expected), "call %llu at ",
                     (unsigned long long)cases[i].differs);
            assert_int_equal(number, cases[i].differs);
            assert_int_equal(strncmp(one, expected, strlen(expected)), 0);
            assert_non_null(strstr(one, "monitor (birth 2) read(handle 3, \"\") = 8, hash "));
            assert_non_null(strstr(other, " = 9, hash "));
        } else {
            assert_string_equal(one, "a call from 1 to 4096, which are not kept");
            assert_int_equal(number, 1);
        }
        kelpie__sim_trace_destroy(first);
        kelpie__sim_trace_destroy(second);
    }
}

/* A second look at the stretch that was not kept; and a run that is a beginning of the other. */
static void test_compare_again_and_shorter_runs(void **state) {
    struct sim_trace *first = kelpie__sim_trace_create(SIM_TRACE_CALLS);
    struct sim_trace *second = kelpie__sim_trace_create(SIM_TRACE_CALLS);
    char one[256];
    char other[256];
    uint64_t number = 0;
    (void)state;
    kelpie__sim_trace_keep_from(first, 4097);
    kelpie__sim_trace_keep_from(second, 4097);
    calls(first, 200000, UINT64_MAX);
    calls(second, 200000, 5000);
    assert_true(kelpie__sim_trace_compare(first, second, one, other, &number));
    assert_int_equal(number, 5000);
    assert_true(kelpie__sim_trace_checkpoint(first, 1) != 0);
    assert_int_equal(kelpie__sim_trace_checkpoint(first, 1),
                     kelpie__sim_trace_checkpoint(second, 1));
    assert_int_equal(kelpie__sim_trace_checkpoint(first, 49), 0);
    kelpie__sim_trace_destroy(first);
    kelpie__sim_trace_destroy(second);
    first = kelpie__sim_trace_create(SIM_TRACE_CALLS);
    second = kelpie__sim_trace_create(SIM_TRACE_CALLS);
    calls(first, 50, UINT64_MAX);
    calls(second, 60, UINT64_MAX);
    assert_true(kelpie__sim_trace_compare(first, second, one, other, &number));
    assert_string_equal(one, "no call 51: this run ended after 50 calls");
    assert_int_equal(number, 51);
    kelpie__sim_trace_destroy(first);
    kelpie__sim_trace_destroy(second);
}

static void test_empty_trace_is_written(void **state) {
    struct sim_trace *trace = kelpie__sim_trace_create(SIM_TRACE_EVENTS);
    struct text text = {0};
    (void)state;
    kelpie__sim_trace_svg(trace, text_write, &text);
    kelpie__sim_trace_story(trace, text_write, &text);
    text.length = 0;
    kelpie__sim_trace_json(trace, text_write, &text);
    assert_int_equal(kelpie__json_validate(text.bytes, text.length), 0);
    free(text.bytes);
    kelpie__sim_trace_destroy(trace);
    kelpie__sim_trace_destroy(NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_json_is_valid_and_complete),
        cmocka_unit_test(test_svg_says_what_happened),
        cmocka_unit_test(test_story_is_short_and_tells_the_faults),
        cmocka_unit_test(test_story_of_much_is_its_end),
        cmocka_unit_test(test_svg_packs_many_processes),
        cmocka_unit_test(test_compare_names_the_first_difference),
        cmocka_unit_test(test_compare_again_and_shorter_runs),
        cmocka_unit_test(test_empty_trace_is_written),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
