/* String instructions with all their corners: overlap, direction, counts of 0, address size, faults in the middle, ports. */
#include "guest.h"

#define SCRATCH_PORT 0x3ff /* the serial port's scratch register */

static uint8_t source[8192] __attribute__((aligned(4096)));
static uint8_t target[8192] __attribute__((aligned(4096)));

struct registers {
    uint64_t rcx, rsi, rdi, rax;
};

/* Runs one string instruction; the registers afterwards are in *r, 'trap' has what ended it. 'flags' go into RFLAGS before. */
#define STRING(code, r)                                                                            \
    TRY(code, : "+c"((r).rcx), "+S"((r).rsi), "+D"((r).rdi), "+a"((r).rax)::"memory", "cc", "rdx")

static void fill(void)
{
    for (unsigned i = 0; i < sizeof(source); i++) {
        source[i] = (uint8_t)(i * 7 + 3);
    }
    memset(target, 0, sizeof(target));
}

static void check_registers(const char *name, const struct registers *r, uint64_t rcx, uint64_t rsi,
                            uint64_t rdi)
{
    print_text(name);
    print_text(":\n");
    check_equal("  RCX", rcx, r->rcx);
    check_equal("  RSI", rsi, r->rsi);
    check_equal("  RDI", rdi, r->rdi);
}

static const uint64_t S = (uintptr_t)source, T = (uintptr_t)target;

static void test_moves(void)
{
    fill();
    struct registers r = {100, S, T, 0};
    STRING("rep movsb", r);
    check_registers("REP MOVSB", &r, 0, S + 100, T + 100);
    check("REP MOVSB: bytes", memcmp(source, target, 100) == 0 && target[100] == 0);
    fill();
    r = (struct registers){10, S, T, 0};
    STRING("rep movsq", r);
    check_registers("REP MOVSQ", &r, 0, S + 80, T + 80);
    check("REP MOVSQ: bytes", memcmp(source, target, 80) == 0 && target[80] == 0);
    r = (struct registers){5, S, T, 0};
    STRING("movsl", r);
    check_registers("MOVSD without REP", &r, 5, S + 4, T + 4);
    fill();
    r = (struct registers){10, S + 18, T + 18, 0};
    STRING("std; rep movsw; cld", r);
    check_registers("REP MOVSW down", &r, 0, S - 2, T - 2);
    check("REP MOVSW down: bytes", memcmp(source, target, 20) == 0 && target[20] == 0);
    /* Overlap: each element is stored before the next is loaded. */
    fill();
    r = (struct registers){200, S, S + 1, 0};
    STRING("rep movsb", r);
    bool is_right = true;
    for (unsigned i = 0; i <= 200; i++) {
        is_right &= source[i] == 3;
    }
    check("REP MOVSB onto itself plus 1 repeats a byte", is_right);
    fill();
    r = (struct registers){200, S + 1, S, 0};
    STRING("rep movsb", r);
    check_equal("REP MOVSB onto itself minus 1 moves", (uint8_t)(200 * 7 + 3), source[199]);
    fill();
    r = (struct registers){20, S, S + 3, 0};
    STRING("rep movsq", r);
    uint8_t expected[256];
    for (unsigned i = 0; i < sizeof(expected); i++) {
        expected[i] = (uint8_t)(i * 7 + 3);
    }
    for (unsigned i = 0; i < 20; i++) {
        uint8_t element[8];
        memcpy(element, expected + i * 8, 8);
        memcpy(expected + i * 8 + 3, element, 8);
    }
    check("REP MOVSQ onto itself plus 3", memcmp(expected, source, sizeof(expected)) == 0);
    fill();
    r = (struct registers){0, 0x800000000000, 0x800000000000, 0};
    STRING("rep movsq", r);
    check_trap("REP MOVSQ of 0 elements touches nothing", NO_TRAP, 0);
    check_registers("REP MOVSQ of 0 elements", &r, 0, 0x800000000000, 0x800000000000);
}

static void test_stores_and_loads(void)
{
    fill();
    struct registers r = {33, S, T, 0x1122334455667788};
    STRING("rep stosb", r);
    check_registers("REP STOSB", &r, 0, S, T + 33);
    check("REP STOSB: bytes", target[0] == 0x88 && target[32] == 0x88 && target[33] == 0);
    r = (struct registers){3, S, T, 0x1122334455667788};
    STRING("rep stosl", r);
    check_equal("REP STOSD: bytes", 0x5566778855667788, read64(T + 4));
    r = (struct registers){3, S, T + 16, 0x1122334455667788};
    STRING("std; rep stosq; cld", r);
    check_registers("REP STOSQ down", &r, 0, S, T - 8);
    check_equal("REP STOSQ down: bytes", 0x1122334455667788, read64(T + 16));
    fill();
    r = (struct registers){5, S, T, UINT64_MAX};
    STRING("rep lodsb", r);
    check_registers("REP LODSB", &r, 0, S + 5, T);
    check_equal("REP LODSB keeps upper bytes", 0xffffffffffffff00 | source[4], r.rax);
    r = (struct registers){5, S, T, UINT64_MAX};
    STRING("lodsl", r);
    check_equal("LODSD clears the upper half", read32(S), r.rax);
}

static void test_compares(void)
{
    fill();
    memcpy(target, source, 100);
    target[60] ^= 1;
    struct registers r = {100, S, T, 0};
    bool is_zero, is_carry;
    TRY("repe cmpsb",
        : "+c"(r.rcx), "+S"(r.rsi), "+D"(r.rdi), "=@ccz"(is_zero), "=@ccc"(is_carry)::"memory");
    check_registers("REPE CMPSB", &r, 39, S + 61, T + 61);
    check_equal("REPE CMPSB: ZF", 0, is_zero);
    check_equal("REPE CMPSB: CF", source[60] < target[60], is_carry);
    target[60] ^= 1;
    r = (struct registers){100, S, T, 0};
    TRY("repe cmpsb; setz %%al",
        : "+c"(r.rcx), "+S"(r.rsi), "+D"(r.rdi), "+a"(r.rax)::"memory", "cc");
    check_registers("REPE CMPSB of equals", &r, 0, S + 100, T + 100);
    check_equal("REPE CMPSB of equals: ZF", 1, r.rax);
    r = (struct registers){0, 1, 2, 0};
    TRY("cmpb $1, %%al; repe cmpsb; setb %%al",
        : "+c"(r.rcx), "+S"(r.rsi), "+D"(r.rdi), "+a"(r.rax)::"memory", "cc");
    check_registers("REPE CMPSB of 0 elements", &r, 0, 1, 2);
    check_equal("REPE CMPSB of 0 elements keeps flags", 1, r.rax);
    fill();
    r = (struct registers){100, 0, S, source[42]};
    STRING("repne scasb", r);
    check_registers("REPNE SCASB", &r, 100 - 43, 0, S + 43);
    r = (struct registers){50, 0, T, 0};
    STRING("repe scasl", r);
    check_registers("REPE SCASD", &r, 0, 0, T + 200);
    r = (struct registers){7, 0, T, 1};
    STRING("repe scasq", r);
    check_registers("REPE SCASQ ends at the first difference", &r, 6, 0, T + 8);
    r = (struct registers){7, 0, T, 1};
    STRING("std; scasw; cld", r);
    check_registers("SCASW down", &r, 7, 0, T - 2);
}

static void test_faults(void)
{
    uint64_t gva = TEST_GVA + PAGE;
    uint64_t frame = page_alloc();
    page_map(gva, frame | PTE_P | PTE_W, 1);
    fill();
    struct registers r = {100, S, gva + PAGE - 30, 0};
    STRING("rep movsb", r);
    check_fault("REP MOVSB into an absent page", PF, PF_W);
    check_equal("REP MOVSB: CR2", gva + PAGE, trap_cr2);
    check_registers("REP MOVSB into an absent page", &r, 70, S + 30, gva + PAGE);
    check("REP MOVSB: what was before is done", memcmp(source, (void *)(gva + PAGE - 30), 30) == 0);
    r = (struct registers){100, S, gva + PAGE - 12, 0};
    STRING("rep movsq", r);
    check_registers("REP MOVSQ: an element on the border", &r, 99, S + 8, gva + PAGE - 4);
    check_equal("REP MOVSQ: CR2", gva + PAGE, trap_cr2);
    r = (struct registers){100, gva + PAGE - 30, T, 0};
    STRING("rep movsb", r);
    check_fault("REP MOVSB out of an absent page", PF, 0);
    check_registers("REP MOVSB out of an absent page", &r, 70, gva + PAGE, T + 30);
    r = (struct registers){100, S + 99, gva + 9, 0};
    STRING("std; rep movsb", r);
    check_trap("REP MOVSB down into an absent page", PF, PF_W);
    check_equal("REP MOVSB down: DF is kept", BIT(10), trap.rflags & BIT(10));
    check_equal("REP MOVSB down: CR2", gva - 1, trap_cr2);
    check_registers("REP MOVSB down into an absent page", &r, 90, S + 89, gva - 1);
    r = (struct registers){1000, S, gva + PAGE - 64, 0xab};
    STRING("rep stosq", r);
    check_fault("REP STOSQ into an absent page", PF, PF_W);
    check_registers("REP STOSQ into an absent page", &r, 992, S, gva + PAGE);
    r = (struct registers){1000, gva + PAGE - 64, 0, 0};
    STRING("rep lodsb", r);
    check_registers("REP LODSB out of an absent page", &r, 936, gva + PAGE, 0);
    memset((void *)gva, 0, PAGE);
    r = (struct registers){1000, 0, gva + PAGE - 64, 0};
    STRING("repe scasb", r);
    check_registers("REPE SCASB into an absent page", &r, 936, 0, gva + PAGE);
    r = (struct registers){1000, T, gva + PAGE - 64, 0};
    memset(target, 0, 64);
    STRING("repe cmpsb", r);
    check_registers("REPE CMPSB into an absent page", &r, 936, T + 64, gva + PAGE);
    page_map(gva + PAGE, frame | PTE_P, 1);
    r = (struct registers){100, S, gva + PAGE - 30, 0};
    STRING("rep movsb", r);
    check_fault("REP MOVSB into a read-only page", PF, PF_W | PF_P);
    check_equal("REP MOVSB into a read-only page: RCX", 70, r.rcx);
    page_map(gva + PAGE, 0, 1);
    r = (struct registers){100, 0x7ffffffffff0, T, 0};
    STRING("rep movsb", r);
    check_trap("REP MOVSB from an absent page", PF, 0);
    check_equal("REP MOVSB from an absent page: RCX", 100, r.rcx);
    /* After the fault is repaired, the instruction goes on. */
    fill();
    r = (struct registers){100, S, gva + PAGE - 30, 0};
    STRING("rep movsb", r);
    page_map(gva + PAGE, page_alloc() | PTE_P | PTE_W, 1);
    STRING("rep movsb", r);
    check("REP MOVSB goes on after a fault", memcmp(source, (void *)(gva + PAGE - 30), 100) == 0);
    /* Pages that are no neighbours in memory. */
    page_map(gva + 2 * PAGE, frame | PTE_P | PTE_W, 1);
    page_map(gva, page_alloc() | PTE_P | PTE_W, 1);
    r = (struct registers){8192, S, gva + 100, 0};
    STRING("rep movsb", r);
    check("REP MOVSB over three pages",
          memcmp(source, (void *)(gva + 100), 8192) == 0 && r.rcx == 0);
}

static void test_address_size(void)
{
    fill();
    struct registers r = {0x500000004, S | BIT(40), T | BIT(41), 0};
    STRING("addr32 rep movsb", r);
    check_registers("32-bit addresses", &r, 0, S + 4, T + 4);
    check("32-bit addresses: bytes", memcmp(source, target, 4) == 0 && target[4] == 0);
    fill();
    r = (struct registers){100, S, T, 0};
    asm volatile("wrmsr" ::"c"(0xc0000100), "a"(0x10), "d"(0)); /* FS base */
    STRING("fs rep movsb", r);
    check("a segment of the source", memcmp(source + 16, target, 100) == 0);
    asm volatile("wrmsr" ::"c"(0xc0000100), "a"(0), "d"(0));
    TRY("rep; nop", ::: "memory");
    check_trap("REP NOP", NO_TRAP, 0);
}

static void test_ports(void)
{
    fill();
    outb(SCRATCH_PORT, 0);
    struct registers r = {10, S, 0, 0};
    asm volatile("rep outsb" : "+c"(r.rcx), "+S"(r.rsi) : "d"(SCRATCH_PORT) : "memory");
    check_registers("REP OUTSB", &r, 0, S + 10, 0);
    check_equal("REP OUTSB: the last byte", source[9], inb(SCRATCH_PORT));
    r = (struct registers){10, 0, T, 0};
    asm volatile("rep insb" : "+c"(r.rcx), "+D"(r.rdi) : "d"(SCRATCH_PORT) : "memory");
    check_registers("REP INSB", &r, 0, 0, T + 10);
    check("REP INSB: bytes", target[0] == source[9] && target[9] == source[9] && target[10] == 0);
    r = (struct registers){0, 0x800000000000, 0, 0};
    TRY("rep outsb", : "+c"(r.rcx), "+S"(r.rsi) : "d"(SCRATCH_PORT) : "memory");
    check_trap("REP OUTSB of 0 elements", NO_TRAP, 0);
    uint64_t gva = TEST_GVA + 16 * PAGE;
    page_map(gva, page_alloc() | PTE_P | PTE_W, 1);
    r = (struct registers){10, 0, gva + PAGE - 4, 0};
    TRY("rep insb", : "+c"(r.rcx), "+D"(r.rdi) : "d"(SCRATCH_PORT) : "memory");
    check_fault("REP INSB into an absent page", PF, PF_W);
    check_registers("REP INSB into an absent page", &r, 6, 0, gva + PAGE);
    r = (struct registers){10, gva + PAGE - 4, 0, 0};
    TRY("rep outsb", : "+c"(r.rcx), "+S"(r.rsi) : "d"(SCRATCH_PORT) : "memory");
    check_fault("REP OUTSB out of an absent page", PF, 0);
    check_registers("REP OUTSB out of an absent page", &r, 6, gva + PAGE, 0);
    r = (struct registers){4, S + 3, 0, 0};
    asm volatile("std; rep outsb; cld" : "+c"(r.rcx), "+S"(r.rsi) : "d"(SCRATCH_PORT) : "memory");
    check_equal("REP OUTSB down: the last byte", source[0], inb(SCRATCH_PORT));
    r = (struct registers){0, 0, T, 0};
    asm volatile("insl" : "+D"(r.rdi) : "d"(0x5678) : "memory");
    check_equal("INSD of a port without a device", 0xffffffff, read32(T));
}

/* Compatibility mode: 16-bit addresses wrap at 64 KiB. */
SNIPPET(wrap_code, ".code32", "addr16 rep movsb; int $0x80");

static void test_compat(void)
{
    struct trap_frame start = frame_compat(false);
    LOAD_SNIPPET(wrap_code, USER_CODE);
    asm volatile("movl %0, %%ds; movl %0, %%es" ::"r"(KERNEL_DS));
    memset((void *)LOW_GPA, 0, 16);
    start.rsi = 0x12340000;
    start.rdi = 0x1fffe;
    start.rcx = 0x70004;
    trap_run(&start);
    check_trap("16-bit addresses", CALL_VECTOR, 0);
    check_equal("16-bit addresses: ECX", 0x70000, trap.rcx & 0xffffffff);
    check_equal("16-bit addresses: ESI", 0x12340004, trap.rsi & 0xffffffff);
    check_equal("16-bit addresses: EDI wraps", 0x10002, trap.rdi & 0xffffffff);
}

void guest_main(void)
{
    test_moves();
    test_stores_and_loads();
    test_compares();
    test_faults();
    test_address_size();
    test_ports();
    test_compat();
}
