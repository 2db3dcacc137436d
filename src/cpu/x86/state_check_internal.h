/* What the two files of x86_state_check share. */
#ifndef CPU_X86_STATE_CHECK_INTERNAL_H
#define CPU_X86_STATE_CHECK_INTERNAL_H

#include "cpu/x86/state_check.h"

/* What follows from a vCPU's CPUID. */
struct check_model {
    bool is_amd;
    unsigned linear_bits, physical_bits;
    uint64_t cr3_lam, cr4, efer, xcr0, xss; /* bits that can be set */
    uint64_t dr6_clear;                     /* bits that are set, but need not be here */
    bool has_x2apic, has_tsc_aux, has_spec_ctrl;
    bool has_apic_id;
    uint32_t apic_id;
};

/* -EINVAL with a text. */
int check_wrong(struct error *err, const char *field, uint64_t value, const char *expected);
/* 0 if 'value' has only bits of 'existing'. */
int check_bits(struct error *err, const char *field, uint64_t value, uint64_t existing);
bool check_is_canonical(const struct check_model *model, uint64_t address);

int check_msrs(const struct check_model *model, const struct x86_state *s, struct error *err);
int check_events(const struct check_model *model, const struct x86_state *s, struct error *err);
int check_lapic(const struct check_model *model, const struct x86_state *s, struct error *err);

#endif
