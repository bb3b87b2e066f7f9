/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Takes the ELF image out of a bzImage (Documentation/arch/x86/boot.rst): QEMU starts it by its PVH
 * entry, and the guest need not decompress itself, which takes half a second when its processor is
 * emulated. An ELF image is checked and copied.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "pack/pack.h"

#define KERNEL_IMAGE_BYTES_MAX (128u * 1024u * 1024u)
#define KERNEL_SECTOR_BYTES 512u
#define KERNEL_HEADER_BYTES 0x260u
#define KERNEL_SECTORS_DEFAULT 4u /* when the header says 0 */
#define KERNEL_VERSION_WITH_PAYLOAD 0x208u

static_assert(KERNEL_HEADER_BYTES >= 0x24c + 4, "it holds the payload's place and size");
static_assert(KERNEL_HEADER_BYTES >= KERNEL_SECTOR_BYTES, "its end lies in the second sector");

static uint32_t kernel_load_u32(const uint8_t *bytes) {
    return (uint32_t)bytes[0] | (uint32_t)bytes[1] << 8 | (uint32_t)bytes[2] << 16 |
           (uint32_t)bytes[3] << 24;
}

/* The compressed image inside the file, and its size once decompressed, which stands at its end. */
static bool kernel_find_payload(const struct kelpie_pack_bytes *image, const uint8_t **out,
                                size_t *out_count, uint64_t *out_expanded) {
    const uint8_t *bytes = image->bytes;
    KELPIE_ASSERT(bytes != NULL || image->count == 0);
    if (image->count < KERNEL_HEADER_BYTES || memcmp(bytes + 0x202, "HdrS", 4) != 0 ||
        (kernel_load_u32(bytes + 0x206) & 0xffff) < KERNEL_VERSION_WITH_PAYLOAD) {
        return false;
    }
    uint64_t sectors = bytes[0x1f1] == 0 ? KERNEL_SECTORS_DEFAULT : bytes[0x1f1];
    uint64_t begin = (sectors + 1) * KERNEL_SECTOR_BYTES + kernel_load_u32(bytes + 0x248);
    uint64_t count = kernel_load_u32(bytes + 0x24c);
    if (count < 8 || begin > image->count || count > image->count - begin) {
        return false;
    }
    const uint8_t *payload = bytes + begin;
    KELPIE_ASSERT(begin >= 2u * KERNEL_SECTOR_BYTES);
    *out_expanded = kernel_load_u32(payload + count - 4);
    /* The last four bytes of gzip are its own; the build appends them to every other format. */
    bool is_gzip = payload[0] == 0x1f && payload[1] == 0x8b;
    *out_count = (size_t)count - (is_gzip ? 0 : 4);
    *out = payload;
    KELPIE_ASSERT(*out_count > 0);
    KELPIE_ASSERT(*out_count <= count);
    return *out_expanded > 0;
}

/* What was decompressed, as the file that it became. */
static int kernel_check(const struct kelpie_pack_output *output, size_t count, const char *from) {
    KELPIE_ASSERT(output->file >= 0);
    KELPIE_ASSERT(count > 0);
    void *bytes = mmap(NULL, count, PROT_READ, MAP_PRIVATE, output->file, 0);
    if (bytes == MAP_FAILED) {
        return kelpie__pack_fail(errno, "read what \"%s\" holds", from);
    }
    const struct kelpie_pack_bytes image = {.bytes = bytes, .count = count};
    int status = kelpie__pack_check_elf(&image, from);
    munmap(bytes, count);
    return status;
}

static int kernel_copy(const struct kelpie_pack_bytes *image, const char *from, const char *path) {
    struct kelpie_pack_output output;
    KELPIE_ASSERT(image->bytes != NULL);
    int status = kelpie__pack_check_elf(image, from);
    if (status != KELPIE_PACK_OK) {
        return status;
    }
    status = kelpie__pack_output_open(&output, path);
    if (status == KELPIE_PACK_OK && !kelpie__pack_write(output.file, image->bytes, image->count)) {
        status = kelpie__pack_fail(errno, "write \"%s\"", path);
    }
    if (status == KELPIE_PACK_OK) {
        status = kelpie__pack_output_commit(&output);
    }
    kelpie__pack_output_close(&output);
    KELPIE_ASSERT(output.file < 0);
    return status;
}

static int kernel_extract(const struct kelpie_pack_bytes *image, const char *from,
                          const char *path) {
    const uint8_t *payload = NULL;
    size_t count = 0;
    uint64_t expanded = 0;
    if (!kernel_find_payload(image, &payload, &count, &expanded)) {
        return kelpie__pack_fail(0, "\"%s\" is no bzImage with a compressed kernel in it", from);
    }
    KELPIE_ASSERT(payload >= image->bytes);
    KELPIE_ASSERT(count <= image->count);
    KELPIE_ASSERT(expanded > 0);
    struct kelpie_pack_output output;
    int status = kelpie__pack_output_open(&output, path);
    if (status == KELPIE_PACK_OK) {
        status = kelpie__pack_decompress(payload, count, expanded, output.file, from);
    }
    if (status == KELPIE_PACK_OK) {
        status = kernel_check(&output, (size_t)expanded, from);
    }
    if (status == KELPIE_PACK_OK) {
        status = kelpie__pack_output_commit(&output);
    }
    kelpie__pack_output_close(&output);
    return status;
}

int kelpie__pack_kernel(int argc, char **argv) {
    if (argc != 3) {
        return KELPIE_PACK_USAGE;
    }
    struct kelpie_pack_bytes image = {0};
    int status = kelpie__pack_read(argv[1], KERNEL_IMAGE_BYTES_MAX, &image);
    if (status == KELPIE_PACK_OK) {
        bool is_elf = image.count >= 4 && memcmp(image.bytes, "\177ELF", 4) == 0;
        status = is_elf ? kernel_copy(&image, argv[1], argv[2])
                        : kernel_extract(&image, argv[1], argv[2]);
    }
    free(image.bytes);
    return status;
}
