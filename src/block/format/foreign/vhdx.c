/* VHDX, of Hyper-V: fixed, dynamic, differencing; a log that was left behind counts as replayed. */
#include "block/format/foreign/vhdx.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/core/bits.h"
#include "base/core/checked.h"
#include "base/core/crc32c.h"
#include "base/core/endian.h"
#include "base/host/file.h"

#define MAX_REGIONS     2047u
#define REGION_REQUIRED 1u
#define MAX_LOG         (64u << 20)
#define CHUNK_SECTORS   (1ull << 23) /* that one bitmap block of 1 MiB speaks for */
#define BITMAP_STEP     512u         /* bytes of a bitmap that one map looks at */
#define ENTRY_STATE     7u

struct vhdx {
    struct foreign_image image;
    struct vhdx_metadata metadata;
    struct vhdx_region bat;
    uint64_t chunk_ratio; /* blocks that one bitmap block speaks for */
    struct vhdx_log *log; /* NULL: nothing was left behind */
    /* The file with the log's changes, for all metadata; the image's own file if there is no log. */
    struct foreign_file replayed;
};

static struct vhdx *vhdx_from_image(struct foreign_image *image)
{
    return container_of(image, struct vhdx, image);
}

static bool vhdx_probe(const uint8_t *head, size_t head_size, const uint8_t *tail, size_t tail_size)
{
    return head_size >= 8 && memcmp(head, "vhdxfile", 8) == 0;
}

static bool checksum_fits(uint8_t *bytes, size_t size)
{
    uint32_t stored = le32_get(bytes + 4);
    le32_put(bytes + 4, 0);
    uint32_t crc = crc32c(0, bytes, size);
    le32_put(bytes + 4, stored);
    return crc == stored;
}

static bool read_header(const struct foreign_file *file, uint64_t offset,
                        struct vhdx_header *out_header, uint8_t *out_bytes)
{
    if (foreign_read(file, offset, out_bytes, VHDX_HEADER_SIZE, "a header", NULL) < 0 ||
        memcmp(out_bytes, "head", 4) != 0 || !checksum_fits(out_bytes, VHDX_HEADER_SIZE)) {
        return false;
    }
    out_header->sequence = le64_get(out_bytes + 8);
    memcpy(out_header->data_guid, out_bytes + 32, VHDX_GUID_SIZE);
    memcpy(out_header->log_guid, out_bytes + 48, VHDX_GUID_SIZE);
    out_header->log_size = le32_get(out_bytes + 68);
    out_header->log_offset = le64_get(out_bytes + 72);
    return true;
}

static bool is_zero_guid(const uint8_t *guid)
{
    static const uint8_t zero[VHDX_GUID_SIZE];
    return memcmp(guid, zero, VHDX_GUID_SIZE) == 0;
}

static int find_header(const struct foreign_file *file, struct vhdx_header *out_header,
                       struct error *err)
{
    uint8_t bytes[2][VHDX_HEADER_SIZE];
    struct vhdx_header header[2];
    bool is_valid[2];
    for (size_t i = 0; i < 2; i++) {
        is_valid[i] = read_header(file, VHDX_HEADER_OFFSET * (i + 1), &header[i], bytes[i]);
    }
    if (!is_valid[0] && !is_valid[1]) {
        return error_set(err, EINVAL, "neither of the two headers is valid");
    }
    size_t current =
        is_valid[1] && (!is_valid[0] || header[1].sequence > header[0].sequence) ? 1 : 0;
    uint16_t version = le16_get(bytes[current] + 66);
    uint16_t log_version = le16_get(bytes[current] + 64);
    if (version != 1) {
        return error_set(err, EOPNOTSUPP, "version %u is not supported: 1 is", version);
    }
    const struct vhdx_header *h = &header[current];
    if (!is_zero_guid(h->log_guid)) {
        if (log_version != 0) {
            return error_set(err, EOPNOTSUPP, "log version %u is not supported: 0 is", log_version);
        }
        if (h->log_size == 0 || h->log_size % VHDX_MIB != 0 || h->log_size > MAX_LOG ||
            h->log_offset < VHDX_MIB || h->log_offset % VHDX_MIB != 0 ||
            !range_fits(h->log_offset, h->log_size, file->size_bytes)) {
            return error_set(err, EINVAL, "the log has %u bytes at %llu", h->log_size,
                             (unsigned long long)h->log_offset);
        }
    }
    *out_header = *h;
    return 0;
}

static int parse_region(const uint8_t *entry, uint64_t file_size, struct vhdx_region *bat,
                        struct vhdx_region *metadata, struct error *err)
{
    struct vhdx_region *to = memcmp(entry, vhdx_guid_bat, VHDX_GUID_SIZE) == 0        ? bat
                             : memcmp(entry, vhdx_guid_metadata, VHDX_GUID_SIZE) == 0 ? metadata
                                                                                      : NULL;
    struct vhdx_region region = {le64_get(entry + 16), le32_get(entry + 24)};
    if (to == NULL) {
        char text[FOREIGN_ID_SIZE];
        foreign_guid_text(entry, true, text);
        return (le32_get(entry + 28) & REGION_REQUIRED) == 0
                   ? 0
                   : error_set(err, EOPNOTSUPP, "required region %s is not known", text);
    }
    const char *name = to == bat ? "block table" : "metadata";
    if (to->size_bytes != 0) {
        return error_set(err, EINVAL, "the %s region is there twice", name);
    }
    if (region.size_bytes == 0 || region.offset < VHDX_MIB || region.offset % VHDX_MIB != 0 ||
        !range_fits(region.offset, region.size_bytes, file_size)) {
        return error_set(err, EINVAL, "the %s region has %llu bytes at %llu", name,
                         (unsigned long long)region.size_bytes, (unsigned long long)region.offset);
    }
    *to = region;
    return 0;
}

static int read_regions(const struct foreign_file *file, struct vhdx_region *bat,
                        struct vhdx_region *metadata, struct error *err)
{
    AUTO_FREE uint8_t *table = malloc(VHDX_REGION_SIZE);
    if (table == NULL) {
        return error_set_errno(err, ENOMEM, "reading the region table");
    }
    bool is_valid = false;
    for (unsigned i = 0; i < 2 && !is_valid; i++) {
        is_valid = foreign_read(file, VHDX_REGION_OFFSET + (uint64_t)i * VHDX_REGION_SIZE, table,
                                VHDX_REGION_SIZE, "the region table", NULL) == 0 &&
                   memcmp(table, "regi", 4) == 0 && le32_get(table + 8) <= MAX_REGIONS &&
                   checksum_fits(table, VHDX_REGION_SIZE);
    }
    if (!is_valid) {
        return error_set(err, EINVAL, "neither of the two region tables is valid");
    }
    for (uint32_t i = 0; i < le32_get(table + 8); i++) {
        int rc = parse_region(table + 16 + 32 * (size_t)i, file->size_bytes, bat, metadata, err);
        if (rc < 0) {
            return rc;
        }
    }
    if (bat->size_bytes == 0 || metadata->size_bytes == 0) {
        return error_set(err, EINVAL, "the region table names no %s",
                         bat->size_bytes == 0 ? "block table" : "metadata");
    }
    return 0;
}

static int read_replayed(void *ctx, uint64_t offset, void *out_data, size_t size, struct error *err)
{
    return vhdx_log_read(ctx, offset, out_data, size, err);
}

static int check_bat(struct vhdx *vhdx, struct error *err)
{
    const struct vhdx_metadata *m = &vhdx->metadata;
    vhdx->chunk_ratio = CHUNK_SECTORS * m->logical_sector / m->block_size;
    uint64_t blocks = (m->size_bytes + m->block_size - 1) / m->block_size;
    uint64_t chunks = (blocks + vhdx->chunk_ratio - 1) / vhdx->chunk_ratio;
    /* A dynamic image needs no bitmap entry after its last blocks. */
    uint64_t entries = m->has_parent ? chunks * (vhdx->chunk_ratio + 1)
                                     : blocks + (blocks - 1) / vhdx->chunk_ratio;
    if (entries > vhdx->bat.size_bytes / 8) {
        return error_set(err, EINVAL, "the block table has room for %llu entries, %llu are needed",
                         (unsigned long long)vhdx->bat.size_bytes / 8, (unsigned long long)entries);
    }
    return 0;
}

static int vhdx_open(struct foreign_image *image, const struct foreign_names *names,
                     struct error *err)
{
    struct vhdx *vhdx = vhdx_from_image(image);
    uint8_t identifier[8];
    struct vhdx_header header;
    int rc = foreign_read(&image->file, 0, identifier, sizeof(identifier), "the identifier", err);
    if (rc == 0 && memcmp(identifier, "vhdxfile", 8) != 0) {
        rc = error_set(err, EINVAL, "the file does not begin with \"vhdxfile\"");
    }
    if (rc < 0 || (rc = find_header(&image->file, &header, err)) < 0) {
        return rc;
    }
    vhdx->replayed = image->file;
    struct foreign_info *info = &image->info;
    if (!is_zero_guid(header.log_guid)) {
        rc = vhdx_log_open(&image->file, &header, &vhdx->log, err);
        if (rc < 0) {
            return rc;
        }
        vhdx->replayed = (struct foreign_file){
            .read = read_replayed, .ctx = vhdx->log, .size_bytes = vhdx_log_file_size(vhdx->log)};
        info->is_dirty = true;
    }
    struct vhdx_region metadata = {0};
    rc = read_regions(&vhdx->replayed, &vhdx->bat, &metadata, err);
    if (rc < 0 ||
        (rc = vhdx_metadata_read(&vhdx->replayed, &metadata, &vhdx->metadata, info, err)) < 0 ||
        (rc = check_bat(vhdx, err)) < 0) {
        return rc;
    }
    info->size_bytes = vhdx->metadata.size_bytes;
    info->logical_block_size = vhdx->metadata.logical_sector;
    info->cluster_size_bytes = vhdx->metadata.block_size;
    info->needs_parent = vhdx->metadata.has_parent;
    foreign_guid_text(header.data_guid, true, info->id);
    (void)snprintf(info->variant, sizeof(info->variant), "%s",
                   vhdx->metadata.has_parent ? "differencing"
                   : vhdx->metadata.is_fixed ? "fixed"
                                             : "dynamic");
    return 0;
}

static int read_entry(struct vhdx *vhdx, uint64_t index, uint64_t *out_entry, struct error *err)
{
    uint8_t bytes[8];
    int rc = foreign_read_table(&vhdx->image, &vhdx->replayed, vhdx->bat.offset + 8 * index, bytes,
                                sizeof(bytes), "the block table", err);
    if (rc == 0) {
        *out_entry = le64_get(bytes);
    }
    return rc;
}

/* How many bytes of a partially present block from 'skip' on are all in this image, or all in the parent. */
static int map_bitmap(struct vhdx *vhdx, uint64_t block, uint32_t skip, bool *out_is_here,
                      uint64_t *out_size, struct error *err)
{
    uint64_t chunk = block / vhdx->chunk_ratio;
    uint64_t entry = 0;
    int rc = read_entry(vhdx, (chunk + 1) * (vhdx->chunk_ratio + 1) - 1, &entry, err);
    if (rc < 0) {
        return rc;
    }
    if ((entry & ENTRY_STATE) != VHDX_PRESENT) {
        return error_set(err, EINVAL, "block %llu is partially present, its bitmap is not",
                         (unsigned long long)block);
    }
    uint32_t sector_size = vhdx->metadata.logical_sector;
    uint64_t sector =
        block % vhdx->chunk_ratio * (vhdx->metadata.block_size / sector_size) + skip / sector_size;
    uint64_t first = sector / 8;
    uint8_t bitmap[BITMAP_STEP];
    size_t size = (size_t)MIN(BITMAP_STEP, VHDX_MIB - first);
    rc = foreign_read_table(&vhdx->image, &vhdx->replayed, (entry & ~(VHDX_MIB - 1)) + first,
                            bitmap, size, "a bitmap", err);
    if (rc < 0) {
        return rc;
    }
    size_t bit = sector % 8;
    size_t last = bit;
    *out_is_here = (bitmap[bit / 8] >> (bit % 8) & 1) != 0;
    while (last < size * 8 && (bitmap[last / 8] >> (last % 8) & 1) == *out_is_here) {
        last++;
    }
    *out_size = (last - bit) * (uint64_t)sector_size;
    return 0;
}

static int map_present(struct vhdx *vhdx, uint64_t entry, uint64_t offset, uint64_t max_size,
                       struct foreign_extent *out_extent, struct error *err)
{
    uint64_t skip = offset % vhdx->metadata.block_size;
    uint64_t start = entry & ~(VHDX_MIB - 1);
    uint64_t size = MIN(MIN(out_extent->size_bytes, max_size), vhdx->metadata.size_bytes - offset);
    if (start < VHDX_MIB || !range_fits(start, skip + size, vhdx->replayed.size_bytes)) {
        return error_set(err, EINVAL, "block %llu at %llu lies outside of the file's blocks",
                         (unsigned long long)(offset / vhdx->metadata.block_size),
                         (unsigned long long)start);
    }
    out_extent->status = FOREIGN_DATA;
    out_extent->file_offset = start + skip;
    /* The log may write into blocks, and make the file longer than it is. */
    if (vhdx->log != NULL && vhdx_log_touches(vhdx->log, start + skip, &size)) {
        out_extent->status = FOREIGN_ENCODED;
    }
    out_extent->size_bytes = size;
    return 0;
}

static int vhdx_map(struct foreign_image *image, uint64_t offset, uint64_t max_size,
                    struct foreign_extent *out_extent, struct error *err)
{
    struct vhdx *vhdx = vhdx_from_image(image);
    uint64_t block = offset / vhdx->metadata.block_size;
    uint32_t skip = (uint32_t)(offset % vhdx->metadata.block_size);
    uint64_t entry = 0;
    int rc = read_entry(vhdx, block + block / vhdx->chunk_ratio, &entry, err);
    if (rc < 0) {
        return rc;
    }
    out_extent->size_bytes = vhdx->metadata.block_size - skip;
    bool is_here = true;
    switch (entry & ENTRY_STATE) {
    case VHDX_NOT_PRESENT:
        out_extent->status = FOREIGN_HOLE;
        return 0;
    case VHDX_UNDEFINED:
    case VHDX_ZERO:
    case VHDX_UNMAPPED:
        out_extent->status = FOREIGN_ZERO;
        return 0;
    case VHDX_PARTIALLY_PRESENT:
        if (!vhdx->metadata.has_parent) {
            return error_set(err, EINVAL, "block %llu is partial in an image without a parent",
                             (unsigned long long)block);
        }
        rc = map_bitmap(vhdx, block, skip, &is_here, &out_extent->size_bytes, err);
        if (rc < 0) {
            return rc;
        }
        out_extent->size_bytes = MIN(out_extent->size_bytes, vhdx->metadata.block_size - skip);
        out_extent->status = FOREIGN_HOLE;
        return is_here ? map_present(vhdx, entry, offset, max_size, out_extent, err) : 0;
    case VHDX_PRESENT:
        return map_present(vhdx, entry, offset, max_size, out_extent, err);
    default:
        return error_set(err, EINVAL, "block %llu has the unknown state %llu",
                         (unsigned long long)block, (unsigned long long)(entry & ENTRY_STATE));
    }
}

static int vhdx_read_encoded(const struct foreign_image *image, const struct foreign_extent *extent,
                             void *out_data, struct error *err)
{
    const struct vhdx *vhdx = (const struct vhdx *)image;
    return vhdx_log_read(vhdx->log, extent->file_offset, out_data, (size_t)extent->size_bytes, err);
}

static void vhdx_close(struct foreign_image *image)
{
    vhdx_log_close(vhdx_from_image(image)->log);
}

const struct foreign_format foreign_vhdx = {
    .name = "vhdx",
    .image_size = sizeof(struct vhdx),
    .probe = vhdx_probe,
    .open = vhdx_open,
    .map = vhdx_map,
    .read_encoded = vhdx_read_encoded,
    .close = vhdx_close,
};
