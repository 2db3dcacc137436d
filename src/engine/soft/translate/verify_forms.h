/* Private to the verifier: what it knows about registers at a place of a block, and the rules of single instructions. */
#ifndef ENGINE_SOFT_TRANSLATE_VERIFY_FORMS_H
#define ENGINE_SOFT_TRANSLATE_VERIFY_FORMS_H

#include "cpu/x86/decode.h"
#include "engine/soft/translate/block_table.h"

enum verify_kind {
    VERIFY_ANY,
    VERIFY_CONSTANT, /* 'bits' */
    VERIFY_MASKED,   /* no bits but those of 'bits' */
    VERIFY_INDEX,    /* the same, and equal to (register 'of', low 32 bits) >> 'shift' & 'bits' */
    VERIFY_DIFFERENCE, /* what was in the register, minus the tag of the TLB entry at index 'of'; at most 'bits' */
    VERIFY_HOST, /* host address: bytes 'low' to 'high' - 1 from there are of one guest page */
    VERIFY_WINDOW_BITS,  /* bits 63:40 of register 'of', in the lowest bits */
    VERIFY_WINDOW_INDEX, /* bits 55:40 of it */
    VERIFY_WINDOW_GUESSED, /* bits 47:40 of it are those of window_role_slot['bits']; in the lowest bits as well */
    VERIFY_WINDOW,   /* what has to be added to it */
    VERIFY_JUMP_TAG, /* the tag of the jump cache's entry at index 'of' */
    VERIFY_LANDING,  /* where a CALL in the block comes back to */
};

/* 'rights' of DIFFERENCE and HOST. */
#define VERIFY_READ  1u
#define VERIFY_WRITE 2u
#define VERIFY_WINDOWED                                                                            \
    16u /* what is not there, or not aligned, faults on the host, which is expected */
/* 'rights' of MASKED and INDEX: compared with the jump cache's entry there. */
#define VERIFY_JUMP_RIP_IS_RIGHT 4u
#define VERIFY_JUMP_TAG_IS_RIGHT 8u
#define VERIFY_CALL_RIP_IS_RIGHT 32u /* the same with the entry of native_call */

struct verify_value {
    uint8_t kind; /* enum verify_kind */
    uint8_t of;
    uint8_t shift;
    uint8_t rights;
    uint8_t zero_bits; /* low bits that are 0: of DIFFERENCE and HOST */
    int32_t low, high;
    uint64_t bits;
};

/* What the host's flags tell, until something else writes them. */
enum verify_compared {
    VERIFY_FLAGS_ANY,
    VERIFY_FLAGS_LIMIT,    /* cmp 'reg', 'bits' */
    VERIFY_FLAGS_GUESS,    /* cmp low byte of 'reg', window_role_slot['bits'] */
    VERIFY_FLAGS_BITS,     /* test low byte of 'reg', 'bits' */
    VERIFY_FLAGS_JUMP_RIP, /* cmp with the RIP of the jump cache's entry at index 'reg' */
    VERIFY_FLAGS_JUMP_TAG,
    VERIFY_FLAGS_CALL_RIP, /* the same with the entry of native_call */
    VERIFY_FLAGS_FILLED, /* by the stub 'fill': if they say 'above', R14 has the host's address of 'bits' bytes to write to */
    VERIFY_FLAGS_EXIT, /* cmp with native_epoch or native_page: if they say 'equal', 'bits' of 'epochs' are so */
};

struct verify_flags {
    uint8_t kind; /* enum verify_compared */
    uint8_t reg;
    uint64_t bits;
};

#define VERIFY_SLOTS 16 /* elements of native_group */

struct verify_state {
    struct verify_value reg[16 + VERIFY_SLOTS]; /* registers, then native_group */
    struct verify_flags flags;
    uint8_t epochs; /* bit n: native_epoch[n] has been compared; VERIFY_BASE: native_page */
    uint8_t tlb;    /* enum soft_tlb_mode; VERIFY_NO_TLB: not known */
};

#define VERIFY_NO_TLB 0xffu
#define VERIFY_BASE   0x80u

/* An instruction of the block, as the rules see it. */
struct verify_insn {
    struct x86_insn insn;
};

void verify_state_unknown(struct verify_state *out, uint8_t tlb);
/* 'into' becomes what holds in both; false: it does already. */
bool verify_state_join(struct verify_state *into, const struct verify_state *from);

/* Checks an instruction that does not branch and applies what it does. NULL, or what is wrong with it. */
/* The register has a new value that nothing is known about, and so have the flags that came from it. */
void verify_forget(struct verify_state *state, uint8_t reg);
const char *verify_step(const struct verify_insn *at, struct verify_state *state);
/* The same for JMP through memory. */
const char *verify_indirect_jump(const struct verify_insn *at, const struct verify_state *state);
/* What a conditional jump says about the flags on one of its edges. */
void verify_edge(uint8_t condition, bool is_taken, struct verify_state *state);
/* What is known when the stub 'fill' has come back. */
void verify_fill(struct verify_state *state);

enum verify_stub {
    VERIFY_NO_STUB,
    VERIFY_STUB_FILL, /* called; comes back behind the call with other R14, R15 and flags: verify_fill */
    VERIFY_STUB_RETURNS, /* called; comes back behind the call */
    VERIFY_STUB_SMALL,   /* the same with other R14, R15, RAX, RCX, RDX and flags */
    VERIFY_STUB_STAC,    /* the same, and the mode is another one */
    VERIFY_STUB_CLAC,
    VERIFY_STUB_SITE, /* called; a struct native_site follows, behind it the code goes on if site.next says so */
    VERIFY_STUB_STRING,    /* the same, if it is one for the block's mode */
    VERIFY_STUB_SITE_LAST, /* called; a struct native_site follows, and it never comes back */
    VERIFY_STUB_LINK,      /* jumped to, with a link of the block in R14 */
};

enum verify_stub verify_find_stub(const struct soft_native *n, const uint8_t *target);

#endif
