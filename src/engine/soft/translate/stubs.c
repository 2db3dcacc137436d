/* Host code that every block needs: the way in and out, and calls of C functions with the guest's registers put away.
 *
 * While translated code runs, RSP points into the vCPU, so that its fields are at small displacements; the host's stack
 * pointer waits in native_host_rsp. R14 and R15 are scratch. */
#include <stddef.h>

#include "engine/soft/translate/native_string.h"
#include "engine/soft/translate/native_stub.h"
#include "engine/soft/translate/native_system.h"

typedef const uint8_t *quick_function(struct soft_vcpu *v, const struct native_site *site,
                                      uint32_t argument);

static const uint8_t homes[13] = {
    HOST_RAX, HOST_RCX, HOST_RDX, HOST_RBX, HOST_R13, HOST_RBP, HOST_RSI,
    HOST_RDI, HOST_R8,  HOST_R9,  HOST_R10, HOST_R11, HOST_R12,
};

static void load_guest(struct emitter *e)
{
    for (int i = 0; i < 13; i++) {
        emit_op_base(e, HOST_OP_MOV_REG_RM, homes[i], HOST_RSP, VCPU_FIELD(gpr) + 8 * i);
    }
}

static void store_guest(struct emitter *e)
{
    for (int i = 0; i < 13; i++) {
        emit_op_base(e, HOST_OP_MOV_RM_REG, homes[i], HOST_RSP, VCPU_FIELD(gpr) + 8 * i);
    }
}

/* The C functions' first argument. */
static void emit_vcpu(struct emitter *e)
{
    emit_op_base(e, HOST_OP_LEA, HOST_RDI, HOST_RSP, -NATIVE_ANCHOR);
}

/* pop [rsp + disp]; RSP in the address is that after the pop. */
static void pop_into_field(struct emitter *e, int32_t disp)
{
    emit8(e, 0x8f);
    emit8(e, 0x84);
    emit8(e, 0x24);
    emit32(e, (uint32_t)disp);
}

/* [rsp + disp] as the operand of one of the instructions below. */
static void emit_at(struct emitter *e, uint8_t prefix, uint8_t map, uint8_t opcode, uint8_t reg,
                    int32_t disp, bool is_vex_256)
{
    emit_insn(e, &(struct host_insn){.prefix = prefix,
                                     .map = map,
                                     .opcode = opcode,
                                     .reg = reg,
                                     .is_vex = is_vex_256,
                                     .vex_l = is_vex_256,
                                     .is_memory = true,
                                     .base = HOST_RSP,
                                     .index = HOST_NONE,
                                     .disp = disp});
}

#define LDMXCSR 2
#define STMXCSR 3

/* XSAVE64 (4) or XRSTOR64 (5) of the components in EDX:EAX. */
static void emit_xsave(struct emitter *e, uint8_t extension, int32_t disp)
{
    emit_insn(e, &(struct host_insn){.w = true,
                                     .map = 1,
                                     .opcode = 0xae,
                                     .reg = extension,
                                     .is_memory = true,
                                     .base = HOST_RSP,
                                     .index = HOST_NONE,
                                     .disp = disp});
}

static void move_vectors(struct emitter *e, bool is_load, bool is_256, int32_t stack)
{
    for (uint8_t i = 0; i < 16; i++) {
        emit_at(e, 0, 1, is_load ? 0x10 : 0x11, i, VCPU_FIELD(vector) + 32 * i + stack, is_256);
    }
}

static void emit_vzeroupper(struct emitter *e)
{
    emit8(e, 0xc5);
    emit8(e, 0xf8);
    emit8(e, 0x77);
}

static void set_live(struct emitter *e, uint8_t value, int32_t stack)
{
    emit_at(e, 0, 0, 0xc6, 0, VCPU_FIELD(native_vectors_live) + stack, false);
    emit8(e, value);
}

/* Guest vectors, if they are in the host's registers, to the vCPU. */
static void save_vectors(struct emitter *e)
{
    emit_at(e, 0, 0, 0x80, 7, VCPU_FIELD(native_vectors_live), false);
    emit8(e, 0);
    uint8_t *over = emit_jcc(e, HOST_IF_EQUAL);
    move_vectors(e, false, __builtin_cpu_supports("avx"), 0);
    emit_at(e, 0, 1, 0xae, STMXCSR, VCPU_FIELD(mxcsr), false);
    emit_at(e, 0, 1, 0xae, LDMXCSR, VCPU_FIELD(native_host_mxcsr), false);
    if (__builtin_cpu_supports("avx")) {
        emit_vzeroupper(e);
    }
    set_live(e, 0, 0);
    emit_bind(over, e->at);
}

/* The same for the x87 state; RAX and RDX are spoiled. */
static void save_x87(struct emitter *e)
{
    emit_at(e, 0, 0, 0x80, 7, VCPU_FIELD(native_x87_live), false);
    emit8(e, 0);
    uint8_t *over = emit_jcc(e, HOST_IF_EQUAL);
    emit_mov_imm(e, HOST_RAX, 1);
    emit_mov_imm(e, HOST_RDX, 0);
    emit_xsave(e, 4, VCPU_FIELD(fx));
    emit8(e, 0xdb); /* fninit: C code finds empty registers */
    emit8(e, 0xe3);
    emit_at(e, 0, 0, 0xc6, 0, VCPU_FIELD(native_x87_live), false);
    emit8(e, 0);
    emit_at(e, 0, 0, 0xc6, 0, VCPU_FIELD(native_x87_is_saved), false);
    emit8(e, 1);
    emit_bind(over, e->at);
}

/* Called by blocks; changes no general register and no flag. */
static uint8_t *make_load_x87(struct emitter *e)
{
    uint8_t *start = e->at;
    emit_op_base(e, HOST_OP_MOV_RM_REG, HOST_RAX, HOST_RSP, VCPU_FIELD(gpr) + 8 * X86_RAX + 8);
    emit_op_base(e, HOST_OP_MOV_RM_REG, HOST_RDX, HOST_RSP, VCPU_FIELD(gpr) + 8 * X86_RDX + 8);
    emit_mov_imm(e, HOST_RAX, 1);
    emit_mov_imm(e, HOST_RDX, 0);
    emit_op_base(e, HOST_OP_MOV_RM_REG, HOST_RAX, HOST_RSP, VCPU_FIELD(fx_header) + 8);
    emit_xsave(e, 5, VCPU_FIELD(fx) + 8);
    emit_op_base(e, HOST_OP_MOV_REG_RM, HOST_RAX, HOST_RSP, VCPU_FIELD(gpr) + 8 * X86_RAX + 8);
    emit_op_base(e, HOST_OP_MOV_REG_RM, HOST_RDX, HOST_RSP, VCPU_FIELD(gpr) + 8 * X86_RDX + 8);
    emit_at(e, 0, 0, 0xc6, 0, VCPU_FIELD(native_x87_live) + 8, false);
    emit8(e, 1);
    emit8(e, 0xc3);
    return start;
}

/* Calls 'function'(vCPU, R14) and goes on at what it returns. 'is_called': R14 is the return address on the stack.
 * 'out_stored': with the guest's general registers in the vCPU. */
static uint8_t *make_call(struct emitter *e, bool is_called, const void *function,
                          const uint8_t **out_stored)
{
    uint8_t *start = e->at;
    if (is_called) {
        emit_pop(e, HOST_R14);
    }
    store_guest(e);
    if (out_stored) {
        *out_stored = e->at;
    }
    save_vectors(e);
    save_x87(e);
    emit_vcpu(e);
    emit_op_reg(e, HOST_OP_MOV_REG_RM, HOST_RSI, HOST_R14);
    emit_op_reg(e, HOST_OP_MOV_REG_RM, HOST_RBX, HOST_RSP);
    emit_op_base(e, HOST_OP_MOV_REG_RM, HOST_RSP, HOST_RSP, VCPU_FIELD(native_host_rsp));
    emit_mov_imm(e, HOST_RAX, (uint64_t)(uintptr_t)function);
    emit8(e, 0xff);
    emit8(e, 0xd0);
    emit_op_reg(e, HOST_OP_MOV_REG_RM, HOST_RSP, HOST_RBX);
    emit_op_reg(e, HOST_OP_MOV_REG_RM, HOST_R14, HOST_RAX);
    load_guest(e);
    emit_jmp_reg(e, HOST_R14);
    return start;
}

/* function(vCPU, site, R15), one that leaves the vectors where they are; what it does not do is for the interpreter. */
static uint8_t *make_quick(struct emitter *e, quick_function *function,
                           const uint8_t *interpret_stored)
{
    uint8_t *start = e->at;
    emit_pop(e, HOST_R14);
    store_guest(e);
    emit_vcpu(e);
    emit_op_reg(e, HOST_OP_MOV_REG_RM, HOST_RSI, HOST_R14);
    emit_op_reg(e, HOST_OP_MOV_REG_RM, HOST_RDX, HOST_R15);
    emit_op_reg(e, HOST_OP_MOV_REG_RM, HOST_RBX, HOST_RSP);
    emit_op_base(e, HOST_OP_MOV_REG_RM, HOST_RSP, HOST_RSP, VCPU_FIELD(native_host_rsp));
    emit_mov_imm(e, HOST_RAX, (uint64_t)(uintptr_t)function);
    emit8(e, 0xff);
    emit8(e, 0xd0);
    emit_op_reg(e, HOST_OP_MOV_REG_RM, HOST_RSP, HOST_RBX);
    emit8(e, 0x48); /* test rax, rax */
    emit8(e, 0x85);
    emit8(e, 0xc0);
    emit_bind(emit_jcc(e, HOST_IF_EQUAL), interpret_stored);
    emit_op_reg(e, HOST_OP_MOV_REG_RM, HOST_R14, HOST_RAX);
    load_guest(e);
    emit_jmp_reg(e, HOST_R14);
    return start;
}

void native_emit_jump_place(struct emitter *e)
{
    emit8(e, 0x45); /* mov r15d, r14d */
    emit8(e, 0x89);
    emit8(e, 0xf7);
    emit8(e, 0x41); /* and r15d, mask */
    emit8(e, 0x81);
    emit8(e, 0xe7);
    emit32(e, NATIVE_JUMP_MASK);
}

void native_emit_jump_page(struct emitter *e, int32_t pushed)
{
    emit_shift(e, HOST_SHR, true, HOST_R14, GUEST_PAGE_SHIFT);
    emit_op_base(e, HOST_OP_MOV_RM_REG, HOST_R14, HOST_RSP, VCPU_FIELD(native_page) + pushed);
}

void native_emit_done(struct emitter *e)
{
    emit_pop(e, HOST_R14);
    emit_op_base(e, HOST_OP_LEA, HOST_R14, HOST_R14, sizeof(struct native_site));
    emit_jmp_reg(e, HOST_R14);
}

/* CPUID of a leaf whose registers are known; the interpreter does the others, and notes them. */
static uint8_t *make_cpuid(struct emitter *e, const uint8_t *interpret)
{
    const int32_t known = VCPU_FIELD(cpuid_known) + NATIVE_PUSHED;
    const struct {
        uint8_t reg;
        size_t offset;
    } out[] = {
        {HOST_RAX, offsetof(struct soft_cpuid_known, eax)},
        {HOST_RBX, offsetof(struct soft_cpuid_known, ebx)},
        {HOST_RCX, offsetof(struct soft_cpuid_known, ecx)},
        {HOST_RDX, offsetof(struct soft_cpuid_known, edx)},
    };
    struct host_insn at = {.is_memory = true, .base = HOST_RSP, .index = HOST_R15};
    uint8_t *start = e->at;
    emit_insn(e, &(struct host_insn){.opcode = HOST_OP_LEA, /* lea r15d, [rax + rcx] */
                                     .reg = HOST_R15,
                                     .is_memory = true,
                                     .base = HOST_RAX,
                                     .index = HOST_RCX});
    emit8(e, 0x41); /* and r15d, mask */
    emit8(e, 0x83);
    emit8(e, 0xe7);
    emit8(e, SOFT_CPUID_KNOWN - 1);
    _Static_assert(sizeof(struct soft_cpuid_known) == 32, "the shift");
    emit_shift(e, HOST_SHL, false, HOST_R15, 5);
    at.opcode = HOST_OP_CMP_REG_RM;
    at.reg = HOST_RAX;
    at.disp = known + (int32_t)offsetof(struct soft_cpuid_known, leaf);
    emit_insn(e, &at);
    emit_bind(emit_jcc(e, HOST_IF_NOT_EQUAL), interpret);
    at.reg = HOST_RCX;
    at.disp = known + (int32_t)offsetof(struct soft_cpuid_known, subleaf);
    emit_insn(e, &at);
    emit_bind(emit_jcc(e, HOST_IF_NOT_EQUAL), interpret);
    at.opcode = HOST_OP_MOV_REG_RM;
    for (size_t i = 0; i < ARRAY_COUNT(out); i++) {
        at.reg = out[i].reg;
        at.disp = known + (int32_t)out[i].offset;
        emit_insn(e, &at);
    }
    emit8(e, 0xf0); /* lock or dword [rsp], 0: CPUID serializes, and is used as a barrier */
    emit8(e, 0x83);
    emit8(e, 0x0c);
    emit8(e, 0x24);
    emit8(e, 0);
    native_emit_done(e);
    return start;
}

static const uint8_t saved[] = {HOST_RBP, HOST_RBX, HOST_R12, HOST_R13, HOST_R14, HOST_R15};

/* void enter(struct soft_vcpu *v, const uint8_t *code) */
static uint8_t *make_enter(struct emitter *e)
{
    uint8_t *start = e->at;
    for (size_t i = 0; i < sizeof(saved); i++) {
        emit_push(e, saved[i]);
    }
    emit_push(e, HOST_RAX); /* calls from here find the stack aligned */
    emit_op_base(e, HOST_OP_LEA, HOST_RDI, HOST_RDI, NATIVE_ANCHOR);
    emit_op_base(e, HOST_OP_MOV_RM_REG, HOST_RSP, HOST_RDI, VCPU_FIELD(native_host_rsp));
    emit_op_reg(e, HOST_OP_MOV_REG_RM, HOST_RSP, HOST_RDI);
    emit_op_reg(e, HOST_OP_MOV_REG_RM, HOST_R14, HOST_RSI);
    load_guest(e);
    emit_jmp_reg(e, HOST_R14);
    return start;
}

/* Behind a call of a C function, when the guest's registers are in the vCPU still. */
static uint8_t *make_leave(struct emitter *e)
{
    uint8_t *start = e->at;
    emit_op_base(e, HOST_OP_MOV_REG_RM, HOST_RSP, HOST_RSP, VCPU_FIELD(native_host_rsp));
    emit_pop(e, HOST_RAX);
    for (size_t i = sizeof(saved); i-- > 0;) {
        emit_pop(e, saved[i]);
    }
    emit8(e, 0xc3);
    return start;
}

/* Sets ZF if the upper halves of all vectors in the vCPU are 0. XMM0 is spoiled. */
static void test_upper_halves(struct emitter *e)
{
    for (uint8_t i = 0; i < 16; i++) {
        emit_insn(e, &(struct host_insn){.prefix = i ? 0x66 : 0xf3, /* vmovdqu, then vpor */
                                         .is_vex = true,
                                         .map = 1,
                                         .opcode = i ? 0xeb : 0x6f,
                                         .is_memory = true,
                                         .base = HOST_RSP,
                                         .index = HOST_NONE,
                                         .disp = VCPU_FIELD(vector) + 32 * i + 16 + 8});
    }
    emit_insn(e, &(struct host_insn){.prefix = 0x66, .is_vex = true, .map = 2, .opcode = 0x17});
}

static void load_vectors(struct emitter *e, bool with_upper)
{
    move_vectors(e, true, with_upper, 8);
    emit_at(e, 0, 1, 0xae, LDMXCSR, VCPU_FIELD(mxcsr) + 8, false);
    set_live(e, 1, 8);
    emit8(e, 0xc3);
}

/* Called by blocks; changes no general register, but the flags. Registers whose upper halves are all 0 are loaded such that the
 * host's CPU knows it, or else each SSE instruction waits for the one that wrote its target before. */
static uint8_t *make_load_vectors(struct emitter *e)
{
    uint8_t *start = e->at;
    if (__builtin_cpu_supports("avx")) {
        test_upper_halves(e);
        uint8_t *over = emit_jcc(e, HOST_IF_EQUAL);
        load_vectors(e, true);
        emit_bind(over, e->at);
        emit_vzeroupper(e);
    }
    load_vectors(e, false);
    return start;
}

/* Calls function(vCPU, R14, R15); R15 is spoiled. */
static void call_for_miss(struct emitter *e,
                          uint32_t (*function)(struct soft_vcpu *, uint64_t, uint32_t))
{
    emit_vcpu(e);
    emit_op_reg(e, HOST_OP_MOV_REG_RM, HOST_RSI, HOST_R14);
    emit_op_reg(e, HOST_OP_MOV_REG_RM, HOST_RDX, HOST_R15);
    emit_op_reg(e, HOST_OP_MOV_REG_RM, HOST_R15, HOST_RSP);
    emit_op_base(e, HOST_OP_MOV_REG_RM, HOST_RSP, HOST_RSP, VCPU_FIELD(native_host_rsp));
    emit_mov_imm(e, HOST_RAX, (uint64_t)(uintptr_t)function);
    emit8(e, 0xff);
    emit8(e, 0xd0);
    emit_op_reg(e, HOST_OP_MOV_REG_RM, HOST_RSP, HOST_R15);
}

/* cmp eax, 'value' */
static void compare_answer(struct emitter *e, uint8_t value)
{
    emit8(e, 0x83);
    emit8(e, 0xf8);
    emit8(e, value);
}

/* Called by blocks with an address in R14 and an access in R15. 'Equal': it may be tried again; 'above': R14 has the host's address
 * of it, for this time. Registers stay but R15, and R14 then; vectors are live after it if they were before, if it goes on. */
static uint8_t *make_fill(struct emitter *e, const uint8_t *load_vectors)
{
    static const uint8_t spoiled[] = {HOST_RAX, HOST_RCX, HOST_RDX, HOST_RSI, HOST_RDI,
                                      HOST_R8,  HOST_R9,  HOST_R10, HOST_R11};
    uint8_t *start = e->at;
    pop_into_field(e, VCPU_FIELD(native_return));
    for (size_t i = 0; i < sizeof(spoiled); i++) {
        emit_op_base(e, HOST_OP_MOV_RM_REG, spoiled[i], HOST_RSP, VCPU_FIELD(gpr) + 8 * spoiled[i]);
    }
    call_for_miss(e, native_on_miss);
    compare_answer(e, NATIVE_MISS_ASK);
    uint8_t *ask = emit_jcc(e, HOST_IF_EQUAL);
    compare_answer(e, NATIVE_MISS_FILLED);
    uint8_t *known = emit_jcc(e, HOST_IF_BELOW_OR_EQUAL);
    emit_op_base(e, HOST_OP_MOV_REG_RM, HOST_R14, HOST_RSP, VCPU_FIELD(native_miss.hva));
    uint8_t *done = e->at;
    emit_bind(known, done);
    for (size_t i = 0; i < sizeof(spoiled); i++) {
        emit_op_base(e, HOST_OP_MOV_REG_RM, spoiled[i], HOST_RSP, VCPU_FIELD(gpr) + 8 * spoiled[i]);
    }
    emit_at(e, 0, 0, 0xff, 4, VCPU_FIELD(native_return), false); /* jmp */

    emit_bind(ask, e->at);
    save_vectors(e);
    emit_op_base(e, HOST_OP_MOV_REG_RM, HOST_R15, HOST_RSP, VCPU_FIELD(native_miss.access));
    call_for_miss(e, native_on_fill);
    compare_answer(e, NATIVE_MISS_FILLED);
    emit_bind(emit_jcc(e, HOST_IF_NOT_EQUAL), done);
    emit_at(e, 0, 0, 0x80, 7, VCPU_FIELD(native_miss.had_vectors), false);
    emit8(e, 0);
    uint8_t *over = emit_jcc(e, HOST_IF_EQUAL);
    emit_bind(emit_call(e), load_vectors);
    emit_bind(over, e->at);
    emit8(e, 0x48); /* cmp rsp, rsp */
    emit8(e, 0x39);
    emit8(e, 0xe4);
    emit_bind(emit_jmp(e), done);
    return start;
}

/* An indirect branch whose target (R14, native_target) is not at its place of the jump cache: it may be beside it. The caller's
 * site waits at [RSP]; flags are saved. */
static uint8_t *make_indirect(struct emitter *e, bool is_shared)
{
    const int32_t pushed = NATIVE_PUSHED, jump = VCPU_FIELD(native_jump) + pushed;
    const int32_t rip = jump + (int32_t)offsetof(struct soft_native_jump, rip),
                  tag = jump + (int32_t)offsetof(struct soft_native_jump, tag),
                  code = jump + (int32_t)offsetof(struct soft_native_jump, code);
    uint8_t *start = e->at, *next[2], *swap[NATIVE_JUMP_WAYS - 1];
    native_emit_jump_place(e);
    for (uint32_t way = 1; way < NATIVE_JUMP_WAYS; way++) {
        emit8(e, 0x41); /* xor r15d, from the last way to this one */
        emit8(e, 0x83);
        emit8(e, 0xf7);
        emit8(e, (uint8_t)((way ^ (way - 1)) << NATIVE_JUMP_SHIFT));
        emit_op_table(e, HOST_OP_CMP_REG_RM, HOST_R14, HOST_R15, rip);
        next[0] = emit_jcc(e, HOST_IF_NOT_EQUAL);
        emit_op_table(e, HOST_OP_MOV_REG_RM, HOST_R14, HOST_R15, tag);
        emit_op_base(e, HOST_OP_CMP_REG_RM, HOST_R14, HOST_RSP, VCPU_FIELD(native_tag) + pushed);
        emit_op_base(e, HOST_OP_MOV_REG_RM, HOST_R14, HOST_RSP, VCPU_FIELD(native_target) + pushed);
        next[1] = emit_jcc(e, HOST_IF_NOT_EQUAL);
        emit_at(e, 0, 0, 0xff, 1, VCPU_FIELD(native_jump_patience) + pushed, false); /* dec */
        swap[way - 1] = emit_jcc(e, HOST_IF_EQUAL);
        if (is_shared) {
            native_emit_jump_page(e, pushed);
        }
        emit_op_base(e, HOST_OP_LEA, HOST_RSP, HOST_RSP, pushed);
        emit_jmp_table(e, HOST_R15, code - pushed);
        emit_bind(next[0], e->at);
        emit_bind(next[1], e->at);
    }
    for (uint32_t way = 1; way < NATIVE_JUMP_WAYS; way++) {
        emit_bind(swap[way - 1], e->at);
    }
    (void)make_call(e, true, (const void *)(uintptr_t)native_on_indirect, NULL);
    return start;
}

void native_make_stubs(struct soft_vcpu *v)
{
    struct soft_native *n = v->native;
    struct emitter e = {.at = n->writable, .fits_jumps = n->fits_jumps};
    n->enter = make_enter(&e);
    n->leave = make_leave(&e);
    n->load_vectors = make_load_vectors(&e);
    n->fill = make_fill(&e, n->load_vectors);
    n->load_x87 = make_load_x87(&e);
    const uint8_t *interpret_stored;
    n->interpret =
        make_call(&e, true, (const void *)(uintptr_t)native_on_interpret, &interpret_stored);
    n->string = make_quick(&e, native_on_string, interpret_stored);
    native_make_string_stubs(n, &e);
    n->cpuid = make_cpuid(&e, n->interpret);
    n->syscall = make_quick(&e, native_on_syscall, interpret_stored);
    n->sysret = make_quick(&e, native_on_sysret, interpret_stored);
    n->page_fault = make_quick(&e, native_on_page_fault, interpret_stored);
    n->iret = make_quick(&e, native_on_iret, interpret_stored);
    n->invlpg = make_quick(&e, native_on_invlpg, interpret_stored);
    n->exit_at = make_call(&e, true, (const void *)(uintptr_t)native_on_exit_at, NULL);
    n->indirect = make_indirect(&e, false);
    n->indirect_shared = make_indirect(&e, true);
    n->make_link = make_call(&e, false, (const void *)(uintptr_t)native_on_link, NULL);
    n->no_call = make_call(&e, false, (const void *)(uintptr_t)native_on_no_call, NULL);
    n->resume = make_call(&e, false, (const void *)(uintptr_t)native_on_resume, NULL);
    for (unsigned i = 0; i < NATIVE_SMALL_COUNT; i++) {
        n->small[i] = e.at;
        native_make_small(&e, (enum native_small)i);
    }
    n->fault = make_call(&e, false, (const void *)(uintptr_t)native_on_fault, NULL);
    n->fixed = n->used = (size_t)(e.at - n->writable + 63) & ~(size_t)63;
}
