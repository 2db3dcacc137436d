/* rtnetlink(7) by hand: messages, sockets, calls. What the messages say is the caller's.
 *
 * Threads: none; netlink_open_in changes the calling thread's network namespace for a moment. */
#ifndef CONTAINER_NETWORK_NETLINK_H
#define CONTAINER_NETWORK_NETLINK_H

#include <linux/netlink.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/core/error.h"

#define NETLINK_BATCH_SIZE 4096

/* Messages that are sent together. The kernel takes one after the other, also behind one that fails. */
struct netlink_batch {
    _Alignas(struct nlmsghdr) uint8_t data[NETLINK_BATCH_SIZE];
    size_t size;     /* bytes in use */
    size_t last;     /* where the last message begins */
    uint32_t count;  /* of messages */
    bool is_full;    /* something had no room: it is not sent */
    uint32_t failed; /* after netlink_call: the number of the first message that failed, from 0 */
};

/* Makes it empty. */
void netlink_clear(struct netlink_batch *batch);
/* Begins another message: its type, flags of its own (NLM_F_CREATE ...) and fixed part; attributes follow. */
void netlink_begin(struct netlink_batch *batch, uint16_t type, uint16_t flags, const void *body,
                   size_t size);
void netlink_add(struct netlink_batch *batch, uint16_t type, const void *data, size_t size);
void netlink_add_u32(struct netlink_batch *batch, uint16_t type, uint32_t value);
void netlink_add_text(struct netlink_batch *batch, uint16_t type, const char *text);
/* Attributes up to netlink_unnest lie in this one. 'header' is what comes before them (NULL: nothing). */
size_t netlink_nest(struct netlink_batch *batch, uint16_t type, const void *header, size_t size);
void netlink_unnest(struct netlink_batch *batch, size_t nest);

/* A socket in the caller's network namespace, or in another one, whose it stays. Should there be no way back from
 * the other namespace, the program ends: nothing that it does in that network would be meant for it. */
int must_check netlink_open(int *out_fd, struct error *err);
int must_check netlink_open_in(int namespace_fd, int *out_fd, struct error *err);

/* Sees a message of an answer. Anything but 0 ends the call with that result; the socket is of no use then. */
typedef int (*netlink_fn)(const struct nlmsghdr *head, void *ctx);
/* Sends all and waits for all answers. 'fn' may be NULL. 0, or -errno of the first message that failed ('failed'). */
int must_check netlink_call(int fd, struct netlink_batch *batch, netlink_fn fn, void *ctx);

/* The number of a device in the socket's namespace, or -errno. */
int must_check netlink_index(int fd, const char *name);

#endif
