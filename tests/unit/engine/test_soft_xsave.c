/* FXSAVE and the XSAVE family on the software engine: what the comparison with the host's CPU cannot cover, since hosts
 * have more components than the guest. Values follow SDM 1 chapter 13. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "../../differential/guest.h"
#include "base/core/bits.h"
#include "base/core/endian.h"
#include "cpu/x86/decode.h"
#include "cpu/x86/state.h"
#include "engine/soft/soft.h"

#define AREA_OFFSET 1024
#define HEADER      X86_XSAVE_HEADER
#define AVX_OFFSET  X86_XSAVE_AVX_OFFSET
#define COMPACT     (1ull << 63)

struct fixture {
    struct guest *guest;
    struct case_input in;
    struct case_output out;
    uint8_t data[CASE_DATA_SIZE];
    uint8_t *area; /* in 'data', before; the same place in out.data, after */
};

static struct fixture fixture;

/* All components in use, the area full of 0xee, RSI at it, EDX:EAX = 'mask'. */
static void prepare(uint64_t mask)
{
    struct fixture *f = &fixture;
    memset(&f->in, 0, sizeof(f->in));
    memset(f->data, 0xee, sizeof(f->data));
    f->area = f->data + AREA_OFFSET;
    memset(f->area + HEADER, 0, 64);
    struct case_state *s = &f->in.state;
    s->rip = CASE_CODE_BASE;
    f->in.code_size = X86_CODE_64;
    f->in.cs = CASE_SELECTOR_CODE64;
    f->in.ss = f->in.ds = f->in.es = CASE_SELECTOR_DATA;
    s->rflags = X86_FLAG_ONE | X86_FLAG_IF;
    s->gpr[X86_RSI] = CASE_DATA_BASE + AREA_OFFSET;
    s->gpr[X86_RAX] = (uint32_t)mask;
    s->gpr[X86_RDX] = mask >> 32;
    le16_put(s->xsave, 0x27f);
    le32_put(s->xsave + 24, 0x1f80);
    le64_put(s->xsave + HEADER, 7);
    memset(s->xsave + 160, 0x11, 256);
    memset(s->xsave + AVX_OFFSET, 0x22, 256);
}

static void run(const uint8_t *code, size_t size)
{
    struct fixture *f = &fixture;
    memcpy(f->in.code, code, size);
    memcpy(f->in.code + size, "\x0f\x0b", 2);
    f->in.code_bytes = (uint16_t)(size + 2);
    struct error err;
    if (guest_run(f->guest, &f->in, f->data, &f->out, &err) < 0) {
        fail_msg("%s", err.text);
    }
}

#define RUN(...) run((const uint8_t[]){__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__}))

#define FXSAVE64   0x48, 0x0f, 0xae, 0x06
#define FXRSTOR64  0x48, 0x0f, 0xae, 0x0e
#define XSAVE64    0x48, 0x0f, 0xae, 0x26
#define XRSTOR64   0x48, 0x0f, 0xae, 0x2e
#define XSAVEOPT64 0x48, 0x0f, 0xae, 0x36
#define XSAVEC64   0x48, 0x0f, 0xc7, 0x26

/* The instruction ended, and the marker behind it raised #UD. */
static void assert_completed(void)
{
    assert_int_equal(fixture.out.vector, X86_UD);
    assert_true(fixture.out.state.rip > CASE_CODE_BASE);
}

static void assert_protection_fault(void)
{
    assert_int_equal(fixture.out.vector, X86_GP);
    assert_int_equal(fixture.out.error, 0);
    assert_int_equal(fixture.out.state.rip, CASE_CODE_BASE);
    assert_memory_equal(fixture.out.data, fixture.data, CASE_DATA_SIZE);
}

static const uint8_t *saved(size_t offset)
{
    return fixture.out.data + AREA_OFFSET + offset;
}

static void assert_untouched(size_t offset, size_t size)
{
    assert_memory_equal(saved(offset), fixture.area + offset, size);
}

static void test_xsave_all(void **state)
{
    prepare(~0ull);
    RUN(XSAVE64);
    assert_completed();
    assert_int_equal(le64_get(saved(HEADER)), 7);
    assert_int_equal(le64_get(saved(HEADER + 8)), 0);
    assert_int_equal(le16_get(saved(0)), 0x27f);
    assert_int_equal(le32_get(saved(24)), 0x1f80);
    assert_int_equal(*saved(160), 0x11);
    assert_int_equal(*saved(AVX_OFFSET + 255), 0x22);
    assert_untouched(464, 48);
    assert_untouched(AVX_OFFSET + 256, 64);
}

static void test_xsave_part(void **state)
{
    prepare(X86_XCR0_X87);
    le64_put(fixture.area + HEADER, X86_XCR0_AVX | BIT(40));
    RUN(XSAVE64);
    assert_completed();
    assert_int_equal(le64_get(saved(HEADER)), X86_XCR0_X87 | X86_XCR0_AVX | BIT(40));
    assert_untouched(24, 8);
    assert_untouched(160, 256);
    assert_untouched(AVX_OFFSET, 256);
    /* MXCSR goes with AVX as well. */
    prepare(X86_XCR0_AVX);
    RUN(XSAVE64);
    assert_int_equal(le32_get(saved(24)), 0x1f80);
    assert_untouched(0, 24);
    assert_untouched(160, 256);
}

static void test_xsaveopt_leaves_out_initial(void **state)
{
    prepare(7);
    memset(fixture.in.state.xsave + AVX_OFFSET, 0, 256);
    RUN(XSAVEOPT64);
    assert_completed();
    assert_int_equal(le64_get(saved(HEADER)), X86_XCR0_X87 | X86_XCR0_SSE);
    assert_untouched(AVX_OFFSET, 256);
}

static void test_xsavec(void **state)
{
    prepare(7);
    le16_put(fixture.in.state.xsave, 0x37f);
    memset(fixture.in.state.xsave + 160, 0, 256);
    RUN(XSAVEC64);
    assert_completed();
    assert_int_equal(le64_get(saved(HEADER)), X86_XCR0_AVX);
    assert_int_equal(le64_get(saved(HEADER + 8)), COMPACT | 7);
    assert_untouched(0, 416);
    assert_int_equal(*saved(AVX_OFFSET), 0x22);
    /* An MXCSR of its own puts the SSE component in use. */
    prepare(7);
    memset(fixture.in.state.xsave + 160, 0, 256);
    le32_put(fixture.in.state.xsave + 24, 0x1fa0);
    RUN(XSAVEC64);
    assert_int_equal(le64_get(saved(HEADER)), 7);
    assert_int_equal(le32_get(saved(24)), 0x1fa0);
}

static void test_xrstor_initial(void **state)
{
    prepare(7);
    le32_put(fixture.area + 24, 0x1f00);
    RUN(XRSTOR64);
    assert_completed();
    const uint8_t *x = fixture.out.state.xsave;
    static const uint8_t zeros[256];
    assert_int_equal(le16_get(x), 0x37f);
    assert_int_equal(le32_get(x + 24), 0x1f00); /* standard format: always from memory */
    assert_memory_equal(x + 160, zeros, 256);
    assert_memory_equal(x + AVX_OFFSET, zeros, 256);
    /* Compacted format: initial too. */
    prepare(7);
    le64_put(fixture.area + HEADER + 8, COMPACT | 7);
    le32_put(fixture.in.state.xsave + 24, 0x1f00);
    RUN(XRSTOR64);
    assert_completed();
    assert_int_equal(le32_get(fixture.out.state.xsave + 24), 0x1f80);
}

static void test_xrstor_loads(void **state)
{
    for (int is_compact = 0; is_compact < 2; is_compact++) {
        prepare(X86_XCR0_SSE | X86_XCR0_AVX);
        le64_put(fixture.area + HEADER, 7);
        le64_put(fixture.area + HEADER + 8, is_compact ? COMPACT | 7 : 0);
        le32_put(fixture.area + 24, 0x9f80);
        RUN(XRSTOR64);
        assert_completed();
        const uint8_t *x = fixture.out.state.xsave;
        assert_int_equal(le16_get(x), 0x27f); /* not asked for */
        assert_int_equal(le32_get(x + 24), 0x9f80);
        assert_int_equal(x[160], 0xee);
        assert_int_equal(x[AVX_OFFSET + 255], 0xee);
    }
}

static void test_xrstor_refuses(void **state)
{
    static const struct {
        uint16_t offset;
        uint8_t value;
    } bad[] = {
        {HEADER, 0x08},      {HEADER + 7, 0x80},  {HEADER + 8, 0x01}, {HEADER + 16, 0x01},
        {HEADER + 23, 0x80}, {HEADER + 15, 0x40}, {27, 0x80},
    };
    for (size_t i = 0; i < ARRAY_COUNT(bad); i++) {
        prepare(7);
        le64_put(fixture.area + HEADER, 7);
        le32_put(fixture.area + 24, 0x1f80);
        fixture.area[bad[i].offset] = bad[i].value;
        RUN(XRSTOR64);
        assert_protection_fault();
    }
    /* Compacted: a component that the format has not, and one that the CPU has not. */
    prepare(7);
    le64_put(fixture.area + HEADER, X86_XCR0_AVX);
    le64_put(fixture.area + HEADER + 8, COMPACT | 3);
    RUN(XRSTOR64);
    assert_protection_fault();
    prepare(7);
    le64_put(fixture.area + HEADER + 8, COMPACT | BIT(5));
    RUN(XRSTOR64);
    assert_protection_fault();
}

static void test_alignment(void **state)
{
    prepare(7);
    fixture.in.state.gpr[X86_RSI] += 32;
    RUN(XSAVE64);
    assert_protection_fault();
    RUN(XRSTOR64);
    assert_protection_fault();
    fixture.in.state.gpr[X86_RSI] += 8;
    RUN(FXSAVE64);
    assert_protection_fault();
    RUN(FXRSTOR64);
    assert_protection_fault();
}

static void test_fxsave_and_back(void **state)
{
    prepare(0);
    RUN(FXSAVE64);
    assert_completed();
    assert_int_equal(le16_get(saved(0)), 0x27f);
    assert_int_equal(*saved(160 + 255), 0x11);
    assert_untouched(464, 48);

    prepare(0);
    le32_put(fixture.area + 24, 0x1f80);
    le16_put(fixture.area, 0x37f);
    le16_put(fixture.area + 2, 0);
    RUN(FXRSTOR64);
    assert_completed();
    assert_int_equal(le16_get(fixture.out.state.xsave), 0x37f);
    assert_int_equal(fixture.out.state.xsave[160], 0xee);
    assert_int_equal(fixture.out.state.xsave[AVX_OFFSET], 0x22); /* upper halves stay */

    prepare(0);
    le32_put(fixture.area + 24, 0x80000000);
    RUN(FXRSTOR64);
    assert_protection_fault();
}

static int set_up(void **state)
{
    static const uint8_t constants[CASE_CONST_SIZE];
    struct error err;
    if (guest_create(engine_find("soft"), NULL, constants, &fixture.guest, &err) < 0) {
        fprintf(stderr, "%s\n", err.text);
        return -1;
    }
    return 0;
}

static uint32_t announced_7_ebx(void)
{
    struct x86_cpuid cpuid;
    struct error err = {0};
    assert_int_equal(soft_engine_ops.supported_cpuid(&cpuid, &err), 0);
    return x86_cpuid_find(&cpuid, 7, 0)->ebx;
}

/* Instruction and operand at offset 0 of their segments, with an exception pending: the form without REX.W has the selectors, unless
 * CPUID says that there are none. */
static void test_selectors_of_pointers(void **state)
{
    prepare(X86_XCR0_X87);
    memset(fixture.area, 0, 28);
    le32_put(fixture.area, 0x40);
    le32_put(fixture.area + 4, 0x8081); /* B, ES, IE */
    le32_put(fixture.area + 8, 0xffff);
    le32_put(fixture.area + 16, 0xe000);
    le32_put(fixture.area + 24, 0xd000);
    RUN(0xd9, 0x26, 0x0f, 0xae, 0x66, 0x40); /* fldenv [rsi]; xsave [rsi+64] */
    assert_completed();
    bool has_selectors = !(announced_7_ebx() & BIT(13));
    assert_int_equal(le64_get(saved(64 + 8)), has_selectors ? 0xe00000000000 : 0);
    assert_int_equal(le64_get(saved(64 + 16)), has_selectors ? 0xd00000000000 : 0);
}

/* A load that raises nothing is FDP's if CPUID does not say that exceptions alone are; one with an unmasked exception always. */
static void test_operand_pointer(void **state)
{
    uint32_t address = CASE_DATA_BASE + AREA_OFFSET;
    prepare(X86_XCR0_X87);
    le32_put(fixture.area, 0);
    RUN(0xd9, 0x06, 0xd9, 0x76, 0x40); /* fld dword [rsi]; fnstenv [rsi+64] */
    assert_completed();
    bool is_by_exception = announced_7_ebx() & BIT(6);
    assert_int_equal(le32_get(saved(64 + 12)), CASE_CODE_BASE);
    assert_int_equal(le32_get(saved(64 + 20)), is_by_exception ? 0 : address);
    prepare(X86_XCR0_X87);
    le16_put(fixture.in.state.xsave, 0x37e);
    le32_put(fixture.area, 0x7f800001); /* a signalling NaN */
    RUN(0xd9, 0x06, 0xd9, 0x76, 0x40);
    assert_completed();
    assert_int_equal(le32_get(saved(64 + 20)), address);
}

/* ECX 1: which of the enabled components are in use. */
/* XSAVEERPTR: the pointers of one thread do not stay when those of the next are loaded. */
static void test_pointers_are_loaded(void **state)
{
    struct x86_cpuid cpuid;
    struct error err = {0};
    assert_int_equal(soft_engine_ops.supported_cpuid(&cpuid, &err), 0);
    const struct x86_cpuid_entry *entry = x86_cpuid_find(&cpuid, 0x80000008u, 0);
    if (!entry || !(entry->ebx & 1u << 2)) {
        skip();
    }
    for (unsigned is_pending = 0; is_pending < 2; is_pending++) {
        struct fixture *f = &fixture;
        prepare(0);
        le16_put(f->in.state.xsave, 0x37e);
        le16_put(f->in.state.xsave + 2, 0x8081);
        le64_put(f->in.state.xsave + 8, 0x1111);
        le64_put(f->in.state.xsave + 16, 0x2222);
        memset(f->area, 0, 512);
        le16_put(f->area, is_pending ? 0x37e : 0x37f);
        le16_put(f->area + 2, is_pending ? 0x8081 : 0);
        le32_put(f->area + 24, 0x1f80);
        le64_put(f->area + 8, is_pending ? 0x3333 : 0);
        le64_put(f->area + 16, is_pending ? 0x4444 : 0);
        RUN(FXRSTOR64, FXSAVE64);
        assert_completed();
        assert_int_equal(le64_get(f->out.data + AREA_OFFSET + 8), is_pending ? 0x3333 : 0);
        assert_int_equal(le64_get(f->out.data + AREA_OFFSET + 16), is_pending ? 0x4444 : 0);
    }
}

static void test_xgetbv(void **state)
{
    prepare(X86_XCR0_X87);
    fixture.in.state.gpr[X86_RCX] = 0;
    RUN(0x0f, 0x01, 0xd0);
    assert_completed();
    assert_int_equal(fixture.out.state.gpr[X86_RAX], 7);
    assert_int_equal(fixture.out.state.gpr[X86_RDX], 0);
    prepare(X86_XCR0_X87);
    fixture.in.state.gpr[X86_RCX] = 1;
    memset(fixture.in.state.xsave + AVX_OFFSET, 0, 256);
    RUN(0x0f, 0x01, 0xd0);
    assert_completed();
    assert_int_equal(fixture.out.state.gpr[X86_RAX], X86_XCR0_X87 | X86_XCR0_SSE);
    prepare(X86_XCR0_X87);
    fixture.in.state.gpr[X86_RCX] = 2;
    RUN(0x0f, 0x01, 0xd0);
    assert_protection_fault();
}

static int tear_down(void **state)
{
    guest_destroy(fixture.guest);
    return 0;
}

int main(void)
{
    if (engine_find("soft") == NULL || !__builtin_cpu_supports("avx")) {
        fputs("test_soft_xsave: needs the engine soft and a host with AVX: skipped\n", stderr);
        return 77;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_xsave_all),
        cmocka_unit_test(test_xsave_part),
        cmocka_unit_test(test_xsaveopt_leaves_out_initial),
        cmocka_unit_test(test_xsavec),
        cmocka_unit_test(test_xrstor_initial),
        cmocka_unit_test(test_xrstor_loads),
        cmocka_unit_test(test_xrstor_refuses),
        cmocka_unit_test(test_alignment),
        cmocka_unit_test(test_fxsave_and_back),
        cmocka_unit_test(test_selectors_of_pointers),
        cmocka_unit_test(test_operand_pointer),
        cmocka_unit_test(test_pointers_are_loaded),
        cmocka_unit_test(test_xgetbv),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
