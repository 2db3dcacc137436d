/* Writing the file of an exported instance. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <zstd.h>

#include "base/core/invariant.h"
#include "base/host/file.h"
#include "manager/transfer/bundle.h"
#include "manager/transfer/tar_format.h"

#define LEVEL 3 /* of zstd */

struct bundle_writer {
    bundle_write_fn write;
    void *ctx;
    ZSTD_CCtx *zstd; /* NULL: not compressed */
    uint8_t *out;
    size_t out_room;
    char name[BUNDLE_NAME_SIZE]; /* of the member that is written */
    uint64_t left, size;
    struct sha256_ctx sha;
    json_t *members;
};

int bundle_map_add(struct bundle_map *map, uint64_t offset, uint64_t size, struct error *err)
{
    struct bundle_extent *last = map->count > 0 ? &map->extents[map->count - 1] : NULL;
    if (last != NULL && last->offset + last->size == offset) {
        last->size += size;
        return 0;
    }
    if (map->count == BUNDLE_MAX_EXTENTS) {
        return error_set(err, E2BIG, "a disk in more than %u pieces", BUNDLE_MAX_EXTENTS);
    }
    if (map->count == map->room) {
        size_t room = map->room == 0 ? 64 : 2 * map->room;
        struct bundle_extent *more = realloc(map->extents, room * sizeof(*more));
        if (more == NULL) {
            return error_set_errno(err, ENOMEM, "a disk's map");
        }
        map->extents = more;
        map->room = room;
    }
    map->extents[map->count++] = (struct bundle_extent){offset, size};
    return 0;
}

uint64_t bundle_map_data(const struct bundle_map *map)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < map->count; i++) {
        sum += map->extents[i].size;
    }
    return sum;
}

void bundle_map_fini(struct bundle_map *map)
{
    free(map->extents);
    *map = (struct bundle_map){0};
}

int bundle_writer_create(bool is_compressed, bundle_write_fn write, void *ctx,
                         struct bundle_writer **out_writer, struct error *err)
{
    struct bundle_writer *writer = calloc(1, sizeof(*writer));
    if (writer != NULL) {
        writer->write = write;
        writer->ctx = ctx;
        writer->members = json_array();
        writer->out_room = ZSTD_CStreamOutSize();
        writer->out = malloc(writer->out_room);
        writer->zstd = is_compressed ? ZSTD_createCCtx() : NULL;
    }
    if (writer == NULL || writer->members == NULL || writer->out == NULL ||
        (is_compressed && writer->zstd == NULL)) {
        bundle_writer_destroy(writer);
        return error_set_errno(err, ENOMEM, "an archive");
    }
    if (is_compressed) {
        (void)ZSTD_CCtx_setParameter(writer->zstd, ZSTD_c_compressionLevel, LEVEL);
        (void)ZSTD_CCtx_setParameter(writer->zstd, ZSTD_c_checksumFlag, 1);
    }
    *out_writer = writer;
    return 0;
}

void bundle_writer_destroy(struct bundle_writer *writer)
{
    if (writer != NULL) {
        (void)ZSTD_freeCCtx(writer->zstd);
        json_decref(writer->members);
        free(writer->out);
        free(writer);
    }
}

/* To whoever takes the archive, compressed where it is. */
static int give(struct bundle_writer *writer, const void *data, size_t size,
                ZSTD_EndDirective directive, struct error *err)
{
    if (writer->zstd == NULL) {
        return size > 0 ? writer->write(writer->ctx, data, size, err) : 0;
    }
    ZSTD_inBuffer in = {data, size, 0};
    size_t left;
    do {
        ZSTD_outBuffer out = {writer->out, writer->out_room, 0};
        left = ZSTD_compressStream2(writer->zstd, &out, &in, directive);
        if (ZSTD_isError(left)) {
            return error_set(err, EIO, "compressing: %s", ZSTD_getErrorName(left));
        }
        int rc = out.pos > 0 ? writer->write(writer->ctx, out.dst, out.pos, err) : 0;
        if (rc < 0) {
            return rc;
        }
    } while (in.pos < in.size || (directive == ZSTD_e_end && left > 0));
    return 0;
}

static int give_padding(struct bundle_writer *writer, uint64_t size, struct error *err)
{
    static const char zeros[TAR_BLOCK];
    size_t rest = (size_t)(size % TAR_BLOCK);
    return rest > 0 ? give(writer, zeros, TAR_BLOCK - rest, ZSTD_e_continue, err) : 0;
}

/* Up to 8 GiB in octal digits, as POSIX has it, beyond as a number of base 256. */
static void put_size(char field[12], uint64_t size)
{
    if (size < (uint64_t)1 << 33) {
        char text[16];
        (void)snprintf(text, sizeof(text), "%011llo", (unsigned long long)size);
        memcpy(field, text, 12);
        return;
    }
    memset(field, 0, 12);
    field[0] = (char)0x80;
    for (int i = 11; i > 3; i--) {
        field[i] = (char)(size & 0xff);
        size >>= 8;
    }
}

static int give_header(struct bundle_writer *writer, const char *name, char type, uint64_t size,
                       struct error *err)
{
    struct tar_header header = {.mode = "0000600", .uid = "0000000", .gid = "0000000"};
    char text[16];
    if (strlen(name) >= sizeof(header.name)) {
        return error_set(err, ENAMETOOLONG, "member %s of an archive", name);
    }
    memcpy(header.name, name, strlen(name));
    put_size(header.size, size);
    (void)snprintf(text, sizeof(text), "%011llo", (unsigned long long)time(NULL));
    memcpy(header.mtime, text, sizeof(header.mtime));
    header.type = type;
    memcpy(header.magic, "ustar", 6);
    memcpy(header.version, "00", 2);
    (void)snprintf(header.user, sizeof(header.user), "root");
    (void)snprintf(header.group, sizeof(header.group), "root");
    (void)snprintf(text, sizeof(text), "%06o", tar_checksum(&header) & 0777777);
    memcpy(header.checksum, text, 7);
    header.checksum[7] = ' ';
    return give(writer, &header, sizeof(header), ZSTD_e_continue, err);
}

static void begin_member(struct bundle_writer *writer, const char *name, uint64_t size)
{
    invariant(writer->left == 0);
    (void)snprintf(writer->name, sizeof(writer->name), "%s", name);
    writer->left = writer->size = size;
    sha256_init(&writer->sha);
}

static int end_member(struct bundle_writer *writer, struct error *err)
{
    char hex[SHA256_HEX_SIZE];
    sha256_hex(&writer->sha, hex);
    json_t *row = json_pack("{s:s, s:I, s:s}", "name", writer->name, "size",
                            (json_int_t)writer->size, "sha256", hex);
    if (row == NULL || json_array_append_new(writer->members, row) < 0) {
        return error_set_errno(err, ENOMEM, "an archive");
    }
    return give_padding(writer, writer->size, err);
}

int bundle_begin(struct bundle_writer *writer, const char *name, uint64_t size, struct error *err)
{
    begin_member(writer, name, size);
    int rc = give_header(writer, name, '0', size, err);
    return rc < 0 || size > 0 ? rc : end_member(writer, err);
}

int bundle_write(struct bundle_writer *writer, const void *data, size_t size, struct error *err)
{
    invariant(size <= writer->left);
    if (size == 0) {
        return 0;
    }
    sha256_update(&writer->sha, size, data);
    writer->left -= size;
    int rc = give(writer, data, size, ZSTD_e_continue, err);
    return rc < 0 || writer->left > 0 ? rc : end_member(writer, err);
}

/* "LENGTH KEY=VALUE\n", where the length counts itself. */
static size_t add_record(char *to, size_t room, const char *key, const char *value)
{
    size_t rest = strlen(key) + strlen(value) + 3, length = rest + 1;
    char digits[24];
    while ((size_t)snprintf(digits, sizeof(digits), "%zu", length) + rest != length) {
        length++;
    }
    (void)snprintf(to, room, "%zu %s=%s\n", length, key, value);
    return length;
}

/* "COUNT\nOFFSET\nSIZE\n...", in whole blocks. */
static char *map_text(const struct bundle_map *map, size_t *out_size)
{
    size_t room = 64 + (map->count + 1) * 42;
    char *text = calloc(1, room + TAR_BLOCK);
    if (text == NULL) {
        return NULL;
    }
    size_t used = (size_t)snprintf(text, room, "%zu\n", map->count + 1);
    for (size_t i = 0; i < map->count; i++) {
        used += (size_t)snprintf(text + used, room - used, "%llu\n%llu\n",
                                 (unsigned long long)map->extents[i].offset,
                                 (unsigned long long)map->extents[i].size);
    }
    used +=
        (size_t)snprintf(text + used, room - used, "%llu\n0\n", (unsigned long long)map->real_size);
    *out_size = (used + TAR_BLOCK - 1) / TAR_BLOCK * TAR_BLOCK;
    return text;
}

static int give_sparse_records(struct bundle_writer *writer, const char *name, uint64_t real_size,
                               struct error *err)
{
    char text[TAR_BLOCK], number[24];
    size_t used = add_record(text, sizeof(text), "GNU.sparse.major", "1");
    used += add_record(text + used, sizeof(text) - used, "GNU.sparse.minor", "0");
    used += add_record(text + used, sizeof(text) - used, "GNU.sparse.name", name);
    (void)snprintf(number, sizeof(number), "%llu", (unsigned long long)real_size);
    used += add_record(text + used, sizeof(text) - used, "GNU.sparse.realsize", number);
    int rc = give_header(writer, "PaxHeaders/sparse", 'x', used, err);
    rc = rc < 0 ? rc : give(writer, text, used, ZSTD_e_continue, err);
    return rc < 0 ? rc : give_padding(writer, used, err);
}

int bundle_begin_sparse(struct bundle_writer *writer, const char *name,
                        const struct bundle_map *map, struct error *err)
{
    char stored[2 * BUNDLE_NAME_SIZE];
    size_t size;
    const char *slash = strrchr(name, '/'), *last = slash != NULL ? slash + 1 : name;
    AUTO_FREE char *text = map_text(map, &size);
    if (text == NULL) {
        return error_set_errno(err, ENOMEM, "a disk's map");
    }
    (void)snprintf(stored, sizeof(stored), "%.*s" TAR_SPARSE "/%s", (int)(last - name), name, last);
    begin_member(writer, name, size + bundle_map_data(map));
    int rc = give_sparse_records(writer, name, map->real_size, err);
    rc = rc < 0 ? rc : give_header(writer, stored, '0', writer->size, err);
    return rc < 0 ? rc : bundle_write(writer, text, size, err);
}

int bundle_put_json(struct bundle_writer *writer, const char *name, const json_t *object,
                    struct error *err)
{
    AUTO_FREE char *text = json_dumps(object, JSON_INDENT(2));
    if (text == NULL) {
        return error_set(err, EINVAL, "%s: is no JSON", name);
    }
    int rc = bundle_begin(writer, name, strlen(text), err);
    return rc < 0 ? rc : bundle_write(writer, text, strlen(text), err);
}

int bundle_finish(struct bundle_writer *writer, struct error *err)
{
    static const char end[2 * TAR_BLOCK];
    json_auto_t *manifest =
        json_pack("{s:i, s:O}", "format", BUNDLE_FORMAT, "members", writer->members);
    json_auto_t *members = json_deep_copy(writer->members); /* the manifest is not in itself */
    (void)json_object_set(manifest, "members", members);
    int rc = bundle_put_json(writer, BUNDLE_MANIFEST, manifest, err);
    rc = rc < 0 ? rc : give(writer, end, sizeof(end), ZSTD_e_continue, err);
    return rc < 0 ? rc : give(writer, NULL, 0, ZSTD_e_end, err);
}
