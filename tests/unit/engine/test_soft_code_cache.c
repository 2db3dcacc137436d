/* Translated code that is more than the code cache holds: what the guest computes, and whether blocks, links, pages and jump cache
 * still agree with each other afterwards. */
#include "engine/soft/translate/code_cache.h"
#include "engine/soft/translate/verify.h"

#include "soft_guest.h"

/* A chain of blocks "add $n, %rax; jmp to the next", STRIDE bytes apart; the last leads back to the program. After each of three
 * rounds the program makes block 7 add one more. */
GUEST_CODE_BLOCK(rounds, ".code64",
                 "xor %eax, %eax\n mov $3, %ecx\n"
                 "mov $0x100000, %rsi\n"
                 "1: jmp *%rsi\n"
                 ".org rounds + 0x100\n"
                 "call 3f\n"
                 "addl $1, (%rbx)\n"
                 "dec %ecx\n jnz 2f\n out %al, $0xf4\n hlt\n"
                 "2: jmp 1b\n"
                 "3: inc %rdi\n ret\n");

#define CHAIN_BASE 0x100000u
#define ROUNDS     3u

static uint32_t addend_of(uint32_t block)
{
    return 1u << (block % 20);
}

static void put_chain(struct soft_guest *g, uint32_t count, uint32_t stride)
{
    for (uint32_t i = 0; i < count; i++) {
        uint8_t bytes[11] = {0x48, 0x05, [6] = 0xe9};
        uint32_t addend = addend_of(i);
        uint32_t here = CHAIN_BASE + i * stride;
        uint32_t next = i + 1 < count ? here + stride : GUEST_CODE + 0x100;
        uint32_t distance = next - (here + sizeof(bytes));
        memcpy(bytes + 2, &addend, sizeof(addend));
        memcpy(bytes + 7, &distance, sizeof(distance));
        guest_put(g, here, bytes, sizeof(bytes));
    }
}

static bool has_block(const struct soft_native *n, const struct native_block *block)
{
    return native_cache_find(n, block->gpa, block->address, block->mode, NATIVE_SECOND_ANY) ==
           block;
}

static void check_incoming(const struct soft_native *n, const struct native_block *block)
{
    native_ref from = native_ref_of(n, &block->incoming);
    for (native_ref ref = block->incoming; ref;) {
        const struct native_link *link = native_at(n, ref);
        const uint8_t *place = native_link_place(n, link);
        int32_t distance;
        memcpy(&distance, place, sizeof(distance));
        assert_int_equal(link->target, native_ref_of(n, block));
        assert_int_equal(link->from, from);
        const uint8_t *entry =
            link->with_flags ? native_entry(n, block) : native_entry_saved(n, block);
        assert_ptr_equal(place + 4 + distance, entry);
        from = native_ref_of(n, &link->next);
        ref = link->next;
    }
}

/* Returns how many blocks there are. */
static size_t check_cache(const struct soft_vcpu *v)
{
    const struct soft_native *n = v->native;
    size_t in_hash = 0, in_pages = 0, crossings = 0;
    for (size_t i = 0; i < BIT(n->hash_bits); i++) {
        for (native_ref ref = n->hash[i]; ref;) {
            const struct native_block *block = native_at(n, ref);
            assert_true(has_block(n, block));
            check_incoming(n, block);
            crossings += block->is_crossing;
            for (uint32_t k = 0; k < block->link_count; k++) {
                native_ref target = block->link[k].target;
                assert_true(!target || has_block(n, native_at(n, target)));
            }
            in_hash++;
            ref = block->hash_next;
        }
    }
    for (size_t i = 0; i < n->page_count; i++) {
        const struct native_page *page = &n->pages[i];
        for (native_ref ref = page->blocks; ref;) {
            const struct native_block *block = native_at(n, ref);
            assert_true(has_block(n, block));
            assert_true((block->granules & ~page->granules) == 0);
            assert_int_equal(block->gpa - block->gpa % GUEST_PAGE_SIZE, page->gpa);
            in_pages++;
            ref = block->page_next;
        }
        for (native_ref ref = page->crossings; ref;) {
            struct native_block *block = native_at(n, ref);
            const struct native_second *second = native_second(block);
            assert_true(block->is_crossing && has_block(n, block));
            assert_true((second->granules & ~page->granules) == 0);
            assert_int_equal(second->gpa, page->gpa);
            crossings--;
            ref = second->next;
        }
    }
    assert_int_equal(in_hash, in_pages);
    assert_int_equal(crossings, 0);
    for (size_t i = 0; i < NATIVE_JUMP_SIZE; i++) {
        const struct native_block *block = native_at(n, v->native_jump_block[i]);
        if (v->native_jump_block[i]) {
            assert_true(has_block(n, block));
            assert_ptr_equal(v->native_jump[i].code,
                             native_executable(n, native_entry_saved(n, block)));
            assert_ptr_equal(v->native_jump[i].flags_code,
                             native_executable(n, native_entry(n, block)));
        }
    }
    return in_hash;
}

static void run_chain(struct soft_guest *g, uint32_t count, uint32_t stride)
{
    struct x86_state s, after;
    uint64_t once = 0;
    guest_long_mode(g, 0, rounds, GUEST_CODE_SIZE(rounds), &s);
    put_chain(g, count, stride);
    for (uint32_t i = 0; i < count; i++) {
        once += addend_of(i);
    }
    s.gpr[X86_RDI] = 0;
    s.gpr[X86_RBX] = CHAIN_BASE + 7 * stride + 2;
    assert_int_equal(guest_run(g, 0, &s, &after), VCPU_EXIT_KICKED);
    assert_int_equal(after.gpr[X86_RAX], ROUNDS * once + 1 + 2);
    assert_int_equal(after.gpr[X86_RDI], ROUNDS);
}

/* More code than fits, with links within pages and to other ones; with a stride of 17 also instructions on two pages. */
static void test_more_code_than_fits(void **state)
{
    static const struct {
        const char *options;
        uint32_t stride;
    } cases[] = {
        {"cache=4M", 16}, {"cache=4M", 17}, {"cache=4M,verify=on", 17}, {"cache=4M,icount=on", 17}};
    const uint32_t count = 60000;
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        struct soft_guest g;
        guest_start_with(&g, 1, cases[i].options);
        const struct soft_vcpu *v = soft_from_vcpu(g.vcpu[0]);
        run_chain(&g, count, cases[i].stride);
        assert_true(v->stats.code_cache_flushes > NATIVE_REGIONS);
        assert_in_range(check_cache(v), count / 8, count);
        guest_end(&g);
    }
}

/* More pages with code than can be described. */
static void test_more_pages_than_fit(void **state)
{
    struct soft_guest g;
    const uint32_t count = 3000;
    guest_start_with(&g, 1, "cache=4M");
    const struct soft_vcpu *v = soft_from_vcpu(g.vcpu[0]);
    assert_true(v->native->page_count < count);
    run_chain(&g, count, GUEST_PAGE_SIZE + 16);
    assert_true(v->stats.code_cache_flushes > 0);
    assert_in_range(check_cache(v), 100, v->native->page_count);
    guest_end(&g);
}

static size_t count_links_of_epochs(const struct soft_native *n)
{
    size_t count = 0;
    for (size_t i = 0; i < BIT(n->hash_bits); i++) {
        for (native_ref ref = n->hash[i]; ref;) {
            const struct native_block *block = native_at(n, ref);
            for (uint32_t k = 0; k < block->link_count; k++) {
                count += block->link[k].target && block->link[k].epoch_before;
            }
            ref = block->hash_next;
        }
    }
    return count;
}

/* 32 bits of an epoch come again after many flushes of the TLB: no link may take it for the one that it compares. */
static void test_epochs_come_again(void **state)
{
    struct soft_guest g;
    const uint32_t count = 3000;
    guest_start_with(&g, 1, "verify=on");
    struct soft_vcpu *v = soft_from_vcpu(g.vcpu[0]);
    run_chain(&g, count, 16);
    size_t blocks = check_cache(v);
    assert_true(count_links_of_epochs(v->native) > 0);
    v->native->last_epoch = UINT32_MAX;
    soft_native_forget_addresses(v, false);
    assert_int_equal(check_cache(v), blocks);
    assert_int_equal(count_links_of_epochs(v->native), 0);
    assert_true(v->native_epoch[0] && v->native_epoch[1]);
    run_chain(&g, count, 16);
    assert_true(count_links_of_epochs(v->native) > 0);
    (void)check_cache(v);
    guest_end(&g);
}

static void test_sizes(void **state)
{
    static const struct {
        const char *options;
        size_t mib;
    } cases[] = {{"", 64},           {"cache=4", 4},     {"cache=5M", 5},
                 {"cache=8192K", 8}, {"cache=1g", 1024}, {"cache=4097k", 5}};
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        struct soft_guest g;
        guest_start_with(&g, 1, cases[i].options);
        assert_int_equal(soft_from_vcpu(g.vcpu[0])->native->size, cases[i].mib << 20);
        guest_end(&g);
    }
    static const char *const bad[] = {
        "cache",     "cache=",   "cache=3M",  "cache=1025M",
        "cache=4MM", "cache=M",  "cache=-4M", "cache=99999999999999999999G",
        "cache=2G",  "cache=4T", "cache=0x10"};
    for (size_t i = 0; i < ARRAY_COUNT(bad); i++) {
        struct error err = {0};
        struct vm *vm = NULL;
        struct vm_config config = {.options = bad[i], .vcpu_count = 1};
        assert_int_equal(guest_memory_create(&config.memory, &err), 0);
        assert_true(soft_engine_ops.vm_create(&config, &vm, &err) < 0);
        assert_non_null(strstr(err.text, "cache=SIZE (4M to 1G)"));
        guest_memory_destroy(config.memory);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_more_code_than_fits),
        cmocka_unit_test(test_more_pages_than_fit),
        cmocka_unit_test(test_epochs_come_again),
        cmocka_unit_test(test_sizes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
