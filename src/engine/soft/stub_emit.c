/* The code of stubs. Calling convention (System V): rdi = ModRM.reg's operand, rsi = ModRM.rm's operand or memory, rdx =
 * VEX.vvvv's, rcx = that of the immediate's high half, r8 = struct soft_stub_env. The canonical registers of these four
 * are number 9, 11, 10 and 12, general and vector alike; rax is scratch. Nothing is on the stack while the instruction
 * proper runs, so that a fault can leave by a plain return. */
#include "engine/soft/stub_emit.h"

#include <string.h>

#include "base/core/compiler.h"
#include "cpu/x86/tables.h"

#define CANON_REG  9
#define CANON_VVVV 10
#define CANON_RM   11
#define CANON_IS4  12

#define REG_RDX 2
#define REG_RCX 1
#define REG_RSI 6
#define REG_RDI 7

#define ENV(member) ((uint8_t)offsetof(struct soft_stub_env, member))
_Static_assert(sizeof(struct soft_stub_env) < 128, "members are reached with 8-bit displacements");

bool soft_stub_shape(const struct x86_insn *insn, struct soft_stub_shape *out_shape)
{
    const struct x86_row *row = &x86_rows[insn->row];
    const struct x86_form *form = &x86_forms[insn->row];
    *out_shape = (struct soft_stub_shape){
        .uses_mxcsr = (row->attributes & X86_ROW_FP) != 0,
        .uses_x87 = (row->attributes & (X86_ROW_X87 | X86_ROW_MMX)) != 0,
        .is_vex = (insn->prefixes & X86_PREFIX_VEX) != 0,
        .is_vector_256 = insn->vex_l != 0,
        .reads_flags = (row->flags_read & X86_FLAGS_STATUS) != 0,
        .writes_flags = ((row->flags_written | row->flags_undefined) & X86_FLAGS_STATUS) != 0,
    };
    if (insn->is_vsib || (insn->map == 0 && !out_shape->uses_x87)) {
        return false;
    }
    for (size_t i = 0; i < insn->operand_count; i++) {
        const struct x86_operand *operand = &insn->operand[i];
        if (operand->kind != X86_OPERAND_REG || operand->reg_class == X86_REG_X87) {
            continue;
        }
        struct soft_stub_field *field;
        switch (form->operand[i].source) {
        case X86_SOURCE_REG:
            field = &out_shape->reg;
            break;
        case X86_SOURCE_RM:
            field = &out_shape->rm;
            break;
        case X86_SOURCE_VVVV:
            field = &out_shape->vvvv;
            break;
        case X86_SOURCE_IS4:
            field = &out_shape->is4;
            break;
        case X86_SOURCE_FIXED:
            if (operand->reg_class == X86_REG_VECTOR && operand->reg == 0) {
                out_shape->uses_xmm0 = true;
                out_shape->writes_xmm0 |= (operand->access & X86_OPERAND_WRITE) != 0;
            } else if (operand->reg_class == X86_REG_GPR && operand->reg <= X86_RDX) {
                out_shape->uses_gprs = true;
            } else {
                return false;
            }
            continue;
        default:
            return false;
        }
        field->number = operand->reg;
        field->is_high = operand->is_high;
        field->is_written = (operand->access & X86_OPERAND_WRITE) != 0;
        if (operand->reg_class == X86_REG_VECTOR) {
            field->kind = SOFT_STUB_VECTOR;
        } else if (operand->reg_class == X86_REG_GPR) {
            field->kind = SOFT_STUB_GPR;
        } else if (operand->reg_class == X86_REG_MMX) {
            field->kind = SOFT_STUB_MMX;
            out_shape->uses_x87 = true;
        } else {
            return false;
        }
    }
    if (insn->id == X86_ID_PCMPESTRM || insn->id == X86_ID_VPCMPESTRM) {
        /* One operand more than struct x86_insn has room for. */
        out_shape->uses_xmm0 = out_shape->writes_xmm0 = true;
    }
    return true;
}

static uint8_t canonical_number(const struct soft_stub_field *field, uint8_t canonical, uint8_t raw)
{
    switch (field->kind) {
    case SOFT_STUB_GPR:
    case SOFT_STUB_VECTOR:
        return canonical;
    case SOFT_STUB_MMX:
        return field->number;
    default:
        return raw;
    }
}

/* REX.W or VEX.W as it must be in 64-bit mode. Outside of that mode a general register has 32 bits whatever W says;
 * elsewhere (FMA, gathers, permutes) W is a part of the opcode in all modes. */
static bool canonical_w(const struct x86_insn *insn, const struct soft_stub_shape *shape)
{
    if ((insn->rex & 8) == 0) {
        return false;
    }
    if (insn->code_size == X86_CODE_64) {
        return true;
    }
    bool has_gpr = shape->reg.kind == SOFT_STUB_GPR || shape->rm.kind == SOFT_STUB_GPR ||
                   shape->vvvv.kind == SOFT_STUB_GPR;
    /* With GPRs that ModRM does not name: PCMPESTRM, PCMPESTRI. */
    bool is_gpr_or_memory = (insn->map == 1 && (insn->opcode == 0x2a || insn->opcode == 0x6e ||
                                                insn->opcode == 0x7e)) ||
                            (insn->map == 3 && (insn->opcode == 0x16 || insn->opcode == 0x22)) ||
                            (insn->map == 3 && (insn->opcode == 0x60 || insn->opcode == 0x61));
    return !has_gpr && !is_gpr_or_memory;
}

/* FLDENV, FNSTENV, FRSTOR, FNSAVE: the operand size is that of the image. */
static bool has_environment(const struct x86_insn *insn)
{
    return insn->map == 0 && insn->has_memory && (insn->opcode == 0xd9 || insn->opcode == 0xdd) &&
           (insn->modrm & 0x28) == 0x20;
}

void stub_encode_op(const struct x86_insn *insn, const struct soft_stub_shape *shape,
                    struct stub_op *out_op)
{
    struct stub_op op = {0};
    uint8_t reg = canonical_number(&shape->reg, CANON_REG, (insn->modrm >> 3) & 7);
    uint8_t rm = canonical_number(&shape->rm, CANON_RM, insn->modrm & 7);
    uint8_t vvvv = canonical_number(&shape->vvvv, CANON_VVVV, 0);
    uint8_t modrm = (uint8_t)((insn->modrm & 0xc0) | ((reg & 7) << 3) | (rm & 7));
    if (insn->has_memory) {
        modrm = (uint8_t)(((reg & 7) << 3) | REG_RSI);
        rm = REG_RSI;
    }
    bool w = canonical_w(insn, shape);
    if (shape->is_vex) {
        static const uint8_t pp_of[4] = {0, 1, 2, 3};
        uint8_t pp = insn->mandatory_prefix == 0x66   ? pp_of[1]
                     : insn->mandatory_prefix == 0xf3 ? pp_of[2]
                     : insn->mandatory_prefix == 0xf2 ? pp_of[3]
                                                      : pp_of[0];
        op.bytes[op.size++] = 0xc4;
        op.bytes[op.size++] =
            (uint8_t)((reg < 8 ? 0x80 : 0) | 0x40 | (rm < 8 ? 0x20 : 0) | insn->map);
        op.bytes[op.size++] =
            (uint8_t)((w ? 0x80 : 0) | ((vvvv ^ 0xf) << 3) | (insn->vex_l != 0 ? 4 : 0) | pp);
    } else {
        /* CRC32 and its like; for MMX and SSE the prefix would make another instruction. */
        uint32_t attributes = x86_rows[insn->row].attributes;
        bool is_general = (attributes & (X86_ROW_MMX | X86_ROW_SSE)) == 0 &&
                          (shape->reg.kind == SOFT_STUB_GPR || shape->rm.kind == SOFT_STUB_GPR);
        bool has_word_form = is_general || has_environment(insn);
        if (has_word_form && insn->operand_bytes == 2) {
            op.bytes[op.size++] = 0x66;
        }
        if (insn->mandatory_prefix != 0) {
            op.bytes[op.size++] = insn->mandatory_prefix;
        }
        uint8_t rex = (uint8_t)((w ? 8 : 0) | (reg >= 8 ? 4 : 0) | (rm >= 8 ? 1 : 0));
        if (rex != 0) {
            op.bytes[op.size++] = (uint8_t)(0x40 | rex);
        }
        static const uint8_t escape_of[4] = {0, 0, 0x38, 0x3a};
        if (insn->map != 0) {
            op.bytes[op.size++] = 0x0f;
        }
        if (insn->map >= 2) {
            op.bytes[op.size++] = escape_of[insn->map & 3];
        }
    }
    op.bytes[op.size++] = insn->opcode;
    if (insn->has_modrm) {
        op.bytes[op.size++] = modrm;
    }
    if (shape->is4.kind != SOFT_STUB_NONE) {
        op.bytes[op.size++] = CANON_IS4 << 4;
    } else if (insn->imm_bytes != 0) {
        op.bytes[op.size++] = (uint8_t)insn->imm;
        if (insn->id == X86_ID_EXTRQ || insn->id == X86_ID_INSERTQ) {
            op.bytes[op.size++] = (uint8_t)insn->imm2;
        }
    }
    *out_op = op;
}

struct writer {
    uint8_t *code;
    size_t size;
};

static void put(struct writer *writer, const uint8_t *bytes, size_t count)
{
    if (count <= STUB_MAX_SIZE - writer->size) {
        memcpy(writer->code + writer->size, bytes, count);
        writer->size += count;
    }
}

#define PUT(writer, ...)                                                                           \
    put((writer), (const uint8_t[]){__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__}))

/* movups/vmovdqu between vector register 'number' and [pointer], or mov for general registers. 'pointer' is one of the
 * low registers other than rsp and rbp, so ModRM.mod 0 is plain [pointer]. */
static void put_move(struct writer *writer, uint8_t kind, uint8_t number, uint8_t pointer,
                     bool is_store, bool is_ymm)
{
    uint8_t modrm = (uint8_t)(((number & 7) << 3) | pointer);
    uint8_t high = number >= 8;
    if (kind == SOFT_STUB_GPR) {
        PUT(writer, (uint8_t)(0x48 | (high ? 4 : 0)), is_store ? 0x89 : 0x8b, modrm);
    } else if (kind == SOFT_STUB_VECTOR && is_ymm) {
        PUT(writer, 0xc5, (uint8_t)((high ? 0 : 0x80) | 0x7e), is_store ? 0x7f : 0x6f, modrm);
    } else if (kind == SOFT_STUB_VECTOR) {
        PUT(writer, (uint8_t)(0x40 | (high ? 4 : 0)), 0x0f, is_store ? 0x11 : 0x10, modrm);
    }
}

/* mov between general register 'reg' (0..7) and [r8 + offset]. */
static void put_env(struct writer *writer, bool is_store, uint8_t reg, uint8_t offset)
{
    PUT(writer, 0x49, is_store ? 0x89 : 0x8b, (uint8_t)(0x40 | (reg << 3)), offset);
}

static void put_ldmxcsr(struct writer *writer, uint8_t offset)
{
    PUT(writer, 0x41, 0x0f, 0xae, 0x50, offset);
}

static void put_stmxcsr(struct writer *writer, uint8_t offset)
{
    PUT(writer, 0x41, 0x0f, 0xae, 0x58, offset);
}

static void put_before(struct writer *w, const struct soft_stub_shape *shape)
{
    if (shape->uses_x87) {
        put_env(w, false, X86_RAX, ENV(x87));
        PUT(w, 0x48, 0x0f, 0xae, 0x08); /* fxrstor64 [rax] */
    }
    put_move(w, shape->reg.kind, CANON_REG, REG_RDI, false, shape->is_vex);
    put_move(w, shape->rm.kind, CANON_RM, REG_RSI, false, shape->is_vex);
    put_move(w, shape->vvvv.kind, CANON_VVVV, REG_RDX, false, shape->is_vex);
    put_move(w, shape->is4.kind, CANON_IS4, REG_RCX, false, shape->is_vex);
    if (shape->uses_xmm0) {
        put_env(w, false, X86_RAX, ENV(xmm0));
        put_move(w, SOFT_STUB_VECTOR, 0, X86_RAX, false, shape->is_vex);
    }
    if (shape->uses_mxcsr) {
        put_ldmxcsr(w, ENV(mxcsr));
    }
    if (shape->uses_gprs) {
        put_env(w, true, REG_RDX, ENV(saved_rdx));
        put_env(w, false, X86_RAX, ENV(rax));
        put_env(w, false, REG_RCX, ENV(rcx));
        put_env(w, false, REG_RDX, ENV(rdx));
    }
    if (shape->reads_flags) {
        PUT(w, 0x41, 0xff, 0x70, ENV(rflags), 0x9d); /* push [r8 + rflags]; popfq */
    }
}

static void put_after(struct writer *w, const struct soft_stub_shape *shape)
{
    if (shape->writes_flags) {
        PUT(w, 0x9c, 0x41, 0x8f, 0x40, ENV(rflags)); /* pushfq; pop [r8 + rflags] */
    }
    if (shape->uses_gprs) {
        put_env(w, true, X86_RAX, ENV(rax));
        put_env(w, true, REG_RCX, ENV(rcx));
        put_env(w, true, REG_RDX, ENV(rdx));
        put_env(w, false, REG_RDX, ENV(saved_rdx));
    }
    if (shape->uses_mxcsr) {
        put_stmxcsr(w, ENV(mxcsr));
        put_ldmxcsr(w, ENV(host_mxcsr));
    }
    if (shape->uses_x87) {
        put_env(w, false, X86_RAX, ENV(x87));
        PUT(w, 0x48, 0x0f, 0xae, 0x00); /* fxsave64 [rax] */
        PUT(w, 0xdb, 0xe3);             /* fninit: the host's x87 state stays clean */
    }
    /* MULX with one register for both results keeps the high half, that of ModRM.reg: it goes last. */
    if (shape->vvvv.is_written) {
        put_move(w, shape->vvvv.kind, CANON_VVVV, REG_RDX, true, shape->is_vex);
    }
    if (shape->reg.is_written) {
        put_move(w, shape->reg.kind, CANON_REG, REG_RDI, true, shape->is_vex);
    }
    if (shape->rm.is_written) {
        put_move(w, shape->rm.kind, CANON_RM, REG_RSI, true, shape->is_vex);
    }
    if (shape->writes_xmm0) {
        put_env(w, false, X86_RAX, ENV(xmm0));
        put_move(w, SOFT_STUB_VECTOR, 0, X86_RAX, true, shape->is_vex);
    }
    bool uses_ymm = shape->is_vex &&
                    (shape->reg.kind == SOFT_STUB_VECTOR || shape->rm.kind == SOFT_STUB_VECTOR);
    if (uses_ymm) {
        PUT(w, 0xc5, 0xf8, 0x77); /* vzeroupper */
    }
}

size_t stub_emit(const struct soft_stub_shape *shape, const struct stub_op *op,
                 uint8_t out_code[STUB_MAX_SIZE], size_t *out_op_offset)
{
    struct writer writer = {.code = out_code};
    put_before(&writer, shape);
    *out_op_offset = writer.size;
    put(&writer, op->bytes, op->size);
    put_after(&writer, shape);
    PUT(&writer, 0x31, 0xc0, 0xc3); /* xor eax, eax; ret */
    return writer.size;
}

size_t stub_emit_recovery(enum soft_stub_result result, bool has_avx,
                          uint8_t out_code[STUB_MAX_SIZE])
{
    struct writer writer = {.code = out_code};
    if (result == SOFT_STUB_XM) {
        put_stmxcsr(&writer, ENV(mxcsr));
    }
    put_ldmxcsr(&writer, ENV(host_mxcsr));
    PUT(&writer, 0xdb, 0xe3); /* fninit */
    if (has_avx) {
        PUT(&writer, 0xc5, 0xf8, 0x77); /* vzeroupper */
    }
    PUT(&writer, 0xb8, (uint8_t)result, 0, 0, 0, 0xc3); /* mov eax, result; ret */
    return writer.size;
}
