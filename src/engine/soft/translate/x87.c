/* x87 instructions with the guest's x87 state in the host's registers.
 *
 * Only while all exceptions are masked, so that none can be pending: what changes the control word, resets, or handles
 * the environment is the interpreter's. The host would note the addresses of its own instructions; blocks note the guest's
 * beside them, and after the state is saved they are put where the host's stand. */
#include "base/core/endian.h"
#include "engine/soft/simd.h"
#include "engine/soft/translate/translate.h"

#define ADDRESS HOST_R14
#define SCRATCH HOST_R15

#define FX_FOP 6
#define FX_FIP 8
#define FX_FDP 16

bool native_x87_is_plain(uint16_t id)
{
    switch (id) {
    case X86_ID_FLDENV:
    case X86_ID_FNSTENV:
    case X86_ID_FLDCW:
    case X86_ID_FNSAVE:
    case X86_ID_FRSTOR:
    case X86_ID_FNINIT:
    case X86_ID_FNCLEX:
    case X86_ID_FNENI:
    case X86_ID_FNDISI:
    case X86_ID_FNSETPM:
    case X86_ID_FWAIT:
        return false;
    default:
        return true;
    }
}

static bool leaves_pointers(uint16_t id)
{
    return id == X86_ID_FNSTCW || id == X86_ID_FNSTSW;
}

static void emit_store_dword(struct emitter *e, int32_t disp, uint32_t value)
{
    emit_insn(
        e,
        &(struct host_insn){
            .opcode = 0xc7, .is_memory = true, .base = HOST_RSP, .index = HOST_NONE, .disp = disp});
    emit32(e, value);
}

/* The guest's state into the host's registers, unless it is there. */
static void emit_live_state(struct translation *t, const struct native_insn *n)
{
    if (t->has_x87) {
        return;
    }
    struct emitter *e = &t->e;
    native_give_up_flags(t, n->live_before);
    emit_insn(e, &(struct host_insn){.opcode = 0x80, /* cmp byte [rsp + live], 0 */
                                     .reg = 7,
                                     .is_memory = true,
                                     .base = HOST_RSP,
                                     .index = HOST_NONE,
                                     .disp = VCPU_FIELD(native_x87_live)});
    emit8(e, 0);
    struct slow_path *slow = native_add_slow(t, SLOW_X87);
    slow->jump = emit_jcc(e, HOST_IF_EQUAL);
    slow->after = e->at;
    t->has_x87 = true;
}

static void emit_pointers(struct translation *t, const struct native_insn *n)
{
    struct emitter *e = &t->e;
    const struct x86_insn *insn = &n->insn;
    if (leaves_pointers(insn->id)) {
        return;
    }
    native_emit_rip(t, SCRATCH, native_rip(t->source, t->index));
    emit_op_base(e, HOST_OP_MOV_RM_REG, SCRATCH, HOST_RSP, VCPU_FIELD(native_x87.fip));
    uint32_t fop = t->x87.has_fop ? (uint32_t)(insn->opcode & 7) << 8 | insn->modrm : 0;
    emit_store_dword(e, VCPU_FIELD(native_x87.fop), NATIVE_X87_NOTED | fop);
    if (insn->has_memory && t->x87.has_fdp) {
        emit_op_base(e, HOST_OP_MOV_REG_RM, SCRATCH, HOST_RSP, VCPU_FIELD(native_target));
        emit_op_base(e, HOST_OP_MOV_RM_REG, SCRATCH, HOST_RSP, VCPU_FIELD(native_x87.fdp));
        emit_store_dword(e, VCPU_FIELD(native_x87.segment), NATIVE_X87_NOTED | insn->segment);
    }
}

void native_emit_x87(struct translation *t, const struct native_insn *n)
{
    struct emitter *e = &t->e;
    const struct x86_insn *insn = &n->insn;
    bool is_written = n->row->memory_access & X86_OPERAND_WRITE;
    emit_live_state(t, n);
    if (insn->has_memory) {
        native_give_up_flags(t, n->live_before);
        native_emit_address(t, n);
        emit_op_base(e, HOST_OP_MOV_RM_REG, ADDRESS, HOST_RSP, VCPU_FIELD(native_target));
        native_emit_check(t, native_memory_size(insn), is_written);
    }
    /* Where the instruction may fault on the host, FIP is still another's; CPUs of AMD do not show it then. */
    bool is_noted_late = insn->has_memory && t->is_intel;
    if (!is_noted_late) {
        emit_pointers(t, n);
    }
    if (n->reads || (n->writes && (n->live_after & ~n->writes))) {
        native_want_flags(t, SCRATCH);
    }
    emit_insn(e, &(struct host_insn){.opcode = insn->opcode,
                                     .reg = insn->modrm >> 3 & 7,
                                     .rm = insn->modrm & 7,
                                     .is_memory = insn->has_memory,
                                     .base = ADDRESS,
                                     .index = HOST_NONE});
    if (is_noted_late) {
        emit_pointers(t, n);
    }
    if (n->writes) {
        t->flags = FLAGS_HOST;
    }
}

void native_x87_saved(struct soft_vcpu *v)
{
    struct simd_pointers *last = &v->simd->last;
    const struct soft_native *n = v->native;
    const struct soft_x87_model *model = &v->vm->x87;
    v->native_x87_is_saved = 0;
    if (v->native_x87.fop & NATIVE_X87_NOTED) {
        last->fip = v->native_x87.fip;
        last->fcs = model->has_selectors ? v->segment[X86_CS].selector : 0;
        if (model->has_fop) {
            last->fop = v->native_x87.fop & 0x7ff;
        }
        v->native_x87.fop = 0;
    }
    if (v->native_x87.segment & NATIVE_X87_NOTED) {
        last->fdp = v->native_x87.fdp;
        last->fds = model->has_selectors ? v->segment[v->native_x87.segment & 7].selector : 0;
        v->native_x87.segment = 0;
    }
    if (le64_get(v->fx + FX_FIP) - (uint64_t)(uintptr_t)n->executable < n->size) {
        le64_put(v->fx + FX_FIP, last->fip);
        le16_put(v->fx + FX_FOP, last->fop);
        le64_put(v->fx + FX_FDP, last->fdp);
    }
}
