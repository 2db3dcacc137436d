/* What the board has, by its ACPI tables; APICs; clocks; further processors. */
#include "guest.h"

#define MSR_APIC_BASE 0x1b
#define APIC_GPA      0xfee00000ull
#define AP_STACK_SIZE 16384
#define ICR_INIT      0x4500u
#define ICR_SIPI      0x4600u

unsigned cpu_count = 1;
uint16_t pm_timer_port;
uint64_t ecam_gpa, ioapic_gpa = 0xfec00000;
uint32_t cpu_apic_id[CPU_MAX];

/* --- ACPI (specification 6.4, chapter 5) --- */

static uint32_t get32(const uint8_t *at)
{
    uint32_t value;
    memcpy(&value, at, sizeof(value));
    return value;
}

static uint64_t get64(const uint8_t *at)
{
    return get32(at) | (uint64_t)get32(at + 4) << 32;
}

static void read_madt(const uint8_t *table)
{
    unsigned count = 0;
    for (const uint8_t *at = table + 44; at < table + get32(table + 4) && at[1] != 0; at += at[1]) {
        if (at[0] == 0 && (at[4] & 1) && count < CPU_MAX) {
            cpu_apic_id[count++] = at[3];
        } else if (at[0] == 1) {
            ioapic_gpa = get32(at + 4);
        }
    }
    cpu_count = count ? count : 1;
}

static void read_table(const uint8_t *table)
{
    if (memcmp(table, "APIC", 4) == 0) {
        read_madt(table);
    } else if (memcmp(table, "FACP", 4) == 0) {
        pm_timer_port = (uint16_t)get32(table + 76);
    } else if (memcmp(table, "MCFG", 4) == 0) {
        ecam_gpa = get64(table + 44);
    }
}

void platform_init(void)
{
    /* Boards with 8259s have them on LINT0: silent. */
    outb(0x21, 0xff);
    outb(0xa1, 0xff);
    for (uint64_t gpa = 0xe0000; gpa < 0x100000; gpa += 16) {
        const uint8_t *rsdp = (const uint8_t *)(uintptr_t)gpa;
        if (memcmp(rsdp, "RSD PTR ", 8) != 0) {
            continue;
        }
        bool is_wide = rsdp[15] >= 2 && get64(rsdp + 24) != 0;
        const uint8_t *root =
            (const uint8_t *)(uintptr_t)(is_wide ? get64(rsdp + 24) : get32(rsdp + 16));
        unsigned step = is_wide ? 8 : 4;
        for (const uint8_t *at = root + 36; at < root + get32(root + 4); at += step) {
            read_table((const uint8_t *)(uintptr_t)(is_wide ? get64(at) : get32(at)));
        }
        return;
    }
    guest_fail("no ACPI tables");
}

/* --- clocks --- */

/* Both clocks at one moment: of several tries the one that took least, for the VM may be held up at any time. */
static void read_clocks(uint64_t *out_tsc, uint32_t *out_ticks)
{
    uint64_t least = UINT64_MAX;
    for (unsigned i = 0; i < 32; i++) {
        uint64_t before = rdtsc();
        uint32_t ticks = inl(pm_timer_port);
        uint64_t took = rdtsc() - before;
        if (took < least) {
            least = took;
            *out_tsc = before + took / 2;
            *out_ticks = ticks;
        }
    }
}

uint64_t tsc_hz(void)
{
    static uint64_t hz;
    if (hz != 0) {
        return hz;
    }
    if (pm_timer_port == 0) {
        guest_fail("no PM timer");
    }
    const uint32_t ticks = 3579545 / 20; /* 50 ms */
    uint64_t begin_tsc, end_tsc;
    uint32_t begin, end;
    read_clocks(&begin_tsc, &begin);
    do {
        end = inl(pm_timer_port);
    } while (((end - begin) & 0xffffff) < ticks);
    read_clocks(&end_tsc, &end);
    hz = (end_tsc - begin_tsc) * 3579545 / ((end - begin) & 0xffffff);
    return hz;
}

void wait_ns(uint64_t ns)
{
    uint64_t end = rdtsc() + tsc_hz() / 1000000 * ns / 1000;
    while (rdtsc() < end) {
        pause();
    }
}

/* --- APICs --- */

bool apic_is_x2(void)
{
    return rdmsr(MSR_APIC_BASE) & BIT(10);
}

uint32_t apic_read(uint32_t offset)
{
    return apic_is_x2() ? (uint32_t)rdmsr(0x800 + offset / 16) : read32(APIC_GPA + offset);
}

void apic_write(uint32_t offset, uint32_t value)
{
    if (apic_is_x2()) {
        wrmsr(0x800 + offset / 16, value);
    } else {
        write32(APIC_GPA + offset, value);
    }
}

void apic_send(uint32_t icr, uint32_t destination)
{
    if (apic_is_x2()) {
        /* Writes of this MSR do not wait for earlier stores (SDM 3A 10.12.3). */
        asm volatile("mfence" ::: "memory");
        wrmsr(0x830, icr | (uint64_t)destination << 32);
        return;
    }
    write32(APIC_GPA + 0x310, destination << 24);
    write32(APIC_GPA + 0x300, icr);
    while (read32(APIC_GPA + 0x300) & BIT(12)) {
        pause();
    }
}

void apic_enable(void)
{
    apic_write(0xf0, 0x1ff);
}

uint32_t ioapic_read(uint8_t reg)
{
    write32(ioapic_gpa, reg);
    return read32(ioapic_gpa + 0x10);
}

void ioapic_write(uint8_t reg, uint32_t value)
{
    write32(ioapic_gpa, reg);
    write32(ioapic_gpa + 0x10, value);
}

/* --- further processors --- */

extern char ap_trampoline[], ap_trampoline_end[];
void ap_main(unsigned index);
uint32_t ap_stack, ap_index;
static uint8_t ap_stacks[CPU_MAX][AP_STACK_SIZE] __attribute__((aligned(16)));
static uint8_t ap_trap_stacks[CPU_MAX][2][AP_STACK_SIZE] __attribute__((aligned(16)));
static struct tss ap_tss[CPU_MAX];

static struct {
    void (*volatile fn)(void *arg);
    void *arg;
    volatile bool is_ready;
} work[CPU_MAX] __attribute__((aligned(64)));

/* A task state segment for the stacks of traps; NMIs have one of their own. */
static void load_tss(unsigned index)
{
    struct tss *own = &ap_tss[index];
    unsigned selector = AP_TSS_SELECTOR + 16 * index;
    for (unsigned i = 0; i < 3; i++) {
        own->ist[i] = (uintptr_t)(ap_trap_stacks[index][i == 1] + AP_STACK_SIZE);
    }
    gdt[selector / 8] = DESCRIPTOR((uintptr_t)own, 103, 0x89, 0);
    gdt[selector / 8 + 1] = (uintptr_t)own >> 32;
    asm volatile("ltr %w0" ::"r"(selector));
}

void ap_main(unsigned index)
{
    load_tss(index);
    apic_enable();
    work[index].is_ready = true;
    for (;;) {
        while (!__atomic_load_n(&work[index].fn, __ATOMIC_ACQUIRE)) {
            pause();
        }
        work[index].fn(work[index].arg);
        __atomic_store_n(&work[index].fn, NULL, __ATOMIC_RELEASE);
    }
}

bool smp_start(void)
{
    memcpy((void *)TRAMPOLINE_GPA, ap_trampoline, (size_t)(ap_trampoline_end - ap_trampoline));
    apic_enable();
    for (unsigned i = 1; i < cpu_count; i++) {
        ap_stack = (uint32_t)(uintptr_t)(ap_stacks[i] + AP_STACK_SIZE);
        ap_index = i;
        asm volatile("mfence" ::: "memory");
        apic_send(ICR_INIT, cpu_apic_id[i]);
        wait_ns(10000000);
        for (unsigned attempt = 0; attempt < 2 && !work[i].is_ready; attempt++) {
            apic_send(ICR_SIPI | TRAMPOLINE_GPA >> 12, cpu_apic_id[i]);
            for (unsigned ms = 0; ms < 500 && !work[i].is_ready; ms++) {
                wait_ns(1000000);
            }
        }
        if (!work[i].is_ready) {
            return false;
        }
    }
    return true;
}

void smp_run(unsigned cpu, void (*fn)(void *arg), void *arg)
{
    work[cpu].arg = arg;
    __atomic_store_n(&work[cpu].fn, fn, __ATOMIC_RELEASE);
}

bool smp_is_done(unsigned cpu)
{
    return __atomic_load_n(&work[cpu].fn, __ATOMIC_ACQUIRE) == NULL;
}

void smp_wait(unsigned cpu)
{
    while (!smp_is_done(cpu)) {
        pause();
    }
}
