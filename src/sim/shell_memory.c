/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * What a guest's shell remembers: for one command in chunks that are used again, for longer in
 * variables.
 */
#include <stdio.h>
#include <string.h>

#include "sim/shell.h"

#define MEMORY_CHUNK_BYTES 4096u

/* Without memory a shell can only end, as the kernel's own way with it is. */
static void *memory_or_end(struct shell *shell, void *block) {
    if (block == NULL) {
        static const char text[] = "sh: out of memory\n";
        kelpie__ignore(kelpie__sim_write_all(shell->os, 2, text, sizeof(text) - 1));
        kelpie__sim_process_exit(shell->process, 2);
    }
    return block;
}

void *kelpie__sim_shell_alloc(struct shell *shell, size_t bytes) {
    size_t rounded = (bytes + 15) / 16 * 16;
    struct shell_chunk **place = &shell->chunks;
    while (*place != NULL && (*place)->capacity - (*place)->used < rounded) {
        place = &(*place)->next;
    }
    if (*place == NULL) {
        size_t capacity = rounded > MEMORY_CHUNK_BYTES ? rounded : MEMORY_CHUNK_BYTES;
        struct shell_chunk *chunk = memory_or_end(
            shell, kelpie__alloc(shell->os, sizeof(struct shell_chunk) + 8 + capacity));
        chunk->capacity = capacity;
        *place = chunk;
    }
    struct shell_chunk *chunk = *place;
    char *block = (char *)(chunk + 1) + 8 + chunk->used;
    chunk->used += rounded;
    KELPIE_ASSERT(chunk->used <= chunk->capacity);
    return block;
}

char *kelpie__sim_shell_alloc_text(struct shell *shell, const char *text) {
    size_t length = strlen(text);
    char *copy = kelpie__sim_shell_alloc(shell, length + 1);
    memcpy(copy, text, length + 1);
    return copy;
}

/* Large chunks go back, small ones are kept. */
void kelpie__sim_shell_forget(struct shell *shell) {
    struct shell_chunk **place = &shell->chunks;
    while (*place != NULL) {
        struct shell_chunk *chunk = *place;
        if (chunk->capacity > MEMORY_CHUNK_BYTES) {
            *place = chunk->next;
            kelpie__free(shell->os, chunk, sizeof(*chunk) + 8 + chunk->capacity);
        } else {
            chunk->used = 0;
            place = &chunk->next;
        }
    }
}

void kelpie__sim_shell_string_add(struct shell *shell, struct shell_string *string,
                                  const void *bytes, size_t count) {
    if (string->count + count + 1 > string->capacity) {
        size_t capacity = (string->count + count + 1) * 2 + 32;
        char *bigger = kelpie__sim_shell_alloc(shell, capacity);
        if (string->count > 0) {
            memcpy(bigger, string->bytes, string->count);
        }
        string->bytes = bigger;
        string->capacity = capacity;
    }
    if (count > 0) {
        memcpy(string->bytes + string->count, bytes, count);
        string->count += count;
    }
    string->bytes[string->count] = '\0';
}

void kelpie__sim_shell_field_add(struct shell *shell, struct shell_fields *fields, char *item) {
    if (fields->count + 2 > fields->capacity) {
        uint32_t capacity = fields->capacity * 2 + 8;
        char **bigger = kelpie__sim_shell_alloc(shell, capacity * sizeof(*bigger));
        if (fields->count > 0) {
            memcpy(bigger, fields->items, fields->count * sizeof(*bigger));
        }
        fields->items = bigger;
        fields->capacity = capacity;
    }
    fields->items[fields->count] = item;
    fields->count += 1;
    fields->items[fields->count] = NULL;
}

char *kelpie__sim_shell_copy(struct shell *shell, const char *bytes, size_t count) {
    char *copy = memory_or_end(shell, kelpie__alloc(shell->os, count + 1));
    if (count > 0) {
        memcpy(copy, bytes, count);
    }
    copy[count] = '\0';
    return copy;
}

void kelpie__sim_shell_drop(struct shell *shell, char *copy) {
    if (copy != NULL) {
        kelpie__free(shell->os, copy, strlen(copy) + 1);
    }
}

/* ---- variables ------------------------------------------------------------------------------- */

bool kelpie__sim_shell_is_name(const char *text, size_t length) {
    for (size_t i = 0; i < length; i += 1) {
        char byte = text[i];
        bool is_letter =
            (byte >= 'a' && byte <= 'z') || (byte >= 'A' && byte <= 'Z') || byte == '_';
        bool is_digit = byte >= '0' && byte <= '9';
        if (!is_letter && (!is_digit || i == 0)) {
            return false;
        }
    }
    return length > 0;
}

static struct shell_variable *variable_find(const struct shell *shell, const char *name,
                                            size_t length) {
    for (uint32_t i = 0; i < shell->variable_count; i += 1) {
        struct shell_variable *variable = &shell->variables[i];
        if (strncmp(variable->name, name, length) == 0 && variable->name[length] == '\0') {
            return variable;
        }
    }
    return NULL;
}

static struct shell_variable *variable_make(struct shell *shell, const char *name, size_t length) {
    struct shell_variable *found = variable_find(shell, name, length);
    if (found != NULL) {
        return found;
    }
    if (shell->variable_count == shell->variable_capacity) {
        uint32_t capacity = shell->variable_capacity * 2 + 16;
        struct shell_variable *bigger =
            memory_or_end(shell, kelpie__alloc(shell->os, capacity * sizeof(*bigger)));
        if (shell->variable_count > 0) {
            memcpy(bigger, shell->variables, shell->variable_count * sizeof(*bigger));
        }
        kelpie__free(shell->os, shell->variables, shell->variable_capacity * sizeof(*bigger));
        shell->variables = bigger;
        shell->variable_capacity = capacity;
    }
    found = &shell->variables[shell->variable_count];
    shell->variable_count += 1;
    *found = (struct shell_variable){.name = kelpie__sim_shell_copy(shell, name, length)};
    return found;
}

const char *kelpie__sim_shell_get(const struct shell *shell, const char *name, size_t length) {
    const struct shell_variable *variable = variable_find(shell, name, length);
    return variable == NULL ? NULL : variable->value;
}

void kelpie__sim_shell_set(struct shell *shell, const char *name, size_t length,
                           const char *value) {
    struct shell_variable *variable = variable_make(shell, name, length);
    char *copy = kelpie__sim_shell_copy(shell, value, strlen(value));
    kelpie__sim_shell_drop(shell, variable->value);
    variable->value = copy;
}

void kelpie__sim_shell_unset(struct shell *shell, const char *name) {
    struct shell_variable *variable = variable_find(shell, name, strlen(name));
    if (variable != NULL) {
        kelpie__sim_shell_drop(shell, variable->value);
        variable->value = NULL;
        variable->is_exported = false;
    }
}

void kelpie__sim_shell_export(struct shell *shell, const char *name) {
    variable_make(shell, name, strlen(name))->is_exported = true;
}

bool kelpie__sim_shell_is_exported(const struct shell *shell, const char *name) {
    const struct shell_variable *variable = variable_find(shell, name, strlen(name));
    return variable != NULL && variable->is_exported;
}

static void environment_add(struct shell *shell, struct shell_fields *fields, bool is_local,
                            const char *name, const char *value) {
    static const char prefix[] = {SHELL_LOCAL};
    struct shell_string string = {0};
    if (is_local) {
        kelpie__sim_shell_string_add(shell, &string, prefix, 1);
    }
    kelpie__sim_shell_string_add(shell, &string, name, strlen(name));
    kelpie__sim_shell_string_add(shell, &string, "=", 1);
    kelpie__sim_shell_string_add(shell, &string, value, strlen(value));
    kelpie__sim_shell_field_add(shell, fields, string.bytes);
}

char **kelpie__sim_shell_environment(struct shell *shell, bool is_own) {
    struct shell_fields fields = {0};
    char number[16];
    for (uint32_t i = 0; i < shell->variable_count; i += 1) {
        const struct shell_variable *variable = &shell->variables[i];
        if (variable->value != NULL && (is_own || variable->is_exported)) {
            environment_add(shell, &fields, !variable->is_exported, variable->name,
                            variable->value);
        }
    }
    if (is_own) {
        kelpie__ignore(snprintf(number, sizeof(number), "%d", shell->pid));
        environment_add(shell, &fields, true, "$", number);
        kelpie__ignore(snprintf(number, sizeof(number), "%d", shell->status));
        environment_add(shell, &fields, true, "?", number);
    }
    if (fields.count == 0) {
        kelpie__sim_shell_field_add(shell, &fields, NULL);
    }
    return fields.items;
}
