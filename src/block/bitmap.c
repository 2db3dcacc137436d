#include "block/bitmap.h"

#include <stdlib.h>
#include <string.h>

#include "base/core/bits.h"
#include "block/provider.h"

static struct block_bitmap *from_watch(struct block_watch *watch)
{
    return container_of(watch, struct block_bitmap, watch);
}

static void mark(struct block_watch *watch, uint64_t offset, uint64_t size)
{
    struct block_bitmap *bitmap = from_watch(watch);
    if (bitmap->is_enabled && !bitmap->is_inconsistent) {
        dirty_map_set(&bitmap->map, offset, size);
    }
}

static int resize(struct block_watch *watch, uint64_t size_bytes)
{
    return dirty_map_resize(&from_watch(watch)->map, size_bytes);
}

struct block_bitmap *block_bitmap_find(const struct block_front *front, const char *name)
{
    struct block_bitmap *at = block_bitmap_first(front);
    while (at != NULL && strcmp(at->name, name) != 0) {
        at = at->next;
    }
    return at;
}

static unsigned count(const struct block_front *front)
{
    unsigned found = 0;
    for (const struct block_bitmap *at = block_bitmap_first(front); at != NULL; at = at->next) {
        found++;
    }
    return found;
}

static int check_new(struct block_front *front, const char *name, uint32_t granularity,
                     struct error *err)
{
    size_t length = strlen(name);
    if (length == 0 || length > BLOCK_MAX_BITMAP_NAME) {
        return error_set(err, EINVAL, "a bitmap's name has 1 to %d bytes", BLOCK_MAX_BITMAP_NAME);
    }
    if (!is_power_of_two(granularity) || granularity < BLOCK_MIN_BITMAP_GRANULARITY ||
        granularity > BLOCK_MAX_BITMAP_GRANULARITY) {
        return error_set(err, EINVAL, "a granularity is a power of two from %u to %u",
                         BLOCK_MIN_BITMAP_GRANULARITY, BLOCK_MAX_BITMAP_GRANULARITY);
    }
    if (block_front_block(front)->info.size_bytes / granularity >= BLOCK_MAX_BITMAP_BITS) {
        return error_set(err, E2BIG,
                         "a granularity of %u bytes is too small for a disk of that size",
                         granularity);
    }
    if (block_bitmap_find(front, name) != NULL) {
        return error_set(err, EEXIST, "there is a bitmap %.40s", name);
    }
    if (count(front) >= BLOCK_MAX_BITMAPS) {
        return error_set(err, E2BIG, "the disk has %d bitmaps: no more", BLOCK_MAX_BITMAPS);
    }
    return 0;
}

int block_bitmap_add(struct block_front *front, const char *name, uint32_t granularity,
                     bool is_persistent, bool is_enabled, struct block_bitmap **out_bitmap,
                     struct error *err)
{
    struct block *block = block_front_block(front);
    granularity = granularity != 0 ? granularity : BLOCK_BITMAP_GRANULARITY;
    int rc = check_new(front, name, granularity, err);
    if (rc < 0) {
        return rc;
    }
    const struct block_image_ops *ops = block_front_root(front)->ops->image;
    if (is_persistent && (ops == NULL || ops->bitmaps_store == NULL)) {
        return error_set(err, EOPNOTSUPP, "images of format %s keep no bitmaps: qcow2 does",
                         block_disk_format(block_front_root(front)));
    }
    struct block_bitmap *bitmap = calloc(1, sizeof(*bitmap));
    if (bitmap == NULL || dirty_map_init(&bitmap->map, block->info.size_bytes, granularity) < 0) {
        free(bitmap);
        return error_set_errno(err, ENOMEM, "a bitmap");
    }
    memcpy(bitmap->name, name, strlen(name) + 1);
    bitmap->is_persistent = is_persistent;
    bitmap->is_enabled = is_enabled;
    bitmap->watch = (struct block_watch){.mark = mark, .resize = resize};
    struct block_bitmap **at = block_front_bitmaps(front);
    while (*at != NULL) {
        at = &(*at)->next;
    }
    *at = bitmap;
    block_drain(block);
    block_front_add_watch(front, &bitmap->watch);
    *out_bitmap = bitmap;
    return 0;
}

static void destroy(struct block_front *front, struct block_bitmap *bitmap)
{
    block_front_remove_watch(front, &bitmap->watch);
    dirty_map_fini(&bitmap->map);
    free(bitmap);
}

void block_bitmap_remove(struct block_front *front, struct block_bitmap *bitmap)
{
    struct block_bitmap **at = block_front_bitmaps(front);
    while (*at != bitmap) {
        at = &(*at)->next;
    }
    *at = bitmap->next;
    block_drain(block_front_block(front));
    destroy(front, bitmap);
}

void block_bitmap_merge(struct block_bitmap *to, const struct block_bitmap *from)
{
    dirty_map_merge(&to->map, &from->map);
}

int block_bitmap_check(const struct block_bitmap *bitmap, struct error *err)
{
    if (bitmap->user != NULL) {
        return error_set(err, EBUSY, "bitmap %.40s: a job uses it", bitmap->name);
    }
    if (bitmap->is_inconsistent) {
        return error_set(err, EINVAL,
                         "bitmap %.40s: the image was not closed, so it lacks changes: it can only "
                         "be removed",
                         bitmap->name);
    }
    return 0;
}

struct loading {
    struct block_front *front;
    struct error *err;
};

static int load_one(void *ctx, const struct block_stored_bitmap *stored)
{
    const struct loading *loading = ctx;
    struct block_bitmap *bitmap = NULL;
    /* Of one that lacks changes the bits do not matter. */
    uint32_t granularity = stored->map != NULL ? stored->granularity : BLOCK_MAX_BITMAP_GRANULARITY;
    int rc = block_bitmap_add(loading->front, stored->name, granularity, true, stored->is_enabled,
                              &bitmap, loading->err);
    if (rc < 0 || bitmap == NULL) {
        return rc;
    }
    bitmap->is_inconsistent = stored->map == NULL;
    if (stored->map != NULL) {
        dirty_map_merge(&bitmap->map, stored->map);
    }
    return 0;
}

int block_bitmaps_load(struct block_front *front, struct error *err)
{
    struct block *root = block_front_root(front);
    const struct block_image_ops *ops = root->ops->image;
    struct loading loading = {front, err};
    if (ops == NULL || ops->bitmaps_load == NULL) {
        return 0;
    }
    return ops->bitmaps_load(root, load_one, &loading, err);
}

int block_bitmaps_store(struct block_front *front, struct error *err)
{
    struct block *root = block_front_root(front);
    const struct block_image_ops *ops = root->ops->image;
    struct block_stored_bitmap stored[BLOCK_MAX_BITMAPS];
    unsigned found = 0;
    if (ops == NULL || ops->bitmaps_store == NULL || root->info.is_readonly) {
        return 0;
    }
    for (const struct block_bitmap *at = block_bitmap_first(front); at != NULL; at = at->next) {
        if (at->is_persistent) {
            stored[found++] = (struct block_stored_bitmap){
                .name = at->name,
                .granularity = at->map.granularity,
                .is_enabled = at->is_enabled,
                /* While a job has a part of it, the file must not say that it is whole. */
                .map = at->is_inconsistent || at->user != NULL ? NULL : &at->map,
            };
        }
    }
    return ops->bitmaps_store(root, stored, found, err);
}

int block_bitmaps_forget(struct block_front *front, struct error *err)
{
    struct block *root = block_front_root(front);
    const struct block_image_ops *ops = root->ops->image;
    return block_bitmap_first(front) != NULL && ops != NULL && ops->bitmaps_store != NULL &&
                   !root->info.is_readonly
               ? ops->bitmaps_store(root, NULL, 0, err)
               : 0;
}

void block_bitmaps_close(struct block_front *front)
{
    struct block_bitmap **first = block_front_bitmaps(front);
    while (*first != NULL) {
        struct block_bitmap *bitmap = *first;
        *first = bitmap->next;
        destroy(front, bitmap);
    }
}
