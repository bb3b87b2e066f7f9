/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Goal: faults in the whole product: what a swarm seed's plan fires is what its concrete plan fires
 * again, call for call; the reference model explains every answer; the trace of such a run can be
 * written. Method: a client with one VM makes drawn calls, under the plans of some seeds.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/json.h"
#include "lib/internal.h"
#include "os/os_call.h"
#include "sim/fault.h"
#include "sim/install.h"
#include "sim/machine.h"
#include "sim/model.h"
#include "sim/swarm.h"
#include "sim/trace.h"

#define SECOND INT64_C(1000000000)
#define STACK_BYTES (512u * 1024u)
#define PLAN_BYTES (1u << 20)
#define CALLS 24u

static const char *const environment[] = {"PATH=/usr/bin:/usr/sbin", "HOME=/root",
                                          "KELPIE_LIBEXEC=" SIM_LIBEXEC_DIRECTORY, NULL};

struct life {
    uint64_t seed;
    struct sim_model *model;
    bool has_model_problem;
    char model_text[SIM_MODEL_TEXT_MAX];
    uint32_t answers;
    uint32_t good; /* calls that were done */
    int statuses[CALLS * 2];
    bool is_done;
};

static uint64_t draw(struct life *life, uint64_t n, uint64_t bound) {
    return kelpie__sim_fault_hash(life->seed, "life", "client", 0, n) % bound;
}

static int do_exec(struct kelpie_vm *vm, uint64_t *out_code, struct kelpie_error *error) {
    static const char *const argv[] = {"echo", "hello", NULL};
    const struct kelpie_exec_options command = {.struct_size = sizeof(command), .argv = argv};
    struct kelpie_exec_result result = {.struct_size = sizeof(result)};
    int status = kelpie_vm_exec(vm, &command, &result, error);
    if (status == 0) {
        bool is_whole = strcmp(result.stdout_bytes, "hello\n") == 0;
        *out_code = is_whole ? (uint64_t)result.status.exit_code : 1000;
        kelpie_exec_result_release(&result);
    }
    return status;
}

static int do_call(struct kelpie_vm *vm, enum sim_model_op op, uint64_t *out_result,
                   struct kelpie_error *error) {
    struct kelpie_stop_result stopped = {0};
    int status = 0;
    if (op == SIM_MODEL_START) {
        status = kelpie_vm_start(vm, 0, error);
    } else if (op == SIM_MODEL_STOP) {
        status = kelpie_vm_stop(vm, 0, &stopped, error);
        *out_result = stopped.was_graceful ? 0 : 1;
    } else if (op == SIM_MODEL_KILL) {
        status = kelpie_vm_kill(vm, error);
    } else if (op == SIM_MODEL_PAUSE) {
        status = kelpie_vm_pause(vm, error);
    } else if (op == SIM_MODEL_RESUME) {
        status = kelpie_vm_resume(vm, error);
    } else {
        status = do_exec(vm, out_result, error);
    }
    return status;
}

static void note(struct life *life, uint64_t ticket, int status, uint64_t result) {
    if (life->answers < CALLS * 2) {
        life->statuses[life->answers] = status;
    }
    life->answers += 1;
    char text[SIM_MODEL_TEXT_MAX];
    if (!kelpie__sim_model_end(life->model, ticket, status, result, text) &&
        !life->has_model_problem) {
        life->has_model_problem = true;
        memcpy(life->model_text, text, sizeof(text));
    }
}

static void live(struct life *life, struct kelpie_vm *vm) {
    static const enum sim_model_op operations[] = {
        SIM_MODEL_START,  SIM_MODEL_START, SIM_MODEL_EXEC,  SIM_MODEL_EXEC,
        SIM_MODEL_EXEC,   SIM_MODEL_PAUSE, SIM_MODEL_PAUSE, SIM_MODEL_RESUME,
        SIM_MODEL_RESUME, SIM_MODEL_STOP,  SIM_MODEL_KILL};
    for (uint32_t i = 0; i < CALLS; i += 1) {
        struct kelpie_error error = {0};
        struct kelpie_vm_info info = {.struct_size = sizeof(info)};
        uint64_t result = 0;
        struct sim_model_call call = {
            .op = operations[draw(life, i, KELPIE_ARRAY_COUNT(operations))]};
        uint64_t ticket = kelpie__sim_model_begin(life->model, &call);
        int status = do_call(vm, call.op, &result, &error);
        note(life, ticket, status, result);
        life->good += status == 0 ? 1 : 0;
        call.op = SIM_MODEL_OBSERVE;
        ticket = kelpie__sim_model_begin(life->model, &call);
        status = kelpie_vm_inspect(vm, &info, &error);
        note(life, ticket, status, (uint64_t)info.state);
    }
}

static int client_main(struct kelpie_os *os, int argc, char **argv) {
    struct life *life = kelpie__sim_world_context(kelpie__sim_process_of(os)->machine->world);
    struct kelpie *kelpie = NULL;
    struct kelpie_vm *vm = NULL;
    struct kelpie_error error = {0};
    kelpie__ignore(argc > 0 && argv != NULL);
    if (kelpie__open_with_os(os, NULL, &kelpie, &error) == 0) {
        struct sim_model_call create = {.op = SIM_MODEL_CREATE};
        uint64_t ticket = kelpie__sim_model_begin(life->model, &create);
        struct kelpie_config *config = NULL;
        int status = kelpie_config_create(kelpie, &config, &error);
        if (status == 0) {
            kelpie_config_set_template(config, false);
            status = kelpie_vm_create(kelpie, "a", config, &vm, &error);
        }
        note(life, ticket, status, 0);
        if (status == 0) {
            live(life, vm);
        }
        kelpie_vm_close(vm);
        kelpie__ignore(kelpie__close_keeping_os(kelpie) == os);
    }
    life->is_done = true;
    return 0;
}

struct outcome {
    uint64_t hash;
    uint32_t fired;
    struct life life;
    char plan[PLAN_BYTES]; /* concrete */
};

static void run(const struct sim_swarm *swarm, const char *plan, struct sim_trace *trace,
                struct outcome *out) {
    static const char *const argv[] = {"client", NULL};
    const struct sim_start start = {.path = "/usr/bin/client",
                                    .role = "user",
                                    .main = client_main,
                                    .stack_bytes = STACK_BYTES,
                                    .argv = argv,
                                    .environment = environment};
    struct sim_options options = swarm->options;
    char problem[256] = "";
    options.plan = plan;
    options.trace = trace;
    struct sim_world *world = kelpie__sim_world_create(&options, problem);
    assert_string_equal(problem, "");
    memset(&out->life, 0, sizeof(out->life));
    out->life.seed = swarm->seed;
    out->life.model = kelpie__sim_model_create(swarm->is_calm);
    kelpie__sim_world_set_context(world, &out->life);
    assert_non_null(kelpie__sim_process_start(kelpie__sim_world_host(world), &start));
    kelpie__ignore((int64_t)kelpie__sim_world_run(world, NULL, NULL, 600 * SECOND));
    out->hash = kelpie__sim_world_hash(world);
    out->fired = kelpie__sim_faults_fired(kelpie__sim_world_faults(world));
    kelpie__ignore((int64_t)kelpie__sim_faults_concrete(kelpie__sim_world_faults(world), out->plan,
                                                        sizeof(out->plan)));
    kelpie__sim_model_destroy(out->life.model);
    kelpie__sim_world_destroy(world);
}

static void test_concrete_plans_replay_and_the_model_agrees(void **state) {
    static struct sim_swarm swarm;
    static struct outcome first;
    static struct outcome second;
    uint32_t fired = 0;
    uint32_t lives = 0;
    (void)state;
    for (uint64_t seed = 1; seed <= 150; seed += 1) {
        kelpie__sim_swarm_draw(seed, &swarm);
        run(&swarm, swarm.plan, NULL, &first);
        run(&swarm, first.plan, NULL, &second);
        assert_string_equal(first.plan, second.plan);
        assert_true(first.hash == second.hash);
        assert_int_equal(first.life.answers, second.life.answers);
        assert_memory_equal(first.life.statuses, second.life.statuses, sizeof(first.life.statuses));
        fired += first.fired > 0 ? 1 : 0;
        lives += first.life.good >= 5 ? 1 : 0;
        if (first.life.has_model_problem) {
            fail_msg("seed %u: %s\n%s", (unsigned)seed, first.life.model_text, first.plan);
        }
        if (swarm.is_calm) {
            assert_true(first.life.is_done); /* whatever the wall clock does */
            assert_false(first.life.has_model_problem);
        }
    }
    assert_true(fired > 75 && lives > 75); /* something was tried */
}

struct text {
    char *bytes;
    size_t length;
};

static void text_write(void *context, const char *piece, size_t length) {
    struct text *text = context;
    text->bytes = realloc(text->bytes, text->length + length + 1);
    assert_non_null(text->bytes);
    memcpy(text->bytes + text->length, piece, length);
    text->length += length;
    text->bytes[text->length] = '\0';
}

/* A trace changes nothing, and two of the same seed are equal. */
static void test_trace_of_a_run(void **state) {
    static struct sim_swarm swarm;
    static struct outcome plain;
    static struct outcome traced;
    struct text text = {0};
    char one[256];
    char other[256];
    struct sim_trace *traces[2];
    (void)state;
    kelpie__sim_swarm_draw(9, &swarm);
    run(&swarm, swarm.plan, NULL, &plain);
    for (uint32_t i = 0; i < 2; i += 1) {
        traces[i] = kelpie__sim_trace_create(SIM_TRACE_CALLS);
        assert_non_null(traces[i]);
        run(&swarm, swarm.plan, traces[i], &traced);
        assert_true(plain.hash == traced.hash);
    }
    assert_false(kelpie__sim_trace_compare(traces[0], traces[1], one, other, NULL));
    kelpie__sim_trace_json(traces[0], text_write, &text);
    assert_int_equal(kelpie__json_validate(text.bytes, text.length), 0);
    text.length = 0;
    kelpie__sim_trace_svg(traces[0], text_write, &text);
    assert_non_null(strstr(text.bytes, ">monitor-1</text>"));
    assert_non_null(strstr(text.bytes, ">guest-1</text>"));
    if (getenv("KELPIE_TRACE_KEEP") != NULL) {
        char path[512];
        snprintf(path, sizeof(path), "%s/life.svg", getenv("KELPIE_TRACE_KEEP"));
        FILE *file = fopen(path, "we");
        assert_non_null(file);
        assert_int_equal(fwrite(text.bytes, 1, text.length, file), text.length);
        fclose(file);
        text.length = 0;
        kelpie__sim_trace_story(traces[0], text_write, &text);
        print_message("%s", text.bytes);
    }
    free(text.bytes);
    swarm.options.seed += 1;
    struct sim_trace *third = kelpie__sim_trace_create(SIM_TRACE_CALLS);
    run(&swarm, swarm.plan, third, &traced);
    assert_true(kelpie__sim_trace_compare(traces[0], third, one, other, NULL));
    kelpie__sim_trace_destroy(third);
    kelpie__sim_trace_destroy(traces[0]);
    kelpie__sim_trace_destroy(traces[1]);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_concrete_plans_replay_and_the_model_agrees),
        cmocka_unit_test(test_trace_of_a_run),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
