/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * kelpie boot-chart: where the time of a VM's last start went, as text, JSON or a picture. The
 * stages are what its monitor saw; how the kernel took its initramfs apart stands in the guest's
 * own log, if dmesg is there to be asked and the guest was booted.
 */
#include <string.h>

#include "cli/cli.h"
#include "cli/svg.h"
#include "core/json.h"
#include "core/text.h"

#define CHART_ROWS_MAX 10u
#define CHART_BAR_CHARACTERS 40u
#define CHART_TEXT_BYTES 1024u
#define CHART_LOG_TIMEOUT_MS 5000u
#define CHART_LOG_BYTES_MAX (256u * 1024u)
/* some thirty years: what is later was never measured, and what is drawn does not overflow */
#define CHART_US_MAX (UINT64_C(1000000000) * 1000000u)

#define PICTURE_LEFT 190
#define PICTURE_WIDTH 560
#define PICTURE_RIGHT 110
#define PICTURE_TOP 92
#define PICTURE_ROW 30

static_assert(CHART_US_MAX <= UINT64_MAX / PICTURE_WIDTH, "a place in the picture is a number");
static_assert(CHART_BAR_CHARACTERS <= PICTURE_WIDTH, "and one in the text, too");

struct chart_row {
    const char *name;
    const char *colour;
    uint64_t from_us;
    uint64_t to_us;
};

struct chart {
    struct kelpie_cli *cli;
    struct kelpie_vm_info info;
    struct kelpie_stages stages;
    uint64_t unpack_us; /* 0: nobody told */
    uint64_t unpacked_us;
    struct chart_row rows[CHART_ROWS_MAX];
    uint32_t row_count;
    uint64_t end_us;
    uint64_t cut_us; /* between Running and the first command, when nothing happened: not drawn */
};

/* ---- the guest's log ------------------------------------------------------------------------- */

/* The time of the first line that says this, in us: "[    0.693006] Unpacking ..". */
static bool log_find(const char *log, const char *words, uint64_t *out_us) {
    const char *found = strstr(log, words);
    uint64_t us = 0;
    if (found == NULL || found - log < 3 || found[-2] != ']') {
        return false;
    }
    const char *at = found - 2;
    while (at > log && *at != '[' && *at != '\n') { /* bound: the text */
        at -= 1;
    }
    for (at += 1; *at != ']' && us < UINT64_MAX / 100; at += 1) {
        us = *at >= '0' && *at <= '9' ? us * 10 + (uint64_t)(*at - '0') : us;
    }
    *out_us = us; /* with six digits behind the point, always */
    return true;
}

/* The log's clock begins before the one by which the agent tells its age: what the log says of the
 * start of process 1 is where they meet. */
static void chart_read_log(struct chart *chart, const char *log) {
    uint64_t begun = 0;
    uint64_t ended = 0;
    uint64_t init = 0;
    /* The second where the kernel knows RAM disks, too. */
    bool is_told = (log_find(log, "Unpacking initramfs...", &begun) ||
                    log_find(log, "Trying to unpack rootfs image", &begun)) &&
                   log_find(log, "Freeing initrd memory", &ended) &&
                   log_find(log, "Run /init as init process", &init);
    uint64_t agent_us = chart->stages.agent_us;
    if (is_told && begun <= ended && ended <= init && init - begun < agent_us) {
        chart->unpack_us = agent_us - (init - begun);
        chart->unpacked_us = agent_us - (init - ended);
        KELPIE_ASSERT(chart->unpack_us <= chart->unpacked_us);
        KELPIE_ASSERT(chart->unpacked_us <= agent_us);
    }
}

static void chart_ask_log(struct chart *chart, struct kelpie_vm *vm) {
    static const char *const argv[] = {"dmesg", NULL};
    const struct kelpie_exec_options options = {.struct_size = sizeof(options),
                                                .argv = argv,
                                                .timeout_ms = CHART_LOG_TIMEOUT_MS,
                                                .output_bytes_max = CHART_LOG_BYTES_MAX};
    struct kelpie_exec_result result = {.struct_size = sizeof(result)};
    if (chart->stages.agent_us == 0 || chart->info.state != KELPIE_VM_RUNNING ||
        kelpie_vm_exec(vm, &options, &result, NULL) < 0) { /* there may be no dmesg */
        return;
    }
    if (result.status.exit_code == 0 && result.stdout_count > 0) {
        chart_read_log(chart, result.stdout_bytes);
    }
    kelpie_exec_result_release(&result);
}

/* ---- rows ------------------------------------------------------------------------------------ */

static void chart_add(struct chart *chart, const char *name, const char *colour, uint64_t from_us,
                      uint64_t to_us) {
    if (to_us == 0 || to_us < from_us || to_us > CHART_US_MAX) { /* not reached */
        return;
    }
    KELPIE_ASSERT(chart->row_count < CHART_ROWS_MAX);
    chart->rows[chart->row_count] =
        (struct chart_row){.name = name, .colour = colour, .from_us = from_us, .to_us = to_us};
    chart->row_count += 1;
    chart->end_us = kelpie__max_u64(chart->end_us, to_us);
    KELPIE_ASSERT(chart->end_us <= CHART_US_MAX);
}

static void chart_lay(struct chart *chart) {
    const struct kelpie_stages *stages = &chart->stages;
    bool is_boot = stages->kernel_us != 0;
    KELPIE_ASSERT(chart->row_count == 0);
    chart_add(chart, "prepare", "#7788bb", 0, stages->vmm_us);
    chart_add(chart, is_boot ? "VMM" : "VMM, load", "#4477aa", stages->vmm_us, stages->machine_us);
    if (is_boot) {
        chart_add(chart, "firmware, early kernel", "#66ccee", stages->machine_us,
                  stages->kernel_us);
        chart_add(chart, "kernel", "#228833", stages->kernel_us, stages->agent_us);
        chart_add(chart, " initramfs", "#ccbb44", chart->unpack_us, chart->unpacked_us);
        chart_add(chart, "agent", "#ee8866", stages->agent_us, stages->ready_us);
        chart_add(chart, "hello", "#ee6677", stages->ready_us, stages->hello_us);
        chart_add(chart, "set-up", "#aa3377", stages->hello_us, stages->running_us);
    } else { /* both are said at once */
        chart_add(chart, "hello, set-up", "#ee6677", stages->machine_us, stages->running_us);
    }
    if (stages->exec_us > stages->running_us) {
        chart->cut_us = stages->exec_us - stages->running_us;
    }
    chart_add(chart, "first command: start", "#4477aa", stages->exec_us, stages->exec_started_us);
    chart_add(chart, "first command: run", "#228833", stages->exec_started_us,
              stages->exec_ended_us);
}

/* Where a moment lies when the time is left out in which nothing happened. */
static uint64_t chart_place(const struct chart *chart, uint64_t at_us) {
    if (chart->cut_us == 0) {
        return at_us;
    }
    KELPIE_ASSERT(chart->stages.exec_us == chart->stages.running_us + chart->cut_us);
    bool is_after = at_us >= chart->stages.exec_us;
    return is_after ? at_us - chart->cut_us : kelpie__min_u64(at_us, chart->stages.running_us);
}

static uint64_t chart_scale(const struct chart *chart, uint64_t at_us, uint64_t size) {
    KELPIE_ASSERT(at_us <= chart->end_us);
    uint64_t whole_us = chart_place(chart, chart->end_us);
    return whole_us == 0 ? 0 : chart_place(chart, at_us) * size / whole_us;
}

/* ---- output ---------------------------------------------------------------------------------- */

static void print_text(const struct chart *chart) {
    struct kelpie_cli *cli = chart->cli;
    kelpie__cli_print(cli, "%s: %s (%s)\n%10s %10s\n", chart->info.name, chart->info.origin,
                      chart->info.accelerator, "from ms", "took ms");
    for (uint32_t i = 0; i < chart->row_count; i += 1) {
        const struct chart_row *row = &chart->rows[i];
        uint64_t took_us = row->to_us - row->from_us;
        uint64_t from = chart_scale(chart, row->from_us, CHART_BAR_CHARACTERS);
        uint64_t to = chart_scale(chart, row->to_us, CHART_BAR_CHARACTERS);
        KELPIE_ASSERT(from <= to);
        KELPIE_ASSERT(to <= CHART_BAR_CHARACTERS);
        kelpie__cli_print(
            cli, "%6llu.%03llu %6llu.%03llu  %-22s  ", (unsigned long long)(row->from_us / 1000),
            (unsigned long long)(row->from_us % 1000), (unsigned long long)(took_us / 1000),
            (unsigned long long)(took_us % 1000), row->name);
        for (uint64_t at = 0; at < to || at == from; at += 1) {
            kelpie__cli_print(cli, "%s", at < from ? " " : to > from ? "#" : "|");
        }
        kelpie__cli_print(cli, "\n");
    }
}

static void print_json(const struct chart *chart) {
    char text[CHART_TEXT_BYTES];
    struct kelpie_json_writer writer;
    const struct kelpie_stages *stages = &chart->stages;
    const struct {
        const char *key;
        uint64_t us;
    } fields[] = {
        {"vmm_us", stages->vmm_us},
        {"machine_us", stages->machine_us},
        {"kernel_us", stages->kernel_us},
        {"initramfs_us", chart->unpack_us},
        {"unpacked_us", chart->unpacked_us},
        {"agent_us", stages->agent_us},
        {"ready_us", stages->ready_us},
        {"hello_us", stages->hello_us},
        {"running_us", stages->running_us},
        {"exec_us", stages->exec_us},
        {"exec_started_us", stages->exec_started_us},
        {"exec_ended_us", stages->exec_ended_us},
    };
    kelpie__json_begin(&writer, text, sizeof(text));
    kelpie__json_object_begin(&writer, NULL);
    kelpie__json_write_string(&writer, "name", chart->info.name);
    kelpie__json_write_string(&writer, "origin", chart->info.origin);
    kelpie__json_write_string(&writer, "accelerator", chart->info.accelerator);
    for (size_t i = 0; i < KELPIE_ARRAY_COUNT(fields); i += 1) {
        kelpie__json_write_u64(&writer, fields[i].key, fields[i].us);
    }
    kelpie__json_object_end(&writer);
    int64_t length = kelpie__json_finish(&writer);
    KELPIE_ASSERT(length > 0);
    KELPIE_ASSERT((size_t)length < sizeof(text));
    kelpie__cli_print(chart->cli, "%s\n", text);
}

static void draw_row(struct kelpie_svg *svg, const struct chart *chart, uint32_t index) {
    const struct chart_row *row = &chart->rows[index];
    int y = PICTURE_TOP + (int)index * PICTURE_ROW;
    int from = PICTURE_LEFT + (int)chart_scale(chart, row->from_us, PICTURE_WIDTH);
    int to = PICTURE_LEFT + (int)chart_scale(chart, row->to_us, PICTURE_WIDTH);
    uint64_t took_us = row->to_us - row->from_us;
    KELPIE_ASSERT(from <= to);
    KELPIE_ASSERT(to <= PICTURE_LEFT + PICTURE_WIDTH);
    kelpie__svg_put(svg, "<text class=\"name\" x=\"24\" y=\"%d\">%s</text>\n", y + 14, row->name);
    kelpie__svg_put(svg,
                    "<rect x=\"%d\" y=\"%d\" width=\"%d\" height=\"18\" rx=\"3\" fill=\"%s\"/>"
                    "<text x=\"%d\" y=\"%d\">%llu.%llu ms</text>\n",
                    from, y, to > from ? to - from : 1, row->colour, to + 6, y + 14,
                    (unsigned long long)(took_us / 1000), (unsigned long long)(took_us / 100 % 10));
}

static int draw(const struct chart *chart, const char *path) {
    struct kelpie_svg svg;
    char name[KELPIE_SVG_TEXT_BYTES];
    KELPIE_ASSERT(chart->row_count <= CHART_ROWS_MAX);
    int code = kelpie__svg_open(&svg, chart->cli, path);
    if (code != KELPIE_CLI_OK) {
        return code;
    }
    int width = PICTURE_LEFT + PICTURE_WIDTH + PICTURE_RIGHT;
    int height = PICTURE_TOP + (int)chart->row_count * PICTURE_ROW + 24;
    uint64_t running_us = chart->stages.running_us;
    kelpie__svg_text(chart->info.name, KELPIE_SVG_TEXT_CHARACTERS, name);
    kelpie__svg_begin(&svg, width, height, "Kelpie boot chart");
    kelpie__svg_put(&svg,
                    "<text class=\"title\" x=\"24\" y=\"42\">%s</text>\n"
                    "<text x=\"24\" y=\"65\">%s (%s), running after %llu.%llu ms</text>\n",
                    name, chart->info.origin, chart->info.accelerator,
                    (unsigned long long)(running_us / 1000),
                    (unsigned long long)(running_us / 100 % 10));
    for (uint32_t i = 0; i < chart->row_count; i += 1) {
        draw_row(&svg, chart, i);
    }
    return kelpie__svg_close(&svg);
}

static int chart_read(struct chart *chart, const char *name) {
    struct kelpie_error error = {0};
    struct kelpie_vm *vm = kelpie__cli_open_vm(chart->cli, name);
    if (vm == NULL) {
        return KELPIE_CLI_FAILED;
    }
    /* Before the log is asked for, which may be the first command. */
    int status = kelpie_vm_stages(vm, &chart->stages, &error);
    if (status == 0) {
        status = kelpie_vm_inspect(vm, &chart->info, &error);
    }
    if (status == 0) {
        chart_ask_log(chart, vm);
        chart_lay(chart);
    }
    kelpie_vm_close(vm);
    return status < 0 ? kelpie__cli_fail_error(chart->cli, &error) : KELPIE_CLI_OK;
}

int kelpie__cli_boot_chart(struct kelpie_cli *cli) {
    struct chart chart = {.cli = cli,
                          .info = {.struct_size = sizeof(chart.info)},
                          .stages = {.struct_size = sizeof(chart.stages)}};
    KELPIE_ASSERT(cli->word_count == 1);
    if (cli->options.svg != NULL && cli->options.is_json) {
        return kelpie__cli_fail(cli, "--svg and --json exclude each other");
    }
    int code = chart_read(&chart, cli->words[0]);
    if (code != KELPIE_CLI_OK) {
        return code;
    }
    if (cli->options.svg != NULL) {
        return draw(&chart, cli->options.svg);
    }
    if (cli->options.is_json) {
        print_json(&chart);
    } else {
        print_text(&chart);
    }
    return KELPIE_CLI_OK;
}
