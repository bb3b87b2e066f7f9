/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Scripts: listening, connecting, who the peer is.
 */
#include "conformance.h"

#include <stdio.h>
#include <string.h>

static int say_listen(struct conform *conform, const char *name, int backlog) {
    return said_handle(conform, kelpie__os_listen(conform->os, conform->directory, name, backlog),
                       "listen");
}

static int say_accept(struct conform *conform, int listener) {
    return said_handle(conform, kelpie__os_accept(conform->os, listener), "accept");
}

static int say_connect(struct conform *conform, const char *name) {
    char what[64];
    snprintf(what, sizeof(what), "connect \"%.40s\"", name);
    return said_handle(conform, kelpie__os_connect(conform->os, conform->directory, name), what);
}

static void listen_accept_connect(struct conform *conform) {
    say_connect(conform, "s");
    int listener = say_listen(conform, "s", 4);
    say_stat(conform, conform->directory, "s", false);
    say_accept(conform, listener);
    say_ready(conform, listener, "listener");
    int client = say_connect(conform, "s");
    say_ready(conform, listener, "listener with a client");
    say_ready(conform, client, "client, not accepted");
    int server = say_accept(conform, listener);
    say_accept(conform, listener);
    say_write(conform, client, "hello");
    say_read(conform, server, 100);
    say_write(conform, server, "hello yourself");
    say_read(conform, client, 100);
    say_close(conform, server);
    say_read(conform, client, 100);
    say_close(conform, client);
    say_close(conform, listener);
}

static void listen_backlog(struct conform *conform) {
    int clients[6];
    int listener = say_listen(conform, "s", 2);
    for (int i = 0; i < 6; i += 1) {
        clients[i] = say_connect(conform, "s");
    }
    int server = say_accept(conform, listener);
    int late = say_connect(conform, "s");
    say_connect(conform, "s");
    say_close(conform, server);
    say_close(conform, late);
    for (int i = 0; i < 6; i += 1) {
        say_close(conform, clients[i]);
    }
    /* Those that gave up are accepted all the same. */
    server = say_accept(conform, listener);
    say_ready(conform, server, "its client is gone");
    say_read(conform, server, 100);
    say_close(conform, server);
    say_close(conform, listener);
}

static void listen_order(struct conform *conform) {
    int listener = say_listen(conform, "s", 8);
    int clients[3];
    for (int i = 0; i < 3; i += 1) {
        char text[8];
        clients[i] = say_connect(conform, "s");
        snprintf(text, sizeof(text), "c%d", i);
        say_write(conform, clients[i], text);
    }
    for (int i = 0; i < 3; i += 1) {
        int server = say_accept(conform, listener);
        say_read(conform, server, 100);
        say_close(conform, server);
        say_close(conform, clients[i]);
    }
    say_close(conform, listener);
}

static void listen_name_outlives(struct conform *conform) {
    int listener = say_listen(conform, "s", 1);
    say_listen(conform, "s", 1);
    say_close(conform, listener);
    say_stat(conform, conform->directory, "s", false);
    say_connect(conform, "s");
    say_listen(conform, "s", 1);
    said(conform, kelpie__os_unlink(conform->os, conform->directory, "s", false), "unlink");
    say_connect(conform, "s");
    listener = say_listen(conform, "s", 1);
    say_close(conform, say_connect(conform, "s"));
    /* Without its name it goes on for those who are there. */
    int client = say_connect(conform, "s");
    said(conform, kelpie__os_unlink(conform->os, conform->directory, "s", false), "unlink");
    say_connect(conform, "s");
    say_close(conform, say_accept(conform, listener));
    int server = say_accept(conform, listener);
    say_write(conform, server, "still here");
    say_read(conform, client, 100);
    say_close(conform, server);
    say_close(conform, client);
    say_close(conform, listener);
}

static void listen_renamed(struct conform *conform) {
    int listener = say_listen(conform, "s", 1);
    said(conform,
         kelpie__os_rename(conform->os, conform->directory, "s", conform->directory, "t", false),
         "rename");
    say_connect(conform, "s");
    int client = say_connect(conform, "t");
    say_close(conform, say_accept(conform, listener));
    say_close(conform, client);
    say_close(conform, listener);
}

static void listen_closed_with_clients(struct conform *conform) {
    int listener = say_listen(conform, "s", 2);
    int quiet = say_connect(conform, "s");
    int loud = say_connect(conform, "s");
    say_write(conform, loud, "is anybody there");
    say_close(conform, listener);
    say_ready(conform, quiet, "never accepted");
    say_read(conform, quiet, 100);
    say_ready(conform, quiet, "never accepted, told");
    say_read(conform, quiet, 100);
    say_write(conform, quiet, "x");
    say_read(conform, loud, 100);
    say_read(conform, loud, 100);
    say_close(conform, quiet);
    say_close(conform, loud);
}

static void listen_early_bytes(struct conform *conform) {
    int listener = say_listen(conform, "s", 2);
    int client = say_connect(conform, "s");
    say_write(conform, client, "early");
    said(conform, kelpie__os_shut_write(conform->os, client), "shut_write");
    int server = say_accept(conform, listener);
    say_read(conform, server, 100);
    say_read(conform, server, 100);
    say_write(conform, server, "answer");
    say_read(conform, client, 100);
    say_close(conform, client);
    say_ready(conform, server, "gone");
    say_close(conform, server);
    client = say_connect(conform, "s");
    say_write(conform, client, "and gone");
    say_close(conform, client);
    server = say_accept(conform, listener);
    say_ready(conform, server, "wrote and went");
    say_read(conform, server, 100);
    say_read(conform, server, 100);
    say_close(conform, server);
    say_close(conform, listener);
}

static void listen_wrong_handles(struct conform *conform) {
    int pair[2];
    int pipe[2];
    char byte = 'x';
    uint32_t none = 0;
    say_pair(conform, pair);
    say_pipe(conform, pipe);
    int file = say_make(conform, "file", "x");
    int listener = say_listen(conform, "s", 1);
    say_accept(conform, pair[0]);
    say_accept(conform, pipe[0]);
    say_accept(conform, file);
    say_accept(conform, 900);
    said(conform, kelpie__os_read(conform->os, listener, &byte, 1), "read a listener");
    said(conform, kelpie__os_write(conform->os, listener, &byte, 1), "write to a listener");
    said(conform, kelpie__os_receive(conform->os, listener, &byte, 1, NULL, &none), "receive");
    said(conform, kelpie__os_shut_write(conform->os, listener), "shut_write a listener");
    said(conform, kelpie__os_shut_write(conform->os, pipe[1]), "shut_write a pipe");
    said(conform, kelpie__os_shut_write(conform->os, file), "shut_write a file");
    said(conform, kelpie__os_shut_write(conform->os, 900), "shut_write nothing");
    say_close(conform, listener);
    say_close(conform, file);
    for (int i = 0; i < 2; i += 1) {
        say_close(conform, pair[i]);
        say_close(conform, pipe[i]);
    }
}

static void connect_to_other_things(struct conform *conform) {
    char longest[130];
    memset(longest, 'n', sizeof(longest) - 1);
    longest[sizeof(longest) - 1] = '\0';
    int file = say_make(conform, "file", "x");
    said(conform, kelpie__os_mkdir(conform->os, conform->directory, "dir", 0700), "mkdir");
    say_connect(conform, "file");
    say_connect(conform, "dir");
    say_connect(conform, "dir/none");
    say_connect(conform, "none/none");
    say_connect(conform, "file/none");
    say_connect(conform, longest);
    say_listen(conform, "file", 1);
    say_listen(conform, "dir", 1);
    say_listen(conform, "none/none", 1);
    say_listen(conform, "file/none", 1);
    say_listen(conform, longest, 1);
    said_handle(conform, kelpie__os_connect(conform->os, 900, "s"), "connect below nothing");
    said_handle(conform, kelpie__os_listen(conform->os, 900, "s", 1), "listen below nothing");
    said_handle(conform, kelpie__os_connect(conform->os, file, "s"), "connect below a file");
    int listener = say_listen(conform, "dir/s", 1);
    say_close(conform, say_connect(conform, "dir/s"));
    say_close(conform, listener);
    say_close(conform, file);
}

static void connect_through_a_link(struct conform *conform) {
    int listener = say_listen(conform, "s", 1);
    said(conform, conform->make_link(conform, "s", "link"), "link to it");
    said(conform, conform->make_link(conform, "none", "dangling"), "link to nothing");
    say_close(conform, say_connect(conform, "link"));
    say_connect(conform, "dangling");
    say_listen(conform, "link", 1);
    say_listen(conform, "dangling", 1);
    say_close(conform, listener);
    say_connect(conform, "link");
}

static void say_peer(struct conform *conform, int stream, int32_t child, const char *what) {
    struct kelpie_os_peer peer = {0};
    struct kelpie_os_identity self = {0};
    int status = kelpie__os_peer(conform->os, stream, &peer);
    if (status < 0 || kelpie__os_identity(conform->os, &self) < 0) {
        said(conform, status, what);
        return;
    }
    say(conform, "%s: pid of %s, uid is %smine, gid is %smine", what,
        peer.pid == self.pid ? "mine"
        : peer.pid == child  ? "the child"
                             : "another",
        peer.uid == self.uid ? "" : "not ", peer.gid == self.gid ? "" : "not ");
}

static void peer_credentials(struct conform *conform) {
    int pair[2];
    int pipe[2];
    say_pair(conform, pair);
    say_pipe(conform, pipe);
    say_peer(conform, pair[0], 0, "a pair");
    say_peer(conform, pair[1], 0, "a pair");
    say_peer(conform, pipe[0], 0, "a pipe");
    say_peer(conform, 900, 0, "nothing");
    say_peer(conform, conform->directory, 0, "a directory");
    int listener = say_listen(conform, "s", 4);
    say_peer(conform, listener, 0, "a listener");
    struct conform_child child = child_start(conform, 0, &conform->directory, 1);
    child_ask(conform, &child, "connect s");
    int server = say_accept(conform, listener);
    say_peer(conform, server, child.pid, "a child's connection");
    int32_t pid = child.pid;
    child_ask(conform, &child, "exit 0");
    child_end(conform, &child);
    say_peer(conform, server, pid, "the same, after its death");
    say_close(conform, pair[0]);
    say_peer(conform, pair[1], 0, "a pair whose other end is closed");
    say_close(conform, pair[1]);
    say_close(conform, pipe[0]);
    say_close(conform, pipe[1]);
    say_close(conform, server);
    say_close(conform, listener);
}

/* The monitor's case: a listener made by one process, inherited and accepted on by another. */
static void listener_inherited(struct conform *conform) {
    int listener = say_listen(conform, "s", 4);
    struct conform_child child = child_start(conform, 0, &listener, 1);
    say_close(conform, listener);
    int client = say_connect(conform, "s");
    say_peer(conform, client, child.pid, "who made the listener");
    child_ask(conform, &child, "accept");
    child_ask(conform, &child, "accept");
    int waiting = say_connect(conform, "s");
    child_ask(conform, &child, "exit 0");
    child_end(conform, &child);
    say_wait(conform, client, KELPIE_OS_READABLE, "accepted, then dead");
    say_read(conform, client, 100);
    say_wait(conform, waiting, KELPIE_OS_READABLE, "never accepted");
    say_read(conform, waiting, 100);
    say_connect(conform, "s");
    say_close(conform, client);
    say_close(conform, waiting);
}

const struct conform_script conform_scripts_listener[] = {
    {"listen_accept_connect", listen_accept_connect, 0},
    {"listen_backlog", listen_backlog, 0},
    {"listen_order", listen_order, 0},
    {"listen_name_outlives", listen_name_outlives, 0},
    {"listen_renamed", listen_renamed, 0},
    {"listen_closed_with_clients", listen_closed_with_clients, 0},
    {"listen_early_bytes", listen_early_bytes, 0},
    {"listen_wrong_handles", listen_wrong_handles, 0},
    {"connect_to_other_things", connect_to_other_things, 0},
    {"connect_through_a_link", connect_through_a_link, 0},
    {"peer_credentials", peer_credentials, 0},
    {"listener_inherited", listener_inherited, 0},
    {NULL, NULL, 0},
};
