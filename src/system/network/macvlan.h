/* Interfaces of their own hardware address on one of the host's: macvlan, macvtap. In mode "bridge": those of one parent reach
 * each other and the outside, but not the host itself.
 *
 * Threads: none. */
#ifndef SYSTEM_NETWORK_MACVLAN_H
#define SYSTEM_NETWORK_MACVLAN_H

#include "system/network/link.h"

/* Errors: -ENODEV: it is not there; -EOPNOTSUPP: a wireless one, whose access point takes frames from one address alone; -EINVAL: lo,
 * or it cannot be one's parent. */
int must_check macvlan_find_parent(int fd, const char *name, struct link *out, struct error *err);

struct macvlan_card {
    const char *kind; /* "macvlan", "macvtap" */
    const char *name;
    unsigned parent;
    const uint8_t *mac;
    unsigned mtu;      /* 0: the parent's */
    bool in_namespace; /* it is made in 'namespace_fd' */
    int namespace_fd;
    bool is_up;
};
/* -errno without a text. */
int must_check macvlan_make(int fd, const struct macvlan_card *card);

#endif
