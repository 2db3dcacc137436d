/* The second half of x86_state_check: model-specific registers, events between instructions, the local APIC. Which values the
 * paravirtual MSRs take: Linux Documentation/virt/kvm/x86/msr.rst. */
#include <stdio.h>

#include "base/core/bits.h"
#include "base/core/endian.h"
#include "cpu/x86/state_check_internal.h"

#define SPEC_CTRL_EXISTING (BITS(8, 0) | BIT(10))
#define MTRR_DEF_TYPE_BITS 0xcffu
#define MCG_CAP_EXISTING   (BITS(10, 0) | BITS(23, 16) | BIT(24) | BIT(26) | BIT(27))
#define MCG_BANKS_MAX      32

/* Memory types of MTRRs: UC, WC, WT, WP, WB; the PAT has UC- as well. */
#define MTRR_TYPES 0x73u
#define PAT_TYPES  0xf3u

/* The APIC's registers, as offsets in its page (SDM 3A table 10-1), and their bits. */
#define LAPIC_ID      0x20
#define LAPIC_VERSION 0x30
#define LAPIC_TPR     0x80
#define LAPIC_LDR     0xd0
#define LAPIC_SVR     0xf0
#define LAPIC_DIVIDE  0x3e0

static bool has_types(uint64_t value, uint32_t allowed)
{
    for (unsigned i = 0; i < 64; i += 8) {
        unsigned type = FIELD(value, i + 7, i);
        if (type > 7 || (allowed >> type & 1) == 0) {
            return false;
        }
    }
    return true;
}

static int check_mtrrs(const struct check_model *model, const struct x86_state *s,
                       struct error *err)
{
    static const char types[] = "types of memory 0, 1, 4, 5, 6";
    char field[24];
    uint64_t address = BITS(model->physical_bits - 1, 12);
    if ((MTRR_TYPES >> (s->mtrr_def_type & 7) & 1) == 0) {
        return check_wrong(err, "mtrr_def_type", s->mtrr_def_type, types);
    }
    int rc = check_bits(err, "mtrr_def_type", s->mtrr_def_type, 0xc07);
    for (unsigned i = 0; rc == 0 && i < ARRAY_COUNT(s->mtrr_fixed); i++) {
        (void)snprintf(field, sizeof(field), "mtrr_fixed[%u]", i); /* fits, as below */
        rc = has_types(s->mtrr_fixed[i], MTRR_TYPES)
                 ? 0
                 : check_wrong(err, field, s->mtrr_fixed[i], types);
    }
    for (unsigned i = 0; rc == 0 && i < ARRAY_COUNT(s->mtrr_base); i++) {
        (void)snprintf(field, sizeof(field), "mtrr_base[%u]", i);
        rc = check_bits(err, field, s->mtrr_base[i], address | 7);
        if (rc == 0 && (MTRR_TYPES >> (s->mtrr_base[i] & 7) & 1) == 0) {
            rc = check_wrong(err, field, s->mtrr_base[i], types);
        }
        if (rc == 0) {
            (void)snprintf(field, sizeof(field), "mtrr_mask[%u]", i);
            rc = check_bits(err, field, s->mtrr_mask[i], address | BIT(11));
        }
    }
    return rc;
}

int check_msrs(const struct check_model *model, const struct x86_state *s, struct error *err)
{
    const struct {
        const char *name;
        uint64_t value;
    } addresses[] = {
        {"lstar", s->lstar},
        {"cstar", s->cstar},
        {"kernel_gs_base", s->kernel_gs_base},
        {"sysenter_esp", s->sysenter_esp},
        {"sysenter_eip", s->sysenter_eip},
    };
    const uint64_t apic_base = BITS(model->physical_bits - 1, 12) | X86_APIC_BASE_BSP |
                               X86_APIC_BASE_ENABLE |
                               (model->has_x2apic ? X86_APIC_BASE_X2APIC : 0);
    /* AMD's SYSENTER_CS takes any value and uses 16 bits of it. */
    const struct {
        const char *name;
        uint64_t value, existing;
    } bits[] = {
        {"sfmask", s->sfmask, UINT32_MAX},
        {"sysenter_cs", s->sysenter_cs, model->is_amd ? UINT64_MAX : UINT32_MAX},
        {"tsc_aux", s->tsc_aux, model->has_tsc_aux ? UINT32_MAX : 0},
        {"apic_base", s->apic_base, apic_base},
        {"spec_ctrl", s->spec_ctrl, model->has_spec_ctrl ? SPEC_CTRL_EXISTING : 0},
        {"xss", s->xss, model->xss},
        {"mcg_cap", s->mcg_cap, MCG_CAP_EXISTING},
        {"kvm_steal_time", s->kvm_steal_time, ~(uint64_t)0x3e},
        {"kvm_async_pf", s->kvm_async_pf, ~(uint64_t)0x30},
        {"kvm_async_pf_int", s->kvm_async_pf_int, 0xff},
        {"kvm_pv_eoi", s->kvm_pv_eoi, ~(uint64_t)2},
        {"kvm_poll_control", s->kvm_poll_control, 1},
    };
    for (size_t i = 0; i < ARRAY_COUNT(addresses); i++) {
        if (!check_is_canonical(model, addresses[i].value)) {
            return check_wrong(err, addresses[i].name, addresses[i].value, "a canonical address");
        }
    }
    for (size_t i = 0; i < ARRAY_COUNT(bits); i++) {
        int rc = check_bits(err, bits[i].name, bits[i].value, bits[i].existing);
        if (rc < 0) {
            return rc;
        }
    }
    if ((s->apic_base & (X86_APIC_BASE_ENABLE | X86_APIC_BASE_X2APIC)) == X86_APIC_BASE_X2APIC) {
        return check_wrong(err, "apic_base", s->apic_base, "x2APIC mode only with the APIC on");
    }
    if ((s->mcg_cap & 0xff) > MCG_BANKS_MAX) {
        return check_wrong(err, "mcg_cap", s->mcg_cap, "at most 32 banks");
    }
    if (!has_types(s->pat, PAT_TYPES)) {
        return check_wrong(err, "pat", s->pat, "types of memory 0, 1, 4 to 7");
    }
    return check_mtrrs(model, s, err);
}

/* Does the exception push an error code, in protected mode? */
static bool pushes_error(uint8_t vector)
{
    return vector == X86_DF || (vector >= X86_TS && vector <= X86_PF) || vector == X86_AC;
}

/* Control protection, and AMD's VMM communication and security exceptions: not everywhere. */
static bool may_push_error(uint8_t vector)
{
    return vector == 21 || vector == 29 || vector == 30;
}

int check_events(const struct check_model *model, const struct x86_state *s, struct error *err)
{
    (void)model;
    if ((unsigned)s->activity > X86_ACTIVITY_SHUTDOWN) {
        return check_wrong(err, "activity", (unsigned)s->activity, "0 to 4");
    }
    if (s->activity == X86_ACTIVITY_HALTED &&
        (s->segment[X86_SS].attributes & X86_SEGMENT_DPL) != 0) {
        return check_wrong(err, "activity", (unsigned)s->activity,
                           "no halt outside of privilege level 0");
    }
    if (!s->exception_pending) {
        return 0;
    }
    uint8_t vector = s->exception_vector;
    if (vector > 31 || vector == X86_NMI) {
        return check_wrong(err, "exception_vector", vector, "0 to 31, but not 2");
    }
    if ((s->cr0 & X86_CR0_PE) != 0 && !may_push_error(vector) &&
        s->exception_has_error != pushes_error(vector)) {
        return check_wrong(err, "exception_has_error", s->exception_has_error,
                           pushes_error(vector) ? "an error code with this exception"
                                                : "no error code with this exception");
    }
    if (s->exception_has_error && s->exception_error > UINT16_MAX) {
        return check_wrong(err, "exception_error", s->exception_error, "16 bits");
    }
    return 0;
}

int check_lapic(const struct check_model *model, const struct x86_state *s, struct error *err)
{
    /* What writes can set, with the status bits of the local vector table. */
    static const struct {
        uint16_t offset;
        uint32_t existing;
        const char *name;
    } registers[] = {
        {LAPIC_TPR, 0xff, "the lapic's tpr"},
        {LAPIC_SVR, 0x13ff, "the lapic's svr"},
        {0x2f0, 0x117ff, "the lapic's lvt cmci"},
        {0x320, 0x710ff, "the lapic's lvt timer"},
        {0x330, 0x117ff, "the lapic's lvt thermal"},
        {0x340, 0x117ff, "the lapic's lvt performance"},
        {0x350, 0x1f7ff, "the lapic's lvt lint0"},
        {0x360, 0x1f7ff, "the lapic's lvt lint1"},
        {0x370, 0x110ff, "the lapic's lvt error"},
        {LAPIC_DIVIDE, 0xb, "the lapic's divide configuration"},
    };
    /* A page without a version is none: the APIC's owner fills it. */
    if (le32_get(s->lapic + LAPIC_VERSION) == 0) {
        return 0;
    }
    for (size_t i = 0; i < ARRAY_COUNT(registers); i++) {
        int rc = check_bits(err, registers[i].name, le32_get(s->lapic + registers[i].offset),
                            registers[i].existing);
        if (rc < 0) {
            return rc;
        }
    }
    uint32_t id = le32_get(s->lapic + LAPIC_ID);
    if ((s->apic_base & X86_APIC_BASE_X2APIC) == 0) {
        int rc = check_bits(err, "the lapic's id", id, 0xff000000u);
        return rc < 0 ? rc
                      : check_bits(err, "the lapic's ldr", le32_get(s->lapic + LAPIC_LDR),
                                   0xff000000u);
    }
    if (model->has_apic_id && id != model->apic_id) {
        return check_wrong(err, "the lapic's id", id, "the one that CPUID names, in x2APIC mode");
    }
    return 0;
}
