#include "machine/boot/loader.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/core/bits.h"
#include "base/core/checked.h"
#include "base/core/endian.h"
#include "base/core/invariant.h"
#include "base/host/file.h"

#define GIB (1ull << 30)

/* Segment attributes as in struct x86_segment: present, accessed, 4 KiB granularity. */
#define CODE64 0xa09bu
#define CODE32 0xc09bu
#define DATA   0xc093u
#define TSS    0x008bu /* busy, 32 or 64 bits by mode */

#define SELECTOR_CODE 0x10u
#define SELECTOR_DATA 0x18u
#define SELECTOR_TSS  0x20u

#define PAGE_PRESENT  0x1u
#define PAGE_WRITABLE 0x2u
#define PAGE_LARGE    0x80u

static const struct loader_format *const formats[] = {
    &loader_bzimage,
    &loader_multiboot, /* before PVH: a multiboot kernel is an ELF file too */
    &loader_pvh,
};

void loader_write(const struct loader *loader, uint64_t gpa, const void *data, size_t size)
{
    bool is_written = guest_memory_write(loader->config->memory, gpa, data, size);
    invariant(is_written);
}

int loader_reserve(struct loader *loader, uint64_t gpa, uint64_t size, struct error *err)
{
    const struct boot_config *config = loader->config;
    if (gpa < BOOT_HIGH_GPA || !range_fits(gpa, size, config->ram_below_4g)) {
        return error_set(err, E2BIG,
                         "%s: needs memory at 0x%" PRIx64
                         " and on: give the guest more memory (now %" PRIu64 " MiB)",
                         loader->kernel_what, gpa, config->memory->size_bytes >> 20);
    }
    if (loader->kernel_end_gpa == 0 || gpa < loader->kernel_gpa) {
        loader->kernel_gpa = gpa;
    }
    loader->kernel_end_gpa = MAX(loader->kernel_end_gpa, gpa + size);
    return 0;
}

int loader_read_kernel(struct loader *loader, uint64_t offset, uint64_t size, uint64_t gpa,
                       uint64_t clear_size, struct error *err)
{
    struct guest_memory *memory = loader->config->memory;
    uint64_t total;
    if (!range_fits(offset, size, loader->kernel_size)) {
        return error_set(err, EINVAL, "%s: broken: its headers speak of bytes beyond its end",
                         loader->kernel_what);
    }
    if (!checked_add(size, clear_size, &total)) {
        total = UINT64_MAX;
    }
    int rc = loader_reserve(loader, gpa, total, err);
    if (rc < 0) {
        return rc;
    }
    uint8_t *to = guest_memory_map(memory, gpa, total, true);
    if (to == NULL) {
        return error_set(err, E2BIG, "%s: no guest memory at 0x%" PRIx64, loader->kernel_what, gpa);
    }
    rc = file_read_at(loader->config->kernel_fd, to, size, offset, loader->kernel_what, err);
    if (rc < 0) {
        return rc;
    }
    memset(to + size, 0, clear_size);
    guest_memory_written(memory, gpa, total);
    return 0;
}

int loader_place_initrd(struct loader *loader, uint64_t max_gpa, struct error *err)
{
    struct guest_memory *memory = loader->config->memory;
    if (loader->config->initrd_fd < 0 || loader->initrd_size == 0) {
        return 0;
    }
    uint64_t end = MIN(loader->config->ram_below_4g, max_gpa + 1);
    uint64_t floor = align_up(loader->kernel_end_gpa, GUEST_PAGE_SIZE);
    if (end < floor || loader->initrd_size > end - floor ||
        align_down(end - loader->initrd_size, GUEST_PAGE_SIZE) < floor) {
        return error_set(err, E2BIG,
                         "%s: its %" PRIu64 " MiB do not fit behind the kernel: give the guest "
                         "more memory (now %" PRIu64 " MiB)",
                         loader->initrd_what, (loader->initrd_size + (1 << 20) - 1) >> 20,
                         memory->size_bytes >> 20);
    }
    loader->initrd_gpa = align_down(end - loader->initrd_size, GUEST_PAGE_SIZE);
    void *to = guest_memory_map(memory, loader->initrd_gpa, loader->initrd_size, true);
    if (to == NULL) {
        return error_set(err, E2BIG, "%s: no guest memory at 0x%" PRIx64, loader->initrd_what,
                         loader->initrd_gpa);
    }
    int rc = file_read_at(loader->config->initrd_fd, to, loader->initrd_size, 0,
                          loader->initrd_what, err);
    if (rc == 0) {
        guest_memory_written(memory, loader->initrd_gpa, loader->initrd_size);
    }
    return rc;
}

int loader_put_command_line(struct loader *loader, const char *prefix, size_t max_size,
                            struct error *err)
{
    char line[BOOT_COMMAND_MAX];
    int length = snprintf(line, sizeof(line), "%s%s%s", prefix != NULL ? prefix : "",
                          prefix != NULL ? " " : "", loader->config->command_line);
    max_size = MIN(max_size, sizeof(line));
    if (length < 0 || (size_t)length >= max_size) {
        return error_set(err, E2BIG, "command line: %d characters, the kernel takes at most %zu",
                         length, max_size - 1);
    }
    loader_write(loader, BOOT_COMMAND_GPA, line, (size_t)length + 1);
    return 0;
}

size_t loader_memory_map(const struct loader *loader,
                         struct loader_range out_ranges[LOADER_MAX_RANGES])
{
    const struct boot_config *config = loader->config;
    size_t count = 0;
    out_ranges[count++] = (struct loader_range){0, BOOT_LOW_END_GPA, LOADER_MEMORY_RAM};
    out_ranges[count++] =
        (struct loader_range){BOOT_LOW_END_GPA, 0xa0000 - BOOT_LOW_END_GPA, LOADER_MEMORY_RESERVED};
    out_ranges[count++] =
        (struct loader_range){BOOT_ACPI_GPA, BOOT_ACPI_SIZE, LOADER_MEMORY_RESERVED};
    out_ranges[count++] = (struct loader_range){BOOT_HIGH_GPA, config->ram_below_4g - BOOT_HIGH_GPA,
                                                LOADER_MEMORY_RAM};
    for (size_t i = 0; i < config->reserved_count && count < LOADER_MAX_RANGES - 1; i++) {
        out_ranges[count++] = (struct loader_range){
            config->reserved[i].gpa, config->reserved[i].size_bytes, LOADER_MEMORY_RESERVED};
    }
    if (config->ram_above_4g != 0) {
        out_ranges[count++] =
            (struct loader_range){4 * GIB, config->ram_above_4g, LOADER_MEMORY_RAM};
    }
    return count;
}

static void set_segments(struct x86_state *state, uint16_t code_attributes)
{
    for (int i = 0; i < X86_SEGMENT_COUNT; i++) {
        state->segment[i] = (struct x86_segment){
            .limit = 0xffffffff, .selector = SELECTOR_DATA, .attributes = DATA};
    }
    state->segment[X86_CS].selector = SELECTOR_CODE;
    state->segment[X86_CS].attributes = code_attributes;
    state->tr = (struct x86_segment){.limit = 0x67, .selector = SELECTOR_TSS, .attributes = TSS};
    state->ldtr = (struct x86_segment){.attributes = X86_SEGMENT_UNUSABLE};
    state->idtr = (struct x86_table){0};
    state->rflags = X86_FLAG_ONE;
}

/* The descriptors that the segment registers claim to come from, for kernels that load them again. */
static void put_gdt(const struct loader *loader, uint16_t code_attributes)
{
    uint64_t gdt[6] = {0};
    /* Limit 0xfffff, base 0; attributes are descriptor bits 55:40. */
    gdt[SELECTOR_CODE / 8] = 0x000f00000000ffffull | (uint64_t)code_attributes << 40;
    gdt[SELECTOR_DATA / 8] = 0x000f00000000ffffull | (uint64_t)DATA << 40;
    gdt[SELECTOR_TSS / 8] = 0x67ull | (uint64_t)TSS << 40;
    loader_write(loader, BOOT_GDT_GPA, gdt, sizeof(gdt));
    loader->state->gdtr = (struct x86_table){.base = BOOT_GDT_GPA, .limit = sizeof(gdt) - 1};
}

void loader_enter_protected(struct loader *loader, uint64_t entry_gpa)
{
    struct x86_state *state = loader->state;
    set_segments(state, CODE32);
    put_gdt(loader, CODE32);
    state->cr0 = X86_CR0_PE | X86_CR0_ET;
    state->cr4 = 0;
    state->efer = 0;
    state->rip = entry_gpa;
}

void loader_enter_long(struct loader *loader, uint64_t entry_gpa)
{
    struct x86_state *state = loader->state;
    const uint64_t entries = GUEST_PAGE_SIZE / 8;
    uint64_t table[GUEST_PAGE_SIZE / 8] = {0};
    uint64_t top_gpa = BOOT_PAGE_TABLES_GPA;
    table[0] = (top_gpa + GUEST_PAGE_SIZE) | PAGE_PRESENT | PAGE_WRITABLE;
    loader_write(loader, top_gpa, table, sizeof(table));
    for (uint64_t i = 0; i < 4; i++) {
        table[i] = (top_gpa + (2 + i) * GUEST_PAGE_SIZE) | PAGE_PRESENT | PAGE_WRITABLE;
    }
    loader_write(loader, top_gpa + GUEST_PAGE_SIZE, table, sizeof(table));
    for (uint64_t i = 0; i < 4; i++) {
        for (uint64_t j = 0; j < entries; j++) {
            table[j] = (i * entries + j) << 21 | PAGE_PRESENT | PAGE_WRITABLE | PAGE_LARGE;
        }
        loader_write(loader, top_gpa + (2 + i) * GUEST_PAGE_SIZE, table, sizeof(table));
    }
    set_segments(state, CODE64);
    put_gdt(loader, CODE64);
    state->cr0 = X86_CR0_PE | X86_CR0_PG | X86_CR0_ET | X86_CR0_NE | X86_CR0_WP;
    state->cr3 = top_gpa;
    state->cr4 = X86_CR4_PAE;
    state->efer = X86_EFER_LME | X86_EFER_LMA;
    state->gpr[X86_RSP] = BOOT_STACK_GPA;
    state->rip = entry_gpa;
}

/* The size of a regular file. */
static int file_size(int fd, const char *what, uint64_t *out_size, struct error *err)
{
    struct stat status;
    if (fstat(fd, &status) < 0) {
        return error_set_errno(err, errno, "reading %s", what);
    }
    if (!S_ISREG(status.st_mode)) {
        return error_set(err, EINVAL, "%s: not a regular file", what);
    }
    *out_size = (uint64_t)status.st_size;
    return 0;
}

int boot_load(const struct boot_config *config, struct x86_state *state, struct error *err)
{
    struct loader loader = {.config = config, .state = state};
    (void)snprintf(loader.kernel_what, sizeof(loader.kernel_what), "kernel %s",
                   config->kernel_name);
    (void)snprintf(loader.initrd_what, sizeof(loader.initrd_what), "initrd %s",
                   config->initrd_name != NULL ? config->initrd_name : "");
    if (config->ram_below_4g < 2 * BOOT_HIGH_GPA) {
        return error_set(err, E2BIG, "guest memory: %" PRIu64 " KiB: at least 2 MiB are needed",
                         config->ram_below_4g >> 10);
    }
    int rc = file_size(config->kernel_fd, loader.kernel_what, &loader.kernel_size, err);
    if (rc == 0 && config->initrd_fd >= 0) {
        rc = file_size(config->initrd_fd, loader.initrd_what, &loader.initrd_size, err);
    }
    if (rc < 0) {
        return rc;
    }
    AUTO_FREE uint8_t *head = calloc(1, LOADER_HEAD_SIZE);
    if (head == NULL) {
        return error_set_errno(err, ENOMEM, "loading %s", loader.kernel_what);
    }
    loader.head = head;
    loader.head_size = MIN(loader.kernel_size, LOADER_HEAD_SIZE);
    rc = file_read_at(config->kernel_fd, head, loader.head_size, 0, loader.kernel_what, err);
    if (rc < 0) {
        return rc;
    }
    for (size_t i = 0; i < ARRAY_COUNT(formats); i++) {
        if (formats[i]->matches(&loader)) {
            return formats[i]->load(&loader, err);
        }
    }
    return error_set(err, EINVAL,
                     "%s: not a kernel: a bzImage, a PVH ELF or a multiboot image is "
                     "accepted",
                     loader.kernel_what);
}
