/* Requests on their way to a server and back, and connections that are lost and made again: see remote.h. */
#include "block/protocol/remote/remote.h"

#include <stdlib.h>
#include <string.h>

#include "base/core/bits.h"
#include "base/core/invariant.h"
#include "base/host/iov.h"

#define MAX_RANGE    (1u << 30) /* of commands without data */
#define FIRST_PAUSE  (100ull * 1000000)
#define LONGEST_WAIT (5ull * 1000000000)
#define CONNECT_TIME (20ull * 1000000000)
#define SLOW_FACTOR  10u /* a flush may have to write what a server's memory holds */

/* A request of the user, with the commands that it has become. */
struct remote_request {
    struct block_request *request;
    unsigned pending;
    int status;
};

static void check_time(struct remote *remote);

static struct remote *remote_from_block(const struct block *block)
{
    return container_of(block, struct remote, block);
}

void remote_list_add(struct remote_list *list, struct remote_command *command)
{
    command->next = NULL;
    command->prev = list->last;
    *(list->last != NULL ? &list->last->next : &list->first) = command;
    list->last = command;
}

void remote_list_remove(struct remote_list *list, struct remote_command *command)
{
    *(command->prev != NULL ? &command->prev->next : &list->first) = command->next;
    *(command->next != NULL ? &command->next->prev : &list->last) = command->prev;
    command->next = NULL;
    command->prev = NULL;
}

static uint64_t deadline_of(const struct remote *remote)
{
    uint64_t deadline = UINT64_MAX;
    switch (remote->state) {
    case REMOTE_CONNECTED:
        if (remote->started.first != NULL && remote->options.timeout_ns != 0 &&
            !remote->has_own_timeouts) {
            uint64_t since = MAX(remote->started.first->started_ns, remote->last_answer_ns);
            deadline =
                since + remote->options.timeout_ns * (remote->slow_count > 0 ? SLOW_FACTOR : 1);
        }
        return deadline;
    case REMOTE_CONNECTING:
        if (!remote->has_own_timeouts) {
            deadline = remote->connect_started_ns + CONNECT_TIME;
        }
        break;
    case REMOTE_WAITING:
        deadline = remote->next_try_ns;
        break;
    case REMOTE_DEAD:
        return deadline;
    }
    if (remote->was_connected && !remote->is_given_up) {
        deadline = MIN(deadline, remote->lost_ns + remote->options.reconnect_ns);
    }
    return deadline;
}

/* A timer that comes too early does no harm: most requests leave it alone. */
static void arm(struct remote *remote)
{
    uint64_t deadline = deadline_of(remote);
    if (deadline < remote->armed_ns) {
        remote->armed_ns = deadline;
        event_timer_arm(remote->timer, deadline);
    }
}

static void timer_fired(void *ctx)
{
    struct remote *remote = ctx;
    remote->armed_ns = UINT64_MAX;
    check_time(remote);
}

/* An answer of any granularity, as the block above wants it: whole blocks, and what pads the end belongs to the last one. */
static void round_extent(const struct remote *remote, const struct block_request *users)
{
    struct block_extent *extent = users->extent;
    uint32_t unit = remote->block.info.logical_block_size;
    uint64_t end = users->offset_bytes + extent->size_bytes;
    extent->size_bytes = end >= remote->info.size_bytes ? align_up(extent->size_bytes, unit)
                                                        : align_down(extent->size_bytes, unit);
    if (extent->size_bytes == 0) { /* a block of several kinds */
        extent->kind = BLOCK_EXTENT_DATA;
        extent->size_bytes = unit;
    }
}

/* The end of a command that no server has. */
static void finish(struct remote *remote, struct remote_command *command, int status)
{
    struct remote_request *request = command->request;
    if (command->owns_data) {
        if (command->op == BLOCK_READ && status == 0) {
            iov_put(request->request->iov, request->request->iov_count, command->vector_offset,
                    command->data, (size_t)command->size_bytes);
        }
        free(command->data);
    }
    free(command->write);
    free(command);
    if (request == NULL) {
        return;
    }
    if (request->status == 0) {
        request->status = status;
    }
    if (--request->pending == 0) {
        struct block_request *users = request->request;
        status = request->status;
        free(request);
        if (users->op == BLOCK_MAP && status == 0) {
            round_extent(remote, users);
        }
        block_complete(&remote->block, users, status);
    }
}

static void fail_queued(struct remote *remote)
{
    while (remote->queued.first != NULL) {
        struct remote_command *command = remote->queued.first;
        remote_list_remove(&remote->queued, command);
        finish(remote, command, -ETIMEDOUT);
    }
}

/* Its data: the server gets what it was at this moment, each time that it is sent. */
static int prepare(struct remote *remote, struct remote_command *command)
{
    if (command->request == NULL || command->data != NULL || command->write != NULL) {
        return 0;
    }
    const struct block_request *users = command->request->request;
    bool is_write = command->op == BLOCK_WRITE || command->op == BLOCK_WRITE_ZEROES;
    if (is_write && remote_journal_is_needed(remote)) {
        command->write = remote_write_new(remote, users, command->vector_offset,
                                          command->offset_bytes, command->size_bytes);
        if (command->write == NULL) {
            return -ENOMEM;
        }
    }
    if (command->op == BLOCK_WRITE_ZEROES && !remote->info.has_write_zeroes) {
        command->op = BLOCK_WRITE;
        command->owns_data = true;
        command->data = calloc(1, (size_t)command->size_bytes);
        return command->data != NULL ? 0 : -ENOMEM;
    }
    if (command->op != BLOCK_READ && command->op != BLOCK_WRITE) {
        return 0;
    }
    if (command->write != NULL) {
        command->data = command->write->data;
    } else if (users->iov_count == 1) {
        command->data = (uint8_t *)users->iov[0].iov_base + command->vector_offset;
    } else {
        command->data = malloc((size_t)command->size_bytes);
        if (command->data == NULL) {
            return -ENOMEM;
        }
        command->owns_data = true;
        if (command->op == BLOCK_WRITE) {
            iov_get(users->iov, users->iov_count, command->vector_offset, command->data,
                    (size_t)command->size_bytes);
        }
    }
    return 0;
}

static bool is_slow(const struct remote_command *command)
{
    return command->op == BLOCK_FLUSH || command->op == BLOCK_DISCARD ||
           command->op == BLOCK_WRITE_ZEROES;
}

static void start(struct remote *remote, struct remote_command *command)
{
    command->started_ns = clock_monotonic_ns();
    command->covers = remote->journal.last_number;
    command->driver = NULL;
    remote_list_add(&remote->started, command);
    remote->started_count++;
    remote->slow_count += is_slow(command);
    remote->replay_count += command->is_replay;
    remote->ops->start(remote, command);
}

static bool start_replay(struct remote *remote)
{
    struct remote_write *write = remote_journal_next(remote);
    struct remote_command *command = write != NULL ? calloc(1, sizeof(*command)) : NULL;
    if (command == NULL) {
        if (write != NULL) {
            remote->journal.replay = write; /* no memory: when the next one is done */
        }
        return false;
    }
    command->is_replay = true;
    command->op = write->is_zeroes ? BLOCK_WRITE_ZEROES : BLOCK_WRITE;
    command->may_unmap = write->may_unmap;
    command->offset_bytes = write->offset_bytes;
    command->size_bytes = write->size_bytes;
    command->data = write->is_zeroes ? NULL : write->data;
    if (write->is_zeroes && !remote->info.has_write_zeroes) {
        command->op = BLOCK_WRITE;
        command->data = calloc(1, (size_t)write->size_bytes);
        command->owns_data = true;
        if (command->data == NULL) {
            free(command);
            remote->journal.replay = write;
            return false;
        }
    }
    start(remote, command);
    return true;
}

static bool writes(const struct remote_command *command)
{
    return command->op == BLOCK_WRITE || command->op == BLOCK_WRITE_ZEROES;
}

static bool start_queued(struct remote *remote)
{
    struct remote_command *command = remote->queued.first;
    bool is_full = remote_journal_is_full(remote);
    while (command != NULL && is_full && writes(command)) {
        command = command->next;
    }
    if (command == NULL) {
        return false;
    }
    remote_list_remove(&remote->queued, command);
    int rc = prepare(remote, command);
    if (rc < 0) {
        finish(remote, command, rc);
    } else {
        start(remote, command);
    }
    return true;
}

/* A flush that nobody asked for, so that less is kept. */
static void shorten_journal(struct remote *remote)
{
    if (remote->journal.is_flushing || !remote_journal_is_long(remote)) {
        return;
    }
    struct remote_command *command = calloc(1, sizeof(*command));
    if (command != NULL) { /* else at the next occasion */
        command->op = BLOCK_FLUSH;
        remote->journal.is_flushing = true;
        start(remote, command);
    }
}

static void pump(struct remote *remote)
{
    if (remote->is_pumping) {
        return; /* it looks again */
    }
    remote->is_pumping = true;
    while (remote->state == REMOTE_CONNECTED &&
           remote->started_count < remote->info.max_in_flight) {
        if (remote->journal.replay != NULL) {
            if (!start_replay(remote)) {
                break;
            }
            continue;
        }
        if (remote->replay_count > 0) {
            break;
        }
        shorten_journal(remote);
        if (!start_queued(remote)) {
            break;
        }
    }
    remote->is_pumping = false;
    arm(remote);
}

void remote_done(struct remote *remote, struct remote_command *command, int status)
{
    remote_list_remove(&remote->started, command);
    remote->started_count--;
    remote->slow_count -= is_slow(command);
    remote->replay_count -= command->is_replay;
    remote->last_answer_ns = clock_monotonic_ns();
    remote->has_progress = true;
    bool is_own_flush = command->op == BLOCK_FLUSH && command->request == NULL;
    if (command->is_replay && status < 0) {
        log_limited(&remote->log_limit, LOG_LEVEL_ERROR,
                    "disk %s: a write of before the connection was lost cannot be done again: %s",
                    remote->block.name, strerror(-status));
        remote->journal.flush_status = status;
    }
    if (command->op == BLOCK_FLUSH) {
        if (status == 0 || is_own_flush) {
            remote_journal_drop(remote, command->covers, is_own_flush);
        }
        if (is_own_flush) {
            remote->journal.is_flushing = false;
            remote->journal.flush_status = status < 0 ? status : remote->journal.flush_status;
        } else if (status == 0) {
            status = remote->journal.flush_status;
            remote->journal.flush_status = 0;
        }
    }
    if (command->write != NULL && status == 0) {
        if (command->data == command->write->data) {
            command->data = NULL;
        }
        remote_journal_add(remote, command->write);
        command->write = NULL;
    }
    finish(remote, command, status);
    pump(remote);
}

/* There is no way back: everything fails from now on. */
static void die(struct remote *remote)
{
    remote->state = REMOTE_DEAD;
    remote->is_given_up = true;
    remote_journal_drop(remote, UINT64_MAX, false);
    fail_queued(remote);
}

/* What the server had and did not answer goes to the front, in the old order; but a request that was sent again and again, for
 * as long as one waits for a server, may be what it fails at. */
static void take_back(struct remote *remote)
{
    uint64_t now = clock_monotonic_ns();
    struct remote_list hopeless = {0};
    remote->started_count = 0;
    remote->slow_count = 0;
    remote->replay_count = 0;
    remote->journal.replay = NULL;
    while (remote->started.last != NULL) {
        struct remote_command *command = remote->started.last;
        remote_list_remove(&remote->started, command);
        if (command->is_replay) {
            if (command->owns_data) {
                free(command->data);
            }
            free(command);
        } else if (command->request == NULL) {
            remote->journal.is_flushing = false;
            free(command);
        } else if (command->lost_ns != 0 &&
                   now >= command->lost_ns + remote->options.reconnect_ns) {
            remote_list_add(&hopeless, command);
        } else {
            command->lost_ns = command->lost_ns != 0 ? command->lost_ns : now;
            command->prev = NULL;
            command->next = remote->queued.first;
            *(command->next != NULL ? &command->next->prev : &remote->queued.last) = command;
            remote->queued.first = command;
        }
    }
    while (hopeless.first != NULL) {
        struct remote_command *command = hopeless.first;
        remote_list_remove(&hopeless, command);
        finish(remote, command, -ETIMEDOUT);
    }
}

static void give_up(struct remote *remote)
{
    if (!remote->is_given_up) {
        remote->is_given_up = true;
        log_limited(&remote->log_limit, LOG_LEVEL_WARNING,
                    "disk %s: no connection for %llu s: requests fail until there is one again: %s",
                    remote->block.name,
                    (unsigned long long)(remote->options.reconnect_ns / 1000000000),
                    remote->why.text);
    }
    fail_queued(remote);
}

/* Is it another trouble than that of before? A server that takes connections and then does nothing is as bad as none; but one
 * that nobody has asked for anything meanwhile is not to blame. */
static bool is_news(const struct remote *remote, uint64_t now)
{
    if (remote->state != REMOTE_CONNECTED || remote->has_progress || remote->lost_ns == 0) {
        return remote->state == REMOTE_CONNECTED;
    }
    if (remote->started.first == NULL) {
        return now >= remote->connected_ns + LONGEST_WAIT;
    }
    for (const struct remote_command *c = remote->started.first; c != NULL; c = c->next) {
        if (c->lost_ns != 0 || c->request == NULL) {
            return false; /* asked for on the connection of before, too */
        }
    }
    return true;
}

void remote_lost(struct remote *remote, const struct error *why)
{
    if (remote->state == REMOTE_DEAD) {
        return;
    }
    uint64_t now = clock_monotonic_ns();
    bool is_other_trouble = is_news(remote, now);
    remote->why = *why;
    remote->ops->disconnect(remote);
    remote->state = REMOTE_WAITING;
    take_back(remote);
    if (!remote->was_connected) {
        return; /* remote_open tells of it */
    }
    if (remote->is_single) {
        log_limited(&remote->log_limit, LOG_LEVEL_WARNING, "disk %s: %s", remote->block.name,
                    why->text);
        die(remote);
        return;
    }
    if (is_other_trouble) {
        log_limited(&remote->log_limit, LOG_LEVEL_WARNING, "disk %s: %s: trying to connect again",
                    remote->block.name, why->text);
        remote->lost_ns = now;
        remote->pause_ns = 0;
        remote->next_try_ns = now;
    } else {
        remote->pause_ns = MIN(MAX(2 * remote->pause_ns, FIRST_PAUSE), LONGEST_WAIT);
        remote->next_try_ns = now + remote->pause_ns;
    }
    if (now >= remote->lost_ns + remote->options.reconnect_ns) {
        give_up(remote);
    }
    arm(remote);
}

static int check_same(const struct remote *remote, const struct remote_info *info,
                      struct error *err)
{
    const struct remote_info *old = &remote->info;
    if (info->size_bytes != old->size_bytes) {
        return error_set(err, ESTALE, "its size is %llu bytes now and was %llu",
                         (unsigned long long)info->size_bytes, (unsigned long long)old->size_bytes);
    }
    if (strcmp(info->identity, old->identity) != 0) {
        return error_set(err, ESTALE, "its content has changed");
    }
    if (info->is_readonly && !remote->block.info.is_readonly) {
        return error_set(err, EROFS, "it is read-only now");
    }
    if (info->block_size > old->block_size || info->max_size < old->max_size ||
        (old->has_flush && !info->has_flush)) {
        return error_set(err, ESTALE, "the server can do less than before");
    }
    return 0;
}

void remote_connected(struct remote *remote, const struct remote_info *info)
{
    struct error err;
    if (remote->was_connected) {
        int rc = check_same(remote, info, &err);
        if (rc < 0) {
            log_limited(&remote->log_limit, LOG_LEVEL_ERROR, "disk %s: not used any more: %s",
                        remote->block.name, err.text);
            remote->ops->disconnect(remote);
            remote->why = err;
            die(remote);
            return;
        }
        log_limited(&remote->log_limit, LOG_LEVEL_WARNING, "disk %s: connected again",
                    remote->block.name);
    }
    remote->info = *info;
    remote->state = REMOTE_CONNECTED;
    remote->was_connected = true;
    remote->is_given_up = false;
    remote->has_progress = false;
    remote->connected_ns = clock_monotonic_ns();
    remote_journal_begin_replay(remote);
    pump(remote);
}

static void check_time(struct remote *remote)
{
    uint64_t now = clock_monotonic_ns();
    struct error err;
    if (remote->state == REMOTE_CONNECTED) {
        if (now >= deadline_of(remote)) {
            (void)error_set(&err, ETIMEDOUT, "no answer for %llu s",
                            (unsigned long long)(remote->options.timeout_ns / 1000000000));
            remote_lost(remote, &err);
        }
    } else if (remote->state == REMOTE_CONNECTING && !remote->has_own_timeouts &&
               now >= remote->connect_started_ns + CONNECT_TIME) {
        (void)error_set(&err, ETIMEDOUT, "connecting: no answer");
        remote_lost(remote, &err);
    } else if (remote->state == REMOTE_WAITING && remote->was_connected &&
               now >= remote->next_try_ns) {
        remote->state = REMOTE_CONNECTING;
        remote->connect_started_ns = now;
        remote->ops->connect(remote);
    }
    if ((remote->state == REMOTE_WAITING || remote->state == REMOTE_CONNECTING) &&
        remote->was_connected && !remote->is_given_up &&
        now >= remote->lost_ns + remote->options.reconnect_ns) {
        give_up(remote);
    }
    arm(remote);
}

/* One command of the request, or several. */
static int add_commands(struct remote *remote, struct remote_request *request,
                        struct remote_list *list)
{
    const struct block_request *users = request->request;
    bool has_data = users->op == BLOCK_READ || users->op == BLOCK_WRITE ||
                    (users->op == BLOCK_WRITE_ZEROES && !remote->info.has_write_zeroes);
    uint64_t most = has_data ? remote->info.max_size : MAX_RANGE;
    uint64_t size = users->op == BLOCK_FLUSH ? 0 : users->size_bytes;
    if (users->op == BLOCK_MAP) {
        size = MIN(size, most);
    }
    if (users->op != BLOCK_FLUSH && users->offset_bytes + size > remote->info.size_bytes) {
        /* A disk with a part of a sector at its end, which is only read. */
        size = remote->info.size_bytes - users->offset_bytes;
        if (users->op == BLOCK_READ) {
            iov_zero(users->iov, users->iov_count, size, users->size_bytes - size);
        }
    }
    for (uint64_t at = 0; at < size || (at == 0 && size == 0); at += most) {
        struct remote_command *command = calloc(1, sizeof(*command));
        if (command == NULL) {
            return -ENOMEM;
        }
        command->op = users->op;
        command->may_unmap = users->may_unmap;
        command->offset_bytes = users->offset_bytes + at;
        command->size_bytes = MIN(size - at, most);
        command->vector_offset = at;
        command->extent = users->extent;
        command->request = request;
        request->pending++;
        remote_list_add(list, command);
    }
    return 0;
}

void remote_submit(struct block *block, struct block_request *users)
{
    struct remote *remote = remote_from_block(block);
    if (remote->is_given_up) {
        block_complete(block, users, -ETIMEDOUT);
        return;
    }
    if ((users->op == BLOCK_FLUSH && !remote->info.has_flush) ||
        (users->op == BLOCK_DISCARD && !remote->info.has_discard)) {
        block_complete(block, users, 0); /* nothing is promised; a discard is a hint */
        return;
    }
    if (users->op == BLOCK_MAP && !remote->info.has_map) {
        *users->extent = (struct block_extent){.kind = BLOCK_EXTENT_DATA,
                                               .has_offset = true,
                                               .file_offset = users->offset_bytes,
                                               .size_bytes = users->size_bytes};
        block_complete(block, users, 0);
        return;
    }
    struct remote_request *request = calloc(1, sizeof(*request));
    struct remote_list list = {0};
    int rc = -ENOMEM;
    if (request != NULL) {
        request->request = users;
        rc = add_commands(remote, request, &list);
    }
    if (rc < 0) {
        while (list.first != NULL) {
            struct remote_command *command = list.first;
            remote_list_remove(&list, command);
            free(command);
        }
        free(request);
        block_complete(block, users, rc);
        return;
    }
    while (list.first != NULL) {
        struct remote_command *command = list.first;
        remote_list_remove(&list, command);
        remote_list_add(&remote->queued, command);
    }
    pump(remote);
}

/* Milliseconds until there is something to do. */
static int time_left(const struct remote *remote)
{
    uint64_t now = clock_monotonic_ns();
    uint64_t deadline = deadline_of(remote);
    return deadline == UINT64_MAX ? -1
           : deadline <= now      ? 0
                                  : (int)MIN((deadline - now + 999999) / 1000000, 60000u);
}

void remote_wait(struct block *block)
{
    struct remote *remote = remote_from_block(block);
    remote->ops->wait(remote, time_left(remote));
    check_time(remote);
}

const char *remote_aio_name(const struct block *block)
{
    return remote_from_block(block)->ops->block.name;
}

int remote_finish(struct block *block, struct error *err)
{
    struct remote *remote = remote_from_block(block);
    if (remote->block.info.is_readonly || !remote->info.has_flush ||
        (remote->journal.first == NULL && remote->journal.flush_status == 0)) {
        return 0;
    }
    int rc = block_flush(block);
    return rc < 0 ? error_set_errno(err, -rc, "disk %s: making it durable", block->name) : 0;
}

void remote_close(struct block *block)
{
    struct remote *remote = remote_from_block(block);
    remote->ops->disconnect(remote);
    remote->ops->close(remote);
    event_timer_destroy(remote->timer);
    remote_journal_drop(remote, UINT64_MAX, false);
    block_fini(block);
    free(remote);
}

void *remote_new(size_t size, const struct remote_ops *ops, const char *name,
                 const struct block_remote_options *options, struct event_loop *loop,
                 struct error *err)
{
    char people[256];
    struct remote *remote =
        block_new(size, &ops->block, block_uri_for_people(name, people, sizeof(people)), loop, err);
    if (remote == NULL) {
        return NULL;
    }
    remote->ops = ops;
    remote->options = *options;
    remote->armed_ns = UINT64_MAX;
    remote->log_limit = (struct log_limit)LOG_LIMIT(20);
    if (event_timer_create(loop, timer_fired, remote, &remote->timer, err) < 0) {
        block_fini(&remote->block);
        free(remote);
        return NULL;
    }
    return remote;
}

static int take_info(struct remote *remote, struct error *err)
{
    const struct remote_info *server = &remote->info;
    struct block_info *info = &remote->block.info;
    bool is_readonly = remote->options.is_readonly;
    const char *name = remote->block.name;
    uint32_t unit = MAX(server->block_size, 512u);
    if (!is_power_of_two(server->block_size) || server->block_size > 4096) {
        return error_set(err, EINVAL, "disk %s: blocks of %u bytes: up to 4096 are accepted", name,
                         server->block_size);
    }
    if (server->size_bytes > BLOCK_MAX_SIZE) {
        return error_set(err, EFBIG, "disk %s: too large", name);
    }
    if (server->is_readonly && !is_readonly) {
        return error_set(err, EROFS, "disk %s: the server lets nobody write to it", name);
    }
    if (!is_readonly && server->size_bytes % unit != 0) {
        return error_set(err, EINVAL,
                         "disk %s: its %llu bytes are no multiple of %u: it can only be read", name,
                         (unsigned long long)server->size_bytes, unit);
    }
    *info = (struct block_info){
        .size_bytes = align_up(server->size_bytes, unit),
        .logical_block_size = unit,
        .physical_block_size = MAX(server->physical_block_size, MAX(unit, 512u)),
        .is_readonly = is_readonly,
        .can_discard = !is_readonly && server->has_discard,
        .can_write_zeroes = !is_readonly,
    };
    return 0;
}

int remote_open(struct remote *remote, struct block **out_block, struct error *err)
{
    remote->state = REMOTE_CONNECTING;
    remote->connect_started_ns = clock_monotonic_ns();
    remote->ops->connect(remote);
    while (remote->state == REMOTE_CONNECTING) {
        remote->ops->wait(remote, time_left(remote));
        check_time(remote);
    }
    int rc = remote->state == REMOTE_CONNECTED ? take_info(remote, err)
                                               : error_set(err, remote->why.code, "disk %s: %s",
                                                           remote->block.name, remote->why.text);
    if (rc < 0) {
        remote_close(&remote->block);
        return rc;
    }
    *out_block = &remote->block;
    return 0;
}

int block_remote_for_format(struct block **io_block, struct error *err)
{
    struct remote *remote = remote_from_block(*io_block);
    struct block_info *info = &remote->block.info;
    invariant((*io_block)->ops->submit == remote_submit && (*io_block)->in_flight == 0);
    if (remote->info.block_size != 1) {
        return remote_align(*io_block, io_block, err);
    }
    info->logical_block_size = 1;
    info->size_bytes = remote->info.size_bytes;
    return 0;
}

static void give_up_one(struct remote *remote)
{
    remote->options.reconnect_ns = 0;
    if (remote->state == REMOTE_WAITING || remote->state == REMOTE_CONNECTING) {
        remote->is_given_up = true;
        fail_queued(remote);
    }
}

static void abandon_one(struct remote *remote)
{
    if (remote->state != REMOTE_DEAD) {
        remote->ops->disconnect(remote);
        take_back(remote);
        die(remote);
    }
}

static void each_remote(struct block *block, void (*fn)(struct remote *remote))
{
    if (block == NULL) {
        return;
    }
    if (block->ops->submit == remote_submit) {
        fn(remote_from_block(block));
        return;
    }
    each_remote(block->file, fn);
    each_remote(block->data_file, fn);
    each_remote(block->backing, fn);
    for (unsigned i = 0; i < block->extent_count; i++) {
        each_remote(block->extent[i], fn);
    }
}

void block_remote_give_up(struct block *block)
{
    each_remote(block, give_up_one);
}

void block_remote_abandon(struct block *block)
{
    each_remote(block, abandon_one);
}
