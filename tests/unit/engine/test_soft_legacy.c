/* Corners of the 32-bit architecture on the software engine: call gates with parameters, 16-bit gates, virtual-8086 mode, tasks.
 * Expected values: SDM 3A 5.8 (call gates), 6.12 (gates of the IDT), chapter 7 (tasks), SDM 3B 20 (virtual-8086 mode). */
#include "soft_guest.h"

#include "base/core/bits.h"

/* 16-bit gates reach 64 KiB only. */
#define CODE        0x8000u
#define TSS_A       0x3000u
#define TSS_B       0x3100u
#define TSS_C       0x3200u /* 16-bit */
#define INNER_SP    0x78000u
#define OUTER_SP    0x7000u
#define TASK_SP     0x60000u
#define KERNEL_CS   0x08
#define KERNEL_DS   0x10
#define USER_CS     0x1b
#define USER_DS     0x23
#define SEL_A       0x28
#define SEL_B       0x30
#define SEL_C       0x38
#define INTERRUPT   0x8e
#define TRAP        0x8f
#define INTERRUPT16 0x86
#define TRAP16      0x87
#define FOR_USER    0x60
#define EXIT_CODE   " out %al, $0xf4\n hlt\n"

/* The stack as the handler finds it, at FRAME: EBX is ESP. */
#define FRAME 0x20000u
#define KEEP_FRAME                                                                                 \
    " mov %esp, %ebx\n mov %esp, %esi\n mov $0x20000, %edi\n mov $8, %ecx\n cld\n rep movsl\n"

/* At 0x700, for gate 0x40: the end. */
#define END_CODE(name) ".org " #name " + 0x700\n" EXIT_CODE

static struct soft_guest guest;
static struct x86_state initial, after;

static uint32_t get32(uint64_t gpa)
{
    return (uint32_t)guest_get64(&guest, gpa);
}

static uint16_t get16(uint64_t gpa)
{
    return (uint16_t)guest_get64(&guest, gpa);
}

static void put32(uint64_t gpa, uint32_t value)
{
    guest_put(&guest, gpa, &value, sizeof(value));
}

static void put16(uint64_t gpa, uint16_t value)
{
    guest_put(&guest, gpa, &value, sizeof(value));
}

static void set_gate(unsigned vector, uint16_t selector, uint32_t offset, uint8_t type)
{
    uint32_t high = type == INTERRUPT || type == TRAP || type == (INTERRUPT | FOR_USER) ||
                            type == (TRAP | FOR_USER)
                        ? offset & 0xffff0000
                        : 0;
    guest_put64(&guest, GUEST_IDT + vector * 8,
                (offset & 0xffff) | (uint64_t)selector << 16 |
                    (uint64_t)((uint32_t)type << 8 | high) << 32);
}

static void set_task(uint32_t tss, uint32_t eip)
{
    put32(tss + 28, 0);
    put32(tss + 32, eip);
    put32(tss + 36, X86_FLAG_ONE);
    put32(tss + 56, TASK_SP);
    for (unsigned i = 0; i < 6; i++) {
        put32(tss + 72 + i * 4, i == X86_CS ? KERNEL_CS : KERNEL_DS);
    }
}

/* Flat 32-bit code at CPL 0, TSS A current. */
static void prepare(const uint8_t *code, size_t size)
{
    struct error err = {0};
    static const uint64_t gdt[] = {
        0,
        0x00cf9b000000ffff,
        0x00cf93000000ffff,
        0x00cffb000000ffff,
        0x00cff3000000ffff,
        0x00008b0000000067 | (uint64_t)TSS_A << 16,
        0x0000890000000067 | (uint64_t)TSS_B << 16,
        0x000081000000002b | (uint64_t)TSS_C << 16,
        0x0000ec0200000000 | KERNEL_CS << 16 | (CODE + 0x100), /* 0x40: 32 bits, 2 parameters */
        0x0000e40100000000 | KERNEL_CS << 16 | (CODE + 0x100), /* 0x48: 16 bits, 1 parameter */
    };
    guest_start(&guest, 1);
    guest_put(&guest, CODE, code, size);
    guest_put(&guest, GUEST_GDT, gdt, sizeof(gdt));
    put32(TSS_A + 4, INNER_SP);
    put16(TSS_A + 8, KERNEL_DS);
    put16(TSS_A + 102, 0xffff);
    set_gate(0x40, KERNEL_CS, CODE + 0x700, INTERRUPT | FOR_USER);
    assert_int_equal(soft_engine_ops.vcpu_get_state(guest.vcpu[0], &initial, &err), 0);
    initial.cr0 = X86_CR0_PE | X86_CR0_ET | X86_CR0_NE;
    initial.rip = CODE;
    initial.gpr[X86_RSP] = OUTER_SP;
    initial.gdtr = (struct x86_table){.base = GUEST_GDT, .limit = sizeof(gdt) - 1};
    initial.idtr = (struct x86_table){.base = GUEST_IDT, .limit = 0x7ff};
    initial.tr =
        (struct x86_segment){.selector = SEL_A, .base = TSS_A, .limit = 0x67, .attributes = 0x8b};
    initial.activity = X86_ACTIVITY_RUNNING;
    for (unsigned i = 0; i < X86_SEGMENT_COUNT; i++) {
        initial.segment[i] = (struct x86_segment){.selector = i == X86_CS ? KERNEL_CS : KERNEL_DS,
                                                  .limit = UINT32_MAX,
                                                  .attributes = i == X86_CS ? 0xc09b : 0xc093};
    }
}

static void make_user(void)
{
    for (unsigned i = 0; i < X86_SEGMENT_COUNT; i++) {
        initial.segment[i].selector = i == X86_CS ? USER_CS : USER_DS;
        initial.segment[i].attributes |= X86_SEGMENT_DPL;
    }
}

/* CS at CODE, the other selectors tell which they are. */
static void make_v86(uint32_t iopl)
{
    initial.rflags |= X86_FLAG_VM | iopl << 12;
    initial.rip = 0;
    initial.gpr[X86_RSP] = 0xfff0;
    for (unsigned i = 0; i < X86_SEGMENT_COUNT; i++) {
        uint16_t selector = (uint16_t)(i == X86_CS ? CODE >> 4 : 0x5000 + i * 0x10);
        initial.segment[i] = (struct x86_segment){.selector = selector,
                                                  .base = (uint32_t)selector << 4,
                                                  .limit = 0xffff,
                                                  .attributes = 0xf3};
    }
}

static void run(void)
{
    enum vcpu_exit exit = guest_run(&guest, 0, &initial, &after);
    if (exit != VCPU_EXIT_KICKED) {
        struct error err;
        soft_engine_ops.vcpu_error(guest.vcpu[0], &err);
        fail_msg("%s", err.text);
    }
}

/* --- call gates --- */

GUEST_CODE_BLOCK(call_32, ".code32",
                 "push $0x11111111\n push $0x22222222\n lcall $0x40, $0xbadbad\n"
                 "1: mov %esp, %ecx\n int $0x40\n"
                 ".org call_32 + 0x100\n" KEEP_FRAME "mov %ss, %edx\n mov %cs, %esi\n"
                 "lret $8\n" END_CODE(call_32));

static void call_gate_with_parameters(void **state)
{
    prepare(call_32, GUEST_CODE_SIZE(call_32));
    make_user();
    run();
    const uint32_t sp = FRAME;
    assert_int_equal(after.gpr[X86_RBX], INNER_SP - 24);
    assert_int_equal(after.gpr[X86_RDX], KERNEL_DS);
    assert_int_equal(after.gpr[X86_RSI], KERNEL_CS);
    assert_int_equal(get32(sp + 4), USER_CS);
    assert_int_equal(get32(sp + 8), 0x22222222);
    assert_int_equal(get32(sp + 12), 0x11111111);
    assert_int_equal(get32(sp + 16), OUTER_SP - 8);
    assert_int_equal(get32(sp + 20), USER_DS);
    assert_int_equal(after.gpr[X86_RCX], OUTER_SP); /* the parameters are gone from here as well */
    guest_end(&guest);
    /* At the same level nothing is copied. */
    prepare(call_32, GUEST_CODE_SIZE(call_32));
    run();
    assert_int_equal(after.gpr[X86_RBX], OUTER_SP - 16);
    assert_int_equal(get32(FRAME + 4), KERNEL_CS);
    assert_int_equal(get32(FRAME + 8), 0x22222222);
    assert_int_equal(after.gpr[X86_RCX], OUTER_SP);
    guest_end(&guest);
}

GUEST_CODE_BLOCK(call_16, ".code32",
                 "pushw $0x3333\n lcall $0x48, $0\n 1: mov %esp, %ecx\n int $0x40\n"
                 ".org call_16 + 0x100\n" KEEP_FRAME "lretw $2\n" END_CODE(call_16));

static void call_gate_of_16_bits(void **state)
{
    prepare(call_16, GUEST_CODE_SIZE(call_16));
    make_user();
    run();
    const uint32_t sp = FRAME;
    assert_int_equal(after.gpr[X86_RBX], INNER_SP - 10);
    assert_int_equal(get16(sp), CODE + 4 + 7); /* behind PUSH and CALL */
    assert_int_equal(get16(sp + 2), USER_CS);
    assert_int_equal(get16(sp + 4), 0x3333);
    assert_int_equal(get16(sp + 6), OUTER_SP - 2);
    assert_int_equal(get16(sp + 8), USER_DS);
    assert_int_equal(after.gpr[X86_RCX], OUTER_SP);
    guest_end(&guest);
}

/* The gate's DPL counts for CALL and JMP alike; a JMP does not change the level. */
GUEST_CODE_BLOCK(jump_gate, ".code32",
                 "ljmp $0x40, $0\n .org jump_gate + 0x100\n hlt\n"
                 ".org jump_gate + 0x200\n pop %eax\n pop %ebx\n" EXIT_CODE);

static void call_gate_by_jump(void **state)
{
    prepare(jump_gate, GUEST_CODE_SIZE(jump_gate));
    make_user();
    set_gate(X86_GP, KERNEL_CS, CODE + 0x200, INTERRUPT);
    run();
    assert_int_equal(after.gpr[X86_RAX], KERNEL_CS); /* the target, not the gate */
    assert_int_equal(after.gpr[X86_RBX], CODE);
    guest_end(&guest);
}

/* --- 16-bit gates of the IDT --- */

GUEST_CODE_BLOCK(interrupt_16, ".code32",
                 "int $0x41\n mov %esp, %ecx\n int $0x40\n"
                 ".org interrupt_16 + 0x100\n" KEEP_FRAME
                 "pushf\n pop %edx\n iretw\n" END_CODE(interrupt_16));

static void check_interrupt_16(uint8_t type, uint32_t expected_if)
{
    prepare(interrupt_16, GUEST_CODE_SIZE(interrupt_16));
    initial.rflags |= X86_FLAG_IF | X86_FLAG_CF;
    set_gate(0x41, KERNEL_CS, CODE + 0x100, type);
    run();
    assert_int_equal(after.gpr[X86_RBX], OUTER_SP - 6);
    assert_int_equal(get16(FRAME), CODE + 2);
    assert_int_equal(get16(FRAME + 2), KERNEL_CS);
    assert_int_equal(get16(FRAME + 4), X86_FLAG_IF | X86_FLAG_CF | X86_FLAG_ONE);
    assert_int_equal(after.gpr[X86_RDX] & X86_FLAG_IF, expected_if);
    assert_int_equal(after.gpr[X86_RCX], OUTER_SP);
    guest_end(&guest);
}

static void gates_of_16_bits(void **state)
{
    check_interrupt_16(INTERRUPT16, 0);
    check_interrupt_16(TRAP16, X86_FLAG_IF);
}

/* --- virtual-8086 mode --- */

GUEST_CODE_BLOCK(v86_interrupt, ".code16",
                 "int $0x42\n 1: mov %ds, %cx\n mov %sp, %dx\n int $0x40\n"
                 ".code32\n .org v86_interrupt + 0x100\n mov %esp, %ebx\n mov %ds, %eax\n"
                 "mov %es, %edi\n or %edi, %eax\n mov %fs, %edi\n or %edi, %eax\n mov %gs, %edi\n"
                 "or %edi, %eax\n mov %ss, %esi\n iret\n" END_CODE(v86_interrupt));

static void interrupt_from_v86(void **state)
{
    prepare(v86_interrupt, GUEST_CODE_SIZE(v86_interrupt));
    make_v86(3);
    initial.rflags |= X86_FLAG_IF;
    set_gate(0x42, KERNEL_CS, CODE + 0x100, INTERRUPT | FOR_USER);
    run();
    const uint32_t sp = INNER_SP - 36;
    assert_int_equal(after.gpr[X86_RBX], sp);
    assert_int_equal(after.gpr[X86_RAX], 0); /* all null */
    assert_int_equal(after.gpr[X86_RSI], KERNEL_DS);
    /* The second interrupt left the same frame, but for its EIP. */
    assert_int_equal(get32(sp), 8);
    assert_int_equal(get32(sp + 4), CODE >> 4);
    assert_int_equal(get32(sp + 8), X86_FLAG_VM | X86_FLAG_IOPL | X86_FLAG_IF | X86_FLAG_ONE);
    assert_int_equal(get32(sp + 12), 0xfff0);
    static const enum x86_segment_id order[] = {X86_SS, X86_ES, X86_DS, X86_FS, X86_GS};
    for (unsigned i = 0; i < ARRAY_COUNT(order); i++) {
        assert_int_equal(get32(sp + 16 + i * 4), 0x5000u + order[i] * 0x10u);
    }
    assert_int_equal((uint16_t)after.gpr[X86_RCX], 0x5000 + X86_DS * 0x10);
    assert_int_equal((uint16_t)after.gpr[X86_RDX], 0xfff0);
    guest_end(&guest);
}

/* #GP keeps its error code and EIP. */
#define V86_CODE(name, text)                                                                       \
    GUEST_CODE_BLOCK(name, ".code16",                                                              \
                     "nop\n" text "\n hlt\n.code32\n .org " #name                                  \
                     " + 0x200\n pop %eax\n pop %ebx\n" EXIT_CODE)
V86_CODE(v86_int, "int $0x42");
V86_CODE(v86_cli, "cli");
V86_CODE(v86_pushf, "pushf");
V86_CODE(v86_popf, "popf");
V86_CODE(v86_iret, "iret");
V86_CODE(v86_hlt, "hlt");
V86_CODE(v86_in, "in $0x60, %al");
V86_CODE(v86_cr0, "mov %cr0, %eax");

static void check_v86_fault(const uint8_t *code, size_t size, uint32_t iopl, uint8_t gate_cs,
                            uint32_t expected_error)
{
    prepare(code, size);
    make_v86(iopl);
    set_gate(0x42, gate_cs, CODE + 0x100, INTERRUPT | FOR_USER);
    set_gate(X86_GP, KERNEL_CS, CODE + 0x200, INTERRUPT);
    run();
    assert_int_equal(after.gpr[X86_RAX], expected_error);
    assert_int_equal(after.gpr[X86_RBX], 1);
    guest_end(&guest);
}

#define V86_FAULT(name, iopl, gate_cs, error)                                                      \
    check_v86_fault(name, GUEST_CODE_SIZE(name), iopl, gate_cs, error)

static void faults_of_v86(void **state)
{
    V86_FAULT(v86_int, 2, KERNEL_CS, 0);
    V86_FAULT(v86_cli, 2, KERNEL_CS, 0);
    V86_FAULT(v86_pushf, 2, KERNEL_CS, 0);
    V86_FAULT(v86_popf, 2, KERNEL_CS, 0);
    V86_FAULT(v86_iret, 2, KERNEL_CS, 0);
    V86_FAULT(v86_hlt, 3, KERNEL_CS, 0);
    V86_FAULT(v86_in, 3, KERNEL_CS, 0); /* IOPL does not help: the bitmap decides */
    V86_FAULT(v86_cr0, 3, KERNEL_CS, 0);
    /* Handlers run at CPL 0 only. */
    V86_FAULT(v86_int, 3, USER_CS, USER_CS & ~3u);
}

/* --- tasks --- */

GUEST_CODE_BLOCK(task_gate, ".code32",
                 "mov $0x1234, %ebp\n int $0x44\n mov $0x77, %edi\n int $0x40\n"
                 ".org task_gate + 0x200\n mov %cr0, %eax\n mov %eax, 0x20000\n pushf\n"
                 "pop 0x20004\n mov %esp, 0x20008\n str 0x2000c\n iret\n" END_CODE(task_gate));

static uint8_t tss_type(uint16_t selector)
{
    return (uint8_t)(guest_get64(&guest, GUEST_GDT + selector) >> 40);
}

static void task_by_gate_and_back(void **state)
{
    prepare(task_gate, GUEST_CODE_SIZE(task_gate));
    set_task(TSS_B, CODE + 0x200);
    set_gate(0x44, SEL_B, 0, 0x85);
    run();
    assert_true(get32(0x20000) & X86_CR0_TS);
    assert_int_equal(get32(0x20004), X86_FLAG_NT | X86_FLAG_ONE);
    assert_int_equal(get32(0x20008), TASK_SP);
    assert_int_equal(get16(0x2000c), SEL_B);
    assert_int_equal(get16(TSS_B), SEL_A); /* the link to the task before */
    assert_int_equal(get32(TSS_A + 32), CODE + 7);
    assert_int_equal(get32(TSS_A + 60), 0x1234);
    assert_int_equal(get32(TSS_A + 76), KERNEL_CS);
    /* Back: B is no longer busy, its NT is cleared in its image. */
    assert_int_equal(after.gpr[X86_RDI], 0x77);
    assert_int_equal(after.gpr[X86_RBP], 0x1234);
    assert_int_equal(after.tr.selector, SEL_A);
    assert_int_equal(tss_type(SEL_A), 0x8b);
    assert_int_equal(tss_type(SEL_B), 0x89);
    assert_int_equal(get32(TSS_B + 36), X86_FLAG_ONE);
    guest_end(&guest);
}

GUEST_CODE_BLOCK(task_fault, ".code32",
                 "mov $0x28, %eax\n 1: mov %eax, %es\n hlt\n"
                 ".org task_fault + 0x200\n pop %edx\n mov %esp, %ebx\n" EXIT_CODE);

static void task_takes_an_error_code(void **state)
{
    prepare(task_fault, GUEST_CODE_SIZE(task_fault));
    set_task(TSS_B, CODE + 0x200);
    set_gate(X86_GP, SEL_B, 0, 0x85);
    run();
    assert_int_equal(after.gpr[X86_RDX], 0x28);
    assert_int_equal(after.gpr[X86_RBX], TASK_SP);
    assert_int_equal(get32(TSS_A + 32), CODE + 5); /* of the instruction that faulted */
    assert_true(get32(TSS_A + 36) & X86_FLAG_RF);
    guest_end(&guest);
}

GUEST_CODE_BLOCK(task_jump, ".code32",
                 "ljmp $0x30, $0\n .org task_jump + 0x200\n pushf\n pop %ebx\n" EXIT_CODE);

static void task_by_jump(void **state)
{
    prepare(task_jump, GUEST_CODE_SIZE(task_jump));
    set_task(TSS_B, CODE + 0x200);
    run();
    assert_int_equal(after.gpr[X86_RBX] & X86_FLAG_NT, 0);
    assert_int_equal(get16(TSS_B), 0);
    assert_int_equal(after.tr.selector, SEL_B);
    assert_int_equal(after.tr.attributes, 0x8b);
    assert_int_equal(tss_type(SEL_A), 0x89);
    assert_int_equal(tss_type(SEL_B), 0x8b);
    guest_end(&guest);
}

GUEST_CODE_BLOCK(
    task_16, ".code32",
    "lcall $0x38, $0\n mov $0x77, %edi\n int $0x40\n"
    ".org task_16 + 0x200\n mov %eax, 0x20000\n mov %esp, 0x20004\n iret\n" END_CODE(task_16));

static void task_of_16_bits(void **state)
{
    static const uint16_t image[] = {
        0,
        0,
        0,
        0,
        0,
        0,
        0, /* link, stacks */
        CODE + 0x200,
        X86_FLAG_ONE,
        0xaaaa, /* IP, FLAGS, AX */
        0,
        0,
        0,
        0x6000,
        0,
        0,
        0, /* CX DX BX SP BP SI DI */
        KERNEL_DS,
        KERNEL_CS,
        KERNEL_DS,
        KERNEL_DS,
        0, /* ES CS SS DS LDT */
    };
    prepare(task_16, GUEST_CODE_SIZE(task_16));
    guest_put(&guest, TSS_C, image, sizeof(image));
    run();
    assert_int_equal(get16(0x20000), 0xaaaa);
    assert_int_equal(get16(0x20004), 0x6000);
    assert_int_equal(get16(TSS_C), SEL_A);
    assert_int_equal(after.gpr[X86_RDI], 0x77);
    assert_int_equal(tss_type(SEL_C), 0x81);
    guest_end(&guest);
}

GUEST_CODE_BLOCK(task_busy, ".code32",
                 "ljmp $0x28, $0\n .org task_busy + 0x200\n pop %eax\n pop %ebx\n" EXIT_CODE);

static void impossible_tasks(void **state)
{
    /* The current one is busy. */
    prepare(task_busy, GUEST_CODE_SIZE(task_busy));
    set_gate(X86_GP, KERNEL_CS, CODE + 0x200, INTERRUPT);
    run();
    assert_int_equal(after.gpr[X86_RAX], SEL_A);
    assert_int_equal(after.gpr[X86_RBX], CODE);
    guest_end(&guest);
    /* A TSS with a byte too little. */
    prepare(task_jump, GUEST_CODE_SIZE(task_jump));
    guest_put64(&guest, GUEST_GDT + SEL_B, 0x0000890000000066 | (uint64_t)TSS_B << 16);
    guest_put(&guest, CODE + 0x200, task_busy + 0x200, GUEST_CODE_SIZE(task_busy) - 0x200);
    set_gate(X86_TS, KERNEL_CS, CODE + 0x200, INTERRUPT);
    run();
    assert_int_equal(after.gpr[X86_RAX], SEL_B);
    assert_int_equal(after.gpr[X86_RBX], CODE);
    assert_int_equal(tss_type(SEL_A), 0x8b);
    guest_end(&guest);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(call_gate_with_parameters),
        cmocka_unit_test(call_gate_of_16_bits),
        cmocka_unit_test(call_gate_by_jump),
        cmocka_unit_test(gates_of_16_bits),
        cmocka_unit_test(interrupt_from_v86),
        cmocka_unit_test(faults_of_v86),
        cmocka_unit_test(task_by_gate_and_back),
        cmocka_unit_test(task_takes_an_error_code),
        cmocka_unit_test(task_by_jump),
        cmocka_unit_test(task_of_16_bits),
        cmocka_unit_test(impossible_tasks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
