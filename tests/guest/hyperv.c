/* Hyper-V's interface (Hypervisor Top Level Functional Specification), where the CPU model has it: --cpu MODEL,hyperv=on. */
#include "guest.h"

#define MSR_GUEST_OS_ID    0x40000000
#define MSR_HYPERCALL      0x40000001
#define MSR_VP_INDEX       0x40000002
#define MSR_TIME           0x40000020
#define MSR_REFERENCE_TSC  0x40000021
#define MSR_TSC_FREQUENCY  0x40000022
#define MSR_APIC_FREQUENCY 0x40000023
#define MSR_VP_ASSIST      0x40000073
#define MSR_ABSENT         0x40000003

#define CALL_FLUSH    0x0002u
#define CALL_LIST     0x0003u
#define CALL_SPIN     0x0008u
#define CALL_IPI      0x000bu
#define CALL_FLUSH_EX 0x0013u
#define CALL_IPI_EX   0x0015u
#define FAST          BIT(16)
#define VARIABLE(n)   ((uint64_t)(n) << 17)
#define REPS(n)       ((uint64_t)(n) << 32)

#define SUCCESS       0u
#define INVALID_CODE  2u
#define INVALID_INPUT 3u

#define VECTOR 0x60
#define ROUNDS 300u

static uint8_t hypercall_page[PAGE] __attribute__((aligned(4096)));
static volatile struct {
    uint32_t sequence, reserved;
    uint64_t scale;
    int64_t offset;
    uint64_t rest[509];
} tsc_page __attribute__((aligned(4096)));
static uint64_t input[512] __attribute__((aligned(4096)));
static volatile unsigned interrupts;
static volatile uint64_t indices[CPU_MAX];

static uint64_t call(uint64_t control, uint64_t first, uint64_t second)
{
    uint64_t result;
    register uint64_t r8 asm("r8") = second;
    asm volatile("call *%4"
                 : "=a"(result), "+c"(control), "+d"(first), "+r"(r8)
                 : "r"((uintptr_t)hypercall_page)
                 : "memory", "cc", "r9", "r10", "r11");
    return result;
}

static void on_interrupt(struct trap_frame *frame)
{
    (void)frame;
    __atomic_fetch_add(&interrupts, 1, __ATOMIC_SEQ_CST);
    apic_write(0xb0, 0);
}

static bool wait_for_interrupts(unsigned count)
{
    uint64_t end = rdtsc() + 20 * tsc_hz();
    asm volatile("sti" ::: "memory");
    while (interrupts < count && rdtsc() < end) {
        pause();
    }
    asm volatile("cli" ::: "memory");
    return interrupts >= count;
}

/* --- identification and hypercall page --- */

SNIPPET(hyperv_from_user, ".code64", "vmcall\n int $0x80");
SNIPPET(hyperv_from_user_amd, ".code64", "vmmcall\n int $0x80");

static void test_page(void)
{
    check_equal("no name at first", 0, rdmsr(MSR_GUEST_OS_ID));
    wrmsr(MSR_HYPERCALL, (uintptr_t)hypercall_page | 1);
    check_equal("no hypercall page without a name", 0, rdmsr(MSR_HYPERCALL) & 1);
    wrmsr(MSR_GUEST_OS_ID, 0x8100000000000000ull);
    check_equal("the name", 0x8100000000000000ull, rdmsr(MSR_GUEST_OS_ID));
    wrmsr(MSR_HYPERCALL, (uintptr_t)hypercall_page | 1);
    check_equal("the hypercall page", (uintptr_t)hypercall_page | 1, rdmsr(MSR_HYPERCALL));
    check("code in it", hypercall_page[0] != 0);
    check_equal("no such call", INVALID_CODE, call(0x7777, 0, 0) & 0xffff);
    check_equal("long spin", SUCCESS, call(CALL_SPIN | FAST, 100, 0));
    bool is_intel = hypercall_page[2] == 0xc1;
    if (is_intel) {
        LOAD_SNIPPET(hyperv_from_user, USER_CODE);
    } else {
        LOAD_SNIPPET(hyperv_from_user_amd, USER_CODE);
    }
    struct trap_frame user = frame_user();
    trap_run(&user);
    check_equal("#UD in user mode", UD, trap.vector);
    TRY("rdmsr", ::"c"(MSR_ABSENT) : "eax", "edx", "memory");
    check("an MSR that is not announced", trap.vector == GP || trap.vector == NO_TRAP);
    input[0] = input[511] = UINT64_MAX;
    wrmsr(MSR_VP_ASSIST, (uintptr_t)input | 1);
    check_equal("the assist page", (uintptr_t)input | 1, rdmsr(MSR_VP_ASSIST));
    check_equal("nothing to assist with", 0, (uint32_t)input[0]);
    wrmsr(MSR_VP_ASSIST, 0);
    TRY("wrmsr", ::"c"(MSR_VP_INDEX), "a"(1), "d"(0) : "memory");
    check("the index is not for writing", trap.vector == GP);
}

static void read_index(void *arg)
{
    indices[(uintptr_t)arg] = rdmsr(MSR_VP_INDEX);
}

static void test_indices(void)
{
    read_index(NULL);
    bool are_right = indices[0] == 0;
    for (unsigned i = 1; i < cpu_count; i++) {
        smp_run(i, read_index, (void *)(uintptr_t)i);
        smp_wait(i);
        are_right &= indices[i] == i;
    }
    check("index of each processor", are_right);
}

/* --- time --- */

static uint64_t page_time(void)
{
    for (;;) {
        uint32_t sequence = tsc_page.sequence;
        uint64_t scale = tsc_page.scale, high, low;
        uint64_t offset = (uint64_t)tsc_page.offset, tsc = rdtsc();
        asm("mulq %3" : "=a"(low), "=d"(high) : "a"(tsc), "r"(scale) : "cc");
        if (sequence == tsc_page.sequence) {
            return sequence != 0 ? high + offset : rdmsr(MSR_TIME);
        }
    }
}

static void test_time(void)
{
    uint64_t begin_tsc = rdtsc(), begin = rdmsr(MSR_TIME);
    wait_ns(100000000);
    uint64_t end_tsc = rdtsc(), end = rdmsr(MSR_TIME);
    uint64_t expected = (end_tsc - begin_tsc) * 10000 / (tsc_hz() / 1000);
    check_range("reference time: rate, per mille", 970, 1030, (end - begin) * 1000 / expected);
    check_range("frequency of the TSC, per mille", 980, 1020,
                rdmsr(MSR_TSC_FREQUENCY) * 1000 / tsc_hz());
    check_range("frequency of the APIC", 1000000, 10000000000, rdmsr(MSR_APIC_FREQUENCY));
    wrmsr(MSR_REFERENCE_TSC, (uintptr_t)&tsc_page | 1);
    check_equal("reference TSC: the MSR", (uintptr_t)&tsc_page | 1, rdmsr(MSR_REFERENCE_TSC));
    if (tsc_page.sequence == 0) {
        check_skipped("reference TSC", "the host's TSC is not stable");
        return;
    }
    bool is_monotonic = true;
    uint64_t apart = 0;
    for (unsigned i = 0; i < 1000; i++) {
        uint64_t first = page_time(), middle = rdmsr(MSR_TIME), last = page_time();
        is_monotonic &= first <= last;
        uint64_t off = middle + 1 < first ? first - middle : middle > last + 1 ? middle - last : 0;
        apart = off > apart ? off : apart;
    }
    check("reference TSC: only grows", is_monotonic);
    check_range("reference TSC: agrees with the MSR, 100 ns", 0, 50, apart);
    wrmsr(MSR_REFERENCE_TSC, 0);
}

/* --- TLB flushes --- */

static uint64_t flush_gva = TEST_GVA + 16 * PAGE;
static volatile uint32_t flush_errors, flush_stop;

static void read_moving_page(void *arg)
{
    (void)arg;
    uint32_t last = 0;
    while (!flush_stop) {
        /* The page only ever moves on: going back means an old translation. */
        uint32_t now = read32(flush_gva);
        flush_errors += now < last;
        last = now;
    }
}

static uint64_t flush_somehow(unsigned round)
{
    input[0] = READ_CR(3);
    input[1] = 0;
    switch (round % 4) {
    case 0:
        input[1] = 1; /* all processors */
        return call(CALL_FLUSH, (uintptr_t)input, 0);
    case 1:
        input[2] = BIT(cpu_count) - 1;
        input[3] = flush_gva;
        return call(CALL_LIST | REPS(1), (uintptr_t)input, 0) & 0xffff;
    case 2:
        input[2] = 0; /* sparse: one bank */
        input[3] = 1;
        input[4] = BIT(cpu_count) - 1;
        return call(CALL_FLUSH_EX | VARIABLE(1), (uintptr_t)input, 0);
    default:
        input[1] = 1 | 2;
        input[2] = 1; /* everybody */
        input[3] = 0;
        return call(CALL_FLUSH_EX, (uintptr_t)input, 0);
    }
}

static void test_flush(void)
{
    uint64_t frames[8], failures = 0;
    for (unsigned i = 0; i < ARRAY_COUNT(frames); i++) {
        frames[i] = page_alloc();
    }
    page_map(flush_gva, frames[0] | PTE_P | PTE_W, 1);
    uint64_t *entry = page_entry(flush_gva, 1);
    for (unsigned i = 1; i < cpu_count; i++) {
        smp_run(i, read_moving_page, NULL);
    }
    uint64_t deadline = rdtsc() + 3 * tsc_hz();
    for (uint32_t i = 1; i <= ROUNDS && rdtsc() < deadline; i++) {
        (void)read32(flush_gva);
        write32(frames[i % 8], i);
        *(volatile uint64_t *)entry = frames[i % 8] | PTE_P | PTE_W;
        failures += flush_somehow(i) != SUCCESS;
        flush_errors += read32(flush_gva) != i;
        write32(frames[(i - 1) % 8], 0); /* nobody may see the old frame now: poison it */
    }
    flush_stop = true;
    for (unsigned i = 1; i < cpu_count; i++) {
        smp_wait(i);
    }
    check_equal("flush: succeeds", 0, failures);
    check_equal("flush: no old translation used", 0, flush_errors);
    check_equal("flush of a list: how many", 1,
                call(CALL_LIST | REPS(1), (uintptr_t)input, 0) >> 32 & 0xfff);
    check_equal("flush of an empty list", INVALID_INPUT, call(CALL_LIST, (uintptr_t)input, 0));
    uint64_t unbacked = 0xfffff00000000ull;
    check_equal("flush: input nowhere", INVALID_INPUT, call(CALL_FLUSH, unbacked, 0));
}

/* --- IPIs --- */

static void wait_enabled(void *arg)
{
    (void)wait_for_interrupts((unsigned)(uintptr_t)arg);
}

static void test_ipis(void)
{
    trap_hook[VECTOR] = on_interrupt;
    for (unsigned way = 0; way < 3; way++) {
        static const char *const names[] = {"IPIs: fast", "IPIs: from memory", "IPIs: wide set"};
        interrupts = 0;
        for (unsigned i = 1; i < cpu_count; i++) {
            smp_run(i, wait_enabled, (void *)(uintptr_t)cpu_count);
        }
        uint64_t status, mask = BIT(cpu_count) - 1;
        if (way == 0) {
            status = call(CALL_IPI | FAST, VECTOR, mask);
        } else if (way == 1) {
            input[0] = VECTOR;
            input[1] = mask;
            status = call(CALL_IPI, (uintptr_t)input, 0);
        } else {
            input[0] = VECTOR;
            input[1] = 0;
            input[2] = 1;
            input[3] = mask;
            status = call(CALL_IPI_EX | VARIABLE(1), (uintptr_t)input, 0);
        }
        check_equal(names[way], SUCCESS, status);
        check("IPIs: all came", wait_for_interrupts(cpu_count));
        for (unsigned i = 1; i < cpu_count; i++) {
            smp_wait(i);
        }
    }
    check_equal("IPIs: no vector below 16", INVALID_INPUT, call(CALL_IPI | FAST, 15, 1));
    check_equal("IPIs: no vector above 255", INVALID_INPUT, call(CALL_IPI | FAST, 256, 1));
}

void guest_main(void)
{
    struct cpuid leaf = cpuid(0x40000000, 0), kvm = cpuid(0x40000100, 0);
    if (!(cpuid(1, 0).ecx & BIT(31)) || leaf.ebx != 0x7263694d || leaf.ecx != 0x666f736f ||
        leaf.edx != 0x76482074) {
        TRY("rdmsr", ::"c"(MSR_GUEST_OS_ID) : "eax", "edx", "memory");
        check_trap("no Hyper-V in CPUID, nor its MSRs", GP, 0);
        return;
    }
    check_equal("interface Hv#1", 0x31237648, cpuid(0x40000001, 0).eax);
    check_equal("KVM behind it", 0x4b4d564b, kvm.ebx);
    apic_enable();
    check("all processors start", smp_start());
    test_page();
    test_indices();
    test_time();
    test_flush();
    test_ipis();
    wrmsr(MSR_GUEST_OS_ID, 0);
    check_equal("no name, no page", 0, rdmsr(MSR_HYPERCALL) & 1);
}
