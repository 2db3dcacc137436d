#include "engine/soft/translate/host_cpu.h"

#include <cpuid.h>

#include "base/core/bits.h"
#include "base/core/compiler.h"

#define FAMILY_P6 6

/* Intel, Mitigations for Jump Conditional Code Erratum (2019), section 4: models with their steppings. The list ends before Comet
 * Lake's desktop model, 0xa5, which has the same core. */
static const struct {
    uint8_t model;
    uint16_t steppings; /* bit n: stepping n */
} affected[] = {
    {0x4e, BIT(3)},
    {0x55, BIT(4) | BIT(6) | BIT(7)},
    {0x5e, BIT(3)},
    {0x8e, BIT(9) | BIT(10) | BIT(11) | BIT(12)},
    {0x9e, BIT(9) | BIT(10) | BIT(11) | BIT(12) | BIT(13)},
    {0xa5, UINT16_MAX},
    {0xa6, BIT(0)},
    {0xae, BIT(10)},
};

bool native_has_jump_erratum(uint32_t signature)
{
    uint32_t family = signature >> 8 & 15, stepping = signature & 15;
    uint32_t model = (signature >> 4 & 15) | (signature >> 12 & 0xf0);
    for (uint32_t i = 0; family == FAMILY_P6 && i < ARRAY_COUNT(affected); i++) {
        if (affected[i].model == model) {
            return affected[i].steppings >> stepping & 1;
        }
    }
    return false;
}

bool native_host_has_jump_erratum(void)
{
    unsigned eax, ebx, ecx, edx;
    return __builtin_cpu_is("intel") && __get_cpuid(1, &eax, &ebx, &ecx, &edx) &&
           native_has_jump_erratum(eax);
}
