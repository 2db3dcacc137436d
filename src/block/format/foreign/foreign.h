/* Disk images of other products, for reading: VMDK, VHDX, VHD, VDI.
 *
 * This part only knows bytes: it reads files through a callback and says where each range of the guest's disk is. Nothing in an
 * image is trusted: every field is checked, tables are read in pieces, names inside an image are opened by the caller's callback
 * alone.
 *
 * Threads: foreign_map and foreign_open one at a time for each image (the caller's lock); foreign_read_encoded and
 * foreign_get_info from any thread at any time, if the callback's 'read' allows that. */
#ifndef BLOCK_FORMAT_FOREIGN_FOREIGN_H
#define BLOCK_FORMAT_FOREIGN_FOREIGN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/core/error.h"

#define FOREIGN_MAX_SIZE  (1ull << 50) /* bytes of a disk that is opened */
#define FOREIGN_HEAD_SIZE 4096u /* bytes of a file that foreign_probe looks at, at either end */
#define FOREIGN_NAME_SIZE 1024u
#define FOREIGN_ID_SIZE   40u

struct foreign_image;

/* A file to read from. */
struct foreign_file {
    /* All of the range, which lies below size_bytes, or -errno with a text that does not name the file. */
    int (*read)(void *ctx, uint64_t offset, void *out_data, size_t size, struct error *err);
    void *ctx; /* borrowed until the image is closed */
    uint64_t size_bytes;
};

/* Opens a file by a name that stands in an image, if the caller's allow-list has it. The first one that it opens has index 1,
 * the next one 2; the image's own file has index 0. What it opened belongs to the caller, also when foreign_open fails. */
struct foreign_names {
    int (*open)(void *ctx, const char *name, struct foreign_file *out_file, struct error *err);
    void *ctx; /* used by foreign_open only */
};

enum foreign_status {
    FOREIGN_DATA,    /* at 'file_offset' of file 'file', as it is */
    FOREIGN_ZERO,    /* reads zeros */
    FOREIGN_HOLE,    /* not in this image: reads as the parent, or zeros where there is none */
    FOREIGN_ENCODED, /* foreign_read_encoded reads it */
};

struct foreign_extent {
    enum foreign_status status;
    uint32_t file;
    uint64_t size_bytes;  /* from the offset that was asked for */
    uint64_t file_offset; /* FOREIGN_DATA; also what foreign_read_encoded needs */
    uint64_t
        skip_bytes; /* FOREIGN_ENCODED: of the unit at file_offset, before the offset that was asked for */
    uint64_t unit; /* FOREIGN_ENCODED: which unit of the disk */
};

struct foreign_info {
    const char *format;
    char variant[32]; /* "monolithicSparse", "dynamic" */
    uint64_t size_bytes;
    uint32_t logical_block_size;
    uint64_t cluster_size_bytes; /* grain or block; 0: none */
    bool is_compressed;
    bool is_dirty;     /* a log was replayed, in memory */
    bool needs_parent; /* a differencing image: holes are the parent's */
    char id[FOREIGN_ID_SIZE];
    char parent_id[FOREIGN_ID_SIZE]; /* what 'id' of the right parent is; empty: not known */
    char parent_name[FOREIGN_NAME_SIZE];
};

/* A format by its name ("vmdk", "vhdx", "vhd" or "vpc", "vdi"), or NULL. */
struct foreign_format;
const struct foreign_format *foreign_find(const char *name);
const char *foreign_format_name(const struct foreign_format *format);
/* By the content: 'head' are the first bytes of a file and 'tail' its last ones, FOREIGN_HEAD_SIZE each or the whole file. NULL:
 * none of these. */
const struct foreign_format *foreign_probe(const void *head, size_t head_size, const void *tail,
                                           size_t tail_size);

/* 'names' may be NULL: nothing is opened by name then. Copies 'file'. */
int must_check foreign_open(const struct foreign_format *format, const struct foreign_file *file,
                            const struct foreign_names *names, struct foreign_image **out_image,
                            struct error *err);
/* From then on 'run' calls work(arg) for what takes the CPU for long, and returns when that has returned: on another thread. */
void foreign_set_runner(struct foreign_image *image,
                        void (*run)(void *ctx, void (*work)(void *arg), void *arg), void *ctx);
/* NULL is fine. The files stay the caller's. */
void foreign_close(struct foreign_image *image);
/* Stays until the image is closed. */
const struct foreign_info *foreign_get_info(const struct foreign_image *image);

/* What holds the disk from 'offset' on, for at least one sector and at most 'max_size' bytes. Both are multiples of 512 and lie
 * within the disk. Ranges of FOREIGN_DATA lie within their file. */
int must_check foreign_map(struct foreign_image *image, uint64_t offset, uint64_t max_size,
                           struct foreign_extent *out_extent, struct error *err);
/* The bytes of an extent that foreign_map gave, of which size_bytes may have been made smaller. */
int must_check foreign_read_encoded(const struct foreign_image *image,
                                    const struct foreign_extent *extent, void *out_data,
                                    struct error *err);

#endif
