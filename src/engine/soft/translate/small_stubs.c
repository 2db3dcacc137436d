/* Stubs of system instructions that are a few host instructions each. Blocks call them rather than hold their code, so that the
 * verifier need not let blocks write what these write. See native_system.h. */
#include <stddef.h>

#include "base/core/bits.h"
#include "engine/soft/translate/native_stub.h"
#include "engine/soft/translate/native_system.h"

#define AT(member) (VCPU_FIELD(member) + NATIVE_PUSHED)

#define IMMEDIATE_GROUP 0x81
#define GROUP_OR        1
#define GROUP_AND       4

#define A HOST_R14
#define B HOST_R15

static void op(struct emitter *e, uint8_t map, uint8_t opcode, bool is_64, uint8_t reg,
               int32_t disp)
{
    emit_insn(e, &(struct host_insn){.map = map,
                                     .opcode = opcode,
                                     .w = is_64,
                                     .reg = reg,
                                     .is_memory = true,
                                     .base = HOST_RSP,
                                     .index = HOST_NONE,
                                     .disp = disp});
}

/* or or and dword [field], value; or the same with a register. */
static void change_field(struct emitter *e, uint8_t group, int32_t disp, uint32_t value)
{
    op(e, 0, IMMEDIATE_GROUP, false, group, disp);
    emit32(e, value);
}

static void change_reg(struct emitter *e, uint8_t group, uint8_t reg, uint32_t value)
{
    emit_insn(e, &(struct host_insn){.opcode = IMMEDIATE_GROUP, .reg = group, .rm = reg});
    emit32(e, value);
}

/* Memory is seen by the TLB of 'mode' from here on. STAC and CLAC differ in one bit of the mode. */
static void set_tlb(struct emitter *e, enum soft_tlb_mode mode)
{
    _Static_assert(SOFT_TLB_SUPERVISOR == 0 && SOFT_TLB_SUPERVISOR_AC == 2, "one bit apart");
    bool is_set = mode == SOFT_TLB_SUPERVISOR_AC;
    uint8_t group = is_set ? GROUP_OR : GROUP_AND;
    uint32_t bit = SOFT_TLB_SUPERVISOR_AC;
    int32_t tlb = VCPU_FIELD(tlbs) + (int32_t)(mode * sizeof(struct soft_tlb));
    op(e, 0, HOST_OP_LEA, true, A, tlb + NATIVE_PUSHED);
    op(e, 0, HOST_OP_MOV_RM_REG, true, A, AT(tlb));
    change_field(e, group, AT(flags), is_set ? X86_FLAG_AC : ~X86_FLAG_AC);
    change_field(e, group, AT(native_mode), is_set ? bit : ~bit);
    change_field(e, group, AT(native_tag), is_set ? bit : ~bit);
}

static int32_t base_of(enum x86_segment_id id)
{
    return AT(segment) +
           (int32_t)(id * sizeof(struct x86_segment) + offsetof(struct x86_segment, base));
}

static void set_base(struct emitter *e, enum x86_segment_id id)
{
    op(e, 0, HOST_OP_MOV_REG_RM, true, A, AT(native_target));
    op(e, 0, HOST_OP_MOV_RM_REG, true, A, base_of(id));
    op(e, 0, HOST_OP_MOV_RM_REG, true, A, AT(segment_base) + 8 * (int32_t)id);
}

static void swap_gs(struct emitter *e)
{
    int32_t base = base_of(X86_GS);
    op(e, 0, HOST_OP_MOV_REG_RM, true, A, base);
    op(e, 0, HOST_OP_MOV_REG_RM, true, B, AT(kernel_gs_base));
    op(e, 0, HOST_OP_MOV_RM_REG, true, A, AT(kernel_gs_base));
    op(e, 0, HOST_OP_MOV_RM_REG, true, B, base);
    op(e, 0, HOST_OP_MOV_RM_REG, true, B, AT(segment_base) + 8 * X86_GS);
}

static void compose_flags(struct emitter *e)
{
    op(e, 1, 0xb6, false, A, AT(status) + 1); /* movzx */
    change_reg(e, GROUP_AND, A, X86_FLAGS_STATUS & 0xff);
    op(e, 1, 0xb6, false, B, AT(status));
    change_reg(e, GROUP_AND, B, 1);
    emit_shift(e, HOST_SHL, false, B, 11); /* OF */
    emit_op_reg(e, HOST_OP_OR_REG_RM, A, B);
    op(e, 0, HOST_OP_MOV_REG_RM, false, B, AT(flags));
    change_reg(e, GROUP_AND, B, ~(uint32_t)(X86_FLAG_RF | X86_FLAG_VM));
    emit_op_reg(e, HOST_OP_OR_REG_RM, A, B);
    op(e, 0, HOST_OP_MOV_RM_REG, true, A, AT(native_target));
}

static void take_flags(struct emitter *e)
{
    op(e, 0, HOST_OP_MOV_REG_RM, false, A, AT(native_target));
    op(e, 0, HOST_OP_MOV_REG_RM, false, B, AT(native_target));
    change_reg(e, GROUP_AND, B, X86_FLAG_IF);
    change_field(e, GROUP_AND, AT(flags), ~X86_FLAG_IF);
    op(e, 0, 0x09, false, B, AT(flags)); /* or [flags], r15d */
    emit_insn(e, &(struct host_insn){.opcode = HOST_OP_MOV_REG_RM, .reg = B, .rm = A});
    emit_shift(e, HOST_SHR, false, B, 11); /* OF */
    change_reg(e, GROUP_AND, B, 1);
    change_reg(e, GROUP_AND, A, X86_FLAGS_STATUS & 0xff);
    emit_shift(e, HOST_SHL, false, A, 8);
    emit_op_reg(e, HOST_OP_OR_REG_RM, A, B);
    change_reg(e, GROUP_OR, A, 0x200);
    emit_insn(e, &(struct host_insn){.opcode = HOST_OP_MOV_RM_REG,
                                     .is_16 = true,
                                     .reg = A,
                                     .is_memory = true,
                                     .base = HOST_RSP,
                                     .index = HOST_NONE,
                                     .disp = AT(status)});
}

static void read_counter(struct emitter *e, bool has_aux)
{
    emit8(e, 0x0f);
    if (has_aux) {
        emit8(e, 0x01); /* rdtscp */
        emit8(e, 0xf9);
        op(e, 0, HOST_OP_MOV_REG_RM, false, HOST_RCX, AT(tsc_aux));
    } else {
        emit8(e, 0x31);
    }
    emit_shift(e, HOST_SHL, true, HOST_RDX, 32);
    emit_op_reg(e, HOST_OP_OR_REG_RM, HOST_RAX, HOST_RDX);
    op(e, 0, HOST_OP_ADD_REG_RM, true, HOST_RAX, AT(tsc_offset));
    emit_op_reg(e, HOST_OP_MOV_REG_RM, HOST_RDX, HOST_RAX);
    emit_shift(e, HOST_SHR, true, HOST_RDX, 32);
    emit_insn(e,
              &(struct host_insn){.opcode = HOST_OP_MOV_REG_RM, .reg = HOST_RAX, .rm = HOST_RAX});
}

void native_make_small(struct emitter *e, enum native_small small)
{
    switch (small) {
    case NATIVE_SMALL_CLI:
        change_field(e, GROUP_AND, AT(flags), ~X86_FLAG_IF);
        break;
    case NATIVE_SMALL_STI:
        change_field(e, GROUP_OR, AT(flags), X86_FLAG_IF);
        break;
    case NATIVE_SMALL_CLD:
        change_field(e, GROUP_AND, AT(flags), ~X86_FLAG_DF);
        break;
    case NATIVE_SMALL_STD:
        change_field(e, GROUP_OR, AT(flags), X86_FLAG_DF);
        break;
    case NATIVE_SMALL_STAC:
        set_tlb(e, SOFT_TLB_SUPERVISOR_AC);
        break;
    case NATIVE_SMALL_CLAC:
        set_tlb(e, SOFT_TLB_SUPERVISOR);
        break;
    case NATIVE_SMALL_SWAPGS:
        swap_gs(e);
        break;
    case NATIVE_SMALL_PUSHF:
        compose_flags(e);
        break;
    case NATIVE_SMALL_POPF:
        take_flags(e);
        break;
    case NATIVE_SMALL_RDTSC:
    case NATIVE_SMALL_RDTSCP:
        read_counter(e, small == NATIVE_SMALL_RDTSCP);
        break;
    case NATIVE_SMALL_WRFSBASE:
        set_base(e, X86_FS);
        break;
    case NATIVE_SMALL_WRGSBASE:
        set_base(e, X86_GS);
        break;
    }
    emit8(e, 0xc3);
}
