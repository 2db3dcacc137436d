/* The verifier of translated code: takes what the translator makes, refuses sequences that break one rule each, for the
 * right reason. Mutated blocks are in test_soft_mutated.c. */
#include "verify_bench.h"

static void test_checked_accesses(void **state)
{
    struct bench *b = *state;
    begin(b);
    check(b, 8, false);
    load(b, 0);
    finish(b);
    accepted(b);
    begin(b);
    check(b, 16, true);
    store(b, 8);
    load(b, 0);
    finish(b);
    accepted(b);
    begin(b);
    check(b, 8, false);
    store(b, 0);
    finish(b);
    refused(b, "reading only");
    begin(b);
    check(b, 4, false);
    load(b, 0);
    finish(b);
    refused(b, "larger than what was checked");
    begin(b);
    check(b, 8, false);
    load(b, 1);
    finish(b);
    refused(b, "larger than what was checked");
    begin(b);
    check(b, 8, false);
    load(b, -1);
    finish(b);
    refused(b, "larger than what was checked");
    begin(b);
    check(b, 8, false);
    PUT(b, 0x49, 0xff, 0xc6); /* inc r14 */
    load(b, 0);
    finish(b);
    refused(b, "address is not checked");
    begin(b);
    check(b, 16, false);
    PUT(b, 0x4d, 0x8d, 0x76, 8); /* lea r14, [r14 + 8] */
    load(b, 0);
    load(b, -8);
    finish(b);
    accepted(b);
    begin(b);
    check(b, 16, false);
    PUT(b, 0x4d, 0x8d, 0x76, 8);
    load(b, 8);
    finish(b);
    refused(b, "larger than what was checked");
}

static void test_broken_checks(void **state)
{
    struct bench *b = *state;
    /* Of another register. */
    begin(b);
    PUT(b, 0x41, 0x89, 0xc7); /* mov r15d, eax */
    PUT(b, 0x41, 0xc1, 0xef, 12);
    PUT(b, 0x41, 0x81, 0xe7, TLB_MASK);
    emit_op_table(&b->e, HOST_OP_SUB_REG_RM, R14, R15, TLB(read_tag));
    check_limit(b, 4088, HOST_IF_ABOVE);
    emit_op_table(&b->e, HOST_OP_ADD_REG_RM, R14, R15, TLB(hva));
    load(b, 0);
    finish(b);
    refused(b, "address is not checked");
    /* RORX by another number of bits. */
    begin(b);
    PUT(b, 0xc4, 0x43, 0x7b, 0xf0, 0xfe, 11); /* rorx r15d, r14d, 11 */
    PUT(b, 0x41, 0x81, 0xe7, TLB_MASK);       /* and r15d, entries - 1 */
    emit_op_table(&b->e, HOST_OP_SUB_REG_RM, R14, R15, TLB(read_tag));
    check_limit(b, 4088, HOST_IF_ABOVE);
    emit_op_table(&b->e, HOST_OP_ADD_REG_RM, R14, R15, TLB(hva));
    load(b, 0);
    finish(b);
    refused(b, "address is not checked");
    /* Of the register as it was. */
    begin(b);
    check_index(b);
    PUT(b, 0x49, 0xff, 0xc6); /* inc r14 */
    emit_op_table(&b->e, HOST_OP_SUB_REG_RM, R14, R15, TLB(read_tag));
    check_limit(b, 4088, HOST_IF_ABOVE);
    emit_op_table(&b->e, HOST_OP_ADD_REG_RM, R14, R15, TLB(hva));
    load(b, 0);
    finish(b);
    refused(b, "address is not checked");
    /* Other shifts and masks. */
    begin(b);
    PUT(b, 0x45, 0x89, 0xf7);
    PUT(b, 0x41, 0xc1, 0xef, 13);
    PUT(b, 0x41, 0x81, 0xe7, TLB_MASK);
    emit_op_table(&b->e, HOST_OP_SUB_REG_RM, R14, R15, TLB(read_tag));
    check_limit(b, 4088, HOST_IF_ABOVE);
    emit_op_table(&b->e, HOST_OP_ADD_REG_RM, R14, R15, TLB(hva));
    load(b, 0);
    finish(b);
    refused(b, "address is not checked");
    begin(b);
    PUT(b, 0x45, 0x89, 0xf7);
    PUT(b, 0x41, 0xc1, 0xef, 12);
    PUT(b, 0x41, 0x81, 0xe7, MASK(2 * SOFT_TLB_SIZE));
    emit_op_table(&b->e, HOST_OP_SUB_REG_RM, R14, R15, TLB(read_tag));
    finish(b);
    refused(b, "index is not bound");
    begin(b);
    check_index(b);
    emit_op_index(&b->e, HOST_OP_SUB_REG_RM, R14, HOST_RSP, R15, TLB(read_tag));
    finish(b);
    refused(b, "not scaled");
    begin(b);
    emit_op_table(&b->e, HOST_OP_SUB_REG_RM, R14, R15, TLB(read_tag));
    finish(b);
    refused(b, "index is not bound");
    /* Another mode's table. */
    begin(b);
    check_index(b);
    emit_op_table(&b->e, HOST_OP_SUB_REG_RM, R14, R15,
                  TLB(read_tag) + (int32_t)sizeof(struct soft_tlb));
    finish(b);
    refused(b, "no table for blocks of this mode");
    /* Neither bound, nor by the right condition, nor by the right limit. */
    begin(b);
    check_index(b);
    emit_op_table(&b->e, HOST_OP_SUB_REG_RM, R14, R15, TLB(read_tag));
    emit_op_table(&b->e, HOST_OP_ADD_REG_RM, R14, R15, TLB(hva));
    load(b, 0);
    finish(b);
    refused(b, "address is not checked");
    const uint8_t conditions[] = {0xf /* signed */, HOST_IF_NOT_EQUAL, 0x6, 0x2};
    for (size_t i = 0; i < sizeof(conditions); i++) {
        begin(b);
        check_index(b);
        emit_op_table(&b->e, HOST_OP_SUB_REG_RM, R14, R15, TLB(read_tag));
        check_limit(b, 4088, conditions[i]);
        emit_op_table(&b->e, HOST_OP_ADD_REG_RM, R14, R15, TLB(hva));
        load(b, 0);
        finish(b);
        refused(b, "address is not checked");
    }
    begin(b);
    check_index(b);
    emit_op_table(&b->e, HOST_OP_SUB_REG_RM, R14, R15, TLB(read_tag));
    check_limit(b, (uint32_t)-8, HOST_IF_ABOVE);
    emit_op_table(&b->e, HOST_OP_ADD_REG_RM, R14, R15, TLB(hva));
    load(b, 0);
    finish(b);
    refused(b, "address is not checked");
    /* Something between the comparison and the jump, or between the jump and the addition. */
    begin(b);
    check_index(b);
    emit_op_table(&b->e, HOST_OP_SUB_REG_RM, R14, R15, TLB(read_tag));
    PUT(b, 0x49, 0x81, 0xfe, 0xf8, 0x0f, 0, 0);
    PUT(b, 0x85, 0xc0); /* test eax, eax */
    uint8_t *over = emit_jcc(&b->e, 0x6);
    finish(b);
    emit_bind(over, b->e.at);
    emit_op_table(&b->e, HOST_OP_ADD_REG_RM, R14, R15, TLB(hva));
    load(b, 0);
    finish(b);
    refused(b, "address is not checked");
    begin(b);
    check_index(b);
    emit_op_table(&b->e, HOST_OP_SUB_REG_RM, R14, R15, TLB(read_tag));
    check_limit(b, 4088, HOST_IF_ABOVE);
    PUT(b, 0x41, 0x83, 0xe7, 0xc0); /* and r15d, -64: another entry */
    emit_op_table(&b->e, HOST_OP_ADD_REG_RM, R14, R15, TLB(hva));
    load(b, 0);
    finish(b);
    refused(b, "address is not checked");
    /* A way around the check. */
    begin(b);
    PUT(b, 0x85, 0xc0);
    over = emit_jcc(&b->e, HOST_IF_EQUAL);
    check(b, 8, false);
    emit_bind(over, b->e.at);
    load(b, 0);
    finish(b);
    refused(b, "address is not checked");
    /* What the interpreter leaves of it. */
    begin(b);
    check(b, 8, false);
    call(b, b->v->native->interpret, 0x1000, 0x1001);
    load(b, 0);
    finish(b);
    refused(b, "address is not checked");
    begin(b);
    check(b, 8, false);
    emit_bind(emit_call(&b->e), b->v->native->load_vectors);
    load(b, 0);
    finish(b);
    accepted(b);
}

/* BEXTR R15 of 'source' with 'control', then the rest of a check of R14. */
static void check_by_bextr(struct bench *b, uint32_t control, uint8_t source)
{
    begin(b);
    PUT(b, 0x41, 0xbf); /* mov r15d, control */
    emit32(&b->e, control);
    PUT(b, 0xc4, 0x42, 0x00, 0xf7, 0xf8 | (source & 7)); /* bextr r15d, source, r15d */
    emit_op_table(&b->e, HOST_OP_SUB_REG_RM, R14, R15, TLB(read_tag));
    check_limit(b, 4088, HOST_IF_ABOVE);
    emit_op_table(&b->e, HOST_OP_ADD_REG_RM, R14, R15, TLB(hva));
    load(b, 0);
    finish(b);
}

static void test_bextr(void **state)
{
    struct bench *b = *state;
    check_by_bextr(b, NATIVE_TLB_BITS, R14);
    accepted(b);
    check_by_bextr(b, NATIVE_TLB_BITS, HOST_R13);
    refused(b, "address is not checked");
    check_by_bextr(b, NATIVE_TLB_BITS - 1, R14); /* from another bit on */
    refused(b, "index is not bound");
    check_by_bextr(b, NATIVE_TLB_BITS + 0x100, R14); /* a bit more */
    refused(b, "index is not bound");
    /* The control is not known. */
    begin(b);
    PUT(b, 0xc4, 0x42, 0x00, 0xf7, 0xfe);
    emit_op_table(&b->e, HOST_OP_SUB_REG_RM, R14, R15, TLB(read_tag));
    finish(b);
    refused(b, "index is not bound");
}

static void test_alignment(void **state)
{
    struct bench *b = *state;
    begin(b);
    check(b, 16, false);
    PUT(b, 0x41, 0x0f, 0x28, 0x06); /* movaps xmm0, [r14] */
    finish(b);
    refused(b, "not checked for alignment");
    for (uint8_t mask = 7; mask <= 15; mask += 8) {
        begin(b);
        check(b, 16, false);
        PUT(b, 0x41, 0xf6, 0xc6, mask); /* test r14b, mask */
        uint8_t *over = emit_jcc(&b->e, HOST_IF_EQUAL);
        finish(b);
        emit_bind(over, b->e.at);
        PUT(b, 0x41, 0x0f, 0x28, 0x06);
        finish(b);
        if (mask == 15) {
            accepted(b);
        } else {
            refused(b, "not checked for alignment");
        }
    }
}

/* A store to what the stub has been asked about, behind a jump on 'condition'. */
static void fill(struct bench *b, uint64_t access, uint8_t condition)
{
    emit_mov_imm(&b->e, R15, access);
    emit_bind(emit_call(&b->e), b->v->native->fill);
    uint8_t *over = emit_jcc(&b->e, condition);
    finish(b);
    emit_bind(over, b->e.at);
    store(b, 0);
    finish(b);
}

static void test_filled(void **state)
{
    struct bench *b = *state;
    uint64_t once = NATIVE_FILL_WRITE | NATIVE_FILL_ONCE;
    begin(b);
    fill(b, once | NATIVE_FILL_FAULT | 8, HOST_IF_ABOVE);
    accepted(b);
    begin(b);
    fill(b, once | 4, HOST_IF_ABOVE);
    refused(b, "larger than what was checked");
    const struct {
        uint64_t access;
        uint8_t condition;
    } wrong[] = {
        {NATIVE_FILL_WRITE | 8, HOST_IF_ABOVE},
        {NATIVE_FILL_ONCE | 8, HOST_IF_ABOVE},
        {once | 8, HOST_IF_EQUAL},
        {once | 8, HOST_IF_BELOW_OR_EQUAL},
        {once | 8, HOST_IF_NOT_EQUAL},
    };
    for (size_t i = 0; i < ARRAY_COUNT(wrong); i++) {
        begin(b);
        fill(b, wrong[i].access, wrong[i].condition);
        refused(b, "address is not checked");
    }
    /* Nobody knows what was asked. */
    begin(b);
    PUT(b, 0x49, 0x89, 0xc7); /* mov r15, rax */
    emit_bind(emit_call(&b->e), b->v->native->fill);
    uint8_t *over = emit_jcc(&b->e, HOST_IF_BELOW_OR_EQUAL);
    store(b, 0);
    emit_bind(over, b->e.at);
    finish(b);
    refused(b, "address is not checked");
    /* Another address since then. */
    begin(b);
    emit_mov_imm(&b->e, R15, once | 8);
    emit_bind(emit_call(&b->e), b->v->native->fill);
    PUT(b, 0x49, 0x89, 0xc6); /* mov r14, rax */
    over = emit_jcc(&b->e, HOST_IF_BELOW_OR_EQUAL);
    store(b, 0);
    emit_bind(over, b->e.at);
    finish(b);
    refused(b, "address is not checked");
    /* What was known of R14 before. */
    begin(b);
    check(b, 8, true);
    emit_mov_imm(&b->e, R15, once | 8);
    emit_bind(emit_call(&b->e), b->v->native->fill);
    store(b, 0);
    finish(b);
    refused(b, "address is not checked");
}

static void test_groups(void **state)
{
    struct bench *b = *state;
    const int32_t slot = VCPU_FIELD(native_group) + 8 * 3;
    begin(b);
    check(b, 24, true);
    emit_op_base(&b->e, HOST_OP_MOV_RM_REG, R14, HOST_RSP, slot);
    emit_op_reg(&b->e, HOST_OP_MOV_REG_RM, R14, HOST_RAX);
    emit_op_base(&b->e, HOST_OP_MOV_REG_RM, R14, HOST_RSP, slot);
    store(b, 16);
    finish(b);
    accepted(b);
    begin(b);
    emit_op_base(&b->e, HOST_OP_MOV_REG_RM, R14, HOST_RSP, slot);
    load(b, 0);
    finish(b);
    refused(b, "address is not checked");
    begin(b);
    check(b, 24, true);
    emit_op_base(&b->e, HOST_OP_MOV_RM_REG, R14, HOST_RSP, slot);
    emit_op_base(&b->e, HOST_OP_MOV_REG_RM, R14, HOST_RSP, slot + 8);
    load(b, 0);
    finish(b);
    refused(b, "address is not checked");
    begin(b);
    check(b, 24, true);
    emit_op_base(&b->e, HOST_OP_MOV_RM_REG, R14, HOST_RSP, slot);
    emit_op_base(&b->e, HOST_OP_MOV_RM_REG, HOST_RCX, HOST_RSP, slot);
    emit_op_base(&b->e, HOST_OP_MOV_REG_RM, R14, HOST_RSP, slot);
    load(b, 0);
    finish(b);
    refused(b, "address is not checked");
    begin(b);
    emit_op_base(&b->e, HOST_OP_MOV_RM_REG, R14, HOST_RSP, slot + 4);
    finish(b);
    refused(b, "not for blocks");
    begin(b);
    check(b, 24, true);
    emit_op_base(&b->e, HOST_OP_MOV_RM_REG, R14, HOST_RSP, slot);
    call(b, b->v->native->interpret, 0x1000, 0x1001);
    emit_op_base(&b->e, HOST_OP_MOV_REG_RM, R14, HOST_RSP, slot);
    load(b, 0);
    finish(b);
    refused(b, "address is not checked");
}

/* One instruction each, in a block that ends well. */
static void test_instructions(void **state)
{
    struct bench *b = *state;
    const struct {
        uint8_t size;
        uint8_t bytes[12];
        const char *reason; /* NULL: accepted */
    } cases[] = {
        {3, {0x48, 0x89, 0xc8}, NULL}, /* mov rax, rcx */
        {3, {0x4d, 0x89, 0xee}, NULL}, /* mov r14, r13 */
        {8, {0x48, 0x89, 0x44, 0x24, 0x70, 0x90, 0x90, 0x90}, NULL},
        {3, {0x48, 0x8b, 0x00}, "address is not checked"},                   /* mov rax, [rax] */
        {3, {0x49, 0x8b, 0x06}, "address is not checked"},                   /* mov rax, [r14] */
        {3, {0x48, 0x8b, 0x06}, "address is not checked"},                   /* mov rax, [rsi] */
        {4, {0x48, 0x8b, 0x04, 0x0c}, "not scaled"},                         /* [rsp + rcx] */
        {8, {0x48, 0x8b, 0x04, 0x25, 0, 0, 0, 0}, "address is not checked"}, /* absolute */
        {7, {0x48, 0x8b, 0x05, 0, 0, 0, 0}, "relative to RIP"},
        {7, {0x48, 0x8d, 0x05, 0, 0, 0, 0}, "no call comes back there"}, /* lea rax, [rip] */
        {8,
         {0x48, 0x8b, 0x84, 0x24, 0x78, 0xff, 0xff, 0xff},
         "outside of the vCPU"},                                 /* [rsp - 136] */
        {4, {0x41, 0x8b, 0x04, 0x24}, "address is not checked"}, /* [r12] */
        {5, {0x64, 0x48, 0x8b, 0x04, 0x24}, "FS or GS"},         /* fs: [rsp] */
        {5, {0x65, 0x48, 0x89, 0x04, 0x24}, "FS or GS"},
        {5, {0x67, 0x48, 0x8b, 0x04, 0x24}, "address is cut"},
        {1, {0x50}, "must not have this instruction"}, /* push rax */
        {1, {0x58}, "must not have this instruction"},
        {1, {0xc9}, "must not have this instruction"}, /* leave */
        {1, {0x9d}, "must not have this instruction"}, /* popf */
        {1, {0x9c}, "must not have this instruction"},
        {1, {0xfd}, "must not have this instruction"}, /* std */
        {1, {0xd7}, "must not have this instruction"}, /* xlat */
        {1, {0xcc}, "must not have this"},             /* int3 */
        {2, {0xcd, 0x80}, "must not have this"},
        {2, {0x0f, 0x05}, "must not have this"},                   /* syscall */
        {2, {0x0f, 0x34}, "must not have this"},                   /* sysenter */
        {2, {0x0f, 0x0b}, "must not have this"},                   /* ud2 */
        {1, {0xf4}, "must not have this"},                         /* hlt */
        {1, {0xee}, "must not have this"},                         /* out dx, al */
        {1, {0x6e}, "must not have this"},                         /* outsb */
        {1, {0xa4}, "must not have this"},                         /* movsb */
        {2, {0xf3, 0xaa}, "must not have this"},                   /* rep stosb */
        {1, {0xc3}, "must not have this"},                         /* ret */
        {1, {0xcb}, "must not have this"},                         /* retf */
        {2, {0x48, 0xcf}, "must not have this"},                   /* iretq */
        {2, {0xff, 0xe0}, "must not have this"},                   /* jmp rax */
        {2, {0xff, 0xd0}, "must not have this"},                   /* call rax */
        {3, {0xff, 0x2c, 0x24}, "must not have this"},             /* jmp far [rsp] */
        {2, {0xe2, 0x00}, "must not have this"},                   /* loop */
        {2, {0xe3, 0x00}, "must not have this"},                   /* jrcxz */
        {5, {0xf3, 0x48, 0x0f, 0xae, 0xd0}, "must not have this"}, /* wrfsbase rax */
        {2, {0x8e, 0xd8}, "must not have this"},                   /* mov ds, ax */
        {2, {0x8c, 0xd8}, "must not have this"},
        {3, {0x0f, 0x22, 0xd8}, "must not have this"}, /* mov cr3, rax */
        {3, {0x48, 0x89, 0xc4}, "writes RSP"},         /* mov rsp, rax */
        {4, {0x48, 0x83, 0xc4, 0x08}, "writes RSP"},
        {3, {0x40, 0xb4, 0x00}, "writes RSP"},                       /* mov spl, 0 */
        {2, {0xb4, 0x00}, NULL},                                     /* mov ah, 0 */
        {3, {0x48, 0x87, 0xe0}, "RSP"},                              /* xchg rax, rsp */
        {3, {0x48, 0x89, 0xe0}, "reads RSP"},                        /* mov rax, rsp */
        {5, {0x48, 0x8d, 0x44, 0x24, 0x08}, "reads RSP"},            /* lea rax, [rsp + 8] */
        {3, {0x48, 0x0f, 0xcc}, "writes RSP"},                       /* bswap rsp */
        {4, {0x0f, 0xae, 0x14, 0x24}, "must not have this"},         /* ldmxcsr [rsp] */
        {4, {0x0f, 0xae, 0x24, 0x24}, "must not have this"},         /* xsave [rsp] */
        {4, {0x66, 0x0f, 0xf7, 0xc1}, "implicit memory"},            /* maskmovdqu */
        {6, {0xc4, 0xe2, 0x69, 0x92, 0x04, 0x0c}, "by a vector"},    /* vgatherdps */
        {6, {0x62, 0xf1, 0x7c, 0x48, 0x10, 0x00}, "no instruction"}, /* EVEX */
        {5, {0x48, 0x0f, 0xa3, 0x04, 0x24}, "a register moves its address"}, /* bt [rsp], rax */
        {3, {0x0f, 0xc7, 0xf0}, "must not have this"},                       /* rdrand */
        {3, {0x0f, 0x01, 0xd0}, "must not have this"},                       /* xgetbv */
        {6, {0xc7, 0xf8, 0, 0, 0, 0}, "must not have this"},                 /* xbegin */
    };
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        begin(b);
        put(b, cases[i].size, cases[i].bytes);
        finish(b);
        if (cases[i].reason) {
            refused(b, cases[i].reason);
        } else {
            accepted(b);
        }
    }
}

static void small(struct bench *b, enum native_small which)
{
    emit_bind(emit_call(&b->e), b->v->native->small[which]);
}

static void check_with_tlb(struct bench *b, enum soft_tlb_mode mode)
{
    int32_t tlb = (int32_t)(mode * sizeof(struct soft_tlb));
    check_index(b);
    emit_op_table(&b->e, HOST_OP_SUB_REG_RM, R14, R15, TLB(read_tag) + tlb);
    check_limit(b, 4096 - 8, HOST_IF_ABOVE);
    emit_op_table(&b->e, HOST_OP_ADD_REG_RM, R14, R15, TLB(hva) + tlb);
    load(b, 0);
}

/* STAC and CLAC change which table the code behind them may use. */
static void test_alignment_of_fields(void **state)
{
    struct bench *b = *state;
    int32_t start = VCPU_FIELD(segment);
    uint32_t skip = (uint32_t)-offsetof(struct soft_vcpu, segment) % 16;
    for (uint32_t off = 0; off < 16; off++) {
        begin(b);
        PUT(b, 0x0f, 0x52, 0xbc, 0x24); /* rsqrtps xmm7, [rsp + ...] */
        emit32(&b->e, (uint32_t)start + skip + off);
        finish(b);
        if (off) {
            refused(b, "not aligned");
        } else {
            accepted(b);
        }
    }
}

static void test_modes(void **state)
{
    struct bench *b = *state;
    begin(b);
    b->block->mode |= NATIVE_MODE_SMAP;
    check_with_tlb(b, SOFT_TLB_SUPERVISOR);
    small(b, NATIVE_SMALL_STAC);
    check_with_tlb(b, SOFT_TLB_SUPERVISOR_AC);
    small(b, NATIVE_SMALL_SWAPGS);
    check_with_tlb(b, SOFT_TLB_SUPERVISOR_AC);
    small(b, NATIVE_SMALL_CLAC);
    check_with_tlb(b, SOFT_TLB_SUPERVISOR);
    finish(b);
    accepted(b);
    /* The table of before. */
    begin(b);
    b->block->mode |= NATIVE_MODE_SMAP;
    small(b, NATIVE_SMALL_STAC);
    check_with_tlb(b, SOFT_TLB_SUPERVISOR);
    finish(b);
    refused(b, "no table for blocks of this mode");
    /* A place that is reached in two modes. */
    begin(b);
    b->block->mode |= NATIVE_MODE_SMAP;
    uint8_t *over = emit_jcc(&b->e, HOST_IF_EQUAL);
    small(b, NATIVE_SMALL_STAC);
    emit_bind(over, b->e.at);
    check_with_tlb(b, SOFT_TLB_SUPERVISOR);
    finish(b);
    refused(b, "more than one mode");
    /* What was checked in one mode is no address behind the change. */
    begin(b);
    b->block->mode |= NATIVE_MODE_SMAP;
    check(b, 8, false);
    small(b, NATIVE_SMALL_STAC);
    load(b, 0);
    finish(b);
    refused(b, "address is not checked");
    /* Not for users, nor without SMAP. */
    begin(b);
    b->block->mode = SOFT_TLB_USER | NATIVE_MODE_SMAP;
    small(b, NATIVE_SMALL_STAC);
    finish(b);
    refused(b, "not the kernel's");
    begin(b);
    small(b, NATIVE_SMALL_CLAC);
    finish(b);
    refused(b, "not the kernel's");
}

static void test_fields(void **state)
{
    struct bench *b = *state;
    const struct {
        int32_t offset;
        bool is_write;
        const char *reason;
    } cases[] = {
        {VCPU_FIELD(gpr), true, NULL},
        {VCPU_FIELD(gpr) + 15 * 8, true, NULL},
        {VCPU_FIELD(gpr) + 15 * 8 + 1, true, "beyond a field"},
        {VCPU_FIELD(gpr) + 16 * 8, true, "not for blocks"},
        {VCPU_FIELD(segment_base), false, NULL},
        {VCPU_FIELD(segment_base), true, "it must not"},
        {VCPU_FIELD(native_tag), true, "it must not"},
        {VCPU_FIELD(native_epoch), true, "beyond a field"},
        {VCPU_FIELD(native_host_rsp), true, "not for blocks"},
        {VCPU_FIELD(native_host_rsp), false, "not for blocks"},
        {VCPU_FIELD(native), false, "not for blocks"},
        {VCPU_FIELD(cr3), false, NULL},
        {VCPU_FIELD(cr3), true, "it must not"},
        {VCPU_FIELD(flags), true, "beyond a field"},
        {VCPU_FIELD(tlb), true, "not for blocks"},
        {VCPU_FIELD(xcr0), false, "not for blocks"},
        {VCPU_FIELD(vm), true, "not for blocks"},
        {TLB(hva), true, "not for blocks"},
        {JUMP(code), true, "not for blocks"},
        {(int32_t)sizeof(struct soft_vcpu) - NATIVE_ANCHOR, true, "outside of the vCPU"},
    };
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        begin(b);
        emit_op_base(&b->e, cases[i].is_write ? HOST_OP_MOV_RM_REG : HOST_OP_MOV_REG_RM, HOST_RAX,
                     HOST_RSP, cases[i].offset);
        finish(b);
        if (cases[i].reason) {
            refused(b, cases[i].reason);
        } else {
            accepted(b);
        }
    }
}

static void test_control_flow(void **state)
{
    struct bench *b = *state;
    const struct soft_native *n = b->v->native;
    begin(b);
    PUT(b, 0x90);
    refused(b, "goes on beyond the block");
    begin(b);
    refused(b, "entry of the block is outside");
    begin(b);
    PUT(b, 0xeb, 0x01, 0x48, 0x90); /* into and around: nop, then rex nop */
    PUT(b, 0xeb, 0xfd);
    finish(b);
    refused(b, "overlaps");
    begin(b);
    PUT(b, 0xeb, 0xff); /* jumps to its own second byte */
    finish(b);
    refused(b, "middle of an instruction");
    begin(b);
    PUT(b, 0xeb, 0x80);
    finish(b);
    refused(b, "jumps out of the block");
    begin(b);
    emit_bind(emit_jmp(&b->e), n->interpret);
    refused(b, "jumps out of the block");
    begin(b);
    emit_bind(emit_jmp(&b->e), n->leave);
    refused(b, "jumps out of the block");
    begin(b);
    emit_bind(emit_jcc(&b->e, HOST_IF_EQUAL), native_entry_saved(b->v->native, b->block) - 16);
    finish(b);
    refused(b, "jumps out of the block");
    begin(b);
    emit_bind(emit_call(&b->e), native_entry_saved(b->v->native, b->block));
    finish(b);
    refused(b, "calls what is no stub");
    begin(b);
    emit_bind(emit_call(&b->e), n->make_link);
    finish(b);
    refused(b, "calls what is no stub");
    begin(b);
    emit_bind(emit_call(&b->e), n->interpret + 1);
    finish(b);
    refused(b, "calls what is no stub");
    /* Sites. */
    begin(b);
    emit_bind(emit_call(&b->e), n->exit_at);
    emit64(&b->e, 0x1000);
    refused(b, "data are not all in the block");
    begin(b);
    call(b, n->exit_at, 0x2000, 0);
    refused(b, "another page's address");
    begin(b);
    call(b, n->interpret, 0x1000, 0xfff);
    finish(b);
    refused(b, "no next instruction");
    begin(b);
    call(b, n->interpret, 0x1000, 0);
    accepted(b);
    begin(b);
    uint8_t *into = emit_jcc(&b->e, HOST_IF_EQUAL);
    call(b, n->exit_at, 0x1000, 0);
    emit_bind(into, b->e.at - 8);
    refused(b, "data");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_checked_accesses),
        cmocka_unit_test(test_broken_checks),
        cmocka_unit_test(test_bextr),
        cmocka_unit_test(test_alignment),
        cmocka_unit_test(test_filled),
        cmocka_unit_test(test_groups),
        cmocka_unit_test(test_instructions),
        cmocka_unit_test(test_fields),
        cmocka_unit_test(test_alignment_of_fields),
        cmocka_unit_test(test_modes),
        cmocka_unit_test(test_control_flow),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
