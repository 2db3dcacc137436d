/* Reading the file of an exported instance, which anybody may have made. */
#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zstd.h>

#include "base/core/cleanup.h"
#include "base/core/compiler.h"
#include "base/host/file.h"
#include "manager/transfer/bundle.h"
#include "manager/transfer/tar_format.h"

#define IN_SIZE    65536u
#define MAX_WINDOW 27 /* of zstd: 128 MiB */
#define MAX_NUMBER 20 /* digits of one in a map */

struct bundle_reader {
    bundle_read_fn read;
    void *ctx;
    ZSTD_DCtx *zstd; /* NULL: not compressed */
    uint8_t in[IN_SIZE];
    size_t in_at, in_size;
    bool has_ended;     /* nothing more is to be had */
    bool frame_is_over; /* the compressed one */
    struct bundle_member member;
    uint64_t left;    /* of its content, as it stands in the archive */
    uint64_t padding; /* behind that */
    struct sha256_ctx sha;
    bool is_open; /* a member, whose digest is not known yet */
    uint64_t member_size;
    json_t *members; /* what the manifest has to say */
};

static int bad(struct error *err, const char *what)
{
    return error_set(err, EBADMSG, "no whole file of an exported instance: %s", what);
}

static int refill(struct bundle_reader *reader, struct error *err)
{
    if (reader->in_at < reader->in_size || reader->has_ended) {
        return 0;
    }
    reader->in_at = reader->in_size = 0;
    int rc = reader->read(reader->ctx, reader->in, sizeof(reader->in), &reader->in_size, err);
    reader->has_ended = rc == 0 && reader->in_size == 0;
    return rc;
}

/* At most 'size' bytes of the tar archive; 0: its end. */
static int take_some(struct bundle_reader *reader, void *data, size_t size, size_t *out_size,
                     struct error *err)
{
    *out_size = 0;
    while (*out_size == 0) {
        int rc = refill(reader, err);
        if (rc < 0) {
            return rc;
        }
        if (reader->zstd == NULL) {
            *out_size = MIN(size, reader->in_size - reader->in_at);
            memcpy(data, reader->in + reader->in_at, *out_size);
            reader->in_at += *out_size;
            return 0;
        }
        if (reader->frame_is_over) {
            return reader->in_at < reader->in_size ? bad(err, "something is behind its end") : 0;
        }
        ZSTD_inBuffer in = {reader->in, reader->in_size, reader->in_at};
        ZSTD_outBuffer out = {data, size, 0};
        size_t left = ZSTD_decompressStream(reader->zstd, &out, &in);
        if (ZSTD_isError(left)) {
            return bad(err, ZSTD_getErrorName(left));
        }
        if (reader->has_ended && out.pos == 0 && left != 0) {
            return bad(err, "it ends in its middle");
        }
        reader->in_at = in.pos;
        reader->frame_is_over = left == 0;
        *out_size = out.pos;
    }
    return 0;
}

static int take(struct bundle_reader *reader, void *data, size_t size, struct error *err)
{
    for (size_t got = 0; got < size;) {
        size_t part;
        int rc = take_some(reader, (uint8_t *)data + got, size - got, &part, err);
        if (rc < 0 || part == 0) {
            return rc < 0 ? rc : bad(err, "it ends in its middle");
        }
        got += part;
    }
    return 0;
}

int bundle_reader_create(bundle_read_fn read, void *ctx, struct bundle_reader **out_reader,
                         struct error *err)
{
    static const uint8_t magic[] = {0x28, 0xb5, 0x2f, 0xfd};
    struct bundle_reader *reader = calloc(1, sizeof(*reader));
    json_t *members = json_array();
    if (reader == NULL || members == NULL) {
        free(reader);
        json_decref(members);
        return error_set_errno(err, ENOMEM, "an archive");
    }
    reader->read = read;
    reader->ctx = ctx;
    reader->members = members;
    int rc = 0;
    while (rc == 0 && reader->in_size < sizeof(magic) && !reader->has_ended) {
        size_t part = 0;
        rc = read(ctx, reader->in + reader->in_size, sizeof(reader->in) - reader->in_size, &part,
                  err);
        reader->in_size += part;
        reader->has_ended = part == 0;
    }
    if (rc == 0 && reader->in_size >= sizeof(magic) && memcmp(reader->in, magic, 4) == 0) {
        reader->zstd = ZSTD_createDCtx();
        rc = reader->zstd == NULL ? error_set_errno(err, ENOMEM, "an archive") : 0;
        if (rc == 0) {
            (void)ZSTD_DCtx_setParameter(reader->zstd, ZSTD_d_windowLogMax, MAX_WINDOW);
        }
    }
    reader->has_ended = reader->has_ended && reader->in_size == 0;
    if (rc < 0) {
        bundle_reader_destroy(reader);
        return rc;
    }
    *out_reader = reader;
    return 0;
}

void bundle_reader_destroy(struct bundle_reader *reader)
{
    if (reader != NULL) {
        (void)ZSTD_freeDCtx(reader->zstd);
        bundle_map_fini(&reader->member.map);
        json_decref(reader->members);
        free(reader);
    }
}

static int take_octal(const char *field, size_t size, uint64_t *out, struct error *err)
{
    size_t i = 0;
    *out = 0;
    if ((uint8_t)field[0] == 0x80) { /* base 256 */
        for (i = 1; i < size; i++) {
            if (*out >> 54 != 0) {
                return bad(err, "a number that is too large");
            }
            *out = *out << 8 | (uint8_t)field[i];
        }
        return 0;
    }
    for (; i < size && field[i] >= '0' && field[i] <= '7'; i++) {
        *out = *out << 3 | (unsigned)(field[i] - '0');
    }
    return i == 0 || (i < size && field[i] != '\0' && field[i] != ' ')
               ? bad(err, "a number that is none")
               : 0;
}

static int check_name(const char *name, struct error *err)
{
    static const char fits[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.";
    const char *at = name;
    for (;;) {
        size_t length = strspn(at, fits);
        if (length == 0 || at[0] == '.' || (at[length] != '/' && at[length] != '\0')) {
            return bad(err, "a member's name that no export has");
        }
        if (at[length] == '\0') {
            return 0;
        }
        at += length + 1;
    }
}

static int take_number(const char *text, uint64_t *out)
{
    size_t length = strspn(text, "0123456789");
    *out = 0;
    for (size_t i = 0; i < length; i++) {
        *out = *out * 10 + (unsigned)(text[i] - '0');
    }
    return length == 0 || length > 18 || text[length] != '\0' ? -EBADMSG : 0;
}

/* GNU.sparse.*; others say nothing that is of any use here. */
static int take_record(struct bundle_member *member, const char *key, const char *value,
                       unsigned *seen, struct error *err)
{
    if (strcmp(key, "GNU.sparse.major") == 0) {
        *seen |= strcmp(value, "1") == 0 ? 1 : 0;
    } else if (strcmp(key, "GNU.sparse.minor") == 0) {
        *seen |= strcmp(value, "0") == 0 ? 2 : 0;
    } else if (strcmp(key, "GNU.sparse.realsize") == 0) {
        *seen |= 4;
        if (take_number(value, &member->map.real_size) < 0) {
            return bad(err, "a sparse file's size");
        }
    } else if (strcmp(key, "GNU.sparse.name") == 0) {
        *seen |= 8;
        if (strlen(value) >= sizeof(member->name)) {
            return bad(err, "a member's name that no export has");
        }
        strcpy(member->name, value);
    }
    return 0;
}

/* Records of a pax header: "LENGTH KEY=VALUE\n". */
static int take_pax(struct bundle_reader *reader, uint64_t size, struct error *err)
{
    char text[TAR_MAX_PAX + TAR_BLOCK];
    unsigned seen = 0;
    if (size == 0 || size > TAR_MAX_PAX) {
        return bad(err, "a header of an unknown kind");
    }
    size_t padded = (size_t)(size + TAR_BLOCK - 1) / TAR_BLOCK * TAR_BLOCK;
    int rc = take(reader, text, padded, err);
    for (size_t at = 0; rc == 0 && at < size;) {
        size_t digits = 0, length = 0;
        while (at + digits < size && digits < 5 && isdigit((unsigned char)text[at + digits])) {
            length = length * 10 + (size_t)(text[at + digits] - '0');
            digits++;
        }
        if (digits == 0 || length < digits + 4 || length > size - at || text[at + digits] != ' ' ||
            text[at + length - 1] != '\n') {
            return bad(err, "a record of a header");
        }
        char *key = text + at + digits + 1;
        text[at + length - 1] = '\0';
        char *equals = strchr(key, '=');
        if (equals == NULL || strlen(key) != length - digits - 2) {
            return bad(err, "a record of a header");
        }
        *equals = '\0';
        rc = take_record(&reader->member, key, equals + 1, &seen, err);
        at += length;
    }
    if (rc == 0 && seen != 15) {
        rc = bad(err, "a header of an unknown kind");
    }
    reader->member.is_sparse = rc == 0;
    return rc;
}

/* What stands in the archive, also for its digest. */
static int take_content(struct bundle_reader *reader, void *data, size_t size, struct error *err)
{
    if (size > reader->left) {
        return bad(err, "a member that is too short");
    }
    int rc = take(reader, data, size, err);
    if (rc == 0) {
        sha256_update(&reader->sha, size, data);
        reader->left -= size;
    }
    return rc;
}

struct map_parser {
    struct bundle_map *map;
    char digits[MAX_NUMBER + 1];
    size_t length;
    uint64_t expected, numbers, offset; /* how many pairs, what came */
};

static int take_map_number(struct map_parser *parser, uint64_t number, struct error *err)
{
    struct bundle_map *map = parser->map;
    uint64_t end = map->count > 0
                       ? map->extents[map->count - 1].offset + map->extents[map->count - 1].size
                       : 0;
    if (parser->numbers == 0) {
        parser->expected = number;
        return number == 0 || number > BUNDLE_MAX_EXTENTS + 1 ? bad(err, "a sparse file's map") : 0;
    }
    if (parser->numbers % 2 == 1) {
        parser->offset = number;
        return number < end || number > map->real_size ? bad(err, "a sparse file's map") : 0;
    }
    if (number > map->real_size - parser->offset) {
        return bad(err, "a sparse file's map");
    }
    return number > 0 ? bundle_map_add(map, parser->offset, number, err) : 0;
}

/* One more character. 1: the map is whole. */
static int take_map_character(struct map_parser *parser, char c, struct error *err)
{
    uint64_t number;
    if (c != '\n') {
        if (parser->length == MAX_NUMBER || !isdigit((unsigned char)c)) {
            return bad(err, "a sparse file's map");
        }
        parser->digits[parser->length++] = c;
        return 0;
    }
    parser->digits[parser->length] = '\0';
    parser->length = 0;
    if (take_number(parser->digits, &number) < 0) {
        return bad(err, "a sparse file's map");
    }
    int rc = take_map_number(parser, number, err);
    parser->numbers++;
    return rc < 0 ? rc : parser->numbers == 2 * parser->expected + 1;
}

static int take_map(struct bundle_reader *reader, struct error *err)
{
    struct map_parser parser = {.map = &reader->member.map};
    int rc = 0;
    while (rc == 0) {
        char block[TAR_BLOCK];
        rc = take_content(reader, block, sizeof(block), err);
        for (size_t i = 0; rc == 0 && i < sizeof(block); i++) {
            rc = take_map_character(&parser, block[i], err);
        }
    }
    if (rc < 0) {
        return rc;
    }
    reader->member.size = reader->left;
    return bundle_map_data(&reader->member.map) != reader->left
               ? bad(err, "a sparse file whose map and content differ")
               : 0;
}

/* The rest of the member before. */
static int pass_over(struct bundle_reader *reader, struct error *err)
{
    uint8_t data[16384];
    char hex[SHA256_HEX_SIZE];
    int rc = 0;
    if (!reader->is_open) {
        return 0;
    }
    while (rc == 0 && reader->left > 0) {
        rc = take_content(reader, data, (size_t)MIN(sizeof(data), reader->left), err);
    }
    rc = rc < 0 ? rc : take(reader, data, (size_t)reader->padding, err);
    if (rc < 0) {
        return rc;
    }
    reader->is_open = false;
    sha256_hex(&reader->sha, hex);
    json_t *row = json_pack("{s:s, s:I, s:s}", "name", reader->member.name, "size",
                            (json_int_t)reader->member_size, "sha256", hex);
    return row == NULL || json_array_append_new(reader->members, row) < 0
               ? error_set_errno(err, ENOMEM, "an archive")
               : 0;
}

static bool was_there(const struct bundle_reader *reader, const char *name)
{
    size_t i;
    const json_t *row;
    json_array_foreach(reader->members, i, row)
    {
        if (strcmp(json_string_value(json_object_get(row, "name")), name) == 0) {
            return true;
        }
    }
    return false;
}

static int begin_member(struct bundle_reader *reader, const struct tar_header *header,
                        struct error *err)
{
    struct bundle_member *member = &reader->member;
    if (header->type != '0' && header->type != '\0') {
        return bad(err, "a member that is no plain file");
    }
    if (memchr(header->name, '\0', sizeof(header->name)) == NULL || header->prefix[0] != '\0') {
        return bad(err, "a member's name that no export has");
    }
    if (!member->is_sparse) {
        strcpy(member->name, header->name);
    }
    int rc = check_name(member->name, err);
    if (rc == 0 && was_there(reader, member->name)) {
        rc = bad(err, "two members of one name");
    }
    if (rc == 0 && json_array_size(reader->members) >= BUNDLE_MAX_MEMBERS) {
        rc = bad(err, "too many members");
    }
    rc = rc < 0 ? rc : take_octal(header->size, sizeof(header->size), &member->size, err);
    if (rc < 0) {
        return rc;
    }
    reader->left = reader->member_size = member->size;
    reader->padding = (TAR_BLOCK - member->size % TAR_BLOCK) % TAR_BLOCK;
    reader->is_open = true;
    sha256_init(&reader->sha);
    return member->is_sparse ? take_map(reader, err) : 0;
}

/* The next header of a member, with what belongs to it. */
static int find_member(struct bundle_reader *reader, struct error *err)
{
    struct tar_header header;
    bundle_map_fini(&reader->member.map);
    reader->member = (struct bundle_member){0};
    for (unsigned round = 0; round < 2; round++) {
        uint64_t sum, size;
        int rc = take(reader, &header, sizeof(header), err);
        rc = rc < 0 ? rc : take_octal(header.checksum, sizeof(header.checksum), &sum, err);
        rc = rc < 0 ? rc : take_octal(header.size, sizeof(header.size), &size, err);
        if (rc == 0 && (sum != tar_checksum(&header) || memcmp(header.magic, "ustar", 5) != 0)) {
            rc = bad(err, "a header's checksum");
        }
        if (rc < 0) {
            return rc;
        }
        if (header.type != 'x' || round > 0) {
            return begin_member(reader, &header, err);
        }
        rc = take_pax(reader, size, err);
        if (rc < 0) {
            return rc;
        }
    }
    return bad(err, "a header without a member");
}

/* Nothing but zeros. */
static int take_end(struct bundle_reader *reader, struct error *err)
{
    for (;;) {
        char data[TAR_BLOCK];
        size_t size;
        int rc = take_some(reader, data, sizeof(data), &size, err);
        if (rc < 0 || size == 0) {
            return rc;
        }
        for (size_t i = 0; i < size; i++) {
            if (data[i] != '\0') {
                return bad(err, "something is behind its end");
            }
        }
    }
}

static int compare_manifest(struct bundle_reader *reader, struct error *err)
{
    json_auto_t *expected = json_deep_copy(reader->members);
    json_auto_t *manifest = NULL;
    int rc = bundle_read_json(reader, &manifest, err);
    if (rc < 0) {
        return rc;
    }
    const json_t *said = json_object_get(manifest, "members"), *row, *seen;
    size_t i;
    if (json_integer_value(json_object_get(manifest, "format")) != BUNDLE_FORMAT ||
        json_array_size(said) != json_array_size(expected)) {
        return bad(err, "its manifest names other members");
    }
    json_array_foreach(said, i, row)
    {
        seen = json_array_get(expected, i);
        const char *name = json_string_value(json_object_get(seen, "name"));
        if (!json_equal(json_object_get(row, "name"), json_object_get(seen, "name")) ||
            !json_equal(json_object_get(row, "size"), json_object_get(seen, "size"))) {
            return bad(err, "its manifest names other members");
        }
        if (!json_equal(json_object_get(row, "sha256"), json_object_get(seen, "sha256"))) {
            return error_set(err, EBADMSG, "damaged: the checksum of %s differs", name);
        }
    }
    rc = pass_over(reader, err);
    return rc < 0 ? rc : take_end(reader, err);
}

int bundle_next(struct bundle_reader *reader, const struct bundle_member **out_member,
                struct error *err)
{
    int rc = pass_over(reader, err);
    rc = rc < 0 ? rc : find_member(reader, err);
    if (rc < 0) {
        return rc;
    }
    bool is_first = json_array_size(reader->members) == 0;
    if (is_first != (strcmp(reader->member.name, BUNDLE_HEADER) == 0)) {
        return bad(err, "it does not begin with " BUNDLE_HEADER);
    }
    if (strcmp(reader->member.name, BUNDLE_MANIFEST) == 0) {
        return compare_manifest(reader, err);
    }
    *out_member = &reader->member;
    return 1;
}

int bundle_read(struct bundle_reader *reader, void *data, size_t size, size_t *out_size,
                struct error *err)
{
    *out_size = (size_t)MIN(size, reader->left);
    return *out_size > 0 ? take_content(reader, data, *out_size, err) : 0;
}

int bundle_read_json(struct bundle_reader *reader, json_t **out_object, struct error *err)
{
    if (reader->left == 0 || reader->left > BUNDLE_MAX_JSON) {
        return bad(err, "a document that is too large, or empty");
    }
    size_t size = (size_t)reader->left;
    AUTO_FREE char *text = malloc(size);
    int rc = text == NULL ? error_set_errno(err, ENOMEM, "an archive")
                          : take_content(reader, text, size, err);
    if (rc < 0) {
        return rc;
    }
    json_t *object = json_loadb(text, size, JSON_REJECT_DUPLICATES, NULL);
    if (!json_is_object(object)) {
        json_decref(object);
        return bad(err, "a document that is none");
    }
    *out_object = object;
    return 0;
}

int bundle_read_header(struct bundle_reader *reader, json_t **out_header, struct error *err)
{
    const struct bundle_member *member;
    int rc = bundle_next(reader, &member, err);
    if (rc <= 0) {
        return rc < 0 ? rc : bad(err, "it is empty");
    }
    json_auto_t *header = NULL;
    rc = bundle_read_json(reader, &header, err);
    if (rc < 0) {
        return rc;
    }
    json_int_t format = json_integer_value(json_object_get(header, "format"));
    if (format > BUNDLE_NEWEST) {
        return error_set(err, EPROTONOSUPPORT,
                         "it was exported by a newer Hull: its format is %lld, this one knows %d",
                         (long long)format, BUNDLE_NEWEST);
    }
    if (format < BUNDLE_FORMAT || json_string_value(json_object_get(header, "kind")) == NULL ||
        json_string_value(json_object_get(header, "name")) == NULL ||
        !json_is_object(json_object_get(header, "document"))) {
        return bad(err, "its header does not say what it is");
    }
    *out_header = TAKE_PTR(header);
    return 0;
}
