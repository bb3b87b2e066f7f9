/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Scripts: drawn lives of children. Each has a grandchild at most; they are asked, stopped, killed,
 * they hold locks and ends of streams, and all that is visible of it is written down.
 */
#include "conformance.h"

#include <signal.h>
#include <stdio.h>

#define FAMILY_MAX 4u
#define FAMILY_CALLS 50u

struct member {
    struct conform_child child;
    int grand_stream; /* to the grandchild, or for the one to come */
    int grand_process;
    bool has_grand;
    bool is_stopped;
    bool is_told; /* a signal waits until it goes on */
};

struct family {
    struct conform *conform;
    uint64_t state;
    struct member members[FAMILY_MAX];
};

static uint32_t below(struct family *family, uint32_t bound) {
    family->state = family->state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(family->state >> 33) % bound;
}

static void member_start(struct family *family, struct member *member) {
    int pair[2];
    int handles[2];
    say_pair(family->conform, pair);
    handles[0] = pair[1];
    handles[1] = family->conform->directory;
    say(family->conform, "start %d", (int)(member - family->members));
    *member = (struct member){.grand_stream = pair[0], .grand_process = CONFORM_NONE};
    member->child = child_start(family->conform, 0, handles, 2);
    say_close(family->conform, pair[1]);
}

static void member_spawn(struct family *family, struct member *member) {
    bool dies = below(family, 2) == 0;
    if (member->has_grand || member->is_stopped) {
        return;
    }
    say(family->conform, "grandchild, %s", dies ? "bound" : "free");
    int64_t pid = child_number(family->conform, &member->child, dies ? "spawn die" : "spawn live");
    member->grand_process = said_handle(
        family->conform, kelpie__os_open_process(family->conform->os, (int32_t)pid), "open it");
    member->has_grand = true;
}

/* The child is dead or about to be: what becomes of it and of its own. */
static void member_end(struct family *family, struct member *member) {
    struct conform *conform = family->conform;
    child_end(conform, &member->child);
    if (member->has_grand) {
        const struct conform_child grand = {CONFORM_NONE, member->grand_stream, 0};
        child_ask(conform, &grand, "echo alive"); /* or it is gone with its parent */
        say_close(conform, member->grand_stream);
        say_wait(conform, member->grand_process, KELPIE_OS_READABLE, "the grandchild");
        say_close(conform, member->grand_process);
    } else {
        say_wait(conform, member->grand_stream, KELPIE_OS_READABLE, "the unused stream");
        say_close(conform, member->grand_stream);
    }
    member->has_grand = false;
}

static void member_signal(struct family *family, struct member *member) {
    static const int signals[] = {SIGTERM, SIGKILL, SIGSTOP, SIGCONT, SIGUSR1, SIGCHLD, SIGWINCH};
    int number = signals[below(family, KELPIE_ARRAY_COUNT(signals))];
    bool is_deadly = number == SIGTERM || number == SIGUSR1;
    say(family->conform, "signal %d to %d", number, (int)(member - family->members));
    if (number == SIGSTOP) {
        child_stop(family->conform, &member->child);
    } else {
        child_kill(family->conform, &member->child, number);
    }
    member->is_stopped = number == SIGSTOP || (member->is_stopped && number != SIGCONT);
    member->is_told = member->is_told || is_deadly;
    if (number == SIGKILL || (member->is_told && !member->is_stopped)) {
        member_end(family, member);
    }
}

static void member_ask(struct family *family, struct member *member) {
    static const char *const requests[] = {"echo hello", "lock lock", "unlock", "handles"};
    const char *request = requests[below(family, KELPIE_ARRAY_COUNT(requests))];
    if (member->is_stopped) {
        return;
    }
    child_ask(family->conform, &member->child, request);
}

static void family_lock(struct family *family) {
    struct conform *conform = family->conform;
    int file =
        kelpie__os_open(conform->os, conform->directory, "lock",
                        KELPIE_OS_OPEN_READ | KELPIE_OS_OPEN_WRITE | KELPIE_OS_OPEN_CREATE, 0600);
    bool shares = below(family, 2) == 0;
    said(conform,
         shares ? kelpie__os_lock_shared(conform->os, file) : kelpie__os_lock(conform->os, file),
         shares ? "lock_shared" : "lock");
    say_close(conform, file);
}

static void family_step(struct family *family) {
    struct member *member = &family->members[below(family, FAMILY_MAX)];
    uint32_t what = below(family, 8);
    if (member->child.process == CONFORM_NONE) {
        member_start(family, member);
        return;
    }
    switch (what) {
    case 0:
        member_spawn(family, member);
        break;
    case 1:
        member_signal(family, member);
        break;
    case 2:
    case 3:
    case 4:
        member_ask(family, member);
        break;
    case 5:
        say(family->conform, "%d:", (int)(member - family->members));
        say_ready(family->conform, member->child.process, "process");
        break;
    case 6:
        family_lock(family);
        break;
    default:
        if (!member->is_stopped && below(family, 3) == 0) {
            kelpie__ignore(
                kelpie__os_write(family->conform->os, member->child.control, "exit 9\n", 7));
            member_end(family, member);
        }
        break;
    }
}

static void random_families(struct conform *conform) {
    struct family family = {.conform = conform, .state = conform->seed * 77777};
    for (uint32_t i = 0; i < FAMILY_MAX; i += 1) {
        family.members[i].child.process = CONFORM_NONE;
    }
    for (uint32_t i = 0; i < FAMILY_CALLS; i += 1) {
        family_step(&family);
    }
    for (uint32_t i = 0; i < FAMILY_MAX; i += 1) {
        struct member *member = &family.members[i];
        if (member->child.process != CONFORM_NONE) {
            child_kill(conform, &member->child, SIGKILL);
            member_end(&family, member);
        }
    }
    family_lock(&family);
}

const struct conform_script conform_scripts_random_process[] = {
    {"random_families", random_families, CONFORM_RANDOM / 4},
    {NULL, NULL, 0},
};
