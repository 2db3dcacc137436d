/* FXSAVE, FXRSTOR and the XSAVE family; XGETBV and XSETBV (SDM 1 chapter 13). */
#include "engine/soft/xsave.h"

#include <emmintrin.h>

#include "base/core/endian.h"
#include "engine/soft/simd.h"
#include "engine/soft/system.h"

#define COMPONENTS     (X86_XCR0_X87 | X86_XCR0_SSE | X86_XCR0_AVX)
#define COMPONENT_PKRU (1ull << 9)
#define FSW_ES         0x80u /* an exception is pending */
#define LEGACY_MXCSR   24
#define LEGACY_ST0     32
#define LEGACY_XMM0    160
#define LEGACY_SIZE    512
#define HEADER_SIZE    64
#define XCOMP_COMPACT  (1ull << 63)
#define AREA_SIZE      (X86_XSAVE_AVX_OFFSET + 256)

enum save_kind {
    SAVE_PLAIN,
    SAVE_OPTIMIZED, /* XSAVEOPT: leaves out what is in its initial state */
    SAVE_COMPACT,   /* XSAVEC and XSAVES: same, in compacted form */
};

static bool is_zero(const uint8_t *bytes, size_t size)
{
    for (size_t i = 0; i < size; i++) {
        if (bytes[i] != 0) {
            return false;
        }
    }
    return true;
}

static bool is_x87_initial(const struct soft_vcpu *v)
{
    uint64_t head[3], mantissa = 0;
    uint16_t exponent = 0;
    memcpy(head, v->fx, sizeof(head));
    for (unsigned i = 0; i < 8; i++) {
        const uint8_t *st = v->fx + LEGACY_ST0 + i * 16;
        mantissa |= le64_get(st);
        exponent |= le16_get(st + 8);
    }
    return head[0] == 0x37f && (head[1] | head[2] | mantissa | exponent) == 0;
}

static bool is_any_set(__m128i value)
{
    return _mm_movemask_epi8(_mm_cmpeq_epi8(value, _mm_setzero_si128())) != 0xffff;
}

uint64_t soft_xinuse(const struct soft_vcpu *v)
{
    __m128i lower = _mm_setzero_si128(), upper = lower;
    for (unsigned i = 0; i < 16; i++) {
        const __m128i *half = (const __m128i *)(const void *)v->vector[i];
        lower = _mm_or_si128(lower, _mm_load_si128(&half[0]));
        upper = _mm_or_si128(upper, _mm_load_si128(&half[1]));
    }
    return (is_x87_initial(v) ? 0 : (uint64_t)X86_XCR0_X87) |
           (is_any_set(lower) ? (uint64_t)X86_XCR0_SSE : 0) |
           (is_any_set(upper) ? (uint64_t)X86_XCR0_AVX : 0);
}

void soft_x87_normalize(struct soft_vcpu *v)
{
    le32_put(v->fx + LEGACY_MXCSR, SIMD_HOST_MXCSR);
    __asm__ volatile("fxrstor64 %0\n\tfxsave64 %0\n\tfninit"
                     : "+m"(v->fx)
                     :
                     : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8",
                       "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15");
}

/* The x87 part of the legacy region, bytes 0..23 and 32..159. The form without REX.W has selectors. */
static void x87_get(const struct soft_vcpu *v, bool is_wide, uint8_t *out_legacy)
{
    memcpy(out_legacy, v->fx, LEGACY_MXCSR);
    out_legacy[5] = 0;
    le16_put(out_legacy + 6, le16_get(out_legacy + 6) & 0x7ff);
    if (!is_wide) {
        /* CPUs of AMD keep them for a pending exception only; a pointer of 0 is one, too. */
        bool has_pointers =
            !v->vm->x87.hides_pointers || le64_get(v->fx + 8) != 0 || (v->fx[2] & FSW_ES) != 0;
        le32_put(out_legacy + 12, has_pointers ? v->simd->last.fcs : 0);
        le32_put(out_legacy + 20, has_pointers ? v->simd->last.fds : 0);
    }
    memset(out_legacy + LEGACY_ST0, 0, 128);
    for (unsigned i = 0; i < 8; i++) {
        memcpy(out_legacy + LEGACY_ST0 + i * 16, v->fx + LEGACY_ST0 + i * 16, 10);
    }
}

/* CPUs of AMD keep as many bits as linear addresses can have, and extend the sign. */
static uint64_t pointer_get(const struct soft_vcpu *v, const uint8_t *from)
{
    unsigned above = 64 - v->vm->x87.pointer_bits;
    return (uint64_t)((int64_t)(le64_get(from) << above) >> above);
}

static void x87_set(struct soft_vcpu *v, bool is_wide, const uint8_t *legacy)
{
    memcpy(v->fx, legacy, LEGACY_MXCSR);
    if (!is_wide) {
        le32_put(v->fx + 12, 0);
        le32_put(v->fx + 20, 0);
    }
    memcpy(v->fx + LEGACY_ST0, legacy + LEGACY_ST0, 128);
    bool has_selectors = !is_wide && v->vm->x87.has_selectors;
    struct simd_pointers *last = &v->simd->last;
    *last = (struct simd_pointers){
        .fip = pointer_get(v, v->fx + 8),
        .fdp = pointer_get(v, v->fx + 16),
        .fop = le16_get(v->fx + 6) & 0x7ff,
        .fcs = has_selectors ? le16_get(legacy + 12) : 0,
        .fds = has_selectors ? le16_get(legacy + 20) : 0,
    };
    soft_x87_normalize(v);
    if (!v->vm->x87.hides_pointers) {
        /* As the host keeps them: CPUs of Intel all bits of FDP, those of an address of FIP. */
        last->fip = le64_get(v->fx + 8);
        last->fdp = le64_get(v->fx + 16);
    }
}

static void x87_reset(struct soft_vcpu *v)
{
    memset(v->fx, 0, LEGACY_XMM0);
    le16_put(v->fx, 0x37f);
    v->simd->last = (struct simd_pointers){0};
}

/* How many vector registers an image has in the current mode. */
static unsigned vector_count(const struct soft_vcpu *v)
{
    return soft_is_64(v) ? 16 : 8;
}

static void sse_get(const struct soft_vcpu *v, unsigned count, uint8_t *out_legacy)
{
    for (unsigned i = 0; i < count; i++) {
        memcpy(out_legacy + LEGACY_XMM0 + i * 16, v->vector[i], 16);
    }
}

static void sse_set(struct soft_vcpu *v, unsigned count, const uint8_t *legacy)
{
    for (unsigned i = 0; i < count; i++) {
        memcpy(v->vector[i], legacy + LEGACY_XMM0 + i * 16, 16);
    }
}

static void mxcsr_get(const struct soft_vcpu *v, uint8_t *out_legacy)
{
    le32_put(out_legacy + LEGACY_MXCSR, v->mxcsr);
    le32_put(out_legacy + LEGACY_MXCSR + 4, v->simd->mxcsr_mask);
}

/* EFER.FFXSR: FXSAVE and FXRSTOR at CPL 0 in 64-bit mode leave the XMM registers alone (APM 2 11.4.4). */
static bool is_fast_fxsr(const struct soft_vcpu *v)
{
    return (v->efer & X86_EFER_FFXSR) != 0 && v->cpl == 0 && soft_is_64(v);
}

static uint64_t legacy_address(struct soft_vcpu *v, const struct soft_op *op, bool is_write)
{
    simd_check(v, op, SIMD_CHECK_X87);
    /* The alignment is that of the first access, which finds its own limit before, the other ones theirs behind. */
    simd_check_ac(v, op, soft_linear(v, op, 8, false), 4);
    uint64_t gva = soft_linear(v, op, LEGACY_SIZE, is_write);
    if ((gva & 15) != 0 && x86_is_canonical(gva)) {
        soft_raise_error(v, op, X86_GP, 0);
    }
    return gva;
}

static void op_fxsave(struct soft_vcpu *v, const struct soft_op *op)
{
    uint64_t gva = legacy_address(v, op, true);
    uint8_t legacy[LEGACY_SIZE];
    soft_check_write(v, op, gva, LEGACY_SIZE);
    x87_get(v, op->imm, legacy);
    mxcsr_get(v, legacy);
    unsigned count = is_fast_fxsr(v) ? 0 : vector_count(v);
    sse_get(v, count, legacy);
    soft_store_unchecked(v, op, gva, legacy, LEGACY_XMM0 + count * 16);
    SOFT_NEXT(v, op);
}

static void op_fxrstor(struct soft_vcpu *v, const struct soft_op *op)
{
    uint64_t gva = legacy_address(v, op, false);
    uint8_t legacy[LEGACY_SIZE];
    soft_load_unchecked(v, op, gva, legacy, LEGACY_SIZE);
    uint32_t mxcsr = le32_get(legacy + LEGACY_MXCSR);
    bool has_sse = (v->cr4 & X86_CR4_OSFXSR) != 0;
    if (has_sse && (mxcsr & ~v->simd->mxcsr_mask) != 0) {
        soft_raise_error(v, op, X86_GP, 0);
    }
    x87_set(v, op->imm, legacy);
    if (has_sse) {
        v->mxcsr = mxcsr;
        sse_set(v, is_fast_fxsr(v) ? 0 : vector_count(v), legacy);
    }
    SOFT_NEXT(v, op);
}

static uint64_t requested(const struct soft_vcpu *v)
{
    uint64_t mask = (uint32_t)v->gpr[X86_RAX] | v->gpr[X86_RDX] << 32;
    return mask & v->xcr0;
}

static uint64_t area_address(struct soft_vcpu *v, const struct soft_op *op, uint32_t size,
                             bool is_write)
{
    if ((v->cr4 & X86_CR4_OSXSAVE) == 0) {
        soft_raise(v, op, X86_UD);
    }
    if ((v->cr0 & X86_CR0_TS) != 0) {
        soft_raise(v, op, X86_NM);
    }
    uint64_t gva = soft_linear(v, op, size, is_write);
    if ((gva & 63) != 0 && x86_is_canonical(gva)) {
        soft_raise_error(v, op, X86_GP, 0);
    }
    return gva;
}

static void avx_get(const struct soft_vcpu *v, unsigned count, uint8_t *out_area)
{
    for (unsigned i = 0; i < count; i++) {
        memcpy(out_area + X86_XSAVE_AVX_OFFSET + i * 16, v->vector[i] + 16, 16);
    }
}

static void save(struct soft_vcpu *v, const struct soft_op *op, enum save_kind kind)
{
    uint64_t mask = requested(v);
    uint32_t size = mask & X86_XCR0_AVX ? AREA_SIZE : LEGACY_SIZE + HEADER_SIZE;
    uint64_t gva = area_address(v, op, size, true);
    soft_check_write(v, op, gva, size);
    uint8_t area[AREA_SIZE];
    soft_load_unchecked(v, op, gva, area, size);

    uint64_t in_use = soft_xinuse(v);
    if (kind == SAVE_COMPACT && v->mxcsr != SIMD_HOST_MXCSR) {
        in_use |= X86_XCR0_SSE; /* SDM 1 13.10: MXCSR belongs to the component here */
    }
    uint64_t stored = kind == SAVE_PLAIN ? mask : mask & in_use;
    uint64_t *bv = (uint64_t *)(void *)(area + X86_XSAVE_HEADER);
    if (kind == SAVE_COMPACT) {
        bv[0] = stored;
        bv[1] = mask | XCOMP_COMPACT;
    } else {
        bv[0] = (bv[0] & ~mask) | (mask & in_use);
    }
    if ((stored & X86_XCR0_X87) != 0) {
        x87_get(v, op->imm, area);
    }
    if ((stored & X86_XCR0_SSE) != 0) {
        sse_get(v, vector_count(v), area);
    }
    bool has_mxcsr = kind == SAVE_COMPACT ? (stored & X86_XCR0_SSE) != 0
                                          : (mask & (X86_XCR0_SSE | X86_XCR0_AVX)) != 0;
    if (has_mxcsr) {
        mxcsr_get(v, area);
    }
    if ((stored & X86_XCR0_AVX) != 0) {
        avx_get(v, vector_count(v), area);
    }
    soft_store_unchecked(v, op, gva, area, size);
}

static void op_xsave(struct soft_vcpu *v, const struct soft_op *op)
{
    save(v, op, SAVE_PLAIN);
    SOFT_NEXT(v, op);
}

static void op_xsaveopt(struct soft_vcpu *v, const struct soft_op *op)
{
    save(v, op, SAVE_OPTIMIZED);
    SOFT_NEXT(v, op);
}

static void op_xsavec(struct soft_vcpu *v, const struct soft_op *op)
{
    save(v, op, SAVE_COMPACT);
    SOFT_NEXT(v, op);
}

static void op_xsaves(struct soft_vcpu *v, const struct soft_op *op)
{
    if (v->cpl != 0) {
        soft_raise_error(v, op, X86_GP, 0);
    }
    save(v, op, SAVE_COMPACT);
    SOFT_NEXT(v, op);
}

/* SDM 1 13.8.1 and 13.8.2, 13.12: is this header one that can be restored? */
static bool is_header_good(const struct soft_vcpu *v, const uint8_t *header, bool is_supervisor)
{
    uint64_t bv = le64_get(header);
    uint64_t compact = le64_get(header + 8);
    if ((compact & XCOMP_COMPACT) == 0) {
        return !is_supervisor && compact == 0 && le64_get(header + 16) == 0 && (bv & ~v->xcr0) == 0;
    }
    uint64_t present = compact & ~XCOMP_COMPACT;
    return (present & ~v->xcr0) == 0 && (bv & ~present) == 0 && is_zero(header + 16, 48);
}

static void restore(struct soft_vcpu *v, const struct soft_op *op, bool is_supervisor)
{
    uint64_t gva = area_address(v, op, LEGACY_SIZE + HEADER_SIZE, false);
    uint64_t mask = requested(v);
    uint8_t area[AREA_SIZE];
    soft_load_unchecked(v, op, gva + LEGACY_SIZE, area + LEGACY_SIZE, HEADER_SIZE);
    if (!is_header_good(v, area + LEGACY_SIZE, is_supervisor)) {
        soft_raise_error(v, op, X86_GP, 0);
    }
    uint64_t loaded = mask & le64_get(area + X86_XSAVE_HEADER);
    bool is_compact = (le64_get(area + X86_XSAVE_HEADER + 8) & XCOMP_COMPACT) != 0;
    soft_load_unchecked(v, op, gva, area, LEGACY_SIZE);
    if ((loaded & X86_XCR0_AVX) != 0) {
        (void)soft_linear(v, op, AREA_SIZE, false); /* the whole area has to be in the segment */
        soft_load_unchecked(v, op, gva + X86_XSAVE_AVX_OFFSET, area + X86_XSAVE_AVX_OFFSET, 256);
    }
    uint32_t mxcsr = v->mxcsr;
    if (is_compact ? (loaded & X86_XCR0_SSE) != 0 : (mask & (X86_XCR0_SSE | X86_XCR0_AVX)) != 0) {
        mxcsr = le32_get(area + LEGACY_MXCSR);
    } else if (is_compact && (mask & X86_XCR0_SSE) != 0) {
        mxcsr = SIMD_HOST_MXCSR;
    }
    if ((mxcsr & ~v->simd->mxcsr_mask) != 0) {
        soft_raise_error(v, op, X86_GP, 0);
    }
    v->mxcsr = mxcsr;
    if ((loaded & X86_XCR0_X87) != 0) {
        x87_set(v, op->imm, area);
    } else if ((mask & X86_XCR0_X87) != 0) {
        x87_reset(v);
    }
    unsigned count = vector_count(v);
    for (unsigned i = 0; i < count; i++) {
        if ((loaded & X86_XCR0_SSE) != 0) {
            memcpy(v->vector[i], area + LEGACY_XMM0 + i * 16, 16);
        } else if ((mask & X86_XCR0_SSE) != 0) {
            memset(v->vector[i], 0, 16);
        }
        if ((loaded & X86_XCR0_AVX) != 0) {
            memcpy(v->vector[i] + 16, area + X86_XSAVE_AVX_OFFSET + i * 16, 16);
        } else if ((mask & X86_XCR0_AVX) != 0) {
            memset(v->vector[i] + 16, 0, 16);
        }
    }
}

static void op_xrstor(struct soft_vcpu *v, const struct soft_op *op)
{
    restore(v, op, false);
    SOFT_NEXT(v, op);
}

static void op_xrstors(struct soft_vcpu *v, const struct soft_op *op)
{
    if (v->cpl != 0) {
        soft_raise_error(v, op, X86_GP, 0);
    }
    restore(v, op, true);
    SOFT_NEXT(v, op);
}

static void op_xgetbv(struct soft_vcpu *v, const struct soft_op *op)
{
    if ((v->cr4 & X86_CR4_OSXSAVE) == 0) {
        soft_raise(v, op, X86_UD);
    }
    uint32_t index = (uint32_t)v->gpr[X86_RCX];
    if (index > 1) {
        soft_raise_error(v, op, X86_GP, 0);
    }
    uint64_t value = index == 0 ? v->xcr0 : v->xcr0 & soft_xinuse(v);
    v->gpr[X86_RAX] = (uint32_t)value;
    v->gpr[X86_RDX] = value >> 32;
    SOFT_NEXT(v, op);
}

static void op_xsetbv(struct soft_vcpu *v, const struct soft_op *op)
{
    if ((v->cr4 & X86_CR4_OSXSAVE) == 0) {
        soft_raise(v, op, X86_UD);
    }
    uint64_t value = (uint32_t)v->gpr[X86_RAX] | v->gpr[X86_RDX] << 32;
    uint64_t supported = COMPONENTS & ~(v->features.avx ? 0ull : (uint64_t)X86_XCR0_AVX);
    bool is_good = (value & X86_XCR0_X87) != 0 && (value & ~supported) == 0 &&
                   (value & (X86_XCR0_SSE | X86_XCR0_AVX)) != X86_XCR0_AVX;
    if (v->cpl != 0 || (uint32_t)v->gpr[X86_RCX] != 0 || !is_good) {
        soft_raise_error(v, op, X86_GP, 0);
    }
    v->xcr0 = value;
    soft_cpuid_forget(v);
    SOFT_NEXT(v, op);
}

void soft_xsave_get(const struct soft_vcpu *v, uint8_t out_area[X86_XSAVE_SIZE])
{
    memset(out_area, 0, X86_XSAVE_SIZE);
    x87_get(v, true, out_area);
    mxcsr_get(v, out_area);
    sse_get(v, 16, out_area);
    avx_get(v, 16, out_area);
    /* Another engine takes only what the guest's CPU model has. */
    uint64_t absent = v->features.avx ? 0 : (uint64_t)X86_XCR0_AVX;
    le64_put(out_area + X86_XSAVE_HEADER, COMPONENTS & ~absent);
}

bool soft_xsave_set(struct soft_vcpu *v, const uint8_t area[X86_XSAVE_SIZE])
{
    uint64_t present = le64_get(area + X86_XSAVE_HEADER);
    uint32_t mxcsr = le32_get(area + LEGACY_MXCSR);
    if (present == 0) {
        present =
            X86_XCR0_X87 | X86_XCR0_SSE; /* a legacy image, without header: from reset or FXSAVE */
    }
    present &= ~COMPONENT_PKRU; /* KVM saves it even where the guest has none */
    if ((present & ~(uint64_t)COMPONENTS) != 0 || (mxcsr & ~v->simd->mxcsr_mask) != 0) {
        return false;
    }
    v->mxcsr = mxcsr;
    memset(v->vector, 0, sizeof(v->vector));
    if ((present & X86_XCR0_X87) != 0) {
        x87_set(v, true, area);
    } else {
        x87_reset(v);
    }
    for (unsigned i = 0; i < 16; i++) {
        if ((present & X86_XCR0_SSE) != 0) {
            memcpy(v->vector[i], area + LEGACY_XMM0 + i * 16, 16);
        }
        if ((present & X86_XCR0_AVX) != 0) {
            memcpy(v->vector[i] + 16, area + X86_XSAVE_AVX_OFFSET + i * 16, 16);
        }
    }
    return true;
}

bool simd_prepare_xsave(struct soft_vcpu *v, const struct x86_insn *insn, struct soft_op *out_op)
{
    (void)v;
    static const struct {
        uint16_t id;
        soft_op_fn fn;
    } handlers[] = {
        {X86_ID_FXSAVE, op_fxsave},     {X86_ID_FXRSTOR, op_fxrstor}, {X86_ID_XSAVE, op_xsave},
        {X86_ID_XSAVEOPT, op_xsaveopt}, {X86_ID_XSAVEC, op_xsavec},   {X86_ID_XSAVES, op_xsaves},
        {X86_ID_XRSTOR, op_xrstor},     {X86_ID_XRSTORS, op_xrstors}, {X86_ID_XGETBV, op_xgetbv},
        {X86_ID_XSETBV, op_xsetbv},
    };
    for (size_t i = 0; i < ARRAY_COUNT(handlers); i++) {
        if (insn->id == handlers[i].id) {
            out_op->fn = handlers[i].fn;
            out_op->imm = (insn->rex & 8) != 0;
            return true;
        }
    }
    return false;
}
