/* CPUID: that its leaves agree with each other and with the processor, and that announced features work. */
#include "guest.h"

#define CR4_OSFXSR   BIT(9)
#define CR4_OSXSAVE  BIT(18)
#define CR4_FSGSBASE BIT(16)

enum reg {
    EAX,
    EBX,
    ECX,
    EDX
};

static uint32_t get(uint32_t leaf, uint32_t subleaf, enum reg reg)
{
    struct cpuid r = cpuid(leaf, subleaf);
    return reg == EAX ? r.eax : reg == EBX ? r.ebx : reg == ECX ? r.ecx : r.edx;
}

/* An instruction of each feature, with operands in XMM or general registers, RBX for memory. */
static const struct {
    const char *name;
    uint32_t leaf;
    enum reg reg;
    unsigned bit;
    uint8_t size, code[12];
} features[] = {
    {"CMPXCHG8B", 1, EDX, 8, 3, {0x0f, 0xc7, 0x0b}},
    {"CMOV", 1, EDX, 15, 3, {0x0f, 0x44, 0xc1}},
    {"CLFLUSH", 1, EDX, 19, 3, {0x0f, 0xae, 0x3b}},
    {"MMX", 1, EDX, 23, 3, {0x0f, 0xef, 0xc0}},
    {"FXSAVE", 1, EDX, 24, 3, {0x0f, 0xae, 0x03}},
    {"SSE", 1, EDX, 25, 3, {0x0f, 0x58, 0xc1}},
    {"SSE2", 1, EDX, 26, 4, {0x66, 0x0f, 0xfe, 0xc1}},
    {"SSE3", 1, ECX, 0, 4, {0xf2, 0x0f, 0x7c, 0xc1}},
    {"PCLMULQDQ", 1, ECX, 1, 6, {0x66, 0x0f, 0x3a, 0x44, 0xc1, 0}},
    {"SSSE3", 1, ECX, 9, 5, {0x66, 0x0f, 0x38, 0x00, 0xc1}},
    {"FMA", 1, ECX, 12, 5, {0xc4, 0xe2, 0x71, 0x98, 0xc2}},
    {"CMPXCHG16B", 1, ECX, 13, 4, {0x48, 0x0f, 0xc7, 0x0b}},
    {"SSE4.1", 1, ECX, 19, 5, {0x66, 0x0f, 0x38, 0x38, 0xc1}},
    {"SSE4.2", 1, ECX, 20, 5, {0x66, 0x0f, 0x38, 0x37, 0xc1}},
    {"CRC32 of SSE4.2", 1, ECX, 20, 5, {0xf2, 0x0f, 0x38, 0xf1, 0xc1}},
    {"MOVBE", 1, ECX, 22, 4, {0x0f, 0x38, 0xf0, 0x03}},
    {"POPCNT", 1, ECX, 23, 4, {0xf3, 0x0f, 0xb8, 0xc1}},
    {"AES", 1, ECX, 25, 5, {0x66, 0x0f, 0x38, 0xdc, 0xc1}},
    {"XGETBV of XSAVE", 1, ECX, 26, 5, {0x31, 0xc9, 0x0f, 0x01, 0xd0}},
    {"AVX", 1, ECX, 28, 4, {0xc5, 0xfc, 0x58, 0xc1}},
    {"F16C", 1, ECX, 29, 5, {0xc4, 0xe2, 0x7d, 0x13, 0xc1}},
    {"RDRAND", 1, ECX, 30, 3, {0x0f, 0xc7, 0xf0}},
    {"FSGSBASE", 7, EBX, 0, 5, {0xf3, 0x48, 0x0f, 0xae, 0xc0}},
    {"BMI1", 7, EBX, 3, 5, {0xc4, 0xe2, 0x70, 0xf2, 0xc2}},
    {"AVX2", 7, EBX, 5, 4, {0xc5, 0xfd, 0xfe, 0xc1}},
    {"BMI2", 7, EBX, 8, 5, {0xc4, 0xe2, 0x72, 0xf5, 0xc2}},
    {"RDSEED", 7, EBX, 18, 3, {0x0f, 0xc7, 0xf8}},
    {"ADX", 7, EBX, 19, 5, {0x66, 0x0f, 0x38, 0xf6, 0xc1}},
    {"CLFLUSHOPT", 7, EBX, 23, 4, {0x66, 0x0f, 0xae, 0x3b}},
    {"CLWB", 7, EBX, 24, 4, {0x66, 0x0f, 0xae, 0x33}},
    {"SHA", 7, EBX, 29, 4, {0x0f, 0x38, 0xc8, 0xc1}},
    {"RDPID", 7, ECX, 22, 4, {0xf3, 0x0f, 0xc7, 0xf8}},
    {"GFNI", 7, ECX, 8, 5, {0x66, 0x0f, 0x38, 0xcf, 0xc1}},
    {"VAES", 7, ECX, 9, 5, {0xc4, 0xe2, 0x75, 0xdc, 0xc2}},
    {"LAHF", 0x80000001, ECX, 0, 1, {0x9f}},
    {"LZCNT", 0x80000001, ECX, 5, 4, {0xf3, 0x0f, 0xbd, 0xc1}},
    {"PREFETCHW", 0x80000001, ECX, 8, 3, {0x0f, 0x0d, 0x0b}},
    {"SSE4A", 0x80000001, ECX, 6, 4, {0xf2, 0x0f, 0x79, 0xc1}},
    {"RDTSCP", 0x80000001, EDX, 27, 3, {0x0f, 0x01, 0xf9}},
    {"3DNow!", 0x80000001, EDX, 31, 4, {0x0f, 0x0f, 0xc1, 0x9e}},
};

static void test_features(void)
{
    WRITE_CR(4, READ_CR(4) | CR4_OSFXSR);
    if (get(1, 0, ECX) & BIT(26)) {
        WRITE_CR(4, READ_CR(4) | CR4_OSXSAVE);
        uint32_t components = get(0xd, 0, EAX) & 7;
        asm volatile("xsetbv" ::"c"(0), "a"(components), "d"(0));
    }
    if (get(7, 0, EBX) & 1) {
        WRITE_CR(4, READ_CR(4) | CR4_FSGSBASE);
    }
    struct trap_frame start = frame_kernel();
    start.rbx = USER_DATA;
    for (unsigned i = 0; i < ARRAY_COUNT(features); i++) {
        if (!(get(features[i].leaf, 0, features[i].reg) & BIT(features[i].bit))) {
            continue;
        }
        memset((void *)USER_CODE, 0xcc, 32);
        memcpy((void *)USER_CODE, features[i].code, features[i].size);
        memcpy((void *)(uintptr_t)(USER_CODE + features[i].size), (const uint8_t[]){0xcd, 0x80}, 2);
        trap_run(&start);
        check_trap(features[i].name, CALL_VECTOR, 0);
        if (trap.vector == CALL_VECTOR) {
            check_equal("  its length", features[i].size + 2u, trap.rip - USER_CODE);
        }
    }
}

/* A feature that needs another one. */
static const struct {
    const char *name;
    uint32_t leaf;
    enum reg reg;
    unsigned bit;
    uint32_t needed_leaf;
    enum reg needed_reg;
    unsigned needed_bit;
} needs[] = {
    {"AVX needs XSAVE", 1, ECX, 28, 1, ECX, 26},
    {"AVX2 needs AVX", 7, EBX, 5, 1, ECX, 28},
    {"FMA needs AVX", 1, ECX, 12, 1, ECX, 28},
    {"F16C needs AVX", 1, ECX, 29, 1, ECX, 28},
    {"SSE2 needs SSE", 1, EDX, 26, 1, EDX, 25},
    {"SSE3 needs SSE2", 1, ECX, 0, 1, EDX, 26},
    {"SSE4.2 needs SSE4.1", 1, ECX, 20, 1, ECX, 19},
    {"SSE4.1 needs SSSE3", 1, ECX, 19, 1, ECX, 9},
    {"AVX-512F needs AVX2", 7, EBX, 16, 7, EBX, 5},
    {"long mode needs PAE", 0x80000001, EDX, 29, 1, EDX, 6},
};

static void test_agreement(void)
{
    print_text("processor: ");
    print_hex(get(0, 0, EBX));
    print_text(" signature ");
    print_hex(get(1, 0, EAX));
    print_text("\n");
    uint32_t max = get(0, 0, EAX), max_extended = get(0x80000000, 0, EAX);
    check_range("leaves", 1, 0x40, max);
    check_range("extended leaves", 0x80000008, 0x80000040, max_extended);
    check("long mode and SYSCALL",
          (get(0x80000001, 0, EDX) & (BIT(29) | BIT(11))) == (BIT(29) | BIT(11)));
    for (unsigned i = 0; i < ARRAY_COUNT(needs); i++) {
        if (get(needs[i].leaf, 0, needs[i].reg) & BIT(needs[i].bit)) {
            check(needs[i].name,
                  get(needs[i].needed_leaf, 0, needs[i].needed_reg) & BIT(needs[i].needed_bit));
        }
    }
    uint32_t widths = get(0x80000008, 0, EAX);
    check_range("physical address bits", 36, 52, widths & 0xff);
    check_either("linear address bits", 48, 57, widths >> 8 & 0xff);
    check_equal("APIC in leaf 1 as in its base register", rdmsr(0x1b) >> 11 & 1,
                get(1, 0, EDX) >> 9 & 1);
    /* QEMU's first 0xb leaf is what the topology asks for; without one it is all 0. */
    if (max >= 0xb && get(0xb, 0, EBX) != 0) {
        check_equal("the number in leaf 0xb is that of leaf 1", get(1, 0, EBX) >> 24,
                    get(0xb, 0, EDX) & 0xff);
    }
    check_equal("a hypervisor's leaf, if there is one", true,
                !(get(1, 0, ECX) & BIT(31)) || get(0x40000000, 0, EAX) >= 0x40000000);
    uint32_t before = get(1, 0, ECX);
    WRITE_CR(4, READ_CR(4) & ~CR4_OSXSAVE);
    check_equal("OSXSAVE is CR4's bit: clear", 0, get(1, 0, ECX) & BIT(27));
    if (before & BIT(26)) {
        WRITE_CR(4, READ_CR(4) | CR4_OSXSAVE);
        check_equal("OSXSAVE is CR4's bit: set", BIT(27), get(1, 0, ECX) & BIT(27));
    } else {
        TRY("movq %0, %%cr4", ::"r"(READ_CR(4) | CR4_OSXSAVE));
        check_fault("OSXSAVE without XSAVE", GP, 0);
    }
}

static void test_xsave(void)
{
    if (!(get(1, 0, ECX) & BIT(26))) {
        check_skipped("XSAVE's leaf", "the processor has no XSAVE");
        return;
    }
    uint32_t supported = get(0xd, 0, EAX), largest = get(0xd, 0, ECX);
    check_equal("x87 and SSE are in XCR0", 3, supported & 3);
    uint32_t end = 576;
    for (unsigned i = 2; i < 32; i++) {
        uint32_t size = get(0xd, i, EAX), offset = get(0xd, i, EBX);
        if (supported & BIT(i)) {
            check("a component has a place behind the header", size != 0 && offset >= 576);
            end = offset + size > end ? offset + size : end;
        } else if (!(get(0xd, 1, ECX) & BIT(i))) {
            check_equal("no size without a component", 0, size);
        }
    }
    check_equal("the size of all components", end, largest);
    asm volatile("xsetbv" ::"c"(0), "a"(3), "d"(0));
    check_equal("the size for x87 and SSE", 576, get(0xd, 0, EBX));
    if (supported & 4) {
        asm volatile("xsetbv" ::"c"(0), "a"(7), "d"(0));
        check_equal("the size with AVX", get(0xd, 2, EBX) + get(0xd, 2, EAX), get(0xd, 0, EBX));
        check_equal("AVX is 256 bytes at 576", 576ull << 32 | 256,
                    (uint64_t)get(0xd, 2, EBX) << 32 | get(0xd, 2, EAX));
    }
    asm volatile("xsetbv" ::"c"(0), "a"(3), "d"(0));
}

/* Leaves again and again, while what they tell of changes: nobody may remember an answer for too long, nor give it for another
 * leaf. */
static void test_repeated(void)
{
    static const uint32_t leaves[] = {0,          1,          2,          7,    0xd,
                                      0x80000000, 0x80000001, 0x80000008, 0x10, 0x11};
    struct cpuid first[ARRAY_COUNT(leaves)];
    bool has_xsave = get(1, 0, ECX) & BIT(26);
    WRITE_CR(4, has_xsave ? READ_CR(4) | CR4_OSXSAVE : READ_CR(4));
    for (unsigned i = 0; i < ARRAY_COUNT(leaves); i++) {
        first[i] = cpuid(leaves[i], 0);
    }
    uint32_t differences = 0, stale = 0;
    for (unsigned round = 0; round < 200; round++) {
        for (unsigned i = 0; i < ARRAY_COUNT(leaves); i++) {
            struct cpuid now = cpuid(leaves[i], 0);
            differences += now.eax != first[i].eax || now.ebx != first[i].ebx ||
                           now.ecx != first[i].ecx || now.edx != first[i].edx;
        }
        if (has_xsave) {
            WRITE_CR(4, READ_CR(4) & ~CR4_OSXSAVE);
            stale += (get(1, 0, ECX) & BIT(27)) != 0;
            WRITE_CR(4, READ_CR(4) | CR4_OSXSAVE);
            stale += (get(1, 0, ECX) & BIT(27)) == 0;
            stale += get(0xd, 0, EBX) != 576;
            asm volatile("xsetbv" ::"c"(0), "a"(first[4].eax & 7), "d"(0));
            stale += (first[4].eax & 4) && get(0xd, 0, EBX) == 576;
            asm volatile("xsetbv" ::"c"(0), "a"(3), "d"(0));
        }
    }
    check_equal("leaves that differ from the first answer", 0, differences);
    check_equal("answers that are not of now", 0, stale);
}

void guest_main(void)
{
    WRITE_CR(4, READ_CR(4) | CR4_OSFXSR);
    test_agreement();
    test_xsave();
    test_repeated();
    test_features();
}
