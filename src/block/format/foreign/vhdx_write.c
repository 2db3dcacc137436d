/* Writes dynamic VHDXs: blocks are appended as they are needed; headers, metadata and the block table follow when the image is
 * finished, so there is nothing to log. vhdx.h draws the layout. */
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "base/core/bits.h"
#include "base/core/crc32c.h"
#include "base/core/endian.h"
#include "base/host/iov.h"
#include "block/format/foreign/vhdx.h"
#include "block/format/foreign/write.h"
#include "block/provider.h"

#define LOG_AT          (1 * VHDX_MIB)
#define LOG_SIZE        ((uint32_t)VHDX_MIB)
#define METADATA_AT     (2 * VHDX_MIB)
#define METADATA_SIZE   VHDX_MIB
#define BAT_AT          (3 * VHDX_MIB)
#define MAX_DISK_SIZE   (1ull << 46) /* the format's own limit */
#define MAX_BLOCK       (256u << 20)
#define MAX_BLOCKS      (1u << 20) /* above that the block size grows: 8 bytes each stay in memory */
#define PHYSICAL_SECTOR 4096u
#define ITEM_REQUIRED   4u
#define ITEM_DISK       2u           /* of the disk, not of the file */
#define START_SIZE      (320u << 10) /* identifier, headers, region tables */

struct vhdx_writer {
    struct block block;
    uint32_t block_size;
    uint64_t *place; /* of each block in the file; 0: it has none */
    uint64_t block_count;
    uint64_t end; /* of the file */
    int status;
};

static struct vhdx_writer *writer_from_block(const struct block *block)
{
    return container_of(block, struct vhdx_writer, block);
}

/* The part of a request that lies in one block. */
static int write_part(struct vhdx_writer *writer, const struct block_request *request,
                      uint64_t skip, uint64_t *out_size)
{
    uint64_t offset = request->offset_bytes + skip;
    uint64_t in_block = offset % writer->block_size;
    uint64_t size = MIN(request->size_bytes - skip, writer->block_size - in_block);
    uint64_t *place = &writer->place[offset / writer->block_size];
    *out_size = size;
    if (request->op != BLOCK_WRITE) {
        return *place == 0 ? 0
                           : block_write_zeroes(writer->block.file, *place + in_block, size, true);
    }
    if (*place == 0) {
        *place = writer->end;
        writer->end += writer->block_size;
    }
    struct iovec *iov = malloc((size_t)request->iov_count * sizeof(*iov));
    if (iov == NULL) {
        return -ENOMEM;
    }
    struct block_request part = {.op = BLOCK_WRITE,
                                 .offset_bytes = *place + in_block,
                                 .size_bytes = size,
                                 .iov = iov,
                                 .iov_count =
                                     iov_cut(iov, request->iov, request->iov_count, skip, size)};
    int rc = block_perform(writer->block.file, &part);
    free(iov);
    return rc;
}

static int perform(struct block *block, struct block_request *request)
{
    struct vhdx_writer *writer = writer_from_block(block);
    int rc = 0;
    for (uint64_t skip = 0; skip < request->size_bytes && rc == 0;) {
        uint64_t size;
        rc = write_part(writer, request, skip, &size);
        skip += size;
    }
    if (writer->status == 0) {
        writer->status = rc;
    }
    return rc;
}

static void writer_submit(struct block *block, struct block_request *request)
{
    struct vhdx_writer *writer = writer_from_block(block);
    if (request->op == BLOCK_FLUSH) { /* nothing is an image before it is finished */
        block_complete(block, request, writer->status);
        return;
    }
    if (request->op != BLOCK_WRITE && request->op != BLOCK_WRITE_ZEROES) {
        block_complete(block, request, -EOPNOTSUPP);
        return;
    }
    block_serve(block, request, perform);
}

static void put_sum(uint8_t *bytes, size_t size)
{
    le32_put(bytes + 4, 0);
    le32_put(bytes + 4, crc32c(0, bytes, size));
}

static int put_guid(uint8_t *to)
{
    if (getrandom(to, VHDX_GUID_SIZE, 0) != VHDX_GUID_SIZE) {
        return -EIO;
    }
    to[7] = (to[7] & 0x0f) | 0x40; /* version 4: random */
    to[8] = (to[8] & 0x3f) | 0x80;
    return 0;
}

static int put_headers(uint8_t *start)
{
    uint8_t *first = start + VHDX_HEADER_OFFSET;
    memcpy(first, "head", 4);
    le16_put(first + 66, 1); /* version */
    le32_put(first + 68, LOG_SIZE);
    le64_put(first + 72, LOG_AT);
    int rc = put_guid(first + 16);
    if (rc < 0 || (rc = put_guid(first + 32)) < 0) {
        return rc;
    }
    uint8_t *second = start + 2 * (size_t)VHDX_HEADER_OFFSET;
    memcpy(second, first, VHDX_HEADER_SIZE);
    le64_put(second + 8, 1);
    put_sum(first, VHDX_HEADER_SIZE);
    put_sum(second, VHDX_HEADER_SIZE);
    return 0;
}

static void put_region(uint8_t *entry, const uint8_t *guid, uint64_t offset, uint64_t size)
{
    memcpy(entry, guid, VHDX_GUID_SIZE);
    le64_put(entry + 16, offset);
    le32_put(entry + 24, (uint32_t)size);
    le32_put(entry + 28, 1); /* required */
}

/* Bytes of the block table: an entry for a bitmap stands behind each 'ratio' blocks. */
static uint64_t bat_size_for(uint64_t block_count, uint32_t block_size)
{
    uint64_t ratio = (1ull << 32) / block_size;
    return align_up(8 * (block_count + (block_count - 1) / ratio), VHDX_MIB);
}

static uint64_t bat_size(const struct vhdx_writer *writer)
{
    return bat_size_for(writer->block_count, writer->block_size);
}

static int write_start(struct vhdx_writer *writer)
{
    static const char creator[] = "Hull";
    uint8_t *start = calloc(1, START_SIZE);
    if (start == NULL) {
        return -ENOMEM;
    }
    memcpy(start, "vhdxfile", 8);
    for (size_t i = 0; i < sizeof(creator); i++) {
        le16_put(start + 8 + 2 * i, (uint16_t)creator[i]);
    }
    for (unsigned i = 0; i < 2; i++) {
        uint8_t *table = start + VHDX_REGION_OFFSET + i * (size_t)VHDX_REGION_SIZE;
        memcpy(table, "regi", 4);
        le32_put(table + 8, 2);
        put_region(table + 16, vhdx_guid_bat, BAT_AT, bat_size(writer));
        put_region(table + 48, vhdx_guid_metadata, METADATA_AT, METADATA_SIZE);
        put_sum(table, VHDX_REGION_SIZE);
    }
    int rc = put_headers(start);
    if (rc == 0) {
        rc = block_write(writer->block.file, 0, start, START_SIZE);
    }
    free(start);
    return rc;
}

static int write_metadata(struct vhdx_writer *writer)
{
    static const struct {
        const uint8_t *guid;
        uint32_t size, flags;
    } items[] = {{vhdx_guid_file_parameters, 8, ITEM_REQUIRED},
                 {vhdx_guid_disk_size, 8, ITEM_REQUIRED | ITEM_DISK},
                 {vhdx_guid_logical_sector, 4, ITEM_REQUIRED | ITEM_DISK},
                 {vhdx_guid_physical_sector, 4, ITEM_REQUIRED | ITEM_DISK},
                 {vhdx_guid_page83, VHDX_GUID_SIZE, ITEM_REQUIRED | ITEM_DISK}};
    uint8_t *region = calloc(1, METADATA_SIZE);
    if (region == NULL) {
        return -ENOMEM;
    }
    memcpy(region, "metadata", 8);
    le16_put(region + 10, ARRAY_COUNT(items));
    uint32_t at = VHDX_METADATA_TABLE;
    uint8_t *data = region + at;
    for (size_t i = 0; i < ARRAY_COUNT(items); i++) {
        uint8_t *entry = region + 32 + 32 * i;
        memcpy(entry, items[i].guid, VHDX_GUID_SIZE);
        le32_put(entry + 16, at);
        le32_put(entry + 20, items[i].size);
        le32_put(entry + 24, items[i].flags);
        at += items[i].size;
    }
    le32_put(data, writer->block_size);
    le64_put(data + 8, writer->block.info.size_bytes);
    le32_put(data + 16, SECTOR_SIZE);
    le32_put(data + 20, PHYSICAL_SECTOR);
    int rc = put_guid(data + 24);
    if (rc == 0) {
        rc = block_write(writer->block.file, METADATA_AT, region, METADATA_SIZE);
    }
    free(region);
    return rc;
}

static int write_bat(struct vhdx_writer *writer)
{
    uint64_t size = bat_size(writer);
    uint64_t ratio = (1ull << 32) / writer->block_size;
    uint8_t *table = calloc(1, size);
    if (table == NULL) {
        return -ENOMEM;
    }
    for (uint64_t i = 0; i < writer->block_count; i++) {
        uint64_t entry = writer->place[i] == 0 ? VHDX_NOT_PRESENT : writer->place[i] | VHDX_PRESENT;
        le64_put(table + 8 * (i + i / ratio), entry);
    }
    int rc = block_write(writer->block.file, BAT_AT, table, (size_t)size);
    free(table);
    return rc;
}

/* The last block is whole in the file. */
static int set_length(struct vhdx_writer *writer)
{
    struct block *file = writer->block.file;
    return file->info.size_bytes < writer->end ? block_resize(file, writer->end) : 0;
}

static int writer_finish(struct block *block, struct error *err)
{
    struct vhdx_writer *writer = writer_from_block(block);
    int rc = writer->status;
    if (rc == 0) {
        rc = set_length(writer);
    }
    if (rc == 0) {
        rc = write_bat(writer);
    }
    if (rc == 0) {
        rc = write_metadata(writer);
    }
    if (rc == 0) {
        rc = write_start(writer);
    }
    return rc < 0 ? error_set_errno(err, -rc, "finishing %s", block_name(block)) : 0;
}

static void writer_close(struct block *block)
{
    struct vhdx_writer *writer = writer_from_block(block);
    free(writer->place);
    block_fini(block);
    free(writer);
}

static const struct block_ops vhdx_writer_ops = {
    .name = "vhdx",
    .submit = writer_submit,
    .finish = writer_finish,
    .close = writer_close,
};

uint32_t vhdx_write_block_size(uint64_t size_bytes)
{
    uint64_t block_size = VHDX_MIB;
    while (block_size < MAX_BLOCK && size_bytes / block_size >= MAX_BLOCKS) {
        block_size *= 2;
    }
    return (uint32_t)block_size;
}

uint64_t vhdx_write_overhead(uint64_t size_bytes, uint64_t used_bytes)
{
    uint32_t block_size = vhdx_write_block_size(size_bytes);
    uint64_t count = (size_bytes + block_size - 1) / block_size;
    return BAT_AT + bat_size_for(MAX(count, 1), block_size) + align_up(used_bytes, block_size) -
           used_bytes;
}

static int writer_init(struct vhdx_writer *writer, const struct vhdx_write_options *options,
                       struct error *err)
{
    uint64_t size = options->size_bytes;
    if (size == 0 || size % SECTOR_SIZE != 0 || size > MAX_DISK_SIZE) {
        return error_set(err, EINVAL,
                         "a VHDX for %llu bytes cannot be: a multiple of 512 up to 64T",
                         (unsigned long long)size);
    }
    uint64_t block_size =
        options->block_size != 0 ? options->block_size : vhdx_write_block_size(size);
    if (!is_power_of_two(block_size) || block_size < VHDX_MIB || block_size > MAX_BLOCK) {
        return error_set(
            err, EINVAL,
            "a VHDX with blocks of %llu bytes cannot be: a power of two from 1M to 256M",
            (unsigned long long)block_size);
    }
    writer->block_size = (uint32_t)block_size;
    writer->block_count = (size + block_size - 1) / block_size;
    writer->end = BAT_AT + bat_size(writer);
    writer->place = calloc(writer->block_count, sizeof(*writer->place));
    if (writer->place == NULL) {
        return error_set_errno(err, ENOMEM, "making a VHDX");
    }
    writer->block.info = (struct block_info){
        .size_bytes = size,
        .logical_block_size = SECTOR_SIZE,
        .physical_block_size = PHYSICAL_SECTOR,
        .can_write_zeroes = true,
    };
    return 0;
}

int vhdx_write_create(struct block *file, const struct vhdx_write_options *options,
                      struct block **out_block, struct error *err)
{
    struct vhdx_writer *writer =
        block_new(sizeof(*writer), &vhdx_writer_ops, file->name, file->loop, err);
    int rc = writer == NULL ? -ENOMEM : writer_init(writer, options, err);
    if (rc < 0) {
        if (writer != NULL) {
            writer_close(&writer->block);
        }
        block_close(file);
        return rc;
    }
    writer->block.file = file;
    *out_block = &writer->block;
    return 0;
}
