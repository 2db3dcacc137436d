/* KVM's interfaces for guests: steal time, TLB flushes of processors that sleep, ends of interrupts in memory, hypercalls (Linux
 * Documentation/virt/kvm/x86/msr.rst, cpuid.rst, hypercalls.rst). */
#include "guest.h"

#define LEAF_FEATURES 0x40000001u
#define HAS_STEAL     BIT(5)
#define HAS_EOI       BIT(6)
#define HAS_UNHALT    BIT(7)
#define HAS_TLB_FLUSH BIT(9)
#define HAS_IPI       BIT(11)
#define HAS_POLL      BIT(12)
#define HAS_YIELD     BIT(13)

#define MSR_ASYNC_PF 0x4b564d02
#define MSR_STEAL    0x4b564d03
#define MSR_EOI      0x4b564d04
#define MSR_POLL     0x4b564d05

#define CALL_KICK  5
#define CALL_PAIR  9
#define CALL_IPI   10
#define CALL_YIELD 11

#define NO_CALL       (-1000ll)
#define NOT_PERMITTED (-1ll)
#define BAD_VALUE     (-22ll)
#define NOT_SUPPORTED (-95ll)

#define PREEMPTED 1u
#define FLUSH_TLB 2u

#define VECTOR      0x60
#define HIGH_VECTOR 0x90
#define REG_EOI     0xb0
#define REG_ISR     0x100
#define ROUNDS      200u

struct steal_time {
    volatile uint64_t steal;
    volatile uint32_t version, flags;
    volatile uint8_t preempted, padding[47];
} __attribute__((aligned(64)));

static struct steal_time steal[CPU_MAX];
static volatile uint32_t eoi_note __attribute__((aligned(4)));
static uint32_t features;
static volatile unsigned interrupts, noted_ends, written_ends;

/* Either instruction is understood on every host's CPU. */
static int64_t hypercall(uint64_t number, uint64_t a, uint64_t b, uint64_t c, uint64_t d)
{
    int64_t result;
    asm volatile("vmcall" : "=a"(result) : "a"(number), "b"(a), "c"(b), "d"(c), "S"(d) : "memory");
    return result;
}

static int64_t hypercall_amd(uint64_t number, uint64_t a)
{
    int64_t result;
    asm volatile("vmmcall" : "=a"(result) : "a"(number), "b"(a) : "memory");
    return result;
}

static bool wait_until(volatile uint8_t *byte, uint8_t value)
{
    uint64_t end = rdtsc() + 20 * tsc_hz();
    while (*byte != value) {
        if (rdtsc() > end) {
            return false;
        }
        pause();
    }
    return true;
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

static void on_interrupt(struct trap_frame *frame)
{
    (void)frame;
    __atomic_fetch_add(&interrupts, 1, __ATOMIC_SEQ_CST);
    apic_write(REG_EOI, 0);
}

/* --- steal time --- */

static void test_steal_time(void)
{
    if (!(features & HAS_STEAL)) {
        check_skipped("steal time", "not in CPUID");
        return;
    }
    TRY("wrmsr", ::"a"((uint32_t)(uintptr_t)&steal[0] | 3), "d"(0), "c"(MSR_STEAL) : "memory");
    check_trap("steal time: reserved bits", GP, 0);
    steal[0].preempted = PREEMPTED;
    wrmsr(MSR_STEAL, (uintptr_t)&steal[0] | 1);
    check_equal("steal time: the MSR", (uintptr_t)&steal[0] | 1, rdmsr(MSR_STEAL));
    pause();
    check_equal("steal time: this processor runs", 0, steal[0].preempted);
    check_equal("steal time: nothing is being written", 0, steal[0].version & 1);
    uint64_t before = steal[0].steal;
    trap_hook[VECTOR] = on_interrupt;
    for (unsigned i = 0; i < 100; i++) {
        interrupts = 0;
        apic_send(0x40000 | VECTOR, 0);
        (void)wait_for_interrupts(1);
    }
    check_range("steal time: grows, and not by more than passed", 0, 600000000000,
                steal[0].steal - before);
    /* Nobody is there to be told: no harm. */
    wrmsr(MSR_STEAL, 0xfffff00000001ull);
    wrmsr(MSR_STEAL, 0);
    check_equal("steal time: off", 0, rdmsr(MSR_STEAL));
}

/* --- TLB flushes of a processor that sleeps --- */

static uint64_t flush_gva = TEST_GVA;
static volatile uint32_t flush_errors, flush_round, flush_seen, flush_stop;
static uint64_t deadline; /* of a part that may end early on a slow host */

static void sleep_and_look(void *arg)
{
    (void)arg;
    wrmsr(MSR_STEAL, (uintptr_t)&steal[1] | 1);
    for (uint32_t round = 1;; round++) {
        flush_errors += read32(flush_gva) != round - 1; /* now the translation is known */
        flush_round = round;
        asm volatile("sti; hlt; cli" ::: "memory");
        if (flush_stop) {
            break;
        }
        flush_errors += read32(flush_gva) != round;
        flush_seen = round;
    }
    wrmsr(MSR_STEAL, 0);
}

/* Leaves the flush to a processor that does not run; it may begin to, between the look and the note, for a tick or as its host
 * had put it aside before its HLT. */
static bool leave_flush(volatile uint8_t *preempted)
{
    uint64_t end = rdtsc() + 20 * tsc_hz();
    while (rdtsc() < end) {
        uint8_t seen = PREEMPTED;
        if (__atomic_compare_exchange_n(preempted, &seen, PREEMPTED | FLUSH_TLB, false,
                                        __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) {
            return true;
        }
        pause();
    }
    return false;
}

static void test_tlb_flush(void)
{
    if (!(features & HAS_TLB_FLUSH) || cpu_count < 2) {
        check_skipped("TLB flush", cpu_count < 2 ? "one processor" : "not in CPUID");
        return;
    }
    uint64_t frames[2] = {page_alloc(), page_alloc()};
    uint64_t *entry = page_entry(flush_gva, 1);
    bool has_slept = true, is_in_time = true;
    page_map(flush_gva, frames[0] | PTE_P | PTE_W, 1);
    trap_hook[VECTOR] = on_interrupt;
    smp_run(1, sleep_and_look, NULL);
    deadline = rdtsc() + 3 * tsc_hz();
    uint32_t round = 1;
    for (; round <= ROUNDS && is_in_time && has_slept && rdtsc() < deadline; round++) {
        write32(frames[round % 2], round);
        uint64_t end = rdtsc() + 20 * tsc_hz();
        while (flush_round != round && rdtsc() < end) {
            pause();
        }
        *(volatile uint64_t *)entry = frames[round % 2] | PTE_P | PTE_W;
        has_slept = leave_flush(&steal[1].preempted);
        write32(frames[(round - 1) % 2], UINT32_MAX); /* poison for whoever goes there still */
        apic_send(VECTOR, cpu_apic_id[1]);
        while (flush_seen != round && rdtsc() < end) {
            pause();
        }
        is_in_time = flush_seen == round;
    }
    while (is_in_time && flush_round != round) {
        pause();
    }
    flush_stop = true;
    apic_send(VECTOR, cpu_apic_id[1]);
    check("TLB flush: a halted processor is preempted", has_slept);
    check("TLB flush: it wakes", is_in_time);
    if (is_in_time) {
        smp_wait(1);
    }
    check_equal("TLB flush: no old translation used", 0, flush_errors);
    invlpg(flush_gva);
}

/* --- ends of interrupts in memory --- */

static void on_noted_interrupt(struct trap_frame *frame)
{
    (void)frame;
    uint8_t was_set;
    interrupts++;
    asm volatile("btrl $0, %0; setc %1" : "+m"(eoi_note), "=q"(was_set)::"cc", "memory");
    if (was_set) {
        noted_ends++;
    } else {
        written_ends++;
        apic_write(REG_EOI, 0);
    }
}

static volatile uint32_t isr_in_handler, note_after_read;

/* Whoever looks at the APIC sees the truth, and has to end the interrupt by itself then. */
static void on_watched_interrupt(struct trap_frame *frame)
{
    (void)frame;
    interrupts++;
    isr_in_handler = apic_read(REG_ISR + VECTOR / 32 * 0x10);
    note_after_read = eoi_note;
    apic_write(REG_EOI, 0);
}

/* One of higher priority in the middle: both end as they should. */
static void on_interrupted_interrupt(struct trap_frame *frame)
{
    apic_send(0x40000 | HIGH_VECTOR, 0);
    asm volatile("sti; nop; nop; cli" ::: "memory");
    on_noted_interrupt(frame);
}

static uint32_t in_service(void)
{
    uint32_t all = 0;
    for (unsigned i = 0; i < 8; i++) {
        all |= apic_read(REG_ISR + i * 0x10);
    }
    return all;
}

static void test_noted_ends(void)
{
    if (!(features & HAS_EOI)) {
        check_skipped("end of interrupt", "not in CPUID");
        return;
    }
    TRY("wrmsr", ::"a"((uint32_t)(uintptr_t)&eoi_note | 3), "d"(0), "c"(MSR_EOI) : "memory");
    check_trap("end of interrupt: reserved bit", GP, 0);
    wrmsr(MSR_EOI, (uintptr_t)&eoi_note | 1);
    check_equal("end of interrupt: the MSR", (uintptr_t)&eoi_note | 1, rdmsr(MSR_EOI));
    trap_hook[VECTOR] = on_noted_interrupt;
    trap_hook[HIGH_VECTOR] = on_noted_interrupt;
    bool is_complete = true;
    for (unsigned i = 1; i <= 100; i++) {
        apic_send(0x40000 | VECTOR, 0);
        interrupts = i - 1;
        is_complete &= wait_for_interrupts(i);
    }
    check("end of interrupt: each one came", is_complete);
    check_equal("end of interrupt: noted or written", 100, noted_ends + written_ends);
    check_equal("end of interrupt: none in service", 0, in_service());
    print_text("noted ends: ");
    print_decimal(noted_ends);
    print_text("\n");
    /* Two at once: the lower one waits for the end of the other. */
    interrupts = 0;
    apic_send(0x40000 | VECTOR, 0);
    apic_send(0x40000 | HIGH_VECTOR, 0);
    check("end of interrupt: the next one follows", wait_for_interrupts(2));
    check_equal("end of interrupt: both ended", 0, in_service());
    trap_hook[VECTOR] = on_interrupted_interrupt;
    interrupts = 0;
    apic_send(0x40000 | VECTOR, 0);
    check("end of interrupt: one within another", wait_for_interrupts(2));
    check_equal("end of interrupt: both ended again", 0, in_service());
    trap_hook[VECTOR] = on_watched_interrupt;
    interrupts = 0;
    apic_send(0x40000 | VECTOR, 0);
    (void)wait_for_interrupts(1);
    check_equal("end of interrupt: in service until then", BIT(VECTOR % 32), isr_in_handler);
    check_equal("end of interrupt: the note is taken back", 0, note_after_read & 1);
    check_equal("end of interrupt: written after that", 0, in_service());
    wrmsr(MSR_EOI, 0);
    trap_hook[VECTOR] = on_interrupt;
    interrupts = 0;
    apic_send(0x40000 | VECTOR, 0);
    check("end of interrupt: without it again", wait_for_interrupts(1));
}

/* --- hypercalls --- */

SNIPPET(call_from_user, ".code64", "vmcall\n int $0x80");

static volatile uint32_t kicked_round;
static volatile uint8_t kicked_state;
static volatile bool kicked_last;

/* Halts with interrupts off: only the kick ends that. */
static void halt_until_kicked(void *arg)
{
    (void)arg;
    asm volatile("cli" ::: "memory");
    for (uint32_t round = 1; round <= ROUNDS; round++) {
        kicked_state = 1;
        asm volatile("hlt" ::: "memory");
        kicked_round = round;
        kicked_state = 2;
        bool is_last = kicked_last; /* of this round, as long as the state is 2 */
        while (kicked_state == 2) {
            pause();
        }
        if (is_last) {
            break;
        }
    }
}

static void test_kick(void)
{
    if (!(features & HAS_UNHALT) || cpu_count < 2) {
        check_skipped("kick", cpu_count < 2 ? "one processor" : "not in CPUID");
        return;
    }
    bool is_complete = true;
    smp_run(1, halt_until_kicked, NULL);
    uint32_t round = 1;
    deadline = rdtsc() + 3 * tsc_hz();
    for (; round <= ROUNDS && is_complete; round++) {
        kicked_last = round == ROUNDS || rdtsc() > deadline;
        is_complete &= wait_until(&kicked_state, 1);
        /* Before its HLT, in it, or after: one kick ends one HLT. */
        for (unsigned i = 0; i < round % 64; i++) {
            pause();
        }
        is_complete &= hypercall(CALL_KICK, 0, cpu_apic_id[1], 0, 0) == 0;
        is_complete &= wait_until(&kicked_state, 2) && kicked_round == round;
        kicked_state = 0;
        if (kicked_last) {
            break;
        }
    }
    check("kick: ends HLT, before and in it", is_complete);
    if (is_complete) {
        smp_wait(1);
    }
}

static void wait_enabled(void *arg)
{
    unsigned wanted = (unsigned)(uintptr_t)arg;
    (void)wait_for_interrupts(wanted);
}

static void test_ipis(void)
{
    if (!(features & HAS_IPI)) {
        check_skipped("IPIs by hypercall", "not in CPUID");
        return;
    }
    trap_hook[VECTOR] = on_interrupt;
    interrupts = 0;
    uint64_t all = 0;
    for (unsigned i = 0; i < cpu_count; i++) {
        all |= BIT(cpu_apic_id[i]);
    }
    for (unsigned i = 1; i < cpu_count; i++) {
        smp_run(i, wait_enabled, (void *)(uintptr_t)cpu_count);
    }
    check_equal("IPIs: sent to all", cpu_count, (uint64_t)hypercall(CALL_IPI, all, 0, 0, VECTOR));
    check("IPIs: all came", wait_for_interrupts(cpu_count));
    for (unsigned i = 1; i < cpu_count; i++) {
        smp_wait(i);
    }
    check_equal("IPIs: nobody has that ID", 0,
                (uint64_t)hypercall(CALL_IPI, BIT(63), 0, 0, VECTOR));
    check_equal("IPIs: nor does one over the end", 0,
                (uint64_t)hypercall(CALL_IPI, BIT(63), 0, cpu_apic_id[0] - 63ull, VECTOR));
    check_equal("IPIs: to nobody", 0,
                (uint64_t)hypercall(CALL_IPI, ~0ull, ~0ull, 0x10000000, VECTOR));
    check_equal("IPIs: no shorthand", (uint64_t)BAD_VALUE,
                (uint64_t)hypercall(CALL_IPI, 1, 0, 0, 0x40000 | VECTOR));
}

static void test_clock_pairing(void)
{
    static volatile int64_t pairing[8] __attribute__((aligned(64)));
    int64_t before = (int64_t)rdtsc();
    int64_t result = hypercall(CALL_PAIR, (uintptr_t)pairing, 0, 0, 0);
    int64_t after = (int64_t)rdtsc();
    if (result == NOT_SUPPORTED) {
        check_skipped("clock pairing", "the host's clock is not its TSC");
        return;
    }
    check_equal("clock pairing", 0, (uint64_t)result);
    check_range("clock pairing: seconds since 1970", 1600000000, 1ull << 33, (uint64_t)pairing[0]);
    check_range("clock pairing: nanoseconds", 0, 999999999, (uint64_t)pairing[1]);
    check_range("clock pairing: TSC", (uint64_t)before, (uint64_t)after, (uint64_t)pairing[2]);
    check_equal("clock pairing: no such clock", (uint64_t)NOT_SUPPORTED,
                (uint64_t)hypercall(CALL_PAIR, (uintptr_t)pairing, 1, 0, 0));
}

static void test_hypercalls(void)
{
    check_equal("hypercall: no such number", (uint64_t)NO_CALL,
                (uint64_t)hypercall(0x4711, 0, 0, 0, 0));
    check_equal("hypercall: the other instruction", (uint64_t)NO_CALL,
                (uint64_t)hypercall_amd(0x4711, 0));
    LOAD_SNIPPET(call_from_user, USER_CODE);
    struct trap_frame user = frame_user();
    user.rax = CALL_YIELD;
    trap_run(&user);
    /* KVM emulates the other vendor's instruction, as a privileged one: #GP, or #UD where it is told not to. */
    check("hypercall from user mode: not permitted",
          trap.vector == UD || trap.vector == GP || trap.rax == (uint64_t)NOT_PERMITTED);
    if (features & HAS_YIELD) {
        check_equal("yield", 0,
                    (uint64_t)hypercall(CALL_YIELD, cpu_apic_id[cpu_count - 1], 0, 0, 0));
        check_equal("yield to nobody", 0, (uint64_t)hypercall(CALL_YIELD, 0x7fffffff, 0, 0, 0));
    } else {
        check_skipped("yield", "not in CPUID");
    }
}

static void test_poll_control(void)
{
    if (!(features & HAS_POLL)) {
        check_skipped("poll control", "not in CPUID");
        return;
    }
    check_equal("poll control: on at first", 1, rdmsr(MSR_POLL));
    wrmsr(MSR_POLL, 0);
    check_equal("poll control: off", 0, rdmsr(MSR_POLL));
    wrmsr(MSR_POLL, 1);
    TRY("wrmsr", ::"a"(2), "d"(0), "c"(MSR_POLL) : "memory");
    check_trap("poll control: reserved bits", GP, 0);
}

void guest_main(void)
{
    struct cpuid leaf = cpuid(0x40000000, 0);
    if (!(cpuid(1, 0).ecx & BIT(31)) || leaf.ebx != 0x4b4d564b || leaf.ecx != 0x564b4d56) {
        check_skipped("KVM's interfaces", "no KVM in CPUID");
        return;
    }
    features = cpuid(LEAF_FEATURES, 0).eax;
    apic_enable();
    check("all processors start", smp_start());
    test_steal_time();
    test_tlb_flush();
    test_noted_ends();
    test_hypercalls();
    test_kick();
    test_ipis();
    test_clock_pairing();
    test_poll_control();
}
