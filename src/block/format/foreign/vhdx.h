/* What the files of the VHDX reader share, and the layout of the format, which the writer uses too. All little-endian.
 *
 *     0       "vhdxfile", creator in UTF-16
 *     64 KiB  header, and another one at 128 KiB: the valid one with the higher sequence number counts
 *     192 KiB region table, and a copy of it at 256 KiB
 *     from 1 MiB on, each at a multiple of 1 MiB: log, block table (BAT), metadata, blocks */
#ifndef BLOCK_FORMAT_FOREIGN_VHDX_H
#define BLOCK_FORMAT_FOREIGN_VHDX_H

#include "block/format/foreign/format.h"

#define VHDX_MIB            (1ull << 20)
#define VHDX_HEADER_SIZE    4096u
#define VHDX_HEADER_OFFSET  (64u << 10)  /* and twice that */
#define VHDX_REGION_OFFSET  (192u << 10) /* and 64 KiB on */
#define VHDX_REGION_SIZE    (64u << 10)
#define VHDX_METADATA_TABLE (64u << 10) /* bytes of the table before the items */
#define VHDX_GUID_SIZE      16u

/* Block states in the low bits of a table entry; the place of the block is in bits 20 to 63. */
enum vhdx_state {
    VHDX_NOT_PRESENT = 0,
    VHDX_UNDEFINED = 1,
    VHDX_ZERO = 2,
    VHDX_UNMAPPED = 3,
    VHDX_PRESENT = 6,
    VHDX_PARTIALLY_PRESENT = 7,
};

/* GUIDs as they stand in a file. */
extern const uint8_t vhdx_guid_bat[VHDX_GUID_SIZE];
extern const uint8_t vhdx_guid_metadata[VHDX_GUID_SIZE];
extern const uint8_t vhdx_guid_file_parameters[VHDX_GUID_SIZE];
extern const uint8_t vhdx_guid_disk_size[VHDX_GUID_SIZE];
extern const uint8_t vhdx_guid_logical_sector[VHDX_GUID_SIZE];
extern const uint8_t vhdx_guid_physical_sector[VHDX_GUID_SIZE];
extern const uint8_t vhdx_guid_page83[VHDX_GUID_SIZE];
extern const uint8_t vhdx_guid_parent_locator[VHDX_GUID_SIZE];
extern const uint8_t vhdx_guid_parent_type[VHDX_GUID_SIZE];

/* The log of an image that was not closed: what replaying it would write. */
struct vhdx_log;

struct vhdx_header {
    uint8_t data_guid[VHDX_GUID_SIZE];
    uint8_t log_guid[VHDX_GUID_SIZE]; /* zero: there is nothing to replay */
    uint64_t sequence;
    uint64_t log_offset;
    uint32_t log_size;
};

struct vhdx_region {
    uint64_t offset;
    uint64_t size_bytes;
};

struct vhdx_metadata {
    uint64_t size_bytes;
    uint32_t block_size;
    uint32_t logical_sector;
    bool has_parent;
    bool is_fixed;
};

/* Reads the log and keeps what the entries of its last sequence change. Bounded in memory and time. */
int must_check vhdx_log_open(const struct foreign_file *file, const struct vhdx_header *header,
                             struct vhdx_log **out_log, struct error *err);
void vhdx_log_close(struct vhdx_log *log);
/* The file's size after a replay. */
uint64_t vhdx_log_file_size(const struct vhdx_log *log);
/* Reads from the file as it would be after a replay. Threads: any. */
int must_check vhdx_log_read(const struct vhdx_log *log, uint64_t offset, void *out_data,
                             size_t size, struct error *err);
/* Does the log change anything in the range? Else reading the file itself is right, if the range lies in it. Lowers *size so
 * that the answer holds for all of it. */
bool vhdx_log_touches(const struct vhdx_log *log, uint64_t offset, uint64_t *size);

/* Parses the metadata region into *out_metadata and the parent's name and id of 'info'. */
int must_check vhdx_metadata_read(const struct foreign_file *file, const struct vhdx_region *region,
                                  struct vhdx_metadata *out_metadata, struct foreign_info *info,
                                  struct error *err);

#endif
