/* String instructions. Each element is one step with its own faults and the registers updated behind it, so that a repeated
 * instruction can be interrupted and goes on where it was. Runs within a page are done at once. */
#include <string.h>

#include "engine/soft/block.h"
#include "engine/soft/interpret/alu.h"
#include "engine/soft/interpret/operand.h"
#include "engine/soft/mmu.h"
#include "engine/soft/string_run.h"
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
    uint64_t a, b;
    if (v->vm->is_intel) {
        b = soft_load_sized(v, op, destination(v, op, false), size);
        a = soft_load_sized(v, op, source(v, op), size);
    } else {
        a = soft_load_sized(v, op, source(v, op), size);
        b = soft_load_sized(v, op, destination(v, op, false), size);
    }
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

/* How many elements there are before the offset wraps; none, if the segment's limit is to be asked. */
static uint64_t plain_elements(const struct soft_vcpu *v, const struct soft_op *op, unsigned reg,
                               uint8_t segment, bool is_write)
{
    uint8_t flat = is_write ? v->flat_write : v->flat_read;
    if ((op->flags & SOFT_OP_LEGACY) && !((flat >> segment) & 1)) {
        return 0;
    }
    uint64_t mask = soft_address_mask(op), offset = v->gpr[reg] & mask;
    uint32_t size = element_size(op);
    if (size - 1 > mask - offset) {
        return 0;
    }
    return v->flags & X86_FLAG_DF ? offset / size + 1 : (mask - offset - (size - 1)) / size + 1;
}

/* A run that writes to a page with code, in one go: element by element, a page that is cleared for another use would cost
 * thousands of looks at what code it ends. */
static uint64_t run_into_code(struct soft_vcpu *v, const struct soft_string *s, uint64_t from,
                              uint64_t to, uint64_t count)
{
    struct soft_page page;
    if (s->is_down || v->align_check || GUEST_PAGE_SIZE - to % GUEST_PAGE_SIZE < s->size_bytes ||
        !soft_map_code_page(v, to, &page)) {
        return 0;
    }
    uint64_t done = soft_string_run_at(v, s, from, to, page.hva, count);
    if (done) {
        soft_written(v, &page, (uint32_t)done * s->size_bytes);
    }
    return done;
}

/* Does as many elements as the pages hold; 0: take the slow way. Where the addresses could fault, the step finds out in the
 * right order. */
static always_inline uint64_t run_string(struct soft_vcpu *v, const struct soft_op *op,
                                         enum soft_string_kind kind, uint64_t count)
{
    uint32_t size = element_size(op);
    struct soft_string s = {
        .kind = (uint8_t)kind,
        .size_bytes = (uint8_t)size,
        .is_down = v->flags & X86_FLAG_DF,
        .is_repne = op->variant == STRING_REPNE,
    };
    bool has_source = kind == SOFT_STRING_MOVS || kind == SOFT_STRING_CMPS;
    bool writes = kind == SOFT_STRING_MOVS || kind == SOFT_STRING_STOS;
    if (has_source) {
        count = MIN(count, plain_elements(v, op, X86_RSI, op->segment, false));
    }
    count = MIN(count, plain_elements(v, op, X86_RDI, X86_ES, writes));
    if (!count) {
        return 0;
    }
    uint64_t from = has_source ? source(v, op) : 0;
    uint64_t to = destination(v, op, writes);
    uint64_t done = soft_string_run(v, &s, from, to, count);
    if (!done && writes) {
        done = run_into_code(v, &s, from, to, count);
    }
    if (!done) {
        return 0; /* not even the upper halves of registers change */
    }
    int64_t bytes = (int64_t)done * stride(v, op);
    if (has_source) {
        advance(v, op, X86_RSI, bytes);
    }
    advance(v, op, X86_RDI, bytes);
    return done;
}

#define RUN(name, kind)                                                                            \
    static uint64_t run_##name(struct soft_vcpu *v, const struct soft_op *op, uint64_t count)      \
    {                                                                                              \
        return run_string(v, op, kind, count);                                                     \
    }

RUN(movs, SOFT_STRING_MOVS)
RUN(stos, SOFT_STRING_STOS)
RUN(cmps, SOFT_STRING_CMPS)
RUN(scas, SOFT_STRING_SCAS)

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
    /* CPUs of Intel change the flags at the end alone (SDM 2, REP). */
    bool shows_old_flags = has_condition && v->vm->is_intel;
    uint16_t status = v->status;
    bool is_over = count == 0;
    if (is_over && is_port) {
        /* The right to the port is asked for even so. */
        soft_check_io(v, op, (uint16_t)v->gpr[X86_RDX], element_size(op));
    }
    for (uint32_t i = 0; !is_over; i++) {
        /* Somebody who looks at each step sees each element. */
        uint64_t done = run && !v->is_stepping ? run(v, op, count) : 0;
        if (!done) {
            if (shows_old_flags) {
                v->status = status; /* this element may fault */
            }
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
            if (shows_old_flags) {
                v->status = status;
            }
            if (v->is_stepping && v->vm->is_intel) {
                v->flags |= X86_FLAG_RF; /* as a trap here pushes it (SDM 3 17.3.1.1) */
            }
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
STRING(cmps, run_cmps, true, false)
STRING(scas, run_scas, true, false)
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
