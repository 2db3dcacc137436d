/* Inside of the qcow2 format: the state of an open image, and what its files offer each other.
 *
 * Everything runs on the loop's thread; functions marked "may yield" run in a coroutine and give way while they wait for I/O.
 * Between two places that may yield nothing changes, so there are few locks:
 *   - the range lock: whoever changes the mapping of guest clusters holds their range (lock_range);
 *   - alloc_mutex: one search for free clusters at a time;
 *   - commit_mutex: one commit at a time. A holder waits for none of the other two.
 *
 * What survives a power cut: changed metadata stays in memory (cache, L1, refcount table) until a commit, which writes it in an
 * order in which every state on the way is sound; see commit.c. */
#ifndef BLOCK_FORMAT_QCOW2_QCOW2_H
#define BLOCK_FORMAT_QCOW2_QCOW2_H

#include "base/core/endian.h"
#include "base/host/coroutine.h"
#include "base/host/work_pool.h"
#include "block/format/qcow2/entry.h"
#include "block/format/qcow2/header.h"
#include "block/provider.h"

#define QCOW2_CACHE_BYTES  (8u << 20)
#define QCOW2_HEADER_BYTES 4096u /* at most that much of the header stays in memory */

enum qcow2_slice_kind {
    QCOW2_SLICE_L2,
    QCOW2_SLICE_REFBLOCK,
};

/* A part of an L2 table or refcount block: the unit of the metadata cache. A pointer to one is good until the next yield. */
struct qcow2_slice {
    uint64_t offset; /* in the file */
    enum qcow2_slice_kind kind;
    bool is_dirty;      /* newer than the file, and in no commit yet */
    bool is_committing; /* a commit has a copy that is not in the file yet */
    bool is_loading;
    uint8_t *data;
    struct qcow2_slice *hash_next;
    struct qcow2_slice *newer, *older; /* by use */
    struct qcow2_slice *dirty_next, *dirty_prev;
};

struct qcow2_cache {
    uint32_t slice_size, max_slices, slice_count;
    uint32_t bucket_count;
    struct qcow2_slice **bucket;
    struct qcow2_slice *newest, *oldest;
    struct qcow2_slice *dirty; /* list */
    uint32_t dirty_count, committing_count;
    struct coroutine_queue loaded; /* those who wait for somebody's load */
};

/* A table that is in memory as a whole, in the host's byte order, and written by the sector. */
struct qcow2_table {
    uint64_t *entry;
    uint64_t entry_count;
    uint64_t offset; /* in the file */
    uint8_t *dirty;  /* one byte for each 64 entries */
    bool is_dirty;
};

/* Clusters that are free once the metadata that no longer names them is durable. */
struct qcow2_free {
    uint64_t offset, size; /* whole clusters */
};

struct qcow2_frees {
    struct qcow2_free *item;
    size_t count, capacity;
    uint64_t bytes;
};

/* A set of clusters (open addressing): where the tables of the image are. */
struct qcow2_cluster_set {
    uint64_t *slot; /* cluster number + 1; 0: free */
    size_t slot_count, used;
};

struct qcow2_range {
    uint64_t first, last; /* guest clusters, inclusive */
    struct qcow2_range *next;
};

struct qcow2_snapshot {
    uint64_t l1_table_offset;
    uint32_t l1_size;
    uint32_t date_sec, date_nsec;
    uint64_t vm_clock_nsec, vm_state_size, disk_size;
    char *id, *name;
    uint8_t *extra; /* unknown extra data behind the known 16 bytes */
    uint32_t extra_size;
};

struct qcow2_direct; /* io.c: a request that goes straight through */

struct qcow2 {
    struct block block;
    struct block *file; /* = block.file */
    struct block *data; /* where guest clusters are: the data file, else 'file' */
    struct qcow2_header header;
    struct qcow2_layout layout;
    uint8_t header_bytes[QCOW2_HEADER_BYTES];
    uint32_t header_size; /* of them */
    bool is_writable;
    bool is_prepared; /* for writing: see qcow2_prepare_write */
    bool is_raw_external;
    bool is_locked; /* encrypted, and opened without a key: nothing of the disk can be read */
    bool is_alone;  /* without the backing block that it has */
    bool is_for_repair;
    int broken;      /* -errno: nothing is written any more */
    char fault[160]; /* why, in words */

    struct qcow2_table l1, reftable;
    struct qcow2_cache cache;
    struct qcow2_cluster_set metadata; /* where tables are, but those of L2 of snapshots */

    struct coroutine_mutex alloc_mutex, prepare_mutex, header_mutex;
    uint64_t alloc_hint; /* cluster number: nothing below it is free */
    uint64_t fresh_from; /* offset: from here on the file was never written, and reads as zeros */
    bool is_last_fresh;  /* the clusters that qcow2_alloc gave last; good until the next yield */
    struct coroutine_mutex compressed_mutex, l2_mutex;
    uint64_t compressed_at,
        compressed_end; /* free rest of the cluster that compressed data goes to */

    struct coroutine_mutex commit_mutex;
    uint64_t commit_asked, commit_begun; /* tickets */
    int commit_status;
    bool is_committing;
    bool wants_commit;        /* as soon as a request ends */
    bool is_commit_started;   /* in the background */
    bool is_release_started;  /* in the background */
    struct qcow2_frees frees; /* wait for a commit */
    struct qcow2_frees ready; /* a commit later: wait for the requests that may still use them */
    struct coroutine_mutex release_mutex;

    struct qcow2_range *ranges;
    struct coroutine_queue ranges_waiting;

    /* Requests in progress, in two groups: what the older one may still look at is not given away. */
    uint32_t active[2];
    unsigned epoch;
    struct coroutine_queue epoch_waiting;
    bool is_exclusive; /* somebody rearranges the image: requests wait */
    struct block_request *held;
    struct block_request **held_tail;

    struct qcow2_direct *free_directs;
    struct work_pool *pool; /* packs; NULL: none */
    bool has_pool;          /* as good as it gets */
    uint8_t *unpacked;      /* the last compressed cluster that was read */
    uint64_t unpacked_entry;

    struct qcow2_snapshot *snapshot;
    uint32_t snapshot_count;
    uint64_t snapshot_table_size;
};

struct qcow2 *qcow2_from_block(const struct block *block);
/* Writes what is to be written, frees what is to be freed, and makes all of it durable. No requests are in progress. May yield. */
int must_check qcow2_settle(struct qcow2 *q);

/* --- cache.c --- */
int must_check qcow2_cache_init(struct qcow2 *q);
void qcow2_cache_fini(struct qcow2 *q);
/* The slice that holds the byte at 'offset' if it is there; NULL. */
struct qcow2_slice *qcow2_cache_find(struct qcow2 *q, uint64_t offset);
/* The same, read from the file if need be. May yield. */
int must_check qcow2_cache_get(struct qcow2 *q, uint64_t offset, enum qcow2_slice_kind kind,
                               struct qcow2_slice **out_slice);
void qcow2_cache_dirty(struct qcow2 *q, struct qcow2_slice *slice);
void qcow2_cache_clean(struct qcow2 *q, struct qcow2_slice *slice);
/* Forgets what is known of the clusters of [offset, offset + size). Nothing of it may be in a commit. */
void qcow2_cache_forget(struct qcow2 *q, uint64_t offset, uint64_t size);
int must_check qcow2_table_init(struct qcow2_table *table, uint64_t offset, uint64_t entry_count);
void qcow2_table_fini(struct qcow2_table *table);
/* May yield. */
int must_check qcow2_table_load(struct qcow2 *q, struct qcow2_table *table);
void qcow2_table_set(struct qcow2_table *table, uint64_t index, uint64_t value);
bool qcow2_set_has(const struct qcow2_cluster_set *set, uint64_t cluster);
int must_check qcow2_set_add(struct qcow2_cluster_set *set, uint64_t cluster);
void qcow2_set_remove(struct qcow2_cluster_set *set, uint64_t cluster);

/* --- refcount.c --- */
/* May yield. A cluster that no table covers has 0. */
int must_check qcow2_refcount_get(struct qcow2 *q, uint64_t cluster, uint64_t *out_count);
/* Adds 'change' to the counts of [offset, offset + size), which have blocks. -ERANGE: does not fit, nothing is changed from that
 * cluster on, *out_done says how many clusters are. May yield. */
int must_check qcow2_refcount_add(struct qcow2 *q, uint64_t offset, uint64_t size, int change,
                                  uint64_t *out_done);
/* Finds 1 to 'count' free clusters in a row and counts them as used once. May yield. -ENOSPC, -EFBIG. */
int must_check qcow2_alloc(struct qcow2 *q, uint64_t count, uint64_t *out_offset,
                           uint64_t *out_count);
/* Exactly 'bytes', rounded up to clusters, in a row. */
int must_check qcow2_alloc_exact(struct qcow2 *q, uint64_t bytes, uint64_t *out_offset);
/* Takes clusters back that nothing in the file names yet. May yield. */
void qcow2_unalloc(struct qcow2 *q, uint64_t offset, uint64_t size);
/* Room for 'size' bytes of compressed data, at a sector's start; its clusters are counted. May yield. */
int must_check qcow2_alloc_compressed(struct qcow2 *q, uint32_t size, uint64_t *out_offset);
/* One reference less to each of the clusters, as soon as the metadata without it is durable. */
int must_check qcow2_free_later(struct qcow2 *q, uint64_t offset, uint64_t size);
int must_check qcow2_free_entry_later(struct qcow2 *q, struct qcow2_entry entry);

/* --- commit.c --- */
/* Makes everything durable that was changed before the call. May yield. */
int must_check qcow2_commit(struct qcow2 *q);
/* Some time soon. */
void qcow2_commit_soon(struct qcow2 *q);
/* Starts what is due in the background. */
void qcow2_start_background(struct qcow2 *q);
/* Nothing is changed that is not in the file. */
bool qcow2_is_clean(const struct qcow2 *q);
/* Gives free what may be free. May yield; the requests that are in progress have to end first. */
int must_check qcow2_release(struct qcow2 *q);
/* The header's fields, durable. May yield. */
int must_check qcow2_write_header(struct qcow2 *q);
/* Before the first change: unknown autoclear bits go, bitmaps are marked as in use. May yield. */
int must_check qcow2_prepare_write(struct qcow2 *q);
/* The image is not what the format says: no more writes, and says so in the file. Returns -EIO. May yield in a coroutine. */
int qcow2_corrupt(struct qcow2 *q, const char *what, uint64_t where);
unsigned qcow2_begin(struct qcow2 *q);
void qcow2_end(struct qcow2 *q, unsigned epoch);
/* Nobody else is at the image. May yield. */
void qcow2_exclusive_begin(struct qcow2 *q);
void qcow2_exclusive_end(struct qcow2 *q);

/* --- mapping.c --- */
/* What the guest finds at 'offset', and for how many bytes (at most 'size') it goes on like that. */
struct qcow2_mapping {
    enum qcow2_kind kind;
    bool is_copied;       /* may be written in place */
    uint64_t host_offset; /* of the first byte, if the entry has one */
    uint64_t size;
    struct qcow2_entry entry; /* of the first cluster */
};

/* May yield, unless 'is_cached_only': then -EAGAIN instead. */
int must_check qcow2_map(struct qcow2 *q, uint64_t offset, uint64_t size, bool is_cached_only,
                         struct qcow2_mapping *out_mapping);
/* The entry of a guest cluster. May yield. */
int must_check qcow2_entry_get(struct qcow2 *q, uint64_t cluster, struct qcow2_entry *out_entry);
/* Sets it. Makes the L2 table if there is none, and copies one that a snapshot shares. May yield. Range lock held. */
int must_check qcow2_entry_set(struct qcow2 *q, uint64_t cluster, struct qcow2_entry entry);
/* Is that where metadata lies? Guest data is never written there. */
bool qcow2_hits_metadata(const struct qcow2 *q, uint64_t offset, uint64_t size);
/* The clusters of a table, from its first to its last byte. -EEXIST: one of them holds another table. */
int must_check qcow2_metadata_add(struct qcow2 *q, uint64_t offset, uint64_t size);
void qcow2_metadata_remove(struct qcow2 *q, uint64_t offset, uint64_t size);
void qcow2_lock_range(struct qcow2 *q, struct qcow2_range *range, uint64_t offset, uint64_t size);
void qcow2_unlock_range(struct qcow2 *q, struct qcow2_range *range);

/* --- io.c, write.c, compress.c --- */
/* Several requests to other blocks at once; the coroutine that waits is the one that began. */
struct qcow2_join {
    unsigned pending;
    int status;
    struct coroutine *waiter;
};

/* Bytes [skip, skip + size) of the vector, which is copied; 'iov' is NULL for operations on ranges. */
void qcow2_join_submit(struct qcow2_join *join, struct block *to, enum block_op op, uint64_t offset,
                       uint64_t size, const struct iovec *iov, int iov_count, uint64_t skip);
/* Until all are done; the first error. */
int must_check qcow2_join_wait(struct qcow2_join *join);
void qcow2_submit(struct block *block, struct block_request *request);
/* Guest data as a coroutine reads it; the range lies within the disk. May yield. */
int must_check qcow2_read(struct qcow2 *q, uint64_t offset, uint64_t size, const struct iovec *iov,
                          int iov_count);
/* The writers take the range lock. */
int must_check qcow2_write(struct qcow2 *q, uint64_t offset, uint64_t size, const struct iovec *iov,
                           int iov_count);
int must_check qcow2_write_zeroes(struct qcow2 *q, uint64_t offset, uint64_t size, bool may_unmap);
int must_check qcow2_discard(struct qcow2 *q, uint64_t offset, uint64_t size);
int must_check qcow2_write_compressed(struct qcow2 *q, uint64_t offset, uint64_t size,
                                      const struct iovec *iov, int iov_count);
/* block_ops.wait_own. */
void qcow2_wait_own(struct block *block);
/* The whole cluster of a compressed entry, in q->unpacked (good until the next yield). May yield. */
int must_check qcow2_unpack(struct qcow2 *q, struct qcow2_entry entry, const uint8_t **out_data);
/* Bytes [skip, skip + size) of a vector from or to plain memory; data NULL: zeros. */
void qcow2_iov_fill(const struct iovec *iov, int iov_count, uint64_t skip, const uint8_t *data,
                    uint64_t size);
void qcow2_iov_gather(const struct iovec *iov, int iov_count, uint64_t skip, uint8_t *out_data,
                      uint64_t size);
bool qcow2_has_backing_at(const struct qcow2 *q, uint64_t offset);

void qcow2_io_fini(struct qcow2 *q);

/* --- tree.c --- */
/* Changes the count of everything that an L1 table names, by +1 or -1 (freed later); all of it or, on failure, nothing. May
 * yield; nobody else is at the image. */
int must_check qcow2_tree_add(struct qcow2 *q, const uint64_t *l1, uint64_t l1_size, int change);
/* Sets or clears "copied" in the active tables as the counts say. */
int must_check qcow2_tree_fix_copied(struct qcow2 *q);
/* The dirty bit while counts and tables are changed in many steps, where the version has one. */
int must_check qcow2_set_dirty(struct qcow2 *q, bool is_dirty);
/* A table in the file: written to new clusters, durable. */
int must_check qcow2_write_new_table(struct qcow2 *q, const uint64_t *entry, uint64_t entry_count,
                                     uint64_t *out_offset);

/* --- snapshot.c, resize.c, bitmap.c, create.c, describe.c --- */
int must_check qcow2_snapshots_load(struct qcow2 *q, struct error *err);
void qcow2_snapshots_fini(struct qcow2 *q);
/* Makes a read-only disk that is being opened hold what the snapshot does. */
int must_check qcow2_snapshot_show(struct qcow2 *q, const char *name, struct error *err);
int must_check qcow2_snapshot_list(struct block *block, block_snapshot_fn fn, void *ctx,
                                   struct error *err);
int must_check qcow2_snapshot_create(struct block *block, const char *name, struct error *err);
int must_check qcow2_snapshot_apply(struct block *block, const char *name, struct error *err);
int must_check qcow2_snapshot_delete(struct block *block, const char *name, struct error *err);
int must_check qcow2_make_empty(struct block *block, struct error *err);
int must_check qcow2_resize(struct qcow2 *q, uint64_t size);
/* L1 of at least that many entries; the image is one's own. */
int must_check qcow2_grow_l1(struct qcow2 *q, uint64_t entry_count);
uint64_t qcow2_l1_entries_for(const struct qcow2_layout *layout, uint64_t size);
/* Sets 'in_use' of the bitmaps that should follow every write, or of all. May yield. */
int must_check qcow2_bitmaps_in_use(struct qcow2 *q, bool are_all);
int must_check qcow2_bitmaps_load(struct block *block,
                                  int (*fn)(void *ctx, const struct block_stored_bitmap *bitmap),
                                  void *ctx, struct error *err);
int must_check qcow2_bitmaps_store(struct block *block, const struct block_stored_bitmap *bitmap,
                                   unsigned count, struct error *err);
/* A header with other extensions. Nobody else is at the image. */
int must_check qcow2_write_new_header(struct qcow2 *q, const struct qcow2_header *header,
                                      struct error *err);
int must_check qcow2_create(struct block *file, const struct block_create_options *options,
                            struct error *err);
void qcow2_describe(const struct block *block, block_detail_fn fn, void *ctx);
int must_check qcow2_set_backing_name(struct block *block, const char *name, const char *format,
                                      struct error *err);

/* --- check.c, repair.c --- */
int must_check qcow2_check(struct block *block, unsigned repair,
                           void (*report)(void *ctx, const char *text), void *ctx,
                           struct block_check_result *out_result, struct error *err);
/* For an image that was not closed: counts right, dirty bit gone. */
int must_check qcow2_repair_dirty(struct qcow2 *q, struct error *err);

#endif
