/* What the entries of L1 and L2 tables and refcount blocks say. No I/O. */
#ifndef BLOCK_FORMAT_QCOW2_ENTRY_H
#define BLOCK_FORMAT_QCOW2_ENTRY_H

#include <stdbool.h>
#include <stdint.h>

#include "base/core/bits.h"
#include "base/core/compiler.h"

#define QCOW2_COPIED      BIT(63) /* used once: may be written in place */
#define QCOW2_COMPRESSED  BIT(62)
#define QCOW2_ZERO        BIT(0)
#define QCOW2_OFFSET_MASK BITS(55, 9)
#define QCOW2_SECTOR      512u
#define QCOW2_SUBCLUSTERS 32u

struct qcow2_header;

/* Sizes that follow from the header. */
struct qcow2_layout {
    uint32_t cluster_bits, cluster_size;
    uint32_t version;
    bool is_extended;    /* L2 entries with subclusters */
    bool has_data_file;  /* guest clusters lie in another file, at their own offsets */
    uint32_t entry_size; /* of L2 tables: 8 or 16 */
    uint32_t l2_bits;    /* log2 of the entries of an L2 table */
    uint32_t
        subcluster_bits; /* log2 of the unit of allocation status: the cluster, without subclusters */
    uint32_t refcount_bits;
    uint32_t refblock_bits;    /* log2 of the counts in a refcount block */
    uint32_t compressed_shift; /* bit where the number of sectors begins */
};

struct qcow2_entry {
    uint64_t descriptor;
    uint64_t bitmap; /* extended entries only: low half allocated, high half zero */
};

enum qcow2_kind {
    QCOW2_KIND_ABSENT,
    QCOW2_KIND_ABSENT_ALLOCATED, /* a subcluster without data in a cluster that has space */
    QCOW2_KIND_ZERO,
    QCOW2_KIND_ZERO_ALLOCATED, /* reads as zeros and has space */
    QCOW2_KIND_DATA,
    QCOW2_KIND_COMPRESSED,
    QCOW2_KIND_INVALID,
};

void qcow2_layout_init(struct qcow2_layout *layout, const struct qcow2_header *header);

/* NULL: the entry is sound. Else what is wrong with it, in words. */
const char *qcow2_entry_fault(const struct qcow2_layout *layout, struct qcow2_entry entry,
                              uint64_t guest_cluster);
/* What the subcluster (0 without subclusters) of a sound entry is. */
enum qcow2_kind qcow2_entry_kind(const struct qcow2_layout *layout, struct qcow2_entry entry,
                                 uint32_t subcluster);
/* The cluster of an entry that is not compressed; 0: none (with a data file: look at the kind). */
static inline uint64_t qcow2_entry_offset(struct qcow2_entry entry)
{
    return entry.descriptor & QCOW2_OFFSET_MASK;
}
static inline bool qcow2_entry_has_cluster(const struct qcow2_layout *layout,
                                           struct qcow2_entry entry)
{
    return qcow2_entry_offset(entry) != 0 ||
           (layout->has_data_file && (entry.descriptor & QCOW2_COPIED) != 0);
}
/* Where compressed data lies: from *out_offset to the end of its last sector. */
void qcow2_entry_compressed(const struct qcow2_layout *layout, struct qcow2_entry entry,
                            uint64_t *out_offset, uint32_t *out_size);
struct qcow2_entry qcow2_entry_make_compressed(const struct qcow2_layout *layout, uint64_t offset,
                                               uint32_t size);

/* Count 'index' of the (part of a) refcount block at 'data'; counts of less than a byte start at the low bits. */
uint64_t qcow2_refblock_get(const uint8_t *data, uint32_t refcount_bits, uint64_t index);
void qcow2_refblock_put(uint8_t *data, uint32_t refcount_bits, uint64_t index, uint64_t count);
static inline uint64_t qcow2_refcount_max(uint32_t refcount_bits)
{
    return refcount_bits == 64 ? UINT64_MAX : BIT(refcount_bits) - 1;
}

#endif
