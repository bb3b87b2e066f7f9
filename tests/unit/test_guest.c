/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * The monitor's side of the agent's connection, against the real agent in a child process: a guest
 * that is asked to be quiet, and one that goes on elsewhere. The agent keeps its end of the socket
 * while the monitor's connection ends and another one takes its place: to the agent this is what a
 * restore is.
 */
#include <signal.h>
#include <sys/stat.h>

#include "agent_client.h"
#include "monitor/exec.h"
#include "monitor/monitor.h"

#define TEST_FOLDER "/tmp/kelpie-guest-XXXXXX"

struct fixture {
    struct kelpie_monitor *monitor;
    struct kelpie_vmm vmm;
    int socket; /* kept: what the monitor has is a duplicate */
    pid_t agent;
    unsigned done_count;
    struct kelpie_error done; /* code 0: success */
    bool is_answered;
    int answer_code;
    char answer[1024];
    char folder[sizeof(TEST_FOLDER)];
};

/* ---- a VM without a VMM ---------------------------------------------------------------------- */

static int vmm_check_clock(struct kelpie_vmm *vmm, const struct kelpie_vmm_guest_clock *clock,
                           struct kelpie_error *error) {
    assert_non_null(vmm);
    assert_true(clock->second_monotonic_ns >= clock->first_monotonic_ns);
    (void)error;
    return 0;
}

static unsigned vmm_kills;

static void vmm_kill(struct kelpie_vmm *vmm) {
    assert_non_null(vmm);
    vmm_kills += 1;
}

static int vmm_change(struct kelpie_vmm *vmm, struct kelpie_error *error) {
    assert_true(vmm->is_changing); /* the test says when it is done */
    (void)error;
    return 0;
}

static void vmm_event(void *context, const struct kelpie_vmm_event *event) {
    struct fixture *fixture = context;
    assert_true(event->type == KELPIE_VMM_EVENT_PAUSED || event->type == KELPIE_VMM_EVENT_RESUMED);
    kelpie__pause_changed(&fixture->monitor->pause);
}

/* Each guest here says hello, which is all that the trial of an accelerator waits for. */
static bool vmm_settle(struct kelpie_vmm *vmm, const struct kelpie_vmm_end *end,
                       const char *reason) {
    assert_int_equal(vmm->state, KELPIE_VMM_RUNNING);
    assert_null(end);
    assert_string_equal(reason, "it booted a guest on this host");
    return false;
}

static const struct kelpie_vmm_operations vmm_operations = {.name = "none",
                                                            .capabilities = KELPIE_VMM_CAN_PAUSE,
                                                            .settle = vmm_settle,
                                                            .check_clock = vmm_check_clock,
                                                            .pause = vmm_change,
                                                            .resume = vmm_change,
                                                            .kill = vmm_kill};

static void agent_start(struct fixture *fixture) {
    int sockets[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, sockets),
                     0);
    fixture->agent = fork();
    assert_true(fixture->agent >= 0);
    if (fixture->agent == 0) {
        char number[16];
        char name[] = "kelpie-agent", channel[] = "--channel-fd";
        char *argv[] = {name, channel, number, NULL};
        prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
        prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
        snprintf(number, sizeof(number), "%d", sockets[1]);
        close(sockets[0]);
        kelpie__os_linux_prepare_process();
        struct kelpie_os *os = kelpie__os_linux_create_guest();
        int status = kelpie_agent_main(os, 3, argv);
        kelpie__os_linux_destroy(os);
        _exit(status);
    }
    close(sockets[1]);
    fixture->socket = sockets[0];
}

static void step(struct fixture *fixture) {
    struct kelpie_loop *loop = fixture->monitor->loop;
    assert_int_equal(kelpie__loop_step(loop, loop->now_ns + CLIENT_STEP_NS, NULL), 0);
}

static char left_folder[sizeof(TEST_FOLDER)]; /* the fixture's, while it is open */
static pid_t left_owner;

/* What a test that failed or aborted has left; its agent is another process, and owns nothing. */
static void remove_left_folder(int signal) {
    char command[64];
    (void)signal;
    if (left_folder[0] != '\0' && left_owner == getpid()) {
        snprintf(command, sizeof(command), "rm -r %s", left_folder);
        left_folder[0] = '\0';
        if (system(command) != 0) {
            perror(command);
        }
    }
}

static void fixture_open(struct fixture *fixture) {
    struct kelpie_monitor *monitor = calloc(1, sizeof(*monitor));
    *fixture = (struct fixture){.monitor = monitor, .folder = TEST_FOLDER};
    assert_non_null(mkdtemp(fixture->folder));
    remove_left_folder(0);
    memcpy(left_folder, fixture->folder, sizeof(left_folder));
    left_owner = getpid();
    assert_true(signal(SIGABRT, remove_left_folder) != SIG_ERR);
    agent_start(fixture);
    fixture->vmm = (struct kelpie_vmm){.operations = &vmm_operations,
                                       .state = KELPIE_VMM_RUNNING,
                                       .callback = vmm_event,
                                       .context = fixture};
    vmm_kills = 0;
    monitor->os = kelpie__os_linux_create();
    assert_int_equal(kelpie__loop_create(monitor->os, 16, &monitor->loop, NULL), 0);
    kelpie__relay_spares_init(&monitor->spares, monitor->os);
    monitor->directory.vm = open(fixture->folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    snprintf(monitor->config.name, sizeof(monitor->config.name), "test");
    snprintf(monitor->config.id, sizeof(monitor->config.id), "%s", CLIENT_EPOCH);
    monitor->lifecycle.monitor = monitor;
    monitor->lifecycle.state = KELPIE_VM_STARTING;
    monitor->lifecycle.vmm = &fixture->vmm;
    kelpie__guest_init(&monitor->guest, monitor, &monitor->relay);
    kelpie__relay_init(&monitor->relay, monitor, &monitor->guest);
    kelpie__pause_init(&monitor->pause, monitor);
    assert_int_equal(
        kelpie__event_log_open(&monitor->events, monitor->os, monitor->directory.vm, NULL), 0);
    assert_int_equal(kelpie__guest_attach(&monitor->guest, dup(fixture->socket), NULL), 0);
    while (monitor->lifecycle.state != KELPIE_VM_RUNNING) {
        step(fixture);
    }
}

static void fixture_close(struct fixture *fixture) {
    struct kelpie_monitor *monitor = fixture->monitor;
    const struct kelpie_error over = {.code = KELPIE_E_CRASHED};
    int status = 0;
    kelpie__guest_detach(&monitor->guest, &over);
    kelpie__relay_deinit(&monitor->relay);
    kelpie__relay_spares_deinit(&monitor->spares);
    kelpie__timer_disarm(monitor->loop, &monitor->lifecycle.closed_timer);
    shutdown(fixture->socket, SHUT_WR);
    for (ssize_t got = 1; got != 0;) { /* closed with bytes to read it would be a reset */
        char bytes[4096];
        got = read(fixture->socket, bytes, sizeof(bytes));
        usleep(got < 0 ? 1000 : 0);
    }
    close(fixture->socket);
    assert_int_equal(waitpid(fixture->agent, &status, 0), fixture->agent);
    kelpie__event_log_close(&monitor->events);
    close(monitor->directory.vm);
    kelpie__loop_destroy(monitor->loop);
    kelpie__os_linux_destroy(monitor->os);
    assert_string_equal(left_folder, fixture->folder);
    remove_left_folder(0);
    assert_int_equal(access(fixture->folder, F_OK), -1);
    free(monitor);
}

/* ---- what is asked --------------------------------------------------------------------------- */

static void note_done(void *context, const struct kelpie_error *error) {
    struct fixture *fixture = context;
    fixture->done_count += 1;
    fixture->done = error == NULL ? (struct kelpie_error){0} : *error;
}

/* Until it called back: the code of what it said. */
static int wait_done(struct fixture *fixture, unsigned count) {
    while (fixture->done_count < count) {
        step(fixture);
    }
    assert_int_equal(fixture->done_count, count);
    return fixture->done.code;
}

static int quiesce(struct fixture *fixture) {
    unsigned count = fixture->done_count + 1;
    assert_int_equal(kelpie__guest_quiesce(&fixture->monitor->guest, note_done, fixture, NULL), 0);
    assert_int_equal(fixture->done_count, count - 1);
    return wait_done(fixture, count);
}

static int greet(struct fixture *fixture) {
    unsigned count = fixture->done_count + 1;
    kelpie__guest_greet(&fixture->monitor->guest, note_done, fixture);
    return wait_done(fixture, count);
}

static void note_answer(void *context, const struct kelpie_error *error, const char *result,
                        size_t length) {
    struct fixture *fixture = context;
    fixture->is_answered = true;
    fixture->answer_code = error == NULL ? 0 : error->code;
    snprintf(fixture->answer, sizeof(fixture->answer), "%.*s", (int)length,
             error == NULL ? result : "");
}

static void ask(struct fixture *fixture, const char *method, const char *params) {
    fixture->is_answered = false;
    assert_int_equal(kelpie__wire_call(fixture->monitor->guest.wire, method, params, 5000,
                                       note_answer, fixture, NULL, NULL),
                     0);
}

static int answer(struct fixture *fixture) {
    while (!fixture->is_answered) {
        step(fixture);
    }
    return fixture->answer_code;
}

/* The clock of the loop goes on without an event. */
static void pass_time(struct fixture *fixture, int64_t time_ms) {
    struct kelpie_loop *loop = fixture->monitor->loop;
    int64_t until_ns = loop->now_ns + time_ms * KELPIE_NS_PER_MS;
    while (loop->now_ns < until_ns) {
        assert_int_equal(kelpie__loop_step(loop, until_ns, NULL), 0);
    }
}

/* Starts a shell command beside the relay, as somebody else's of an earlier time. */
static void start_command(struct fixture *fixture, const char *script) {
    struct kelpie_monitor *monitor = fixture->monitor;
    char bytes[512];
    char params[256];
    int length = snprintf(bytes, sizeof(bytes), "sh%c-c%c%s", 0, 0, script) + 1;
    uint32_t channel = monitor->relay.guest_channel_last + 1;
    monitor->relay.guest_channel_last = channel;
    snprintf(params, sizeof(params),
             "{\"channel\":%u,\"argument_bytes\":%d,\"argument_count\":3,\"environment_count\":0,"
             "\"stdin\":true}",
             channel, length);
    ask(fixture, "exec.start", params);
    assert_int_equal(kelpie__wire_data(monitor->guest.wire,
                                       kelpie__stream_number(channel, KELPIE_STREAM_ARGUMENTS), 0,
                                       bytes, (size_t)length, true),
                     0);
    assert_int_equal(answer(fixture), 0);
}

/* The monitor's connection goes; another takes its place, and knows what was kept. */
static void restore(struct fixture *fixture, const struct kelpie_guest_continuity *continuity) {
    struct kelpie_monitor *monitor = fixture->monitor;
    const struct kelpie_error over = {.code = KELPIE_E_CRASHED};
    kelpie__guest_detach(&monitor->guest, &over);
    kelpie__relay_begin(&monitor->relay);
    snprintf(monitor->config.name, sizeof(monitor->config.name), "copy");
    assert_int_equal(
        kelpie__guest_attach_restored(&monitor->guest, dup(fixture->socket), continuity, NULL), 0);
}

static struct kelpie_relay_exec *first_exec(struct fixture *fixture) {
    for (uint32_t i = 0; i < KELPIE_RELAY_SLOT_COUNT; i += 1) {
        if (fixture->monitor->relay.execs[i] != NULL) {
            return fixture->monitor->relay.execs[i];
        }
    }
    return NULL;
}

/* ---- tests ----------------------------------------------------------------------------------- */

static void test_quiesce_holds_everything_and_loses_nothing(void **state) {
    struct fixture fixture;
    (void)state;
    fixture_open(&fixture);
    struct kelpie_guest *guest = &fixture.monitor->guest;
    for (int i = 0; i < 100; i += 1) {
        struct kelpie_error error = {0};
        assert_int_equal(quiesce(&fixture), 0);
        assert_int_equal(guest->quiet, KELPIE_GUEST_IS_QUIET);
        assert_int_equal(kelpie__guest_quiesce(guest, note_done, &fixture, &error), KELPIE_E_BUSY);
        ask(&fixture, "ping", "{\"nonce\":\"late\"}"); /* the agent would throw it away */
        if (i < 3) {
            pass_time(&fixture, 30);
        }
        assert_false(fixture.is_answered);
        kelpie__guest_unquiesce(guest);
        kelpie__guest_unquiesce(guest); /* without effect */
        assert_int_equal(answer(&fixture), 0);
        assert_string_equal(fixture.answer, "{\"nonce\":\"late\"}");
    }
    /* Given up before it is answered. */
    assert_int_equal(kelpie__guest_quiesce(guest, note_done, &fixture, NULL), 0);
    kelpie__guest_unquiesce(guest);
    ask(&fixture, "ping", "{\"nonce\":\"x\"}");
    assert_int_equal(answer(&fixture), 0);
    assert_int_equal(fixture.done_count, 100);
    fixture_close(&fixture);
}

static void test_quiesce_of_a_guest_that_hangs_fails_and_goes_on(void **state) {
    struct fixture fixture;
    (void)state;
    fixture_open(&fixture);
    kill(fixture.agent, SIGSTOP);
    assert_int_equal(quiesce(&fixture), KELPIE_E_TIMEOUT);
    assert_int_equal(fixture.monitor->guest.quiet, KELPIE_GUEST_HEARD);
    ask(&fixture, "ping", "{\"nonce\":\"after\"}");
    kill(fixture.agent, SIGCONT); /* the quiesce comes late, and the mark behind it */
    assert_int_equal(answer(&fixture), 0);
    assert_int_equal(quiesce(&fixture), 0);
    /* Whoever waits when the VM ends is told. */
    kelpie__guest_unquiesce(&fixture.monitor->guest);
    assert_int_equal(kelpie__guest_quiesce(&fixture.monitor->guest, note_done, &fixture, NULL), 0);
    unsigned count = fixture.done_count;
    fixture_close(&fixture);
    assert_int_equal(fixture.done_count, count + 1);
    assert_int_equal(fixture.done.code, KELPIE_E_CRASHED);
}

static void test_quiesce_is_refused_by_a_guest_that_goes(void **state) {
    struct fixture fixture;
    (void)state;
    fixture_open(&fixture);
    start_command(&fixture, "trap '' TERM; while :; do sleep 0.05; done");
    ask(&fixture, "guest.shutdown", "{\"timeout_ms\":300}");
    assert_int_equal(answer(&fixture), 0);
    assert_int_equal(quiesce(&fixture), KELPIE_E_STATE);
    fixture_close(&fixture);
}

static void test_restored_guest_is_greeted_with_its_commands(void **state) {
    struct fixture fixture;
    (void)state;
    fixture_open(&fixture);
    struct kelpie_monitor *monitor = fixture.monitor;
    start_command(&fixture, "echo one; read line; echo two $line; sleep 1000");
    pass_time(&fixture, 100);
    assert_int_equal(quiesce(&fixture), 0);
    const struct kelpie_guest_continuity continuity = monitor->guest.continuity;
    char epoch[sizeof(monitor->guest.epoch)];
    memcpy(epoch, monitor->guest.epoch, sizeof(epoch));
    restore(&fixture, &continuity);
    assert_int_equal(monitor->guest.phase, KELPIE_GUEST_RESTORED);
    assert_int_equal(greet(&fixture), 0);
    assert_int_equal(monitor->guest.phase, KELPIE_GUEST_LIVE);
    assert_string_not_equal(monitor->guest.epoch, epoch);
    struct kelpie_relay_exec *exec = first_exec(&fixture);
    assert_non_null(exec);
    assert_int_equal(kelpie__relay_live_count(&monitor->relay), 1);
    assert_int_equal(exec->phase, KELPIE_RELAY_LIVE);
    assert_memory_equal(exec->id, epoch, 16); /* it was started in the other time */
    while (exec->streams[KELPIE_STREAM_STDOUT].receiver.received < 4) {
        step(&fixture);
    }
    const void *bytes = NULL;
    struct kelpie_ring *ring = &exec->streams[KELPIE_STREAM_STDOUT].sender.ring;
    assert_int_equal(kelpie__ring_send_view(ring, &bytes), 4);
    assert_memory_equal(bytes, "one\n", 4);
    /* It can be written to, where its input was, and killed. */
    struct kelpie_stream_sender *input = &exec->streams[KELPIE_STREAM_STDIN].sender;
    assert_int_equal(kelpie__stream_sender_write(input, "x\n", 2), 2);
    kelpie__ignore(kelpie__relay_exec_pump(exec));
    while (exec->streams[KELPIE_STREAM_STDOUT].receiver.received < 10) {
        step(&fixture);
    }
    kelpie__exec_kill(exec);
    while (exec->phase != KELPIE_RELAY_ENDED) {
        step(&fixture);
    }
    assert_string_equal(exec->end.reason, "cancelled");
    assert_int_equal(vmm_kills, 0);
    fixture_close(&fixture);
}

/* Commands that ended while nobody heard, and 64 of them. */
static void test_restored_guest_with_many_commands(void **state) {
    struct fixture fixture;
    (void)state;
    fixture_open(&fixture);
    struct kelpie_monitor *monitor = fixture.monitor;
    char script[128];
    snprintf(script, sizeof(script), "while [ ! -e %s/go ]; do sleep 0.1; done; echo over; exit 3",
             fixture.folder);
    for (unsigned i = 0; i < KELPIE_EXEC_COUNT_MAX; i += 1) {
        start_command(&fixture, i % 2 == 0 ? "sleep 1000" : script);
    }
    assert_int_equal(quiesce(&fixture), 0);
    int go = openat(monitor->directory.vm, "go", O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
    assert_true(go >= 0);
    close(go);
    const struct kelpie_guest_continuity continuity = monitor->guest.continuity;
    pass_time(&fixture, 700);
    restore(&fixture, &continuity);
    assert_int_equal(greet(&fixture), 0);
    while (kelpie__relay_live_count(&monitor->relay) > KELPIE_EXEC_COUNT_MAX / 2) {
        step(&fixture);
    }
    unsigned count = 0;
    for (uint32_t i = 0; i < KELPIE_RELAY_SLOT_COUNT; i += 1) {
        const struct kelpie_relay_exec *exec = monitor->relay.execs[i];
        if (exec != NULL && exec->phase == KELPIE_RELAY_ENDED) {
            assert_true(exec->end.has_code && exec->end.code == 3);
            assert_int_equal(exec->streams[KELPIE_STREAM_STDOUT].receiver.received, 5);
            count += 1;
        }
    }
    assert_int_equal(count, KELPIE_EXEC_COUNT_MAX / 2);
    fixture_close(&fixture);
}

static void test_another_guest_is_not_taken_for_the_saved_one(void **state) {
    struct fixture fixture;
    (void)state;
    fixture_open(&fixture);
    struct kelpie_monitor *monitor = fixture.monitor;
    struct kelpie_guest_continuity wrong;
    struct kelpie_error error = {0};
    start_command(&fixture, "sleep 1000");
    assert_int_equal(quiesce(&fixture), 0);
    const struct kelpie_guest_continuity continuity = monitor->guest.continuity;
    wrong = continuity;
    wrong.token[0] = wrong.token[0] == '0' ? '1' : '0';
    restore(&fixture, &wrong);
    assert_int_equal(greet(&fixture), KELPIE_E_RESTORE);
    assert_non_null(strstr(fixture.done.message, "another continuity token"));
    assert_int_equal(monitor->guest.phase, KELPIE_GUEST_RESTORED);
    assert_int_equal(kelpie__relay_live_count(&monitor->relay), 0);
    /* With the right one the next greeting succeeds: nothing was spoilt. */
    monitor->guest.continuity = continuity;
    assert_int_equal(greet(&fixture), 0);
    assert_int_equal(kelpie__relay_live_count(&monitor->relay), 1);
    assert_int_equal(vmm_kills, 0);
    snprintf(wrong.mark, sizeof(wrong.mark), "%s", "not hexadecimal");
    const struct kelpie_error over = {.code = KELPIE_E_CRASHED};
    kelpie__guest_detach(&monitor->guest, &over);
    kelpie__relay_fail_all(&monitor->relay, &over);
    assert_int_equal(kelpie__guest_attach_restored(&monitor->guest, 0, &wrong, &error),
                     KELPIE_E_SNAPSHOT_CORRUPTED);
    fixture_close(&fixture);
}

/* A guest that was never saved has no token; one that hangs is waited for in vain, then given up.
 */
static void test_greeting_of_a_fresh_or_hanging_guest_fails(void **state) {
    struct fixture fixture;
    (void)state;
    fixture_open(&fixture);
    struct kelpie_monitor *monitor = fixture.monitor;
    struct kelpie_guest_continuity continuity;
    memset(&continuity, 0, sizeof(continuity));
    memset(continuity.mark, 'a', sizeof(continuity.mark) - 1);
    memset(continuity.token, 'b', sizeof(continuity.token) - 1);
    restore(&fixture, &continuity);
    assert_int_equal(greet(&fixture), KELPIE_E_RESTORE);
    assert_non_null(strstr(fixture.done.message, "no continuity token"));
    kill(fixture.agent, SIGSTOP);
    kelpie__guest_greet(&monitor->guest, note_done, &fixture);
    pass_time(&fixture, 50);
    kelpie__guest_stop_greeting(&monitor->guest);
    assert_int_equal(monitor->guest.phase, KELPIE_GUEST_RESTORED);
    assert_int_equal(fixture.done_count, 1); /* by the first greeting only */
    assert_int_equal(greet(&fixture), KELPIE_E_TIMEOUT);
    kill(fixture.agent, SIGCONT);
    fixture_close(&fixture);
}

/* ---- a guest that lies ----------------------------------------------------------------------- */

struct liar {
    struct kelpie_wire *wire;
    uint64_t hello;
    const char *token;
    const char *offsets; /* NULL: it never says hello, and refuses to be set up */
};

/* Out of order: what was asked second is answered first, and the first by an error, too. */
static void liar_refuses(struct liar *liar, uint64_t id, const char *method) {
    const struct kelpie_error refusal = {.code = KELPIE_E_IO};
    if (strcmp(method, "hello") == 0) {
        liar->hello = id;
        return;
    }
    kelpie__wire_refuse(liar->wire, id, &refusal);
    kelpie__wire_refuse(liar->wire, liar->hello, &refusal);
}

static void liar_request(void *context, uint64_t id, const char *method, const char *params,
                         size_t length) {
    struct liar *liar = context;
    char epoch[2 * KELPIE_EPOCH_BYTES + 1] = "";
    char text[512] = "{}";
    if (liar->offsets == NULL) {
        liar_refuses(liar, id, method);
        return;
    }
    kelpie__ignore(kelpie__json_find_string(params, length, "epoch", epoch, sizeof(epoch)));
    if (strcmp(method, "hello") == 0) {
        snprintf(text, sizeof(text),
                 "{\"version\":1,\"epoch\":\"%s\",\"token\":\"%s\",\"is_set_up\":true,"
                 "\"execs\":[{\"id\":\"" CLIENT_EPOCH "\"}]}",
                 epoch, liar->token);
    } else if (strcmp(method, "exec.attach") == 0) {
        snprintf(text, sizeof(text), "{%s,\"stdin_ended\":false}", liar->offsets);
    }
    kelpie__wire_result(liar->wire, id, text);
}

static void liar_notification(void *context, const char *method, const char *params,
                              size_t length) {
    assert_true(context != NULL && method != NULL && params[length] == '\0');
}

static void liar_credit(void *context, uint32_t stream, uint64_t acknowledged, uint64_t limit) {
    assert_true(context != NULL && stream != 0 && acknowledged <= limit);
}

static void liar_drained(void *context) {
    assert_non_null(context);
}

static void liar_closed(void *context, const struct kelpie_error *error) {
    assert_true(context != NULL && error->code < 0);
}

/* In the guest's place, and greeted. */
static void liar_open(struct liar *liar, struct fixture *fixture) {
    static const struct kelpie_wire_callbacks callbacks = {.request = liar_request,
                                                           .notification = liar_notification,
                                                           .credit = liar_credit,
                                                           .drained = liar_drained,
                                                           .closed = liar_closed};
    struct kelpie_monitor *monitor = fixture->monitor;
    int sockets[2];
    assert_int_equal(quiesce(fixture), 0);
    const struct kelpie_guest_continuity continuity = monitor->guest.continuity;
    liar->token = monitor->guest.continuity.token;
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, sockets),
                     0);
    const struct kelpie_wire_create create = {.os = monitor->os,
                                              .loop = monitor->loop,
                                              .handle = sockets[1],
                                              .owns_handle = true,
                                              .callbacks = &callbacks,
                                              .context = liar};
    assert_int_equal(kelpie__wire_create(&create, &liar->wire, NULL), 0);
    int kept = fixture->socket;
    fixture->socket = sockets[0];
    restore(fixture, &continuity);
    fixture->socket = kept;
    close(sockets[0]); /* the monitor has a duplicate */
    kelpie__guest_greet(&monitor->guest, note_done, fixture);
}

/* The monitor aborted at the first byte of a stream that went on at the end of the numbers. */
static void test_offsets_that_no_stream_has_end_the_guest(void **state) {
    static const char *const lies[] = {
        "\"stdout_offset\":18446744073709551615,\"stderr_offset\":0,\"stdin_offset\":0",
        "\"stdout_offset\":0,\"stderr_offset\":18446744073709551615,\"stdin_offset\":0",
        "\"stdout_offset\":0,\"stderr_offset\":0,\"stdin_offset\":18446744073709551615"};
    (void)state;
    for (size_t i = 0; i < sizeof(lies) / sizeof(lies[0]); i += 1) {
        struct fixture fixture;
        struct liar liar = {.offsets = lies[i]};
        fixture_open(&fixture);
        struct kelpie_monitor *monitor = fixture.monitor;
        liar_open(&liar, &fixture);
        while (monitor->guest.phase != KELPIE_GUEST_CLOSED && fixture.done_count == 1) {
            step(&fixture);
        }
        assert_int_equal(monitor->guest.phase, KELPIE_GUEST_CLOSED);
        assert_int_equal(vmm_kills, 1);
        assert_non_null(strstr(monitor->lifecycle.failure.message, "R22"));
        kelpie__wire_destroy(liar.wire);
        fixture_close(&fixture);
    }
}

/* The monitor aborted at the answer to a hello whose greeting had failed by that of its setup. */
static void test_setup_refused_before_hello_fails_the_greeting_once(void **state) {
    struct fixture fixture;
    struct liar liar = {0};
    (void)state;
    fixture_open(&fixture);
    struct kelpie_guest *guest = &fixture.monitor->guest;
    liar_open(&liar, &fixture);
    assert_int_equal(wait_done(&fixture, 2), KELPIE_E_IO);
    assert_int_equal(guest->phase, KELPIE_GUEST_RESTORED);
    pass_time(&fixture, 20); /* hello's answer */
    assert_int_equal(fixture.done_count, 2);
    kelpie__guest_greet(guest, note_done, &fixture);
    assert_int_equal(wait_done(&fixture, 3), KELPIE_E_IO); /* another try is another one */
    kelpie__wire_destroy(liar.wire);
    fixture_close(&fixture);
}

/* ---- pause, and who else uses the VMM -------------------------------------------------------- */

static void vmm_says(struct fixture *fixture, enum kelpie_vmm_event_type type) {
    kelpie__vmm_emit(&fixture->vmm, &(struct kelpie_vmm_event){.type = type});
}

static void ask_pause(struct fixture *fixture, bool is_pause) {
    const struct kelpie_reply reply = {.client = 1, .request = 1}; /* who does not wait */
    if (is_pause) {
        kelpie__pause_pause(fixture->monitor, reply);
    } else {
        kelpie__pause_resume(fixture->monitor, reply);
    }
}

static void wait_phase(struct fixture *fixture, enum kelpie_pause_phase phase) {
    while (fixture->monitor->pause.phase != phase) {
        step(fixture);
    }
}

static void test_pause_makes_the_guest_quiet_and_resume_proves_it(void **state) {
    struct fixture fixture;
    (void)state;
    fixture_open(&fixture);
    struct kelpie_monitor *monitor = fixture.monitor;
    for (int i = 0; i < 3; i += 1) {
        ask_pause(&fixture, true);
        assert_int_equal(monitor->pause.phase, KELPIE_PAUSE_QUIETING);
        wait_phase(&fixture, KELPIE_PAUSE_PAUSING);
        assert_int_equal(monitor->guest.quiet, KELPIE_GUEST_IS_QUIET);
        vmm_says(&fixture, KELPIE_VMM_EVENT_PAUSED);
        assert_true(monitor->relay.is_frozen);
        assert_int_equal(monitor->lifecycle.state, KELPIE_VM_RUNNING);
        kelpie__vmm_emit_done(&fixture.vmm, 0, NULL);
        assert_int_equal(monitor->lifecycle.state, KELPIE_VM_PAUSED);
        ask_pause(&fixture, false);
        assert_int_equal(monitor->pause.phase, KELPIE_PAUSE_RESUMING);
        vmm_says(&fixture, KELPIE_VMM_EVENT_RESUMED);
        assert_false(monitor->relay.is_frozen);
        kelpie__vmm_emit_done(&fixture.vmm, 0, NULL);
        assert_int_equal(monitor->lifecycle.state, KELPIE_VM_PAUSED);
        wait_phase(&fixture, KELPIE_PAUSE_IDLE);
        assert_int_equal(monitor->lifecycle.state, KELPIE_VM_RUNNING);
        assert_int_equal(monitor->guest.quiet, KELPIE_GUEST_HEARD);
    }
    /* A VMM that refuses: everything goes on. */
    const struct kelpie_error refused = {.code = KELPIE_E_INTERNAL};
    ask_pause(&fixture, true);
    wait_phase(&fixture, KELPIE_PAUSE_PAUSING);
    kelpie__vmm_emit_done(&fixture.vmm, KELPIE_E_INTERNAL, &refused);
    assert_int_equal(monitor->lifecycle.state, KELPIE_VM_RUNNING);
    assert_int_equal(monitor->guest.quiet, KELPIE_GUEST_HEARD);
    ask(&fixture, "ping", "{\"nonce\":\"x\"}");
    assert_int_equal(answer(&fixture), 0);
    fixture_close(&fixture);
}

static void test_the_vmm_can_be_taken_for_another_operation(void **state) {
    struct fixture fixture;
    struct kelpie_error error = {0};
    (void)state;
    fixture_open(&fixture);
    struct kelpie_monitor *monitor = fixture.monitor;
    assert_int_equal(kelpie__pause_take(monitor, "snapshot", &error), 0);
    assert_int_equal(kelpie__pause_take(monitor, "snapshot", &error), KELPIE_E_BUSY);
    ask_pause(&fixture, true);
    assert_int_equal(monitor->pause.phase, KELPIE_PAUSE_TAKEN);
    vmm_says(&fixture, KELPIE_VMM_EVENT_PAUSED);
    assert_true(monitor->relay.is_frozen);
    assert_int_equal(monitor->lifecycle.state, KELPIE_VM_RUNNING);
    vmm_says(&fixture, KELPIE_VMM_EVENT_RESUMED);
    assert_false(monitor->relay.is_frozen);
    kelpie__pause_give_back(&monitor->pause);
    kelpie__pause_give_back(&monitor->pause); /* without effect */
    assert_int_equal(monitor->lifecycle.state, KELPIE_VM_RUNNING);
    /* Given back in another state than it was taken in: that is shown. */
    assert_int_equal(kelpie__pause_take(monitor, "snapshot", &error), 0);
    vmm_says(&fixture, KELPIE_VMM_EVENT_PAUSED);
    kelpie__pause_give_back(&monitor->pause);
    assert_int_equal(monitor->lifecycle.state, KELPIE_VM_PAUSED);
    vmm_says(&fixture, KELPIE_VMM_EVENT_RESUMED);
    assert_int_equal(monitor->lifecycle.state, KELPIE_VM_RUNNING);
    monitor->lifecycle.is_kill_wanted = true;
    assert_int_equal(kelpie__pause_take(monitor, "snapshot", &error), KELPIE_E_STATE);
    monitor->lifecycle.is_kill_wanted = false;
    monitor->lifecycle.state = KELPIE_VM_STOPPED;
    monitor->lifecycle.vmm = NULL;
    assert_int_equal(kelpie__pause_take(monitor, "snapshot", &error), KELPIE_E_STATE);
    assert_non_null(strstr(error.message, "stopped"));
    fixture_close(&fixture);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_quiesce_holds_everything_and_loses_nothing),
        cmocka_unit_test(test_quiesce_of_a_guest_that_hangs_fails_and_goes_on),
        cmocka_unit_test(test_quiesce_is_refused_by_a_guest_that_goes),
        cmocka_unit_test(test_restored_guest_is_greeted_with_its_commands),
        cmocka_unit_test(test_restored_guest_with_many_commands),
        cmocka_unit_test(test_another_guest_is_not_taken_for_the_saved_one),
        cmocka_unit_test(test_greeting_of_a_fresh_or_hanging_guest_fails),
        cmocka_unit_test(test_offsets_that_no_stream_has_end_the_guest),
        cmocka_unit_test(test_setup_refused_before_hello_fails_the_greeting_once),
        cmocka_unit_test(test_pause_makes_the_guest_quiet_and_resume_proves_it),
        cmocka_unit_test(test_the_vmm_can_be_taken_for_another_operation),
    };
    signal(SIGPIPE, SIG_IGN);
    alarm(50); /* a test that waits for ever is a test that fails */
    return cmocka_run_group_tests_name("the guest's connection", tests, NULL, NULL);
}
