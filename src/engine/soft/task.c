/* The TSS: stacks of inner levels, the I/O bitmap, and the task switches of the 32-bit architecture (SDM 3A chapter 7). */
#include <string.h>

#include "engine/soft/mmu.h"
#include "engine/soft/system.h"

#define TYPE_BUSY 2u
#define TYPE_32   8u

#define TSS_IO_BASE      0x66
#define TSS_LONG_RSP0    4
#define TSS_LONG_IST1    36
#define TSS_16_MIN_LIMIT 0x2b
#define TSS_32_MIN_LIMIT 0x67

static uint64_t tss_load(struct soft_vcpu *v, uint32_t offset, uint32_t size)
{
    uint64_t at = v->tr.base + offset;
    return soft_system_load_value(v, soft_is_long(v) ? at : (uint32_t)at, size);
}

void soft_task_stack(struct soft_vcpu *v, unsigned cpl, uint32_t ext, uint16_t *out_ss,
                     uint32_t *out_esp)
{
    bool is_32 = v->tr.attributes & TYPE_32;
    uint32_t offset = is_32 ? cpl * 8 + 4 : cpl * 4 + 2;
    uint32_t size = is_32 ? 4 : 2;
    if (offset + size + 1 > v->tr.limit) {
        soft_raise_error(v, v->op, X86_TS, (v->tr.selector & 0xfffcu) | ext);
    }
    *out_esp = (uint32_t)tss_load(v, offset, size);
    *out_ss = (uint16_t)tss_load(v, offset + size, 2);
}

uint64_t soft_task_stack_long(struct soft_vcpu *v, unsigned index, uint32_t ext)
{
    uint32_t offset = index < 3 ? TSS_LONG_RSP0 + index * 8 : TSS_LONG_IST1 + (index - 3) * 8;
    if (offset + 7 > v->tr.limit) {
        soft_raise_error(v, v->op, X86_TS, (v->tr.selector & 0xfffcu) | ext);
    }
    return tss_load(v, offset, 8);
}

bool soft_task_allows_io(struct soft_vcpu *v, uint16_t port, uint32_t size)
{
    if (!(v->tr.attributes & TYPE_32) || v->tr.limit < TSS_32_MIN_LIMIT) {
        return false;
    }
    uint32_t at = (uint32_t)tss_load(v, TSS_IO_BASE, 2) + port / 8;
    if (at + 1 > v->tr.limit) {
        return false;
    }
    uint32_t bits = (uint32_t)tss_load(v, at, 2) >> (port & 7);
    return !(bits & ((1u << size) - 1));
}

/* Offsets within the 32- and the 16-bit TSS. */
struct tss_layout {
    uint32_t word, cr3, eip, eflags, gpr, segments, segment_count, segment_step, ldtr, min_limit;
};
static const struct tss_layout layout_32 = {4, 28, 32, 36, 40, 72, 6, 4, 96, TSS_32_MIN_LIMIT};
static const struct tss_layout layout_16 = {2, 0, 14, 16, 18, 34, 4, 2, 42, TSS_16_MIN_LIMIT};

static void tss_store(struct soft_vcpu *v, uint64_t base, uint32_t offset, uint32_t size,
                      uint64_t value)
{
    soft_system_store(v, (uint32_t)(base + offset), &value, size);
}

static void save_task(struct soft_vcpu *v, uint32_t flags, uint64_t return_rip)
{
    const struct tss_layout *l = v->tr.attributes & TYPE_32 ? &layout_32 : &layout_16;
    uint64_t base = v->tr.base;
    soft_system_check_write(v, (uint32_t)base, l->min_limit);
    tss_store(v, base, l->eip, l->word, return_rip);
    tss_store(v, base, l->eflags, l->word, flags);
    for (uint32_t i = 0; i < 8; i++) {
        tss_store(v, base, l->gpr + i * l->word, l->word, v->gpr[i]);
    }
    for (uint32_t i = 0; i < l->segment_count; i++) {
        tss_store(v, base, l->segments + i * l->segment_step, 2, v->segment[i].selector);
    }
}

static void set_busy(struct soft_vcpu *v, const struct soft_descriptor *d, bool is_busy)
{
    uint8_t byte = (uint8_t)soft_system_load_value(v, d->address + 5, 1);
    byte = is_busy ? byte | TYPE_BUSY : (uint8_t)(byte & ~TYPE_BUSY);
    soft_system_store(v, d->address + 5, &byte, 1);
}

static void load_new_ldt(struct soft_vcpu *v, uint16_t selector)
{
    struct soft_descriptor d;
    soft_set_null_segment(&v->ldtr, selector, 0);
    if (!(selector & ~3u)) {
        return;
    }
    if ((selector & 4) || !soft_descriptor_read(v, selector, &d) ||
        (d.segment.attributes & (X86_SEGMENT_S | X86_SEGMENT_TYPE)) != 2 ||
        !soft_descriptor_is_present(&d)) {
        soft_raise_error(v, NULL, X86_TS, selector & 0xfffcu);
    }
    v->ldtr = d.segment;
}

static void load_new_cs(struct soft_vcpu *v, uint16_t selector)
{
    struct soft_descriptor d;
    uint32_t error = selector & 0xfffcu;
    unsigned rpl = selector & 3u;
    if (!soft_descriptor_read(v, selector, &d) || !soft_descriptor_is_code(&d)) {
        soft_raise_error(v, NULL, X86_TS, error);
    }
    unsigned dpl = soft_descriptor_dpl(&d);
    if (d.segment.attributes & X86_SEGMENT_CONFORM ? dpl > rpl : dpl != rpl) {
        soft_raise_error(v, NULL, X86_TS, error);
    }
    if (!soft_descriptor_is_present(&d)) {
        soft_raise_error(v, NULL, X86_NP, error);
    }
    soft_descriptor_set_accessed(v, &d);
    v->segment[X86_CS] = d.segment;
    v->cpl = (uint8_t)rpl;
}

/* The new task's segments; faults here belong to the new task. */
static void load_new_segments(struct soft_vcpu *v, const uint16_t selector[X86_SEGMENT_COUNT])
{
    static const enum x86_segment_id data[] = {X86_ES, X86_DS, X86_FS, X86_GS};
    struct soft_descriptor d;
    if (v->flags & X86_FLAG_VM) {
        v->cpl = 3;
        for (int i = 0; i < X86_SEGMENT_COUNT; i++) {
            soft_set_real_segment(v, i, selector[i]);
        }
        return;
    }
    load_new_cs(v, selector[X86_CS]);
    soft_check_stack_segment(v, selector[X86_SS], v->cpl, X86_TS, 0, &d);
    soft_descriptor_set_accessed(v, &d);
    v->segment[X86_SS] = d.segment;
    for (size_t i = 0; i < ARRAY_COUNT(data); i++) {
        soft_load_segment(v, NULL, data[i], selector[data[i]]);
    }
}

void soft_task_switch(struct soft_vcpu *v, uint16_t selector, struct soft_descriptor *d,
                      enum soft_task_reason reason, uint64_t return_rip, bool has_error,
                      uint32_t error)
{
    unsigned type = soft_descriptor_type(d);
    bool is_busy = type & TYPE_BUSY;
    bool is_tss = !(d->segment.attributes & X86_SEGMENT_S) && (type & 5) == 1;
    const struct tss_layout *l = type & TYPE_32 ? &layout_32 : &layout_16;
    uint8_t wrong = reason == SOFT_TASK_IRET ? X86_TS : X86_GP;
    if (!is_tss || is_busy != (reason == SOFT_TASK_IRET)) {
        soft_raise_error(v, v->op, wrong, selector & 0xfffcu);
    }
    if (!soft_descriptor_is_present(d)) {
        soft_raise_error(v, v->op, X86_NP, selector & 0xfffcu);
    }
    if (d->segment.limit < l->min_limit) {
        soft_raise_error(v, v->op, X86_TS, selector & 0xfffcu);
    }
    uint8_t tss[TSS_32_MIN_LIMIT + 1] = {0};
    soft_system_load(v, d->segment.base, tss, l->min_limit + 1);
    uint32_t flags = soft_rflags(v);
    if (reason == SOFT_TASK_IRET) {
        flags &= ~X86_FLAG_NT;
    }
    save_task(v, flags, return_rip);
    if (reason != SOFT_TASK_CALL) {
        struct soft_descriptor old;
        if (soft_descriptor_read(v, v->tr.selector, &old)) {
            set_busy(v, &old, false);
        }
    }
    if (reason == SOFT_TASK_CALL) {
        soft_system_store(v, d->segment.base, &v->tr.selector, 2);
    }
    if (reason != SOFT_TASK_IRET) {
        set_busy(v, d, true);
    }
    uint32_t word[8] = {0}, eip = 0, new_flags = 0, cr3 = 0;
    uint16_t segment[X86_SEGMENT_COUNT] = {0}, ldt;
    memcpy(&eip, tss + l->eip, l->word);
    memcpy(&new_flags, tss + l->eflags, l->word);
    memcpy(&ldt, tss + l->ldtr, 2);
    for (uint32_t i = 0; i < 8; i++) {
        memcpy(&word[i], tss + l->gpr + i * l->word, l->word);
    }
    for (uint32_t i = 0; i < l->segment_count; i++) {
        memcpy(&segment[i], tss + l->segments + i * l->segment_step, 2);
    }
    v->tr = d->segment;
    v->tr.attributes |= TYPE_BUSY;
    v->cr0 |= X86_CR0_TS;
    if (type & TYPE_32 && (v->cr0 & X86_CR0_PG)) {
        memcpy(&cr3, tss + l->cr3, 4);
        (void)soft_set_cr3(v, cr3);
    }
    v->op = NULL;
    v->rip = eip;
    for (int i = 0; i < 8; i++) {
        v->gpr[i] = word[i];
    }
    if (reason == SOFT_TASK_CALL) {
        new_flags |= X86_FLAG_NT;
    }
    soft_set_flags(v, new_flags, UINT32_MAX);
    for (int i = 0; i < X86_SEGMENT_COUNT; i++) {
        soft_set_null_segment(&v->segment[i], segment[i], 0);
    }
    load_new_ldt(v, ldt);
    load_new_segments(v, segment);
    soft_update_mode(v);
    if (v->rip > v->segment[X86_CS].limit) {
        soft_raise_error(v, NULL, X86_GP, 0);
    }
    if (has_error) {
        uint32_t size = type & TYPE_32 ? 4 : 2;
        uint32_t sp = (uint32_t)v->gpr[X86_RSP] - size;
        soft_system_store(v, (uint32_t)(v->segment[X86_SS].base + sp), &error, size);
        v->gpr[X86_RSP] = sp;
    }
}
