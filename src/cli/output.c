/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * What is written. Standard output is collected; standard error goes out line by line, after it.
 */
#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"
#include "core/text.h"
#include "os/os_call.h"

#define OUTPUT_LINE_BYTES (sizeof(struct kelpie_error) + 128u)
#define OUTPUT_WAIT_NS KELPIE_NS_PER_S

static_assert(OUTPUT_LINE_BYTES > sizeof(((struct kelpie_error *)0)->message) + 64u,
              "an error of the library fits a line with its place");

/* For a handle that somebody else made non-blocking. Its bits tell nothing that is needed: the
 * write is tried again. */
static void wait_for_room(struct kelpie_cli *cli, int handle) {
    struct kelpie_os_event events[1];
    KELPIE_ASSERT(handle >= 0);
    if (kelpie__os_watch(cli->os, handle, KELPIE_OS_WRITABLE, UINT64_MAX) < 0) {
        return;
    }
    int64_t deadline_ns = kelpie__os_now(cli->os, KELPIE_OS_CLOCK_MONOTONIC) + OUTPUT_WAIT_NS;
    kelpie__ignore(kelpie__os_wait(cli->os, events, 1, deadline_ns));
    kelpie__ignore(kelpie__os_watch(cli->os, handle, 0, 0));
}

int kelpie__cli_write(struct kelpie_cli *cli, int handle, const void *bytes, size_t count) {
    const char *next = bytes;
    KELPIE_ASSERT(handle == KELPIE_CLI_STDOUT || handle == KELPIE_CLI_STDERR);
    /* bound: the bytes; a reader that does not read is waited for, as by any program */
    while (count > 0) {
        int64_t written = kelpie__os_write(cli->os, handle, next, count);
        if (written == -EAGAIN) {
            wait_for_room(cli, handle);
        } else if (written <= 0) {
            return written < 0 ? (int)-written : EIO;
        } else {
            next += written;
            count -= (size_t)written;
        }
    }
    return 0;
}

void kelpie__cli_flush(struct kelpie_cli *cli) {
    KELPIE_ASSERT(cli->output_count <= sizeof(cli->output));
    if (cli->output_count > 0 && cli->output_error == 0) {
        cli->output_error =
            kelpie__cli_write(cli, KELPIE_CLI_STDOUT, cli->output, cli->output_count);
    }
    cli->output_count = 0;
}

bool kelpie__cli_is_told(struct kelpie_cli *cli) {
    kelpie__cli_flush(cli);
    KELPIE_ASSERT(cli->output_count == 0);
    return cli->output_error == 0;
}

int kelpie__cli_finish_output(struct kelpie_cli *cli, int code) {
    struct kelpie_error error = {0};
    kelpie__cli_check(cli);
    KELPIE_ASSERT(code >= 0 && code <= 255);
    kelpie__cli_flush(cli);
    KELPIE_ASSERT(cli->output_count == 0);
    if (cli->output_error == 0) {
        return code;
    }
    if (cli->output_error == EPIPE) { /* a reader that has enough, such as `head`, is no failure */
        return KELPIE_CLI_SIGNALLED + SIGPIPE;
    }
    kelpie__ignore(
        kelpie__fail(&error, KELPIE_E_IO, cli->output_error, "write to standard output"));
    return kelpie__cli_fail_error(cli, &error);
}

void kelpie__cli_put(struct kelpie_cli *cli, const char *bytes, size_t count) {
    while (count > 0) { /* bound: the bytes */
        if (cli->output_count == sizeof(cli->output)) {
            kelpie__cli_flush(cli);
        }
        size_t room = sizeof(cli->output) - cli->output_count;
        size_t part = count < room ? count : room;
        KELPIE_ASSERT(part > 0);
        memcpy(cli->output + cli->output_count, bytes, part);
        cli->output_count += part;
        bytes += part;
        count -= part;
    }
    KELPIE_ASSERT(cli->output_count <= sizeof(cli->output));
}

void kelpie__cli_print(struct kelpie_cli *cli, const char *format, ...) {
    char text[KELPIE_CLI_OUTPUT_BYTES];
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(text, sizeof(text), format, arguments);
    va_end(arguments);
    KELPIE_ASSERT(length >= 0);
    kelpie__text_clean(text); /* a label may have come with somebody else's snapshot */
    kelpie__cli_put(cli, text, strlen(text));
}

void kelpie__cli_array_begin(struct kelpie_cli *cli) {
    KELPIE_ASSERT(cli->array_count == 0);
    kelpie__cli_put(cli, "[", 1);
}

void kelpie__cli_array_add(struct kelpie_cli *cli, const char *object, size_t length) {
    KELPIE_ASSERT(length >= 2);
    KELPIE_ASSERT(object[0] == '{' && object[length - 1] == '}');
    bool is_first = cli->array_count == 0;
    kelpie__cli_put(cli, is_first ? "\n" : ",\n", is_first ? 1 : 2);
    kelpie__cli_put(cli, object, length);
    cli->array_count += 1;
}

void kelpie__cli_array_end(struct kelpie_cli *cli) {
    kelpie__cli_print(cli, cli->array_count == 0 ? "]\n" : "\n]\n");
    cli->array_count = 0;
}

void kelpie__cli_print_field(struct kelpie_cli *cli, const char *name, const char *text) {
    KELPIE_ASSERT(strlen(name) <= 14);
    if (text[0] != '\0') {
        kelpie__cli_print(cli, "%-14s %s\n", name, text);
    }
}

/* "kelpie: place: text", with one newline at the end. */
KELPIE_PRINTF(3, 0)
static void write_line(struct kelpie_cli *cli, const char *place, const char *format,
                       va_list arguments) {
    char line[OUTPUT_LINE_BYTES];
    bool has_place = place[0] != '\0';
    kelpie__text_format(line, sizeof(line), "kelpie: %s%s", place, has_place ? ": " : "");
    size_t used = strlen(line);
    KELPIE_ASSERT(used < sizeof(line) / 2);
    kelpie__ignore(vsnprintf(line + used, sizeof(line) - used - 1, format, arguments));
    kelpie__text_trim(line);
    kelpie__text_clean(line);
    used = strlen(line);
    KELPIE_ASSERT(used + 1 < sizeof(line));
    line[used] = '\n';
    kelpie__cli_flush(cli);
    kelpie__ignore(
        kelpie__cli_write(cli, KELPIE_CLI_STDERR, line, used + 1)); /* nobody else to tell */
}

int kelpie__cli_fail(struct kelpie_cli *cli, const char *format, ...) {
    KELPIE_ASSERT(format[0] != '\0');
    va_list arguments;
    va_start(arguments, format);
    write_line(cli, cli->verb == NULL ? "" : cli->verb->name, format, arguments);
    va_end(arguments);
    return KELPIE_CLI_FAILED;
}

void kelpie__cli_note(struct kelpie_cli *cli, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    write_line(cli, cli->verb == NULL ? "" : cli->verb->name, format, arguments);
    va_end(arguments);
}

/* For a text that says its place itself. */
KELPIE_PRINTF(2, 3)
static void write_placed(struct kelpie_cli *cli, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    write_line(cli, "", format, arguments);
    va_end(arguments);
}

/* A configuration's field, or an operation of the verb's own name. */
static bool error_is_placed(const struct kelpie_cli *cli, const struct kelpie_error *error) {
    size_t length = cli->verb == NULL ? 0 : strlen(cli->verb->name);
    bool has_verb = length > 0 && strncmp(error->message, cli->verb->name, length) == 0 &&
                    error->message[length] == ':';
    KELPIE_ASSERT(!has_verb || length < sizeof(error->message));
    return has_verb || error->field[0] != '\0';
}

int kelpie__cli_fail_error(struct kelpie_cli *cli, const struct kelpie_error *error) {
    KELPIE_ASSERT(error->code < 0);
    if (error_is_placed(cli, error)) {
        write_placed(cli, "%s", error->message);
    } else {
        kelpie__ignore(kelpie__cli_fail(cli, "%s", error->message));
    }
    switch (error->code) {
    case KELPIE_E_EXEC_TIMEOUT:
        return KELPIE_CLI_TIMED_OUT;
    case KELPIE_E_EXEC_DENIED:
        return KELPIE_CLI_DENIED;
    case KELPIE_E_EXEC_NOT_FOUND:
        return KELPIE_CLI_NOT_FOUND;
    default:
        return KELPIE_CLI_FAILED;
    }
}
