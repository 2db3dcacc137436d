/* Single steps, breakpoint registers, RF, general detect (SDM 3B chapter 17). */
#include "guest.h"

#define FLAG_TF  BIT(8)
#define FLAG_RF  BIT(16)
#define DR6_BD   BIT(13)
#define DR6_BS   BIT(14)
#define DR6_INIT 0xffff0ff0ull
#define DR7_INIT 0x400ull
#define DR7_GD   BIT(13)
#define CR4_DE   BIT(3)
/* Breakpoint n: local enable, kind (0 fetch, 1 write, 2 port, 3 access), size (0: 1, 1: 2, 3: 4, 2: 8 bytes). */
#define DR7(n, kind, size)                                                                         \
    (BIT(2 * (n)) | (uint64_t)(kind) << (16 + 4 * (n)) | (uint64_t)(size) << (18 + 4 * (n)))

#define CODE ((uint8_t *)USER_CODE)
#define RUN(start, ...)                                                                            \
    do {                                                                                           \
        static const uint8_t code_[] = {__VA_ARGS__};                                              \
        memset(CODE, 0xcc, 64);                                                                    \
        memcpy(CODE, code_, sizeof(code_));                                                        \
        WRITE_DR(6, DR6_INIT);                                                                     \
        trap_run(start);                                                                           \
    } while (0)

static void check_stop(const char *name, uint64_t offset, uint64_t dr6)
{
    check_equal(name, (uint64_t)DB << 32 | offset, trap.vector << 32 | (trap.rip - USER_CODE));
    check_equal("  its DR6", dr6, trap_dr6 & (DR6_BS | DR6_BD | 15));
}

/* All stops of a single-stepped piece of code. */
static volatile uint64_t steps[32];
static volatile unsigned step_count;

static void on_step(struct trap_frame *frame)
{
    if (step_count < ARRAY_COUNT(steps)) {
        steps[step_count++] = frame->rip - USER_CODE;
    }
    WRITE_DR(6, DR6_INIT);
}

static void check_steps(const char *name, const uint8_t *expected, unsigned count)
{
    check_equal(name, count, step_count);
    for (unsigned i = 0; i < count; i++) {
        if (steps[i] != expected[i]) {
            check_equal("  a stop", expected[i], steps[i]);
        }
    }
}
#define CHECK_STEPS(name, ...)                                                                     \
    do {                                                                                           \
        static const uint8_t expected_[] = {__VA_ARGS__};                                          \
        check_steps(name, expected_, sizeof(expected_));                                           \
    } while (0)

static void test_single_step(void)
{
    struct trap_frame start = frame_kernel();
    start.rflags |= FLAG_TF;
    RUN(&start, 0x90, 0x90);
    check_stop("TF: after one instruction", 1, DR6_BS);
    check_equal("TF: RF is clear in the frame of a trap", 0, trap.rflags & FLAG_RF);
    RUN(&start, 0x0f, 0x0b);
    check_trap("TF: a fault comes before the trap", UD, 0);
    check_equal("TF: set in the frame of the fault, and RF", FLAG_TF | FLAG_RF,
                trap.rflags & (FLAG_TF | FLAG_RF));
    RUN(&start, 0xeb, 0x02, 0x90, 0x90, 0x90);
    check_stop("TF: after a jump", 4, DR6_BS);

    trap_hook[DB] = on_step;
    start.rsi = start.rdi = USER_DATA;
    start.rcx = 3;
    step_count = 0;
    RUN(&start, 0xf3, 0xa4, 0x90, 0xcd, 0x80);
    CHECK_STEPS("TF: REP MOVSB stops after each iteration", 0, 0, 2, 3);
    start.rcx = 0;
    step_count = 0;
    RUN(&start, 0xf3, 0xa4, 0x90, 0xcd, 0x80);
    CHECK_STEPS("TF: REP MOVSB of 0", 2, 3);
    step_count = 0;
    start.rax = KERNEL_DS;
    RUN(&start, 0x90, 0x8e, 0xd0, 0x90, 0x90, 0xcd, 0x80);
    CHECK_STEPS("TF: not between MOV SS and the next", 1, 4, 5);
    step_count = 0;
    start.rflags &= ~FLAG_TF;
    RUN(&start, 0x9c, 0x81, 0x0c, 0x24, 0, 1, 0, 0, 0x9d, 0x90, 0x90, 0xcd, 0x80);
    CHECK_STEPS("TF: POPF sets it: the instruction behind is the first", 10, 11);
    step_count = 0;
    start.rflags |= FLAG_TF;
    RUN(&start, 0x9c, 0x81, 0x24, 0x24, 0xff, 0xfe, 0xff, 0xff, 0x9d, 0x90, 0xcd, 0x80);
    CHECK_STEPS("TF: POPF clears it: that is the last", 1, 8, 9);
    step_count = 0;
    start.rax = 0;
    RUN(&start, 0x0f, 0xa2, 0x0f, 0x31, 0xe6, 0x80, 0x0f, 0x20, 0xc0, 0x90, 0xcd, 0x80);
    CHECK_STEPS("TF: over CPUID, RDTSC, OUT, MOV from CR0", 2, 4, 6, 9, 10);
    step_count = 0;
    start.rdx = 0x3ff;
    start.rcx = 2;
    RUN(&start, 0xf3, 0x6e, 0xec, 0xcd, 0x80);
    CHECK_STEPS("TF: over REP OUTSB and IN", 0, 2, 3);
    /* INT clears TF for the handler; IRET restores it. */
    struct trap_frame user = frame_user();
    user.rflags |= FLAG_TF;
    step_count = 0;
    RUN(&user, 0x90, 0x90, 0xcd, 0x80);
    CHECK_STEPS("TF: user mode", 1, 2);
    trap_hook[DB] = NULL;
    RUN(&user, 0x90);
    check_stop("TF: from user mode", 1, DR6_BS);
    check_equal("TF: from user mode: CS", USER_CS, trap.cs);
    WRITE_DR(6, DR6_INIT | 5);
    *CODE = 0x90;
    trap_run(&start);
    check_equal("DR6 is only ever set", DR6_BS | 5, trap_dr6 & (DR6_BS | 15));
    RUN(&user, 0xf1);
    check_trap("INT1 from user mode, whatever the gate's DPL", DB, 0);
    check_equal("INT1: RIP behind it", 1 + USER_CODE, user.rflags & FLAG_TF ? trap.rip : 0);
}

static void test_fetch(void)
{
    struct trap_frame start = frame_kernel();
    WRITE_DR(0, USER_CODE + 1);
    WRITE_DR(7, DR7_INIT | DR7(0, 0, 0));
    RUN(&start, 0x90, 0x90, 0x90, 0xcd, 0x80);
    check_stop("fetch: before the instruction", 1, 1);
    /* The one fault that does not set RF (SDM 3B 17.3.1.1): its handler may want to. */
    check_equal("fetch: no RF in the frame", 0, trap.rflags & FLAG_RF);
    struct trap_frame resumed = start;
    resumed.rip = USER_CODE + 1;
    resumed.rflags |= FLAG_RF;
    trap_run(&resumed);
    check_trap("fetch: RF passes it", CALL_VECTOR, 0);
    check_equal("fetch: RF lasts one instruction", 0, trap.rflags & FLAG_RF);
    resumed.rip = USER_CODE;
    trap_run(&resumed);
    check_stop("fetch: RF is for the first only", 1, 1);
    start.rflags |= FLAG_TF;
    RUN(&start, 0x90, 0x90, 0x90, 0xcd, 0x80);
    check("fetch and TF: BS", trap.vector == DB && (trap_dr6 & DR6_BS));
    start.rflags &= ~FLAG_TF;
    WRITE_DR(0, USER_CODE + 2);
    RUN(&start, 0x90, 0x66, 0x90, 0x90, 0xcd, 0x80);
    check_trap("fetch: not in the middle of an instruction", CALL_VECTOR, 0);
    struct trap_frame user = frame_user();
    RUN(&user, 0x90, 0x90, 0x90, 0xcd, 0x80);
    check_stop("fetch: in user mode", 2, 1);
    WRITE_DR(7, DR7_INIT);
    RUN(&user, 0x90, 0x90, 0x90, 0xcd, 0x80);
    check_trap("fetch: disabled", CALL_VECTOR, 0);
    /* A loop: hits each time. */
    WRITE_DR(3, USER_CODE + 2);
    WRITE_DR(7, DR7_INIT | DR7(3, 0, 0));
    start.rcx = 5;
    RUN(&start, 0x90, 0x90, 0xff, 0xc9, 0x75, 0xfc, 0xcd, 0x80);
    unsigned hits = 0;
    while (trap.vector == DB && hits < 10) {
        hits++;
        struct trap_frame next = trap;
        next.rflags |= FLAG_RF;
        trap_run(&next);
    }
    check_equal("fetch: each time in a loop", 5, hits);
    WRITE_DR(7, DR7_INIT);
}

static void test_data(void)
{
    struct trap_frame start = frame_kernel();
    start.rbx = USER_DATA;
    WRITE_DR(1, USER_DATA + 4);
    WRITE_DR(7, DR7_INIT | DR7(1, 1, 3));
    RUN(&start, 0x89, 0x43, 0x04, 0x90, 0xcd, 0x80);
    check_stop("write: after the instruction", 3, 2);
    RUN(&start, 0x8b, 0x43, 0x04, 0xcd, 0x80);
    check_trap("write: not by a read", CALL_VECTOR, 0);
    RUN(&start, 0x89, 0x43, 0x00, 0x89, 0x43, 0x08, 0xcd, 0x80);
    check_trap("write: not beside", CALL_VECTOR, 0);
    RUN(&start, 0x48, 0x89, 0x03, 0xcd, 0x80);
    check_stop("write: a larger write over it", 3, 2);
    RUN(&start, 0x88, 0x43, 0x07, 0xcd, 0x80);
    check_stop("write: one byte of it", 3, 2);
    RUN(&start, 0x89, 0x43, 0x02, 0xcd, 0x80);
    check_stop("write: misaligned over its begin", 3, 2);
    RUN(&start, 0xff, 0x43, 0x04, 0xcd, 0x80);
    check_stop("write: by INC", 3, 2);
    start.rsp = USER_DATA + 12;
    RUN(&start, 0x50, 0xcd, 0x80);
    check_stop("write: by PUSH", 1, 2);
    start.rsp = USER_STACK;
    start.rdi = USER_DATA;
    start.rcx = 16;
    RUN(&start, 0xf3, 0xaa, 0xcd, 0x80);
    check_stop("write: by REP STOSB, after that iteration", 0, 2);
    check_equal("write: by REP STOSB: RCX", 11, trap.rcx);
    WRITE_DR(7, DR7_INIT | DR7(1, 3, 3));
    RUN(&start, 0x8b, 0x43, 0x04, 0xcd, 0x80);
    check_stop("access: by a read", 3, 2);
    RUN(&start, 0x89, 0x43, 0x04, 0xcd, 0x80);
    check_stop("access: by a write", 3, 2);
    WRITE_DR(2, USER_DATA + 8);
    WRITE_DR(7, DR7_INIT | DR7(2, 1, 2));
    RUN(&start, 0x88, 0x43, 0x0f, 0xcd, 0x80);
    check_stop("write: 8 bytes wide", 3, 4);
    WRITE_DR(1, USER_DATA + 8);
    WRITE_DR(7, DR7_INIT | DR7(2, 1, 2) | DR7(1, 1, 0));
    RUN(&start, 0x88, 0x43, 0x08, 0xcd, 0x80);
    check_stop("two at once", 3, 6);
    /* Data of MOV SS: the trap waits for the instruction behind. */
    WRITE_DR(7, DR7_INIT);
    write64(USER_DATA + 4, KERNEL_DS);
    WRITE_DR(1, USER_DATA + 4);
    WRITE_DR(7, DR7_INIT | DR7(1, 3, 1));
    RUN(&start, 0x8e, 0x53, 0x04, 0x90, 0x90, 0xcd, 0x80);
    check_stop("access: by MOV SS, one instruction later", 4, 2);
    struct trap_frame user = frame_user();
    user.rbx = USER_DATA;
    RUN(&user, 0x8b, 0x43, 0x04, 0xcd, 0x80);
    check_stop("access: in user mode", 3, 2);
    WRITE_DR(7, DR7_INIT);
    RUN(&user, 0x8b, 0x43, 0x04, 0xcd, 0x80);
    check_trap("access: disabled", CALL_VECTOR, 0);
    uint64_t absent = TEST_GVA + PAGE;
    WRITE_DR(1, absent);
    WRITE_DR(7, DR7_INIT | DR7(1, 3, 3));
    start.rbx = absent;
    RUN(&start, 0x8b, 0x03, 0xcd, 0x80);
    check_trap("access: a fault of the same access comes instead", PF, 0);
    WRITE_DR(7, DR7_INIT);
}

static void test_port(void)
{
    struct trap_frame start = frame_kernel();
    WRITE_CR(4, READ_CR(4) | CR4_DE);
    WRITE_DR(0, 0x3ff);
    WRITE_DR(7, DR7_INIT | DR7(0, 2, 0));
    start.rdx = 0x3ff;
    RUN(&start, 0xee, 0x90, 0xcd, 0x80);
    check_stop("port: after OUT", 1, 1);
    RUN(&start, 0xec, 0x90, 0xcd, 0x80);
    check_stop("port: after IN", 1, 1);
    start.rdx = 0x3fe;
    RUN(&start, 0xec, 0x90, 0xcd, 0x80);
    check_trap("port: not another", CALL_VECTOR, 0);
    WRITE_DR(7, DR7_INIT);
    TRY("movq %%dr4, %%rax", ::: "rax");
    check_fault("DR4 with CR4.DE", UD, 0);
    WRITE_CR(4, READ_CR(4) & ~CR4_DE);
    WRITE_DR(6, DR6_INIT | 2);
    check_equal("DR4 without CR4.DE is DR6", DR6_INIT | 2, READ_DR(4));
    check_equal("DR5 without CR4.DE is DR7", DR7_INIT, READ_DR(5));
}

static void test_registers(void)
{
    WRITE_DR(6, 0);
    check_equal("DR6: fixed bits", DR6_INIT,
                READ_DR(6) | BIT(11) | BIT(16)); /* later processors use these two */
    WRITE_DR(7, 0);
    check_equal("DR7: bit 10 is one", DR7_INIT, READ_DR(7));
    TRY("movq %0, %%dr7", ::"r"(BIT(32)));
    check_fault("DR7: upper half", GP, 0);
    TRY("movq %0, %%dr6", ::"r"(BIT(32)));
    check_fault("DR6: upper half", GP, 0);
    WRITE_DR(2, 0x123456789abcdef0);
    check_equal("DR2 has 64 bits", 0x123456789abcdef0, READ_DR(2));
    WRITE_DR(2, 0);
    WRITE_DR(6, DR6_INIT);
    WRITE_DR(7, DR7_INIT | DR7_GD);
    TRY("movq %%dr0, %%rax", ::: "rax");
    check_fault("GD: access to a debug register", DB, 0);
    check_equal("GD: BD in DR6", DR6_BD, trap_dr6 & DR6_BD);
    check_equal("GD: cleared for the handler", DR7_INIT, READ_DR(7));
    struct trap_frame user = frame_user();
    RUN(&user, 0x0f, 0x21, 0xc0);
    check_trap("debug registers at CPL 3", GP, 0);
    WRITE_DR(6, DR6_INIT);
}

void guest_main(void)
{
    test_registers();
    test_single_step();
    test_fetch();
    test_data();
    test_port();
}
