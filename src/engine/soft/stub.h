/* Stubs: SIMD and x87 instructions of the guest as tiny host functions.
 *
 * An instruction is encoded again in a canonical form: its operands in fixed host registers, its memory operand at [rsi].
 * Around it stand loads and stores of these registers through pointers, so one stub serves every use of the instruction
 * with whatever guest registers. Stubs are made when a block is decoded, kept for ever and shared by all vCPUs. They live
 * in one memfd mapped twice, writable and executable, so no page is ever both.
 *
 * Exceptions: an unmasked SIMD or x87 exception, or an instruction that this host has not, arrives as a signal; the
 * handler makes the stub return the reason instead. */
#ifndef ENGINE_SOFT_STUB_H
#define ENGINE_SOFT_STUB_H

#include <stdbool.h>
#include <stdint.h>

#include "base/core/error.h"
#include "cpu/x86/decode.h"

/* What a stub works on beside its operands; one a vCPU. */
struct soft_stub_env {
    uint64_t rflags;        /* in and out, status flags only */
    uint64_t rax, rcx, rdx; /* implicit operands, in and out */
    uint64_t saved_rdx;     /* the stub's own */
    uint8_t *xmm0;          /* implicit operand: the guest's register 0 */
    uint8_t *x87;   /* 512 bytes in FXSAVE64 format, 16-byte aligned; MXCSR in it is the host's */
    uint32_t mxcsr; /* the guest's, in and out */
    uint32_t host_mxcsr;
};

enum soft_stub_result {
    SOFT_STUB_OK,
    SOFT_STUB_XM, /* unmasked SIMD exception: flags are in env->mxcsr, nothing else has changed */
    SOFT_STUB_MF, /* pending x87 exception, nothing has changed */
    SOFT_STUB_UD, /* the host has no such instruction */
};

/* Pointers to what the fields of the encoding name: the guest's registers (32 bytes of a vector, 8 of a general register)
 * or, for 'rm', the memory operand's copy, aligned to 64 bytes with at least as many behind it. Unused ones: NULL. */
typedef enum soft_stub_result (*soft_stub_fn)(void *reg, void *rm, void *vvvv, void *is4,
                                              struct soft_stub_env *env);

struct soft_stub {
    soft_stub_fn run;
    uint64_t op_address; /* of the instruction proper: what FIP is after it */
};

/* Which kinds of registers the fields of an instruction name. */
enum soft_stub_kind {
    SOFT_STUB_NONE,
    SOFT_STUB_GPR,
    SOFT_STUB_VECTOR,
    SOFT_STUB_MMX, /* keeps its number: it is within the x87 image */
};

struct soft_stub_field {
    uint8_t kind; /* enum soft_stub_kind */
    uint8_t number;
    bool is_high;
    bool is_written;
};

struct soft_stub_shape {
    struct soft_stub_field reg, rm, vvvv, is4;
    bool uses_xmm0, writes_xmm0;
    bool uses_gprs; /* implicit RAX, RCX, RDX */
    bool reads_flags, writes_flags;
    bool uses_x87; /* MMX too */
    bool uses_mxcsr;
    bool is_vex, is_vector_256;
};

/* What the stub of 'insn' needs. False: it is none that a stub can run. */
bool soft_stub_shape(const struct x86_insn *insn, struct soft_stub_shape *out_shape);

struct soft_stubs;

/* The stubs of this process, made on first use: address space, executable mapping and signal handlers. Later calls take
 * no system call but memory. Put ends the use; the last one frees. Threads: any. */
int must_check soft_stubs_get(struct soft_stubs **out_stubs, struct error *err);
void soft_stubs_put(struct soft_stubs *stubs);

/* Makes no more than 'count' from now on, those that there are counted. */
void soft_stubs_limit(struct soft_stubs *stubs, uint32_t count);

/* The stub of 'insn', made if there is none. False: it is none that a stub can run. Threads: any. */
bool soft_stub_find(struct soft_stubs *stubs, const struct x86_insn *insn,
                    struct soft_stub *out_stub);

#endif
