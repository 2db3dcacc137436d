#include "block/front.h"

#include <stdlib.h>

#include "base/core/checked.h"
#include "base/core/invariant.h"
#include "block/bitmap.h"
#include "block/provider.h"

/* A request of the guest on its way. */
struct passing {
    struct block_request request; /* to the root */
    struct block_request *parent;
    struct block_front *front;
    struct passing *next, *prev; /* of the changes in flight to the root, or of free ones */
};

struct closing {
    struct block *block;
    struct closing *next;
};

struct block_front {
    struct block block; /* block.file is the root */
    struct block_watch *watches;
    struct block_bitmap *bitmaps;
    unsigned hooks; /* of the watches: how many have 'before' or 'after' */
    struct passing *free;
    struct passing *changes;
    struct block_front_range *locks;
    struct coroutine_queue changed, unlocked, idle, released;
    bool is_held;
    unsigned readers;             /* jobs that have entered */
    uint64_t active;              /* requests in progress, without those that wait here: */
    struct block_request *parked; /* for an unlock or a release */
    struct block_request **parked_tail;
    struct closing *closing;
    struct event_notifier *closer;
};

static struct block_front *from_block(const struct block *block)
{
    return container_of(block, struct block_front, block);
}

static bool is_change(const struct block_request *request)
{
    return request->op == BLOCK_WRITE || request->op == BLOCK_WRITE_ZEROES ||
           request->op == BLOCK_DISCARD;
}

static bool overlaps(uint64_t a, uint64_t a_size, uint64_t b, uint64_t b_size)
{
    return a < b + b_size && b < a + a_size;
}

static bool is_locked(const struct block_front *front, uint64_t offset, uint64_t size)
{
    for (const struct block_front_range *at = front->locks; at != NULL; at = at->next) {
        if (overlaps(at->offset, at->size, offset, size)) {
            return true;
        }
    }
    return false;
}

static bool is_changing(const struct block_front *front, uint64_t offset, uint64_t size)
{
    for (const struct passing *at = front->changes; at != NULL; at = at->next) {
        if (overlaps(at->request.offset_bytes, at->request.size_bytes, offset, size)) {
            return true;
        }
    }
    return false;
}

static void link_change(struct passing *passing)
{
    struct block_front *front = passing->front;
    passing->prev = NULL;
    passing->next = front->changes;
    if (front->changes != NULL) {
        front->changes->prev = passing;
    }
    front->changes = passing;
}

static void unlink_change(struct passing *passing)
{
    struct block_front *front = passing->front;
    *(passing->prev != NULL ? &passing->prev->next : &front->changes) = passing->next;
    if (passing->next != NULL) {
        passing->next->prev = passing->prev;
    }
    coroutine_queue_wake_all(&front->changed);
}

/* What they gain is clear; what they lose is lost, so they shrink after the root. */
static int resize_watches(struct block_front *front, uint64_t size_bytes)
{
    int rc = 0;
    for (struct block_watch *watch = front->watches; watch != NULL; watch = watch->next) {
        rc = watch->resize == NULL ? -EBUSY : rc;
    }
    for (struct block_watch *watch = front->watches; watch != NULL && rc == 0;
         watch = watch->next) {
        rc = watch->resize(watch, size_bytes);
    }
    return rc;
}

static void end(struct passing *passing, int status)
{
    struct block_front *front = passing->front;
    struct block_request *parent = passing->parent;
    if (parent->op == BLOCK_RESIZE) {
        if (status == 0) {
            front->block.info.size_bytes = parent->size_bytes;
        }
        (void)!resize_watches(front, front->block.info.size_bytes); /* at worst they are longer */
    }
    passing->next = front->free;
    front->free = passing;
    front->active--;
    block_complete(&front->block, parent, status);
    if (front->active == 0) {
        coroutine_queue_wake_all(&front->idle);
    }
}

static void passed(struct block_request *request, int status)
{
    struct passing *passing = container_of(request, struct passing, request);
    if (is_change(request)) {
        unlink_change(passing);
    }
    end(passing, status);
}

/* In one go with what follows: whoever clears a mark later finds the change in flight. */
static void mark_and_link(struct passing *passing)
{
    struct block_front *front = passing->front;
    const struct block_request *parent = passing->parent;
    for (struct block_watch *watch = front->watches; watch != NULL; watch = watch->next) {
        if (watch->mark != NULL) {
            watch->mark(watch, parent->offset_bytes, parent->size_bytes);
        }
    }
    link_change(passing);
}

static void change_with_hooks(void *ctx)
{
    struct passing *passing = ctx;
    struct block_front *front = passing->front;
    uint64_t offset = passing->parent->offset_bytes, size = passing->parent->size_bytes;
    for (struct block_watch *watch = front->watches; watch != NULL; watch = watch->next) {
        if (watch->before != NULL) {
            watch->before(watch, offset, size);
        }
    }
    while (is_locked(front, offset, size)) {
        coroutine_queue_wait(&front->unlocked);
    }
    mark_and_link(passing);
    passing->request.status = block_perform(front->block.file, &passing->request);
    unlink_change(passing);
    for (struct block_watch *watch = front->watches; watch != NULL; watch = watch->next) {
        if (watch->after != NULL) {
            watch->after(watch, offset, size);
        }
    }
}

static void change_with_hooks_ended(void *ctx)
{
    struct passing *passing = ctx;
    end(passing, passing->request.status);
}

static void start_change(struct passing *passing)
{
    struct block_front *front = passing->front;
    if (front->hooks == 0) {
        mark_and_link(passing);
        block_submit(front->block.file, &passing->request);
    } else if (coroutine_start(change_with_hooks, change_with_hooks_ended, passing) < 0) {
        end(passing, -ENOMEM);
    }
}

static void park(struct block_front *front, struct block_request *request)
{
    request->next = NULL;
    *front->parked_tail = request;
    front->parked_tail = &request->next;
}

static void front_submit(struct block *block, struct block_request *request)
{
    struct block_front *front = from_block(block);
    bool changes = is_change(request);
    if (front->is_held ||
        (changes && is_locked(front, request->offset_bytes, request->size_bytes))) {
        park(front, request);
        return;
    }
    int rc = request->op == BLOCK_RESIZE
                 ? resize_watches(front, MAX(request->size_bytes, front->block.info.size_bytes))
                 : 0;
    if (rc < 0) {
        block_complete(block, request, rc);
        return;
    }
    struct passing *passing = front->free;
    if (passing != NULL) {
        front->free = passing->next;
    } else {
        passing = malloc(sizeof(*passing));
        if (passing == NULL) {
            block_complete(block, request, -ENOMEM);
            return;
        }
    }
    passing->request = *request;
    passing->request.done = passed;
    passing->parent = request;
    passing->front = front;
    front->active++;
    if (changes) {
        start_change(passing);
    } else {
        block_submit(block->file, &passing->request);
    }
}

static void submit_parked(struct block_front *front)
{
    struct block_request *request = front->parked;
    front->parked = NULL;
    front->parked_tail = &front->parked;
    while (request != NULL) {
        struct block_request *next = request->next;
        front_submit(&front->block, request);
        request = next;
    }
}

static void close_old(void *ctx)
{
    struct block_front *front = ctx;
    while (front->closing != NULL) {
        struct closing *closing = front->closing;
        front->closing = closing->next;
        block_close(closing->block);
        free(closing);
    }
}

static void front_close(struct block *block)
{
    struct block_front *front = from_block(block);
    block_bitmaps_close(front);
    invariant(front->watches == NULL && front->locks == NULL && !front->is_held &&
              front->readers == 0);
    close_old(front);
    event_notifier_destroy(front->closer);
    while (front->free != NULL) {
        struct passing *passing = front->free;
        front->free = passing->next;
        free(passing);
    }
    block_fini(block);
    free(front);
}

static int front_finish(struct block *block, struct error *err)
{
    return block_bitmaps_store(from_block(block), err);
}

static const struct block_ops front_ops = {
    .name = "front",
    .submit = front_submit,
    .is_front = true, /* what is parked waits for a job */
    .finish = front_finish,
    .close = front_close,
};

int block_front_create(struct block *root, struct block_front **out_front, struct error *err)
{
    struct block_front *front =
        block_new(sizeof(*front), &front_ops, block_name(root), root->loop, err);
    if (front == NULL) {
        block_close(root);
        return -ENOMEM;
    }
    int rc = event_notifier_create(root->loop, close_old, front, &front->closer, err);
    if (rc < 0) {
        front_close(&front->block);
        block_close(root);
        return rc;
    }
    front->parked_tail = &front->parked;
    front->block.file = root;
    front->block.info = root->info;
    front->block.info.is_growable = false;
    rc = block_bitmaps_load(front, err);
    if (rc < 0) {
        front->block.file = NULL;
        front_close(&front->block);
        block_close(root);
        return rc;
    }
    *out_front = front;
    return 0;
}

struct block *block_front_block(struct block_front *front)
{
    return &front->block;
}

struct block *block_front_root(const struct block_front *front)
{
    return front->block.file;
}

struct block_bitmap **block_front_bitmaps(struct block_front *front)
{
    return &front->bitmaps;
}

struct block_bitmap *block_bitmap_first(const struct block_front *front)
{
    return front->bitmaps;
}

void block_front_add_watch(struct block_front *front, struct block_watch *watch)
{
    invariant(front->active == 0);
    watch->next = front->watches;
    front->watches = watch;
    front->hooks += watch->before != NULL || watch->after != NULL;
}

void block_front_remove_watch(struct block_front *front, struct block_watch *watch)
{
    invariant(front->active == 0);
    struct block_watch **at = &front->watches;
    while (*at != watch) {
        at = &(*at)->next;
    }
    *at = watch->next;
    front->hooks -= watch->before != NULL || watch->after != NULL;
}

/* For a wait that may be in a coroutine or not. */
static void wait_in(struct coroutine_queue *queue)
{
    if (coroutine_self() != NULL) {
        coroutine_queue_wait(queue);
    } else if (!coroutine_run_ready()) {
        block_wait_any();
    }
}

void block_front_hold(struct block_front *front)
{
    while (front->is_held) {
        wait_in(&front->released);
    }
    front->is_held = true;
    while (front->active > 0 || front->readers > 0) {
        wait_in(&front->idle);
    }
}

void block_front_release(struct block_front *front)
{
    front->is_held = false;
    coroutine_queue_wake_all(&front->released);
    if (!front->is_held) { /* by who has waited for it */
        submit_parked(front);
    }
}

void block_front_enter(struct block_front *front)
{
    while (front->is_held) {
        coroutine_queue_wait(&front->released);
    }
    front->readers++;
}

void block_front_leave(struct block_front *front)
{
    if (--front->readers == 0) {
        coroutine_queue_wake_all(&front->idle);
    }
}

void block_front_lock(struct block_front *front, struct block_front_range *range, uint64_t offset,
                      uint64_t size)
{
    while (is_locked(front, offset, size)) {
        coroutine_queue_wait(&front->unlocked);
    }
    *range = (struct block_front_range){.offset = offset, .size = size, .next = front->locks};
    front->locks = range;
    while (is_changing(front, offset, size)) {
        coroutine_queue_wait(&front->changed);
    }
}

void block_front_unlock(struct block_front *front, struct block_front_range *range)
{
    struct block_front_range **at = &front->locks;
    while (*at != range) {
        at = &(*at)->next;
    }
    *at = range->next;
    coroutine_queue_wake_all(&front->unlocked);
    if (!front->is_held) {
        submit_parked(front);
    }
}

struct block *block_front_exchange(struct block_front *front, struct block *root)
{
    invariant(front->active == 0);
    struct block *old = front->block.file;
    front->block.file = root;
    return old;
}

int block_front_check(const struct block_front *front, const struct block *root, const char *what,
                      struct error *err)
{
    const struct block_info *is = &front->block.info;
    if (root->info.size_bytes != is->size_bytes) {
        return error_set(err, EINVAL, "%s %s has %llu bytes, the disk %llu: the same is needed",
                         what, block_name(root), (unsigned long long)root->info.size_bytes,
                         (unsigned long long)is->size_bytes);
    }
    if (root->info.logical_block_size > is->logical_block_size) {
        return error_set(err, EINVAL, "%s %s has sectors of %u bytes, the disk of %u", what,
                         block_name(root), root->info.logical_block_size, is->logical_block_size);
    }
    if (root->info.is_readonly && !is->is_readonly) {
        return error_set(err, EROFS, "%s %s is read-only, the disk is not", what, block_name(root));
    }
    return 0;
}

void block_front_close_later(struct block_front *front, struct block *block)
{
    struct closing *closing = malloc(sizeof(*closing));
    if (closing == NULL || block == NULL) {
        free(closing);
        return; /* without memory it stays open until the process ends */
    }
    *closing = (struct closing){.block = block, .next = front->closing};
    front->closing = closing;
    event_notifier_signal(front->closer);
}
