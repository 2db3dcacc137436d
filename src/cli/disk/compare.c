/* hull disk compare: do two images hold the same? */
#include <stdlib.h>
#include <string.h>

#include "base/host/file.h"
#include "block/copy.h"
#include "cli/disk/disk.h"
#include "cli/progress.h"

#define CHUNK_SIZE     (2u << 20)
#define STATUS_DIFFER  1
#define STATUS_FAILURE 2

struct compare_options {
    struct disk_options disk;
    const char *second_format;
    bool is_strict;
};

static int parse_second(void *into, const char *value, struct error *err)
{
    struct disk_options as = {0};
    int rc = disk_parse_image_format(&as, value, err);
    ((struct compare_options *)into)->second_format = as.image.format;
    return rc;
}

static int parse_strict(void *into, const char *value, struct error *err)
{
    ((struct compare_options *)into)->is_strict = true;
    return 0;
}

static const struct option_spec compare_table[] = {
    DISK_OPTION_IMAGE_FORMAT("format of the first image (default: found out)"),
    {"second-format", 'F', "FORMAT", "format of the second image (default: found out)",
     DISK_FORMATS, parse_second},
    {"strict", 's', NULL, "images of different sizes differ, even if the rest is zeros", NULL,
     parse_strict},
    DISK_OPTION_ALLOW,
    DISK_OPTION_CACHE_AS('T', "use of the host's page cache for both images: writeback, none, "
                              "writethrough, directsync or unsafe"),
    DISK_OPTIONS_KEY,
    DISK_OPTION_RECONNECT,
    DISK_OPTION_QUIET,
    {0},
};

struct side {
    struct block *block;
    uint64_t size_bytes;
    uint8_t *buffer;
};

/* Whether there is data at 'at', and for how long that holds. Behind the end there is none. */
static int look(struct side *side, uint64_t at, uint64_t *size, bool *out_has_data,
                struct error *err)
{
    if (at >= side->size_bytes) {
        *out_has_data = false;
        return 0;
    }
    struct block_extent extent;
    unsigned depth;
    *size = MIN(*size, side->size_bytes - at);
    int rc = block_map_chain(side->block, at, *size, &extent, &depth);
    if (rc < 0) {
        return error_set_errno(err, -rc, "map of %s at %llu", block_name(side->block),
                               (unsigned long long)at);
    }
    *size = extent.size_bytes;
    *out_has_data = extent.kind == BLOCK_EXTENT_DATA || extent.kind == BLOCK_EXTENT_COMPRESSED;
    return 0;
}

static int fill(struct side *side, uint64_t at, size_t size, bool has_data, struct error *err)
{
    if (!has_data) {
        memset(side->buffer, 0, size);
        return 0;
    }
    int rc = block_read(side->block, at, side->buffer, size);
    return rc < 0 ? error_set_errno(err, -rc, "reading %s at %llu", block_name(side->block),
                                    (unsigned long long)at)
                  : 0;
}

/* 0: the same; 1: *out_offset says where they differ. */
static int compare(struct side *a, struct side *b, struct progress *progress, uint64_t *out_offset,
                   struct error *err)
{
    uint64_t total = MAX(a->size_bytes, b->size_bytes);
    for (uint64_t at = 0; at < total;) {
        uint64_t size = total - at;
        bool a_has = false;
        bool b_has = false;
        int rc = look(a, at, &size, &a_has, err);
        if (rc < 0 || (rc = look(b, at, &size, &b_has, err)) < 0) {
            return rc;
        }
        if (a_has || b_has) {
            size = MIN(size, CHUNK_SIZE);
            if ((rc = fill(a, at, (size_t)size, a_has, err)) < 0 ||
                (rc = fill(b, at, (size_t)size, b_has, err)) < 0) {
                return rc;
            }
            if (memcmp(a->buffer, b->buffer, (size_t)size) != 0) {
                size_t i = 0;
                while (a->buffer[i] == b->buffer[i]) {
                    i++;
                }
                *out_offset = at + i;
                return 1;
            }
        }
        at += size;
        progress_update(progress, at, total);
    }
    return 0;
}

static int report(const struct compare_options *options, const struct side *side, int result,
                  uint64_t offset)
{
    bool sizes_differ = side[0].size_bytes != side[1].size_bytes;
    bool is_same = result == 0 && !(options->is_strict && sizes_differ);
    if (!options->disk.is_quiet) {
        if (result != 0) {
            (void)printf("The images differ at offset %llu.\n", (unsigned long long)offset);
        } else if (sizes_differ) {
            (void)printf("The images have different sizes (%llu and %llu bytes)%s\n",
                         (unsigned long long)side[0].size_bytes,
                         (unsigned long long)side[1].size_bytes,
                         is_same ? "; what one has more is zeros: identical." : ".");
        } else {
            (void)puts("The images are identical.");
        }
    }
    return is_same ? CLI_OK : STATUS_DIFFER;
}

static int compare_run(int argc, char **argv)
{
    struct compare_options options = {0};
    int status = disk_words(&disk_compare_verb, 2, argc, argv, &options);
    if (status >= 0) {
        return status == CLI_OK ? CLI_OK : STATUS_FAILURE;
    }
    struct error err;
    struct event_loop *loop = NULL;
    struct side side[2] = {{.buffer = malloc(CHUNK_SIZE)}, {.buffer = malloc(CHUNK_SIZE)}};
    struct disk_image image = options.disk.image;
    int rc = side[0].buffer == NULL || side[1].buffer == NULL
                 ? error_set_errno(&err, ENOMEM, "comparing")
                 : event_loop_create(&loop, &err);
    for (int i = 0; i < 2 && rc == 0; i++) {
        image.format = i == 0 ? image.format : options.second_format;
        rc = disk_open(loop, argv[i], &image, DISK_READ, &side[i].block, &err);
        if (rc == 0) {
            struct block_info info;
            block_get_info(side[i].block, &info);
            side[i].size_bytes = info.size_bytes;
        }
    }
    uint64_t offset = 0;
    if (rc == 0) {
        struct progress progress;
        progress_begin(&progress, "comparing", options.disk.is_quiet);
        rc = compare(&side[0], &side[1], &progress, &offset, &err);
        progress_end(&progress);
    }
    if (rc < 0) {
        (void)cli_fail(&err);
        status = STATUS_FAILURE;
    } else {
        status = report(&options, side, rc, offset);
    }
    for (int i = 0; i < 2; i++) {
        block_close(side[i].block);
        free(side[i].buffer);
    }
    event_loop_destroy(loop);
    return status;
}

const struct verb disk_compare_verb = {
    .name = "disk compare",
    .arguments = "FILE1 FILE2",
    .summary = "Compare what two images hold",
    .exit_status = "  0    they hold the same\n  1    they differ\n  2    an error\n",
    .examples = "  hull disk compare vm.raw vm.vmdk\n",
    .options = compare_table,
    .complete = "FILE",
    .run = compare_run,
};
