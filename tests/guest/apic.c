/* Local APICs in both modes with their timers, IPIs between processors, and the I/O APIC with the serial port as its source
 * (SDM 3A chapter 10; 82093AA data sheet). */
#include "guest.h"

#define MSR_APIC_BASE    0x1b
#define MSR_TSC_DEADLINE 0x6e0
#define BASE_BSP         BIT(8)
#define BASE_X2          BIT(10)
#define BASE_ENABLE      BIT(11)

#define REG_ID      0x20
#define REG_VERSION 0x30
#define REG_TPR     0x80
#define REG_EOI     0xb0
#define REG_LDR     0xd0
#define REG_DFR     0xe0
#define REG_SVR     0xf0
#define REG_ISR     0x100
#define REG_IRR     0x200
#define REG_ESR     0x280
#define REG_TIMER   0x320
#define REG_LINT0   0x350
#define REG_ERROR   0x370
#define REG_INITIAL 0x380
#define REG_CURRENT 0x390
#define REG_DIVIDE  0x3e0

#define LVT_MASKED     BIT(16)
#define TIMER_PERIODIC BIT(17)
#define TIMER_DEADLINE BIT(18)
#define VECTOR         0x40
#define DIVIDE_BY_1    0xb
#define MS             1000000ull

static volatile unsigned count[CPU_MAX];
static volatile uint64_t last_tsc;

static unsigned own_index(void)
{
    uint32_t id = apic_is_x2() ? apic_read(REG_ID) : apic_read(REG_ID) >> 24;
    for (unsigned i = 0; i < cpu_count; i++) {
        if (cpu_apic_id[i] == id) {
            return i;
        }
    }
    return 0;
}

static void on_interrupt(struct trap_frame *frame)
{
    (void)frame;
    last_tsc = rdtsc();
    __atomic_fetch_add(&count[own_index()], 1, __ATOMIC_SEQ_CST);
    apic_write(REG_EOI, 0);
}

static void on_nmi(struct trap_frame *frame)
{
    (void)frame;
    __atomic_fetch_add(&count[own_index()], 1, __ATOMIC_SEQ_CST);
}

/* Interrupts on until 'cpu' has counted to 'wanted' or the time is up. */
static unsigned wait_count(unsigned cpu, unsigned wanted, uint64_t ns)
{
    uint64_t end = rdtsc() + tsc_hz() / 1000000 * ns / 1000;
    asm volatile("sti" ::: "memory");
    while (count[cpu] < wanted && rdtsc() < end) {
        pause();
    }
    asm volatile("cli" ::: "memory");
    return count[cpu];
}

static void clear_counts(void)
{
    for (unsigned i = 0; i < CPU_MAX; i++) {
        count[i] = 0;
    }
}

static void test_registers(const char *mode)
{
    print_text(mode);
    print_text("\n");
    check("version",
          (apic_read(REG_VERSION) & 0xff) >= 0x10 && (apic_read(REG_VERSION) & 0xff) < 0x20);
    check_range("LVT entries", 3, 6, apic_read(REG_VERSION) >> 16 & 0xff);
    check_equal("SVR", 0x1ff, apic_read(REG_SVR) & 0x1ff);
    apic_write(REG_TPR, 0x20);
    check_equal("TPR", 0x20, apic_read(REG_TPR));
    check_equal("CR8", 2, READ_CR(8));
    apic_write(REG_TPR, 0);
    apic_write(REG_LINT0, 0x55);
    check_equal("LVT keeps a vector", 0x55, apic_read(REG_LINT0) & 0x100ff);
    apic_write(REG_SVR, 0xff);
    check_equal("a disabled APIC masks its LVT", LVT_MASKED, apic_read(REG_LINT0) & LVT_MASKED);
    apic_write(REG_LINT0, 0x55);
    check_equal("and keeps it masked", LVT_MASKED, apic_read(REG_LINT0) & LVT_MASKED);
    apic_write(REG_SVR, 0x1ff);
    check_equal("enabling does not unmask", LVT_MASKED, apic_read(REG_LINT0) & LVT_MASKED);
    apic_write(REG_LINT0, LVT_MASKED);
}

/* TSC and timer at one moment: of several tries the one that took least, for the VM may be held up at any time. */
static void read_timer(uint64_t *out_tsc, uint32_t *out_count)
{
    uint64_t least = UINT64_MAX;
    for (unsigned i = 0; i < 32; i++) {
        uint64_t before = rdtsc();
        uint32_t current = apic_read(REG_CURRENT);
        uint64_t took = rdtsc() - before;
        if (took < least) {
            least = took;
            *out_tsc = before + took / 2;
            *out_count = current;
        }
    }
}

/* Rate of the timer, which counts down from far above, in Hz. */
static uint64_t measure_timer(uint64_t ns)
{
    uint64_t begin_tsc, end_tsc;
    uint32_t begin, end;
    read_timer(&begin_tsc, &begin);
    wait_ns(ns);
    read_timer(&end_tsc, &end);
    return (uint64_t)(begin - end) * tsc_hz() / (end_tsc - begin_tsc);
}

static void test_timer(void)
{
    clear_counts();
    apic_write(REG_DIVIDE, DIVIDE_BY_1);
    check_equal("divide register", DIVIDE_BY_1, apic_read(REG_DIVIDE) & 0xf);
    apic_write(REG_TIMER, VECTOR | LVT_MASKED);
    apic_write(REG_INITIAL, UINT32_MAX);
    uint64_t hz = measure_timer(10 * MS);
    check_range("timer frequency in MHz", 1, 10000, hz / 1000000);
    apic_write(REG_INITIAL, 0);
    check_equal("a count of 0 stops", 0, apic_read(REG_CURRENT));

    uint32_t ticks = (uint32_t)(hz / 100); /* 10 ms */
    apic_write(REG_TIMER, VECTOR);
    apic_write(REG_INITIAL, ticks);
    uint64_t tsc = rdtsc();
    check_equal("one shot", 1, wait_count(0, 1, 2000 * MS));
    check_range("one shot: ms", 9, 1000, (last_tsc - tsc) * 1000 / tsc_hz());
    check_equal("one shot: once", 1, wait_count(0, 2, 30 * MS));
    check_equal("one shot: the count stays 0", 0, apic_read(REG_CURRENT));

    clear_counts();
    apic_write(REG_TIMER, VECTOR | TIMER_PERIODIC);
    tsc = rdtsc();
    apic_write(REG_INITIAL, ticks);
    check_equal("periodic", 1, wait_count(0, 10, 5000 * MS) >= 10);
    check_range("periodic: ms for ten", 85, 3000, (last_tsc - tsc) * 1000 / tsc_hz());
    apic_write(REG_TIMER, VECTOR | TIMER_PERIODIC | LVT_MASKED);
    unsigned before = wait_count(0, UINT32_MAX, 1 * MS);
    check_equal("masked: none", before, wait_count(0, UINT32_MAX, 30 * MS));
    apic_write(REG_INITIAL, 0);
    apic_write(REG_DIVIDE, 0xa); /* by 128 */
    apic_write(REG_INITIAL, UINT32_MAX);
    check_range("divided by 128: percent", 80, 125, measure_timer(20 * MS) * 128 * 100 / hz);
    apic_write(REG_INITIAL, 0);

    if (!(cpuid(1, 0).ecx & BIT(24))) {
        check_skipped("TSC deadline", "the processor has none");
        return;
    }
    clear_counts();
    apic_write(REG_TIMER, VECTOR | TIMER_DEADLINE);
    asm volatile("mfence" ::: "memory");
    uint64_t deadline = rdtsc() + tsc_hz() / 100;
    wrmsr(MSR_TSC_DEADLINE, deadline);
    check_equal("TSC deadline reads back", deadline, rdmsr(MSR_TSC_DEADLINE));
    check_equal("TSC deadline", 1, wait_count(0, 1, 2000 * MS));
    check("TSC deadline: not early", last_tsc >= deadline);
    check_equal("TSC deadline reads 0 afterwards", 0, rdmsr(MSR_TSC_DEADLINE));
    wrmsr(MSR_TSC_DEADLINE, 1);
    check_equal("a deadline in the past", 2, wait_count(0, 2, 2000 * MS));
    wrmsr(MSR_TSC_DEADLINE, rdtsc() + tsc_hz() / 50);
    wrmsr(MSR_TSC_DEADLINE, 0);
    check_equal("a deadline taken back", 2, wait_count(0, 3, 50 * MS));
    apic_write(REG_TIMER, VECTOR | LVT_MASKED);
    wrmsr(MSR_TSC_DEADLINE, rdtsc() + 1000000);
    check_equal("no deadline in one-shot mode", 0, rdmsr(MSR_TSC_DEADLINE));
}

static void test_errors(void)
{
    apic_write(REG_ERROR, 0xfe | LVT_MASKED);
    apic_write(REG_ESR, 0);
    apic_write(REG_ESR, 0);
    check_equal("no errors", 0, apic_read(REG_ESR));
    trap_hook[5] = on_interrupt; /* should it come */
    apic_send(0x40005, 0);       /* vector 5 to itself */
    apic_write(REG_ESR, 0);
    check("an illegal vector shows in ESR", apic_read(REG_ESR) & 0x60);
    apic_write(REG_ESR, 0);
    check_equal("once", 0, apic_read(REG_ESR));
}

static volatile bool listener_stops;

static void listen(void *arg)
{
    (void)arg;
    asm volatile("sti" ::: "memory");
    while (!listener_stops) {
        pause();
    }
    asm volatile("cli" ::: "memory");
}

static void halt_until_counted(void *arg)
{
    (void)arg;
    unsigned own = own_index();
    while (count[own] == 0) {
        asm volatile("sti; hlt; cli" ::: "memory");
    }
}

static void test_ipi(void)
{
    clear_counts();
    apic_send(0x40000 | VECTOR, 0);
    check_equal("IPI to itself", 1, wait_count(0, 1, 1000 * MS));
    apic_send(VECTOR, cpu_apic_id[0]);
    check_equal("IPI to its own number", 2, wait_count(0, 2, 1000 * MS));
    apic_send(0x80000 | VECTOR, 0);
    check_equal("IPI to all", 3, wait_count(0, 3, 1000 * MS));
    apic_send(0xc0000 | VECTOR, 0);
    check_equal("IPI to all others does not come here", 3, wait_count(0, 4, 5 * MS));
    if (cpu_count == 1) {
        return;
    }
    clear_counts();
    listener_stops = false;
    for (unsigned i = 1; i < cpu_count; i++) {
        smp_run(i, listen, NULL);
    }
    /* Also what was sent above while they had interrupts off. */
    check("pending IPIs come when IF is set", wait_count(1, 1, 2000 * MS) >= 1);
    wait_ns(5 * MS);
    unsigned base = count[1];
    apic_send(VECTOR, cpu_apic_id[1]);
    check_equal("IPI to processor 1", base + 1, wait_count(1, base + 1, 2000 * MS));
    check_equal("and not here", 0, count[0]);
    apic_send(0xc0000 | VECTOR, 0);
    check_equal("IPI to all others", base + 2, wait_count(1, base + 2, 2000 * MS));
    apic_send(0x80000 | VECTOR, 0);
    check_equal("IPI to all", base + 3, wait_count(1, base + 3, 2000 * MS));
    check_equal("and here", 1, wait_count(0, 1, 2000 * MS));
    trap_hook[NMI] = on_nmi;
    apic_send(0x400, cpu_apic_id[1]);
    check_equal("NMI to processor 1", base + 4, wait_count(1, base + 4, 2000 * MS));
    trap_hook[NMI] = NULL;
    for (unsigned i = 0; i < 1000; i++) {
        base = count[1];
        apic_send(VECTOR, cpu_apic_id[1]);
        if (wait_count(1, base + 1, 2000 * MS) != base + 1) {
            check("1000 IPIs", false);
            break;
        }
    }
    check("1000 IPIs came", count[1] == base + 1);
    listener_stops = true;
    smp_wait(1);
    clear_counts();
    smp_run(1, halt_until_counted, NULL);
    wait_ns(20 * MS);
    apic_send(VECTOR, cpu_apic_id[1]);
    smp_wait(1);
    check_equal("an IPI wakes a halted processor", 1, count[1]);
    for (unsigned i = 2; i < cpu_count; i++) {
        smp_wait(i);
    }
}

/* --- I/O APIC --- */

#define SERIAL        0x3f8
#define SERIAL_PIN    4
#define IO_LEVEL      BIT(15)
#define IO_MASKED     BIT(16)
#define IO_REMOTE_IRR BIT(14)
#define IO_VECTOR     0x51

static volatile unsigned io_count, io_quiet_after;

/* Leaves the line as it is for the first interrupts, then takes the cause away. */
static void on_serial(struct trap_frame *frame)
{
    (void)frame;
    if (++io_count >= io_quiet_after) {
        outb(SERIAL + 1, 0);
    }
    apic_write(REG_EOI, 0);
}

static unsigned count_serial(uint32_t entry, unsigned quiet_after)
{
    io_count = 0;
    io_quiet_after = quiet_after;
    ioapic_write(0x11 + 2 * SERIAL_PIN, cpu_apic_id[0] << 24);
    ioapic_write(0x10 + 2 * SERIAL_PIN, entry);
    while ((inb(SERIAL + 5) & 0x60) != 0x60) {
        pause();
    }
    outb(SERIAL + 1, 2); /* transmitter empty, which it is */
    asm volatile("sti" ::: "memory");
    wait_ns(20 * MS);
    asm volatile("cli" ::: "memory");
    outb(SERIAL + 1, 0);
    (void)inb(SERIAL + 2);
    ioapic_write(0x10 + 2 * SERIAL_PIN, IO_MASKED | IO_VECTOR);
    return io_count;
}

static void test_ioapic(void)
{
    trap_hook[IO_VECTOR] = on_serial;
    outb(SERIAL + 4, 0xb); /* OUT2 lets interrupts out */
    check_range("I/O APIC: version", 0x11, 0x20, ioapic_read(1) & 0xff);
    check_equal("I/O APIC: 24 inputs", 23, ioapic_read(1) >> 16 & 0xff);
    ioapic_write(0x10 + 2 * SERIAL_PIN, IO_MASKED | IO_VECTOR);
    check_equal("I/O APIC: an entry reads back", IO_MASKED | IO_VECTOR,
                ioapic_read(0x10 + 2 * SERIAL_PIN));
    unsigned masked = count_serial(IO_MASKED | IO_VECTOR, 1);
    unsigned edge = count_serial(IO_VECTOR, 1000);
    unsigned level = count_serial(IO_LEVEL | IO_VECTOR, 1);
    unsigned again = count_serial(IO_LEVEL | IO_VECTOR, 5);
    check_equal("masked: no interrupt", 0, masked);
    check_equal("edge: one interrupt while the line stays up", 1, edge);
    check_equal("level: one interrupt if its cause is taken away", 1, level);
    check_equal("level: again after each EOI while the line is up", 5, again);

    /* Remote IRR while a level-triggered interrupt is in service. */
    trap_hook[IO_VECTOR] = NULL;
    ioapic_write(0x10 + 2 * SERIAL_PIN, IO_LEVEL | IO_VECTOR);
    outb(SERIAL + 1, 2);
    for (unsigned i = 0;
         i < 1000 && !(apic_read(REG_IRR + IO_VECTOR / 32 * 16) & 1u << IO_VECTOR % 32); i++) {
        wait_ns(10000);
    }
    uint32_t entry = ioapic_read(0x10 + 2 * SERIAL_PIN);
    uint32_t tmr = apic_read(0x180 + IO_VECTOR / 32 * 16);
    TRY("sti; nop; nop; cli", ::: "memory");
    unsigned vector = (unsigned)trap.vector;
    outb(SERIAL + 1, 0);
    uint32_t in_service = ioapic_read(0x10 + 2 * SERIAL_PIN);
    apic_write(REG_EOI, 0);
    uint32_t after = ioapic_read(0x10 + 2 * SERIAL_PIN);
    ioapic_write(0x10 + 2 * SERIAL_PIN, IO_MASKED | IO_VECTOR);
    check_equal("level: remote IRR when sent", IO_REMOTE_IRR, entry & IO_REMOTE_IRR);
    check_equal("level: TMR", 1u << IO_VECTOR % 32, tmr & 1u << IO_VECTOR % 32);
    check_equal("level: delivered", IO_VECTOR, vector);
    check_equal("level: remote IRR until EOI", IO_REMOTE_IRR, in_service & IO_REMOTE_IRR);
    check_equal("level: EOI clears it", 0, after & IO_REMOTE_IRR);
    if (cpu_count > 1) {
        /* An input to another processor. */
        trap_hook[IO_VECTOR] = on_interrupt;
        clear_counts();
        listener_stops = false;
        smp_run(1, listen, NULL);
        ioapic_write(0x11 + 2 * SERIAL_PIN, cpu_apic_id[1] << 24);
        ioapic_write(0x10 + 2 * SERIAL_PIN, IO_VECTOR);
        outb(SERIAL + 1, 2);
        unsigned got = wait_count(1, 1, 2000 * MS);
        outb(SERIAL + 1, 0);
        ioapic_write(0x10 + 2 * SERIAL_PIN, IO_MASKED);
        listener_stops = true;
        smp_wait(1);
        check_equal("an input to processor 1", 1, got);
    }
}

static void test_x2(void)
{
    if (!(cpuid(1, 0).ecx & BIT(21))) {
        check_skipped("x2APIC", "the processor has none");
        return;
    }
    uint64_t base = rdmsr(MSR_APIC_BASE);
    uint32_t id = apic_read(REG_ID) >> 24;
    TRY("rdmsr", ::"c"(0x802) : "rax", "rdx");
    check_fault("x2APIC registers in xAPIC mode", GP, 0);
    wrmsr(MSR_APIC_BASE, base | BASE_X2);
    check_equal("x2APIC is on", BASE_X2, rdmsr(MSR_APIC_BASE) & BASE_X2);
    check_equal("x2APIC: the number", id, apic_read(REG_ID));
    check_equal("x2APIC: logical number", (id >> 4) << 16 | 1u << (id & 15), apic_read(REG_LDR));
    TRY("wrmsr", ::"a"(0), "d"(0), "c"(0x80d));
    check_fault("x2APIC: LDR is read-only", GP, 0);
    TRY("rdmsr", ::"c"(0x80e) : "rax", "rdx");
    check_fault("x2APIC: no DFR", GP, 0);
    TRY("wrmsr", ::"a"(1), "d"(0), "c"(0x80b));
    check_fault("x2APIC: EOI takes 0 only", GP, 0);
    TRY("wrmsr", ::"a"(0x100), "d"(0), "c"(0x808));
    check_fault("x2APIC: TPR has 8 bits", GP, 0);
    TRY("rdmsr", ::"c"(0x831) : "rax", "rdx");
    check_fault("x2APIC: no second half of ICR", GP, 0);
    TRY("wrmsr", ::"a"((uint32_t)(base & ~BASE_X2)), "d"(0), "c"(MSR_APIC_BASE));
    check_fault("x2APIC: not back to xAPIC", GP, 0);
    clear_counts();
    wrmsr(0x83f, VECTOR);
    check_equal("x2APIC: self IPI register", 1, wait_count(0, 1, 1000 * MS));
    test_registers("x2APIC mode:");
    test_timer();
    test_ipi();
    test_ioapic();
}

void guest_main(void)
{
    uint64_t base = rdmsr(MSR_APIC_BASE);
    check_equal("APIC base", 0xfee00000 | BASE_ENABLE | BASE_BSP, base);
    apic_enable();
    trap_hook[VECTOR] = on_interrupt;
    check("all processors came", smp_start());
    check_equal("the number", cpuid(1, 0).ebx >> 24, apic_read(REG_ID) >> 24);
    apic_write(REG_LDR, 0x02000000);
    check_equal("LDR", 0x02000000, apic_read(REG_LDR));
    apic_write(REG_DFR, 0xffffffff);
    check_equal("DFR", 0xffffffff, apic_read(REG_DFR));
    clear_counts();
    apic_send(0x800 | VECTOR, 2);
    check_equal("logical destination", 1, wait_count(0, 1, 1000 * MS));
    apic_send(0x800 | VECTOR, 4);
    check_equal("another logical destination", 1, wait_count(0, 2, 5 * MS));
    test_registers("xAPIC mode:");
    test_errors();
    test_timer();
    test_ipi();
    test_ioapic();
    test_x2();
}
