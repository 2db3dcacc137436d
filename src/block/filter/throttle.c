/* Holds requests back until their group's buckets have room. */
#include <stdlib.h>

#include "base/core/invariant.h"
#include "block/filter.h"
#include "block/filter/bucket.h"
#include "block/filter/forward.h"

enum direction {
    DIRECTION_READ,
    DIRECTION_WRITE,
    DIRECTIONS,
};

struct queue {
    struct block_request *first, **last;
};

struct throttle {
    struct filter filter;
    struct block_throttle_group *group;
    struct throttle *next; /* of the group's members: a ring */
    struct queue queue[DIRECTIONS];
};

struct block_throttle_group {
    unsigned holders;
    struct block_throttle_limits limits;
    bool is_limited;
    struct bucket bucket[BLOCK_THROTTLE_KINDS];
    uint64_t leaked_ns; /* up to when the buckets have leaked */
    block_clock_fn clock;
    void *clock_ctx;
    struct event_timer *timer;
    bool is_timer_real;
    /* Whose turn it is: a member of the ring, NULL: there are none. */
    struct throttle *turn[DIRECTIONS];
    enum direction next_direction;
    unsigned waiting; /* requests */
    bool is_running;  /* within run_group */
    bool runs_again;
};

static uint64_t system_clock(void *ctx)
{
    return clock_monotonic_ns();
}

static enum direction direction_of(const struct block_request *request)
{
    return request->op == BLOCK_READ ? DIRECTION_READ : DIRECTION_WRITE;
}

static void leak(struct block_throttle_group *group)
{
    uint64_t now_ns = group->clock(group->clock_ctx);
    uint64_t ns = now_ns > group->leaked_ns ? now_ns - group->leaked_ns : 0;
    group->leaked_ns = now_ns;
    for (unsigned i = 0; i < BLOCK_THROTTLE_KINDS; i++) {
        bucket_leak(&group->bucket[i], ns);
    }
}

static const enum block_throttle_kind kinds_of[DIRECTIONS][4] = {
    [DIRECTION_READ] = {BLOCK_THROTTLE_BPS, BLOCK_THROTTLE_BPS_READ, BLOCK_THROTTLE_IOPS,
                        BLOCK_THROTTLE_IOPS_READ},
    [DIRECTION_WRITE] = {BLOCK_THROTTLE_BPS, BLOCK_THROTTLE_BPS_WRITE, BLOCK_THROTTLE_IOPS,
                         BLOCK_THROTTLE_IOPS_WRITE},
};

/* As of the last leak. */
static uint64_t wait_ns(const struct block_throttle_group *group, enum direction direction)
{
    uint64_t ns = 0;
    for (unsigned i = 0; i < 4; i++) {
        ns = MAX(ns, bucket_wait_ns(&group->bucket[kinds_of[direction][i]]));
    }
    return ns;
}

static void account(struct block_throttle_group *group, const struct block_request *request)
{
    enum direction direction = direction_of(request);
    bool has_data = request->op == BLOCK_READ || request->op == BLOCK_WRITE;
    double bytes = has_data ? (double)request->size_bytes : 0;
    double operations = 1;
    if (group->limits.operation_bytes != 0 && bytes > (double)group->limits.operation_bytes) {
        operations = bytes / (double)group->limits.operation_bytes;
    }
    for (unsigned i = 0; i < 4; i++) {
        bucket_add(&group->bucket[kinds_of[direction][i]], i < 2 ? bytes : operations);
    }
}

static struct block_request *pop(struct throttle *throttle, enum direction direction)
{
    struct queue *queue = &throttle->queue[direction];
    struct block_request *request = queue->first;
    queue->first = request->next;
    if (queue->first == NULL) {
        queue->last = &queue->first;
    }
    throttle->group->waiting--;
    return request;
}

/* The next member that has something to do; each has its turn. */
static struct throttle *next_member(struct block_throttle_group *group, enum direction direction)
{
    struct throttle *start = group->turn[direction], *at = start;
    while (at != NULL && at->queue[direction].first == NULL) {
        at = at->next != start ? at->next : NULL;
    }
    if (at != NULL) {
        group->turn[direction] = at->next;
    }
    return at;
}

static bool has_waiting(const struct block_throttle_group *group, enum direction direction)
{
    const struct throttle *start = group->turn[direction], *at = start;
    while (at != NULL) {
        if (at->queue[direction].first != NULL) {
            return true;
        }
        at = at->next != start ? at->next : NULL;
    }
    return false;
}

uint64_t block_throttle_deadline(const struct block_throttle_group *group)
{
    uint64_t ns = UINT64_MAX;
    for (enum direction i = 0; i < DIRECTIONS; i++) {
        if (has_waiting(group, i)) {
            ns = MIN(ns, group->leaked_ns + wait_ns(group, i));
        }
    }
    return ns;
}

/* False: nobody waits in that direction, or may go. */
static bool run_one(struct block_throttle_group *group, enum direction direction)
{
    if (wait_ns(group, direction) != 0) {
        return false;
    }
    struct throttle *member = next_member(group, direction);
    if (member == NULL) {
        return false;
    }
    struct block_request *request = pop(member, direction);
    account(group, request);
    filter_forward(&member->filter, request);
    return true;
}

/* What a request's end leads to may come back here: then the outer call goes on. */
static void run_group(struct block_throttle_group *group)
{
    if (group->is_running) {
        group->runs_again = true;
        return;
    }
    group->is_running = true;
    group->holders++; /* the last member may be closed meanwhile */
    do {
        group->runs_again = false;
        leak(group);
        /* In turn: what counts for both would else go to reads alone. */
        for (unsigned idle = 0; idle < DIRECTIONS;) {
            enum direction direction = group->next_direction;
            group->next_direction = direction == DIRECTION_READ ? DIRECTION_WRITE : DIRECTION_READ;
            idle = run_one(group, direction) ? 0 : idle + 1;
        }
    } while (group->runs_again);
    group->is_running = false;
    if (group->is_timer_real) {
        if (group->waiting > 0) {
            event_timer_arm(group->timer, block_throttle_deadline(group));
        } else {
            event_timer_disarm(group->timer);
        }
    }
    block_throttle_put(group);
}

void block_throttle_poll(struct block_throttle_group *group)
{
    run_group(group);
}

static void timer_fired(void *ctx)
{
    run_group(ctx);
}

int block_throttle_create(const struct block_throttle_limits *limits, struct event_loop *loop,
                          block_clock_fn clock, void *ctx, struct block_throttle_group **out_group,
                          struct error *err)
{
    struct block_throttle_group *group = calloc(1, sizeof(*group));
    if (group == NULL) {
        return error_set_errno(err, ENOMEM, "making a throttle group");
    }
    group->holders = 1;
    group->is_timer_real = clock == NULL;
    group->clock = clock != NULL ? clock : system_clock;
    group->clock_ctx = ctx;
    group->leaked_ns = group->clock(ctx);
    int rc = event_timer_create(loop, timer_fired, group, &group->timer, err);
    if (rc < 0) {
        free(group);
        return rc;
    }
    block_throttle_set(group, limits);
    *out_group = group;
    return 0;
}

void block_throttle_put(struct block_throttle_group *group)
{
    if (group != NULL && --group->holders == 0) {
        event_timer_destroy(group->timer);
        free(group);
    }
}

void block_throttle_set(struct block_throttle_group *group,
                        const struct block_throttle_limits *limits)
{
    leak(group);
    group->limits = *limits;
    group->is_limited = false;
    for (unsigned i = 0; i < BLOCK_THROTTLE_KINDS; i++) {
        group->is_limited = group->is_limited || limits->kind[i].rate != 0;
        bucket_set(&group->bucket[i], &limits->kind[i]);
    }
    run_group(group);
}

void block_throttle_get(const struct block_throttle_group *group,
                        struct block_throttle_limits *out_limits)
{
    *out_limits = group->limits;
}

static struct throttle *throttle_from_block(struct block *block)
{
    return container_of(filter_from_block(block), struct throttle, filter);
}

static void throttle_submit(struct block *block, struct block_request *request)
{
    struct throttle *throttle = throttle_from_block(block);
    if (request->op == BLOCK_FLUSH || request->op == BLOCK_MAP || request->op == BLOCK_RESIZE) {
        filter_forward(&throttle->filter, request);
        return;
    }
    struct block_throttle_group *group = throttle->group;
    if (!group->is_limited && group->waiting == 0) {
        filter_forward(&throttle->filter, request);
        return;
    }
    struct queue *queue = &throttle->queue[direction_of(request)];
    request->next = NULL;
    *queue->last = request;
    queue->last = &request->next;
    group->waiting++;
    run_group(group);
}

/* Nobody waits for the time here: what is held back goes on, and weighs on what comes later. */
static bool throttle_let_go(struct block *block)
{
    struct throttle *throttle = throttle_from_block(block);
    bool has_any = false;
    leak(throttle->group);
    for (enum direction i = 0; i < DIRECTIONS; i++) {
        while (throttle->queue[i].first != NULL) {
            struct block_request *request = pop(throttle, i);
            account(throttle->group, request);
            filter_forward(&throttle->filter, request);
            has_any = true;
        }
    }
    return has_any;
}

static void leave(struct throttle *throttle)
{
    struct block_throttle_group *group = throttle->group;
    struct throttle *before = throttle;
    while (before->next != throttle) {
        before = before->next;
    }
    before->next = throttle->next;
    for (enum direction i = 0; i < DIRECTIONS; i++) {
        if (group->turn[i] == throttle) {
            group->turn[i] = throttle->next != throttle ? throttle->next : NULL;
        }
    }
}

static void throttle_close(struct block *block)
{
    struct throttle *throttle = throttle_from_block(block);
    leave(throttle);
    block_throttle_put(throttle->group);
    filter_fini(&throttle->filter);
    free(throttle);
}

static const struct block_ops throttle_ops = {
    .name = "throttle",
    .submit = throttle_submit,
    .let_go = throttle_let_go,
    .close = throttle_close,
};

int block_filter_throttle(struct block *below, struct block_throttle_group *group,
                          struct block **out_block, struct error *err)
{
    struct throttle *throttle = filter_new(sizeof(*throttle), &throttle_ops, below, err);
    if (throttle == NULL) {
        return -ENOMEM;
    }
    for (enum direction i = 0; i < DIRECTIONS; i++) {
        throttle->queue[i].last = &throttle->queue[i].first;
    }
    throttle->group = group;
    group->holders++;
    throttle->next = throttle;
    if (group->turn[DIRECTION_READ] != NULL) {
        throttle->next = group->turn[DIRECTION_READ]->next;
        group->turn[DIRECTION_READ]->next = throttle;
    } else {
        group->turn[DIRECTION_READ] = group->turn[DIRECTION_WRITE] = throttle;
    }
    *out_block = &throttle->filter.block;
    return 0;
}
