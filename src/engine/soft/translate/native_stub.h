/* Pieces of host code that blocks and stubs, or several stubs, have in common. */
#ifndef ENGINE_SOFT_TRANSLATE_NATIVE_STUB_H
#define ENGINE_SOFT_TRANSLATE_NATIVE_STUB_H

#include "engine/soft/translate/block_table.h"

#define NATIVE_PUSHED 8 /* RSP is so much lower in a stub: the return address */

/* R15 = the place in the jump cache of the target in R14. */
void native_emit_jump_place(struct emitter *e);
/* The page of the target in R14, which is spoiled, is where shared code runs next; 'pushed' as above, or 0 in a block. */
void native_emit_jump_page(struct emitter *e, int32_t pushed);
/* On behind the site that called this stub: its instruction is done. */
void native_emit_done(struct emitter *e);

#endif
