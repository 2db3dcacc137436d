/* Devices and addresses as rtnetlink tells them; for the files of this folder. */
#ifndef SYSTEM_NETWORK_LINK_H
#define SYSTEM_NETWORK_LINK_H

#include <linux/if_link.h>

#include "container/network/netlink.h"
#include "system/network/network.h"

struct link {
    char name[IFNAMSIZ];
    char kind[16]; /* "bridge", "veth"; "": a device of hardware, or lo */
    unsigned index;
    unsigned master; /* the bridge it is in; 0: none */
    unsigned mtu;
    unsigned flags; /* IFF_UP ... */
    uint8_t mac[6];
    struct rtnl_link_stats64 counters;
};

/* An address of a device. */
struct link_address {
    unsigned index;
    struct network_address local;
    struct network_address
        network; /* an address of the network it is in: the peer's of a point-to-point device */
};

/* A name that the kernel takes as it is (it would number "eth%d"). Errors: -EINVAL naming 'what'. */
int must_check link_check_name(const char *name, const char *what, struct error *err);
/* The device of that name in the socket's namespace; -ENODEV without a text if there is none. */
int must_check link_find(int fd, const char *name, struct link *out);
/* As link_find; what is no bridge is -ENODEV too, and both have a text. */
int must_check link_find_bridge(int fd, const char *name, struct link *out, struct error *err);
bool link_is_kind(const struct link *link, const char *kind);
/* Calls 'fn' for each device with that kind ("": any) and that master (0: any). Anything but 0 of it ends this with that
 * result; the socket is of no use then. */
typedef int (*link_fn)(const struct link *link, void *ctx);
int must_check link_each(int fd, const char *kind, unsigned master, link_fn fn, void *ctx);
/* One that is not there any more is no error. */
int must_check link_delete(int fd, unsigned index);

/* The same for addresses of all devices. */
typedef int (*link_address_fn)(const struct link_address *address, void *ctx);
int must_check link_each_address(int fd, link_address_fn fn, void *ctx);
/* IPv6's own, which each device has. */
bool link_is_local_address(const struct network_address *address);

/* A card that is in the container's namespace, of which 'inside' is a socket: addresses, routes, up, lo too. */
int must_check link_configure(const struct network_card *card, int inside, struct error *err);

/* Messages: the device is up; it has the address, without duplicate detection. */
void link_put_up(struct netlink_batch *batch, unsigned index);
void link_put_address(struct netlink_batch *batch, unsigned index,
                      const struct network_address *address);
static inline size_t link_address_size(const struct network_address *address)
{
    return address->family == AF_INET6 ? 16 : 4;
}

#endif
