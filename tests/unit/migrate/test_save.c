/* Covers migrate/: a state goes to a file and comes back; files that are damaged or do not fit are refused, each with its
 * reason. The machine is one of the test's own: memory in two slots and two devices. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "base/host/file.h"
#include "migrate/save.h"
#include "migrate/save_format.h"

#define SLOT_0_SIZE (8ull << 20)
#define SLOT_1_SIZE (4ull << 20)
#define SLOT_1_GPA  (1ull << 32)

struct machine {
    struct machine_config config;
    struct guest_memory *memory;
    uint64_t value[2];
    uint32_t version;
    const char *name[3];
};

const struct machine_config *machine_get_config(const struct machine *machine)
{
    return &machine->config;
}

struct guest_memory *machine_memory(struct machine *machine)
{
    return machine->memory;
}

int machine_each_section(struct machine *machine, machine_section_fn visit, void *ctx)
{
    for (size_t i = 0; machine->name[i] != NULL; i++) {
        struct machine_section section = {.version = machine->version,
                                          .object = &machine->value[i]};
        (void)snprintf(section.name, sizeof(section.name), "%s", machine->name[i]);
        int rc = visit(ctx, machine, &section);
        if (rc != 0) {
            return rc;
        }
    }
    return 0;
}

void machine_save_section(struct machine *machine, const struct machine_section *section,
                          struct archive_writer *writer)
{
    archive_put_u64(writer, *(uint64_t *)section->object);
}

int machine_restore_section(struct machine *machine, const struct machine_section *section,
                            uint32_t version, struct archive_reader *reader, struct error *err)
{
    *(uint64_t *)section->object = archive_get_u64(reader);
    return archive_finish(reader, err);
}

static struct machine *machine_new(void)
{
    struct machine *machine = calloc(1, sizeof(*machine));
    assert_non_null(machine);
    machine->config = (struct machine_config){.board = "micro",
                                              .vcpu_count = 2,
                                              .vcpu_max = 2,
                                              .memory_bytes = SLOT_0_SIZE + SLOT_1_SIZE};
    machine->version = 1;
    machine->name[0] = "vcpu.0";
    machine->name[1] = "virtio-blk.0";
    assert_int_equal(guest_memory_create(&machine->memory, NULL), 0);
    assert_int_equal(guest_memory_add(machine->memory, 0, SLOT_0_SIZE, false, false, NULL), 0);
    assert_int_equal(guest_memory_add(machine->memory, SLOT_1_GPA, SLOT_1_SIZE, false, false, NULL),
                     0);
    return machine;
}

static void machine_free(struct machine *machine)
{
    guest_memory_destroy(machine->memory);
    free(machine);
}

static int new_file(void)
{
    char path[] = "/tmp/hull-test-save-XXXXXX";
    int fd = mkostemp(path, O_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(unlink(path), 0);
    return fd;
}

static void poke(struct machine *machine, uint64_t gpa, uint64_t value)
{
    assert_true(guest_memory_write(machine->memory, gpa, &value, sizeof(value)));
}

static uint64_t peek(struct machine *machine, uint64_t gpa)
{
    uint64_t value = 0;
    assert_true(guest_memory_read(machine->memory, gpa, &value, sizeof(value)));
    return value;
}

static void fill(struct machine *machine)
{
    machine->value[0] = 0x1122334455667788u;
    machine->value[1] = 42;
    for (uint64_t page = 0; page < 512; page++) {
        poke(machine, page * 4096 + page * 8, page + 1);
    }
    poke(machine, 600 * 4096, 0); /* touched, and zero */
    poke(machine, SLOT_0_SIZE - 8, 7);
    poke(machine, SLOT_1_GPA, 8);
    poke(machine, SLOT_1_GPA + SLOT_1_SIZE - 8, 9);
}

static int saved_file(struct machine *machine)
{
    struct error err = {0};
    int fd = new_file();
    assert_int_equal(save_write(machine, fd, NULL, NULL, &err), 0);
    return fd;
}

static void a_state_comes_back(void **state)
{
    struct machine *from = machine_new();
    struct machine *to = machine_new();
    struct error err = {0};
    fill(from);
    int fd = saved_file(from);
    /* What the new machine has loaded itself must not shine through. */
    poke(to, 700 * 4096, 0xbad);
    poke(to, 100 * 4096, 0xbad);
    assert_int_equal(save_restore(to, fd, &err), 0);
    assert_true(to->value[0] == from->value[0]);
    assert_true(to->value[1] == 42);
    for (size_t i = 0; i < from->memory->slot_count; i++) {
        assert_memory_equal(from->memory->slot[i].hva, to->memory->slot[i].hva,
                            from->memory->slot[i].size_bytes);
    }
    assert_true(peek(to, 700 * 4096) == 0);
    /* Pages of zeros take no room. */
    struct stat status;
    assert_int_equal(fstat(fd, &status), 0);
    assert_true(status.st_size > (off_t)(SLOT_0_SIZE + SLOT_1_SIZE));
    assert_true(status.st_blocks * 512 < 3 << 20);
    close(fd);
    machine_free(from);
    machine_free(to);
}

/* A file in memory that may be written is no copy's source, but the memory itself. */
static void a_state_in_memory_becomes_the_memory(void **state)
{
    struct machine *from = machine_new();
    struct machine *to = machine_new();
    struct error err = {0};
    uint8_t header[SAVE_HEADER_SIZE];
    struct save_header parts;
    struct stat status;
    uint64_t value;
    fill(from);
    int fd = memfd_create("state", MFD_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(save_write(from, fd, NULL, NULL, &err), 0);
    assert_int_equal(fstat(fd, &status), 0);
    assert_int_equal(file_read_at(fd, header, sizeof(header), 0, "file", NULL), 0);
    assert_int_equal(save_header_parse(header, (uint64_t)status.st_size, &parts, NULL), 0);
    poke(to, 700 * 4096, 0xbad);
    assert_int_equal(save_restore(to, fd, &err), 0);
    for (size_t i = 0; i < from->memory->slot_count; i++) {
        assert_memory_equal(from->memory->slot[i].hva, to->memory->slot[i].hva,
                            from->memory->slot[i].size_bytes);
    }
    poke(to, SLOT_1_GPA + 4096, 0x5555);
    assert_int_equal(file_read_at(fd, &value, sizeof(value),
                                  parts.memory_offset + SLOT_0_SIZE + 4096, "file", NULL),
                     0);
    assert_true(value == 0x5555);
    guest_memory_discard(to->memory, SLOT_1_GPA, 8192);
    assert_true(peek(to, SLOT_1_GPA) == 0 && peek(to, SLOT_1_GPA + 4096) == 0);
    close(fd);
    assert_true(peek(to, SLOT_1_GPA + SLOT_1_SIZE - 8) == 9);
    machine_free(from);
    machine_free(to);
}

/* One that may only be read stays what it is. */
static void a_state_in_memory_can_be_kept(void **state)
{
    struct machine *from = machine_new();
    struct error err = {0};
    char path[64];
    fill(from);
    int fd = memfd_create("state", MFD_CLOEXEC);
    assert_int_equal(save_write(from, fd, NULL, NULL, &err), 0);
    (void)snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    int reader = open(path, O_RDONLY | O_CLOEXEC);
    assert_true(reader >= 0);
    for (int turn = 0; turn < 2; turn++) {
        struct machine *to = machine_new();
        assert_int_equal(save_restore(to, reader, &err), 0);
        assert_true(peek(to, SLOT_1_GPA) == 8);
        poke(to, SLOT_1_GPA, 0xbad);
        machine_free(to);
    }
    close(reader);
    close(fd);
    machine_free(from);
}

static void an_empty_machine_comes_back(void **state)
{
    struct machine *from = machine_new();
    struct machine *to = machine_new();
    struct error err = {0};
    int fd = saved_file(from);
    assert_int_equal(save_restore(to, fd, &err), 0);
    close(fd);
    machine_free(from);
    machine_free(to);
}

struct progress {
    uint64_t done, total, calls;
};

static void note_progress(void *ctx, uint64_t done, uint64_t total)
{
    struct progress *progress = ctx;
    assert_true(done >= progress->done && done <= total);
    *progress = (struct progress){.done = done, .total = total, .calls = progress->calls + 1};
}

static void progress_ends_at_the_total(void **state)
{
    struct machine *machine = machine_new();
    struct progress progress = {0};
    fill(machine);
    int fd = new_file();
    assert_int_equal(save_write(machine, fd, note_progress, &progress, NULL), 0);
    assert_true(progress.calls >= 2);
    assert_true(progress.total > 0 && progress.done == progress.total);
    close(fd);
    machine_free(machine);
}

static void check_refused(struct machine *to, int fd, const char *expected)
{
    struct error err = {0};
    assert_true(save_restore(to, fd, &err) < 0);
    assert_string_equal(err.text, expected);
}

static void other_machines_are_refused_with_every_difference(void **state)
{
    struct machine *from = machine_new();
    fill(from);
    int fd = saved_file(from);
    struct machine *to = machine_new();
    to->config.vcpu_count = to->config.vcpu_max = 1;
    check_refused(to, fd, "made with 2 vCPUs, this machine has 1");
    to->config.memory_bytes = 16 << 20;
    to->config.cpu_model = "x86-64-v2";
    check_refused(
        to, fd,
        "made with CPU model host, this machine has x86-64-v2; made with 2 vCPUs, this machine "
        "has 1; made with 12 MiB of memory, this machine has 16");
    to->config = from->config;
    to->name[1] = "virtio-net.0";
    check_refused(
        to, fd,
        "made without virtio-net.0, which this machine has; made with virtio-blk.0, which this "
        "machine lacks");
    to->name[1] = NULL;
    check_refused(to, fd, "made with virtio-blk.0, which this machine lacks");
    to->name[1] = "virtio-blk.0";
    to->version = 0;
    check_refused(to, fd, "vcpu.0 has version 1, this hull reads up to version 0");
    close(fd);
    machine_free(from);
    machine_free(to);
}

static void the_sizes_are_in_the_file(void **state)
{
    struct machine *from = machine_new();
    struct save_sizes sizes;
    fill(from);
    int fd = saved_file(from);
    assert_int_equal(save_read_sizes(fd, &sizes, NULL), 0);
    assert_int_equal(sizes.vcpu_count, 2);
    assert_int_equal(sizes.vcpu_max, 0);
    assert_int_equal(sizes.memory_bytes, SLOT_0_SIZE + SLOT_1_SIZE);
    assert_int_equal(sizes.memory_max_bytes, SLOT_0_SIZE + SLOT_1_SIZE);
    close(fd);
    /* The second slot's memory has come later, and vCPUs come and go. */
    from->config.memory_bytes = SLOT_0_SIZE;
    from->name[1] = "acpi-cpus.0";
    fd = saved_file(from);
    assert_int_equal(save_read_sizes(fd, &sizes, NULL), 0);
    assert_int_equal(sizes.vcpu_count, 1);
    assert_int_equal(sizes.vcpu_max, 2);
    assert_int_equal(sizes.memory_bytes, SLOT_0_SIZE);
    assert_int_equal(sizes.memory_max_bytes, SLOT_0_SIZE + SLOT_1_SIZE);
    close(fd);
    from->config.memory_bytes = SLOT_0_SIZE + SLOT_1_SIZE + 4096;
    fd = saved_file(from);
    assert_int_equal(save_read_sizes(fd, &sizes, NULL), -EBADMSG);
    close(fd);
    from->config.memory_bytes = SLOT_0_SIZE;
    from->config.vcpu_max = 65;
    fd = saved_file(from);
    assert_int_equal(save_read_sizes(fd, &sizes, NULL), -EBADMSG);
    close(fd);
    fd = new_file();
    assert_int_equal(save_read_sizes(fd, &sizes, NULL), -EINVAL);
    close(fd);
    machine_free(from);
}

static void files_of_other_kinds_are_refused(void **state)
{
    struct machine *to = machine_new();
    int fd = new_file();
    check_refused(to, fd, "not a saved state: a file that `hull ctl PATH save` wrote is needed");
    assert_int_equal(write(fd, "#!/bin/sh\n", 10), 10);
    check_refused(to, fd, "not a saved state: a file that `hull ctl PATH save` wrote is needed");
    assert_int_equal(ftruncate(fd, 1 << 20), 0);
    check_refused(to, fd, "not a saved state: a file that `hull ctl PATH save` wrote is needed");
    close(fd);
    machine_free(to);
}

/* Wherever the file is cut, and whichever byte of what is not memory changes, the answer is an error. */
static void damage_is_found(void **state)
{
    struct machine *from = machine_new();
    fill(from);
    int fd = saved_file(from);
    struct stat status;
    assert_int_equal(fstat(fd, &status), 0);
    uint8_t header[SAVE_HEADER_SIZE];
    struct save_header parts;
    assert_int_equal(file_read_at(fd, header, sizeof(header), 0, "file", NULL), 0);
    assert_int_equal(save_header_parse(header, (uint64_t)status.st_size, &parts, NULL), 0);
    const struct {
        uint64_t offset, size;
    } ranges[] = {{0, 12},
                  {16, SAVE_HEADER_SIZE - 16},
                  {SAVE_PAGE, parts.metadata_size},
                  {parts.extents_offset, parts.extent_count * SAVE_EXTENT_SIZE + SAVE_END_SIZE}};
    struct machine *to = machine_new();
    for (size_t r = 0; r < ARRAY_COUNT(ranges); r++) {
        for (uint64_t at = ranges[r].offset; at < ranges[r].offset + ranges[r].size; at++) {
            struct error err = {0};
            uint8_t byte;
            assert_int_equal(file_read_at(fd, &byte, 1, at, "file", NULL), 0);
            uint8_t wrong = byte ^ (uint8_t)(1u << (at % 8));
            assert_int_equal(file_write_at(fd, &wrong, 1, at, "file", NULL), 0);
            assert_true(save_restore(to, fd, &err) < 0);
            assert_true(err.text[0] != '\0');
            assert_int_equal(file_write_at(fd, &byte, 1, at, "file", NULL), 0);
        }
    }
    const off_t cuts[] = {
        status.st_size - 1, (off_t)parts.extents_offset, 1 << 20, 5000, 4096, 64, 63, 1};
    for (size_t i = 0; i < ARRAY_COUNT(cuts); i++) {
        struct error err = {0};
        assert_int_equal(ftruncate(fd, cuts[i]), 0);
        assert_true(save_restore(to, fd, &err) < 0);
    }
    close(fd);
    machine_free(from);
    machine_free(to);
}

static void a_full_disk_is_an_error(void **state)
{
    int fd = open("/dev/full", O_RDWR | O_CLOEXEC);
    if (fd < 0) {
        skip();
    }
    struct machine *machine = machine_new();
    struct error err = {0};
    fill(machine);
    assert_int_equal(save_write(machine, fd, NULL, NULL, &err), -ENOSPC);
    assert_string_equal(err.text, "writing saved state: No space left on device");
    close(fd);
    machine_free(machine);
}

static void the_checksum_is_that_of_the_standard(void **state)
{
    /* RFC 3720, appendix B.4, and the check value of CRC-32C. */
    assert_int_equal(save_checksum(0, "123456789", 9), 0xe3069283u);
    uint8_t zeros[32] = {0};
    assert_int_equal(save_checksum(0, zeros, sizeof(zeros)), 0x8a9136aau);
    assert_int_equal(save_checksum(save_checksum(0, "1234", 4), "56789", 5), 0xe3069283u);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_state_comes_back),
        cmocka_unit_test(a_state_in_memory_becomes_the_memory),
        cmocka_unit_test(a_state_in_memory_can_be_kept),
        cmocka_unit_test(an_empty_machine_comes_back),
        cmocka_unit_test(progress_ends_at_the_total),
        cmocka_unit_test(other_machines_are_refused_with_every_difference),
        cmocka_unit_test(the_sizes_are_in_the_file),
        cmocka_unit_test(files_of_other_kinds_are_refused),
        cmocka_unit_test(damage_is_found),
        cmocka_unit_test(a_full_disk_is_an_error),
        cmocka_unit_test(the_checksum_is_that_of_the_standard),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
