/* Moving network devices by rtnetlink(7). */
#include "container/runtime/net_devices.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/if_addr.h>
#include <linux/if_link.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/core/compiler.h"
#include "base/host/file.h"
#include "container/network/netlink.h"

#define MAX_ADDRESSES 64
/* Numbers of devices are a namespace's own: the next ones are tried where one is taken. */
#define INDEX_TRIES 64

struct address {
    struct ifaddrmsg message;
    uint8_t local[16], remote[16], broadcast[16];
    uint32_t flags;
    bool has_local, has_remote, has_broadcast;
};

struct addresses {
    unsigned index; /* of the device whose they are */
    struct address item[MAX_ADDRESSES];
    size_t count;
};

static void take_bytes(const struct rtattr *attribute, uint8_t *out, bool *out_has)
{
    size_t size = RTA_PAYLOAD(attribute);
    if (size <= 16) {
        memcpy(out, RTA_DATA(attribute), size);
        *out_has = true;
    }
}

/* Keeps an address if it is one that moves with its device. */
static int take_address(const struct nlmsghdr *head, void *ctx)
{
    struct addresses *out = ctx;
    const struct ifaddrmsg *message = NLMSG_DATA(head);
    if (head->nlmsg_type != RTM_NEWADDR) {
        return 0;
    }
    struct address found = {.message = *message, .flags = message->ifa_flags};
    int left = (int)IFA_PAYLOAD(head);
    for (const struct rtattr *a = IFA_RTA(message); RTA_OK(a, left); a = RTA_NEXT(a, left)) {
        switch (a->rta_type) {
        case IFA_LOCAL:
            take_bytes(a, found.local, &found.has_local);
            break;
        case IFA_ADDRESS:
            take_bytes(a, found.remote, &found.has_remote);
            break;
        case IFA_BROADCAST:
            take_bytes(a, found.broadcast, &found.has_broadcast);
            break;
        case IFA_FLAGS:
            memcpy(&found.flags, RTA_DATA(a), sizeof(found.flags));
            break;
        default:
            break;
        }
    }
    bool moves = message->ifa_index == out->index && message->ifa_scope == RT_SCOPE_UNIVERSE &&
                 (found.flags & IFA_F_PERMANENT) != 0;
    if (moves && out->count < MAX_ADDRESSES) {
        out->item[out->count++] = found;
    }
    return 0;
}

static int read_addresses(int fd, unsigned index, struct addresses *out)
{
    struct netlink_batch batch;
    const struct ifaddrmsg any = {.ifa_family = AF_UNSPEC};
    out->index = index;
    out->count = 0;
    netlink_clear(&batch);
    netlink_begin(&batch, RTM_GETADDR, NLM_F_DUMP, &any, sizeof(any));
    return netlink_call(fd, &batch, take_address, out);
}

/* 'out_index': its number there. */
static int move_device(int fd, const struct spec_net_device *device, unsigned index, int target,
                       unsigned *out_index)
{
    const char *name = device->new_name != NULL ? device->new_name : device->name;
    int rc = -EBUSY;
    for (unsigned i = 0; i < INDEX_TRIES && rc == -EBUSY; i++) {
        struct netlink_batch batch;
        const struct ifinfomsg link = {.ifi_family = AF_UNSPEC, .ifi_index = (int)index};
        uint32_t wanted = index + i;
        netlink_clear(&batch);
        netlink_begin(&batch, RTM_NEWLINK, 0, &link, sizeof(link));
        netlink_add_u32(&batch, IFLA_NET_NS_FD, (uint32_t)target);
        netlink_add_text(&batch, IFLA_IFNAME, name);
        netlink_add_u32(&batch, IFLA_NEW_IFINDEX, wanted);
        rc = netlink_call(fd, &batch, NULL, NULL);
        *out_index = wanted;
    }
    return rc;
}

static int add_address(int fd, unsigned index, const struct address *address)
{
    struct netlink_batch batch;
    struct ifaddrmsg message = address->message;
    message.ifa_index = index;
    uint32_t flags = address->flags & ~(uint32_t)(IFA_F_TENTATIVE | IFA_F_DADFAILED);
    size_t size = message.ifa_family == AF_INET6 ? 16 : 4;
    netlink_clear(&batch);
    netlink_begin(&batch, RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, &message, sizeof(message));
    if (address->has_local) {
        netlink_add(&batch, IFA_LOCAL, address->local, size);
    }
    if (address->has_remote) {
        netlink_add(&batch, IFA_ADDRESS, address->remote, size);
    }
    if (address->has_broadcast) {
        netlink_add(&batch, IFA_BROADCAST, address->broadcast, size);
    }
    netlink_add_u32(&batch, IFA_FLAGS, flags);
    int rc = netlink_call(fd, &batch, NULL, NULL);
    return rc == -EEXIST ? 0 : rc;
}

static int set_up(int fd, unsigned index)
{
    struct netlink_batch batch;
    const struct ifinfomsg link = {.ifi_family = AF_UNSPEC,
                                   .ifi_index = (int)index,
                                   .ifi_flags = IFF_UP,
                                   .ifi_change = IFF_UP};
    netlink_clear(&batch);
    netlink_begin(&batch, RTM_NEWLINK, 0, &link, sizeof(link));
    return netlink_call(fd, &batch, NULL, NULL);
}

static int move_one(int host, int inside, int target, const struct spec_net_device *device,
                    struct error *err)
{
    static struct addresses addresses;
    unsigned index = if_nametoindex(device->name), moved = 0;
    if (index == 0) {
        return error_set(err, ENODEV, "linux.netDevices.%s: the host has no such device",
                         device->name);
    }
    int rc = read_addresses(host, index, &addresses);
    rc = rc < 0 ? rc : move_device(host, device, index, target, &moved);
    for (size_t i = 0; i < addresses.count && rc == 0; i++) {
        rc = add_address(inside, moved, &addresses.item[i]);
    }
    rc = rc < 0 ? rc : set_up(inside, moved);
    return rc < 0 ? error_set_errno(err, -rc, "linux.netDevices.%s: moving it into the container",
                                    device->name)
                  : 0;
}

int net_devices_move(const struct spec_linux *linux_, pid_t container, struct error *err)
{
    char path[64];
    (void)snprintf(path, sizeof(path), "/proc/%d/ns/net", (int)container);
    AUTO_CLOSE int target = open(path, O_RDONLY | O_CLOEXEC);
    if (target < 0) {
        return error_set_errno(err, errno, "linux.netDevices: opening the container's network");
    }
    AUTO_CLOSE int host = -1;
    AUTO_CLOSE int inside = -1;
    int rc = netlink_open(&host, err);
    rc = rc < 0 ? rc : netlink_open_in(target, &inside, err);
    if (rc < 0) {
        return error_prefix(err, rc, "linux.netDevices");
    }
    for (size_t i = 0; i < linux_->net_device_count && rc == 0; i++) {
        rc = move_one(host, inside, target, &linux_->net_devices[i], err);
    }
    return rc;
}
