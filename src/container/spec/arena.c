/* Chunks come from mmap: zeroed, and untouched pages cost nothing. */
#include "container/spec/arena.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>

#include "base/core/compiler.h"

#define ARENA_CHUNK (128u << 10)
#define ARENA_ALIGN _Alignof(uint64_t)

struct arena_chunk {
    struct arena_chunk *before;
    size_t size;
    _Alignas(ARENA_ALIGN) char bytes[];
};

void arena_init(struct arena *arena, size_t limit_bytes)
{
    *arena = (struct arena){.limit_bytes = limit_bytes};
}

void arena_fini(struct arena *arena)
{
    struct arena_chunk *chunk = arena->newest;
    while (chunk != NULL) {
        struct arena_chunk *before = chunk->before;
        (void)munmap(chunk, chunk->size); /* of a mapping that is ours: cannot fail */
        chunk = before;
    }
}

/* Each chunk is twice the one before, so that there are few of them. */
static bool add_chunk(struct arena *arena, size_t payload)
{
    size_t size = arena->newest == NULL ? ARENA_CHUNK : arena->newest->size * 2;
    size = MAX(size, (payload + sizeof(struct arena_chunk) + ARENA_CHUNK - 1) &
                         ~((size_t)ARENA_CHUNK - 1));
    if (size > arena->limit_bytes) {
        return false;
    }
    struct arena_chunk *chunk =
        mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (chunk == MAP_FAILED) {
        return false;
    }
    arena->limit_bytes -= size;
    chunk->before = arena->newest;
    chunk->size = size;
    arena->newest = chunk;
    arena->next = chunk->bytes;
    arena->end = (char *)chunk + size;
    return true;
}

void *arena_alloc(struct arena *arena, size_t size)
{
    if (size > arena->limit_bytes && size > (size_t)(arena->end - arena->next)) {
        return NULL; /* before sizes are rounded up */
    }
    size = (size + ARENA_ALIGN - 1) & ~(ARENA_ALIGN - 1);
    if (size > (size_t)(arena->end - arena->next) && !add_chunk(arena, size)) {
        return NULL;
    }
    void *bytes = arena->next;
    arena->next += size;
    return bytes;
}
