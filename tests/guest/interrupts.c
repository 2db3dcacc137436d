/* When interrupts and NMIs come, in which order, on which stack (SDM 3A chapters 6 and 10). */
#include "guest.h"

#define FLAG_IF  BIT(9)
#define ICR_SELF 0x40000u
#define ICR_NMI  0x400u
#define EOI      0xb0
#define TPR      0x80
#define PPR      0xa0
#define ISR      0x100
#define IRR      0x200

static volatile unsigned count, order_count;
static volatile uint8_t order[16];
static volatile uint64_t last_rip, last_rsp, last_flags_inside, last_frame;
static volatile uint64_t last_cs;

static uint64_t flags(void)
{
    uint64_t value;
    asm volatile("pushfq; popq %0" : "=r"(value)::"memory");
    return value;
}

static void note(struct trap_frame *frame)
{
    count++;
    last_rip = frame->rip;
    last_rsp = frame->rsp;
    last_cs = frame->cs;
    last_frame = (uintptr_t)frame;
    last_flags_inside = flags();
    if (order_count < ARRAY_COUNT(order)) {
        order[order_count++] = (uint8_t)frame->vector;
    }
}

static void on_interrupt(struct trap_frame *frame)
{
    note(frame);
    apic_write(EOI, 0);
}

static void send_self(uint8_t vector)
{
    apic_send(ICR_SELF | vector, 0);
    /* Accepted when the APIC says so. */
    while (!(apic_read(IRR + vector / 32 * 16) & 1u << vector % 32) && !(flags() & FLAG_IF)) {
        pause();
    }
}

static void test_flag(void)
{
    uint64_t expected;
    count = 0;
    send_self(0x40);
    check_equal("IF clear: nothing comes", 0, count);
    asm volatile("leaq 1f(%%rip), %0; sti; nop; 1: nop; cli" : "=r"(expected)::"memory");
    check_equal("STI: it comes", 1, count);
    check_equal("STI: after the next instruction", expected, last_rip);
    count = 0;
    send_self(0x40);
    asm volatile("sti; cli" ::: "memory");
    check_equal("STI then CLI: nothing comes", 0, count);
    asm volatile("pushfq; orl $0x200, (%%rsp); leaq 1f(%%rip), %0; popfq; 1: nop; cli"
                 : "=r"(expected)::"memory");
    check_equal("POPF: it comes", 1, count);
    check_equal("POPF: at once", expected, last_rip);
    check_equal("an interrupt gate clears IF", 0, last_flags_inside & FLAG_IF);
    count = 0;
    send_self(0x40);
    asm volatile("leaq 1f(%%rip), %0; sti; hlt; 1: cli" : "=r"(expected)::"memory");
    check_equal("STI, HLT: it comes", 1, count);
    check_equal("STI, HLT: behind HLT", expected, last_rip);
    count = 0;
    asm volatile("leaq 1f(%%rip), %0; sti; hlt; 1: cli"
                 : "=r"(expected)
                 : "0"((apic_send(ICR_SELF | 0x40, 0), 0))
                 : "memory");
    check_equal("HLT again", 1, count);

    struct gate gate = idt[0x41];
    idt[0x41] = gate_make((gate.low & 0xffff) | (gate.low >> 32 & 0xffff0000), KERNEL_CS, 0, 0x8f);
    count = 0;
    send_self(0x41);
    asm volatile("sti; nop; nop; cli" ::: "memory");
    check_equal("a trap gate: it comes", 1, count);
    check_equal("a trap gate leaves IF", FLAG_IF, last_flags_inside & FLAG_IF);
    idt[0x41] = gate;
}

static void on_int(struct trap_frame *frame)
{
    note(frame);
}

SNIPPET(user_loop, ".code64", "nop; nop; pushfq; popq %rax; int $0x80");
SNIPPET(user_popf, ".code64", "pushfq; xorl $0x200, (%rsp); popfq; pushfq; popq %rax; int $0x80");
SNIPPET(user_cli, ".code64", "cli; pushfq; popq %rax; sti; pushfq; popq %rbx; int $0x80");

static void test_software(void)
{
    uint64_t expected;
    trap_hook[0x42] = on_int;
    count = 0;
    asm volatile("leaq 1f(%%rip), %0; int $0x42; 1:" : "=r"(expected)::"memory");
    check_equal("INT ignores IF", 1, count);
    check_equal("INT: RIP behind it", expected, last_rip);
    check_equal("the frame is aligned to 16 bytes", 0,
                (last_frame + sizeof(struct trap_frame)) % 16);
    asm volatile("subq $8, %%rsp; int $0x42; addq $8, %%rsp" ::: "memory");
    check_equal("also with another RSP", 0, (last_frame + sizeof(struct trap_frame)) % 16);
    check_equal("INT sets no ISR bit", 0, apic_read(ISR + 2 * 16));

    struct trap_frame start = frame_user();
    start.rflags |= FLAG_IF;
    LOAD_SNIPPET(user_loop, USER_CODE);
    count = 0;
    send_self(0x40);
    trap_run(&start);
    check_equal("IRET to user mode with IF: it comes", 1, count);
    check_equal("before the first instruction", USER_CODE, last_rip);
    check_equal("from user mode: CS", USER_CS, last_cs);
    check_equal("from user mode: RSP", USER_STACK, last_rsp);
    check_equal("from user mode: on the stack of the TSS", tss.rsp[0],
                last_frame + sizeof(struct trap_frame));
    check_equal("user mode goes on", CALL_VECTOR, trap.vector);
    check_equal("with IF as it was", FLAG_IF, trap.rax & FLAG_IF);
    LOAD_SNIPPET(user_popf, USER_CODE);
    trap_run(&start);
    check_equal("POPF in user mode leaves IF set", FLAG_IF, trap.rax & FLAG_IF);
    start.rflags = 2;
    trap_run(&start);
    check_equal("POPF in user mode leaves IF clear", 0, trap.rax & FLAG_IF);
    LOAD_SNIPPET(user_cli, USER_CODE);
    start.rflags = 2 | FLAG_IF | 3 << 12;
    trap_run(&start);
    check_equal("CLI with IOPL 3", 0, trap.rax & FLAG_IF);
    check_equal("STI with IOPL 3", FLAG_IF, trap.rbx & FLAG_IF);
}

static void test_priority(void)
{
    static const uint8_t sent[] = {0x45, 0x63, 0x51, 0xf0, 0x44},
                         expected[] = {0xf0, 0x63, 0x51, 0x45, 0x44};
    order_count = 0;
    for (unsigned i = 0; i < sizeof(sent); i++) {
        trap_hook[sent[i]] = on_interrupt;
        send_self(sent[i]);
    }
    asm volatile("sti; nop; nop; nop; cli" ::: "memory");
    check_equal("five come", 5, order_count);
    for (unsigned i = 0; i < sizeof(expected); i++) {
        check_equal("the highest vector first", expected[i], order[i]);
    }
    send_self(0x51);
    send_self(0x51);
    order_count = 0;
    asm volatile("sti; nop; nop; nop; cli" ::: "memory");
    check_equal("twice the same before it is taken is once", 1, order_count);

    order_count = 0;
    WRITE_CR(8, 5);
    check_equal("CR8 is TPR's class", 0x50, apic_read(TPR));
    check_equal("PPR is TPR", 0x50, apic_read(PPR));
    send_self(0x51);
    send_self(0x63);
    asm volatile("sti; nop; nop; nop" ::: "memory");
    check_equal("CR8 = 5 lets class 6 pass", 0x63, order_count == 1 ? order[0] : 0);
    WRITE_CR(8, 4);
    asm volatile("nop; nop; nop; cli" ::: "memory");
    check_equal("CR8 = 4 lets class 5 pass", 0x51, order_count == 2 ? order[1] : 0);
    apic_write(TPR, 0x3f);
    check_equal("TPR in CR8", 3, READ_CR(8));
    WRITE_CR(8, 0);
    TRY("movq %0, %%cr8", ::"r"(16ull));
    check_fault("CR8 has four bits", GP, 0);
}

static void nested_inner(struct trap_frame *frame)
{
    note(frame);
    apic_write(EOI, 0);
}

static volatile uint32_t seen_isr, seen_irr, seen_ppr;
static void nested_outer(struct trap_frame *frame)
{
    note(frame);
    seen_isr = apic_read(ISR + 2 * 16);
    seen_ppr = apic_read(PPR);
    send_self(0x4f);
    send_self(0x63);
    asm volatile("sti; nop; nop; nop; cli" ::: "memory");
    seen_irr = apic_read(IRR + 2 * 16);
    order[order_count++] = 0;
    apic_write(EOI, 0);
}

static void test_nesting(void)
{
    static const uint8_t expected[] = {0x48, 0x63, 0, 0x4f};
    trap_hook[0x48] = nested_outer;
    trap_hook[0x63] = nested_inner;
    trap_hook[0x4f] = nested_inner;
    order_count = 0;
    send_self(0x48);
    asm volatile("sti; nop; nop; nop; nop; cli" ::: "memory");
    for (unsigned i = 0; i < sizeof(expected); i++) {
        check_equal("a handler is interrupted by a higher class only", expected[i], order[i]);
    }
    check_equal("ISR while in service", 1u << 8, seen_isr);
    check_equal("PPR while in service", 0x40, seen_ppr & 0xf0);
    check_equal("the same class waits in IRR", 1u << 15, seen_irr);
    check_equal("EOI clears ISR", 0, apic_read(ISR + 2 * 16));
}

/* --- NMI --- */

static volatile unsigned nmi_count, nmi_depth, nmi_deepest;
static volatile bool nmi_resends, nmi_unmasks;

static void send_nmi(void)
{
    apic_send(ICR_NMI, cpu_apic_id[0]);
    for (unsigned i = 0; i < 1000; i++) {
        pause();
    }
}

static void on_nmi(struct trap_frame *frame)
{
    (void)frame;
    nmi_count++;
    nmi_depth++;
    nmi_deepest = nmi_depth > nmi_deepest ? nmi_depth : nmi_deepest;
    if (nmi_resends) {
        nmi_resends = false;
        send_nmi();
        if (nmi_unmasks) {
            asm volatile("int $0x42" ::: "memory"); /* its IRET ends the masking */
            for (unsigned i = 0; i < 1000; i++) {
                pause();
            }
        }
    }
    nmi_depth--;
}

static void test_nmi(void)
{
    struct gate gate = idt[NMI];
    trap_hook[NMI] = on_nmi;
    uint64_t expected = tss.ist[1];
    trap_hook[NMI] = on_int;
    count = 0;
    send_nmi();
    check_equal("NMI with IF clear", 1, count);
    check_equal("NMI on its IST stack", expected, last_frame + sizeof(struct trap_frame));
    trap_hook[NMI] = on_nmi;
    idt[NMI].low &= ~(7ull << 32); /* nested ones need the stack that they interrupt */
    nmi_resends = true;
    send_nmi();
    check_equal("NMI in an NMI handler: both come", 2, nmi_count);
    check_equal("NMI in an NMI handler: one after the other", 1, nmi_deepest);
    nmi_count = 0;
    nmi_resends = nmi_unmasks = true;
    send_nmi();
    check_equal("NMI after an inner IRET: both come", 2, nmi_count);
    check_equal("NMI after an inner IRET: nested", 2, nmi_deepest);
    nmi_count = 0;
    apic_send(ICR_NMI, cpu_apic_id[0]);
    asm volatile("nop" ::: "memory");
    for (unsigned i = 0; i < 1000; i++) {
        pause();
    }
    check_equal("NMI once more", 1, nmi_count);
    idt[NMI] = gate;
    trap_hook[NMI] = NULL;
}

static void test_ist(void)
{
    struct gate gate = idt[0x40];
    static uint8_t stack[4096] __attribute__((aligned(64)));
    tss.ist[6] = (uintptr_t)stack + sizeof(stack) - 8;
    idt[0x40].low |= 7ull << 32;
    count = 0;
    send_self(0x40);
    asm volatile("sti; nop; nop; cli" ::: "memory");
    check_equal("an interrupt on IST 7, aligned", (uintptr_t)stack + sizeof(stack) - 16,
                last_frame + sizeof(struct trap_frame));
    tss.ist[6] = 0x800000000000;
    TRY("int $0x40", ::: "memory");
    /* All pushes are below the border, only the stack's top is not: #PF or #SS, both are seen. */
    check_either("INT: an IST stack at the canonical border", (uint64_t)PF << 32 | PF_W,
                 (uint64_t)SS << 32, trap.vector << 32 | trap.error);
    tss.ist[6] = TEST_GVA;
    TRY("int $0x40", ::: "memory");
    check_trap("INT: an IST stack that is not mapped", PF, PF_W);
    tss.ist[6] = 0x900000000000;
    TRY("int $0x40", ::: "memory");
    check_trap("INT: an IST stack that is not canonical", SS, 0);
    idt[0x40] = gate;
}

void guest_main(void)
{
    apic_enable();
    trap_hook[0x40] = on_interrupt;
    trap_hook[0x41] = on_interrupt;
    test_flag();
    test_software();
    test_priority();
    test_nesting();
    test_nmi();
    test_ist();
}
