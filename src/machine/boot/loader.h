/* What the loaders of the three kernel formats share. Private to machine/boot. */
#ifndef MACHINE_BOOT_LOADER_H
#define MACHINE_BOOT_LOADER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "machine/boot/boot.h"

#define LOADER_HEAD_SIZE                                                                           \
    32768u /* of the file, for the headers: multiboot's lies in its first 8 KiB */
#define LOADER_NAME_SIZE 160

struct loader {
    const struct boot_config *config;
    struct x86_state *state;
    uint64_t kernel_size, initrd_size;
    char kernel_what[LOADER_NAME_SIZE]; /* "kernel NAME", for messages */
    char initrd_what[LOADER_NAME_SIZE];
    uint8_t *head; /* the file's first bytes */
    size_t head_size;
    /* What the kernel takes up: [kernel_gpa, kernel_end_gpa). */
    uint64_t kernel_gpa, kernel_end_gpa;
    uint64_t initrd_gpa; /* 0: none */
};

/* Memory map of the guest, in e820's types. */
enum loader_memory_type {
    LOADER_MEMORY_RAM = 1,
    LOADER_MEMORY_RESERVED = 2,
};

struct loader_range {
    uint64_t gpa, size_bytes;
    uint32_t type; /* enum loader_memory_type */
};
#define LOADER_MAX_RANGES 16

/* Is it this format? Then load sets everything up, or says what is wrong with the file. */
struct loader_format {
    const char *name;
    bool (*matches)(const struct loader *loader);
    int (*load)(struct loader *loader, struct error *err);
};
extern const struct loader_format loader_bzimage, loader_pvh, loader_multiboot;

/* [gpa, gpa + size) is the kernel's: widens kernel_gpa..kernel_end_gpa. -E2BIG if it does not lie in memory above 1 MiB. */
int must_check loader_reserve(struct loader *loader, uint64_t gpa, uint64_t size,
                              struct error *err);
/* Reads [offset, offset + size) of the kernel to 'gpa', clears 'clear_size' bytes behind it, and reserves both. */
int must_check loader_read_kernel(struct loader *loader, uint64_t offset, uint64_t size,
                                  uint64_t gpa, uint64_t clear_size, struct error *err);
/* Reads the initrd, if there is one, to the highest place whose last byte is at most 'max_gpa', behind the kernel. */
int must_check loader_place_initrd(struct loader *loader, uint64_t max_gpa, struct error *err);
/* Puts the command line (with 'prefix' and a space in front, if not NULL) at BOOT_COMMAND_GPA. */
int must_check loader_put_command_line(struct loader *loader, const char *prefix, size_t max_size,
                                       struct error *err);
size_t loader_memory_map(const struct loader *loader,
                         struct loader_range out_ranges[LOADER_MAX_RANGES]);
/* Writes below 1 MiB: cannot fail, as loader checked that there is memory. */
void loader_write(const struct loader *loader, uint64_t gpa, const void *data, size_t size);

/* 32-bit protected mode, paging off, flat segments: PVH's and multiboot's start. */
void loader_enter_protected(struct loader *loader, uint64_t entry_gpa);
/* 64-bit mode on page tables that map the first 4 GiB to themselves: the 64-bit boot protocol's start. */
void loader_enter_long(struct loader *loader, uint64_t entry_gpa);

/* ELF: loads all segments by their physical addresses. 'out_entry' is e_entry; if 'out_pvh_entry' is not NULL it gets the
 * entry of the Xen note, 0 if there is none. */
bool loader_is_elf(const struct loader *loader);
int must_check loader_read_elf(struct loader *loader, uint64_t *out_entry, uint32_t *out_pvh_entry,
                               struct error *err);

#endif
