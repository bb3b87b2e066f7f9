/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Goal: the simulated QEMU answers as 7.2.22 does: every text here was sent to the real one, and
 * what is expected is what that said. Method: the test's own stack is a process of the world, which
 * spawns QEMU with streams as the driver does, and talks to it text by text.
 */
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "os/os_call.h"
#include "sim/disk.h"
#include "sim/guest.h"
#include "sim/install.h"
#include "sim/machine.h"
#include "vmm/qemu/arguments.h"

#define MS INT64_C(1000000)
#define QEMU "/usr/bin/qemu-system-x86_64"
#define GREETING                                                                                   \
    "{\"QMP\": {\"version\": {\"qemu\": {\"micro\": 22, \"minor\": 2, \"major\": 7}, "             \
    "\"package\": \"Debian 1:7.2+dfsg-7+deb12u18+b3\"}, \"capabilities\": [\"oob\"]}}\r\n"
#define ARGUMENTS_MAX 64
#define HEARD_BYTES 65536u

enum stream { QMP, AGENT, CONSOLE, STDERR, STREAM_COUNT };

struct scene {
    struct sim_world *world;
    struct kelpie_os *os;
    int process;
    int32_t pid;
    int streams[STREAM_COUNT];
    bool is_at_end[STREAM_COUNT];
    size_t lengths[STREAM_COUNT];
    size_t totals[STREAM_COUNT];
    char heard[STREAM_COUNT][HEARD_BYTES]; /* since the last look */
    int64_t started_ns;
};

/* Neither a boot nor a guest: enough for the protocol. */
static const char *const incoming[] = {"-nodefaults",
                                       "-no-user-config",
                                       "-display",
                                       "none",
                                       "-no-reboot",
                                       "-name",
                                       "guest=/var/lib/kelpie/vms/a",
                                       "-M",
                                       "microvm,acpi=on,rtc=on,memory-backend=memory,"
                                       "suppress-vmdesc=on",
                                       "-object",
                                       "memory-backend-ram,id=memory,size=256M",
                                       "-m",
                                       "256",
                                       "-smp",
                                       "1",
                                       "-accel",
                                       "tcg,thread=multi,tb-size=128",
                                       "-cpu",
                                       "max",
                                       "-S",
                                       "-incoming",
                                       "defer",
                                       "-global",
                                       "migration.send-configuration=off",
                                       "-chardev",
                                       "socket,id=qmp,fd=3",
                                       "-mon",
                                       "chardev=qmp,mode=control",
                                       NULL};

static int64_t now(struct scene *scene) {
    return kelpie__os_now(scene->os, KELPIE_OS_CLOCK_MONOTONIC);
}

/* ---- the world ------------------------------------------------------------------------------- */

static struct scene *scene_new(const char *plan, bool has_kvm) {
    struct scene *scene = test_calloc(1, sizeof(*scene));
    char problem[256] = "";
    const struct sim_options options = {
        .seed = 7, .cost_factor = 1, .plan = plan, .has_kvm = has_kvm};
    scene->world = kelpie__sim_world_create(&options, problem);
    assert_string_equal(problem, "");
    assert_non_null(scene->world);
    scene->os = &kelpie__sim_process_adopt(scene->world, "monitor")->os;
    return scene;
}

static void scene_free(struct scene *scene) {
    assert_null(kelpie__sim_world_failure(scene->world));
    kelpie__sim_world_destroy(scene->world);
    test_free(scene);
}

static void spawn(struct scene *scene, const char *const *arguments) {
    const char *argv[ARGUMENTS_MAX] = {QEMU};
    int ends[STREAM_COUNT][2];
    size_t count = 1;
    for (; arguments[count - 1] != NULL; count += 1) {
        assert_true(count + 1 < ARGUMENTS_MAX);
        argv[count] = arguments[count - 1];
    }
    for (int i = 0; i < STDERR; i += 1) {
        assert_int_equal(kelpie__os_pair(scene->os, ends[i]), 0);
    }
    assert_int_equal(kelpie__os_pipe(scene->os, ends[STDERR]), 0);
    const int handles[] = {KELPIE_OS_NO_HANDLE, KELPIE_OS_NO_HANDLE, ends[STDERR][1],
                           ends[QMP][1],        ends[AGENT][1],      ends[CONSOLE][1]};
    const struct kelpie_os_spawn spawn = {.path = QEMU,
                                          .argv = argv,
                                          .directory = "/",
                                          .handles = handles,
                                          .handle_count = 6,
                                          .flags = KELPIE_OS_SPAWN_DIE_WITH_PARENT,
                                          .cgroup = KELPIE_OS_NO_HANDLE};
    const char *step = "";
    scene->started_ns = now(scene);
    assert_int_equal(kelpie__os_spawn(scene->os, &spawn, &scene->process, &scene->pid, &step), 0);
    for (int i = 0; i < STREAM_COUNT; i += 1) {
        assert_int_equal(kelpie__os_close(scene->os, ends[i][1]), 0);
        scene->streams[i] = ends[i][0];
        assert_int_equal(kelpie__os_watch(scene->os, ends[i][0], KELPIE_OS_READABLE, (uint64_t)i),
                         0);
    }
    assert_int_equal(kelpie__os_watch(scene->os, scene->process, KELPIE_OS_READABLE, STREAM_COUNT),
                     0);
}

static void read_all(struct scene *scene, int stream) {
    for (int budget = 1000; budget > 0 && !scene->is_at_end[stream]; budget -= 1) {
        if (scene->lengths[stream] == HEARD_BYTES - 1) {
            scene->lengths[stream] = 0; /* more than anybody looks at */
        }
        size_t room = HEARD_BYTES - 1 - scene->lengths[stream];
        int64_t count = kelpie__os_read(scene->os, scene->streams[stream],
                                        scene->heard[stream] + scene->lengths[stream], room);
        if (count == -EAGAIN) {
            return;
        }
        if (count <= 0) {
            scene->is_at_end[stream] = true;
            assert_int_equal(kelpie__os_watch(scene->os, scene->streams[stream], 0, 0), 0);
            return;
        }
        scene->lengths[stream] += (size_t)count;
        scene->totals[stream] += (size_t)count;
        scene->heard[stream][scene->lengths[stream]] = '\0';
    }
}

/* Waits until `text` was heard on the stream ("": until the time is up). True: it was. */
static bool hear(struct scene *scene, int stream, const char *text, int64_t timeout_ms) {
    int64_t deadline_ns = now(scene) + timeout_ms * MS;
    for (int budget = 100000; budget > 0; budget -= 1) {
        struct kelpie_os_event events[8];
        for (int i = 0; i < STREAM_COUNT; i += 1) {
            read_all(scene, i);
        }
        if (text[0] != '\0' && strstr(scene->heard[stream], text) != NULL) {
            return true;
        }
        if (now(scene) >= deadline_ns) {
            return false;
        }
        kelpie__ignore(kelpie__os_watch(scene->os, scene->process, 0, 0)); /* its end wakes once */
        int waited = kelpie__os_wait(scene->os, events, 8, deadline_ns);
        if (waited < 0) {
            print_message("wait: %d, %s\n", waited, kelpie__sim_world_failure(scene->world));
        }
        assert_true(waited >= 0);
    }
    return false;
}

static void forget(struct scene *scene, int stream) {
    scene->lengths[stream] = 0;
    scene->heard[stream][0] = '\0';
}

static void say(struct scene *scene, const char *text) {
    forget(scene, QMP);
    assert_int_equal(kelpie__os_write(scene->os, scene->streams[QMP], text, strlen(text)),
                     (int64_t)strlen(text));
}

static void expect(struct scene *scene, const char *text, const char *answer) {
    say(scene, text);
    hear(scene, QMP, "", 20);
    assert_string_equal(scene->heard[QMP], answer);
}

static void greet(struct scene *scene) {
    assert_true(hear(scene, QMP, GREETING, 1000));
    assert_string_equal(scene->heard[QMP], GREETING);
    say(scene, "{\"execute\":\"qmp_capabilities\",\"id\":1}\n");
    assert_true(hear(scene, QMP, "{\"return\": {}, \"id\": 1}\r\n", 1000));
}

/* Its end: the exit code, or minus the signal. -1000: it lives. */
static int wait_end(struct scene *scene, int64_t timeout_ms) {
    struct kelpie_os_exit end = {0};
    int64_t deadline_ns = now(scene) + timeout_ms * MS;
    int status = -EAGAIN;
    for (int budget = 1000; budget > 0 && status == -EAGAIN && now(scene) < deadline_ns;
         budget -= 1) {
        hear(scene, QMP, "", 1);
        status = kelpie__os_reap(scene->os, scene->process, &end);
    }
    hear(scene, QMP, "", 1);
    return status == -EAGAIN ? -1000 : end.is_signalled ? -end.value : end.value;
}

/* What the plan does to a QEMU without a guest. */
static struct scene *scene_incoming(const char *plan) {
    struct scene *scene = scene_new(plan, false);
    spawn(scene, incoming);
    return scene;
}

/* ---- the protocol ---------------------------------------------------------------------------- */

static const char *const transcript[][2] = {
    {"{\"execute\":\"query-status\"}",
     "{\"error\": {\"class\": \"CommandNotFound\", \"desc\": \"Expecting capabilities negotiation "
     "with 'qmp_capabilities'\"}}\r\n"},
    {"{\"execute\":\"qmp_capabilities\",\"id\":{\"a\": 1}}",
     "{\"return\": {}, \"id\": {\"a\": 1}}\r\n"},
    {"{\"execute\":\"qmp_capabilities\",\"id\":\"x\"}",
     "{\"id\": \"x\", \"error\": {\"class\": \"CommandNotFound\", \"desc\": \"Capabilities "
     "negotiation is already complete, command ignored\"}}\r\n"},
    {"x\n", "{\"error\": {\"class\": \"GenericError\", \"desc\": \"JSON parse error, invalid "
            "keyword 'x'\"}}\r\n"},
    {"5\n", "{\"error\": {\"class\": \"GenericError\", \"desc\": \"QMP input must be a JSON "
            "object\"}}\r\n"},
    {"\"abc\"", "{\"error\": {\"class\": \"GenericError\", \"desc\": \"QMP input must be a JSON "
                "object\"}}\r\n"},
    {"}", "{\"error\": {\"class\": \"GenericError\", \"desc\": \"JSON parse error, expecting "
          "value\"}}\r\n"},
    {"]", "{\"error\": {\"class\": \"GenericError\", \"desc\": \"JSON parse error, expecting "
          "value\"}}\r\n"},
    {"[1]", "{\"error\": {\"class\": \"GenericError\", \"desc\": \"QMP input must be a JSON "
            "object\"}}\r\n"},
    {"{\"execute\":5}", "{\"error\": {\"class\": \"GenericError\", \"desc\": \"QMP input member "
                        "'execute' must be a string\"}}\r\n"},
    {"{\"id\":3}", "{\"id\": 3, \"error\": {\"class\": \"GenericError\", \"desc\": \"QMP input "
                   "lacks member 'execute'\"}}\r\n"},
    {"{\"execute\":\"nope\",\"id\":4}",
     "{\"id\": 4, \"error\": {\"class\": \"CommandNotFound\", \"desc\": \"The command nope has not "
     "been found\"}}\r\n"},
    {"{\"execute\":\"query-status\",\"bad\":1,\"id\":5}",
     "{\"id\": 5, \"error\": {\"class\": \"GenericError\", \"desc\": \"QMP input member 'bad' is "
     "unexpected\"}}\r\n"},
    {"{\"execute\":\"query-status\",\"arguments\":{\"q\":1},\"id\":6}",
     "{\"id\": 6, \"error\": {\"class\": \"GenericError\", \"desc\": \"Parameter 'q' is "
     "unexpected\"}}\r\n"},
    {"{\"execute\":\"query-status\" 7}",
     "{\"error\": {\"class\": \"GenericError\", \"desc\": \"JSON parse error, expected separator "
     "in dict\"}}\r\n"},
    {"{\"execute\":\"query-status\",\"id\":7", ""}, /* swallows what follows */
    {"{\"execute\":\"query-status\"}", ""},
    {"}", "{\"error\": {\"class\": \"GenericError\", \"desc\": \"JSON parse error, expected "
          "separator in dict\"}}\r\n"},
    {"xyz ", "{\"error\": {\"class\": \"GenericError\", \"desc\": \"JSON parse error, invalid "
             "keyword 'xyz'\"}}\r\n"},
    {"{\"execute\":\"query-version\",\"id\":8}",
     "{\"return\": {\"qemu\": {\"micro\": 22, \"minor\": 2, \"major\": 7}, \"package\": \"Debian "
     "1:7.2+dfsg-7+deb12u18+b3\"}, \"id\": 8}\r\n"},
    {"{\"execute\":\"query-status\",\"id\":11}",
     "{\"return\": {\"status\": \"inmigrate\", \"singlestep\": false, \"running\": false}, \"id\": "
     "11}\r\n"},
    {"{\"execute\":\"cont\",\"id\":12}", "{\"return\": {}, \"id\": 12}\r\n"}, /* without effect */
    {"{\"execute\":\"query-status\",\"id\":13}",
     "{\"return\": {\"status\": \"inmigrate\", \"singlestep\": false, \"running\": false}, \"id\": "
     "13}\r\n"},
};

static void test_protocol_is_the_real_ones(void **state) {
    struct scene *scene = scene_incoming(NULL);
    kelpie__ignore(state != NULL);
    assert_true(hear(scene, QMP, GREETING, 1000));
    int64_t greeted_ns = now(scene) - scene->started_ns;
    assert_true(greeted_ns > 4 * MS && greeted_ns < 150 * MS);
    for (size_t i = 0; i < KELPIE_ARRAY_COUNT(transcript); i += 1) {
        expect(scene, transcript[i][0], transcript[i][1]);
    }
    scene_free(scene);
}

static void test_texts_in_pieces_and_in_one_are_the_same(void **state) {
    static const char text[] = "{\"execute\":\"query-kvm\",\"id\":2}\n{\"execute\":\"query-kvm\","
                               "\"id\":3}";
    static const char answer[] = "{\"return\": {\"enabled\": false, \"present\": true}, \"id\": "
                                 "2}\r\n{\"return\": {\"enabled\": false, \"present\": true}, "
                                 "\"id\": 3}\r\n";
    struct scene *scene = scene_incoming(NULL);
    kelpie__ignore(state != NULL);
    greet(scene);
    expect(scene, text, answer);
    forget(scene, QMP);
    for (size_t i = 0; i < sizeof(text) - 1; i += 1) {
        assert_int_equal(kelpie__os_write(scene->os, scene->streams[QMP], text + i, 1), 1);
        hear(scene, QMP, "", 1);
    }
    hear(scene, QMP, "", 20);
    assert_string_equal(scene->heard[QMP], answer);
    scene_free(scene);
}

static void test_quit_says_shutdown_before_its_return(void **state) {
    struct scene *scene = scene_incoming(NULL);
    kelpie__ignore(state != NULL);
    greet(scene);
    say(scene, "{\"execute\":\"quit\",\"id\":9}");
    assert_int_equal(wait_end(scene, 1000), 0);
    const char *event = strstr(scene->heard[QMP], "\"event\": \"SHUTDOWN\", \"data\": {\"guest\": "
                                                  "false, \"reason\": \"host-qmp-quit\"}}\r\n");
    assert_non_null(event);
    assert_string_equal(strchr(event, '\n') + 1, "{\"return\": {}, \"id\": 9}\r\n");
    assert_true(scene->is_at_end[QMP]);
    scene_free(scene);
}

static void test_sigterm_is_an_orderly_end(void **state) {
    struct scene *scene = scene_incoming(NULL);
    kelpie__ignore(state != NULL);
    greet(scene);
    assert_int_equal(kelpie__os_signal(scene->os, scene->process, SIGTERM), 0);
    assert_int_equal(wait_end(scene, 1000), 0);
    assert_non_null(strstr(scene->heard[QMP], "\"reason\": \"host-signal\""));
    assert_non_null(strstr(scene->heard[STDERR], "qemu-system-x86_64: terminating on signal 15"));
    scene_free(scene);
}

static void test_answers_of_a_stopped_process_come_late(void **state) {
    struct scene *scene = scene_incoming(NULL);
    kelpie__ignore(state != NULL);
    greet(scene);
    assert_int_equal(kelpie__os_signal(scene->os, scene->process, SIGSTOP), 0);
    say(scene, "{\"execute\":\"query-name\",\"id\":2}");
    hear(scene, QMP, "", 5000);
    assert_string_equal(scene->heard[QMP], "");
    assert_int_equal(kelpie__os_signal(scene->os, scene->process, SIGCONT), 0);
    assert_true(hear(scene, QMP,
                     "{\"return\": {\"name\": \"/var/lib/kelpie/vms/a\"}, \"id\": 2}\r\n", 100));
    scene_free(scene);
}

static void test_it_lives_on_when_its_client_goes(void **state) {
    struct scene *scene = scene_incoming(NULL);
    kelpie__ignore(state != NULL);
    greet(scene);
    assert_int_equal(kelpie__os_watch(scene->os, scene->streams[QMP], 0, 0), 0);
    assert_int_equal(kelpie__os_close(scene->os, scene->streams[QMP]), 0);
    scene->is_at_end[QMP] = true;
    assert_int_equal(wait_end(scene, 2000), -1000);
    assert_int_equal(kelpie__os_signal(scene->os, scene->process, SIGKILL), 0);
    assert_int_equal(wait_end(scene, 100), -SIGKILL);
    scene_free(scene);
}

/* ---- argv ------------------------------------------------------------------------------------ */

struct bad_arguments {
    const char *arguments[8];
    bool is_greeted; /* found out after the greeting */
    const char *words;
};

static const struct bad_arguments bad_arguments[] = {
    {{"-foo"}, false, "qemu-system-x86_64: -foo: invalid option\n"},
    {{"-m"}, false, "qemu-system-x86_64: -m: requires an argument\n"},
    {{"x"}, false, "qemu-system-x86_64: x: Could not open 'x': No such file or directory\n"},
    {{"-append", "x"}, false, "qemu-system-x86_64: -append only allowed with -kernel option\n"},
    {{"-kernel", "/nope"},
     true,
     "qemu: could not open kernel file '/nope': No such file or directory\n"},
    {{"-kernel", "/etc/passwd"}, true, "qemu: invalid kernel header\n"},
    {{"-smp", "x"}, false, "qemu-system-x86_64: Parameter 'smp.cpus' expects integer\n"},
    {{"-cpu", "zork"}, true, "qemu-system-x86_64: unable to find CPU model 'zork'\n"},
    {{"-incoming", "zork"},
     false,
     "qemu-system-x86_64: -incoming zork: unknown migration protocol: zork\n"},
    {{"-object", "memory-backend-ram,id=m,size=32M,zork=1"},
     false,
     "qemu-system-x86_64: -object memory-backend-ram,id=m,size=32M,zork=1: Invalid parameter "
     "'zork'\n"},
    {{"-object", "memory-backend-file,id=m,size=32M,mem-path=/nope/x,share=off"},
     false,
     "qemu-system-x86_64: can't open backing store /nope/x for guest RAM: No such file or "
     "directory\n"},
    {{"-M", "microvm,memory-backend=nope"},
     false,
     "qemu-system-x86_64: Memory backend 'nope' not found\n"},
    {{"-m", "64", "-object", "memory-backend-ram,id=mm,size=32M", "-M",
      "microvm,memory-backend=mm"},
     false,
     "qemu-system-x86_64: Machine memory size does not match the size of the memory backend\n"},
    {{"-chardev", "socket,id=z,fd=99"},
     false,
     "qemu-system-x86_64: -chardev socket,id=z,fd=99: File descriptor '99' is not a socket\n"},
    {{"-mon", "chardev=nope,mode=control"},
     false,
     "qemu-system-x86_64: -mon chardev=nope,mode=control: chardev \"nope\" not found\n"},
    {{"-sandbox", "on,foo=deny"},
     false,
     "qemu-system-x86_64: -sandbox on,foo=deny: Invalid parameter 'foo'\n"},
    {{"-blockdev", "driver=file,node-name=f,filename=/nope"},
     false,
     "qemu-system-x86_64: -blockdev driver=file,node-name=f,filename=/nope: Could not open "
     "'/nope': No such file or directory\n"},
    {{"-device", "virtio-blk-device,drive=zz"},
     true,
     "qemu-system-x86_64: -device virtio-blk-device,drive=zz: Property 'virtio-blk-device.drive' "
     "can't find value 'zz'\n"},
    {{"-serial", "chardev:nope"},
     true,
     "qemu-system-x86_64: -serial chardev:nope: could not connect serial device to character "
     "backend 'chardev:nope'\n"},
    {{"-accel", "kvm", "-cpu", "host"},
     false,
     "Could not access KVM kernel module: No such file or directory\nqemu-system-x86_64: failed to "
     "initialize kvm: No such file or directory\n"},
};

static void test_bad_arguments_end_it_with_its_words(void **state) {
    kelpie__ignore(state != NULL);
    for (size_t i = 0; i < KELPIE_ARRAY_COUNT(bad_arguments); i += 1) {
        const struct bad_arguments *bad = &bad_arguments[i];
        const char *arguments[16] = {"-chardev", "socket,id=qmp,fd=3", "-mon",
                                     "chardev=qmp,mode=control"};
        struct scene *scene = scene_new(NULL, false);
        for (size_t j = 0; bad->arguments[j] != NULL; j += 1) {
            arguments[4 + j] = bad->arguments[j];
        }
        spawn(scene, arguments);
        assert_int_equal(wait_end(scene, 1000), 1);
        assert_string_equal(scene->heard[STDERR], bad->words);
        assert_string_equal(scene->heard[QMP], bad->is_greeted ? GREETING : "");
        scene_free(scene);
    }
}

/* ---- with a guest ---------------------------------------------------------------------------- */

/* As the driver starts one. */
static struct scene *scene_boot(const char *plan, bool has_kvm) {
    static const char header[] = "070701000000010000816D00000000000000000000000100000000"
                                 "0000000000000000000000000000000000000000000000050000000000";
    struct scene *scene = scene_new(plan, has_kvm);
    struct sim_disk *disk = kelpie__sim_world_disk(scene->world);
    struct kelpie_qemu_arguments *arguments = test_calloc(1, sizeof(*arguments));
    uint8_t program[8192];
    char initramfs[512] = "";
    memcpy(initramfs, header, 110);
    memcpy(initramfs + 110, "init", 5);
    memcpy(initramfs + sizeof(initramfs) - 11, "TRAILER!!!", 11);
    int64_t count = kelpie__sim_disk_peek(disk, false, SIM_LIBEXEC_DIRECTORY "/kelpie-agent",
                                          program, sizeof(program));
    assert_true(count > 0);
    assert_int_equal(kelpie__sim_disk_put(disk, "/kernel", 0644, program, (size_t)count), 0);
    assert_int_equal(kelpie__sim_disk_put(disk, "/initramfs", 0644, initramfs, sizeof(initramfs)),
                     0);
    const struct kelpie_vmm_spec spec = {.vm_directory = "/var/lib/kelpie/vms/a,b",
                                         .kernel = "/kernel",
                                         .initramfs = "/initramfs",
                                         .cpu_count = 1,
                                         .memory_mib = 256};
    const struct kelpie_qemu_arguments_input input = {
        .spec = &spec,
        .program = QEMU,
        .accelerator = has_kvm ? KELPIE_VMM_ACCELERATOR_KVM : KELPIE_VMM_ACCELERATOR_TCG,
        .base = KELPIE_OS_NO_HANDLE,
        .tsc_khz = has_kvm ? 0 : kelpie__sim_world_host(scene->world)->tsc_khz,
        .qmp = 3,
        .agent = 4,
        .console = 5};
    assert_int_equal(kelpie__qemu_arguments_build(arguments, &input, NULL), 0);
    spawn(scene, arguments->values + 1);
    test_free(arguments);
    return scene;
}

static void guest_truth(struct scene *scene, struct sim_guest_truth *out) {
    struct sim_guest *guest = kelpie__sim_world_guest(scene->world, 0);
    assert_non_null(guest);
    kelpie__sim_guest_truth(guest, out);
}

/* Its agent's first frame, behind a header of 24 bytes. */
static void wait_ready(struct scene *scene) {
    for (int i = 0; i < 200 && scene->lengths[AGENT] < 24; i += 1) {
        hear(scene, AGENT, "", 50);
    }
    assert_true(scene->lengths[AGENT] > 24);
}

static void test_stop_and_cont_tell_events_first(void **state) {
    struct scene *scene = scene_boot(NULL, false);
    struct sim_guest_truth before;
    struct sim_guest_truth after;
    kelpie__ignore(state != NULL);
    greet(scene);
    wait_ready(scene);
    assert_true(now(scene) - scene->started_ns > 400 * MS);
    assert_true(now(scene) - scene->started_ns < 8000 * MS);
    expect(scene, "{\"execute\":\"cont\",\"id\":2}", "{\"return\": {}, \"id\": 2}\r\n");
    say(scene, "{\"execute\":\"stop\",\"id\":3}");
    assert_true(hear(scene, QMP, "\"event\": \"STOP\"}\r\n{\"return\": {}, \"id\": 3}\r\n", 100));
    guest_truth(scene, &before);
    expect(scene, "{\"execute\":\"stop\",\"id\":4}", "{\"return\": {}, \"id\": 4}\r\n");
    hear(scene, QMP, "", 5000);
    guest_truth(scene, &after);
    assert_int_equal(before.ticks, after.ticks);
    say(scene, "{\"execute\":\"cont\",\"id\":5}");
    assert_true(hear(scene, QMP, "\"event\": \"RESUME\"}\r\n{\"return\": {}, \"id\": 5}\r\n", 100));
    hear(scene, QMP, "", 1000);
    guest_truth(scene, &after);
    assert_true(after.ticks > before.ticks + 900);
    expect(scene, "{\"execute\":\"query-status\",\"id\":6}",
           "{\"return\": {\"status\": \"running\", \"singlestep\": false, \"running\": true}, "
           "\"id\": 6}\r\n");
    scene_free(scene);
}

static void test_a_panic_is_heard_on_the_console_then_a_reset(void **state) {
    struct scene *scene = scene_boot(NULL, false);
    kelpie__ignore(state != NULL);
    greet(scene);
    wait_ready(scene);
    kelpie__sim_guest_panic(kelpie__sim_world_guest(scene->world, 0), "because of a test");
    assert_int_equal(wait_end(scene, 1000), 0);
    assert_non_null(strstr(scene->heard[CONSOLE], "Kernel panic - not syncing: because of a test"));
    assert_non_null(strstr(scene->heard[QMP], "\"event\": \"SHUTDOWN\", \"data\": {\"guest\": "
                                              "true, \"reason\": \"guest-reset\"}}\r\n"));
    assert_null(kelpie__sim_world_guest(scene->world, 0));
    scene_free(scene);
}

static void test_a_killed_qemu_takes_its_guest_along(void **state) {
    struct scene *scene = scene_boot(NULL, false);
    kelpie__ignore(state != NULL);
    wait_ready(scene);
    assert_int_equal(kelpie__os_signal(scene->os, scene->process, SIGKILL), 0);
    assert_int_equal(wait_end(scene, 100), -SIGKILL);
    assert_null(kelpie__sim_world_guest(scene->world, 0));
    scene_free(scene);
}

static void test_without_an_agent_the_kernel_panics(void **state) {
    struct scene *scene = scene_boot(NULL, false);
    kelpie__ignore(state != NULL);
    /* QEMU looks at it only later. */
    assert_int_equal(
        kelpie__sim_disk_put(kelpie__sim_world_disk(scene->world), "/initramfs", 0644, "short", 5),
        0);
    assert_int_equal(wait_end(scene, 20000), 0);
    assert_non_null(strstr(scene->heard[CONSOLE], "Kernel panic - not syncing: "));
    scene_free(scene);
}

static void test_kvm_where_there_is_one(void **state) {
    struct scene *scene = scene_boot(NULL, true);
    kelpie__ignore(state != NULL);
    greet(scene);
    expect(scene, "{\"execute\":\"query-kvm\",\"id\":2}",
           "{\"return\": {\"enabled\": true, \"present\": true}, \"id\": 2}\r\n");
    wait_ready(scene);
    scene_free(scene);
    scene = scene_boot("qemu.kvm nth=1 => hang", true); /* as some hosts have it */
    greet(scene);
    hear(scene, AGENT, "", 60000);
    assert_int_equal(scene->lengths[AGENT], 0);
    assert_int_equal(wait_end(scene, 10), -1000);
    scene_free(scene);
}

struct boot_fault {
    const char *plan;
    bool is_ended;
    const char *console; /* "": nothing of that */
};

static void test_fault_of_a_boot(void **state) {
    static const struct boot_fault faults[] = {
        {"guest.boot nth=1 => hang", false, ""},
        {"guest.boot nth=1 => deaf", false, ""},
        {"guest.boot nth=1 => panic", true, "Kernel panic - not syncing: "},
        {"guest.boot nth=1 => reset", true, ""},
    };
    kelpie__ignore(state != NULL);
    for (size_t i = 0; i < KELPIE_ARRAY_COUNT(faults); i += 1) {
        struct scene *scene = scene_boot(faults[i].plan, false);
        greet(scene);
        hear(scene, AGENT, "", 30000);
        assert_int_equal(scene->lengths[AGENT], 0);
        assert_non_null(strstr(scene->heard[CONSOLE], faults[i].console));
        assert_int_equal(wait_end(scene, 10), faults[i].is_ended ? 0 : -1000);
        scene_free(scene);
    }
}

static void test_fault_of_frames(void **state) {
    static const char *const plans[] = {
        "agent.frame nth=1 => drop",      "agent.frame nth=1 => torn",
        "agent.frame nth=1 => duplicate", "agent.frame nth=1 => mutate",
        "agent.frame nth=1 => flood",     "agent.frame nth=1 => late:2s",
    };
    kelpie__ignore(state != NULL);
    struct scene *scene = scene_boot(NULL, false);
    wait_ready(scene);
    hear(scene, AGENT, "", 3000);
    size_t length = scene->lengths[AGENT]; /* of what an agent says that nobody answers */
    scene_free(scene);
    const size_t lengths[] = {0, length / 2, 2 * length, length, 4096, length};
    for (size_t i = 0; i < KELPIE_ARRAY_COUNT(plans); i += 1) {
        scene = scene_boot(plans[i], false);
        hear(scene, AGENT, "", 10000);
        assert_int_equal(scene->lengths[AGENT], lengths[i]);
        if (lengths[i] == 2 * length) {
            assert_memory_equal(scene->heard[AGENT], scene->heard[AGENT] + length, length);
        }
        scene_free(scene);
    }
}

/* ---- faults ---------------------------------------------------------------------------------- */

static void test_fault_start_fails_without_a_greeting(void **state) {
    struct scene *scene = scene_incoming("qemu.start nth=1 => fail");
    kelpie__ignore(state != NULL);
    assert_int_equal(wait_end(scene, 1000), 1);
    assert_string_equal(scene->heard[QMP], "");
    assert_true(scene->lengths[STDERR] > 0);
    scene_free(scene);
    scene = scene_incoming("qemu.start nth=1 => die");
    assert_int_equal(wait_end(scene, 1000), -SIGABRT);
    scene_free(scene);
    scene = scene_incoming("qemu.start nth=1 => hang");
    assert_int_equal(wait_end(scene, 1000), -1000);
    assert_string_equal(scene->heard[QMP], "");
    scene_free(scene);
}

static void test_fault_of_a_command(void **state) {
    struct scene *scene = scene_incoming("qmp.query-status nth=1 => fail\n"
                                         "qmp.query-status nth=2 => drop\n"
                                         "qmp.query-status nth=3 => late:2s\n"
                                         "qmp.query-status nth=4 => hang\n");
    kelpie__ignore(state != NULL);
    greet(scene);
    expect(scene, "{\"execute\":\"query-status\",\"id\":1}",
           "{\"id\": 1, \"error\": {\"class\": \"GenericError\", \"desc\": \"the fault plan "
           "refuses query-status\"}}\r\n");
    expect(scene, "{\"execute\":\"query-status\",\"id\":2}", "");
    expect(scene, "{\"execute\":\"query-status\",\"id\":3}", "");
    hear(scene, QMP, "\"id\": 3}", 3000);
    assert_string_equal(scene->heard[QMP],
                        "{\"return\": {\"status\": \"inmigrate\", \"singlestep\": false, "
                        "\"running\": false}, \"id\": 3}\r\n");
    expect(scene, "{\"execute\":\"query-status\",\"id\":4}", "");
    expect(scene, "{\"execute\":\"query-status\",\"id\":5}", "");
    assert_int_equal(kelpie__os_signal(scene->os, scene->process, SIGTERM), 0);
    assert_int_equal(wait_end(scene, 1000), -1000); /* a loop that stands hears no signal */
    scene_free(scene);
}

static void test_fault_flood_of_words(void **state) {
    struct scene *scene = scene_incoming("qemu.start nth=1 => flood");
    kelpie__ignore(state != NULL);
    for (int i = 0; i < 200 && scene->totals[STDERR] < 200000; i += 1) {
        hear(scene, STDERR, "", 1);
    }
    assert_true(scene->totals[STDERR] >= 200000);
    greet(scene); /* it works all the same */
    scene_free(scene);
}

static void test_equal_seeds_are_equal(void **state) {
    uint64_t hashes[2];
    kelpie__ignore(state != NULL);
    for (int i = 0; i < 2; i += 1) {
        struct scene *scene = scene_incoming("qmp.event p=0.5 => drop");
        greet(scene);
        say(scene, "{\"execute\":\"quit\",\"id\":9}");
        assert_int_equal(wait_end(scene, 1000), 0);
        hashes[i] = kelpie__sim_world_hash(scene->world);
        scene_free(scene);
    }
    assert_true(hashes[0] == hashes[1] && hashes[0] != 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_protocol_is_the_real_ones),
        cmocka_unit_test(test_texts_in_pieces_and_in_one_are_the_same),
        cmocka_unit_test(test_quit_says_shutdown_before_its_return),
        cmocka_unit_test(test_sigterm_is_an_orderly_end),
        cmocka_unit_test(test_answers_of_a_stopped_process_come_late),
        cmocka_unit_test(test_it_lives_on_when_its_client_goes),
        cmocka_unit_test(test_bad_arguments_end_it_with_its_words),
        cmocka_unit_test(test_stop_and_cont_tell_events_first),
        cmocka_unit_test(test_a_panic_is_heard_on_the_console_then_a_reset),
        cmocka_unit_test(test_a_killed_qemu_takes_its_guest_along),
        cmocka_unit_test(test_without_an_agent_the_kernel_panics),
        cmocka_unit_test(test_kvm_where_there_is_one),
        cmocka_unit_test(test_fault_of_a_boot),
        cmocka_unit_test(test_fault_of_frames),
        cmocka_unit_test(test_fault_start_fails_without_a_greeting),
        cmocka_unit_test(test_fault_of_a_command),
        cmocka_unit_test(test_fault_flood_of_words),
        cmocka_unit_test(test_equal_seeds_are_equal),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
