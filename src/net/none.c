/* The backend of a card whose cable is plugged into nothing: takes frames and never sends any. */
#include <stdlib.h>

#include "net/backend.h"

static int none_send(struct net *net, const struct iovec *iov, int iov_count, size_t size)
{
    return 0;
}

static void none_readable(struct net *net, bool is_resumed)
{
}

static bool none_writable(struct net *net)
{
    return true;
}

static void none_destroy(struct net *net)
{
    net_fini(net);
    free(net);
}

static const struct net_ops none_net_ops = {
    .send = none_send,
    .readable = none_readable,
    .writable = none_writable,
    .destroy = none_destroy,
};

int net_open_none(struct event_loop *loop, struct net **out_net, struct error *err)
{
    struct net *net = calloc(1, sizeof(*net));
    if (net == NULL) {
        return error_set_errno(err, ENOMEM, "opening network none");
    }
    int rc = net_init(net, &none_net_ops, -1, "none", loop, err);
    if (rc < 0) {
        free(net);
        return rc;
    }
    *out_net = net;
    return 0;
}
