/* The format "luks": a raw disk behind a LUKS header. */
#include <stdlib.h>
#include <string.h>

#include "block/crypt.h"
#include "block/format/qcow2/header.h"
#include "block/provider.h"

#define MAX_QCOW2_HEADER (2u << 20) /* a cluster */

static int luks_open(struct block *file, struct block_options *options, struct block **out_block,
                     struct error *err)
{
    if (options->unlock == NULL) {
        return error_set(err, ENOKEY, "disk %s: is encrypted: a key is needed", block_name(file));
    }
    struct block_crypt *crypt = block_crypt_new();
    if (crypt == NULL) {
        return error_set_errno(err, ENOMEM, "disk %s", block_name(file));
    }
    const struct block_crypt_header header = {.file = file};
    int rc = options->unlock(options->unlock_ctx, &header, crypt, err);
    if (rc == 0) {
        rc = block_crypt_open(file, crypt, out_block, err);
    }
    block_crypt_free(crypt);
    return rc;
}

static int find_in_qcow2(struct block *file, struct block_crypt_header *header, struct error *err)
{
    size_t size = (size_t)MIN(file->info.size_bytes, MAX_QCOW2_HEADER);
    uint8_t *data = malloc(size + 1);
    struct qcow2_header *parsed = calloc(1, sizeof(*parsed));
    int rc = data != NULL && parsed != NULL ? block_read(file, 0, data, size) : -ENOMEM;
    if (rc < 0) {
        (void)error_set_errno(err, -rc, "disk %s: its header", block_name(file)); /* rc says it */
    } else if ((rc = qcow2_header_parse(data, size, parsed, err)) < 0) {
        rc = error_prefix(err, rc, "disk %s: qcow2", block_name(file));
    } else if (!parsed->is_encrypted) {
        rc = error_set(err, EINVAL, "disk %s: a key is given, but it is not encrypted",
                       block_name(file));
    } else {
        header->offset = parsed->crypt_offset;
        header->size_bytes = parsed->crypt_size;
    }
    free(data);
    free(parsed);
    return rc;
}

int block_unlock_image(struct block *file, const char *format,
                       int (*unlock)(void *ctx, const struct block_crypt_header *header,
                                     struct block_crypt *out_crypt, struct error *err),
                       void *ctx, struct block_crypt *out_crypt, struct error *err)
{
    struct block_crypt_header header = {.file = file};
    if (strcmp(format, "qcow2") == 0) {
        int rc = find_in_qcow2(file, &header, err);
        if (rc < 0) {
            return rc;
        }
    } else if (strcmp(format, "luks") != 0) {
        return error_set(err, EINVAL, "disk %s: a key is given, but format %s is not encrypted",
                         block_name(file), format);
    }
    return unlock(ctx, &header, out_crypt, err);
}

const struct block_format block_format_luks = {.name = "luks", .open = luks_open};
