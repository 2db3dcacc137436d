/* What a switch has to know of an Ethernet frame, and answers in UDP. Frames are an enemy's: each length is checked.
 *
 * Threads: any. */
#ifndef NET_USER_PACKET_H
#define NET_USER_PACKET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PACKET_MIN_FRAME 14
#define PACKET_MAC_SIZE  6

enum packet_kind {
    PACKET_OTHER, /* neither of these, or broken */
    PACKET_ARP,
    PACKET_IPV4,
    PACKET_IPV6,
};

enum packet_protocol {
    PACKET_ICMP = 1,
    PACKET_TCP = 6,
    PACKET_UDP = 17,
    PACKET_ICMP6 = 58,
    PACKET_UNKNOWN = 255, /* also the later parts of a packet in fragments */
};

/* Pointers lead into the frame. */
struct packet {
    enum packet_kind kind;
    const uint8_t *to, *from; /* hardware addresses */
    const uint8_t *source,
        *target; /* of IPv4 (4 bytes), of IPv6 (16); of ARP: sender's and target's protocol address */
    const uint8_t *arp_mac;        /* sender's hardware address in ARP */
    enum packet_protocol protocol; /* of IP */
    bool is_hidden; /* IP: what it carries cannot be told, though this part of it begins it */
    unsigned source_port, target_port; /* of TCP and UDP */
    unsigned icmp6_type;
    const uint8_t *body; /* of UDP that is no fragment: what it carries; NULL else */
    size_t body_size;
};

/* 'size' at least PACKET_MIN_FRAME. */
void packet_read(const uint8_t *frame, size_t size, struct packet *out_packet);

static inline bool packet_mac_is_group(const uint8_t *mac)
{
    return (mac[0] & 1) != 0;
}

/* Writes the frame that answers 'asked', a UDP packet whose frame begins at its 'to', with the ports turned round: 'size' bytes
 * that stand in 'out_frame' at packet_answer_offset(asked) already. 'source', 'target': addresses of the same kind as those of
 * 'asked'. Returns the frame's size. */
#define PACKET_ANSWER_ROOM (14 + 40 + 8) /* at most before the body */
size_t packet_answer_offset(const struct packet *asked);
size_t packet_answer(const struct packet *asked, const uint8_t *from_mac, const uint8_t *source,
                     const uint8_t *target, uint8_t *out_frame, size_t size);

#endif
