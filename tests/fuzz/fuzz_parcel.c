/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Any bytes as a stream of a snapshot: as they are, as records with right checksums in any order,
 * as a manifest, as a disk image. What the reader gives out is in order, inside its file and no
 * more than was announced; it ends, and reads nothing beyond the end.
 */
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "core/checksum.h"
#include "os/os_call.h"
#include "store/parcel.h"
#include "store/qcow2.h"
#include "store/transfer.h"

#define STREAM_BYTES_MAX (64u * 1024u)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct stream {
    uint8_t bytes[STREAM_BYTES_MAX];
    size_t count;
    size_t at;
};

static struct stream stream;

static int64_t stream_read(void *context, void *out, size_t count) {
    struct stream *from = context;
    size_t part = from->count - from->at < count ? from->count - from->at : count;
    memcpy(out, from->bytes + from->at, part);
    from->at += part;
    return (int64_t)part;
}

static void put(const void *bytes, size_t count) {
    if (count <= sizeof(stream.bytes) - stream.count) {
        memcpy(stream.bytes + stream.count, bytes, count);
        stream.count += count;
    }
}

static void put_head(const struct kelpie_origin *origin, uint64_t data_bytes) {
    uint8_t head[KELPIE_PARCEL_HEAD_BYTES] = "\x8bKELPIE\n\1";
    memcpy(head + 16, origin->name, sizeof(origin->name));
    memcpy(head + 32, &data_bytes, sizeof(data_bytes));
    uint64_t sum = kelpie__checksum_u64(head, 56);
    memcpy(head + 56, &sum, sizeof(sum));
    put(head, sizeof(head));
}

static void put_record(uint32_t kind, uint32_t file, uint64_t offset, const void *payload,
                       uint32_t count) {
    static uint8_t record[KELPIE_PARCEL_RECORD_BYTES + STREAM_BYTES_MAX];
    memset(record, 0, KELPIE_PARCEL_RECORD_BYTES);
    memcpy(record + 8, &kind, sizeof(kind));
    memcpy(record + 12, &file, sizeof(file));
    memcpy(record + 16, &offset, sizeof(offset));
    memcpy(record + 24, &count, sizeof(count));
    memcpy(record + KELPIE_PARCEL_RECORD_BYTES, payload, count);
    uint64_t sum = kelpie__checksum_u64(record + 8, KELPIE_PARCEL_RECORD_BYTES - 8 + count);
    memcpy(record, &sum, sizeof(sum));
    put(record, KELPIE_PARCEL_RECORD_BYTES + count);
}

/* A text that begins with the right checksum of what follows. */
static void put_manifest(const char *rest, size_t count) {
    static char text[STREAM_BYTES_MAX];
    char sum[KELPIE_CHECKSUM_TEXT_BYTES];
    size_t begin = strlen("{\"self\":\"") + 32;
    if (count > sizeof(text) - begin) {
        return;
    }
    memcpy(text + begin, rest, count);
    kelpie__checksum_text(text + begin, count, sum);
    snprintf(text, begin + 1, "{\"self\":\"%s", sum);
    memcpy(text + begin, rest, count);
    put_record(1, 0, 0, text, (uint32_t)(begin + count));
}

static const char manifest_rest[] =
    "\",\"format\":1,\"id\":\"\",\"name\":\"a\",\"label\":\"\",\"vm_id\":\"\",\"vm_name\":\"\","
    "\"parent\":\"\",\"kind\":\"\",\"architecture\":\"\",\"backend\":\"\",\"vmm_version\":\"\","
    "\"machine\":\"\",\"cpu\":\"\",\"accelerator\":\"\",\"kernel_digest\":\"\",\"mark\":\"\","
    "\"token\":\"\",\"checksum\":\"\",\"created_ms\":1,\"tsc_khz\":1,\"cpu_count\":1,"
    "\"memory_mib\":128,\"is_paused\":false,\"has_base\":false,\"page_count\":0,"
    "\"stored_bytes\":0,\"disks\":[],\"files\":[{\"name\":\"x\",\"size_bytes\":100},"
    "{\"name\":\"y\",\"size_bytes\":0},{\"name\":\"z\",\"size_bytes\":70000}]}";

/* Eight bytes say one record. */
static void put_records(const uint8_t *data, size_t size) {
    static const uint8_t payload[4096];
    uint64_t end[2] = {1, 0};
    for (size_t at = 0; at + 8 <= size; at += 8) {
        uint32_t kind = data[at] % 8 == 0 ? data[at + 1] : 2;
        uint32_t count = (uint32_t)(data[at + 6] | data[at + 7] << 8) % sizeof(payload);
        uint64_t offset = (uint64_t)(data[at + 3] | data[at + 4] << 8 | data[at + 5] << 16);
        put_record(kind, data[at + 2] % 4, data[at] == 1 ? UINT64_MAX - offset : offset, payload,
                   count);
        end[0] += 1;
        end[1] += count;
    }
    uint8_t last[KELPIE_PARCEL_END_BYTES] = {0};
    memcpy(last, end, sizeof(end));
    put_record(3, 0, 0, last, sizeof(last));
}

static void read_all(struct kelpie_os *os, const struct kelpie_origin *origin) {
    struct kelpie_parcel_reader reader;
    struct kelpie_parcel_data got = {0};
    struct kelpie_error error = {0};
    const struct kelpie_parcel_input input = {.read = stream_read, .context = &stream};
    uint64_t total = 0;
    uint32_t file = 0;
    uint64_t end = 0;
    stream.at = 0;
    int status = kelpie__parcel_open(&reader, os, origin, &input, &error);
    if (status < 0) {
        KELPIE_ASSERT(error.code == status && error.message[0] != '\0');
        return;
    }
    kelpie__ignore(kelpie__import_check_manifest(&reader.manifest, NULL));
    status = kelpie__parcel_read(&reader, &got, &error);
    for (uint32_t i = 0; i < STREAM_BYTES_MAX && status == 1; i += 1) {
        KELPIE_ASSERT(got.file > file || (got.file == file && got.offset >= end));
        KELPIE_ASSERT(got.file < reader.manifest.file_count);
        file = got.file;
        end = got.offset + got.count;
        total += got.count;
        KELPIE_ASSERT(end <= reader.manifest.files[file].size_bytes);
        KELPIE_ASSERT(total <= reader.data_bytes_max);
        status = kelpie__parcel_read(&reader, &got, &error);
    }
    KELPIE_ASSERT(status <= 0); /* it has ended */
    KELPIE_ASSERT(status == 0 || (error.code == status && error.message[0] != '\0'));
    kelpie__parcel_close(&reader);
}

static void look_at_image(struct kelpie_os *os, const uint8_t *data, size_t size) {
    static int file = KELPIE_OS_NO_HANDLE;
    uint8_t head[512] = "QFI\xfb";
    if (file < 0) {
        file = kelpie__os_memory_file(os, "image", 4096);
    }
    size_t count = size < sizeof(head) - 4 ? size : sizeof(head) - 4;
    memcpy(head + 4, data, count);
    int64_t written = kelpie__os_pwrite(os, file, head, sizeof(head), 0);
    KELPIE_ASSERT(written == (int64_t)sizeof(head));
    kelpie__ignore(kelpie__qcow2_check(os, file, "image", "below.raw", "raw", NULL));
    kelpie__ignore(kelpie__qcow2_check(os, file, "image", "", "", NULL));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static struct kelpie_os *os;
    static const struct kelpie_origin origin = {.name = {1}};
    static const struct kelpie_origin other = {.name = {2}};
    os = os == NULL ? kelpie__os_linux_create() : os;
    if (os == NULL || size == 0) {
        return 0;
    }
    stream.count = 0;
    switch (data[0] % 4) {
    case 0:
        put(data + 1, size - 1);
        break;
    case 1:
        put_head(&origin, 70000);
        put_manifest((const char *)data + 1, size - 1);
        put_records(data, 0);
        break;
    case 2:
        put_head(&origin, 70000);
        put_manifest(manifest_rest, strlen(manifest_rest));
        put_records(data + 1, size - 1);
        break;
    default:
        look_at_image(os, data + 1, size - 1);
        return 0;
    }
    read_all(os, data[0] % 8 < 4 ? &origin : &other);
    return 0;
}
