/* Paging in all modes: rights, error codes, accessed and dirty bits, reserved bits, what flushes the TLB (SDM 3A chapter 4). */
#include "guest.h"

#define CR0_WP    BIT(16)
#define CR4_PSE   BIT(4)
#define CR4_PAE   BIT(5)
#define CR4_PGE   BIT(7)
#define CR4_PCIDE BIT(17)
#define CR4_SMEP  BIT(20)
#define CR4_SMAP  BIT(21)
#define FLAG_AC   BIT(18)
#define MAP       (PTE_P | PTE_W)

static uint64_t next_gva = TEST_GVA + 64 * PAGE;
static uint64_t frame_a, frame_b;

static uint64_t fresh_gva(void)
{
    next_gva += PAGE;
    return next_gva;
}

static unsigned access(char kind, uint64_t gva)
{
    if (kind == 'r') {
        TRY("movb (%0), %%al", ::"r"(gva) : "rax", "memory");
    } else if (kind == 'w') {
        TRY("movb %%al, (%0)", ::"r"(gva) : "rax", "memory");
    } else {
        struct trap_frame start = frame_kernel();
        start.rip = gva;
        trap_run(&start);
    }
    return (unsigned)trap.vector;
}

/* From user mode: RBX is the address; fetches go to it directly. */
SNIPPET(user_read, ".code64", "movb (%rbx), %al; int $0x80");
SNIPPET(user_write, ".code64", "movb %al, (%rbx); int $0x80");

static void user_access(char kind, uint64_t gva)
{
    struct trap_frame start = frame_user();
    start.rbx = gva;
    bool has_smap = READ_CR(4) & CR4_SMAP;
    if (has_smap) {
        asm volatile("stac" ::: "memory");
    }
    if (kind == 'r') {
        LOAD_SNIPPET(user_read, USER_CODE);
    } else if (kind == 'w') {
        LOAD_SNIPPET(user_write, USER_CODE);
    } else {
        start.rip = gva;
    }
    if (has_smap) {
        asm volatile("clac" ::: "memory");
    }
    trap_run(&start);
}

static void test_rights(void)
{
    uint64_t gva = fresh_gva();
    static const struct {
        const char *name;
        uint64_t flags;
        /* Error codes, -1: none. */
        int read, write, fetch, user_read, user_write, user_fetch;
    } cases[] = {
        {"absent", 0, 0, 2, 16, 4, 6, 20},
        {"absent with all other bits", 0x7ffffffffffffffe, 0, 2, 16, 4, 6, 20},
        {"supervisor, writable", PTE_P | PTE_W, -1, -1, -1, 5, 7, 21},
        {"supervisor, read-only", PTE_P, -1, 3, -1, 5, 7, 21},
        {"supervisor, NX", PTE_P | PTE_W | PTE_NX, -1, -1, 17, 5, 7, 21},
        {"user, writable", PTE_P | PTE_W | PTE_U, -1, -1, -1, -1, -1, -1},
        {"user, read-only", PTE_P | PTE_U, -1, 3, -1, -1, 7, -1},
        {"user, NX", PTE_P | PTE_W | PTE_U | PTE_NX, -1, -1, 17, -1, -1, 21},
        {"reserved bit 51", PTE_P | PTE_W | PTE_U | BIT(51), 9, 11, 25, 13, 15, 29},
    };
    memset((void *)frame_a, 0xcc, 16);
    bool has_51 = (cpuid(0x80000008, 0).eax & 0xff) < 52;
    for (unsigned i = 0; i < ARRAY_COUNT(cases); i++) {
        if ((cases[i].flags & BIT(51)) && cases[i].flags != 0x7ffffffffffffffe && !has_51) {
            check_skipped(cases[i].name, "all physical address bits are in use");
            continue;
        }
        const int expected[] = {cases[i].read,      cases[i].write,      cases[i].fetch,
                                cases[i].user_read, cases[i].user_write, cases[i].user_fetch};
        for (unsigned kind = 0; kind < 6; kind++) {
            page_map(gva,
                     (cases[i].flags & BIT(51) && !(cases[i].flags & 1) ? 0 : frame_a) |
                         cases[i].flags,
                     1);
            memset((void *)frame_a, 0xcc, 16);
            if (kind < 3) {
                access("rwx"[kind], gva);
            } else {
                user_access("rwx"[kind - 3], gva);
            }
            int got = trap.vector == PF ? (int)trap.error : -1;
            char name[64] = "";
            const char *const kinds[] = {": read",      ": write",      ": fetch",
                                         ": user read", ": user write", ": user fetch"};
            char *to = name;
            for (const char *from = cases[i].name; *from; from++) {
                *to++ = *from;
            }
            for (const char *from = kinds[kind]; *from; from++) {
                *to++ = *from;
            }
            *to = '\0';
            check_equal(name, (unsigned)expected[kind], (unsigned)got);
            if (got >= 0 && trap_cr2 != gva) {
                check_equal("its CR2", gva, trap_cr2);
            }
        }
    }
    /* Rights of upper levels combine. */
    uint64_t other = TEST_GVA + BIT(39);
    page_map(other, frame_a | MAP | PTE_U, 1);
    uint64_t *upper = page_entry(other, 4);
    *upper &= ~PTE_W;
    WRITE_CR(3, READ_CR(3));
    access('w', other);
    check_trap("read-only at level 4", PF, PF_P | PF_W);
    *upper = (*upper | PTE_W) & ~PTE_U;
    WRITE_CR(3, READ_CR(3));
    user_access('r', other);
    check_trap("supervisor at level 4", PF, PF_P | PF_U);
    *upper |= PTE_U | PTE_NX;
    WRITE_CR(3, READ_CR(3));
    access('x', other);
    check_trap("NX at level 4", PF, PF_P | PF_I);
    *upper |= PTE_PS;
    WRITE_CR(3, READ_CR(3));
    access('r', other);
    check_trap("PS at level 4 is reserved", PF, PF_P | PF_R);
    *upper &= ~(PTE_PS | PTE_NX);
    uint64_t *large = page_entry(other, 3);
    uint64_t saved = *large;
    *large = saved & ~PTE_P;
    WRITE_CR(3, READ_CR(3));
    access('r', other);
    check_trap("absent at level 3", PF, 0);
    *large = saved;

    WRITE_CR(0, READ_CR(0) & ~CR0_WP);
    page_map(gva, frame_a | PTE_P | PTE_U, 1);
    access('w', gva);
    check_trap("without WP the supervisor writes read-only pages", NO_TRAP, 0);
    user_access('w', gva);
    check_trap("without WP user mode does not", PF, PF_P | PF_W | PF_U);
    WRITE_CR(0, READ_CR(0) | CR0_WP);
    access('w', gva);
    check_trap("setting WP takes effect at once", PF, PF_P | PF_W);
}

static void test_accessed_dirty(void)
{
    uint64_t gva = fresh_gva();
    page_map(gva, frame_a | MAP, 1);
    uint64_t *pte = page_entry(gva, 1), *pde = page_entry(gva, 2);
    *pde &= ~PTE_A;
    invlpg(gva);
    access('r', gva);
    check_equal("a read sets A", PTE_A, *pte & (PTE_A | PTE_D));
    check_equal("a walk sets A of upper levels, not D", PTE_A, *pde & (PTE_A | PTE_D));
    access('w', gva);
    check_equal("a write after a read sets D", PTE_A | PTE_D, *pte & (PTE_A | PTE_D));
    page_map(gva, frame_a | PTE_P, 1);
    access('w', gva);
    check_trap("a refused write", PF, PF_P | PF_W);
    check_equal("a refused write does not set D", 0, *pte & PTE_D);
    page_map(gva, frame_a | MAP | PTE_NX, 1);
    access('x', gva);
    check_equal("a refused fetch does not set A", 0, *pte & PTE_A);
    page_map(gva, frame_a | MAP, 1);
    TRY("lock addl $0, (%0)", ::"r"(gva) : "memory");
    check_equal("an addition sets A and D", PTE_A | PTE_D, *pte & (PTE_A | PTE_D));
    page_map(gva, frame_a | MAP, 1);
    TRY("lock cmpxchgl %1, (%0)", ::"r"(gva), "r"(1), "a"(0x12345) : "memory");
    check_equal("a failing CMPXCHG sets A and D", PTE_A | PTE_D, *pte & (PTE_A | PTE_D));
}

static void test_large(void)
{
    uint64_t gva = TEST_GVA + 2 * BIT(30);
    write64(SCRATCH_GPA + 0x123000, 0xabcdef);
    page_map(gva, SCRATCH_GPA | MAP | PTE_PS, 2);
    check_equal("2 MiB page", 0xabcdef, read64(gva + 0x123000));
    check_equal("2 MiB page: A without D", PTE_A, *page_entry(gva, 2) & (PTE_A | PTE_D));
    write64(gva + 0x1000, 1);
    check_equal("2 MiB page: D", PTE_A | PTE_D, *page_entry(gva, 2) & (PTE_A | PTE_D));
    page_map(gva, (SCRATCH_GPA + 0x2000) | MAP | PTE_PS, 2);
    access('r', gva);
    check_trap("2 MiB page: reserved bit 13", PF, PF_P | PF_R);
    page_map(gva, SCRATCH_GPA | MAP | PTE_PS | BIT(12), 2);
    access('r', gva);
    check_trap("2 MiB page: bit 12 is PAT", NO_TRAP, 0);
    if (!(cpuid(0x80000001, 0).edx & BIT(26))) {
        check_skipped("1 GiB page", "the processor has none");
        return;
    }
    gva = TEST_GVA + 4 * BIT(30);
    page_map(gva, MAP | PTE_PS, 3);
    check_equal("1 GiB page", 0xabcdef, read64(gva + SCRATCH_GPA + 0x123000));
    page_map(gva, BIT(20) | MAP | PTE_PS, 3);
    access('r', gva);
    check_trap("1 GiB page: reserved bit 20", PF, PF_P | PF_R);
    page_map(gva, 0, 3);
}

static void test_supervisor_protection(void)
{
    struct cpuid features = cpuid(7, 0);
    uint64_t gva = fresh_gva();
    page_map(gva, frame_a | MAP | PTE_U, 1);
    memset((void *)frame_a, 0xcc, 16);
    if (features.ebx & BIT(7)) {
        WRITE_CR(4, READ_CR(4) | CR4_SMEP);
        access('x', gva);
        check_trap("SMEP: supervisor fetch", PF, PF_P | PF_I);
        user_access('x', gva);
        check_trap("SMEP: user fetch", BP, 0);
        access('r', gva);
        check_trap("SMEP: supervisor read", NO_TRAP, 0);
        WRITE_CR(4, READ_CR(4) & ~CR4_SMEP);
        access('x', gva);
        check_trap("without SMEP again", BP, 0);
    } else {
        check_skipped("SMEP", "the processor has none");
    }
    if (!(features.ebx & BIT(20))) {
        check_skipped("SMAP", "the processor has none");
        return;
    }
    WRITE_CR(4, READ_CR(4) | CR4_SMAP);
    access('r', gva);
    check_trap("SMAP: supervisor read", PF, PF_P);
    access('w', gva);
    check_trap("SMAP: supervisor write", PF, PF_P | PF_W);
    TRY("stac; movb (%0), %%al; clac", ::"r"(gva) : "rax", "memory");
    check_trap("SMAP: with AC", NO_TRAP, 0);
    TRY("stac; clac; movb (%0), %%al", ::"r"(gva) : "rax", "memory");
    check_trap("SMAP: AC cleared", PF, PF_P);
    TRY("pushfq; orl $0x40000, (%%rsp); popfq; movb (%0), %%al; clac", ::"r"(gva)
        : "rax", "memory");
    check_trap("SMAP: AC by POPF", NO_TRAP, 0);
    user_access('r', gva);
    check_trap("SMAP: user read", CALL_VECTOR, 0);
    check_equal("SMAP: user mode without AC", 0, trap.rflags & FLAG_AC);
    WRITE_CR(4, READ_CR(4) & ~CR4_SMAP);
    access('r', gva);
    check_trap("without SMAP again", NO_TRAP, 0);
}

/* What must not, and what must remain in the TLB cannot be seen; only that flushes flush. */
static void test_flush(void)
{
    uint64_t gva = fresh_gva();
    uint64_t *pte = page_entry(gva, 1);
    write64(frame_a, 0xaaaa);
    write64(frame_b, 0xbbbb);
    page_map(gva, frame_a | MAP, 1);
    check_equal("before", 0xaaaa, read64(gva));
    *(volatile uint64_t *)pte = frame_b | MAP;
    invlpg(gva + 123);
    check_equal("INVLPG flushes", 0xbbbb, read64(gva));
    *(volatile uint64_t *)pte = frame_a | MAP;
    WRITE_CR(3, READ_CR(3));
    check_equal("CR3 flushes", 0xaaaa, read64(gva));
    *(volatile uint64_t *)pte = frame_b | MAP;
    WRITE_CR(0, READ_CR(0) ^ CR0_WP);
    WRITE_CR(0, READ_CR(0) ^ CR0_WP);
    WRITE_CR(4, READ_CR(4) ^ CR4_PGE);
    check_equal("changing CR4.PGE flushes", 0xbbbb, read64(gva));
    WRITE_CR(4, READ_CR(4) | CR4_PGE);
    *(volatile uint64_t *)pte = frame_a | MAP | PTE_G;
    invlpg(gva);
    check_equal("a global page", 0xaaaa, read64(gva));
    *(volatile uint64_t *)pte = frame_b | MAP | PTE_G;
    WRITE_CR(3, READ_CR(3));
    uint64_t seen = read64(gva);
    check("CR3 may keep global pages", seen == 0xaaaa || seen == 0xbbbb);
    WRITE_CR(4, READ_CR(4) & ~CR4_PGE);
    check_equal("changing CR4.PGE flushes global pages", 0xbbbb, read64(gva));
    WRITE_CR(4, READ_CR(4) | CR4_PGE);
    *(volatile uint64_t *)pte = frame_a | MAP | PTE_G;
    invlpg(gva);
    check_equal("INVLPG flushes global pages", 0xaaaa, read64(gva));
    WRITE_CR(4, READ_CR(4) & ~CR4_PGE);
    /* A 2 MiB page as a whole. */
    uint64_t large = TEST_GVA + 6 * BIT(30);
    page_map(large, SCRATCH_GPA | MAP | PTE_PS, 2);
    write64(SCRATCH_GPA + 0x5000, 1);
    write64(SCRATCH_GPA + 0x205000, 2);
    write64(SCRATCH_GPA + 0x1f0000, 3);
    write64(SCRATCH_GPA + 0x3f0000, 4);
    check_equal("2 MiB before", 4, read64(large + 0x5000) + read64(large + 0x1f0000));
    *page_entry(large, 2) = (SCRATCH_GPA + 0x200000) | MAP | PTE_PS;
    invlpg(large + 0x100000);
    check_equal("INVLPG flushes all of a 2 MiB page", 6,
                read64(large + 0x5000) + read64(large + 0x1f0000));
    /* Absent entries are not kept. */
    page_map(gva, 0, 1);
    access('r', gva);
    check_trap("absent", PF, 0);
    *(volatile uint64_t *)pte = frame_a | MAP;
    access('r', gva);
    check_trap("from absent to present needs no flush", NO_TRAP, 0);
    /* More rights: at most a fault, after which they are known. */
    page_map(gva, frame_a | PTE_P, 1);
    access('w', gva);
    *(volatile uint64_t *)pte = frame_a | MAP;
    access('w', gva);
    access('w', gva);
    check_trap("more rights after one fault", NO_TRAP, 0);
}

static void test_pcid(void)
{
    if (!(cpuid(1, 0).ecx & BIT(17))) {
        check_skipped("PCID", "the processor has none");
        return;
    }
    uint64_t gva = fresh_gva(), cr3 = READ_CR(3);
    uint64_t *pte = page_entry(gva, 1);
    write64(frame_a, 0xaaaa);
    write64(frame_b, 0xbbbb);
    TRY("movq %0, %%cr3", ::"r"(cr3 | 1));
    check_trap("CR3 with low bits without PCIDE", NO_TRAP, 0);
    TRY("movq %0, %%cr4", ::"r"(READ_CR(4) | CR4_PCIDE));
    check_trap("PCIDE while CR3 has a PCID", GP, 0);
    WRITE_CR(3, cr3);
    WRITE_CR(4, READ_CR(4) | CR4_PCIDE);
    page_map(gva, frame_a | MAP, 1);
    WRITE_CR(3, cr3 | 1);
    check_equal("PCID 1", 0xaaaa, read64(gva));
    WRITE_CR(3, cr3 | 2);
    check_equal("PCID 2", 0xaaaa, read64(gva));
    *(volatile uint64_t *)pte = frame_b | MAP;
    invlpg(gva);
    check_equal("INVLPG in PCID 2", 0xbbbb, read64(gva));
    WRITE_CR(3, cr3 | 1);
    check_equal("CR3 without bit 63 flushes PCID 1", 0xbbbb, read64(gva));
    WRITE_CR(3, cr3 | 2 | BIT(63));
    check_equal("CR3 reads without bit 63", cr3 | 2, READ_CR(3));
    check_equal("PCID 2 was flushed before", 0xbbbb, read64(gva));
    if (cpuid(7, 0).ebx & BIT(10)) {
        struct {
            uint64_t pcid, gva;
        } what = {1, gva};
        for (uint64_t type = 0; type < 4; type++) {
            *(volatile uint64_t *)pte = frame_a | MAP;
            WRITE_CR(3, cr3 | 1);
            (void)read64(gva);
            *(volatile uint64_t *)pte = frame_b | MAP;
            WRITE_CR(3, cr3 | 2 | BIT(63));
            asm volatile("invpcid %0, %1" ::"m"(what), "r"(type) : "memory");
            WRITE_CR(3, cr3 | 1 | BIT(63));
            check_equal("INVPCID flushes another PCID", 0xbbbb, read64(gva));
        }
        TRY("invpcid %0, %1", ::"m"(what), "r"(4ull));
        check_fault("INVPCID type 4", GP, 0);
        what.pcid = 0x1000;
        TRY("invpcid %0, %1", ::"m"(what), "r"(0ull));
        check_fault("INVPCID reserved bits", GP, 0);
    } else {
        check_skipped("INVPCID", "the processor has none");
    }
    WRITE_CR(3, cr3);
    WRITE_CR(4, READ_CR(4) & ~CR4_PCIDE);
    uint64_t reserved = cr3 | BIT(60);
    TRY("movq %0, %%cr3", ::"r"(reserved));
    check_fault("CR3 with reserved bits", GP, 0);
}

/* --- 32-bit modes --- */

SNIPPET(read32_code, ".code32", "movl (%ebx), %eax; int $0x80");
SNIPPET(write32_code, ".code32", "movl %eax, (%ebx); int $0x80");

static struct legacy_mode mode32;

static void legacy_access(const char *name, char kind, uint32_t gva, bool is_user, unsigned vector,
                          uint32_t error)
{
    struct legacy_start start = {.eip = USER_CODE,
                                 .ebx = gva,
                                 .eflags = 2,
                                 .cs = is_user ? USER_CS32 : KERNEL_CS32,
                                 .esp = USER_STACK,
                                 .ss = USER_DS,
                                 .eax = 0x77777777};
    if (kind == 'r') {
        LOAD_SNIPPET(read32_code, USER_CODE);
    } else {
        LOAD_SNIPPET(write32_code, USER_CODE);
    }
    if (is_user) {
        /* User mode needs data segments of its own: IRET has cleared those of CPL 0. */
        uint8_t code[32] = {0xb8, USER_DS, 0, 0, 0, 0x8e, 0xd8};
        const size_t size = 4; /* of both snippets */
        memcpy(code + 7, (void *)USER_CODE, size);
        memcpy((void *)USER_CODE, code, 7 + size);
    }
    legacy_run(&mode32, &start);
    check_trap(name, vector, error);
}

static void test_32_bit(void)
{
    uint32_t *directory = (uint32_t *)page_alloc(), *table = (uint32_t *)page_alloc();
    for (unsigned i = 0; i < 16; i++) {
        directory[i] = i << 22 | 0x83 | (i == USER_BASE >> 22 ? 4 : 0);
    }
    uint32_t gva = 0x40000000;
    directory[gva >> 22] = (uint32_t)(uintptr_t)table | 7;
    mode32 = (struct legacy_mode){
        .cr0 = 0x80010031, .cr3 = (uint32_t)(uintptr_t)directory, .cr4 = CR4_PSE};
    write32(frame_a, 0x55aa);
    table[0] = (uint32_t)frame_a | 3;
    table[1] = (uint32_t)frame_a | 1;
    table[2] = (uint32_t)frame_a | 7;
    legacy_access("32-bit paging: read", 'r', gva, false, CALL_VECTOR, 0);
    check_equal("32-bit paging: value", 0x55aa, trap.rax);
    check_equal("32-bit paging: A", 0x20, table[0] & 0x60);
    legacy_access("32-bit paging: user read of a supervisor page", 'r', gva, true, PF, 5);
    legacy_access("32-bit paging: read-only", 'w', gva + 0x1000, false, PF, 3);
    legacy_access("32-bit paging: absent", 'w', gva + 0x3000, false, PF, 2);
    check_equal("32-bit paging: CR2", gva + 0x3000, trap_cr2);
    legacy_access("32-bit paging: user write", 'w', gva + 0x2000, true, CALL_VECTOR, 0);
    check_equal("32-bit paging: D", 0x60, table[2] & 0x60);
    mode32.cr0 &= ~(uint32_t)CR0_WP;
    legacy_access("32-bit paging: read-only without WP", 'w', gva + 0x1000, false, CALL_VECTOR, 0);
    mode32.cr0 |= CR0_WP;
    write32(SCRATCH_GPA + 0x400000, 0x4444);
    directory[(gva >> 22) + 1] = (SCRATCH_GPA & ~0x3fffffu) | 0x87;
    directory[(gva >> 22) + 2] = (SCRATCH_GPA & ~0x3fffffu) | BIT(21) | 0x87;
    write32((SCRATCH_GPA & ~0x3fffffu) + 0x345678, 0x4444);
    legacy_access("4 MiB page", 'r', gva + 0x400000 + 0x345678, false, CALL_VECTOR, 0);
    check_equal("4 MiB page: value", 0x4444, trap.rax);
    legacy_access("4 MiB page: reserved bit 21", 'r', gva + 0x800000, false, PF, 9);
    /* Without PSE the bit is ignored and the entry names a table. */
    check_equal("4 MiB page: A", 0x20, directory[(gva >> 22) + 1] & 0x60);

    uint64_t *pdpt = (uint64_t *)page_alloc(), *pd = (uint64_t *)page_alloc(),
             *pt = (uint64_t *)page_alloc(), *pd1 = (uint64_t *)page_alloc();
    pdpt[0] = (uintptr_t)pd | PTE_P;
    pdpt[1] = (uintptr_t)pd1 | PTE_P;
    for (uint64_t i = 0; i < 32; i++) {
        pd[i] = i << 21 | 0x83 | (i == USER_BASE >> 21 ? 4 : 0);
    }
    pd1[0] = (uintptr_t)pt | 7;
    pt[0] = frame_a | 3;
    pt[1] = frame_a | 1;
    pt[2] = frame_a | 7 | PTE_NX;
    pt[4] = frame_a | 7 | BIT(62);
    mode32 = (struct legacy_mode){
        .cr0 = 0x80010031, .cr3 = (uint32_t)(uintptr_t)pdpt, .cr4 = CR4_PAE, .efer = 0x800};
    write32(frame_a, 0x66bb);
    legacy_access("PAE: read", 'r', gva, false, CALL_VECTOR, 0);
    check_equal("PAE: value", 0x66bb, trap.rax);
    legacy_access("PAE: user read of a supervisor page", 'r', gva, true, PF, 5);
    legacy_access("PAE: read-only", 'w', gva + 0x1000, false, PF, 3);
    legacy_access("PAE: NX page, write", 'w', gva + 0x2000, true, CALL_VECTOR, 0);
    legacy_access("PAE: absent", 'r', gva + 0x3000, true, PF, 4);
    legacy_access("PAE: reserved bit 62", 'r', gva + 0x4000, false, PF, 9);
    legacy_access("PAE: absent pointer", 'r', 0x80000000, false, PF, 0);
    struct legacy_start start = {.eip = gva + 0x2000, .eflags = 2, .cs = KERNEL_CS32};
    memset((void *)frame_a, 0xcc, 16);
    legacy_run(&mode32, &start);
    check_trap("PAE: fetch from an NX page", PF, 17);
    mode32.efer = 0;
    legacy_run(&mode32, &start);
    check_trap("PAE: NX is reserved without NXE", PF, 9);
    pt[2] = frame_a | 3;
    legacy_run(&mode32, &start);
    check_trap("PAE: fetch", BP, 0);
}

/* Without NXE, bit 63 is reserved in 64-bit mode too. */
static void test_nxe(void)
{
    uint64_t gva = fresh_gva();
    page_map(gva, frame_a | MAP | PTE_NX, 1);
    wrmsr(0xc0000080, rdmsr(0xc0000080) & ~BIT(11));
    access('r', gva);
    check_trap("NX without NXE is reserved", PF, PF_P | PF_R);
    wrmsr(0xc0000080, rdmsr(0xc0000080) | BIT(11));
    access('r', gva);
    check_trap("NX with NXE again", NO_TRAP, 0);
}

void guest_main(void)
{
    frame_a = page_alloc();
    frame_b = page_alloc();
    test_rights();
    test_accessed_dirty();
    test_large();
    test_supervisor_protection();
    test_flush();
    test_pcid();
    test_nxe();
    test_32_bit();
}
