/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * See places.h.
 */
#include "store/places.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "core/small_file.h"
#include "core/text.h"
#include "os/os_call.h"

#define PLACES_DIRECTORY_MODE 0700u
#define PLACES_OTHERS_WRITE 0022u

/* An empty word is none: `KELPIE_STATE_DIR= program` unsets the variable for whoever reads it. */
static const char *text_or(const char *text, const char *otherwise) {
    return text != NULL && text[0] != '\0' ? text : otherwise;
}

static int path_set(char *out, const char *field, const char *base, const char *tail,
                    struct kelpie_error *error) {
    KELPIE_ASSERT(field[0] != '\0');
    if (!kelpie__text_format(out, KELPIE_PATH_BYTES_MAX, "%s%s", base, tail)) {
        return kelpie__fail_field(error, KELPIE_E_CONFIG, field,
                                  "%s: the path has more than the limit of %u bytes", field,
                                  KELPIE_PATH_BYTES_MAX);
    }
    return 0;
}

/* A base directory of the user's, from its variable or below the home directory. */
static int user_path(struct kelpie_os *os, char *out, const char *field, const char *variable,
                     const char *below_home, struct kelpie_error *error) {
    KELPIE_ASSERT(below_home[0] == '/');
    const char *base = kelpie__os_environment(os, variable);
    if (base != NULL && base[0] == '/') {
        return path_set(out, field, base, "/kelpie", error);
    }
    const char *home = kelpie__os_environment(os, "HOME");
    if (home == NULL || home[0] != '/') {
        return kelpie__fail_field(error, KELPIE_E_CONFIG, field,
                                  "%s: neither %s nor HOME is set; set KELPIE_STATE_DIR", field,
                                  variable);
    }
    return path_set(out, field, home, below_home, error);
}

static int choose_state(struct kelpie_places *places, const char *given, bool is_root,
                        struct kelpie_error *error) {
    KELPIE_ASSERT(given == NULL || given[0] != '\0');
    if (given != NULL) {
        return path_set(places->state_path, "state_directory", given, "", error);
    }
    if (is_root) {
        return path_set(places->state_path, "state_directory", "/var/lib/kelpie", "", error);
    }
    return user_path(places->os, places->state_path, "state_directory", "XDG_STATE_HOME",
                     "/.local/state/kelpie", error);
}

static int choose_runtime(struct kelpie_places *places, const char *given, bool is_moved,
                          bool is_root, struct kelpie_error *error) {
    const char *field = "runtime_directory";
    const char *variable = kelpie__os_environment(places->os, "XDG_RUNTIME_DIR");
    KELPIE_ASSERT(places->state_path[0] != '\0');
    KELPIE_ASSERT(given == NULL || given[0] != '\0');
    if (given != NULL) {
        return path_set(places->runtime_path, field, given, "", error);
    }
    if (is_moved || (!is_root && (variable == NULL || variable[0] != '/'))) {
        return path_set(places->runtime_path, field, places->state_path, "/run", error);
    }
    return is_root ? path_set(places->runtime_path, field, "/run/kelpie", "", error)
                   : path_set(places->runtime_path, field, variable, "/kelpie", error);
}

static int choose_cache(struct kelpie_places *places, const char *given, bool is_moved,
                        bool is_root, struct kelpie_error *error) {
    const char *field = "cache_directory";
    KELPIE_ASSERT(places->state_path[0] != '\0');
    if (given != NULL) {
        return path_set(places->cache_path, field, given, "", error);
    }
    if (is_moved) {
        return path_set(places->cache_path, field, places->state_path, "/cache", error);
    }
    return is_root ? path_set(places->cache_path, field, "/var/cache/kelpie", "", error)
                   : user_path(places->os, places->cache_path, field, "XDG_CACHE_HOME",
                               "/.cache/kelpie", error);
}

/* KELPIE_LIBEXEC, else the directory of this process's program when our monitor stands there, else
 * the installed one. */
static int choose_libexec(struct kelpie_places *places, const char *given,
                          struct kelpie_error *error) {
    struct kelpie_os *os = places->os;
    const char *chosen =
        text_or(given, text_or(kelpie__os_environment(os, "KELPIE_LIBEXEC"), NULL));
    char program[KELPIE_PATH_BYTES_MAX];
    char monitor[KELPIE_PATH_BYTES_MAX];
    struct kelpie_os_stat status;
    if (chosen != NULL) {
        /* One that is not there is told with the program that is looked for in it. */
        bool is_found = kelpie__os_real_path(os, chosen, program, sizeof(program)) == 0;
        return path_set(places->libexec_path, "libexec_directory", is_found ? program : chosen, "",
                        error);
    }
    if (kelpie__os_real_path(os, "/proc/self/exe", program, sizeof(program)) == 0) {
        char *slash = strrchr(program, '/');
        KELPIE_ASSERT(slash != NULL);
        *slash = '\0';
        if (kelpie__text_join(monitor, sizeof(monitor), program, "kelpie-monitor") &&
            kelpie__os_stat(os, KELPIE_OS_CWD, monitor, true, &status) == 0) {
            return path_set(places->libexec_path, "libexec_directory", program, "", error);
        }
    }
    KELPIE_ASSERT(KELPIE_LIBEXEC_DIR[0] == '/');
    return path_set(places->libexec_path, "libexec_directory", KELPIE_LIBEXEC_DIR, "", error);
}

static int choose(struct kelpie_places *places, const struct kelpie_open_options *options,
                  bool is_root, struct kelpie_error *error) {
    const char *variable = kelpie__os_environment(places->os, "KELPIE_STATE_DIR");
    const char *state = text_or(options->state_directory, text_or(variable, NULL));
    int status = choose_state(places, state, is_root, error);
    if (status == 0) {
        status = choose_runtime(places, text_or(options->runtime_directory, NULL), state != NULL,
                                is_root, error);
    }
    if (status == 0) {
        status = choose_cache(places, text_or(options->cache_directory, NULL), state != NULL,
                              is_root, error);
    }
    KELPIE_ASSERT(status < 0 || places->cache_path[0] != '\0');
    return status < 0 ? status : choose_libexec(places, options->libexec_directory, error);
}

/* Why a directory cannot be used, with the way out. */
static int fail_place(struct kelpie_error *error, int status, const char *what, const char *path) {
    KELPIE_ASSERT(status < 0);
    kelpie__ignore(kelpie__fail(error, KELPIE_E_IO, -status, "%s \"%s\"", what, path));
    kelpie__fail_append(error, "; use --state-dir or KELPIE_STATE_DIR for a directory of your own");
    return KELPIE_E_IO;
}

/* The name of a directory that was just made survives the machine's death: everything that is
 * synced below it depends on that. */
static int sync_parent(struct kelpie_os *os, const char *path) {
    KELPIE_ASSERT(path[0] != '\0');
    char parent[KELPIE_PATH_BYTES_MAX];
    bool fits = kelpie__text_copy(parent, sizeof(parent), path);
    char *slash = fits ? strrchr(parent, '/') : NULL;
    if (slash == parent) {
        slash += 1; /* "/" itself */
    }
    kelpie__ignore(kelpie__text_copy(slash == NULL ? parent : slash, 2, slash == NULL ? "." : ""));
    int directory = kelpie__os_open(os, KELPIE_OS_CWD, parent,
                                    KELPIE_OS_OPEN_READ | KELPIE_OS_OPEN_DIRECTORY, 0);
    if (directory < 0) {
        return 0; /* one that may not be read: nothing can be done for it */
    }
    int status = kelpie__os_sync(os, directory);
    kelpie__ignore(kelpie__os_close(os, directory));
    return status == -EINVAL || status == -EROFS ? 0 : status; /* of file systems without */
}

/* How sure the names of directories have to be. */
enum places_names {
    PLACES_NAMES_LOOSE,   /* the machine's death may take them */
    PLACES_NAMES_SETTLED, /* what is there is durable, what is made is to be */
    /* What is there may be so only since a moment ago, made by one who has not synced it yet, could
     * not, or died over it: all is synced. */
    PLACES_NAMES_UNSETTLED,
};

/* mkdir -p: what is missing is made with mode 0700. */
static int make_path(struct kelpie_os *os, const char *path, enum places_names names,
                     struct kelpie_error *error) {
    char part[KELPIE_PATH_BYTES_MAX];
    size_t length = strlen(path);
    KELPIE_ASSERT(length > 0);
    KELPIE_ASSERT(length < sizeof(part));
    for (size_t at = 1; at <= length; at += 1) {
        if (path[at] != '/' && path[at] != '\0') {
            continue;
        }
        memcpy(part, path, at);
        part[at] = '\0';
        int status = kelpie__os_mkdir(os, KELPIE_OS_CWD, part, PLACES_DIRECTORY_MODE);
        if (status < 0 && status != -EEXIST && status != -EISDIR) {
            struct kelpie_os_stat there;
            if (kelpie__os_stat(os, KELPIE_OS_CWD, part, true, &there) == 0) {
                continue; /* read-only file systems answer EROFS for what exists */
            }
            return fail_place(error, status, "make directory", part);
        }
        bool needs_sync = status == 0 || names == PLACES_NAMES_UNSETTLED;
        status = needs_sync && names != PLACES_NAMES_LOOSE ? sync_parent(os, part) : 0;
        if (status < 0) { /* it stays: without a format, the next one syncs it, too */
            return fail_place(error, status, "sync the directory above", part);
        }
    }
    return 0;
}

/* Opens a directory of ours and refuses it when another user owns it or may write to it. */
static int open_own(struct kelpie_os *os, const char *path, uint32_t uid, enum places_names names,
                    int *out, struct kelpie_error *error) {
    KELPIE_ASSERT(*out == KELPIE_OS_NO_HANDLE);
    struct kelpie_os_stat status;
    int result = make_path(os, path, names, error);
    if (result < 0) {
        return result;
    }
    int directory =
        kelpie__os_open(os, KELPIE_OS_CWD, path, KELPIE_OS_OPEN_READ | KELPIE_OS_OPEN_DIRECTORY, 0);
    if (directory < 0) {
        bool is_link = kelpie__os_stat(os, KELPIE_OS_CWD, path, false, &status) == 0 &&
                       status.kind == KELPIE_OS_KIND_LINK;
        result = fail_place(error, directory, "open directory", path);
        if (is_link) { /* whose target may be changed by whom the directory is not */
            kelpie__fail_append(error, "; it is a symbolic link: give the directory it leads to");
        }
        return result;
    }
    result = kelpie__os_stat(os, directory, "", false, &status);
    if (result < 0) {
        result = fail_place(error, result, "look at directory", path);
    } else if (status.uid != uid) {
        result =
            kelpie__fail(error, KELPIE_E_CONFIG, 0,
                         "directory \"%s\" belongs to user %u, this is user %u; use --state-dir "
                         "or KELPIE_STATE_DIR for one of your own",
                         path, status.uid, uid);
    } else if ((status.mode & PLACES_OTHERS_WRITE) != 0) {
        result =
            kelpie__fail(error, KELPIE_E_CONFIG, 0,
                         "directory \"%s\" can be written by other users (mode %04o); run: chmod "
                         "go-w \"%s\"",
                         path, status.mode, path);
    }
    if (result < 0) {
        kelpie__ignore(kelpie__os_close(os, directory));
        return result;
    }
    KELPIE_ASSERT(directory >= 0);
    *out = directory;
    return 0;
}

/* Under a name of our own first: of two who are the first at once, neither may see the other's
 * half-written file. */
static int write_format(struct kelpie_os *os, int directory, const char *path,
                        struct kelpie_error *error) {
    KELPIE_ASSERT(directory >= 0);
    KELPIE_ASSERT(path[0] == '/');
    struct kelpie_os_identity identity = {0};
    char name[32];
    char text[32];
    int status = kelpie__os_identity(os, &identity);
    if (status < 0) {
        return kelpie__fail(error, KELPIE_E_IO, -status, "ask who this process is");
    }
    bool fits = kelpie__text_format(name, sizeof(name), "format-%d", identity.pid) &&
                kelpie__text_format(text, sizeof(text), "%u\n", KELPIE_STORE_FORMAT);
    KELPIE_ASSERT(fits);
    status = kelpie__small_file_replace_synced(os, directory, name, text, strlen(text), error);
    if (status < 0) {
        kelpie__ignore(kelpie__fail_prefix(error, "state directory \"%s\"", path));
        return status;
    }
    status = kelpie__os_rename(os, directory, name, directory, "format", true);
    if (status < 0) {
        kelpie__ignore(kelpie__os_unlink(os, directory, name, false)); /* the error counts */
        return kelpie__fail(error, KELPIE_E_IO, -status, "write \"%s/format\"", path);
    }
    return 0;
}

/* STATE/format holds the version of everything below. */
static int check_format(struct kelpie_os *os, int directory, const char *path,
                        struct kelpie_error *error) {
    KELPIE_ASSERT(directory >= 0);
    KELPIE_ASSERT(path[0] == '/');
    char text[32];
    uint64_t format = 0;
    int64_t length = kelpie__small_file_read_in(os, path, "format", text, sizeof(text));
    if (length == -ENOENT) {
        return write_format(os, directory, path, error);
    }
    if (length < 0) {
        return kelpie__fail(error, KELPIE_E_IO, (int)-length, "read \"%s/format\"", path);
    }
    text[strcspn(text, "\n")] = '\0';
    if (!kelpie__text_u64(text, &format)) {
        return kelpie__fail(error, KELPIE_E_IO, 0,
                            "\"%s/format\" is damaged; is this a state directory of Kelpie's?",
                            path);
    }
    if (format != KELPIE_STORE_FORMAT) {
        return kelpie__fail(error, KELPIE_E_UNSUPPORTED, 0,
                            "state directory \"%s\" has format %llu, this version knows %u; use a "
                            "newer Kelpie or another directory",
                            path, (unsigned long long)format, KELPIE_STORE_FORMAT);
    }
    return 0;
}

/* A monitor's working directory is not ours: from here on every path is absolute. */
static int make_absolute(struct kelpie_os *os, char path[KELPIE_PATH_BYTES_MAX],
                         struct kelpie_error *error) {
    char absolute[KELPIE_PATH_BYTES_MAX];
    if (path[0] == '/') {
        return 0;
    }
    int status = kelpie__os_real_path(os, path, absolute, sizeof(absolute));
    if (status < 0) {
        return fail_place(error, status, "find the directory", path);
    }
    KELPIE_ASSERT(absolute[0] == '/');
    kelpie__ignore(kelpie__text_copy(path, KELPIE_PATH_BYTES_MAX, absolute)); /* same capacity */
    return 0;
}

/* The directory of VMs in `base`. Of one that lasts, STATE/format is what is written last: where it
 * is, all names above it and that of the VMs' directory were synced before. */
static int open_vms(struct kelpie_os *os, char base[KELPIE_PATH_BYTES_MAX], uint32_t uid,
                    bool has_format, int *out, struct kelpie_error *error) {
    char path[KELPIE_PATH_BYTES_MAX];
    struct kelpie_os_stat stat;
    int directory = KELPIE_OS_NO_HANDLE;
    enum places_names names = PLACES_NAMES_LOOSE;
    KELPIE_ASSERT(base[0] != '\0');
    if (has_format) {
        bool is_settled = kelpie__text_join(path, sizeof(path), base, "format") &&
                          kelpie__os_stat(os, KELPIE_OS_CWD, path, true, &stat) == 0;
        names = is_settled ? PLACES_NAMES_SETTLED : PLACES_NAMES_UNSETTLED;
    }
    int status = open_own(os, base, uid, names, &directory, error);
    if (status == 0) {
        status = make_absolute(os, base, error);
    }
    if (status == 0 && !kelpie__text_join(path, sizeof(path), base, "vms")) {
        status = kelpie__fail(error, KELPIE_E_CONFIG, 0, "the path \"%s\" is too long", base);
    }
    int vms = KELPIE_OS_NO_HANDLE;
    if (status == 0) {
        status = open_own(os, path, uid, names, &vms, error);
    }
    if (status == 0 && has_format) {
        status = check_format(os, directory, base, error);
    }
    if (directory >= 0) {
        kelpie__ignore(kelpie__os_close(os, directory));
    }
    if (status < 0 && vms >= 0) {
        kelpie__ignore(kelpie__os_close(os, vms));
    }
    KELPIE_ASSERT(status < 0 || base[0] == '/');
    KELPIE_ASSERT(status < 0 || vms >= 0);
    *out = status < 0 ? *out : vms;
    return status;
}

static void places_check(const struct kelpie_places *places) {
    KELPIE_ASSERT(places->state_vms >= 0);
    KELPIE_ASSERT(places->runtime_vms >= 0);
    KELPIE_ASSERT(places->state_path[0] == '/');
    KELPIE_ASSERT(places->runtime_path[0] == '/');
    KELPIE_ASSERT(places->cache_path[0] == '/');
}

int kelpie__places_open(struct kelpie_places *places, struct kelpie_os *os,
                        const struct kelpie_open_options *options, struct kelpie_error *error) {
    struct kelpie_os_identity identity;
    int cache = KELPIE_OS_NO_HANDLE;
    places->os = os;
    int status = kelpie__os_identity(os, &identity);
    if (status < 0) {
        return kelpie__fail(error, KELPIE_E_IO, -status, "ask who this process is");
    }
    status = choose(places, options, identity.uid == 0, error);
    if (status < 0) {
        return status;
    }
    status = open_vms(os, places->state_path, identity.uid, true, &places->state_vms, error);
    if (status < 0) {
        return status;
    }
    status = open_vms(os, places->runtime_path, identity.uid, false, &places->runtime_vms, error);
    if (status < 0) {
        goto fail_runtime;
    }
    status = open_own(os, places->cache_path, identity.uid, PLACES_NAMES_LOOSE, &cache, error);
    if (status < 0) {
        goto fail_cache;
    }
    kelpie__ignore(kelpie__os_close(os, cache));
    status = make_absolute(os, places->cache_path, error);
    if (status < 0) {
        goto fail_cache;
    }
    places_check(places);
    return 0;
fail_cache:
    kelpie__ignore(kelpie__os_close(os, places->runtime_vms));
fail_runtime:
    kelpie__ignore(kelpie__os_close(os, places->state_vms));
    return status;
}

void kelpie__places_close(struct kelpie_places *places) {
    KELPIE_ASSERT(places->state_vms >= 0 && places->runtime_vms >= 0);
    kelpie__ignore(kelpie__os_close(places->os, places->state_vms));
    kelpie__ignore(kelpie__os_close(places->os, places->runtime_vms));
    places->state_vms = KELPIE_OS_NO_HANDLE;
    places->runtime_vms = KELPIE_OS_NO_HANDLE;
}

int kelpie__places_program(const struct kelpie_places *places, const char *name, char *out,
                           size_t capacity, struct kelpie_error *error) {
    KELPIE_ASSERT(name[0] != '\0');
    KELPIE_ASSERT(capacity == KELPIE_PATH_BYTES_MAX);
    struct kelpie_os_stat status;
    if (!kelpie__text_join(out, capacity, places->libexec_path, name) ||
        kelpie__os_stat(places->os, KELPIE_OS_CWD, out, true, &status) < 0) {
        return kelpie__fail(
            error, KELPIE_E_UNAVAILABLE, 0,
            "%s is not in \"%s\"; install Kelpie's programs, or set KELPIE_LIBEXEC to "
            "their directory",
            name, places->libexec_path);
    }
    return 0;
}
