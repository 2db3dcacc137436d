/* A small cache of aligned pieces of files, for mapping tables: bounded memory however large the tables are. */
#ifndef BLOCK_FORMAT_FOREIGN_PIECES_H
#define BLOCK_FORMAT_FOREIGN_PIECES_H

#include "block/format/foreign/foreign.h"

#define PIECES_COUNT 32u
#define PIECES_SIZE  32768u /* bytes of one: 1 MiB for an image */

struct pieces;

struct pieces *pieces_create(void);
void pieces_destroy(struct pieces *pieces);
/* 'file' is known by its address, which must not change. The range lies within it. */
int must_check pieces_read(struct pieces *pieces, const struct foreign_file *file, uint64_t offset,
                           void *out_data, size_t size, struct error *err);

#endif
