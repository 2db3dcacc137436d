/* Does anybody have an address already? ARP probes (RFC 5227) and the neighbor solicitations of duplicate address detection
 * (RFC 4862), as packets on the bridge, so that it needs no addresses. Whoever answers is not trusted: at worst an address
 * counts as used. */
#include <arpa/inet.h>
#include <errno.h>
#include <linux/filter.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <net/if_arp.h>
#include <netinet/icmp6.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>

#include "base/core/endian.h"
#include "base/host/event_loop.h"
#include "base/host/file.h"
#include "system/network/link.h"

#define ROUNDS 2
/* So many requests go out before answers are read, which would fill the socket otherwise. */
#define REQUESTS_AT_ONCE 32
#define ARP_SIZE         28
#define IPV6_HEADER_SIZE 40
#define NEIGHBOR_SIZE    24 /* solicitation and advertisement without options */
#define MAX_PACKET       128

struct probe {
    struct link bridge;
    const struct network_address *addresses;
    size_t count;
    bool *used;
    size_t open; /* addresses that nobody has answered for */
    int arp, neighbor;
};

static void mark_used(struct probe *probe, int family, const uint8_t *bytes)
{
    for (size_t i = 0; i < probe->count; i++) {
        const struct network_address *address = &probe->addresses[i];
        if (!probe->used[i] && address->family == family &&
            memcmp(address->bytes, bytes, link_address_size(address)) == 0) {
            probe->used[i] = true;
            probe->open--;
        }
    }
}

/* The host answers for the addresses of IPv4 of all its devices on each. */
static int mark_own(const struct link_address *found, void *ctx)
{
    struct probe *probe = ctx;
    if (found->local.family == AF_INET || found->index == probe->bridge.index) {
        mark_used(probe, found->local.family, found->local.bytes);
    }
    return 0;
}

static int open_packets(const struct probe *probe, uint16_t protocol, int *out_fd,
                        struct error *err)
{
    /* Of IPv6, advertisements alone: the next header and the type behind the header. */
    static struct sock_filter advertisements[] = {
        BPF_STMT(BPF_LD | BPF_B | BPF_ABS, 6),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, IPPROTO_ICMPV6, 0, 3),
        BPF_STMT(BPF_LD | BPF_B | BPF_ABS, IPV6_HEADER_SIZE),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, ND_NEIGHBOR_ADVERT, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, MAX_PACKET),
        BPF_STMT(BPF_RET | BPF_K, 0),
    };
    const struct sock_fprog program = {.len = sizeof(advertisements) / sizeof(advertisements[0]),
                                       .filter = advertisements};
    const struct sockaddr_ll own = {.sll_family = AF_PACKET,
                                    .sll_protocol = htons(protocol),
                                    .sll_ifindex = (int)probe->bridge.index};
    /* Of no protocol until it is bound: it would hear all devices. */
    AUTO_CLOSE int fd = socket(AF_PACKET, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0 ||
        (protocol == ETH_P_IPV6 &&
         setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof(program)) < 0) ||
        bind(fd, (const struct sockaddr *)&own, sizeof(own)) < 0) {
        return error_set_errno(err, errno, "bridge %s: opening a packet socket",
                               probe->bridge.name);
    }
    *out_fd = TAKE_FD(fd);
    return 0;
}

static int send_packet(const struct probe *probe, int fd, uint16_t protocol,
                       const uint8_t to_mac[6], const uint8_t *packet, size_t size)
{
    struct sockaddr_ll to = {.sll_family = AF_PACKET,
                             .sll_protocol = htons(protocol),
                             .sll_ifindex = (int)probe->bridge.index,
                             .sll_halen = 6};
    memcpy(to.sll_addr, to_mac, 6);
    if (sendto(fd, packet, size, 0, (const struct sockaddr *)&to, sizeof(to)) >= 0) {
        return 0;
    }
    /* Lost, as on any network: each is asked twice. */
    return errno == ENOBUFS || errno == EAGAIN || errno == EINTR ? 0 : -errno;
}

static int ask_arp(const struct probe *probe, const struct network_address *address)
{
    static const uint8_t everybody[6] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
    uint8_t packet[ARP_SIZE] = {0};
    be16_put(packet, ARPHRD_ETHER);
    be16_put(packet + 2, ETH_P_IP);
    packet[4] = 6;
    packet[5] = 4;
    be16_put(packet + 6, ARPOP_REQUEST);
    memcpy(packet + 8, probe->bridge.mac, 6);
    memcpy(packet + 24, address->bytes, 4);
    return send_packet(probe, probe->arp, ETH_P_ARP, everybody, packet, sizeof(packet));
}

static uint16_t icmp6_checksum(const uint8_t *packet, size_t payload_size)
{
    uint32_t sum = (uint32_t)payload_size + IPPROTO_ICMPV6;
    /* Both addresses, and what is behind them. */
    for (size_t i = 8; i < IPV6_HEADER_SIZE + payload_size; i += 2) {
        sum += be16_get(packet + i);
    }
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    return (uint16_t)~sum;
}

/* From no address to those who share the last three bytes; answers go to all. */
static int ask_neighbor(const struct probe *probe, const struct network_address *address)
{
    static const uint8_t solicited[13] = {0xff, 0x02, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff};
    const uint8_t *last = address->bytes + 13;
    const uint8_t to_mac[6] = {0x33, 0x33, 0xff, last[0], last[1], last[2]};
    uint8_t packet[IPV6_HEADER_SIZE + NEIGHBOR_SIZE] = {0};
    uint8_t *message = packet + IPV6_HEADER_SIZE;
    packet[0] = 0x60;
    be16_put(packet + 4, NEIGHBOR_SIZE);
    packet[6] = IPPROTO_ICMPV6;
    packet[7] = 255;
    memcpy(packet + 24, solicited, sizeof(solicited));
    memcpy(packet + 24 + sizeof(solicited), last, 3);
    message[0] = ND_NEIGHBOR_SOLICIT;
    memcpy(message + 8, address->bytes, 16);
    be16_put(message + 2, icmp6_checksum(packet, NEIGHBOR_SIZE));
    return send_packet(probe, probe->neighbor, ETH_P_IPV6, to_mac, packet, sizeof(packet));
}

static void take_arp(struct probe *probe, const uint8_t *packet, size_t size)
{
    /* Requests tell too whose the sender's address is; probes of others have none. */
    if (size >= ARP_SIZE && be16_get(packet) == ARPHRD_ETHER && be16_get(packet + 2) == ETH_P_IP &&
        packet[4] == 6 && packet[5] == 4) {
        mark_used(probe, AF_INET, packet + 14);
    }
}

static void take_neighbor(struct probe *probe, const uint8_t *packet, size_t size)
{
    const uint8_t *message = packet + IPV6_HEADER_SIZE;
    /* With a hop limit of 255 it comes from this very network. */
    if (size >= IPV6_HEADER_SIZE + NEIGHBOR_SIZE && packet[6] == IPPROTO_ICMPV6 &&
        packet[7] == 255 && message[0] == ND_NEIGHBOR_ADVERT) {
        mark_used(probe, AF_INET6, message + 8);
    }
}

/* Takes what has arrived, for as long as it is time. */
static void take_answers(struct probe *probe, int fd, int64_t deadline_ms)
{
    while (fd >= 0 && probe->open > 0) {
        uint8_t packet[MAX_PACKET];
        struct sockaddr_ll from = {0};
        socklen_t from_size = sizeof(from);
        ssize_t size =
            recvfrom(fd, packet, sizeof(packet), 0, (struct sockaddr *)&from, &from_size);
        if (size < 0) {
            return; /* nothing more; a device that went down answers no more */
        }
        if (from.sll_pkttype == PACKET_OUTGOING) {
            continue;
        }
        if (fd == probe->arp) {
            take_arp(probe, packet, (size_t)size);
        } else {
            take_neighbor(probe, packet, (size_t)size);
        }
        if (clock_monotonic_ms() >= deadline_ms) {
            return;
        }
    }
}

static int ask_all(struct probe *probe, int64_t deadline_ms)
{
    for (size_t i = 0, sent = 0; i < probe->count; i++) {
        if (probe->used[i]) {
            continue;
        }
        const struct network_address *address = &probe->addresses[i];
        int rc =
            address->family == AF_INET ? ask_arp(probe, address) : ask_neighbor(probe, address);
        if (rc < 0) {
            return rc;
        }
        if (++sent % REQUESTS_AT_ONCE == 0) {
            take_answers(probe, probe->arp, deadline_ms);
            take_answers(probe, probe->neighbor, deadline_ms);
        }
    }
    return 0;
}

static int wait_answers(struct probe *probe, int64_t deadline_ms)
{
    int64_t left;
    do {
        struct pollfd wait[2] = {{.fd = probe->arp, .events = POLLIN},
                                 {.fd = probe->neighbor, .events = POLLIN}};
        left = deadline_ms - clock_monotonic_ms();
        int rc = poll(wait, 2, left > 0 ? (int)left : 0);
        if (rc < 0 && errno != EINTR) {
            return -errno;
        }
        if (rc > 0 && ((wait[0].revents | wait[1].revents) & (POLLERR | POLLNVAL)) != 0) {
            return -ENETDOWN;
        }
        take_answers(probe, probe->arp, deadline_ms);
        take_answers(probe, probe->neighbor, deadline_ms);
    } while (probe->open > 0 && left > 0);
    return 0;
}

static int ask(struct probe *probe, unsigned timeout_ms, struct error *err)
{
    AUTO_CLOSE int arp = -1;
    AUTO_CLOSE int neighbor = -1;
    int rc = 0;
    for (size_t i = 0; i < probe->count && rc == 0; i++) {
        if (probe->addresses[i].family == AF_INET && arp < 0) {
            rc = open_packets(probe, ETH_P_ARP, &arp, err);
        } else if (probe->addresses[i].family == AF_INET6 && neighbor < 0) {
            rc = open_packets(probe, ETH_P_IPV6, &neighbor, err);
        }
    }
    if (rc < 0) {
        return rc;
    }
    probe->arp = arp;
    probe->neighbor = neighbor;
    int64_t start_ms = clock_monotonic_ms();
    for (unsigned i = 1; i <= ROUNDS && rc == 0 && probe->open > 0; i++) {
        int64_t deadline_ms = start_ms + (int64_t)timeout_ms * i / ROUNDS;
        rc = ask_all(probe, deadline_ms);
        rc = rc < 0 ? rc : wait_answers(probe, deadline_ms);
    }
    if (rc == -ENETDOWN || rc == -ENXIO) {
        return 0; /* the bridge went down meanwhile: nobody is there */
    }
    return rc < 0 ? error_set_errno(err, -rc, "bridge %s: asking for addresses", probe->bridge.name)
                  : 0;
}

static int has_port(const struct link *link, void *ctx)
{
    (void)link;
    (void)ctx;
    return 1;
}

static int find_bridge(struct probe *probe, const char *name, bool *out_has_ports,
                       struct error *err)
{
    AUTO_CLOSE int fd = -1;
    int rc = netlink_open(&fd, err);
    rc = rc < 0 ? rc : link_find_bridge(fd, name, &probe->bridge, err);
    if (rc < 0) {
        return rc;
    }
    rc = link_each_address(fd, mark_own, probe);
    rc = rc < 0 ? rc : link_each(fd, "", probe->bridge.index, has_port, NULL);
    *out_has_ports = rc == 1;
    return rc < 0 ? error_set_errno(err, -rc, "bridge %s: reading its addresses and ports", name)
                  : 0;
}

int network_probe(const char *bridge, const struct network_address *addresses, size_t count,
                  unsigned timeout_ms, bool *out_used, struct error *err)
{
    struct probe probe = {.addresses = addresses,
                          .count = count,
                          .used = out_used,
                          .open = count,
                          .arp = -1,
                          .neighbor = -1};
    for (size_t i = 0; i < count; i++) {
        if (addresses[i].family != AF_INET && addresses[i].family != AF_INET6) {
            return error_set(err, EINVAL, "bridge %s: address %zu to ask for is of no family",
                             bridge, i);
        }
        out_used[i] = false;
    }
    bool has_ports = false;
    int rc = find_bridge(&probe, bridge, &has_ports, err);
    /* Whether it has a carrier does not count: a port that has just come gives it one a moment later. */
    bool is_up = (probe.bridge.flags & IFF_UP) != 0;
    if (rc == 0 && has_ports && is_up && probe.open > 0) {
        rc = ask(&probe, timeout_ms, err);
    }
    return rc < 0 ? rc : probe.open < count;
}
