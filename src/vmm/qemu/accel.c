/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * The choice of the accelerator: see accel.h. accel.json holds one verdict, for one key: a host has
 * one kernel, one CPU and in practice one QEMU at a time.
 */
#include "vmm/qemu/accel.h"

#include <errno.h>
#include <string.h>

#include "core/hash.h"
#include "core/json.h"
#include "core/limits.h"
#include "core/small_file.h"
#include "core/text.h"
#include "os/os_call.h"
#include "vmm/kvm.h"

#define ACCEL_FILE "accel.json"
#define ACCEL_FILE_BYTES_MAX 1024u
#define ACCEL_CPU_BYTES_MAX 8192u

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
static void accel_key(struct kelpie_os *os, const char *qemu_path, char out[]) {
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
    kelpie__hash_text(&hash, qemu_path);
    struct kelpie_os_stat stat = {0};
    if (kelpie__os_stat(os, KELPIE_OS_CWD, qemu_path, true, &stat) == 0) {
        KELPIE_ASSERT(stat.kind == KELPIE_OS_KIND_FILE);
        kelpie__hash_u64(&hash, stat.size_bytes);
        kelpie__hash_u64(&hash, (uint64_t)stat.modified_ns);
    }
    kelpie__hash_hex(&hash, out);
    KELPIE_ASSERT(strlen(out) + 1 == KELPIE_ACCEL_KEY_BYTES);
}

static enum accel_verdict accel_recall(struct kelpie_os *os, const char *cache_directory,
                                       const char *key, char *out_reason, size_t capacity) {
    char text[ACCEL_FILE_BYTES_MAX];
    char found[KELPIE_ACCEL_KEY_BYTES];
    bool is_usable = false;
    int64_t length =
        kelpie__small_file_read_in(os, cache_directory, ACCEL_FILE, text, sizeof(text));
    KELPIE_ASSERT(capacity > 0);
    if (length <= 0) {
        return ACCEL_UNKNOWN;
    }
    size_t size = (size_t)length;
    bool is_ours = kelpie__json_find_string(text, size, "key", found, sizeof(found)) == 0 &&
                   strcmp(found, key) == 0 &&
                   kelpie__json_find_bool(text, size, "kvm_usable", &is_usable) == 0 &&
                   kelpie__json_find_string(text, size, "reason", out_reason, capacity) == 0;
    if (!is_ours) {
        return ACCEL_UNKNOWN; /* of another kernel, CPU or QEMU, or damaged */
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

int kelpie__accel_choose(struct kelpie_os *os, const char *cache_directory, const char *qemu_path,
                         enum kelpie_vmm_accelerator wanted, struct kelpie_accel *out,
                         struct kelpie_error *error) {
    KELPIE_ASSERT(qemu_path[0] == '/');
    struct kelpie_accel accel = {.accelerator = KELPIE_VMM_ACCELERATOR_TCG};
    if (wanted != KELPIE_VMM_ACCELERATOR_TCG) {
        accel_key(os, qemu_path, accel.key);
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

void kelpie__accel_remember(struct kelpie_os *os, const char *cache_directory,
                            const struct kelpie_accel *accel, bool is_usable, const char *reason) {
    KELPIE_ASSERT(accel->key[0] != '\0');
    char text[ACCEL_FILE_BYTES_MAX];
    char cut[KELPIE_ACCEL_REASON_BYTES_MAX - 64]; /* a longer one would not be read back */
    struct kelpie_json_writer writer;
    kelpie__text_copy(cut, sizeof(cut), reason);
    kelpie__json_begin(&writer, text, sizeof(text));
    kelpie__json_object_begin(&writer, NULL);
    kelpie__json_write_u64(&writer, "format", 1);
    kelpie__json_write_string(&writer, "key", accel->key);
    kelpie__json_write_bool(&writer, "kvm_usable", is_usable);
    kelpie__json_write_string(&writer, "reason", cut);
    kelpie__json_object_end(&writer);
    int64_t length = kelpie__json_finish(&writer);
    if (length < 0) {
        return; /* escapes blew it up: the next start tries again */
    }
    /* A cache that cannot be written costs the next start another trial. */
    kelpie__ignore(
        kelpie__small_file_replace_in(os, cache_directory, ACCEL_FILE, text, (size_t)length, NULL));
}
