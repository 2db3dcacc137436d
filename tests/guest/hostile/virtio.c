/* Breaks the protocol of a virtio device again and again, and must not come to its end: the device has to stop the VM
 * (exit status 4). Before that the device asks for a reset each time, as virtio 1.2 section 2.1.2 has it. */
#include "guest.h"

#define PCI_ADDRESS      0xcf8
#define PCI_DATA         0xcfc
#define VIRTIO_VENDOR    0x1af4
#define RNG_DEVICE       0x1044 /* 0x1040 + device type 4: a queue and nothing else */
#define CAP_VENDOR       0x09
#define CFG_COMMON       1
#define CFG_NOTIFY       2
#define BAR_GPA          0xd0000000u /* below 4 GiB, where the identity map reaches */
#define QUEUE_GPA        0x200000u
#define STATUS_DRIVER_OK 0x0f /* acknowledge, driver, driver ok, features ok */
#define NEEDS_RESET      0x40
#define MAX_ROUNDS       1000
#define MAX_POLLS        100000000

static unsigned device;

static uint32_t config_read(unsigned reg)
{
    outl(PCI_ADDRESS, 0x80000000u | device << 11 | (reg & 0xfc));
    return inl(PCI_DATA) >> (reg & 3) * 8;
}

static void config_write(unsigned reg, uint32_t value)
{
    outl(PCI_ADDRESS, 0x80000000u | device << 11 | (reg & 0xfc));
    outl(PCI_DATA, value);
}

static bool find_device(void)
{
    for (device = 0; device < 32; device++) {
        if (config_read(0) == (VIRTIO_VENDOR | (uint32_t)RNG_DEVICE << 16)) {
            return true;
        }
    }
    return false;
}

/* Address of one of the device's structures (section 4.1.4), with its BAR moved into reach. */
static volatile uint8_t *find_structure(unsigned type, uint32_t *out_multiplier)
{
    for (unsigned cap = config_read(0x34) & 0xff; cap != 0; cap = config_read(cap + 1) & 0xff) {
        if ((config_read(cap) & 0xff) == CAP_VENDOR && (config_read(cap + 3) & 0xff) == type) {
            unsigned bar = 0x10 + (config_read(cap + 4) & 0xff) * 4;
            bool is_wide = (config_read(bar) & 6) == 4;
            config_write(bar, BAR_GPA);
            if (is_wide) {
                config_write(bar + 4, 0);
            }
            *out_multiplier = config_read(cap + 16);
            return (volatile uint8_t *)(uintptr_t)(BAR_GPA + config_read(cap + 8));
        }
    }
    guest_fail("a virtio structure is missing");
}

static void put16(volatile uint8_t *at, uint16_t value)
{
    *(volatile uint16_t *)at = value;
}

static void put32(volatile uint8_t *at, uint32_t value)
{
    *(volatile uint32_t *)at = value;
}

static void put64(volatile uint8_t *at, uint64_t value)
{
    put32(at, (uint32_t)value);
    put32(at + 4, (uint32_t)(value >> 32));
}

static bool wait_for_status(volatile uint8_t *common, uint8_t mask, uint8_t value)
{
    for (unsigned i = 0; i < MAX_POLLS; i++) {
        if ((common[0x14] & mask) == value) {
            return true;
        }
        asm volatile("pause");
    }
    return false;
}

void guest_main(void)
{
    uint32_t multiplier;
    if (!find_device()) {
        guest_fail("no random number generator");
    }
    volatile uint8_t *common = find_structure(CFG_COMMON, &multiplier);
    volatile uint8_t *notify = find_structure(CFG_NOTIFY, &multiplier);
    config_write(4, 6); /* memory space, bus master */
    for (unsigned round = 0; round < MAX_ROUNDS; round++) {
        common[0x14] = 0;
        if (!wait_for_status(common, 0xff, 0)) {
            guest_fail("the device does not reset");
        }
        common[0x14] = 3;
        put32(common + 8, 1); /* feature bits 63:32: VERSION_1 is bit 32 */
        put32(common + 12, 1);
        common[0x14] = 0x0b;
        put16(common + 0x16, 0);
        put64(common + 0x20, QUEUE_GPA);
        put64(common + 0x28, QUEUE_GPA + 0x10000);
        put64(common + 0x30, QUEUE_GPA + 0x20000);
        put16(common + 0x1c, 1);
        common[0x14] = STATUS_DRIVER_OK;
        /* More chains than the queue has descriptors. */
        *(volatile uint16_t *)(uintptr_t)(QUEUE_GPA + 0x10000 + 2) = 0x7fff;
        put16(notify + *(volatile uint16_t *)(common + 0x1e) * multiplier, 0);
        if (!wait_for_status(common, NEEDS_RESET, NEEDS_RESET)) {
            guest_fail("the device took a queue that cannot be");
        }
        print_text("broken\n");
    }
    guest_fail("the device let itself be broken without end");
}
