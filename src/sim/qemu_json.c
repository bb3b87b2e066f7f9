/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * How QEMU cuts what it reads into JSON texts: see qemu.h. Only braces and brackets count, so that
 * an unclosed one swallows all that follows; what its lexer does not know ends a text at once.
 */
#include <string.h>

#include "sim/qemu.h"

void kelpie__sim_qemu_stream_reset(struct sim_qemu_streamer *streamer) {
    KELPIE_ASSERT(streamer->count < sizeof(streamer->text));
    streamer->braces = 0;
    streamer->brackets = 0;
    streamer->quote = '\0';
    streamer->is_escaped = false;
    streamer->is_word = false;
    streamer->is_long = false;
    streamer->last = '\0';
    streamer->count = 0;
    streamer->text[0] = '\0';
}

static void stream_keep(struct sim_qemu_streamer *streamer, char byte) {
    if (streamer->count + 1 < sizeof(streamer->text)) {
        streamer->text[streamer->count] = byte;
        streamer->count += 1;
        streamer->text[streamer->count] = '\0';
    } else {
        streamer->is_long = true;
    }
    streamer->last = byte;
    KELPIE_ASSERT(streamer->count < sizeof(streamer->text));
}

static bool stream_is_space(char byte) {
    return byte == ' ' || byte == '\t' || byte == '\r' || byte == '\n';
}

static bool stream_is_structure(char byte) {
    return byte == '{' || byte == '}' || byte == '[' || byte == ']' || byte == ',' || byte == ':';
}

static bool stream_is_word(char byte) {
    return (byte >= 'a' && byte <= 'z') || (byte >= '0' && byte <= '9') || byte == '-' ||
           byte == '+' || byte == '.' || byte == 'E';
}

static enum sim_qemu_streamed stream_stray(struct sim_qemu_streamer *streamer, char byte) {
    streamer->count = 0;
    stream_keep(streamer, byte);
    streamer->is_recovering = !(byte >= '\0' && byte < ' ');
    return SIM_QEMU_STREAMED_STRAY;
}

static enum sim_qemu_streamed stream_string(struct sim_qemu_streamer *streamer, char byte) {
    KELPIE_ASSERT(streamer->quote != '\0');
    if (byte >= '\0' && byte < ' ') {
        return stream_stray(streamer, byte);
    }
    stream_keep(streamer, byte);
    if (streamer->is_escaped) {
        streamer->is_escaped = false;
    } else if (byte == '\\') {
        streamer->is_escaped = true;
    } else if (byte == streamer->quote) {
        streamer->quote = '\0';
        if (streamer->braces == 0 && streamer->brackets == 0) {
            return SIM_QEMU_STREAMED_TEXT;
        }
    }
    return SIM_QEMU_STREAMED_NOTHING;
}

static enum sim_qemu_streamed stream_structure(struct sim_qemu_streamer *streamer, char byte) {
    stream_keep(streamer, byte);
    streamer->braces += byte == '{' ? 1 : byte == '}' ? -1 : 0;
    streamer->brackets += byte == '[' ? 1 : byte == ']' ? -1 : 0;
    bool is_open = (streamer->braces > 0 || streamer->brackets > 0) && streamer->braces >= 0 &&
                   streamer->brackets >= 0;
    return is_open ? SIM_QEMU_STREAMED_NOTHING : SIM_QEMU_STREAMED_TEXT;
}

enum sim_qemu_streamed kelpie__sim_qemu_stream(struct sim_qemu_streamer *streamer, char byte) {
    bool is_inside = streamer->braces > 0 || streamer->brackets > 0;
    if (streamer->quote != '\0') {
        return stream_string(streamer, byte);
    }
    if (streamer->is_recovering) {
        if (!(byte >= '\0' && byte < ' ') && !stream_is_structure(byte)) {
            return SIM_QEMU_STREAMED_NOTHING;
        }
        streamer->is_recovering = false;
    }
    if (streamer->is_word && !stream_is_word(byte)) {
        streamer->is_word = false;
        return SIM_QEMU_STREAMED_WORD;
    }
    if (stream_is_structure(byte)) {
        return stream_structure(streamer, byte);
    }
    if (stream_is_space(byte)) {
        if (is_inside) {
            stream_keep(streamer, byte);
        }
        return SIM_QEMU_STREAMED_NOTHING;
    }
    if (byte == '"' || byte == '\'') {
        stream_keep(streamer, byte);
        streamer->quote = byte;
        return SIM_QEMU_STREAMED_NOTHING;
    }
    bool is_minus_alone = streamer->last == '-' && !(byte >= '0' && byte <= '9');
    if (!stream_is_word(byte) || is_minus_alone) {
        return stream_stray(streamer, byte);
    }
    stream_keep(streamer, byte);
    streamer->is_word = !is_inside;
    return SIM_QEMU_STREAMED_NOTHING;
}

/* Within a string most bytes are none of those that mean something. */
size_t kelpie__sim_qemu_stream_plain(struct sim_qemu_streamer *streamer, const char *bytes,
                                     size_t count) {
    size_t room = sizeof(streamer->text) - 1 - streamer->count;
    size_t length = 0;
    if (streamer->quote == '\0' || streamer->is_escaped) {
        return 0;
    }
    count = count < room ? count : room;
    while (length < count && bytes[length] >= ' ' && bytes[length] != '\\' &&
           bytes[length] != streamer->quote) {
        streamer->text[streamer->count + length] = bytes[length];
        length += 1;
    }
    if (length > 0) {
        streamer->count += length;
        streamer->text[streamer->count] = '\0';
        streamer->last = bytes[length - 1];
    }
    KELPIE_ASSERT(streamer->count < sizeof(streamer->text));
    return length;
}
