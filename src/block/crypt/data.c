/* Encrypted data, one sector at a time: its number is its distance from the start of the data in units of 512 bytes, however large
 * sectors are. */
#include <stdlib.h>
#include <string.h>

#include "base/core/bits.h"
#include "base/host/iov.h"
#include "block/crypt/cipher.h"
#include "block/filter/forward.h"

#define PIECE_SIZE  (256u << 10) /* of a request, encrypted at a time */
#define NUMBER_UNIT 512u         /* of sectors, as dm-crypt counts */

struct crypt {
    struct filter filter; /* block.file is NULL if the file belongs to somebody else */
    struct block *below;
    struct sector_keys *keys;
    uint64_t offset; /* of the data in the file */
    uint32_t sector_size;
};

static struct crypt *crypt_from_block(struct block *block)
{
    return container_of(filter_from_block(block), struct crypt, filter);
}

/* Whole sectors from byte 'offset' of the data on, in place. */
static void convert(const struct crypt *crypt, uint64_t offset, uint8_t *data, size_t size,
                    bool is_write)
{
    for (size_t at = 0; at < size; at += crypt->sector_size) {
        uint64_t number = (offset + at) / NUMBER_UNIT;
        if (is_write) {
            sector_encrypt(crypt->keys, number, data + at, crypt->sector_size);
        } else {
            sector_decrypt(crypt->keys, number, data + at, crypt->sector_size);
        }
    }
}

/* Guests' memory is not worked in: it would hold what is encrypted for a while, and could change meanwhile. */
static int transfer(struct crypt *crypt, const struct block_request *request, uint64_t done,
                    uint8_t *buffer, size_t size)
{
    uint64_t offset = request->offset_bytes + done;
    if (request->op == BLOCK_READ) {
        int rc = block_read(crypt->below, crypt->offset + offset, buffer, size);
        if (rc == 0) {
            convert(crypt, offset, buffer, size, false);
            iov_put(request->iov, request->iov_count, done, buffer, size);
        }
        return rc;
    }
    if (request->op == BLOCK_WRITE) {
        iov_get(request->iov, request->iov_count, done, buffer, size);
    } else {
        memset(buffer, 0, size);
    }
    convert(crypt, offset, buffer, size, true);
    return block_write(crypt->below, crypt->offset + offset, buffer, size);
}

static int perform(struct block *block, struct block_request *request)
{
    struct crypt *crypt = crypt_from_block(block);
    if (request->op == BLOCK_RESIZE) {
        int rc = block_resize(crypt->below, crypt->offset + request->size_bytes);
        if (rc == 0) {
            block->info.size_bytes = request->size_bytes;
        }
        return rc;
    }
    void *buffer;
    uint64_t piece = MIN(request->size_bytes, PIECE_SIZE);
    if (posix_memalign(&buffer, 4096, (size_t)piece) != 0) {
        return -ENOMEM;
    }
    int rc = 0;
    for (uint64_t done = 0; done < request->size_bytes && rc == 0; done += piece) {
        piece = MIN(request->size_bytes - done, PIECE_SIZE);
        rc = transfer(crypt, request, done, buffer, (size_t)piece);
    }
    free(buffer);
    return rc;
}

static void crypt_submit(struct block *block, struct block_request *request)
{
    struct crypt *crypt = crypt_from_block(block);
    if (request->op == BLOCK_FLUSH && block->file != NULL) {
        filter_forward(&crypt->filter, request);
        return;
    }
    if (request->op == BLOCK_FLUSH || request->op == BLOCK_DISCARD) {
        block_complete(block, request,
                       0); /* the file's owner flushes it; discards tell what is in use */
        return;
    }
    if (request->op == BLOCK_MAP) {
        /* Holes of the file hold no zeros here. */
        *request->extent =
            (struct block_extent){.kind = BLOCK_EXTENT_DATA, .size_bytes = request->size_bytes};
        block_complete(block, request, 0);
        return;
    }
    block_serve(block, request, perform);
}

static void crypt_close(struct block *block)
{
    struct crypt *crypt = crypt_from_block(block);
    sector_keys_free(crypt->keys);
    filter_fini(&crypt->filter);
    free(crypt);
}

static const struct block_ops crypt_ops = {
    .name = "luks",
    .submit = crypt_submit,
    .close = crypt_close,
};

static int check(const struct block *file, const struct block_crypt *crypt, struct error *err)
{
    if (!sector_keys_fit(crypt) || !is_power_of_two(crypt->sector_size) ||
        crypt->sector_size < 512 || crypt->sector_size > 4096 ||
        crypt->payload_offset % crypt->sector_size != 0) {
        return error_set(err, EINVAL, "disk %s: its LUKS header cannot be", block_name(file));
    }
    return 0;
}

static int make(struct block *file, const struct block_crypt *from, struct crypt **out_crypt,
                struct error *err)
{
    int rc = check(file, from, err);
    if (rc < 0) {
        return rc;
    }
    struct crypt *crypt = block_new(sizeof(*crypt), &crypt_ops, block_name(file), file->loop, err);
    if (crypt == NULL) {
        return -ENOMEM;
    }
    crypt->below = file;
    crypt->sector_size = from->sector_size;
    crypt->filter.block.info = file->info;
    crypt->keys = sector_keys_new(from);
    if (crypt->keys == NULL) {
        crypt_close(&crypt->filter.block);
        return error_set_errno(err, ENOMEM, "disk %s", block_name(file));
    }
    *out_crypt = crypt;
    return 0;
}

int block_crypt_open(struct block *file, const struct block_crypt *from, struct block **out_block,
                     struct error *err)
{
    if (file->info.size_bytes <= from->payload_offset) {
        return error_set(err, EINVAL, "disk %s: ends before the data that its LUKS header promises",
                         block_name(file));
    }
    struct crypt *crypt;
    int rc = make(file, from, &crypt, err);
    if (rc < 0) {
        return rc;
    }
    struct block_info *info = &crypt->filter.block.info;
    crypt->filter.block.file = file;
    crypt->filter.has_own_size = true;
    crypt->offset = from->payload_offset;
    info->logical_block_size = MAX(info->logical_block_size, from->sector_size);
    info->physical_block_size = MAX(info->physical_block_size, from->sector_size);
    info->size_bytes =
        align_down(info->size_bytes - from->payload_offset, info->logical_block_size);
    info->is_growable = false;
    info->can_discard = false;
    *out_block = &crypt->filter.block;
    return 0;
}

int block_crypt_open_inner(struct block *file, const struct block_crypt *from,
                           struct block **out_block, struct error *err)
{
    struct crypt *crypt;
    int rc = make(file, from, &crypt, err);
    if (rc < 0) {
        return rc;
    }
    struct block_info *info = &crypt->filter.block.info;
    info->logical_block_size = MAX(info->logical_block_size, from->sector_size);
    info->can_resize = false;
    *out_block = &crypt->filter.block;
    return 0;
}
