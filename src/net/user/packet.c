#include "net/user/packet.h"

#include <string.h>

#include "base/core/endian.h"

#define TYPE_IPV4       0x0800
#define TYPE_ARP        0x0806
#define TYPE_IPV6       0x86dd
#define ETHERNET_SIZE   14
#define ARP_SIZE        28
#define IPV4_SIZE       20
#define IPV6_SIZE       40
#define UDP_SIZE        8
#define TCP_SIZE        20
#define MAX_EXTENSIONS  8 /* headers between IPv6's and what it carries */
#define FRAGMENT_OFFSET 0x1fff
#define FRAGMENT_MORE   0x2000
#define ANSWER_HOPS     64

/* Ethernet and IPv4 alone. */
static void read_arp(const uint8_t *at, size_t size, struct packet *packet)
{
    static const uint8_t start[] = {0, 1, 8, 0, 6, 4};
    if (size < ARP_SIZE || memcmp(at, start, sizeof(start)) != 0) {
        return;
    }
    packet->kind = PACKET_ARP;
    packet->arp_mac = at + 8;
    packet->source = at + 14;
    packet->target = at + 24;
}

/* What an IP packet that is whole, or its first part, carries. */
static void read_transport(unsigned protocol, const uint8_t *at, size_t size, bool is_part,
                           struct packet *packet)
{
    switch (protocol) {
    case PACKET_UDP:
    case PACKET_TCP:
        if (size < (protocol == PACKET_UDP ? UDP_SIZE : TCP_SIZE)) {
            packet->is_hidden = true;
            return;
        }
        packet->source_port = be16_get(at);
        packet->target_port = be16_get(at + 2);
        if (protocol == PACKET_UDP && !is_part) {
            size_t length = be16_get(at + 4);
            if (length < UDP_SIZE || length > size) {
                packet->is_hidden = true;
                return;
            }
            packet->body = at + UDP_SIZE;
            packet->body_size = length - UDP_SIZE;
        }
        break;
    case PACKET_ICMP6:
        if (size < 1) {
            packet->is_hidden = true;
            return;
        }
        packet->icmp6_type = at[0];
        break;
    case PACKET_ICMP:
        break;
    default:
        return;
    }
    packet->protocol = (enum packet_protocol)protocol;
}

static void read_ipv4(const uint8_t *at, size_t size, struct packet *packet)
{
    size_t header = size < IPV4_SIZE ? 0 : (size_t)(at[0] & 0xf) * 4;
    if (header < IPV4_SIZE || header > size || at[0] >> 4 != 4) {
        return;
    }
    size_t length = be16_get(at + 2);
    unsigned fragment = be16_get(at + 6);
    if (length < header || length > size) {
        return;
    }
    packet->kind = PACKET_IPV4;
    packet->source = at + 12;
    packet->target = at + 16;
    if ((fragment & FRAGMENT_OFFSET) == 0) {
        read_transport(at[9], at + header, length - header, (fragment & FRAGMENT_MORE) != 0,
                       packet);
    }
}

/* Walks over headers between IPv6's and what it carries; 'is_hidden' where that is not reached. */
static void read_ipv6_payload(unsigned next, const uint8_t *at, size_t size, struct packet *packet)
{
    bool is_part = false;
    for (unsigned i = 0; i < MAX_EXTENSIONS; i++) {
        size_t header;
        switch (next) {
        case 0:   /* hop by hop */
        case 43:  /* routing */
        case 60:  /* destination */
        case 135: /* mobility */
            header = size < 8 ? 0 : (size_t)(at[1] + 1) * 8;
            break;
        case 44: /* fragment */
            header = 8;
            if (size >= header) {
                if ((be16_get(at + 2) & 0xfff8) != 0) {
                    return; /* a later part: the first one says what it is */
                }
                is_part = is_part || (be16_get(at + 2) & 1) != 0;
            }
            break;
        case 51: /* authentication */
            header = size < 8 ? 0 : (size_t)(at[1] + 2) * 4;
            break;
        default:
            read_transport(next, at, size, is_part, packet);
            return;
        }
        if (header == 0 || header > size) {
            break;
        }
        next = at[0];
        at += header;
        size -= header;
    }
    packet->is_hidden = true;
}

static void read_ipv6(const uint8_t *at, size_t size, struct packet *packet)
{
    if (size < IPV6_SIZE || at[0] >> 4 != 6) {
        return;
    }
    size_t length = be16_get(at + 4);
    if (length > size - IPV6_SIZE) {
        return;
    }
    packet->kind = PACKET_IPV6;
    packet->source = at + 8;
    packet->target = at + 24;
    read_ipv6_payload(at[6], at + IPV6_SIZE, length, packet);
}

void packet_read(const uint8_t *frame, size_t size, struct packet *out_packet)
{
    *out_packet = (struct packet){
        .kind = PACKET_OTHER, .to = frame, .from = frame + 6, .protocol = PACKET_UNKNOWN};
    const uint8_t *at = frame + ETHERNET_SIZE;
    switch (be16_get(frame + 12)) {
    case TYPE_ARP:
        read_arp(at, size - ETHERNET_SIZE, out_packet);
        break;
    case TYPE_IPV4:
        read_ipv4(at, size - ETHERNET_SIZE, out_packet);
        break;
    case TYPE_IPV6:
        read_ipv6(at, size - ETHERNET_SIZE, out_packet);
        break;
    default:
        break;
    }
}

/* RFC 1071, before it is turned round. */
static uint32_t sum(uint32_t so_far, const uint8_t *data, size_t size)
{
    for (; size > 1; data += 2, size -= 2) {
        so_far += be16_get(data);
    }
    return size == 1 ? so_far + (uint32_t)(data[0] << 8) : so_far;
}

static uint16_t checksum(uint32_t of)
{
    of = (of & 0xffff) + (of >> 16);
    of = (of & 0xffff) + (of >> 16);
    return (uint16_t)~of;
}

size_t packet_answer_offset(const struct packet *asked)
{
    return ETHERNET_SIZE + (asked->kind == PACKET_IPV6 ? IPV6_SIZE : IPV4_SIZE) + UDP_SIZE;
}

size_t packet_answer(const struct packet *asked, const uint8_t *from_mac, const uint8_t *source,
                     const uint8_t *target, uint8_t *out_frame, size_t size)
{
    bool is_v6 = asked->kind == PACKET_IPV6;
    size_t address_size = is_v6 ? 16 : 4;
    size_t offset = packet_answer_offset(asked);
    uint8_t *ip = out_frame + ETHERNET_SIZE, *udp = out_frame + offset - UDP_SIZE;
    memcpy(out_frame, asked->from, 6);
    memcpy(out_frame + 6, from_mac, 6);
    be16_put(out_frame + 12, is_v6 ? TYPE_IPV6 : TYPE_IPV4);
    memset(ip, 0, is_v6 ? IPV6_SIZE : IPV4_SIZE);
    if (is_v6) {
        ip[0] = 0x60;
        be16_put(ip + 4, (uint16_t)(UDP_SIZE + size));
        ip[6] = PACKET_UDP;
        ip[7] = ANSWER_HOPS;
    } else {
        ip[0] = 0x45;
        be16_put(ip + 2, (uint16_t)(IPV4_SIZE + UDP_SIZE + size));
        ip[8] = ANSWER_HOPS;
        ip[9] = PACKET_UDP;
    }
    uint8_t *addresses = ip + (is_v6 ? 8 : 12);
    memcpy(addresses, source, address_size);
    memcpy(addresses + address_size, target, address_size);
    if (!is_v6) {
        be16_put(ip + 10, checksum(sum(0, ip, IPV4_SIZE)));
    }
    be16_put(udp, (uint16_t)asked->target_port);
    be16_put(udp + 2, (uint16_t)asked->source_port);
    be16_put(udp + 4, (uint16_t)(UDP_SIZE + size));
    be16_put(udp + 6, 0);
    uint32_t so_far = sum(PACKET_UDP + (uint32_t)(UDP_SIZE + size), addresses, address_size * 2);
    uint16_t check = checksum(sum(so_far, udp, UDP_SIZE + size));
    be16_put(udp + 6, check != 0 ? check : 0xffff);
    return offset + size;
}
