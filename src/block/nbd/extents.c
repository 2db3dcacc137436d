/* What a disk has where: answers to questions for metadata, and reads that leave zeros out. */
#include <stdlib.h>
#include <string.h>

#include "base/core/bits.h"
#include "base/core/endian.h"
#include "block/nbd/client.h"

#define MAX_QUESTIONS   16384u /* to the disk, for one answer */
#define MAX_PARTS       16u    /* of a read */
#define PART_HEAD       32u    /* room for the head of one */
#define DATA_HEAD_SIZE  (NBD_CHUNK_SIZE + 8)
#define HOLE_CHUNK_SIZE (NBD_CHUNK_SIZE + 12)

static bool has_data(const struct block_extent *extent)
{
    return extent->kind == BLOCK_EXTENT_DATA || extent->kind == BLOCK_EXTENT_COMPRESSED;
}

/* The flags of a context at 'offset', and for how many bytes at least (of 'size') they hold. */
static int status_at(const struct nbd_request *request, unsigned number, uint64_t offset,
                     uint64_t size, uint32_t *out_flags, uint64_t *out_size)
{
    const struct nbd_shared_export *export = request->client->export;
    struct block *block = export->config.block;
    struct block_info info;
    block_get_info(block, &info);
    uint64_t start = align_down(offset, info.logical_block_size);
    uint64_t end = MIN(align_up(offset + size, info.logical_block_size), info.size_bytes);
    uint64_t length = 0;
    if (start >= end) {
        return -EINVAL; /* the disk became smaller */
    }
    if (number >= NBD_CONTEXT_FIRST) {
        const struct nbd_context *context = &export->context[number - NBD_CONTEXT_FIRST];
        int rc = context->status(context->ctx, start, end - start, out_flags, &length);
        if (rc < 0) {
            return rc;
        }
    } else {
        struct block_extent extent;
        unsigned depth;
        int rc = block_map_chain(block, start, end - start, &extent, &depth);
        if (rc < 0) {
            return rc;
        }
        length = extent.size_bytes;
        bool is_here = extent.kind != BLOCK_EXTENT_HOLE && extent.kind != BLOCK_EXTENT_ABSENT;
        *out_flags = number == NBD_CONTEXT_DEPTH ? (is_here ? depth + 1 : 0)
                     : has_data(&extent)         ? 0
                                                 : NBD_STATE_HOLE | NBD_STATE_ZERO;
    }
    if (length <= offset - start || length > end - start) {
        return -EIO;
    }
    *out_size = MIN(length - (offset - start), size);
    return 0;
}

/* Descriptors of one context at 'at'; returns how many, or -errno. They may end before the request does: nobody else has a turn
 * while an image answers from its cache. */
static int put_extents(const struct nbd_request *request, unsigned number, unsigned max,
                       uint8_t *at)
{
    unsigned count = 0;
    uint64_t offset = request->offset, end = request->offset + request->size_bytes;
    uint32_t last_flags = 0;
    for (unsigned questions = 0; offset < end && questions < MAX_QUESTIONS; questions++) {
        uint32_t flags;
        uint64_t size;
        int rc = status_at(request, number, offset, end - offset, &flags, &size);
        if (rc < 0) {
            return rc;
        }
        uint8_t *last = at + (size_t)(count - 1) * 8;
        if (count > 0 && flags == last_flags) {
            be32_put(last, be32_get(last) + (uint32_t)size);
        } else if (count == max) {
            break;
        } else {
            be32_put(at + (size_t)count * 8, (uint32_t)size);
            be32_put(at + (size_t)count * 8 + 4, flags);
            last_flags = flags;
            count++;
        }
        offset += size;
    }
    return (int)count;
}

int nbd_block_status(struct nbd_request *request)
{
    const struct nbd_client *client = request->client;
    uint32_t contexts = client->contexts;
    unsigned max = (request->flags & NBD_CMD_FLAG_REQ_ONE) != 0
                       ? 1
                       : MAX(MIN(request->size_bytes / 512, NBD_MAX_EXTENTS), 1);
    unsigned left = (unsigned)__builtin_popcount(contexts);
    size_t room = left * (NBD_CHUNK_SIZE + 4 + (size_t)max * 8);
    uint8_t *data = malloc(room);
    size_t used = 0;
    int rc = data == NULL ? -ENOMEM : 0;
    for (unsigned number = 0; left > 0 && rc >= 0; number++) {
        if ((contexts & 1u << number) == 0) {
            continue;
        }
        left--;
        uint8_t *head = data + used;
        rc = put_extents(request, number, max, head + NBD_CHUNK_SIZE + 4);
        if (rc > 0) {
            size_t size = 4 + (size_t)rc * 8;
            nbd_put_chunk(head, request, left == 0 ? NBD_REPLY_FLAG_DONE : 0,
                          NBD_REPLY_TYPE_BLOCK_STATUS, (uint32_t)size);
            be32_put(head + NBD_CHUNK_SIZE, number);
            used += NBD_CHUNK_SIZE + size;
        }
    }
    if (rc < 0) {
        free(data);
        return rc;
    }
    uint8_t *fitting = realloc(data, used); /* most of the room is not needed, most times */
    request->data = fitting != NULL ? fitting : data;
    nbd_message_set(&request->message, 0, request->data, used);
    return 0;
}

struct part {
    uint64_t offset;
    uint32_t size_bytes;
    bool is_hole;
};

/* Cuts the range into data and holes; 0 parts: it is not worth it. */
static unsigned find_parts(const struct nbd_request *request, struct part *out_parts)
{
    struct block *block = request->client->export->config.block;
    uint64_t offset = request->offset, end = request->offset + request->size_bytes;
    unsigned count = 0;
    bool has_holes = false;
    while (offset < end) {
        struct block_extent extent;
        unsigned depth;
        if (block_map_chain(block, offset, end - offset, &extent, &depth) < 0) {
            return 0;
        }
        bool is_hole = !has_data(&extent);
        if (count > 0 && out_parts[count - 1].is_hole == is_hole) {
            out_parts[count - 1].size_bytes += (uint32_t)extent.size_bytes;
        } else if (count == MAX_PARTS) {
            /* The rest is read, whatever it is. */
            out_parts[count - 1].size_bytes += (uint32_t)(end - offset);
            out_parts[count - 1].is_hole = false;
            break;
        } else {
            out_parts[count++] = (struct part){offset, (uint32_t)extent.size_bytes, is_hole};
        }
        has_holes |= is_hole;
        offset += extent.size_bytes;
    }
    return has_holes ? count : 0;
}

int nbd_read_sparse(struct nbd_request *request)
{
    struct part part[MAX_PARTS];
    unsigned count = find_parts(request, part);
    if (count == 0) {
        return -EAGAIN;
    }
    struct block *block = request->client->export->config.block;
    uint8_t *memory = request->iov.iov_base;
    for (unsigned i = 0; i < count; i++) {
        uint8_t *to = memory + (part[i].offset - request->offset);
        int rc = part[i].is_hole ? 0 : block_read(block, part[i].offset, to, part[i].size_bytes);
        if (rc < 0) {
            return rc;
        }
    }
    request->parts = calloc((size_t)count * 2, sizeof(*request->parts));
    request->part_heads = calloc(count, PART_HEAD);
    if (request->parts == NULL || request->part_heads == NULL) {
        return -ENOMEM;
    }
    int parts = 0;
    for (unsigned i = 0; i < count; i++) {
        uint8_t *head = request->part_heads + (size_t)i * PART_HEAD;
        unsigned flags = i + 1 == count ? NBD_REPLY_FLAG_DONE : 0;
        nbd_put_chunk(head, request, flags,
                      part[i].is_hole ? NBD_REPLY_TYPE_OFFSET_HOLE : NBD_REPLY_TYPE_OFFSET_DATA,
                      part[i].is_hole ? 12 : 8 + part[i].size_bytes);
        be64_put(head + NBD_CHUNK_SIZE, part[i].offset);
        be32_put(head + NBD_CHUNK_SIZE + 8, part[i].size_bytes);
        request->parts[parts++] =
            (struct iovec){head, part[i].is_hole ? HOLE_CHUNK_SIZE : DATA_HEAD_SIZE};
        if (!part[i].is_hole) {
            request->parts[parts++] =
                (struct iovec){memory + (part[i].offset - request->offset), part[i].size_bytes};
        }
    }
    request->message.iov = request->parts;
    request->message.iov_count = parts;
    return 0;
}
