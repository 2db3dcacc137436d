/* The segments that cases have beside those of Linux, and the host's vendor. */
#include "case.h"

bool case_host_is_intel(void)
{
    return __builtin_cpu_is("intel");
}

enum x86_decode_status case_decode(const uint8_t *bytes, size_t available,
                                   enum x86_code_size code_size, struct x86_insn *out_insn)
{
    bool as_intel = code_size == X86_CODE_64 && case_host_is_intel();
    return x86_decode(bytes, available, as_intel ? X86_CODE_64_INTEL : code_size, out_insn);
}

const struct case_ldt case_ldt[CASE_LDT_COUNT] = {
    [CASE_LDT_CODE16] = {.base = CASE_CODE_BASE, .limit = 0xffff, .is_code = true},
    [CASE_LDT_CODE32] = {.base = CASE_CODE_BASE,
                         .limit = 0x1fff,
                         .is_code = true,
                         .is_32bit = true},
    [CASE_LDT_DATA16] = {.base = CASE_DATA_BASE - 0x1000, .limit = 0xffff},
    [CASE_LDT_DATA32] = {.base = CASE_DATA_BASE - 0x1000, .limit = 0x3fff, .is_32bit = true},
    [CASE_LDT_SHORT16] = {.base = CASE_DATA_BASE, .limit = 0x17ff},
    [CASE_LDT_DOWN16] = {.base = CASE_DATA_BASE, .limit = 0x7ff, .is_down = true},
    [CASE_LDT_DOWN32] = {.base = CASE_DATA_BASE - 0x800,
                         .limit = 0xfff,
                         .is_down = true,
                         .is_32bit = true},
    [CASE_LDT_READ16] = {.base = CASE_DATA_BASE, .limit = 0x1fff, .is_readonly = true},
};
