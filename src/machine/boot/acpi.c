#include "machine/boot/acpi.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/core/bits.h"
#include "base/core/endian.h"
#include "base/host/file.h"
#include "machine/boot/acpi_cpus.h"
#include "machine/boot/aml.h"

#define TABLE_ALIGN   64u
#define HEADER_SIZE   36u
#define RSDP_SIZE     36u
#define FADT_SIZE     276u
#define FACS_SIZE     64u
#define DSDT_ROOM     16384u
#define PCI_PRT_COUNT (PCI_MAX_DEVICES * 4)
#define GAS_SYSTEM_IO 1
#define MADT_ENABLED  1u
#define MADT_CAPABLE  2u     /* it may come later */
#define ISA_IRQ_LEVEL 0x000d /* MADT: active high (01), level-triggered (11) */

/* Tables are made in host memory at the offsets that they will have in the guest's. */
struct builder {
    uint8_t *data;
    uint64_t gpa;
    uint32_t size, capacity;
    bool has_overflow;
};

/* Room for a table of 'size' bytes, zeroed; its offset. */
static uint32_t reserve(struct builder *builder, uint32_t size)
{
    uint32_t offset = (uint32_t)align_up(builder->size, TABLE_ALIGN);
    if (offset > builder->capacity || size > builder->capacity - offset) {
        builder->has_overflow = true;
        return 0;
    }
    builder->size = offset + size;
    return offset;
}

static uint8_t checksum(const uint8_t *data, size_t size)
{
    uint8_t sum = 0;
    for (size_t i = 0; i < size; i++) {
        sum = (uint8_t)(sum + data[i]);
    }
    return (uint8_t)-sum;
}

/* Fills the header that all tables share (section 5.2.6); last, as it sums up the table. */
static void finish(uint8_t *table, const char *signature, uint8_t revision, uint32_t size)
{
    memcpy(table, signature, 4);
    le32_put(table + 4, size);
    table[8] = revision;
    memcpy(table + 10, "HULL  ", 6);
    memcpy(table + 16, "HULLMICR", 8);
    le32_put(table + 24, 1);
    memcpy(table + 28, "HULL", 4);
    le32_put(table + 32, 1);
    table[9] = 0;
    table[9] = checksum(table, size);
}

/* Generic address structure (section 5.2.3.2) of an I/O port. */
static void put_port(uint8_t *gas, uint16_t port, uint8_t bytes)
{
    gas[0] = GAS_SYSTEM_IO;
    gas[1] = (uint8_t)(bytes * 8);
    gas[2] = 0;
    gas[3] = 0; /* any access size: the guest splits the PM1 block by itself */
    le64_put(gas + 4, port);
}

/* Notify (OBJECT, VALUE) if Local0 has the slot's bit. */
static void put_notice(struct aml *aml, unsigned slot, const char *object, uint8_t value)
{
    size_t test = aml_begin_if(aml);
    aml_operator(aml, AML_AND);
    aml_operator(aml, AML_LOCAL0);
    aml_integer(aml, 1u << slot);
    aml_operator(aml, AML_NOWHERE);
    aml_operator(aml, AML_NOTIFY);
    aml_name_string(aml, object);
    aml_integer(aml, value);
    aml_end(aml, test);
}

static void put_notices(struct aml *aml, const char *reg, uint8_t value)
{
    aml_operator(aml, AML_STORE);
    aml_name_string(aml, reg);
    aml_operator(aml, AML_LOCAL0);
    for (unsigned slot = 1; slot < PCI_MAX_DEVICES; slot++) {
        char name[8];
        (void)snprintf(name, sizeof(name), "S%02X", slot);
        put_notice(aml, slot, name, value);
    }
}

/* Slots that devices come to and go from. A guest finds out by itself whether there is a device. */
static void put_slots(struct aml *aml, const struct acpi_config *config)
{
    aml_io_region(aml, "HPRG", config->hotplug_port, PCI_HOTPLUG_PORT_SIZE);
    size_t field = aml_begin_field(aml, "HPRG");
    aml_field(aml, "HPUP", 32);
    aml_field(aml, "HPDN", 32);
    aml_field(aml, "HPEJ", 32);
    aml_end(aml, field);
    for (unsigned slot = 1; slot < PCI_MAX_DEVICES; slot++) {
        char name[8];
        (void)snprintf(name, sizeof(name), "S%02X", slot);
        size_t device = aml_begin_device(aml, name);
        aml_name(aml, "_ADR");
        aml_integer(aml, slot << 16);
        aml_name(aml, "_SUN");
        aml_integer(aml, slot);
        size_t eject = aml_begin_method(aml, "_EJ0", 1, false);
        aml_operator(aml, AML_STORE);
        aml_integer(aml, 1u << slot);
        aml_name_string(aml, "HPEJ");
        aml_end(aml, eject);
        aml_end(aml, device);
    }
    size_t method = aml_begin_method(aml, "HPEV", 0, true);
    put_notices(aml, "HPUP", 1); /* look at the device */
    put_notices(aml, "HPDN", 3); /* eject is asked for */
    aml_end(aml, method);
}

/* The methods that events run. */
static void put_events(struct aml *aml, const struct acpi_config *config)
{
    if (config->hotplug_port == 0) {
        return;
    }
    char name[8];
    (void)snprintf(name, sizeof(name), "_E%02X", config->hotplug_event);
    size_t scope = aml_begin_scope(aml, "\\_GPE");
    size_t method = aml_begin_method(aml, name, 0, false);
    aml_name_string(aml, "\\_SB.PCI0.HPEV");
    aml_end(aml, method);
    aml_end(aml, scope);
}

static void put_devices(struct aml *aml, const struct acpi_config *config)
{
    const struct pci_windows *windows = &config->windows;
    size_t scope = aml_begin_scope(aml, "\\_SB");

    size_t bridge = aml_begin_device(aml, "PCI0");
    aml_name(aml, "_HID");
    aml_eisa_id(aml, "PNP0A08"); /* PCI Express */
    aml_name(aml, "_CID");
    aml_eisa_id(aml, "PNP0A03");
    aml_name(aml, "_UID");
    aml_integer(aml, 0);
    aml_name(aml, "_SEG");
    aml_integer(aml, 0);
    aml_name(aml, "_BBN");
    aml_integer(aml, 0);
    aml_name(aml, "_CRS");
    size_t resources = aml_begin_resources(aml);
    aml_resource_bus_window(aml, 0, 1);
    aml_resource_io(aml, 0xcf8, 8);
    aml_resource_io_window(aml, windows->pio_base, windows->pio_size);
    aml_resource_memory_window(aml, windows->mmio32_gpa, windows->mmio32_size);
    aml_resource_memory_window(aml, windows->mmio64_gpa, windows->mmio64_size);
    aml_end_resources(aml, resources);
    aml_name(aml, "_PRT");
    size_t table = aml_begin_package(aml, PCI_PRT_COUNT);
    for (unsigned device = 0; device < PCI_MAX_DEVICES; device++) {
        for (unsigned pin = 0; pin < 4; pin++) {
            size_t route = aml_begin_package(aml, 4);
            aml_integer(aml, (uint64_t)device << 16 | 0xffff); /* any function */
            aml_integer(aml, pin);
            aml_integer(aml, 0); /* no link device: the next is an interrupt number */
            aml_integer(aml, config->intx_gsi[(device + pin) % 4]);
            aml_end(aml, route);
        }
    }
    aml_end(aml, table);
    if (config->hotplug_port != 0) {
        put_slots(aml, config);
    }
    aml_end(aml, bridge);

    /* The guest believes MCFG only if the range is reserved here or in the memory map. */
    size_t board = aml_begin_device(aml, "MBRD");
    aml_name(aml, "_HID");
    aml_eisa_id(aml, "PNP0C02");
    aml_name(aml, "_UID");
    aml_integer(aml, 0);
    aml_name(aml, "_CRS");
    resources = aml_begin_resources(aml);
    aml_resource_memory32(aml, (uint32_t)windows->ecam_gpa, 1u << 20);
    aml_end_resources(aml, resources);
    aml_end(aml, board);

    for (uint32_t i = 0; i < config->serial_count; i++) {
        static const char *const names[ACPI_MAX_SERIALS] = {"COM1", "COM2", "COM3", "COM4"};
        size_t serial = aml_begin_device(aml, names[i]);
        aml_name(aml, "_HID");
        aml_eisa_id(aml, "PNP0501");
        aml_name(aml, "_UID");
        aml_integer(aml, i + 1);
        aml_name(aml, "_CRS");
        resources = aml_begin_resources(aml);
        aml_resource_io(aml, config->serial[i].port, 8);
        aml_resource_irq(aml, config->serial[i].gsi);
        aml_end_resources(aml, resources);
        aml_end(aml, serial);
    }
    if (config->rtc_port != 0) {
        size_t clock = aml_begin_device(aml, "RTC_");
        aml_name(aml, "_HID");
        aml_eisa_id(aml, "PNP0B00");
        aml_name(aml, "_CRS");
        resources = aml_begin_resources(aml);
        aml_resource_io(aml, config->rtc_port, 2);
        aml_resource_irq(aml, config->rtc_gsi);
        aml_end_resources(aml, resources);
        aml_end(aml, clock);
    }
    aml_end(aml, scope);
}

static uint32_t put_dsdt(struct builder *builder, const struct acpi_config *config)
{
    uint32_t room =
        DSDT_ROOM +
        (config->has_cpu_events ? ACPI_CPUS_ROOM + config->vcpu_count * ACPI_CPU_ROOM : 0);
    uint32_t offset = reserve(builder, room);
    if (builder->has_overflow) {
        return 0;
    }
    struct aml aml = {.data = builder->data + offset, .capacity = room, .size = HEADER_SIZE};
    put_devices(&aml, config);
    put_events(&aml, config);
    if (config->has_cpu_events) {
        acpi_put_cpus(&aml, config);
    }
    aml_name(&aml, "\\_S5");
    size_t package = aml_begin_package(&aml, 4);
    aml_integer(&aml, config->s5_type);
    aml_integer(&aml, config->s5_type);
    aml_integer(&aml, 0);
    aml_integer(&aml, 0);
    aml_end(&aml, package);
    builder->has_overflow |= aml.has_overflow != 0;
    finish(aml.data, "DSDT", 2, (uint32_t)aml.size);
    builder->size = offset + (uint32_t)aml.size;
    return offset;
}

/* Section 5.2.9. */
static uint32_t put_fadt(struct builder *builder, const struct acpi_config *config, uint32_t dsdt)
{
    uint32_t facs = reserve(builder, FACS_SIZE);
    uint32_t offset = reserve(builder, FADT_SIZE);
    if (builder->has_overflow) {
        return 0;
    }
    memcpy(builder->data + facs, "FACS", 4);
    le32_put(builder->data + facs + 4, FACS_SIZE);
    builder->data[facs + 32] = 2; /* version */

    uint8_t *fadt = builder->data + offset;
    le32_put(fadt + 36, (uint32_t)builder->gpa + facs);
    le32_put(fadt + 40, (uint32_t)builder->gpa + dsdt);
    le16_put(fadt + 46, config->sci_gsi);
    le32_put(fadt + 56, config->pm1_event_port);
    le32_put(fadt + 64, config->pm1_control_port);
    le32_put(fadt + 76, config->pm_timer_port);
    fadt[88] = 4; /* PM1_EVT_LEN */
    fadt[89] = 2; /* PM1_CNT_LEN */
    if (config->gpe_port != 0) {
        le32_put(fadt + 80, config->gpe_port);
        fadt[92] = config->gpe_size; /* GPE0_BLK_LEN */
        put_port(fadt + 220, config->gpe_port, config->gpe_size);
    }
    fadt[91] = config->pm_timer_port != 0 ? 4 : 0; /* PM_TMR_LEN */
    le16_put(fadt + 96, 0xffff);                   /* no C2 */
    le16_put(fadt + 98, 0xffff);                   /* no C3 */
    if (config->rtc_port != 0) {
        fadt[108] = 0x32; /* the century is CMOS byte 0x32 */
    }
    /* Boot architecture: legacy devices as serial ports say, no 8042, no VGA, perhaps no CMOS clock. */
    uint16_t architecture =
        (config->serial_count != 0 ? BIT(0) : 0) | BIT(2) | (config->rtc_port != 0 ? 0 : BIT(5));
    le16_put(fadt + 109, architecture);
    /* WBINVD works, C1 works, no sleep button, no clock alarm from sleep, 32-bit timer, reset register. The power
     * button is the fixed one (bit 4 clear). */
    le32_put(fadt + 112, BIT(0) | BIT(2) | BIT(5) | BIT(6) | BIT(8) | BIT(10));
    put_port(fadt + 116, config->reset_port, 1);
    fadt[128] = config->reset_value;
    fadt[131] = 4; /* minor version */
    le64_put(fadt + 132, builder->gpa + facs);
    le64_put(fadt + 140, builder->gpa + dsdt);
    put_port(fadt + 148, config->pm1_event_port, 4);
    put_port(fadt + 172, config->pm1_control_port, 2);
    if (config->pm_timer_port != 0) {
        put_port(fadt + 208, config->pm_timer_port, 4);
    }
    finish(fadt, "FACP", 6, FADT_SIZE);
    return offset;
}

/* Section 5.2.12. */
static uint32_t put_madt(struct builder *builder, const struct acpi_config *config)
{
    uint32_t size = HEADER_SIZE + 8 + config->vcpu_count * 8 + 12 + 10 + 6;
    uint32_t offset = reserve(builder, size);
    if (builder->has_overflow) {
        return 0;
    }
    uint8_t *madt = builder->data + offset;
    le32_put(madt + 36, (uint32_t)config->lapic_gpa);
    le32_put(madt + 40, 0); /* no pair of 8259 */
    uint8_t *entry = madt + 44;
    for (uint32_t i = 0; i < config->vcpu_count; i++, entry += 8) {
        entry[0] = 0; /* processor local APIC */
        entry[1] = 8;
        entry[2] = (uint8_t)i;
        entry[3] = (uint8_t)i;
        le32_put(entry + 4, (config->absent >> i & 1) != 0 ? MADT_CAPABLE : MADT_ENABLED);
    }
    entry[0] = 1; /* I/O APIC */
    entry[1] = 12;
    entry[2] = 0;
    le32_put(entry + 4, (uint32_t)config->ioapic_gpa);
    le32_put(entry + 8, 0); /* its first input */
    entry += 12;
    entry[0] = 2; /* interrupt source override: the SCI is level-triggered */
    entry[1] = 10;
    entry[2] = 0;
    entry[3] = config->sci_gsi;
    le32_put(entry + 4, config->sci_gsi);
    le16_put(entry + 8, ISA_IRQ_LEVEL);
    entry += 10;
    entry[0] = 4; /* NMI at LINT1 of all processors */
    entry[1] = 6;
    entry[2] = 0xff;
    le16_put(entry + 3, 0);
    entry[5] = 1;
    finish(madt, "APIC", 5, size);
    return offset;
}

/* PCI Firmware Specification 3.0, section 4.1.2. */
static uint32_t put_mcfg(struct builder *builder, const struct acpi_config *config)
{
    uint32_t size = HEADER_SIZE + 8 + 16;
    uint32_t offset = reserve(builder, size);
    if (builder->has_overflow) {
        return 0;
    }
    uint8_t *mcfg = builder->data + offset;
    le64_put(mcfg + 44, config->windows.ecam_gpa);
    mcfg[54] = 0; /* first and last bus */
    mcfg[55] = 0;
    finish(mcfg, "MCFG", 1, size);
    return offset;
}

int acpi_build(struct guest_memory *memory, uint64_t gpa, uint64_t size,
               const struct acpi_config *config, uint64_t *out_rsdp_gpa, struct error *err)
{
    AUTO_FREE uint8_t *data = calloc(1, size);
    if (data == NULL) {
        return error_set_errno(err, ENOMEM, "building the ACPI tables");
    }
    struct builder builder = {.data = data, .gpa = gpa, .capacity = (uint32_t)size};
    uint32_t rsdp = reserve(&builder, RSDP_SIZE);
    uint32_t dsdt = put_dsdt(&builder, config);
    uint32_t tables[] = {
        put_fadt(&builder, config, dsdt),
        put_madt(&builder, config),
        put_mcfg(&builder, config),
    };
    uint32_t xsdt_size = HEADER_SIZE + sizeof(uint64_t) * ARRAY_COUNT(tables);
    uint32_t xsdt = reserve(&builder, xsdt_size);
    if (builder.has_overflow) {
        return error_set(err, ENOSPC, "building the ACPI tables: they do not fit in %llu bytes",
                         (unsigned long long)size);
    }
    for (size_t i = 0; i < ARRAY_COUNT(tables); i++) {
        le64_put(data + xsdt + HEADER_SIZE + i * sizeof(uint64_t), gpa + tables[i]);
    }
    finish(data + xsdt, "XSDT", 1, xsdt_size);

    /* Section 5.2.5.3: one checksum over the first 20 bytes, one over all. */
    memcpy(data + rsdp, "RSD PTR ", 8);
    memcpy(data + rsdp + 9, "HULL  ", 6);
    data[rsdp + 15] = 2;
    le32_put(data + rsdp + 20, RSDP_SIZE);
    le64_put(data + rsdp + 24, gpa + xsdt);
    data[rsdp + 8] = checksum(data + rsdp, 20);
    data[rsdp + 32] = checksum(data + rsdp, RSDP_SIZE);

    if (!guest_memory_write(memory, gpa, data, builder.size)) {
        return error_set(err, ENOSPC, "building the ACPI tables: no guest memory at 0x%llx",
                         (unsigned long long)gpa);
    }
    *out_rsdp_gpa = gpa + rsdp;
    return 0;
}
