/* What the translator knows of guest instructions: how each is translated, and which status flags matter after it. */
#ifndef ENGINE_SOFT_TRANSLATE_ANALYZE_H
#define ENGINE_SOFT_TRANSLATE_ANALYZE_H

#include "cpu/x86/decode.h"
#include "engine/soft/vcpu.h"

#define NATIVE_MAX_INSNS 64
#define NATIVE_MAX_BYTES 512
/* Conditional branches behind which a block goes on. */
#define NATIVE_MAX_SIDE_EXITS 4

enum native_kind {
    NATIVE_INTERPRET, /* no template: the interpreter runs it */
    NATIVE_PLAIN,     /* the same instruction with other registers and addresses */
    NATIVE_DIVIDE,    /* plain, but may raise #DE */
    NATIVE_RAW,       /* its bytes as they are */
    NATIVE_NOTHING,   /* NOPs and hints */
    NATIVE_LEA,
    NATIVE_X87,
    NATIVE_MOV_IMM, /* to the opcode's register */
    NATIVE_BSWAP,
    NATIVE_XCHG_RAX,
    NATIVE_STEP, /* INC and DEC without ModRM */
    NATIVE_MOFFS,
    NATIVE_STRING,
    NATIVE_CPUID,
    NATIVE_BIT_STRING, /* BT and its kin on memory, the register moves the address */
    NATIVE_SELECTOR,   /* of a segment register to a general one */
    NATIVE_SMALL,      /* system instructions: a call of a stub */
    NATIVE_READ_CR,
    NATIVE_PAUSE,
    NATIVE_ENTRY, /* SYSCALL, SYSRET, IRET, INVLPG */
    NATIVE_PUSH_REG,
    NATIVE_PUSH_IMM,
    NATIVE_PUSH_MEM,
    NATIVE_PUSHF,
    NATIVE_POP_REG,
    NATIVE_POPF,
    NATIVE_PUSH_SELECTOR,
    NATIVE_POP_MEM,
    NATIVE_LEAVE,
    NATIVE_CALL,
    NATIVE_CALL_INDIRECT,
    NATIVE_JMP,
    NATIVE_JMP_INDIRECT,
    NATIVE_JCC,
    NATIVE_RET,
};

/* What a field of the encoding names. */
struct native_field {
    uint8_t reg_class; /* enum x86_reg_class, if 'is_used' */
    bool is_used;
    uint8_t access;
};

struct native_row {
    uint8_t kind; /* enum native_kind */
    bool is_vector;
    bool is_shift; /* a count of 0 leaves the flags alone */
    bool is_bit_test;
    struct native_field reg, rm, vvvv;
    uint8_t memory_access;
    uint16_t flags_read, flags_written;
    uint16_t feature;    /* of the encoding's row, as the next */
    uint32_t attributes; /* X86_ROW_* */
};

struct native_insn {
    struct x86_insn insn;
    const struct native_row *row;
    uint32_t offset; /* from the block's start */
    uint8_t kind;
    uint16_t reads,
        writes; /* status flags; 'reads' includes those that matter and that it may leave alone */
    uint16_t keeps; /* all that it may leave alone */
    uint16_t live_before, live_after;
    uint16_t live_taken; /* where a direct branch goes */
    uint8_t group;       /* NATIVE_NO_GROUP: none */
    int32_t group_disp;  /* of the access from the group's first */
};

#define NATIVE_MAX_GROUPS 16
#define NATIVE_NO_GROUP   0xffu

/* Accesses that one check covers: groups.c. */
struct native_group {
    uint32_t first, last; /* instructions */
    int32_t low;          /* of the span, from the first access */
    uint32_t span;        /* in bytes */
    bool is_written;
};

/* A block before it is translated. */
struct native_source {
    struct x86_decode_cache *decode_cache;
    uint64_t rip;
    bool is_32;                   /* 32-bit code, else 64-bit code */
    enum x86_code_size code_size; /* for the decoder */
    uint32_t count;
    uint32_t size_bytes;
    _Atomic uint64_t *marks; /* the page's granules with code, or NULL; set by the caller */
    uint64_t granules;       /* that have been read */
    const uint8_t *page;     /* the guest's: other vCPUs may write it at any moment */
    /* The same of the page behind it, if the caller has it: for one instruction that ends there. */
    const uint8_t *second_page;
    _Atomic uint64_t *second_marks;
    uint64_t second_granules;
    bool is_crossing;                    /* the block is such an instruction */
    uint8_t copy[NATIVE_MAX_BYTES + 64]; /* of the block's bytes, and the only ones that are used */
    bool ends_by_itself; /* the last instruction leaves the block; else it goes on behind it */
    uint16_t live_next;  /* flags that matter behind the block */
    bool uses_vectors;
    bool has_exact_flags; /* also in frames of faults in the middle */
    bool is_alone;        /* the vCPU is the VM's only one: see native_keeps_lock */
    uint64_t
        within_groups; /* bit n: an instruction behind n uses a check that comes before n or belongs to it */
    uint32_t group_count;
    struct native_group group[NATIVE_MAX_GROUPS];
    struct native_insn insn[NATIVE_MAX_INSNS];
};

void native_rows_init(void);

/* May 'insn' run as host code in the current mode of the vCPU? */
bool native_has_template(const struct soft_vcpu *v, const struct x86_insn *insn);

/* system_insn.c: of those that have a template, may this one use it in blocks of 'mode'? */
bool native_system_is_allowed(const struct soft_vcpu *v, const struct x86_insn *insn,
                              uint32_t mode);

/* x87.c */
bool native_x87_is_plain(uint16_t id);

/* groups.c */
void native_find_groups(struct native_source *source);

/* Decodes 'block', of which address and mode are set, at 'rip' in the page at 'page'. If the first instruction is none, or not all in
 * the page and the second one, the block is one instruction for the interpreter, with no length. */
struct native_block;
void native_analyze(struct soft_vcpu *v, const struct native_block *block, uint64_t rip,
                    const uint8_t *page, struct native_source *out);

static inline uint64_t native_rip(const struct native_source *source, uint32_t index)
{
    return source->rip + source->insn[index].offset;
}

/* RIP, or EIP where that is 32 bits wide. */
static inline uint64_t native_cut_rip(const struct native_source *source, uint64_t rip)
{
    return source->is_32 ? (uint32_t)rip : rip;
}

static inline uint64_t native_next_rip(const struct native_source *source, uint32_t index)
{
    const struct native_insn *n = &source->insn[index];
    return native_cut_rip(source, source->rip + n->offset + n->insn.length);
}

/* Where a direct branch goes. */
static inline uint64_t native_target(const struct native_source *source, uint32_t index)
{
    return native_cut_rip(source, native_next_rip(source, index) + source->insn[index].insn.imm);
}

/* Size of a push, a return address, an address. */
static inline uint8_t native_word(const struct native_source *source)
{
    return source->is_32 ? 4 : 8;
}

/* Memory operand's size, 0 if there is none. */
static inline uint32_t native_memory_size(const struct x86_insn *insn)
{
    for (uint32_t i = 0; i < insn->operand_count; i++) {
        if (insn->operand[i].kind == X86_OPERAND_MEM) {
            return insn->operand[i].size_bytes;
        }
    }
    return 0;
}

/* A byte register of the instruction that is AH, CH, DH or BH, and not by its meaning. */
static inline bool native_has_high_byte(const struct x86_insn *insn)
{
    bool has_high = false;
    if (insn->rex) {
        return false;
    }
    for (uint32_t i = 0; i < insn->operand_count; i++) {
        const struct x86_operand *operand = &insn->operand[i];
        has_high |= operand->kind == X86_OPERAND_REG && operand->is_high && !operand->is_implicit;
    }
    return has_high;
}

/* Does an instruction that has AH, CH, DH or BH need a REX prefix on the host, which forbids those? So it is with memory, whose
 * address is in R14, and with RSP, which is R13: MOVZX ESP, AH. */
bool native_high_needs_rex(const struct x86_insn *insn);

/* Bit n: general register n is among the operands that it writes; not RSP for PUSH and its kin. */
uint16_t native_written_gprs(const struct x86_insn *insn);

/* Guest registers that have no host register of their own. */
static inline bool native_is_spilled(uint8_t guest_reg)
{
    return guest_reg >= 13;
}

#endif
