/* SIMD instructions through stubs: the general case. Files beside this one take what no stub can do alone: x87.c,
 * simd_masked.c (element-wise memory), xsave.c; and simd_move.c the frequent moves for speed. */
#include "engine/soft/simd.h"

#include <stddef.h>
#include <stdlib.h>

#include "base/core/endian.h"

int soft_simd_init(struct soft_vcpu *v, struct error *err)
{
    struct soft_simd *simd = aligned_alloc(64, (sizeof(*simd) + 63) & ~(size_t)63);
    if (simd == NULL) {
        return error_set(err, ENOMEM, "no memory for a vcpu's SIMD state");
    }
    memset(simd, 0, sizeof(*simd));
    int rc = soft_stubs_get(&simd->stubs, err);
    if (rc < 0) {
        free(simd);
        return rc;
    }
    uint8_t image[512] __attribute__((aligned(16))) = {0};
    __asm__ volatile("fxsave64 %0" : "=m"(image));
    /* Not AMD's bit 17 (misaligned SSE): no CPU model announces it, and guests move between hosts. */
    simd->mxcsr_mask = le32_get(image + 28) & 0xffff;
    if (simd->mxcsr_mask == 0) {
        simd->mxcsr_mask = 0xffbf; /* SDM 1 11.6.6: the default of processors that store none */
    }
    simd->env.host_mxcsr = SIMD_HOST_MXCSR;
    simd->env.xmm0 = v->vector[0];
    simd->env.x87 = v->fx;
    v->simd = simd;
    return 0;
}

void soft_simd_fini(struct soft_vcpu *v)
{
    if (v->simd == NULL) {
        return;
    }
    soft_stubs_put(v->simd->stubs);
    free(v->simd);
    v->simd = NULL;
}

noreturn_fn void simd_raise_result(struct soft_vcpu *v, const struct soft_op *op,
                                   enum soft_stub_result result)
{
    switch (result) {
    case SOFT_STUB_XM:
        v->mxcsr = v->simd->env.mxcsr;
        soft_raise(v, op, v->cr4 & X86_CR4_OSXMMEXCPT ? X86_XM : X86_UD);
    case SOFT_STUB_MF:
        soft_raise(v, op, X86_MF);
    default:
        soft_raise(v, op, X86_UD);
    }
}

/* Loads the memory operand into the buffer. */
static always_inline void *load_operand(struct soft_vcpu *v, const struct soft_op *op,
                                        const struct simd_op *s)
{
    uint64_t gva = simd_linear(v, op, s->memory_size, s->is_aligned, false);
    if (s->memory_size > 16) {
        simd_check_ac(v, op, gva, 16);
        soft_load_unchecked(v, op, gva, v->simd->buffer, s->memory_size);
    } else {
        soft_load_bytes(v, op, gva, v->simd->buffer, s->memory_size);
    }
    return v->simd->buffer;
}

/* Registers only: neither memory nor flags nor MXCSR. */
static void run_registers(struct soft_vcpu *v, const struct soft_op *op)
{
    const struct simd_op *s = op->data;
    simd_check(v, op, s->check);
    enum soft_stub_result result = s->run(simd_at(v, s->reg), simd_at(v, s->rm),
                                          simd_at(v, s->vvvv), simd_at(v, s->is4), &v->simd->env);
    if (unlikely(result != SOFT_STUB_OK)) {
        simd_raise_result(v, op, result);
    }
    SOFT_NEXT(v, op);
}

static void run_load(struct soft_vcpu *v, const struct soft_op *op)
{
    const struct simd_op *s = op->data;
    simd_check(v, op, s->check);
    void *memory = load_operand(v, op, s);
    enum soft_stub_result result =
        s->run(simd_at(v, s->reg), memory, simd_at(v, s->vvvv), simd_at(v, s->is4), &v->simd->env);
    if (unlikely(result != SOFT_STUB_OK)) {
        simd_raise_result(v, op, result);
    }
    SOFT_NEXT(v, op);
}

/* Everything that may be. */
static void run_general(struct soft_vcpu *v, const struct soft_op *op)
{
    const struct simd_op *s = op->data;
    struct soft_simd *simd = v->simd;
    simd_check(v, op, s->check);
    le32_put(v->fx + 24, SIMD_HOST_MXCSR);
    if (s->is_waiting) {
        simd_check_pending(v, op);
        if (s->is_store && v->vm->is_intel) {
            simd_clear_top(v); /* even if memory faults */
        }
    }
    uint64_t gva = 0;
    void *rm = simd_at(v, s->rm);
    if (s->memory_size != 0 && s->is_store) {
        gva = simd_linear(v, op, s->memory_size, s->is_aligned, true);
        rm = simd->buffer;
        if (s->is_waiting || s->uses_mxcsr) {
            /* What the stub changes beside memory must not change if memory faults. */
            simd_check_ac(v, op, gva, s->memory_size);
            soft_check_write(v, op, gva, s->memory_size);
        }
    } else if (s->memory_size != 0) {
        rm = load_operand(v, op, s);
    }
    simd->env.mxcsr = v->mxcsr;
    if (s->uses_flags) {
        simd->env.rflags = soft_rflags(v) & X86_FLAGS_STATUS;
    }
    if (s->uses_gprs) {
        simd->env.rax = v->gpr[X86_RAX];
        simd->env.rcx = v->gpr[X86_RCX];
        simd->env.rdx = v->gpr[X86_RDX];
    }
    enum soft_stub_result result =
        s->run(simd_at(v, s->reg), rm, simd_at(v, s->vvvv), simd_at(v, s->is4), &simd->env);
    if (unlikely(result != SOFT_STUB_OK)) {
        if (result == SOFT_STUB_XM && s->is_waiting) {
            simd_enter_mmx(v); /* conversions to MMX registers: before the exception */
        }
        simd_raise_result(v, op, result);
    }
    if (s->memory_size != 0 && s->is_store) {
        soft_store_bytes(v, op, gva, simd->buffer, s->memory_size);
    }
    v->mxcsr = simd->env.mxcsr;
    if (s->uses_flags) {
        soft_set_status(v, (uint32_t)simd->env.rflags);
    }
    if (s->writes_rcx) {
        v->gpr[X86_RCX] = simd->env.rcx;
    }
    SOFT_NEXT(v, op);
}

static void op_ldmxcsr(struct soft_vcpu *v, const struct soft_op *op)
{
    simd_check(v, op, (uint8_t)op->imm);
    uint32_t value = soft_load32(v, op, soft_linear(v, op, 4, false));
    if ((value & ~v->simd->mxcsr_mask) != 0) {
        soft_raise_error(v, op, X86_GP, 0);
    }
    v->mxcsr = value;
    SOFT_NEXT(v, op);
}

static void op_stmxcsr(struct soft_vcpu *v, const struct soft_op *op)
{
    simd_check(v, op, (uint8_t)op->imm);
    soft_store32(v, op, soft_linear(v, op, 4, true), v->mxcsr);
    SOFT_NEXT(v, op);
}

/* Outside of 64-bit mode only the first eight registers change (SDM 2, VZEROALL and VZEROUPPER). */
static void op_vzeroall(struct soft_vcpu *v, const struct soft_op *op)
{
    simd_check(v, op, SIMD_CHECK_VEX);
    memset(v->vector, 0, soft_is_64(v) ? sizeof(v->vector) : sizeof(v->vector) / 2);
    SOFT_NEXT(v, op);
}

static void op_vzeroupper(struct soft_vcpu *v, const struct soft_op *op)
{
    simd_check(v, op, SIMD_CHECK_VEX);
    unsigned count = soft_is_64(v) ? 16 : 8;
    for (unsigned i = 0; i < count; i++) {
        memset(v->vector[i] + 16, 0, 16);
    }
    SOFT_NEXT(v, op);
}

uint8_t simd_check_of(const struct x86_insn *insn)
{
    uint32_t attributes = x86_rows[insn->row].attributes;
    if ((attributes & X86_ROW_X87) != 0) {
        return SIMD_CHECK_X87;
    }
    if ((attributes & X86_ROW_MMX) != 0) {
        return (attributes & X86_ROW_SSE) != 0 ? SIMD_CHECK_MMX_SSE : SIMD_CHECK_MMX;
    }
    if ((attributes & X86_ROW_VEX) != 0) {
        return SIMD_CHECK_VEX;
    }
    if ((insn->prefixes & X86_PREFIX_VEX) != 0) {
        return SIMD_CHECK_VEX_GPR;
    }
    return (attributes & X86_ROW_SSE) != 0 ? SIMD_CHECK_SSE : SIMD_CHECK_NONE;
}

static uint16_t field_offset(const struct soft_stub_field *field)
{
    switch (field->kind) {
    case SOFT_STUB_GPR:
        return (uint16_t)(offsetof(struct soft_vcpu, gpr) + field->number * 8u +
                          (field->is_high ? 1 : 0));
    case SOFT_STUB_VECTOR:
        return (uint16_t)(offsetof(struct soft_vcpu, vector) + field->number * 32u);
    default:
        return 0;
    }
}

struct simd_op *simd_prepare_stub(struct soft_vcpu *v, const struct x86_insn *insn)
{
    const struct x86_row *row = &x86_rows[insn->row];
    struct soft_stub_shape shape;
    struct soft_stub stub;
    if (!soft_stub_shape(insn, &shape) || !soft_stub_find(v->simd->stubs, insn, &stub)) {
        return NULL;
    }
    struct simd_op *s = soft_block_alloc(v, sizeof(*s));
    *s = (struct simd_op){
        .run = stub.run,
        .op_address = stub.op_address,
        .reg = field_offset(&shape.reg),
        .rm = field_offset(&shape.rm),
        .vvvv = field_offset(&shape.vvvv),
        .is4 = field_offset(&shape.is4),
        .check = simd_check_of(insn),
        .is_aligned = (row->attributes & X86_ROW_ALIGNED) != 0,
        .uses_gprs = shape.uses_gprs,
        .uses_flags = shape.reads_flags || shape.writes_flags,
        .uses_mxcsr = shape.uses_mxcsr,
        .writes_rcx = insn->id == X86_ID_PCMPESTRI || insn->id == X86_ID_PCMPISTRI ||
                      insn->id == X86_ID_VPCMPESTRI || insn->id == X86_ID_VPCMPISTRI,
        .is_waiting = shape.uses_x87,
    };
    if ((insn->id == X86_ID_CVTPI2PD || insn->id == X86_ID_CVTPI2PS) && insn->has_memory) {
        /* No MMX register: whether the x87 state is touched all the same is the host's to say. */
        s->check = SIMD_CHECK_SSE;
        s->is_waiting = false;
    }
    for (unsigned i = 0; i < insn->operand_count; i++) {
        if (insn->operand[i].kind == X86_OPERAND_MEM) {
            s->memory_size = insn->operand[i].size_bytes;
            s->is_store = (insn->operand[i].access & X86_OPERAND_WRITE) != 0;
        }
    }
    return s;
}

static bool prepare_control(const struct x86_insn *insn, struct soft_op *out_op)
{
    out_op->imm = simd_check_of(insn);
    switch (insn->id) {
    case X86_ID_LDMXCSR:
    case X86_ID_VLDMXCSR:
        out_op->fn = op_ldmxcsr;
        return true;
    case X86_ID_STMXCSR:
    case X86_ID_VSTMXCSR:
        out_op->fn = op_stmxcsr;
        return true;
    case X86_ID_VZEROALL:
        out_op->fn = op_vzeroall;
        return true;
    case X86_ID_VZEROUPPER:
        out_op->fn = op_vzeroupper;
        return true;
    default:
        return false;
    }
}

bool soft_simd_prepare(struct soft_vcpu *v, const struct x86_insn *insn, struct soft_op *out_op)
{
    if (simd_prepare_xsave(v, insn, out_op)) {
        return true;
    }
    uint32_t attributes = x86_rows[insn->row].attributes;
    bool is_ours =
        (attributes & (X86_ROW_X87 | X86_ROW_MMX | X86_ROW_SSE | X86_ROW_VEX)) != 0 ||
        (insn->prefixes & X86_PREFIX_VEX) != 0 ||
        (insn->map >= 1 &&
         (attributes & (X86_ROW_SYSTEM | X86_ROW_PRIVILEGED | X86_ROW_BRANCH | X86_ROW_IO)) == 0);
    if (!is_ours) {
        return false;
    }
    if (prepare_control(insn, out_op) || simd_prepare_x87(v, insn, out_op) ||
        simd_prepare_masked(v, insn, out_op) || simd_prepare_move(v, insn, out_op)) {
        return true;
    }
    struct simd_op *s = simd_prepare_stub(v, insn);
    if (s == NULL || s->memory_size > 32) {
        return false;
    }
    out_op->data = s;
    bool is_plain = !s->uses_gprs && !s->uses_flags && !s->uses_mxcsr && !s->is_waiting;
    if (is_plain && s->memory_size == 0) {
        out_op->fn = run_registers;
    } else if (is_plain && !s->is_store) {
        out_op->fn = run_load;
    } else {
        out_op->fn = run_general;
    }
    return true;
}
