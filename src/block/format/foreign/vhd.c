/* VHD, of Virtual PC and older Hyper-V: fixed, dynamic, differencing. All big-endian.
 *
 * The last 512 bytes of the file are the footer; a dynamic image has a copy of it in front. A fixed image is the disk and then
 * the footer. A dynamic one has a second header, a table of 32-bit sector numbers and blocks: each a bitmap of its sectors (1: in
 * this image) rounded up to a sector, then the data.
 *
 *     footer: 0 "conectix" | 12 version | 16 offset of the second header | 28 creator | 48 size | 56 geometry: cylinders (16
 *             bits), heads, sectors | 60 type | 64 checksum | 68 UUID
 *     second header: 0 "cxsparse" | 16 table offset | 24 version | 28 table entries | 32 block size | 36 checksum | 40 the parent's
 *             UUID | 64 the parent's name in UTF-16 (512 bytes) */
#include <stdio.h>
#include <string.h>

#include "base/core/bits.h"
#include "base/core/checked.h"
#include "base/core/endian.h"
#include "block/format/foreign/format.h"

#define FOOTER_SIZE   512u
#define HEADER_SIZE   1024u
#define VERSION_MAJOR 1u
#define MIN_BLOCK     4096u
#define MAX_BLOCK     (256u << 20)
#define ENTRY_UNUSED  0xffffffffu
#define BITMAP_STEP   512u /* bytes of a bitmap that one map looks at */
#define MAX_CYLINDERS 65535u
#define MAX_HEADS     16u
#define MAX_SECTORS   255u
#define PARENT_NAME   64u
#define PARENT_UNITS  256u

enum vhd_type {
    VHD_FIXED = 2,
    VHD_DYNAMIC = 3,
    VHD_DIFFERENCING = 4
};

struct vhd {
    struct foreign_image image;
    enum vhd_type type;
    uint64_t table_offset;
    uint32_t table_entries;
    uint32_t block_size;
    uint32_t bitmap_size; /* bytes before a block's data */
};

static struct vhd *vhd_from_image(struct foreign_image *image)
{
    return container_of(image, struct vhd, image);
}

static bool has_cookie(const uint8_t *bytes)
{
    return memcmp(bytes, "conectix", 8) == 0;
}

static bool vhd_probe(const uint8_t *head, size_t head_size, const uint8_t *tail, size_t tail_size)
{
    return (head_size >= FOOTER_SIZE && has_cookie(head)) ||
           (tail_size >= FOOTER_SIZE && has_cookie(tail + tail_size - FOOTER_SIZE));
}

/* The complement of the sum of all bytes but the checksum's own four at 'at'. */
static bool checksum_fits(const uint8_t *bytes, size_t size, size_t at)
{
    uint32_t sum = 0;
    for (size_t i = 0; i < size; i++) {
        sum += i < at || i >= at + 4 ? bytes[i] : 0;
    }
    return ~sum == be32_get(bytes + at);
}

/* Virtual PC, and QEMU in its default, mean the geometry; everybody else, and whoever has a disk too large for a geometry,
 * means the size. */
static uint64_t disk_size(const uint8_t *footer)
{
    static const char *const by_geometry[] = {"vpc ", "vs  ", "qemu"};
    uint64_t cylinders = be16_get(footer + 56);
    uint64_t heads = footer[58];
    uint64_t sectors = footer[59];
    for (size_t i = 0; i < ARRAY_COUNT(by_geometry); i++) {
        if (memcmp(footer + 28, by_geometry[i], 4) == 0 &&
            (cylinders < MAX_CYLINDERS || heads < MAX_HEADS || sectors < MAX_SECTORS)) {
            return cylinders * heads * sectors * SECTOR_SIZE;
        }
    }
    return be64_get(footer + 48);
}

static int check_footer(const uint8_t *footer, struct error *err)
{
    if (!has_cookie(footer)) {
        return error_set(err, EINVAL, "the footer has no cookie of a VHD");
    }
    if (!checksum_fits(footer, FOOTER_SIZE, 64)) {
        return error_set(err, EINVAL, "the footer's checksum is wrong");
    }
    if (be32_get(footer + 12) >> 16 != VERSION_MAJOR) {
        return error_set(err, EOPNOTSUPP, "version %u.%u is not supported: 1.0 is",
                         be16_get(footer + 12), be16_get(footer + 14));
    }
    return 0;
}

/* The footer at the end; of a dynamic image whose end is lost the copy in front. */
static int read_footer(const struct foreign_file *file, uint8_t *footer, struct error *err)
{
    uint64_t at = file->size_bytes < FOOTER_SIZE ? 0 : file->size_bytes - FOOTER_SIZE;
    int rc = foreign_read(file, at, footer, FOOTER_SIZE, "the footer", err);
    if (rc < 0) {
        return rc;
    }
    rc = check_footer(footer, err);
    if (rc == -EINVAL) {
        uint8_t copy[FOOTER_SIZE];
        if (foreign_read(file, 0, copy, FOOTER_SIZE, "the footer's copy", NULL) == 0 &&
            check_footer(copy, NULL) == 0 && be32_get(copy + 60) != VHD_FIXED) {
            memcpy(footer, copy, FOOTER_SIZE);
            rc = 0;
        }
    }
    return rc;
}

static int open_fixed(struct vhd *vhd, struct error *err)
{
    struct foreign_image *image = &vhd->image;
    if (image->info.size_bytes > image->file.size_bytes - FOOTER_SIZE) {
        return error_set(err, EINVAL, "a fixed disk of %llu bytes does not fit in a file of %llu",
                         (unsigned long long)image->info.size_bytes,
                         (unsigned long long)image->file.size_bytes);
    }
    return 0;
}

static int check_header(const struct vhd *vhd, const uint8_t *header, struct error *err)
{
    if (memcmp(header, "cxsparse", 8) != 0) {
        return error_set(err, EINVAL, "the dynamic header has no cookie");
    }
    if (!checksum_fits(header, HEADER_SIZE, 36)) {
        return error_set(err, EINVAL, "the dynamic header's checksum is wrong");
    }
    if (be32_get(header + 24) >> 16 != VERSION_MAJOR) {
        return error_set(err, EOPNOTSUPP, "version %u.%u of the dynamic header is not supported",
                         be16_get(header + 24), be16_get(header + 26));
    }
    if (!is_power_of_two(vhd->block_size) || vhd->block_size < MIN_BLOCK ||
        vhd->block_size > MAX_BLOCK) {
        return error_set(err, EINVAL,
                         "the block size is %u: a power of two from 4 KiB to 256 MiB is accepted",
                         vhd->block_size);
    }
    if ((uint64_t)vhd->table_entries * vhd->block_size < vhd->image.info.size_bytes) {
        return error_set(err, EINVAL, "%u table entries are too few for a disk of %llu bytes",
                         vhd->table_entries, (unsigned long long)vhd->image.info.size_bytes);
    }
    if (!range_fits(vhd->table_offset, 4ull * vhd->table_entries, vhd->image.file.size_bytes)) {
        return error_set(err, EINVAL, "the block table at %llu lies beyond the end of the file",
                         (unsigned long long)vhd->table_offset);
    }
    return 0;
}

static int open_dynamic(struct vhd *vhd, const uint8_t *footer, struct error *err)
{
    uint8_t header[HEADER_SIZE];
    int rc = foreign_read(&vhd->image.file, be64_get(footer + 16), header, sizeof(header),
                          "the dynamic header", err);
    if (rc < 0) {
        return rc;
    }
    vhd->table_offset = be64_get(header + 16);
    vhd->table_entries = be32_get(header + 28);
    vhd->block_size = be32_get(header + 32);
    rc = check_header(vhd, header, err);
    if (rc < 0) {
        return rc;
    }
    vhd->bitmap_size = (uint32_t)align_up(vhd->block_size / SECTOR_SIZE / 8, SECTOR_SIZE);
    struct foreign_info *info = &vhd->image.info;
    info->cluster_size_bytes = vhd->block_size;
    if (vhd->type == VHD_DIFFERENCING) {
        info->needs_parent = true;
        foreign_guid_text(header + 40, false, info->parent_id);
        foreign_utf16(header + PARENT_NAME, PARENT_UNITS, true, info->parent_name,
                      sizeof(info->parent_name));
    }
    return 0;
}

static int vhd_open(struct foreign_image *image, const struct foreign_names *names,
                    struct error *err)
{
    static const char *const variants[] = {
        [VHD_FIXED] = "fixed", [VHD_DYNAMIC] = "dynamic", [VHD_DIFFERENCING] = "differencing"};
    struct vhd *vhd = vhd_from_image(image);
    uint8_t footer[FOOTER_SIZE];
    int rc = read_footer(&image->file, footer, err);
    if (rc < 0) {
        return rc;
    }
    uint32_t type = be32_get(footer + 60);
    if (type < VHD_FIXED || type > VHD_DIFFERENCING) {
        return error_set(err, EOPNOTSUPP,
                         "image type %u is not supported: fixed, dynamic and differencing are",
                         type);
    }
    vhd->type = (enum vhd_type)type;
    struct foreign_info *info = &image->info;
    info->size_bytes = disk_size(footer);
    foreign_guid_text(footer + 68, false, info->id);
    (void)snprintf(info->variant, sizeof(info->variant), "%s", variants[type]);
    rc = foreign_check_size(info->size_bytes, err);
    if (rc < 0) {
        return rc;
    }
    return type == VHD_FIXED ? open_fixed(vhd, err) : open_dynamic(vhd, footer, err);
}

static bool bit_is_set(const uint8_t *bitmap, uint32_t bit)
{
    return (bitmap[bit / 8] & (0x80u >> (bit % 8))) != 0;
}

/* How many sectors from 'sector' of the block on have the same bit. */
static int map_bitmap(struct vhd *vhd, uint64_t block_offset, uint32_t sector, bool *out_is_here,
                      uint32_t *out_count, struct error *err)
{
    uint8_t bitmap[BITMAP_STEP];
    uint32_t first = sector / 8;
    uint32_t size = MIN(BITMAP_STEP, vhd->bitmap_size - first);
    int rc = foreign_read_table(&vhd->image, &vhd->image.file, block_offset + first, bitmap, size,
                                "a block's bitmap", err);
    if (rc < 0) {
        return rc;
    }
    uint32_t bit = sector % 8;
    uint32_t end = MIN(size * 8, vhd->block_size / SECTOR_SIZE - first * 8);
    *out_is_here = bit_is_set(bitmap, bit);
    uint32_t last = bit + 1;
    while (last < end && bit_is_set(bitmap, last) == *out_is_here) {
        last++;
    }
    *out_count = last - bit;
    return 0;
}

static int map_block(struct vhd *vhd, uint64_t offset, uint64_t max_size,
                     struct foreign_extent *out_extent, struct error *err)
{
    uint64_t index = offset / vhd->block_size;
    uint32_t skip = (uint32_t)(offset % vhd->block_size);
    uint8_t bytes[4];
    int rc = foreign_read_table(&vhd->image, &vhd->image.file, vhd->table_offset + 4 * index, bytes,
                                sizeof(bytes), "the block table", err);
    if (rc < 0) {
        return rc;
    }
    uint32_t entry = be32_get(bytes);
    out_extent->status = FOREIGN_HOLE;
    out_extent->size_bytes = vhd->block_size - skip;
    if (entry == ENTRY_UNUSED) {
        return 0;
    }
    uint64_t start = (uint64_t)entry * SECTOR_SIZE;
    bool is_here;
    uint32_t count;
    rc = map_bitmap(vhd, start, skip / SECTOR_SIZE, &is_here, &count, err);
    if (rc < 0) {
        return rc;
    }
    out_extent->size_bytes = (uint64_t)count * SECTOR_SIZE;
    if (!is_here) {
        return 0;
    }
    uint64_t data = start + vhd->bitmap_size + skip;
    uint64_t wanted = MIN(out_extent->size_bytes, vhd->image.info.size_bytes - offset);
    if (!range_fits(data, MIN(wanted, max_size), vhd->image.file.size_bytes)) {
        return error_set(err, EINVAL, "block %llu at %llu lies beyond the end of the file",
                         (unsigned long long)index, (unsigned long long)start);
    }
    out_extent->status = FOREIGN_DATA;
    out_extent->file_offset = data;
    return 0;
}

static int vhd_map(struct foreign_image *image, uint64_t offset, uint64_t max_size,
                   struct foreign_extent *out_extent, struct error *err)
{
    struct vhd *vhd = vhd_from_image(image);
    if (vhd->type != VHD_FIXED) {
        return map_block(vhd, offset, max_size, out_extent, err);
    }
    out_extent->status = FOREIGN_DATA;
    out_extent->file_offset = offset;
    out_extent->size_bytes = image->info.size_bytes - offset;
    return 0;
}

const struct foreign_format foreign_vhd = {
    .name = "vhd",
    .alias = "vpc",
    .image_size = sizeof(struct vhd),
    .probe = vhd_probe,
    .open = vhd_open,
    .map = vhd_map,
};
