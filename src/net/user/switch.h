/* An Ethernet switch: ports with an address each, and an uplink (the IP stack) that is their gateway. It passes frames on, drops
 * those with others' addresses, and answers DHCP and DNS for its ports. It touches no descriptor: frames go out by functions.
 *
 * Threads: one. */
#ifndef NET_USER_SWITCH_H
#define NET_USER_SWITCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "net/user/mac_table.h"
#include "net/user/packet.h"

#define SWITCH_MAX_PORTS 200
#define SWITCH_NAME_SIZE 64

struct switch_network {
    uint8_t gateway[4], name_server[4], mask[4];
    uint8_t prefix6[8]; /* /64 */
    uint8_t gateway6[16], name_server6[16];
};

struct switch_counters {
    uint64_t received_frames, received_bytes; /* from the port's owner */
    uint64_t sent_frames, sent_bytes;         /* to it */
    uint64_t refused_frames;                  /* with others' addresses, or broken */
    uint64_t lost_frames;                     /* it did not take them in time */
};

/* False: the frame is lost. */
typedef bool (*switch_send_fn)(void *ctx, const uint8_t *frame, size_t size);

struct switch_port {
    char name[SWITCH_NAME_SIZE]; /* in small letters; "": none */
    uint8_t mac[6];
    uint8_t ipv4[4];
    uint8_t ipv6[16];  /* what it has, or would make of its mac */
    bool is_ipv6_used; /* it was seen with it, or it is said to have it */
    bool may_spoof;
    switch_send_fn send;
    void *send_ctx;
    struct switch_counters counters;
    unsigned number; /* in ether_switch.port */
};

struct ether_switch {
    struct switch_network network;
    void (*to_uplink)(void *ctx, const uint8_t *frame, size_t size);
    void *uplink_ctx;
    uint64_t now_s;                             /* its owner says what time it is */
    struct switch_port *port[SWITCH_MAX_PORTS]; /* NULL: none; its owners' */
    unsigned port_count;
    struct mac_table macs; /* of ports that may have others' addresses */
};

/* False: it has SWITCH_MAX_PORTS. The port is borrowed until switch_remove. */
bool switch_add(struct ether_switch *sw, struct switch_port *port);
void switch_remove(struct ether_switch *sw, struct switch_port *port);
/* The port with that address; NULL: none. */
struct switch_port *switch_find_mac(const struct ether_switch *sw, const uint8_t mac[6]);
struct switch_port *switch_find_ipv4(const struct ether_switch *sw, const uint8_t ipv4[4]);
/* "fec0::5054:ff:fe12:3456": as kernels make it of the prefix. */
void switch_ipv6_of_mac(const struct switch_network *network, const uint8_t mac[6],
                        uint8_t out_ipv6[16]);
/* Is the address the stack's? Ports may not have it. */
bool switch_is_uplink_mac(const uint8_t mac[6]);

/* A frame that came from a port. */
void switch_input(struct ether_switch *sw, struct switch_port *from, const uint8_t *frame,
                  size_t size);
/* A frame that came from the uplink. */
void switch_from_uplink(struct ether_switch *sw, const uint8_t *frame, size_t size);

#endif
