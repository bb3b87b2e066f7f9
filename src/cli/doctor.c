/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * kelpie doctor: what this host has, what is missing, and the command that mends it.
 */
#include "cli/cli.h"
#include "core/json.h"

#define DOCTOR_TEXT_BYTES 8192u

struct doctor {
    struct kelpie_cli *cli;
    uint32_t count;
    uint32_t failed_count;
};

static const char *status_name(enum kelpie_check_status status) {
    switch (status) {
    case KELPIE_CHECK_OK:
        return "ok";
    case KELPIE_CHECK_WARNING:
        return "warning";
    case KELPIE_CHECK_FAILED:
        break;
    }
    return "failed";
}

static void print_json(struct doctor *doctor, const struct kelpie_check *check) {
    char text[DOCTOR_TEXT_BYTES];
    struct kelpie_json_writer writer;
    KELPIE_ASSERT(doctor->count > 0);
    kelpie__json_begin(&writer, text, sizeof(text));
    kelpie__json_object_begin(&writer, NULL);
    kelpie__json_write_string(&writer, "name", check->name);
    kelpie__json_write_string(&writer, "status", status_name(check->status));
    kelpie__json_write_string(&writer, "detail", check->detail);
    kelpie__json_write_string(&writer, "remedy", check->remedy);
    kelpie__json_object_end(&writer);
    int64_t length = kelpie__json_finish(&writer);
    KELPIE_ASSERT(length < (int64_t)sizeof(text));
    if (length > 0) { /* else texts of thousands of control characters */
        kelpie__cli_array_add(doctor->cli, text, (size_t)length);
    }
}

static void on_check(void *context, const struct kelpie_check *check) {
    struct doctor *doctor = context;
    KELPIE_ASSERT(check->name != NULL && check->detail != NULL && check->remedy != NULL);
    doctor->count += 1;
    doctor->failed_count += check->status == KELPIE_CHECK_FAILED ? 1 : 0;
    KELPIE_ASSERT(doctor->failed_count <= doctor->count);
    if (doctor->cli->options.is_json) {
        print_json(doctor, check);
        return;
    }
    kelpie__cli_print(doctor->cli, "%-8s %-12s %s\n", status_name(check->status), check->name,
                      check->detail);
    if (check->remedy[0] != '\0') {
        kelpie__cli_print(doctor->cli, "%-21s mend it with: %s\n", "", check->remedy);
    }
    kelpie__cli_flush(doctor->cli); /* the trial of KVM takes seconds */
}

int kelpie__cli_doctor(struct kelpie_cli *cli) {
    struct kelpie_error error = {0};
    struct doctor doctor = {.cli = cli};
    KELPIE_ASSERT(cli->word_count == 0);
    if (!kelpie__cli_open(cli)) {
        return KELPIE_CLI_FAILED;
    }
    if (cli->options.is_json) {
        kelpie__cli_array_begin(cli);
    }
    int status = kelpie_doctor(cli->kelpie, true, on_check, &doctor, &error);
    if (cli->options.is_json) {
        kelpie__cli_array_end(cli);
    }
    if (status < 0) {
        return kelpie__cli_fail_error(cli, &error);
    }
    return doctor.failed_count > 0 ? KELPIE_CLI_CHECK_FAILED : KELPIE_CLI_OK;
}
