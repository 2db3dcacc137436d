/* Making a new image: header, refcount table, refcount blocks, L1 table, in this order in the file. */
#include <stdlib.h>
#include <string.h>

#include "block/format/qcow2/qcow2.h"

#define DEFAULT_CLUSTER_SIZE 65536u
#define FULL_BUFFER          (1u << 20)

struct plan {
    struct qcow2_header header;
    struct qcow2_layout layout;
    uint64_t block_count, l1_clusters, crypt_clusters, cluster_count;
};

static int copy_name(char *out_name, size_t size, const char *name, bool *out_has, const char *what,
                     struct error *err)
{
    *out_has = name != NULL;
    if (name == NULL) {
        return 0;
    }
    size_t length = strlen(name);
    if (length == 0 || length >= size) {
        return error_set(err, EINVAL, "%s: 1 to %zu bytes are accepted", what, size - 1);
    }
    memcpy(out_name, name, length + 1);
    return 0;
}

static int plan_features(struct qcow2_header *header, const struct block_create_options *options,
                         struct error *err)
{
    bool has_data = options->data_name != NULL || options->data_file != NULL;
    if (options->compression != NULL && strcmp(options->compression, "zstd") == 0) {
        header->compression_type = QCOW2_ZSTD;
        header->incompatible_features |= QCOW2_INCOMPATIBLE_COMPRESSION;
    } else if (options->compression != NULL && strcmp(options->compression, "zlib") != 0) {
        return error_set(err, EINVAL, "compression %s: zlib and zstd are accepted",
                         options->compression);
    }
    header->incompatible_features |= options->has_extended_l2 ? QCOW2_INCOMPATIBLE_EXTENDED_L2 : 0;
    header->incompatible_features |= has_data ? QCOW2_INCOMPATIBLE_DATA_FILE : 0;
    header->compatible_features |= options->has_lazy_refcounts ? QCOW2_COMPATIBLE_LAZY : 0;
    header->autoclear_features |= options->is_data_file_raw ? QCOW2_AUTOCLEAR_RAW_EXTERNAL : 0;
    if (header->version == 2 && (header->incompatible_features | header->compatible_features |
                                 header->autoclear_features | (header->refcount_order != 4)) != 0) {
        return error_set(err, EINVAL, "version 2 has no such features: version 3 is accepted");
    }
    if (options->has_extended_l2 && header->cluster_bits < 14) {
        return error_set(err, EINVAL, "extended L2 entries need clusters of 16 KiB or more");
    }
    if (options->is_data_file_raw && (!has_data || options->backing_name != NULL)) {
        return error_set(err, EINVAL, "raw external data needs a data file, and no backing file");
    }
    if (options->preallocation != BLOCK_PREALLOCATION_OFF && options->backing_name != NULL) {
        return error_set(err, EINVAL, "preallocation would hide the backing file");
    }
    if (options->preallocation != BLOCK_PREALLOCATION_OFF && has_data &&
        options->data_file == NULL) {
        return error_set(err, EINVAL, "preallocation needs the data file");
    }
    return 0;
}

static int plan_header(struct plan *plan, const struct block_create_options *options,
                       struct error *err)
{
    struct qcow2_header *header = &plan->header;
    uint32_t cluster_size =
        options->cluster_size != 0 ? options->cluster_size : DEFAULT_CLUSTER_SIZE;
    uint32_t refcount_bits = options->refcount_bits != 0 ? options->refcount_bits : 16;
    if (!is_power_of_two(cluster_size) || cluster_size < BIT(QCOW2_MIN_CLUSTER_BITS) ||
        cluster_size > BIT(QCOW2_MAX_CLUSTER_BITS)) {
        return error_set(err, EINVAL,
                         "clusters of %u bytes: powers of two from 512 to 2 MiB are accepted",
                         cluster_size);
    }
    if (!is_power_of_two(refcount_bits) || refcount_bits > 64) {
        return error_set(err, EINVAL,
                         "refcounts of %u bits: 1, 2, 4, 8, 16, 32 and 64 are accepted",
                         refcount_bits);
    }
    if (options->size_bytes > BLOCK_MAX_SIZE) {
        return error_set(err, EFBIG, "a disk of %llu bytes is too large",
                         (unsigned long long)options->size_bytes);
    }
    *header = (struct qcow2_header){
        .version = options->version != 0 ? options->version : 3,
        .cluster_bits = (uint32_t)__builtin_ctz(cluster_size),
        .size = align_up(options->size_bytes, 512),
        .refcount_order = (uint32_t)__builtin_ctz(refcount_bits),
    };
    if (header->version != 2 && header->version != 3) {
        return error_set(err, EINVAL, "version %u: 2 and 3 are accepted", header->version);
    }
    if (options->crypt_header != NULL) {
        if (options->data_name != NULL) {
            return error_set(err, EOPNOTSUPP, "encryption: not with a data file");
        }
        if (options->preallocation != BLOCK_PREALLOCATION_OFF && options->unlock == NULL) {
            return error_set(err, ENOKEY, "preallocation of an encrypted image needs its key");
        }
        if (options->crypt_header_bytes == 0 ||
            options->crypt_header_bytes > QCOW2_MAX_CRYPT_BYTES) {
            return error_set(err, EINVAL, "a LUKS header of %llu bytes",
                             (unsigned long long)options->crypt_header_bytes);
        }
        header->is_encrypted = true;
        header->crypt_size = options->crypt_header_bytes;
    }
    header->header_length = header->version == 2 ? QCOW2_V2_LENGTH : QCOW2_FULL_LENGTH;
    int rc = plan_features(header, options, err);
    if (rc == 0) {
        rc = copy_name(header->backing_name, sizeof(header->backing_name), options->backing_name,
                       &header->has_backing, "name of the backing file", err);
    }
    if (rc == 0) {
        rc = copy_name(header->backing_format, sizeof(header->backing_format),
                       options->backing_format, &header->has_backing_format,
                       "format of the backing file", err);
    }
    if (rc == 0) {
        rc = copy_name(header->data_name, sizeof(header->data_name), options->data_name,
                       &header->has_data_name, "name of the data file", err);
    }
    return rc;
}

static int plan_places(struct plan *plan, struct error *err)
{
    struct qcow2_header *header = &plan->header;
    const struct qcow2_layout *layout = &plan->layout;
    uint32_t bits = layout->cluster_bits;
    uint64_t entries = qcow2_l1_entries_for(layout, header->size);
    if (entries * 8 > QCOW2_MAX_L1_BYTES) {
        return error_set(err, EFBIG, "a disk of %llu bytes is too large for clusters of %u bytes",
                         (unsigned long long)header->size, layout->cluster_size);
    }
    header->l1_size = (uint32_t)entries;
    plan->l1_clusters = MAX((entries * 8 + layout->cluster_size - 1) >> bits, 1u);
    plan->crypt_clusters = (header->crypt_size + layout->cluster_size - 1) >> bits;
    uint64_t table_clusters = 1, blocks = 1, total;
    for (;;) {
        total = 1 + table_clusters + blocks + plan->l1_clusters + plan->crypt_clusters;
        uint64_t need_blocks = ((total - 1) >> layout->refblock_bits) + 1;
        uint64_t need_table = (need_blocks * 8 + layout->cluster_size - 1) >> bits;
        if (need_blocks <= blocks && need_table <= table_clusters) {
            break;
        }
        blocks = MAX(blocks, need_blocks);
        table_clusters = MAX(table_clusters, need_table);
    }
    plan->block_count = blocks;
    plan->cluster_count = total;
    header->refcount_table_offset = BIT(bits);
    header->refcount_table_clusters = (uint32_t)table_clusters;
    header->l1_table_offset = (1 + table_clusters + blocks) << bits;
    header->crypt_offset = header->l1_table_offset + (plan->l1_clusters << bits);
    return 0;
}

/* Everything but the header, which comes last: until then the file is no image. */
static int write_tables(struct block *file, const struct plan *plan)
{
    const struct qcow2_layout *layout = &plan->layout;
    uint32_t bits = layout->cluster_bits;
    uint64_t table_size = (uint64_t)plan->header.refcount_table_clusters << bits;
    uint64_t first_block = 1 + plan->header.refcount_table_clusters;
    uint8_t *table = calloc(1, (size_t)table_size);
    uint8_t *block = malloc(layout->cluster_size);
    int rc = table != NULL && block != NULL ? 0 : -ENOMEM;
    for (uint64_t i = 0; rc == 0 && i < plan->block_count; i++) {
        uint64_t per_block = BIT(layout->refblock_bits);
        memset(block, 0, layout->cluster_size);
        for (uint64_t j = 0; j < per_block && i * per_block + j < plan->cluster_count; j++) {
            qcow2_refblock_put(block, layout->refcount_bits, j, 1);
        }
        be64_put(table + i * 8, (first_block + i) << bits);
        rc = block_write(file, (first_block + i) << bits, block, layout->cluster_size);
    }
    if (rc == 0) {
        rc = block_write(file, plan->header.refcount_table_offset, table, (size_t)table_size);
    }
    if (rc == 0) {
        rc = block_write_zeroes(file, plan->header.l1_table_offset, plan->l1_clusters << bits,
                                false);
    }
    free(table);
    free(block);
    return rc == 0 ? block_flush(file) : rc;
}

static int copy_crypt_header(struct block *file, const struct plan *plan, struct block *from)
{
    void *data = malloc((size_t)plan->header.crypt_size);
    int rc = data != NULL ? 0 : -ENOMEM;
    if (rc == 0) {
        rc = block_read(from, 0, data, (size_t)plan->header.crypt_size);
    }
    if (rc == 0) {
        rc = block_write(file, plan->header.crypt_offset, data, (size_t)plan->header.crypt_size);
    }
    free(data);
    return rc;
}

static int write_header(struct block *file, const struct plan *plan, struct error *err)
{
    uint8_t *data = malloc(plan->layout.cluster_size);
    if (data == NULL) {
        return error_set_errno(err, ENOMEM, "writing the header");
    }
    int rc = qcow2_header_make(data, plan->layout.cluster_size, &plan->header, err);
    if (rc == 0) {
        rc = block_write(file, 0, data, plan->layout.cluster_size);
        if (rc == 0) {
            rc = block_flush(file);
        }
        if (rc < 0) {
            (void)error_set_errno(err, -rc, "writing the header"); /* rc says it already */
        }
    }
    free(data);
    return rc;
}

/* How clusters get their place. */
struct filling {
    enum block_preallocation mode;
    struct block *to;  /* where they are */
    bool reads_zeroes; /* what is there reads as zeros without further ado */
};

/* What nobody has written is zeros to the host, and anything once it is decrypted: there the tables say that it is zeros, or, where
 * they cannot, and when all is to be written anyway, zeros are encrypted. QEMU leaves the anything. */
static void plan_filling(const struct qcow2 *q, enum block_preallocation mode,
                         struct filling *out_filling)
{
    bool is_written = mode == BLOCK_PREALLOCATION_FULL || q->layout.version < 3;
    if (!q->header.is_encrypted) {
        *out_filling = (struct filling){mode, q->data, q->data->info.is_growable};
    } else if (is_written) {
        *out_filling = (struct filling){BLOCK_PREALLOCATION_FULL, q->data, true};
    } else {
        *out_filling = (struct filling){mode, q->file, false};
    }
}

static int fill(const struct filling *filling, uint64_t offset, uint64_t size)
{
    if (filling->mode == BLOCK_PREALLOCATION_FALLOC) {
        return block_write_zeroes(filling->to, offset, size, false);
    }
    if (filling->mode != BLOCK_PREALLOCATION_FULL) {
        return 0;
    }
    void *zeroes = calloc(1, FULL_BUFFER);
    int rc = zeroes != NULL ? 0 : -ENOMEM;
    for (uint64_t done = 0; rc == 0 && done < size; done += FULL_BUFFER) {
        rc = block_write(filling->to, offset + done, zeroes,
                         (size_t)MIN(size - done, (uint64_t)FULL_BUFFER));
    }
    free(zeroes);
    return rc;
}

/* Maps every cluster of the disk to one of the file. */
static int preallocate(struct qcow2 *q, enum block_preallocation mode)
{
    uint32_t bits = q->layout.cluster_bits;
    uint64_t count = (q->header.size + q->layout.cluster_size - 1) >> bits;
    uint64_t cluster = 0, end = 0;
    struct filling filling;
    plan_filling(q, mode, &filling);
    int rc = qcow2_prepare_write(q);
    while (rc == 0 && cluster < count) {
        uint64_t offset = cluster << bits, got = MIN(count - cluster, BIT(30 - bits));
        if (!q->layout.has_data_file) {
            rc = qcow2_alloc(q, got, &offset, &got);
        }
        uint64_t size = got << bits;
        if (q->layout.has_data_file) {
            size = MIN(size, q->block.info.size_bytes - offset); /* no longer than the disk */
        }
        if (rc == 0) {
            rc = fill(&filling, offset, size);
        }
        for (uint64_t i = 0; rc == 0 && i < got; i++) {
            struct qcow2_entry entry = {.descriptor = QCOW2_COPIED | (offset + (i << bits))};
            if (q->layout.is_extended) {
                entry.bitmap = filling.reads_zeroes ? BITS(31, 0) : BITS(63, 32);
            } else if (!filling.reads_zeroes && q->layout.version >= 3) {
                entry.descriptor |= QCOW2_ZERO;
            }
            rc = qcow2_entry_set(q, cluster + i, entry);
        }
        cluster += got;
        end = MAX(end, offset + size);
    }
    struct block *file = q->layout.has_data_file ? q->data : q->file;
    if (rc == 0 && file->info.is_growable && file->info.size_bytes < end) {
        rc = block_resize(file, end);
    }
    return rc;
}

static int preallocate_image(struct block *file, const struct block_create_options *create,
                             struct error *err)
{
    struct block *block;
    struct block_options options = {.format = "qcow2",
                                    .data_file = create->data_file,
                                    .unlock = create->unlock,
                                    .unlock_ctx = create->unlock_ctx};
    int rc = block_format_qcow2.open(file, &options, &block, err);
    if (rc < 0) {
        return rc;
    }
    struct qcow2 *q = qcow2_from_block(block);
    struct block *crypt = q->header.is_encrypted ? q->data : NULL;
    q->is_exclusive =
        true; /* nothing in the background, which would have to end before it is closed */
    rc = preallocate(q, create->preallocation);
    if (rc == 0) {
        rc = qcow2_settle(q);
    }
    if (rc == 0 && q->data != file && crypt == NULL) {
        rc = block_flush(q->data);
    }
    if (rc < 0) {
        (void)error_set_errno(err, -rc, "preallocating"); /* rc says it already */
    }
    block->ops->close(block); /* not the files below: they are the caller's */
    block_close(crypt);
    return rc;
}

int qcow2_create(struct block *file, const struct block_create_options *options, struct error *err)
{
    struct plan *plan = calloc(1, sizeof(*plan));
    if (plan == NULL) {
        return error_set_errno(err, ENOMEM, "planning the image");
    }
    int rc = plan_header(plan, options, err);
    if (rc == 0) {
        qcow2_layout_init(&plan->layout, &plan->header);
        rc = plan_places(plan, err);
    }
    if (rc == 0) {
        rc = file->info.can_resize ? block_resize(file, 0) : 0;
        if (rc == 0 && options->crypt_header != NULL) {
            rc = copy_crypt_header(file, plan, options->crypt_header);
        }
        if (rc == 0) {
            rc = write_tables(file, plan);
        }
        if (rc < 0) {
            (void)error_set_errno(err, -rc, "writing its tables"); /* rc says it already */
        }
    }
    if (rc == 0) {
        rc = write_header(file, plan, err);
    }
    if (rc == 0 && options->is_data_file_raw && options->data_file != NULL &&
        options->data_file->info.can_resize) {
        rc = block_resize(options->data_file, plan->header.size);
        if (rc < 0) {
            (void)error_set_errno(err, -rc, "resizing the data file"); /* rc says it already */
        }
    }
    bool has_prealloc = options->preallocation != BLOCK_PREALLOCATION_OFF;
    free(plan);
    return rc == 0 && has_prealloc ? preallocate_image(file, options, err) : rc;
}
