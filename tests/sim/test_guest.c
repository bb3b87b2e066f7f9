/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Goal: a simulated guest is a machine with the real agent in it: it boots, runs commands, obeys
 * signals and timeouts, is saved and loaded in the middle of anything. Method: the test owns the
 * guest and speaks to its agent (guest_client.h).
 */
#include "guest_client.h"
#include "sim/disk.h"

static void test_boot_says_ready(void **state) {
    struct sim_world *world = client_world(1);
    struct client *client = client_boot(client_os(world));
    struct sim_guest_truth truth;
    kelpie__ignore(state != NULL);
    kelpie__sim_guest_truth(client->guest, &truth);
    assert_true(truth.has_agent && !truth.is_greeted);
    assert_int_equal(truth.process_count, 1);
    assert_true(truth.ticks > 200 && truth.ticks < 8000);
    assert_non_null(strstr(client->ready, truth.boot_id));
    assert_non_null(strstr(client->ready, "\"pid\":1"));
    client_greet(client, CLIENT_EPOCH);
    kelpie__sim_guest_truth(client->guest, &truth);
    assert_true(truth.is_greeted);
    client_end(client);
    kelpie__sim_world_destroy(world);
}

static void test_exec_echo(void **state) {
    struct sim_world *world = client_world(2);
    struct client *client = client_boot_ready(client_os(world));
    static const char *const argv[] = {"echo", "hello", "world", NULL};
    kelpie__ignore(state != NULL);
    int channel = client_exec(client, argv, NULL);
    assert_string_equal(client_text(client, channel, 0), "hello world\n");
    assert_int_equal(client_exit_number(client, channel, "code"), 0);
    assert_true(client_exit_number(client, channel, "cpu_us") > 300);
    assert_true(client_exit_number(client, channel, "peak_memory_kib") > 100);
    struct sim_guest_truth truth;
    kelpie__sim_guest_truth(client->guest, &truth);
    assert_int_equal(truth.command_starts, 1);
    assert_int_equal(truth.process_count, 1);
    client_end(client);
    kelpie__sim_world_destroy(world);
}

static void test_guest_is_set_up_and_asked(void **state) {
    struct sim_world *world = client_world(3);
    struct client *client = client_boot_ready(client_os(world));
    uint64_t value = 0;
    kelpie__ignore(state != NULL);
    client_says(client, "hostname; date; cat /proc/sys/kernel/hostname", "test\n1800000000\ntest\n",
                0);
    assert_int_equal(client_call(client, "guest.stats", "{}"), 0);
    const char *result = client->result;
    assert_int_equal(kelpie__json_find_u64(result, strlen(result), "memory_total_kib", &value), 0);
    assert_true(value > 150000 && value < 262144);
    assert_int_equal(kelpie__json_find_u64(result, strlen(result), "process_count", &value), 0);
    assert_int_equal(value, 1);
    assert_int_equal(client_call(client, "guest.clock", "{\"wall_ns\":1900000000000000000}"), 0);
    client_says(client, "date", "1900000000\n", 0);
    client_says(client, "mount 2>/dev/null; echo x >/tmp/f; ls /tmp /run", "f\n", 0);
    client_end(client);
    kelpie__sim_world_destroy(world);
}

/* The agent's two readings of counter and clock give the frequency that was set. */
static void test_clock_is_right(void **state) {
    struct sim_world *world = client_world(4);
    struct client *client = client_boot(client_os(world));
    uint64_t tsc[2];
    uint64_t mono[2];
    struct kelpie_json_value clock;
    size_t length = strlen(client->ready);
    kelpie__ignore(state != NULL);
    assert_int_equal(kelpie__json_find(client->ready, length, "clock", &clock), 0);
    assert_int_equal(kelpie__json_find_u64(clock.text, clock.length, "tsc0", &tsc[0]), 0);
    assert_int_equal(kelpie__json_find_u64(clock.text, clock.length, "tsc1", &tsc[1]), 0);
    assert_int_equal(kelpie__json_find_u64(clock.text, clock.length, "mono0", &mono[0]), 0);
    assert_int_equal(kelpie__json_find_u64(clock.text, clock.length, "mono1", &mono[1]), 0);
    assert_true(mono[1] > mono[0] + 1000000);
    uint64_t khz = (tsc[1] - tsc[0]) * 1000000 / (mono[1] - mono[0]);
    assert_in_range(khz, 1998100, 2001900);
    client_end(client);
    kelpie__sim_world_destroy(world);
}

/* A directory of the host is mounted where it is told to be, which is made; what is no directory
 * fails with its name. */
static void test_shares_are_mounted(void **state) {
    struct sim_world *world = client_world(31);
    struct client *client = client_boot_ready(client_os(world));
    kelpie__ignore(state != NULL);
    client_says(client, "echo x >/tmp/file", "", 0);
    assert_int_equal(client_call(client, "guest.mount",
                                 "{\"tag\":\"share0\",\"path\":\"/tmp/a/b\",\"read_only\":true}"),
                     0);
    client_says(client, "ls /tmp/a", "b\n", 0);
    assert_int_equal(
        client_call(client, "guest.mount",
                    "{\"tag\":\"share1\",\"path\":\"/tmp/file/c\",\"read_only\":false}"),
        KELPIE_E_SHARE);
    assert_non_null(strstr(client->error.message, "make \"/tmp/file/c\" in the guest"));
    assert_int_equal(client_call(client, "guest.mount", "{\"tag\":\"share1\",\"path\":\"c\"}"),
                     KELPIE_E_PROTOCOL);
    client_end(client);
    kelpie__sim_world_destroy(world);
}

static void test_exec_ends_as_told(void **state) {
    struct sim_world *world = client_world(5);
    struct client *client = client_boot_ready(client_os(world));
    kelpie__ignore(state != NULL);
    int channel = client_shell(client, "echo out; echo err >&2; exit 7", NULL);
    assert_string_equal(client_text(client, channel, 0), "out\n");
    assert_string_equal(client_text(client, channel, 1), "err\n");
    assert_int_equal(client_exit_number(client, channel, "code"), 7);
    channel = client_shell(client, "kill -9 $$", NULL);
    assert_int_equal(client_exit_number(client, channel, "signal"), 9);
    channel = client_shell(client, "pwd; id -u; id -g; ulimit -n",
                           ",\"cwd\":\"/tmp\",\"user\":\"12:34\",\"limits\":"
                           "[{\"resource\":7,\"soft\":33,\"hard\":44}]");
    assert_string_equal(client_text(client, channel, 0), "/tmp\n12\n34\n33\n");
    channel = client_shell(client, "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done", NULL);
    assert_true(client_exit_number(client, channel, "cpu_us") > 10000);
    static const char *const missing[] = {"/no/where", NULL};
    static const char *const directory[] = {"/tmp", NULL};
    assert_int_equal(client_exec_start(client, missing, NULL), KELPIE_E_EXEC_NOT_FOUND);
    assert_int_equal(client_exec_start(client, directory, NULL), KELPIE_E_EXEC_DENIED);
    client_end(client);
    kelpie__sim_world_destroy(world);
}

/* A megabyte in, through cat, and out again. */
static void test_streams_pass_every_byte(void **state) {
    struct sim_world *world = client_world(6);
    struct client *client = client_boot_ready(client_os(world));
    static const char *const argv[] = {"cat", NULL};
    size_t count = 1000 * 1000;
    char *bytes = malloc(count);
    kelpie__ignore(state != NULL);
    for (size_t i = 0; i < count; i += 1) {
        bytes[i] = (char)kelpie__sim_pattern(i);
    }
    int channel = client_exec_start(client, argv, ",\"stdin\":true");
    client_send(client, (uint32_t)channel, KELPIE_STREAM_STDIN, bytes, count, true);
    client_wait_exit(client, channel);
    assert_int_equal(client->outputs[channel][0].count, count);
    assert_memory_equal(client->outputs[channel][0].bytes, bytes, count);
    free(bytes);
    client_end(client);
    kelpie__sim_world_destroy(world);
}

static void test_two_mebibytes_of_arguments(void **state) {
    struct sim_world *world = client_world(30);
    struct client *client = client_boot_ready(client_os(world));
    const char *argv[24] = {"sh", "-c", "echo $#; echo ${#1}"};
    char *large = malloc(100001);
    kelpie__ignore(state != NULL);
    memset(large, 'x', 100000);
    large[100000] = '\0';
    for (int i = 3; i < 23; i += 1) {
        argv[i] = large;
    }
    int channel = client_exec(client, argv, NULL);
    assert_string_equal(client_text(client, channel, 0), "19\n100000\n");
    free(large);
    client_end(client);
    kelpie__sim_world_destroy(world);
}

static void test_timeout_kills_what_left_its_session(void **state) {
    struct sim_world *world = client_world(7);
    struct client *client = client_boot_ready(client_os(world));
    struct sim_guest_truth truth;
    kelpie__ignore(state != NULL);
    int channel = client_shell(client,
                               "setsid sleep 1234 & (setsid sh -c 'trap \"\" TERM HUP; sleep 1235; "
                               "sleep 1236' &) ; sleep 1237",
                               ",\"timeout_ms\":1000");
    assert_non_null(strstr(client->exits[channel], "\"reason\":\"timeout\""));
    assert_in_range(client_exit_number(client, channel, "wall_us"), 1000000, 1100000);
    client_says(client, "ps | grep -c '[s]leep 123' || true", "0\n", 0);
    kelpie__sim_guest_truth(client->guest, &truth);
    assert_int_equal(truth.process_count, 1);
    channel = client_shell(client, "script 'fork 3; ignore TERM; setsid; fork 2; sleep 100s'",
                           ",\"timeout_ms\":500");
    kelpie__sim_guest_truth(client->guest, &truth);
    assert_int_equal(truth.process_count, 1);
    client_end(client);
    kelpie__sim_world_destroy(world);
}

static void test_exec_on_a_terminal(void **state) {
    struct sim_world *world = client_world(8);
    struct client *client = client_boot_ready(client_os(world));
    static const char *const argv[] = {
        "sh", "-c", "stty size; read line; stty size; echo \"<$line>\"; test -t 2 && echo tty",
        NULL};
    char params[128];
    kelpie__ignore(state != NULL);
    int channel =
        client_exec_start(client, argv, ",\"stdin\":true,\"tty\":{\"rows\":33,\"cols\":101}");
    while (client->outputs[channel][0].count < 8) {
        client_step(client);
    }
    assert_non_null(strstr(client_text(client, channel, 0), "33 101"));
    char id[64] = "";
    struct kelpie_json_value value;
    assert_int_equal(kelpie__json_find(client->result, strlen(client->result), "id", &value), 0);
    assert_int_equal(kelpie__json_string(&value, id, sizeof(id), NULL), 0);
    snprintf(params, sizeof(params), "{\"id\":\"%s\",\"rows\":44,\"cols\":55}", id);
    assert_int_equal(client_call(client, "exec.resize", params), 0);
    client_send(client, (uint32_t)channel, KELPIE_STREAM_STDIN, "hello\n", 6, false);
    client_wait_exit(client, channel);
    const char *text = client_text(client, channel, 0);
    assert_non_null(strstr(text, "44 55"));
    assert_non_null(strstr(text, "<hello>"));
    assert_non_null(strstr(text, "tty"));
    client_end(client);
    kelpie__sim_world_destroy(world);
}

/* ---- ends ------------------------------------------------------------------------------------ */

static void wait_end(struct client *client, enum sim_guest_end end) {
    while (!client->has_ended) {
        client_step(client);
    }
    assert_int_equal(kelpie__sim_guest_end(client->guest), end);
}

static void test_guest_ends_by_itself(void **state) {
    static const struct {
        const char *script;
        enum sim_guest_end end;
        const char *console;
    } rows[] = {
        {"poweroff -f; sleep 60", SIM_GUEST_POWER_OFF, "reboot: Power down"},
        {"reboot -f; sleep 60", SIM_GUEST_RESET, "reboot: Restarting system"},
        {"echo c >/proc/sysrq-trigger; sleep 60", SIM_GUEST_RESET,
         "Kernel panic - not syncing: sysrq triggered crash"},
        {"poweroff; sleep 60", SIM_GUEST_RESET, "reboot: Restarting system"},
    };
    kelpie__ignore(state != NULL);
    for (size_t i = 0; i < KELPIE_ARRAY_COUNT(rows); i += 1) {
        struct sim_world *world = client_world(9 + i);
        struct client *client = client_boot_ready(client_os(world));
        const char *const argv[] = {"sh", "-c", rows[i].script, NULL};
        client->is_answered = false;
        kelpie__ignore(client_exec_start(client, argv, NULL));
        wait_end(client, rows[i].end);
        client_pump_out(client);
        assert_non_null(strstr(client->console, rows[i].console));
        client_end(client);
        kelpie__sim_world_destroy(world);
    }
}

static void test_shutdown_is_graceful(void **state) {
    struct sim_world *world = client_world(20);
    struct client *client = client_boot_ready(client_os(world));
    static const char *const argv[] = {"sh", "-c", "trap '' TERM; sleep 100", NULL};
    kelpie__ignore(state != NULL);
    assert_true(client_exec_start(client, argv, NULL) > 0);
    assert_int_equal(client_call(client, "guest.shutdown", "{\"timeout_ms\":2000}"), 0);
    int64_t begin_ns = kelpie__sim_now(world);
    wait_end(client, SIM_GUEST_RESET);
    assert_true(client->has_goodbye);
    assert_in_range(kelpie__sim_now(world) - begin_ns, 0, 2100 * KELPIE_NS_PER_MS);
    client_end(client);
    kelpie__sim_world_destroy(world);
}

static void test_guest_without_init_panics(void **state) {
    struct sim_world *world = client_world(21);
    struct kelpie_os *os = client_os(world);
    const struct sim_guest_config config = {.memory_mib = 128,
                                            .cpu_count = 1,
                                            .command_line = "panic=-1",
                                            .port_name = "x",
                                            .tsc_khz = 1000000};
    kelpie__ignore(state != NULL);
    struct client *client =
        client_attach(os, kelpie__sim_guest_create(kelpie__sim_process_of(os), &config));
    kelpie__sim_guest_run(client->guest);
    wait_end(client, SIM_GUEST_RESET);
    client_pump_out(client);
    assert_non_null(strstr(client->console, "No working init found"));
    client_end(client);
    kelpie__sim_world_destroy(world);
}

/* Its owner has connected, and nobody waits for that any more: `run --backend krun --seed 1001`. */
static void test_vsock_that_hung_up_is_not_answered(void **state) {
    struct sim_world *world = client_world(22);
    struct kelpie_os *os = client_os(world);
    const struct sim_guest_config config = {.memory_mib = 128,
                                            .cpu_count = 1,
                                            .command_line = "panic=-1",
                                            .port_name = "x",
                                            .tsc_khz = 1000000,
                                            .has_vsock = true};
    kelpie__ignore(state != NULL);
    struct client *client =
        client_attach(os, kelpie__sim_guest_create(kelpie__sim_process_of(os), &config));
    assert_false(kelpie__sim_guest_vsock_is_dialling(client->guest));
    assert_false(kelpie__sim_guest_vsock_answer(client->guest, true));
    client_end(client);
    kelpie__sim_world_destroy(world);
}

/* ---- time that stands, and memory ------------------------------------------------------------ */

static void pass(struct client *client, int64_t duration_ns) {
    struct kelpie_error error;
    int64_t deadline_ns = client->loop->now_ns + duration_ns;
    while (client->loop->now_ns < deadline_ns) {
        assert_int_equal(kelpie__loop_step(client->loop, deadline_ns, &error), 0);
    }
}

static void test_halted_guest_stands_still(void **state) {
    struct sim_world *world = client_world(22);
    struct client *client = client_boot_ready(client_os(world));
    struct sim_guest_truth before;
    struct sim_guest_truth after;
    kelpie__ignore(state != NULL);
    static const char *const argv[] = {"sh", "-c", "sleep 1; echo woke", NULL};
    int channel = client_exec_start(client, argv, NULL);
    kelpie__sim_guest_halt(client->guest);
    kelpie__sim_guest_truth(client->guest, &before);
    pass(client, 3600 * KELPIE_NS_PER_S);
    kelpie__sim_guest_truth(client->guest, &after);
    assert_int_equal(after.ticks, before.ticks);
    assert_null(client->exits[channel]);
    kelpie__sim_guest_run(client->guest);
    client_wait_exit(client, channel);
    assert_string_equal(client_text(client, channel, 0), "woke\n");
    kelpie__sim_guest_truth(client->guest, &after);
    assert_in_range(after.ticks - before.ticks, 900, 1200);
    client_end(client);
    kelpie__sim_world_destroy(world);
}

/* A guest that is saved and loaded again and again in the middle of a command does not notice. */
static void test_saved_and_loaded_goes_on_exactly(void **state) {
    struct sim_world *world = client_world(23);
    struct client *client = client_boot_ready(client_os(world));
    static const char *const argv[] = {"sh", "-c", "source 300k; sleep 0.2; seq 1000; exit 3",
                                       NULL};
    static uint8_t image[SIM_GUEST_IMAGE_BYTES];
    struct sim_guest_truth before;
    struct sim_guest_truth after;
    kelpie__ignore(state != NULL);
    int channel = client_exec_start(client, argv, NULL);
    for (int i = 0; client->exits[channel] == NULL; i += 1) {
        if (i % 2 == 1) {
            kelpie__sim_guest_halt(client->guest);
            kelpie__sim_guest_truth(client->guest, &before);
            assert_int_equal(kelpie__sim_guest_save(client->guest, image), sizeof(image));
            struct sim_guest *loaded =
                kelpie__sim_guest_load(kelpie__sim_process_of(client->os), image, sizeof(image));
            client_replace(client, loaded);
            kelpie__sim_guest_truth(loaded, &after);
            assert_memory_equal(after.nonce, before.nonce, sizeof(after.nonce));
            assert_int_equal(after.ticks, before.ticks);
            assert_int_equal(after.lineage, before.lineage);
            assert_int_not_equal(after.id, before.id);
            assert_true(kelpie__sim_guest_image_truth(image, sizeof(image), &before));
            assert_int_equal(after.ticks, before.ticks);
            kelpie__sim_guest_run(loaded);
        }
        client_step(client);
    }
    const struct client_output *output = &client->outputs[channel][0];
    assert_int_equal(client_exit_number(client, channel, "code"), 3);
    assert_int_equal(output->count, 300 * 1024 + 3893);
    for (size_t i = 0; i < (size_t)300 * 1024; i += 1) {
        assert_int_equal((uint8_t)output->bytes[i], kelpie__sim_pattern(i));
    }
    assert_memory_equal(output->bytes + 300 * 1024, "1\n2\n3\n", 6);
    assert_true(after.id > 5);
    client_end(client);
    kelpie__sim_world_destroy(world);
}

#define TOKEN "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"
#define MARK "000102030405060708090a0b0c0d0e0f"

static const uint8_t mark[KELPIE_MARK_BYTES] = {0, 1, 2,  3,  4,  5,  6,  7,
                                                8, 9, 10, 11, 12, 13, 14, 15};

/* A guest from the image, greeted as a restored one is, with this entropy: what it draws. */
static void draw_in_clone(struct kelpie_os *os, const uint8_t *image, const char *entropy,
                          char out[64]) {
    struct client *client = client_attach(
        os, kelpie__sim_guest_load(kelpie__sim_process_of(os), image, SIM_GUEST_IMAGE_BYTES));
    char params[256];
    kelpie__sim_guest_run(client->guest);
    assert_int_equal(kelpie__wire_mark(client->wire, mark), 0);
    client_greet(client, "ff0102030405060708090a0b0c0d0e0f");
    assert_non_null(strstr(client->result, "\"token\":\"" TOKEN "\""));
    snprintf(params, sizeof(params), "{\"hostname\":\"clone\",\"entropy\":\"%s\"}", entropy);
    assert_int_equal(client_call(client, "setup", params), 0);
    int channel = client_shell(client, "head -c 16 /dev/urandom | md5sum | head -c 32", NULL);
    snprintf(out, 64, "%s", client_text(client, channel, 0));
    client_end(client);
}

static void test_clones_draw_by_their_entropy(void **state) {
    struct sim_world *world = client_world(24);
    struct kelpie_os *os = client_os(world);
    struct client *client = client_boot_ready(os);
    static uint8_t image[SIM_GUEST_IMAGE_BYTES];
    char first[64];
    char same[64];
    char other[64];
    kelpie__ignore(state != NULL);
    assert_int_equal(
        client_call(client, "quiesce", "{\"mark\":\"" MARK "\",\"token\":\"" TOKEN "\"}"), 0);
    kelpie__sim_guest_halt(client->guest);
    assert_int_equal(kelpie__sim_guest_save(client->guest, image), sizeof(image));
    draw_in_clone(os, image, "aa", first);
    draw_in_clone(os, image, "aa", same);
    draw_in_clone(os, image, "ab", other);
    assert_int_equal(strlen(first), 32);
    assert_string_equal(first, same);
    assert_string_not_equal(first, other);
    /* The source goes on as if nothing had been. */
    kelpie__sim_guest_run(client->guest);
    assert_int_equal(kelpie__wire_mark(client->wire, mark), 0);
    client_says(client, "echo goes on; hostname", "goes on\ntest\n", 0);
    client_end(client);
    kelpie__sim_world_destroy(world);
}

/* Two clones at once share a slot; neither sees the other. */
static void test_clones_side_by_side(void **state) {
    struct sim_world *world = client_world(25);
    struct kelpie_os *os = client_os(world);
    struct client *client = client_boot_ready(os);
    static uint8_t image[SIM_GUEST_IMAGE_BYTES];
    struct client *clones[2];
    int channels[2];
    static const char *const argv[] = {"sh", "-c",
                                       "cat /tmp/who; source 200k >/tmp/f; wc -c </tmp/f", NULL};
    kelpie__ignore(state != NULL);
    client_says(client, "echo source >/tmp/who", "", 0);
    assert_int_equal(
        client_call(client, "quiesce", "{\"mark\":\"" MARK "\",\"token\":\"" TOKEN "\"}"), 0);
    kelpie__sim_guest_halt(client->guest);
    assert_int_equal(kelpie__sim_guest_save(client->guest, image), sizeof(image));
    for (int i = 0; i < 2; i += 1) {
        clones[i] = client_attach(
            os, kelpie__sim_guest_load(kelpie__sim_process_of(os), image, sizeof(image)));
        kelpie__sim_guest_run(clones[i]->guest);
        assert_int_equal(kelpie__wire_mark(clones[i]->wire, mark), 0);
        client_greet(clones[i], "ff0102030405060708090a0b0c0d0e0f");
        client_says(clones[i], i == 0 ? "echo zero >/tmp/who" : "cat /tmp/who; echo one >/tmp/who",
                    i == 0 ? "" : "source\n", 0);
    }
    for (int i = 0; i < 2; i += 1) {
        channels[i] = client_exec_start(clones[i], argv, NULL);
    }
    for (int i = 0; i < 2; i += 1) {
        client_wait_exit(clones[i], channels[i]);
        assert_string_equal(client_text(clones[i], channels[i], 0),
                            i == 0 ? "zero\n204800\n" : "one\n204800\n");
    }
    client_end(clones[0]);
    client_end(clones[1]);
    client_end(client);
    kelpie__sim_world_destroy(world);
}

/* A wrong byte, or a missing one, is no guest or one that goes wrong; never a good one. */
static void test_damaged_images_go_wrong(void **state) {
    struct sim_world *world = client_world(26);
    struct kelpie_os *os = client_os(world);
    struct client *client = client_boot_ready(os);
    static uint8_t image[SIM_GUEST_IMAGE_BYTES];
    struct sim_guest_truth truth;
    uint32_t wrong_count = 0;
    kelpie__ignore(state != NULL);
    kelpie__sim_guest_halt(client->guest);
    assert_int_equal(kelpie__sim_guest_save(client->guest, image), sizeof(image));
    for (size_t at = 0; at < sizeof(image); at += 499) {
        image[at] ^= 4;
        assert_false(kelpie__sim_guest_image_truth(image, sizeof(image), &truth));
        struct sim_guest *guest =
            kelpie__sim_guest_load(kelpie__sim_process_of(os), image, sizeof(image));
        assert_true((guest == NULL) == (at < 128));
        if (guest != NULL) {
            kelpie__sim_guest_truth(guest, &truth);
            assert_true(truth.is_damaged);
            kelpie__sim_guest_run(guest);
            pass(client, 10 * KELPIE_NS_PER_MS);
            char bytes[128];
            bool has_panicked = kelpie__sim_guest_end(guest) == SIM_GUEST_RESET;
            bool has_babbled = kelpie__sim_guest_port_take(guest, bytes, sizeof(bytes)) > 0;
            assert_true(has_panicked != has_babbled);
            wrong_count += 1;
            kelpie__sim_guest_destroy(guest);
        }
        image[at] ^= 4;
    }
    assert_true(wrong_count > 20);
    assert_null(kelpie__sim_guest_load(kelpie__sim_process_of(os), image, 100));
    struct sim_guest *guest = kelpie__sim_guest_load(kelpie__sim_process_of(os), image, 15000);
    kelpie__sim_guest_truth(guest, &truth);
    assert_true(truth.is_damaged);
    kelpie__sim_guest_destroy(guest);
    client_end(client);
    kelpie__sim_world_destroy(world);
}

/* ---- what goes wrong ------------------------------------------------------------------------- */

static void test_hang_deafness_and_lies(void **state) {
    struct sim_world *world = client_world(27);
    struct kelpie_os *os = client_os(world);
    struct client *client = client_boot_ready(os);
    kelpie__ignore(state != NULL);
    kelpie__sim_guest_lie(client->guest, 1000000000);
    client->is_answered = false;
    assert_int_equal(kelpie__wire_call(client->wire, "ping", "{\"nonce\":\"x\"}", 1000,
                                       client_answer, client, NULL, NULL),
                     0);
    pass(client, 2 * KELPIE_NS_PER_S);
    assert_true(client->is_closed || client->error.code != 0 ||
                strcmp(client->result, "{\"nonce\":\"x\"}") != 0);
    client_end(client);
    for (int i = 0; i < 2; i += 1) {
        client = client_boot_ready(os);
        if (i == 0) {
            kelpie__sim_guest_hang(client->guest);
        } else {
            kelpie__sim_guest_deafen(client->guest);
        }
        client->is_answered = false;
        assert_int_equal(kelpie__wire_call(client->wire, "ping", "{\"nonce\":\"x\"}", 1000,
                                           client_answer, client, NULL, NULL),
                         0);
        pass(client, 2 * KELPIE_NS_PER_S);
        assert_true(client->is_answered && client->error.code == KELPIE_E_TIMEOUT);
        client_end(client);
    }
    kelpie__sim_world_destroy(world);
}

static int user_program(struct kelpie_os *os, int argc, char **argv) {
    char text[64];
    int length = snprintf(text, sizeof(text), "user %d %s\n", argc, argc > 1 ? argv[1] : "");
    kelpie__sim_sleep(os, 50 * KELPIE_NS_PER_MS);
    kelpie__ignore(kelpie__sim_write_wait(os, 1, text, (size_t)length));
    return 42;
}

static void test_users_program(void **state) {
    struct sim_world *world = client_world(28);
    kelpie__sim_guest_program(world, "pytest", user_program);
    struct client *client = client_boot_ready(client_os(world));
    kelpie__ignore(state != NULL);
    client_says(client, "pytest a", "user 2 a\n", 42);
    client_says(client, "/bin/pytest | cat; sleep 0; true", "user 1 \n", 0);
    client_end(client);
    kelpie__sim_world_destroy(world);
}

/* ---- disks ----------------------------------------------------------------------------------- */

static struct client *boot_with_disks(struct kelpie_os *os, const char *setup) {
    const struct sim_guest_disk disks[] = {
        {.serial = "root", .path = "/var/tmp/root.erofs", .is_read_only = true},
        {.serial = "upper", .path = "/var/tmp/upper.ext4"},
    };
    const struct sim_guest_config config = {.memory_mib = 256,
                                            .cpu_count = 2,
                                            .command_line = "panic=-1",
                                            .port_name = "org.kelpie.agent",
                                            .disks = disks,
                                            .disk_count = 2,
                                            .tsc_khz = 2000000,
                                            .has_init = true};
    struct client *client =
        client_attach(os, kelpie__sim_guest_create(kelpie__sim_process_of(os), &config));
    kelpie__sim_guest_run(client->guest);
    while (client->ready_count == 0) {
        client_step(client);
    }
    client_greet(client, CLIENT_EPOCH);
    assert_int_equal(client_call(client, "setup", setup), 0);
    return client;
}

static void shut_down(struct client *client) {
    assert_int_equal(client_call(client, "guest.shutdown", "{\"timeout_ms\":100}"), 0);
    wait_end(client, SIM_GUEST_RESET);
    client_end(client);
}

#define ROOT(writable, read_only)                                                                  \
    "{\"root\":{\"kind\":\"device\",\"device_serial\":\"root\",\"fs\":\"erofs\","                  \
    "\"read_only\":" read_only ",\"writable\":\"" writable "\"}}"

static void test_disks_hold_the_root(void **state) {
    static const char image[] = "KELPIE-SIM-ROOT\nd 755 0 /etc\nf 644 5 /etc/mark\nfirst"
                                "d 755 0 /opt\nf 755 3 /opt/x\nabc";
    struct sim_world *world = client_world(31);
    struct sim_disk *host = kelpie__sim_world_disk(world);
    struct kelpie_os *os = client_os(world);
    kelpie__ignore(state != NULL);
    assert_int_equal(
        kelpie__sim_disk_put(host, "/var/tmp/root.erofs", 0600, image, sizeof(image) - 1), 0);
    assert_int_equal(kelpie__sim_disk_put(host, "/var/tmp/upper.ext4", 0600, "", 0), 0);
    struct client *client = boot_with_disks(os, ROOT("tmpfs", "false"));
    client_says(client, "cat /etc/mark /opt/x; echo >/new && nproc", "firstabc2\n", 0);
    client_end(client);
    client = boot_with_disks(os, ROOT("none", "true"));
    client_says(client, "cat /etc/mark; touch /new 2>/dev/null || echo read-only; echo t >/tmp/t",
                "firstread-only\n", 0);
    client_end(client);
    for (int i = 0; i < 2; i += 1) { /* the layer outlives a stop, the root is as it was */
        client = boot_with_disks(os, ROOT("disk", "false"));
        client_says(client,
                    "ls /kept 2>/dev/null; cat /etc/mark; echo data >/kept; echo 2 >/etc/mark",
                    i == 0 ? "first" : "/kept\n2\n", 0);
        shut_down(client);
    }
    char bytes[sizeof(image)];
    assert_int_equal(
        kelpie__sim_disk_peek(host, false, "/var/tmp/root.erofs", bytes, sizeof(bytes)),
        sizeof(image) - 1);
    assert_memory_equal(bytes, image, sizeof(image) - 1);
    kelpie__sim_world_destroy(world);
}

/* The same seed gives the same world, bit by bit. */
static void test_same_seed_same_world(void **state) {
    uint64_t hashes[2];
    kelpie__ignore(state != NULL);
    for (int i = 0; i < 2; i += 1) {
        struct sim_world *world = client_world(29);
        void *shift = malloc((size_t)100000 * (size_t)(i + 1)); /* other addresses */
        struct client *client = client_boot_ready(client_os(world));
        client_says(client,
                    "yes | head -c 1000 | md5sum | wc -c; seq 50 | tr 0-9 a-j | wc -l; ps | wc -l",
                    "36\n50\n5\n", 0);
        hashes[i] = kelpie__sim_world_hash(world);
        client_end(client);
        kelpie__sim_world_destroy(world);
        free(shift);
    }
    assert_int_equal(hashes[0], hashes[1]);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_boot_says_ready),
        cmocka_unit_test(test_exec_echo),
        cmocka_unit_test(test_guest_is_set_up_and_asked),
        cmocka_unit_test(test_clock_is_right),
        cmocka_unit_test(test_shares_are_mounted),
        cmocka_unit_test(test_exec_ends_as_told),
        cmocka_unit_test(test_streams_pass_every_byte),
        cmocka_unit_test(test_two_mebibytes_of_arguments),
        cmocka_unit_test(test_timeout_kills_what_left_its_session),
        cmocka_unit_test(test_exec_on_a_terminal),
        cmocka_unit_test(test_guest_ends_by_itself),
        cmocka_unit_test(test_shutdown_is_graceful),
        cmocka_unit_test(test_guest_without_init_panics),
        cmocka_unit_test(test_vsock_that_hung_up_is_not_answered),
        cmocka_unit_test(test_halted_guest_stands_still),
        cmocka_unit_test(test_saved_and_loaded_goes_on_exactly),
        cmocka_unit_test(test_clones_draw_by_their_entropy),
        cmocka_unit_test(test_clones_side_by_side),
        cmocka_unit_test(test_damaged_images_go_wrong),
        cmocka_unit_test(test_hang_deafness_and_lies),
        cmocka_unit_test(test_users_program),
        cmocka_unit_test(test_disks_hold_the_root),
        cmocka_unit_test(test_same_seed_same_world),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
