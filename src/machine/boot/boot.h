/* Direct boot: a kernel straight into guest memory, without firmware. Takes bzImage (64-bit protocol, or 32-bit), PVH ELF and multiboot-1.
 *
 * Kernels, initrds and command lines are untrusted input: every size in them is checked against the file and the memory. */
#ifndef MACHINE_BOOT_BOOT_H
#define MACHINE_BOOT_BOOT_H

#include <stddef.h>
#include <stdint.h>

#include "base/core/error.h"
#include "cpu/x86/state.h"
#include "engine/memory.h"

/* Where boot structures lie in guest memory. All below 1 MiB, out of the kernels' way. */
#define BOOT_GDT_GPA         0x0500u
#define BOOT_PVH_INFO_GPA    0x6000u
#define BOOT_ZERO_PAGE_GPA   0x7000u
#define BOOT_PAGE_TABLES_GPA 0x9000u /* top table, one of 1 GiB pointers, four of 2 MiB pages */
#define BOOT_STACK_GPA       0x8ff0u
#define BOOT_RNG_SEED_GPA    0xf000u
#define BOOT_COMMAND_GPA     0x20000u
#define BOOT_COMMAND_MAX     4096u    /* with the NUL */
#define BOOT_LOW_END_GPA     0x9fc00u /* usable memory below 640 KiB ends here */
#define BOOT_ACPI_GPA        0xe0000u /* to 1 MiB, where guests look for the RSDP */
#define BOOT_ACPI_SIZE       0x20000u
#define BOOT_HIGH_GPA        0x100000u

struct boot_reserved {
    uint64_t gpa, size_bytes;
};

struct boot_config {
    struct guest_memory *memory;
    uint64_t ram_below_4g; /* bytes from 0 */
    uint64_t ram_above_4g; /* bytes from 4 GiB */
    /* Ranges outside memory that the map names as reserved (ECAM). */
    const struct boot_reserved *reserved;
    size_t reserved_count;
    uint64_t rsdp_gpa; /* 0: none */

    int kernel_fd, initrd_fd; /* initrd_fd -1: none */
    const char *kernel_name, *initrd_name;
    const char *command_line; /* "" for none */
    bool is_repeatable;       /* the kernel gets the same seed for random numbers each time */
};

/* Loads the kernel and what it needs, and puts the entry state into *state, which holds a boot processor's reset state.
 * Errors: -EINVAL (not a kernel, or a broken one), -E2BIG (does not fit the memory), -errno of reading. */
int must_check boot_load(const struct boot_config *config, struct x86_state *state,
                         struct error *err);

#endif
