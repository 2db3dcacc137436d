/* The layout of a saved state, version 1. All values are little-endian.
 *
 *   0           header, one page: struct save_header's fields in order, CRC-32C of them behind
 *   4096        metadata: description of the machine, then the sections of its state
 *   memory      the guest's memory, slot after slot, page for page; pages of zeros are holes in the file. It begins at a page;
 *               saves have it begin at a huge one, so that a file in memory can become a machine's memory as it is
 *   extents     which parts of the memory are not zero: pairs of 64-bit offset (from 'memory') and size, in order
 *   end         16 bytes: magic, CRC-32C of the metadata, CRC-32C of the extents
 *
 * The header is written last, so a file that was cut short is none. Whatever stands in a file is untrusted: the
 * functions here bound every length, and allocate at most what the file's size warrants. */
#ifndef MIGRATE_SAVE_FORMAT_H
#define MIGRATE_SAVE_FORMAT_H

#include "base/core/archive.h"
#include "base/core/error.h"

#define SAVE_MAGIC        "HULLSAVE"
#define SAVE_END_MAGIC    "HULL-END"
#define SAVE_MAGIC_SIZE   8
#define SAVE_VERSION      1
#define SAVE_PAGE         4096u
#define SAVE_HEADER_SIZE  64u
#define SAVE_END_SIZE     16u
#define SAVE_EXTENT_SIZE  16u
#define SAVE_MAX_METADATA (64u << 20)
#define SAVE_MAX_SECTIONS 1024u
#define SAVE_MAX_SECTION  (16u << 20)
#define SAVE_MAX_SLOTS    8u
#define SAVE_MAX_MEMORY   (2ull << 40)
#define SAVE_NAME_SIZE    48

struct save_header {
    uint64_t metadata_size;
    uint64_t memory_offset; /* of the file; page aligned */
    uint64_t memory_size;
    uint64_t extents_offset;
    uint64_t extent_count;
};

struct save_slot {
    uint64_t gpa, size_bytes;
};

struct save_section {
    char name[SAVE_NAME_SIZE];
    uint32_t version;
    const uint8_t *payload; /* within the metadata's bytes */
    uint32_t size;
    bool is_used; /* for the reader's book-keeping */
};

struct save_metadata {
    char board[SAVE_NAME_SIZE];
    char cpu_model[SAVE_NAME_SIZE];
    uint32_t vcpu_count;
    uint64_t memory_bytes;
    struct save_slot slot[SAVE_MAX_SLOTS];
    uint32_t slot_count;
    struct save_section *section; /* owned */
    uint32_t section_count;
};

/* CRC-32C (Castagnoli, reflected), over as many pieces as one likes: the first 'crc' is 0. */
uint32_t save_checksum(uint32_t crc, const void *data, size_t size);

void save_header_put(const struct save_header *header, uint8_t *out_bytes);
/* 'bytes' has SAVE_HEADER_SIZE. Checks that all parts lie in order within a file of 'file_size' bytes. */
int must_check save_header_parse(const uint8_t *bytes, uint64_t file_size,
                                 struct save_header *out_header, struct error *err);

void save_end_put(uint32_t metadata_crc, uint32_t extents_crc, uint8_t *out_bytes);
int must_check save_end_parse(const uint8_t *bytes, uint32_t metadata_crc, uint32_t extents_crc,
                              struct error *err);

/* The description; sections follow with save_section_put, as many as 'section_count' says. */
void save_description_put(const struct save_metadata *metadata, struct archive_writer *writer);
void save_section_put(const char *name, uint32_t version, const void *payload, uint32_t size,
                      struct archive_writer *writer);
/* The result borrows from 'bytes'; save_metadata_fini frees what it owns. */
int must_check save_metadata_parse(const uint8_t *bytes, size_t size,
                                   struct save_metadata *out_metadata, struct error *err);
void save_metadata_fini(struct save_metadata *metadata);

/* One extent of the table: within 'memory_size', page aligned, behind '*end' of the one before, which it moves. */
int must_check save_extent_parse(const uint8_t *bytes, uint64_t memory_size, uint64_t *end,
                                 uint64_t *out_offset, uint64_t *out_size, struct error *err);

#endif
