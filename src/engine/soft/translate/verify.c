/* The verifier's way through a block: every instruction that can be reached, with what is known there on all paths, until
 * nothing changes any more. See verify_forms.c for what is allowed. */
#include "engine/soft/translate/verify.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/core/bits.h"
#include "cpu/x86/tables.h"
#include "engine/soft/translate/native_string.h"
#include "engine/soft/translate/verify_forms.h"

/* What a byte of the code is; others are numbers of nodes. */
#define BYTE_UNSEEN 0u
#define BYTE_INSIDE 0xffffu /* of an instruction */
#define BYTE_DATA   0xfffeu /* of a site */
#define MAX_NODES   0xfff0u

struct node {
    struct verify_insn at;
    uint32_t offset;
    bool is_waiting;
    struct verify_state state; /* before it */
};

struct native_verifier {
    size_t max_size, max_nodes;
    uint16_t *byte;
    struct node *node;
    uint16_t *waiting;
    size_t node_count, waiting_count;
    /* Of the block under way. */
    const struct soft_vcpu *v;
    const struct soft_native *native;
    const struct native_block *block;
    uint64_t rip; /* as the block has it */
    bool is_shared;
    /* Offsets are those in the code, and behind a byte that is nobody's, those in what is out of line. */
    const uint8_t *code, *cold;
    uint32_t code_size, cold_start, size;
    const struct node *current;
    struct error *err;
};

struct native_verifier *native_verifier_create(size_t max_code_size)
{
    struct native_verifier *r = calloc(1, sizeof(*r));
    if (!r) {
        return NULL;
    }
    r->max_size = max_code_size;
    r->max_nodes = MIN(max_code_size, MAX_NODES);
    r->byte = malloc(max_code_size * sizeof(*r->byte));
    r->node = malloc((r->max_nodes + 1) * sizeof(*r->node));
    r->waiting = malloc((r->max_nodes + 1) * sizeof(*r->waiting));
    if (!r->byte || !r->node || !r->waiting) {
        native_verifier_destroy(r);
        return NULL;
    }
    return r;
}

void native_verifier_destroy(struct native_verifier *r)
{
    if (r) {
        free(r->byte);
        free(r->node);
        free(r->waiting);
        free(r);
    }
}

static const uint8_t *code_at(const struct native_verifier *r, uint64_t offset)
{
    return offset < r->cold_start ? r->code + offset : r->cold + (offset - r->cold_start);
}

/* How many bytes there are from 'offset' to the end of that part of the block. */
static uint64_t left_at(const struct native_verifier *r, uint64_t offset)
{
    uint64_t end = offset < r->cold_start ? r->code_size : r->size;
    return offset < end ? end - offset : 0;
}

/* The offset of 'at'; r->size: it is not in the block. */
static uint64_t offset_of(const struct native_verifier *r, const uint8_t *at)
{
    uint64_t in_code = (uint64_t)(at - r->code), in_cold = (uint64_t)(at - r->cold);
    return in_code < r->code_size              ? in_code
           : in_cold < r->size - r->cold_start ? r->cold_start + in_cold
                                               : r->size;
}

static int refuse_at(struct native_verifier *r, uint32_t offset, const char *reason)
{
    struct x86_insn insn;
    char text[96] = "(no instruction)";
    size_t left = left_at(r, offset);
    if (left && x86_decode(code_at(r, offset), MIN(left, X86_INSN_MAX_LENGTH), X86_CODE_64,
                           &insn) == X86_DECODE_OK) {
        x86_disassemble(&insn, offset, text, sizeof(text));
    }
    return error_set(r->err, EPERM, "translated block of rip 0x%llx, mode %u, offset 0x%x: %s: %s",
                     (unsigned long long)r->rip, (unsigned)r->block->mode, offset, text, reason);
}

static int refuse(struct native_verifier *r, const char *reason)
{
    return refuse_at(r, r->current->offset, reason);
}

/* The instruction at 'offset' becomes a node. */
static int add_node(struct native_verifier *r, uint32_t offset, const struct verify_state *state)
{
    if (r->node_count == r->max_nodes) {
        return refuse_at(r, offset, "there are too many instructions");
    }
    struct node *node = &r->node[++r->node_count];
    node->offset = offset;
    node->state = *state;
    size_t left = left_at(r, offset);
    if (x86_decode(code_at(r, offset), MIN(left, X86_INSN_MAX_LENGTH), X86_CODE_64,
                   &node->at.insn) != X86_DECODE_OK) {
        return refuse_at(r, offset, "it is no instruction, or not all in the block");
    }
    for (uint32_t i = 0; i < node->at.insn.length; i++) {
        if (r->byte[offset + i] != BYTE_UNSEEN) {
            return refuse_at(r, offset, "it overlaps other instructions or data");
        }
        r->byte[offset + i] = i ? BYTE_INSIDE : (uint16_t)r->node_count;
    }
    node->is_waiting = true;
    r->waiting[r->waiting_count++] = (uint16_t)r->node_count;
    return 0;
}

/* Control may reach 'offset' with 'state'. */
static int reach(struct native_verifier *r, uint64_t offset, const struct verify_state *state)
{
    if (!left_at(r, offset)) {
        return refuse(r, "the code goes on beyond the block");
    }
    uint16_t seen = r->byte[offset];
    if (seen == BYTE_UNSEEN) {
        return add_node(r, (uint32_t)offset, state);
    }
    if (seen >= MAX_NODES) {
        return refuse(r, seen == BYTE_DATA ? "control reaches data"
                                           : "control reaches the middle of an instruction");
    }
    struct node *node = &r->node[seen];
    if (verify_state_join(&node->state, state) && !node->is_waiting) {
        node->is_waiting = true;
        r->waiting[r->waiting_count++] = seen;
    }
    return 0;
}

static bool is_in_page(const struct native_verifier *r, uint64_t rip)
{
    return rip >> GUEST_PAGE_SHIFT == r->rip >> GUEST_PAGE_SHIFT;
}

/* The data behind a call. */
static int check_site(struct native_verifier *r, uint64_t offset, struct native_site *out_site)
{
    if (left_at(r, offset) < sizeof(*out_site)) {
        return refuse(r, "its data are not all in the block");
    }
    for (size_t i = 0; i < sizeof(*out_site); i++) {
        uint16_t *byte = &r->byte[offset + i];
        if (*byte != BYTE_UNSEEN && *byte != BYTE_DATA) {
            return refuse(r, "its data are instructions as well");
        }
        *byte = BYTE_DATA;
    }
    memcpy(out_site, code_at(r, offset), sizeof(*out_site));
    return is_in_page(r, out_site->rip) ? 0 : refuse(r, "its data name another page's address");
}

static bool can_switch(const struct native_verifier *r, const struct verify_state *state)
{
    return r->block->mode & NATIVE_MODE_SMAP &&
           (state->tlb == SOFT_TLB_SUPERVISOR || state->tlb == SOFT_TLB_SUPERVISOR_AC);
}

static int step_call(struct native_verifier *r, const struct node *node, const uint8_t *target)
{
    uint64_t next = node->offset + node->at.insn.length;
    enum verify_stub stub = verify_find_stub(r->native, target);
    struct native_site site;
    struct verify_state unknown, state;
    static const uint8_t spoiled[] = {HOST_RAX, HOST_RCX, HOST_RDX, HOST_R14, HOST_R15};
    verify_state_unknown(&unknown, node->state.tlb);
    int rc;
    switch (stub) {
    case VERIFY_STUB_RETURNS:
        return reach(r, next, &node->state);
    case VERIFY_STUB_SMALL:
        state = node->state;
        for (size_t i = 0; i < sizeof(spoiled); i++) {
            verify_forget(&state, spoiled[i]);
        }
        memset(&state.flags, 0, sizeof(state.flags));
        return reach(r, next, &state);
    case VERIFY_STUB_STAC:
    case VERIFY_STUB_CLAC:
        unknown.tlb = stub == VERIFY_STUB_STAC ? SOFT_TLB_SUPERVISOR_AC : SOFT_TLB_SUPERVISOR;
        return can_switch(r, &node->state)
                   ? reach(r, next, &unknown)
                   : refuse(r, "it changes the mode of code that is not the kernel's");
    case VERIFY_STUB_FILL:
        state = node->state;
        verify_fill(&state);
        return reach(r, next, &state);
    case VERIFY_STUB_STRING:
        if (!native_is_string_stub_of(r->native, target, r->block->mode & NATIVE_MODE_WINDOWS,
                                      node->state.tlb)) {
            return refuse(r, "it calls a stub for blocks of another mode");
        }
        /* fall through */
    case VERIFY_STUB_SITE:
        rc = check_site(r, next, &site);
        if (rc < 0 || !site.next || site.next == NATIVE_SITE_UNGROUPED) {
            return rc;
        }
        if (site.next - site.rip - 1 >= GUEST_PAGE_SIZE) {
            return refuse(r, "its data name no next instruction");
        }
        return reach(r, next + sizeof(site), &unknown);
    case VERIFY_STUB_SITE_LAST:
        return check_site(r, next, &site);
    default:
        return refuse(r, "it calls what is no stub");
    }
}

/* A jump out of the block whose displacement is at 'place': to another one, if a link says so. */
static int check_link(struct native_verifier *r, const struct node *node, const uint8_t *place,
                      const uint8_t *target)
{
    const struct native_block *block = r->block;
    for (size_t i = 0; i < block->link_count; i++) {
        const struct native_link *link = &block->link[i];
        if (native_link_place(r->native, link) != place || !link->target) {
            continue;
        }
        const struct native_block *other = native_at(r->native, link->target);
        uint64_t rip = native_link_rip(r->v, link);
        if (target != native_entry_saved(r->native, other) &&
            (target != native_entry(r->native, other) || !link->with_flags)) {
            return refuse(r, "it jumps into another block elsewhere than at its beginning");
        }
        uint32_t kept = block->mode & ~(NATIVE_MODE_TLB | NATIVE_MODE_UNGROUPED);
        uint32_t mode = kept | node->state.tlb;
        uint64_t known = r->is_shared ? ~NATIVE_BASE_MASK : UINT64_MAX;
        if (other->mode != mode || (native_block_rip(r->v, other) ^ rip) & known) {
            return refuse(r, "it jumps to a block of another address or mode");
        }
        bool is_same_page = is_in_page(r, rip) && (other->gpa ^ block->gpa) < GUEST_PAGE_SIZE &&
                            !other->is_crossing;
        uint8_t half = (uint8_t)(1u << (r->is_shared ? 0 : rip >> 63));
        if (!is_same_page && !(node->state.epochs & half)) {
            return refuse(r, "it jumps to another page without a comparison of the epoch");
        }
        if (!is_same_page && r->is_shared && !(node->state.epochs & VERIFY_BASE)) {
            return refuse(r, "it jumps to another page without a comparison of its own address");
        }
        return 0;
    }
    return refuse(r, "it jumps out of the block");
}

static int step_jump(struct native_verifier *r, const struct node *node, const uint8_t *target,
                     const struct verify_state *state)
{
    const struct native_block *block = r->block;
    const uint8_t *place = code_at(r, node->offset) + node->at.insn.imm_offset;
    for (size_t i = 0; i < block->link_count; i++) {
        /* A link to the block itself is a link still. */
        if (native_link_place(r->native, &block->link[i]) == place && block->link[i].target) {
            return check_link(r, node, place, target);
        }
    }
    uint64_t offset = offset_of(r, target);
    if (offset < r->size) {
        return reach(r, offset, state);
    }
    if (verify_find_stub(r->native, target) == VERIFY_STUB_LINK) {
        const struct verify_value *argument = &state->reg[HOST_R14];
        for (size_t i = 0; i < block->link_count; i++) {
            if (argument->kind == VERIFY_CONSTANT &&
                argument->bits == native_ref_of(r->native, &block->link[i])) {
                return 0;
            }
        }
        return refuse(r, "it goes to the linker without a link of the block");
    }
    return refuse(r, "it jumps out of the block");
}

static int step_branch(struct native_verifier *r, const struct node *node)
{
    const struct x86_insn *insn = &node->at.insn;
    uint64_t next = node->offset + insn->length;
    const uint8_t *target = code_at(r, node->offset) + insn->length + (int64_t)insn->imm;
    struct verify_state state = node->state;
    bool is_short_jcc = insn->map == 0 && (insn->opcode & 0xf0) == 0x70;
    bool is_jcc = is_short_jcc || (insn->map == 1 && (insn->opcode & 0xf0) == 0x80);
    if (insn->prefixes & (X86_PREFIX_DATA | X86_PREFIX_REP | X86_PREFIX_REPNE)) {
        return refuse(r, "it has a prefix that means nothing");
    }
    if (insn->id == X86_ID_CALL && insn->opcode == 0xe8) {
        return step_call(r, node, target);
    }
    if (insn->id == X86_ID_JMP && insn->opcode == 0xff && insn->has_memory) {
        bool is_return = insn->scale == 1u << NATIVE_CALL_SHIFT;
        const char *fault = is_return && !native_has_landings(r->block->mode)
                                ? "blocks of this mode have no landings"
                                : verify_indirect_jump(&node->at, &state);
        return fault ? refuse(r, fault) : 0;
    }
    if (insn->id == X86_ID_JMP && (insn->opcode == 0xe9 || insn->opcode == 0xeb)) {
        return step_jump(r, node, target, &state);
    }
    if (!is_jcc) {
        return refuse(r, "blocks must not have this branch");
    }
    verify_edge(insn->opcode & 15, true, &state);
    int rc = step_jump(r, node, target, &state);
    if (rc < 0) {
        return rc;
    }
    state = node->state;
    verify_edge(insn->opcode & 15, false, &state);
    return reach(r, next, &state);
}

/* LEA of where a CALL comes back to: the block of a link, or the link's stub. */
static int step_landing(struct native_verifier *r, const struct node *node)
{
    const struct x86_insn *insn = &node->at.insn;
    const uint8_t *code = code_at(r, node->offset), *place = code + insn->disp_offset;
    const uint8_t *target = code + insn->length + insn->disp;
    if (!native_has_landings(r->block->mode)) {
        return refuse(r, "blocks of this mode have no landings");
    }
    for (size_t i = 0; i < r->block->link_count; i++) {
        const struct native_link *link = &r->block->link[i];
        if (!link->is_landing || native_link_place(r->native, link) != place) {
            continue;
        }
        if (node->state.tlb != (r->block->mode & NATIVE_MODE_TLB)) {
            return refuse(r, "it comes back in another mode");
        }
        if (insn->operand[0].reg != HOST_R15 || insn->operand[0].size_bytes != 8) {
            return refuse(r, "where it comes back to belongs into R15");
        }
        int rc = link->target ? check_link(r, node, place, target) : 0;
        if (!link->target && target != native_link_stub(r->native, link)) {
            rc = refuse(r, "it comes back elsewhere than to the link's stub");
        }
        struct verify_state state = node->state;
        verify_forget(&state, HOST_R15);
        state.reg[HOST_R15].kind = VERIFY_LANDING;
        return rc < 0 ? rc : reach(r, node->offset + insn->length, &state);
    }
    return refuse(r, "no call comes back there");
}

static int step_node(struct native_verifier *r, const struct node *node)
{
    r->current = node;
    if (node->at.insn.id == X86_ID_LEA && node->at.insn.base == X86_BASE_RIP) {
        return step_landing(r, node);
    }
    if (x86_rows[node->at.insn.row].attributes & X86_ROW_BRANCH) {
        return step_branch(r, node);
    }
    struct verify_state state = node->state;
    const char *fault = verify_step(&node->at, &state);
    return fault ? refuse(r, fault) : reach(r, node->offset + node->at.insn.length, &state);
}

static int check_entry(struct native_verifier *r, const uint8_t *entry, uint8_t tlb)
{
    struct verify_state unknown;
    verify_state_unknown(&unknown, tlb);
    uint64_t offset = offset_of(r, entry);
    if (offset == r->size) {
        return refuse_at(r, 0, "an entry of the block is outside of it");
    }
    r->current = &r->node[0];
    r->node[0].offset = (uint32_t)offset;
    return reach(r, offset, &unknown);
}

/* Where the host's faults lead. */
static int check_window_sites(struct native_verifier *r)
{
    size_t count;
    const struct native_window_site *site = native_window_sites_of(r->native, r->block, &count);
    if (count && !(r->block->mode & NATIVE_MODE_WINDOWS)) {
        return refuse_at(r, 0, "a block without windows has accesses in them");
    }
    for (size_t i = 0; i < count; i++) {
        int rc = check_entry(r, r->native->writable + site[i].cold, SOFT_TLB_USER);
        if (rc < 0) {
            return rc;
        }
    }
    return 0;
}

static int step_all(struct native_verifier *r)
{
    while (r->waiting_count) {
        struct node *node = &r->node[r->waiting[--r->waiting_count]];
        node->is_waiting = false;
        int rc = step_node(r, node);
        if (rc < 0) {
            return rc;
        }
    }
    return 0;
}

/* Places that C code patches. */
static int check_places(struct native_verifier *r)
{
    for (size_t i = 0; i < r->block->link_count; i++) {
        const struct native_link *link = &r->block->link[i];
        const struct {
            const uint8_t *at;
            bool is_branch;
        } places[] = {{native_link_place(r->native, link), !link->is_landing},
                      {native_link_epoch(r->native, link), false},
                      {native_link_base(r->native, link), false}};
        for (size_t k = 0; k < ARRAY_COUNT(places); k++) {
            bool is_found = !places[k].at;
            for (size_t n = 1; n <= r->node_count && !is_found; n++) {
                const struct x86_insn *insn = &r->node[n].at.insn;
                const uint8_t *code = code_at(r, r->node[n].offset);
                bool is_kind =
                    places[k].is_branch
                        ? x86_rows[insn->row].attributes & X86_ROW_BRANCH && insn->id != X86_ID_CALL
                        : insn->id == X86_ID_CMP;
                is_found =
                    is_kind && insn->imm_bytes == 4 && code + insn->imm_offset == places[k].at;
                is_found |= link->is_landing && k == 0 && insn->id == X86_ID_LEA &&
                            insn->base == X86_BASE_RIP && code + insn->disp_offset == places[k].at;
            }
            if (!is_found) {
                return refuse_at(r, 0, "a link's place is no operand of an instruction");
            }
        }
    }
    return 0;
}

int native_verify(struct native_verifier *r, const struct soft_vcpu *v,
                  const struct native_block *block, struct error *err)
{
    r->v = v;
    r->native = v->native;
    r->block = block;
    r->rip = native_block_rip(v, block);
    r->is_shared = native_is_shared(v, block->mode);
    r->code = native_code(r->native, block);
    r->cold = native_cold(r->native, block);
    r->code_size = block->code_size;
    r->cold_start = r->code_size + 1;
    r->size = r->cold_start + block->cold_size;
    r->err = err;
    r->node_count = r->waiting_count = 0;
    if (r->size > r->max_size) {
        return refuse_at(r, 0, "the block is too large");
    }
    for (size_t i = 0; i < block->link_count; i++) {
        if (i == NATIVE_MAX_LINKS || block->link[i].number != i) {
            return refuse_at(r, 0, "a link is not of the block");
        }
    }
    memset(r->byte, 0, r->size * sizeof(*r->byte));
    uint8_t tlb = block->mode & NATIVE_MODE_TLB;
    int rc = check_entry(r, native_entry_saved(r->native, block), tlb);
    rc = rc < 0 ? rc : check_entry(r, native_entry(r->native, block), tlb);
    for (size_t i = 0; i < block->link_count && rc == 0; i++) {
        rc = check_entry(r, native_link_stub(r->native, &block->link[i]), VERIFY_NO_TLB);
    }
    rc = rc < 0 ? rc : check_window_sites(r);
    for (uint32_t i = 0; i < r->size && rc == 0; i++) {
        rc = step_all(r);
        if (rc == 0 && r->byte[i] == BYTE_UNSEEN && i != r->code_size) {
            /* Dead code has to keep the rules as well: then every byte is looked at. */
            rc = check_entry(r, code_at(r, i), VERIFY_NO_TLB);
            rc = rc < 0 ? rc : step_all(r);
        }
    }
    return rc < 0 ? rc : check_places(r);
}
