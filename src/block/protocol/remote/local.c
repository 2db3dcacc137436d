/* NBD with hull-storage on a connected socket: as much of the protocol as Hull's own server speaks, without any library, because it
 * lives in hull-vmm. The other side is not trusted more than a server on the network. What is said first is in local_handshake.c.
 *
 * Only structured replies are asked for, and parts of a read must come in order: so it is known that all of it has come. When
 * hull-storage has ended, whoever starts it anew sends the new connection through a channel. */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/core/endian.h"
#include "block/nbd/protocol.h"
#include "block/protocol/remote/local.h"

#define MAX_IN_FLIGHT LOCAL_MAX_IN_FLIGHT
#define MAX_CHUNK     (NBD_USUAL_MAX_PAYLOAD + 64)
#define MAX_IOV       32
#define MAX_TURNS     64 /* answers that are taken before others of the loop get their turn */
#define FIRST_MS      20000
#define AGAIN_MS      5000 /* the loop waits meanwhile; the other side has said that it is ready */

/* A command that the server has, or is being sent. */
struct slot {
    struct remote_command *command; /* NULL: free */
    uint32_t serial;                /* told apart from what had the slot before */
    int status;
    uint64_t got_bytes; /* of a read */
    bool has_map;
    uint8_t header[NBD_REQUEST_SIZE];
    uint64_t sent_bytes; /* of header and data */
    struct slot *next;   /* to be sent after this one */
};

enum phase {
    PHASE_HEADER, /* what simple replies and chunks have in common */
    PHASE_CHUNK,  /* the rest of a chunk's header */
    PHASE_FIXED,  /* what its type begins with */
    PHASE_DATA,   /* of a read */
    PHASE_SKIP,   /* texts, further extents */
};

struct local {
    struct remote remote;
    int fd; /* -1: closed */
    struct event_source *source;
    /* Where new connections come from, -1: they do not; watched while one is waited for. */
    int channel;
    struct event_source *channel_source;
    bool waits_for_room;
    struct event_timer *kick;
    bool is_kicked, is_up, has_failed;
    struct error failure;
    struct remote_info info;
    uint32_t context_id;
    struct slot slot[MAX_IN_FLIGHT];
    uint32_t last_serial;
    struct slot *unsent, **unsent_tail;
    /* The reply that is being read. */
    enum phase phase;
    uint8_t head[32];
    uint8_t *into;
    size_t wanted, got;
    uint32_t chunk_flags, chunk_type, left; /* bytes of the chunk that are not read yet */
    struct slot *current;
};

static struct local *local_from_remote(struct remote *remote)
{
    return container_of(remote, struct local, remote);
}

static void kick(struct local *local)
{
    if (!local->is_kicked) {
        local->is_kicked = true;
        event_timer_arm(local->kick, 1);
    }
}

static void fail(struct local *local, int code, const char *text)
{
    if (!local->has_failed) {
        local->has_failed = true;
        (void)error_set(&local->failure, code, "hull-storage: %s", text);
        kick(local);
    }
}

/* --- Sending --- */

static void set_events(struct local *local)
{
    bool waits = local->unsent != NULL;
    if (local->source != NULL && waits != local->waits_for_room) {
        local->waits_for_room = waits;
        event_source_set_events(local->source, EPOLLIN | (waits ? EPOLLOUT : 0u));
    }
}

static uint64_t message_size(const struct slot *slot)
{
    return NBD_REQUEST_SIZE + (slot->command->op == BLOCK_WRITE ? slot->command->size_bytes : 0);
}

/* As much as there is room for, several messages at a time. */
static void send_more(struct local *local)
{
    while (local->unsent != NULL && !local->has_failed) {
        struct iovec iov[MAX_IOV];
        int count = 0;
        for (struct slot *slot = local->unsent; slot != NULL && count + 2 <= MAX_IOV;
             slot = slot->next) {
            uint64_t sent = slot->sent_bytes;
            if (sent < NBD_REQUEST_SIZE) {
                iov[count++] = (struct iovec){slot->header + sent, NBD_REQUEST_SIZE - (size_t)sent};
                sent = NBD_REQUEST_SIZE;
            }
            if (sent < message_size(slot)) {
                iov[count++] = (struct iovec){slot->command->data + (sent - NBD_REQUEST_SIZE),
                                              (size_t)(message_size(slot) - sent)};
            }
        }
        struct msghdr message = {.msg_iov = iov, .msg_iovlen = (size_t)count};
        ssize_t n = sendmsg(local->fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0) {
            if (errno != EAGAIN) {
                fail(local, ECONNRESET, "it has ended");
            }
            break;
        }
        for (uint64_t left = (uint64_t)n; left > 0 && local->unsent != NULL;) {
            struct slot *slot = local->unsent;
            uint64_t part = MIN(left, message_size(slot) - slot->sent_bytes);
            slot->sent_bytes += part;
            left -= part;
            if (slot->sent_bytes == message_size(slot)) {
                local->unsent = slot->next;
            }
        }
    }
    if (local->unsent == NULL) {
        local->unsent_tail = &local->unsent;
    }
    set_events(local);
}

static void local_start(struct remote *remote, struct remote_command *command)
{
    static const uint16_t types[] = {
        [BLOCK_READ] = NBD_CMD_READ,        [BLOCK_WRITE] = NBD_CMD_WRITE,
        [BLOCK_FLUSH] = NBD_CMD_FLUSH,      [BLOCK_DISCARD] = NBD_CMD_TRIM,
        [BLOCK_MAP] = NBD_CMD_BLOCK_STATUS, [BLOCK_WRITE_ZEROES] = NBD_CMD_WRITE_ZEROES,
    };
    struct local *local = local_from_remote(remote);
    uint32_t i = 0;
    while (local->slot[i].command != NULL) {
        i++; /* there are as many as commands may be in flight */
    }
    struct slot *slot = &local->slot[i];
    *slot = (struct slot){.command = command, .serial = ++local->last_serial};
    uint16_t flags = command->op == BLOCK_WRITE_ZEROES && !command->may_unmap ? NBD_CMD_FLAG_NO_HOLE
                     : command->op == BLOCK_MAP                               ? NBD_CMD_FLAG_REQ_ONE
                                                                              : 0;
    be32_put(slot->header, NBD_REQUEST_MAGIC);
    be16_put(slot->header + 4, flags);
    be16_put(slot->header + 6, types[command->op]);
    be64_put(slot->header + 8, (uint64_t)slot->serial << 8 | i);
    be64_put(slot->header + 16, command->offset_bytes);
    be32_put(slot->header + 24, (uint32_t)command->size_bytes);
    if (local->unsent == NULL) {
        local->unsent_tail = &local->unsent;
    }
    *local->unsent_tail = slot;
    local->unsent_tail = &slot->next;
    send_more(local);
}

/* --- Replies --- */

static void expect(struct local *local, enum phase phase, void *into, size_t size)
{
    local->phase = phase;
    local->into = into;
    local->wanted = size;
    local->got = 0;
}

static void expect_reply(struct local *local)
{
    local->current = NULL;
    expect(local, PHASE_HEADER, local->head, NBD_SIMPLE_SIZE);
}

static struct slot *find_slot(struct local *local, uint64_t cookie)
{
    struct slot *slot = (cookie & 0xff) < MAX_IN_FLIGHT ? &local->slot[cookie & 0xff] : NULL;
    /* One that is not sent yet cannot have an answer. */
    return slot != NULL && slot->command != NULL && cookie >> 8 == slot->serial &&
                   slot->sent_bytes == message_size(slot)
               ? slot
               : NULL;
}

static int errno_of(uint32_t error)
{
    static const uint32_t known[] = {NBD_EPERM,  NBD_EIO,       NBD_ENOMEM, NBD_EINVAL,
                                     NBD_ENOSPC, NBD_EOVERFLOW, NBD_ENOTSUP};
    for (size_t i = 0; i < ARRAY_COUNT(known); i++) {
        if (error == known[i]) {
            return -(int)error; /* the numbers are Linux's */
        }
    }
    return -EIO;
}

static void end_command(struct local *local, struct slot *slot)
{
    struct remote_command *command = slot->command;
    int status = slot->status;
    if (status == 0 && ((command->op == BLOCK_READ && slot->got_bytes != command->size_bytes) ||
                        (command->op == BLOCK_MAP && !slot->has_map))) {
        fail(local, EPROTO, "a reply is not whole");
        return;
    }
    slot->command = NULL;
    expect_reply(local);
    remote_done(&local->remote, command, status);
}

/* All of a chunk is read. */
static void end_chunk(struct local *local)
{
    if ((local->chunk_flags & NBD_REPLY_FLAG_DONE) != 0) {
        end_command(local, local->current);
    } else {
        expect_reply(local);
    }
}

static void skip(struct local *local)
{
    if (local->left == 0) {
        end_chunk(local);
    } else {
        expect(local, PHASE_SKIP, local->head, MIN(local->left, sizeof(local->head)));
    }
}

static void take_header(struct local *local)
{
    uint32_t magic = be32_get(local->head);
    if (magic == NBD_STRUCTURED_MAGIC) {
        local->phase = PHASE_CHUNK;
        local->wanted = NBD_CHUNK_SIZE; /* 'got' goes on */
        return;
    }
    struct slot *slot = find_slot(local, be64_get(local->head + 8));
    uint32_t error = be32_get(local->head + 4);
    if (magic != NBD_SIMPLE_MAGIC || slot == NULL ||
        (slot->command->op == BLOCK_READ && error == 0)) {
        fail(local, EPROTO, "a reply to nothing that was asked");
        return;
    }
    slot->status = error != 0 ? errno_of(error) : slot->status;
    end_command(local, slot);
}

static void take_chunk(struct local *local)
{
    local->chunk_flags = be16_get(local->head + 4);
    local->chunk_type = be16_get(local->head + 6);
    local->left = be32_get(local->head + 16);
    local->current = find_slot(local, be64_get(local->head + 8));
    static const struct {
        uint32_t type, fixed;
        bool is_any;
        enum block_op op;
    } types[] = {
        {NBD_REPLY_TYPE_NONE, 0, true},
        {NBD_REPLY_TYPE_OFFSET_DATA, 8, false, BLOCK_READ},
        {NBD_REPLY_TYPE_OFFSET_HOLE, 12, false, BLOCK_READ},
        {NBD_REPLY_TYPE_BLOCK_STATUS, 12, false, BLOCK_MAP},
        {NBD_REPLY_TYPE_ERROR, 6, true},
        {NBD_REPLY_TYPE_ERROR_OFFSET, 6, true},
    };
    for (size_t i = 0; local->current != NULL && i < ARRAY_COUNT(types); i++) {
        if (types[i].type == local->chunk_type &&
            (types[i].is_any || types[i].op == local->current->command->op) &&
            local->left >= types[i].fixed && local->left <= MAX_CHUNK) {
            local->left -= types[i].fixed;
            expect(local, PHASE_FIXED, local->head, types[i].fixed);
            return;
        }
    }
    fail(local, EPROTO, "a reply that makes no sense");
}

/* Where the next part of a read goes: in order, within what was asked for. */
static uint8_t *place_of(struct slot *slot, uint64_t offset, uint64_t size)
{
    const struct remote_command *command = slot->command;
    if (offset != command->offset_bytes + slot->got_bytes || size == 0 ||
        size > command->size_bytes - slot->got_bytes) {
        return NULL;
    }
    uint8_t *place = command->data + slot->got_bytes;
    slot->got_bytes += size;
    return place;
}

static void take_map(struct local *local)
{
    struct slot *slot = local->current;
    uint64_t size = be32_get(local->head + 4);
    uint32_t flags = be32_get(local->head + 8);
    if (be32_get(local->head) != local->context_id || size == 0 || slot->has_map) {
        fail(local, EPROTO, "a map of nothing");
        return;
    }
    slot->has_map = true;
    *slot->command->extent = (struct block_extent){
        .kind = (flags & NBD_STATE_ZERO) == 0   ? BLOCK_EXTENT_DATA
                : (flags & NBD_STATE_HOLE) != 0 ? BLOCK_EXTENT_HOLE
                                                : BLOCK_EXTENT_ZERO,
        .has_offset = true,
        .file_offset = slot->command->offset_bytes,
        .size_bytes = MIN(size, slot->command->size_bytes),
    };
    skip(local);
}

static void take_fixed(struct local *local)
{
    struct slot *slot = local->current;
    uint8_t *place;
    switch (local->chunk_type) {
    case NBD_REPLY_TYPE_OFFSET_DATA:
        place = place_of(slot, be64_get(local->head), local->left);
        if (place == NULL) {
            fail(local, EPROTO, "other data than was asked for");
            return;
        }
        expect(local, PHASE_DATA, place, local->left);
        local->left = 0;
        return;
    case NBD_REPLY_TYPE_OFFSET_HOLE: {
        uint32_t size = be32_get(local->head + 8);
        place = place_of(slot, be64_get(local->head), size);
        if (place == NULL || local->left != 0) {
            fail(local, EPROTO, "other data than was asked for");
            return;
        }
        memset(place, 0, size);
        end_chunk(local);
        return;
    }
    case NBD_REPLY_TYPE_BLOCK_STATUS:
        take_map(local);
        return;
    case NBD_REPLY_TYPE_NONE:
        if (local->left != 0) {
            fail(local, EPROTO, "a reply that makes no sense");
            return;
        }
        end_chunk(local);
        return;
    default: /* an error */
        slot->status = slot->status != 0 ? slot->status : errno_of(be32_get(local->head));
        skip(local);
        return;
    }
}

static void take_part(struct local *local)
{
    switch (local->phase) {
    case PHASE_HEADER:
        take_header(local);
        return;
    case PHASE_CHUNK:
        take_chunk(local);
        return;
    case PHASE_FIXED:
        take_fixed(local);
        return;
    case PHASE_DATA:
        end_chunk(local);
        return;
    case PHASE_SKIP:
        local->left -= (uint32_t)local->wanted;
        skip(local);
        return;
    }
}

static void receive(struct local *local)
{
    for (unsigned turn = 0; local->fd >= 0 && !local->has_failed;) {
        if (local->got == local->wanted) {
            take_part(local);
            continue;
        }
        if (turn == MAX_TURNS) {
            return; /* only here: what is left is in the socket, which will say so */
        }
        ssize_t n =
            recv(local->fd, local->into + local->got, local->wanted - local->got, MSG_DONTWAIT);
        if (n > 0) {
            local->got += (size_t)n;
            turn++;
        } else if (n == 0) {
            fail(local, ECONNRESET, "it has ended");
        } else if (errno != EINTR) {
            if (errno != EAGAIN) {
                fail(local, errno, "reading from it fails");
            }
            return;
        }
    }
}

/* --- Events --- */

static void serve(struct local *local)
{
    local->is_kicked = false;
    if (!local->is_up && !local->has_failed && local->fd >= 0) {
        local->is_up = true;
        remote_connected(&local->remote, &local->info);
    }
    if (local->fd >= 0 && !local->has_failed) {
        receive(local);
    }
    if (local->fd >= 0 && !local->has_failed) {
        send_more(local);
    }
    if (local->has_failed && local->fd >= 0) {
        struct error why = local->failure;
        remote_lost(&local->remote, &why);
    }
}

static void fd_ready(void *ctx, int fd, uint32_t events)
{
    serve(ctx);
}

static void kicked(void *ctx)
{
    serve(ctx);
}

static void close_channel(struct local *local)
{
    event_source_remove(local->channel_source);
    local->channel_source = NULL;
    if (local->channel >= 0) {
        close(local->channel);
    }
    local->channel = -1;
}

/* The newest connection that the channel has; -1: none. */
static int take_connection(struct local *local)
{
    int fd = -1;
    for (;;) {
        union {
            struct cmsghdr align;
            char bytes[CMSG_SPACE(sizeof(int))];
        } ancillary;
        char byte;
        struct iovec iov = {&byte, 1};
        struct msghdr message = {.msg_iov = &iov,
                                 .msg_iovlen = 1,
                                 .msg_control = &ancillary,
                                 .msg_controllen = sizeof(ancillary)};
        ssize_t n = recvmsg(local->channel, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n <= 0) {
            if (n == 0 || errno != EAGAIN) {
                close_channel(local);
                local->remote.is_single = true; /* none will come any more */
            }
            return fd;
        }
        const struct cmsghdr *part = CMSG_FIRSTHDR(&message);
        if (part != NULL && part->cmsg_level == SOL_SOCKET && part->cmsg_type == SCM_RIGHTS &&
            part->cmsg_len == CMSG_LEN(sizeof(int))) {
            if (fd >= 0) {
                close(fd); /* of one that did not live long */
            }
            memcpy(&fd, CMSG_DATA(part), sizeof(fd));
        }
    }
}

/* A connection for one that was lost, if there is one by now. */
static void connect_again(struct local *local)
{
    struct error err = {0};
    int fd = local->channel >= 0 ? take_connection(local) : -1;
    if (local->channel_source != NULL) {
        event_source_set_events(local->channel_source, fd < 0 ? EPOLLIN : 0);
    }
    if (fd < 0) {
        return;
    }
    local->fd = fd;
    local->is_up = false;
    local->has_failed = false;
    local->unsent = NULL;
    local->waits_for_room = false;
    expect_reply(local);
    int rc = local_shake_hands(fd, local->remote.options.is_for_format, AGAIN_MS,
                               &local->context_id, &local->info, &err);
    if (rc == 0) {
        rc = event_loop_add_fd(local->remote.block.loop, fd, EPOLLIN, fd_ready, local,
                               &local->source, &err);
    }
    if (rc < 0) {
        local->has_failed = true;
        local->failure = err;
    }
    kick(local);
}

static void channel_ready(void *ctx, int fd, uint32_t events)
{
    struct local *local = ctx;
    if (local->fd < 0 && local->remote.state == REMOTE_CONNECTING) {
        connect_again(local);
    } else if ((events & (EPOLLHUP | EPOLLERR)) != 0 && (events & EPOLLIN) == 0) {
        close_channel(local); /* else it would be told of again and again */
        local->remote.is_single = true;
    }
}

static void local_connect(struct remote *remote)
{
    struct local *local = local_from_remote(remote);
    if (local->fd < 0) {
        connect_again(local);
    } else {
        kick(local);
    }
}

static void local_disconnect(struct remote *remote)
{
    struct local *local = local_from_remote(remote);
    event_source_remove(local->source);
    local->source = NULL;
    if (local->kick != NULL) {
        event_timer_disarm(local->kick);
    }
    local->is_kicked = false;
    if (local->fd >= 0 && local->is_up && !local->has_failed && local->unsent == NULL) {
        uint8_t bye[NBD_REQUEST_SIZE] = {0};
        be32_put(bye, NBD_REQUEST_MAGIC);
        be16_put(bye + 6, NBD_CMD_DISC);
        /* Politeness: the end of the connection says the same. */
        (void)send(local->fd, bye, sizeof(bye), MSG_NOSIGNAL | MSG_DONTWAIT);
    }
    if (local->fd >= 0) {
        close(local->fd);
    }
    local->fd = -1;
    local->unsent = NULL;
    for (size_t i = 0; i < MAX_IN_FLIGHT; i++) {
        local->slot[i].command = NULL;
    }
}

static void local_wait(struct remote *remote, int timeout_ms)
{
    struct local *local = local_from_remote(remote);
    bool waits = local->fd < 0 && remote->state == REMOTE_CONNECTING;
    struct pollfd ready = {.fd = waits ? local->channel : local->fd,
                           .events = (short)(POLLIN | (local->unsent != NULL ? POLLOUT : 0))};
    if (!local->is_kicked && poll(&ready, 1, timeout_ms) <= 0) {
        return;
    }
    if (waits) {
        connect_again(local);
    } else {
        serve(local);
    }
}

static void local_close(struct remote *remote)
{
    struct local *local = local_from_remote(remote);
    close_channel(local);
    event_timer_destroy(local->kick);
}

static const struct remote_ops local_ops = {
    .block = REMOTE_BLOCK_OPS("nbd"),
    .connect = local_connect,
    .start = local_start,
    .disconnect = local_disconnect,
    .wait = local_wait,
    .close = local_close,
};

/* Both descriptors are owned from then on. */
static int open_connection(int fd, int channel, const char *name,
                           const struct block_remote_options *options, struct event_loop *loop,
                           struct block **out_block, struct error *err)
{
    struct local *local = remote_new(sizeof(*local), &local_ops, name, options, loop, err);
    if (local == NULL) {
        close(fd);
        if (channel >= 0) {
            close(channel);
        }
        return -ENOMEM;
    }
    local->fd = fd;
    local->channel = channel;
    local->remote.is_single = channel < 0;
    local->remote.has_own_timeouts = channel >= 0; /* a new one comes when it comes */
    expect_reply(local);
    int rc = event_timer_create(loop, kicked, local, &local->kick, err);
    if (rc == 0) {
        rc = local_shake_hands(fd, options->is_for_format, FIRST_MS, &local->context_id,
                               &local->info, err);
        rc = rc < 0 ? error_prefix(err, rc, "disk %s", local->remote.block.name) : 0;
    }
    if (rc == 0) {
        rc = event_loop_add_fd(loop, fd, EPOLLIN, fd_ready, local, &local->source, err);
    }
    if (rc == 0 && channel >= 0) {
        rc = event_loop_add_fd(loop, channel, 0, channel_ready, local, &local->channel_source, err);
    }
    if (rc < 0) {
        remote_close(&local->remote.block);
        return rc;
    }
    return remote_open(&local->remote, out_block, err);
}

int block_open_nbd_fd(int fd, const char *name, const struct block_remote_options *options,
                      struct event_loop *loop, struct block **out_block, struct error *err)
{
    return open_connection(fd, -1, name, options, loop, out_block, err);
}

int block_open_nbd_channel(int channel, const char *name,
                           const struct block_remote_options *options, struct event_loop *loop,
                           struct block **out_block, struct error *err)
{
    struct local first = {.channel = channel};
    struct pollfd ready = {.fd = channel, .events = POLLIN};
    int fd = poll(&ready, 1, FIRST_MS) > 0 ? take_connection(&first) : -1;
    if (fd < 0) {
        close_channel(&first);
        return error_set(err, ECONNRESET, "disk %s: there is no connection to hull-storage", name);
    }
    return open_connection(fd, first.channel, name, options, loop, out_block, err);
}
