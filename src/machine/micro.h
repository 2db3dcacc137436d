/* Board micro: direct boot, virtio over PCI, one serial port, ACPI. Nothing that needs firmware. */
#ifndef MACHINE_MICRO_H
#define MACHINE_MICRO_H

/* Inputs of the IOAPIC. */
#define MICRO_COM1_GSI 4
#define MICRO_SCI_GSI  9
#define MICRO_INTX_GSI 16 /* to 19: INTA of the PCI devices in turn */

#define MICRO_COM1_PORT 0x3f8

/* RAM below 4 GiB ends here at the latest; then come PCI's windows, the IOAPIC and the local APICs. */
#define MICRO_LOW_LIMIT   0xc0000000ull
#define MICRO_MMIO32_GPA  0xc0000000ull
#define MICRO_MMIO32_SIZE 0x20000000ull
#define MICRO_ECAM_GPA    0xe0000000ull
#define MICRO_MMIO64_SIZE 0x400000000ull
/* Memory that comes later begins at such a multiple: guests add memory in large pieces. */
#define MICRO_LATER_ALIGN 0x40000000ull
#define MICRO_PIO_BASE    0x1000
#define MICRO_PIO_SIZE    0xf000

#endif
