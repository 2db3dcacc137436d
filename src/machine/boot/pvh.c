/* PVH: an ELF kernel with a 32-bit physical entry (Xen docs/misc/pvh.pandoc; start info: public/arch-x86/hvm/start_info.h). */
#include <inttypes.h>
#include <string.h>

#include "machine/boot/loader.h"

#define START_INFO_MAGIC 0x336ec578u

struct start_info {
    uint32_t magic, version, flags, module_count;
    uint64_t modules_gpa, command_line_gpa, rsdp_gpa, memory_map_gpa;
    uint32_t memory_map_count, reserved;
};

struct start_module {
    uint64_t gpa, size_bytes, command_line_gpa, reserved;
};

struct start_range {
    uint64_t gpa, size_bytes;
    uint32_t type, reserved;
};

static bool pvh_matches(const struct loader *loader)
{
    return loader_is_elf(loader);
}

static int pvh_load(struct loader *loader, struct error *err)
{
    uint64_t elf_entry;
    uint32_t entry;
    int rc = loader_read_elf(loader, &elf_entry, &entry, err);
    if (rc < 0) {
        return rc;
    }
    if (entry == 0) {
        return error_set(err, EINVAL,
                         "%s: an ELF file without a PVH entry: a bzImage, a PVH ELF or "
                         "a multiboot image is accepted",
                         loader->kernel_what);
    }
    rc = loader_place_initrd(loader, UINT32_MAX, err);
    if (rc < 0) {
        return rc;
    }
    rc = loader_put_command_line(loader, NULL, BOOT_COMMAND_MAX, err);
    if (rc < 0) {
        return rc;
    }
    struct {
        struct start_info info;
        struct start_module module;
        struct start_range map[LOADER_MAX_RANGES];
    } start;
    memset(&start, 0, sizeof(start));
    struct loader_range ranges[LOADER_MAX_RANGES];
    size_t count = loader_memory_map(loader, ranges);
    for (size_t i = 0; i < count; i++) {
        start.map[i] = (struct start_range){
            .gpa = ranges[i].gpa, .size_bytes = ranges[i].size_bytes, .type = ranges[i].type};
    }
    start.module =
        (struct start_module){.gpa = loader->initrd_gpa, .size_bytes = loader->initrd_size};
    start.info = (struct start_info){
        .magic = START_INFO_MAGIC,
        .version = 1,
        .module_count = loader->initrd_gpa != 0 ? 1 : 0,
        .modules_gpa = BOOT_PVH_INFO_GPA + offsetof(__typeof__(start), module),
        .command_line_gpa = BOOT_COMMAND_GPA,
        .rsdp_gpa = loader->config->rsdp_gpa,
        .memory_map_gpa = BOOT_PVH_INFO_GPA + offsetof(__typeof__(start), map),
        .memory_map_count = (uint32_t)count,
    };
    loader_write(loader, BOOT_PVH_INFO_GPA, &start, sizeof(start));
    loader_enter_protected(loader, entry);
    loader->state->gpr[X86_RBX] = BOOT_PVH_INFO_GPA;
    return 0;
}

const struct loader_format loader_pvh = {
    .name = "PVH",
    .matches = pvh_matches,
    .load = pvh_load,
};
