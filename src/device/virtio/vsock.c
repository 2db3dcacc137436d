/* The device's side of virtio-vsock: packets from and to the guest, and their credit. */
#include "device/virtio/vsock.h"

#include <linux/virtio_ids.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/core/endian.h"
#include "base/core/invariant.h"
#include "device/virtio/vsock_connection.h"

#define RECEIVE         0u /* queues, as the guest names them */
#define TRANSMIT        1u
#define EVENT           2u
#define QUEUE_SIZE      128u
#define CHAINS_PER_TURN 128u
#define HOST_CID        2u
#define HOLD_NS         1000000000u

static struct virtio_vsock *vsock_from_virtio(struct virtio_device *virtio)
{
    return container_of(virtio, struct virtio_vsock, virtio);
}

static void add_reject(struct virtio_vsock *vsock, uint32_t guest_port, uint32_t host_port)
{
    if (vsock->reject_count < VSOCK_MAX_REJECTS) { /* the transmit queue stops before */
        vsock->reject[vsock->reject_count++] = (struct vsock_reject){guest_port, host_port};
    }
}

static uint32_t peer_room(const struct vsock_connection *connection)
{
    uint32_t in_flight = connection->sent - connection->peer_fwd;
    return in_flight < connection->peer_alloc ? connection->peer_alloc - in_flight : 0;
}

static bool can_read(const struct vsock_connection *connection)
{
    return connection->state == STATE_CONNECTED && connection->is_readable &&
           !connection->has_ended && (connection->guest_shut & VIRTIO_VSOCK_SHUTDOWN_RCV) == 0;
}

/* Writes a packet's header in front of 'len' bytes that are there already, and gives the chain to the guest. */
static void send_packet(struct virtio_vsock *vsock, const struct vsock_header *header)
{
    uint8_t raw[VSOCK_HEADER_SIZE] = {0};
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
    virtqueue_push(virtio_queue(&vsock->virtio, RECEIVE), &vsock->chain,
                   VSOCK_HEADER_SIZE + header->len);
    vsock->packets_out++;
    vsock->bytes_out += header->len;
}

static void send_for(struct vsock_connection *connection, uint16_t op, uint32_t flags, uint32_t len)
{
    connection->told_forwarded = connection->forwarded;
    connection->messages &= ~(unsigned)MESSAGE_CREDIT_UPDATE; /* every packet carries the credit */
    const struct vsock_header header = {.src_port = connection->host_port,
                                        .dst_port = connection->guest_port,
                                        .len = len,
                                        .op = op,
                                        .flags = flags,
                                        .buf_alloc = VSOCK_BUFFER_SIZE,
                                        .fwd_cnt = connection->forwarded};
    send_packet(connection->vsock, &header);
}

/* Puts bytes of the host program into the chain, behind the header. True: a packet went to the guest. */
static bool send_data(struct vsock_connection *connection)
{
    struct virtio_vsock *vsock = connection->vsock;
    const struct virtqueue_chain *chain = &vsock->chain;
    uint32_t room = peer_room(connection);
    struct iovec iov[VIRTQUEUE_MAX_SEGMENTS];
    struct msghdr message = {.msg_iov = iov};
    uint64_t skip = VSOCK_HEADER_SIZE, left = room;
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
    vsock_update_events(connection);
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
    if (vsock->chain.writable_bytes <= VSOCK_HEADER_SIZE) {
        queue->broken = "receive buffer without room for a packet";
        virtio_break(&vsock->virtio, queue->broken);
        return false;
    }
    return true;
}

/* Does this connection have something for the guest? */
static bool has_work(struct vsock_connection *connection)
{
    if (connection->messages != 0) {
        return !(connection->messages & MESSAGE_REQUEST) || !connection->vsock->is_held;
    }
    return can_read(connection) && peer_room(connection) > 0;
}

/* Sends one packet with the buffer that was taken. False: there was nothing after all. */
static bool serve(struct vsock_connection *connection)
{
    unsigned messages = connection->messages;
    if ((messages & MESSAGE_RESET) != 0) {
        send_for(connection, VIRTIO_VSOCK_OP_RST, 0, 0);
        vsock_connection_free(connection);
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
                 connection->has_hung_up ? VSOCK_SHUTDOWN_BOTH : VIRTIO_VSOCK_SHUTDOWN_SEND, 0);
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
void vsock_pump(struct virtio_vsock *vsock)
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
            const struct vsock_reject *reject = &vsock->reject[--vsock->reject_count];
            const struct vsock_header header = {.src_port = reject->host_port,
                                                .dst_port = reject->guest_port,
                                                .op = VIRTIO_VSOCK_OP_RST};
            send_packet(vsock, &header);
        }
        struct vsock_connection *next;
        for (struct vsock_connection *c = vsock->connections; c != NULL; c = next) {
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

static void open_for_guest(struct virtio_vsock *vsock, const struct vsock_header *header)
{
    int fd = vsock->dir_fd >= 0 ? vsock_socket_connect(vsock->dir_fd, header->dst_port) : -ENOENT;
    struct vsock_connection *connection = fd >= 0 ? vsock_add_connection(vsock, fd) : NULL;
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

/* NULL, or how the guest broke the protocol. */
static const char *handle_packet(struct virtio_vsock *vsock)
{
    uint8_t raw[VSOCK_HEADER_SIZE];
    if (virtqueue_read(&vsock->chain, 0, raw, VSOCK_HEADER_SIZE) != VSOCK_HEADER_SIZE) {
        return "packet without a header";
    }
    const struct vsock_header header = {
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
    if (header.len > vsock->chain.readable_bytes - VSOCK_HEADER_SIZE) {
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
    struct vsock_connection *connection =
        vsock_find_connection(vsock, header.src_port, header.dst_port);
    if (connection != NULL) {
        vsock_handle_packet(connection, &header);
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
    while (count < CHAINS_PER_TURN && vsock->reject_count < VSOCK_MAX_REJECTS &&
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
    if (vsock->reject_count < VSOCK_MAX_REJECTS && virtqueue_has_chain(queue)) {
        virtio_notify(virtio, TRANSMIT);
    }
}

static void release(struct virtio_vsock *vsock)
{
    vsock->is_held = false;
    event_timer_disarm(vsock->hold_timer);
    vsock_pump(vsock);
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
    bool was_full = vsock->reject_count == VSOCK_MAX_REJECTS;
    if (index == TRANSMIT) {
        transmit(vsock);
    }
    vsock_pump(vsock);
    if (was_full && vsock->reject_count < VSOCK_MAX_REJECTS) {
        virtio_notify(virtio, TRANSMIT);
    }
}

static void vsock_reset(struct virtio_device *virtio)
{
    struct virtio_vsock *vsock = vsock_from_virtio(virtio);
    while (vsock->connections != NULL) {
        vsock_connection_free(vsock->connections);
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
    vsock->next_host_port = archive_get_u32(reader) | VSOCK_FIRST_HOST_PORT;
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
                  : event_loop_add_fd(loop, vsock->listener_fd, EPOLLIN, vsock_listener_ready,
                                      vsock, &vsock->listener, err);
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
    vsock->next_host_port = VSOCK_FIRST_HOST_PORT;
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
