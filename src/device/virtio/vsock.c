/* The device's side of virtio-vsock: packets from and to the guest, connections and their credit. */
#include "device/virtio/vsock.h"

#include <linux/virtio_ids.h>
#include <linux/virtio_vsock.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/core/endian.h"
#include "base/core/invariant.h"
#include "device/virtio/virtio.h"
#include "device/virtio/vsock_socket.h"

#define RECEIVE         0u /* queues, as the guest names them */
#define TRANSMIT        1u
#define EVENT           2u
#define QUEUE_SIZE      128u
#define CHAINS_PER_TURN 128u
#define HOST_CID        2u
#define HEADER_SIZE     44u
#define BUFFER_SIZE                                                                                \
    65536u /* what a connection holds for a slow host program: the credit of the guest */
#define MAX_CONNECTIONS 256u
#define MAX_REJECTS     64u
#define FIRST_HOST_PORT (1u << 30)
#define HOLD_NS         1000000000u
#define SHUTDOWN_BOTH   (VIRTIO_VSOCK_SHUTDOWN_RCV | VIRTIO_VSOCK_SHUTDOWN_SEND)

struct header {
    uint64_t src_cid, dst_cid;
    uint32_t src_port, dst_port, len;
    uint16_t type, op;
    uint32_t flags, buf_alloc, fwd_cnt;
};

enum connection_state {
    STATE_COMMAND,    /* a host program that has not said where to yet */
    STATE_CONNECTING, /* the guest was asked */
    STATE_CONNECTED,
};

/* What the guest is to be told, most urgent first. */
enum message {
    MESSAGE_REQUEST = 1,
    MESSAGE_RESPONSE = 2,
    MESSAGE_CREDIT_UPDATE = 4,
    MESSAGE_CREDIT_REQUEST = 8,
    MESSAGE_SHUTDOWN = 16,
    MESSAGE_RESET = 32, /* and then the connection ends */
};

struct connection {
    struct virtio_vsock *vsock;
    struct connection *next;
    enum connection_state state;
    uint32_t guest_port, host_port;
    struct vsock_line line;
    int fd;
    struct event_source *source; /* NULL after the other side hung up: reads go on without */
    unsigned messages;           /* set of enum message */
    bool is_readable;
    bool has_ended;      /* the host program sends no more: shutdown was or will be told */
    bool has_hung_up;    /* nor does it read */
    uint32_t guest_shut; /* VIRTIO_VSOCK_SHUTDOWN_*: what the guest said */
    uint32_t peer_alloc; /* the guest's buffer, and how much of what we sent it has consumed */
    uint32_t peer_fwd;
    uint32_t sent;      /* bytes to the guest, modulo 2^32 */
    uint32_t forwarded; /* bytes from the guest that reached the host program */
    uint32_t told_forwarded;
    uint8_t *buffer; /* of BUFFER_SIZE when first needed: bytes the host program has not taken */
    uint32_t buffer_start, buffer_used;
};

struct reject {
    uint32_t guest_port, host_port;
};

struct virtio_vsock {
    struct virtio_device virtio;
    uint32_t guest_cid;
    int dir_fd;
    int listener_fd;
    struct event_source *listener;
    struct connection *connections; /* oldest last; served in turn */
    unsigned connection_count;
    uint32_t next_host_port;
    struct reject reject[MAX_REJECTS]; /* resets for packets that belong to no connection */
    unsigned reject_count;
    bool must_tell_reset; /* the guest's connections did not survive: an event shall say so */
    /* Until the guest has dealt with that, or for a while, host programs wait: it would end their connections as well. */
    bool is_held;
    struct event_timer *hold_timer;
    unsigned event_buffers; /* that the guest had left then: one more says that it has */
    uint64_t packets_in, packets_out, bytes_in, bytes_out;
    struct virtqueue_chain chain;
};

static void pump(struct virtio_vsock *vsock);

static struct virtio_vsock *vsock_from_virtio(struct virtio_device *virtio)
{
    return container_of(virtio, struct virtio_vsock, virtio);
}

static void connection_free(struct connection *connection)
{
    struct virtio_vsock *vsock = connection->vsock;
    struct connection **link = &vsock->connections;
    while (*link != connection) {
        link = &(*link)->next;
    }
    *link = connection->next;
    vsock->connection_count--;
    event_source_remove(connection->source);
    close(connection->fd);
    free(connection->buffer);
    free(connection);
}

static struct connection *find(struct virtio_vsock *vsock, uint32_t guest_port, uint32_t host_port)
{
    for (struct connection *c = vsock->connections; c != NULL; c = c->next) {
        if (c->state != STATE_COMMAND && c->guest_port == guest_port && c->host_port == host_port) {
            return c;
        }
    }
    return NULL;
}

static void update_events(struct connection *connection)
{
    if (connection->source != NULL) {
        uint32_t events = connection->is_readable || connection->has_ended ? 0 : EPOLLIN;
        events |= connection->buffer_used > 0 ? EPOLLOUT : 0;
        event_source_set_events(connection->source, events);
    }
}

static void add_reject(struct virtio_vsock *vsock, uint32_t guest_port, uint32_t host_port)
{
    if (vsock->reject_count < MAX_REJECTS) { /* the transmit queue stops before */
        vsock->reject[vsock->reject_count++] = (struct reject){guest_port, host_port};
    }
}

/* Gives the host program what waits for it. False: it does not take anything any more. */
static bool flush_buffer(struct connection *connection)
{
    while (connection->buffer_used > 0) {
        size_t size = MIN(connection->buffer_used, BUFFER_SIZE - connection->buffer_start);
        ssize_t n = send(connection->fd, connection->buffer + connection->buffer_start, size,
                         MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0) {
            return errno == EAGAIN;
        }
        connection->buffer_start = (connection->buffer_start + (uint32_t)n) % BUFFER_SIZE;
        connection->buffer_used -= (uint32_t)n;
        connection->forwarded += (uint32_t)n;
    }
    return true;
}

/* After bytes went on to the host program: credit, and the end of the stream if it was that. */
static void after_flush(struct connection *connection, bool is_alive)
{
    if (!is_alive) {
        connection->messages = MESSAGE_RESET;
        connection->buffer_used = 0;
    } else if (connection->buffer_used == 0 && connection->guest_shut != 0) {
        if (connection->guest_shut == SHUTDOWN_BOTH) {
            connection->messages = MESSAGE_RESET; /* 5.10.6.5: the clean end is answered so */
        } else if ((connection->guest_shut & VIRTIO_VSOCK_SHUTDOWN_SEND) != 0) {
            (void)shutdown(connection->fd, SHUT_WR); /* gone already is as good */
        }
    }
    if (connection->forwarded - connection->told_forwarded >= BUFFER_SIZE / 2) {
        connection->messages |= MESSAGE_CREDIT_UPDATE;
    }
    update_events(connection);
}

/* The line of a program that wants to reach the guest. False: the connection is gone. */
static bool read_command(struct connection *connection)
{
    uint32_t port;
    int rc = vsock_socket_read_connect(connection->fd, &connection->line, &port);
    if (rc == -EAGAIN || rc == -EINTR) {
        return true;
    }
    if (rc < 0) {
        connection_free(connection);
        return false;
    }
    struct virtio_vsock *vsock = connection->vsock;
    connection->guest_port = port;
    do { /* fewer connections than ports: there is a free one */
        connection->host_port = vsock->next_host_port++;
        vsock->next_host_port |= FIRST_HOST_PORT;
    } while (find(vsock, port, connection->host_port) != NULL);
    connection->state = STATE_CONNECTING;
    connection->messages = MESSAGE_REQUEST;
    return true;
}

static void socket_ready(void *ctx, int fd, uint32_t events)
{
    struct connection *connection = ctx;
    struct virtio_vsock *vsock = connection->vsock;
    struct virtio_device *virtio = &vsock->virtio;
    virtio_lock(virtio);
    bool is_there = true;
    if ((events & EPOLLIN) != 0 && connection->state == STATE_COMMAND) {
        is_there = read_command(connection);
    } else if ((events & EPOLLIN) != 0) {
        connection->is_readable = true;
    }
    if (is_there && (events & (EPOLLHUP | EPOLLERR)) != 0) {
        if (connection->state == STATE_COMMAND) {
            connection_free(connection);
            is_there = false;
        } else {
            /* These cannot be masked: no more events, what is left is read by the pump. */
            event_source_remove(connection->source);
            connection->source = NULL;
            connection->has_hung_up = true;
            connection->is_readable = true;
            connection->messages |= connection->has_ended ? MESSAGE_SHUTDOWN : 0;
        }
    }
    if (is_there && (events & EPOLLOUT) != 0) {
        after_flush(connection, flush_buffer(connection));
    }
    if (is_there) {
        update_events(connection);
    }
    pump(vsock);
    virtio_unlock(virtio);
}

/* Takes over 'fd'. NULL: no room for another connection. */
static struct connection *add_connection(struct virtio_vsock *vsock, int fd)
{
    struct connection *connection =
        vsock->connection_count < MAX_CONNECTIONS ? calloc(1, sizeof(*connection)) : NULL;
    if (connection == NULL) {
        close(fd);
        return NULL;
    }
    connection->vsock = vsock;
    connection->fd = fd;
    if (event_loop_add_fd(vsock->virtio.host->loop, fd, EPOLLIN, socket_ready, connection,
                          &connection->source, NULL) < 0) {
        close(fd);
        free(connection);
        return NULL;
    }
    connection->next = vsock->connections;
    vsock->connections = connection;
    vsock->connection_count++;
    return connection;
}

static void listener_ready(void *ctx, int fd, uint32_t events)
{
    struct virtio_vsock *vsock = ctx;
    int client = accept4(fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (client >= 0) {
        virtio_lock(&vsock->virtio);
        if ((vsock->virtio.status & VIRTIO_STATUS_DRIVER_OK) == 0) {
            close(client); /* nobody is there to be reached */
        } else {
            (void)add_connection(vsock, client); /* too many: it is closed */
        }
        virtio_unlock(&vsock->virtio);
    }
}

static uint32_t peer_room(const struct connection *connection)
{
    uint32_t in_flight = connection->sent - connection->peer_fwd;
    return in_flight < connection->peer_alloc ? connection->peer_alloc - in_flight : 0;
}

static bool can_read(const struct connection *connection)
{
    return connection->state == STATE_CONNECTED && connection->is_readable &&
           !connection->has_ended && (connection->guest_shut & VIRTIO_VSOCK_SHUTDOWN_RCV) == 0;
}

/* Writes a packet's header in front of 'len' bytes that are there already, and gives the chain to the guest. */
static void send_packet(struct virtio_vsock *vsock, const struct header *header)
{
    uint8_t raw[HEADER_SIZE] = {0};
    le64_put(raw, HOST_CID);
    le64_put(raw + 8, vsock->guest_cid);
    le32_put(raw + 16, header->src_port);
    le32_put(raw + 20, header->dst_port);
    le32_put(raw + 24, header->len);
    le16_put(raw + 28, VIRTIO_VSOCK_TYPE_STREAM);
    le16_put(raw + 30, header->op);
    le32_put(raw + 32, header->flags);
    le32_put(raw + 36, header->buf_alloc);
    le32_put(raw + 40, header->fwd_cnt);
    (void)virtqueue_write(&vsock->chain, 0, raw, sizeof(raw)); /* checked by take_buffer */
    virtqueue_push(virtio_queue(&vsock->virtio, RECEIVE), &vsock->chain, HEADER_SIZE + header->len);
    vsock->packets_out++;
    vsock->bytes_out += header->len;
}

static void send_for(struct connection *connection, uint16_t op, uint32_t flags, uint32_t len)
{
    connection->told_forwarded = connection->forwarded;
    connection->messages &= ~(unsigned)MESSAGE_CREDIT_UPDATE; /* every packet carries the credit */
    const struct header header = {.src_port = connection->host_port,
                                  .dst_port = connection->guest_port,
                                  .len = len,
                                  .op = op,
                                  .flags = flags,
                                  .buf_alloc = BUFFER_SIZE,
                                  .fwd_cnt = connection->forwarded};
    send_packet(connection->vsock, &header);
}

/* Puts bytes of the host program into the chain, behind the header. True: a packet went to the guest. */
static bool send_data(struct connection *connection)
{
    struct virtio_vsock *vsock = connection->vsock;
    const struct virtqueue_chain *chain = &vsock->chain;
    uint32_t room = peer_room(connection);
    struct iovec iov[VIRTQUEUE_MAX_SEGMENTS];
    struct msghdr message = {.msg_iov = iov};
    uint64_t skip = HEADER_SIZE, left = room;
    for (unsigned i = 0; i < chain->writable_count && left > 0; i++) {
        const struct iovec *part = &chain->iov[chain->readable_count + i];
        size_t cut = (size_t)MIN(skip, part->iov_len);
        size_t size = (size_t)MIN(left, part->iov_len - cut);
        skip -= cut;
        left -= size;
        if (size > 0) {
            iov[message.msg_iovlen++] = (struct iovec){(uint8_t *)part->iov_base + cut, size};
        }
    }
    ssize_t n = recvmsg(connection->fd, &message, MSG_DONTWAIT);
    if (n > 0) {
        connection->sent += (uint32_t)n;
        connection->messages |= (uint32_t)n == room ? MESSAGE_CREDIT_REQUEST : 0;
        send_for(connection, VIRTIO_VSOCK_OP_RW, 0, (uint32_t)n);
        return true;
    }
    if (n < 0 && errno == EINTR) {
        return false;
    }
    if (n < 0 && errno == EAGAIN) {
        connection->is_readable = false;
    } else if (n < 0) {
        connection->messages = MESSAGE_RESET;
    } else {
        connection->has_ended = true;
        connection->messages |= MESSAGE_SHUTDOWN;
    }
    update_events(connection);
    return false;
}

/* A buffer of the guest with room for a header, in vsock->chain. */
static bool take_buffer(struct virtio_vsock *vsock)
{
    struct virtqueue *queue = virtio_queue(&vsock->virtio, RECEIVE);
    while (!virtio_pop(&vsock->virtio, RECEIVE, &vsock->chain)) {
        if (!virtio_is_running(&vsock->virtio)) {
            return false;
        }
        virtqueue_set_notify(queue, true);
        if (!virtqueue_has_chain(queue)) {
            return false; /* process goes on when there is one */
        }
    }
    if (vsock->chain.writable_bytes <= HEADER_SIZE) {
        queue->broken = "receive buffer without room for a packet";
        virtio_break(&vsock->virtio, queue->broken);
        return false;
    }
    return true;
}

/* Does this connection have something for the guest? */
static bool has_work(struct connection *connection)
{
    if (connection->messages != 0) {
        return !(connection->messages & MESSAGE_REQUEST) || !connection->vsock->is_held;
    }
    return can_read(connection) && peer_room(connection) > 0;
}

/* Sends one packet with the buffer that was taken. False: there was nothing after all. */
static bool serve(struct connection *connection)
{
    unsigned messages = connection->messages;
    if ((messages & MESSAGE_RESET) != 0) {
        send_for(connection, VIRTIO_VSOCK_OP_RST, 0, 0);
        connection_free(connection);
        return true;
    }
    if ((messages & MESSAGE_REQUEST) != 0) {
        connection->messages &= ~(unsigned)MESSAGE_REQUEST;
        send_for(connection, VIRTIO_VSOCK_OP_REQUEST, 0, 0);
        return true;
    }
    if ((messages & MESSAGE_RESPONSE) != 0) {
        connection->messages &= ~(unsigned)MESSAGE_RESPONSE;
        send_for(connection, VIRTIO_VSOCK_OP_RESPONSE, 0, 0);
        return true;
    }
    if ((messages & MESSAGE_CREDIT_UPDATE) != 0) {
        send_for(connection, VIRTIO_VSOCK_OP_CREDIT_UPDATE, 0, 0);
        return true;
    }
    if ((messages & MESSAGE_CREDIT_REQUEST) != 0) {
        connection->messages &= ~(unsigned)MESSAGE_CREDIT_REQUEST;
        send_for(connection, VIRTIO_VSOCK_OP_CREDIT_REQUEST, 0, 0);
        return true;
    }
    if ((messages & MESSAGE_SHUTDOWN) != 0) {
        connection->messages &= ~(unsigned)MESSAGE_SHUTDOWN;
        send_for(connection, VIRTIO_VSOCK_OP_SHUTDOWN,
                 connection->has_hung_up ? SHUTDOWN_BOTH : VIRTIO_VSOCK_SHUTDOWN_SEND, 0);
        return true;
    }
    return send_data(connection);
}

static void tell_reset(struct virtio_vsock *vsock)
{
    struct virtio_device *virtio = &vsock->virtio;
    if (!vsock->must_tell_reset || !virtio_pop(virtio, EVENT, &vsock->chain)) {
        return;
    }
    uint8_t event[4] = {VIRTIO_VSOCK_EVENT_TRANSPORT_RESET};
    size_t size = virtqueue_write(&vsock->chain, 0, event, sizeof(event));
    virtqueue_push(virtio_queue(virtio, EVENT), &vsock->chain, (uint32_t)size);
    virtio_interrupt(virtio, EVENT);
    vsock->must_tell_reset = false;
    vsock->event_buffers = 0;
    while (!virtqueue_await_more(virtio_queue(virtio, EVENT), vsock->event_buffers)) {
        vsock->event_buffers++;
    }
}

/* Sends to the guest what there is while it has buffers: one packet of each connection in turn. */
static void pump(struct virtio_vsock *vsock)
{
    struct virtio_device *virtio = &vsock->virtio;
    if (!virtio_is_running(virtio)) {
        return;
    }
    bool has_sent = true;
    for (unsigned turn = 0; has_sent && turn < CHAINS_PER_TURN; turn++) {
        has_sent = false;
        while (vsock->reject_count > 0) {
            if (!take_buffer(vsock)) {
                goto out;
            }
            const struct reject *reject = &vsock->reject[--vsock->reject_count];
            const struct header header = {.src_port = reject->host_port,
                                          .dst_port = reject->guest_port,
                                          .op = VIRTIO_VSOCK_OP_RST};
            send_packet(vsock, &header);
        }
        struct connection *next;
        for (struct connection *c = vsock->connections; c != NULL; c = next) {
            next = c->next;
            if (!has_work(c)) {
                continue;
            }
            if (!take_buffer(vsock)) {
                goto out;
            }
            if (serve(c)) {
                has_sent = true;
            } else {
                virtqueue_unpop(virtio_queue(virtio, RECEIVE));
                has_sent |= c->messages != 0;
            }
        }
    }
    if (has_sent) {
        virtio_notify(virtio, RECEIVE); /* others' turn first */
    }
out:
    virtio_interrupt(virtio, RECEIVE);
}

static void open_for_guest(struct virtio_vsock *vsock, const struct header *header)
{
    int fd = vsock->dir_fd >= 0 ? vsock_socket_connect(vsock->dir_fd, header->dst_port) : -ENOENT;
    struct connection *connection = fd >= 0 ? add_connection(vsock, fd) : NULL;
    if (connection == NULL) {
        add_reject(vsock, header->src_port, header->dst_port);
        return;
    }
    connection->state = STATE_CONNECTED;
    connection->guest_port = header->src_port;
    connection->host_port = header->dst_port;
    connection->peer_alloc = header->buf_alloc;
    connection->peer_fwd = header->fwd_cnt;
    connection->messages = MESSAGE_RESPONSE;
}

/* The guest took a host program's connection. */
static void accepted_by_guest(struct connection *connection)
{
    char line[32];
    int size = snprintf(line, sizeof(line), "OK %u\n", connection->host_port);
    if (connection->state != STATE_CONNECTING ||
        send(connection->fd, line, (size_t)size, MSG_NOSIGNAL | MSG_DONTWAIT) != size) {
        connection->messages = MESSAGE_RESET;
        return;
    }
    connection->state = STATE_CONNECTED;
}

/* The guest's bytes, from vsock->chain. */
static void take_data(struct connection *connection, uint32_t len)
{
    struct virtio_vsock *vsock = connection->vsock;
    if (connection->state != STATE_CONNECTED ||
        (connection->guest_shut & VIRTIO_VSOCK_SHUTDOWN_SEND) != 0 ||
        len > BUFFER_SIZE - connection->buffer_used) {
        connection->messages = MESSAGE_RESET; /* more than its credit, or out of turn */
        return;
    }
    if (connection->buffer == NULL) {
        connection->buffer = malloc(BUFFER_SIZE);
        if (connection->buffer == NULL) {
            connection->messages = MESSAGE_RESET;
            return;
        }
    }
    uint32_t done = 0;
    while (done < len) { /* twice at most: around the ring's end */
        uint32_t at = (connection->buffer_start + connection->buffer_used) % BUFFER_SIZE;
        uint32_t size = MIN(len - done, BUFFER_SIZE - at);
        size_t copied =
            virtqueue_read(&vsock->chain, HEADER_SIZE + done, connection->buffer + at, size);
        invariant(copied == size); /* handle_packet has checked the length */
        connection->buffer_used += size;
        done += size;
    }
    vsock->bytes_in += len;
    after_flush(connection, flush_buffer(connection));
}

static void handle_connection(struct connection *connection, const struct header *header)
{
    connection->peer_alloc = header->buf_alloc;
    connection->peer_fwd = header->fwd_cnt;
    switch (header->op) {
    case VIRTIO_VSOCK_OP_RESPONSE:
        accepted_by_guest(connection);
        break;
    case VIRTIO_VSOCK_OP_RST:
        connection_free(connection);
        break;
    case VIRTIO_VSOCK_OP_SHUTDOWN:
        connection->guest_shut |= header->flags & SHUTDOWN_BOTH;
        after_flush(connection, flush_buffer(connection));
        break;
    case VIRTIO_VSOCK_OP_RW:
        take_data(connection, header->len);
        break;
    case VIRTIO_VSOCK_OP_CREDIT_UPDATE:
        break;
    case VIRTIO_VSOCK_OP_CREDIT_REQUEST:
        connection->messages |= MESSAGE_CREDIT_UPDATE;
        break;
    default: /* a second request, or nothing that we know */
        connection->messages = MESSAGE_RESET;
        break;
    }
}

/* NULL, or how the guest broke the protocol. */
static const char *handle_packet(struct virtio_vsock *vsock)
{
    uint8_t raw[HEADER_SIZE];
    if (virtqueue_read(&vsock->chain, 0, raw, HEADER_SIZE) != HEADER_SIZE) {
        return "packet without a header";
    }
    const struct header header = {
        .src_cid = le64_get(raw),
        .dst_cid = le64_get(raw + 8),
        .src_port = le32_get(raw + 16),
        .dst_port = le32_get(raw + 20),
        .len = le32_get(raw + 24),
        .type = le16_get(raw + 28),
        .op = le16_get(raw + 30),
        .flags = le32_get(raw + 32),
        .buf_alloc = le32_get(raw + 36),
        .fwd_cnt = le32_get(raw + 40),
    };
    if (header.len > vsock->chain.readable_bytes - HEADER_SIZE) {
        return "packet longer than its buffer";
    }
    vsock->packets_in++;
    if (header.src_cid != vsock->guest_cid || header.dst_cid != HOST_CID) {
        return NULL; /* from or to somebody else: there is no way there */
    }
    if (header.type != VIRTIO_VSOCK_TYPE_STREAM) {
        if (header.op != VIRTIO_VSOCK_OP_RST) {
            add_reject(vsock, header.src_port, header.dst_port);
        }
        return NULL;
    }
    struct connection *connection = find(vsock, header.src_port, header.dst_port);
    if (connection != NULL) {
        handle_connection(connection, &header);
    } else if (header.op == VIRTIO_VSOCK_OP_REQUEST) {
        open_for_guest(vsock, &header);
    } else if (header.op != VIRTIO_VSOCK_OP_RST) {
        add_reject(vsock, header.src_port, header.dst_port);
    }
    return NULL;
}

static void transmit(struct virtio_vsock *vsock)
{
    struct virtio_device *virtio = &vsock->virtio;
    struct virtqueue *queue = virtio_queue(virtio, TRANSMIT);
    unsigned count = 0;
    /* While answers wait for buffers of the guest, its packets wait too. */
    while (count < CHAINS_PER_TURN && vsock->reject_count < MAX_REJECTS &&
           virtio_pop(virtio, TRANSMIT, &vsock->chain)) {
        const char *why = handle_packet(vsock);
        if (why != NULL) {
            queue->broken = why;
            return;
        }
        virtqueue_push(queue, &vsock->chain, 0);
        count++;
    }
    virtqueue_set_notify(queue, true);
    virtio_interrupt(virtio, TRANSMIT);
    if (vsock->reject_count < MAX_REJECTS && virtqueue_has_chain(queue)) {
        virtio_notify(virtio, TRANSMIT);
    }
}

static void release(struct virtio_vsock *vsock)
{
    vsock->is_held = false;
    event_timer_disarm(vsock->hold_timer);
    pump(vsock);
}

static void held_long_enough(void *ctx)
{
    struct virtio_vsock *vsock = ctx;
    virtio_lock(&vsock->virtio);
    release(vsock);
    virtio_unlock(&vsock->virtio);
}

static void process_event(struct virtio_vsock *vsock)
{
    tell_reset(vsock);
    if (vsock->is_held && !vsock->must_tell_reset &&
        !virtqueue_await_more(virtio_queue(&vsock->virtio, EVENT), vsock->event_buffers)) {
        release(vsock);
    }
}

static void vsock_start(struct virtio_device *virtio)
{
    struct virtio_vsock *vsock = vsock_from_virtio(virtio);
    vsock->is_held = vsock->must_tell_reset;
    if (vsock->is_held) {
        event_timer_arm(vsock->hold_timer, clock_monotonic_ns() + HOLD_NS);
    }
}

static void vsock_process(struct virtio_device *virtio, unsigned index)
{
    struct virtio_vsock *vsock = vsock_from_virtio(virtio);
    if (index == EVENT) {
        process_event(vsock);
        return;
    }
    bool was_full = vsock->reject_count == MAX_REJECTS;
    if (index == TRANSMIT) {
        transmit(vsock);
    }
    pump(vsock);
    if (was_full && vsock->reject_count < MAX_REJECTS) {
        virtio_notify(virtio, TRANSMIT);
    }
}

static void vsock_reset(struct virtio_device *virtio)
{
    struct virtio_vsock *vsock = vsock_from_virtio(virtio);
    while (vsock->connections != NULL) {
        connection_free(vsock->connections);
    }
    vsock->reject_count = 0;
    vsock->must_tell_reset = vsock->is_held = false;
    event_timer_disarm(vsock->hold_timer);
}

static void vsock_read_config(struct virtio_device *virtio, uint32_t offset, void *out_data,
                              uint32_t size)
{
    uint8_t config[8];
    le64_put(config, vsock_from_virtio(virtio)->guest_cid);
    memcpy(out_data, config + offset, size);
}

static void vsock_save(struct virtio_device *virtio, struct archive_writer *writer)
{
    archive_put_u32(writer, vsock_from_virtio(virtio)->next_host_port);
}

/* Connections end with the process that held their sockets; the guest learns it by an event (5.10.6.7). Linux gives the event's
 * buffer back when it has ended its own. */
static int vsock_restore(struct virtio_device *virtio, struct archive_reader *reader,
                         uint32_t version, struct error *err)
{
    struct virtio_vsock *vsock = vsock_from_virtio(virtio);
    vsock->next_host_port = archive_get_u32(reader) | FIRST_HOST_PORT;
    vsock->must_tell_reset = true;
    return 0;
}

static void vsock_stats(struct virtio_device *virtio,
                        void (*emit)(void *ctx, const char *name, uint64_t value), void *ctx)
{
    const struct virtio_vsock *vsock = vsock_from_virtio(virtio);
    emit(ctx, "connections", vsock->connection_count);
    emit(ctx, "packets_in", vsock->packets_in);
    emit(ctx, "packets_out", vsock->packets_out);
    emit(ctx, "bytes_in", vsock->bytes_in);
    emit(ctx, "bytes_out", vsock->bytes_out);
}

static void close_host_side(struct virtio_vsock *vsock)
{
    event_source_remove(vsock->listener);
    if (vsock->listener_fd >= 0) {
        vsock_socket_unlink(vsock->dir_fd);
        close(vsock->listener_fd);
    }
    if (vsock->dir_fd >= 0) {
        close(vsock->dir_fd);
    }
}

static void vsock_destroy(struct virtio_device *virtio)
{
    struct virtio_vsock *vsock = vsock_from_virtio(virtio);
    close_host_side(vsock);
    virtio_fini(virtio);
    event_timer_destroy(vsock->hold_timer);
    free(vsock);
}

static const struct virtio_ops vsock_ops = {
    .type = "virtio-vsock",
    .version = 1,
    .device_id = VIRTIO_ID_VSOCK,
    .pci_class = 0x028000,
    .queue_count = 3,
    .queue_size = {QUEUE_SIZE, QUEUE_SIZE, 16},
    .config_size = sizeof(struct virtio_vsock_config),
    .process = vsock_process,
    .start = vsock_start,
    .reset = vsock_reset,
    .read_config = vsock_read_config,
    .save = vsock_save,
    .restore = vsock_restore,
    .stats = vsock_stats,
    .destroy = vsock_destroy,
};

static int open_host_side(struct virtio_vsock *vsock, struct event_loop *loop, struct error *err)
{
    if (vsock->dir_fd < 0) {
        return 0;
    }
    int rc = vsock_socket_listen(vsock->dir_fd, &vsock->listener_fd, err);
    return rc < 0 ? rc
                  : event_loop_add_fd(loop, vsock->listener_fd, EPOLLIN, listener_ready, vsock,
                                      &vsock->listener, err);
}

int virtio_vsock_create(const struct virtio_vsock_options *options, struct device **out_device,
                        struct error *err)
{
    struct virtio_vsock *vsock = calloc(1, sizeof(*vsock));
    if (vsock == NULL) {
        if (options->dir_fd >= 0) {
            close(options->dir_fd);
        }
        return error_set_errno(err, ENOMEM, "creating a virtio socket device");
    }
    vsock->guest_cid = options->guest_cid;
    vsock->dir_fd = options->dir_fd;
    vsock->listener_fd = -1;
    vsock->next_host_port = FIRST_HOST_PORT;
    int rc = open_host_side(vsock, options->common.host->loop, err);
    if (rc == 0) {
        rc = event_timer_create(options->common.host->loop, held_long_enough, vsock,
                                &vsock->hold_timer, err);
    }
    if (rc == 0) {
        rc = virtio_init(&vsock->virtio, &vsock_ops, 0, &options->common, err);
    }
    if (rc < 0) {
        close_host_side(vsock);
        event_timer_destroy(vsock->hold_timer);
        free(vsock);
        return rc;
    }
    *out_device = &vsock->virtio.device;
    return 0;
}
