/* Address spaces with PCIDs: what one of them knows must not be seen in another, and must go when it is flushed, be it data or
 * code (SDM 3A 4.10). */
#include "guest.h"

#define CR4_PGE   BIT(7)
#define CR4_PCIDE BIT(17)
#define KEEP      BIT(63)
#define MAP       (PTE_P | PTE_W)

/* Slots of the PML4 that nothing else uses, in both halves. */
#define LOWER_SLOT 100
#define UPPER_SLOT 300
#define PAGE_AT    (5 * PAGE)

/* An address space: the kernel's, and one page in each slot. */
struct space {
    uint64_t root;
    uint64_t *pte[2];
};

static const uint64_t gva[2] = {
    (uint64_t)LOWER_SLOT << 39 | PAGE_AT,
    0xffff000000000000 | (uint64_t)UPPER_SLOT << 39 | PAGE_AT,
};
static struct space a, b;
static uint64_t frame[4];

static uint64_t *table_at(uint64_t gpa)
{
    return (uint64_t *)gpa;
}

/* mov $number, %eax; ret; then the number again, as data. */
static void make_frame(unsigned number)
{
    uint8_t code[16] = {0xb8, (uint8_t)number, 0, 0, 0, 0xc3};
    frame[number] = page_alloc();
    memcpy((void *)frame[number], code, sizeof(code));
    write64(frame[number] + 64, number);
}

static void make_space(struct space *space)
{
    space->root = page_alloc();
    memcpy((void *)space->root, (const void *)(READ_CR(3) & ~0xfffull), PAGE);
    for (unsigned half = 0; half < 2; half++) {
        uint64_t table = space->root;
        for (unsigned shift = 39; shift > 12; shift -= 9) {
            uint64_t next = page_alloc();
            table_at(table)[gva[half] >> shift & 511] = next | MAP;
            table = next;
        }
        space->pte[half] = &table_at(table)[gva[half] >> 12 & 511];
    }
}

static void map(struct space *space, unsigned half, unsigned number, uint64_t flags)
{
    *(volatile uint64_t *)space->pte[half] = frame[number] | MAP | flags;
}

static unsigned call(uint64_t at)
{
    return ((unsigned (*)(void))at)();
}

/* Data and code at both addresses come from these frames; called often enough for a translator to link what it finds. */
static void check_sees(const char *name, unsigned lower, unsigned upper)
{
    const unsigned expected[2] = {lower, upper};
    for (unsigned half = 0; half < 2; half++) {
        for (unsigned i = 0; i < 3; i++) {
            uint64_t data = read64(gva[half] + 64);
            unsigned code = call(gva[half]);
            if (data != expected[half] || code != expected[half]) {
                check_equal(name, expected[half], data);
                check_equal(name, expected[half], code);
                return;
            }
        }
    }
    check(name, true);
}

static void invpcid(uint64_t type, uint64_t pcid, uint64_t address)
{
    struct {
        uint64_t pcid, address;
    } what = {pcid, address};
    asm volatile("invpcid %0, %1" ::"m"(what), "r"(type) : "memory");
}

static void map_all(uint64_t flags)
{
    for (unsigned half = 0; half < 2; half++) {
        map(&a, half, 1, flags);
        map(&b, half, 2, flags);
    }
}

static void test_switches(void)
{
    map_all(0);
    WRITE_CR(3, b.root | 2);
    check_sees("the second space", 2, 2);
    WRITE_CR(3, a.root | 1);
    check_sees("the first space", 1, 1);
    bool is_right = true;
    for (unsigned i = 0; i < 100; i++) {
        struct space *space = i & 1 ? &b : &a;
        WRITE_CR(3, space->root | (1 + (i & 1)) | KEEP);
        for (unsigned half = 0; half < 2; half++) {
            is_right &= read64(gva[half] + 64) == 1 + (i & 1) && call(gva[half]) == 1 + (i & 1);
        }
    }
    check("a hundred switches that keep what is known", is_right);
    /* A write in one space is none in the other. */
    write64(gva[0] + 128, 22);
    WRITE_CR(3, a.root | 1 | KEEP);
    write64(gva[0] + 128, 11);
    WRITE_CR(3, b.root | 2 | KEEP);
    check_equal("each space writes to its own page", 22, read64(gva[0] + 128));
    check_equal("and the other to its own", 11, read64(frame[1] + 128));
}

static void test_reuse(void)
{
    WRITE_CR(3, a.root | 2);
    check_sees("a PCID for another space, without bit 63", 1, 1);
    WRITE_CR(3, b.root | 2);
    check_sees("and back", 2, 2);
    for (unsigned half = 0; half < 2; half++) {
        map(&b, half, 3, 0);
        invlpg(gva[half]);
    }
    check_sees("INVLPG", 3, 3);
    WRITE_CR(3, a.root | 1 | KEEP);
    check_sees("INVLPG elsewhere", 1, 1);
    map(&b, 0, 2, 0);
    map(&b, 1, 2, 0);
    WRITE_CR(3, b.root | 2);
    check_sees("CR3 without bit 63 flushes", 2, 2);
}

static void test_invpcid(void)
{
    static const char *const names[] = {
        "INVPCID of an address in another space",
        "INVPCID of another space",
        "INVPCID of everything",
        "INVPCID of everything that is not global",
    };
    static const char *const own_names[] = {
        "INVPCID of an address in this space",
        "INVPCID of this space",
        "INVPCID of everything, seen in this space",
        "INVPCID of everything that is not global, seen in this space",
    };
    for (unsigned type = 0; type < ARRAY_COUNT(names); type++) {
        map_all(0);
        WRITE_CR(3, b.root | 2);
        check_sees("before INVPCID", 2, 2);
        WRITE_CR(3, a.root | 1);
        check_sees("before INVPCID, elsewhere", 1, 1);
        for (unsigned half = 0; half < 2; half++) {
            map(&b, half, 3, 0);
            invpcid(type, 2, gva[half]);
        }
        WRITE_CR(3, b.root | 2 | KEEP);
        check_sees(names[type], 3, 3);
        for (unsigned half = 0; half < 2; half++) {
            map(&b, half, 2, 0);
            invpcid(type, 2, gva[half]);
        }
        check_sees(own_names[type], 2, 2);
    }
}

static void test_global(void)
{
    WRITE_CR(4, READ_CR(4) | CR4_PGE);
    for (unsigned half = 0; half < 2; half++) {
        map(&a, half, 1, PTE_G);
        map(&b, half, 1, PTE_G);
    }
    WRITE_CR(3, b.root | 2);
    check_sees("global pages", 1, 1);
    WRITE_CR(3, a.root | 1);
    check_sees("global pages elsewhere", 1, 1);
    for (unsigned half = 0; half < 2; half++) {
        map(&a, half, 3, PTE_G);
        map(&b, half, 3, PTE_G);
        invlpg(gva[half]);
    }
    check_sees("INVLPG of global pages", 3, 3);
    WRITE_CR(3, b.root | 2 | KEEP);
    check_sees("INVLPG of global pages, elsewhere", 3, 3);
    if (cpuid(7, 0).ebx & BIT(10)) {
        for (unsigned half = 0; half < 2; half++) {
            map(&a, half, 2, PTE_G);
            map(&b, half, 2, PTE_G);
        }
        invpcid(2, 0, 0);
        check_sees("INVPCID of everything flushes global pages", 2, 2);
        WRITE_CR(3, a.root | 1 | KEEP);
        check_sees("INVPCID of everything flushes global pages elsewhere", 2, 2);
    }
    for (unsigned half = 0; half < 2; half++) {
        map(&a, half, 3, 0);
        map(&b, half, 3, 0);
    }
    WRITE_CR(4, READ_CR(4) & ~CR4_PGE);
    check_sees("a change of CR4.PGE flushes this space", 3, 3);
    WRITE_CR(3, b.root | 2 | KEEP);
    check_sees("a change of CR4.PGE flushes the other", 3, 3);
}

void guest_main(void)
{
    if (!(cpuid(1, 0).ecx & BIT(17))) {
        check_skipped("PCID", "the processor has none");
        return;
    }
    uint64_t kernel = READ_CR(3);
    make_frame(1);
    make_frame(2);
    make_frame(3);
    make_space(&a);
    make_space(&b);
    WRITE_CR(4, READ_CR(4) & ~CR4_PGE);
    WRITE_CR(4, READ_CR(4) | CR4_PCIDE);
    test_switches();
    test_reuse();
    if (cpuid(7, 0).ebx & BIT(10)) {
        test_invpcid();
    } else {
        check_skipped("INVPCID", "the processor has none");
    }
    test_global();
    WRITE_CR(3, kernel);
    WRITE_CR(4, READ_CR(4) & ~CR4_PCIDE);
    map_all(0);
    WRITE_CR(3, a.root);
    check_sees("without PCIDE", 1, 1);
    WRITE_CR(3, kernel);
}
