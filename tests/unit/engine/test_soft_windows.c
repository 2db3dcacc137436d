/* Windows of processes whose layouts differ: blocks that both run find each one's own memory, and know windows by their roles. */
#include "soft_guest.h"

#include "base/core/bits.h"
#include "engine/soft/translate/block_table.h"
#include "engine/soft/vcpu.h"
#include "engine/soft/window_map.h"
#include "engine/soft/windows.h"

#define OTHER_PML4 0x60000u
#define DATA       0x200000u
#define SLOT(n)    ((uint64_t)(n) << SOFT_WINDOW_SHIFT)
#define STACK_TOP  ((1ull << 47) - 0x1000)

/* RBX leads to what the program has, RSI to what a library has; in a loop, so that windows are guessed. */
GUEST_CODE_BLOCK(program, ".code64",
                 "mov $3, %ecx\n 1: incq (%rbx)\n addq $2, 8(%rsi)\n push %rcx\n pop %rdx\n"
                 "dec %ecx\n jnz 1b\n out %al, $0xf4\n hlt\n");

static struct soft_guest guest;
static struct x86_state initial;

static void begin_with(const uint8_t *code, size_t size)
{
    guest_start_with(&guest, 1, "windows=always,verify=on");
    guest_long_mode(&guest, 0, code, size, &initial);
    initial.rflags |= X86_FLAG_IOPL; /* for OUT */
    initial.segment[X86_CS].selector = GUEST_CS_USER;
    initial.segment[X86_CS].attributes = 0xa0fb;
    initial.segment[X86_SS].selector = GUEST_DS_USER;
    initial.segment[X86_SS].attributes = 0xc0f3;
}

static void begin(void)
{
    begin_with(program, GUEST_CODE_SIZE(program));
}

/* All that is at the beginning of the address space is there, too. */
static void add_window(uint64_t pml4, uint64_t slot)
{
    uint64_t first = guest_get64(&guest, GUEST_PML4);
    guest_put64(&guest, pml4, first);
    guest_put64(&guest, pml4 + 16 * slot, first);
    guest_put64(&guest, pml4 + 16 * slot + 8, first);
}

static const struct soft_vcpu *run(uint64_t pml4, uint64_t program_slot, uint64_t library_slot)
{
    struct x86_state after;
    initial.cr3 = pml4;
    initial.gpr[X86_RBX] = SLOT(program_slot) + DATA;
    initial.gpr[X86_RSI] = SLOT(library_slot) + DATA;
    assert_int_equal(guest_run(&guest, 0, &initial, &after), VCPU_EXIT_KICKED);
    return soft_from_vcpu(guest.vcpu[0]);
}

static void expect_role(const struct soft_vcpu *v, uint64_t gva, uint8_t role)
{
    uint8_t found = UINT8_MAX;
    assert_true(soft_windows_find_role(v, gva, &found));
    assert_int_equal(found, role);
}

static void layouts(void **state)
{
    begin();
    add_window(GUEST_PML4, 0x55);
    add_window(GUEST_PML4, 0x7f);
    add_window(OTHER_PML4, 0x56);
    add_window(OTHER_PML4, 0x7e);
    add_window(OTHER_PML4, 0x7f);
    for (uint64_t turn = 1; turn <= 4; turn++) {
        const struct soft_vcpu *v = run(GUEST_PML4, 0x55, 0x7f);
        assert_int_equal(guest_get64(&guest, DATA), 6 * turn - 3);
        if (!v->windows) {
            skip();
        }
        expect_role(v, 0x400000, 0);
        expect_role(v, SLOT(0x55), 1);
        expect_role(v, SLOT(0x7f) + 0x1000, 2);
        expect_role(v, STACK_TOP, SOFT_WINDOW_ROLE_LAST);
        v = run(OTHER_PML4, 0x56, 0x7e);
        assert_int_equal(guest_get64(&guest, DATA), 6 * turn);
        assert_int_equal(guest_get64(&guest, DATA + 8), 12 * turn);
        expect_role(v, SLOT(0x56), 1);
        expect_role(v, SLOT(0x7e), 2);
        expect_role(v, SLOT(0x7f), SOFT_WINDOW_ROLE_LAST);
        expect_role(v, STACK_TOP, SOFT_WINDOW_ROLE_LAST);
        uint8_t role;
        assert_false(soft_windows_find_role(v, SLOT(0x55), &role));
        assert_false(soft_windows_find_role(v, SLOT(0x100), &role));
    }
    guest_end(&guest);
}

/* What a role without a window adds is what the table has for an address without one. */
static void roles_are_of_the_table(void **state)
{
    begin();
    const struct soft_vcpu *v = run(GUEST_PML4, 0, 0);
    for (size_t i = 0; i < SOFT_WINDOW_ROLES && v->windows; i++) {
        assert_int_equal(v->window_role_add[i], v->window_table[v->window_role_slot[i]]);
    }
    assert_true(!v->windows || v->window_role_slot[1] != v->window_role_slot[0]);
    guest_end(&guest);
}

/* At 0x300000 in both spaces, which have different pages there; and where a CALL comes back to. */
#define RELATIVE       0x300000u
#define OTHER_RELATIVE 0x500000u
GUEST_CODE_BLOCK(relative, ".code64",
                 ".byte 0x48, 0xff, 0x05\n .long 0x300000 - 0x10007\n call 1f\n 1: pop %rax\n"
                 ".byte 0x48, 0x89, 0x05\n .long 0x300008 - 0x10014\n out %al, $0xf4\n hlt\n");
#define RETURN_ADDRESS (GUEST_CODE + 12)

static void add_other_page(void)
{
    uint64_t tables = OTHER_PML4 + 0x1000, first = GUEST_PML4 + 0x3000;
    guest_put64(&guest, OTHER_PML4, tables | 7);
    guest_put64(&guest, tables, (tables + 0x1000) | 7);
    guest_put64(&guest, tables + 0x1000, first | 7);
    guest_put64(&guest, tables + 0x1008, (tables + 0x2000) | 7);
    for (uint64_t page = 0; page < 512; page++) {
        guest_put64(&guest, tables + 0x2000 + 8 * page,
                    guest_get64(&guest, first + 0x1000 + 8 * page));
    }
    guest_put64(&guest, tables + 0x2000 + 8 * (RELATIVE / 0x1000 % 512), OTHER_RELATIVE | 7);
}

/* The page's counter has been raised so often, and the CALL has come back. */
static void expect_counted(uint64_t page, uint64_t turn)
{
    assert_int_equal(guest_get64(&guest, page), turn);
    assert_int_equal(guest_get64(&guest, page + 8), RETURN_ADDRESS);
    guest_put64(&guest, page + 8, 0);
}

/* A process's own blocks hold addresses, but not where its windows are: another process may have code at the same address. */
static void own_blocks(void **state)
{
    begin_with(relative, GUEST_CODE_SIZE(relative));
    add_other_page();
    uint64_t turn = 0;
    while (++turn <= 4) {
        const struct soft_vcpu *v = run(GUEST_PML4, 0, 0);
        if (!v->windows) {
            skip();
        }
        assert_true(v->native_mode & NATIVE_MODE_OWN);
        assert_false(native_is_shared(v, v->native_mode));
        expect_counted(RELATIVE, turn);
        assert_int_equal(guest_get64(&guest, OTHER_RELATIVE), turn - 1);
        v = run(OTHER_PML4, 0, 0);
        assert_true(v->native_mode & NATIVE_MODE_OWN);
        expect_counted(OTHER_RELATIVE, turn);
        assert_int_equal(guest_get64(&guest, RELATIVE), turn);
    }
    /* The same process, when it has used that many. */
    for (size_t i = 0; i < WINDOW_SPACES; i++) {
        soft_from_vcpu(guest.vcpu[0])->windows->space[i].block_count = SOFT_WINDOW_TEST_BLOCKS;
    }
    const struct soft_vcpu *v = run(OTHER_PML4, 0, 0);
    assert_true(v->native_mode & NATIVE_MODE_WINDOWS);
    assert_false(v->native_mode & NATIVE_MODE_OWN);
    assert_true(native_is_shared(v, v->native_mode));
    expect_counted(OTHER_RELATIVE, turn);
    guest_end(&guest);
}

/* A function that returns a number; it is written for a while, then called and changed in turn. RBX: the sum. */
GUEST_CODE_BLOCK(
    changing, ".code64",
    "movb $0xb8, (%rsi)\n movb $0xc3, 5(%rsi)\n mov $5000, %ecx\n 1: movl $0, 1(%rsi)\n dec %ecx\n jnz 1b\n"
    "xor %ebx, %ebx\n mov $8, %ecx\n 2: incl 1(%rsi)\n call *%rsi\n add %eax, %ebx\n dec %ecx\n jnz 2b\n"
    "out %al, $0xf4\n hlt\n");

static bool has_large_window(const struct soft_vcpu *v)
{
    bool has_large = false;
    for (size_t i = 0; i < WINDOW_SPACES; i++) {
        has_large |= v->windows->space[i].has_large;
    }
    return has_large;
}

/* A page that a window has for writing loses that when code is found in it, be it a small or a large one: what is written then is
 * seen. */
static void writers_are_found(void **state)
{
    for (int is_large = 0; is_large < 2; is_large++) {
        begin_with(changing, GUEST_CODE_SIZE(changing));
        if (is_large) {
            guest_put64(&guest, GUEST_PML4 + 0x2000 + 8, DATA | X86_PTE_PS | 7);
        }
        initial.cr3 = GUEST_PML4;
        initial.gpr[X86_RSI] = DATA + 0x1000;
        struct x86_state after;
        assert_int_equal(guest_run(&guest, 0, &initial, &after), VCPU_EXIT_KICKED);
        const struct soft_vcpu *v = soft_from_vcpu(guest.vcpu[0]);
        if (!v->windows) {
            skip();
        }
        assert_int_equal(after.gpr[X86_RBX], 36);
        assert_int_equal(has_large_window(v), is_large);
        guest_end(&guest);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(layouts),
        cmocka_unit_test(own_blocks),
        cmocka_unit_test(roles_are_of_the_table),
        cmocka_unit_test(writers_are_found),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
