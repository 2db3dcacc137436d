/* Network namespaces for the tests. */
#include "support.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/rtnetlink.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "container/network/netlink.h"
#include "system/network/link.h"

#define PORT 7007

static int own = -1;

int support_own(void)
{
    return own;
}

static int open_current(void)
{
    return open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
}

bool support_enter(void)
{
    struct error err;
    if (unshare(CLONE_NEWNET) < 0 && unshare(CLONE_NEWUSER | CLONE_NEWNET) < 0) {
        printf("skipped: no network namespace of its own: %s\n", strerror(errno));
        return false;
    }
    own = open_current();
    if (own < 0 || network_bridge_make("probe", NULL, NULL, &err) < 0) {
        printf("skipped: no bridge in a network namespace: %s\n",
               own < 0 ? strerror(errno) : err.text);
        return false;
    }
    struct network_card card = {.name = "eth0", .host_name = "probe0"};
    if (network_attach_card(&card, own, &err) < 0) {
        printf("skipped: no pair of devices in a network namespace: %s\n", err.text);
        return false;
    }
    return support_clean(NULL) == 0;
}

int support_namespace(void)
{
    assert_int_equal(unshare(CLONE_NEWNET), 0);
    int fd = open_current();
    assert_int_equal(setns(own, CLONE_NEWNET), 0);
    assert_true(fd >= 0);
    return fd;
}

int support_socket(int namespace_fd, int domain, int type, int protocol)
{
    assert_int_equal(setns(namespace_fd, CLONE_NEWNET), 0);
    int fd = socket(domain, type | SOCK_CLOEXEC, protocol);
    assert_int_equal(setns(own, CLONE_NEWNET), 0);
    assert_true(fd >= 0);
    return fd;
}

bool support_ask(int namespace_fd, const char *name, unsigned long command, struct ifreq *out)
{
    int fd = support_socket(namespace_fd, AF_INET, SOCK_DGRAM, 0);
    memset(out, 0, sizeof(*out));
    assert_true(strlen(name) < sizeof(out->ifr_name));
    memcpy(out->ifr_name, name, strlen(name));
    int rc = ioctl(fd, command, out);
    close(fd);
    return rc == 0;
}

bool support_exists(int namespace_fd, const char *name)
{
    struct ifreq answer;
    return support_ask(namespace_fd, name, SIOCGIFINDEX, &answer);
}

struct network_address support_address(const char *text)
{
    struct error err;
    struct network_address address = {0};
    assert_int_equal(network_parse(text, 0, false, &address, &err), 0);
    return address;
}

struct network_card support_card(const char *host_name, const char *bridge, const char *first,
                                 const char *second)
{
    struct network_card card = {.name = "eth0", .host_name = host_name, .bridge = bridge};
    if (first != NULL) {
        card.addresses[card.address_count++] = support_address(first);
    }
    if (second != NULL) {
        card.addresses[card.address_count++] = support_address(second);
    }
    return card;
}

void support_attach(const struct network_card *card, int namespace_fd)
{
    struct error err = {0};
    int rc = network_attach_card(card, namespace_fd, &err);
    assert_string_equal(err.text, "");
    assert_int_equal(rc, 0);
}

static socklen_t socket_address(const char *text, struct sockaddr_storage *out)
{
    struct sockaddr_in *v4 = (void *)out;
    struct sockaddr_in6 *v6 = (void *)out;
    memset(out, 0, sizeof(*out));
    if (inet_pton(AF_INET, text, &v4->sin_addr) == 1) {
        v4->sin_family = AF_INET;
        v4->sin_port = htons(PORT);
        return sizeof(*v4);
    }
    assert_int_equal(inet_pton(AF_INET6, text, &v6->sin6_addr), 1);
    v6->sin6_family = AF_INET6;
    v6->sin6_port = htons(PORT);
    return sizeof(*v6);
}

static int take_type(const struct nlmsghdr *head, void *ctx)
{
    const struct rtmsg *message = NLMSG_DATA(head);
    if (head->nlmsg_type == RTM_NEWROUTE) {
        *(uint8_t *)ctx = message->rtm_type;
    }
    return 0;
}

/* A worker of the kernel makes IPv6's route to an own address, a moment after the address is there. */
static void wait_for_local_route(int namespace_fd, const char *address)
{
    const struct network_address to = support_address(address);
    const struct rtmsg message = {.rtm_family = (uint8_t)to.family,
                                  .rtm_dst_len = (uint8_t)to.prefix};
    uint8_t type = RTN_UNSPEC;
    int fd = -1;
    assert_int_equal(netlink_open_in(namespace_fd, &fd, NULL), 0);
    for (unsigned i = 0; i < 10000 && type != RTN_LOCAL; i++) {
        struct netlink_batch batch;
        netlink_clear(&batch);
        netlink_begin(&batch, RTM_GETROUTE, 0, &message, sizeof(message));
        netlink_add(&batch, RTA_DST, to.bytes, link_address_size(&to));
        assert_int_equal(netlink_call(fd, &batch, take_type, &type), 0);
        usleep(type != RTN_LOCAL ? 1000 : 0);
    }
    assert_int_equal(type, RTN_LOCAL);
    close(fd);
}

bool support_connects(int from, int to, const char *address)
{
    const struct timeval limit = {.tv_sec = 10};
    const int on = 1;
    struct sockaddr_storage where;
    socklen_t size = socket_address(address, &where);
    int server = support_socket(to, where.ss_family, SOCK_STREAM, 0);
    int client = support_socket(from, where.ss_family, SOCK_STREAM, 0);
    assert_int_equal(setsockopt(server, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)), 0);
    assert_int_equal(setsockopt(client, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit)), 0);
    /* An address whose duplicate detection goes on cannot be bound. */
    assert_int_equal(bind(server, (const struct sockaddr *)&where, size), 0);
    assert_int_equal(listen(server, 1), 0);
    wait_for_local_route(to, address);
    int rc = connect(client, (const struct sockaddr *)&where, size);
    close(client);
    close(server);
    return rc == 0;
}

void support_route(const char *network, const char *device)
{
    struct netlink_batch batch;
    struct network_address to = support_address(network);
    int fd = -1;
    assert_int_equal(netlink_open(&fd, NULL), 0);
    const struct rtmsg message = {.rtm_family = (uint8_t)to.family,
                                  .rtm_dst_len = (uint8_t)to.prefix,
                                  .rtm_table = RT_TABLE_MAIN,
                                  .rtm_protocol = RTPROT_STATIC,
                                  .rtm_scope = RT_SCOPE_LINK,
                                  .rtm_type = RTN_UNICAST};
    netlink_clear(&batch);
    netlink_begin(&batch, RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, &message, sizeof(message));
    netlink_add(&batch, RTA_DST, to.bytes, link_address_size(&to));
    netlink_add_u32(&batch, RTA_OIF, (uint32_t)netlink_index(fd, device));
    assert_int_equal(netlink_call(fd, &batch, NULL, NULL), 0);
    close(fd);
}

static int take_last(const struct link *link, void *ctx)
{
    struct link *out = ctx;
    if (strcmp(link->name, "lo") != 0) {
        *out = *link;
    }
    return 0;
}

int support_clean(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 1000; i++) {
        struct link last = {0};
        int fd = -1;
        if (netlink_open(&fd, NULL) < 0 || link_each(fd, "", 0, take_last, &last) < 0) {
            return -1;
        }
        int rc = last.index == 0 ? 1 : link_delete(fd, last.index);
        close(fd);
        if (rc != 0) {
            return rc == 1 ? 0 : -1;
        }
    }
    return -1;
}
