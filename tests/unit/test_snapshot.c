/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Save and restore of the QEMU driver against a scripted QEMU. Goal: every page that has to be
 * saved or laid is, and no other; whatever QEMU or the system answers, or does not, becomes an
 * error that says so, in time. Method: a system of memory alone with virtual time, QEMU's process
 * an array, files arrays, and the test at the other end of QMP. The real one is met in tests/vmm.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "core/limits.h"
#include "fake_os.h"
#include "os/os_call.h"
#include "vmm/qemu/instance.h"

#define PAGE 4096u
#define MEMORY_BYTES (1u << 20)
#define PAGES (MEMORY_BYTES / PAGE)
#define ADDRESS UINT64_C(0x7f2000000000)
#define FILE_FIRST 100
#define FILE_COUNT 4 /* device, memory, map, base */
#define DEVICE FILE_FIRST
#define MEMORY (FILE_FIRST + 1)
#define MAP (FILE_FIRST + 2)
#define BASE (FILE_FIRST + 3)
#define PROCESS 90
#define MS KELPIE_NS_PER_MS

enum page_kind { PAGE_ABSENT, PAGE_OF_FILE, PAGE_PRIVATE, PAGE_SWAPPED };

struct scene {
    struct fake_os *fake; /* first: os.context of a system that is not this one is never used */
    struct kelpie_loop *loop;
    struct kelpie_qemu *qemu;
    int peer;
    uint8_t guest[MEMORY_BYTES];
    enum page_kind kinds[PAGES];
    uint8_t files[FILE_COUNT][MEMORY_BYTES];
    uint64_t sizes[FILE_COUNT];
    uint32_t write_count; /* pages that were written into the guest */
    uint32_t read_count;  /* runs that were read from it */
    int64_t read_ns;      /* that each takes */
    int pwrite_error;     /* of the next one but `pwrite_good` */
    uint32_t pwrite_good;
    size_t pwrite_bytes_max;
    uint32_t pwrite_count;
    int sent_handle; /* the last one that was passed */
    uint32_t kill_count;
    struct kelpie_vmm_spec spec;
    struct kelpie_vmm_restore restore;
    struct kelpie_vmm_description description;
    struct kelpie_vmm_saved saved;
    uint32_t started_count;
    uint32_t waiting_count;
    uint32_t done_count;
    int done_status;
    struct kelpie_error done_error;
    uint64_t heard_id;
};

/* The one scene: a table's functions get the system only. */
static struct scene *the_scene;

static int scene_page_map(struct kelpie_os *os, int32_t pid, uint64_t address, uint8_t *out,
                          size_t count) {
    (void)os;
    assert_int_equal(pid, 7);
    memset(out, 0, (count + 7) / 8);
    for (size_t i = 0; i < count; i += 1) {
        enum page_kind kind = the_scene->kinds[(address - ADDRESS) / PAGE + i];
        bool is_own = kind != PAGE_ABSENT && kind != PAGE_OF_FILE;
        out[i / 8] = (uint8_t)(out[i / 8] | (is_own ? 1u << i % 8 : 0u));
    }
    return 0;
}

static int64_t scene_read_memory(struct kelpie_os *os, int32_t pid, uint64_t address, void *out,
                                 size_t count) {
    (void)os;
    assert_int_equal(pid, 7);
    assert_true(address >= ADDRESS && address + count <= ADDRESS + MEMORY_BYTES);
    memcpy(out, the_scene->guest + (address - ADDRESS), count);
    the_scene->read_count += 1;
    the_scene->fake->now_ns += the_scene->read_ns;
    return (int64_t)count;
}

static int64_t scene_write_memory(struct kelpie_os *os, int32_t pid, uint64_t address,
                                  const void *bytes, size_t count) {
    (void)os;
    assert_int_equal(pid, 7);
    assert_true(address >= ADDRESS && address + count <= ADDRESS + MEMORY_BYTES);
    memcpy(the_scene->guest + (address - ADDRESS), bytes, count);
    the_scene->write_count += (uint32_t)(count / PAGE);
    return (int64_t)count;
}

static int64_t scene_pread(struct kelpie_os *os, int file, void *out, size_t count,
                           uint64_t offset) {
    (void)os;
    uint64_t size = the_scene->sizes[file - FILE_FIRST];
    size_t left = offset < size ? (size_t)(size - offset) : 0;
    count = count < left ? count : left;
    memcpy(out, the_scene->files[file - FILE_FIRST] + offset, count);
    return (int64_t)count;
}

static int64_t scene_pwrite(struct kelpie_os *os, int file, const void *bytes, size_t count,
                            uint64_t offset) {
    (void)os;
    if (the_scene->pwrite_error != 0 && the_scene->pwrite_good == 0) {
        return the_scene->pwrite_error;
    }
    the_scene->pwrite_count += 1;
    the_scene->pwrite_good -= the_scene->pwrite_good > 0 ? 1 : 0;
    count = count < the_scene->pwrite_bytes_max ? count : the_scene->pwrite_bytes_max;
    assert_true(offset + count <= the_scene->sizes[file - FILE_FIRST]);
    memcpy(the_scene->files[file - FILE_FIRST] + offset, bytes, count);
    return (int64_t)count;
}

static int scene_truncate(struct kelpie_os *os, int file, uint64_t size) {
    (void)os;
    the_scene->sizes[file - FILE_FIRST] = size;
    return 0;
}

static int scene_stat(struct kelpie_os *os, int directory, const char *path, bool follow,
                      struct kelpie_os_stat *out) {
    (void)os;
    (void)follow;
    assert_string_equal(path, "");
    *out = (struct kelpie_os_stat){.kind = KELPIE_OS_KIND_FILE,
                                   .size_bytes = the_scene->sizes[directory - FILE_FIRST]};
    return 0;
}

static int64_t scene_send(struct kelpie_os *os, int stream, const void *bytes, size_t count,
                          const int *handles, uint32_t handle_count) {
    assert_int_equal(handle_count, 1);
    the_scene->sent_handle = handles[0];
    return os->write(os, stream, bytes, count);
}

static int scene_signal(struct kelpie_os *os, int process, int signal) {
    (void)os;
    assert_true(process == PROCESS && signal == 9);
    the_scene->kill_count += 1;
    return 0;
}

/* ---- the driver ------------------------------------------------------------------------------ */

static void on_event(void *context, const struct kelpie_vmm_event *event) {
    struct scene *scene = context;
    scene->started_count += event->type == KELPIE_VMM_EVENT_STARTED ? 1 : 0;
    scene->waiting_count += event->type == KELPIE_VMM_EVENT_WAITING ? 1 : 0;
}

static void on_done(void *context, int status, const struct kelpie_error *error) {
    struct scene *scene = context;
    scene->done_count += 1;
    scene->done_status = status;
    scene->done_error = error != NULL ? *error : (struct kelpie_error){0};
}

static void on_ready(void *context) {
    struct kelpie_qemu *qemu = context;
    if (qemu->vmm.is_restored) {
        kelpie__qemu_restore_begin(qemu);
    }
}

static void on_qmp_event(void *context, const struct kelpie_qmp_event *event) {
    struct kelpie_qemu *qemu = context;
    if (event->type == KELPIE_QMP_EVENT_MIGRATION) {
        kelpie__qemu_restore_event(qemu, event->reason);
    } else if (event->type == KELPIE_QMP_EVENT_RESUME) {
        qemu->save.has_run = true;
    }
}

static void on_closed(void *context, const struct kelpie_error *error) {
    assert_non_null(context);
    assert_true(error->code < 0);
}

static void steps(struct scene *scene, uint32_t count) {
    for (uint32_t i = 0; i < count; i += 1) {
        assert_int_equal(kelpie__loop_step(scene->loop, scene->fake->now_ns, NULL), 0);
    }
}

static void say(struct scene *scene, const char *text) {
    int64_t length = (int64_t)strlen(text);
    assert_int_equal(kelpie__os_write(&scene->fake->os, scene->peer, text, strlen(text)), length);
    steps(scene, 3);
}

/* The next command has this text in it; its id is kept for the answer. */
static void hear(struct scene *scene, const char *words) {
    char text[512];
    size_t length = 0;
    while (length < sizeof(text) - 1 &&
           kelpie__os_read(&scene->fake->os, scene->peer, text + length, 1) == 1 &&
           text[length] != '\n') { /* one line: more may have been sent */
        length += 1;
    }
    text[length] = '\0';
    if (strstr(text, words) == NULL) {
        fail_msg("\"%s\" instead of \"%s\"", text, words);
    }
    assert_int_equal(kelpie__json_find_u64(text, strlen(text), "id", &scene->heard_id), 0);
}

static void answer(struct scene *scene, const char *result) {
    char text[512];
    snprintf(text, sizeof(text), "{\"return\": %s, \"id\": %llu}\r\n", result,
             (unsigned long long)scene->heard_id);
    say(scene, text);
}

static void refuse(struct scene *scene, const char *words) {
    char text[512];
    snprintf(text, sizeof(text),
             "{\"error\": {\"class\": \"GenericError\", \"desc\": \"%s\"}, \"id\": %llu}\r\n",
             words, (unsigned long long)scene->heard_id);
    say(scene, text);
}

static int set_up(void **state) {
    static const struct kelpie_qmp_callbacks callbacks = {
        .ready = on_ready, .event = on_qmp_event, .closed = on_closed};
    struct scene *scene = test_calloc(1, sizeof(*scene));
    struct kelpie_vmm *vmm = NULL;
    int streams[2];
    the_scene = scene;
    scene->fake = fake_create(0);
    scene->fake->os.page_map = scene_page_map;
    scene->fake->os.read_memory = scene_read_memory;
    scene->fake->os.write_memory = scene_write_memory;
    scene->fake->os.pread = scene_pread;
    scene->fake->os.pwrite = scene_pwrite;
    scene->fake->os.truncate = scene_truncate;
    scene->fake->os.stat = scene_stat;
    scene->fake->os.send = scene_send;
    scene->fake->os.signal = scene_signal;
    scene->pwrite_bytes_max = SIZE_MAX;
    assert_int_equal(kelpie__loop_create(&scene->fake->os, 8, &scene->loop, NULL), 0);
    const struct kelpie_vmm_create create = {
        .os = &scene->fake->os, .loop = scene->loop, .callback = on_event, .context = scene};
    assert_int_equal(kelpie__vmm_create(&kelpie__qemu_operations, &create, &vmm, NULL), 0);
    scene->qemu = kelpie__qemu_of(vmm);
    scene->qemu->memory_bytes = MEMORY_BYTES;
    scene->qemu->vmm.pid = 7;
    scene->qemu->spec = &scene->spec;
    assert_int_equal(kelpie__os_pair(&scene->fake->os, streams), 0);
    scene->peer = streams[1];
    assert_int_equal(kelpie__qmp_create(&scene->fake->os, scene->loop, streams[0], &callbacks,
                                        scene->qemu, &scene->qemu->qmp, NULL),
                     0);
    *state = scene;
    return 0;
}

static int tear_down(void **state) {
    struct scene *scene = *state;
    scene->qemu->process.handle = KELPIE_OS_NO_HANDLE;
    scene->qemu->process.is_process_watched = false;
    kelpie__vmm_destroy(&scene->qemu->vmm);
    kelpie__os_close(&scene->fake->os, scene->peer);
    kelpie__loop_destroy(scene->loop);
    fake_destroy(scene->fake);
    test_free(scene);
    return 0;
}

static void greet(struct scene *scene) {
    say(scene,
        "{\"QMP\": {\"version\": {\"qemu\": {\"micro\": 22, \"minor\": 2, \"major\": 7}}}}\r\n");
    hear(scene, "qmp_capabilities");
    answer(scene, "{}");
}

/* Where the guest's memory is: the first and the last page. */
static void locate(struct scene *scene) {
    hear(scene, "gpa2hva 0x0\"");
    answer(scene, "\"Host virtual address for 0x0 (memory) is 0x7f2000000000\\r\\n\"");
    hear(scene, "gpa2hva 0xff000\"");
    answer(scene, "\"Host virtual address for 0xff000 (memory) is 0x7f20000ff000\\r\\n\"");
}

/* ---- save ------------------------------------------------------------------------------------ */

static void save_begin(struct scene *scene, bool is_over_base) {
    const struct kelpie_vmm_save save = {
        .device = DEVICE, .memory = MEMORY, .map = is_over_base ? MAP : KELPIE_OS_NO_HANDLE};
    greet(scene);
    scene->qemu->vmm.state = KELPIE_VMM_PAUSED;
    scene->qemu->vmm.is_restored = is_over_base;
    for (uint32_t i = 0; i < MEMORY_BYTES; i += 1) {
        scene->guest[i] = (uint8_t)(1 + i / PAGE % 250);
    }
    assert_int_equal(
        kelpie__vmm_save(&scene->qemu->vmm, &save, &scene->saved, on_done, scene, NULL), 0);
}

static void save_devices(struct scene *scene) {
    locate(scene);
    hear(scene, "\"add-fd\",\"arguments\":{\"fdset-id\":1}");
    assert_int_equal(scene->sent_handle, DEVICE);
    answer(scene, "{\"fd\": 3, \"fdset-id\": 1}");
    hear(scene,
         "\"xen-save-devices-state\",\"arguments\":{\"filename\":\"/dev/fdset/1\",\"live\":false}");
}

static void save_to_memory(struct scene *scene) {
    save_devices(scene);
    scene->sizes[0] = 9165;
    answer(scene, "{}");
    hear(scene, "\"remove-fd\",\"arguments\":{\"fdset-id\":1}");
}

static bool page_is(const uint8_t *file, uint32_t page, uint8_t value) {
    const uint8_t *bytes = file + (size_t)page * PAGE;
    return bytes[0] == value && memcmp(bytes, bytes + 1, PAGE - 1) == 0;
}

static void test_booted_vm_gives_its_pages_without_zeros(void **state) {
    struct scene *scene = *state;
    save_begin(scene, false);
    memset(scene->guest + 3 * PAGE, 0, PAGE);
    memset(scene->guest + 200 * PAGE, 0, PAGE);
    for (uint32_t i = 0; i < 100; i += 1) {
        scene->kinds[i] = PAGE_PRIVATE;
    }
    scene->kinds[199] = PAGE_SWAPPED;
    scene->kinds[200] = PAGE_PRIVATE;
    scene->kinds[255] = PAGE_PRIVATE;
    save_to_memory(scene);
    answer(scene, "{}");
    steps(scene, 3);
    assert_int_equal(scene->done_count, 1);
    assert_int_equal(scene->done_status, 0);
    assert_int_equal(scene->saved.page_count, 103);
    assert_int_equal(scene->saved.stored_bytes, 101 * PAGE);
    assert_int_equal(scene->saved.device_bytes, 9165);
    assert_int_equal(scene->sizes[MEMORY - FILE_FIRST], MEMORY_BYTES);
    for (uint32_t i = 0; i < PAGES; i += 1) {
        bool is_there = (i < 100 && i != 3) || i == 199 || i == 255;
        assert_true(page_is(scene->files[1], i, is_there ? (uint8_t)(1 + i % 250) : 0));
    }
    assert_int_equal(scene->qemu->vmm.state, KELPIE_VMM_PAUSED);
}

static void test_vm_over_a_base_gives_what_is_its_own(void **state) {
    struct scene *scene = *state;
    save_begin(scene, true);
    memset(scene->guest + 9 * PAGE, 0, PAGE);
    scene->kinds[8] = PAGE_OF_FILE;
    scene->kinds[9] = PAGE_PRIVATE;
    scene->kinds[10] = PAGE_PRIVATE;
    save_to_memory(scene);
    answer(scene, "{}");
    steps(scene, 3);
    assert_int_equal(scene->done_status, 0);
    assert_int_equal(scene->saved.page_count, 2);
    assert_int_equal(scene->saved.stored_bytes, PAGE);
    assert_int_equal(scene->sizes[MAP - FILE_FIRST], PAGES / 8);
    assert_int_equal(scene->files[2][1], 6); /* a page of zeros is a change as well */
    for (uint32_t i = 0; i < PAGES; i += 1) {
        assert_true(page_is(scene->files[1], i, i == 10 ? 11 : 0));
    }
}

static void test_saved_again_without_looking_for_the_memory(void **state) {
    struct scene *scene = *state;
    const struct kelpie_vmm_save save = {
        .device = DEVICE, .memory = MEMORY, .map = KELPIE_OS_NO_HANDLE};
    save_begin(scene, false);
    save_to_memory(scene);
    answer(scene, "{}");
    steps(scene, 3);
    assert_int_equal(scene->done_count, 1);
    assert_int_equal(
        kelpie__vmm_save(&scene->qemu->vmm, &save, &scene->saved, on_done, scene, NULL), 0);
    hear(scene, "\"add-fd\",\"arguments\":{\"fdset-id\":2}");
    answer(scene, "{}");
    hear(scene, "/dev/fdset/2");
}

/* In advance: of a guest that runs. */
static void ahead_begin(struct scene *scene, bool is_over_base) {
    const struct kelpie_vmm_save save = {
        .device = DEVICE, .memory = MEMORY, .map = is_over_base ? MAP : KELPIE_OS_NO_HANDLE};
    greet(scene);
    scene->qemu->vmm.state = KELPIE_VMM_RUNNING;
    scene->qemu->vmm.is_restored = is_over_base;
    for (uint32_t i = 0; i < MEMORY_BYTES; i += 1) {
        scene->guest[i] = (uint8_t)(1 + i / PAGE % 250);
    }
    for (uint32_t i = 0; i < 100; i += 1) {
        scene->kinds[i] = PAGE_PRIVATE;
    }
    memset(scene->guest + 3 * PAGE, 0, PAGE);
    memset(scene->guest + 4 * PAGE, 0, PAGE);
    assert_int_equal(kelpie__vmm_save_ahead(&scene->qemu->vmm, &save, on_done, scene, NULL), 0);
}

/* The save after it, of what the guest has made of its memory since. */
static void ahead_save(struct scene *scene, bool is_over_base) {
    const struct kelpie_vmm_save save = {.device = DEVICE,
                                         .memory = MEMORY,
                                         .map = is_over_base ? MAP : KELPIE_OS_NO_HANDLE,
                                         .is_ahead = true};
    locate(scene);
    steps(scene, 3);
    assert_int_equal(scene->done_count, 1);
    assert_int_equal(scene->done_status, 0);
    assert_int_equal(scene->sizes[MEMORY - FILE_FIRST], MEMORY_BYTES);
    assert_true(page_is(scene->files[1], 99, 100) && page_is(scene->files[1], 3, 0));
    memset(scene->guest + 4 * PAGE, 0x44, PAGE); /* was all zeros */
    memset(scene->guest + 7 * PAGE, 0x77, PAGE);
    memset(scene->guest + 8 * PAGE, 0, PAGE); /* is all zeros now */
    scene->kinds[9] = PAGE_ABSENT;            /* was given back */
    scene->kinds[120] = PAGE_PRIVATE;         /* is new */
    scene->qemu->vmm.state = KELPIE_VMM_PAUSED;
    scene->pwrite_count = 0;
    assert_int_equal(
        kelpie__vmm_save(&scene->qemu->vmm, &save, &scene->saved, on_done, scene, NULL), 0);
    hear(scene, "\"add-fd\",\"arguments\":{\"fdset-id\":1}");
    answer(scene, "{}");
    hear(scene, "xen-save-devices-state");
    scene->sizes[0] = 9165;
    answer(scene, "{}");
    hear(scene, "remove-fd");
    answer(scene, "{}");
    steps(scene, 3);
    assert_int_equal(scene->done_count, 2);
    assert_int_equal(scene->done_status, 0);
}

static void ahead_check(struct scene *scene) {
    assert_int_equal(scene->saved.page_count, 100);         /* one was given back, one is new */
    assert_int_equal(scene->saved.stored_bytes, 99 * PAGE); /* but page 3 */
    for (uint32_t i = 0; i < PAGES; i += 1) {
        bool is_same = (i < 100 && i != 3 && i != 8 && i != 9) || i == 120;
        uint8_t same = is_same ? (uint8_t)(1 + i % 250) : 0;
        assert_true(page_is(scene->files[1], i, i == 4 ? 0x44 : i == 7 ? 0x77 : same));
    }
    assert_null(scene->qemu->save.ahead.bits);
}

static void test_what_was_written_in_advance_is_not_written_again(void **state) {
    struct scene *scene = *state;
    ahead_begin(scene, false);
    ahead_save(scene, false);
    ahead_check(scene);
    assert_int_equal(scene->pwrite_count, 4); /* 4, 7 and 8, 9, 120 */
}

static void test_in_advance_over_a_base_the_map_is_of_the_end(void **state) {
    struct scene *scene = *state;
    ahead_begin(scene, true);
    ahead_save(scene, true);
    ahead_check(scene);
    assert_int_equal(scene->sizes[MAP - FILE_FIRST], PAGES / 8);
    for (uint32_t i = 0; i < PAGES; i += 1) {
        bool is_set = (scene->files[2][i / 8] >> (i % 8) & 1) != 0;
        assert_int_equal(is_set, (i < 100 && i != 9) || i == 120);
    }
}

/* What was written in advance is of other files: nothing of it may count. */
static void test_guest_that_went_on_is_saved_from_the_beginning(void **state) {
    struct scene *scene = *state;
    const struct kelpie_vmm_save save = {
        .device = DEVICE, .memory = MEMORY, .map = KELPIE_OS_NO_HANDLE};
    ahead_begin(scene, false);
    locate(scene);
    steps(scene, 3);
    assert_int_equal(scene->done_status, 0);
    assert_non_null(scene->qemu->save.ahead.bits);
    scene->qemu->vmm.state = KELPIE_VMM_PAUSED;
    assert_int_equal(kelpie__vmm_resume(&scene->qemu->vmm, on_done, scene, NULL), 0);
    assert_null(scene->qemu->save.ahead.bits);
    hear(scene, "\"cont\"");
    answer(scene, "{}");
    scene->qemu->vmm.state = KELPIE_VMM_PAUSED;
    memset(scene->files[1], 0, sizeof(scene->files[1]));
    assert_int_equal(
        kelpie__vmm_save(&scene->qemu->vmm, &save, &scene->saved, on_done, scene, NULL), 0);
    hear(scene, "add-fd");
    answer(scene, "{}");
    hear(scene, "xen-save-devices-state");
    scene->sizes[0] = 9165;
    answer(scene, "{}");
    steps(scene, 3);
    assert_true(page_is(scene->files[1], 0, 1) && page_is(scene->files[1], 99, 100));
    assert_int_equal(scene->saved.stored_bytes, 98 * PAGE);
}

static void test_full_disk_is_found_before_the_guest_is_stopped(void **state) {
    struct scene *scene = *state;
    ahead_begin(scene, false);
    scene->pwrite_good = 1;
    scene->pwrite_error = -ENOSPC;
    locate(scene);
    steps(scene, 3);
    assert_int_equal(scene->done_count, 1);
    assert_int_equal(scene->done_status, KELPIE_E_SNAPSHOT);
    assert_int_equal(scene->done_error.os_error, ENOSPC);
    assert_int_equal(scene->qemu->vmm.state, KELPIE_VMM_RUNNING);
    assert_null(scene->qemu->save.ahead.bits);
}

/* Time passes with the reading alone: a turn takes what fits into 4 ms. */
static void test_memory_is_copied_in_slices(void **state) {
    struct scene *scene = *state;
    save_begin(scene, false);
    for (uint32_t i = 0; i < PAGES; i += 2) {
        scene->kinds[i] = PAGE_PRIVATE; /* 128 runs of one page */
    }
    scene->read_ns = MS;
    save_to_memory(scene);
    answer(scene, "{}");
    uint32_t turns = 0;
    while (scene->done_count == 0 && turns < 1000) {
        uint32_t before = scene->read_count;
        steps(scene, 1);
        assert_true(scene->read_count - before <= 4);
        turns += 1;
    }
    assert_int_equal(scene->done_status, 0);
    assert_true(turns >= 128 / 4 - 4);
    assert_int_equal(scene->saved.page_count, 128);
}

static void test_refusal_is_told_and_the_handle_taken_back(void **state) {
    struct scene *scene = *state;
    save_begin(scene, false);
    save_devices(scene);
    refuse(scene, "no space");
    assert_int_equal(scene->done_status, KELPIE_E_INTERNAL);
    assert_non_null(strstr(scene->done_error.message, "no space"));
    hear(scene, "\"remove-fd\",\"arguments\":{\"fdset-id\":1}");
    answer(scene, "{}");
    assert_int_equal(scene->done_count, 1);
    assert_int_equal(scene->qemu->vmm.state, KELPIE_VMM_PAUSED);
    assert_false(scene->qemu->vmm.is_changing);
}

static void test_empty_device_state_is_no_success(void **state) {
    struct scene *scene = *state;
    save_begin(scene, false);
    save_devices(scene);
    answer(scene, "{}");
    assert_int_equal(scene->done_status, KELPIE_E_SNAPSHOT);
    assert_int_equal(scene->done_count, 1);
    assert_int_equal(scene->saved.device_bytes, 0);
}

static void test_guest_that_ran_meanwhile_is_not_saved(void **state) {
    struct scene *scene = *state;
    save_begin(scene, false);
    scene->kinds[0] = PAGE_PRIVATE;
    save_devices(scene);
    say(scene, "{\"event\": \"RESUME\"}\r\n");
    scene->sizes[0] = 9165;
    answer(scene, "{}");
    steps(scene, 3);
    assert_int_equal(scene->done_count, 1);
    assert_int_equal(scene->done_status, KELPIE_E_SNAPSHOT);
}

static void test_qemu_that_does_not_answer_a_save_is_not_waited_for(void **state) {
    struct scene *scene = *state;
    save_begin(scene, false);
    save_devices(scene);
    scene->fake->now_ns += 5100 * MS;
    steps(scene, 2);
    assert_int_equal(scene->done_count, 1);
    assert_int_equal(scene->done_status, KELPIE_E_TIMEOUT);
    assert_non_null(strstr(scene->done_error.message, "xen-save-devices-state"));
}

static void test_full_disk_is_an_error_that_says_so(void **state) {
    struct scene *scene = *state;
    save_begin(scene, false);
    for (uint32_t i = 0; i < PAGES; i += 2) {
        scene->kinds[i] = PAGE_PRIVATE;
    }
    scene->pwrite_good = 50;
    scene->pwrite_error = -ENOSPC;
    save_to_memory(scene);
    answer(scene, "{}");
    steps(scene, 3);
    assert_int_equal(scene->done_status, KELPIE_E_SNAPSHOT);
    assert_int_equal(scene->done_error.os_error, ENOSPC);
    assert_non_null(strstr(scene->done_error.message, "make room"));
    assert_int_equal(scene->saved.page_count, 0);
}

static void test_writes_in_parts_are_finished(void **state) {
    struct scene *scene = *state;
    save_begin(scene, false);
    scene->kinds[5] = PAGE_PRIVATE;
    scene->kinds[6] = PAGE_PRIVATE;
    scene->pwrite_bytes_max = 1000;
    save_to_memory(scene);
    answer(scene, "{}");
    steps(scene, 3);
    assert_int_equal(scene->done_status, 0);
    assert_true(page_is(scene->files[1], 5, 6) && page_is(scene->files[1], 6, 7));
}

static void test_places_that_make_no_sense_are_refused(void **state) {
    static const char *const lies[] = {
        "\"No memory is mapped at address 0x0\"",
        "\"Host virtual address for 0x0 (memory) is 0x\"",
        "\"Host virtual address for 0x0 (memory) is 0x0\"",
        "\"Host virtual address for 0x0 (memory) is 0x7f2000000008\"",
        "\"Host virtual address for 0x0 (memory) is 0xfffffffffffff000\"",
        "\"Host virtual address for 0x0 (memory) is 0x7f20000000000000000\"",
        "{}",
    };
    struct scene *scene = *state;
    save_begin(scene, false);
    hear(scene, "gpa2hva 0x0\"");
    answer(scene, lies[0]);
    assert_int_equal(scene->done_status, KELPIE_E_INTERNAL);
    for (uint32_t i = 1; i < sizeof(lies) / sizeof(lies[0]); i += 1) {
        const struct kelpie_vmm_save save = {
            .device = DEVICE, .memory = MEMORY, .map = KELPIE_OS_NO_HANDLE};
        assert_int_equal(
            kelpie__vmm_save(&scene->qemu->vmm, &save, &scene->saved, on_done, scene, NULL), 0);
        hear(scene, "gpa2hva 0x0\"");
        answer(scene, lies[i]);
        assert_int_equal(scene->done_count, i + 1);
        assert_int_equal(scene->done_status, KELPIE_E_INTERNAL);
    }
}

static void test_memory_in_two_pieces_is_refused(void **state) {
    struct scene *scene = *state;
    save_begin(scene, false);
    hear(scene, "gpa2hva 0x0\"");
    answer(scene, "\"Host virtual address for 0x0 (memory) is 0x7f2000000000\\r\\n\"");
    hear(scene, "gpa2hva 0xff000\"");
    answer(scene, "\"Host virtual address for 0xff000 (memory) is 0x7f2000100000\\r\\n\"");
    assert_int_equal(scene->done_status, KELPIE_E_INTERNAL);
    assert_non_null(strstr(scene->done_error.message, "one piece"));
}

/* ---- restore --------------------------------------------------------------------------------- */

static void restore_begin(struct scene *scene, bool has_delta) {
    scene->description = (struct kelpie_vmm_description){.version = "7.2.9"};
    scene->restore = (struct kelpie_vmm_restore){
        .device = DEVICE,
        .base = BASE,
        .memory = has_delta ? MEMORY : KELPIE_OS_NO_HANDLE,
        .map = has_delta ? MAP : KELPIE_OS_NO_HANDLE,
        .description = &scene->description,
    };
    scene->spec.restore = &scene->restore;
    scene->sizes[MEMORY - FILE_FIRST] = MEMORY_BYTES;
    scene->sizes[MAP - FILE_FIRST] = PAGES / 8;
    memset(scene->guest, 0xbb, sizeof(scene->guest)); /* the base */
    scene->qemu->vmm.is_restored = true;
    scene->qemu->vmm.state = KELPIE_VMM_STARTING;
    scene->qemu->process.handle = PROCESS;
    scene->qemu->process.is_process_watched = true;
}

static void restore_to_load(struct scene *scene) {
    hear(scene, "\"getfd\",\"arguments\":{\"fdname\":\"state\"}");
    assert_int_equal(scene->sent_handle, DEVICE);
    answer(scene, "{}");
    hear(scene, "\"migrate-incoming\",\"arguments\":{\"uri\":\"fd:state\"}");
}

static void test_delta_is_laid_before_the_devices_are_loaded(void **state) {
    struct scene *scene = *state;
    restore_begin(scene, true);
    scene->files[2][0] = 0x81; /* pages 0 and 7 */
    scene->files[2][31] = 0x80;
    memset(scene->files[1] + 7 * PAGE, 7, PAGE);
    memset(scene->files[1] + 255 * PAGE, 9, PAGE);
    memset(scene->files[1] + 100 * PAGE, 5, PAGE); /* not in the map */
    greet(scene);
    locate(scene);
    assert_int_equal(scene->write_count, 3);
    restore_to_load(scene);
    for (uint32_t i = 0; i < PAGES; i += 1) {
        assert_true(page_is(scene->guest, i, i == 0 ? 0 : i == 7 ? 7 : i == 255 ? 9 : 0xbb));
    }
    say(scene, "{\"event\": \"MIGRATION\", \"data\": {\"status\": \"setup\"}}\r\n"
               "{\"event\": \"MIGRATION\", \"data\": {\"status\": \"completed\"}}\r\n");
    assert_int_equal(scene->started_count, 0); /* the answer is missing */
    answer(scene, "{}");
    assert_int_equal(scene->started_count, 1);
    assert_int_equal(scene->qemu->vmm.state, KELPIE_VMM_PAUSED);
    assert_int_equal(scene->kill_count, 0);
}

static void test_whole_memory_needs_nothing_laid(void **state) {
    struct scene *scene = *state;
    restore_begin(scene, false);
    greet(scene);
    locate(scene);
    restore_to_load(scene);
    answer(scene, "{}");
    assert_int_equal(scene->started_count, 0); /* "completed" is missing */
    say(scene, "{\"event\": \"MIGRATION\", \"data\": {\"status\": \"completed\"}}\r\n");
    assert_int_equal(scene->started_count, 1);
    assert_int_equal(scene->write_count, 0);
}

static void waits_begin(struct scene *scene) {
    restore_begin(scene, false);
    scene->restore.device = KELPIE_OS_NO_HANDLE;
    scene->qemu->vmm.is_waiting = true;
    scene->qemu->accel.accelerator = KELPIE_VMM_ACCELERATOR_TCG;
    scene->qemu->kernel_kind = KELPIE_VMM_KERNEL_GENERIC;
    scene->description = (struct kelpie_vmm_description){.vmm = "qemu",
                                                         .version = "7.2.9",
                                                         .machine = "microvm,acpi=on,rtc=on",
                                                         .cpu = "max",
                                                         .accelerator = KELPIE_VMM_ACCELERATOR_TCG};
}

static void load_begin(struct scene *scene, struct kelpie_vmm_restore *restore,
                       struct kelpie_vmm_spec *spec) {
    memcpy(scene->files[0], "QEVM\0\0\0\3", 8);
    *restore = scene->restore;
    restore->device = DEVICE;
    restore->memory = MEMORY;
    restore->map = MAP;
    *spec = scene->spec;
    spec->restore = restore;
    spec->memory_mib = MEMORY_BYTES >> 20;
    scene->sizes[0] = 100;
    scene->sizes[BASE - FILE_FIRST] = MEMORY_BYTES;
    scene->files[2][0] = 0x80; /* page 7 */
    memset(scene->files[1] + 7 * PAGE, 7, PAGE);
}

static void test_one_that_waits_loads_when_it_is_told(void **state) {
    struct scene *scene = *state;
    struct kelpie_vmm_restore restore;
    struct kelpie_vmm_spec spec;
    waits_begin(scene);
    greet(scene);
    locate(scene);
    assert_int_equal(scene->waiting_count, 1);
    load_begin(scene, &restore, &spec);
    scene->description.tsc_khz = 5; /* of another host */
    scene->qemu->tsc_khz = 2000000;
    assert_int_equal(kelpie__vmm_load(&scene->qemu->vmm, &spec, NULL),
                     KELPIE_E_SNAPSHOT_INCOMPATIBLE);
    assert_true(scene->qemu->vmm.is_waiting); /* and goes on waiting */
    scene->description.tsc_khz = 2000000;
    assert_int_equal(kelpie__vmm_load(&scene->qemu->vmm, &spec, NULL), 0);
    steps(scene, 2); /* the delta is laid */
    restore_to_load(scene);
    assert_true(page_is(scene->guest, 7, 7));
    say(scene, "{\"event\": \"MIGRATION\", \"data\": {\"status\": \"completed\"}}\r\n");
    answer(scene, "{}");
    assert_int_equal(scene->started_count, 1);
}

static void test_load_that_hangs_is_ended(void **state) {
    struct scene *scene = *state;
    restore_begin(scene, false);
    greet(scene);
    locate(scene);
    restore_to_load(scene);
    answer(scene, "{}");
    scene->fake->now_ns += 9900 * MS;
    steps(scene, 2);
    assert_int_equal(scene->kill_count, 0);
    scene->fake->now_ns += 200 * MS;
    steps(scene, 2);
    assert_int_equal(scene->kill_count, 1);
    assert_int_equal(scene->qemu->cause_code, KELPIE_E_RESTORE);
    assert_non_null(strstr(scene->qemu->cause, "10000 ms"));
    assert_int_equal(scene->started_count, 0);
}

/* QEMU exits by itself then, and its words are wanted; one that does not is killed. */
static void test_load_that_fails_has_time_for_its_words(void **state) {
    struct scene *scene = *state;
    restore_begin(scene, false);
    greet(scene);
    locate(scene);
    restore_to_load(scene);
    answer(scene, "{}");
    say(scene, "{\"event\": \"MIGRATION\", \"data\": {\"status\": \"failed\"}}\r\n");
    assert_int_equal(scene->qemu->cause_code, KELPIE_E_RESTORE);
    assert_int_equal(scene->kill_count, 0);
    say(scene, "{\"event\": \"MIGRATION\", \"data\": {\"status\": \"completed\"}}\r\n");
    assert_int_equal(scene->started_count, 0);
}

static void test_refused_load_is_ended(void **state) {
    struct scene *scene = *state;
    restore_begin(scene, false);
    greet(scene);
    locate(scene);
    hear(scene, "\"getfd\"");
    refuse(scene, "not here");
    assert_int_equal(scene->kill_count, 1);
    assert_non_null(strstr(scene->qemu->cause, "not here"));
}

static void test_other_versions_are_refused(void **state) {
    struct scene *scene = *state;
    restore_begin(scene, false);
    snprintf(scene->description.version, sizeof(scene->description.version), "7.1.22");
    greet(scene);
    assert_int_equal(scene->kill_count, 1);
    assert_int_equal(scene->qemu->cause_code, KELPIE_E_SNAPSHOT_INCOMPATIBLE);
    assert_non_null(strstr(scene->qemu->cause, "7.1.22"));
    assert_non_null(strstr(scene->qemu->cause, "7.2.22"));
}

static void test_map_that_is_cut_off_is_an_error(void **state) {
    struct scene *scene = *state;
    restore_begin(scene, true);
    scene->sizes[MAP - FILE_FIRST] = 3;
    greet(scene);
    locate(scene);
    assert_int_equal(scene->kill_count, 1);
    assert_int_equal(scene->qemu->cause_code, KELPIE_E_RESTORE);
    assert_int_equal(scene->write_count, 0);
}

static void test_clock_may_be_off_by_500_ppm(void **state) {
    struct scene *scene = *state;
    struct kelpie_error error = {0};
    restore_begin(scene, false);
    scene->qemu->accel.accelerator = KELPIE_VMM_ACCELERATOR_TCG;
    scene->qemu->tsc_khz = 2000000;
    scene->qemu->guest_tsc_khz = 2000900;
    assert_int_equal(kelpie__qemu_restore_check_clock(scene->qemu, &error), 0);
    scene->qemu->guest_tsc_khz = 2001100;
    assert_int_equal(kelpie__qemu_restore_check_clock(scene->qemu, &error),
                     KELPIE_E_SNAPSHOT_INCOMPATIBLE);
    assert_non_null(strstr(error.message, "2001100"));
    scene->qemu->guest_tsc_khz = 0;
    assert_int_equal(kelpie__qemu_restore_check_clock(scene->qemu, &error),
                     KELPIE_E_SNAPSHOT_INCOMPATIBLE);
    scene->qemu->accel.accelerator = KELPIE_VMM_ACCELERATOR_KVM;
    assert_int_equal(kelpie__qemu_restore_check_clock(scene->qemu, &error), 0);
}

/* ---- disk layers ----------------------------------------------------------------------------- */

static void test_layer_is_switched_and_a_refused_one_closed(void **state) {
    struct scene *scene = *state;
    greet(scene);
    scene->qemu->vmm.state = KELPIE_VMM_PAUSED;
    scene->qemu->disks.count = 1;
    assert_int_equal(
        kelpie__vmm_switch_disk(&scene->qemu->vmm, 0, "/d/\"1\"", on_done, scene, NULL), 0);
    hear(scene, "\"node-name\":\"disk0-1\"");
    answer(scene, "{}");
    hear(scene, "{\"node\":\"disk0\",\"overlay\":\"disk0-1\"}");
    answer(scene, "{}");
    assert_int_equal(scene->done_status, 0);
    assert_int_equal(kelpie__vmm_switch_disk(&scene->qemu->vmm, 0, "/d/2", on_done, scene, NULL),
                     0);
    hear(scene, "\"node-name\":\"disk0-2\"");
    answer(scene, "{}");
    hear(scene, "{\"node\":\"disk0-1\",\"overlay\":\"disk0-2\"}");
    refuse(scene, "in use");
    assert_int_equal(scene->done_status, KELPIE_E_INTERNAL);
    hear(scene, "\"blockdev-del\",\"arguments\":{\"node-name\":\"disk0-2\"}");
    answer(scene, "{}");
    assert_int_equal(kelpie__vmm_switch_disk(&scene->qemu->vmm, 0, "/d/3", on_done, scene, NULL),
                     0);
    hear(scene, "\"filename\":\"/d/3\"");
    answer(scene, "{}");
    hear(scene, "{\"node\":\"disk0-1\",\"overlay\":\"disk0-3\"}");
    answer(scene, "{}");
    assert_int_equal(scene->done_count, 3);
    assert_int_equal(scene->done_status, 0);
}

static void test_path_that_is_no_text_is_refused(void **state) {
    struct scene *scene = *state;
    struct kelpie_error error = {0};
    greet(scene);
    scene->qemu->vmm.state = KELPIE_VMM_PAUSED;
    scene->qemu->disks.count = 1;
    assert_int_equal(
        kelpie__vmm_switch_disk(&scene->qemu->vmm, 0, "/d/\xff", on_done, scene, &error),
        KELPIE_E_LIMIT);
    assert_false(scene->qemu->vmm.is_changing);
}

/* QEMU says that all went well, too, when it has written a part. */
static void test_device_state_that_is_cut_off_is_refused(void **state) {
    struct scene *scene = *state;
    static const char tail[] = {0x7e, 0, 0, 0, 14, 0};
    const uint64_t whole = 4597;
    memcpy(scene->files[0], "QEVM\0\0\0\3", 8);
    memcpy(scene->files[0] + whole - sizeof(tail), tail, sizeof(tail));
    for (uint64_t size = 0; size <= whole; size += 1) {
        struct kelpie_error error = {0};
        scene->sizes[0] = size;
        int status =
            kelpie__vmm_check_devices(&kelpie__qemu_operations, &scene->fake->os, DEVICE, &error);
        assert_int_equal(status, size == whole ? 0 : KELPIE_E_SNAPSHOT);
    }
    scene->files[0][7] = 4; /* another version */
    assert_int_equal(
        kelpie__vmm_check_devices(&kelpie__qemu_operations, &scene->fake->os, DEVICE, NULL),
        KELPIE_E_SNAPSHOT);
}

static void test_layer_says_what_it_lies_over(void **state) {
    struct scene *scene = *state;
    struct kelpie_error error = {0};
    struct kelpie_vmm_overlay overlay = {.file = MEMORY,
                                         .backing = BASE,
                                         .backing_name = "below",
                                         .backing_format = KELPIE_VMM_DISK_RAW};
    scene->sizes[BASE - FILE_FIRST] = 0;
    assert_int_equal(
        kelpie__vmm_make_overlay(&kelpie__qemu_operations, &scene->fake->os, &overlay, &error),
        KELPIE_E_CONFIG);
    scene->sizes[BASE - FILE_FIRST] = 513;
    assert_int_equal(
        kelpie__vmm_make_overlay(&kelpie__qemu_operations, &scene->fake->os, &overlay, &error),
        KELPIE_E_CONFIG);
    scene->sizes[BASE - FILE_FIRST] = 3u << 30;
    assert_int_equal(
        kelpie__vmm_make_overlay(&kelpie__qemu_operations, &scene->fake->os, &overlay, &error), 0);
    const uint8_t *head = scene->files[1];
    assert_memory_equal(head, "QFI\xfb\0\0\0\3", 8);
    assert_memory_equal(head + head[15], "below", 5);
    assert_int_equal(head[28], 0xc0); /* 3 GiB */
    assert_int_equal(head[39], 6);    /* of 512 MiB each */
    /* Over that one: the size comes from its head. */
    memcpy(scene->files[3], head, 4096);
    memset(scene->files[1], 0, 4096);
    overlay.backing_format = KELPIE_VMM_DISK_QCOW2;
    assert_int_equal(
        kelpie__vmm_make_overlay(&kelpie__qemu_operations, &scene->fake->os, &overlay, &error), 0);
    assert_int_equal(head[28], 0xc0); /* 3 GiB */
    scene->files[3][0] = 'x';
    assert_int_equal(
        kelpie__vmm_make_overlay(&kelpie__qemu_operations, &scene->fake->os, &overlay, &error),
        KELPIE_E_CONFIG);
}

#define ROW(function) cmocka_unit_test_setup_teardown(function, set_up, tear_down)

int main(void) {
    const struct CMUnitTest tests[] = {
        ROW(test_booted_vm_gives_its_pages_without_zeros),
        ROW(test_vm_over_a_base_gives_what_is_its_own),
        ROW(test_saved_again_without_looking_for_the_memory),
        ROW(test_what_was_written_in_advance_is_not_written_again),
        ROW(test_in_advance_over_a_base_the_map_is_of_the_end),
        ROW(test_guest_that_went_on_is_saved_from_the_beginning),
        ROW(test_full_disk_is_found_before_the_guest_is_stopped),
        ROW(test_memory_is_copied_in_slices),
        ROW(test_refusal_is_told_and_the_handle_taken_back),
        ROW(test_empty_device_state_is_no_success),
        ROW(test_guest_that_ran_meanwhile_is_not_saved),
        ROW(test_qemu_that_does_not_answer_a_save_is_not_waited_for),
        ROW(test_full_disk_is_an_error_that_says_so),
        ROW(test_writes_in_parts_are_finished),
        ROW(test_places_that_make_no_sense_are_refused),
        ROW(test_memory_in_two_pieces_is_refused),
        ROW(test_delta_is_laid_before_the_devices_are_loaded),
        ROW(test_whole_memory_needs_nothing_laid),
        ROW(test_one_that_waits_loads_when_it_is_told),
        ROW(test_load_that_hangs_is_ended),
        ROW(test_load_that_fails_has_time_for_its_words),
        ROW(test_refused_load_is_ended),
        ROW(test_other_versions_are_refused),
        ROW(test_map_that_is_cut_off_is_an_error),
        ROW(test_clock_may_be_off_by_500_ppm),
        ROW(test_layer_is_switched_and_a_refused_one_closed),
        ROW(test_path_that_is_no_text_is_refused),
        ROW(test_device_state_that_is_cut_off_is_refused),
        ROW(test_layer_says_what_it_lies_over),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
