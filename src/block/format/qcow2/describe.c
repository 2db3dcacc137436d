/* What is known of an image, and the words in its header for what it stands on. */
#include <stdlib.h>
#include <string.h>

#include "block/format/qcow2/qcow2.h"

static void number(block_detail_fn fn, void *ctx, const char *key, uint64_t value)
{
    fn(ctx, &(struct block_detail){.key = key, .number = value});
}

static void flag(block_detail_fn fn, void *ctx, const char *key, bool value)
{
    fn(ctx, &(struct block_detail){.key = key, .number = value, .is_flag = true});
}

static void text(block_detail_fn fn, void *ctx, const char *key, const char *value)
{
    fn(ctx, &(struct block_detail){.key = key, .text = value});
}

void qcow2_describe(const struct block *block, block_detail_fn fn, void *ctx)
{
    const struct qcow2 *q = qcow2_from_block(block);
    const struct qcow2_header *header = &q->header;
    number(fn, ctx, "version", header->version);
    number(fn, ctx, "cluster-size", q->layout.cluster_size);
    number(fn, ctx, "refcount-bits", q->layout.refcount_bits);
    if (header->is_encrypted) {
        text(fn, ctx, "encryption", "luks");
    }
    text(fn, ctx, "compression", header->compression_type == QCOW2_ZSTD ? "zstd" : "zlib");
    flag(fn, ctx, "extended-l2", q->layout.is_extended);
    flag(fn, ctx, "lazy-refcounts", (header->compatible_features & QCOW2_COMPATIBLE_LAZY) != 0);
    flag(fn, ctx, "dirty", (header->incompatible_features & QCOW2_INCOMPATIBLE_DIRTY) != 0);
    flag(fn, ctx, "corrupt", (header->incompatible_features & QCOW2_INCOMPATIBLE_CORRUPT) != 0);
    number(fn, ctx, "snapshots", q->snapshot_count);
    number(fn, ctx, "bitmaps", header->has_bitmaps ? header->bitmap_count : 0);
    if (header->has_backing) {
        text(fn, ctx, "backing-file", header->backing_name);
        if (header->has_backing_format) {
            text(fn, ctx, "backing-format", header->backing_format);
        }
    }
    if (q->layout.has_data_file) {
        text(fn, ctx, "data-file", header->has_data_name ? header->data_name : "");
        flag(fn, ctx, "data-file-raw", q->is_raw_external);
    }
    if (q->fault[0] != '\0') {
        text(fn, ctx, "fault", q->fault);
    }
}

static int set_name(char *out_text, size_t size, const char *name, bool *out_has)
{
    size_t length = name != NULL ? strlen(name) : 0;
    if (length >= size) {
        return -ENAMETOOLONG;
    }
    *out_has = length > 0;
    if (length > 0) {
        memcpy(out_text, name, length);
    }
    out_text[length] = '\0';
    return 0;
}

/* With a long name: that goes first, to where the header that the file has names nothing; then the sector. */
static int make_apart(struct qcow2 *q, uint8_t *data, const struct qcow2_header *header,
                      bool *out_fits)
{
    uint32_t size = q->layout.cluster_size;
    size_t length = strlen(header->backing_name);
    int rc = block_read(q->file, 0, data, size);
    if (rc < 0) {
        return rc;
    }
    size_t place = qcow2_header_find_room(data, size, length);
    *out_fits = place != 0 && qcow2_header_make_apart(data, size, header, place) == 0;
    if (*out_fits) {
        rc = block_write(q->file, place, data + place, length);
    }
    return rc == 0 && *out_fits ? block_flush(q->file) : rc;
}

/* The header has either names that fit into one sector, which cannot tear, without the names of features (what stands behind it in
 * the file does not matter any more once the sector is there), or a long one apart. So the file has one header or the other at any
 * moment. Clusters of 2 KiB and less may have no room for that. */
static int write_in_order(struct qcow2 *q, uint8_t *data, const struct qcow2_header *header,
                          struct error *err)
{
    bool is_safe = qcow2_header_make(data, QCOW2_SECTOR, header, NULL) == 0;
    int rc = is_safe ? 0 : make_apart(q, data, header, &is_safe);
    if (rc == 0 && !is_safe) {
        rc = qcow2_header_make(data, q->layout.cluster_size, header, err);
        if (rc < 0) {
            return rc;
        }
    }
    if (rc == 0 && is_safe) {
        rc = block_write(q->file, 0, data, QCOW2_SECTOR);
        if (rc == 0) {
            rc = block_flush(q->file);
        }
    }
    if (rc == 0) {
        rc = block_write(q->file, 0, data, q->layout.cluster_size);
    }
    if (rc == 0) {
        rc = block_flush(q->file);
    }
    if (rc < 0) {
        q->broken = rc; /* it is not known which header the file has */
        (void)error_set_errno(err, -rc, "writing the header"); /* rc says it already */
    }
    return rc;
}

int qcow2_write_new_header(struct qcow2 *q, const struct qcow2_header *header, struct error *err)
{
    uint8_t *data = calloc(1, q->layout.cluster_size);
    if (data == NULL) {
        return error_set_errno(err, ENOMEM, "writing the header");
    }
    int rc = write_in_order(q, data, header, err);
    if (rc == 0) {
        memcpy(q->header_bytes, data, q->header_size);
        q->header = *header;
    }
    free(data);
    return rc;
}

int qcow2_set_backing_name(struct block *block, const char *name, const char *format,
                           struct error *err)
{
    struct qcow2 *q = qcow2_from_block(block);
    struct qcow2_header *header = malloc(sizeof(*header));
    if (header == NULL) {
        return error_set_errno(err, ENOMEM, "writing the header");
    }
    qcow2_exclusive_begin(q);
    int rc = qcow2_prepare_write(q);
    if (rc == 0) {
        rc = qcow2_commit(q);
    }
    *header = q->header;
    if (rc == 0 && q->is_raw_external && name != NULL) {
        rc = -EINVAL;
    }
    if (rc == 0 && header->has_more_unknown) {
        rc = -EOPNOTSUPP; /* a new header would lose what nobody here knows */
    }
    if (header->version == 3) {
        header->header_length = QCOW2_FULL_LENGTH;
    }
    if (rc == 0) {
        rc = set_name(header->backing_name, sizeof(header->backing_name), name,
                      &header->has_backing);
    }
    if (rc == 0) {
        rc = set_name(header->backing_format, sizeof(header->backing_format),
                      name != NULL ? format : NULL, &header->has_backing_format);
    }
    if (rc < 0) {
        rc = error_set_errno(err, -rc, "changing the name of the backing file");
    } else {
        rc = qcow2_write_new_header(q, header, err);
    }
    qcow2_exclusive_end(q);
    free(header);
    return rc;
}
