/* Images of other products as blocks. */
#ifndef BLOCK_FORMAT_FOREIGN_BLOCK_H
#define BLOCK_FORMAT_FOREIGN_BLOCK_H

#include "block/format/foreign/foreign.h"

struct block;

/* What is known of the image of a block of one of these formats; NULL: it is of another one. */
const struct foreign_info *foreign_block_info(const struct block *block);

#endif
