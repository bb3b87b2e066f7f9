/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Scripts: locks, which belong to open files, not to processes.
 */
#include "conformance.h"

static int open_lock(struct conform *conform) {
    return kelpie__os_open(conform->os, conform->directory, "lock",
                           KELPIE_OS_OPEN_READ | KELPIE_OS_OPEN_WRITE | KELPIE_OS_OPEN_CREATE,
                           0600);
}

static void say_lock(struct conform *conform, int file, const char *who) {
    char what[40] = "lock by ";
    for (size_t i = 0; who[i] != '\0' && i < 30; i += 1) {
        what[8 + i] = who[i];
        what[9 + i] = '\0';
    }
    said(conform, kelpie__os_lock(conform->os, file), what);
}

static void say_share(struct conform *conform, int file, const char *who) {
    say(conform, "%s shares:", who);
    said(conform, kelpie__os_lock_shared(conform->os, file), "lock_shared");
}

static void lock_exclusive(struct conform *conform) {
    int first = open_lock(conform);
    int second = open_lock(conform);
    int reader = kelpie__os_open(conform->os, conform->directory, "lock", KELPIE_OS_OPEN_READ, 0);
    say_lock(conform, first, "first");
    say_lock(conform, first, "first again");
    say_lock(conform, second, "second");
    say_lock(conform, reader, "a reader");
    say_close(conform, second);
    say_close(conform, first);
    say_lock(conform, reader, "a reader");
    say_close(conform, reader);
    say_lock(conform, conform->directory, "directory");
    int directory = kelpie__os_open(conform->os, conform->directory, ".",
                                    KELPIE_OS_OPEN_READ | KELPIE_OS_OPEN_DIRECTORY, 0);
    say_lock(conform, directory, "directory again");
    say_close(conform, directory);
}

static void lock_shared(struct conform *conform) {
    int files[3];
    for (int i = 0; i < 3; i += 1) {
        files[i] = open_lock(conform);
    }
    say_share(conform, files[0], "first");
    say_share(conform, files[1], "second");
    say_lock(conform, files[2], "third");
    say_lock(conform, files[0], "first, beside another");
    say_close(conform, files[1]);
    say_share(conform, files[0], "first");
    say_lock(conform, files[0], "first, alone");
    say_share(conform, files[2], "third");
    say_share(conform, files[0], "first, back");
    say_share(conform, files[2], "third");
    say_close(conform, files[0]);
    say_lock(conform, files[2], "third, alone");
    say_close(conform, files[2]);
}

/* A change of kind gives up what was held first. */
static void lock_failed_change(struct conform *conform) {
    int files[3];
    for (int i = 0; i < 3; i += 1) {
        files[i] = open_lock(conform);
    }
    say_share(conform, files[0], "first");
    say_share(conform, files[1], "second");
    say_lock(conform, files[0], "first, in vain");
    say_lock(conform, files[1], "second, now alone");
    say_share(conform, files[2], "third");
    for (int i = 0; i < 3; i += 1) {
        say_close(conform, files[i]);
    }
}

static void lock_at_death(struct conform *conform) {
    int file = open_lock(conform);
    struct conform_child child = child_start(conform, 0, &conform->directory, 1);
    child_ask(conform, &child, "lock lock");
    say_lock(conform, file, "parent");
    child_ask(conform, &child, "unlock");
    say_lock(conform, file, "parent");
    child_ask(conform, &child, "lock lock");
    say_close(conform, file);
    child_ask(conform, &child, "lock lock");
    file = open_lock(conform);
    say_lock(conform, file, "parent");
    child_kill(conform, &child, 9);
    child_end(conform, &child);
    say_lock(conform, file, "parent, the child is dead");
    say_close(conform, file);
}

/* The monitor's case: a lock taken by one process is held by the child that inherits the file. */
static void lock_inherited(struct conform *conform) {
    int file = open_lock(conform);
    int other = open_lock(conform);
    say_lock(conform, file, "parent");
    struct conform_child child = child_start(conform, 0, &file, 1);
    say_close(conform, file);
    say_lock(conform, other, "another, the child holds it");
    child_kill(conform, &child, 9);
    child_end(conform, &child);
    say_lock(conform, other, "another, the child is dead");
    say_close(conform, other);
}

static void lock_sent(struct conform *conform) {
    int pair[2];
    int file = open_lock(conform);
    int other = open_lock(conform);
    say_pair(conform, pair);
    say_lock(conform, file, "sender");
    said(conform, kelpie__os_send(conform->os, pair[0], "x", 1, &file, 1), "send");
    say_close(conform, file);
    say_lock(conform, other, "another, it is under way");
    say_close(conform, pair[0]);
    say_close(conform, pair[1]);
    say_lock(conform, other, "another, it was closed");
    say_close(conform, other);
}

static void lock_of_a_removed_file(struct conform *conform) {
    int file = open_lock(conform);
    say_lock(conform, file, "first");
    said(conform, kelpie__os_unlink(conform->os, conform->directory, "lock", false), "unlink");
    int other = open_lock(conform);
    say_lock(conform, other, "another file");
    say_close(conform, other);
    say_close(conform, file);
}

static void lock_of_other_things(struct conform *conform) {
    int pair[2];
    say_pair(conform, pair);
    say_lock(conform, pair[0], "a stream");
    say_lock(conform, 900, "nothing");
    say_close(conform, pair[0]);
    say_close(conform, pair[1]);
}

const struct conform_script conform_scripts_lock[] = {
    {"lock_exclusive", lock_exclusive, 0},
    {"lock_shared", lock_shared, 0},
    {"lock_failed_change", lock_failed_change, 0},
    {"lock_at_death", lock_at_death, 0},
    {"lock_inherited", lock_inherited, 0},
    {"lock_sent", lock_sent, 0},
    {"lock_of_a_removed_file", lock_of_a_removed_file, 0},
    {"lock_of_other_things", lock_of_other_things, 0},
    {NULL, NULL, 0},
};
