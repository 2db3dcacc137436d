/* x87 instructions: arithmetic through stubs, the environment in C.
 *
 * The state lives in v->fx in the format of FXSAVE64. The pointers to the last instruction and operand in it are the
 * guest's: they are kept beside it, and put wherever the host's CPU has left or would leave the stub's own. */
#include "engine/soft/simd.h"

#include "base/core/endian.h"

/* Offsets in the FXSAVE64 image (SDM 1 table 10-2). */
#define FX_FCW 0
#define FX_FSW 2
#define FX_FTW 4
#define FX_FOP 6
#define FX_FIP 8
#define FX_FDP 16
#define FX_ST0 32

/* Exceptions that, unmasked, leave the destination alone: all but that of precision. */
#define X87_STORES_NOTHING 0x1fu

enum x87_kind {
    X87_ORDINARY,
    X87_CONTROL, /* leaves the pointers alone */
    X87_RESET,   /* FNINIT, FNSAVE */
    X87_STORE_ENVIRONMENT,
    X87_LOAD_ENVIRONMENT,
};

/* Puts the guest's addresses where the stub's are now. */
static void set_pointers(struct soft_vcpu *v, const struct soft_op *op, const struct simd_op *s,
                         uint64_t offset)
{
    struct simd_pointers *last = &v->simd->last;
    const struct soft_x87_model *model = &v->vm->x87;
    bool is_pending = (le16_get(v->fx + FX_FSW) & X87_STATUS_ES) != 0;
    if (s->x87_kind == X87_RESET) {
        *last = (struct simd_pointers){0};
    } else if (s->x87_kind == X87_ORDINARY) {
        /* An exception that is pending here is its own: it has waited for earlier ones. */
        last->fip = soft_op_rip(v, op);
        last->fcs = model->has_selectors ? v->segment[X86_CS].selector : 0;
        if (model->has_fop || is_pending) {
            last->fop = s->fop & 0x7ff;
        }
        if (s->memory_size != 0 && (model->has_fdp || is_pending)) {
            last->fdp = offset;
            last->fds = model->has_selectors ? v->segment[op->segment].selector : 0;
        }
    }
    uint64_t fip = le64_get(v->fx + FX_FIP);
    /* With FLDCW an exception of an earlier instruction can become a pending one. */
    if (fip == s->op_address || (is_pending && fip == 0)) {
        le64_put(v->fx + FX_FIP, last->fip);
        le16_put(v->fx + FX_FOP, last->fop);
        le64_put(v->fx + FX_FDP, last->fdp);
    }
}

/* The environment that a stub has stored in the buffer, in a format of protected mode (SDM 1 figures 8-9 and 8-11). */
static void put_pointers(uint8_t *image, bool is_32bit, const struct simd_pointers *last)
{
    if (is_32bit) {
        le32_put(image + 12, (uint32_t)last->fip);
        le32_put(image + 16, last->fcs | (uint32_t)last->fop << 16);
        le32_put(image + 20, (uint32_t)last->fdp);
        le32_put(image + 24, 0xffff0000u | last->fds);
    } else {
        le16_put(image + 6, (uint16_t)last->fip);
        le16_put(image + 8, last->fcs);
        le16_put(image + 10, (uint16_t)last->fdp);
        le16_put(image + 12, last->fds);
    }
}

static void get_pointers(const uint8_t *image, bool is_32bit, struct simd_pointers *out_last)
{
    if (is_32bit) {
        *out_last = (struct simd_pointers){
            .fip = le32_get(image + 12),
            .fcs = le16_get(image + 16),
            .fop = le16_get(image + 18) & 0x7ff,
            .fdp = le32_get(image + 20),
            .fds = le16_get(image + 24),
        };
    } else {
        *out_last = (struct simd_pointers){
            .fip = le16_get(image + 6),
            .fcs = le16_get(image + 8),
            .fdp = le16_get(image + 10),
            .fds = le16_get(image + 12),
        };
    }
}

/* What #AC asks for: images count by their elements. */
static uint32_t alignment_of(const struct soft_op *op, const struct simd_op *s)
{
    return s->memory_size > 10    ? (op->size == 2 ? 2 : 4)
           : s->memory_size == 10 ? 8
                                  : s->memory_size;
}

/* Formats of 80 bits are accessed as 8 bytes and then 2, images as their elements, each with its own limit: what the first
 * access finds. */
static void check_first_part(struct soft_vcpu *v, const struct soft_op *op, const struct simd_op *s,
                             uint64_t offset)
{
    uint32_t size = s->memory_size == 10 ? 8 : op->size == 2 ? 2 : 4;
    uint64_t gva = soft_linear_at(v, op, op->segment, offset, size, s->is_store);
    simd_check_ac(v, op, gva, alignment_of(op, s));
    if (s->memory_size != 10) {
        return;
    }
    if (s->is_store) {
        soft_check_write(v, op, gva, size);
    } else {
        soft_check_read(v, op, gva, size);
    }
}

/* Stores into the buffer, to see whether an unmasked exception lets nothing be stored; if not so, all is as before. */
static bool try_store(struct soft_vcpu *v, const struct soft_op *op)
{
    const struct simd_op *s = op->data;
    struct soft_simd *simd = v->simd;
    uint8_t before[FX_ST0 + 128];
    memcpy(before, v->fx, sizeof(before));
    le32_put(v->fx + 24, SIMD_HOST_MXCSR);
    if (s->run(v, simd->buffer, v, v, &simd->env) == SOFT_STUB_OK &&
        (le16_get(v->fx + FX_FSW) & ~le16_get(v->fx + FX_FCW) & X87_STORES_NOTHING) != 0) {
        return true;
    }
    memcpy(v->fx, before, sizeof(before));
    return false;
}

static void run_x87(struct soft_vcpu *v, const struct soft_op *op)
{
    const struct simd_op *s = op->data;
    struct soft_simd *simd = v->simd;
    simd_check(v, op, SIMD_CHECK_X87);
    if (s->is_waiting) {
        simd_check_pending(v, op);
    }
    uint64_t gva = 0, offset = 0;
    /* CPUs of Intel do not look at memory then. */
    if (v->vm->is_intel && s->is_store && s->x87_kind == X87_ORDINARY &&
        (~v->fx[FX_FCW] & X87_STORES_NOTHING) != 0 && try_store(v, op)) {
        set_pointers(v, op, s, soft_offset(v, op));
        SOFT_NEXT(v, op);
    }
    if (s->memory_size != 0) {
        offset = soft_offset(v, op);
        if (s->memory_size >= 10) {
            check_first_part(v, op, s, offset);
        }
        gva = soft_linear_at(v, op, op->segment, offset, s->memory_size, s->is_store);
        simd_check_ac(v, op, gva, alignment_of(op, s));
        if (s->is_store) {
            soft_check_write(v, op, gva, s->memory_size);
            /* An unmasked exception stores nothing: what is there must come back. */
            soft_load_unchecked(v, op, gva, simd->buffer, s->memory_size);
        } else {
            soft_load_unchecked(v, op, gva, simd->buffer, s->memory_size);
        }
    }
    simd->env.rflags = soft_rflags(v) & X86_FLAGS_STATUS;
    le32_put(v->fx + 24, SIMD_HOST_MXCSR);
    enum soft_stub_result result = s->run(v, simd->buffer, v, v, &simd->env);
    if (unlikely(result != SOFT_STUB_OK)) {
        simd_raise_result(v, op, result);
    }
    bool has_environment = s->memory_size > 10;
    if (has_environment && s->is_store) {
        put_pointers(simd->buffer, op->size != 2, &simd->last);
    } else if (has_environment) {
        get_pointers(simd->buffer, op->size != 2, &simd->last);
        if (!v->vm->x87.has_selectors) {
            simd->last.fcs = simd->last.fds = 0;
        }
    }
    set_pointers(v, op, s, offset);
    if (s->is_store) {
        soft_store_unchecked(v, op, gva, simd->buffer, s->memory_size);
    }
    if (s->uses_flags) {
        soft_set_status(v, (uint32_t)simd->env.rflags);
    }
    SOFT_NEXT(v, op);
}

/* FWAIT looks at CR0.MP and TS, not at EM (SDM 3A table 2-2). */
static void op_fwait(struct soft_vcpu *v, const struct soft_op *op)
{
    if ((v->cr0 & (X86_CR0_MP | X86_CR0_TS)) == (X86_CR0_MP | X86_CR0_TS)) {
        soft_raise(v, op, X86_NM);
    }
    simd_check_pending(v, op);
    SOFT_NEXT(v, op);
}

static void op_fnstsw_ax(struct soft_vcpu *v, const struct soft_op *op)
{
    simd_check(v, op, SIMD_CHECK_X87);
    memcpy(&v->gpr[X86_RAX], v->fx + FX_FSW, 2);
    SOFT_NEXT(v, op);
}

static unsigned top_of(const struct soft_vcpu *v)
{
    return (le16_get(v->fx + FX_FSW) >> 11) & 7;
}

/* The tag word of the old formats: two bits for each physical register (SDM 1 8.1.7). */
static uint16_t full_tags(const struct soft_vcpu *v)
{
    uint8_t abridged = v->fx[FX_FTW];
    uint16_t tags = 0;
    for (unsigned i = 0; i < 8; i++) {
        const uint8_t *st = v->fx + FX_ST0 + ((i - top_of(v)) & 7) * 16;
        uint64_t significand = le64_get(st);
        uint16_t exponent = le16_get(st + 8) & 0x7fff;
        unsigned tag;
        if (((abridged >> i) & 1) == 0) {
            tag = 3;
        } else if (exponent == 0 && significand == 0) {
            tag = 1;
        } else if (exponent == 0 || exponent == 0x7fff || (significand >> 63) == 0) {
            tag = 2;
        } else {
            tag = 0;
        }
        tags |= (uint16_t)(tag << (2 * i));
    }
    return tags;
}

static uint8_t abridged_tags(uint16_t tags)
{
    uint8_t abridged = 0;
    for (unsigned i = 0; i < 8; i++) {
        if (((tags >> (2 * i)) & 3) != 3) {
            abridged |= (uint8_t)(1u << i);
        }
    }
    return abridged;
}

static bool is_real_format(const struct soft_vcpu *v)
{
    return !soft_is_protected(v) || soft_is_v86(v);
}

/* The environment in the formats of real-address and virtual-8086 mode (SDM 1 figures 8-10 and 8-12); those of protected
 * mode are the host's own, through stubs. */
static void environment_get(const struct soft_vcpu *v, bool is_32bit, uint8_t *out)
{
    uint64_t fip = v->simd->last.fip + ((uint64_t)v->simd->last.fcs << 4);
    uint64_t fdp = v->simd->last.fdp + ((uint64_t)v->simd->last.fds << 4);
    uint16_t fop = v->simd->last.fop;
    if (is_32bit) {
        le32_put(out, 0xffff0000u | le16_get(v->fx + FX_FCW));
        le32_put(out + 4, 0xffff0000u | le16_get(v->fx + FX_FSW));
        le32_put(out + 8, 0xffff0000u | full_tags(v));
        le32_put(out + 12, 0xffff0000u | (uint16_t)fip);
        le32_put(out + 16, (uint32_t)((fip >> 16) & 0xffff) << 12 | fop);
        le32_put(out + 20, 0xffff0000u | (uint16_t)fdp);
        le32_put(out + 24, (uint32_t)((fdp >> 16) & 0xffff) << 12);
        return;
    }
    le16_put(out, le16_get(v->fx + FX_FCW));
    le16_put(out + 2, le16_get(v->fx + FX_FSW));
    le16_put(out + 4, full_tags(v));
    le16_put(out + 6, (uint16_t)fip);
    le16_put(out + 8, (uint16_t)(((fip >> 16) & 0xf) << 12 | fop));
    le16_put(out + 10, (uint16_t)fdp);
    le16_put(out + 12, (uint16_t)(((fdp >> 16) & 0xf) << 12));
}

/* Registers stand in the image by their distance from TOP: changes TOP and keeps each where it physically is. */
static void move_top(struct soft_vcpu *v, unsigned new_top)
{
    uint8_t moved[128];
    unsigned old_top = top_of(v);
    for (unsigned i = 0; i < 8; i++) {
        memcpy(moved + i * 16, v->fx + FX_ST0 + ((i + new_top - old_top) & 7) * 16, 16);
    }
    memcpy(v->fx + FX_ST0, moved, sizeof(moved));
    le16_put(v->fx + FX_FSW, (uint16_t)((le16_get(v->fx + FX_FSW) & ~0x3800u) | new_top << 11));
}

static void environment_set(struct soft_vcpu *v, bool is_32bit, const uint8_t *in)
{
    unsigned step = is_32bit ? 4 : 2;
    uint16_t control = (uint16_t)((le16_get(in) & 0x1f3f) | 0x40);
    uint16_t status = le16_get(in + step) & 0x7f7f;
    if ((status & ~control & 0x3f) != 0) {
        status |= 0x8080; /* ES and B follow from the flags and the masks */
    }
    uint64_t fip, fdp;
    uint16_t fop;
    if (is_32bit) {
        fip = le16_get(in + 12) | (uint64_t)((le32_get(in + 16) >> 12) & 0xffff) << 16;
        fdp = le16_get(in + 20) | (uint64_t)((le32_get(in + 24) >> 12) & 0xffff) << 16;
        fop = le16_get(in + 16) & 0x7ff;
    } else {
        fip = le16_get(in + 6) | (uint64_t)(le16_get(in + 8) >> 12) << 16;
        fdp = le16_get(in + 10) | (uint64_t)(le16_get(in + 12) >> 12) << 16;
        fop = le16_get(in + 8) & 0x7ff;
    }
    move_top(v, (status >> 11) & 7);
    le16_put(v->fx + FX_FCW, control);
    le16_put(v->fx + FX_FSW, status);
    le16_put(v->fx + FX_FTW, abridged_tags(le16_get(in + 2 * step)));
    le16_put(v->fx + FX_FOP, fop);
    le64_put(v->fx + FX_FIP, fip);
    le64_put(v->fx + FX_FDP, fdp);
    v->simd->last = (struct simd_pointers){.fip = fip, .fdp = fdp, .fop = fop};
}

static uint32_t environment_size(const struct soft_op *op)
{
    return op->size == 2 ? 14 : 28;
}

static void op_fnstenv(struct soft_vcpu *v, const struct soft_op *op)
{
    if (!is_real_format(v)) {
        run_x87(v, op);
        return;
    }
    simd_check(v, op, SIMD_CHECK_X87);
    uint8_t image[28];
    uint32_t size = environment_size(op);
    environment_get(v, size == 28, image);
    soft_store_unchecked(v, op, soft_linear(v, op, size, true), image, size);
    /* The stored environment is the handler's to keep: all exceptions are masked now. */
    v->fx[FX_FCW] |= 0x3f;
    le16_put(v->fx + FX_FSW, le16_get(v->fx + FX_FSW) & 0x7f7f);
    SOFT_NEXT(v, op);
}

static void op_fldenv(struct soft_vcpu *v, const struct soft_op *op)
{
    if (!is_real_format(v)) {
        run_x87(v, op);
        return;
    }
    simd_check(v, op, SIMD_CHECK_X87);
    simd_check_pending(v, op);
    uint8_t image[28];
    uint32_t size = environment_size(op);
    soft_load_unchecked(v, op, soft_linear(v, op, size, false), image, size);
    environment_set(v, size == 28, image);
    SOFT_NEXT(v, op);
}

static void op_fnsave(struct soft_vcpu *v, const struct soft_op *op)
{
    if (!is_real_format(v)) {
        run_x87(v, op);
        return;
    }
    simd_check(v, op, SIMD_CHECK_X87);
    uint8_t image[108];
    uint32_t size = environment_size(op);
    environment_get(v, size == 28, image);
    for (unsigned i = 0; i < 8; i++) {
        memcpy(image + size + i * 10, v->fx + FX_ST0 + i * 16, 10);
    }
    soft_store_unchecked(v, op, soft_linear(v, op, size + 80, true), image, size + 80);
    /* As FNINIT. */
    move_top(v, 0);
    le16_put(v->fx + FX_FCW, 0x37f);
    memset(v->fx + FX_FSW, 0, 24 - FX_FSW);
    v->simd->last = (struct simd_pointers){0};
    SOFT_NEXT(v, op);
}

static void op_frstor(struct soft_vcpu *v, const struct soft_op *op)
{
    if (!is_real_format(v)) {
        run_x87(v, op);
        return;
    }
    simd_check(v, op, SIMD_CHECK_X87);
    simd_check_pending(v, op);
    uint8_t image[108];
    uint32_t size = environment_size(op);
    soft_load_unchecked(v, op, soft_linear(v, op, size + 80, false), image, size + 80);
    environment_set(v, size == 28, image);
    for (unsigned i = 0; i < 8; i++) {
        memcpy(v->fx + FX_ST0 + i * 16, image + size + i * 10, 10);
    }
    SOFT_NEXT(v, op);
}

static soft_op_fn control_handler(const struct x86_insn *insn)
{
    switch (insn->id) {
    case X86_ID_FWAIT:
        return op_fwait;
    case X86_ID_FNSTENV:
        return op_fnstenv;
    case X86_ID_FLDENV:
        return op_fldenv;
    case X86_ID_FNSAVE:
        return op_fnsave;
    case X86_ID_FRSTOR:
        return op_frstor;
    case X86_ID_FNSTSW:
        return insn->has_memory ? NULL : op_fnstsw_ax;
    default:
        return NULL;
    }
}

static bool is_non_waiting(uint16_t id)
{
    switch (id) {
    case X86_ID_FNSTCW:
    case X86_ID_FNSTSW:
    case X86_ID_FNCLEX:
    case X86_ID_FNINIT:
    case X86_ID_FNSTENV:
    case X86_ID_FNSAVE:
    case X86_ID_FNENI:
    case X86_ID_FNDISI:
    case X86_ID_FNSETPM:
        return true;
    default:
        return false;
    }
}

static enum x87_kind kind_of(uint16_t id)
{
    switch (id) {
    case X86_ID_FNINIT:
    case X86_ID_FNSAVE:
        return X87_RESET;
    case X86_ID_FNSTENV:
        return X87_STORE_ENVIRONMENT;
    case X86_ID_FLDENV:
    case X86_ID_FRSTOR:
        return X87_LOAD_ENVIRONMENT;
    case X86_ID_FLDCW:
        return X87_CONTROL;
    default:
        return is_non_waiting(id) ? X87_CONTROL : X87_ORDINARY;
    }
}

bool simd_prepare_x87(struct soft_vcpu *v, const struct x86_insn *insn, struct soft_op *out_op)
{
    if ((x86_rows[insn->row].attributes & X86_ROW_X87) == 0) {
        return false;
    }
    soft_op_fn fn = control_handler(insn);
    out_op->size = insn->operand_bytes == 2 ? 2 : 4;
    if (fn == op_fwait || fn == op_fnstsw_ax) {
        out_op->fn = fn;
        return true;
    }
    struct simd_op *s = simd_prepare_stub(v, insn);
    if (s == NULL) {
        return false;
    }
    uint16_t high = (uint16_t)((insn->opcode & 7) << 8);
    s->is_waiting = !is_non_waiting(insn->id);
    s->x87_kind = kind_of(insn->id);
    s->fop = (uint16_t)(high | insn->modrm);
    out_op->data = s;
    out_op->fn = fn != NULL ? fn : run_x87;
    return true;
}
