/* Changes of the chain of a disk in use that take no time: another image on top, an image below that is written to. */
#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "block/bitmap.h"
#include "block/provider.h"

/* Stands below the new image while it is opened: what is given there goes when that fails, and the root must not. */
static int make_stand_in(const struct block *root, struct block **out_block, struct error *err)
{
    int rc = block_open_memory(root->info.size_bytes, root->name, root->loop, out_block, err);
    if (rc == 0) {
        (*out_block)->info = root->info;
        (*out_block)->info.is_readonly = true;
    }
    return rc;
}

static int check_empty(struct block *overlay, struct error *err)
{
    for (uint64_t at = 0; at < overlay->info.size_bytes;) {
        struct block_extent extent;
        int rc = block_map(overlay, at, overlay->info.size_bytes - at, &extent);
        if (rc < 0) {
            return error_set_errno(err, -rc, "reading %s", overlay->name);
        }
        if (extent.kind != BLOCK_EXTENT_ABSENT) {
            return error_set(err, EINVAL, "%s has contents of its own: an empty image is accepted",
                             overlay->name);
        }
        at += extent.size_bytes;
    }
    return 0;
}

static int check_depth(const struct block *root, struct error *err)
{
    unsigned depth = 1;
    for (const struct block *at = root; at != NULL; at = at->backing) {
        depth++;
    }
    return depth <= BLOCK_MAX_CHAIN
               ? 0
               : error_set(err, ELOOP, "the disk has %d images on top of each other: no more",
                           BLOCK_MAX_CHAIN);
}

int block_front_put_overlay(struct block_front *front, struct block *file, const char *format,
                            struct error *err)
{
    struct block *root = block_front_root(front);
    struct block_options options = {.format = format};
    struct block *overlay;
    int rc = check_depth(root, err);
    if (rc == 0) {
        rc = make_stand_in(root, &options.backing, err);
    }
    if (rc < 0) {
        block_close(file);
        return rc;
    }
    rc = block_open_format(file, &options, &overlay, err);
    if (rc < 0) {
        return rc;
    }
    rc = block_front_check(front, overlay, "the new image", err);
    if (rc == 0) {
        rc = check_empty(overlay, err);
    }
    block_drain(block_front_block(front));
    if (rc == 0) {
        rc = block_flush(root);
        if (rc < 0) {
            (void)error_set_errno(err, -rc, "making %s durable", root->name); /* rc says it */
        }
    }
    if (rc == 0) {
        rc = block_bitmaps_forget(front, err); /* the new image has them from now on */
    }
    if (rc < 0) {
        block_close(overlay);
        return rc;
    }
    block_close(block_replace_backing(overlay, root));
    block_front_make_readonly(root);
    (void)block_front_exchange(front, overlay); /* it stands below now */
    (void)!block_bitmaps_store(front, NULL);    /* they are in memory, and stored in the end */
    return 0;
}

/* The image in 'file' (handed over, also on failure), which is open for writing, on what 'old' stands on. */
static int open_again(struct block *old, struct block *file, struct block **out_block,
                      struct error *err)
{
    struct block_options options = {.format = block_disk_format(old)};
    int rc = 0;
    if (old->backing != NULL) {
        rc = make_stand_in(old->backing, &options.backing, err);
    }
    if (rc < 0) {
        block_close(file);
        return rc;
    }
    rc = block_open_format(file, &options, out_block, err);
    if (rc == 0 && (*out_block)->info.is_readonly) {
        block_close(*out_block);
        rc = error_set(err, EROFS, "%s: images of format %s are only read", old->name,
                       options.format);
    }
    return rc;
}

static bool is_same_file(const struct block *block, const struct stat *file)
{
    struct stat own;
    return fstat(block_descriptor(block), &own) == 0 && own.st_dev == file->st_dev &&
           own.st_ino == file->st_ino;
}

bool block_front_is_open_for_writing(const struct block *block)
{
    return !block->info.is_readonly || block->is_demoted;
}

/* It was open for writing once, and is so below its format. */
static int promote(struct block *block, struct error *err)
{
    int rc = block->info.is_readonly ? block_set_lock(block, BLOCK_LOCK_ALONE, err) : 0;
    if (rc == 0) {
        block->is_demoted = false;
        block->info.is_readonly = false;
    }
    return rc;
}

static int open_file(const struct block *old, int fd, const struct block_file_options *options,
                     struct block **out_file, struct error *err)
{
    struct block_file_options own = *options;
    own.is_growable = strcmp(block_disk_format(old), "raw") != 0;
    return block_open_file(fd, old->name, &own, old->loop, out_file, err);
}

/* The image below 'above' becomes one that is open for writing: in 'file', or else in 'fd'; these are handed over. Nobody reads the
 * chain meanwhile. */
static int exchange_below(struct block *above, struct block *file, int fd,
                          const struct block_file_options *options, struct block **out_block,
                          struct error *err)
{
    struct block *old = above->backing, *again = NULL;
    (void)!block_set_lock(old, BLOCK_LOCK_NONE, NULL); /* else it would be in its own way */
    int rc = file == NULL ? open_file(old, fd, options, &file, err) : 0;
    if (rc == 0) {
        rc = open_again(old, file, &again, err);
    }
    if (rc < 0) {
        (void)!block_set_lock(old, BLOCK_LOCK_SHARED, NULL); /* nobody may have come in between */
        return rc;
    }
    block_close(block_replace_backing(again, block_replace_backing(old, NULL)));
    (void)block_replace_backing(above, again); /* 'old' */
    block_close(old);
    *out_block = again;
    return 0;
}

int block_front_make_writable(struct block_front *front, int fd,
                              const struct block_file_options *options, struct block **out_block,
                              struct error *err)
{
    struct block *above = block_front_root(front);
    struct stat file;
    if (fstat(fd, &file) < 0) {
        int rc = error_set_errno(err, errno, "the image to be written to");
        close(fd);
        return rc;
    }
    block_drain(block_front_block(front));
    block_front_hold(front);
    while (above->backing != NULL && !is_same_file(above->backing, &file)) {
        above = above->backing;
    }
    struct block *image = above->backing;
    int rc = 0;
    if (image == NULL || block_front_is_open_for_writing(image)) {
        close(fd);
        rc = image != NULL
                 ? promote(image, err)
                 : error_set(err, EINVAL, "the disk does not stand on this file: see disk-list");
        *out_block = image;
    } else {
        rc = exchange_below(above, NULL, fd, options, out_block, err);
    }
    block_front_release(front);
    return rc;
}

int block_front_make_named_writable(struct block_front *front, const char *name, struct block *file,
                                    struct block **out_block, struct error *err)
{
    struct block *above = block_front_root(front);
    block_drain(block_front_block(front));
    block_front_hold(front);
    while (above->backing != NULL && strcmp(above->backing->name, name) != 0) {
        above = above->backing;
    }
    struct block *image = above->backing;
    int rc = 0;
    if (image != NULL && file != NULL && !block_front_is_open_for_writing(image)) {
        rc = exchange_below(above, file, -1, NULL, out_block, err);
    } else {
        block_close(file);
        rc = image == NULL
                 ? error_set(err, EINVAL, "the disk does not stand on this image: see disk-list")
             : block_front_is_open_for_writing(image)
                 ? promote(image, err)
                 : error_set(err, EROFS, "it is open for reading only, and nothing else came");
        *out_block = image;
    }
    block_front_release(front);
    return rc;
}

void block_front_make_readonly(struct block *block)
{
    if (!block->info.is_readonly) {
        block->info.is_readonly = true;
        block->is_demoted = true;
        (void)!block_set_lock(block, BLOCK_LOCK_SHARED, NULL); /* at worst it is too strong */
    }
}
