/* Space for deletions: they free space, but have to write before they do, and on a full disk nobody can. So the manager has a file,
 * STATE/reserve, that holds nothing but room; who deletes and meets ENOSPC gives up a piece of it and tries again. hulld takes it back
 * when no deletion is left and there is room. Nothing depends on its being there: file systems without fallocate have none.
 *
 * Threads: none. hulld and workers may give at the same time: then both get less. */
#ifndef MANAGER_OPERATION_RESERVE_H
#define MANAGER_OPERATION_RESERVE_H

#include <jansson.h>
#include <stdbool.h>

#include "manager/place.h"

#define RESERVE_FILE "reserve"
/* A piece is enough for all that runs at once if nobody else takes it: eight journals with what each reserves (80 KiB), as many documents
 * in instances' folders, and the database's WAL for some hundred pages of 4 KiB. Where guests fill the disk at the same moment
 * a piece may be gone before it is used, so there are several; and the WAL grows up to 4 MiB before SQLite begins it anew. */
#define RESERVE_PIECE (2u << 20)
#define RESERVE_SIZE  (4 * RESERVE_PIECE)

/* Does an operation of this kind free space? */
bool reserve_serves(const char *kind, const json_t *request);
/* Gives up a piece after an error 'code' (negative errno). True: that may help, there was one, and the error was one of space. */
bool reserve_give(const struct place *place, int code);
/* Makes it whole, if that leaves as much again to others. True: it is whole, or never can be here. */
bool reserve_take(const struct place *place);

#endif
