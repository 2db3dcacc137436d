/* The formats that images can be made in. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/core/size.h"
#include "base/host/secret.h"
#include "block/crypt.h"
#include "block/format/foreign/write.h"
#include "cli/disk/disk.h"
#include "cli/disk/target.h"

#define SECTOR_SIZE 512u

struct creatable {
    const char *name;
    /* 'fd' is the new block's, also on failure. */
    int (*create)(int fd, struct disk_target *target, struct disk_creation *creation,
                  struct event_loop *loop, struct block **out_block, struct error *err);
};

int disk_creation_add(struct disk_creation *creation, const char *value, struct error *err)
{
    if (strchr(value, '=') == NULL || creation->setting_count == DISK_MAX_SETTINGS) {
        return error_set(err, EINVAL, "'%s' cannot be taken: KEY=VALUE, %d at most", value,
                         DISK_MAX_SETTINGS);
    }
    creation->setting[creation->setting_count++].text = value;
    return 0;
}

int disk_creation_encrypt(struct disk_creation *creation, const char *value, struct error *err)
{
    if (strcmp(value, "luks") != 0 && strcmp(value, "luks1") != 0 && strcmp(value, "luks2") != 0) {
        return error_set(err, EINVAL, "'%s' is unknown: luks, luks1 or luks2", value);
    }
    creation->luks_version = strcmp(value, "luks2") == 0 ? 2 : 1; /* QEMU knows version 1 */
    return 0;
}

int disk_creation_iter_time(struct disk_creation *creation, const char *value, struct error *err)
{
    uint64_t number;
    int rc = number_parse(value, 1, BLOCK_CRYPT_MAX_ITER_MS, &number, err);
    if (rc == 0) {
        creation->iter_ms = (uint32_t)number;
    }
    return rc;
}

void disk_creation_default_format(struct disk_creation *creation, const char *path)
{
    if (creation->format == NULL) {
        const char *format = disk_format_of_name(path);
        creation->format = format != NULL ? format : "raw";
    }
    if (creation->luks_version != 0 && strcmp(creation->format, "raw") == 0) {
        creation->format = "luks";
    }
}

const char *disk_setting_take(struct disk_creation *creation, const char *key)
{
    const char *found = NULL;
    size_t length = strlen(key);
    for (unsigned i = 0; i < creation->setting_count; i++) {
        struct disk_setting *setting = &creation->setting[i];
        if (strncmp(setting->text, key, length) == 0 && setting->text[length] == '=') {
            setting->is_used = true;
            found = setting->text + length + 1; /* the last one holds */
        }
    }
    return found;
}

static int preallocate(int fd, const struct disk_creation *creation, const char *mode,
                       struct error *err)
{
    if (mode == NULL || strcmp(mode, "off") == 0) {
        return 0;
    }
    if (strcmp(mode, "falloc") != 0 && strcmp(mode, "full") != 0) {
        return error_set(err, EINVAL, "option preallocation=%s: off, falloc or full", mode);
    }
    int rc = mode[1] == 'a' ? posix_fallocate(fd, 0, (off_t)creation->size_bytes) : 0;
    if (rc != 0) {
        return error_set_errno(err, rc, "allocating %llu bytes",
                               (unsigned long long)creation->size_bytes);
    }
    if (mode[1] == 'u') {
        static const uint8_t zeros[1 << 16];
        for (uint64_t at = 0; at < creation->size_bytes; at += sizeof(zeros)) {
            size_t part = (size_t)MIN(creation->size_bytes - at, sizeof(zeros));
            if (pwrite(fd, zeros, part, (off_t)at) != (ssize_t)part) {
                return error_set_errno(err, errno, "writing zeros");
            }
        }
    }
    return 0;
}

/* A remote disk has none. */
static void close_fd(int fd)
{
    if (fd >= 0) {
        close(fd);
    }
}

static int create_raw(int fd, struct disk_target *target, struct disk_creation *creation,
                      struct event_loop *loop, struct block **out_block, struct error *err)
{
    int rc = 0;
    if (!target->is_device) {
        if (ftruncate(fd, (off_t)creation->size_bytes) < 0) {
            rc = error_set_errno(err, errno, "making %s %llu bytes long", target->path,
                                 (unsigned long long)creation->size_bytes);
        } else {
            rc = preallocate(fd, creation, disk_setting_take(creation, "preallocation"), err);
        }
    }
    if (rc < 0) {
        close_fd(fd);
        return rc;
    }
    if (fd < 0) {
        static const struct disk_image defaults;
        struct block_remote_options remote;
        disk_remote_options(creation->image != NULL ? creation->image : &defaults, false, &remote);
        return block_open_uri(target->path, &remote, loop, out_block, err);
    }
    struct block_options options = {.format = "raw",
                                    .is_direct = creation->cache.is_direct,
                                    .is_unsafe = creation->cache.is_unsafe};
    return block_open(fd, target->path, &options, loop, out_block, err);
}

static int open_file(int fd, struct disk_target *target, const struct disk_creation *creation,
                     struct event_loop *loop, struct block **out_file, struct error *err)
{
    if (target->is_device) {
        close_fd(fd);
        return error_set(err, EOPNOTSUPP, "a %s cannot hold that format: raw",
                         fd >= 0 ? "block device" : "remote disk");
    }
    struct block_file_options options = {.is_growable = true,
                                         .is_direct = creation->cache.is_direct,
                                         .is_unsafe = creation->cache.is_unsafe};
    return block_open_file(fd, target->path, &options, loop, out_file, err);
}

static int create_vmdk(int fd, struct disk_target *target, struct disk_creation *creation,
                       struct event_loop *loop, struct block **out_block, struct error *err)
{
    const char *variant = disk_setting_take(creation, "subformat");
    if (variant != NULL && strcmp(variant, "streamOptimized") != 0) {
        close_fd(fd);
        return error_set(err, EOPNOTSUPP, "option subformat=%s: only streamOptimized is written",
                         variant);
    }
    const char *name = strrchr(target->path, '/');
    struct vmdk_write_options options = {.size_bytes = creation->size_bytes,
                                         .name = name != NULL ? name + 1 : target->path};
    struct block *file;
    int rc = open_file(fd, target, creation, loop, &file, err);
    return rc < 0 ? rc : vmdk_write_create(file, &options, out_block, err);
}

static int create_vhdx(int fd, struct disk_target *target, struct disk_creation *creation,
                       struct event_loop *loop, struct block **out_block, struct error *err)
{
    struct vhdx_write_options options = {.size_bytes = creation->size_bytes};
    const char *variant = disk_setting_take(creation, "subformat");
    const char *block_size = disk_setting_take(creation, "block_size");
    uint64_t bytes = 0;
    int rc = 0;
    if (variant != NULL && strcmp(variant, "dynamic") != 0) {
        rc = error_set(err, EOPNOTSUPP, "option subformat=%s: only dynamic is written", variant);
    } else if (block_size != NULL && (rc = size_parse(block_size, 1, &bytes, err)) < 0) {
        rc = error_prefix(err, rc, "option block_size");
    }
    if (rc < 0) {
        close_fd(fd);
        return rc;
    }
    options.block_size = (uint32_t)MIN(bytes, UINT32_MAX);
    struct block *file;
    rc = open_file(fd, target, creation, loop, &file, err);
    return rc < 0 ? rc : vhdx_write_create(file, &options, out_block, err);
}

static int create_qcow2(int fd, struct disk_target *target, struct disk_creation *creation,
                        struct event_loop *loop, struct block **out_block, struct error *err)
{
    struct block *file;
    int rc = open_file(fd, target, creation, loop, &file, err);
    return rc < 0 ? rc : disk_create_qcow2(file, target, creation, loop, out_block, err);
}

/* A raw disk behind a header. Its data is what it is: nothing in it reads as zeros until it has been written. */
static int create_luks(int fd, struct disk_target *target, struct disk_creation *creation,
                       struct event_loop *loop, struct block **out_block, struct error *err)
{
    static const struct cli_key none;
    struct block *file = NULL;
    char *bytes = NULL;
    size_t size = 0;
    const struct block_crypt_creation header = {
        .version = creation->luks_version != 0 ? creation->luks_version : 1,
        .iter_ms = creation->iter_ms};
    struct block_crypt *crypt = block_crypt_new();
    int rc = crypt != NULL ? 0 : error_set_errno(err, ENOMEM, "making a key");
    if (rc == 0) {
        rc = cli_key_read(creation->key != NULL ? creation->key : &none, &bytes, &size, err);
    }
    if (rc < 0) {
        close_fd(fd);
    } else {
        rc = open_file(fd, target, creation, loop, &file, err);
    }
    if (rc == 0) {
        rc = block_crypt_format(file, &header, bytes, size, crypt, err);
    }
    if (rc == 0 && (rc = block_resize(file, crypt->payload_offset + creation->size_bytes)) < 0) {
        rc = error_set_errno(err, -rc, "making it %llu bytes long",
                             (unsigned long long)creation->size_bytes);
    }
    if (rc == 0) {
        rc = block_crypt_open(file, crypt, out_block, err);
    }
    if (rc < 0) {
        block_close(file);
    }
    secret_free(bytes, BLOCK_CRYPT_MAX_PASSPHRASE);
    block_crypt_free(crypt);
    return rc;
}

static const struct creatable creatables[] = {
    {"raw", create_raw},   {"luks", create_luks}, {"qcow2", create_qcow2},
    {"vmdk", create_vmdk}, {"vhdx", create_vhdx},
};
const char disk_creatable_formats[] = "raw|qcow2|luks|vmdk|vhdx";

static const struct creatable *find(const char *format)
{
    for (size_t i = 0; i < ARRAY_COUNT(creatables); i++) {
        if (strcmp(creatables[i].name, format) == 0) {
            return &creatables[i];
        }
    }
    return NULL;
}

int disk_check_creatable(const char *format, struct error *err)
{
    return find(format) != NULL ? 0
                                : error_set(err, EOPNOTSUPP, "%s images cannot be made: one of %s",
                                            format, disk_creatable_formats);
}

static int check_creation(const struct disk_creation *creation, struct error *err)
{
    if (creation->size_bytes == 0 || creation->size_bytes % SECTOR_SIZE != 0 ||
        creation->size_bytes > INT64_MAX) {
        return error_set(err, EINVAL, "a disk of %llu bytes cannot be: a multiple of 512",
                         (unsigned long long)creation->size_bytes);
    }
    return 0;
}

int disk_target_create(struct disk_target *target, struct disk_creation *creation,
                       struct event_loop *loop, struct block **out_block, struct error *err)
{
    int rc = disk_check_creatable(creation->format, err);
    if (rc == 0 && creation->luks_version != 0 && strcmp(creation->format, "luks") != 0 &&
        strcmp(creation->format, "qcow2") != 0) {
        rc = error_set(err, EOPNOTSUPP, "%s images cannot be encrypted: raw and qcow2 ones can",
                       creation->format);
    }
    if (rc == 0) {
        rc = check_creation(creation, err);
    }
    if (rc == 0 && creation->backing != NULL && strcmp(creation->format, "qcow2") != 0) {
        rc =
            error_set(err, EINVAL, "%s images stand on nothing: qcow2 images do", creation->format);
    }
    int fd = -1;
    if (rc == 0 && target->fd >= 0 && (fd = fcntl(target->fd, F_DUPFD_CLOEXEC, 3)) < 0) {
        rc = error_set_errno(err, errno, "opening %s", target->path);
    }
    if (rc == 0) {
        rc = find(creation->format)->create(fd, target, creation, loop, out_block, err);
    }
    for (unsigned i = 0; i < creation->setting_count && rc == 0; i++) {
        if (!creation->setting[i].is_used) {
            rc = error_set(err, EINVAL, "option %s: %s images have no such option",
                           creation->setting[i].text, creation->format);
            block_close(*out_block);
        }
    }
    return rc < 0 ? error_prefix(err, rc, "creating %s", target->path) : 0;
}
