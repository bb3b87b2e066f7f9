/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * See text_buffer.h.
 */
#include "sim/text_buffer.h"

#include <string.h>

void kelpie__sim_text_begin(struct sim_text_buffer *buffer, const struct sim_stdio *io) {
    buffer->io = io;
    buffer->count = 0;
    buffer->has_failed = false;
}

static void buffer_flush(struct sim_text_buffer *buffer) {
    KELPIE_ASSERT(buffer->count <= sizeof(buffer->bytes));
    if (buffer->count > 0 && !buffer->has_failed) {
        buffer->has_failed = kelpie__sim_write_all(buffer->io->os, buffer->io->out, buffer->bytes,
                                                   buffer->count) < 0;
    }
    buffer->count = 0;
}

void kelpie__sim_text_add(struct sim_text_buffer *buffer, const void *bytes, size_t count) {
    if (count > sizeof(buffer->bytes) - buffer->count) {
        buffer_flush(buffer);
    }
    if (count > sizeof(buffer->bytes)) {
        bool is_written = !buffer->has_failed &&
                          kelpie__sim_write_all(buffer->io->os, buffer->io->out, bytes, count) == 0;
        buffer->has_failed = !is_written;
        return;
    }
    memcpy(buffer->bytes + buffer->count, bytes, count);
    buffer->count += count;
}

void kelpie__sim_text_byte(struct sim_text_buffer *buffer, char byte) {
    if (buffer->count == sizeof(buffer->bytes)) {
        buffer_flush(buffer);
    }
    buffer->bytes[buffer->count] = byte;
    buffer->count += 1;
}

bool kelpie__sim_text_end(struct sim_text_buffer *buffer) {
    buffer_flush(buffer);
    return !buffer->has_failed;
}

void kelpie__sim_input_begin(struct sim_text_input *input, struct kelpie_os *os, int handle) {
    input->os = os;
    input->handle = handle;
    input->begin = 0;
    input->end = 0;
    input->is_ended = false;
}

static bool input_fill(struct sim_text_input *input) {
    KELPIE_ASSERT(input->begin == input->end);
    if (input->is_ended) {
        return false;
    }
    int64_t count =
        kelpie__sim_read_wait(input->os, input->handle, input->bytes, sizeof(input->bytes));
    input->begin = 0;
    input->end = count > 0 ? (size_t)count : 0;
    input->is_ended = count <= 0;
    return count > 0;
}

size_t kelpie__sim_input_next(struct sim_text_input *input, const char **out) {
    if (input->begin == input->end && !input_fill(input)) {
        return 0;
    }
    size_t count = input->end - input->begin;
    *out = input->bytes + input->begin;
    input->begin = input->end;
    return count;
}

bool kelpie__sim_input_line(struct sim_text_input *input, char *out, size_t capacity) {
    size_t count = 0;
    bool has_line = false;
    bool is_whole = false;
    KELPIE_ASSERT(capacity > 0);
    while (!is_whole && (input->begin < input->end || input_fill(input))) {
        char byte = input->bytes[input->begin];
        input->begin += 1;
        has_line = true;
        is_whole = byte == '\n';
        if (!is_whole && count + 1 < capacity) {
            out[count] = byte;
            count += 1;
        }
    }
    out[count] = '\0';
    return has_line;
}

int kelpie__sim_open_input(const struct sim_stdio *io, const char *path) {
    if (strcmp(path, "-") == 0) {
        return io->in;
    }
    int handle = kelpie__os_open(io->os, KELPIE_OS_CWD, path,
                                 KELPIE_OS_OPEN_READ | KELPIE_OS_OPEN_FOLLOW, 0);
    if (handle < 0) {
        kelpie__sim_complain(io, "%s: %s", path, kelpie__sim_errno_text(handle));
    }
    return handle;
}

void kelpie__sim_close_input(const struct sim_stdio *io, int handle) {
    if (handle != io->in) {
        kelpie__ignore(kelpie__os_close(io->os, handle)); /* it was only read */
    }
}
