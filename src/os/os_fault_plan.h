/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Fault plans as text (docs/testing.md), for the real programs and for the simulator. One rule a
 * line, or separated by ';'; a first line may say where the plan is from:
 *     kelpie-plan 1 seed=42 commit=0123abc options=disk=posix,cost=1
 *     point [conditions] => action[:argument]
 *     boot fails p=0.5
 * The last form is an alias: one of the contract's names with conditions. A line's rest from a '#'
 * that begins or follows a rule is a comment. What only the simulator can do is marked in the rule,
 * and refused by kelpie__fault_plan_parse.
 */
#ifndef KELPIE_OS_OS_FAULT_PLAN_H
#define KELPIE_OS_OS_FAULT_PLAN_H

#include "core/base.h"

#define KELPIE_FAULT_PLAN_VERSION 1u
#define KELPIE_FAULT_RULE_MAX 32u /* of a real program; the simulator has a limit of its own */
#define KELPIE_FAULT_TEXT_MAX 64u
#define KELPIE_FAULT_LINE_MAX 512u /* any rule as text */
#define KELPIE_FAULT_PROBLEM_MAX 256u
#define KELPIE_FAULT_PER_ONE 1000000000u /* a probability is a number of billionths */

enum kelpie_fault_trigger {
    KELPIE_FAULT_ALWAYS, /* only with a window or a mark */
    KELPIE_FAULT_PROBABILITY,
    KELPIE_FAULT_NTH,
    KELPIE_FAULT_EVERY,
};

enum kelpie_fault_action {
    KELPIE_FAULT_ERRNO,      /* the call fails; argument: the errno value */
    KELPIE_FAULT_KILL,       /* SIGKILL of this process */
    KELPIE_FAULT_STOP,       /* SIGSTOP of this process; argument: for so many ns, 0: for good */
    KELPIE_FAULT_KILL_CHILD, /* SIGKILL of the children whose path matches path= (of the spawn) */
    KELPIE_FAULT_STOP_CHILD,
    KELPIE_FAULT_DELAY, /* what is read arrives so many ms later */
    KELPIE_FAULT_SHORT, /* at most so many bytes (1) */
    /* one bit of what was read is changed; argument: in its n-th byte, 0: anywhere */
    KELPIE_FAULT_MUTATE,
    KELPIE_FAULT_DROP, /* what was read is thrown away */
    /* from here on: the simulator's */
    KELPIE_FAULT_LIE,        /* success is reported, and the effect may be lost */
    KELPIE_FAULT_POWER_LOSS, /* argument: enum kelpie_fault_profile */
    KELPIE_FAULT_JUMP,       /* of the wall clock; argument: ns, signed */
    KELPIE_FAULT_FULL,       /* the disk is full, for so many ns (0: for good) */
    KELPIE_FAULT_READ_ONLY,  /* likewise */
    KELPIE_FAULT_ROT,        /* one bit of the file that the mark names, or of one below it */
    KELPIE_FAULT_SWIZZLE,    /* a subset of the host's processes stops, and goes on so much later */
    KELPIE_FAULT_NAMED,      /* an inhabitant does it: kelpie__fault_action_name says what */
};

enum kelpie_fault_profile {
    KELPIE_FAULT_PROFILE_ANY,
    KELPIE_FAULT_PROFILE_EXT4,
    KELPIE_FAULT_PROFILE_POSIX,
};

/* What a point is. */
enum kelpie_fault_point_kind {
    KELPIE_FAULT_POINT_ANY,     /* "*" */
    KELPIE_FAULT_POINT_CALL,    /* an operation of the os table */
    KELPIE_FAULT_POINT_LABEL,   /* of a labelled handle */
    KELPIE_FAULT_POINT_NAMED,   /* of an inhabitant of the simulator: "qmp.stop" */
    KELPIE_FAULT_POINT_WORLD,   /* "disk", "clock", "host" */
    KELPIE_FAULT_POINT_UNKNOWN, /* none */
};

struct kelpie_fault_rule {
    char point[KELPIE_FAULT_TEXT_MAX];
    char role[KELPIE_FAULT_TEXT_MAX]; /* "": any */
    char path[KELPIE_FAULT_TEXT_MAX]; /* "": any; * matches any bytes */
    char vm[KELPIE_FAULT_TEXT_MAX];   /* likewise */
    char mark[KELPIE_FAULT_TEXT_MAX]; /* after=mark:..., likewise; "": none */
    enum kelpie_fault_point_kind kind;
    enum kelpie_fault_trigger trigger;
    uint64_t value; /* billionths, or n */
    uint64_t birth; /* of the process; 0: any */
    bool has_window;
    bool needs_pending; /* while=pending: only while the disk has writes that a crash would lose */
    bool is_lie;        /* EIO:lie: the call fails once, and its data counts as written */
    bool is_simulated;  /* only the simulator can do it */
    uint64_t window_begin_ns;
    uint64_t window_end_ns;
    uint64_t max; /* firings; 0: no limit */
    enum kelpie_fault_action action;
    uint32_t action_index; /* of the action's name */
    uint64_t argument;
    uint64_t calls; /* that matched so far */
    uint64_t fired;
};

struct kelpie_fault_header {
    bool is_given;
    bool has_seed;
    uint64_t seed;
    char commit[KELPIE_FAULT_TEXT_MAX];
    char options[KELPIE_FAULT_TEXT_MAX * 4];
};

/* Rule by rule, without a limit. */
struct kelpie_fault_reader {
    const char *text; /* borrowed: while it is read */
    const char *at;
    struct kelpie_fault_header header;
    char problem[KELPIE_FAULT_PROBLEM_MAX]; /* "line 3, column 14: ..." */
};

/* Reads the header, if there is one. False: `problem` says why. */
KELPIE_MUST_CHECK bool kelpie__fault_reader_open(struct kelpie_fault_reader *reader,
                                                 const char *text);
/* 1: a rule. 0: the end. -1: `problem` says what is wrong. */
KELPIE_MUST_CHECK int kelpie__fault_reader_next(struct kelpie_fault_reader *reader,
                                                struct kelpie_fault_rule *out);

struct kelpie_fault_plan {
    uint32_t count;
    struct kelpie_fault_rule rules[KELPIE_FAULT_RULE_MAX];
    struct kelpie_fault_header header;
};

/* A whole plan of a real program. False: out_problem says where, and what was expected. */
KELPIE_MUST_CHECK bool kelpie__fault_plan_parse(const char *text, struct kelpie_fault_plan *out,
                                                char out_problem[KELPIE_FAULT_PROBLEM_MAX]);
KELPIE_MUST_CHECK bool kelpie__fault_glob(const char *pattern, const char *text);
/* "EIO" or "kill", as the plan spells it. */
const char *kelpie__fault_action_name(const struct kelpie_fault_rule *rule);
/* The rule as a plan spells it, without a newline; gives its length. */
size_t kelpie__fault_rule_format(const struct kelpie_fault_rule *rule,
                                 char out[KELPIE_FAULT_LINE_MAX]);

/* ---- the words (os_fault_words.c) ------------------------------------------------------------ */

enum kelpie_fault_argument {
    KELPIE_FAULT_ARGUMENT_NONE,
    KELPIE_FAULT_ARGUMENT_NUMBER,
    KELPIE_FAULT_ARGUMENT_LIE,     /* ":lie", or the number that the name stands for */
    KELPIE_FAULT_ARGUMENT_TIME,    /* "10s", "250ms"; a bare number is ms */
    KELPIE_FAULT_ARGUMENT_JUMP,    /* signed; a bare number is s */
    KELPIE_FAULT_ARGUMENT_PROFILE, /* ext4, posix */
};

struct kelpie_fault_word {
    const char *name;
    enum kelpie_fault_action action;
    uint64_t argument; /* when none is given */
    enum kelpie_fault_argument takes;
    bool is_real; /* os_fault can do it */
};

struct kelpie_fault_alias {
    const char *name;
    const char *point;
    const char *mark;
    const char *action;
};

uint32_t kelpie__fault_word_count(void);
const struct kelpie_fault_word *kelpie__fault_word(uint32_t index);
/* The index-th alias; NULL after the last. */
const struct kelpie_fault_alias *kelpie__fault_alias(uint32_t index);
enum kelpie_fault_point_kind kelpie__fault_point_kind(const char *point);
/* Points of inhabitants and of the world, with the actions that each knows, separated by blanks;
 * false after the last. */
bool kelpie__fault_point(uint32_t index, const char **out_point, const char **out_actions);
/* Whether a point of that kind knows the action. */
bool kelpie__fault_point_knows(const char *point, enum kelpie_fault_point_kind kind,
                               const struct kelpie_fault_word *word);

#endif
