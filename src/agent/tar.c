/* Reading. */
#include "agent/tar.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "agent/tar_header.h"
#include "base/host/file.h"

#define META_MAX (1u << 20) /* pax headers and long names */

/* What a header before the entry says of it. */
struct pax {
    char *path, *target;
    bool has_size, has_uid, has_gid, has_time;
    uint64_t size;
    uint32_t uid, gid;
    struct timespec time;
};

static void pax_free(struct pax *pax)
{
    free(pax->path);
    free(pax->target);
    *pax = (struct pax){0};
}

static int bad(struct error *err, const char *what)
{
    return error_set(err, EBADMSG, "tar stream: %s", what);
}

/* Octal digits, or GNU's numbers of base 256, which begin with a byte of 0x80 or (negative) 0xff. */
static bool read_number(const char *field, size_t size, int64_t *out_number)
{
    const uint8_t *byte = (const uint8_t *)field;
    uint64_t number = 0;
    if (byte[0] == 0x80 || byte[0] == 0xff) {
        number = byte[0] == 0xff ? UINT64_MAX : 0;
        for (size_t i = 1; i < size; i++) {
            if (size - i > 8 && byte[i] != (byte[0] & 0x7f ? 0xff : 0)) {
                return false; /* more than 64 bits */
            }
            number = number << 8 | byte[i];
        }
        *out_number = (int64_t)number;
        return (*out_number < 0) == (byte[0] == 0xff);
    }
    size_t i = 0;
    while (i < size && field[i] == ' ') {
        i++;
    }
    for (; i < size && field[i] >= '0' && field[i] <= '7'; i++) {
        if (number >> 60 != 0) {
            return false;
        }
        number = number << 3 | (uint64_t)(field[i] - '0');
    }
    *out_number = (int64_t)number;
    return i == size || field[i] == '\0' || field[i] == ' ';
}

static bool read_id(const char *field, size_t size, uint32_t *out_id)
{
    int64_t number;
    if (!read_number(field, size, &number) || number < 0 || number >= UINT32_MAX) {
        return false;
    }
    *out_id = (uint32_t)number;
    return true;
}

static bool has_checksum(const union tar_header *h)
{
    int64_t expected;
    unsigned sum = 0;
    int signed_sum = 0; /* as old programs counted */
    for (size_t i = 0; i < TAR_BLOCK; i++) {
        bool is_own = i >= offsetof(union tar_header, f.checksum) &&
                      i < offsetof(union tar_header, f.checksum) + sizeof(h->f.checksum);
        sum += is_own ? ' ' : h->byte[i];
        signed_sum += is_own ? ' ' : (int8_t)h->byte[i];
    }
    return read_number(h->f.checksum, sizeof(h->f.checksum), &expected) &&
           (expected == sum || expected == signed_sum);
}

static bool is_zero(const union tar_header *h)
{
    return h->byte[0] == 0 && memcmp(h->byte, h->byte + 1, TAR_BLOCK - 1) == 0;
}

/* Decimal digits with an end: "123". */
static bool read_decimal(const char *text, uint64_t most, uint64_t *out_number)
{
    char *end;
    errno = 0;
    *out_number = strtoull(text, &end, 10);
    return text[0] >= '0' && text[0] <= '9' && *end == '\0' && errno == 0 && *out_number <= most;
}

/* "-12.5": seconds, and a fraction of any length. */
static bool read_time(const char *text, struct timespec *out_time)
{
    char *end;
    errno = 0;
    long long seconds = strtoll(text, &end, 10);
    if (end == text || errno != 0 || text[0] == ' ' || text[0] == '+') {
        return false;
    }
    long ns = 0;
    if (*end == '.') {
        long unit = 100000000;
        for (end++; *end >= '0' && *end <= '9'; end++, unit /= 10) {
            ns += (*end - '0') * unit;
        }
    }
    if (text[0] == '-' && ns != 0) {
        seconds -= seconds > LLONG_MIN ? 1 : 0;
        ns = 1000000000 - ns;
    }
    *out_time = (struct timespec){.tv_sec = seconds, .tv_nsec = ns};
    return *end == '\0';
}

static int keep_text(char **to, const char *text, size_t size, struct error *err)
{
    char *copy = strndup(text, size);
    if (copy == NULL) {
        return error_set_errno(err, ENOMEM, "tar stream");
    }
    free(*to);
    *to = copy;
    return 0;
}

static int pax_set(struct pax *pax, const char *name, const char *value, struct error *err)
{
    uint64_t number;
    if (strcmp(name, "path") == 0 || strcmp(name, "linkpath") == 0) {
        return keep_text(name[0] == 'p' ? &pax->path : &pax->target, value, strlen(value), err);
    }
    if (strncmp(name, "GNU.sparse.", 11) == 0) {
        return error_set(err, EOPNOTSUPP, "tar stream: sparse files are not taken");
    }
    bool is_fine = true;
    if (strcmp(name, "size") == 0) {
        is_fine = read_decimal(value, INT64_MAX, &pax->size);
        pax->has_size = true;
    } else if (strcmp(name, "uid") == 0 || strcmp(name, "gid") == 0) {
        bool is_uid = name[0] == 'u';
        is_fine = read_decimal(value, UINT32_MAX - 1, &number);
        *(is_uid ? &pax->uid : &pax->gid) = (uint32_t)number;
        *(is_uid ? &pax->has_uid : &pax->has_gid) = true;
    } else if (strcmp(name, "mtime") == 0) {
        is_fine = read_time(value, &pax->time);
        pax->has_time = true;
    }
    return is_fine ? 0 : bad(err, "a pax header with a number that is none");
}

/* Records: "LENGTH NAME=VALUE\n"; the length counts all of that. 'text' has a NUL behind its 'size' bytes. */
static int pax_parse(struct pax *pax, char *text, size_t size, struct error *err)
{
    int rc = 0;
    for (size_t at = 0; rc == 0 && at < size;) {
        char *space;
        unsigned long length = strtoul(text + at, &space, 10);
        char *end = text + at + length - 1;
        if (text[at] < '1' || text[at] > '9' || *space != ' ' || length > size - at ||
            end <= space || *end != '\n') {
            return bad(err, "a pax header that is none");
        }
        char *equals = memchr(space, '=', (size_t)(end - space));
        if (equals == NULL) {
            return bad(err, "a pax header that is none");
        }
        *equals = *end = '\0';
        if (strlen(equals + 1) == (size_t)(end - equals - 1)) { /* binary values are not for us */
            rc = pax_set(pax, space + 1, equals + 1, err);
        }
        at += length;
    }
    return rc;
}

/* The data of an entry that is about the next one, with a NUL behind. */
static int read_meta(struct tar_reader *r, char **out_text, size_t *out_size, struct error *err)
{
    if (r->left > META_MAX) {
        return bad(err, "a header of more than 1 MiB");
    }
    AUTO_FREE char *text = malloc(r->left + 1);
    if (text == NULL) {
        return error_set_errno(err, ENOMEM, "tar stream");
    }
    size_t size = 0;
    while (r->left > 0) {
        size_t got;
        int rc = tar_read(r, text + size, r->left, &got, err);
        if (rc < 0) {
            return rc;
        }
        size += got;
    }
    text[size] = '\0';
    *out_text = TAKE_PTR(text);
    *out_size = size;
    return 0;
}

static int take_meta(struct tar_reader *r, struct pax *pax, char type, struct error *err)
{
    AUTO_FREE char *text = NULL;
    size_t size = 0;
    int rc = read_meta(r, &text, &size, err);
    if (rc < 0) {
        return rc;
    }
    switch (type) {
    case 'L':
        return keep_text(&pax->path, text, size, err);
    case 'K':
        return keep_text(&pax->target, text, size, err);
    case 'x':
        return pax_parse(pax, text, size, err);
    default:
        return 0; /* 'g': for all entries; nothing of it is used */
    }
}

static int skip(struct tar_reader *r, struct error *err)
{
    char rest[4096];
    int rc = 0;
    while (rc == 0 && r->left + r->padding > 0) {
        uint64_t *part = r->left > 0 ? &r->left : &r->padding;
        size_t size = MIN(*part, (uint64_t)sizeof(rest));
        rc = r->read(r->ctx, rest, size, err);
        *part -= rc == 0 ? size : 0;
    }
    return rc;
}

static int set_names(struct tar_reader *r, const union tar_header *h, struct pax *pax,
                     struct error *err)
{
    struct tar_entry *e = &r->entry;
    char path[sizeof(h->f.prefix) + sizeof(h->f.name) + 2];
    size_t size = 0;
    if (memcmp(h->f.magic, "ustar", 6) == 0 &&
        h->f.prefix[0] != '\0') { /* GNU's has other things there */
        size = strnlen(h->f.prefix, sizeof(h->f.prefix));
        memcpy(path, h->f.prefix, size);
        path[size++] = '/';
    }
    size_t name = strnlen(h->f.name, sizeof(h->f.name));
    memcpy(path + size, h->f.name, name);
    int rc = 0;
    e->path = TAKE_PTR(pax->path);
    e->target = TAKE_PTR(pax->target);
    if (e->path == NULL) {
        rc = keep_text(&e->path, path, size + name, err);
    }
    if (rc == 0 && e->target == NULL) {
        rc = keep_text(&e->target, h->f.target, strnlen(h->f.target, sizeof(h->f.target)), err);
    }
    if (rc == 0 &&
        (e->path[0] == '\0' || strlen(e->path) >= PATH_MAX || strlen(e->target) >= PATH_MAX)) {
        rc = bad(err, "an entry without a name, or with one that is too long");
    }
    return rc;
}

static int set_numbers(struct tar_reader *r, const union tar_header *h, const struct pax *pax,
                       struct error *err)
{
    struct tar_entry *e = &r->entry;
    int64_t mode, seconds, major = 0, minor = 0;
    bool is_device = e->type == TAR_CHARACTER || e->type == TAR_BLOCK_DEVICE;
    if (!read_number(h->f.mode, sizeof(h->f.mode), &mode) ||
        !read_number(h->f.time, sizeof(h->f.time), &seconds) ||
        (!pax->has_uid && !read_id(h->f.uid, sizeof(h->f.uid), &e->uid)) ||
        (!pax->has_gid && !read_id(h->f.gid, sizeof(h->f.gid), &e->gid)) ||
        (is_device && (!read_number(h->f.major, sizeof(h->f.major), &major) ||
                       !read_number(h->f.minor, sizeof(h->f.minor), &minor) || major < 0 ||
                       major > 4095 || minor < 0 || minor >= 1 << 20))) {
        return bad(err, "a header with a number that is none");
    }
    e->mode = (mode_t)mode & 07777;
    e->uid = pax->has_uid ? pax->uid : e->uid;
    e->gid = pax->has_gid ? pax->gid : e->gid;
    e->time = pax->has_time ? pax->time : (struct timespec){.tv_sec = seconds};
    e->major = (unsigned)major;
    e->minor = (unsigned)minor;
    e->size = e->type == TAR_FILE ? r->left : 0;
    return 0;
}

/* A header's type, and how much data follows it. */
static int begin_entry(struct tar_reader *r, const union tar_header *h, const struct pax *pax,
                       char *out_type, struct error *err)
{
    int64_t size;
    if (!has_checksum(h)) {
        return bad(err, "no header where one should be");
    }
    if (!read_number(h->f.size, sizeof(h->f.size), &size) || size < 0) {
        return bad(err, "a header with a number that is none");
    }
    char type = h->f.type;
    bool is_meta = strchr("xgLK", type) != NULL && type != '\0';
    uint64_t bytes = pax->has_size && !is_meta ? pax->size : (uint64_t)size;
    if (type == '\0' || type == '7') {
        type = TAR_FILE;
    }
    if (type >= TAR_HARD_LINK && type <= TAR_FIFO) {
        bytes = 0; /* some programs write the size of what a hard link leads to */
    }
    if (type == 'S') {
        return error_set(err, EOPNOTSUPP, "tar stream: sparse files are not taken");
    }
    r->left = bytes;
    r->padding = -bytes % TAR_BLOCK;
    *out_type = type;
    return 0;
}

static int next(struct tar_reader *r, struct pax *pax, struct error *err)
{
    for (;;) {
        union tar_header h;
        char type = TAR_FILE;
        int rc = skip(r, err);
        rc = rc < 0 ? rc : r->read(r->ctx, &h, sizeof(h), err);
        if (rc < 0) {
            return rc;
        }
        if (is_zero(&h)) {
            return 0;
        }
        rc = begin_entry(r, &h, pax, &type, err);
        if (rc < 0) {
            return rc;
        }
        if (strchr("xgLK", type) != NULL) {
            rc = take_meta(r, pax, type, err);
        } else if (type >= TAR_FILE && type <= TAR_FIFO) {
            r->entry.type = (enum tar_type)type;
            rc = set_names(r, &h, pax, err);
            /* In old archives a folder is a file whose name ends so. */
            if (rc == 0 && type == TAR_FILE && r->entry.path[strlen(r->entry.path) - 1] == '/') {
                r->entry.type = TAR_FOLDER;
            }
            rc = rc < 0 ? rc : set_numbers(r, &h, pax, err);
            return rc < 0 ? rc : 1;
        } else {
            pax_free(pax); /* a kind that this program does not know; with what was said of it */
        }
        if (rc < 0) {
            return rc;
        }
    }
}

int tar_next(struct tar_reader *reader, struct error *err)
{
    struct pax pax = {0};
    tar_reader_end(reader);
    int rc = next(reader, &pax, err);
    pax_free(&pax);
    return rc;
}

int tar_read(struct tar_reader *reader, void *data, size_t size, size_t *out_size,
             struct error *err)
{
    size = MIN((uint64_t)size, reader->left);
    int rc = size == 0 ? 0 : reader->read(reader->ctx, data, size, err);
    if (rc == 0) {
        reader->left -= size;
        *out_size = size;
    }
    return rc;
}

void tar_reader_end(struct tar_reader *reader)
{
    free(reader->entry.path);
    free(reader->entry.target);
    reader->entry = (struct tar_entry){0};
}
