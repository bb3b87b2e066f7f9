/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * See search.h.
 */
#include "sim/search.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sim/trace_internal.h"

#define BIRTH_MAX 4096u
#define ID_DIGITS_MIN 8u

/* ---- what can happen to a call --------------------------------------------------------------- */

/* The errno by which an operation of a working kernel fails, as a plan spells it. NULL: it does not
 * fail, or nobody can tell. */
static const char *errno_of(enum sim_op op) {
    switch ((uint32_t)op) {
    case SIM_OP_memory:
    case SIM_OP_watch:
    case SIM_OP_run_ready:
        return "ENOMEM";
    case SIM_OP_spawn:
    case SIM_OP_make_ready:
    case SIM_OP_connect:
        return "EAGAIN";
    case SIM_OP_open:
    case SIM_OP_open_process:
    case SIM_OP_wait_handle:
    case SIM_OP_listen:
    case SIM_OP_accept:
    case SIM_OP_pair:
    case SIM_OP_pipe:
    case SIM_OP_memory_file:
    case SIM_OP_open_signals:
    case SIM_OP_open_terminal:
        return "EMFILE";
    case SIM_OP_pwrite:
    case SIM_OP_truncate:
    case SIM_OP_mkdir:
    case SIM_OP_rename:
    case SIM_OP_link:
        return "ENOSPC";
    case SIM_OP_write:
    case SIM_OP_send: /* that the peer has gone is no fault of the call: it is a kill of the peer */
        return "ENOMEM";
    case SIM_OP_read:
    case SIM_OP_receive:
        return NULL;
    case SIM_OP_real_path:
    case SIM_OP_page_map:
    case SIM_OP_read_memory:
    case SIM_OP_write_memory:
    case SIM_OP_peer:
    case SIM_OP_close:
    case SIM_OP_pread:
    case SIM_OP_sync:
    case SIM_OP_unlink:
    case SIM_OP_list:
    case SIM_OP_stat:
    case SIM_OP_space:
    case SIM_OP_lock:
    case SIM_OP_lock_shared:
    case SIM_OP_clone_range:
    case SIM_OP_next_data:
    case SIM_OP_mount:
    case SIM_OP_load_module:
    case SIM_OP_set_terminal_size:
    case SIM_OP_make_node:
    case SIM_OP_make_link:
    case SIM_OP_set_hostname:
    case SIM_OP_add_entropy:
    case SIM_OP_link_up:
    case SIM_OP_dial_host:
    case SIM_OP_random:
        return "EIO";
    case SIM_OP_set_wall_clock:
        return "EACCES";
    default: /* now, cycles, identity, environment, wait, signal, reap, label, exit, ... */
        return NULL;
    }
}

/* Nobody else can tell whether it has happened: to die there is to die at the next one, and to die
 * in one's own exit is to exit. */
static bool is_private(enum sim_op op) {
    return op == SIM_OP_exit || op == SIM_OP_now || op == SIM_OP_cycles || op == SIM_OP_memory ||
           op == SIM_OP_label || op == SIM_OP_identity || op == SIM_OP_environment ||
           op == SIM_OP_random || op == SIM_OP_wait_handle || op == SIM_OP_watch;
}

bool kelpie__sim_search_is_mutating(enum sim_op op) {
    return op == SIM_OP_open || op == SIM_OP_pwrite || op == SIM_OP_write ||
           op == SIM_OP_truncate || op == SIM_OP_sync || op == SIM_OP_rename ||
           op == SIM_OP_unlink || op == SIM_OP_mkdir || op == SIM_OP_link ||
           op == SIM_OP_clone_range || op == SIM_OP_listen;
}

/* Inhabitants of the simulated host can die and stop; their calls failing would be our own bug. */
static bool is_inhabitant(const char *role) {
    return strcmp(role, "qemu") == 0 || strcmp(role, "krun") == 0 || strcmp(role, "pack") == 0;
}

static bool is_product(const char *role) {
    return strcmp(role, "client") == 0 || strcmp(role, "monitor") == 0 ||
           strcmp(role, "agent") == 0 || is_inhabitant(role);
}

static bool fits(const struct sim_search_call *call, enum sim_search_kind kind) {
    switch (kind) {
    case SIM_SEARCH_FAIL:
    case SIM_SEARCH_FAIL_ALL:
        return !is_inhabitant(call->role) && errno_of(call->op) != NULL;
    case SIM_SEARCH_KILL:
    case SIM_SEARCH_POWER_LOSS:
        return !is_private(call->op);
    case SIM_SEARCH_STOP: /* a guest's processes stop with their guest only */
        return !is_private(call->op) && strcmp(call->role, "agent") != 0;
    case SIM_SEARCH_KIND_COUNT:
        break;
    }
    return false;
}

const char *kelpie__sim_search_kind_name(enum sim_search_kind kind) {
    static const char *const names[SIM_SEARCH_KIND_COUNT] = {"fail", "fail for ever", "kill",
                                                             "power loss", "stop"};
    KELPIE_ASSERT((size_t)kind < KELPIE_ARRAY_COUNT(names));
    return names[kind];
}

void kelpie__sim_search_rule(const struct sim_search *search, const struct sim_search_case *one,
                             char out[SIM_SEARCH_RULE_BYTES_MAX]) {
    static const char *const actions[SIM_SEARCH_KIND_COUNT] = {[SIM_SEARCH_KILL] = "kill",
                                                               [SIM_SEARCH_POWER_LOSS] =
                                                                   "power-loss",
                                                               [SIM_SEARCH_STOP] = "stop:10s"};
    KELPIE_ASSERT(one->kind < SIM_SEARCH_KIND_COUNT);
    const struct sim_search_call *call = &search->calls[one->call];
    const char *action = actions[one->kind] != NULL ? actions[one->kind] : errno_of(call->op);
    KELPIE_ASSERT(action != NULL && one->call < search->call_count);
    if (one->kind == SIM_SEARCH_FAIL_ALL) {
        bool has_label = call->what[0] != '\0' && strchr(call->what, '/') == NULL &&
                         call->op != SIM_OP_open && call->op != SIM_OP_stat;
        bool is_stream = call->op == SIM_OP_read || call->op == SIM_OP_write ||
                         call->op == SIM_OP_send || call->op == SIM_OP_receive;
        kelpie__ignore(snprintf(out, SIM_SEARCH_RULE_BYTES_MAX,
                                "%s%s%s role=%s birth=%u window=%lldns..1000000s => %s",
                                has_label && is_stream ? call->what : "",
                                has_label && is_stream ? "." : "", kelpie__sim_op_name(call->op),
                                call->role, call->birth, (long long)call->time_ns, action));
        return;
    }
    kelpie__ignore(snprintf(out, SIM_SEARCH_RULE_BYTES_MAX, "* role=%s birth=%u nth=%llu => %s",
                            call->role, call->birth, (unsigned long long)call->nth, action));
}

/* ---- sites ----------------------------------------------------------------------------------- */

/* Numbers and ids are what differs from run to run. */
void kelpie__sim_search_site(const struct sim_search_call *call,
                             char out[SIM_SEARCH_SITE_BYTES_MAX]) {
    const char *slash = strrchr(call->what, '/');
    const char *at = slash != NULL ? slash + 1 : call->what;
    size_t length = (size_t)snprintf(out, SIM_SEARCH_SITE_BYTES_MAX, "%s %s", call->role,
                                     kelpie__sim_op_name(call->op));
    if (*at != '\0') {
        out[length] = ' ';
        length += 1;
    }
    while (*at != '\0' && length + 2 < SIM_SEARCH_SITE_BYTES_MAX) { /* bound: the text */
        size_t digits = strspn(at, "0123456789");
        size_t hexadecimal = strspn(at, "0123456789abcdef");
        if (hexadecimal >= ID_DIGITS_MIN || digits > 0) {
            out[length] = hexadecimal >= ID_DIGITS_MIN ? '*' : '#';
            at += hexadecimal >= ID_DIGITS_MIN ? hexadecimal : digits;
        } else {
            out[length] = *at > ' ' && *at < 0x7f ? *at : '?';
            at += 1;
        }
        length += 1;
    }
    out[length] = '\0';
}

/* ---- the run without faults ------------------------------------------------------------------ */

static bool keep_calls(struct sim_search *search, const struct sim_trace *trace,
                       const struct sim_scenario_result *result) {
    uint64_t *counts = calloc(BIRTH_MAX, sizeof(*counts));
    search->calls = calloc(trace->kept + 1, sizeof(*search->calls));
    bool is_whole = counts != NULL && search->calls != NULL && trace->kept == trace->call_count;
    for (uint32_t i = 0; is_whole && i < trace->kept; i += 1) {
        const struct sim_trace_call *kept = kelpie__sim_trace_kept(trace, i);
        is_whole = kept->birth < BIRTH_MAX;
        if (!is_whole || !is_product(kept->role)) {
            continue;
        }
        counts[kept->birth] += 1;
        struct sim_search_call *call = &search->calls[search->call_count];
        *call = (struct sim_search_call){
            .birth = kept->birth,
            .nth = counts[kept->birth],
            .time_ns = kept->time_ns,
            .op = (enum sim_op)kept->op,
            .is_of_operation = kept->number > result->first && kept->number <= result->last,
            .is_of_looking = kept->number > result->last && kept->number <= result->looked};
        memcpy(call->role, kept->role, sizeof(call->role));
        memcpy(call->what, kept->what, sizeof(call->what));
        search->call_count += 1;
    }
    free(counts);
    return is_whole;
}

bool kelpie__sim_search_has_case(const struct sim_search_call *call) {
    bool has_case = false;
    for (uint32_t kind = 0; kind < SIM_SEARCH_KIND_COUNT; kind += 1) {
        has_case = has_case || fits(call, (enum sim_search_kind)kind);
    }
    return has_case;
}

static bool list_cases(struct sim_search *search) {
    search->cases =
        calloc((size_t)search->call_count * SIM_SEARCH_KIND_COUNT + 1, sizeof(*search->cases));
    for (uint32_t i = 0; search->cases != NULL && i < search->call_count; i += 1) {
        for (uint32_t kind = 0; kind < SIM_SEARCH_KIND_COUNT; kind += 1) {
            if (search->calls[i].is_of_operation &&
                fits(&search->calls[i], (enum sim_search_kind)kind)) {
                search->cases[search->case_count] =
                    (struct sim_search_case){i, (enum sim_search_kind)kind};
                search->case_count += 1;
            }
        }
    }
    return search->cases != NULL;
}

enum kelpie_sim_verdict kelpie__sim_search_begin(struct sim_search *search,
                                                 const struct sim_scenario_options *options,
                                                 char out_reason[SIM_RUN_REASON_BYTES_MAX]) {
    struct sim_scenario_options traced = *options;
    struct sim_scenario_result result;
    *search = (struct sim_search){.scenario = options->scenario, .seed = options->seed};
    traced.trace = kelpie__sim_trace_create(SIM_TRACE_CALLS);
    if (traced.trace == NULL) {
        kelpie__ignore(snprintf(out_reason, SIM_RUN_REASON_BYTES_MAX, "no memory for a trace"));
        return KELPIE_SIM_CRASHED;
    }
    kelpie__sim_scenario_run(&traced, &result);
    enum kelpie_sim_verdict verdict = result.run.verdict;
    search->hash = result.run.hash;
    kelpie__ignore(snprintf(out_reason, SIM_RUN_REASON_BYTES_MAX, "%s", result.run.reason));
    if (verdict == KELPIE_SIM_PASS &&
        !(keep_calls(search, traced.trace, &result) && list_cases(search))) {
        kelpie__ignore(snprintf(out_reason, SIM_RUN_REASON_BYTES_MAX,
                                "the scenario makes more calls than are kept"));
        verdict = KELPIE_SIM_CRASHED;
    }
    kelpie__sim_scenario_release(&result);
    kelpie__sim_trace_destroy(traced.trace);
    return verdict;
}

void kelpie__sim_search_end(struct sim_search *search) {
    free(search->calls);
    free(search->cases);
    *search = (struct sim_search){0};
}
