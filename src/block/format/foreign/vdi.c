/* VDI, VirtualBox's own format: a header, a map of 32-bit block numbers, blocks. All little-endian.
 *
 *     0 text | 64 signature | 68 version | 72 header size | 76 type | 80 flags | 84 comment | 340 offset of the map
 *     344 offset of the blocks | 348 geometry | 360 sector size | 368 disk size (64 bits) | 376 block size
 *     380 extra bytes before each block | 384 blocks of the disk | 388 blocks in the file | 392 UUIDs: image,
 *     last snapshot, parent, the parent's last snapshot */
#include <stdio.h>
#include <string.h>

#include "base/core/bits.h"
#include "base/core/checked.h"
#include "base/core/endian.h"
#include "block/format/foreign/format.h"

#define HEADER_SIZE      456u
#define SIGNATURE        0xbeda107fu
#define VERSION          0x00010001u
#define MIN_BLOCK        4096u
#define MAX_BLOCK        (256u << 20)
#define BLOCK_FREE       0xffffffffu /* never written */
#define BLOCK_ZERO       0xfffffffeu /* given back */
#define TYPE_DIFFERENCES 4u

struct vdi {
    struct foreign_image image;
    uint64_t map_offset;
    uint64_t data_offset;
    uint64_t block_size;
    uint64_t block_extra;
    uint32_t block_count;
    uint32_t allocated_count;
};

static struct vdi *vdi_from_image(struct foreign_image *image)
{
    return container_of(image, struct vdi, image);
}

static bool vdi_probe(const uint8_t *head, size_t head_size, const uint8_t *tail, size_t tail_size)
{
    return head_size >= HEADER_SIZE && le32_get(head + 64) == SIGNATURE;
}

static bool is_zero(const uint8_t *bytes, size_t size)
{
    for (size_t i = 0; i < size; i++) {
        if (bytes[i] != 0) {
            return false;
        }
    }
    return true;
}

static int check_layout(const struct vdi *vdi, struct error *err)
{
    const struct foreign_info *info = &vdi->image.info;
    if (!is_power_of_two(vdi->block_size) || vdi->block_size < MIN_BLOCK ||
        vdi->block_size > MAX_BLOCK) {
        return error_set(err, EINVAL,
                         "the block size is %llu: a power of two from 4 KiB to 256 MiB is accepted",
                         (unsigned long long)vdi->block_size);
    }
    if (vdi->block_extra % SECTOR_SIZE != 0 || vdi->block_extra > vdi->block_size) {
        return error_set(err, EINVAL, "the extra size of a block is %llu",
                         (unsigned long long)vdi->block_extra);
    }
    if ((uint64_t)vdi->block_count * vdi->block_size < info->size_bytes) {
        return error_set(err, EINVAL, "%u blocks are too few for a disk of %llu bytes",
                         vdi->block_count, (unsigned long long)info->size_bytes);
    }
    if (!range_fits(vdi->map_offset, 4ull * vdi->block_count, vdi->image.file.size_bytes)) {
        return error_set(err, EINVAL, "the block map at %llu lies beyond the end of the file",
                         (unsigned long long)vdi->map_offset);
    }
    if (vdi->data_offset % SECTOR_SIZE != 0) {
        return error_set(err, EINVAL, "the blocks begin at %llu, which is no multiple of 512",
                         (unsigned long long)vdi->data_offset);
    }
    return 0;
}

static int vdi_open(struct foreign_image *image, const struct foreign_names *names,
                    struct error *err)
{
    struct vdi *vdi = vdi_from_image(image);
    uint8_t header[HEADER_SIZE];
    int rc = foreign_read(&image->file, 0, header, sizeof(header), "the header", err);
    if (rc < 0) {
        return rc;
    }
    if (le32_get(header + 64) != SIGNATURE) {
        return error_set(err, EINVAL, "the header has no signature of a VDI");
    }
    if (le32_get(header + 68) != VERSION) {
        return error_set(err, EOPNOTSUPP, "version %u.%u is not supported: 1.1 is",
                         le16_get(header + 70), le16_get(header + 68));
    }
    static const char *const variants[] = {"dynamic", "fixed", NULL, "differencing"};
    uint32_t type = le32_get(header + 76);
    if (type < 1 || type > TYPE_DIFFERENCES || variants[type - 1] == NULL) {
        return error_set(err, EOPNOTSUPP,
                         "image type %u is not supported: dynamic, fixed and differencing are",
                         type);
    }
    if (le32_get(header + 360) != SECTOR_SIZE) {
        return error_set(err, EOPNOTSUPP, "sectors of %u bytes are not supported: 512 are",
                         le32_get(header + 360));
    }
    struct foreign_info *info = &image->info;
    (void)snprintf(info->variant, sizeof(info->variant), "%s", variants[type - 1]);
    info->size_bytes = le64_get(header + 368);
    rc = foreign_check_size(info->size_bytes, err);
    if (rc < 0) {
        return rc;
    }
    vdi->map_offset = le32_get(header + 340);
    vdi->data_offset = le32_get(header + 344);
    vdi->block_size = le32_get(header + 376);
    vdi->block_extra = le32_get(header + 380);
    vdi->block_count = le32_get(header + 384);
    vdi->allocated_count = le32_get(header + 388);
    info->cluster_size_bytes = vdi->block_size;
    foreign_guid_text(header + 392, true, info->id);
    info->needs_parent = type == TYPE_DIFFERENCES || !is_zero(header + 424, 16);
    if (info->needs_parent) {
        foreign_guid_text(header + 424, true, info->parent_id);
    }
    return check_layout(vdi, err);
}

static int vdi_map(struct foreign_image *image, uint64_t offset, uint64_t max_size,
                   struct foreign_extent *out_extent, struct error *err)
{
    struct vdi *vdi = vdi_from_image(image);
    uint64_t index = offset / vdi->block_size;
    uint64_t skip = offset % vdi->block_size;
    uint8_t bytes[4];
    int rc = foreign_read_table(image, &image->file, vdi->map_offset + 4 * index, bytes,
                                sizeof(bytes), "the block map", err);
    if (rc < 0) {
        return rc;
    }
    uint32_t entry = le32_get(bytes);
    out_extent->size_bytes = vdi->block_size - skip;
    if (entry == BLOCK_FREE || entry == BLOCK_ZERO) {
        out_extent->status = entry == BLOCK_FREE ? FOREIGN_HOLE : FOREIGN_ZERO;
        return 0;
    }
    if (entry >= vdi->allocated_count) {
        return error_set(err, EINVAL, "block %llu is block %u of the file, which has %u",
                         (unsigned long long)index, entry, vdi->allocated_count);
    }
    /* 32 bits times at most 2 * 256 MiB: no overflow. */
    uint64_t start =
        vdi->data_offset + entry * (vdi->block_size + vdi->block_extra) + vdi->block_extra + skip;
    uint64_t wanted = MIN(out_extent->size_bytes, image->info.size_bytes - offset);
    if (!range_fits(start, MIN(wanted, max_size), image->file.size_bytes)) {
        return error_set(err, EINVAL, "block %llu at %llu lies beyond the end of the file",
                         (unsigned long long)index, (unsigned long long)start);
    }
    out_extent->status = FOREIGN_DATA;
    out_extent->file_offset = start;
    return 0;
}

const struct foreign_format foreign_vdi = {
    .name = "vdi",
    .image_size = sizeof(struct vdi),
    .probe = vdi_probe,
    .open = vdi_open,
    .map = vdi_map,
};
