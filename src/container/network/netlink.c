/* rtnetlink(7) by hand. */
#include "container/network/netlink.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <sched.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "base/core/compiler.h"
#include "base/core/invariant.h"
#include "base/host/file.h"

/* The kernel fills no larger piece of a dump for a socket that asks with this. */
#define ANSWER_SIZE 32768

/* 'size' bytes at the end of the batch, aligned; NULL: no room. */
static uint8_t *take_room(struct netlink_batch *batch, size_t size)
{
    size_t aligned = NLMSG_ALIGN(size);
    if (batch->is_full || aligned < size || aligned > sizeof(batch->data) - batch->size) {
        batch->is_full = true;
        return NULL;
    }
    uint8_t *room = batch->data + batch->size;
    memset(room, 0, aligned);
    batch->size += aligned;
    ((struct nlmsghdr *)(void *)(batch->data + batch->last))->nlmsg_len =
        (uint32_t)(batch->size - batch->last);
    return room;
}

void netlink_clear(struct netlink_batch *batch)
{
    batch->size = batch->last = 0;
    batch->count = batch->failed = 0;
    batch->is_full = false;
}

void netlink_begin(struct netlink_batch *batch, uint16_t type, uint16_t flags, const void *body,
                   size_t size)
{
    batch->last = batch->size;
    uint8_t *room = take_room(batch, NLMSG_LENGTH(size));
    if (room == NULL) {
        return;
    }
    const struct nlmsghdr head = {
        .nlmsg_len = (uint32_t)(batch->size - batch->last),
        .nlmsg_type = type,
        .nlmsg_flags = (uint16_t)(NLM_F_REQUEST | NLM_F_ACK | flags),
        .nlmsg_seq = batch->count,
    };
    batch->count++;
    memcpy(room, &head, sizeof(head));
    memcpy(room + NLMSG_HDRLEN, body, size);
}

void netlink_add(struct netlink_batch *batch, uint16_t type, const void *data, size_t size)
{
    uint8_t *room = size <= NETLINK_BATCH_SIZE ? take_room(batch, RTA_LENGTH(size)) : NULL;
    if (room == NULL) {
        batch->is_full = true;
        return;
    }
    const struct rtattr head = {.rta_len = (uint16_t)RTA_LENGTH(size), .rta_type = type};
    memcpy(room, &head, sizeof(head));
    if (size > 0) {
        memcpy(room + RTA_LENGTH(0), data, size);
    }
}

void netlink_add_u32(struct netlink_batch *batch, uint16_t type, uint32_t value)
{
    netlink_add(batch, type, &value, sizeof(value));
}

void netlink_add_text(struct netlink_batch *batch, uint16_t type, const char *text)
{
    netlink_add(batch, type, text, strlen(text) + 1);
}

size_t netlink_nest(struct netlink_batch *batch, uint16_t type, const void *header, size_t size)
{
    size_t nest = batch->size;
    netlink_add(batch, type, header, size);
    return nest;
}

void netlink_unnest(struct netlink_batch *batch, size_t nest)
{
    if (!batch->is_full) {
        ((struct rtattr *)(void *)(batch->data + nest))->rta_len = (uint16_t)(batch->size - nest);
    }
}

int netlink_open(int *out_fd, struct error *err)
{
    AUTO_CLOSE int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
    const struct sockaddr_nl own = {.nl_family = AF_NETLINK};
    if (fd < 0 || bind(fd, (const struct sockaddr *)&own, sizeof(own)) < 0) {
        return error_set_errno(err, errno, "opening a netlink socket");
    }
    *out_fd = TAKE_FD(fd);
    return 0;
}

int netlink_open_in(int namespace_fd, int *out_fd, struct error *err)
{
    AUTO_CLOSE int own = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
    if (own < 0) {
        return error_set_errno(err, errno, "opening the own network namespace");
    }
    if (setns(namespace_fd, CLONE_NEWNET) < 0) {
        return error_set_errno(err, errno, "entering the container's network namespace");
    }
    int rc = netlink_open(out_fd, err);
    bool is_back = setns(own, CLONE_NEWNET) == 0;
    invariant(is_back);
    return rc;
}

/* Takes a message of an answer. The result is that of 'fn'. */
static int take_message(struct netlink_batch *batch, const struct nlmsghdr *head, netlink_fn fn,
                        void *ctx, int *first_error, uint32_t *answers)
{
    int code = 0;
    if (head->nlmsg_seq >= batch->count || head->nlmsg_type == NLMSG_NOOP) {
        return 0;
    }
    if (head->nlmsg_type != NLMSG_ERROR && head->nlmsg_type != NLMSG_DONE) {
        return fn != NULL ? fn(head, ctx) : 0;
    }
    /* Both begin with the result; the end of a dump may be without it. */
    if (head->nlmsg_len >= NLMSG_LENGTH(sizeof(code))) {
        memcpy(&code, NLMSG_DATA(head), sizeof(code));
    }
    if (code < 0 && *first_error == 0) {
        *first_error = code;
        batch->failed = head->nlmsg_seq;
    }
    (*answers)++;
    return 0;
}

int netlink_call(int fd, struct netlink_batch *batch, netlink_fn fn, void *ctx)
{
    ssize_t size = batch->is_full ? -1 : send(fd, batch->data, batch->size, 0);
    if (size < 0) {
        return batch->is_full ? -EMSGSIZE : -errno;
    }
    int first_error = 0;
    uint32_t answers = 0;
    while (answers < batch->count) {
        _Alignas(struct nlmsghdr) uint8_t answer[ANSWER_SIZE];
        size = recv(fd, answer, sizeof(answer), MSG_TRUNC);
        if (size < 0 && errno == EINTR) {
            continue;
        }
        if (size <= 0 || size > (ssize_t)sizeof(answer)) {
            return size < 0 ? -errno : -EPROTO;
        }
        for (const struct nlmsghdr *head = (const void *)answer; NLMSG_OK(head, size);
             head = NLMSG_NEXT(head, size)) {
            int rc = take_message(batch, head, fn, ctx, &first_error, &answers);
            if (rc != 0) {
                return rc;
            }
        }
    }
    return first_error;
}

int netlink_index(int fd, const char *name)
{
    struct ifreq request = {0};
    if (strlen(name) >= sizeof(request.ifr_name)) {
        return -ENODEV;
    }
    memcpy(request.ifr_name, name, strlen(name));
    return ioctl(fd, SIOCGIFINDEX, &request) < 0 ? -errno : request.ifr_ifindex;
}
