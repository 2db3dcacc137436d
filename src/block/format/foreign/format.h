/* For those who implement a format of foreign.h. */
#ifndef BLOCK_FORMAT_FOREIGN_FORMAT_H
#define BLOCK_FORMAT_FOREIGN_FORMAT_H

#include "block/format/foreign/foreign.h"
#include "block/format/foreign/pieces.h"

#define SECTOR_SIZE 512u

/* The first member of every format's own struct. */
struct foreign_image {
    const struct foreign_format *format;
    struct foreign_file file;
    struct foreign_info info; /* filled in by 'open' */
    struct pieces *pieces;    /* tables of this image, read through a cache */
    void (*run)(void *ctx, void (*work)(void *arg), void *arg);
    void *run_ctx;
};

struct foreign_format {
    const char *name;
    const char *alias; /* another name, or NULL */
    size_t image_size; /* bytes of its own struct */
    bool (*probe)(const uint8_t *head, size_t head_size, const uint8_t *tail, size_t tail_size);
    /* 'image' is zeroed but for format, file and pieces. On failure 'close' is called. */
    int (*open)(struct foreign_image *image, const struct foreign_names *names, struct error *err);
    /* As foreign_map, for one unit of the format or less; may give more than max_size. */
    int (*map)(struct foreign_image *image, uint64_t offset, uint64_t max_size,
               struct foreign_extent *out_extent, struct error *err);
    /* NULL if 'map' never says FOREIGN_ENCODED. */
    int (*read_encoded)(const struct foreign_image *image, const struct foreign_extent *extent,
                        void *out_data, struct error *err);
    /* Frees what 'open' took, but not the struct; NULL: nothing. */
    void (*close)(struct foreign_image *image);
};

extern const struct foreign_format foreign_vmdk;
extern const struct foreign_format foreign_vhdx;
extern const struct foreign_format foreign_vhd;
extern const struct foreign_format foreign_vdi;

/* Reads a structure from 'file' without the cache. 'what' is its name in messages. */
int must_check foreign_read(const struct foreign_file *file, uint64_t offset, void *out_data,
                            size_t size, const char *what, struct error *err);

/* The same through the cache. */
int must_check foreign_read_table(struct foreign_image *image, const struct foreign_file *file,
                                  uint64_t offset, void *out_data, size_t size, const char *what,
                                  struct error *err);

/* Copies a name of an image; -EINVAL if it is empty, too long, or holds control characters. */
int must_check foreign_copy_name(char *to, size_t to_size, const char *from, size_t length,
                                 const char *what, struct error *err);

/* A GUID of 16 bytes as text of 36 characters; its first three fields are little-endian if 'is_mixed'. */
void foreign_guid_text(const uint8_t *guid, bool is_mixed, char out_text[FOREIGN_ID_SIZE]);

/* UTF-16 as UTF-8, until a NUL or 'count' units. What is no character or a control character becomes '?'. */
void foreign_utf16(const uint8_t *from, size_t count, bool is_big_endian, char *to, size_t to_size);

/* Checks a disk's size in bytes: a multiple of 512, not 0, not above FOREIGN_MAX_SIZE. */
int must_check foreign_check_size(uint64_t size_bytes, struct error *err);

#endif
