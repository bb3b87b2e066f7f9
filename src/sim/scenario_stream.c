/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Steps of scenarios (scenario_step.h) with commands whose output is streamed. Output is the
 * simulator's pattern from offset 0 (programs.h); whatever comes has to be a piece of it, without a
 * gap.
 */
#include <string.h>

#include "core/limits.h"
#include "core/text.h"
#include "sim/programs.h"
#include "sim/scenario_step.h"

#define STREAM_TURNS_MAX 100000u
#define STREAM_BYTES_MAX 8192u
#define CODES_EXEC                                                                                 \
    (SIM_CODES_ANY | SIM_CODE(EXEC) | SIM_CODE(EXEC_TIMEOUT) | SIM_CODE(EXEC_NOT_FOUND) |          \
     SIM_CODE(EXEC_DENIED))

static void on_output(void *context, struct kelpie_exec *exec, enum kelpie_stream stream,
                      const void *bytes, size_t count) {
    struct sim_player *player = context;
    KELPIE_ASSERT(exec != NULL && (stream == KELPIE_STDOUT || stream == KELPIE_STDERR));
    if (stream == KELPIE_STDERR) {
        if (count > 0) {
            kelpie__sim_world_fail(player->scene->world, "invariant 11: the command complains");
        }
        return;
    }
    size_t right = kelpie__sim_pattern_length(bytes, count, player->output_bytes);
    if (right < count) {
        kelpie__sim_world_fail(player->scene->world,
                               "invariant 11: byte %llu of the output is another one",
                               (unsigned long long)(player->output_bytes + right));
    }
    player->output_bytes += count;
    player->scene->exec_seen_bytes = player->output_bytes;
}

static void on_ended(void *context, struct kelpie_exec *exec,
                     const struct kelpie_exec_status *status, const struct kelpie_error *error) {
    struct sim_player *player = context;
    KELPIE_ASSERT(exec != NULL && (status == NULL) == (error != NULL));
    if (player->has_end) {
        kelpie__sim_world_fail(player->scene->world, "contract: a command's end is told twice");
    }
    player->has_end = true;
    player->is_end_good = status != NULL;
    player->status = status != NULL ? *status : (struct kelpie_exec_status){0};
}

static const struct kelpie_exec_callbacks callbacks = {
    .struct_size = sizeof(callbacks), .output = on_output, .ended = on_ended};

bool kelpie__sim_step_exec_start(struct sim_player *player, const char *const *argv,
                                 bool has_terminal, bool keeps_on) {
    KELPIE_ASSERT(player->kelpie != NULL);
    struct kelpie_error error = {0};
    const struct kelpie_exec_options options = {.struct_size = sizeof(options),
                                                .argv = argv,
                                                .has_stdin = true,
                                                .has_terminal = has_terminal,
                                                .keep_on_disconnect = keeps_on};
    player->has_end = false;
    player->output_bytes = 0;
    int status =
        kelpie_vm_exec_start(player->vm, &options, &callbacks, player, &player->exec, &error);
    KELPIE_ASSERT((status == 0) == (player->exec != NULL));
    if (status == 0) {
        bool fits = kelpie__text_copy(player->scene->exec_id, sizeof(player->scene->exec_id),
                                      kelpie_exec_id(player->exec));
        KELPIE_ASSERT(fits);
    }
    return kelpie__sim_step_look(player, "exec_start", CODES_EXEC, status, &error);
}

bool kelpie__sim_step_exec_attach(struct sim_player *player) {
    KELPIE_ASSERT(player->kelpie != NULL);
    struct kelpie_error error = {0};
    player->has_end = false;
    player->output_bytes = player->scene->exec_seen_bytes;
    int status = kelpie_vm_exec_attach(player->vm, player->scene->exec_id, player->output_bytes, 0,
                                       &callbacks, player, &player->exec, &error);
    KELPIE_ASSERT((status == 0) == (player->exec != NULL));
    return kelpie__sim_step_look(player, "exec_attach", CODES_EXEC, status, &error);
}

bool kelpie__sim_step_exec_list(struct sim_player *player) {
    KELPIE_ASSERT(player->kelpie != NULL);
    struct kelpie_error error = {0};
    struct kelpie_exec_info *list = NULL;
    size_t count = 0;
    int status = kelpie_vm_exec_list(player->vm, &list, &count, &error);
    bool is_there = false;
    for (size_t i = 0; status == 0 && i < count; i += 1) {
        is_there = is_there || strcmp(list[i].id, player->scene->exec_id) == 0;
    }
    kelpie_exec_list_free(player->kelpie, list, count);
    bool is_good = kelpie__sim_step_look(player, "exec_list", CODES_EXEC, status, &error);
    if (is_good && !is_there && player->scene->options->plan == NULL) {
        kelpie__sim_world_fail(player->scene->world, "contract: a command that runs is not listed");
    }
    return is_good;
}

bool kelpie__sim_step_exec_write(struct sim_player *player, uint32_t count) {
    KELPIE_ASSERT(player->exec != NULL);
    struct kelpie_error error = {0};
    uint8_t bytes[STREAM_BYTES_MAX];
    uint32_t done = 0;
    int status = 0;
    KELPIE_ASSERT(count <= sizeof(bytes));
    kelpie__sim_pattern_fill(bytes, count, 0);
    for (uint32_t i = 0; i < STREAM_TURNS_MAX && status == 0 && done < count && !player->has_end;
         i += 1) {
        size_t written = 0;
        status = kelpie_exec_write(player->exec, bytes + done, count - done, &written, &error);
        done += (uint32_t)written;
        if (status == 0 && written == 0) {
            status = kelpie_wait(player->kelpie, STREAM_TURNS_MAX, &error);
        }
    }
    if (!kelpie__sim_step_look(player, "exec_write", CODES_EXEC, status, &error)) {
        return false;
    }
    status = kelpie_exec_close_stdin(player->exec, &error);
    return kelpie__sim_step_look(player, "exec_close_stdin", CODES_EXEC, status, &error);
}

bool kelpie__sim_step_exec_signal(struct sim_player *player, int signal) {
    KELPIE_ASSERT(player->exec != NULL);
    struct kelpie_error error = {0};
    int status = kelpie_exec_signal(player->exec, signal, &error);
    return kelpie__sim_step_look(player, "exec_signal", CODES_EXEC, status, &error);
}

bool kelpie__sim_step_exec_resize(struct sim_player *player) {
    KELPIE_ASSERT(player->exec != NULL);
    struct kelpie_error error = {0};
    int status = kelpie_exec_resize(player->exec, 40, 120, &error);
    return kelpie__sim_step_look(player, "exec_resize", CODES_EXEC, status, &error);
}

bool kelpie__sim_step_exec_kill(struct sim_player *player) {
    KELPIE_ASSERT(player->exec != NULL);
    struct kelpie_error error = {0};
    int status = kelpie_exec_kill(player->exec, &error);
    return kelpie__sim_step_look(player, "exec_kill", CODES_EXEC, status, &error);
}

bool kelpie__sim_step_exec_detach(struct sim_player *player) {
    KELPIE_ASSERT(player->exec != NULL);
    struct kelpie_error error = {0};
    int status = kelpie_exec_detach(player->exec, &error);
    if (status == 0) {
        player->exec = NULL;
    }
    return kelpie__sim_step_look(player, "exec_detach", CODES_EXEC, status, &error);
}

bool kelpie__sim_step_exec_wait(struct sim_player *player, uint64_t expected_bytes) {
    KELPIE_ASSERT(player->exec != NULL);
    struct kelpie_error error = {0};
    struct kelpie_exec_status end = {0};
    int status = kelpie_exec_wait(player->exec, 0, &end, &error);
    if (status == 0 && (!player->has_end || !player->is_end_good)) {
        kelpie__sim_world_fail(player->scene->world,
                               "contract: exec_wait ends, `ended` was not called");
    }
    if (status == 0 && end.reason == KELPIE_EXEC_EXITED && end.exit_code == 0 &&
        player->output_bytes != expected_bytes) {
        kelpie__sim_world_fail(
            player->scene->world, "invariant 11: %llu bytes of output, the command wrote %llu",
            (unsigned long long)player->output_bytes, (unsigned long long)expected_bytes);
    }
    kelpie_exec_close(player->exec);
    player->exec = NULL;
    return kelpie__sim_step_look(player, "exec_wait", CODES_EXEC, status, &error);
}
