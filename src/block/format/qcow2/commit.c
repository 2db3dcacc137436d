/* When changed metadata reaches the file, and in which order.
 *
 * A change is made in memory first, in this order: new clusters are counted, their data is written, the L2 entry is set, and what
 * it named before is noted to be freed. A commit copies all changed metadata at one moment, so that every cluster that the copy
 * names is counted in the copy, and its data has been written. The copy then goes to the file with a flush between the steps:
 *   1. refcount blocks that are new were written when they were made; flush, if the refcount table names any;
 *   2. refcount blocks and refcount table; flush (which makes the data durable too);
 *   3. L2 and L1 tables, whose entries name counted clusters with durable data only; flush.
 * Sectors may tear and writes between two flushes may reach the disk in any selection: an entry never crosses a sector, and
 * each selection of old and new entries is sound, at worst with clusters that leak.
 *
 * After that nothing durable names the freed clusters. They get free ("release") when the requests that were in progress have
 * ended, as those may still read or write there, and when their holes have been punched, as a late hole would hit the next
 * user's data. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "block/format/qcow2/qcow2.h"

enum step {
    STEP_COUNT, /* refcount blocks and the refcount table */
    STEP_MAP,   /* L2 and L1 tables */
};

struct copy {
    enum step step;
    uint64_t offset;
    uint32_t size;
    uint8_t *data;
    struct qcow2_slice *slice; /* of the cache, or */
    struct qcow2_table *table; /* of a table: sector 'sector' */
    uint64_t sector;
};

struct capture {
    struct copy *copy;
    size_t count;
    uint8_t *data;
    bool has_new_blocks;
    bool has_step[2];
};

static size_t count_dirty(const struct qcow2_table *table)
{
    size_t count = 0;
    for (uint64_t i = 0; table->is_dirty && i < (table->entry_count + 63) / 64; i++) {
        count += table->dirty[i];
    }
    return count;
}

static uint8_t *copy_table(struct capture *capture, struct qcow2_table *table, enum step step,
                           uint8_t *data)
{
    for (uint64_t i = 0; table->is_dirty && i < (table->entry_count + 63) / 64; i++) {
        if (!table->dirty[i]) {
            continue;
        }
        table->dirty[i] = 0;
        uint64_t count = MIN(table->entry_count - i * 64, (uint64_t)64);
        for (uint64_t j = 0; j < count; j++) {
            be64_put(data + j * 8, table->entry[i * 64 + j]);
        }
        capture->copy[capture->count++] = (struct copy){.step = step,
                                                        .offset = table->offset + i * 512,
                                                        .size = (uint32_t)count * 8,
                                                        .data = data,
                                                        .table = table,
                                                        .sector = i};
        capture->has_step[step] = true;
        data += 512;
    }
    table->is_dirty = false;
    return data;
}

static int compare_copies(const void *a, const void *b)
{
    uint64_t x = ((const struct copy *)a)->offset, y = ((const struct copy *)b)->offset;
    return x < y ? -1 : x > y;
}

static int take_capture(struct qcow2 *q, struct capture *capture)
{
    struct qcow2_cache *cache = &q->cache;
    size_t sectors = count_dirty(&q->reftable) + count_dirty(&q->l1);
    size_t count = cache->dirty_count + sectors;
    *capture = (struct capture){0};
    if (count == 0) {
        return 0;
    }
    capture->copy = malloc(count * sizeof(struct copy));
    capture->data = malloc((size_t)cache->dirty_count * cache->slice_size + sectors * 512);
    if (capture->copy == NULL || capture->data == NULL) {
        free(capture->copy);
        free(capture->data);
        return -ENOMEM;
    }
    capture->has_new_blocks = q->reftable.is_dirty;
    uint8_t *data = copy_table(capture, &q->reftable, STEP_COUNT, capture->data);
    data = copy_table(capture, &q->l1, STEP_MAP, data);
    while (cache->dirty != NULL) {
        struct qcow2_slice *slice = cache->dirty;
        enum step step = slice->kind == QCOW2_SLICE_L2 ? STEP_MAP : STEP_COUNT;
        qcow2_cache_clean(q, slice);
        slice->is_committing = true;
        cache->committing_count++;
        memcpy(data, slice->data, cache->slice_size);
        capture->copy[capture->count++] = (struct copy){.step = step,
                                                        .offset = slice->offset,
                                                        .size = cache->slice_size,
                                                        .data = data,
                                                        .slice = slice};
        capture->has_step[step] = true;
        data += cache->slice_size;
    }
    qsort(capture->copy, capture->count, sizeof(struct copy), compare_copies);
    return 0;
}

/* After a failure all of it counts as changed again. */
static void end_capture(struct qcow2 *q, struct capture *capture, bool has_failed)
{
    for (size_t i = 0; i < capture->count; i++) {
        struct copy *copy = &capture->copy[i];
        if (copy->slice != NULL) {
            copy->slice->is_committing = false;
            q->cache.committing_count--;
            if (has_failed) {
                qcow2_cache_dirty(q, copy->slice);
            }
        } else if (has_failed && copy->sector * 64 < copy->table->entry_count) {
            copy->table->dirty[copy->sector] = 1;
            copy->table->is_dirty = true;
        }
    }
    free(capture->copy);
    free(capture->data);
}

static int write_step(struct qcow2 *q, const struct capture *capture, enum step step)
{
    struct qcow2_join join = {0};
    if (!capture->has_step[step]) {
        return 0;
    }
    block_plug(q->file);
    for (size_t i = 0; i < capture->count; i++) {
        const struct copy *copy = &capture->copy[i];
        if (copy->step == step) {
            struct iovec iov = {copy->data, copy->size};
            qcow2_join_submit(&join, q->file, BLOCK_WRITE, copy->offset, copy->size, &iov, 1, 0);
        }
    }
    block_unplug(q->file);
    return qcow2_join_wait(&join);
}

/* What a flush that fails has left behind is not known, so it is the last one: the file stays as it is. */
static int flush(struct qcow2 *q, struct block *to)
{
    int rc = block_flush(to);
    if (rc < 0) {
        q->broken = rc;
        (void)snprintf(q->fault, sizeof(q->fault), "a flush failed: %s", strerror(-rc));
    }
    return rc;
}

static int write_capture(struct qcow2 *q, const struct capture *capture)
{
    int rc = 0;
    if (capture->has_new_blocks) {
        rc = flush(q, q->file);
    }
    if (rc == 0) {
        rc = write_step(q, capture, STEP_COUNT);
    }
    if (rc == 0 && q->data != q->file) {
        rc = flush(q, q->data);
    }
    if (rc == 0) {
        rc = flush(q, q->file);
    }
    if (rc == 0 && capture->has_step[STEP_MAP]) {
        rc = write_step(q, capture, STEP_MAP);
        if (rc == 0) {
            rc = flush(q, q->file);
        }
    }
    return rc;
}

static void move_frees(struct qcow2_frees *from, struct qcow2_frees *to)
{
    if (from->count == 0) {
        return;
    }
    if (to->count == 0) {
        struct qcow2_frees swap = *to;
        *to = *from;
        *from = swap;
        from->bytes = 0;
        return;
    }
    if (to->capacity - to->count < from->count) {
        void *item = realloc(to->item, (to->count + from->count) * sizeof(struct qcow2_free));
        if (item == NULL) {
            from->count = 0; /* they leak */
            from->bytes = 0;
            return;
        }
        to->item = item;
        to->capacity = to->count + from->count;
    }
    memcpy(to->item + to->count, from->item, from->count * sizeof(struct qcow2_free));
    to->count += from->count;
    to->bytes += from->bytes;
    from->count = 0;
    from->bytes = 0;
}

static int commit(struct qcow2 *q)
{
    struct capture capture;
    struct qcow2_frees frees = {0};
    if (q->broken < 0) {
        return q->broken;
    }
    int rc = take_capture(q, &capture);
    if (rc < 0) {
        return rc;
    }
    move_frees(&q->frees, &frees);
    q->is_committing = true;
    rc = write_capture(q, &capture);
    q->is_committing = false;
    end_capture(q, &capture, rc < 0);
    move_frees(&frees, rc < 0 ? &q->frees : &q->ready);
    free(frees.item);
    return rc;
}

int qcow2_commit(struct qcow2 *q)
{
    uint64_t ticket = ++q->commit_asked;
    coroutine_mutex_lock(&q->commit_mutex);
    if (q->commit_begun < ticket) {
        q->commit_begun = q->commit_asked;
        q->commit_status = commit(q);
    } /* else one that began after the call has ended meanwhile */
    int rc = q->commit_status;
    coroutine_mutex_unlock(&q->commit_mutex);
    qcow2_start_background(q);
    return rc;
}

bool qcow2_is_clean(const struct qcow2 *q)
{
    return q->cache.dirty_count == 0 && !q->is_committing && !q->l1.is_dirty &&
           !q->reftable.is_dirty && q->frees.count == 0;
}

void qcow2_commit_soon(struct qcow2 *q)
{
    q->wants_commit = true;
}

static void background_commit(void *ctx)
{
    struct qcow2 *q = ctx;
    q->wants_commit = false;
    (void)!qcow2_commit(q); /* all stays changed in memory, and whoever flushes is told */
}

static void background_release(void *ctx)
{
    (void)!qcow2_release(ctx); /* an error is in q->broken */
}

static void background_commit_ended(void *ctx)
{
    struct qcow2 *q = ctx;
    q->is_commit_started = false;
    q->block.in_flight--;
    qcow2_start_background(q);
}

static void background_release_ended(void *ctx)
{
    struct qcow2 *q = ctx;
    q->is_release_started = false;
    q->block.in_flight--;
    qcow2_start_background(q);
}

void qcow2_start_background(struct qcow2 *q)
{
    if (q->broken < 0 || q->is_exclusive) {
        return;
    }
    if (q->wants_commit && !q->is_commit_started) {
        q->is_commit_started = true;
        q->block.in_flight++; /* a drain waits for it */
        if (coroutine_start(background_commit, background_commit_ended, q) < 0) {
            q->is_commit_started = false;
            q->block.in_flight--;
        }
    }
    if (q->ready.count > 0 && !q->is_release_started) {
        q->is_release_started = true;
        q->block.in_flight++;
        if (coroutine_start(background_release, background_release_ended, q) < 0) {
            q->is_release_started = false;
            q->block.in_flight--;
        }
    }
}

/* How many clusters from 'first' on, up to 'count', are as 'is_last' says: with this one reference or with more. */
static int scan_counts(struct qcow2 *q, uint64_t first, uint64_t count, uint64_t *out_run,
                       bool *out_is_last)
{
    uint64_t run = 0;
    bool is_last = false;
    while (run < count) {
        uint64_t refs;
        int rc = qcow2_refcount_get(q, first + run, &refs);
        if (rc < 0) {
            return rc;
        }
        if (run > 0 && (refs == 1) != is_last) {
            break;
        }
        is_last = refs == 1;
        run++;
    }
    *out_run = run;
    *out_is_last = is_last;
    return 0;
}

static int release_item(struct qcow2 *q, const struct qcow2_free *item)
{
    uint32_t bits = q->layout.cluster_bits;
    uint64_t first = item->offset >> bits;
    uint64_t left = item->size >> bits;
    /* Who is about to add to the last compressed cluster counts its reference first. */
    coroutine_mutex_lock(&q->compressed_mutex);
    if (q->compressed_end != 0 && q->compressed_end > item->offset &&
        q->compressed_end <= item->offset + item->size) {
        q->compressed_at = q->compressed_end = 0; /* nothing is added to a cluster that goes */
    }
    coroutine_mutex_unlock(&q->compressed_mutex);
    while (left > 0) {
        uint64_t run, done;
        bool is_last;
        int rc = scan_counts(q, first, left, &run, &is_last);
        if (rc < 0) {
            return rc;
        }
        if (is_last && q->file->info.can_discard) {
            (void)!block_discard(q->file, first << bits, run << bits); /* only a hint */
        }
        rc = qcow2_refcount_add(q, first << bits, run << bits, -1, &done);
        if (rc == -ERANGE) {
            rc = qcow2_corrupt(q, "cluster with fewer references than counted", first + done);
        }
        if (rc < 0) {
            return rc;
        }
        first += run;
        left -= run;
    }
    return 0;
}

int qcow2_release(struct qcow2 *q)
{
    struct qcow2_frees frees = {0};
    int rc = 0;
    coroutine_mutex_lock(&q->release_mutex);
    move_frees(&q->ready, &frees);
    if (frees.count > 0) {
        unsigned old = q->epoch;
        q->epoch ^= 1;
        while (q->active[old] > 0) {
            coroutine_queue_wait(&q->epoch_waiting);
        }
    }
    for (size_t i = 0; i < frees.count && rc == 0; i++) {
        rc = release_item(q, &frees.item[i]);
    }
    free(frees.item);
    coroutine_mutex_unlock(&q->release_mutex);
    return rc;
}

int qcow2_write_header(struct qcow2 *q)
{
    coroutine_mutex_lock(&q->header_mutex);
    qcow2_header_update(q->header_bytes, &q->header);
    uint8_t sector[512]; /* one, so that it cannot tear */
    uint32_t size = MIN(q->header_size, (uint32_t)sizeof(sector));
    memcpy(sector, q->header_bytes, size);
    int rc = block_write(q->file, 0, sector, size);
    if (rc == 0) {
        rc = block_flush(q->file);
    }
    coroutine_mutex_unlock(&q->header_mutex);
    return rc;
}

int qcow2_prepare_write(struct qcow2 *q)
{
    if (q->broken < 0) {
        return q->broken;
    }
    if (q->is_prepared) {
        return 0;
    }
    if (!q->is_writable) {
        return -EROFS;
    }
    coroutine_mutex_lock(&q->prepare_mutex);
    int rc = 0;
    if (!q->is_prepared) {
        uint64_t known = q->header.autoclear_features & QCOW2_AUTOCLEAR_KNOWN;
        if (!q->header.has_bitmaps) {
            known &= ~QCOW2_AUTOCLEAR_BITMAPS;
        }
        if ((known & QCOW2_AUTOCLEAR_BITMAPS) != 0) {
            rc = qcow2_bitmaps_in_use(q, false);
        }
        if (rc == 0 && known != q->header.autoclear_features) {
            q->header.autoclear_features = known;
            rc = qcow2_write_header(q);
        }
        q->is_prepared = rc == 0;
    }
    coroutine_mutex_unlock(&q->prepare_mutex);
    return rc;
}

int qcow2_corrupt(struct qcow2 *q, const char *what, uint64_t where)
{
    if (q->fault[0] == '\0') {
        (void)snprintf(q->fault, sizeof(q->fault), "%s (%llu)", what, (unsigned long long)where);
    }
    if (q->is_writable && q->broken == 0) {
        q->broken = -EIO;
        if (q->header.version >= 3 && !q->is_for_repair) {
            q->header.incompatible_features |= QCOW2_INCOMPATIBLE_CORRUPT;
            (void)!qcow2_write_header(q); /* nothing more can be done */
        }
    }
    return -EIO;
}

unsigned qcow2_begin(struct qcow2 *q)
{
    q->active[q->epoch]++;
    return q->epoch;
}

void qcow2_end(struct qcow2 *q, unsigned epoch)
{
    if (--q->active[epoch] == 0) {
        coroutine_queue_wake_all(&q->epoch_waiting);
    }
    if (q->wants_commit && !q->is_commit_started) {
        qcow2_start_background(q);
    }
}

void qcow2_exclusive_begin(struct qcow2 *q)
{
    while (q->is_exclusive) {
        coroutine_queue_wait(&q->epoch_waiting);
    }
    q->is_exclusive = true;
    while (q->active[0] > 0 || q->active[1] > 0) {
        coroutine_queue_wait(&q->epoch_waiting);
    }
    coroutine_mutex_lock(&q->release_mutex);
    coroutine_mutex_unlock(&q->release_mutex);
}

void qcow2_exclusive_end(struct qcow2 *q)
{
    q->is_exclusive = false;
    coroutine_queue_wake_all(&q->epoch_waiting);
    struct block_request *request = q->held;
    q->held = NULL;
    q->held_tail = &q->held;
    while (request != NULL) {
        struct block_request *next = request->next;
        qcow2_submit(&q->block, request);
        request = next;
    }
    qcow2_start_background(q);
}
