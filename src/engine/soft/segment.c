/* Segments of the legacy modes: checks of accesses, descriptors, loads of segment registers (SDM 3A chapters 3 and 5). */
#include "engine/soft/system.h"

#include <string.h>

#include "engine/soft/memory_access.h"
#include "engine/soft/mmu.h"

uint64_t soft_segment_check(struct soft_vcpu *v, const struct soft_op *op, uint8_t segment_id,
                            uint64_t offset, uint32_t size, bool is_write)
{
    const struct x86_segment *segment = &v->segment[segment_id];
    uint8_t vector = segment_id == X86_SS ? X86_SS_FAULT : X86_GP;
    uint16_t attributes = segment->attributes;
    bool is_code = attributes & X86_SEGMENT_CODE;
    if (attributes & X86_SEGMENT_UNUSABLE) {
        soft_raise_error(v, op, vector, 0);
    }
    bool is_protected = soft_is_protected(v) && !soft_is_v86(v);
    if (is_protected) {
        bool is_allowed = is_write  ? !is_code && (attributes & X86_SEGMENT_WRITABLE)
                          : is_code ? attributes & X86_SEGMENT_READABLE
                                    : true;
        if (!is_allowed) {
            soft_raise_error(v, op, vector, 0);
        }
    }
    uint64_t last = offset + size - 1;
    bool fits;
    if (!is_code && (attributes & X86_SEGMENT_DOWN)) {
        uint64_t top = attributes & X86_SEGMENT_DB ? UINT32_MAX : UINT16_MAX;
        fits = offset > segment->limit && last <= top;
    } else {
        fits = last <= segment->limit;
    }
    if (!fits) {
        soft_raise_error(v, op, vector, 0);
    }
    return (uint32_t)(offset + segment->base);
}

bool soft_descriptor_read(struct soft_vcpu *v, uint16_t selector, struct soft_descriptor *out)
{
    uint64_t base = v->gdtr.base;
    uint32_t limit = v->gdtr.limit;
    memset(out, 0, sizeof(*out));
    if (selector & 4) {
        if (v->ldtr.attributes & X86_SEGMENT_UNUSABLE || !(v->ldtr.selector & ~3u)) {
            return false;
        }
        base = v->ldtr.base;
        limit = v->ldtr.limit;
    } else if (!(selector & ~3u)) {
        return false;
    }
    uint32_t offset = selector & ~7u;
    if (offset + 7 > limit) {
        return false;
    }
    out->address = base + offset;
    if (!soft_is_long(v)) {
        out->address = (uint32_t)out->address;
    }
    out->low = soft_system_load_value(v, out->address, 8);
    out->segment = soft_descriptor_segment(out->low, selector);
    return true;
}

bool soft_descriptor_read_high(struct soft_vcpu *v, uint16_t selector, struct soft_descriptor *d)
{
    uint32_t limit = selector & 4 ? v->ldtr.limit : v->gdtr.limit;
    if ((selector & ~7u) + 15 > limit) {
        return false;
    }
    d->high = soft_system_load_value(v, d->address + 8, 8);
    d->segment.base |= d->high << 32;
    return true;
}

void soft_descriptor_set_accessed(struct soft_vcpu *v, struct soft_descriptor *d)
{
    if (!(d->segment.attributes & X86_SEGMENT_ACCESSED)) {
        uint8_t byte = (uint8_t)(d->low >> 40) | X86_SEGMENT_ACCESSED;
        soft_system_store(v, d->address + 5, &byte, 1);
        d->segment.attributes |= X86_SEGMENT_ACCESSED;
        d->low |= (uint64_t)X86_SEGMENT_ACCESSED << 40;
    }
}

void soft_set_null_segment(struct x86_segment *segment, uint16_t selector, unsigned dpl)
{
    segment->selector = selector;
    segment->base = 0;
    segment->limit = 0;
    segment->attributes = (uint16_t)(X86_SEGMENT_UNUSABLE | dpl << 5);
}

void soft_set_real_segment(struct soft_vcpu *v, enum x86_segment_id id, uint16_t selector)
{
    struct x86_segment *segment = &v->segment[id];
    segment->selector = selector;
    segment->base = (uint32_t)selector << 4;
    if (soft_is_v86(v)) {
        segment->limit = 0xffff;
        segment->attributes = X86_SEGMENT_P | X86_SEGMENT_S | X86_SEGMENT_DPL |
                              X86_SEGMENT_WRITABLE | X86_SEGMENT_ACCESSED;
    } else if (id == X86_CS || (segment->attributes & X86_SEGMENT_UNUSABLE)) {
        /* The hidden limit and type of data segments stay ("unreal mode"); CS becomes writable data in effect. */
        bool has_nothing = segment->attributes & X86_SEGMENT_UNUSABLE;
        uint16_t kept = has_nothing ? 0 : segment->attributes & (X86_SEGMENT_DB | X86_SEGMENT_G);
        segment->attributes = X86_SEGMENT_P | X86_SEGMENT_S | X86_SEGMENT_WRITABLE |
                              X86_SEGMENT_ACCESSED | (id == X86_CS ? X86_SEGMENT_CODE : 0) | kept;
        if (has_nothing) {
            segment->limit = 0xffff;
        }
    }
}

void soft_check_stack_segment(struct soft_vcpu *v, uint16_t selector, unsigned cpl, uint8_t vector,
                              uint32_t ext, struct soft_descriptor *out)
{
    uint32_t error = (selector & 0xfffcu) | ext;
    if (!(selector & ~3u) || !soft_descriptor_read(v, selector, out)) {
        soft_raise_error(v, v->op, vector, !(selector & ~3u) ? ext : error);
    }
    bool is_writable_data =
        (out->segment.attributes & (X86_SEGMENT_S | X86_SEGMENT_CODE | X86_SEGMENT_WRITABLE)) ==
        (X86_SEGMENT_S | X86_SEGMENT_WRITABLE);
    if ((selector & 3u) != cpl || soft_descriptor_dpl(out) != cpl || !is_writable_data) {
        soft_raise_error(v, v->op, vector, error);
    }
    if (!soft_descriptor_is_present(out)) {
        soft_raise_error(v, v->op, X86_SS_FAULT, error);
    }
}

static void load_stack_segment(struct soft_vcpu *v, uint16_t selector)
{
    struct soft_descriptor d;
    if (!(selector & ~3u) && soft_is_64(v) && v->cpl != 3 && (selector & 3) == v->cpl) {
        soft_set_null_segment(&v->segment[X86_SS], selector, v->cpl);
        return;
    }
    soft_check_stack_segment(v, selector, v->cpl, X86_GP, 0, &d);
    soft_descriptor_set_accessed(v, &d);
    v->segment[X86_SS] = d.segment;
}

static void load_data_segment(struct soft_vcpu *v, enum x86_segment_id id, uint16_t selector)
{
    struct soft_descriptor d;
    if (!(selector & ~3u)) {
        soft_set_null_segment(&v->segment[id], selector, 0);
        return;
    }
    uint32_t error = selector & 0xfffcu;
    if (!soft_descriptor_read(v, selector, &d) || !(d.segment.attributes & X86_SEGMENT_S)) {
        soft_raise_error(v, v->op, X86_GP, error);
    }
    bool is_code = d.segment.attributes & X86_SEGMENT_CODE;
    if (is_code && !(d.segment.attributes & X86_SEGMENT_READABLE)) {
        soft_raise_error(v, v->op, X86_GP, error);
    }
    bool is_conforming = is_code && (d.segment.attributes & X86_SEGMENT_CONFORM);
    unsigned privilege = MAX((unsigned)v->cpl, selector & 3u);
    if (!is_conforming && privilege > soft_descriptor_dpl(&d)) {
        soft_raise_error(v, v->op, X86_GP, error);
    }
    if (!soft_descriptor_is_present(&d)) {
        soft_raise_error(v, v->op, X86_NP, error);
    }
    soft_descriptor_set_accessed(v, &d);
    v->segment[id] = d.segment;
}

void soft_load_segment(struct soft_vcpu *v, const struct soft_op *op, enum x86_segment_id id,
                       uint16_t selector)
{
    v->op = op;
    if (!soft_is_protected(v) || soft_is_v86(v)) {
        soft_set_real_segment(v, id, selector);
    } else if (id == X86_SS) {
        load_stack_segment(v, selector);
    } else {
        load_data_segment(v, id, selector);
    }
    soft_update_mode(v);
}

void soft_drop_inner_segments(struct soft_vcpu *v)
{
    static const enum x86_segment_id ids[] = {X86_ES, X86_DS, X86_FS, X86_GS};
    for (size_t i = 0; i < ARRAY_COUNT(ids); i++) {
        struct x86_segment *segment = &v->segment[ids[i]];
        uint16_t attributes = segment->attributes;
        bool is_conforming = (attributes & (X86_SEGMENT_CODE | X86_SEGMENT_CONFORM)) ==
                             (X86_SEGMENT_CODE | X86_SEGMENT_CONFORM);
        if (!(attributes & X86_SEGMENT_UNUSABLE) && !is_conforming &&
            (attributes & X86_SEGMENT_DPL) >> 5 < v->cpl) {
            soft_set_null_segment(segment, 0, 0);
        }
    }
}
