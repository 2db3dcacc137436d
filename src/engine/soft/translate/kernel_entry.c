/* INVLPG, and ways into the guest's kernel and out of it, when they are the common ones: SYSCALL, SYSRET, #PF and IRET between 64-bit code of
 * CPL 3 and 0. Whatever else they might mean is found before anything changes, and left to the interpreter, which knows it all. No
 * vector registers here: the guest's may be in the host's. */
#include "engine/soft/memory_access.h"
#include "engine/soft/system.h"
#include "engine/soft/tlb.h"
#include "engine/soft/translate/native_system.h"
#include "engine/soft/windows.h"

/* On to the block at RIP for the TLB of 'tlb', if it has been found before and nobody wants anything of the vCPU. */
static const uint8_t *go_to(struct soft_vcpu *v, uint64_t rip, enum soft_tlb_mode tlb)
{
    const struct soft_native *n = v->native;
    v->rip = rip;
    v->tlb = &v->tlbs[tlb];
    v->align_check = false;
    /* Which of the vectors are on has not changed. */
    const uint32_t others =
        NATIVE_MODE_TLB | NATIVE_MODE_LOW | NATIVE_MODE_WINDOWS | NATIVE_MODE_OWN;
    uint32_t mode = (v->native_mode & ~others) | tlb;
    if (tlb != SOFT_TLB_USER) {
        mode |= rip >> 63 ? 0 : NATIVE_MODE_LOW;
    } else if (v->window_state == SOFT_WINDOWS_ON) {
        mode |= NATIVE_MODE_WINDOWS | (v->windows_own_blocks ? NATIVE_MODE_OWN : 0);
    }
    v->native_mode = mode;
    v->native_page = native_is_shared(v, mode) ? rip >> GUEST_PAGE_SHIFT : 0;
    native_use_tag(v, v->native_mode);
    const struct soft_native_jump *jump = native_find_jump(v, rip, v->native_mode);
    if (likely(jump && !atomic_load_explicit(&v->requests, memory_order_relaxed) &&
               !(tlb == SOFT_TLB_USER && v->window_state == SOFT_WINDOWS_CHECK))) {
        return jump->code;
    }
    return native_executable(n, n->resume);
}

static enum soft_tlb_mode supervisor_tlb(const struct soft_vcpu *v, uint32_t flags)
{
    return (v->cr4 & X86_CR4_SMAP) && !(flags & X86_FLAG_AC) ? SOFT_TLB_SUPERVISOR
                                                             : SOFT_TLB_SUPERVISOR_AC;
}

/* All of RFLAGS; IF may let an interrupt in. */
static void set_flags(struct soft_vcpu *v, uint32_t flags)
{
    if ((flags & ~v->flags & X86_FLAG_IF) && v->interrupt_waiting) {
        soft_request(v, SOFT_REQUEST_INTERRUPT);
    }
    v->flags = (flags & ~X86_FLAGS_STATUS) | X86_FLAG_ONE;
    soft_set_status(v, flags);
}

const uint8_t *native_on_syscall(struct soft_vcpu *v, const struct native_site *site,
                                 uint32_t length)
{
    uint32_t flags = soft_rflags(v);
    if (unlikely(!(v->efer & X86_EFER_SCE) || flags & X86_FLAG_TF)) {
        return NULL;
    }
    uint16_t cs = (uint16_t)(v->star >> 32);
    v->gpr[X86_RCX] = site->rip + native_base(v) + length;
    v->gpr[X86_R11] = flags & ~X86_FLAG_RF;
    soft_set_flat_segments(v, cs, (uint16_t)(cs + 8), 0, true);
    flags &= ~((uint32_t)v->sfmask | X86_FLAG_RF);
    set_flags(v, flags);
    return go_to(v, v->lstar, supervisor_tlb(v, flags));
}

/* Flags that a return may load here: with others, what comes next is not the common case. */
#define RETURN_FLAGS                                                                               \
    (X86_FLAGS_STATUS | X86_FLAG_ONE | X86_FLAG_IF | X86_FLAG_DF | X86_FLAG_IOPL | X86_FLAG_RF |   \
     X86_FLAG_ID)

const uint8_t *native_on_sysret(struct soft_vcpu *v, const struct native_site *site,
                                uint32_t length)
{
    (void)site;
    (void)length;
    uint64_t target = v->gpr[X86_RCX], flags = v->gpr[X86_R11];
    if (unlikely(!(v->efer & X86_EFER_SCE) || !x86_is_canonical(target) ||
                 (flags & 0xffffffffu & ~RETURN_FLAGS) || v->pending_dr6)) {
        return NULL;
    }
    uint16_t base = (uint16_t)(v->star >> 48);
    soft_set_flat_segments(v, (uint16_t)(base + 16), (uint16_t)(base + 8), 3, true);
    set_flags(v, (uint32_t)flags & ~X86_FLAG_RF);
    return go_to(v, target, SOFT_TLB_USER);
}

/* A code or data descriptor of the GDT, present, accessed and of privilege 'rpl', whose type and size bits 'mask' are 'wanted'. */
static bool read_descriptor(struct soft_vcpu *v, uint64_t selector, unsigned rpl, uint16_t mask,
                            uint16_t wanted, struct x86_segment *out)
{
    uint32_t offset = selector & 0xfff8u;
    if (selector & ~0xfffbull || !offset || offset + 7 > v->gdtr.limit) {
        return false;
    }
    const soft_u64 *raw = soft_fast_read(v, v->gdtr.base + offset, 8);
    if (!raw) {
        return false;
    }
    *out = soft_descriptor_segment(*(const volatile soft_u64 *)raw, (uint16_t)selector);
    mask |= X86_SEGMENT_P | X86_SEGMENT_S | X86_SEGMENT_DPL | X86_SEGMENT_ACCESSED;
    wanted |= X86_SEGMENT_P | X86_SEGMENT_S | X86_SEGMENT_ACCESSED | (uint16_t)(rpl << 5);
    return (out->attributes & mask) == wanted;
}

static bool has_inner_segments(const struct soft_vcpu *v)
{
    static const uint8_t data[] = {X86_ES, X86_DS, X86_FS, X86_GS};
    for (size_t i = 0; i < sizeof(data); i++) {
        uint16_t attributes = v->segment[data[i]].attributes;
        if (!(attributes & X86_SEGMENT_UNUSABLE) && (attributes & X86_SEGMENT_DPL) != 3 << 5) {
            return true;
        }
    }
    return false;
}

const uint8_t *native_on_iret(struct soft_vcpu *v, const struct native_site *site, uint32_t length)
{
    (void)site;
    (void)length;
    const soft_u64 *at = soft_fast_read(v, v->gpr[X86_RSP], 40);
    if (unlikely(!at || v->flags & X86_FLAG_NT || v->nmi_masked || v->pending_dr6)) {
        return NULL;
    }
    uint64_t rip = at[0], cs_selector = at[1], flags = at[2], rsp = at[3], ss_selector = at[4];
    unsigned rpl = cs_selector & 3;
    struct x86_segment cs, ss;
    if (unlikely((flags & 0xffffffffu & ~(RETURN_FLAGS | (rpl ? 0 : X86_FLAG_AC))) ||
                 !x86_is_canonical(rip) || (rpl != 0 && rpl != 3) ||
                 !read_descriptor(v, cs_selector, rpl,
                                  X86_SEGMENT_CODE | X86_SEGMENT_CONFORM | X86_SEGMENT_L |
                                      X86_SEGMENT_DB,
                                  X86_SEGMENT_CODE | X86_SEGMENT_L, &cs))) {
        return NULL;
    }
    if (!(ss_selector & 0xfffc) && rpl == 0 && ss_selector == 0) {
        ss = (struct x86_segment){.attributes = X86_SEGMENT_UNUSABLE};
    } else if (unlikely((ss_selector & 3) != rpl ||
                        !read_descriptor(v, ss_selector, rpl,
                                         X86_SEGMENT_CODE | X86_SEGMENT_WRITABLE,
                                         X86_SEGMENT_WRITABLE, &ss))) {
        return NULL;
    }
    if (unlikely(rpl && has_inner_segments(v))) {
        return NULL;
    }
    v->segment[X86_CS] = cs;
    v->segment[X86_SS] = ss;
    v->cpl = (uint8_t)rpl;
    v->gpr[X86_RSP] = rsp;
    set_flags(v, (uint32_t)flags);
    return go_to(v, rip, rpl ? SOFT_TLB_USER : supervisor_tlb(v, (uint32_t)flags));
}

/* The host's address of what the CPU itself reads or writes with the rights of 'tlb'; NULL: not that easily. */
static void *system_access(struct soft_vcpu *v, struct soft_tlb *tlb, uint64_t gva, uint32_t size,
                           enum x86_access access)
{
    size_t index = soft_tlb_index(gva);
    const uint64_t *tag = access == X86_ACCESS_WRITE ? tlb->write_tag : tlb->read_tag;
    uint64_t offset = gva - tag[index], gpa;
    if (unlikely(offset > GUEST_PAGE_SIZE - size)) {
        if (!x86_is_canonical(gva) || (gva & (GUEST_PAGE_SIZE - 1)) + size > GUEST_PAGE_SIZE ||
            soft_tlb_quick(v, tlb, gva, access, &gpa) != SOFT_FILL_DONE) {
            return NULL;
        }
        offset = gva - tag[index];
    }
    return tlb->hva[index] + offset;
}

#define GATE_INTERRUPT 14u
#define GATE_TRAP      15u
#define TSS_RSP0       4u
#define TSS_IST1       36u

/* The check of a group has met a page's end, or what else there is no translation for: on with a block that has no groups, if it
 * has been found before. */
static const uint8_t *find_ungrouped(const struct soft_vcpu *v, const struct native_site *site)
{
    uint64_t rip = site->rip + native_base(v);
    uint32_t mode = v->native_mode | NATIVE_MODE_UNGROUPED;
    const struct soft_native_jump *jump = native_find_jump(v, rip, mode);
    bool may_run = !(mode & NATIVE_MODE_WINDOWS) || v->window_state == SOFT_WINDOWS_ON;
    return jump && may_run ? jump->code : NULL;
}

/* #PF that native_on_miss has noted; SDM 3A 6.14. */
const uint8_t *native_on_page_fault(struct soft_vcpu *v, const struct native_site *site,
                                    uint32_t unused)
{
    (void)unused;
    if (!v->native_miss.has_fault) {
        return site->next == NATIVE_SITE_UNGROUPED ? find_ungrouped(v, site) : NULL;
    }
    v->native_miss.has_fault = false;
    if (unlikely(v->code_size != X86_CODE_64 || v->idtr.limit < X86_PF * 16 + 15)) {
        return NULL;
    }
    bool is_user = v->cpl == 3;
    struct soft_tlb *tlb =
        &v->tlbs[v->cr4 & X86_CR4_SMAP ? SOFT_TLB_SUPERVISOR : SOFT_TLB_SUPERVISOR_AC];
    const soft_u64 *gate = system_access(v, tlb, v->idtr.base + X86_PF * 16, 16, X86_ACCESS_READ);
    if (unlikely(!gate)) {
        return NULL;
    }
    uint64_t low = gate[0], handler = (low & 0xffff) | (low >> 32 & 0xffff0000) | gate[1] << 32;
    unsigned type = low >> 40 & 0x1f, ist = low >> 32 & 7;
    uint16_t selector = (uint16_t)(low >> 16);
    uint32_t offset = selector & 0xfff8u;
    if (unlikely((type != GATE_INTERRUPT && type != GATE_TRAP) || !(low >> 47 & 1) ||
                 !x86_is_canonical(handler) || !offset || selector & 4 ||
                 offset + 7 > v->gdtr.limit)) {
        return NULL;
    }
    const soft_u64 *raw = system_access(v, tlb, v->gdtr.base + offset, 8, X86_ACCESS_READ);
    if (unlikely(!raw)) {
        return NULL;
    }
    struct x86_segment cs = soft_descriptor_segment(*raw, (uint16_t)offset);
    uint16_t wanted =
        X86_SEGMENT_P | X86_SEGMENT_S | X86_SEGMENT_ACCESSED | X86_SEGMENT_CODE | X86_SEGMENT_L;
    if (unlikely((cs.attributes &
                  (wanted | X86_SEGMENT_DPL | X86_SEGMENT_CONFORM | X86_SEGMENT_DB)) != wanted)) {
        return NULL;
    }
    uint64_t sp = v->gpr[X86_RSP];
    if (is_user || ist) {
        uint32_t at = ist ? TSS_IST1 + (ist - 1) * 8 : TSS_RSP0;
        const soft_u64 *stack = at + 7 > v->tr.limit
                                    ? NULL
                                    : system_access(v, tlb, v->tr.base + at, 8, X86_ACCESS_READ);
        if (unlikely(!stack)) {
            return NULL;
        }
        sp = *stack;
    }
    sp = (sp & ~15ull) - 48;
    /* Pushes within one privilege level are the kernel's own accesses. */
    soft_u64 *frame = system_access(v, is_user ? tlb : v->tlb, sp, 48, X86_ACCESS_WRITE);
    if (unlikely(!frame)) {
        return NULL;
    }
    frame[0] = v->native_miss.error;
    frame[1] = site->rip + native_base(v);
    frame[2] = v->segment[X86_CS].selector;
    frame[3] = soft_rflags(v) | X86_FLAG_RF;
    frame[4] = v->gpr[X86_RSP];
    frame[5] = v->segment[X86_SS].selector;
    v->stats.exceptions++;
    v->cr2 = v->native_miss.gva;
    v->pending_dr6 = 0;
    if (is_user) {
        v->segment[X86_SS] = (struct x86_segment){.attributes = X86_SEGMENT_UNUSABLE};
    }
    v->segment[X86_CS] = cs;
    v->cpl = 0;
    v->gpr[X86_RSP] = sp;
    v->flags &= ~(X86_FLAG_NT | X86_FLAG_TF | X86_FLAG_RF | (type == GATE_TRAP ? 0 : X86_FLAG_IF));
    return go_to(v, handler, supervisor_tlb(v, v->flags));
}

const uint8_t *native_on_invlpg(struct soft_vcpu *v, const struct native_site *site,
                                uint32_t length)
{
    uint64_t rip = site->rip + native_base(v) + length;
    if (unlikely(!soft_tlb_flush_small_page(v, v->native_target))) {
        return NULL;
    }
    return go_to(v, rip, (enum soft_tlb_mode)(v->tlb - v->tlbs));
}
