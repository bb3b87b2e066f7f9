/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Buffered output and input of guests' programs.
 */
#ifndef KELPIE_SIM_TEXT_BUFFER_H
#define KELPIE_SIM_TEXT_BUFFER_H

#include "sim/programs.h"

struct sim_text_buffer {
    const struct sim_stdio *io;
    size_t count;
    bool has_failed;
    char bytes[SIM_PROGRAM_BUFFER_BYTES];
};

void kelpie__sim_text_begin(struct sim_text_buffer *buffer, const struct sim_stdio *io);
void kelpie__sim_text_add(struct sim_text_buffer *buffer, const void *bytes, size_t count);
void kelpie__sim_text_byte(struct sim_text_buffer *buffer, char byte);
/* Writes what is left. False: something could not be written. */
bool kelpie__sim_text_end(struct sim_text_buffer *buffer);

struct sim_text_input {
    struct kelpie_os *os;
    int handle;
    size_t begin;
    size_t end;
    bool is_ended;
    char bytes[SIM_PROGRAM_BUFFER_BYTES];
};

void kelpie__sim_input_begin(struct sim_text_input *input, struct kelpie_os *os, int handle);
/* What is there, at least one byte; 0 at the end. Borrowed until the next call. */
size_t kelpie__sim_input_next(struct sim_text_input *input, const char **out);
/* A line without its newline, cut to capacity. False at the end. */
bool kelpie__sim_input_line(struct sim_text_input *input, char *out, size_t capacity);

/* Opens what a program was given to read: "-" is its input. Negative: it has complained. */
int kelpie__sim_open_input(const struct sim_stdio *io, const char *path);
void kelpie__sim_close_input(const struct sim_stdio *io, int handle);

#endif
