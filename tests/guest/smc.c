/* Self-modifying code: stores become visible to the very next instructions (SDM 3A 11.6: on this processor without any
 * serializing instruction when the same linear address is used, else with one). */
#include "guest.h"

#define CODE ((uint8_t *)USER_CODE)

SNIPPET(next_instruction, ".code64", /* changes the immediate behind it */
        "movb $0x22, 1f+1(%rip)\n1: movb $0x11, %al\n int $0x80");
SNIPPET(
    next_opcode, ".code64",
    "movb $0x48, 1f(%rip); movb $0xff, 1f+1(%rip); movb $0xc0, 1f+2(%rip)\n1: nop; nop; nop\n int $0x80");
SNIPPET(immediate_loop, ".code64",
        "xorl %edx, %edx; movl $100, %ecx\n"
        "1: incl 2f+2(%rip)\n"
        "2: addl $0x10000000, %edx\n"
        "subl $0x10000000, %edx; loop 1b; int $0x80");
SNIPPET(return_one, ".code64", "movl $1, %eax; ret");
SNIPPET(
    push_over, ".code64", /* PUSH writes the instruction behind itself */
    "movq $0xf480cd90909090, %rax; leaq 1f+8(%rip), %rsp; pushq %rax\n1: ud2; ud2; ud2; ud2; ud2");

static uint64_t (*volatile function)(void);

static void test_same_block(void)
{
    struct trap_frame start = frame_kernel();
    LOAD_SNIPPET(next_instruction, CODE);
    trap_run(&start);
    check_equal("the next instruction's immediate", 0x22, trap.rax & 0xff);
    trap_run(&start);
    check_equal("again", 0x22, trap.rax & 0xff);
    LOAD_SNIPPET(next_opcode, CODE);
    trap_run(&start);
    check_trap("the next instruction's opcode", CALL_VECTOR, 0);
    check_equal("the next instruction's opcode: result", 1, trap.rax);
    LOAD_SNIPPET(immediate_loop, CODE);
    trap_run(&start);
    check_trap("a loop that changes itself", CALL_VECTOR, 0);
    check_equal("a loop that changes itself: sum", 100 * 101 / 2, trap.rdx);
    LOAD_SNIPPET(push_over, CODE);
    trap_run(&start);
    check_trap("PUSH over the next instruction", CALL_VECTOR, 0);
}

static uint64_t call(uint64_t gva)
{
    function = (uint64_t(*)(void))(uintptr_t)gva;
    return function();
}

static void test_functions(void)
{
    LOAD_SNIPPET(return_one, CODE);
    check_equal("a function", 1, call(USER_CODE));
    uint64_t sum = 0;
    for (uint8_t i = 0; i < 200; i++) {
        CODE[1] = i;
        sum += call(USER_CODE);
    }
    check_equal("a function changed 200 times", 199 * 200 / 2, sum);
    /* Through another address of the same page: needs a serializing instruction. */
    uint64_t alias = TEST_GVA;
    page_map(alias, USER_CODE | PTE_P | PTE_W, 1);
    write32(alias + 1, 1234);
    (void)cpuid(0, 0);
    check_equal("changed through an alias", 1234, call(USER_CODE));
    check_equal("run through the alias", 1234, call(alias));
    CODE[1] = 7;
    CODE[2] = 0;
    (void)cpuid(0, 0);
    check_equal("the alias sees the change", 7, call(alias));
    /* The same linear address, another page. */
    uint64_t other = page_alloc(), second = page_alloc();
    uint64_t gva = TEST_GVA + PAGE;
    LOAD_SNIPPET(return_one, other);
    LOAD_SNIPPET(return_one, second);
    write32(second + 1, 2);
    page_map(gva, other | PTE_P | PTE_W, 1);
    check_equal("first page", 1, call(gva));
    page_map(gva, second | PTE_P | PTE_W, 1);
    check_equal("another page at the address", 2, call(gva));
    page_map(gva, other | PTE_P | PTE_W, 1);
    check_equal("and back", 1, call(gva));
    page_map(gva, 0, 1);
    struct trap_frame start = frame_kernel();
    start.rip = gva;
    trap_run(&start);
    check_trap("and gone", PF, PF_I);
    page_map(gva, second | PTE_P | PTE_W | PTE_NX, 1);
    trap_run(&start);
    check_trap("and not executable", PF, PF_I | PF_P);
    page_map(gva, second | PTE_P | PTE_W, 1);
    check_equal("and executable", 2, call(gva));
}

static void test_page_crossing(void)
{
    uint64_t gva = TEST_GVA + 16 * PAGE, first = page_alloc(), second = page_alloc(),
             third = page_alloc();
    page_map(gva, first | PTE_P | PTE_W, 1);
    page_map(gva + PAGE, second | PTE_P | PTE_W, 1);
    uint64_t entry = gva + PAGE - 3; /* the immediate's upper half is on the second page */
    LOAD_SNIPPET(return_one, entry);
    check_equal("an instruction on two pages", 1, call(entry));
    write64(third, read64(second));
    *(volatile uint8_t *)(gva + PAGE + 1) = 1;
    check_equal("its second page changed", 0x1000001, call(entry));
    *(volatile uint8_t *)(gva + PAGE - 2) = 5;
    check_equal("its first page changed", 0x1000005, call(entry));
    page_map(gva + PAGE, third | PTE_P | PTE_W, 1);
    check_equal("its second page mapped elsewhere", 5, call(entry));
    *(volatile uint8_t *)(third + 1) = 2;
    (void)cpuid(0, 0);
    check_equal("its second page changed through an alias", 0x2000005, call(entry));
    page_map(gva + PAGE, 0, 1);
    struct trap_frame start = frame_kernel();
    start.rip = entry;
    trap_run(&start);
    check_trap("its second page is gone", PF, PF_I);
    check_equal("its second page is gone: CR2", gva + PAGE, trap_cr2);
    check_equal("its second page is gone: RIP", entry, trap.rip);
    page_map(gva + PAGE, third | PTE_P | PTE_W, 1);
    check_equal("its second page is back", 0x2000005, call(entry));
    page_map(gva, 0, 1);
    trap_run(&start);
    check_equal("its first page is gone: CR2", entry, trap_cr2);
}

/* An addition whose constant is on the second page, in a loop that is on both. */
SNIPPET(crossing_loop, ".code64",
        "xorl %eax, %eax; movl $1000, %ecx\n1: .byte 5; .long 1\n decl %ecx; jnz 1b; ret");
#define CROSSING_LOOP_FIRST 8 /* bytes on the first page */
/* A branch whose displacement ends on the second page. */
SNIPPET(crossing_branch, ".code64",
        "xorl %eax, %eax; movl $1000, %ecx\n1: addl $2, %eax; decl %ecx\n"
        ".byte 0x0f, 0x85; .long 1b - . - 4\n ret");
#define CROSSING_BRANCH_FIRST 15
SNIPPET(crossing_store, ".code64", /* changes the instruction behind it */
        "movl $0x22b8, 1f(%rip)\n1: movl $0x11, %eax; ret");
SNIPPET(crossing_self, ".code64", "addb $1, -1(%rip); ret"); /* changes its own constant */
SNIPPET(crossing_load, ".code64", "movl 0x11223344(%rdx), %eax; int $0x80");
#define CROSSING_GVA (TEST_GVA + 24 * PAGE)

static void put_crossing(uint64_t second, uint64_t first_size, const uint8_t *code, uint64_t size)
{
    page_map(CROSSING_GVA + PAGE, second | PTE_P | PTE_W, 1);
    (void)memcpy((void *)(CROSSING_GVA + PAGE - first_size), code, size);
}

static void test_crossing_loops(void)
{
    uint64_t second = page_alloc(), third = page_alloc();
    page_map(CROSSING_GVA, page_alloc() | PTE_P | PTE_W, 1);
    uint64_t size = (uint64_t)(crossing_loop_end - crossing_loop), sum = 0;
    uint64_t entry = CROSSING_GVA + PAGE - CROSSING_LOOP_FIRST;
    put_crossing(third, CROSSING_LOOP_FIRST, crossing_loop, size);
    write32(CROSSING_GVA + PAGE, 5);
    put_crossing(second, CROSSING_LOOP_FIRST, crossing_loop, size);
    check_equal("a loop on two pages", 1000, call(entry));
    page_map(CROSSING_GVA + PAGE, third | PTE_P | PTE_W, 1);
    check_equal("another second page", 5000, call(entry));
    *(volatile uint64_t *)page_entry(CROSSING_GVA + PAGE, 1) = second | PTE_P | PTE_W;
    WRITE_CR(3, READ_CR(3));
    check_equal("the first one again, by a flush of all", 1000, call(entry));
    for (uint64_t i = 0; i < 100; i++) {
        page_map(CROSSING_GVA + PAGE, (i & 1 ? second : third) | PTE_P | PTE_W, 1);
        sum += call(entry);
    }
    check_equal("one and the other", 50 * 6000, sum);
    write32(CROSSING_GVA + PAGE, 7);
    check_equal("its constant changed", 7000, call(entry));
    write64(CROSSING_GVA + 2 * PAGE - 64, 7);
    check_equal("something else on its second page changed", 7000, call(entry));
    uint64_t alias = CROSSING_GVA + 4 * PAGE;
    page_map(alias, second | PTE_P | PTE_W, 1);
    write32(alias, 9);
    (void)cpuid(0, 0);
    check_equal("its constant changed through an alias", 9000, call(entry));
    /* One page as both. */
    page_map(CROSSING_GVA, second | PTE_P | PTE_W, 1);
    put_crossing(second, CROSSING_LOOP_FIRST, crossing_loop, size);
    check_equal("a loop on one page, seen twice", 1000, call(entry));
    write32(alias, 3);
    (void)cpuid(0, 0);
    check_equal("its constant changed there", 3000, call(entry));
}

static void test_crossing_branch(void)
{
    uint64_t second = page_alloc(), third = page_alloc();
    page_map(CROSSING_GVA, page_alloc() | PTE_P | PTE_W, 1);
    uint64_t size = (uint64_t)(crossing_branch_end - crossing_branch);
    uint64_t entry = CROSSING_GVA + PAGE - CROSSING_BRANCH_FIRST;
    put_crossing(second, CROSSING_BRANCH_FIRST, crossing_branch, size);
    check_equal("a branch on two pages", 2000, call(entry));
    write64(third, 0); /* the upper bytes of the displacement */
    *(volatile uint8_t *)(third + size - CROSSING_BRANCH_FIRST - 1 + 0xf5) = 0xc3;
    page_map(CROSSING_GVA + PAGE, third | PTE_P | PTE_W, 1);
    check_equal("to elsewhere, by another second page", 2, call(entry));
    page_map(CROSSING_GVA + PAGE, second | PTE_P | PTE_W, 1);
    check_equal("and back", 2000, call(entry));
}

static void test_crossing_stores(void)
{
    page_map(CROSSING_GVA, page_alloc() | PTE_P | PTE_W, 1);
    uint64_t second = page_alloc();
    for (uint64_t first = 1; first < 10; first++) {
        put_crossing(second, first, crossing_store,
                     (uint64_t)(crossing_store_end - crossing_store));
        check_equal("a store on two pages, to the next instruction", 0x22,
                    call(CROSSING_GVA + PAGE - first) & 0xff);
    }
    uint64_t entry = CROSSING_GVA + PAGE - 4;
    put_crossing(second, 4, crossing_self, (uint64_t)(crossing_self_end - crossing_self));
    for (unsigned i = 0; i < 5; i++) {
        (void)call(entry);
    }
    check_equal("a store on two pages, to itself", 32, *(volatile uint8_t *)(entry + 6));
    struct trap_frame start = frame_kernel();
    put_crossing(second, 3, crossing_load, (uint64_t)(crossing_load_end - crossing_load));
    start.rip = CROSSING_GVA + PAGE - 3;
    start.rdx = TEST_GVA + 64 * PAGE - 0x11223344 + 0x123;
    for (unsigned i = 0; i < 3; i++) {
        trap_run(&start);
        check_trap("a load on two pages that faults", PF, 0);
        check_equal("a load on two pages that faults: RIP", start.rip, trap.rip);
        check_equal("a load on two pages that faults: CR2", TEST_GVA + 64 * PAGE + 0x123, trap_cr2);
    }
}

/* Code and data that is written all the time in one page: must be right, however slow. */
SNIPPET(data_beside, ".code64",
        "xorl %eax, %eax; movl $10000, %ecx\n"
        "1: incl 3f(%rip); addl 3f(%rip), %eax; loop 1b; int $0x80\n.align 64\n3: .long 0");

static void test_data_beside(void)
{
    struct trap_frame start = frame_kernel();
    LOAD_SNIPPET(data_beside, CODE);
    trap_run(&start);
    check_trap("data beside code", CALL_VECTOR, 0);
    check_equal("data beside code: sum", 10000 * 10001 / 2, trap.rax);
}

/* What comes before depends on it: whether the comparison's flags matter is up to the code at the target. */
SNIPPET(flags_ahead, ".code64",
        "0: xorl %eax, %eax; movl $5, %edx; cmpl $7, %edx; jmp 1f\n"
        ".skip 128 - (. - 0b), 0x90\n1: addl $0, %edx; nop; nop; ret");
SNIPPET(reads_flags, ".code64", "setc %al; ret");
#define FLAGS_AHEAD_TARGET 128

/* Two granules of straight code. */
SNIPPET(two_granules, ".code64",
        "xorl %eax, %eax; .rept 30; addl $1, %eax; .endr; addl $100, %eax; ret");

static void test_granules(void)
{
    uint64_t page = page_alloc();
    LOAD_SNIPPET(flags_ahead, page);
    check_equal("flags that nobody reads", 0, call(page));
    check_equal("flags that nobody reads, again", 0, call(page));
    LOAD_SNIPPET(reads_flags, page + FLAGS_AHEAD_TARGET);
    check_equal("the jump's target changed: it reads the flags", 1, call(page));
    page = page_alloc();
    LOAD_SNIPPET(two_granules, page);
    check_equal("code in two granules", 130, call(page));
    *(volatile uint8_t *)(page + 2 + 3 * 2 + 2) = 11;
    check_equal("the first one changed", 140, call(page));
    *(volatile uint8_t *)(page + 2 + 3 * 29 + 2) = 21;
    check_equal("the second one changed", 160, call(page));
    /* One store over the border between them: the immediate at 64 and the opcode of the next instruction. */
    uint32_t bytes = read32(page + 62);
    write32(page + 62, (bytes & ~0xff0000u) | 31u << 16);
    check_equal("a store to both", 190, call(page));
    /* Data in the page and in the granule behind, more often than a page stays closed for. */
    uint64_t sum = 0;
    for (uint32_t i = 0; i < 3000; i++) {
        write32(page + 256, i);
        sum += call(page) + read32(page + 256);
    }
    check_equal("data beside it", 3000 * 190 + 2999 * 3000 / 2, sum);
    for (uint32_t i = 0; i < 3000; i++) {
        write32(page + 112, i);
    }
    check_equal("many writes to its last granule", 190, call(page));
    *(volatile uint8_t *)(page + 2 + 3 * 2 + 2) = 1;
    check_equal("and one to its first", 180, call(page));
}

static void test_ways_to_write(void)
{
    uint64_t page = page_alloc(), source = page_alloc();
    LOAD_SNIPPET(return_one, page);
    LOAD_SNIPPET(return_one, source);
    check_equal("before it is written", 1, call(page));
    for (uint32_t i = 2; i < 5; i++) {
        void *from = (void *)source, *to = (void *)page;
        uint64_t count = 6;
        write32(source + 1, i);
        __asm__ volatile("rep movsb" : "+S"(from), "+D"(to), "+c"(count)::"memory");
        check_equal("written by REP MOVSB", i, call(page));
    }
    void *to = (void *)(page + 1);
    uint64_t count = 1;
    __asm__ volatile("rep stosl" : "+D"(to), "+c"(count) : "a"(77) : "memory");
    check_equal("written by REP STOSD", 77, call(page));
    void *from = (void *)(source + 4);
    to = (void *)(page + 4);
    count = 4;
    __asm__ volatile("std; rep movsb; cld" : "+S"(from), "+D"(to), "+c"(count)::"memory");
    check_equal("written downwards", 4, call(page));
    __asm__ volatile("lock addl $5, (%0)" ::"r"(page + 1) : "memory");
    check_equal("written by LOCK ADD", 9, call(page));
    __asm__ volatile("lock btsl %1, (%0)" ::"r"(page + 1), "r"(20) : "memory");
    check_equal("written by LOCK BTS", 9 | 1 << 20, call(page));
    uint32_t expected = 9 | 1 << 20, desired = 33;
    __asm__ volatile("lock cmpxchgl %2, (%1)"
                     : "+a"(expected)
                     : "r"(page + 1), "r"(desired)
                     : "memory");
    check_equal("written by LOCK CMPXCHG", 33, call(page));
    __asm__ volatile("pushq %0; popq (%1)" ::"r"(read64(page) + 0x100), "r"(page) : "memory");
    check_equal("written by POP", 34, call(page));
}

/* Many functions generated, run, overwritten: whatever keeps translations must come to its limits. */
static void test_many(void)
{
    uint64_t base = SCRATCH_GPA, sum = 0, expected = 0;
    for (unsigned round = 0; round < 4; round++) {
        for (uint32_t i = 0; i < 20000; i++) {
            uint64_t at = base + i * 16;
            LOAD_SNIPPET(return_one, at);
            write32(at + 1, i + round);
        }
        for (uint32_t i = 0; i < 20000; i++) {
            sum += call(base + i * 16);
            expected += i + round;
        }
    }
    check_equal("80000 functions", expected, sum);
}

/* Code at more linear pages than anybody likes to remember, then some of them go elsewhere. */
static void test_many_pages(void)
{
    uint64_t base = TEST_GVA + 1024 * PAGE, first = page_alloc(), second = page_alloc(), sum = 0;
    LOAD_SNIPPET(return_one, first);
    LOAD_SNIPPET(return_one, second);
    write32(second + 1, 2);
    for (uint32_t i = 0; i < 9000; i++) {
        page_map(base + i * PAGE, first | PTE_P | PTE_W, 1);
        sum += call(base + i * PAGE);
    }
    check_equal("a function at 9000 pages", 9000, sum);
    for (uint32_t i = 0; i < 9000; i += 1000) {
        page_map(base + i * PAGE, second | PTE_P | PTE_W, 1);
        check_equal("another function at one of them", 2, call(base + i * PAGE));
        check_equal("the old one beside it", 1, call(base + (i + 1) * PAGE));
    }
}

void guest_main(void)
{
    test_same_block();
    test_functions();
    test_page_crossing();
    test_crossing_loops();
    test_crossing_branch();
    test_crossing_stores();
    test_data_beside();
    test_granules();
    test_ways_to_write();
    test_many();
    test_many_pages();
}
