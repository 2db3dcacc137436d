/* Hides the beginning of a file that is not finished yet: what is written to its first 4 KiB stays in memory, and the file has a
 * mark there (BLOCK_VEIL_MARK), so that nobody takes it for an image, or a disk, before it is one. For the targets of jobs.
 *
 * Threads: as in block.h. */
#ifndef BLOCK_VEIL_H
#define BLOCK_VEIL_H

#include "block/image.h"

/* Takes the beginning into memory and puts the mark there, durable. 'file' is the new block's from then on, also on failure. Not in
 * a coroutine. */
int must_check block_veil_create(struct block *file, struct block **out_block, struct error *err);
/* Everything below is durable, and then the true beginning. From then on all requests go straight through. In a coroutine. */
int must_check block_veil_lift(struct block *veil);

#endif
