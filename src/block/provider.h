/* For those who implement disk formats and protocols: what a struct block is made of, and the tables.
 *
 * Threads: all on the loop's thread. */
#ifndef BLOCK_PROVIDER_H
#define BLOCK_PROVIDER_H

#include "block/image.h"

#define BLOCK_MAX_IOV  1024 /* iovecs of one request: the kernel's own limit */
#define BLOCK_MAX_SIZE ((uint64_t)INT64_MAX - (1u << 22))

/* A bitmap of changes as an image holds it. 'map' NULL: it lacks changes. */
struct dirty_map;
struct block_stored_bitmap {
    const char *name;
    uint32_t granularity;
    bool is_enabled;
    const struct dirty_map *map;
};

/* What image.h offers, for one format. All but describe run in a coroutine. NULL: the format has none. */
struct block_image_ops {
    void (*describe)(const struct block *block, block_detail_fn fn, void *ctx);
    int (*check)(struct block *block, unsigned repair, void (*report)(void *ctx, const char *text),
                 void *ctx, struct block_check_result *out_result, struct error *err);
    int (*snapshot_list)(struct block *block, block_snapshot_fn fn, void *ctx, struct error *err);
    int (*snapshot_create)(struct block *block, const char *name, struct error *err);
    int (*snapshot_apply)(struct block *block, const char *name, struct error *err);
    int (*snapshot_delete)(struct block *block, const char *name, struct error *err);
    int (*set_backing_name)(struct block *block, const char *name, const char *format,
                            struct error *err);
    int (*make_empty)(struct block *block, struct error *err);
    /* Calls fn for each bitmap until it returns an error. Not in a coroutine, as the next one. */
    int (*bitmaps_load)(struct block *block,
                        int (*fn)(void *ctx, const struct block_stored_bitmap *bitmap), void *ctx,
                        struct error *err);
    /* The image holds these from then on, and they are believed until something is written to it. */
    int (*bitmaps_store)(struct block *block, const struct block_stored_bitmap *bitmap,
                         unsigned count, struct error *err);
};

enum block_lock {
    BLOCK_LOCK_NONE,
    BLOCK_LOCK_SHARED, /* others may read */
    BLOCK_LOCK_ALONE,
};

struct block_ops {
    const char *name; /* of a format: as written in a VM's configuration */
    /* Starts a request that block.c has checked against block->info. Calls block_complete in the end. Mandatory. */
    void (*submit)(struct block *block, struct block_request *request);
    /* Requests between plug (true) and unplug (false) may be held back and sent together. Nests. NULL: those of the blocks
     * below. */
    void (*plug)(struct block *block, bool is_plugged);
    /* Waits until at least one request in flight has made progress. NULL: waits for a block below that has something in
     * flight; a format whose requests wait for anything else needs its own. */
    void (*wait)(struct block *block);
    /* The same for work that block_begin_own has counted. */
    void (*wait_own)(struct block *block);
    /* Somebody waits for requests that this block holds back for a time: they go on now. False: there are none. NULL: it holds
     * none back. */
    bool (*let_go)(struct block *block);
    /* Of front.c alone: requests may wait for any block of this thread, whether it lies below or not, so a wait is for whichever
     * is busy; and the disk's backing block is that of the file below. */
    bool is_front;
    /* Its file of the host; the lock that keeps other processes away from that. NULL: those of the block below, if there is one. */
    int (*descriptor)(const struct block *block);
    int (*lock)(struct block *block, enum block_lock lock, struct error *err);
    /* NULL: that of the file below. */
    const char *(*aio_name)(const struct block *block);
    /* Nothing is in flight from above. Writes what the format still holds, makes it durable. NULL: nothing is held. */
    int (*finish)(struct block *block, struct error *err);
    /* Nothing is in flight. Frees what the provider's struct holds and then, with block_fini and free, itself. The blocks below
     * are closed by block.c. */
    void (*close)(struct block *block);
    const struct block_image_ops *image; /* NULL: nothing of it */
};

/* The first member of every provider's own struct. */
struct block {
    const struct block_ops *ops;
    struct event_loop *loop;
    char *name;
    bool is_demoted;                     /* open for writing, but only read now: see overlay.c */
    struct block_info info;              /* block.c and users read it; the provider keeps it */
    uint32_t in_flight;                  /* counted by block.c */
    uint32_t own_in_progress;            /* of block_begin_own */
    struct block *busy_next, *busy_prev; /* block.c's */
    /* The blocks below: closed with this one. NULL: none. A provider with more has them here too, up to the limit. */
    struct block *file;
    struct block *backing;
    struct block *data_file; /* NULL or another than 'file' */
    struct block **extent;   /* heap: more files (VMDK); freed with the block */
    unsigned extent_count;
};

/* A provider's own struct, of 'size' zeroed bytes, with the common part filled. NULL: no memory, and 'err' is set. */
void *block_new(size_t size, const struct block_ops *ops, const char *name, struct event_loop *loop,
                struct error *err);
/* Frees the common part: neither the blocks below nor 'block' itself. */
void block_fini(struct block *block);
/* The file of the host that holds the image; -1: it is none. */
int block_descriptor(const struct block *block);
/* 0 also where there is nothing to be locked. -EBUSY: another process has it. */
int must_check block_set_lock(struct block *block, enum block_lock lock, struct error *err);
/* Lets 'block' stand on another backing block (NULL: on nothing) and returns the one before, which is the caller's from then on.
 * Nothing that looks at the backing block is in flight; what the image's header says stays as it is. */
struct block *block_replace_backing(struct block *block, struct block *backing);
/* Lets the blocks from 'first' down to the one above 'end' stand on nothing else: 'end' stays open when 'first', which is
 * returned, is closed. */
struct block *block_cut_chain(struct block *first, struct block *end);
/* For an open that fails half-way: block_fini, and closes the blocks below except 'file'. */
void block_abandon(struct block *block);

struct block_format {
    const char *name; /* as written in a VM's configuration */
    /* Makes a disk of 'file', which becomes its block.file on success and stays the caller's on failure. 'options' is the
     * format's to change. Runs inside of a coroutine: block_read and its like are free to use. */
    int (*open)(struct block *file, struct block_options *options, struct block **out_block,
                struct error *err);
    /* See block_create; in a coroutine as well. NULL: read only. */
    int (*create)(struct block *file, const struct block_create_options *options,
                  struct error *err);
};

extern const struct block_format block_format_raw;
extern const struct block_format block_format_vmdk;
extern const struct block_format block_format_vhdx;
extern const struct block_format block_format_vhd;
extern const struct block_format block_format_vpc;
extern const struct block_format block_format_vdi;
extern const struct block_format block_format_qcow2;
extern const struct block_format block_format_luks;

/* NULL: there is none of that name. */
const struct block_format *block_find_format(const char *name);

/* Ends a request that was passed to ops->submit. */
void block_complete(struct block *block, struct block_request *request, int status);
/* A request of a block over others begins and ends to wait for something that does not lie below: threads that compute. */
void block_begin_own(struct block *block);
void block_end_own(struct block *block);
/* Carries a request that was passed to ops->submit out by 'fn' in a coroutine, and ends it with what that returns. */
void block_serve(struct block *block, struct block_request *request,
                 int (*fn)(struct block *block, struct block_request *request));
/* Waits until something in flight to the block, or to one below it, has made progress. Not inside of a coroutine. */
void block_wait(struct block *block);
/* The same for any block of this thread. */
void block_wait_any(void);
/* Is any block of this thread waiting for something? */
bool block_is_any_busy(void);
/* 'text' of an image, for messages: of what is not printable stands '?', and at most size - 1 characters. Returns 'out'. */
const char *block_printable(const char *text, char *out, size_t size);
/* The block for a name in the image 'file', as the caller's options say: the one given there, or what resolve opens. It is the
 * format's from then on. -EPERM with the reason when nobody grants it; 0 with NULL when options->is_alone leaves a backing
 * block out. */
int must_check block_resolve(const struct block *file, struct block_options *options,
                             const struct block_reference *reference, struct block **out_block,
                             struct error *err);

#endif
