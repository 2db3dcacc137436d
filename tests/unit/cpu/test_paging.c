/* Covers cpu/x86/paging.c with tables made by hand, and with every combination of rights against the rules of Intel's
 * SDM 3A 4.6.1 and 4.7 written down a second time. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/core/compiler.h"
#include "cpu/x86/paging.h"
#include "cpu/x86/state.h"

#define P  (1ull << 0)
#define W  (1ull << 1)
#define U  (1ull << 2)
#define A  (1ull << 5)
#define D  (1ull << 6)
#define PS (1ull << 7)
#define G  (1ull << 8)
#define XD (1ull << 63)

#define PML4 0x1000ull
#define PDPT 0x2000ull
#define PD   0x3000ull
#define PT   0x4000ull

/* Physical memory of five pages; what lies beyond reads all ones. */
static struct {
    uint64_t word[0x5000 / 8];
    int disturb; /* so many compare-exchanges find another value: bit 9 of the entry (free) flips */
} ram;

static uint64_t ram_read(void *ctx, uint64_t gpa, unsigned size)
{
    uint64_t value = ~0ull;
    assert_int_equal(gpa % size, 0);
    if (gpa < sizeof(ram.word)) {
        value = 0;
        memcpy(&value, (uint8_t *)ram.word + gpa, size);
    }
    return value;
}

static bool ram_compare_exchange(void *ctx, uint64_t gpa, unsigned size, uint64_t expected,
                                 uint64_t desired)
{
    if (gpa >= sizeof(ram.word)) {
        return true;
    }
    if (ram.disturb > 0) {
        ram.disturb--;
        ram.word[gpa / 8] ^= 1 << 9;
    }
    if (ram_read(NULL, gpa, size) != expected) {
        return false;
    }
    memcpy((uint8_t *)ram.word + gpa, &desired, size);
    return true;
}

static const struct x86_paging_memory memory = {.read = ram_read,
                                                .compare_exchange = ram_compare_exchange};

static void put(uint64_t table, unsigned index, uint64_t entry)
{
    ram.word[table / 8 + index] = entry;
}

static void put32(uint64_t table, unsigned index, uint32_t entry)
{
    memcpy((uint8_t *)ram.word + table + index * 4, &entry, 4);
}

static uint64_t entry_of(uint64_t table, unsigned index)
{
    return ram.word[table / 8 + index];
}

static uint32_t entry32_of(uint64_t table, unsigned index)
{
    uint32_t entry;
    memcpy(&entry, (uint8_t *)ram.word + table + index * 4, 4);
    return entry;
}

static struct x86_paging long_paging(void)
{
    memset(&ram, 0, sizeof(ram));
    return (struct x86_paging){
        .cr0 = X86_CR0_PG | X86_CR0_PE | X86_CR0_WP,
        .cr3 = PML4 | 0x7, /* PCID bits are no part of the address */
        .cr4 = X86_CR4_PAE,
        .efer = X86_EFER_LMA | X86_EFER_LME | X86_EFER_NXE,
        .physical_bits = 40,
    };
}

/* gva 0x8040201000 + x: index 1 in each table. */
#define GVA (1ull << 39 | 1ull << 30 | 1ull << 21 | 1ull << 12)

static void put_long(uint64_t rights)
{
    put(PML4, 1, PDPT | P | rights);
    put(PDPT, 1, PD | P | rights);
    put(PD, 1, PT | P | rights);
    put(PT, 1, 0xab000 | P | rights);
}

static struct x86_translation must_translate(const struct x86_paging *paging, uint64_t gva,
                                             enum x86_access access, bool is_user)
{
    struct x86_translation translation;
    uint32_t error;
    assert_true(
        x86_paging_walk(paging, &memory, gva, access, is_user, false, &translation, &error));
    return translation;
}

static uint32_t must_fault(const struct x86_paging *paging, uint64_t gva, enum x86_access access,
                           bool is_user)
{
    struct x86_translation translation;
    uint32_t error = 0xdead;
    assert_false(
        x86_paging_walk(paging, &memory, gva, access, is_user, false, &translation, &error));
    return error;
}

static void without_paging_all_is_flat(void **state)
{
    struct x86_paging paging = {.cr0 = X86_CR0_PE, .physical_bits = 40};
    struct x86_translation t = must_translate(&paging, 0x1fffff123, X86_ACCESS_WRITE, true);
    assert_int_equal(t.gpa, 0xfffff123);
    assert_true(t.is_writable && t.is_user && t.is_executable && t.is_dirty && !t.is_global);
}

static void four_levels_map_pages(void **state)
{
    struct x86_paging paging = long_paging();
    put_long(W | U);
    struct x86_translation t = must_translate(&paging, GVA + 0x123, X86_ACCESS_READ, true);
    assert_int_equal(t.gpa, 0xab123);
    assert_int_equal(t.page_size, 0x1000);
    assert_true(t.is_user && t.is_executable);
    assert_false(t.is_writable); /* not before D is set */
    assert_false(t.is_dirty);
    assert_int_equal(entry_of(PML4, 1) & (A | D), A);
    assert_int_equal(entry_of(PDPT, 1) & (A | D), A);
    assert_int_equal(entry_of(PD, 1) & (A | D), A);
    assert_int_equal(entry_of(PT, 1) & (A | D), A);
    t = must_translate(&paging, GVA, X86_ACCESS_WRITE, true);
    assert_true(t.is_writable && t.is_dirty);
    assert_int_equal(entry_of(PT, 1) & (A | D), A | D);
    assert_int_equal(entry_of(PD, 1) & D, 0);
    /* The upper half: index 511 of the top table. */
    put(PML4, 511, PDPT | P | W);
    t = must_translate(&paging, 0xffffff8040201fff, X86_ACCESS_READ, false);
    assert_int_equal(t.gpa, 0xabfff);
    assert_false(t.is_user);
}

static void large_pages_end_the_walk(void **state)
{
    struct x86_paging paging = long_paging();
    paging.cr4 |= X86_CR4_PGE;
    put_long(W | U);
    put(PD, 1, 0xff40000000 | P | W | PS | G | 1 << 12); /* bit 12 is PAT */
    struct x86_translation t = must_translate(&paging, GVA + 0x45, X86_ACCESS_WRITE, false);
    assert_int_equal(t.gpa, 0xff40001045);
    assert_int_equal(t.page_size, 2 << 20);
    assert_true(t.is_global && t.is_writable && !t.is_user);
    assert_int_equal(entry_of(PD, 1) & (A | D), A | D);
    put(PDPT, 1, 0xc0000000 | P | W | U | PS);
    t = must_translate(&paging, GVA + 0x45, X86_ACCESS_READ, true);
    assert_int_equal(t.gpa, 0xc0000000 + (GVA & 0x3fffffff) + 0x45);
    assert_int_equal(t.page_size, 1 << 30);
    assert_false(t.is_global);
    paging.cr4 &= ~(uint64_t)X86_CR4_PGE;
    put_long(W | U | G);
    assert_false(must_translate(&paging, GVA, X86_ACCESS_READ, true).is_global);
}

static void absent_entries_fault_at_each_level(void **state)
{
    static const uint64_t tables[] = {PML4, PDPT, PD, PT};
    for (size_t i = 0; i < ARRAY_COUNT(tables); i++) {
        struct x86_paging paging = long_paging();
        put_long(W | U);
        /* All other bits of an absent entry mean nothing. */
        put(tables[i], 1, ~P);
        assert_int_equal(must_fault(&paging, GVA, X86_ACCESS_READ, false), 0);
        assert_int_equal(must_fault(&paging, GVA, X86_ACCESS_WRITE, true),
                         X86_PF_WRITE | X86_PF_USER);
        assert_int_equal(must_fault(&paging, GVA, X86_ACCESS_FETCH, true),
                         X86_PF_FETCH | X86_PF_USER);
    }
}

static void reserved_bits_fault(void **state)
{
    static const struct {
        uint64_t table, entry;
    } bad[] = {
        {PML4, PDPT | PS},       {PML4, PDPT | 1ull << 40}, {PDPT, PD | 1ull << 51},
        {PDPT, PS | 1ull << 13}, {PDPT, PS | 1ull << 29},   {PD, PT | 1ull << 40},
        {PD, PS | 1ull << 13},   {PD, PS | 1ull << 20},     {PT, 1ull << 40},
        {PT, 1ull << 51},
    };
    for (size_t i = 0; i < ARRAY_COUNT(bad); i++) {
        struct x86_paging paging = long_paging();
        put_long(W | U);
        put(bad[i].table, 1, bad[i].entry | P | W | U);
        assert_int_equal(must_fault(&paging, GVA, X86_ACCESS_WRITE, true),
                         X86_PF_PRESENT | X86_PF_RSVD | X86_PF_WRITE | X86_PF_USER);
    }
    struct x86_paging paging = long_paging();
    put_long(W | U | 0x7ffull << 52); /* free for software */
    (void)must_translate(&paging, GVA, X86_ACCESS_READ, true);
    paging.physical_bits = 52;
    put(PT, 1, 0xfffffff000000 | P);
    assert_int_equal(must_translate(&paging, GVA, X86_ACCESS_READ, false).gpa, 0xfffffff000000);
    /* Without NXE bit 63 is reserved, and a fetch leaves no mark in the error code. */
    paging.efer &= ~(uint64_t)X86_EFER_NXE;
    put_long(W | U);
    put(PD, 1, PT | P | W | U | XD);
    assert_int_equal(must_fault(&paging, GVA, X86_ACCESS_FETCH, true),
                     X86_PF_PRESENT | X86_PF_RSVD | X86_PF_USER);
}

/* What SDM 3A 4.6.1 says, paragraph by paragraph. */
static bool oracle(const struct x86_paging *paging, enum x86_access access, bool is_user,
                   bool is_implicit, bool user_page, bool writable, bool xd)
{
    bool smap = paging->cr4 & X86_CR4_SMAP, smep = paging->cr4 & X86_CR4_SMEP;
    bool wp = paging->cr0 & X86_CR0_WP, nxe = paging->efer & X86_EFER_NXE;
    bool ac = paging->flag_ac;
    if (is_implicit) {
        is_user = false;
    }
    if (!is_user) {
        switch (access) {
        case X86_ACCESS_READ:
            return !user_page || !smap || (ac && !is_implicit);
        case X86_ACCESS_WRITE:
            if (!user_page) {
                return !wp || writable;
            }
            if (smap && (is_implicit || !ac)) {
                return false;
            }
            return !wp || writable;
        case X86_ACCESS_FETCH:
            if (!user_page) {
                return !nxe || !xd;
            }
            return !smep && (!nxe || !xd);
        }
    }
    switch (access) {
    case X86_ACCESS_READ:
        return user_page;
    case X86_ACCESS_WRITE:
        return user_page && writable;
    case X86_ACCESS_FETCH:
        return user_page && (!nxe || !xd);
    }
    return false;
}

static void rights_are_exact(void **state)
{
    unsigned count = 0;
    for (unsigned c = 0; c < 1 << 13; c++) {
        struct x86_paging paging = long_paging();
        paging.cr0 ^= c & 1 ? X86_CR0_WP : 0;
        paging.cr4 |= (c & 2 ? X86_CR4_SMEP : 0) | (c & 4 ? X86_CR4_SMAP : 0);
        paging.efer ^= c & 8 ? X86_EFER_NXE : 0;
        paging.flag_ac = c & 16;
        bool is_user = c & 32, is_implicit = c & 64;
        /* Which rights lack, and whether the leaf or an upper level lacks them. */
        bool lacks_user = c & 128, lacks_write = c & 256, has_xd = c & 512;
        if (has_xd && !(paging.efer & X86_EFER_NXE)) {
            continue; /* reserved, tested above */
        }
        static const uint64_t tables[] = {PML4, PDPT, PD, PT};
        uint64_t at = tables[c >> 10 & 3];
        bool two_levels = c >> 12;
        put_long(W | U);
        uint64_t change = (lacks_user ? U : 0) | (lacks_write ? W : 0);
        put(at, 1, (entry_of(at, 1) & ~change) | (has_xd ? XD : 0));
        if (two_levels) {
            put(PT, 1, (entry_of(PT, 1) & ~change) | (has_xd ? XD : 0));
        }
        for (int access = X86_ACCESS_READ; access <= X86_ACCESS_FETCH; access++) {
            struct x86_translation t;
            uint32_t error = 0;
            bool want = oracle(&paging, (enum x86_access)access, is_user, is_implicit, !lacks_user,
                               !lacks_write, has_xd);
            bool got = x86_paging_walk(&paging, &memory, GVA, (enum x86_access)access, is_user,
                                       is_implicit, &t, &error);
            assert_int_equal(got, want);
            bool user_mode = is_user && !is_implicit;
            bool names_fetch = (paging.cr4 & X86_CR4_SMEP) || (paging.efer & X86_EFER_NXE);
            if (!want) {
                assert_int_equal(
                    error, X86_PF_PRESENT | (access == X86_ACCESS_WRITE ? X86_PF_WRITE : 0) |
                               (user_mode ? X86_PF_USER : 0) |
                               (access == X86_ACCESS_FETCH && names_fetch ? X86_PF_FETCH : 0));
                /* A refused access leaves the leaf alone. */
                if (access != X86_ACCESS_READ) {
                    assert_int_equal(entry_of(PT, 1) & D, 0);
                }
            } else {
                assert_int_equal(t.is_user, !lacks_user);
                assert_int_equal(t.is_executable, !has_xd);
                assert_int_equal(t.is_writable,
                                 t.is_dirty &&
                                     oracle(&paging, X86_ACCESS_WRITE, is_user, is_implicit,
                                            !lacks_user, !lacks_write, has_xd));
                put(PT, 1, entry_of(PT, 1) & ~D);
            }
            count++;
        }
    }
    assert_true(count > 10000);
}

static void a_changed_entry_restarts_the_walk(void **state)
{
    struct x86_paging paging = long_paging();
    put_long(W | U);
    ram.disturb = 5;
    struct x86_translation t = must_translate(&paging, GVA, X86_ACCESS_WRITE, true);
    assert_int_equal(t.gpa, 0xab000);
    assert_int_equal(ram.disturb, 0);
    assert_int_equal(entry_of(PT, 1) & (A | D), A | D);
}

static void tables_outside_memory_read_ones(void **state)
{
    struct x86_paging paging = long_paging();
    put_long(W | U);
    put(PD, 1, 0x100000 | P | W | U);
    /* All ones: present, with reserved bits. */
    assert_int_equal(must_fault(&paging, GVA, X86_ACCESS_READ, false),
                     X86_PF_PRESENT | X86_PF_RSVD);
    paging.physical_bits = 52;
    assert_true(must_translate(&paging, GVA, X86_ACCESS_WRITE, true).is_dirty);
}

static struct x86_paging legacy_paging(void)
{
    memset(&ram, 0, sizeof(ram));
    return (struct x86_paging){
        .cr0 = X86_CR0_PG | X86_CR0_PE | X86_CR0_WP,
        .cr3 = PD | 0x18,
        .physical_bits = 40,
    };
}

static void two_levels_of_four_bytes(void **state)
{
    struct x86_paging paging = legacy_paging();
    put32(PD, 1, PT | P | W | U | PS); /* PS means nothing without PSE */
    put32(PT, 1, 0xfffff000 | P | U);
    struct x86_translation t = must_translate(&paging, 0x401abc, X86_ACCESS_READ, true);
    assert_int_equal(t.gpa, 0xfffffabc);
    assert_int_equal(t.page_size, 0x1000);
    assert_true(t.is_executable);
    assert_int_equal(entry32_of(PD, 1), PT | P | W | U | PS | A);
    assert_int_equal(entry32_of(PT, 1), 0xfffff000 | P | U | A);
    assert_int_equal(must_fault(&paging, 0x401abc, X86_ACCESS_WRITE, true),
                     X86_PF_PRESENT | X86_PF_WRITE | X86_PF_USER);
    assert_int_equal(must_fault(&paging, 0x402000, X86_ACCESS_FETCH, true), X86_PF_USER);
    paging.cr4 |= X86_CR4_SMEP;
    assert_int_equal(must_fault(&paging, 0x401abc, X86_ACCESS_FETCH, false),
                     X86_PF_PRESENT | X86_PF_FETCH);
    /* NXE alone is without force in this mode. */
    paging.cr4 = 0;
    paging.efer = X86_EFER_NXE;
    (void)must_translate(&paging, 0x401abc, X86_ACCESS_FETCH, true);
    assert_int_equal(must_fault(&paging, 0x402000, X86_ACCESS_FETCH, false), 0);
}

static void four_mebibyte_pages(void **state)
{
    struct x86_paging paging = legacy_paging();
    paging.cr4 = X86_CR4_PSE;
    put32(PD, 2, 0xffc00000 | 0xab << 13 | PS | P | W);
    struct x86_translation t = must_translate(&paging, 0x812345, X86_ACCESS_WRITE, false);
    assert_int_equal(t.gpa, 0xabffc12345);
    assert_int_equal(t.page_size, 4 << 20);
    assert_int_equal(entry32_of(PD, 2) & (A | D), A | D);
    put32(PD, 2, 1 << 21 | PS | P | W);
    assert_int_equal(must_fault(&paging, 0x812345, X86_ACCESS_READ, false),
                     X86_PF_PRESENT | X86_PF_RSVD);
    /* Fewer physical bits reserve the upper part of the field. */
    paging.physical_bits = 36;
    put32(PD, 2, 0xf << 13 | PS | P | W);
    assert_int_equal(must_translate(&paging, 0x812345, X86_ACCESS_READ, false).gpa, 0xf00012345);
    put32(PD, 2, 0x10 << 13 | PS | P | W);
    assert_int_equal(must_fault(&paging, 0x812345, X86_ACCESS_READ, false),
                     X86_PF_PRESENT | X86_PF_RSVD);
}

static void pae_uses_the_loaded_pdptes(void **state)
{
    struct x86_paging paging = legacy_paging();
    paging.cr4 = X86_CR4_PAE;
    paging.cr3 = PDPT + 0x20; /* 32-byte aligned is enough */
    put(PDPT, 4 + 3, PD | P | 1 << 9);
    put(PD, 511, PT | P | W | U);
    put(PT, 511, 0x12345000 | P | W | U);
    assert_true(x86_paging_load_pdptes(&memory, paging.cr3, 40, paging.pdpte));
    struct x86_translation t = must_translate(&paging, 0xffffffff, X86_ACCESS_WRITE, true);
    assert_int_equal(t.gpa, 0x12345fff);
    assert_int_equal(entry_of(PDPT, 7), PD | P | 1 << 9); /* no A bit there */
    assert_int_equal(must_fault(&paging, 0, X86_ACCESS_READ, false), 0);
    /* Memory may change: the registers count. */
    put(PDPT, 7, 0);
    (void)must_translate(&paging, 0xffffffff, X86_ACCESS_READ, true);

    /* Bits 62:52 are reserved here, and 63 without NXE. */
    put(PT, 511, 1ull << 52 | P | W | U);
    assert_int_equal(must_fault(&paging, 0xffffffff, X86_ACCESS_READ, false),
                     X86_PF_PRESENT | X86_PF_RSVD);
    put(PT, 511, XD | P | W | U);
    assert_int_equal(must_fault(&paging, 0xffffffff, X86_ACCESS_READ, false),
                     X86_PF_PRESENT | X86_PF_RSVD);
    paging.efer = X86_EFER_NXE;
    assert_int_equal(must_fault(&paging, 0xffffffff, X86_ACCESS_FETCH, false),
                     X86_PF_PRESENT | X86_PF_FETCH);
    put(PD, 511, 0x40000000 | PS | P);
    assert_int_equal(must_translate(&paging, 0xffffffff, X86_ACCESS_READ, false).gpa, 0x401fffff);

    static const uint64_t bad[] = {1 << 1, 1 << 2, 1 << 5, 1 << 8, 1ull << 40, 1ull << 63};
    for (size_t i = 0; i < ARRAY_COUNT(bad); i++) {
        uint64_t kept[4] = {1, 2, 3, 4};
        put(PDPT, 5, PD | P | bad[i]);
        assert_false(x86_paging_load_pdptes(&memory, paging.cr3, 40, kept));
        assert_int_equal(kept[1], 2);
        put(PDPT, 5, (PD | bad[i]) & ~P);
        assert_true(x86_paging_load_pdptes(&memory, paging.cr3, 40, kept));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(without_paging_all_is_flat),
        cmocka_unit_test(four_levels_map_pages),
        cmocka_unit_test(large_pages_end_the_walk),
        cmocka_unit_test(absent_entries_fault_at_each_level),
        cmocka_unit_test(reserved_bits_fault),
        cmocka_unit_test(rights_are_exact),
        cmocka_unit_test(a_changed_entry_restarts_the_walk),
        cmocka_unit_test(tables_outside_memory_read_ones),
        cmocka_unit_test(two_levels_of_four_bytes),
        cmocka_unit_test(four_mebibyte_pages),
        cmocka_unit_test(pae_uses_the_loaded_pdptes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
