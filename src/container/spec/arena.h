/* Memory that is taken piece by piece and given back as a whole, so that a document needs no heap and no list of what to free. */
#ifndef CONTAINER_SPEC_ARENA_H
#define CONTAINER_SPEC_ARENA_H

#include <stddef.h>

struct arena_chunk;
struct arena {
    struct arena_chunk *newest; /* chunks are mappings of their own, each knows the one before */
    char *next, *end;           /* what is free in the newest */
    size_t limit_bytes;         /* of all chunks together */
};

void arena_init(struct arena *arena, size_t limit_bytes);
/* Unmaps all. 'arena' itself may lie in what is unmapped. */
void arena_fini(struct arena *arena);
/* Zeroed and aligned for 64-bit numbers. NULL: the limit or the system's memory is reached. */
void *arena_alloc(struct arena *arena, size_t size);

#endif
