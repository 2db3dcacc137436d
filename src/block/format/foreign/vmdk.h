/* What the files of the VMDK reader share.
 *
 * A VMDK is a text, the descriptor, that lists extents: flat (raw bytes at an offset of a file), zero, or sparse. A sparse extent
 * is a file with a header, a grain directory, grain tables and grains; a monolithic one holds its descriptor too. */
#ifndef BLOCK_FORMAT_FOREIGN_VMDK_H
#define BLOCK_FORMAT_FOREIGN_VMDK_H

#include "block/format/foreign/format.h"

#define VMDK_MAX_EXTENTS    2048u
#define VMDK_MAX_DESCRIPTOR (1u << 20)
#define VMDK_HEADER_SIZE    512u
#define VMDK_TABLE_ENTRIES  512u /* of a grain table: never another number */

enum vmdk_extent_type {
    VMDK_FLAT,
    VMDK_SPARSE,
    VMDK_ZERO
};

/* One line of the descriptor. */
struct vmdk_line {
    enum vmdk_extent_type type;
    uint64_t sector_count;
    uint64_t flat_sector; /* where a flat extent begins in its file */
    char name[FOREIGN_NAME_SIZE];
};

struct vmdk_descriptor {
    char create_type[32];
    char id[FOREIGN_ID_SIZE];
    char parent_id[FOREIGN_ID_SIZE]; /* empty: no parent */
    char parent_name[FOREIGN_NAME_SIZE];
    struct vmdk_line *line; /* owned */
    uint32_t line_count;
};

/* 'text' has no NUL inside and one at its end. On success the caller frees out_descriptor->line. */
int must_check vmdk_descriptor_parse(const char *text, struct vmdk_descriptor *out_descriptor,
                                     struct error *err);

/* The header of a sparse extent, checked. Counts are in sectors unless named otherwise. */
struct vmdk_sparse {
    uint64_t capacity_sectors;
    uint64_t grain_sectors;
    uint64_t descriptor_sector;
    uint64_t descriptor_sectors;
    uint64_t directory_sector;
    uint64_t directory_entries;
    bool has_zero_grains;
    bool is_compressed;
};

bool vmdk_is_sparse(const uint8_t *head, size_t size);
int must_check vmdk_sparse_open(const struct foreign_file *file, struct vmdk_sparse *out_sparse,
                                struct error *err);
/* Where the grain of 'sector' (of this extent) is: as foreign_map, for the rest of one grain, or of a grain table that is not there. */
int must_check vmdk_sparse_map(struct foreign_image *image, const struct foreign_file *file,
                               const struct vmdk_sparse *sparse, uint64_t sector,
                               struct foreign_extent *out_extent, struct error *err);
/* Reads and inflates a compressed grain that vmdk_sparse_map gave; extent->unit is its first sector in this extent. */
int must_check vmdk_sparse_inflate(const struct foreign_image *image,
                                   const struct foreign_file *file,
                                   const struct vmdk_sparse *sparse,
                                   const struct foreign_extent *extent, void *out_data,
                                   struct error *err);

#endif
