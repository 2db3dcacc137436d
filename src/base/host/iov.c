#include "base/host/iov.h"

#include <string.h>

#include "base/core/compiler.h"

int iov_cut(struct iovec *out_iov, const struct iovec *iov, int count, uint64_t skip, uint64_t size)
{
    int parts = 0;
    for (int i = 0; i < count && size > 0; i++) {
        if (skip >= iov[i].iov_len) {
            skip -= iov[i].iov_len;
            continue;
        }
        size_t part = (size_t)MIN(iov[i].iov_len - skip, size);
        out_iov[parts++] = (struct iovec){(uint8_t *)iov[i].iov_base + skip, part};
        size -= part;
        skip = 0;
    }
    return parts;
}

/* Calls for each piece of memory in the range. */
static void each(const struct iovec *iov, int count, uint64_t skip, uint64_t size,
                 void (*fn)(void *ctx, void *memory, size_t size), void *ctx)
{
    for (int i = 0; i < count && size > 0; i++) {
        if (skip >= iov[i].iov_len) {
            skip -= iov[i].iov_len;
            continue;
        }
        size_t part = (size_t)MIN(iov[i].iov_len - skip, size);
        fn(ctx, (uint8_t *)iov[i].iov_base + skip, part);
        size -= part;
        skip = 0;
    }
}

static void zero_piece(void *ctx, void *memory, size_t size)
{
    memset(memory, 0, size);
}

static void put_piece(void *ctx, void *memory, size_t size)
{
    const uint8_t **from = ctx;
    memcpy(memory, *from, size);
    *from += size;
}

static void get_piece(void *ctx, void *memory, size_t size)
{
    uint8_t **to = ctx;
    memcpy(*to, memory, size);
    *to += size;
}

void iov_zero(const struct iovec *iov, int count, uint64_t skip, uint64_t size)
{
    each(iov, count, skip, size, zero_piece, NULL);
}

void iov_put(const struct iovec *iov, int count, uint64_t skip, const void *data, size_t size)
{
    const uint8_t *from = data;
    each(iov, count, skip, size, put_piece, &from);
}

void iov_get(const struct iovec *iov, int count, uint64_t skip, void *out_data, size_t size)
{
    uint8_t *to = out_data;
    each(iov, count, skip, size, get_piece, &to);
}
