/* x87, SSE and AVX as a system sees them: #NM, #UD, unmasked exceptions, FXSAVE, XSAVE, XRSTOR (SDM 1 chapter 13). */
#include "guest.h"

#define CR0_MP      BIT(1)
#define CR0_EM      BIT(2)
#define CR0_TS      BIT(3)
#define CR4_OSFXSR  BIT(9)
#define CR4_OSXMM   BIT(10)
#define CR4_OSXSAVE BIT(18)

static uint8_t area[4096] __attribute__((aligned(64)));
static uint8_t other[4096] __attribute__((aligned(64)));

static void set_cr0(uint64_t bits)
{
    WRITE_CR(0, (READ_CR(0) & ~(CR0_MP | CR0_EM | CR0_TS)) | bits);
}

static unsigned try_x87(void)
{
    TRY("fnop", ::: "memory");
    return (unsigned)trap.vector;
}

static unsigned try_wait(void)
{
    TRY("fwait", ::: "memory");
    return (unsigned)trap.vector;
}

static unsigned try_mmx(void)
{
    TRY("pxor %%mm0, %%mm0", ::: "memory");
    return (unsigned)trap.vector;
}

static unsigned try_sse(void)
{
    TRY("xorps %%xmm0, %%xmm0", ::: "memory");
    return (unsigned)trap.vector;
}

static unsigned try_fxsave(void)
{
    TRY("fxsave (%0)", ::"r"(area) : "memory");
    return (unsigned)trap.vector;
}

static void test_availability(void)
{
    static const struct {
        const char *name;
        uint64_t cr0;
        unsigned x87, wait, mmx, sse, fxsave;
    } cases[] = {
        {"nothing set", 0, NO_TRAP, NO_TRAP, NO_TRAP, NO_TRAP, NO_TRAP},
        {"MP", CR0_MP, NO_TRAP, NO_TRAP, NO_TRAP, NO_TRAP, NO_TRAP},
        {"TS", CR0_TS, NM, NO_TRAP, NM, NM, NM},
        {"TS and MP", CR0_TS | CR0_MP, NM, NM, NM, NM, NM},
        {"EM", CR0_EM, NM, NO_TRAP, UD, UD, NM},
        {"EM and TS", CR0_EM | CR0_TS, NM, NO_TRAP, UD, UD, NM},
    };
    for (unsigned i = 0; i < ARRAY_COUNT(cases); i++) {
        set_cr0(cases[i].cr0);
        unsigned x87 = try_x87(), wait = try_wait(), mmx = try_mmx(), sse = try_sse(),
                 fxsave = try_fxsave();
        set_cr0(CR0_MP);
        print_text(cases[i].name);
        print_text(":\n");
        check_equal("  x87", cases[i].x87, x87);
        check_equal("  FWAIT", cases[i].wait, wait);
        check_equal("  MMX", cases[i].mmx, mmx);
        check_equal("  SSE", cases[i].sse, sse);
        check_equal("  FXSAVE", cases[i].fxsave, fxsave);
    }
    set_cr0(CR0_TS);
    asm volatile("clts");
    check_equal("CLTS", 0, READ_CR(0) & CR0_TS);
    set_cr0(CR0_MP);
    WRITE_CR(4, READ_CR(4) & ~CR4_OSFXSR);
    check_equal("SSE without OSFXSR", UD, try_sse());
    TRY("ldmxcsr (%0)", ::"r"(area) : "memory");
    check_fault("LDMXCSR without OSFXSR", UD, 0);
    check_equal("x87 without OSFXSR", NO_TRAP, try_x87());
    WRITE_CR(4, READ_CR(4) | CR4_OSFXSR);
    TRY("movaps (%0), %%xmm0", ::"r"(area + 8) : "memory");
    check_fault("MOVAPS of a misaligned address", GP, 0);
    TRY("movups (%0), %%xmm0", ::"r"(area + 8) : "memory");
    check_trap("MOVUPS of a misaligned address", NO_TRAP, 0);
}

static void test_exceptions(void)
{
    uint32_t mxcsr = 0x1f80 & ~BIT(9); /* division by zero unmasked */
    static const float ones[4] __attribute__((aligned(16))) = {1, 1, 1, 1};
    WRITE_CR(4, READ_CR(4) | CR4_OSXMM);
    TRY("ldmxcsr %0; movaps %1, %%xmm1; xorps %%xmm2, %%xmm2; divps %%xmm2, %%xmm1", ::"m"(mxcsr),
        "m"(ones)
        : "memory");
    check_trap("#XM", XM, 0);
    asm volatile("stmxcsr %0" : "=m"(mxcsr));
    check_equal("#XM: MXCSR has the flag", BIT(2), mxcsr & 0x3f);
    WRITE_CR(4, READ_CR(4) & ~CR4_OSXMM);
    TRY("divps %%xmm2, %%xmm1", ::: "memory");
    check_trap("#UD in its place without OSXMMEXCPT", UD, 0);
    mxcsr = 0x1f80;
    TRY("ldmxcsr %0; divps %%xmm2, %%xmm1", ::"m"(mxcsr) : "memory");
    check_trap("masked", NO_TRAP, 0);
    mxcsr = 0x11f80;
    TRY("ldmxcsr %0", ::"m"(mxcsr) : "memory");
    check_fault("MXCSR: reserved bits", GP, 0);
    mxcsr = 0x1f80;
    asm volatile("ldmxcsr %0" ::"m"(mxcsr));

    uint16_t control = 0x37f & ~4;
    TRY("fninit; fldcw %0; fld1; fldz; fdivrp; nop; fwait", ::"m"(control) : "memory");
    check_trap("#MF", MF, 0);
    uint16_t status;
    asm volatile("fnstsw %0" : "=m"(status));
    check_equal("#MF: status has the flag and the summary", 0x84, status & 0x84);
    TRY("fld1", ::: "memory");
    check_fault("#MF at the next x87 instruction", MF, 0);
    TRY("fnclex; fld1", ::: "memory");
    check_trap("FNCLEX", NO_TRAP, 0);
    asm volatile("fninit");
}

static void test_fxsave(void)
{
    memset(area, 0xee, 512);
    asm volatile("fninit; fld1; pcmpeqd %%xmm3, %%xmm3; fxsave (%0)" ::"r"(area) : "memory");
    check_equal("FXSAVE: control word", 0x37f, area[0] | area[1] << 8);
    check_equal("FXSAVE: status word: top is 7", 0x3800, area[2] | area[3] << 8);
    check_equal("FXSAVE: abridged tags", 0x80, area[4]);
    check_equal("FXSAVE: MXCSR", 0x1f80, read32((uintptr_t)area + 24));
    check("FXSAVE: MXCSR mask", (read32((uintptr_t)area + 28) & 0xffbf) == 0xffbf);
    check_equal("FXSAVE: ST0", 0x8000000000000000, read64((uintptr_t)area + 32));
    check_equal("FXSAVE: XMM3", UINT64_MAX, read64((uintptr_t)area + 160 + 48));
    check_equal("FXSAVE: the last 48 bytes are left", 0xeeeeeeeeeeeeeeee,
                read64((uintptr_t)area + 464));
    memcpy(other, area, 512);
    memset(other + 160, 0x11, 16);
    asm volatile("fxrstor (%0); fxsave (%1)" ::"r"(other), "r"(area) : "memory");
    check("FXRSTOR", memcmp(area, other, 464) == 0);
    TRY("fxsave (%0)", ::"r"(area + 8) : "memory");
    check("FXSAVE of a misaligned address", trap.vector == GP && trap.error == 0);
    other[26] = 0xff;
    TRY("fxrstor (%0)", ::"r"(other) : "memory");
    check_fault("FXRSTOR: reserved bits of MXCSR", GP, 0);
}

#define XSAVE(place, mask)                                                                         \
    asm volatile("xsave64 (%0)" ::"r"(place), "a"((uint32_t)(mask)), "d"(0) : "memory")
#define TRY_XRSTOR(place, mask)                                                                    \
    TRY("xrstor64 (%0)", ::"r"(place), "a"((uint32_t)(mask)), "d"(0) : "memory")

static void xsetbv(uint32_t index, uint64_t value)
{
    TRY("xsetbv", ::"c"(index), "a"((uint32_t)value), "d"((uint32_t)(value >> 32)) : "memory");
}

SNIPPET(user_xsetbv, ".code64",
        "xorl %ecx, %ecx; movl $3, %eax; xorl %edx, %edx; xsetbv; int $0x80");
SNIPPET(user_xgetbv, ".code64", "xorl %ecx, %ecx; xgetbv; int $0x80");

static void test_xcr0(void)
{
    uint32_t supported = cpuid(0xd, 0).eax;
    WRITE_CR(4, READ_CR(4) & ~CR4_OSXSAVE);
    TRY("xgetbv", ::"c"(0) : "rax", "rdx");
    check_fault("XGETBV without OSXSAVE", UD, 0);
    TRY("xsave (%0)", ::"r"(area), "a"(3), "d"(0) : "memory");
    check_fault("XSAVE without OSXSAVE", UD, 0);
    xsetbv(0, 3);
    check_fault("XSETBV without OSXSAVE", UD, 0);
    WRITE_CR(4, READ_CR(4) | CR4_OSXSAVE);
    xsetbv(0, 3);
    check_trap("XCR0: x87 and SSE", NO_TRAP, 0);
    xsetbv(0, 2);
    check_fault("XCR0: without x87", GP, 0);
    xsetbv(0, 5);
    check_fault("XCR0: AVX without SSE", GP, 0);
    xsetbv(0, 3 | BIT(62));
    check_fault("XCR0: bit 62", GP, 0);
    xsetbv(1, 3);
    check_fault("XCR1", GP, 0);
    struct trap_frame user = frame_user();
    LOAD_SNIPPET(user_xsetbv, USER_CODE);
    trap_run(&user);
    check_trap("XSETBV at CPL 3", GP, 0);
    LOAD_SNIPPET(user_xgetbv, USER_CODE);
    trap_run(&user);
    check_trap("XGETBV at CPL 3", CALL_VECTOR, 0);
    check_equal("XGETBV", 3, trap.rax);
    if (supported & 4) {
        TRY("vxorps %%ymm0, %%ymm0, %%ymm0", ::: "memory");
        check_fault("AVX without its bit in XCR0", UD, 0);
        xsetbv(0, 7);
        TRY("vxorps %%ymm0, %%ymm0, %%ymm0", ::: "memory");
        check_trap("AVX", NO_TRAP, 0);
        set_cr0(CR0_TS | CR0_MP);
        TRY("vxorps %%ymm0, %%ymm0, %%ymm0", ::: "memory");
        check_fault("AVX with TS", NM, 0);
        TRY("xsave (%0)", ::"r"(area), "a"(7), "d"(0) : "memory");
        check_fault("XSAVE with TS", NM, 0);
        set_cr0(CR0_EM);
        TRY("vxorps %%ymm0, %%ymm0, %%ymm0", ::: "memory");
        check_trap("AVX does not care for EM", NO_TRAP, 0);
        set_cr0(CR0_MP);
    }
}

static void test_xsave(void)
{
    bool has_avx = cpuid(0xd, 0).eax & 4;
    uint64_t header = (uintptr_t)area + 512;
    memset(area, 0, sizeof(area));
    memset(other, 0, sizeof(other));
    asm volatile("fninit; fld1; pcmpeqd %%xmm3, %%xmm3" ::: "memory");
    if (has_avx) {
        asm volatile("vcmptrueps %%ymm5, %%ymm5, %%ymm5" ::: "memory");
    }
    XSAVE(area, 7);
    uint64_t all = has_avx ? 7 : 3;
    check_equal("XSAVE: all components in use", all, read64(header));
    check_equal("XSAVE: XMM3", UINT64_MAX, read64((uintptr_t)area + 160 + 48));
    if (has_avx) {
        check_equal("XSAVE: upper half of YMM5", UINT64_MAX,
                    read64((uintptr_t)area + 576 + 5 * 16));
        check_equal("XSAVE: upper half of YMM3", 0, read64((uintptr_t)area + 576 + 3 * 16));
    }
    write64((uintptr_t)other + 512, 4);
    XSAVE(other, 2);
    check_equal("XSAVE of SSE alone: other bits of the header stay", 6,
                read64((uintptr_t)other + 512));
    check_equal("XSAVE of SSE alone: no x87", 0, other[0]);
    check_equal("XSAVE of SSE alone: XMM3", UINT64_MAX, read64((uintptr_t)other + 160 + 48));
    /* Everything to its initial state, then from memory again. */
    memset(other, 0, sizeof(other));
    write32((uintptr_t)other + 24, 0x1f80);
    TRY_XRSTOR(other, 7);
    check_trap("XRSTOR of an empty area", NO_TRAP, 0);
    memset(other, 0xee, sizeof(other));
    memset(other + 512, 0, 64);
    asm volatile("fxsave64 (%0)" ::"r"(other) : "memory");
    check_equal("XRSTOR: x87 is new", 0x37f, other[0] | other[1] << 8);
    check_equal("XRSTOR: no tags", 0, other[4]);
    check_equal("XRSTOR: XMM3 is 0", 0, read64((uintptr_t)other + 160 + 48));
    TRY_XRSTOR(area, 7);
    memset(other, 0, sizeof(other));
    XSAVE(other, 7);
    check("XRSTOR: all back", memcmp(area + 24, other + 24, 464 - 24) == 0 &&
                                  memcmp(area + 512, other + 512, 1024) == 0);
    write64(header, all | BIT(63));
    TRY_XRSTOR(area, 7);
    check_fault("XRSTOR: unknown component in the header", GP, 0);
    write64(header, all);
    write64(header + 16, 1);
    TRY_XRSTOR(area, 7);
    check_fault("XRSTOR: reserved bytes of the header", GP, 0);
    write64(header + 16, 0);
    write64(header + 8, 1);
    TRY_XRSTOR(area, 7);
    check_fault("XRSTOR: XCOMP_BV without the compacted form", GP, 0);
    write64(header + 8, 0);
    TRY_XRSTOR(area + 16, 7);
    check_fault("XRSTOR: misaligned", GP, 0);
    TRY("xsave (%0)", ::"r"(area + 32), "a"(7), "d"(0) : "memory");
    check_fault("XSAVE: misaligned", GP, 0);
    uint32_t mxcsr = read32((uintptr_t)area + 24);
    write32((uintptr_t)area + 24, 0x11f80);
    TRY_XRSTOR(area, 2);
    check_fault("XRSTOR: reserved bits of MXCSR", GP, 0);
    write32((uintptr_t)area + 24, mxcsr);
    uint64_t edge = TEST_GVA + PAGE;
    page_map(edge, page_alloc() | PTE_P | PTE_W, 1);
    TRY("xsave (%0)", ::"r"(edge + PAGE - 576 + 64), "a"(3), "d"(0) : "memory");
    check_trap("XSAVE into an absent page", PF, PF_W);
    uint32_t more = cpuid(0xd, 1).eax;
    if (more & 1) {
        memset(other, 0, sizeof(other));
        TRY("xsaveopt64 (%0)", ::"r"(other), "a"(7), "d"(0) : "memory");
        check_equal("XSAVEOPT: header", all, read64((uintptr_t)other + 512));
    } else {
        check_skipped("XSAVEOPT", "the processor has none");
    }
    if (more & 2) {
        memset(other, 0, sizeof(other));
        TRY("xsavec64 (%0)", ::"r"(other), "a"(has_avx ? 6 : 2), "d"(0) : "memory");
        check_equal("XSAVEC: XCOMP_BV", BIT(63) | (has_avx ? 6 : 2),
                    read64((uintptr_t)other + 520));
        write64((uintptr_t)other + 520, BIT(63) | (has_avx ? 6 : 2));
        TRY_XRSTOR(other, 7);
        check_trap("XRSTOR of the compacted form", NO_TRAP, 0);
    } else {
        check_skipped("XSAVEC", "the processor has none");
    }
}

void guest_main(void)
{
    WRITE_CR(4, READ_CR(4) | CR4_OSFXSR);
    asm volatile("fninit");
    test_availability();
    test_exceptions();
    test_fxsave();
    if (!(cpuid(1, 0).ecx & BIT(26))) {
        check_skipped("XSAVE", "the processor has none");
        return;
    }
    test_xcr0();
    test_xsave();
}
