/* What tools do with images besides reading and writing disks: create, describe, check and repair, internal snapshots.
 *
 * Threads: as in block.h. Each call runs the completions of the block until it is done (inside of a coroutine: gives way). */
#ifndef BLOCK_IMAGE_H
#define BLOCK_IMAGE_H

#include "block/block.h"

/* With this begins a file to which a disk job has not copied all yet: it is neither an image nor a disk. */
#define BLOCK_VEIL_MARK "Hull: this is the unfinished target of a disk job, and no disk.\n"

enum block_preallocation {
    BLOCK_PREALLOCATION_OFF,
    BLOCK_PREALLOCATION_METADATA, /* all is mapped, the space is not taken from the host */
    BLOCK_PREALLOCATION_FALLOC,   /* the host's space is taken, nothing is written */
    BLOCK_PREALLOCATION_FULL,     /* zeros are written */
};

/* Zero or NULL: the format's default. What a format does not have must be left at that. */
struct block_create_options {
    const char *format;
    uint64_t size_bytes; /* rounded up to 512 */
    uint32_t cluster_size;
    uint32_t version; /* of qcow2: 2 or 3 */
    uint32_t refcount_bits;
    const char *compression; /* "zlib" or "zstd" */
    bool has_extended_l2;
    bool has_lazy_refcounts;
    bool is_data_file_raw;
    const char *backing_name,
        *backing_format;     /* as they are to stand in the image; nothing is opened */
    const char *data_name;   /* as it is to stand in the image */
    struct block *data_file; /* borrowed; needed for preallocation with a data file. NULL: none */
    struct block *crypt_header; /* a LUKS header, to be put into the image; borrowed. NULL: none */
    uint64_t crypt_header_bytes;
    /* Gives the key of that header, see block_options; needed for preallocation. */
    int (*unlock)(void *ctx, const struct block_crypt_header *header, struct block_crypt *out_crypt,
                  struct error *err);
    void *unlock_ctx;
    enum block_preallocation preallocation;
};

/* Makes an image in 'file', which is growable, whose contents are lost, and which stays the caller's. Durable when it returns;
 * on failure the file holds nothing useful. */
int must_check block_create(struct block *file, const struct block_create_options *options,
                            struct error *err);

/* One thing that is known of an image. Keys are stable: "cluster-size", "compression" ... */
struct block_detail {
    const char *key;
    const char *text; /* NULL: a number */
    uint64_t number;
    bool is_flag; /* the number is 0 or 1 */
};

typedef void (*block_detail_fn)(void *ctx, const struct block_detail *detail);
void block_describe(const struct block *block, block_detail_fn fn, void *ctx);

#define BLOCK_REPAIR_LEAKS  1u
#define BLOCK_REPAIR_ERRORS 2u

struct block_check_result {
    uint64_t errors, leaks; /* found; a repair counts what is left afterwards */
    uint64_t errors_fixed, leaks_fixed;
    uint64_t allocated_clusters, total_clusters, compressed_clusters, fragmented_clusters;
    uint64_t end_offset; /* of the last cluster in use in the file */
    /* Of block_check_with_progress; callers leave these alone. */
    void (*progress)(void *ctx, uint64_t done, uint64_t total);
    void *progress_ctx;
};

/* 'report' gets each finding in words, at most 1000 of them; NULL: nobody wants to know. 0 also with errors found: see the
 * result. With 'repair' the block must be open for it (block_options.is_for_repair). -EOPNOTSUPP: the format has no check. */
int must_check block_check(struct block *block, unsigned repair,
                           void (*report)(void *ctx, const char *text), void *ctx,
                           struct block_check_result *out_result, struct error *err);

/* The same; progress(progress_ctx, done, total) is called now and then. */
int must_check block_check_with_progress(struct block *block, unsigned repair,
                                         void (*report)(void *ctx, const char *text), void *ctx,
                                         void (*progress)(void *ctx, uint64_t done, uint64_t total),
                                         void *progress_ctx, struct block_check_result *out_result,
                                         struct error *err);

/* A snapshot inside of the image. Texts come from the image: untrusted. */
struct block_snapshot {
    const char *id, *name;
    uint64_t size_bytes; /* of the disk then */
    uint64_t vm_state_bytes, vm_clock_ns;
    uint64_t date_s;
    uint32_t date_ns;
};

typedef void (*block_snapshot_fn)(void *ctx, const struct block_snapshot *snapshot);
int must_check block_snapshot_list(struct block *block, block_snapshot_fn fn, void *ctx,
                                   struct error *err);
/* -EEXIST: the name is taken. */
int must_check block_snapshot_create(struct block *block, const char *name, struct error *err);
/* 'name' is a name or, if no snapshot has that name, an id. The disk's contents become the snapshot's, its size too. */
int must_check block_snapshot_apply(struct block *block, const char *name, struct error *err);
int must_check block_snapshot_delete(struct block *block, const char *name, struct error *err);

/* Other words in the image for what it stands on; contents and open blocks stay as they are. Name NULL: nothing. */
int must_check block_set_backing_name(struct block *block, const char *name, const char *format,
                                      struct error *err);

/* The image has nothing of its own any more, so that all that it stands on shows through. */
int must_check block_make_empty(struct block *block, struct error *err);

#endif
