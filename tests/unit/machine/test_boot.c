/* Covers machine/boot: kernels of three formats, broken ones, the ACPI tables. */
#include <asm/bootparam.h>
#include <elf.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/core/endian.h"
#include "machine/boot/acpi.h"
#include "machine/boot/boot.h"

#define MIB (1u << 20)

struct fixture {
    struct guest_memory *memory;
    struct boot_config config;
    struct x86_state state;
    struct error err;
};

static int file_of(const void *data, size_t size)
{
    int fd = memfd_create("test", MFD_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, data, size), (ssize_t)size);
    return fd;
}

static int setup(void **state)
{
    static struct fixture f;
    f = (struct fixture){0};
    assert_int_equal(guest_memory_create(&f.memory, NULL), 0);
    assert_int_equal(guest_memory_add(f.memory, 0, 64 * MIB, false, false, NULL), 0);
    x86_state_reset(&f.state, true, false);
    f.config = (struct boot_config){.memory = f.memory,
                                    .ram_below_4g = 64 * MIB,
                                    .rsdp_gpa = 0xe0000,
                                    .kernel_fd = -1,
                                    .initrd_fd = -1,
                                    .kernel_name = "test",
                                    .initrd_name = "initrd",
                                    .command_line = "console=ttyS0"};
    *state = &f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    if (f->config.kernel_fd >= 0) {
        close(f->config.kernel_fd);
    }
    if (f->config.initrd_fd >= 0) {
        close(f->config.initrd_fd);
    }
    guest_memory_destroy(f->memory);
    return 0;
}

static void read_guest(struct fixture *f, uint64_t gpa, void *out, size_t size)
{
    assert_true(guest_memory_read(f->memory, gpa, out, size));
}

/* A bzImage: one set-up sector, then 'size' bytes of 0x90. */
static void make_bzimage(uint8_t image[8192], struct setup_header *header)
{
    memset(image, 0x90, 8192);
    *header = (struct setup_header){.setup_sects = 1,
                                    .boot_flag = 0xaa55,
                                    .jump = 0xeb | (0x268 - 0x202) << 8,
                                    .header = 0x53726448,
                                    .version = 0x20f,
                                    .loadflags = LOADED_HIGH,
                                    .initrd_addr_max = 0x7fffffff,
                                    .kernel_alignment = 2 * MIB,
                                    .relocatable_kernel = 1,
                                    .xloadflags = XLF_KERNEL_64,
                                    .cmdline_size = 2047,
                                    .pref_address = 16 * MIB,
                                    .init_size = 4 * MIB};
    memcpy(image + 0x1f1, header, sizeof(*header));
}

static void bzimage_by_the_64_bit_protocol(void **state)
{
    struct fixture *f = *state;
    uint8_t image[8192];
    struct setup_header header;
    make_bzimage(image, &header);
    f->config.kernel_fd = file_of(image, sizeof(image));
    f->config.initrd_fd = file_of("initial ram disk", 16);
    assert_int_equal(boot_load(&f->config, &f->state, &f->err), 0);

    assert_int_equal(f->state.rip, 16 * MIB + 0x200);
    assert_int_equal(f->state.efer, X86_EFER_LME | X86_EFER_LMA);
    assert_true((f->state.segment[X86_CS].attributes & X86_SEGMENT_L) != 0);
    uint8_t code;
    read_guest(f, 16 * MIB + 0x200, &code, 1);
    assert_int_equal(code, 0x90);

    struct boot_params params;
    read_guest(f, f->state.gpr[X86_RSI], &params, sizeof(params));
    assert_int_equal(params.hdr.type_of_loader, 0xff);
    assert_int_equal(params.hdr.ramdisk_size, 16);
    assert_int_equal(params.acpi_rsdp_addr, 0xe0000);
    char text[16];
    read_guest(f, params.hdr.ramdisk_image, text, 16);
    assert_memory_equal(text, "initial ram disk", 16);
    read_guest(f, params.hdr.cmd_line_ptr, text, 14);
    assert_string_equal(text, "console=ttyS0");
    struct setup_data seed;
    read_guest(f, params.hdr.setup_data, &seed, sizeof(seed));
    assert_int_equal(seed.type, SETUP_RNG_SEED);
    assert_int_equal(seed.len, 32);

    uint64_t usable = 0;
    for (int i = 0; i < params.e820_entries; i++) {
        usable += params.e820_table[i].type == 1 ? params.e820_table[i].size : 0;
    }
    assert_int_equal(usable, 63 * MIB + BOOT_LOW_END_GPA);

    /* The page tables map an address of each GiB to itself. */
    for (uint64_t gva = 0x201234; gva < 4ull << 30; gva += 1ull << 30) {
        uint64_t entry;
        read_guest(f, f->state.cr3, &entry, 8);
        read_guest(f, (entry & ~0xfffull) + (gva >> 30) * 8, &entry, 8);
        read_guest(f, (entry & ~0xfffull) + (gva >> 21 & 511) * 8, &entry, 8);
        assert_int_equal((entry & ~0x1fffffull) | (gva & 0x1fffff), gva);
        assert_int_equal(entry & 0x83, 0x83);
    }
}

static void bzimage_by_the_32_bit_protocol(void **state)
{
    struct fixture *f = *state;
    uint8_t image[8192];
    struct setup_header header;
    make_bzimage(image, &header);
    header.xloadflags = 0;
    memcpy(image + 0x1f1, &header, sizeof(header));
    f->config.kernel_fd = file_of(image, sizeof(image));
    assert_int_equal(boot_load(&f->config, &f->state, &f->err), 0);
    assert_int_equal(f->state.rip, 16 * MIB);
    assert_int_equal(f->state.efer, 0);
    assert_int_equal(f->state.cr0 & (X86_CR0_PE | X86_CR0_PG), X86_CR0_PE);
    assert_int_equal(f->state.segment[X86_CS].attributes & (X86_SEGMENT_L | X86_SEGMENT_DB),
                     X86_SEGMENT_DB);
    struct boot_params params;
    read_guest(f, f->state.gpr[X86_RSI], &params, sizeof(params));
    assert_int_equal(params.hdr.type_of_loader, 0xff);
    assert_int_equal(f->state.gpr[X86_RBX] | f->state.gpr[X86_RBP] | f->state.gpr[X86_RDI], 0);
}

static void relocatable_kernel_fits_into_less_memory(void **state)
{
    struct fixture *f = *state;
    uint8_t image[8192];
    struct setup_header header;
    make_bzimage(image, &header);
    f->config.ram_below_4g = 16 * MIB; /* not at the preferred address */
    f->config.kernel_fd = file_of(image, sizeof(image));
    assert_int_equal(boot_load(&f->config, &f->state, &f->err), 0);
    assert_int_equal(f->state.rip, 2 * MIB + 0x200);
}

static void fails_with(struct fixture *f, const void *image, size_t size, const char *text)
{
    if (f->config.kernel_fd >= 0) {
        close(f->config.kernel_fd);
    }
    f->config.kernel_fd = file_of(image, size);
    assert_true(boot_load(&f->config, &f->state, &f->err) < 0);
    assert_string_equal(f->err.text, text);
}

static void bad_kernels_are_refused_by_name(void **state)
{
    struct fixture *f = *state;
    uint8_t image[8192];
    struct setup_header header;
    make_bzimage(image, &header);
    fails_with(f, "#!/bin/sh\n", 10,
               "kernel test: not a kernel: a bzImage, a PVH ELF or a multiboot image is accepted");
    fails_with(f, "", 0,
               "kernel test: not a kernel: a bzImage, a PVH ELF or a multiboot image is accepted");
    fails_with(f, image, 1024, "kernel test: broken: 1024 bytes, but 1024 of set-up code alone");
    image[0x206] = 0x04;
    image[0x207] = 0x02;
    fails_with(
        f, image, sizeof(image),
        "kernel test: no bzImage of today (boot protocol 2.4): a kernel of Linux 3.8 or newer is "
        "accepted");
    make_bzimage(image, &header);
    f->config.ram_below_4g = 4 * MIB;
    fails_with(
        f, image, sizeof(image),
        "kernel test: needs memory at 0x200000 and on: give the guest more memory (now 64 MiB)");
}

static void large_initrd_and_command_line_are_refused(void **state)
{
    struct fixture *f = *state;
    uint8_t image[8192];
    struct setup_header header;
    make_bzimage(image, &header);
    f->config.kernel_fd = file_of(image, sizeof(image));
    f->config.initrd_fd = memfd_create("initrd", MFD_CLOEXEC);
    assert_int_equal(ftruncate(f->config.initrd_fd, 60 * MIB), 0);
    assert_int_equal(boot_load(&f->config, &f->state, &f->err), -E2BIG);
    assert_string_equal(f->err.text, "initrd initrd: its 60 MiB do not fit behind the kernel: give "
                                     "the guest more memory (now 64 MiB)");
    assert_int_equal(ftruncate(f->config.initrd_fd, 0), 0);
    char line[3000];
    memset(line, 'x', sizeof(line));
    line[sizeof(line) - 1] = '\0';
    f->config.command_line = line;
    assert_int_equal(boot_load(&f->config, &f->state, &f->err), -E2BIG);
    assert_string_equal(f->err.text,
                        "command line: 2999 characters, the kernel takes at most 2047");
}

struct pvh_file {
    Elf64_Ehdr header;
    Elf64_Phdr segment[2];
    struct {
        Elf64_Nhdr head;
        char name[4];
        uint32_t entry;
    } note;
    uint8_t code[64];
};

static struct pvh_file make_pvh(void)
{
    struct pvh_file file = {
        .header = {.e_ident = {0x7f, 'E', 'L', 'F', ELFCLASS64, ELFDATA2LSB, EV_CURRENT},
                   .e_machine = EM_X86_64,
                   .e_phoff = offsetof(struct pvh_file, segment),
                   .e_phentsize = sizeof(Elf64_Phdr),
                   .e_phnum = 2},
        .segment = {{.p_type = PT_LOAD,
                     .p_offset = offsetof(struct pvh_file, code),
                     .p_paddr = MIB,
                     .p_filesz = 64,
                     .p_memsz = 4096},
                    {.p_type = PT_NOTE,
                     .p_offset = offsetof(struct pvh_file, note),
                     .p_filesz = 20}},
        .note = {.head = {.n_namesz = 4, .n_descsz = 4, .n_type = 18},
                 .name = "Xen",
                 .entry = MIB + 16},
    };
    memset(file.code, 0xf4, sizeof(file.code));
    return file;
}

static void pvh_elf(void **state)
{
    struct fixture *f = *state;
    struct pvh_file file = make_pvh();
    f->config.kernel_fd = file_of(&file, sizeof(file));
    assert_int_equal(boot_load(&f->config, &f->state, &f->err), 0);
    assert_int_equal(f->state.rip, MIB + 16);
    assert_int_equal(f->state.cr0 & (X86_CR0_PE | X86_CR0_PG), X86_CR0_PE);
    uint8_t info[56];
    read_guest(f, f->state.gpr[X86_RBX], info, sizeof(info));
    assert_int_equal(le32_get(info), 0x336ec578);
    assert_int_equal(le64_get(info + 32), 0xe0000); /* RSDP */
    uint64_t map_gpa = le64_get(info + 40);
    assert_true(le32_get(info + 48) >= 3);
    uint8_t range[24];
    read_guest(f, map_gpa, range, sizeof(range));
    assert_int_equal(le64_get(range + 8), BOOT_LOW_END_GPA);
}

static void broken_elf_files(void **state)
{
    struct fixture *f = *state;
    struct pvh_file file = make_pvh();
    file.segment[0].p_filesz = 1u << 30;
    file.segment[0].p_memsz = 1u << 30;
    fails_with(f, &file, sizeof(file),
               "kernel test: broken: its headers speak of bytes beyond its end");
    file = make_pvh();
    file.segment[0].p_paddr = ~0ull - 10;
    fails_with(f, &file, sizeof(file),
               "kernel test: needs memory at 0xfffffffffffffff5 and on: give the guest more memory "
               "(now 64 MiB)");
    file = make_pvh();
    file.segment[0].p_memsz = ~0ull;
    f->config.kernel_name = "wrap";
    fails_with(
        f, &file, sizeof(file),
        "kernel wrap: needs memory at 0x100000 and on: give the guest more memory (now 64 MiB)");
    f->config.kernel_name = "test";
    file = make_pvh();
    file.note.head.n_namesz = ~0u;
    fails_with(f, &file, sizeof(file),
               "kernel test: broken ELF file: a note runs beyond its segment");
    file = make_pvh();
    file.note.head.n_type = 17;
    fails_with(
        f, &file, sizeof(file),
        "kernel test: an ELF file without a PVH entry: a bzImage, a PVH ELF or a multiboot image "
        "is accepted");
    file = make_pvh();
    file.header.e_phnum = 65535;
    fails_with(f, &file, sizeof(file), "kernel test: broken ELF file: no usable program headers");
    file = make_pvh();
    file.header.e_machine = EM_AARCH64;
    fails_with(f, &file, sizeof(file),
               "kernel test: made for another processor (ELF machine 183): x86 is accepted");
}

static void multiboot_by_addresses(void **state)
{
    struct fixture *f = *state;
    const uint32_t flags = 0x10002;
    uint32_t image[16] = {0x1badb002, flags,    -(0x1badb002 + flags), MIB, MIB, MIB + 64,
                          MIB + 4096, MIB + 32, [8] = 0xf4f4f4f4};
    f->config.kernel_fd = file_of(image, sizeof(image));
    f->config.initrd_fd = file_of("module", 6);
    assert_int_equal(boot_load(&f->config, &f->state, &f->err), 0);
    assert_int_equal(f->state.rip, MIB + 32);
    assert_int_equal(f->state.gpr[X86_RAX], 0x2badb002);
    uint32_t info[13];
    read_guest(f, f->state.gpr[X86_RBX], info, sizeof(info));
    assert_int_equal(info[2], 63 * 1024); /* KiB above 1 MiB */
    assert_int_equal(info[5], 1);
    uint32_t module[2];
    read_guest(f, info[6], module, sizeof(module));
    assert_int_equal(module[1] - module[0], 6);
    char line[19];
    read_guest(f, info[4], line, sizeof(line));
    assert_string_equal(line, "test console=ttyS0");

    image[3] = MIB - 4;
    fails_with(f, image, sizeof(image),
               "kernel test: broken: its multiboot addresses contradict each other");
    image[3] = MIB;
    image[5] = MIB - 1;
    fails_with(f, image, sizeof(image),
               "kernel test: broken: its multiboot image ends before it starts");
}

static uint8_t sum(const uint8_t *data, size_t size)
{
    uint8_t total = 0;
    for (size_t i = 0; i < size; i++) {
        total = (uint8_t)(total + data[i]);
    }
    return total;
}

static void acpi_tables_are_linked_and_summed(void **state)
{
    struct fixture *f = *state;
    const struct acpi_config config = {.vcpu_count = 3,
                                       .lapic_gpa = 0xfee00000,
                                       .ioapic_gpa = 0xfec00000,
                                       .windows = {.ecam_gpa = 0xe0000000,
                                                   .mmio32_gpa = 0xc0000000,
                                                   .mmio32_size = 0x20000000,
                                                   .mmio64_gpa = 0x4000000000,
                                                   .mmio64_size = 0x1000000000,
                                                   .pio_base = 0x1000,
                                                   .pio_size = 0xf000},
                                       .pm1_event_port = 0x600,
                                       .pm1_control_port = 0x604,
                                       .pm_timer_port = 0x608,
                                       .gpe_port = 0x620,
                                       .gpe_size = 4,
                                       .hotplug_port = 0x640,
                                       .hotplug_event = 1,
                                       .reset_port = 0xcf9,
                                       .reset_value = 6,
                                       .sci_gsi = 9,
                                       .s5_type = 5,
                                       .serial = {{0x3f8, 4}},
                                       .serial_count = 1};
    uint64_t rsdp_gpa;
    assert_int_equal(
        acpi_build(f->memory, BOOT_ACPI_GPA, BOOT_ACPI_SIZE, &config, &rsdp_gpa, &f->err), 0);
    assert_int_equal(rsdp_gpa % 16, 0);
    uint8_t rsdp[36];
    read_guest(f, rsdp_gpa, rsdp, sizeof(rsdp));
    assert_memory_equal(rsdp, "RSD PTR ", 8);
    assert_int_equal(sum(rsdp, 20), 0);
    assert_int_equal(sum(rsdp, 36), 0);

    uint8_t xsdt[60];
    read_guest(f, le64_get(rsdp + 24), xsdt, sizeof(xsdt));
    assert_int_equal(le32_get(xsdt + 4), sizeof(xsdt));
    assert_int_equal(sum(xsdt, sizeof(xsdt)), 0);
    const char *const names[] = {"FACP", "APIC", "MCFG"};
    for (size_t i = 0; i < 3; i++) {
        static uint8_t table[65536];
        uint64_t gpa = le64_get(xsdt + 36 + i * 8);
        read_guest(f, gpa, table, 8);
        assert_memory_equal(table, names[i], 4);
        uint32_t size = le32_get(table + 4);
        read_guest(f, gpa, table, size);
        assert_int_equal(sum(table, size), 0);
        if (i == 0) {
            assert_int_equal(le32_get(table + 80), 0x620);
            assert_int_equal(table[92], 4);
            assert_int_equal(le64_get(table + 224), 0x620);
            uint8_t dsdt[65536];
            uint64_t dsdt_gpa = le64_get(table + 140);
            read_guest(f, dsdt_gpa, dsdt, 8);
            assert_memory_equal(dsdt, "DSDT", 4);
            read_guest(f, dsdt_gpa, dsdt, le32_get(dsdt + 4));
            assert_int_equal(sum(dsdt, le32_get(dsdt + 4)), 0);
        }
    }
    assert_int_equal(acpi_build(f->memory, BOOT_ACPI_GPA, 4096, &config, &rsdp_gpa, &f->err),
                     -ENOSPC);
}

/* The table of that name, and its size. */
static uint32_t find_table(struct fixture *f, uint64_t rsdp_gpa, const char *name, uint8_t *out)
{
    uint8_t rsdp[36], xsdt[60];
    read_guest(f, rsdp_gpa, rsdp, sizeof(rsdp));
    read_guest(f, le64_get(rsdp + 24), xsdt, sizeof(xsdt));
    for (size_t i = 0; i < 3; i++) {
        uint64_t gpa = le64_get(xsdt + 36 + i * 8);
        read_guest(f, gpa, out, 256);
        if (memcmp(out, "FACP", 4) == 0 && strcmp(name, "DSDT") == 0) {
            gpa = le64_get(out + 140);
            read_guest(f, gpa, out, 256);
        }
        if (memcmp(out, name, 4) == 0) {
            uint32_t size = le32_get(out + 4);
            read_guest(f, gpa, out, size);
            assert_int_equal(sum(out, size), 0);
            return size;
        }
    }
    fail_msg("there is no %s", name);
    return 0;
}

static void cpus_that_may_come_are_named(void **state)
{
    struct fixture *f = *state;
    static uint8_t table[65536];
    uint64_t rsdp_gpa;
    struct acpi_config config = {
        .vcpu_count = 64, .has_cpu_events = true, .absent = ~0xfull, .sci_gsi = 9};
    assert_int_equal(
        acpi_build(f->memory, BOOT_ACPI_GPA, BOOT_ACPI_SIZE, &config, &rsdp_gpa, &f->err), 0);
    assert_true(find_table(f, rsdp_gpa, "APIC", table) > 44 + 64 * 8);
    for (unsigned i = 0; i < 64; i++) {
        assert_int_equal(le32_get(table + 44 + i * 8 + 4), i < 4 ? 1 : 2);
    }
    uint32_t size = find_table(f, rsdp_gpa, "DSDT", table);
    assert_non_null(memmem(table, size, "C03F\x08_HID", 9));
    assert_non_null(memmem(table, size, "_E02", 4));
    /* The first one cannot be ejected. */
    uint8_t *first = memmem(table, size, "C000\x08_HID", 9);
    uint8_t *second = memmem(table, size, "C001\x08_HID", 9);
    assert_true(first != NULL && second > first);
    assert_null(memmem(first, (size_t)(second - first), "_EJ0", 4));
    assert_non_null(memmem(second, 256, "_EJ0", 4));

    config.has_cpu_events = false;
    assert_int_equal(
        acpi_build(f->memory, BOOT_ACPI_GPA, BOOT_ACPI_SIZE, &config, &rsdp_gpa, &f->err), 0);
    size = find_table(f, rsdp_gpa, "DSDT", table);
    assert_null(memmem(table, size, "CPUS", 4));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(bzimage_by_the_64_bit_protocol, setup, teardown),
        cmocka_unit_test_setup_teardown(bzimage_by_the_32_bit_protocol, setup, teardown),
        cmocka_unit_test_setup_teardown(relocatable_kernel_fits_into_less_memory, setup, teardown),
        cmocka_unit_test_setup_teardown(bad_kernels_are_refused_by_name, setup, teardown),
        cmocka_unit_test_setup_teardown(large_initrd_and_command_line_are_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(pvh_elf, setup, teardown),
        cmocka_unit_test_setup_teardown(broken_elf_files, setup, teardown),
        cmocka_unit_test_setup_teardown(multiboot_by_addresses, setup, teardown),
        cmocka_unit_test_setup_teardown(acpi_tables_are_linked_and_summed, setup, teardown),
        cmocka_unit_test_setup_teardown(cpus_that_may_come_are_named, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
