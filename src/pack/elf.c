/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Whether an ELF image is a kernel that QEMU can start: x86-64, whole, and with the PVH entry,
 * which is a note of Xen's (Documentation: xen/include/public/elfnote.h).
 */
#include <elf.h>
#include <string.h>

#include "pack/pack.h"

#define ELF_SEGMENTS_MAX 64u
#define ELF_NOTES_MAX 256u
#define ELF_NOTE_PVH 18u /* XEN_ELFNOTE_PHYS32_ENTRY */

static_assert(sizeof(Elf64_Nhdr) % 4 == 0, "what follows a note's header is aligned");
static_assert(sizeof(Elf64_Phdr) * ELF_SEGMENTS_MAX <= UINT32_MAX, "a table's size is no overflow");

static size_t elf_align(uint32_t count) {
    return ((size_t)count + 3) & ~(size_t)3;
}

static bool elf_has_pvh(const uint8_t *notes, size_t count) {
    size_t at = 0;
    KELPIE_ASSERT(notes != NULL);
    for (uint32_t i = 0; i < ELF_NOTES_MAX && count - at >= sizeof(Elf64_Nhdr); i += 1) {
        Elf64_Nhdr note;
        memcpy(&note, notes + at, sizeof(note));
        size_t room = count - at - sizeof(note);
        size_t name_bytes = elf_align(note.n_namesz);
        KELPIE_ASSERT(name_bytes >= note.n_namesz);
        if (name_bytes > room || elf_align(note.n_descsz) > room - name_bytes) {
            return false;
        }
        if (note.n_type == ELF_NOTE_PVH && note.n_namesz == 4 &&
            memcmp(notes + at + sizeof(note), "Xen", 4) == 0) {
            return true;
        }
        at += sizeof(note) + name_bytes + elf_align(note.n_descsz);
        KELPIE_ASSERT(at <= count);
    }
    return false;
}

static int elf_check_segments(const struct kelpie_pack_bytes *image, const Elf64_Ehdr *header,
                              const char *from) {
    bool has_pvh = false;
    KELPIE_ASSERT(image->count >= sizeof(*header));
    if (header->e_phnum == 0 || header->e_phnum > ELF_SEGMENTS_MAX ||
        header->e_phentsize != sizeof(Elf64_Phdr) || header->e_phoff > image->count ||
        header->e_phnum * sizeof(Elf64_Phdr) > image->count - header->e_phoff) {
        return kelpie__pack_fail(0, "kernel \"%s\" is cut off or no program", from);
    }
    for (uint16_t i = 0; i < header->e_phnum; i += 1) {
        Elf64_Phdr segment;
        memcpy(&segment, image->bytes + header->e_phoff + i * sizeof(segment), sizeof(segment));
        KELPIE_ASSERT(header->e_phoff + (i + 1u) * sizeof(segment) <= image->count);
        if (segment.p_offset > image->count || segment.p_filesz > image->count - segment.p_offset) {
            return kelpie__pack_fail(0, "kernel \"%s\" is cut off: it has %zu bytes", from,
                                     image->count);
        }
        has_pvh =
            has_pvh || (segment.p_type == PT_NOTE &&
                        elf_has_pvh(image->bytes + segment.p_offset, (size_t)segment.p_filesz));
    }
    if (!has_pvh) {
        return kelpie__pack_fail(
            0, "kernel \"%s\" has no PVH entry: it was built without CONFIG_PVH", from);
    }
    return KELPIE_PACK_OK;
}

int kelpie__pack_check_elf(const struct kelpie_pack_bytes *image, const char *from) {
    Elf64_Ehdr header;
    KELPIE_ASSERT(image->bytes != NULL);
    if (image->count < sizeof(header) || memcmp(image->bytes, ELFMAG, SELFMAG) != 0) {
        return kelpie__pack_fail(0, "what \"%s\" holds is no ELF image", from);
    }
    memcpy(&header, image->bytes, sizeof(header));
    if (header.e_ident[EI_CLASS] != ELFCLASS64 || header.e_machine != EM_X86_64) {
        return kelpie__pack_fail(0, "kernel \"%s\" is for another machine (ELF machine %u)", from,
                                 header.e_machine);
    }
    return elf_check_segments(image, &header, from);
}
