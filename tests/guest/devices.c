/* The board: PCI configuration space, addresses without a device, clock, PM timer, serial port. */
#include "guest.h"

#define PCI_ADDRESS 0xcf8
#define PCI_DATA    0xcfc
#define SERIAL      0x3f8
#define CMOS_INDEX  0x70
#define CMOS_DATA   0x71

static uint32_t pci_address(unsigned device, unsigned function, unsigned reg)
{
    return 0x80000000u | device << 11 | function << 8 | (reg & 0xfc);
}

static uint32_t pci_read(unsigned device, unsigned function, unsigned reg)
{
    outl(PCI_ADDRESS, pci_address(device, function, reg));
    return inl(PCI_DATA);
}

static void pci_write(unsigned device, unsigned function, unsigned reg, uint32_t value)
{
    outl(PCI_ADDRESS, pci_address(device, function, reg));
    outl(PCI_DATA, value);
}

static void test_bars(unsigned device)
{
    uint32_t command = pci_read(device, 0, 4) & 0xffff;
    unsigned header = pci_read(device, 0, 0xc) >> 16 & 0x7f;
    if (header != 0) {
        return;
    }
    pci_write(device, 0, 4, command & ~7u);
    for (unsigned reg = 0x10; reg < 0x28; reg += 4) {
        uint32_t bar = pci_read(device, 0, reg);
        pci_write(device, 0, reg, UINT32_MAX);
        uint32_t mask = pci_read(device, 0, reg);
        pci_write(device, 0, reg, bar);
        check_equal("a BAR reads back", bar, pci_read(device, 0, reg));
        uint32_t kind = mask & 1 ? 3 : 15;
        bool is_wide = !(mask & 1) && (mask & 6) == 4;
        uint64_t size_mask = mask & ~kind;
        if (is_wide) {
            uint32_t high = pci_read(device, 0, reg + 4);
            pci_write(device, 0, reg + 4, UINT32_MAX);
            size_mask |= (uint64_t)pci_read(device, 0, reg + 4) << 32;
            pci_write(device, 0, reg + 4, high);
            reg += 4;
        } else if (size_mask != 0) {
            size_mask |= 0xffffffff00000000 | (mask & 1 ? 0xffff0000 : 0);
        }
        uint64_t size = ~size_mask + 1;
        if (size_mask != 0) {
            check("a BAR's size is a power of two", (size & (size - 1)) == 0);
        }
    }
    pci_write(device, 0, 4, command);
}

static void test_pci(void)
{
    outl(PCI_ADDRESS, 0x80001234);
    check_equal("CF8 reads back", 0x80001234, inl(PCI_ADDRESS));
    uint32_t id = pci_read(0, 0, 0);
    check("a host bridge", (id & 0xffff) != 0xffff && (pci_read(0, 0, 8) >> 16) == 0x0600);
    outl(PCI_ADDRESS, pci_address(0, 0, 0));
    check_equal("configuration in words", id, inw(PCI_DATA) | (uint32_t)inw(PCI_DATA + 2) << 16);
    check_equal("configuration in bytes", id,
                inb(PCI_DATA) | inb(PCI_DATA + 1) << 8 | inb(PCI_DATA + 2) << 16 |
                    (uint32_t)inb(PCI_DATA + 3) << 24);
    pci_write(0, 0, 0, 0x12345678);
    check_equal("vendor and device are read-only", id, pci_read(0, 0, 0));
    check_equal("an absent function reads all ones", 0xffffffff, pci_read(29, 7, 0));
    outl(PCI_ADDRESS, 0x80ff0000);
    check_equal("an absent bus reads all ones", 0xffffffff, inl(PCI_DATA));
    outl(PCI_ADDRESS, 0);
    check_equal("configuration off: all ones", 0xffffffff, inl(PCI_DATA));
    unsigned count = 0;
    for (unsigned device = 0; device < 32; device++) {
        if ((pci_read(device, 0, 0) & 0xffff) != 0xffff) {
            count++;
            test_bars(device);
        }
    }
    check_range("functions", 1, 32, count);
    if (ecam_gpa == 0) {
        check_skipped("ECAM", "the board has none");
        return;
    }
    for (unsigned device = 0; device < 32; device++) {
        for (unsigned reg = 0; reg < 64; reg += 4) {
            uint32_t by_port = pci_read(device, 0, reg),
                     by_memory = read32(ecam_gpa + device * 0x8000 + reg);
            if (by_port != by_memory) {
                check_equal("ECAM shows what the ports show", by_port, by_memory);
            }
        }
    }
    check_equal("ECAM in bytes", id >> 8 & 0xff, *(volatile uint8_t *)(uintptr_t)(ecam_gpa + 1));
    check_equal("ECAM in words", id >> 16, *(volatile uint16_t *)(uintptr_t)(ecam_gpa + 2));
    check_equal("ECAM: an absent function", 0xffffffff,
                read32(ecam_gpa + 29 * 0x8000 + 7 * 0x1000));
}

static void test_unbacked(void)
{
    static const uint16_t ports[] = {0x5678, 0x1ff, 0xfffc};
    for (unsigned i = 0; i < ARRAY_COUNT(ports); i++) {
        outl(ports[i], 0);
        check_equal("a port without a device: byte", 0xff, inb(ports[i]));
        check_equal("a port without a device: word", 0xffff, inw(ports[i]));
        check_equal("a port without a device: double word", 0xffffffff, inl(ports[i]));
    }
    uint64_t far = TEST_GVA + BIT(30);
    page_map(far, BIT(36) | PTE_P | PTE_W | PTE_PS, 2);
    const uint64_t places[] = {0x40000000, 0x7ffffff8, far, far + 0x1ff0};
    for (unsigned i = 0; i < ARRAY_COUNT(places); i++) {
        uint64_t at = places[i];
        write64(at, 0x1234567812345678);
        write32(at, 0);
        *(volatile uint8_t *)(uintptr_t)at = 0;
        check_equal("an address without a device: byte", 0xff, *(volatile uint8_t *)(uintptr_t)at);
        check_equal("an address without a device: word", 0xffff,
                    *(volatile uint16_t *)(uintptr_t)at);
        check_equal("an address without a device: double word", 0xffffffff, read32(at));
        check_equal("an address without a device: quad word", UINT64_MAX, read64(at));
    }
    uint64_t value = 5;
    asm volatile("addq %1, %0" : "+r"(value) : "m"(*(volatile uint64_t *)0x40000000));
    check_equal("an operand without a device", 4, value);
    memset((void *)USER_DATA, 0, 64);
    uint64_t count = 4, from = 0x40000000, to = USER_DATA;
    asm volatile("rep movsl" : "+c"(count), "+S"(from), "+D"(to)::"memory");
    check_equal("REP MOVSD without a device", UINT64_MAX, read64(USER_DATA + 8));
}

static uint8_t cmos_read(uint8_t index)
{
    outb(CMOS_INDEX, index);
    return inb(CMOS_DATA);
}

static uint8_t cmos_seconds(void)
{
    while (cmos_read(0xa) & 0x80) {
    }
    return cmos_read(0);
}

/* Ticks of the PM timer from one second of the clock to the next. A VM that is put aside in between sees too many or too few,
 * so it has some tries. */
static uint32_t ticks_in_a_second(void)
{
    uint32_t ticks = 0;
    for (int attempt = 0; attempt < 5 && !(ticks >= 3200000 && ticks <= 4000000); attempt++) {
        uint8_t second = cmos_seconds();
        uint64_t limit = rdtsc() + 3 * tsc_hz();
        while (cmos_seconds() == second && rdtsc() < limit) {
        }
        uint32_t begin = inl(pm_timer_port);
        uint8_t next = cmos_seconds();
        if (!attempt) {
            check("clock: it goes", next != second);
        }
        while (cmos_seconds() == next && rdtsc() < limit) {
        }
        ticks = (inl(pm_timer_port) - begin) & 0xffffff;
    }
    return ticks;
}

static void test_clocks(void)
{
    check_equal("clock: valid", 0x80, cmos_read(0xd) & 0x80);
    bool is_binary = cmos_read(0xb) & 4;
    uint8_t month = cmos_read(8), day = cmos_read(7);
    check("clock: month", is_binary
                              ? month >= 1 && month <= 12
                              : (month >= 1 && month <= 9) || (month >= 0x10 && month <= 0x12));
    check("clock: day", day >= 1 && day <= 0x31);
    outb(CMOS_INDEX, 0x7f);
    uint8_t saved = inb(CMOS_DATA);
    outb(CMOS_INDEX, 0x7f);
    outb(CMOS_DATA, saved ^ 0x5a);
    check_equal("clock: memory", saved ^ 0x5a, cmos_read(0x7f));
    outb(CMOS_DATA, saved);
    if (pm_timer_port == 0) {
        check_skipped("PM timer", "the board has none");
        return;
    }
    check_range("PM timer: ticks in a second of the clock", 3200000, 4000000, ticks_in_a_second());
    check("PM timer: 24 or 32 bits", inl(pm_timer_port) != 0xffffffff);
    uint32_t last = inl(pm_timer_port), backward = 0;
    for (unsigned i = 0; i < 1000; i++) {
        uint32_t now = inl(pm_timer_port);
        backward += ((now - last) & 0xffffff) > 0x800000;
        last = now;
    }
    check_equal("PM timer: never back", 0, backward);
}

static void test_serial(void)
{
    uint8_t results[16];
    unsigned n = 0;
    while ((inb(SERIAL + 5) & 0x60) != 0x60) {
    }
    /* No output until all is as it was. */
    uint8_t lcr = inb(SERIAL + 3), mcr = inb(SERIAL + 4);
    outb(SERIAL + 7, 0x5a);
    results[n++] = inb(SERIAL + 7);
    outb(SERIAL + 3, 0x80 | 3);
    uint8_t low = inb(SERIAL), high = inb(SERIAL + 1);
    outb(SERIAL, 0x34);
    outb(SERIAL + 1, 0x12);
    results[n++] = inb(SERIAL);
    results[n++] = inb(SERIAL + 1);
    outb(SERIAL, low ? low : 1);
    outb(SERIAL + 1, high);
    outb(SERIAL + 3, 3);
    results[n++] = inb(SERIAL + 3);
    outb(SERIAL + 2, 0x07);
    results[n++] = inb(SERIAL + 2) & 0xc0;
    /* Loopback: the modem outputs are its inputs, what is sent is received. */
    outb(SERIAL + 4, 0x10 | 0x05);
    results[n++] = inb(SERIAL + 6) & 0xf0;
    outb(SERIAL + 4, 0x10 | 0x0a);
    results[n++] = inb(SERIAL + 6) & 0xf0;
    outb(SERIAL, 0xa5);
    uint64_t limit = rdtsc() + tsc_hz();
    while (!(inb(SERIAL + 5) & 1) && rdtsc() < limit) {
    }
    results[n++] = inb(SERIAL + 5) & 1;
    results[n++] = inb(SERIAL);
    results[n++] = inb(SERIAL + 5) & 1;
    outb(SERIAL + 4, mcr & 0xf);
    outb(SERIAL + 2, 0);
    results[n++] = inb(SERIAL + 2) & 0xc0;
    outb(SERIAL + 3, lcr);
    static const struct {
        const char *name;
        uint8_t value;
    } expected[] = {
        {"serial: scratch", 0x5a},
        {"serial: divisor, low", 0x34},
        {"serial: divisor, high", 0x12},
        {"serial: line control", 3},
        {"serial: FIFO on", 0xc0},
        {"serial: loopback of DTR and OUT1", 0x60},
        {"serial: loopback of RTS and OUT2", 0x90},
        {"serial: loopback has data", 1},
        {"serial: loopback data", 0xa5},
        {"serial: then none", 0},
        {"serial: FIFO off", 0},
    };
    for (unsigned i = 0; i < n; i++) {
        check_equal(expected[i].name, expected[i].value, results[i]);
    }
}

void guest_main(void)
{
    test_pci();
    test_unbacked();
    test_clocks();
    test_serial();
}
