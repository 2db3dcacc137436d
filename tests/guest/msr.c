/* Model-specific registers: reserved bits, unknown numbers, clocks. */
#include "guest.h"

#define MSR_TSC             0x10
#define MSR_APIC_BASE       0x1b
#define MSR_TSC_ADJUST      0x3b
#define MSR_MTRR_CAP        0xfe
#define MSR_SYSENTER_CS     0x174
#define MSR_SYSENTER_ESP    0x175
#define MSR_SYSENTER_EIP    0x176
#define MSR_MTRR_BASE0      0x200
#define MSR_MTRR_MASK0      0x201
#define MSR_PAT             0x277
#define MSR_MTRR_DEF_TYPE   0x2ff
#define MSR_EFER            0xc0000080
#define MSR_STAR            0xc0000081
#define MSR_LSTAR           0xc0000082
#define MSR_FS_BASE         0xc0000100
#define MSR_GS_BASE         0xc0000101
#define MSR_KERNEL_GS_BASE  0xc0000102
#define MSR_TSC_AUX         0xc0000103
#define MSR_KVM_WALL_CLOCK  0x4b564d00
#define MSR_KVM_SYSTEM_TIME 0x4b564d01

#define NON_CANONICAL 0x800000000000ull

static void write(uint32_t msr, uint64_t value)
{
    TRY("wrmsr", ::"c"(msr), "a"((uint32_t)value), "d"((uint32_t)(value >> 32)) : "memory");
}

static void read(uint32_t msr)
{
    TRY("rdmsr", ::"c"(msr) : "rax", "rdx", "memory");
}

static void test_general(void)
{
    static const uint32_t unknown[] = {0x12345678, 0xc0001234, 0x7ff, 0xdeadbeef};
    for (unsigned i = 0; i < ARRAY_COUNT(unknown); i++) {
        read(unknown[i]);
        check_fault("RDMSR of an unknown register", GP, 0);
        write(unknown[i], 0);
        check_fault("WRMSR of an unknown register", GP, 0);
    }
    uint64_t rax = UINT64_MAX, rdx = UINT64_MAX;
    asm volatile("rdmsr" : "+a"(rax), "+d"(rdx) : "c"(MSR_PAT | BIT(40)));
    check("RDMSR clears the upper halves and ignores that of RCX",
          rax >> 32 == 0 && rdx >> 32 == 0);
}

static void test_efer(void)
{
    uint64_t efer = rdmsr(MSR_EFER);
    check_equal("EFER", 0xd01, efer);
    write(MSR_EFER, efer | BIT(1));
    check_fault("EFER: reserved bit 1", GP, 0);
    write(MSR_EFER, efer | BIT(32));
    check_fault("EFER: reserved bit 32", GP, 0);
    write(MSR_EFER, efer & ~BIT(8));
    check_fault("EFER: LME while paging", GP, 0);
    write(MSR_EFER, efer & ~BIT(10));
    check_trap("EFER: LMA is not written", NO_TRAP, 0);
    check_equal("EFER: LMA is kept", efer, rdmsr(MSR_EFER));
    write(MSR_EFER, efer & ~1ull);
    check_equal("EFER: SCE off", efer & ~1ull, rdmsr(MSR_EFER));
    wrmsr(MSR_EFER, efer);
}

/* RDFSBASE and its kin with all kinds of registers, and accesses that go by what they set. */
static void test_base_instructions(void)
{
    static uint64_t data[2] = {0x1111, 0x2222};
    uint64_t addresses[2] = {(uint64_t)&data[0], (uint64_t)&data[1]}, first, second, third, fourth;
    for (int i = 0; i < 3; i++) {
        asm volatile("movq %4, %%r14; wrfsbase %%r14; rdfsbase %%r15; movq %%r15, %0\n"
                     "movq %%fs:0, %1; wrfsbase %5; movq %%fs:0, %2; rdfsbase %3"
                     : "=&r"(first), "=&r"(second), "=&r"(third), "=&r"(fourth)
                     : "r"(addresses[0]), "r"(addresses[1])
                     : "r14", "r15", "memory");
        check_equal("RDFSBASE to R15", addresses[0], first);
        check_equal("an access by WRFSBASE of R14", 0x1111, second);
        check_equal("an access by the next WRFSBASE", 0x2222, third);
        check_equal("RDFSBASE after it", addresses[1], fourth);
        asm volatile(
            "movq %3, %%r13; wrgsbase %%r13d; rdgsbase %0; movq %4, %%rax; wrgsbase %%rax\n"
            "movq $-1, %%r13; rdgsbase %%r13d; movq %%r13, %1; rdgsbase %2"
            : "=&r"(first), "=&r"(second), "=&r"(third)
            : "r"(0xffff800012345678ull), "r"(0xffff900087654321ull)
            : "r13", "rax");
        check_equal("WRGSBASE of 32 bits", 0x12345678, first);
        check_equal("RDGSBASE of 32 bits", 0x87654321, second);
        check_equal("RDGSBASE", 0xffff900087654321ull, third);
        check_equal("WRGSBASE is the MSR", 0xffff900087654321ull, rdmsr(MSR_GS_BASE));
        TRY("wrfsbase %0", ::"r"(NON_CANONICAL));
        check_fault("WRFSBASE non-canonical", GP, 0);
    }
    wrmsr(MSR_GS_BASE, 0);
}

static void test_bases(void)
{
    static const struct {
        const char *name;
        uint32_t msr;
    } bases[] = {{"FS base", MSR_FS_BASE},
                 {"GS base", MSR_GS_BASE},
                 {"kernel GS base", MSR_KERNEL_GS_BASE},
                 {"LSTAR", MSR_LSTAR}};
    for (unsigned i = 0; i < ARRAY_COUNT(bases); i++) {
        print_text(bases[i].name);
        print_text(":\n");
        wrmsr(bases[i].msr, 0xffff812345678000);
        check_equal("  reads back", 0xffff812345678000, rdmsr(bases[i].msr));
        write(bases[i].msr, NON_CANONICAL);
        check_fault("  non-canonical", GP, 0);
        wrmsr(bases[i].msr, 0);
    }
    write64(USER_DATA, 0x5555);
    wrmsr(MSR_FS_BASE, USER_DATA - 0x100);
    uint64_t value;
    asm volatile("movq %%fs:0x100, %0" : "=r"(value));
    check_equal("FS base is used", 0x5555, value);
    wrmsr(MSR_FS_BASE, 0);
    wrmsr(MSR_GS_BASE, 1);
    wrmsr(MSR_KERNEL_GS_BASE, 2);
    asm volatile("swapgs" ::: "memory");
    check_equal("SWAPGS", 0x200000001, rdmsr(MSR_GS_BASE) << 32 | rdmsr(MSR_KERNEL_GS_BASE));
    wrmsr(MSR_GS_BASE, 0);
    wrmsr(MSR_KERNEL_GS_BASE, 0);
    if (cpuid(7, 0).ebx & 1) {
        TRY("wrfsbase %0", ::"r"(1ull));
        check_fault("WRFSBASE without CR4.FSGSBASE", UD, 0);
        WRITE_CR(4, READ_CR(4) | BIT(16));
        asm volatile("wrfsbase %1; rdfsbase %0" : "=r"(value) : "r"(0x1234ull));
        check_equal("WRFSBASE", 0x1234, value);
        check_equal("WRFSBASE is the MSR", 0x1234, rdmsr(MSR_FS_BASE));
        TRY("wrgsbase %0", ::"r"(NON_CANONICAL));
        check_fault("WRGSBASE non-canonical", GP, 0);
        test_base_instructions();
        asm volatile("wrfsbase %0" ::"r"(0ull));
        WRITE_CR(4, READ_CR(4) & ~BIT(16));
        for (int i = 0; i < 2; i++) {
            TRY("rdgsbase %%rax", ::: "rax");
            check_fault("RDGSBASE without CR4.FSGSBASE again", UD, 0);
        }
    } else {
        check_skipped("FSGSBASE", "the processor has none");
    }
    wrmsr(MSR_SYSENTER_CS, 0x1234);
    wrmsr(MSR_SYSENTER_ESP, 0x12345678);
    wrmsr(MSR_SYSENTER_EIP, 0x87654321);
    check_equal("SYSENTER CS", 0x1234, rdmsr(MSR_SYSENTER_CS));
    check_equal("SYSENTER ESP", 0x12345678, rdmsr(MSR_SYSENTER_ESP));
    check_equal("SYSENTER EIP", 0x87654321, rdmsr(MSR_SYSENTER_EIP));
}

static void test_memory_types(void)
{
    uint64_t pat = rdmsr(MSR_PAT);
    check_equal("PAT", 0x0007040600070406, pat);
    write(MSR_PAT, 0x0007040600070402);
    check_fault("PAT: type 2", GP, 0);
    write(MSR_PAT, pat | 0x80);
    check_fault("PAT: reserved bits", GP, 0);
    wrmsr(MSR_PAT, 0x0107040600070506);
    check_equal("PAT reads back", 0x0107040600070506, rdmsr(MSR_PAT));
    wrmsr(MSR_PAT, pat);
    if (!(cpuid(1, 0).edx & BIT(12))) {
        check_skipped("MTRRs", "the processor has none");
        return;
    }
    uint64_t cap = rdmsr(MSR_MTRR_CAP), type = rdmsr(MSR_MTRR_DEF_TYPE);
    check_range("MTRRs: variable ranges", 1, 32, cap & 0xff);
    write(MSR_MTRR_CAP, cap);
    check_fault("MTRRs: capabilities are read-only", GP, 0);
    write(MSR_MTRR_DEF_TYPE, (type & ~0xffull) | 2);
    check_fault("MTRRs: type 2", GP, 0);
    write(MSR_MTRR_DEF_TYPE, type | BIT(12));
    check_fault("MTRRs: reserved bit", GP, 0);
    uint64_t base = rdmsr(MSR_MTRR_BASE0), mask = rdmsr(MSR_MTRR_MASK0);
    wrmsr(MSR_MTRR_BASE0, 0x80000000 | 1);
    wrmsr(MSR_MTRR_MASK0, 0xfff000000);
    check_equal("MTRRs: base reads back", 0x80000001, rdmsr(MSR_MTRR_BASE0));
    check_equal("MTRRs: mask reads back", 0xfff000000, rdmsr(MSR_MTRR_MASK0));
    wrmsr(MSR_MTRR_MASK0, mask);
    wrmsr(MSR_MTRR_BASE0, base);
}

SNIPPET(user_rdtsc, ".code64", "rdtsc; int $0x80");

static void test_tsc(void)
{
    uint64_t last = rdtsc();
    bool is_monotonic = true;
    for (unsigned i = 0; i < 10000; i++) {
        uint64_t now = rdtsc();
        is_monotonic &= now > last;
        last = now;
    }
    check("TSC only grows", is_monotonic);
    check_range("TSC: MHz", 10, 20000, tsc_hz() / 1000000);
    uint64_t begin = rdtsc();
    check("TSC as MSR", rdmsr(MSR_TSC) - begin < tsc_hz());
    wrmsr(MSR_TSC, 1000);
    check("TSC can be set", rdtsc() - 1000 < tsc_hz());
    wrmsr(MSR_TSC, begin);
    if (cpuid(7, 0).ebx & BIT(1)) {
        uint64_t adjust = rdmsr(MSR_TSC_ADJUST), before = rdtsc();
        wrmsr(MSR_TSC_ADJUST, adjust + BIT(40));
        check("TSC adjust moves the TSC", rdtsc() - before - BIT(40) < tsc_hz());
        wrmsr(MSR_TSC, rdtsc() - BIT(40));
        check_range("setting the TSC moves TSC adjust", adjust - tsc_hz() + BIT(50),
                    adjust + tsc_hz() + BIT(50), rdmsr(MSR_TSC_ADJUST) + BIT(50));
    } else {
        check_skipped("TSC adjust", "the processor has none");
    }
    struct trap_frame user = frame_user();
    LOAD_SNIPPET(user_rdtsc, USER_CODE);
    trap_run(&user);
    check_trap("RDTSC in user mode", CALL_VECTOR, 0);
    WRITE_CR(4, READ_CR(4) | BIT(2));
    trap_run(&user);
    check_trap("RDTSC in user mode with CR4.TSD", GP, 0);
    WRITE_CR(4, READ_CR(4) & ~BIT(2));
    if (!(cpuid(0x80000001, 0).edx & BIT(27))) {
        check_skipped("RDTSCP", "the processor has none");
        return;
    }
    wrmsr(MSR_TSC_AUX, 0x12345);
    uint64_t rcx;
    asm volatile("rdtscp" : "=c"(rcx)::"rax", "rdx");
    check_equal("RDTSCP gives TSC_AUX", 0x12345, rcx);
    write(MSR_TSC_AUX, BIT(32));
    /* Reserved for Intel; AMD's newer processors ignore them. */
    check("TSC_AUX: upper half", trap.vector == GP || rdmsr(MSR_TSC_AUX) == 0);
    wrmsr(MSR_TSC_AUX, 77);
    if (cpuid(7, 0).ecx & BIT(22)) {
        asm volatile("rdpid %0" : "=r"(rcx));
        check_equal("RDPID", 77, rcx);
    } else {
        check_skipped("RDPID", "the processor has none");
    }
}

static void test_apic_base(void)
{
    uint64_t base = rdmsr(MSR_APIC_BASE);
    check("APIC base: enabled, bootstrap processor", (base & 0x900) == 0x900);
    write(MSR_APIC_BASE, base | BIT(0));
    check_fault("APIC base: reserved bit 0", GP, 0);
    write(MSR_APIC_BASE, base | BIT(9));
    check_fault("APIC base: reserved bit 9", GP, 0);
    write(MSR_APIC_BASE, base | BIT(63));
    check_fault("APIC base: beyond physical addresses", GP, 0);
    write(MSR_APIC_BASE, (base & ~BIT(11)) | BIT(10));
    check_fault("APIC base: x2APIC without enable", GP, 0);
    write(MSR_APIC_BASE, base);
    check_trap("APIC base: what it was", NO_TRAP, 0);
}

/* --- the paravirtual clock (Linux: virt/kvm/x86/msr) --- */

static volatile struct {
    uint32_t version, pad;
    uint64_t tsc_timestamp, system_time;
    uint32_t multiplier;
    int8_t shift;
    uint8_t flags, reserved[2];
} system_time __attribute__((aligned(64)));

static volatile struct {
    uint32_t version, seconds, nanoseconds;
} wall_clock __attribute__((aligned(64)));

static uint64_t kvm_clock_ns(void)
{
    for (;;) {
        uint32_t version = system_time.version;
        asm volatile("" ::: "memory");
        uint64_t delta = rdtsc() - system_time.tsc_timestamp;
        delta = system_time.shift < 0 ? delta >> -system_time.shift : delta << system_time.shift;
        /* delta * multiplier / 2^32, by halves */
        uint64_t ns = system_time.system_time + (delta >> 32) * system_time.multiplier +
                      (((delta & 0xffffffff) * system_time.multiplier) >> 32);
        asm volatile("" ::: "memory");
        if (version == system_time.version && !(version & 1)) {
            return ns;
        }
    }
}

/* TSC and clock at one moment: of several tries the one that took least, for the VM may be held up at any time. */
static void read_both(uint64_t *out_tsc, uint64_t *out_ns)
{
    uint64_t least = UINT64_MAX;
    for (unsigned i = 0; i < 32; i++) {
        uint64_t before = rdtsc(), ns = kvm_clock_ns(), took = rdtsc() - before;
        if (took < least) {
            least = took;
            *out_tsc = before + took / 2;
            *out_ns = ns;
        }
    }
}

static void test_kvm_clock(void)
{
    struct cpuid leaf = cpuid(0x40000000, 0);
    if (!(cpuid(1, 0).ecx & BIT(31)) || leaf.ebx != 0x4b4d564b || leaf.ecx != 0x564b4d56 ||
        leaf.edx != 0x4d) {
        check_skipped("kvmclock", "no KVM in CPUID");
        return;
    }
    if (!(cpuid(0x40000001, 0).eax & BIT(3))) {
        check_skipped("kvmclock", "not in CPUID");
        return;
    }
    wrmsr(MSR_KVM_SYSTEM_TIME, (uintptr_t)&system_time | 1);
    check("kvmclock: filled in", system_time.multiplier != 0 && !(system_time.version & 1));
    uint64_t last = kvm_clock_ns();
    bool is_monotonic = true;
    for (unsigned i = 0; i < 10000; i++) {
        uint64_t now = kvm_clock_ns();
        is_monotonic &= now >= last;
        last = now;
    }
    check("kvmclock: only grows", is_monotonic);
    check_range("kvmclock: ns since the start", 1, 600000000000, last);
    uint64_t begin, begin_tsc, end, end_tsc;
    read_both(&begin_tsc, &begin);
    wait_ns(100000000);
    read_both(&end_tsc, &end);
    uint64_t expected = (end_tsc - begin_tsc) * 1000000 / (tsc_hz() / 1000);
    check_range("kvmclock: rate against the TSC, per mille", 980, 1020,
                (end - begin) * 1000 / expected);
    wrmsr(MSR_KVM_WALL_CLOCK, (uintptr_t)&wall_clock);
    check("wall clock: after 2023", wall_clock.seconds > 1672531200 && !(wall_clock.version & 1));
    check("wall clock: nanoseconds", wall_clock.nanoseconds < 1000000000);
    wrmsr(MSR_KVM_SYSTEM_TIME, 0);
    check_equal("kvmclock: off", 0, rdmsr(MSR_KVM_SYSTEM_TIME));
}

void guest_main(void)
{
    test_general();
    test_efer();
    test_bases();
    test_memory_types();
    test_tsc();
    test_apic_base();
    test_kvm_clock();
}
