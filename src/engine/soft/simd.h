/* Private to the files that execute SIMD, MMX, x87 and the XSAVE family: what they share. */
#ifndef ENGINE_SOFT_SIMD_H
#define ENGINE_SOFT_SIMD_H

#include "engine/soft/memory_access.h"
#include "engine/soft/op.h"
#include "engine/soft/stub.h"
#include "engine/soft/vcpu.h"

/* Host's default: all exceptions masked, round to nearest. */
#define SIMD_HOST_MXCSR 0x1f80u
/* x87 status: exception summary, an unmasked exception waits. */
#define X87_STATUS_ES 0x0080u

struct soft_simd {
    /* Copy of a memory operand; stubs never touch guest memory. */
    uint8_t buffer[128] __attribute__((aligned(64)));
    struct soft_stub_env env;
    struct soft_stubs *stubs;
    uint32_t mxcsr_mask; /* bits that the guest's MXCSR has */
    /* The last x87 instruction and its operand, as far as the CPU notes them (struct soft_x87_model). FNSTENV shows them
     * always; FXSAVE and XSAVE, on CPUs of AMD, only while an exception is pending. */
    struct simd_pointers {
        uint64_t fip, fdp;
        uint16_t fop, fcs, fds;
    } last;
};

/* Which preconditions an instruction has (Intel SDM 2 section 2.4, exception classes; SDM 3A 2.5). */
enum simd_check {
    SIMD_CHECK_NONE,
    SIMD_CHECK_SSE,
    SIMD_CHECK_VEX,
    SIMD_CHECK_VEX_GPR, /* VEX without vector registers: BMI */
    SIMD_CHECK_MMX,
    SIMD_CHECK_MMX_SSE, /* between MMX and XMM registers */
    SIMD_CHECK_X87,
};

/* soft_op.data of stub handlers: the stub and its operands as offsets into struct soft_vcpu. */
struct simd_op {
    soft_stub_fn run;
    uint64_t op_address;
    uint16_t reg, rm, vvvv, is4;
    uint16_t memory_size;
    uint16_t fop;     /* x87: opcode as FOP has it */
    uint8_t check;    /* enum simd_check */
    uint8_t x87_kind; /* enum x87_kind of x87.c */
    bool is_aligned;  /* unaligned memory is #GP */
    bool is_store;
    bool uses_gprs, writes_rcx, uses_flags, uses_mxcsr;
    bool is_waiting; /* a pending x87 exception comes first */
};

static always_inline void simd_check(struct soft_vcpu *v, const struct soft_op *op, uint8_t check)
{
    switch (check) {
    case SIMD_CHECK_SSE:
    case SIMD_CHECK_MMX_SSE:
        if (unlikely((v->cr0 & X86_CR0_EM) || !(v->cr4 & X86_CR4_OSFXSR))) {
            soft_raise(v, op, X86_UD);
        }
        break;
    case SIMD_CHECK_VEX:
        if (unlikely(!(v->cr4 & X86_CR4_OSXSAVE) || (~v->xcr0 & 6) != 0 || !soft_is_protected(v) ||
                     soft_is_v86(v))) {
            soft_raise(v, op, X86_UD);
        }
        break;
    case SIMD_CHECK_VEX_GPR:
        if (unlikely(!soft_is_protected(v) || soft_is_v86(v))) {
            soft_raise(v, op, X86_UD);
        }
        return;
    case SIMD_CHECK_MMX:
        if (unlikely(v->cr0 & X86_CR0_EM)) {
            soft_raise(v, op, X86_UD);
        }
        break;
    case SIMD_CHECK_X87:
        if (unlikely(v->cr0 & X86_CR0_EM)) {
            soft_raise(v, op, X86_NM);
        }
        break;
    default:
        return;
    }
    if (unlikely(v->cr0 & X86_CR0_TS)) {
        soft_raise(v, op, X86_NM);
    }
}

/* A waiting x87 or MMX instruction finds a pending exception before it looks at its operands. */
static always_inline void simd_check_pending(struct soft_vcpu *v, const struct soft_op *op)
{
    uint16_t status;
    memcpy(&status, v->fx + 2, sizeof(status));
    if (unlikely(status & X87_STATUS_ES)) {
        soft_raise(v, op, X86_MF);
    }
}

/* The linear address of the memory operand of a SIMD instruction, its alignment checked. */
static always_inline uint64_t simd_linear(struct soft_vcpu *v, const struct soft_op *op,
                                          uint32_t size, bool is_aligned, bool is_write)
{
    /* Alignment comes before limits and canonical form: #GP, even in the stack segment. */
    if (is_aligned) {
        uint64_t raw = soft_offset(v, op) + v->segment_base[op->segment];
        if (unlikely((raw & (size - 1)) != 0)) {
            soft_raise_error(v, op, X86_GP, 0);
        }
    }
    return soft_linear(v, op, size, is_write);
}

/* #AC, where the accessors do not check by themselves. It comes before page faults, but after what is wrong with the
 * address itself, which the accessors find. CPUs of Intel check no access of 16 bytes or more. */
static always_inline void simd_check_ac(struct soft_vcpu *v, const struct soft_op *op, uint64_t gva,
                                        uint32_t alignment)
{
    if (unlikely(v->align_check && (gva & (alignment - 1)) != 0 && x86_is_canonical(gva)) &&
        !(alignment >= 16 && v->vm->is_intel)) {
        soft_raise_error(v, op, X86_AC, 0);
    }
}

/* The registers as MMX instructions leave them: TOP 0, all tags valid. */
void simd_enter_mmx(struct soft_vcpu *v);
/* TOP 0, each register where it physically is. */
void simd_clear_top(struct soft_vcpu *v);

static always_inline uint8_t *simd_at(struct soft_vcpu *v, uint16_t offset)
{
    return (uint8_t *)v + offset;
}

noreturn_fn void simd_raise_result(struct soft_vcpu *v, const struct soft_op *op,
                                   enum soft_stub_result result);

/* Fills a simd_op from the instruction, with its stub; NULL: no stub can run it. */
struct simd_op *simd_prepare_stub(struct soft_vcpu *v, const struct x86_insn *insn);
/* The preconditions by the row's attributes. */
uint8_t simd_check_of(const struct x86_insn *insn);

/* Each takes its instructions, or says false. */
bool simd_prepare_move(struct soft_vcpu *v, const struct x86_insn *insn, struct soft_op *out_op);
bool simd_prepare_masked(struct soft_vcpu *v, const struct x86_insn *insn, struct soft_op *out_op);
bool simd_prepare_x87(struct soft_vcpu *v, const struct x86_insn *insn, struct soft_op *out_op);
bool simd_prepare_xsave(struct soft_vcpu *v, const struct x86_insn *insn, struct soft_op *out_op);

#endif
