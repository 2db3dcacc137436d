/* The verifier and memory in windows: what is taken, and sequences that break one rule each. */
#include "verify_bench.h"

#define WINDOWS  (SOFT_TLB_USER | NATIVE_MODE_WINDOWS)
#define WINDOW   VCPU_FIELD(window_table)
#define RORX     0xc4, 0x43, 0xfb, 0xf0, 0xfe /* rorx r15, r14, ... */
#define MOVZX    0x45, 0x0f, 0xb7, 0xff       /* movzx r15d, r15w */
#define LEA_BOTH 0x4f, 0x8d, 0x34, 0x3e       /* lea r14, [r14 + r15] */
#define LOAD     0x4b, 0x8b, 0x04, 0x3e       /* mov rax, [r14 + r15] */

static void begin_windows(struct bench *b)
{
    begin(b);
    b->block->mode = WINDOWS;
    b->block->address = 0; /* users' blocks are shared, and know distances in their page */
}

static void end_windows(struct bench *b)
{
    call(b, b->v->native->exit_at, 0, 0);
}

static void find(struct bench *b)
{
    PUT(b, RORX, SOFT_WINDOW_SHIFT);
    PUT(b, MOVZX);
    emit_op_table(&b->e, HOST_OP_MOV_REG_RM, R15, R15, WINDOW);
}

static void test_windows(void **state)
{
    struct bench *b = *state;
    begin_windows(b);
    find(b);
    PUT(b, LOAD);
    PUT(b, 0x4b, 0x89, 0x84, 0x3e, 0, 0, 0, 0x80); /* mov [r14 + r15 - 2 GiB], rax */
    end_windows(b);
    accepted(b);
    begin_windows(b);
    find(b);
    PUT(b, LEA_BOTH);
    load(b, 0x3fffff00);
    store(b, -0x3fffff00);
    end_windows(b);
    accepted(b);
    begin_windows(b);
    find(b);
    PUT(b, 0x4f, 0x8d, 0xb4, 0x3e, 0, 0, 0, 0x20); /* lea r14, [r14 + r15 + 512 MiB] */
    load(b, 8);
    end_windows(b);
    accepted(b);
    /* Where BEXTR is better. */
    begin_windows(b);
    PUT(b, 0x41, 0xbf);
    emit32(&b->e, NATIVE_WINDOW_BITS);
    PUT(b, 0xc4, 0x42, 0x80, 0xf7, 0xfe); /* bextr r15, r14, r15 */
    emit_op_table(&b->e, HOST_OP_MOV_REG_RM, R15, R15, WINDOW);
    PUT(b, LOAD);
    end_windows(b);
    accepted(b);
}

static void test_broken_windows(void **state)
{
    struct bench *b = *state;
    /* Another number of bits, of the address or of the index. */
    begin_windows(b);
    PUT(b, RORX, 38);
    PUT(b, MOVZX);
    emit_op_table(&b->e, HOST_OP_MOV_REG_RM, R15, R15, WINDOW);
    end_windows(b);
    refused(b, "does not just read the window");
    begin_windows(b);
    PUT(b, RORX, SOFT_WINDOW_SHIFT);
    emit_op_table(&b->e, HOST_OP_MOV_REG_RM, R15, R15, WINDOW);
    end_windows(b);
    refused(b, "does not just read the window");
    begin_windows(b);
    PUT(b, RORX, SOFT_WINDOW_SHIFT);
    PUT(b, 0x45, 0x0f, 0xb6, 0xff); /* movzx r15d, r15b */
    emit_op_table(&b->e, HOST_OP_MOV_REG_RM, R15, R15, WINDOW);
    end_windows(b);
    refused(b, "does not just read the window");
    begin_windows(b);
    PUT(b, 0x41, 0xbf);
    emit32(&b->e, NATIVE_WINDOW_BITS + 1);
    PUT(b, 0xc4, 0x42, 0x80, 0xf7, 0xfe);
    emit_op_table(&b->e, HOST_OP_MOV_REG_RM, R15, R15, WINDOW);
    end_windows(b);
    refused(b, "does not just read the window");
    begin_windows(b);
    PUT(b, 0x41, 0xbf);
    emit32(&b->e, NATIVE_WINDOW_BITS);
    PUT(b, 0xc4, 0x42, 0x00, 0xf7, 0xfe); /* of 32 bits */
    emit_op_table(&b->e, HOST_OP_MOV_REG_RM, R15, R15, WINDOW);
    end_windows(b);
    refused(b, "does not just read the window");
    /* The table written, or another's window. */
    begin_windows(b);
    PUT(b, RORX, SOFT_WINDOW_SHIFT);
    PUT(b, MOVZX);
    emit_op_table(&b->e, HOST_OP_MOV_RM_REG, HOST_RAX, R15, WINDOW);
    end_windows(b);
    refused(b, "does not just read the window");
    begin_windows(b);
    find(b);
    PUT(b, 0x4a, 0x8b, 0x04, 0x3b); /* mov rax, [rbx + r15] */
    end_windows(b);
    refused(b, "address is not checked");
    begin_windows(b);
    find(b);
    PUT(b, 0x49, 0xff, 0xc6); /* inc r14 */
    PUT(b, LOAD);
    end_windows(b);
    refused(b, "address is not checked");
    begin_windows(b);
    find(b);
    PUT(b, 0x4b, 0x8b, 0x04, 0x7e); /* mov rax, [r14 + r15 * 2] */
    end_windows(b);
    refused(b, "address is not checked");
    begin_windows(b);
    find(b);
    PUT(b, 0x49, 0xff, 0xc7); /* inc r15 */
    PUT(b, LOAD);
    end_windows(b);
    refused(b, "address is not checked");
    begin_windows(b);
    PUT(b, LOAD);
    end_windows(b);
    refused(b, "address is not checked");
    /* Further than the guards reach. */
    begin_windows(b);
    find(b);
    PUT(b, 0x4f, 0x8d, 0xb4, 0x3e, 0, 0, 0, 0x40); /* lea r14, [r14 + r15 + 1 GiB] */
    load(b, 0);
    end_windows(b);
    refused(b, "address is not checked");
    begin_windows(b);
    find(b);
    PUT(b, LEA_BOTH);
    load(b, 0x40000000);
    end_windows(b);
    refused(b, "larger than what was checked");
    begin_windows(b);
    find(b);
    PUT(b, LEA_BOTH);
    PUT(b, LEA_BOTH);
    load(b, 0);
    end_windows(b);
    refused(b, "address is not checked");
}

/* mov r14, address; mov r15, [window of 'slot']; or an instruction between the two. */
static void fixed(struct bench *b, uint64_t address, int32_t slot)
{
    begin_windows(b);
    b->block->mode |= NATIVE_MODE_OWN;
    emit_mov_imm(&b->e, R14, address);
    emit_op_base(&b->e, HOST_OP_MOV_REG_RM, R15, HOST_RSP, WINDOW + 8 * slot);
}

static void test_fixed_windows(void **state)
{
    struct bench *b = *state;
    fixed(b, 0x7f1234567890, 0x7f);
    PUT(b, LOAD);
    end_windows(b);
    accepted(b);
    fixed(b, 0x404040, 0);
    PUT(b, LEA_BOTH);
    load(b, 0x1000);
    end_windows(b);
    accepted(b);
    fixed(b, 0xffffffffff600000, 0xffff); /* where there is no window */
    PUT(b, LOAD);
    end_windows(b);
    accepted(b);
    /* Another's window, or one of an address that has changed since, or is not known. */
    fixed(b, 0x7f1234567890, 0x7e);
    PUT(b, LOAD);
    end_windows(b);
    refused(b, "address is not checked");
    fixed(b, 0x7f1234567890, 0x7f);
    PUT(b, 0x49, 0xff, 0xc6); /* inc r14 */
    PUT(b, LOAD);
    end_windows(b);
    refused(b, "address is not checked");
    fixed(b, 0x7f1234567890, 0x7f);
    PUT(b, 0x4a, 0x8b, 0x04, 0x3b); /* mov rax, [rbx + r15] */
    end_windows(b);
    refused(b, "address is not checked");
    begin_windows(b);
    emit_op_base(&b->e, HOST_OP_MOV_REG_RM, R15, HOST_RSP, WINDOW);
    PUT(b, LOAD);
    end_windows(b);
    refused(b, "address is not checked");
    /* The table written, or parts of elements. */
    begin_windows(b);
    emit_op_base(&b->e, HOST_OP_MOV_RM_REG, HOST_RAX, HOST_RSP, WINDOW + 8);
    end_windows(b);
    refused(b, "does not just read one of the windows");
    begin_windows(b);
    emit_op_base(&b->e, HOST_OP_MOV_REG_RM, R15, HOST_RSP, WINDOW + 4);
    end_windows(b);
    refused(b, "does not just read one of the windows");
    begin_windows(b);
    PUT(b, 0x44, 0x8b, 0xbc, 0x24); /* mov r15d, */
    emit32(&b->e, (uint32_t)WINDOW);
    end_windows(b);
    refused(b, "does not just read one of the windows");
    /* Not with the kernel's rights. */
    fixed(b, 0x404040, 0);
    b->block->mode = SOFT_TLB_SUPERVISOR;
    PUT(b, LOAD);
    end_windows(b);
    refused(b, "address is not checked");
}

/* rorx, cmp with the slot of a role, jne, mov of 'base', access; or another one instead of one of them. */
static void guess(struct bench *b, uint32_t role, int32_t base, uint8_t condition, uint8_t shift)
{
    begin_windows(b);
    PUT(b, RORX, shift);
    PUT(b, 0x44, 0x3a, 0x7c, 0x24,
        (uint8_t)(VCPU_FIELD(window_role_slot) + (int32_t)role)); /* cmp r15b, [] */
    uint8_t *other = emit_jcc(&b->e, condition);
    emit_op_base(&b->e, HOST_OP_MOV_REG_RM, R15, HOST_RSP, base);
    uint8_t *after = b->e.at;
    PUT(b, LOAD);
    end_windows(b);
    emit_bind(other, b->e.at);
    PUT(b, MOVZX);
    emit_op_table(&b->e, HOST_OP_MOV_REG_RM, R15, R15, WINDOW);
    emit_bind(emit_jmp(&b->e), after);
}

static void test_guesses(void **state)
{
    struct bench *b = *state;
    int32_t base = VCPU_FIELD(window_role_add);
    for (uint32_t role = 0; role < SOFT_WINDOW_ROLES; role++) {
        guess(b, role, base + 8 * (int32_t)role, HOST_IF_NOT_EQUAL, SOFT_WINDOW_SHIFT);
        accepted(b);
    }
    guess(b, 1, base + 8, HOST_IF_EQUAL, SOFT_WINDOW_SHIFT);
    refused(b, "address is not checked");
    guess(b, 1, base + 8, HOST_IF_ABOVE, SOFT_WINDOW_SHIFT);
    refused(b, "address is not checked");
    guess(b, 0, base + 8, HOST_IF_NOT_EQUAL, SOFT_WINDOW_SHIFT);
    refused(b, "address is not checked");
    guess(b, 1, base + 8 + 4, HOST_IF_NOT_EQUAL, SOFT_WINDOW_SHIFT);
    refused(b, "address is not checked");
    guess(b, 1, base + 8, HOST_IF_NOT_EQUAL, SOFT_WINDOW_SHIFT + 1);
    refused(b, "address is not checked");
    guess(b, 1, WINDOW + 8 * 85, HOST_IF_NOT_EQUAL, SOFT_WINDOW_SHIFT);
    refused(b, "address is not checked");
}

static void test_modes_of_windows(void **state)
{
    struct bench *b = *state;
    begin(b); /* a kernel's block */
    find(b);
    finish(b);
    refused(b, "does not just read the window");
    /* A place where the host may fault has to lead to code that keeps the rules. */
    begin_windows(b);
    struct native_window_site site = {.code = b->block->code, .cold = b->block->code + 4};
    native_window_sites_empty(b->v->native);
    native_add_window_site(b->v->native, &site);
    find(b);
    PUT(b, LOAD);
    end_windows(b);
    refused(b, "middle of an instruction");
    native_window_sites_empty(b->v->native);
    site.cold = b->block->code;
    native_add_window_site(b->v->native, &site);
    accepted(b);
    b->block->mode = SOFT_TLB_USER;
    refused(b, "without windows has accesses in them");
    native_window_sites_empty(b->v->native);
}

int main(void)
{
    if (!__builtin_cpu_supports("bmi2")) {
        return 77; /* the host's CPU has no RORX: no windows */
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_windows),          cmocka_unit_test(test_broken_windows),
        cmocka_unit_test(test_fixed_windows),    cmocka_unit_test(test_guesses),
        cmocka_unit_test(test_modes_of_windows),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
