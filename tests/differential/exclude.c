/* Rows that a native process cannot run as a guest does. NOT_COVERED.md explains the reasons at length. */
#include "exclude.h"

#include <string.h>

#include "base/core/compiler.h"
#include "case.h"
#include "cpu/x86/decode.h"

static const struct {
    const char *mnemonic;
    const char *reason;
} excluded_mnemonics[] = {
    {"syscall", "enters the kernel"},
    {"sysenter", "enters the kernel"},
    {"int", "vector 80 enters the kernel"},
    {"int1", "the kernel gives it a meaning of its own"},
    {"cpuid", "the guest has a model of its own"},
    {"rdtsc", "time"},
    {"rdtscp", "time"},
    {"rdpmc", "counters"},
    {"rdpid", "differs by host CPU"},
    {"rdrand", "random"},
    {"rdseed", "random"},
    {"xgetbv", "the host's XCR0 differs"},
    {"rdpkru", "not in the guest"},
    {"wrpkru", "not in the guest"},
    {"sgdt", "the kernel emulates it (UMIP)"},
    {"sidt", "the kernel emulates it (UMIP)"},
    {"sldt", "the kernel emulates it (UMIP)"},
    {"str", "the kernel emulates it (UMIP)"},
    {"smsw", "the kernel emulates it (UMIP)"},
    {"lar", "the kernel's descriptor tables"},
    {"lsl", "the kernel's descriptor tables"},
    {"verr", "the kernel's descriptor tables"},
    {"verw", "the kernel's descriptor tables"},
    {"mov.sreg", "the kernel's descriptor tables"},
    {"pop.sreg", "the kernel's descriptor tables"},
    {"les", "the kernel's descriptor tables"},
    {"lds", "the kernel's descriptor tables"},
    {"lss", "the kernel's descriptor tables"},
    {"lfs", "the kernel's descriptor tables"},
    {"lgs", "the kernel's descriptor tables"},
    {"call.far", "the kernel's descriptor tables"},
    {"jmp.far", "the kernel's descriptor tables"},
    {"ret.far", "the kernel's descriptor tables"},
    {"iret", "the kernel's descriptor tables"},
    {"wrfsbase", "state that no frame restores"},
    {"wrgsbase", "state that no frame restores"},
    {"rdsspd", "not in the guest"},
    {"rdsspq", "not in the guest"},
    {"getsec", "not in the guest"},
    {"rsm", "not in the guest"},
    {"monitor", "the host's hypervisor decides"},
    {"mwait", "the host's hypervisor decides"},
    {"ud0", "whether it has a ModRM byte differs by vendor"},
    {"ud1", "whether it has a ModRM byte differs by vendor"},
    {"clwb", "a hint that depends on the model"},
};

const char *exclude_reason(size_t row)
{
    const struct x86_row *entry = &x86_rows[row];
    for (size_t i = 0; i < ARRAY_COUNT(excluded_mnemonics); i++) {
        if (strcmp(entry->mnemonic, excluded_mnemonics[i].mnemonic) == 0) {
            return excluded_mnemonics[i].reason;
        }
    }
    switch (entry->feature) {
    case X86_FEATURE_VMX:
    case X86_FEATURE_SVM:
    case X86_FEATURE_HYPERCALL:
    case X86_FEATURE_RTM:
    case X86_FEATURE_CET:
    case X86_FEATURE_SMAP:
    case X86_FEATURE_XSAVES:
    case X86_FEATURE_INVPCID:
        return "not for a process";
    default:
        return NULL;
    }
}

/* Where an opcode stands: what comes before it taken apart. */
struct opcode {
    uint8_t map, opcode, prefix, modrm;
    bool is_vex;
};

static struct opcode opcode_find(const uint8_t *bytes, enum x86_code_size code_size)
{
    struct opcode found = {0};
    unsigned n = 0;
    for (; n < X86_INSN_MAX_LENGTH - 5; n++) {
        uint8_t byte = bytes[n];
        if (byte == 0x66 || byte == 0xf2 || byte == 0xf3) {
            found.prefix = byte == 0x66 && found.prefix != 0 ? found.prefix : byte;
        } else if ((byte & 0xe7) != 0x26 && byte != 0x64 && byte != 0x65 && byte != 0x67 &&
                   byte != 0xf0 && !(code_size == X86_CODE_64 && (byte & 0xf0) == 0x40)) {
            break;
        }
    }
    bool is_register = bytes[n + 1] >= 0xc0 || code_size == X86_CODE_64;
    if ((bytes[n] == 0xc4 || bytes[n] == 0xc5) && is_register) {
        found.is_vex = true;
        found.map = bytes[n] == 0xc4 ? bytes[n + 1] & 0x1f : 1;
        n += bytes[n] == 0xc4 ? 2 : 1;
        static const uint8_t prefixes[4] = {0, 0x66, 0xf3, 0xf2};
        found.prefix = prefixes[bytes[n] & 3];
        n++;
    } else if (bytes[n] == 0x0f) {
        n++;
        found.map = bytes[n] == 0x38 ? 2 : bytes[n] == 0x3a ? 3 : 1;
        n += found.map != 1;
    }
    found.opcode = bytes[n];
    found.modrm = bytes[n + 1];
    return found;
}

/* Instructions that hosts have and guests do not. */
static const struct {
    uint8_t map, first, last;
    bool is_vex;
    const char *reason;
    uint8_t modrm_first, modrm_last; /* both 0: any */
    bool is_of_intel;                /* only on its CPUs */
} host_instructions[] = {
    {0, 0x8f, 0x8f, false, "XOP"},
    {0, 0x62, 0x62, false, "AVX-512"},
    {2, 0xcf, 0xcf, false, "GFNI"},
    {3, 0xce, 0xcf, false, "GFNI"},
    {2, 0xcf, 0xcf, true, "GFNI"},
    {3, 0xce, 0xcf, true, "GFNI"},
    {1, 0x41, 0x4b, true, "AVX-512 masks"},
    {1, 0x90, 0x99, true, "AVX-512 masks"},
    {3, 0x30, 0x33, true, "AVX-512 masks"},
    {2, 0x50, 0x53, true, "AVX-VNNI"},
    {2, 0xdc, 0xdf, true, "VAES"},
    {3, 0x44, 0x44, true, "VPCLMULQDQ"},
    {3, 0x00, 0x01, true, "some CPUs ignore VEX.W of VPERMQ and VPERMPD"},
    {1, 0x00, 0x00, false, "LOCK with LLDT and its like: a bad address may come first"},
    {1, 0x01, 0x01, false, "MONITORX, MWAITX, CLZERO, RDPRU, INVLPGB, TLBSYNC", 0xfa, 0xff},
    {1, 0x01, 0x01, false, "VMX with prefixes", 0xc0, 0xc4},
    {1, 0x01, 0x01, false, "SVM with prefixes", 0xd8, 0xdf},
    {1, 0x01, 0x01, false, "RDPKRU, WRPKRU, SERIALIZE with prefixes", 0xe8, 0xef},
    {1, 0x0d, 0x0d, false, "PREFETCH of a register is a no-operation", 0xc0, 0xff, true},
    {1, 0xae, 0xae, true, "CLWB with VEX", 0x30, 0xb7, true},
    {1, 0x20, 0x23, false, "AMD's LOCK MOV for CR8"},
    {2, 0xf8, 0xf9, false, "MOVDIRI, MOVDIR64B"},
};

const char *exclude_undefined(const uint8_t *bytes, enum x86_code_size code_size)
{
    struct opcode found = opcode_find(bytes, code_size);
    for (size_t i = 0; i < ARRAY_COUNT(host_instructions); i++) {
        if (found.map == host_instructions[i].map && found.is_vex == host_instructions[i].is_vex &&
            found.opcode >= host_instructions[i].first &&
            found.opcode <= host_instructions[i].last &&
            (!host_instructions[i].is_of_intel || case_host_is_intel()) &&
            (host_instructions[i].modrm_last == 0 ||
             (found.modrm >= host_instructions[i].modrm_first &&
              found.modrm <= host_instructions[i].modrm_last))) {
            return host_instructions[i].reason;
        }
    }
    return NULL;
}
