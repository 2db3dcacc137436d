/* A machine on the null engine: what its vCPUs find at ports and addresses, how it ends, save and restore, reset. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "engine/null/null.h"
#include "machine/internal.h"

struct bed {
    struct event_loop *loop;
    struct machine *machine;
    char output[64];
    size_t output_size;
    bool has_ended;
    enum machine_end end;
    uint32_t code;
    unsigned gone[2]; /* disks and cards that were taken out */
};

static void on_output(void *ctx, const uint8_t *data, size_t size)
{
    struct bed *bed = ctx;
    for (size_t i = 0; i < size && bed->output_size < sizeof(bed->output); i++) {
        bed->output[bed->output_size++] = (char)data[i];
    }
}

static void on_ended(void *ctx, enum machine_end end, uint32_t code, const char *why)
{
    struct bed *bed = ctx;
    bed->has_ended = true;
    bed->end = end;
    bed->code = code;
    event_loop_stop(bed->loop);
}

static void on_unplugged(void *ctx, enum machine_part part, size_t index)
{
    struct bed *bed = ctx;
    assert_false(machine_has_part(bed->machine, part, index));
    bed->gone[part]++;
}

static void create(struct bed *bed, const char *options)
{
    struct error err = {0};
    struct machine_config config = {
        .board = "micro",
        .engine = &null_engine_ops,
        .engine_options = options,
        .vcpu_count = 2,
        .memory_bytes = 16u << 20,
        .debug_exit = true,
        .no_reboot = true,
        .kernel_fd = -1,
        .initrd_fd = -1,
        .has_rng = true,
        .has_balloon = true,
        .serial_console = {.ctx = bed, .write = on_output},
        .loop = bed->loop,
        .ended = on_ended,
        .unplugged = on_unplugged,
        .ctx = bed,
        .vsock_dir_fd = -1,
    };
    int rc = machine_create(&config, &bed->machine, &err);
    if (rc < 0) {
        fail_msg("%s", err.text);
    }
}

static int setup(void **state)
{
    static struct bed bed;
    memset(&bed, 0, sizeof(bed));
    assert_int_equal(event_loop_create(&bed.loop, NULL), 0);
    create(&bed, NULL);
    *state = &bed;
    return 0;
}

static int teardown(void **state)
{
    struct bed *bed = *state;
    machine_destroy(bed->machine);
    event_loop_destroy(bed->loop);
    return 0;
}

/* Runs the accesses on vCPU 0 until the machine ends. */
static void run(struct bed *bed, struct null_access *list, size_t count, enum vcpu_exit end)
{
    null_vcpu_script(bed->machine->vcpu[0].vcpu, list, count, end);
    machine_resume(bed->machine);
    assert_int_equal(event_loop_run(bed->loop, NULL), 0);
    assert_true(bed->has_ended);
    assert_false(machine_is_running(bed->machine));
}

#define IN(bytes, port)                                                                            \
    {                                                                                              \
        .is_pio = true, .size = (bytes), .address = (port)                                         \
    }
#define OUT(bytes, port, number)                                                                   \
    {                                                                                              \
        .is_write = true, .is_pio = true, .size = (bytes), .address = (port), .value = (number)    \
    }
#define LOAD(bytes, gpa)                                                                           \
    {                                                                                              \
        .size = (bytes), .address = (gpa)                                                          \
    }

static void test_addresses(void **state)
{
    struct bed *bed = *state;
    struct null_access list[] = {
        OUT(1, 0x3f8, 'h'),
        OUT(1, 0x3f8, 'i'),
        IN(1, 0x3fd),
        IN(4, 0x5000),
        LOAD(8, 0x7000000000ull),
        LOAD(4, 0xfee00030),
        LOAD(4, 0xe0000000),
        LOAD(4, 0xe0008000),
        IN(2, 0x604),
        OUT(1, 0x70, 0x0d),
        IN(1, 0x71),
        OUT(4, 0xf4, 21),
    };
    run(bed, list, ARRAY_COUNT(list), VCPU_EXIT_KICKED);
    assert_int_equal(bed->end, MACHINE_END_DEBUG_EXIT);
    assert_int_equal(bed->code, 21);
    assert_string_equal(bed->output, "hi");
    assert_int_equal(list[2].value, 0x60);
    assert_int_equal(list[3].value, 0xffffffff);
    assert_true(list[4].value == ~0ull);
    assert_int_equal(list[5].value, 0x00050014);
    assert_int_equal(list[6].value, 0x00081b36);
    assert_int_equal(list[7].value, 0x10441af4); /* virtio-rng */
    assert_int_equal(list[8].value, 1);
    assert_int_equal(list[10].value, 0x80);
}

static void test_power_off(void **state)
{
    struct bed *bed = *state;
    struct null_access list[] = {OUT(2, 0x604, 5 << 10 | 1 << 13)};

    run(bed, list, ARRAY_COUNT(list), VCPU_EXIT_KICKED);
    assert_int_equal(bed->end, MACHINE_END_POWEROFF);
}

static void test_reset_port(void **state)
{
    struct bed *bed = *state;
    struct null_access list[] = {OUT(1, 0xcf9, 6)};

    run(bed, list, ARRAY_COUNT(list), VCPU_EXIT_KICKED);
    assert_int_equal(bed->end, MACHINE_END_RESET);
}

static void test_triple_fault(void **state)
{
    struct bed *bed = *state;
    char text[4096];

    run(bed, NULL, 0, VCPU_EXIT_SHUTDOWN);
    assert_int_equal(bed->end, MACHINE_END_TRIPLE_FAULT);
    machine_dump_vcpu(bed->machine, 0, text, sizeof(text));
    assert_non_null(strstr(text, "rip 000000000000fff0"));
}

/* INIT, SIPI: what an operating system does to start the second vCPU. */
static void test_ipis_reach_vcpus(void **state)
{
    struct bed *bed = *state;
    struct null_access list[] = {
        {.is_write = true, .size = 4, .address = 0xfee000f0, .value = 0x1ff},
        {.is_write = true, .size = 4, .address = 0xfee00310, .value = 1 << 24},
        {.is_write = true, .size = 4, .address = 0xfee00300, .value = 0x4500},
        {.is_write = true, .size = 4, .address = 0xfee00300, .value = 0x4608},
        OUT(4, 0xf4, 0),
    };
    uint8_t vector = 0;

    run(bed, list, ARRAY_COUNT(list), VCPU_EXIT_KICKED);
    struct vcpu *second = bed->machine->vcpu[1].vcpu;
    assert_int_equal(null_vcpu_signals(second, VCPU_SIGNAL_INIT, &vector), 1);
    assert_int_equal(null_vcpu_signals(second, VCPU_SIGNAL_SIPI, &vector), 1);
    assert_int_equal(vector, 8);
}

struct saved {
    char name[48];
    uint32_t version;
    uint8_t data[16384];
    size_t size;
};

static struct saved saved[32];
static size_t saved_count;

static int sink_write(void *ctx, const void *data, size_t size)
{
    struct saved *to = ctx;
    if (size > sizeof(to->data) - to->size) {
        return -E2BIG;
    }
    memcpy(to->data + to->size, data, size);
    to->size += size;
    return 0;
}

static int save_one(void *ctx, struct machine *machine, const struct machine_section *section)
{
    struct saved *to = &saved[saved_count++];
    struct archive_writer writer = {.write = sink_write, .ctx = to};

    memset(to, 0, sizeof(*to));
    memcpy(to->name, section->name, sizeof(to->name));
    to->version = section->version;
    machine_save_section(machine, section, &writer);
    return writer.status;
}

static int restore_one(void *ctx, struct machine *machine, const struct machine_section *section)
{
    const struct saved *from = &saved[saved_count++];
    struct archive_reader reader;
    struct error err = {0};

    assert_string_equal(from->name, section->name);
    archive_reader_init(&reader, from->data, from->size);
    int rc = machine_restore_section(machine, section, from->version, &reader, &err);
    if (rc < 0) {
        fail_msg("%s: %s", section->name, err.text);
    }
    /* Cut short, it is refused and not read beyond its end. */
    archive_reader_init(&reader, from->data, from->size - 1);
    assert_true(machine_restore_section(machine, section, from->version, &reader, &err) < 0);
    archive_reader_init(&reader, from->data, from->size);
    return machine_restore_section(machine, section, from->version, &reader, &err);
}

static void test_save(void **state)
{
    struct bed *bed = *state;
    static struct x86_state one, other;
    struct null_access list[] = {
        {.is_write = true, .size = 4, .address = 0xfee000f0, .value = 0x1ff},
        {.is_write = true, .size = 4, .address = 0xfee00080, .value = 0x30},
        OUT(1, 0x3f9, 5),
        OUT(4, 0xcf8, 0x80000804),
        OUT(2, 0xcfc, 0x6),
        OUT(4, 0xf4, 0),
    };

    run(bed, list, ARRAY_COUNT(list), VCPU_EXIT_KICKED);
    saved_count = 0;
    assert_int_equal(machine_each_section(bed->machine, save_one, NULL), 0);
    assert_int_equal(vcpus_get_state(bed->machine, 0, &one, NULL), 0);
    machine_destroy(bed->machine);
    create(bed, NULL);
    saved_count = 0;
    assert_int_equal(machine_each_section(bed->machine, restore_one, NULL), 0);
    assert_int_equal(vcpus_get_state(bed->machine, 0, &other, NULL), 0);
    assert_memory_equal(&one, &other, sizeof(one));
    assert_int_equal(other.cr8, 3);
    bed->has_ended = false;
    struct null_access check[] = {IN(1, 0x3f9), IN(2, 0xcfc), OUT(4, 0xf4, 0)};
    run(bed, check, ARRAY_COUNT(check), VCPU_EXIT_KICKED);
    assert_int_equal(check[0].value, 5);
    assert_int_equal(check[1].value, 6);
}

static void test_reset(void **state)
{
    struct bed *bed = *state;
    static struct x86_state registers;

    assert_int_equal(vcpus_get_state(bed->machine, 1, &registers, NULL), 0);
    registers.rip = 0x1234;
    assert_int_equal(vcpus_set_state(bed->machine, 1, &registers, NULL), 0);
    assert_int_equal(machine_reset(bed->machine, NULL), 0);
    assert_int_equal(vcpus_get_state(bed->machine, 1, &registers, NULL), 0);
    assert_int_equal(registers.rip, 0xfff0);
    assert_int_equal(registers.activity, X86_ACTIVITY_WAIT_FOR_INIT);
    assert_int_equal(registers.apic_base, 0xfee00800);
}

static void test_pause(void **state)
{
    struct bed *bed = *state;

    for (int i = 0; i < 50; i++) {
        machine_resume(bed->machine);
        assert_true(machine_is_running(bed->machine));
        machine_pause(bed->machine);
        assert_false(machine_is_running(bed->machine));
    }
}

static void test_engine_with_irqchip(void **state)
{
    struct bed *bed = *state;
    struct null_access list[] = {OUT(1, 0x3fc, 8), OUT(1, 0x3f9, 2), OUT(4, 0xf4, 1)};

    machine_destroy(bed->machine);
    create(bed, "irqchip");
    run(bed, list, ARRAY_COUNT(list), VCPU_EXIT_KICKED);
    assert_true(null_vm_line(bed->machine->vm, 4));
    assert_int_equal(machine_reset(bed->machine, NULL), 0);
    assert_false(null_vm_line(bed->machine->vm, 4));
}

static void plug_disk(struct bed *bed, size_t index, unsigned slot)
{
    struct machine_disk disk = {.slot = slot};
    assert_int_equal(block_open_memory(1u << 20, "disk", bed->loop, &disk.block, NULL), 0);
    assert_int_equal(machine_plug_disk(bed->machine, index, &disk, NULL), 0);
}

static void plug_net(struct bed *bed, size_t index)
{
    struct machine_net net = {.mac = {0x52, 0x54}};
    assert_int_equal(net_open_none(bed->loop, &net.net, NULL), 0);
    assert_int_equal(machine_plug_net(bed->machine, index, &net, NULL), 0);
}

static void test_devices_come_and_go(void **state)
{
    struct bed *bed = *state;
    struct error err;

    plug_disk(bed, 0, 20);
    plug_disk(bed, 5, 0);
    plug_net(bed, 0);
    assert_int_equal(machine_slot(bed->machine, MACHINE_PART_DISK, 0), 20);
    assert_int_equal(machine_slot(bed->machine, MACHINE_PART_DISK, 5), 3);
    assert_int_equal(machine_slot(bed->machine, MACHINE_PART_NET, 0), 4);
    assert_false(machine_listens_to_plugs(bed->machine));
    assert_int_equal(machine_unplug(bed->machine, MACHINE_PART_DISK, 1, &err), -ENODEV);
    assert_int_equal(machine_unplug(bed->machine, MACHINE_PART_NET, 99, &err), -ENODEV);
    assert_int_equal(machine_unplug(bed->machine, MACHINE_PART_NET, 0, &err), 0);
    assert_true(machine_is_leaving(bed->machine, MACHINE_PART_NET, 0));

    struct null_access list[] = {
        OUT(2, 0x622, 2),
        IN(2, 0x620),
        OUT(2, 0x620, 2),
        IN(4, 0x640),
        IN(4, 0x640),
        IN(4, 0x644),
        LOAD(4, 0xe0000000 + (4 << 15)),
        LOAD(4, 0xe0000000 + (4 << 15) + 0x10), /* no address yet */
        OUT(4, 0x648, ~0u),
        LOAD(4, 0xe0000000 + (4 << 15)),
        LOAD(4, 0xe0000000 + (3 << 15)),
        OUT(4, 0xf4, 0),
    };
    run(bed, list, ARRAY_COUNT(list), VCPU_EXIT_KICKED);
    assert_int_equal(list[1].value, 2);
    assert_int_equal(list[3].value, 1u << 20 | 1u << 3 | 1u << 4);
    assert_int_equal(list[4].value, 0);
    assert_int_equal(list[5].value, 1u << 4);
    assert_int_equal(list[6].value, 0x10411af4);
    assert_int_equal(list[7].value, 4);
    assert_int_equal(list[9].value, 0xffffffff);
    assert_int_equal(list[10].value, 0x10421af4); /* nobody asked for it */
    assert_int_equal(bed->gone[MACHINE_PART_NET], 1);
    assert_int_equal(bed->gone[MACHINE_PART_DISK], 0);
    assert_true(machine_listens_to_plugs(bed->machine));

    /* A guest that is reset has let go of what it was asked for. */
    assert_int_equal(machine_unplug(bed->machine, MACHINE_PART_DISK, 0, &err), 0);
    assert_int_equal(machine_reset(bed->machine, NULL), 0);
    assert_int_equal(bed->gone[MACHINE_PART_DISK], 1);
    assert_true(machine_has_part(bed->machine, MACHINE_PART_DISK, 5));
    plug_net(bed, 0);
    assert_int_equal(machine_slot(bed->machine, MACHINE_PART_NET, 0), 4);
}

/* What a save has of devices that came and went fits a machine that has the same by its configuration, whatever slots they would
 * get there. */
static void test_saved_in_other_slots(void **state)
{
    struct bed *bed = *state;

    plug_disk(bed, 0, 9);
    plug_net(bed, 0);
    saved_count = 0;
    assert_int_equal(machine_each_section(bed->machine, save_one, NULL), 0);
    machine_destroy(bed->machine);
    create(bed, NULL);
    plug_disk(bed, 0, 0);
    plug_net(bed, 0);
    assert_int_equal(machine_slot(bed->machine, MACHINE_PART_DISK, 0), 3);
    saved_count = 0;
    assert_int_equal(machine_each_section(bed->machine, restore_one, NULL), 0);
    assert_int_equal(machine_slot(bed->machine, MACHINE_PART_DISK, 0), 9);
    assert_int_equal(machine_slot(bed->machine, MACHINE_PART_NET, 0), 3);
}

/* vCPUs run all the while. */
static void test_many_plugs(void **state)
{
    struct bed *bed = *state;

    machine_resume(bed->machine);
    for (int i = 0; i < 100; i++) {
        plug_disk(bed, 0, 0);
        plug_disk(bed, 1, 0);
        plug_net(bed, 0);
        assert_int_equal(machine_unplug(bed->machine, MACHINE_PART_DISK, 0, NULL), 0);
        assert_int_equal(machine_unplug(bed->machine, MACHINE_PART_DISK, 1, NULL), 0);
        assert_int_equal(machine_unplug(bed->machine, MACHINE_PART_NET, 0, NULL), 0);
        bus_write(bed->machine->pio, 0, 0x648, 4, ~0u); /* as a vCPU would */
        hotplug_ejected(bed->machine);
    }
    machine_pause(bed->machine);
    assert_int_equal(bed->gone[MACHINE_PART_DISK], 200);
    assert_int_equal(bed->gone[MACHINE_PART_NET], 100);
    assert_int_equal(bed->machine->device_count, 5);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_addresses, setup, teardown),
        cmocka_unit_test_setup_teardown(test_power_off, setup, teardown),
        cmocka_unit_test_setup_teardown(test_reset_port, setup, teardown),
        cmocka_unit_test_setup_teardown(test_triple_fault, setup, teardown),
        cmocka_unit_test_setup_teardown(test_ipis_reach_vcpus, setup, teardown),
        cmocka_unit_test_setup_teardown(test_save, setup, teardown),
        cmocka_unit_test_setup_teardown(test_reset, setup, teardown),
        cmocka_unit_test_setup_teardown(test_pause, setup, teardown),
        cmocka_unit_test_setup_teardown(test_devices_come_and_go, setup, teardown),
        cmocka_unit_test_setup_teardown(test_saved_in_other_slots, setup, teardown),
        cmocka_unit_test_setup_teardown(test_many_plugs, setup, teardown),
        cmocka_unit_test_setup_teardown(test_engine_with_irqchip, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
