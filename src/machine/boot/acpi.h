/* The ACPI tables of a board: RSDP, XSDT, FADT, FACS, MADT, MCFG, and a DSDT made by aml.c.
 * Source: ACPI specification 6.4, chapter 5. */
#ifndef MACHINE_BOOT_ACPI_H
#define MACHINE_BOOT_ACPI_H

#include <stdbool.h>
#include <stdint.h>

#include "base/core/error.h"
#include "device/pci/pci.h"
#include "engine/memory.h"

#define ACPI_MAX_SERIALS 4

struct acpi_serial {
    uint16_t port;
    uint8_t gsi;
};

struct acpi_config {
    uint32_t vcpu_count; /* APIC IDs 0..vcpu_count-1 */
    bool has_cpu_events; /* they come and go: device/acpi/cpus.h */
    uint64_t absent;     /* a bit for each that is not there yet */
    uint64_t lapic_gpa, ioapic_gpa;
    struct pci_windows windows;
    uint8_t intx_gsi[4]; /* I/O APIC inputs of INTA..INTD, as struct pci_bus_config says */

    uint16_t pm1_event_port;   /* 4 bytes: status, enable */
    uint16_t pm1_control_port; /* 2 bytes */
    uint16_t pm_timer_port;    /* 4 bytes; 0: none */
    uint16_t gpe_port;         /* status, then enable; 0: none */
    uint8_t gpe_size;          /* bytes of both */
    uint16_t hotplug_port;     /* the PCI bus's registers; 0: none */
    uint8_t hotplug_event;     /* and its general purpose event: 0 to 9 */
    uint16_t reset_port;       /* 1 byte */
    uint8_t reset_value;
    uint8_t sci_gsi; /* level-triggered, active high */
    uint8_t s5_type; /* SLP_TYP value that powers off */

    struct acpi_serial serial[ACPI_MAX_SERIALS];
    uint32_t serial_count;
    uint16_t rtc_port; /* 0: none */
    uint8_t rtc_gsi;
};

/* Writes all tables into [gpa, gpa + size) of guest memory; the RSDP's address (16-byte aligned) goes to *out_rsdp_gpa.
 * Errors: -ENOSPC if they do not fit. */
int must_check acpi_build(struct guest_memory *memory, uint64_t gpa, uint64_t size,
                          const struct acpi_config *config, uint64_t *out_rsdp_gpa,
                          struct error *err);

#endif
