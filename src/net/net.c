#include "net/net.h"

#include <linux/if_tun.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/host/log.h"
#include "net/backend.h"

#define ETHERNET_HEADER_SIZE 14

static void update_events(struct net *net)
{
    if (net->source != NULL) {
        event_source_set_events(net->source, (net->is_paused ? 0 : EPOLLIN) |
                                                 (net->wants_writable ? EPOLLOUT : 0));
    }
}

static void descriptor_ready(void *ctx, int fd, uint32_t events)
{
    struct net *net = ctx;
    if ((events & EPOLLOUT) && net->wants_writable && net->ops->writable(net)) {
        net->wants_writable = false;
        update_events(net);
        if (net->owes_sendable && net->has_client) {
            net->owes_sendable = false;
            net->client.sendable(net->client.ctx);
        }
    }
    if (net->is_down || !(events & (EPOLLIN | EPOLLHUP | EPOLLERR))) {
        return;
    }
    if (!net->is_paused) {
        net->ops->readable(net, false);
    } else if (events & (EPOLLHUP | EPOLLERR)) {
        /* These cannot be masked: waiting for the card would spin. */
        net_go_down(net, "the other side has gone");
    }
}

static void woken(void *ctx)
{
    struct net *net = ctx;
    if (net->is_down) {
        if (!net->is_link_told && net->has_client) {
            net->is_link_told = true;
            if (net->owes_sendable) {
                net->owes_sendable = false;
                net->client.sendable(net->client.ctx);
            }
            if (net->client.link != NULL) {
                net->client.link(net->client.ctx, false);
            }
        }
    } else if (net->is_resume_asked && net->has_client) {
        net->is_resume_asked = false;
        net->is_paused = false;
        net->ops->readable(net, true);
        update_events(net);
    }
}

int net_init(struct net *net, const struct net_ops *ops, int fd, const char *name,
             struct event_loop *loop, struct error *err)
{
    net->ops = ops;
    net->fd = fd;
    net->is_paused = true;
    (void)snprintf(net->name, sizeof(net->name), "%s", name); /* a cut name still names it */
    int rc = event_notifier_create(loop, woken, net, &net->wake, err);
    if (rc == 0 && fd >= 0) {
        rc = event_loop_add_fd(loop, fd, 0, descriptor_ready, net, &net->source, err);
    }
    if (rc < 0) {
        net_fini(net);
        return error_prefix(err, rc, "network %s", name);
    }
    return 0;
}

void net_fini(struct net *net)
{
    event_source_remove(net->source);
    net->source = NULL;
    event_notifier_destroy(net->wake);
    net->wake = NULL;
    if (net->fd >= 0) {
        close(net->fd);
        net->fd = -1;
    }
}

bool net_deliver(struct net *net, const uint8_t *frame, size_t size)
{
    if (!net->has_client) {
        net->is_paused = true;
    } else if (!net->client.receive(net->client.ctx, frame, size)) {
        net->is_paused = true;
    } else {
        return true;
    }
    update_events(net);
    return false;
}

void net_await_writable(struct net *net)
{
    if (!net->wants_writable) {
        net->wants_writable = true;
        update_events(net);
    }
}

void net_go_down(struct net *net, const char *format, ...)
{
    char reason[160];
    va_list args;
    va_start(args, format);
    (void)vsnprintf(reason, sizeof(reason), format, args); /* a cut reason is still one */
    va_end(args);
    log_warning("network %s: %s: the link is down from now on", net->name, reason);
    net->is_down = true;
    event_source_remove(net->source);
    net->source = NULL;
    close(net->fd);
    net->fd = -1;
    event_notifier_signal(net->wake);
}

void net_close(struct net *net)
{
    if (net != NULL) {
        net->ops->destroy(net);
    }
}

void net_set_client(struct net *net, const struct net_client *client)
{
    net->has_client = client != NULL;
    net->client = client != NULL ? *client : (struct net_client){0};
    net->is_link_told = false;
    if (client == NULL) {
        net->is_paused = true;
        net->owes_sendable = false;
        update_events(net);
    } else {
        net->is_resume_asked = true;
        event_notifier_signal(net->wake);
    }
}

int net_send(struct net *net, const struct iovec *iov, int iov_count, size_t size)
{
    if (net->is_down) {
        return -ENETDOWN;
    }
    size_t total = 0;
    for (int i = 0; i < iov_count; i++) {
        total += iov[i].iov_len;
    }
    if (total != size || size < ETHERNET_HEADER_SIZE || iov_count > NET_MAX_BUFFERS) {
        return -EINVAL;
    }
    int rc = net->ops->send(net, iov, iov_count, size);
    if (rc == -EAGAIN) {
        net->owes_sendable = true;
        net_await_writable(net);
    }
    return rc;
}

void net_resume(struct net *net)
{
    if (net->is_paused && !net->is_down) {
        net->is_resume_asked = true;
        event_notifier_signal(net->wake);
    }
}

bool net_can_offload(const struct net *net)
{
    return net->ops->can_offload != NULL && net->ops->can_offload(net);
}

void net_set_offload(struct net *net, unsigned header_size, bool csum, bool tso4, bool tso6,
                     bool ufo)
{
    if (!net_can_offload(net) || net->is_down) {
        return;
    }
    /* Segmentation leaves checksums open: the kernel takes it only together with them. */
    unsigned flags = !csum || header_size == 0
                         ? 0
                         : TUN_F_CSUM | (tso4 ? TUN_F_TSO4 : 0) | (tso6 ? TUN_F_TSO6 : 0) |
                               (ufo ? TUN_F_UFO : 0);
    net->ops->set_offload(net, header_size, flags);
}
