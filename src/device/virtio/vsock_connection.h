/* Private to the vsock device: its state, and what connects a host program with a port of the guest. All with the device's
 * lock, but for the callback. */
#ifndef DEVICE_VIRTIO_VSOCK_CONNECTION_H
#define DEVICE_VIRTIO_VSOCK_CONNECTION_H

#include <linux/virtio_vsock.h>

#include "base/host/event_loop.h"
#include "device/virtio/virtio.h"
#include "device/virtio/vsock_socket.h"

#define VSOCK_HEADER_SIZE 44u
/* What a connection holds for a slow host program: the credit of the guest. */
#define VSOCK_BUFFER_SIZE     65536u
#define VSOCK_MAX_REJECTS     64u
#define VSOCK_FIRST_HOST_PORT (1u << 30)
#define VSOCK_SHUTDOWN_BOTH   (VIRTIO_VSOCK_SHUTDOWN_RCV | VIRTIO_VSOCK_SHUTDOWN_SEND)

struct vsock_header {
    uint64_t src_cid, dst_cid;
    uint32_t src_port, dst_port, len;
    uint16_t type, op;
    uint32_t flags, buf_alloc, fwd_cnt;
};

enum vsock_state {
    STATE_COMMAND,    /* a host program that has not said where to yet */
    STATE_CONNECTING, /* the guest was asked */
    STATE_CONNECTED,
};

/* What the guest is to be told, most urgent first. */
enum vsock_message {
    MESSAGE_REQUEST = 1,
    MESSAGE_RESPONSE = 2,
    MESSAGE_CREDIT_UPDATE = 4,
    MESSAGE_CREDIT_REQUEST = 8,
    MESSAGE_SHUTDOWN = 16,
    MESSAGE_RESET = 32, /* and then the connection ends */
};

struct vsock_connection {
    struct virtio_vsock *vsock;
    struct vsock_connection *next;
    enum vsock_state state;
    uint32_t guest_port, host_port;
    struct vsock_line line;
    int fd;
    struct event_source *source; /* NULL after the other side hung up: reads go on without */
    unsigned messages;           /* set of enum vsock_message */
    bool is_readable;
    bool has_ended;      /* the host program sends no more: shutdown was or will be told */
    bool has_hung_up;    /* nor does it read */
    uint32_t guest_shut; /* VIRTIO_VSOCK_SHUTDOWN_*: what the guest said */
    uint32_t peer_alloc; /* the guest's buffer, and how much of what we sent it has consumed */
    uint32_t peer_fwd;
    uint32_t sent;      /* bytes to the guest, modulo 2^32 */
    uint32_t forwarded; /* bytes from the guest that reached the host program */
    uint32_t told_forwarded;
    uint8_t
        *buffer; /* of VSOCK_BUFFER_SIZE when first needed: bytes the host program has not taken */
    uint32_t buffer_start, buffer_used;
};

struct vsock_reject {
    uint32_t guest_port, host_port;
};

struct virtio_vsock {
    struct virtio_device virtio;
    uint32_t guest_cid;
    int dir_fd;
    int listener_fd;
    struct event_source *listener;
    struct vsock_connection *connections; /* oldest last; served in turn */
    unsigned connection_count;
    uint32_t next_host_port;
    struct vsock_reject
        reject[VSOCK_MAX_REJECTS]; /* resets for packets that belong to no connection */
    unsigned reject_count;
    bool must_tell_reset; /* the guest's connections did not survive: an event shall say so */
    /* Until the guest has dealt with that, or for a while, host programs wait: it would end their connections as well. */
    bool is_held;
    struct event_timer *hold_timer;
    unsigned event_buffers; /* that the guest had left then: one more says that it has */
    uint64_t packets_in, packets_out, bytes_in, bytes_out;
    struct virtqueue_chain chain;
};

/* vsock.c: sends to the guest what there is for it. */
void vsock_pump(struct virtio_vsock *vsock);

void vsock_connection_free(struct vsock_connection *connection);
/* NULL: the ports have none. */
struct vsock_connection *vsock_find_connection(struct virtio_vsock *vsock, uint32_t guest_port,
                                               uint32_t host_port);
/* Waits for what the connection can use now. */
void vsock_update_events(struct vsock_connection *connection);
/* Takes over 'fd'. NULL: no room for another connection. */
struct vsock_connection *vsock_add_connection(struct virtio_vsock *vsock, int fd);
/* Callback of the event loop: a host program wants to reach the guest. */
void vsock_listener_ready(void *ctx, int fd, uint32_t events);
/* A packet of the guest for the connection, which may end it; its bytes are in vsock->chain. */
void vsock_handle_packet(struct vsock_connection *connection, const struct vsock_header *header);

#endif
