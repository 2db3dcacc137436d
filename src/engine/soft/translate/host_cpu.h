/* What the translator has to know of the host's CPU beyond its features. */
#ifndef ENGINE_SOFT_TRANSLATE_HOST_CPU_H
#define ENGINE_SOFT_TRANSLATE_HOST_CPU_H

#include <stdbool.h>
#include <stdint.h>

/* Does an Intel CPU of this signature (CPUID.1:EAX) have the erratum of jumps that emit_fit is for? */
bool native_has_jump_erratum(uint32_t signature);

/* Does this one? */
bool native_host_has_jump_erratum(void);

#endif
