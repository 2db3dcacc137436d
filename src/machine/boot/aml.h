/* Writes AML, the byte code of ACPI tables (ACPI 6.4 chapter 20): just the terms that Hull's tables need. */
#ifndef MACHINE_BOOT_AML_H
#define MACHINE_BOOT_AML_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Grows in the caller's buffer; what no longer fits is counted as an overflow and not written. */
struct aml {
    uint8_t *data;
    size_t capacity;
    size_t size;
    int has_overflow;
};

void aml_bytes(struct aml *aml, const void *data, size_t size);
void aml_byte(struct aml *aml, uint8_t byte);
/* A constant in its shortest form. */
void aml_integer(struct aml *aml, uint64_t value);
/* "PCI0", or "\\_SB.PCI0" for one from the root; each part is padded to four characters. */
void aml_name_string(struct aml *aml, const char *name);
/* A text, and bytes, as values. */
void aml_string(struct aml *aml, const char *text);
void aml_buffer(struct aml *aml, const void *data, uint8_t size);
/* Name (NAME, ...): the value follows. */
void aml_name(struct aml *aml, const char *name);
/* An EISA ID such as "PNP0A08" as the integer that _HID takes. */
void aml_eisa_id(struct aml *aml, const char *id);

/* Terms that hold others: each begin gives a mark for aml_end. */
size_t aml_begin_scope(struct aml *aml, const char *name);
size_t aml_begin_device(struct aml *aml, const char *name);
size_t aml_begin_package(struct aml *aml, uint8_t element_count);
/* A serialized one runs only once at a time. */
size_t aml_begin_method(struct aml *aml, const char *name, uint8_t argument_count,
                        bool is_serialized);
/* The condition follows, then what is to be done. */
size_t aml_begin_if(struct aml *aml);
/* Registers behind an I/O region, in accesses of four bytes each: aml_field for each one in turn. */
size_t aml_begin_field(struct aml *aml, const char *region);
void aml_field(struct aml *aml, const char *name, uint8_t bits); /* below 64 */
void aml_end(struct aml *aml, size_t mark);

void aml_io_region(struct aml *aml, const char *name, uint16_t port, uint8_t size);

/* Terms of methods: operands follow in turn, a name by aml_name_string, then the target, which may be AML_NOWHERE. */
enum aml_operator {
    AML_NOWHERE = 0x00,
    AML_LOCAL0 = 0x60,
    AML_LOCAL1 = 0x61,
    AML_ARG0 = 0x68,
    AML_ARG1 = 0x69,
    AML_STORE = 0x70, /* value, target */
    AML_ADD = 0x72,
    AML_SHIFT_LEFT = 0x79,
    AML_AND = 0x7b,
    AML_OR = 0x7d,
    AML_NOTIFY = 0x86, /* object, value */
    AML_EQUAL = 0x93,
    AML_RETURN = 0xa4,
};
void aml_operator(struct aml *aml, enum aml_operator operator);

/* _CRS and the like: Buffer () { resource descriptors } (ACPI 6.4 section 6.4). */
size_t aml_begin_resources(struct aml *aml);
void aml_end_resources(struct aml *aml, size_t mark);
void aml_resource_io(struct aml *aml, uint16_t port, uint8_t size);
void aml_resource_irq(struct aml *aml, uint8_t gsi); /* edge, active high, exclusive */
void aml_resource_memory32(struct aml *aml, uint32_t gpa, uint32_t size);
/* Windows that a bridge passes on. 'size' 0 adds nothing. */
void aml_resource_bus_window(struct aml *aml, uint16_t first, uint16_t count);
void aml_resource_io_window(struct aml *aml, uint16_t first, uint32_t size);
void aml_resource_memory_window(struct aml *aml, uint64_t gpa, uint64_t size);

#endif
