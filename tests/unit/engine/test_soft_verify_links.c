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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_links),
        cmocka_unit_test(test_shared_links),
        cmocka_unit_test(test_indirect_branch),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
