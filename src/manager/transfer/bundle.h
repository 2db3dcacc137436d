/* The file of an exported instance, as a stream: docs/export-format.md. A tar archive (ustar), perhaps compressed by zstd:
 *
 *   hull-export.json     what it is (BUNDLE_HEADER), the first member; format 1, or 2 with memory
 *   ...                  its files; disks as sparse files (GNU's format 1.0)
 *   hull-manifest.json   {"format":1, "members":[{"name","size","sha256"}, ...]} of all before it, the last member
 *
 * What is read is not trusted: names, numbers, order and sizes are checked before they are given to the caller, and that
 * everything came as it was written is known when bundle_next has returned 0.
 *
 * Threads: none. */
#ifndef MANAGER_TRANSFER_BUNDLE_H
#define MANAGER_TRANSFER_BUNDLE_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/core/error.h"

#define BUNDLE_HEADER      "hull-export.json"
#define BUNDLE_MANIFEST    "hull-manifest.json"
#define BUNDLE_NAME_SIZE   100        /* with its NUL */
#define BUNDLE_MAX_MEMBERS 20000      /* of the manifest */
#define BUNDLE_MAX_JSON    (8u << 20) /* of header and manifest */
#define BUNDLE_MAX_EXTENTS (1u << 20)

/* What of a sparse file is there, in its order. */
struct bundle_extent {
    uint64_t offset, size;
};
struct bundle_map {
    struct bundle_extent *extents;
    size_t count, room;
    uint64_t real_size; /* of the file with its holes */
};
/* Behind the last one; one that begins where that ends makes it longer. -E2BIG */
int must_check bundle_map_add(struct bundle_map *map, uint64_t offset, uint64_t size,
                              struct error *err);
uint64_t bundle_map_data(const struct bundle_map *map); /* bytes of all extents */
void bundle_map_fini(struct bundle_map *map);

typedef int (*bundle_write_fn)(void *ctx, const void *data, size_t size, struct error *err);
/* At most 'size' bytes; 0 of them: the end. */
typedef int (*bundle_read_fn)(void *ctx, void *data, size_t size, size_t *out_size,
                              struct error *err);

struct bundle_writer;
int must_check bundle_writer_create(bool is_compressed, bundle_write_fn write, void *ctx,
                                    struct bundle_writer **out_writer, struct error *err);
void bundle_writer_destroy(struct bundle_writer *writer); /* NULL is fine */
/* A member; 'size' bytes have to follow. */
int must_check bundle_begin(struct bundle_writer *writer, const char *name, uint64_t size,
                            struct error *err);
/* A sparse one: the bytes of its extents have to follow. */
int must_check bundle_begin_sparse(struct bundle_writer *writer, const char *name,
                                   const struct bundle_map *map, struct error *err);
int must_check bundle_write(struct bundle_writer *writer, const void *data, size_t size,
                            struct error *err);
/* A member that is an object, as text. */
int must_check bundle_put_json(struct bundle_writer *writer, const char *name, const json_t *object,
                               struct error *err);
/* The manifest and the end. */
int must_check bundle_finish(struct bundle_writer *writer, struct error *err);

struct bundle_member {
    char name
        [BUNDLE_NAME_SIZE]; /* letters, digits, "-", "_", ".", "/"; relative, no part begins with a dot */
    uint64_t size;          /* of what bundle_read gives */
    bool is_sparse;
    struct bundle_map map; /* the reader's, until the next call */
};
struct bundle_reader;
/* -EBADMSG: it is no such archive. */
int must_check bundle_reader_create(bundle_read_fn read, void *ctx,
                                    struct bundle_reader **out_reader, struct error *err);
void bundle_reader_destroy(struct bundle_reader *reader); /* NULL is fine */
/* 1, or 0 at the end, when the manifest was compared. What was not read of the member before is passed over. -EBADMSG. */
int must_check bundle_next(struct bundle_reader *reader, const struct bundle_member **out_member,
                           struct error *err);
/* The next bytes of the member's content; 0 of them: its end. */
int must_check bundle_read(struct bundle_reader *reader, void *data, size_t size, size_t *out_size,
                           struct error *err);
/* All of a member that is an object: a new reference. */
int must_check bundle_read_json(struct bundle_reader *reader, json_t **out_object,
                                struct error *err);
/* The first member, which has to be a header of a format that is known: {"format":1,"kind":..,"name":..,...}. */
int must_check bundle_read_header(struct bundle_reader *reader, json_t **out_header,
                                  struct error *err);

#endif
