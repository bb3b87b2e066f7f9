/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Goal: streamed commands: stdin with back-pressure and end of file, long output with bounded
 * memory, pauses, signals, terminals, detach and attach without a gap or a repeat. Method: bytes
 * whose value follows from their place.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "contract.h"

#define STREAM_CHUNK 65536

struct stream {
    struct kelpie_exec *exec;
    uint64_t out_bytes;
    uint64_t out_sum;
    char head[512]; /* of stdout */
    size_t head_count;
    uint64_t in_bytes; /* written so far */
    uint64_t in_total;
    bool has_ended;
    bool has_out_end;
    struct kelpie_exec_status status;
    struct kelpie_error error;
};

static uint8_t byte_at(uint64_t offset) {
    return (uint8_t)(offset * 131 + (offset >> 8) * 17);
}

static void stream_feed(struct stream *stream) {
    uint8_t chunk[STREAM_CHUNK];
    while (stream->in_bytes < stream->in_total) {
        size_t count = sizeof(chunk);
        size_t written = 0;
        if (count > stream->in_total - stream->in_bytes) {
            count = (size_t)(stream->in_total - stream->in_bytes);
        }
        for (size_t i = 0; i < count; i += 1) {
            chunk[i] = byte_at(stream->in_bytes + i);
        }
        CONTRACT_OK(kelpie_exec_write(stream->exec, chunk, count, &written, &broken));
        stream->in_bytes += written;
        if (written < count) {
            return; /* `writable` comes */
        }
    }
    CONTRACT_OK(kelpie_exec_close_stdin(stream->exec, &broken));
}

static void on_output(void *context, struct kelpie_exec *exec, enum kelpie_stream kind,
                      const void *bytes, size_t count) {
    struct stream *stream = context;
    (void)exec;
    if (kind != KELPIE_STDOUT) {
        return;
    }
    HARNESS_CHECK(!stream->has_out_end, "bytes after the end");
    stream->has_out_end = count == 0;
    size_t room = sizeof(stream->head) - 1 - stream->head_count;
    size_t kept = count < room ? count : room;
    memcpy(stream->head + stream->head_count, bytes == NULL ? "" : bytes, kept);
    stream->head_count += kept;
    stream->head[stream->head_count] = '\0';
    stream->out_bytes += count;
}

/* Output that has to be what was written to stdin. */
static void on_echo(void *context, struct kelpie_exec *exec, enum kelpie_stream kind,
                    const void *bytes, size_t count) {
    struct stream *stream = context;
    for (size_t i = 0; kind == KELPIE_STDOUT && i < count; i += 1) {
        HARNESS_CHECK(((const uint8_t *)bytes)[i] == byte_at(stream->out_bytes + i),
                      "byte %llu is wrong", (unsigned long long)(stream->out_bytes + i));
    }
    on_output(context, exec, kind, bytes, count);
}

static void on_writable(void *context, struct kelpie_exec *exec) {
    struct stream *stream = context;
    HARNESS_CHECK(stream->exec == exec, "its own exec");
    stream_feed(stream);
}

static void on_ended(void *context, struct kelpie_exec *exec,
                     const struct kelpie_exec_status *status, const struct kelpie_error *error) {
    struct stream *stream = context;
    (void)exec;
    HARNESS_CHECK(!stream->has_ended, "one end");
    stream->has_ended = true;
    if (status != NULL) {
        HARNESS_CHECK(stream->has_out_end, "the end of stdout comes first");
        stream->status = *status;
    } else {
        stream->error = *error;
    }
}

static const struct kelpie_exec_callbacks callbacks = {.struct_size = sizeof(callbacks),
                                                       .output = on_output,
                                                       .writable = on_writable,
                                                       .ended = on_ended};
static const struct kelpie_exec_callbacks echo_callbacks = {.struct_size = sizeof(callbacks),
                                                            .output = on_echo,
                                                            .writable = on_writable,
                                                            .ended = on_ended};

static void stream_start(struct stream *stream, struct kelpie_vm *vm, const char *script,
                         const struct kelpie_exec_callbacks *chosen, bool has_terminal,
                         bool keeps) {
    const char *const argv[] = {"sh", "-c", script, NULL};
    const struct kelpie_exec_options options = {.struct_size = sizeof(options),
                                                .argv = argv,
                                                .has_stdin = true,
                                                .has_terminal = has_terminal,
                                                .rows = 33,
                                                .columns = 101,
                                                .keep_on_disconnect = keeps,
                                                .timeout_ms = 300000};
    CONTRACT_OK(kelpie_vm_exec_start(vm, &options, chosen, stream, &stream->exec, &broken));
    HARNESS_CHECK(stream->out_bytes == 0 && !stream->has_ended, "nothing before it returned");
}

static void stream_wait(struct contract *contract, struct stream *stream, uint64_t timeout_ms) {
    uint64_t deadline_ms = harness_now_ms() + timeout_ms;
    while (!stream->has_ended) {
        HARNESS_CHECK(harness_now_ms() < deadline_ms, "no end after %llu bytes",
                      (unsigned long long)stream->out_bytes);
        CONTRACT_OK(kelpie_wait(contract->kelpie, 1000, &broken));
    }
}

static long peak_kib(void) {
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return usage.ru_maxrss;
}

/* Through stdin, cat and stdout: every byte, with the memory of this process bounded. */
static void test_stdin_to_stdout(const struct harness *harness) {
    struct contract contract = contract_open(harness);
    struct kelpie_vm *vm = contract_start(&contract);
    struct stream stream = {.in_total = 8u * 1024 * 1024 + 12345};
    long before_kib = peak_kib();
    stream_start(&stream, vm, "cat", &echo_callbacks, false, false);
    stream_feed(&stream);
    stream_wait(&contract, &stream, 120000);
    HARNESS_CHECK(stream.out_bytes == stream.in_total, "%llu of %llu bytes came back",
                  (unsigned long long)stream.out_bytes, (unsigned long long)stream.in_total);
    HARNESS_CHECK(stream.status.exit_code == 0 && stream.error.code == 0, "cat ended well");
    HARNESS_CHECK(peak_kib() - before_kib < 6000, "memory grew by %ld KiB",
                  peak_kib() - before_kib);
    kelpie_exec_close(stream.exec);
    contract_end(vm);
    contract_close(&contract);
}

/* Output that nobody reads makes the command wait; then all of it comes. */
static void test_paused_output(const struct harness *harness) {
    struct contract contract = contract_open(harness);
    struct kelpie_vm *vm = contract_start(&contract);
    struct stream stream = {0};
    stream_start(&stream, vm, "dd if=/dev/zero bs=64k count=128 2>/dev/null; echo done >/tmp/done",
                 &callbacks, false, false);
    kelpie_exec_pause_output(stream.exec);
    uint64_t until_ms = harness_now_ms() + 1500;
    while (harness_now_ms() < until_ms) {
        CONTRACT_OK(kelpie_wait(contract.kelpie, 100, &broken));
    }
    HARNESS_CHECK(stream.out_bytes == 0, "paused means paused");
    contract_sh_says(vm, "cat /tmp/done 2>/dev/null; echo waits", "waits\n");
    kelpie_exec_resume_output(stream.exec);
    stream_wait(&contract, &stream, 60000);
    HARNESS_CHECK(stream.out_bytes == 128u * 65536, "%llu bytes",
                  (unsigned long long)stream.out_bytes);
    kelpie_exec_close(stream.exec);
    contract_end(vm);
    contract_close(&contract);
}

static void test_signal_and_kill(const struct harness *harness) {
    struct contract contract = contract_open(harness);
    struct kelpie_vm *vm = contract_start(&contract);
    struct stream stream = {0};
    stream_start(&stream, vm,
                 "trap 'echo got; exit 5' TERM; echo ready; while :; do sleep 0.05; done",
                 &callbacks, false, false);
    while (stream.out_bytes < 6) {
        CONTRACT_OK(kelpie_wait(contract.kelpie, 10000, &broken));
    }
    CONTRACT_OK(kelpie_exec_signal(stream.exec, 15, &broken));
    stream_wait(&contract, &stream, 20000);
    HARNESS_CHECK(stream.status.exit_code == 5, "the trap ran: %d", stream.status.exit_code);
    HARNESS_CHECK(strcmp(stream.head, "ready\ngot\n") == 0, "%s", stream.head);
    kelpie_exec_close(stream.exec);
    struct stream endless = {0};
    stream_start(&endless, vm, "setsid sleep 4321 & sleep 4322", &callbacks, false, false);
    CONTRACT_OK(kelpie_exec_kill(endless.exec, &broken));
    stream_wait(&contract, &endless, 20000);
    HARNESS_CHECK(endless.status.reason == KELPIE_EXEC_CANCELLED, "reason %d",
                  (int)endless.status.reason);
    kelpie_exec_close(endless.exec);
    contract_sh_says(vm, "ps | grep -c '[s]leep 432' || true", "0\n");
    contract_end(vm);
    contract_close(&contract);
}

static void test_terminal(const struct harness *harness) {
    struct contract contract = contract_open(harness);
    struct kelpie_vm *vm = contract_start(&contract);
    struct stream stream = {0};
    stream_start(&stream, vm,
                 "stty size; read line; stty size; echo \"<$line>\"; test -t 2 && echo tty",
                 &callbacks, true, false);
    while (stream.out_bytes < 8) {
        CONTRACT_OK(kelpie_wait(contract.kelpie, 10000, &broken));
    }
    HARNESS_CHECK(strncmp(stream.head, "33 101", 6) == 0, "%s", stream.head);
    CONTRACT_OK(kelpie_exec_resize(stream.exec, 44, 55, &broken));
    size_t written = 0;
    CONTRACT_OK(kelpie_exec_write(stream.exec, "hello\n", 6, &written, &broken));
    stream_wait(&contract, &stream, 20000);
    HARNESS_CHECK(strstr(stream.head, "44 55") != NULL, "%s", stream.head);
    HARNESS_CHECK(strstr(stream.head, "<hello>") != NULL, "%s", stream.head);
    HARNESS_CHECK(strstr(stream.head, "tty") != NULL, "%s", stream.head);
    kelpie_exec_close(stream.exec);
    contract_end(vm);
    contract_close(&contract);
}

/* A kept command outlives its client; whoever attaches goes on at the offset where reading stopped.
 */
static void test_detach_and_attach(const struct harness *harness) {
    struct contract contract = contract_open(harness);
    struct contract other = contract_open(harness);
    struct kelpie_config *config = contract_config(&contract);
    kelpie_config_set_lifetime(config, KELPIE_LIFETIME_DETACHED);
    struct kelpie_vm *vm = contract_create(&contract, "kept", config);
    CONTRACT_OK(kelpie_vm_start(vm, 0, &broken));
    struct stream first = {0};
    stream_start(
        &first, vm,
        "for i in 1 2 3 4 5 6 7 8 9; do echo line $i; sleep 0.1; done; read x; echo got $x; exit 9",
        &callbacks, false, true);
    while (first.out_bytes < 14) {
        CONTRACT_OK(kelpie_wait(contract.kelpie, 10000, &broken));
    }
    char id[64];
    snprintf(id, sizeof(id), "%s", kelpie_exec_id(first.exec));
    struct kelpie_vm *again = NULL;
    CONTRACT_OK(kelpie_vm_open(other.kelpie, "kept", &again, &broken));
    kelpie_close(contract.kelpie); /* the connection goes without a word about the command */
    struct kelpie_exec_info *list = NULL;
    size_t count = 0;
    CONTRACT_OK(kelpie_vm_exec_list(again, &list, &count, &broken));
    HARNESS_CHECK(count == 1 && strcmp(list[0].id, id) == 0 && list[0].is_running, "it is listed");
    kelpie_exec_list_free(other.kelpie, list, count);
    struct stream second = {0};
    CONTRACT_OK(kelpie_vm_exec_attach(again, id, first.out_bytes, 0, &callbacks, &second,
                                      &second.exec, &broken));
    size_t written = 0;
    CONTRACT_OK(kelpie_exec_write(second.exec, "word\n", 5, &written, &broken));
    stream_wait(&other, &second, 30000);
    char whole[1200];
    snprintf(whole, sizeof(whole), "%s%s", first.head, second.head);
    const char *wanted =
        "line 1\nline 2\nline 3\nline 4\nline 5\nline 6\nline 7\nline 8\nline 9\ngot word\n";
    HARNESS_CHECK(strcmp(whole, wanted) == 0, "first \"%s\" then \"%s\"", first.head, second.head);
    HARNESS_CHECK(second.status.exit_code == 9, "%d", second.status.exit_code);
    kelpie_exec_close(second.exec);
    contract_end(again);
    contract_close(&other);
}

/* A command that is not kept ends with its client. */
static void test_command_ends_with_client(const struct harness *harness) {
    struct contract contract = contract_open(harness);
    struct contract other = contract_open(harness);
    struct kelpie_vm *vm = contract_create(&contract, "client", contract_config(&contract));
    CONTRACT_OK(kelpie_vm_start(vm, 0, &broken));
    struct kelpie_vm *same = NULL;
    CONTRACT_OK(kelpie_vm_open(other.kelpie, "client", &same, &broken));
    struct stream stream = {0};
    stream_start(&stream, same, "sleep 5432", &callbacks, false, false);
    kelpie_close(other.kelpie);
    contract_sh_says(
        vm,
        "i=0; while ps | grep -q '[s]leep 5432' && [ $i -lt 50 ]; do i=$((i+1)); sleep 0.1; done; "
        "ps | grep -c '[s]leep 5432' || true",
        "0\n");
    contract_end(vm);
    contract_close(&contract);
}

const struct harness_test contract_tests_streams[] = {
    {"stdin_to_stdout", test_stdin_to_stdout, 150},
    {"paused_output", test_paused_output, 90},
    {"signal_and_kill", test_signal_and_kill, 60},
    {"terminal", test_terminal, 60},
    {"detach_and_attach", test_detach_and_attach, 90},
    {"command_ends_with_client", test_command_ends_with_client, 60},
    {0},
};
