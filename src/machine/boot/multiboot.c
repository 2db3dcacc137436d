/* Multiboot 1 (Multiboot Specification 0.6.96): what small kernels and kvm-unit-tests use. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/core/endian.h"
#include "machine/boot/loader.h"

#define HEADER_MAGIC     0x1badb002u
#define BOOT_MAGIC       0x2badb002u /* in EAX at entry */
#define SEARCH_SIZE      8192u
#define FLAG_PAGE_ALIGN  0x00000001u
#define FLAG_MEMORY      0x00000002u
#define FLAG_ADDRESSES   0x00010000u
#define FLAGS_MANDATORY  0x0000ffffu
#define INFO_MEMORY      0x0001u
#define INFO_COMMAND     0x0004u
#define INFO_MODULES     0x0008u
#define INFO_MEMORY_MAP  0x0040u
#define INFO_LOADER_NAME 0x0200u

struct info {
    uint32_t flags, lower_kib, upper_kib, boot_device, command_line_gpa, module_count, modules_gpa,
        symbols[4], memory_map_size, memory_map_gpa, drives_size, drives_gpa, config_table,
        loader_name_gpa, apm_table;
};

struct module {
    uint32_t start_gpa, end_gpa, string_gpa, reserved;
};

struct __attribute__((packed)) range {
    uint32_t size; /* of what follows */
    uint64_t gpa, size_bytes;
    uint32_t type;
};

/* The header's offset in the file, or -1. */
static long find_header(const struct loader *loader)
{
    size_t end = MIN(loader->head_size, SEARCH_SIZE);
    for (size_t i = 0; i + 12 <= end; i += 4) {
        if (le32_get(loader->head + i) == HEADER_MAGIC && le32_get(loader->head + i) +
                                                                  le32_get(loader->head + i + 4) +
                                                                  le32_get(loader->head + i + 8) ==
                                                              0) {
            return (long)i;
        }
    }
    return -1;
}

static bool multiboot_matches(const struct loader *loader)
{
    return find_header(loader) >= 0;
}

/* By the addresses in the header (section 3.1.3). */
static int load_flat(struct loader *loader, uint64_t header, uint64_t *out_entry, struct error *err)
{
    if (header + 32 > loader->head_size) {
        return error_set(err, EINVAL, "%s: broken: its multiboot header is cut off",
                         loader->kernel_what);
    }
    const uint8_t *fields = loader->head + header;
    uint64_t header_gpa = le32_get(fields + 12);
    uint64_t load_gpa = le32_get(fields + 16);
    uint64_t load_end = le32_get(fields + 20);
    uint64_t bss_end = le32_get(fields + 24);
    if (header_gpa < load_gpa || header_gpa - load_gpa > header) {
        return error_set(err, EINVAL, "%s: broken: its multiboot addresses contradict each other",
                         loader->kernel_what);
    }
    uint64_t offset = header - (header_gpa - load_gpa);
    uint64_t size = load_end == 0 ? loader->kernel_size - offset : load_end - load_gpa;
    if (load_end != 0 && load_end < load_gpa) {
        return error_set(err, EINVAL, "%s: broken: its multiboot image ends before it starts",
                         loader->kernel_what);
    }
    uint64_t clear_size = bss_end > load_gpa + size ? bss_end - (load_gpa + size) : 0;
    *out_entry = le32_get(fields + 28);
    return loader_read_kernel(loader, offset, size, load_gpa, clear_size, err);
}

static int multiboot_load(struct loader *loader, struct error *err)
{
    uint64_t header = (uint64_t)find_header(loader);
    uint32_t flags = le32_get(loader->head + header + 4);
    uint32_t unknown = flags & FLAGS_MANDATORY & ~(FLAG_PAGE_ALIGN | FLAG_MEMORY);
    if (unknown != 0) {
        return error_set(err, EINVAL,
                         "%s: wants multiboot features 0x%x that are not there: only "
                         "aligned modules and the memory map are",
                         loader->kernel_what, unknown);
    }
    uint64_t entry;
    int rc;
    if ((flags & FLAG_ADDRESSES) != 0) {
        rc = load_flat(loader, header, &entry, err);
    } else if (loader_is_elf(loader)) {
        rc = loader_read_elf(loader, &entry, NULL, err);
    } else {
        return error_set(err, EINVAL, "%s: a multiboot header without addresses, and no ELF file",
                         loader->kernel_what);
    }
    if (rc < 0) {
        return rc;
    }
    rc = loader_place_initrd(loader, UINT32_MAX, err);
    if (rc < 0) {
        return rc;
    }
    /* By convention the first word is the image's name. */
    rc = loader_put_command_line(loader, loader->config->kernel_name, BOOT_COMMAND_MAX, err);
    if (rc < 0) {
        return rc;
    }
    struct {
        struct info info;
        struct module module;
        struct range map[LOADER_MAX_RANGES];
        char loader_name[8];
    } boot;
    memset(&boot, 0, sizeof(boot));
    struct loader_range ranges[LOADER_MAX_RANGES];
    size_t count = loader_memory_map(loader, ranges);
    for (size_t i = 0; i < count; i++) {
        boot.map[i] = (struct range){.size = sizeof(struct range) - sizeof(uint32_t),
                                     .gpa = ranges[i].gpa,
                                     .size_bytes = ranges[i].size_bytes,
                                     .type = ranges[i].type};
    }
    boot.module = (struct module){.start_gpa = (uint32_t)loader->initrd_gpa,
                                  .end_gpa = (uint32_t)(loader->initrd_gpa + loader->initrd_size)};
    memcpy(boot.loader_name, "hull", sizeof("hull"));
    boot.info = (struct info){
        .flags = INFO_MEMORY | INFO_COMMAND | INFO_MODULES | INFO_MEMORY_MAP | INFO_LOADER_NAME,
        .lower_kib = BOOT_LOW_END_GPA >> 10,
        .upper_kib = (uint32_t)((loader->config->ram_below_4g - BOOT_HIGH_GPA) >> 10),
        .command_line_gpa = BOOT_COMMAND_GPA,
        .module_count = loader->initrd_gpa != 0 ? 1 : 0,
        .modules_gpa = (uint32_t)(BOOT_PVH_INFO_GPA + offsetof(__typeof__(boot), module)),
        .memory_map_size = (uint32_t)(count * sizeof(struct range)),
        .memory_map_gpa = (uint32_t)(BOOT_PVH_INFO_GPA + offsetof(__typeof__(boot), map)),
        .loader_name_gpa = (uint32_t)(BOOT_PVH_INFO_GPA + offsetof(__typeof__(boot), loader_name)),
    };
    loader_write(loader, BOOT_PVH_INFO_GPA, &boot, sizeof(boot));
    loader_enter_protected(loader, entry);
    loader->state->gpr[X86_RAX] = BOOT_MAGIC;
    loader->state->gpr[X86_RBX] = BOOT_PVH_INFO_GPA;
    return 0;
}

const struct loader_format loader_multiboot = {
    .name = "multiboot",
    .matches = multiboot_matches,
    .load = multiboot_load,
};
