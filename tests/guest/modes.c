/* Ways between modes and privilege levels: gates, far transfers, IRET, SYSCALL, SYSENTER, segment limits, tasks,
 * virtual-8086 and real mode. */
#include "guest.h"

#define MSR_SYSENTER_CS  0x174
#define MSR_SYSENTER_ESP 0x175
#define MSR_SYSENTER_EIP 0x176
#define MSR_EFER         0xc0000080
#define MSR_STAR         0xc0000081
#define MSR_LSTAR        0xc0000082
#define MSR_CSTAR        0xc0000083
#define MSR_SFMASK       0xc0000084

#define FLAG_NT  BIT(14)
#define FLAG_VM  BIT(17)
#define IOPL_3   (3u << 12)
#define TARGET   (USER_CODE + 0x100)
#define REAL_GPA 0x8000u /* code for 16 bits, at the same offset in segment 0 */
#define SEL(n)   (TEST_SELECTOR + 8 * (n))

SNIPPET(end_here, ".code64", "int $0x80");
SNIPPET(far_return, ".code64", "lretq");
SNIPPET(far_call_memory, ".code64", "lcall *(%rbx); int $0x80");
SNIPPET(far_jump_memory, ".code64", "ljmp *(%rbx); int $0x80");

static void set_call_gate(unsigned selector, uint64_t offset, uint16_t cs, uint8_t type)
{
    gdt[selector / 8] = (offset & 0xffff) | (uint64_t)cs << 16 | (uint64_t)type << 40 |
                        ((offset >> 16) & 0xffff) << 48;
    gdt[selector / 8 + 1] = offset >> 32;
}

static void set_pointer(uint64_t gva, uint32_t offset, uint16_t selector)
{
    write32(gva, offset);
    *(volatile uint16_t *)(uintptr_t)(gva + 4) = selector;
}

static void test_call_gates(void)
{
    struct trap_frame user = frame_user(), kernel = frame_kernel();
    user.rbx = kernel.rbx = USER_DATA;
    set_pointer(USER_DATA, 0x12345678, SEL(0) | 3);
    LOAD_SNIPPET(far_call_memory, USER_CODE);
    LOAD_SNIPPET(end_here, TARGET);
    set_call_gate(SEL(0), TARGET, KERNEL_CS, 0xec);
    trap_run(&user);
    check_trap("call gate to CPL 0", CALL_VECTOR, 0);
    check_equal("call gate: CS", KERNEL_CS, trap.cs);
    check_equal("call gate: SS is null", 0, trap.ss);
    check_equal("call gate: RIP", TARGET + 2, trap.rip);
    check_equal("call gate: RSP", tss.rsp[0] - 32, trap.rsp);
    check_equal("call gate: pushed RIP", USER_CODE + 2, read64(tss.rsp[0] - 32));
    check_equal("call gate: pushed CS", USER_CS, read64(tss.rsp[0] - 24));
    check_equal("call gate: pushed RSP", USER_STACK, read64(tss.rsp[0] - 16));
    check_equal("call gate: pushed SS", USER_DS, read64(tss.rsp[0] - 8));
    LOAD_SNIPPET(far_return, TARGET);
    trap_run(&user);
    check_trap("far RET from CPL 0", CALL_VECTOR, 0);
    check_equal("far RET: CS", USER_CS, trap.cs);
    check_equal("far RET: SS", USER_DS, trap.ss);
    check_equal("far RET: RSP", USER_STACK, trap.rsp);
    trap_run(&kernel);
    check_equal("call gate at the same level and back", (uint64_t)CALL_VECTOR << 32 | USER_STACK,
                trap.vector << 32 | trap.rsp);
    set_call_gate(SEL(0), TARGET, KERNEL_CS, 0x8c);
    trap_run(&user);
    check_trap("call gate: DPL 0 from CPL 3", GP, SEL(0));
    set_call_gate(SEL(0), TARGET, KERNEL_CS, 0x6c);
    trap_run(&user);
    check_trap("call gate: absent", NP, SEL(0));
    set_call_gate(SEL(0), TARGET, KERNEL_CS32, 0xec);
    trap_run(&user);
    check_trap("call gate to 32-bit code", GP, KERNEL_CS32);
    set_call_gate(SEL(0), TARGET, KERNEL_DS, 0xec);
    trap_run(&user);
    check_trap("call gate to data", GP, KERNEL_DS);
    set_call_gate(SEL(0), 0x800000000000, KERNEL_CS, 0xec);
    trap_run(&user);
    check_trap("call gate to a non-canonical address", GP, 0);
    set_call_gate(SEL(0), TARGET, KERNEL_CS, 0xec);
    LOAD_SNIPPET(far_jump_memory, USER_CODE);
    trap_run(&user);
    check_trap("far JMP through a gate to CPL 0", GP, KERNEL_CS);
    set_pointer(USER_DATA, TARGET, KERNEL_CS);
    trap_run(&user);
    check_trap("far JMP to code of CPL 0", GP, KERNEL_CS);
    set_pointer(USER_DATA, TARGET, 0);
    trap_run(&user);
    check_trap("far JMP to null", GP, 0);
    set_pointer(USER_DATA, TARGET, TSS_SELECTOR);
    trap_run(&kernel);
    check_trap("far JMP to a TSS in long mode", GP, TSS_SELECTOR);
    LOAD_SNIPPET(end_here, TARGET);
    set_pointer(USER_DATA, TARGET, USER_CS);
    trap_run(&user);
    check_equal("far JMP to code of CPL 3", TARGET + 2, trap.rip);
    gdt[SEL(2) / 8] = DESCRIPTOR(0, 0xfffff, 0x9f, 0xa); /* conforming, DPL 0 */
    set_pointer(USER_DATA, TARGET, SEL(2));
    trap_run(&user);
    check_equal("far JMP to conforming code keeps the CPL", SEL(2) | 3, trap.cs);
}

static void test_iret(void)
{
    TRY("pushfq; orl $0x4000, (%%rsp); popfq; iretq", ::: "memory");
    check_trap("IRET with NT in long mode", GP, 0);
    struct trap_frame start = frame_user();
    start.rip = 0x800000000000;
    trap_run(&start);
    check_trap("IRET to a non-canonical address", GP, 0);
    start = frame_user();
    start.ss = KERNEL_DS | 3;
    trap_run(&start);
    check_trap("IRET: SS of DPL 0", GP, KERNEL_DS);
    start.ss = 0;
    trap_run(&start);
    check_trap("IRET: null SS for CPL 3", GP, 0);
    start = frame_user();
    start.cs = USER_DS;
    trap_run(&start);
    check_trap("IRET: CS of data", GP, USER_DS & ~3u);
    start.cs = KERNEL_CS | 3;
    trap_run(&start);
    check_trap("IRET: CS of DPL 0 with RPL 3", GP, KERNEL_CS);
    start.cs = 0;
    trap_run(&start);
    check_trap("IRET: null CS", GP, 0);
    start = frame_kernel();
    start.ss = 0;
    LOAD_SNIPPET(end_here, USER_CODE);
    trap_run(&start);
    check_trap("IRET: null SS for CPL 0", CALL_VECTOR, 0);
    check_equal("IRET at the same level takes RSP", USER_STACK, trap.rsp);
}

/* --- far transfers of compatibility mode --- */

SNIPPET(compat_call, ".code32", "lcall $0x08, $0x2000100; int $0x80");
SNIPPET(compat_target, ".code64", "movabsq $0x1122334455667788, %r8; movl $1, %eax; lretl");
SNIPPET(compat_stack, ".code32", "pushl $1; pushw $2; movl %esp, %eax; int $0x80");
SNIPPET(compat_wrap, ".code32",
        "movl $0xffffffff, %eax; incl %eax; leal 0x10(%ebx), %ecx; int $0x80");

static void test_compat(void)
{
    struct trap_frame start = frame_compat(false);
    LOAD_SNIPPET(compat_call, USER_CODE);
    LOAD_SNIPPET(compat_target, TARGET);
    trap_run(&start);
    check_trap("far CALL from compatibility to 64-bit code and back", CALL_VECTOR, 0);
    check_equal("R8 of 64-bit code is kept", 0x1122334455667788, trap.r8);
    check_equal("back in compatibility mode", KERNEL_CS32, trap.cs);
    check_equal("its stack", USER_STACK, trap.rsp);
    LOAD_SNIPPET(compat_stack, USER_CODE);
    start = frame_compat(true);
    trap_run(&start);
    check_equal("PUSH of 4 and 2 bytes", USER_STACK - 6, trap.rax);
    LOAD_SNIPPET(compat_wrap, USER_CODE);
    start.rbx = 0xfffffff8;
    trap_run(&start);
    check_equal("32-bit results", 8ull << 32, trap.rcx << 32 | trap.rax);
}

/* --- SYSCALL and SYSENTER --- */

SNIPPET(syscall_code, ".code64", "syscall; int $0x80");
SNIPPET(sysret_code, ".code64", "sysretq");
SNIPPET(sysret_32_code, ".code64", "sysretl");
SNIPPET(sysenter_code, ".code64", "sysenter");
SNIPPET(sysexit_code, ".code64", "sysexitq");

static void test_syscall(void)
{
    wrmsr(MSR_STAR, (uint64_t)(USER_CS32 & ~3u) << 48 | (uint64_t)KERNEL_CS << 32);
    wrmsr(MSR_LSTAR, TARGET);
    wrmsr(MSR_SFMASK, BIT(9) | BIT(10) | BIT(0));
    struct trap_frame user = frame_user();
    user.rflags = 2 | BIT(10) | BIT(0) | BIT(6);
    LOAD_SNIPPET(syscall_code, USER_CODE);
    LOAD_SNIPPET(end_here, TARGET);
    trap_run(&user);
    check_trap("SYSCALL", CALL_VECTOR, 0);
    check_equal("SYSCALL: RIP", TARGET + 2, trap.rip);
    check_equal("SYSCALL: CS", KERNEL_CS, trap.cs);
    check_equal("SYSCALL: SS", KERNEL_DS, trap.ss);
    check_equal("SYSCALL: RSP is not changed", USER_STACK, trap.rsp);
    check_equal("SYSCALL: RCX", USER_CODE + 2, trap.rcx);
    check_equal("SYSCALL: R11", user.rflags, trap.r11 & ~BIT(16));
    check_equal("SYSCALL: masked flags", 2 | BIT(6), trap.rflags & 0xffff);
    LOAD_SNIPPET(sysret_code, TARGET);
    trap_run(&user);
    check_trap("SYSRET", CALL_VECTOR, 0);
    check_equal("SYSRET: RIP", USER_CODE + 4, trap.rip);
    check_equal("SYSRET: CS", USER_CS, trap.cs);
    check_equal("SYSRET: SS", USER_DS, trap.ss);
    check_equal("SYSRET: flags", user.rflags, trap.rflags & 0xffff);
    LOAD_SNIPPET(sysret_32_code, TARGET);
    trap_run(&user);
    check_trap("SYSRET to compatibility mode", CALL_VECTOR, 0);
    check_equal("SYSRET to compatibility mode: CS", USER_CS32, trap.cs);
    LOAD_SNIPPET(sysret_code, USER_CODE);
    trap_run(&user);
    check_trap("SYSRET at CPL 3", GP, 0);
    struct trap_frame kernel = frame_kernel();
    kernel.rcx = 0x800000000000;
    kernel.r11 = 2;
    trap_run(&kernel);
    /* Intel's processors fault in SYSRET, AMD's behind it. */
    check_trap("SYSRET to a non-canonical address", GP, 0);
    wrmsr(MSR_EFER, rdmsr(MSR_EFER) & ~1ull);
    LOAD_SNIPPET(syscall_code, USER_CODE);
    trap_run(&user);
    check_trap("SYSCALL without EFER.SCE", UD, 0);
    wrmsr(MSR_EFER, rdmsr(MSR_EFER) | 1);
    /* From compatibility mode: CSTAR on AMD's processors, #UD on Intel's. */
    wrmsr(MSR_CSTAR, TARGET);
    LOAD_SNIPPET(end_here, TARGET);
    struct trap_frame compat = frame_compat(true);
    trap_run(&compat);
    check_either("SYSCALL from compatibility mode", (uint64_t)CALL_VECTOR << 32 | (TARGET + 2),
                 (uint64_t)UD << 32 | USER_CODE, trap.vector << 32 | trap.rip);
}

static void test_sysenter(void)
{
    wrmsr(MSR_SYSENTER_CS, KERNEL_CS);
    wrmsr(MSR_SYSENTER_ESP, USER_STACK - 0x1000);
    wrmsr(MSR_SYSENTER_EIP, TARGET);
    LOAD_SNIPPET(sysenter_code, USER_CODE);
    LOAD_SNIPPET(end_here, TARGET);
    struct trap_frame user = frame_user();
    trap_run(&user);
    if (trap.vector == UD) {
        check_equal("no SYSENTER in long mode (AMD)", USER_CODE, trap.rip);
    } else {
        check_trap("SYSENTER", CALL_VECTOR, 0);
        check_equal("SYSENTER: CS", KERNEL_CS, trap.cs);
        check_equal("SYSENTER: RIP", TARGET + 2, trap.rip);
        check_equal("SYSENTER: RSP", USER_STACK - 0x1000, trap.rsp);
        LOAD_SNIPPET(sysexit_code, USER_CODE);
        struct trap_frame kernel = frame_kernel();
        kernel.rdx = TARGET;
        kernel.rcx = USER_STACK - 0x2000;
        trap_run(&kernel);
        check_trap("SYSEXIT", CALL_VECTOR, 0);
        check_equal("SYSEXIT: CS", KERNEL_CS + 35, trap.cs);
        check_equal("SYSEXIT: RSP", USER_STACK - 0x2000, trap.rsp);
        trap_run(&user);
        check_trap("SYSEXIT at CPL 3", GP, 0);
        wrmsr(MSR_SYSENTER_CS, 0);
        LOAD_SNIPPET(sysenter_code, USER_CODE);
        trap_run(&user);
        check_trap("SYSENTER with a null CS", GP, 0);
        wrmsr(MSR_SYSENTER_CS, KERNEL_CS);
    }
}

/* --- protected mode without long mode --- */

static const struct legacy_mode plain = LEGACY_PLAIN;

SNIPPET(sysenter_32, ".code32", "sysenter");
SNIPPET(sysexit_32, ".code32", "sysexit");
SNIPPET(end_32, ".code32", "int $0x80");

static void test_legacy_sysenter(void)
{
    struct legacy_start start = {
        .eip = USER_CODE, .cs = USER_CS32, .eflags = 2, .esp = USER_STACK, .ss = USER_DS};
    LOAD_SNIPPET(sysenter_32, USER_CODE);
    LOAD_SNIPPET(end_32, TARGET);
    legacy_run(&plain, &start);
    check_trap("protected mode: SYSENTER", CALL_VECTOR, 0);
    check_equal("protected mode: SYSENTER: CS", KERNEL_CS, trap.cs);
    check_equal("protected mode: SYSENTER: EIP", TARGET + 2, trap.rip);
    struct legacy_start kernel = {
        .eip = USER_CODE, .cs = KERNEL_CS32, .eflags = 2, .edx = TARGET, .ecx = USER_STACK - 0x100};
    LOAD_SNIPPET(sysexit_32, USER_CODE);
    legacy_run(&plain, &kernel);
    check_trap("protected mode: SYSEXIT", CALL_VECTOR, 0);
    check_equal("protected mode: SYSEXIT: CS", KERNEL_CS + 19, trap.cs);
    check_equal("protected mode: SYSEXIT: ESP", USER_STACK - 0x100, trap.rsp);
}

/* FS has the selector in EAX; EBX is the offset. */
SNIPPET(segment_read, ".code32", "movl %eax, %fs; movl %fs:(%ebx), %ecx; int $0x80");
SNIPPET(segment_write, ".code32", "movl %eax, %fs; movl %ecx, %fs:(%ebx); int $0x80");
SNIPPET(segment_code, ".code32", "movl %cs:(%ebx), %ecx; movl %ecx, %cs:(%ebx); int $0x80");
SNIPPET(segment_stack, ".code32", "movl %ss:(%ebx), %ecx; int $0x80");

static bool segment_case(const char *name, char kind, uint32_t selector, uint32_t offset,
                         unsigned vector)
{
    struct legacy_start start = {
        .eip = USER_CODE, .cs = KERNEL_CS32, .eflags = 2, .eax = selector, .ebx = offset};
    if (kind == 'r') {
        LOAD_SNIPPET(segment_read, USER_CODE);
    } else if (kind == 'w') {
        LOAD_SNIPPET(segment_write, USER_CODE);
    } else {
        LOAD_SNIPPET(segment_code, USER_CODE);
    }
    legacy_run(&plain, &start);
    return check_trap(name, vector, 0);
}

static void test_segments(void)
{
    gdt[SEL(0) / 8] = DESCRIPTOR(SCRATCH_GPA, 0xfff, 0x93, 4);
    gdt[SEL(1) / 8] = DESCRIPTOR(SCRATCH_GPA, 0xfff, 0x97, 4); /* downwards, 32 bits */
    gdt[SEL(2) / 8] = DESCRIPTOR(SCRATCH_GPA, 0xfff, 0x97, 0); /* downwards, 16 bits */
    gdt[SEL(3) / 8] = DESCRIPTOR(SCRATCH_GPA, 1, 0x91, 12);    /* read-only, 8 KiB by pages */
    gdt[SEL(4) / 8] = DESCRIPTOR(0, 0xfffff, 0x99, 12);        /* execute only */
    write32(SCRATCH_GPA + 0xffc, 0x600d);
    segment_case("segment: at its limit", 'r', SEL(0), 0xffc, CALL_VECTOR);
    check_equal("segment: its base", 0x600d, trap.rcx);
    bool checks_limits = segment_case("segment: over its limit", 'r', SEL(0), 0xffd, GP);
    segment_case("segment: far over its limit", 'w', SEL(0), 0x80000000, GP);
    segment_case("segment downwards: within the limit", 'r', SEL(1), 0xfff, GP);
    segment_case("segment downwards: above the limit", 'r', SEL(1), 0x1000, CALL_VECTOR);
    segment_case("segment downwards: over the end", 'r', SEL(1), 0xfffffffd, GP);
    segment_case("segment downwards, 16 bits: at the end", 'r', SEL(2), 0xfffc, CALL_VECTOR);
    segment_case("segment downwards, 16 bits: over the end", 'r', SEL(2), 0xfffd, GP);
    segment_case("segment in pages: at its limit", 'r', SEL(3), 0x1ffc, CALL_VECTOR);
    segment_case("segment in pages: over its limit", 'r', SEL(3), 0x1ffd, GP);
    segment_case("segment: read-only", 'w', SEL(3), 0, GP);
    segment_case("segment: null", 'r', 0, 0, GP);
    segment_case("segment: code is not written", 'c', SEL(0), USER_CODE, GP);
    /* Of 4 GiB with a base: offsets wrap around the address space, but not around the limit. */
    gdt[SEL(0) / 8] = DESCRIPTOR(SCRATCH_GPA + 0x808, 0xfffff, 0x93, 12);
    write32(SCRATCH_GPA + 0x804, 0xbe1f);
    segment_case("segment of 4 GiB: below its base", 'r', SEL(0), 0xfffffffc, CALL_VECTOR);
    check_equal("segment of 4 GiB: below its base, value", 0xbe1f, trap.rcx);
    segment_case("segment of 4 GiB: over its limit", 'r', SEL(0), 0xfffffffd, GP);
    segment_case("segment of 4 GiB: write over its limit", 'w', SEL(0), 0xffffffff, GP);
    segment_case("segment of 4 GiB: write below its base", 'w', SEL(0), 0xfffffff8, CALL_VECTOR);
    /* From CPL 3, so that the fault's frame goes to another stack. */
    gdt[SEL(0) / 8] = DESCRIPTOR(SCRATCH_GPA, 0xfff, 0xf3, 4);
    struct legacy_start start = {.eip = USER_CODE,
                                 .cs = USER_CS32,
                                 .eflags = 2,
                                 .esp = 0x800,
                                 .ss = SEL(0) | 3,
                                 .ebx = 0xffd};
    LOAD_SNIPPET(segment_stack, USER_CODE);
    legacy_run(&plain, &start);
    check_trap("stack segment: over its limit", SS, 0);
    start.ebx = 0xffc;
    legacy_run(&plain, &start);
    check_trap("stack segment: at its limit", CALL_VECTOR, 0);
    start = (struct legacy_start){.eip = USER_CODE, .cs = KERNEL_CS32, .eflags = 2, .eax = SEL(4)};
    LOAD_SNIPPET(segment_read, USER_CODE);
    legacy_run(&plain, &start);
    check_trap("segment: execute only is not for FS", GP, SEL(4));
    /* A code segment with a base and a limit. */
    gdt[SEL(5) / 8] = DESCRIPTOR(USER_CODE, 0xff, 0x9b, 4);
    memset((void *)USER_CODE, 0x90, 0x200);
    LOAD_SNIPPET(end_32, USER_CODE + 0x20);
    start = (struct legacy_start){.eip = 0x10, .cs = SEL(5), .eflags = 2};
    legacy_run(&plain, &start);
    check_equal("code segment: EIP counts from its base", 0x22, trap.rip);
    if (!checks_limits) {
        check_skipped("code segment: limit",
                      "a processor without limits would run on through memory");
        return;
    }
    memset((void *)USER_CODE, 0x90, 0x200);
    legacy_run(&plain, &start);
    check_trap("code segment: running over its limit", GP, 0);
    check_equal("code segment: running over its limit: EIP", 0x100, trap.rip);
    memcpy((void *)(USER_CODE + 0x10), (const uint8_t[]){0xe9, 0xeb, 0x00, 0x00, 0x00},
           5); /* to 0x100 */
    legacy_run(&plain, &start);
    check_trap("code segment: jump over its limit", GP, 0);
    check_equal("code segment: jump over its limit: EIP", 0x10, trap.rip);
}

SNIPPET(gate_call, ".code32", "pushl $0x11; pushl $0x22; lcall $0x53, $0; int $0x80");
SNIPPET(gate_target, ".code32",
        "movl 8(%esp), %eax; movl 12(%esp), %ebx; movl 16(%esp), %ecx; lret $8");

static void test_legacy_gate(void)
{
    struct legacy_start start = {
        .eip = USER_CODE, .cs = USER_CS32, .eflags = 2, .esp = USER_STACK, .ss = USER_DS};
    LOAD_SNIPPET(gate_call, USER_CODE);
    LOAD_SNIPPET(gate_target, TARGET);
    gdt[SEL(0) / 8] =
        (TARGET & 0xffff) | KERNEL_CS32 << 16 | (uint64_t)((TARGET & 0xffff0000) | 0xec02) << 32;
    legacy_run(&plain, &start);
    check_trap("protected mode: call gate with parameters, and back", CALL_VECTOR, 0);
    check_equal("call gate: the last parameter", 0x22, trap.rax);
    check_equal("call gate: the first parameter", 0x11, trap.rbx);
    check_equal("call gate: the outer ESP", USER_STACK - 8, trap.rcx);
    check_equal("RET takes the parameters off the outer stack", USER_STACK, trap.rsp);
    check_equal("RET: CS", USER_CS32, trap.cs);
}

/* --- hardware tasks --- */

static struct tss32 other_task;
SNIPPET(task_jump, ".code32", "movl $0x1111, %ebx; ljmp $0x80, $0; int $0x80");
SNIPPET(task_call, ".code32", "movl $0x1111, %ebx; lcall $0x80, $0; int $0x80");
SNIPPET(task_int, ".code32", "movl $0x1111, %ebx; int $0x90; int $0x80");
SNIPPET(task_iret, ".code32", "movl $0x2222, %ebx; iretl; int $0x80");
#define TASK_SELECTOR 0x80

static void prepare_task(void)
{
    other_task = (struct tss32){.eip = TARGET,
                                .eflags = 2,
                                .esp = USER_STACK - 0x1000,
                                .cs = KERNEL_CS32,
                                .ss = KERNEL_DS,
                                .ds = KERNEL_DS,
                                .es = KERNEL_DS,
                                .eax = 0x3333,
                                .ebp = 0x4444,
                                .io_map_offset = sizeof(other_task)};
    gdt[TASK_SELECTOR / 8] = DESCRIPTOR((uintptr_t)&other_task, sizeof(other_task) - 1, 0x89, 0);
}

static unsigned descriptor_type(unsigned selector)
{
    return (unsigned)(gdt[selector / 8] >> 40) & 0xf;
}

static void test_tasks(void)
{
    struct legacy_start start = {.eip = USER_CODE, .cs = KERNEL_CS32, .eflags = 2};
    prepare_task();
    LOAD_SNIPPET(task_jump, USER_CODE);
    LOAD_SNIPPET(end_32, TARGET);
    legacy_run(&plain, &start);
    check_trap("task: JMP", CALL_VECTOR, 0);
    check_equal("task: JMP: EIP", TARGET + 2, trap.rip);
    check_equal("task: registers come from its TSS", 0x333300004444, trap.rax << 32 | trap.rbp);
    check_equal("task: registers go to the old TSS", 0x1111, tss32.ebx);
    check_equal("task: EIP goes to the old TSS", USER_CODE + 12, tss32.eip);
    check_equal("task: TR", TASK_SELECTOR, legacy_last_tr);
    check_equal("task: CR0.TS", BIT(3), legacy_last_cr0 & BIT(3));
    check_equal("task: JMP: the new one is busy, the old is not", 0xb9,
                descriptor_type(TASK_SELECTOR) << 4 | descriptor_type(TSS32_SELECTOR));
    check_equal("task: JMP: no NT", 0, trap.rflags & FLAG_NT);
    LOAD_SNIPPET(task_jump, USER_CODE);
    legacy_run(&plain, &start);
    check_trap("task: JMP to a busy one", GP, TASK_SELECTOR);

    prepare_task();
    LOAD_SNIPPET(task_call, USER_CODE);
    legacy_run(&plain, &start);
    check_equal("task: CALL: NT", FLAG_NT, trap.rflags & FLAG_NT);
    check_equal("task: CALL: link", TSS32_SELECTOR, other_task.link & 0xffff);
    check_equal("task: CALL: both are busy", 0xbb,
                descriptor_type(TASK_SELECTOR) << 4 | descriptor_type(TSS32_SELECTOR));
    prepare_task();
    LOAD_SNIPPET(task_iret, TARGET);
    legacy_run(&plain, &start);
    check_trap("task: CALL and IRET", CALL_VECTOR, 0);
    check_equal("task: IRET: back behind CALL", USER_CODE + 14, trap.rip);
    check_equal("task: IRET: registers", 0x1111, trap.rbx);
    check_equal("task: IRET: those of the other went to its TSS", 0x2222, other_task.ebx);
    check_equal("task: IRET: TR", TSS32_SELECTOR, legacy_last_tr);
    check_equal("task: IRET: the other is free again", 9, descriptor_type(TASK_SELECTOR));

    prepare_task();
    legacy_idt[0x90] = (struct gate32){.low = TASK_SELECTOR << 16, .high = 0x8500};
    LOAD_SNIPPET(task_int, USER_CODE);
    legacy_run(&plain, &start);
    check_trap("task gate: INT and IRET", CALL_VECTOR, 0);
    check_equal("task gate: back behind INT", USER_CODE + 9, trap.rip);
    /* A fault whose handler is a task: the error code is on its stack. */
    prepare_task();
    LOAD_SNIPPET(end_32, TARGET);
    struct gate32 saved = legacy_idt[GP];
    legacy_idt[GP] = (struct gate32){.low = TASK_SELECTOR << 16, .high = 0x8500};
    LOAD_SNIPPET(segment_read, USER_CODE);
    start.eax = 0x1f8;
    legacy_run(&plain, &start);
    legacy_idt[GP] = saved;
    check_trap("task gate of #GP", CALL_VECTOR, 0);
    check_equal("task gate of #GP: the error code", 0x1f8, read32(USER_STACK - 0x1004));
    check_equal("task gate of #GP: EIP of the fault in the old TSS", USER_CODE, tss32.eip);
}

/* --- virtual-8086 mode: segment 0x800 is REAL_GPA --- */

SNIPPET(
    v86_code, ".code16",
    "movw $0x2000, %ax; movw %ax, %es; movl $0x12345678, %es:(0x10); movw %cs, %bx; pushw %bx; popw %cx; int $0x80");
SNIPPET(v86_cli, ".code16", "cli; int $0x80");
SNIPPET(v86_pushf, ".code16", "pushfw; popw %ax; int $0x80");
SNIPPET(v86_hlt, ".code16", "hlt");
SNIPPET(v86_limit, ".code16", "movl %ds:(0xfffe), %eax");

static void test_v86(void)
{
    struct legacy_start start = {.eip = 0,
                                 .cs = REAL_GPA >> 4,
                                 .eflags = 2 | FLAG_VM | IOPL_3,
                                 .esp = 0x800,
                                 .ss = 0x900,
                                 .ds = 0x2000,
                                 .es = 0x1234,
                                 .fs = 0x5555,
                                 .gs = 0x6666};
    LOAD_SNIPPET(v86_code, REAL_GPA);
    write32(LOW_GPA + 0x10, 0);
    legacy_run(&plain, &start);
    check_trap("V86: INT with IOPL 3", CALL_VECTOR, 0);
    check_equal("V86: VM in the frame", FLAG_VM, trap.rflags & FLAG_VM);
    check_equal("V86: CS", REAL_GPA >> 4, trap.cs);
    check_equal("V86: SS:SP", 0x9000800, trap.ss << 16 | trap.rsp);
    check_equal("V86: segments count in paragraphs", 0x12345678, read32(LOW_GPA + 0x10));
    check_equal("V86: MOV from CS", 0x08000800, (trap.rbx & 0xffff) << 16 | (trap.rcx & 0xffff));
    check_equal("V86: the handler's DS and ES are null", 0, legacy_ds | legacy_es);
    LOAD_SNIPPET(v86_cli, REAL_GPA);
    legacy_run(&plain, &start);
    check_trap("V86: CLI with IOPL 3", CALL_VECTOR, 0);
    start.eflags = 2 | FLAG_VM;
    legacy_run(&plain, &start);
    check_trap("V86: CLI with IOPL 0", GP, 0);
    LOAD_SNIPPET(v86_code, REAL_GPA);
    legacy_run(&plain, &start);
    check_trap("V86: INT with IOPL 0", GP, 0);
    LOAD_SNIPPET(v86_pushf, REAL_GPA);
    legacy_run(&plain, &start);
    check_trap("V86: PUSHF with IOPL 0", GP, 0);
    LOAD_SNIPPET(v86_hlt, REAL_GPA);
    start.eflags |= IOPL_3;
    legacy_run(&plain, &start);
    check_trap("V86: HLT", GP, 0);
    LOAD_SNIPPET(v86_limit, REAL_GPA);
    legacy_run(&plain, &start);
    check_trap("V86: over 64 KiB", GP, 0);
}

/* --- 16-bit protected mode and real mode --- */

SNIPPET(
    protected_16, ".code16",
    "movw $0x40, %ax; movw %ax, %ss; movl $0x12340002, %esp; movw $0xabcd, %ax; pushw %ax; pushw %ax\n"
    "movl %esp, %ebx; movw $0x10, %cx; movw %cx, %ss; movl $0x7000, %esp; int $0x80");

#define AT(label) "(" #label " - real_code + 0x8000)"
/* Counts in memory at 0x20000: interrupts, #DE, #GP of a limit. IDTR at 0x20800 (real), 0x20810 (protected). */
SNIPPET(
    real_code, ".code16",
    "movw $0x40, %ax; movw %ax, %ds; movw %ax, %es; movw %ax, %ss\n"
    "movl %cr0, %eax; andb $0xfe, %al; movl %eax, %cr0\n"
    "ljmpw $0, $" AT(
        real_1) "\n"
                "real_1: xorw %ax, %ax; movw %ax, %ss; movw $0x7000, %sp; movw $0x2000, %ax; movw %ax, %ds; movw %ax, %es\n"
                "lidtl 0x800\n"
                "int $0x42\n"               /* counts at 0 */
                "xorw %cx, %cx; divw %cx\n" /* counts at 2, goes on behind the 2 bytes */
                "movl 0xfffe, %eax\n"       /* 66 a1 fe ff: counts at 4 */
                "movw $0xffff, %bx; movw %bx, %es; movl %es:(0x10), %esi\n" /* 1 MiB */
                "lcallw $0, $" AT(
                    real_far) "\n"
                              "pushfw; popw %dx; movw %cs, %bp\n"
                              "cli; lidtl 0x810\n"
                              "movl %cr0, %eax; orb $1, %al; movl %eax, %cr0\n"
                              "ljmpl $0x18, $" AT(
                                  real_2) "\n"
                                          ".code32\n"
                                          "real_2: movl $0x10, %eax; movl %eax, %ss; movl $0x7000, %esp; movl %eax, %ds; movl %eax, %es; int $0x80\n"
                                          ".code16\n"
                                          "real_far: movw $0x7777, %di; lretw\n"
                                          "real_int: incw 0; iretw\n"
                                          "real_de: incw 2; pushw %bp; movw %sp, %bp; addw $2, 2(%bp); popw %bp; iretw\n"
                                          "real_gp: incw 4; pushw %bp; movw %sp, %bp; addw $4, 2(%bp); popw %bp; iretw\n");
extern const uint8_t real_int[], real_de[], real_gp[];
extern struct table_pointer legacy_idt_pointer;

static void set_real_vector(unsigned vector, const uint8_t *handler)
{
    write32(LOW_GPA + 0x1000 + vector * 4, (uint32_t)(REAL_GPA + (handler - real_code)));
}

static void test_real(void)
{
    struct legacy_start start = {.eip = REAL_GPA, .cs = KERNEL_CS16, .eflags = 2};
    LOAD_SNIPPET(protected_16, REAL_GPA);
    legacy_run(&plain, &start);
    check_trap("16-bit protected mode", CALL_VECTOR, 0);
    check_equal("16-bit stack: SP wraps, the rest of ESP stays", 0x1234fffe, trap.rbx);
    check_equal("16-bit stack: where the second PUSH went", 0xabcd,
                *(volatile uint16_t *)(uintptr_t)0xfffe);
    check_equal("16-bit code: IP", KERNEL_CS16, trap.cs);

    LOAD_SNIPPET(real_code, REAL_GPA);
    memset((void *)LOW_GPA, 0, 16);
    const struct table_pointer table = {.limit = 0x3ff, .base = LOW_GPA + 0x1000};
    memcpy((void *)(LOW_GPA + 0x800), &table, sizeof(table));
    memcpy((void *)(LOW_GPA + 0x810), &legacy_idt_pointer, sizeof(legacy_idt_pointer));
    set_real_vector(0x42, real_int);
    set_real_vector(DE, real_de);
    set_real_vector(GP, real_gp);
    legacy_run(&plain, &start);
    check_trap("real mode and back", CALL_VECTOR, 0);
    check_equal("real mode: INT", 1, *(volatile uint16_t *)(uintptr_t)LOW_GPA);
    check_equal("real mode: #DE", 1, *(volatile uint16_t *)(uintptr_t)(LOW_GPA + 2));
    check_equal("real mode: an access over 64 KiB", 1,
                *(volatile uint16_t *)(uintptr_t)(LOW_GPA + 4));
    check_equal("real mode: FFFF:0010 is 1 MiB", read32(0x100000), trap.rsi & 0xffffffff);
    check_equal("real mode: far CALL and RET", 0x7777, trap.rdi & 0xffff);
    check_equal("real mode: CS", 0, trap.rbp & 0xffff);
    check_equal("back in 32-bit code", KERNEL_CS32, trap.cs);
}

void guest_main(void)
{
    test_call_gates();
    test_iret();
    test_compat();
    test_syscall();
    test_sysenter();
    test_legacy_sysenter();
    test_segments();
    test_legacy_gate();
    test_tasks();
    test_v86();
    test_real();
}
