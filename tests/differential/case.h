/* One case of the differential test: a state and a few instructions, and what became of them. The native child and the
 * engine get the same case at the same addresses. */
#ifndef DIFFERENTIAL_CASE_H
#define DIFFERENTIAL_CASE_H

#include <stdbool.h>
#include <stdint.h>

#include "cpu/x86/decode.h"

/* The address space of a case, native and in the guest. Everything else is unmapped. */
#define CASE_CODE_BASE  0x20000000u /* two pages, read and execute */
#define CASE_CODE_SIZE  8192u
#define CASE_DATA_BASE  0x30000000u /* two pages read and write, one read only */
#define CASE_DATA_SIZE  8192u
#define CASE_CONST_SIZE 4096u

/* An area of the data pages whose header XRSTOR accepts. */
#define CASE_XSAVE_OFFSET 0x240u

/* FS and GS bases in 64-bit mode (their selectors are null). */
#define CASE_FS_BASE (CASE_DATA_BASE + 0x400u)
#define CASE_GS_BASE (CASE_DATA_BASE + 0x1400u)

/* Selectors as Linux gives them to its processes: instructions can read them. */
#define CASE_SELECTOR_CODE32 0x23u
#define CASE_SELECTOR_DATA   0x2bu
#define CASE_SELECTOR_CODE64 0x33u

/* Segments of the local descriptor table: the same in both, so that code of 16 bits and limits can be tested. Bases are
 * relative to pages of the case; 'attributes' as in struct x86_segment, without the accessed bit. */
enum case_ldt_entry {
    CASE_LDT_CODE16,
    CASE_LDT_CODE32,
    CASE_LDT_DATA16,  /* the page before the data pages, them, the read-only page and beyond */
    CASE_LDT_DATA32,  /* ends with the read-only page */
    CASE_LDT_SHORT16, /* ends within the second data page */
    CASE_LDT_DOWN16,  /* begins within the first data page */
    CASE_LDT_DOWN32,
    CASE_LDT_READ16, /* read only */
    CASE_LDT_COUNT,
};

struct case_ldt {
    uint32_t base, limit;
    bool is_code, is_32bit, is_down, is_readonly;
};

extern const struct case_ldt case_ldt[CASE_LDT_COUNT];

#define CASE_LDT_SELECTOR(entry) ((uint16_t)((entry) << 3 | 7))

#define CASE_MAX_INSNS 8
#define CASE_MAX_CODE  (CASE_MAX_INSNS * 15 + 2)

/* Legacy region, header, AVX: the standard XSAVE format without what the guest does not have. */
#define CASE_XSAVE_SIZE 832

struct case_state {
    uint64_t gpr[16];
    uint64_t rip;
    uint64_t rflags;
    uint8_t xsave[CASE_XSAVE_SIZE] __attribute__((aligned(64)));
};

struct case_input {
    struct case_state state; /* rip: of the first instruction */
    uint8_t code_size;       /* enum x86_code_size */
    uint16_t cs, ss, ds, es; /* selectors: Linux's own or of the LDT */
    uint16_t code_offset;    /* of the first instruction in the code page */
    uint8_t insn_count;
    uint8_t insn_offset[CASE_MAX_INSNS + 1]; /* in 'code'; the last one is that of the end marker */
    uint16_t code_bytes;                     /* with the end marker; cut off at the page's end */
    uint8_t code[CASE_MAX_CODE];
};

/* Who made the host's CPU: Intel, or else AMD. The engine is to do as it does. */
bool case_host_is_intel(void);

/* As the host's CPU decodes. */
enum x86_decode_status case_decode(const uint8_t *bytes, size_t available,
                                   enum x86_code_size code_size, struct x86_insn *out_insn);

/* The base that the hardware adds outside of 64-bit code: 0 for Linux's own selectors. */
static inline uint32_t case_segment_base(uint16_t selector)
{
    return (selector & 4) != 0 ? case_ldt[selector >> 3].base : 0;
}

/* Vectors beside the architecture's. */
#define CASE_VECTOR_TIMEOUT 0xfe
#define CASE_VECTOR_ESCAPED 0xff /* a system call or another signal: says nothing about the case */

struct case_output {
    struct case_state state; /* at the exception that ended the case */
    uint32_t vector;
    uint32_t error;
    uint64_t cr2; /* #PF only */
    uint8_t data[CASE_DATA_SIZE];
};

#define CASE_BATCH 256

/* What parent and child share. */
struct case_batch {
    uint32_t sequence; /* futex: the parent raises it to start a batch */
    uint32_t done;     /* futex: the child sets it to 'sequence' */
    uint32_t count;
    uint32_t index; /* of the case under way */
    /* The data pages as each case finds them, and the read-only page (written by the parent between batches). */
    uint8_t data[CASE_DATA_SIZE];
    struct case_input input[CASE_BATCH];
    struct case_output output[CASE_BATCH];
};

#endif
