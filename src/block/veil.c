#include "block/veil.h"

#include <stdlib.h>
#include <string.h>

#include "base/host/iov.h"
#include "block/filter/forward.h"

#define HEAD_SIZE   4096u
#define SECTOR_SIZE 512u

struct veil {
    struct filter filter;
    bool is_lifted;
    uint32_t head_size; /* less than HEAD_SIZE where the file is smaller */
    uint8_t head[HEAD_SIZE];
};

/* A request that begins in the head; what goes on behind it goes to the file. */
struct crossing {
    struct block_request request;
    struct block_request *parent;
    struct veil *veil;
    struct iovec iov[];
};

static struct veil *from_block(struct block *block)
{
    return container_of(filter_from_block(block), struct veil, filter);
}

static void crossing_done(struct block_request *request, int status)
{
    struct crossing *crossing = container_of(request, struct crossing, request);
    struct block *block = &crossing->veil->filter.block;
    struct block_request *parent = crossing->parent;
    free(crossing);
    block->info.size_bytes = block->file->info.size_bytes;
    block_complete(block, parent, status);
}

static void serve_head(struct veil *veil, const struct block_request *request, size_t size)
{
    uint8_t *at = veil->head + request->offset_bytes;
    switch (request->op) {
    case BLOCK_READ:
        iov_put(request->iov, request->iov_count, 0, at, size);
        break;
    case BLOCK_WRITE:
        iov_get(request->iov, request->iov_count, 0, at, size);
        break;
    case BLOCK_WRITE_ZEROES:
        memset(at, 0, size);
        break;
    default: /* a discard: it may stay as it is */
        break;
    }
}

static void veil_submit(struct block *block, struct block_request *request)
{
    struct veil *veil = from_block(block);
    bool is_range =
        request->op != BLOCK_FLUSH && request->op != BLOCK_RESIZE && request->op != BLOCK_MAP;
    if (veil->is_lifted || !is_range || request->offset_bytes >= veil->head_size) {
        filter_forward(&veil->filter, request);
        return;
    }
    size_t inside = (size_t)MIN(request->size_bytes, veil->head_size - request->offset_bytes);
    uint64_t rest = request->size_bytes - inside;
    struct crossing *crossing = NULL;
    if (rest > 0) {
        crossing =
            malloc(sizeof(*crossing) + sizeof(struct iovec) * ((size_t)request->iov_count + 1));
        if (crossing == NULL) {
            block_complete(block, request, -ENOMEM);
            return;
        }
    }
    serve_head(veil, request, inside);
    if (rest == 0) {
        block_complete(block, request, 0);
        return;
    }
    crossing->request = *request;
    crossing->request.offset_bytes += inside;
    crossing->request.size_bytes = rest;
    crossing->request.iov = crossing->iov;
    crossing->request.iov_count =
        request->op == BLOCK_READ || request->op == BLOCK_WRITE
            ? iov_cut(crossing->iov, request->iov, request->iov_count, inside, rest)
            : 0;
    crossing->request.done = crossing_done;
    crossing->parent = request;
    crossing->veil = veil;
    block_submit(block->file, &crossing->request);
}

static void veil_close(struct block *block)
{
    struct veil *veil = from_block(block);
    filter_fini(&veil->filter);
    free(veil);
}

static const struct block_ops veil_ops = {
    .name = "veil",
    .submit = veil_submit,
    .close = veil_close,
};

int block_veil_create(struct block *file, struct block **out_block, struct error *err)
{
    uint8_t mark[HEAD_SIZE] = BLOCK_VEIL_MARK;
    struct veil *veil = filter_new(sizeof(*veil), &veil_ops, file, err);
    if (veil == NULL) {
        return -ENOMEM;
    }
    veil->head_size = (uint32_t)MIN(file->info.size_bytes, HEAD_SIZE);
    int rc = block_read(file, 0, veil->head, veil->head_size);
    if (rc == 0 && memcmp(veil->head, BLOCK_VEIL_MARK, sizeof(BLOCK_VEIL_MARK) - 1) == 0) {
        memset(veil->head, 0, sizeof(veil->head)); /* left over from a job that did not end well */
    }
    if (rc == 0) {
        rc = block_write(file, 0, mark, veil->head_size);
    }
    if (rc == 0) {
        rc = block_flush(file);
    }
    if (rc < 0) {
        (void)error_set_errno(err, -rc, "marking %s as unfinished",
                              block_name(file)); /* rc says it already */
        block_close(&veil->filter.block);
        return rc;
    }
    *out_block = &veil->filter.block;
    return 0;
}

int block_veil_lift(struct block *block)
{
    struct veil *veil = from_block(block);
    struct block *file = block->file;
    uint32_t first = MIN(veil->head_size, SECTOR_SIZE);
    int rc = block_flush(file);
    if (rc == 0 && veil->head_size > first) {
        rc = block_write(file, first, veil->head + first, veil->head_size - first);
        if (rc == 0) {
            rc = block_flush(file);
        }
    }
    /* The sector with the mark comes last: it is there whole, or not. */
    if (rc == 0) {
        rc = block_write(file, 0, veil->head, first);
    }
    if (rc == 0) {
        rc = block_flush(file);
        veil->is_lifted = true; /* whatever the file has now: it is written like any other place */
    }
    return rc;
}
