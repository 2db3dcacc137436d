/* Vector instructions that touch memory element by element: masked moves and gathers. An element that the mask leaves out
 * is not accessed and cannot fault. */
#include "engine/soft/simd.h"

#include "base/core/endian.h"

/* soft_op.data */
struct masked_op {
    uint8_t data, mask, index; /* vector numbers */
    uint8_t element_size, index_size;
    uint8_t count;
    uint8_t vector_size;
    uint8_t check;
};

static bool is_selected(const uint8_t *mask, unsigned element, unsigned size)
{
    return (mask[element * size + size - 1] & 0x80) != 0;
}

/* CPUs of Intel wrap what lies behind the first byte: MASKMOVDQU by the address size, other moves at 4 GiB. */
static uint64_t part_offset(const struct soft_vcpu *v, const struct soft_op *op, unsigned distance,
                            unsigned element_size)
{
    uint64_t offset = soft_offset(v, op) + distance;
    if (!v->vm->is_intel) {
        return offset;
    }
    return element_size == 1            ? soft_mask_offset(op, offset)
           : op->flags & SOFT_OP_LEGACY ? (uint32_t)offset
                                        : offset;
}

static uint64_t element_linear(struct soft_vcpu *v, const struct soft_op *op,
                               const struct masked_op *m, unsigned element, bool is_write)
{
    uint64_t offset = part_offset(v, op, element * m->element_size, m->element_size);
    return soft_linear_at(v, op, op->segment, offset, m->element_size, is_write);
}

/* CPUs of Intel ask for the limits of all elements before they access one. */
static void check_limits(struct soft_vcpu *v, const struct soft_op *op, const struct masked_op *m,
                         bool is_write)
{
    for (unsigned i = 0; i < m->count && v->vm->is_intel; i++) {
        if (is_selected(v->vector[m->mask], i, m->element_size)) {
            (void)element_linear(v, op, m, i, is_write);
        }
    }
}

/* VMASKMOVPS/PD, VPMASKMOVD/Q from memory. */
static void op_masked_load(struct soft_vcpu *v, const struct soft_op *op)
{
    const struct masked_op *m = op->data;
    simd_check(v, op, m->check);
    uint8_t result[32] = {0};
    check_limits(v, op, m, false);
    for (unsigned i = 0; i < m->count; i++) {
        if (is_selected(v->vector[m->mask], i, m->element_size)) {
            soft_load_unchecked(v, op, element_linear(v, op, m, i, false),
                                result + i * m->element_size, m->element_size);
        }
    }
    memcpy(v->vector[m->data], result, sizeof(result));
    SOFT_NEXT(v, op);
}

static void store_selected(struct soft_vcpu *v, const struct soft_op *op, const struct masked_op *m,
                           const uint8_t *data, const uint8_t *mask)
{
    for (unsigned i = 0; i < m->count; i++) {
        if (is_selected(mask, i, m->element_size)) {
            soft_store_unchecked(v, op, element_linear(v, op, m, i, true),
                                 data + i * m->element_size, m->element_size);
        }
    }
}

static void op_masked_store(struct soft_vcpu *v, const struct soft_op *op)
{
    const struct masked_op *m = op->data;
    simd_check(v, op, m->check);
    const uint8_t *mask = v->vector[m->mask];
    check_limits(v, op, m, true);
    for (unsigned i = 0; i < m->count; i++) {
        if (is_selected(mask, i, m->element_size)) {
            /* In two parts, as these stores know no #AC. */
            uint64_t gva = element_linear(v, op, m, i, true);
            soft_check_write(v, op, gva, m->element_size - 1u);
            soft_check_write(v, op, gva + m->element_size - 1, 1);
        }
    }
    store_selected(v, op, m, v->vector[m->data], v->vector[m->mask]);
    SOFT_NEXT(v, op);
}

/* Whether the 8 bytes from 'part' on of a byte-wise masked store can be written, selected or not, as the manuals allow. */
static void check_masked_bytes(struct soft_vcpu *v, const struct soft_op *op, unsigned part)
{
    uint64_t gva = soft_linear_at(v, op, op->segment, part_offset(v, op, part, 1), 8, true);
    simd_check_ac(v, op, gva, 8);
    soft_check_write(v, op, gva, 8);
}

/* MASKMOVDQU and VMASKMOVDQU: two halves, each with its own limit. CPUs of Intel begin with the upper one. */
static void op_masked_bytes(struct soft_vcpu *v, const struct soft_op *op)
{
    const struct masked_op *m = op->data;
    simd_check(v, op, m->check);
    unsigned part = v->vm->is_intel ? 8 : 0;
    check_masked_bytes(v, op, part);
    check_masked_bytes(v, op, 8 - part);
    store_selected(v, op, m, v->vector[m->data], v->vector[m->mask]);
    SOFT_NEXT(v, op);
}

/* The image has the registers by their distance from TOP. */
void simd_clear_top(struct soft_vcpu *v)
{
    uint8_t rotated[128];
    uint16_t status = le16_get(v->fx + 2);
    unsigned top = (status >> 11) & 7;
    for (unsigned i = 0; i < 8; i++) {
        memcpy(rotated + i * 16, v->fx + 32 + ((i - top) & 7) * 16, 16);
    }
    memcpy(v->fx + 32, rotated, sizeof(rotated));
    le16_put(v->fx + 2, (uint16_t)(status & ~0x3800));
}

/* SDM 1 9.5.1 */
void simd_enter_mmx(struct soft_vcpu *v)
{
    simd_clear_top(v);
    v->fx[4] = 0xff;
}

static void op_maskmovq(struct soft_vcpu *v, const struct soft_op *op)
{
    const struct masked_op *m = op->data;
    simd_check(v, op, SIMD_CHECK_MMX);
    simd_check_pending(v, op);
    simd_enter_mmx(v);
    check_masked_bytes(v, op, 0);
    store_selected(v, op, m, v->fx + 32 + m->data * 16, v->fx + 32 + m->mask * 16);
    SOFT_NEXT(v, op);
}

/* CPUs of Intel begin a gather so (SDM 2, VPGATHERDD): elements of the mask become all ones or zero, what is beyond the vectors
 * zero. */
static void begin_gather(const struct masked_op *m, uint8_t *mask)
{
    unsigned size = m->element_size;
    for (unsigned i = 0; i < m->vector_size / size; i++) {
        memset(mask + i * size, is_selected(mask, i, size) ? 0xff : 0, size);
    }
    memset(mask + m->vector_size, 0, 32 - m->vector_size);
}

/* Gathers show their progress when an element faults: what was loaded is in the destination, and the mask is clear up to
 * the element. */
static void op_gather(struct soft_vcpu *v, const struct soft_op *op)
{
    const struct masked_op *m = op->data;
    simd_check(v, op, SIMD_CHECK_VEX);
    uint8_t *data = v->vector[m->data];
    uint8_t *mask = v->vector[m->mask];
    const uint8_t *index = v->vector[m->index];
    uint64_t base = soft_offset(v, op);
    unsigned size = m->element_size;
    if (v->vm->is_intel) {
        begin_gather(m, mask);
    }
    for (unsigned i = 0; i < m->count; i++) {
        if (!is_selected(mask, i, size)) {
            memset(mask + i * size, 0, size);
            continue;
        }
        int64_t step = m->index_size == 8 ? (int64_t)le64_get(index + i * 8)
                                          : (int32_t)le32_get(index + i * 4);
        uint64_t offset = (base + ((uint64_t)step << op->shift)) & soft_address_mask(op);
        uint64_t gva = soft_linear_at(v, op, op->segment, offset, size, false);
        uint8_t value[8];
        soft_load_unchecked(v, op, gva, value, size);
        memcpy(data + i * size, value, size);
        if (v->vm->is_intel) {
            memset(data + m->vector_size, 0, 32 - m->vector_size);
        }
        memset(mask + i * size, 0, size);
    }
    memset(data + m->count * size, 0, 32 - m->count * size);
    memset(mask, 0, 32);
    SOFT_NEXT(v, op);
}

static uint8_t reg_of(const struct x86_insn *insn)
{
    return (uint8_t)(((insn->modrm >> 3) & 7) | ((insn->rex & 4) << 1));
}

static uint8_t rm_of(const struct x86_insn *insn)
{
    return (uint8_t)((insn->modrm & 7) | ((insn->rex & 1) << 3));
}

/* Outside of 64-bit mode the top bit of VEX.vvvv is ignored. */
static uint8_t mask_of(const struct x86_insn *insn)
{
    return insn->code_size == X86_CODE_64 ? insn->vex_vvvv : insn->vex_vvvv & 7;
}

static void prepare_gather(const struct x86_insn *insn, struct masked_op *m, struct soft_op *out_op)
{
    m->data = reg_of(insn);
    m->mask = mask_of(insn);
    m->index = insn->index;
    m->element_size = (insn->rex & 8) != 0 ? 8 : 4;
    m->index_size = (insn->opcode & 1) != 0 ? 8 : 4;
    m->count = (uint8_t)(m->vector_size / MAX(m->element_size, m->index_size));
    out_op->index = SOFT_REG_ZERO;
    out_op->shift = (uint8_t)__builtin_ctz(insn->scale);
    out_op->fn = op_gather;
}

static void prepare_masked_move(const struct x86_insn *insn, struct masked_op *m,
                                struct soft_op *out_op)
{
    m->data = reg_of(insn);
    m->mask = mask_of(insn);
    bool is_pd = insn->id == X86_ID_VMASKMOVPD || insn->id == X86_ID_VPMASKMOVQ;
    m->element_size = is_pd ? 8 : 4;
    m->count = (uint8_t)(m->vector_size / m->element_size);
    bool is_store = insn->opcode == 0x2e || insn->opcode == 0x2f || insn->opcode == 0x8e;
    out_op->fn = is_store ? op_masked_store : op_masked_load;
}

bool simd_prepare_masked(struct soft_vcpu *v, const struct x86_insn *insn, struct soft_op *out_op)
{
    struct masked_op m = {
        .vector_size = insn->vex_l != 0 ? 32 : 16,
        .check = simd_check_of(insn),
    };
    switch (insn->id) {
    case X86_ID_MASKMOVQ:
    case X86_ID_MASKMOVDQU:
    case X86_ID_VMASKMOVDQU:
        m.data = reg_of(insn);
        m.mask = rm_of(insn);
        m.element_size = 1;
        m.count = insn->id == X86_ID_MASKMOVQ ? 8 : 16;
        if (insn->id == X86_ID_MASKMOVQ) {
            m.data &= 7;
            m.mask &= 7;
        }
        out_op->fn = insn->id == X86_ID_MASKMOVQ ? op_maskmovq : op_masked_bytes;
        break;
    case X86_ID_VMASKMOVPS:
    case X86_ID_VMASKMOVPD:
    case X86_ID_VPMASKMOVD:
    case X86_ID_VPMASKMOVQ:
        prepare_masked_move(insn, &m, out_op);
        break;
    default:
        if (!insn->is_vsib) {
            return false;
        }
        prepare_gather(insn, &m, out_op);
        break;
    }
    struct masked_op *kept = soft_block_alloc(v, sizeof(*kept));
    *kept = m;
    out_op->data = kept;
    return true;
}
