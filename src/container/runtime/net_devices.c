/* Moving network devices by rtnetlink(7). */
#include "container/runtime/net_devices.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/if_addr.h>
#include <linux/if_link.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/core/compiler.h"
#include "base/host/file.h"

#define MAX_MESSAGE   4096
#define MAX_ADDRESSES 64
/* Numbers of devices are a namespace's own: the next ones are tried where one is taken. */
#define INDEX_TRIES 64

struct request {
    struct nlmsghdr head;
    uint8_t body[MAX_MESSAGE];
};

struct address {
    struct ifaddrmsg message;
    uint8_t local[16], remote[16], broadcast[16];
    uint32_t flags;
    bool has_local, has_remote, has_broadcast;
};

struct addresses {
    struct address item[MAX_ADDRESSES];
    size_t count;
};

static void begin(struct request *request, uint16_t type, uint16_t flags, const void *body,
                  size_t size)
{
    memset(request, 0, sizeof(*request));
    request->head = (struct nlmsghdr){.nlmsg_len = (uint32_t)NLMSG_LENGTH(size),
                                      .nlmsg_type = type,
                                      .nlmsg_flags = (uint16_t)(NLM_F_REQUEST | flags)};
    memcpy(request->body, body, size);
}

static void add_attribute(struct request *request, uint16_t type, const void *data, size_t size)
{
    struct rtattr *attribute = (void *)((uint8_t *)request + NLMSG_ALIGN(request->head.nlmsg_len));
    attribute->rta_type = type;
    attribute->rta_len = (uint16_t)RTA_LENGTH(size);
    memcpy(RTA_DATA(attribute), data, size);
    request->head.nlmsg_len =
        (uint32_t)(NLMSG_ALIGN(request->head.nlmsg_len) + RTA_ALIGN(attribute->rta_len));
}

static int open_socket(void)
{
    int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
    const struct sockaddr_nl own = {.nl_family = AF_NETLINK};
    if (fd >= 0 && bind(fd, (const struct sockaddr *)&own, sizeof(own)) < 0) {
        close(fd);
        return -1;
    }
    return fd;
}

/* Sends and waits for the answer: 0 or -errno. */
static int call(int fd, struct request *request)
{
    request->head.nlmsg_flags |= NLM_F_ACK;
    if (send(fd, request, request->head.nlmsg_len, 0) < 0) {
        return -errno;
    }
    _Alignas(struct nlmsghdr) uint8_t answer[MAX_MESSAGE];
    ssize_t size = recv(fd, answer, sizeof(answer), 0);
    const struct nlmsghdr *head = (const void *)answer;
    if (size < (ssize_t)NLMSG_LENGTH(sizeof(struct nlmsgerr)) || head->nlmsg_type != NLMSG_ERROR) {
        return size < 0 ? -errno : -EPROTO;
    }
    return ((const struct nlmsgerr *)NLMSG_DATA(head))->error;
}

static void take_bytes(const struct rtattr *attribute, uint8_t *out, bool *out_has)
{
    size_t size = RTA_PAYLOAD(attribute);
    if (size <= 16) {
        memcpy(out, RTA_DATA(attribute), size);
        *out_has = true;
    }
}

/* Keeps an address if it is one that moves with its device. */
static void take_address(const struct nlmsghdr *head, unsigned index, struct addresses *out)
{
    const struct ifaddrmsg *message = NLMSG_DATA(head);
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
    bool moves = message->ifa_index == index && message->ifa_scope == RT_SCOPE_UNIVERSE &&
                 (found.flags & IFA_F_PERMANENT) != 0;
    if (moves && out->count < MAX_ADDRESSES) {
        out->item[out->count++] = found;
    }
}

static int read_addresses(int fd, unsigned index, struct addresses *out)
{
    struct request request;
    const struct ifaddrmsg any = {.ifa_family = AF_UNSPEC};
    begin(&request, RTM_GETADDR, NLM_F_DUMP, &any, sizeof(any));
    if (send(fd, &request, request.head.nlmsg_len, 0) < 0) {
        return -errno;
    }
    for (;;) {
        _Alignas(struct nlmsghdr) uint8_t answer[16384];
        ssize_t size = recv(fd, answer, sizeof(answer), 0);
        if (size <= 0) {
            return size < 0 ? -errno : -EPROTO;
        }
        for (const struct nlmsghdr *head = (const void *)answer; NLMSG_OK(head, size);
             head = NLMSG_NEXT(head, size)) {
            if (head->nlmsg_type == NLMSG_DONE) {
                return 0;
            }
            if (head->nlmsg_type == NLMSG_ERROR) {
                return ((const struct nlmsgerr *)NLMSG_DATA(head))->error;
            }
            if (head->nlmsg_type == RTM_NEWADDR) {
                take_address(head, index, out);
            }
        }
    }
}

/* 'out_index': its number there. */
static int move_device(int fd, const struct spec_net_device *device, unsigned index, int target,
                       unsigned *out_index)
{
    const char *name = device->new_name != NULL ? device->new_name : device->name;
    int rc = -EBUSY;
    for (unsigned i = 0; i < INDEX_TRIES && rc == -EBUSY; i++) {
        struct request request;
        const struct ifinfomsg link = {.ifi_family = AF_UNSPEC, .ifi_index = (int)index};
        uint32_t wanted = index + i;
        begin(&request, RTM_NEWLINK, 0, &link, sizeof(link));
        add_attribute(&request, IFLA_NET_NS_FD, &target, sizeof(target));
        add_attribute(&request, IFLA_IFNAME, name, strlen(name) + 1);
        add_attribute(&request, IFLA_NEW_IFINDEX, &wanted, sizeof(wanted));
        rc = call(fd, &request);
        *out_index = wanted;
    }
    return rc;
}

static int add_address(int fd, unsigned index, const struct address *address)
{
    struct request request;
    struct ifaddrmsg message = address->message;
    message.ifa_index = index;
    uint32_t flags = address->flags & ~(uint32_t)(IFA_F_TENTATIVE | IFA_F_DADFAILED);
    size_t size = message.ifa_family == AF_INET6 ? 16 : 4;
    begin(&request, RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, &message, sizeof(message));
    if (address->has_local) {
        add_attribute(&request, IFA_LOCAL, address->local, size);
    }
    if (address->has_remote) {
        add_attribute(&request, IFA_ADDRESS, address->remote, size);
    }
    if (address->has_broadcast) {
        add_attribute(&request, IFA_BROADCAST, address->broadcast, size);
    }
    add_attribute(&request, IFA_FLAGS, &flags, sizeof(flags));
    int rc = call(fd, &request);
    return rc == -EEXIST ? 0 : rc;
}

static int set_up(int fd, unsigned index)
{
    struct request request;
    const struct ifinfomsg link = {.ifi_family = AF_UNSPEC,
                                   .ifi_index = (int)index,
                                   .ifi_flags = IFF_UP,
                                   .ifi_change = IFF_UP};
    begin(&request, RTM_NEWLINK, 0, &link, sizeof(link));
    return call(fd, &request);
}

static int move_one(int host, int inside, int target, const struct spec_net_device *device,
                    struct error *err)
{
    static struct addresses addresses;
    addresses.count = 0;
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

/* A netlink socket is its namespace's for ever: the runtime is in the container's for as long as it takes to open one. */
static int open_inside(int target, int *out_socket, struct error *err)
{
    AUTO_CLOSE int own = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
    if (own < 0 || setns(target, CLONE_NEWNET) < 0) {
        return error_set_errno(err, errno, "linux.netDevices: entering the container's network");
    }
    *out_socket = open_socket();
    int code = errno;
    if (setns(own, CLONE_NEWNET) < 0) {
        return error_set_errno(err, errno, "linux.netDevices: leaving the container's network");
    }
    return *out_socket < 0 ? error_set_errno(err, code, "linux.netDevices: opening netlink") : 0;
}

int net_devices_move(const struct spec_linux *linux_, pid_t container, struct error *err)
{
    char path[64];
    (void)snprintf(path, sizeof(path), "/proc/%d/ns/net", (int)container);
    AUTO_CLOSE int target = open(path, O_RDONLY | O_CLOEXEC);
    AUTO_CLOSE int host = open_socket();
    if (target < 0 || host < 0) {
        return error_set_errno(err, errno,
                               "linux.netDevices: opening netlink and the container's network");
    }
    AUTO_CLOSE int inside = -1;
    int rc = open_inside(target, &inside, err);
    for (size_t i = 0; i < linux_->net_device_count && rc == 0; i++) {
        rc = move_one(host, inside, target, &linux_->net_devices[i], err);
    }
    return rc;
}
