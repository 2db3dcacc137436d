/* Devices and addresses as rtnetlink tells them. */
#include "system/network/link.h"

#include <ctype.h>
#include <errno.h>
#include <linux/if_addr.h>
#include <linux/if_link.h>
#include <linux/rtnetlink.h>
#include <string.h>
#include <sys/socket.h>

#include "base/core/compiler.h"

int link_check_name(const char *name, const char *what, struct error *err)
{
    size_t length = strlen(name);
    bool is_good =
        length > 0 && length < IFNAMSIZ && strcmp(name, ".") != 0 && strcmp(name, "..") != 0;
    for (size_t i = 0; i < length && is_good; i++) {
        is_good = isgraph((unsigned char)name[i]) && strchr("/:%", name[i]) == NULL;
    }
    return is_good
               ? 0
               : error_set(err, EINVAL,
                           "%s '%.40s': a device's name has 1 to %d letters, digits and the like",
                           what, name, IFNAMSIZ - 1);
}

/* Copies text of an attribute; what does not fit is cut. */
static void take_text(const struct rtattr *attribute, char *out, size_t size)
{
    size_t length = MIN(RTA_PAYLOAD(attribute), size - 1);
    memcpy(out, RTA_DATA(attribute), length);
    out[length] = '\0';
}

static void take_number(const struct rtattr *attribute, unsigned *out)
{
    if (RTA_PAYLOAD(attribute) >= sizeof(*out)) {
        memcpy(out, RTA_DATA(attribute), sizeof(*out));
    }
}

static void take_kind(const struct rtattr *info, struct link *out)
{
    int left = (int)RTA_PAYLOAD(info);
    for (const struct rtattr *a = RTA_DATA(info); RTA_OK(a, left); a = RTA_NEXT(a, left)) {
        if (a->rta_type == IFLA_INFO_KIND) {
            take_text(a, out->kind, sizeof(out->kind));
        }
    }
}

static bool read_link(const struct nlmsghdr *head, struct link *out)
{
    const struct ifinfomsg *message = NLMSG_DATA(head);
    /* Bridges tell of their ports in messages of AF_BRIDGE, which are of the same type. */
    if (head->nlmsg_type != RTM_NEWLINK || head->nlmsg_len < NLMSG_LENGTH(sizeof(*message)) ||
        message->ifi_family != AF_UNSPEC) {
        return false;
    }
    *out = (struct link){.index = (unsigned)message->ifi_index, .flags = message->ifi_flags};
    int left = (int)IFLA_PAYLOAD(head);
    for (const struct rtattr *a = IFLA_RTA(message); RTA_OK(a, left); a = RTA_NEXT(a, left)) {
        switch (a->rta_type & NLA_TYPE_MASK) {
        case IFLA_IFNAME:
            take_text(a, out->name, sizeof(out->name));
            break;
        case IFLA_MASTER:
            take_number(a, &out->master);
            break;
        case IFLA_MTU:
            take_number(a, &out->mtu);
            break;
        case IFLA_ADDRESS:
            memcpy(out->mac, RTA_DATA(a), MIN(RTA_PAYLOAD(a), sizeof(out->mac)));
            break;
        case IFLA_STATS64:
            memcpy(&out->counters, RTA_DATA(a), MIN(RTA_PAYLOAD(a), sizeof(out->counters)));
            break;
        case IFLA_LINKINFO:
            take_kind(a, out);
            break;
        default:
            break;
        }
    }
    return true;
}

static int take_found(const struct nlmsghdr *head, void *ctx)
{
    (void)read_link(head, ctx);
    return 0;
}

int link_find(int fd, const char *name, struct link *out)
{
    struct netlink_batch batch;
    struct link found = {0};
    int index = netlink_index(fd, name);
    if (index < 0) {
        return index;
    }
    const struct ifinfomsg one = {.ifi_family = AF_UNSPEC, .ifi_index = index};
    netlink_clear(&batch);
    netlink_begin(&batch, RTM_GETLINK, 0, &one, sizeof(one));
    int rc = netlink_call(fd, &batch, take_found, &found);
    if (rc == 0) {
        *out = found;
    }
    return rc;
}

int link_find_bridge(int fd, const char *name, struct link *out, struct error *err)
{
    struct link found;
    int rc = link_find(fd, name, &found);
    if (rc == -ENODEV) {
        return error_set(err, ENODEV, "bridge '%.40s': the host has no such device", name);
    }
    if (rc < 0) {
        return error_set_errno(err, -rc, "bridge '%.40s': looking for it", name);
    }
    if (!link_is_kind(&found, "bridge")) {
        return error_set(err, ENODEV, "bridge '%.40s': the device of that name is no bridge", name);
    }
    *out = found;
    return 0;
}

bool link_is_kind(const struct link *link, const char *kind)
{
    return strcmp(link->kind, kind) == 0;
}

struct wanted_links {
    const char *kind;
    unsigned master;
    link_fn fn;
    void *ctx;
};

static int take_each(const struct nlmsghdr *head, void *ctx)
{
    const struct wanted_links *wanted = ctx;
    struct link link;
    if (!read_link(head, &link) || (wanted->master != 0 && link.master != wanted->master) ||
        (wanted->kind[0] != '\0' && !link_is_kind(&link, wanted->kind))) {
        return 0;
    }
    return wanted->fn(&link, wanted->ctx);
}

int link_each(int fd, const char *kind, unsigned master, link_fn fn, void *ctx)
{
    struct netlink_batch batch;
    struct wanted_links wanted = {kind, master, fn, ctx};
    const struct ifinfomsg any = {.ifi_family = AF_UNSPEC};
    netlink_clear(&batch);
    netlink_begin(&batch, RTM_GETLINK, NLM_F_DUMP, &any, sizeof(any));
    /* The kernel leaves out others by itself where it can, which is much the faster with thousands of them. */
    if (master != 0) {
        netlink_add_u32(&batch, IFLA_MASTER, master);
    }
    if (kind[0] != '\0') {
        size_t info = netlink_nest(&batch, IFLA_LINKINFO, NULL, 0);
        netlink_add_text(&batch, IFLA_INFO_KIND, kind);
        netlink_unnest(&batch, info);
    }
    return netlink_call(fd, &batch, take_each, &wanted);
}

int link_delete(int fd, unsigned index)
{
    struct netlink_batch batch;
    const struct ifinfomsg one = {.ifi_family = AF_UNSPEC, .ifi_index = (int)index};
    netlink_clear(&batch);
    netlink_begin(&batch, RTM_DELLINK, 0, &one, sizeof(one));
    int rc = netlink_call(fd, &batch, NULL, NULL);
    return rc == -ENODEV ? 0 : rc;
}

struct wanted_addresses {
    link_address_fn fn;
    void *ctx;
};

static int take_address(const struct nlmsghdr *head, void *ctx)
{
    const struct wanted_addresses *wanted = ctx;
    const struct ifaddrmsg *message = NLMSG_DATA(head);
    if (head->nlmsg_type != RTM_NEWADDR || head->nlmsg_len < NLMSG_LENGTH(sizeof(*message)) ||
        (message->ifa_family != AF_INET && message->ifa_family != AF_INET6)) {
        return 0;
    }
    struct link_address found = {
        .index = message->ifa_index,
        .local = {.family = message->ifa_family, .prefix = message->ifa_prefixlen},
        .network = {.family = message->ifa_family, .prefix = message->ifa_prefixlen},
    };
    bool has_local = false;
    size_t size = link_address_size(&found.local);
    int left = (int)IFA_PAYLOAD(head);
    for (const struct rtattr *a = IFA_RTA(message); RTA_OK(a, left); a = RTA_NEXT(a, left)) {
        if (RTA_PAYLOAD(a) < size) {
            continue;
        }
        if (a->rta_type == IFA_LOCAL) {
            memcpy(found.local.bytes, RTA_DATA(a), size);
            has_local = true;
        } else if (a->rta_type == IFA_ADDRESS) {
            memcpy(found.network.bytes, RTA_DATA(a), size);
        }
    }
    /* IPv6 has both only where they differ. */
    if (!has_local) {
        found.local = found.network;
    }
    return wanted->fn(&found, wanted->ctx);
}

int link_each_address(int fd, link_address_fn fn, void *ctx)
{
    struct netlink_batch batch;
    struct wanted_addresses wanted = {fn, ctx};
    const struct ifaddrmsg any = {.ifa_family = AF_UNSPEC};
    netlink_clear(&batch);
    netlink_begin(&batch, RTM_GETADDR, NLM_F_DUMP, &any, sizeof(any));
    return netlink_call(fd, &batch, take_address, &wanted);
}

bool link_is_local_address(const struct network_address *address)
{
    return address->family == AF_INET6 && address->bytes[0] == 0xfe &&
           (address->bytes[1] & 0xc0) == 0x80;
}

void link_put_up(struct netlink_batch *batch, unsigned index)
{
    const struct ifinfomsg up = {.ifi_family = AF_UNSPEC,
                                 .ifi_index = (int)index,
                                 .ifi_flags = IFF_UP,
                                 .ifi_change = IFF_UP};
    netlink_begin(batch, RTM_NEWLINK, 0, &up, sizeof(up));
}

void link_put_address(struct netlink_batch *batch, unsigned index,
                      const struct network_address *address)
{
    size_t size = link_address_size(address);
    const struct ifaddrmsg message = {.ifa_family = (uint8_t)address->family,
                                      .ifa_prefixlen = (uint8_t)address->prefix,
                                      .ifa_flags = IFA_F_PERMANENT,
                                      .ifa_scope = RT_SCOPE_UNIVERSE,
                                      .ifa_index = index};
    netlink_begin(batch, RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, &message, sizeof(message));
    netlink_add(batch, IFA_LOCAL, address->bytes, size);
    netlink_add(batch, IFA_ADDRESS, address->bytes, size);
    if (address->family == AF_INET6) {
        netlink_add_u32(batch, IFA_FLAGS, IFA_F_PERMANENT | IFA_F_NODAD);
    } else if (address->prefix <= 30) {
        uint8_t broadcast[4];
        for (unsigned i = 0; i < 4; i++) {
            unsigned network_bits = MIN(8, address->prefix - MIN(address->prefix, i * 8));
            broadcast[i] = (uint8_t)(address->bytes[i] | (0xff >> network_bits));
        }
        netlink_add(batch, IFA_BROADCAST, broadcast, sizeof(broadcast));
    }
}
