/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * The console's drain, its two files and its last lines. Goal: whatever a guest prints, memory and
 * disk stay bounded, the newest bytes are kept, and how its kernel ended is noticed. Method: bytes
 * through a socket pair, then the files.
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

#include "core/limits.h"
#include "core/loop.h"
#include "core/tail.h"
#include "monitor/console_log.h"
#include "os/os_call.h"

struct scene {
    struct kelpie_os *os;
    struct kelpie_loop *loop;
    struct kelpie_console_log console;
    char path[64];
    int directory;
    int guest;
};

static int set_up(void **state) {
    struct scene *scene = calloc(1, sizeof(*scene));
    int streams[2];
    scene->os = kelpie__os_linux_create();
    assert_non_null(scene->os);
    assert_int_equal(kelpie__loop_create(scene->os, 4, &scene->loop, NULL), 0);
    snprintf(scene->path, sizeof(scene->path), "/tmp/kelpie-console-XXXXXX");
    assert_non_null(mkdtemp(scene->path));
    scene->directory = kelpie__os_open(scene->os, KELPIE_OS_CWD, scene->path,
                                       KELPIE_OS_OPEN_READ | KELPIE_OS_OPEN_DIRECTORY, 0);
    assert_true(scene->directory >= 0);
    assert_int_equal(
        kelpie__console_log_open(&scene->console, scene->os, scene->loop, scene->directory, NULL),
        0);
    assert_int_equal(kelpie__os_pair(scene->os, streams), 0);
    scene->guest = streams[1];
    assert_int_equal(kelpie__console_log_attach(&scene->console, streams[0], NULL), 0);
    *state = scene;
    return 0;
}

static int tear_down(void **state) {
    struct scene *scene = *state;
    kelpie__console_log_close(&scene->console);
    kelpie__ignore(kelpie__os_unlink(scene->os, scene->directory, "console.log", false));
    kelpie__ignore(kelpie__os_unlink(scene->os, scene->directory, "console.log.1", false));
    kelpie__os_close(scene->os, scene->directory);
    kelpie__os_close(scene->os, scene->guest);
    assert_int_equal(rmdir(scene->path), 0);
    kelpie__loop_destroy(scene->loop);
    kelpie__os_linux_destroy(scene->os);
    free(scene);
    return 0;
}

static uint64_t size_of(struct scene *scene, const char *name) {
    struct kelpie_os_stat stat;
    return kelpie__os_stat(scene->os, scene->directory, name, false, &stat) == 0 ? stat.size_bytes
                                                                                 : UINT64_MAX;
}

/* Prints as a guest does, and lets the drain run until it has all. */
static void print(struct scene *scene, const char *bytes, size_t count) {
    uint64_t goal = scene->console.tail.total_bytes + count;
    size_t done = 0;
    for (uint32_t i = 0; i < 100000 && scene->console.tail.total_bytes < goal; i += 1) {
        if (done < count) {
            int64_t wrote = kelpie__os_write(scene->os, scene->guest, bytes + done, count - done);
            done += wrote > 0 ? (size_t)wrote : 0;
        }
        assert_int_equal(kelpie__loop_step(scene->loop, -1, NULL), 0);
    }
    assert_int_equal(scene->console.tail.total_bytes, goal);
}

static void print_text(struct scene *scene, const char *text) {
    print(scene, text, strlen(text));
}

static void test_endless_printing_keeps_two_bounded_files(void **state) {
    struct scene *scene = *state;
    static char chunk[256 * 1024];
    memset(chunk, 'x', sizeof(chunk));
    for (uint32_t i = 0; i < 40; i += 1) { /* 10 MiB */
        print(scene, chunk, sizeof(chunk));
    }
    print_text(scene, "\nthe end\n");
    assert_true(size_of(scene, "console.log") <= KELPIE_CONSOLE_LOG_BYTES);
    assert_true(size_of(scene, "console.log.1") <= KELPIE_CONSOLE_LOG_BYTES);
    assert_true(size_of(scene, "console.log.1") > KELPIE_CONSOLE_LOG_BYTES - sizeof(chunk));
    assert_int_equal(scene->console.log.lost_bytes, 0);
    char tail[16];
    kelpie__tail_text(&scene->console.tail, tail, sizeof(tail));
    assert_string_equal(tail, "the end");
}

static void test_second_boot_goes_on_in_the_file_and_forgets_the_panic(void **state) {
    struct scene *scene = *state;
    int streams[2];
    print_text(scene, "one\nKernel panic - not syncing: first\n");
    assert_true(scene->console.is_panic);
    kelpie__console_log_detach(&scene->console);
    kelpie__os_close(scene->os, scene->guest);
    assert_int_equal(kelpie__os_pair(scene->os, streams), 0);
    scene->guest = streams[1];
    assert_int_equal(kelpie__console_log_attach(&scene->console, streams[0], NULL), 0);
    assert_false(scene->console.is_panic);
    print_text(scene, "two\n");
    assert_int_equal(size_of(scene, "console.log"),
                     strlen("one\nKernel panic - not syncing: first\n") + 4);
}

static void test_panic_is_found_across_reads_with_its_words(void **state) {
    struct scene *scene = *state;
    print_text(scene, "[ 1.0] KKernel pan");
    print_text(scene, "ic - not syncing: Attempted to ");
    print_text(scene, "kill init!\r\nKernel panic - not syncing: another\n");
    assert_true(scene->console.is_panic);
    assert_string_equal(scene->console.panic, "Attempted to kill init!");
    assert_false(scene->console.is_reboot);
    print_text(scene, "[ 2.0] reboot: Restarting system\n");
    assert_true(scene->console.is_reboot);
}

static void test_what_was_said_last_is_read_at_the_end(void **state) {
    struct scene *scene = *state;
    assert_int_equal(kelpie__os_write(scene->os, scene->guest, "bye\n", 4), 4);
    kelpie__console_log_detach(&scene->console);
    assert_int_equal(size_of(scene, "console.log"), 4);
}

static void test_tail_is_printable_and_begins_with_a_line(void **state) {
    (void)state;
    struct kelpie_tail tail = {0};
    char out[32];
    kelpie__tail_text(&tail, out, sizeof(out));
    assert_string_equal(out, "");
    static const char text[] = "a long first line that is cut\nsecond\r\n\x1b[1mthird\n\n";
    kelpie__tail_append(&tail, text, sizeof(text) - 1);
    kelpie__tail_text(&tail, out, sizeof(out));
    assert_string_equal(out, "second | ?[1mthird");
    for (uint32_t i = 0; i < 5000; i += 1) {
        kelpie__tail_append(&tail, "0123456789\n", 11);
        kelpie__tail_text(&tail, out, sizeof(out));
        assert_true(strlen(out) < sizeof(out));
    }
    assert_string_equal(out, "0123456789 | 0123456789");
    for (size_t capacity = 1; capacity < sizeof(out); capacity += 1) {
        kelpie__tail_text(&tail, out, capacity);
        assert_true(strlen(out) < capacity);
    }
}

#define ROW(function) cmocka_unit_test_setup_teardown(function, set_up, tear_down)

int main(void) {
    const struct CMUnitTest tests[] = {
        ROW(test_endless_printing_keeps_two_bounded_files),
        ROW(test_second_boot_goes_on_in_the_file_and_forgets_the_panic),
        ROW(test_panic_is_found_across_reads_with_its_words),
        ROW(test_what_was_said_last_is_read_at_the_end),
        cmocka_unit_test(test_tail_is_printable_and_begins_with_a_line),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
