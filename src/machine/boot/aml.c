#include "machine/boot/aml.h"

#include <string.h>

#include "base/core/endian.h"

/* Opcodes (ACPI 6.4 section 20.3). */
#define AML_ZERO     0x00
#define AML_ONE      0x01
#define AML_NAME     0x08
#define AML_BYTE     0x0a
#define AML_WORD     0x0b
#define AML_DWORD    0x0c
#define AML_STRING   0x0d
#define AML_QWORD    0x0e
#define AML_SCOPE    0x10
#define AML_BUFFER   0x11
#define AML_PACKAGE  0x12
#define AML_METHOD   0x14
#define AML_DUAL     0x2e
#define AML_MULTI    0x2f
#define AML_EXTENDED 0x5b
#define AML_REGION   0x80 /* these three after AML_EXTENDED */
#define AML_FIELD    0x81
#define AML_DEVICE   0x82
#define AML_IF       0xa0

#define METHOD_SERIALIZED  0x08
#define REGION_SYSTEM_IO   1
#define FIELD_DWORD_ACCESS 3

/* Package lengths always take three bytes here: the lead byte says so in bits 7:6 and holds bits 3:0, two bytes hold
 * bits 19:4 (section 20.2.4). */
#define LENGTH_BYTES 3

/* Resource descriptors (section 6.4.2, 6.4.3). */
#define RESOURCE_IRQ      0x22 /* small, 2 bytes follow: flags left out, so edge, active high */
#define RESOURCE_IO       0x47
#define RESOURCE_END      0x79
#define RESOURCE_MEMORY32 0x86
#define RESOURCE_WORD     0x88
#define RESOURCE_QWORD    0x8a
#define WINDOW_MEMORY     0
#define WINDOW_IO         1
#define WINDOW_BUS        2
#define WINDOW_FIXED                                                                               \
    0x0c /* minimum and maximum are fixed; the bridge is producer, positive decoding */
#define MEMORY_READ_WRITE 0x01 /* and not cacheable */
#define IO_ENTIRE_RANGE   0x03

void aml_bytes(struct aml *aml, const void *data, size_t size)
{
    if (size > aml->capacity - aml->size) {
        aml->has_overflow = 1;
        return;
    }
    memcpy(aml->data + aml->size, data, size);
    aml->size += size;
}

void aml_byte(struct aml *aml, uint8_t byte)
{
    aml_bytes(aml, &byte, 1);
}

/* The low 'bytes' bytes of a value. */
static void put(struct aml *aml, uint64_t value, size_t bytes)
{
    uint8_t data[8];
    le64_put(data, value);
    aml_bytes(aml, data, bytes);
}

void aml_integer(struct aml *aml, uint64_t value)
{
    if (value <= 1) {
        aml_byte(aml, value == 0 ? AML_ZERO : AML_ONE);
    } else if (value <= UINT8_MAX) {
        aml_byte(aml, AML_BYTE);
        put(aml, value, 1);
    } else if (value <= UINT16_MAX) {
        aml_byte(aml, AML_WORD);
        put(aml, value, 2);
    } else if (value <= UINT32_MAX) {
        aml_byte(aml, AML_DWORD);
        put(aml, value, 4);
    } else {
        aml_byte(aml, AML_QWORD);
        put(aml, value, 8);
    }
}

void aml_name_string(struct aml *aml, const char *name)
{
    uint8_t count = 1;
    for (const char *dot = strchr(name, '.'); dot != NULL; dot = strchr(dot + 1, '.')) {
        count++;
    }
    if (*name == '\\') {
        aml_byte(aml, (uint8_t)*name++);
    }
    if (count == 2) {
        aml_byte(aml, AML_DUAL);
    } else if (count > 2) {
        aml_byte(aml, AML_MULTI);
        aml_byte(aml, count);
    }
    for (; count > 0; count--) {
        char padded[4] = {'_', '_', '_', '_'};
        size_t length = strcspn(name, ".");
        memcpy(padded, name, length < sizeof(padded) ? length : sizeof(padded));
        aml_bytes(aml, padded, sizeof(padded));
        name += length + 1;
    }
}

void aml_name(struct aml *aml, const char *name)
{
    aml_byte(aml, AML_NAME);
    aml_name_string(aml, name);
}

static uint32_t hex_digit(char digit)
{
    return digit <= '9' ? (uint32_t)(digit - '0') : (uint32_t)(digit - 'A' + 10);
}

/* Three letters of five bits, then four hexadecimal digits, most significant first (section 19.6.36); the bytes of the
 * result stand in reverse. */
void aml_eisa_id(struct aml *aml, const char *id)
{
    uint32_t value = 0;
    for (int i = 0; i < 3; i++) {
        value = value << 5 | (uint32_t)(id[i] - 'A' + 1);
    }
    for (int i = 3; i < 7; i++) {
        value = value << 4 | hex_digit(id[i]);
    }
    aml_byte(aml, AML_DWORD);
    put(aml, __builtin_bswap32(value), 4);
}

/* Room for a length; aml_end fills it. */
static size_t begin(struct aml *aml)
{
    size_t mark = aml->size;
    put(aml, 0, LENGTH_BYTES);
    return mark;
}

void aml_end(struct aml *aml, size_t mark)
{
    if (aml->has_overflow) {
        return;
    }
    size_t length = aml->size - mark; /* counts itself */
    aml->data[mark] = (uint8_t)((LENGTH_BYTES - 1) << 6 | (length & 0xf));
    aml->data[mark + 1] = (uint8_t)(length >> 4);
    aml->data[mark + 2] = (uint8_t)(length >> 12);
}

size_t aml_begin_scope(struct aml *aml, const char *name)
{
    aml_byte(aml, AML_SCOPE);
    size_t mark = begin(aml);
    aml_name_string(aml, name);
    return mark;
}

size_t aml_begin_device(struct aml *aml, const char *name)
{
    aml_byte(aml, AML_EXTENDED);
    aml_byte(aml, AML_DEVICE);
    size_t mark = begin(aml);
    aml_name_string(aml, name);
    return mark;
}

size_t aml_begin_package(struct aml *aml, uint8_t element_count)
{
    aml_byte(aml, AML_PACKAGE);
    size_t mark = begin(aml);
    aml_byte(aml, element_count);
    return mark;
}

size_t aml_begin_method(struct aml *aml, const char *name, uint8_t argument_count,
                        bool is_serialized)
{
    aml_byte(aml, AML_METHOD);
    size_t mark = begin(aml);
    aml_name_string(aml, name);
    aml_byte(aml, argument_count | (is_serialized ? METHOD_SERIALIZED : 0));
    return mark;
}

size_t aml_begin_if(struct aml *aml)
{
    aml_byte(aml, AML_IF);
    return begin(aml);
}

size_t aml_begin_field(struct aml *aml, const char *region)
{
    aml_byte(aml, AML_EXTENDED);
    aml_byte(aml, AML_FIELD);
    size_t mark = begin(aml);
    aml_name_string(aml, region);
    aml_byte(aml, FIELD_DWORD_ACCESS);
    return mark;
}

void aml_field(struct aml *aml, const char *name, uint8_t bits)
{
    aml_name_string(aml, name);
    aml_byte(aml, bits); /* a length of one byte */
}

void aml_io_region(struct aml *aml, const char *name, uint16_t port, uint8_t size)
{
    aml_byte(aml, AML_EXTENDED);
    aml_byte(aml, AML_REGION);
    aml_name_string(aml, name);
    aml_byte(aml, REGION_SYSTEM_IO);
    aml_integer(aml, port);
    aml_integer(aml, size);
}

void aml_operator(struct aml *aml, enum aml_operator operator)
{
    aml_byte(aml, (uint8_t) operator);
}

void aml_string(struct aml *aml, const char *text)
{
    aml_byte(aml, AML_STRING);
    aml_bytes(aml, text, strlen(text) + 1);
}

void aml_buffer(struct aml *aml, const void *data, uint8_t size)
{
    aml_byte(aml, AML_BUFFER);
    size_t mark = begin(aml);
    aml_integer(aml, size);
    aml_bytes(aml, data, size);
    aml_end(aml, mark);
}

/* Where the buffer's size stands, as a word constant behind the length. */
#define BUFFER_SIZE_OFFSET (LENGTH_BYTES + 1)

size_t aml_begin_resources(struct aml *aml)
{
    aml_byte(aml, AML_BUFFER);
    size_t mark = begin(aml);
    aml_byte(aml, AML_WORD);
    put(aml, 0, 2);
    return mark;
}

void aml_end_resources(struct aml *aml, size_t mark)
{
    aml_byte(aml, RESOURCE_END);
    aml_byte(aml, 0); /* a checksum of 0 means: not checked */
    aml_end(aml, mark);
    if (!aml->has_overflow) {
        le16_put(aml->data + mark + BUFFER_SIZE_OFFSET,
                 (uint16_t)(aml->size - mark - BUFFER_SIZE_OFFSET - 2));
    }
}

void aml_resource_io(struct aml *aml, uint16_t port, uint8_t size)
{
    aml_byte(aml, RESOURCE_IO);
    aml_byte(aml, 1); /* decodes 16 bits */
    put(aml, port, 2);
    put(aml, port, 2);
    aml_byte(aml, 1); /* alignment */
    aml_byte(aml, size);
}

void aml_resource_irq(struct aml *aml, uint8_t gsi)
{
    aml_byte(aml, RESOURCE_IRQ);
    put(aml, 1u << gsi, 2);
}

void aml_resource_memory32(struct aml *aml, uint32_t gpa, uint32_t size)
{
    aml_byte(aml, RESOURCE_MEMORY32);
    put(aml, 9, 2);
    aml_byte(aml, MEMORY_READ_WRITE);
    put(aml, gpa, 4);
    put(aml, size, 4);
}

/* An address space descriptor with fields of 'field_bytes' each. */
static void window(struct aml *aml, uint8_t kind, uint8_t type, uint8_t type_flags, uint64_t first,
                   uint64_t size, size_t field_bytes)
{
    if (size == 0) {
        return;
    }
    aml_byte(aml, kind);
    put(aml, 3 + 5 * field_bytes, 2);
    aml_byte(aml, type);
    aml_byte(aml, WINDOW_FIXED);
    aml_byte(aml, type_flags);
    put(aml, 0, field_bytes); /* granularity */
    put(aml, first, field_bytes);
    put(aml, first + size - 1, field_bytes);
    put(aml, 0, field_bytes); /* translation */
    put(aml, size, field_bytes);
}

void aml_resource_bus_window(struct aml *aml, uint16_t first, uint16_t count)
{
    window(aml, RESOURCE_WORD, WINDOW_BUS, 0, first, count, 2);
}

void aml_resource_io_window(struct aml *aml, uint16_t first, uint32_t size)
{
    window(aml, RESOURCE_WORD, WINDOW_IO, IO_ENTIRE_RANGE, first, size, 2);
}

void aml_resource_memory_window(struct aml *aml, uint64_t gpa, uint64_t size)
{
    window(aml, RESOURCE_QWORD, WINDOW_MEMORY, MEMORY_READ_WRITE, gpa, size, 8);
}
