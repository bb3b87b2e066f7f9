/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * The guest agent without a guest: the real program in a child process, driven over its protocol.
 * Each test runs twice where it matters: with cgroups, and with the list of processes that stands
 * for them in kernels without.
 */
#include <sys/stat.h>

#include "agent_client.h"

static char test_cgroup[512];

/* The cgroup of tests that run in a group with cgroups; NULL in the other group, and where the host
 * has none. */
static const char *test_mode(void **state) {
    const bool *has_cgroup = *state;
    return *has_cgroup && test_cgroup[0] != '\0' ? test_cgroup : NULL;
}

/* A process that has ended is a zombie until the agent, asked for a sign of life, has collected it.
 */
static void assert_gone(struct client *client, long pid) {
    assert_true(pid > 1);
    for (int i = 0; i < 1000 && kill((pid_t)pid, 0) == 0; i += 1) {
        assert_int_equal(client_call(client, "ping", "{\"nonce\":\"x\"}"), 0);
    }
    assert_int_equal(kill((pid_t)pid, 0), -1);
    assert_int_equal(errno, ESRCH);
}

static void test_hello_and_setup_come_first(void **state) {
    struct client *client = client_start(test_mode(state));
    assert_int_equal(client_call(client, "ping", "{\"nonce\":\"a\\u0000\"}"), KELPIE_E_LIMIT);
    assert_int_equal(client_call(client, "ping", "{\"nonce\":\"abc\"}"), 0);
    assert_string_equal(client->result, "{\"nonce\":\"abc\"}");
    assert_int_equal(client_call(client, "guest.stats", "{}"), KELPIE_E_STATE);
    assert_int_equal(client_call(client, "hello", "{\"version\":1}"), KELPIE_E_PROTOCOL);
    client_greet(client, CLIENT_EPOCH);
    assert_non_null(strstr(client->result, "\"epoch\":\"" CLIENT_EPOCH "\""));
    assert_non_null(strstr(client->result, "\"execs\":[]"));
    assert_int_equal(client_call(client, "exec.list", "{}"), KELPIE_E_STATE);
    assert_int_equal(client_call(client, "setup", "{\"root\":{\"kind\":\"moon\"}}"),
                     KELPIE_E_PROTOCOL);
    assert_int_equal(client_call(client, "setup", "{}"), 0);
    assert_int_equal(client_call(client, "exec.list", "{}"), 0);
    assert_int_equal(client_call(client, "no.such.method", "{}"), KELPIE_E_UNSUPPORTED);
    assert_int_equal(client_end(client), 0);
}

static void test_hello_with_newer_version_is_refused(void **state) {
    struct client *client = client_start(test_mode(state));
    assert_int_equal(client_call(client, "hello",
                                 "{\"version\":9,\"version_min\":2,\"epoch\":\"" CLIENT_EPOCH
                                 "\"}"),
                     KELPIE_E_UNSUPPORTED);
    assert_int_equal(client_call(client, "hello",
                                 "{\"version\":9,\"version_min\":1,\"epoch\":\"" CLIENT_EPOCH
                                 "\"}"),
                     0);
    assert_int_equal(client_end(client), 0);
}

static void test_exec_gives_output_and_code(void **state) {
    struct client *client = client_start_ready(test_mode(state));
    int channel = client_shell(client, "echo out; echo err >&2; exit 7", NULL);
    assert_string_equal(client_text(client, channel, 0), "out\n");
    assert_string_equal(client_text(client, channel, 1), "err\n");
    assert_int_equal(client_exit_number(client, channel, "code"), 7);
    assert_non_null(strstr(client->exits[channel], "\"reason\":\"exited\""));
    assert_true(client_exit_number(client, channel, "wall_us") > 0);
    assert_true(client_exit_number(client, channel, "cpu_us") > 0);
    assert_true(client_exit_number(client, channel, "peak_memory_kib") > 100);
    assert_int_equal(client_end(client), 0);
}

static void test_exec_environment_and_directory(void **state) {
    struct client *client = client_start_ready(test_mode(state));
    const char *const argv[] = {"sh", "-c", "echo $PATH $HOME $USER $TERM $MINE; pwd", NULL};
    const char *const environment[] = {"MINE=\xff", "HOME=/nowhere", NULL};
    const struct client_exec exec = {argv, environment, ",\"cwd\":\"/usr\""};
    int channel = client_exec_start(client, &exec);
    client_wait_exit(client, channel);
    assert_string_equal(client_text(client, channel, 0),
                        "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin /nowhere "
                        "root \xff\n/usr\n");
    assert_int_equal(client_end(client), 0);
}

static void test_exec_looks_in_the_commands_path(void **state) {
    struct client *client = client_start_ready(test_mode(state));
    const char *const argv[] = {"sh", "-c", "true", NULL};
    const char *const environment[] = {"PATH=/nowhere", NULL};
    const struct client_exec exec = {argv, environment, NULL};
    assert_int_equal(client_exec_start(client, &exec), KELPIE_E_EXEC_NOT_FOUND);
    assert_int_equal(client_end(client), 0);
}

static void test_exec_passes_stdin_and_its_end(void **state) {
    struct client *client = client_start_ready(test_mode(state));
    const char *const argv[] = {"cat", NULL};
    const struct client_exec exec = {argv, NULL, ",\"stdin\":true"};
    size_t count = 300 * 1000;
    char *bytes = malloc(count);
    for (size_t i = 0; i < count; i += 1) {
        bytes[i] = (char)(i * 7 + i / 253);
    }
    int channel = client_exec_start(client, &exec);
    client_send(client, (uint32_t)channel, KELPIE_STREAM_STDIN, bytes, count, true);
    client_wait_exit(client, channel);
    assert_int_equal(client->outputs[channel][0].count, count);
    assert_memory_equal(client->outputs[channel][0].bytes, bytes, count);
    assert_int_equal(client_exit_number(client, channel, "code"), 0);
    free(bytes);
    channel = client_shell(client, "cat; echo done", NULL); /* without stdin: /dev/null */
    assert_string_equal(client_text(client, channel, 0), "done\n");
    assert_int_equal(client_end(client), 0);
}

static void test_exec_that_closes_stdin_stops_the_stream(void **state) {
    struct client *client = client_start_ready(test_mode(state));
    const char *const argv[] = {"sh", "-c", "exec 0<&-; sleep 0.2; echo closed", NULL};
    const struct client_exec exec = {argv, NULL, ",\"stdin\":true"};
    size_t count = 1000 * 1000;
    char *bytes = calloc(1, count);
    int channel = client_exec_start(client, &exec);
    client_send(client, (uint32_t)channel, KELPIE_STREAM_STDIN, bytes, count, true);
    client_wait_exit(client, channel);
    assert_true(client->is_stdin_stopped[channel]);
    assert_string_equal(client_text(client, channel, 0), "closed\n");
    free(bytes);
    assert_int_equal(client_end(client), 0);
}

static void test_exec_gives_a_mebibyte(void **state) {
    struct client *client = client_start_ready(test_mode(state));
    int channel = client_shell(client, "head -c 1048576 /dev/zero | tr '\\0' x", NULL);
    assert_int_equal(client->outputs[channel][0].count, 1048576);
    assert_int_equal(strspn(client_text(client, channel, 0), "x"), 1048576);
    assert_int_equal(client_end(client), 0);
}

static void test_exec_waits_for_credit(void **state) {
    struct client *client = client_start_ready(test_mode(state));
    const char *const argv[] = {"sh", "-c", "head -c 500000 /dev/zero; echo end >&2", NULL};
    const struct client_exec exec = {argv, NULL, NULL};
    client->gives_credit = false;
    int channel = client_exec_start(client, &exec);
    while (client->outputs[channel][0].count < 65536) {
        client_step(client);
    }
    assert_int_equal(client_call(client, "ping", "{\"nonce\":\"x\"}"), 0);
    assert_int_equal(client->outputs[channel][0].count, 65536);
    client->gives_credit = true;
    client->outputs[channel][0].limit = 131072;
    assert_int_equal(kelpie__wire_credit(client->wire, (uint32_t)channel << 2 | 2, 65536, 131072),
                     0);
    client_wait_exit(client, channel);
    assert_int_equal(client->outputs[channel][0].count, 500000);
    assert_string_equal(client_text(client, channel, 1), "end\n");
    assert_int_equal(client_end(client), 0);
}

static void test_exec_stopped_output_is_dropped(void **state) {
    struct client *client = client_start_ready(test_mode(state));
    const char *const argv[] = {"sh", "-c", "head -c 3000000 /dev/zero; echo end >&2", NULL};
    const struct client_exec exec = {argv, NULL, NULL};
    client->gives_credit = false;
    int channel = client_exec_start(client, &exec);
    assert_int_equal(kelpie__wire_stop(client->wire, (uint32_t)channel << 2 | 2), 0);
    client_wait_exit(client, channel);
    assert_string_equal(client_text(client, channel, 1), "end\n");
    assert_int_equal(client_exit_number(client, channel, "code"), 0);
    assert_int_equal(client_end(client), 0);
}

static void test_exec_timeout_kills_what_left_its_session(void **state) {
    struct client *client = client_start_ready(test_mode(state));
    int channel = client_shell(
        client, "setsid sh -c 'setsid sleep 1000 & echo $!; exec sleep 1000' & echo $!; sleep 1000",
        ",\"timeout_ms\":300");
    assert_non_null(strstr(client->exits[channel], "\"reason\":\"timeout\""));
    assert_int_equal(client_exit_number(client, channel, "signal"), SIGKILL);
    long pids[2];
    assert_int_equal(sscanf(client_text(client, channel, 0), "%ld %ld", &pids[0], &pids[1]), 2);
    assert_gone(client, pids[0]);
    assert_gone(client, pids[1]);
    assert_int_equal(client_end(client), 0);
}

static void test_exec_end_kills_what_is_left(void **state) {
    struct client *client = client_start_ready(test_mode(state));
    int channel = client_shell(client, "setsid sleep 1000 & echo $!; exit 3", NULL);
    assert_int_equal(client_exit_number(client, channel, "code"), 3);
    assert_non_null(strstr(client->exits[channel], "\"reason\":\"exited\""));
    assert_gone(client, strtol(client_text(client, channel, 0), NULL, 10));
    assert_int_equal(client_end(client), 0);
}

/* Root may leave its cgroup: the command itself, and what it leaves behind. */
static void test_exec_that_left_its_cgroup_is_killed(void **state) {
    const char *cgroup = test_mode(state);
    struct client *client = client_start_ready(cgroup);
    char move[1200] = "";
    char script[2048];
    if (cgroup != NULL) {
        snprintf(move, sizeof(move), "mkdir %s/escape; echo $$ > %s/escape/cgroup.procs;", cgroup,
                 cgroup);
    }
    snprintf(script, sizeof(script), "%s setsid sleep 1000 & echo $!; exec sleep 1000", move);
    int channel = client_shell(client, script, ",\"timeout_ms\":300");
    assert_non_null(strstr(client->exits[channel], "\"reason\":\"timeout\""));
    assert_string_equal(client_text(client, channel, 1), "");
    assert_gone(client, strtol(client_text(client, channel, 0), NULL, 10));
    assert_int_equal(client_end(client), 0);
    if (cgroup != NULL) {
        snprintf(script, sizeof(script), "%s/escape", cgroup);
        assert_int_equal(rmdir(script), 0);
    }
}

static void test_exec_kill_is_a_cancel(void **state) {
    struct client *client = client_start_ready(test_mode(state));
    const char *const argv[] = {"sh", "-c", "trap '' TERM INT HUP; sleep 1000 & sleep 1000", NULL};
    const struct client_exec exec = {argv, NULL, NULL};
    int channel = client_exec_start(client, &exec);
    char params[128];
    snprintf(params, sizeof(params), "%.46s}", client->result); /* {"id":"..." */
    params[40] = '}';
    params[41] = '\0';
    assert_int_equal(client_call(client, "exec.kill", params), 0);
    client_wait_exit(client, channel);
    assert_non_null(strstr(client->exits[channel], "\"reason\":\"cancelled\""));
    assert_int_equal(
        client_call(client, "exec.kill", "{\"id\":\"ffffffffffffffffffffffffffffffff\"}"),
        KELPIE_E_NOT_FOUND);
    assert_int_equal(client_end(client), 0);
}

/* {"id":"<32 digits>","pid":N} of exec.start, with more behind the id. */
static void client_id_params(const struct client *client, const char *more, char *out,
                             size_t capacity) {
    snprintf(out, capacity, "%.40s%s}", client->result, more);
}

static void test_exec_signal_reaches_the_group(void **state) {
    struct client *client = client_start_ready(test_mode(state));
    const char *const argv[] = {
        "sh", "-c", "trap 'echo got; exit 5' USR1; echo up; while :; do sleep 0.02; done", NULL};
    const struct client_exec exec = {argv, NULL, NULL};
    int channel = client_exec_start(client, &exec);
    char params[128];
    client_id_params(client, ",\"signal\":10", params, sizeof(params));
    while (client->outputs[channel][0].count < 3) {
        client_step(client);
    }
    assert_int_equal(client_call(client, "exec.signal", params), 0);
    client_wait_exit(client, channel);
    assert_non_null(strstr(client_text(client, channel, 0), "got\n"));
    assert_int_equal(client_exit_number(client, channel, "code"), 5);
    assert_int_equal(client_call(client, "exec.signal", params), KELPIE_E_STATE);
    const char *const sleep_argv[] = {"sleep", "1000", NULL};
    const struct client_exec sleep_exec = {sleep_argv, NULL, NULL};
    channel = client_exec_start(client, &sleep_exec);
    client_id_params(client, ",\"signal\":15", params, sizeof(params));
    assert_int_equal(client_call(client, "exec.signal", params), 0);
    client_wait_exit(client, channel);
    assert_int_equal(client_exit_number(client, channel, "signal"), 15);
    assert_non_null(strstr(client->exits[channel], "\"reason\":\"signalled\""));
    assert_int_equal(client_end(client), 0);
}

static void test_exec_on_a_terminal(void **state) {
    struct client *client = client_start_ready(test_mode(state));
    const char *const argv[] = {"sh", "-c",
                                "test -t 0 && test -t 1 && test -t 2 && echo $TERM;"
                                "stty size; read line; stty size; cat",
                                NULL};
    const struct client_exec exec = {argv, NULL,
                                     ",\"stdin\":true,\"tty\":{\"rows\":33,\"cols\":101}"};
    int channel = client_exec_start(client, &exec);
    char params[128];
    client_id_params(client, ",\"rows\":50,\"cols\":132", params, sizeof(params));
    while (strstr(client_text(client, channel, 0), "33 101") == NULL) {
        client_step(client);
    }
    assert_int_equal(client_call(client, "exec.resize", params), 0);
    client_send(client, (uint32_t)channel, KELPIE_STREAM_STDIN, "go\nlast\n", 8, true);
    client_wait_exit(client, channel);
    const char *text = client_text(client, channel, 0);
    assert_non_null(strstr(text, "xterm\r\n33 101\r\n"));
    assert_non_null(strstr(text, "50 132\r\n"));
    assert_non_null(strstr(text, "go\r\nlast\r\n"));             /* the echo */
    assert_non_null(strstr(strstr(text, "50 132"), "last\r\n")); /* from cat */
    assert_int_equal(client_exit_number(client, channel, "code"), 0);
    assert_int_equal(client_end(client), 0);
}

static int start_one(struct client *client, const char *program) {
    const char *const argv[] = {program, NULL};
    const struct client_exec exec = {argv, NULL, NULL};
    return client_exec_start(client, &exec);
}

static void test_exec_that_cannot_start_says_why(void **state) {
    struct client *client = client_start_ready(test_mode(state));
    char directory[] = "/tmp/kelpie-test-XXXXXX";
    char path[64];
    assert_non_null(mkdtemp(directory));
    assert_int_equal(start_one(client, "no-such-program"), KELPIE_E_EXEC_NOT_FOUND);
    assert_non_null(strstr(client->error.message, "no-such-program"));
    assert_int_equal(start_one(client, "/no/such/program"), KELPIE_E_EXEC_NOT_FOUND);
    assert_int_equal(start_one(client, "/etc/passwd/x"), KELPIE_E_EXEC_NOT_FOUND);
    assert_int_equal(start_one(client, ""), KELPIE_E_EXEC_NOT_FOUND);
    assert_int_equal(start_one(client, directory), KELPIE_E_EXEC_DENIED);
    assert_non_null(strstr(client->error.message, "directory"));
    assert_int_equal(start_one(client, "/etc/passwd"), KELPIE_E_EXEC_DENIED);
    snprintf(path, sizeof(path), "%s/script", directory);
    FILE *file = fopen(path, "w");
    fputs("#!/no/such/interpreter\n", file);
    fclose(file);
    assert_int_equal(chmod(path, 0755), 0);
    assert_int_equal(start_one(client, path), KELPIE_E_EXEC_DENIED);
    assert_non_null(strstr(client->error.message, "interpreter"));
    file = fopen(path, "w");
    fputs("no format that a kernel knows\n", file);
    fclose(file);
    assert_int_equal(start_one(client, path), KELPIE_E_EXEC_DENIED);
    const char *const argv[] = {"true", NULL};
    const struct client_exec exec = {argv, NULL, ",\"cwd\":\"/no/such/directory\""};
    assert_int_equal(client_exec_start(client, &exec), KELPIE_E_EXEC_DENIED);
    assert_non_null(strstr(client->error.message, "/no/such/directory"));
    unlink(path);
    rmdir(directory);
    assert_int_equal(client_end(client), 0);
}

static void test_exec_with_two_mebibytes_of_arguments(void **state) {
    struct client *client = client_start_ready(test_mode(state));
    enum { count = 20, length = 104000 };
    static char argument[length + 1];
    const char *argv[count + 5] = {"sh", "-c", "echo $#", "sh"};
    memset(argument, 'a', length);
    for (size_t i = 0; i < count; i += 1) {
        argv[4 + i] = argument;
    }
    const struct client_exec exec = {argv, NULL, NULL};
    int channel = client_exec_start(client, &exec);
    client_wait_exit(client, channel);
    assert_string_equal(client_text(client, channel, 0), "20\n");
    assert_int_equal(client_call(client, "exec.start",
                                 "{\"channel\":200,\"argument_bytes\":3000000,"
                                 "\"argument_count\":1}"),
                     KELPIE_E_LIMIT);
    assert_int_equal(client_end(client), 0);
}

static void test_exec_user_and_limits(void **state) {
    struct client *client = client_start_ready(test_mode(state));
    int channel = client_shell(client, "id -u; id -g; echo $HOME $USER; ulimit -n",
                               ",\"user\":\"daemon\",\"limits\":[{\"resource\":7,\"soft\":77,"
                               "\"hard\":88}]");
    assert_string_equal(client_text(client, channel, 0), "1\n1\n/usr/sbin daemon\n77\n");
    channel = client_shell(client, "id -u; id -g; echo $HOME", ",\"user\":\"4711:12\"");
    assert_string_equal(client_text(client, channel, 0), "4711\n12\n/\n");
    const char *const argv[] = {"true", NULL};
    const struct client_exec exec = {argv, NULL, ",\"user\":\"no-such-user\""};
    assert_int_equal(client_exec_start(client, &exec), KELPIE_E_EXEC);
    assert_non_null(strstr(client->error.message, "no-such-user"));
    assert_int_equal(client_end(client), 0);
}

static void test_exec_goes_on_in_a_new_epoch(void **state) {
    struct client *client = client_start_ready(test_mode(state));
    const char *const argv[] = {"sh", "-c", "echo one; read line; echo two $line; echo e >&2",
                                NULL};
    const struct client_exec exec = {argv, NULL, ",\"stdin\":true"};
    int channel = client_exec_start(client, &exec);
    char start[64];
    char params[256];
    snprintf(start, sizeof(start), "%.40s", client->result);
    while (client->outputs[channel][0].count < 4) {
        client_step(client);
    }
    client_greet(client, "ffffffffffffffffffffffffffffffff");
    assert_non_null(strstr(client->result, start + 1));
    assert_non_null(strstr(client->result, "\"written\":4"));
    /* A channel of the new epoch may have the number of an old one. */
    free(client->outputs[1][0].bytes);
    client->outputs[1][0] = (struct client_output){0};
    client->last_channel = 1;
    snprintf(params, sizeof(params), "%s,\"channel\":1,\"stdout_offset\":99}", start);
    assert_int_equal(client_call(client, "exec.attach", params), KELPIE_E_LIMIT);
    snprintf(params, sizeof(params), "%s,\"channel\":2,\"stdout_offset\":2}", start);
    client->limits[2][KELPIE_STREAM_STDIN] = 0;
    assert_int_equal(client_call(client, "exec.attach", params), 0);
    assert_string_equal(
        client->result,
        "{\"stdout_offset\":2,\"stderr_offset\":0,\"stdin_offset\":0,\"stdin_ended\":false}");
    while (client->limits[2][KELPIE_STREAM_STDIN] == 0) {
        client_step(client);
    }
    client_send(client, 2, KELPIE_STREAM_STDIN, "x\n", 2, true);
    client_wait_exit(client, 2);
    assert_string_equal(client_text(client, 2, 0), "e\ntwo x\n");
    assert_string_equal(client_text(client, 2, 1), "e\n");
    /* And once more, when it is long over. */
    snprintf(params, sizeof(params), "%s,\"channel\":3,\"stdout_offset\":4}", start);
    assert_int_equal(client_call(client, "exec.attach", params), 0);
    client_wait_exit(client, 3);
    assert_string_equal(client_text(client, 3, 0), "two x\n");
    assert_int_equal(client_exit_number(client, 3, "code"), 0);
    assert_int_equal(client_end(client), 0);
}

static void test_broken_protocol_ends_the_connection_only(void **state) {
    struct client *client = client_start_ready(test_mode(state));
    const char *const argv[] = {"sleep", "1000", NULL};
    const struct client_exec exec = {argv, NULL, NULL};
    assert_int_equal(client_exec_start(client, &exec), 1);
    char id[64];
    snprintf(id, sizeof(id), "%.40s", client->result);
    assert_int_equal(kelpie__wire_data(client->wire, 99 << 2, 0, "x", 1, false), 0);
    while (!client->is_closed) {
        client_step(client);
    }
    kelpie__wire_destroy(client->wire);
    client_connect(client);
    while (client->ready_count == 0) {
        client_step(client);
    }
    assert_int_equal(client_call(client, "exec.list", "{}"), KELPIE_E_STATE);
    client_greet(client, "11111111111111111111111111111111");
    assert_non_null(strstr(client->result, id + 1));
    assert_int_equal(client_end(client), 0);
}

static void test_quiesce_holds_output_until_the_mark(void **state) {
    struct client *client = client_start_ready(test_mode(state));
    uint8_t mark[KELPIE_MARK_BYTES];
    memset(mark, 0xab, sizeof(mark));
    const char *const argv[] = {"sh", "-c", "sleep 0.1; echo late", NULL};
    const struct client_exec exec = {argv, NULL, NULL};
    int channel = client_exec_start(client, &exec);
    assert_int_equal(
        client_call(client, "quiesce",
                    "{\"mark\":\"abababababababababababababababab\",\"token\":"
                    "\"0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef\"}"),
        0);
    struct kelpie_error error;
    int64_t deadline_ns = client->loop->now_ns + 400 * KELPIE_NS_PER_MS;
    while (client->loop->now_ns < deadline_ns) {
        assert_int_equal(kelpie__loop_step(client->loop, deadline_ns, &error), 0);
    }
    assert_string_equal(client_text(client, channel, 0), "");
    assert_null(client->exits[channel]);
    assert_int_equal(write(client->socket, "half a frame of a dead connection", 33), 33);
    assert_int_equal(kelpie__wire_mark(client->wire, mark), 0);
    client_wait_exit(client, channel);
    assert_string_equal(client_text(client, channel, 0), "late\n");
    client_greet(client, "11111111111111111111111111111111");
    assert_non_null(strstr(client->result, "\"token\":\"0123456789abcdef"));
    assert_int_equal(client_end(client), 0);
}

static void test_many_execs_in_parallel_and_in_turn(void **state) {
    struct client *client = client_start_ready(test_mode(state));
    const char *const argv[] = {"sh", "-c", "echo hello", NULL};
    const struct client_exec exec = {argv, NULL, NULL};
    for (int round = 0; round < 3; round += 1) {
        int first = (int)client->last_channel + 1;
        for (int i = 0; i < 40; i += 1) {
            assert_int_equal(client_exec_start(client, &exec), first + i);
        }
        for (int i = 0; i < 40; i += 1) {
            client_wait_exit(client, first + i);
            assert_string_equal(client_text(client, first + i, 0), "hello\n");
        }
    }
    assert_int_equal(client_call(client, "exec.list", "{}"), 0);
    assert_non_null(strstr(client->result, "\"finished\""));
    assert_int_equal(client_end(client), 0);
}

static void test_exec_count_is_limited(void **state) {
    struct client *client = client_start_ready(test_mode(state));
    const char *const argv[] = {"sleep", "1000", NULL};
    const struct client_exec exec = {argv, NULL, NULL};
    for (int i = 0; i < (int)KELPIE_EXEC_COUNT_MAX; i += 1) {
        assert_int_equal(client_exec_start(client, &exec), i + 1);
    }
    assert_int_equal(client_exec_start(client, &exec), KELPIE_E_LIMIT);
    assert_int_equal(client_end(client), 0); /* hanging up ends them all */
}

static void test_guest_stats_and_clock(void **state) {
    struct client *client = client_start_ready(test_mode(state));
    uint64_t value = 0;
    assert_int_equal(client_call(client, "guest.stats", "{}"), 0);
    size_t length = strlen(client->result);
    assert_int_equal(kelpie__json_find_u64(client->result, length, "memory_total_kib", &value), 0);
    assert_true(value > 100000);
    assert_int_equal(kelpie__json_find_u64(client->result, length, "process_count", &value), 0);
    assert_true(value > 2);
    assert_int_equal(client_call(client, "guest.clock", "{}"), 0);
    length = strlen(client->result);
    assert_int_equal(kelpie__json_find_u64(client->result, length, "monotonic_ns", &value), 0);
    assert_true(value > 0);
    assert_int_equal(client_end(client), 0);
}

static void test_shutdown_terminates_commands_then_says_goodbye(void **state) {
    struct client *client = client_start_ready(test_mode(state));
    const char *const argv[] = {"sh", "-c",
                                "trap 'echo bye; exit 0' TERM; echo up; while :; do"
                                " sleep 0.05; done",
                                NULL};
    const struct client_exec exec = {argv, NULL, NULL};
    int channel = client_exec_start(client, &exec);
    while (client->outputs[channel][0].count < 3) {
        client_step(client);
    }
    assert_int_equal(client_call(client, "guest.shutdown", "{\"timeout_ms\":5000}"), 0);
    client_wait_exit(client, channel);
    assert_non_null(strstr(client_text(client, channel, 0), "bye\n"));
    while (!client->is_closed) {
        client_step(client);
    }
    assert_true(client->has_goodbye);
    assert_int_equal(client_end(client), 0);
}

static int setup_cgroup(void **state) {
    static bool has_cgroup = true;
    client_find_cgroup(test_cgroup, sizeof(test_cgroup));
    *state = &has_cgroup;
    return 0;
}

static int teardown_cgroup(void **state) {
    assert_non_null(state);
    if (test_cgroup[0] != '\0') {
        assert_int_equal(rmdir(test_cgroup), 0); /* the agent left nothing in it */
    }
    return 0;
}

static int setup_list(void **state) {
    static bool has_cgroup = false;
    *state = &has_cgroup;
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_hello_and_setup_come_first),
        cmocka_unit_test(test_hello_with_newer_version_is_refused),
        cmocka_unit_test(test_exec_gives_output_and_code),
        cmocka_unit_test(test_exec_environment_and_directory),
        cmocka_unit_test(test_exec_looks_in_the_commands_path),
        cmocka_unit_test(test_exec_passes_stdin_and_its_end),
        cmocka_unit_test(test_exec_that_closes_stdin_stops_the_stream),
        cmocka_unit_test(test_exec_gives_a_mebibyte),
        cmocka_unit_test(test_exec_waits_for_credit),
        cmocka_unit_test(test_exec_stopped_output_is_dropped),
        cmocka_unit_test(test_exec_timeout_kills_what_left_its_session),
        cmocka_unit_test(test_exec_end_kills_what_is_left),
        cmocka_unit_test(test_exec_that_left_its_cgroup_is_killed),
        cmocka_unit_test(test_exec_kill_is_a_cancel),
        cmocka_unit_test(test_exec_signal_reaches_the_group),
        cmocka_unit_test(test_exec_on_a_terminal),
        cmocka_unit_test(test_exec_that_cannot_start_says_why),
        cmocka_unit_test(test_exec_with_two_mebibytes_of_arguments),
        cmocka_unit_test(test_exec_user_and_limits),
        cmocka_unit_test(test_exec_goes_on_in_a_new_epoch),
        cmocka_unit_test(test_broken_protocol_ends_the_connection_only),
        cmocka_unit_test(test_quiesce_holds_output_until_the_mark),
        cmocka_unit_test(test_many_execs_in_parallel_and_in_turn),
        cmocka_unit_test(test_exec_count_is_limited),
        cmocka_unit_test(test_guest_stats_and_clock),
        cmocka_unit_test(test_shutdown_terminates_commands_then_says_goodbye),
    };
    alarm(50); /* a test that waits for ever is a test that fails */
    int failed =
        cmocka_run_group_tests_name("agent with cgroups", tests, setup_cgroup, teardown_cgroup);
    failed += cmocka_run_group_tests_name("agent without cgroups", tests, setup_list, NULL);
    return failed == 0 ? 0 : 1;
}
