/* Extended attributes in an archive of tar (pax), by another name. Of what stands in it only lengths and keys are understood. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/core/cleanup.h"
#include "base/core/compiler.h"
#include "base/host/file.h"
#include "manager/transfer/rename.h"
#include "manager/transfer/tar_format.h"

#define MAX_RECORDS (4u << 20) /* of one file; extended attributes have 64 KiB each */
#define PART_SIZE   262144u
#define KEY         "SCHILY.xattr."

/* One walk through the archive, and what is written of it. */
struct renaming {
    const char *path, *from, *to;
    int in, out; /* 'out' -1: it only looks */
    uint64_t at, end, written;
    bool is_found;
    bool has_size; /* the next file's, which its header has no room for */
    uint64_t size;
    char *part;
};

static int bad(const struct renaming *r, struct error *err)
{
    return error_set(err, EBADMSG, "%s: is no archive of tar that is known", r->path);
}

static int put(struct renaming *r, const void *data, size_t size, struct error *err)
{
    int rc = r->out < 0 ? 0 : file_write_at(r->out, data, size, r->written, r->path, err);
    r->written += size;
    return rc;
}

/* Octal digits, or GNU's binary numbers. */
static bool take_number(const char *field, size_t size, uint64_t *out)
{
    uint64_t value = 0;
    size_t i = 0;
    if ((field[0] & 0x80) != 0) {
        for (i = 1; i < size && value >> 55 == 0; i++) {
            value = value << 8 | (uint8_t)field[i];
        }
        *out = value;
        return (field[0] & 0x7f) == 0 && i == size;
    }
    while (i < size && field[i] == ' ') {
        i++;
    }
    for (; i < size && field[i] >= '0' && field[i] <= '7'; i++) {
        value = value << 3 | (uint64_t)(field[i] - '0');
    }
    *out = value;
    return i == size || field[i] == '\0' || field[i] == ' ';
}

/* "LENGTH KEY=VALUE\n", where LENGTH counts itself. */
static void put_record(FILE *to, const char *key, const char *value, size_t size)
{
    size_t rest = strlen(key) + size + 3, length = rest + 1;
    char digits[24];
    for (size_t seen = 0; seen != length;) {
        seen = length;
        length = rest + (size_t)snprintf(digits, sizeof(digits), "%zu", seen);
    }
    (void)fprintf(to, "%zu %s=", length, key);
    (void)fwrite(value, 1, size, to);
    (void)fputc('\n', to);
}

/* The record as it is, or with the other key. */
static void take_record(struct renaming *r, const char *record, size_t length, char *key,
                        size_t key_size, FILE *to)
{
    const char *value = key + key_size + 1;
    size_t size = (size_t)(record + length - 1 - value);
    key[key_size] = '\0';
    bool is_meant = strncmp(key, KEY, strlen(KEY)) == 0 && strcmp(key + strlen(KEY), r->from) == 0;
    if (strcmp(key, "size") == 0 && size < 20) {
        char text[24];
        (void)snprintf(text, sizeof(text), "%.*s", (int)size, value);
        r->has_size = true;
        r->size = strtoull(text, NULL, 10);
    }
    key[key_size] = '=';
    if (is_meant) {
        char other[128];
        r->is_found = true;
        (void)snprintf(other, sizeof(other), KEY "%s", r->to != NULL ? r->to : r->from);
        put_record(to, other, value, size);
    } else {
        (void)fwrite(record, 1, length, to);
    }
}

static int take_records(struct renaming *r, char *text, size_t size, FILE *to, struct error *err)
{
    while (size > 0 && *text != '\0') {
        char *blank = text;
        unsigned long length = *text >= '0' && *text <= '9' ? strtoul(text, &blank, 10) : 0;
        if (length < 5 || length > size || *blank != ' ' || text[length - 1] != '\n') {
            return bad(r, err);
        }
        char *key = blank + 1;
        char *equals = key < text + length ? memchr(key, '=', (size_t)(text + length - key)) : NULL;
        if (equals == NULL) {
            return bad(r, err);
        }
        take_record(r, text, length, key, (size_t)(equals - key), to);
        text += length;
        size -= length;
    }
    return 0;
}

static int put_records(struct renaming *r, const struct tar_header *header, const char *text,
                       size_t size, struct error *err)
{
    static const char zeros[TAR_BLOCK];
    struct tar_header changed = *header;
    (void)snprintf(changed.size, sizeof(changed.size), "%011zo", size);
    (void)snprintf(changed.checksum, sizeof(changed.checksum), "%06o", tar_checksum(&changed));
    changed.checksum[7] = ' ';
    int rc = put(r, &changed, sizeof(changed), err);
    rc = rc < 0 ? rc : put(r, text, size, err);
    return rc < 0 ? rc : put(r, zeros, (TAR_BLOCK - size % TAR_BLOCK) % TAR_BLOCK, err);
}

/* A pax header: what it says of the next file. */
static int pass_records(struct renaming *r, const struct tar_header *header, uint64_t size,
                        struct error *err)
{
    if (size > MAX_RECORDS || size > r->end - r->at || (r->end - r->at) - size < TAR_BLOCK) {
        return bad(r, err);
    }
    AUTO_FREE char *text = calloc(1, (size_t)size + 1);
    AUTO_FREE char *changed = NULL;
    size_t changed_size = 0;
    FILE *to = text == NULL ? NULL : open_memstream(&changed, &changed_size);
    if (to == NULL) {
        return error_set_errno(err, ENOMEM, "%s", r->path);
    }
    int rc = file_read_at(r->in, text, (size_t)size, r->at, r->path, err);
    rc = rc < 0 ? rc : take_records(r, text, (size_t)size, to, err);
    bool is_whole = fclose(to) == 0;
    r->at += size + (TAR_BLOCK - size % TAR_BLOCK) % TAR_BLOCK;
    return rc < 0      ? rc
           : !is_whole ? error_set_errno(err, ENOMEM, "%s", r->path)
                       : put_records(r, header, changed, changed_size, err);
}

static int pass_content(struct renaming *r, const struct tar_header *header, uint64_t size,
                        struct error *err)
{
    int rc = put(r, header, sizeof(*header), err);
    if (size > r->end - r->at || (r->end - r->at) - size < TAR_BLOCK) {
        return rc < 0 ? rc : bad(r, err);
    }
    size += (TAR_BLOCK - size % TAR_BLOCK) % TAR_BLOCK;
    if (r->out < 0) {
        r->at += size;
        size = 0;
    }
    while (rc == 0 && size > 0) {
        size_t part = (size_t)MIN(size, PART_SIZE);
        rc = file_read_at(r->in, r->part, part, r->at, r->path, err);
        rc = rc < 0 ? rc : put(r, r->part, part, err);
        r->at += part;
        size -= part;
    }
    return rc;
}

/* To the block of zeros, behind which nothing counts. */
static int walk(struct renaming *r, struct error *err)
{
    static const struct tar_header nothing;
    struct tar_header header = {0};
    uint64_t size;
    int rc = 0;
    r->at = r->written = 0;
    r->has_size = false;
    while (rc == 0 && r->end - r->at >= TAR_BLOCK) {
        rc = file_read_at(r->in, &header, sizeof(header), r->at, r->path, err);
        if (rc < 0 || memcmp(&header, &nothing, sizeof(header)) == 0) {
            break;
        }
        r->at += TAR_BLOCK;
        if (memcmp(header.magic, "ustar", 5) != 0 || header.type == 'S' ||
            !take_number(header.size, sizeof(header.size), &size)) {
            return bad(r, err);
        }
        if (header.type == 'x') {
            rc = pass_records(r, &header, size, err);
            continue;
        }
        size = header.type == '1' ? 0 : size;
        bool is_file = header.type != 'g' && header.type != 'L' && header.type != 'K';
        rc = pass_content(r, &header, is_file && r->has_size ? r->size : size, err);
        r->has_size = r->has_size && !is_file;
    }
    rc = rc < 0 ? rc : put(r, &nothing, sizeof(nothing), err);
    return rc < 0 ? rc : put(r, &nothing, sizeof(nothing), err);
}

static int write_changed(struct renaming *r, struct error *err)
{
    char path[PATH_MAX];
    (void)snprintf(path, sizeof(path), "%.4000s.new", r->path);
    AUTO_CLOSE int out = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    r->out = out;
    int rc = out < 0 ? error_set_errno(err, errno, "making %s", path) : walk(r, err);
    if (rc == 0 && rename(path, r->path) < 0) {
        rc = error_set_errno(err, errno, "replacing %s", r->path);
    }
    if (rc < 0) {
        (void)unlink(path);
    }
    return rc;
}

static int work_on(struct renaming *r, struct error *err)
{
    struct stat st;
    AUTO_CLOSE int in = open(r->path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (in < 0 || fstat(in, &st) < 0) {
        return error_set_errno(err, errno, "reading %s", r->path);
    }
    r->in = in;
    r->end = (uint64_t)st.st_size;
    int rc = walk(r, err);
    bool is_changed = rc == 0 && r->is_found && r->to != NULL;
    r->part = is_changed ? malloc(PART_SIZE) : NULL;
    if (is_changed && r->part == NULL) {
        return error_set_errno(err, ENOMEM, "%s", r->path);
    }
    rc = is_changed ? write_changed(r, err) : rc;
    free(r->part);
    return rc;
}

int rename_attribute(const char *path, const char *from, const char *to, struct error *err)
{
    struct renaming r = {.path = path, .from = from, .to = to, .out = -1};
    return work_on(&r, err);
}

int rename_find(const char *path, const char *name, struct error *err)
{
    struct renaming r = {.path = path, .from = name, .to = NULL, .out = -1};
    int rc = work_on(&r, err);
    return rc < 0 ? rc : r.is_found;
}
