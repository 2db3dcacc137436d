/* Which locked instructions of a guest are locked on the host. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "engine/soft/translate/translate.h"

static bool keeps(bool is_alone, const char *bytes, size_t size)
{
    static struct native_source source;
    struct translation t = {.source = &source};
    struct x86_insn insn;
    source.is_alone = is_alone;
    assert_int_equal(x86_decode((const uint8_t *)bytes, size, X86_CODE_64, &insn), X86_DECODE_OK);
    return native_keeps_lock(&t, &insn);
}

#define KEEPS(is_alone, bytes) keeps(is_alone, bytes, sizeof(bytes) - 1)

static void locks_among_several(void **state)
{
    assert_true(KEEPS(false, "\xf0\x0f\xc1\x07"));     /* lock xadd [rdi], eax */
    assert_true(KEEPS(false, "\xf0\xff\x07"));         /* lock inc dword [rdi] */
    assert_true(KEEPS(false, "\xf0\x0f\xab\x07"));     /* lock bts [rdi], eax */
    assert_true(KEEPS(false, "\xf0\x48\x0f\xb1\x0f")); /* lock cmpxchg [rdi], rcx */
    assert_false(KEEPS(false, "\xff\x07"));
}

static void does_not_lock_alone(void **state)
{
    assert_false(KEEPS(true, "\xf0\x0f\xc1\x07"));
    assert_false(KEEPS(true, "\xf0\xff\x07"));
    assert_false(KEEPS(true, "\xf0\x0f\xab\x07"));
    assert_false(KEEPS(true, "\xf0\x48\x0f\xb1\x0f"));
    assert_false(KEEPS(true, "\xf0\x83\x07\x01"));     /* lock add dword [rdi], 1 */
    assert_false(KEEPS(true, "\xf0\x0f\xba\x2f\x00")); /* lock bts dword [rdi], 0 */
}

static void keeps_barriers(void **state)
{
    assert_true(KEEPS(
        true, "\xf0\x83\x44\x24\xfc\x00")); /* lock add dword [rsp - 4], 0: Linux, BSDs, Java */
    assert_true(KEEPS(true, "\xf0\x48\x83\x0c\x24\x00")); /* lock or qword [rsp], 0 */
    assert_true(KEEPS(true, "\xf0\x09\x04\x24"));         /* lock or [rsp], eax: Windows */
    assert_true(KEEPS(
        true,
        "\xf0\x65\x83\x04\x25\x00\x01\x00\x00\x00")); /* lock add dword gs:[0x100], 0: FreeBSD */
    assert_true(KEEPS(true, "\xf0\x83\x0f\x00"));     /* lock or dword [rdi], 0 */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(locks_among_several),
        cmocka_unit_test(does_not_lock_alone),
        cmocka_unit_test(keeps_barriers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
