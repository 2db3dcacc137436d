/* Private to the files that emit blocks: the state of a translation. */
#ifndef ENGINE_SOFT_TRANSLATE_TRANSLATE_H
#define ENGINE_SOFT_TRANSLATE_TRANSLATE_H

#include "engine/soft/translate/analyze.h"
#include "engine/soft/translate/block_table.h"
#include "engine/soft/translate/window_guess.h"

/* Where the guest's status flags are; none: they do not matter. */
#define FLAGS_HOST  1u
#define FLAGS_SAVED 2u

enum slow_kind {
    SLOW_INTERPRET, /* the instruction, on the interpreter */
    SLOW_WINDOW,    /* the same, when the host has faulted */
    SLOW_GUESS,     /* the address is in another window */
    SLOW_X87,       /* the guest's x87 state is to be loaded */
    SLOW_VECTORS,   /* the guest's vectors are to be loaded */
    SLOW_EXIT,      /* a request: leave before the instruction */
    SLOW_BUDGET,    /* too little is left of native_budget: leave before the block */
    SLOW_INDIRECT,  /* target in R14, not in the jump cache */
    SLOW_RETURN,    /* the same, nor where the CALL has left a landing */
    SLOW_TAKEN,     /* a conditional branch, by more than a jump */
};

/* Code out of line. */
struct slow_path {
    uint8_t kind;  /* enum slow_kind */
    uint8_t flags; /* SLOW_TAKEN, SLOW_RETURN: FLAGS_* */
    bool wants_flags, wants_vectors, wants_x87;
    uint32_t index;        /* of the instruction */
    int32_t stack_pending; /* of the translation, there */
    int32_t stack_change;  /* what a branch has added to RSP */
    uint8_t *jump;         /* place of the displacement that leads here */
    uint8_t *retry;        /* SLOW_INTERPRET: the check, with the address in R14; NULL: no use */
    uint32_t size;         /* of the access, and is it a write? */
    bool is_write;
    bool may_fault; /* then #PF is the instruction's, for an access so far behind the checked one */
    bool is_fault_read; /* which only reads, whatever the check is for */
    uint8_t *
        checked; /* behind the check, with a host address in R14 that is good for this time; NULL: no use */
    uint32_t fault_disp;
    int32_t tag;      /* displacement of the TLB's tags */
    uint8_t *after;   /* where to go on; NULL: the next RIP decides */
    bool is_in_group; /* later accesses need a check that fails here */
    uint8_t *window;  /* SLOW_WINDOW: from here on the access may fault on the host */
    bool saves_flags; /* they are in the host's only */
    bool makes_flags; /* they are nowhere, and made again */
    /* The code at 'after' has this guest register in that host register; see held.c. */
    bool is_held;
    uint8_t held_guest, held_host;
};

static inline uint8_t native_home(uint8_t guest_reg)
{
    return guest_reg == X86_RSP ? HOST_R13 : guest_reg;
}

/* A direct exit of the block; becomes a link. */
struct block_exit {
    uint64_t rip;          /* where to */
    uint8_t *place;        /* of the jump's displacement */
    uint8_t *epoch, *base; /* where they are compared, or NULL */
    uint8_t *to_stub;      /* displacement of another jump to the link's stub, or NULL */
    bool with_flags;       /* as in the link */
    bool is_saved;         /* as well; if not, the stub has to do it */
    bool is_landing;
};

/* A guest register that the vCPU keeps, and that a scratch register has as well; see held.c. */
struct held_register {
    uint8_t guest, host;
    uint32_t index;        /* of the instruction that stored it */
    uint8_t *store, *from; /* where, and where that ends */
    uint8_t *at;           /* it is so for code here; NULL: nowhere */
    bool is_half;          /* its upper half is 0 */
};

#define TRANSLATION_MAX_SLOW (NATIVE_MAX_INSNS * 5 + 8)

struct translation {
    struct emitter e;
    struct soft_native *native;
    struct native_source *source;
    struct native_block *block;
    uint32_t tlb;  /* enum soft_tlb_mode, here */
    bool is_intel; /* the guest's CPU */
    struct soft_x87_model x87;
    uint32_t index;
    uint32_t flags;                        /* FLAGS_* */
    const struct native_insn *flags_again; /* see flags_again.c; NULL: none */
    uint32_t flags_again_from;             /* instruction */
    bool has_vectors, has_x87;             /* are in the host's registers */
    bool needs_poll;
    bool is_shared;
    bool has_landings;       /* CALL and RET are call_return.c's */
    bool counts;             /* icount.h */
    uint32_t checked_groups; /* bit n: group n has its check behind it */
    uint8_t address_group;   /* whose address R14 has */
    /* The same of R15, after this instruction and before it: only instructions that leave R15 alone keep it. */
    uint8_t scratch_group, kept_group;
    bool guesses_windows; /* which one an address is in */
    bool has_guess;       /* of the window of the access here: it is that of 'guessed_role' */
    uint8_t guessed_role;
    struct held_register held;
    int32_t operand_disp;  /* of the operand from R14 */
    int32_t stack_pending; /* what RSP has still to move by, see native_emit_move_stack */
    uint32_t exit_count;
    struct block_exit exit[NATIVE_MAX_LINKS];
    struct native_guess guess; /* if guesses_windows */
    uint32_t slow_count;
    struct slow_path slow[TRANSLATION_MAX_SLOW];
};

/* With icount: 'change' is what native_budget grows by. Spoils the host's flags. */
void native_emit_count(struct translation *t, int32_t change);
/* How many instructions of the block there are from this one on. */
static inline int32_t native_left(const struct translation *t, uint32_t index)
{
    return (int32_t)(t->source->count - index);
}

/* held.c: guest registers that the vCPU keeps. Host register 'reg' = the guest's, and back. */
void native_load_gpr(struct translation *t, uint8_t reg, uint8_t guest);
void native_store_gpr(struct translation *t, uint8_t reg, uint8_t guest);
/* Does a scratch register have the guest register (or any), for the code that comes next? */
bool native_holds(const struct translation *t, uint8_t guest);
bool native_holds_any(const struct translation *t);
/* Which one. It is read, and may be changed before the guest register is stored again. */
uint8_t native_use_held(struct translation *t);
/* It still does, or has a new value that is stored next: since native_holds said so, the code has neither accessed memory nor
 * left the block, and none of it is the target of a jump or says where it is. */
void native_go_on_holding(struct translation *t);

/* Is memory accessed in windows? */
static inline bool native_has_windows(const struct translation *t)
{
    return t->block->mode & NATIVE_MODE_WINDOWS;
}

/* The instruction has been emitted from 'start' on: has it lie beside a Jcc behind it as emit_fit wants it, if the two are fused. */
void native_fit_next(struct translation *t, const struct native_insn *n, uint8_t *start);

void native_save_flags(struct translation *t);
/* The host's flags from 'status'; RAX is spoiled, and kept in 'scratch' by the second one. */
void native_load_flags(struct emitter *e);
void native_restore_flags(struct emitter *e, uint8_t scratch);
void native_give_up_flags(struct translation *t, uint32_t live);
void native_want_flags(struct translation *t, uint8_t scratch);
struct slow_path *native_add_slow(struct translation *t, enum slow_kind kind);
/* flags_again.c. Need the flags here not be saved, as the rest of the block has no use for them and can make them again? */
bool native_find_flags_again(struct translation *t);
/* Is it so, and have the host's been given up? */
static inline bool native_makes_flags(const struct translation *t)
{
    return t->flags_again && t->index >= t->flags_again_from &&
           !(t->flags & (FLAGS_HOST | FLAGS_SAVED));
}
/* Makes them in the host's as they are before instruction 'index', when RSP has been moved by 'moved' bytes since. */
void native_emit_flags_again(struct translation *t, uint32_t index, int32_t moved, uint8_t scratch);
/* With windows: what follows may fault on the host, in the instruction here. */
void native_begin_window_access(struct translation *t);
/* Before the address of the instruction's operand is made: that may spoil the host's flags. */
void native_before_access(struct translation *t, const struct native_insn *n);
/* memory_operand.c: R14 = the host's address of the instruction's memory operand. Spoils the flags and R15. */
void native_emit_operand(struct translation *t, const struct native_insn *n, uint32_t size,
                         bool is_write, bool is_aligned);
/* A memory operand for the host. */
struct native_operand {
    uint8_t base, index; /* HOST_NONE: no index */
    int32_t disp;
    uint8_t scratch; /* a register that is free still, or HOST_NONE */
};
/* The same in parts: the instruction adds them up. 'wants_scratch': there has to be one. */
struct native_operand native_emit_parts(struct translation *t, const struct native_insn *n,
                                        uint32_t size, bool is_write, bool is_aligned,
                                        bool wants_scratch);
/* With windows: R14 = the host's address of [base + disp], a displacement of less than 1 GiB. */
void native_emit_near(struct translation *t, uint8_t base, int32_t disp);
/* translate.c: the flags as the instruction proper needs and leaves them. */
bool native_needs_host_flags(const struct native_insn *n);
void native_flags_written(struct translation *t, const struct native_insn *n);
/* register_insn.c */
void native_emit_lea(struct translation *t, const struct native_insn *n);
void native_emit_mov_immediate(struct translation *t, const struct native_insn *n);
void native_emit_bswap(struct translation *t, const struct native_insn *n);
void native_emit_xchg_rax(struct translation *t, const struct native_insn *n);
void native_emit_step(struct translation *t, const struct native_insn *n);
void native_emit_moffs(struct translation *t, const struct native_insn *n);
/* stack_insn.c: R14 + operand_disp = the host's address of a word at guest RSP + disp. */
void native_emit_stack(struct translation *t, const struct native_insn *n, int32_t disp,
                       bool is_write);
/* The guest's stack pointer moves by 'change'. */
void native_emit_move_stack(struct translation *t, int32_t change);
/* op reg, [base + disp] with words. */
void native_emit_word(struct translation *t, uint8_t opcode, uint8_t reg, uint8_t base,
                      int32_t disp);
void native_emit_push(struct translation *t, const struct native_insn *n);
void native_emit_pop(struct translation *t, const struct native_insn *n);
void native_emit_push_selector(struct translation *t, const struct native_insn *n);
void native_emit_pop_memory(struct translation *t, const struct native_insn *n);
void native_emit_leave(struct translation *t, const struct native_insn *n);
/* Is a #PF of the instruction's access the instruction's, with nothing before it to be undone or done? */
bool native_faults_by_one_access(const struct native_insn *n);
/* The host's address of a member of a group, in R14 and 'operand_disp'; false: 'n' is in none. */
bool native_emit_grouped(struct translation *t, const struct native_insn *n);
/* R14 from a linear address to the host's address of 'size' bytes, alone. */
void native_emit_check(struct translation *t, uint32_t size, bool is_write);
/* plain_insn.c */
/* Is the host's instruction locked? */
bool native_keeps_lock(const struct translation *t, const struct x86_insn *insn);
void native_emit_plain(struct translation *t, const struct native_insn *n);
void native_emit_raw(struct translation *t, const struct native_insn *n);
void native_emit_divide(struct translation *t, const struct native_insn *n);
/* x87.c */
void native_emit_x87(struct translation *t, const struct native_insn *n);
void native_emit_poll(struct translation *t);
/* 'reg' = a RIP as the block has it, with what it lacks. Leaves the flags alone. */
void native_emit_rip(struct translation *t, uint8_t reg, uint64_t rip);
/* The two halves of native_emit_operand without groups: the effective address, segment base included, in R14; and R14 from a
 * linear address to the host's address of 'size' bytes. The flags have been given up. */
void native_emit_address(struct translation *t, const struct native_insn *n);
void native_emit_translation(struct translation *t, uint32_t size, bool is_write, bool is_aligned);

/* special.c */
void native_emit_string(struct translation *t, const struct native_insn *n);
void native_emit_cpuid(struct translation *t, const struct native_insn *n);
void native_emit_bit_string(struct translation *t, const struct native_insn *n);
void native_emit_selector(struct translation *t, const struct native_insn *n);

/* system_insn.c */
void native_emit_small(struct translation *t, const struct native_insn *n);
void native_emit_pushf(struct translation *t, const struct native_insn *n);
void native_emit_popf(struct translation *t, const struct native_insn *n);
void native_emit_pause(struct translation *t, const struct native_insn *n);
void native_emit_read_cr(struct translation *t, const struct native_insn *n);
void native_emit_entry(struct translation *t, const struct native_insn *n);

/* branch.c */
/* Leaves to the interpreter if the address in R14 is not canonical; 64-bit code. Spoils R15. */
void native_emit_canonical_check(struct translation *t);
void native_emit_branch(struct translation *t, const struct native_insn *n);
/* To 'rip', where the flags of 'live' matter. */
void native_emit_exit(struct translation *t, uint64_t rip, uint32_t live);
/* The conditional branch is taken. */
void native_emit_taken(struct translation *t);
/* Is what is at 'rip' in the block's page for good? Not so if the page may end within the instruction there. */
bool native_is_same_page(const struct translation *t, uint64_t rip);
/* The exit of a landing at 'rip'. */
struct block_exit *native_new_landing(struct translation *t, uint64_t rip);
/* The return whose target, in R14, has no landing. */
void native_emit_return_lookup(struct translation *t, const struct slow_path *slow);

/* call_return.c: the return address 'next' has been pushed, and is in R15 if 'has_next'; or its lowest 32 bits tell it. The flags
 * have been given up. */
void native_emit_landing(struct translation *t, uint64_t next, bool has_next);
/* RET: target in R14, flags given up; the stack pointer has still to be moved. */
void native_emit_return(struct translation *t, int32_t pops);
/* The stubs of exits, and the links of the block. */
void native_emit_link_stubs(struct translation *t);

#endif
