/* Opening images: what format they have, and which files they may name. */
#include <fcntl.h>
#include <fnmatch.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <linux/fs.h>

#include "base/core/endian.h"
#include "base/host/file.h"
#include "block/format/foreign/foreign.h"
#include "block/image.h"
#include "cli/disk/disk.h"

#define QCOW2_MAGIC 0x514649fbu

/* One image on its way to be open; those that it names follow it. */
struct opening {
    struct event_loop *loop;
    const struct disk_image *image;
    const char *path;
    unsigned depth;
    char *backing_path; /* what the image stands on, once that is known */
    char *backing_format;
};

/* The bytes of an image: a file, or a remote disk. */
struct source {
    const char *path;
    int fd;               /* -1: it is a remote one */
    struct block *remote; /* NULL: it is a file */
};

static int source_open(struct source *source, const char *path, const struct disk_image *image,
                       bool is_readonly, struct event_loop *loop, struct error *err)
{
    *source = (struct source){.path = path, .fd = -1};
    if (block_is_uri(path)) {
        struct block_remote_options options;
        disk_remote_options(image, is_readonly, &options);
        return block_open_uri(path, &options, loop, &source->remote, err);
    }
    /* Without O_NONBLOCK a FIFO would make us wait for ever. */
    source->fd = open(path, (is_readonly ? O_RDONLY : O_RDWR) | O_CLOEXEC | O_NONBLOCK |
                                disk_cache_flags(&image->cache));
    return source->fd < 0 ? error_set_errno(err, errno, "disk %s", path) : 0;
}

static void source_close(struct source *source)
{
    block_close(source->remote);
    if (source->fd >= 0) {
        close(source->fd);
    }
}

static int source_size(const struct source *source, uint64_t *out_size)
{
    struct stat st;
    if (source->remote != NULL) {
        struct block_info info;
        block_get_info(source->remote, &info);
        *out_size = info.size_bytes;
        return 0;
    }
    if (fstat(source->fd, &st) < 0) {
        return -errno;
    }
    *out_size = (uint64_t)st.st_size;
    return S_ISBLK(st.st_mode) && ioctl(source->fd, BLKGETSIZE64, out_size) < 0 ? -errno : 0;
}

static int source_read(const struct source *source, void *out_data, size_t size, uint64_t offset,
                       struct error *err)
{
    if (source->remote == NULL) {
        return file_read_at(source->fd, out_data, size, offset, source->path, err);
    }
    int rc = size > 0 ? block_read(source->remote, offset, out_data, size) : 0;
    return rc < 0 ? error_set_errno(err, -rc, "reading disk %s", block_name(source->remote)) : 0;
}

static int detect(const struct source *source, const char **out_format, struct error *err)
{
    const char *path = source->path;
    /* Not on the stack: images that stand on each other are opened one inside of the other. */
    AUTO_FREE uint8_t *head = malloc((size_t)2 * FOREIGN_HEAD_SIZE);
    uint8_t *tail = head + FOREIGN_HEAD_SIZE;
    uint64_t size = 0;
    int rc = head != NULL ? source_size(source, &size) : -ENOMEM;
    if (rc < 0) {
        return error_set_errno(err, -rc, "disk %s", path);
    }
    size_t part = (size_t)MIN(size, FOREIGN_HEAD_SIZE);
    rc = source_read(source, head, part, 0, err);
    if (rc == 0) {
        rc = source_read(source, tail, part, size - part, err);
    }
    if (rc < 0) {
        return rc;
    }
    if (part >= sizeof(BLOCK_VEIL_MARK) &&
        memcmp(head, BLOCK_VEIL_MARK, sizeof(BLOCK_VEIL_MARK) - 1) == 0) {
        return error_set(err, EINVAL, "disk %s: is what a disk job has left unfinished: no disk",
                         path);
    }
    const struct foreign_format *foreign = foreign_probe(head, part, tail, part);
    *out_format = part >= 8 && be32_get(head) == QCOW2_MAGIC          ? "qcow2"
                  : part >= 6 && memcmp(head, "LUKS\xba\xbe", 6) == 0 ? "luks"
                  : foreign != NULL                                   ? foreign_format_name(foreign)
                                                                      : "raw";
    return 0;
}

const char *disk_format_of_name(const char *path)
{
    static const char *const endings[][2] = {
        {".raw", "raw"},   {".img", "raw"}, {".qcow2", "qcow2"}, {".vmdk", "vmdk"},
        {".vhdx", "vhdx"}, {".vhd", "vhd"}, {".vdi", "vdi"},     {".luks", "luks"},
    };
    const char *dot = strrchr(path, '.');
    for (size_t i = 0; dot != NULL && i < ARRAY_COUNT(endings); i++) {
        if (strcasecmp(dot, endings[i][0]) == 0) {
            return endings[i][1];
        }
    }
    return NULL;
}

/* A guest can write into its raw disk whatever an image begins with: the content alone is not believed. */
static int format_for_writing(const struct source *source, const char **out_format,
                              struct error *err)
{
    const char *path = source->path;
    const char *content;
    int rc = detect(source, &content, err);
    if (rc < 0) {
        return rc;
    }
    const char *name = disk_format_of_name(path);
    if (name == NULL) {
        return error_set(err, EINVAL,
                         "disk %s: its name does not say which format it has: --image-format %s",
                         path, content);
    }
    if (strcmp(name, content) != 0) {
        return error_set(
            err, EINVAL,
            "disk %s: its name says that it is %s, its content %s: --image-format says "
            "what holds",
            path, name, content);
    }
    *out_format = name;
    return 0;
}

int disk_backing_format(const char *path, const char *given, const char **out_format,
                        struct error *err)
{
    *out_format = given != NULL ? given : disk_format_of_name(path);
    return *out_format != NULL ? 0
                               : error_set(err, EINVAL,
                                           "backing file %s: its name does not say which format it "
                                           "has: --backing-format",
                                           path);
}

bool disk_is_allowed(const struct disk_image *image, const char *name)
{
    for (unsigned i = 0; i < image->allowed_count; i++) {
        /* A URI must be allowed as it is: a pattern that was meant for files shall not connect to anybody. */
        if (strcmp(image->allowed[i], name) == 0 ||
            (!block_is_uri(name) && fnmatch(image->allowed[i], name, FNM_PATHNAME) == 0)) {
            return true;
        }
    }
    return false;
}

void disk_remote_options(const struct disk_image *image, bool is_readonly,
                         struct block_remote_options *out_options)
{
    *out_options = (struct block_remote_options){
        .is_readonly = is_readonly,
        .reconnect_ns = image->has_reconnect ? image->reconnect_ns : BLOCK_REMOTE_RECONNECT_NS,
        .timeout_ns = BLOCK_REMOTE_TIMEOUT_NS,
    };
}

int disk_name_to_path(const char *path, const char *name, char **out_path, struct error *err)
{
    const char *slash = strrchr(path, '/');
    int folder = name[0] == '/' || slash == NULL || block_is_uri(name) || block_is_uri(path)
                     ? 0
                     : (int)(slash - path) + 1;
    return asprintf(out_path, "%.*s%s", folder, path, name) >= 0
               ? 0
               : error_set_errno(err, ENOMEM, "its name");
}

/* Called within the coroutine that opens the image. A backing file is only taken note of: it is opened before a second try, where
 * a chain may be as long as it likes. */
static int resolve(void *ctx, const struct block_reference *reference, struct block **out_block,
                   struct error *err)
{
    struct opening *opening = ctx;
    if (!disk_is_allowed(opening->image, reference->name)) {
        return error_set(err, EPERM, "not allowed: --allow permits it");
    }
    AUTO_FREE char *path = NULL;
    int rc = disk_name_to_path(opening->path, reference->name, &path, err);
    if (rc < 0) {
        return rc;
    }
    if (reference->kind == BLOCK_REFERENCE_BACKING) {
        opening->backing_path = TAKE_PTR(path);
        opening->backing_format = reference->format != NULL ? strdup(reference->format) : NULL;
        return error_set(err, EAGAIN, "not open yet");
    }
    struct source source;
    rc = source_open(&source, path, opening->image, reference->is_readonly, opening->loop, err);
    if (rc < 0) {
        return rc;
    }
    if (source.remote != NULL) {
        *out_block = source.remote;
        return block_remote_for_format(out_block, err);
    }
    struct block_file_options options = {.is_readonly = reference->is_readonly,
                                         .is_direct = opening->image->cache.is_direct,
                                         .is_unsafe = opening->image->cache.is_unsafe,
                                         .is_growable = true};
    return block_open_file(source.fd, path, &options, opening->loop, out_block, err);
}

/* One try, on what is given. */
static int open_once(struct opening *opening, const char *format, bool is_readonly,
                     struct block *backing, struct block **out_block, struct error *err)
{
    struct source source;
    int rc = source_open(&source, opening->path, opening->image, is_readonly, opening->loop, err);
    if (rc == 0 && format == NULL) {
        rc =
            is_readonly ? detect(&source, &format, err) : format_for_writing(&source, &format, err);
    }
    if (rc == 0 && source.remote != NULL && strcmp(format, "raw") != 0) {
        rc = block_remote_for_format(&source.remote, err);
        source.remote = rc < 0 ? NULL : source.remote;
    }
    if (rc < 0) {
        block_close(backing);
        source_close(&source);
        return rc;
    }
    struct block_options options = {
        .format = format,
        .is_readonly = is_readonly,
        .is_direct = opening->image->cache.is_direct,
        .is_unsafe = opening->image->cache.is_unsafe,
        .backing = backing,
        .resolve = resolve,
        .resolve_ctx = opening,
        .unlock = cli_key_unlock,
        .unlock_ctx = (void *)&opening->image->key,
        .snapshot = opening->depth == 0 ? opening->image->snapshot : NULL,
        .is_alone = opening->depth == 0 && opening->image->is_alone,
        .is_for_repair = opening->depth == 0 && opening->image->is_for_repair,
    };
    return source.remote != NULL
               ? block_open_format(source.remote, &options, out_block, err)
               : block_open(source.fd, opening->path, &options, opening->loop, out_block, err);
}

static int open_chain(struct opening *opening, const char *format, bool is_readonly,
                      struct block **out_block, struct error *err)
{
    struct block *backing = NULL;
    int rc = 0;
    if (opening->depth > BLOCK_MAX_CHAIN) {
        return error_set(err, ELOOP, "disk %s: more than %d images stand on each other",
                         opening->path, BLOCK_MAX_CHAIN);
    }
    if (opening->depth == 0 && opening->image->backing != NULL) {
        struct opening below = {opening->loop, opening->image, opening->image->backing, 1};
        rc = open_chain(&below, opening->image->backing_format, true, &backing, err);
    }
    if (rc == 0) {
        rc = open_once(opening, format, is_readonly, backing, out_block, err);
    }
    if (rc < 0 && opening->backing_path != NULL) {
        struct opening below = {opening->loop, opening->image, opening->backing_path,
                                opening->depth + 1};
        rc = open_chain(&below, opening->backing_format, true, &backing, err);
        if (rc == 0) {
            rc = open_once(opening, format, is_readonly, backing, out_block, err);
        }
    }
    free(opening->backing_path);
    free(opening->backing_format);
    return rc;
}

int disk_open(struct event_loop *loop, const char *path, const struct disk_image *image,
              enum disk_access access, struct block **out_block, struct error *err)
{
    struct opening opening = {loop, image, path, 0};
    int rc = disk_cache_check(&image->cache, path, err);
    return rc < 0 ? rc : open_chain(&opening, image->format, access == DISK_READ, out_block, err);
}

int disk_begin(const char *path, const struct disk_image *image, enum disk_access access,
               struct event_loop **out_loop, struct block **out_block, struct error *err)
{
    int rc = event_loop_create(out_loop, err);
    return rc < 0 ? rc : disk_open(*out_loop, path, image, access, out_block, err);
}
