/* Compressed clusters: zlib (raw deflate) or zstd, one cluster at a time. */
#include <stdlib.h>
#include <string.h>
#include <zlib.h>
#include <zstd.h>

#include "block/format/qcow2/qcow2.h"

#define DEFLATE_WINDOW  (-12) /* without a header; what QEMU reads */
#define INFLATE_WINDOW  (-15) /* any window */
#define MAX_ZSTD_WINDOW 23    /* 8 MiB: more memory than that no cluster needs */

/* What follows the end of the compressed data in 'in' does not matter. */
static int inflate_cluster(const uint8_t *in, size_t in_size, uint8_t *out, size_t out_size)
{
    z_stream stream = {.next_in = (uint8_t *)in,
                       .avail_in = (uInt)in_size,
                       .next_out = out,
                       .avail_out = (uInt)out_size};
    if (inflateInit2(&stream, INFLATE_WINDOW) != Z_OK) {
        return -ENOMEM;
    }
    int result = inflate(&stream, Z_FINISH);
    bool is_full = stream.avail_out == 0;
    inflateEnd(&stream);
    return is_full && (result == Z_STREAM_END || result == Z_BUF_ERROR || result == Z_OK) ? 0
                                                                                          : -EIO;
}

static int zstd_unpack(const uint8_t *in, size_t in_size, uint8_t *out, size_t out_size)
{
    ZSTD_DCtx *context = ZSTD_createDCtx();
    if (context == NULL) {
        return -ENOMEM;
    }
    ZSTD_inBuffer input = {in, in_size, 0};
    ZSTD_outBuffer output = {out, out_size, 0};
    size_t result = ZSTD_DCtx_setParameter(context, ZSTD_d_windowLogMax, MAX_ZSTD_WINDOW);
    while (!ZSTD_isError(result) && output.pos < output.size) {
        size_t in_before = input.pos, out_before = output.pos;
        result = ZSTD_decompressStream(context, &output, &input);
        if (input.pos == in_before && output.pos == out_before) {
            break; /* it wants more than there is */
        }
    }
    ZSTD_freeDCtx(context);
    return !ZSTD_isError(result) && output.pos == output.size ? 0 : -EIO;
}

int qcow2_unpack(struct qcow2 *q, struct qcow2_entry entry, const uint8_t **out_data)
{
    uint64_t offset;
    uint32_t size;
    if (q->unpacked == NULL) {
        q->unpacked = malloc(q->layout.cluster_size);
        if (q->unpacked == NULL) {
            return -ENOMEM;
        }
    }
    *out_data = q->unpacked;
    if (q->unpacked_entry == entry.descriptor) {
        return 0;
    }
    qcow2_entry_compressed(&q->layout, entry, &offset, &size);
    uint8_t *packed = malloc(size);
    if (packed == NULL) {
        return -ENOMEM;
    }
    int rc = block_read(q->file, offset, packed, size);
    if (rc == 0) {
        q->unpacked_entry = 0;
        rc = q->header.compression_type == QCOW2_ZSTD
                 ? zstd_unpack(packed, size, q->unpacked, q->layout.cluster_size)
                 : inflate_cluster(packed, size, q->unpacked, q->layout.cluster_size);
    }
    free(packed);
    if (rc == 0) {
        q->unpacked_entry = entry.descriptor;
    }
    return rc;
}

static size_t deflate_cluster(const uint8_t *in, size_t in_size, uint8_t *out, size_t out_size)
{
    z_stream stream = {.next_in = (uint8_t *)in,
                       .avail_in = (uInt)in_size,
                       .next_out = out,
                       .avail_out = (uInt)out_size};
    if (deflateInit2(&stream, Z_DEFAULT_COMPRESSION, Z_DEFLATED, DEFLATE_WINDOW, 9,
                     Z_DEFAULT_STRATEGY) != Z_OK) {
        return 0;
    }
    int result = deflate(&stream, Z_FINISH);
    size_t size = out_size - stream.avail_out;
    deflateEnd(&stream);
    return result == Z_STREAM_END ? size : 0;
}

/* The number of bytes it takes; 0: it does not get smaller, or there is no memory. */
static size_t pack(const struct qcow2 *q, const uint8_t *in, uint8_t *out, size_t out_size)
{
    size_t in_size = q->layout.cluster_size;
    if (q->header.compression_type == QCOW2_ZLIB) {
        return deflate_cluster(in, in_size, out, out_size);
    }
    size_t size = ZSTD_compress(out, out_size, in, in_size, ZSTD_CLEVEL_DEFAULT);
    return ZSTD_isError(size) ? 0 : size;
}

struct packing {
    const struct qcow2 *q;
    const uint8_t *in;
    uint8_t *out;
    size_t out_size, packed_size;
};

static void pack_in_thread(void *ctx)
{
    struct packing *packing = ctx;
    packing->packed_size = pack(packing->q, packing->in, packing->out, packing->out_size);
}

/* The same beside what other requests do, where there may be threads. May yield. */
static size_t pack_in_pool(struct qcow2 *q, const uint8_t *in, uint8_t *out, size_t out_size)
{
    if (!q->has_pool) {
        q->has_pool = true;
        (void)!work_pool_create(0, q->block.loop, &q->pool, NULL); /* then without */
    }
    struct packing packing = {.q = q, .in = in, .out = out, .out_size = out_size};
    block_begin_own(&q->block);
    work_pool_run(q->pool, pack_in_thread, &packing);
    block_end_own(&q->block);
    return packing.packed_size;
}

void qcow2_wait_own(struct block *block)
{
    work_pool_wait(qcow2_from_block(block)->pool);
}

/* The range lock of the cluster is held. */
static int store_packed(struct qcow2 *q, uint64_t cluster, const uint8_t *packed, uint32_t size)
{
    uint64_t offset;
    struct qcow2_entry old = {0};
    int rc = qcow2_alloc_compressed(q, size, &offset);
    if (rc < 0) {
        return rc;
    }
    uint64_t first = align_down(offset, q->layout.cluster_size);
    uint64_t end = align_up(offset + size, q->layout.cluster_size);
    rc = block_write(q->file, offset, packed, (size_t)align_up(size, QCOW2_SECTOR));
    if (rc == 0) {
        rc = qcow2_entry_get(q, cluster, &old);
    }
    if (rc == 0) {
        rc = qcow2_entry_set(q, cluster, qcow2_entry_make_compressed(&q->layout, offset, size));
    }
    if (rc < 0) {
        qcow2_unalloc(q, first, end - first);
        return rc;
    }
    return qcow2_free_entry_later(q, old);
}

static int write_cluster(struct qcow2 *q, uint64_t offset, uint64_t size, const struct iovec *iov,
                         int iov_count, uint64_t skip, uint8_t *buffer)
{
    uint32_t cluster_size = q->layout.cluster_size;
    uint8_t *packed = buffer + cluster_size;
    qcow2_iov_gather(iov, iov_count, skip, buffer, size);
    memset(buffer + size, 0, cluster_size - (size_t)size);
    size_t packed_size = pack_in_pool(q, buffer, packed, cluster_size - QCOW2_SECTOR);
    if (packed_size == 0) {
        struct iovec plain = {buffer, (size_t)size};
        return qcow2_write(q, offset, size, &plain, 1);
    }
    memset(packed + packed_size, 0, (size_t)align_up(packed_size, QCOW2_SECTOR) - packed_size);
    struct qcow2_range range;
    qcow2_lock_range(q, &range, offset, size);
    int rc = store_packed(q, offset >> q->layout.cluster_bits, packed, (uint32_t)packed_size);
    qcow2_unlock_range(q, &range);
    return rc;
}

int qcow2_write_compressed(struct qcow2 *q, uint64_t offset, uint64_t size, const struct iovec *iov,
                           int iov_count)
{
    uint32_t cluster_size = q->layout.cluster_size;
    bool ends_disk = offset + size == q->block.info.size_bytes;
    if (!q->block.info.can_compress) {
        return -EOPNOTSUPP;
    }
    if (offset % cluster_size != 0 || (size % cluster_size != 0 && !ends_disk)) {
        return -EINVAL;
    }
    int rc = qcow2_prepare_write(q);
    if (rc < 0) {
        return rc;
    }
    uint8_t *buffer = malloc((size_t)cluster_size * 2);
    if (buffer == NULL) {
        return -ENOMEM;
    }
    for (uint64_t done = 0; done < size && rc == 0; done += cluster_size) {
        rc = write_cluster(q, offset + done, MIN(size - done, (uint64_t)cluster_size), iov,
                           iov_count, done, buffer);
    }
    free(buffer);
    return rc;
}
