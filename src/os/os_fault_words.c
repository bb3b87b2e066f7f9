/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * The words of fault plans: operations, points of the simulator's inhabitants, actions, aliases.
 * Nothing is understood that does not stand here. And how a rule is written.
 */
#include "os/os_fault_plan.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define NS_PER_S UINT64_C(1000000000)
#define NS_PER_MS UINT64_C(1000000)

static const char *const operations[] = {
    "now",
    "cycles",
    "random",
    "memory",
    "identity",
    "environment",
    "real_path",
    "watch",
    "wait",
    "wait_handle",
    "spawn",
    "open_process",
    "signal",
    "reap",
    "page_map",
    "read_memory",
    "write_memory",
    "listen",
    "accept",
    "connect",
    "pair",
    "pipe",
    "peer",
    "read",
    "write",
    "send",
    "receive",
    "shut_write",
    "close",
    "label",
    "open",
    "pread",
    "pwrite",
    "truncate",
    "sync",
    "rename",
    "unlink",
    "link",
    "mkdir",
    "list",
    "stat",
    "space",
    "lock",
    "lock_shared",
    "clone_range",
    "next_data",
    "memory_file",
    "open_signals",
    "take_signal",
    "is_terminal",
    "terminal_size",
    "set_terminal_size",
    "set_terminal_raw",
    "exit",
    "mount",
    "enter_root",
    "load_module",
    "open_terminal",
    "set_wall_clock",
    "add_entropy",
    "set_hostname",
    "make_node",
    "make_link",
    "reap_any",
    "kill_pid",
    "sync_all",
    "halt",
    "link_up",
    "dial_host",
    "make_ready",
    "run_ready",
};

#define ACTIONS_KRUN "fail hang die"
#define ACTIONS_QMP "fail hang late drop die swap"
#define ACTIONS_STATE ACTIONS_QMP " short huge corrupt"

static const struct {
    const char *point;
    const char *actions;
} points[] = {
    {"qemu.start", "fail hang die flood late"},
    {"qemu.kvm", "hang die"},
    {"qmp.greeting", "hang late torn die"},
    {"qmp.event", "drop late swap"},
    {"qmp.qmp_capabilities", ACTIONS_QMP},
    {"qmp.query-status", ACTIONS_QMP},
    {"qmp.query-version", ACTIONS_QMP},
    {"qmp.query-block", ACTIONS_QMP},
    {"qmp.query-cpus-fast", ACTIONS_QMP},
    {"qmp.query-migrate", ACTIONS_QMP},
    {"qmp.query-stats", ACTIONS_QMP},
    {"qmp.stop", ACTIONS_QMP},
    {"qmp.cont", ACTIONS_QMP},
    {"qmp.quit", ACTIONS_QMP},
    {"qmp.system_powerdown", ACTIONS_QMP},
    {"qmp.system_reset", ACTIONS_QMP},
    {"qmp.getfd", ACTIONS_QMP},
    {"qmp.closefd", ACTIONS_QMP},
    {"qmp.add-fd", ACTIONS_QMP},
    {"qmp.remove-fd", ACTIONS_QMP},
    {"qmp.human-monitor-command", ACTIONS_QMP},
    {"qmp.blockdev-add", ACTIONS_QMP},
    {"qmp.blockdev-del", ACTIONS_QMP},
    {"qmp.blockdev-snapshot-sync", ACTIONS_QMP},
    {"qmp.blockdev-snapshot", ACTIONS_QMP},
    {"qmp.balloon", ACTIONS_QMP},
    {"qmp.migrate-set-capabilities", ACTIONS_QMP},
    {"qmp.migrate-set-parameters", ACTIONS_QMP},
    {"qmp.migrate_cancel", ACTIONS_QMP},
    {"qmp.migrate", ACTIONS_STATE},
    {"qmp.migrate-incoming", ACTIONS_STATE},
    {"qmp.xen-save-devices-state", ACTIONS_STATE},
    {"guest.boot", "panic hang reset deaf late"},
    {"guest.load", "panic hang deaf corrupt"},
    {"guest.exec", "fail hang panic reset deaf"},
    {"guest.ready", "die hang"},
    {"agent.frame", "mutate drop duplicate torn late flood"},
    {"pack.run", "fail hang die late"},
    {"krun.init_log", ACTIONS_KRUN},
    {"krun.create_ctx", ACTIONS_KRUN},
    {"krun.set_vm_config", ACTIONS_KRUN},
    {"krun.set_root", ACTIONS_KRUN},
    {"krun.set_exec", ACTIONS_KRUN},
    {"krun.add_disk2", ACTIONS_KRUN},
    {"krun.disable_implicit_vsock", ACTIONS_KRUN},
    {"krun.add_vsock", ACTIONS_KRUN},
    {"krun.add_vsock_port2", ACTIONS_KRUN},
    {"krun.set_console_output", ACTIONS_KRUN},
    {"krun.start_enter", ACTIONS_KRUN},
    /* the world's */
    {"disk", "power-loss full read-only rot"},
    {"clock", "jump"},
    {"host", "power-loss swizzle"},
};

#define CALL_ERRNO(name)                                                                           \
    { #name, KELPIE_FAULT_ERRNO, name, KELPIE_FAULT_ARGUMENT_LIE, true }
#define NAMED(name)                                                                                \
    { name, KELPIE_FAULT_NAMED, 0, KELPIE_FAULT_ARGUMENT_NONE, false }

static const struct kelpie_fault_word words[] = {
    CALL_ERRNO(EIO),
    CALL_ERRNO(ENOSPC),
    CALL_ERRNO(ENOMEM),
    CALL_ERRNO(EMFILE),
    CALL_ERRNO(EACCES),
    CALL_ERRNO(ENOENT),
    CALL_ERRNO(EROFS),
    CALL_ERRNO(EAGAIN),
    CALL_ERRNO(EPIPE),
    CALL_ERRNO(ECONNRESET),
    {"kill", KELPIE_FAULT_KILL, 0, KELPIE_FAULT_ARGUMENT_NONE, true},
    {"stop", KELPIE_FAULT_STOP, 0, KELPIE_FAULT_ARGUMENT_TIME, true},
    {"kill-child", KELPIE_FAULT_KILL_CHILD, 0, KELPIE_FAULT_ARGUMENT_NONE, true},
    {"stop-child", KELPIE_FAULT_STOP_CHILD, 0, KELPIE_FAULT_ARGUMENT_NONE, true},
    {"delay", KELPIE_FAULT_DELAY, 1000, KELPIE_FAULT_ARGUMENT_NUMBER, true},
    {"short", KELPIE_FAULT_SHORT, 1, KELPIE_FAULT_ARGUMENT_NUMBER, true},
    {"mutate", KELPIE_FAULT_MUTATE, 0, KELPIE_FAULT_ARGUMENT_NUMBER, true},
    {"drop", KELPIE_FAULT_DROP, 0, KELPIE_FAULT_ARGUMENT_NONE, true},
    {"lie", KELPIE_FAULT_LIE, 0, KELPIE_FAULT_ARGUMENT_NONE, false},
    {"power-loss", KELPIE_FAULT_POWER_LOSS, 0, KELPIE_FAULT_ARGUMENT_PROFILE, false},
    {"jump", KELPIE_FAULT_JUMP, 0, KELPIE_FAULT_ARGUMENT_JUMP, false},
    {"full", KELPIE_FAULT_FULL, 0, KELPIE_FAULT_ARGUMENT_TIME, false},
    {"read-only", KELPIE_FAULT_READ_ONLY, 0, KELPIE_FAULT_ARGUMENT_TIME, false},
    {"rot", KELPIE_FAULT_ROT, 0, KELPIE_FAULT_ARGUMENT_NONE, false},
    {"swizzle", KELPIE_FAULT_SWIZZLE, UINT64_C(1000000000), KELPIE_FAULT_ARGUMENT_TIME, false},
    {"late", KELPIE_FAULT_NAMED, NS_PER_S, KELPIE_FAULT_ARGUMENT_TIME, false},
    NAMED("fail"),
    NAMED("hang"),
    NAMED("panic"),
    NAMED("reset"),
    NAMED("deaf"),
    NAMED("die"),
    NAMED("flood"),
    NAMED("torn"),
    NAMED("swap"),
    NAMED("huge"),
    NAMED("corrupt"),
    NAMED("duplicate"),
};

static const struct kelpie_fault_alias aliases[] = {
    {"boot fails", "guest.boot", "", "panic"},
    {"boot times out", "guest.boot", "", "hang"},
    {"crash", "guest.exec", "", "panic"},
    {"pause fails", "qmp.stop", "", "fail"},
    {"resume fails", "qmp.cont", "", "fail"},
    {"exec fails", "guest.exec", "", "fail"},
    {"exec times out", "guest.exec", "", "hang"},
    {"snapshot create fails", "qmp.xen-save-devices-state", "", "fail"},
    {"snapshot too large", "qmp.xen-save-devices-state", "", "huge"},
    {"snapshot corrupted", "disk", "*/snapshots/*", "rot"},
    {"restore fails", "qmp.migrate-incoming", "", "fail"},
};

uint32_t kelpie__fault_word_count(void) {
    return KELPIE_ARRAY_COUNT(words);
}

const struct kelpie_fault_word *kelpie__fault_word(uint32_t index) {
    KELPIE_ASSERT(index < KELPIE_ARRAY_COUNT(words));
    return &words[index];
}

const struct kelpie_fault_alias *kelpie__fault_alias(uint32_t index) {
    return index < KELPIE_ARRAY_COUNT(aliases) ? &aliases[index] : NULL;
}

static bool is_operation(const char *name) {
    for (size_t i = 0; i < KELPIE_ARRAY_COUNT(operations); i += 1) {
        if (strcmp(operations[i], name) == 0) {
            return true;
        }
    }
    return false;
}

enum kelpie_fault_point_kind kelpie__fault_point_kind(const char *point) {
    if (strcmp(point, "*") == 0) {
        return KELPIE_FAULT_POINT_ANY;
    }
    if (is_operation(point)) {
        return KELPIE_FAULT_POINT_CALL;
    }
    for (size_t i = 0; i < KELPIE_ARRAY_COUNT(points); i += 1) {
        if (strcmp(points[i].point, point) == 0) {
            return strchr(point, '.') != NULL ? KELPIE_FAULT_POINT_NAMED : KELPIE_FAULT_POINT_WORLD;
        }
    }
    const char *dot = strchr(point, '.');
    if (dot != NULL && dot != point && is_operation(dot + 1)) {
        return KELPIE_FAULT_POINT_LABEL;
    }
    return KELPIE_FAULT_POINT_UNKNOWN;
}

bool kelpie__fault_point(uint32_t index, const char **out_point, const char **out_actions) {
    if (index >= KELPIE_ARRAY_COUNT(points)) {
        return false;
    }
    *out_point = points[index].point;
    *out_actions = points[index].actions;
    return true;
}

/* Whether a list of words separated by single blanks holds the name. */
static bool list_holds(const char *list, const char *name) {
    KELPIE_ASSERT(name[0] != '\0');
    size_t length = strlen(name);
    const char *at = list;
    while (at != NULL && *at != '\0') { /* bound: the list */
        size_t word = strcspn(at, " ");
        if (word == length && memcmp(at, name, word) == 0) {
            return true;
        }
        at += word;
        at += *at == ' ' ? 1 : 0;
    }
    return false;
}

bool kelpie__fault_point_knows(const char *point, enum kelpie_fault_point_kind kind,
                               const struct kelpie_fault_word *word) {
    switch (kind) {
    case KELPIE_FAULT_POINT_ANY:
    case KELPIE_FAULT_POINT_CALL:
    case KELPIE_FAULT_POINT_LABEL:
        return word->is_real || word->action == KELPIE_FAULT_LIE ||
               word->action == KELPIE_FAULT_POWER_LOSS || word->action == KELPIE_FAULT_JUMP;
    case KELPIE_FAULT_POINT_NAMED:
    case KELPIE_FAULT_POINT_WORLD:
        for (size_t i = 0; i < KELPIE_ARRAY_COUNT(points); i += 1) {
            if (strcmp(points[i].point, point) == 0) {
                bool is_signal =
                    kind == KELPIE_FAULT_POINT_NAMED &&
                    (word->action == KELPIE_FAULT_KILL || word->action == KELPIE_FAULT_STOP ||
                     word->action == KELPIE_FAULT_POWER_LOSS);
                return is_signal || list_holds(points[i].actions, word->name);
            }
        }
        return false;
    case KELPIE_FAULT_POINT_UNKNOWN:
        return false;
    }
    return false;
}

/* ---- writing --------------------------------------------------------------------------------- */

/* A text that grows at its end; what does not fit is cut. */
struct plan_line {
    char *text;
    size_t length;
};

KELPIE_PRINTF(2, 3) static void line_add(struct plan_line *line, const char *format, ...) {
    KELPIE_ASSERT(line->length < KELPIE_FAULT_LINE_MAX);
    va_list arguments;
    va_start(arguments, format);
    size_t room = KELPIE_FAULT_LINE_MAX - line->length;
    int length = vsnprintf(line->text + line->length, room, format, arguments);
    va_end(arguments);
    KELPIE_ASSERT(length >= 0);
    line->length += (size_t)length < room ? (size_t)length : room - 1;
    KELPIE_ASSERT(line->length < KELPIE_FAULT_LINE_MAX);
}

static void line_add_text(struct plan_line *line, const char *key, const char *value) {
    KELPIE_ASSERT(key[0] != '\0');
    if (value[0] != '\0') {
        line_add(line, " %s=%s", key, value);
    }
}

static void line_add_time(struct plan_line *line, uint64_t time_ns) {
    if (time_ns % NS_PER_S == 0) {
        line_add(line, "%llus", (unsigned long long)(time_ns / NS_PER_S));
    } else if (time_ns % NS_PER_MS == 0) {
        line_add(line, "%llums", (unsigned long long)(time_ns / NS_PER_MS));
    } else {
        line_add(line, "%lluns", (unsigned long long)time_ns);
    }
}

static void line_add_trigger(struct plan_line *line, const struct kelpie_fault_rule *rule) {
    switch (rule->trigger) {
    case KELPIE_FAULT_ALWAYS:
        break;
    case KELPIE_FAULT_PROBABILITY:
        KELPIE_ASSERT(rule->value <= KELPIE_FAULT_PER_ONE);
        line_add(line, " p=%llu.%09llu", (unsigned long long)(rule->value / KELPIE_FAULT_PER_ONE),
                 (unsigned long long)(rule->value % KELPIE_FAULT_PER_ONE));
        break;
    case KELPIE_FAULT_NTH:
        line_add(line, " nth=%llu", (unsigned long long)rule->value);
        break;
    case KELPIE_FAULT_EVERY:
        line_add(line, " every=%llu", (unsigned long long)rule->value);
        break;
    }
}

static void line_add_action(struct plan_line *line, const struct kelpie_fault_rule *rule) {
    const struct kelpie_fault_word *word = kelpie__fault_word(rule->action_index);
    KELPIE_ASSERT(word->action == rule->action);
    line_add(line, " => %s", word->name);
    switch (word->takes) {
    case KELPIE_FAULT_ARGUMENT_NONE:
        break;
    case KELPIE_FAULT_ARGUMENT_NUMBER:
        line_add(line, ":%llu", (unsigned long long)rule->argument);
        break;
    case KELPIE_FAULT_ARGUMENT_LIE:
        line_add(line, "%s", rule->is_lie ? ":lie" : "");
        break;
    case KELPIE_FAULT_ARGUMENT_TIME:
        if (rule->argument != 0) {
            line_add(line, ":");
            line_add_time(line, rule->argument);
        }
        break;
    case KELPIE_FAULT_ARGUMENT_JUMP: {
        bool is_negative = (int64_t)rule->argument < 0;
        line_add(line, ":%s", is_negative ? "-" : "");
        line_add_time(line, is_negative ? 0 - rule->argument : rule->argument);
        break;
    }
    case KELPIE_FAULT_ARGUMENT_PROFILE:
        line_add(line, "%s",
                 rule->argument == KELPIE_FAULT_PROFILE_EXT4    ? ":ext4"
                 : rule->argument == KELPIE_FAULT_PROFILE_POSIX ? ":posix"
                                                                : "");
        break;
    }
}

size_t kelpie__fault_rule_format(const struct kelpie_fault_rule *rule,
                                 char out[KELPIE_FAULT_LINE_MAX]) {
    struct plan_line line = {.text = out};
    KELPIE_ASSERT(rule->point[0] != '\0');
    out[0] = '\0';
    line_add(&line, "%s", rule->point);
    line_add_text(&line, "role", rule->role);
    if (rule->birth != 0) {
        line_add(&line, " birth=%llu", (unsigned long long)rule->birth);
    }
    line_add_text(&line, "path", rule->path);
    line_add_text(&line, "vm", rule->vm);
    if (rule->mark[0] != '\0') {
        line_add(&line, " after=mark:%s", rule->mark);
    }
    if (rule->has_window) {
        line_add(&line, " window=");
        line_add_time(&line, rule->window_begin_ns);
        line_add(&line, "..");
        line_add_time(&line, rule->window_end_ns);
    }
    line_add(&line, "%s", rule->needs_pending ? " while=pending" : "");
    line_add_trigger(&line, rule);
    if (rule->max != 0) {
        line_add(&line, " max=%llu", (unsigned long long)rule->max);
    }
    line_add_action(&line, rule);
    KELPIE_ASSERT(line.length < KELPIE_FAULT_LINE_MAX);
    return line.length;
}
