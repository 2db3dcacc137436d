#include "machine/boot/acpi_cpus.h"

#include <stdio.h>

#include "base/core/endian.h"
#include "device/acpi/cpus.h"

#define NOTIFY_CHECK 1 /* section 5.6.6 */
#define NOTIFY_EJECT 3
#define STA_WORKS    0x0f
#define MADT_LAPIC   0

static void put_name(char name[5], uint32_t index)
{
    (void)snprintf(name, 5, "C%03X", index & 0xfff);
}

/* SEND (index, what is to be written): the only method that touches the registers, so that nobody changes the selection meanwhile. */
static void call_send(struct aml *aml, uint32_t index, uint32_t command)
{
    aml_name_string(aml, "SEND");
    aml_integer(aml, index);
    aml_integer(aml, command);
}

static void put_send(struct aml *aml)
{
    aml_io_region(aml, "CREG", CPUS_PORT, CPUS_PORT_SIZE);
    size_t field = aml_begin_field(aml, "CREG");
    aml_field(aml, "CSEL", 32);
    aml_field(aml, "CFLG", 32);
    aml_end(aml, field);
    size_t method = aml_begin_method(aml, "SEND", 2, true);
    aml_operator(aml, AML_STORE);
    aml_operator(aml, AML_ARG0);
    aml_name_string(aml, "CSEL");
    size_t condition = aml_begin_if(aml);
    aml_operator(aml, AML_ARG1);
    aml_operator(aml, AML_STORE);
    aml_operator(aml, AML_ARG1);
    aml_name_string(aml, "CFLG");
    aml_end(aml, condition);
    aml_operator(aml, AML_RETURN);
    aml_name_string(aml, "CFLG");
    aml_end(aml, method);
}

static void put_cpu(struct aml *aml, uint32_t index)
{
    char name[5];
    put_name(name, index);
    size_t device = aml_begin_device(aml, name);
    aml_name(aml, "_HID");
    aml_string(aml, "ACPI0007");
    aml_name(aml, "_UID");
    aml_integer(aml, index);
    size_t method = aml_begin_method(aml, "_STA", 0, false);
    size_t condition = aml_begin_if(aml);
    aml_operator(aml, AML_AND);
    call_send(aml, index, 0);
    aml_integer(aml, CPUS_PRESENT);
    aml_operator(aml, AML_NOWHERE);
    aml_operator(aml, AML_RETURN);
    aml_integer(aml, STA_WORKS);
    aml_end(aml, condition);
    aml_operator(aml, AML_RETURN);
    aml_integer(aml, 0);
    aml_end(aml, method);
    /* Its entry of the MADT as it is when the CPU is there: guests take its APIC's number from here. */
    uint8_t entry[8] = {MADT_LAPIC, sizeof(entry), (uint8_t)index, (uint8_t)index};
    le32_put(entry + 4, 1);
    aml_name(aml, "_MAT");
    aml_buffer(aml, entry, sizeof(entry));
    if (index != 0) {
        method = aml_begin_method(aml, "_EJ0", 1, false);
        call_send(aml, index, CPUS_EJECT);
        aml_end(aml, method);
    }
    aml_end(aml, device);
}

/* If the flag is set, the guest has heard of it and is told. */
static void put_news(struct aml *aml, uint32_t index, uint32_t flag, uint32_t notification)
{
    char name[5];
    put_name(name, index);
    size_t condition = aml_begin_if(aml);
    aml_operator(aml, AML_AND);
    aml_operator(aml, AML_LOCAL0);
    aml_integer(aml, flag);
    aml_operator(aml, AML_NOWHERE);
    call_send(aml, index, flag);
    aml_operator(aml, AML_NOTIFY);
    aml_name_string(aml, name);
    aml_integer(aml, notification);
    aml_end(aml, condition);
}

void acpi_put_cpus(struct aml *aml, const struct acpi_config *config)
{
    size_t scope = aml_begin_scope(aml, "\\_SB");
    size_t container = aml_begin_device(aml, "CPUS");
    aml_name(aml, "_HID");
    aml_string(aml, "ACPI0010");
    aml_name(aml, "_CID");
    aml_eisa_id(aml, "PNP0A05");
    put_send(aml);
    for (uint32_t i = 0; i < config->vcpu_count; i++) {
        put_cpu(aml, i);
    }
    size_t method = aml_begin_method(aml, "SCAN", 0, true);
    for (uint32_t i = 0; i < config->vcpu_count; i++) {
        aml_operator(aml, AML_STORE);
        call_send(aml, i, 0);
        aml_operator(aml, AML_LOCAL0);
        put_news(aml, i, CPUS_HAS_COME, NOTIFY_CHECK);
        put_news(aml, i, CPUS_TO_LEAVE, NOTIFY_EJECT);
    }
    aml_end(aml, method);
    aml_end(aml, container);
    aml_end(aml, scope);
    scope = aml_begin_scope(aml, "\\_GPE");
    method = aml_begin_method(aml, "_E02", 0, false);
    aml_name_string(aml, "\\_SB.CPUS.SCAN");
    aml_end(aml, method);
    aml_end(aml, scope);
}
