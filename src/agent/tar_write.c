#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/tar.h"
#include "agent/tar_header.h"
#include "base/host/file.h"

#define OCTAL_7  07777777ull /* the largest number in seven digits */
#define OCTAL_11 077777777777ull

/* Digits that fill the field but for its last byte; numbers that do not fit are in a pax header and 0 here. */
static void put_octal(char *field, size_t size, uint64_t number)
{
    for (size_t i = size - 1; i-- > 0; number >>= 3) {
        field[i] = (char)('0' + (number & 7));
    }
}

static void put_checksum(union tar_header *h)
{
    uint64_t sum = 0;
    memset(h->f.checksum, ' ', sizeof(h->f.checksum));
    for (size_t i = 0; i < TAR_BLOCK; i++) {
        sum += h->byte[i];
    }
    put_octal(h->f.checksum, sizeof(h->f.checksum) - 1, sum);
    h->f.checksum[6] = '\0';
}

static union tar_header make_header(char type, uint64_t size)
{
    union tar_header h = {0};
    h.f.type = type;
    memcpy(h.f.magic, "ustar", 6);
    memcpy(h.f.version, "00", 2);
    put_octal(h.f.size, sizeof(h.f.size), size);
    return h;
}

/* "LENGTH NAME=VALUE\n", whose length counts its own digits. */
static void put_record(FILE *out, const char *name, const char *value)
{
    size_t rest = strlen(name) + strlen(value) + 3, length = rest, before;
    do {
        char digits[24];
        before = length;
        length = rest + (size_t)snprintf(digits, sizeof(digits), "%zu", before);
    } while (length != before);
    (void)fprintf(out, "%zu %s=%s\n", length, name, value);
}

static void put_number(FILE *out, const char *name, uint64_t number, uint64_t most)
{
    char text[24];
    if (number > most) {
        (void)snprintf(text, sizeof(text), "%llu", (unsigned long long)number);
        put_record(out, name, text);
    }
}

static void put_time(FILE *out, struct timespec time)
{
    char text[48];
    if (time.tv_nsec == 0 && time.tv_sec >= 0 && (uint64_t)time.tv_sec <= OCTAL_11) {
        return;
    }
    long long seconds = time.tv_sec;
    long ns = time.tv_nsec;
    bool is_negative = seconds < 0;
    if (is_negative && ns > 0) {
        seconds++;
        ns = 1000000000 - ns;
    }
    (void)snprintf(text, sizeof(text), "%s%llu.%09ld", is_negative ? "-" : "",
                   is_negative ? 0 - (unsigned long long)seconds : (unsigned long long)seconds, ns);
    put_record(out, "mtime", text);
}

static int write_block(tar_write_fn write, void *ctx, union tar_header *h, struct error *err)
{
    put_checksum(h);
    return write(ctx, h, sizeof(*h), err);
}

/* What does not fit the header of the entry; nothing if all of it does. */
static int write_pax(tar_write_fn write, void *ctx, const struct tar_entry *e, struct error *err)
{
    AUTO_FREE char *text = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&text, &size);
    if (out == NULL) {
        return error_set_errno(err, ENOMEM, "tar stream");
    }
    if (strlen(e->path) > sizeof(((union tar_header *)NULL)->f.name)) {
        put_record(out, "path", e->path);
    }
    if (strlen(e->target) > sizeof(((union tar_header *)NULL)->f.target)) {
        put_record(out, "linkpath", e->target);
    }
    put_number(out, "uid", e->uid, OCTAL_7);
    put_number(out, "gid", e->gid, OCTAL_7);
    put_number(out, "size", e->size, OCTAL_11);
    put_time(out, e->time);
    if (fclose(out) != 0) {
        return error_set_errno(err, ENOMEM, "tar stream");
    }
    if (size == 0) {
        return 0;
    }
    union tar_header h = make_header('x', size);
    memcpy(h.f.name, "pax", 4);
    put_octal(h.f.mode, sizeof(h.f.mode), 0644);
    put_octal(h.f.uid, sizeof(h.f.uid), 0);
    put_octal(h.f.gid, sizeof(h.f.gid), 0);
    put_octal(h.f.time, sizeof(h.f.time), 0);
    int rc = write_block(write, ctx, &h, err);
    rc = rc < 0 ? rc : write(ctx, text, size, err);
    return rc < 0 ? rc : tar_write_padding(write, ctx, size, err);
}

int tar_write_head(tar_write_fn write, void *ctx, const struct tar_entry *entry, struct error *err)
{
    int rc = write_pax(write, ctx, entry, err);
    if (rc < 0) {
        return rc;
    }
    union tar_header h = make_header((char)entry->type, entry->size <= OCTAL_11 ? entry->size : 0);
    memcpy(h.f.name, entry->path, MIN(strlen(entry->path), sizeof(h.f.name)));
    memcpy(h.f.target, entry->target, MIN(strlen(entry->target), sizeof(h.f.target)));
    put_octal(h.f.mode, sizeof(h.f.mode), entry->mode);
    put_octal(h.f.uid, sizeof(h.f.uid), entry->uid <= OCTAL_7 ? entry->uid : 0);
    put_octal(h.f.gid, sizeof(h.f.gid), entry->gid <= OCTAL_7 ? entry->gid : 0);
    put_octal(h.f.time, sizeof(h.f.time),
              entry->time.tv_sec > 0 ? (uint64_t)entry->time.tv_sec : 0);
    put_octal(h.f.major, sizeof(h.f.major), entry->major);
    put_octal(h.f.minor, sizeof(h.f.minor), entry->minor);
    return write_block(write, ctx, &h, err);
}

int tar_write_padding(tar_write_fn write, void *ctx, uint64_t size, struct error *err)
{
    static const char zeros[TAR_BLOCK];
    size_t padding = -size % TAR_BLOCK;
    return padding == 0 ? 0 : write(ctx, zeros, padding, err);
}

int tar_write_end(tar_write_fn write, void *ctx, struct error *err)
{
    static const char zeros[2 * TAR_BLOCK];
    return write(ctx, zeros, sizeof(zeros), err);
}
