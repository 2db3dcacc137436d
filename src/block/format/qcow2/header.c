#include "block/format/qcow2/header.h"

#include <stdio.h>
#include <string.h>

#include "base/core/checked.h"
#include "base/core/endian.h"
#include "block/format/qcow2/entry.h"

#define EXTENSION_END            0x00000000u
#define EXTENSION_BACKING_FORMAT 0xe2792acau
#define EXTENSION_FEATURE_NAMES  0x6803f857u
#define EXTENSION_BITMAPS        0x23852875u
#define CRYPT_SIZE               16u
#define EXTENSION_ENCRYPTION     0x0537be77u
#define EXTENSION_DATA_NAME      0x44415441u
#define FEATURE_SIZE             48u
#define FEATURE_NAME_SIZE        46u
#define BITMAPS_SIZE             24u

static const struct {
    uint8_t type, bit; /* 0: incompatible, 1: compatible, 2: autoclear */
    const char *name;
} features[] = {
    {0, 0, "dirty bit"},        {0, 1, "corrupt bit"},         {0, 2, "external data file"},
    {0, 3, "compression type"}, {0, 4, "extended L2 entries"}, {1, 0, "lazy refcounts"},
    {2, 0, "bitmaps"},          {2, 1, "raw external data"},
};

int qcow2_header_peek(const uint8_t *data, size_t size, uint32_t *out_cluster_bits,
                      struct error *err)
{
    if (size < QCOW2_V2_LENGTH || be32_get(data) != QCOW2_MAGIC) {
        return error_set(err, EINVAL, "not a qcow2 image");
    }
    uint32_t bits = be32_get(data + 20);
    if (bits < QCOW2_MIN_CLUSTER_BITS || bits > QCOW2_MAX_CLUSTER_BITS) {
        return error_set(err, EINVAL, "clusters of 2^%u bytes: 2^%d to 2^%d are accepted", bits,
                         QCOW2_MIN_CLUSTER_BITS, QCOW2_MAX_CLUSTER_BITS);
    }
    *out_cluster_bits = bits;
    return 0;
}

/* The name that the image's own table has for an incompatible feature, else its number. */
static void feature_name(const uint8_t *table, size_t size, unsigned bit, char *out_name,
                         size_t name_size)
{
    (void)snprintf(out_name, name_size, "bit %u", bit);
    for (size_t at = 0; size - at >= FEATURE_SIZE; at += FEATURE_SIZE) {
        if (table[at] != 0 || table[at + 1] != bit) {
            continue;
        }
        size_t length = 0;
        const uint8_t *name = table + at + 2;
        while (length < FEATURE_NAME_SIZE && length + 1 < name_size && name[length] != 0) {
            out_name[length] =
                (char)(name[length] >= ' ' && name[length] < 0x7f ? name[length] : '?');
            length++;
        }
        if (length > 0) {
            out_name[length] = '\0';
        }
        return;
    }
}

static int refuse_unknown(const struct qcow2_header *header, const uint8_t *names,
                          size_t names_size, struct error *err)
{
    uint64_t unknown = header->incompatible_features & ~QCOW2_INCOMPATIBLE_KNOWN;
    if (unknown == 0) {
        return 0;
    }
    char text[160] = "";
    for (unsigned bit = 0; bit < 64; bit++) {
        if ((unknown & BIT(bit)) != 0) {
            char name[FEATURE_NAME_SIZE + 1];
            feature_name(names, names_size, bit, name, sizeof(name));
            size_t used = strlen(text);
            (void)snprintf(text + used, sizeof(text) - used, "%s%s", used > 0 ? ", " : "", name);
        }
    }
    return error_set(err, EOPNOTSUPP, "needs features that are not known here: %s", text);
}

static int copy_text(char *out_text, size_t size, const uint8_t *data, size_t length,
                     const char *what, struct error *err)
{
    if (length >= size || memchr(data, 0, length) != NULL) {
        return error_set(err, EINVAL, "%s of %zu bytes: up to %zu without a zero are accepted",
                         what, length, size - 1);
    }
    memcpy(out_text, data, length);
    out_text[length] = '\0';
    return 0;
}

static int parse_bitmaps(struct qcow2_header *header, const uint8_t *data, size_t size,
                         struct error *err)
{
    if (size != BITMAPS_SIZE || be32_get(data + 4) != 0) {
        return error_set(err, EINVAL, "bitmaps extension is not as specified");
    }
    header->bitmap_count = be32_get(data);
    header->bitmap_directory_size = be64_get(data + 8);
    header->bitmap_directory_offset = be64_get(data + 16);
    header->has_bitmaps = true;
    if (header->bitmap_count == 0 || header->bitmap_count > QCOW2_MAX_BITMAPS ||
        header->bitmap_directory_size == 0 ||
        header->bitmap_directory_size > QCOW2_MAX_BITMAP_BYTES ||
        header->bitmap_directory_offset == 0 ||
        (header->bitmap_directory_offset & (BIT(header->cluster_bits) - 1)) != 0) {
        return error_set(err, EINVAL, "bitmap directory: %u bitmaps in %llu bytes at offset %llu",
                         header->bitmap_count, (unsigned long long)header->bitmap_directory_size,
                         (unsigned long long)header->bitmap_directory_offset);
    }
    return 0;
}

/* Where the LUKS header is. */
static int parse_crypt(struct qcow2_header *header, const uint8_t *data, size_t size,
                       struct error *err)
{
    if (size != CRYPT_SIZE) {
        return error_set(err, EINVAL, "encryption extension is not as specified");
    }
    header->crypt_offset = be64_get(data);
    header->crypt_size = be64_get(data + 8);
    if (header->crypt_offset == 0 || header->crypt_size == 0 ||
        header->crypt_size > QCOW2_MAX_CRYPT_BYTES ||
        (header->crypt_offset & (BIT(header->cluster_bits) - 1)) != 0 ||
        !range_fits(header->crypt_offset, header->crypt_size, QCOW2_MAX_OFFSET)) {
        return error_set(
            err, EINVAL, "LUKS header of %llu bytes at offset %llu: not where one can be",
            (unsigned long long)header->crypt_size, (unsigned long long)header->crypt_offset);
    }
    return 0;
}

static int check_crypt(const struct qcow2_header *header, uint32_t method, struct error *err)
{
    bool has_data_file = (header->incompatible_features & QCOW2_INCOMPATIBLE_DATA_FILE) != 0;
    if (method > 2 || method == 1) {
        return error_set(err, EOPNOTSUPP, "encryption method %u: 2 (LUKS) is accepted", method);
    }
    if ((method == 2) != (header->crypt_size != 0) || (method == 2 && has_data_file)) {
        return error_set(err, EINVAL, "encryption method %u and the rest of the header disagree",
                         method);
    }
    return 0;
}

static void keep_unknown(struct qcow2_header *header, uint32_t type, const uint8_t *data,
                         size_t size)
{
    size_t whole = 8 + (size_t)align_up(size, 8);
    uint8_t *to = header->unknown + header->unknown_size;
    if (size > QCOW2_MAX_UNKNOWN || whole > QCOW2_MAX_UNKNOWN - header->unknown_size) {
        header->has_more_unknown = true;
        return;
    }
    be32_put(to, type);
    be32_put(to + 4, (uint32_t)size);
    memcpy(to + 8, data, size);
    header->unknown_size += (uint32_t)whole;
}

static int parse_extension(struct qcow2_header *header, uint32_t type, const uint8_t *data,
                           size_t size, struct error *err)
{
    bool is_twice = false;
    int rc = 0;
    switch (type) {
    case EXTENSION_BACKING_FORMAT:
        is_twice = header->has_backing_format;
        header->has_backing_format = true;
        rc = copy_text(header->backing_format, sizeof(header->backing_format), data, size,
                       "format of the backing file", err);
        break;
    case EXTENSION_DATA_NAME:
        is_twice = header->has_data_name;
        header->has_data_name = true;
        rc = copy_text(header->data_name, sizeof(header->data_name), data, size,
                       "name of the data file", err);
        break;
    case EXTENSION_BITMAPS:
        is_twice = header->has_bitmaps;
        rc = parse_bitmaps(header, data, size, err);
        break;
    case EXTENSION_ENCRYPTION:
        is_twice = header->crypt_size != 0;
        rc = parse_crypt(header, data, size, err);
        break;
    default:
        keep_unknown(header, type, data, size);
        break;
    }
    return is_twice ? error_set(err, EINVAL, "header extension 0x%08x comes twice", type) : rc;
}

static int parse_extensions(struct qcow2_header *header, const uint8_t *data, size_t end,
                            struct error *err)
{
    size_t at = header->header_length;
    const uint8_t *names = data;
    size_t names_size = 0;
    int rc = 0;
    while (rc == 0 && at + 8 <= end) {
        uint32_t type = be32_get(data + at);
        uint64_t size = be32_get(data + at + 4);
        at += 8;
        if (type == EXTENSION_END) {
            break;
        }
        if (size > end - at) {
            return error_set(err, EINVAL, "header extension 0x%08x does not fit", type);
        }
        if (type == EXTENSION_FEATURE_NAMES) {
            names = data + at;
            names_size = (size_t)size;
        } else {
            rc = parse_extension(header, type, data + at, (size_t)size, err);
        }
        at += (size_t)MIN(align_up(size, 8), (uint64_t)(end - at));
    }
    /* An unknown feature explains whatever else is odd. */
    int unknown = refuse_unknown(header, names, names_size, rc == 0 ? err : NULL);
    return rc < 0 ? rc : unknown;
}

static int check_features(const struct qcow2_header *header, struct error *err)
{
    bool has_data_file = (header->incompatible_features & QCOW2_INCOMPATIBLE_DATA_FILE) != 0;
    bool has_compression = (header->incompatible_features & QCOW2_INCOMPATIBLE_COMPRESSION) != 0;
    if (has_compression != (header->compression_type != QCOW2_ZLIB)) {
        return error_set(err, EINVAL, "compression type %d and its feature bit disagree",
                         (int)header->compression_type);
    }
    if (header->compression_type != QCOW2_ZLIB && header->compression_type != QCOW2_ZSTD) {
        return error_set(err, EOPNOTSUPP, "compression type %d: 0 (zlib) and 1 (zstd) are accepted",
                         (int)header->compression_type);
    }
    if ((header->incompatible_features & QCOW2_INCOMPATIBLE_EXTENDED_L2) != 0 &&
        header->cluster_bits < 14) {
        return error_set(err, EINVAL, "extended L2 entries need clusters of 16 KiB or more");
    }
    if ((header->autoclear_features & QCOW2_AUTOCLEAR_RAW_EXTERNAL) != 0 &&
        (!has_data_file || header->has_backing)) {
        return error_set(err, EINVAL, "raw external data needs a data file, and no backing file");
    }
    if (has_data_file && header->nb_snapshots != 0) {
        return error_set(err, EINVAL, "an image with a data file cannot have snapshots");
    }
    return 0;
}

/* A table of 'bytes' bytes at a cluster's start, below what an entry can address. */
static int check_table(const struct qcow2_header *header, uint64_t offset, uint64_t bytes,
                       uint64_t max_bytes, const char *what, struct error *err)
{
    uint64_t mask = BIT(header->cluster_bits) - 1;
    if (bytes > max_bytes) {
        return error_set(err, EFBIG, "%s of %llu bytes: up to %llu are accepted", what,
                         (unsigned long long)bytes, (unsigned long long)max_bytes);
    }
    if ((offset & mask) != 0 || !range_fits(offset, bytes, QCOW2_MAX_OFFSET) ||
        (bytes > 0 && offset == 0)) {
        return error_set(err, EINVAL, "%s at offset %llu: not where one can be", what,
                         (unsigned long long)offset);
    }
    return 0;
}

static int check_tables(const struct qcow2_header *header, struct error *err)
{
    uint32_t cluster_bits = header->cluster_bits;
    int rc = check_table(header, header->l1_table_offset, header->l1_size * (uint64_t)8,
                         QCOW2_MAX_L1_BYTES, "L1 table", err);
    if (rc == 0) {
        rc = check_table(header, header->refcount_table_offset,
                         (uint64_t)header->refcount_table_clusters << cluster_bits,
                         QCOW2_MAX_REFTABLE_BYTES, "refcount table", err);
    }
    if (rc == 0 && header->refcount_table_clusters == 0) {
        rc = error_set(err, EINVAL, "no refcount table");
    }
    if (rc == 0 && header->nb_snapshots > QCOW2_MAX_SNAPSHOTS) {
        rc = error_set(err, EFBIG, "%u snapshots: up to %u are accepted", header->nb_snapshots,
                       QCOW2_MAX_SNAPSHOTS);
    }
    if (rc == 0) {
        rc = check_table(header, header->snapshots_offset, header->nb_snapshots * (uint64_t)40,
                         QCOW2_MAX_SNAPSHOT_BYTES, "snapshot table", err);
    }
    if (rc < 0) {
        return rc;
    }
    bool is_extended = (header->incompatible_features & QCOW2_INCOMPATIBLE_EXTENDED_L2) != 0;
    uint32_t l2_bits = cluster_bits - (is_extended ? 4 : 3);
    uint64_t max_size = QCOW2_MAX_L1_BYTES / 8 * BIT(l2_bits + cluster_bits);
    if (header->size > MIN(max_size, (uint64_t)INT64_MAX - BIT(22))) {
        return error_set(err, EFBIG, "a disk of %llu bytes is too large",
                         (unsigned long long)header->size);
    }
    uint64_t needed = (header->size + BIT(l2_bits + cluster_bits) - 1) >> (l2_bits + cluster_bits);
    if (header->l1_size < needed) {
        return error_set(err, EINVAL, "an L1 table of %u entries: the disk's size needs %llu",
                         header->l1_size, (unsigned long long)needed);
    }
    return 0;
}

static int parse_v3(struct qcow2_header *header, const uint8_t *data, size_t size,
                    struct error *err)
{
    if (size < QCOW2_V3_LENGTH) {
        return error_set(err, EINVAL, "the header is cut off");
    }
    header->incompatible_features = be64_get(data + 72);
    header->compatible_features = be64_get(data + 80);
    header->autoclear_features = be64_get(data + 88);
    header->refcount_order = be32_get(data + 96);
    header->header_length = be32_get(data + 100);
    if (header->header_length < QCOW2_V3_LENGTH || header->header_length % 8 != 0 ||
        header->header_length > size) {
        return error_set(err, EINVAL, "a header of %u bytes", header->header_length);
    }
    if (header->refcount_order > 6) {
        return error_set(err, EINVAL, "refcounts of 2^%u bits: up to 64 bits are accepted",
                         header->refcount_order);
    }
    if (header->header_length > 104) {
        header->compression_type = (enum qcow2_compression)data[104];
    }
    return 0;
}

static int parse_backing(struct qcow2_header *header, const uint8_t *data, size_t size,
                         struct error *err)
{
    uint64_t offset = be64_get(data + 8);
    uint32_t length = be32_get(data + 16);
    if (offset == 0) {
        return 0;
    }
    if (length == 0 || offset < header->header_length || !range_fits(offset, length, size)) {
        return error_set(err, EINVAL,
                         "name of the backing file: %u bytes at offset %llu: in the first cluster, "
                         "behind the header, is accepted",
                         length, (unsigned long long)offset);
    }
    header->has_backing = true;
    return copy_text(header->backing_name, sizeof(header->backing_name), data + offset, length,
                     "name of the backing file", err);
}

int qcow2_header_parse(const uint8_t *data, size_t size, struct qcow2_header *out_header,
                       struct error *err)
{
    struct qcow2_header header = {0};
    int rc = qcow2_header_peek(data, size, &header.cluster_bits, err);
    if (rc < 0) {
        return rc;
    }
    size = (size_t)MIN((uint64_t)size, BIT(header.cluster_bits));
    header.version = be32_get(data + 4);
    if (header.version != 2 && header.version != 3) {
        return error_set(err, EOPNOTSUPP, "version %u: 2 and 3 are accepted", header.version);
    }
    header.size = be64_get(data + 24);
    uint32_t crypt_method = be32_get(data + 32);
    header.l1_size = be32_get(data + 36);
    header.l1_table_offset = be64_get(data + 40);
    header.refcount_table_offset = be64_get(data + 48);
    header.refcount_table_clusters = be32_get(data + 56);
    header.nb_snapshots = be32_get(data + 60);
    header.snapshots_offset = be64_get(data + 64);
    header.refcount_order = 4;
    header.header_length = QCOW2_V2_LENGTH;
    rc = header.version == 3 ? parse_v3(&header, data, size, err) : 0;
    if (rc == 0) {
        rc = parse_backing(&header, data, size, err);
    }
    if (rc == 0) {
        uint64_t backing_offset = be64_get(data + 8);
        rc = parse_extensions(&header, data,
                              header.has_backing ? (size_t)MIN(backing_offset, size) : size, err);
    }
    if (rc == 0) {
        rc = check_crypt(&header, crypt_method, err);
        header.is_encrypted = crypt_method == 2;
    }
    if (rc == 0) {
        rc = check_features(&header, err);
    }
    if (rc == 0) {
        rc = check_tables(&header, err);
    }
    if (rc == 0) {
        *out_header = header;
    }
    return rc;
}

void qcow2_header_update(uint8_t *data, const struct qcow2_header *header)
{
    be64_put(data + 24, header->size);
    be32_put(data + 36, header->l1_size);
    be64_put(data + 40, header->l1_table_offset);
    be64_put(data + 48, header->refcount_table_offset);
    be32_put(data + 56, header->refcount_table_clusters);
    be32_put(data + 60, header->nb_snapshots);
    be64_put(data + 64, header->snapshots_offset);
    if (header->version == 3) {
        be64_put(data + 72, header->incompatible_features);
        be64_put(data + 80, header->compatible_features);
        be64_put(data + 88, header->autoclear_features);
    }
}

struct maker {
    uint8_t *data;
    size_t size, at;
    bool is_full;
};

static void put_extension(struct maker *maker, uint32_t type, const void *data, size_t size)
{
    size_t whole = 8 + (size_t)align_up(size, 8);
    if (maker->is_full || maker->size - maker->at < whole) {
        maker->is_full = true;
        return;
    }
    be32_put(maker->data + maker->at, type);
    be32_put(maker->data + maker->at + 4, (uint32_t)size);
    memcpy(maker->data + maker->at + 8, data, size);
    maker->at += whole;
}

static void put_feature_names(struct maker *maker)
{
    uint8_t table[ARRAY_COUNT(features) * FEATURE_SIZE] = {0};
    for (size_t i = 0; i < ARRAY_COUNT(features); i++) {
        uint8_t *entry = table + i * FEATURE_SIZE;
        entry[0] = features[i].type;
        entry[1] = features[i].bit;
        memcpy(entry + 2, features[i].name, strlen(features[i].name));
    }
    if (maker->size - maker->at >= 8 + sizeof(table) + 1100 || maker->size >= 4096) {
        put_extension(maker, EXTENSION_FEATURE_NAMES, table, sizeof(table));
    } /* else: clusters so small that names of files need the room */
}

/* The name of the backing file comes at 'name_offset', or behind the extensions if that is 0; these take 'size' bytes at most. */
static bool make(uint8_t *out_data, size_t size, const struct qcow2_header *header,
                 size_t name_offset, size_t name_end)
{
    be32_put(out_data, QCOW2_MAGIC);
    be32_put(out_data + 4, header->version);
    be32_put(out_data + 20, header->cluster_bits);
    qcow2_header_update(out_data, header);
    struct maker maker = {.data = out_data, .size = size, .at = QCOW2_V2_LENGTH};
    if (header->version == 3) {
        be32_put(out_data + 96, header->refcount_order);
        be32_put(out_data + 100, QCOW2_FULL_LENGTH);
        out_data[104] = (uint8_t)header->compression_type;
        maker.at = QCOW2_FULL_LENGTH;
    }
    if (header->has_backing_format) {
        put_extension(&maker, EXTENSION_BACKING_FORMAT, header->backing_format,
                      strlen(header->backing_format));
    }
    if (header->has_data_name) {
        put_extension(&maker, EXTENSION_DATA_NAME, header->data_name, strlen(header->data_name));
    }
    if (header->has_bitmaps) {
        uint8_t bitmaps[BITMAPS_SIZE] = {0};
        be32_put(bitmaps, header->bitmap_count);
        be64_put(bitmaps + 8, header->bitmap_directory_size);
        be64_put(bitmaps + 16, header->bitmap_directory_offset);
        put_extension(&maker, EXTENSION_BITMAPS, bitmaps, sizeof(bitmaps));
    }
    if (header->is_encrypted) {
        uint8_t crypt[CRYPT_SIZE];
        be64_put(crypt, header->crypt_offset);
        be64_put(crypt + 8, header->crypt_size);
        put_extension(&maker, EXTENSION_ENCRYPTION, crypt, sizeof(crypt));
        be32_put(out_data + 32, 2);
    }
    if (header->version == 3) {
        put_feature_names(&maker);
    }
    if (header->unknown_size > 0) {
        if (maker.size - maker.at < header->unknown_size) {
            maker.is_full = true;
        } else {
            memcpy(out_data + maker.at, header->unknown, header->unknown_size);
            maker.at += header->unknown_size;
        }
    }
    put_extension(&maker, EXTENSION_END, "", 0);
    if (header->has_backing) {
        size_t length = strlen(header->backing_name);
        size_t at = name_offset != 0 ? name_offset : maker.at;
        if (maker.is_full || !range_fits(at, length, name_end)) {
            maker.is_full = true;
        } else {
            be64_put(out_data + 8, at);
            be32_put(out_data + 16, (uint32_t)length);
            memcpy(out_data + at, header->backing_name, length);
        }
    }
    return !maker.is_full;
}

int qcow2_header_make(uint8_t *out_data, size_t size, const struct qcow2_header *header,
                      struct error *err)
{
    memset(out_data, 0, size);
    return make(out_data, size, header, 0, size)
               ? 0
               : error_set(err, ENOSPC, "the names do not fit into a first cluster of %zu bytes",
                           size);
}

int qcow2_header_make_apart(uint8_t *out_data, size_t size, const struct qcow2_header *header,
                            size_t name_offset)
{
    memset(out_data, 0, size);
    return make(out_data, MIN(size, QCOW2_SECTOR), header, name_offset, size) ? 0 : -ENOSPC;
}

size_t qcow2_header_find_room(const uint8_t *data, size_t size, size_t length)
{
    size_t name = (size_t)MIN(be64_get(data + 8), size), name_size = be32_get(data + 16);
    size_t end = be32_get(data + 4) == 3 ? be32_get(data + 100) : QCOW2_V2_LENGTH;
    while (range_fits(end, 8, size)) {
        size_t part = be32_get(data + end + 4);
        bool is_last = be32_get(data + end) == EXTENSION_END || part > size;
        end += 8 + (is_last ? 0 : (size_t)align_up(part, 8));
        if (is_last) {
            break;
        }
    }
    size_t before = (size_t)align_up(MAX(end, QCOW2_SECTOR), 8);
    size_t behind = MAX(before, (size_t)align_up(name + name_size, 8));
    if (name == 0 || range_fits(before, length, name)) {
        return range_fits(before, length, size) ? before : 0;
    }
    return range_fits(behind, length, size) ? behind : 0;
}
