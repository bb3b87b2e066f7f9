/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Scripts: names and directories.
 */
#include "conformance.h"

#include <stdio.h>
#include <string.h>

static void say_rename(struct conform *conform, const char *from, const char *to,
                       bool may_replace) {
    char what[160];
    snprintf(what, sizeof(what), "rename \"%.60s\" to \"%.60s\"%s", from, to,
             may_replace ? ", replacing" : "");
    said(conform,
         kelpie__os_rename(conform->os, conform->directory, from, conform->directory, to,
                           may_replace),
         what);
}

static void say_unlink(struct conform *conform, const char *name, bool is_directory) {
    char what[80];
    snprintf(what, sizeof(what), "%s \"%.60s\"", is_directory ? "rmdir" : "unlink", name);
    said(conform, kelpie__os_unlink(conform->os, conform->directory, name, is_directory), what);
}

static void say_mkdir(struct conform *conform, const char *name) {
    char what[80];
    snprintf(what, sizeof(what), "mkdir \"%.60s\"", name);
    said(conform, kelpie__os_mkdir(conform->os, conform->directory, name, 0750), what);
}

/* Names in alphabetical order: a directory has none of its own that scripts may rely on. */
static void say_list(struct conform *conform, int directory) {
    char names[32][64];
    unsigned count = 0;
    uint64_t cursor = 0;
    int status = 1;
    while (count < 32 && status == 1) {
        status = kelpie__os_list(conform->os, directory, &cursor, names[count], 64);
        count += status == 1 ? 1 : 0;
    }
    if (status < 0) {
        said(conform, status, "list");
    }
    for (unsigned i = 0; i < count; i += 1) {
        unsigned least = i;
        for (unsigned j = i + 1; j < count; j += 1) {
            least = strcmp(names[j], names[least]) < 0 ? j : least;
        }
        char swap[64];
        memcpy(swap, names[i], 64);
        memcpy(names[i], names[least], 64);
        memcpy(names[least], swap, 64);
        say(conform, "listed: %s", names[i]);
    }
}

static void name_rename(struct conform *conform) {
    say_close(conform, say_make(conform, "a", "first"));
    say_close(conform, say_make(conform, "b", "second"));
    say_rename(conform, "a", "b", false);
    say_rename(conform, "none", "b", true);
    say_rename(conform, "none", "b", false);
    say_rename(conform, "a", "none/b", true);
    say_rename(conform, "a", "a", true);
    say_rename(conform, "a", "a", false);
    say_rename(conform, "a", "b", true);
    say_stat(conform, conform->directory, "a", false);
    int file = say_open(conform, "b", KELPIE_OS_OPEN_READ);
    say_pread(conform, file, 100, 0);
    say_rename(conform, "b", "c", false);
    say_pread(conform, file, 100, 0);
    say_close(conform, file);
    say_rename(conform, "c", "c/d", true);
    say_rename(conform, "c/d", "e", true);
    say_list(conform, conform->directory);
}

static void name_rename_directories(struct conform *conform) {
    say_mkdir(conform, "d");
    say_mkdir(conform, "e");
    say_mkdir(conform, "e/sub");
    say_close(conform, say_make(conform, "a", "x"));
    say_rename(conform, "a", "d", true);
    say_rename(conform, "d", "a", true);
    say_rename(conform, "d", "e", true);
    say_rename(conform, "d", "e", false);
    say_rename(conform, "e", "e/sub/x", true);
    say_rename(conform, "e", "e", true);
    say_rename(conform, "e", "d", true);
    say_list(conform, conform->directory);
    say_stat(conform, conform->directory, "d/sub", false);
    int directory = kelpie__os_open(conform->os, conform->directory, "d",
                                    KELPIE_OS_OPEN_READ | KELPIE_OS_OPEN_DIRECTORY, 0);
    say_rename(conform, "d", "moved", true);
    say_close(conform, kelpie__os_open(conform->os, directory, "inside",
                                       KELPIE_OS_OPEN_WRITE | KELPIE_OS_OPEN_CREATE, 0600));
    say_stat(conform, conform->directory, "moved/inside", false);
    said(conform,
         kelpie__os_rename(conform->os, directory, "inside", conform->directory, "outside", true),
         "rename across");
    say_stat(conform, directory, "../outside", false);
    say_close(conform, directory);
    say_rename(conform, ".", "x", true);
    say_rename(conform, "moved/..", "x", true);
}

static void name_unlink(struct conform *conform) {
    say_unlink(conform, "none", false);
    say_unlink(conform, "none", true);
    say_unlink(conform, "none/a", false);
    say_close(conform, say_make(conform, "a", "x"));
    say_mkdir(conform, "d");
    say_close(conform, say_make(conform, "d/b", "x"));
    say_unlink(conform, "a", true);
    say_unlink(conform, "d", false);
    say_unlink(conform, "d", true);
    say_unlink(conform, "d/.", true);
    say_unlink(conform, "d/..", true);
    say_unlink(conform, "a/b", false);
    say_unlink(conform, "d/b", false);
    say_unlink(conform, "d", true);
    say_unlink(conform, "a", false);
    say_list(conform, conform->directory);
    said(conform, conform->make_link(conform, "none", "link"), "link");
    say_unlink(conform, "link", true);
    say_unlink(conform, "link", false);
}

static void name_mkdir(struct conform *conform) {
    say_mkdir(conform, "d");
    say_mkdir(conform, "d");
    say_mkdir(conform, "d/e/");
    say_mkdir(conform, "none/d");
    say_close(conform, say_make(conform, "a", "x"));
    say_mkdir(conform, "a");
    say_mkdir(conform, "a/d");
    say_mkdir(conform, ".");
    say_mkdir(conform, "..");
    say_mkdir(conform, "/");
    said(conform, conform->make_link(conform, "none", "link"), "link");
    say_mkdir(conform, "link");
    say_stat(conform, conform->directory, "d", false);
    say_stat(conform, conform->directory, "d/e", false);
    say_unlink(conform, "d", true);
    say_unlink(conform, "d/e/", true);
    say_unlink(conform, "d", true);
}

static void name_paths(struct conform *conform) {
    char name[300];
    memset(name, 'n', sizeof(name) - 1);
    say_mkdir(conform, "d");
    say_close(conform, say_make(conform, "d/a", "x"));
    say_stat(conform, conform->directory, "d/a", false);
    say_stat(conform, conform->directory, "d//a", false);
    say_stat(conform, conform->directory, "./d/./a", false);
    say_stat(conform, conform->directory, "d/../d/a", false);
    say_stat(conform, conform->directory, "d/", false);
    say_stat(conform, conform->directory, "d/a/", false);
    say_stat(conform, conform->directory, "d/a/.", false);
    say_stat(conform, conform->directory, "d/a/..", false);
    say_stat(conform, conform->directory, "d/none/..", false);
    say_stat(conform, conform->directory, "none/", false);
    say_stat(conform, conform->directory, ".", false);
    say_stat(conform, conform->directory, "/", false);
    say_stat(conform, conform->directory, "/../..", false);
    say_open(conform, "", KELPIE_OS_OPEN_READ);
    say_open(conform, "new/", KELPIE_OS_OPEN_WRITE | KELPIE_OS_OPEN_CREATE);
    say_open(conform, "d/a/", KELPIE_OS_OPEN_READ);
    name[256] = '\0';
    said_handle(conform, kelpie__os_open(conform->os, conform->directory, name, 1, 0), "open 256");
    said(conform, kelpie__os_mkdir(conform->os, conform->directory, name, 0700), "mkdir 256");
    name[255] = '\0';
    said_handle(conform, kelpie__os_open(conform->os, conform->directory, name, 1, 0), "open 255");
    said(conform, kelpie__os_mkdir(conform->os, conform->directory, name, 0700), "mkdir 255");
    said(conform, kelpie__os_unlink(conform->os, conform->directory, name, true), "rmdir 255");
    char path[4200];
    for (size_t i = 0; i < sizeof(path); i += 2) {
        memcpy(path + i, "./", 2);
    }
    path[4095] = '\0';
    said_handle(conform, kelpie__os_open(conform->os, conform->directory, path, 1, 0), "open 4095");
    path[4096] = '\0';
    said_handle(conform, kelpie__os_open(conform->os, conform->directory, path, 1, 0), "open 4096");
}

static void name_stat(struct conform *conform) {
    struct kelpie_os_stat stat = {0};
    int pair[2];
    int file = say_make(conform, "a", "12345");
    say_mkdir(conform, "d");
    say_pair(conform, pair);
    said(conform, conform->make_link(conform, "a", "link"), "link");
    said(conform, conform->make_link(conform, "link", "chain"), "link");
    said(conform, conform->make_link(conform, "loop", "loop"), "link");
    said(conform, conform->make_link(conform, "d", "dirlink"), "link");
    say_stat(conform, conform->directory, "a", false);
    say_stat(conform, conform->directory, "d", true);
    say_stat(conform, conform->directory, "link", false);
    say_stat(conform, conform->directory, "link", true);
    say_stat(conform, conform->directory, "chain", true);
    say_stat(conform, conform->directory, "loop", false);
    say_stat(conform, conform->directory, "loop", true);
    say_stat(conform, conform->directory, "loop/x", false);
    say_stat(conform, conform->directory, "dirlink/", false);
    say_stat(conform, conform->directory, "dirlink/none", false);
    say_stat(conform, conform->directory, "none", true);
    say_stat(conform, conform->directory, "a/x", true);
    say_stat(conform, file, "", true);
    say_stat(conform, file, "x", true);
    say_stat(conform, pair[0], "", true);
    say_stat(conform, 900, "", true);
    said(conform, kelpie__os_stat(conform->os, file, "", false, &stat), "stat");
    struct kelpie_os_identity self = {0};
    kelpie__ignore(kelpie__os_identity(conform->os, &self));
    say(conform, "mine: %d %d", stat.uid == self.uid, stat.gid == self.gid);
    say(conform, "allocated in blocks of 512: %d", stat.allocated_bytes % 512 == 0);
    say(conform, "has times: %d", stat.modified_ns > 0 && stat.changed_ns > 0);
    say_close(conform, file);
    say_close(conform, pair[0]);
    say_close(conform, pair[1]);
}

static void name_list(struct conform *conform) {
    char name[64];
    say_list(conform, conform->directory);
    for (unsigned i = 0; i < 20; i += 1) {
        snprintf(name, sizeof(name), "entry%u", i);
        say_close(conform, kelpie__os_open(conform->os, conform->directory, name,
                                           KELPIE_OS_OPEN_WRITE | KELPIE_OS_OPEN_CREATE, 0600));
    }
    say_mkdir(conform, "sub");
    say_list(conform, conform->directory);
    say_list(conform, conform->directory); /* from the start again */
    uint64_t cursor = 0;
    unsigned removed = 0;
    while (removed < 100 &&
           kelpie__os_list(conform->os, conform->directory, &cursor, name, sizeof(name)) == 1) {
        removed +=
            kelpie__os_unlink(conform->os, conform->directory, name, strcmp(name, "sub") == 0) == 0;
    }
    say(conform, "removed while listing: %u", removed);
    say_list(conform, conform->directory);
    cursor = 0;
    int file = say_make(conform, "a", "x");
    said(conform, kelpie__os_list(conform->os, file, &cursor, name, sizeof(name)), "list a file");
    said(conform, kelpie__os_list(conform->os, 900, &cursor, name, sizeof(name)), "list nothing");
    cursor = 0;
    said(conform, kelpie__os_list(conform->os, conform->directory, &cursor, name, 2), "list");
    say_close(conform, say_make(conform, "long-name", "x"));
    say_unlink(conform, "a", false);
    cursor = 0;
    said(conform, kelpie__os_list(conform->os, conform->directory, &cursor, name, 9), "no room");
    say_close(conform, file);
}

static void name_removed_directory(struct conform *conform) {
    char name[64];
    uint64_t cursor = 0;
    say_mkdir(conform, "d");
    int directory = kelpie__os_open(conform->os, conform->directory, "d",
                                    KELPIE_OS_OPEN_READ | KELPIE_OS_OPEN_DIRECTORY, 0);
    say_unlink(conform, "d", true);
    said_handle(conform,
                kelpie__os_open(conform->os, directory, "a",
                                KELPIE_OS_OPEN_WRITE | KELPIE_OS_OPEN_CREATE, 0600),
                "create in it");
    said(conform, kelpie__os_mkdir(conform->os, directory, "e", 0700), "mkdir in it");
    said(conform, kelpie__os_list(conform->os, directory, &cursor, name, sizeof(name)), "list it");
    say_stat(conform, directory, "", false);
    said_handle(conform, kelpie__os_listen(conform->os, directory, "s", 1), "listen in it");
    say_close(conform, directory);
}

static void name_real_path(struct conform *conform) {
    char path[512];
    char wanted[600];
    char asked[600];
    say_mkdir(conform, "d");
    said(conform, conform->make_link(conform, "d", "link"), "link");
    say_close(conform, say_make(conform, "d/a", "x"));
    snprintf(asked, sizeof(asked), "%s/./link/../d//a", conform->path);
    snprintf(wanted, sizeof(wanted), "%s/d/a", conform->path);
    int status = kelpie__os_real_path(conform->os, asked, path, sizeof(path));
    said(conform, status, "real_path");
    say(conform, "as it should: %d", status == 0 && strcmp(path, wanted) == 0);
    snprintf(asked, sizeof(asked), "%s/none", conform->path);
    said(conform, kelpie__os_real_path(conform->os, asked, path, sizeof(path)), "of nothing");
    snprintf(asked, sizeof(asked), "%s/d/a/x", conform->path);
    said(conform, kelpie__os_real_path(conform->os, asked, path, sizeof(path)), "below a file");
    snprintf(asked, sizeof(asked), "%s/d/a", conform->path);
    said(conform, kelpie__os_real_path(conform->os, asked, path, 8), "no room");
    said(conform, kelpie__os_real_path(conform->os, "/", path, sizeof(path)), "of /");
    say(conform, "\"%s\"", path);
}

const struct conform_script conform_scripts_name[] = {
    {"name_rename", name_rename, 0},       {"name_rename_directories", name_rename_directories, 0},
    {"name_unlink", name_unlink, 0},       {"name_mkdir", name_mkdir, 0},
    {"name_paths", name_paths, 0},         {"name_stat", name_stat, 0},
    {"name_list", name_list, 0},           {"name_removed_directory", name_removed_directory, 0},
    {"name_real_path", name_real_path, 0}, {NULL, NULL, 0},
};
