/* Covers cpu/x86/disasm.c: the text of typical instructions, and that a short buffer is never overrun. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/core/compiler.h"
#include "cpu/x86/decode.h"

static const struct {
    enum x86_code_size code_size;
    uint8_t bytes[16];
    const char *text;
} cases[] = {
    {X86_CODE_64, {0x48, 0x89, 0x5c, 0x24, 0xf0}, "mov qword ptr [rsp-0x10], rbx"},
    {X86_CODE_64, {0x8b, 0x05, 0x10, 0, 0, 0}, "mov eax, dword ptr [rip+0x10]"},
    {X86_CODE_64, {0xeb, 0xfe}, "jmp 0x1000"},
    {X86_CODE_64, {0x0f, 0x84, 0, 1, 0, 0}, "jz 0x1106"},
    {X86_CODE_64, {0xf3, 0x48, 0xab}, "rep stosq"},
    {X86_CODE_64, {0xf2, 0xae}, "repne scasb"},
    {X86_CODE_64, {0x64, 0x48, 0x8b, 0x04, 0x25, 0x28, 0, 0, 0}, "mov rax, qword ptr fs:[0x28]"},
    {X86_CODE_64, {0xf0, 0x0f, 0xb1, 0x0f}, "lock cmpxchg dword ptr [rdi], ecx"},
    {X86_CODE_64, {0x0f, 0x22, 0xd8}, "mov cr3, rax"},
    {X86_CODE_64, {0x48, 0x8d, 0x44, 0x88, 0x08}, "lea rax, [rax+rcx*4+0x8]"},
    {X86_CODE_64, {0x66, 0x0f, 0xef, 0xc1}, "pxor xmm0, xmm1"},
    {X86_CODE_64, {0xc5, 0xfd, 0xfe, 0xc1}, "vpaddd ymm0, ymm0, ymm1"},
    {X86_CODE_64, {0xd8, 0xc1}, "fadd st(0), st(1)"},
    {X86_CODE_64, {0x48, 0xcf}, "iretq"},
    {X86_CODE_64, {0x40, 0x88, 0xe5}, "mov bpl, spl"},
    {X86_CODE_32, {0x88, 0xe5}, "mov ch, ah"},
    {X86_CODE_32, {0x83, 0xc0, 0xff}, "add eax, 0xffffffff"},
    {X86_CODE_16, {0xea, 0x5b, 0xe0, 0x00, 0xf0}, "jmp far 0xf000:0xe05b"},
    {X86_CODE_16, {0x26, 0x8a, 0x40, 0x02}, "mov al, byte ptr es:[bx+si+0x2]"},
    {X86_CODE_16, {0x66, 0x67, 0xe3, 0x00}, "jecxz 0x1004"},
    {X86_CODE_16, {0xee}, "out dx, al"},
};

static void texts(void **state)
{
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        struct x86_insn insn;
        char text[96];
        assert_int_equal(
            x86_decode(cases[i].bytes, sizeof(cases[i].bytes), cases[i].code_size, &insn),
            X86_DECODE_OK);
        size_t length = x86_disassemble(&insn, 0x1000, text, sizeof(text));
        assert_string_equal(text, cases[i].text);
        assert_int_equal(length, strlen(text));
    }
}

static void short_buffers(void **state)
{
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        struct x86_insn insn;
        assert_int_equal(
            x86_decode(cases[i].bytes, sizeof(cases[i].bytes), cases[i].code_size, &insn),
            X86_DECODE_OK);
        for (size_t size = 0; size < 40; size++) {
            char text[41];
            memset(text, '#', sizeof(text));
            size_t length = x86_disassemble(&insn, 0x1000, text, size);
            assert_true(length < size || size == 0);
            assert_int_equal(text[size], '#');
            if (size > 0) {
                assert_int_equal(strncmp(text, cases[i].text, length), 0);
                assert_int_equal(text[length], 0);
            }
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(texts),
        cmocka_unit_test(short_buffers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
