/* The soft TLB: what it keeps, what flushes take from it, and rights. Asked directly, as a guest cannot see whether a walk was
 * spared; what a guest can see is in tests/guest/paging.c and pcid.c. */
#include "soft_guest.h"

#include "base/core/bits.h"
#include "engine/soft/memory_access.h"
#include "engine/soft/mmu.h"
#include "engine/soft/system.h"
#include "engine/soft/tlb.h"

#define P  1u
#define W  2u
#define U  4u
#define A  0x20u
#define D  0x40u
#define PS 0x80u
#define G  0x100u
#define NX BIT(63)

#define UPPER_SLOT 300u
#define UPPER      (0xffff000000000000ull | (uint64_t)UPPER_SLOT << 39)
#define PAGE_A     0x500000u
#define PAGE_B     0x600000u
#define LOOKED_AT  0x400000u
/* A second set of tables, which maps LOOKED_AT elsewhere. */
#define OTHER_PML4 0x800000u

struct bed {
    struct soft_guest g;
    struct soft_vcpu *v;
    uint64_t gpa; /* of the last look, or the error code */
};

static void start(struct bed *b, uint64_t cr4)
{
    static const uint8_t code[] = {0xf4};
    struct x86_state s;
    struct error err = {0};
    guest_start(&b->g, 1);
    guest_long_mode(&b->g, 0, code, sizeof(code), &s);
    /* The upper half shows the same pages, and not those of user rights. */
    guest_put64(&b->g, GUEST_PML4 + UPPER_SLOT * 8, (GUEST_PML4 + 0x1000) | P | W | A);
    for (uint32_t at = 0; at < 0x5000; at += 0x1000) {
        uint8_t table[4096];
        assert_true(guest_memory_read(b->g.memory, GUEST_PML4 + (at < 0x3000 ? at : at + 0x1000),
                                      table, sizeof(table)));
        guest_put(&b->g, OTHER_PML4 + at, table, sizeof(table));
    }
    guest_put64(&b->g, OTHER_PML4, (OTHER_PML4 + 0x1000) | P | W | U);
    guest_put64(&b->g, OTHER_PML4 + UPPER_SLOT * 8, (OTHER_PML4 + 0x1000) | P | W);
    guest_put64(&b->g, OTHER_PML4 + 0x1000, (OTHER_PML4 + 0x2000) | P | W | U);
    guest_put64(&b->g, OTHER_PML4 + 0x2000 + 2 * 8, (OTHER_PML4 + 0x4000) | P | W | U);
    s.cr4 |= cr4;
    assert_int_equal(soft_engine_ops.vcpu_set_state(b->g.vcpu[0], &s, &err), 0);
    b->v = soft_from_vcpu(b->g.vcpu[0]);
    soft_enter_guest(b->v);
}

static void end(struct bed *b)
{
    soft_leave_guest(b->v);
    guest_end(&b->g);
}

static uint64_t pte_at(uint64_t gva)
{
    return GUEST_PML4 + 0x3000 + ((gva & (GUEST_SIZE - 1)) >> 12) * 8;
}

static void map(struct bed *b, uint64_t gva, uint64_t entry)
{
    guest_put64(&b->g, pte_at(gva), entry);
}

static enum soft_fill look(struct bed *b, uint64_t gva, enum x86_access access)
{
    return soft_tlb_quick(b->v, b->v->tlb, gva, access, &b->gpa);
}

static void check_read(struct bed *b, uint64_t gva, uint64_t gpa)
{
    assert_int_equal(look(b, gva, X86_ACCESS_READ), SOFT_FILL_DONE);
    assert_int_equal(b->gpa, gpa);
    assert_non_null(soft_fast_read(b->v, gva, 8));
}

static void check_fault(struct bed *b, uint64_t gva, enum x86_access access, uint32_t error)
{
    assert_int_equal(look(b, gva, access), SOFT_FILL_FAULT);
    assert_int_equal(b->gpa, error);
}

static void test_invlpg(void **state)
{
    const uint64_t halves[] = {LOOKED_AT, UPPER | LOOKED_AT};
    for (size_t i = 0; i < ARRAY_COUNT(halves); i++) {
        struct bed b;
        uint64_t gva = halves[i], other = halves[1 - i];
        start(&b, 0);
        map(&b, gva, PAGE_A | P | W | U);
        check_read(&b, gva + 8, PAGE_A + 8);
        map(&b, gva, PAGE_B | P | W | U);
        uint64_t walks = b.v->stats.tlb_walks;
        check_read(&b, gva, PAGE_A);
        assert_int_equal(b.v->stats.tlb_walks, walks);
        soft_tlb_flush_page(b.v, gva + 123);
        assert_null(soft_fast_read(b.v, gva, 8));
        check_read(&b, gva, PAGE_B);
        /* Another page at the same place of the first level. */
        check_read(&b, other, PAGE_B);
        assert_null(soft_fast_read(b.v, gva, 8));
        map(&b, gva, PAGE_A | P | W | U);
        soft_tlb_flush_page(b.v, gva);
        check_read(&b, gva, PAGE_A);
        end(&b);
    }
}

static void enter(struct bed *b, uint64_t root, uint64_t pcid, bool keeps)
{
    assert_true(soft_set_cr3(b->v, root | pcid | (keeps ? BIT(63) : 0)));
}

static void test_spaces(void **state)
{
    struct bed b;
    start(&b, X86_CR4_PCIDE);
    map(&b, LOOKED_AT, PAGE_A | P | W | U);
    guest_put64(&b.g, OTHER_PML4 + 0x4000, PAGE_B | P | W | U);
    enter(&b, GUEST_PML4, 1, false);
    check_read(&b, LOOKED_AT, PAGE_A);
    check_read(&b, UPPER | LOOKED_AT, PAGE_A);
    enter(&b, OTHER_PML4, 2, false);
    assert_null(soft_fast_read(b.v, LOOKED_AT, 8));
    assert_null(soft_fast_read(b.v, UPPER | LOOKED_AT, 8));
    check_read(&b, LOOKED_AT, PAGE_B);
    check_read(&b, UPPER | LOOKED_AT, PAGE_B);
    /* Back, and nothing has to be walked. */
    uint64_t walks = b.v->stats.tlb_walks;
    for (int i = 0; i < 5; i++) {
        enter(&b, GUEST_PML4, 1, true);
        check_read(&b, LOOKED_AT, PAGE_A);
        check_read(&b, UPPER | LOOKED_AT, PAGE_A);
        enter(&b, OTHER_PML4, 2, true);
        check_read(&b, LOOKED_AT, PAGE_B);
        check_read(&b, UPPER | LOOKED_AT, PAGE_B);
    }
    assert_int_equal(b.v->stats.tlb_walks, walks);
    /* The PCID of another space, now for this one. */
    enter(&b, OTHER_PML4, 1, false);
    check_read(&b, LOOKED_AT, PAGE_B);
    enter(&b, GUEST_PML4, 2, false);
    check_read(&b, LOOKED_AT, PAGE_A);
    /* INVPCID of the other one. */
    for (unsigned type = 0; type < 4; type++) {
        guest_put64(&b.g, OTHER_PML4 + 0x4000, PAGE_B | P | W | U);
        enter(&b, OTHER_PML4, 1, false);
        check_read(&b, LOOKED_AT, PAGE_B);
        enter(&b, GUEST_PML4, 2, true);
        guest_put64(&b.g, OTHER_PML4 + 0x4000, PAGE_A | P | W | U);
        soft_space_invalidate(b.v, type, 1, LOOKED_AT);
        enter(&b, OTHER_PML4, 1, true);
        check_read(&b, LOOKED_AT, PAGE_A);
    }
    end(&b);
}

static void test_global(void **state)
{
    struct bed b;
    uint64_t gva = UPPER | LOOKED_AT;
    start(&b, X86_CR4_PCIDE);
    map(&b, gva, PAGE_A | P | W | G);
    map(&b, gva + 0x1000, PAGE_A | P | W);
    check_read(&b, gva, PAGE_A);
    check_read(&b, gva + 0x1000, PAGE_A);
    map(&b, gva, PAGE_B | P | W | G);
    map(&b, gva + 0x1000, PAGE_B | P | W);
    soft_tlb_flush(b.v, false);
    assert_non_null(soft_fast_read(b.v, gva, 8));
    check_read(&b, gva, PAGE_A);
    check_read(&b, gva + 0x1000, PAGE_B);
    enter(&b, GUEST_PML4, 5, false);
    check_read(&b, gva, PAGE_A);
    soft_tlb_flush_page(b.v, gva);
    check_read(&b, gva, PAGE_B);
    map(&b, gva, PAGE_A | P | W | G);
    assert_true(soft_set_cr4(b.v, b.v->cr4 & ~(uint64_t)X86_CR4_PGE));
    check_read(&b, gva, PAGE_A);
    /* INVLPG of a global page in one space counts for the others, whatever half it is in. */
    assert_true(soft_set_cr4(b.v, b.v->cr4 | X86_CR4_PGE));
    map(&b, LOOKED_AT, PAGE_A | P | W | G);
    enter(&b, GUEST_PML4, 1, false);
    check_read(&b, LOOKED_AT, PAGE_A);
    enter(&b, GUEST_PML4, 2, false);
    map(&b, LOOKED_AT, PAGE_B | P | W | G);
    soft_tlb_flush_page(b.v, LOOKED_AT);
    enter(&b, GUEST_PML4, 1, true);
    check_read(&b, LOOKED_AT, PAGE_B);
    end(&b);
}

static void set_user(struct bed *b, bool is_user)
{
    b->v->segment[X86_CS].attributes = is_user ? 0xa0fb : 0xa09b;
    b->v->cpl = is_user ? 3 : 0;
    soft_update_mode(b->v);
}

static void test_rights(void **state)
{
    struct bed b;
    uint64_t gva = LOOKED_AT;
    start(&b, X86_CR4_SMEP);
    map(&b, gva, PAGE_A | P | U);
    check_read(&b, gva, PAGE_A);
    assert_int_equal(guest_get64(&b.g, pte_at(gva)), PAGE_A | P | U | A);
    check_fault(&b, gva, X86_ACCESS_WRITE, X86_PF_PRESENT | X86_PF_WRITE);
    check_fault(&b, gva, X86_ACCESS_FETCH, X86_PF_PRESENT | X86_PF_FETCH);
    assert_true(soft_set_cr0(b.v, b.v->cr0 & ~(uint64_t)X86_CR0_WP));
    assert_int_equal(look(&b, gva, X86_ACCESS_WRITE), SOFT_FILL_DONE);
    assert_int_equal(guest_get64(&b.g, pte_at(gva)), PAGE_A | P | U | A | D);
    assert_true(soft_set_cr0(b.v, b.v->cr0 | X86_CR0_WP));
    assert_null(soft_fast_write(b.v, gva, 8));
    check_fault(&b, gva, X86_ACCESS_WRITE, X86_PF_PRESENT | X86_PF_WRITE);
    /* SMAP, and AC. */
    assert_true(soft_set_cr4(b.v, b.v->cr4 | X86_CR4_SMAP));
    check_fault(&b, gva, X86_ACCESS_READ, X86_PF_PRESENT);
    soft_set_flags(b.v, X86_FLAG_AC, X86_FLAG_AC);
    check_read(&b, gva, PAGE_A);
    soft_set_flags(b.v, 0, X86_FLAG_AC);
    check_fault(&b, gva, X86_ACCESS_READ, X86_PF_PRESENT);
    /* The user, who may do what the second level knows from the kernel's accesses. */
    set_user(&b, true);
    check_read(&b, gva, PAGE_A);
    assert_int_equal(look(&b, gva, X86_ACCESS_FETCH), SOFT_FILL_DONE);
    check_fault(&b, gva, X86_ACCESS_WRITE, X86_PF_PRESENT | X86_PF_WRITE | X86_PF_USER);
    check_fault(&b, UPPER | gva, X86_ACCESS_READ, X86_PF_PRESENT | X86_PF_USER);
    map(&b, gva, PAGE_A | P | W | U | NX); /* more rights need no flush */
    assert_int_equal(look(&b, gva, X86_ACCESS_WRITE), SOFT_FILL_DONE);
    check_fault(&b, gva, X86_ACCESS_FETCH, X86_PF_PRESENT | X86_PF_USER | X86_PF_FETCH);
    map(&b, gva + 0x1000, 0);
    check_fault(&b, gva + 0x1000, X86_ACCESS_WRITE, X86_PF_WRITE | X86_PF_USER);
    map(&b, gva + 0x2000, PAGE_A | P | U | BIT(51));
    check_fault(&b, gva + 0x2000, X86_ACCESS_READ, X86_PF_PRESENT | X86_PF_RSVD | X86_PF_USER);
    end(&b);
}

/* D is set by the first write, however well the page is known by then. */
static void test_dirty_bit(void **state)
{
    struct bed b;
    start(&b, 0);
    map(&b, LOOKED_AT, PAGE_A | P | W | U);
    check_read(&b, LOOKED_AT, PAGE_A);
    assert_null(soft_fast_write(b.v, LOOKED_AT, 8));
    assert_int_equal(look(&b, LOOKED_AT, X86_ACCESS_WRITE), SOFT_FILL_DONE);
    assert_non_null(soft_fast_write(b.v, LOOKED_AT, 8));
    assert_int_equal(guest_get64(&b.g, pte_at(LOOKED_AT)), PAGE_A | P | W | U | A | D);
    /* After that a read is enough to let writes through. */
    check_read(&b, UPPER | LOOKED_AT, PAGE_A);
    assert_non_null(soft_fast_write(b.v, UPPER | LOOKED_AT, 8));
    map(&b, LOOKED_AT, PAGE_A | P | W | U | A);
    soft_tlb_flush_page(b.v, LOOKED_AT);
    check_read(&b, LOOKED_AT, PAGE_A);
    assert_null(soft_fast_write(b.v, LOOKED_AT, 8));
    end(&b);
}

static void test_large(void **state)
{
    struct bed b;
    start(&b, 0);
    uint64_t pde = GUEST_PML4 + 0x2000 + 2 * 8, pdpte = GUEST_PML4 + 0x1000 + 8;
    guest_put64(&b.g, pde, 0x600000 | P | W | U | PS);
    check_read(&b, LOOKED_AT + 0x3000, 0x603000);
    uint64_t walks = b.v->stats.tlb_walks;
    check_read(&b, LOOKED_AT + 0x1ff000, 0x7ff000);
    assert_int_equal(b.v->stats.tlb_walks, walks);
    guest_put64(&b.g, pde, 0xa00000 | P | W | U | PS);
    soft_tlb_flush_page(b.v, LOOKED_AT + 0x100000);
    assert_null(soft_fast_read(b.v, LOOKED_AT + 0x3000, 8));
    assert_null(soft_fast_read(b.v, LOOKED_AT + 0x1ff000, 8));
    check_read(&b, LOOKED_AT + 0x3000, 0xa03000);
    check_read(&b, LOOKED_AT + 0x1ff000, 0xbff000);
    /* 1 GiB, of which little is there. */
    guest_put64(&b.g, pdpte, 0 | P | W | U | PS);
    check_read(&b, BIT(30) + 0x3000, 0x3000);
    check_read(&b, BIT(30) + 0xa03000, 0xa03000);
    guest_put64(&b.g, pdpte, (GUEST_PML4 + 0x2000) | P | W | U);
    soft_tlb_flush_page(b.v, BIT(30) + 0x20000000);
    check_read(&b, BIT(30) + LOOKED_AT, 0xa00000);
    /* No memory there. */
    map(&b, PAGE_B, 0x100000000 | P | W | U);
    assert_int_equal(look(&b, PAGE_B + 5, X86_ACCESS_READ), SOFT_FILL_NONE);
    assert_int_equal(b.gpa, 0x100000005);
    end(&b);
}

/* Tags come to their end, and begin again. */
static void test_last_tag(void **state)
{
    struct bed b;
    start(&b, X86_CR4_PCIDE);
    map(&b, LOOKED_AT, PAGE_A | P | W | U);
    guest_put64(&b.g, OTHER_PML4 + 0x4000, PAGE_B | P | W | U);
    enter(&b, GUEST_PML4, 1, false);
    check_read(&b, LOOKED_AT, PAGE_A);
    b.v->second.last_tag = BIT(SOFT_SPACE_TAG_BITS) - 5;
    for (int i = 0; i < 10; i++) {
        enter(&b, OTHER_PML4, 2, false);
        check_read(&b, LOOKED_AT, PAGE_B);
        check_read(&b, UPPER | LOOKED_AT, PAGE_B);
        enter(&b, GUEST_PML4, 1, i & 1);
        check_read(&b, LOOKED_AT, PAGE_A);
        check_read(&b, UPPER | LOOKED_AT, PAGE_A);
    }
    assert_true(b.v->second.last_tag < 100);
    end(&b);
}

static void test_code_page(void **state)
{
    struct bed b;
    start(&b, 0);
    map(&b, LOOKED_AT, PAGE_A | P | W | U);
    struct soft_page page = soft_page_find(b.v->vm, PAGE_A);
    atomic_store(&page.slot->page_flags[page.index], GUEST_PAGE_CODE | SOFT_PAGE_CODE_READY);
    assert_int_equal(look(&b, LOOKED_AT, X86_ACCESS_WRITE), SOFT_FILL_NONE);
    assert_non_null(soft_find_code_page(b.v, LOOKED_AT + 8));
    assert_null(soft_fast_write(b.v, LOOKED_AT, 8));
    assert_non_null(soft_fast_read(b.v, LOOKED_AT, 8));
    soft_tlb_flush_page(b.v, LOOKED_AT);
    assert_null(soft_find_code_page(b.v, LOOKED_AT + 8));
    assert_int_equal(look(&b, LOOKED_AT, X86_ACCESS_WRITE), SOFT_FILL_NONE);
    soft_tlb_flush(b.v, false);
    assert_null(soft_find_code_page(b.v, LOOKED_AT + 8));
    end(&b);
}

static void test_dirty_log(void **state)
{
    struct bed b;
    struct error err = {0};
    uint64_t bitmap[GUEST_SIZE / GUEST_PAGE_SIZE / 64] = {0};
    start(&b, 0);
    map(&b, LOOKED_AT, PAGE_A | P | W | U | A | D);
    assert_int_equal(look(&b, LOOKED_AT, X86_ACCESS_WRITE), SOFT_FILL_DONE);
    soft_leave_guest(b.v);
    assert_int_equal(soft_engine_ops.vm_log_start(b.g.vm, &err), 0);
    soft_enter_guest(b.v);
    assert_null(soft_fast_write(b.v, LOOKED_AT, 8));
    check_read(&b, LOOKED_AT, PAGE_A);
    assert_null(soft_fast_write(b.v, LOOKED_AT, 8)); /* or else nobody would note the write */
    assert_int_equal(look(&b, LOOKED_AT, X86_ACCESS_WRITE), SOFT_FILL_DONE);
    soft_leave_guest(b.v);
    assert_int_equal(soft_engine_ops.vm_log_fetch(b.g.vm, 0, bitmap, &err), 0);
    size_t page = PAGE_A / GUEST_PAGE_SIZE;
    assert_true(bitmap[page / 64] & BIT(page % 64));
    soft_enter_guest(b.v);
    assert_null(soft_fast_write(b.v, LOOKED_AT, 8));
    end(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_invlpg),    cmocka_unit_test(test_spaces),
        cmocka_unit_test(test_global),    cmocka_unit_test(test_rights),
        cmocka_unit_test(test_dirty_bit), cmocka_unit_test(test_large),
        cmocka_unit_test(test_last_tag),  cmocka_unit_test(test_code_page),
        cmocka_unit_test(test_dirty_log),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
