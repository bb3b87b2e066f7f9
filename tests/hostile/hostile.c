/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Guests, VMMs and clients that lie. Goal: every lie costs the liar and nobody else, and the error
 * names the rule of docs/protocol.md that was broken. Method: real library and real monitors, with
 * fake_vmm in QEMU's place; beside every liar an honest VM of the same library has to go on
 * working.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "harness/harness.h"
#include "hostile/lies.h"
#include "kelpie.h"

#define BOOT_TIMEOUT_MS 2000

#define HOSTILE_OK(call)                                                                           \
    do {                                                                                           \
        struct kelpie_error broken = {0};                                                          \
        int hostile_status = (call);                                                               \
        HARNESS_CHECK(hostile_status == 0, "%s: %s", kelpie_code_name(hostile_status),             \
                      broken.message);                                                             \
    } while (0)

struct lie {
    const char *name;
    const char *says; /* in the error or in the reason */
};

struct hostile {
    const struct harness *harness;
    struct kelpie *kelpie;
    struct kelpie_vm *honest;
};

static struct kelpie_vm *hostile_create(struct hostile *hostile, const char *name) {
    struct kelpie_config *config = NULL;
    struct kelpie_vm *vm = NULL;
    HOSTILE_OK(kelpie_config_create(hostile->kelpie, &config, &broken));
    kelpie_config_set_cpus(config, 1);
    kelpie_config_set_memory_mib(config, 128);
    kelpie_config_set_accelerator(config, KELPIE_ACCELERATOR_TCG);
    kelpie_config_set_ephemeral(config, true);
    kelpie_config_set_template(config, false); /* its guests are none */
    kelpie_config_set_boot_timeout_ms(config, BOOT_TIMEOUT_MS);
    HOSTILE_OK(kelpie_vm_create(hostile->kelpie, name, config, &vm, &broken));
    kelpie_config_destroy(config);
    return vm;
}

static struct kelpie_vm *hostile_create_liar(struct hostile *hostile, const char *lie) {
    char name[65];
    snprintf(name, sizeof(name), LIE_PREFIX "%s", lie);
    return hostile_create(hostile, name);
}

/* Runs a command; the status of kelpie_vm_exec. */
static int hostile_exec(struct kelpie_vm *vm, struct kelpie_exec_result *out,
                        struct kelpie_error *error) {
    static const char *const argv[] = {"anything", NULL};
    const struct kelpie_exec_options options = {
        .struct_size = sizeof(options), .argv = argv, .timeout_ms = 3000};
    *out = (struct kelpie_exec_result){.struct_size = sizeof(*out)};
    return kelpie_vm_exec(vm, &options, out, error);
}

static void hostile_honest_answers(const struct hostile *hostile, const char *after) {
    struct kelpie_exec_result result;
    struct kelpie_error error = {0};
    int status = hostile_exec(hostile->honest, &result, &error);
    HARNESS_CHECK(status == 0, "after %s the honest VM says %s", after, error.message);
    HARNESS_CHECK(strcmp(result.stdout_bytes, "honest\n") == 0, "after %s it said \"%s\"", after,
                  result.stdout_bytes);
    kelpie_exec_result_release(&result);
}

static struct hostile hostile_open(const struct harness *harness) {
    const char *fake = getenv("KELPIE_TEST_FAKE_VMM");
    const struct kelpie_open_options options = {
        .struct_size = sizeof(options),
        .state_directory = harness->state_directory,
        .runtime_directory = harness->runtime_directory,
        .cache_directory = harness->cache_directory,
        .libexec_directory = harness->libexec_directory,
    };
    struct hostile hostile = {.harness = harness};
    HARNESS_CHECK(fake != NULL, "KELPIE_TEST_FAKE_VMM is not set");
    HARNESS_CHECK(setenv("KELPIE_QEMU", fake, 1) == 0, "setenv");
    HOSTILE_OK(kelpie_open(&options, &hostile.kelpie, &broken));
    hostile.honest = hostile_create(&hostile, "honest");
    HOSTILE_OK(kelpie_vm_start(hostile.honest, 0, &broken));
    hostile_honest_answers(&hostile, "its own start");
    return hostile;
}

static void hostile_close(struct hostile *hostile) {
    HOSTILE_OK(kelpie_vm_delete(hostile->honest, true, &broken));
    kelpie_vm_close(hostile->honest);
    kelpie_close(hostile->kelpie);
}

static struct kelpie_vm_info hostile_inspect(struct kelpie_vm *vm) {
    struct kelpie_vm_info info = {.struct_size = sizeof(info)};
    HOSTILE_OK(kelpie_vm_inspect(vm, &info, &broken));
    return info;
}

static void hostile_end(struct kelpie_vm *vm) {
    HOSTILE_OK(kelpie_vm_delete(vm, true, &broken));
    kelpie_vm_close(vm);
}

/* ---- lies before a VM runs: a failed start, and the state it started from ---- */

static void boot_lie(struct hostile *hostile, const char *lie, int code, const char *says) {
    struct kelpie_error error = {0};
    struct kelpie_vm *vm = hostile_create_liar(hostile, lie);
    int status = kelpie_vm_start(vm, 0, &error);
    HARNESS_CHECK(status == code, "%s: %s, not %s: %s", lie, kelpie_code_name(status),
                  kelpie_code_name(code), error.message);
    HARNESS_CHECK(strstr(error.message, says) != NULL, "%s: \"%s\" is not in: %s", lie, says,
                  error.message);
    struct kelpie_vm_info info = hostile_inspect(vm);
    HARNESS_CHECK(info.state == KELPIE_VM_CREATED, "%s: %s", lie, kelpie_vm_state_name(info.state));
    hostile_end(vm);
    hostile_honest_answers(hostile, lie);
}

static void test_boot_rules(const struct harness *harness) {
    static const struct lie lies[] = {
        {"garbage", "rule R1:"},
        {"hello-number", "rule R13:"},
        {"epoch", "rule R21:"},
        {"version", "rule R21:"},
        {"ready-twice", "rule R21:"},
        {"no-clock", "rule R22:"},
        {"broken-guest", "no module of that name"},
        {"hello-refused", "I do not know you"},
    };
    struct hostile hostile = hostile_open(harness);
    for (size_t i = 0; i < LIE_FRAME_COUNT; i += 1) {
        char rule[16];
        snprintf(rule, sizeof(rule), "rule %s:", lie_frames[i].rule);
        boot_lie(&hostile, lie_frames[i].name, KELPIE_E_BOOT, rule);
    }
    for (size_t i = 0; i < sizeof(lies) / sizeof(lies[0]); i += 1) {
        boot_lie(&hostile, lies[i].name, KELPIE_E_BOOT, lies[i].says);
    }
    hostile_close(&hostile);
}

static void test_boot_silence(const struct harness *harness) {
    static const char *const lies[] = {"silent", "hello-silent", "setup-silent", "flood"};
    struct hostile hostile = hostile_open(harness);
    for (size_t i = 0; i < sizeof(lies) / sizeof(lies[0]); i += 1) {
        uint64_t start_ms = harness_now_ms();
        boot_lie(&hostile, lies[i], KELPIE_E_BOOT_TIMEOUT, "2000 ms");
        uint64_t took_ms = harness_now_ms() - start_ms;
        HARNESS_CHECK(took_ms < 3 * BOOT_TIMEOUT_MS, "%s: %llu ms", lies[i],
                      (unsigned long long)took_ms);
    }
    hostile_close(&hostile);
}

static void test_vmm_lies(const struct harness *harness) {
    struct hostile hostile = hostile_open(harness);
    boot_lie(&hostile, "vmm-dies", KELPIE_E_BOOT, "fake QEMU: no device of that name");
    /* A VMM that closes the guest's channel is expected to end by itself, and is given as long as a
     * boot. */
    boot_lie(&hostile, "half-frame", KELPIE_E_BOOT_TIMEOUT, "2000 ms");
    boot_lie(&hostile, "qmp-garbage", KELPIE_E_BOOT, "QMP");
    boot_lie(&hostile, "qmp-long", KELPIE_E_BOOT, "QMP");
    hostile_close(&hostile);
}

/* ---- lies of a running VM: Crashed, with the reason, and it can be started again ---- */

static void running_lie(struct hostile *hostile, const struct lie *lie) {
    struct kelpie_error error = {0};
    struct kelpie_exec_result result;
    struct kelpie_vm *vm = hostile_create_liar(hostile, lie->name);
    HOSTILE_OK(kelpie_vm_start(vm, 0, &broken));
    int status = hostile_exec(vm, &result, &error);
    HARNESS_CHECK(status < 0, "%s: the command succeeded", lie->name);
    HARNESS_CHECK(status == KELPIE_E_CRASHED || status == KELPIE_E_PROTOCOL, "%s: %s: %s",
                  lie->name, kelpie_code_name(status), error.message);
    HARNESS_CHECK(strstr(error.message, lie->says) != NULL, "%s: \"%s\" is not in: %s", lie->name,
                  lie->says, error.message);
    struct kelpie_vm_info info = hostile_inspect(vm);
    uint64_t end_ms = harness_now_ms() + 5000;
    while (info.state == KELPIE_VM_RUNNING && harness_now_ms() < end_ms) {
        HOSTILE_OK(kelpie_wait(hostile->kelpie, 20, &broken));
        info = hostile_inspect(vm);
    }
    HARNESS_CHECK(info.state == KELPIE_VM_CRASHED, "%s: %s", lie->name,
                  kelpie_vm_state_name(info.state));
    HARNESS_CHECK(strstr(info.reason, lie->says) != NULL, "%s: \"%s\" is not in the reason: %s",
                  lie->name, lie->says, info.reason);
    HOSTILE_OK(kelpie_vm_start(vm, 0, &broken));
    hostile_end(vm);
    hostile_honest_answers(hostile, lie->name);
}

static void test_running_rules(const struct harness *harness) {
    static const struct lie lies[] = {
        {"channel", "rule R19:"},
        {"direction", "rule R20:"},
        {"credit-direction", "rule R20:"},
        {"stop-direction", "rule R20:"},
        {"gap", "rule R15:"},
        {"repeat", "rule R15:"},
        {"after-end", "rule R16:"},
        {"no-credit", "rule R17:"},
        {"credit-back", "rule R18:"},
        {"credit-false", "rule R18:"},
        {"exit-early", "rule R22:"},
        {"exit-stranger", "rule R22:"},
        {"exit-empty", "rule R22:"},
        {"start-no-id", "rule R22:"},
        {"start-id-long", "rule R22:"},
        {"garbage-late", "rule R1:"},
        {"vmm-dies-late", "5"},
    };
    struct hostile hostile = hostile_open(harness);
    for (size_t i = 0; i < sizeof(lies) / sizeof(lies[0]); i += 1) {
        running_lie(&hostile, &lies[i]);
    }
    hostile_close(&hostile);
}

/* What a newer agent might say is ignored; false figures stay figures. */
static void test_tolerated(const struct harness *harness) {
    struct hostile hostile = hostile_open(harness);
    struct kelpie_exec_result result;
    struct kelpie_error error = {0};
    struct kelpie_stats stats = {.struct_size = sizeof(stats)};
    struct kelpie_vm *vm = hostile_create_liar(&hostile, "stranger");
    HOSTILE_OK(kelpie_vm_start(vm, 0, &broken));
    for (int i = 0; i < 3; i += 1) {
        int status = hostile_exec(vm, &result, &error);
        HARNESS_CHECK(status == 0, "%s", error.message);
        HARNESS_CHECK(strcmp(result.stdout_bytes, "honest\n") == 0, "%s", result.stdout_bytes);
        kelpie_exec_result_release(&result);
    }
    hostile_end(vm);
    vm = hostile_create_liar(&hostile, "stats");
    HOSTILE_OK(kelpie_vm_start(vm, 0, &broken));
    if (kelpie_vm_stats(vm, &stats, &error) == 0) { /* or a refusal: either way it lives */
        HARNESS_CHECK(stats.guest_uptime_ms == 0, "a text is no number");
    }
    HARNESS_CHECK(hostile_inspect(vm).state == KELPIE_VM_RUNNING, "not running");
    hostile_end(vm);
    hostile_honest_answers(&hostile, "strangers");
    hostile_close(&hostile);
}

/* ---- clients ---- */

static int client_connect(const struct harness *harness, const char *vm) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int length = snprintf(address.sun_path, sizeof(address.sun_path), "%s/vms/%s/monitor.sock",
                          harness->runtime_directory, vm);
    HARNESS_CHECK(length > 0 && (size_t)length < sizeof(address.sun_path), "the path is too long");
    int stream = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    HARNESS_CHECK(stream >= 0, "socket");
    HARNESS_CHECK(connect(stream, (const struct sockaddr *)&address, sizeof(address)) == 0,
                  "connect to %s", address.sun_path);
    return stream;
}

/* Sends bytes, and reads until the monitor closes: what it said is in `out`. */
static void client_say(const struct harness *harness, const char *vm, const void *bytes,
                       size_t count, char *out, size_t capacity) {
    size_t used = 0;
    int stream = client_connect(harness, vm);
    /* The monitor may close while it is still being told: what is left has nowhere to go. */
    HARNESS_CHECK(send(stream, bytes, count, MSG_NOSIGNAL) > 0, "send");
    for (ssize_t got = 1; got > 0 && used + 1 < capacity;) {
        got = recv(stream, out + used, capacity - 1 - used, 0);
        used += got > 0 ? (size_t)got : 0;
    }
    for (size_t i = 0; i < used; i += 1) { /* headers hold zeros */
        out[i] = out[i] == '\0' ? ' ' : out[i];
    }
    out[used] = '\0';
    close(stream);
}

static void test_client_rules(const struct harness *harness) {
    struct hostile hostile = hostile_open(harness);
    char said[4096];
    char rule[32];
    for (size_t i = 0; i < LIE_FRAME_COUNT; i += 1) {
        const struct lie_frame *frame = &lie_frames[i];
        uint8_t bytes[24 + 256];
        size_t length = strlen(frame->payload);
        lie_encode(frame, bytes);
        memcpy(bytes + 24, frame->payload, length);
        client_say(harness, "honest", bytes, 24 + length, said, sizeof(said));
        snprintf(rule, sizeof(rule), "\"rule\":\"%s\"", frame->rule);
        HARNESS_CHECK(strstr(said, rule) != NULL, "%s: the monitor said: %s", frame->name, said);
        hostile_honest_answers(&hostile, frame->name);
    }
    memset(said, 'G', 300);
    client_say(harness, "honest", said, 300, said, sizeof(said));
    HARNESS_CHECK(strstr(said, "\"rule\":\"R1\"") != NULL, "the monitor said: %s", said);
    hostile_honest_answers(&hostile, "garbage");
    hostile_close(&hostile);
}

/* What a client says after hello and the start of a command on channel 1 that never ends: 8 bytes
 * of args were announced and sent, its stdin is stream 5, its stdout stream 6. */
struct client_lie {
    const char *rule;
    struct lie_frame frame;
    uint32_t times;
};

static void state_becomes(struct kelpie_vm *vm, enum kelpie_vm_state state) {
    struct kelpie_vm_info info = hostile_inspect(vm);
    uint64_t end_ms = harness_now_ms() + 5000;
    while (info.state != state && harness_now_ms() < end_ms) {
        usleep(10000);
        info = hostile_inspect(vm);
    }
    HARNESS_CHECK(info.state == state, "%s is %s, not %s", kelpie_vm_name(vm),
                  kelpie_vm_state_name(info.state), kelpie_vm_state_name(state));
}

/* A guest that runs again without a sign of life, one that answers with something old, and a VMM
 * that pauses without being asked. */
static void test_pause_lies(const struct harness *harness) {
    struct hostile hostile = hostile_open(harness);
    struct kelpie_error error = {0};
    struct kelpie_exec_result result;
    struct kelpie_vm *vm = hostile_create_liar(&hostile, "resume-silent");
    HOSTILE_OK(kelpie_vm_start(vm, 0, &broken));
    HOSTILE_OK(kelpie_vm_pause(vm, &broken));
    HARNESS_CHECK(kelpie_vm_resume(vm, &error) == KELPIE_E_RESUME, "%s", error.message);
    HARNESS_CHECK(strstr(error.message, "does not answer") != NULL, "%s", error.message);
    HARNESS_CHECK(hostile_inspect(vm).state == KELPIE_VM_PAUSED, "it is paused again");
    HOSTILE_OK(kelpie_vm_resume(vm, &broken));
    HARNESS_CHECK(hostile_exec(vm, &result, &error) == 0, "%s", error.message);
    kelpie_exec_result_release(&result);
    hostile_end(vm);
    vm = hostile_create_liar(&hostile, "resume-nonce");
    HOSTILE_OK(kelpie_vm_start(vm, 0, &broken));
    HOSTILE_OK(kelpie_vm_pause(vm, &broken));
    HARNESS_CHECK(kelpie_vm_resume(vm, &error) < 0, "an old nonce proves nothing");
    HARNESS_CHECK(strstr(error.message, "rule R22") != NULL, "%s", error.message);
    hostile_end(vm);
    vm = hostile_create_liar(&hostile, "stops-itself");
    HOSTILE_OK(kelpie_vm_start(vm, 0, &broken));
    HARNESS_CHECK(hostile_exec(vm, &result, &error) == 0, "%s", error.message);
    kelpie_exec_result_release(&result);
    state_becomes(vm, KELPIE_VM_PAUSED);
    HARNESS_CHECK(strstr(hostile_inspect(vm).reason, "by itself") != NULL, "the reason is told");
    HARNESS_CHECK(kelpie_vm_pause(vm, &error) == KELPIE_E_STATE, "%s", error.message);
    HOSTILE_OK(kelpie_vm_resume(vm, &broken));
    HARNESS_CHECK(hostile_exec(vm, &result, &error) == 0, "%s", error.message);
    kelpie_exec_result_release(&result);
    hostile_end(vm);
    hostile_close(&hostile);
}

static const struct client_lie client_lies[] = {
    {"R15", {.type = 2, .stream = 5, .offset = 1, LIE_PAYLOAD("x")}, 1},
    {"R16", {.type = 2, .stream = 5, .flags = 1, .payload = ""}, 2},
    /* More than the guest's credit and the monitor's ring together, whatever is given meanwhile. */
    {"R17", {.type = 2, .stream = 5, LIE_PAYLOAD("a line of thirty-two characters\n")}, 20000},
    {"R18", {.type = 3, .stream = 6, LIE_PAYLOAD("\1\0\0\0\0\0\0\0")}, 1},
    {"R18", {.type = 3, .stream = 6, .offset = 9, LIE_PAYLOAD("\0\0\0\1\0\0\0\0")}, 1},
    {"R19", {.type = 2, .stream = 401, LIE_PAYLOAD("x")}, 1},
    {"R19", {.type = 4, .stream = 402, .payload = ""}, 1},
    {"R20", {.type = 2, .stream = 6, LIE_PAYLOAD("x")}, 1},
    {"R20", {.type = 3, .stream = 5, LIE_PAYLOAD("\0\0\0\1\0\0\0\0")}, 1},
    {"R20", {.type = 4, .stream = 5, .payload = ""}, 1},
    {"R21", {.type = 1, LIE_PAYLOAD("{\"jsonrpc\":\"2.0\",\"id\":9,\"method\":\"hello\"}")}, 1},
    {"R23", {.type = 2, .stream = 8, LIE_PAYLOAD("echo\0hi\0beyond")}, 1},
};

static size_t client_put(uint8_t *out, const struct lie_frame *frame) {
    lie_encode(frame, out);
    memcpy(out + 24, frame->payload, frame->length);
    return 24 + frame->length;
}

static void test_client_stream_rules(const struct harness *harness) {
    static const struct lie_frame opening[] = {
        {.type = 1,
         LIE_PAYLOAD("{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"hello\",\"params\":"
                     "{\"version\":1,\"version_min\":1}}")},
        {.type = 1,
         LIE_PAYLOAD("{\"jsonrpc\":\"2.0\",\"id\":2,\"method\":\"exec.start\",\"params\":"
                     "{\"channel\":1,\"argument_bytes\":8,\"argument_count\":2,"
                     "\"environment_count\":0,\"stdin\":true}}")},
        {.type = 2, .flags = 1, .stream = 4, LIE_PAYLOAD("echo\0hi\0")},
        {.type = 1,
         LIE_PAYLOAD("{\"jsonrpc\":\"2.0\",\"id\":3,\"method\":\"exec.start\",\"params\":"
                     "{\"channel\":2,\"argument_bytes\":8,\"argument_count\":2,"
                     "\"environment_count\":0}}")},
    };
    struct hostile hostile = hostile_open(harness);
    struct kelpie_vm *vm = hostile_create_liar(&hostile, "hang");
    char said[8192];
    char rule[32];
    static uint8_t bytes[4u << 20];
    HOSTILE_OK(kelpie_vm_start(vm, 0, &broken));
    for (size_t i = 0; i < sizeof(client_lies) / sizeof(client_lies[0]); i += 1) {
        const struct client_lie *lie = &client_lies[i];
        size_t count = 0;
        for (size_t at = 0; at < sizeof(opening) / sizeof(opening[0]); at += 1) {
            count += client_put(bytes + count, &opening[at]);
        }
        struct lie_frame frame = lie->frame;
        for (uint32_t times = 0; times < lie->times; times += 1) {
            count += client_put(bytes + count, &frame);
            frame.offset += frame.length;
        }
        client_say(harness, LIE_PREFIX "hang", bytes, count, said, sizeof(said));
        snprintf(rule, sizeof(rule), "\"rule\":\"%s\"", lie->rule);
        HARNESS_CHECK(strstr(said, rule) != NULL, "%zu, %s: the monitor said: %s", i, lie->rule,
                      said);
        HARNESS_CHECK(hostile_inspect(vm).state == KELPIE_VM_RUNNING, "%s cost the VM", lie->rule);
    }
    hostile_end(vm);
    hostile_honest_answers(&hostile, "lying clients");
    hostile_close(&hostile);
}

/* Clients that connect and say nothing, more of them than are served: an honest one still gets its
 * turn. */
static void test_client_crowd(const struct harness *harness) {
    struct hostile hostile = hostile_open(harness);
    int streams[80];
    for (size_t i = 0; i < 80; i += 1) {
        streams[i] = client_connect(harness, "honest");
    }
    hostile_honest_answers(&hostile, "a crowd");
    for (size_t i = 0; i < 80; i += 1) {
        close(streams[i]);
    }
    hostile_honest_answers(&hostile, "the crowd's end");
    hostile_close(&hostile);
}

static const struct harness_test tests[] = {
    {"hostile_boot_rules", test_boot_rules, 60},
    {"hostile_boot_silence", test_boot_silence, 60},
    {"hostile_vmm", test_vmm_lies, 60},
    {"hostile_running_rules", test_running_rules, 90},
    {"hostile_tolerated", test_tolerated, 60},
    {"hostile_pause", test_pause_lies, 60},
    {"hostile_client_rules", test_client_rules, 60},
    {"hostile_client_stream_rules", test_client_stream_rules, 60},
    {"hostile_client_crowd", test_client_crowd, 60},
};

int main(int argc, char **argv) {
    const struct harness_suite suite = {
        .name = "hostile", .tests = tests, .test_count = sizeof(tests) / sizeof(tests[0])};
    return harness_main(argc, argv, &suite);
}
