/* hull disk create and resize. */
#include <string.h>

#include "base/core/size.h"
#include "base/host/file.h"
#include "cli/disk/disk.h"
#include "cli/disk/target.h"

struct create_options {
    struct disk_options disk;
    struct disk_creation creation;
};

static int parse_format(void *into, const char *value, struct error *err)
{
    ((struct create_options *)into)->creation.format = value;
    return disk_check_creatable(value, err);
}

static int parse_option(void *into, const char *value, struct error *err)
{
    return disk_creation_add(&((struct create_options *)into)->creation, value, err);
}

static int parse_encrypt(void *into, const char *value, struct error *err)
{
    return disk_creation_encrypt(&((struct create_options *)into)->creation, value, err);
}

static int parse_cache(void *into, const char *value, struct error *err)
{
    return disk_cache_parse(value, &((struct create_options *)into)->creation.cache, err);
}

static int parse_iter_time(void *into, const char *value, struct error *err)
{
    return disk_creation_iter_time(&((struct create_options *)into)->creation, value, err);
}

static const struct option_spec create_table[] = {
    {"format", 'f', "FORMAT", "format of the new image (default: what its name ends in, else raw)",
     disk_creatable_formats, parse_format},
    {"option", 'o', "KEY=VALUE", "an option of the format, see above", NULL, parse_option},
    DISK_OPTION_ENCRYPT(parse_encrypt),
    DISK_OPTION_ITER_TIME(parse_iter_time),
    DISK_OPTIONS_KEY,
    {"backing", 'b', "FILE", "what the new image shall stand on, seen from its folder", "FILE",
     disk_parse_backing},
    DISK_OPTION_BACKING_FORMAT,
    DISK_OPTION_ALLOW,
    DISK_OPTION_RECONNECT,
    {"cache", 't', "MODE",
     "use of the host's page cache for the new image: writeback, none, writethrough, directsync or "
     "unsafe",
     CACHE_MODES, parse_cache},
    DISK_OPTION_QUIET,
    {0},
};

/* The backing file must be there, and says how large the disk is if nobody else does. */
static int look_at_backing(const char *path, const struct disk_image *image,
                           struct disk_creation *creation, struct event_loop *loop,
                           struct error *err)
{
    struct disk_image base = *image;
    struct block *block = NULL;
    AUTO_FREE char *base_path = NULL;
    creation->backing = base.backing;
    base.backing = NULL;
    int rc = disk_name_to_path(path, creation->backing, &base_path, err);
    if (rc == 0) {
        rc = disk_backing_format(base_path, image->backing_format, &creation->backing_format, err);
    }
    if (rc == 0) {
        base.format = creation->backing_format;
        base.is_alone = true; /* what it stands on in turn is not needed now */
        rc = disk_open(loop, base_path, &base, DISK_READ, &block, err);
    }
    if (rc == 0 && creation->size_bytes == 0) {
        struct block_info info;
        block_get_info(block, &info);
        creation->size_bytes = info.size_bytes;
    }
    block_close(block);
    return rc;
}

static int create(const char *path, const struct disk_image *image, struct disk_creation *creation,
                  struct error *err)
{
    struct event_loop *loop = NULL;
    struct disk_target target = {.fd = -1};
    struct block *block = NULL;
    creation->is_only_made = true;
    int rc = event_loop_create(&loop, err);
    if (rc == 0 && image->backing != NULL) {
        rc = look_at_backing(path, image, creation, loop, err);
    }
    if (rc == 0) {
        rc = disk_target_open(path, NULL, &creation->cache, &target, err);
    }
    if (rc == 0 && target.is_device && strcmp(creation->format, "raw") == 0) {
        rc = error_set(err, EINVAL, "creating %s: a block device is a raw disk already", path);
    }
    if (rc == 0) {
        rc = disk_target_create(&target, creation, loop, &block, err);
    }
    if (rc == 0) {
        rc = block_finish(block, err);
    }
    if (rc == 0) {
        rc = disk_target_commit(&target, err);
    }
    disk_target_close(&target);
    event_loop_destroy(loop);
    return rc;
}

static int create_run(int argc, char **argv)
{
    struct create_options options = {0};
    int count = 0;
    int status = cli_options(&disk_create_verb, false, argc, argv, &options, &count);
    if (status >= 0 || !disk_check_count(&disk_create_verb, count,
                                         options.disk.image.backing != NULL ? 1 : 2, 2)) {
        return status >= 0 ? status : CLI_FAILURE;
    }
    struct error err = {0};
    disk_creation_default_format(&options.creation, argv[0]);
    options.creation.key = &options.disk.image.key;
    int rc = count == 2 ? size_parse(argv[1], 1, &options.creation.size_bytes, &err) : 0;
    if (rc < 0) {
        rc = error_prefix(&err, rc, "creating %s", argv[0]);
    } else {
        rc = create(argv[0], &options.disk.image, &options.creation, &err);
    }
    return rc < 0 ? cli_fail(&err) : CLI_OK;
}

const struct verb disk_create_verb = {
    .name = "disk create",
    .arguments = "FILE [SIZE]",
    .summary = "Make a new image",
    .description =
        "An image that has the name already is replaced, unless it is in use. Without SIZE the disk has\n"
        "that of the backing file.\n"
        "\n"
        "Options of raw:    preallocation=off|falloc|full\n"
        "Options of qcow2:  preallocation=off|metadata|falloc|full, cluster_size=512 to 2M,\n"
        "                   compat=v2|v3, compression_type=zlib|zstd, extended_l2=on|off,\n"
        "                   lazy_refcounts=on|off, refcount_bits=1 to 64, data_file=NAME,\n"
        "                   data_file_raw=on|off\n"
        "Options of vmdk:   subformat=streamOptimized\n"
        "Options of vhdx:   subformat=dynamic, block_size=1M to 256M\n",
    .examples = "  hull disk create vm.qcow2 20G\n"
                "  hull disk create overlay.qcow2 --backing vm.qcow2\n"
                "  hull disk create vm.raw 20G\n"
                "  hull disk create vm.raw 20G --option preallocation=falloc\n"
                "  hull disk create vm.vhdx 20G --format vhdx\n",
    .options = create_table,
    .complete = "FILE",
    .run = create_run,
};

struct resize_options {
    struct disk_options disk;
    bool may_shrink;
};

static int parse_shrink(void *into, const char *value, struct error *err)
{
    ((struct resize_options *)into)->may_shrink = true;
    return 0;
}

static const struct option_spec resize_table[] = {
    DISK_OPTION_IMAGE_FORMAT("format of FILE (default: its name's ending)"),
    {"shrink", 0, NULL, "SIZE may be smaller: what lies behind it is lost", NULL, parse_shrink},
    DISK_OPTIONS_BACKING,
    DISK_OPTION_QUIET,
    {0},
};

/* "20G", "+5G" or "-512M" of a disk that has 'now' bytes. */
static int parse_new_size(const char *text, uint64_t now, uint64_t *out_size, struct error *err)
{
    bool is_relative = text[0] == '+' || text[0] == '-';
    uint64_t bytes;
    int rc = size_parse(text + is_relative, 1, &bytes, err);
    if (rc < 0) {
        return rc;
    }
    if ((text[0] == '-' && bytes > now) || (text[0] == '+' && bytes > INT64_MAX - now)) {
        return error_set(err, ERANGE, "'%s' does not fit to its %llu bytes", text,
                         (unsigned long long)now);
    }
    *out_size = text[0] == '-' ? now - bytes : text[0] == '+' ? now + bytes : bytes;
    return 0;
}

static int resize(const char *path, const char *text, const struct resize_options *options,
                  struct error *err)
{
    struct event_loop *loop = NULL;
    struct block *block = NULL;
    int rc = disk_begin(path, &options->disk.image, DISK_WRITE, &loop, &block, err);
    if (rc == 0) {
        struct block_info info;
        block_get_info(block, &info);
        uint64_t size = 0;
        rc = parse_new_size(text, info.size_bytes, &size, err);
        if (rc == 0 && size < info.size_bytes && !options->may_shrink) {
            rc = error_set(err, EINVAL,
                           "it has %llu bytes, and would lose its end: --shrink permits that",
                           (unsigned long long)info.size_bytes);
        }
        if (rc == 0 && (size == 0 || size % info.logical_block_size != 0)) {
            rc = error_set(err, EINVAL, "%llu bytes cannot be: a multiple of %u",
                           (unsigned long long)size, info.logical_block_size);
        }
        if (rc == 0 && (rc = block_resize(block, size)) < 0) {
            rc = error_set_errno(err, -rc, "to %llu bytes", (unsigned long long)size);
        }
        if (rc == 0 && (rc = block_flush(block)) < 0) {
            rc = error_set_errno(err, -rc, "making that durable");
        }
        if (rc < 0) {
            rc = error_prefix(err, rc, "resizing %s", path);
        } else if (!options->disk.is_quiet) {
            char old_text[64];
            char new_text[64];
            (void)printf("%s: %s, was %s\n", path, disk_size_text(size, new_text, sizeof(new_text)),
                         disk_size_text(info.size_bytes, old_text, sizeof(old_text)));
        }
    }
    int finish_rc = block_finish(block, rc == 0 ? err : NULL);
    event_loop_destroy(loop);
    return rc < 0 ? rc : finish_rc;
}

static int resize_run(int argc, char **argv)
{
    struct resize_options options = {0};
    int count = 0;
    char *size = NULL;
    for (int i = 1; i < argc && size == NULL; i++) {
        if (argv[i][0] == '-' && argv[i][1] >= '0' && argv[i][1] <= '9') { /* is no option */
            size = argv[i];
            memmove(&argv[i], &argv[i + 1], (size_t)(--argc - i) * sizeof(*argv));
        }
    }
    int status = cli_options(&disk_resize_verb, false, argc, argv, &options, &count);
    if (status >= 0 ||
        !disk_check_count(&disk_resize_verb, count, 2 - (size != NULL), 2 - (size != NULL))) {
        return status >= 0 ? status : CLI_FAILURE;
    }
    struct error err = {0};
    return resize(argv[0], size != NULL ? size : argv[1], &options, &err) < 0 ? cli_fail(&err)
                                                                              : CLI_OK;
}

const struct verb disk_resize_verb = {
    .name = "disk resize",
    .arguments = "FILE [+|-]SIZE",
    .summary = "Make an image's disk larger or smaller",
    .description =
        "The guest's partitions and file systems stay as they are: make them smaller before the\n"
        "disk is, and larger afterwards.\n",
    .examples = "  hull disk resize vm.raw 40G\n"
                "  hull disk resize vm.qcow2 +10G\n"
                "  hull disk resize vm.raw 5G --shrink\n",
    .options = resize_table,
    .complete = "FILE",
    .run = resize_run,
};
