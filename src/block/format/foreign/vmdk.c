/* VMDK: the descriptor's extents in a row, each mapped by its kind. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/core/checked.h"
#include "base/host/file.h"
#include "block/format/foreign/vmdk.h"

struct extent {
    enum vmdk_extent_type type;
    uint64_t start; /* in bytes, of the disk */
    uint64_t size_bytes;
    uint64_t flat_offset;
    uint32_t file_index;
    struct foreign_file file;
    struct vmdk_sparse sparse;
};

struct vmdk {
    struct foreign_image image;
    struct extent *extent; /* owned; in the order of 'start', without gaps */
    uint32_t extent_count;
    uint32_t opened_count; /* files that the caller opened by name */
    uint32_t last;         /* the extent used last */
};

static struct vmdk *vmdk_from_image(struct foreign_image *image)
{
    return container_of(image, struct vmdk, image);
}

static const char text_start[] = "# Disk DescriptorFile";

/* A descriptor file may begin with empty lines and comments of other tools. */
static bool is_descriptor(const uint8_t *head, size_t size)
{
    size_t i = 0;
    while (i < size) {
        size_t left = size - i;
        if (left >= sizeof(text_start) - 1 &&
            strncasecmp((const char *)head + i, text_start, sizeof(text_start) - 1) == 0) {
            return true;
        }
        if (head[i] != '#' && head[i] != '\n' && head[i] != '\r') {
            return false;
        }
        const uint8_t *end = memchr(head + i, '\n', left);
        if (end == NULL) {
            return false;
        }
        i = (size_t)(end - head) + 1;
    }
    return false;
}

static bool vmdk_probe(const uint8_t *head, size_t head_size, const uint8_t *tail, size_t tail_size)
{
    return vmdk_is_sparse(head, head_size) || is_descriptor(head, head_size);
}

static int check_create_type(const char *type, struct error *err)
{
    static const char *const types[] = {"monolithicSparse",
                                        "monolithicFlat",
                                        "twoGbMaxExtentSparse",
                                        "twoGbMaxExtentFlat",
                                        "2GbMaxExtentSparse",
                                        "2GbMaxExtentFlat",
                                        "streamOptimized",
                                        "vmfs",
                                        "custom"};
    for (size_t i = 0; i < ARRAY_COUNT(types); i++) {
        if (strcmp(type, types[i]) == 0) {
            return 0;
        }
    }
    return error_set(err, EOPNOTSUPP,
                     "create type \"%s\" is not supported: monolithicSparse, monolithicFlat, "
                     "twoGbMaxExtentSparse, twoGbMaxExtentFlat, streamOptimized and vmfs are",
                     type);
}

/* Reads a descriptor of 'size' bytes, which ends at its first NUL. */
static int read_descriptor(const struct foreign_file *file, uint64_t offset, uint64_t size,
                           struct vmdk_descriptor *out_descriptor, struct error *err)
{
    if (size == 0 || size > VMDK_MAX_DESCRIPTOR) {
        return error_set(err, EINVAL, "the descriptor has %llu bytes: 1 to %u are accepted",
                         (unsigned long long)size, VMDK_MAX_DESCRIPTOR);
    }
    AUTO_FREE char *text = malloc((size_t)size + 1);
    if (text == NULL) {
        return error_set_errno(err, ENOMEM, "reading the descriptor");
    }
    int rc = foreign_read(file, offset, text, (size_t)size, "the descriptor", err);
    if (rc < 0) {
        return rc;
    }
    text[size] = '\0';
    return vmdk_descriptor_parse(text, out_descriptor, err);
}

static int open_by_name(struct vmdk *vmdk, const struct foreign_names *names, const char *name,
                        struct extent *extent, struct error *err)
{
    if (names == NULL) {
        return error_set(err, EACCES, "it names the file \"%.60s\", and none is allowed", name);
    }
    int rc = names->open(names->ctx, name, &extent->file, err);
    if (rc == 0) {
        extent->file_index = ++vmdk->opened_count;
    }
    return rc;
}

static int open_extent(struct vmdk *vmdk, const struct foreign_names *names,
                       const struct vmdk_line *line, struct extent *extent, struct error *err)
{
    if (line->type == VMDK_ZERO) {
        return 0;
    }
    int rc = open_by_name(vmdk, names, line->name, extent, err);
    if (rc < 0) {
        return rc;
    }
    if (line->type == VMDK_FLAT) {
        extent->flat_offset = line->flat_sector * SECTOR_SIZE;
        if (!range_fits(extent->flat_offset, extent->size_bytes, extent->file.size_bytes)) {
            return error_set(err, EINVAL, "the file of %llu bytes is too short for the extent",
                             (unsigned long long)extent->file.size_bytes);
        }
        return 0;
    }
    rc = vmdk_sparse_open(&extent->file, &extent->sparse, err);
    if (rc == 0 && extent->sparse.capacity_sectors < line->sector_count) {
        rc = error_set(err, EINVAL, "the file has %llu sectors, its line says %llu",
                       (unsigned long long)extent->sparse.capacity_sectors,
                       (unsigned long long)line->sector_count);
    }
    return rc;
}

static int open_lines(struct vmdk *vmdk, const struct foreign_names *names,
                      const struct vmdk_descriptor *descriptor, struct error *err)
{
    if (descriptor->line_count == 0) {
        return error_set(err, EINVAL, "the descriptor lists no extents");
    }
    vmdk->extent = calloc(descriptor->line_count, sizeof(*vmdk->extent));
    if (vmdk->extent == NULL) {
        return error_set_errno(err, ENOMEM, "opening the extents");
    }
    uint64_t start = 0;
    for (uint32_t i = 0; i < descriptor->line_count; i++) {
        const struct vmdk_line *line = &descriptor->line[i];
        struct extent *extent = &vmdk->extent[i];
        extent->type = line->type;
        extent->start = start;
        extent->size_bytes = line->sector_count * SECTOR_SIZE;
        int rc = open_extent(vmdk, names, line, extent, err);
        if (rc < 0) {
            return error_prefix(err, rc, "extent %u", i + 1);
        }
        vmdk->extent_count++;
        start += extent->size_bytes; /* at most 2048 times 1 PiB */
        if (extent->type == VMDK_SPARSE) {
            struct foreign_info *info = &vmdk->image.info;
            info->cluster_size_bytes = extent->sparse.grain_sectors * SECTOR_SIZE;
            info->is_compressed = info->is_compressed || extent->sparse.is_compressed;
        }
    }
    vmdk->image.info.size_bytes = start;
    return 0;
}

/* One file with header, descriptor and grains; the descriptor's extent line repeats what the header says. */
static int open_monolithic(struct vmdk *vmdk, struct vmdk_descriptor *out_descriptor,
                           struct error *err)
{
    const struct foreign_file *file = &vmdk->image.file;
    struct extent *extent = vmdk->extent = calloc(1, sizeof(*extent));
    if (extent == NULL) {
        return error_set_errno(err, ENOMEM, "opening the extent");
    }
    int rc = vmdk_sparse_open(file, &extent->sparse, err);
    if (rc < 0) {
        return rc;
    }
    if (extent->sparse.descriptor_sectors == 0) {
        return error_set(err, EINVAL,
                         "the file is one extent of an image: the file with its descriptor is "
                         "needed");
    }
    extent->type = VMDK_SPARSE;
    extent->file = *file;
    extent->size_bytes = extent->sparse.capacity_sectors * SECTOR_SIZE;
    vmdk->extent_count = 1;
    vmdk->image.info.size_bytes = extent->size_bytes;
    vmdk->image.info.cluster_size_bytes = extent->sparse.grain_sectors * SECTOR_SIZE;
    vmdk->image.info.is_compressed = extent->sparse.is_compressed;
    return read_descriptor(file, extent->sparse.descriptor_sector * SECTOR_SIZE,
                           extent->sparse.descriptor_sectors * SECTOR_SIZE, out_descriptor, err);
}

static int vmdk_open(struct foreign_image *image, const struct foreign_names *names,
                     struct error *err)
{
    struct vmdk *vmdk = vmdk_from_image(image);
    uint8_t head[VMDK_HEADER_SIZE] = {0};
    size_t size = (size_t)MIN(image->file.size_bytes, sizeof(head));
    int rc = foreign_read(&image->file, 0, head, size, "the header", err);
    if (rc < 0) {
        return rc;
    }
    struct vmdk_descriptor descriptor = {0};
    if (vmdk_is_sparse(head, size)) {
        rc = open_monolithic(vmdk, &descriptor, err);
    } else if (memcmp(head, "COWD", 4) == 0) {
        rc = error_set(err, EOPNOTSUPP, "sparse extents of ESX (COWD) are not supported");
    } else if (!vmdk_probe(head, size, NULL, 0)) {
        rc = error_set(err, EINVAL, "it begins neither as a descriptor nor as a sparse extent");
    } else {
        rc = read_descriptor(&image->file, 0, image->file.size_bytes, &descriptor, err);
        if (rc == 0) {
            rc = check_create_type(descriptor.create_type, err);
        }
        if (rc == 0) {
            rc = open_lines(vmdk, names, &descriptor, err);
        }
    }
    if (rc == 0) {
        struct foreign_info *info = &image->info;
        (void)snprintf(info->variant, sizeof(info->variant), "%s", descriptor.create_type);
        memcpy(info->id, descriptor.id, sizeof(info->id));
        memcpy(info->parent_id, descriptor.parent_id, sizeof(info->parent_id));
        memcpy(info->parent_name, descriptor.parent_name, sizeof(info->parent_name));
        info->needs_parent = descriptor.parent_id[0] != '\0';
    }
    free(descriptor.line);
    return rc;
}

static struct extent *find_extent(struct vmdk *vmdk, uint64_t offset)
{
    struct extent *extent = &vmdk->extent[vmdk->last];
    if (offset - extent->start >= extent->size_bytes) { /* wraps when it lies before */
        uint32_t low = 0;
        uint32_t high = vmdk->extent_count - 1;
        while (low < high) {
            uint32_t middle = (low + high + 1) / 2;
            if (vmdk->extent[middle].start <= offset) {
                low = middle;
            } else {
                high = middle - 1;
            }
        }
        vmdk->last = low;
        extent = &vmdk->extent[low];
    }
    return extent;
}

static int vmdk_map(struct foreign_image *image, uint64_t offset, uint64_t max_size,
                    struct foreign_extent *out_extent, struct error *err)
{
    struct vmdk *vmdk = vmdk_from_image(image);
    struct extent *extent = find_extent(vmdk, offset);
    uint64_t skip = offset - extent->start;
    uint64_t rest = extent->size_bytes - skip;
    switch (extent->type) {
    case VMDK_ZERO:
        out_extent->status = FOREIGN_ZERO;
        out_extent->size_bytes = rest;
        return 0;
    case VMDK_FLAT:
        out_extent->status = FOREIGN_DATA;
        out_extent->file = extent->file_index;
        out_extent->file_offset = extent->flat_offset + skip;
        out_extent->size_bytes = rest;
        return 0;
    case VMDK_SPARSE:
        break;
    }
    int rc =
        vmdk_sparse_map(image, &extent->file, &extent->sparse, skip / SECTOR_SIZE, out_extent, err);
    out_extent->file = extent->file_index;
    out_extent->size_bytes = MIN(out_extent->size_bytes, rest);
    return rc;
}

static int vmdk_read_encoded(const struct foreign_image *image, const struct foreign_extent *extent,
                             void *out_data, struct error *err)
{
    const struct vmdk *vmdk = (const struct vmdk *)image;
    for (uint32_t i = 0; i < vmdk->extent_count; i++) {
        const struct extent *e = &vmdk->extent[i];
        if (e->type == VMDK_SPARSE && e->file_index == extent->file) {
            return vmdk_sparse_inflate(image, &e->file, &e->sparse, extent, out_data, err);
        }
    }
    return error_set(err, EINVAL, "no extent has this file");
}

static void vmdk_close(struct foreign_image *image)
{
    free(vmdk_from_image(image)->extent);
}

const struct foreign_format foreign_vmdk = {
    .name = "vmdk",
    .image_size = sizeof(struct vmdk),
    .probe = vmdk_probe,
    .open = vmdk_open,
    .map = vmdk_map,
    .read_encoded = vmdk_read_encoded,
    .close = vmdk_close,
};
