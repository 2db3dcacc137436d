/* String instructions. Each element is one step with its own faults and the registers updated behind it, so that a repeated
 * instruction can be interrupted and goes on where it was. Runs of MOVS and STOS within a page are done at once. */
#include <string.h>

#include "engine/soft/block.h"
#include "engine/soft/interpret/alu.h"
#include "engine/soft/interpret/operand.h"
#include "engine/soft/system.h"

/* Elements between two looks at the requests. */
#define ELEMENTS_AT_ONCE 4096u

/* op->src: element size; op->dst: address size; op->variant: STRING_REP_* */
#define STRING_REP   1u
#define STRING_REPNE 2u

static always_inline uint32_t element_size(const struct soft_op *op)
{
    return op->src;
}

static always_inline int64_t stride(const struct soft_vcpu *v, const struct soft_op *op)
{
    return v->flags & X86_FLAG_DF ? -(int64_t)op->src : op->src;
}

static always_inline void advance(struct soft_vcpu *v, const struct soft_op *op, unsigned reg,
                                  int64_t by)
{
    soft_put_sized(v, (uint8_t)(reg * 8), op->dst, v->gpr[reg] + (uint64_t)by);
}

static always_inline uint64_t source(struct soft_vcpu *v, const struct soft_op *op)
{
    return soft_linear_at(v, op, op->segment, v->gpr[X86_RSI] & soft_address_mask(op), op->src,
                          false);
}

static always_inline uint64_t destination(struct soft_vcpu *v, const struct soft_op *op,
                                          bool is_write)
{
    return soft_linear_at(v, op, X86_ES, v->gpr[X86_RDI] & soft_address_mask(op), op->src,
                          is_write);
}

static void step_movs(struct soft_vcpu *v, const struct soft_op *op)
{
    uint32_t size = element_size(op);
    uint64_t value = soft_load_sized(v, op, source(v, op), size);
    soft_store_sized(v, op, destination(v, op, true), size, value);
    advance(v, op, X86_RSI, stride(v, op));
    advance(v, op, X86_RDI, stride(v, op));
}

static void step_stos(struct soft_vcpu *v, const struct soft_op *op)
{
    soft_store_sized(v, op, destination(v, op, true), element_size(op), v->gpr[X86_RAX]);
    advance(v, op, X86_RDI, stride(v, op));
}

static void step_lods(struct soft_vcpu *v, const struct soft_op *op)
{
    uint64_t value = soft_load_sized(v, op, source(v, op), element_size(op));
    soft_put_sized(v, X86_RAX * 8, element_size(op), value);
    advance(v, op, X86_RSI, stride(v, op));
}

static void compare(struct soft_vcpu *v, uint32_t size, uint64_t a, uint64_t b)
{
    switch (size) {
    case 1:
        alu_cmp8((uint8_t)a, (uint8_t)b, &v->status);
        break;
    case 2:
        alu_cmp16((uint16_t)a, (uint16_t)b, &v->status);
        break;
    case 4:
        alu_cmp32((uint32_t)a, (uint32_t)b, &v->status);
        break;
    default:
        alu_cmp64(a, b, &v->status);
        break;
    }
}

static void step_cmps(struct soft_vcpu *v, const struct soft_op *op)
{
    uint32_t size = element_size(op);
    uint64_t a = soft_load_sized(v, op, source(v, op), size);
    uint64_t b = soft_load_sized(v, op, destination(v, op, false), size);
    compare(v, size, a, b);
    advance(v, op, X86_RSI, stride(v, op));
    advance(v, op, X86_RDI, stride(v, op));
}

static void step_scas(struct soft_vcpu *v, const struct soft_op *op)
{
    uint64_t b = soft_load_sized(v, op, destination(v, op, false), element_size(op));
    compare(v, element_size(op), v->gpr[X86_RAX], b);
    advance(v, op, X86_RDI, stride(v, op));
}

static void step_ins(struct soft_vcpu *v, const struct soft_op *op)
{
    uint16_t port = (uint16_t)v->gpr[X86_RDX];
    uint64_t gva = destination(v, op, true);
    soft_check_io(v, op, port, element_size(op));
    soft_check_change(v, op, gva, element_size(op));
    soft_store_sized(v, op, gva, element_size(op), soft_port_read(v, port, element_size(op)));
    advance(v, op, X86_RDI, stride(v, op));
}

static void step_outs(struct soft_vcpu *v, const struct soft_op *op)
{
    uint16_t port = (uint16_t)v->gpr[X86_RDX];
    soft_check_io(v, op, port, element_size(op));
    uint64_t value = soft_load_sized(v, op, source(v, op), element_size(op));
    soft_port_write(v, port, element_size(op), (uint32_t)value);
    advance(v, op, X86_RSI, stride(v, op));
}

/* Bytes from 'gva' to the end of its page. */
static uint64_t page_rest(uint64_t gva)
{
    return GUEST_PAGE_SIZE - (gva & (GUEST_PAGE_SIZE - 1));
}

/* Is the run of 'bytes' upwards free of a wrap of the offset and of the segment's limit? */
static bool is_plain_run(const struct soft_vcpu *v, const struct soft_op *op, unsigned reg,
                         uint8_t segment, bool is_write, uint64_t bytes)
{
    uint64_t offset = v->gpr[reg] & soft_address_mask(op);
    if (bytes - 1 > soft_address_mask(op) - offset) {
        return false;
    }
    uint8_t flat = is_write ? v->flat_write : v->flat_read;
    return !(op->flags & SOFT_OP_LEGACY) || ((flat >> segment) & 1);
}

/* Moves as many elements as both pages hold; 0: take the slow way. */
static uint64_t run_movs(struct soft_vcpu *v, const struct soft_op *op, uint64_t count)
{
    uint32_t size = element_size(op);
    /* Where the addresses could fault, the step finds out in the right order. */
    if ((v->flags & X86_FLAG_DF) || !is_plain_run(v, op, X86_RSI, op->segment, false, size) ||
        !is_plain_run(v, op, X86_RDI, X86_ES, true, size)) {
        return 0;
    }
    uint64_t from = source(v, op), to = destination(v, op, true);
    uint64_t bytes = MIN(page_rest(from), page_rest(to));
    bytes = MIN(bytes / size, count) * size;
    if (bytes < 2 * size || !is_plain_run(v, op, X86_RSI, op->segment, false, bytes) ||
        !is_plain_run(v, op, X86_RDI, X86_ES, true, bytes)) {
        return 0;
    }
    const uint8_t *in = soft_fast_read(v, from, size);
    uint8_t *out = soft_fast_write(v, to, size);
    if (!in || !out) {
        return 0;
    }
    if (out > in && out < in + bytes) {
        /* The copy feeds on itself, element by element. */
        for (uint64_t i = 0; i < bytes; i += size) {
            memmove(out + i, in + i, size);
        }
    } else {
        memmove(out, in, bytes);
    }
    advance(v, op, X86_RSI, (int64_t)bytes);
    advance(v, op, X86_RDI, (int64_t)bytes);
    return bytes / size;
}

static uint64_t run_stos(struct soft_vcpu *v, const struct soft_op *op, uint64_t count)
{
    uint32_t size = element_size(op);
    if (v->flags & X86_FLAG_DF) {
        return 0;
    }
    uint64_t to = destination(v, op, true);
    uint64_t bytes = MIN(page_rest(to) / size, count) * size;
    if (bytes < 2 * size || !is_plain_run(v, op, X86_RDI, X86_ES, true, bytes)) {
        return 0;
    }
    uint8_t *out = soft_fast_write(v, to, size);
    if (!out) {
        return 0;
    }
    uint64_t value = v->gpr[X86_RAX];
    if (size == 1 || value == 0) {
        memset(out, (uint8_t)value, bytes);
    } else {
        for (uint64_t i = 0; i < bytes; i += size) {
            memcpy(out + i, &value, size);
        }
    }
    advance(v, op, X86_RDI, (int64_t)bytes);
    return bytes / size;
}

typedef void (*step_fn)(struct soft_vcpu *v, const struct soft_op *op);
typedef uint64_t (*run_fn)(struct soft_vcpu *v, const struct soft_op *op, uint64_t count);

/* Repeats 'step'; 'has_condition': CMPS and SCAS, which also end by ZF. */
static always_inline void repeat(struct soft_vcpu *v, const struct soft_op *op, step_fn step,
                                 run_fn run, bool has_condition, bool is_port)
{
    uint8_t kind = op->variant;
    v->op = op;
    if (step == step_ins || step == step_outs) {
        soft_check_io(v, op, (uint16_t)v->gpr[X86_RDX], element_size(op)); /* even for none */
    }
    if (!kind) {
        step(v, op);
        SOFT_NEXT(v, op);
    }
    uint64_t count = v->gpr[X86_RCX] & soft_address_mask(op);
    bool is_over = count == 0;
    if (is_over && is_port) {
        /* The right to the port is asked for even so. */
        soft_check_io(v, op, (uint16_t)v->gpr[X86_RDX], element_size(op));
    }
    for (uint32_t i = 0; !is_over; i++) {
        /* Somebody who looks at each step sees each element. */
        uint64_t done = run && !v->is_stepping ? run(v, op, count) : 0;
        if (!done) {
            step(v, op);
            done = 1;
        } else {
            i += ELEMENTS_AT_ONCE / 16;
        }
        count -= done;
        soft_put_sized(v, X86_RCX * 8, op->dst, count);
        bool is_equal = v->status & SOFT_STATUS_ZF;
        is_over = count == 0 || (has_condition && is_equal == (kind == STRING_REPNE));
        if (!is_over &&
            (i >= ELEMENTS_AT_ONCE || atomic_load_explicit(&v->requests, memory_order_relaxed))) {
            v->rip = soft_op_rip(v, op);
            v->stats.instructions--;
            return;
        }
    }
    SOFT_NEXT(v, op);
}

#define STRING(name, run, has_condition, is_port)                                                  \
    static void name(struct soft_vcpu *v, const struct soft_op *op)                                \
    {                                                                                              \
        repeat(v, op, step_##name, run, has_condition, is_port);                                   \
    }

STRING(movs, run_movs, false, false)
STRING(stos, run_stos, false, false)
STRING(lods, NULL, false, false)
STRING(cmps, NULL, true, false)
STRING(scas, NULL, true, false)
STRING(ins, NULL, false, true)
STRING(outs, NULL, false, true)

bool soft_string_prepare(struct soft_vcpu *v, const struct x86_insn *insn, struct soft_op *out_op)
{
    static const struct {
        uint16_t id;
        soft_op_fn fn;
    } handlers[] = {
        {X86_ID_MOVS, movs}, {X86_ID_STOS, stos}, {X86_ID_LODS, lods}, {X86_ID_CMPS, cmps},
        {X86_ID_SCAS, scas}, {X86_ID_INS, ins},   {X86_ID_OUTS, outs},
    };
    for (size_t i = 0; i < ARRAY_COUNT(handlers); i++) {
        if (handlers[i].id != insn->id) {
            continue;
        }
        for (unsigned n = 0; n < insn->operand_count; n++) {
            if (insn->operand[n].kind == X86_OPERAND_MEM) {
                out_op->src = (uint8_t)insn->operand[n].size_bytes;
            }
        }
        out_op->dst = insn->address_bytes;
        out_op->variant = (uint8_t)(insn->prefixes & X86_PREFIX_REPNE ? STRING_REPNE
                                    : insn->prefixes & X86_PREFIX_REP ? STRING_REP
                                                                      : 0);
        out_op->fn = handlers[i].fn;
        return true;
    }
    return false;
}
