/* Opening: the table of formats, and what an image may name. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "block/provider.h"

static const struct block_format *const formats[] = {
    &block_format_raw, &block_format_vmdk,  &block_format_vhdx,
    &block_format_vhd, &block_format_vpc, /* what qemu-img calls it */
    &block_format_vdi, &block_format_qcow2, &block_format_luks,
};

const struct block_format *block_find_format(const char *name)
{
    for (size_t i = 0; i < ARRAY_COUNT(formats); i++) {
        if (name != NULL && strcmp(formats[i]->name, name) == 0) {
            return formats[i];
        }
    }
    return NULL;
}

const char *block_disk_format(const struct block *block)
{
    return block_find_format(block->ops->name) != NULL ? block->ops->name : "raw";
}

static int unknown_format(const char *disk, const char *format, struct error *err)
{
    char names[128] = "";
    for (size_t i = 0; i < ARRAY_COUNT(formats); i++) {
        size_t used = strlen(names);
        (void)snprintf(names + used, sizeof(names) - used, "%s%s", i > 0 ? ", " : "",
                       formats[i]->name);
    }
    return error_set(err, EINVAL, "disk %s: unknown format \"%s\": %s %s accepted", disk, format,
                     names, ARRAY_COUNT(formats) > 1 ? "are" : "is");
}

const char *block_printable(const char *text, char *out, size_t size)
{
    size_t length = strnlen(text, size - 1);
    for (size_t i = 0; i < length; i++) {
        out[i] = (char)(text[i] >= ' ' && text[i] < 0x7f ? text[i] : '?');
    }
    out[length] = '\0';
    return out;
}

int block_resolve(const struct block *file, struct block_options *options,
                  const struct block_reference *reference, struct block **out_block,
                  struct error *err)
{
    bool is_backing = reference->kind == BLOCK_REFERENCE_BACKING;
    struct block **given = is_backing ? &options->backing : &options->data_file;
    *out_block = NULL;
    if (*given != NULL) {
        *out_block = *given;
        *given = NULL;
        return 0;
    }
    if (is_backing && options->is_alone) {
        return 0;
    }
    char name[64];
    (void)block_printable(reference->name, name, sizeof(name));
    const char *what = is_backing ? "backing file" : "data file";
    if (options->resolve == NULL) {
        return error_set(err, EPERM, "disk %s: needs the %s \"%s\", which is not among those given",
                         file->name, what, name);
    }
    int rc = options->resolve(options->resolve_ctx, reference, out_block, err);
    return rc < 0 ? error_prefix(err, rc, "disk %s: %s \"%s\"", file->name, what, name) : 0;
}

struct opening {
    const struct block_format *format;
    struct block *file;
    struct block_options *options;
    struct block *block;
    struct error *err;
};

static int open_in_coroutine(void *ctx)
{
    struct opening *opening = ctx;
    return opening->format->open(opening->file, opening->options, &opening->block, opening->err);
}

static int check_chain(const struct block *block, struct error *err)
{
    unsigned depth = 0;
    for (const struct block *at = block; at != NULL; at = at->backing) {
        if (++depth > BLOCK_MAX_CHAIN) {
            return error_set(err, ELOOP, "disk %s: more than %d backing files on top of each other",
                             block->name, BLOCK_MAX_CHAIN);
        }
    }
    return 0;
}

int block_open_format(struct block *file, const struct block_options *given_options,
                      struct block **out_block, struct error *err)
{
    struct block_options options = *given_options;
    if (options.format == NULL) {
        options.format = "raw";
    }
    struct opening opening = {
        .format = block_find_format(options.format), .file = file, .options = &options, .err = err};
    int rc = opening.format == NULL ? unknown_format(file->name, options.format, err)
                                    : block_run(open_in_coroutine, &opening);
    if (rc < 0) {
        if (rc == -ENOMEM) {
            (void)error_set_errno(err, ENOMEM, "disk %s", file->name); /* rc says it already */
        }
        block_close(file);
    } else if (options.snapshot != NULL) {
        rc = error_set(err, EOPNOTSUPP, "disk %s: %s images have no snapshots", file->name,
                       options.format);
        block_close(opening.block);
    } else if (options.backing != NULL || options.data_file != NULL) {
        rc = error_set(err, EINVAL, "disk %s: has no %s, but one is given", file->name,
                       options.backing != NULL ? "backing file" : "data file");
        block_close(opening.block);
    } else {
        rc = check_chain(opening.block, err);
        if (rc < 0) {
            block_close(opening.block);
        }
    }
    block_close(options.backing);
    block_close(options.data_file);
    if (rc == 0) {
        *out_block = opening.block;
    }
    return rc;
}

int block_open(int fd, const char *name, const struct block_options *options,
               struct event_loop *loop, struct block **out_block, struct error *err)
{
    const char *format = options->format != NULL ? options->format : "raw";
    struct block_file_options file_options = {
        .is_readonly = options->is_readonly,
        .is_growable = strcmp(format, "raw") != 0,
        .is_direct = options->is_direct,
        .is_unsafe = options->is_unsafe,
        .aio = options->aio,
    };
    struct block *file;
    int rc = -EINVAL;
    if (block_find_format(format) == NULL) {
        (void)unknown_format(name, format, err); /* -EINVAL */
        close(fd);
    } else {
        rc = block_open_file(fd, name, &file_options, loop, &file, err);
    }
    if (rc < 0) {
        block_close(options->backing);
        block_close(options->data_file);
        return rc;
    }
    return block_open_format(file, options, out_block, err);
}
