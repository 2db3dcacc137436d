/* The host's side of connections: sockets, the line that says where to, bytes that wait for a slow program. */
#include "device/virtio/vsock_connection.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/core/invariant.h"

#define MAX_CONNECTIONS 256u

void vsock_connection_free(struct vsock_connection *connection)
{
    struct virtio_vsock *vsock = connection->vsock;
    struct vsock_connection **link = &vsock->connections;
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

struct vsock_connection *vsock_find_connection(struct virtio_vsock *vsock, uint32_t guest_port,
                                               uint32_t host_port)
{
    for (struct vsock_connection *c = vsock->connections; c != NULL; c = c->next) {
        if (c->state != STATE_COMMAND && c->guest_port == guest_port && c->host_port == host_port) {
            return c;
        }
    }
    return NULL;
}

void vsock_update_events(struct vsock_connection *connection)
{
    if (connection->source != NULL) {
        uint32_t events = connection->is_readable || connection->has_ended ? 0 : EPOLLIN;
        events |= connection->buffer_used > 0 ? EPOLLOUT : 0;
        event_source_set_events(connection->source, events);
    }
}

/* Gives the host program what waits for it. False: it does not take anything any more. */
static bool flush_buffer(struct vsock_connection *connection)
{
    while (connection->buffer_used > 0) {
        size_t size = MIN(connection->buffer_used, VSOCK_BUFFER_SIZE - connection->buffer_start);
        ssize_t n = send(connection->fd, connection->buffer + connection->buffer_start, size,
                         MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0) {
            return errno == EAGAIN;
        }
        connection->buffer_start = (connection->buffer_start + (uint32_t)n) % VSOCK_BUFFER_SIZE;
        connection->buffer_used -= (uint32_t)n;
        connection->forwarded += (uint32_t)n;
    }
    return true;
}

/* After bytes went on to the host program: credit, and the end of the stream if it was that. */
static void after_flush(struct vsock_connection *connection, bool is_alive)
{
    if (!is_alive) {
        connection->messages = MESSAGE_RESET;
        connection->buffer_used = 0;
    } else if (connection->buffer_used == 0 && connection->guest_shut != 0) {
        if (connection->guest_shut == VSOCK_SHUTDOWN_BOTH) {
            connection->messages = MESSAGE_RESET; /* 5.10.6.5: the clean end is answered so */
        } else if ((connection->guest_shut & VIRTIO_VSOCK_SHUTDOWN_SEND) != 0) {
            (void)shutdown(connection->fd, SHUT_WR); /* gone already is as good */
        }
    }
    if (connection->forwarded - connection->told_forwarded >= VSOCK_BUFFER_SIZE / 2) {
        connection->messages |= MESSAGE_CREDIT_UPDATE;
    }
    vsock_update_events(connection);
}

/* The line of a program that wants to reach the guest. False: the connection is gone. */
static bool read_command(struct vsock_connection *connection)
{
    uint32_t port;
    int rc = vsock_socket_read_connect(connection->fd, &connection->line, &port);
    if (rc == -EAGAIN || rc == -EINTR) {
        return true;
    }
    if (rc < 0) {
        vsock_connection_free(connection);
        return false;
    }
    struct virtio_vsock *vsock = connection->vsock;
    connection->guest_port = port;
    do { /* fewer connections than ports: there is a free one */
        connection->host_port = vsock->next_host_port++;
        vsock->next_host_port |= VSOCK_FIRST_HOST_PORT;
    } while (vsock_find_connection(vsock, port, connection->host_port) != NULL);
    connection->state = STATE_CONNECTING;
    connection->messages = MESSAGE_REQUEST;
    return true;
}

static void socket_ready(void *ctx, int fd, uint32_t events)
{
    struct vsock_connection *connection = ctx;
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
            vsock_connection_free(connection);
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
        vsock_update_events(connection);
    }
    vsock_pump(vsock);
    virtio_unlock(virtio);
}

/* Takes over 'fd'. NULL: no room for another connection. */
struct vsock_connection *vsock_add_connection(struct virtio_vsock *vsock, int fd)
{
    struct vsock_connection *connection =
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

void vsock_listener_ready(void *ctx, int fd, uint32_t events)
{
    struct virtio_vsock *vsock = ctx;
    int client = accept4(fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (client >= 0) {
        virtio_lock(&vsock->virtio);
        if ((vsock->virtio.status & VIRTIO_STATUS_DRIVER_OK) == 0) {
            close(client); /* nobody is there to be reached */
        } else {
            (void)vsock_add_connection(vsock, client); /* too many: it is closed */
        }
        virtio_unlock(&vsock->virtio);
    }
}

/* The guest took a host program's connection. */
static void accepted_by_guest(struct vsock_connection *connection)
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
static void take_data(struct vsock_connection *connection, uint32_t len)
{
    struct virtio_vsock *vsock = connection->vsock;
    if (connection->state != STATE_CONNECTED ||
        (connection->guest_shut & VIRTIO_VSOCK_SHUTDOWN_SEND) != 0 ||
        len > VSOCK_BUFFER_SIZE - connection->buffer_used) {
        connection->messages = MESSAGE_RESET; /* more than its credit, or out of turn */
        return;
    }
    if (connection->buffer == NULL) {
        connection->buffer = malloc(VSOCK_BUFFER_SIZE);
        if (connection->buffer == NULL) {
            connection->messages = MESSAGE_RESET;
            return;
        }
    }
    uint32_t done = 0;
    while (done < len) { /* twice at most: around the ring's end */
        uint32_t at = (connection->buffer_start + connection->buffer_used) % VSOCK_BUFFER_SIZE;
        uint32_t size = MIN(len - done, VSOCK_BUFFER_SIZE - at);
        size_t copied =
            virtqueue_read(&vsock->chain, VSOCK_HEADER_SIZE + done, connection->buffer + at, size);
        invariant(copied == size); /* handle_packet has checked the length */
        connection->buffer_used += size;
        done += size;
    }
    vsock->bytes_in += len;
    after_flush(connection, flush_buffer(connection));
}

void vsock_handle_packet(struct vsock_connection *connection, const struct vsock_header *header)
{
    connection->peer_alloc = header->buf_alloc;
    connection->peer_fwd = header->fwd_cnt;
    switch (header->op) {
    case VIRTIO_VSOCK_OP_RESPONSE:
        accepted_by_guest(connection);
        break;
    case VIRTIO_VSOCK_OP_RST:
        vsock_connection_free(connection);
        break;
    case VIRTIO_VSOCK_OP_SHUTDOWN:
        connection->guest_shut |= header->flags & VSOCK_SHUTDOWN_BOTH;
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
