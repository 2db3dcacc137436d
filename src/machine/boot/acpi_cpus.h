/* The ACPI objects of CPUs that come and go (ACPI 6.4 sections 5.2.12, 8.4); their registers are device/acpi/cpus.h's. */
#ifndef MACHINE_BOOT_ACPI_CPUS_H
#define MACHINE_BOOT_ACPI_CPUS_H

#include "machine/boot/acpi.h"
#include "machine/boot/aml.h"

/* Bytes of AML for each CPU, and for all, at most. */
#define ACPI_CPU_ROOM  200u
#define ACPI_CPUS_ROOM 256u

/* The container of the CPUs, and the method of their general purpose event. */
void acpi_put_cpus(struct aml *aml, const struct acpi_config *config);

#endif
