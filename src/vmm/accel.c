/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * The choice of the accelerator: see accel.h. accel.json holds the latest verdicts, the newest
 * first: who tries one VMM and then another does not try KVM anew each time.
 */
#include "vmm/accel.h"

#include <errno.h>
#include <signal.h>
#include <string.h>

#include "core/hash.h"
#include "core/json.h"
#include "core/limits.h"
#include "core/small_file.h"
#include "core/text.h"
#include "os/os_call.h"
#include "vmm/kvm.h"

#define ACCEL_FILE "accel.json"
#define ACCEL_FILE_BYTES_MAX 4096u
#define ACCEL_VERDICT_COUNT_MAX 8u
#define ACCEL_FORMAT 2u /* 1 had one verdict and no table: it is tried once more */
#define ACCEL_CPU_BYTES_MAX 8192u

static_assert(6 * KELPIE_ACCEL_REASON_BYTES_MAX + 512 < ACCEL_FILE_BYTES_MAX, "one always fits");
static_assert(KELPIE_ACCEL_KEY_BYTES == KELPIE_HASH_CHARACTERS + 1, "a key is a hash");

enum accel_verdict { ACCEL_UNKNOWN, ACCEL_USABLE, ACCEL_UNUSABLE };

/* The value of the first line of /proc/cpuinfo that begins with `name`: the first processor speaks
 * for all. */
static void accel_hash_cpu_line(struct kelpie_hash *hash, const char *cpuinfo, const char *name) {
    const char *line = strstr(cpuinfo, name);
    if (line != NULL) {
        const char *end = strchr(line, '\n');
        size_t length = end != NULL ? (size_t)(end - line) : strlen(line);
        KELPIE_ASSERT(length >= strlen(name));
        kelpie__hash_bytes(hash, line, length);
    }
    kelpie__hash_text(hash, name);
}

/* 0 or -errno; what cannot be read counts as empty. */
static int accel_hash_cpu(struct kelpie_os *os, struct kelpie_hash *hash) {
    char text[ACCEL_CPU_BYTES_MAX];
    KELPIE_ASSERT(hash->high != 0 || hash->low != 0);
    int64_t count = kelpie__small_file_read_start(os, "/proc/cpuinfo", text, sizeof(text));
    if (count < 0) {
        text[0] = '\0';
    }
    accel_hash_cpu_line(hash, text, "vendor_id");
    accel_hash_cpu_line(hash, text, "model name");
    accel_hash_cpu_line(hash, text, "flags");
    return count < 0 ? (int)count : 0;
}

int kelpie__accel_cpu(struct kelpie_os *os, enum kelpie_vmm_accelerator accelerator, char *out,
                      size_t capacity) {
    struct kelpie_hash hash;
    char digest[KELPIE_HASH_CHARACTERS + 1];
    KELPIE_ASSERT(accelerator != KELPIE_VMM_ACCELERATOR_AUTO);
    if (accelerator == KELPIE_VMM_ACCELERATOR_TCG) {
        kelpie__ignore(kelpie__text_copy(out, capacity, "max"));
        return 0;
    }
    kelpie__hash_init(&hash);
    int status = accel_hash_cpu(os, &hash);
    kelpie__hash_hex(&hash, digest);
    bool fits = kelpie__text_format(out, capacity, "host-%s", digest);
    KELPIE_ASSERT(fits);
    return status;
}

/* What the verdict depends on. What cannot be read counts as empty: the key is then less sharp, and
 * the same again. */
static void accel_key(struct kelpie_os *os, const char *vmm_path, char out[]) {
    struct kelpie_hash hash;
    char text[ACCEL_CPU_BYTES_MAX];
    static const char *const kernel_files[] = {"/proc/sys/kernel/osrelease",
                                               "/proc/sys/kernel/version"};
    kelpie__hash_init(&hash);
    for (size_t i = 0; i < KELPIE_ARRAY_COUNT(kernel_files); i += 1) {
        bool is_read = kelpie__small_file_read_start(os, kernel_files[i], text, sizeof(text)) >= 0;
        kelpie__hash_text(&hash, is_read ? text : "");
    }
    kelpie__ignore(accel_hash_cpu(os, &hash));
    kelpie__hash_text(&hash, vmm_path);
    struct kelpie_os_stat stat = {0};
    if (kelpie__os_stat(os, KELPIE_OS_CWD, vmm_path, true, &stat) == 0) {
        KELPIE_ASSERT(stat.kind == KELPIE_OS_KIND_FILE);
        kelpie__hash_u64(&hash, stat.size_bytes);
        kelpie__hash_u64(&hash, (uint64_t)stat.modified_ns);
    }
    kelpie__hash_hex(&hash, out);
    KELPIE_ASSERT(strlen(out) + 1 == KELPIE_ACCEL_KEY_BYTES);
}

/* The table of the file; false: there is none, or one of another format. */
static bool accel_read(struct kelpie_os *os, const char *cache_directory,
                       char text[ACCEL_FILE_BYTES_MAX], struct kelpie_json_iterator *out) {
    struct kelpie_json_value list;
    int64_t length =
        kelpie__small_file_read_in(os, cache_directory, ACCEL_FILE, text, ACCEL_FILE_BYTES_MAX);
    KELPIE_ASSERT(length <= (int64_t)ACCEL_FILE_BYTES_MAX);
    return length > 0 && kelpie__json_validate(text, (size_t)length) == 0 &&
           kelpie__json_find(text, (size_t)length, "verdicts", &list) == 0 &&
           list.kind == KELPIE_JSON_ARRAY && kelpie__json_iterate(&list, out) == 0;
}

static bool accel_has_key(const struct kelpie_json_value *verdict, const char *key) {
    char found[KELPIE_ACCEL_KEY_BYTES];
    KELPIE_ASSERT(strlen(key) + 1 == sizeof(found));
    return kelpie__json_find_string(verdict->text, verdict->length, "key", found, sizeof(found)) ==
               0 &&
           strcmp(found, key) == 0;
}

static enum accel_verdict accel_recall(struct kelpie_os *os, const char *cache_directory,
                                       const char *key, char *out_reason, size_t capacity) {
    char text[ACCEL_FILE_BYTES_MAX];
    struct kelpie_json_iterator verdicts;
    struct kelpie_json_value verdict = {0};
    bool is_usable = false;
    KELPIE_ASSERT(capacity > 0);
    bool is_ours = false;
    bool has_more = accel_read(os, cache_directory, text, &verdicts);
    for (uint32_t i = 0; i < ACCEL_VERDICT_COUNT_MAX && has_more && !is_ours; i += 1) {
        has_more = kelpie__json_next(&verdicts, NULL, &verdict) == 1;
        is_ours = has_more && accel_has_key(&verdict, key);
    }
    is_ours =
        is_ours &&
        kelpie__json_find_bool(verdict.text, verdict.length, "kvm_usable", &is_usable) == 0 &&
        kelpie__json_find_string(verdict.text, verdict.length, "reason", out_reason, capacity) == 0;
    if (!is_ours) {
        return ACCEL_UNKNOWN; /* of another kernel, CPU or VMM, or damaged */
    }
    return is_usable ? ACCEL_USABLE : ACCEL_UNUSABLE;
}

/* Whatever an earlier trial found, which a busy host may have lost: a guest that boots now is what
 * counts from then on. */
static int accel_choose_kvm(struct kelpie_os *os, const char *cache_directory,
                            struct kelpie_accel *out, struct kelpie_error *error) {
    char told[KELPIE_ACCEL_REASON_BYTES_MAX] = "";
    int status = kelpie__vmm_kvm_probe(os);
    if (status < 0) {
        const char *way_out = status == -EACCES || status == -EPERM
                                  ? "add the user to the group kvm"
                                  : "load the module kvm_amd or kvm_intel, or use --accel tcg";
        return kelpie__fail(error, KELPIE_E_UNAVAILABLE, -status,
                            "KVM was asked for and cannot be used: open /dev/kvm (%s)", way_out);
    }
    out->accelerator = KELPIE_VMM_ACCELERATOR_KVM;
    out->is_unproved =
        accel_recall(os, cache_directory, out->key, told, sizeof(told)) != ACCEL_USABLE;
    kelpie__text_format(out->reason, sizeof(out->reason), "asked for");
    KELPIE_ASSERT(out->trial_ns == 0);
    return 0;
}

void kelpie__accel_recall(struct kelpie_os *os, const char *cache_directory, const char *vmm_path,
                          struct kelpie_accel *out) {
    KELPIE_ASSERT(vmm_path[0] == '/');
    struct kelpie_accel accel = {.accelerator = KELPIE_VMM_ACCELERATOR_KVM};
    accel_key(os, vmm_path, accel.key);
    accel.is_unproved = accel_recall(os, cache_directory, accel.key, accel.reason,
                                     sizeof(accel.reason)) != ACCEL_USABLE;
    KELPIE_ASSERT(accel.trial_ns == 0);
    *out = accel;
}

/* What an earlier trial found is asked first: a device that goes nowhere is left alone. */
static void accel_choose_auto(struct kelpie_os *os, const char *cache_directory,
                              struct kelpie_accel *out) {
    char told[KELPIE_ACCEL_REASON_BYTES_MAX] = "";
    enum accel_verdict verdict = accel_recall(os, cache_directory, out->key, told, sizeof(told));
    out->accelerator = KELPIE_VMM_ACCELERATOR_TCG;
    if (verdict == ACCEL_UNUSABLE) {
        kelpie__text_format(out->reason, sizeof(out->reason), "KVM was tried on this host: %s",
                            told);
        return;
    }
    int status = kelpie__vmm_kvm_probe(os);
    if (status == -ETIMEDOUT) {
        kelpie__text_format(out->reason, sizeof(out->reason),
                            "/dev/kvm hangs: it did not open within %u ms", KELPIE_KVM_OPEN_MS);
    } else if (status < 0) {
        kelpie__text_format(out->reason, sizeof(out->reason), "/dev/kvm cannot be opened: %s",
                            kelpie__errno_text(-status));
    } else if (verdict == ACCEL_USABLE) {
        out->accelerator = KELPIE_VMM_ACCELERATOR_KVM;
        kelpie__text_format(out->reason, sizeof(out->reason), "KVM booted a guest on this host");
    } else {
        out->accelerator = KELPIE_VMM_ACCELERATOR_KVM;
        out->is_unproved = true;
        out->trial_ns = (int64_t)KELPIE_KVM_TRIAL_MS * KELPIE_NS_PER_MS;
        kelpie__text_format(out->reason, sizeof(out->reason), "KVM is tried for the first time");
    }
    KELPIE_ASSERT(out->reason[0] != '\0');
}

int kelpie__accel_choose(struct kelpie_os *os, const char *cache_directory, const char *vmm_path,
                         enum kelpie_vmm_accelerator wanted, struct kelpie_accel *out,
                         struct kelpie_error *error) {
    KELPIE_ASSERT(vmm_path[0] == '/');
    struct kelpie_accel accel = {.accelerator = KELPIE_VMM_ACCELERATOR_TCG};
    if (wanted != KELPIE_VMM_ACCELERATOR_TCG) {
        accel_key(os, vmm_path, accel.key);
    }
    switch (wanted) {
    case KELPIE_VMM_ACCELERATOR_TCG:
        kelpie__text_format(accel.reason, sizeof(accel.reason), "asked for");
        break;
    case KELPIE_VMM_ACCELERATOR_KVM: {
        int status = accel_choose_kvm(os, cache_directory, &accel, error);
        if (status < 0) {
            return status;
        }
        break;
    }
    case KELPIE_VMM_ACCELERATOR_AUTO:
        accel_choose_auto(os, cache_directory, &accel);
        break;
    }
    KELPIE_ASSERT(accel.accelerator != KELPIE_VMM_ACCELERATOR_AUTO);
    *out = accel;
    return 0;
}

/* Signals by which a program ends for a fault of its own: an assertion of QEMU's about what KVM
 * answered, most often. */
static bool accel_is_fault(int signal) {
    KELPIE_ASSERT(signal > 0);
    return signal == SIGABRT || signal == SIGSEGV || signal == SIGILL || signal == SIGFPE;
}

bool kelpie__accel_is_blamed(const struct kelpie_vmm_end *end) {
    KELPIE_ASSERT(end->text[0] != '\0');
    bool lacks_memory = strstr(end->text, "Cannot allocate memory") != NULL ||
                        strstr(end->text, "failed to allocate") != NULL; /* QEMU's, and GLib's */
    if (lacks_memory || (end->kind == KELPIE_VMM_END_FAILED && !end->has_exit)) {
        return false;
    }
    if (end->kind != KELPIE_VMM_END_FAILED || end->code == KELPIE_E_TIMEOUT) {
        return true; /* out of time, a guest that reset itself, a QEMU that hangs */
    }
    if (end->exit.is_signalled) {
        return accel_is_fault(end->exit.value);
    }
    return strstr(end->text, "kvm") != NULL || strstr(end->text, "KVM") != NULL;
}

static void accel_write_verdict(struct kelpie_json_writer *writer, const char *key, bool is_usable,
                                const char *reason) {
    char cut[KELPIE_ACCEL_REASON_BYTES_MAX - 64]; /* a longer one would not be read back */
    kelpie__text_copy(cut, sizeof(cut), reason);
    KELPIE_ASSERT(strlen(key) + 1 == KELPIE_ACCEL_KEY_BYTES);
    kelpie__json_object_begin(writer, NULL);
    kelpie__json_write_string(writer, "key", key);
    kelpie__json_write_bool(writer, "kvm_usable", is_usable);
    kelpie__json_write_string(writer, "reason", cut);
    kelpie__json_object_end(writer);
}

/* All but the one that is replaced, as far as they fit. */
static void accel_write_others(struct kelpie_json_writer *writer,
                               struct kelpie_json_iterator *table, const char *key) {
    struct kelpie_json_value verdict;
    uint32_t count = 1;
    for (uint32_t i = 0; i < ACCEL_VERDICT_COUNT_MAX && count < ACCEL_VERDICT_COUNT_MAX; i += 1) {
        if (kelpie__json_next(table, NULL, &verdict) != 1) {
            return;
        }
        bool fits = writer->length + verdict.length + 16 < writer->capacity; /* and the brackets */
        if (fits && !accel_has_key(&verdict, key)) {
            kelpie__json_write_raw(writer, NULL, verdict.text, verdict.length);
            count += 1;
        }
    }
    KELPIE_ASSERT(count <= ACCEL_VERDICT_COUNT_MAX);
}

void kelpie__accel_remember(struct kelpie_os *os, const char *cache_directory,
                            const struct kelpie_accel *accel, bool is_usable, const char *reason) {
    KELPIE_ASSERT(accel->key[0] != '\0');
    char before[ACCEL_FILE_BYTES_MAX];
    char text[ACCEL_FILE_BYTES_MAX];
    struct kelpie_json_iterator table;
    struct kelpie_json_writer writer;
    kelpie__json_begin(&writer, text, sizeof(text));
    kelpie__json_object_begin(&writer, NULL);
    kelpie__json_write_u64(&writer, "format", ACCEL_FORMAT);
    kelpie__json_array_begin(&writer, "verdicts");
    accel_write_verdict(&writer, accel->key, is_usable, reason);
    if (accel_read(os, cache_directory, before, &table)) {
        accel_write_others(&writer, &table, accel->key);
    }
    kelpie__json_array_end(&writer);
    kelpie__json_object_end(&writer);
    int64_t length = kelpie__json_finish(&writer);
    KELPIE_ASSERT(length > 0); /* one alone takes less than half of it, however it is escaped */
    /* A cache that cannot be written costs the next start another trial. */
    kelpie__ignore(
        kelpie__small_file_replace_in(os, cache_directory, ACCEL_FILE, text, (size_t)length, NULL));
}
