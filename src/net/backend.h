/* What a backend is made of: the part of struct net that all have, and the functions that differ. Private to this folder.
 *
 * A backend with a descriptor gets its events from net.c, which keeps the rules of net.h: reading stops while the card has no
 * room, writing waits for room after -EAGAIN, and the first fatal failure takes the link down, once and for good. */
#ifndef NET_BACKEND_H
#define NET_BACKEND_H

#include "net/net.h"

/* Buffers of one frame; the queues of a card are shorter. */
#define NET_MAX_BUFFERS 512

struct net_ops {
    /* Mandatory. The frame's size has been checked against the buffers and NET_MAX_FRAME. */
    int (*send)(struct net *net, const struct iovec *iov, int iov_count, size_t size);
    /* The descriptor has something, or 'is_resumed': the card has room again. Mandatory with a descriptor. */
    void (*readable)(struct net *net, bool is_resumed);
    /* The descriptor takes bytes again; true: send would take a frame. Mandatory with a descriptor. */
    bool (*writable)(struct net *net);
    /* NULL: frames never carry a header. */
    bool (*can_offload)(const struct net *net);
    void (*set_offload)(struct net *net, unsigned header_size, unsigned tun_flags);
    void (*destroy)(struct net *net);
};

struct net {
    const struct net_ops *ops;
    char name[64];
    struct net_client client;
    bool has_client;
    struct event_notifier *wake; /* carries calls to the client out of net_* functions */
    int fd;                      /* -1: none, or the link is down */
    struct event_source *source;
    bool is_down;
    bool is_paused;       /* the card had no room, or there is no card */
    bool is_resume_asked; /* for 'wake' */
    bool is_link_told;    /* the client knows that the link is down */
    bool wants_writable;  /* the backend waits for room in the descriptor */
    bool owes_sendable;   /* net_send said -EAGAIN */
};

/* Owns 'fd' (may be -1) from then on, also on failure. */
int must_check net_init(struct net *net, const struct net_ops *ops, int fd, const char *name,
                        struct event_loop *loop, struct error *err);
void net_fini(struct net *net);

/* Gives the card a frame; false: it has no room, reading has stopped, and the backend keeps the frame. */
bool net_deliver(struct net *net, const uint8_t *frame, size_t size);
/* Has ops->writable called when the descriptor takes bytes. */
void net_await_writable(struct net *net);
/* Closes the descriptor and says why, in the log and to the client. */
void net_go_down(struct net *net, const char *format, ...) printf_like(2, 3);

#endif
