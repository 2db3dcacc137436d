#include "block/format/foreign/pieces.h"

#include <stdlib.h>
#include <string.h>

#include "base/core/bits.h"
#include "base/core/invariant.h"

struct piece {
    const struct foreign_file *file; /* NULL: empty */
    uint64_t offset;
    uint64_t last_use;
    uint8_t *data;
};

struct pieces {
    struct piece piece[PIECES_COUNT];
    uint32_t last; /* the one used last: neighbours in a table are asked for in turn */
    uint64_t clock;
};

struct pieces *pieces_create(void)
{
    return calloc(1, sizeof(struct pieces));
}

void pieces_destroy(struct pieces *pieces)
{
    if (pieces != NULL) {
        for (size_t i = 0; i < PIECES_COUNT; i++) {
            free(pieces->piece[i].data);
        }
        free(pieces);
    }
}

static bool is_it(const struct piece *piece, const struct foreign_file *file, uint64_t offset)
{
    return piece->file == file && piece->offset == offset;
}

/* The piece at 'offset', read if it is not there. */
static int get(struct pieces *pieces, const struct foreign_file *file, uint64_t offset,
               struct piece **out_piece, struct error *err)
{
    struct piece *piece = &pieces->piece[pieces->last];
    if (!is_it(piece, file, offset)) {
        struct piece *oldest = &pieces->piece[0];
        piece = NULL;
        for (size_t i = 0; i < PIECES_COUNT && piece == NULL; i++) {
            struct piece *p = &pieces->piece[i];
            if (is_it(p, file, offset)) {
                piece = p;
            } else if (p->last_use < oldest->last_use) {
                oldest = p;
            }
        }
        if (piece == NULL) {
            piece = oldest;
            piece->file = NULL;
            if (piece->data == NULL && (piece->data = malloc(PIECES_SIZE)) == NULL) {
                return error_set_errno(err, ENOMEM, "caching a table");
            }
            size_t size = (size_t)MIN(file->size_bytes - offset, PIECES_SIZE);
            int rc = file->read(file->ctx, offset, piece->data, size, err);
            if (rc < 0) {
                return rc;
            }
            piece->file = file;
            piece->offset = offset;
        }
        pieces->last = (uint32_t)(piece - pieces->piece);
    }
    piece->last_use = ++pieces->clock;
    *out_piece = piece;
    return 0;
}

int pieces_read(struct pieces *pieces, const struct foreign_file *file, uint64_t offset,
                void *out_data, size_t size, struct error *err)
{
    uint8_t *to = out_data;
    while (size != 0) {
        uint64_t start = align_down(offset, PIECES_SIZE);
        struct piece *piece = NULL;
        int rc = get(pieces, file, start, &piece, err);
        if (rc < 0) {
            return rc;
        }
        size_t skip = (size_t)(offset - start);
        size_t part = MIN(size, PIECES_SIZE - skip);
        memcpy(to, piece->data + skip, part);
        to += part;
        offset += part;
        size -= part;
    }
    return 0;
}
