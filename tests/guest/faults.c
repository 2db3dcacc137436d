/* Exceptions of 64-bit mode: vectors, error codes, priorities, faulting addresses (SDM 3A chapter 6). */
#include "guest.h"

static uint8_t buffer[64] __attribute__((aligned(64)));

static void test_divide(void)
{
    TRY("xorl %%ecx, %%ecx; movl $1, %%eax; cltd\n772: divl %%ecx", ::: "rax", "rcx", "rdx");
    check_trap("#DE divide by zero", DE, 0);
    TRY("idivl %%ecx", ::"a"(0x80000000), "d"(0xffffffff), "c"(-1));
    check_fault("#DE quotient too large", DE, 0);
    TRY("divb %%cl", ::"a"(0x1000), "c"(1));
    check_fault("#DE 8 bits", DE, 0);
    TRY("idivq %%rcx", ::"a"(0), "d"(BIT(63)), "c"(-1ll));
    check_fault("#DE 64 bits", DE, 0);
    uint64_t rax;
    TRY("divl %%ecx", : "=a"(rax) : "a"(77), "d"(1), "c"(1));
    check_fault("#DE keeps registers", DE, 0);
    check_equal("#DE keeps RAX", 77, rax);
}

/* The undefined opcodes of 64-bit mode that no extension has taken. */
static const struct {
    const char *name;
    uint8_t code[8];
} undefined[] = {
    {"#UD UD2", {0x0f, 0x0b}},
    {"#UD PUSH ES", {0x06}},
    {"#UD POP ES", {0x07}},
    {"#UD PUSH CS", {0x0e}},
    {"#UD DAA", {0x27}},
    {"#UD DAS", {0x2f}},
    {"#UD AAA", {0x37}},
    {"#UD AAS", {0x3f}},
    {"#UD PUSHA", {0x60}},
    {"#UD POPA", {0x61}},
    {"#UD 82", {0x82, 0xc0, 0x00}},
    {"#UD far CALL", {0x9a, 0, 0, 0, 0, 8, 0}},
    {"#UD INTO", {0xce}},
    {"#UD AAM", {0xd4, 0x0a}},
    {"#UD AAD", {0xd5, 0x0a}},
    {"#UD SALC", {0xd6}},
    {"#UD far JMP", {0xea, 0, 0, 0, 0, 8, 0}},
    {"#UD MOV to CS", {0x8e, 0xc8}},
    {"#UD MOV to segment 6", {0x8e, 0xf0}},
    {"#UD LEA of a register", {0x8d, 0xc0}},
    {"#UD far JMP through a register", {0xff, 0xe8}},
    {"#UD FE /2", {0xfe, 0xd0}},
    {"#UD FF /7", {0xff, 0xf8}},
    {"#UD C6 /1", {0xc6, 0xc8, 0}},
    {"#UD LOCK on MOV", {0xf0, 0x89, 0x03}},
    {"#UD LOCK on a register", {0xf0, 0x01, 0xc0}},
    {"#UD LOCK on CMP", {0xf0, 0x39, 0x03}},
    {"#UD LOCK on TEST", {0xf0, 0xf6, 0x03, 0x01}},
    {"#UD LOCK NOP", {0xf0, 0x90}},
    {"#UD LOCK BT", {0xf0, 0x0f, 0xa3, 0x03}},
    {"#UD CMPXCHG8B of a register", {0x0f, 0xc7, 0xc8}},
    {"#UD 0F 04", {0x0f, 0x04}},
    {"#UD 0F 0A", {0x0f, 0x0a}},
    {"#UD 0F FF", {0x0f, 0xff, 0x00}},
    {"#UD MOV from CR1", {0x0f, 0x20, 0xc8}},
    {"#UD MOV to CR5", {0x0f, 0x22, 0xe8}},
    {"#UD 0F 01 C6", {0x0f, 0x01, 0xc6}},
    {"#UD VEX after operand size", {0x66, 0xc5, 0xf8, 0x77}},
    {"#UD VEX after LOCK", {0xf0, 0xc5, 0xf8, 0x77}},
    {"#UD VEX after REX", {0x48, 0xc5, 0xf8, 0x77}},
};

static void test_undefined(void)
{
    struct trap_frame start = frame_kernel();
    start.rbx = (uintptr_t)buffer;
    for (unsigned i = 0; i < ARRAY_COUNT(undefined); i++) {
        memset((void *)USER_CODE, 0xcc, 32);
        memcpy((void *)USER_CODE, undefined[i].code, sizeof(undefined[i].code));
        trap_run(&start);
        check_trap(undefined[i].name, UD, 0);
        if (trap.rip != USER_CODE) {
            check_equal(undefined[i].name, USER_CODE, trap.rip);
        }
    }
}

static void test_length(void)
{
    /* 14 prefixes and NOP are 15 bytes; one more is too long, even where the bytes would be fine. */
    struct trap_frame start = frame_kernel();
    memset((void *)USER_CODE, 0x66, 14);
    memcpy((void *)(USER_CODE + 14), (const uint8_t[]){0x90, 0xcc}, 2);
    trap_run(&start);
    check_trap("15 bytes are an instruction", BP, 0);
    check_equal("15 bytes: next RIP", USER_CODE + 16, trap.rip);
    memset((void *)USER_CODE, 0x66, 15);
    memcpy((void *)(USER_CODE + 15), (const uint8_t[]){0x90, 0xcc}, 2);
    trap_run(&start);
    check_trap("16 bytes are #GP", GP, 0);
    check_equal("16 bytes: RIP", USER_CODE, trap.rip);
    /* A page fault of the fetch comes before the length counts only if those bytes are needed. */
    uint64_t page = TEST_GVA;
    page_map(page, SCRATCH_GPA | PTE_P | PTE_W, 1);
    memset((void *)(page + PAGE - 15), 0x66, 15);
    start.rip = page + PAGE - 15;
    trap_run(&start);
    /* The 16th byte cannot matter, but a processor may fetch it first (SDM 3A 6.9 has fetch faults before decode faults). */
    check_either("15 prefixes at the end of a page", GP, PF, trap.vector);
    start.rip = page + PAGE - 14;
    trap_run(&start);
    check_trap("#PF of the 15th byte", PF, PF_I);
    check_equal("#PF of the 15th byte: CR2", page + PAGE, trap_cr2);
    check_equal("#PF of the 15th byte: RIP", page + PAGE - 14, trap.rip);
    /* An undefined opcode needs no further bytes. */
    memcpy((void *)(page + PAGE - 2), (const uint8_t[]){0x0f, 0x0b}, 2);
    start.rip = page + PAGE - 2;
    trap_run(&start);
    check_trap("#UD at the end of a page", UD, 0);
    memcpy((void *)(page + PAGE - 2), (const uint8_t[]){0x48, 0x89}, 2);
    trap_run(&start);
    check_trap("#PF of MODRM on the next page", PF, PF_I);
    check_equal("#PF of MODRM: CR2", page + PAGE, trap_cr2);
    page_map(page, 0, 1);
    start.rip = page;
    trap_run(&start);
    check_trap("#PF of a fetch", PF, PF_I);
    check_equal("#PF of a fetch: RIP", page, trap.rip);
}

static void test_canonical(void)
{
    const uint64_t bad = 0x800000000000;
    TRY("movq (%0), %%rax", ::"b"(bad) : "rax");
    check_fault("#GP of a non-canonical read", GP, 0);
    TRY("movq %%rax, (%0)", ::"b"(bad) : "rax");
    check_fault("#GP of a non-canonical write", GP, 0);
}

static void run_code(const uint8_t *code, size_t size, struct trap_frame *start)
{
    memset((void *)USER_CODE, 0xcc, 64);
    memcpy((void *)USER_CODE, code, size);
    trap_run(start);
}
#define RUN(start, ...)                                                                            \
    do {                                                                                           \
        static const uint8_t code_[] = {__VA_ARGS__};                                              \
        run_code(code_, sizeof(code_), start);                                                     \
    } while (0)

static void test_canonical_control(void)
{
    const uint64_t bad = 0x800000000000;
    struct trap_frame start = frame_kernel();
    start.rbp = bad;
    RUN(&start, 0x48, 0x8b, 0x45, 0x00);
    check_trap("#SS of RBP as base", SS, 0);
    RUN(&start, 0x48, 0x8b, 0x04, 0x2b);
    check_trap("#GP of RBP as index", GP, 0);
    RUN(&start, 0x3e, 0x48, 0x8b, 0x45, 0x00);
    check("a DS prefix on RBP still faults", trap.vector == SS || trap.vector == GP);
    start.rsp = bad;
    RUN(&start, 0x50);
    /* The push writes below: at 0x7ffffffffff8, canonical and not mapped. */
    check_trap("PUSH at the canonical border", PF, PF_W);
    start.rsp = bad + 64;
    RUN(&start, 0x50);
    check_trap("#SS of PUSH", SS, 0);
    check_equal("#SS of PUSH keeps RSP", bad + 64, trap.rsp);
    RUN(&start, 0x58);
    check_trap("#SS of POP", SS, 0);
    start = frame_kernel();
    start.rax = bad;
    RUN(&start, 0xff, 0xe0);
    check_trap("#GP of a jump", GP, 0);
    check_equal("#GP of a jump: RIP", USER_CODE, trap.rip);
    RUN(&start, 0xff, 0xd0);
    check_trap("#GP of a call", GP, 0);
    check_equal("#GP of a call: RIP", USER_CODE, trap.rip);
    check_equal("#GP of a call: RSP", USER_STACK, trap.rsp);
    RUN(&start, 0x50, 0xc3);
    check_trap("#GP of a return", GP, 0);
    check_equal("#GP of a return: RIP", USER_CODE + 1, trap.rip);
    check_equal("#GP of a return: RSP", USER_STACK - 8, trap.rsp);
    start.rax = 0x7ffffffffffe;
    RUN(&start, 0x48, 0x8b, 0x00);
    check_trap("#GP of an access across the canonical border", GP, 0);
}

#define SEL(n) (TEST_SELECTOR + 8 * (n))

static void test_selectors(void)
{
    gdt[SEL(0) / 8] = DESCRIPTOR(0, 0xfffff, 0x13, 0xc); /* data, absent */
    gdt[SEL(1) / 8] = DESCRIPTOR(0, 0xfffff, 0x99, 0xa); /* code, execute only, 64 bits */
    gdt[SEL(2) / 8] = DESCRIPTOR(0, 0xfffff, 0x91, 0xc); /* data, read only */
    gdt[SEL(3) / 8] = DESCRIPTOR(0, 0xfffff, 0x1b, 0xa); /* code, absent */
    gdt[SEL(4) / 8] = DESCRIPTOR(0, 0xfffff, 0x9b, 0xe); /* code with L and D */
    gdt[SEL(5) / 8] = DESCRIPTOR(0, 0xfffff, 0xf3, 0xc); /* data, DPL 3 */
    gdt[SEL(6) / 8] = DESCRIPTOR(0, 0xfffff, 0x90, 0xc); /* data, not accessed */
    static const struct {
        const char *name;
        uint16_t selector;
        unsigned vector;
        uint64_t error;
        bool is_ss;
    } loads[] = {
        {"DS: absent", SEL(0), NP, SEL(0), false},
        {"SS: absent", SEL(0), SS, SEL(0), true},
        {"DS: execute only", SEL(1), GP, SEL(1), false},
        {"SS: code", SEL(1), GP, SEL(1), true},
        {"SS: read only", SEL(2), GP, SEL(2), true},
        {"DS: read only", SEL(2), NO_TRAP, 0, false},
        {"DS: beyond the table", GDT_SIZE + 8, GP, GDT_SIZE + 8, false},
        {"DS: local without a table", 0x54, GP, 0x54, false},
        {"SS: RPL 3", KERNEL_DS | 3, GP, KERNEL_DS, true},
        {"SS: DPL 3", SEL(5), GP, SEL(5), true},
        {"DS: RPL 3 of DPL 0", KERNEL_DS | 3, GP, KERNEL_DS, false},
        {"DS: RPL 0 of DPL 3", SEL(5), NO_TRAP, 0, false},
        {"DS: null", 0, NO_TRAP, 0, false},
        {"DS: null with RPL", 3, NO_TRAP, 0, false},
        {"SS: null", 0, NO_TRAP, 0, true},
        {"SS: null with RPL 3", 3, GP, 0, true},
        {"DS: a TSS", TSS_SELECTOR, GP, TSS_SELECTOR, false},
        {"DS: last", KERNEL_DS, NO_TRAP, 0, false},
    };
    bool checks_all = true;
    for (unsigned i = 0; i < ARRAY_COUNT(loads); i++) {
        if (loads[i].is_ss) {
            TRY("movl %0, %%ss", ::"r"((uint32_t)loads[i].selector));
        } else {
            TRY("movl %0, %%ds", ::"r"((uint32_t)loads[i].selector));
        }
        checks_all &= check_trap(loads[i].name, loads[i].vector, loads[i].error);
    }
    asm volatile("movl %0, %%ss" ::"r"(KERNEL_DS));
    asm volatile("movl %0, %%es" ::"r"(SEL(6)));
    check_equal("loading sets the accessed bit", 0x91, (gdt[SEL(6) / 8] >> 40) & 0xff);
    asm volatile("movl %0, %%es" ::"r"(KERNEL_DS));

    static const struct {
        const char *name;
        uint16_t selector;
        unsigned vector;
        uint64_t error;
    } returns[] = {
        {"far RET to null", 0, GP, 0},
        {"far RET to data", KERNEL_DS, GP, KERNEL_DS},
        {"far RET to absent code", SEL(3), NP, SEL(3)},
        {"far RET to code with L and D", SEL(4), GP, SEL(4)},
        {"far RET beyond the table", GDT_SIZE + 16, GP, GDT_SIZE + 16},
        {"far RET to code", KERNEL_CS, NO_TRAP, 0},
    };
    for (unsigned i = 0; i < ARRAY_COUNT(returns); i++) {
        if (returns[i].selector == SEL(4) && !checks_all) {
            check_skipped(returns[i].name, "a processor that does not check would hang in there");
            continue;
        }
        TRY("pushq %0; pushq $772f; lretq; 772:", ::"r"((uint64_t)returns[i].selector));
        check_trap(returns[i].name, returns[i].vector, returns[i].error);
    }
    TRY("ltr %w0", ::"r"(TSS_SELECTOR));
    check_fault("LTR: busy", GP, TSS_SELECTOR);
    TRY("ltr %w0", ::"r"(0));
    if (!check_fault("LTR: null", GP, 0)) {
        gdt[TSS_SELECTOR / 8] &= ~BIT(41);
        asm volatile("ltr %w0" ::"r"(TSS_SELECTOR));
    }
    TRY("ltr %w0", ::"r"(KERNEL_DS));
    check_fault("LTR: data", GP, KERNEL_DS);
    TRY("lldt %w0", ::"r"(KERNEL_DS));
    check_fault("LLDT: data", GP, KERNEL_DS);
    TRY("lldt %w0", ::"r"(0));
    check_trap("LLDT: null", NO_TRAP, 0);
    uint32_t rights = 0, limit = 0;
    bool is_valid;
    asm volatile("larl %3, %0; setz %2; lsll %3, %1"
                 : "=&r"(rights), "=&r"(limit), "=&q"(is_valid)
                 : "r"(KERNEL_CS));
    /* The place of the limit is undefined. */
    check_equal("LAR", 0xa09b00, is_valid ? rights & 0xf0ff00 : 0);
    check_equal("LSL", 0xffffffff, limit);
    asm volatile("larl %2, %0; setz %1" : "=&r"(rights), "=q"(is_valid) : "r"(0));
    check_equal("LAR of null", 0, is_valid);
}

static void test_gates(void)
{
    struct gate pf = idt[PF], de = idt[DE], ud = idt[UD];
    idt[0x90].low &= ~BIT(47);
    TRY("int $0x90", ::: "memory");
    check_fault("INT through an absent gate", NP, 0x90 * 8 + 2);
    idt[0x91].low &= ~(0x1full << 40);
    TRY("int $0x91", ::: "memory");
    check_fault("INT through no gate", GP, 0x91 * 8 + 2);
    idt[0x92] = gate_make(0, KERNEL_DS, 0, 0x8e);
    TRY("int $0x92", ::: "memory");
    check_fault("INT to data", GP, KERNEL_DS);
    idt[0x93] = gate_make(0x800000000000, KERNEL_CS, 0, 0x8e);
    TRY("int $0x93", ::: "memory");
    check_fault("INT to a non-canonical handler", GP, 0);
    idt[0x94] = gate_make(0, KERNEL_CS32, 0, 0x8e);
    TRY("int $0x94", ::: "memory");
    check_fault("INT to 32-bit code", GP, KERNEL_CS32);
    idt[0x95] = gate_make(0, 0, 0, 0x8e);
    TRY("int $0x95", ::: "memory");
    check_fault("INT to null", GP, 0);
    struct table_pointer small = {.limit = 0xa0 * 16 - 1, .base = idt_pointer.base};
    asm volatile("lidt %0" ::"m"(small));
    TRY("int $0xa0", ::: "memory");
    check_fault("INT beyond the table", GP, 0xa0 * 8 + 2);
    asm volatile("lidt %0" ::"m"(idt_pointer));

    idt[UD].low &= ~BIT(47);
    TRY("ud2", ::: "memory");
    check_fault("#UD through an absent gate", NP, UD * 8 + 3);
    idt[PF].low &= ~BIT(47);
    TRY("movq (%0), %%rax", ::"r"(TEST_GVA + PAGE) : "rax");
    check_trap("#PF through an absent gate: #DF", DF, 0);
    idt[DE].low &= ~BIT(47);
    TRY("divl %%ecx", ::"a"(0), "d"(0), "c"(0));
    check_trap("#DE through an absent gate: #DF", DF, 0);
    idt[PF] = pf;
    /* A page fault on the way to a contributory exception's handler is served for itself. */
    idt[DE] = gate_make(TEST_GVA + PAGE, KERNEL_CS, 0, 0x8e);
    TRY("divl %%ecx", ::"a"(0), "d"(0), "c"(0));
    check_trap("#PF of the first instruction of a handler", PF, PF_I);
    check_equal("#PF of the first instruction of a handler: RIP", TEST_GVA + PAGE, trap.rip);
    idt[DE] = de;
    idt[UD] = ud;
    /* The stack of the interrupt is not there. */
    uint64_t rsp0 = tss.rsp[0];
    struct trap_frame user = frame_user();
    tss.rsp[0] = TEST_GVA + 2 * PAGE;
    RUN(&user, 0xcd, 0x80);
    check_trap("INT from user mode: the stack is not mapped", PF, PF_W);
    check_equal("INT from user mode: CPL of the fault", USER_CS, trap.cs);
    tss.rsp[0] = 0x800000000000 + 64;
    RUN(&user, 0xcd, 0x80);
    check_trap("INT from user mode: the stack is not canonical", SS, 0);
    tss.rsp[0] = rsp0;
    RUN(&user, 0xcd, 0x90 + 6);
    check_trap("INT from user mode: DPL 0", GP, 0x96 * 8 + 2);
    RUN(&user, 0xcc);
    check_trap("INT3 from user mode", BP, 0);
    check_equal("INT3: RIP behind it", USER_CODE + 1, trap.rip);
    check_equal("INT3: SS", USER_DS, trap.ss);
}

static void test_compat(void)
{
    struct trap_frame start = frame_compat(true);
    start.rflags |= BIT(11);
    RUN(&start, 0x90, 0xce);
    check_trap("INTO from compatibility mode", OF, 0);
    check_equal("INTO: RIP behind it", USER_CODE + 2, trap.rip);
    check_equal("INTO: CS", USER_CS32, trap.cs);
    start.rflags = 2;
    RUN(&start, 0xce, 0xcd, 0x80);
    check_trap("INTO without overflow", CALL_VECTOR, 0);
    RUN(&start, 0xcd, 0x04);
    check_trap("INT 4", OF, 0);
    memcpy((void *)USER_DATA, (const int32_t[]){-5, 10}, 8);
    start.rbx = USER_DATA;
    RUN(&start, 0x8b, 0x03, 0xcd, 0x80);
    check_trap("#GP of a null DS (IRET has cleared that of CPL 0)", GP, 0);
    asm volatile("movl %0, %%ds" ::"r"(USER_DS));
    start.rbx = USER_DATA;
    start.rax = 10;
    RUN(&start, 0x62, 0x03, 0xcd, 0x80);
    check_trap("BOUND within", CALL_VECTOR, 0);
    start.rax = (uint32_t)-6;
    RUN(&start, 0x62, 0x03, 0xcd, 0x80);
    check_trap("#BR of BOUND", BR, 0);
    check_equal("#BR: RIP of BOUND", USER_CODE, trap.rip);
    start.rax = 0x1234;
    RUN(&start, 0xd4, 0x00);
    check_trap("#DE of AAM 0", DE, 0);
    RUN(&start, 0x0e, 0x06, 0x1e, 0xcd, 0x80);
    check_trap("PUSH of segments", CALL_VECTOR, 0);
    check_equal("PUSH of segments: CS", USER_CS32, read32(USER_STACK - 4) & 0xffff);
    check_equal("PUSH of segments: ESP", USER_STACK - 12, trap.rsp);
    RUN(&start, 0x48, 0x40, 0xcd, 0x80); /* DEC and INC, not REX */
    check_equal("48 is DEC outside of 64-bit code", 0x1234, trap.rax);
}

static void test_alignment(void)
{
    WRITE_CR(0, READ_CR(0) | BIT(18));
    struct trap_frame start = frame_user();
    start.rflags |= BIT(18);
    start.rbx = USER_DATA + 1;
    RUN(&start, 0x8b, 0x03);
    check_trap("#AC of a misaligned read", AC, 0);
    check_equal("#AC: RIP", USER_CODE, trap.rip);
    RUN(&start, 0x66, 0x89, 0x03);
    check_trap("#AC of a misaligned write", AC, 0);
    RUN(&start, 0x8a, 0x03, 0xcd, 0x80);
    check_trap("no #AC for bytes", CALL_VECTOR, 0);
    start.rbx = USER_DATA + 4;
    RUN(&start, 0x8b, 0x03, 0xcd, 0x80);
    check_trap("no #AC for an aligned word", CALL_VECTOR, 0);
    RUN(&start, 0x48, 0x8b, 0x03, 0xcd, 0x80);
    check_trap("#AC of 8 bytes at 4", AC, 0);
    start.rflags = 2;
    RUN(&start, 0x48, 0x8b, 0x03, 0xcd, 0x80);
    check_trap("no #AC without EFLAGS.AC", CALL_VECTOR, 0);
    struct trap_frame kernel = frame_kernel();
    kernel.rflags |= BIT(18);
    kernel.rbx = USER_DATA + 1;
    RUN(&kernel, 0x48, 0x8b, 0x03, 0xcd, 0x80);
    check_trap("no #AC at CPL 0", CALL_VECTOR, 0);
    WRITE_CR(0, READ_CR(0) & ~BIT(18));
    start.rflags |= BIT(18);
    start.rbx = USER_DATA + 1;
    RUN(&start, 0x8b, 0x03, 0xcd, 0x80);
    check_trap("no #AC without CR0.AM", CALL_VECTOR, 0);
}

static void test_crossing(void)
{
    uint64_t first = TEST_GVA + 16 * PAGE, second = first + PAGE, frame = page_alloc();
    page_map(first, frame | PTE_P | PTE_W, 1);
    page_map(second, 0, 1);
    write64(second - 8, 0x1122334455667788);
    TRY("movq %1, (%0)", ::"r"(second - 4), "r"(-1ull) : "memory");
    check_fault("a write across pages: the second is absent", PF, PF_W);
    check_equal("a write across pages: CR2", second, trap_cr2);
    check_equal("a write across pages: nothing written", 0x1122334455667788, read64(second - 8));
    TRY("addq %1, (%0)", ::"r"(second - 4), "r"(1ull) : "memory");
    check_trap("an addition across pages", PF, PF_W);
    TRY("movq (%0), %%rax", ::"r"(second - 1) : "rax");
    check_fault("a read across pages", PF, 0);
    check_equal("a read across pages: CR2", second, trap_cr2);
    page_map(second, (frame + PAGE) | PTE_P, 1);
    TRY("movq %1, (%0)", ::"r"(second - 4), "r"(-1ull) : "memory");
    check_fault("a write across pages: the second is read-only", PF, PF_W | PF_P);
    check_equal("a write across pages: still nothing written", 0x1122334455667788,
                read64(second - 8));
    page_map(first, 0, 1);
    TRY("movq (%0), %%rax", ::"r"(second - 4) : "rax");
    check_equal("the first page is absent: CR2", second - 4, trap_cr2);
    struct trap_frame start = frame_kernel();
    start.rsp = first + PAGE - 8;
    RUN(&start, 0x50);
    check_trap("#PF of PUSH", PF, PF_W);
    check_equal("#PF of PUSH keeps RSP", first + PAGE - 8, trap.rsp);
    RUN(&start, 0xe8, 0, 0, 0, 0);
    check_equal("#PF of CALL keeps RSP", first + PAGE - 8, trap.rsp);
    check_equal("#PF of CALL keeps RIP", USER_CODE, trap.rip);
    start.rsp = USER_STACK;
    start.rbx = first;
    RUN(&start, 0x8f, 0x03);
    check_trap("#PF of POP to memory", PF, PF_W);
    check_equal("#PF of POP to memory keeps RSP", USER_STACK, trap.rsp);
    start.rax = 5;
    RUN(&start, 0x48, 0x87, 0x03);
    check_equal("#PF of XCHG keeps RAX", 5, trap.rax);
}

static void test_priorities(void)
{
    struct trap_frame user = frame_user();
    user.rbx = TEST_GVA + 32 * PAGE;
    RUN(&user, 0x0f, 0x01, 0x13);
    check_trap("LGDT: #GP of the CPL before #PF", GP, 0);
    RUN(&user, 0xf4);
    check_trap("HLT at CPL 3", GP, 0);
    RUN(&user, 0x0f, 0x20, 0xc0);
    check_trap("MOV from CR0 at CPL 3", GP, 0);
    RUN(&user, 0xfa);
    check_trap("CLI at CPL 3", GP, 0);
    RUN(&user, 0xee);
    check_trap("OUT at CPL 3", GP, 0);
    RUN(&user, 0x0f, 0x30);
    check_trap("WRMSR at CPL 3", GP, 0);
    RUN(&user, 0x0f, 0x0b);
    check_trap("UD2 at CPL 3", UD, 0);
    struct trap_frame kernel = frame_kernel();
    kernel.rbx = TEST_GVA + 32 * PAGE;
    RUN(&kernel, 0xf0, 0x89, 0x03);
    check_trap("#UD of LOCK before #PF", UD, 0);
    WRITE_CR(0, READ_CR(0) | BIT(3));
    RUN(&kernel, 0xdd, 0x03);
    check_trap("#NM before #PF", NM, 0);
    WRITE_CR(0, READ_CR(0) & ~BIT(3));
    /* A port that the map allows. */
    tss.io_map[0x80 / 8] &= 0xfe;
    user.rdx = 0x80;
    RUN(&user, 0xee, 0xcd, 0x80);
    check_trap("OUT at CPL 3, allowed by the map", CALL_VECTOR, 0);
    RUN(&user, 0x66, 0xef, 0xcd, 0x80);
    check_trap("OUT of two ports, one allowed", GP, 0);
    tss.io_map[0x80 / 8] = 0xff;
}

/* Several accesses by one base: the fault is that of the first which is not allowed, and nothing behind it has happened. */
SNIPPET(reads_then_writes, ".code64",
        "movl 0x10(%rbx), %eax; incl %ecx; movl %ecx, 0x20(%rbx); incl %ecx; movl %ecx, (%rbx)");
SNIPPET(writes_then_reads, ".code64",
        "movl %ecx, 0x20(%rbx); incl %ecx; movl 0x10(%rbx), %eax; incl %ecx");
SNIPPET(pushes, ".code64", "pushq %rcx; incl %ecx; pushq %rcx; popq %rcx");
SNIPPET(changes, ".code64", "incl %ecx; addl %ecx, 8(%rbx); movl 8(%rbx), %eax");

static void run_group(const char *name, struct trap_frame start, uint64_t error, uint64_t rip,
                      uint64_t cr2, uint64_t rcx)
{
    uint64_t rsp = start.rsp;
    for (int i = 0; i < 3; i++) {
        trap_run(&start);
        check_trap(name, PF, error);
        check_equal("RIP of it", USER_CODE + rip, trap.rip);
        check_equal("CR2 of it", cr2, trap_cr2);
        check_equal("RCX of it", rcx, trap.rcx);
        check_equal("RSP of it", rsp, trap.rsp);
    }
}

static void test_groups(void)
{
    uint64_t gva = TEST_GVA + 40 * PAGE, page = page_alloc();
    for (int k = 0; k < 2; k++) {
        struct trap_frame start = k ? frame_user() : frame_kernel();
        uint64_t user = k ? PF_U : 0;
        start.rbx = gva + 0x100;
        page_map(gva, 0, 1);
        LOAD_SNIPPET(reads_then_writes, USER_CODE);
        run_group("a group of accesses, to nothing", start, user, 0, gva + 0x110, 0);
        page_map(gva, page | PTE_P | PTE_U, 1);
        run_group("a group that writes to a page to read", start, user | PF_W | PF_P, 5,
                  gva + 0x120, 1);
        LOAD_SNIPPET(writes_then_reads, USER_CODE);
        run_group("a group that begins with writing", start, user | PF_W | PF_P, 0, gva + 0x120, 0);
        LOAD_SNIPPET(changes, USER_CODE);
        run_group("a change in a page to read", start, user | PF_W | PF_P, 2, gva + 0x108, 1);
        page_map(gva, 0, 1);
        run_group("a change to nothing", start, user | PF_W, 2, gva + 0x108, 1);
        if (k) {
            LOAD_SNIPPET(pushes, USER_CODE);
            start.rsp = gva + 0x200;
            run_group("pushes to nothing", start, user | PF_W, 0, gva + 0x1f8, 0);
            page_map(gva + PAGE, page | PTE_P | PTE_U | PTE_W, 1);
            start.rsp = gva + PAGE + 8;
            trap_run(&start);
            check_trap("pushes, the second to nothing", PF, user | PF_W);
            check_equal("pushes, the second to nothing: RSP", gva + PAGE, trap.rsp);
            check_equal("pushes, the second to nothing: CR2", gva + PAGE - 8, trap_cr2);
            check_equal("pushes, the second to nothing: RIP", USER_CODE + 3, trap.rip);
        }
    }
    page_map(gva, 0, 1);
}

void guest_main(void)
{
    test_divide();
    test_undefined();
    test_length();
    test_canonical();
    test_canonical_control();
    test_selectors();
    test_gates();
    test_compat();
    test_alignment();
    test_crossing();
    test_priorities();
    test_groups();
}
