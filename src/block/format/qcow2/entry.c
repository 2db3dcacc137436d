#include "block/format/qcow2/entry.h"

#include "base/core/endian.h"
#include "block/format/qcow2/header.h"

void qcow2_layout_init(struct qcow2_layout *layout, const struct qcow2_header *header)
{
    bool is_extended = (header->incompatible_features & QCOW2_INCOMPATIBLE_EXTENDED_L2) != 0;
    uint32_t cluster_bits = header->cluster_bits;
    *layout = (struct qcow2_layout){
        .cluster_bits = cluster_bits,
        .cluster_size = 1u << cluster_bits,
        .version = header->version,
        .is_extended = is_extended,
        .has_data_file = (header->incompatible_features & QCOW2_INCOMPATIBLE_DATA_FILE) != 0,
        .entry_size = is_extended ? 16 : 8,
        .l2_bits = cluster_bits - (is_extended ? 4 : 3),
        .subcluster_bits = is_extended ? cluster_bits - 5 : cluster_bits,
        .refcount_bits = 1u << header->refcount_order,
        .refblock_bits = cluster_bits + 3 - header->refcount_order,
        .compressed_shift = 62 - (cluster_bits - 8),
    };
}

static const char *compressed_fault(const struct qcow2_layout *layout, struct qcow2_entry entry)
{
    uint64_t offset;
    uint32_t size;
    qcow2_entry_compressed(layout, entry, &offset, &size);
    if (layout->has_data_file) {
        return "compressed cluster in an image with a data file";
    }
    if ((entry.descriptor & QCOW2_COPIED) != 0) {
        return "compressed cluster that claims to be writable in place";
    }
    if (offset >= QCOW2_MAX_OFFSET || offset < layout->cluster_size) {
        return "compressed cluster where none can be";
    }
    return NULL;
}

static const char *bitmap_fault(const struct qcow2_layout *layout, struct qcow2_entry entry)
{
    uint32_t allocated = (uint32_t)entry.bitmap;
    uint32_t zero = (uint32_t)(entry.bitmap >> 32);
    if ((allocated & zero) != 0) {
        return "subclusters that are both allocated and zero";
    }
    if (allocated != 0 && !qcow2_entry_has_cluster(layout, entry)) {
        return "allocated subclusters without a cluster";
    }
    return NULL;
}

const char *qcow2_entry_fault(const struct qcow2_layout *layout, struct qcow2_entry entry,
                              uint64_t guest_cluster)
{
    if ((entry.descriptor & QCOW2_COMPRESSED) != 0) {
        return compressed_fault(layout, entry);
    }
    uint64_t offset = qcow2_entry_offset(entry);
    uint64_t reserved = BITS(61, 56) | BITS(8, 1);
    if (layout->version < 3 || layout->is_extended) {
        reserved |= QCOW2_ZERO;
    }
    if ((entry.descriptor & reserved) != 0) {
        return "L2 entry with reserved bits";
    }
    if ((offset & (layout->cluster_size - 1)) != 0) {
        return "cluster that is not aligned";
    }
    if (layout->has_data_file) {
        if (qcow2_entry_has_cluster(layout, entry) && offset != guest_cluster
                                                                    << layout->cluster_bits) {
            return "cluster at another place than its own in the data file";
        }
    } else if (offset == 0 && (entry.descriptor & QCOW2_COPIED) != 0) {
        return "cluster at the place of the header";
    }
    return layout->is_extended ? bitmap_fault(layout, entry) : NULL;
}

enum qcow2_kind qcow2_entry_kind(const struct qcow2_layout *layout, struct qcow2_entry entry,
                                 uint32_t subcluster)
{
    if ((entry.descriptor & QCOW2_COMPRESSED) != 0) {
        return QCOW2_KIND_COMPRESSED;
    }
    bool has_cluster = qcow2_entry_has_cluster(layout, entry);
    bool is_zero, is_allocated;
    if (layout->is_extended) {
        is_allocated = (entry.bitmap >> subcluster & 1) != 0;
        is_zero = (entry.bitmap >> (subcluster + 32) & 1) != 0;
    } else {
        is_allocated = has_cluster;
        is_zero = (entry.descriptor & QCOW2_ZERO) != 0;
    }
    if (is_zero) {
        return has_cluster ? QCOW2_KIND_ZERO_ALLOCATED : QCOW2_KIND_ZERO;
    }
    if (is_allocated) {
        return QCOW2_KIND_DATA;
    }
    return has_cluster ? QCOW2_KIND_ABSENT_ALLOCATED : QCOW2_KIND_ABSENT;
}

void qcow2_entry_compressed(const struct qcow2_layout *layout, struct qcow2_entry entry,
                            uint64_t *out_offset, uint32_t *out_size)
{
    uint32_t shift = layout->compressed_shift;
    uint64_t offset = entry.descriptor & (BIT(shift) - 1);
    uint64_t sectors = (entry.descriptor & (QCOW2_COMPRESSED - 1)) >> shift;
    *out_offset = offset;
    *out_size = (uint32_t)((sectors + 1) * QCOW2_SECTOR - offset % QCOW2_SECTOR);
}

struct qcow2_entry qcow2_entry_make_compressed(const struct qcow2_layout *layout, uint64_t offset,
                                               uint32_t size)
{
    uint64_t first = offset / QCOW2_SECTOR;
    uint64_t last = (offset + size - 1) / QCOW2_SECTOR;
    return (struct qcow2_entry){.descriptor = QCOW2_COMPRESSED | offset |
                                              (last - first) << layout->compressed_shift};
}

uint64_t qcow2_refblock_get(const uint8_t *data, uint32_t refcount_bits, uint64_t index)
{
    switch (refcount_bits) {
    case 8:
        return data[index];
    case 16:
        return be16_get(data + index * 2);
    case 32:
        return be32_get(data + index * 4);
    case 64:
        return be64_get(data + index * 8);
    default: {
        uint64_t bit = index * refcount_bits;
        return data[bit / 8] >> (bit % 8) & ((1u << refcount_bits) - 1);
    }
    }
}

void qcow2_refblock_put(uint8_t *data, uint32_t refcount_bits, uint64_t index, uint64_t count)
{
    switch (refcount_bits) {
    case 8:
        data[index] = (uint8_t)count;
        break;
    case 16:
        be16_put(data + index * 2, (uint16_t)count);
        break;
    case 32:
        be32_put(data + index * 4, (uint32_t)count);
        break;
    case 64:
        be64_put(data + index * 8, count);
        break;
    default: {
        uint64_t bit = index * refcount_bits;
        unsigned shift = (unsigned)(bit % 8);
        unsigned mask = ((1u << refcount_bits) - 1) << shift;
        data[bit / 8] = (uint8_t)((data[bit / 8] & ~mask) | (unsigned)count << shift);
        break;
    }
    }
}
