/* Rows that a native process cannot run as a guest does. NOT_COVERED.md explains the reasons at length. */
#include "exclude.h"

#include <string.h>

#include "base/core/compiler.h"
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
    {"xsave", "the host has more components"},
    {"xsavec", "the host has more components"},
    {"xsaveopt", "the host has more components"},
    {"xrstor", "the host has more components"},
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
