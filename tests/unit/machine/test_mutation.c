/* Saved sections that nobody vouches for, on the software engine: those of a running machine, changed at random, are refused
 * in words, or the machine that has them runs, for a moment, without harm to the host, and can be saved again.
 *
 * Arguments: how many machines (default 400), seed (default 1). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/core/bits.h"
#include "cpu/x86/state_check.h"
#include "engine/soft/soft.h"
#include "machine/internal.h"

#define CODE_GPA     0x10000u
#define HANDLER_GPA  0x11000u
#define IDT_GPA      0x12000u
#define GDT_GPA      0x13000u
#define STACK_GPA    0x80000u
#define RUN_NS       300000
#define WARM_UP_NS   5000000
#define HUNG_SECONDS 240
#define MAX_SECTIONS 32

/* The local APIC with its timer and IPIs, the I/O APIC with a level-triggered input, the serial port, the second processor. */
__asm__(".pushsection .rodata\n.code32\n"
        "mutation_code: mov $0xfee00000, %ebx\n mov $0xfec00000, %esi\n"
        "movl $0x1ff, 0xf0(%ebx)\n movl $0x20030, 0x320(%ebx)\n movl $0xb, 0x3e0(%ebx)\n"
        "movl $20000, 0x380(%ebx)\n movl $0x18, (%esi)\n movl $0x8034, 0x10(%esi)\n"
        "mov $0x3f9, %edx\n mov $2, %al\n out %al, %dx\n sti\n"
        "1: incl 0x20000\n mov 0x390(%ebx), %eax\n movl $0x40035, 0x300(%ebx)\n"
        "movl $0x10, (%esi)\n mov 0x10(%esi), %eax\n mov $0x3fa, %edx\n in %dx, %al\n"
        "jmp 1b\n"
        "mutation_code_end:\n"
        "mutation_handler: movl $0, 0xfee000b0\n iret\n mutation_handler_end:\n"
        ".code64\n.popsection\n");
extern const uint8_t mutation_code[], mutation_code_end[], mutation_handler[],
    mutation_handler_end[];

struct section {
    char name[48];
    uint32_t version;
    uint8_t data[16384];
    size_t size;
};

static struct {
    struct event_loop *loop;
    struct event_timer *timer;
    struct machine *machine;
    struct section base[MAX_SECTIONS], changed[MAX_SECTIONS], after[MAX_SECTIONS];
    size_t count, visited;
    struct section *visit;
    struct error err;
    uint64_t random;
} bed;

static uint64_t below(uint64_t bound)
{
    bed.random ^= bed.random << 13;
    bed.random ^= bed.random >> 7;
    bed.random ^= bed.random << 17;
    return (bed.random * 0x2545f4914f6cdd1dull >> 16) % bound;
}

static void on_ended(void *ctx, enum machine_end end, uint32_t code, const char *why)
{
    event_loop_stop(bed.loop);
}

static void on_timer(void *ctx)
{
    event_loop_stop(bed.loop);
}

static void on_output(void *ctx, const uint8_t *data, size_t size)
{
}

static void fill_memory(void)
{
    struct guest_memory *memory = machine_memory(bed.machine);
    uint64_t idt[64];
    for (unsigned i = 0; i < ARRAY_COUNT(idt); i++) {
        idt[i] = (HANDLER_GPA & 0xffffu) | 8u << 16 | 0x8eull << 40 |
                 (uint64_t)(HANDLER_GPA >> 16) << 48;
    }
    const uint64_t gdt[3] = {0, 0x00cf9b000000ffff, 0x00cf93000000ffff};
    assert_true(guest_memory_write(memory, CODE_GPA, mutation_code,
                                   (size_t)(mutation_code_end - mutation_code)));
    assert_true(guest_memory_write(memory, HANDLER_GPA, mutation_handler,
                                   (size_t)(mutation_handler_end - mutation_handler)));
    assert_true(guest_memory_write(memory, IDT_GPA, idt, sizeof(idt)));
    assert_true(guest_memory_write(memory, GDT_GPA, gdt, sizeof(gdt)));
}

static void create(void)
{
    struct error err = {0};
    struct machine_config config = {
        .board = "micro",
        .engine = &soft_engine_ops,
        .vcpu_count = 2,
        .memory_bytes = 16u << 20,
        .debug_exit = true,
        .no_reboot = true,
        .kernel_fd = -1,
        .initrd_fd = -1,
        .has_rng = true,
        .has_balloon = true,
        .serial_console = {.write = on_output},
        .loop = bed.loop,
        .ended = on_ended,
        .vsock_dir_fd = -1,
    };
    if (machine_create(&config, &bed.machine, &err) < 0) {
        fail_msg("%s", err.text);
    }
    fill_memory();
}

static void run_for(uint64_t ns)
{
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    event_timer_arm(bed.timer, (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec + ns);
    machine_resume(bed.machine);
    assert_int_equal(event_loop_run(bed.loop, NULL), 0);
    event_timer_disarm(bed.timer);
    machine_pause(bed.machine);
}

static int put(void *ctx, const void *data, size_t size)
{
    struct section *to = ctx;
    assert_true(size <= sizeof(to->data) - to->size);
    memcpy(to->data + to->size, data, size);
    to->size += size;
    return 0;
}

static int save_one(void *ctx, struct machine *machine, const struct machine_section *section)
{
    assert_true(bed.visited < MAX_SECTIONS);
    struct section *to = &bed.visit[bed.visited++];
    struct archive_writer writer = {.write = put, .ctx = to};
    (void)snprintf(to->name, sizeof(to->name), "%s", section->name);
    to->version = section->version;
    to->size = 0;
    machine_save_section(machine, section, &writer);
    assert_int_equal(writer.status, 0);
    return 0;
}

static void save(struct section *to)
{
    bed.visit = to;
    bed.visited = 0;
    assert_int_equal(machine_each_section(bed.machine, save_one, NULL), 0);
}

static int restore_one(void *ctx, struct machine *machine, const struct machine_section *section)
{
    const struct section *from = &bed.changed[bed.visited++];
    struct archive_reader reader;
    archive_reader_init(&reader, from->data, from->size);
    return machine_restore_section(machine, section, from->version, &reader, &bed.err);
}

static void make_base(void)
{
    static struct x86_state state;
    struct error err = {0};
    create();
    assert_int_equal(vcpus_get_state(bed.machine, 0, &state, &err), 0);
    state.cr0 = X86_CR0_PE | X86_CR0_ET;
    state.rip = CODE_GPA;
    state.gpr[X86_RSP] = STACK_GPA;
    state.gdtr = (struct x86_table){.base = GDT_GPA, .limit = 23};
    state.idtr = (struct x86_table){.base = IDT_GPA, .limit = 511};
    for (unsigned i = 0; i < X86_SEGMENT_COUNT; i++) {
        state.segment[i] = (struct x86_segment){.selector = i == X86_CS ? 8 : 16,
                                                .limit = UINT32_MAX,
                                                .attributes = i == X86_CS ? 0xc09b : 0xc093};
    }
    if (vcpus_set_state(bed.machine, 0, &state, &err) < 0) {
        fail_msg("%s", err.text);
    }
    /* Until the guest has set everything up, however little of the host's CPU it gets. */
    uint32_t rounds = 0;
    while (rounds == 0) {
        run_for(WARM_UP_NS);
        assert_true(
            guest_memory_read(machine_memory(bed.machine), 0x20000, &rounds, sizeof(rounds)));
    }
    save(bed.base);
    bed.count = bed.visited;
    machine_destroy(bed.machine);
}

static void change(struct section *section)
{
    static const uint32_t borders[] = {0, 1, 0xff, 0xffff, 0x7fffffff, 0x80000000, 0xffffffff};
    if (section->size < 4) {
        return;
    }
    /* The first half of a vCPU's section is mostly the XSAVE area: numbers stand in front of it and behind. */
    uint64_t at = below(3) == 0 ? below(MIN(section->size, (size_t)600))
                                : section->size - 1 - below(section->size) * below(256) / 256;
    at = MIN(at, section->size - 4);
    switch (below(4)) {
    case 0:
        memcpy(section->data + at, &borders[below(ARRAY_COUNT(borders))], 4);
        break;
    case 1:
        section->data[at] = (uint8_t)below(256);
        break;
    case 2:
        section->data[at] = (uint8_t)(section->data[at] + below(5) - 2);
        break;
    default:
        section->data[at] ^= (uint8_t)BIT(below(8));
        break;
    }
}

static void check_vcpus(unsigned number)
{
    static struct x86_state state;
    struct error err = {0};
    for (uint32_t i = 0; i < bed.machine->vcpu_count; i++) {
        assert_int_equal(vcpus_get_state(bed.machine, i, &state, &err), 0);
        if (x86_state_check(&state, &bed.machine->vcpu[i].cpuid, &err) < 0) {
            fail_msg("machine %u, vCPU %u: %s", number, i, err.text);
        }
    }
}

static unsigned machine_count = 400;
static uint64_t seed = 1;

static void mutations(void **unused)
{
    unsigned refused = 0;
    bed.random = seed * 0x9e3779b97f4a7c15ull | 1;
    make_base();
    for (unsigned i = 0; i < machine_count; i++) {
        memcpy(bed.changed, bed.base, sizeof(bed.base));
        /* vCPUs, I/O APIC and clock come first. */
        size_t index = below(5) != 0 ? below(4) : below(bed.count);
        for (uint64_t n = 1 + below(3); n > 0; n--) {
            change(&bed.changed[index]);
        }
        create();
        bed.visited = 0;
        bed.err.text[0] = 0;
        if (machine_each_section(bed.machine, restore_one, NULL) < 0) {
            refused++;
            if (bed.err.text[0] == 0) {
                fail_msg("machine %u: section %s is refused without a word", i,
                         bed.changed[index].name);
            }
        } else {
            run_for(RUN_NS);
            save(bed.after);
            check_vcpus(i);
        }
        machine_destroy(bed.machine);
    }
    print_message("%u machines: %u refused\n", machine_count, refused);
    assert_true(refused > machine_count / 20);
    assert_true(refused < machine_count - machine_count / 20);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(mutations)};
    if (argc > 1) {
        machine_count = (unsigned)strtoul(argv[1], NULL, 0);
    }
    if (argc > 2) {
        seed = strtoull(argv[2], NULL, 0);
    }
    if (event_loop_create(&bed.loop, NULL) < 0 ||
        event_timer_create(bed.loop, on_timer, NULL, &bed.timer, NULL) < 0) {
        fputs("test_mutation: no event loop\n", stderr);
        return 1;
    }
    (void)alarm(HUNG_SECONDS); /* a vCPU that does not stop */
    int rc = cmocka_run_group_tests(tests, NULL, NULL);
    event_timer_destroy(bed.timer);
    event_loop_destroy(bed.loop);
    return rc;
}
