/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Guest statistics: see stats.h.
 */
#include "agent/stats.h"

#include <string.h>

#include "agent/files.h"
#include "agent/process_list.h"
#include "os/os_call.h"

#define STATS_TEXT_BYTES_MAX 4096
#define STATS_TICK_MS 10 /* USER_HZ is 100 on every architecture that we run on */

/* "12.34" in thousandths; digits after the third are dropped. */
static uint64_t stats_parse_milli(const char *text) {
    KELPIE_ASSERT(text != NULL);
    uint64_t value = 0;
    uint64_t unit = 1000;
    if (!kelpie__agent_take_number(&text, &value) || value > UINT64_MAX / 1000 - 1) {
        return 0;
    }
    value *= 1000;
    if (*text == '.') {
        for (const char *at = text + 1; *at >= '0' && *at <= '9' && unit > 1; at += 1) {
            unit /= 10;
            value += unit * (uint64_t)(*at - '0');
        }
    }
    return value;
}

/* The number behind a name that ends in a colon, or 0. */
static uint64_t stats_parse_field(const char *text, const char *name) {
    KELPIE_ASSERT(name[0] != '\0');
    const char *at = strstr(text, name);
    uint64_t value = 0;
    if (at == NULL) {
        return 0;
    }
    at += strlen(name);
    return kelpie__agent_take_number(&at, &value) ? value : 0;
}

/* "cpu  user nice system idle iowait irq softirq steal ...": everything but idle and iowait. */
static uint64_t stats_parse_cpu(const char *text) {
    if (strncmp(text, "cpu ", 4) != 0) {
        return 0;
    }
    const char *at = text + 4;
    uint64_t ticks = 0;
    uint64_t value = 0;
    for (int field = 0; field < 8 && kelpie__agent_take_number(&at, &value); field += 1) {
        ticks += field == 3 || field == 4 ? 0 : value;
    }
    return ticks * STATS_TICK_MS;
}

/* /proc/stat may be long (a number for every interrupt); only its first line matters. */
static uint64_t stats_read_cpu(struct kelpie_os *os) {
    int file = kelpie__os_open(os, KELPIE_OS_CWD, "/proc/stat", KELPIE_OS_OPEN_READ, 0);
    if (file < 0) {
        return 0;
    }
    char text[256];
    int64_t count = kelpie__os_pread(os, file, text, sizeof(text) - 1, 0);
    kelpie__ignore(kelpie__os_close(os, file)); /* it was only read */
    text[count < 0 ? 0 : count] = '\0';
    return stats_parse_cpu(text);
}

static void stats_read_disk(struct kelpie_os *os, struct kelpie_agent_stats *out) {
    int root =
        kelpie__os_open(os, KELPIE_OS_CWD, "/", KELPIE_OS_OPEN_READ | KELPIE_OS_OPEN_DIRECTORY, 0);
    struct kelpie_os_space space;
    if (root < 0) {
        return;
    }
    if (kelpie__os_space(os, root, &space) == 0 && space.total_bytes >= space.available_bytes) {
        out->disk_total_kib = space.total_bytes / 1024;
        out->disk_used_kib = (space.total_bytes - space.available_bytes) / 1024;
    }
    kelpie__ignore(kelpie__os_close(os, root)); /* it was only read */
    KELPIE_ASSERT(out->disk_used_kib <= out->disk_total_kib);
}

void kelpie__agent_stats_read(struct kelpie_os *os, struct kelpie_agent_stats *out) {
    char text[STATS_TEXT_BYTES_MAX];
    struct kelpie_agent_stats stats = {0};
    if (kelpie__agent_read_text(os, "/proc/uptime", text, sizeof(text)) > 0) {
        stats.uptime_ms = stats_parse_milli(text);
    }
    if (kelpie__agent_read_text(os, "/proc/loadavg", text, sizeof(text)) > 0) {
        stats.load1_milli = stats_parse_milli(text);
    }
    if (kelpie__agent_read_text(os, "/proc/meminfo", text, sizeof(text)) > 0) {
        stats.memory_total_kib = stats_parse_field(text, "MemTotal:");
        stats.memory_available_kib = stats_parse_field(text, "MemAvailable:");
    }
    int process_count = kelpie__agent_process_count(os);
    stats.process_count = process_count > 0 ? (uint64_t)process_count : 0;
    stats.cpu_ms = stats_read_cpu(os);
    stats_read_disk(os, &stats);
    *out = stats;
}
