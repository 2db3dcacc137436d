/* A sparse extent of a VMDK. All little-endian; places are in sectors.
 *
 *     0 "KDMV" | 4 version | 8 flags | 12 capacity | 20 grain size | 28 descriptor | 36 its size | 44 entries of a grain table
 *     48 second grain directory | 56 grain directory | 64 overhead | 72 unclean | 73 "\n \r\n" | 77 compression (16 bits)
 *
 * The grain directory has the 32-bit place of each grain table, a table that of each grain. In a stream-optimized extent the
 * grains are deflated, each behind a marker of 12 bytes (first sector in 64 bits, size in 32), and the header that counts is
 * the one before the end of the file: written last, it knows where the directory is. */
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#include "base/core/bits.h"
#include "base/core/checked.h"
#include "base/core/endian.h"
#include "base/host/file.h"
#include "block/format/foreign/vmdk.h"

#define MAGIC               "KDMV"
#define FLAG_ZERO_GRAINS    BIT(2)
#define FLAG_COMPRESSED     BIT(16)
#define FLAG_MARKERS        BIT(17)
#define DIRECTORY_AT_END    UINT64_MAX
#define MAX_VERSION         3u
#define COMPRESSION_DEFLATE 1u
#define MIN_GRAIN           8u          /* sectors */
#define MAX_GRAIN           (4096u * 2) /* 4 MiB: what a compressed one takes of memory, twice */
#define MAX_SECTORS         (FOREIGN_MAX_SIZE / SECTOR_SIZE)
#define MARKER_SIZE         12u
#define MARKER_FOOTER       3u
#define GRAIN_ZERO          1u
#define TAIL_SECTORS        3u /* marker of the footer, footer, marker of the end */

bool vmdk_is_sparse(const uint8_t *head, size_t size)
{
    return size >= VMDK_HEADER_SIZE && memcmp(head, MAGIC, 4) == 0;
}

/* The header that a streaming writer put before the end. */
static int read_footer(const struct foreign_file *file, uint8_t *header, struct error *err)
{
    uint8_t tail[TAIL_SECTORS * SECTOR_SIZE];
    if (file->size_bytes < VMDK_HEADER_SIZE + sizeof(tail)) {
        return error_set(err, EINVAL, "the file is too short to have a footer");
    }
    int rc =
        foreign_read(file, file->size_bytes - sizeof(tail), tail, sizeof(tail), "the footer", err);
    if (rc < 0) {
        return rc;
    }
    const uint8_t *footer = tail + SECTOR_SIZE;
    const uint8_t *end = tail + (size_t)2 * SECTOR_SIZE;
    if (le32_get(tail + 8) != 0 || le32_get(tail + 12) != MARKER_FOOTER ||
        memcmp(footer, MAGIC, 4) != 0 || le64_get(end) != 0 || le32_get(end + 12) != 0) {
        return error_set(err, EINVAL, "there is no footer before the end: the file is not whole");
    }
    if (le64_get(footer + 56) == DIRECTORY_AT_END) {
        return error_set(err, EINVAL, "the footer does not say where the grain directory is");
    }
    memcpy(header, footer, VMDK_HEADER_SIZE);
    return 0;
}

static int check_numbers(const struct vmdk_sparse *sparse, uint32_t table_entries,
                         const struct foreign_file *file, struct error *err)
{
    if (sparse->capacity_sectors == 0 || sparse->capacity_sectors > MAX_SECTORS) {
        return error_set(err, EINVAL, "the capacity is %llu sectors: 1 to 1 PiB is accepted",
                         (unsigned long long)sparse->capacity_sectors);
    }
    if (!is_power_of_two(sparse->grain_sectors) || sparse->grain_sectors < MIN_GRAIN ||
        sparse->grain_sectors > MAX_GRAIN) {
        return error_set(
            err, EINVAL,
            "the grain size is %llu sectors: a power of two from 8 to 8192 is accepted",
            (unsigned long long)sparse->grain_sectors);
    }
    if (table_entries != VMDK_TABLE_ENTRIES) {
        return error_set(err, EINVAL, "a grain table has %u entries: 512 are accepted",
                         table_entries);
    }
    uint64_t file_sectors = file->size_bytes / SECTOR_SIZE;
    if (sparse->directory_sector == 0 || sparse->directory_sector >= file_sectors ||
        !range_fits(sparse->directory_sector * SECTOR_SIZE, 4 * sparse->directory_entries,
                    file->size_bytes)) {
        return error_set(err, EINVAL, "the grain directory at sector %llu lies beyond the end",
                         (unsigned long long)sparse->directory_sector);
    }
    if (sparse->descriptor_sectors != 0 &&
        !range_fits(sparse->descriptor_sector, sparse->descriptor_sectors, file_sectors)) {
        return error_set(err, EINVAL, "the descriptor at sector %llu lies beyond the end",
                         (unsigned long long)sparse->descriptor_sector);
    }
    return 0;
}

static int check_kind(const uint8_t *header, struct vmdk_sparse *sparse, struct error *err)
{
    uint32_t version = le32_get(header + 4);
    uint32_t flags = le32_get(header + 8);
    uint16_t compression = le16_get(header + 77);
    if (version == 0 || version > MAX_VERSION) {
        return error_set(err, EOPNOTSUPP, "version %u is not supported: 1 to %u are", version,
                         MAX_VERSION);
    }
    sparse->has_zero_grains = (flags & FLAG_ZERO_GRAINS) != 0;
    sparse->is_compressed = (flags & FLAG_COMPRESSED) != 0;
    if (!sparse->is_compressed) {
        return 0;
    }
    if (compression != COMPRESSION_DEFLATE) {
        return error_set(err, EOPNOTSUPP, "compression %u is not supported: 1 (deflate) is",
                         compression);
    }
    if ((flags & FLAG_MARKERS) == 0) {
        return error_set(err, EOPNOTSUPP, "compressed grains without markers are not supported");
    }
    return 0;
}

int vmdk_sparse_open(const struct foreign_file *file, struct vmdk_sparse *out_sparse,
                     struct error *err)
{
    uint8_t header[VMDK_HEADER_SIZE];
    int rc = foreign_read(file, 0, header, sizeof(header), "the sparse header", err);
    if (rc < 0) {
        return rc;
    }
    if (!vmdk_is_sparse(header, sizeof(header))) {
        return error_set(err, EINVAL, "it has no header of a sparse extent");
    }
    struct vmdk_sparse sparse = {.descriptor_sector = le64_get(header + 28),
                                 .descriptor_sectors = le64_get(header + 36)};
    if (le64_get(header + 56) == DIRECTORY_AT_END) {
        rc = read_footer(file, header, err);
        if (rc < 0) {
            return rc;
        }
    }
    rc = check_kind(header, &sparse, err);
    if (rc < 0) {
        return rc;
    }
    sparse.capacity_sectors = le64_get(header + 12);
    sparse.grain_sectors = le64_get(header + 20);
    sparse.directory_sector = le64_get(header + 56);
    uint64_t per_table = MAX(sparse.grain_sectors, 1) * VMDK_TABLE_ENTRIES;
    if (sparse.grain_sectors <= MAX_GRAIN) {
        sparse.directory_entries =
            sparse.capacity_sectors / per_table + (sparse.capacity_sectors % per_table != 0);
    }
    rc = check_numbers(&sparse, le32_get(header + 44), file, err);
    if (rc == 0) {
        *out_sparse = sparse;
    }
    return rc;
}

/* The entry of the grain table for a grain; 0 if there is no table. *out_count grains have the same one because of that. */
static int read_entry(struct foreign_image *image, const struct foreign_file *file,
                      const struct vmdk_sparse *sparse, uint64_t grain, uint32_t *out_entry,
                      uint64_t *out_count, struct error *err)
{
    *out_count = 1;
    uint8_t bytes[4];
    int rc = foreign_read_table(
        image, file, sparse->directory_sector * SECTOR_SIZE + 4 * (grain / VMDK_TABLE_ENTRIES),
        bytes, sizeof(bytes), "the grain directory", err);
    if (rc < 0) {
        return rc;
    }
    uint32_t table = le32_get(bytes);
    if (table == 0) {
        *out_entry = 0;
        *out_count = VMDK_TABLE_ENTRIES - grain % VMDK_TABLE_ENTRIES;
        return 0;
    }
    rc = foreign_read_table(image, file,
                            (uint64_t)table * SECTOR_SIZE + 4 * (grain % VMDK_TABLE_ENTRIES), bytes,
                            sizeof(bytes), "a grain table", err);
    if (rc == 0) {
        *out_entry = le32_get(bytes);
    }
    return rc;
}

int vmdk_sparse_map(struct foreign_image *image, const struct foreign_file *file,
                    const struct vmdk_sparse *sparse, uint64_t sector,
                    struct foreign_extent *out_extent, struct error *err)
{
    uint64_t grain = sector / sparse->grain_sectors;
    uint64_t skip = (sector % sparse->grain_sectors) * SECTOR_SIZE;
    uint32_t entry = 0;
    uint64_t count;
    int rc = read_entry(image, file, sparse, grain, &entry, &count, err);
    if (rc < 0) {
        return rc;
    }
    out_extent->size_bytes = count * sparse->grain_sectors * SECTOR_SIZE - skip;
    out_extent->status = FOREIGN_HOLE;
    if (entry == 0) {
        return 0;
    }
    if (entry == GRAIN_ZERO && sparse->has_zero_grains) {
        out_extent->status = FOREIGN_ZERO;
        return 0;
    }
    uint64_t start = (uint64_t)entry * SECTOR_SIZE;
    uint64_t rest = (sparse->capacity_sectors - sector) * SECTOR_SIZE;
    uint64_t needed =
        sparse->is_compressed ? MARKER_SIZE : MIN(skip + out_extent->size_bytes, skip + rest);
    if (!range_fits(start, needed, file->size_bytes)) {
        return error_set(err, EINVAL, "grain %llu at %llu lies beyond the end of the file",
                         (unsigned long long)grain, (unsigned long long)start);
    }
    out_extent->status = sparse->is_compressed ? FOREIGN_ENCODED : FOREIGN_DATA;
    out_extent->file_offset = sparse->is_compressed ? start : start + skip;
    out_extent->skip_bytes = sparse->is_compressed ? skip : 0;
    out_extent->unit = grain * sparse->grain_sectors;
    return 0;
}

struct inflating {
    const uint8_t *from;
    size_t from_size;
    uint8_t *to;
    size_t size;
    int rc;
};

/* Inflates until 'size' bytes are there, and no more. */
static void inflate_exactly(void *arg)
{
    struct inflating *job = arg;
    z_stream stream = {.next_in = (Bytef *)job->from,
                       .avail_in = (uInt)job->from_size,
                       .next_out = job->to,
                       .avail_out = (uInt)job->size};
    if (inflateInit(&stream) != Z_OK) {
        job->rc = -ENOMEM;
        return;
    }
    int rc = inflate(&stream, Z_FINISH);
    (void)inflateEnd(&stream);
    bool is_right =
        stream.avail_out == 0 && (rc == Z_STREAM_END || rc == Z_BUF_ERROR || rc == Z_OK);
    job->rc = is_right ? 0 : -EINVAL;
}

int vmdk_sparse_inflate(const struct foreign_image *image, const struct foreign_file *file,
                        const struct vmdk_sparse *sparse, const struct foreign_extent *extent,
                        void *out_data, struct error *err)
{
    uint8_t marker[MARKER_SIZE];
    int rc =
        foreign_read(file, extent->file_offset, marker, sizeof(marker), "a grain's marker", err);
    if (rc < 0) {
        return rc;
    }
    size_t grain_size = (size_t)sparse->grain_sectors * SECTOR_SIZE;
    uint32_t size = le32_get(marker + 8);
    if (le64_get(marker) != extent->unit) {
        return error_set(err, EINVAL, "the grain at %llu is that of sector %llu, not %llu",
                         (unsigned long long)extent->file_offset,
                         (unsigned long long)le64_get(marker), (unsigned long long)extent->unit);
    }
    if (size == 0 || size > 2 * grain_size) {
        return error_set(err, EINVAL, "the grain at %llu has %u compressed bytes",
                         (unsigned long long)extent->file_offset, size);
    }
    size_t wanted = (size_t)(extent->skip_bytes + extent->size_bytes);
    AUTO_FREE uint8_t *from = malloc(size);
    AUTO_FREE uint8_t *to = malloc(wanted);
    if (from == NULL || to == NULL) {
        return error_set_errno(err, ENOMEM, "inflating a grain");
    }
    rc = foreign_read(file, extent->file_offset + MARKER_SIZE, from, size, "a grain", err);
    if (rc < 0) {
        return rc;
    }
    struct inflating job = {.from = from, .from_size = size, .to = to, .size = wanted};
    image->run(image->run_ctx, inflate_exactly, &job);
    if (job.rc < 0) {
        return error_set(err, -job.rc, "the grain at %llu cannot be inflated to %zu bytes",
                         (unsigned long long)extent->file_offset, wanted);
    }
    memcpy(out_data, to + extent->skip_bytes, (size_t)extent->size_bytes);
    return 0;
}
