/* Images as exports: what lies between the file and the clients. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/core/cleanup.h"
#include "block/bitmap.h"
#include "block/image.h"
#include "cli/disk/serve.h"

#define NBD_MAX_CONTEXT_NAME (BLOCK_MAX_BITMAP_NAME + 32)
#define BITMAP_IS_DIRTY      1u /* the flag of contexts "qemu:dirty-bitmap:..." */

/* A qcow2 image in an unlinked file, over 'base', which becomes its own also on failure. */
static int put_temporary(struct block *base, struct event_loop *loop, struct block **out_block,
                         struct error *err)
{
    const char *folder = getenv("TMPDIR");
    folder = folder != NULL && folder[0] != '\0' ? folder : "/var/tmp";
    struct block_info info;
    block_get_info(base, &info);
    struct block *file = NULL;
    int fd = open(folder, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    struct block_file_options file_options = {.is_growable = true};
    int rc = fd < 0 ? error_set_errno(err, errno, "a temporary file in %s", folder)
                    : block_open_file(fd, "temporary", &file_options, loop, &file, err);
    struct block_create_options create = {.format = "qcow2",
                                          .size_bytes = info.size_bytes,
                                          .backing_name = "base",
                                          .backing_format = "raw"};
    if (rc == 0 && (rc = block_create(file, &create, err)) < 0) {
        block_close(file);
    }
    if (rc < 0) {
        block_close(base);
        return rc;
    }
    struct block_options options = {.format = "qcow2", .backing = base};
    return block_open_format(file, &options, out_block, err);
}

static int bitmap_status(void *ctx, uint64_t offset, uint64_t size, uint32_t *out_flags,
                         uint64_t *out_size)
{
    const struct block_bitmap *bitmap = ctx;
    uint64_t start, length;
    *out_flags = 0;
    *out_size = size;
    if (!dirty_map_next(&bitmap->map, offset, size + bitmap->map.granularity, &start, &length)) {
        return 0;
    }
    if (start > offset) {
        *out_size = MIN(size, start - offset);
    } else {
        *out_flags = BITMAP_IS_DIRTY;
        *out_size = MIN(size, start + length - offset);
    }
    return 0;
}

/* The contexts of the bitmaps asked for; 'names' has room for what they are called. */
static int find_bitmaps(const struct serve_wishes *wishes, const struct block_front *front,
                        const char *path, char (*names)[NBD_MAX_CONTEXT_NAME],
                        struct nbd_context *out_contexts, struct error *err)
{
    for (unsigned i = 0; i < wishes->bitmap_count; i++) {
        struct block_bitmap *bitmap =
            front != NULL ? block_bitmap_find(front, wishes->bitmap[i]) : NULL;
        if (bitmap == NULL) {
            return error_set(err, ENOENT, "disk %s: has no bitmap %.100s", path, wishes->bitmap[i]);
        }
        int rc = block_bitmap_check(bitmap, err);
        if (rc < 0) {
            return error_prefix(err, rc, "disk %s", path);
        }
        (void)snprintf(names[i], sizeof(names[i]), "qemu:dirty-bitmap:%s", bitmap->name);
        out_contexts[i] =
            (struct nbd_context){.name = names[i], .status = bitmap_status, .ctx = bitmap};
    }
    return 0;
}

int serve_export_open(const struct serve_wishes *wishes, const char *path, const char *name,
                      struct event_loop *loop, struct nbd_server *server, struct block **out_block,
                      struct error *err)
{
    bool is_read = wishes->is_readonly || wishes->is_temporary;
    struct block_front *front = NULL;
    *out_block = NULL;
    int rc = disk_open(loop, path, wishes->image, is_read ? DISK_READ : DISK_WRITE, out_block, err);
    if (rc == 0 && wishes->is_temporary) {
        rc = put_temporary(TAKE_PTR(*out_block), loop, out_block, err);
    }
    /* Bitmaps follow what clients write. */
    if (rc == 0 && strcmp(block_format_name(*out_block), "qcow2") == 0) {
        rc = block_front_create(TAKE_PTR(*out_block), &front, err);
        *out_block = rc == 0 ? block_front_block(front) : NULL;
    }
    char(*names)[NBD_MAX_CONTEXT_NAME] = calloc(wishes->bitmap_count + 1, sizeof(*names));
    struct nbd_context contexts[NBD_SERVER_MAX_CONTEXTS];
    if (rc == 0) {
        rc = names == NULL ? error_set_errno(err, ENOMEM, "disk %s", path)
                           : find_bitmaps(wishes, front, path, names, contexts, err);
    }
    if (rc == 0) {
        struct nbd_export export = {
            .name = name,
            .description = wishes->description,
            .block = *out_block,
            .is_readonly = wishes->is_readonly,
            .context = contexts,
            .context_count = wishes->bitmap_count,
        };
        rc = nbd_server_add_export(server, &export, err);
    }
    free(names);
    if (rc < 0) {
        block_close(TAKE_PTR(*out_block));
    }
    return rc;
}
