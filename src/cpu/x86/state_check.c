/* Registers and their combinations that no CPU has. The rules are those of the instructions that load the registers, and of VM
 * entry (Intel SDM 3C 26.3.1 "checks on the guest state area"), less what AMD's processors or KVM see otherwise; MSRs and the
 * APIC are in state_check_msr.c. */
#include "cpu/x86/state_check.h"

#include <stdio.h>

#include "base/core/bits.h"
#include "base/core/endian.h"
#include "cpu/x86/state_check_internal.h"

#define CR0_EXISTING                                                                               \
    (X86_CR0_PE | X86_CR0_MP | X86_CR0_EM | X86_CR0_TS | X86_CR0_ET | X86_CR0_NE | X86_CR0_WP |    \
     X86_CR0_AM | X86_CR0_NW | X86_CR0_CD | X86_CR0_PG)
/* VME to OSXMMEXCPT: no engine asks CPUID about them. */
#define CR4_ALWAYS      BITS(10, 0)
#define RFLAGS_EXISTING 0x3f7fd7u

/* DR6 and DR7: bits that are always set; RTM and bus-lock detection clear one each. */
#define DR6_SET      0xfffe07f0u
#define DR6_BUS_LOCK BIT(11)
#define DR6_RTM      BIT(16)
#define DR6_CLEAR    (BIT(12) | BITS(63, 32))
#define DR7_SET      BIT(10)
#define DR7_CLEAR    (BIT(12) | BIT(14) | BIT(15) | BITS(63, 32))

/* Extended state components. */
#define XCR0_BOUNDS BITS(4, 3)
#define XCR0_AVX512 BITS(7, 5)
#define XCR0_PKRU   BIT(9)
#define XCR0_TILES  BITS(18, 17)

#define XSAVE_MXCSR       24
#define XSAVE_RESERVED    16 /* in the header: from here on */
#define XSAVE_HEADER_SIZE 64
#define MXCSR_EXISTING    0xffffu
#define MXCSR_MISALIGNED  BIT(17) /* AMD's */

#define SEGMENT_NONE       0x0e00u /* bits without meaning */
#define SYSTEM_LDT         2u
#define SYSTEM_TSS_16_BUSY 3u
#define SYSTEM_TSS_BUSY    11u

int check_wrong(struct error *err, const char *field, uint64_t value, const char *expected)
{
    return error_set(err, EINVAL, "state of a vCPU: %s is 0x%llx, expected %s", field,
                     (unsigned long long)value, expected);
}

int check_bits(struct error *err, const char *field, uint64_t value, uint64_t existing)
{
    if ((value & ~existing) == 0) {
        return 0;
    }
    return error_set(
        err, EINVAL,
        "state of a vCPU: %s is 0x%llx, expected no bits but 0x%llx: this CPU does not have others",
        field, (unsigned long long)value, (unsigned long long)existing);
}

bool check_is_canonical(const struct check_model *model, uint64_t address)
{
    unsigned unused = 64 - model->linear_bits;
    return (uint64_t)((int64_t)(address << unused) >> unused) == address;
}

static struct x86_cpuid_entry leaf(const struct x86_cpuid *cpuid, uint32_t number, uint32_t subleaf)
{
    const struct x86_cpuid_entry *entry = x86_cpuid_find(cpuid, number, subleaf);
    return entry != NULL ? *entry : (struct x86_cpuid_entry){0};
}

static uint64_t if_set(uint64_t reg, unsigned bit, uint64_t mask)
{
    return (reg & BIT(bit)) != 0 ? mask : 0;
}

static struct check_model read_model(const struct x86_cpuid *cpuid)
{
    struct x86_cpuid_entry vendor = leaf(cpuid, 0, 0), basic = leaf(cpuid, 1, 0);
    struct x86_cpuid_entry features = leaf(cpuid, 7, 0), more = leaf(cpuid, 7, 1);
    struct x86_cpuid_entry extended = leaf(cpuid, 0x80000001u, 0);
    struct x86_cpuid_entry sizes = leaf(cpuid, 0x80000008u, 0);
    struct x86_cpuid_entry newer = leaf(cpuid, 0x80000021u, 0);
    struct x86_cpuid_entry xsave = leaf(cpuid, 0xd, 0), supervisor = leaf(cpuid, 0xd, 1);
    const struct x86_cpuid_entry *topology = x86_cpuid_find(cpuid, 0xb, 0);
    /* Rows of CR4 that are not here have state of their own that struct x86_state lacks (CET, PKS, FRED, user interrupts). */
    struct check_model model = {
        .is_amd = x86_vendor_is_amd(vendor.ebx),
        .linear_bits = (features.ecx & BIT(16)) != 0 ? 57 : 48,
        .physical_bits = (sizes.eax & 0xff) != 0 ? MIN(sizes.eax & 0xff, 52u) : 36,
        .cr3_lam = if_set(more.eax, 26, BITS(62, 61)),
        .cr4 = CR4_ALWAYS | if_set(features.ecx, 2, X86_CR4_UMIP) |
               if_set(features.ecx, 16, X86_CR4_LA57) | if_set(basic.ecx, 5, X86_CR4_VMXE) |
               if_set(features.ebx, 0, X86_CR4_FSGSBASE) | if_set(basic.ecx, 17, X86_CR4_PCIDE) |
               if_set(basic.ecx, 26, X86_CR4_OSXSAVE) | if_set(features.ebx, 7, X86_CR4_SMEP) |
               if_set(features.ebx, 20, X86_CR4_SMAP) | if_set(features.ecx, 3, X86_CR4_PKE) |
               if_set(more.eax, 6, BIT(27)) | if_set(more.eax, 26, BIT(28)), /* LASS, LAM */
        .efer = X86_EFER_SCE | if_set(extended.edx, 29, X86_EFER_LME | X86_EFER_LMA) |
                if_set(extended.edx, 20, X86_EFER_NXE) | if_set(extended.ecx, 2, X86_EFER_SVME) |
                if_set(extended.edx, 25, X86_EFER_FFXSR) |
                if_set(extended.ecx, 17, BIT(15)) | /* translation cache extension */
                if_set(newer.eax, 8, X86_EFER_AIBRSE),
        .dr6_clear = if_set(features.ebx, 11, DR6_RTM) | if_set(features.ecx, 24, DR6_BUS_LOCK),
        .xcr0 = xsave.eax | (uint64_t)xsave.edx << 32 | X86_XCR0_X87 | X86_XCR0_SSE,
        .xss = if_set(supervisor.eax, 3, supervisor.ecx | (uint64_t)supervisor.edx << 32),
        .has_x2apic = (basic.ecx & BIT(21)) != 0,
        .has_tsc_aux = (extended.edx & BIT(27)) != 0 || (features.ecx & BIT(22)) != 0,
        .has_spec_ctrl = (features.edx & (BIT(26) | BIT(27) | BIT(31))) != 0 ||
                         (sizes.ebx & (BIT(14) | BIT(15) | BIT(24))) != 0,
        .has_apic_id = topology != NULL,
        .apic_id = topology != NULL ? topology->edx : 0,
    };
    return model;
}

static int check_modes(const struct check_model *model, const struct x86_state *s,
                       struct error *err)
{
    bool has_pe = s->cr0 & X86_CR0_PE, has_pg = s->cr0 & X86_CR0_PG;
    int rc = check_bits(err, "cr0", s->cr0, CR0_EXISTING);
    rc = rc < 0 ? rc : check_bits(err, "cr4", s->cr4, model->cr4);
    rc = rc < 0 ? rc : check_bits(err, "efer", s->efer, model->efer);
    if (rc < 0) {
        return rc;
    }
    if ((s->cr0 & X86_CR0_ET) == 0) {
        return check_wrong(err, "cr0", s->cr0, "ET to be set");
    }
    if (has_pg && !has_pe) {
        return check_wrong(err, "cr0", s->cr0, "PE to be set where PG is");
    }
    if ((s->cr0 & X86_CR0_NW) != 0 && (s->cr0 & X86_CR0_CD) == 0) {
        return check_wrong(err, "cr0", s->cr0, "CD to be set where NW is");
    }
    bool is_long = s->efer & X86_EFER_LMA;
    if (is_long != ((s->efer & X86_EFER_LME) != 0 && has_pg)) {
        return check_wrong(err, "efer", s->efer, "LMA to be set where LME and cr0's PG are");
    }
    if (is_long && (s->cr4 & X86_CR4_PAE) == 0) {
        return check_wrong(err, "cr4", s->cr4, "PAE to be set in long mode");
    }
    if (!is_long && (s->cr4 & X86_CR4_PCIDE) != 0) {
        return check_wrong(err, "cr4", s->cr4, "PCIDE to be clear outside of long mode");
    }
    return 0;
}

static int check_control(const struct check_model *model, const struct x86_state *s,
                         struct error *err)
{
    uint64_t high = BITS(63, model->physical_bits);
    int rc = check_bits(err, "cr3", s->cr3, ~high | model->cr3_lam);
    if (rc < 0) {
        return rc;
    }
    if (s->cr8 > 15) {
        return check_wrong(err, "cr8", s->cr8, "at most 15");
    }
    bool has_pdptes =
        (s->cr0 & X86_CR0_PG) != 0 && (s->cr4 & X86_CR4_PAE) != 0 && (s->efer & X86_EFER_LMA) == 0;
    for (unsigned i = 0; has_pdptes && i < 4; i++) {
        char field[16];
        (void)snprintf(field, sizeof(field), "pdpte[%u]", i); /* fits */
        if ((s->pdpte[i] & 1) != 0) {
            rc = check_bits(err, field, s->pdpte[i], ~(high | BITS(2, 1) | BITS(8, 5)));
        }
        if (rc < 0) {
            return rc;
        }
    }
    rc = check_bits(err, "dr6", s->dr6, ~(uint64_t)DR6_CLEAR);
    rc = rc < 0 ? rc : check_bits(err, "dr7", s->dr7, ~(uint64_t)DR7_CLEAR);
    if (rc < 0) {
        return rc;
    }
    uint64_t dr6_set = (DR6_SET | DR6_RTM | DR6_BUS_LOCK) & ~model->dr6_clear;
    if ((s->dr6 & dr6_set) != dr6_set) {
        return check_wrong(
            err, "dr6", s->dr6,
            "its fixed bits 0xfffe07f0 (0xffff0ff0 without RTM and bus locks) to be set");
    }
    if ((s->dr7 & DR7_SET) == 0) {
        return check_wrong(err, "dr7", s->dr7, "its bit 10 to be set");
    }
    return 0;
}

static int check_extended(const struct check_model *model, const struct x86_state *s,
                          struct error *err)
{
    int rc = check_bits(err, "xcr0", s->xcr0, model->xcr0);
    if (rc < 0) {
        return rc;
    }
    if ((s->xcr0 & X86_XCR0_X87) == 0) {
        return check_wrong(err, "xcr0", s->xcr0, "bit 0 (x87) to be set");
    }
    uint64_t bounds = s->xcr0 & XCR0_BOUNDS, avx512 = s->xcr0 & XCR0_AVX512;
    uint64_t tiles = s->xcr0 & XCR0_TILES;
    if (((s->xcr0 & X86_XCR0_AVX) != 0 && (s->xcr0 & X86_XCR0_SSE) == 0) ||
        (avx512 != 0 && (avx512 != XCR0_AVX512 || (s->xcr0 & X86_XCR0_AVX) == 0))) {
        return check_wrong(err, "xcr0", s->xcr0, "SSE with AVX, and AVX with all of AVX-512");
    }
    if ((bounds != 0 && bounds != XCR0_BOUNDS) || (tiles != 0 && tiles != XCR0_TILES)) {
        return check_wrong(err, "xcr0", s->xcr0, "both bits of MPX, and of AMX, or none");
    }
    const uint8_t *header = s->xsave + X86_XSAVE_HEADER;
    /* KVM names PKRU on each host that has it, whatever the guest may use. */
    rc = check_bits(err, "the xsave area's xstate_bv", le64_get(header), model->xcr0 | XCR0_PKRU);
    if (rc < 0) {
        return rc;
    }
    for (unsigned i = 8; i < XSAVE_HEADER_SIZE; i += 8) {
        if (le64_get(header + i) != 0) {
            return check_wrong(err,
                               i < XSAVE_RESERVED ? "the xsave area's xcomp_bv"
                                                  : "a reserved word of the xsave header",
                               le64_get(header + i), "0 (the standard format)");
        }
    }
    return check_bits(err, "mxcsr", le32_get(s->xsave + XSAVE_MXCSR),
                      MXCSR_EXISTING | (model->is_amd ? MXCSR_MISALIGNED : 0));
}

static int check_flow(const struct check_model *model, const struct x86_state *s, struct error *err)
{
    bool is_long = s->efer & X86_EFER_LMA;
    bool is_64 = is_long && (s->segment[X86_CS].attributes & X86_SEGMENT_L) != 0;
    int rc = check_bits(err, "rflags", s->rflags, RFLAGS_EXISTING);
    if (rc < 0) {
        return rc;
    }
    if ((s->rflags & X86_FLAG_ONE) == 0) {
        return check_wrong(err, "rflags", s->rflags, "bit 1 to be set");
    }
    if ((s->rflags & X86_FLAG_VM) != 0 && (is_long || (s->cr0 & X86_CR0_PE) == 0)) {
        return check_wrong(err, "rflags", s->rflags,
                           "VM to be clear outside of legacy protected mode");
    }
    if (!is_64 && s->rip > UINT32_MAX) {
        return check_wrong(err, "rip", s->rip, "32 bits outside of 64-bit mode");
    }
    /* The last instruction of the lower half may lie behind us, and SYSRET of AMD's loads any value. */
    uint64_t beyond = s->rip >> model->linear_bits;
    if (is_64 && !model->is_amd && beyond != 0 && beyond != BITS(63 - model->linear_bits, 0)) {
        return check_wrong(err, "rip", s->rip, "a canonical address");
    }
    return 0;
}

static int wrong_segment(struct error *err, const char *name, const char *part, uint64_t value,
                         const char *expected)
{
    char field[32];
    (void)snprintf(field, sizeof(field), "%s's %s", name, part); /* fits */
    return check_wrong(err, field, value, expected);
}

/* What holds for whatever was loaded from a descriptor. */
static int check_loaded(const char *name, const struct x86_segment *segment, struct error *err)
{
    bool has_g = segment->attributes & X86_SEGMENT_G;
    if ((segment->attributes & SEGMENT_NONE) != 0) {
        return wrong_segment(err, name, "attributes", segment->attributes,
                             "bits 9 to 11 to be clear");
    }
    if ((segment->attributes & X86_SEGMENT_P) == 0) {
        return wrong_segment(err, name, "attributes", segment->attributes,
                             "P to be set, or bit 8 for no segment");
    }
    if (has_g ? (segment->limit & 0xfff) != 0xfff : segment->limit > 0xfffff) {
        return wrong_segment(err, name, "limit", segment->limit,
                             has_g ? "0x...fff with G" : "at most 0xfffff without G");
    }
    return 0;
}

/* Segments of virtual-8086 mode are what the selectors say. */
static int check_v86_segment(const char *name, const struct x86_segment *segment, struct error *err)
{
    const uint16_t wanted = X86_SEGMENT_P | X86_SEGMENT_S | X86_SEGMENT_DPL | X86_SEGMENT_WRITABLE;
    const uint16_t unwanted = X86_SEGMENT_G | X86_SEGMENT_DB | X86_SEGMENT_L |
                              X86_SEGMENT_UNUSABLE | X86_SEGMENT_CONFORM | SEGMENT_NONE;
    if (segment->base != (uint32_t)segment->selector << 4) {
        return wrong_segment(err, name, "base", segment->base,
                             "its selector times 16 in virtual-8086 mode");
    }
    if (segment->limit != 0xffff) {
        return wrong_segment(err, name, "limit", segment->limit, "0xffff in virtual-8086 mode");
    }
    if ((segment->attributes & (wanted | unwanted)) != wanted) {
        return wrong_segment(err, name, "attributes", segment->attributes,
                             "0xf3 in virtual-8086 mode");
    }
    return 0;
}

static int check_code(const struct x86_state *s, struct error *err)
{
    const struct x86_segment *cs = &s->segment[X86_CS];
    unsigned cpl = (s->segment[X86_SS].attributes & X86_SEGMENT_DPL) >> 5;
    unsigned dpl = (cs->attributes & X86_SEGMENT_DPL) >> 5;
    bool is_code = cs->attributes & X86_SEGMENT_CODE;
    /* Data that runs: CS as real mode leaves it, also behind the switch to protected mode. */
    bool is_real_left = !is_code && (cs->attributes & X86_SEGMENT_WRITABLE) != 0 &&
                        (cs->attributes & X86_SEGMENT_DOWN) == 0;
    if ((cs->attributes & X86_SEGMENT_UNUSABLE) != 0 || (cs->attributes & X86_SEGMENT_S) == 0 ||
        (!is_code && !is_real_left)) {
        return wrong_segment(err, "cs", "attributes", cs->attributes, "a code segment");
    }
    bool is_conforming = is_code && (cs->attributes & X86_SEGMENT_CONFORM) != 0;
    if (is_conforming ? dpl > cpl : dpl != cpl) {
        return wrong_segment(err, "cs", "attributes", cs->attributes,
                             is_conforming ? "a DPL of at most ss's" : "the DPL of ss");
    }
    if (is_real_left && dpl != 0) {
        return wrong_segment(err, "cs", "attributes", cs->attributes,
                             "a code segment at this privilege");
    }
    if ((s->efer & X86_EFER_LMA) != 0 &&
        (cs->attributes & (X86_SEGMENT_L | X86_SEGMENT_DB)) == (X86_SEGMENT_L | X86_SEGMENT_DB)) {
        return wrong_segment(err, "cs", "attributes", cs->attributes,
                             "not both L and D in long mode");
    }
    return 0;
}

static int check_data(const char *name, const struct x86_segment *segment, bool is_stack,
                      struct error *err)
{
    bool is_code = segment->attributes & X86_SEGMENT_CODE;
    bool has_bit_1 = segment->attributes & X86_SEGMENT_WRITABLE; /* code: readable */
    if ((segment->attributes & X86_SEGMENT_S) == 0 || (is_code && !has_bit_1)) {
        return wrong_segment(err, name, "attributes", segment->attributes, "data or readable code");
    }
    if (is_stack && (is_code || !has_bit_1)) {
        return wrong_segment(err, name, "attributes", segment->attributes, "writable data");
    }
    return 0;
}

static int check_segments(const struct check_model *model, const struct x86_state *s,
                          struct error *err)
{
    static const char *const names[X86_SEGMENT_COUNT] = {"es", "cs", "ss", "ds", "fs", "gs"};
    bool is_v86 = s->rflags & X86_FLAG_VM;
    const struct x86_segment *ss = &s->segment[X86_SS];
    for (unsigned i = 0; i < X86_SEGMENT_COUNT; i++) {
        const struct x86_segment *segment = &s->segment[i];
        bool has_long_base = i == X86_FS || i == X86_GS;
        if (has_long_base ? !check_is_canonical(model, segment->base)
                          : segment->base > UINT32_MAX) {
            return wrong_segment(err, names[i], "base", segment->base,
                                 has_long_base ? "a canonical address" : "32 bits");
        }
        int rc = 0;
        if (is_v86) {
            rc = check_v86_segment(names[i], segment, err);
        } else if (i == X86_CS) {
            rc = check_code(s, err);
            rc = rc < 0 ? rc : check_loaded(names[i], segment, err);
        } else if ((segment->attributes & X86_SEGMENT_UNUSABLE) == 0) {
            rc = check_data(names[i], segment, i == X86_SS, err);
            rc = rc < 0 ? rc : check_loaded(names[i], segment, err);
        }
        if (rc < 0) {
            return rc;
        }
    }
    if ((s->cr0 & X86_CR0_PE) == 0 && (ss->attributes & X86_SEGMENT_DPL) != 0) {
        return wrong_segment(err, "ss", "attributes", ss->attributes, "a DPL of 0 in real mode");
    }
    return 0;
}

static int check_system_segment(const struct check_model *model, const char *name,
                                const struct x86_segment *segment, struct error *err)
{
    if ((segment->selector & 4) != 0) {
        return wrong_segment(err, name, "selector", segment->selector, "one of the gdt");
    }
    if (!check_is_canonical(model, segment->base)) {
        return wrong_segment(err, name, "base", segment->base, "a canonical address");
    }
    return check_loaded(name, segment, err);
}

static int check_tables(const struct check_model *model, const struct x86_state *s,
                        struct error *err)
{
    unsigned tr = s->tr.attributes & (X86_SEGMENT_UNUSABLE | X86_SEGMENT_S | X86_SEGMENT_TYPE);
    unsigned ldtr = s->ldtr.attributes & (X86_SEGMENT_S | X86_SEGMENT_TYPE);
    bool is_long = s->efer & X86_EFER_LMA;
    if (tr != SYSTEM_TSS_BUSY && (is_long || tr != SYSTEM_TSS_16_BUSY)) {
        return wrong_segment(err, "tr", "attributes", s->tr.attributes,
                             "a busy TSS (in long mode: type 11)");
    }
    int rc = check_system_segment(model, "tr", &s->tr, err);
    if (rc == 0 && (s->ldtr.attributes & X86_SEGMENT_UNUSABLE) == 0) {
        rc = ldtr == SYSTEM_LDT ? check_system_segment(model, "ldtr", &s->ldtr, err)
                                : wrong_segment(err, "ldtr", "attributes", s->ldtr.attributes,
                                                "type 2, or bit 8 for none");
    }
    if (rc < 0) {
        return rc;
    }
    if (!check_is_canonical(model, s->gdtr.base)) {
        return check_wrong(err, "gdtr's base", s->gdtr.base, "a canonical address");
    }
    if (!check_is_canonical(model, s->idtr.base)) {
        return check_wrong(err, "idtr's base", s->idtr.base, "a canonical address");
    }
    return 0;
}

int x86_state_check(const struct x86_state *state, const struct x86_cpuid *cpuid, struct error *err)
{
    static int (*const checks[])(const struct check_model *model, const struct x86_state *s,
                                 struct error *err) = {
        check_modes,  check_control, check_extended, check_flow,  check_segments,
        check_tables, check_msrs,    check_events,   check_lapic,
    };
    const struct check_model model = read_model(cpuid);
    for (size_t i = 0; i < ARRAY_COUNT(checks); i++) {
        int rc = checks[i](&model, state, err);
        if (rc < 0) {
            return rc;
        }
    }
    return 0;
}
