/* Kernels in ELF files, 32 and 64 bits: segments and the Xen note of the PVH entry. */
#include <elf.h>
#include <stdlib.h>
#include <string.h>

#include "base/core/bits.h"
#include "base/core/checked.h"
#include "base/host/file.h"
#include "machine/boot/loader.h"

#define MAX_SEGMENTS          64u
#define MAX_NOTES_SIZE        65536u
#define XEN_NOTE_PHYS32_ENTRY 18u /* Xen public/elfnote.h: the 32-bit physical entry of PVH */

bool loader_is_elf(const struct loader *loader)
{
    const uint8_t *ident = loader->head;
    return loader->head_size >= sizeof(Elf64_Ehdr) && memcmp(ident, ELFMAG, SELFMAG) == 0 &&
           ident[EI_DATA] == ELFDATA2LSB &&
           (ident[EI_CLASS] == ELFCLASS32 || ident[EI_CLASS] == ELFCLASS64);
}

static int broken(const struct loader *loader, const char *why, struct error *err)
{
    return error_set(err, EINVAL, "%s: broken ELF file: %s", loader->kernel_what, why);
}

/* Both classes in the form of the larger. */
static void widen(const Elf32_Phdr *from, Elf64_Phdr *to)
{
    *to = (Elf64_Phdr){
        .p_type = from->p_type,
        .p_flags = from->p_flags,
        .p_offset = from->p_offset,
        .p_vaddr = from->p_vaddr,
        .p_paddr = from->p_paddr,
        .p_filesz = from->p_filesz,
        .p_memsz = from->p_memsz,
        .p_align = from->p_align,
    };
}

/* Looks for the PVH entry among the notes of one segment. */
static int read_notes(struct loader *loader, const Elf64_Phdr *segment, uint32_t *out_entry,
                      struct error *err)
{
    if (segment->p_filesz > MAX_NOTES_SIZE ||
        !range_fits(segment->p_offset, segment->p_filesz, loader->kernel_size)) {
        return broken(loader, "its notes are too large or beyond its end", err);
    }
    AUTO_FREE uint8_t *notes = malloc(segment->p_filesz + 1);
    if (notes == NULL) {
        return error_set_errno(err, ENOMEM, "loading %s", loader->kernel_what);
    }
    int rc = file_read_at(loader->config->kernel_fd, notes, segment->p_filesz, segment->p_offset,
                          loader->kernel_what, err);
    if (rc < 0) {
        return rc;
    }
    uint64_t offset = 0;
    while (range_fits(offset, sizeof(Elf64_Nhdr), segment->p_filesz)) {
        Elf64_Nhdr note;
        memcpy(&note, notes + offset, sizeof(note));
        uint64_t name = offset + sizeof(note);
        uint64_t data = name + align_up(note.n_namesz, 4);
        if (!range_fits(name, note.n_namesz, segment->p_filesz) ||
            !range_fits(data, note.n_descsz, segment->p_filesz)) {
            return broken(loader, "a note runs beyond its segment", err);
        }
        if (note.n_type == XEN_NOTE_PHYS32_ENTRY && note.n_namesz == 4 &&
            memcmp(notes + name, "Xen", 4) == 0 && note.n_descsz >= sizeof(*out_entry)) {
            memcpy(out_entry, notes + data, sizeof(*out_entry));
            return 0;
        }
        offset = data + align_up(note.n_descsz, 4);
    }
    return 0;
}

int loader_read_elf(struct loader *loader, uint64_t *out_entry, uint32_t *out_pvh_entry,
                    struct error *err)
{
    Elf64_Ehdr header;
    bool is_64 = loader->head[EI_CLASS] == ELFCLASS64;
    if (is_64) {
        memcpy(&header, loader->head, sizeof(header));
    } else {
        Elf32_Ehdr narrow;
        memcpy(&narrow, loader->head, sizeof(narrow));
        header = (Elf64_Ehdr){.e_machine = narrow.e_machine,
                              .e_entry = narrow.e_entry,
                              .e_phoff = narrow.e_phoff,
                              .e_phentsize = narrow.e_phentsize,
                              .e_phnum = narrow.e_phnum};
    }
    size_t entry_size = is_64 ? sizeof(Elf64_Phdr) : sizeof(Elf32_Phdr);
    if (header.e_machine != EM_X86_64 && header.e_machine != EM_386) {
        return error_set(err, EINVAL,
                         "%s: made for another processor (ELF machine %u): x86 is "
                         "accepted",
                         loader->kernel_what, header.e_machine);
    }
    if (header.e_phnum == 0 || header.e_phnum > MAX_SEGMENTS || header.e_phentsize != entry_size ||
        !range_fits(header.e_phoff, header.e_phnum * entry_size, loader->kernel_size)) {
        return broken(loader, "no usable program headers", err);
    }
    uint32_t pvh_entry = 0;
    for (unsigned i = 0; i < header.e_phnum; i++) {
        union {
            Elf32_Phdr narrow;
            Elf64_Phdr wide;
        } raw;
        Elf64_Phdr segment;
        int rc = file_read_at(loader->config->kernel_fd, &raw, entry_size,
                              header.e_phoff + i * entry_size, loader->kernel_what, err);
        if (rc < 0) {
            return rc;
        }
        if (is_64) {
            segment = raw.wide;
        } else {
            widen(&raw.narrow, &segment);
        }
        if (segment.p_type == PT_LOAD && segment.p_memsz != 0) {
            if (segment.p_filesz > segment.p_memsz) {
                return broken(loader, "a segment is larger in the file than in memory", err);
            }
            rc = loader_read_kernel(loader, segment.p_offset, segment.p_filesz, segment.p_paddr,
                                    segment.p_memsz - segment.p_filesz, err);
        } else if (segment.p_type == PT_NOTE && out_pvh_entry != NULL && pvh_entry == 0) {
            rc = read_notes(loader, &segment, &pvh_entry, err);
        }
        if (rc < 0) {
            return rc;
        }
    }
    if (loader->kernel_end_gpa == 0) {
        return broken(loader, "nothing to load", err);
    }
    *out_entry = header.e_entry;
    if (out_pvh_entry != NULL) {
        *out_pvh_entry = pvh_entry;
    }
    return 0;
}
