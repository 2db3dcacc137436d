#include "system/network/macvlan.h"

#include <errno.h>
#include <linux/if_arp.h>
#include <linux/if_link.h>
#include <linux/rtnetlink.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

int macvlan_find_parent(int fd, const char *name, struct link *out, struct error *err)
{
    char path[128];
    int rc = link_check_name(name, "parent", err);
    rc = rc < 0 ? rc : link_find(fd, name, out);
    if (rc == -ENODEV) {
        return error_set(err, ENODEV, "parent '%s': the host has no interface of that name", name);
    }
    if (rc < 0) {
        return rc == -EINVAL ? rc : error_set_errno(err, -rc, "parent '%s'", name);
    }
    if ((out->flags & IFF_LOOPBACK) != 0 || link_is_kind(out, "macvlan") ||
        link_is_kind(out, "macvtap")) {
        return error_set(err, EINVAL, "parent '%s': an Ethernet interface of the host's", name);
    }
    snprintf(path, sizeof(path), "/sys/class/net/%s/wireless", name);
    if (access(path, F_OK) == 0) {
        return error_set(err, EOPNOTSUPP,
                         "parent '%s': it is wireless, where one interface has one address: a "
                         "network of type nat would do",
                         name);
    }
    return 0;
}

int macvlan_make(int fd, const struct macvlan_card *card)
{
    struct netlink_batch batch;
    const struct ifinfomsg body = {.ifi_family = AF_UNSPEC,
                                   .ifi_flags = card->is_up ? IFF_UP : 0,
                                   .ifi_change = card->is_up ? IFF_UP : 0};
    netlink_clear(&batch);
    netlink_begin(&batch, RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, &body, sizeof(body));
    netlink_add_text(&batch, IFLA_IFNAME, card->name);
    netlink_add_u32(&batch, IFLA_LINK, card->parent);
    netlink_add(&batch, IFLA_ADDRESS, card->mac, 6);
    if (card->mtu != 0) {
        netlink_add_u32(&batch, IFLA_MTU, card->mtu);
    }
    if (card->in_namespace) {
        netlink_add_u32(&batch, IFLA_NET_NS_FD, (uint32_t)card->namespace_fd);
    }
    size_t info = netlink_nest(&batch, IFLA_LINKINFO, NULL, 0);
    netlink_add_text(&batch, IFLA_INFO_KIND, card->kind);
    size_t data = netlink_nest(&batch, IFLA_INFO_DATA, NULL, 0);
    netlink_add_u32(&batch, IFLA_MACVLAN_MODE, MACVLAN_MODE_BRIDGE);
    netlink_unnest(&batch, data);
    netlink_unnest(&batch, info);
    return netlink_call(fd, &batch, NULL, NULL);
}
