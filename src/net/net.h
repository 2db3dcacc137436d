/* A network backend as a card sees it.
 *
 * Threads: everything on the loop's thread, the callbacks too. No function here calls back before it returns, so a card may
 * call them with its lock held. Not from inside a callback: net_close. */
#ifndef NET_NET_H
#define NET_NET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "base/core/error.h"
#include "base/host/event_loop.h"

#define NET_MAX_FRAME 65550 /* Ethernet header, 64 KiB of payload for offloads */

struct net;

/* The card's side. */
struct net_client {
    void *ctx;
    /* The card takes one frame (with its vnet header first if offloads are on); false: no room now, call
     * net_resume when there is. */
    bool (*receive)(void *ctx, const uint8_t *frame, size_t size);
    /* net_send said -EAGAIN before and would take frames again. */
    void (*sendable)(void *ctx);
    /* The other side is there (the state a client starts with) or has gone; sends fail with -ENETDOWN from then on. NULL: not
     * interesting. */
    void (*link)(void *ctx, bool is_up);
};

/* Backends on descriptors that the caller opened; they own them from then on, also on failure. */

/* A tap interface, already attached (TUNSETIFF with IFF_TAP | IFF_NO_PI, and IFF_VNET_HDR for offloads). */
int must_check net_open_tap(int fd, const char *name, struct event_loop *loop, struct net **out_net,
                            struct error *err);
/* A connected stream socket of frames: 32-bit big-endian length, then an Ethernet frame (passt, QEMU's -netdev stream, hull's
 * helper). The peer is not trusted. 'name' is for the log. */
int must_check net_open_stream(int fd, const char *name, struct event_loop *loop,
                               struct net **out_net, struct error *err);
/* Takes frames and never sends any. */
int must_check net_open_none(struct event_loop *loop, struct net **out_net, struct error *err);
/* NULL is fine. */
void net_close(struct net *net);

/* The client is copied; frames that come before there is one wait. NULL: there is none any more. */
void net_set_client(struct net *net, const struct net_client *client);
/* One frame of 'size' bytes, which the buffers hold exactly. 0, -EAGAIN (nothing taken; sendable will be called), or the frame is dropped for good with another -errno. */
int net_send(struct net *net, const struct iovec *iov, int iov_count, size_t size);
/* The card has room again. */
void net_resume(struct net *net);

/* Offloads: true if frames may carry a virtio-net header of 'header_size' bytes with checksum and segmentation requests; the
 * backend then takes and gives frames with it. The flags say what may be asked of the receiver of frames to the card. Header
 * size 0, the state at the start: frames without a header. */
bool net_can_offload(const struct net *net);
void net_set_offload(struct net *net, unsigned header_size, bool csum, bool tso4, bool tso6,
                     bool ufo);

#endif
