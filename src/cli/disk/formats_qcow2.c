/* New qcow2 images: --option KEY=VALUE with the keys of qemu-img. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/core/size.h"
#include "base/host/file.h"
#include "base/host/secret.h"
#include "block/crypt.h"
#include "block/image.h"
#include "cli/disk/disk.h"
#include "cli/disk/target.h"

static int parse_flag(struct disk_creation *creation, const char *key, bool *out_flag,
                      struct error *err)
{
    const char *text = disk_setting_take(creation, key);
    if (text == NULL) {
        return 0;
    }
    *out_flag = strcmp(text, "on") == 0;
    return *out_flag || strcmp(text, "off") == 0
               ? 0
               : error_set(err, EINVAL, "option %s=%s: on or off", key, text);
}

static int parse_version(struct disk_creation *creation, uint32_t *out_version, struct error *err)
{
    static const struct {
        const char *name;
        uint32_t version;
    } names[] = {{"0.10", 2}, {"v2", 2}, {"2", 2}, {"1.1", 3}, {"v3", 3}, {"3", 3}};
    const char *text = disk_setting_take(creation, "compat");
    for (size_t i = 0; text != NULL && i < ARRAY_COUNT(names); i++) {
        if (strcmp(text, names[i].name) == 0) {
            *out_version = names[i].version;
            return 0;
        }
    }
    return text == NULL ? 0
                        : error_set(err, EINVAL, "option compat=%s: 0.10 or v2, 1.1 or v3", text);
}

static int parse_number(struct disk_creation *creation, const char *key, uint32_t *out_number,
                        struct error *err)
{
    const char *text = disk_setting_take(creation, key);
    uint64_t number;
    if (text == NULL) {
        return 0;
    }
    int rc = size_parse(text, 1, &number, err);
    if (rc == 0 && (number == 0 || number > UINT32_MAX)) {
        rc = error_set(err, ERANGE, "'%s' is out of range", text);
    }
    if (rc < 0) {
        return error_prefix(err, rc, "option %s", key);
    }
    *out_number = (uint32_t)number;
    return 0;
}

static int parse_preallocation(struct disk_creation *creation, enum block_preallocation *out_mode,
                               struct error *err)
{
    static const char *const modes[] = {[BLOCK_PREALLOCATION_OFF] = "off",
                                        [BLOCK_PREALLOCATION_METADATA] = "metadata",
                                        [BLOCK_PREALLOCATION_FALLOC] = "falloc",
                                        [BLOCK_PREALLOCATION_FULL] = "full"};
    const char *text = disk_setting_take(creation, "preallocation");
    for (size_t i = 0; text != NULL && i < ARRAY_COUNT(modes); i++) {
        if (strcmp(text, modes[i]) == 0) {
            *out_mode = (enum block_preallocation)i;
            return 0;
        }
    }
    return text == NULL ? 0
                        : error_set(err, EINVAL,
                                    "option preallocation=%s: off, metadata, falloc or full", text);
}

static int parse_settings(struct disk_creation *creation, struct block_create_options *options,
                          struct error *err)
{
    int rc = parse_version(creation, &options->version, err);
    if (rc < 0 || (rc = parse_number(creation, "cluster_size", &options->cluster_size, err)) < 0 ||
        (rc = parse_number(creation, "refcount_bits", &options->refcount_bits, err)) < 0 ||
        (rc = parse_flag(creation, "extended_l2", &options->has_extended_l2, err)) < 0 ||
        (rc = parse_flag(creation, "lazy_refcounts", &options->has_lazy_refcounts, err)) < 0 ||
        (rc = parse_flag(creation, "data_file_raw", &options->is_data_file_raw, err)) < 0 ||
        (rc = parse_preallocation(creation, &options->preallocation, err)) < 0) {
        return rc;
    }
    options->compression = disk_setting_take(creation, "compression_type");
    options->data_name = disk_setting_take(creation, "data_file");
    return 0;
}

/* The file beside the image that shall hold its data; there must be none of that name. */
static int make_data_file(const char *path, const struct cache_mode *cache, struct event_loop *loop,
                          struct block **out_block, struct error *err)
{
    int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | disk_cache_flags(cache), 0666);
    if (fd < 0) {
        return error_set_errno(err, errno, "creating the data file %s", path);
    }
    struct block_file_options options = {
        .is_growable = true, .is_direct = cache->is_direct, .is_unsafe = cache->is_unsafe};
    return block_open_file(fd, path, &options, loop, out_block, err);
}

static int give_key(void *ctx, const struct block_crypt_header *header,
                    struct block_crypt *out_crypt, struct error *err)
{
    *out_crypt = *(const struct block_crypt *)ctx;
    return 0;
}

/* A LUKS header in memory, and what unlocks it. */
static int make_crypt_header(const struct disk_creation *creation, struct event_loop *loop,
                             struct block_create_options *options, struct block_crypt **out_crypt,
                             struct error *err)
{
    static const struct cli_key none;
    char *bytes = NULL;
    size_t size = 0;
    int rc = cli_key_read(creation->key != NULL ? creation->key : &none, &bytes, &size, err);
    if (rc == 0) {
        *out_crypt = block_crypt_new();
        rc = *out_crypt != NULL ? 0 : error_set_errno(err, ENOMEM, "making a key");
    }
    if (rc == 0) {
        rc = block_open_memory(0, "LUKS header", loop, &options->crypt_header, err);
    }
    if (rc == 0) {
        const struct block_crypt_creation header = {.version = creation->luks_version,
                                                    .iter_ms = creation->iter_ms};
        rc = block_crypt_format(options->crypt_header, &header, bytes, size, *out_crypt, err);
        options->crypt_header_bytes = (*out_crypt)->payload_offset;
    }
    secret_free(bytes, BLOCK_CRYPT_MAX_PASSPHRASE);
    return rc;
}

int disk_create_qcow2(struct block *file, struct disk_target *target,
                      struct disk_creation *creation, struct event_loop *loop,
                      struct block **out_block, struct error *err)
{
    struct block_create_options options = {.format = "qcow2",
                                           .size_bytes = creation->size_bytes,
                                           .backing_name = creation->backing,
                                           .backing_format = creation->backing_format};
    AUTO_FREE char *data_path = NULL;
    struct block *data = NULL;
    struct block_crypt *crypt = NULL;
    int rc = parse_settings(creation, &options, err);
    if (rc == 0 && options.data_name != NULL &&
        (rc = disk_name_to_path(target->path, options.data_name, &data_path, err)) == 0) {
        rc = make_data_file(data_path, &creation->cache, loop, &data, err);
        if (rc < 0) {
            free(TAKE_PTR(data_path)); /* it is not ours */
        }
    }
    options.data_file = data;
    if (rc == 0 && creation->luks_version != 0) {
        rc = make_crypt_header(creation, loop, &options, &crypt, err);
        options.unlock = give_key;
        options.unlock_ctx = crypt;
    }
    if (rc == 0) {
        rc = block_create(file, &options, err);
    }
    block_close(options.crypt_header);
    if (rc == 0 && creation->is_only_made) {
        *out_block = file;
        block_close(data);
        block_crypt_free(crypt);
        return 0;
    }
    if (rc == 0) {
        struct block_options open_options = {.format = "qcow2",
                                             .data_file = data,
                                             .unlock = crypt != NULL ? give_key : NULL,
                                             .unlock_ctx = crypt};
        rc = block_open_format(file, &open_options, out_block, err);
    } else {
        block_close(file);
        block_close(data);
    }
    block_crypt_free(crypt);
    if (rc < 0 && data_path != NULL) {
        (void)unlink(data_path);
    }
    return rc;
}
