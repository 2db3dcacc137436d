/* What the formats of other products share: their table, opening, mapping of runs, reading of structures and texts. */
#include "block/format/foreign/foreign.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/core/checked.h"
#include "base/core/endian.h"
#include "base/core/invariant.h"
#include "block/format/foreign/format.h"

#define MAX_MERGED 1024 /* units that one foreign_map may join */

static const struct foreign_format *const formats[] = {
    &foreign_vmdk, &foreign_vhdx, &foreign_vdi,
    &foreign_vhd, /* last: a fixed one is known by its end alone */
};

const struct foreign_format *foreign_find(const char *name)
{
    for (size_t i = 0; i < ARRAY_COUNT(formats); i++) {
        if (strcmp(formats[i]->name, name) == 0 ||
            (formats[i]->alias != NULL && strcmp(formats[i]->alias, name) == 0)) {
            return formats[i];
        }
    }
    return NULL;
}

const char *foreign_format_name(const struct foreign_format *format)
{
    return format->name;
}

const struct foreign_format *foreign_probe(const void *head, size_t head_size, const void *tail,
                                           size_t tail_size)
{
    for (size_t i = 0; i < ARRAY_COUNT(formats); i++) {
        if (formats[i]->probe(head, head_size, tail, tail_size)) {
            return formats[i];
        }
    }
    return NULL;
}

static void run_here(void *ctx, void (*work)(void *arg), void *arg)
{
    work(arg);
}

void foreign_set_runner(struct foreign_image *image,
                        void (*run)(void *ctx, void (*work)(void *arg), void *arg), void *ctx)
{
    image->run = run;
    image->run_ctx = ctx;
}

int foreign_open(const struct foreign_format *format, const struct foreign_file *file,
                 const struct foreign_names *names, struct foreign_image **out_image,
                 struct error *err)
{
    struct foreign_image *image = calloc(1, format->image_size);
    struct pieces *pieces = pieces_create();
    if (image == NULL || pieces == NULL) {
        free(image);
        pieces_destroy(pieces);
        return error_set_errno(err, ENOMEM, "opening an image");
    }
    image->format = format;
    image->file = *file;
    image->pieces = pieces;
    image->run = run_here;
    image->info.format = format->name;
    image->info.logical_block_size = SECTOR_SIZE;
    int rc = format->open(image, names, err);
    if (rc == 0) {
        rc = foreign_check_size(image->info.size_bytes, err);
    }
    if (rc < 0) {
        foreign_close(image);
        return error_prefix(err, rc, "%s image", format->name);
    }
    *out_image = image;
    return 0;
}

void foreign_close(struct foreign_image *image)
{
    if (image != NULL) {
        if (image->format->close != NULL) {
            image->format->close(image);
        }
        pieces_destroy(image->pieces);
        free(image);
    }
}

const struct foreign_info *foreign_get_info(const struct foreign_image *image)
{
    return &image->info;
}

static int map_unit(struct foreign_image *image, uint64_t offset, uint64_t max_size,
                    struct foreign_extent *out_extent, struct error *err)
{
    *out_extent = (struct foreign_extent){0};
    int rc = image->format->map(image, offset, max_size, out_extent, err);
    if (rc < 0) {
        return error_prefix(err, rc, "%s image: mapping offset %llu", image->format->name,
                            (unsigned long long)offset);
    }
    out_extent->size_bytes = MIN(out_extent->size_bytes, max_size);
    invariant(out_extent->size_bytes != 0);
    return 0;
}

/* Does 'next' go on where 'extent' ends? Encoded units are read one by one. */
static bool goes_on(const struct foreign_extent *extent, const struct foreign_extent *next)
{
    if (extent->status != next->status || extent->status == FOREIGN_ENCODED) {
        return false;
    }
    return extent->status != FOREIGN_DATA ||
           (extent->file == next->file &&
            extent->file_offset + extent->size_bytes == next->file_offset);
}

int foreign_map(struct foreign_image *image, uint64_t offset, uint64_t max_size,
                struct foreign_extent *out_extent, struct error *err)
{
    invariant(max_size != 0 && (offset | max_size) % SECTOR_SIZE == 0 &&
              range_fits(offset, max_size, image->info.size_bytes));
    struct foreign_extent extent;
    int rc = map_unit(image, offset, max_size, &extent, err);
    if (rc < 0) {
        return rc;
    }
    for (int i = 0; i < MAX_MERGED && extent.size_bytes < max_size; i++) {
        struct foreign_extent next;
        /* A failure further on is told when somebody asks for what is there. */
        if (map_unit(image, offset + extent.size_bytes, max_size - extent.size_bytes, &next, NULL) <
                0 ||
            !goes_on(&extent, &next)) {
            break;
        }
        extent.size_bytes += next.size_bytes;
    }
    *out_extent = extent;
    return 0;
}

int foreign_read_encoded(const struct foreign_image *image, const struct foreign_extent *extent,
                         void *out_data, struct error *err)
{
    invariant(extent->status == FOREIGN_ENCODED);
    int rc = image->format->read_encoded(image, extent, out_data, err);
    return rc < 0 ? error_prefix(err, rc, "%s image", image->format->name) : 0;
}

static int check_range(const struct foreign_file *file, uint64_t offset, size_t size,
                       const char *what, struct error *err)
{
    if (!range_fits(offset, size, file->size_bytes)) {
        return error_set(err, EINVAL, "%s at %llu lies beyond the end of the file of %llu bytes",
                         what, (unsigned long long)offset, (unsigned long long)file->size_bytes);
    }
    return 0;
}

int foreign_read(const struct foreign_file *file, uint64_t offset, void *out_data, size_t size,
                 const char *what, struct error *err)
{
    int rc = check_range(file, offset, size, what, err);
    if (rc == 0 && (rc = file->read(file->ctx, offset, out_data, size, err)) < 0) {
        return error_prefix(err, rc, "reading %s", what);
    }
    return rc;
}

int foreign_read_table(struct foreign_image *image, const struct foreign_file *file,
                       uint64_t offset, void *out_data, size_t size, const char *what,
                       struct error *err)
{
    int rc = check_range(file, offset, size, what, err);
    if (rc == 0 && (rc = pieces_read(image->pieces, file, offset, out_data, size, err)) < 0) {
        return error_prefix(err, rc, "reading %s", what);
    }
    return rc;
}

int foreign_copy_name(char *to, size_t to_size, const char *from, size_t length, const char *what,
                      struct error *err)
{
    if (length == 0 || length >= to_size) {
        return error_set(err, EINVAL, "%s has %zu characters: 1 to %zu", what, length, to_size - 1);
    }
    for (size_t i = 0; i < length; i++) {
        /* It will stand in messages on a terminal. */
        if ((unsigned char)from[i] < 0x20 || from[i] == 0x7f) {
            return error_set(err, EINVAL, "%s has control characters", what);
        }
    }
    memcpy(to, from, length);
    to[length] = '\0';
    return 0;
}

void foreign_guid_text(const uint8_t *guid, bool is_mixed, char out_text[FOREIGN_ID_SIZE])
{
    uint32_t a = is_mixed ? le32_get(guid) : be32_get(guid);
    unsigned b = is_mixed ? le16_get(guid + 4) : be16_get(guid + 4);
    unsigned c = is_mixed ? le16_get(guid + 6) : be16_get(guid + 6);
    (void)snprintf(out_text, FOREIGN_ID_SIZE, "%08x-%04x-%04x-%02x%02x-%02x%02x%02x%02x%02x%02x",
                   (unsigned)a, b, c, guid[8], guid[9], guid[10], guid[11], guid[12], guid[13],
                   guid[14], guid[15]);
}

static size_t put_utf8(uint32_t c, char out[4])
{
    if (c < 0x80) {
        out[0] = (char)c;
        return 1;
    }
    size_t count = c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
    for (size_t i = count - 1; i > 0; i--) {
        out[i] = (char)(0x80 | (c & 0x3f));
        c >>= 6;
    }
    static const uint8_t starts[] = {0, 0, 0xc0, 0xe0, 0xf0};
    out[0] = (char)(starts[count] | c);
    return count;
}

void foreign_utf16(const uint8_t *from, size_t count, bool is_big_endian, char *to, size_t to_size)
{
    size_t used = 0;
    for (size_t i = 0; i < count; i++) {
        uint32_t c = is_big_endian ? be16_get(from + 2 * i) : le16_get(from + 2 * i);
        if (c == 0) {
            break;
        }
        if (c >= 0xd800 && c < 0xdc00 && i + 1 < count) {
            uint32_t low = is_big_endian ? be16_get(from + 2 * i + 2) : le16_get(from + 2 * i + 2);
            if (low >= 0xdc00 && low < 0xe000) {
                c = 0x10000 + ((c - 0xd800) << 10) + (low - 0xdc00);
                i++;
            }
        }
        if (c < 0x20 || (c >= 0x7f && c < 0xa0) || (c >= 0xd800 && c < 0xe000)) {
            c = '?';
        }
        char bytes[4];
        size_t size = put_utf8(c, bytes);
        if (used + size >= to_size) {
            break;
        }
        memcpy(to + used, bytes, size);
        used += size;
    }
    to[used] = '\0';
}

int foreign_check_size(uint64_t size_bytes, struct error *err)
{
    if (size_bytes == 0 || size_bytes > FOREIGN_MAX_SIZE || size_bytes % SECTOR_SIZE != 0) {
        return error_set(err, EINVAL,
                         "the disk's size is %llu bytes: a multiple of 512 up to 1 PiB is accepted",
                         (unsigned long long)size_bytes);
    }
    return 0;
}
