/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * The command as spawn wants it: see command.h. The program is looked up here by stat and not in
 * the child by trying: an execve that fails has already built an address space, which costs ten
 * times as much as a stat.
 */
#include "agent/command.h"

#include <errno.h>
#include <string.h>

#include "core/text.h"
#include "os/os_call.h"

#define COMMAND_PATH_DEFAULT "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
#define COMMAND_DEFAULT_COUNT 4 /* PATH, HOME, USER, TERM */

const char *kelpie__agent_command_variable(const char *const *environment, const char *name) {
    size_t length = strlen(name);
    KELPIE_ASSERT(length > 0);
    for (size_t i = 0; environment[i] != NULL; i += 1) {
        if (strncmp(environment[i], name, length) == 0 && environment[i][length] == '=') {
            return environment[i] + length + 1;
        }
    }
    return NULL;
}

/* Points the vector at each string. The counts are the peer's word, so they are compared with the
 * bytes. */
static int command_split(struct kelpie_agent_command *command,
                         const struct kelpie_agent_command_options *options,
                         struct kelpie_error *error) {
    KELPIE_ASSERT(options->argument_count > 0);
    KELPIE_ASSERT(command->vector != NULL);
    const char *at = options->bytes;
    const char *end = options->bytes + options->length;
    size_t string_count = (size_t)options->argument_count + options->environment_count;
    for (size_t i = 0; i < string_count; i += 1) {
        const char *nul = at == end ? NULL : memchr(at, '\0', (size_t)(end - at));
        if (nul == NULL) {
            return kelpie__fail(error, KELPIE_E_PROTOCOL, 0,
                                "the args stream holds %zu strings, %zu were announced", i,
                                string_count);
        }
        size_t index = i < options->argument_count ? i : i + 1; /* a NULL stands between them */
        command->vector[index] = at;
        at = nul + 1;
    }
    if (at != end) {
        return kelpie__fail(error, KELPIE_E_PROTOCOL, 0,
                            "the args stream holds more than the %zu strings announced",
                            string_count);
    }
    return 0;
}

static bool command_assign(char *out, size_t capacity, const char *name, const char *value) {
    size_t length = strlen(name);
    KELPIE_ASSERT(length > 0 && length < capacity);
    memcpy(out, name, length);
    return kelpie__text_copy(out + length, capacity - length, value);
}

static void command_add_defaults(struct kelpie_agent_command *command,
                                 const struct kelpie_agent_command_options *options) {
    KELPIE_ASSERT(command->environment > command->vector);
    size_t count = options->environment_count;
    if (kelpie__agent_command_variable(command->environment, "PATH") == NULL) {
        command->environment[count] = "PATH=" COMMAND_PATH_DEFAULT;
        count += 1;
    }
    if (command_assign(command->home, sizeof(command->home), "HOME=", options->home) &&
        kelpie__agent_command_variable(command->environment, "HOME") == NULL) {
        command->environment[count] = command->home;
        count += 1;
    }
    if (options->user[0] != '\0' &&
        command_assign(command->user, sizeof(command->user), "USER=", options->user) &&
        kelpie__agent_command_variable(command->environment, "USER") == NULL) {
        command->environment[count] = command->user;
        count += 1;
    }
    if (options->is_terminal &&
        kelpie__agent_command_variable(command->environment, "TERM") == NULL) {
        command->environment[count] = "TERM=xterm";
        count += 1;
    }
    KELPIE_ASSERT(count <= (size_t)options->environment_count + COMMAND_DEFAULT_COUNT);
    KELPIE_ASSERT(command->environment[count] == NULL);
}

/* Puts DIRECTORY/PREFIX/NAME together, without what is empty or made void by an absolute path
 * behind it. */
static bool command_join(char *out, size_t capacity, const char *directory, const char *prefix,
                         size_t prefix_length, const char *name) {
    bool is_absolute = prefix_length > 0 ? prefix[0] == '/' : name[0] == '/';
    bool needs_directory = !is_absolute && directory != NULL;
    size_t directory_length = needs_directory ? strlen(directory) : 0;
    size_t name_length = strlen(name);
    size_t length = directory_length + prefix_length + name_length;
    if (length == 0 || length + 2 >= capacity) { /* and two slashes */
        return false;
    }
    if (needs_directory) {
        memcpy(out, directory, directory_length);
        out[directory_length] = '/';
        out += directory_length + 1;
    }
    if (prefix_length > 0) {
        memcpy(out, prefix, prefix_length);
        out[prefix_length] = '/';
        out += prefix_length + 1;
    }
    memcpy(out, name, name_length + 1);
    return true;
}

static int command_fail_not_found(const char *name, struct kelpie_error *error) {
    return kelpie__fail(error, KELPIE_E_EXEC_NOT_FOUND, 0,
                        "\"%.200s\" is not found in the command's PATH", name);
}

/* As execvp does: the first that can be executed; if there is none, what was found but has no
 * permission. */
static int command_search(struct kelpie_agent_command *command, struct kelpie_os *os,
                          const struct kelpie_agent_command_options *options,
                          struct kelpie_error *error) {
    const char *name = command->vector[0];
    KELPIE_ASSERT(strchr(name, '/') == NULL);
    if (name[0] == '\0') {
        return command_fail_not_found(name, error);
    }
    const char *at = kelpie__agent_command_variable(command->environment, "PATH");
    KELPIE_ASSERT(at != NULL);
    bool is_forbidden = false;
    while (at != NULL) {
        const char *colon = strchr(at, ':');
        size_t length = colon == NULL ? strlen(at) : (size_t)(colon - at);
        struct kelpie_os_stat stat;
        /* An empty part means the current directory, as it does to execvp. */
        bool is_candidate = length < sizeof(command->path) &&
                            command_join(command->path, sizeof(command->path), options->directory,
                                         at, length, name) &&
                            kelpie__os_stat(os, KELPIE_OS_CWD, command->path, true, &stat) == 0 &&
                            stat.kind == KELPIE_OS_KIND_FILE;
        if (is_candidate && (stat.mode & 0111) != 0) {
            return 0;
        }
        is_forbidden = is_forbidden || is_candidate;
        at = colon == NULL ? NULL : colon + 1;
    }
    if (is_forbidden) {
        return kelpie__fail(error, KELPIE_E_EXEC_DENIED, 0,
                            "\"%.200s\" in the command's PATH is not marked executable", name);
    }
    return command_fail_not_found(name, error);
}

static int command_find(struct kelpie_agent_command *command, struct kelpie_os *os,
                        const struct kelpie_agent_command_options *options,
                        struct kelpie_error *error) {
    KELPIE_ASSERT(command->vector[0] != NULL);
    const char *name = command->vector[0];
    if (strchr(name, '/') == NULL) {
        return command_search(command, os, options, error);
    }
    size_t length = strlen(name);
    if (length >= sizeof(command->path)) {
        return kelpie__fail(error, KELPIE_E_EXEC_NOT_FOUND, ENAMETOOLONG, "\"%.100s...\"", name);
    }
    memcpy(command->path, name, length + 1);
    return 0;
}

int kelpie__agent_command_init(struct kelpie_agent_command *command, struct kelpie_os *os,
                               const struct kelpie_agent_command_options *options,
                               struct kelpie_error *error) {
    KELPIE_ASSERT(options->bytes != NULL || options->length == 0);
    KELPIE_ASSERT(options->home[0] == '/');
    size_t string_count = (size_t)options->argument_count + options->environment_count;
    /* Each string has its NUL, so that the bytes which did arrive bound the counts. */
    if (options->argument_count == 0 || string_count > options->length) {
        return kelpie__fail(error, KELPIE_E_PROTOCOL, 0,
                            "%u arguments and %u variables in an args stream of %zu bytes",
                            options->argument_count, options->environment_count, options->length);
    }
    command->vector_bytes = (string_count + COMMAND_DEFAULT_COUNT + 2) * sizeof(char *);
    command->vector = command->few;
    if (command->vector_bytes <= sizeof(command->few)) {
        memset(command->few, 0, sizeof(command->few));
    } else {
        command->vector = kelpie__alloc(os, command->vector_bytes);
    }
    if (command->vector == NULL) {
        return kelpie__fail(error, KELPIE_E_MEMORY, 0, "%zu bytes for the argument vector",
                            command->vector_bytes);
    }
    command->environment = command->vector + options->argument_count + 1;
    int status = command_split(command, options, error);
    if (status == 0) {
        command_add_defaults(command, options);
        status = command_find(command, os, options, error);
    }
    if (status < 0) {
        kelpie__agent_command_deinit(command, os);
    }
    return status;
}

void kelpie__agent_command_deinit(struct kelpie_agent_command *command, struct kelpie_os *os) {
    KELPIE_ASSERT((command->vector == NULL) == (command->vector_bytes == 0));
    if (command->vector != command->few) {
        kelpie__free(os, command->vector, command->vector_bytes);
    }
    command->vector = NULL;
    command->vector_bytes = 0;
}

/* execve says ENOENT for a missing file and for a missing interpreter alike. */
static int command_explain_missing(struct kelpie_os *os, const char *path, const char *directory,
                                   struct kelpie_error *error) {
    KELPIE_ASSERT(path[0] != '\0');
    char full[KELPIE_AGENT_PATH_BYTES_MAX + 1];
    struct kelpie_os_stat stat;
    bool is_there = command_join(full, sizeof(full), directory, "", 0, path) &&
                    kelpie__os_stat(os, KELPIE_OS_CWD, full, true, &stat) == 0;
    if (!is_there) {
        return kelpie__fail(error, KELPIE_E_EXEC_NOT_FOUND, ENOENT, "execute \"%.200s\"", path);
    }
    return kelpie__fail(error, KELPIE_E_EXEC_DENIED, 0,
                        "execute \"%.200s\": the file is there, but the interpreter that it names "
                        "is missing in the guest",
                        path);
}

int kelpie__agent_command_explain(struct kelpie_os *os, const char *path, const char *directory,
                                  int status, const char *step, struct kelpie_error *error) {
    KELPIE_ASSERT(status < 0);
    KELPIE_ASSERT(path[0] != '\0');
    if (step == NULL || strcmp(step, "exec") != 0) {
        bool is_directory =
            step != NULL && strcmp(step, "working directory") == 0 && directory != NULL;
        /* A guest that has no room for another process says nothing about this command. */
        bool is_full = status == -EAGAIN || status == -ENOMEM || status == -ENFILE;
        int reason = is_full ? KELPIE_E_EXEC : KELPIE_E_EXEC_DENIED;
        return kelpie__fail(error, reason, -status, "start \"%.200s\": %s%s%.200s%s", path,
                            step == NULL ? "spawn" : step, is_directory ? " \"" : "",
                            is_directory ? directory : "", is_directory ? "\"" : "");
    }
    if (status == -ENOENT) {
        return command_explain_missing(os, path, directory, error);
    }
    int code = status == -ENOTDIR || status == -ENAMETOOLONG ? KELPIE_E_EXEC_NOT_FOUND
                                                             : KELPIE_E_EXEC_DENIED;
    char full[KELPIE_AGENT_PATH_BYTES_MAX + 1];
    struct kelpie_os_stat stat;
    if (status == -EACCES && command_join(full, sizeof(full), directory, "", 0, path) &&
        kelpie__os_stat(os, KELPIE_OS_CWD, full, true, &stat) == 0 &&
        stat.kind == KELPIE_OS_KIND_DIRECTORY) {
        return kelpie__fail(error, KELPIE_E_EXEC_DENIED, 0, "execute \"%.200s\": it is a directory",
                            path);
    }
    if (status == -E2BIG) {
        return kelpie__fail(error, KELPIE_E_EXEC_DENIED, E2BIG,
                            "execute \"%.200s\": arguments and environment exceed what the guest's "
                            "kernel takes",
                            path);
    }
    return kelpie__fail(error, code, -status, "execute \"%.200s\"", path);
}
