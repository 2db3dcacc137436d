/* What stands between a device and its disk, so that the disk can be exchanged, followed and copied while it is in use: a block
 * that passes requests on to its root (the top of the chain of images), and sees every change.
 *
 * A job that copies data takes a lock on the range at hand: changes to it by the guest wait that long, and the lock waits for
 * those in flight. A job that rearranges the graph holds all requests back. Reads are never kept from a locked range.
 *
 * Filters stand between the device and the front, so that what is exchanged below does not concern them.
 *
 * Threads: the loop's. "May yield": in a coroutine only. */
#ifndef BLOCK_FRONT_H
#define BLOCK_FRONT_H

#include "base/host/coroutine.h"
#include "block/block.h"

struct block_bitmap;
struct block_front;

/* 'root' is the new block's from then on, also on failure. */
int must_check block_front_create(struct block *root, struct block_front **out_front,
                                  struct error *err);
/* What a device gets, and closes. */
struct block *block_front_block(struct block_front *front);
struct block *block_front_root(const struct block_front *front);

/* Somebody who follows what the guest changes. */
struct block_watch {
    /* A change is about to begin; it may fail or not. NULL: does not matter. */
    void (*mark)(struct block_watch *watch, uint64_t offset, uint64_t size);
    /* The change waits for this. May yield. NULL: nothing. */
    void (*before)(struct block_watch *watch, uint64_t offset, uint64_t size);
    /* The guest learns of the change's end after this; meanwhile it no longer counts as in flight for locks. May yield. NULL:
     * nothing. */
    void (*after)(struct block_watch *watch, uint64_t offset, uint64_t size);
    /* The disk gets another size. NULL: it must not, now. */
    int (*resize)(struct block_watch *watch, uint64_t size_bytes);
    struct block_watch *next; /* the front's */
};

/* For bitmap.c: where the list of bitmaps begins. */
struct block_bitmap **block_front_bitmaps(struct block_front *front);

/* Nothing of the guest is in progress: requests are held, or drained and the loop does not run meanwhile. */
void block_front_add_watch(struct block_front *front, struct block_watch *watch);
void block_front_remove_watch(struct block_front *front, struct block_watch *watch);

/* From now on requests wait, and jobs before they enter. Returns when none of these is in progress. Another job that holds is waited
 * for. In a coroutine it yields; elsewhere completions run meanwhile. */
void block_front_hold(struct block_front *front);
/* They go on. */
void block_front_release(struct block_front *front);

/* Who reads the root or what is below, but for the guest's requests and their watches: in between nothing is exchanged or closed.
 * Not with a lock. The first may yield. */
void block_front_enter(struct block_front *front);
void block_front_leave(struct block_front *front);

struct block_front_range {
    uint64_t offset, size;
    struct block_front_range *next;
};

/* May yield. Not in place of a hold of one's own. */
void block_front_lock(struct block_front *front, struct block_front_range *range, uint64_t offset,
                      uint64_t size);
void block_front_unlock(struct block_front *front, struct block_front_range *range);

/* Another root; held or drained. Returns the one before, which is the caller's. The new one is as large, and takes requests as
 * small. */
struct block *block_front_exchange(struct block_front *front, struct block *root);
/* Is 'root' fit to be the root? 'what' is what it would be called in the error: "the target". */
int must_check block_front_check(const struct block_front *front, const struct block *root,
                                 const char *what, struct error *err);
/* An image that is made to stand on the root becomes the root: the one before is only read from then on. Everything that the guest
 * was told is durable below it first. 'file' holds a new, empty image of 'format' of the disk's size, whose header names what it
 * stands on; it is the front's from then on, also on failure. Not in a coroutine; runs completions meanwhile. */
int must_check block_front_put_overlay(struct block_front *front, struct block *file,
                                       const char *format, struct error *err);
/* The image below the root whose file 'fd' is, and which is only read so far, is open for writing from then on. 'fd' is owned from
 * then on, also on failure; 'options' say how it is opened. Not in a coroutine. */
int must_check block_front_make_writable(struct block_front *front, int fd,
                                         const struct block_file_options *options,
                                         struct block **out_block, struct error *err);
/* The same for one that is no file: the first of that name. 'file', its bytes, is handed over, also on failure; NULL: it is open for
 * writing, though only read so far. */
int must_check block_front_make_named_writable(struct block_front *front, const char *name,
                                               struct block *file, struct block **out_block,
                                               struct error *err);
/* Needs no descriptor for that. */
bool block_front_is_open_for_writing(const struct block *block);
/* The other way. All that was written to it is durable. */
void block_front_make_readonly(struct block *block);
/* Closes 'block', which is the front's from then on, when the loop comes to it, or when the front is closed. */
void block_front_close_later(struct block_front *front, struct block *block);

#endif
