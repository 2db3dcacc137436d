/* The log of written pages of the software engine: whatever way a guest writes, the page is reported once, and no other one. */
#include "soft_guest.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/core/bits.h"
#include "engine/soft/vcpu.h"

#define PAGES      (GUEST_SIZE >> 12)
#define WORDS      (PAGES / 64)
#define STACK_PAGE ((GUEST_STACK - 1) >> 12)

/* Kicks at its end. */
#define STORE_CODE(name, text) GUEST_CODE_BLOCK(name, ".code64", text "\n out %al, $0xf4\n hlt\n")

STORE_CODE(plain, "movl $1, 0x200000\n movb $1, 0x202fff\n addl $1, 0x203004");
STORE_CODE(crossing, "mov %rax, 0x200ffc\n mov %ax, 0x203fff");
STORE_CODE(pushing, "push %rax");
STORE_CODE(strings, "mov $0x200800, %edi\n mov $0x1900, %ecx\n rep stosb\n"
                    "mov $0x210000, %esi\n mov $0x205ff0, %edi\n mov $4, %ecx\n rep movsq");
STORE_CODE(backwards, "std\n mov $0x200008, %edi\n mov $3, %ecx\n rep stosq\n cld");
STORE_CODE(input, "mov $0x200000, %edi\n mov $0x70, %edx\n insb\n mov $2, %ecx\n"
                  "mov $0x202fff, %edi\n rep insb");
STORE_CODE(locked, "lock incq 0x200000\n xor %eax, %eax\n lock cmpxchg %rbx, 0x201000\n"
                   "xchg %rbx, 0x202000\n lock xadd %rbx, 0x203ffc\n xor %edx, %edx\n"
                   "lock cmpxchg16b 0x205000");
STORE_CODE(bits, "mov $-1, %rax\n bts %rax, 0x211000\n btcl $5, 0x213000\n setz 0x214000");
STORE_CODE(x87, "fld1\n fstpt 0x200ffc\n fnsave 0x202fc0\n fnstenv 0x204000\n fnstcw 0x205fff\n"
                "fxsave64 0x206f00");
STORE_CODE(vectors, "movdqu %xmm0, 0x200ff8\n movntdq %xmm0, 0x202000\n movss %xmm0, 0x203000\n"
                    "pextrb $3, %xmm0, 0x204000\n movq %mm0, 0x205000\n stmxcsr 0x206000\n"
                    "movnti %rax, 0x207000");
/* The second half of 32 bytes across two pages. A mask of no bytes is a write all the same, as on CPUs of AMD. */
STORE_CODE(masked, "vpcmpeqd %ymm1, %ymm1, %ymm1\n vxorps %xmm2, %xmm2, %xmm2\n"
                   "vpxor %xmm4, %xmm4, %xmm4\n"
                   "vinserti128 $1, %xmm1, %ymm4, %ymm4\n vpmaskmovd %ymm0, %ymm4, 0x200ff0\n"
                   "mov $0x203000, %edi\n maskmovdqu %xmm2, %xmm0\n"
                   "mov $0x204000, %edi\n maskmovdqu %xmm1, %xmm0\n vmovdqu %ymm0, 0x205ff0");
STORE_CODE(xsaving, "mov $7, %eax\n xor %edx, %edx\n xsave64 0x200d40\n xsavec 0x203000");
STORE_CODE(tables, "sgdt 0x200000\n sidt 0x201ffc\n smsw 0x203000\n mov %ds, 0x204000");
STORE_CODE(reading, "mov 0x200000, %rax\n cmpl $1, 0x201000\n movdqu 0x202ff8, %xmm0\n"
                    "mov $0x204000, %esi\n lodsq\n bt %eax, 0x205000\n testl $1, 0x206000\n"
                    "fldl 0x207000\n fstp %st\n prefetchw 0x208000\n ldmxcsr 0x20a000");
/* The data of an instruction that was run already. */
STORE_CODE(patching, "1: mov $1, %ebx\n cmp $2, %ebx\n je 2f\n movl $2, 1b+1(%rip)\n jmp 1b\n 2:");
STORE_CODE(accessing, "mov 0x400000, %rax");
STORE_CODE(dirtying, "mov %rax, 0x400000");
STORE_CODE(selecting, "mov $0x30, %eax\n mov %eax, %es");
/* Its second page is missing. */
STORE_CODE(faulting, "movl $1, 0x200ffe\n .org faulting + 0x100\n");

static struct soft_guest guest;
static struct x86_state initial;
static bool is_in_windows;

/* User code, which sees memory through the host's MMU. */
static int begin_windows(void **state)
{
    is_in_windows = true;
    return 0;
}

static void prepare(const uint8_t *code, size_t size)
{
    guest_start_with(&guest, 1, is_in_windows ? "windows=always,verify=on" : NULL);
    guest_long_mode(&guest, 0, code, size, &initial);
    if (is_in_windows) {
        initial.rflags |= X86_FLAG_IOPL; /* for OUT */
        initial.segment[X86_CS].selector = GUEST_CS_USER;
        initial.segment[X86_CS].attributes = 0xa0fb;
        initial.segment[X86_SS].selector = GUEST_DS_USER;
        initial.segment[X86_SS].attributes = 0xc0f3;
    }
    initial.cr4 |= X86_CR4_OSXSAVE;
    initial.xcr0 = 7;
    initial.gdtr.limit = 0x37;
    const uint32_t mxcsr = 0x1f80;
    guest_put(&guest, 0x20a000, &mxcsr, sizeof(mxcsr));
    guest_put64(&guest, GUEST_GDT + 0x30, 0x00cf92000000ffff);
    /* All entries accessed and dirty, so that walks write nothing. */
    for (uint64_t at = GUEST_PML4; at < GUEST_PML4 + 0xb000; at += 8) {
        uint64_t entry = guest_get64(&guest, at);
        guest_put64(&guest, at, entry == 0 ? 0 : entry | 0x60);
    }
}

static void run(void)
{
    struct x86_state after;
    assert_int_equal(guest_run(&guest, 0, &initial, &after), VCPU_EXIT_KICKED);
}

/* The pages that are in the log now are 'expected', in order, 0 at the end. */
static void check_log(const char *name, const uint32_t *expected)
{
    static uint64_t bitmap[WORDS];
    struct error err = {0};
    memset(bitmap, 0, sizeof(bitmap));
    assert_int_equal(soft_engine_ops.vm_log_fetch(guest.vm, 0, bitmap, &err), 0);
    for (uint32_t page = 0; page < PAGES; page++) {
        bool is_reported = bitmap[page / 64] >> (page % 64) & 1;
        if (is_reported != (page != 0 && page == *expected)) {
            fail_msg("%s: page 0x%x is %sreported, expected 0x%x next", name, page,
                     is_reported ? "" : "not ", *expected);
        }
        expected += is_reported;
    }
}

#define PAGES_OF(...) ((const uint32_t[]){__VA_ARGS__})

static void check_code(const char *name, const uint8_t *code, size_t size, const uint32_t *expected)
{
    prepare(code, size);
    run(); /* decoded, translated, and in the TLB */
    guest_put(&guest, GUEST_CODE, code, size);
    assert_int_equal(soft_engine_ops.vm_log_start(guest.vm, NULL), 0);
    run();
    check_log(name, expected);
    check_log("fetched twice", PAGES_OF(0));
    guest_put(&guest, GUEST_CODE, code, size);
    run();
    check_log(name, expected);
    guest_end(&guest);
}

#define CHECK(name, ...)                                                                           \
    check_code(#name, name, GUEST_CODE_SIZE(name), PAGES_OF(__VA_ARGS__ __VA_OPT__(, ) 0))

static void integer_stores(void **state)
{
    CHECK(plain, 0x200, 0x202, 0x203);
    CHECK(crossing, 0x200, 0x201, 0x203, 0x204);
    CHECK(pushing, STACK_PAGE);
    CHECK(bits, 0x210, 0x213, 0x214);
    CHECK(tables, 0x200, 0x201, 0x202, 0x203, 0x204);
}

static void string_stores(void **state)
{
    CHECK(strings, 0x200, 0x201, 0x202, 0x205, 0x206);
    CHECK(backwards, 0x1ff, 0x200);
    CHECK(input, 0x200, 0x202, 0x203);
}

static void locked_stores(void **state)
{
    CHECK(locked, 0x200, 0x201, 0x202, 0x203, 0x204, 0x205);
}

static void wide_stores(void **state)
{
    CHECK(x87, 0x200, 0x201, 0x202, 0x203, 0x204, 0x205, 0x206, 0x207);
    CHECK(vectors, 0x200, 0x201, 0x202, 0x203, 0x204, 0x205, 0x206, 0x207);
    if (__builtin_cpu_supports("avx2")) {
        CHECK(masked, 0x201, 0x203, 0x204, 0x205, 0x206);
        CHECK(xsaving, 0x200, 0x201, 0x203);
    }
}

static void reads_are_not_reported(void **state)
{
    CHECK(reading);
}

static void code_pages(void **state)
{
    CHECK(patching, GUEST_CODE >> 12);
}

/* Entries of 0x400000: the third table of 4-KiB pages. */
static void page_tables(void **state)
{
    const uint32_t table = (GUEST_PML4 + 0x3000 + 2 * 0x1000) >> 12;
    prepare(accessing, GUEST_CODE_SIZE(accessing));
    guest_put64(&guest, (uint64_t)table << 12, 0x400000 | 7);
    assert_int_equal(soft_engine_ops.vm_log_start(guest.vm, NULL), 0);
    run();
    check_log("A bit", PAGES_OF(table, 0));
    assert_int_equal(guest_get64(&guest, (uint64_t)table << 12), 0x400000 | 0x27);
    run();
    check_log("A bit that is set", PAGES_OF(0));
    guest_end(&guest);
    prepare(dirtying, GUEST_CODE_SIZE(dirtying));
    guest_put64(&guest, (uint64_t)table << 12, 0x400000 | 0x27);
    assert_int_equal(soft_engine_ops.vm_log_start(guest.vm, NULL), 0);
    run();
    check_log("D bit", PAGES_OF(table, 0x400, 0));
    run();
    check_log("D bit that is set", PAGES_OF(0x400, 0));
    guest_end(&guest);
}

static void system_writes(void **state)
{
    prepare(selecting, GUEST_CODE_SIZE(selecting));
    assert_int_equal(soft_engine_ops.vm_log_start(guest.vm, NULL), 0);
    run();
    check_log("accessed bit of a descriptor", PAGES_OF(GUEST_GDT >> 12, 0));
    run();
    check_log("that is set", PAGES_OF(0));
    guest_end(&guest);
    /* The frame goes to IST 1. The first page counts as written: that it could be was found out as for a write. */
    prepare(faulting, GUEST_CODE_SIZE(faulting));
    guest_put64(&guest, GUEST_PML4 + 0x3000 + 0x1000 + 8, 0);
    guest_gate(&guest, X86_PF, GUEST_CODE + 0x100, 1, 0);
    assert_int_equal(soft_engine_ops.vm_log_start(guest.vm, NULL), 0);
    run();
    check_log("a fault", PAGES_OF((GUEST_STACK - 0x4000 - 1) >> 12, 0x200, 0));
    guest_end(&guest);
}

static void host_writes(void **state)
{
    static uint64_t bitmap[WORDS];
    prepare(plain, GUEST_CODE_SIZE(plain));
    assert_int_equal(soft_engine_ops.vm_log_start(guest.vm, NULL), 0);
    assert_int_equal(guest_memory_log_start(guest.memory, NULL), 0);
    guest_put64(&guest, 0x230ffc, 1);
    run();
    memset(bitmap, 0, sizeof(bitmap));
    guest_memory_log_fetch(guest.memory, 0, bitmap);
    for (uint32_t i = 0; i < WORDS; i++) {
        assert_int_equal(bitmap[i], i == 0x230 / 64 ? 3ull << 0x230 % 64 : 0);
    }
    check_log("the guest's own", PAGES_OF(0x200, 0x202, 0x203, 0));
    guest_memory_log_stop(guest.memory);
    guest_end(&guest);
}

static void on_and_off(void **state)
{
    prepare(plain, GUEST_CODE_SIZE(plain));
    run();
    assert_int_equal(soft_engine_ops.vm_log_start(guest.vm, NULL), 0);
    check_log("before the start", PAGES_OF(0));
    run();
    soft_engine_ops.vm_log_stop(guest.vm);
    uint64_t bitmap[WORDS] = {0};
    assert_int_equal(soft_engine_ops.vm_log_fetch(guest.vm, 0, bitmap, NULL), -EINVAL);
    run();
    assert_int_equal(soft_engine_ops.vm_log_start(guest.vm, NULL), 0);
    check_log("between stop and start", PAGES_OF(0));
    run();
    check_log("after both", PAGES_OF(0x200, 0x202, 0x203, 0));
    const struct soft_vcpu *v = soft_from_vcpu(guest.vcpu[0]);
    assert_true(v->stats.window_fills > 0 || !is_in_windows || !v->windows);
    guest_end(&guest);
}

/* Writes to 1024 pages in an order that is all over the place, each with a value of its own. */
GUEST_CODE_BLOCK(storm, ".code64",
                 "mov $1, %eax\n 1: imul $0x19660d, %eax, %eax\n add $0x3c6ef35f, %eax\n"
                 "mov %eax, %ebx\n shr $8, %ebx\n and $0x3ffff8, %ebx\n inc %rdx\n"
                 "mov %rdx, 0x400ffc(%rbx)\n lock incq 0x400000(%rbx)\n"
                 "lea 0x400000(%rbx), %edi\n mov $40, %ecx\n rep stosb\n"
                 "movq %rdx, %xmm0\n movdqu %xmm0, 0x400100(%rbx)\n jmp 1b\n");

static void *run_vcpu(void *unused)
{
    (void)soft_engine_ops.vcpu_run(guest.vcpu[0]);
    return NULL;
}

static void copy_reported(uint8_t *copy)
{
    static uint64_t bitmap[WORDS];
    memset(bitmap, 0, sizeof(bitmap));
    assert_int_equal(soft_engine_ops.vm_log_fetch(guest.vm, 0, bitmap, NULL), 0);
    for (uint32_t page = 0; page < PAGES; page++) {
        if (bitmap[page / 64] >> (page % 64) & 1) {
            assert_true(guest_memory_read(guest.memory, (uint64_t)page << 12,
                                          copy + ((size_t)page << 12), 4096));
        }
    }
}

/* As a copy of a running guest is made: all of it once, then what is reported; after the last write both are the same. */
static void a_copy_follows(void **state)
{
    struct error err = {0};
    pthread_t thread;
    uint8_t *copy = malloc(GUEST_SIZE), *memory = malloc(GUEST_SIZE);
    assert_non_null(copy);
    assert_non_null(memory);
    prepare(storm, GUEST_CODE_SIZE(storm));
    for (unsigned round = 0; round < 20; round++) {
        assert_int_equal(soft_engine_ops.vcpu_set_state(guest.vcpu[0], &initial, &err), 0);
        assert_int_equal(pthread_create(&thread, NULL, run_vcpu, NULL), 0);
        for (unsigned restart = 0; restart < 3; restart++) {
            soft_engine_ops.vm_log_stop(guest.vm);
            assert_int_equal(soft_engine_ops.vm_log_start(guest.vm, &err), 0);
            assert_true(guest_memory_read(guest.memory, 0, copy, GUEST_SIZE));
            for (unsigned i = 0; i < 10; i++) {
                copy_reported(copy);
            }
        }
        soft_engine_ops.vcpu_kick(guest.vcpu[0]);
        pthread_join(thread, NULL);
        copy_reported(copy);
        assert_true(guest_memory_read(guest.memory, 0, memory, GUEST_SIZE));
        for (uint32_t page = 0; page < PAGES; page++) {
            if (memcmp(copy + ((size_t)page << 12), memory + ((size_t)page << 12), 4096) != 0) {
                fail_msg("round %u: page 0x%x was written after its last report", round, page);
            }
        }
    }
    guest_end(&guest);
    free(copy);
    free(memory);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(integer_stores),
        cmocka_unit_test(string_stores),
        cmocka_unit_test(locked_stores),
        cmocka_unit_test(wide_stores),
        cmocka_unit_test(reads_are_not_reported),
        cmocka_unit_test(code_pages),
        cmocka_unit_test(page_tables),
        cmocka_unit_test(system_writes),
        cmocka_unit_test(host_writes),
        cmocka_unit_test(on_and_off),
        cmocka_unit_test(a_copy_follows),
    };
    const struct CMUnitTest in_windows[] = {
        cmocka_unit_test(integer_stores),
        cmocka_unit_test(string_stores),
        cmocka_unit_test(locked_stores),
        cmocka_unit_test(wide_stores),
        cmocka_unit_test(reads_are_not_reported),
        cmocka_unit_test(code_pages),
        cmocka_unit_test(page_tables),
        cmocka_unit_test(on_and_off),
        cmocka_unit_test(a_copy_follows),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    return failed + cmocka_run_group_tests(in_windows, begin_windows, NULL);
}
