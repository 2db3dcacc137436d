/* The verifier of translated code: links between blocks and indirect branches. Sequences that break one rule each are refused
 * for that reason. */
#include "verify_bench.h"

/* The block's link: from the jump whose displacement is at 'place', with the stub at the end of what there is. */
static struct native_link *add_link(struct bench *b, const uint8_t *place, uint64_t rip)
{
    const uint8_t *code = native_entry_saved(b->v->native, b->block);
    struct native_link *link = &b->block->link[0];
    *link = (struct native_link){.distance = (int32_t)(rip - native_block_rip(b->v, b->block)),
                                 .place = (uint16_t)(place - code),
                                 .stub = (uint16_t)(b->e.at - code),
                                 .with_flags = true};
    b->block->link_count = 1;
    return link;
}

static void emit_link_stub(struct bench *b, int32_t wrong_by)
{
    const struct soft_native *n = b->v->native;
    emit_mov_imm(&b->e, R14, native_ref_of(n, &b->block->link[0]) + (uint32_t)wrong_by);
    emit_bind(emit_jmp(&b->e), n->make_link);
}

static void test_links(void **state)
{
    struct bench *b = *state;
    const struct soft_native *n = b->v->native;
    for (int wrong = 0; wrong < 2; wrong++) {
        begin(b);
        uint8_t *place = emit_jmp(&b->e);
        emit_bind(place, b->e.at);
        add_link(b, place, 0x1080);
        emit_link_stub(b, wrong ? 8 : 0);
        if (wrong) {
            refused(b, "without a link of the block");
        } else {
            accepted(b);
        }
    }
    begin(b);
    struct native_block *other = b->other;
    other->address = other->gpa = 0x1080;
    uint8_t *place = emit_jmp(&b->e);
    struct native_link *link = add_link(b, place, 0x1080);
    emit_link_stub(b, 0);
    link->target = native_ref_of(n, other);
    emit_bind(place, native_entry(n, other));
    accepted(b);
    emit_bind(place, native_entry_saved(n, other));
    accepted(b);
    emit_bind(place, native_entry_saved(n, other) + 1);
    refused(b, "elsewhere than at its beginning");
    emit_bind(place, native_entry(n, other));
    link->with_flags = false;
    refused(b, "elsewhere than at its beginning");
    link->with_flags = true;
    other->mode = SOFT_TLB_USER;
    refused(b, "another address or mode");
    other->mode = SOFT_TLB_SUPERVISOR;
    link->distance++;
    refused(b, "another address or mode");
    other->address = 0x5000;
    link->distance = 0x4000;
    refused(b, "without a comparison of the epoch");
    other->address = 0x1080;
    link->distance = 0x80;
    other->gpa = 0x5000;
    refused(b, "without a comparison of the epoch");
    other->gpa = 0x1080;
    link->number = 1;
    refused(b, "a link is not of the block");
    link->number = 0;
    link->target = 0;
    refused(b, "jumps out of the block");

    /* Out of the middle, and from what is out of line. */
    begin(b);
    other = b->other;
    other->address = other->gpa = 0x1080;
    place = emit_jcc(&b->e, HOST_IF_EQUAL);
    finish(b);
    link = add_link(b, place, 0x1080);
    emit_link_stub(b, 0);
    emit_bind(place, native_link_stub(n, link));
    accepted(b);
    link->target = native_ref_of(n, other);
    emit_bind(place, native_entry(n, other));
    accepted(b);
    emit_bind(place, native_entry(n, other) + 1);
    refused(b, "elsewhere than at its beginning");
    emit_bind(place, native_entry(n, other));
    link->place++;
    refused(b, "jumps out of the block");
    link->place--;
    link->is_cold = true; /* which begins where the code does, here */
    accepted(b);

    for (int half = 0; half < 2; half++) {
        begin(b);
        b->other->address = 0x5000;
        const uint8_t *epoch = emit_cmp_field(&b->e, VCPU_FIELD(native_epoch) + 4 * half, 7);
        uint8_t *to_stub = emit_jcc(&b->e, HOST_IF_NOT_EQUAL);
        place = emit_jmp(&b->e);
        link = add_link(b, place, 0x5000);
        link->target = native_ref_of(n, b->other);
        link->epoch_before = (uint8_t)(place - epoch);
        emit_bind(to_stub, b->e.at);
        emit_bind(place, native_entry_saved(n, b->other));
        emit_link_stub(b, 0);
        if (half == 0) {
            accepted(b);
            link->epoch_before--;
            refused(b, "no operand of an instruction");
        } else {
            refused(b, "without a comparison of the epoch");
        }
    }
}

/* In 'compares': the first comparison goes on to the jump behind the second, if it says 'not equal'; or on 'equal', which is wrong. */
#define SHORT       4u
#define SHORT_EQUAL 8u

/* Exits of blocks that are shared between addresses; 'compares': what they compare. */
static void shared_exit(struct bench *b, unsigned compares, uint64_t other_rip, uint64_t other_gpa)
{
    const struct soft_native *n = b->v->native;
    begin(b);
    b->block->mode = SOFT_TLB_USER;
    b->block->address = 0;
    b->other->mode = SOFT_TLB_USER;
    b->other->address = other_rip;
    b->other->gpa = other_gpa;
    uint8_t *to_stub[2] = {NULL, NULL}, *over = NULL;
    const uint8_t *epoch = NULL, *base = NULL;
    if (compares & 1) {
        epoch = emit_cmp_field(&b->e, VCPU_FIELD(native_epoch), 7);
        if (compares & (SHORT | SHORT_EQUAL)) {
            PUT(b, compares & SHORT ? 0x75 : 0x74, 0); /* jne or je */
            over = b->e.at;
        } else {
            to_stub[0] = emit_jcc(&b->e, HOST_IF_NOT_EQUAL);
        }
    }
    if (compares & 2) {
        base = emit_cmp_field(&b->e, VCPU_FIELD(native_page), 9);
        if (over) {
            over[-1] = (uint8_t)(b->e.at - over);
        }
        to_stub[1] = emit_jcc(&b->e, HOST_IF_NOT_EQUAL);
    }
    uint8_t *place = emit_jmp(&b->e);
    struct native_link *link = add_link(b, place, 0x5080);
    link->with_flags = false;
    link->target = native_ref_of(n, b->other);
    link->epoch_before = epoch ? (uint8_t)(place - epoch) : 0;
    link->base_before = base ? (uint8_t)(place - base) : 0;
    for (int i = 0; i < 2; i++) {
        if (to_stub[i]) {
            emit_bind(to_stub[i], b->e.at);
        }
    }
    emit_bind(place, native_entry_saved(n, b->other));
    emit_link_stub(b, 0);
}

static void test_shared_links(void **state)
{
    struct bench *b = *state;
    shared_exit(b, 3, 0x80, 0x7080);
    accepted(b);
    shared_exit(b, 1, 0x80, 0x7080);
    refused(b, "comparison of its own address");
    shared_exit(b, 2, 0x80, 0x7080);
    refused(b, "comparison of the epoch");
    shared_exit(b, 3 | SHORT, 0x80, 0x7080);
    accepted(b);
    shared_exit(b, 3 | SHORT_EQUAL, 0x80, 0x7080);
    refused(b, "comparison of the epoch");
    shared_exit(b, 3, 0x84, 0x7080);
    refused(b, "another address or mode");
    /* Another page, be it the same memory. */
    shared_exit(b, 0, 0x80, 0x1080);
    refused(b, "comparison of the epoch");
}

/* 'skip': the step of an indirect branch that is left out. */
static void emit_indirect(struct bench *b, int skip)
{
    struct emitter *e = &b->e;
    PUT(b, 0x45, 0x89, 0xf7); /* mov r15d, r14d */
    PUT(b, 0x41, 0x81, 0xe7); /* and r15d, ... */
    emit32(e, skip == 3   ? 2 * (NATIVE_JUMP_MASK + 4) - 4
              : skip == 5 ? (NATIVE_JUMP_MASK >> 4) | 1
                          : NATIVE_JUMP_MASK);
    if (skip != 1) {
        emit_op_table(e, HOST_OP_CMP_REG_RM, R14, R15, JUMP(rip));
        uint8_t *over = emit_jcc(e, HOST_IF_EQUAL);
        finish(b);
        emit_bind(over, e->at);
    }
    if (skip != 2) {
        emit_op_table(e, HOST_OP_MOV_REG_RM, R14, R15, JUMP(tag));
        emit_op_base(e, HOST_OP_CMP_REG_RM, R14, HOST_RSP, VCPU_FIELD(native_tag));
        uint8_t *over = emit_jcc(e, HOST_IF_EQUAL);
        finish(b);
        emit_bind(over, e->at);
    }
    PUT(b, 0x42, 0xff, 0xa4, 0xfc);
    emit32(e, (uint32_t)(skip == 4 ? JUMP(rip) : JUMP(code)));
}

static void test_indirect_branch(void **state)
{
    struct bench *b = *state;
    const char *const reasons[] = {NULL,
                                   "entry was not compared",
                                   "entry was not compared",
                                   "index is not bound",
                                   "elsewhere than through the jump cache",
                                   "within an entry"};
    for (int skip = 0; skip < 6; skip++) {
        begin(b);
        emit_indirect(b, skip);
        if (reasons[skip]) {
            refused(b, reasons[skip]);
        } else {
            accepted(b);
        }
    }
}

#define CALL(member) (VCPU_FIELD(native_call) + (int32_t)offsetof(struct soft_native_call, member))

/* [rsp + place * 2 + disp] with the register of 'op', whose bytes are REX, opcode and ModRM and SIB. */
static void emit_entry(struct bench *b, const uint8_t op[4], int32_t disp)
{
    put(b, 4, op);
    emit32(&b->e, (uint32_t)disp);
}

static const uint8_t store_r15[] = {0x4e, 0x89, 0xbc, 0x74}; /* mov [rsp + r14*2 + ...], r15 */
static const uint8_t store_r13[] = {0x4e, 0x89, 0xac, 0x74};
static const uint8_t store_r15d[] = {0x46, 0x89, 0xbc, 0x74};
static const uint8_t add_r15[] = {0x4e, 0x01, 0xbc, 0x74};
static const uint8_t load_r15[] = {0x4e, 0x8b, 0xbc, 0x74};
static const uint8_t compare_rip[] = {0x4e, 0x3b, 0xb4, 0x7c}; /* cmp r14, [rsp + r15*2 + ...] */
static const uint8_t jump_code[] = {0x42, 0xff, 0xa4, 0x7c};

static void emit_place(struct bench *b, uint8_t modrm_and, uint32_t mask)
{
    PUT(b, 0x45, 0x89, modrm_and == 0xe6 ? 0xee : 0xef); /* mov r14d or r15d, r13d */
    PUT(b, 0x41, 0x81, modrm_and);
    emit32(&b->e, mask);
}

enum wrong_call {
    CALL_RIGHT,
    CALL_MASK,
    CALL_MASK_WITHIN,
    CALL_MODE,
    CALL_BETWEEN,
    CALL_OTHER_REGISTER,
    CALL_CHANGED,
    CALL_PART,
    CALL_ADD,
    CALL_LOAD_CODE,
    CALL_LANDING_IN_R14,
    CALL_LANDING_OF_32_BITS,
    CALL_LANDING_OF_NOTHING,
    CALL_LANDING_ELSEWHERE,
};

/* What a CALL of the guest's leaves, with one thing wrong. */
static void emit_landing(struct bench *b, enum wrong_call wrong)
{
    int32_t mode = wrong == CALL_MODE ? (int32_t)sizeof(b->v->native_call[0]) : 0;
    emit_place(b, 0xe6,
               wrong == CALL_MASK          ? NATIVE_CALL_MASK * 2 + 8
               : wrong == CALL_MASK_WITHIN ? NATIVE_CALL_MASK | 4
                                           : NATIVE_CALL_MASK);
    emit_entry(b, wrong == CALL_ADD ? add_r15 : store_r15, CALL(rip) + mode);
    bool is_half = wrong == CALL_LANDING_OF_32_BITS;
    PUT(b, is_half ? 0x44 : 0x4c, 0x8d, wrong == CALL_LANDING_IN_R14 ? 0x35 : 0x3d); /* lea */
    uint8_t *place = b->e.at;
    emit32(&b->e, 0);
    if (wrong == CALL_CHANGED) {
        PUT(b, 0x49, 0xff, 0xc7); /* inc r15 */
    }
    emit_entry(b,
               wrong == CALL_LOAD_CODE        ? load_r15
               : wrong == CALL_PART           ? store_r15d
               : wrong == CALL_OTHER_REGISTER ? store_r13
                                              : store_r15,
               wrong == CALL_BETWEEN ? CALL(rip) + 4 : CALL(code) + mode);
    finish(b);
    struct native_link *link = add_link(b, place, 0x1080);
    link->with_flags = false;
    link->is_landing = true;
    emit_bind(place, b->e.at + (wrong == CALL_LANDING_ELSEWHERE));
    emit_link_stub(b, 0);
    if (wrong == CALL_LANDING_OF_NOTHING) {
        b->block->link_count = 0;
    }
}

static void test_calls(void **state)
{
    struct bench *b = *state;
    static const char *const reasons[] = {
        [CALL_RIGHT] = NULL,
        [CALL_MASK] = "not bound to the calls",
        [CALL_MASK_WITHIN] = "not bound to the calls",
        [CALL_MODE] = "no calls of this mode",
        [CALL_BETWEEN] = "no calls of this mode",
        [CALL_OTHER_REGISTER] = "is no landing",
        [CALL_CHANGED] = "is no landing",
        [CALL_PART] = "whole member",
        [CALL_ADD] = "changes a call's return address",
        [CALL_LOAD_CODE] = "is no landing",
        [CALL_LANDING_IN_R14] = "belongs into R15",
        [CALL_LANDING_OF_32_BITS] = "belongs into R15",
        [CALL_LANDING_OF_NOTHING] = "no call comes back there",
        [CALL_LANDING_ELSEWHERE] = "elsewhere than to the link's stub",
    };
    for (size_t wrong = 0; wrong < ARRAY_COUNT(reasons); wrong++) {
        begin(b);
        emit_landing(b, (enum wrong_call)wrong);
        if (reasons[wrong]) {
            refused(b, reasons[wrong]);
        } else {
            accepted(b);
        }
    }
}

enum wrong_return {
    RETURN_RIGHT,
    RETURN_UNCOMPARED,
    RETURN_OTHER_EDGE,
    RETURN_MASK,
    RETURN_RIP,
    RETURN_MODE,
    RETURN_CALL,
    RETURN_CHANGED,
};

static void emit_return(struct bench *b, enum wrong_return wrong)
{
    struct emitter *e = &b->e;
    emit_place(b, 0xe7, wrong == RETURN_MASK ? NATIVE_CALL_MASK * 2 + 8 : NATIVE_CALL_MASK);
    if (wrong != RETURN_UNCOMPARED && wrong != RETURN_MASK) {
        emit_entry(b, compare_rip, CALL(rip));
        uint8_t *over = emit_jcc(e, wrong == RETURN_OTHER_EDGE ? HOST_IF_NOT_EQUAL : HOST_IF_EQUAL);
        finish(b);
        emit_bind(over, e->at);
    }
    if (wrong == RETURN_CHANGED) {
        PUT(b, 0x41, 0x83, 0xe7, 0x78); /* and r15d, 0x78 */
    }
    const uint8_t call[] = {0x42, 0xff, 0x94, 0x7c};
    emit_entry(b, wrong == RETURN_CALL ? call : jump_code,
               wrong == RETURN_RIP    ? CALL(rip)
               : wrong == RETURN_MODE ? CALL(code) + (int32_t)sizeof(b->v->native_call[0])
                                      : CALL(code));
    finish(b);
}

static void test_returns(void **state)
{
    struct bench *b = *state;
    static const char *const reasons[] = {
        [RETURN_RIGHT] = NULL,
        [RETURN_UNCOMPARED] = "return address was not compared",
        [RETURN_OTHER_EDGE] = "return address was not compared",
        [RETURN_MASK] = "not bound to the calls",
        [RETURN_RIP] = "it is at no calls of this mode",
        [RETURN_MODE] = "it is at no calls of this mode",
        [RETURN_CALL] = "must not have this",
        [RETURN_CHANGED] = "return address was not compared",
    };
    for (size_t wrong = 0; wrong < ARRAY_COUNT(reasons); wrong++) {
        begin(b);
        emit_return(b, (enum wrong_return)wrong);
        if (reasons[wrong]) {
            refused(b, reasons[wrong]);
        } else {
            accepted(b);
        }
    }
    begin(b);
    emit_return(b, RETURN_RIGHT);
    b->block->mode |= NATIVE_MODE_LOW;
    refused(b, "have no landings");
    begin(b);
    emit_landing(b, CALL_RIGHT);
    b->block->mode |= NATIVE_MODE_LOW;
    refused(b, "have no landings");
}

/* Landings are where blocks begin with the flags saved, of the same page and mode. */
static void test_landings(void **state)
{
    struct bench *b = *state;
    const struct soft_native *n = b->v->native;
    begin(b);
    emit_landing(b, CALL_RIGHT);
    struct native_block *other = b->other;
    struct native_link *link = &b->block->link[0];
    uint8_t *place = native_link_place(n, link);
    other->address = other->gpa = 0x1080;
    link->target = native_ref_of(n, other);
    refused(b, "elsewhere than at its beginning");
    emit_bind(place, native_entry_saved(n, other));
    accepted(b);
    emit_bind(place, native_entry(n, other));
    refused(b, "elsewhere than at its beginning");
    emit_bind(place, native_entry_saved(n, other) + 1);
    refused(b, "elsewhere than at its beginning");
    emit_bind(place, native_entry_saved(n, other));
    other->mode = SOFT_TLB_USER;
    refused(b, "another address or mode");
    other->mode = SOFT_TLB_SUPERVISOR;
    other->gpa = 0x5000;
    refused(b, "without a comparison of the epoch");
    other->gpa = 0x1080;
    other->address = 0x1084;
    refused(b, "another address or mode");
    other->address = 0x1080;
    link->is_landing = false;
    refused(b, "no call comes back there");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_links),           cmocka_unit_test(test_shared_links),
        cmocka_unit_test(test_indirect_branch), cmocka_unit_test(test_calls),
        cmocka_unit_test(test_returns),         cmocka_unit_test(test_landings),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
