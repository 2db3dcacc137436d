#include "manager/image/tar_reader.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/core/cleanup.h"
#include "base/core/compiler.h"
#include "base/host/file.h"

#define BLOCK       512u
#define MAX_SPECIAL (1u << 20) /* a long name, or pax records */

/* A header block. */
struct header {
    char name[100], mode[8], uid[8], gid[8], size[12], mtime[12], checksum[8], type, link[100],
        magic[8], user[32], group[32], major[8], minor[8], prefix[155], rest[12];
};
_Static_assert(sizeof(struct header) == BLOCK, "a block");

struct tar_reader {
    int fd;
    uint64_t offset, next,
        end;   /* of the file: where the content goes on, the next header, its size */
    char *pax; /* what entries' attributes point to */
};

/* What stands before an entry and is meant for it. */
struct extra {
    char *path, *link, *pax; /* texts of their own */
    size_t pax_size;
};

static int bad(struct error *err, const char *what)
{
    return error_set(err, EBADMSG, "the archive is damaged, or none that is known: %s", what);
}

int tar_reader_open(int fd, struct tar_reader **out_reader, struct error *err)
{
    struct stat st;
    struct tar_reader *reader = calloc(1, sizeof(*reader));
    if (reader == NULL || fstat(fd, &st) < 0) {
        int code = reader == NULL ? ENOMEM : errno;
        free(reader);
        return error_set_errno(err, code, "reading the archive");
    }
    reader->fd = fd;
    reader->end = st.st_size > 0 ? (uint64_t)st.st_size : 0;
    *out_reader = reader;
    return 0;
}

void tar_reader_close(struct tar_reader *reader)
{
    free(reader->pax);
    free(reader);
}

/* Octal digits with blanks around them, or GNU's binary numbers. */
static int number(const char *field, size_t size, uint64_t *out, struct error *err)
{
    uint64_t value = 0;
    size_t i = 0;
    if ((field[0] & 0x80) != 0) {
        if ((field[0] & 0x7f) != 0) {
            return bad(err, "a negative number");
        }
        for (i = 1; i < size; i++) {
            if (value >> 55 != 0) {
                return bad(err, "a number that is too large");
            }
            value = value << 8 | (uint8_t)field[i];
        }
        *out = value;
        return 0;
    }
    while (i < size && field[i] == ' ') {
        i++;
    }
    for (; i < size && field[i] >= '0' && field[i] <= '7'; i++) {
        value = value << 3 | (uint64_t)(field[i] - '0');
    }
    if (i < size && field[i] != '\0' && field[i] != ' ') {
        return bad(err, "a number");
    }
    *out = value;
    return 0;
}

static bool is_checksum_right(const struct header *header, struct error *err)
{
    const uint8_t *bytes = (const uint8_t *)header;
    size_t from = offsetof(struct header, checksum), to = from + sizeof(header->checksum);
    uint64_t sum = 0, said;
    for (size_t i = 0; i < BLOCK; i++) {
        sum += i >= from && i < to ? ' ' : bytes[i];
    }
    return number(header->checksum, sizeof(header->checksum), &said, err) == 0 && said == sum;
}

/* Without a leading "/", "." and doubled "/". */
static int clean_path(const char *text, char out[PATH_MAX], struct error *err)
{
    size_t used = 0;
    while (*text != '\0') {
        size_t length = strcspn(text, "/");
        if (length == 2 && text[0] == '.' && text[1] == '.') {
            return bad(err, "a path with '..'");
        }
        if (length > NAME_MAX || used + length + 2 > PATH_MAX) {
            return bad(err, "a path that is too long");
        }
        if (length > 0 && !(length == 1 && text[0] == '.')) {
            if (used > 0) {
                out[used++] = '/';
            }
            memcpy(out + used, text, length);
            used += length;
        }
        text += length;
        text += *text == '/';
    }
    out[used] = '\0';
    return 0;
}

static int read_block(struct tar_reader *reader, struct header *out, struct error *err)
{
    if (reader->next > reader->end || reader->end - reader->next < BLOCK) {
        return bad(err, "it ends too early");
    }
    int rc = file_read_at(reader->fd, out, BLOCK, reader->next, "the archive", err);
    if (rc == 0) {
        reader->offset = reader->next + BLOCK;
    }
    return rc;
}

/* Where the entry after one with a content of that size begins. */
static int go_on(struct tar_reader *reader, uint64_t size, struct error *err)
{
    if (size > reader->end - reader->offset) {
        return bad(err, "it ends too early");
    }
    reader->next = reader->offset + (size + BLOCK - 1) / BLOCK * BLOCK;
    return 0;
}

/* A text of its own, with a NUL after it. */
static int read_special(struct tar_reader *reader, uint64_t size, char **out, size_t *out_size,
                        struct error *err)
{
    if (size == 0 || size > MAX_SPECIAL || size > reader->end - reader->offset) {
        return bad(err, "a header that is too large");
    }
    char *text = calloc(1, (size_t)size + 1);
    if (text == NULL) {
        return error_set_errno(err, ENOMEM, "reading the archive");
    }
    int rc = file_read_at(reader->fd, text, (size_t)size, reader->offset, "the archive", err);
    if (rc < 0) {
        free(text);
        return rc;
    }
    free(*out);
    *out = text;
    if (out_size != NULL) {
        *out_size = (size_t)size;
    }
    return 0;
}

static int decimal(const char *text, uint64_t max, uint64_t *out, struct error *err)
{
    char *end;
    errno = 0;
    unsigned long long value = strtoull(text, &end, 10);
    if (text[0] < '0' || text[0] > '9' || errno != 0 || value > max ||
        (*end != '\0' && *end != '.')) {
        return bad(err, "a number of a pax header");
    }
    *out = value;
    return 0;
}

static int take_time(const char *text, struct timespec *out, struct error *err)
{
    uint64_t seconds;
    if (text[0] == '-') {
        *out = (struct timespec){0}; /* before 1970 */
        return 0;
    }
    int rc = decimal(text, INT64_MAX / 2, &seconds, err);
    if (rc < 0) {
        return rc;
    }
    const char *dot = strchr(text, '.');
    long ns = 0;
    for (int i = 1; i <= 9; i++) {
        ns *= 10;
        if (dot != NULL && dot[1] >= '0' && dot[1] <= '9') {
            ns += *++dot - '0';
        }
    }
    *out = (struct timespec){(time_t)seconds, ns};
    return 0;
}

/* Others are the host's, or would mean something to overlayfs. */
static bool is_attribute(const char *name)
{
    return strncmp(name, "user.", 5) == 0 || strcmp(name, "security.capability") == 0;
}

static int take_attribute(const char *name, const char *value, size_t size, struct tar_entry *entry,
                          struct error *err)
{
    if (!is_attribute(name)) {
        return 0;
    }
    if (entry->attribute_count == TAR_MAX_ATTRIBUTES ||
        strlen(name) >= sizeof(entry->attributes[0].name)) {
        return bad(err, "too many extended attributes");
    }
    struct tar_attribute *a = &entry->attributes[entry->attribute_count++];
    memcpy(a->name, name, strlen(name) + 1);
    a->value = value;
    a->size = size;
    return 0;
}

static int take_record(const char *key, const char *value, size_t size, struct tar_entry *entry,
                       struct error *err)
{
    static const char attribute[] = "SCHILY.xattr.";
    uint64_t n = 0;
    int rc = 0;
    if (strncmp(key, attribute, strlen(attribute)) == 0) {
        return take_attribute(key + strlen(attribute), value, size, entry, err);
    }
    if (strlen(value) != size) {
        return bad(err, "a pax header with NUL");
    }
    if (strcmp(key, "path") == 0) {
        rc = clean_path(value, entry->path, err);
    } else if (strcmp(key, "linkpath") == 0) {
        rc = size < PATH_MAX ? 0 : bad(err, "a link that is too long");
        memcpy(entry->link, value, rc == 0 ? size + 1 : 0);
    } else if (strcmp(key, "size") == 0) {
        rc = decimal(value, INT64_MAX, &entry->size, err);
    } else if (strcmp(key, "uid") == 0) {
        rc = decimal(value, UINT32_MAX - 1, &n, err);
        entry->uid = (uid_t)n;
    } else if (strcmp(key, "gid") == 0) {
        rc = decimal(value, UINT32_MAX - 1, &n, err);
        entry->gid = (gid_t)n;
    } else if (strcmp(key, "mtime") == 0) {
        rc = take_time(value, &entry->mtime, err);
    } else if (strncmp(key, "GNU.sparse.", strlen("GNU.sparse.")) == 0) {
        rc = error_set(err, EBADMSG, "the archive has sparse files, which are not known");
    }
    return rc;
}

/* "LENGTH KEY=VALUE\n", where the length is the whole record's. */
static int take_pax(char *text, size_t size, struct tar_entry *entry, struct error *err)
{
    while (size > 0) {
        char *blank;
        errno = 0;
        unsigned long length = text[0] >= '0' && text[0] <= '9' ? strtoul(text, &blank, 10) : 0;
        if (errno != 0 || length < 5 || length > size || *blank != ' ' ||
            text[length - 1] != '\n') {
            return bad(err, "a pax header");
        }
        text[length - 1] = '\0';
        char *key = blank + 1;
        char *equals = key < text + length ? memchr(key, '=', (size_t)(text + length - key)) : NULL;
        if (equals == NULL) {
            return bad(err, "a pax header");
        }
        *equals = '\0';
        int rc =
            take_record(key, equals + 1, (size_t)(text + length - 1 - (equals + 1)), entry, err);
        if (rc < 0) {
            return rc;
        }
        text += length;
        size -= length;
    }
    return 0;
}

static int take_numbers(const struct header *h, struct tar_entry *entry, struct error *err)
{
    uint64_t mode, uid, gid, mtime, major = 0, minor = 0;
    int rc = number(h->mode, sizeof(h->mode), &mode, err);
    rc = rc < 0 ? rc : number(h->uid, sizeof(h->uid), &uid, err);
    rc = rc < 0 ? rc : number(h->gid, sizeof(h->gid), &gid, err);
    rc = rc < 0 ? rc : number(h->size, sizeof(h->size), &entry->size, err);
    /* Before 1970: GNU writes those as negative numbers. */
    mtime = 0;
    rc = rc < 0 || (uint8_t)h->mtime[0] == 0xff ? rc
                                                : number(h->mtime, sizeof(h->mtime), &mtime, err);
    if (rc == 0 && (h->type == '3' || h->type == '4')) {
        rc = number(h->major, sizeof(h->major), &major, err);
        rc = rc < 0 ? rc : number(h->minor, sizeof(h->minor), &minor, err);
    }
    if (rc == 0 && (uid >= UINT32_MAX || gid >= UINT32_MAX || major > UINT32_MAX ||
                    minor > UINT32_MAX || mtime > INT64_MAX / 2)) {
        rc = bad(err, "a number that is too large");
    }
    if (rc == 0) {
        entry->mode = (mode_t)(mode & 07777);
        entry->uid = (uid_t)uid;
        entry->gid = (gid_t)gid;
        entry->mtime = (struct timespec){.tv_sec = (time_t)mtime};
        entry->major = (unsigned)major;
        entry->minor = (unsigned)minor;
    }
    return rc;
}

static int take_names(const struct header *h, struct tar_entry *entry, struct error *err)
{
    char path[sizeof(h->prefix) + sizeof(h->name) + 2];
    bool has_prefix = memcmp(h->magic, "ustar\0", 6) == 0 && h->prefix[0] != '\0';
    (void)snprintf(path, sizeof(path), "%.*s%s%.*s", has_prefix ? (int)sizeof(h->prefix) : 0,
                   h->prefix, has_prefix ? "/" : "", (int)sizeof(h->name), h->name);
    (void)snprintf(entry->link, sizeof(entry->link), "%.*s", (int)sizeof(h->link), h->link);
    return clean_path(path, entry->path, err);
}

static int take_type(char type, struct tar_entry *entry, struct error *err)
{
    static const enum tar_type types[] = {TAR_FILE,  TAR_HARD_LINK, TAR_SYMLINK, TAR_CHARACTER,
                                          TAR_BLOCK, TAR_FOLDER,    TAR_PIPE,    TAR_FILE};
    if (type == '\0') {
        entry->type = TAR_FILE;
        return 0;
    }
    if (type < '0' || type > '7') {
        return bad(err, "an entry of an unknown kind");
    }
    entry->type = types[type - '0'];
    return 0;
}

static int take_entry(struct tar_reader *reader, const struct header *h, struct extra *extra,
                      struct tar_entry *entry, struct error *err)
{
    *entry = (struct tar_entry){0};
    int rc = take_type(h->type, entry, err);
    rc = rc < 0 ? rc : take_numbers(h, entry, err);
    rc = rc < 0 ? rc : take_names(h, entry, err);
    if (rc == 0 && extra->path != NULL) {
        rc = clean_path(extra->path, entry->path, err);
    }
    if (rc == 0 && extra->link != NULL) {
        rc = strlen(extra->link) < PATH_MAX ? 0 : bad(err, "a link that is too long");
        (void)snprintf(entry->link, sizeof(entry->link), "%s", extra->link);
    }
    if (rc == 0 && extra->pax != NULL) {
        free(reader->pax);
        reader->pax = TAKE_PTR(extra->pax);
        rc = take_pax(reader->pax, extra->pax_size, entry, err);
    }
    if (rc == 0 && entry->type == TAR_HARD_LINK) {
        char link[PATH_MAX];
        rc = clean_path(entry->link, link, err);
        memcpy(entry->link, link, rc == 0 ? sizeof(link) : 0);
    }
    if (rc == 0 && entry->type != TAR_FILE) {
        entry->size = 0;
    }
    return rc < 0 ? rc : go_on(reader, entry->size, err);
}

static bool is_zero(const struct header *header)
{
    static const struct header zero;
    return memcmp(header, &zero, sizeof(zero)) == 0;
}

static int take_header(struct tar_reader *reader, const struct header *h, struct extra *extra,
                       struct tar_entry *entry, bool *out_is_entry, struct error *err)
{
    uint64_t size;
    int rc = number(h->size, sizeof(h->size), &size, err);
    *out_is_entry = false;
    if (rc < 0) {
        return rc;
    }
    switch (h->type) {
    case 'L':
        rc = read_special(reader, size, &extra->path, NULL, err);
        break;
    case 'K':
        rc = read_special(reader, size, &extra->link, NULL, err);
        break;
    case 'x':
        rc = read_special(reader, size, &extra->pax, &extra->pax_size, err);
        break;
    case 'g': /* for all that follow: comments of git and the like */
        break;
    default:
        *out_is_entry = true;
        return take_entry(reader, h, extra, entry, err);
    }
    return rc < 0 ? rc : go_on(reader, size, err);
}

int tar_reader_next(struct tar_reader *reader, struct tar_entry *out_entry, struct error *err)
{
    struct extra extra = {0};
    bool is_entry = false;
    int rc = 0;
    while (rc == 0 && !is_entry) {
        struct header header;
        if (reader->next == reader->end) { /* without the blocks of zeros: Go writes such ones */
            break;
        }
        rc = read_block(reader, &header, err);
        if (rc == 0 && is_zero(&header)) {
            break;
        }
        if (rc == 0 && !is_checksum_right(&header, err)) {
            rc = bad(err, "a checksum");
        }
        rc = rc < 0 ? rc : take_header(reader, &header, &extra, out_entry, &is_entry, err);
    }
    free(extra.path);
    free(extra.link);
    free(extra.pax);
    return rc < 0 ? rc : is_entry;
}

int tar_reader_content(struct tar_reader *reader, void *out_data, size_t size, struct error *err)
{
    if (size > reader->next - reader->offset) {
        return bad(err, "a file that ends too early");
    }
    int rc = file_read_at(reader->fd, out_data, size, reader->offset, "the archive", err);
    reader->offset += rc == 0 ? size : 0;
    return rc;
}
