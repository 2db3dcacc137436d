/* hull disk rebase: lets an image stand on another backing file; commit: puts what an image has into what it stands on. */
#include <stdlib.h>
#include <string.h>

#include "base/host/file.h"
#include "block/copy.h"
#include "block/image.h"
#include "cli/disk/backing.h"
#include "cli/disk/disk.h"
#include "cli/progress.h"

#define CHUNK_SIZE (1u << 20)

static void take_detail(void *ctx, const struct block_detail *detail)
{
    struct disk_backing *backing = ctx;
    if (strcmp(detail->key, "backing-file") == 0 && detail->text != NULL) {
        (void)snprintf(backing->name, sizeof(backing->name), "%s", detail->text);
    } else if (strcmp(detail->key, "backing-format") == 0 && detail->text != NULL) {
        (void)snprintf(backing->format, sizeof(backing->format), "%s", detail->text);
    }
}

void disk_backing_get(const struct block *block, struct disk_backing *out_backing)
{
    *out_backing = (struct disk_backing){0};
    block_describe(block, take_detail, out_backing);
}

/* Two open disks and what is done between them. */
struct pair {
    struct block *image;
    struct block *base; /* NULL: nothing, which reads as zeros */
    uint64_t image_size, base_size;
    struct progress progress;
    uint8_t *buffer[2];
};

static int failed(int rc, const char *what, const struct block *block, uint64_t at,
                  struct error *err)
{
    return rc < 0 ? error_set_errno(err, -rc, "%s %s at %llu", what, block_name(block),
                                    (unsigned long long)at)
                  : 0;
}

static int map_image(const struct pair *pair, uint64_t at, struct block_extent *out_extent,
                     struct error *err)
{
    int rc = block_map(pair->image, at, pair->image_size - at, out_extent);
    return failed(rc, "map of", pair->image, at, err);
}

/* Reads of the base; zeros behind its end. */
static int read_base(struct pair *pair, uint64_t at, size_t size, uint8_t *out_data,
                     struct error *err)
{
    size_t there = 0;
    if (pair->base != NULL && at < pair->base_size) {
        there = (size_t)MIN(size, pair->base_size - at);
    }
    memset(out_data + there, 0, size - there);
    return there == 0 ? 0
                      : failed(block_read(pair->base, at, out_data, there), "reading", pair->base,
                               at, err);
}

/* What the image does not have, and reads differently from the new base, it gets of its own. */
static int keep_contents(struct pair *pair, struct error *err)
{
    for (uint64_t at = 0; at < pair->image_size;) {
        struct block_extent extent;
        int rc = map_image(pair, at, &extent, err);
        if (rc < 0) {
            return rc;
        }
        uint64_t size = extent.size_bytes;
        if (extent.kind == BLOCK_EXTENT_ABSENT) {
            size = MIN(size, CHUNK_SIZE);
            rc = failed(block_read(pair->image, at, pair->buffer[0], (size_t)size), "reading",
                        pair->image, at, err);
            if (rc < 0 || (rc = read_base(pair, at, (size_t)size, pair->buffer[1], err)) < 0) {
                return rc;
            }
            if (memcmp(pair->buffer[0], pair->buffer[1], (size_t)size) != 0) {
                rc = block_is_zero(pair->buffer[0], (size_t)size)
                         ? block_write_zeroes(pair->image, at, size, true)
                         : block_write(pair->image, at, pair->buffer[0], (size_t)size);
                if (rc < 0) {
                    return failed(rc, "writing to", pair->image, at, err);
                }
            }
        }
        at += size;
        progress_update(&pair->progress, at, pair->image_size);
    }
    return failed(block_flush(pair->image), "making durable", pair->image, 0, err);
}

/* What the image has of its own goes to the base. */
static int push_down(struct pair *pair, struct error *err)
{
    for (uint64_t at = 0; at < pair->image_size;) {
        struct block_extent extent;
        int rc = map_image(pair, at, &extent, err);
        if (rc < 0) {
            return rc;
        }
        uint64_t size = extent.size_bytes;
        if (extent.kind == BLOCK_EXTENT_DATA || extent.kind == BLOCK_EXTENT_COMPRESSED) {
            size = MIN(size, CHUNK_SIZE);
            rc = failed(block_read(pair->image, at, pair->buffer[0], (size_t)size), "reading",
                        pair->image, at, err);
            if (rc == 0) {
                rc = failed(block_write(pair->base, at, pair->buffer[0], (size_t)size),
                            "writing to", pair->base, at, err);
            }
        } else if (extent.kind != BLOCK_EXTENT_ABSENT) {
            rc = failed(block_write_zeroes(pair->base, at, size, true), "writing to", pair->base,
                        at, err);
        }
        if (rc < 0) {
            return rc;
        }
        at += size;
        progress_update(&pair->progress, at, pair->image_size);
    }
    return failed(block_flush(pair->base), "making durable", pair->base, 0, err);
}

static uint64_t size_of(const struct block *block)
{
    struct block_info info = {0};
    if (block != NULL) {
        block_get_info(block, &info);
    }
    return info.size_bytes;
}

static int with_buffers(struct pair *pair, const char *label, bool is_quiet,
                        int (*fn)(struct pair *pair, struct error *err), struct error *err)
{
    AUTO_FREE uint8_t *memory = malloc((size_t)2 * CHUNK_SIZE);
    if (memory == NULL) {
        return error_set_errno(err, ENOMEM, "%s", label);
    }
    pair->buffer[0] = memory;
    pair->buffer[1] = memory + CHUNK_SIZE;
    pair->image_size = size_of(pair->image);
    pair->base_size = size_of(pair->base);
    progress_begin(&pair->progress, label, is_quiet);
    int rc = fn(pair, err);
    progress_end(&pair->progress);
    return rc;
}

struct rebase_options {
    struct disk_options disk; /* image.backing: what it shall stand on */
    bool is_unsafe;
};

static int parse_unsafe(void *into, const char *value, struct error *err)
{
    ((struct rebase_options *)into)->is_unsafe = true;
    return 0;
}

static const struct option_spec rebase_table[] = {
    {"backing", 'b', "FILE", "what the image shall stand on; '' for nothing", "FILE",
     disk_parse_backing},
    DISK_OPTION_BACKING_FORMAT,
    {"unsafe", 'u', NULL, "change the name alone: the new file holds the same, or was moved", NULL,
     parse_unsafe},
    DISK_OPTION_IMAGE_FORMAT("format of FILE"),
    DISK_OPTION_ALLOW,
    DISK_OPTION_RECONNECT,
    DISK_OPTION_QUIET,
    {0},
};

static int rebase(const char *path, const struct rebase_options *options, struct error *err)
{
    const char *name = options->disk.image.backing[0] != '\0' ? options->disk.image.backing : NULL;
    struct disk_image image = options->disk.image;
    struct disk_image base_image = {.format = image.backing_format};
    struct event_loop *loop = NULL;
    struct pair pair = {0};
    const char *format = NULL;
    AUTO_FREE char *base_path = NULL;
    image.backing = NULL;
    image.is_alone = options->is_unsafe;
    image.is_for_repair = options->is_unsafe; /* alone and for writing */
    memcpy(base_image.allowed, image.allowed, sizeof(image.allowed));
    base_image.allowed_count = image.allowed_count;
    int rc = event_loop_create(&loop, err);
    if (rc == 0 && name != NULL) {
        rc = disk_name_to_path(path, name, &base_path, err);
    }
    if (rc == 0 && name != NULL &&
        (rc = disk_backing_format(base_path, image.backing_format, &format, err)) == 0 &&
        !options->is_unsafe) {
        base_image.format = format;
        rc = disk_open(loop, base_path, &base_image, DISK_READ, &pair.base, err);
    }
    if (rc == 0) {
        rc = disk_open(loop, path, &image, DISK_WRITE, &pair.image, err);
    }
    if (rc == 0 && !options->is_unsafe) {
        rc = with_buffers(&pair, "rebasing", options->disk.is_quiet, keep_contents, err);
    }
    if (rc == 0) {
        rc = block_set_backing_name(pair.image, name, format, err);
    }
    int finish_rc = block_finish(pair.image, rc == 0 ? err : NULL);
    block_close(pair.base);
    event_loop_destroy(loop);
    return rc < 0 ? rc : finish_rc;
}

static int rebase_run(int argc, char **argv)
{
    struct rebase_options options = {0};
    int status = disk_words(&disk_rebase_verb, 1, argc, argv, &options);
    if (status >= 0) {
        return status;
    }
    struct error err = {0};
    if (options.disk.image.backing == NULL) {
        (void)error_set(&err, EINVAL,
                        "rebasing %s: it is not said on what: --backing FILE, or --backing ''",
                        argv[0]);
        return cli_fail(&err);
    }
    return rebase(argv[0], &options, &err) < 0 ? cli_fail(&err) : CLI_OK;
}

const struct verb disk_rebase_verb = {
    .name = "disk rebase",
    .arguments = "FILE --backing NEW",
    .summary = "Let a qcow2 image stand on another backing file",
    .description =
        "What the disk holds stays the same: whatever reads differently from NEW is copied into FILE first,\n"
        "for which the old backing file has to be allowed. With --unsafe only the name is changed.\n"
        "A name counts from the folder of FILE.\n",
    .examples =
        "  hull disk rebase vm.qcow2 --backing new-base.qcow2 --allow old-base.qcow2\n"
        "  hull disk rebase vm.qcow2 --backing '' --allow base.qcow2\n"
        "  hull disk rebase vm.qcow2 --backing /new/place/base.raw --backing-format raw --unsafe\n",
    .options = rebase_table,
    .complete = "FILE",
    .run = rebase_run,
};

static const struct option_spec commit_table[] = {
    DISK_OPTION_IMAGE_FORMAT("format of FILE"),
    DISK_OPTIONS_BACKING,
    DISK_OPTION_QUIET,
    {0},
};

/* The backing file for writing: its format is what the caller or its name says, not what the image claims. */
static int open_base(struct event_loop *loop, const char *path, const struct disk_options *options,
                     const struct block *image, struct block **out_base, struct error *err)
{
    struct disk_image base = {.format = options->image.backing_format};
    const char *base_path = options->image.backing;
    AUTO_FREE char *named = NULL;
    memcpy(base.allowed, options->image.allowed, sizeof(base.allowed));
    base.allowed_count = options->image.allowed_count;
    if (base_path == NULL) {
        struct disk_backing backing;
        disk_backing_get(image, &backing);
        if (backing.name[0] == '\0') {
            return error_set(err, EINVAL, "it stands on nothing");
        }
        if (!disk_is_allowed(&options->image, backing.name)) {
            return error_set(err, EPERM,
                             "it stands on \"%.60s\": --allow or --backing permits to write there",
                             backing.name);
        }
        int rc = disk_name_to_path(path, backing.name, &named, err);
        if (rc < 0) {
            return rc;
        }
        base_path = named;
    }
    return disk_open(loop, base_path, &base, DISK_WRITE, out_base, err);
}

static int commit(const char *path, const struct disk_options *options, struct error *err)
{
    struct disk_image image = {.format = options->image.format, .is_alone = true};
    struct event_loop *loop = NULL;
    struct pair pair = {0};
    int rc = disk_begin(path, &image, DISK_READ, &loop, &pair.image, err);
    if (rc == 0 && (rc = open_base(loop, path, options, pair.image, &pair.base, err)) == 0) {
        uint64_t size = size_of(pair.image);
        if (size_of(pair.base) < size && (rc = block_resize(pair.base, size)) < 0) {
            (void)error_set_errno(err, -rc, "making %s larger", block_name(pair.base));
        }
        if (rc == 0) {
            rc = with_buffers(&pair, "committing", options->is_quiet, push_down, err);
        }
    }
    if (rc < 0) {
        (void)error_prefix(err, rc, "committing %s", path);
    }
    int finish_rc = block_finish(pair.base, rc == 0 ? err : NULL);
    block_close(pair.image);
    event_loop_destroy(loop);
    return rc < 0 ? rc : finish_rc;
}

static int commit_run(int argc, char **argv)
{
    struct disk_options options = {0};
    int status = disk_words(&disk_commit_verb, 1, argc, argv, &options);
    if (status >= 0) {
        return status;
    }
    struct error err = {0};
    return commit(argv[0], &options, &err) < 0 ? cli_fail(&err) : CLI_OK;
}

const struct verb disk_commit_verb = {
    .name = "disk commit",
    .arguments = "FILE",
    .summary = "Write what an image has of its own into its backing file",
    .description =
        "The backing file gets FILE's size if it is smaller. FILE stays as it is, and may be deleted\n"
        "afterwards. Other images that stand on the same backing file become useless.\n",
    .examples = "  hull disk commit overlay.qcow2 --allow base.qcow2\n",
    .options = commit_table,
    .complete = "FILE",
    .run = commit_run,
};
