/* NBD by libnbd: its asynchronous interface on the event loop. */
#include <errno.h>
#include <libnbd.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>

#include "base/host/library.h"
#include "block/protocol/remote/protocols.h"
#include "block/protocol/remote/remote.h"

#define CONTEXT       "base:allocation" /* what NBD's specification calls the map of data and holes */
#define STATE_HOLE    1u
#define STATE_ZERO    2u
#define MAX_IN_FLIGHT 64
#define MAX_DATA      (1u << 20) /* of a command: large ones in parallel beat a huge one */
#define MAX_EXTENTS   4096
#define MAX_NOTIFIES  64 /* answers that are taken before others of the loop get their turn */

#define CALLS(X)                                                                                   \
    X(nbd_create)                                                                                  \
    X(nbd_close)                                                                                   \
    X(nbd_get_error)                                                                               \
    X(nbd_get_errno)                                                                               \
    X(nbd_set_uri_allow_local_file)                                                                \
    X(nbd_set_pread_initialize)                                                                    \
    X(nbd_add_meta_context)                                                                        \
    X(nbd_can_meta_context)                                                                        \
    X(nbd_can_flush)                                                                               \
    X(nbd_can_trim)                                                                                \
    X(nbd_can_zero)                                                                                \
    X(nbd_is_read_only)                                                                            \
    X(nbd_get_size)                                                                                \
    X(nbd_get_block_size)                                                                          \
    X(nbd_aio_connect_uri)                                                                         \
    X(nbd_aio_disconnect)                                                                          \
    X(nbd_aio_pread)                                                                               \
    X(nbd_aio_pwrite)                                                                              \
    X(nbd_aio_flush)                                                                               \
    X(nbd_aio_trim)                                                                                \
    X(nbd_aio_zero)                                                                                \
    X(nbd_aio_block_status)                                                                        \
    X(nbd_aio_get_fd)                                                                              \
    X(nbd_aio_get_direction)                                                                       \
    X(nbd_aio_notify_read)                                                                         \
    X(nbd_aio_notify_write)                                                                        \
    X(nbd_aio_is_connecting)                                                                       \
    X(nbd_aio_is_negotiating)                                                                      \
    X(nbd_aio_is_ready)                                                                            \
    X(nbd_aio_is_dead)                                                                             \
    X(nbd_aio_is_closed)

static struct {
#define DECLARE(name) __typeof__(name) *name;
    CALLS(DECLARE)
} lib;

static const struct library_symbol symbols[] = {
#define ROW(name) {#name, &lib.name},
    CALLS(ROW)};

static const struct library library = {"libnbd.so.0", "libnbd0", symbols, ARRAY_COUNT(symbols)};

struct nbd;

/* A command that libnbd has. */
struct exchange {
    struct nbd *nbd;
    struct remote_command *command;
    int status;
    struct exchange *next; /* of those that have an answer */
};

/* What the server said about a range, so that a map of many small parts takes few questions. */
struct extent_cache {
    uint64_t offset_bytes;
    struct {
        uint64_t end_bytes;
        enum block_extent_kind kind;
    } part[MAX_EXTENTS];
    unsigned count; /* 0: nothing is known */
};

struct nbd {
    struct remote remote;
    char *uri;
    struct nbd_handle *handle;
    struct event_source *source;
    int watched_fd;
    uint32_t watched_events;
    struct event_timer *kick; /* something is to be told that no descriptor tells of */
    bool is_kicked;
    bool is_serving;    /* what was just answered is told at once */
    unsigned in_flight; /* commands that libnbd has */
    bool is_closing;    /* what libnbd says now is about what nobody waits for */
    bool is_up;         /* remote_connected was called */
    bool has_failed;    /* 'failure' says how */
    struct error failure;
    struct exchange *answered, **answered_tail;
    struct extent_cache extents;
};

static struct nbd *nbd_from_remote(struct remote *remote)
{
    return container_of(remote, struct nbd, remote);
}

static void kick(struct nbd *nbd)
{
    if (!nbd->is_kicked && !nbd->is_serving) {
        nbd->is_kicked = true;
        event_timer_arm(nbd->kick, 1);
    }
}

/* libnbd's words without the name of its function. The code may be missing. */
static void note_failure(struct nbd *nbd, const char *what)
{
    if (nbd->has_failed) {
        return;
    }
    const char *text = lib.nbd_get_error();
    int code = lib.nbd_get_errno();
    const char *colon = text != NULL ? strstr(text, ": ") : NULL;
    if (colon != NULL && strncmp(text, "nbd_", 4) == 0) {
        text = colon + 2;
    }
    nbd->has_failed = true;
    (void)error_set(&nbd->failure, code > 0 ? code : EIO, "%s%s%s", what,
                    text != NULL && what[0] != '\0' ? ": " : "",
                    text != NULL ? text : "the connection ended");
}

static void serve(struct nbd *nbd);

static void fd_ready(void *ctx, int fd, uint32_t events)
{
    serve(ctx);
}

static void kicked(void *ctx)
{
    serve(ctx);
}

static void unwatch(struct nbd *nbd)
{
    event_source_remove(nbd->source);
    nbd->source = NULL;
    nbd->watched_fd = -1;
}

/* While it connects, libnbd tries one address after the other, each with a descriptor of its own and perhaps of the same
 * number, of which epoll knows nothing. */
static void watch(struct nbd *nbd)
{
    int fd = lib.nbd_aio_get_fd(nbd->handle);
    unsigned direction = lib.nbd_aio_get_direction(nbd->handle);
    uint32_t events = ((direction & LIBNBD_AIO_DIRECTION_READ) != 0 ? EPOLLIN : 0u) |
                      ((direction & LIBNBD_AIO_DIRECTION_WRITE) != 0 ? EPOLLOUT : 0u);
    if (fd < 0) {
        unwatch(nbd);
        return;
    }
    if (nbd->source != NULL && (fd != nbd->watched_fd || !nbd->is_up)) {
        unwatch(nbd);
    }
    if (nbd->source == NULL) {
        struct error err;
        if (event_loop_add_fd(nbd->remote.block.loop, fd, events, fd_ready, nbd, &nbd->source,
                              &err) < 0) {
            nbd->has_failed = true;
            nbd->failure = err;
            kick(nbd);
            return;
        }
        nbd->watched_fd = fd;
    } else if (events != nbd->watched_events) {
        event_source_set_events(nbd->source, events);
    }
    nbd->watched_events = events;
}

static void answered(struct exchange *exchange, int status)
{
    struct nbd *nbd = exchange->nbd;
    exchange->status = status;
    exchange->next = NULL;
    if (nbd->answered == NULL) {
        nbd->answered_tail = &nbd->answered;
    }
    *nbd->answered_tail = exchange;
    nbd->answered_tail = &exchange->next;
}

/* Called by libnbd, whose functions must not be called from here. */
static int command_ended(void *user_data, int *error)
{
    struct exchange *exchange = user_data;
    struct nbd *nbd = exchange->nbd;
    if (!nbd->is_closing) {
        nbd->in_flight--;
        if (*error != ENOTCONN) { /* libnbd's word for: without an answer */
            answered(exchange, -*error);
        }
        kick(nbd);
    }
    return 1; /* libnbd may forget it */
}

static enum block_extent_kind kind_of(uint32_t flags)
{
    return (flags & STATE_ZERO) == 0   ? BLOCK_EXTENT_DATA
           : (flags & STATE_HOLE) != 0 ? BLOCK_EXTENT_HOLE
                                       : BLOCK_EXTENT_ZERO;
}

static int extents_came(void *user_data, const char *context, uint64_t offset, uint32_t *entries,
                        size_t entry_count, int *error)
{
    struct exchange *exchange = user_data;
    struct nbd *nbd = exchange->nbd;
    struct extent_cache *cache = &nbd->extents;
    if (nbd->is_closing || strcmp(context, CONTEXT) != 0) {
        return 0;
    }
    cache->offset_bytes = offset;
    cache->count = 0;
    uint64_t at = offset;
    for (size_t i = 0; i + 1 < entry_count && cache->count < MAX_EXTENTS; i += 2) {
        enum block_extent_kind kind = kind_of(entries[i + 1]);
        at += entries[i];
        if (entries[i] == 0) {
            continue;
        }
        if (cache->count > 0 && cache->part[cache->count - 1].kind == kind) {
            cache->part[cache->count - 1].end_bytes = at;
        } else {
            cache->part[cache->count].end_bytes = at;
            cache->part[cache->count++].kind = kind;
        }
    }
    return 0;
}

static bool answer_from_cache(const struct nbd *nbd, const struct remote_command *command)
{
    const struct extent_cache *cache = &nbd->extents;
    if (cache->count == 0 || command->offset_bytes < cache->offset_bytes) {
        return false;
    }
    for (unsigned i = 0; i < cache->count; i++) {
        uint64_t end = cache->part[i].end_bytes;
        if (command->offset_bytes < end) {
            *command->extent = (struct block_extent){
                .kind = cache->part[i].kind,
                .has_offset = true,
                .file_offset = command->offset_bytes,
                .size_bytes = MIN(end - command->offset_bytes, command->size_bytes),
            };
            return true;
        }
    }
    return false;
}

static void tell_answers(struct nbd *nbd)
{
    while (nbd->answered != NULL) {
        struct exchange *exchange = nbd->answered;
        struct remote_command *command = exchange->command;
        int status = exchange->status;
        nbd->answered = exchange->next;
        free(exchange);
        command->driver = NULL;
        if (command->op == BLOCK_MAP && status == 0 && !answer_from_cache(nbd, command)) {
            status = -EIO; /* a server that says nothing */
        }
        if (command->op != BLOCK_MAP && command->op != BLOCK_READ && command->op != BLOCK_FLUSH) {
            nbd->extents.count = 0;
        }
        remote_done(&nbd->remote, command, status);
    }
}

static uint32_t block_size(const struct nbd *nbd, int kind, uint32_t otherwise)
{
    int64_t size = lib.nbd_get_block_size(nbd->handle, kind);
    return size <= 0 || size > UINT32_MAX ? otherwise : (uint32_t)size;
}

static void came_up(struct nbd *nbd)
{
    struct nbd_handle *handle = nbd->handle;
    int64_t size = lib.nbd_get_size(handle);
    if (size < 0) {
        note_failure(nbd, "asking for its size");
        return;
    }
    struct remote_info info = {
        .size_bytes = (uint64_t)size,
        .block_size = block_size(nbd, LIBNBD_SIZE_MINIMUM, 1),
        .physical_block_size = block_size(nbd, LIBNBD_SIZE_PREFERRED, 4096),
        .is_readonly = lib.nbd_is_read_only(handle) != 0,
        .has_flush = lib.nbd_can_flush(handle) > 0,
        .has_discard = lib.nbd_can_trim(handle) > 0,
        .has_write_zeroes = lib.nbd_can_zero(handle) > 0,
        .has_map = lib.nbd_can_meta_context(handle, CONTEXT) > 0,
        .max_in_flight = MAX_IN_FLIGHT,
    };
    if (info.physical_block_size > 65536 ||
        (info.physical_block_size & (info.physical_block_size - 1)) != 0) {
        info.physical_block_size = 4096; /* it is a hint */
    }
    /* A server that takes less than this in one command is none that the specification knows. */
    info.max_size = MAX(MIN(block_size(nbd, LIBNBD_SIZE_MAXIMUM, MAX_DATA), MAX_DATA), 4096u);
    nbd->is_up = true;
    remote_connected(&nbd->remote, &info);
}

static bool is_gone(const struct nbd *nbd)
{
    return lib.nbd_aio_is_dead(nbd->handle) > 0 || lib.nbd_aio_is_closed(nbd->handle) > 0;
}

/* What the descriptor is ready for goes to libnbd, and only that: told of data that is not there it would wait for it, and send no
 * requests meanwhile. */
static void notify(struct nbd *nbd)
{
    for (unsigned i = 0; i < MAX_NOTIFIES && !nbd->has_failed; i++) {
        struct pollfd ready = {.fd = lib.nbd_aio_get_fd(nbd->handle)};
        unsigned direction = lib.nbd_aio_get_direction(nbd->handle);
        ready.events = (short)(((direction & LIBNBD_AIO_DIRECTION_READ) != 0 ? POLLIN : 0) |
                               ((direction & LIBNBD_AIO_DIRECTION_WRITE) != 0 ? POLLOUT : 0));
        if (ready.fd < 0 || is_gone(nbd) || poll(&ready, 1, 0) <= 0) {
            return;
        }
        bool may_read = (direction & LIBNBD_AIO_DIRECTION_READ) != 0;
        int rc = may_read && (ready.revents & (POLLIN | POLLHUP | POLLERR)) != 0
                     ? lib.nbd_aio_notify_read(nbd->handle)
                     : lib.nbd_aio_notify_write(nbd->handle);
        if (rc < 0) {
            note_failure(nbd, nbd->is_up ? "connection lost" : "connecting");
        }
        if (nbd->is_up && nbd->in_flight == 0) {
            return; /* nothing more can come but its end, of which the loop will hear */
        }
    }
}

static void serve(struct nbd *nbd)
{
    struct nbd_handle *handle = nbd->handle;
    nbd->is_kicked = false;
    nbd->is_serving = true;
    if (handle != NULL) {
        notify(nbd);
        if (!nbd->is_up && !nbd->has_failed && lib.nbd_aio_is_ready(handle) > 0) {
            came_up(nbd);
        }
    }
    tell_answers(nbd);
    nbd->is_serving = false;
    if (nbd->handle != NULL && !nbd->has_failed && is_gone(nbd)) {
        nbd->has_failed = true;
        (void)error_set(&nbd->failure, ECONNRESET, "the server has closed the connection");
    }
    if (nbd->has_failed) {
        struct error why = nbd->failure;
        remote_lost(&nbd->remote, &why);
    } else if (nbd->handle != NULL) {
        watch(nbd);
    }
}

static void nbd_connect(struct remote *remote)
{
    struct nbd *nbd = nbd_from_remote(remote);
    nbd->has_failed = false;
    nbd->is_up = false;
    nbd->is_closing = false;
    nbd->in_flight = 0;
    nbd->extents.count = 0;
    nbd->handle = lib.nbd_create();
    if (nbd->handle == NULL) {
        note_failure(nbd, "");
        kick(nbd);
        return;
    }
    /* The URI is the caller's: its key file may be read. What is read in error is told as an error. */
    if (lib.nbd_set_uri_allow_local_file(nbd->handle, true) < 0 ||
        lib.nbd_set_pread_initialize(nbd->handle, false) < 0 ||
        lib.nbd_add_meta_context(nbd->handle, CONTEXT) < 0 ||
        lib.nbd_aio_connect_uri(nbd->handle, nbd->uri) < 0) {
        note_failure(nbd, "connecting");
        kick(nbd);
        return;
    }
    watch(nbd);
    kick(nbd); /* a connection may be there already */
}

static void nbd_start(struct remote *remote, struct remote_command *command)
{
    struct nbd *nbd = nbd_from_remote(remote);
    struct exchange *exchange = malloc(sizeof(*exchange));
    if (exchange == NULL) {
        /* Rare enough to make do with a new connection. */
        nbd->has_failed = true;
        (void)error_set_errno(&nbd->failure, ENOMEM, "sending a request");
        kick(nbd);
        return;
    }
    *exchange = (struct exchange){.nbd = nbd, .command = command};
    command->driver = exchange;
    nbd_completion_callback done = {.callback = command_ended, .user_data = exchange};
    nbd_extent_callback extents = {.callback = extents_came, .user_data = exchange};
    struct nbd_handle *handle = nbd->handle;
    uint64_t offset = command->offset_bytes;
    size_t size = (size_t)command->size_bytes;
    int64_t rc = -1;
    nbd->in_flight++;
    switch (command->op) {
    case BLOCK_READ:
        rc = lib.nbd_aio_pread(handle, command->data, size, offset, done, 0);
        break;
    case BLOCK_WRITE:
        rc = lib.nbd_aio_pwrite(handle, command->data, size, offset, done, 0);
        break;
    case BLOCK_FLUSH:
        rc = lib.nbd_aio_flush(handle, done, 0);
        break;
    case BLOCK_DISCARD:
        rc = lib.nbd_aio_trim(handle, size, offset, done, 0);
        break;
    case BLOCK_WRITE_ZEROES:
        rc = lib.nbd_aio_zero(handle, size, offset, done,
                              command->may_unmap ? 0 : LIBNBD_CMD_FLAG_NO_HOLE);
        break;
    case BLOCK_MAP:
        if (answer_from_cache(nbd, command)) {
            nbd->in_flight--;
            answered(exchange, 0);
            kick(nbd);
            return;
        }
        rc = lib.nbd_aio_block_status(handle, size, offset, extents, done, 0);
        break;
    case BLOCK_RESIZE:
        break;
    }
    if (rc < 0) {
        nbd->in_flight--;
        int code = lib.nbd_get_errno();
        if (is_gone(nbd) || code == ENOTCONN) {
            note_failure(nbd, "connection lost");
        } else {
            answered(exchange, code > 0 ? -code : -EIO);
        }
        kick(nbd);
        return;
    }
    watch(nbd);
}

static void nbd_disconnect(struct remote *remote)
{
    struct nbd *nbd = nbd_from_remote(remote);
    unwatch(nbd);
    if (nbd->kick != NULL) {
        event_timer_disarm(nbd->kick);
    }
    nbd->is_kicked = false;
    nbd->is_closing = true;
    if (nbd->handle != NULL) {
        if (nbd->is_up && !nbd->has_failed && remote->started.first == NULL) {
            (void)lib.nbd_aio_disconnect(nbd->handle, 0); /* politeness; the server sees the end */
        }
        lib.nbd_close(nbd->handle);
        nbd->handle = NULL;
    }
    nbd->answered = NULL;
    for (struct remote_command *command = remote->started.first; command != NULL;
         command = command->next) {
        free(command->driver);
        command->driver = NULL;
    }
}

static void nbd_wait(struct remote *remote, int timeout_ms)
{
    struct nbd *nbd = nbd_from_remote(remote);
    struct pollfd ready = {.fd = -1};
    if (nbd->handle != NULL) {
        unsigned direction = lib.nbd_aio_get_direction(nbd->handle);
        ready.fd = lib.nbd_aio_get_fd(nbd->handle);
        ready.events = (short)(((direction & LIBNBD_AIO_DIRECTION_READ) != 0 ? POLLIN : 0) |
                               ((direction & LIBNBD_AIO_DIRECTION_WRITE) != 0 ? POLLOUT : 0));
    }
    if (nbd->is_kicked || nbd->answered != NULL || poll(&ready, 1, timeout_ms) > 0) {
        serve(nbd);
    }
}

static void nbd_free(struct remote *remote)
{
    struct nbd *nbd = nbd_from_remote(remote);
    event_timer_destroy(nbd->kick);
    if (nbd->uri != NULL) {
        explicit_bzero(nbd->uri, strlen(nbd->uri));
    }
    free(nbd->uri);
}

static const struct remote_ops nbd_ops = {
    .block = REMOTE_BLOCK_OPS("nbd"),
    .connect = nbd_connect,
    .start = nbd_start,
    .disconnect = nbd_disconnect,
    .wait = nbd_wait,
    .close = nbd_free,
};

int nbd_open_uri(const char *uri, const struct block_remote_options *options,
                 struct event_loop *loop, struct block **out_block, struct error *err)
{
    int rc = library_load(&library, "NBD", err);
    if (rc < 0) {
        return rc;
    }
    struct nbd *nbd = remote_new(sizeof(*nbd), &nbd_ops, uri, options, loop, err);
    if (nbd == NULL) {
        return -ENOMEM;
    }
    nbd->watched_fd = -1;
    nbd->uri = strdup(uri);
    rc = nbd->uri == NULL ? error_set_errno(err, ENOMEM, "disk %s", nbd->remote.block.name)
                          : event_timer_create(loop, kicked, nbd, &nbd->kick, err);
    if (rc < 0) {
        remote_close(&nbd->remote.block);
        return rc;
    }
    return remote_open(&nbd->remote, out_block, err);
}
