/* Makes operands of a case point near the memory that it has. */
#ifndef DIFFERENTIAL_AIM_H
#define DIFFERENTIAL_AIM_H

#include "case.h"
#include "cpu/x86/decode.h"
#include "random.h"

struct branch {
    uint8_t offset, size; /* of the displacement within the instruction; size 0: no branch */
};

/* A case in the making. */
struct builder {
    struct random *random;
    struct case_input *out;
    uint32_t used;     /* registers that an earlier instruction wrote or addressed with */
    uint32_t pointers; /* registers set to form an address */
    uint64_t next_rip;
    struct branch branch[CASE_MAX_INSNS];
    uint32_t undefined; /* flags that nobody may read now */
    bool is_over;       /* the last instruction is none */
};

/* Makes the address of 'insn' be near what is mapped, as far as registers not yet spoken for allow it. 'bytes': its
 * encoding, whose displacement may change. */
void aim_memory(struct builder *b, const struct x86_insn *insn, uint8_t *bytes);

/* Is it of the XSAVE family, with a mask of components in EDX:EAX? */
bool aim_is_xsave(const struct x86_insn *insn);

/* The same for addresses and counts that no ModRM byte names. */
void aim_implicit(struct builder *b, const struct x86_insn *insn);

#endif
