/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Programs of guests through which bytes go: cat, head, wc, tr, grep, dd, tee, md5sum.
 */
#include <errno.h>
#include <string.h>

#include "core/text.h"
#include "sim/text_buffer.h"

#define BYTES_LINE_MAX 4096u

/* The bytes of a file to the output. False: it has complained, or nobody reads. */
static bool cat_file(const struct sim_stdio *io, const char *path) {
    struct sim_text_input input;
    const char *bytes = NULL;
    int handle = kelpie__sim_open_input(io, path);
    if (handle < 0) {
        return false;
    }
    kelpie__sim_input_begin(&input, io->os, handle);
    bool is_good = true;
    size_t count = kelpie__sim_input_next(&input, &bytes);
    while (count > 0 && is_good) {
        is_good = kelpie__sim_write_all(io->os, io->out, bytes, count) == 0;
        count = is_good ? kelpie__sim_input_next(&input, &bytes) : 0;
    }
    kelpie__sim_close_input(io, handle);
    return is_good;
}

static int bytes_cat(const struct sim_stdio *io, int argc, char **argv) {
    bool is_good = true;
    KELPIE_ASSERT(argc >= 1);
    if (argc == 1) {
        return cat_file(io, "-") ? 0 : 1;
    }
    for (int i = 1; i < argc; i += 1) {
        is_good = cat_file(io, argv[i]) && is_good;
    }
    return is_good ? 0 : 1;
}

static int bytes_tee(const struct sim_stdio *io, int argc, char **argv) {
    struct sim_text_input input;
    const char *bytes = NULL;
    int file = argc < 2 ? KELPIE_OS_NO_HANDLE
                        : kelpie__os_open(io->os, KELPIE_OS_CWD, argv[1],
                                          KELPIE_OS_OPEN_WRITE | KELPIE_OS_OPEN_CREATE |
                                              KELPIE_OS_OPEN_TRUNCATE | KELPIE_OS_OPEN_FOLLOW,
                                          0644);
    bool is_good = file >= 0 || argc < 2;
    kelpie__sim_input_begin(&input, io->os, io->in);
    for (size_t count = kelpie__sim_input_next(&input, &bytes); count > 0;
         count = kelpie__sim_input_next(&input, &bytes)) {
        is_good = kelpie__sim_write_all(io->os, io->out, bytes, count) == 0 && is_good;
        is_good = (file < 0 || kelpie__sim_write_all(io->os, file, bytes, count) == 0) && is_good;
    }
    if (file >= 0) {
        kelpie__ignore(kelpie__os_close(io->os, file)); /* written through */
    }
    return is_good ? 0 : 1;
}

/* ---- head, wc -------------------------------------------------------------------------------- */

struct head_options {
    bool counts_bytes;
    int64_t limit;
    const char *path;
};

static bool head_read(int argc, char **argv, struct head_options *out) {
    *out = (struct head_options){.limit = 10, .path = "-"};
    for (int i = 1; i < argc; i += 1) {
        const char *word = argv[i];
        bool is_option = word[0] == '-' && word[1] != '\0';
        if (!is_option) {
            out->path = word;
            continue;
        }
        bool has_letter = word[1] == 'c' || word[1] == 'n';
        out->counts_bytes = word[1] == 'c';
        const char *number = has_letter ? word + 2 : word + 1;
        if (number[0] == '\0' && i + 1 < argc) {
            i += 1;
            number = argv[i];
        }
        out->limit = kelpie__sim_parse_bytes(number);
        if (out->limit < 0) {
            return false;
        }
    }
    return true;
}

/* How many of these bytes belong to the first *inout_left lines. */
static size_t head_lines(const char *bytes, size_t count, int64_t *inout_left) {
    size_t used = 0;
    while (used<count && * inout_left> 0) {
        const char *newline = memchr(bytes + used, '\n', count - used);
        used = newline == NULL ? count : (size_t)(newline - bytes) + 1;
        *inout_left -= newline == NULL ? 0 : 1;
    }
    KELPIE_ASSERT(used <= count);
    return used;
}

static int bytes_head(const struct sim_stdio *io, int argc, char **argv) {
    struct head_options options;
    struct sim_text_input input;
    if (!head_read(argc, argv, &options)) {
        kelpie__sim_complain(io, "invalid number");
        return 1;
    }
    int handle = kelpie__sim_open_input(io, options.path);
    if (handle < 0) {
        return 1;
    }
    kelpie__sim_input_begin(&input, io->os, handle);
    bool is_good = true;
    while (options.limit > 0 && is_good) {
        const char *bytes = NULL;
        size_t count = kelpie__sim_input_next(&input, &bytes);
        if (count == 0) {
            break;
        }
        size_t used = options.counts_bytes ? (size_t)kelpie__min_u64(count, (uint64_t)options.limit)
                                           : head_lines(bytes, count, &options.limit);
        options.limit -= options.counts_bytes ? (int64_t)used : 0;
        is_good = kelpie__sim_write_all(io->os, io->out, bytes, used) == 0;
    }
    kelpie__sim_close_input(io, handle);
    return is_good ? 0 : 1;
}

static int bytes_wc(const struct sim_stdio *io, int argc, char **argv) {
    struct sim_text_input input;
    const char *bytes = NULL;
    unsigned long long totals[3] = {0}; /* lines, words, bytes */
    bool is_in_word = false;
    const char *path = argc > 1 && argv[argc - 1][0] != '-' ? argv[argc - 1] : "-";
    int handle = kelpie__sim_open_input(io, path);
    if (handle < 0) {
        return 1;
    }
    kelpie__sim_input_begin(&input, io->os, handle);
    for (size_t count = kelpie__sim_input_next(&input, &bytes); count > 0;
         count = kelpie__sim_input_next(&input, &bytes)) {
        totals[2] += count;
        for (size_t i = 0; i < count; i += 1) {
            bool is_space = strchr(" \t\n\r", bytes[i]) != NULL && bytes[i] != '\0';
            totals[0] += bytes[i] == '\n' ? 1 : 0;
            totals[1] += !is_space && !is_in_word ? 1 : 0;
            is_in_word = !is_space;
        }
    }
    kelpie__sim_close_input(io, handle);
    char option = argc > 1 && argv[1][0] == '-' ? argv[1][1] : '\0';
    bool is_good = false;
    if (option == 'l' || option == 'w' || option == 'c') {
        is_good = kelpie__sim_print(io, "%llu\n",
                                    totals[option == 'l'   ? 0
                                           : option == 'w' ? 1
                                                           : 2]);
    } else {
        is_good = kelpie__sim_print(io, "%7llu %7llu %7llu\n", totals[0], totals[1], totals[2]);
    }
    return is_good ? 0 : 1;
}

/* ---- tr -------------------------------------------------------------------------------------- */

/* The set that a text names: ranges and escapes; its length. */
static size_t tr_expand(const char *text, uint8_t out[256]) {
    size_t count = 0;
    const char *at = text;
    while (*at != '\0' && count < 256) {
        uint8_t first = (uint8_t)*at;
        at += 1;
        if (first == '\\' && *at != '\0') {
            char name = *at;
            at += 1;
            first = name == 'n' ? '\n' : name == 't' ? '\t' : name == '0' ? '\0' : (uint8_t)name;
        }
        uint8_t last = first;
        if (at[0] == '-' && at[1] != '\0') {
            last = (uint8_t)at[1];
            at += 2;
        }
        for (unsigned byte = first; byte <= last && count < 256; byte += 1) {
            out[count] = (uint8_t)byte;
            count += 1;
        }
    }
    return count;
}

static int bytes_tr(const struct sim_stdio *io, int argc, char **argv) {
    struct sim_text_input input;
    struct sim_text_buffer output;
    const char *bytes = NULL;
    uint8_t from[256];
    uint8_t to[256];
    bool deletes = argc == 3 && strcmp(argv[1], "-d") == 0;
    if (argc != 3) {
        kelpie__sim_complain(io, "usage: tr [-d] SET1 [SET2]");
        return 1;
    }
    size_t from_count = tr_expand(argv[deletes ? 2 : 1], from);
    size_t to_count = deletes ? 0 : tr_expand(argv[2], to);
    kelpie__sim_input_begin(&input, io->os, io->in);
    kelpie__sim_text_begin(&output, io);
    for (size_t count = kelpie__sim_input_next(&input, &bytes); count > 0 && !output.has_failed;
         count = kelpie__sim_input_next(&input, &bytes)) {
        for (size_t i = 0; i < count; i += 1) {
            const uint8_t *found = memchr(from, bytes[i], from_count);
            if (found == NULL) {
                kelpie__sim_text_byte(&output, bytes[i]);
            } else if (to_count > 0) {
                size_t at = (size_t)(found - from);
                kelpie__sim_text_byte(&output, (char)to[at < to_count ? at : to_count - 1]);
            }
        }
    }
    return kelpie__sim_text_end(&output) ? 0 : 1;
}

/* ---- grep ------------------------------------------------------------------------------------ */

/* One element of a pattern at *inout: does it match this byte? Moves behind it. */
static bool grep_element(const char **inout, char byte) {
    const char *at = *inout;
    bool is_match = false;
    if (*at == '[') {
        const char *end = strchr(at + 1, ']');
        if (end != NULL) {
            for (const char *each = at + 1; each < end; each += 1) {
                is_match = is_match || *each == byte;
            }
            *inout = end + 1;
            return is_match;
        }
    }
    if (*at == '\\' && at[1] != '\0') {
        at += 1;
        is_match = *at == byte;
    } else {
        is_match = *at == '.' || *at == byte;
    }
    *inout = at + 1;
    return is_match;
}

/* Elements one after the other; no repetition but what scripts of tests use. */
static bool grep_match(const char *pattern, const char *line) {
    bool is_anchored = pattern[0] == '^';
    const char *first = is_anchored ? pattern + 1 : pattern;
    size_t length = strlen(line);
    size_t starts = is_anchored ? 1 : length + 1;
    for (size_t start = 0; start < starts; start += 1) {
        const char *at = first;
        size_t offset = start;
        bool is_match = true;
        while (is_match && *at != '\0' && !(at[0] == '$' && at[1] == '\0')) {
            is_match = offset < length && grep_element(&at, line[offset]);
            offset += 1;
        }
        if (is_match && (*at != '$' || offset == length)) {
            return true;
        }
    }
    return false;
}

struct grep_options {
    bool counts;
    bool is_quiet;
    bool is_inverted;
    const char *pattern;
    const char *path;
};

static struct grep_options grep_read(int argc, char **argv) {
    struct grep_options options = {.path = "-"};
    for (int i = 1; i < argc; i += 1) {
        const char *word = argv[i];
        if (word[0] == '-' && word[1] != '\0' && options.pattern == NULL) {
            options.counts = options.counts || strchr(word, 'c') != NULL;
            options.is_quiet = options.is_quiet || strchr(word, 'q') != NULL;
            options.is_inverted = options.is_inverted || strchr(word, 'v') != NULL;
        } else if (options.pattern == NULL) {
            options.pattern = word;
        } else {
            options.path = word;
        }
    }
    return options;
}

static int bytes_grep(const struct sim_stdio *io, int argc, char **argv) {
    struct grep_options options = grep_read(argc, argv);
    struct sim_text_input input;
    char line[BYTES_LINE_MAX];
    unsigned long count = 0;
    if (options.pattern == NULL) {
        kelpie__sim_complain(io, "usage: grep [-cqv] PATTERN [FILE]");
        return 2;
    }
    int handle = kelpie__sim_open_input(io, options.path);
    if (handle < 0) {
        return 2;
    }
    kelpie__sim_input_begin(&input, io->os, handle);
    while (kelpie__sim_input_line(&input, line, sizeof(line))) {
        if (grep_match(options.pattern, line) == options.is_inverted) {
            continue;
        }
        count += 1;
        if (options.is_quiet) {
            break;
        }
        if (!options.counts && !kelpie__sim_print(io, "%s\n", line)) {
            break;
        }
    }
    kelpie__sim_close_input(io, handle);
    if (options.counts && !options.is_quiet) {
        kelpie__ignore(kelpie__sim_print(io, "%lu\n", count));
    }
    return count > 0 ? 0 : 1;
}

/* ---- dd, md5sum ------------------------------------------------------------------------------ */

struct dd_options {
    const char *in;
    const char *out;
    int64_t block_bytes;
    int64_t block_count; /* -1: to the end */
};

static bool dd_read(int argc, char **argv, struct dd_options *out) {
    *out = (struct dd_options){.in = "-", .block_bytes = 512, .block_count = -1};
    for (int i = 1; i < argc; i += 1) {
        if (kelpie__text_has_prefix(argv[i], "if=")) {
            out->in = argv[i] + 3;
        } else if (kelpie__text_has_prefix(argv[i], "of=")) {
            out->out = argv[i] + 3;
        } else if (kelpie__text_has_prefix(argv[i], "bs=")) {
            out->block_bytes = kelpie__sim_parse_bytes(argv[i] + 3);
        } else if (kelpie__text_has_prefix(argv[i], "count=")) {
            out->block_count = kelpie__sim_parse_bytes(argv[i] + 6);
        }
    }
    return out->block_bytes > 0 && out->block_count >= -1;
}

static int bytes_dd(const struct sim_stdio *io, int argc, char **argv) {
    struct dd_options options;
    char block[SIM_PROGRAM_BUFFER_BYTES];
    if (!dd_read(argc, argv, &options)) {
        kelpie__sim_complain(io, "invalid number");
        return 1;
    }
    int in = kelpie__sim_open_input(io, options.in);
    int out = options.out == NULL
                  ? io->out
                  : kelpie__os_open(io->os, KELPIE_OS_CWD, options.out,
                                    KELPIE_OS_OPEN_WRITE | KELPIE_OS_OPEN_CREATE |
                                        KELPIE_OS_OPEN_TRUNCATE | KELPIE_OS_OPEN_FOLLOW,
                                    0644);
    if (in < 0 || out < 0) {
        kelpie__sim_complain(io, "cannot open: %s", kelpie__sim_errno_text(in < 0 ? in : out));
        return 1;
    }
    uint64_t left = options.block_count < 0
                        ? UINT64_MAX
                        : (uint64_t)options.block_count * (uint64_t)options.block_bytes;
    unsigned long long total = 0;
    int status = 0;
    while (left > 0 && status == 0) {
        int64_t count =
            kelpie__sim_read_wait(io->os, in, block, (size_t)kelpie__min_u64(left, sizeof(block)));
        if (count <= 0) {
            break;
        }
        status = kelpie__sim_write_all(io->os, out, block, (size_t)count);
        left -= (uint64_t)count;
        total += (uint64_t)count;
    }
    if (out != io->out) {
        kelpie__ignore(kelpie__os_close(io->os, out)); /* a guest's files are memory */
    }
    kelpie__sim_close_input(io, in);
    if (status < 0) {
        kelpie__sim_complain(io, "writing: %s", kelpie__sim_errno_text(status));
        return 1;
    }
    kelpie__sim_complain(io, "%llu bytes copied", total);
    return 0;
}

/* A digest with the look of md5sum's: what matters is that equal bytes give equal lines. */
static int bytes_digest(const struct sim_stdio *io, int argc, char **argv) {
    struct sim_text_input input;
    const char *bytes = NULL;
    const char *path = argc > 1 ? argv[1] : "-";
    uint64_t state[2] = {0xcbf29ce484222325u, 0x9ae16a3b2f90404fu};
    int handle = kelpie__sim_open_input(io, path);
    if (handle < 0) {
        return 1;
    }
    kelpie__sim_input_begin(&input, io->os, handle);
    for (size_t count = kelpie__sim_input_next(&input, &bytes); count > 0;
         count = kelpie__sim_input_next(&input, &bytes)) {
        for (size_t i = 0; i < count; i += 1) {
            state[0] = (state[0] ^ (uint8_t)bytes[i]) * 0x100000001b3u;
            state[1] = (state[1] + (uint8_t)bytes[i]) * 0x9e3779b97f4a7c15u;
        }
    }
    kelpie__sim_close_input(io, handle);
    return kelpie__sim_print(io, "%016llx%016llx  %s\n", (unsigned long long)state[0],
                             (unsigned long long)state[1], path)
               ? 0
               : 1;
}

const struct sim_program_entry kelpie__sim_programs_bytes[] = {
    {"cat", bytes_cat},
    {"tee", bytes_tee},
    {"head", bytes_head},
    {"wc", bytes_wc},
    {"tr", bytes_tr},
    {"dd", bytes_dd},
    {"md5sum", bytes_digest},
    {"grep", bytes_grep},
    {"sha256sum", bytes_digest},
    {NULL, NULL},
};
