/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * The list of a VM's commands.
 */
#include "core/json.h"
#include "core/text.h"
#include "lib/internal.h"
#include "os/os_call.h"

static void list_read_one(const struct kelpie_json_value *item, struct kelpie_exec_info *info) {
    KELPIE_ASSERT(info->id[0] == '\0');
#define READ(kind, key, ...)                                                                       \
    kelpie__ignore(kelpie__json_find_##kind(item->text, item->length, key, __VA_ARGS__))
    READ(string, "id", info->id, sizeof(info->id));
    READ(string, "command", info->command, sizeof(info->command));
    READ(bool, "is_running", &info->is_running);
    READ(bool, "is_attached", &info->is_attached);
    READ(i64, "started_ms", &info->started_ms);
#undef READ
}

/* Without memory the list is shorter. */
static void list_read(struct kelpie_operation *operation, const char *answer, size_t length) {
    struct kelpie_os *os = operation->vm->kelpie->os;
    struct kelpie_exec_info **out = operation->result;
    struct kelpie_exec_info *list = NULL;
    size_t count = 0;
    struct kelpie_json_value execs;
    struct kelpie_json_value item;
    struct kelpie_json_iterator iterator;
    bool is_list = kelpie__json_find(answer, length, "execs", &execs) == 0 &&
                   kelpie__json_iterate(&execs, &iterator) == 0;
    KELPIE_ASSERT(operation->read == list_read);
    KELPIE_ASSERT(operation->result_count != NULL);
    while (is_list && kelpie__json_next(&iterator, NULL, &item) == 1) { /* bound: the answer */
        size_t old_bytes = count * sizeof(*list);
        struct kelpie_exec_info *larger =
            kelpie__resize(os, list, old_bytes, old_bytes + sizeof(*list));
        if (larger == NULL) {
            break;
        }
        larger[count] = (struct kelpie_exec_info){0};
        list_read_one(&item, &larger[count]);
        list = larger;
        count += 1;
    }
    KELPIE_ASSERT((list == NULL) == (count == 0));
    *out = list;
    *operation->result_count = count;
}

static int list_check(const struct kelpie_vm *vm, struct kelpie_exec_info **out,
                      const size_t *out_count, const struct kelpie_call_form *form,
                      struct kelpie_error *error) {
    if (vm == NULL || out == NULL || out_count == NULL) {
        return kelpie__fail(error, KELPIE_E_MISUSE, 0, "%s: an argument is NULL", form->function);
    }
    return kelpie__call_check(vm, form, error);
}

static int list_send(struct kelpie_vm *vm, struct kelpie_exec_info **out, size_t *out_count,
                     const struct kelpie_call_form *form, struct kelpie_error *error) {
    const struct kelpie_request request = {.method = "exec.list",
                                           .params = "{}",
                                           .timeout_ms = KELPIE_CALL_TIMEOUT_MS,
                                           .read = list_read,
                                           .result = out,
                                           .result_count = out_count};
    kelpie__request_check(&request);
    int status = kelpie__call_connect_live(vm, form, KELPIE_VERB_EXEC, error);
    return status < 0 ? status : kelpie__call_send(vm, form, &request, error);
}

int kelpie_vm_exec_list(struct kelpie_vm *vm, struct kelpie_exec_info **out, size_t *out_count,
                        struct kelpie_error *error) {
    const struct kelpie_call_form form = kelpie__form_blocking("kelpie_vm_exec_list");
    struct kelpie_exec_info *list = NULL;
    size_t count = 0;
    int status = list_check(vm, out, out_count, &form, error);
    if (status == 0) {
        status = list_send(vm, &list, &count, &form, error);
    }
    if (status == 0) {
        *out = list;
        *out_count = count;
    }
    return status;
}

int kelpie_vm_exec_list_async(struct kelpie_vm *vm, struct kelpie_exec_info **out_list,
                              size_t *out_count, kelpie_done_callback callback, void *context,
                              struct kelpie_operation **out, struct kelpie_error *error) {
    const struct kelpie_call_form form =
        kelpie__form_async("kelpie_vm_exec_list_async", callback, context, out);
    int status = list_check(vm, out_list, out_count, &form, error);
    return status < 0 ? status : list_send(vm, out_list, out_count, &form, error);
}

void kelpie_exec_list_free(struct kelpie *kelpie, struct kelpie_exec_info *list, size_t count) {
    if (count > 0) { /* another count than the list's is the embedder's mistake */
        kelpie__free(kelpie->os, list, count * sizeof(*list));
    }
}
