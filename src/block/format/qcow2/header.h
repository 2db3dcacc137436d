/* The header of a qcow2 image: its fields, its extensions, and the limits of what is accepted. No I/O.
 *
 * Names of fields and bits are those of the specification. All numbers on disk are big-endian. */
#ifndef BLOCK_FORMAT_QCOW2_HEADER_H
#define BLOCK_FORMAT_QCOW2_HEADER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/core/bits.h"
#include "base/core/error.h"

#define QCOW2_MAGIC            0x514649fbu
#define QCOW2_MIN_CLUSTER_BITS 9
#define QCOW2_MAX_CLUSTER_BITS 21
#define QCOW2_V2_LENGTH        72
#define QCOW2_V3_LENGTH        104
#define QCOW2_FULL_LENGTH      112 /* with the compression type and its padding */
#define QCOW2_MAX_NAME         1023
#define QCOW2_MAX_FORMAT       64
#define QCOW2_MAX_UNKNOWN      1024 /* bytes of unknown extensions that a new header can keep */
#define QCOW2_MAX_EXTENSIONS   (1u << 20) /* bytes of header that are looked at */

/* The limits that QEMU has as well: an image that it cannot open is of little use. */
#define QCOW2_MAX_L1_BYTES       (32u << 20)
#define QCOW2_MAX_REFTABLE_BYTES (8u << 20)
#define QCOW2_MAX_SNAPSHOTS      65536u
#define QCOW2_MAX_SNAPSHOT_BYTES (64u << 20)
#define QCOW2_MAX_BITMAPS        65535u
#define QCOW2_MAX_BITMAP_BYTES   (64u << 20)
#define QCOW2_MAX_CRYPT_BYTES    (64u << 20)
#define QCOW2_MAX_OFFSET         BIT(56) /* L1 and L2 entries have no more bits */

#define QCOW2_INCOMPATIBLE_DIRTY       BIT(0)
#define QCOW2_INCOMPATIBLE_CORRUPT     BIT(1)
#define QCOW2_INCOMPATIBLE_DATA_FILE   BIT(2)
#define QCOW2_INCOMPATIBLE_COMPRESSION BIT(3)
#define QCOW2_INCOMPATIBLE_EXTENDED_L2 BIT(4)
#define QCOW2_INCOMPATIBLE_KNOWN       BITS(4, 0)
#define QCOW2_COMPATIBLE_LAZY          BIT(0)
#define QCOW2_AUTOCLEAR_BITMAPS        BIT(0)
#define QCOW2_AUTOCLEAR_RAW_EXTERNAL   BIT(1)
#define QCOW2_AUTOCLEAR_KNOWN          BITS(1, 0)

enum qcow2_compression {
    QCOW2_ZLIB = 0,
    QCOW2_ZSTD = 1,
};

struct qcow2_header {
    uint32_t version; /* 2 or 3 */
    uint32_t cluster_bits;
    uint64_t size;
    uint32_t l1_size;
    uint64_t l1_table_offset;
    uint64_t refcount_table_offset;
    uint32_t refcount_table_clusters;
    uint32_t nb_snapshots;
    uint64_t snapshots_offset;
    uint64_t incompatible_features, compatible_features, autoclear_features;
    uint32_t refcount_order;
    uint32_t header_length;
    enum qcow2_compression compression_type;

    bool has_backing, has_backing_format, has_data_name, has_bitmaps;
    bool is_encrypted;                 /* by LUKS: method 2 */
    uint64_t crypt_offset, crypt_size; /* of the LUKS header */
    char backing_name[QCOW2_MAX_NAME + 1];
    char backing_format[QCOW2_MAX_FORMAT];
    char data_name[QCOW2_MAX_NAME + 1];
    uint32_t bitmap_count;
    uint64_t bitmap_directory_size, bitmap_directory_offset;

    /* Extensions that are not known, as they stand in the file: for a header that is made anew. */
    uint8_t unknown[QCOW2_MAX_UNKNOWN];
    uint32_t unknown_size;
    bool has_more_unknown; /* they did not fit */
};

/* Reads the header from the first 'size' bytes of an image: its first cluster, or what there is of it. Refuses what cannot be
 * handled, unknown incompatible features by their names. Errors: -EINVAL, -EOPNOTSUPP. */
int must_check qcow2_header_parse(const uint8_t *data, size_t size, struct qcow2_header *out_header,
                                  struct error *err);
/* The cluster size in bits, for whoever has only 24 bytes yet. */
int must_check qcow2_header_peek(const uint8_t *data, size_t size, uint32_t *out_cluster_bits,
                                 struct error *err);
/* Puts the fields that change into the bytes of a header that exists: nothing behind its first 104 bytes. */
void qcow2_header_update(uint8_t *data, const struct qcow2_header *header);
/* A whole new header of at most 'size' bytes, with extensions; zeros behind them. -ENOSPC: the names do not fit. */
int must_check qcow2_header_make(uint8_t *out_data, size_t size, const struct qcow2_header *header,
                                 struct error *err);
/* The same with all but the name of the backing file in the first sector, and that at 'name_offset' behind it. -ENOSPC as well. */
int must_check qcow2_header_make_apart(uint8_t *out_data, size_t size,
                                       const struct qcow2_header *header, size_t name_offset);
/* A place of 'length' bytes behind the first sector that the header in 'data', the whole first cluster, has nothing in. 0: there is
 * none. */
size_t qcow2_header_find_room(const uint8_t *data, size_t size, size_t length);

#endif
